//! Getting space back: which segment goes, and what is carried out of it first.
//!
//! A segment with nothing alive is dropped. When the log is larger than twice what is alive in it plus a few segments,
//! the segment with the least share alive is emptied: what is alive in it is appended to the segment of its expiry
//! class, kept apart by remaining life so that it will die together:
//!
//! | class | remaining life |
//! | --- | --- |
//! | 1 | below 6 hours |
//! | 2 | below 3 days |
//! | 3 | below 14 days |
//! | 4 | longer, or no end known (keys without one, bounds of queues, removals that still hide something) |
//!
//! What is found alive by the index is compared with the account in the log. If they differ the index has lost
//! something, and nothing is dropped before it is rebuilt.

use super::maintain::PendingStep;
use super::manifest::{Live, Manifest, Part, Row};
use super::merge::{Tally, malformed, merge, queue_meta};
use super::room::RESERVE_FOR_RECLAIM;
use super::{Engine, Maintenance, lock};
use crate::codec::crc32c;
use crate::disk::{Disk, DiskError, DiskFile};
use crate::frame::{FrameHeader, FrameKind, HEADER, SegmentHeader, segment_name};
use crate::index::entries::{Block, block_entry, block_place, key_entry, queue_entry};
use crate::index::{Changes, Index, IndexResult, Overlay};
use crate::key::{KeyEntry, Reset};
use crate::mem::{MemSegment, Place};
use crate::payload::{Decoder, Encoder, Item, ItemOp};
use crate::report::Notice;
use crate::scan::{Frames, Scanned};
use crate::{QueueId, QueueOffset, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Classes of what is carried; class 0 is what commits write.
const CLASSES: usize = 4;
const HOUR: i64 = 3_600_000;
/// Bytes of one carried frame.
const FRAME_MAX: usize = 1 << 20;

fn class_of(keep_until: Option<UnixMillis>, now: UnixMillis) -> usize {
    match keep_until.map(|keep| keep.since(now)) {
        Some(left) if left < 6 * HOUR => 1,
        Some(left) if left < 72 * HOUR => 2,
        Some(left) if left < 14 * 24 * HOUR => 3,
        _ => CLASSES,
    }
}

/// What is carried into one class: frames, each a payload and its number of operations.
#[derive(Default)]
struct Output {
    encoder: Encoder,
    payloads: Vec<(Vec<u8>, u32)>,
}

impl Output {
    /// Where the next operation goes.
    fn encoder(&mut self) -> &mut Encoder {
        if self.encoder.len() >= FRAME_MAX {
            self.cut();
        }
        &mut self.encoder
    }

    fn cut(&mut self) {
        if self.encoder.len() > 0 {
            self.payloads.push(std::mem::take(&mut self.encoder).finish());
        }
    }
}

impl<D: Disk, I: Index> Engine<D, I> {
    /// The segment each class is appended to, if it has one that is not full.
    fn outputs(&self, manifest: &Manifest) -> BTreeMap<u32, u32> {
        let full = self.settings.segment_bytes / 4 * 3;
        let rows = manifest.rows.iter().filter(|(_, row)| row.class != 0 && row.end < full);
        rows.map(|(segment, row)| (row.class, *segment)).collect()
    }

    pub(crate) fn start_reclaim(&self, maintenance: &mut Maintenance) -> IndexResult<Option<PendingStep>> {
        if self.is_suspect() {
            self.repair_index()?;
            return Ok(None);
        }
        let (manifest, open) = {
            let commit = lock(&self.commit);
            (commit.manifest.clone(), u64::from(commit.position))
        };
        let settled = |segment: u32, row: &Row| row.class != 0 || segment <= manifest.covers;
        let dead: Vec<u32> =
            manifest.rows.iter().filter(|(s, row)| settled(**s, row) && row.live.is_empty()).map(|(s, _)| *s).collect();
        if !dead.is_empty() {
            let mut commit = lock(&self.commit);
            commit.manifest.rows.retain(|segment, _| !dead.contains(segment));
            let ordinal = self.append_manifest(&mut commit, false);
            return Ok(Some(PendingStep { ordinal, changes: None, mems: Vec::new(), ingested: None, dropped: dead }));
        }
        let outputs = self.outputs(&manifest);
        let total = manifest.rows.values().map(|row| u64::from(row.end)).sum::<u64>() + open;
        let live = manifest.rows.values().map(|row| row.live.bytes()).sum::<u64>() + open;
        if total <= live * 2 + self.settings.slack_segments * u64::from(self.settings.segment_bytes) {
            return Ok(self.seal_if_stale());
        }
        let share = |row: &Row| row.live.bytes() as f64 / f64::from(row.end.max(1));
        let victim = manifest
            .rows
            .iter()
            .filter(|(s, row)| settled(**s, row) && !outputs.values().any(|o| o == *s))
            .filter(|(s, _)| !maintenance.damaged.contains(s))
            .min_by(|a, b| share(a.1).total_cmp(&share(b.1)));
        match victim {
            Some((segment, row)) if share(row) < 0.75 => self.carry(maintenance, &manifest, *segment, *row, &outputs),
            _ => Ok(self.seal_if_stale()),
        }
    }

    /// Empties a segment: what is alive in it goes to the segments of its classes.
    fn carry(
        &self,
        maintenance: &mut Maintenance,
        manifest: &Manifest,
        victim: u32,
        row: Row,
        outputs: &BTreeMap<u32, u32>,
    ) -> IndexResult<Option<PendingStep>> {
        let now = lock(&self.commit).last_time;
        let index = Overlay { index: &self.index, changes: Changes::new() };
        let mut found = Sorter {
            index,
            manifest,
            victim,
            now,
            outputs: Default::default(),
            live: Live::default(),
            block: None,
            queues: BTreeSet::new(),
            purged: Tally::default(),
        };
        let file = self.files.get(&self.disk, victim)?;
        let mut frames = Frames::new(&*file, self.log, victim, HEADER as u32, row.end);
        loop {
            match frames.next()? {
                Scanned::End => break,
                Scanned::Bad { position, expected, found } => {
                    maintenance.damaged.insert(victim);
                    let (file, position) = (segment_name(victim), u64::from(position));
                    self.notice(Notice::Damaged { file, position, expected: expected.to_owned(), found });
                    return Ok(None);
                }
                Scanned::Frame(header, payload) => {
                    let at = header.position + HEADER as u32;
                    let mut decoder = Decoder::new(payload, header.sequence, UnixMillis(header.time));
                    while let Some(item) = decoder.next() {
                        let item = item.map_err(malformed)?;
                        let bytes = &payload[item.at as usize..(item.at + item.length) as usize];
                        found.sort(at + item.at, &item, bytes)?;
                    }
                }
            }
        }
        if found.live != row.live {
            let text =
                format!("segment {victim} has {:?} alive by the log and {:?} by the index", row.live, found.live);
            self.suspect(&text);
            return Ok(None);
        }
        let (mut outs, mut overlay, mut tally) = (found.outputs, found.index, found.purged);
        let (mut parts, mut mems, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (class, out) in (1..).zip(&mut outs) {
            out.cut();
            if out.payloads.is_empty() {
                continue;
            }
            let output = outputs.get(&class).copied();
            let written = self.write_carried(manifest, class, output, now, &out.payloads)?;
            for (part, mem) in written {
                merge(&mut overlay, &mem, false, &mut tally)?;
                rows.push((part.segment, class, part.to));
                maintenance.carried_bytes += u64::from(part.to - part.from);
                parts.push(part);
                mems.push(Arc::new(mem));
            }
        }
        let (ordinal, changes) = self.commit_step(parts, &tally, overlay.changes, |manifest| {
            manifest.rows.remove(&victim);
            for (segment, class, end) in rows {
                let row = manifest.rows.entry(segment).or_default();
                (row.class, row.end) = (class, end);
            }
        });
        let dropped = vec![victim];
        Ok(Some(PendingStep { ordinal, changes: Some(changes), mems, ingested: None, dropped }))
    }

    /// Appends payloads to the segment of a class, and to further new ones when that is full. Durable when it returns.
    fn write_carried(
        &self,
        manifest: &Manifest,
        class: u32,
        output: Option<u32>,
        now: UnixMillis,
        payloads: &[(Vec<u8>, u32)],
    ) -> Result<Vec<(Part, MemSegment)>, DiskError> {
        let mut written: Vec<(Part, MemSegment, Arc<D::File>)> = Vec::new();
        if let Some(segment) = output
            && let Some(row) = manifest.rows.get(&segment)
        {
            let part = Part { segment, from: row.end, to: row.end };
            written.push((part, MemSegment::new(segment), self.files.get(&self.disk, segment)?));
        }
        for (payload, ops) in payloads {
            let needed = (HEADER + payload.len()) as u64;
            let fits = |to: u32| u64::from(to) + needed <= u64::from(self.settings.segment_bytes);
            if written.last().is_none_or(|(part, _, _)| !fits(part.to) && part.to > HEADER as u32) {
                written.push(self.create_carried(class, now)?);
            }
            let Some((part, mem, file)) = written.last_mut() else { continue };
            let sequence = {
                let mut commit = lock(&self.commit);
                commit.next_sequence += 1;
                commit.next_sequence - 1
            };
            let header = FrameHeader {
                kind: FrameKind::Carried,
                length: payload.len() as u32,
                log: self.log,
                segment: part.segment,
                position: part.to,
                durable: part.from,
                ops: *ops,
                sequence,
                time: now.0,
                payload_crc: crc32c(payload),
            };
            let encoded = header.encode();
            self.with_reserve(RESERVE_FOR_RECLAIM, || file.write_at(part.to.into(), &[&encoded, payload]))?;
            let at = part.to + HEADER as u32;
            if let Err(error) = mem.apply(at, payload, sequence, now, true) {
                let (file, cause) = (segment_name(part.segment), error.to_string());
                let (kind, operation) = (crate::disk::DiskErrorKind::Other, "indexing what was carried");
                return Err(DiskError { kind, operation, file, position: at.into(), cause });
            }
            part.to = at + payload.len() as u32;
        }
        for (_, _, file) in &written {
            file.sync_data()?;
        }
        self.disk.sync_dir()?;
        Ok(written.into_iter().filter(|(part, ..)| part.to > part.from).map(|(part, mem, _)| (part, mem)).collect())
    }

    fn create_carried(&self, class: u32, now: UnixMillis) -> Result<(Part, MemSegment, Arc<D::File>), DiskError> {
        let segment = {
            let mut commit = lock(&self.commit);
            commit.highest += 1;
            commit.highest
        };
        let name = segment_name(segment);
        let file = Arc::new(self.with_reserve(RESERVE_FOR_RECLAIM, || self.disk.create(&name))?);
        let (log, created) = (self.log, now.0);
        let header = SegmentHeader { log, segment, class, previous: 0, previous_end: 0, created };
        file.write_at(0, &[&header.encode()])?;
        self.files.insert(segment, file.clone());
        let from = HEADER as u32;
        Ok((Part { segment, from, to: from }, MemSegment::new(segment), file))
    }
}

/// Tells the living from the dead in one segment.
struct Sorter<'a, I> {
    index: Overlay<'a, I>,
    manifest: &'a Manifest,
    victim: u32,
    now: UnixMillis,
    outputs: [Output; CLASSES],
    live: Live,
    /// The block looked at last: queue, and its places.
    block: Option<(QueueId, Vec<Place>)>,
    /// Queues whose bounds were looked at.
    queues: BTreeSet<QueueId>,
    /// What leaves the account because it hides nothing any more.
    purged: Tally,
}

impl<I: Index> Sorter<'_, I> {
    /// Whether a segment other than the victim exists from `oldest` to `newest`.
    fn others_exist(&self, oldest: u32, newest: u32) -> bool {
        oldest <= newest && self.manifest.rows.range(oldest..=newest).any(|(segment, _)| *segment != self.victim)
    }

    fn piece(&mut self, bytes: u64) {
        self.live.pieces += 1;
        self.live.piece_bytes += bytes;
    }

    fn sort(&mut self, position: u32, item: &Item<'_>, bytes: &[u8]) -> IndexResult<()> {
        let origin = crate::payload::Origin::Carried(item.sequence, item.time);
        let now = self.now;
        match &item.op {
            ItemOp::Append(message) => {
                self.queue(message.queue, origin)?;
                if self.place(message.queue, message.offset)?.is_some_and(|place| place == (self.victim, position)) {
                    self.live.messages += 1;
                    self.live.message_bytes += bytes.len() as u64;
                    let class = class_of(Some(message.keep_until), now);
                    self.outputs[class - 1].encoder().append(
                        origin,
                        now,
                        message.queue,
                        message.offset,
                        message.keep_until,
                        message.terms(),
                        message.record,
                    );
                }
            }
            ItemOp::Put { key, keep_until, image, .. } => {
                if let Some(entry) = self.key(key)?
                    && let Some(Reset::Image(piece)) = &entry.reset
                    && (piece.segment, piece.sequence) == (self.victim, item.sequence)
                {
                    self.piece(piece.log_bytes.into());
                    let class = class_of(*keep_until, now);
                    self.outputs[class - 1].encoder().put(origin, now, key, *keep_until, image);
                }
            }
            ItemOp::Delta { key, delta, .. } => {
                if let Some(entry) = self.key(key)?
                    && let Some(piece) = entry.deltas.iter().find(|piece| piece.sequence == item.sequence)
                    && piece.segment == self.victim
                {
                    self.piece(piece.log_bytes.into());
                    self.outputs[CLASSES - 1].encoder().delta(origin, now, key, delta);
                }
            }
            ItemOp::Remove { key } => {
                if let Some(mut entry) = self.key(key)?
                    && entry.reset == Some(Reset::Removed { sequence: item.sequence, segment: self.victim })
                {
                    self.piece(key.len() as u64);
                    if self.others_exist(entry.oldest, entry.newest) {
                        self.outputs[CLASSES - 1].encoder().remove(origin, now, key);
                    } else {
                        // It hides nothing any more.
                        self.purged.key(key, &entry, -1);
                        entry.reset = None;
                        self.purged.key(key, &entry, 1);
                        let mut value = Vec::new();
                        entry.encode(&mut value);
                        self.index.changes.insert(key_entry(key), entry.is_present().then_some(value));
                    }
                }
            }
            ItemOp::Trim { queue, .. } | ItemOp::Forget { queue } | ItemOp::Bounds { queue, .. } => {
                self.queue(*queue, origin)?;
            }
            ItemOp::Manifest(_) => {}
        }
        Ok(())
    }

    fn key(&self, key: &[u8]) -> IndexResult<Option<KeyEntry>> {
        // Purged entries count as they were: the index as it is decides, not the changes to come.
        let value = self.index.index.get(&key_entry(key))?;
        value.map(|value| KeyEntry::decode(&value).map_err(malformed)).transpose()
    }

    /// Where the index says a message is.
    fn place(&mut self, queue: QueueId, offset: QueueOffset) -> IndexResult<Option<(u32, u32)>> {
        let covered = |places: &[Place]| {
            places.first().is_some_and(|first| first.offset <= offset)
                && places.last().is_some_and(|last| last.offset >= offset)
        };
        if !self.block.as_ref().is_some_and(|(q, places)| *q == queue && covered(places)) {
            let start = block_entry(queue, QueueOffset(0));
            let found = self.index.index.last(&start, &block_entry(queue, offset.next()))?;
            self.block = match found {
                Some((key, value)) => Some((queue, Block::decode(block_place(&key).1, &value).map_err(malformed)?)),
                None => Some((queue, Vec::new())),
            };
        }
        let places = self.block.as_ref().map_or(&[][..], |(_, places)| places);
        let at = places.binary_search_by_key(&offset, |place| place.offset);
        Ok(at.ok().and_then(|at| places.get(at)).map(|place| (place.segment, place.position)))
    }

    /// Carries the bounds of a queue if this segment is where they are said.
    fn queue(&mut self, queue: QueueId, origin: crate::payload::Origin) -> IndexResult<()> {
        if !self.queues.insert(queue) {
            return Ok(());
        }
        let base = Overlay { index: self.index.index, changes: Changes::new() };
        let Some(meta) = queue_meta(&base, queue)? else { return Ok(()) };
        let homes = meta.homes().filter(|home| *home == self.victim).count();
        if homes == 0 {
            return Ok(());
        }
        (0..homes).for_each(|_| self.piece(8));
        let now = self.now;
        if !meta.forgotten {
            self.outputs[CLASSES - 1].encoder().bounds(origin, now, queue, meta.trim, meta.next);
        } else if self.others_exist(0, meta.newest) {
            self.outputs[CLASSES - 1].encoder().forget(origin, now, queue);
        } else {
            self.purged.queue(&meta, -1);
            self.index.changes.insert(queue_entry(queue).to_vec(), None);
        }
        Ok(())
    }
}
