//! Queue-based members: offsets, locks, and places as physical offsets. Whether what a member says counts is the shard's word.

use crate::broadcast::Step;
use crate::lite::check_move;
use crate::queue_pull::{QueuePull, check_queue, no_such_queue};
use crate::{Broker, Refusal};
use martlet_model::{GroupConfig, PhysicalOffset, QueueId, QueueOffset, TopicConfig, TopicId};
use martlet_shard::{Command, Output};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// Where a group is in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredOffset {
    /// Here.
    Found(QueueOffset),
    /// It has not been there.
    NotFound {
        /// First readable offset of the queue.
        min: QueueOffset,
        /// Next offset of the queue.
        max: QueueOffset,
    },
}

/// Which queues topics have, as far as that was asked; queues are never taken away from a topic.
pub(crate) type QueueIds = Mutex<BTreeMap<TopicId, Vec<QueueId>>>;

/// A commit on its way.
enum Commit {
    /// Whether it counted, where that is known already.
    Over(bool),
    /// The shard will tell.
    Asked(oneshot::Receiver<Output>),
}

impl Broker {
    /// A member says how far it is in a queue: everything below is consumed. False if that does not count, because another
    /// member has the queue. `None` for an administrator.
    pub async fn commit_queue_offset(
        &self,
        group: &str,
        topic: &str,
        queue: u32,
        offset: u64,
        client_id: Option<&str>,
    ) -> Result<bool, Refusal> {
        match self.begin_commit((group, topic, queue), offset, client_id, true).await? {
            Commit::Over(counted) => Ok(counted),
            Commit::Asked(answer) => match answer.await.map_err(|_| self.stopped())? {
                Output::Committed(counted) => Ok(counted),
                other => Err(self.unexpected(other, topic, group)),
            },
        }
    }

    /// The same for an offset that comes with a pull: nobody is told whether it counts, so nobody waits until it is durable.
    pub(crate) async fn commit_with_pull(&self, pull: &QueuePull, offset: u64) {
        let QueuePull { group, topic, queue, client_id, .. } = pull;
        if let Err(refusal) = self.begin_commit((group, topic, *queue), offset, Some(client_id), false).await {
            tracing::debug!(group, topic, queue, %refusal, "an offset that came with a pull does not count");
        }
    }

    async fn begin_commit(
        &self,
        (group, topic, queue): (&str, &str, u32),
        offset: u64,
        client_id: Option<&str>,
        promised: bool,
    ) -> Result<Commit, Refusal> {
        let (topic, group) = self.queue_of_group(group, topic, queue)?;
        let (client, offset) = (client_id.map(Arc::from), QueueOffset(offset));
        if let Some(member) = client_id.filter(|_| self.keep_own_offsets(&group.name, &topic.name)) {
            let counted = match self.inner.members.move_own_offset(&group.name, member, (topic.id, queue), offset) {
                None => false,
                Some(None) => true,
                Some(Some(step)) => self.follow(&group, &topic, queue, step).await.map(|()| true)?,
            };
            return Ok(Commit::Over(counted));
        }
        let (group, topic, index, forward_only) = (group.id, topic.id, queue, false);
        let commit =
            |token| Command::CommitOffset { group, topic, index, offset, client, forward_only, promised, token };
        self.begin_ask(commit).map(Commit::Asked)
    }

    /// A group follows its slowest member, or does so when the next one moves.
    async fn follow(&self, group: &GroupConfig, topic: &TopicConfig, queue: u32, step: Step) -> Result<(), Refusal> {
        let queue = (topic.id, queue);
        let counted = match self.ask(|token| step.command(group.id, queue, token)).await {
            Ok(Output::Committed(counted)) => Ok(counted),
            Ok(other) => Err(self.unexpected(other, &topic.name, &group.name)),
            Err(refusal) => Err(refusal),
        };
        // Forward, it may be further on already; back, somebody may have something in flight.
        if !counted.as_ref().is_ok_and(|counted| *counted || !step.is_back()) {
            self.inner.members.not_moved(&group.name, queue, step);
        }
        counted.map(drop)
    }

    /// Where a group is in a queue. For a member (`client_id`), the queue is kept for a while, so that nothing comes between
    /// this and its first pull.
    pub async fn queue_offset(
        &self,
        group: &str,
        topic: &str,
        queue: u32,
        client_id: Option<&str>,
    ) -> Result<StoredOffset, Refusal> {
        let (topic, group) = self.queue_of_group(group, topic, queue)?;
        let alone = client_id.filter(|_| self.keep_own_offsets(&group.name, &topic.name));
        if let Some(own) =
            alone.and_then(|member| self.inner.members.own_offset(&group.name, member, (topic.id, queue)))
        {
            return Ok(StoredOffset::Found(own));
        }
        let client = client_id.filter(|_| alone.is_none()).map(Arc::from);
        let (group_id, topic_id) = (group.id, topic.id);
        let question = |token| Command::StoredOffset { group: group_id, topic: topic_id, index: queue, client, token };
        match self.ask(question).await? {
            Output::StoredOffset { mut stored, min, max } => {
                if let Some(member) = alone {
                    let place = (topic.id, queue);
                    stored = self.inner.members.begin_by_itself(&group.name, member, place, stored);
                    let moved =
                        stored.and_then(|own| self.inner.members.move_own_offset(&group.name, member, place, own));
                    if let Some(step) = moved.flatten() {
                        // Where it begins does not depend on that.
                        let _ = self.follow(&group, &topic, queue, step).await;
                    }
                }
                Ok(stored.map_or(StoredOffset::NotFound { min, max }, StoredOffset::Found))
            }
            other => Err(self.unexpected(other, &topic.name, &group.name)),
        }
    }

    fn queue_of_group(
        &self,
        group: &str,
        topic: &str,
        queue: u32,
    ) -> Result<(Arc<TopicConfig>, Arc<GroupConfig>), Refusal> {
        let topic = self.topic_to_look_into(topic)?;
        check_queue(&topic, queue, topic.read_queues.max(topic.write_queues))?;
        let group = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        check_move(&topic, &group)?;
        Ok((topic, group))
    }

    /// Locks queues for a member for 60 s, or renews that. Gives back those that it has; topics that do not exist are left
    /// out. Where broadcasting takes effect, each member has all.
    pub async fn lock_queues(
        &self,
        group: &str,
        client_id: &str,
        queues: &[(String, u32)],
    ) -> Result<Vec<(String, u32)>, Refusal> {
        let known = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        let (names, queues) = self.queues_to_lock(queues);
        if self.broadcasts(group) {
            return Ok(queues.into_iter().filter_map(|(id, index)| Some((names.get(&id)?.clone(), index))).collect());
        }
        let client = Arc::from(client_id);
        match self.ask(|token| Command::LockQueues { group: known.id, client, queues, token }).await? {
            Output::Locked(locked) => {
                Ok(locked.into_iter().filter_map(|(id, index)| Some((names.get(&id)?.clone(), index))).collect())
            }
            other => Err(self.unexpected(other, "", group)),
        }
    }

    /// Unlocks queues that a member has locked.
    pub async fn unlock_queues(&self, group: &str, client_id: &str, queues: &[(String, u32)]) -> Result<(), Refusal> {
        let known = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        let (_, queues) = self.queues_to_lock(queues);
        let client = Arc::from(client_id);
        match self.ask(|token| Command::UnlockQueues { group: known.id, client, queues, token }).await? {
            Output::Done => Ok(()),
            other => Err(self.unexpected(other, "", group)),
        }
    }

    /// Whether any member of a group holds a lock.
    pub async fn holds_locks(&self, group: &str) -> Result<bool, Refusal> {
        let known = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        match self.ask(|token| Command::DescribeLocks { group: known.id, token }).await? {
            Output::Locked(locked) => Ok(!locked.is_empty()),
            other => Err(self.unexpected(other, "", group)),
        }
    }

    fn queues_to_lock(&self, queues: &[(String, u32)]) -> (BTreeMap<TopicId, String>, Vec<(TopicId, u32)>) {
        let mut names = BTreeMap::new();
        let mut known = Vec::with_capacity(queues.len());
        for (name, index) in queues {
            if let Some(topic) = self.known_topic(name) {
                known.push((topic.id, *index));
                names.insert(topic.id, name.clone());
            }
        }
        (names, known)
    }

    /// The shard's number of a topic's queue: what physical offsets are computed from.
    pub async fn queue_id(&self, topic: &str, queue: u32) -> Result<QueueId, Refusal> {
        let topic = self.topic_to_look_into(topic)?;
        if let Some(id) = self.known_queue_id(&topic, queue) {
            return Ok(id);
        }
        check_queue(&topic, queue, topic.read_queues.max(topic.write_queues))?;
        let mut figures = self.queues_of(&topic).await?;
        figures.sort_by_key(|figures| figures.index);
        let ids: Vec<QueueId> = figures.iter().map(|figures| figures.queue).collect();
        let id = ids.get(queue as usize).copied();
        self.queue_ids().insert(topic.id, ids);
        id.ok_or_else(|| no_such_queue(queue))
    }

    /// The same, if that was asked before.
    pub(crate) fn known_queue_id(&self, topic: &TopicConfig, queue: u32) -> Option<QueueId> {
        self.queue_ids().get(&topic.id).and_then(|ids| ids.get(queue as usize)).copied()
    }

    fn queue_ids(&self) -> MutexGuard<'_, BTreeMap<TopicId, Vec<QueueId>>> {
        self.inner.queue_ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place that a physical offset names: topic, queue number and offset. `None` if it names no queue of a topic.
    pub async fn physical_place(
        &self,
        physical: PhysicalOffset,
    ) -> Result<Option<(String, u32, QueueOffset)>, Refusal> {
        let Some((queue, offset)) = physical.place() else { return Ok(None) };
        match self.ask(|token| Command::PlaceOf { queue, token }).await? {
            Output::PlaceOf(place) => {
                let place = place.and_then(|(topic, index)| Some((self.name_of(topic)?, index, offset)));
                Ok(place)
            }
            other => Err(self.unexpected(other, "", "")),
        }
    }
}
