//! Keys and values of the index.

use crate::codec::{Input, Malformed, array, put_signed, put_varint};
use crate::mem::Place;
use crate::{QueueId, QueueOffset, UnixMillis};

/// Key of the entry that says which log and how much of it the index covers. An index of a build that kept terms in it has
/// another one, so that it is made anew.
pub(crate) const COVERS: &[u8] = &[1];
/// Messages in one block.
pub(crate) const BLOCK_MAX: usize = 128;

pub(crate) fn key_entry(key: &[u8]) -> Vec<u8> {
    [b"k", key].concat()
}

pub(crate) fn queue_entry(queue: QueueId) -> [u8; 9] {
    let mut out = [b'q'; 9];
    out[1..].copy_from_slice(&queue.0.to_be_bytes());
    out
}

/// The queue of such a key.
pub(crate) fn queue_of(key: &[u8]) -> QueueId {
    QueueId(u64::from_be_bytes(array(key.get(1..9).unwrap_or_default())))
}

pub(crate) fn block_entry(queue: QueueId, first: QueueOffset) -> [u8; 17] {
    let mut out = [b'm'; 17];
    out[1..9].copy_from_slice(&queue.0.to_be_bytes());
    out[9..].copy_from_slice(&first.0.to_be_bytes());
    out
}

/// Queue and first offset of a block's key.
pub(crate) fn block_place(key: &[u8]) -> (QueueId, QueueOffset) {
    let number = |at: usize| u64::from_be_bytes(array(key.get(at..at + 8).unwrap_or_default()));
    (QueueId(number(1)), QueueOffset(number(9)))
}

/// Key of a file with terms.
pub(crate) fn file_entry(number: u64) -> [u8; 9] {
    let mut out = [b't'; 9];
    out[1..].copy_from_slice(&number.to_be_bytes());
    out
}

/// The number of such a key's file.
pub(crate) fn file_number(key: &[u8]) -> u64 {
    u64::from_be_bytes(array(key.get(1..9).unwrap_or_default()))
}

/// Messages that follow each other, in one segment.
///
/// Value: segment, number of messages (varints), position of the first (varint), its time (signed varint), then each:
/// offset minus the offset before minus 1 (not for the first), position minus the end of the one before (signed, not
/// for the first), bytes before the record, bytes of the record, time minus the time before (signed, not for the first).
pub(crate) struct Block;

impl Block {
    /// The value for places of one segment in order.
    pub(crate) fn encode(places: &[Place]) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + places.len() * 6);
        let Some(first) = places.first() else { return out };
        put_varint(&mut out, u64::from(first.segment));
        put_varint(&mut out, places.len() as u64);
        put_varint(&mut out, u64::from(first.position));
        put_signed(&mut out, first.time.0);
        let mut before: Option<&Place> = None;
        for place in places {
            if let Some(before) = before {
                put_varint(&mut out, place.offset.0 - before.offset.0 - 1);
                put_signed(&mut out, i64::from(place.position) - before.end() as i64);
            }
            put_varint(&mut out, u64::from(place.head));
            put_varint(&mut out, u64::from(place.record));
            if let Some(before) = before {
                put_signed(&mut out, place.time.since(before.time));
            }
            before = Some(place);
        }
        out
    }

    /// The places of a block that starts at `first`.
    pub(crate) fn decode(first: QueueOffset, value: &[u8]) -> Result<Vec<Place>, Malformed> {
        let mut input = Input::new(value);
        let segment = input.varint32("segment")?;
        let count = input.varint("number of messages")?;
        let position = input.varint32("position")?;
        let time = UnixMillis(input.signed("time")?);
        let mut places: Vec<Place> = Vec::new();
        for _ in 0..count {
            let mut place = Place { offset: first, segment, position, head: 0, record: 0, time };
            if let Some(before) = places.last() {
                let skipped = input.varint("offset")?;
                let gap = input.signed("position")?;
                let position = i64::try_from(before.end()).unwrap_or(i64::MAX).saturating_add(gap);
                place.offset = QueueOffset(before.offset.0.saturating_add(skipped).saturating_add(1));
                place.position = u32::try_from(position).map_err(|_| input.malformed("position within a segment"))?;
                place.time = before.time;
            }
            place.head = input.varint32("bytes before the record")?;
            place.record = input.varint32("bytes of the record")?;
            if !places.is_empty() {
                place.time = place.time.plus(input.signed("time")?);
            }
            places.push(place);
        }
        Ok(places)
    }
}

/// What is known of a queue beside its messages.
///
/// Value: byte 0 for a queue, 1 for a forgotten one; trim point, segment that says it, next offset, segment that says it
/// (varints; segment 0: nobody says it; of a forgotten queue the first segment is that of the forgetting); newest
/// segment that holds anything of the queue (varint).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct QueueMeta {
    pub forgotten: bool,
    pub trim: QueueOffset,
    pub trim_home: u32,
    pub next: QueueOffset,
    pub next_home: u32,
    pub newest: u32,
}

impl QueueMeta {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.forgotten)];
        let (trim_home, next_home) = (u64::from(self.trim_home), u64::from(self.next_home));
        for value in [self.trim.0, trim_home, self.next.0, next_home, u64::from(self.newest)] {
            put_varint(&mut out, value);
        }
        out
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::new(value);
        Ok(Self {
            forgotten: input.byte("forgotten")? == 1,
            trim: QueueOffset(input.varint("trim point")?),
            trim_home: input.varint32("segment")?,
            next: QueueOffset(input.varint("next offset")?),
            next_home: input.varint32("segment")?,
            newest: input.varint32("segment")?,
        })
    }

    /// Segments that say something that still counts.
    pub(crate) fn homes(&self) -> impl Iterator<Item = u32> {
        [self.trim_home, self.next_home].into_iter().filter(|segment| *segment != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_round_trip() {
        let place = |offset, position, time| Place {
            offset: QueueOffset(offset),
            segment: 3,
            position,
            head: 30,
            record: 100,
            time: UnixMillis(time),
        };
        let places = vec![place(7, 128, 1000), place(8, 258, 1000), place(12, 64, 900), place(13, 900, 1700)];
        let value = Block::encode(&places);
        assert_eq!(Block::decode(QueueOffset(7), &value), Ok(places));
        for cut in 0..value.len() {
            assert!(Block::decode(QueueOffset(7), &value[..cut]).is_err());
        }
        let meta = QueueMeta {
            trim: QueueOffset(4),
            trim_home: 1,
            next: QueueOffset(900),
            next_home: 2,
            newest: 7,
            forgotten: false,
        };
        assert_eq!(QueueMeta::decode(&meta.encode()), Ok(meta));
        assert_eq!(file_number(&file_entry(77)), 77);
        assert_eq!(block_place(&block_entry(QueueId(1), QueueOffset(2))), (QueueId(1), QueueOffset(2)));
    }
}
