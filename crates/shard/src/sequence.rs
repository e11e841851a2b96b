//! Handing out in order: what an ordered group is given of each message group, and what waits.
//!
//! Rules
//! - Memory knows of the newest messages which message group they are of ([`crate::recent`]), the reader stage says it of those
//!   lent to it. What may become a slot does; the rest is parked, and the frontier goes past both.
//! - A poll is given a prefix of the visible messages of each key that is not locked (see [`crate::ordered`]), and until
//!   these are settled or visible again nobody is given more of that key.
//! - Unparking costs its own messages only: keys that are free and have parked messages are a list, and are opened as polls
//!   ask for them.

use crate::answer::*;
use crate::attempts::AttemptKey;
use crate::command::*;
use crate::load::{Load, LoadId};
use crate::ordered::WINDOW;
use crate::progress::SlotChange;
use crate::resident::Purpose;
use crate::shard::Shard;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId};
use std::ops::Range;

/// Most chunks of parked messages one poll has read at a time, per queue.
const CHUNKS_AT_ONCE: usize = 32;

impl<T> Shard<T> {
    pub(crate) fn is_ordered(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| group.ordered)
    }

    /// Whether a group is handed messages in order, be it within message groups or within lite topics.
    pub(crate) fn keeps_order(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|group| group.ordered || group.lite.is_some())
    }

    /// The reader stage gives a lent range back: what matches, and of which message group it is.
    pub(crate) fn keyed(
        &mut self,
        group: GroupId,
        queue: QueueId,
        id: LoadId,
        range: Range<QueueOffset>,
        found: Option<Vec<(QueueOffset, u64, u64)>>,
    ) {
        let Some(progress) = self.progress.get_mut(&(group, queue)) else { return };
        if progress.lent != Some(id) {
            return;
        }
        progress.lent = None;
        let topic = self.queues.get(&queue).map(|queue| queue.topic);
        self.stirred.extend(topic.map(|topic| (topic, group)));
        // A failed read settles nothing; the next poll tries again. So does a range that retention went past meanwhile.
        let Some(found) = found.filter(|_| progress.next() == range.start) else { return };
        self.enter_in_order(group, queue, range, found);
    }

    /// The next untouched messages of a queue become slots or are parked, if memory knows of which message groups they are.
    pub(crate) fn enter_recent(&mut self, topic: TopicId, group: GroupId, queue: QueueId, most: u64) -> bool {
        if self.is_filtered(topic, group) || !self.live_filters(topic, group).iter().any(|filter| filter.is_all()) {
            return false;
        }
        let Some(range) = self.untouched(group, queue, most) else { return false };
        let known = self.queues.get(&queue).and_then(|queue| Some(queue.recent.of(&range)?.collect::<Vec<_>>()));
        let Some(known) = known else { return false };
        let found = known.into_iter().map(|(offset, key)| (offset, u64::MAX, key)).collect();
        self.enter_in_order(group, queue, range, found);
        true
    }

    fn enter_in_order(
        &mut self,
        group: GroupId,
        queue: QueueId,
        range: Range<QueueOffset>,
        found: Vec<(QueueOffset, u64, u64)>,
    ) {
        let topic = self.queues.get(&queue).map(|queue| queue.topic);
        let filtered = topic.is_some_and(|topic| self.is_filtered(topic, group));
        let slots_max = self.options.open_slots_max;
        self.counters.filtered += range.end.0 - range.start.0 - found.len() as u64;
        let mut no_slot = range.start;
        for (offset, mask, key) in found {
            let Some(progress) = self.progress.get_mut(&(group, queue)) else { return };
            let crowded = progress.open_slots() >= slots_max / 2;
            let ordered = progress.ordered_mut();
            if !ordered.admits(key, crowded) {
                ordered.park(offset.0, key);
                continue;
            }
            self.close(group, queue, no_slot..offset);
            self.change(group, queue, SlotChange::Enter { offset, key });
            if let (true, Some(progress)) = (filtered, self.progress.get_mut(&(group, queue))) {
                progress.masks.insert(offset.0, mask);
            }
            no_slot = offset.next();
        }
        self.close(group, queue, no_slot..range.end);
        self.note_changed(group, queue);
    }

    fn close(&mut self, group: GroupId, queue: QueueId, range: Range<QueueOffset>) {
        let count = range.end.0.saturating_sub(range.start.0);
        if count > 0 {
            self.change(group, queue, SlotChange::Close { first: range.start, count });
        }
    }

    /// Opens parked messages of up to `most` keys that are free, and has those read that are not in memory.
    pub(crate) fn unpark(&mut self, group: GroupId, queue: QueueId, most: usize) {
        let Some(progress) = self.progress.get_mut(&(group, queue)) else { return };
        if progress.ordered().is_none_or(|ordered| !ordered.has_wanting()) {
            return;
        }
        let mut room = self.options.open_slots_max.saturating_sub(progress.open_slots());
        for key in progress.ordered_mut().wanting(most.clamp(1, CHUNKS_AT_ONCE)) {
            let Some(progress) = self.progress.get_mut(&(group, queue)) else { return };
            // Even where slots are scarce, one is due to a key whose last one was settled.
            let opened = progress.ordered_mut().take_parked(key, WINDOW.min(room.max(1)));
            if opened.is_empty() {
                self.load_parked(group, queue, key);
                continue;
            }
            room = room.saturating_sub(opened.len());
            for offset in opened {
                self.change(group, queue, SlotChange::Enter { offset: QueueOffset(offset), key });
            }
        }
    }

    /// Has the next chunk of a key's parked messages read, once what is open of it is in the store.
    pub(crate) fn load_parked(&mut self, group: GroupId, queue: QueueId, key: u64) {
        let progress = self.progress.get_mut(&(group, queue));
        let Some(start) = progress.and_then(|progress| progress.ordered_mut().next_load(key)) else { return };
        let wanted = (group, queue, key, start);
        if !self.has_changes() {
            self.want_parked(group, queue, key, start);
        } else if !self.next_parked.contains(&wanted) {
            self.next_parked.push(wanted);
        }
    }

    pub(crate) fn want_parked(&mut self, group: GroupId, queue: QueueId, key: u64, start: u64) {
        if self.progress.contains_key(&(group, queue)) {
            let id = self.want(Load::Parked { group, queue, key, start }, Purpose::Parked { group, queue, key, start });
            if let Some(progress) = self.progress.get_mut(&(group, queue)) {
                progress.ordered_mut().loading(key, id);
            }
        }
    }

    /// A chunk has been read.
    pub(crate) fn parked_loaded(
        &mut self,
        group: GroupId,
        queue: QueueId,
        (key, start): (u64, u64),
        id: LoadId,
        offsets: Option<&[u64]>,
    ) {
        let below = self.queues.get(&queue).map_or(0, |queue| queue.min.0);
        let Some(progress) = self.progress.get_mut(&(group, queue)) else { return };
        let dropped = progress.ordered_mut().loaded(key, start, id, offsets, below);
        self.counters.dropped_unconsumed += dropped;
        self.note_changed(group, queue);
        // What cannot be read is tried again by the next poll, not by the one that asked for it.
        if offsets.is_some()
            && let Some(&topic) = self.topic_of.get(&queue)
        {
            self.stirred.insert((topic, group));
        }
    }

    /// Up to `most` visible messages that this poll may be given, key by key and each in order.
    pub(crate) fn pick_ordered(
        &mut self,
        receive: &ReceiveCommand,
        bit: u32,
        queue: QueueId,
        retries: bool,
        most: usize,
    ) -> Vec<u64> {
        let Some(progress) = self.progress.get_mut(&(receive.group, queue)) else { return Vec::new() };
        if progress.ordered().is_none() || most == 0 {
            return Vec::new();
        }
        let masks = std::mem::take(&mut progress.masks);
        let matches =
            |offset: u64| receive.filter.is_all() || masks.get(&offset).is_some_and(|mask| mask >> bit & 1 == 1);
        // Behind what was delivered before comes what never was.
        let of_message_group = if receive.retries_only { 1 } else { receive.message_group_max as usize };
        let picked = progress.ordered_mut().pick(retries, most, of_message_group, matches);
        progress.masks = masks;
        picked
    }

    /// A poll that repeats an attempt id: what it got before and is still in flight, under new handles and with the same
    /// attempt; empty if there is nothing of the kind.
    pub(crate) fn re_enter(&mut self, receive: &ReceiveCommand) -> Vec<HandOut> {
        let Some(key) = self.attempt_of(receive) else { return Vec::new() };
        let until = self.now.plus(receive.invisible_millis);
        let mut again = Vec::new();
        for (queue, offset, delivery) in self.attempts.take(&key).unwrap_or_default() {
            let progress = self.progress.get(&(receive.group, queue));
            let live = progress.filter(|progress| !progress.moving.contains(&offset.0));
            let Some(slot) = live.and_then(|progress| progress.slot(offset)).copied() else { continue };
            if slot.delivery != delivery || slot.until <= self.now {
                continue;
            }
            let delivery = self.next_delivery;
            self.next_delivery = delivery.plus(1);
            let attempts = slot.attempts;
            self.change(receive.group, queue, SlotChange::Set { offset, attempts, delivery, until });
            again.push(self.hand_out_of(receive.topic, queue, offset, attempts, delivery, until));
        }
        self.renew_all(receive, &again);
        self.remember(receive, &again);
        again
    }

    /// Remembers what a poll with an attempt id got.
    pub(crate) fn remember(&mut self, receive: &ReceiveCommand, hand_outs: &[HandOut]) {
        if let Some(key) = self.attempt_of(receive).filter(|_| !hand_outs.is_empty()) {
            let got = hand_outs.iter().map(|hand_out| (hand_out.queue, hand_out.offset, hand_out.delivery)).collect();
            self.attempts.put(key, got);
        }
    }

    fn attempt_of(&self, receive: &ReceiveCommand) -> Option<AttemptKey> {
        let id = receive.attempt_id.clone().filter(|_| self.keeps_order(receive.group))?;
        Some((receive.group, receive.client, receive.topic, id))
    }
}
