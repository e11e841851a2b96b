//! Steps of maintenance: taking sealed segments into the index, dropping dead ones, carrying what is alive out of
//! nearly dead ones.
//!
//! Every step has the same order, so that a crash between any two of its parts is harmless: the new manifest is made
//! durable in the log; then the index takes the changes in, atomically, with the number of the step; then files that
//! the manifest does not list any more are removed. Opening finds the log at most one step ahead and does that one again.
//! Merging files of terms is no step: it concerns the index alone.

use super::manifest::{Manifest, Part};
use super::merge::{Tally, merge};
use super::{Engine, lock};
use crate::Room;
use crate::codec::put_varint;
use crate::disk::{Disk, DiskErrorKind};
use crate::frame::{HEADER, LogId, segment_name};
use crate::index::entries::COVERS;
use crate::index::{Changes, Index, IndexResult, Overlay, Segments};
use crate::mem::MemSegment;
use crate::report::Notice;
use crate::terms::{Replaced, TermFiles};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing to do for now.
    Idle,
    /// A manifest must become durable first.
    Waiting,
    Worked,
}

/// The rest of a step, after its manifest is durable.
pub(crate) struct PendingStep {
    /// Ordinal of the frame with the manifest.
    pub ordinal: u64,
    /// For the index, if it changes.
    pub changes: Option<Changes>,
    /// Segments whose terms go into the index.
    pub mems: Vec<Arc<MemSegment>>,
    /// The segment whose index in memory is not needed any more.
    pub ingested: Option<u32>,
    /// Segments to be removed.
    pub dropped: Vec<u32>,
}

/// The entry that says what the index covers.
pub(crate) fn covers_value(log: &LogId, step: u64) -> Vec<u8> {
    let mut value = log.to_vec();
    put_varint(&mut value, step);
    value
}

/// Takes in changes, and the terms of `mems`, which it writes first.
pub(crate) fn ingest<D: Disk, I: Index>(
    (disk, index, terms): (&D, &I, &TermFiles),
    mut changes: Changes,
    mems: &[Arc<MemSegment>],
) -> IndexResult<()> {
    let written = terms.write(disk, mems)?;
    written.say(&mut changes);
    index.ingest(&changes)?;
    terms.replace(disk, written);
    Ok(())
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Does one step of maintenance, or the rest of the last one.
    pub(crate) fn step_maintain(&self) -> Step {
        self.check_space();
        let mut maintenance = lock(&self.maintenance);
        if self.failed.get().is_some() {
            return Step::Idle;
        }
        if let Some(pending) = maintenance.pending.take() {
            if self.durable_ordinal.load(Ordering::Acquire) < pending.ordinal {
                maintenance.pending = Some(pending);
                self.attention.store(true, Ordering::Release);
                return Step::Waiting;
            }
            return match self.finish(&pending) {
                Ok(()) => Step::Worked,
                Err(error) => {
                    // A full disk, most likely. The log has all of it; the step is tried again.
                    self.notice(Notice::IndexFailed { cause: error.0 });
                    maintenance.pending = Some(pending);
                    Step::Waiting
                }
            };
        }
        if std::mem::take(&mut maintenance.audit)
            && let Err(error) = self.audit_index()
        {
            self.suspect(&error.0);
        }
        let oldest = self.tables().sealed.front().cloned();
        let result = match oldest {
            Some(sealed) => self.start_ingest(&sealed).map(Some),
            None => match self.merge_terms() {
                Ok(true) => {
                    maintenance.terms_merged += 1;
                    return Step::Worked;
                }
                Ok(false) => self.start_reclaim(&mut maintenance),
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(Some(pending)) => {
                if self.settings.broken.delete_segment_too_early {
                    pending.dropped.iter().for_each(|segment| self.remove_segment(*segment));
                }
                maintenance.pending = Some(pending);
                Step::Worked
            }
            // Something may have been queued all the same: a new segment, a new account.
            Ok(None) if !self.ready() => Step::Waiting,
            Ok(None) => Step::Idle,
            Err(error) => {
                self.notice(Notice::IndexFailed { cause: error.0 });
                Step::Idle
            }
        }
    }

    fn start_ingest(&self, sealed: &Arc<MemSegment>) -> IndexResult<PendingStep> {
        let mut overlay = Overlay { index: &self.index, changes: Changes::new() };
        let mut tally = Tally::default();
        merge(&mut overlay, sealed, false, &mut tally)?;
        let part = Part { segment: sealed.number, from: HEADER as u32, to: sealed.end };
        let changes = overlay.changes;
        let (ordinal, changes) = self.commit_step(vec![part], &tally, changes, |manifest| {
            manifest.covers = sealed.number;
        });
        let (mems, ingested) = (vec![sealed.clone()], Some(sealed.number));
        Ok(PendingStep { ordinal, changes: Some(changes), mems, ingested, dropped: Vec::new() })
    }

    /// Queues the manifest of a step that changes the index. Gives back its ordinal and the changes with the number of
    /// the step among them.
    pub(crate) fn commit_step(
        &self,
        parts: Vec<Part>,
        tally: &Tally,
        mut changes: Changes,
        change: impl FnOnce(&mut Manifest),
    ) -> (u64, Changes) {
        let mut commit = lock(&self.commit);
        change(&mut commit.manifest);
        commit.manifest.step += 1;
        commit.manifest.last_step = parts;
        if !tally.apply(&mut commit.manifest) {
            self.suspect("the account would fall below zero");
        }
        changes.insert(COVERS.to_vec(), Some(covers_value(&self.log, commit.manifest.step)));
        (self.append_manifest(&mut commit, false), changes)
    }

    /// Merges files of terms, if any are to be. While the disk is full that waits.
    fn merge_terms(&self) -> IndexResult<bool> {
        let segments = Segments::new(self.existing());
        let Some(files) = self.terms.due(&segments).filter(|_| self.room() == Room::Open) else { return Ok(false) };
        self.replace_terms(self.terms.merge(&self.disk, files, &segments)?)?;
        Ok(true)
    }

    /// Has the index say which files of terms there are now.
    pub(crate) fn replace_terms(&self, replaced: Replaced) -> IndexResult<()> {
        let mut changes = Changes::new();
        replaced.say(&mut changes);
        self.index.ingest(&changes)?;
        for error in self.terms.replace(&self.disk, replaced) {
            // Nobody names it any more: the next opening removes it.
            self.notice(Notice::LeftBehind { file: error.file, cause: error.cause });
        }
        Ok(())
    }

    fn finish(&self, pending: &PendingStep) -> IndexResult<()> {
        if let Some(changes) = &pending.changes {
            ingest((&self.disk, &self.index, &self.terms), changes.clone(), &pending.mems)?;
            self.indexed.store(true, Ordering::Release);
        }
        if let Some(segment) = pending.ingested {
            // Readers look at the memory first and at the index then: in between they see both, never neither.
            self.tables_mut().sealed.retain(|sealed| sealed.number != segment);
        }
        if !pending.dropped.is_empty() {
            pending.dropped.iter().for_each(|segment| self.remove_segment(*segment));
        }
        Ok(())
    }

    /// Numbers of all segments, the open one included.
    pub(crate) fn existing(&self) -> Vec<u32> {
        let commit = lock(&self.commit);
        commit.manifest.rows.keys().copied().chain(std::iter::once(commit.segment)).collect()
    }

    fn remove_segment(&self, segment: u32) {
        self.files.remove(segment);
        match self.disk.remove(&segment_name(segment)) {
            Err(error) if error.kind != DiskErrorKind::NotFound => {
                // It is not listed any more: the next opening removes it.
                self.notice(Notice::LeftBehind { file: segment_name(segment), cause: error.cause });
            }
            _ => {}
        }
    }
}
