//! Physical offsets of what was sent, and messages by them: numbers that clients of the remoting protocol echo.

use crate::find::found_message;
use crate::{Broker, FoundMessage, Refusal, SentMessage};
use martlet_model::{PhysicalOffset, QueueId, QueueOffset, TopicConfig, TopicType, UnixMillis};
use martlet_store::Reader;

impl Broker {
    /// The physical offsets of messages that were sent, in their order.
    pub async fn physical_offsets(
        &self,
        topic: &TopicConfig,
        sent: &[SentMessage],
    ) -> Result<Vec<PhysicalOffset>, Refusal> {
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
                    let queue = self.queue_id(&topic.name, one.queue).await?;
                    last = Some((one.queue, queue));
                    (queue, one.offset)
                }
            };
            found.push(PhysicalOffset::of(queue, offset).ok_or_else(|| Refusal::ReadFailed {
                reason: format!("queue {} and offset {offset} do not fit a physical offset", queue.0),
            })?);
        }
        Ok(found)
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
