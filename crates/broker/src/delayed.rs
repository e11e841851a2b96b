//! Delayed messages: handles that stop them, and stopping them.

use crate::{Broker, Refusal, SentMessage};
use martlet_model::{ProducerHandle, ProducerHandleKind, QueueOffset, TopicId, UnixMillis};
use martlet_shard::{Command, Incoming, Output, Placed, Scheduled, TimerAt};

/// Messages with their delivery timestamps; those without one go at once.
pub(crate) fn scheduled(messages: Vec<Incoming>, dues: &[Option<UnixMillis>]) -> Vec<Scheduled> {
    let dues = dues.iter().map(|due| due.unwrap_or_default());
    messages.into_iter().zip(dues).map(|(message, due)| Scheduled { message, due }).collect()
}

impl Broker {
    /// What a sender is told of messages that were placed.
    pub(crate) fn sent_later(&self, topic: TopicId, placed: &[Placed]) -> Vec<SentMessage> {
        let sent = |placed: &Placed| match *placed {
            Placed::Now(queue, offset) => SentMessage { queue, offset, ..SentMessage::default() },
            Placed::Later(at) => {
                let handle = self.producer_handle(ProducerHandleKind::Recall, topic, at.due, at.queue, at.offset);
                let waits_at = Some((at.queue, at.offset));
                SentMessage { offset: at.offset, recall_handle: Some(handle), waits_at, ..SentMessage::default() }
            }
        };
        placed.iter().map(sent).collect()
    }

    /// A handle of this shard.
    pub(crate) fn producer_handle(
        &self,
        kind: ProducerHandleKind,
        topic: TopicId,
        time: UnixMillis,
        queue: martlet_model::QueueId,
        offset: QueueOffset,
    ) -> String {
        let shard = &self.inner.shard;
        ProducerHandle { kind, shard: shard.shard, epoch: shard.epoch, topic, time, queue, offset }.encode(&shard.key)
    }

    /// Reads a handle that is said to be of this topic.
    pub(crate) fn read_producer_handle(
        &self,
        text: &str,
        kind: ProducerHandleKind,
        topic: (&str, TopicId),
    ) -> Result<ProducerHandle, Refusal> {
        let refuse = |reason: String| Refusal::ProducerHandle { reason };
        let shard = &self.inner.shard;
        let handle = ProducerHandle::decode(text, kind, &shard.key).map_err(|error| refuse(error.to_string()))?;
        let what = kind.name();
        if handle.shard != shard.shard {
            return Err(refuse(format!("{what} was given out by another broker than {}", self.broker_name())));
        }
        if handle.topic != topic.1 {
            return Err(refuse(format!("{what} was given out for another topic than {}", topic.0)));
        }
        Ok(handle)
    }

    /// Stops a message that waits for its delivery timestamp; returns its id once that is durable.
    pub async fn recall(&self, topic: &str, handle: &str) -> Result<String, Refusal> {
        let config = self.known_topic(topic).ok_or_else(|| Refusal::TopicNotFound { topic: topic.to_owned() })?;
        let handle = self.read_producer_handle(handle, ProducerHandleKind::Recall, (topic, config.id))?;
        let at = TimerAt { due: handle.time, queue: handle.queue, offset: handle.offset };
        match self.ask(|token| Command::Recall { topic: config.id, at, token }).await? {
            Output::Recalled(answer) => answer.map_err(|error| Refusal::NotWaiting { reason: error.to_string() }),
            other => Err(self.unexpected(other, topic, "")),
        }
    }
}
