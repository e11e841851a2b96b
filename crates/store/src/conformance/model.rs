//! The naive model of a store: a few maps, changed one operation after the other.

use super::block_on;
use crate::{Batch, KeyState, Op, Reader, StoredMessage, Term};
use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use std::collections::BTreeMap;

/// What a store that was given some batches must answer.
#[derive(Clone, Debug, Default)]
pub struct Model {
    queues: BTreeMap<QueueId, ModelQueue>,
    keys: BTreeMap<Bytes, KeyState>,
    /// Term and when it was appended, so that the order of `find` is known.
    terms: Vec<(Term, QueueId, QueueOffset)>,
    time: UnixMillis,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct ModelQueue {
    trim: QueueOffset,
    next: QueueOffset,
    messages: BTreeMap<QueueOffset, StoredMessage>,
}

impl Model {
    /// Applies a batch.
    pub fn apply(&mut self, batch: &Batch) {
        self.time = batch.time;
        for op in &batch.ops {
            match op.clone() {
                Op::Append { queue, offset, record, terms, .. } => {
                    let state = self.queues.entry(queue).or_default();
                    assert_eq!(offset, state.next, "a test appends at the end");
                    state.next = offset.next();
                    state.messages.insert(offset, StoredMessage { queue, offset, store_time: batch.time, record });
                    self.terms.extend(terms.into_iter().map(|term| (term, queue, offset)));
                }
                Op::Restore { message, terms, .. } => {
                    let (queue, offset) = (message.queue, message.offset);
                    let state = self.queues.entry(queue).or_default();
                    assert!(offset >= state.next, "a test restores upwards");
                    state.next = offset.next();
                    state.messages.insert(offset, message);
                    self.terms.extend(terms.into_iter().map(|term| (term, queue, offset)));
                }
                Op::Put { key, image, .. } => {
                    self.keys.insert(key, KeyState { image: Some(image), deltas: Vec::new() });
                }
                Op::Delta { key, delta } => self.keys.entry(key).or_default().deltas.push(delta),
                Op::Remove { key } => {
                    self.keys.remove(&key);
                }
                Op::Trim { queue, below } => {
                    let state = self.queues.entry(queue).or_default();
                    state.trim = state.trim.max(below);
                    state.next = state.next.max(below);
                    let kept = state.messages.split_off(&state.trim);
                    state.messages = kept;
                    self.forget_terms();
                }
                Op::Forget { queue } => {
                    self.queues.remove(&queue);
                    self.forget_terms();
                }
            }
        }
    }

    fn forget_terms(&mut self) {
        let queues = &self.queues;
        self.terms
            .retain(|(_, queue, offset)| queues.get(queue).is_some_and(|state| state.messages.contains_key(offset)));
    }

    /// The bounds of a queue.
    pub fn bounds(&self, queue: QueueId) -> Option<std::ops::Range<QueueOffset>> {
        self.queues.get(&queue).map(|state| state.trim..state.next)
    }

    /// All keys there are.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    /// All queues there are.
    pub fn queues(&self) -> impl Iterator<Item = QueueId> {
        self.queues.keys().copied()
    }

    /// Time of the last batch.
    pub fn time(&self) -> UnixMillis {
        self.time
    }

    /// Bytes of records and images that are alive.
    pub fn live_bytes(&self) -> u64 {
        let records = self.queues.values().flat_map(|queue| queue.messages.values()).map(|m| m.record.len());
        let keys = self.keys.iter().map(|(key, state)| {
            key.len() + state.image.as_ref().map_or(0, Bytes::len) + state.deltas.iter().map(Bytes::len).sum::<usize>()
        });
        (records.sum::<usize>() + keys.sum::<usize>()) as u64
    }

    /// Whether both hold the same, whatever the order of messages of one term.
    pub fn holds_the_same_as(&self, other: &Self) -> bool {
        let by_term = |model: &Self| {
            let mut terms = model.terms.clone();
            terms.sort_unstable();
            terms
        };
        self.queues == other.queues && self.keys == other.keys && by_term(self) == by_term(other)
    }

    /// Asks the store everything the model knows and says what differs first.
    pub fn compare<R: Reader>(&self, reader: &R) -> Result<(), String> {
        fn differs<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, found: T) -> Result<(), String> {
            if expected == found { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}")) }
        }
        let everything = QueueOffset(0)..QueueOffset(u64::MAX);
        for (queue, state) in &self.queues {
            let found = block_on(reader.bounds(*queue)).map_err(|error| error.to_string())?;
            differs(&format!("bounds of {queue:?}"), Some(state.trim..state.next), found)?;
            let found = block_on(reader.messages(*queue, everything.clone(), usize::MAX, usize::MAX));
            let found = found.map_err(|error| error.to_string())?;
            let expected: Vec<_> = state.messages.values().cloned().collect();
            if expected != found {
                let places = |messages: &[StoredMessage]| {
                    messages.iter().map(|m| (m.offset.0, m.store_time.0, m.record.len())).collect::<Vec<_>>()
                };
                return Err(format!(
                    "messages of {queue:?}: expected {:?}, found {:?}",
                    places(&expected),
                    places(&found)
                ));
            }
        }
        let all = Bytes::new()..Bytes::from_static(&[0xff; 513]);
        let found = block_on(reader.scan(all, usize::MAX)).map_err(|error| error.to_string())?;
        let expected: Vec<_> = self.keys.iter().map(|(key, state)| (key.clone(), state.clone())).collect();
        differs("scan of all keys", expected, found)?;
        for (key, state) in &self.keys {
            let found = block_on(reader.get(key)).map_err(|error| error.to_string())?;
            differs(&format!("key {key:?}"), Some(state), found.as_ref())?;
        }
        let mut by_term: BTreeMap<Term, Vec<(QueueId, QueueOffset)>> = BTreeMap::new();
        for (term, queue, offset) in self.terms.iter().rev() {
            by_term.entry(*term).or_default().push((*queue, *offset));
        }
        for (term, places) in by_term {
            let found = block_on(reader.find(term, usize::MAX)).map_err(|error| error.to_string())?;
            differs(&format!("places of {term:?}"), places, found)?;
        }
        Ok(())
    }
}
