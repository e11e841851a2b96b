//! Lite topics: a queue each, found by parent and name, in memory only while they are in use.
//!
//! Rules
//! - The first message makes the lite topic, in its own batch. Its queue number is never used again: a lite topic that ended
//!   and came back is another one.
//! - Of an idle lite topic nothing is in memory. A name is looked up in the store by one read, and what was found, or that
//!   there is nothing, is kept until it is evicted.
//! - Eviction looks at what came first, in turn, and costs what it removes: nothing walks all lite topics, or all that are in
//!   memory.
//! - That a lite topic has ended is kept in memory at least until that is durable, so that nobody finds it again.
//!
//! [`crate::lite_subscriptions`] keeps who wants what, [`crate::lite_receive`] hands out, [`crate::lite_expiry`] ends.

use crate::answer::*;
use crate::codec::{self, LiteImage};
use crate::command::*;
use crate::keys;
use crate::lite_backlog::Backlogs;
use crate::lite_registry::{MemberNo, Registry};
use crate::lite_wildcard::Wild;
use crate::load::StoredLite;
use crate::queue::{LiteTopic, Queue};
use crate::resident::Entity;
use crate::shard::{Poll, Shard};
use bytes::Bytes;
use martlet_model::record::{self, Field};
use martlet_model::{GroupId, QueueId, TopicId, UnixMillis};
use martlet_store::Op;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Lite topics and what belongs to them that one turn looks at to drop them from memory.
pub(crate) const LOOKS_MAX: usize = 4_096;

/// What a shard keeps of lite topics.
pub(crate) struct Lite<T> {
    /// Lite topics by parent and name, as far as they are in memory. `None`: there is none.
    pub topics: BTreeMap<(TopicId, Arc<str>), Option<QueueId>>,
    /// Queues that are not, or not any more, as far as that was asked or happened lately.
    pub gone: BTreeSet<QueueId>,
    /// Everything of these that is in memory, oldest first; what has left otherwise is passed over.
    ring: VecDeque<Entity>,
    /// Lite topics of each parent.
    pub counts: BTreeMap<TopicId, u64>,
    pub recounted: BTreeSet<TopicId>,
    pub registry: Registry,
    /// Groups of each parent.
    pub groups_of: BTreeMap<TopicId, BTreeSet<GroupId>>,
    /// Groups whose subscriptions are in memory.
    pub groups: BTreeSet<GroupId>,
    /// Ends of leases as far as they were known; one entry per member.
    pub leases: BTreeSet<(UnixMillis, MemberNo)>,
    pub polls: BTreeMap<MemberNo, VecDeque<Poll<T>>>,
    pub poll_places: BTreeMap<PollId, MemberNo>,
    /// Members whose polls may be served now.
    pub stirred: BTreeSet<MemberNo>,
    /// Progress that is being loaded because it may have something for somebody, and the members that asked.
    pub waking: BTreeMap<(GroupId, QueueId), Vec<MemberNo>>,
    /// To be said once the open batch is durable.
    pub notices: Vec<LiteNotice>,
    /// Timers of lite topics that are being looked at.
    pub expiring: BTreeSet<QueueId>,
    /// After a read that failed, none before this.
    pub expire_not_before: UnixMillis,
    /// Messages that groups have not settled.
    pub backlogs: Backlogs,
    /// Groups that consume every lite topic.
    pub wild: BTreeMap<GroupId, Wild>,
}

impl<T> Default for Lite<T> {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
            gone: BTreeSet::new(),
            ring: VecDeque::new(),
            counts: BTreeMap::new(),
            recounted: BTreeSet::new(),
            registry: Registry::default(),
            groups_of: BTreeMap::new(),
            groups: BTreeSet::new(),
            leases: BTreeSet::new(),
            polls: BTreeMap::new(),
            poll_places: BTreeMap::new(),
            stirred: BTreeSet::new(),
            waking: BTreeMap::new(),
            notices: Vec::new(),
            expiring: BTreeSet::new(),
            expire_not_before: UnixMillis(0),
            backlogs: Backlogs::default(),
            wild: BTreeMap::new(),
        }
    }
}

/// The lite topic that a record names, if it names one.
pub fn lite_topic_of(record: &[u8]) -> Option<Arc<str>> {
    let name = record::find(record, |field| match field {
        Field::LiteTopic(name) => Some(name),
        _ => None,
    });
    name.map(Arc::from)
}

impl<T> Shard<T> {
    /// A parent of lite topics, and what holds for it.
    pub(crate) fn lite_parent(&self, topic: TopicId) -> Option<LiteParent> {
        self.topics.get(&topic).and_then(|topic| topic.facts.lite)
    }

    pub(crate) fn lite_group(&self, group: GroupId) -> Option<LiteGroup> {
        self.groups.get(&group).and_then(|group| group.lite)
    }

    /// The lite topic a resident queue is.
    pub(crate) fn lite_name(&self, queue: QueueId) -> Option<(TopicId, Arc<str>)> {
        let queue = self.queues.get(&queue)?;
        Some((queue.topic, queue.lite.as_ref()?.name.clone()))
    }

    pub(crate) fn is_lite_queue(&self, queue: QueueId) -> bool {
        self.queues.get(&queue).is_some_and(|queue| queue.lite.is_some())
    }

    /// Groups with resident progress in a queue; in a lite topic only those of its parent have any.
    pub(crate) fn groups_in(&self, queue: QueueId) -> Vec<GroupId> {
        let here = |group: &GroupId| self.progress.contains_key(&(*group, queue));
        match self.queues.get(&queue).filter(|queue| queue.lite.is_some()) {
            Some(lite) => self.lite.groups_of.get(&lite.topic).into_iter().flatten().copied().filter(here).collect(),
            None => self.groups.keys().copied().filter(here).collect(),
        }
    }

    /// Whether a queue that is not in memory may be a lite topic's.
    pub(crate) fn may_be_lite(&self, queue: QueueId) -> bool {
        !self.lite.gone.contains(&queue) && queue.0 < self.image.next_queue && !self.lite.counts.is_empty()
    }

    /// A group consumes the lite topics of a parent from now on, or not any more.
    pub(crate) fn note_lite_group(&mut self, group: GroupId, parent: Option<TopicId>) {
        self.lite.groups_of.retain(|of, groups| {
            if Some(*of) != parent {
                groups.remove(&group);
            }
            !groups.is_empty()
        });
        if let Some(parent) = parent {
            self.lite.groups_of.entry(parent).or_default().insert(group);
        }
    }

    /// Lite topics in memory, subscriptions to lite topics, and members that hold them.
    pub fn lite_sizes(&self) -> (usize, usize, usize) {
        (self.lite.ring.len(), self.lite.registry.subscriptions(), self.lite.leases.len())
    }

    /// Stores messages, each in its lite topic, which is in memory if it exists; what does not is made.
    pub(crate) fn send_lite(&mut self, parent: TopicId, facts: LiteParent, messages: Vec<Incoming>, token: T) {
        let missing: BTreeSet<&Arc<str>> = messages
            .iter()
            .filter_map(|message| message.lite_topic.as_ref())
            .filter(|name| !matches!(self.lite.topics.get(&(parent, Arc::clone(name))), Some(Some(_))))
            .collect();
        if messages.iter().any(|message| message.lite_topic.is_none()) {
            return self.reply(token, Output::Refused(Refused::NoLiteTopic));
        }
        let count = self.lite.counts.get(&parent).copied().unwrap_or(0);
        if !missing.is_empty() && count.saturating_add(missing.len() as u64) > facts.topics_max {
            return self.reply(token, Output::Refused(Refused::LiteTopicsFull { limit: facts.topics_max }));
        }
        let mut places = Vec::with_capacity(messages.len());
        for message in messages {
            let Some(name) = message.lite_topic.clone() else { continue };
            let queue = self.lite_queue(parent, name);
            places.extend(self.append(queue, message));
        }
        self.reply(token, Output::Sent(places));
    }

    /// The queue of a lite topic that was looked up, made if there is none.
    pub(crate) fn lite_queue(&mut self, parent: TopicId, name: Arc<str>) -> QueueId {
        match self.lite.topics.get(&(parent, name.clone())) {
            Some(&Some(queue)) => queue,
            _ => self.make_lite(parent, name),
        }
    }

    fn make_lite(&mut self, parent: TopicId, name: Arc<str>) -> QueueId {
        let id = QueueId(self.image.next_queue);
        self.image.next_queue += 1;
        self.image_changed = true;
        let image = Bytes::from(codec::encode_number(id.0));
        self.ops.push(Op::Put { key: keys::lite_topic(parent, &name), image, keep_until: None });
        let lite = LiteTopic { name, last: self.now, timer: UnixMillis(0), marked: Vec::new(), consumers: Vec::new() };
        self.keep_lite(Queue::lite(id, parent, lite));
        self.counters.lite_made += 1;
        *self.lite.counts.entry(parent).or_default() += 1;
        self.lite.recounted.insert(parent);
        id
    }

    /// A lite topic is in memory from now on.
    fn keep_lite(&mut self, queue: Queue) {
        let (id, parent) = (queue.id, queue.topic);
        if let Some(lite) = &queue.lite {
            self.lite.topics.insert((parent, lite.name.clone()), Some(id));
        }
        self.topic_of.insert(id, parent);
        self.queues.insert(id, queue);
        self.lite.ring.push_back(Entity::Queue(id));
    }

    /// What the store has of a lite topic.
    pub(crate) fn lite_loaded(&mut self, stored: StoredLite) -> Result<QueueId, String> {
        let StoredLite { queue: id, image, bounds, consumers } = stored;
        if self.queues.contains_key(&id) {
            return Ok(id);
        }
        let bytes = image.image.ok_or("the lite topic has no entry in the store")?;
        let image = LiteImage::decode(&bytes).map_err(|error| error.to_string())?;
        // Its parent is deleted, and it waits to be swept: nothing is to be written about it any more.
        if self.lite_parent(image.parent).is_none() {
            self.lite_gone(id);
            return Ok(id);
        }
        self.keep_lite(Queue::load_lite(id, image, bounds, consumers));
        self.groups_in(id).into_iter().for_each(|group| self.clamp(group, id));
        Ok(id)
    }

    /// There is no lite topic of this name.
    pub(crate) fn lite_absent(&mut self, parent: TopicId, name: Arc<str>) {
        self.lite.topics.insert((parent, name.clone()), None);
        self.lite.ring.push_back(Entity::Lite(parent, name));
    }

    /// There is no such queue any more.
    pub(crate) fn lite_gone(&mut self, queue: QueueId) {
        if self.lite.gone.insert(queue) {
            self.lite.ring.push_back(Entity::Queue(queue));
        }
    }

    /// Progress in a lite topic is in memory from now on.
    pub(crate) fn note_lite_progress(&mut self, group: GroupId, queue: QueueId) {
        self.lite.ring.push_back(Entity::Progress(group, queue));
    }

    /// Its value in the store.
    pub(crate) fn put_lite(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get(&id) else { return };
        let Some(lite) = &queue.lite else { return };
        let image = LiteImage {
            parent: queue.topic,
            name: lite.name.clone(),
            last: lite.last,
            timer: lite.timer,
            marks: queue.marks.iter().copied().collect(),
        };
        self.ops.push(Op::Put { key: keys::lite_queue(id), image: image.encode().into(), keep_until: None });
        self.note_changed_in(Entity::Queue(id));
    }

    /// Forgets a lite topic, its messages and every group's progress in it: all that the store has of it, in this batch.
    pub(crate) fn drop_lite(&mut self, id: QueueId) {
        let Some((parent, name)) = self.lite_name(id) else { return };
        self.disarm_lite(id);
        for group in self.groups_in(id) {
            let unsettled = self.unsettled_in_lite(group, id);
            self.backlog_changed(group, id, unsettled, 0);
            if let Some(progress) = self.progress.get_mut(&(group, id)) {
                let keys = progress.leave();
                self.ops.extend(keys.into_iter().map(|key| Op::Remove { key }));
            }
            self.forget_progress(group, id);
            for member in self.lite.registry.subscribers_of(parent, &name, group) {
                self.lite.registry.get_mut(member).into_iter().for_each(|member| member.ready.remove(id));
            }
        }
        self.forget_since(id);
        self.unmark_all(parent, id);
        self.ops.push(Op::Remove { key: keys::lite_topic(parent, &name) });
        self.ops.push(Op::Remove { key: keys::lite_queue(id) });
        self.ops.push(Op::Forget { queue: id });
        self.queues.remove(&id);
        self.topic_of.remove(&id);
        self.forget_append(id);
        self.lite_gone(id);
        self.note_changed_in(Entity::Queue(id));
        self.lite_absent(parent, name.clone());
        self.note_changed_in(Entity::Lite(parent, name));
        let count = self.lite.counts.entry(parent).or_default();
        *count = count.saturating_sub(1);
        self.lite.recounted.insert(parent);
    }

    /// Writes what the batch must say besides: counts, and the next queue number.
    pub(crate) fn flush_lite(&mut self) {
        for parent in std::mem::take(&mut self.lite.recounted) {
            let key = keys::lite_count(parent);
            match self.lite.counts.get(&parent).copied().filter(|&count| count > 0) {
                Some(count) => {
                    let image = Bytes::from(codec::encode_number(count));
                    self.ops.push(Op::Put { key, image, keep_until: None });
                }
                None => {
                    self.lite.counts.remove(&parent);
                    self.ops.push(Op::Remove { key });
                }
            }
        }
        self.lite.backlogs.flush(&mut self.ops);
        if std::mem::take(&mut self.image_changed) {
            self.put_image();
        }
    }

    /// Drops the oldest of what is too much in memory, as far as it is clean, looking at so many at most.
    pub(crate) fn evict_lite(&mut self, keep: usize, looks_max: usize) {
        let over = self.lite.ring.len().saturating_sub(keep);
        if over == 0 {
            return;
        }
        let needed = self.needed_by_waiting_work();
        // Twice as many: some will be in use.
        for _ in 0..(2 * over + 16).min(self.lite.ring.len()).min(looks_max) {
            if self.lite.ring.len() <= keep {
                return;
            }
            let Some(entity) = self.lite.ring.pop_front() else { return };
            if !self.is_lite_resident(&entity) {
                continue;
            }
            if needed.contains(&entity) || !self.evict_one(&entity) {
                self.lite.ring.push_back(entity);
            }
        }
    }

    fn is_lite_resident(&self, entity: &Entity) -> bool {
        match entity {
            Entity::Queue(queue) => self.lite.gone.contains(queue) || self.is_lite_queue(*queue),
            Entity::Progress(group, queue) => self.progress.contains_key(&(*group, *queue)),
            Entity::Lite(parent, name) => matches!(self.lite.topics.get(&(*parent, name.clone())), Some(None)),
            Entity::LiteGroup(_) => false,
        }
    }

    /// Drops it if the store has all of it. What waits for its time still wakes the shard.
    fn evict_one(&mut self, entity: &Entity) -> bool {
        if !self.is_durable(entity) || self.is_loading(entity) {
            return false;
        }
        match entity {
            Entity::Progress(group, queue) => {
                let key = (*group, *queue);
                if !self.is_untouched_since_batch(key) {
                    return false;
                }
                self.progress.remove(&key);
            }
            Entity::Queue(id) if self.lite.gone.remove(id) => {}
            Entity::Queue(id) => {
                let Some(queue) = self.queues.get(id) else { return true };
                let in_use = queue.durable < queue.next || self.is_appended(*id) || self.lite.expiring.contains(id);
                if in_use || !self.groups_in(*id).is_empty() {
                    return false;
                }
                if let Some((parent, name)) = self.lite_name(*id) {
                    if self.is_loading(&Entity::Lite(parent, name.clone())) {
                        return false;
                    }
                    self.lite.topics.remove(&(parent, name));
                }
                self.queues.remove(id);
                self.topic_of.remove(id);
            }
            Entity::Lite(parent, name) => drop(self.lite.topics.remove(&(*parent, name.clone()))),
            Entity::LiteGroup(_) => {}
        }
        self.forget_changed_in(entity);
        true
    }
}
