//! Prebuilt SendMessage requests: one encoded frame per session, of which each send is a copy with three places patched.
//!
//! Patched: the message id's sequence (last 8 of its 34 hex digits), the key (8 hex digits), and the first 16 bytes of the
//! body: nanoseconds of the intended start and a number that tells this run from others, both u64 big-endian.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};

use crate::error::{BenchError, Result};
use crate::pb;
use crate::v1;
use crate::wire;

/// Smallest body: the two numbers at its start.
pub const BODY_MIN: usize = 16;

const SEQUENCE: &str = "5EC0FFEE";
const KEY: &str = "7ABCDEF7";
const GROUP: &str = "6FEDCBA6";
const LITE_PREFIX: &str = "lite-";

/// The name of a lite topic of [`Spread::LiteTopics`].
pub fn lite_topic(number: u32) -> String {
    format!("{LITE_PREFIX}{number:08X}")
}

/// What sends are spread over, in turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Nothing.
    #[default]
    None,
    /// So many message groups, the same for all connections.
    MessageGroups(u32),
    /// So many lite topics of each producer: those of the first one are 0 and so on, then come those of the second.
    LiteTopics(u32),
}

impl Spread {
    fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::MessageGroups(count) | Self::LiteTopics(count) => count,
        }
    }

    fn message_type(self) -> pb::MessageType {
        match self {
            Self::None => pb::MessageType::Normal,
            Self::MessageGroups(_) => pb::MessageType::Fifo,
            Self::LiteTopics(_) => pb::MessageType::Lite,
        }
    }
}

/// What messages look like besides their body; the same for all of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dress {
    /// Tag.
    pub tag: String,
    /// User properties.
    pub properties: Vec<(String, String)>,
    /// Delivery timestamp, if they are delayed.
    pub deliver_at: Option<SystemTime>,
}

impl Default for Dress {
    fn default() -> Self {
        Self { tag: "bench".to_owned(), properties: Vec::new(), deliver_at: None }
    }
}

/// A send request of which only id, key and stamp change.
pub struct SendTemplate {
    frame: Vec<u8>,
    sequence_at: usize,
    key_at: usize,
    /// Place of the number of the message group or lite topic, and how many there are.
    group: Option<(usize, u32)>,
    group_from: u32,
    body_at: usize,
    run: u64,
}

/// What the generator wrote at the start of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Nanoseconds since the generator's own start.
    pub intended_ns: u64,
    /// Tells this run from others.
    pub run: u64,
}

impl Stamp {
    /// Reads it back from a received body; `None` if the body is shorter than [`BODY_MIN`].
    pub fn read(body: &[u8]) -> Option<Self> {
        let (stamp, rest) = body.split_first_chunk::<8>()?;
        let run = rest.first_chunk::<8>()?;
        Some(Self { intended_ns: u64::from_be_bytes(*stamp), run: u64::from_be_bytes(*run) })
    }
}

impl SendTemplate {
    /// `body_len` in bytes, at least [`BODY_MIN`]; `client` makes message ids of different sessions differ, `nth` is the
    /// number of the producer among those of its load.
    pub fn new(
        (topic, dress): (&str, &Dress),
        body_len: usize,
        client: u64,
        nth: u32,
        run: u64,
        spread: Spread,
    ) -> Result<Self> {
        let (now, id, body) = parts(body_len, client, run)?;
        let message_type = match dress.deliver_at {
            Some(_) => pb::MessageType::Delay,
            None => spread.message_type(),
        };
        let request = pb::SendMessageRequest {
            messages: vec![pb::Message {
                topic: Some(pb::Resource { resource_namespace: String::new(), name: topic.to_owned() }),
                user_properties: dress.properties.iter().cloned().collect(),
                system_properties: Some(pb::SystemProperties {
                    tag: Some(dress.tag.clone()),
                    keys: vec![KEY.to_owned()],
                    message_id: id,
                    body_encoding: pb::Encoding::Identity as i32,
                    message_type: message_type as i32,
                    born_timestamp: Some(now.into()),
                    delivery_timestamp: dress.deliver_at.map(prost_types::Timestamp::from),
                    born_host: "bench".to_owned(),
                    message_group: matches!(spread, Spread::MessageGroups(_)).then(|| GROUP.to_owned()),
                    lite_topic: matches!(spread, Spread::LiteTopics(_)).then(|| format!("{LITE_PREFIX}{GROUP}")),
                    ..Default::default()
                }),
                body,
            }],
        };
        let frame = wire::frame(&request).to_vec();
        // The body is the last field of the last message.
        let body_at = frame.len() - body_len;
        let sequence_at = place(&frame[..body_at], SEQUENCE)?;
        let key_at = place(&frame[..body_at], KEY)?;
        let group = match spread.count() {
            0 => None,
            groups => Some((place(&frame[..body_at], GROUP)?, groups)),
        };
        let group_from = match spread {
            Spread::LiteTopics(count) => nth.wrapping_mul(count),
            Spread::None | Spread::MessageGroups(_) => 0,
        };
        Ok(Self { frame, sequence_at, key_at, group, group_from, body_at, run })
    }

    /// The same for `apache.rocketmq.v1`, without a spread and due at once.
    pub fn v1((topic, dress): (&str, &Dress), body_len: usize, client: u64, run: u64) -> Result<Self> {
        let (now, message_id, body) = parts(body_len, client, run)?;
        let system = v1::SystemAttribute {
            tag: dress.tag.clone(),
            keys: vec![KEY.to_owned()],
            message_id,
            born_timestamp: Some(now.into()),
            born_host: "bench".to_owned(),
        };
        let message = v1::Message {
            topic: Some(pb::Resource { resource_namespace: String::new(), name: topic.to_owned() }),
            user_attribute: dress.properties.iter().cloned().collect(),
            system_attribute: Some(system),
            body,
        };
        let frame = wire::frame(&v1::SendRequest { message: Some(message) }).to_vec();
        let body_at = frame.len() - body_len;
        let (sequence_at, key_at) = (place(&frame[..body_at], SEQUENCE)?, place(&frame[..body_at], KEY)?);
        Ok(Self { frame, sequence_at, key_at, group: None, group_from: 0, body_at, run })
    }

    /// The frame of one send. Repeats itself after 2^32 sequences.
    pub fn frame(&self, sequence: u32, intended_ns: u64) -> Bytes {
        let mut frame = BytesMut::from(&self.frame[..]);
        let digits = hex(sequence);
        frame[self.sequence_at..self.sequence_at + 8].copy_from_slice(&digits);
        frame[self.key_at..self.key_at + 8].copy_from_slice(&digits);
        if let Some((at, groups)) = self.group {
            frame[at..at + 8].copy_from_slice(&hex(self.group_from.wrapping_add(sequence % groups)));
        }
        frame[self.body_at..self.body_at + 8].copy_from_slice(&intended_ns.to_be_bytes());
        frame[self.body_at + 8..self.body_at + 16].copy_from_slice(&self.run.to_be_bytes());
        frame.freeze()
    }

    /// Whether `id` is the message id of the send with this sequence: its last 8 digits.
    pub fn is_id_of(&self, id: &[u8], sequence: u32) -> bool {
        id.len() == 34 && id.ends_with(&hex(sequence))
    }
}

/// Now, a message id with a mark for the sequence, and a body.
fn parts(body_len: usize, client: u64, run: u64) -> Result<(SystemTime, String, Bytes)> {
    let body = body(body_len)?;
    let now = SystemTime::now();
    let unix = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Seconds since 2021-01-01, as in the official id format.
    let seconds = unix.as_secs().saturating_sub(1_609_459_200) as u32;
    let id = format!("01{:012X}{:04X}{seconds:08X}{SEQUENCE}", client & 0xffff_ffff_ffff, run & 0xffff);
    Ok((now, id, Bytes::from(body)))
}

/// A body that does not compress; an error if it has no room for a [`Stamp`].
pub fn body(body_len: usize) -> Result<Vec<u8>> {
    if body_len < BODY_MIN {
        return Err(BenchError::Setting { name: "size", value: body_len.to_string(), limit: "at least 16" });
    }
    let mut filler = 0x2545_f491_4f6c_dd1d_u64;
    let bytes = (0..body_len).map(|_| {
        filler ^= filler << 13;
        filler ^= filler >> 7;
        filler ^= filler << 17;
        filler as u8
    });
    Ok(bytes.collect())
}

fn place(frame: &[u8], mark: &str) -> Result<usize> {
    frame
        .windows(mark.len())
        .position(|w| w == mark.as_bytes())
        .ok_or(BenchError::Protocol { rpc: "SendMessage", what: "template mark not found".to_owned() })
}

/// A number in 8 digits.
pub fn hex(n: u32) -> [u8; 8] {
    let mut out = [0; 8];
    for (i, digit) in out.iter_mut().enumerate() {
        *digit = b"0123456789ABCDEF"[(n >> (28 - 4 * i) & 15) as usize];
    }
    out
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_patched_frame_decodes_to_the_message_that_was_meant() {
        for size in [BODY_MIN, 128, 1024, 4 << 20] {
            let template =
                SendTemplate::new(("orders", &Dress::default()), size, 7, 0, 99, Spread::MessageGroups(10)).unwrap();
            let frame = template.frame(0xdead_beef, 1_234_567);
            assert_eq!(frame[0], 0);
            assert_eq!(u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize, frame.len() - 5);
            let request = pb::SendMessageRequest::decode(frame.slice(5..)).unwrap();
            let message = &request.messages[0];
            let properties = message.system_properties.as_ref().unwrap();
            assert_eq!(message.topic.as_ref().unwrap().name, "orders");
            assert_eq!(properties.message_id.len(), 34);
            assert!(properties.message_id.starts_with("01000000000007"));
            assert!(template.is_id_of(properties.message_id.as_bytes(), 0xdead_beef));
            assert!(!template.is_id_of(properties.message_id.as_bytes(), 0xdead_beee));
            assert_eq!(properties.keys, ["DEADBEEF"]);
            assert_eq!(properties.tag(), "bench");
            assert_eq!(properties.message_group(), format!("{:08X}", 0xdead_beef_u32 % 10));
            assert_eq!(message.body.len(), size);
            assert_eq!(Stamp::read(&message.body), Some(Stamp { intended_ns: 1_234_567, run: 99 }));
        }
    }

    #[test]
    fn a_frame_of_v1_decodes_to_the_message_that_was_meant() {
        let template = SendTemplate::v1(("orders", &Dress::default()), 128, 7, 99).unwrap();
        let request = v1::SendRequest::decode(template.frame(3, 9).slice(5..)).unwrap();
        let message = request.message.unwrap();
        let system = message.system_attribute.unwrap();
        assert!(template.is_id_of(system.message_id.as_bytes(), 3));
        assert_eq!((message.topic.unwrap().name.as_str(), &system.keys[..]), ("orders", &["00000003".to_owned()][..]));
        assert_eq!(Stamp::read(&message.body), Some(Stamp { intended_ns: 9, run: 99 }));
    }

    #[test]
    fn each_producer_has_lite_topics_of_its_own() {
        let template =
            SendTemplate::new(("chat", &Dress::default()), 128, 7, 3, 99, Spread::LiteTopics(1_000)).unwrap();
        let request = pb::SendMessageRequest::decode(template.frame(1_002, 0).slice(5..)).unwrap();
        let properties = request.messages[0].system_properties.as_ref().unwrap();
        assert_eq!(properties.lite_topic(), lite_topic(3_002));
        assert_eq!(properties.message_type(), pb::MessageType::Lite);
    }

    #[test]
    fn a_message_has_the_tag_the_properties_and_the_time_it_was_given() {
        let deliver_at = Some(UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_250));
        let properties = vec![("region".to_owned(), "eu".to_owned())];
        let dress = Dress { tag: "needle".to_owned(), properties, deliver_at };
        let template = SendTemplate::new(("orders", &dress), 128, 7, 0, 99, Spread::None).unwrap();
        let request = pb::SendMessageRequest::decode(template.frame(1, 0).slice(5..)).unwrap();
        let message = &request.messages[0];
        let properties = message.system_properties.as_ref().unwrap();
        assert_eq!(properties.tag(), "needle");
        assert_eq!(message.user_properties.get("region").map(String::as_str), Some("eu"));
        assert_eq!(properties.message_type(), pb::MessageType::Delay);
        let at = properties.delivery_timestamp.unwrap();
        assert_eq!((at.seconds, at.nanos), (1_700_000_000, 250_000_000));
    }

    #[test]
    fn a_body_without_room_for_the_stamp_is_refused() {
        let refused = SendTemplate::new(("orders", &Dress::default()), 15, 7, 0, 99, Spread::None);
        let refused = refused.err().unwrap().to_string();
        assert_eq!(refused, "size is 15, must be at least 16");
        assert_eq!(Stamp::read(&[0; 15]), None);
    }
}
