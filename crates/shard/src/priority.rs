//! Topics whose messages are delivered by priority.
//!
//! The queues of such a topic are its levels: a message of priority `p` goes to queue `min(p, write queues - 1)`, so that
//! retries, which are slots of the original message, keep theirs.
//!
//! Rules
//! - A poll takes from the highest level first and goes down only when a level has nothing left for it. A level that the
//!   reader stage looks through for a filter is not passed meanwhile.
//! - A level that has something and gets nothing is *passed over*. Before it is so by [`BATCHES`] batches in a row, and
//!   once it has been so for [`AGE_MILLIS`], it comes first: all such levels together in at most half of the batch, at
//!   least one message, the one that waits longest first.
//! - With batches of one message and more than [`BATCHES`] levels that have something, each gets its turn once in as many
//!   batches as there are such levels.
//!
//! Who was passed over is known in memory only; an opening begins the count anew.

use crate::answer::HandOut;
use crate::command::ReceiveCommand;
use crate::shard::Shard;
use martlet_model::record::{self, Field};
use martlet_model::{GroupId, QueueId, TopicId, UnixMillis};
use std::collections::BTreeMap;

/// Of so many batches in a row one at least has a message of every level that has any.
pub const BATCHES: u32 = 32;
/// After so long it is the next batch.
pub const AGE_MILLIS: i64 = 5_000;

/// The priority a record says; 0 if it says none.
pub fn priority_of(record: &[u8]) -> u32 {
    let priority = record::find(record, |field| match field {
        Field::Priority(priority) => Some(priority),
        _ => None,
    });
    priority.and_then(|priority| u32::try_from(priority).ok()).unwrap_or(0)
}

/// A level that has something and gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PassedOver {
    since: UnixMillis,
    batches: u32,
}

/// Levels passed over, by topic and group; at most as many as those have queues.
#[derive(Debug, Default)]
pub struct Levels {
    passed_over: BTreeMap<(TopicId, GroupId), BTreeMap<QueueId, PassedOver>>,
}

impl Levels {
    /// Levels whose turn it is, the one that waits longest first.
    fn aged(&self, key: (TopicId, GroupId), now: UnixMillis) -> Vec<QueueId> {
        let Some(levels) = self.passed_over.get(&key) else { return Vec::new() };
        // Batches of one message serve one of them at a time, and the last is to have its turn in time.
        let batches = (BATCHES - 1).saturating_sub(levels.len() as u32 - 1).max(1);
        let is_aged = |level: &PassedOver| level.batches >= batches || now.since(level.since) >= AGE_MILLIS;
        let mut aged: Vec<_> = levels.iter().filter(|(_, level)| is_aged(level)).collect();
        aged.sort_by_key(|(_, level)| (std::cmp::Reverse(level.batches), level.since));
        aged.into_iter().map(|(&queue, _)| queue).collect()
    }

    /// A batch has left; these levels have something and got nothing of it.
    fn batch(&mut self, key: (TopicId, GroupId), now: UnixMillis, passed_over: &[QueueId]) {
        if passed_over.is_empty() {
            self.passed_over.remove(&key);
            return;
        }
        let levels = self.passed_over.entry(key).or_default();
        levels.retain(|queue, _| passed_over.contains(queue));
        for &queue in passed_over {
            levels.entry(queue).or_insert(PassedOver { since: now, batches: 0 }).batches += 1;
        }
    }

    /// Topics or groups are gone.
    pub fn forget(&mut self, of: impl Fn(&(TopicId, GroupId)) -> bool) {
        self.passed_over.retain(|key, _| !of(key));
    }
}

impl<T> Shard<T> {
    /// Hands out at most `limit` messages of a topic with levels. `queues` are its queues that are resident, in order.
    pub(crate) fn hand_out_by_priority(
        &mut self,
        receive: &ReceiveCommand,
        bit: u32,
        queues: &[QueueId],
        limit: u64,
        until: UnixMillis,
        out: &mut Vec<HandOut>,
    ) {
        let key = (receive.topic, receive.group);
        let aged = self.levels.aged(key, self.now);
        let mut room = (limit / 2).max(1);
        let mut left = aged.len() as u64;
        for queue in aged.into_iter().filter(|queue| queues.contains(queue)) {
            if room == 0 {
                break;
            }
            let before = out.len() as u64;
            self.hand_out_from(receive, bit, &[queue], room.div_ceil(left), until, out);
            room -= (out.len() as u64 - before).min(room);
            left -= 1;
        }
        for (at, &queue) in queues.iter().enumerate().rev() {
            let left = limit - (out.len() as u64).min(limit);
            if left == 0 {
                break;
            }
            self.hand_out_from(receive, bit, &[queue], left, until, out);
            let is_looked_through =
                |progress: &crate::progress::Progress| progress.lent.is_some() || progress.classifying.is_some();
            let is_full = out.len() as u64 >= limit;
            if !is_full && self.progress.get(&(receive.group, queue)).is_some_and(is_looked_through) {
                // What is below may be looked through at the same time.
                for &queue in &queues[..at] {
                    self.hand_out_from(receive, bit, &[queue], 0, until, out);
                }
                break;
            }
        }
        if !out.is_empty() {
            let passed_over: Vec<QueueId> = queues
                .iter()
                .copied()
                .filter(|&queue| out.iter().all(|hand_out| hand_out.queue != queue))
                .filter(|&queue| self.available_in(receive.group, queue) > 0)
                .collect();
            self.levels.batch(key, self.now, &passed_over);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_model::record::RecordWriter;

    const KEY: (TopicId, GroupId) = (TopicId(1), GroupId(2));

    #[test]
    fn a_record_without_a_usable_priority_is_of_the_lowest_level() {
        let record = |priority: Option<i32>| {
            let mut writer = RecordWriter::with_capacity(16);
            if let Some(priority) = priority {
                writer.field(Field::Priority(priority));
            }
            priority_of(&writer.finish(b"body"))
        };
        assert_eq!([record(None), record(Some(-1)), record(Some(i32::MAX))], [0, 0, i32::MAX as u32]);
        assert_eq!(priority_of(b"not a record"), 0);
    }

    /// Batches of one message while every level has something: the longest gap of any level.
    fn longest_gap(count: u64) -> u64 {
        let (all, now) = ((0..count).map(QueueId).collect::<Vec<_>>(), UnixMillis(0));
        let mut levels = Levels::default();
        let mut last = vec![0; count as usize];
        let mut longest = 0;
        for batch in 1..=1_000 {
            let served = levels.aged(KEY, now).first().map_or(count - 1, |level| level.0);
            longest = longest.max(batch - last[served as usize]);
            last[served as usize] = batch;
            let passed_over: Vec<_> = all.iter().copied().filter(|level| level.0 != served).collect();
            levels.batch(KEY, now, &passed_over);
        }
        last.iter().fold(longest, |longest, last| longest.max(1_000 - last))
    }

    #[test]
    fn with_batches_of_one_every_level_has_its_turn_within_as_many_as_were_promised() {
        for count in 1..=u64::from(BATCHES) {
            assert!(longest_gap(count) <= u64::from(BATCHES), "{count} levels: {}", longest_gap(count));
        }
        assert!(longest_gap(100) <= 101);
    }

    #[test]
    fn time_ages_too_and_what_was_served_starts_over() {
        let mut levels = Levels::default();
        levels.batch(KEY, UnixMillis(0), &[QueueId(0)]);
        levels.batch(KEY, UnixMillis(4_000), &[QueueId(0), QueueId(1)]);
        assert_eq!(levels.aged(KEY, UnixMillis(4_999)), []);
        assert_eq!(levels.aged(KEY, UnixMillis(5_000)), [QueueId(0)]);
        levels.batch(KEY, UnixMillis(5_000), &[QueueId(1)]);
        levels.batch(KEY, UnixMillis(6_000), &[QueueId(0), QueueId(1)]);
        assert_eq!(levels.aged(KEY, UnixMillis(9_000)), [QueueId(1)]);
        assert_eq!(levels.aged(KEY, UnixMillis(11_000)), [QueueId(1), QueueId(0)]);
        levels.forget(|key| key.0 == TopicId(1));
        assert_eq!(levels.aged(KEY, UnixMillis(99_000)), []);
    }
}
