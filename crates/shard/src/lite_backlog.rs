//! How many messages of lite topics each group has not settled, and since when: counted as it changes, kept in the store, told
//! without a look at any lite topic, or at few.
//!
//! Counted are the lite topics in which the group has been: it is from the first poll that looks at one on, or from the first message
//! that comes while a client subscribes to it; and then all messages that are there. What retention takes
//! from a lite topic of which the group's progress is not in memory leaves the count when that is read.
//!
//! Of each lite topic that a group has not settled there is a key with a time (key 21, 3), in the order of these. Not earlier than
//! that were the messages stored which it has not settled: it is when the first of them was, and stays while others take its
//! place, so that settling costs nothing until there is none left. Whoever asks for the oldest message goes through the keys until the
//! next time is later than the oldest message so far ([`crate::lite_look::lite_oldest`]), and has the times
//! corrected that turned out to be early.

use crate::answer::ProgressFigures;
use crate::codec;
use crate::command::LiteAge;
use crate::keys;
use crate::queue::LiteConsumer;
use crate::resident::Entity;
use crate::shard::Shard;
use bytes::Bytes;
use martlet_model::{GroupId, QueueId, QueueOffset, UnixMillis};
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
            && !lite.consumers.iter().any(|consumer| consumer.group == group)
        {
            lite.consumers.push(LiteConsumer { group, since: None });
        }
        let unsettled = self.unsettled_in_lite(group, queue);
        self.backlog_changed(group, queue, 0, unsettled);
    }

    /// What a group has not settled in a lite topic in memory were so many messages, and are so many now.
    pub(crate) fn backlog_changed(&mut self, group: GroupId, queue: QueueId, before: u64, after: u64) {
        self.lite.backlogs.change(group, before, after);
        match self.lite_since(group, queue) {
            Some(_) if after == 0 => self.note_since(group, queue, None),
            None if after > 0 => self.note_since(group, queue, self.stored_since(group, queue)),
            _ => {}
        }
    }

    /// A group's progress in a lite topic has been read.
    pub(crate) fn backlog_loaded(&mut self, group: GroupId, queue: QueueId) {
        let unsettled = self.unsettled_in_lite(group, queue);
        self.backlog_changed(group, queue, unsettled, unsettled);
    }

    /// A group went back in a lite topic, perhaps behind what was the oldest.
    pub(crate) fn note_went_back(&mut self, group: GroupId, queue: QueueId) {
        if let Some(since) = self.lite_since(group, queue) {
            let stored = self.stored_since(group, queue);
            self.note_since(group, queue, Some(stored.map_or(since, |stored| stored.min(since))));
        }
    }

    /// No message that a group has not settled in a lite topic in memory is older than this.
    fn stored_since(&self, group: GroupId, queue: QueueId) -> Option<UnixMillis> {
        let committed = self.progress.get(&(group, queue))?.committed();
        Some(self.queues.get(&queue)?.stored_since(committed))
    }

    fn lite_since(&self, group: GroupId, queue: QueueId) -> Option<UnixMillis> {
        let consumers = &self.queues.get(&queue)?.lite.as_ref()?.consumers;
        consumers.iter().find(|consumer| consumer.group == group)?.since
    }

    fn note_since(&mut self, group: GroupId, queue: QueueId, since: Option<UnixMillis>) {
        let lite = self.queues.get_mut(&queue).and_then(|queue| queue.lite.as_mut());
        let consumer = lite.and_then(|lite| lite.consumers.iter_mut().find(|consumer| consumer.group == group));
        let Some(consumer) = consumer.filter(|consumer| consumer.since != since) else { return };
        if let Some(old) = std::mem::replace(&mut consumer.since, since) {
            self.ops.push(Op::Remove { key: keys::lite_since(group, old, queue) });
        }
        if let Some(since) = since {
            let image = Bytes::from(codec::encode_number(since.0.max(0) as u64));
            self.ops.push(Op::Put { key: keys::consumer(queue, group), image, keep_until: None });
            let key = keys::lite_since(group, since, queue);
            self.ops.push(Op::Put { key, image: Bytes::new(), keep_until: None });
        }
        self.note_changed_in(Entity::Queue(queue));
    }

    /// A lite topic ends: no group has anything to settle in it.
    pub(crate) fn forget_since(&mut self, queue: QueueId) {
        let lite = self.queues.get(&queue).and_then(|queue| queue.lite.as_ref());
        let groups: Vec<GroupId> = lite.iter().flat_map(|lite| &lite.consumers).map(|known| known.group).collect();
        groups.into_iter().for_each(|group| self.note_since(group, queue, None));
    }

    /// What was found of lite topics, which are in memory now as far as they still are: what a group has not settled there is younger
    /// than was noted.
    pub(crate) fn correct_since(&mut self, group: GroupId, found: &[LiteAge]) {
        for &LiteAge { queue, since, committed, oldest } in found {
            if !self.queues.contains_key(&queue) {
                self.ops.push(Op::Remove { key: keys::lite_since(group, since, queue) });
                continue;
            }
            let Some(progress) = self.progress.get(&(group, queue)) else { continue };
            // Since it was looked at the group may have gone back, or have settled everything and got something new.
            if self.lite_since(group, queue) != Some(since) || progress.committed() < committed {
                continue;
            }
            match self.unsettled_in_lite(group, queue) {
                0 => self.note_since(group, queue, None),
                _ => self.note_since(group, queue, Some(oldest.max(since))),
            }
        }
    }

    /// A message has been appended to a lite topic: one more for each group that has been there.
    pub(crate) fn count_lite_message(&mut self, queue: QueueId) {
        let Some(lite) = self.queues.get(&queue).and_then(|queue| queue.lite.as_ref()) else { return };
        let there = |consumer: &&LiteConsumer| self.groups.contains_key(&consumer.group);
        let groups: Vec<LiteConsumer> = lite.consumers.iter().filter(there).copied().collect();
        for LiteConsumer { group, since } in groups {
            self.lite.backlogs.change(group, 0, 1);
            if since.is_none() {
                self.note_since(group, queue, Some(self.now));
            }
        }
    }

    /// A message for a group that was never in this lite topic, which is in memory: from now on it has been.
    pub(crate) fn meet_lite(&mut self, group: GroupId, queue: QueueId) {
        let lite = self.queues.get(&queue).and_then(|queue| queue.lite.as_ref());
        if lite.is_some_and(|lite| !lite.consumers.iter().any(|consumer| consumer.group == group)) {
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
            queue: ProgressFigures::LITE_TOPICS,
            committed: nowhere,
            max: nowhere,
            oldest_ready: nowhere,
            in_flight,
            waiting_retry,
            ready: unsettled.saturating_sub(in_flight + waiting_retry),
        })
    }
}
