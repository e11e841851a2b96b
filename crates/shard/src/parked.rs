//! Messages of one message group that wait behind an unsettled one: a list of offsets, in the store by chunks, in memory
//! by its first few.
//!
//! A chunk lies under the key of its first offset. Its value is an image and deltas, which are read as one sequence of
//! varints:
//!
//! | varints | meaning |
//! | --- | --- |
//! | d ≥ 1 | one more offset, d above the one before (the first is the key's) |
//! | 0, n | the first n that were left have been taken out |
//!
//! Rules
//! - Offsets only grow. They leave from the front.
//! - A chunk is in memory wholly or not at all; those in memory are the first ones of the list.
//! - A chunk is removed once nothing is left of it.

use crate::codec::CodecError;
use crate::keys;
use bytes::Bytes;
use martlet_model::record::{put_varint, take_varint};
use martlet_model::{GroupId, QueueId};
use martlet_store::{KeyState, Op};
use std::collections::{BTreeMap, VecDeque};

/// Most offsets of a chunk.
pub const CHUNK: u32 = 256;

/// What the store has of a chunk, without the offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// Hash of the message group.
    pub key: u64,
    /// The offset that names it.
    pub start: u64,
    /// First offset that is left.
    pub first: u64,
    /// Last offset.
    pub last: u64,
    /// How many are left.
    pub left: u32,
}

#[derive(Clone, Copy, Debug)]
struct Chunk {
    start: u64,
    first: u64,
    last: u64,
    left: u32,
    /// Offsets it ever held; [`CHUNK`] once it takes no more.
    size: u32,
    resident: bool,
}

/// What the batch must say of one chunk.
#[derive(Debug, Default)]
struct Pending {
    /// The store does not have it yet.
    new: bool,
    bytes: Vec<u8>,
    gone: bool,
}

/// Chunks of one group and queue with something to be written, by message group and start.
#[derive(Debug, Default)]
pub struct Writes(BTreeMap<(u64, u64), Pending>);

/// The parked messages of one message group.
#[derive(Debug, Default)]
pub struct Parked {
    chunks: VecDeque<Chunk>,
    /// The offsets of the resident chunks, in order.
    head: VecDeque<u64>,
    count: u64,
}

impl Writes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the store does not have this chunk yet.
    pub fn is_new(&self, chunk: (u64, u64)) -> bool {
        self.0.get(&chunk).is_some_and(|pending| pending.new)
    }

    /// Chunks that are to be removed.
    pub fn removals(&self) -> impl Iterator<Item = (u64, u64)> {
        self.0.iter().filter(|(_, pending)| pending.gone).map(|(&chunk, _)| chunk)
    }

    /// Writes them all.
    pub fn flush(&mut self, group: GroupId, queue: QueueId, ops: &mut Vec<Op>) {
        for ((key, start), pending) in std::mem::take(&mut self.0) {
            let key = keys::parked(group, queue, key, start);
            let bytes = Bytes::from(pending.bytes);
            ops.push(match (pending.gone, pending.new) {
                (true, _) => Op::Remove { key },
                (false, true) => Op::Put { key, image: bytes, keep_until: None },
                (false, false) => Op::Delta { key, delta: bytes },
            });
        }
    }

    fn of(&mut self, key: u64, start: u64) -> &mut Pending {
        self.0.entry((key, start)).or_default()
    }

    fn take(&mut self, key: u64, start: u64, count: u32) {
        let bytes = &mut self.of(key, start).bytes;
        bytes.push(0);
        put_varint(bytes, u64::from(count));
    }

    fn remove(&mut self, key: u64, start: u64) {
        match self.0.get(&(key, start)) {
            Some(Pending { new: true, .. }) => drop(self.0.remove(&(key, start))),
            _ => self.of(key, start).gone = true,
        }
    }
}

impl Parked {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// A lower bound of the first offset; exact unless retention went past it.
    pub fn first(&self) -> Option<u64> {
        self.chunks.front().map(|chunk| chunk.first)
    }

    /// What names its chunks.
    pub fn starts(&self) -> impl Iterator<Item = u64> {
        self.chunks.iter().map(|chunk| chunk.start)
    }

    /// How many can be taken without reading the store.
    pub fn in_memory(&self) -> usize {
        self.head.len()
    }

    /// The chunk to be read next: something is parked and nothing of it is in memory. It takes no more offsets from now
    /// on, so that what is read of it is all of it.
    pub fn next_load(&mut self) -> Option<u64> {
        let chunk = self.chunks.front_mut().filter(|chunk| !chunk.resident)?;
        chunk.size = CHUNK;
        Some(chunk.start)
    }

    /// Appends an offset above all others. `keep`: memory may be used for it.
    pub fn push(&mut self, key: u64, offset: u64, keep: bool, writes: &mut Writes) {
        let all_resident = self.chunks.back().is_none_or(|chunk| chunk.resident);
        let may_stay = keep && all_resident && self.head.len() < CHUNK as usize;
        match self.chunks.back_mut() {
            Some(chunk) if chunk.size < CHUNK && chunk.resident <= may_stay => {
                put_varint(&mut writes.of(key, chunk.start).bytes, offset - chunk.last);
                (chunk.last, chunk.left, chunk.size) = (offset, chunk.left + 1, chunk.size + 1);
                if chunk.resident {
                    self.head.push_back(offset);
                }
            }
            _ => {
                writes.of(key, offset).new = true;
                self.chunks.push_back(Chunk {
                    start: offset,
                    first: offset,
                    last: offset,
                    left: 1,
                    size: 1,
                    resident: may_stay,
                });
                if may_stay {
                    self.head.push_back(offset);
                }
            }
        }
        self.count += 1;
    }

    /// Takes up to `most` of the first offsets, as far as they are in memory.
    pub fn take(&mut self, key: u64, most: usize, writes: &mut Writes) -> Vec<u64> {
        let taken: Vec<u64> = self.head.drain(..most.min(self.head.len())).collect();
        self.drop_first(key, taken.len() as u64, writes);
        taken
    }

    /// The head has lost so many: so do its chunks.
    fn drop_first(&mut self, key: u64, mut count: u64, writes: &mut Writes) {
        self.count -= count;
        while count > 0 {
            let Some(chunk) = self.chunks.front_mut() else { return };
            if count >= u64::from(chunk.left) {
                count -= u64::from(chunk.left);
                writes.remove(key, chunk.start);
                self.chunks.pop_front();
                continue;
            }
            writes.take(key, chunk.start, count as u32);
            chunk.left -= count as u32;
            count = 0;
        }
        if let (Some(chunk), Some(&first)) = (self.chunks.front_mut(), self.head.front()) {
            chunk.first = first;
        }
    }

    /// Drops what lies below an offset; gives back how many. Of a chunk that is not in memory and straddles the offset
    /// they are dropped when it is read.
    pub fn drop_below(&mut self, key: u64, below: u64, writes: &mut Writes) -> u64 {
        let before = self.count;
        while let Some(chunk) = self.chunks.front_mut().filter(|chunk| chunk.first < below) {
            if chunk.resident {
                let of_head = self.head.iter().take_while(|&&offset| offset < below).count().max(1);
                self.head.drain(..of_head.min(self.head.len()));
                self.drop_first(key, of_head as u64, writes);
            } else if chunk.last < below {
                self.count -= u64::from(chunk.left);
                writes.remove(key, chunk.start);
                self.chunks.pop_front();
            } else {
                chunk.first = below;
            }
        }
        before - self.count
    }

    /// A chunk has been read; what lies below `below` is dropped. Gives back how many that were. `None`: it is not waited for.
    pub fn loaded(&mut self, key: u64, start: u64, offsets: &[u64], below: u64, writes: &mut Writes) -> Option<u64> {
        let chunk = self.chunks.front_mut().filter(|chunk| chunk.start == start && !chunk.resident)?;
        chunk.resident = true;
        self.count = self.count - u64::from(chunk.left) + offsets.len() as u64;
        chunk.left = offsets.len() as u32;
        let Some(&first) = offsets.first() else {
            writes.remove(key, start);
            self.chunks.pop_front();
            return Some(0);
        };
        chunk.first = first;
        self.head.extend(offsets);
        Some(self.drop_below(key, below, writes))
    }

    /// What the store kept; chunks come in order.
    pub fn restore(&mut self, stored: &StoredChunk) {
        let StoredChunk { start, first, last, left, .. } = *stored;
        self.count += u64::from(left);
        self.chunks.push_back(Chunk { start, first, last, left, size: CHUNK, resident: false });
    }
}

/// The offsets that are left of a chunk.
pub fn decode(start: u64, state: &KeyState) -> Result<Vec<u64>, CodecError> {
    const WRONG: CodecError = CodecError { what: "parked messages" };
    let (mut offsets, mut last, mut taken) = (vec![start], start, 0usize);
    for bytes in state.image.iter().chain(&state.deltas) {
        let mut at = 0;
        while at < bytes.len() {
            let number = take_varint(bytes, &mut at).ok_or(WRONG)?;
            if number > 0 {
                last = last.checked_add(number).ok_or(WRONG)?;
                offsets.push(last);
            } else {
                let more = take_varint(bytes, &mut at).and_then(|more| usize::try_from(more).ok()).ok_or(WRONG)?;
                taken = taken.checked_add(more).filter(|&taken| taken <= offsets.len()).ok_or(WRONG)?;
            }
        }
    }
    offsets.drain(..taken);
    Ok(offsets)
}

/// What a key and its value say of a chunk; `None` if nothing is left of it.
pub fn summary(key: &[u8], state: &KeyState) -> Result<Option<StoredChunk>, CodecError> {
    let Some(&[_, _, key, start]) = keys::numbers(key).as_deref() else {
        return Err(CodecError { what: "parked messages" });
    };
    let offsets = decode(start, state)?;
    let ends = offsets.first().zip(offsets.last());
    Ok(ends.map(|(&first, &last)| StoredChunk { key, start, first, last, left: offsets.len() as u32 }))
}

#[cfg(test)]
#[path = "parked_tests.rs"]
mod tests;
