//! Consumers that keep their own place: reading a queue from it on, and telling or asking how far a group is.

use crate::find::{found_message, read_failed};
use crate::lite::check_move;
use crate::messages::PollGuard;
use crate::{Broker, FoundMessage, Refusal, ReplyBudget};
use martlet_model::{Filter, QueueId, QueueOffset, TopicConfig, UnixMillis, limits};
use martlet_shard::{Command, Output, PollId, ResetTarget};
use martlet_store::Reader;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Messages and bytes that are read at a time to look for those that a filter lets pass.
const LOOKED_AT: (usize, usize) = (1024, 1 << 20);

/// A pull from one queue.
#[derive(Clone, Debug)]
pub struct PullRequest {
    /// Consumer group name. Its progress is neither looked at nor changed.
    pub group: String,
    /// Topic name.
    pub topic: String,
    /// Number of the queue within the topic.
    pub queue: u32,
    /// First place of interest; one of the queue's or the next one it will take.
    pub from: QueueOffset,
    /// What passes.
    pub filter: Arc<Filter>,
    /// Most messages, at least 1; more than `limits::RECEIVE_BATCH_MAX` is cut down.
    pub batch_size: u32,
    /// How long to wait for a message, in milliseconds; 0: not at all.
    pub poll_millis: i64,
}

/// What a pull brought.
#[derive(Debug, Default)]
pub struct Pulled {
    /// The messages, in order; at most 4 MiB, but for a single larger one.
    pub messages: Vec<FoundMessage>,
    /// Where to go on: behind the last one that was looked at.
    pub next: QueueOffset,
    /// First readable offset of the queue.
    pub min: QueueOffset,
    /// Next offset of the queue.
    pub max: QueueOffset,
    /// Their share of the byte budget: to be kept until they have been written.
    pub budget: ReplyBudget,
}

/// A place of a queue to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetOf {
    /// The first message there is.
    Beginning,
    /// The next message to come.
    End,
    /// The first message stored at this time or later.
    Time(UnixMillis),
    /// The last message stored at this time or before; the first there is, if all are newer.
    TimeUpper(UnixMillis),
}

impl Broker {
    /// Reads a queue from a place on; waits for a message up to the request's poll time. Nothing is handed out: the messages
    /// stay with the group until it is moved past them.
    pub async fn pull(&self, request: PullRequest) -> Result<Pulled, Refusal> {
        let topic = self.topic_to_look_into(&request.topic)?;
        if !topic.permission.readable() || topic.read_queues == 0 {
            return Err(Refusal::NotReadable { topic: topic.name.clone() });
        }
        if request.queue >= topic.read_queues {
            return Err(no_such_queue(request.queue));
        }
        let group = self.group(&request.group).await?;
        let until = self.inner.shard.now().plus(request.poll_millis.max(0));
        let most = request.batch_size.clamp(1, limits::RECEIVE_BATCH_MAX) as usize;
        let mut next = request.from;
        loop {
            let (queue, min, max) = self.reach(&topic, request.queue, next, until).await?;
            if max <= next {
                return Ok(Pulled { next, min, max, ..Pulled::default() });
            }
            let mut budget = self.share_of_budget(limits::REPLY_BYTES_MAX).await;
            let (count, room) = match request.filter.is_all() {
                true => (most, limits::REPLY_BYTES_MAX),
                false => LOOKED_AT,
            };
            let read = self.inner.reader.messages(queue, next..max, count, room).await.map_err(read_failed)?;
            // Places that repair dropped are passed over.
            next = read.last().map_or(max, |last| last.offset.next());
            let mut passed = read.into_iter().filter(|stored| request.filter.matches(&stored.record)).peekable();
            let mut bytes = 0;
            let mut messages = Vec::with_capacity(most);
            let name: Arc<str> = topic.name.as_str().into();
            while let Some(stored) = passed.next_if(|_| messages.len() < most) {
                bytes += stored.record.len();
                messages.push(found_message(&name, request.queue, stored));
            }
            if let Some(first_left) = passed.peek() {
                next = first_left.offset;
            }
            budget.shrink(bytes);
            if !messages.is_empty() {
                self.inner.stats.group(&group.name, &topic.name).delivered(messages.len(), bytes);
            }
            // However little passes, one read at least is done, and none after the time is over.
            if !messages.is_empty() || self.inner.shard.now() >= until {
                return Ok(Pulled { messages, next, min, max, budget });
            }
        }
    }

    /// Waits until something may be read at this place, or the time is over. Dropping the future gives the wait up.
    async fn reach(
        &self,
        topic: &TopicConfig,
        index: u32,
        from: QueueOffset,
        until: UnixMillis,
    ) -> Result<(QueueId, QueueOffset, QueueOffset), Refusal> {
        let poll = PollId(self.inner.next_poll.fetch_add(1, Relaxed));
        let command = |token| Command::AwaitOffset { poll, topic: topic.id, index, from, until, token };
        let answer = self.begin_ask(command)?;
        let mut guard = PollGuard { shard: &self.inner.shard, poll, answered: false };
        let output = answer.await;
        guard.answered = true;
        match output.map_err(|_| self.stopped())? {
            Output::Reached { queue, min, max } => Ok((queue, min, max)),
            other => Err(self.unexpected(other, &topic.name, "")),
        }
    }

    /// The committed offset of a group in a queue; `None` if it has not begun there.
    pub async fn committed_offset(&self, group: &str, topic: &str, queue: u32) -> Result<Option<QueueOffset>, Refusal> {
        let topic = self.topic_to_look_into(topic)?;
        if queue >= topic.read_queues.max(topic.write_queues) {
            return Err(no_such_queue(queue));
        }
        let group = self.group(group).await?;
        match self.ask(|token| Command::DescribeGroup { group: group.id, token }).await? {
            Output::Progress(figures, _) => {
                let found = figures.iter().find(|figures| figures.topic == topic.id && figures.index == queue);
                Ok(found.map(|figures| figures.committed))
            }
            other => Err(self.unexpected(other, &topic.name, &group.name)),
        }
    }

    /// Settles everything below a place of a queue for a group, or moves it back there. See `martlet_shard::ResetTarget`.
    pub async fn commit_offset(
        &self,
        group: &str,
        topic: &str,
        queue: u32,
        offset: QueueOffset,
    ) -> Result<(), Refusal> {
        let topic = self.topic_to_look_into(topic)?;
        if queue >= topic.read_queues.max(topic.write_queues) {
            return Err(no_such_queue(queue));
        }
        let group = self.group(group).await?;
        check_move(&topic, &group)?;
        let targets = vec![(queue, ResetTarget::Commit(offset))];
        let command = |token| Command::Reset { group: group.id, topic: topic.id, targets, token };
        match self.ask(command).await? {
            Output::Reset(_) => Ok(()),
            other => Err(self.unexpected(other, &topic.name, &group.name)),
        }
    }

    /// A place of a queue.
    pub async fn offset_of(&self, topic: &str, queue: u32, which: OffsetOf) -> Result<QueueOffset, Refusal> {
        let topic = self.topic_to_look_into(topic)?;
        let queues = self.queues_of(&topic).await?;
        let figures = queues.iter().find(|figures| figures.index == queue).ok_or_else(|| no_such_queue(queue))?;
        match which {
            OffsetOf::Beginning => Ok(figures.min),
            OffsetOf::End => Ok(figures.max),
            OffsetOf::TimeUpper(time) => {
                let after = self.offset_at(figures.queue, time.plus(1)).await?.clamp(figures.min, figures.max);
                Ok(QueueOffset(after.0.saturating_sub(1)).max(figures.min))
            }
            OffsetOf::Time(time) => Ok(self.offset_at(figures.queue, time).await?.clamp(figures.min, figures.max)),
        }
    }
}

fn no_such_queue(queue: u32) -> Refusal {
    Refusal::Setting { field: "queue", value: queue.to_string(), rule: "is not a queue of this topic" }
}
