//! What the model knows of polled half messages: whose each is, and until when.

use crate::judge::{Judge, MessageNumber, Verdict};
use crate::run::INTERVAL_MILLIS;
use martlet_model::{UnixMillis, limits};
use martlet_shard::{EndError, HalfTaken, TransactionCheck};

/// So old a half message is for certain still kept.
const KEPT_MILLIS: i64 = limits::RETENTION_MILLIS - 2 * 3_600_000;

/// A half message whose producers ask for it instead of being asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Polled {
    /// How long it is its sender's.
    pub immunity_millis: i64,
    /// It is somebody's until then: at first its sender's, later whoever's took it last.
    pub until: UnixMillis,
    /// How often it was taken at least.
    number: u32,
    /// The time in the last check that somebody asked for it by.
    pub asked: Option<UnixMillis>,
    /// When it was offered last, and when that was decided.
    pub offered: Option<UnixMillis>,
    due: UnixMillis,
}

impl Polled {
    /// One that its sender ends for so long.
    pub fn new(immunity_millis: i64) -> Self {
        Self { immunity_millis, ..Self::default() }
    }

    /// It is offered to whoever asks.
    pub fn offered(&mut self, check: &TransactionCheck, now: UnixMillis) -> Verdict {
        self.offered = Some(now);
        if now.since(check.began) > KEPT_MILLIS {
            return Ok(());
        }
        let decided = check.due.plus(-INTERVAL_MILLIS);
        self.due = self.due.max(decided);
        if decided < self.until {
            return Err(format!("{check:?} offers what is somebody's: {self:?}"));
        }
        match decided.since(check.began) < limits::TRANSACTION_POLLED_MILLIS_MAX {
            true => Ok(()),
            false => Err(format!("{check:?} offers what is too old")),
        }
    }
}

/// Somebody asks for a half message, or ends one.
#[derive(Clone, Debug)]
pub struct Taking {
    pub check: TransactionCheck,
    pub lease_millis: i64,
    /// When that was.
    pub asked: UnixMillis,
    /// Nothing keeps it from succeeding but the time.
    pub sure: bool,
}

impl Judge {
    /// Somebody asks for it. Gives back whether nothing is known that keeps it from being given.
    pub fn taking(&mut self, number: MessageNumber, check: &TransactionCheck) -> bool {
        let Some(transaction) = &mut self.messages[number as usize].transaction else { return false };
        let untouched = !transaction.may_have_ended_at_all();
        let offered = transaction.place == Some(check.place);
        let Some(polled) = &mut transaction.polled else { return false };
        let before = polled.asked;
        polled.asked = before.max(Some(check.due));
        untouched && offered && before.is_none_or(|before| before < check.due) && polled.until < check.due
    }

    /// What that was answered with.
    pub fn taken(
        &mut self,
        number: MessageNumber,
        taking: &Taking,
        taken: Option<HalfTaken>,
        now: UnixMillis,
    ) -> Verdict {
        let Taking { check, lease_millis, asked, sure } = taking;
        let Some(transaction) = &mut self.messages[number as usize].transaction else { return Ok(()) };
        let of = format!("{check:?}, {transaction:?} at {now:?}");
        let ended = transaction.outcome.is_some();
        let untouched = !transaction.may_have_ended_at_all();
        match (taken, &mut transaction.polled) {
            (None, _) if *sure && untouched && now < check.due => Err(format!("{number} is given to nobody: {of}")),
            (None, _) => Ok(()),
            (Some(_), None) => Err(format!("{number} is taken and its producers are asked: {of}")),
            (Some(_), Some(_)) if ended => Err(format!("{number} is taken and has ended: {of}")),
            (Some(taken), Some(polled)) => {
                let old = now.since(check.began) > KEPT_MILLIS;
                let decided = taken.until.plus(-lease_millis);
                if decided < polled.until && !old {
                    return Err(format!("{number} is two producers': {taken:?}, {of}"));
                }
                if decided < *asked && !old {
                    return Err(format!(
                        "{number} is not given for the {lease_millis} ms that were asked for: {taken:?}, {of}"
                    ));
                }
                if taken.number <= polled.number || taken.until > now.plus(*lease_millis) {
                    return Err(format!("{number} is taken as {taken:?}: {of}"));
                }
                (polled.until, polled.number) = (polled.until.max(taken.until), taken.number);
                polled.asked = polled.asked.max(Some(check.due));
                Ok(())
            }
        }
    }

    /// Whether a handle that ends a polled half message until then is known to be somebody else's by now.
    pub fn is_stale(&self, number: MessageNumber, until: UnixMillis) -> bool {
        let polled = self.messages[number as usize].transaction.and_then(|transaction| transaction.polled);
        polled.is_some_and(|polled| until < polled.until || until <= polled.due)
    }

    /// What ending it by such a handle was answered with, apart from what goes for any end. Gives back whether it was refused for
    /// the time being over.
    pub fn ended_by_handle(
        &mut self,
        number: MessageNumber,
        commit: bool,
        (until, stale): (UnixMillis, bool),
        answer: &Result<(), EndError>,
        now: UnixMillis,
    ) -> Result<bool, String> {
        let Some(transaction) = &mut self.messages[number as usize].transaction else { return Ok(false) };
        let way = usize::from(commit);
        let others = transaction.under_way[way] > 1 || transaction.perhaps[way];
        match answer {
            Ok(()) if stale && transaction.outcome != Some(commit) && !others => {
                Err(format!("a handle until {until:?} ends {number}, which is others': {transaction:?} at {now:?}"))
            }
            Err(EndError::Lapsed) if now < until || transaction.outcome.is_some() => {
                Err(format!("a handle of {number} is said to be over, until {until:?}: {transaction:?} at {now:?}"))
            }
            Err(EndError::Lapsed) => {
                transaction.under_way[way] = transaction.under_way[way].saturating_sub(1);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_model::{QueueId, QueueOffset, TopicId};
    use martlet_shard::HalfPlace;

    #[test]
    fn what_somebody_has_is_offered_to_nobody_else() {
        let place = HalfPlace { queue: QueueId(1), offset: QueueOffset(0) };
        let check = |at: i64| TransactionCheck {
            topic: TopicId(1),
            place,
            began: UnixMillis(0),
            due: UnixMillis(at + INTERVAL_MILLIS),
            number: 1,
            polled: true,
        };
        let mut polled = Polled { until: UnixMillis(2_000), ..Polled::new(2_000) };
        assert!(polled.offered(&check(1_999), UnixMillis(2_500)).is_err());
        assert!(polled.offered(&check(2_000), UnixMillis(2_500)).is_ok());
        let old = limits::TRANSACTION_POLLED_MILLIS_MAX;
        assert!(polled.offered(&check(old), UnixMillis(old)).is_err());
    }
}
