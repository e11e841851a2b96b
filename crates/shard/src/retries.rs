//! Retries of queue-based members: what they send back, and `%RETRY%group`, the queue they pull retries from.
//!
//! A retry is a slot on the original message, whoever failed on it. While queue-based members of the group have both the
//! message's queue and the retry queue, a slot that becomes visible goes to the retry queue: a *reference* (topic, queue,
//! offset, attempts) is appended there and the slot is closed, in one batch. Pulls of the retry queue read what the
//! references name; committing its offset settles them. When no queue-based member has the retry queue any more and one of
//! the group polls by message, references that nobody has settled are handed back: they become slots on the originals
//! again, in the batch that closes them. So no retry is stranded, whichever kind of member comes next, and nothing is
//! copied.
//!
//! | sent back | what comes of it |
//! | --- | --- |
//! | a message that was pulled, settled or not | a slot that waits for the given time, with one attempt more |
//! | a retry that was pulled from the retry queue | the same on the original message, and the reference is closed |
//! | for the last time, or for the dead letters | a dead letter, in the batch that settles it |
//! | what somebody has in flight, or what waits already | nothing: it is not lost |
//!
//! Rules
//! - What a member was to pull and has not committed stays open when a message behind it is sent back: places without a
//!   slot become visible slots.
//! - A whole message that a client has sent to `%RETRY%group` is a message there like in any other topic: it waits for a
//!   queue-based member.
//! - Groups with message groups in order have no retry queue in use: a retry keeps its place in front of what is behind.

use crate::answer::*;
use crate::command::*;
use crate::load::Load;
use crate::progress::SlotChange;
use crate::queue_based::{floor, plan};
use crate::resident::Purpose;
use crate::shard::{Shard, Work};
use martlet_model::handle::DeliveryNumber;
use martlet_model::record::{Field, RecordWriter, RetryOf};
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_store::Room;
use std::collections::{BTreeMap, BTreeSet};

/// Slots that are moved to the retry queue by one pull at most; the next one goes on.
const GATHERED_MAX: usize = 1024;
/// References that are handed back at a time.
const HANDED_BACK: u64 = 256;

/// How far retry queues have been looked through for references to hand back, and of which groups that is being done.
#[derive(Debug, Default)]
pub(crate) struct HandingBack {
    done_below: BTreeMap<GroupId, QueueOffset>,
    under_way: BTreeSet<GroupId>,
}

/// A retry that is sent back: the retry queue, the reference's place there, and the attempts before.
pub(crate) type SentRetry = (QueueId, QueueOffset, u32);

impl HandingBack {
    pub fn forget(&mut self, group: GroupId) {
        self.done_below.remove(&group);
        self.under_way.remove(&group);
    }
}

impl<T> Shard<T> {
    fn retry_queue(&self, group: GroupId) -> Option<QueueId> {
        self.topics.get(&TopicId::retries_of(group))?.queues.first().copied()
    }

    /// The retry queue of a group, if a queue-based member has it.
    fn retry_queue_in_use(&self, group: GroupId) -> Option<QueueId> {
        self.retry_queue(group).filter(|&id| self.is_owned(group, id) && self.queues.contains_key(&id))
    }

    /// Whether retries of a queue that a queue-based member has are still handed out by message, for no such member asks
    /// for retries.
    pub(crate) fn hands_out_retries(&self, group: GroupId) -> bool {
        self.retry_queue(group).is_none_or(|id| !self.is_owned(group, id)) && !self.is_ordered(group)
    }

    /// A topic that exists as soon as something asks for it.
    pub(crate) fn make_topic_asked_for(&mut self, command: &Command<T>) {
        let mut locked = None;
        let topic = match command {
            Command::Pull { pull, .. } => Some(pull.topic),
            Command::CommitOffset { topic, .. }
            | Command::StoredOffset { topic, .. }
            | Command::DescribeTopic { topic, .. }
            | Command::AwaitOffset { topic, .. }
            | Command::Send { topic, .. }
            | Command::Schedule { topic, .. } => Some(*topic),
            Command::LockQueues { queues, .. } => {
                locked = queues.iter().find(|(topic, _)| topic.retry_group().is_some()).map(|(topic, _)| *topic);
                locked
            }
            _ => None,
        };
        if let Some(group) = topic.or(locked).and_then(TopicId::retry_group)
            && self.retry_queue(group).is_none()
        {
            self.make_retry_topic(group);
        }
    }

    /// A visible slot goes to the retry queue, if members pull that; else it stays. One that was never delivered goes only
    /// where its queue's owner has passed it.
    pub(crate) fn move_to_retry_queue(
        &mut self,
        group: GroupId,
        queue: QueueId,
        offset: QueueOffset,
        passed: QueueOffset,
    ) -> bool {
        let Some(retries) = self.retry_queue_in_use(group) else { return false };
        let has_room = matches!(self.room, Room::Open);
        if !has_room || !self.is_owned(group, queue) || self.is_ordered(group) {
            return false;
        }
        let slot = self.progress.get(&(group, queue)).and_then(|progress| progress.slot(offset)).copied();
        let (Some(slot), Some(&topic)) = (slot, self.topic_of.get(&queue)) else { return false };
        // A reference needs none to itself.
        if slot.attempts == 0 && (offset >= passed || queue == retries) {
            return false;
        }
        let mut writer = RecordWriter::with_capacity(32);
        writer.field(Field::RetryOf(RetryOf { topic, queue, offset, attempts: slot.attempts }));
        let record = writer.finish(&[]);
        let reference = Incoming { record, terms: Vec::new(), message_group: None, lite_topic: None };
        if self.append(retries, reference).is_none() {
            return false;
        }
        self.change(group, queue, SlotChange::Close { first: offset, count: 1 });
        true
    }

    /// A slot became visible: for members that pull retries, or to be handed out.
    pub(crate) fn moved_as_retry(&mut self, group: GroupId, queue: QueueId, offset: QueueOffset) -> bool {
        let told = self.owners.get((group, queue)).map_or(QueueOffset(0), |owner| owner.told);
        self.move_to_retry_queue(group, queue, offset, told)
    }

    /// Moves what is visible in queues that members have, and what they have passed, to the retry queue.
    pub(crate) fn gather_retries(&mut self, group: GroupId) {
        let Some(retries) = self.retry_queue_in_use(group) else { return };
        let mut left = GATHERED_MAX;
        for (queue, start) in self.owners.live_of(group, self.now) {
            let Some(progress) = self.progress.get(&(group, queue)) else { continue };
            let passed = progress.fresh().range(..if queue == retries { 0 } else { start.0 });
            let visible: Vec<u64> = progress.retries().iter().chain(passed).copied().take(left).collect();
            for offset in visible {
                if !self.move_to_retry_queue(group, queue, QueueOffset(offset), start) {
                    return;
                }
                left -= 1;
            }
        }
    }

    /// A member polls by message, or may: references that no queue-based member is going to pull are handed back.
    pub(crate) fn hand_back_retries(&mut self, group: GroupId) {
        let Some(id) = self.retry_queue(group).filter(|&id| !self.is_owned(group, id)) else { return };
        let done = self.handing_back.done_below.get(&group);
        let is_done = done.is_some_and(|done| self.queues.get(&id).is_some_and(|queue| queue.durable <= *done));
        if !is_done && self.handing_back.under_way.insert(group) {
            self.handle(Work::HandBack { group });
        }
    }

    /// The same, if anybody of the group waits for messages.
    pub(crate) fn hand_back_if_polled(&mut self, group: GroupId) {
        if self.polls.keys().any(|key| key.1 == group) {
            self.hand_back_retries(group);
        }
    }

    /// The retry queue is resident: the next references are read.
    pub(crate) fn hand_back(&mut self, group: GroupId) {
        self.handing_back.under_way.remove(&group);
        let Some(id) = self.retry_queue(group).filter(|&id| !self.is_owned(group, id)) else { return };
        let (Some(queue), Some(progress)) = (self.queues.get(&id), self.progress.get(&(group, id))) else { return };
        let done = self.handing_back.done_below.get(&group).copied().unwrap_or_default();
        let plan = plan(progress, floor(progress).max(done), queue.durable, HANDED_BACK, false);
        if plan.places.is_empty() {
            self.handing_back.done_below.insert(group, queue.durable);
            return;
        }
        self.handing_back.under_way.insert(group);
        self.want(Load::References(id, plan.places), Purpose::HandBack(group));
    }

    /// References were read; `None`: they could not be. The next poll tries again.
    pub(crate) fn hand_back_loaded(&mut self, group: GroupId, found: Option<Vec<(QueueOffset, Option<RetryOf>)>>) {
        match found {
            Some(found) => self.handle(Work::HandedBack { group, found }),
            None => drop(self.handing_back.under_way.remove(&group)),
        }
    }

    /// What references name is resident: they become slots again.
    pub(crate) fn handed_back(&mut self, group: GroupId, found: &[(QueueOffset, Option<RetryOf>)]) {
        self.handing_back.under_way.remove(&group);
        let Some(id) = self.retry_queue(group).filter(|&id| !self.is_owned(group, id)) else { return };
        // Who had it and was late does not have it any more.
        self.pass_by_owner(group, id);
        for &(offset, reference) in found {
            let Some(progress) = self.progress.get(&(group, id)) else { return };
            let (is_new, is_open) = (offset >= progress.next(), progress.fresh().contains(&offset.0));
            match reference {
                Some(reference) if is_new || is_open => {
                    self.reopen(group, &reference);
                    self.change(group, id, SlotChange::Close { first: offset, count: 1 });
                }
                // A whole message stays for queue-based members.
                None if is_new => {
                    let (delivery, until) = (DeliveryNumber(0), UnixMillis(0));
                    self.change(group, id, SlotChange::Set { offset, attempts: 0, delivery, until });
                }
                _ => {}
            }
            self.handing_back.done_below.insert(group, offset.next());
        }
        self.hand_back_retries(group);
    }

    fn reopen(&mut self, group: GroupId, reference: &RetryOf) {
        let RetryOf { queue, offset, attempts, .. } = *reference;
        let (Some(entry), Some(progress)) = (self.queues.get(&queue), self.progress.get(&(group, queue))) else {
            return;
        };
        // Taken by retention, still to come after a reset, or sent back again since.
        if offset < entry.min || offset >= progress.next() || progress.slot(offset).is_some() {
            return;
        }
        // As never delivered, a commit of the queue's owner could settle it.
        let attempts = attempts.max(1);
        let (delivery, until) = (DeliveryNumber(0), UnixMillis(0));
        self.change(group, queue, SlotChange::Set { offset, attempts, delivery, until });
        if let Some(slot) = self.progress.get(&(group, queue)).and_then(|progress| progress.slot(offset)).copied() {
            self.due_slot(group, queue, offset, slot);
        }
        self.stir(group, queue);
    }

    /// A member sends a message back.
    pub(crate) fn send_back(&mut self, back: SendBackCommand, token: T) {
        if !self.groups.contains_key(&back.group) {
            return self.reply(token, Output::Refused(Refused::GroupGone));
        }
        if self.is_ordered(back.group) {
            return self.reply(token, Output::Refused(Refused::InOrder));
        }
        let gone = Output::Settled(Err(SettleError::Gone));
        match self.topic_of.get(&back.queue).map(|topic| topic.retry_group()) {
            None => self.reply(token, gone),
            Some(Some(group)) if group != back.group => self.reply(token, gone),
            Some(Some(_)) => {
                // A whole message that was sent there is sent back like any other.
                let places = std::iter::once(back.offset..back.offset.next()).collect();
                self.want(Load::References(back.queue, places), Purpose::SendBack { back, token });
            }
            Some(None) => self.send_back_to(&back, None, token),
        }
    }

    /// A retry that is sent back was read.
    pub(crate) fn send_back_loaded(
        &mut self,
        back: SendBackCommand,
        found: &[(QueueOffset, Option<RetryOf>)],
        token: T,
    ) {
        match found.first() {
            Some((_, Some(reference))) => {
                let retry = Some((back.queue, back.offset, reference.attempts));
                let back = SendBackCommand { queue: reference.queue, offset: reference.offset, ..back };
                self.handle(Work::SendBack { back, retry, token });
            }
            Some((_, None)) => self.handle(Work::SendBack { back, retry: None, token }),
            None => self.reply(token, Output::Settled(Err(SettleError::Gone))),
        }
    }

    /// How many slots were open if everything below a place had one that was never handed out.
    fn open_before(&self, key: (GroupId, QueueId), offset: QueueOffset) -> Option<u64> {
        let progress = self.progress.get(&key)?;
        Some(progress.open_slots() as u64 + offset.0.saturating_sub(progress.next().0))
    }

    /// A reference is settled; what is before it is not, unless it was.
    fn close_reference(&mut self, key: (GroupId, QueueId), offset: QueueOffset) {
        let Some(progress) = self.progress.get(&key) else { return };
        let (next, is_open) = (progress.next(), progress.fresh().contains(&offset.0));
        if next < offset {
            self.change(key.0, key.1, SlotChange::Open { first: next, count: offset.0 - next.0 });
        }
        if is_open || next <= offset {
            self.change(key.0, key.1, SlotChange::Close { first: offset, count: 1 });
        }
    }

    /// The message's progress is resident: it becomes a retry. If it was one, that is closed, and counts.
    pub(crate) fn send_back_to(&mut self, back: &SendBackCommand, retry: Option<SentRetry>, token: T) {
        let SendBackCommand { group, queue, offset, delay, attempts_max } = *back;
        let key = (group, queue);
        let (Some(entry), Some(progress), Some(facts)) =
            (self.queues.get(&queue), self.progress.get(&key), self.groups.get(&group))
        else {
            return self.reply(token, Output::Settled(Err(SettleError::Gone)));
        };
        if offset < entry.min || offset >= entry.durable {
            return self.reply(token, Output::Settled(Err(SettleError::Gone)));
        }
        let is_fresh = progress.fresh().contains(&offset.0);
        let limit = self.options.open_slots_max as u64;
        let is_full = |key, offset| self.open_before(key, offset).is_none_or(|open| open >= limit);
        if is_full(key, offset) || retry.is_some_and(|(queue, offset, _)| is_full((group, queue), offset)) {
            return self.reply(token, Output::Refused(Refused::OpenSlotsFull { limit }));
        }
        let next = progress.next();
        let before = offset.0.saturating_sub(next.0);
        let attempts = retry.map_or(0, |(.., attempts)| attempts).saturating_add(1);
        let attempts_max = attempts_max.unwrap_or(u32::MAX).min(facts.max_attempts).max(1);
        let wait = match delay {
            SendBackDelay::Policy => facts.backoff.wait_millis(attempts),
            SendBackDelay::Millis(millis) => millis,
            SendBackDelay::DeadLetter => 0,
        };
        let is_pending = progress.slot(offset).is_some() && !is_fresh;
        if let Some((queue, offset, _)) = retry {
            self.close_reference((group, queue), offset);
        }
        if is_pending {
            return self.reply(token, Output::Settled(Ok(())));
        }
        if before > 0 {
            self.change(group, queue, SlotChange::Open { first: next, count: before });
        }
        let delivery = DeliveryNumber(0);
        if delay == SendBackDelay::DeadLetter || attempts >= attempts_max {
            self.change(group, queue, SlotChange::Set { offset, attempts, delivery, until: UnixMillis(0) });
            return self.move_to_dead_letters(group, queue, offset, Some(token));
        }
        let until = self.now.plus(wait.max(1));
        self.change(group, queue, SlotChange::Set { offset, attempts, delivery, until });
        self.reply(token, Output::Settled(Ok(())));
    }
}
