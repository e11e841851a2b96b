//! Queue-based members: pulling queues, offsets, and locks. What they get and whether what they say counts is the shard's word;
//! messages are read and filtered here.

use crate::find::read_failed;
use crate::lite::check_move;
use crate::messages::PollGuard;
use crate::{Broker, Refusal, ReplyBudget};
use bytes::Bytes;
use martlet_model::record::{self, Field, RetryOf};
use martlet_model::{
    Filter, GroupConfig, PhysicalOffset, QueueId, QueueOffset, TopicConfig, TopicId, UnixMillis, limits,
};
use martlet_shard::{Command, Output, PollId, PullCommand, PullStatus, Pulled, SendBackCommand, SendBackDelay};
use martlet_store::{Reader, StoredMessage};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Where a group is in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredOffset {
    /// Here.
    Found(QueueOffset),
    /// It has not been there.
    NotFound {
        /// First readable offset of the queue.
        min: QueueOffset,
        /// Next offset of the queue.
        max: QueueOffset,
    },
}

/// Which queues topics have, as far as that was asked; queues are never taken away from a topic.
pub(crate) type QueueIds = Mutex<BTreeMap<TopicId, Vec<QueueId>>>;

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
        let most = match request.filter.is_all() {
            true => request.max_messages.clamp(1, MESSAGES_MAX),
            false => LOOKED_AT.0,
        };
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
        let most = if request.filter.is_all() { request.max_messages.clamp(1, MESSAGES_MAX) } else { LOOKED_AT.0 };
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
        let reference = record::find(&message.record, |field| match field {
            Field::RetryOf(reference) => Some(reference),
            _ => None,
        });
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
        let (queue, offset) = request.physical.place().ok_or_else(|| not_there(request.physical))?;
        let attempts_max = request.max_reconsume_times.map(|times| times.saturating_add(1));
        let back = SendBackCommand { group: group.id, queue, offset, delay: request.delay, attempts_max };
        match self.ask(|token| Command::SendBack { back, token }).await? {
            Output::Settled(Ok(())) => Ok(()),
            Output::Settled(Err(_)) => Err(not_there(request.physical)),
            other => Err(self.unexpected(other, "", &group.name)),
        }
    }

    /// A member says how far it is in a queue: everything below is consumed. False if that does not count, because another
    /// member has the queue. `None` for an administrator.
    pub async fn commit_queue_offset(
        &self,
        group: &str,
        topic: &str,
        queue: u32,
        offset: u64,
        client_id: Option<&str>,
    ) -> Result<bool, Refusal> {
        let (topic, group) = self.queue_of_group(group, topic, queue)?;
        let (client, offset) = (client_id.map(Arc::from), QueueOffset(offset));
        let (group_id, topic_id) = (group.id, topic.id);
        let commit =
            |token| Command::CommitOffset { group: group_id, topic: topic_id, index: queue, offset, client, token };
        match self.ask(commit).await? {
            Output::Committed(counted) => Ok(counted),
            other => Err(self.unexpected(other, &topic.name, &group.name)),
        }
    }

    /// Where a group is in a queue. For a member (`client_id`), the queue is kept for a while, so that nothing comes between
    /// this and its first pull.
    pub async fn queue_offset(
        &self,
        group: &str,
        topic: &str,
        queue: u32,
        client_id: Option<&str>,
    ) -> Result<StoredOffset, Refusal> {
        let (topic, group) = self.queue_of_group(group, topic, queue)?;
        let client = client_id.map(Arc::from);
        let (group_id, topic_id) = (group.id, topic.id);
        let question = |token| Command::StoredOffset { group: group_id, topic: topic_id, index: queue, client, token };
        match self.ask(question).await? {
            Output::StoredOffset { stored: Some(offset), .. } => Ok(StoredOffset::Found(offset)),
            Output::StoredOffset { stored: None, min, max } => Ok(StoredOffset::NotFound { min, max }),
            other => Err(self.unexpected(other, &topic.name, &group.name)),
        }
    }

    fn queue_of_group(
        &self,
        group: &str,
        topic: &str,
        queue: u32,
    ) -> Result<(Arc<TopicConfig>, Arc<GroupConfig>), Refusal> {
        let topic = self.topic_to_look_into(topic)?;
        check_queue(&topic, queue, topic.read_queues.max(topic.write_queues))?;
        let group = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        check_move(&topic, &group)?;
        Ok((topic, group))
    }

    /// Locks queues for a member for 60 s, or renews that. Gives back those that it has; topics that do not exist are left out.
    pub async fn lock_queues(
        &self,
        group: &str,
        client_id: &str,
        queues: &[(String, u32)],
    ) -> Result<Vec<(String, u32)>, Refusal> {
        let known = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        let (names, queues) = self.queues_to_lock(queues);
        let client = Arc::from(client_id);
        match self.ask(|token| Command::LockQueues { group: known.id, client, queues, token }).await? {
            Output::Locked(locked) => {
                Ok(locked.into_iter().filter_map(|(id, index)| Some((names.get(&id)?.clone(), index))).collect())
            }
            other => Err(self.unexpected(other, "", group)),
        }
    }

    /// Unlocks queues that a member has locked.
    pub async fn unlock_queues(&self, group: &str, client_id: &str, queues: &[(String, u32)]) -> Result<(), Refusal> {
        let known = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        let (_, queues) = self.queues_to_lock(queues);
        let client = Arc::from(client_id);
        match self.ask(|token| Command::UnlockQueues { group: known.id, client, queues, token }).await? {
            Output::Done => Ok(()),
            other => Err(self.unexpected(other, "", group)),
        }
    }

    /// Whether any member of a group holds a lock.
    pub async fn holds_locks(&self, group: &str) -> Result<bool, Refusal> {
        let known = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        match self.ask(|token| Command::DescribeLocks { group: known.id, token }).await? {
            Output::Locked(locked) => Ok(!locked.is_empty()),
            other => Err(self.unexpected(other, "", group)),
        }
    }

    fn queues_to_lock(&self, queues: &[(String, u32)]) -> (BTreeMap<TopicId, String>, Vec<(TopicId, u32)>) {
        let mut names = BTreeMap::new();
        let mut known = Vec::with_capacity(queues.len());
        for (name, index) in queues {
            if let Some(topic) = self.known_topic(name) {
                known.push((topic.id, *index));
                names.insert(topic.id, name.clone());
            }
        }
        (names, known)
    }

    /// The shard's number of a topic's queue: what physical offsets are computed from.
    pub async fn queue_id(&self, topic: &str, queue: u32) -> Result<QueueId, Refusal> {
        let topic = self.topic_to_look_into(topic)?;
        let known = || self.inner.queue_ids.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&id) = known().get(&topic.id).and_then(|ids| ids.get(queue as usize)) {
            return Ok(id);
        }
        check_queue(&topic, queue, topic.read_queues.max(topic.write_queues))?;
        let mut figures = self.queues_of(&topic).await?;
        figures.sort_by_key(|figures| figures.index);
        let ids: Vec<QueueId> = figures.iter().map(|figures| figures.queue).collect();
        let id = ids.get(queue as usize).copied();
        known().insert(topic.id, ids);
        id.ok_or_else(|| no_such_queue(queue))
    }

    /// The place that a physical offset names: topic, queue number and offset. `None` if it names no queue of a topic.
    pub async fn physical_place(
        &self,
        physical: PhysicalOffset,
    ) -> Result<Option<(String, u32, QueueOffset)>, Refusal> {
        let Some((queue, offset)) = physical.place() else { return Ok(None) };
        match self.ask(|token| Command::PlaceOf { queue, token }).await? {
            Output::PlaceOf(place) => {
                let place = place.and_then(|(topic, index)| Some((self.name_of(topic)?, index, offset)));
                Ok(place)
            }
            other => Err(self.unexpected(other, "", "")),
        }
    }
}

fn check_queue(topic: &TopicConfig, queue: u32, queues: u32) -> Result<(), Refusal> {
    debug_assert!(queues <= topic.read_queues.max(topic.write_queues));
    if queue < queues { Ok(()) } else { Err(no_such_queue(queue)) }
}

fn not_there(physical: PhysicalOffset) -> Refusal {
    Refusal::NotSentBack { reason: format!("physical offset {} names no message that is there", physical.0) }
}

fn no_such_queue(queue: u32) -> Refusal {
    Refusal::Setting { field: "queue", value: queue.to_string(), rule: "is not a queue of this topic" }
}
