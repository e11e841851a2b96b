//! The answer to a poll, written straight from records into the frames that go to the socket.
//!
//! In v2 a frame is a `ReceiveMessageResponse`: first the status, then one message each, last the delivery timestamp; or a
//! `PullMessageResponse`, which has the same fields but for the last, the offset to go on from. In v1 all of it is one frame.
//! Small bodies are copied behind each other into one buffer; large ones stay where they are and become chunks of their own.

use crate::proto::v2::{self, Code, DigestType, Encoding, MessageType, Status};
use bytes::{BufMut, Bytes, BytesMut};
use martlet_broker::{DeliveredMessage, FoundMessage};
use martlet_model::record::{self, Field, RecordError, put_varint};
use martlet_model::{QueueOffset, UnixMillis};
use prost::Message;
use sha1::{Digest, Sha1};

/// Bodies from this size on are not copied.
const SHARED_BODY_BYTES_MIN: usize = 16 * 1024;

/// Wire types of protobuf.
const VARINT: u32 = 0;
const LENGTH: u32 = 2;

/// Where a package of the protocol puts what it says of messages: numbers of fields. The others, both have alike.
#[derive(Debug)]
pub(crate) struct Dialect {
    /// Of the answer.
    pub(crate) messages: u32,
    /// Of the system properties, like all below.
    pub(crate) handle: u32,
    pub(crate) queue: u32,
    pub(crate) offset: u32,
    pub(crate) attempt: u32,
    pub(crate) message_group: u32,
    pub(crate) trace_context: u32,
    /// Whether there are fields for what only newer clients know: where a dead letter comes from, lite topics, priorities.
    pub(crate) newer: bool,
    /// Its enumerations begin with "unspecified", where the other's begin with their first value.
    pub(crate) unspecified: bool,
    /// Each message is a frame of its own.
    pub(crate) streams: bool,
    /// Its clients read compressed bodies in one wrapping only, zlib.
    pub(crate) zlib_only: bool,
}

/// `apache.rocketmq.v2`.
const V2: Dialect = Dialect {
    messages: 2,
    handle: 12,
    queue: 13,
    offset: 14,
    attempt: 16,
    message_group: 17,
    trace_context: 18,
    newer: true,
    unspecified: true,
    streams: true,
    zlib_only: false,
};

/// Frames of one answer.
#[derive(Debug)]
pub(crate) struct Frames {
    dialect: &'static Dialect,
    chunks: Vec<Bytes>,
    open: BytesMut,
    /// Name of the topic that is written: its fields in the dialect's `Resource`. Empty: each message's own.
    topic: Vec<u8>,
    /// System properties of the message that is being written; kept to use its memory again.
    system: Vec<u8>,
    user: Vec<u8>,
}

impl Frames {
    /// With room for `capacity` bytes before the first growth.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self::of(&V2, Vec::new(), capacity)
    }

    /// The same for messages of this topic of an instance, which is named as it was asked for.
    pub(crate) fn of_topic(topic: Option<&v2::Resource>, capacity: usize) -> Self {
        Self::of(&V2, topic.map(Message::encode_to_vec).unwrap_or_default(), capacity)
    }

    /// The same in another dialect. `topic`: what stands for the topic of all messages, encoded; empty: the name of each.
    pub(crate) fn of(dialect: &'static Dialect, topic: Vec<u8>, capacity: usize) -> Self {
        let (chunks, open) = (Vec::new(), BytesMut::with_capacity(capacity));
        Self { dialect, chunks, open, topic, system: Vec::new(), user: Vec::new() }
    }

    /// The first frame.
    pub(crate) fn status(&mut self, code: Code, message: &str) {
        let status = Status { code: code as i32, message: message.into() };
        self.frame(1, status.encoded_len(), |open| {
            // A buffer that grows takes everything.
            let _ = status.encode(open);
        });
    }

    /// The last frame.
    pub(crate) fn delivery_timestamp(&mut self, now: UnixMillis) {
        let timestamp = crate::time::timestamp(now);
        self.frame(3, timestamp.encoded_len(), |open| {
            let _ = timestamp.encode(open);
        });
    }

    /// The last frame of a pull: where to go on.
    pub(crate) fn next_offset(&mut self, next: QueueOffset) {
        let length = varint_len(usize::try_from(next.0).unwrap_or(usize::MAX));
        self.open.reserve(16);
        self.open.put_u8(0);
        self.open.put_u32((1 + length) as u32);
        self.open.put_u8((3 << 3 | VARINT) as u8);
        put_varint_into(&mut self.open, usize::try_from(next.0).unwrap_or(usize::MAX));
    }

    /// One message; handle and attempt only if it was handed out. Nothing is written if its record cannot be read.
    pub(crate) fn message(&mut self, message: &DeliveredMessage, store_host: &str) -> Result<(), RecordError> {
        let (body_start, compressed) = self.properties(message, store_host)?;
        let mut body = message.record.slice(body_start..);
        if compressed
            && self.dialect.zlib_only
            && let Some(zlib) = martlet_net::gzip::as_zlib(&body)
        {
            body = zlib.into();
        }
        self.digest(&body);

        let name = message.topic.as_bytes();
        let topic_len = match self.topic.len() {
            0 => 1 + varint_len(name.len()) + name.len(),
            length => length,
        };
        let before_body = 1
            + varint_len(topic_len)
            + topic_len
            + self.user.len()
            + 1
            + varint_len(self.system.len())
            + self.system.len()
            + 1
            + varint_len(body.len());
        let length = before_body + body.len();
        // The field of the response, then the message's own fields 1, 2, 3 and 4.
        let mut head = [0u8; 16];
        let head = {
            let mut rest = &mut head[..];
            rest.put_u8((self.dialect.messages << 3 | LENGTH) as u8);
            put_varint_into(&mut rest, length);
            let left = rest.len();
            &head[..16 - left]
        };
        self.open
            .reserve(5 + head.len() + before_body + if body.len() < SHARED_BODY_BYTES_MIN { body.len() } else { 0 });
        if self.dialect.streams {
            self.open.put_u8(0);
            self.open.put_u32((head.len() + length) as u32);
        }
        self.open.put_slice(head);
        self.open.put_u8(1 << 3 | LENGTH as u8);
        put_varint_into(&mut self.open, topic_len);
        if self.topic.is_empty() {
            self.open.put_u8(2 << 3 | LENGTH as u8);
            put_varint_into(&mut self.open, name.len());
            self.open.put_slice(name);
        } else {
            self.open.put_slice(&self.topic);
        }
        self.open.put_slice(&self.user);
        self.open.put_u8(3 << 3 | LENGTH as u8);
        put_varint_into(&mut self.open, self.system.len());
        self.open.put_slice(&self.system);
        self.open.put_u8(4 << 3 | LENGTH as u8);
        put_varint_into(&mut self.open, body.len());
        if body.len() < SHARED_BODY_BYTES_MIN {
            self.open.put_slice(&body);
        } else {
            self.chunks.push(self.open.split().freeze());
            self.chunks.push(body);
        }
        Ok(())
    }

    /// The same, with a line in the log where nothing is written. Whether something is.
    pub(crate) fn message_or_say(&mut self, message: &DeliveredMessage, store_host: &str) -> bool {
        let written = self.message(message, store_host);
        if let Err(error) = &written {
            let (topic, queue, offset) = (&message.topic, message.queue, message.offset);
            tracing::error!(%topic, queue, %offset, %error, "a record cannot be read, it is not delivered");
        }
        written.is_ok()
    }

    /// All chunks, in order.
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.chunks.push(self.open.freeze());
        }
        self.chunks
    }

    /// All chunks as one frame, with the fields of the answer besides messages at its end.
    pub(crate) fn finish_as_one(mut self, rest: &impl Message) -> Vec<Bytes> {
        // A buffer that grows takes everything.
        let _ = rest.encode(&mut self.open);
        let mut chunks = self.finish();
        let length = chunks.iter().map(Bytes::len).sum::<usize>() as u32;
        let [a, b, c, d] = length.to_be_bytes();
        chunks.insert(0, Bytes::copy_from_slice(&[0, a, b, c, d]));
        chunks
    }

    fn frame(&mut self, field: u32, length: usize, write: impl FnOnce(&mut BytesMut)) {
        self.open.reserve(16 + length);
        self.open.put_u8(0);
        self.open.put_u32((1 + varint_len(length) + length) as u32);
        self.open.put_u8((field << 3 | LENGTH) as u8);
        put_varint_into(&mut self.open, length);
        write(&mut self.open);
    }

    /// Fills `system` and `user` with the encoded properties; answers where the body starts, and whether it is compressed.
    fn properties(&mut self, message: &DeliveredMessage, store_host: &str) -> Result<(usize, bool), RecordError> {
        let (system, user, dialect) = (&mut self.system, &mut self.user, self.dialect);
        system.clear();
        user.clear();
        let (mut encoding, mut kind) = (Encoding::Identity, MessageType::Normal);
        let (mut dead_topic, mut dead_id) = (None, None);
        let (mut born, mut born_host) = (None, None);
        let mut fields = record::fields(&message.record);
        for field in fields.by_ref() {
            match field? {
                Field::MessageId(id) => text(system, 3, id),
                Field::Tag(tag) => text(system, 1, tag),
                Field::Key(key) => text(system, 2, key),
                Field::Property(key, value) => {
                    key_of(user, 2, LENGTH);
                    let lengths = 2 + varint_len(key.len()) + varint_len(value.len());
                    put_varint(user, (lengths + key.len() + value.len()) as u64);
                    text(user, 1, key);
                    text(user, 2, value);
                }
                Field::BornTimestamp(millis) => born = Some(UnixMillis(millis)),
                Field::BornHost(host) => born_host = Some(host),
                Field::MessageGroup(group) => text(system, dialect.message_group, group),
                Field::DeliveryTimestamp(millis) => time(system, 11, UnixMillis(millis)),
                Field::TraceContext(context) => text(system, dialect.trace_context, context),
                Field::Compressed => encoding = Encoding::Gzip,
                Field::MessageType(found) => kind = wire_type(found),
                // A dead letter of a dead letter carries two origins; the first one written last is in front.
                Field::DeadLetterTopic(topic) => dead_topic = dead_topic.or(Some(topic)),
                Field::DeadLetterMessageId(id) => dead_id = dead_id.or(Some(id)),
                Field::LiteTopic(lite) if dialect.newer => text(system, 21, lite),
                Field::Priority(priority) if dialect.newer => number(system, 22, i64::from(priority) as u64),
                Field::LiteTopic(_) | Field::Priority(_) => {}
                // Has no place in this protocol.
                Field::Queue(_) | Field::Flag(_) | Field::SysFlag(_) | Field::SystemProperty(..) => {}
                // Only of references, which are read for what they name.
                Field::RetryOf(_) => {}
            }
        }
        number(system, 5, dialect.value(encoding as u64));
        number(system, 6, dialect.value(kind as u64));
        // Some clients fail without it; the store time is the nearest that is known.
        time(system, 7, born.unwrap_or(message.store_time));
        text(system, 8, born_host.unwrap_or(""));
        time(system, 9, message.store_time);
        text(system, 10, store_host);
        if !message.handle.is_empty() {
            text(system, dialect.handle, &message.handle);
        }
        if !message.handle.is_empty() || !dialect.newer {
            number(system, dialect.attempt, u64::from(message.attempt.max(1)));
        }
        number(system, dialect.queue, u64::from(message.queue));
        number(system, dialect.offset, message.offset.0);
        if dialect.newer && (dead_topic.is_some() || dead_id.is_some()) {
            let (topic, id) = (dead_topic.unwrap_or(""), dead_id.unwrap_or(""));
            key_of(system, 20, LENGTH);
            put_varint(system, (2 + varint_len(topic.len()) + varint_len(id.len()) + topic.len() + id.len()) as u64);
            text(system, 1, topic);
            text(system, 2, id);
        }
        Ok((fields.body_start(), encoding == Encoding::Gzip))
    }

    /// Appends `body_digest`: SHA-1, upper-case hex. Clients compare the text as it is. All of them take MD5 and SHA-1;
    /// processors compute SHA-1 in a third of the time.
    fn digest(&mut self, body: &[u8]) {
        const HEX: &[u8; 16] = b"0123456789ABCDEF";
        let sum = Sha1::digest(body);
        let system = &mut self.system;
        key_of(system, 4, LENGTH);
        put_varint(system, 2 + 2 + 40);
        number(system, 1, self.dialect.value(DigestType::Sha1 as u64));
        key_of(system, 2, LENGTH);
        put_varint(system, 40);
        for byte in sum {
            system.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
}

impl Dialect {
    /// The number of a value that is not "unspecified", from its number in v2.
    fn value(&self, number: u64) -> u64 {
        if self.unspecified { number } else { number.saturating_sub(1) }
    }
}

/// A message that somebody looks at without having been handed it.
pub(crate) fn not_handed_out(message: &FoundMessage) -> DeliveredMessage {
    DeliveredMessage {
        topic: message.topic.clone(),
        queue: message.queue,
        offset: message.offset,
        store_time: message.store_time,
        attempt: 0,
        handle: String::new(),
        invisible_millis: 0,
        record: message.record.clone(),
    }
}

/// The wire's number for a message type.
pub(crate) fn wire_type(kind: martlet_model::MessageType) -> MessageType {
    use martlet_model::MessageType as Kind;
    match kind {
        Kind::Normal => MessageType::Normal,
        Kind::Fifo => MessageType::Fifo,
        Kind::Delay => MessageType::Delay,
        Kind::Transaction => MessageType::Transaction,
        Kind::Lite => MessageType::Lite,
        Kind::Priority => MessageType::Priority,
    }
}

fn key_of(bytes: &mut Vec<u8>, field: u32, wire: u32) {
    put_varint(bytes, u64::from(field << 3 | wire));
}

fn text(bytes: &mut Vec<u8>, field: u32, text: &str) {
    key_of(bytes, field, LENGTH);
    put_varint(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn number(bytes: &mut Vec<u8>, field: u32, number: u64) {
    key_of(bytes, field, VARINT);
    put_varint(bytes, number);
}

fn time(bytes: &mut Vec<u8>, field: u32, time: UnixMillis) {
    let timestamp = crate::time::timestamp(time);
    key_of(bytes, field, LENGTH);
    put_varint(bytes, timestamp.encoded_len() as u64);
    // A buffer that grows takes everything.
    let _ = timestamp.encode(bytes);
}

fn varint_len(number: usize) -> usize {
    (usize::BITS as usize - (number | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_varint_into(bytes: &mut impl BufMut, mut number: usize) {
    while number >= 0x80 {
        bytes.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.put_u8(number as u8);
}

#[cfg(test)]
#[path = "message_out_tests.rs"]
mod tests;
