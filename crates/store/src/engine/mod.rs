//! The engine core: log, index of the open segment, sealing, reclaim and account, with no thread inside. Whoever owns
//! it calls its steps: [`crate::local`] from threads, [`crate::sim`] one by one from a seed.
//!
//! Life of a batch: `commit` encodes it, gives it a place in the log, makes it readable and queues it; `step_write`
//! writes the oldest queued frame; `step_sync` makes it durable. One frame is unsynced at a time, so a frame's header
//! can say what was durable before it, and a bad frame that something later vouches for is known to be damage.
//!
//! Locks, in this order: `maintenance`, `commit`, `tables`, `queue`; `writer` is taken by the writing steps only, alone
//! or before `queue`. None is held during I/O except `maintenance` and `writer`.

pub(crate) mod files;
pub(crate) mod maintain;
pub(crate) mod manifest;
mod merge;
pub(crate) mod open;
pub(crate) mod read;
mod rebuild;
mod reclaim;
mod room;
mod scrub;
mod zeros;

use crate::cache::TailCache;
use crate::codec::crc32c;
use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile};
use crate::frame::{FrameHeader, FrameKind, HEADER, LogId, SegmentHeader, segment_name};
use crate::index::Index;
use crate::mem::MemSegment;
use crate::payload::Encoder;
use crate::report::Notice;
use crate::terms::TermFiles;
use crate::{Batch, Durability, Op, Progress, Shortage, StoreFailure, StoredMessage, Ticket, UnixMillis, Usage};
use bytes::Bytes;
use files::Files;
use maintain::PendingStep;
use manifest::{Manifest, Row};
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use zeros::Zeros;

/// Settings of the core.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub segment_bytes: u32,
    pub tail_cache_bytes: usize,
    /// A segment whose index in memory grows beyond this is sealed early.
    pub memory_index_bytes: usize,
    /// Age at which a segment that makes bytes elsewhere dead is sealed, ms of shard time.
    pub seal_after_millis: i64,
    /// Segments the log may be larger than twice what is alive.
    pub slack_segments: u64,
    pub durability: Durability,
    pub broken: Broken,
}

/// Defects the simulation switches on to show that it notices them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Broken {
    /// Batches are reported durable once written.
    pub release_before_sync: bool,
    /// A segment is removed before the manifest without it is durable.
    pub delete_segment_too_early: bool,
}

/// What is written and synced as one: one frame, or a new segment with its first two.
struct Unit {
    segment: u32,
    position: u32,
    create: Option<Create>,
    frames: Vec<(FrameHeader, Bytes)>,
    /// Ordinal of its last frame.
    ordinal: u64,
    ticket: Option<Ticket>,
}

/// A segment to be begun, and where the one before ends.
struct Create {
    header: SegmentHeader,
}

struct CommitState {
    next_ticket: u64,
    next_sequence: u64,
    position: u32,
    segment: u32,
    /// Highest number any segment ever had.
    highest: u32,
    /// Ordinal of the last frame queued.
    ordinal: u64,
    last_time: UnixMillis,
    manifest: Manifest,
}

struct Writer<F> {
    file: Option<(u32, Arc<F>)>,
    /// Frames of the segment below this position are synced.
    durable: u32,
    unsynced: Option<Unsynced>,
    zeros: Zeros,
}

struct Unsynced {
    end: u32,
    created: bool,
    ordinal: u64,
    ticket: Option<Ticket>,
}

/// What readers look at.
pub(crate) struct Tables {
    pub open: MemSegment,
    /// Sealed and not yet in the index, oldest first.
    pub sealed: VecDeque<Arc<MemSegment>>,
    pub cache: TailCache,
}

/// What maintenance remembers from step to step.
#[derive(Default)]
pub(crate) struct Maintenance {
    pending: Option<PendingStep>,
    /// Segments found damaged: left alone until repaired.
    damaged: BTreeSet<u32>,
    carried_bytes: u64,
    /// Times that files of terms were merged.
    terms_merged: u64,
    /// Where the scrub goes on.
    scrub: (u32, u32),
    /// The index is to be compared with the account.
    audit: bool,
}

/// Notices kept until somebody takes them.
const NOTICES_MAX: usize = 64;

pub(crate) struct Engine<D: Disk, I> {
    disk: D,
    index: I,
    terms: TermFiles,
    log: LogId,
    settings: Settings,
    files: Files<D::File>,
    commit: Mutex<CommitState>,
    tables: RwLock<Tables>,
    queue: Mutex<VecDeque<Unit>>,
    writer: Mutex<Writer<D::File>>,
    /// Units queued or under way.
    pending: AtomicUsize,
    /// Ordinal of the last frame written.
    written: AtomicU64,
    durable: AtomicU64,
    /// Ordinal of the last frame that is durable.
    durable_ordinal: AtomicU64,
    /// Whether the index has anything.
    indexed: AtomicBool,
    shortage: Mutex<Option<Shortage>>,
    /// Maintenance has something to do, or to go on with.
    attention: AtomicBool,
    maintenance: Mutex<Maintenance>,
    /// Why the index is not trusted.
    suspected: Mutex<Option<String>>,
    notices: Mutex<VecDeque<Notice>>,
    failed: OnceLock<Arc<StoreFailure>>,
    on_progress: Box<dyn Fn() + Send + Sync>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Disk, I: Index> Engine<D, I> {
    pub(crate) fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ready(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    pub(crate) fn progress(&self) -> Progress {
        // In this order: a failure seen goes with at least the durable ticket it followed.
        let failed = self.failed.get().cloned();
        Progress { durable: Ticket(self.durable.load(Ordering::Acquire)), failed }
    }

    pub(crate) fn usage(&self) -> Usage {
        let space = self.disk.space().unwrap_or_default();
        let commit = lock(&self.commit);
        let rows = &commit.manifest.rows;
        Usage {
            log_bytes: rows.values().map(|row| u64::from(row.end)).sum::<u64>()
                + u64::from(self.settings.segment_bytes),
            live_bytes: Some(rows.values().map(|row| row.live.bytes()).sum::<u64>() + u64::from(commit.position)),
            segments: rows.len() as u64 + 1,
            index_bytes: self.index.disk_bytes() + self.terms.disk_bytes(),
            disk_total: space.total,
            disk_free: space.free,
            written_bytes: self.disk.written_bytes(),
        }
    }

    /// Makes a batch readable and queues it for writing.
    pub(crate) fn commit(&self, batch: &Batch) -> Ticket {
        let mut encoder = Encoder::with_capacity(batch.ops.iter().map(room_for).sum());
        for op in &batch.ops {
            encoder.op(op, batch.time);
        }
        let (payload, ops) = encoder.finish();
        let mut commit = lock(&self.commit);
        commit.next_ticket += 1;
        let ticket = Ticket(commit.next_ticket);
        self.append(&mut commit, batch.time, Some((payload, ops)), Some(ticket), false);
        ticket
    }

    /// Queues a manifest, in a new segment if `seal`. Gives back the ordinal of its frame.
    fn append_manifest(&self, commit: &mut CommitState, seal: bool) -> u64 {
        self.append(commit, commit.last_time, None, None, seal);
        commit.ordinal
    }

    /// Gives a payload (none: the manifest) its place in the log.
    fn append(
        &self,
        commit: &mut CommitState,
        time: UnixMillis,
        payload: Option<(Vec<u8>, u32)>,
        ticket: Option<Ticket>,
        seal: bool,
    ) {
        if self.failed.get().is_some() {
            return;
        }
        let payload = payload.map(|(payload, ops)| (Bytes::from(payload), ops));
        commit.last_time = commit.last_time.max(time);
        let mut tables = self.tables_mut();
        let length = payload.as_ref().map_or(commit.manifest.rows.len() * 40 + 64, |(payload, _)| payload.len());
        let needed = (HEADER + length) as u64;
        let full = u64::from(commit.position) + needed > u64::from(self.settings.segment_bytes);
        let heavy = tables.open.memory() > self.settings.memory_index_bytes;
        let mut frames = Vec::with_capacity(1);
        let (mut create, mut position) = (None, commit.position);
        let begin = commit.segment == 0 || full || heavy || seal;
        if begin {
            create = Some(Create { header: self.roll(commit, &mut tables, time) });
            self.attention.store(true, Ordering::Release);
            position = 0;
        }
        if begin || payload.is_none() {
            let mut encoder = Encoder::default();
            encoder.manifest(&commit.manifest.encode());
            let (manifest, ops) = encoder.finish();
            self.place(commit, &mut tables, time, manifest.into(), ops, &mut frames);
        }
        if let Some((payload, ops)) = payload {
            if u64::from(commit.position) + needed > u64::from(u32::MAX) {
                let cause = format!("the batch takes {needed} bytes, a segment holds at most {}", u32::MAX);
                let file = segment_name(commit.segment);
                return self.fail(StoreFailure {
                    operation: "placing a batch",
                    file,
                    position: Some(u64::from(position)),
                    cause,
                });
            }
            self.place(commit, &mut tables, time, payload, ops, &mut frames);
        }
        drop(tables);
        self.pending.fetch_add(1, Ordering::AcqRel);
        let (segment, ordinal) = (commit.segment, commit.ordinal);
        lock(&self.queue).push_back(Unit { segment, position, create, frames, ordinal, ticket });
    }

    /// Seals the open segment if it is old and makes bytes elsewhere dead: only then is their space found.
    fn seal_if_stale(&self) -> Option<PendingStep> {
        let mut commit = lock(&self.commit);
        let stale = {
            let open = &self.tables().open;
            // Sooner where space is short.
            let patience = self.settings.seal_after_millis / if lock(&self.shortage).is_some() { 60 } else { 1 };
            open.frees && commit.last_time.since(open.first_time) > patience
        };
        if stale {
            self.append_manifest(&mut commit, true);
        }
        None
    }

    fn notice(&self, notice: Notice) {
        let mut notices = lock(&self.notices);
        // The same trouble again and again is told once.
        if notices.back() != Some(&notice) && notices.len() < NOTICES_MAX {
            notices.push_back(notice);
        }
    }

    /// Whether maintenance is to be called soon; said once.
    pub(crate) fn take_attention(&self) -> bool {
        self.attention.swap(false, Ordering::AcqRel)
    }

    pub(crate) fn carried_bytes(&self) -> u64 {
        lock(&self.maintenance).carried_bytes
    }

    pub(crate) fn terms_merged(&self) -> u64 {
        lock(&self.maintenance).terms_merged
    }

    /// What was noticed since the last call.
    pub(crate) fn take_notices(&self) -> Vec<Notice> {
        lock(&self.notices).drain(..).collect()
    }

    /// Seals the open segment and begins the next one.
    fn roll(&self, commit: &mut CommitState, tables: &mut Tables, time: UnixMillis) -> SegmentHeader {
        let (previous, previous_end) = (commit.segment, commit.position);
        commit.highest += 1;
        commit.segment = commit.highest;
        commit.position = HEADER as u32;
        let sealed = std::mem::replace(&mut tables.open, MemSegment::new(commit.segment));
        if previous != 0 {
            tables.sealed.push_back(Arc::new(sealed));
            commit.manifest.rows.insert(previous, Row { end: previous_end, ..Row::default() });
        }
        let (log, segment) = (self.log, commit.segment);
        SegmentHeader { log, segment, class: 0, previous, previous_end, created: time.0 }
    }

    /// Puts one frame at the end of the open segment: into its index, the tail cache, and `frames`.
    fn place(
        &self,
        commit: &mut CommitState,
        tables: &mut Tables,
        time: UnixMillis,
        payload: Bytes,
        ops: u32,
        frames: &mut Vec<(FrameHeader, Bytes)>,
    ) {
        let header = FrameHeader {
            kind: FrameKind::Batch,
            length: payload.len() as u32,
            log: self.log,
            segment: commit.segment,
            position: commit.position,
            durable: 0, // known when it is written
            ops,
            sequence: commit.next_sequence,
            time: time.0,
            payload_crc: crc32c(&payload),
        };
        let at = commit.position + HEADER as u32;
        if let Err(malformed) = tables.open.apply(at, &payload, header.sequence, time, false) {
            // Only a batch against the contract gets here (an offset that goes back). Nothing of it may become durable.
            let file = segment_name(commit.segment);
            let position = u64::from(at) + malformed.at as u64;
            self.fail(StoreFailure {
                operation: "indexing a batch",
                file,
                position: Some(position),
                cause: malformed.to_string(),
            });
        }
        commit.next_sequence += u64::from(ops.max(1));
        commit.position = at + payload.len() as u32;
        commit.ordinal += 1;
        let written = self.written.load(Ordering::Acquire);
        tables.cache.push(commit.segment, at, payload.clone(), commit.ordinal, written);
        frames.push((header, payload));
    }

    /// Writes the oldest queued unit. False if there was nothing to do or the one before is not synced yet.
    pub(crate) fn step_write(&self) -> bool {
        let mut writer = lock(&self.writer);
        if writer.unsynced.is_some() || self.failed.get().is_some() {
            return false;
        }
        let Some(unit) = lock(&self.queue).pop_front() else { return false };
        match self.write(&mut writer, &unit) {
            Ok(end) => {
                self.written.store(unit.ordinal, Ordering::Release);
                let created = unit.create.is_some();
                writer.unsynced = Some(Unsynced { end, created, ordinal: unit.ordinal, ticket: unit.ticket });
                if self.settings.broken.release_before_sync {
                    self.release(unit.ticket);
                }
            }
            Err(error) => self.fail(error.into()),
        }
        true
    }

    fn write(&self, writer: &mut Writer<D::File>, unit: &Unit) -> Result<u32, DiskError> {
        if let Some(create) = &unit.create {
            if let Some((_, sealed)) = writer.file.take() {
                sealed.truncate(u64::from(create.header.previous_end))?;
                if self.settings.durability != Durability::Fdatasync {
                    // A segment that exists vouches for all before it, whatever was promised to clients.
                    sealed.sync_data()?;
                }
            }
            let file = Arc::new(self.create_segment(unit.segment)?);
            self.files.insert(unit.segment, file.clone());
            writer.zeros = Zeros::of(&self.disk, self.settings.durability, &*file)?;
            writer.file = Some((unit.segment, file));
            writer.durable = 0;
        }
        let Some((_, file)) = writer.file.as_ref().filter(|(segment, _)| *segment == unit.segment) else {
            let cause = "it is not the open segment".to_owned();
            let (kind, file) = (DiskErrorKind::Other, segment_name(unit.segment));
            return Err(DiskError { kind, operation: "write", file, position: u64::from(unit.position), cause });
        };
        let mut headers = Vec::with_capacity(3);
        if let Some(create) = &unit.create {
            headers.push(create.header.encode());
        }
        let mut end = unit.position;
        for (header, _) in &unit.frames {
            headers.push(FrameHeader { durable: writer.durable, ..*header }.encode());
            end = header.position + HEADER as u32 + header.length;
        }
        let mut parts: Vec<&[u8]> = Vec::with_capacity(5);
        let mut headers = headers.iter();
        if unit.create.is_some() {
            parts.extend(headers.next().map(|header| &header[..]));
        }
        for (header, (_, payload)) in headers.zip(&unit.frames) {
            parts.push(header);
            parts.push(payload);
        }
        let zeros = writer.zeros.behind(unit.position, end);
        parts.extend(zeros::parts(zeros));
        file.write_at(u64::from(unit.position), &parts)?;
        writer.zeros.written(end + zeros);
        Ok(end)
    }

    /// Makes durable what the last step wrote. False if there was nothing.
    pub(crate) fn step_sync(&self) -> bool {
        let mut writer = lock(&self.writer);
        if self.failed.get().is_some() {
            return false;
        }
        let Some(unsynced) = writer.unsynced.take() else { return false };
        match self.sync(&mut writer, &unsynced) {
            Ok(()) => {
                self.durable_ordinal.store(unsynced.ordinal, Ordering::Release);
                self.release(unsynced.ticket);
                self.pending.fetch_sub(1, Ordering::AcqRel);
                (self.on_progress)();
            }
            Err(error) => self.fail(error.into()),
        }
        true
    }

    fn sync(&self, writer: &mut Writer<D::File>, unsynced: &Unsynced) -> Result<(), DiskError> {
        if self.settings.durability == Durability::Fdatasync {
            if let Some((_, file)) = &writer.file {
                file.sync_data()?;
            }
            writer.durable = unsynced.end;
        }
        if unsynced.created {
            self.disk.sync_dir()?;
        }
        Ok(())
    }

    fn release(&self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.durable.store(ticket.0, Ordering::Release);
        }
    }

    /// Stops the store for good.
    fn fail(&self, failure: StoreFailure) {
        // The first failure is the one that tells what happened.
        let _ = self.failed.set(Arc::new(failure));
        self.pending.store(0, Ordering::Release);
        (self.on_progress)();
    }
}

impl From<DiskError> for StoreFailure {
    fn from(error: DiskError) -> Self {
        Self { operation: error.operation, file: error.file, position: Some(error.position), cause: error.cause }
    }
}

/// Bytes an operation will take at most, or a little less for rare large numbers.
fn room_for(op: &Op) -> usize {
    match op {
        Op::Append { record, terms, .. } | Op::Restore { message: StoredMessage { record, .. }, terms, .. } => {
            record.len() + terms.len() * 8 + 36
        }
        Op::Put { key, image, .. } => key.len() + image.len() + 16,
        Op::Delta { key, delta } => key.len() + delta.len() + 8,
        Op::Remove { key } => key.len() + 4,
        Op::Trim { .. } | Op::Forget { .. } => 20,
    }
}
