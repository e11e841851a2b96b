//! A budget of bytes that all connections share. Taken before bytes are kept, given back when the request is done.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Up to here somebody holds little.
const LITTLE_BYTES: usize = 64 << 10;

/// Bytes that may be held at once.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Free>,
    limit: usize,
}

#[derive(Debug)]
struct Free {
    all: Semaphore,
    /// What those may take of it who hold more than little, beyond that.
    much: Semaphore,
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub struct Taken {
    from: Arc<Free>,
    bytes: usize,
    /// Of them, those beyond little.
    much: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Self {
        Self::with_much(limit, limit)
    }

    /// A budget for requests of at most `largest` bytes each, which must fit, or they could never be taken. Those of more than
    /// 64 KiB leave a quarter of it to the others: clients that hold much, and are slow to send it, keep nobody out who sends
    /// little.
    pub fn for_requests(limit: usize, largest: usize) -> Self {
        let limit = limit.max(largest);
        Self::with_much(limit, (limit - limit / 4).max(largest))
    }

    fn with_much(limit: usize, much: usize) -> Self {
        let (limit, much) = (limit.min(Semaphore::MAX_PERMITS), much.min(Semaphore::MAX_PERMITS));
        Self { free: Arc::new(Free { all: Semaphore::new(limit), much: Semaphore::new(much) }), limit }
    }

    /// The most that can be taken.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes taken at this moment, and the most that can be.
    pub fn used_and_limit(&self) -> (usize, usize) {
        (self.limit.saturating_sub(self.free.all.available_permits()), self.limit)
    }

    /// Nothing yet; grows by [`Self::take`].
    pub fn nothing(&self) -> Taken {
        Taken { from: self.free.clone(), bytes: 0, much: 0 }
    }

    /// Adds `bytes` to `taken`, waiting up to `patience` for others to give some back. `false`: there were none.
    pub async fn take(&self, taken: &mut Taken, bytes: usize, patience: Duration) -> bool {
        let after = taken.bytes.saturating_add(bytes);
        let more = beyond_little(after).saturating_sub(taken.much);
        let (Ok(count), Ok(more)) = (u32::try_from(bytes), u32::try_from(more)) else { return false };
        let Some(much) = acquire(&self.free.much, more, patience).await else { return false };
        let Some(all) = acquire(&self.free.all, count, patience).await else { return false };
        much.forget();
        all.forget();
        (taken.bytes, taken.much) = (after, taken.much + more as usize);
        true
    }

    /// Adds `bytes` to `taken` if they are there now. `false`: they are not.
    pub fn try_take(&self, taken: &mut Taken, bytes: usize) -> bool {
        let after = taken.bytes.saturating_add(bytes);
        let more = beyond_little(after).saturating_sub(taken.much);
        let (Ok(count), Ok(more)) = (u32::try_from(bytes), u32::try_from(more)) else { return false };
        let much = (more > 0).then(|| self.free.much.try_acquire_many(more));
        if let Some(Err(_)) = much {
            return false;
        }
        let Ok(all) = self.free.all.try_acquire_many(count) else { return false };
        all.forget();
        if let Some(Ok(much)) = much {
            much.forget();
        }
        (taken.bytes, taken.much) = (after, taken.much + more as usize);
        true
    }
}

impl Taken {
    /// Bytes taken.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes over what another one of the same budget has taken.
    pub fn merge(&mut self, mut other: Taken) {
        debug_assert!(Arc::ptr_eq(&self.from, &other.from), "of one budget");
        self.bytes += std::mem::take(&mut other.bytes);
        self.much += std::mem::take(&mut other.much);
    }

    /// Gives so many bytes back, at most all.
    pub fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let much = self.much.saturating_sub(beyond_little(self.bytes));
        self.much -= much;
        if bytes > 0 {
            self.from.all.add_permits(bytes);
        }
        if much > 0 {
            self.from.much.add_permits(much);
        }
    }
}

async fn acquire(from: &Semaphore, count: u32, patience: Duration) -> Option<SemaphorePermit<'_>> {
    match from.try_acquire_many(count) {
        Ok(permit) => Some(permit),
        Err(_) => tokio::time::timeout(patience, from.acquire_many(count)).await.ok()?.ok(),
    }
}

fn beyond_little(bytes: usize) -> usize {
    bytes.saturating_sub(LITTLE_BYTES)
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_comes_back_and_nobody_gets_more_than_there_is() {
        let budget = Budget::new(10);
        let (mut first, mut second) = (budget.nothing(), budget.nothing());
        let patience = Duration::from_secs(1);
        assert!(budget.take(&mut first, 4, patience).await);
        assert!(budget.take(&mut first, 3, patience).await);
        assert!(!budget.take(&mut second, 4, patience).await);
        drop(first);
        assert!(budget.take(&mut second, 10, patience).await);
        assert!(!budget.take(&mut budget.nothing(), 1, patience).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_given_back_piece_by_piece_or_taken_over_is_counted_once() {
        let budget = Budget::for_requests(16 * LITTLE_BYTES, LITTLE_BYTES);
        let mut all = budget.nothing();
        for _ in 0..12 {
            assert!(budget.try_take(&mut all, LITTLE_BYTES));
        }
        // Twelve of thirteen at most beyond little.
        assert!(budget.try_take(&mut all, LITTLE_BYTES));
        assert!(!budget.try_take(&mut all, 1), "the rest is for others");
        let mut other = budget.nothing();
        assert!(budget.take(&mut other, LITTLE_BYTES, Duration::ZERO).await);
        all.merge(other);
        assert_eq!((all.bytes(), budget.used_and_limit().0), (14 * LITTLE_BYTES, 14 * LITTLE_BYTES));
        // One more than beyond little was counted of both; it comes back first or last, and once.
        for left in (0..14).rev() {
            all.give_back(LITTLE_BYTES);
            assert_eq!((all.bytes(), budget.used_and_limit().0), (left * LITTLE_BYTES, left * LITTLE_BYTES));
        }
        all.give_back(1);
        drop(all);
        let mut again = budget.nothing();
        assert!((0..13).all(|_| budget.try_take(&mut again, LITTLE_BYTES)), "nothing was lost");
        assert!(!budget.try_take(&mut again, 1), "and nothing was won");
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_much_leaves_a_quarter_to_who_holds_little() {
        let budget = Budget::for_requests(16 * LITTLE_BYTES, 8 * LITTLE_BYTES);
        let patience = Duration::from_secs(1);
        let mut large = [budget.nothing(), budget.nothing(), budget.nothing()];
        // As they arrive: of each, what is beyond little counts, 12 in all.
        for holder in &mut large {
            for _ in 0..5 {
                assert!(budget.take(holder, LITTLE_BYTES, patience).await);
            }
        }
        assert!(!budget.take(&mut large[0], 1, patience).await);
        let mut little = budget.nothing();
        assert!(budget.take(&mut little, LITTLE_BYTES, patience).await);
        assert!(!budget.take(&mut little, 1, patience).await, "more than little, too");
        drop((large, little));
        assert_eq!(budget.used_and_limit(), (0, 16 * LITTLE_BYTES));
        let mut largest = budget.nothing();
        assert!(budget.take(&mut largest, 13 * LITTLE_BYTES, patience).await, "all of it was given back");
        let tight = Budget::for_requests(0, 8 * LITTLE_BYTES);
        assert!(tight.take(&mut tight.nothing(), 8 * LITTLE_BYTES, patience).await, "the largest fits");
    }
}
