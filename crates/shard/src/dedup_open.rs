//! Reading back at the opening which message ids are known ([`crate::dedup`]): of the topics that ask for it, what their
//! windows reach of their queues, of the messages that wait for their delivery timestamp, and of the half messages whose
//! transactions have not ended.
//!
//! Rules
//! - Newest first, and of all queues in turn, until the windows are reached back to, as many ids are known as may be
//!   remembered, or [`limits::DEDUPLICATION_READ_BYTES_MAX`] bytes of messages are read.
//! - What cannot be read stops no opening: it is left out and told ([`Shard::known_ids_not_read`]), and so is what was over
//!   the limits. Keys that cannot be read fail the opening, as all other keys do.
//! - Not known any more: half messages whose transactions have ended, delayed messages that were recalled, and what
//!   retention has dropped.
//!
//! [`limits::DEDUPLICATION_READ_BYTES_MAX`]: martlet_model::limits::DEDUPLICATION_READ_BYTES_MAX

use crate::answer::Placed;
use crate::command::TimerAt;
use crate::dedup::{Known, Stored, half_id_of, id_of};
use crate::halves;
use crate::keys;
use crate::schedule::TimersOf;
use crate::shard::{OpenError, Shard};
use crate::timers::Timer;
use crate::transactions::delivery_timestamp;
use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_store::{ReadError, Reader, StoredMessage};
use std::collections::{BTreeMap, VecDeque};

/// Messages and bytes of one read.
const READ_MESSAGES: u64 = 1_024;
const READ_BYTES: usize = 1 << 20;
/// Keys of one scan.
const READ_KEYS: usize = 4_096;
/// Queues that are told of by name where they cannot be read.
const TOLD_MAX: usize = 16;

/// What a queue holds.
#[derive(Clone, Copy)]
enum Of {
    /// Messages of a topic, in its queue of this index.
    Topic(TopicId, u32),
    /// Messages that wait for their delivery timestamp, of any topic.
    Bucket,
}

/// A queue that is being read back.
struct Tail {
    queue: QueueId,
    of: Of,
    /// Not read yet.
    start: QueueOffset,
    end: QueueOffset,
    /// Messages of the next read: one at first, which says how large they are and whether the queue is in use at all.
    step: u64,
}

impl Tail {
    async fn new<R: Reader>(reader: &R, queue: QueueId, of: Of) -> Result<Self, ReadError> {
        let bounds = reader.bounds(queue).await?.unwrap_or_default();
        Ok(Self { queue, of, start: bounds.start, end: bounds.end, step: 1 })
    }

    /// The next messages towards the start, in order, those that are there of them.
    async fn read<R: Reader>(&mut self, reader: &R) -> Result<Vec<StoredMessage>, ReadError> {
        let first = QueueOffset(self.end.0.saturating_sub(self.step).max(self.start.0));
        let (mut from, mut found) = (first, Vec::new());
        while from < self.end {
            let messages = reader.messages(self.queue, from..self.end, READ_MESSAGES as usize, READ_BYTES).await?;
            let Some(last) = messages.last() else { break };
            from = last.offset.next();
            found.extend(messages);
        }
        self.end = first;
        let bytes: usize = found.iter().map(|message| message.record.len()).sum();
        let average = (bytes / found.len().max(1)).max(1);
        self.step = (READ_BYTES / average).clamp(1, READ_MESSAGES as usize) as u64;
        Ok(found)
    }
}

/// When something was stored, its offset in its queue, topic and id, and where it is.
type Found = (UnixMillis, QueueOffset, TopicId, u128, Known);

impl<T> Shard<T> {
    /// Reads back what was known before the opening. Buckets and topics are known.
    pub(crate) async fn load_known_ids<R: Reader>(&mut self, reader: &R) -> Result<(), OpenError> {
        let window = |(&id, topic): (&TopicId, &crate::topic::Topic)| Some((id, topic.facts.deduplicate_millis?));
        let windows: BTreeMap<TopicId, i64> = self.topics.iter().filter_map(window).collect();
        let Some(&longest) = windows.values().max() else { return Ok(()) };
        let (now, ids_max) = (self.now, self.options.known_ids_max);
        let mut found = self.open_halves(reader, &windows, now.plus(-longest)).await?;
        let mut tails = VecDeque::new();
        for &id in windows.keys() {
            let queues = self.topics.get(&id).map_or(&[][..], |topic| &topic.queues);
            for (&queue, index) in queues.iter().zip(0..) {
                tails.push_back(Tail::new(reader, queue, Of::Topic(id, index)).await?);
            }
        }
        for bucket in self.timers.buckets.values() {
            tails.push_back(Tail::new(reader, bucket.queue, Of::Bucket).await?);
        }
        let bytes_max = self.options.known_ids_read_bytes_max;
        let (mut bytes_left, mut cut_short) = (bytes_max, false);
        let (mut not_read, mut unreadable) = (Vec::new(), 0);
        while let Some(mut tail) = tails.pop_front() {
            if tail.start >= tail.end {
                continue;
            }
            if found.len() >= ids_max || bytes_left == 0 {
                cut_short = true;
                break;
            }
            let messages = match tail.read(reader).await {
                Ok(messages) => messages,
                Err(ReadError::Closed) => return Err(ReadError::Closed.into()),
                Err(error) => {
                    unreadable += 1;
                    if unreadable <= TOLD_MAX {
                        not_read.push(format!("{}: {error}", self.name_of(tail.of)));
                    }
                    continue;
                }
            };
            let reach = match tail.of {
                Of::Topic(id, _) => windows.get(&id).copied().unwrap_or_default(),
                Of::Bucket => longest,
            };
            let is_known = |message: &&StoredMessage| now.since(message.store_time) < reach;
            let all_known = messages.first().is_none_or(|first| is_known(&first));
            let bytes: usize = messages.iter().map(|message| message.record.len()).sum();
            bytes_left = bytes_left.saturating_sub(bytes as u64);
            for message in messages.iter().filter(is_known) {
                found.extend(place_of(reader, tail.of, message, &windows, now).await?);
            }
            if all_known {
                tails.push_back(tail);
            }
        }
        // Oldest first, of an id too: the first one's place counts.
        found.sort_by_key(|&(at, offset, topic, id, _)| (at, offset, topic, id));
        for (at, _, topic, id, known) in found {
            if self.known_ids.find(topic, id).is_none() {
                cut_short |= self.known_ids.note(topic, id, Stored { at, known }, ids_max, |_, _| false) > 0;
            }
        }
        if unreadable > TOLD_MAX {
            not_read.push(format!("{} more queues cannot be read", unreadable - TOLD_MAX));
        }
        if cut_short {
            not_read
                .push(format!("no more than {ids_max} message ids and {bytes_max} bytes of messages are read back"));
        }
        self.known_ids.not_read = not_read;
        Ok(())
    }

    fn name_of(&self, of: Of) -> String {
        match of {
            Of::Topic(id, index) => {
                let name = self.topics.get(&id).map_or("", |topic| &topic.facts.name);
                format!("queue {index} of topic {name}")
            }
            Of::Bucket => "delayed messages".to_owned(),
        }
    }

    /// Half messages whose transactions have not ended, the hour that was last first.
    async fn open_halves<R: Reader>(
        &self,
        reader: &R,
        windows: &BTreeMap<TopicId, i64>,
        since: UnixMillis,
    ) -> Result<Vec<Found>, OpenError> {
        let mut found = Vec::new();
        for queue in self.halves.queues_since(since) {
            let mut range = keys::halves_in(queue);
            loop {
                let some = reader.scan(range.clone(), READ_KEYS).await?;
                for (key, state) in &some {
                    // What a newer broker wrote is left alone.
                    let half = state.image.as_ref().and_then(|image| halves::decode(image).ok());
                    let (Some(half), Some(place)) = (half, keys::half_of(key)) else { continue };
                    let is_known = windows.get(&half.topic).is_some_and(|&window| self.now.since(half.began) < window);
                    if let Some(id) = half_id_of(&half.message_id).filter(|_| is_known) {
                        found.push((half.began, place.offset, half.topic, id, Known::Half(place)));
                    }
                    if found.len() >= self.options.known_ids_max {
                        return Ok(found);
                    }
                }
                match some.last() {
                    Some((last, _)) if some.len() == READ_KEYS => {
                        range.start = Bytes::from([last, &[0][..]].concat());
                    }
                    _ => break,
                }
            }
        }
        Ok(found)
    }
}

/// What is known of a message that was read; nothing if it waited for a delivery timestamp and does not any more.
async fn place_of<R: Reader>(
    reader: &R,
    of: Of,
    message: &StoredMessage,
    windows: &BTreeMap<TopicId, i64>,
    now: UnixMillis,
) -> Result<Option<Found>, ReadError> {
    let &StoredMessage { queue, offset, store_time, .. } = message;
    let Some(id) = id_of(&message.record) else { return Ok(None) };
    let (topic, placed) = match of {
        Of::Topic(topic, index) => (topic, Placed::Now(index, offset)),
        Of::Bucket => {
            let Some(due) = delivery_timestamp(&message.record) else { return Ok(None) };
            let at = TimerAt { due, queue, offset };
            let timer =
                reader.get(&keys::timer(TimersOf::Messages, at)).await?.and_then(|state| Timer::decode(&state.image?));
            match timer {
                Some(Timer::Deliver(topic)) => (topic, Placed::Later(at)),
                Some(Timer::Check(_) | Timer::Forget(_) | Timer::Lite(_)) | None => return Ok(None),
            }
        }
    };
    let is_known = windows.get(&topic).is_some_and(|&window| now.since(store_time) < window);
    Ok(is_known.then_some((store_time, offset, topic, id, Known::Message(placed))))
}
