//! Producers of transactional messages: half messages, ends in time and late, doubled, contradicting; answers to checks.

use super::halves::HalfHandle;
use super::{Pending, Run};
use crate::ground::Ground;
use crate::judge::{Message, MessageNumber, Sent, Verdict};
use martlet_model::{TopicId, UnixMillis};
use martlet_shard::{Command, EndError, HalfPlace, TransactionCheck, halves};

/// Checks of a transaction before it is given up.
pub(super) const CHECKS_MAX: u32 = 3;
/// Time between two checks.
pub const INTERVAL_MILLIS: i64 = 5_000;

impl<G: Ground> Run<G> {
    /// Ends one of the last transactions, whatever became of it so far.
    pub(super) fn end_some(&mut self) {
        // Whoever administers ends those that producers ask for, too.
        let any = self.random.one_in(8);
        let known = |(number, message): (usize, &Message)| {
            let transaction = message.transaction.filter(|transaction| transaction.polled.is_none() || any)?;
            let place = transaction.place?;
            self.is_live(message.topic).then_some((number as u64, place))
        };
        let recent: Vec<_> = self.judge.messages.iter().enumerate().rev().filter_map(known).take(12).collect();
        if recent.is_empty() {
            return;
        }
        let (number, _) = recent[self.random.below(recent.len() as u64) as usize];
        let commit = !self.random.one_in(3);
        self.end(number, commit);
        if self.random.one_in(8) {
            let commit = commit != self.random.one_in(3);
            self.end(number, commit);
        }
    }

    fn end(&mut self, number: MessageNumber, commit: bool) {
        let message = &self.judge.messages[number as usize];
        let (topic, Some(place)) = (message.topic, message.transaction.and_then(|transaction| transaction.place))
        else {
            return;
        };
        let (now, epoch) = (self.now, self.epoch());
        self.judge.ending(number, commit, now, epoch);
        self.ask(Pending::End { number, commit }, |token| Command::EndTransaction { topic, place, commit, token });
    }

    /// A half message is stored.
    pub(super) fn half_sent(&mut self, number: MessageNumber, place: HalfPlace, began: UnixMillis) {
        self.report.halves += 1;
        let message = &mut self.judge.messages[number as usize];
        message.sent = Sent::Half;
        let topic = message.topic;
        if let Some(transaction) = &mut message.transaction {
            transaction.place = Some(place);
            // Earlier than it was first sent, where a crash took that and what the shard knew of the time.
            transaction.began = transaction.began.min(began);
            if let Some(polled) = &mut transaction.polled {
                let until = began.plus(polled.immunity_millis);
                polled.until = polled.until.max(until);
                self.halves.hold(HalfHandle { number, topic, place, until });
            }
        }
        self.judge.place_known(number, place);
    }

    pub(super) fn ended(
        &mut self,
        number: MessageNumber,
        commit: bool,
        answer: Option<Result<(), EndError>>,
    ) -> Verdict {
        match answer {
            Some(Ok(())) => self.report.ended += 1,
            Some(Err(_)) => self.report.ends_refused += 1,
            None => {}
        }
        // Whoever deletes a topic gives up its transactions.
        if !self.is_live(self.judge.messages[number as usize].topic) {
            return Ok(());
        }
        self.judge.ended(number, commit, answer, self.now)
    }

    /// Checks leave for producers: some are there, and know, or do not.
    pub(super) fn check_all(&mut self, checks: Vec<TransactionCheck>, epoch: u32) -> Verdict {
        for check in checks {
            self.report.checks += 1;
            let known = self.half_at(check.place);
            if !self.is_live(check.topic) {
                continue;
            }
            if let Some(number) = known {
                self.judge.checked(number, &check, epoch, self.now, CHECKS_MAX)?;
            }
            if check.polled {
                let beside_older = self.random.one_in(4);
                self.halves.offer(check, beside_older);
                continue;
            }
            if self.random.one_in(16) {
                self.take_unpolled(&check);
            }
            // No producer is there.
            if self.random.one_in(3) {
                continue;
            }
            self.judge.check_arrived(known, check.place);
            self.inbox.push(Command::Checked { check });
            if let Some(number) = known
                && self.random.one_in(2)
            {
                let commit = self.random.one_in(2);
                self.end(number, commit);
            }
        }
        Ok(())
    }

    /// An operator ends what is left: those whose sender was never told of them, too.
    pub(super) fn end_all(&mut self) -> Verdict {
        let Some(reader) = self.reader() else { return Ok(()) };
        let left = G::read(halves(&reader, None, 100_000))?;
        let live: Vec<TopicId> = self.topics.iter().map(|topic| topic.facts.id).collect();
        for (place, half) in left.map_err(|error| error.to_string())? {
            let number: MessageNumber =
                half.message_id.parse().map_err(|_| format!("a half message nobody sent: {half:?}"))?;
            let message = &mut self.judge.messages[number as usize];
            if !live.contains(&half.topic) {
                continue;
            }
            let Some(transaction) = &mut message.transaction else {
                return Err(format!("message {number} is no half message, and there is {half:?}"));
            };
            if transaction.outcome.is_some() {
                return Err(format!("message {number} has ended, and there is {half:?}: {transaction:?}"));
            }
            if *transaction.place.get_or_insert(place) != place {
                return Err(format!("the half message {number} is at {place:?} too: {transaction:?}"));
            }
            let commit = self.random.one_in(2);
            self.end(number, commit);
        }
        Ok(())
    }
}
