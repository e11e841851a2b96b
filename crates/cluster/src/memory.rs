//! A catalog store for tests: in memory, with faults on demand.

use crate::{CatalogStore, CreateError, ReadError, VERSIONS_KEPT};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct State {
    versions: BTreeMap<u64, Bytes>,
    fail_creates: u32,
    fail_after_creates: u32,
}

/// Versions in memory; clones share them, as nodes share a bucket.
#[derive(Clone, Default)]
pub struct MemoryCatalogStore {
    state: Arc<Mutex<State>>,
}

impl MemoryCatalogStore {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `count` creates fail and change nothing.
    pub fn fail_creates(&self, count: u32) {
        self.state().fail_creates = count;
    }

    /// The next `count` creates take effect and then report a failure, as after a lost answer.
    pub fn fail_after_creates(&self, count: u32) {
        self.state().fail_after_creates = count;
    }
}

impl CatalogStore for MemoryCatalogStore {
    async fn latest(&self) -> Result<Option<(u64, Bytes)>, ReadError> {
        tokio::task::yield_now().await;
        Ok(self.state().versions.last_key_value().map(|(version, bytes)| (*version, bytes.clone())))
    }

    async fn create(&self, version: u64, bytes: Bytes) -> Result<(), CreateError> {
        tokio::task::yield_now().await;
        let mut state = self.state();
        let failed =
            |reason: &str| Err(CreateError::Io { location: self.location(version), reason: reason.to_owned() });
        if state.fail_creates > 0 {
            state.fail_creates -= 1;
            return failed("injected failure");
        }
        if state.versions.contains_key(&version) {
            return Err(CreateError::Exists { version });
        }
        state.versions.insert(version, bytes);
        while state.versions.len() > VERSIONS_KEPT {
            state.versions.pop_first();
        }
        if state.fail_after_creates > 0 {
            state.fail_after_creates -= 1;
            return failed("injected loss of the answer");
        }
        Ok(())
    }

    fn location(&self, version: u64) -> String {
        format!("memory:{version}")
    }
}
