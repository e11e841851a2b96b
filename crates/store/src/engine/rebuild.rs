//! The index as a cache of the log: checked when a folder is opened, brought up to date, rebuilt if it lost anything.

use super::maintain::{covers_value, ingest};
use super::manifest::Manifest;
use super::merge::{Tally, count, merge};
use super::open::{damaged, replay_range};
use super::{Engine, lock};
use crate::codec::Input;
use crate::disk::Disk;
use crate::frame::{HEADER, LogId, segment_name};
use crate::index::entries::COVERS;
use crate::index::{Changes, Index, IndexError, IndexResult, Overlay};
use crate::mem::MemSegment;
use crate::report::{Notice, OpenError};
use crate::terms::{Replaced, TermFiles};
use std::sync::Arc;

/// Told now and then how far a rebuild has come: bytes of the log done, and all in all.
pub(crate) type RebuildProgress<'a> = &'a mut dyn FnMut(u64, u64);

/// Entries up to which the index is compared with the account while opening; beyond, maintenance does it.
const AUDIT_AT_OPEN_MAX: u64 = 200_000;

/// Makes the index include all steps of the manifest, unless it is `lost`. Gives back why it had to be rebuilt, if it had,
/// and whether it still is to be compared with the account.
pub(crate) fn bring_up_to_date<D: Disk, I: Index>(
    (disk, index, terms): (&D, &mut I, &TermFiles),
    log: &LogId,
    lost: Option<String>,
    manifest: &mut Manifest,
    progress: RebuildProgress<'_>,
) -> Result<(Option<String>, bool), OpenError> {
    let reason = match lost {
        Some(cause) => Some(cause),
        None => match catch_up((disk, index, terms), log, manifest) {
            Ok(reason) => reason,
            Err(error) => Some(error.0),
        },
    };
    if reason.is_none() {
        let entries = manifest.rows.values().map(|row| row.live.messages / 64 + row.live.pieces).sum::<u64>();
        if entries > AUDIT_AT_OPEN_MAX {
            return Ok((None, true));
        }
    }
    let reason = reason.or_else(|| match audit(index, manifest) {
        Ok(difference) => difference,
        Err(error) => Some(error.0),
    });
    if reason.is_some() {
        rebuild((disk, index, terms), log, manifest, progress)?;
    }
    Ok((reason, false))
}

/// Repeats the last step if the index misses it. Gives back why that is not enough.
fn catch_up<D: Disk, I: Index>(
    (disk, index, terms): (&D, &I, &TermFiles),
    log: &LogId,
    manifest: &Manifest,
) -> IndexResult<Option<String>> {
    let Some(covers) = index.get(COVERS)? else {
        return Ok((manifest.step > 0).then(|| "it is empty".to_owned()));
    };
    let step = match covers.strip_prefix(&log[..]) {
        None => return Ok(Some("it belongs to another log".to_owned())),
        Some(step) => Input::new(step).varint("step").map_err(|error| IndexError(error.to_string()))?,
    };
    if step == manifest.step {
        return Ok(None);
    }
    if step + 1 != manifest.step {
        return Ok(Some(format!("it includes {step} steps, the log {}", manifest.step)));
    }
    let mut overlay = Overlay { index, changes: Changes::new() };
    let mut mems = Vec::new();
    for part in &manifest.last_step {
        let mem = load(disk, log, part.segment, part.from, part.to).map_err(|error| IndexError(error.to_string()))?;
        // The account has the step already.
        merge(&mut overlay, &mem, false, &mut Tally::default())?;
        mems.push(Arc::new(mem));
    }
    let mut changes = overlay.changes;
    changes.insert(COVERS.to_vec(), Some(covers_value(log, manifest.step)));
    ingest((disk, index, terms), changes, &mems)?;
    Ok(None)
}

/// What the index and the account do not agree about.
pub(crate) fn audit<I: Index>(index: &I, manifest: &Manifest) -> IndexResult<Option<String>> {
    let live = count(index)?.live();
    for (segment, row) in &manifest.rows {
        let found = live.get(segment).copied().unwrap_or_default();
        if found != row.live {
            return Ok(Some(format!(
                "segment {segment} has {:?} alive by the log and {found:?} by the index",
                row.live
            )));
        }
    }
    Ok(None)
}

fn load<D: Disk>(disk: &D, log: &LogId, segment: u32, from: u32, to: u32) -> Result<MemSegment, OpenError> {
    let name = segment_name(segment);
    let replay = replay_range(&disk.open(&name)?, log, segment, from, to)?;
    match replay.bad {
        Some((expected, found)) => Err(damaged(&name, replay.mem.end.into(), expected, found)),
        None => Ok(replay.mem),
    }
}

/// Empties the index and takes in all segments it should cover. The account is counted anew.
fn rebuild<D: Disk, I: Index>(
    (disk, index, terms): (&D, &mut I, &TermFiles),
    log: &LogId,
    manifest: &mut Manifest,
    progress: RebuildProgress<'_>,
) -> Result<(), OpenError> {
    let failed = |error: IndexError| OpenError::Index(error.0);
    index.wipe().map_err(failed)?;
    terms.wipe(disk).map_err(failed)?;
    take_in_all((disk, index, terms), log, manifest, progress)?;
    let covers = Changes::from([(COVERS.to_vec(), Some(covers_value(log, manifest.step)))]);
    index.ingest(&covers).map_err(failed)
}

fn take_in_all<D: Disk, I: Index>(
    (disk, index, terms): (&D, &I, &TermFiles),
    log: &LogId,
    manifest: &mut Manifest,
    progress: RebuildProgress<'_>,
) -> Result<(), OpenError> {
    let failed = |error: IndexError| OpenError::Index(error.0);
    let covers = manifest.covers;
    let covered = |segment: u32, class: u32| class != 0 || segment <= covers;
    let rows: Vec<_> = manifest.rows.iter().filter(|(s, row)| covered(**s, row.class)).map(|(s, r)| (*s, *r)).collect();
    let total = rows.iter().map(|(_, row)| u64::from(row.end)).sum();
    let mut done = 0;
    for (segment, row) in rows {
        progress(done, total);
        let mem = Arc::new(load(disk, log, segment, HEADER as u32, row.end)?);
        let mut overlay = Overlay { index, changes: Changes::new() };
        merge(&mut overlay, &mem, true, &mut Tally::default()).map_err(failed)?;
        ingest((disk, index, terms), overlay.changes, &[mem]).map_err(failed)?;
        done += u64::from(row.end);
    }
    progress(done, total);
    let live = count(index).map_err(failed)?.live();
    for (segment, row) in &mut manifest.rows {
        row.live = live.get(segment).copied().unwrap_or_default();
    }
    Ok(())
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// The index may have lost something: nothing is reclaimed before it is repaired.
    pub(crate) fn suspect(&self, why: &str) {
        let mut suspected = lock(&self.suspected);
        if suspected.is_none() {
            *suspected = Some(why.to_owned());
        }
    }

    pub(crate) fn is_suspect(&self) -> bool {
        lock(&self.suspected).is_some()
    }

    /// Takes all segments in once more. What is there stays and is readable meanwhile; what was lost comes back.
    pub(crate) fn repair_index(&self) -> IndexResult<()> {
        let why = lock(&self.suspected).clone().unwrap_or_default();
        let mut manifest = lock(&self.commit).manifest.clone();
        let before = Replaced { removed: self.terms.files().to_vec(), ..Replaced::default() };
        take_in_all((&self.disk, &self.index, &self.terms), &self.log, &mut manifest, &mut |_, _| {})
            .map_err(|error| IndexError(error.to_string()))?;
        // What they had is there anew.
        self.replace_terms(before)?;
        let mut commit = lock(&self.commit);
        for (segment, row) in &mut commit.manifest.rows {
            row.live = manifest.rows.get(segment).map(|row| row.live).unwrap_or_default();
        }
        self.append_manifest(&mut commit, false);
        drop(commit);
        *lock(&self.suspected) = None;
        self.notice(Notice::IndexRebuilt { why });
        Ok(())
    }

    /// Compares the index with the account; only between steps.
    pub(crate) fn audit_index(&self) -> IndexResult<()> {
        let manifest = lock(&self.commit).manifest.clone();
        if let Some(difference) = audit(&self.index, &manifest)? {
            self.suspect(&difference);
        }
        Ok(())
    }
}
