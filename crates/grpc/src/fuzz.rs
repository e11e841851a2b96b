//! Every decoder of this crate behind a function that takes bytes: for fuzzers, and for tests with seeded bytes.
//!
//! Each function must return, whatever the bytes are; some assert what must hold of anything that was accepted.

use crate::proto::v2;
use crate::{message_in, message_out, transport};
use martlet_model::UnixMillis;
use martlet_model::limits;
use martlet_net::fuzz::Target;
use martlet_net::proxy::{ProxyHeader, parse_v1, parse_v2};
use martlet_net::sniff::{Opening, PROXY_V2_SIGNATURE, SNIFF_BYTES_MAX, classify};
use prost::Message;

/// All decoders, by name.
pub const TARGETS: [(&str, Target); 10] = [
    ("sniff", sniff),
    ("proxy_header", proxy_header),
    ("grpc_timeout", grpc_timeout),
    ("grpc_prefix", grpc_prefix),
    ("send_request", send_request),
    ("send_request_v1", send_request_v1),
    ("settings", settings),
    ("record", record),
    ("record_v1", record_v1),
    ("sql", sql),
];

/// Telling protocols apart: decides in time, and more bytes never change a verdict.
pub fn sniff(bytes: &[u8]) {
    let verdicts: Vec<Option<Opening>> =
        (0..=bytes.len().min(2 * SNIFF_BYTES_MAX)).map(|end| classify(&bytes[..end])).collect();
    for pair in verdicts.windows(2) {
        assert!(pair[0].is_none() || pair[0] == pair[1]);
    }
    assert!(bytes.len() < SNIFF_BYTES_MAX || verdicts[SNIFF_BYTES_MAX].is_some());
}

/// PROXY headers of both versions: never claims more bytes than there are.
pub fn proxy_header(bytes: &[u8]) {
    let within = |header: Option<ProxyHeader>, bytes: &[u8]| assert!(header.is_none_or(|it| it.bytes <= bytes.len()));
    let text = [b"PROXY ", bytes].concat();
    within(parse_v1(&text).ok().flatten(), &text);
    within(parse_v1(bytes).ok().flatten(), bytes);
    let binary = [PROXY_V2_SIGNATURE, bytes].concat();
    within(parse_v2(&binary).ok().flatten(), &binary);
}

/// The deadline header.
pub fn grpc_timeout(bytes: &[u8]) {
    let _ = transport::timeout::parse(bytes);
}

/// The prefix of a message.
pub fn grpc_prefix(bytes: &[u8]) {
    if let Ok(Some(length)) = transport::frames::prefix(bytes, limits::INBOUND_BYTES_MAX) {
        assert!(length <= limits::INBOUND_BYTES_MAX);
    }
}

/// Messages on their way in: what is accepted can be read back, and keeps to the limits.
pub fn send_request(bytes: &[u8]) {
    let Ok(request) = v2::SendMessageRequest::decode(bytes) else { return };
    if message_in::topic_of(&request.messages).is_err() {
        return;
    }
    request.messages.into_iter().for_each(message_in::check_accepted);
}

/// The same of v1.
pub fn send_request_v1(bytes: &[u8]) {
    crate::v1::read_send(bytes);
}

/// Settings of clients: what is accepted gets an answer that clients can work with.
pub fn settings(bytes: &[u8]) {
    crate::session::read_settings(bytes);
}

/// Records on their way out: damage is an error, never half a frame.
pub fn record(bytes: &[u8]) {
    let mut frames = message_out::Frames::with_capacity(0);
    let written = frames.message(&delivered(bytes), "").is_ok();
    frames.delivery_timestamp(martlet_broker::wall_clock());
    let bytes = frames.finish().concat();
    let mut rest = &bytes[..];
    let mut count = 0;
    while let Ok(Some(length)) = transport::frames::prefix(rest, usize::MAX) {
        assert!(v2::ReceiveMessageResponse::decode(&rest[5..5 + length]).is_ok());
        rest = &rest[5 + length..];
        count += 1;
    }
    assert!(rest.is_empty() && count == 1 + usize::from(written));
}

/// The same for clients of v1, in one frame.
pub fn record_v1(bytes: &[u8]) {
    crate::v1::write_record(&delivered(bytes));
}

fn delivered(bytes: &[u8]) -> martlet_broker::DeliveredMessage {
    martlet_broker::DeliveredMessage {
        topic: "t".into(),
        queue: 0,
        offset: martlet_model::QueueOffset(0),
        store_time: UnixMillis(0),
        attempt: 1,
        handle: String::new(),
        invisible_millis: 0,
        record: bytes::Bytes::from([&[1][..], bytes].concat()),
    }
}

/// SQL92 expressions, and records they are evaluated on: places of errors lie within the expression.
pub fn sql(bytes: &[u8]) {
    let (expression, rest) = bytes.split_at(bytes.len().min(bytes.first().map_or(0, |&first| usize::from(first))));
    let expression = String::from_utf8_lossy(expression);
    match martlet_model::Filter::sql(&expression) {
        Ok(filter) => {
            filter.matches(&[&[1][..], rest].concat());
        }
        Err(martlet_model::FilterError::Sql { position, .. }) => assert!(expression.is_char_boundary(position)),
        Err(_) => {}
    }
}
