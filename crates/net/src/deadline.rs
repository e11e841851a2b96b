//! Deadlines that move with every request and are hardly ever reached.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// A deadline that can be moved at the cost of a look at the clock. A timer is not moved along each time, which takes a lock and, if it
/// is the next one due, a system call: it rings when the deadline *was*, and then is set to where it is.
#[derive(Debug)]
pub struct Deadline {
    at: Instant,
    /// Rings at `at` or before.
    alarm: Pin<Box<Sleep>>,
}

impl Deadline {
    /// So long from now. Needs a runtime.
    pub fn after(limit: Duration) -> Self {
        let at = Instant::now() + limit;
        Self { at, alarm: Box::pin(tokio::time::sleep_until(at)) }
    }

    /// Moves it to so long from now.
    pub fn set(&mut self, limit: Duration) {
        self.at = Instant::now() + limit;
    }

    /// Ready once it is over, and until it is moved.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.alarm.deadline() > self.at {
            self.alarm.as_mut().reset(self.at);
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= self.at {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(self.at);
        }
        Poll::Pending
    }

    /// What comes of this within so long, counted from when it first has to wait. `None`: it took longer.
    pub async fn bound<T>(&mut self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let (mut work, mut waits) = (pin!(work), false);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if !std::mem::replace(&mut waits, true) {
                self.set(limit);
            }
            self.poll(cx).map(|()| None)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, sleep, timeout};

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_is_over_when_it_says_however_often_it_was_moved() {
        let began = Instant::now();
        let mut deadline = Deadline::after(10 * SECOND);
        for _ in 0..5 {
            advance(4 * SECOND).await;
            deadline.set(10 * SECOND);
            assert!(timeout(SECOND, poll_fn(|cx| deadline.poll(cx))).await.is_err());
        }
        poll_fn(|cx| deadline.poll(cx)).await;
        // Moved last four seconds into the fifth round.
        assert_eq!(began.elapsed(), (4 * 5 + 4 + 10) * SECOND);
        poll_fn(|cx| deadline.poll(cx)).await;
        deadline.set(3 * SECOND);
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(began.elapsed(), (34 + 3) * SECOND);
        // To an earlier time, too.
        deadline.set(100 * SECOND);
        assert!(timeout(SECOND, poll_fn(|cx| deadline.poll(cx))).await.is_err());
        deadline.set(2 * SECOND);
        poll_fn(|cx| deadline.poll(cx)).await;
        assert_eq!(began.elapsed(), (37 + 1 + 2) * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_bound_from_when_it_waits() {
        let began = Instant::now();
        let mut deadline = Deadline::after(SECOND);
        advance(5 * SECOND).await;
        assert_eq!(deadline.bound(3 * SECOND, async { 1 }).await, Some(1));
        assert_eq!(deadline.bound(3 * SECOND, sleep(2 * SECOND)).await, Some(()));
        assert_eq!(deadline.bound(3 * SECOND, sleep(4 * SECOND)).await, None);
        assert_eq!(began.elapsed(), (5 + 2 + 3) * SECOND);
    }
}
