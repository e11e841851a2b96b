//! What is known of one key: the last image or removal, the deltas since, and where each of them lies in the log.
//!
//! Knowledge from several places (open segment, sealed ones, index) is merged by sequence number, so the order in which
//! segments are looked at does not matter, and what was carried forward never overrides anything newer.
//!
//! In the index:
//!
//! | field | form |
//! | --- | --- |
//! | oldest and newest segment that may hold anything of the key | varints |
//! | reset | byte: 0 none, 1 image, 2 removed |
//! | of an image | piece |
//! | of a removal | sequence number, segment (varints) |
//! | deltas | number (varint), pieces in order |
//!
//! A piece: sequence number, segment, bytes it takes in the log, length of the value times two (varints), and the
//! value; or length times two plus one, position in the file (varint), CRC-32C of the value (4 bytes).

use crate::codec::{Input, Malformed, put_varint};
use bytes::Bytes;

/// Values up to this length stand in the index; longer ones are read from the log.
pub(crate) const INLINE_MAX: usize = 256;

/// One image or delta.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    pub sequence: u64,
    pub segment: u32,
    /// Bytes of the whole operation in the log.
    pub log_bytes: u32,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Inline(Bytes),
    /// Position in the segment's file, length, CRC-32C.
    At {
        position: u32,
        length: u32,
        crc: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reset {
    Image(Piece),
    Removed { sequence: u64, segment: u32 },
}

impl Reset {
    pub(crate) fn sequence(&self) -> u64 {
        match self {
            Self::Image(piece) => piece.sequence,
            Self::Removed { sequence, .. } => *sequence,
        }
    }
}

/// What one place knows of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    pub reset: Option<Reset>,
    pub deltas: Vec<Piece>,
    /// Segments outside of these two, both included, hold nothing of the key.
    pub oldest: u32,
    pub newest: u32,
}

impl KeyEntry {
    /// Whether nothing older can matter.
    pub(crate) fn is_whole(&self) -> bool {
        self.reset.is_some()
    }

    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Piece> {
        let image = match &self.reset {
            Some(Reset::Image(piece)) => Some(piece),
            _ => None,
        };
        image.into_iter().chain(&self.deltas)
    }

    /// Whether a reader would find anything.
    pub(crate) fn is_present(&self) -> bool {
        matches!(self.reset, Some(Reset::Image(_))) || !self.deltas.is_empty()
    }

    pub(crate) fn reset(&mut self, reset: Reset) {
        let newest = self.reset.as_ref().is_none_or(|old| old.sequence() <= reset.sequence());
        if newest {
            let from = reset.sequence();
            self.deltas.retain(|delta| delta.sequence > from);
            self.reset = Some(reset);
        }
    }

    pub(crate) fn delta(&mut self, delta: Piece) {
        if self.reset.as_ref().is_some_and(|reset| reset.sequence() >= delta.sequence) {
            return;
        }
        // Nearly always the newest so far.
        let place = self.deltas.partition_point(|other| other.sequence < delta.sequence);
        match self.deltas.get_mut(place) {
            Some(same) if same.sequence == delta.sequence => *same = delta,
            _ => self.deltas.insert(place, delta),
        }
    }

    /// Adds what another place knows. Of two copies of the same piece the one in `other` stays.
    pub(crate) fn merge(&mut self, other: Self) {
        self.oldest = match (self.oldest, other.oldest) {
            (0, oldest) | (oldest, 0) => oldest,
            (a, b) => a.min(b),
        };
        self.newest = self.newest.max(other.newest);
        if let Some(reset) = other.reset {
            self.reset(reset);
        }
        for delta in other.deltas {
            self.delta(delta);
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.oldest));
        put_varint(out, u64::from(self.newest));
        match &self.reset {
            None => out.push(0),
            Some(Reset::Image(piece)) => {
                out.push(1);
                piece.encode(out);
            }
            Some(Reset::Removed { sequence, segment }) => {
                out.push(2);
                put_varint(out, *sequence);
                put_varint(out, u64::from(*segment));
            }
        }
        put_varint(out, self.deltas.len() as u64);
        for delta in &self.deltas {
            delta.encode(out);
        }
    }

    pub(crate) fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        let (oldest, newest) = (input.varint32("segment")?, input.varint32("segment")?);
        let reset = match input.byte("reset")? {
            0 => None,
            1 => Some(Reset::Image(Piece::decode(&mut input, bytes)?)),
            2 => Some(Reset::Removed { sequence: input.varint("sequence")?, segment: input.varint32("segment")? }),
            _ => return Err(input.malformed("reset 0 to 2")),
        };
        let count = input.varint("number of deltas")?;
        let mut deltas = Vec::new();
        for _ in 0..count {
            deltas.push(Piece::decode(&mut input, bytes)?);
        }
        Ok(Self { reset, deltas, oldest, newest })
    }
}

impl Piece {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.sequence);
        put_varint(out, u64::from(self.segment));
        put_varint(out, u64::from(self.log_bytes));
        match &self.value {
            Value::Inline(value) => {
                put_varint(out, (value.len() as u64) << 1);
                out.extend_from_slice(value);
            }
            Value::At { position, length, crc } => {
                put_varint(out, u64::from(*length) << 1 | 1);
                put_varint(out, u64::from(*position));
                out.extend_from_slice(&crc.to_le_bytes());
            }
        }
    }

    fn decode(input: &mut Input<'_>, whole: &Bytes) -> Result<Self, Malformed> {
        let sequence = input.varint("sequence")?;
        let segment = input.varint32("segment")?;
        let log_bytes = input.varint32("bytes in the log")?;
        let length = input.varint("length of the value")?;
        let value = if length & 1 == 0 {
            Value::Inline(whole.slice_ref(input.take((length >> 1) as usize, "value")?))
        } else {
            let length = u32::try_from(length >> 1).map_err(|_| input.malformed("length below 2^32"))?;
            Value::At { position: input.varint32("position")?, length, crc: input.u32("checksum")? }
        };
        Ok(Self { sequence, segment, log_bytes, value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(sequence: u64) -> Piece {
        let value = if sequence.is_multiple_of(2) {
            Value::Inline(Bytes::from(vec![7; sequence as usize]))
        } else {
            Value::At { position: 64, length: 1000, crc: 5 }
        };
        Piece { sequence, segment: 3, log_bytes: 20, value }
    }

    #[test]
    fn merging_gives_the_same_in_any_order() {
        let mut parts: Vec<KeyEntry> = vec![
            KeyEntry { reset: Some(Reset::Image(piece(1))), deltas: vec![piece(2), piece(3)], oldest: 1, newest: 1 },
            KeyEntry {
                reset: Some(Reset::Removed { sequence: 4, segment: 2 }),
                deltas: vec![piece(6)],
                oldest: 2,
                newest: 2,
            },
            KeyEntry { reset: None, deltas: vec![piece(8), piece(9)], oldest: 3, newest: 3 },
            KeyEntry { reset: None, deltas: vec![piece(3), piece(6)], oldest: 4, newest: 4 },
        ];
        let expected = KeyEntry {
            reset: Some(Reset::Removed { sequence: 4, segment: 2 }),
            deltas: vec![piece(6), piece(8), piece(9)],
            oldest: 1,
            newest: 4,
        };
        for _ in 0..parts.len() {
            parts.rotate_left(1);
            let mut merged = KeyEntry::default();
            parts.iter().cloned().for_each(|part| merged.merge(part));
            assert_eq!(merged, expected);
        }
    }

    #[test]
    fn entries_round_trip() {
        for reset in [None, Some(Reset::Image(piece(5))), Some(Reset::Removed { sequence: 1, segment: 9 })] {
            let entry = KeyEntry { reset, deltas: vec![piece(6), piece(7)], oldest: 2, newest: 7 };
            let mut out = Vec::new();
            entry.encode(&mut out);
            assert_eq!(KeyEntry::decode(&Bytes::from(out.clone())), Ok(entry));
            for cut in 0..out.len() {
                assert!(KeyEntry::decode(&Bytes::copy_from_slice(&out[..cut])).is_err());
            }
        }
    }
}
