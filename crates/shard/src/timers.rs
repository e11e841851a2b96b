//! What happens by itself at a given time, from seconds to weeks ahead.
//!
//! A timer is a key in the store, ordered by its time; its message lies in a **bucket**, a hidden queue of this shard that
//! holds the messages due in one hour and is forgotten as a whole when the hour is over. In memory are only the next timers:
//! a few thousand of each [`Schedule`], however many wait. The store is asked for more when these run low.
//!
//! Rules
//! - A timer is there exactly until the batch that carries out what it stands for.
//! - A load that must see what the open batch writes is asked for when that batch goes to the store (`after_batch`).

use crate::answer::Waiting;
use crate::codec::CodecError;
use crate::command::{HalfPlace, TimerAt};
use crate::halves::HalfBuckets;
use crate::keys;
use crate::load::{Load, scan_all};
use crate::resident::Purpose;
use crate::schedule::{Schedule, TimersOf};
use crate::shard::Shard;
use crate::transactions::HalfJob;
use bytes::Bytes;
use martlet_model::record::{put_varint, take_varint};
use martlet_model::{QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_store::{Op, Reader};
use std::collections::{BTreeMap, BTreeSet};

/// What could not be carried out (no room, unreadable) is tried again after this.
pub(crate) const AGAIN_MILLIS: i64 = 1_000;
/// An hour of buckets.
pub(crate) const HOUR_MILLIS: i64 = 3_600_000;

/// What a timer stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// The message goes to its topic.
    Deliver(TopicId),
    /// A producer of the topic is asked how the transaction of a half message ended.
    Check(TopicId),
    /// The end of a transaction is remembered no longer.
    Forget(TopicId),
    /// A lite topic of this parent, its queue, may have ended.
    Lite(TopicId),
}

impl Timer {
    fn of(self) -> TimersOf {
        match self {
            Self::Deliver(_) | Self::Check(_) | Self::Forget(_) => TimersOf::Messages,
            Self::Lite(_) => TimersOf::LiteTopics,
        }
    }

    /// Value of keys 9 and 22: kind (1 deliver, 2 check, 3 forget, 4 lite topic), topic (varint).
    fn encode(self) -> Bytes {
        let (kind, topic) = match self {
            Self::Deliver(topic) => (1, topic),
            Self::Check(topic) => (2, topic),
            Self::Forget(topic) => (3, topic),
            Self::Lite(topic) => (4, topic),
        };
        let mut bytes = vec![kind];
        put_varint(&mut bytes, u64::from(topic.0));
        Bytes::from(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut at = 1;
        let topic = TopicId(u32::try_from(take_varint(bytes, &mut at)?).ok()?);
        match bytes.first()? {
            1 => Some(Self::Deliver(topic)),
            2 => Some(Self::Check(topic)),
            3 => Some(Self::Forget(topic)),
            4 => Some(Self::Lite(topic)),
            _ => None,
        }
    }
}

/// A hidden queue of messages that wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    pub queue: QueueId,
    pub next: QueueOffset,
}

/// The timers of a shard.
#[derive(Default)]
pub(crate) struct Timers {
    /// By hour.
    pub buckets: BTreeMap<u64, Bucket>,
    messages: Schedule,
    /// Taken out of `messages`, being read or waiting for their queue.
    pub firing: BTreeMap<TimerAt, Timer>,
    pub lite_topics: Schedule,
    not_before: UnixMillis,
    /// By topic; none is all zero.
    waiting: BTreeMap<TopicId, Waiting>,
    recounted: BTreeSet<TopicId>,
}

impl Timers {
    /// Reads the buckets, the counts and the next timers.
    pub async fn open<R: Reader>(reader: &R, halves: &mut HalfBuckets) -> Result<Self, crate::OpenError> {
        let mut timers = Self::default();
        let bad = |what| CodecError { what };
        for (key, state) in scan_all(reader, keys::kind(keys::BUCKET)).await? {
            let image = state.image.unwrap_or_default();
            let mut at = 0;
            let mut number = || take_varint(&image, &mut at);
            match keys::numbers(&key).as_deref() {
                Some(&[DELAYED, hour]) => {
                    let queue = QueueId(number().ok_or(bad("bucket"))?);
                    let next = reader.bounds(queue).await?.unwrap_or_default().end;
                    timers.buckets.insert(hour, Bucket { queue, next });
                }
                Some(&[keys::HALVES, hour]) => halves.load(reader, hour, &image).await?,
                Some(&[COUNTS, topic]) => {
                    let topic = TopicId(u32::try_from(topic).map_err(|_| bad("count of waiting messages"))?);
                    let delayed = number().ok_or(bad("count of waiting messages"))?;
                    // Not there where nothing but delayed messages was known.
                    let (halves, given_up) = (number().unwrap_or(0), number().unwrap_or(0));
                    timers.waiting.insert(topic, Waiting { delayed, halves, given_up });
                }
                _ => return Err(bad("bucket").into()),
            }
        }
        timers.messages = Schedule::open(reader, TimersOf::Messages).await?;
        timers.lite_topics = Schedule::open(reader, TimersOf::LiteTopics).await?;
        Ok(timers)
    }

    /// Whether the timer of a message is there. `None`: only the store knows.
    pub fn knows(&self, at: TimerAt) -> Option<bool> {
        self.messages.knows(at).map(|known| known || self.firing.contains_key(&at))
    }

    fn of(&mut self, of: TimersOf) -> &mut Schedule {
        match of {
            TimersOf::Messages => &mut self.messages,
            TimersOf::LiteTopics => &mut self.lite_topics,
        }
    }

    /// Not read yet: it is still due.
    pub fn put_back(&mut self, at: TimerAt) {
        if let Some(timer) = self.firing.remove(&at) {
            self.messages.put_back(at, timer);
        }
    }

    fn next_due(&self, now: UnixMillis) -> Option<UnixMillis> {
        // What is on its way out wakes the shard by itself.
        let due = self.messages.next_due().filter(|_| self.firing.is_empty()).map(|due| due.max(self.not_before));
        // A bucket whose hour is over waits for its timers, not for a time.
        let over = self.buckets.first_key_value().map(|(&hour, _)| end_of(hour)).filter(|&end| end > now);
        [due, over, self.messages.next_scan(), self.lite_topics.next_scan()].into_iter().flatten().min()
    }

    /// The first bucket, if its hour is over and nothing in it waits any more.
    fn take_finished(&mut self, now: UnixMillis) -> Option<(u64, Bucket)> {
        let (&hour, &bucket) = self.buckets.first_key_value()?;
        let end = end_of(hour);
        let waits = |at: Option<TimerAt>| at.is_some_and(|at| at.due < end);
        if end > now || !self.firing.is_empty() || waits(self.messages.first()) {
            return None;
        }
        self.buckets.remove(&hour);
        Some((hour, bucket))
    }
}

/// Sub-kinds of key 10.
const DELAYED: u64 = 0;
const COUNTS: u64 = 2;

fn end_of(hour: u64) -> UnixMillis {
    UnixMillis((hour as i64 + 1).saturating_mul(HOUR_MILLIS))
}

impl<T> Shard<T> {
    /// Messages of a topic that wait.
    pub fn waiting(&self) -> impl Iterator<Item = (TopicId, Waiting)> + '_ {
        self.timers.waiting.iter().map(|(&topic, &waiting)| (topic, waiting))
    }

    /// Timers in memory.
    pub fn near_timers(&self) -> usize {
        self.timers.messages.len() + self.timers.lite_topics.len() + self.timers.firing.len()
    }

    pub(crate) fn add_timer(&mut self, at: TimerAt, timer: Timer) {
        let of = timer.of();
        self.ops.push(Op::Put { key: keys::timer(of, at), image: timer.encode(), keep_until: Some(at.due) });
        self.timers.of(of).add(at, timer);
    }

    pub(crate) fn remove_timer(&mut self, at: TimerAt) {
        self.ops.push(Op::Remove { key: keys::timer(TimersOf::Messages, at) });
        self.timers.firing.remove(&at);
        self.timers.messages.remove(at);
    }

    /// Puts back what could not be carried out now, and waits a little.
    pub(crate) fn timers_again(&mut self, timers: impl IntoIterator<Item = TimerAt>) {
        for at in timers {
            self.timers.put_back(at);
        }
        self.timers.not_before = self.now.plus(AGAIN_MILLIS);
    }

    /// Changes how many messages of a topic wait.
    pub(crate) fn count_waiting(&mut self, topic: TopicId, change: impl FnOnce(&mut Waiting)) {
        if self.topics.contains_key(&topic) {
            change(self.timers.waiting.entry(topic).or_default());
            self.timers.recounted.insert(topic);
        }
    }

    /// The topic is deleted: what waits for it is dropped when it is due, and not counted any more.
    pub(crate) fn forget_waiting(&mut self, topic: TopicId) {
        if self.timers.waiting.remove(&topic).is_some() {
            self.timers.recounted.insert(topic);
        }
    }

    /// The bucket of the messages due at this time, made if there is none. The next place in it is taken.
    pub(crate) fn take_bucket_place(&mut self, due: UnixMillis) -> (QueueId, QueueOffset, UnixMillis) {
        let hour = (due.0.max(0) / HOUR_MILLIS) as u64;
        let until = end_of(hour);
        if let Some(bucket) = self.timers.buckets.get_mut(&hour) {
            let offset = bucket.next;
            bucket.next = offset.next();
            return (bucket.queue, offset, until);
        }
        let queue = QueueId(self.image.next_queue);
        self.image.next_queue += 1;
        self.put_image();
        let mut image = Vec::new();
        put_varint(&mut image, queue.0);
        let key = keys::bucket(DELAYED, hour);
        self.ops.push(Op::Put { key, image: Bytes::from(image), keep_until: Some(until) });
        self.timers.buckets.insert(hour, Bucket { queue, next: QueueOffset(1) });
        (queue, QueueOffset(0), until)
    }

    /// A load that sees everything this turn and those before have changed.
    pub(crate) fn want_after_batch(&mut self, load: Load, purpose: Purpose<T>) {
        self.after_batch.push((load, purpose));
    }

    /// The batch goes to the store, or there is none: what waited for that can be read.
    pub(crate) fn ask_after_batch(&mut self) {
        for (load, purpose) in std::mem::take(&mut self.after_batch) {
            self.want(load, purpose);
        }
    }

    /// Carries out what is due, as much as fits a turn.
    pub(crate) fn fire_timers(&mut self) {
        if self.timers.firing.is_empty() && self.now >= self.timers.not_before {
            let mut taken = 0;
            let (mut checks, mut forgotten) = (Vec::new(), Vec::new());
            while let Some((at, timer)) = self.timers.messages.take_due(self.now) {
                self.timers.firing.insert(at, timer);
                match timer {
                    Timer::Deliver(_) | Timer::Lite(_) => {}
                    Timer::Check(_) => checks.push(at),
                    Timer::Forget(_) => forgotten.push(at),
                }
                taken += 1;
                if taken == crate::delay::DUE_MAX {
                    break;
                }
            }
            forgotten.into_iter().for_each(|at| self.forget_outcome(at));
            for at in checks {
                self.half_job(HalfPlace { queue: at.queue, offset: at.offset }, HalfJob::Due(at));
            }
            if taken > 0 {
                self.read_due();
            }
        }
        self.begin_expiring();
        self.halves.finish(self.now, &mut self.ops);
        while let Some((hour, bucket)) = self.timers.take_finished(self.now) {
            self.ops.push(Op::Forget { queue: bucket.queue });
            self.ops.push(Op::Remove { key: keys::bucket(DELAYED, hour) });
        }
        for of in [TimersOf::Messages, TimersOf::LiteTopics] {
            if let Some(from) = self.timers.of(of).begin_scan(self.now) {
                self.want_after_batch(Load::Timers(of, from), Purpose::Timers(of));
            }
        }
    }

    /// The store has been looked through for timers.
    pub(crate) fn timers_scanned(&mut self, of: TimersOf, found: Option<(Vec<(TimerAt, Timer)>, bool)>) {
        match found {
            Some((found, more)) => self.timers.of(of).scanned(found, more),
            None => self.timers.of(of).not_scanned(self.now),
        }
    }

    pub(crate) fn next_timer(&self) -> Option<UnixMillis> {
        [self.timers.next_due(self.now), self.next_lite_timer(), self.halves.next_end(self.now)]
            .into_iter()
            .flatten()
            .min()
    }

    /// Writes the counts that changed.
    pub(crate) fn flush_waiting(&mut self) {
        self.halves.flush(self.options.retention_millis, &mut self.ops);
        for topic in std::mem::take(&mut self.timers.recounted) {
            let key = keys::bucket(COUNTS, u64::from(topic.0));
            match self.timers.waiting.get(&topic).filter(|waiting| **waiting != Waiting::default()) {
                Some(waiting) => {
                    let mut image = Vec::new();
                    [waiting.delayed, waiting.halves, waiting.given_up]
                        .into_iter()
                        .for_each(|count| put_varint(&mut image, count));
                    self.ops.push(Op::Put { key, image: Bytes::from(image), keep_until: None });
                }
                None => {
                    self.timers.waiting.remove(&topic);
                    self.ops.push(Op::Remove { key });
                }
            }
        }
    }
}
