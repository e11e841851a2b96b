//! Queue-based members beside message-based ones, in one group: they pull, commit, send back, lock, take queues over from each
//! other, rest and vanish.
//!
//! A member is as careful as a client is: it commits in front of the first message that it is not through with, and what it has
//! sent back it is not through with before the answer. What it pulled is lost with it.

use super::{Pending, Run};
use crate::ground::Ground;
use crate::judge::{MemberId, Message, MessageNumber, QueueKey, Verdict};
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_shard::{Command, PollId, PullCommand, SendBackCommand, SendBackDelay};
use std::collections::BTreeMap;
use std::sync::Arc;

mod answers;

/// The group that has both kinds of members, and its message-based ones.
pub(super) const GROUP: usize = 4;
pub(super) const FIRST_CLIENT: u64 = 9;
pub(super) const CLIENTS: u64 = 2;
/// Queue-based members. The first of them drains, where queue-based members do.
pub(super) const MEMBERS: usize = 3;
/// The longest that a pull waits, and then keeps the queue.
const WAIT_MILLIS_MAX: u64 = 10_000;
const OWNED_MILLIS_MAX: i64 = 60_000 + WAIT_MILLIS_MAX as i64;

/// A queue-based member.
#[derive(Debug, Default)]
pub(super) struct Member {
    life: u32,
    places: BTreeMap<(TopicId, u32), Place>,
    /// Does nothing until then.
    resting_until: UnixMillis,
    asks_for_locks: bool,
    asks_where: bool,
}

/// Where a member is in a queue.
#[derive(Debug)]
struct Place {
    next: QueueOffset,
    pulling: bool,
    /// One commit at a time: the next one covers what this one does.
    committing: bool,
    queue: QueueId,
    held: Vec<Held>,
    last: UnixMillis,
}

/// A message in the hands of a member.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    offset: QueueOffset,
    number: MessageNumber,
    at: UnixMillis,
    /// The queue's turn when it was pulled.
    turn: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    SendingBack,
    Done,
}

/// What a member asked.
#[derive(Debug)]
pub(super) enum Asked {
    Where { key: QueueKey, who: MemberId, named: bool },
    Pull { key: QueueKey, who: MemberId, from: QueueOffset, turn: u64, at: UnixMillis },
    Commit { key: QueueKey, who: MemberId, offset: QueueOffset, below: Vec<Held>, last: UnixMillis },
    SendBack { key: QueueKey, who: MemberId, offset: QueueOffset, number: MessageNumber, pulled: UnixMillis },
    Lock { who: MemberId, keys: Vec<QueueKey>, at: UnixMillis },
    Unlock,
}

impl Member {
    /// Another process with another id.
    fn reborn(&mut self) {
        *self = Self { life: self.life + 1, resting_until: self.resting_until, ..Self::default() };
    }

    /// The broker was gone: what was under way has no answer.
    pub fn disconnected(&mut self) {
        (self.asks_for_locks, self.asks_where) = (false, false);
        for place in self.places.values_mut() {
            (place.pulling, place.committing) = (false, false);
            let sending = place.held.iter_mut().filter(|held| held.state == State::SendingBack);
            sending.for_each(|held| held.state = State::Open);
        }
    }
}

fn client_id((number, life): MemberId) -> Arc<str> {
    format!("member {number} {life}").into()
}

impl<G: Ground> Run<G> {
    fn mixed_topic(&self) -> Option<(TopicId, u32)> {
        let group = self.groups.get(GROUP)?;
        let facts = &self.topics.get(group.topic)?.facts;
        Some((facts.id, facts.read_queues))
    }

    /// Whether this is the group with both kinds of members, and whether it is ordered.
    pub(super) fn mixed(&self, group: GroupId) -> Option<bool> {
        self.groups.get(GROUP).filter(|known| known.facts.id == group).map(|known| known.facts.ordered)
    }

    /// The queue of a group and topic that still are.
    fn is_current(&self, key: QueueKey) -> bool {
        let group = self.groups.get(GROUP).map(|group| group.facts.id);
        let topic = self.mixed_topic().map(|(topic, _)| topic);
        group == Some(key.0) && (topic == Some(key.1) || key.1.retry_group() == group)
    }

    /// Whether message-based members alone are to have a message: no queue-based one has the queue, or ever had it.
    pub(super) fn is_nobodys(&self, group: GroupId, number: MessageNumber, message: &Message) -> bool {
        let track = self.judge.tracks.get(&group).and_then(|tracks| tracks.get(&number));
        let untouched = track.is_none_or(|track| track.pulled.is_none() && !track.loose);
        let free = |(index, _)| self.judge.queues.is_free((group, message.topic, index), self.now);
        // It may be a reference in the retry queue.
        let retries = (group, TopicId::retries_of(group), 0);
        untouched && message.place.is_some_and(free) && self.judge.queues.is_free(retries, self.now)
    }

    /// All members forget where they were: the group or its topic is another.
    pub(super) fn members_begin_anew(&mut self) {
        self.members.iter_mut().for_each(Member::reborn);
    }

    /// One of the members does something.
    pub(super) fn act_as_member(&mut self) {
        let at = self.random.below(MEMBERS as u64) as usize;
        if self.members[at].resting_until > self.now {
            return;
        }
        let Some((topic, queues)) = self.mixed_topic() else { return };
        let group = self.groups[GROUP].facts.id;
        let index = self.random.below(u64::from(queues) + 1) as u32;
        let key = match index < queues {
            true => (group, topic, index),
            false => (group, TopicId::retries_of(group), 0),
        };
        match self.random.below(64) {
            0 => self.member_vanishes(at),
            1 => self.give_up(at, key),
            2 | 3 => self.lock(at, group, topic, queues),
            4 => self.unlock(at, key),
            5..=24 => self.consume(at, key),
            25..=36 => self.commit_pulled(at, key),
            _ => {
                let wait = self.random.below(WAIT_MILLIS_MAX) as i64;
                self.pull(at, key, wait);
            }
        }
    }

    /// The queue is another member's from now on, as far as this one is concerned.
    fn give_up(&mut self, at: usize, key: QueueKey) {
        let is_quiet = |place: &Place| {
            !place.pulling && !place.committing && place.held.iter().all(|held| held.state != State::SendingBack)
        };
        let places = &mut self.members[at].places;
        if places.get(&(key.1, key.2)).is_some_and(is_quiet) {
            places.remove(&(key.1, key.2));
        }
    }

    pub(super) fn member_vanishes(&mut self, at: usize) {
        let who = (at, self.members[at].life);
        self.members[at].reborn();
        self.members[at].resting_until = self.now.plus(self.random.below(120_000) as i64);
        if self.random.one_in(2)
            && let Some(group) = self.groups.get(GROUP).map(|group| group.facts.id)
        {
            self.judge.queues.given_up(who, None);
            self.inbox.push(Command::MemberGone { group, client: client_id(who) });
        }
    }

    fn lock(&mut self, at: usize, group: GroupId, topic: TopicId, queues: u32) {
        if std::mem::replace(&mut self.members[at].asks_for_locks, true) {
            return;
        }
        let (who, now) = ((at, self.members[at].life), self.now);
        let wanted = |run: &mut Self| (0..queues).filter(|_| run.random.one_in(2)).collect::<Vec<u32>>();
        let keys: Vec<QueueKey> = wanted(self).into_iter().map(|index| (group, topic, index)).collect();
        for &key in &keys {
            self.judge.queues.come(key, Some(who), now);
            self.judge.queues.locking(key, who);
            self.judge.queues.perhaps_owned(key, UnixMillis(i64::MAX));
        }
        let queues = keys.iter().map(|key| (key.1, key.2)).collect();
        let (client, pending) = (client_id(who), Pending::Member(Asked::Lock { who, keys, at: now }));
        self.ask(pending, |token| Command::LockQueues { group, client, queues, token });
    }

    fn unlock(&mut self, at: usize, key: QueueKey) {
        let who = (at, self.members[at].life);
        if self.members[at].asks_for_locks {
            return;
        }
        self.judge.queues.given_up(who, Some(key));
        let (client, queues) = (client_id(who), vec![(key.1, key.2)]);
        let group = key.0;
        self.ask(Pending::Member(Asked::Unlock), |token| Command::UnlockQueues { group, client, queues, token });
    }

    /// Asks where the group is, or pulls from where the member is.
    fn pull(&mut self, at: usize, key: QueueKey, wait_millis: i64) {
        let (who, now) = ((at, self.members[at].life), self.now);
        let (group, topic, index) = key;
        let most = 1 + self.random.below(16) as u32;
        let until = now.plus(wait_millis);
        let member = &mut self.members[at];
        let Some(place) = member.places.get_mut(&(topic, index)) else {
            if std::mem::replace(&mut member.asks_where, true) {
                return;
            }
            let named = self.random.one_in(2);
            let client = named.then(|| client_id(who));
            if named {
                self.judge.queues.come(key, Some(who), now);
                self.judge.queues.perhaps_owned(key, UnixMillis(i64::MAX));
            }
            let pending = Pending::Member(Asked::Where { key, who, named });
            self.ask(pending, |token| Command::StoredOffset { group, topic, index, client, token });
            return;
        };
        if std::mem::replace(&mut place.pulling, true) {
            return;
        }
        let from = place.next;
        self.say(|| format!("{who:?} pulls {key:?} from {from:?}"));
        let turn = self.judge.queues.come(key, Some(who), now);
        self.judge.queues.perhaps_owned(key, UnixMillis(i64::MAX));
        let (poll, client) = (PollId(self.next_token), client_id(who));
        let pull = PullCommand { poll, client, group, topic, index, from, most, until };
        self.ask(Pending::Member(Asked::Pull { key, who, from, turn, at: now }), |token| Command::Pull { pull, token });
    }

    /// Gets through with a message, or fails on it.
    fn consume(&mut self, at: usize, key: QueueKey) {
        let Some(place) = self.members[at].places.get_mut(&(key.1, key.2)) else { return };
        let open: Vec<usize> = (0..place.held.len()).filter(|&n| place.held[n].state == State::Open).collect();
        if open.is_empty() {
            return;
        }
        let fails = self.random.one_in(5);
        let which = open[self.random.below(open.len() as u64) as usize];
        if !fails {
            // Mostly several at a time.
            let count = 1 + self.random.below(8) as usize;
            open.iter().take(count).for_each(|&n| place.held[n].state = State::Done);
            return;
        }
        place.held[which].state = State::SendingBack;
        let (Held { offset, number, at: pulled, .. }, queue) = (place.held[which], place.queue);
        let who = (at, self.members[at].life);
        let delay = match self.random.below(12) {
            0 => SendBackDelay::DeadLetter,
            1..=4 => SendBackDelay::Policy,
            _ => SendBackDelay::Millis(self.random.below(20_000) as i64),
        };
        let group = key.0;
        self.judge.sending_back(group, number);
        let back = SendBackCommand { group, queue, offset, delay, attempts_max: None };
        let pending = Pending::Member(Asked::SendBack { key, who, offset, number, pulled });
        self.ask(pending, |token| Command::SendBack { back, token });
    }

    /// Commits in front of the first message that it is not through with.
    fn commit_pulled(&mut self, at: usize, key: QueueKey) {
        let (group, topic, index) = key;
        let who = (at, self.members[at].life);
        let Some(place) = self.members[at].places.get_mut(&(topic, index)) else { return };
        if std::mem::replace(&mut place.committing, true) {
            return;
        }
        let open = place.held.iter().filter(|held| held.state != State::Done).map(|held| held.offset).min();
        let offset = open.unwrap_or(place.next);
        let below: Vec<Held> = place.held.extract_if(.., |held| held.offset < offset).collect();
        let last = place.last;
        self.say(|| format!("{who:?} commits {offset:?} of {key:?}, through with {below:?}"));
        for held in &below {
            self.judge.track(group, held.number).under_way += 1;
        }
        if self.groups[GROUP].facts.ordered && topic.retry_group().is_none() {
            self.judge.begins_anew(key, offset);
        }
        let (client, forward_only, promised) = (Some(client_id(who)), self.random.one_in(2), true);
        let pending = Pending::Member(Asked::Commit { key, who, offset, below, last });
        let commit =
            |token| Command::CommitOffset { group, topic, index, offset, client, forward_only, promised, token };
        self.ask(pending, commit);
    }

    /// Of an ordered group: whether a member's commit is under way that makes the queue begin anew in front of a message.
    pub(super) fn is_being_committed(&self, group: GroupId, number: MessageNumber) -> bool {
        let message = &self.judge.messages[number as usize];
        self.pending.values().any(|pending| match pending {
            Pending::Member(Asked::Commit { key, offset, .. }) => {
                let here = message.place.is_none_or(|(index, place)| index == key.2 && place >= *offset);
                (group, message.topic) == (key.0, key.1) && here
            }
            _ => false,
        })
    }

    /// No pull waits while there is something for it. Called when the shard is at rest.
    pub(super) fn no_pull_waits(&self, epoch: u32) -> Verdict {
        if self.groups.get(GROUP).is_none_or(|group| group.facts.ordered) {
            return Ok(());
        }
        for pending in self.pending.values() {
            let Pending::Member(Asked::Pull { key, who, from, turn, at }) = pending else { continue };
            // Who came while another had locked the queue waits to the end.
            let has_it = self.judge.queues.turn(*key) == *turn && !self.judge.queues.may_be_locked(*key, *who, *at);
            if has_it && self.is_current(*key) {
                let from_there_on = *from..QueueOffset(u64::MAX);
                self.judge
                    .none_is_skipped(*key, from_there_on, &[], (epoch, self.now))
                    .map_err(|skipped| format!("a pull of {who:?} waits although there is something: {skipped}"))?;
            }
        }
        Ok(())
    }

    /// The first member consumes everything there is.
    pub(super) fn drain_as_member(&mut self) -> Verdict {
        let Some((topic, queues)) = self.mixed_topic() else { return Ok(()) };
        let group = self.groups[GROUP].facts.id;
        let retries = (group, TopicId::retries_of(group), 0);
        let keys: Vec<QueueKey> = (0..queues).map(|index| (group, topic, index)).chain([retries]).collect();
        let missing = |run: &Self, key: &QueueKey| !run.members[0].places.contains_key(&(key.1, key.2));
        for &key in &keys {
            if missing(self, &key) {
                self.pull(0, key, 0);
                self.pump()?;
            }
        }
        // The last pull of the retry queue brings what the first one moved there.
        for keys in [&keys[..], &keys[keys.len() - 1..]] {
            keys.iter().for_each(|&key| self.pull(0, key, 0));
            self.pump()?;
            for &key in keys {
                let Some(place) = self.members[0].places.get_mut(&(key.1, key.2)) else { continue };
                place.held.iter_mut().for_each(|held| held.state = State::Done);
                self.commit_pulled(0, key);
            }
        }
        Ok(())
    }
}
