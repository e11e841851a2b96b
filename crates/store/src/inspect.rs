//! Looking at a log without opening it, and dropping by name what is damaged.
//!
//! Both are for a store that is not running. [`inspect`] changes nothing. [`repair`] replaces one damaged frame by a gap
//! of the same length, so that all later frames stay where they are, keeps the bytes in a file beside it, and removes
//! the index, which the next opening builds anew.

use crate::codec::array;
use crate::disk::real::RealDisk;
use crate::disk::{Disk, DiskErrorKind, DiskFile};
use crate::engine::manifest::Manifest;
use crate::engine::open::{creation_was_torn, damaged, headers, read_format};
use crate::frame::{FrameHeader, FrameKind, HEADER, LogId, hex, segment_name};
use crate::payload::{Decoder, ItemOp, decode_message};
use crate::report::OpenError;
use crate::scan::{Frames, Scanned, find_header, last_nonzero};
use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use std::path::Path;

/// What a folder holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The log's id, in hexadecimal digits.
    pub log_id: String,
    /// Its segments by number.
    pub segments: Vec<SegmentReport>,
}

/// What one segment holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its number.
    pub segment: u32,
    /// File name within the folder.
    pub file: String,
    /// Expiry class: 0 written by commits, 1 to 4 carried forward.
    pub class: u32,
    /// Good frames, gaps left by repair not counted.
    pub frames: u64,
    /// Gaps left by repair.
    pub gaps: u64,
    /// Messages in good frames.
    pub messages: u64,
    /// Changes of keys in good frames.
    pub key_changes: u64,
    /// Position after the last good frame before any damage.
    pub end: u64,
    /// The first place that is not as it was written.
    pub damage: Option<Damage>,
    /// The last frame is torn, or the whole file if `damage` is at 0: opening cuts it off. Nothing in it was ever
    /// reported durable.
    pub torn: bool,
}

/// A place that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Byte position in the file.
    pub position: u64,
    /// What should be there.
    pub expected: String,
    /// What is there.
    pub found: String,
}

/// What was lost with a dropped frame, as far as it can be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lost {
    /// Bytes that are now a gap.
    pub bytes: u64,
    /// File with these bytes, beside the segments.
    pub kept_in: String,
    /// Messages.
    pub messages: Vec<LostMessage>,
    /// Keys that were changed.
    pub keys: Vec<Bytes>,
    /// Whether the frame could be read to its end; if not, more was lost than is listed.
    pub complete: bool,
}

/// A message in a dropped frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostMessage {
    /// Its queue.
    pub queue: QueueId,
    /// Its place.
    pub offset: QueueOffset,
    /// Its record as found.
    pub record: Bytes,
    /// Whether its own checksum says that it is as it was written.
    pub intact: bool,
}

/// Looks at every segment of a folder.
pub fn inspect(folder: &Path) -> Result<Inspection, OpenError> {
    inspect_disk(&RealDisk::open(folder)?)
}

/// Drops the damaged frame at `position` of `segment`.
pub fn repair(folder: &Path, segment: u32, position: u64) -> Result<Lost, OpenError> {
    let disk = RealDisk::open(folder)?;
    disk.lock().map_err(|error| match error.kind {
        DiskErrorKind::Locked(process) => OpenError::Locked { folder: folder.to_owned(), process },
        _ => error.into(),
    })?;
    let lost = repair_disk(&disk, segment, position)?;
    match std::fs::remove_dir_all(folder.join("index")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(OpenError::Index(error.to_string())),
        _ => Ok(lost),
    }
}

fn log_of<D: Disk>(disk: &D) -> Result<LogId, OpenError> {
    read_format(disk)?.ok_or_else(|| damaged("format", 0, "the log's format file", "no such file".to_owned()))
}

pub(crate) fn inspect_disk<D: Disk>(disk: &D) -> Result<Inspection, OpenError> {
    let log = log_of(disk)?;
    let found = headers(disk, &log)?;
    let newest =
        found.iter().rev().find(|(_, (header, _))| header.as_ref().is_ok_and(|h| h.class == 0)).map(|(n, _)| *n);
    let mut manifest = Manifest::default();
    let mut inspection = Inspection { log_id: hex(&log), segments: Vec::new() };
    for (number, (header, length)) in &found {
        let limit = u32::try_from(*length).unwrap_or(u32::MAX);
        let mut report = SegmentReport { segment: *number, file: segment_name(*number), ..SegmentReport::default() };
        match header {
            Ok(header) => report.class = header.class,
            Err((expected, found)) => {
                let (expected, found) = ((*expected).to_owned(), found.clone());
                report.damage = Some(Damage { position: 0, expected, found });
            }
        }
        let file = disk.open(&report.file)?;
        // If a manifest lists it, it is damage all the same: below.
        report.torn = report.damage.is_some() && creation_was_torn(&file, &log, *number)?;
        let mut frames = Frames::new(&file, log, *number, HEADER as u32, limit);
        report.end = HEADER as u64;
        let bad = loop {
            match frames.next()? {
                Scanned::End => break None,
                Scanned::Bad { expected, found, .. } => break Some((expected, found)),
                Scanned::Frame(header, payload) => {
                    report.end = header.end().map_or(report.end, u64::from);
                    if header.kind == FrameKind::Gap {
                        report.gaps += 1;
                        continue;
                    }
                    report.frames += 1;
                    let mut decoder = Decoder::new(payload, header.sequence, UnixMillis(header.time));
                    while let Some(Ok(item)) = decoder.next() {
                        match item.op {
                            ItemOp::Append(_) => report.messages += 1,
                            ItemOp::Put { .. } | ItemOp::Delta { .. } | ItemOp::Remove { .. } => {
                                report.key_changes += 1
                            }
                            ItemOp::Manifest(bytes) if Some(*number) == newest => {
                                manifest = Manifest::decode(bytes).unwrap_or_default();
                            }
                            _ => {}
                        }
                    }
                }
            }
        };
        if let (Some((expected, found)), None) = (bad, &report.damage) {
            let end = report.end as u32;
            let vouched = find_header(&file, &log, *number, end, |header| header.durable > end)?.is_some();
            if vouched {
                let (position, expected) = (report.end, expected.to_owned());
                report.damage = Some(Damage { position, expected, found });
            } else {
                report.torn = last_nonzero(&file, end)? > end;
            }
        }
        inspection.segments.push(report);
    }
    // The manifest knows where segments end, and which there should be.
    for (number, row) in &manifest.rows {
        let report = inspection.segments.iter_mut().find(|report| report.segment == *number);
        match report {
            Some(report) if report.damage.is_none() && report.end < u64::from(row.end) => {
                let (expected, found) = (format!("frames up to {}", row.end), "other bytes".to_owned());
                report.damage = Some(Damage { position: report.end, expected, found });
                report.torn = false;
            }
            Some(report) => report.torn &= Some(*number) == newest,
            None => {
                let (expected, found) = ("the segment\u{2019}s file".to_owned(), "no such file".to_owned());
                let damage = Some(Damage { position: 0, expected, found });
                let (segment, file, class) = (*number, segment_name(*number), row.class);
                inspection.segments.push(SegmentReport { segment, file, class, damage, ..SegmentReport::default() });
            }
        }
    }
    inspection.segments.sort_by_key(|report| report.segment);
    Ok(inspection)
}

pub(crate) fn repair_disk<D: Disk>(disk: &D, segment: u32, position: u64) -> Result<Lost, OpenError> {
    let log = log_of(disk)?;
    let name = segment_name(segment);
    let file = disk.open(&name)?;
    let length = u32::try_from(file.length()?).unwrap_or(u32::MAX);
    let at = u32::try_from(position).ok().filter(|at| *at >= HEADER as u32 && *at < length);
    let refuse = |expected: &str, found: &str| damaged(&name, position, expected, found.to_owned());
    let at = at.ok_or_else(|| refuse("position of a frame", "none there"))?;
    // It must be where the frames before it end, or what is dropped would be something else.
    let mut frames = Frames::new(&file, log, segment, HEADER as u32, length);
    let mut end = HEADER as u32;
    loop {
        match frames.next()? {
            Scanned::Frame(header, _) if header.position < at => end = header.end().unwrap_or(length),
            Scanned::Bad { position, .. } if position == at => break,
            Scanned::Frame(..) => return Err(refuse("a damaged frame", "a good one")),
            _ if end == at => break,
            _ => {
                return Err(refuse(
                    "position of a damaged frame",
                    "no frame starts there, or an earlier one is damaged",
                ));
            }
        }
    }
    let next = find_header(&file, &log, segment, at + 1, |_| true)?.map(|header| header.position);
    let next = match next {
        Some(next) => next,
        None => end_of(disk, &log, segment)?.unwrap_or(last_nonzero(&file, at)?),
    };
    let gap = next.checked_sub(at).filter(|gap| *gap >= HEADER as u32);
    let gap = gap.ok_or_else(|| refuse("a damaged frame of at least 64 bytes", "less before the end"))?;
    let mut bytes = vec![0; gap as usize];
    let count = file.read_at(position, &mut bytes)?;
    bytes.truncate(count);
    let mut lost = read_lost(&bytes, &log, segment, at);
    lost.bytes = u64::from(gap);
    lost.kept_in = format!("dropped-{segment:010}-{position}");
    match disk.remove(&lost.kept_in) {
        Err(error) if error.kind != DiskErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let kept = disk.create(&lost.kept_in)?;
    kept.write_at(0, &[&bytes])?;
    kept.sync_data()?;
    disk.sync_dir()?;
    let header = FrameHeader {
        kind: FrameKind::Gap,
        length: gap - HEADER as u32,
        log,
        segment,
        position: at,
        durable: at,
        ops: 0,
        sequence: 0,
        time: 0,
        payload_crc: 0,
    };
    file.write_at(position, &[&header.encode()])?;
    file.sync_data()?;
    Ok(lost)
}

/// Where the frames of a sealed segment end, by the newest manifest.
fn end_of<D: Disk>(disk: &D, log: &LogId, segment: u32) -> Result<Option<u32>, OpenError> {
    let found = headers(disk, log)?;
    let next = found.values().filter_map(|(header, _)| header.as_ref().ok()).find(|header| header.previous == segment);
    Ok(next.map(|header| header.previous_end))
}

/// What can still be read of a frame.
fn read_lost(bytes: &[u8], log: &LogId, segment: u32, at: u32) -> Lost {
    let mut lost = Lost::default();
    let header = bytes.get(..HEADER).map(|header| FrameHeader::decode(&array(header), log, segment, at));
    let time = header.as_ref().and_then(|header| header.as_ref().ok()).map_or(0, |header| header.time);
    let payload = bytes.get(HEADER..).unwrap_or_default();
    let mut decoder = Decoder::new(payload, 0, UnixMillis(time));
    lost.complete = true;
    while let Some(item) = decoder.next() {
        let Ok(item) = item else {
            lost.complete = false;
            break;
        };
        match item.op {
            ItemOp::Append(message) => {
                let whole = payload.get(item.at as usize..(item.at + item.length) as usize).unwrap_or_default();
                lost.messages.push(LostMessage {
                    queue: message.queue,
                    offset: message.offset,
                    record: Bytes::copy_from_slice(message.record),
                    intact: decode_message(whole, item.time).is_ok(),
                });
            }
            ItemOp::Put { key, .. } | ItemOp::Delta { key, .. } | ItemOp::Remove { key } => {
                lost.keys.push(Bytes::copy_from_slice(key));
            }
            _ => {}
        }
    }
    lost
}
