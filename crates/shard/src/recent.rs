//! Which message groups the newest messages are of, so that ordered groups that keep up need not have them read for that.
//!
//! Each queue knows it of a run of messages that ends with the newest one that has a message group; all queues together know it of
//! [`crate::ShardOptions::recent_groups_max`]. A message without one is a gap: of it and what is before it the reader stage is asked.

use crate::shard::Shard;
use martlet_model::{QueueId, QueueOffset};
use std::collections::VecDeque;
use std::ops::Range;

/// Message groups ([`crate::message_group`]) of the newest messages of a queue, without a gap.
#[derive(Debug, Default)]
pub struct RecentGroups {
    first: QueueOffset,
    groups: VecDeque<u64>,
}

impl RecentGroups {
    fn push(&mut self, offset: QueueOffset, group: u64) {
        if offset.0 != self.first.0 + self.groups.len() as u64 {
            *self = Self { first: offset, groups: VecDeque::new() };
        }
        self.groups.push_back(group);
    }

    fn pop(&mut self) {
        if self.groups.pop_front().is_some() {
            self.first = self.first.next();
        }
        if self.groups.is_empty() {
            self.groups = VecDeque::new();
        }
    }

    /// The groups of these messages, if all are known.
    pub fn of(&self, range: &Range<QueueOffset>) -> Option<impl Iterator<Item = (QueueOffset, u64)>> {
        let from = usize::try_from(range.start.0.checked_sub(self.first.0)?).ok()?;
        let to = usize::try_from(range.end.0.checked_sub(self.first.0)?).ok()?;
        if from > to || to > self.groups.len() {
            return None;
        }
        Some((range.start.0..).map(QueueOffset).zip(self.groups.range(from..to).copied()))
    }
}

impl<T> Shard<T> {
    /// The newest message of a queue is of this message group.
    pub(crate) fn note_message_group(&mut self, id: QueueId, offset: QueueOffset, group: u64) {
        if self.options.recent_groups_max == 0 {
            return;
        }
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.recent.push(offset, group);
            self.recent_order.push_back(id);
        }
        if self.recent_order.len() > self.options.recent_groups_max
            && let Some(oldest) = self.recent_order.pop_front()
            && let Some(queue) = self.queues.get_mut(&oldest)
        {
            queue.recent.pop();
        }
    }
}
