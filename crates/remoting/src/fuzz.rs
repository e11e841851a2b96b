//! Every decoder of this crate behind a function that takes bytes: for fuzzers, and for tests with seeded bytes.
//!
//! Each function must return, whatever the bytes are; some assert what must hold of anything that was accepted.

use crate::codec::header::{Format, Header};
use crate::codec::json::Json;
use crate::codec::properties::{self, PROPERTY_STRING_BYTES_MAX};
use crate::codec::{frame, ids, message};
use crate::message_in::{self, Request};
use crate::message_out::{self, Facts};
use crate::pop_handle::PopHandle;
use bytes::{Bytes, BytesMut};
use martlet_model::record::{self, Field};
use martlet_model::{TopicType, UnixMillis};
use martlet_net::fuzz::Target;

/// All decoders, by name.
pub const TARGETS: [(&str, Target); 8] = [
    ("frame", frame),
    ("header", header),
    ("json", json),
    ("batch", batch),
    ("messages", messages),
    ("properties", properties),
    ("handles", handles),
    ("record", record),
];

/// A request with its length: what is read is written as it was, but for the order of fields.
pub fn frame(bytes: &[u8]) {
    let Ok(Some(length)) = frame::length(bytes) else { return };
    let Some(whole) = bytes.get(..length) else { return };
    let Ok(read) = frame::decode(&Bytes::copy_from_slice(whole)) else { return };
    let again = [&frame::head(&read.header, read.body.len())[..], &read.body[..]].concat();
    assert!(frame::decode(&Bytes::from(again)).is_ok_and(|again| again.body == read.body));
}

/// Headers of both formats.
pub fn header(bytes: &[u8]) {
    for format in [Format::Json, Format::Binary] {
        if let Ok(read) = Header::decode(bytes, format) {
            assert!(Header::decode(&read.encode(), format).is_ok_and(|again| again == read));
        }
    }
}

/// Bodies in both dialects: what is read can be written and read again.
pub fn json(bytes: &[u8]) {
    let Ok(read) = Json::parse(bytes, "body") else { return };
    assert!(Json::parse(read.to_string().as_bytes(), "body").is_ok_and(|again| again == read));
}

/// The messages of a batch, on their way in.
pub fn batch(bytes: &[u8]) {
    let Ok(read) = message::decode_batch(bytes, 8) else { return };
    for one in read {
        accept(one.properties, one.flag, one.body, true);
    }
}

/// Messages that follow each other, as clients and tools read them.
pub fn messages(bytes: &[u8]) {
    let _ = message::decode_all(bytes);
}

/// A message's property string, on its way in.
pub fn properties(bytes: &[u8]) {
    accept(&String::from_utf8_lossy(bytes), 0, b"body", false);
}

/// What names a message: offset ids, handles of popped ones.
pub fn handles(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Some((host, at)) = ids::read_offset_id(&text) {
        assert!(ids::read_offset_id(&ids::offset_id(host, at)).is_some());
    }
    if let Ok(handle) = PopHandle::parse(&text) {
        assert!(PopHandle::parse(&handle.to_string()).is_ok_and(|again| again == handle));
    }
}

/// Records on their way out: damage is an error, and what is written can be read.
pub fn record(bytes: &[u8]) {
    let record = Bytes::from([&[1][..], bytes].concat());
    let compressed = record::fields(&record).any(|field| field.is_ok_and(|field| matches!(field, Field::Compressed)));
    if let Some(came) = written(&record) {
        assert!(compressed || record::body(&record).is_ok_and(|body| body == came));
    }
}

/// A message on its way in, and out again: what is accepted is carried to clients of this protocol as it is.
fn accept(text: &str, flag: i32, body: &[u8], is_batch: bool) {
    let request = Request {
        now: UnixMillis(1_800_000_000_000),
        peer: "192.0.2.1:5000",
        kind: TopicType::Mixed,
        queue: Some(1),
        sys_flag: 0,
        born: 1_800_000_000_000,
        is_batch,
        delay_max: 1_000_000,
        names_bytes: 64,
    };
    let Ok(accepted) = message_in::accept(&request, text, flag, body, || "ID".into()) else { return };
    assert!(written(&accepted.message.record).is_some_and(|came| came == body));
}

/// The body of a message as clients of this protocol read it; `None` if its record cannot be read.
fn written(record: &Bytes) -> Option<Bytes> {
    let facts = Facts {
        topic: "orders",
        queue: 1,
        offset: 7,
        physical_offset: 9,
        stored: 1,
        reconsumed: 0,
        store_host: ([192, 0, 2, 2], 10_911).into(),
        cluster: "DefaultCluster",
        is_half: false,
        more: &[],
    };
    let mut out = BytesMut::new();
    message_out::encode(&mut out, record, &facts).ok()?;
    let mut read = message::decode_all(&out).unwrap_or_default();
    assert!(read.len() == 1, "what is written cannot be read");
    let one = read.pop()?;
    assert!(one.properties.len() <= PROPERTY_STRING_BYTES_MAX && properties::parse(&one.properties).is_ok());
    Some(one.body)
}
