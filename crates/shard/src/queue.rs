//! One queue: its bounds, what of it is durable, and marks that say how old its messages are.

use crate::codec::{LiteImage, QueueImage};
use crate::recent::RecentGroups;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Marks per retention time: a message is dropped at most 1/64 of the retention late.
pub const MARKS: i64 = 64;
/// Bytes of messages between two marks at most, for each 64 marks there are: a full disk drops the oldest of a busy queue
/// in steps of this.
const MARK_BYTES: u64 = 16 << 20;

/// The number a lite topic's queue has within its parent: the shard's own, so that no two have the same.
fn lite_index(id: QueueId) -> u32 {
    u32::try_from(id.0).unwrap_or(u32::MAX)
}

/// A queue of this shard.
#[derive(Debug)]
pub struct Queue {
    pub id: QueueId,
    pub topic: TopicId,
    pub index: u32,
    /// First readable offset.
    pub min: QueueOffset,
    /// Next offset.
    pub next: QueueOffset,
    /// Everything below is durable, and so may be handed out.
    pub durable: QueueOffset,
    /// (time, first offset stored at or after that time), oldest first.
    pub marks: VecDeque<(UnixMillis, QueueOffset)>,
    /// Store time of the newest message.
    pub last_time: Option<UnixMillis>,
    /// Largest record seen lately, for sizing replies; 0 if unknown.
    pub record_bytes: usize,
    /// Bytes of records since the last mark, as far as this opening saw them.
    bytes_since_mark: u64,
    /// Message groups of its newest messages.
    pub recent: RecentGroups,
    /// If it is a lite topic's.
    pub lite: Option<Box<LiteTopic>>,
}

/// What a queue knows of the lite topic it is.
#[derive(Debug)]
pub struct LiteTopic {
    pub name: Arc<str>,
    /// When a message was stored last, as far as the store was told.
    pub last: UnixMillis,
    /// When its timer is due; 0: it has none.
    pub timer: UnixMillis,
    /// Groups that consume every lite topic and of which the store knows that they may not have settled this one.
    pub marked: Vec<GroupId>,
    /// Groups that have been there.
    pub consumers: Vec<LiteConsumer>,
}

/// A group that has been in a lite topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiteConsumer {
    /// The group.
    pub group: GroupId,
    /// What it has not settled was stored then or later; `None`: it has settled everything.
    pub since: Option<UnixMillis>,
}

impl Queue {
    /// A queue just made.
    pub fn new(id: QueueId, topic: TopicId, index: u32) -> Self {
        Self {
            id,
            topic,
            index,
            min: QueueOffset(0),
            next: QueueOffset(0),
            durable: QueueOffset(0),
            marks: VecDeque::new(),
            last_time: None,
            record_bytes: 0,
            bytes_since_mark: 0,
            recent: RecentGroups::default(),
            lite: None,
        }
    }

    /// What the store kept.
    pub fn load(id: QueueId, image: QueueImage, min: QueueOffset, next: QueueOffset) -> Self {
        let last_time = image.marks.last().map(|&(time, _)| time);
        Self {
            min,
            next,
            durable: next,
            last_time,
            marks: image.marks.into(),
            ..Self::new(id, image.topic, image.index)
        }
    }

    /// A lite topic's queue, just made.
    pub fn lite(id: QueueId, parent: TopicId, lite: LiteTopic) -> Self {
        Self { lite: Some(Box::new(lite)), ..Self::new(id, parent, lite_index(id)) }
    }

    /// What the store kept of a lite topic.
    pub fn load_lite(id: QueueId, image: LiteImage, bounds: Range<QueueOffset>, consumers: Vec<LiteConsumer>) -> Self {
        let LiteImage { parent, name, last, timer, marks } = image;
        let kept = QueueImage { topic: parent, index: lite_index(id), marks };
        let lite = Some(Box::new(LiteTopic { name, last, timer, marked: Vec::new(), consumers }));
        Self { lite, ..Self::load(id, kept, bounds.start, bounds.end) }
    }

    /// Its value in the store.
    pub fn image(&self) -> QueueImage {
        QueueImage { topic: self.topic, index: self.index, marks: self.marks.iter().copied().collect() }
    }

    /// Notes that a message of so many bytes is stored at `next` at `now`. True if a mark was made and the image is to be
    /// written.
    pub fn mark(&mut self, now: UnixMillis, retention_millis: i64, bytes: usize) -> bool {
        self.last_time = Some(now);
        let apart = (retention_millis / MARKS).max(1);
        let bytes_apart = MARK_BYTES * (1 + self.marks.len() as u64 / 64);
        let is_near = |&(time, _): &(UnixMillis, QueueOffset)| now.since(time) < apart;
        if self.marks.back().is_some_and(is_near) && self.bytes_since_mark < bytes_apart {
            self.bytes_since_mark += bytes as u64;
            return false;
        }
        self.marks.push_back((now, self.next));
        self.bytes_since_mark = bytes as u64;
        true
    }

    /// What is stored at this offset and behind it is not older than this.
    pub fn stored_since(&self, offset: QueueOffset) -> UnixMillis {
        let mark = self.marks.iter().rev().find(|(_, first)| *first <= offset);
        mark.map_or(UnixMillis(0), |&(time, _)| time)
    }

    /// Everything below this offset is older than the retention. Messages between two marks count as old as the later.
    pub fn expired_below(&self, now: UnixMillis, retention_millis: i64) -> QueueOffset {
        let edge = now.plus(-retention_millis);
        let mut below = self.min;
        for pair in self.marks.iter().zip(self.marks.iter().skip(1)) {
            let (_, (until, offset)) = pair;
            if *until > edge {
                return below;
            }
            below = below.max(*offset);
        }
        match self.marks.back() {
            // Nothing after the last mark tells how old the newest is; it is at most one mark's distance younger.
            Some(&(time, _)) if time.plus(retention_millis / MARKS) <= edge => self.next,
            _ => below,
        }
    }

    /// When `expired_below` may next have grown.
    pub fn next_expiry(&self, retention_millis: i64) -> Option<UnixMillis> {
        if self.min == self.next {
            return None;
        }
        match self.marks.get(1) {
            Some(&(time, _)) => Some(time.plus(retention_millis)),
            None => self.marks.front().map(|&(time, _)| time.plus(retention_millis + retention_millis / MARKS)),
        }
    }

    /// Moves the first readable offset and forgets marks below it, but for the one the first message lies behind.
    pub fn trim(&mut self, below: QueueOffset) {
        self.min = self.min.max(below);
        while self.marks.get(1).is_some_and(|&(_, offset)| offset <= self.min) {
            self.marks.pop_front();
        }
        if self.min == self.next {
            self.marks.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_expire_after_the_retention_and_at_most_a_mark_later() {
        let (hour, retention) = (3_600_000, 64 * 3_600_000);
        let mut queue = Queue::new(QueueId(0), TopicId(1), 0);
        for n in 0..100i64 {
            let marked = queue.mark(UnixMillis(n * hour / 2), retention, 100);
            assert_eq!(marked, n % 2 == 0);
            queue.next = queue.next.next();
        }
        assert_eq!(queue.expired_below(UnixMillis(retention), retention), QueueOffset(0));
        assert_eq!(queue.next_expiry(retention), Some(UnixMillis(hour + retention)));
        assert_eq!(queue.expired_below(UnixMillis(hour + retention), retention), QueueOffset(2));
        queue.trim(QueueOffset(2));
        assert_eq!(queue.marks.front(), Some(&(UnixMillis(hour), QueueOffset(2))));
        assert_eq!(queue.expired_below(UnixMillis(50 * hour + retention), retention), QueueOffset(100));
        queue.trim(QueueOffset(100));
        assert_eq!(queue.next_expiry(retention), None);
    }
    #[test]
    fn a_busy_queue_has_marks_every_few_megabytes() {
        let mut queue = Queue::new(QueueId(0), TopicId(1), 0);
        for _ in 0..20 * 16 {
            queue.mark(UnixMillis(5), 72 * 3_600_000, 1 << 20);
            queue.next = queue.next.next();
        }
        assert_eq!(queue.marks.len(), 20);
        queue.trim(QueueOffset(16));
        assert_eq!(queue.marks.front(), Some(&(UnixMillis(5), QueueOffset(16))));
    }
}
