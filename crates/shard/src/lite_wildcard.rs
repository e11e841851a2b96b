//! Groups whose clients consume every lite topic of their parent, and have no sets of their own.
//!
//! Rules
//! - One ready list per group; whoever of its clients polls first is given what is in it.
//! - That a lite topic may have something for the group is in the store too (key 21), from the batch of the message until the batch that
//!   settles the last one: after an opening the list is read from there, and nothing walks lite topics that are consumed.
//! - What is not known in memory is noted again: the mark of a lite topic that was evicted meanwhile is written twice at worst.
//! - The group begins with the lite topics that get a message after it was made; in each of them at the first message there is.

use crate::keys;
use crate::lite_registry::{MemberNo, Ready};
use crate::load::Load;
use crate::resident::Purpose;
use crate::shard::Shard;
use bytes::Bytes;
use martlet_model::{GroupId, QueueId, TopicId};
use martlet_store::Op;
use std::collections::BTreeSet;

/// One of these groups.
#[derive(Debug, Default)]
pub(crate) struct Wild {
    /// Lite topics that may have something for it.
    pub ready: Ready,
    /// Members with a poll that waits.
    pub waiting: BTreeSet<MemberNo>,
    /// The list could not be read; the next poll tries again.
    unread: bool,
}

impl<T> Shard<T> {
    /// What is kept of a group, if it is one of these.
    pub(crate) fn wild_of(&mut self, group: GroupId) -> Option<&mut Wild> {
        match self.lite_group(group)?.wildcard {
            true => Some(self.lite.wild.entry(group).or_default()),
            false => None,
        }
    }

    /// The groups of this kind of a parent.
    pub(crate) fn wild_groups(&self, parent: TopicId) -> Vec<GroupId> {
        let groups = self.lite.groups_of.get(&parent).into_iter().flatten().copied();
        groups.filter(|&group| self.lite_group(group).is_some_and(|facts| facts.wildcard)).collect()
    }

    /// Has the list of a group read that is in use from now on.
    pub(crate) fn begin_backlog(&mut self, group: GroupId) {
        if let Some(wild) = self.wild_of(group) {
            wild.unread = false;
            self.want(Load::LiteBacklog(group, None), Purpose::LiteBacklog(group));
        }
    }

    /// The same, where it could not be read before.
    pub(crate) fn begin_backlog_again(&mut self, group: GroupId) {
        if self.lite.wild.get(&group).is_some_and(|wild| wild.unread) {
            self.begin_backlog(group);
        }
    }

    /// A part of it has been read.
    pub(crate) fn lite_backlog_loaded(&mut self, group: GroupId, queues: Vec<QueueId>, next: Option<Bytes>) {
        let Some(wild) = self.wild_of(group) else { return };
        for queue in queues {
            wild.ready.insert(queue);
        }
        if next.is_some() {
            self.want(Load::LiteBacklog(group, next), Purpose::LiteBacklog(group));
        }
        self.stir_wild(group);
    }

    pub(crate) fn lite_backlog_unread(&mut self, group: GroupId) {
        self.wild_of(group).into_iter().for_each(|wild| wild.unread = true);
    }

    /// A message has been appended to a lite topic in memory: these groups have not settled all of it.
    pub(crate) fn mark_wild(&mut self, parent: TopicId, queue: QueueId) {
        for group in self.wild_groups(parent) {
            self.mark(group, queue);
        }
    }

    /// If it is one of these groups, it has something to settle in a lite topic again.
    pub(crate) fn mark_if_wild(&mut self, group: GroupId, queue: QueueId) {
        if self.lite_group(group).is_some_and(|facts| facts.wildcard) {
            self.mark(group, queue);
        }
    }

    fn mark(&mut self, group: GroupId, queue: QueueId) {
        let lite = self.queues.get_mut(&queue).and_then(|queue| queue.lite.as_mut());
        let Some(lite) = lite.filter(|lite| !lite.marked.contains(&group)) else { return };
        lite.marked.push(group);
        let key = keys::lite_backlog(group, queue);
        self.ops.push(Op::Put { key, image: Bytes::new(), keep_until: None });
    }

    fn unmark(&mut self, group: GroupId, queue: QueueId) {
        if let Some(lite) = self.queues.get_mut(&queue).and_then(|queue| queue.lite.as_mut()) {
            lite.marked.retain(|marked| *marked != group);
        }
        self.ops.push(Op::Remove { key: keys::lite_backlog(group, queue) });
    }

    /// A lite topic ends.
    pub(crate) fn unmark_all(&mut self, parent: TopicId, queue: QueueId) {
        for group in self.wild_groups(parent) {
            self.unmark(group, queue);
            self.lite.wild.get_mut(&group).into_iter().for_each(|wild| wild.ready.remove(queue));
        }
    }

    /// Messages of a lite topic have become durable. A group without a client since the opening reads its list when one comes.
    pub(crate) fn wild_durable(&mut self, parent: TopicId, queue: QueueId) {
        for group in self.wild_groups(parent) {
            let may_have = !self.progress.contains_key(&(group, queue)) || self.is_lite_deliverable(group, queue);
            if may_have && self.lite.groups.contains(&group) {
                let awake = self.is_lite_deliverable(group, queue);
                if let Some(wild) = self.wild_of(group) {
                    match awake {
                        true => wild.ready.insert_awake(queue),
                        false => wild.ready.insert(queue),
                    }
                }
                self.stir_wild(group);
            }
            self.meet_lite(group, queue);
        }
    }

    /// A lite topic in memory may have something for the group, or nothing any more.
    pub(crate) fn stir_every(&mut self, group: GroupId, queue: QueueId) {
        if self.is_lite_deliverable(group, queue) {
            if let Some(wild) = self.wild_of(group) {
                wild.ready.insert_awake(queue);
            }
            return self.stir_wild(group);
        }
        let (Some(entry), Some(progress)) = (self.queues.get(&queue), self.progress.get(&(group, queue))) else {
            return;
        };
        if progress.open_slots() == 0 && progress.next() >= entry.next {
            self.unmark(group, queue);
        }
    }

    /// The first member that waits is to look at the list; when its poll is gone, the next one.
    pub(crate) fn stir_wild(&mut self, group: GroupId) {
        let Some(wild) = self.lite.wild.get(&group).filter(|wild| wild.ready.len() > 0) else { return };
        let first = wild.waiting.first().copied();
        self.lite.stirred.extend(first);
    }
}
