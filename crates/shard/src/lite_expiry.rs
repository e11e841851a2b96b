//! The end of lite topics, and of old messages in them: one timer each, looked at only when it is due.
//!
//! Rules
//! - A lite topic ends when no message has come for its time to live, which is counted from when the last one was *noted*: at
//!   most 1/16 of the time to live before it came, so the end is up to 1/16 late and never early.
//! - Messages that a group has not settled keep it, unless its parent says otherwise; so do messages that no group ever came
//!   for. In any case messages end with the topic's retention, and then the lite topic does.
//! - Subscriptions are to names and outlive the lite topic: the next message makes it anew, from offset 0, and finds them.
//! - What ends is removed with all that belongs to it in one batch. At most [`AT_A_TIME`] are looked at at a time.

use crate::command::*;
use crate::keys;
use crate::load::Load;
use crate::resident::Purpose;
use crate::schedule::TimersOf;
use crate::shard::{Shard, Work};
use crate::timers::{AGAIN_MILLIS, Timer};
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_store::Op;
use std::collections::BTreeSet;

/// Lite topics that are looked at at a time.
const AT_A_TIME: usize = 64;
/// A lite topic that is kept for its messages is looked at again after this at the soonest.
const KEPT_MILLIS: i64 = 60_000;

/// How late the last message may be noted.
fn note_after(expire_millis: i64) -> i64 {
    (expire_millis / 16).max(1)
}

impl<T> Shard<T> {
    /// A message has been appended to a lite topic; `marked`: its value is to be written.
    pub(crate) fn lite_appended(&mut self, id: QueueId, marked: bool) {
        let now = self.now;
        let Some(parent) = self.queues.get(&id).map(|queue| queue.topic) else { return };
        let expire = self.lite_parent(parent).and_then(|facts| facts.expire_millis);
        let Some(lite) = self.queues.get_mut(&id).and_then(|queue| queue.lite.as_mut()) else { return };
        let noted = expire.is_some_and(|expire| now.since(lite.last) >= note_after(expire));
        let armed = lite.timer.0 > 0;
        if noted || marked {
            lite.last = now;
        }
        if !armed {
            self.arm_lite(id, None);
        }
        self.mark_wild(parent, id);
        self.count_lite_message(id);
        if noted || marked || !armed {
            self.put_lite(id);
        }
    }

    /// Sets the timer of a lite topic to when there may be something to end; not before `not_before`.
    fn arm_lite(&mut self, id: QueueId, not_before: Option<UnixMillis>) {
        let Some(queue) = self.queues.get(&id) else { return };
        let (parent, Some(lite)) = (queue.topic, &queue.lite) else { return };
        let expire = self.lite_parent(parent).and_then(|facts| facts.expire_millis);
        let end = expire.map(|expire| lite.last.plus(expire + note_after(expire)));
        let due = [end, queue.next_expiry(self.retention_of(parent))].into_iter().flatten().min();
        let due = due.map(|due| due.max(not_before.unwrap_or(due)));
        if let Some(lite) = self.queues.get_mut(&id).and_then(|queue| queue.lite.as_mut()) {
            lite.timer = due.unwrap_or(UnixMillis(0));
        }
        if let Some(due) = due {
            self.add_timer(TimerAt { due, queue: id, offset: QueueOffset(0) }, Timer::Lite(parent));
        }
    }

    /// Begins to look at lite topics whose timers are due.
    pub(crate) fn begin_expiring(&mut self) {
        while self.lite.expiring.len() < AT_A_TIME && self.now >= self.lite.expire_not_before {
            let Some((at, timer)) = self.timers.lite_topics.take_due(self.now) else { return };
            if let Timer::Lite(parent) = timer
                && self.lite.expiring.insert(at.queue)
            {
                self.want_after_batch(Load::Consumers(at.queue), Purpose::LiteConsumers { at, parent });
            }
        }
    }

    /// When to look at lite topics next.
    pub(crate) fn next_lite_timer(&self) -> Option<UnixMillis> {
        let due = self.timers.lite_topics.next_due().filter(|_| self.lite.expiring.len() < AT_A_TIME);
        due.map(|due| due.max(self.lite.expire_not_before))
    }

    fn remove_lite_timer(&mut self, at: TimerAt) {
        self.ops.push(Op::Remove { key: keys::timer(TimersOf::LiteTopics, at) });
        self.timers.lite_topics.remove(at);
    }

    /// A lite topic is dropped: so is its timer.
    pub(crate) fn disarm_lite(&mut self, id: QueueId) {
        let timer = self.queues.get(&id).and_then(|queue| queue.lite.as_ref()).map(|lite| lite.timer);
        if let Some(due) = timer.filter(|due| due.0 > 0) {
            self.remove_lite_timer(TimerAt { due, queue: id, offset: QueueOffset(0) });
        }
    }

    /// It is known which groups have progress in a lite topic whose timer is due.
    pub(crate) fn lite_consumers_found(&mut self, at: TimerAt, parent: TopicId, found: Option<Vec<GroupId>>) {
        match found {
            Some(mut groups) => {
                // To these it matters whether they have been there or not.
                groups.extend(self.wild_groups(parent));
                groups.sort_unstable();
                groups.dedup();
                self.handle(Work::LiteExpire { at, parent, groups });
            }
            None => self.expire_lite_again(at, parent),
        }
    }

    /// It could not be read: later.
    pub(crate) fn expire_lite_again(&mut self, at: TimerAt, parent: TopicId) {
        self.lite.expiring.remove(&at.queue);
        self.timers.lite_topics.put_back(at, Timer::Lite(parent));
        self.lite.expire_not_before = self.now.plus(AGAIN_MILLIS);
        self.begin_expiring();
    }

    /// The timer of a lite topic is due; it and the progress in it are in memory, if they exist.
    pub(crate) fn expire_lite(&mut self, at: TimerAt, groups: &[GroupId]) {
        self.lite.expiring.remove(&at.queue);
        self.look_at_lite(at, groups);
        self.begin_expiring();
    }

    fn look_at_lite(&mut self, at: TimerAt, groups: &[GroupId]) {
        let (id, now) = (at.queue, self.now);
        self.remove_lite_timer(at);
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let parent = queue.topic;
        let Some(lite) = queue.lite.as_mut().filter(|lite| lite.timer == at.due) else { return };
        lite.timer = UnixMillis(0);
        let last = lite.last;
        let Some(facts) = self.lite_parent(parent) else { return };
        let mut not_before = None;
        if self.pauses_deletion() {
            not_before = Some(now.plus(KEPT_MILLIS));
        } else {
            self.expire(id);
            let is_over = |expire: i64| last.plus(expire + note_after(expire)) <= now;
            if facts.expire_millis.is_some_and(is_over) {
                if facts.expire_unconsumed || self.is_lite_consumed(id, groups) {
                    self.counters.lite_ended += 1;
                    return self.drop_lite(id);
                }
                not_before = facts.expire_millis.map(|expire| now.plus(note_after(expire).max(KEPT_MILLIS)));
            }
            // What is due by age and still not durable.
            not_before = not_before.or(Some(now.plus(1)));
        }
        self.arm_lite(id, not_before);
        self.put_lite(id);
    }

    /// Whether all of a lite topic's messages are settled by every group that has been there, and there was one.
    fn is_lite_consumed(&self, id: QueueId, groups: &[GroupId]) -> bool {
        let Some(queue) = self.queues.get(&id) else { return true };
        let mut all: BTreeSet<GroupId> =
            groups.iter().copied().filter(|group| self.groups.contains_key(group)).collect();
        all.extend(self.groups_in(id));
        let settled = |group: &GroupId| {
            let progress = self.progress.get(&(*group, id));
            progress.is_some_and(|progress| progress.committed().max(queue.min) >= queue.next)
        };
        queue.durable == queue.next && (queue.min == queue.next || !all.is_empty() && all.iter().all(settled))
    }
}
