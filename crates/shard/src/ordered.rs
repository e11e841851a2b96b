//! What an ordered group knows of the message groups ("keys", by their hash) it has unsettled messages of in one queue.
//!
//! Rules
//! - A key is *locked* while one of its open slots is in flight, waits for its retry, or is on its way to the dead
//!   letters. All open slots of a key that is not locked are visible, and the first of them is its *head*: a hand-out
//!   takes a prefix of them, in one reply.
//! - All open slots of a key lie before all its parked messages. The next parked ones become slots when the last open
//!   slot is settled.

use crate::load::LoadId;
use crate::parked::{Parked, StoredChunk, Writes};
use martlet_model::record;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// The hash of a message group: SipHash-1-3 of its UTF-8 bytes with a fixed key, and never 0, which stands for messages
/// without a group. It decides the queue and never changes.
pub fn message_group(text: &str) -> u64 {
    use std::hash::Hasher as _;
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(0x6d61_7274_6c65_7431, 0x6772_6f75_705f_7631);
    hasher.write(text.as_bytes());
    hasher.finish().max(1)
}

/// The hash of the message group that a record names, if it names one.
pub fn message_group_of(record: &[u8]) -> Option<u64> {
    record::text_of(record, record::MESSAGE_GROUP_KIND).map(message_group)
}

/// Most open slots of a key.
pub const WINDOW: usize = 32;
/// Most open slots of a key that is locked; more are parked.
const WINDOW_LOCKED: usize = 8;
/// Most parked offsets kept in memory for one group and queue.
const IN_MEMORY: usize = 65_536;

/// How an open slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In flight, waiting for its retry, or on its way to the dead letters.
    Busy,
    /// Visible, never handed out.
    Fresh,
    /// Visible, handed out before.
    Retry,
}

#[derive(Debug, Default)]
struct Key {
    /// Oldest first.
    open: Vec<(u64, Standing)>,
    parked: Option<Box<Parked>>,
}

/// The keys of one group and queue.
#[derive(Debug, Default)]
pub struct Ordered {
    keys: BTreeMap<u64, Key>,
    key_of: BTreeMap<u64, u64>,
    fresh: BTreeSet<u64>,
    retries: BTreeSet<u64>,
    /// Open slots of keys that are not locked.
    deliverable: u64,
    /// Keys without open slots that have parked messages.
    wanting: BTreeSet<u64>,
    /// Slots these may open at once.
    wanted: u64,
    /// Of which a chunk is being read.
    loading: BTreeMap<u64, LoadId>,
    /// First parked offset of each key that has any.
    firsts: BTreeSet<(u64, u64)>,
    parked: u64,
    in_memory: usize,
    writes: Writes,
    /// The next hand-out begins with the first head from here on.
    from_head: u64,
    after_wanting: u64,
}

impl Key {
    fn is_locked(&self) -> bool {
        self.open.iter().any(|slot| slot.1 == Standing::Busy)
    }

    fn head(&self) -> Option<(u64, Standing)> {
        self.open.first().copied().filter(|_| !self.is_locked())
    }

    fn parked(&self) -> u64 {
        self.parked.as_ref().map_or(0, |parked| parked.count())
    }

    /// Slots it may open now.
    fn wanted(&self) -> u64 {
        if self.open.is_empty() { self.parked().min(WINDOW as u64) } else { 0 }
    }

    fn in_memory(&self) -> usize {
        self.parked.as_ref().map_or(0, |parked| parked.in_memory())
    }

    fn first_parked(&self) -> Option<u64> {
        self.parked.as_ref().and_then(|parked| parked.first())
    }
}

impl Ordered {
    /// What the store kept of parked messages; chunks come by key and in order.
    pub fn restore(&mut self, chunks: &[StoredChunk]) {
        for chunk in chunks {
            self.touch(chunk.key, |key, _| key.parked.get_or_insert_default().restore(chunk));
        }
    }

    /// Changes a key and brings everything that is derived from it up to date.
    fn touch<R>(&mut self, hash: u64, change: impl FnOnce(&mut Key, &mut Writes) -> R) -> R {
        let key = self.keys.entry(hash).or_default();
        if let Some((head, _)) = key.head() {
            self.fresh.remove(&head);
            self.retries.remove(&head);
            self.deliverable -= key.open.len() as u64;
        }
        let (parked, in_memory, first) = (key.parked(), key.in_memory(), key.first_parked());
        self.wanted -= key.wanted();
        let result = change(key, &mut self.writes);
        if key.parked() == 0 {
            key.parked = None;
        }
        if let Some((head, standing)) = key.head() {
            match standing {
                Standing::Retry => self.retries.insert(head),
                _ => self.fresh.insert(head),
            };
            self.deliverable += key.open.len() as u64;
        }
        self.parked = self.parked - parked + key.parked();
        self.in_memory = self.in_memory - in_memory + key.in_memory();
        if first != key.first_parked() {
            first.map(|first| self.firsts.remove(&(first, hash)));
            key.first_parked().map(|first| self.firsts.insert((first, hash)));
        }
        self.wanted += key.wanted();
        match key.wanted() {
            0 => self.wanting.remove(&hash),
            _ => self.wanting.insert(hash),
        };
        if key.open.is_empty() && key.parked.is_none() {
            self.keys.remove(&hash);
            self.loading.remove(&hash);
        }
        result
    }

    /// Whether the slot at this offset belongs to a key.
    pub fn has(&self, offset: u64) -> bool {
        self.key_of.contains_key(&offset)
    }

    pub fn key_of(&self, offset: u64) -> Option<u64> {
        self.key_of.get(&offset).copied()
    }

    /// Whether the next message of a key is to become a slot; if not, it is to be parked. `crowded`: slots are scarce.
    pub fn admits(&self, hash: u64, crowded: bool) -> bool {
        let Some(key) = self.keys.get(&hash) else { return true };
        let most = match (key.is_locked(), crowded) {
            (_, true) => 1,
            (true, false) => WINDOW_LOCKED,
            (false, false) => WINDOW,
        };
        key.parked.is_none() && key.open.len() < most
    }

    /// A slot of this key is open from now on.
    pub fn enter(&mut self, offset: u64, hash: u64) {
        self.key_of.insert(offset, hash);
        self.touch(hash, |key, _| {
            let at = key.open.partition_point(|slot| slot.0 < offset);
            match key.open.get_mut(at) {
                Some(slot) if slot.0 == offset => slot.1 = Standing::Fresh,
                _ => key.open.insert(at, (offset, Standing::Fresh)),
            }
        });
    }

    /// An open slot stands otherwise.
    pub fn stand(&mut self, offset: u64, standing: Standing) {
        let Some(hash) = self.key_of(offset) else { return };
        self.touch(hash, |key, _| {
            key.open.iter_mut().filter(|slot| slot.0 == offset).for_each(|slot| slot.1 = standing);
        });
    }

    /// A slot is settled.
    pub fn leave(&mut self, offset: u64) {
        if let Some(hash) = self.key_of.remove(&offset) {
            self.touch(hash, |key, _| key.open.retain(|slot| slot.0 != offset));
        }
    }

    /// A message waits for those of its key before it.
    pub fn park(&mut self, offset: u64, hash: u64) {
        let keep = self.in_memory < IN_MEMORY;
        self.touch(hash, |key, writes| key.parked.get_or_insert_default().push(hash, offset, keep, writes));
    }

    /// How many are parked.
    pub fn parked(&self) -> u64 {
        self.parked
    }

    /// How many parked offsets are in memory.
    pub fn parked_in_memory(&self) -> usize {
        self.in_memory
    }

    /// The oldest parked message, or an offset before it that retention has passed.
    pub fn first_parked(&self) -> Option<u64> {
        self.firsts.first().map(|first| first.0)
    }

    /// Heads of keys that are not locked.
    pub fn heads(&self, retries: bool) -> &BTreeSet<u64> {
        if retries { &self.retries } else { &self.fresh }
    }

    /// Whether a key is free and has parked messages.
    pub fn has_wanting(&self) -> bool {
        !self.wanting.is_empty()
    }

    /// Visible slots that may be handed out, and parked messages that may become such.
    pub fn available(&self) -> u64 {
        self.deliverable + self.wanted
    }

    /// Up to `most` visible slots, at most `of_key` of a key and each key's from its head on. They are taken by offset, so that
    /// what is handed out together lies together in the log; while others have any, one key gets at most a quarter. The
    /// walk begins behind where the last one ended. `matches` says what the poll may take.
    pub fn pick(&mut self, retries: bool, most: usize, of_key: usize, matches: impl Fn(u64) -> bool) -> Vec<u64> {
        let from = self.from_head;
        let heads = if retries { &self.retries } else { &self.fresh };
        let share = (most / 4).max(1);
        let (mut picked, mut more) = (Vec::with_capacity(most), Vec::new());
        'walk: for heads in [heads.range(from..), heads.range(..from)] {
            // Offsets of keys whose head the walk has passed; every head before the smallest of them has been passed, too.
            let mut near = BinaryHeap::new();
            for &head in heads.filter(|&&head| matches(head)) {
                while near.peek().is_some_and(|&Reverse(offset)| offset < head) {
                    picked.extend(near.pop().map(|Reverse(offset)| offset));
                    if picked.len() == most {
                        break 'walk;
                    }
                }
                let key = self.key_of.get(&head).and_then(|hash| self.keys.get(hash));
                let open = key.map_or(&[][..], |key| &key.open).iter().map(|slot| slot.0);
                for (n, offset) in open.take(most.min(of_key)).take_while(|&offset| matches(offset)).enumerate() {
                    match n < share {
                        true => near.push(Reverse(offset)),
                        false => more.push(offset),
                    }
                }
            }
            while let Some(Reverse(offset)) = near.pop() {
                picked.push(offset);
                if picked.len() == most {
                    break 'walk;
                }
            }
        }
        let Some(&last) = picked.last() else { return picked };
        self.from_head = last + 1;
        // Everything of before is among the picked ones if there is room left.
        picked.extend(more.into_iter().take(most - picked.len()));
        picked.sort_unstable();
        picked
    }

    /// Up to `most` keys that are free and have parked messages; the walk goes on where the last one ended.
    pub fn wanting(&mut self, most: usize) -> Vec<u64> {
        let after = self.after_wanting;
        let walk = self.wanting.range(after..).skip_while(|&&hash| hash == after).chain(self.wanting.range(..=after));
        let keys: Vec<u64> = walk.take(most).copied().collect();
        self.after_wanting = keys.last().copied().unwrap_or(after);
        keys
    }

    /// Takes the next parked messages of a free key, as far as they are in memory; they are to become slots.
    pub fn take_parked(&mut self, hash: u64, most: usize) -> Vec<u64> {
        self.touch(hash, |key, writes| {
            key.parked.as_mut().map_or_else(Vec::new, |parked| parked.take(hash, most, writes))
        })
    }

    /// The chunk of this key that is to be read, unless one is being read already.
    pub fn next_load(&mut self, hash: u64) -> Option<u64> {
        match self.loading.contains_key(&hash) {
            true => None,
            false => self.keys.get_mut(&hash)?.parked.as_mut()?.next_load(),
        }
    }

    /// Chunks of parked messages that are being read.
    pub fn reads(&self) -> impl Iterator<Item = LoadId> {
        self.loading.values().copied()
    }

    pub fn loading(&mut self, hash: u64, id: LoadId) {
        self.loading.insert(hash, id);
    }

    /// A chunk has been read, or could not be (`None`). Gives back how many of it retention had taken.
    pub fn loaded(&mut self, hash: u64, start: u64, id: LoadId, offsets: Option<&[u64]>, below: u64) -> u64 {
        if self.loading.get(&hash) != Some(&id) {
            return 0;
        }
        self.loading.remove(&hash);
        let Some(offsets) = offsets else { return 0 };
        self.touch(hash, |key, writes| {
            let parked = key.parked.as_mut();
            parked.and_then(|parked| parked.loaded(hash, start, offsets, below, writes)).unwrap_or(0)
        })
    }

    /// Drops parked messages below an offset. Gives back how many, and the keys of which a chunk must be read to know the
    /// rest.
    pub fn drop_below(&mut self, below: u64) -> (u64, Vec<u64>) {
        let keys: Vec<u64> = self.firsts.range(..(below, 0)).map(|first| first.1).collect();
        let (mut dropped, mut unsure) = (0, Vec::new());
        for hash in keys {
            dropped += self.touch(hash, |key, writes| {
                key.parked.as_mut().map_or(0, |parked| parked.drop_below(hash, below, writes))
            });
            if self.keys.get(&hash).is_some_and(|key| key.first_parked() == Some(below) && key.in_memory() == 0) {
                unsure.push(hash);
            }
        }
        (dropped, unsure)
    }

    /// Chunks of parked messages that the store has, by key and start; also those the next batch removes.
    pub fn stored_chunks(&self) -> Vec<(u64, u64)> {
        let chunks_of = |(&hash, key): (&u64, &Key)| -> Vec<(u64, u64)> {
            let starts = key.parked.iter().flat_map(|parked| parked.starts());
            starts.map(|start| (hash, start)).filter(|&chunk| !self.writes.is_new(chunk)).collect()
        };
        self.keys.iter().flat_map(chunks_of).chain(self.writes.removals()).collect()
    }

    /// What the batch must say.
    pub fn writes(&mut self) -> &mut Writes {
        &mut self.writes
    }

    /// Whether dropping it from memory would lose nothing that the store does not have.
    pub fn is_clean(&self) -> bool {
        self.writes.is_empty() && self.loading.is_empty()
    }
}
