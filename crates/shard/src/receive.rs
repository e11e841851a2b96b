//! Handing messages out: polls, who gets what, filters.
//!
//! Rules
//! - Due retries go first, in at most half of a batch while there are messages that were never handed out.
//! - What is there is shared evenly among the polls that wait.
//! - A message that no live filter of the group matches counts as consumed. Which filters match is found out by the
//!   reader stage on a lent range; matches become visible slots, the rest is settled unseen.

use crate::answer::*;
use crate::command::*;
use crate::load::{Load, LoadId};
use crate::progress::{Renewal, SlotChange};
use crate::resident::Purpose;
use crate::shard::{Poll, Shard, When};
use crate::subscriptions::FILTERS_MAX;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis, limits};
use std::ops::Range;

/// Most messages lent to the reader stage at a time, per group and queue.
const LEND: u64 = 1024;
/// The same of those of which memory knows the message group: they cost this turn.
const RECENT: u64 = 128;

impl<T> Shard<T> {
    /// A poll arrives: it is answered at once, or waits.
    pub(crate) fn receive(&mut self, receive: ReceiveCommand, token: T) {
        let key = (receive.topic, receive.group);
        if let Some(facts) = self.lite_poll(&receive) {
            return self.receive_lite(facts, receive, token);
        }
        if !self.topics.contains_key(&receive.topic) && receive.topic.dead_letter_group().is_none() {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        }
        if !self.groups.contains_key(&receive.group) {
            return self.reply(token, Output::Refused(Refused::GroupGone));
        }
        if self.polls_waiting() >= self.options.polls_max {
            return self.refuse_now(token, Refused::PollsFull { limit: self.options.polls_max });
        }
        let Some(filter_bit) = self.note_filter(key, &receive.filter) else {
            return self.refuse_now(token, Refused::FiltersFull { limit: FILTERS_MAX });
        };
        let again = self.re_enter(&receive);
        if !again.is_empty() {
            return self.reply(token, Output::Delivered(again));
        }
        self.hand_back_retries(receive.group);
        self.poll_places.insert(receive.poll, key);
        self.poll_ends.insert((receive.until, receive.poll));
        self.polls.entry(key).or_default().push_back(Poll { receive, filter_bit, token });
        self.stirred.insert(key);
        self.counters.open_slots_full += self.queues_at_limit(key);
    }

    pub(crate) fn polls_waiting(&self) -> usize {
        self.poll_places.len() + self.lite.poll_places.len() + self.waits.len()
    }

    /// Takes a waiting poll out.
    pub(crate) fn take_poll(&mut self, id: PollId) -> Option<Poll<T>> {
        if self.lite.poll_places.contains_key(&id) {
            return self.take_lite_poll(id);
        }
        let key = self.poll_places.remove(&id)?;
        let waiting = self.polls.get_mut(&key)?;
        let at = waiting.iter().position(|poll| poll.receive.poll == id)?;
        let poll = waiting.remove(at)?;
        if waiting.is_empty() {
            self.polls.remove(&key);
        }
        self.poll_ends.remove(&(poll.receive.until, id));
        self.forget_overdue(id);
        Some(poll)
    }

    /// Answers as many waiting polls of a group and topic as there are messages for.
    pub(crate) fn serve(&mut self, topic: TopicId, group: GroupId) {
        let key = (topic, group);
        if self.polls.contains_key(&key) {
            self.load_for_poll(topic, group);
        }
        let mut skipped = 0;
        while let Some(waiting) = self.polls.get(&key).map(|polls| polls.len()).filter(|&count| count > skipped) {
            let available = self.available(topic, group);
            if available == 0 {
                return;
            }
            let Some((receive, bit)) = self
                .polls
                .get(&key)
                .and_then(|polls| polls.get(skipped))
                .map(|poll| (poll.receive.clone(), poll.filter_bit))
            else {
                return;
            };
            let share = available.div_ceil((waiting - skipped) as u64).min(u64::from(receive.batch_size)).max(1);
            let hand_outs = self.hand_out(&receive, bit, share);
            if hand_outs.is_empty() {
                // Nothing for this poll's filter, or its messages are being filtered: the next one may have more luck.
                skipped += 1;
                continue;
            }
            self.remember(&receive, &hand_outs);
            if let Some(poll) = self.take_poll(receive.poll) {
                let waits = self.options.hand_outs_wait || self.is_ordered(group);
                let when = if waits { When::Durable } else { When::Now };
                self.replies.push((poll.token, Output::Delivered(hand_outs), when));
            }
        }
    }

    /// Messages of a topic that a group could be handed now, filters aside.
    fn available(&self, topic: TopicId, group: GroupId) -> u64 {
        let queues = self.topics.get(&topic).map_or(&[][..], |topic| topic.read_queues());
        queues.iter().map(|&queue| self.available_in(group, queue)).sum()
    }

    /// The same for one queue.
    pub(crate) fn available_in(&self, group: GroupId, queue: QueueId) -> u64 {
        let (Some(queue), Some(progress)) = (self.queues.get(&queue), self.progress.get(&(group, queue))) else {
            return 0;
        };
        if self.is_owned(group, queue.id) {
            return if self.hands_out_retries(group) { progress.retries().len() as u64 } else { 0 };
        }
        let untouched = queue.durable.0.saturating_sub(progress.next().0.max(queue.min.0));
        let room = self.options.open_slots_max.saturating_sub(progress.open_slots()) as u64;
        progress.available() + untouched.min(room)
    }

    /// Queues with messages that a group is not handed because of its many open slots.
    fn queues_at_limit(&self, (topic, group): (TopicId, GroupId)) -> u64 {
        let queues = self.topics.get(&topic).map_or(&[][..], |topic| topic.read_queues());
        let at_limit = |queue: &&QueueId| match (self.queues.get(queue), self.progress.get(&(group, **queue))) {
            (Some(queue), Some(progress)) => {
                progress.next() < queue.durable && progress.open_slots() >= self.options.open_slots_max
            }
            _ => false,
        };
        queues.iter().filter(at_limit).count() as u64
    }

    fn hand_out(&mut self, receive: &ReceiveCommand, bit: u32, limit: u64) -> Vec<HandOut> {
        let (topic, group) = (receive.topic, receive.group);
        let Some(entry) = self.topics.get_mut(&topic) else { return Vec::new() };
        entry.next_receive = entry.next_receive.wrapping_add(1);
        let start = entry.next_receive;
        let mut queues = match receive.queue {
            None => entry.read_queues().to_vec(),
            Some(index) => entry.read_queues().get(index as usize).copied().into_iter().collect(),
        };
        if queues.is_empty() {
            return Vec::new();
        }
        let by_priority = entry.facts.by_priority;
        let by = if by_priority { 0 } else { start % queues.len() };
        queues.rotate_left(by);
        queues.retain(|&queue| self.queues.contains_key(&queue) && self.progress.contains_key(&(group, queue)));
        let mut owned = queues.extract_if(.., |queue| self.is_owned(group, *queue)).collect::<Vec<_>>();
        for &queue in &queues {
            self.progress.get_mut(&(group, queue)).into_iter().for_each(|progress| progress.mark_begun());
            self.clamp(group, queue);
        }
        self.keep_filter_live((topic, group), bit);
        let limit = limit.min(self.messages_per_reply(&queues));
        let until = self.now.plus(receive.invisible_millis);
        let mut out = Vec::new();
        if by_priority && receive.retries_only {
            queues.reverse();
        }
        match by_priority {
            _ if receive.retries_only => self.hand_out_retries(receive, bit, &queues, limit, until, &mut out),
            true => self.hand_out_by_priority(receive, bit, &queues, limit, until, &mut out),
            false => self.hand_out_from(receive, bit, &queues, limit, until, &mut out),
        }
        if self.hands_out_retries(group) {
            if by_priority {
                owned.reverse();
            }
            let left = limit.saturating_sub(out.len() as u64);
            self.hand_out_retries(receive, bit, &owned, left, until, &mut out);
        }
        for hand_out in &out {
            self.pass_by_owner(group, hand_out.queue);
        }
        if let (1, [only]) = (limit, &out[..]) {
            match only.attempt > 1 {
                true => self.retry_turn.insert((topic, group)),
                false => self.retry_turn.remove(&(topic, group)),
            };
        }
        self.counters.messages_out += out.len() as u64;
        self.counters.retries_out += out.iter().filter(|hand_out| hand_out.attempt > 1).count() as u64;
        self.renew_all(receive, &out);
        out
    }

    /// Hands out at most `limit` messages of these queues, together, and has looked through what is not known of them.
    pub(crate) fn hand_out_from(
        &mut self,
        receive: &ReceiveCommand,
        bit: u32,
        queues: &[QueueId],
        limit: u64,
        until: UnixMillis,
        out: &mut Vec<HandOut>,
    ) {
        let (topic, group) = (receive.topic, receive.group);
        let end = out.len() as u64 + limit;
        let others = queues.iter().any(|&queue| self.has_never_handed_out(group, queue));
        // With a batch of one, every other message may be a retry.
        let quota = match limit {
            _ if !others => limit,
            1 => u64::from(!self.retry_turn.contains(&(topic, group))),
            _ => limit / 2,
        };
        self.hand_out_visible(receive, bit, queues, quota, until, true, out);
        let ordered = self.is_ordered(group);
        if ordered {
            self.hand_out_ordered(receive, bit, queues, end, until, out);
        } else {
            let left = end - out.len() as u64;
            self.hand_out_visible(receive, bit, queues, left, until, false, out);
        }
        if ordered || self.is_filtered(topic, group) {
            if (out.len() as u64) < end || limit == 0 {
                queues.iter().for_each(|&queue| self.lend(topic, group, queue));
            }
        } else {
            for &queue in queues {
                let left = end - out.len() as u64;
                self.hand_out_untouched(receive, queue, left, until, out);
            }
        }
        let left = end - out.len() as u64;
        self.hand_out_visible(receive, bit, queues, left, until, true, out);
        if ((out.len() as u64) < end || limit == 0) && !receive.filter.is_all() {
            for &queue in queues {
                self.classify(topic, group, queue);
            }
        }
    }

    /// Fills `out` up to `end` with what an ordered group gets for the first time.
    ///
    /// Queue by queue, so that polls one after the other take from different ones: the more of a queue is in flight, the more of what
    /// follows there waits for it, and the more reads it takes to see that.
    fn hand_out_ordered(
        &mut self,
        receive: &ReceiveCommand,
        bit: u32,
        queues: &[QueueId],
        end: u64,
        until: UnixMillis,
        out: &mut Vec<HandOut>,
    ) {
        let (topic, group) = (receive.topic, receive.group);
        let left = |out: &Vec<HandOut>| end - out.len() as u64;
        if left(out) > 0 {
            queues.iter().for_each(|&queue| self.unpark(group, queue, left(out) as usize));
        }
        for &queue in queues {
            self.hand_out_visible(receive, bit, &[queue], left(out), until, false, out);
            if left(out) > 0 && self.enter_recent(topic, group, queue, RECENT) {
                self.hand_out_visible(receive, bit, &[queue], left(out), until, false, out);
            }
        }
    }

    /// Hands out at most `limit` messages of these queues that were delivered before, and has looked through what is not known of
    /// them.
    fn hand_out_retries(
        &mut self,
        receive: &ReceiveCommand,
        bit: u32,
        queues: &[QueueId],
        limit: u64,
        until: UnixMillis,
        out: &mut Vec<HandOut>,
    ) {
        let end = out.len() as u64 + limit;
        self.hand_out_visible(receive, bit, queues, limit, until, true, out);
        if (out.len() as u64) < end && !receive.filter.is_all() {
            queues.iter().for_each(|&queue| self.classify(receive.topic, receive.group, queue));
        }
    }

    /// What a poll that asks for it was given stays invisible while its client lives.
    pub(crate) fn renew_all(&mut self, receive: &ReceiveCommand, hand_outs: &[HandOut]) {
        let Some(millis) = receive.renew_for_millis else { return };
        for hand_out in hand_outs {
            if let Some(progress) = self.progress.get_mut(&(receive.group, hand_out.queue)) {
                let renewal = Renewal { client: receive.client, until: self.now.plus(millis) };
                progress.renewals.insert(hand_out.offset.0, renewal);
            }
        }
    }

    /// How many messages fit a reply by the sizes seen lately; at least 1. The reader stage undoes what does not fit.
    pub(crate) fn messages_per_reply(&self, queues: &[QueueId]) -> u64 {
        let largest = queues.iter().filter_map(|queue| self.queues.get(queue)).map(|queue| queue.record_bytes).max();
        (limits::REPLY_BYTES_MAX / largest.unwrap_or(0).max(1)).max(1) as u64
    }

    fn has_never_handed_out(&self, group: GroupId, queue: QueueId) -> bool {
        match (self.queues.get(&queue), self.progress.get(&(group, queue))) {
            (Some(queue), Some(progress)) => progress.has_fresh() || progress.next() < queue.durable,
            _ => false,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn hand_out_visible(
        &mut self,
        receive: &ReceiveCommand,
        bit: u32,
        queues: &[QueueId],
        most: u64,
        until: UnixMillis,
        retries: bool,
        out: &mut Vec<HandOut>,
    ) {
        let end = out.len() + most as usize;
        for &queue in queues {
            let Some(progress) = self.progress.get(&(receive.group, queue)) else { continue };
            let visible = if retries { progress.retries() } else { progress.fresh() };
            let mut picked: Vec<u64> = visible
                .iter()
                .copied()
                .filter(|&offset| receive.filter.is_all() || progress.matches(offset, bit))
                .take(end.saturating_sub(out.len()))
                .collect();
            let left = end.saturating_sub(out.len() + picked.len());
            picked.extend(self.pick_ordered(receive, bit, queue, retries, left));
            let mut rest = &picked[..];
            while let Some(&first) = rest.first() {
                let Some(progress) = self.progress.get(&(receive.group, queue)) else { break };
                let attempts_of = |offset| progress.slot(QueueOffset(offset)).map(|slot| slot.attempts);
                let Some(attempts) = attempts_of(first).map(|attempts| attempts + 1) else {
                    rest = &rest[1..];
                    continue;
                };
                let is_next = |&(&offset, expected): &(&u64, u64)| offset == expected && attempts_of(offset) == Some(0);
                let count = match attempts {
                    1 => rest.iter().zip(first..).take_while(is_next).count(),
                    _ => 1,
                };
                let (first, delivery) = (QueueOffset(first), self.next_delivery);
                self.next_delivery = delivery.plus(count as u64);
                let change = match count {
                    1 => SlotChange::Set { offset: first, attempts, delivery, until },
                    _ => SlotChange::Run { first, count: count as u64, delivery, until },
                };
                self.change(receive.group, queue, change);
                for n in 0..count as u64 {
                    let offset = QueueOffset(first.0 + n);
                    out.push(self.hand_out_of(receive.topic, queue, offset, attempts, delivery.plus(n), until));
                }
                rest = &rest[count..];
            }
        }
    }

    fn hand_out_untouched(
        &mut self,
        receive: &ReceiveCommand,
        queue: QueueId,
        most: u64,
        until: UnixMillis,
        out: &mut Vec<HandOut>,
    ) {
        let (Some(entry), Some(progress)) = (self.queues.get(&queue), self.progress.get(&(receive.group, queue)))
        else {
            return;
        };
        let first = progress.next();
        let there = entry.durable.0.saturating_sub(first.0);
        let room = self.options.open_slots_max.saturating_sub(progress.open_slots()) as u64;
        let count = most.min(there).min(room);
        if count == 0 {
            return;
        }
        let delivery = self.next_delivery;
        self.next_delivery = delivery.plus(count);
        self.change(receive.group, queue, SlotChange::Run { first, count, delivery, until });
        for n in 0..count {
            let offset = QueueOffset(first.0 + n);
            out.push(self.hand_out_of(receive.topic, queue, offset, 1, delivery.plus(n), until));
        }
    }

    pub(crate) fn hand_out_of(
        &self,
        topic: TopicId,
        queue: QueueId,
        offset: QueueOffset,
        attempt: u32,
        delivery: martlet_model::handle::DeliveryNumber,
        until: UnixMillis,
    ) -> HandOut {
        let (queue_index, bytes_hint) =
            self.queues.get(&queue).map_or((0, 0), |queue| (queue.index, queue.record_bytes));
        HandOut { topic, queue, queue_index, offset, attempt, delivery, until, bytes_hint }
    }

    /// Lends the next untouched messages of a queue to the reader stage.
    fn lend(&mut self, topic: TopicId, group: GroupId, queue: QueueId) {
        let Some(range) = self.untouched(group, queue, LEND) else { return };
        let (from, until, filters) = (range.start, range.end, self.live_filters(topic, group));
        let id = match self.is_ordered(group) {
            true => self.want(Load::Keyed { queue, range, filters }, Purpose::Keyed { group, queue, from, until }),
            false => self.want(Load::Filter { queue, range, filters }, Purpose::Filter { group, queue, from, until }),
        };
        if let Some(progress) = self.progress.get_mut(&(group, queue)) {
            progress.lent = Some(id);
        }
    }

    /// The next messages of a queue that a group was never handed and may have slots for, at most so many; `None`: there are
    /// none, or they are lent.
    pub(crate) fn untouched(&self, group: GroupId, queue: QueueId, most: u64) -> Option<Range<QueueOffset>> {
        let (entry, progress) = (self.queues.get(&queue)?, self.progress.get(&(group, queue))?);
        let room = self.options.open_slots_max.saturating_sub(progress.open_slots()) as u64;
        let (from, there) = (progress.next(), entry.durable.0.saturating_sub(progress.next().0));
        let until = QueueOffset(from.0 + there.min(room).min(most));
        (until > from && progress.lent.is_none()).then_some(from..until)
    }

    /// Has the reader stage find out what matches the visible slots of which that is not known: handed out before there
    /// was a filter, or since loaded from the store, which keeps no filters.
    fn classify(&mut self, topic: TopicId, group: GroupId, queue: QueueId) {
        let Some(progress) = self.progress.get(&(group, queue)).filter(|progress| progress.classifying.is_none())
        else {
            return;
        };
        let Some(first) = progress.first_unknown() else { return };
        let (from, until) = (QueueOffset(first), QueueOffset((first + LEND).min(progress.next().0)));
        let filters = self.live_filters(topic, group);
        let load = Load::Filter { queue, range: from..until, filters };
        let id = self.want(load, Purpose::Classify { group, queue, from, until });
        if let Some(progress) = self.progress.get_mut(&(group, queue)) {
            progress.classifying = Some(id);
        }
    }

    /// The reader stage has found out. What no live filter matches stays for members that may come back: it was meant
    /// for one of the group before.
    pub(crate) fn classified(
        &mut self,
        group: GroupId,
        queue: QueueId,
        id: LoadId,
        range: Range<QueueOffset>,
        matches: Option<Vec<(QueueOffset, u64)>>,
    ) {
        let Some(progress) = self.progress.get_mut(&(group, queue)) else { return };
        if progress.classifying != Some(id) {
            return;
        }
        progress.classifying = None;
        let Some(matches) = matches else { return };
        progress.know(range, &matches);
        self.stirred.extend(self.topic_of.get(&queue).map(|&topic| (topic, group)));
    }

    /// The reader stage gives a range back.
    pub(crate) fn filtered(
        &mut self,
        group: GroupId,
        queue: QueueId,
        id: LoadId,
        range: Range<QueueOffset>,
        matches: Option<Vec<(QueueOffset, u64)>>,
    ) {
        let Some(progress) = self.progress.get_mut(&(group, queue)) else { return };
        if progress.lent != Some(id) {
            return;
        }
        progress.lent = None;
        let topic = self.queues.get(&queue).map(|queue| queue.topic);
        // A failed read settles nothing; the next poll tries again.
        let Some(matches) = matches else { return };
        if progress.next() != range.start {
            // Retention or an unfiltered member went past it meanwhile.
            self.stirred.extend(topic.map(|topic| (topic, group)));
            return;
        }
        let mut at = range.start;
        for &(offset, mask) in &matches {
            self.pass_over(group, queue, at..offset);
            let delivery = Default::default();
            self.change(group, queue, SlotChange::Set { offset, attempts: 0, delivery, until: UnixMillis(0) });
            if let Some(progress) = self.progress.get_mut(&(group, queue)) {
                progress.masks.insert(offset.0, mask);
            }
            at = offset.next();
        }
        self.pass_over(group, queue, at..range.end);
        self.stirred.extend(topic.map(|topic| (topic, group)));
    }

    fn pass_over(&mut self, group: GroupId, queue: QueueId, range: Range<QueueOffset>) {
        let count = range.end.0.saturating_sub(range.start.0);
        if count > 0 {
            self.counters.filtered += count;
            self.change(group, queue, SlotChange::Close { first: range.start, count });
        }
    }
}
