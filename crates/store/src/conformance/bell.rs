//! Waiting for what a store tells through its waker.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What takes longer has come to a stand.
const PATIENCE: Duration = Duration::from_secs(60);

/// Wakes the threads that wait for a store to get on.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<()>,
    changed: Condvar,
}

impl Bell {
    /// What a store calls after each change: its options' `waker`.
    pub fn waker(self: &Arc<Self>) -> Arc<dyn Fn() + Send + Sync> {
        let bell = Arc::clone(self);
        Arc::new(move || {
            // Whoever looks and then waits holds the lock in between.
            drop(bell.rung.lock());
            bell.changed.notify_all();
        })
    }

    /// Looks at each ring whether it is so: false if it was not within a minute.
    #[must_use]
    pub fn wait_until(&self, mut done: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + PATIENCE;
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        while !done() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            rung = self.changed.wait_timeout(rung, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}
