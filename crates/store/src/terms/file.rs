//! One file of terms: written once, in order, and looked up by two reads.
//!
//! | part | form |
//! | --- | --- |
//! | buckets | one for each value of the first `bits` bits of a term, in order; each is chunks, one after the other |
//! | directory | where each bucket begins and the last one ends: 2^`bits` + 1 positions (4 bytes each, little-endian) |
//!
//! Chunk: bytes of its entries (2 bytes, little-endian), the entries, CRC-32C of both (4 bytes, little-endian).
//! Entry: term (8 bytes, little-endian), place of its segment in the file's list, newest sequence number of the file minus its
//! own, queue, offset (varints). Entries are sorted by term, those of one term from the newest to the oldest.
//!
//! What a file cannot be read without is not in it but where it is named, in the index: [`TermFile`].

use crate::codec::{Input, Malformed, array, crc32c, put_varint};
use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile};
use crate::mem::Found;
use crate::{QueueId, QueueOffset, ReadError, Term};
use std::cmp::Reverse;

/// Entries of a bucket, about: half of it to all of it.
const BUCKET_ENTRIES: u64 = 32;
/// Bytes of entries in a chunk, at most.
const CHUNK_MAX: usize = 4096;
/// What a chunk has besides.
const CHUNK_FRAME: usize = 6;
/// Bytes read at a time by a look-up, and by who reads it all; at least a chunk.
const LOOK: usize = 8 << 10;
const STRIDE: usize = 128 << 10;
/// Bytes gathered before they are written.
const GATHERED: usize = 256 << 10;

/// One message by one of its terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub term: u64,
    /// The segment that the entry was made for.
    pub segment: u32,
    pub found: Found,
}

impl Entry {
    /// The order of entries in a file.
    pub(crate) fn order(&self) -> (u64, Reverse<u64>, Reverse<u32>) {
        (self.term, Reverse(self.found.sequence), Reverse(self.segment))
    }

    /// Whether both are of one message: it was carried from one segment to another, or taken in twice.
    pub(crate) fn is_again(&self, other: &Self) -> bool {
        (self.term, self.found.sequence) == (other.term, other.found.sequence)
    }
}

/// What is known of a file.
///
/// In the index: generation, bits, entries, bytes of its buckets, newest sequence number, number of segments, and of
/// each its number and how many entries are of it (varints).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TermFile {
    /// Each file has another one.
    pub number: u64,
    /// How often what is in it was merged.
    pub generation: u32,
    pub bits: u32,
    pub entries: u64,
    /// Where the directory begins.
    pub buckets_end: u64,
    /// The greatest sequence number in it.
    pub newest: u64,
    /// Segments in order, and how many entries are of each.
    pub segments: Vec<(u32, u64)>,
}

impl TermFile {
    pub(crate) fn name(&self) -> String {
        format!("{}{:016x}", super::PREFIX, self.number)
    }

    /// Bytes of the file.
    pub(crate) fn length(&self) -> u64 {
        self.buckets_end + ((1 << self.bits) + 1) * 4
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 + self.segments.len() * 6);
        let (generation, bits, segments) = (self.generation.into(), self.bits.into(), self.segments.len() as u64);
        for value in [generation, bits, self.entries, self.buckets_end, self.newest, segments] {
            put_varint(&mut out, value);
        }
        for (segment, entries) in &self.segments {
            put_varint(&mut out, u64::from(*segment));
            put_varint(&mut out, *entries);
        }
        out
    }

    pub(crate) fn decode(number: u64, value: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::new(value);
        let generation = input.varint32("generation")?;
        let bits = input.varint32("bits of a bucket")?;
        if bits > 32 {
            return Err(input.malformed("at most 32 bits of a bucket"));
        }
        let mut file = Self {
            number,
            generation,
            bits,
            entries: input.varint("number of entries")?,
            buckets_end: input.varint("end of the buckets")?,
            newest: input.varint("newest sequence")?,
            segments: Vec::new(),
        };
        for _ in 0..input.varint("number of segments")? {
            let segment = input.varint32("segment")?;
            file.segments.push((segment, input.varint("number of entries")?));
        }
        Ok(file)
    }

    fn damaged(&self, position: u64, expected: &str, found: String) -> ReadError {
        ReadError::Damaged { file: self.name(), position, expected: expected.to_owned(), found }
    }

    /// Tells `take` the messages with a term, from the newest to the oldest, until it has had enough and says false.
    pub(crate) fn find<D: Disk>(
        &self,
        disk: &D,
        term: Term,
        take: &mut dyn FnMut(Found) -> Result<bool, ReadError>,
    ) -> Result<(), ReadError> {
        let file = disk.open(&self.name())?;
        let mut ends = [0; 8];
        let at = self.buckets_end + bucket_of(term.0, self.bits) * 4;
        if file.read_at(at, &mut ends)? < ends.len() {
            return Err(self.damaged(at, "the place of a bucket", "end of file".to_owned()));
        }
        let (start, end) = (u32::from_le_bytes(array(&ends[..4])), u32::from_le_bytes(array(&ends[4..])));
        if start > end || u64::from(end) > self.buckets_end {
            return Err(self.damaged(at, "a bucket within the buckets", format!("{start} to {end}")));
        }
        let mut chunks = Chunks::new(self, file, u64::from(start)..u64::from(end), LOOK);
        while let Some(entries) = chunks.next()? {
            for entry in entries {
                if entry.term > term.0 {
                    return Ok(());
                }
                if entry.term == term.0 && !take(entry.found)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// All entries in order.
    pub(crate) fn scan<'a, D: Disk>(&'a self, disk: &D) -> Result<Scan<'a, D::File>, ReadError> {
        let chunks = Chunks::new(self, disk.open(&self.name())?, 0..self.buckets_end, STRIDE);
        let mut scan = Scan { chunks, ahead: Vec::new().into_iter(), next: None };
        scan.advance()?;
        Ok(scan)
    }
}

fn bucket_of(term: u64, bits: u32) -> u64 {
    term.checked_shr(64 - bits).unwrap_or(0)
}

/// Reads chunks one after the other.
struct Chunks<'a, F> {
    of: &'a TermFile,
    file: F,
    /// What is not read yet, and what is read and not given out.
    rest: std::ops::Range<u64>,
    buffer: Vec<u8>,
    used: usize,
    stride: usize,
}

impl<'a, F: DiskFile> Chunks<'a, F> {
    fn new(of: &'a TermFile, file: F, range: std::ops::Range<u64>, stride: usize) -> Self {
        Self { of, file, rest: range, buffer: Vec::new(), used: 0, stride }
    }

    fn next(&mut self) -> Result<Option<Vec<Entry>>, ReadError> {
        if self.buffer.len() - self.used < CHUNK_MAX + CHUNK_FRAME && !self.rest.is_empty() {
            self.buffer.drain(..std::mem::take(&mut self.used));
            let more = (self.rest.end - self.rest.start).min(self.stride as u64) as usize;
            let kept = self.buffer.len();
            self.buffer.resize(kept + more, 0);
            let count = self.file.read_at(self.rest.start, &mut self.buffer[kept..])?;
            if count < more {
                return Err(self.of.damaged(self.rest.start, "a bucket", "end of file".to_owned()));
            }
            self.rest.start += more as u64;
        }
        let left = &self.buffer[self.used..];
        if left.is_empty() {
            return Ok(None);
        }
        let position = self.rest.start - left.len() as u64;
        let length = usize::from(u16::from_le_bytes(array(left.get(..2).unwrap_or_default())));
        let whole = left.get(..length + CHUNK_FRAME);
        let Some((body, crc)) = whole.and_then(|whole| whole.split_last_chunk::<4>()) else {
            return Err(self.of.damaged(position, "a chunk of entries", format!("{length} bytes of them")));
        };
        let found = crc32c(body);
        if found != u32::from_le_bytes(*crc) {
            let expected = format!("entries with CRC-32C {:08x}", u32::from_le_bytes(*crc));
            return Err(self.of.damaged(position, &expected, format!("{found:08x}")));
        }
        let entries = decode_entries(self.of, &body[2..])
            .map_err(|malformed| self.of.damaged(position, malformed.expected, "other bytes".to_owned()))?;
        self.used += length + CHUNK_FRAME;
        Ok(Some(entries))
    }
}

fn decode_entries(file: &TermFile, bytes: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut entries = Vec::with_capacity(bytes.len() / 14);
    let mut input = Input::new(bytes);
    while !input.is_empty() {
        let term = u64::from_le_bytes(array(input.take(8, "term")?));
        let segment = input.varint32("place of a segment")?;
        let Some((segment, _)) = file.segments.get(segment as usize) else {
            return Err(input.malformed("the place of a segment"));
        };
        let sequence = file.newest.wrapping_sub(input.varint("sequence")?);
        let (queue, offset) = (QueueId(input.varint("queue")?), QueueOffset(input.varint("offset")?));
        entries.push(Entry { term, segment: *segment, found: Found { sequence, queue, offset } });
    }
    Ok(entries)
}

/// Entries of a file in order, one ahead.
pub(crate) struct Scan<'a, F> {
    chunks: Chunks<'a, F>,
    ahead: std::vec::IntoIter<Entry>,
    next: Option<Entry>,
}

impl<F: DiskFile> Scan<'_, F> {
    pub(crate) fn peek(&self) -> Option<&Entry> {
        self.next.as_ref()
    }

    /// Leaves the next entry behind.
    pub(crate) fn advance(&mut self) -> Result<(), ReadError> {
        self.next = self.ahead.next();
        while self.next.is_none() {
            let Some(entries) = self.chunks.next()? else { break };
            self.ahead = entries.into_iter();
            self.next = self.ahead.next();
        }
        Ok(())
    }
}

/// What a file is to be.
pub(crate) struct Plan<'a> {
    pub generation: u32,
    /// At most so many come.
    pub entries: u64,
    /// Sequence numbers go up to this one.
    pub newest: u64,
    /// Segments of the entries, in order.
    pub segments: &'a [u32],
}

/// Writes a file, entry by entry in their order.
pub(crate) struct Writer<F> {
    file: F,
    of: TermFile,
    directory: Vec<u32>,
    chunk: Vec<u8>,
    buffer: Vec<u8>,
    written: u64,
}

impl<F: DiskFile> Writer<F> {
    /// Begins an empty file.
    pub(crate) fn new(file: F, number: u64, plan: Plan<'_>) -> Self {
        let Plan { generation, newest, .. } = plan;
        let bits = (plan.entries / BUCKET_ENTRIES + 1).next_power_of_two().ilog2();
        let segments = plan.segments.iter().map(|segment| (*segment, 0)).collect();
        let of = TermFile { number, generation, bits, newest, segments, ..TermFile::default() };
        Self { file, of, directory: Vec::new(), chunk: Vec::new(), buffer: Vec::new(), written: 0 }
    }

    pub(crate) fn push(&mut self, entry: &Entry) -> Result<(), DiskError> {
        let Ok(place) = self.of.segments.binary_search_by_key(&entry.segment, |(segment, _)| *segment) else {
            return Ok(()); // Of a segment that nobody asked for.
        };
        self.begin_buckets(bucket_of(entry.term, self.of.bits) + 1)?;
        if self.chunk.len() + 48 > CHUNK_MAX {
            self.cut()?;
        }
        self.chunk.extend_from_slice(&entry.term.to_le_bytes());
        let before = self.of.newest - entry.found.sequence.min(self.of.newest);
        for value in [place as u64, before, entry.found.queue.0, entry.found.offset.0] {
            put_varint(&mut self.chunk, value);
        }
        self.of.entries += 1;
        self.of.segments[place].1 += 1;
        Ok(())
    }

    /// Begins buckets until there are so many.
    fn begin_buckets(&mut self, count: u64) -> Result<(), DiskError> {
        if (self.directory.len() as u64) < count {
            self.cut()?;
            let position = self.written + self.buffer.len() as u64;
            let position = u32::try_from(position).map_err(|_| DiskError {
                kind: DiskErrorKind::Other,
                operation: "write",
                file: self.of.name(),
                position,
                cause: "a file of terms holds at most 4 GiB".to_owned(),
            })?;
            self.directory.resize(count as usize, position);
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), DiskError> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let start = self.buffer.len();
        self.buffer.extend_from_slice(&(self.chunk.len() as u16).to_le_bytes());
        self.buffer.extend_from_slice(&self.chunk);
        let crc = crc32c(&self.buffer[start..]);
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.chunk.clear();
        if self.buffer.len() >= GATHERED { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DiskError> {
        self.file.write_at(self.written, &[&self.buffer])?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Completes the file; it is durable then, but not yet its name.
    pub(crate) fn finish(mut self) -> Result<TermFile, DiskError> {
        self.begin_buckets((1 << self.of.bits) + 1)?;
        self.of.buckets_end = self.written + self.buffer.len() as u64;
        self.buffer.extend(self.directory.iter().flat_map(|position| position.to_le_bytes()));
        self.flush()?;
        self.file.sync_data()?;
        Ok(self.of)
    }
}
