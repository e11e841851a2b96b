//! A folder in memory that forgets, tears and fails like a real one may, from a seed.
//!
//! What a crash leaves: of each file the bytes last synced, with any subset of the 512-byte sectors written since; of the
//! folder the names last synced, with any part of the renames, creations and removals since, in their order.

use super::{Disk, DiskError, DiskErrorKind, DiskFile, DiskResult, SECTOR, Space};
use crate::conformance::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
}

type Node = Arc<Mutex<Content>>;
type Names = BTreeMap<String, Node>;

enum Change {
    Link(String, Node),
    Unlink(String),
    Rename(String, String),
}

/// Operations that can be told to fail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Every write, creation, allocation and removal fails: the disk is read-only.
    pub writes: bool,
    pub syncs: bool,
    pub reads: bool,
    /// Bytes all files may have together; 0: no limit.
    pub capacity: u64,
}

#[derive(Default)]
struct Folder {
    now: Names,
    synced: Names,
    changes: Vec<Change>,
    faults: Faults,
    written: u64,
    locked: bool,
}

/// The folder; clones are the same folder.
#[derive(Clone, Default)]
pub(crate) struct SimDisk {
    folder: Arc<Mutex<Folder>>,
}

pub(crate) struct SimFile {
    name: String,
    node: Node,
    folder: Arc<Mutex<Folder>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(kind: DiskErrorKind, operation: &'static str, file: &str, cause: &str) -> DiskError {
    DiskError { kind, operation, file: file.to_owned(), position: 0, cause: cause.to_owned() }
}

impl Change {
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Link(name, node) => {
                names.insert(name.clone(), node.clone());
            }
            Self::Unlink(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
        }
    }
}

impl Folder {
    fn change(&mut self, operation: &'static str, name: &str, change: Change) -> DiskResult<()> {
        if self.faults.writes {
            return Err(failed(DiskErrorKind::Other, operation, name, "read-only file system (simulated)"));
        }
        change.apply(&mut self.now);
        self.changes.push(change);
        Ok(())
    }

    fn used(&self) -> u64 {
        self.now.values().map(|node| lock(node).now.len() as u64).sum()
    }
}

impl SimDisk {
    pub(crate) fn set_faults(&self, faults: Faults) {
        lock(&self.folder).faults = faults;
    }

    /// The power goes: what is left is decided by `random`.
    pub(crate) fn crash(&self, random: &mut Random) {
        let mut folder = lock(&self.folder);
        let changes = std::mem::take(&mut folder.changes);
        let kept = random.below(changes.len() as u64 + 1) as usize;
        let mut names = std::mem::take(&mut folder.synced);
        changes[..kept].iter().for_each(|change| change.apply(&mut names));
        let keep_one_in = 1 + random.below(3);
        for node in names.values() {
            let mut content = lock(node);
            let dirty = std::mem::take(&mut content.dirty);
            let mut left = content.synced.clone();
            // The length may have become durable or not.
            if random.one_in(2) {
                left.resize(content.now.len(), 0);
            }
            for sector in dirty {
                if !random.one_in(keep_one_in) {
                    continue;
                }
                let from = sector * SECTOR;
                let to = (from + SECTOR).min(content.now.len()).min(left.len());
                if from < to {
                    let written = content.now[from..to].to_vec();
                    left[from..to].copy_from_slice(&written);
                }
            }
            content.now = left.clone();
            content.synced = left;
        }
        folder.now = names.clone();
        folder.synced = names;
        folder.faults = Faults::default();
        folder.locked = false;
    }

    /// The power goes, and of what was not synced everything survives but one sector of one file.
    #[cfg(test)]
    pub(crate) fn crash_without(&self, name: &str, sector: usize) {
        let mut folder = lock(&self.folder);
        folder.changes.clear();
        folder.synced = folder.now.clone();
        for (other, node) in &folder.now {
            let mut content = lock(node);
            let content = &mut *content;
            if other == name && content.dirty.contains(&sector) {
                content.synced.resize(content.now.len(), 0);
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(content.now.len());
                content.now[range.clone()].copy_from_slice(&content.synced[range]);
            }
            content.synced = content.now.clone();
            content.dirty.clear();
        }
        folder.faults = Faults::default();
        folder.locked = false;
    }

    /// A sector that was durable reads as zeros from now on, without a word.
    #[cfg(test)]
    pub(crate) fn zero_sector(&self, name: &str, sector: usize) {
        if let Some(node) = lock(&self.folder).now.get(name) {
            let mut content = lock(node);
            let content = &mut *content;
            for bytes in [&mut content.now, &mut content.synced] {
                bytes[sector * SECTOR..(sector + 1) * SECTOR].fill(0);
            }
        }
    }

    /// The process ends, the system lives on: nothing is lost.
    pub(crate) fn close(&self) {
        lock(&self.folder).locked = false;
    }

    /// Turns one bit of a file over, without a word.
    pub(crate) fn flip(&self, name: &str, position: u64, bit: u8) {
        if let Some(node) = lock(&self.folder).now.get(name) {
            let mut content = lock(node);
            let content = &mut *content;
            for bytes in [&mut content.now, &mut content.synced] {
                if let Some(byte) = bytes.get_mut(position as usize) {
                    *byte ^= 1 << (bit % 8);
                }
            }
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;

    fn lock(&self) -> DiskResult<()> {
        let mut folder = lock(&self.folder);
        if std::mem::replace(&mut folder.locked, true) {
            return Err(failed(DiskErrorKind::Locked(None), "lock", "lock", "held"));
        }
        Ok(())
    }

    fn create(&self, name: &str) -> DiskResult<SimFile> {
        let mut folder = lock(&self.folder);
        if folder.now.contains_key(name) {
            return Err(failed(DiskErrorKind::Exists, "create", name, "it exists"));
        }
        let node = Node::default();
        folder.change("create", name, Change::Link(name.to_owned(), node.clone()))?;
        Ok(SimFile { name: name.to_owned(), node, folder: self.folder.clone() })
    }

    fn open(&self, name: &str) -> DiskResult<SimFile> {
        match lock(&self.folder).now.get(name) {
            Some(node) => Ok(SimFile { name: name.to_owned(), node: node.clone(), folder: self.folder.clone() }),
            None => Err(failed(DiskErrorKind::NotFound, "open", name, "no such file")),
        }
    }

    fn list(&self) -> DiskResult<Vec<(String, u64)>> {
        let folder = lock(&self.folder);
        Ok(folder.now.iter().map(|(name, node)| (name.clone(), lock(node).now.len() as u64)).collect())
    }

    fn rename(&self, from: &str, to: &str) -> DiskResult<()> {
        let mut folder = lock(&self.folder);
        if !folder.now.contains_key(from) {
            return Err(failed(DiskErrorKind::NotFound, "rename", from, "no such file"));
        }
        folder.change("rename", from, Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> DiskResult<()> {
        let mut folder = lock(&self.folder);
        if !folder.now.contains_key(name) {
            return Err(failed(DiskErrorKind::NotFound, "remove", name, "no such file"));
        }
        folder.change("remove", name, Change::Unlink(name.to_owned()))
    }

    fn sync_dir(&self) -> DiskResult<()> {
        let mut folder = lock(&self.folder);
        if folder.faults.syncs {
            return Err(failed(DiskErrorKind::Other, "fsync of the folder", ".", "input/output error (simulated)"));
        }
        folder.changes.clear();
        folder.synced = folder.now.clone();
        Ok(())
    }

    fn space(&self) -> DiskResult<Space> {
        let folder = lock(&self.folder);
        let total = if folder.faults.capacity == 0 { 1 << 40 } else { folder.faults.capacity };
        Ok(Space { total, free: total.saturating_sub(folder.used()) })
    }

    fn overwrites_in_place(&self) -> bool {
        true
    }

    fn written_bytes(&self) -> u64 {
        lock(&self.folder).written
    }
}

impl SimFile {
    /// Makes the file at least so long, if the disk has room.
    fn grow(&self, operation: &'static str, length: u64) -> DiskResult<()> {
        let folder = lock(&self.folder);
        if folder.faults.writes {
            return Err(failed(DiskErrorKind::Other, operation, &self.name, "read-only file system (simulated)"));
        }
        let now = lock(&self.node).now.len() as u64;
        if length > now {
            let capacity = folder.faults.capacity;
            if capacity != 0 && folder.used() + (length - now) > capacity {
                return Err(failed(DiskErrorKind::Full, operation, &self.name, "no space left on device (simulated)"));
            }
            lock(&self.node).now.resize(length as usize, 0);
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, position: u64, into: &mut [u8]) -> DiskResult<usize> {
        if lock(&self.folder).faults.reads {
            return Err(failed(DiskErrorKind::Other, "read", &self.name, "input/output error (simulated)"));
        }
        let content = lock(&self.node);
        let bytes = content.now.get(position as usize..).unwrap_or_default();
        let count = bytes.len().min(into.len());
        into[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_at(&self, position: u64, parts: &[&[u8]]) -> DiskResult<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        self.grow("write", position + length as u64)?;
        lock(&self.folder).written += length as u64;
        let mut content = lock(&self.node);
        let mut at = position as usize;
        for part in parts {
            content.now[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        if length > 0 {
            content.dirty.extend(position as usize / SECTOR..=(at - 1) / SECTOR);
        }
        Ok(())
    }

    fn sync_data(&self) -> DiskResult<()> {
        if lock(&self.folder).faults.syncs {
            return Err(failed(DiskErrorKind::Other, "fdatasync", &self.name, "input/output error (simulated)"));
        }
        let mut content = lock(&self.node);
        let content = &mut *content;
        content.synced.resize(content.now.len(), 0);
        for sector in std::mem::take(&mut content.dirty) {
            let from = sector * SECTOR;
            let to = (from + SECTOR).min(content.now.len());
            if from < to {
                content.synced[from..to].copy_from_slice(&content.now[from..to]);
            }
        }
        Ok(())
    }

    fn preallocate(&self, length: u64) -> DiskResult<()> {
        self.grow("fallocate", length)
    }

    fn truncate(&self, length: u64) -> DiskResult<()> {
        if lock(&self.folder).faults.writes {
            return Err(failed(DiskErrorKind::Other, "ftruncate", &self.name, "read-only file system (simulated)"));
        }
        let mut content = lock(&self.node);
        let length = length as usize;
        let old = content.now.len();
        content.now.resize(length, 0);
        // What is cut off is not lost for sure before a sync: what a crash brings back of it is the old bytes.
        content.dirty.extend(length.min(old) / SECTOR..old.max(length).div_ceil(SECTOR));
        Ok(())
    }

    fn length(&self) -> DiskResult<u64> {
        Ok(lock(&self.node).now.len() as u64)
    }
}
