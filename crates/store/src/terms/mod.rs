//! Which messages of sealed segments have a term: in files of their own, beside the log.
//!
//! Terms are hashes, so in one ordered map those of a new segment would lie between those of all others, and taking them in
//! would write most of the map again, the more the older it is. Here each step of maintenance that has terms writes one file
//! ([`file::TermFile`]); files that were merged as often are merged again, [`FAN_IN`] to one, as long as that one is not larger
//! than [`MERGED_MAX`]. So an entry is written a few times in its life, and a look-up asks a few files, of a very large log
//! as many as it has times [`MERGED_MAX`] bytes of terms.
//!
//! The index names the files (its keys `t`), so that a step takes its terms in together with everything else. A file that is
//! not named is left from a step that was not completed, and is removed; one that is named and is not there is damage of
//! the index, which is made anew. Entries go with their segments: a file of which more than half is gone is written again
//! without these.

pub(crate) mod file;

use crate::ReadError;
use crate::disk::{Disk, DiskError, DiskErrorKind};
use crate::index::entries::{file_entry, file_number};
use crate::index::{Changes, Index, IndexResult, Segments};
use crate::mem::MemSegment;
use file::{Entry, Plan, TermFile, Writer};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// How the names of these files begin; then comes their number, 16 hexadecimal digits.
pub(crate) const PREFIX: &str = "terms-";
/// Files that become one.
const FAN_IN: usize = 8;
/// Bytes beyond which files are not merged.
const MERGED_MAX: u64 = 512 << 20;

/// Files with terms, by descending [`TermFile::newest`].
pub(crate) type Files = Arc<Vec<Arc<TermFile>>>;

/// The files there are.
#[derive(Default)]
pub(crate) struct TermFiles {
    files: RwLock<Files>,
    /// The greatest number a file ever had.
    highest: AtomicU64,
}

/// Files in place of others. It counts once the index says so: [`Replaced::say`], then [`TermFiles::replace`].
#[derive(Default)]
pub(crate) struct Replaced {
    pub added: Vec<TermFile>,
    pub removed: Vec<Arc<TermFile>>,
}

impl Replaced {
    /// Adds the names to what the index takes in.
    pub(crate) fn say(&self, changes: &mut Changes) {
        changes.extend(self.removed.iter().map(|file| (file_entry(file.number).to_vec(), None)));
        changes.extend(self.added.iter().map(|file| (file_entry(file.number).to_vec(), Some(file.encode()))));
    }
}

impl TermFiles {
    /// Takes over the files that the index names, and removes others. The second value says what is missing.
    pub(crate) fn open<D: Disk, I: Index>(disk: &D, index: &I) -> IndexResult<(Self, Option<String>)> {
        let mut on_disk: BTreeMap<String, u64> =
            disk.list()?.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        let terms = Self::default();
        let (mut files, mut missing) = (Vec::new(), None);
        index.range(b"t", b"u", &mut |key, value| {
            match TermFile::decode(file_number(key), &value) {
                Ok(file) if on_disk.get(&file.name()) == Some(&file.length()) => {
                    on_disk.remove(&file.name());
                    terms.highest.fetch_max(file.number, Ordering::Relaxed);
                    files.push(Arc::new(file));
                }
                Ok(file) => missing = Some(format!("{} is not there with its {} bytes", file.name(), file.length())),
                Err(error) => missing = Some(format!("the name of a file of terms is damaged: {error}")),
            }
            missing.is_none()
        })?;
        if missing.is_none() {
            for name in on_disk.keys() {
                disk.remove(name)?;
            }
            terms.set(files);
        }
        Ok((terms, missing))
    }

    /// Removes all files, before an index is made anew. Only when nobody reads.
    pub(crate) fn wipe<D: Disk>(&self, disk: &D) -> IndexResult<()> {
        self.set(Vec::new());
        for (name, _) in disk.list()? {
            if name.starts_with(PREFIX) {
                disk.remove(&name)?;
            }
        }
        Ok(())
    }

    pub(crate) fn files(&self) -> Files {
        self.files.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, mut files: Vec<Arc<TermFile>>) {
        files.sort_unstable_by_key(|file| Reverse(file.newest));
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(files);
    }

    /// Bytes of all files.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.files().iter().map(|file| file.length()).sum()
    }

    /// Writes the terms of some segments, if they have any. Durable when it returns.
    pub(crate) fn write<D: Disk>(&self, disk: &D, mems: &[Arc<MemSegment>]) -> Result<Replaced, ReadError> {
        let mut entries: Vec<Entry> = Vec::with_capacity(mems.iter().map(|mem| mem.terms().len()).sum());
        for mem in mems {
            let entry = |(term, found): (crate::Term, _)| Entry { term: term.0, segment: mem.number, found };
            entries.extend(mem.terms().map(entry));
        }
        entries.sort_unstable_by_key(Entry::order);
        entries.dedup_by(|later, first| later.is_again(first));
        let Some(newest) = entries.iter().map(|entry| entry.found.sequence).max() else {
            return Ok(Replaced::default());
        };
        let mut segments: Vec<u32> = mems.iter().map(|mem| mem.number).collect();
        segments.sort_unstable();
        segments.dedup();
        let plan = Plan { generation: 0, entries: entries.len() as u64, newest, segments: &segments };
        let file = self.make(disk, plan, |writer| Ok(entries.iter().try_for_each(|entry| writer.push(entry))?))?;
        Ok(Replaced { added: vec![file], removed: Vec::new() })
    }

    /// Makes a file. It and its name are durable when it returns; if it fails there is none.
    fn make<D: Disk>(
        &self,
        disk: &D,
        plan: Plan<'_>,
        fill: impl FnOnce(&mut Writer<D::File>) -> Result<(), ReadError>,
    ) -> Result<TermFile, ReadError> {
        let number = self.highest.fetch_add(1, Ordering::Relaxed) + 1;
        let name = TermFile { number, ..TermFile::default() }.name();
        let made = (|| {
            let mut writer = Writer::new(disk.create(&name)?, number, plan);
            fill(&mut writer)?;
            let file = writer.finish()?;
            disk.sync_dir()?;
            Ok(file)
        })();
        if made.is_err() {
            // What is left all the same is removed by the next opening.
            let _ = disk.remove(&name);
        }
        made
    }

    /// The index says it: readers see the new files from now on, and the old ones go.
    pub(crate) fn replace<D: Disk>(&self, disk: &D, replaced: Replaced) -> Vec<DiskError> {
        if replaced.added.is_empty() && replaced.removed.is_empty() {
            return Vec::new();
        }
        let stays = |file: &&Arc<TermFile>| replaced.removed.iter().all(|gone| gone.number != file.number);
        let files = self.files();
        self.set(files.iter().filter(stays).cloned().chain(replaced.added.into_iter().map(Arc::new)).collect());
        let removed = replaced.removed.iter().filter_map(|file| disk.remove(&file.name()).err());
        removed.filter(|error| error.kind != DiskErrorKind::NotFound).collect()
    }

    /// What had better be written again: a file with little alive in it, or some to become one.
    pub(crate) fn due(&self, segments: &Segments) -> Option<Vec<Arc<TermFile>>> {
        let files = self.files();
        let alive = |file: &TermFile| -> u64 {
            file.segments.iter().filter(|(segment, _)| segments.have(*segment)).map(|(_, entries)| entries).sum()
        };
        if let Some(waste) = files.iter().find(|file| alive(file) * 2 < file.entries) {
            return Some(vec![waste.clone()]);
        }
        let mut generations: BTreeMap<u32, Vec<Arc<TermFile>>> = BTreeMap::new();
        for file in files.iter().filter(|file| file.length() < MERGED_MAX / 2) {
            generations.entry(file.generation).or_default().push(file.clone());
        }
        generations.into_values().find_map(|mut like| {
            like.sort_unstable_by_key(|file| file.number);
            let together = like.get(..FAN_IN)?;
            (together.iter().map(|file| file.length()).sum::<u64>() <= MERGED_MAX).then(|| together.to_vec())
        })
    }

    /// Writes one file, or none, with all entries of `files` whose segments there are. Durable when it returns.
    pub(crate) fn merge<D: Disk>(
        &self,
        disk: &D,
        files: Vec<Arc<TermFile>>,
        segments: &Segments,
    ) -> Result<Replaced, ReadError> {
        let parts = files.iter().flat_map(|file| &file.segments);
        let alive = parts.filter(|(segment, entries)| *entries > 0 && segments.have(*segment));
        let mut kept: Vec<u32> = alive.map(|(segment, _)| *segment).collect();
        kept.sort_unstable();
        kept.dedup();
        let mut added = Vec::new();
        if !kept.is_empty() {
            let greatest = |of: fn(&TermFile) -> u64| files.iter().map(|file| of(file)).max().unwrap_or(0);
            let generation = greatest(|file| file.generation.into()) as u32 + u32::from(files.len() > 1);
            let (entries, newest) = (files.iter().map(|file| file.entries).sum(), greatest(|file| file.newest));
            let plan = Plan { generation, entries, newest, segments: &kept };
            added.push(self.make(disk, plan, |writer| {
                let mut scans = files.iter().map(|file| file.scan(disk)).collect::<Result<Vec<_>, _>>()?;
                let mut last: Option<Entry> = None;
                loop {
                    let ahead = scans.iter_mut().filter_map(|scan| Some((*scan.peek()?, scan)));
                    let Some((entry, scan)) = ahead.min_by_key(|(entry, _)| entry.order()) else { return Ok(()) };
                    if segments.have(entry.segment) && last.is_none_or(|last| !entry.is_again(&last)) {
                        writer.push(&entry)?;
                        last = Some(entry);
                    }
                    scan.advance()?;
                }
            })?);
        }
        Ok(Replaced { added, removed: files })
    }
}

#[cfg(test)]
mod tests;
