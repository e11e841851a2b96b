//! Timers in the order of their times: the next ones in memory, the others only in the store.
//!
//! Rules
//! - Everything below the *horizon* is in memory, or was taken to be carried out; everything else is only in the store.
//! - What is made or removed while the store is scanned is remembered until the scan is back: it may or may not have seen it.

use crate::command::TimerAt;
use crate::keys;
use crate::timers::{AGAIN_MILLIS, Timer};
use martlet_model::UnixMillis;
use martlet_store::{ReadError, Reader};
use std::collections::{BTreeMap, BTreeSet};

/// Timers that one scan brings.
const SCAN_TIMERS: usize = 8_192;
/// The store is asked for more when fewer are left.
const NEAR_MIN: usize = 4_096;
/// Beyond it the farthest are left to the store again.
const NEAR_MAX: usize = 32_768;
/// Timers made beyond the horizon during one scan that are remembered; the horizon stays below the others.
const FRESH_MAX: usize = 4_096;

/// Which timers. Those of lite topics have an order of their own: however many are due at once, no message waits behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimersOf {
    /// Delayed messages and transactions.
    Messages,
    /// Lite topics that may have ended.
    LiteTopics,
}

/// A scan of the store for timers.
struct Scan {
    from: TimerAt,
    /// Timers made from there on since it was decided on, and those removed: the scan may or may not have seen them.
    fresh: BTreeMap<TimerAt, Timer>,
    gone: BTreeSet<TimerAt>,
    /// The smallest that did not fit `fresh`.
    cap: Option<TimerAt>,
}

/// The timers of one kind.
#[derive(Default)]
pub(crate) struct Schedule {
    near: BTreeMap<TimerAt, Timer>,
    /// From here on timers are only in the store; `None`: all are in memory.
    horizon: Option<TimerAt>,
    scan: Option<Scan>,
    scan_not_before: UnixMillis,
}

/// Reads the next timers.
pub(crate) async fn scan<R: Reader>(
    reader: &R,
    of: TimersOf,
    from: Option<TimerAt>,
) -> Result<(Vec<(TimerAt, Timer)>, bool), ReadError> {
    let found = reader.scan(keys::timers_from(of, from), SCAN_TIMERS).await?;
    let more = found.len() == SCAN_TIMERS;
    // What a newer broker wrote is left alone.
    let timers =
        found.iter().filter_map(|(key, state)| Some((keys::timer_of(key)?, Timer::decode(state.image.as_ref()?)?)));
    Ok((timers.collect(), more))
}

fn after(at: TimerAt) -> TimerAt {
    TimerAt { offset: at.offset.next(), ..at }
}

impl Schedule {
    /// Reads the next timers.
    pub async fn open<R: Reader>(reader: &R, of: TimersOf) -> Result<Self, ReadError> {
        let (found, more) = scan(reader, of, None).await?;
        let horizon = found.last().filter(|_| more).map(|&(last, _)| after(last));
        Ok(Self { near: found.into_iter().collect(), horizon, ..Self::default() })
    }

    fn is_near(&self, at: TimerAt) -> bool {
        self.horizon.is_none_or(|horizon| at < horizon)
    }

    /// Whether a timer is in memory. `None`: only the store knows whether there is one.
    pub fn knows(&self, at: TimerAt) -> Option<bool> {
        self.is_near(at).then(|| self.near.contains_key(&at))
    }

    pub fn len(&self) -> usize {
        self.near.len()
    }

    /// The first there may be: one in memory, or where those that are only in the store begin.
    pub fn first(&self) -> Option<TimerAt> {
        self.near.first_key_value().map(|(&at, _)| at).or(self.horizon)
    }

    /// Time of the first one in memory.
    pub fn next_due(&self) -> Option<UnixMillis> {
        self.near.first_key_value().map(|(at, _)| at.due)
    }

    /// Takes the first one out if it is due.
    pub fn take_due(&mut self, now: UnixMillis) -> Option<(TimerAt, Timer)> {
        let entry = self.near.first_entry().filter(|entry| entry.key().due <= now)?;
        Some(entry.remove_entry())
    }

    /// What was taken out is still due.
    pub fn put_back(&mut self, at: TimerAt, timer: Timer) {
        self.near.insert(at, timer);
    }

    pub fn add(&mut self, at: TimerAt, timer: Timer) {
        if self.is_near(at) {
            self.near.insert(at, timer);
            if self.near.len() > NEAR_MAX
                && let Some((last, _)) = self.near.pop_last()
            {
                self.horizon = Some(last);
            }
        } else if let Some(scan) = self.scan.as_mut().filter(|scan| at >= scan.from) {
            scan.fresh.insert(at, timer);
            if scan.fresh.len() > FRESH_MAX
                && let Some((last, _)) = scan.fresh.pop_last()
            {
                scan.cap = Some(scan.cap.map_or(last, |cap| cap.min(last)));
            }
        }
    }

    pub fn remove(&mut self, at: TimerAt) {
        self.near.remove(&at);
        if let Some(scan) = &mut self.scan {
            scan.fresh.remove(&at);
            scan.gone.insert(at);
        }
    }

    fn wants_scan(&self) -> Option<TimerAt> {
        self.horizon.filter(|_| self.scan.is_none() && self.near.len() < NEAR_MIN)
    }

    /// Begins the scan that is to be asked for, if one is.
    pub fn begin_scan(&mut self, now: UnixMillis) -> Option<TimerAt> {
        let from = self.wants_scan().filter(|_| now >= self.scan_not_before)?;
        self.scan = Some(Scan { from, fresh: BTreeMap::new(), gone: BTreeSet::new(), cap: None });
        Some(from)
    }

    pub fn scanned(&mut self, found: Vec<(TimerAt, Timer)>, more: bool) {
        let Some(scan) = self.scan.take() else { return };
        // The horizon came nearer meanwhile: there would be a gap. The next scan begins where it is now.
        if self.horizon != Some(scan.from) {
            return;
        }
        let until = found.last().filter(|_| more).map(|&(last, _)| after(last));
        self.horizon = match (until, scan.cap) {
            (Some(until), Some(cap)) => Some(until.min(cap)),
            (until, cap) => until.or(cap),
        };
        let found = found.into_iter().filter(|(at, _)| !scan.gone.contains(at)).chain(scan.fresh);
        let horizon = self.horizon;
        self.near.extend(found.filter(|(at, _)| horizon.is_none_or(|horizon| *at < horizon)));
    }

    /// The store could not be read: again after a while.
    pub fn not_scanned(&mut self, now: UnixMillis) {
        self.scan = None;
        self.scan_not_before = now.plus(AGAIN_MILLIS);
    }

    /// When to scan next, if the store is to be asked for more.
    pub fn next_scan(&self) -> Option<UnixMillis> {
        self.wants_scan().map(|_| self.scan_not_before)
    }
}
