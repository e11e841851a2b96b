//! Keys of the database. All numbers are big-endian, so that keys are in the order of what they name.
//!
//! | key | value |
//! | --- | --- |
//! | 1, 0 | [`super::state`]: time and number of the last batch |
//! | 1, 1, queue (8) | [`super::head`]: bounds of the queue and where its messages lie |
//! | 1, 2, a key of the shard | [`super::merge`]: its image and the deltas since |
//! | 1, 3 | nothing: the store was closed and not opened since |
//! | 2, period (5), 0, queue (8), offset (8) | a message: time of its batch (8, little-endian), record |
//! | 2, period (5), 1, term (8), not batch (8), not index (4) | place of a message with that term: queue (8), offset (8) |
//!
//! What begins with 1 is one tree of the database; each period (see [`super::period`]) is another, which is given up as a
//! whole. `not` turns a number over, so that the newest comes first.

use super::period::Period;
use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset};
use slatedb::{PrefixExtractor, PrefixTarget};
use std::ops::Range;

const STATE: u8 = 1;
const PERIOD: u8 = 2;
/// Length of what names a period's tree.
const PERIOD_PREFIX: usize = 6;

pub fn state() -> Bytes {
    Bytes::from_static(&[STATE, 0])
}

pub fn closed() -> Bytes {
    Bytes::from_static(&[STATE, 3])
}

pub fn head(queue: QueueId) -> Bytes {
    let mut key = vec![STATE, 1];
    key.extend_from_slice(&queue.0.to_be_bytes());
    key.into()
}

/// Heads of all queues from one on.
pub fn heads_from(queue: QueueId) -> Range<Bytes> {
    head(queue)..Bytes::from_static(&[STATE, 2])
}

/// The queue whose head this is.
pub fn of_head(key: &[u8]) -> Option<QueueId> {
    let queue: [u8; 8] = key.strip_prefix(&[STATE, 1])?.try_into().ok()?;
    Some(QueueId(u64::from_be_bytes(queue)))
}

/// A key of the shard.
pub fn shard(key: &[u8]) -> Bytes {
    let mut whole = vec![STATE, 2];
    whole.extend_from_slice(key);
    whole.into()
}

/// What [`shard`] was made of.
pub fn of_shard(key: &Bytes) -> Option<Bytes> {
    key.starts_with(&[STATE, 2]).then(|| key.slice(2..))
}

/// What names a period's tree.
pub fn period(period: Period) -> Bytes {
    let mut key = vec![PERIOD, period.class];
    key.extend_from_slice(&period.index.to_be_bytes());
    key.into()
}

/// The period a tree is named by, if it is one of a period.
pub fn of_period(prefix: &[u8]) -> Option<Period> {
    match prefix {
        [PERIOD, class, a, b, c, d] => Some(Period { class: *class, index: u32::from_be_bytes([*a, *b, *c, *d]) }),
        _ => None,
    }
}

pub fn message(of: Period, queue: QueueId, offset: QueueOffset) -> Bytes {
    let mut key = Vec::with_capacity(PERIOD_PREFIX + 17);
    key.extend_from_slice(&period(of));
    key.push(0);
    key.extend_from_slice(&queue.0.to_be_bytes());
    key.extend_from_slice(&offset.0.to_be_bytes());
    key.into()
}

/// All messages of a period from a queue on.
pub fn messages_from(of: Period, queue: QueueId) -> Range<Bytes> {
    let mut end = period(of).to_vec();
    end.push(1);
    message(of, queue, QueueOffset(0))..end.into()
}

pub fn of_message(key: &[u8]) -> Option<(QueueId, QueueOffset)> {
    let (0, rest) = key.get(PERIOD_PREFIX..)?.split_first().map(|(kind, rest)| (*kind, rest))? else { return None };
    place(rest)
}

/// A place as it is written in a value.
pub fn place(bytes: &[u8]) -> Option<(QueueId, QueueOffset)> {
    let (queue, offset) = bytes.split_first_chunk::<8>()?;
    let offset: [u8; 8] = offset.try_into().ok()?;
    Some((QueueId(u64::from_be_bytes(*queue)), QueueOffset(u64::from_be_bytes(offset))))
}

/// All places of a term in a period.
pub fn term(of: Period, term: u64) -> Bytes {
    let mut key = Vec::with_capacity(PERIOD_PREFIX + 21);
    key.extend_from_slice(&period(of));
    key.push(1);
    key.extend_from_slice(&term.to_be_bytes());
    key.into()
}

/// Places of all terms in a period.
pub fn terms(of: Period) -> Range<Bytes> {
    let (mut start, mut end) = (period(of).to_vec(), period(of).to_vec());
    start.push(1);
    end.push(2);
    start.into()..end.into()
}

/// The term whose place this is.
pub fn of_term(key: &[u8]) -> Option<u64> {
    let (1, rest) = key.get(PERIOD_PREFIX..)?.split_first().map(|(kind, rest)| (*kind, rest))? else { return None };
    Some(u64::from_be_bytes(*rest.first_chunk::<8>()?))
}

/// One of them, that came `index`-th in a batch.
pub fn term_place(of: Period, number: u64, batch: u64, index: u32) -> Bytes {
    let mut key = term(of, number).to_vec();
    key.extend_from_slice(&(!batch).to_be_bytes());
    key.extend_from_slice(&(!index).to_be_bytes());
    key.into()
}

/// Batch and index turned over, as they stand at the end of a term's key: the newest is the smallest.
pub fn age(key: &[u8]) -> Option<&[u8]> {
    key.get(PERIOD_PREFIX + 9..)
}

/// Says which tree a key belongs to. Its name is kept in the database: it must never mean anything else.
pub struct Trees;

impl PrefixExtractor for Trees {
    fn name(&self) -> &str {
        "martlet-periods-1"
    }

    fn prefix_len(&self, target: &PrefixTarget) -> Option<usize> {
        let (PrefixTarget::Point(bytes) | PrefixTarget::Prefix(bytes)) = target;
        match bytes.first() {
            Some(&STATE) => Some(1),
            Some(&PERIOD) if bytes.len() >= PERIOD_PREFIX => Some(PERIOD_PREFIX),
            _ => None,
        }
    }
}
