//! What the model knows of transactions: how far each has come, and what may therefore not happen.

use crate::halves::Polled;
use crate::judge::{Judge, MessageNumber, Sent, Verdict};
use martlet_model::{UnixMillis, limits};
use martlet_shard::{EndError, HalfPlace, TransactionCheck};

/// The longest after an end, or after the sending, that it is for certain still known.
const KNOWN_MILLIS: i64 = limits::RETENTION_MILLIS - 2 * 3_600_000;

/// The transaction of a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transaction {
    /// Its half message, once that is acknowledged.
    pub place: Option<HalfPlace>,
    /// When it was sent at the earliest.
    pub began: UnixMillis,
    /// When and in which epoch a rollback and a commit were first asked for.
    asked: [Option<(UnixMillis, u32)>; 2],
    /// Rollbacks and commits that have no answer yet.
    pub(crate) under_way: [u32; 2],
    /// A crash took the answer of one.
    pub(crate) perhaps: [bool; 2],
    /// Committed, or rolled back.
    pub outcome: Option<bool>,
    /// Checks that reached a producer, and when the next one may come.
    checks: u32,
    next_check: Option<(u32, UnixMillis)>,
    /// Its producers ask for it.
    pub polled: Option<Polled>,
}

impl Transaction {
    /// One that begins.
    pub fn new(began: UnixMillis, polled: Option<Polled>) -> Self {
        Self { began, polled, ..Self::default() }
    }

    pub(crate) fn may_have_ended(&self, commit: bool) -> bool {
        self.under_way[usize::from(commit)] > 0 || self.perhaps[usize::from(commit)]
    }

    /// Whether anything may have ended it.
    pub fn may_have_ended_at_all(&self) -> bool {
        self.outcome.is_some() || self.may_have_ended(false) || self.may_have_ended(true)
    }

    /// A crash took the answers that are under way.
    pub fn crashed(&mut self) {
        for (perhaps, under_way) in self.perhaps.iter_mut().zip(&mut self.under_way) {
            *perhaps |= std::mem::take(under_way) > 0;
        }
    }

    /// Whether a commit's answer was lost.
    pub fn perhaps_committed(&self) -> bool {
        self.outcome.is_none() && self.perhaps[1]
    }
}

impl Judge {
    /// An end is asked for.
    pub fn ending(&mut self, number: MessageNumber, commit: bool, now: UnixMillis, epoch: u32) {
        if let Some(transaction) = &mut self.messages[number as usize].transaction {
            transaction.under_way[usize::from(commit)] += 1;
            transaction.asked[usize::from(commit)].get_or_insert((now, epoch));
        }
    }

    /// What an end was answered with; `None`: it was refused as a whole.
    pub fn ended(
        &mut self,
        number: MessageNumber,
        commit: bool,
        answer: Option<Result<(), EndError>>,
        now: UnixMillis,
    ) -> Verdict {
        let delivered = self.was_seen(number);
        let message = &mut self.messages[number as usize];
        let Some(transaction) = &mut message.transaction else {
            return Err(format!("the transaction of {number} has an answer, and is none"));
        };
        let others = transaction.may_have_ended(!commit);
        let under_way = &mut transaction.under_way[usize::from(commit)];
        *under_way = under_way.saturating_sub(1);
        let ended = match answer {
            None => return Ok(()),
            Some(Ok(())) => commit,
            Some(Err(EndError::Ended { committed })) if committed == commit => {
                return Err(format!("the end of {number} as {commit} is refused as {committed}: {transaction:?}"));
            }
            Some(Err(EndError::Ended { committed })) if transaction.outcome.is_none() && !others => {
                return Err(format!("message {number} is said to be ended as {committed}: {transaction:?}"));
            }
            Some(Err(EndError::Ended { committed })) => committed,
            Some(Err(EndError::Unknown)) => {
                // It is not known when it ended, but not before that was asked for, and it was not dropped before it was old.
                let asked = transaction.outcome.and_then(|known| transaction.asked[usize::from(known)]);
                let since = asked.map_or(transaction.began, |(at, _)| at);
                return match now.since(since) > KNOWN_MILLIS {
                    true => Ok(()),
                    false => Err(format!("the transaction of {number} is lost: {transaction:?} at {now:?}")),
                };
            }
            Some(Err(EndError::Lapsed)) => return Err(format!("message {number} is not polled: {transaction:?}")),
            Some(Err(EndError::Lost)) => return Err(format!("message {number} is lost: {transaction:?}")),
        };
        if let Some(known) = transaction.outcome.filter(|known| *known != ended) {
            return Err(format!("message {number} ended as {known} and now as {ended}: {transaction:?}"));
        }
        if !ended && delivered {
            return Err(format!("message {number} was delivered and is said to be rolled back: {transaction:?}"));
        }
        if transaction.outcome.is_none() {
            transaction.outcome = Some(ended);
            let (at, epoch) = transaction.asked[1].unwrap_or((transaction.began, 0));
            message.sent = if ended { Sent::Yes { at, epoch } } else { Sent::No };
        }
        Ok(())
    }

    /// A check leaves. Called before the answers that left with it are heard.
    pub fn checked(
        &mut self,
        number: MessageNumber,
        check: &TransactionCheck,
        epoch: u32,
        now: UnixMillis,
        checks_max: u32,
    ) -> Verdict {
        let Some(transaction) = &mut self.messages[number as usize].transaction else {
            return Err(format!("message {number} is no half message and is asked about: {check:?}"));
        };
        if transaction.outcome.is_some() {
            return Err(format!("a transaction that ended is asked about: {check:?}, {transaction:?}"));
        }
        if check.polled != transaction.polled.is_some() {
            return Err(format!("{check:?} is for others: {transaction:?}"));
        }
        let immunity = transaction.polled.map_or(limits::TRANSACTION_IMMUNITY_MILLIS, |polled| polled.immunity_millis);
        if now < transaction.began.plus(immunity) {
            return Err(format!("{check:?} comes before its time, at {now:?}: {transaction:?}"));
        }
        // One that somebody asked for by the last check is due when its time is over, however soon.
        let taken = transaction.polled.is_some_and(|polled| polled.asked == transaction.next_check.map(|(_, due)| due));
        if transaction.next_check.is_some_and(|(of, next)| of == epoch && now < next) && !taken {
            return Err(format!("{check:?} comes too soon after the last, at {now:?}: {transaction:?}"));
        }
        if check.number > checks_max && !check.polled || check.number > transaction.checks + 1 {
            return Err(format!("{check:?} after {} checks: {transaction:?}", transaction.checks));
        }
        transaction.next_check = Some((epoch, check.due));
        transaction.polled.as_mut().map_or(Ok(()), |polled| polled.offered(check, now))
    }

    /// A check reached a producer, or a producer asks for a polled half message, which counts if a crash does not take it. Nobody
    /// knows whose half message it is if a crash took the answer to its sending.
    pub fn check_arrived(&mut self, number: Option<MessageNumber>, place: HalfPlace) {
        match number.and_then(|number| self.messages[number as usize].transaction.as_mut()) {
            Some(transaction) => transaction.checks += 1,
            None => *self.checks_of_unknown.entry(place).or_default() += 1,
        }
    }

    /// It is known now, for its producer sent it again, how often it was asked about.
    pub fn place_known(&mut self, number: MessageNumber, place: HalfPlace) {
        let checks = self.checks_of_unknown.remove(&place).unwrap_or_default();
        if let Some(transaction) = &mut self.messages[number as usize].transaction {
            transaction.checks += checks;
        }
    }
}
