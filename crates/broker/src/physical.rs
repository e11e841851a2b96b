//! Physical offsets of what was sent, and messages by them: numbers that clients of the remoting protocol echo.

use crate::find::found_message;
use crate::{Broker, FoundMessage, Refusal, SentMessage};
use martlet_model::{PhysicalOffset, TopicConfig};

impl Broker {
    /// The physical offset of a message that was sent.
    pub async fn physical_offset(&self, topic: &TopicConfig, sent: &SentMessage) -> Result<PhysicalOffset, Refusal> {
        let (queue, offset) = match sent.waits_at {
            Some(place) => place,
            None => (self.queue_id(&topic.name, sent.queue).await?, sent.offset),
        };
        PhysicalOffset::of(queue, offset).ok_or_else(|| Refusal::ReadFailed {
            reason: format!("queue {} and offset {offset} do not fit a physical offset", queue.0),
        })
    }

    /// The message at a physical offset, if it is there. Messages that wait are not found.
    pub async fn message_at(&self, at: PhysicalOffset) -> Result<Option<FoundMessage>, Refusal> {
        let Some((queue, offset)) = at.place() else { return Ok(None) };
        let Some((topic, index, _)) = self.physical_place(at).await? else { return Ok(None) };
        let stored = self.read_one(queue, offset).await?;
        Ok(stored.map(|stored| found_message(&topic.as_str().into(), index, stored)))
    }
}
