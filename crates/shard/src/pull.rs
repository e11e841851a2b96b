//! Waiting until a queue reaches a place, for consumers that keep their own place and read by themselves.
//!
//! In: a place of a queue and a time. Out: the queue's durable end, as soon as a message at that place or behind it may be
//! read, or when the time is over.
//!
//! Rules
//! - Nothing changes: no slot is opened, no group is moved. What was read counts once the group is moved past it (see
//!   [`crate::reset`]).
//! - Only what is durable counts as being there.
//! - Waits count towards the limit of polls.

use crate::answer::{Output, Refused};
use crate::command::{PollId, PullCommand};
use crate::shard::{Shard, When, Work};
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};

/// One that waits.
struct Wait<T> {
    topic: TopicId,
    queue: QueueId,
    from: QueueOffset,
    until: UnixMillis,
    token: T,
    /// A queue-based member's pull, which goes on when the wait is over.
    pull: Option<PullCommand>,
}

/// Those that wait, by number, by the end of their time, and by queue.
pub(crate) struct Waits<T> {
    waiting: BTreeMap<PollId, Wait<T>>,
    ends: BTreeSet<(UnixMillis, PollId)>,
    places: BTreeSet<(QueueId, PollId)>,
}

impl<T> Default for Waits<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), ends: BTreeSet::new(), places: BTreeSet::new() }
    }
}

impl<T> Waits<T> {
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the first of them is over.
    pub fn first_end(&self) -> Option<UnixMillis> {
        self.ends.first().map(|&(until, _)| until)
    }

    fn put(&mut self, poll: PollId, wait: Wait<T>) {
        self.ends.insert((wait.until, poll));
        self.places.insert((wait.queue, poll));
        self.waiting.insert(poll, wait);
    }

    /// Takes one out; `None` if it does not wait here.
    fn take(&mut self, poll: PollId) -> Option<Wait<T>> {
        let wait = self.waiting.remove(&poll)?;
        self.ends.remove(&(wait.until, poll));
        self.places.remove(&(wait.queue, poll));
        Some(wait)
    }

    /// Nobody waits for this one any more.
    pub fn cancel(&mut self, poll: PollId) -> bool {
        self.take(poll).is_some()
    }

    fn of_queue(&self, queue: QueueId) -> Vec<PollId> {
        self.places.range((queue, PollId(0))..=(queue, PollId(u64::MAX))).map(|&(_, poll)| poll).collect()
    }

    fn of_topic(&self, topic: TopicId) -> Vec<PollId> {
        self.waiting.iter().filter(|(_, wait)| wait.topic == topic).map(|(&poll, _)| poll).collect()
    }
}

impl<T> Shard<T> {
    /// A wait arrives: it is answered at once, or waits.
    pub(crate) fn await_offset(
        &mut self,
        poll: PollId,
        (topic, index): (TopicId, u32),
        from: QueueOffset,
        until: UnixMillis,
        token: T,
    ) {
        let queue = self.queue_at(topic, index).and_then(|id| self.queues.get(&id));
        let Some(queue) = queue else { return self.reply(token, Output::Refused(Refused::TopicGone)) };
        let (id, min, max, durable) = (queue.id, queue.min, queue.next, queue.durable);
        if from < min || from > max {
            return self.reply(token, Output::Refused(Refused::OffsetOutOfRange { index, offset: from, min, max }));
        }
        if durable > from || until <= self.now {
            return self.replies.push((token, Output::Reached { queue: id, min, max: durable }, When::Now));
        }
        if self.polls_waiting() >= self.options.polls_max {
            return self.refuse_now(token, Refused::PollsFull { limit: self.options.polls_max });
        }
        self.waits.put(poll, Wait { topic, queue: id, from, until, token, pull: None });
    }

    /// A pull that has found nothing waits.
    pub(crate) fn wait_to_pull(&mut self, queue: QueueId, pull: PullCommand, from: QueueOffset, token: T) {
        if self.polls_waiting() >= self.options.polls_max {
            return self.refuse_now(token, Refused::PollsFull { limit: self.options.polls_max });
        }
        let (poll, topic, until) = (pull.poll, pull.topic, pull.until);
        self.waits.put(poll, Wait { topic, queue, from, until, token, pull: Some(pull) });
    }

    /// Takes out the pulls of a group that wait at a queue.
    pub(crate) fn take_pulls(&mut self, queue: QueueId, group: GroupId) -> Vec<(PullCommand, T)> {
        let is_its_own = |wait: &Wait<T>| wait.pull.as_ref().is_some_and(|pull| pull.group == group);
        let mut polls = self.waits.of_queue(queue);
        polls.retain(|poll| self.waits.waiting.get(poll).is_some_and(is_its_own));
        let taken = polls.into_iter().filter_map(|poll| self.waits.take(poll));
        taken.filter_map(|wait| Some((wait.pull?, wait.token))).collect()
    }

    /// A wait is over: the queue reaches as far as this.
    fn end_wait(&mut self, wait: Wait<T>, max: QueueOffset) {
        match wait.pull {
            Some(pull) => self.handle(Work::PullAgain { pull, token: wait.token }),
            None => {
                let queue = wait.queue;
                let min = self.queues.get(&queue).map_or(max, |queue| queue.min);
                self.replies.push((wait.token, Output::Reached { queue, min, max }, When::Now));
            }
        }
    }

    /// Everything of a queue below this place is durable now.
    pub(crate) fn reached(&mut self, queue: QueueId, max: QueueOffset) {
        for poll in self.waits.of_queue(queue) {
            if self.waits.waiting.get(&poll).is_some_and(|wait| wait.from < max)
                && let Some(wait) = self.waits.take(poll)
            {
                self.end_wait(wait, max);
            }
        }
    }

    /// Ends the waits whose time is over.
    pub(crate) fn end_waits(&mut self) {
        while let Some(&(_, poll)) = self.waits.ends.first().filter(|(until, _)| *until <= self.now) {
            let Some(wait) = self.waits.take(poll) else { return };
            let from = wait.from;
            self.end_wait(wait, from);
        }
    }

    /// The group is gone.
    pub(crate) fn refuse_pulls(&mut self, group: GroupId) {
        let of_group = |wait: &Wait<T>| wait.pull.as_ref().is_some_and(|pull| pull.group == group);
        let polls: Vec<PollId> =
            self.waits.waiting.iter().filter(|(_, wait)| of_group(wait)).map(|(&poll, _)| poll).collect();
        for poll in polls {
            if let Some(wait) = self.waits.take(poll) {
                self.reply(wait.token, Output::Refused(Refused::GroupGone));
            }
        }
    }

    /// The topic is gone.
    pub(crate) fn refuse_waits(&mut self, topic: TopicId) {
        for poll in self.waits.of_topic(topic) {
            if let Some(wait) = self.waits.take(poll) {
                self.reply(wait.token, Output::Refused(Refused::TopicGone));
            }
        }
    }
}
