//! That something is over: said once, and heard by all who wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whether it is over.
#[derive(Debug, Default)]
pub struct Stop {
    said: Mutex<bool>,
    bell: Condvar,
}

impl Stop {
    fn said(&self) -> MutexGuard<'_, bool> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is over.
    pub fn say(&self) {
        *self.said() = true;
        self.bell.notify_all();
    }

    /// Whether it is over, without waiting.
    pub fn is_said(&self) -> bool {
        *self.said()
    }

    /// Waits until it is over, or for so long if it is not. Whether it is.
    pub fn wait(&self, time: Duration) -> bool {
        let waited = self.bell.wait_timeout_while(self.said(), time, |said| !*said);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
