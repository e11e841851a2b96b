//! Half messages as the store keeps them, and the buckets they lie in until their transactions end.
//!
//! A half message lies in the hidden queue of the hour it was sent in. Such a bucket is forgotten as a whole once its hour is
//! over and every transaction in it has ended.

use crate::codec::CodecError;
use crate::command::{Half, HalfPlace};
use crate::keys;
use crate::timers::HOUR_MILLIS;
use bytes::Bytes;
use martlet_model::record::{put_varint, take_varint};
use martlet_model::{QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_store::{Op, ReadError, Reader, StoredMessage};
use std::collections::{BTreeMap, BTreeSet};

const FORMAT: u8 = 1;
const GIVEN_UP: u64 = 1;
const POLLED: u64 = 2;

fn millis(time: UnixMillis) -> u64 {
    time.0.max(0) as u64
}

/// Key 11: format, topic, times of the beginning and of what happens next, immunity, checks, flags (1 given up, 2 polled); then
/// the message id.
pub(crate) fn encode(half: &Half) -> Bytes {
    let mut bytes = vec![FORMAT];
    let flags = if half.given_up { GIVEN_UP } else { 0 } | if half.polled { POLLED } else { 0 };
    let immunity = half.immunity_millis.max(0) as u64;
    let (began, due) = (millis(half.began), millis(half.due));
    for number in [u64::from(half.topic.0), began, due, immunity, u64::from(half.checks), flags] {
        put_varint(&mut bytes, number);
    }
    bytes.extend_from_slice(half.message_id.as_bytes());
    Bytes::from(bytes)
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Half, CodecError> {
    let bad = CodecError { what: "half message" };
    if bytes.first() != Some(&FORMAT) {
        return Err(bad);
    }
    let mut at = 1;
    let mut numbers = [0; 6];
    for number in &mut numbers {
        *number = take_varint(bytes, &mut at).ok_or_else(|| bad.clone())?;
    }
    let [topic, began, due, immunity, checks, flags] = numbers;
    let time = |number: u64| i64::try_from(number).map_err(|_| bad.clone());
    let message_id = bytes.get(at..).and_then(|rest| std::str::from_utf8(rest).ok()).ok_or_else(|| bad.clone())?;
    Ok(Half {
        topic: TopicId(u32::try_from(topic).map_err(|_| bad.clone())?),
        began: UnixMillis(time(began)?),
        due: UnixMillis(time(due)?),
        immunity_millis: time(immunity)?,
        checks: u32::try_from(checks).map_err(|_| bad.clone())?,
        given_up: flags & GIVEN_UP != 0,
        polled: flags & POLLED != 0,
        message_id: message_id.to_owned(),
    })
}

/// Key 12: 1 if the transaction was committed, 2 if it was rolled back.
pub(crate) fn encode_outcome(committed: bool) -> Bytes {
    Bytes::from_static(if committed { &[1] } else { &[2] })
}

fn decode_outcome(bytes: &[u8]) -> Result<bool, CodecError> {
    match bytes {
        [1] => Ok(true),
        [2] => Ok(false),
        _ => Err(CodecError { what: "outcome of a transaction" }),
    }
}

/// What the store has of a transaction.
#[derive(Clone, Debug)]
pub struct HalfFound {
    /// Its half message, if it has not ended.
    pub(crate) half: Option<Half>,
    /// Whether it was committed, if it has.
    pub(crate) outcome: Option<bool>,
    /// The message, if it was to be read.
    pub(crate) message: Option<Option<StoredMessage>>,
}

/// Reads what there is of a transaction; `None` if that was written by a newer broker.
pub(crate) async fn find<R: Reader>(
    reader: &R,
    place: HalfPlace,
    with_message: bool,
) -> Result<Option<HalfFound>, ReadError> {
    let image = reader.get(&keys::half(place)).await?.and_then(|state| state.image);
    let Ok(half) = image.map(|image| decode(&image)).transpose() else { return Ok(None) };
    let image = reader.get(&keys::outcome(place)).await?.and_then(|state| state.image);
    let Ok(outcome) = image.map(|image| decode_outcome(&image)).transpose() else { return Ok(None) };
    let message = match with_message {
        true => Some(reader.messages(place.queue, place.offset..place.offset.next(), 1, 1).await?.pop()),
        false => None,
    };
    Ok(Some(HalfFound { half, outcome, message }))
}

/// Half messages whose transactions have not ended, in the order of their places, at most `limit` of them, from `from` on.
pub async fn halves<R: Reader>(
    reader: &R,
    from: Option<HalfPlace>,
    limit: usize,
) -> Result<Vec<(HalfPlace, Half)>, ReadError> {
    let found = reader.scan(keys::halves_from(from), limit).await?;
    // What a newer broker wrote is left alone.
    let read = found.iter().filter_map(|(key, state)| Some((keys::half_of(key)?, decode(state.image.as_ref()?).ok()?)));
    Ok(read.collect())
}

struct Bucket {
    queue: QueueId,
    next: QueueOffset,
    /// Transactions that have not ended.
    open: u64,
}

/// The buckets of half messages, by hour of sending.
#[derive(Default)]
pub(crate) struct HalfBuckets {
    buckets: BTreeMap<u64, Bucket>,
    recounted: BTreeSet<u64>,
}

/// The hour a time is in.
pub(crate) fn hour_of(time: UnixMillis) -> u64 {
    millis(time) / HOUR_MILLIS as u64
}

fn end_of(hour: u64) -> UnixMillis {
    UnixMillis((hour as i64 + 1).saturating_mul(HOUR_MILLIS))
}

impl HalfBuckets {
    /// Reads key 10 with sub-kind 1: queue number, transactions that have not ended.
    pub async fn load<R: Reader>(&mut self, reader: &R, hour: u64, image: &[u8]) -> Result<(), crate::OpenError> {
        let mut at = 0;
        let mut number = || take_varint(image, &mut at).ok_or(CodecError { what: "bucket of half messages" });
        let (queue, open) = (QueueId(number()?), number()?);
        let next = reader.bounds(queue).await?.unwrap_or_default().end;
        self.buckets.insert(hour, Bucket { queue, next, open });
        Ok(())
    }

    /// The buckets of this time and later, the last first.
    pub fn queues_since(&self, time: UnixMillis) -> Vec<QueueId> {
        self.buckets.range(hour_of(time)..).rev().map(|(_, bucket)| bucket.queue).collect()
    }

    /// Takes the next place in the bucket of a time; `None` if that has no bucket yet.
    pub fn take_place(&mut self, time: UnixMillis) -> Option<HalfPlace> {
        let hour = hour_of(time);
        let bucket = self.buckets.get_mut(&hour)?;
        let offset = bucket.next;
        bucket.next = offset.next();
        bucket.open += 1;
        self.recounted.insert(hour);
        Some(HalfPlace { queue: bucket.queue, offset })
    }

    /// Makes the bucket of a time.
    pub fn make(&mut self, time: UnixMillis, queue: QueueId) {
        self.buckets.insert(hour_of(time), Bucket { queue, next: QueueOffset(0), open: 0 });
    }

    /// One that was sent at this time waits no more.
    pub fn ended(&mut self, began: UnixMillis) {
        let hour = hour_of(began);
        if let Some(bucket) = self.buckets.get_mut(&hour) {
            bucket.open = bucket.open.saturating_sub(1);
            self.recounted.insert(hour);
        }
    }

    /// Forgets the buckets in which nothing waits and to which nothing comes any more.
    pub fn finish(&mut self, now: UnixMillis, ops: &mut Vec<Op>) {
        let over = |hour: u64| end_of(hour) <= now;
        let finished = self.buckets.extract_if(.., |&hour, bucket| bucket.open == 0 && over(hour));
        for (hour, bucket) in finished {
            self.recounted.remove(&hour);
            ops.push(Op::Forget { queue: bucket.queue });
            ops.push(Op::Remove { key: keys::bucket(keys::HALVES, hour) });
        }
    }

    /// When `finish` may next find something by the time alone.
    pub fn next_end(&self, now: UnixMillis) -> Option<UnixMillis> {
        self.buckets.keys().map(|&hour| end_of(hour)).find(|&end| end > now)
    }

    /// Writes the counts that changed.
    pub fn flush(&mut self, retention_millis: i64, ops: &mut Vec<Op>) {
        for hour in std::mem::take(&mut self.recounted) {
            let Some(bucket) = self.buckets.get(&hour) else { continue };
            let mut image = Vec::new();
            put_varint(&mut image, bucket.queue.0);
            put_varint(&mut image, bucket.open);
            let keep_until = Some(end_of(hour).plus(retention_millis));
            ops.push(Op::Put { key: keys::bucket(keys::HALVES, hour), image: Bytes::from(image), keep_until });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_message_is_read_back_and_what_is_cut_off_is_refused() {
        let half = Half {
            topic: TopicId(300),
            began: UnixMillis(1_800_000_000_000),
            due: UnixMillis(1_800_000_006_000),
            immunity_millis: 6_000,
            checks: 15,
            given_up: true,
            polled: true,
            message_id: "01F2".into(),
        };
        let bytes = encode(&half);
        assert_eq!(decode(&bytes), Ok(half));
        for end in 0..bytes.len() - 4 {
            assert!(decode(&bytes[..end]).is_err(), "{end} bytes");
        }
        assert!(decode(&[2]).is_err() && decode_outcome(&[3]).is_err() && decode_outcome(&[]).is_err());
        for committed in [true, false] {
            assert_eq!(decode_outcome(&encode_outcome(committed)), Ok(committed));
        }
    }
}
