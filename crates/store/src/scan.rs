//! Reading a segment file frame by frame, and looking for frames where one is bad.

use crate::codec::{array, crc32c};
use crate::disk::{DiskFile, DiskResult};
use crate::frame::{FrameHeader, FrameKind, HEADER, LogId};

const WINDOW: usize = 1 << 20;
/// Compared as a whole, which is many times faster than looking at each byte.
const ZEROS: [u8; 4096] = [0; 4096];

/// What is at a position of a segment.
pub(crate) enum Scanned<'a> {
    /// A good frame and its payload (empty for a gap, whose bytes mean nothing).
    Frame(FrameHeader, &'a [u8]),
    /// Not a good frame.
    Bad { position: u32, expected: &'static str, found: String },
    /// The limit is reached.
    End,
}

/// Walks over the frames of one segment.
pub(crate) struct Frames<'f, F> {
    file: &'f F,
    log: LogId,
    segment: u32,
    position: u32,
    limit: u32,
    buffer: Vec<u8>,
    /// Position in the file of the first byte of `buffer`.
    start: u64,
}

impl<'f, F: DiskFile> Frames<'f, F> {
    /// Frames from `from` on, all of which end at or before `limit`.
    pub(crate) fn new(file: &'f F, log: LogId, segment: u32, from: u32, limit: u32) -> Self {
        Self { file, log, segment, position: from, limit, buffer: Vec::new(), start: 0 }
    }

    /// Makes `length` bytes at `position` available if the file has them.
    fn fill(&mut self, position: u64, length: usize) -> DiskResult<()> {
        let end = position + length as u64;
        if position >= self.start && end <= self.start + self.buffer.len() as u64 {
            return Ok(());
        }
        self.buffer.resize(length.max(WINDOW), 0);
        let count = self.file.read_at(position, &mut self.buffer)?;
        self.buffer.truncate(count);
        self.start = position;
        Ok(())
    }

    fn view(&self, position: u64, length: usize) -> Option<&[u8]> {
        let from = usize::try_from(position.checked_sub(self.start)?).ok()?;
        self.buffer.get(from..from.checked_add(length)?)
    }

    /// What is at the position; a good frame moves it on.
    pub(crate) fn next(&mut self) -> DiskResult<Scanned<'_>> {
        let position = self.position;
        if position >= self.limit {
            return Ok(Scanned::End);
        }
        let bad = |expected, found| Ok(Scanned::Bad { position, expected, found });
        self.fill(u64::from(position), HEADER)?;
        let Some(header) = self.view(u64::from(position), HEADER) else {
            return bad("frame header of 64 bytes", "end of file".to_owned());
        };
        let header = match FrameHeader::decode(&array(header), &self.log, self.segment, position) {
            Ok(header) => header,
            Err((expected, found)) => return bad(expected, found),
        };
        let end = match header.end() {
            Some(end) if end <= self.limit => end,
            _ => return bad("frame that ends within the segment", format!("length {}", header.length)),
        };
        if header.kind == FrameKind::Gap {
            self.position = end;
            return Ok(Scanned::Frame(header, &[]));
        }
        let payload_at = u64::from(position) + HEADER as u64;
        self.fill(u64::from(position), HEADER + header.length as usize)?;
        let Some(payload) = self.view(payload_at, header.length as usize) else {
            return bad("payload within the file", "end of file".to_owned());
        };
        let crc = crc32c(payload);
        if crc != header.payload_crc {
            let found = format!("{crc:08x} instead of {:08x}", header.payload_crc);
            return bad("payload with the CRC-32C of its header", found);
        }
        self.position = end;
        Ok(Scanned::Frame(header, self.view(payload_at, header.length as usize).unwrap_or_default()))
    }
}

/// The first good frame header at or after `from` that `accept` takes.
pub(crate) fn find_header<F: DiskFile>(
    file: &F,
    log: &LogId,
    segment: u32,
    from: u32,
    mut accept: impl FnMut(&FrameHeader) -> bool,
) -> DiskResult<Option<FrameHeader>> {
    let mut found = None;
    each_chunk(file, from, |position, chunk| {
        let mut at = 0;
        // `MFR` is rare in anything but headers; the checksum has the last word.
        while let Some(next) = find_magic(&chunk[at..]) {
            at += next;
            if let Some(header) = chunk.get(at..at + HEADER)
                && let Ok(header) = FrameHeader::decode(&array(header), log, segment, position + at as u32)
                && accept(&header)
            {
                found = Some(header);
                return false;
            }
            at += 1;
        }
        true
    })?;
    Ok(found)
}

/// Position after the last byte at or after `from` that is not zero; `from` if there is none.
pub(crate) fn last_nonzero<F: DiskFile>(file: &F, from: u32) -> DiskResult<u32> {
    let mut end = from;
    each_chunk(file, from, |position, chunk| {
        for (index, block) in chunk.chunks(ZEROS.len()).enumerate() {
            if *block != ZEROS[..block.len()]
                && let Some(last) = block.iter().rposition(|byte| *byte != 0)
            {
                end = end.max(position + (index * ZEROS.len() + last) as u32 + 1);
            }
        }
        true
    })?;
    Ok(end)
}

/// Hands out the file from `from` on in pieces that overlap by a header, until told to stop.
fn each_chunk<F: DiskFile>(file: &F, from: u32, mut take: impl FnMut(u32, &[u8]) -> bool) -> DiskResult<()> {
    let mut buffer = vec![0; WINDOW];
    let mut position = from;
    loop {
        let count = file.read_at(u64::from(position), &mut buffer)?;
        if count == 0 || !take(position, &buffer[..count]) || count < buffer.len() {
            return Ok(());
        }
        match position.checked_add((count - HEADER) as u32) {
            Some(next) => position = next,
            None => return Ok(()),
        }
    }
}

fn find_magic(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at + 4 <= bytes.len() {
        // Long runs of zeros are what preallocated files consist of.
        if bytes[at..].starts_with(&ZEROS) {
            at += ZEROS.len();
            continue;
        }
        if bytes[at] == 0 {
            let zeros = bytes[at..].iter().position(|byte| *byte != 0)?;
            at += zeros;
            continue;
        }
        if bytes[at..].starts_with(b"MFR") {
            return Some(at);
        }
        at += 1;
    }
    None
}
