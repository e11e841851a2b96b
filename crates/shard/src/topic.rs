//! A topic of the shard, and which of its queues a message goes to.

use crate::command::TopicFacts;
use crate::priority::priority_of;
use martlet_model::{QueueId, record};

pub(crate) struct Topic {
    pub facts: TopicFacts,
    pub queues: Vec<QueueId>,
    /// Queues that message groups are spread over: the write queues the topic was created with.
    pub spread: u32,
    /// Round robin of sends and of receives.
    pub next_send: usize,
    pub next_receive: usize,
}

impl Topic {
    /// The queue the next send goes to.
    pub fn send_queue(&self) -> Option<QueueId> {
        let count = (self.facts.write_queues as usize).min(self.queues.len());
        (count > 0).then(|| self.queues[self.next_send % count])
    }

    /// The queue of a message group, by its hash: always the same, whatever queues are added or closed to new messages. Only
    /// if that queue is not read any more, and so what is in it was given up, another one.
    pub fn queue_for(&self, group: u64) -> Option<QueueId> {
        let at = |count: u32| group.checked_rem(u64::from(count)).map(|index| index as usize);
        let queue = at(self.spread).and_then(|index| self.read_queues().get(index));
        queue.or_else(|| self.queues.get(at(self.facts.write_queues)?)).copied()
    }

    /// The queue of a message with this priority, in a topic whose queues are levels.
    pub fn level(&self, priority: u32) -> Option<QueueId> {
        self.queues.get(self.facts.write_queues.checked_sub(1)?.min(priority) as usize).copied()
    }

    /// The queue that a record's sender chose, if messages can be sent to it.
    pub fn chosen(&self, record: &[u8]) -> Option<QueueId> {
        let index = record::chosen_queue(record).filter(|&index| index < self.facts.write_queues)?;
        self.queues.get(index as usize).copied()
    }

    /// Where this record goes, of this message group or the next one without a group.
    pub fn queue_for_message(&self, group: Option<u64>, record: &[u8]) -> Option<QueueId> {
        if self.facts.by_priority {
            return self.level(priority_of(record));
        }
        let own = self.chosen(record).or_else(|| self.queue_for(group?));
        own.or_else(|| self.send_queue())
    }

    /// The queues messages are received from.
    pub fn read_queues(&self) -> &[QueueId] {
        &self.queues[..(self.facts.read_queues as usize).min(self.queues.len())]
    }
}
