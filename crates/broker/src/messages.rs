//! Receive, settle: names become ids, commands go to the shard, bodies are read outside of it.

use crate::lite;
use crate::marks::check_invisible;
use crate::runtime::{NotTaken, ShardHandle, Token};
use crate::{Broker, DeliveredMessage, ReceiveRequest, Received, Refusal};
use martlet_model::handle::ReceiptHandle;
use martlet_model::{GroupId, MessageType, QueueOffset, TopicConfig, TopicId, TopicType, limits};
use martlet_shard::{ClientNumber, Command, HandOut, Output, PollId, ReceiveCommand, Refused, SettleError};
use martlet_store::{Reader, StoredMessage};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Replies take from the byte budget in units of this many bytes.
const BUDGET_UNIT: usize = 1024;
/// Messages that nobody asked for that may be read together with few that were.
const OTHERS_BETWEEN: u64 = 8;

/// A reply's share of the byte budget; given back when the reply has been written and this is dropped.
#[derive(Debug, Default)]
pub struct ReplyBudget {
    held: Option<OwnedSemaphorePermit>,
    of: Option<Arc<Semaphore>>,
    limit: usize,
}

impl ReplyBudget {
    fn bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.num_permits() * BUDGET_UNIT)
    }

    /// Takes more, so that it has room for so many bytes in all. False if there are none left.
    fn grow(&mut self, bytes: usize) -> bool {
        let missing = bytes.min(self.limit).saturating_sub(self.bytes()).div_ceil(BUDGET_UNIT);
        if missing == 0 {
            return true;
        }
        let more = self.of.clone().zip(u32::try_from(missing).ok());
        match (&mut self.held, more.and_then(|(of, units)| of.try_acquire_many_owned(units).ok())) {
            (Some(held), Some(more)) => {
                held.merge(more);
                true
            }
            _ => false,
        }
    }

    /// Gives back what is more than this.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        if let Some(held) = &mut self.held {
            let used = bytes.div_ceil(BUDGET_UNIT).min(held.num_permits());
            drop(held.split(held.num_permits() - used));
        }
    }
}

/// About how many bytes a reply with these will have; as many as it may have where that is not known.
fn expected_bytes(hand_outs: &VecDeque<HandOut>) -> usize {
    let hints = hand_outs.iter().map(|hand_out| match hand_out.bytes_hint {
        0 => limits::REPLY_BYTES_MAX,
        hint => hint,
    });
    hints.fold(0, usize::saturating_add).min(limits::REPLY_BYTES_MAX)
}

/// How many of the first hand-outs are read together, and up to where: messages that lie close to each other. Of ordered
/// groups that wait for an earlier message there are others in between, which cost less than a read more.
fn read_together(hand_outs: &VecDeque<HandOut>) -> (usize, QueueOffset) {
    let (mut count, mut end) = (0, QueueOffset(0));
    for hand_out in hand_outs {
        let Some(first) = hand_outs.front().filter(|first| first.queue == hand_out.queue) else { break };
        let is_close = hand_out.offset.0.saturating_sub(first.offset.0) <= 2 * count + OTHERS_BETWEEN;
        if count > 0 && (hand_out.offset < end || hand_out.offset != end && !is_close) {
            break;
        }
        (count, end) = (count + 1, hand_out.offset.next());
    }
    (count as usize, end)
}

/// Gives a poll up when the client goes away before it is answered.
pub(crate) struct PollGuard<'a> {
    pub shard: &'a ShardHandle,
    pub poll: PollId,
    pub answered: bool,
}

impl Drop for PollGuard<'_> {
    fn drop(&mut self) {
        if !self.answered {
            // A stopped shard has no polls left.
            let _ = self.shard.submit(Command::CancelPoll { poll: self.poll });
        }
    }
}

/// Takes back hand-outs that were not given to the caller, whatever happens on the way.
struct Undelivered<'a> {
    shard: &'a ShardHandle,
    group: GroupId,
    hand_outs: VecDeque<HandOut>,
}

impl Drop for Undelivered<'_> {
    fn drop(&mut self) {
        self.shard.undo(self.hand_outs.iter().map(|hand_out| self.shard.receipt(self.group, hand_out)).collect());
    }
}

impl Broker {
    /// Polls for messages; waits up to the request's poll time. Dropping the future gives the poll up.
    pub async fn receive(&self, request: ReceiveRequest) -> Result<Received, Refusal> {
        self.receive_some(request, false).await
    }

    /// The same; if wanted, only what was delivered before.
    pub(crate) async fn receive_some(&self, request: ReceiveRequest, retries_only: bool) -> Result<Received, Refusal> {
        let topic = self.topic(&request.topic).await?;
        if !topic.permission.readable() {
            return Err(Refusal::NotReadable { topic: topic.name.clone() });
        }
        let group = self.group(&request.group).await?;
        lite::check_poll(&topic, &group)?;
        let client = match request.client_id.is_empty() {
            true => ClientNumber(0),
            false => self.client_number(&request.client_id, &request.group)?,
        };
        let shard = &self.inner.shard;
        let poll = PollId(self.inner.next_poll.fetch_add(1, Relaxed));
        let receive = ReceiveCommand {
            poll,
            client,
            group: group.id,
            topic: topic.id,
            queue: request.queue,
            filter: request.filter.clone(),
            batch_size: request.batch_size.clamp(1, limits::RECEIVE_BATCH_MAX),
            invisible_millis: request.invisible_millis,
            renew_for_millis: request.renew_for_millis,
            retries_only,
            until: shard.now().plus(request.poll_millis.max(0)),
            message_group_max: request.message_group_max.max(1),
            attempt_id: request.attempt_id.as_deref().map(Arc::from),
            client_id: group.lite.is_some().then(|| request.client_id.clone()),
        };
        let (token, answer) = shard.token(Some(group.id));
        shard.submit(Command::Receive { receive, token }).map_err(|why| self.not_taken(why))?;
        let mut guard = PollGuard { shard, poll, answered: false };
        let output = answer.await;
        guard.answered = true;
        match output.map_err(|_| self.stopped())? {
            Output::Delivered(hand_outs) if hand_outs.is_empty() => Ok(Received::default()),
            Output::Delivered(hand_outs) => {
                let undelivered = Undelivered { shard, group: group.id, hand_outs: hand_outs.into() };
                self.read_bodies(&request, &topic, undelivered).await
            }
            other => Err(self.unexpected(other, &topic.name, &group.name)),
        }
    }

    /// Reads what was handed out, as much as a reply may hold; the rest goes back.
    async fn read_bodies(
        &self,
        request: &ReceiveRequest,
        topic: &TopicConfig,
        mut undelivered: Undelivered<'_>,
    ) -> Result<Received, Refusal> {
        // What is expected is taken before anything is read, the rest while reading.
        let mut share = self.share_of_budget(expected_bytes(&undelivered.hand_outs)).await;
        let name: Arc<str> = topic.name.as_str().into();
        let mut messages: Vec<DeliveredMessage> = Vec::with_capacity(undelivered.hand_outs.len());
        // Of the reply, and of all that was read for it: what lies together shares memory.
        let (mut bytes, mut read) = (0, 0);
        let mut lost = Vec::new();
        while let Some(&first) = undelivered.hand_outs.front() {
            let (run, end) = read_together(&undelivered.hand_outs);
            let room = share.bytes().min(limits::REPLY_BYTES_MAX).saturating_sub(bytes);
            if room == 0 && !messages.is_empty() {
                break;
            }
            let found = self
                .inner
                .reader
                .messages(first.queue, first.offset..end, (end.0 - first.offset.0) as usize, room)
                .await
                .map_err(|error| Refusal::ReadFailed { reason: error.to_string() })?;
            // A message larger than was expected. Whoever waits for more holds neither messages nor bytes meanwhile: all
            // that read could otherwise wait for each other.
            if let Some(larger) = found.first().map(|stored| stored.record.len())
                && messages.is_empty()
                && larger > share.bytes()
                && !share.grow(larger)
            {
                drop((found, share));
                share = self.share_of_budget(larger).await;
                continue;
            }
            // The engine stops early when the reply is full, and leaves out what the log does not have any more.
            let bytes_found: usize = found.iter().map(|stored| stored.record.len()).sum();
            let stopped_early = bytes_found >= room;
            read += bytes_found;
            let (bytes_before, left_before) = (bytes, undelivered.hand_outs.len());
            let mut found = found.into_iter().peekable();
            for _ in 0..run {
                let Some(&hand_out) = undelivered.hand_outs.front() else { break };
                while found.next_if(|stored| stored.offset < hand_out.offset).is_some() {}
                match found.peek() {
                    Some(stored) if stored.offset == hand_out.offset => {
                        // Only the first message of all may be as large as it likes.
                        let with_it = bytes + stored.record.len();
                        if !messages.is_empty() && (with_it > limits::REPLY_BYTES_MAX || !share.grow(with_it)) {
                            break;
                        }
                        bytes += stored.record.len();
                        messages.extend(
                            found
                                .next()
                                .map(|stored| self.deliver(request, &name, undelivered.group, &hand_out, stored)),
                        );
                    }
                    None if stopped_early || self.is_there(&hand_out).await? => break,
                    // Trimmed between hand-out and reading, or dropped by repair.
                    Some(_) | None => lost.push(self.inner.shard.receipt(undelivered.group, &hand_out)),
                }
                undelivered.hand_outs.pop_front();
            }
            // Where the reply is not full yet, it was others in between that left no room for the rest.
            let others = bytes_found > bytes - bytes_before && undelivered.hand_outs.len() < left_before;
            if stopped_early && !others {
                break;
            }
        }
        if !lost.is_empty() {
            tracing::warn!("{} messages of topic {name} are not in the log any more", lost.len());
            let _ = self.inner.shard.submit(Command::Lost { handles: lost });
        }
        // To clients every lite topic has one queue.
        if topic.kind == TopicType::Lite {
            messages.iter_mut().for_each(|message| message.queue = 0);
        }
        share.shrink(read);
        self.inner.stats.group(&request.group, &topic.name).delivered(messages.len(), bytes);
        Ok(Received { messages, budget: share })
    }

    /// Takes so many bytes from the reply budget, at most all of it, when they are there.
    pub(crate) async fn share_of_budget(&self, bytes: usize) -> ReplyBudget {
        let units = bytes.min(self.inner.reply_bytes).div_ceil(BUDGET_UNIT).max(1);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        // Closed never: the semaphore lives as long as the broker.
        let held = self.inner.reply_budget.clone().acquire_many_owned(units).await.ok();
        ReplyBudget { held, of: Some(self.inner.reply_budget.clone()), limit: self.inner.reply_bytes }
    }

    /// Whether the log still has a message. Asked before it is given up, which must never rest on a reply's size alone.
    async fn is_there(&self, hand_out: &HandOut) -> Result<bool, Refusal> {
        let range = hand_out.offset..hand_out.offset.next();
        let found = self.inner.reader.messages(hand_out.queue, range, 1, 1).await;
        found.map(|found| !found.is_empty()).map_err(|error| Refusal::ReadFailed { reason: error.to_string() })
    }

    fn deliver(
        &self,
        request: &ReceiveRequest,
        topic: &Arc<str>,
        group: GroupId,
        hand_out: &HandOut,
        stored: StoredMessage,
    ) -> DeliveredMessage {
        let shard = &self.inner.shard;
        DeliveredMessage {
            topic: topic.clone(),
            queue: hand_out.queue_index,
            offset: hand_out.offset,
            store_time: stored.store_time,
            attempt: hand_out.attempt,
            handle: shard.receipt(group, hand_out).encode(&shard.key),
            invisible_millis: request.invisible_millis,
            record: stored.record,
        }
    }

    /// Takes back messages that could not be given to the client. Handles that are not this group's are ignored.
    pub fn undo(&self, group: &str, handles: Vec<String>) {
        let Some(group) = self.known_group(group) else { return };
        let key = self.inner.shard.key;
        handles.iter().for_each(|handle| self.undo_broadcast(&group.name, handle));
        let handles = handles.iter().filter_map(|text| ReceiptHandle::decode(text, &key).ok());
        self.inner.shard.undo(handles.filter(|handle| handle.group == group.id).collect());
    }

    /// Settles messages; one answer per handle, in order.
    pub async fn ack(
        &self,
        group: &str,
        topic: &str,
        handles: Vec<String>,
    ) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        if handles.len() > limits::ACK_BATCH_MAX {
            return Err(Refusal::Busy {
                what: "number of receipt handles in one request",
                limit: limits::ACK_BATCH_MAX as u64,
            });
        }
        let (group_id, topic_id) = self.ids(group, topic)?;
        let mut answers: Vec<Result<(), Refusal>> = Vec::with_capacity(handles.len());
        let mut good = Vec::with_capacity(handles.len());
        for text in &handles {
            let decoded = self.decode(text, (group, group_id), (topic, topic_id));
            answers.push(decoded.map(|handle| good.push(handle)));
        }
        if good.is_empty() {
            return Ok(answers);
        }
        match self.ask(|token| Command::Ack { handles: good, token }).await? {
            Output::Acked(settled) => {
                let mut settled = settled.into_iter();
                for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                    if let Some(Err(error)) = settled.next() {
                        *answer = Err(settle_refusal(error));
                    }
                }
                Ok(answers)
            }
            other => Err(self.unexpected(other, topic, group)),
        }
    }

    /// Makes a message visible after so many milliseconds from now; returns its new handle. `suspend`: the group gets nothing of
    /// the message's lite topic meanwhile, and the attempt does not count.
    pub async fn change_invisible(
        &self,
        group: &str,
        topic: &str,
        handle: &str,
        millis: i64,
        suspend: bool,
    ) -> Result<String, Refusal> {
        check_invisible(millis)?;
        let (group_id, topic_id) = self.ids(group, topic)?;
        let handle = self.decode(handle, (group, group_id), (topic, topic_id))?;
        let change = |token| Command::ChangeInvisible { handle, invisible_millis: millis, suspend, token };
        match self.ask(change).await? {
            Output::Changed(Ok(handle)) => Ok(handle.encode(&self.inner.shard.key)),
            Output::Changed(Err(error)) => Err(settle_refusal(error)),
            other => Err(self.unexpected(other, topic, group)),
        }
    }

    /// A client failed on a message: it becomes visible again after the group's back-off, or after its last attempt, if the client
    /// names one, a dead letter. `attempt` is the one that failed, from 1.
    pub async fn nack(
        &self,
        group: &str,
        topic: &str,
        handle: &str,
        attempt: u32,
        attempts_max: Option<u32>,
    ) -> Result<(), Refusal> {
        if attempts_max.is_some_and(|most| attempt >= most) {
            return self.forward_to_dead_letters(group, topic, handle).await;
        }
        let config = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        let millis = config.retry.backoff.wait_millis(attempt);
        self.change_invisible(group, topic, handle, millis, false).await.map(drop)
    }

    /// Moves a message to the group's dead letters, or discards it, as the group says.
    pub async fn forward_to_dead_letters(&self, group: &str, topic: &str, handle: &str) -> Result<(), Refusal> {
        let (group_id, topic_id) = self.ids(group, topic)?;
        let handle = self.decode(handle, (group, group_id), (topic, topic_id))?;
        match self.ask(|token| Command::DeadLetter { handle, token }).await? {
            Output::Settled(Ok(())) => Ok(()),
            Output::Settled(Err(error)) => Err(settle_refusal(error)),
            other => Err(self.unexpected(other, topic, group)),
        }
    }

    /// The number of a client that polls for a group, which it may join by that.
    pub(crate) fn client_number(&self, id: &Arc<str>, group: &str) -> Result<ClientNumber, Refusal> {
        let (number, joined) = self.inner.clients.number(id, group)?;
        if joined {
            self.inner.members.changed(group);
        }
        Ok(number)
    }

    pub(crate) fn ids(&self, group: &str, topic: &str) -> Result<(GroupId, TopicId), Refusal> {
        let group_id = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?.id;
        let topic_id = self.known_topic(topic).ok_or_else(|| Refusal::TopicNotFound { topic: topic.to_owned() })?.id;
        Ok((group_id, topic_id))
    }

    fn decode(&self, text: &str, group: (&str, GroupId), topic: (&str, TopicId)) -> Result<ReceiptHandle, Refusal> {
        let handle = ReceiptHandle::decode(text, &self.inner.shard.key)
            .map_err(|error| Refusal::HandleForged { reason: error.to_string() })?;
        if handle.group != group.1 {
            return Err(Refusal::HandleForeign { what: "consumer group", named: group.0.to_owned() });
        }
        if handle.topic != topic.1 {
            return Err(Refusal::HandleForeign { what: "topic", named: topic.0.to_owned() });
        }
        Ok(handle)
    }

    /// Asks the shard and waits for its answer.
    pub(crate) async fn ask(&self, command: impl FnOnce(Token) -> Command<Token>) -> Result<Output, Refusal> {
        self.begin_ask(command)?.await.map_err(|_| self.stopped())
    }

    /// Asks the shard; the answer comes there.
    pub(crate) fn begin_ask(
        &self,
        command: impl FnOnce(Token) -> Command<Token>,
    ) -> Result<oneshot::Receiver<Output>, Refusal> {
        let (token, answer) = self.inner.shard.token(None);
        self.inner.shard.submit(command(token)).map_err(|why| self.not_taken(why))?;
        Ok(answer)
    }

    fn not_taken(&self, why: NotTaken) -> Refusal {
        match why {
            NotTaken::Full => Refusal::Busy { what: "number of requests waiting for the shard", limit: 65_536 },
            NotTaken::Stopped => self.stopped(),
        }
    }

    pub(crate) fn stopped(&self) -> Refusal {
        match self.inner.shard.stopped() {
            Some(reason) if !self.inner.closing.load(Relaxed) => {
                Refusal::ShardStopped { shard: self.inner.options.broker_name.clone(), reason }
            }
            _ => Refusal::ShuttingDown,
        }
    }

    pub(crate) fn unexpected(&self, output: Output, topic: &str, group: &str) -> Refusal {
        match output {
            Output::Refused(Refused::TopicGone) => Refusal::TopicNotFound { topic: topic.to_owned() },
            Output::Refused(Refused::GroupGone) => Refusal::GroupNotFound { group: group.to_owned() },
            Output::Refused(Refused::NotWritable) => Refusal::NotWritable { topic: topic.to_owned() },
            Output::Refused(Refused::DiskFull { free, needed }) => Refusal::DiskFull { free, needed },
            Output::Refused(Refused::StoreBehind { waited_millis }) => Refusal::StoreBehind { waited_millis },
            Output::Refused(Refused::DeadlinePassed) => {
                Refusal::Busy { what: "time until the request's deadline", limit: 0 }
            }
            Output::Refused(Refused::PollsFull { limit }) => {
                Refusal::Busy { what: "number of waiting polls", limit: limit as u64 }
            }
            Output::Refused(Refused::FiltersFull { limit }) => Refusal::Busy {
                what: "number of different filter expressions of the consumer group on the topic",
                limit: limit as u64,
            },
            Output::Refused(Refused::ReadFailed(reason)) => Refusal::ReadFailed { reason },
            Output::Refused(Refused::InOrder) => {
                Refusal::NotSentBack { reason: format!("consumer group {group} is ordered") }
            }
            Output::Refused(Refused::OpenSlotsFull { limit }) => {
                Refusal::Busy { what: "number of open messages of the consumer group in the queue", limit }
            }
            Output::Refused(Refused::LiteTopicsFull { limit }) => {
                Refusal::LiteTopicsFull { topic: topic.to_owned(), limit }
            }
            Output::Refused(Refused::LiteSubscriptionsFull { wanted, limit }) => {
                Refusal::LiteSubscriptionsFull { wanted, limit }
            }
            Output::Refused(Refused::LiteWildcard) => Refusal::Setting {
                field: "action",
                value: "of a partial lite subscription".into(),
                rule: "is not for a consumer group that consumes every lite topic",
            },
            Output::Refused(Refused::NotLite) => Refusal::NotLite { group: group.to_owned() },
            Output::Refused(Refused::NoLiteTopic) => Refusal::MessageTypeConflict {
                topic: topic.to_owned(),
                accepts: TopicType::Lite,
                found: MessageType::Normal,
                index: 0,
            },
            Output::Refused(Refused::OffsetOutOfRange { index, offset, min, max }) => {
                Refusal::OffsetOutOfRange { queue: index, offset: offset.0, min: min.0, max: max.0 }
            }
            _ => Refusal::ShardStopped {
                shard: self.inner.options.broker_name.clone(),
                reason: "it answered something else than was asked".into(),
            },
        }
    }

    /// How long to sleep between two rounds of looking after things.
    pub(crate) fn housekeeping(&self) {
        self.expire_members();
        for (id, number, group) in self.inner.clients.expire() {
            group.iter().for_each(|group| self.consumer_left(group, &id));
            tracing::info!("client {id} is gone: not heard of for {} s", limits::CLIENT_EXPIRY_MILLIS / 1000);
            let _ = self.inner.shard.submit(Command::ClientGone { client: number });
        }
        self.inner.reader.take_notices().iter().for_each(|notice| self.inner.stats.noticed(notice));
        self.tell_of_the_bucket();
        let usage = self.inner.shard.figures().usage;
        let over = over_watermark(&usage, self.inner.options.disk_watermark);
        // Not more than a segment per round: space comes back only as segments are reclaimed.
        if over > 0 && usage.live_bytes.is_some_and(|bytes| bytes > 0) {
            let own = usage.log_bytes + usage.index_bytes;
            tracing::warn!(
                "the log takes {own} bytes and leaves {} free, {over} over the watermark: dropping the oldest messages",
                usage.disk_free
            );
            let bytes = over.min(u64::from(self.inner.options.segment_bytes));
            let _ = self.inner.shard.submit(Command::DropOldest { bytes });
        }
    }

    /// Says once that the bucket refuses or cannot be reached, and once that it answers again.
    fn tell_of_the_bucket(&self) {
        let trouble = self.inner.reader.meter().and_then(martlet_bucket::Meter::trouble);
        let told = self.inner.bucket_trouble_told.swap(trouble.is_some(), Relaxed);
        match trouble {
            Some(answer) if !told => tracing::warn!("the bucket refuses or cannot be reached: {answer}"),
            None if told => tracing::info!("the bucket answers again"),
            _ => {}
        }
    }
}

/// Bytes by which the log is larger than its share (0 to 1) of the room it has: its own files and what is free. What else is on
/// the disk is no reason to drop messages while there is room.
fn over_watermark(usage: &martlet_store::Usage, share: f64) -> u64 {
    // A bucket has no end.
    if usage.disk_total == 0 {
        return 0;
    }
    let own = usage.log_bytes + usage.index_bytes;
    let room = own.saturating_add(usage.disk_free);
    own.saturating_sub((room as f64 * share.clamp(0.0, 1.0)) as u64)
}

pub(crate) const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(5);

pub(crate) fn settle_refusal(error: SettleError) -> Refusal {
    match error {
        SettleError::Lapsed { ago_millis } => Refusal::HandleLapsed { ago_millis },
        SettleError::Superseded => Refusal::HandleSuperseded,
        SettleError::Gone => Refusal::HandleForged {
            reason: "receipt handle belongs to a topic or consumer group that was deleted".into(),
        },
    }
}

/// The budget that replies take from.
pub(crate) fn reply_budget(bytes: usize) -> (Arc<Semaphore>, usize) {
    // One whole reply must always fit.
    let units = (bytes.max(limits::REPLY_BYTES_MAX) / BUDGET_UNIT).min(Semaphore::MAX_PERMITS >> 1);
    (Arc::new(Semaphore::new(units)), units * BUDGET_UNIT)
}

/// Bytes taken from it.
pub(crate) fn budget_used(budget: &Semaphore, total: usize) -> usize {
    total.saturating_sub(budget.available_permits() * BUDGET_UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_model::handle::DeliveryNumber;
    use martlet_model::{QueueId, UnixMillis};
    use martlet_store::Usage;

    #[test]
    fn hand_outs_that_lie_close_to_each_other_are_read_together() {
        let hand_outs = |places: &[(u64, u64)]| -> VecDeque<HandOut> {
            let hand_out = |&(queue, offset)| HandOut {
                topic: TopicId(1),
                queue: QueueId(queue),
                queue_index: 0,
                offset: QueueOffset(offset),
                attempt: 1,
                delivery: DeliveryNumber::default(),
                until: UnixMillis(0),
                bytes_hint: 0,
            };
            places.iter().map(hand_out).collect()
        };
        let together = |places: &[(u64, u64)]| {
            let (count, end) = read_together(&hand_outs(places));
            (count, end.0)
        };
        assert_eq!(together(&[(1, 5), (1, 6), (1, 7)]), (3, 8));
        assert_eq!(together(&[(1, 5), (2, 6)]), (1, 6), "another queue");
        assert_eq!(together(&[(1, 5), (1, 4)]), (1, 6), "a retry first");
        assert_eq!(together(&[(1, 5), (1, 8), (1, 17), (1, 29)]), (3, 18), "few between, then too many");
        assert_eq!(together(&[]).0, 0);
    }

    #[test]
    fn only_the_logs_own_share_of_the_room_makes_it_drop_messages() {
        let gib = 1 << 30;
        let usage = |log_bytes, disk_free| Usage { log_bytes, disk_free, disk_total: 250 * gib, ..Usage::default() };
        // Nine tenths of the disk are taken by others.
        assert_eq!(over_watermark(&usage(gib, 24 * gib), 0.85), 0);
        assert_eq!(over_watermark(&usage(80 * gib, 20 * gib), 0.85), 0);
        assert_eq!(over_watermark(&usage(90 * gib, 10 * gib), 0.85), 5 * gib);
        assert_eq!(over_watermark(&Usage::default(), 0.85), 0);
    }
}
