//! An index in memory, for the simulation: it can be told to lose what it holds.

use super::entries::COVERS;
use super::{Changes, Index, IndexResult};
use crate::conformance::Random;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

type Map = BTreeMap<Vec<u8>, Bytes>;

/// Clones share one map, which so outlives the engine that uses it, like files do.
#[derive(Clone, Default)]
pub(crate) struct MemoryIndex {
    map: Arc<RwLock<Map>>,
}

impl MemoryIndex {
    fn map(&self) -> RwLockReadGuard<'_, Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Map) -> T) -> T {
        change(&mut self.map.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything is gone.
    pub(crate) fn delete(&self) {
        self.change(Map::clear);
    }

    /// Loses about one in `n` entries, but not the one that says what the index covers, nor names of files of terms: these are not
    /// in the account, a lost one hides messages from `find` only.
    pub(crate) fn lose_one_in(&self, n: u64, random: &mut Random) {
        self.change(|map| map.retain(|key, _| key == COVERS || key[0] == b't' || !random.one_in(n)));
    }
}

impl Index for MemoryIndex {
    fn get(&self, key: &[u8]) -> IndexResult<Option<Bytes>> {
        Ok(self.map().get(key).cloned())
    }

    fn range(&self, from: &[u8], to: &[u8], take: &mut dyn FnMut(&[u8], Bytes) -> bool) -> IndexResult<()> {
        if from < to {
            for (key, value) in self.map().range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))) {
                if !take(key, value.clone()) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> IndexResult<Option<(Vec<u8>, Bytes)>> {
        if from >= to {
            return Ok(None);
        }
        let map = self.map();
        let last = map.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).next_back();
        Ok(last.map(|(key, value)| (key.clone(), value.clone())))
    }

    fn ingest(&self, changes: &Changes) -> IndexResult<()> {
        self.change(|map| {
            for (key, value) in changes {
                match value {
                    Some(value) => map.insert(key.clone(), Bytes::copy_from_slice(value)),
                    None => map.remove(key),
                };
            }
        });
        Ok(())
    }

    fn wipe(&mut self) -> IndexResult<()> {
        self.delete();
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
