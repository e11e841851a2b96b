//! How far one consumer group is in one queue: the frontier, and the open slots behind it in pages.
//!
//! A slot is open while its message is in flight, or visible again, or waiting to be. Everything below `next` that has
//! no slot is settled; everything from `next` on was never handed out. The committed offset is the oldest open slot, or
//! `next` without one.
//!
//! Rules
//! - [`SlotChange`] is the only way to change durable state: applied here, written to the page's key, and applied again
//!   when the page is loaded.
//! - A page whose slots are all settled and that lies wholly below `next` is removed; the frontier is written in the same
//!   batch. An untouched page costs nothing.
//! - Of an ordered group every slot belongs to a message group, and what waits behind an unsettled message is *parked*:
//!   below `next`, without a slot, and not settled. See [`crate::ordered`] and [`crate::parked`].

use crate::codec::{self, CodecError};
use crate::command::ClientNumber;
use crate::keys;
use crate::load::LoadId;
use crate::ordered::{Ordered, Standing};
use crate::parked::StoredChunk;
use bytes::Bytes;
use martlet_model::handle::DeliveryNumber;
use martlet_model::{GroupId, QueueId, QueueOffset, UnixMillis};
use martlet_store::{KeyState, Op};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Offsets per page.
pub const PAGE: u64 = 1024;
/// A page is written anew once its deltas outweigh an image of it by this many bytes.
const DELTA_SLACK_BYTES: usize = 2048;
/// About how many bytes an open slot takes in an image.
const SLOT_BYTES: usize = 18;

/// One change of durable state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotChange {
    /// `count` messages from `first` on are in flight for the first time, with consecutive delivery numbers: from the
    /// frontier on, or slots that are open already; never some of both.
    Run { first: QueueOffset, count: u64, delivery: DeliveryNumber, until: UnixMillis },
    /// A slot is so from now on, whatever it was.
    Set { offset: QueueOffset, attempts: u32, delivery: DeliveryNumber, until: UnixMillis },
    /// These are settled; below or at the frontier.
    Close { first: QueueOffset, count: u64 },
    /// The frontier is here (images only).
    Next { next: QueueOffset },
    /// Visible slots that were never handed out; at the frontier or behind.
    Open { first: QueueOffset, count: u64 },
    /// A visible slot of this message group (its hash), never handed out; later changes of the slot keep the group.
    Enter { offset: QueueOffset, key: u64 },
}

/// One open slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Deliveries so far.
    pub attempts: u32,
    /// The live delivery; 0 if there is none (nobody holds a handle).
    pub delivery: DeliveryNumber,
    /// In flight or waiting until then; 0: visible.
    pub until: UnixMillis,
}

/// How a hand-out is kept alive; not durable.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    pub client: ClientNumber,
    /// At the latest.
    pub until: UnixMillis,
}

#[derive(Clone, Debug, Default)]
struct Page {
    open: u32,
    stored: bool,
    stored_delta_bytes: usize,
    pending: Vec<u8>,
}

/// A group's progress in one queue.
#[derive(Debug)]
pub struct Progress {
    pub group: GroupId,
    pub queue: QueueId,
    next: QueueOffset,
    slots: BTreeMap<u64, Slot>,
    due: BTreeSet<(UnixMillis, u64)>,
    /// Visible slots that were handed out before, and those that never were.
    retries: BTreeSet<u64>,
    fresh: BTreeSet<u64>,
    pages: BTreeMap<u64, Page>,
    touched: BTreeSet<u64>,
    frontier_dirty: bool,
    untouched: bool,
    /// Just made, and nothing has come of it yet.
    new: bool,
    /// Keys of stored pages and parked messages that a reset made void; removed with the next batch.
    void: Vec<Bytes>,
    /// Waiting slots with a live delivery, and slots that were never handed out.
    in_flight: u64,
    never_handed_out: u64,
    /// Offsets on their way to the dead letters; never handed out meanwhile.
    pub moving: BTreeSet<u64>,
    /// Hand-outs under renewal.
    pub renewals: BTreeMap<u64, Renewal>,
    /// Of a lite topic: hand-outs that were suspended, whose attempt was taken back already.
    pub uncounted: BTreeSet<u64>,
    /// Which live filters match an open slot; bit per filter. Absent: not known.
    pub masks: BTreeMap<u64, u64>,
    /// A range lent to the reader stage for filtering.
    pub lent: Option<LoadId>,
    /// A range of visible slots of which the reader stage finds out what matches them.
    pub classifying: Option<LoadId>,
    /// Message groups; only of ordered groups.
    ordered: Option<Box<Ordered>>,
}

impl Progress {
    /// A group's first contact with a queue; starts at `next`.
    pub fn new(group: GroupId, queue: QueueId, next: QueueOffset) -> Self {
        Self {
            group,
            queue,
            next,
            slots: BTreeMap::new(),
            due: BTreeSet::new(),
            retries: BTreeSet::new(),
            fresh: BTreeSet::new(),
            pages: BTreeMap::new(),
            touched: BTreeSet::new(),
            frontier_dirty: false,
            untouched: false,
            new: false,
            void: Vec::new(),
            in_flight: 0,
            never_handed_out: 0,
            moving: BTreeSet::new(),
            renewals: BTreeMap::new(),
            uncounted: BTreeSet::new(),
            masks: BTreeMap::new(),
            lent: None,
            classifying: None,
            ordered: None,
        }
    }

    /// What the store kept.
    pub fn load(
        group: GroupId,
        queue: QueueId,
        frontier: QueueOffset,
        pages: &[(Bytes, KeyState)],
    ) -> Result<Self, CodecError> {
        let mut progress = Self::new(group, queue, frontier);
        for (key, state) in pages {
            let number = match keys::numbers(key).as_deref() {
                Some(&[_, _, number]) => number,
                _ => return Err(CodecError { what: "progress page" }),
            };
            let start = number * PAGE;
            for bytes in state.image.iter().chain(&state.deltas) {
                for change in codec::take_changes(bytes, start)? {
                    progress.apply_in_memory(&change);
                }
            }
            let page = progress.pages.entry(number).or_default();
            page.stored = true;
            page.stored_delta_bytes = state.deltas.iter().map(Bytes::len).sum();
        }
        Ok(progress)
    }

    /// First offset never handed out.
    pub fn next(&self) -> QueueOffset {
        self.next
    }

    /// Everything below is settled.
    pub fn committed(&self) -> QueueOffset {
        let open = self.slots.keys().next().copied().unwrap_or(self.next.0);
        let parked = self.ordered.as_ref().and_then(|ordered| ordered.first_parked());
        QueueOffset(open.min(parked.unwrap_or(open)))
    }

    /// Message groups, if the group is ordered and there was anything yet.
    pub fn ordered(&self) -> Option<&Ordered> {
        self.ordered.as_deref()
    }

    pub fn ordered_mut(&mut self) -> &mut Ordered {
        self.ordered.get_or_insert_default()
    }

    /// What the store kept of parked messages.
    pub fn restore_parked(&mut self, chunks: &[StoredChunk]) {
        if !chunks.is_empty() {
            self.ordered_mut().restore(chunks);
        }
    }

    /// Messages without a slot that wait behind an unsettled one of their message group.
    pub fn parked(&self) -> u64 {
        self.ordered.as_ref().map_or(0, |ordered| ordered.parked())
    }

    /// Visible slots that may be handed out, and parked messages that may become such.
    pub fn available(&self) -> u64 {
        let ordered = self.ordered.as_ref().map_or(0, |ordered| ordered.available());
        (self.retries.len() + self.fresh.len()) as u64 + ordered
    }

    /// Whether something that may be handed out never was.
    pub fn has_fresh(&self) -> bool {
        let ordered = |ordered: &Ordered| !ordered.heads(false).is_empty() || ordered.has_wanting();
        !self.fresh.is_empty() || self.ordered.as_deref().is_some_and(ordered)
    }

    pub fn slot(&self, offset: QueueOffset) -> Option<&Slot> {
        self.slots.get(&offset.0)
    }

    pub fn open_slots(&self) -> usize {
        self.slots.len()
    }

    /// Visible slots that were handed out before, oldest first.
    pub fn retries(&self) -> &BTreeSet<u64> {
        &self.retries
    }

    /// Visible slots that were never handed out (passed over by a filter, or undone), oldest first.
    pub fn fresh(&self) -> &BTreeSet<u64> {
        &self.fresh
    }

    /// Whether this filter, by its bit, may take the slot. What is not known does not match.
    pub fn matches(&self, offset: u64, filter_bit: u32) -> bool {
        self.masks.get(&offset).is_some_and(|mask| mask >> filter_bit & 1 == 1)
    }

    /// First visible slot of which it is not known what matches it.
    pub fn first_unknown(&self) -> Option<u64> {
        let first = |slots: &BTreeSet<u64>| slots.iter().copied().find(|offset| !self.masks.contains_key(offset));
        let heads = |retries| self.ordered.as_ref().and_then(|ordered| first(ordered.heads(retries)));
        [first(&self.retries), first(&self.fresh), heads(true), heads(false)].into_iter().flatten().min()
    }

    /// What the open slots of a range match: these, or nothing.
    pub fn know(&mut self, range: Range<QueueOffset>, matches: &[(QueueOffset, u64)]) {
        for (&offset, _) in self.slots.range(range.start.0..range.end.0) {
            self.masks.insert(offset, 0);
        }
        for &(offset, mask) in matches {
            self.masks.entry(offset.0).and_modify(|known| *known = mask);
        }
    }

    /// Forgets what matches what, and what is being found out about it: the filters are others now.
    pub fn forget_filters(&mut self) {
        self.masks.clear();
        self.lent = None;
        self.classifying = None;
    }

    /// Reads under way that may bring something to hand out.
    pub fn reads(&self) -> impl Iterator<Item = LoadId> {
        let parked = self.ordered.iter().flat_map(|ordered| ordered.reads());
        self.lent.into_iter().chain(self.classifying).chain(parked)
    }

    /// Slots in flight: with a live handle, and not taken out as due.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Open slots that were never handed out, or whose only hand-out was undone.
    pub fn never_handed_out(&self) -> u64 {
        self.never_handed_out
    }

    /// The group is at `next` from now on, as if it had just arrived there: no slot is open.
    pub fn reset(&mut self, next: QueueOffset) {
        let mut void = std::mem::take(&mut self.void);
        let stored = self.pages.iter().filter(|(_, page)| page.stored);
        void.extend(stored.map(|(&number, _)| keys::page(self.group, self.queue, number)));
        let parked = self.ordered.iter().flat_map(|ordered| ordered.stored_chunks());
        void.extend(parked.map(|(key, start)| keys::parked(self.group, self.queue, key, start)));
        *self = Self { void, frontier_dirty: true, ..Self::new(self.group, self.queue, next) };
    }

    /// Takes a slot out of the waiting ones.
    fn wait_is_over(&mut self, until: UnixMillis, offset: u64, slot: &Slot) {
        if self.due.remove(&(until, offset)) && slot.delivery.0 != 0 {
            self.in_flight -= 1;
        }
    }

    /// Whether something open is in flight, waits for its retry, or is on its way to the dead letters.
    pub fn is_locked(&self) -> bool {
        !self.due.is_empty() || !self.moving.is_empty()
    }

    /// The queue is deleted: the keys that the store has of this, to be removed.
    pub fn leave(&mut self) -> Vec<Bytes> {
        let mut keys = std::mem::take(&mut self.void);
        let stored = self.pages.iter().filter(|(_, page)| page.stored);
        keys.extend(stored.map(|(&number, _)| keys::page(self.group, self.queue, number)));
        keys.push(keys::frontier(self.group, self.queue));
        keys.push(keys::consumer(self.queue, self.group));
        keys
    }

    /// When the next slot lapses or is due.
    pub fn next_due(&self) -> Option<UnixMillis> {
        self.due.first().map(|&(until, _)| until)
    }

    /// Takes the slots that are due at `now` out of the waiting ones; the caller makes them visible or changes them.
    pub fn take_due(&mut self, now: UnixMillis) -> Vec<(QueueOffset, Slot)> {
        let mut due = Vec::new();
        while let Some(&(until, offset)) = self.due.first() {
            if until > now {
                break;
            }
            self.due.pop_first();
            if let Some(slot) = self.slots.get(&offset) {
                self.in_flight -= u64::from(slot.delivery.0 != 0);
                due.push((QueueOffset(offset), *slot));
            }
        }
        due
    }

    /// Nothing changes durably: its time has come, and the time is in the slot.
    pub fn make_visible(&mut self, offset: QueueOffset) {
        let Some(slot) = self.slots.get(&offset.0) else { return };
        let handed_out = slot.attempts > 0;
        match &mut self.ordered {
            Some(ordered) if ordered.has(offset.0) => {
                ordered.stand(offset.0, if handed_out { Standing::Retry } else { Standing::Fresh });
            }
            _ if handed_out => drop(self.retries.insert(offset.0)),
            _ => drop(self.fresh.insert(offset.0)),
        }
    }

    /// Keeps a slot from being handed out while it is on its way to the dead letters.
    pub fn set_moving(&mut self, offset: QueueOffset) {
        self.retries.remove(&offset.0);
        self.fresh.remove(&offset.0);
        if let Some(slot) = self.slots.get(&offset.0).copied() {
            self.wait_is_over(slot.until, offset.0, &slot);
            self.moving.insert(offset.0);
            self.stand_busy(offset.0);
        }
    }

    /// Open slots, oldest first.
    pub fn slots(&self) -> impl Iterator<Item = (QueueOffset, &Slot)> {
        self.slots.iter().map(|(&offset, slot)| (QueueOffset(offset), slot))
    }

    /// First contact: the frontier is to be written with the next batch.
    pub fn mark_created(&mut self) {
        self.frontier_dirty = true;
        self.untouched = true;
        self.new = true;
    }

    /// Whether this is the group's first contact with the queue: what retention took before is no loss of its own.
    pub fn is_untouched(&self) -> bool {
        self.untouched
    }

    /// From now on, it is.
    pub fn mark_met(&mut self) {
        self.untouched = false;
    }

    /// Whether the group has just arrived here, and may still begin elsewhere.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// From now on it may not.
    pub fn mark_begun(&mut self) {
        self.new = false;
    }

    /// What was never handed out below this place is settled; open slots stay. One write, however far it goes.
    pub fn pass_to(&mut self, below: QueueOffset) {
        self.next = self.next.max(below);
        self.frontier_dirty = true;
        self.untouched = false;
        self.new = false;
        self.touched.extend(self.pages.range(..below.0 / PAGE + 1).map(|(&number, _)| number));
    }

    /// The first place from `from` on that is in flight, waits for its retry, or is on its way to the dead letters.
    pub fn first_held(&self, from: QueueOffset) -> Option<QueueOffset> {
        let is_held =
            |(offset, slot): &(&u64, &Slot)| self.moving.contains(offset) || self.due.contains(&(slot.until, **offset));
        self.slots.range(from.0..).find(is_held).map(|(&offset, _)| QueueOffset(offset))
    }

    /// Everything below is settled, whatever it was: retention has taken it. One write, however far it goes. Gives back how
    /// many parked messages that were, and the message groups of which some must be read to know.
    pub fn skip_to(&mut self, below: QueueOffset) -> (u64, Vec<u64>) {
        let open: Vec<u64> = self.slots.range(..below.0).map(|(&offset, _)| offset).collect();
        for offset in open {
            self.apply(&SlotChange::Close { first: QueueOffset(offset), count: 1 });
        }
        self.next = self.next.max(below);
        self.frontier_dirty = true;
        self.untouched = false;
        self.touched.extend(self.pages.range(..below.0 / PAGE + 1).map(|(&number, _)| number));
        self.ordered.as_mut().map_or((0, Vec::new()), |ordered| ordered.drop_below(below.0))
    }

    /// Applies a change and notes it for the batch.
    pub fn apply(&mut self, change: &SlotChange) {
        self.untouched = false;
        self.new = false;
        self.apply_in_memory(change);
        let (first, count) = match *change {
            SlotChange::Run { first, count, .. }
            | SlotChange::Close { first, count }
            | SlotChange::Open { first, count } => (first.0, count),
            SlotChange::Set { offset, .. } | SlotChange::Enter { offset, .. } => (offset.0, 1),
            SlotChange::Next { .. } => return,
        };
        let mut at = first;
        while at < first + count {
            let number = at / PAGE;
            let end = ((number + 1) * PAGE).min(first + count);
            let part = match *change {
                SlotChange::Run { delivery, until, .. } => SlotChange::Run {
                    first: QueueOffset(at),
                    count: end - at,
                    delivery: delivery.plus(at - first),
                    until,
                },
                SlotChange::Close { .. } => SlotChange::Close { first: QueueOffset(at), count: end - at },
                SlotChange::Open { .. } => SlotChange::Open { first: QueueOffset(at), count: end - at },
                other => other,
            };
            let page = self.pages.entry(number).or_default();
            codec::put_change(&mut page.pending, number * PAGE, &part);
            self.touched.insert(number);
            at = end;
        }
    }

    /// What the batch must say of this progress since it was last asked.
    pub fn flush(&mut self, ops: &mut Vec<Op>) {
        ops.extend(std::mem::take(&mut self.void).into_iter().map(|key| Op::Remove { key }));
        for number in std::mem::take(&mut self.touched) {
            let Some(page) = self.pages.get_mut(&number) else { continue };
            let key = || keys::page(self.group, self.queue, number);
            if page.open == 0 && self.next.0 >= (number + 1) * PAGE {
                if page.stored {
                    ops.push(Op::Remove { key: key() });
                }
                self.frontier_dirty = true;
                self.pages.remove(&number);
                continue;
            }
            if page.pending.is_empty() {
                continue;
            }
            let image_bytes = page.open as usize * SLOT_BYTES + DELTA_SLACK_BYTES;
            if page.stored_delta_bytes + page.pending.len() > image_bytes {
                let mut image = Vec::new();
                let start = number * PAGE;
                let end = start + PAGE;
                codec::put_change(
                    &mut image,
                    start,
                    &SlotChange::Next { next: QueueOffset(self.next.0.clamp(start, end)) },
                );
                for (&offset, slot) in self.slots.range(start..end) {
                    let Slot { attempts, delivery, until } = *slot;
                    let offset = QueueOffset(offset);
                    let key = self.ordered.as_ref().and_then(|ordered| ordered.key_of(offset.0));
                    if let Some(key) = key {
                        codec::put_change(&mut image, start, &SlotChange::Enter { offset, key });
                        if attempts == 0 && until.0 == 0 && delivery.0 == 0 {
                            continue;
                        }
                    }
                    codec::put_change(&mut image, start, &SlotChange::Set { offset, attempts, delivery, until });
                }
                page.pending.clear();
                page.stored_delta_bytes = 0;
                ops.push(Op::Put { key: key(), image: Bytes::from(image), keep_until: None });
            } else {
                page.stored_delta_bytes += page.pending.len();
                ops.push(Op::Delta { key: key(), delta: Bytes::copy_from_slice(&page.pending) });
                page.pending.clear();
            }
            page.stored = true;
        }
        if let Some(ordered) = &mut self.ordered {
            ordered.writes().flush(self.group, self.queue, ops);
        }
        if std::mem::take(&mut self.frontier_dirty) {
            let image = Bytes::from(codec::encode_frontier(self.next));
            ops.push(Op::Put { key: keys::frontier(self.group, self.queue), image, keep_until: None });
        }
    }

    /// Whether dropping it from memory would lose nothing that the store does not have.
    pub fn is_clean(&self) -> bool {
        self.touched.is_empty()
            && !self.frontier_dirty
            && self.moving.is_empty()
            && self.lent.is_none()
            && self.classifying.is_none()
            && self.ordered.as_ref().is_none_or(|ordered| ordered.is_clean())
    }

    fn apply_in_memory(&mut self, change: &SlotChange) {
        match *change {
            SlotChange::Run { first, count, delivery, until } => {
                for n in 0..count {
                    self.set(first.0 + n, Slot { attempts: 1, delivery: delivery.plus(n), until });
                }
                self.next = self.next.max(QueueOffset(first.0 + count));
            }
            SlotChange::Set { offset, attempts, delivery, until } => {
                self.set(offset.0, Slot { attempts, delivery, until });
                self.next = self.next.max(offset.next());
            }
            SlotChange::Close { first, count } => {
                let open: Vec<u64> = self.slots.range(first.0..first.0 + count).map(|(&offset, _)| offset).collect();
                for offset in open {
                    self.remove(offset);
                }
                self.next = self.next.max(QueueOffset(first.0 + count));
            }
            SlotChange::Next { next } => self.next = self.next.max(next),
            SlotChange::Open { first, count } => {
                for n in 0..count {
                    self.set(first.0 + n, Slot { attempts: 0, delivery: DeliveryNumber(0), until: UnixMillis(0) });
                }
                self.next = self.next.max(QueueOffset(first.0 + count));
            }
            SlotChange::Enter { offset, key } => {
                self.ordered_mut().enter(offset.0, key);
                self.set(offset.0, Slot { attempts: 0, delivery: DeliveryNumber(0), until: UnixMillis(0) });
                self.next = self.next.max(offset.next());
            }
        }
    }

    /// A slot of a message group is not to be handed out, nor any other of the group.
    fn stand_busy(&mut self, offset: u64) {
        if let Some(ordered) = &mut self.ordered {
            ordered.stand(offset, Standing::Busy);
        }
    }

    fn set(&mut self, offset: u64, slot: Slot) {
        match self.slots.insert(offset, slot) {
            Some(old) => self.forget_times(offset, &old),
            None => self.pages.entry(offset / PAGE).or_default().open += 1,
        }
        self.never_handed_out += u64::from(slot.attempts == 0);
        if slot.until.0 > 0 {
            self.due.insert((slot.until, offset));
            self.in_flight += u64::from(slot.delivery.0 != 0);
            self.stand_busy(offset);
        } else {
            self.make_visible(QueueOffset(offset));
        }
    }

    fn remove(&mut self, offset: u64) {
        if let Some(old) = self.slots.remove(&offset) {
            self.forget_times(offset, &old);
            self.masks.remove(&offset);
            if let Some(ordered) = &mut self.ordered {
                ordered.leave(offset);
            }
            if let Some(page) = self.pages.get_mut(&(offset / PAGE)) {
                page.open -= 1;
            }
        }
    }

    fn forget_times(&mut self, offset: u64, old: &Slot) {
        self.never_handed_out -= u64::from(old.attempts == 0);
        self.wait_is_over(old.until, offset, old);
        self.retries.remove(&offset);
        self.fresh.remove(&offset);
        self.moving.remove(&offset);
        self.renewals.remove(&offset);
        self.uncounted.remove(&offset);
    }
}
