//! What a frame holds: operations, one after the other.
//!
//! Each operation starts with a tag. Tag bit 0x80 (only in frames that carry old data forward) says that the
//! operation's own sequence number (varint) and time (signed varint, relative to the frame's) follow the tag; otherwise
//! the sequence number is the frame's plus the place of the operation, and the time is the frame's. Tag bit 0x40 (only of
//! appends, of messages that were restored from another store) says that the time follows, and only that.
//!
//! | tag | operation | fields after the tag |
//! | --- | --- | --- |
//! | 1 | append | queue, offset (varints), keep until (signed varint, relative to the time), number of terms (byte), terms (8 bytes each), record length (varint), CRC-32C of the operation without this field (4 bytes), record |
//! | 2 | put | key, keep until (varint: 0 none, else zigzag of the difference to the time, plus 1), image length (varint), image |
//! | 3 | delta | key, length (varint), delta |
//! | 4 | remove | key |
//! | 5 | trim | queue, below (varints) |
//! | 6 | forget | queue (varint) |
//! | 7 | bounds | queue, first readable offset, next offset (varints); only in carried frames |
//! | 8 | manifest | length (varint), see [`crate::engine::manifest`]; only the engine's own |
//!
//! A key is written as: number of bytes shared with the key before it in the frame (varint), number of other bytes
//! (varint), these bytes.
//!
//! An append can be read and checked alone; so can images and deltas, whose checksums are in the index.

use crate::codec::{Input, Malformed, array, crc32c_of_two, put_bytes, put_signed, put_varint};
use crate::{Op, StoredMessage, Term};
use martlet_model::{QueueId, QueueOffset, UnixMillis};

const APPEND: u8 = 1;
const PUT: u8 = 2;
const DELTA: u8 = 3;
const REMOVE: u8 = 4;
const TRIM: u8 = 5;
const FORGET: u8 = 6;
const BOUNDS: u8 = 7;
const MANIFEST: u8 = 8;
const EXPLICIT: u8 = 0x80;
const RESTORED: u8 = 0x40;

/// Writes a payload.
#[derive(Default)]
pub(crate) struct Encoder {
    out: Vec<u8>,
    last_key: Vec<u8>,
    ops: u32,
}

/// What an operation has of its own, where it is not its frame's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nothing.
    Frame,
    /// The time that a restored message has.
    Time(UnixMillis),
    /// Sequence number and time it had when it was first written.
    Carried(u64, UnixMillis),
}

impl Encoder {
    /// An encoder that expects about `bytes` of payload.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes), ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// The payload and its number of operations.
    pub(crate) fn finish(self) -> (Vec<u8>, u32) {
        (self.out, self.ops)
    }

    fn tag(&mut self, tag: u8, origin: Origin, frame_time: UnixMillis) -> UnixMillis {
        self.ops += 1;
        match origin {
            Origin::Frame => {
                self.out.push(tag);
                frame_time
            }
            Origin::Time(time) => {
                self.out.push(tag | RESTORED);
                put_signed(&mut self.out, time.since(frame_time));
                time
            }
            Origin::Carried(sequence, time) => {
                self.out.push(tag | EXPLICIT);
                put_varint(&mut self.out, sequence);
                put_signed(&mut self.out, time.since(frame_time));
                time
            }
        }
    }

    fn key(&mut self, key: &[u8]) {
        let shared = key.iter().zip(&self.last_key).take_while(|(a, b)| a == b).count();
        put_varint(&mut self.out, shared as u64);
        put_bytes(&mut self.out, &key[shared..]);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
    }

    /// Adds an operation of a batch.
    pub(crate) fn op(&mut self, op: &Op, frame_time: UnixMillis) {
        match op {
            Op::Append { queue, offset, record, terms, keep_until } => {
                self.append(Origin::Frame, frame_time, *queue, *offset, *keep_until, terms.iter().copied(), record);
            }
            Op::Restore { message, terms, keep_until } => {
                let StoredMessage { queue, offset, store_time, record } = message;
                let origin = Origin::Time(*store_time);
                self.append(origin, frame_time, *queue, *offset, *keep_until, terms.iter().copied(), record);
            }
            Op::Put { key, image, keep_until } => self.put(Origin::Frame, frame_time, key, *keep_until, image),
            Op::Delta { key, delta } => self.delta(Origin::Frame, frame_time, key, delta),
            Op::Remove { key } => self.remove(Origin::Frame, frame_time, key),
            Op::Trim { queue, below } => {
                self.tag(TRIM, Origin::Frame, frame_time);
                put_varint(&mut self.out, queue.0);
                put_varint(&mut self.out, below.0);
            }
            Op::Forget { queue } => self.forget(Origin::Frame, frame_time, *queue),
        }
    }

    #[allow(clippy::too_many_arguments)] // the fields of the format, in its order
    pub(crate) fn append(
        &mut self,
        origin: Origin,
        frame_time: UnixMillis,
        queue: QueueId,
        offset: QueueOffset,
        keep_until: UnixMillis,
        terms: impl ExactSizeIterator<Item = Term>,
        record: &[u8],
    ) {
        let start = self.out.len();
        let time = self.tag(APPEND, origin, frame_time);
        put_varint(&mut self.out, queue.0);
        put_varint(&mut self.out, offset.0);
        put_signed(&mut self.out, keep_until.since(time));
        // The contract allows 64; what is beyond 255 could not be told in the byte and is not indexed.
        let count = terms.len().min(255);
        self.out.push(count as u8);
        for term in terms.take(count) {
            self.out.extend_from_slice(&term.0.to_le_bytes());
        }
        put_varint(&mut self.out, record.len() as u64);
        let crc = crc32c_of_two(&self.out[start..], record);
        self.out.extend_from_slice(&crc.to_le_bytes());
        self.out.extend_from_slice(record);
    }

    pub(crate) fn put(
        &mut self,
        origin: Origin,
        frame_time: UnixMillis,
        key: &[u8],
        keep: Option<UnixMillis>,
        image: &[u8],
    ) {
        let time = self.tag(PUT, origin, frame_time);
        self.key(key);
        match keep {
            None => self.out.push(0),
            Some(keep) => {
                let difference = keep.since(time);
                let zigzag = ((difference << 1) ^ (difference >> 63)) as u64;
                put_varint(&mut self.out, zigzag.saturating_add(1));
            }
        }
        put_bytes(&mut self.out, image);
    }

    pub(crate) fn delta(&mut self, origin: Origin, frame_time: UnixMillis, key: &[u8], delta: &[u8]) {
        self.tag(DELTA, origin, frame_time);
        self.key(key);
        put_bytes(&mut self.out, delta);
    }

    pub(crate) fn remove(&mut self, origin: Origin, frame_time: UnixMillis, key: &[u8]) {
        self.tag(REMOVE, origin, frame_time);
        self.key(key);
    }

    pub(crate) fn forget(&mut self, origin: Origin, frame_time: UnixMillis, queue: QueueId) {
        self.tag(FORGET, origin, frame_time);
        put_varint(&mut self.out, queue.0);
    }

    pub(crate) fn bounds(
        &mut self,
        origin: Origin,
        frame_time: UnixMillis,
        queue: QueueId,
        trim: QueueOffset,
        next: QueueOffset,
    ) {
        self.tag(BOUNDS, origin, frame_time);
        put_varint(&mut self.out, queue.0);
        put_varint(&mut self.out, trim.0);
        put_varint(&mut self.out, next.0);
    }

    pub(crate) fn manifest(&mut self, manifest: &[u8]) {
        self.tag(MANIFEST, Origin::Frame, UnixMillis(0));
        put_bytes(&mut self.out, manifest);
    }
}

/// One operation as it stands in a payload.
#[derive(Debug)]
pub(crate) struct Item<'a> {
    /// Where it starts in the payload.
    pub at: u32,
    /// Its bytes, all in all.
    pub length: u32,
    pub sequence: u64,
    pub time: UnixMillis,
    /// Whether that time is its own, not its frame's.
    pub own_time: bool,
    pub op: ItemOp<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ItemOp<'a> {
    Append(AppendRef<'a>),
    /// `value_at`: where image or delta start in the payload.
    Put {
        key: &'a [u8],
        keep_until: Option<UnixMillis>,
        image: &'a [u8],
        value_at: u32,
    },
    Delta {
        key: &'a [u8],
        delta: &'a [u8],
        value_at: u32,
    },
    Remove {
        key: &'a [u8],
    },
    Trim {
        queue: QueueId,
        below: QueueOffset,
    },
    Forget {
        queue: QueueId,
    },
    Bounds {
        queue: QueueId,
        trim: QueueOffset,
        next: QueueOffset,
    },
    Manifest(&'a [u8]),
}

/// A message as it stands in a payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AppendRef<'a> {
    pub queue: QueueId,
    pub offset: QueueOffset,
    pub keep_until: UnixMillis,
    terms: &'a [u8],
    pub record: &'a [u8],
    /// Bytes before the record.
    pub head: u32,
}

impl<'a> AppendRef<'a> {
    pub(crate) fn terms(&self) -> impl ExactSizeIterator<Item = Term> + 'a {
        self.terms.chunks_exact(8).map(|term| Term(u64::from_le_bytes(array(term))))
    }
}

/// Reads the operations of a payload in order.
pub(crate) struct Decoder<'a> {
    input: Input<'a>,
    sequence: u64,
    time: UnixMillis,
    key: Vec<u8>,
}

impl<'a> Decoder<'a> {
    /// `sequence` and `time` are the frame's. The frame's checksum has been checked: those of messages are not again.
    pub(crate) fn new(payload: &'a [u8], sequence: u64, time: UnixMillis) -> Self {
        Self { input: Input::new(payload), sequence, time, key: Vec::new() }
    }

    /// The next operation. Not an iterator because keys are put together in place.
    pub(crate) fn next(&mut self) -> Option<Result<Item<'_>, Malformed>> {
        if self.input.is_empty() {
            return None;
        }
        Some(self.item())
    }

    fn item(&mut self) -> Result<Item<'_>, Malformed> {
        let at = self.input.position();
        let tag = self.input.byte("operation tag")?;
        let own_time = tag & (EXPLICIT | RESTORED) != 0;
        let sequence = if tag & EXPLICIT != 0 { self.input.varint("sequence number")? } else { self.sequence };
        let time = if own_time { self.time.plus(self.input.signed("time")?) } else { self.time };
        self.sequence = self.sequence.wrapping_add(1);
        let op = match kind(tag) {
            APPEND => ItemOp::Append(append(&mut self.input, at, time, false)?),
            PUT => {
                self.read_key()?;
                let keep = self.input.varint("keep until")?;
                let keep_until = keep.checked_sub(1).map(|raw| time.plus((raw >> 1) as i64 ^ -((raw & 1) as i64)));
                let image = self.input.bytes("image")?;
                let value_at = (self.input.position() - image.len()) as u32;
                ItemOp::Put { key: &self.key, keep_until, image, value_at }
            }
            DELTA => {
                self.read_key()?;
                let delta = self.input.bytes("delta")?;
                let value_at = (self.input.position() - delta.len()) as u32;
                ItemOp::Delta { key: &self.key, delta, value_at }
            }
            REMOVE => {
                self.read_key()?;
                ItemOp::Remove { key: &self.key }
            }
            TRIM => ItemOp::Trim { queue: self.queue()?, below: QueueOffset(self.input.varint("offset")?) },
            FORGET => ItemOp::Forget { queue: self.queue()? },
            BOUNDS => ItemOp::Bounds {
                queue: self.queue()?,
                trim: QueueOffset(self.input.varint("offset")?),
                next: QueueOffset(self.input.varint("offset")?),
            },
            MANIFEST => ItemOp::Manifest(self.input.bytes("manifest")?),
            _ => return Err(Malformed { expected: "operation tag 1 to 8", at }),
        };
        let length = (self.input.position() - at) as u32;
        Ok(Item { at: at as u32, length, sequence, time, own_time, op })
    }

    fn queue(&mut self) -> Result<QueueId, Malformed> {
        Ok(QueueId(self.input.varint("queue")?))
    }

    fn read_key(&mut self) -> Result<(), Malformed> {
        let shared = self.input.varint("shared length of key")?;
        if shared > self.key.len() as u64 {
            return Err(self.input.malformed("shared length of key within the key before"));
        }
        self.key.truncate(shared as usize);
        let rest = self.input.bytes("key")?;
        self.key.extend_from_slice(rest);
        Ok(())
    }
}

/// A tag without what says what follows it. Only appends are restored, and what is carried has no need to be.
fn kind(tag: u8) -> u8 {
    match tag & !EXPLICIT {
        tag if tag == APPEND | RESTORED => APPEND,
        tag => tag,
    }
}

fn append<'a>(input: &mut Input<'a>, start: usize, time: UnixMillis, check: bool) -> Result<AppendRef<'a>, Malformed> {
    let whole = input.clone();
    let queue = QueueId(input.varint("queue")?);
    let offset = QueueOffset(input.varint("offset")?);
    let keep_until = time.plus(input.signed("keep until")?);
    let count = input.byte("number of terms")?;
    let terms = input.take(usize::from(count) * 8, "terms")?;
    let length = input.varint32("record length")?;
    let before_crc = input.position();
    let crc = input.u32("checksum")?;
    let head = (input.position() - start) as u32;
    let record = input.take(length as usize, "record")?;
    if check && crc32c_of_two(whole.between(start, before_crc), record) != crc {
        return Err(Malformed { expected: "message with CRC-32C of its bytes", at: start });
    }
    Ok(AppendRef { queue, offset, keep_until, terms, record, head })
}

/// Checks the message that fills `bytes` and gives it back. `time` is only needed for `keep_until`.
pub(crate) fn decode_message(bytes: &[u8], time: UnixMillis) -> Result<AppendRef<'_>, Malformed> {
    let mut input = Input::new(bytes);
    let tag = input.byte("operation tag")?;
    if kind(tag) != APPEND {
        return Err(Malformed { expected: "operation tag of a message", at: 0 });
    }
    if tag & EXPLICIT != 0 {
        input.varint("sequence number")?;
    }
    if tag & (EXPLICIT | RESTORED) != 0 {
        input.signed("time")?;
    }
    let message = append(&mut input, 0, time, true)?;
    if input.is_empty() { Ok(message) } else { Err(input.malformed("end of message")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::hex;
    use bytes::Bytes;

    fn ops() -> Vec<Op> {
        let bytes = Bytes::from_static;
        vec![
            Op::Append {
                queue: QueueId(3),
                offset: QueueOffset(300),
                record: bytes(b"hello"),
                terms: vec![Term(1), Term(u64::MAX)],
                keep_until: UnixMillis(2000),
            },
            Op::Put { key: bytes(b"page/1"), image: bytes(b"image"), keep_until: None },
            Op::Delta { key: bytes(b"page/1"), delta: bytes(b"+1") },
            Op::Put { key: bytes(b"page/2"), image: bytes(b""), keep_until: Some(UnixMillis(900)) },
            Op::Remove { key: bytes(b"q") },
            Op::Trim { queue: QueueId(3), below: QueueOffset(7) },
            Op::Forget { queue: QueueId(4) },
            Op::Restore {
                message: StoredMessage {
                    queue: QueueId(5),
                    offset: QueueOffset(40),
                    store_time: UnixMillis(700),
                    record: bytes(b"older"),
                },
                terms: vec![Term(2)],
                keep_until: UnixMillis(800),
            },
        ]
    }

    fn encoded() -> Vec<u8> {
        let mut encoder = Encoder::default();
        for op in &ops() {
            encoder.op(op, UnixMillis(1000));
        }
        encoder.bounds(
            Origin::Carried(5, UnixMillis(990)),
            UnixMillis(1000),
            QueueId(9),
            QueueOffset(1),
            QueueOffset(2),
        );
        encoder.finish().0
    }

    /// Real bytes of format 1.
    #[test]
    fn payload_is_pinned() {
        assert_eq!(hex(&encoded()), PINNED);
    }

    const PINNED: &str = "0103ac02d00f020100000000000000ffffffffffffffff05c2f6d8a168656c6c6f020006706167652f310005696d\
        616765030600022b3102050132c8010004000171050307060441d7040528c801010200000000000000057e2894046f6c646572870513090102";

    #[test]
    fn operations_round_trip() {
        let payload = encoded();
        let mut decoder = Decoder::new(&payload, 40, UnixMillis(1000));
        let mut seen = Vec::new();
        while let Some(item) = decoder.next() {
            let item = item.unwrap();
            seen.push(match item.op {
                ItemOp::Append(message) => {
                    let alone = &payload[item.at as usize..(item.at + item.length) as usize];
                    assert_eq!(decode_message(alone, item.time).unwrap(), message);
                    assert_eq!(&alone[message.head as usize..], message.record);
                    let AppendRef { queue, offset, keep_until, .. } = message;
                    let (record, terms) = (Bytes::copy_from_slice(message.record), message.terms().collect());
                    if item.own_time {
                        let message = StoredMessage { queue, offset, store_time: item.time, record };
                        Op::Restore { message, terms, keep_until }
                    } else {
                        Op::Append { queue, offset, record, terms, keep_until }
                    }
                }
                ItemOp::Put { key, keep_until, image, value_at } => {
                    assert_eq!(&payload[value_at as usize..value_at as usize + image.len()], image);
                    Op::Put { key: Bytes::copy_from_slice(key), image: Bytes::copy_from_slice(image), keep_until }
                }
                ItemOp::Delta { key, delta, .. } => {
                    Op::Delta { key: Bytes::copy_from_slice(key), delta: Bytes::copy_from_slice(delta) }
                }
                ItemOp::Remove { key } => Op::Remove { key: Bytes::copy_from_slice(key) },
                ItemOp::Trim { queue, below } => Op::Trim { queue, below },
                ItemOp::Forget { queue } => Op::Forget { queue },
                ItemOp::Bounds { queue, trim, next } => {
                    assert_eq!((item.sequence, item.time), (5, UnixMillis(990)));
                    assert_eq!((queue, trim, next), (QueueId(9), QueueOffset(1), QueueOffset(2)));
                    continue;
                }
                ItemOp::Manifest(_) => panic!("none was written"),
            });
        }
        assert_eq!(seen, ops());
    }

    #[test]
    fn any_flipped_bit_of_a_message_is_noticed_and_no_bytes_make_the_decoder_panic() {
        let mut encoder = Encoder::default();
        encoder.op(&ops()[0], UnixMillis(1000));
        let (message, _) = encoder.finish();
        for bit in 0..message.len() * 8 {
            let mut broken = message.clone();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_message(&broken, UnixMillis(1000)).is_err(), "bit {bit}");
        }
        let payload = encoded();
        for cut in 0..payload.len() {
            for flip in [0u8, 0x80, 0xff] {
                let mut broken = payload[..cut].to_vec();
                if let Some(byte) = broken.last_mut() {
                    *byte ^= flip;
                }
                let mut decoder = Decoder::new(&broken, 0, UnixMillis(0));
                while let Some(Ok(_)) = decoder.next() {}
            }
        }
    }
}
