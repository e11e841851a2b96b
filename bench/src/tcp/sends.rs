//! Prebuilt sends: for each queue one frame with one message or a batch, of which each send is a copy with a few places patched.
//!
//! Patched: opaque, born timestamp, the last 8 digits of each message's id and its key (which are the number of the message),
//! and the start of each body, which is a [`Stamp`](crate::template::Stamp).

use super::{code, protocol, request};
use crate::error::{BenchError, Result};
use crate::tcp::session::{PRODUCER_GROUP, Route};
use crate::template::{BODY_MIN, Dress, body, hex};

const SEQUENCE: &str = "5EC0FFEE";
const KEY: &str = "7ABCDEF7";
/// Marks that have as many digits as what takes their place.
const OPAQUE: u32 = 1_987_654_321;
const BORN: &str = "1888777666555";

/// Ends of a property's name and value.
const NAME_END: char = '\u{1}';
const VALUE_END: char = '\u{2}';

/// Most messages in a frame.
pub const BATCH_MAX: usize = 1024;

/// What sends of a load look like.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Tag and user properties.
    pub dress: &'a Dress,
    /// Bytes of a body, at least [`BODY_MIN`].
    pub size: usize,
    /// Messages in a frame: 1, or a batch of up to [`BATCH_MAX`].
    pub batch: usize,
    /// Makes ids of different sessions differ.
    pub client: u64,
    /// Tells this run from others.
    pub run: u64,
}

/// Where in a frame what changes is.
struct Message {
    sequence_at: usize,
    key_at: usize,
    body_at: usize,
}

struct Template {
    frame: Vec<u8>,
    opaque_at: usize,
    born_at: usize,
    /// The id of a batch itself.
    outer_at: Option<usize>,
    messages: Vec<Message>,
}

/// The sends of one session.
pub struct Sends {
    /// One per queue.
    templates: Vec<Template>,
    run: u64,
    /// Frames so far.
    frames: u32,
    batch: u32,
}

impl Sends {
    /// Builds the frames.
    pub fn new(route: &Route, shape: &Shape<'_>) -> Result<Self> {
        if !(1..=BATCH_MAX).contains(&shape.batch) {
            return Err(BenchError::Setting { name: "batch", value: shape.batch.to_string(), limit: "from 1 to 1024" });
        }
        let body = body(shape.size)?;
        let templates =
            (0..route.write_queues).map(|queue| template(route, shape, queue, &body)).collect::<Result<_>>()?;
        Ok(Self { templates, run: shape.run, frames: 0, batch: shape.batch as u32 })
    }

    /// Code of its requests.
    pub fn code(&self) -> i32 {
        if self.batch > 1 { code::SEND_BATCH } else { code::SEND }
    }

    /// Adds the next frame, to the next queue. `born_ms`: milliseconds of Unix time.
    pub fn add(&mut self, out: &mut Vec<u8>, opaque: u32, intended_ns: u64, born_ms: u64) {
        let template = &self.templates[self.frames as usize % self.templates.len()];
        let start = out.len();
        out.extend_from_slice(&template.frame);
        let frame = &mut out[start..];
        decimal(&mut frame[template.opaque_at..template.opaque_at + 10], u64::from(opaque));
        decimal(&mut frame[template.born_at..template.born_at + 13], born_ms);
        if let Some(at) = template.outer_at {
            frame[at..at + 8].copy_from_slice(&hex(self.frames));
        }
        let mut sequence = self.frames.wrapping_mul(self.batch);
        for message in &template.messages {
            let digits = hex(sequence);
            frame[message.sequence_at..message.sequence_at + 8].copy_from_slice(&digits);
            frame[message.key_at..message.key_at + 8].copy_from_slice(&digits);
            frame[message.body_at..message.body_at + 8].copy_from_slice(&intended_ns.to_be_bytes());
            frame[message.body_at + 8..message.body_at + BODY_MIN].copy_from_slice(&self.run.to_be_bytes());
            sequence = sequence.wrapping_add(1);
        }
        self.frames = self.frames.wrapping_add(1);
    }
}

/// Fills a place with a number's digits, from the right.
fn decimal(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn template(route: &Route, shape: &Shape<'_>, queue: u32, body: &[u8]) -> Result<Template> {
    // 32 digits, as the Java client makes them; those of a batch itself have another start.
    let id = |start: &str| format!("{start}{:012X}{:08X}{SEQUENCE}", shape.client & 0xffff_ffff_ffff, shape.run as u32);
    let mut properties = String::new();
    let (unique, wait) = (id("7F00"), "true".to_owned());
    let own =
        [("KEYS", KEY.to_owned()), ("UNIQ_KEY", unique), ("WAIT", wait.clone()), ("TAGS", shape.dress.tag.clone())];
    let user = shape.dress.properties.iter().map(|(name, value)| (name.as_str(), value.clone()));
    for (name, value) in own.into_iter().chain(user) {
        properties.extend([name, &NAME_END.to_string(), &value, &VALUE_END.to_string()]);
    }
    let is_batch = shape.batch > 1;
    let outer = format!("UNIQ_KEY{NAME_END}{}{VALUE_END}WAIT{NAME_END}{wait}{VALUE_END}", id("7F01"));
    let (queue, code) = (queue.to_string(), if is_batch { code::SEND_BATCH } else { code::SEND });
    let fields = [
        ("a", PRODUCER_GROUP),
        ("b", shape.topic),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", &queue),
        ("f", "0"),
        ("g", BORN),
        ("h", "0"),
        ("i", if is_batch { &outer } else { &properties }),
        ("j", "0"),
        ("k", "false"),
        ("m", if is_batch { "true" } else { "false" }),
        ("n", &route.broker),
    ];
    let mut inner = Vec::new();
    if is_batch {
        batched(&mut inner, body, &properties)?;
    } else {
        inner.extend_from_slice(body);
    }
    let one = inner.len();
    let frame = request(code, OPAQUE, &fields, &inner.repeat(shape.batch));
    let header = &frame[..frame.len() - one * shape.batch];
    let place = |bytes: &[u8], mark: &str| {
        let found = bytes.windows(mark.len()).position(|window| window == mark.as_bytes());
        found.ok_or_else(|| protocol(code, "template mark not found"))
    };
    let messages = (0..shape.batch).map(|nth| {
        let start = header.len() + nth * one;
        let (marked, from) =
            if is_batch { (&inner[BATCH_HEAD + body.len()..], start + BATCH_HEAD + body.len()) } else { (header, 0) };
        let body_at = if is_batch { start + BATCH_HEAD } else { start };
        Ok(Message { sequence_at: from + place(marked, SEQUENCE)?, key_at: from + place(marked, KEY)?, body_at })
    });
    Ok(Template {
        opaque_at: place(header, &OPAQUE.to_string())?,
        born_at: place(header, BORN)?,
        outer_at: is_batch.then(|| place(header, SEQUENCE)).transpose()?,
        messages: messages.collect::<Result<_>>()?,
        frame,
    })
}

/// Bytes before the body of a message in a batch.
const BATCH_HEAD: usize = 20;

/// A message of a batch: total size, magic, CRC and flag (all 0), body, properties.
fn batched(out: &mut Vec<u8>, body: &[u8], properties: &str) -> Result<()> {
    let length = i16::try_from(properties.len());
    let length =
        length.map_err(|_| BenchError::Setting { name: "property", value: "all".to_owned(), limit: "32767 bytes" })?;
    let total = BATCH_HEAD + body.len() + 2 + properties.len();
    out.extend_from_slice(&(total as u32).to_be_bytes());
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(properties.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::template::Stamp;

    fn sends(batch: usize, size: usize) -> Sends {
        let route = Route { address: String::new(), broker: "b".to_owned(), write_queues: 12, read_queues: 12 };
        let shape = Shape { topic: "orders", dress: &Dress::default(), size, batch, client: 7, run: 99 };
        Sends::new(&route, &shape).unwrap()
    }

    /// Header and body of the frame after so many others.
    fn frame(sends: &mut Sends, before: usize) -> (Value, Vec<u8>) {
        for _ in 0..before {
            sends.add(&mut Vec::new(), 0, 0, 0);
        }
        let mut out = b"before".to_vec();
        sends.add(&mut out, 1_234_567_890, 55, 1_700_000_000_123);
        let out = out.split_off(6);
        let length = |at: usize| u32::from_be_bytes(out[at..at + 4].try_into().unwrap()) as usize;
        assert_eq!(length(0) + 4, out.len());
        let (header, body) = out[8..].split_at(length(4));
        (serde_json::from_slice(header).unwrap(), body.to_vec())
    }

    fn property<'a>(properties: &'a str, name: &str) -> Option<&'a str> {
        properties
            .split(VALUE_END)
            .filter_map(|pair| pair.split_once(NAME_END))
            .find(|(n, _)| *n == name)
            .map(|(_, v)| v)
    }

    #[test]
    fn a_patched_frame_is_the_send_that_was_meant() {
        for size in [BODY_MIN, 1024] {
            let (header, body) = frame(&mut sends(1, size), 23);
            let fields = &header["extFields"];
            assert_eq!((&header["code"], &header["opaque"]), (&310.into(), &1_234_567_890.into()));
            assert_eq!(
                (&fields["b"], &fields["e"], &fields["g"]),
                (&"orders".into(), &"11".into(), &"1700000000123".into())
            );
            let properties = fields["i"].as_str().unwrap();
            assert_eq!((property(properties, "KEYS"), property(properties, "TAGS")), (Some("00000017"), Some("bench")));
            let id = property(properties, "UNIQ_KEY").unwrap();
            assert_eq!((id.len(), id.ends_with("00000017")), (32, true));
            assert_eq!(body.len(), size);
            assert_eq!(Stamp::read(&body), Some(Stamp { intended_ns: 55, run: 99 }));
        }
    }

    #[test]
    fn each_message_of_a_batch_has_an_id_a_key_and_a_stamp_of_its_own() {
        let (header, mut rest) = frame(&mut sends(3, 20), 2);
        assert_eq!((&header["code"], &header["extFields"]["m"]), (&320.into(), &"true".into()));
        assert!(property(header["extFields"]["i"].as_str().unwrap(), "UNIQ_KEY").unwrap().ends_with("00000002"));
        for number in 6..9 {
            let total = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
            let after = rest.split_off(total);
            assert_eq!(Stamp::read(&rest[BATCH_HEAD..]), Some(Stamp { intended_ns: 55, run: 99 }));
            let properties = std::str::from_utf8(&rest[BATCH_HEAD + 20 + 2..]).unwrap();
            assert_eq!(property(properties, "KEYS"), Some(format!("{number:08X}").as_str()));
            assert!(property(properties, "UNIQ_KEY").unwrap().ends_with(&format!("{number:08X}")));
            rest = after;
        }
        assert!(rest.is_empty());
    }
}
