//! Pulls of a push consumer, and the messages that answer them.

use std::fmt::Write as _;

use super::session::Session;
use super::{Answer, begin_frame, code, header_end, protocol, quoted};
use crate::error::Result;

/// Most messages of a pull, the default of push consumers.
pub const BATCH: u32 = 32;
/// How long a server may hold a pull, as push consumers say.
const SUSPEND_MS: u32 = 15_000;
/// Most bytes of an answer, as push consumers say.
const ANSWER_BYTES_MAX: u32 = 262_144;
const COMMITS: u32 = 1;
const MAY_WAIT: u32 = 2;

/// Codes of answers that are no failure.
mod status {
    /// Messages.
    pub const FOUND: i32 = 0;
    /// None yet.
    pub const NOT_FOUND: i32 = 19;
    /// None that match: again from the next offset.
    pub const RETRY: i32 = 20;
    /// The offset is none of the queue's.
    pub const MOVED: i32 = 21;
}

/// How the pulls of a load are made.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Consumer group.
    pub group: &'a str,
    /// Each commits the messages before it, as those of push consumers do.
    pub commits: bool,
    /// The server may hold it until there are messages.
    pub waits: bool,
}

/// The pulls of one queue.
pub struct Pulls {
    /// The header up to the offset.
    start: String,
    next: u64,
}

/// What a pull was answered with.
#[derive(Debug)]
pub enum Pulled {
    /// Messages, and whether these were the last.
    Messages {
        /// How many.
        count: u64,
        /// The queue has no more.
        at_end: bool,
    },
    /// No more messages.
    End,
}

impl Pulls {
    /// Those of `queue` from offset `next` on.
    pub fn new(session: &Session, shape: &Shape<'_>, queue: u32, next: u64) -> Self {
        let flags = if shape.commits { COMMITS } else { 0 } | if shape.waits { MAY_WAIT } else { 0 };
        let start = format!(
            "{{\"code\":{},\"extFields\":{{\"consumerGroup\":{},\"expressionType\":\"TAG\",\"maxMsgBytes\":\"{ANSWER_BYTES_MAX}\",\
             \"maxMsgNums\":\"{BATCH}\",\"bname\":{},\"queueId\":\"{queue}\",\"subVersion\":\"{}\",\"suspendTimeoutMillis\":\"{SUSPEND_MS}\",\
             \"sysFlag\":\"{flags}\",\"topic\":{}",
            code::PULL,
            quoted(shape.group),
            quoted(&session.route.broker),
            session.subscribed_ms,
            quoted(shape.topic),
        );
        Self { start, next }
    }

    /// Adds the next pull.
    pub fn add(&self, out: &mut Vec<u8>, opaque: u32) {
        let mut header = String::with_capacity(self.start.len() + 192);
        header.push_str(&self.start);
        // Writing to a text cannot fail.
        let _ = write!(header, ",\"commitOffset\":\"{0}\",\"queueOffset\":\"{0}\"", self.next);
        header.push_str(&header_end(opaque));
        begin_frame(out, header.len(), 0);
        out.extend_from_slice(header.as_bytes());
    }

    /// Takes an answer: the next pull begins behind it. `each` is called with every body.
    pub fn take(&mut self, answer: &Answer, mut each: impl FnMut(&[u8])) -> Result<Pulled> {
        if !matches!(answer.head.code, status::FOUND | status::NOT_FOUND | status::RETRY | status::MOVED) {
            return Err(answer.refusal(code::PULL));
        }
        let (next, max) = (answer.field("nextBeginOffset"), answer.field("maxOffset"));
        let (Some(next), Some(max)) = (next.and_then(|at| u64::try_from(at).ok()), max) else {
            return Err(protocol(code::PULL, "an answer without nextBeginOffset or maxOffset"));
        };
        self.next = next;
        if answer.head.code == status::NOT_FOUND {
            return Ok(Pulled::End);
        }
        let mut rest = &answer.body[..];
        let mut count = 0;
        while !rest.is_empty() {
            let (body, after) =
                message(rest).ok_or_else(|| protocol(code::PULL, "a message that is cut off, or of no known kind"))?;
            each(body);
            count += 1;
            rest = after;
        }
        Ok(Pulled::Messages { count, at_end: i64::try_from(next).is_ok_and(|next| next >= max) })
    }
}

/// First bytes of a message after its size; the second is of those with long topics.
const MAGICS: [u32; 2] = [0xDAA3_20A7, 0xDAA3_20AB];
/// Set in the flags if a host has 16 bytes instead of 4.
const BORN_IPV6: u32 = 0x10;
const STORE_IPV6: u32 = 0x20;

/// The body of the first of several messages, and what follows it.
fn message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let int = |at: usize| Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk::<4>()?));
    let (message, rest) = bytes.split_at_checked(int(0)? as usize)?;
    if !MAGICS.contains(&int(4)?) {
        return None;
    }
    let flags = int(36)?;
    let wide = usize::from(flags & BORN_IPV6 != 0) + usize::from(flags & STORE_IPV6 != 0);
    let at = 84 + 12 * wide;
    let body = message.get(at + 4..)?.get(..int(at)? as usize)?;
    Some((body, rest))
}

/// A message as answers have it, for the floor and for tests: no properties but those given.
pub fn stored(offset: u64, topic: &str, body: &[u8], properties: &str) -> Vec<u8> {
    let total = 88 + body.len() + 1 + topic.len() + 2 + properties.len();
    let mut out = Vec::with_capacity(total);
    let mut ints = |values: &[u32]| values.iter().for_each(|value| out.extend_from_slice(&value.to_be_bytes()));
    // Size, magic, CRC, queue, flag; offset and place; flags, born and its host, stored and its host, attempts, half offset.
    ints(&[total as u32, MAGICS[0], 0, 0, 0]);
    ints(&[(offset >> 32) as u32, offset as u32, (offset >> 32) as u32, offset as u32]);
    ints(&[0, 0, 0, 0x7f00_0001, 0, 0, 0, 0x7f00_0001, 0, 0, 0, 0]);
    ints(&[body.len() as u32]);
    out.extend_from_slice(body);
    out.push(topic.len() as u8);
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&(properties.len() as u16).to_be_bytes());
    out.extend_from_slice(properties.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::tcp::Head;

    fn answer(header: &'static str, body: Vec<u8>) -> Answer {
        let head = Head::read(header.as_bytes()).unwrap();
        Answer { head, header: Bytes::from_static(header.as_bytes()), body: body.into() }
    }

    #[test]
    fn every_body_of_an_answer_is_seen_and_the_next_pull_begins_behind() {
        let mut pulls = Pulls { start: "{\"extFields\":{\"topic\":\"t\"".to_owned(), next: 5 };
        let body = [stored(5, "t", b"one", "A\u{1}b\u{2}"), stored(6, "t", b"", "")].concat();
        let found =
            r#"{"code":0,"extFields":{"maxOffset":"7","minOffset":"0","nextBeginOffset":"7"},"flag":1,"opaque":1}"#;
        let mut seen = Vec::new();
        let pulled = pulls.take(&answer(found, body.clone()), |body| seen.push(body.to_vec())).unwrap();
        assert!(matches!(pulled, Pulled::Messages { count: 2, at_end: true }), "{pulled:?}");
        assert_eq!(seen, [b"one".to_vec(), Vec::new()]);
        let mut out = Vec::new();
        pulls.add(&mut out, 1_000_000_000);
        assert_eq!(u32::from_be_bytes(out[..4].try_into().unwrap()) as usize, out.len() - 4);
        let header: serde_json::Value = serde_json::from_slice(&out[8..]).unwrap();
        assert_eq!(header["extFields"]["queueOffset"], "7");
        for end in 1..body.len() {
            // Cut between the two messages, it is an answer with one.
            let cut = pulls.take(&answer(found, body[..end].to_vec()), |_| {});
            assert!(cut.is_err() || end == 88 + 3 + 2 + 2 + 4, "{end}");
        }
    }

    #[test]
    fn addresses_of_both_lengths_may_stand_before_a_body() {
        let mut wide = stored(0, "t", b"body", "");
        wide[39] = 0x30;
        wide.splice(48..48, [0; 12]);
        wide.splice(76..76, [0; 12]);
        let total = (wide.len() as u32).to_be_bytes();
        wide[..4].copy_from_slice(&total);
        assert_eq!(message(&wide).unwrap(), (&b"body"[..], &b""[..]));
    }

    #[test]
    fn an_offset_that_moved_is_followed_and_a_refusal_is_an_error() {
        let mut pulls = Pulls { start: String::new(), next: 5 };
        let moved = r#"{"code":21,"extFields":{"maxOffset":"90","nextBeginOffset":"40"},"flag":1,"opaque":1}"#;
        let pulled = pulls.take(&answer(moved, Vec::new()), |_| {}).unwrap();
        assert!(matches!(pulled, Pulled::Messages { count: 0, at_end: false }), "{pulled:?}");
        assert_eq!(pulls.next, 40);
        let refused = answer(r#"{"code":26,"flag":1,"opaque":1,"remark":"no group"}"#, Vec::new());
        assert_eq!(pulls.take(&refused, |_| {}).unwrap_err().to_string(), "PULL_MESSAGE: status 26: no group");
    }
}
