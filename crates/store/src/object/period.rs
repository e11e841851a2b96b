//! Periods: spans of time in which messages are expected to be trimmed. Those of one period lie together and go together.
//!
//! A message that will be kept for long need not be placed as finely as one that goes soon, so the span grows with the
//! time that is left: at most half of it, a fifth of the usual 72 hours. And even when every message has another end there
//! are some thirty periods, not thousands (each is a tree of its own in the database).

use martlet_model::UnixMillis;

const HOUR: i64 = 3_600_000;
/// (time left below which a class is used, length of its periods), in hours.
const CLASSES: [(i64, i64); 5] = [(8, 1), (32, 4), (128, 16), (512, 64), (i64::MAX, 256)];

/// A span of time: the `index`-th of its class since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    /// Which length, see the module.
    pub class: u8,
    /// Counted from 0.
    pub index: u32,
}

impl Period {
    /// The period for what is written at `now` and kept until `until`. It has not ended at `now`.
    pub fn of(now: UnixMillis, until: UnixMillis) -> Self {
        let until = until.0.max(now.0).max(0);
        let left = until.saturating_sub(now.0) / HOUR;
        let class = CLASSES.iter().position(|(below, _)| left < *below).unwrap_or(CLASSES.len() - 1);
        let index = u32::try_from(until / length(class as u8)).unwrap_or(u32::MAX);
        Self { class: class as u8, index }
    }

    /// When everything in it should be trimmed. The last period of a class never ends.
    pub fn end(self) -> UnixMillis {
        match self.index {
            u32::MAX => UnixMillis(i64::MAX),
            index => UnixMillis((i64::from(index) + 1).saturating_mul(length(self.class))),
        }
    }
}

fn length(class: u8) -> i64 {
    let (_, hours) = CLASSES.get(usize::from(class)).unwrap_or(&CLASSES[CLASSES.len() - 1]);
    hours * HOUR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_never_ends_before_what_is_in_it_and_not_long_after() {
        let now = UnixMillis(1_800_000_000_000);
        for hours in [0, 1, 7, 8, 24, 31, 32, 72, 127, 128, 700, 8_760] {
            let until = now.plus(hours * HOUR + 17);
            let end = Period::of(now, until).end();
            assert!(end > until && end > now, "{hours}");
            let longest = (hours / 2).max(1) * HOUR;
            assert!(end.since(until) <= longest, "{hours} hours, {} more", end.since(until) / HOUR);
        }
        assert!(Period::of(now, UnixMillis(0)).end() > now, "what should be gone by now is not put where all is gone");
        assert_eq!(Period::of(UnixMillis(i64::MAX / 2), UnixMillis(0)).end(), UnixMillis(i64::MAX));
    }

    #[test]
    fn delays_of_all_lengths_make_few_periods() {
        let now = UnixMillis(1_800_000_000_000);
        let periods: std::collections::BTreeSet<Period> =
            (0..40 * 24 * 4).map(|quarter| Period::of(now, now.plus(quarter * HOUR / 4))).collect();
        assert!(periods.len() <= 34, "{}", periods.len());
    }
}
