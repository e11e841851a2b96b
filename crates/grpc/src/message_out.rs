//! The answer to a poll, written straight from records into the frames that go to the socket.
//!
//! A frame is a `ReceiveMessageResponse`: first the status, then one message each, last the delivery timestamp; or a
//! `PullMessageResponse`, which has the same fields but for the last, the offset to go on from. Small
//! bodies are copied behind each other into one buffer; large ones stay where they are and become chunks of their own.

use crate::proto::v2::{Code, DigestType, Encoding, MessageType, Status};
use bytes::{BufMut, Bytes, BytesMut};
use martlet_broker::DeliveredMessage;
use martlet_model::record::{self, Field, RecordError, put_varint};
use martlet_model::{QueueOffset, UnixMillis};
use prost::Message;
use sha1::{Digest, Sha1};

/// Bodies from this size on are not copied.
const SHARED_BODY_BYTES_MIN: usize = 16 * 1024;

/// Wire types of protobuf.
const VARINT: u32 = 0;
const LENGTH: u32 = 2;

/// Frames of one answer.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    chunks: Vec<Bytes>,
    open: BytesMut,
    /// System properties of the message that is being written; kept to use its memory again.
    system: Vec<u8>,
    user: Vec<u8>,
}

impl Frames {
    /// With room for `capacity` bytes before the first growth.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { open: BytesMut::with_capacity(capacity), ..Self::default() }
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
        let body_start = self.properties(message, store_host)?;
        let body = message.record.slice(body_start..);
        digest(&mut self.system, &body);

        let topic = message.topic.as_bytes();
        let topic_len = 1 + varint_len(topic.len()) + topic.len();
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
        // Field 2 of the response, then the message's own fields 1, 2, 3 and 4.
        let mut head = [0u8; 16];
        let head = {
            let mut rest = &mut head[..];
            rest.put_u8(2 << 3 | LENGTH as u8);
            put_varint_into(&mut rest, length);
            let left = rest.len();
            &head[..16 - left]
        };
        self.open
            .reserve(5 + head.len() + before_body + if body.len() < SHARED_BODY_BYTES_MIN { body.len() } else { 0 });
        self.open.put_u8(0);
        self.open.put_u32((head.len() + length) as u32);
        self.open.put_slice(head);
        self.open.put_u8(1 << 3 | LENGTH as u8);
        put_varint_into(&mut self.open, topic_len);
        self.open.put_u8(2 << 3 | LENGTH as u8);
        put_varint_into(&mut self.open, topic.len());
        self.open.put_slice(topic);
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

    /// All chunks, in order.
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.chunks.push(self.open.freeze());
        }
        self.chunks
    }

    fn frame(&mut self, field: u32, length: usize, write: impl FnOnce(&mut BytesMut)) {
        self.open.reserve(16 + length);
        self.open.put_u8(0);
        self.open.put_u32((1 + varint_len(length) + length) as u32);
        self.open.put_u8((field << 3 | LENGTH) as u8);
        put_varint_into(&mut self.open, length);
        write(&mut self.open);
    }

    /// Fills `system` and `user` with the encoded properties; answers where the body starts.
    fn properties(&mut self, message: &DeliveredMessage, store_host: &str) -> Result<usize, RecordError> {
        let (system, user) = (&mut self.system, &mut self.user);
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
                Field::MessageGroup(group) => text(system, 17, group),
                Field::DeliveryTimestamp(millis) => time(system, 11, UnixMillis(millis)),
                Field::TraceContext(context) => text(system, 18, context),
                Field::Compressed => encoding = Encoding::Gzip,
                Field::MessageType(found) => kind = wire_type(found),
                // A dead letter of a dead letter carries two origins; the first one written last is in front.
                Field::DeadLetterTopic(topic) => dead_topic = dead_topic.or(Some(topic)),
                Field::DeadLetterMessageId(id) => dead_id = dead_id.or(Some(id)),
                Field::LiteTopic(lite) => text(system, 21, lite),
                Field::Priority(priority) => number(system, 22, i64::from(priority) as u64),
                // Has no place in this protocol.
                Field::Queue(_) | Field::Flag(_) | Field::SysFlag(_) | Field::SystemProperty(..) => {}
                // Only of references, which are read for what they name.
                Field::RetryOf(_) => {}
            }
        }
        number(system, 5, encoding as u64);
        number(system, 6, kind as u64);
        // Some clients fail without it; the store time is the nearest that is known.
        time(system, 7, born.unwrap_or(message.store_time));
        text(system, 8, born_host.unwrap_or(""));
        time(system, 9, message.store_time);
        text(system, 10, store_host);
        if !message.handle.is_empty() {
            text(system, 12, &message.handle);
            number(system, 16, u64::from(message.attempt.max(1)));
        }
        number(system, 13, u64::from(message.queue));
        number(system, 14, message.offset.0);
        if dead_topic.is_some() || dead_id.is_some() {
            let (topic, id) = (dead_topic.unwrap_or(""), dead_id.unwrap_or(""));
            key_of(system, 20, LENGTH);
            put_varint(system, (2 + varint_len(topic.len()) + varint_len(id.len()) + topic.len() + id.len()) as u64);
            text(system, 1, topic);
            text(system, 2, id);
        }
        Ok(fields.body_start())
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

/// Appends `body_digest`: SHA-1, upper-case hex. Clients compare the text as it is. All of them take MD5 and SHA-1;
/// processors compute SHA-1 in a third of the time.
fn digest(system: &mut Vec<u8>, body: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let sum = Sha1::digest(body);
    key_of(system, 4, LENGTH);
    put_varint(system, 2 + 2 + 40);
    number(system, 1, DigestType::Sha1 as u64);
    key_of(system, 2, LENGTH);
    put_varint(system, 40);
    for byte in sum {
        system.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
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
