//! Transactions: a half message is stored apart and unseen until its transaction is committed, rolled back, or given up.
//!
//! Rules
//! - A half message reaches nobody. A commit stores it in its topic, in one batch with its end: exactly once, whatever
//!   crashes and however often it is asked for.
//! - An end is remembered as long as the topic keeps messages: the same end again is OK, the other one is refused.
//! - A transaction without an end is asked about from its immunity on, at intervals. Only a check that a producer was sent
//!   counts. After the last one the transaction is given up: kept and listed, ended by whoever knows, dropped by retention.
//! - Of a polled half message no producer is asked: one that asks takes it, for a time in which nobody else gets it. Only
//!   who took it last ends it, or its sender before it was due. It is given up when it is as old as these may become.
//! - All that happens to one half message happens in turn: each piece waits until those before it are in the batch.
//!
//! Source: semantics sheet, section 4; RecoverOrphanedTransactionCommand and EndTransaction of rocketmq-apis.

use crate::answer::*;
use crate::command::*;
use crate::halves::{self, HalfFound};
use crate::keys;
use crate::load::Load;
use crate::ordered::message_group_of;
use crate::resident::Purpose;
use crate::shard::{PAUSED_MILLIS, Shard, Work};
use crate::timers::Timer;
use bytes::Bytes;
use martlet_model::record::{self, Field};
use martlet_model::{QueueId, TopicId, UnixMillis, limits};
use martlet_store::Op;

/// Something that is to happen to a half message.
#[derive(Debug)]
pub(crate) enum HalfJob<T> {
    /// Its timer is due.
    Due(TimerAt),
    /// A producer was sent the check that was followed by this time.
    Checked(UnixMillis),
    /// A producer takes it after the check of this number that was followed by this time.
    Take { due: UnixMillis, number: u32, lease_millis: i64, token: T },
    /// Its transaction ends; `until`: unless it is due only after that.
    End { topic: TopicId, until: Option<UnixMillis>, commit: bool, token: T },
}

pub(crate) fn delivery_timestamp(record: &[u8]) -> Option<UnixMillis> {
    record::find(record, |field| match field {
        Field::DeliveryTimestamp(millis) => Some(UnixMillis(millis)),
        _ => None,
    })
}

fn timer_of(place: HalfPlace, due: UnixMillis) -> TimerAt {
    TimerAt { due, queue: place.queue, offset: place.offset }
}

impl<T> Shard<T> {
    /// Stores a half message.
    pub(crate) fn send_half(
        &mut self,
        topic: TopicId,
        record: Bytes,
        immunity_millis: Option<i64>,
        polled: bool,
        deadline: Option<UnixMillis>,
        token: T,
    ) {
        if let Some(refused) = self.refuses_send(topic, deadline) {
            return self.reply(token, Output::Refused(refused));
        }
        let message_id = crate::delay::message_id(&record).unwrap_or_default().to_owned();
        if let Some((place, began)) = self.known_half(topic, &message_id) {
            self.counters.deduplicated += 1;
            return self.reply(token, Output::Half(place, began));
        }
        let began = self.now;
        let place = self.take_half_place(began);
        self.note_half(topic, &message_id, place);
        let immunity_millis = immunity_millis.unwrap_or(self.options.transaction_immunity_millis).max(0);
        let keep_until = began.plus(self.retention_of(topic));
        let due = began.plus(immunity_millis).min(keep_until);
        let half = Half { topic, began, due, immunity_millis, checks: 0, given_up: false, polled, message_id };
        // Found by what it is called only once it is in its topic.
        let HalfPlace { queue, offset } = place;
        self.ops.push(Op::Append { queue, offset, record, terms: Vec::new(), keep_until });
        self.put_half(place, &half);
        self.add_timer(timer_of(place, due), Timer::Check(topic));
        self.count_waiting(topic, |waiting| waiting.halves += 1);
        self.counters.halves_in += 1;
        self.reply(token, Output::Half(place, began));
    }

    fn take_half_place(&mut self, time: UnixMillis) -> HalfPlace {
        if let Some(place) = self.halves.take_place(time) {
            return place;
        }
        let queue = QueueId(self.image.next_queue);
        self.image.next_queue += 1;
        self.put_image();
        self.halves.make(time, queue);
        self.halves.take_place(time).unwrap_or(HalfPlace { queue, offset: martlet_model::QueueOffset(0) })
    }

    fn put_half(&mut self, place: HalfPlace, half: &Half) {
        let keep_until = Some(half.began.plus(self.retention_of(half.topic)));
        self.ops.push(Op::Put { key: keys::half(place), image: halves::encode(half), keep_until });
    }

    /// Something is to happen to a half message, once it is known how it stands.
    pub(crate) fn half_job(&mut self, place: HalfPlace, job: HalfJob<T>) {
        let jobs = self.half_jobs.entry(place).or_default();
        jobs.push(job);
        if jobs.len() == 1 {
            self.load_half(place);
        }
    }

    fn load_half(&mut self, place: HalfPlace) {
        let with_message = self.wants_half_message(place);
        self.want_after_batch(Load::Half { place, with_message }, Purpose::Half(place));
    }

    fn wants_half_message(&self, place: HalfPlace) -> bool {
        let jobs = self.half_jobs.get(&place);
        jobs.is_some_and(|jobs| jobs.iter().any(|job| matches!(job, HalfJob::End { commit: true, .. })))
    }

    /// It cannot be known now how a half message stands.
    pub(crate) fn half_unknown(&mut self, place: HalfPlace, reason: &str) {
        for job in self.half_jobs.remove(&place).unwrap_or_default() {
            match job {
                HalfJob::Due(at) => self.timers_again([at]),
                // Not counted: there is one check more at the end.
                HalfJob::Checked(_) => {}
                HalfJob::Take { token, .. } | HalfJob::End { token, .. } => {
                    self.reply(token, Output::Refused(Refused::ReadFailed(reason.to_owned())));
                }
            }
        }
    }

    /// It is known how a half message stands. `None`: a newer broker wrote it.
    pub(crate) fn half_loaded(&mut self, place: HalfPlace, found: Option<HalfFound>) {
        match found {
            Some(found) => self.handle(Work::Half { place, found: Box::new(found) }),
            None => {
                // Left alone until the next opening, which may be a newer broker's.
                let jobs = self.half_jobs.get_mut(&place).map_or(&mut [][..], |jobs| &mut jobs[..]);
                for job in jobs {
                    if let HalfJob::Due(at) = job {
                        self.timers.firing.remove(at);
                    }
                }
                self.half_jobs.entry(place).or_default().retain(|job| !matches!(job, HalfJob::Due(_)));
                self.half_unknown(place, "the transaction was written by a newer broker");
            }
        }
    }

    /// The queues that a commit may append to.
    pub(crate) fn queues_of_commit(&self, found: &HalfFound) -> Vec<QueueId> {
        let Some(half) = &found.half else { return Vec::new() };
        let group = found.message.iter().flatten().find_map(|message| message_group_of(&message.record));
        let of_group = self.topics.get(&half.topic).and_then(|topic| topic.queue_for(group?));
        self.queues_in_turn(half.topic).iter().copied().chain(of_group).collect()
    }

    /// Does what is to be done with a half message; the queues of its topic are resident.
    pub(crate) fn work_on_half(&mut self, place: HalfPlace, mut found: HalfFound) {
        // Asked for while it was being read.
        if found.half.is_some() && found.message.is_none() && self.wants_half_message(place) {
            return self.load_half(place);
        }
        for job in self.half_jobs.remove(&place).unwrap_or_default() {
            match job {
                HalfJob::Due(at) => self.half_due(place, at, &mut found),
                HalfJob::Checked(due) => {
                    if let Some(half) = found.half.as_mut().filter(|half| half.due == due && !half.given_up) {
                        half.checks += 1;
                        self.counters.transaction_checks += 1;
                        let half = half.clone();
                        self.put_half(place, &half);
                    }
                }
                HalfJob::Take { due, number, lease_millis, token } => {
                    let taken = self.take_half(place, (due, number), lease_millis, &mut found);
                    self.reply(token, Output::HalfTaken(taken));
                }
                HalfJob::End { topic, until, commit, token } => {
                    let output = self.end_half(place, topic, until, commit, &mut found);
                    self.reply(token, output);
                }
            }
        }
    }

    /// A producer takes a polled half message, whose next check is due at this time unless that was made void. The number of the
    /// check tells it from a taking that happens to end then.
    fn take_half(
        &mut self,
        place: HalfPlace,
        (due, number): (UnixMillis, u32),
        lease_millis: i64,
        found: &mut HalfFound,
    ) -> Option<HalfTaken> {
        let is_offered =
            |half: &&mut Half| half.polled && !half.given_up && half.due == due && half.checks + 1 == number;
        let half = found.half.as_mut().filter(is_offered)?;
        let expires = half.began.plus(self.retention_of(half.topic));
        self.remove_timer(timer_of(place, half.due));
        half.due = expires.min(self.now.plus(lease_millis.max(0)));
        half.checks += 1;
        self.counters.transaction_checks += 1;
        let half = half.clone();
        self.add_timer(timer_of(place, half.due), Timer::Check(half.topic));
        self.put_half(place, &half);
        Some(HalfTaken { until: half.due, number: half.checks })
    }

    fn half_due(&mut self, place: HalfPlace, at: TimerAt, found: &mut HalfFound) {
        let Some(half) = found.half.as_mut().filter(|half| half.due == at.due) else {
            // Ended while it was being read.
            return self.remove_timer(at);
        };
        let expires = half.began.plus(self.retention_of(half.topic));
        let known = self.topics.contains_key(&half.topic);
        if !known || self.now >= expires && !self.deletion_paused {
            self.counters.halves_dropped += 1;
            let half = half.clone();
            self.remove_half(place, &half);
            found.half = None;
            return;
        }
        let interval = self.options.transaction_check_interval_millis.max(1);
        let asked_enough = match half.polled {
            true => self.now.since(half.began) >= limits::TRANSACTION_POLLED_MILLIS_MAX,
            false => half.checks >= self.options.transaction_checks_max,
        };
        let mut due = expires;
        if self.now >= expires {
            due = self.now.plus(PAUSED_MILLIS);
        } else if !half.given_up && asked_enough {
            half.given_up = true;
            self.counters.given_up += 1;
            let topic = half.topic;
            self.count_waiting(topic, |waiting| waiting.given_up += 1);
        } else if !half.given_up {
            due = expires.min(self.now.plus(interval));
            let (topic, began, number, polled) = (half.topic, half.began, half.checks + 1, half.polled);
            self.checks.push(TransactionCheck { topic, place, began, due, number, polled });
        }
        half.due = due;
        let half = half.clone();
        self.remove_timer(at);
        self.add_timer(timer_of(place, due), Timer::Check(half.topic));
        self.put_half(place, &half);
    }

    fn end_half(
        &mut self,
        place: HalfPlace,
        topic: TopicId,
        until: Option<UnixMillis>,
        commit: bool,
        found: &mut HalfFound,
    ) -> Output {
        let Some(half) = found.half.clone() else {
            return match found.outcome {
                Some(committed) if committed == commit => Output::Ended(Ok(())),
                Some(committed) => Output::Ended(Err(EndError::Ended { committed })),
                None if !self.topics.contains_key(&topic) => Output::Refused(Refused::TopicGone),
                None => Output::Ended(Err(EndError::Unknown)),
            };
        };
        if half.topic != topic {
            return Output::Ended(Err(EndError::Unknown));
        }
        if until.is_some_and(|until| half.due > until) {
            return Output::Ended(Err(EndError::Lapsed));
        }
        if !self.topics.contains_key(&topic) {
            return Output::Refused(Refused::TopicGone);
        }
        if commit {
            if let Some(refused) = self.refuses_send(topic, None) {
                return Output::Refused(refused);
            }
            let Some(message) = found.message.take().flatten() else {
                // Dropped from the log by repair.
                self.counters.halves_dropped += 1;
                self.remove_half(place, &half);
                found.half = None;
                return Output::Ended(Err(EndError::Lost));
            };
            if !self.commit_half(topic, message.record) {
                return Output::Refused(Refused::NotWritable);
            }
            self.counters.committed += 1;
        } else {
            self.counters.rolled_back += 1;
        }
        self.remove_half(place, &half);
        let forget = self.now.plus(self.retention_of(topic).max(1));
        let image = halves::encode_outcome(commit);
        self.ops.push(Op::Put { key: keys::outcome(place), image, keep_until: Some(forget) });
        self.add_timer(timer_of(place, forget), Timer::Forget(topic));
        found.half = None;
        found.outcome = Some(commit);
        Output::Ended(Ok(()))
    }

    /// Stores a committed message in its topic, or among those that wait for their delivery timestamp.
    fn commit_half(&mut self, topic: TopicId, record: Bytes) -> bool {
        if let Some(due) = delivery_timestamp(&record).filter(|&due| due > self.now) {
            self.delay_until(topic, due, record);
            return true;
        }
        let terms = crate::delay::terms_of(topic, &record);
        let message_group = message_group_of(&record);
        let message = Incoming { record, terms, message_group, lite_topic: None };
        let own_queue = self
            .topics
            .get(&topic)
            .and_then(|topic| topic.chosen(&message.record).or_else(|| topic.queue_for(message_group?)));
        match own_queue {
            Some(queue) => self.append(queue, message).is_some(),
            None => self.append_in_turn(topic, message).is_some(),
        }
    }

    fn remove_half(&mut self, place: HalfPlace, half: &Half) {
        self.ops.push(Op::Remove { key: keys::half(place) });
        self.remove_timer(timer_of(place, half.due));
        self.halves.ended(half.began);
        let given_up = u64::from(half.given_up);
        self.count_waiting(half.topic, |waiting| {
            waiting.halves = waiting.halves.saturating_sub(1);
            waiting.given_up = waiting.given_up.saturating_sub(given_up);
        });
    }

    /// The outcome of a transaction is remembered no longer.
    pub(crate) fn forget_outcome(&mut self, at: TimerAt) {
        self.ops.push(Op::Remove { key: keys::outcome(HalfPlace { queue: at.queue, offset: at.offset }) });
        self.remove_timer(at);
    }
}
