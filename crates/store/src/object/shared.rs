//! What the store, its tasks and its readers know together: how far batches have come.

use super::told;
use crate::{Progress, StoreFailure, Ticket};
use martlet_model::{Histogram, HistogramFigures};
use slatedb::{CloseReason, Db, Error};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Upper bounds of the histogram of flushes, in milliseconds.
const FLUSH_BOUNDS: [u64; 10] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 2_000];

#[derive(Default)]
struct Reached {
    handed: u64,
    durable: u64,
    /// Changes in what was handed over since the last flush began.
    changes: usize,
    /// When what is handed over and not durable began to wait.
    waiting_since: Option<Instant>,
    /// The flush interval since the last flush is not over.
    resting: bool,
    closing: bool,
    failed: Option<Arc<StoreFailure>>,
}

pub struct Shared {
    reached: Mutex<Reached>,
    /// Batches that readers see; all of them once the store has failed, so that nobody waits for ever.
    applied: watch::Sender<u64>,
    waker: Arc<dyn Fn() + Send + Sync>,
    place: String,
    flushes: Histogram,
}

impl Shared {
    pub fn new(waker: Arc<dyn Fn() + Send + Sync>, place: String) -> Self {
        Self {
            reached: Mutex::default(),
            applied: watch::Sender::new(0),
            waker,
            place,
            flushes: Histogram::new(&FLUSH_BOUNDS),
        }
    }

    fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn hand_over(&self, changes: usize) -> Ticket {
        let mut reached = self.reached();
        reached.handed += 1;
        reached.changes += changes;
        reached.waiting_since.get_or_insert_with(Instant::now);
        Ticket(reached.handed)
    }

    /// Changes in what was handed over since it was asked last.
    pub fn take_changes(&self) -> usize {
        std::mem::take(&mut self.reached().changes)
    }

    pub fn ready(&self) -> bool {
        let reached = self.reached();
        reached.durable == reached.handed && !reached.resting && reached.failed.is_none()
    }

    pub fn progress(&self) -> Progress {
        let reached = self.reached();
        Progress { durable: Ticket(reached.durable), failed: reached.failed.clone() }
    }

    /// How long the oldest batch has waited for durability.
    pub fn waiting_for(&self) -> Option<Duration> {
        self.reached().waiting_since.map(|since| since.elapsed())
    }

    /// The database has taken a batch in.
    pub fn applied_one(&self, ticket: Ticket) {
        self.applied.send_if_modified(|applied| {
            let later = ticket.0 > *applied;
            *applied = ticket.0.max(*applied);
            later
        });
    }

    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Waits until readers see all that was handed over before. At once in nearly all cases.
    pub async fn all_applied(&self) {
        let handed = self.reached().handed;
        if self.applied() < handed {
            // The sender lives as long as we do.
            let _ = self.subscribe().wait_for(|applied| *applied >= handed).await;
        }
    }

    /// A flush that began when `upto` batches were taken in has ended.
    pub fn flushed(&self, upto: u64, error: Option<&Error>) {
        if let Some(error) = error {
            return self.fail("flushing the log", error);
        }
        let mut reached = self.reached();
        if reached.failed.is_none() {
            reached.durable = reached.durable.max(upto.min(reached.handed));
            let waits = reached.handed > reached.durable;
            reached.waiting_since = waits.then(Instant::now);
        }
    }

    pub fn took(&self, time: Duration) {
        self.flushes.observe(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    }

    /// How long flushes took, in milliseconds.
    pub fn flush_millis(&self) -> HistogramFigures {
        self.flushes.figures(1.0)
    }

    pub fn rest(&self, resting: bool) {
        self.reached().resting = resting;
    }

    /// From now on the end of the database is no failure.
    pub fn closing(&self) {
        self.reached().closing = true;
    }

    pub fn fail(&self, operation: &'static str, error: &Error) {
        self.fail_as(operation, told(error));
    }

    fn fail_as(&self, operation: &'static str, cause: String) {
        {
            let mut reached = self.reached();
            if reached.closing && reached.durable == reached.handed {
                return;
            }
            let place = self.place.clone();
            reached
                .failed
                .get_or_insert_with(|| Arc::new(StoreFailure { operation, file: place, position: None, cause }));
        }
        self.applied.send_replace(u64::MAX);
        self.wake();
    }

    pub fn wake(&self) {
        (self.waker)();
    }
}

/// Notices when the database ends by itself: it was fenced, or a task of its own has panicked.
pub async fn watch(db: Db, shared: Arc<Shared>) {
    let mut status = db.subscribe();
    loop {
        let ended = status.borrow_and_update().close_reason;
        match ended {
            None => {}
            Some(CloseReason::Fenced) => {
                let cause = "another process has taken the shard over (fenced)";
                return shared.fail_as("owning the shard", cause.to_owned());
            }
            Some(reason) => return shared.fail_as("running the database", format!("it has ended: {reason:?}")),
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

/// While a batch has waited for long, wakes whoever hands batches over, so that it sees that there is no room.
pub async fn tell_of_stalls(shared: Arc<Shared>, stalled_after: Duration) {
    loop {
        tokio::time::sleep(stalled_after / 4).await;
        if shared.waiting_for().is_some_and(|waited| waited >= stalled_after) {
            shared.wake();
        }
    }
}
