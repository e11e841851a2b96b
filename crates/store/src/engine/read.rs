//! Reads: over the open segment, the sealed ones in memory, and the index, newest knowledge first.
//!
//! Each read comes in two kinds. Warm: answered from memory, `None` if that is not enough. Cold: may block on the disk.

use super::merge::malformed;
use super::{Engine, Tables};
use crate::codec::crc32c;
use crate::copy::Queues;
use crate::disk::{Disk, DiskError, DiskFile};
use crate::frame::segment_name;
use crate::index::entries::{Block, QueueMeta, block_entry, block_place, key_entry, queue_entry, queue_of};
use crate::index::{Index, IndexError};
use crate::key::{KeyEntry, Piece, Reset, Value};
use crate::mem::{Found, MemSegment, Place};
use crate::payload::{AppendRef, decode_message};
use crate::{KeyState, QueueId, QueueOffset, ReadError, StoredMessage, Term, WholeMessage};
use bytes::{Bytes, BytesMut};
use hashbrown::HashMap;
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, Range};
use std::sync::RwLockReadGuard;
use std::sync::atomic::Ordering;

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

impl<D: Disk, I: Index> Engine<D, I> {
    /// Asks again if a segment was reclaimed between looking up a place and reading it.
    fn settled<T>(&self, ask: impl Fn() -> Answer<T>) -> Answer<T> {
        for _ in 0..2 {
            match ask() {
                Err(ReadError::Io { .. }) => {}
                answer => return answer,
            }
        }
        ask()
    }

    pub(crate) fn messages(
        &self,
        reach: Reach,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Answer<Vec<StoredMessage>> {
        self.settled(|| self.messages_once(reach, queue, range.clone(), Limits::new(max_messages, max_bytes)))
    }

    fn messages_once(
        &self,
        reach: Reach,
        queue: QueueId,
        range: Range<QueueOffset>,
        limits: Limits,
    ) -> Answer<Vec<StoredMessage>> {
        let Some((tables, places)) = self.places(reach, queue, range, limits)? else { return Ok(None) };
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

    /// Where the messages lie, and the tables that know.
    fn places(
        &self,
        reach: Reach,
        queue: QueueId,
        range: Range<QueueOffset>,
        whole: Limits,
    ) -> Answer<(RwLockReadGuard<'_, Tables>, Vec<Place>)> {
        let mut limits = whole;
        let tables = self.tables();
        let (told, first) = (told(&tables, queue), first_in_memory(&tables, queue));
        if told.forgotten {
            return Ok(Some((tables, Vec::new())));
        }
        drop(tables);
        let mut from = range.start.max(told.trim.unwrap_or_default());
        let mut places = Vec::new();
        if self.is_indexed() && first.is_none_or(|first| from < first) {
            if reach == Reach::Warm {
                return Ok(None);
            }
            let meta = self.meta(queue)?;
            if meta.forgotten {
                return Ok(Some((self.tables(), Vec::new())));
            }
            from = from.max(meta.trim);
            let end = range.end.min(first.unwrap_or(range.end));
            self.indexed_places(queue, from..end, &mut limits, &mut places)?;
        }
        let tables = self.tables();
        if first.is_some() && first_in_memory(&tables, queue) != first {
            // A segment moved from memory to the index in between: its messages would be missing.
            drop(tables);
            return self.places(reach, queue, range, whole);
        }
        if !limits.reached {
            let from = places.last().map_or(from, |place: &Place| place.offset.next());
            plan(&tables, queue, from..range.end, &mut limits, &mut places);
        }
        Ok(Some((tables, places)))
    }

    /// Messages with all that was said of them, read from the log: only what is written there already is found.
    pub(crate) fn whole(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Answer<Vec<WholeMessage>> {
        self.settled(|| {
            let limits = Limits::new(max_messages, max_bytes);
            let Some((tables, places)) = self.places(Reach::Cold, queue, range.clone(), limits)? else {
                return Ok(None);
            };
            drop(tables);
            places.iter().map(|place| self.whole_at(queue, place)).collect::<Result<_, _>>().map(Some)
        })
    }

    fn whole_at(&self, queue: QueueId, place: &Place) -> Result<WholeMessage, ReadError> {
        let bytes = self.read(place.segment, place.position, place.log_bytes() as usize)?;
        let message = message_of(&bytes, queue, place)?;
        let (terms, keep_until) = (message.terms().collect(), message.keep_until);
        let (offset, store_time, record) = (place.offset, place.time, bytes.slice_ref(message.record));
        Ok(WholeMessage { message: StoredMessage { queue, offset, store_time, record }, terms, keep_until })
    }

    /// See [`crate::copy::Contents::queues`].
    pub(crate) fn queues(&self, from: QueueId, limit: usize) -> Result<Queues, ReadError> {
        let mut ids: BTreeSet<QueueId> = {
            let tables = self.tables();
            layers(&tables).flat_map(MemSegment::queues).map(|(id, _)| id).filter(|id| *id >= from).collect()
        };
        let mut last = from;
        let mut known = 0;
        self.index.range(&queue_entry(from), b"r", &mut |key, _| {
            last = queue_of(key);
            ids.insert(last);
            known += 1;
            known < limit
        })?;
        let mut found = Vec::new();
        // Beyond the last one that the index was asked for there may be more between those in memory.
        for id in ids.into_iter().filter(|id| known < limit || *id <= last) {
            found.extend(self.bounds(Reach::Cold, id)?.flatten().map(|bounds| (id, bounds)));
        }
        Ok(Queues { found, next: (known >= limit).then_some(QueueId(last.0.saturating_add(1))) })
    }

    /// Reads messages that lie close together with one call. Their records come in memory of their own: what lies between
    /// them, the messages of other queues, may be many times as much.
    fn read_run(
        &self,
        queue: QueueId,
        run: &[(usize, Place)],
        messages: &mut [StoredMessage],
    ) -> Result<(), ReadError> {
        let (Some((_, first)), Some((_, last))) = (run.first(), run.last()) else { return Ok(()) };
        let start = first.position;
        let length = (last.end() - u64::from(start)) as usize;
        if let [(index, place)] = run {
            let whole = self.read(place.segment, start, length)?;
            messages[*index].record = whole.slice_ref(record_of(&whole, queue, place)?);
            return Ok(());
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < length {
                scratch.resize(length, 0);
            }
            let bytes = &mut scratch[..length];
            self.read_into(first.segment, start, bytes)?;
            let mut records = BytesMut::with_capacity(run.iter().map(|(_, place)| place.record as usize).sum());
            for (_, place) in run {
                let from = (place.position - start) as usize;
                let whole = &bytes[from..from + place.log_bytes() as usize];
                records.extend_from_slice(record_of(whole, queue, place)?);
            }
            let mut records = records.freeze();
            for (index, place) in run {
                messages[*index].record = records.split_to(place.record as usize);
            }
            Ok(())
        })
    }

    /// `length` bytes of a segment.
    pub(crate) fn read(&self, segment: u32, position: u32, length: usize) -> Result<Bytes, ReadError> {
        let mut buffer = vec![0; length];
        self.read_into(segment, position, &mut buffer)?;
        Ok(buffer.into())
    }

    fn read_into(&self, segment: u32, position: u32, buffer: &mut [u8]) -> Result<(), ReadError> {
        let file = self.files.get(&self.disk, segment)?;
        let count = file.read_at(u64::from(position), buffer)?;
        if count < buffer.len() {
            return Err(ReadError::Damaged {
                file: segment_name(segment),
                position: u64::from(position),
                expected: format!("{} bytes", buffer.len()),
                found: format!("end of file after {count}"),
            });
        }
        Ok(())
    }

    /// Whether the index has anything.
    fn is_indexed(&self) -> bool {
        self.indexed.load(Ordering::Acquire)
    }

    fn meta(&self, queue: QueueId) -> Result<QueueMeta, ReadError> {
        match self.index.get(&queue_entry(queue))? {
            Some(value) => Ok(QueueMeta::decode(&value).map_err(malformed)?),
            None => Ok(QueueMeta::default()),
        }
    }

    /// Places of messages that the index knows.
    fn indexed_places(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        limits: &mut Limits,
        places: &mut Vec<Place>,
    ) -> Result<(), ReadError> {
        let mut start = block_entry(queue, range.start).to_vec();
        if let Some((floor, _)) = self.index.last(&block_entry(queue, QueueOffset(0)), &start)? {
            start = floor;
        }
        let mut bad = None;
        self.index.range(&start, &block_entry(queue, range.end), &mut |key, value| match Block::decode(
            block_place(key).1,
            &value,
        ) {
            Ok(block) => {
                for place in block.into_iter().filter(|place| range.contains(&place.offset)) {
                    if !limits.take(place.record) {
                        return false;
                    }
                    places.push(place);
                }
                true
            }
            Err(error) => {
                bad = Some(error);
                false
            }
        })?;
        bad.map_or(Ok(()), |error| Err(malformed(error).into()))
    }

    pub(crate) fn bounds(&self, reach: Reach, queue: QueueId) -> Answer<Option<Range<QueueOffset>>> {
        let mut told = told(&self.tables(), queue);
        if !told.forgotten && self.is_indexed() {
            if reach == Reach::Warm {
                return Ok(None);
            }
            let meta = self.meta(queue)?;
            told.forgotten = meta.forgotten;
            if meta.trim_home != 0 || meta.next_home != 0 {
                told.trim = told.trim.max(Some(meta.trim));
                told.next = told.next.max(Some(meta.next));
            }
        }
        Ok(Some(told.bounds()))
    }

    pub(crate) fn get(&self, reach: Reach, key: &[u8]) -> Answer<Option<KeyState>> {
        self.settled(|| self.get_once(reach, key))
    }

    fn get_once(&self, reach: Reach, key: &[u8]) -> Answer<Option<KeyState>> {
        let mut entry = {
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
        if !entry.is_whole() && self.is_indexed() {
            if reach == Reach::Warm {
                return Ok(None);
            }
            if let Some(value) = self.index.get(&key_entry(key))? {
                entry.merge(KeyEntry::decode(&value).map_err(malformed)?);
            }
        }
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
        if reach == Reach::Warm && self.is_indexed() {
            return Ok(None);
        }
        self.settled(|| self.scan_once(reach, range.clone(), limit))
    }

    fn scan_once(&self, reach: Reach, range: Range<Bytes>, limit: usize) -> Answer<Vec<(Bytes, KeyState)>> {
        let mut found = Vec::new();
        let mut from = range.start;
        // In portions: removed keys take places without giving anything.
        while found.len() < limit && from < range.end {
            let portion = (limit - found.len()).saturating_add(16);
            let (entries, next) = self.entries(&from, &range.end, portion)?;
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
    fn entries(&self, from: &Bytes, to: &Bytes, portion: usize) -> Result<(Entries, Option<Bytes>), ReadError> {
        let mut merged = Entries::new();
        // What one layer cuts off cuts off all: beyond it that layer's knowledge is missing.
        let mut cut: Option<Bytes> = None;
        {
            let tables = self.tables();
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
        }
        if self.is_indexed() {
            let (mut count, mut bad) = (0, None);
            let end = key_entry(cut.as_ref().unwrap_or(to));
            self.index.range(&key_entry(from), &end, &mut |key, value| {
                let key = Bytes::copy_from_slice(&key[1..]);
                if count == portion {
                    cut = Some(key);
                    return false;
                }
                count += 1;
                match KeyEntry::decode(&value) {
                    Ok(entry) => merged.entry(key).or_default().merge(entry),
                    Err(error) => bad = Some(error),
                }
                bad.is_none()
            })?;
            if let Some(error) = bad {
                return Err(malformed(error).into());
            }
        }
        if let Some(cut) = &cut {
            merged.split_off(cut);
        }
        Ok((merged, cut))
    }

    pub(crate) fn find(&self, reach: Reach, term: Term, limit: usize) -> Answer<Vec<(QueueId, QueueOffset)>> {
        if reach == Reach::Warm && self.is_indexed() {
            return Ok(None);
        }
        self.settled(|| self.find_once(term, limit).map(Some))
    }

    fn find_once(&self, term: Term, limit: usize) -> Result<Vec<(QueueId, QueueOffset)>, ReadError> {
        let mut bounds: HashMap<QueueId, Option<Range<QueueOffset>>> = HashMap::new();
        let mut readable = |found: &Found| -> Result<bool, ReadError> {
            if !bounds.contains_key(&found.queue) {
                bounds.insert(found.queue, self.bounds(Reach::Cold, found.queue)?.flatten());
            }
            let bounds = bounds.get(&found.queue).cloned().flatten();
            Ok(bounds.is_some_and(|bounds| bounds.contains(&found.offset)))
        };
        let in_memory: Vec<Found> = {
            let tables = self.tables();
            layers(&tables).flat_map(|layer| layer.find(term)).collect()
        };
        // Newest first. The same one may be in several places for a while.
        let mut places: BTreeSet<Reverse<Found>> = BTreeSet::new();
        for found in in_memory {
            if readable(&found)? {
                places.insert(Reverse(found));
            }
        }
        // The memory was looked at before: what is taken out of it in between is in one of the files.
        for file in self.terms.files().iter() {
            let newer = places.iter().take(limit).filter(|place| place.0.sequence > file.newest);
            if newer.count() == limit {
                break;
            }
            let mut count = 0;
            file.find(&self.disk, term, &mut |found| {
                // Entries of trimmed messages go away in their own time: more than asked for has to be looked at.
                if readable(&found)? {
                    places.insert(Reverse(found));
                    count += 1;
                }
                Ok(count < limit)
            })?;
        }
        Ok(places.into_iter().take(limit).map(|place| (place.0.queue, place.0.offset)).collect())
    }
}

type Entries = BTreeMap<Bytes, KeyEntry>;

thread_local! {
    /// What [`Engine::read_run`] reads into, at most [`RUN_MAX`]: fresh memory would have to be cleared each time.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The record within the bytes of a message in the log, if they are the message they should be.
fn record_of<'a>(whole: &'a [u8], queue: QueueId, place: &Place) -> Result<&'a [u8], ReadError> {
    message_of(whole, queue, place).map(|message| message.record)
}

/// The message that should be at a place, checked.
fn message_of<'a>(whole: &'a [u8], queue: QueueId, place: &Place) -> Result<AppendRef<'a>, ReadError> {
    let damaged = |expected: &str, found: String| ReadError::Damaged {
        file: segment_name(place.segment),
        position: u64::from(place.position),
        expected: expected.to_owned(),
        found,
    };
    match decode_message(whole, place.time) {
        Ok(message) if message.record.len() != place.record as usize => {
            let expected = format!("a record of {} bytes", place.record);
            Err(damaged(&expected, format!("one of {}", message.record.len())))
        }
        Ok(message) if (message.queue, message.offset) == (queue, place.offset) => Ok(message),
        Ok(message) => {
            let expected = format!("message of queue {} offset {}", queue.0, place.offset);
            Err(damaged(&expected, format!("queue {} offset {}", message.queue.0, message.offset)))
        }
        Err(malformed) => Err(damaged(malformed.expected, "other bytes".to_owned())),
    }
}

/// What still may be taken.
#[derive(Clone, Copy)]
struct Limits {
    messages: usize,
    bytes: usize,
    none_yet: bool,
    reached: bool,
}

impl Limits {
    fn new(messages: usize, bytes: usize) -> Self {
        Self { messages, bytes, none_yet: true, reached: false }
    }

    /// Whether one more record may be taken; the first always may.
    fn take(&mut self, record: u32) -> bool {
        let record = record as usize;
        if self.messages == 0 || (record > self.bytes && !self.none_yet) {
            self.reached = true;
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(record);
        self.none_yet = false;
        true
    }
}

impl From<IndexError> for ReadError {
    fn from(error: IndexError) -> Self {
        Self::Io { file: "index".to_owned(), position: 0, cause: error.0 }
    }
}

impl From<ReadError> for IndexError {
    fn from(error: ReadError) -> Self {
        Self(error.to_string())
    }
}

impl From<DiskError> for IndexError {
    fn from(error: DiskError) -> Self {
        Self(error.to_string())
    }
}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> Self {
        Self::Io { file: error.file, position: error.position, cause: error.cause }
    }
}

/// Indexes in memory, newest first.
fn layers(tables: &Tables) -> impl Iterator<Item = &MemSegment> {
    std::iter::once(&tables.open).chain(tables.sealed.iter().rev().map(|sealed| &**sealed))
}

/// What the indexes in memory say about a queue.
struct Told {
    forgotten: bool,
    trim: Option<QueueOffset>,
    next: Option<QueueOffset>,
}

impl Told {
    fn bounds(&self) -> Option<Range<QueueOffset>> {
        if self.forgotten || (self.trim.is_none() && self.next.is_none()) {
            return None;
        }
        let trim = self.trim.unwrap_or_default();
        Some(trim..self.next.unwrap_or_default().max(trim))
    }
}

fn told(tables: &Tables, queue: QueueId) -> Told {
    let mut told = Told { forgotten: false, trim: None, next: None };
    for queue in layers(tables).filter_map(|layer| layer.queue(queue)) {
        told.forgotten |= queue.forgotten;
        told.trim = told.trim.max(queue.trim);
        told.next = told.next.max(queue.next);
    }
    told
}

/// The first message of a queue that is in memory: from there on all are.
fn first_in_memory(tables: &Tables, queue: QueueId) -> Option<QueueOffset> {
    oldest_first(tables).filter_map(|layer| layer.queue(queue)).find_map(|queue| queue.first())
}

fn oldest_first(tables: &Tables) -> impl Iterator<Item = &MemSegment> {
    tables.sealed.iter().map(|sealed| &**sealed).chain(std::iter::once(&tables.open))
}

/// Adds messages that are in memory, oldest first.
fn plan(tables: &Tables, queue: QueueId, range: Range<QueueOffset>, limits: &mut Limits, places: &mut Vec<Place>) {
    let mut from = range.start;
    for layer in oldest_first(tables) {
        let Some(messages) = layer.queue(queue) else { continue };
        for place in layer.messages(messages, from) {
            if place.offset >= range.end || !limits.take(place.record) {
                return;
            }
            from = place.offset.next();
            places.push(place);
        }
    }
}
