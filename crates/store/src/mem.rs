//! Index of one segment in memory: built while the segment is written or replayed, readable until the segment's entries
//! are in the index on disk.

use crate::codec::{Malformed, crc32c};
use crate::key::{INLINE_MAX, KeyEntry, Piece, Reset, Value};
use crate::payload::{Decoder, ItemOp};
use crate::{QueueId, QueueOffset, Term, UnixMillis};
use bytes::Bytes;
use hashbrown::{HashMap, HashTable};
use std::collections::BTreeMap;

/// Where a message lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub offset: QueueOffset,
    pub segment: u32,
    /// Of the operation in the file.
    pub position: u32,
    /// Bytes of the operation before the record, and of the record.
    pub head: u32,
    pub record: u32,
    /// Time of the batch it first came with.
    pub time: UnixMillis,
}

impl Place {
    /// Bytes it takes in the log.
    pub(crate) fn log_bytes(&self) -> u64 {
        u64::from(self.head) + u64::from(self.record)
    }

    pub(crate) fn end(&self) -> u64 {
        u64::from(self.position) + self.log_bytes()
    }
}

/// A message of a queue, as small as can be: there are hundreds of thousands of these.
#[derive(Debug, Clone, Copy)]
struct Message {
    /// Offset relative to the first one of the queue in this segment.
    relative: u32,
    position: u32,
    record: u32,
    head: u16,
}

/// What a segment says about one queue.
#[derive(Debug, Default)]
pub(crate) struct MemQueue {
    base: u64,
    messages: Vec<Message>,
    /// Only of the first ones, carried or restored; others take their frame's.
    times: Vec<UnixMillis>,
    pub trim: Option<QueueOffset>,
    pub next: Option<QueueOffset>,
    pub forgotten: bool,
}

impl MemQueue {
    /// Adds a message. Those of commits come in order; carried ones (with their time) come as their segments were
    /// emptied, restored ones (with theirs) before all that have none.
    fn insert(&mut self, offset: QueueOffset, message: Message, time: Option<UnixMillis>) -> Result<(), &'static str> {
        const ORDER: &str = "offset after the one before";
        const FIRST: &str = "restored messages of a queue before others";
        const SPAN: &str = "offsets of a queue in one segment within 2^32";
        if self.messages.is_empty() {
            self.base = offset.0;
        }
        let Some(time) = time else {
            let relative = offset.0.checked_sub(self.base).and_then(|relative| u32::try_from(relative).ok());
            let relative = relative.ok_or(ORDER)?;
            if self.messages.last().is_some_and(|last| last.relative >= relative) {
                return Err(ORDER);
            }
            self.messages.push(Message { relative, ..message });
            return Ok(());
        };
        if self.times.len() < self.messages.len() {
            return Err(FIRST);
        }
        if offset.0 < self.base {
            let shift = u32::try_from(self.base - offset.0).map_err(|_| SPAN)?;
            if self.messages.last().is_some_and(|last| last.relative.checked_add(shift).is_none()) {
                return Err(SPAN);
            }
            self.messages.iter_mut().for_each(|message| message.relative += shift);
            self.base = offset.0;
        }
        let relative = u32::try_from(offset.0 - self.base).map_err(|_| SPAN)?;
        let at = self.messages.partition_point(|message| message.relative < relative);
        let message = Message { relative, ..message };
        match self.messages.get_mut(at) {
            Some(same) if same.relative == relative => {
                *same = message;
                self.times[at] = time;
            }
            _ => {
                self.messages.insert(at, message);
                self.times.insert(at, time);
            }
        }
        Ok(())
    }

    /// Its first message here.
    pub(crate) fn first(&self) -> Option<QueueOffset> {
        self.messages.first().map(|_| QueueOffset(self.base))
    }
}

#[derive(Debug)]
struct TermEntry {
    term: u64,
    sequence: u64,
    offset: u64,
    queue: u32,
    /// The entry before with the same term, plus one; 0: none.
    before: u32,
}

/// A message by a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    pub sequence: u64,
    pub queue: QueueId,
    pub offset: QueueOffset,
}

/// One frame's place and time.
#[derive(Debug, Clone, Copy)]
struct FrameMark {
    position: u32,
    time: UnixMillis,
}

/// The index of one segment.
#[derive(Debug, Default)]
pub(crate) struct MemSegment {
    pub number: u32,
    /// Position after its last frame.
    pub end: u32,
    queues: HashMap<QueueId, u32>,
    queue_list: Vec<(QueueId, MemQueue)>,
    pub keys: BTreeMap<Bytes, KeyEntry>,
    terms: Vec<TermEntry>,
    term_heads: HashTable<u32>,
    frames: Vec<FrameMark>,
    memory: usize,
    /// Time of the first frame, and whether anything in it makes older bytes dead.
    pub first_time: UnixMillis,
    pub frees: bool,
}

impl MemSegment {
    pub(crate) fn new(number: u32) -> Self {
        Self { number, end: crate::frame::HEADER as u32, ..Self::default() }
    }

    /// About how many bytes of memory it takes.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Takes in the frame whose payload starts at `payload_at`; gives back a manifest if there is one in it.
    pub(crate) fn apply(
        &mut self,
        payload_at: u32,
        payload: &[u8],
        sequence: u64,
        time: UnixMillis,
        carried: bool,
    ) -> Result<Option<Vec<u8>>, Malformed> {
        if self.frames.is_empty() {
            self.first_time = time;
        }
        self.frames.push(FrameMark { position: payload_at, time });
        self.memory += size_of::<FrameMark>();
        let mut manifest = None;
        let mut decoder = Decoder::new(payload, sequence, time);
        while let Some(item) = decoder.next() {
            let item = item?;
            let time = (carried || item.own_time).then_some(item.time);
            match item.op {
                ItemOp::Append(message) => {
                    let slot = self.slot(message.queue);
                    let (_, queue) = &mut self.queue_list[slot as usize];
                    let malformed = |expected| Malformed { expected, at: item.at as usize };
                    let head = u16::try_from(message.head).map_err(|_| malformed("message head below 64 KiB"))?;
                    let (position, record) = (payload_at + item.at, message.record.len() as u32);
                    let place = Message { relative: 0, position, record, head };
                    queue.insert(message.offset, place, time).map_err(malformed)?;
                    queue.next = queue.next.max(Some(message.offset.next()));
                    self.memory += size_of::<Message>();
                    for term in message.terms() {
                        self.add_term(term, item.sequence, slot, message.offset);
                    }
                }
                ItemOp::Put { key, image, value_at, .. } => {
                    let value = value(payload_at + value_at, image);
                    let (sequence, segment) = (item.sequence, self.number);
                    let piece = Piece { sequence, segment, log_bytes: item.length, value };
                    self.key(key, |entry| entry.reset(Reset::Image(piece)));
                }
                ItemOp::Delta { key, delta, value_at } => {
                    let value = value(payload_at + value_at, delta);
                    let (sequence, segment) = (item.sequence, self.number);
                    let piece = Piece { sequence, segment, log_bytes: item.length, value };
                    self.key(key, |entry| entry.delta(piece));
                }
                ItemOp::Remove { key } => {
                    let reset = Reset::Removed { sequence: item.sequence, segment: self.number };
                    self.key(key, |entry| entry.reset(reset));
                    self.frees = true;
                }
                ItemOp::Trim { queue, below } => {
                    let slot = self.slot(queue);
                    let (_, queue) = &mut self.queue_list[slot as usize];
                    queue.trim = queue.trim.max(Some(below));
                    self.frees = true;
                }
                ItemOp::Forget { queue } => {
                    let slot = self.slot(queue);
                    self.queue_list[slot as usize].1.forgotten = true;
                    self.frees = true;
                }
                ItemOp::Bounds { queue, trim, next } => {
                    let slot = self.slot(queue);
                    let (_, queue) = &mut self.queue_list[slot as usize];
                    queue.trim = queue.trim.max(Some(trim));
                    queue.next = queue.next.max(Some(next));
                }
                ItemOp::Manifest(bytes) => manifest = Some(bytes.to_vec()),
            }
        }
        self.end = payload_at + payload.len() as u32;
        Ok(manifest)
    }

    fn slot(&mut self, queue: QueueId) -> u32 {
        if let Some(slot) = self.queues.get(&queue) {
            return *slot;
        }
        let slot = self.queue_list.len() as u32;
        self.queue_list.push((queue, MemQueue::default()));
        self.queues.insert(queue, slot);
        self.memory += size_of::<(QueueId, MemQueue)>() + 32;
        slot
    }

    fn key(&mut self, key: &[u8], change: impl FnOnce(&mut KeyEntry)) {
        if let Some(entry) = self.keys.get_mut(key) {
            self.memory -= key_memory(entry);
            change(entry);
            self.memory += key_memory(entry);
        } else {
            let mut entry = KeyEntry { oldest: self.number, newest: self.number, ..KeyEntry::default() };
            change(&mut entry);
            self.memory += key.len() + 96 + key_memory(&entry);
            self.keys.insert(Bytes::copy_from_slice(key), entry);
        }
    }

    fn add_term(&mut self, term: Term, sequence: u64, queue: u32, offset: QueueOffset) {
        let Self { terms, term_heads, .. } = self;
        let index = terms.len() as u32;
        let before = match term_heads.find_mut(term.0, |other| terms[*other as usize].term == term.0) {
            Some(head) => std::mem::replace(head, index) + 1,
            None => {
                term_heads.insert_unique(term.0, index, |other| terms.get(*other as usize).map_or(term.0, |t| t.term));
                0
            }
        };
        terms.push(TermEntry { term: term.0, sequence, offset: offset.0, queue, before });
        self.memory += size_of::<TermEntry>() + 6;
    }

    /// What the segment says about a queue.
    pub(crate) fn queue(&self, queue: QueueId) -> Option<&MemQueue> {
        let slot = self.queues.get(&queue)?;
        self.queue_list.get(*slot as usize).map(|(_, queue)| queue)
    }

    /// All queues it says anything about.
    pub(crate) fn queues(&self) -> impl Iterator<Item = (QueueId, &MemQueue)> {
        self.queue_list.iter().map(|(id, queue)| (*id, queue))
    }

    /// Messages of `queue` at or after `from`, in order.
    pub(crate) fn messages<'a>(&'a self, queue: &'a MemQueue, from: QueueOffset) -> impl Iterator<Item = Place> + 'a {
        let start = queue.messages.partition_point(|m| queue.base + u64::from(m.relative) < from.0);
        // Frames lie in the order of positions: found once, then walked along.
        let mut frame = match queue.messages.get(start) {
            Some(first) => self.frames.partition_point(|f| f.position <= first.position),
            None => 0,
        };
        queue.messages[start..].iter().enumerate().map(move |(index, message)| {
            while self.frames.get(frame).is_some_and(|next| next.position <= message.position) {
                frame += 1;
            }
            let frame_time = self.frames.get(frame.saturating_sub(1)).map_or(UnixMillis(0), |mark| mark.time);
            Place {
                offset: QueueOffset(queue.base + u64::from(message.relative)),
                segment: self.number,
                position: message.position,
                head: u32::from(message.head),
                record: message.record,
                time: queue.times.get(start + index).copied().unwrap_or(frame_time),
            }
        })
    }

    /// Messages by a term, newest first.
    pub(crate) fn find(&self, term: Term) -> impl Iterator<Item = Found> {
        let head = self.term_heads.find(term.0, |other| self.terms[*other as usize].term == term.0);
        let mut next = head.map_or(0, |index| index + 1);
        std::iter::from_fn(move || {
            let entry = self.terms.get((next as usize).checked_sub(1)?)?;
            next = entry.before;
            Some(self.found(entry))
        })
    }

    /// All terms, in no order.
    pub(crate) fn terms(&self) -> impl ExactSizeIterator<Item = (Term, Found)> {
        self.terms.iter().map(|entry| (Term(entry.term), self.found(entry)))
    }

    fn found(&self, entry: &TermEntry) -> Found {
        let (queue, _) = &self.queue_list[entry.queue as usize];
        Found { sequence: entry.sequence, queue: *queue, offset: QueueOffset(entry.offset) }
    }
}

fn key_memory(entry: &KeyEntry) -> usize {
    let inline = |piece: &Piece| match &piece.value {
        Value::Inline(value) => value.len() + 32,
        Value::At { .. } => 0,
    };
    size_of::<KeyEntry>()
        + entry.deltas.capacity() * size_of::<Piece>()
        + entry.pieces().take(16).map(inline).sum::<usize>().max(entry.deltas.len() * 48)
}

/// A value as it is kept: small ones as a copy of their own, so that they do not hold a whole frame in memory.
fn value(position: u32, bytes: &[u8]) -> Value {
    if bytes.len() <= INLINE_MAX {
        Value::Inline(Bytes::copy_from_slice(bytes))
    } else {
        Value::At { position, length: bytes.len() as u32, crc: crc32c(bytes) }
    }
}
