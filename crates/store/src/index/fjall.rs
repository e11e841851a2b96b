//! The index in a folder, by fjall: one keyspace, loaded in bulk only, so its journal and memtables stay empty. The folder
//! is made by the first ingestion: making it costs some twenty syncs, which a new broker need not wait for.

use super::{Changes, Index, IndexError, IndexResult};
use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::PartitioningPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

const KEYSPACE: &str = "index";
/// Blocks read from disk that stay in memory, bytes.
const CACHE: u64 = 8 << 20;
/// Tables of one ingestion each that are gathered before they are merged with what is there: names of lite topics come in any
/// order, and have most of that in their way. The library's own settings gather 4, and have them rewrite up to 256 MiB.
const GATHERED: u8 = 8;
const TABLE_BYTES: u64 = 4 << 20;
/// Each level has so many times the bytes of the one before.
const LEVEL_RATIO: f32 = 4.0;

pub(crate) struct FjallIndex {
    path: PathBuf,
    /// Nothing: there is no folder, and no entry.
    open: OnceLock<(Database, Keyspace)>,
    /// Held while the folder is made.
    making: Mutex<()>,
}

fn failed(error: impl std::fmt::Display) -> IndexError {
    IndexError(error.to_string())
}

impl FjallIndex {
    /// Opens the index in `path`, if there is one. One that cannot be opened is thrown away: the second value says why.
    pub(crate) fn open(path: &Path) -> IndexResult<(Self, Option<String>)> {
        let mut index = Self { path: path.to_owned(), open: OnceLock::new(), making: Mutex::default() };
        let lost = match path.try_exists().map_err(failed)? {
            true => index.started().err().map(|error| error.0),
            false => None,
        };
        if lost.is_some() {
            index.wipe()?;
        }
        Ok((index, lost))
    }

    /// The keyspace, made now if need be.
    fn started(&self) -> IndexResult<&Keyspace> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, keyspace)) = self.open.get() {
            return Ok(keyspace);
        }
        let database = Database::builder(&self.path)
            .cache_size(CACHE)
            .worker_threads(1)
            .max_cached_files(Some(64))
            .max_journaling_size(64 << 20)
            .open()
            .map_err(failed)?;
        // In small parts on every level: a look-up reads the part it needs. Whole ones are up to a megabyte per table,
        // do not stay in the cache, and are read and checksummed again for each name that is not there.
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(4 << 20)
                .manual_journal_persist(true)
                .compaction_strategy(Arc::new(
                    Leveled::default()
                        .with_l0_threshold(GATHERED)
                        .with_table_target_size(TABLE_BYTES)
                        .with_level_ratio_policy(vec![LEVEL_RATIO]),
                ))
                .filter_block_partitioning_policy(PartitioningPolicy::all(true))
                .index_block_partitioning_policy(PartitioningPolicy::all(true))
        };
        let keyspace = database.keyspace(KEYSPACE, options).map_err(failed)?;
        Ok(&self.open.get_or_init(|| (database, keyspace)).1)
    }

    fn keyspace(&self) -> Option<&Keyspace> {
        self.open.get().map(|(_, keyspace)| keyspace)
    }
}

impl Index for FjallIndex {
    fn get(&self, key: &[u8]) -> IndexResult<Option<Bytes>> {
        let Some(keyspace) = self.keyspace() else { return Ok(None) };
        Ok(keyspace.get(key).map_err(failed)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn range(&self, from: &[u8], to: &[u8], take: &mut dyn FnMut(&[u8], Bytes) -> bool) -> IndexResult<()> {
        let Some(keyspace) = self.keyspace().filter(|_| from < to) else { return Ok(()) };
        for entry in keyspace.range(from..to) {
            let (key, value) = entry.into_inner().map_err(failed)?;
            if !take(&key, Bytes::copy_from_slice(&value)) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> IndexResult<Option<(Vec<u8>, Bytes)>> {
        let Some(keyspace) = self.keyspace().filter(|_| from < to) else { return Ok(None) };
        let Some(entry) = keyspace.range(from..to).next_back() else { return Ok(None) };
        let (key, value) = entry.into_inner().map_err(failed)?;
        Ok(Some((key.to_vec(), Bytes::copy_from_slice(&value))))
    }

    fn ingest(&self, changes: &Changes) -> IndexResult<()> {
        let mut ingestion = self.started()?.start_ingestion().map_err(failed)?;
        for (key, value) in changes {
            match value {
                Some(value) => ingestion.write(&key[..], &value[..]).map_err(failed)?,
                None => ingestion.write_tombstone(&key[..]).map_err(failed)?,
            }
        }
        ingestion.finish().map_err(failed)
    }

    fn wipe(&mut self) -> IndexResult<()> {
        self.open = OnceLock::new();
        match std::fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        }
    }

    fn disk_bytes(&self) -> u64 {
        self.keyspace().map_or(0, Keyspace::disk_space)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ingested_is_there_after_opening_again_and_wiping_empties_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let (index, told) = FjallIndex::open(&path).unwrap();
        assert_eq!(told, None);
        assert_eq!(index.get(&[0]).unwrap(), None);
        assert!(!path.exists());
        let mut changes = Changes::new();
        for number in 0..1000u32 {
            changes.insert(number.to_be_bytes().to_vec(), Some(vec![number as u8; 10]));
        }
        index.ingest(&changes).unwrap();
        changes.retain(|key, _| key[3] % 2 == 0);
        changes.values_mut().for_each(|value| *value = None);
        index.ingest(&changes).unwrap();
        drop(index);
        let (mut index, _) = FjallIndex::open(&path).unwrap();
        assert_eq!(index.get(&7u32.to_be_bytes()).unwrap(), Some(Bytes::from(vec![7; 10])));
        assert_eq!(index.get(&8u32.to_be_bytes()).unwrap(), None);
        let mut seen = Vec::new();
        index
            .range(&[0, 0, 0, 1], &[0, 0, 0, 8], &mut |key, _| {
                seen.push(key[3]);
                true
            })
            .unwrap();
        assert_eq!(seen, [1, 3, 5, 7]);
        let last = index.last(&[0], &[b't'; 15]).unwrap().unwrap();
        assert_eq!(last.0, 999u32.to_be_bytes());
        index.wipe().unwrap();
        assert_eq!(index.last(&[0], &[255]).unwrap(), None);
    }
}
