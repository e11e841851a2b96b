//! Times and durations of the wire.

use martlet_model::UnixMillis;
use prost_types::{Duration, Timestamp};

/// Milliseconds of a duration, rounded down; `None` if it is negative, not normalised, or too large to count.
pub(crate) fn millis(duration: &Duration) -> Option<i64> {
    let nanos = u32::try_from(duration.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    if duration.seconds < 0 {
        return None;
    }
    duration.seconds.checked_mul(1000)?.checked_add(i64::from(nanos / 1_000_000))
}

/// A duration for the wire.
pub(crate) fn duration(millis: i64) -> Duration {
    Duration { seconds: millis.div_euclid(1000), nanos: (millis.rem_euclid(1000) * 1_000_000) as i32 }
}

/// Milliseconds since the Unix epoch, rounded down; `None` if it is not normalised or too far away to count.
pub(crate) fn unix_millis(timestamp: &Timestamp) -> Option<i64> {
    let nanos = u32::try_from(timestamp.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    timestamp.seconds.checked_mul(1000)?.checked_add(i64::from(nanos / 1_000_000))
}

/// A timestamp for the wire.
pub(crate) fn timestamp(time: UnixMillis) -> Timestamp {
    Timestamp { seconds: time.0.div_euclid(1000), nanos: (time.0.rem_euclid(1000) * 1_000_000) as i32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_nonsense_is_refused() {
        for time in [0, 1, 999, 1_700_000_000_123, -1, -1500] {
            assert_eq!(unix_millis(&timestamp(UnixMillis(time))), Some(time));
        }
        assert_eq!(millis(&duration(61_001)), Some(61_001));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert_eq!(millis(&Duration { seconds, nanos }), None, "{seconds} s {nanos} ns");
        }
        assert_eq!(unix_millis(&Timestamp { seconds: i64::MIN, nanos: 0 }), None);
    }
}
