//! Polled half messages: those whose producers ask for them instead of being asked how their transactions ended.
//!
//! The shard says that one is due, as it does for checks that producers are sent; here that waits until somebody asks
//! ([`Broker::poll_halves`]), who then takes the half message from the shard for a time ([`HALF_LEASE_MILLIS`]). What nobody asks
//! for in time is said again after the interval of checks, so nothing is lost with this memory.

use crate::find::found_message;
use crate::messages::HOUSEKEEPING_EVERY;
use crate::{Broker, FoundMessage, Refusal};
use martlet_model::{TopicId, UnixMillis};
use martlet_shard::{Command, EndError, HalfPlace, HalfTaken, Output, TransactionCheck};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How long a producer that asked for a half message has to end its transaction, in milliseconds. Source: http.md section 5.
pub const HALF_LEASE_MILLIS: i64 = 10_000;
/// Checks that wait to be asked for; of more, those that are due are said again later.
const WAITING_MAX: usize = 4_096;
/// Those that ask look again after so long, should they have been woken for nothing.
const LOOK_AGAIN: Duration = HOUSEKEEPING_EVERY;

/// A half message that a producer has asked for.
#[derive(Clone, Debug)]
pub struct PolledHalf {
    /// Its topic and record; queue and offset are those of the place where it waits.
    pub message: FoundMessage,
    /// Ends its transaction by [`Broker::end_polled`], until then.
    pub handle: String,
    /// When it was sent.
    pub began: UnixMillis,
    /// Until then nobody else gets it.
    pub until: UnixMillis,
    /// How often it was asked for, this time included.
    pub number: u32,
}

#[derive(Default)]
struct OfTopic {
    checks: BTreeMap<HalfPlace, TransactionCheck>,
    bell: Arc<Notify>,
}

/// Checks that wait to be asked for, by topic.
#[derive(Default)]
pub(crate) struct PolledHalves(Mutex<BTreeMap<TopicId, OfTopic>>);

impl PolledHalves {
    fn topics(&self) -> MutexGuard<'_, BTreeMap<TopicId, OfTopic>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shard says that a half message is due. Replaces what it said of it before.
    pub fn offer(&self, check: TransactionCheck, now: UnixMillis) {
        let mut topics = self.topics();
        if topics.values().map(|topic| topic.checks.len()).sum::<usize>() >= WAITING_MAX {
            topics.values_mut().for_each(|topic| topic.checks.retain(|_, check| check.due > now));
            topics.retain(|_, topic| !topic.checks.is_empty() || Arc::strong_count(&topic.bell) > 1);
            if topics.values().map(|topic| topic.checks.len()).sum::<usize>() >= WAITING_MAX {
                return;
            }
        }
        let topic = topics.entry(check.topic).or_default();
        topic.checks.insert(check.place, check);
        topic.bell.notify_waiters();
    }

    /// Rings when there may be something of this topic.
    fn bell(&self, topic: TopicId) -> Arc<Notify> {
        self.topics().entry(topic).or_default().bell.clone()
    }

    /// At most so many, which nobody else gets then.
    fn take(&self, topic: TopicId, most: usize, now: UnixMillis) -> Vec<TransactionCheck> {
        let mut topics = self.topics();
        let Some(of_topic) = topics.get_mut(&topic) else { return Vec::new() };
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some((_, check)) = of_topic.checks.pop_first()
        {
            // What is due again meanwhile is said again.
            taken.extend(Some(check).filter(|check| check.due > now));
        }
        taken
    }

    /// Nobody asks any more, as far as the caller knows.
    fn forget_if_unused(&self, topic: TopicId) {
        let mut topics = self.topics();
        let unused = |of_topic: &OfTopic| of_topic.checks.is_empty() && Arc::strong_count(&of_topic.bell) == 1;
        if topics.get(&topic).is_some_and(unused) {
            topics.remove(&topic);
        }
    }
}

/// Forgets a topic's bell when a poll ends, however it ends.
struct Asking<'a> {
    halves: &'a PolledHalves,
    topic: TopicId,
    bell: Option<Arc<Notify>>,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.bell = None;
        self.halves.forget_if_unused(self.topic);
    }
}

impl Broker {
    /// Takes polled half messages of a topic that are due, at most so many, for [`HALF_LEASE_MILLIS`]; waits up to `wait` for one.
    pub async fn poll_halves(&self, topic: &str, most: usize, wait: Duration) -> Result<Vec<PolledHalf>, Refusal> {
        let topic = self.known_topic(topic).ok_or_else(|| Refusal::TopicNotFound { topic: topic.to_owned() })?;
        let halves = &self.inner.shard.polled;
        let asking = Asking { halves, topic: topic.id, bell: Some(halves.bell(topic.id)) };
        let end = tokio::time::Instant::now() + wait;
        loop {
            let Some(bell) = &asking.bell else { return Ok(Vec::new()) };
            let mut rung = std::pin::pin!(bell.notified());
            // From here on a ring is not missed.
            rung.as_mut().enable();
            let checks = halves.take(topic.id, most, self.inner.shard.now());
            let taken = self.take_halves(&topic.name.as_str().into(), checks).await?;
            if !taken.is_empty() {
                return Ok(taken);
            }
            tokio::select! {
                () = rung => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = tokio::time::sleep_until(end) => return Ok(Vec::new()),
            }
        }
    }

    async fn take_halves(&self, topic: &Arc<str>, checks: Vec<TransactionCheck>) -> Result<Vec<PolledHalf>, Refusal> {
        let mut asked = Vec::with_capacity(checks.len());
        for check in checks {
            let take = |token| Command::TakeHalf { check: check.clone(), lease_millis: HALF_LEASE_MILLIS, token };
            asked.push((self.begin_ask(take)?, check));
        }
        let mut taken = Vec::with_capacity(asked.len());
        for (answer, check) in asked {
            let HalfTaken { until, number } = match answer.await.map_err(|_| self.stopped())? {
                Output::HalfTaken(Some(taken)) => taken,
                Output::HalfTaken(None) => continue,
                other => return Err(self.unexpected(other, topic, "")),
            };
            let Some(stored) = self.read_one(check.place.queue, check.place.offset).await? else { continue };
            let handle = self.transaction_id(check.topic, check.place, until);
            let message = found_message(topic, 0, stored);
            taken.push(PolledHalf { message, handle, began: check.began, until, number });
        }
        Ok(taken)
    }

    /// Ends the transaction of a polled half message, by the handle that its sender or whoever asked for it was given; returns
    /// once that is durable. Refused when it has been due again since.
    pub async fn end_polled(&self, topic: &str, handle: &str, commit: bool) -> Result<(), Refusal> {
        let topic = self.known_topic(topic).ok_or_else(|| Refusal::TopicNotFound { topic: topic.to_owned() })?;
        let (place, until) = self.place_and_time_of(&topic, handle)?;
        let end = |token| Command::EndTaken { topic: topic.id, place, until, commit, token };
        match self.ask(end).await? {
            Output::Ended(Ok(())) => Ok(()),
            Output::Ended(Err(error @ EndError::Ended { .. })) => {
                Err(Refusal::TransactionOver { reason: error.to_string() })
            }
            Output::Ended(Err(error)) => Err(Refusal::TransactionGone { reason: error.to_string() }),
            other => Err(self.unexpected(other, &topic.name, "")),
        }
    }
}
