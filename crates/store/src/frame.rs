//! Headers of segments and frames.
//!
//! A segment file is one segment header, then frames without gaps, then zeros up to the preallocated length. All
//! integers are little-endian. Every frame header stands on its own: log id, segment and position in it say where it
//! belongs, so that a stale or copied one is never taken for the real one.
//!
//! Segment header, 64 bytes:
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | `MSEG` |
//! | 4 | 4 | format version, 1 |
//! | 8 | 16 | log id |
//! | 24 | 4 | segment number |
//! | 28 | 4 | expiry class: 0 written by commits; 1 to 4 carried forward, see [`crate::engine`] |
//! | 32 | 4 | number of the segment that commits filled before this one; 0: none |
//! | 36 | 4 | position where the frames of that one end |
//! | 40 | 8 | shard time at creation, ms since the Unix epoch |
//! | 48 | 12 | zeros |
//! | 60 | 4 | CRC-32C of the 60 bytes before |
//!
//! Frame header, 64 bytes, followed by the payload ([`crate::payload`]):
//!
//! | at | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | `MFR1` batch, `MFR2` carried forward, `MFR3` gap (what stood here was dropped by repair; no payload kept) |
//! | 4 | 4 | payload length |
//! | 8 | 16 | log id |
//! | 24 | 4 | segment number |
//! | 28 | 4 | position of this header in the file |
//! | 32 | 4 | durable position: frames of this segment below it were synced before this one was written |
//! | 36 | 4 | number of operations |
//! | 40 | 8 | sequence number of the first operation |
//! | 48 | 8 | shard time of the batch, ms since the Unix epoch |
//! | 56 | 4 | CRC-32C of the payload |
//! | 60 | 4 | CRC-32C of the 60 bytes before |

use crate::codec::{array, crc32c};

/// Bytes of either header.
pub(crate) const HEADER: usize = 64;
/// The newest segment format this build writes and reads.
pub(crate) const VERSION: u32 = 1;
/// First bytes of a segment.
const SEGMENT_MAGIC: [u8; 4] = *b"MSEG";

/// Random number of a log, the same in all its segments.
pub(crate) type LogId = [u8; 16];

/// Head of a segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub log: LogId,
    pub segment: u32,
    pub class: u32,
    pub previous: u32,
    pub previous_end: u32,
    pub created: i64,
}

/// Why a segment header was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BadSegment {
    /// Not a header of this log and segment: what was expected, what was found.
    Invalid(&'static str, String),
    /// Written by a newer build.
    Newer(u32),
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&SEGMENT_MAGIC);
        out[4..8].copy_from_slice(&VERSION.to_le_bytes());
        out[8..24].copy_from_slice(&self.log);
        out[24..28].copy_from_slice(&self.segment.to_le_bytes());
        out[28..32].copy_from_slice(&self.class.to_le_bytes());
        out[32..36].copy_from_slice(&self.previous.to_le_bytes());
        out[36..40].copy_from_slice(&self.previous_end.to_le_bytes());
        out[40..48].copy_from_slice(&self.created.to_le_bytes());
        let crc = crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; HEADER]) -> Result<Self, BadSegment> {
        if bytes[0..4] != SEGMENT_MAGIC {
            return Err(BadSegment::Invalid("segment header MSEG", hex(&bytes[0..4])));
        }
        let (crc, found) = (u32_at(bytes, 60), crc32c(&bytes[..60]));
        if crc != found {
            return Err(BadSegment::Invalid("segment header with CRC-32C of its bytes", format!("{crc:08x}")));
        }
        let version = u32_at(bytes, 4);
        if version > VERSION {
            return Err(BadSegment::Newer(version));
        }
        Ok(Self {
            log: array(&bytes[8..24]),
            segment: u32_at(bytes, 24),
            class: u32_at(bytes, 28),
            previous: u32_at(bytes, 32),
            previous_end: u32_at(bytes, 36),
            created: u64_at(bytes, 40) as i64,
        })
    }
}

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// One batch, or the engine's own operations.
    Batch,
    /// What was alive in reclaimed segments.
    Carried,
    /// A dropped frame; `length` is the number of bytes to skip after the header.
    Gap,
}

impl FrameKind {
    fn magic(self) -> [u8; 4] {
        match self {
            Self::Batch => *b"MFR1",
            Self::Carried => *b"MFR2",
            Self::Gap => *b"MFR3",
        }
    }
}

/// Head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub kind: FrameKind,
    pub length: u32,
    pub log: LogId,
    pub segment: u32,
    pub position: u32,
    pub durable: u32,
    pub ops: u32,
    pub sequence: u64,
    pub time: i64,
    pub payload_crc: u32,
}

impl FrameHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        out[0..4].copy_from_slice(&self.kind.magic());
        out[4..8].copy_from_slice(&self.length.to_le_bytes());
        out[8..24].copy_from_slice(&self.log);
        out[24..28].copy_from_slice(&self.segment.to_le_bytes());
        out[28..32].copy_from_slice(&self.position.to_le_bytes());
        out[32..36].copy_from_slice(&self.durable.to_le_bytes());
        out[36..40].copy_from_slice(&self.ops.to_le_bytes());
        out[40..48].copy_from_slice(&self.sequence.to_le_bytes());
        out[48..56].copy_from_slice(&self.time.to_le_bytes());
        out[56..60].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at `position` of `segment` of log `log`, or what is wrong with it: (expected, found).
    pub(crate) fn decode(
        bytes: &[u8; HEADER],
        log: &LogId,
        segment: u32,
        position: u32,
    ) -> Result<Self, (&'static str, String)> {
        let kind = match &bytes[0..4] {
            b"MFR1" => FrameKind::Batch,
            b"MFR2" => FrameKind::Carried,
            b"MFR3" => FrameKind::Gap,
            other => return Err(("frame header MFR1, MFR2 or MFR3", hex(other))),
        };
        let (crc, found) = (u32_at(bytes, 60), crc32c(&bytes[..60]));
        if crc != found {
            return Err(("frame header with CRC-32C of its bytes", format!("{crc:08x} instead of {found:08x}")));
        }
        if bytes[8..24] != log[..] {
            return Err(("frame of this log", format!("log id {}", hex(&bytes[8..24]))));
        }
        let header = Self {
            kind,
            length: u32_at(bytes, 4),
            log: *log,
            segment: u32_at(bytes, 24),
            position: u32_at(bytes, 28),
            durable: u32_at(bytes, 32),
            ops: u32_at(bytes, 36),
            sequence: u64_at(bytes, 40),
            time: u64_at(bytes, 48) as i64,
            payload_crc: u32_at(bytes, 56),
        };
        if (header.segment, header.position) != (segment, position) {
            return Err((
                "frame of this segment and position",
                format!("segment {} position {}", header.segment, header.position),
            ));
        }
        Ok(header)
    }

    /// Position after the payload, if it fits a segment.
    pub(crate) fn end(&self) -> Option<u32> {
        self.position.checked_add(HEADER as u32)?.checked_add(self.length)
    }
}

/// File name of a segment.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:010}.seg")
}

/// Number of a segment file, `None` for any other name.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    if digits.len() == 10 { digits.parse().ok() } else { None }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn u32_at(bytes: &[u8; HEADER], at: usize) -> u32 {
    u32::from_le_bytes(array(&bytes[at..]))
}

fn u64_at(bytes: &[u8; HEADER], at: usize) -> u64 {
    u64::from_le_bytes(array(&bytes[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: LogId = *b"0123456789abcdef";

    /// Real bytes of format 1. They never change: a build that cannot read them cannot read old folders.
    #[test]
    fn headers_are_pinned() {
        let segment = SegmentHeader {
            log: LOG,
            segment: 7,
            class: 2,
            previous: 6,
            previous_end: 4096,
            created: 1_700_000_000_000,
        };
        assert_eq!(
            hex(&segment.encode()),
            "4d5345470100000030313233343536373839616263646566070000000200000006000000001000000068e5cf8b01\
             00000000000000000000000000004774d114"
        );
        assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
        let frame = FrameHeader {
            kind: FrameKind::Batch,
            length: 5,
            log: LOG,
            segment: 7,
            position: 64,
            durable: 64,
            ops: 1,
            sequence: 9,
            time: 1_700_000_000_001,
            payload_crc: 0xdead_beef,
        };
        assert_eq!(
            hex(&frame.encode()),
            "4d4652310500000030313233343536373839616263646566070000004000000040000000010000000900000000000000\
             0168e5cf8b010000efbeadde572b368d"
        );
        assert_eq!(FrameHeader::decode(&frame.encode(), &LOG, 7, 64), Ok(frame));
    }

    #[test]
    fn a_header_of_another_place_or_with_a_flipped_bit_is_refused() {
        let frame = FrameHeader {
            kind: FrameKind::Carried,
            length: 0,
            log: LOG,
            segment: 1,
            position: 64,
            durable: 64,
            ops: 0,
            sequence: 1,
            time: 0,
            payload_crc: 0,
        };
        let bytes = frame.encode();
        assert!(FrameHeader::decode(&bytes, &LOG, 2, 64).is_err());
        assert!(FrameHeader::decode(&bytes, &LOG, 1, 65).is_err());
        assert!(FrameHeader::decode(&bytes, b"another log id..", 1, 64).is_err());
        for bit in 0..HEADER * 8 {
            let mut broken = bytes;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&broken, &LOG, 1, 64).is_err());
        }
    }

    #[test]
    fn a_newer_segment_is_named() {
        let header = SegmentHeader { log: LOG, segment: 1, class: 0, previous: 0, previous_end: 0, created: 0 };
        let mut bytes = header.encode();
        bytes[4] = 9;
        let crc = crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(BadSegment::Newer(9)));
    }
}
