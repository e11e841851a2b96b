//! The last frames, kept in memory as they were written: consumers at the tail never touch the disk and never copy.

use bytes::Bytes;
use std::collections::VecDeque;

struct Cached {
    segment: u32,
    /// Where the payload starts in the file.
    at: u32,
    payload: Bytes,
    /// Frames are counted from the opening; one that is not written yet must stay.
    ordinal: u64,
}

/// Payloads of the last frames, up to a number of bytes.
pub(crate) struct TailCache {
    frames: VecDeque<Cached>,
    bytes: usize,
    limit: usize,
}

impl TailCache {
    pub(crate) fn new(limit: usize) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, limit }
    }

    /// Adds a frame; drops the oldest ones beyond the limit that are `written`.
    pub(crate) fn push(&mut self, segment: u32, at: u32, payload: Bytes, ordinal: u64, written: u64) {
        self.bytes += payload.len();
        self.frames.push_back(Cached { segment, at, payload, ordinal });
        while self.bytes > self.limit
            && let Some(oldest) = self.frames.front()
            && oldest.ordinal <= written
        {
            self.bytes -= oldest.payload.len();
            self.frames.pop_front();
        }
    }

    /// `length` bytes at `position` of the segment's file, if they are here.
    pub(crate) fn get(&self, segment: u32, position: u32, length: u32) -> Option<Bytes> {
        let after = self.frames.partition_point(|frame| (frame.segment, frame.at) <= (segment, position));
        let frame = self.frames.get(after.checked_sub(1)?)?;
        if frame.segment != segment {
            return None;
        }
        let start = (position - frame.at) as usize;
        let end = start.checked_add(length as usize)?;
        (end <= frame.payload.len()).then(|| frame.payload.slice(start..end))
    }
}
