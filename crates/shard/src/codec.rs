//! The values behind the keys of [`crate::keys`]. All numbers are LEB128 varints, signed ones zigzag; the first byte of
//! each image is its format.

use crate::command::{DeadLetters, GroupFacts, LiteGroup, LiteParent, TopicFacts};
use crate::progress::SlotChange;
use martlet_model::handle::{DeliveryNumber, HandleKey};
use martlet_model::record::{put_varint, take_varint};
use martlet_model::{Filter, GroupId, LiteResets, QueueId, QueueOffset, RetryBackoff, TopicId, UnixMillis};
use martlet_store::KeyState;
use std::collections::BTreeSet;
use std::sync::Arc;

const FORMAT: u8 = 1;

/// A value that cannot be read: written by a newer broker, or damaged in a way no checksum shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("value of {what} cannot be read")]
pub struct CodecError {
    pub what: &'static str,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    fn image(bytes: &'a [u8], what: &'static str) -> Result<Self, CodecError> {
        if bytes.first() != Some(&FORMAT) {
            return Err(CodecError { what });
        }
        Ok(Self { bytes, at: 1, what })
    }

    fn u64(&mut self) -> Result<u64, CodecError> {
        take_varint(self.bytes, &mut self.at).ok_or(CodecError { what: self.what })
    }

    fn i64(&mut self) -> Result<i64, CodecError> {
        let zigzag = self.u64()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    fn u32(&mut self) -> Result<u32, CodecError> {
        u32::try_from(self.u64()?).map_err(|_| CodecError { what: self.what })
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], CodecError> {
        let end = self.at.checked_add(len).ok_or(CodecError { what: self.what })?;
        let bytes = self.bytes.get(self.at..end).ok_or(CodecError { what: self.what })?;
        self.at = end;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<Arc<str>, CodecError> {
        let len = usize::try_from(self.u64()?).map_err(|_| CodecError { what: self.what })?;
        let text = std::str::from_utf8(self.bytes(len)?).map_err(|_| CodecError { what: self.what })?;
        Ok(text.into())
    }

    fn done(&self) -> bool {
        self.at >= self.bytes.len()
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_varint(bytes, text.len() as u64);
    bytes.extend_from_slice(text.as_bytes());
}

fn put_i64(bytes: &mut Vec<u8>, number: i64) {
    put_varint(bytes, ((number << 1) ^ (number >> 63)) as u64);
}

/// Key 1: format, epoch, next queue number, 16 bytes of handle key, time of the opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardImage {
    pub epoch: u32,
    pub next_queue: u64,
    pub handle_key: HandleKey,
    pub opened: UnixMillis,
}

impl ShardImage {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        put_varint(&mut bytes, u64::from(self.epoch));
        put_varint(&mut bytes, self.next_queue);
        bytes.extend_from_slice(&self.handle_key.0);
        put_i64(&mut bytes, self.opened.0);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Reader::image(bytes, "shard")?;
        let (epoch, next_queue) = (from.u32()?, from.u64()?);
        let key = from.bytes(16)?.try_into().map_err(|_| CodecError { what: "shard" })?;
        Ok(Self { epoch, next_queue, handle_key: HandleKey(key), opened: UnixMillis(from.i64()?) })
    }
}

/// Key 2: format, read queues, write queues, retention + 1 (0: default), name, number of queues, queue numbers, number of
/// queues that message groups are spread over (absent: write queues), whether messages are delivered by priority (0 or 1;
/// absent: 0), sections.
///
/// A section is a kind byte, a length, and content; unknown kinds are skipped. Kind 1, of a parent of lite topics: time to
/// live + 1 in milliseconds (0: none), whether it ends unconsumed messages too (0 or 1), most lite topics. Kind 2: window of
/// de-duplication in milliseconds.
pub fn encode_topic(facts: &TopicFacts, queues: &[QueueId], spread: u32) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    put_varint(&mut bytes, u64::from(facts.read_queues));
    put_varint(&mut bytes, u64::from(facts.write_queues));
    put_varint(&mut bytes, facts.retention_millis.map_or(0, |millis| millis.max(0) as u64 + 1));
    put_text(&mut bytes, &facts.name);
    put_varint(&mut bytes, queues.len() as u64);
    for queue in queues {
        put_varint(&mut bytes, queue.0);
    }
    put_varint(&mut bytes, u64::from(spread));
    bytes.push(u8::from(facts.by_priority));
    if let Some(lite) = facts.lite {
        let mut section = Vec::new();
        put_varint(&mut section, lite.expire_millis.map_or(0, |millis| millis.max(0) as u64 + 1));
        section.push(u8::from(lite.expire_unconsumed));
        put_varint(&mut section, lite.topics_max);
        put_section(&mut bytes, SECTION_LITE, &section);
    }
    if let Some(millis) = facts.deduplicate_millis {
        let mut section = Vec::new();
        put_varint(&mut section, millis.max(0) as u64);
        put_section(&mut bytes, SECTION_DEDUPLICATE, &section);
    }
    bytes
}

const SECTION_LITE: u8 = 1;
const SECTION_DEDUPLICATE: u8 = 2;

fn put_section(bytes: &mut Vec<u8>, kind: u8, content: &[u8]) {
    bytes.push(kind);
    put_varint(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

/// The section of a kind, of those that are the rest of an image.
fn find_section<'a>(rest: &Reader<'a>, kind: u8) -> Result<Option<Reader<'a>>, CodecError> {
    let mut found = None;
    let mut from = Reader { bytes: rest.bytes, at: rest.at, what: rest.what };
    while !from.done() {
        let of = from.bytes(1)?;
        let len = usize::try_from(from.u64()?).map_err(|_| CodecError { what: from.what })?;
        let bytes = from.bytes(len)?;
        if of == [kind] {
            found = Some(Reader { bytes, at: 0, what: from.what });
        }
    }
    Ok(found)
}

/// Facts, queues, and the number of queues that message groups are spread over.
pub fn decode_topic(id: TopicId, bytes: &[u8]) -> Result<(TopicFacts, Vec<QueueId>, u32), CodecError> {
    let mut from = Reader::image(bytes, "topic")?;
    let (read_queues, write_queues) = (from.u32()?, from.u32()?);
    let retention_millis = from.u64()?.checked_sub(1).map(|millis| millis as i64);
    let name = from.text()?;
    let count = from.u64()?;
    let queues = (0..count).map(|_| from.u64().map(QueueId)).collect::<Result<_, _>>()?;
    let spread = if from.done() { write_queues } else { from.u32()? };
    let by_priority = !from.done() && from.bytes(1)? == [1];
    let deduplicate_millis = match find_section(&from, SECTION_DEDUPLICATE)? {
        Some(mut section) => Some(section.u64()? as i64),
        None => None,
    };
    let lite = match find_section(&from, SECTION_LITE)? {
        Some(mut section) => Some(LiteParent {
            expire_millis: section.u64()?.checked_sub(1).map(|millis| millis as i64),
            expire_unconsumed: section.bytes(1)? == [1],
            topics_max: section.u64()?,
        }),
        None => None,
    };
    let facts =
        TopicFacts { id, name, read_queues, write_queues, retention_millis, by_priority, lite, deduplicate_millis };
    Ok((facts, queues, spread))
}

/// Key 3: format, name, attempts, dead letters (0 discard, else topic + 1), back-off (0 and a list, or 1 and its
/// parameters), whether it is ordered (0 or 1; absent: 0), time it begins at + 1 (0 or absent: none),
/// sections as of a topic. Kind 1, of a group of lite topics: parent,
/// whether they are exclusive (0 or 1), most subscriptions of a client, whether it consumes all (0 or 1; absent: 0), what moves it
/// back (1: a takeover, 2: unsubscribing, or both; absent: 0).
pub fn encode_group(facts: &GroupFacts) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    put_text(&mut bytes, &facts.name);
    put_varint(&mut bytes, u64::from(facts.max_attempts));
    put_varint(
        &mut bytes,
        match facts.dead_letters {
            DeadLetters::Discard => 0,
            DeadLetters::Topic(topic) => u64::from(topic.0) + 1,
        },
    );
    match &facts.backoff {
        RetryBackoff::Customized(waits) => {
            bytes.push(0);
            put_varint(&mut bytes, waits.len() as u64);
            for &wait in waits {
                put_i64(&mut bytes, wait);
            }
        }
        RetryBackoff::Exponential { initial_millis, max_millis, multiplier } => {
            bytes.push(1);
            put_i64(&mut bytes, *initial_millis);
            put_i64(&mut bytes, *max_millis);
            bytes.extend_from_slice(&multiplier.to_le_bytes());
        }
    }
    bytes.push(u8::from(facts.ordered));
    put_varint(&mut bytes, facts.since.map_or(0, |since| since.0.max(0) as u64 + 1));
    if let Some(lite) = facts.lite {
        let mut section = Vec::new();
        put_varint(&mut section, u64::from(lite.parent.0));
        section.push(u8::from(lite.exclusive));
        put_varint(&mut section, u64::from(lite.subscriptions_max));
        section.push(u8::from(lite.wildcard));
        section.push(u8::from(lite.resets.exclusive) | u8::from(lite.resets.unsubscribe) << 1);
        put_section(&mut bytes, SECTION_LITE, &section);
    }
    bytes
}

pub fn decode_group(id: GroupId, bytes: &[u8]) -> Result<GroupFacts, CodecError> {
    let what = "consumer group";
    let mut from = Reader::image(bytes, what)?;
    let name = from.text()?;
    let max_attempts = from.u32()?;
    let dead_letters = match from.u64()? {
        0 => DeadLetters::Discard,
        topic => DeadLetters::Topic(TopicId(u32::try_from(topic - 1).map_err(|_| CodecError { what })?)),
    };
    let backoff = match from.bytes(1)? {
        [0] => {
            let count = from.u64()?;
            RetryBackoff::Customized((0..count).map(|_| from.i64()).collect::<Result<_, _>>()?)
        }
        [1] => RetryBackoff::Exponential {
            initial_millis: from.i64()?,
            max_millis: from.i64()?,
            multiplier: f64::from_le_bytes(from.bytes(8)?.try_into().map_err(|_| CodecError { what })?),
        },
        _ => return Err(CodecError { what }),
    };
    let ordered = !from.done() && from.bytes(1)? == [1];
    let since = if from.done() { 0 } else { from.u64()? };
    let since = since.checked_sub(1).map(|millis| UnixMillis(i64::try_from(millis).unwrap_or(i64::MAX)));
    let lite = match find_section(&from, SECTION_LITE)? {
        Some(mut section) => Some(LiteGroup {
            parent: TopicId(section.u32()?),
            exclusive: section.bytes(1)? == [1],
            subscriptions_max: section.u32()?,
            wildcard: !section.done() && section.bytes(1)? == [1],
            resets: match if section.done() { &[0] } else { section.bytes(1)? } {
                &[bits @ 0..=3] => LiteResets { exclusive: bits & 1 != 0, unsubscribe: bits & 2 != 0 },
                _ => return Err(CodecError { what }),
            },
        }),
        None => None,
    };
    Ok(GroupFacts { id, name, max_attempts, backoff, dead_letters, ordered, since, lite })
}

/// Key 4: format, topic, index, last store time, number of marks, marks as (time, offset).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueImage {
    pub topic: TopicId,
    pub index: u32,
    pub marks: Vec<(UnixMillis, QueueOffset)>,
}

/// Time marks of a queue: how many, then each as (time, offset).
fn put_marks(bytes: &mut Vec<u8>, marks: &[(UnixMillis, QueueOffset)]) {
    put_varint(bytes, marks.len() as u64);
    for (time, offset) in marks {
        put_i64(bytes, time.0);
        put_varint(bytes, offset.0);
    }
}

fn take_marks(from: &mut Reader<'_>) -> Result<Vec<(UnixMillis, QueueOffset)>, CodecError> {
    let count = from.u64()?;
    (0..count).map(|_| Ok((UnixMillis(from.i64()?), QueueOffset(from.u64()?)))).collect()
}

impl QueueImage {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        put_varint(&mut bytes, u64::from(self.topic.0));
        put_varint(&mut bytes, u64::from(self.index));
        put_marks(&mut bytes, &self.marks);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Reader::image(bytes, "queue")?;
        let (topic, index, marks) = (TopicId(from.u32()?), from.u32()?, take_marks(&mut from)?);
        Ok(Self { topic, index, marks })
    }
}

/// Key 20: format, parent, name, time of the last message as far as it was noted, due time of its timer (0: none), number of
/// marks, marks as (time, offset).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteImage {
    pub parent: TopicId,
    pub name: Arc<str>,
    pub last: UnixMillis,
    pub timer: UnixMillis,
    pub marks: Vec<(UnixMillis, QueueOffset)>,
}

impl LiteImage {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        put_varint(&mut bytes, u64::from(self.parent.0));
        put_text(&mut bytes, &self.name);
        put_i64(&mut bytes, self.last.0);
        put_i64(&mut bytes, self.timer.0);
        put_marks(&mut bytes, &self.marks);
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut from = Reader::image(bytes, "lite topic")?;
        let (parent, name) = (TopicId(from.u32()?), from.text()?);
        let (last, timer, marks) = (UnixMillis(from.i64()?), UnixMillis(from.i64()?), take_marks(&mut from)?);
        Ok(Self { parent, name, last, timer, marks })
    }
}

/// Keys 17 and 21: format, a number.
pub fn encode_number(number: u64) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    put_varint(&mut bytes, number);
    bytes
}

pub fn decode_number(bytes: &[u8], what: &'static str) -> Result<u64, CodecError> {
    Reader::image(bytes, what)?.u64()
}

/// Key 18, image and deltas alike: a list of changes, each a varint (length of the name, twice, plus 1 if it is taken out)
/// and the name.
pub fn put_lite_name(bytes: &mut Vec<u8>, name: &str, removed: bool) {
    put_varint(bytes, (name.len() as u64) << 1 | u64::from(removed));
    bytes.extend_from_slice(name.as_bytes());
}

/// The names that are left of a set.
pub fn decode_lite_set(state: &KeyState) -> Result<BTreeSet<Arc<str>>, CodecError> {
    let what = "lite subscriptions";
    let mut names = BTreeSet::new();
    for bytes in state.image.iter().chain(&state.deltas) {
        let mut from = Reader { bytes, at: 0, what };
        while !from.done() {
            let head = from.u64()?;
            let len = usize::try_from(head >> 1).map_err(|_| CodecError { what })?;
            let name = std::str::from_utf8(from.bytes(len)?).map_err(|_| CodecError { what })?;
            match head & 1 {
                0 => names.insert(Arc::from(name)),
                _ => names.remove(name),
            };
        }
    }
    Ok(names)
}

/// Key 19: format, last seen, version (absent: none).
pub fn encode_lite_lease(seen: UnixMillis, version: Option<i64>) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    put_i64(&mut bytes, seen.0);
    version.into_iter().for_each(|version| put_i64(&mut bytes, version));
    bytes
}

pub fn decode_lite_lease(bytes: &[u8]) -> Result<(UnixMillis, Option<i64>), CodecError> {
    let mut from = Reader::image(bytes, "lite lease")?;
    let seen = UnixMillis(from.i64()?);
    let version = if from.done() { None } else { Some(from.i64()?) };
    Ok((seen, version))
}

/// Key 5: format, next.
pub fn encode_frontier(next: QueueOffset) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    put_varint(&mut bytes, next.0);
    bytes
}

pub fn decode_frontier(bytes: &[u8]) -> Result<QueueOffset, CodecError> {
    Ok(QueueOffset(Reader::image(bytes, "frontier")?.u64()?))
}

/// Key 14: format, language (0 tags, 1 SQL92), last seen, expression.
pub fn encode_subscription(filter: &Filter, seen: UnixMillis) -> Vec<u8> {
    let mut bytes = vec![FORMAT, u8::from(matches!(filter, Filter::Sql(_)))];
    put_i64(&mut bytes, seen.0);
    put_text(&mut bytes, &filter.to_string());
    bytes
}

pub fn decode_subscription(bytes: &[u8]) -> Result<(Filter, UnixMillis), CodecError> {
    let what = "subscription";
    let mut from = Reader::image(bytes, what)?;
    let language = from.bytes(1)?;
    let seen = UnixMillis(from.i64()?);
    let expression = from.text()?;
    let filter = match language {
        [0] => Filter::tags(&expression),
        [1] => Filter::sql(&expression),
        _ => return Err(CodecError { what }),
    };
    Ok((filter.map_err(|_| CodecError { what })?, seen))
}

/// Key 6, deltas and images alike: a list of changes, each a kind byte and varints. Offsets are relative to the page.
///
/// | kind | change | content |
/// | --- | --- | --- |
/// | 1 | hand-out of a run for the first time | first, count, first delivery number, until |
/// | 2 | one slot | offset, attempts, delivery number, until (zigzag) |
/// | 3 | settled run | first, count |
/// | 4 | frontier | next |
/// | 5 | slot of a message group, never handed out | offset, hash of the group (8 bytes, big-endian) |
/// | 6 | run of slots that were never handed out | first, count |
pub fn put_change(bytes: &mut Vec<u8>, page_start: u64, change: &SlotChange) {
    match *change {
        SlotChange::Run { first, count, delivery, until } => {
            bytes.push(1);
            put_varint(bytes, first.0 - page_start);
            put_varint(bytes, count);
            put_varint(bytes, delivery.0);
            put_varint(bytes, until.0.max(0) as u64);
        }
        SlotChange::Set { offset, attempts, delivery, until } => {
            bytes.push(2);
            put_varint(bytes, offset.0 - page_start);
            put_varint(bytes, u64::from(attempts));
            put_varint(bytes, delivery.0);
            put_varint(bytes, until.0.max(0) as u64);
        }
        SlotChange::Close { first, count } => {
            bytes.push(3);
            put_varint(bytes, first.0 - page_start);
            put_varint(bytes, count);
        }
        SlotChange::Next { next } => {
            bytes.push(4);
            put_varint(bytes, next.0 - page_start);
        }
        SlotChange::Open { first, count } => {
            bytes.push(6);
            put_varint(bytes, first.0 - page_start);
            put_varint(bytes, count);
        }
        SlotChange::Enter { offset, key } => {
            bytes.push(5);
            put_varint(bytes, offset.0 - page_start);
            bytes.extend_from_slice(&key.to_be_bytes());
        }
    }
}

/// Reads a list of changes of the page that starts at this offset.
pub fn take_changes(bytes: &[u8], page_start: u64) -> Result<Vec<SlotChange>, CodecError> {
    let what = "progress page";
    let mut from = Reader { bytes, at: 0, what };
    let mut changes = Vec::new();
    let place = |relative: u64| page_start.checked_add(relative).map(QueueOffset).ok_or(CodecError { what });
    while !from.done() {
        changes.push(match from.bytes(1)? {
            [1] => SlotChange::Run {
                first: place(from.u64()?)?,
                count: from.u64()?,
                delivery: DeliveryNumber(from.u64()?),
                until: UnixMillis(from.u64()? as i64),
            },
            [2] => SlotChange::Set {
                offset: place(from.u64()?)?,
                attempts: from.u32()?,
                delivery: DeliveryNumber(from.u64()?),
                until: UnixMillis(from.u64()? as i64),
            },
            [3] => SlotChange::Close { first: place(from.u64()?)?, count: from.u64()? },
            [4] => SlotChange::Next { next: place(from.u64()?)? },
            [5] => SlotChange::Enter {
                offset: place(from.u64()?)?,
                key: u64::from_be_bytes(from.bytes(8)?.try_into().map_err(|_| CodecError { what })?),
            },
            [6] => SlotChange::Open { first: place(from.u64()?)?, count: from.u64()? },
            _ => return Err(CodecError { what }),
        });
    }
    Ok(changes)
}
