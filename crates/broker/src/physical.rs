//! Physical offsets of what was sent, and messages by them: numbers that clients of the remoting protocol echo.

use crate::find::found_message;
use crate::{Broker, FoundMessage, Refusal, SentMessage};
use martlet_model::{PhysicalOffset, QueueId, QueueOffset, TopicConfig, TopicType, UnixMillis};
use martlet_store::Reader;

/// A queue whose number in the shard has not been asked for yet.
#[derive(Debug)]
pub struct NotKnown {
    queue: u32,
}

impl Broker {
    /// The physical offsets of messages that were sent, in their order.
    pub async fn physical_offsets(
        &self,
        topic: &TopicConfig,
        sent: &[SentMessage],
    ) -> Result<Vec<PhysicalOffset>, Refusal> {
        loop {
            match self.known_physical_offsets(topic, sent) {
                Ok(found) => return found,
                Err(NotKnown { queue }) => drop(self.queue_id(&topic.name, queue).await?),
            }
        }
    }

    /// The same from memory, where alone they are after the first few sends.
    pub fn known_physical_offsets(
        &self,
        topic: &TopicConfig,
        sent: &[SentMessage],
    ) -> Result<Result<Vec<PhysicalOffset>, Refusal>, NotKnown> {
        let mut found = Vec::with_capacity(sent.len());
        // Those of a batch are mostly in one queue.
        let mut last = None;
        for one in sent {
            let (queue, offset) = match (one.waits_at, last) {
                (Some(place), _) => place,
                // Queues of lite topics are numbered by the shard alone.
                (None, _) if topic.kind == TopicType::Lite => (QueueId(u64::from(one.queue)), one.offset),
                (None, Some((number, queue))) if number == one.queue => (queue, one.offset),
                (None, _) => {
                    let queue = self.known_queue_id(topic, one.queue).ok_or(NotKnown { queue: one.queue })?;
                    last = Some((one.queue, queue));
                    (queue, one.offset)
                }
            };
            match PhysicalOffset::of(queue, offset) {
                Some(at) => found.push(at),
                None => {
                    let reason = format!("queue {} and offset {offset} do not fit a physical offset", queue.0);
                    return Ok(Err(Refusal::ReadFailed { reason }));
                }
            }
        }
        Ok(Ok(found))
    }

    /// When the message at an offset of a queue was stored. `None`: it is not there any more, or the queue is one of retries.
    pub async fn stored_at(&self, topic: &str, queue: u32, offset: QueueOffset) -> Result<Option<UnixMillis>, Refusal> {
        if self.known_topic(topic).is_none() {
            return Ok(None);
        }
        let queue = self.queue_id(topic, queue).await?;
        let range = offset..QueueOffset(offset.0.saturating_add(1));
        let found = self.inner.reader.messages(queue, range, 1, 1).await;
        let found = found.map_err(|error| Refusal::ReadFailed { reason: error.to_string() })?;
        Ok(found.first().map(|message| message.store_time))
    }

    /// The message at a physical offset, if it is there. Messages that wait are not found.
    pub async fn message_at(&self, at: PhysicalOffset) -> Result<Option<FoundMessage>, Refusal> {
        let Some((queue, offset)) = at.place() else { return Ok(None) };
        let Some((topic, index, _)) = self.physical_place(at).await? else { return Ok(None) };
        let stored = self.read_one(queue, offset).await?;
        Ok(stored.map(|stored| found_message(&topic.as_str().into(), index, stored)))
    }
}
