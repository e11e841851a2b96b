//! Reads: over the open segment, the sealed ones in memory, and the index, newest knowledge first.
//!
//! Each read comes in two kinds. Warm: answered from memory, `None` if that is not enough. Cold: may block on the disk.

use super::{Engine, Tables};
use crate::codec::crc32c;
use crate::disk::{Disk, DiskError, DiskFile};
use crate::frame::segment_name;
use crate::key::{KeyEntry, Piece, Reset, Value};
use crate::mem::Place;
use crate::payload::decode_message;
use crate::{KeyState, QueueId, QueueOffset, ReadError, StoredMessage, Term};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};

/// How far a read may go for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Memory only.
    Warm,
    /// Memory and disk.
    Cold,
}

/// Messages closer together than this are read in one go.
const GAP_MAX: u64 = 4096;
/// Bytes read in one go.
const RUN_MAX: u64 = 1 << 20;

type Answer<T> = Result<Option<T>, ReadError>;

impl<D: Disk> Engine<D> {
    pub(crate) fn messages(
        &self,
        reach: Reach,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Answer<Vec<StoredMessage>> {
        let tables = self.tables();
        let places = plan(&tables, queue, range, max_messages, max_bytes);
        let mut messages = Vec::with_capacity(places.len());
        let mut cold = Vec::new();
        for place in &places {
            let record_at = place.position + place.head;
            match tables.cache.get(place.segment, record_at, place.record) {
                Some(record) => {
                    messages.push(StoredMessage { queue, offset: place.offset, store_time: place.time, record });
                }
                None if reach == Reach::Warm => return Ok(None),
                None => {
                    cold.push((messages.len(), *place));
                    let record = Bytes::new();
                    messages.push(StoredMessage { queue, offset: place.offset, store_time: place.time, record });
                }
            }
        }
        drop(tables);
        let mut rest = &cold[..];
        while let Some((_, first)) = rest.first() {
            let mut run = 1;
            while let Some((_, next)) = rest.get(run) {
                let gap = u64::from(next.position).checked_sub(rest[run - 1].1.end());
                let fits = next.end().saturating_sub(u64::from(first.position)) <= RUN_MAX;
                if next.segment != first.segment || !fits || gap.is_none_or(|gap| gap > GAP_MAX) {
                    break;
                }
                run += 1;
            }
            let (now, later) = rest.split_at(run);
            self.read_run(queue, now, &mut messages)?;
            rest = later;
        }
        Ok(Some(messages))
    }

    /// Reads messages that lie close together with one call.
    fn read_run(
        &self,
        queue: QueueId,
        run: &[(usize, Place)],
        messages: &mut [StoredMessage],
    ) -> Result<(), ReadError> {
        let (Some((_, first)), Some((_, last))) = (run.first(), run.last()) else { return Ok(()) };
        let start = first.position;
        let bytes = self.read(first.segment, start, (last.end() - u64::from(start)) as usize)?;
        for (index, place) in run {
            let from = (place.position - start) as usize;
            let whole = bytes.slice(from..from + place.log_bytes() as usize);
            let damaged = |expected: &str, found: String| {
                Err(ReadError::Damaged {
                    file: segment_name(place.segment),
                    position: u64::from(place.position),
                    expected: expected.to_owned(),
                    found,
                })
            };
            match decode_message(&whole, place.time) {
                Ok(message) if (message.queue, message.offset) == (queue, place.offset) => {
                    messages[*index].record = whole.slice_ref(message.record);
                }
                Ok(message) => {
                    let expected = format!("message of queue {} offset {}", queue.0, place.offset);
                    return damaged(&expected, format!("queue {} offset {}", message.queue.0, message.offset));
                }
                Err(malformed) => return damaged(malformed.expected, "other bytes".to_owned()),
            }
        }
        Ok(())
    }

    /// `length` bytes of a segment.
    pub(crate) fn read(&self, segment: u32, position: u32, length: usize) -> Result<Bytes, ReadError> {
        let mut buffer = vec![0; length];
        let file = self.files.get(&self.disk, segment)?;
        let count = file.read_at(u64::from(position), &mut buffer)?;
        if count < length {
            return Err(ReadError::Damaged {
                file: segment_name(segment),
                position: u64::from(position),
                expected: format!("{length} bytes"),
                found: format!("end of file after {count}"),
            });
        }
        Ok(buffer.into())
    }

    pub(crate) fn bounds(&self, _reach: Reach, queue: QueueId) -> Answer<Option<Range<QueueOffset>>> {
        Ok(Some(bounds(&self.tables(), queue)))
    }

    pub(crate) fn get(&self, reach: Reach, key: &[u8]) -> Answer<Option<KeyState>> {
        let entry = {
            let tables = self.tables();
            let mut entry = KeyEntry::default();
            for layer in layers(&tables) {
                if let Some(found) = layer.keys.get(key) {
                    entry.merge(found.clone());
                    if entry.is_whole() {
                        break;
                    }
                }
            }
            entry
        };
        self.state(reach, entry)
    }

    /// The values an entry points to. The outer `None`: not without the disk.
    fn state(&self, reach: Reach, entry: KeyEntry) -> Answer<Option<KeyState>> {
        if !entry.is_present() {
            return Ok(Some(None));
        }
        let mut state = KeyState::default();
        if let Some(Reset::Image(piece)) = &entry.reset {
            let Some(image) = self.value(reach, piece)? else { return Ok(None) };
            state.image = Some(image);
        }
        for piece in &entry.deltas {
            let Some(delta) = self.value(reach, piece)? else { return Ok(None) };
            state.deltas.push(delta);
        }
        Ok(Some(Some(state)))
    }

    fn value(&self, reach: Reach, piece: &Piece) -> Answer<Bytes> {
        let (position, length, crc) = match &piece.value {
            Value::Inline(value) => return Ok(Some(value.clone())),
            Value::At { position, length, crc } => (*position, *length, *crc),
        };
        if let Some(value) = self.tables().cache.get(piece.segment, position, length) {
            return Ok(Some(value));
        }
        if reach == Reach::Warm {
            return Ok(None);
        }
        let value = self.read(piece.segment, position, length as usize)?;
        let found = crc32c(&value);
        if found != crc {
            return Err(ReadError::Damaged {
                file: segment_name(piece.segment),
                position: u64::from(position),
                expected: format!("value with CRC-32C {crc:08x}"),
                found: format!("{found:08x}"),
            });
        }
        Ok(Some(value))
    }

    pub(crate) fn scan(&self, reach: Reach, range: Range<Bytes>, limit: usize) -> Answer<Vec<(Bytes, KeyState)>> {
        let mut found = Vec::new();
        let mut from = range.start;
        // In portions: removed keys take places without giving anything.
        while found.len() < limit && from < range.end {
            let portion = (limit - found.len()).saturating_add(16);
            let (entries, next) = self.entries(&from, &range.end, portion);
            for (key, entry) in entries {
                if found.len() == limit {
                    break;
                }
                match self.state(reach, entry)? {
                    None => return Ok(None),
                    Some(None) => {}
                    Some(Some(state)) => found.push((key, state)),
                }
            }
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(Some(found))
    }

    /// Up to `portion` entries of [from, to) merged over all layers, and where to go on.
    fn entries(&self, from: &Bytes, to: &Bytes, portion: usize) -> (BTreeMap<Bytes, KeyEntry>, Option<Bytes>) {
        let tables = self.tables();
        let mut merged: BTreeMap<Bytes, KeyEntry> = BTreeMap::new();
        // What one layer cuts off cuts off all: beyond it the layer's knowledge is missing.
        let mut cut: Option<Bytes> = None;
        for layer in layers(&tables) {
            let range = (Bound::Included(from.clone()), Bound::Excluded(to.clone()));
            for (count, (key, entry)) in layer.keys.range(range).enumerate() {
                if cut.as_ref().is_some_and(|cut| key >= cut) {
                    break;
                }
                if count == portion {
                    cut = Some(key.clone());
                    break;
                }
                merged.entry(key.clone()).or_default().merge(entry.clone());
            }
        }
        if let Some(cut) = &cut {
            merged.split_off(cut);
        }
        (merged, cut)
    }

    pub(crate) fn find(&self, _reach: Reach, term: Term, limit: usize) -> Answer<Vec<(QueueId, QueueOffset)>> {
        let tables = self.tables();
        let mut found = Vec::new();
        for layer in layers(&tables) {
            for place in layer.find(term) {
                let readable = bounds(&tables, place.queue).is_some_and(|bounds| bounds.contains(&place.offset));
                if readable {
                    found.push((place.queue, place.offset));
                }
                if found.len() >= limit {
                    return Ok(Some(found));
                }
            }
        }
        Ok(Some(found))
    }
}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> Self {
        Self::Io { file: error.file, position: error.position, cause: error.cause }
    }
}

/// Indexes in memory, newest first.
fn layers(tables: &Tables) -> impl Iterator<Item = &crate::mem::MemSegment> {
    std::iter::once(&tables.open).chain(tables.sealed.iter().rev().map(|sealed| &**sealed))
}

fn bounds(tables: &Tables, queue: QueueId) -> Option<Range<QueueOffset>> {
    let (mut trim, mut next) = (None, None);
    for layer in layers(tables) {
        if let Some(queue) = layer.queue(queue) {
            if queue.forgotten {
                return None;
            }
            trim = trim.max(queue.trim);
            next = next.max(queue.next);
        }
    }
    trim.or(next)?;
    let trim = trim.unwrap_or_default();
    Some(trim..next.unwrap_or_default().max(trim))
}

/// Which messages to give back, oldest first.
fn plan(
    tables: &Tables,
    queue: QueueId,
    range: Range<QueueOffset>,
    max_messages: usize,
    max_bytes: usize,
) -> Vec<Place> {
    let mut places = Vec::new();
    let Some(bounds) = bounds(tables, queue) else { return places };
    let mut from = range.start.max(bounds.start);
    let mut bytes = 0usize;
    let oldest_first = tables.sealed.iter().map(|sealed| &**sealed).chain(std::iter::once(&tables.open));
    for layer in oldest_first {
        let Some(messages) = layer.queue(queue) else { continue };
        for place in layer.messages(messages, from) {
            bytes = bytes.saturating_add(place.record as usize);
            let full = places.len() >= max_messages || (bytes > max_bytes && !places.is_empty());
            if place.offset >= range.end || full {
                return places;
            }
            from = place.offset.next();
            places.push(place);
        }
    }
    places
}
