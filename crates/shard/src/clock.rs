//! A shard's time: starts at the later of the wall clock and the last durable time, runs on a clock that does not jump,
//! and drifts back to the wall at a bounded rate. It never goes back.

use martlet_model::UnixMillis;

/// How much of the elapsed time may be used to approach the wall clock: 1 part in 20.
const DRIFT: i64 = 20;
/// A difference to the wall clock beyond this is a jump.
const JUMP_MILLIS: i64 = 60_000;
/// Deletion by age goes on this long after the clocks agree again.
const CALM_MILLIS: i64 = 600_000;
// A start an hour after the last durable time may be a long stop or a wrong clock: deletion by age waits as well.
/// 2020-01-01: a wall clock before it was never set.
const PLAUSIBLE: UnixMillis = UnixMillis(1_577_836_800_000);

/// Something worth telling a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockNotice {
    /// The wall clock differs by so many milliseconds from the shard's time; deletion by age pauses.
    Jumped {
        /// Wall clock minus shard time.
        by_millis: i64,
    },
    /// They agree again; deletion by age goes on.
    Settled,
}

/// The clock of one shard. Fed with readings; reads nothing itself.
#[derive(Clone, Debug)]
pub struct ShardClock {
    now: UnixMillis,
    monotonic: i64,
    agreed_since: Option<UnixMillis>,
    pausing: bool,
    notice: Option<ClockNotice>,
}

impl ShardClock {
    /// Starts at the later of `wall` and `last_durable`; `monotonic` is the steady clock's reading in milliseconds.
    pub fn start(wall: UnixMillis, last_durable: UnixMillis, monotonic: i64) -> Self {
        let now = wall.max(last_durable);
        let implausible = wall < PLAUSIBLE
            || now.since(wall) > JUMP_MILLIS
            || (last_durable >= PLAUSIBLE && wall.since(last_durable) > 3_600_000);
        Self {
            now,
            monotonic,
            agreed_since: (!implausible).then_some(UnixMillis(i64::MIN)),
            pausing: implausible,
            notice: implausible.then_some(ClockNotice::Jumped { by_millis: wall.since(now) }),
        }
    }

    /// The shard's time at these readings.
    pub fn read(&mut self, wall: UnixMillis, monotonic: i64) -> UnixMillis {
        let elapsed = (monotonic - self.monotonic).max(0);
        self.monotonic = self.monotonic.max(monotonic);
        let steady = self.now.plus(elapsed);
        let behind = wall.since(steady);
        let correction = behind.clamp(-elapsed / DRIFT, elapsed / DRIFT);
        self.now = steady.plus(correction);
        if behind.abs() > JUMP_MILLIS {
            self.agreed_since = None;
            if !self.pausing {
                self.pausing = true;
                self.notice = Some(ClockNotice::Jumped { by_millis: behind });
            }
        } else {
            let since = *self.agreed_since.get_or_insert(self.now);
            if self.pausing && self.now.since(since) >= CALM_MILLIS {
                self.pausing = false;
                self.notice = Some(ClockNotice::Settled);
            }
        }
        self.now
    }

    /// Whether deletion by age is to wait.
    pub fn pauses_deletion(&self) -> bool {
        self.pausing
    }

    /// What is to be told, once.
    pub fn take_notice(&mut self) -> Option<ClockNotice> {
        self.notice.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    #[test]
    fn a_wall_clock_that_jumps_is_approached_slowly_and_pauses_deletion() {
        let mut clock = ShardClock::start(START, UnixMillis(0), 0);
        assert!(!clock.pauses_deletion());
        assert_eq!(clock.read(START.plus(1_000), 1_000), START.plus(1_000));
        let hour = 3_600_000;
        assert_eq!(clock.read(START.plus(2_000 + hour), 2_000), START.plus(2_050));
        assert_eq!(clock.take_notice(), Some(ClockNotice::Jumped { by_millis: hour }));
        assert!(clock.pauses_deletion());
        let back = clock.read(START.plus(3_000), 3_000);
        assert_eq!(back, START.plus(3_050 - 50));
        clock.read(START.plus(4_000), 4_000);
        clock.read(START.plus(700_000), 700_000);
        assert_eq!(clock.take_notice(), Some(ClockNotice::Settled));
        assert!(!clock.pauses_deletion());
    }

    #[test]
    fn time_never_goes_back_and_starts_after_what_is_durable() {
        let day = 86_400_000;
        let mut clock = ShardClock::start(START, START.plus(4 * day), 0);
        assert!(clock.pauses_deletion());
        let mut last = UnixMillis(0);
        for second in 0..100 {
            let now = clock.read(START.plus(second * 1_000 - 5 * day), second * 1_000);
            assert!(now >= last && now >= START.plus(4 * day));
            last = now;
        }
    }
}
