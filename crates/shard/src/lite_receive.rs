//! Handing out of lite topics: who is woken, and what a poll is given.
//!
//! A lite topic is in order as a whole: to a group its queue is one message group. What is open lies in front, what was never
//! handed out behind the frontier, so nothing is parked and nobody has to read which message is of which group.
//!
//! Rules
//! - A group's lite topic is *locked* while one of its open slots is in flight, waits for its retry, or is on its way to the
//!   dead letters. Not locked, a poll takes a prefix of the open slots and then of what was never handed out.
//! - A lite topic that may have something for a group is in the ready list of each member that subscribes to it: put there
//!   when a message becomes durable, the lock ends, a retry is due, or the subscription is made; taken out when a look at it
//!   finds nothing. Nobody is offered anything: who polls first is given it.
//! - One reply may bring messages of several lite topics. The next one begins behind the last lite topic.
//! - Of those that are not in memory, as many are read as a poll has room for, and handed out before others are read: the
//!   clients together bring no more into memory than they take.
//! - Progress that is evicted while something of it waits for its time is read again at that time.

use crate::answer::*;
use crate::command::*;
use crate::lite_registry::{MemberNo, Ready};
use crate::progress::SlotChange;
use crate::shard::{Poll, Shard, When, Work};
use martlet_model::handle::ReceiptHandle;
use martlet_model::{GroupId, QueueId, QueueOffset, UnixMillis};

/// Lite topics a poll looks at, besides one for each message it may bring.
const LOOK_AT: usize = 64;
/// Progress that could not be read is read again after this.
const AGAIN_MILLIS: i64 = 1_000;

impl<T> Shard<T> {
    /// Whether a poll is for lite topics: what a group of such polls for, but for its dead letters.
    pub(crate) fn lite_poll(&self, receive: &ReceiveCommand) -> Option<LiteGroup> {
        self.lite_group(receive.group).filter(|_| receive.topic.dead_letter_group().is_none())
    }

    /// A poll of a group of lite topics, whose sets are in memory.
    pub(crate) fn receive_lite(&mut self, facts: LiteGroup, receive: ReceiveCommand, token: T) {
        if !self.topics.contains_key(&receive.topic) {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        }
        let client_id = receive.client_id.clone().filter(|_| receive.topic == facts.parent);
        let Some(client_id) = client_id else {
            return self.reply(token, Output::Refused(Refused::NotLite));
        };
        if self.polls_waiting() >= self.options.polls_max {
            return self.refuse_now(token, Refused::PollsFull { limit: self.options.polls_max });
        }
        let number = self.lite_member(receive.group, receive.client, &client_id);
        self.check_lite(number);
        self.begin_backlog_again(receive.group);
        let again = self.re_enter(&receive);
        if !again.is_empty() {
            return self.reply(token, Output::Delivered(again));
        }
        self.lite.poll_places.insert(receive.poll, number);
        self.poll_ends.insert((receive.until, receive.poll));
        if let Some(wild) = self.wild_of(receive.group) {
            wild.waiting.insert(number);
        }
        self.lite.polls.entry(number).or_default().push_back(Poll { receive, filter_bit: 0, token });
        self.lite.stirred.insert(number);
    }

    /// Takes a waiting poll of a lite group out.
    pub(crate) fn take_lite_poll(&mut self, id: PollId) -> Option<Poll<T>> {
        self.forget_overdue(id);
        let number = self.lite.poll_places.remove(&id)?;
        let waiting = self.lite.polls.get_mut(&number)?;
        let at = waiting.iter().position(|poll| poll.receive.poll == id)?;
        let poll = waiting.remove(at)?;
        if waiting.is_empty() {
            self.lite.polls.remove(&number);
            if let Some(wild) = self.wild_of(poll.receive.group) {
                wild.waiting.remove(&number);
                // What it leaves, be it because it was served or because it went, is for the next one that waits.
                self.stir_wild(poll.receive.group);
            }
        }
        self.poll_ends.remove(&(poll.receive.until, id));
        Some(poll)
    }

    /// Answers the polls of a member as long as there is something for it.
    pub(crate) fn serve_lite(&mut self, number: MemberNo) {
        while let Some(poll) = self.lite.polls.get(&number).and_then(|polls| polls.front()) {
            let receive = poll.receive.clone();
            let hand_outs = self.hand_out_lite(number, &receive);
            if hand_outs.is_empty() {
                return;
            }
            self.remember(&receive, &hand_outs);
            if let Some(poll) = self.take_lite_poll(receive.poll) {
                self.replies.push((poll.token, Output::Delivered(hand_outs), When::Durable));
            }
        }
    }

    fn hand_out_lite(&mut self, number: MemberNo, receive: &ReceiveCommand) -> Vec<HandOut> {
        let (group, limit) = (receive.group, receive.batch_size as usize);
        let Some(ready) = self.ready_of(number) else { return Vec::new() };
        let mut out = Vec::new();
        for queue in ready.awake(limit + LOOK_AT) {
            if out.len() >= limit {
                break;
            }
            self.ready_of(number).into_iter().for_each(|ready| ready.pass(queue));
            if !self.lite.gone.contains(&queue) && !self.is_lite_progress_resident(group, queue) {
                // It has left the memory since.
                self.ready_of(number).into_iter().for_each(|ready| {
                    ready.remove(queue);
                    ready.insert(queue);
                });
                continue;
            }
            self.clamp(group, queue);
            if self.wants_lite(number, group, queue) {
                let fits = self.messages_per_reply(&[queue]) as usize;
                let most = (limit - out.len()).min(receive.message_group_max as usize).min(fits);
                self.hand_out_in_order(receive, queue, most, &mut out);
                if self.is_lite_deliverable(group, queue) {
                    continue;
                }
            }
            self.ready_of(number).into_iter().for_each(|ready| ready.remove(queue));
        }
        // At least one: what is always in memory must not keep the others asleep.
        self.wake_some(number, group, (limit - out.len().min(limit)).max(1));
        self.counters.messages_out += out.len() as u64;
        self.counters.retries_out += out.iter().filter(|hand_out| hand_out.attempt > 1).count() as u64;
        self.renew_all(receive, &out);
        out
    }

    /// Has lite topics read that may have something for a member, so many at a time.
    fn wake_some(&mut self, number: MemberNo, group: GroupId, most: usize) {
        let waking = std::mem::take(&mut self.lite.waking);
        let some = self.ready_of(number).map_or_else(Vec::new, |ready| {
            ready.give_up_waking(|queue| waking.contains_key(&(group, queue)));
            ready.wake(most)
        });
        self.lite.waking = waking;
        for queue in some {
            self.wake_lite(group, queue, Some(number));
        }
    }

    /// Hands out the first messages of a lite topic that is not locked.
    fn hand_out_in_order(&mut self, receive: &ReceiveCommand, queue: QueueId, most: usize, out: &mut Vec<HandOut>) {
        let group = receive.group;
        if !self.is_lite_deliverable(group, queue) {
            return;
        }
        let (Some(entry), Some(progress)) = (self.queues.get(&queue), self.progress.get(&(group, queue))) else {
            return;
        };
        let open: Vec<(QueueOffset, u32)> =
            progress.slots().take(most).map(|(offset, slot)| (offset, slot.attempts + 1)).collect();
        let until = self.now.plus(receive.invisible_millis);
        let first = progress.next();
        let all_open = open.len() == progress.open_slots();
        let there = entry.durable.0.saturating_sub(first.0);
        for &(offset, attempts) in &open {
            let delivery = self.next_delivery;
            self.next_delivery = delivery.plus(1);
            self.change(group, queue, SlotChange::Set { offset, attempts, delivery, until });
            out.push(self.hand_out_of(receive.topic, queue, offset, attempts, delivery, until));
        }
        let count = if all_open { there.min((most - open.len()) as u64) } else { 0 };
        if count > 0 {
            let delivery = self.next_delivery;
            self.next_delivery = delivery.plus(count);
            self.change(group, queue, SlotChange::Run { first, count, delivery, until });
            for n in 0..count {
                let offset = QueueOffset(first.0 + n);
                out.push(self.hand_out_of(receive.topic, queue, offset, 1, delivery.plus(n), until));
            }
        }
    }

    /// The lite topics that may have something for a member.
    fn ready_of(&mut self, number: MemberNo) -> Option<&mut Ready> {
        let group = self.lite.registry.get(number)?.group;
        match self.lite_group(group)?.wildcard {
            true => self.wild_of(group).map(|wild| &mut wild.ready),
            false => self.lite.registry.get_mut(number).map(|member| &mut member.ready),
        }
    }

    fn wants_lite(&self, number: MemberNo, group: GroupId, queue: QueueId) -> bool {
        let Some((parent, name)) = self.lite_name(queue) else { return false };
        let wildcard = self.lite_group(group).is_some_and(|facts| facts.wildcard && facts.parent == parent);
        wildcard || self.lite.registry.has(number, parent, &name)
    }

    fn is_lite_progress_resident(&self, group: GroupId, queue: QueueId) -> bool {
        self.queues.contains_key(&queue) && self.progress.contains_key(&(group, queue))
    }

    /// Whether a group could be handed something of a lite topic that is in memory.
    pub(crate) fn is_lite_deliverable(&self, group: GroupId, queue: QueueId) -> bool {
        match (self.queues.get(&queue), self.progress.get(&(group, queue))) {
            (Some(queue), Some(progress)) => {
                !progress.is_locked() && (progress.open_slots() > 0 || progress.next() < queue.durable)
            }
            _ => false,
        }
    }

    /// Messages of a lite topic have become durable.
    pub(crate) fn lite_durable(&mut self, queue: QueueId) {
        let Some((parent, name)) = self.lite_name(queue) else { return };
        for number in self.lite.registry.subscribers(parent, &name).to_vec() {
            let Some(group) = self.lite.registry.get(number).map(|member| member.group) else { continue };
            // If it is locked, the end of the lock says so; if it is not in memory, a poll will look.
            if !self.progress.contains_key(&(group, queue)) || self.is_lite_deliverable(group, queue) {
                self.ready_lite(number, queue);
            }
            self.meet_lite(group, queue);
        }
        self.wild_durable(parent, queue);
    }

    fn ready_lite(&mut self, number: MemberNo, queue: QueueId) {
        let awake = self.is_awake_for(number, queue);
        let Some(member) = self.lite.registry.get_mut(number) else { return };
        match awake {
            true => member.ready.insert_awake(queue),
            false => member.ready.insert(queue),
        }
        self.stir_member(number);
    }

    fn is_awake_for(&self, number: MemberNo, queue: QueueId) -> bool {
        let group = self.lite.registry.get(number).map(|member| member.group);
        group.is_some_and(|group| self.is_lite_progress_resident(group, queue))
    }

    /// A member is to be looked at, if it waits.
    fn stir_member(&mut self, number: MemberNo) {
        if self.lite.polls.contains_key(&number) {
            self.lite.stirred.insert(number);
        }
    }

    /// A lite topic in memory may have something for a group.
    pub(crate) fn stir_lite(&mut self, group: GroupId, queue: QueueId) {
        if self.lite_group(group).is_some_and(|facts| facts.wildcard) {
            return self.stir_every(group, queue);
        }
        if !self.is_lite_deliverable(group, queue) {
            return;
        }
        let Some((parent, name)) = self.lite_name(queue) else { return };
        for number in self.lite.registry.subscribers_of(parent, &name, group) {
            self.ready_lite(number, queue);
        }
    }

    /// Has a group's progress in a lite topic read, because it may have something for somebody: for this member, if it asks.
    pub(crate) fn wake_lite(&mut self, group: GroupId, queue: QueueId, asks: Option<MemberNo>) {
        let under_way = self.lite.waking.get_mut(&(group, queue));
        match under_way {
            Some(askers) => askers.extend(asks),
            None => {
                self.lite.waking.insert((group, queue), asks.into_iter().collect());
                self.handle(Work::LiteWake { group, queue });
            }
        }
    }

    /// It has been read, or there is nothing any more. Whoever asked looks on, whatever was found.
    pub(crate) fn lite_awake(&mut self, group: GroupId, queue: QueueId) {
        let askers = self.lite.waking.remove(&(group, queue)).unwrap_or_default();
        // If it is locked or empty, the end of that says so; if it is gone, nothing will.
        for &asker in &askers {
            self.ready_of(asker).into_iter().for_each(|ready| ready.remove(queue));
        }
        self.stir_lite(group, queue);
        match self.lite_group(group).is_some_and(|facts| facts.wildcard) {
            true => self.stir_wild(group),
            false => askers.into_iter().for_each(|asker| self.stir_member(asker)),
        }
    }

    /// What could not be read is read again after a while.
    pub(crate) fn wake_later(&mut self, group: GroupId, queue: QueueId) {
        let at = self.now.plus(AGAIN_MILLIS);
        if let Some(old) = self.due_of.insert((group, queue), at) {
            self.due.remove(&(old, group, queue));
        }
        self.due.insert((at, group, queue));
    }

    /// The group gets nothing of this lite topic for a while, and the attempts under way do not count. What is in flight stays
    /// in the hands of those who have it; the handle given is replaced by the one given back. Who was handed several messages may
    /// suspend with each: one attempt is taken back once, unless the memory of that was evicted meanwhile.
    pub(crate) fn suspend_lite(&mut self, handle: &ReceiptHandle, millis: i64) -> ReceiptHandle {
        let (group, queue) = (handle.group, handle.queue);
        let until = if millis > 0 { self.now.plus(millis) } else { UnixMillis(0) };
        let given = self.next_delivery;
        self.next_delivery = given.plus(1);
        let Some(progress) = self.progress.get(&(group, queue)) else { return *handle };
        let in_flight: Vec<_> = progress
            .slots()
            .filter(|(offset, slot)| {
                slot.delivery.0 != 0 && slot.until > self.now && !progress.moving.contains(&offset.0)
            })
            .map(|(offset, slot)| (offset, *slot, !progress.uncounted.contains(&offset.0)))
            .collect();
        for (offset, slot, counted) in in_flight {
            let delivery = if offset == handle.offset { given } else { slot.delivery };
            let attempts = slot.attempts.saturating_sub(u32::from(counted));
            self.change(group, queue, SlotChange::Set { offset, attempts, delivery, until });
            if let Some(progress) = self.progress.get_mut(&(group, queue)) {
                progress.uncounted.insert(offset.0);
            }
        }
        self.stir(group, queue);
        ReceiptHandle { delivery: given, ..*handle }
    }
}
