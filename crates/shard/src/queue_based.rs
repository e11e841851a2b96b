//! Queue-based members: pulling a queue they own from a place on, and telling how far they are.
//!
//! A pull opens no slots. It says which places of the queue the member is to read, and the member's commit settles what
//! it has read.
//!
//! | place | in a pull |
//! | --- | --- |
//! | never handed out, or visible again without ever having been delivered | read |
//! | in flight, waiting for a retry, or on its way to the dead letters | passed over |
//! | settled | passed over, unless the owner of the queue went back behind what is settled (a seek) |
//!
//! Rules
//! - An answer by which a member passes over something waits until that is durable: else a crash could bring back what
//!   nobody reads any more.
//! - A commit settles what the member has pulled: what is visible from its first pull on, and what was never handed
//!   out. What others have in flight stays open, and so do retries.
//! - A commit counts only if the member has the queue (see [`crate::owners`]): what a member that has lost it says late
//!   would settle what others are to get. Behind what is settled, it counts only after a pull went back there and nobody
//!   has anything in flight; then it is a reset.
//! - A group's first contact with a queue is where the member begins.
//! - Of an ordered group, a pull stops at the first message in flight, and begins at the oldest one that is not settled:
//!   in order goes before not twice.

use crate::answer::*;
use crate::command::*;
use crate::load::Load;
use crate::owners::Taken;
use crate::progress::{Progress, SlotChange};
use crate::resident::Purpose;
use crate::shard::{Shard, When, Work};
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId};
use std::ops::Range;
use std::sync::Arc;

/// Places that one pull may name at most.
const PLACES_MAX: u32 = 1024;

/// What a member is to read.
pub(crate) struct Plan {
    pub places: Vec<Range<QueueOffset>>,
    next: QueueOffset,
}

impl Plan {
    fn add(&mut self, place: QueueOffset) {
        match self.places.last_mut() {
            Some(last) if last.end == place => last.end = place.next(),
            _ => self.places.push(place..place.next()),
        }
    }

    /// Whether it passes over something from this place on.
    fn passes_over(&self, from: QueueOffset) -> bool {
        let read: u64 = self.places.iter().map(|places| places.end.0 - places.start.0).sum();
        read < self.next.0.saturating_sub(from.0)
    }
}

/// Where queue-based members of a group begin: everything below is settled, in flight, or a retry.
pub(crate) fn floor(progress: &Progress) -> QueueOffset {
    match progress.ordered() {
        Some(_) => progress.committed(),
        None => progress.fresh().first().map_or(progress.next(), |&first| QueueOffset(first)),
    }
}

/// At most `most` places from `from` on; `again`: settled ones, too.
pub(crate) fn plan(progress: &Progress, from: QueueOffset, durable: QueueOffset, most: u64, again: bool) -> Plan {
    let mut plan = Plan { places: Vec::new(), next: durable.max(from) };
    let mut left = most;
    let mut add = |place: u64, plan: &mut Plan| {
        if left == 0 {
            plan.next = plan.places.last().map_or(plan.next, |last| last.end);
            return false;
        }
        left -= 1;
        plan.add(QueueOffset(place));
        true
    };
    let untouched = progress.next().min(durable).max(from);
    if progress.ordered().is_some() {
        let end = progress.first_held(from).map_or(durable, |held| held.min(durable));
        plan.next = end.max(from);
        let _ = (from.0..end.0).all(|place| add(place, &mut plan));
        return plan;
    }
    let is_open = |place: &u64| progress.slot(QueueOffset(*place)).is_some_and(|_| !progress.fresh().contains(place));
    let more = match again {
        true => (from.0..untouched.0).filter(|place| !is_open(place)).all(|place| add(place, &mut plan)),
        false => progress.fresh().range(from.0..untouched.0).all(|&place| add(place, &mut plan)),
    };
    let _ = more && (untouched.0..durable.0).all(|place| add(place, &mut plan));
    plan
}

impl<T> Shard<T> {
    /// A pull arrives, or goes on after it waited (`waited`): it is answered, or waits.
    pub(crate) fn pull(&mut self, pull: PullCommand, waited: bool, token: T) {
        let (group, topic, index, from) = (pull.group, pull.topic, pull.index, pull.from);
        if !self.groups.contains_key(&group) {
            return self.reply(token, Output::Refused(Refused::GroupGone));
        }
        if self.lite_group(group).is_some() || self.lite_parent(topic).is_some() {
            return self.refuse_now(token, Refused::NotLite);
        }
        let id = self.queue_at(topic, index).filter(|id| self.progress.contains_key(&(group, *id)));
        let Some((id, queue)) = id.and_then(|id| Some((id, self.queues.get(&id)?))) else {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        };
        let (min, max, durable) = (queue.min, queue.next, queue.durable);
        let key = (group, id);
        let answer =
            |status, next, places| Output::Pulled(Pulled { queue: id, status, next, min, max: durable, places });
        let nothing = |next| answer(PullStatus::NothingNew, next, Vec::new());
        if waited && self.owners.get(key).is_none_or(|owner| owner.client != pull.client) {
            // Somebody else has the queue, and this one may pull again.
            return self.replies.push((token, nothing(from), When::Now));
        }
        let taken = self.own_by_pull(key, &pull.client, pull.until);
        if taken == Taken::Locked {
            return match pull.until > self.now {
                true => self.wait_to_pull(id, pull, QueueOffset(u64::MAX), token),
                false => self.replies.push((token, nothing(from), When::Now)),
            };
        }
        self.clamp(group, id);
        let is_first = self.owners.get(key).is_some_and(|owner| owner.start.is_none());
        let begins = is_first && self.begin_at(key, from.clamp(min, max));
        if let Some(owner) = self.owners.get_mut(key).filter(|_| is_first) {
            owner.start = Some(from);
        }
        if is_first || topic.retry_group().is_some() {
            self.gather_retries(group);
        }
        let Some(progress) = self.progress.get(&key) else { return };
        let Some(owner) = self.owners.get_mut(key) else { return };
        let floor = floor(progress);
        let skips = from > floor && floor < progress.next() && (is_first || from > owner.told);
        let behind = skips && progress.ordered().is_some();
        let moved = match owner.moved.take() {
            Some(to) if to != from => Some(to.clamp(min, max)),
            _ if from < min => Some(min),
            _ if from > max => Some(durable),
            _ if behind => Some(floor.max(min)),
            _ => None,
        };
        if let Some(to) = moved.filter(|&to| to != from) {
            owner.told = to;
            owner.start = Some(owner.start.map_or(to, |start| start.min(to)));
            return self.reply(token, answer(PullStatus::Moved, to, Vec::new()));
        }
        match owner.start {
            // Going back to read again what is settled.
            Some(_) if !is_first && owner.goes_back(from) && from < floor => {
                owner.again_below = owner.again_below.max(floor)
            }
            _ => {}
        }
        let again = from < owner.again_below;
        owner.from = from;
        owner.start = Some(owner.start.map_or(from, |start| start.min(from)));
        let plan = plan(progress, from, durable, u64::from(pull.most.clamp(1, PLACES_MAX)), again);
        owner.told = plan.next;
        if plan.next > from {
            let status = if plan.places.is_empty() { PullStatus::NoMatch } else { PullStatus::Found };
            // Else the member would go on behind these after a crash, and the group would begin there.
            let waits = self.options.hand_outs_wait || begins || plan.passes_over(from);
            let when = if waits { When::Durable } else { When::Now };
            return self.replies.push((token, answer(status, plan.next, plan.places), when));
        }
        if pull.until <= self.now {
            return self.replies.push((token, nothing(from), When::Now));
        }
        self.wait_to_pull(id, pull, from, token);
    }

    /// The member goes on before the place it was to go on from: its reply was full.
    pub(crate) fn pull_told(&mut self, group: GroupId, place: (TopicId, u32), client: &str, next: QueueOffset) {
        let queue = self.queue_at(place.0, place.1);
        if let Some(owner) = queue.and_then(|queue| self.owners.get_mut((group, queue)))
            && &*owner.client == client
        {
            owner.told = next;
        }
    }

    /// A member's first pull of a queue: if the group has not been there, it begins there.
    fn begin_at(&mut self, key: (GroupId, QueueId), from: QueueOffset) -> bool {
        let Some(progress) = self.progress.get_mut(&key).filter(|progress| progress.is_new()) else { return false };
        match from >= progress.next() {
            true => progress.pass_to(from),
            false => progress.reset(from),
        }
        self.note_changed(key.0, key.1);
        true
    }

    /// A member says how far it is in a queue; `None`: an administrator does.
    pub(crate) fn commit_offset(
        &mut self,
        group: GroupId,
        (topic, index): (TopicId, u32),
        (offset, forward_only): (QueueOffset, bool),
        client: Option<&str>,
        (when, token): (When, T),
    ) {
        if !self.groups.contains_key(&group) {
            return self.reply(token, Output::Refused(Refused::GroupGone));
        }
        let id = self.queue_at(topic, index).filter(|id| self.progress.contains_key(&(group, *id)));
        let Some((id, queue)) = id.and_then(|id| Some((id, self.queues.get(&id)?))) else {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        };
        let (key, min, max) = ((group, id), queue.min, queue.next);
        if offset > max {
            return self.reply(token, Output::Refused(Refused::OffsetOutOfRange { index, offset, min, max }));
        }
        self.clamp(group, id);
        let offset = offset.max(min);
        let owner = self.owners.get(key);
        let (counts, start, again_below) = match (client, owner) {
            (Some(client), Some(owner)) => {
                let counts = &*owner.client == client && owner.moved.is_none();
                (counts, owner.start.unwrap_or(QueueOffset(u64::MAX)), owner.again_below)
            }
            (Some(_), None) => (false, min, min),
            (None, _) => (!self.is_owned(group, id), min, QueueOffset(u64::MAX)),
        };
        let ordered = self.is_ordered(group);
        let Some(progress) = self.progress.get(&key) else { return };
        let counts = counts && start != QueueOffset(u64::MAX);
        let floor = floor(progress);
        let counted = match offset >= floor {
            _ if !counts => false,
            true if ordered => self.commit_ordered(key, offset),
            true => {
                self.commit_forward(key, start, offset);
                true
            }
            false => !forward_only && offset < again_below && self.commit_backward(key, offset),
        };
        if let Some(owner) = self.owners.get_mut(key).filter(|_| counted) {
            owner.committed = offset;
        }
        self.replies.push((token, Output::Committed(counted), when));
    }

    fn commit_forward(&mut self, key: (GroupId, QueueId), start: QueueOffset, offset: QueueOffset) {
        let Some(progress) = self.progress.get(&key) else { return };
        let pulled: Vec<u64> = match start < offset {
            true => progress.fresh().range(start.0..offset.0).copied().collect(),
            false => Vec::new(),
        };
        let mut rest = &pulled[..];
        while let Some(&first) = rest.first() {
            let count = rest.iter().zip(first..).take_while(|(offset, expected)| **offset == *expected).count();
            self.change(key.0, key.1, SlotChange::Close { first: QueueOffset(first), count: count as u64 });
            rest = &rest[count..];
        }
        if let Some(progress) = self.progress.get_mut(&key).filter(|progress| progress.next() < offset) {
            progress.pass_to(offset);
            self.note_changed(key.0, key.1);
        }
    }

    /// Of an ordered group: as far as nobody has anything in flight. Locks and parked messages begin anew there.
    fn commit_ordered(&mut self, key: (GroupId, QueueId), offset: QueueOffset) -> bool {
        let Some(progress) = self.progress.get_mut(&key) else { return false };
        let to = progress.first_held(QueueOffset(0)).map_or(offset, |held| held.min(offset));
        if progress.is_locked() || to != offset {
            return false;
        }
        progress.reset(to);
        self.note_changed(key.0, key.1);
        true
    }

    fn commit_backward(&mut self, key: (GroupId, QueueId), offset: QueueOffset) -> bool {
        let Some(progress) = self.progress.get_mut(&key) else { return false };
        let is_open_below = progress.slots().next().is_some_and(|(first, _)| first < offset);
        if progress.is_locked() || is_open_below {
            return false;
        }
        progress.reset(offset);
        if let Some(owner) = self.owners.get_mut(key) {
            owner.start = owner.start.map(|start| start.min(offset));
        }
        self.note_changed(key.0, key.1);
        true
    }

    /// Where a group is in a queue, for a member that is about to pull from there.
    pub(crate) fn stored_offset(&mut self, place: (GroupId, TopicId, u32), client: Option<Arc<str>>, token: T) {
        let (group, topic, index) = place;
        let id = self.queue_at(topic, index);
        let Some(id) = id.filter(|id| self.queues.contains_key(id) && self.groups.contains_key(&group)) else {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        };
        if self.progress.contains_key(&(group, id)) {
            return self.stored_offset_found(place, client, true, token);
        }
        let load = Load::HasProgress(group, id);
        self.want(load, Purpose::StoredOffset { place, client, token });
    }

    /// Whether the group has been in the queue was read; if so, its progress is resident.
    pub(crate) fn stored_offset_found(
        &mut self,
        (group, topic, index): (GroupId, TopicId, u32),
        client: Option<Arc<str>>,
        found: bool,
        token: T,
    ) {
        let id = self.queue_at(topic, index);
        let Some((id, queue)) = id.and_then(|id| Some((id, self.queues.get(&id)?))) else {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        };
        let (min, max) = (queue.min, queue.durable);
        let key = (group, id);
        let progress = self.progress.get(&key).filter(|progress| found && !progress.is_new());
        let stored = progress.map(|progress| floor(progress).max(min));
        if let (Some(offset), Some(client)) = (stored, client) {
            self.reserve(key, &client, offset);
        }
        self.reply(token, Output::StoredOffset { stored, min, max });
    }

    /// The group was moved: its owner is told by its next pull, and what it says until then does not count.
    pub(crate) fn note_moved(&mut self, group: GroupId, queue: QueueId, to: QueueOffset) {
        if let Some(owner) = self.owners.get_mut((group, queue)) {
            owner.moved = Some(to);
        }
        for (pull, token) in self.take_pulls(queue, group) {
            self.handle(Work::PullAgain { pull, token });
        }
    }
}
