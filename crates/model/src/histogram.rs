//! Counting observations into buckets, from any thread and without a lock.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Most buckets besides the one above the last bound.
pub const BUCKETS_MAX: usize = 11;

/// What was observed so far, as buckets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramFigures {
    /// (upper bound, observations at or below it and above the bound before).
    pub buckets: Vec<(f64, u64)>,
    /// Observations above the last bound.
    pub above: u64,
    /// Sum of all observations.
    pub sum: f64,
}

impl HistogramFigures {
    /// All observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| count).sum::<u64>() + self.above
    }
}

/// A histogram of whole numbers. Observing costs two relaxed additions and allocates nothing.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    counts: [AtomicU64; BUCKETS_MAX + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one with these upper bounds, ascending; those after the first [`BUCKETS_MAX`] are ignored.
    pub const fn new(bounds: &'static [u64]) -> Self {
        Self { bounds, counts: [const { AtomicU64::new(0) }; BUCKETS_MAX + 1], sum: AtomicU64::new(0) }
    }

    /// Counts one observation.
    pub fn observe(&self, value: u64) {
        let place = self.bounds.iter().take(BUCKETS_MAX).take_while(|&&bound| bound < value).count();
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    /// What was observed; bounds and sum are divided by `unit`, to show microseconds as milliseconds for instance.
    pub fn figures(&self, unit: f64) -> HistogramFigures {
        let bounds = &self.bounds[..self.bounds.len().min(BUCKETS_MAX)];
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        HistogramFigures {
            buckets: bounds.iter().map(|&bound| bound as f64 / unit).zip(counts).collect(),
            above: self.counts.get(bounds.len()).map_or(0, |count| count.load(Relaxed)),
            sum: self.sum.load(Relaxed) as f64 / unit,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_counts_below_the_first_bound_that_is_not_smaller() {
        let histogram = Histogram::new(&[1_000, 3_000]);
        for value in [0, 1_000, 1_001, 3_000, 3_001, 9_000] {
            histogram.observe(value);
        }
        let figures = histogram.figures(1_000.0);
        assert_eq!(figures.buckets, [(1.0, 2), (3.0, 2)]);
        assert_eq!((figures.above, figures.sum, figures.count()), (2, 17.002, 6));
    }
}
