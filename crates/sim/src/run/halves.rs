//! Producers that ask for half messages instead of being asked: they take those that are offered, in time and late, some twice,
//! and end them by what they were given, or long after.

use super::{Pending, ReaderOf, Run};
use crate::ground::Ground;
use crate::halves::Taking;
use crate::judge::{MessageNumber, Sent, Verdict};
use martlet_model::{TopicId, UnixMillis, record};
use martlet_shard::{Command, EndError, HalfPlace, HalfTaken, TransactionCheck};
use martlet_store::Reader;

/// The longest that a half message is its sender's or a taker's.
pub(super) const LEASE_MILLIS_MAX: u64 = 12_000;
/// Most that producers keep in mind.
const KEPT_MAX: usize = 32;

/// Who may end a half message, and until when.
#[derive(Clone, Copy, Debug)]
pub(super) struct HalfHandle {
    pub number: MessageNumber,
    pub topic: TopicId,
    pub place: HalfPlace,
    pub until: UnixMillis,
}

/// What producers know of polled half messages.
#[derive(Debug, Default)]
pub(super) struct Halves {
    offers: Vec<TransactionCheck>,
    handles: Vec<HalfHandle>,
}

impl Halves {
    /// A half message is offered; `beside_older`: what was offered of it before is kept in mind, too.
    pub fn offer(&mut self, check: TransactionCheck, beside_older: bool) {
        self.offers.retain(|other| other.place != check.place || beside_older);
        if self.offers.len() >= KEPT_MAX {
            self.offers.remove(0);
        }
        self.offers.push(check);
    }

    pub fn hold(&mut self, handle: HalfHandle) {
        if self.handles.len() >= KEPT_MAX {
            self.handles.remove(0);
        }
        self.handles.push(handle);
    }
}

impl<G: Ground> Run<G> {
    /// A producer asks for a half message, or ends one.
    pub(super) fn poll_halves(&mut self) {
        match self.random.one_in(2) {
            true => self.take_half(),
            false => self.end_taken(),
        }
    }

    fn take_half(&mut self) {
        let count = self.halves.offers.len() as u64;
        if count == 0 {
            return;
        }
        let which = self.random.below(count) as usize;
        let check = match self.random.one_in(4) {
            true => self.halves.offers[which].clone(),
            false => self.halves.offers.remove(which),
        };
        let lease_millis = 1_000 + self.random.below(LEASE_MILLIS_MAX - 1_000) as i64;
        self.ask_for(check, lease_millis);
    }

    fn ask_for(&mut self, check: TransactionCheck, lease_millis: i64) {
        let number = self.half_at(check.place);
        let sure = number.is_some_and(|number| self.judge.taking(number, &check));
        self.judge.check_arrived(number, check.place);
        let taking = Taking { check: check.clone(), lease_millis, asked: self.now, sure };
        self.ask(Pending::TakeHalf(taking), |token| Command::TakeHalf { check, lease_millis, token });
    }

    /// Asked for although producers are asked about it.
    pub(super) fn take_unpolled(&mut self, check: &TransactionCheck) {
        let taking = Taking { check: check.clone(), lease_millis: 1_000, asked: self.now, sure: false };
        let check = check.clone();
        self.ask(Pending::TakeHalf(taking), |token| Command::TakeHalf { check, lease_millis: 1_000, token });
    }

    /// Somebody has it, who reads what it is.
    pub(super) fn half_taken(&mut self, taking: &Taking, taken: Option<HalfTaken>, reader: &ReaderOf<G>) -> Verdict {
        let check = &taking.check;
        if !self.is_live(check.topic) {
            return Ok(());
        }
        let number = match (self.half_at(check.place), taken) {
            (Some(number), _) => number,
            (None, None) => return Ok(()),
            (None, Some(_)) => {
                let HalfPlace { queue, offset } = check.place;
                let read = G::read(reader.messages(queue, offset..offset.next(), 1, 1))?;
                let message = match read {
                    Ok(mut messages) => messages.pop(),
                    Err(_) if self.reads_fail => return Ok(()),
                    Err(error) => return Err(format!("{check:?}: {error}")),
                };
                let Some(message) = message else { return Err(format!("{check:?} is taken and not there")) };
                let body = record::body(&message.record).map_err(|error| error.to_string())?;
                let number = self.judge.recognise(&body, Some(check.topic))?;
                // Its sender was not told of it.
                if matches!(self.judge.messages[number as usize].sent, Sent::No | Sent::UnderWay { .. }) {
                    self.half_sent(number, check.place, check.began);
                }
                number
            }
        };
        self.judge.taken(number, taking, taken, self.now)?;
        if let Some(HalfTaken { until, .. }) = taken {
            self.report.taken += 1;
            self.halves.hold(HalfHandle { number, topic: check.topic, place: check.place, until });
        }
        Ok(())
    }

    pub(super) fn half_at(&self, place: HalfPlace) -> Option<MessageNumber> {
        let of = |number: usize| self.judge.messages[number].transaction.and_then(|transaction| transaction.place);
        (0..self.judge.messages.len()).rev().find(|&number| of(number) == Some(place)).map(|number| number as u64)
    }

    fn end_taken(&mut self) {
        let count = self.halves.handles.len() as u64;
        if count == 0 {
            return;
        }
        let which = self.random.below(count) as usize;
        let HalfHandle { number, topic, place, until } = match self.random.one_in(3) {
            true => self.halves.handles[which],
            false => self.halves.handles.remove(which),
        };
        if !self.is_live(topic) {
            return;
        }
        let commit = !self.random.one_in(3);
        let stale = self.judge.is_stale(number, until);
        let (now, epoch) = (self.now, self.epoch());
        self.judge.ending(number, commit, now, epoch);
        let pending = Pending::EndTaken { number, commit, until, stale };
        self.ask(pending, |token| Command::EndTaken { topic, place, until, commit, token });
    }

    pub(super) fn taken_ended(
        &mut self,
        number: MessageNumber,
        commit: bool,
        handle: (UnixMillis, bool),
        answer: Result<(), EndError>,
    ) -> Verdict {
        let live = self.is_live(self.judge.messages[number as usize].topic);
        if live && self.judge.ended_by_handle(number, commit, handle, &answer, self.now)? {
            self.report.stale += 1;
            return Ok(());
        }
        self.ended(number, commit, Some(answer))
    }

    /// Everything that nobody ended is offered again once nobody has it.
    pub(super) fn all_are_offered(&mut self) -> Verdict {
        let since = self.now;
        // Past what somebody has, and past the time to the next check.
        self.monotonic += 2 * LEASE_MILLIS_MAX as i64;
        self.pump()?;
        for (number, message) in self.judge.messages.iter().enumerate() {
            let Some(transaction) = message.transaction.filter(|transaction| !transaction.may_have_ended_at_all())
            else {
                continue;
            };
            let Some(polled) = transaction.polled.filter(|_| transaction.place.is_some()) else { continue };
            let live = self.is_live(message.topic);
            let young = self.now.since(transaction.began) < martlet_model::limits::TRANSACTION_POLLED_MILLIS_MAX;
            if live && young && polled.offered.is_none_or(|at| at < since) {
                return Err(format!(
                    "the half message {number} is offered to nobody: {transaction:?} at {:?}",
                    self.now
                ));
            }
        }
        Ok(())
    }
}
