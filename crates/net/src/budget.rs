//! A budget of bytes that all connections share. Taken before bytes are kept, given back when the request is done.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Bytes that may be held at once.
#[derive(Clone, Debug)]
pub struct Budget {
    free: Arc<Semaphore>,
    limit: usize,
}

/// Bytes taken from a budget; given back when dropped.
#[derive(Debug)]
pub struct Taken {
    from: Arc<Semaphore>,
    bytes: usize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit)), limit }
    }

    /// The most that can be taken.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes taken at this moment, and the most that can be.
    pub fn used_and_limit(&self) -> (usize, usize) {
        (self.limit.saturating_sub(self.free.available_permits()), self.limit)
    }

    /// Nothing yet; grows by [`Self::take`].
    pub fn nothing(&self) -> Taken {
        Taken { from: self.free.clone(), bytes: 0 }
    }

    /// Adds `bytes` to `taken`, waiting up to `patience` for others to give some back. `false`: there were none.
    pub async fn take(&self, taken: &mut Taken, bytes: usize, patience: Duration) -> bool {
        let Ok(count) = u32::try_from(bytes) else { return false };
        let permit = match self.free.try_acquire_many(count) {
            Ok(permit) => Some(permit),
            Err(_) => match tokio::time::timeout(patience, self.free.acquire_many(count)).await {
                Ok(Ok(permit)) => Some(permit),
                _ => None,
            },
        };
        let Some(permit) = permit else { return false };
        permit.forget();
        taken.bytes += bytes;
        true
    }
}

impl Taken {
    /// So many of these bytes, or all of them if they are fewer, for somebody else to hold.
    pub fn split(&mut self, bytes: usize) -> Taken {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Taken { from: self.from.clone(), bytes }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.from.add_permits(self.bytes);
        }
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
}
