//! Physical offsets of what was sent, and messages by them: numbers that clients of the remoting protocol echo.

use crate::find::found_message;
use crate::{Broker, FoundMessage, Refusal, SentMessage};
use martlet_model::{PhysicalOffset, QueueId, QueueOffset, TopicConfig, TopicType, UnixMillis};
use martlet_store::Reader;

impl Broker {
    /// The physical offset of a message that was sent.
    pub async fn physical_offset(&self, topic: &TopicConfig, sent: &SentMessage) -> Result<PhysicalOffset, Refusal> {
        let (queue, offset) = match sent.waits_at {
            Some(place) => place,
            // Queues of lite topics are numbered by the shard alone.
            None if topic.kind == TopicType::Lite => (QueueId(u64::from(sent.queue)), sent.offset),
            None => (self.queue_id(&topic.name, sent.queue).await?, sent.offset),
        };
        PhysicalOffset::of(queue, offset).ok_or_else(|| Refusal::ReadFailed {
            reason: format!("queue {} and offset {offset} do not fit a physical offset", queue.0),
        })
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
