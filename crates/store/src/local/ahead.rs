//! Messages read before they are asked for.
//!
//! Whoever reads a queue on where its last read from the disk ended will most likely go on: one read then brings what the next
//! few will ask for, which are answered from memory, without a thread of the pool and without the index.
//!
//! In: reads, by queue and place. Out: messages. What is kept is thrown away whenever anything is trimmed or forgotten, so that
//! nothing is read that the store would not give.

use crate::{QueueId, QueueOffset, StoredMessage};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many times what is asked for is read.
const TIMES: usize = 4;
/// Bytes of records in one such read; who reads more at a time gains nothing by it.
const STRETCH_BYTES_MAX: usize = 256 << 10;
/// Bytes of records kept in all.
const BYTES_MAX: usize = 4 << 20;
/// Places kept at which somebody may go on.
const PLACES_MAX: usize = 1024;

/// Who begins so little behind where a read ended goes on there: ordered groups leave out what waits for an earlier message.
const LEFT_OUT_MAX: u64 = 8;

/// What a read takes at most, as [`crate::Reader::messages`] says.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) queue: QueueId,
    pub(super) range: Range<QueueOffset>,
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl Asked {
    /// The read that brings more than was asked for.
    pub(super) fn with_more(&self) -> Self {
        Self {
            queue: self.queue,
            range: self.range.start..QueueOffset(u64::MAX),
            messages: self.messages.saturating_mul(TIMES),
            bytes: STRETCH_BYTES_MAX,
        }
    }
}

/// Messages that follow each other in a queue, and what is known of the reads before.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    messages: VecDeque<StoredMessage>,
    /// Bytes of all that was read together with them: they share memory.
    bytes: usize,
    number: u64,
}

impl Stretch {
    /// What one read has brought.
    pub(super) fn new(messages: Vec<StoredMessage>) -> Self {
        let bytes = messages.iter().map(|message| message.record.len()).sum();
        Self { messages: messages.into(), bytes, number: 0 }
    }

    /// Takes out what was asked for; and whether a read of the store would bring no more.
    pub(super) fn take(&mut self, asked: &Asked) -> (Vec<StoredMessage>, bool) {
        let (mut taken, mut bytes) = (Vec::with_capacity(asked.messages.min(self.messages.len())), 0);
        while self.messages.pop_front_if(|next| next.offset < asked.range.start).is_some() {}
        while let Some(next) = self.messages.front() {
            let with_it = bytes + next.record.len();
            let is_over = next.offset >= asked.range.end || taken.len() == asked.messages;
            if is_over || !taken.is_empty() && with_it > asked.bytes {
                return (taken, true);
            }
            bytes = with_it;
            taken.extend(self.messages.pop_front());
        }
        let is_all =
            taken.len() == asked.messages || taken.last().is_some_and(|last| last.offset.next() >= asked.range.end);
        (taken, is_all)
    }
}

/// What was read ahead, by the place where it goes on.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    state: Mutex<State>,
}

type At = (QueueId, QueueOffset);

#[derive(Debug, Default)]
struct State {
    stretches: BTreeMap<At, Stretch>,
    /// Oldest first. Some are not there any more.
    order: VecDeque<(At, u64)>,
    bytes: usize,
    next_number: u64,
    /// How often all was thrown away.
    era: u64,
}

impl Ahead {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known at a place, taken out; `None`: no read has ended there or just before. And the era, for [`Ahead::put`].
    pub(super) fn take(&self, queue: QueueId, from: QueueOffset) -> (Option<Stretch>, u64) {
        let mut state = self.state();
        let near = (queue, QueueOffset(from.0.saturating_sub(LEFT_OUT_MAX)))..=(queue, from);
        let at = state.stretches.range(near).next_back().map(|(at, _)| *at);
        let found = at.and_then(|at| state.stretches.remove(&at));
        state.bytes -= found.as_ref().map_or(0, |stretch| stretch.bytes);
        (found, state.era)
    }

    /// A read has ended in front of a place. The rest of the stretch that it was taken from is kept for the next one, unless
    /// something was trimmed since the era.
    pub(super) fn put(&self, (queue, next): At, mut rest: Stretch, era: u64) {
        let mut state = self.state();
        if state.era != era || rest.bytes > STRETCH_BYTES_MAX {
            return;
        }
        if rest.messages.is_empty() {
            rest = Stretch::default();
        }
        rest.number = state.next_number;
        state.next_number += 1;
        state.order.push_back(((queue, next), rest.number));
        state.bytes += rest.bytes;
        let before = state.stretches.insert((queue, next), rest);
        state.bytes -= before.map_or(0, |stretch| stretch.bytes);
        while state.bytes > BYTES_MAX || state.order.len() > PLACES_MAX {
            let Some((at, number)) = state.order.pop_front() else { return };
            if state.stretches.get(&at).is_some_and(|stretch| stretch.number == number)
                && let Some(dropped) = state.stretches.remove(&at)
            {
                state.bytes -= dropped.bytes;
            }
        }
    }

    /// Something was trimmed or forgotten.
    pub(super) fn clear(&self) {
        let mut state = self.state();
        *state = State { era: state.era + 1, ..State::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use martlet_model::UnixMillis;

    const QUEUE: QueueId = QueueId(7);

    fn stretch(offsets: Range<u64>, bytes: usize) -> Stretch {
        let message = |offset| StoredMessage {
            queue: QUEUE,
            offset: QueueOffset(offset),
            store_time: UnixMillis(0),
            record: Bytes::from(vec![0; bytes]),
        };
        Stretch::new(offsets.map(message).collect())
    }

    fn asked(range: Range<u64>, messages: usize, bytes: usize) -> Asked {
        Asked { queue: QUEUE, range: QueueOffset(range.start)..QueueOffset(range.end), messages, bytes }
    }

    fn offsets(messages: &[StoredMessage]) -> Vec<u64> {
        messages.iter().map(|message| message.offset.0).collect()
    }

    #[test]
    fn a_stretch_gives_what_a_read_would_and_says_when_it_cannot() {
        let mut ahead = stretch(10..16, 100);
        let take = |ahead: &mut Stretch, range, messages, bytes| {
            let (taken, is_all) = ahead.take(&asked(range, messages, bytes));
            (offsets(&taken), is_all)
        };
        assert_eq!(take(&mut ahead, 10..12, 9, 9_999), (vec![10, 11], true), "as far as the range");
        assert_eq!(take(&mut ahead, 12..99, 1, 9_999), (vec![12], true), "as many");
        assert_eq!(take(&mut ahead, 13..99, 9, 50), (vec![13], true), "one at least, however large");
        assert_eq!(take(&mut ahead, 14..99, 9, 9_999), (vec![14, 15], false), "there may be more");
        assert_eq!(take(&mut stretch(14..16, 1), 14..16, 9, 9_999), (vec![14, 15], true));
        assert_eq!(take(&mut stretch(14..20, 1), 17..19, 9, 9_999), (vec![17, 18], true), "three are left out");
        assert_eq!(take(&mut stretch(14..16, 1), 17..19, 9, 9_999), (vec![], false));
    }

    #[test]
    fn what_is_kept_is_bounded_and_goes_when_something_is_trimmed() {
        let ahead = Ahead::default();
        let (none, era) = ahead.take(QUEUE, QueueOffset(0));
        assert!(none.is_none());
        for at in (0..64).map(|n| n * 100) {
            ahead.put((QUEUE, QueueOffset(at)), stretch(at..at + 2, 100_000), era);
        }
        assert!(ahead.state().bytes <= BYTES_MAX && ahead.take(QUEUE, QueueOffset(0)).0.is_none());
        assert!(ahead.take(QUEUE, QueueOffset(6_300)).0.is_some() && ahead.take(QUEUE, QueueOffset(6_300)).0.is_none());
        for at in 0..5_000 {
            ahead.put((QUEUE, QueueOffset(at)), Stretch::default(), era);
        }
        assert!(ahead.state().stretches.len() <= PLACES_MAX && ahead.state().order.len() <= PLACES_MAX);
        assert!(ahead.take(QUEUE, QueueOffset(4_999)).0.is_some());
        assert!(ahead.take(QueueId(8), QueueOffset(4_990)).0.is_none(), "of another queue");
        ahead.put((QUEUE, QueueOffset(6_000)), stretch(6_000..6_020, 1), era);
        assert!(ahead.take(QUEUE, QueueOffset(6_001 + LEFT_OUT_MAX)).0.is_none());
        assert!(ahead.take(QUEUE, QueueOffset(6_000 + LEFT_OUT_MAX)).0.is_some(), "just behind");
        ahead.clear();
        assert!(ahead.take(QUEUE, QueueOffset(4_998)).0.is_none() && ahead.state().bytes == 0);
        ahead.put((QUEUE, QueueOffset(1)), stretch(1..2, 1), era);
        assert!(ahead.take(QUEUE, QueueOffset(1)).0.is_none(), "read before something was trimmed");
    }
}
