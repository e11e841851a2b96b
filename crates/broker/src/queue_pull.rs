//! Queue-based members: pulling queues, and sending back what they failed on. What they get is the shard's word; messages are read
//! and filtered here.

use crate::find::read_failed;
use crate::lite::check_move;
use crate::messages::PollGuard;
use crate::{Broker, Refusal, ReplyBudget};
use bytes::Bytes;
use martlet_model::record::{self, RetryOf};
use martlet_model::{Filter, GroupConfig, PhysicalOffset, QueueId, QueueOffset, TopicConfig, UnixMillis, limits};
use martlet_shard::{Command, Output, PollId, PullCommand, PullStatus, Pulled, SendBackCommand, SendBackDelay};
use martlet_store::{Reader, StoredMessage};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Most messages of one pull.
const MESSAGES_MAX: u32 = 1024;
/// Messages and bytes that are read at a time to look for those that a filter lets pass.
const LOOKED_AT: (u32, usize) = (1024, 1 << 20);

/// Who pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullMode {
    /// A member of the group that shares messages with the others: it owns the queue while it pulls.
    Member,
    /// Somebody who only looks, or keeps its offsets itself: the group's progress is neither looked at nor changed, and the
    /// group need not exist.
    Look,
}

/// A pull from one queue.
#[derive(Clone, Debug)]
pub struct QueuePull {
    /// Consumer group name.
    pub group: String,
    /// Topic name; `%RETRY%group` and `%DLQ%group` too.
    pub topic: String,
    /// Number of the queue within the topic.
    pub queue: u32,
    /// First place of interest.
    pub offset: u64,
    /// Most messages; at least 1, cut down to 1,024.
    pub max_messages: u32,
    /// Most bytes of records, but for a single larger one; cut down to 4 MiB.
    pub max_bytes: usize,
    /// What passes.
    pub filter: Arc<Filter>,
    /// How long to wait for a message, in milliseconds; 0: not at all.
    pub wait_millis: i64,
    /// Everything below is consumed, says a member along with its pull.
    pub commit: Option<u64>,
    /// Who pulls.
    pub mode: PullMode,
    /// The client's id.
    pub client_id: Arc<str>,
}

/// A message that was pulled.
#[derive(Clone, Debug)]
pub struct PulledMessage {
    /// The topic that was pulled.
    pub topic: Arc<str>,
    /// Number of its queue within the topic.
    pub queue: u32,
    /// The place in that queue.
    pub offset: QueueOffset,
    /// The same as one number; what a send-back names. `None` where 63 bits cannot hold it.
    pub physical: Option<PhysicalOffset>,
    /// When it was stored.
    pub store_time: UnixMillis,
    /// The record.
    pub record: Bytes,
    /// How often it was delivered before.
    pub reconsume_times: u32,
    /// Of a retry: the topic the message is in.
    pub retry_topic: Option<Arc<str>>,
    /// Of a retry: where the message is.
    pub origin: Option<PhysicalOffset>,
}

/// What a pull brought.
#[derive(Debug)]
pub struct QueuePulled {
    /// What it came to.
    pub status: PullStatus,
    /// Where to go on.
    pub next: QueueOffset,
    /// First readable offset of the queue.
    pub min: QueueOffset,
    /// Next offset of the queue.
    pub max: QueueOffset,
    /// The messages, in order.
    pub messages: Vec<PulledMessage>,
    /// Their share of the byte budget: to be kept until they have been written.
    pub budget: ReplyBudget,
}

/// A message that is sent back.
#[derive(Clone, Debug)]
pub struct SendBack {
    /// Consumer group name.
    pub group: String,
    /// The message, as it was pulled: of a retry, its place in the retry topic.
    pub physical: PhysicalOffset,
    /// When it is due again.
    pub delay: SendBackDelay,
    /// How often it may be delivered again in all, if the client allows fewer times than the group.
    pub max_reconsume_times: Option<u32>,
}

impl QueuePull {
    /// How many places one step of it may look at.
    fn places_at_most(&self) -> u32 {
        if self.filter.is_all() { self.max_messages.clamp(1, MESSAGES_MAX) } else { LOOKED_AT.0 }
    }
}

impl Broker {
    /// Pulls a queue from a place on; waits for a message up to the request's time. Dropping the future gives the wait up.
    pub async fn pull_queue(&self, request: QueuePull) -> Result<QueuePulled, Refusal> {
        let topic = self.topic_to_look_into(&request.topic)?;
        if !topic.permission.readable() || topic.read_queues == 0 {
            return Err(Refusal::NotReadable { topic: topic.name.clone() });
        }
        check_queue(&topic, request.queue, topic.read_queues)?;
        let group = match request.mode {
            PullMode::Member => Some(self.group(&request.group).await?),
            PullMode::Look => None,
        };
        if let Some(group) = &group {
            check_move(&topic, group)?;
        }
        if let Some(offset) = request.commit.filter(|_| request.mode == PullMode::Member) {
            self.commit_with_pull(&request, offset).await;
        }
        let group = group.filter(|group| !self.keep_own_offsets(&group.name, &topic.name));
        let until = self.inner.shard.now().plus(request.wait_millis.max(0));
        let mut from = QueueOffset(request.offset);
        loop {
            let pulled = match &group {
                Some(group) => self.begin_pull(&request, &topic, group, from, until).await?,
                None => self.begin_look(&request, &topic, from, until).await?,
            };
            let (min, max) = (pulled.min, pulled.max);
            let mut budget = self.share_of_budget(request.max_bytes.min(limits::REPLY_BYTES_MAX)).await;
            let (next, messages) = self.read_places(&request, &topic, &pulled, &mut budget).await?;
            if next != pulled.next
                && let Some(group) = &group
            {
                let client = request.client_id.clone();
                let place = (topic.id, request.queue);
                let _ = self.inner.shard.submit(Command::PullTold { group: group.id, place, client, next });
            }
            let over = self.inner.shard.now() >= until;
            let status = match pulled.status {
                PullStatus::Found if messages.is_empty() => PullStatus::NoMatch,
                // What was passed over before is passed over for good.
                PullStatus::NothingNew if next.0 != request.offset => PullStatus::NoMatch,
                status => status,
            };
            // However little passes, one read at least is done, and none after the time is over.
            if status != PullStatus::NoMatch || over || pulled.status == PullStatus::NothingNew {
                return Ok(QueuePulled { status, next, min, max, messages, budget });
            }
            from = next;
        }
    }

    async fn begin_pull(
        &self,
        request: &QueuePull,
        topic: &TopicConfig,
        group: &GroupConfig,
        from: QueueOffset,
        until: UnixMillis,
    ) -> Result<Pulled, Refusal> {
        let most = request.places_at_most();
        let poll = PollId(self.inner.next_poll.fetch_add(1, Relaxed));
        let client = request.client_id.clone();
        let (group_id, index) = (group.id, request.queue);
        let pull = PullCommand { poll, client, group: group_id, topic: topic.id, index, from, most, until };
        match self.ask_and_wait(poll, |token| Command::Pull { pull, token }).await? {
            Output::Pulled(pulled) => Ok(pulled),
            other => Err(self.unexpected(other, &topic.name, &group.name)),
        }
    }

    /// Somebody who only looks reads everything there is.
    async fn begin_look(
        &self,
        request: &QueuePull,
        topic: &TopicConfig,
        from: QueueOffset,
        until: UnixMillis,
    ) -> Result<Pulled, Refusal> {
        let poll = PollId(self.inner.next_poll.fetch_add(1, Relaxed));
        let index = request.queue;
        let wait = |token| Command::AwaitOffset { poll, topic: topic.id, index, from, until, token };
        let most = request.places_at_most();
        match self.ask_and_wait(poll, wait).await? {
            Output::Reached { queue, min, max } if max > from => {
                let next = max.min(QueueOffset(from.0.saturating_add(u64::from(most))));
                let places = Range { start: from, end: next };
                Ok(Pulled { queue, status: PullStatus::Found, next, min, max, places: vec![places] })
            }
            Output::Reached { queue, min, max } => {
                let status = PullStatus::NothingNew;
                Ok(Pulled { queue, status, next: from, min, max: max.max(from), places: Vec::new() })
            }
            Output::Refused(martlet_shard::Refused::OffsetOutOfRange { min, max, .. }) => {
                let next = if from < min { min } else { max };
                let (queue, status) = (QueueId(0), PullStatus::Moved);
                Ok(Pulled { queue, status, next, min, max, places: Vec::new() })
            }
            other => Err(self.unexpected(other, &topic.name, &request.group)),
        }
    }

    /// Asks for something that may wait; a caller that goes away gives it up.
    async fn ask_and_wait(
        &self,
        poll: PollId,
        command: impl FnOnce(crate::runtime::Token) -> Command<crate::runtime::Token>,
    ) -> Result<Output, Refusal> {
        let answer = self.begin_ask(command)?;
        let mut guard = PollGuard { shard: &self.inner.shard, poll, answered: false };
        let output = answer.await;
        guard.answered = true;
        output.map_err(|_| self.stopped())
    }

    /// Reads what is to be read, as far as it fits; and where to go on.
    async fn read_places(
        &self,
        request: &QueuePull,
        topic: &TopicConfig,
        pulled: &Pulled,
        budget: &mut ReplyBudget,
    ) -> Result<(QueueOffset, Vec<PulledMessage>), Refusal> {
        let most = request.max_messages.clamp(1, MESSAGES_MAX) as usize;
        let most_bytes = request.max_bytes.clamp(1, limits::REPLY_BYTES_MAX);
        let name: Arc<str> = topic.name.as_str().into();
        let (mut bytes, mut next) = (0, pulled.next);
        let mut messages: Vec<PulledMessage> = Vec::with_capacity(most.min(64));
        'places: for places in &pulled.places {
            let mut at = places.start;
            while at < places.end {
                let (count, room) = match request.filter.is_all() {
                    true => ((places.end.0 - at.0) as usize, most_bytes.saturating_sub(bytes).max(1)),
                    false => (LOOKED_AT.0 as usize, LOOKED_AT.1),
                };
                let found = self.inner.reader.messages(pulled.queue, at..places.end, count, room).await;
                let found = found.map_err(read_failed)?;
                // Places that repair dropped are passed over.
                at = found.last().map_or(places.end, |last| last.offset.next());
                for stored in found {
                    let offset = stored.offset;
                    let Some(message) = self.pulled_message(&name, request.queue, pulled.queue, stored).await? else {
                        continue;
                    };
                    if !request.filter.matches(&message.record) {
                        continue;
                    }
                    let with_it = bytes + message.record.len();
                    if messages.len() >= most || !messages.is_empty() && with_it > most_bytes {
                        next = offset;
                        break 'places;
                    }
                    bytes = with_it;
                    messages.push(message);
                }
            }
        }
        budget.shrink(bytes);
        if !messages.is_empty() {
            self.inner.stats.group(&request.group, &topic.name).delivered(messages.len(), bytes);
        }
        Ok((next, messages))
    }

    /// The message that was stored there, or that it names; `None` if that is not there any more.
    async fn pulled_message(
        &self,
        topic: &Arc<str>,
        index: u32,
        queue: QueueId,
        stored: StoredMessage,
    ) -> Result<Option<PulledMessage>, Refusal> {
        let mut message = PulledMessage {
            topic: topic.clone(),
            queue: index,
            offset: stored.offset,
            physical: PhysicalOffset::of(queue, stored.offset),
            store_time: stored.store_time,
            record: stored.record,
            reconsume_times: 0,
            retry_topic: None,
            origin: None,
        };
        let reference = record::retry_of(&message.record);
        let Some(RetryOf { topic, queue, offset, attempts }) = reference else { return Ok(Some(message)) };
        let (name, original) = (self.name_of(topic), self.read_one(queue, offset).await?);
        let (Some(name), Some(original)) = (name, original) else { return Ok(None) };
        message.store_time = original.store_time;
        message.record = original.record;
        message.reconsume_times = attempts;
        message.retry_topic = Some(name.into());
        message.origin = PhysicalOffset::of(queue, offset);
        Ok(Some(message))
    }

    /// A member has failed on a message, which is to be delivered again; or, after its last attempt, becomes a dead letter.
    /// Returns once that is durable.
    pub async fn send_back(&self, request: SendBack) -> Result<(), Refusal> {
        let name = &request.group;
        let group = self.known_group(name).ok_or_else(|| Refusal::GroupNotFound { group: name.clone() })?;
        self.check_takes_back(&group.name)?;
        let (queue, offset) = request.physical.place().ok_or_else(|| not_there(request.physical))?;
        let attempts_max = request.max_reconsume_times.map(|times| times.saturating_add(1));
        let back = SendBackCommand { group: group.id, queue, offset, delay: request.delay, attempts_max };
        match self.ask(|token| Command::SendBack { back, token }).await? {
            Output::Settled(Ok(())) => Ok(()),
            Output::Settled(Err(_)) => Err(not_there(request.physical)),
            other => Err(self.unexpected(other, "", &group.name)),
        }
    }
}

pub(crate) fn check_queue(topic: &TopicConfig, queue: u32, queues: u32) -> Result<(), Refusal> {
    debug_assert!(queues <= topic.read_queues.max(topic.write_queues));
    if queue < queues { Ok(()) } else { Err(no_such_queue(queue)) }
}

fn not_there(physical: PhysicalOffset) -> Refusal {
    Refusal::NotSentBack { reason: format!("physical offset {} names no message that is there", physical.0) }
}

pub(crate) fn no_such_queue(queue: u32) -> Refusal {
    Refusal::Setting { field: "queue", value: queue.to_string(), rule: "is not a queue of this topic" }
}
