//! Dead letters that were resent: a bit per offset, and putting a dead letter back into the topic it came from.
//!
//! The message is appended to its topic and its bit is set in one batch, so that a crash neither loses nor repeats it.
//! Bits are kept in memory, 1,024 to a page of 128 bytes, for queues of which something was resent; retention takes them
//! along with the messages.

use crate::answer::{Output, Refused, ResendError};
use crate::codec::CodecError;
use crate::command::{DeadLetterPlace, Incoming};
use crate::keys;
use crate::lite::lite_topic_of;
use crate::load::Load;
use crate::ordered::message_group_of;
use crate::resident::Purpose;
use crate::shard::{Shard, Work};
use bytes::Bytes;
use martlet_model::record::{self, Field};
use martlet_model::{QueueId, QueueOffset, TopicId};
use martlet_store::{Op, ReadError, Room, StoredMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Offsets per page.
const PAGE: u64 = 1024;
/// Bytes of a page: a bit per offset.
const PAGE_BYTES: usize = PAGE as usize / 8;

/// Which messages of which queues were resent.
#[derive(Debug, Default)]
pub(crate) struct Resent {
    pages: BTreeMap<(QueueId, u64), [u8; PAGE_BYTES]>,
    /// Being resent: asked for and not yet in a batch that was handed to the store.
    under_way: BTreeSet<(QueueId, QueueOffset)>,
}

impl Resent {
    /// Takes over what the store kept under a key.
    pub fn load(&mut self, key: &Bytes, image: &[u8]) -> Result<(), CodecError> {
        let damaged = || CodecError { what: "resent dead letters" };
        let numbers = keys::numbers(key).ok_or_else(damaged)?;
        let (&[queue, page], bits) = (&numbers[..], image.try_into().map_err(|_| damaged())?) else {
            return Err(damaged());
        };
        self.pages.insert((QueueId(queue), page), bits);
        Ok(())
    }

    pub fn contains(&self, queue: QueueId, offset: QueueOffset) -> bool {
        let (page, byte, bit) = place(offset);
        self.pages.get(&(queue, page)).is_some_and(|bits| bits.get(byte).is_some_and(|bits| bits & bit != 0))
    }

    /// Whether all of an offset's page was resent, so that nobody needs to look at each.
    fn has_all_of_page(&self, queue: QueueId, offset: QueueOffset) -> bool {
        self.pages.get(&(queue, offset.0 / PAGE)).is_some_and(|bits| bits.iter().all(|&byte| byte == u8::MAX))
    }

    /// Notes one, and gives the key and image to be written.
    fn insert(&mut self, queue: QueueId, offset: QueueOffset) -> (Bytes, Bytes) {
        let (page, byte, bit) = place(offset);
        let bits = self.pages.entry((queue, page)).or_insert([0; PAGE_BYTES]);
        if let Some(bits) = bits.get_mut(byte) {
            *bits |= bit;
        }
        (keys::resent(queue, page), Bytes::copy_from_slice(&bits[..]))
    }

    /// How many of a range were resent. Costs what its pages cost.
    pub fn count(&self, queue: QueueId, range: Range<QueueOffset>) -> u64 {
        let pages = self.pages.range((queue, range.start.0 / PAGE)..=(queue, range.end.0 / PAGE));
        let in_range = |page: u64, bits: &[u8; PAGE_BYTES]| -> u64 {
            if page * PAGE >= range.start.0 && (page + 1) * PAGE <= range.end.0 {
                return bits.iter().map(|byte| u64::from(byte.count_ones())).sum();
            }
            let inside = |n: &u64| (range.start.0..range.end.0).contains(&(page * PAGE + n));
            let is_set = |n: &u64| bits.get((n / 8) as usize).is_some_and(|byte| byte >> (n % 8) & 1 == 1);
            (0..PAGE).filter(inside).filter(is_set).count() as u64
        };
        pages.map(|(&(_, page), bits)| in_range(page, bits)).sum()
    }

    /// Forgets a queue's pages that lie wholly below an offset, and gives their keys.
    pub fn trim(&mut self, queue: QueueId, below: QueueOffset) -> Vec<Bytes> {
        let gone: Vec<u64> =
            self.pages.range((queue, 0)..(queue, below.0 / PAGE)).map(|(&(_, page), _)| page).collect();
        for &page in &gone {
            self.pages.remove(&(queue, page));
        }
        gone.into_iter().map(|page| keys::resent(queue, page)).collect()
    }

    /// The open batch was handed to the store: what it has is known from now on.
    pub fn batch_taken(&mut self) {
        let mut under_way = std::mem::take(&mut self.under_way);
        under_way.retain(|&(queue, offset)| !self.contains(queue, offset));
        self.under_way = under_way;
    }
}

fn place(offset: QueueOffset) -> (u64, usize, u8) {
    (offset.0 / PAGE, (offset.0 % PAGE / 8) as usize, 1 << (offset.0 % 8))
}

impl<T> Shard<T> {
    /// Offsets of a queue from `from` on that were not resent, at most `limit`. All of them if it holds dead letters only.
    pub(crate) fn unresolved(&mut self, topic: TopicId, index: u32, from: QueueOffset, limit: u32, token: T) {
        let Some(queue) = self.queue_of(topic, index) else {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        };
        let (id, mut at, end) = (queue.id, from.max(queue.min), queue.durable);
        let mut found = Vec::new();
        while at < end && found.len() < limit as usize {
            if self.resent.has_all_of_page(id, at) {
                at = QueueOffset((at.0 / PAGE + 1) * PAGE);
                continue;
            }
            if !self.resent.contains(id, at) {
                found.push(at);
            }
            at = at.next();
        }
        self.reply(token, Output::Offsets(id, found));
    }

    fn queue_of(&self, topic: TopicId, index: u32) -> Option<&crate::queue::Queue> {
        let id = self.topics.get(&topic)?.queues.get(index as usize)?;
        self.queues.get(id)
    }

    /// Asked to put a dead letter back.
    pub(crate) fn resend(&mut self, place: DeadLetterPlace, token: T) {
        let Some(queue) = self.queue_of(place.topic, place.index) else {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        };
        let (id, offset) = (queue.id, place.offset);
        if offset < queue.min || offset >= queue.durable {
            return self.reply(token, Output::Resent(Err(ResendError::NotThere)));
        }
        if self.resent.contains(id, offset) {
            return self.reply(token, Output::Resent(Err(ResendError::AlreadyResent)));
        }
        if !self.resent.under_way.insert((id, offset)) {
            return self.reply(token, Output::Resent(Err(ResendError::UnderWay)));
        }
        self.want(Load::Message(id, offset), Purpose::Resend { queue: id, offset, token });
    }

    /// The dead letter has been read.
    pub(crate) fn resend_loaded(
        &mut self,
        queue: QueueId,
        offset: QueueOffset,
        token: T,
        result: Result<Option<StoredMessage>, ReadError>,
    ) {
        let message = match result {
            Ok(Some(message)) => message,
            Ok(None) => return self.resend_failed(queue, offset, token, Output::Resent(Err(ResendError::NotThere))),
            Err(error) => {
                let refused = Refused::ReadFailed(error.to_string());
                return self.resend_failed(queue, offset, token, Output::Refused(refused));
            }
        };
        let origin = record::find(&message.record, |field| match field {
            Field::DeadLetterTopic(topic) => Some(topic),
            _ => None,
        });
        let Some(origin) = origin else {
            return self.resend_failed(queue, offset, token, Output::Resent(Err(ResendError::NoDeadLetter)));
        };
        let into = self.topics.values().find(|topic| &*topic.facts.name == origin).map(|topic| topic.facts.id);
        match into {
            Some(into) => self.handle(Work::Resend { queue, offset, record: message.record, into, token }),
            None => {
                let gone = ResendError::TopicGone { topic: origin.into() };
                self.resend_failed(queue, offset, token, Output::Resent(Err(gone)));
            }
        }
    }

    /// Its topic's queue is resident: both sides of the move go into the open batch.
    pub(crate) fn append_resent(
        &mut self,
        queue: QueueId,
        offset: QueueOffset,
        record: &Bytes,
        into: TopicId,
        token: T,
    ) {
        if let Room::OnlyProgress(shortage) = self.room {
            let refused = Output::Refused(shortage.into());
            return self.resend_failed(queue, offset, token, refused);
        }
        let message_group = message_group_of(record);
        let lite_topic = self.lite_parent(into).and_then(|_| lite_topic_of(record));
        let target = match self.lite_parent(into) {
            Some(_) => None,
            None => self.topics.get_mut(&into).and_then(|topic| {
                let target = topic.queue_for_message(message_group, record)?;
                if message_group.is_none() {
                    topic.next_send = topic.next_send.wrapping_add(1);
                }
                Some(target)
            }),
        };
        let not_writable = Output::Refused(Refused::NotWritable);
        // Deleted while the message was being read: nothing is left to settle.
        let is_there = self.queues.get(&queue).is_some_and(|queue| queue.min <= offset);
        if !is_there || target.is_none() && lite_topic.is_none() {
            return self.resend_failed(queue, offset, token, not_writable);
        }
        let Some((record, terms)) = original(record, into) else {
            let damaged = Output::Refused(Refused::ReadFailed("the dead letter's record is malformed".into()));
            return self.resend_failed(queue, offset, token, damaged);
        };
        // A lite topic that has ended since is made again.
        let target = target.or_else(|| Some(self.lite_queue(into, lite_topic.clone()?)));
        let Some(target) = target else { return self.resend_failed(queue, offset, token, not_writable) };
        let Some((index, at)) = self.append(target, Incoming { record, terms, message_group, lite_topic }) else {
            return self.resend_failed(queue, offset, token, not_writable);
        };
        let (key, image) = self.resent.insert(queue, offset);
        self.ops.push(Op::Put { key, image, keep_until: None });
        self.reply(token, Output::Resent(Ok((into, index, at))));
    }

    pub(crate) fn resend_failed(&mut self, queue: QueueId, offset: QueueOffset, token: T, output: Output) {
        self.resent.under_way.remove(&(queue, offset));
        self.reply(token, output);
    }
}

/// The message as it was before it became a dead letter, and what it is found by.
fn original(record: &Bytes, topic: TopicId) -> Option<(Bytes, Vec<martlet_store::Term>)> {
    let mut writer = record::RecordWriter::with_capacity(record.len());
    let mut terms = Vec::new();
    // A dead letter of a dead letter has two origins; the newer is in front, and only that is undone.
    let (mut topic_seen, mut id_seen) = (false, false);
    for field in record::fields(record) {
        let field = field.ok()?;
        match field {
            Field::DeadLetterTopic(_) if !std::mem::replace(&mut topic_seen, true) => continue,
            Field::DeadLetterMessageId(_) if !std::mem::replace(&mut id_seen, true) => continue,
            Field::MessageId(id) => terms.push(crate::term(topic, b'i', id)),
            Field::Key(key) => terms.push(crate::term(topic, b'k', key)),
            _ => {}
        }
        writer.field(field);
    }
    terms.truncate(64);
    Some((writer.finish(&record::body(record).ok()?), terms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resent_offsets_are_told_from_others_counted_and_trimmed_by_whole_pages() {
        let mut resent = Resent::default();
        let queue = QueueId(3);
        for offset in [0, 7, 8, 1023, 1024, 5000] {
            resent.insert(queue, QueueOffset(offset));
        }
        let (key, image) = resent.insert(queue, QueueOffset(9));
        assert!(resent.contains(queue, QueueOffset(1023)) && !resent.contains(queue, QueueOffset(1022)));
        assert!(!resent.contains(QueueId(4), QueueOffset(7)));
        let count = |resent: &Resent, from, to| resent.count(queue, QueueOffset(from)..QueueOffset(to));
        assert_eq!((count(&resent, 0, 6000), count(&resent, 8, 1024), count(&resent, 1, 8)), (7, 3, 1));
        let mut loaded = Resent::default();
        loaded.load(&key, &image).unwrap();
        assert_eq!(count(&loaded, 0, 6000), 5, "one page, as it was written");
        assert!(loaded.load(&key, &image[1..]).is_err());
        assert_eq!(resent.trim(queue, QueueOffset(1025)), [keys::resent(queue, 0)]);
        assert_eq!(count(&resent, 0, 6000), 2);
    }
}
