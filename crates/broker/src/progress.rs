//! How far groups are: moving them, and how old what they have not settled is.

use crate::find::read_failed;
use crate::lite::check_move;
use crate::{Broker, Refusal};
use martlet_model::{GroupId, QueueId, QueueOffset, UnixMillis};
use martlet_shard::{Command, Output, ProgressFigures, ResetTarget};
use martlet_store::Reader;

/// Where a group is moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTo {
    /// The first message there is.
    Earliest,
    /// Behind the last one.
    Latest,
    /// The first message stored at this time or later.
    Time(UnixMillis),
    /// This place, in each queue that is reset; it must be one of the queue's or the next one.
    Offset(QueueOffset),
}

/// A queue that was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetQueue {
    /// Number of the queue within its topic.
    pub queue: u32,
    /// Committed offset before.
    pub from: QueueOffset,
    /// And from now on.
    pub to: QueueOffset,
}

impl Broker {
    /// Moves a group in one queue of a topic or in all of them, whether its consumers are connected or not.
    pub async fn reset_offset(
        &self,
        group: &str,
        topic: &str,
        queue: Option<u32>,
        to: ResetTo,
    ) -> Result<Vec<ResetQueue>, Refusal> {
        let known = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        let topic = self.topic_to_look_into(topic)?;
        check_move(&topic, &known)?;
        let group_id = known.id;
        let mut queues = self.queues_of(&topic).await?;
        if let Some(wanted) = queue {
            queues.retain(|queue| queue.index == wanted);
            if queues.is_empty() {
                let rule = "is not a queue of this topic";
                return Err(Refusal::Setting { field: "queue", value: wanted.to_string(), rule });
            }
        }
        let mut targets = Vec::with_capacity(queues.len());
        for figures in &queues {
            let target = match to {
                ResetTo::Earliest => ResetTarget::Earliest,
                ResetTo::Latest => ResetTarget::Latest,
                ResetTo::Time(time) => ResetTarget::Near(self.offset_at(figures.queue, time).await?),
                ResetTo::Offset(offset) => ResetTarget::Offset(offset),
            };
            targets.push((figures.index, target));
        }
        let command = |token| Command::Reset { group: group_id, topic: topic.id, targets, token };
        match self.ask(command).await? {
            Output::Reset(moved) => {
                self.inner.members.begin_anew(group);
                Ok(moved.into_iter().map(|(queue, from, to)| ResetQueue { queue, from, to }).collect())
            }
            other => Err(self.unexpected(other, &topic.name, group)),
        }
    }

    /// Milliseconds since the oldest message that a group has not settled was stored, and since the oldest that was
    /// never handed out; 0 where there is none.
    pub(crate) async fn ages(&self, group: GroupId, figures: &ProgressFigures) -> Result<(i64, i64), Refusal> {
        if figures.is_of_lite_topics() {
            let waits = self.lite_waits(group, figures.ready > 0).await?;
            let oldest_ready = waits.oldest_ready.filter(|_| figures.ready > 0);
            return Ok((self.age_of(waits.oldest), self.age_of(oldest_ready)));
        }
        let lag = self.age(figures.queue, figures.committed..figures.max).await?;
        let queueing = if figures.oldest_ready == figures.committed {
            lag
        } else {
            self.age(figures.queue, figures.oldest_ready..figures.max).await?
        };
        Ok((lag, queueing))
    }

    async fn age(&self, queue: QueueId, range: std::ops::Range<QueueOffset>) -> Result<i64, Refusal> {
        if range.start >= range.end {
            return Ok(0);
        }
        let found = self.inner.reader.messages(queue, range, 1, 1).await.map_err(read_failed)?;
        Ok(self.age_of(found.first().map(|message| message.store_time)))
    }

    /// Milliseconds since then; 0 for nothing.
    pub(crate) fn age_of(&self, stored: Option<UnixMillis>) -> i64 {
        let now = self.inner.shard.now();
        stored.map_or(0, |stored| now.since(stored).max(0))
    }
}
