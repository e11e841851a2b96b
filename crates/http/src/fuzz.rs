//! Every decoder of this crate behind a function that takes bytes: for fuzzers, and for tests with seeded bytes.
//!
//! Each function must return, whatever the bytes are; some assert what must hold of anything that was accepted.

use crate::auth;
use crate::inflate::inflated;
use crate::message_in::{self, Request};
use crate::message_out::{self, Facts};
use crate::target;
use crate::xml_in::{self, Publish};
use crate::xml_out::Document;
use bytes::Bytes;
use hyper::http::{Uri, request};
use martlet_broker::auth::{Access, Accounts};
use martlet_model::record::{self, Field};
use martlet_model::{TopicType, UnixMillis, limits, names};
use martlet_net::fuzz::Target;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// All decoders, by name.
pub const TARGETS: [(&str, Target); 6] = [
    ("target", target),
    ("publish", publish),
    ("handles", handles),
    ("record", record),
    ("inflate", inflate),
    ("head", head),
];

/// Path and query: names of what is accepted are legal, and what is asked for is within its limits.
pub fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (path, query) = text.split_once('?').map_or((&*text, None), |(path, query)| (path, Some(query)));
    let Ok(asked) = target::Target::read(path, query) else { return };
    assert!(names::check_topic(&asked.topic).is_ok());
    assert!(asked.group.as_deref().is_none_or(|group| names::check_group(group).is_ok()));
    if let (Ok(count), Ok(millis)) = (asked.count(), asked.wait_millis()) {
        assert!((1..=16).contains(&count) && (0..=30_000).contains(&millis));
    }
}

/// Messages on their way in: what is accepted can be carried to HTTP clients, and is the same there.
pub fn publish(bytes: &[u8]) {
    let Ok(published) = xml_in::publish(bytes) else { return };
    let request = Request {
        now: UnixMillis(1_800_000_000_000),
        peer: "192.0.2.1:5000",
        kind: TopicType::Mixed,
        delay_max: 1_000_000,
        message_id: "ID".into(),
    };
    let Ok(message) = message_in::accept(request, &published) else { return };
    let came = written(&message.record);
    assert!(came.is_some_and(|came| came.body == published.body), "accepted and cannot be consumed as it is");
}

/// Handles of an acknowledgement.
pub fn handles(bytes: &[u8]) {
    let _ = xml_in::handles(bytes);
}

/// Records on their way out: damage is an error that leaves nothing behind, and what is written can be read.
pub fn record(bytes: &[u8]) {
    let record = Bytes::from([&[1][..], bytes].concat());
    let Some(came) = written(&record) else { return };
    let compressed = record::fields(&record).any(|field| field.is_ok_and(|field| matches!(field, Field::Compressed)));
    let stored = record::body(&record).unwrap_or_default();
    assert!(compressed || came.body.as_deref().map(str::as_bytes) == Some(&stored[..]));
}

/// Compressed bodies: never more than a body may have.
pub fn inflate(bytes: &[u8]) {
    assert!(inflated(bytes).is_none_or(|body| body.len() <= limits::BODY_BYTES_MAX));
}

/// Headers, a line each, the target of the request where a line is none: nobody signs by chance.
pub fn head(bytes: &[u8]) {
    let (mut head, ()) = request::Request::new(()).into_parts();
    for line in bytes.split(|byte| *byte == b'\n') {
        let mut words = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (hyper::header::HeaderName::from_bytes(name), hyper::header::HeaderValue::from_bytes(value.trim_ascii()))
        {
            (Ok(name), Ok(value)) => drop(head.headers.append(name, value)),
            _ => head.uri = Uri::try_from(line).unwrap_or_default(),
        }
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let (users, policies) = (BTreeMap::new(), BTreeMap::new());
    let accounts = Accounts::parse("key secret").unwrap_or_default();
    let access = Access { accounts: &accounts, users: &users, policies: &policies, authorization: false };
    assert!(auth::check(&access, &head, now).is_err());
    let _ = auth::check_digest(&head.headers, b"body");
}

/// A message as HTTP clients read it; `None` if they are not given it.
fn written(record: &Bytes) -> Option<Publish> {
    let facts = Facts { handle: "h", stored: 1, first_consumed: 2, next_consume: 3, attempt: 4 };
    let mut document = Document::begin("Messages", 0);
    let before = document.len();
    if message_out::write(&mut document, record, &facts).is_err() {
        assert!(document.len() == before, "something of a message that cannot be carried is left");
        return None;
    }
    let text = document.finish();
    let message = text.get(before..).and_then(|text| text.strip_suffix("</Messages>"));
    let read = message.map(|message| xml_in::publish(message.as_bytes()));
    assert!(matches!(read, Some(Ok(_))), "what is written cannot be read: {text}");
    read?.ok()
}
