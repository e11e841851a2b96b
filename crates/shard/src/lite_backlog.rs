//! How many messages of lite topics each group has not settled: counted as it changes, kept in the store, told without a look at
//! any lite topic.
//!
//! Counted are the lite topics in which the group has been: it is from the first poll that looks at one on, or from the first message
//! that comes while a client subscribes to it; and then all messages that are there. What retention takes
//! from a lite topic of which the group's progress is not in memory leaves the count when that is read.

use crate::answer::ProgressFigures;
use crate::codec;
use crate::keys;
use crate::shard::Shard;
use bytes::Bytes;
use martlet_model::{GroupId, QueueId, QueueOffset};
use martlet_store::Op;
use std::collections::{BTreeMap, BTreeSet};

/// The counts, and which of them changed since the last batch.
#[derive(Debug, Default)]
pub(crate) struct Backlogs {
    pub of: BTreeMap<GroupId, u64>,
    changed: BTreeSet<GroupId>,
}

impl Backlogs {
    /// From so many to so many.
    pub fn change(&mut self, group: GroupId, before: u64, after: u64) {
        if before != after {
            let count = self.of.entry(group).or_default();
            *count = (*count + after).saturating_sub(before);
            self.changed.insert(group);
        }
    }

    /// The group has nothing to settle any more.
    pub fn forget(&mut self, group: GroupId) {
        if self.of.remove(&group).is_some() {
            self.changed.insert(group);
        }
    }

    /// Writes what changed.
    pub fn flush(&mut self, ops: &mut Vec<Op>) {
        for group in std::mem::take(&mut self.changed) {
            let key = keys::lite_unsettled(group);
            match self.of.get(&group).copied().filter(|&count| count > 0) {
                Some(count) => {
                    ops.push(Op::Put { key, image: Bytes::from(codec::encode_number(count)), keep_until: None });
                }
                None => {
                    self.of.remove(&group);
                    ops.push(Op::Remove { key });
                }
            }
        }
    }
}

impl<T> Shard<T> {
    /// Messages that a group has not settled in a lite topic in memory; 0 for anything else.
    pub(crate) fn unsettled_in_lite(&self, group: GroupId, queue: QueueId) -> u64 {
        match (self.queues.get(&queue).filter(|queue| queue.lite.is_some()), self.progress.get(&(group, queue))) {
            (Some(queue), Some(progress)) => {
                progress.open_slots() as u64 + queue.next.0.saturating_sub(progress.next().0)
            }
            _ => 0,
        }
    }

    /// A group has come to a lite topic for the first time.
    pub(crate) fn note_lite_consumer(&mut self, group: GroupId, queue: QueueId) {
        if let Some(lite) = self.queues.get_mut(&queue).and_then(|queue| queue.lite.as_mut())
            && !lite.consumers.contains(&group)
        {
            lite.consumers.push(group);
        }
        let unsettled = self.unsettled_in_lite(group, queue);
        self.lite.backlogs.change(group, 0, unsettled);
    }

    /// A message has been appended to a lite topic: one more for each group that has been there.
    pub(crate) fn count_lite_message(&mut self, queue: QueueId) {
        let Some(lite) = self.queues.get(&queue).and_then(|queue| queue.lite.as_ref()) else { return };
        for &group in lite.consumers.iter().filter(|group| self.groups.contains_key(*group)) {
            self.lite.backlogs.change(group, 0, 1);
        }
    }

    /// A message for a group that was never in this lite topic, which is in memory: from now on it has been.
    pub(crate) fn meet_lite(&mut self, group: GroupId, queue: QueueId) {
        let lite = self.queues.get(&queue).and_then(|queue| queue.lite.as_ref());
        if lite.is_some_and(|lite| !lite.consumers.contains(&group)) {
            self.wake_lite(group, queue, None);
        }
    }

    /// A group's lite topics together. Its parts say nothing of places: there is no one queue.
    pub(crate) fn lite_figures(&self, group: GroupId) -> Option<ProgressFigures> {
        let facts = self.lite_group(group)?;
        let unsettled = self.lite.backlogs.of.get(&group).copied().unwrap_or(0);
        let resident = self.progress.range((group, QueueId(0))..=(group, QueueId(u64::MAX)));
        let of_lite = resident.filter(|(key, _)| self.is_lite_queue(key.1));
        let (in_flight, open) = of_lite.fold((0, 0), |(in_flight, open), (_, progress)| {
            (in_flight + progress.in_flight(), open + progress.open_slots() as u64)
        });
        let waiting_retry = open - in_flight.min(open);
        let nowhere = QueueOffset(0);
        Some(ProgressFigures {
            topic: facts.parent,
            index: 0,
            queue: QueueId(u64::MAX),
            committed: nowhere,
            max: nowhere,
            oldest_ready: nowhere,
            in_flight,
            waiting_retry,
            ready: unsettled.saturating_sub(in_flight + waiting_retry),
        })
    }
}
