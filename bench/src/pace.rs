//! The pace of an open loop, and the generator's clock.
//!
//! Send `i` is meant to start `i / rate` seconds after the first, whatever happened to the sends before it: latency is taken
//! from there. Ticks come from a thread that sleeps, because tokio's timers are a millisecond wide.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Nanoseconds since the first call in this process.
pub fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// Says which sends are due.
pub struct Pacer {
    tick: Arc<Notify>,
    interval_ns: f64,
    start_ns: u64,
    next: u64,
}

impl Pacer {
    /// `rate` in sends a second, at least 1. Ticks are at most 10,000 a second; above that a tick has several sends. The
    /// ticking thread ends with the pacer.
    pub fn start(rate: u32) -> Self {
        let interval_ns = 1e9 / f64::from(rate.max(1));
        let (tick, start_ns) = (Arc::new(Notify::new()), now_ns());
        let weak = Arc::downgrade(&tick);
        std::thread::spawn(move || {
            for index in 1_u64.. {
                let Some(tick) = weak.upgrade() else { return };
                tick.notify_one();
                drop(tick);
                let due = start_ns + (index as f64 * interval_ns.max(100_000.0)) as u64;
                std::thread::sleep(Duration::from_nanos(due.saturating_sub(now_ns())));
            }
        });
        Self { tick, interval_ns, start_ns, next: 0 }
    }

    /// When send `index` is meant to start, in the generator's nanoseconds.
    pub fn intended_ns(&self, index: u64) -> u64 {
        self.start_ns + (index as f64 * self.interval_ns) as u64
    }

    /// Waits for the next tick and returns the sends that have become due, each exactly once.
    pub async fn due(&mut self) -> Range<u64> {
        self.tick.notified().await;
        let passed = (now_ns() - self.start_ns) as f64 / self.interval_ns;
        let from = self.next;
        self.next = self.next.max(passed as u64 + 1);
        from..self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_send_is_due_once_and_not_before_its_time() {
        let mut pacer = Pacer::start(2_000);
        let mut seen = 0;
        while seen < 100 {
            for index in pacer.due().await {
                assert_eq!(index, seen);
                assert!(pacer.intended_ns(index) <= now_ns());
                seen += 1;
            }
        }
        assert_eq!(pacer.intended_ns(100) - pacer.intended_ns(0), 50_000_000);
    }
}
