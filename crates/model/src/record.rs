//! One message as the log keeps it and every protocol reads it.
//!
//! | bytes | meaning |
//! | --- | --- |
//! | 1 | format, 1 |
//! | … | fields: kind (1 byte, 1–255), length (varint), content |
//! | 1 | 0: end of fields |
//! | rest | body, as the client sent it |
//!
//! Varints are LEB128. Fields of unknown kind are skipped, so that an older broker can read what a newer one wrote.
//! Store time, queue and offset are not in the record: the log knows them.

use crate::ids::{QueueId, QueueOffset, TopicId};
use crate::topic::MessageType;
use bytes::Bytes;

const FORMAT: u8 = 1;
const END: u8 = 0;

/// One fact about a message besides its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// The client's message id (kind 1).
    MessageId(&'a str),
    /// Tag (2).
    Tag(&'a str),
    /// One key (3); repeated.
    Key(&'a str),
    /// One user property: length of the key (varint), key, value (4); repeated.
    Property(&'a str, &'a str),
    /// When the client made the message, milliseconds since the Unix epoch (5).
    BornTimestamp(i64),
    /// Where, as text (6).
    BornHost(&'a str),
    /// Message group (7).
    MessageGroup(&'a str),
    /// Not to be delivered before, milliseconds since the Unix epoch (8).
    DeliveryTimestamp(i64),
    /// Trace context, opaque (9).
    TraceContext(&'a str),
    /// The body is compressed (10, no content).
    Compressed,
    /// Type, absent for normal (11).
    MessageType(MessageType),
    /// Topic this dead letter comes from (12).
    DeadLetterTopic(&'a str),
    /// Id of the message this dead letter was (13).
    DeadLetterMessageId(&'a str),
    /// Lite topic (14).
    LiteTopic(&'a str),
    /// Priority (15).
    Priority(i32),
    /// Number of the queue that its sender chose (16). Counts only as the very first field, so that a copy for another topic,
    /// which has more in front, is not bound to it: [`chosen_queue`].
    Queue(u32),
    /// The number that remoting clients may give a message for their own use, absent for 0 (17).
    Flag(i32),
    /// System flags of the remoting protocol that tell how the body is to be read: compression, batches within (18).
    SysFlag(i32),
    /// One system property of the remoting protocol that no other field says: as [`Field::Property`] (19); repeated.
    SystemProperty(&'a str, &'a str),
    /// The record is a reference to a message that is to be delivered again (20): topic, queue, offset, attempts as varints.
    RetryOf(RetryOf),
}

/// A message that is to be delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryOf {
    /// Its topic.
    pub topic: TopicId,
    /// Its queue.
    pub queue: QueueId,
    /// Its place there.
    pub offset: QueueOffset,
    /// How often it was delivered.
    pub attempts: u32,
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Written by a newer broker, or not a record.
    #[error("message record has format {found}, this broker reads format {FORMAT}")]
    Format {
        /// The first byte.
        found: u8,
    },
    /// Ends or contradicts itself at this byte.
    #[error("message record is malformed at byte {at}")]
    Malformed {
        /// Position in the record.
        at: usize,
    },
}

/// Writes a record, field by field, the body last.
#[derive(Debug)]
pub struct RecordWriter {
    bytes: Vec<u8>,
}

impl RecordWriter {
    /// An empty record with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity + 2);
        bytes.push(FORMAT);
        Self { bytes }
    }

    /// Adds a fact.
    pub fn field(&mut self, field: Field<'_>) -> &mut Self {
        match field {
            Field::MessageId(text) => self.text(1, text),
            Field::Tag(text) => self.text(2, text),
            Field::Key(text) => self.text(3, text),
            Field::Property(key, value) => self.pair(PROPERTY_KIND, key, value),
            Field::BornTimestamp(millis) => self.number(5, millis),
            Field::BornHost(text) => self.text(6, text),
            Field::MessageGroup(text) => self.text(7, text),
            Field::DeliveryTimestamp(millis) => self.number(8, millis),
            Field::TraceContext(text) => self.text(9, text),
            Field::Compressed => self.head(10, 0),
            Field::MessageType(kind) => {
                self.head(11, 1);
                self.bytes.push(kind as u8);
            }
            Field::DeadLetterTopic(text) => self.text(12, text),
            Field::DeadLetterMessageId(text) => self.text(13, text),
            Field::LiteTopic(text) => self.text(14, text),
            Field::Priority(priority) => self.number(15, i64::from(priority)),
            Field::Queue(queue) => self.number(QUEUE_KIND, i64::from(queue)),
            Field::Flag(flag) => self.number(17, i64::from(flag)),
            Field::SysFlag(flags) => self.number(18, i64::from(flags)),
            Field::SystemProperty(key, value) => self.pair(19, key, value),
            Field::RetryOf(RetryOf { topic, queue, offset, attempts }) => {
                let numbers = [u64::from(topic.0), queue.0, offset.0, u64::from(attempts)];
                self.head(RETRY_OF_KIND, numbers.iter().map(|&number| varint_len_u64(number)).sum());
                numbers.iter().for_each(|&number| put_varint(&mut self.bytes, number));
            }
        }
        self
    }

    /// Ends the record with its body.
    pub fn finish(mut self, body: &[u8]) -> Bytes {
        self.bytes.reserve_exact(body.len() + 1);
        self.bytes.push(END);
        self.bytes.extend_from_slice(body);
        Bytes::from(self.bytes)
    }

    fn head(&mut self, kind: u8, len: usize) {
        self.bytes.push(kind);
        put_varint(&mut self.bytes, len as u64);
    }

    fn text(&mut self, kind: u8, text: &str) {
        self.head(kind, text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }

    fn pair(&mut self, kind: u8, key: &str, value: &str) {
        self.head(kind, varint_len(key.len()) + key.len() + value.len());
        put_varint(&mut self.bytes, key.len() as u64);
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(value.as_bytes());
    }

    fn number(&mut self, kind: u8, number: i64) {
        let zigzag = ((number << 1) ^ (number >> 63)) as u64;
        self.head(kind, varint_len_u64(zigzag));
        put_varint(&mut self.bytes, zigzag);
    }
}

/// The fields of a record, in the order they were written. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    done: bool,
}

/// Starts reading a record.
pub fn fields(record: &[u8]) -> Fields<'_> {
    Fields { bytes: record, at: 0, done: false }
}

/// The fields of a record as their kinds and contents, not looked into; ends at the first that cannot be read. For those
/// who want few of many, fast.
pub fn contents(record: &[u8]) -> Contents<'_> {
    match record.split_first() {
        Some((&FORMAT, rest)) => Contents { rest },
        _ => Contents { rest: &[] },
    }
}

/// See [`contents`].
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Contents<'a> {
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, rest) = self.rest.split_first()?;
        if kind == END {
            return None;
        }
        let (length, rest) = match rest.split_first()? {
            // Nearly all are short.
            (&length, rest) if length < 0x80 => (usize::from(length), rest),
            _ => {
                let mut at = 0;
                let length = usize::try_from(take_varint(rest, &mut at)?).ok()?;
                (length, rest.get(at..)?)
            }
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.rest = rest;
        Some((kind, content))
    }
}

/// What a field's content says; `None` if it is malformed or of a kind this broker does not know.
pub fn field(kind: u8, content: &[u8]) -> Option<Field<'_>> {
    decode(kind, content).flatten()
}

/// Kind of [`Field::Property`].
pub const PROPERTY_KIND: u8 = 4;

/// Kind of [`Field::Tag`].
pub const TAG_KIND: u8 = 2;
/// Kind of [`Field::Queue`].
pub const QUEUE_KIND: u8 = 16;
/// Kind of [`Field::MessageGroup`].
pub const MESSAGE_GROUP_KIND: u8 = 7;
/// Kind of [`Field::RetryOf`].
const RETRY_OF_KIND: u8 = 20;

/// The queue that the sender of this record chose for it, if it did.
#[inline]
pub fn chosen_queue(record: &[u8]) -> Option<u32> {
    let (_, content) = contents(record).next().filter(|(kind, _)| *kind == QUEUE_KIND)?;
    match field(QUEUE_KIND, content)? {
        Field::Queue(queue) => Some(queue),
        _ => None,
    }
}

/// The message that a record refers to, if it is a reference: found without looking into its other fields.
#[inline]
pub fn retry_of(record: &[u8]) -> Option<RetryOf> {
    let (_, content) = contents(record).find(|(kind, _)| *kind == RETRY_OF_KIND)?;
    match field(RETRY_OF_KIND, content)? {
        Field::RetryOf(reference) => Some(reference),
        _ => None,
    }
}

/// The content of the first field of a kind that is a text: like [`find`], without looking into the fields before it.
pub fn text_of(record: &[u8], kind: u8) -> Option<&str> {
    let (_, content) = contents(record).find(|field| field.0 == kind)?;
    std::str::from_utf8(content).ok()
}

/// Key and value of a property's content.
#[inline]
pub fn property(content: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match content.split_first()? {
        (&length, rest) if length < 0x80 => (usize::from(length), rest),
        _ => {
            let mut at = 0;
            let length = usize::try_from(take_varint(content, &mut at)?).ok()?;
            (length, content.get(at..)?)
        }
    };
    rest.split_at_checked(length)
}

/// The body of a record, sharing its memory.
pub fn body(record: &Bytes) -> Result<Bytes, RecordError> {
    let mut fields = fields(record);
    for field in fields.by_ref() {
        field?;
    }
    Ok(record.slice(fields.at..))
}

/// First field of a kind, found by `pick`; `None` too for a record that cannot be read.
pub fn find<'a, T>(record: &'a [u8], pick: impl Fn(Field<'a>) -> Option<T>) -> Option<T> {
    fields(record).map_while(Result::ok).find_map(pick)
}

/// A copy of a record with more fields in front of its own.
pub fn with_fields(record: &[u8], more: &[Field<'_>]) -> Result<Bytes, RecordError> {
    match record.first() {
        Some(&FORMAT) => {}
        found => return Err(RecordError::Format { found: found.copied().unwrap_or(0) }),
    }
    let mut writer = RecordWriter::with_capacity(record.len() + 64);
    for field in more {
        writer.field(*field);
    }
    writer.bytes.extend_from_slice(&record[1..]);
    Ok(Bytes::from(writer.bytes))
}

impl<'a> Fields<'a> {
    /// Where the body starts, once the iterator has ended without an error.
    pub fn body_start(&self) -> usize {
        self.at
    }

    fn read(&mut self) -> Result<Option<Field<'a>>, RecordError> {
        if self.at == 0 {
            match self.bytes.first() {
                Some(&FORMAT) => self.at = 1,
                found => return Err(RecordError::Format { found: found.copied().unwrap_or(0) }),
            }
        }
        loop {
            let malformed = RecordError::Malformed { at: self.at };
            let kind = *self.bytes.get(self.at).ok_or(malformed.clone())?;
            self.at += 1;
            if kind == END {
                return Ok(None);
            }
            let len = take_varint(self.bytes, &mut self.at).ok_or(malformed.clone())?;
            let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len)).ok_or(malformed.clone())?;
            let content = self.bytes.get(self.at..end).ok_or(malformed.clone())?;
            self.at = end;
            if let Some(field) = decode(kind, content).ok_or(malformed)? {
                return Ok(Some(field));
            }
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = self.read().transpose();
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}

/// `None`: malformed. `Some(None)`: a kind this broker does not know.
fn decode(kind: u8, content: &[u8]) -> Option<Option<Field<'_>>> {
    let text = || std::str::from_utf8(content).ok();
    let number = || {
        let mut at = 0;
        let zigzag = take_varint(content, &mut at)?;
        (at == content.len()).then_some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    };
    let pair = || {
        let mut at = 0;
        let len = usize::try_from(take_varint(content, &mut at)?).ok()?;
        std::str::from_utf8(content.get(at..)?).ok()?.split_at_checked(len)
    };
    Some(Some(match kind {
        1 => Field::MessageId(text()?),
        2 => Field::Tag(text()?),
        3 => Field::Key(text()?),
        4 => {
            let (key, value) = pair()?;
            Field::Property(key, value)
        }
        5 => Field::BornTimestamp(number()?),
        6 => Field::BornHost(text()?),
        7 => Field::MessageGroup(text()?),
        8 => Field::DeliveryTimestamp(number()?),
        9 => Field::TraceContext(text()?),
        10 => Field::Compressed,
        11 => Field::MessageType(match content {
            [1] => MessageType::Normal,
            [2] => MessageType::Fifo,
            [3] => MessageType::Delay,
            [4] => MessageType::Transaction,
            [5] => MessageType::Lite,
            [6] => MessageType::Priority,
            _ => return None,
        }),
        12 => Field::DeadLetterTopic(text()?),
        13 => Field::DeadLetterMessageId(text()?),
        14 => Field::LiteTopic(text()?),
        15 => Field::Priority(i32::try_from(number()?).ok()?),
        16 => Field::Queue(u32::try_from(number()?).ok()?),
        17 => Field::Flag(i32::try_from(number()?).ok()?),
        18 => Field::SysFlag(i32::try_from(number()?).ok()?),
        19 => {
            let (key, value) = pair()?;
            Field::SystemProperty(key, value)
        }
        RETRY_OF_KIND => {
            let mut at = 0;
            let mut next = || take_varint(content, &mut at);
            let (topic, queue, offset, attempts) = (next()?, next()?, next()?, next()?);
            Field::RetryOf(RetryOf {
                topic: TopicId(u32::try_from(topic).ok()?),
                queue: QueueId(queue),
                offset: QueueOffset(offset),
                attempts: u32::try_from(attempts).ok()?,
            })
        }
        _ => return Some(None),
    }))
}

/// Appends a LEB128 number.
pub fn put_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Reads a LEB128 number of at most 64 bits at `at` and moves `at` past it.
pub fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn varint_len(number: usize) -> usize {
    varint_len_u64(number as u64)
}

fn varint_len_u64(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
