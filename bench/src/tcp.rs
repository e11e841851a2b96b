//! TCP clients of RocketMQ ("remoting"), as far as loads need them: frames, a connection, and a client's start.
//!
//! A frame: its length (4 bytes), the length of its header (4, the top byte 0 for JSON), the header, the body. An answer has
//! the request's `opaque`; it may overtake others. Headers are JSON, the default of the Java client. Those of answers are
//! scanned for the few numbers a load needs, not parsed: parsing would cost the generator more than the rest of its work.

pub mod link;
pub mod pulls;
pub mod sends;
pub mod session;

use std::fmt::Write as _;

use bytes::Bytes;

use crate::error::{BenchError, Result};

/// Largest frame that servers and clients take.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// What clients call themselves: the ordinal of 5.5.0.
pub const VERSION: u32 = 513;

/// Codes of requests.
pub mod code {
    /// PULL_MESSAGE.
    pub const PULL: i32 = 11;
    /// GET_MAX_OFFSET.
    pub const MAX_OFFSET: i32 = 30;
    /// GET_MIN_OFFSET.
    pub const MIN_OFFSET: i32 = 31;
    /// HEART_BEAT.
    pub const HEARTBEAT: i32 = 34;
    /// GET_ROUTEINFO_BY_TOPIC.
    pub const ROUTE: i32 = 105;
    /// SEND_MESSAGE_V2.
    pub const SEND: i32 = 310;
    /// SEND_BATCH_MESSAGE.
    pub const SEND_BATCH: i32 = 320;

    /// Name of a code, for errors.
    pub fn name(code: i32) -> &'static str {
        match code {
            PULL => "PULL_MESSAGE",
            MAX_OFFSET => "GET_MAX_OFFSET",
            MIN_OFFSET => "GET_MIN_OFFSET",
            HEARTBEAT => "HEART_BEAT",
            ROUTE => "GET_ROUTEINFO_BY_TOPIC",
            SEND => "SEND_MESSAGE_V2",
            SEND_BATCH => "SEND_BATCH_MESSAGE",
            _ => "request",
        }
    }
}

/// What a header says at its top level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What is asked, or how it went.
    pub code: i32,
    /// Number of the request.
    pub opaque: u32,
    /// Bit 0: an answer; bit 1: nobody waits for an answer.
    pub flag: u32,
}

impl Head {
    /// Reads a JSON header; `None` if one of the three is missing. Names in `extFields` that are the same do not occur.
    pub fn read(header: &[u8]) -> Option<Self> {
        let (mut code, mut opaque, mut flag) = (None, None, 0);
        let mut at = 0;
        while let Some(quote) = header[at..].iter().position(|byte| *byte == b'"') {
            let rest = &header[at + quote + 1..];
            if let Some(value) = rest.strip_prefix(b"code\":") {
                code = number(value);
            } else if let Some(value) = rest.strip_prefix(b"opaque\":") {
                opaque = number(value);
            } else if let Some(value) = rest.strip_prefix(b"flag\":") {
                flag = number(value)?;
            }
            at += quote + 1;
        }
        Some(Self { code: i32::try_from(code?).ok()?, opaque: u32::try_from(opaque?).ok()?, flag: flag as u32 })
    }

    /// Whether it is an answer.
    pub fn is_answer(self) -> bool {
        self.flag & 1 != 0
    }
}

/// The number at the start of a JSON value, which may be in a string.
fn number(value: &[u8]) -> Option<i64> {
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let end = value.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'-').unwrap_or(value.len());
    std::str::from_utf8(&value[..end]).ok()?.parse().ok()
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Code and opaque.
    pub head: Head,
    /// All of the header.
    pub header: Bytes,
    /// Body.
    pub body: Bytes,
}

impl Answer {
    /// The number in a field, one that no other field's name ends with.
    pub fn field(&self, name: &str) -> Option<i64> {
        let name = name.as_bytes();
        let mut at = 0;
        while let Some(quote) = self.header[at..].iter().position(|byte| *byte == b'"') {
            let rest = &self.header[at + quote + 1..];
            if let Some(value) = rest.strip_prefix(name).and_then(|rest| rest.strip_prefix(b"\":")) {
                return number(value);
            }
            at += quote + 1;
        }
        None
    }

    /// The refusal that this answer is.
    pub fn refusal(&self, request: i32) -> BenchError {
        let header: Option<serde_json::Value> = serde_json::from_slice(&self.header).ok();
        let remark = header.as_ref().and_then(|header| header.get("remark")?.as_str());
        let message = remark.unwrap_or_default().chars().take(300).collect();
        BenchError::Status { rpc: code::name(request), code: self.head.code, message }
    }

    /// An error unless it is a success.
    pub fn ok(self, request: i32) -> Result<Self> {
        if self.head.code == 0 { Ok(self) } else { Err(self.refusal(request)) }
    }
}

/// An error of a server that does not keep to the protocol.
pub fn protocol(request: i32, what: impl ToString) -> BenchError {
    BenchError::Protocol { rpc: code::name(request), what: what.to_string() }
}

/// A text as JSON, quotes included.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A request with the header that the Java client writes, and the opaque in it.
pub fn request(code: i32, opaque: u32, fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut header = format!("{{\"code\":{code},\"extFields\":{{");
    for (i, (name, value)) in fields.iter().enumerate() {
        let comma = if i > 0 { "," } else { "" };
        // Writing to a text cannot fail.
        let _ = write!(header, "{comma}{}:{}", quoted(name), quoted(value));
    }
    header.push_str(&header_end(opaque));
    let mut out = Vec::with_capacity(8 + header.len() + body.len());
    begin_frame(&mut out, header.len(), body.len());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(body);
    out
}

/// What follows the fields.
fn header_end(opaque: u32) -> String {
    format!(
        "}},\"flag\":0,\"language\":\"JAVA\",\"opaque\":{opaque},\"serializeTypeCurrentRPC\":\"JSON\",\"version\":{VERSION}}}"
    )
}

/// The two lengths before a JSON header.
pub fn begin_frame(out: &mut Vec<u8>, header: usize, body: usize) {
    out.extend_from_slice(&((4 + header + body) as u32).to_be_bytes());
    out.extend_from_slice(&(header as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_found_wherever_it_stands_and_not_in_a_text() {
        let header = br#"{"code":0,"extFields":{"msgId":"7F","queueOffset":"12"},"flag":1,"opaque":77,"remark":"a \"code\":9 b"}"#;
        assert_eq!(Head::read(header), Some(Head { code: 0, opaque: 77, flag: 1 }));
        assert_eq!(
            Head::read(br#"{"opaque":-1,"code":5,"flag":0}"#),
            None,
            "an opaque that no load has is no answer to it"
        );
        assert_eq!(Head::read(br#"{"code":5}"#), None);
        assert_eq!(Head::read(br#"{"opaque":3,"code":-1}"#), Some(Head { code: -1, opaque: 3, flag: 0 }));
    }

    #[test]
    fn a_request_is_a_frame_of_json_whose_lengths_are_true() {
        let frame = request(code::ROUTE, 5, &[("topic", "a\"b"), ("acceptStandardJsonOnly", "true")], b"body");
        let length = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(length(0) + 4, frame.len());
        let (header, body) = frame[8..].split_at(length(4));
        assert_eq!(body, b"body");
        let header: serde_json::Value = serde_json::from_slice(header).unwrap();
        assert_eq!(header["extFields"]["topic"], "a\"b");
        assert_eq!((&header["code"], &header["opaque"]), (&105.into(), &5.into()));
    }

    #[test]
    fn a_field_is_a_number_with_or_without_quotes_and_a_refusal_has_its_remark() {
        let header =
            br#"{"code":21,"extFields":{"nextBeginOffset":"40","minOffset":8},"flag":1,"opaque":1,"remark":"moved"}"#;
        let head = Head::read(header).unwrap();
        let answer = Answer { head, header: Bytes::from_static(header), body: Bytes::new() };
        assert_eq!((answer.field("nextBeginOffset"), answer.field("minOffset")), (Some(40), Some(8)));
        assert_eq!(answer.field("Offset"), None);
        assert_eq!(answer.ok(code::PULL).unwrap_err().to_string(), "PULL_MESSAGE: status 21: moved");
    }
}
