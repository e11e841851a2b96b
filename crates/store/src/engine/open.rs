//! Opening a folder: which segments exist, where the log ends, and what was torn.
//!
//! The file `format` says what the folder is: three lines, `martlet log`, `version 1`, `id` and the log id in
//! hexadecimal. The newest segment filled by commits has the truth about all others in its manifest. If its first frame
//! or its header is torn, its creation was never completed and nothing of it was reported durable: it is removed.

use super::files::Files;
use super::manifest::{Manifest, Row};
use super::rebuild::{RebuildProgress, bring_up_to_date};
use super::zeros::Zeros;
use super::{CommitState, Engine, Maintenance, Settings, Tables, Writer, lock};
use crate::UnixMillis;
use crate::cache::TailCache;
use crate::codec::array;
use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile, DiskResult, SECTOR};
use crate::frame::{BadSegment, FrameHeader, HEADER, LogId, SegmentHeader, VERSION, hex, segment_name, segment_number};
use crate::index::{Index, IndexError};
use crate::mem::MemSegment;
use crate::report::{OpenError, RecoveryReport, TornTail};
use crate::scan::{Frames, Scanned, find_header, last_nonzero};
use crate::terms::TermFiles;
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

const FORMAT: &str = "format";
const FORMAT_NEW: &str = "format.new";

/// An engine and how it was found.
pub(crate) type Opened<D, I> = (Engine<D, I>, RecoveryReport);

/// Segment files of a folder: the header, or what is wrong with it, and the length.
type Found = BTreeMap<u32, (Result<SegmentHeader, (&'static str, String)>, u64)>;

/// The newest segment filled by commits, replayed.
struct Tail<F> {
    mem: MemSegment,
    file: Arc<F>,
    manifest: Manifest,
    end: u32,
    next_sequence: u64,
    last_time: UnixMillis,
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// Opens the folder. `new_id` becomes the log id if the folder is new.
    pub(crate) fn open(
        disk: D,
        folder: PathBuf,
        settings: Settings,
        new_id: LogId,
        open_index: impl FnOnce() -> Result<(I, Option<String>), IndexError>,
        progress: RebuildProgress<'_>,
        on_progress: Box<dyn Fn() + Send + Sync>,
    ) -> Result<Opened<D, I>, OpenError> {
        disk.lock().map_err(|error| match error.kind {
            DiskErrorKind::Locked(process) => OpenError::Locked { folder, process },
            _ => error.into(),
        })?;
        let mut report = RecoveryReport::default();
        let log = match read_format(&disk)? {
            Some(log) => log,
            None => {
                if let Some((file, _)) = disk.list()?.iter().find(|(name, _)| segment_number(name).is_some()) {
                    return Err(damaged(FORMAT, 0, "the log's format file", format!("segment {file} without it")));
                }
                report.created = true;
                write_format(&disk, &new_id)?;
                new_id
            }
        };
        let mut segments = headers(&disk, &log)?;
        let tail = find_tail(&disk, &log, &mut segments, &settings, &mut report)?;
        let highest = segments.keys().next_back().copied().unwrap_or(0);
        let mut manifest = tail.as_ref().map(|tail| tail.manifest.clone()).unwrap_or_default();
        let open = tail.as_ref().map(|tail| tail.mem.number);
        remove_leftovers(&disk, &log, &mut segments, &manifest, open, &mut report)?;
        let (mut index, lost) = open_index().map_err(|error| OpenError::Index(error.0))?;
        let (terms, missing) = TermFiles::open(&disk, &index).map_err(|error| OpenError::Index(error.0))?;
        let lost = lost.map(|cause| format!("it could not be opened: {cause}")).or(missing);
        let (rebuilt, audit) = bring_up_to_date((&disk, &mut index, &terms), &log, lost, &mut manifest, progress)?;
        report.index_rebuilt = rebuilt;
        let sealed = replay_sealed(&disk, &log, &segments, &manifest, &mut report)?;
        report.segments = manifest.rows.len() as u64 + u64::from(open.is_some());
        let indexed = manifest.step > 0;
        let files = Files::new();
        let mut commit = CommitState {
            next_ticket: 0,
            next_sequence: 1,
            position: 0,
            segment: 0,
            highest,
            ordinal: 0,
            last_time: UnixMillis(0),
            manifest,
        };
        let mut writer = Writer { file: None, durable: 0, unsynced: None, zeros: Zeros::default() };
        let mut mem = MemSegment::default();
        if let Some(tail) = tail {
            files.insert(tail.mem.number, tail.file.clone());
            (commit.segment, commit.position) = (tail.mem.number, tail.end);
            (commit.next_sequence, commit.last_time) = (tail.next_sequence, tail.last_time);
            report.last_time = tail.last_time;
            writer.zeros = Zeros::of(&disk, settings.durability, &*tail.file)?;
            (writer.file, writer.durable) = (Some((tail.mem.number, tail.file)), tail.end);
            mem = tail.mem;
        }
        let cache = TailCache::new(settings.tail_cache_bytes);
        let engine = Self {
            disk,
            index,
            terms,
            log,
            settings,
            files,
            commit: Mutex::new(commit),
            tables: RwLock::new(Tables { open: mem, sealed, cache }),
            queue: Mutex::new(VecDeque::new()),
            writer: Mutex::new(writer),
            pending: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            durable_ordinal: AtomicU64::new(0),
            indexed: AtomicBool::new(indexed),
            shortage: Mutex::new(None),
            attention: AtomicBool::new(true),
            maintenance: Mutex::new(Maintenance::default()),
            suspected: Mutex::new(None),
            notices: Mutex::new(VecDeque::new()),
            failed: OnceLock::new(),
            on_progress,
        };
        if report.index_rebuilt.is_some() {
            // The account was counted anew.
            let mut commit = lock(&engine.commit);
            if commit.segment != 0 {
                engine.append_manifest(&mut commit, false);
            }
        }
        engine.check_space();
        if audit {
            lock(&engine.maintenance).audit = true;
        }
        Ok((engine, report))
    }
}

pub(crate) fn read_format<D: Disk>(disk: &D) -> Result<Option<LogId>, OpenError> {
    let file = match disk.open(FORMAT) {
        Ok(file) => file,
        Err(error) if error.kind == DiskErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut buffer = [0; 256];
    let count = file.read_at(0, &mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
    let bad = || damaged(FORMAT, 0, "three lines: martlet log, version, id", format!("{text:?}"));
    let mut lines = text.lines();
    if lines.next() != Some("martlet log") {
        return Err(bad());
    }
    let version = lines.next().and_then(|line| line.strip_prefix("version ")?.parse::<u64>().ok()).ok_or_else(bad)?;
    if version > u64::from(VERSION) {
        return Err(OpenError::NewerFormat { file: FORMAT.to_owned(), found: version, known: VERSION.into() });
    }
    let id = lines.next().and_then(|line| line.strip_prefix("id ")).ok_or_else(bad)?;
    let digit = |at: usize| id.get(at * 2..at * 2 + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = (0..id.len() / 2).map(digit).collect();
    match bytes {
        Some(bytes) if id.len() == 32 => Ok(Some(array(&bytes))),
        _ => Err(bad()),
    }
}

fn write_format<D: Disk>(disk: &D, log: &LogId) -> DiskResult<()> {
    match disk.remove(FORMAT_NEW) {
        Err(error) if error.kind != DiskErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(FORMAT_NEW)?;
    file.write_at(0, &[format!("martlet log\nversion {VERSION}\nid {}\n", hex(log)).as_bytes()])?;
    file.sync_data()?;
    disk.rename(FORMAT_NEW, FORMAT)?;
    disk.sync_dir()
}

/// All segment files and their headers.
pub(crate) fn headers<D: Disk>(disk: &D, log: &LogId) -> Result<Found, OpenError> {
    let mut found = Found::new();
    for (name, length) in disk.list()? {
        let Some(number) = segment_number(&name) else { continue };
        let mut bytes = [0; HEADER];
        disk.open(&name)?.read_at(0, &mut bytes)?;
        let header = match SegmentHeader::decode(&bytes) {
            Ok(header) if header.log != *log => Err(("segment of this log", format!("log id {}", hex(&header.log)))),
            Ok(header) if header.segment != number => {
                Err(("segment of this number", format!("segment {}", header.segment)))
            }
            Ok(header) => Ok(header),
            Err(BadSegment::Newer(version)) => {
                return Err(OpenError::NewerFormat { file: name, found: version.into(), known: VERSION.into() });
            }
            Err(BadSegment::Invalid(expected, found)) => Err((expected, found)),
        };
        found.insert(number, (header, length));
    }
    Ok(found)
}

/// Replays the newest segment filled by commits and cuts off what is torn.
fn find_tail<D: Disk>(
    disk: &D,
    log: &LogId,
    segments: &mut Found,
    settings: &Settings,
    report: &mut RecoveryReport,
) -> Result<Option<Tail<D::File>>, OpenError> {
    loop {
        let newest =
            segments.iter().rev().find(|(_, (header, _))| header.as_ref().is_ok_and(|header| header.class == 0));
        let Some((&number, (_, length))) = newest else { return Ok(None) };
        let limit = u32::try_from(*length).unwrap_or(u32::MAX);
        let name = segment_name(number);
        let file = Arc::new(disk.open(&name)?);
        let mut replay = replay(&*file, log, number, limit)?;
        let end = replay.mem.end;
        report.replayed_bytes += u64::from(end);
        if let Some((expected, found)) = replay.bad.take() {
            // A frame behind the bad one that was written when this place was durable already: then it is damage.
            let vouches = find_header(&*file, log, number, end, |header| header.durable > end)?;
            if vouches.is_some() {
                return Err(damaged(&name, end.into(), expected, found));
            }
            let dirty_end = last_nonzero(&*file, end)?;
            if dirty_end > end {
                report.torn =
                    Some(TornTail { file: name.clone(), position: end.into(), bytes_cut: u64::from(dirty_end - end) });
                file.truncate(end.into())?;
            }
        }
        let Some(manifest) = replay.manifest else {
            if end > HEADER as u32 {
                // Only repair leaves a segment without a manifest.
                let manifest = substitute_manifest(disk, log, segments, number)?;
                allocate(&*file, settings)?;
                file.sync_data()?;
                disk.sync_dir()?;
                let (mem, next_sequence, last_time) = (replay.mem, replay.next_sequence, replay.last_time);
                return Ok(Some(Tail { mem, file, manifest, end, next_sequence, last_time }));
            }
            disk.remove(&name)?;
            disk.sync_dir()?;
            segments.remove(&number);
            continue;
        };
        // What was read here may be in the page cache only; it is spoken of from now on.
        allocate(&*file, settings)?;
        file.sync_data()?;
        disk.sync_dir()?;
        let (mem, next_sequence, last_time) = (replay.mem, replay.next_sequence, replay.last_time);
        return Ok(Some(Tail { mem, file, manifest, end, next_sequence, last_time }));
    }
}

/// Gives the open segment its space again. On a full disk it has to do with what it has.
fn allocate<F: DiskFile>(file: &F, settings: &Settings) -> DiskResult<()> {
    let length = file.length()?;
    if length < u64::from(settings.segment_bytes) {
        match file.preallocate(settings.segment_bytes.into()) {
            Err(error) if error.kind == DiskErrorKind::Full => return file.truncate(length),
            other => other?,
        }
    }
    Ok(())
}

/// A manifest in place of one that repair had to drop: the last one of the segment before, and all files there are.
fn substitute_manifest<D: Disk>(disk: &D, log: &LogId, segments: &Found, open: u32) -> Result<Manifest, OpenError> {
    let header = segments.get(&open).and_then(|(header, _)| header.as_ref().ok());
    let before = header.map(|header| (header.previous, header.previous_end)).filter(|(previous, _)| *previous != 0);
    let mut manifest = Manifest::default();
    if let Some((previous, end)) = before {
        let replay = replay(&disk.open(&segment_name(previous))?, log, previous, end)?;
        manifest = replay.manifest.unwrap_or_default();
        manifest.rows.insert(previous, Row { end, ..Row::default() });
    }
    manifest.rows.retain(|segment, _| segments.contains_key(segment));
    let oldest_unknown = before.map_or(0, |(previous, _)| previous);
    for (number, (header, length)) in segments.range(oldest_unknown..) {
        let Ok(header) = header else { continue };
        if header.class != 0 {
            let limit = u32::try_from(*length).unwrap_or(u32::MAX);
            let end = replay(&disk.open(&segment_name(*number))?, log, *number, limit)?.mem.end;
            let row = manifest.rows.entry(*number).or_default();
            (row.class, row.end) = (header.class, row.end.max(end));
        }
    }
    // The index has to be built anew, over everything.
    manifest.covers = oldest_unknown;
    manifest.step += 1 << 32;
    Ok(manifest)
}

/// A segment's frames taken into a fresh index.
pub(crate) struct Replay {
    pub mem: MemSegment,
    pub manifest: Option<Manifest>,
    pub next_sequence: u64,
    pub last_time: UnixMillis,
    /// Why it stopped before the limit: expected, found. Where: the end of `mem`.
    pub bad: Option<(&'static str, String)>,
}

fn replay<F: DiskFile>(file: &F, log: &LogId, segment: u32, limit: u32) -> Result<Replay, OpenError> {
    replay_range(file, log, segment, HEADER as u32, limit)
}

pub(crate) fn replay_range<F: DiskFile>(
    file: &F,
    log: &LogId,
    segment: u32,
    from: u32,
    limit: u32,
) -> Result<Replay, OpenError> {
    let mut frames = Frames::new(file, *log, segment, from, limit);
    let mut replay =
        Replay { mem: MemSegment::new(segment), manifest: None, next_sequence: 1, last_time: UnixMillis(0), bad: None };
    loop {
        match frames.next()? {
            Scanned::End => return Ok(replay),
            Scanned::Bad { expected, found, .. } => {
                replay.bad = Some((expected, found));
                return Ok(replay);
            }
            Scanned::Frame(header, payload) => {
                let at = header.position + HEADER as u32;
                let carried = header.kind == crate::frame::FrameKind::Carried;
                let time = UnixMillis(header.time);
                let malformed = |error: crate::codec::Malformed, what: &str| {
                    damaged(&segment_name(segment), u64::from(at) + error.at as u64, error.expected, what.to_owned())
                };
                let manifest = replay
                    .mem
                    .apply(at, payload, header.sequence, time, carried)
                    .map_err(|error| malformed(error, "other bytes under a good checksum"))?;
                if let Some(bytes) = manifest {
                    replay.manifest =
                        Some(Manifest::decode(&bytes).map_err(|error| malformed(error, "another manifest"))?);
                }
                replay.mem.end = at + header.length;
                replay.next_sequence = replay.next_sequence.max(header.sequence + u64::from(header.ops.max(1)));
                replay.last_time = replay.last_time.max(time);
            }
        }
    }
}

/// Removes files of steps that were not completed, and checks that all that is listed is there.
fn remove_leftovers<D: Disk>(
    disk: &D,
    log: &LogId,
    segments: &mut Found,
    manifest: &Manifest,
    open: Option<u32>,
    report: &mut RecoveryReport,
) -> Result<(), OpenError> {
    for (number, row) in &manifest.rows {
        let name = segment_name(*number);
        match segments.get(number) {
            None => return Err(damaged(&name, 0, "the segment's file", "no such file".to_owned())),
            Some((Err((expected, found)), _)) => return Err(damaged(&name, 0, expected, found.clone())),
            Some((Ok(_), length)) if *length < u64::from(row.end) => {
                return Err(damaged(&name, *length, &format!("{} bytes", row.end), "end of file".to_owned()));
            }
            Some(_) => {}
        }
    }
    let unlisted: Vec<u32> =
        segments.keys().copied().filter(|n| Some(*n) != open && !manifest.rows.contains_key(n)).collect();
    for number in unlisted {
        let name = segment_name(number);
        if let Some((Err((expected, found)), _)) = segments.remove(&number) {
            let file = disk.open(&name)?;
            if !creation_was_torn(&file, log, number)? {
                return Err(damaged(&name, 0, expected, found));
            }
            let bytes_cut = u64::from(last_nonzero(&file, 0)?);
            if bytes_cut > 0 && report.torn.is_none() {
                report.torn = Some(TornTail { file: name.clone(), position: 0, bytes_cut });
            }
        }
        disk.remove(&name)?;
        report.leftovers_removed.push(name);
    }
    if !report.leftovers_removed.is_empty() {
        disk.sync_dir()?;
    }
    Ok(())
}

/// Whether a file without a segment header, which no manifest lists, is one whose first write never became durable.
///
/// That write holds several frames, or (what is carried) is followed by more before the first sync. Until then any of
/// its sectors may be missing: also the first, with the header, while good frames behind it are there. So the first
/// sector is still the zeros of a new file, and no frame says that one before it was durable. A frame behind a first
/// sector with other bytes in it is proof of a header that was there once.
pub(crate) fn creation_was_torn<F: DiskFile>(file: &F, log: &LogId, segment: u32) -> DiskResult<bool> {
    let mut sector = [0; SECTOR];
    file.read_at(0, &mut sector)?;
    let never_written = sector == [0; SECTOR];
    // The frames of the first write have 0 here, those carried into a new segment its first position.
    let proof = |header: &FrameHeader| !never_written || header.durable > HEADER as u32;
    Ok(find_header(file, log, segment, HEADER as u32, proof)?.is_none())
}

/// Indexes in memory of the sealed segments that the index does not cover.
fn replay_sealed<D: Disk>(
    disk: &D,
    log: &LogId,
    segments: &Found,
    manifest: &Manifest,
    report: &mut RecoveryReport,
) -> Result<VecDeque<Arc<MemSegment>>, OpenError> {
    let mut sealed = VecDeque::new();
    for (number, row) in manifest.rows.iter().filter(|(segment, row)| row.class == 0 && **segment > manifest.covers) {
        debug_assert!(segments.contains_key(number));
        let name = segment_name(*number);
        let replay = replay(&disk.open(&name)?, log, *number, row.end)?;
        if let Some((expected, found)) = replay.bad {
            return Err(damaged(&name, replay.mem.end.into(), expected, found));
        }
        report.replayed_bytes += u64::from(row.end);
        sealed.push_back(Arc::new(replay.mem));
    }
    Ok(sealed)
}

pub(crate) fn damaged(file: &str, position: u64, expected: &str, found: String) -> OpenError {
    OpenError::Damaged { file: file.to_owned(), position, expected: expected.to_owned(), found }
}

impl From<DiskError> for OpenError {
    fn from(error: DiskError) -> Self {
        Self::Io { operation: error.operation, file: error.file, position: error.position, cause: error.cause }
    }
}
