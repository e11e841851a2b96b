//! Physical offsets: numbers of messages that remoting clients echo, from and to queue and offset.

use crate::{Broker, FoundMessage, Refusal, SentMessage};
use martlet_model::{PhysicalOffset, QueueId, QueueOffset, TopicConfig, TopicId};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Topics whose queues' numbers are remembered; beyond it all are asked for anew.
const TOPICS_MAX: usize = 100_000;

/// Numbers of topics' queues, by index. A queue keeps its number for life, and a topic its id.
#[derive(Debug, Default)]
pub(crate) struct QueueNumbers(Mutex<BTreeMap<TopicId, Arc<[QueueId]>>>);

impl QueueNumbers {
    fn of(&self, topic: TopicId) -> Option<Arc<[QueueId]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&topic).cloned()
    }

    fn remember(&self, topic: TopicId, numbers: Arc<[QueueId]>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TOPICS_MAX {
            known.clear();
        }
        known.insert(topic, numbers);
    }
}

impl Broker {
    /// The number of a topic's queue; asked of the shard once.
    pub async fn queue_number(&self, topic: &TopicConfig, index: u32) -> Result<QueueId, Refusal> {
        let number_in = |numbers: &[QueueId]| numbers.get(index as usize).copied();
        if let Some(number) = self.inner.queue_numbers.of(topic.id).and_then(|known| number_in(&known)) {
            return Ok(number);
        }
        let mut figures = self.queues_of(topic).await?;
        figures.sort_unstable_by_key(|figures| figures.index);
        let numbers: Arc<[QueueId]> = figures.iter().map(|figures| figures.queue).collect();
        let found = number_in(&numbers);
        self.inner.queue_numbers.remember(topic.id, numbers);
        let rule = "is not a queue of this topic";
        found.ok_or_else(|| Refusal::Setting { field: "queue", value: index.to_string(), rule })
    }

    /// The physical offset of a message that was sent.
    pub async fn physical_offset(&self, topic: &TopicConfig, sent: &SentMessage) -> Result<PhysicalOffset, Refusal> {
        let (queue, offset) = match sent.waits_at {
            Some(place) => place,
            None => (self.queue_number(topic, sent.queue).await?, sent.offset),
        };
        physical(queue, offset)
    }

    /// The message at a physical offset, if it is there; looked for in this topic alone if it is given. Messages that wait are
    /// not found.
    pub async fn message_at(&self, at: PhysicalOffset, topic: Option<&str>) -> Result<Option<FoundMessage>, Refusal> {
        let Some((queue, offset)) = at.place() else { return Ok(None) };
        let topics = match topic {
            Some(name) => vec![self.topic_to_look_into(name)?],
            None => self.all_topics(),
        };
        for topic in topics {
            let Some(index) = self.index_of(&topic, queue).await? else { continue };
            let stored = self.read_one(queue, offset).await?;
            return Ok(stored.map(|stored| crate::find::found_message(&topic.name.as_str().into(), index, stored)));
        }
        Ok(None)
    }

    /// The index of a queue in a topic, if it is one of its.
    async fn index_of(&self, topic: &TopicConfig, queue: QueueId) -> Result<Option<u32>, Refusal> {
        let at = |numbers: &[QueueId]| numbers.iter().position(|number| *number == queue).map(|index| index as u32);
        let count = topic.read_queues.max(topic.write_queues);
        match self.inner.queue_numbers.of(topic.id) {
            Some(known) if known.len() >= count as usize => return Ok(at(&known)),
            _ => {}
        }
        // Fills what is known.
        self.queue_number(topic, count.saturating_sub(1)).await?;
        Ok(self.inner.queue_numbers.of(topic.id).and_then(|known| at(&known)))
    }
}

/// The physical offset of a place.
fn physical(queue: QueueId, offset: QueueOffset) -> Result<PhysicalOffset, Refusal> {
    PhysicalOffset::of(queue, offset).ok_or_else(|| Refusal::ReadFailed {
        reason: format!("queue {} and offset {offset} do not fit a physical offset", queue.0),
    })
}
