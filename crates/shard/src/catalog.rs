//! Topics and groups as this shard keeps them, and their deletion bit by bit.

use crate::answer::*;
use crate::codec;
use crate::command::*;
use crate::keys;
use crate::queue::Queue;
use crate::shard::Shard;
use crate::topic::Topic;
use bytes::Bytes;
use martlet_model::names::{DEAD_LETTER_PREFIX, RETRY_PREFIX};
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId};
use martlet_store::Op;
use std::collections::BTreeSet;
use std::sync::Arc;

impl<T> Shard<T> {
    pub(crate) fn apply_topic(&mut self, facts: TopicFacts, token: T) {
        self.put_topic(facts);
        self.reply(token, Output::Done);
    }

    /// Creates a topic or changes it; queues are added as needed and never taken away while the topic lives.
    fn put_topic(&mut self, facts: TopicFacts) {
        let id = facts.id;
        if self.topics.get(&id).is_some_and(|topic| topic.facts == facts) {
            return;
        }
        if facts.deduplicate_millis.is_none() {
            self.known_ids.forget(id);
        }
        let wanted = facts.read_queues.max(facts.write_queues);
        let known = self.topics.remove(&id).map(|topic| (topic.queues, topic.spread));
        // Message groups stay where they are, however many queues come or go.
        let (mut queues, spread) = known.unwrap_or_else(|| (Vec::new(), facts.write_queues));
        for index in queues.len() as u32..wanted {
            let queue = QueueId(self.image.next_queue);
            self.image.next_queue += 1;
            self.queues.insert(queue, Queue::new(queue, id, index));
            self.topic_of.insert(queue, id);
            queues.push(queue);
            self.put_queue(queue);
        }
        self.put_image();
        let image = Bytes::from(codec::encode_topic(&facts, &queues, spread));
        self.ops.push(Op::Put { key: keys::topic(id), image, keep_until: None });
        let resident: Vec<QueueId> = queues.iter().copied().filter(|queue| self.queues.contains_key(queue)).collect();
        self.topics.insert(id, Topic { facts, queues, spread, next_send: 0, next_receive: 0 });
        for queue in resident {
            self.reindex_expiry(queue);
        }
        // A queue that is read again may have messages.
        self.stir_topic(id);
    }

    /// `%DLQ%group` exists as soon as something looks for it.
    pub(crate) fn make_dead_letter_topic(&mut self, group: GroupId) {
        self.make_topic_of(group, TopicId::dead_letters_of(group), DEAD_LETTER_PREFIX);
    }

    /// So does `%RETRY%group`, of groups that do not consume lite topics.
    pub(crate) fn make_retry_topic(&mut self, group: GroupId) {
        if self.lite_group(group).is_none() {
            self.make_topic_of(group, TopicId::retries_of(group), RETRY_PREFIX);
        }
    }

    fn make_topic_of(&mut self, group: GroupId, id: TopicId, prefix: &str) {
        if self.topics.contains_key(&id) {
            return;
        }
        if let Some(facts) = self.groups.get(&group) {
            let name: Arc<str> = format!("{prefix}{}", facts.name).into();
            self.put_topic(TopicFacts {
                id,
                name,
                read_queues: 1,
                write_queues: 1,
                retention_millis: None,
                by_priority: false,
                deduplicate_millis: None,
                lite: None,
            });
        }
    }

    pub(crate) fn apply_group(&mut self, facts: GroupFacts, token: T) {
        let id = facts.id;
        if self.groups.get(&id) != Some(&facts) {
            let parent = |group: &GroupFacts| group.lite.map(|lite| lite.parent);
            // The parent was deleted and made again: what clients said before is about another one.
            if self.groups.get(&id).is_some_and(|known| parent(known) != parent(&facts)) {
                self.drop_lite_members(|group, _| group == id);
            }
            self.note_lite_group(id, parent(&facts));
            let image = Bytes::from(codec::encode_group(&facts));
            self.ops.push(Op::Put { key: keys::group(id), image, keep_until: None });
            self.groups.insert(id, facts);
        }
        self.make_dead_letter_topic(id);
        self.reply(token, Output::Done);
    }

    pub(crate) fn drop_topic(&mut self, id: TopicId) {
        let Some(topic) = self.topics.remove(&id) else { return };
        self.ops.push(Op::Remove { key: keys::topic(id) });
        for &queue in &topic.queues {
            self.topic_of.remove(&queue);
            self.owners.forget_all(|key| key.1 == queue);
            self.queues.remove(&queue);
            self.set_expiry(queue, None);
            self.ops.push(Op::Forget { queue });
            let resent = self.resent.trim(queue, QueueOffset(u64::MAX));
            self.ops.extend(resent.into_iter().map(|key| Op::Remove { key }));
            self.ops.push(Op::Remove { key: keys::queue(queue) });
            for group in self.groups_in(queue) {
                self.forget_progress(group, queue);
            }
            self.begin_sweep(keys::consumers_of(queue));
        }
        if topic.facts.lite.is_some() {
            self.drop_lite_topics(id);
        }
        self.forget_waiting(id);
        self.forget_subscriptions(|key| key.0 == id);
        self.counters.dead_letters_of.retain(|key, _| key.1 != id);
        self.retry_turn.retain(|key| key.0 != id);
        self.levels.forget(|key| key.0 == id);
        self.known_ids.forget(id);
        self.refuse_polls(|key| key.0 == id, &Refused::TopicGone);
        self.refuse_waits(id);
    }

    pub(crate) fn keep_only(&mut self, topics: &BTreeSet<TopicId>, groups: &BTreeSet<GroupId>) {
        let gone: Vec<GroupId> = self.groups.keys().filter(|id| !groups.contains(id)).copied().collect();
        gone.into_iter().for_each(|group| self.drop_group(group));
        let is_gone = |id: &TopicId| match id.group_it_belongs_to() {
            Some(group) => !groups.contains(&group),
            None => !topics.contains(id),
        };
        let gone: Vec<TopicId> = self.topics.keys().copied().filter(is_gone).collect();
        gone.into_iter().for_each(|topic| self.drop_topic(topic));
    }

    pub(crate) fn drop_group(&mut self, id: GroupId) {
        if self.groups.remove(&id).is_some() {
            self.ops.push(Op::Remove { key: keys::group(id) });
            let queues: Vec<QueueId> =
                self.progress.range((id, QueueId(0))..=(id, QueueId(u64::MAX))).map(|(key, _)| key.1).collect();
            for queue in queues {
                self.forget_progress(id, queue);
                // Written with the frontier, which may not be in the store yet for the sweep to find.
                self.ops.push(Op::Remove { key: keys::consumer(queue, id) });
            }
            for prefix in keys::leftovers_of_group(id) {
                self.begin_sweep(prefix);
            }
            self.forget_subscriptions(|key| key.1 == id);
            self.counters.dead_letters_of.retain(|key, _| key.0 != id);
            self.retry_turn.retain(|key| key.1 != id);
            self.levels.forget(|key| key.1 == id);
            self.attempts.forget_group(id);
            self.drop_lite_members(|group, _| group == id);
            self.lite.groups.remove(&id);
            self.note_lite_group(id, None);
            self.lite.wild.remove(&id);
            self.lite.backlogs.forget(id);
            self.owners.forget_all(|key| key.0 == id);
            self.handing_back.forget(id);
            self.refuse_polls(|key| key.1 == id, &Refused::GroupGone);
            self.refuse_pulls(id);
            self.drop_topic(TopicId::dead_letters_of(id));
            self.drop_topic(TopicId::retries_of(id));
        }
    }

    fn refuse_polls(&mut self, of: impl Fn(&(TopicId, GroupId)) -> bool, refused: &Refused) {
        let mut polls: Vec<PollId> =
            self.poll_places.iter().filter(|(_, key)| of(key)).map(|(&poll, _)| poll).collect();
        let lite = self.lite.polls.values().flatten().map(|poll| &poll.receive);
        polls.extend(lite.filter(|receive| of(&(receive.topic, receive.group))).map(|receive| receive.poll));
        for poll in polls {
            if let Some(poll) = self.take_poll(poll) {
                self.reply(poll.token, Output::Refused(refused.clone()));
            }
        }
    }

    /// Everything below a prefix is garbage: said durably first, then removed some keys per turn.
    fn begin_sweep(&mut self, prefix: Bytes) {
        self.ops.push(Op::Put { key: keys::sweep(&prefix), image: Bytes::new(), keep_until: None });
        self.want_sweep(prefix);
    }

    pub(crate) fn want_sweep(&mut self, prefix: Bytes) {
        if self.sweeps.insert(prefix.clone()) {
            self.next_sweeps.push(prefix);
        }
    }

    pub(crate) fn swept(&mut self, prefix: Bytes, found: &[Bytes]) {
        self.sweeps.remove(&prefix);
        if found.is_empty() {
            self.ops.push(Op::Remove { key: keys::sweep(&prefix) });
            return;
        }
        for key in found {
            self.ops.push(Op::Remove { key: key.clone() });
            match (key.first(), keys::numbers(key).as_deref()) {
                (Some(&keys::CONSUMER), Some(&[queue, group])) => {
                    let (queue, group) = (QueueId(queue), GroupId(group as u32));
                    self.ops.push(Op::Remove { key: keys::frontier(group, queue) });
                    self.begin_sweep(keys::pages(group, queue).start);
                    self.begin_sweep(keys::parked_in(group, queue).start);
                }
                (Some(&keys::FRONTIER), Some(&[group, queue])) => {
                    self.ops.push(Op::Remove { key: keys::consumer(QueueId(queue), GroupId(group as u32)) });
                }
                _ => {}
            }
        }
        self.want_sweep(prefix);
    }

    /// Lite topics of a deleted parent: their queues are forgotten, and what groups kept of them is garbage.
    pub(crate) fn lite_swept(&mut self, prefix: Bytes, found: &[(Bytes, Option<QueueId>)]) {
        let keys: Vec<Bytes> = found.iter().map(|(key, _)| key.clone()).collect();
        for &queue in found.iter().filter_map(|(_, queue)| queue.as_ref()) {
            self.ops.push(Op::Forget { queue });
            self.ops.push(Op::Remove { key: keys::lite_queue(queue) });
            self.begin_sweep(keys::consumers_of(queue));
        }
        self.swept(prefix, &keys);
    }

    /// The parent of lite topics is deleted: nothing of them is found from now on, and what the store has is swept.
    fn drop_lite_topics(&mut self, parent: TopicId) {
        let queues: Vec<QueueId> = self
            .queues
            .values()
            .filter(|queue| queue.topic == parent && queue.lite.is_some())
            .map(|queue| queue.id)
            .collect();
        queues.into_iter().for_each(|queue| self.drop_lite(queue));
        let groups = self.lite.groups_of.get(&parent).cloned().unwrap_or_default();
        for &group in &groups {
            self.lite.backlogs.forget(group);
            self.begin_sweep(keys::lite_since_of(group));
            if self.lite.wild.remove(&group).is_some() {
                self.begin_sweep(keys::lite_backlog_of(group));
            }
        }
        self.drop_lite_members(|group, _| groups.contains(&group));
        self.lite.counts.remove(&parent);
        self.lite.recounted.insert(parent);
        self.begin_sweep(keys::lite_topics_of(parent));
    }

    pub(crate) fn describe_topic(&mut self, id: TopicId, token: T) {
        let Some(topic) = self.topics.get(&id) else {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        };
        let figures = topic
            .queues
            .iter()
            .filter_map(|queue| self.queues.get(queue))
            .map(|queue| QueueFigures {
                queue: queue.id,
                index: queue.index,
                min: queue.min,
                max: queue.next,
                last_store_time: queue.last_time,
            })
            .collect();
        self.reply(token, Output::Queues(figures));
    }

    pub(crate) fn describe_group_loaded(&mut self, group: GroupId, queues: &[QueueId], token: T) {
        let mut figures: Vec<ProgressFigures> = self.lite_figures(group).into_iter().collect();
        for &id in queues {
            let (Some(queue), Some(progress)) = (self.queues.get(&id), self.progress.get(&(group, id))) else {
                continue;
            };
            let in_flight = progress.in_flight();
            let open = progress.open_slots() as u64;
            let passed_over = progress.never_handed_out();
            let next = progress.next().max(queue.min);
            figures.push(ProgressFigures {
                topic: queue.topic,
                queue: id,
                index: queue.index,
                oldest_ready: progress.fresh().first().map_or(next, |&first| QueueOffset(first)),
                committed: progress.committed().max(queue.min),
                max: queue.next,
                in_flight,
                waiting_retry: open.saturating_sub(in_flight).saturating_sub(passed_over),
                ready: queue.next.0.saturating_sub(next.0) + passed_over + progress.parked(),
            });
        }
        let dead_letters = self.topics.get(&TopicId::dead_letters_of(group)).map_or(0, |topic| {
            let of = |id: &QueueId| {
                let Some(queue) = self.queues.get(id) else { return 0 };
                queue.next.0 - queue.min.0 - self.resent.count(*id, queue.min..queue.next)
            };
            topic.queues.iter().map(of).sum()
        });
        self.reply(token, Output::Progress(figures, dead_letters));
    }

    /// Moves a group past what the queue has lost to retention. What it had not settled is counted.
    pub(crate) fn clamp(&mut self, group: GroupId, id: QueueId) {
        let (Some(queue), Some(progress)) = (self.queues.get(&id), self.progress.get(&(group, id))) else { return };
        let (from, below) = (progress.committed(), queue.min);
        if from >= below {
            self.progress.get_mut(&(group, id)).into_iter().for_each(|progress| progress.mark_met());
            return;
        }
        if !progress.is_untouched() {
            let open = progress.slots().take_while(|(offset, _)| *offset < below).count() as u64;
            self.counters.dropped_unconsumed += open + below.0.saturating_sub(progress.next().0);
        }
        let before = self.unsettled_in_lite(group, id);
        let Some(progress) = self.progress.get_mut(&(group, id)) else { return };
        let (parked, unsure) = progress.skip_to(below);
        let after = self.unsettled_in_lite(group, id);
        self.backlog_changed(group, id, before, after);
        self.counters.dropped_unconsumed += parked;
        self.note_changed(group, id);
        unsure.into_iter().for_each(|key| self.load_parked(group, id, key));
    }
}
