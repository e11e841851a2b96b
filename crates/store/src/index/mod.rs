//! The index of sealed segments: an ordered map that is loaded in bulk and can be thrown away at any time.
//!
//! Entries, all in one key space so that one ingestion is atomic over all of them:
//!
//! | key | value |
//! | --- | --- |
//! | 1 | log id (16 bytes), number of index steps included (varint) |
//! | `k` key | [`crate::key::KeyEntry`] |
//! | `m` queue, first offset (8 bytes each, big-endian) | [`entries::Block`]: up to 128 messages that follow each other in one segment |
//! | `q` queue (8 bytes, big-endian) | [`entries::QueueMeta`] |
//! | `t` number (8 bytes, big-endian) | [`crate::terms::file::TermFile`]: a file with terms of messages |

pub(crate) mod entries;
pub(crate) mod fjall;
pub(crate) mod memory;

use bytes::Bytes;
use std::collections::BTreeMap;

/// The index could not be read or written, in the words of whatever it is made of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct IndexError(pub String);

pub(crate) type IndexResult<T> = Result<T, IndexError>;

/// Changes in key order: a value, or none to remove the key.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The segments there are, the open one included; ascending. Whatever is newer than the newest of them is there too: it
/// was made since.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segments(Vec<u32>);

impl Segments {
    pub(crate) fn new(segments: impl IntoIterator<Item = u32>) -> Self {
        let mut segments: Vec<u32> = segments.into_iter().collect();
        segments.sort_unstable();
        Self(segments)
    }

    pub(crate) fn have(&self, segment: u32) -> bool {
        self.0.last() <= Some(&segment) || self.0.binary_search(&segment).is_ok()
    }
}

/// An ordered map of bytes.
pub(crate) trait Index: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> IndexResult<Option<Bytes>>;

    /// Entries with keys in [from, to), in order, until `take` has had enough and says false.
    fn range(&self, from: &[u8], to: &[u8], take: &mut dyn FnMut(&[u8], Bytes) -> bool) -> IndexResult<()>;

    /// The entry with the greatest key in [from, to).
    fn last(&self, from: &[u8], to: &[u8]) -> IndexResult<Option<(Vec<u8>, Bytes)>>;

    /// Applies all changes at once or none of them.
    fn ingest(&self, changes: &Changes) -> IndexResult<()>;

    /// Removes everything. Only when nobody reads.
    fn wipe(&mut self) -> IndexResult<()>;

    /// Bytes on disk.
    fn disk_bytes(&self) -> u64;
}

/// An index with changes that are not ingested yet.
pub(crate) struct Overlay<'i, I> {
    pub index: &'i I,
    pub changes: Changes,
}

impl<I: Index> Overlay<'_, I> {
    pub(crate) fn get(&self, key: &[u8]) -> IndexResult<Option<Bytes>> {
        match self.changes.get(key) {
            Some(change) => Ok(change.as_ref().map(|value| Bytes::copy_from_slice(value))),
            None => self.index.get(key),
        }
    }

    /// All entries with keys in [from, to).
    pub(crate) fn range(&self, from: &[u8], to: &[u8]) -> IndexResult<BTreeMap<Vec<u8>, Bytes>> {
        let mut found = BTreeMap::new();
        if from >= to {
            return Ok(found);
        }
        self.index.range(from, to, &mut |key, value| {
            found.insert(key.to_vec(), value);
            true
        })?;
        for (key, change) in self.changes.range(from.to_vec()..to.to_vec()) {
            match change {
                Some(value) => found.insert(key.clone(), Bytes::copy_from_slice(value)),
                None => found.remove(key),
            };
        }
        Ok(found)
    }

    /// The entry with the greatest key in [from, to).
    pub(crate) fn last(&self, from: &[u8], to: &[u8]) -> IndexResult<Option<(Vec<u8>, Bytes)>> {
        let mut end = to.to_vec();
        while from < &end[..] {
            let below = self.index.last(from, &end)?;
            let changed = self.changes.range(from.to_vec()..end.clone()).next_back();
            match (below, changed) {
                (Some((key, value)), changed) if changed.is_none_or(|(other, _)| *other < key) => {
                    return Ok(Some((key, value)));
                }
                (_, Some((key, Some(value)))) => return Ok(Some((key.clone(), Bytes::copy_from_slice(value)))),
                // Removed: look below it.
                (_, Some((key, None))) => end = key.clone(),
                (_, None) => return Ok(None),
            }
        }
        Ok(None)
    }
}
