//! Which segments exist, where they end and what is alive in them: the account, kept in the log itself.
//!
//! The first frame of every segment that commits fill starts with a manifest, and so does a frame of its own after each
//! step of maintenance. The last one in the newest segment is the truth: a segment it lists must be there, a segment
//! file it does not list is a leftover (only the newest segment itself is not listed).
//!
//! All numbers are varints:
//!
//! | field |
//! | --- |
//! | version of the manifest format: 1 |
//! | number of index steps (ingest, carry) that this manifest includes |
//! | the last segment filled by commits whose liveness is counted below |
//! | number of parts of the last index step; each: segment, from, to |
//! | number of rows; each: segment, class, end, live messages, their bytes, live pieces, their bytes |

use crate::codec::{Input, Malformed, put_varint};
use std::collections::BTreeMap;

/// What is known of one segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Row {
    pub class: u32,
    /// Position after its last frame.
    pub end: u32,
    pub live: Live,
}

/// What is alive in a segment by the index: messages that are not trimmed; pieces (images, deltas, removals that still
/// hide something, bounds of queues).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub messages: u64,
    pub message_bytes: u64,
    pub pieces: u64,
    pub piece_bytes: u64,
}

impl Live {
    pub(crate) fn bytes(&self) -> u64 {
        self.message_bytes + self.piece_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages == 0 && self.pieces == 0
    }
}

/// A range of a segment's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub segment: u32,
    pub from: u32,
    pub to: u32,
}

/// The account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub step: u64,
    pub covers: u32,
    pub last_step: Vec<Part>,
    pub rows: BTreeMap<u32, Row>,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16 + self.rows.len() * 20);
        put_varint(&mut out, 1);
        put_varint(&mut out, self.step);
        put_varint(&mut out, u64::from(self.covers));
        put_varint(&mut out, self.last_step.len() as u64);
        for part in &self.last_step {
            for value in [part.segment, part.from, part.to] {
                put_varint(&mut out, u64::from(value));
            }
        }
        put_varint(&mut out, self.rows.len() as u64);
        for (segment, row) in &self.rows {
            for value in [*segment, row.class, row.end] {
                put_varint(&mut out, u64::from(value));
            }
            let live = &row.live;
            for value in [live.messages, live.message_bytes, live.pieces, live.piece_bytes] {
                put_varint(&mut out, value);
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        if input.varint("version of the manifest")? != 1 {
            return Err(input.malformed("manifest of version 1"));
        }
        let mut manifest = Self { step: input.varint("step")?, covers: input.varint32("segment")?, ..Self::default() };
        for _ in 0..input.varint("number of parts")? {
            let (segment, from) = (input.varint32("segment")?, input.varint32("from")?);
            manifest.last_step.push(Part { segment, from, to: input.varint32("to")? });
        }
        for _ in 0..input.varint("number of rows")? {
            let segment = input.varint32("segment")?;
            let (class, end) = (input.varint32("class")?, input.varint32("end")?);
            let live = Live {
                messages: input.varint("messages")?,
                message_bytes: input.varint("bytes")?,
                pieces: input.varint("pieces")?,
                piece_bytes: input.varint("bytes")?,
            };
            manifest.rows.insert(segment, Row { class, end, live });
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_round_trips_and_its_bytes_are_pinned() {
        let live = Live { messages: 1, message_bytes: 200, pieces: 3, piece_bytes: 4 };
        let manifest = Manifest {
            step: 5,
            covers: 2,
            last_step: vec![Part { segment: 2, from: 64, to: 300 }],
            rows: BTreeMap::from([
                (1, Row { class: 0, end: 300, live }),
                (3, Row { class: 4, end: 64, ..Row::default() }),
            ]),
        };
        let bytes = manifest.encode();
        assert_eq!(bytes, [1, 5, 2, 1, 2, 64, 172, 2, 2, 1, 0, 172, 2, 1, 200, 1, 3, 4, 3, 4, 64, 0, 0, 0, 0]);
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for cut in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..cut]).is_err());
        }
    }
}
