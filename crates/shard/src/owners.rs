//! Which queue-based member of a group has which queue: leases of those that pull, and locks.
//!
//! A queue-based member owns a queue while it pulls it: each pull renews a lease that outlasts the wait by some pulls. A
//! lock does the same for as long as it lasts, and keeps other queue-based members out. What is owned is not handed out
//! by message.
//!
//! Rules
//! - Nothing of this is durable. After a crash the first to pull or to lock has the queue.
//! - A pull takes an unlocked queue from whoever has it: members agree among themselves who pulls what, and the last one
//!   to come knows best.
//! - A lease that is over goes on counting until somebody else takes the queue or messages of it are handed out: a slow
//!   member's commit is as good as a quick one's, as long as nobody came between.

use crate::shard::Shard;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a pull keeps a queue after its wait: members balance their queues every 20 s.
const OWNED_MILLIS: i64 = 40_000;
/// How long asking for the stored offset keeps a queue for the pull that follows.
const RESERVED_MILLIS: i64 = 30_000;
/// How long a lock lasts without renewal.
const LOCKED_MILLIS: i64 = 60_000;
/// An owner whose time is over is forgotten after this, if nobody took its place before.
const FORGOTTEN_MILLIS: i64 = 600_000;

/// A member that has a queue.
#[derive(Clone, Debug)]
pub(crate) struct Owner {
    pub client: Arc<str>,
    /// By pulling.
    leased: UnixMillis,
    /// By a lock; 0: none.
    locked: UnixMillis,
    /// Where its first pull began; `None` before that. What is visible below was not pulled by it.
    pub start: Option<QueueOffset>,
    /// Where its last pull began.
    pub from: QueueOffset,
    /// Where it was told to go on.
    pub told: QueueOffset,
    /// How far it has said it is.
    pub committed: QueueOffset,
    /// Below this it reads again what was settled: it went back.
    pub again_below: QueueOffset,
    /// Where a reset has moved the group; the member does not know yet.
    pub moved: Option<QueueOffset>,
}

impl Owner {
    /// Whether a pull from here goes back, and does not just ask once more for what it got no answer to.
    pub fn goes_back(&self, from: QueueOffset) -> bool {
        from != self.told && (from != self.from || from < self.committed)
    }

    fn end(&self) -> UnixMillis {
        self.leased.max(self.locked)
    }
}

/// What taking a queue came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// The member had it already.
    Still,
    /// The member did not have it.
    Anew,
    /// Another one has locked it.
    Locked,
}

/// All owners, and when their time is over or they are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    of: BTreeMap<(GroupId, QueueId), Owner>,
    ends: BTreeSet<(UnixMillis, GroupId, QueueId)>,
}

impl Owners {
    /// Whether a member has the queue, and its time is not over.
    pub fn is_owned(&self, key: (GroupId, QueueId), now: UnixMillis) -> bool {
        self.of.get(&key).is_some_and(|owner| owner.end() > now)
    }

    /// Who has or had the queue last.
    pub fn get_mut(&mut self, key: (GroupId, QueueId)) -> Option<&mut Owner> {
        self.of.get_mut(&key)
    }

    pub fn get(&self, key: (GroupId, QueueId)) -> Option<&Owner> {
        self.of.get(&key)
    }

    /// When the first of them is over or to be forgotten.
    pub fn first_end(&self) -> Option<UnixMillis> {
        self.ends.first().map(|&(end, ..)| end)
    }

    /// A member takes a queue or renews that.
    fn take(&mut self, key: (GroupId, QueueId), client: &Arc<str>, now: UnixMillis) -> Taken {
        match self.of.get(&key) {
            Some(owner) if owner.client == *client => Taken::Still,
            Some(owner) if owner.locked > now => Taken::Locked,
            _ => {
                self.forget(key);
                let zero = QueueOffset(0);
                let (leased, locked) = (now, UnixMillis(0));
                let client = client.clone();
                let owner = Owner {
                    client,
                    leased,
                    locked,
                    start: None,
                    from: zero,
                    told: zero,
                    committed: zero,
                    again_below: zero,
                    moved: None,
                };
                self.ends.insert((owner.end(), key.0, key.1));
                self.of.insert(key, owner);
                Taken::Anew
            }
        }
    }

    /// Changes how long the queue is owned.
    fn extend(&mut self, key: (GroupId, QueueId), change: impl FnOnce(&mut Owner)) {
        if let Some(owner) = self.of.get_mut(&key) {
            let before = owner.end();
            change(owner);
            let after = owner.end();
            self.ends.remove(&(before, key.0, key.1));
            self.ends.remove(&(before.plus(FORGOTTEN_MILLIS), key.0, key.1));
            self.ends.insert((after, key.0, key.1));
        }
    }

    /// Nobody has the queue any more, or did.
    pub fn forget(&mut self, key: (GroupId, QueueId)) {
        if let Some(owner) = self.of.remove(&key) {
            self.ends.remove(&(owner.end(), key.0, key.1));
            self.ends.remove(&(owner.end().plus(FORGOTTEN_MILLIS), key.0, key.1));
        }
    }

    /// The same for many.
    pub fn forget_all(&mut self, is_gone: impl Fn(&(GroupId, QueueId)) -> bool) {
        let gone: Vec<_> = self.of.keys().copied().filter(is_gone).collect();
        gone.into_iter().for_each(|key| self.forget(key));
    }

    /// What members have.
    pub fn live(&self, now: UnixMillis) -> impl Iterator<Item = (GroupId, QueueId)> {
        self.of.iter().filter(move |(_, owner)| owner.end() > now).map(|(key, _)| *key)
    }

    /// Queues of a group that members have, and where their first pulls began.
    pub fn live_of(&self, group: GroupId, now: UnixMillis) -> Vec<(QueueId, QueueOffset)> {
        let live = self.of_group(group).filter(|(_, owner)| owner.end() > now);
        live.map(|(queue, owner)| (queue, owner.start.unwrap_or_default())).collect()
    }

    /// Queues of a group and who has or had them.
    fn of_group(&self, group: GroupId) -> impl Iterator<Item = (QueueId, &Owner)> {
        let range = (group, QueueId(0))..=(group, QueueId(u64::MAX));
        self.of.range(range).map(|(key, owner)| (key.1, owner))
    }
}

impl<T> Shard<T> {
    /// Whether messages of the queue are not handed out by message because a queue-based member has it.
    pub(crate) fn is_owned(&self, group: GroupId, queue: QueueId) -> bool {
        self.owners.is_owned((group, queue), self.now)
    }

    /// Whether a queue-based member has or had the queue last, and goes on behind this place.
    pub(crate) fn is_passed(&self, group: GroupId, queue: QueueId, offset: QueueOffset) -> bool {
        self.owners.get((group, queue)).is_some_and(|owner| offset < owner.told)
    }

    /// Messages of the queue are handed out: who had it and was late does not have it any more. (Retries of a queue that a
    /// member has may be, too.)
    pub(crate) fn pass_by_owner(&mut self, group: GroupId, queue: QueueId) {
        if !self.is_owned(group, queue) {
            self.owners.forget((group, queue));
        }
    }

    /// A member pulls: it has the queue until so long after `until`, unless another one has locked it.
    pub(crate) fn own_by_pull(&mut self, key: (GroupId, QueueId), client: &Arc<str>, until: UnixMillis) -> Taken {
        let taken = self.take_queue(key, client);
        if taken != Taken::Locked {
            let leased = self.now.max(until).plus(OWNED_MILLIS);
            self.owners.extend(key, |owner| owner.leased = leased);
        }
        taken
    }

    /// A member has asked where the group is, and will pull from there: nothing shall come between.
    pub(crate) fn reserve(&mut self, key: (GroupId, QueueId), client: &Arc<str>, told: QueueOffset) {
        let is_its_own = self.owners.get(key).is_some_and(|owner| owner.client == *client);
        if !is_its_own && self.is_owned(key.0, key.1) {
            return;
        }
        self.take_queue(key, client);
        let leased = self.now.plus(RESERVED_MILLIS);
        self.owners.extend(key, |owner| {
            owner.leased = owner.leased.max(leased);
            (owner.told, owner.committed) = (told, told);
        });
    }

    fn take_queue(&mut self, key: (GroupId, QueueId), client: &Arc<str>) -> Taken {
        let was_owned = self.is_owned(key.0, key.1);
        let taken = self.owners.take(key, client, self.now);
        // What is being found out for hand-outs is of no use any more, and would settle what the owner is to get.
        if !was_owned && let Some(progress) = self.progress.get_mut(&key) {
            progress.lent = None;
            progress.classifying = None;
        }
        taken
    }

    /// Locks queues for a member, or renews that; gives back those that it has locked.
    pub(crate) fn lock_queues(
        &mut self,
        group: GroupId,
        client: &Arc<str>,
        queues: &[(TopicId, u32)],
    ) -> Vec<(TopicId, u32)> {
        let mut locked = Vec::with_capacity(queues.len());
        for &(topic, index) in queues {
            let Some(queue) = self.queue_at(topic, index).filter(|_| self.groups.contains_key(&group)) else {
                continue;
            };
            if self.take_queue((group, queue), client) != Taken::Locked {
                let until = self.now.plus(LOCKED_MILLIS);
                self.owners.extend((group, queue), |owner| owner.locked = until);
                locked.push((topic, index));
            }
        }
        locked
    }

    /// A member gives up its locks of these queues, and with them the queues.
    pub(crate) fn unlock_queues(&mut self, group: GroupId, client: &str, queues: &[(TopicId, u32)]) {
        for &(topic, index) in queues {
            let Some(queue) = self.queue_at(topic, index) else { continue };
            let now = self.now;
            let is_its_own = |owner: &Owner| &*owner.client == client && owner.locked > now;
            if self.owners.get((group, queue)).is_some_and(is_its_own) {
                self.owners.extend((group, queue), |owner| (owner.locked, owner.leased) = (UnixMillis(0), now));
                self.owner_ended(group, queue);
            }
        }
    }

    /// Queues of a group that somebody has locked.
    pub(crate) fn locked_queues(&self, group: GroupId) -> Vec<(TopicId, u32)> {
        let locked = self.owners.of_group(group).filter(|(_, owner)| owner.locked > self.now);
        locked.filter_map(|(queue, _)| Some((*self.topic_of.get(&queue)?, self.index_of(queue)?))).collect()
    }

    /// Number of a queue within its topic.
    pub(crate) fn index_of(&self, queue: QueueId) -> Option<u32> {
        let topic = self.topics.get(self.topic_of.get(&queue)?)?;
        topic.queues.iter().position(|&id| id == queue).map(|index| index as u32)
    }

    /// A member has left the group: what it had is free at once.
    pub(crate) fn member_gone(&mut self, group: GroupId, client: &str) {
        let had = self.owners.of_group(group).filter(|(_, owner)| &*owner.client == client);
        let had: Vec<QueueId> = had.map(|(queue, _)| queue).collect();
        for queue in had {
            self.owners.forget((group, queue));
            self.owner_ended(group, queue);
        }
    }

    /// Those whose time is over: message-based members get the rest.
    pub(crate) fn end_owners(&mut self) {
        while let Some(&(at, group, queue)) = self.owners.ends.first().filter(|(at, ..)| *at <= self.now) {
            self.owners.ends.pop_first();
            let forgotten = self.owners.of.get(&(group, queue)).is_none_or(|owner| owner.end() < at);
            if forgotten {
                self.owners.of.remove(&(group, queue));
                continue;
            }
            self.owners.ends.insert((at.plus(FORGOTTEN_MILLIS), group, queue));
            self.owner_ended(group, queue);
        }
    }

    fn owner_ended(&mut self, group: GroupId, queue: QueueId) {
        self.stir(group, queue);
        if self.topic_of.get(&queue).is_some_and(|topic| topic.retry_group().is_some()) {
            self.hand_back_if_polled(group);
        }
    }
}
