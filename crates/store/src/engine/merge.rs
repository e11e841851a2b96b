//! Taking the index of one segment into the index of all: new entries, and what becomes dead by them.
//!
//! Merging is by sequence number and offset, so taking in a segment twice, or segments in another order (carried ones
//! have high numbers and old contents), ends in the same index.

use super::manifest::{Live, Manifest};
use crate::codec::Malformed;
use crate::index::entries::{BLOCK_MAX, Block, QueueMeta, block_entry, block_place, key_entry, queue_entry};
use crate::index::{Index, IndexError, IndexResult, Overlay};
use crate::key::{KeyEntry, Reset};
use crate::mem::{MemQueue, MemSegment, Place};
use crate::{QueueId, QueueOffset};
use bytes::Bytes;
use std::collections::BTreeMap;

/// How the account of each segment changes.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<u32, [i64; 4]>);

impl Tally {
    fn message(&mut self, place: &Place, sign: i64) {
        let row = self.0.entry(place.segment).or_default();
        row[0] += sign;
        row[1] += sign * place.log_bytes() as i64;
    }

    fn piece(&mut self, segment: u32, bytes: u64, sign: i64) {
        let row = self.0.entry(segment).or_default();
        row[2] += sign;
        row[3] += sign * bytes as i64;
    }

    pub(crate) fn key(&mut self, key: &[u8], entry: &KeyEntry, sign: i64) {
        for piece in entry.pieces() {
            self.piece(piece.segment, piece.log_bytes.into(), sign);
        }
        if let Some(Reset::Removed { segment, .. }) = entry.reset {
            self.piece(segment, key.len() as u64, sign);
        }
    }

    pub(crate) fn queue(&mut self, meta: &QueueMeta, sign: i64) {
        meta.homes().for_each(|segment| self.piece(segment, 8, sign));
    }

    /// Adds the changes to the rows that still exist. False if a row would fall below zero.
    pub(crate) fn apply(&self, manifest: &mut Manifest) -> bool {
        let mut sound = true;
        for (segment, change) in &self.0 {
            let Some(row) = manifest.rows.get_mut(segment) else { continue };
            let live = &mut row.live;
            let fields = [&mut live.messages, &mut live.message_bytes, &mut live.pieces, &mut live.piece_bytes];
            for (field, change) in fields.into_iter().zip(change) {
                let sum = field.checked_add_signed(*change);
                sound &= sum.is_some();
                *field = sum.unwrap_or(0);
            }
        }
        sound
    }

    /// The counts as an account of their own.
    pub(crate) fn live(&self) -> BTreeMap<u32, Live> {
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        let live = |c: &[i64; 4]| Live {
            messages: count(c[0]),
            message_bytes: count(c[1]),
            pieces: count(c[2]),
            piece_bytes: count(c[3]),
        };
        self.0.iter().map(|(segment, counts)| (*segment, live(counts))).collect()
    }
}

pub(crate) fn malformed(error: Malformed) -> IndexError {
    IndexError(format!("an entry is damaged: {error}"))
}

/// The greatest key of each kind, so that keys which only ever grow (queue numbers, due times) are not looked up to find
/// that they are new: of a segment full of new lite topics that is most of them.
#[derive(Default)]
struct Frontier {
    kind: Vec<u8>,
    greatest: Option<Vec<u8>>,
}

impl Frontier {
    /// Whether `key` is greater than all that the index has with the same first `kind` bytes. Keys of a kind come one after
    /// the other; what is added to the overlay meanwhile is not asked for again.
    fn is_before<I: Index>(&mut self, overlay: &Overlay<'_, I>, key: &[u8], kind: usize) -> IndexResult<bool> {
        let kind = &key[..kind.min(key.len())];
        if self.kind != kind {
            let mut end = kind.to_vec();
            // Bytes of a kind are far below 255; if not, keys are looked up one by one.
            let last = end.last_mut().and_then(|last| last.checked_add(1).map(|next| *last = next));
            self.greatest = match last {
                Some(()) => overlay.last(kind, &end)?.map(|(key, _)| key),
                None => Some(vec![u8::MAX; key.len() + 1]),
            };
            self.kind = kind.to_vec();
        }
        Ok(self.greatest.as_deref().is_none_or(|greatest| key > greatest))
    }
}

/// Merges what `mem` knows into the overlay. `rebuilding`: other segments may still come that have older knowledge.
pub(crate) fn merge<I: Index>(
    overlay: &mut Overlay<'_, I>,
    mem: &MemSegment,
    rebuilding: bool,
    tally: &mut Tally,
) -> IndexResult<()> {
    // A queue of which the index has no block is not searched for blocks either.
    let (mut frontier, mut blocks) = (Frontier::default(), Frontier::default());
    for (id, queue) in mem.queues() {
        let new = frontier.is_before(overlay, &queue_entry(id), 1)?;
        let old = if new { None } else { queue_meta(overlay, id)? };
        let empty = blocks.is_before(overlay, &block_entry(id, QueueOffset(0)), 1)?;
        merge_queue(overlay, mem, (id, queue), (old, empty), rebuilding, tally)?;
    }
    for (key, entry) in &mem.keys {
        let at = key_entry(key);
        let new = frontier.is_before(overlay, &at, 2)?;
        let old = if new { None } else { overlay.get(&at)? };
        let old = old.map(|value| KeyEntry::decode(&value).map_err(malformed)).transpose()?;
        let mut merged = old.clone().unwrap_or_default();
        merged.merge(entry.clone());
        if let Some(old) = &old {
            tally.key(key, old, -1);
        }
        // Born and gone within this segment: nothing older is left anywhere that it would have to hide.
        let vanished = old.is_none() && !rebuilding && !merged.is_present();
        if vanished {
            continue;
        }
        tally.key(key, &merged, 1);
        let mut value = Vec::new();
        merged.encode(&mut value);
        overlay.changes.insert(at, Some(value));
    }
    Ok(())
}

pub(crate) fn queue_meta<I: Index>(overlay: &Overlay<'_, I>, queue: QueueId) -> IndexResult<Option<QueueMeta>> {
    let value = overlay.get(&queue_entry(queue))?;
    value.map(|value| QueueMeta::decode(&value).map_err(malformed)).transpose()
}

fn merge_queue<I: Index>(
    overlay: &mut Overlay<'_, I>,
    mem: &MemSegment,
    (id, queue): (QueueId, &MemQueue),
    (old, empty): (Option<QueueMeta>, bool),
    rebuilding: bool,
    tally: &mut Tally,
) -> IndexResult<()> {
    if old.is_some_and(|old| old.forgotten) {
        if queue.forgotten
            && let Some(old) = old
        {
            // The same word again, from where it was carried to.
            let meta = QueueMeta { trim_home: mem.number, ..old };
            tally.queue(&old, -1);
            tally.queue(&meta, 1);
            overlay.changes.insert(queue_entry(id).to_vec(), Some(meta.encode()));
        } else if let Some(old) = old {
            let meta = QueueMeta { newest: old.newest.max(mem.number), ..old };
            overlay.changes.insert(queue_entry(id).to_vec(), Some(meta.encode()));
        }
        return Ok(());
    }
    let everything = block_entry(id, QueueOffset(0)).to_vec()..block_entry(QueueId(id.0 + 1), QueueOffset(0)).to_vec();
    if let Some(old) = &old {
        tally.queue(old, -1);
    }
    if queue.forgotten {
        let mut newest = old.map_or(0, |old| old.newest).max(mem.number);
        for (key, value) in overlay.range(&everything.start, &everything.end)? {
            let (_, first) = block_place(&key);
            for place in Block::decode(first, &value).map_err(malformed)? {
                tally.message(&place, -1);
                newest = newest.max(place.segment);
            }
            overlay.changes.insert(key, None);
        }
        let meta = QueueMeta { forgotten: true, trim_home: mem.number, newest, ..QueueMeta::default() };
        let keep = old.is_some() || rebuilding;
        if keep {
            tally.queue(&meta, 1);
        }
        overlay.changes.insert(queue_entry(id).to_vec(), keep.then(|| meta.encode()));
        return Ok(());
    }
    let mut meta = old.unwrap_or_default();
    let trim_before = meta.trim;
    meta.newest = meta.newest.max(mem.number);
    if let Some(trim) = queue.trim.filter(|trim| *trim >= meta.trim) {
        (meta.trim, meta.trim_home) = (trim, mem.number);
    }
    if let Some(next) = queue.next.filter(|next| *next >= meta.next) {
        (meta.next, meta.next_home) = (next, mem.number);
    }
    tally.queue(&meta, 1);
    overlay.changes.insert(queue_entry(id).to_vec(), Some(meta.encode()));

    let fresh: Vec<Place> = mem.messages(queue, meta.trim).collect();
    let mut touched: BTreeMap<QueueOffset, Place> = BTreeMap::new();
    let mut load = |overlay: &mut Overlay<'_, I>, from: QueueOffset, to: QueueOffset| -> IndexResult<()> {
        let mut start = block_entry(id, from).to_vec();
        if let Some((floor, _)) = overlay.last(&everything.start, &start)? {
            start = floor;
        }
        for (key, value) in overlay.range(&start, &block_entry(id, to))? {
            let (_, first) = block_place(&key);
            let places = Block::decode(first, &value).map_err(malformed)?;
            if places.last().is_none_or(|last| last.offset < from) {
                continue;
            }
            overlay.changes.insert(key, None);
            for place in places {
                tally.message(&place, -1);
                if place.offset >= meta.trim {
                    touched.insert(place.offset, place);
                }
            }
        }
        Ok(())
    };
    if meta.trim > trim_before {
        load(overlay, trim_before, meta.trim)?;
    }
    if let (Some(first), Some(last)) = (fresh.first(), fresh.last())
        && !empty
    {
        load(overlay, first.offset, last.offset.next())?;
    }
    touched.extend(fresh.into_iter().map(|place| (place.offset, place)));
    let places: Vec<Place> = touched.into_values().collect();
    for block in places.chunk_by(|a, b| a.segment == b.segment).flat_map(|run| run.chunks(BLOCK_MAX)) {
        block.iter().for_each(|place| tally.message(place, 1));
        overlay.changes.insert(block_entry(id, block[0].offset).to_vec(), Some(Block::encode(block)));
    }
    Ok(())
}

/// Counts what the index says is alive.
pub(crate) fn count<I: Index>(index: &I) -> IndexResult<Tally> {
    let mut tally = Tally::default();
    let mut bad = None;
    index.range(b"k", b"t", &mut |key, value: Bytes| {
        let counted = match key.first() {
            Some(b'k') => KeyEntry::decode(&value).map(|entry| tally.key(&key[1..], &entry, 1)),
            Some(b'm') => Block::decode(block_place(key).1, &value)
                .map(|places| places.iter().for_each(|place| tally.message(place, 1))),
            _ => QueueMeta::decode(&value).map(|meta| tally.queue(&meta, 1)),
        };
        bad = counted.err();
        bad.is_none()
    })?;
    match bad {
        Some(error) => Err(malformed(error)),
        None => Ok(tally),
    }
}
