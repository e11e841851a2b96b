//! De-duplication of a producer's own send retries, in topics that ask for it.
//!
//! Rules
//! - A message whose id was stored in the topic within the topic's window is not stored again by a send: its sender is told
//!   the first one's place, no sooner than that is durable.
//! - Stored means: put in a queue of the topic, by a send, a delivery, a commit or the resending of a dead letter, or put
//!   among those that wait for their delivery timestamp. A delayed message therefore counts anew from its delivery.
//! - Half messages are known among themselves: one that is sent again has the first one's place and transaction, ended or
//!   not. What a commit stores is known like any other message.
//! - Only sends are left out. What a delivery, a commit or the resending of a dead letter stores is stored.
//! - Ids are remembered for the window, and at most [`limits::DEDUPLICATION_IDS_MAX`] of all topics of a shard: beyond it the
//!   oldest are forgotten, and counted.
//! - They are in memory only. An opening reads them back: [`crate::dedup_open`].
//!
//! Ids are told apart by 128 bits of SipHash.
//!
//! [`limits::DEDUPLICATION_IDS_MAX`]: martlet_model::limits::DEDUPLICATION_IDS_MAX

use crate::answer::Placed;
use crate::command::HalfPlace;
use crate::delay::message_id;
use crate::shard::Shard;
use martlet_model::{TopicId, UnixMillis};
use std::collections::{BTreeMap, VecDeque};
use std::hash::Hasher as _;

/// What an id is told apart by: messages by kind 0, half messages by kind 1. An empty id is none.
fn hash_of(kind: u8, id: &str) -> Option<u128> {
    if id.is_empty() {
        return None;
    }
    let mut hasher = siphasher::sip128::SipHasher13::new_with_keys(0x6d61_7274_6c65_7431, 0x6d73_675f_6964_7631);
    hasher.write_u8(kind);
    hasher.write(id.as_bytes());
    Some(siphasher::sip128::Hasher128::finish128(&hasher).as_u128())
}

/// What a message is known by.
pub(crate) fn id_of(record: &[u8]) -> Option<u128> {
    hash_of(0, message_id(record)?)
}

/// What a half message with this message id is known by.
pub(crate) fn half_id_of(id: &str) -> Option<u128> {
    hash_of(1, id)
}

/// Where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Message(Placed),
    Half(HalfPlace),
}

/// When and where something was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub at: UnixMillis,
    pub known: Known,
}

/// The ids remembered.
#[derive(Debug, Default)]
pub(crate) struct KnownIds {
    ids: BTreeMap<(TopicId, u128), Stored>,
    /// As they came; an id that was stored anew is in it more than once.
    order: VecDeque<(UnixMillis, TopicId, u128)>,
    /// What could not be read back at the opening, in words.
    pub not_read: Vec<String>,
}

impl KnownIds {
    pub fn find(&self, topic: TopicId, id: u128) -> Option<Stored> {
        self.ids.get(&(topic, id)).copied()
    }

    /// Notes where something is, and forgets what is over or too much. `is_over` says of a topic and a time whether the
    /// topic's window since then has passed. Gives back how many were forgotten before that.
    pub fn note(
        &mut self,
        topic: TopicId,
        id: u128,
        stored: Stored,
        ids_max: usize,
        is_over: impl Fn(TopicId, UnixMillis) -> bool,
    ) -> u64 {
        let mut early = 0;
        self.ids.insert((topic, id), stored);
        self.order.push_back((stored.at, topic, id));
        while let Some(&(at, topic, id)) = self.order.front() {
            let over = is_over(topic, at);
            if self.order.len() <= ids_max && !over {
                break;
            }
            self.order.pop_front();
            if self.ids.get(&(topic, id)).is_some_and(|stored| stored.at == at) {
                self.ids.remove(&(topic, id));
                early += u64::from(!over);
            }
        }
        early
    }

    /// A topic is gone, or does not ask for it any more.
    pub fn forget(&mut self, topic: TopicId) {
        if self.ids.range((topic, 0)..=(topic, u128::MAX)).next().is_some() {
            self.ids.retain(|key, _| key.0 != topic);
            self.order.retain(|entry| entry.1 != topic);
        }
    }
}

impl<T> Shard<T> {
    fn window_of(&self, topic: TopicId) -> Option<i64> {
        let facts = &self.topics.get(&topic)?.facts;
        // An id may come in several lite topics of one parent.
        facts.deduplicate_millis.filter(|_| facts.lite.is_none())
    }

    /// What is known within the topic's window.
    fn known(&self, topic: TopicId, id: u128) -> Option<Stored> {
        let window = self.window_of(topic)?;
        self.known_ids.find(topic, id).filter(|stored| self.now.since(stored.at) < window)
    }

    /// The id that a message is known by; `None` where the topic does not ask for it.
    pub(crate) fn id_to_know(&self, topic: TopicId, record: &[u8]) -> Option<u128> {
        self.window_of(topic)?;
        id_of(record)
    }

    /// Where a message with this id is, if it was stored within the topic's window.
    pub(crate) fn known_place(&self, topic: TopicId, id: Option<u128>) -> Option<Placed> {
        match self.known(topic, id?)?.known {
            Known::Message(placed) => Some(placed),
            Known::Half(_) => None,
        }
    }

    /// Where a half message with this message id is, and when it was sent, if that was within the topic's window.
    pub(crate) fn known_half(&self, topic: TopicId, id: &str) -> Option<(HalfPlace, UnixMillis)> {
        self.window_of(topic)?;
        match self.known(topic, half_id_of(id)?)? {
            Stored { at, known: Known::Half(place) } => Some((place, at)),
            Stored { known: Known::Message(_), .. } => None,
        }
    }

    /// Remembers where a message is. While the first with an id is known, later ones are not, but for the one whose time to
    /// be delivered has come.
    pub(crate) fn note_place(&mut self, topic: TopicId, id: Option<u128>, placed: Placed) {
        let Some(id) = id else { return };
        match (self.known_place(topic, Some(id)), placed) {
            (None, _) | (Some(Placed::Later(_)), Placed::Now(..)) => self.note(topic, id, Known::Message(placed)),
            (Some(_), _) => {}
        }
    }

    /// Remembers where a half message is.
    pub(crate) fn note_half(&mut self, topic: TopicId, id: &str, place: HalfPlace) {
        if let Some(id) = half_id_of(id).filter(|_| self.window_of(topic).is_some()) {
            self.note(topic, id, Known::Half(place));
        }
    }

    fn note(&mut self, topic: TopicId, id: u128, known: Known) {
        let (now, topics) = (self.now, &self.topics);
        let is_over = |topic: TopicId, at: UnixMillis| {
            let window = topics.get(&topic).and_then(|topic| topic.facts.deduplicate_millis);
            window.is_none_or(|window| now.since(at) >= window)
        };
        let stored = Stored { at: now, known };
        self.counters.ids_forgotten += self.known_ids.note(topic, id, stored, self.options.known_ids_max, is_over);
    }

    /// Message ids remembered to recognise send retries.
    pub fn known_ids(&self) -> usize {
        self.known_ids.ids.len()
    }

    /// What was not read back at the opening, in words: send retries of messages stored before may be stored again.
    pub fn known_ids_not_read(&self) -> &[String] {
        &self.known_ids.not_read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_model::QueueOffset;
    use martlet_model::record::{Field, RecordWriter};

    #[test]
    fn what_is_remembered_is_bounded_by_number_and_by_time() {
        let (topic, other, ids_max) = (TopicId(1), TopicId(2), 1_000);
        let at = |n: u64| Stored { at: UnixMillis(n as i64), known: Known::Message(Placed::Now(0, QueueOffset(n))) };
        let mut known = KnownIds::default();
        let count = ids_max as u64 + 100;
        let early: u64 = (0..count).map(|n| known.note(topic, u128::from(n), at(n), ids_max, |_, _| false)).sum();
        assert_eq!((known.ids.len(), known.order.len(), early), (ids_max, ids_max, 100));
        assert_eq!(known.find(topic, 99), None);
        assert_eq!(known.find(topic, 100), Some(at(100)));
        // A place noted anew outlives the first note of it, and what is over is not forgotten early.
        assert_eq!(known.note(topic, 100, at(count), ids_max, |_, at| at.0 < 500), 0);
        assert_eq!(known.find(topic, 100), Some(at(count)));
        assert_eq!(known.find(topic, 499), None);
        assert_eq!(known.find(other, 600), None);
        known.forget(other);
        known.forget(topic);
        assert_eq!((known.ids.len(), known.order.len()), (0, 0));
    }

    #[test]
    fn ids_are_told_apart_and_a_record_without_one_has_none() {
        let record = |id: &str| {
            let mut writer = RecordWriter::with_capacity(16);
            writer.field(Field::MessageId(id));
            writer.finish(b"body")
        };
        assert_eq!(id_of(&record("a")), id_of(&record("a")));
        assert_ne!(id_of(&record("a")), id_of(&record("b")));
        assert_ne!(id_of(&record("a")), half_id_of("a"));
        assert_eq!(half_id_of("a"), half_id_of("a"));
        assert_eq!(id_of(&RecordWriter::with_capacity(0).finish(b"body")), None);
        assert_eq!((id_of(&record("")), half_id_of("")), (None, None));
    }
}
