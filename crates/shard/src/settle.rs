//! Settling messages: ack, change of invisibility, dead letters, lapse, and the hand-out that reached nobody.
//!
//! | handle | answer |
//! | --- | --- |
//! | of the live delivery | carried out |
//! | settled before (no slot, below the frontier) | OK: twice is as good as once |
//! | the invisible duration is over | lapsed |
//! | a newer delivery exists, or the hand-out was lost in a crash | superseded |
//! | of a deleted topic or group | gone |

use crate::answer::*;
use crate::command::*;
use crate::load::Load;
use crate::progress::{Renewal, Slot, SlotChange};
use crate::resident::Purpose;
use crate::shard::{Shard, Work};
use bytes::Bytes;
use martlet_model::handle::{DeliveryNumber, ReceiptHandle};
use martlet_model::record::{self, Field};
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis, limits};
use martlet_store::{Room, StoredMessage};
use std::sync::Arc;

/// A dead letter that could not be moved (no room, unreadable) is tried again after this.
const MOVE_AGAIN_MILLIS: i64 = 10_000;

enum Found {
    Live(Slot),
    Settled,
}

impl<T> Shard<T> {
    fn find(&self, handle: &ReceiptHandle) -> Result<Found, SettleError> {
        let progress = self.progress.get(&(handle.group, handle.queue)).ok_or(SettleError::Gone)?;
        match progress.slot(handle.offset) {
            Some(slot) if slot.delivery != handle.delivery => Err(SettleError::Superseded),
            // On its way to the dead letters: as good as settled, unless the move fails.
            Some(slot) if slot.until <= self.now || progress.moving.contains(&handle.offset.0) => {
                // `until` is 0 where a duration of 0 made it visible.
                let ago_millis = if slot.until.0 == 0 { 0 } else { self.now.since(slot.until).max(0) };
                Err(SettleError::Lapsed { ago_millis })
            }
            Some(slot) => Ok(Found::Live(*slot)),
            None if handle.offset < progress.next() => Ok(Found::Settled),
            None => Err(SettleError::Superseded),
        }
    }

    /// Settles messages, those that follow each other as one change; one answer per handle.
    pub(crate) fn ack(&mut self, handles: &[ReceiptHandle]) -> Vec<Result<(), SettleError>> {
        let mut answers = Vec::with_capacity(handles.len());
        let mut rest = handles;
        while let Some(first) = rest.first() {
            let follows = |(handle, n): &(&ReceiptHandle, u64)| {
                let place = (handle.group, handle.queue, handle.offset.0);
                place == (first.group, first.queue, first.offset.0.saturating_add(*n))
                    && matches!(self.find(handle), Ok(Found::Live(_)))
            };
            let count = rest.iter().zip(0..).take_while(follows).count();
            if count == 0 {
                answers.push(self.find(first).map(drop));
                rest = &rest[1..];
                continue;
            }
            self.counters.acked += count as u64;
            self.settle(first.group, first.queue, first.offset, count as u64);
            answers.extend((0..count).map(|_| Ok(())));
            rest = &rest[count..];
        }
        answers
    }

    pub(crate) fn change_invisible(
        &mut self,
        handle: &ReceiptHandle,
        millis: i64,
        suspend: bool,
    ) -> Result<ReceiptHandle, SettleError> {
        let Found::Live(slot) = self.find(handle)? else { return Ok(*handle) };
        if suspend && self.is_lite_queue(handle.queue) {
            return Ok(self.suspend_lite(handle, millis));
        }
        let delivery = self.next_delivery;
        self.next_delivery = delivery.plus(1);
        let until = if millis > 0 { self.now.plus(millis) } else { UnixMillis(0) };
        let (group, queue, offset) = (handle.group, handle.queue, handle.offset);
        self.change(group, queue, SlotChange::Set { offset, attempts: slot.attempts, delivery, until });
        if millis <= 0 {
            self.due_slot(group, queue, offset, Slot { attempts: slot.attempts, delivery, until });
            self.stir(group, queue);
        }
        Ok(ReceiptHandle { delivery, ..*handle })
    }

    /// The hand-out reached nobody: slot and attempt as before.
    pub(crate) fn undo(&mut self, handle: &ReceiptHandle) {
        let Ok(Found::Live(slot)) = self.find(handle) else { return };
        let (attempts, delivery) = (slot.attempts.saturating_sub(1), DeliveryNumber(0));
        let change = SlotChange::Set { offset: handle.offset, attempts, delivery, until: UnixMillis(0) };
        self.counters.undone += 1;
        self.change(handle.group, handle.queue, change);
        let is_passed = attempts == 0 && self.is_passed(handle.group, handle.queue, handle.offset);
        if !self.moved_as_retry(handle.group, handle.queue, handle.offset) && is_passed {
            // The queue's owner does not come back to it, and its commits must not settle it: it is a retry.
            let change = SlotChange::Set { offset: handle.offset, attempts: 1, delivery, until: UnixMillis(0) };
            self.change(handle.group, handle.queue, change);
        }
        self.stir(handle.group, handle.queue);
    }

    /// The log does not have the message any more.
    pub(crate) fn lost(&mut self, handle: &ReceiptHandle) {
        if let Ok(Found::Live(_)) = self.find(handle) {
            self.counters.dropped_unconsumed += 1;
            self.settle(handle.group, handle.queue, handle.offset, 1);
        }
    }

    /// Slots are settled: what waited for them, be it their message group or open slots being scarce, may be handed out.
    fn settle(&mut self, group: GroupId, queue: QueueId, first: QueueOffset, count: u64) {
        self.change(group, queue, SlotChange::Close { first, count });
        self.stir(group, queue);
    }

    /// What a vanished client had under renewal becomes visible.
    pub(crate) fn client_gone(&mut self, client: ClientNumber) {
        self.attempts.forget_client(client);
        self.drop_lite_members(|_, of| of == Some(client));
        let held: Vec<(GroupId, QueueId, u64)> = self
            .progress
            .iter()
            .flat_map(|(&(group, queue), progress)| {
                progress
                    .renewals
                    .iter()
                    // What is on its way to the dead letters is settled by that.
                    .filter(|(at, renewal)| renewal.client == client && !progress.moving.contains(at))
                    .map(move |(&at, _)| (group, queue, at))
            })
            .collect();
        for (group, queue, offset) in held {
            let offset = QueueOffset(offset);
            let Some(slot) = self.progress.get(&(group, queue)).and_then(|progress| progress.slot(offset)).copied()
            else {
                continue;
            };
            let until = UnixMillis(0);
            let slot = Slot { delivery: DeliveryNumber(0), until, ..slot };
            self.change(
                group,
                queue,
                SlotChange::Set { offset, attempts: slot.attempts, delivery: slot.delivery, until },
            );
            self.due_slot(group, queue, offset, slot);
            self.stir(group, queue);
        }
    }

    /// What a client holds that leaves lapses by itself.
    pub(crate) fn client_leaves(&mut self, client: ClientNumber) {
        self.attempts.forget_client(client);
        self.drop_lite_members(|_, of| of == Some(client));
        for progress in self.progress.values_mut() {
            progress.renewals.retain(|_, renewal| renewal.client != client);
        }
    }

    /// Slots whose time has come: renewed, made visible, or dead.
    pub(crate) fn lapse(&mut self, group: GroupId, queue: QueueId) {
        let now = self.now;
        let Some(progress) = self.progress.get_mut(&(group, queue)) else {
            // Evicted while something waited: read again, which comes back here.
            if self.lite_group(group).is_some() {
                self.wake_lite(group, queue, None);
            }
            return;
        };
        let due = progress.take_due(now);
        for (offset, slot) in due {
            let renewal = self.renewal(group, queue, offset);
            let Slot { attempts, delivery, .. } = slot;
            match renewal {
                Some(renewal) if now < renewal.until => {
                    let until = now.plus(limits::AUTO_RENEW_SLICE_MILLIS);
                    self.change(group, queue, SlotChange::Set { offset, attempts, delivery, until });
                    self.renew(group, queue, offset, Some(renewal));
                }
                Some(_) => {
                    let wait = self.groups.get(&group).map_or(0, |group| group.backoff.wait_millis(attempts));
                    let until = now.plus(wait.max(1));
                    let delivery = DeliveryNumber(0);
                    self.change(group, queue, SlotChange::Set { offset, attempts, delivery, until });
                }
                None => self.due_slot(group, queue, offset, slot),
            }
        }
        self.note_due(group, queue);
        self.stir(group, queue);
    }

    /// A slot may be handed out again, unless it had its last attempt.
    pub(crate) fn due_slot(&mut self, group: GroupId, queue: QueueId, offset: QueueOffset, slot: Slot) {
        let Some(facts) = self.groups.get(&group) else { return };
        if slot.attempts < facts.max_attempts.max(1) {
            if !self.moved_as_retry(group, queue, offset)
                && let Some(progress) = self.progress.get_mut(&(group, queue))
            {
                progress.make_visible(offset);
            }
            return;
        }
        self.move_to_dead_letters(group, queue, offset, None);
    }

    pub(crate) fn dead_letter(&mut self, handle: &ReceiptHandle, token: T) {
        match self.find(handle) {
            Ok(Found::Live(_)) => self.move_to_dead_letters(handle.group, handle.queue, handle.offset, Some(token)),
            Ok(Found::Settled) => self.reply(token, Output::Settled(Ok(()))),
            Err(error) => self.reply(token, Output::Settled(Err(error))),
        }
    }

    pub(crate) fn move_to_dead_letters(
        &mut self,
        group: GroupId,
        queue: QueueId,
        offset: QueueOffset,
        reply: Option<T>,
    ) {
        let discard = self.groups.get(&group).is_some_and(|group| group.dead_letters == DeadLetters::Discard);
        if discard {
            self.counters.discarded += 1;
            self.settle(group, queue, offset, 1);
            reply.into_iter().for_each(|token| self.reply(token, Output::Settled(Ok(()))));
            return;
        }
        if let Some(progress) = self.progress.get_mut(&(group, queue)) {
            progress.set_moving(offset);
        }
        self.want(Load::Message(queue, offset), Purpose::DeadLetter { group, queue, offset, reply });
    }

    /// The body of a dead letter has been read.
    pub(crate) fn dead_letter_loaded(
        &mut self,
        group: GroupId,
        queue: QueueId,
        offset: QueueOffset,
        message: Option<StoredMessage>,
        reply: Option<T>,
    ) {
        let (Some(message), Some(facts)) = (message, self.groups.get(&group)) else {
            // Retention was faster: there is nothing left to move. If a reset was, the slot is not this one's any more.
            if self.progress.get(&(group, queue)).is_some_and(|progress| progress.moving.contains(&offset.0)) {
                self.settle(group, queue, offset, 1);
            }
            reply.into_iter().for_each(|token| self.reply(token, Output::Settled(Ok(()))));
            return;
        };
        if matches!(self.room, Room::OnlyProgress(_)) {
            return self.dead_letter_failed(group, queue, offset, reply, None);
        }
        let own = TopicId::dead_letters_of(group);
        let into = match facts.dead_letters {
            DeadLetters::Topic(topic) if self.topics.contains_key(&topic) => topic,
            _ => own,
        };
        if into == own {
            self.make_dead_letter_topic(group);
        }
        self.handle(Work::DeadLetter { group, queue, offset, record: message.record, into, reply });
    }

    pub(crate) fn append_dead_letter(
        &mut self,
        group: GroupId,
        queue: QueueId,
        offset: QueueOffset,
        record: &Bytes,
        into: TopicId,
        reply: Option<T>,
    ) {
        let origin =
            self.topic_of.get(&queue).and_then(|topic| self.topics.get(topic)).map(|topic| topic.facts.name.clone());
        let origin = origin.unwrap_or_else(|| Arc::from(""));
        let progress = self.progress.get(&(group, queue));
        let is_open = progress.is_some_and(|progress| progress.moving.contains(&offset.0));
        let id = record::find(record, |field| match field {
            Field::MessageId(id) => Some(id),
            _ => None,
        });
        let fields = [Field::DeadLetterTopic(&origin), Field::DeadLetterMessageId(id.unwrap_or(""))];
        let target = self.topics.get(&into).and_then(|topic| topic.queue_for_message(None, record));
        match (is_open, target, record::with_fields(record, &fields)) {
            (false, ..) => {}
            (true, Some(target), Ok(copy)) => {
                if let Some(topic) = self.topics.get_mut(&into) {
                    topic.next_send = topic.next_send.wrapping_add(1);
                }
                let mut terms: Vec<_> = id.map(|id| crate::term(into, b'i', id)).into_iter().collect();
                terms.extend(record::fields(record).map_while(Result::ok).filter_map(|field| match field {
                    Field::Key(key) => Some(crate::term(into, b'k', key)),
                    _ => None,
                }));
                terms.truncate(64);
                self.append(target, Incoming { record: copy, terms, message_group: None, lite_topic: None });
                self.counters.dead_letters += 1;
                if let Some(&topic) = self.topic_of.get(&queue) {
                    *self.counters.dead_letters_of.entry((group, topic)).or_default() += 1;
                }
                self.settle(group, queue, offset, 1);
            }
            _ => return self.dead_letter_failed(group, queue, offset, reply, None),
        }
        reply.into_iter().for_each(|token| self.reply(token, Output::Settled(Ok(()))));
    }

    /// It stays where it is and is tried again later.
    pub(crate) fn dead_letter_failed(
        &mut self,
        group: GroupId,
        queue: QueueId,
        offset: QueueOffset,
        reply: Option<T>,
        error: Option<String>,
    ) {
        let slot = self.progress.get(&(group, queue)).and_then(|progress| progress.slot(offset)).copied();
        if let Some(Slot { attempts, delivery, until }) = slot {
            // Asked for by a client, its handle stays live; else nobody holds one.
            let (delivery, until) = match reply {
                Some(_) => (delivery, until.max(self.now.plus(MOVE_AGAIN_MILLIS))),
                None => (DeliveryNumber(0), self.now.plus(MOVE_AGAIN_MILLIS)),
            };
            let renewal = self.renewal(group, queue, offset).filter(|_| reply.is_some());
            self.change(group, queue, SlotChange::Set { offset, attempts, delivery, until });
            self.renew(group, queue, offset, renewal);
        }
        if let Some(token) = reply {
            let refused = match (error, self.room) {
                (Some(reason), _) => Refused::ReadFailed(reason),
                (None, Room::OnlyProgress(shortage)) => shortage.into(),
                (None, Room::Open) => Refused::NotWritable,
            };
            self.reply(token, Output::Refused(refused));
        }
    }

    fn renewal(&self, group: GroupId, queue: QueueId, offset: QueueOffset) -> Option<Renewal> {
        self.progress.get(&(group, queue))?.renewals.get(&offset.0).copied()
    }

    fn renew(&mut self, group: GroupId, queue: QueueId, offset: QueueOffset, renewal: Option<Renewal>) {
        if let (Some(progress), Some(renewal)) = (self.progress.get_mut(&(group, queue)), renewal) {
            progress.renewals.insert(offset.0, renewal);
        }
    }

    pub(crate) fn stir(&mut self, group: GroupId, queue: QueueId) {
        if self.is_lite_queue(queue) {
            return self.stir_lite(group, queue);
        }
        if let Some(&topic) = self.topic_of.get(&queue)
            && self.polls.contains_key(&(topic, group))
        {
            self.stirred.insert((topic, group));
        }
    }
}
