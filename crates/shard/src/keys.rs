//! What lies in the key space of the store, and under which key.
//!
//! | first byte | rest | value | written |
//! | --- | --- | --- | --- |
//! | 1 | – | shard: epoch, secret of handles, next queue number | at opening and when queues are made |
//! | 2 | topic | topic facts and queue numbers | by the catalog |
//! | 3 | group | group facts | by the catalog |
//! | 4 | queue | topic, index, time marks | at creation, then one mark per 1/64 of the retention |
//! | 5 | group, queue | frontier: next offset never handed out | when a progress page ends |
//! | 6 | group, queue, page | progress page: open slots of 1024 offsets | deltas, now and then an image |
//! | 7 | queue, group | says that key 5 exists; of lite topics: the time in key 21, 3 that was put last | with key 5's creation; with key 21, 3 |
//! | 8 | prefix | nothing: keys below that prefix are being deleted | until none is left |
//! | 9 | due time, bucket, offset | timer: what is to happen then, and the topic it is for | until it has happened |
//! | 10 | 0, hour | bucket of the messages due in that hour: queue number | until the hour is over and all are out |
//! | 10 | 1, hour | bucket of the half messages of that hour: queue number, how many have not ended | until all have ended |
//! | 10 | 2, topic | how many messages of the topic wait | when that changes |
//! | 11 | bucket, offset | half message: topic, times, checks, message id | until its transaction ends |
//! | 12 | bucket, offset | how that transaction ended | as long as the topic keeps messages |
//! | 13 | group, queue, hash of a message group, offset | parked messages from that offset on: [`crate::parked`] | deltas, until none is left |
//! | 14 | group, topic, hash of the filter | subscription: filter, last seen | while live; anew every 10 minutes |
//! | 16 | queue, page | dead letters that were resent: a bit for each of 1024 offsets | with each resend |
//! | 17 | parent topic, name of a lite topic | its queue number | at creation |
//! | 18 | group, client id | names of the lite topics it subscribes to | with each change |
//! | 19 | group, client id | lease of those: version, last seen | while live; at most once a minute |
//! | 20 | queue | lite topic: parent, name, times, time marks | at creation, then per 1/16 of its time to live |
//! | 21 | 0, parent topic | how many lite topics it has | when that changes |
//! | 21 | 1, group, queue | nothing: a group that consumes every lite topic may not have settled all of this one | with a message, until it has |
//! | 21 | 2, group | how many messages it has not settled, in lite topics where it has been | when that changes |
//! | 21 | 3, group, time, queue | nothing: the group has not settled all of this lite topic, and what it has not was stored at this time or later | from the first such message until there is none |
//! | 22 | due time, queue, 0 | timer of a lite topic: its parent | until it has been looked at |
//!
//! Numbers are written as one length byte and that many big-endian bytes without leading zeros: short, and in order.

use crate::command::{HalfPlace, TimerAt};
use crate::schedule::TimersOf;
use bytes::Bytes;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use std::ops::Range;

pub const SHARD: u8 = 1;
pub const TOPIC: u8 = 2;
pub const GROUP: u8 = 3;
pub const QUEUE: u8 = 4;
pub const FRONTIER: u8 = 5;
pub const PAGE: u8 = 6;
pub const CONSUMER: u8 = 7;
pub const SWEEP: u8 = 8;
pub const TIMER: u8 = 9;
pub const BUCKET: u8 = 10;
pub const HALF: u8 = 11;
pub const OUTCOME: u8 = 12;
pub const PARKED: u8 = 13;
pub const SUBSCRIPTION: u8 = 14;
pub const RESENT: u8 = 16;
pub const LITE_TOPIC: u8 = 17;
pub const LITE_SET: u8 = 18;
pub const LITE_LEASE: u8 = 19;
pub const LITE_QUEUE: u8 = 20;
pub const LITE_STATE: u8 = 21;
pub const LITE_TIMER: u8 = 22;

/// Sub-kind of key 10: buckets of half messages.
pub const HALVES: u64 = 1;

fn key(kind: u8, numbers: &[u64]) -> Bytes {
    let mut key = Vec::with_capacity(1 + numbers.len() * 4);
    key.push(kind);
    for number in numbers {
        let bytes = number.to_be_bytes();
        let skip = number.leading_zeros() as usize / 8;
        key.push((8 - skip) as u8);
        key.extend_from_slice(&bytes[skip..]);
    }
    Bytes::from(key)
}

pub fn shard() -> Bytes {
    key(SHARD, &[])
}

pub fn topic(topic: TopicId) -> Bytes {
    key(TOPIC, &[u64::from(topic.0)])
}

pub fn group(group: GroupId) -> Bytes {
    key(GROUP, &[u64::from(group.0)])
}

pub fn queue(queue: QueueId) -> Bytes {
    key(QUEUE, &[queue.0])
}

pub fn frontier(group: GroupId, queue: QueueId) -> Bytes {
    key(FRONTIER, &[u64::from(group.0), queue.0])
}

pub fn page(group: GroupId, queue: QueueId, page: u64) -> Bytes {
    key(PAGE, &[u64::from(group.0), queue.0, page])
}

pub fn pages(group: GroupId, queue: QueueId) -> Range<Bytes> {
    prefixed(&key(PAGE, &[u64::from(group.0), queue.0]))
}

pub fn frontiers_of(group: GroupId) -> Range<Bytes> {
    prefixed(&key(FRONTIER, &[u64::from(group.0)]))
}

pub fn subscription(group: GroupId, topic: TopicId, filter: u64) -> Bytes {
    key(SUBSCRIPTION, &[u64::from(group.0), u64::from(topic.0), filter])
}

pub fn consumer(queue: QueueId, group: GroupId) -> Bytes {
    key(CONSUMER, &[queue.0, u64::from(group.0)])
}

/// A chunk of the parked messages of one message group.
pub fn parked(group: GroupId, queue: QueueId, hash: u64, first: u64) -> Bytes {
    key(PARKED, &[u64::from(group.0), queue.0, hash, first])
}

/// All parked messages of a group in a queue.
pub fn parked_in(group: GroupId, queue: QueueId) -> Range<Bytes> {
    prefixed(&key(PARKED, &[u64::from(group.0), queue.0]))
}

/// A key that ends with a text.
fn with_text(kind: u8, number: u64, text: &str) -> Bytes {
    let head = key(kind, &[number]);
    let mut key = Vec::with_capacity(head.len() + text.len());
    key.extend_from_slice(&head);
    key.extend_from_slice(text.as_bytes());
    Bytes::from(key)
}

/// The number and the text of such a key; `None` if it is not of this module's making.
pub fn text_of(key: &[u8]) -> Option<(u64, &str)> {
    let (&len, rest) = key.get(1..)?.split_first()?;
    let (number, text) = rest.split_at_checked(usize::from(len)).filter(|_| len <= 8)?;
    let number = number.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    Some((number, std::str::from_utf8(text).ok()?))
}

pub fn lite_topic(parent: TopicId, name: &str) -> Bytes {
    with_text(LITE_TOPIC, u64::from(parent.0), name)
}

/// The lite topics of a parent, as a prefix.
pub fn lite_topics_of(parent: TopicId) -> Bytes {
    key(LITE_TOPIC, &[u64::from(parent.0)])
}

pub fn lite_set(group: GroupId, client_id: &str) -> Bytes {
    with_text(LITE_SET, u64::from(group.0), client_id)
}

/// The lite subscriptions of a group's clients, as a prefix.
pub fn lite_sets_of(group: GroupId) -> Bytes {
    key(LITE_SET, &[u64::from(group.0)])
}

pub fn lite_lease(group: GroupId, client_id: &str) -> Bytes {
    with_text(LITE_LEASE, u64::from(group.0), client_id)
}

pub fn lite_queue(queue: QueueId) -> Bytes {
    key(LITE_QUEUE, &[queue.0])
}

pub fn lite_count(parent: TopicId) -> Bytes {
    key(LITE_STATE, &[0, u64::from(parent.0)])
}

/// The counts of all parents.
pub fn lite_counts() -> Range<Bytes> {
    prefixed(&key(LITE_STATE, &[0]))
}

/// How many messages of lite topics a group has not settled.
pub fn lite_unsettled(group: GroupId) -> Bytes {
    key(LITE_STATE, &[2, u64::from(group.0)])
}

/// The same of all groups.
pub fn lite_unsettled_all() -> Range<Bytes> {
    prefixed(&key(LITE_STATE, &[2]))
}

pub fn lite_backlog(group: GroupId, queue: QueueId) -> Bytes {
    key(LITE_STATE, &[1, u64::from(group.0), queue.0])
}

/// Lite topics that a group may not have settled, as a prefix.
pub fn lite_backlog_of(group: GroupId) -> Bytes {
    key(LITE_STATE, &[1, u64::from(group.0)])
}

/// A group has not settled all of a lite topic since this time.
pub fn lite_since(group: GroupId, since: UnixMillis, queue: QueueId) -> Bytes {
    key(LITE_STATE, &[3, u64::from(group.0), since.0.max(0) as u64, queue.0])
}

/// The same of all lite topics of a group, as a prefix: in the order of the times.
pub fn lite_since_of(group: GroupId) -> Bytes {
    key(LITE_STATE, &[3, u64::from(group.0)])
}

/// Reads such a key back: since when, and the queue.
pub fn since_of(key: &[u8]) -> Option<(UnixMillis, QueueId)> {
    match (key.first(), numbers(key)?.as_slice()) {
        (Some(&LITE_STATE), &[3, _, since, queue]) => Some((UnixMillis(i64::try_from(since).ok()?), QueueId(queue))),
        _ => None,
    }
}

/// Everything a deleted group leaves behind, as prefixes.
pub fn leftovers_of_group(group: GroupId) -> [Bytes; 7] {
    let of = |kind| key(kind, &[u64::from(group.0)]);
    [of(FRONTIER), of(PAGE), of(PARKED), of(LITE_SET), of(LITE_LEASE), lite_backlog_of(group), lite_since_of(group)]
}

/// The marks of who consumed a queue, as a prefix.
pub fn consumers_of(queue: QueueId) -> Bytes {
    key(CONSUMER, &[queue.0])
}

pub fn resent(queue: QueueId, page: u64) -> Bytes {
    key(RESENT, &[queue.0, page])
}

pub fn sweep(prefix: &[u8]) -> Bytes {
    Bytes::from([&[SWEEP], prefix].concat())
}

fn timer_kind(of: TimersOf) -> u8 {
    match of {
        TimersOf::Messages => TIMER,
        TimersOf::LiteTopics => LITE_TIMER,
    }
}

pub fn timer(of: TimersOf, at: TimerAt) -> Bytes {
    key(timer_kind(of), &[at.due.0.max(0) as u64, at.queue.0, at.offset.0])
}

/// The timers from this one on.
pub fn timers_from(of: TimersOf, at: Option<TimerAt>) -> Range<Bytes> {
    let all = kind(timer_kind(of));
    at.map_or(all.start, |at| timer(of, at))..all.end
}

/// Reads a timer's key back.
pub fn timer_of(key: &[u8]) -> Option<TimerAt> {
    match (key.first(), numbers(key)?.as_slice()) {
        (Some(&(TIMER | LITE_TIMER)), &[due, queue, offset]) => Some(TimerAt {
            due: UnixMillis(i64::try_from(due).ok()?),
            queue: QueueId(queue),
            offset: QueueOffset(offset),
        }),
        _ => None,
    }
}

pub fn bucket(of: u64, hour: u64) -> Bytes {
    key(BUCKET, &[of, hour])
}

pub fn half(place: HalfPlace) -> Bytes {
    key(HALF, &[place.queue.0, place.offset.0])
}

/// The half messages from this one on.
pub fn halves_from(place: Option<HalfPlace>) -> Range<Bytes> {
    let all = kind(HALF);
    place.map_or(all.start, half)..all.end
}

/// The half messages of one bucket.
pub fn halves_in(queue: QueueId) -> Range<Bytes> {
    prefixed(&key(HALF, &[queue.0]))
}

/// Reads a half message's key back.
pub fn half_of(key: &[u8]) -> Option<HalfPlace> {
    match (key.first(), numbers(key)?.as_slice()) {
        (Some(&HALF), &[queue, offset]) => Some(HalfPlace { queue: QueueId(queue), offset: QueueOffset(offset) }),
        _ => None,
    }
}

pub fn outcome(place: HalfPlace) -> Bytes {
    key(OUTCOME, &[place.queue.0, place.offset.0])
}

/// All keys of one kind.
pub fn kind(kind: u8) -> Range<Bytes> {
    prefixed(&[kind])
}

/// All keys that start with these bytes; the first byte is below 255.
pub fn prefixed(prefix: &[u8]) -> Range<Bytes> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    Bytes::copy_from_slice(prefix)..Bytes::from(end)
}

/// The numbers of a key after its first byte; `None` if it is not of this module's making.
pub fn numbers(key: &[u8]) -> Option<Vec<u64>> {
    let mut rest = key.get(1..)?;
    let mut numbers = Vec::new();
    while let Some((&len, tail)) = rest.split_first() {
        let len = usize::from(len);
        if len > 8 || tail.len() < len {
            return None;
        }
        numbers.push(tail[..len].iter().fold(0, |number, &byte| number << 8 | u64::from(byte)));
        rest = &tail[len..];
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_read_back_and_keep_the_order_of_their_numbers() {
        let numbers_in_order = [0, 1, 255, 256, 65_535, 65_536, u64::MAX];
        let keys: Vec<_> = numbers_in_order.iter().map(|&page| super::page(GroupId(3), QueueId(9), page)).collect();
        assert!(keys.is_sorted());
        assert_eq!(keys[1].len(), 7);
        for (key, page) in keys.iter().zip(numbers_in_order) {
            assert_eq!(numbers(key), Some(vec![3, 9, page]));
            assert!(pages(GroupId(3), QueueId(9)).contains(key));
            assert!(!pages(GroupId(3), QueueId(10)).contains(key));
        }
        assert_eq!(numbers(&[6, 9]), None);
        let at = |due, offset| TimerAt { due: UnixMillis(due), queue: QueueId(7), offset: QueueOffset(offset) };
        let timers = [at(5, 9), at(1_800_000_000_000, 0), at(1_800_000_000_000, 300), at(1_800_000_000_001, 1)];
        assert!(timers.is_sorted() && timers.map(|at| timer(TimersOf::Messages, at)).is_sorted());
        for of in [TimersOf::Messages, TimersOf::LiteTopics] {
            let key = |at| timer(of, at);
            assert!(timers.iter().all(|&at| timer_of(&key(at)) == Some(at)));
            assert!(timers.iter().all(|&at| timers_from(of, None).contains(&key(at))));
            assert!(!timers_from(of, Some(timers[2])).contains(&key(timers[1])));
        }
        assert!(!timers_from(TimersOf::Messages, None).contains(&timer(TimersOf::LiteTopics, timers[0])));
        let since = [(5, 9), (300, 1), (300, 256), (70_000, 1)].map(|(time, queue)| (UnixMillis(time), QueueId(queue)));
        let keys = since.map(|(time, queue)| lite_since(GroupId(4), time, queue));
        assert!(keys.is_sorted() && keys.iter().map(|key| since_of(key)).eq(since.map(Some)));
        assert!(keys.iter().all(|key| prefixed(&lite_since_of(GroupId(4))).contains(key)));
        assert_eq!(since_of(&lite_backlog(GroupId(4), QueueId(1))), None);
        assert_eq!(text_of(&lite_topic(TopicId(300), "s-1")), Some((300, "s-1")));
        assert!(prefixed(&lite_topics_of(TopicId(300))).contains(&lite_topic(TopicId(300), "s-1")));
        assert!(!prefixed(&lite_topics_of(TopicId(3))).contains(&lite_topic(TopicId(300), "s-1")));
        assert_eq!((text_of(&[17]), text_of(&[17, 9, 1]), text_of(&[17, 1, 4, 0xff])), (None, None, None));
        assert_eq!(prefixed(&[5, 255]), Bytes::from_static(&[5, 255])..Bytes::from_static(&[6]));
    }
}
