//! Finding messages without consuming them: by id, by key, by place, by time.
//!
//! The index knows 64-bit hashes; what is found is read and its text compared, so a collision is never shown. There is
//! no limit to what can be reached: an answer that is full says where the next one goes on.

use crate::{Broker, Refusal, ReplyBudget};
use bytes::Bytes;
use martlet_model::record::{self, Field};
use martlet_model::{QueueId, QueueOffset, TopicConfig, TopicType, UnixMillis, limits, names};
use martlet_shard::{Command, Output, QueueFigures};
use martlet_store::{Reader, StoredMessage};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most messages in one answer.
pub const FOUND_MAX: usize = 1_000;
/// Most hits of one term that are looked at for one answer; further ones are reached by later answers.
const HITS_MAX: usize = 1 << 20;

/// What to look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The id that its client gave it.
    Id(String),
    /// One of its keys.
    Key(String),
}

/// A question for messages by what they are called.
#[derive(Clone, Debug)]
pub struct FindRequest {
    /// In this topic. `None`, for ids only: in all of them, those of dead letters too.
    pub topic: Option<String>,
    /// What to look for.
    pub wanted: Wanted,
    /// Stored in this time or later.
    pub since: Option<UnixMillis>,
    /// Stored before this time.
    pub until: Option<UnixMillis>,
    /// Most messages, 1 to [`FOUND_MAX`].
    pub limit: usize,
    /// Where the answer before ended.
    pub after: Option<FindCursor>,
}

/// Where an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindCursor {
    /// Topic of the last hit that was looked at.
    pub topic: String,
    /// Its queue by number.
    pub queue: u32,
    /// Its place.
    pub offset: QueueOffset,
    /// Hits of this topic up to and with it, for when it is gone meanwhile.
    pub seen: usize,
}

/// A message that was found.
#[derive(Clone, Debug)]
pub struct FoundMessage {
    /// Its topic.
    pub topic: Arc<str>,
    /// Number of its queue within the topic.
    pub queue: u32,
    /// Its place there.
    pub offset: QueueOffset,
    /// When it was stored.
    pub store_time: UnixMillis,
    /// The record.
    pub record: Bytes,
}

/// Messages that were found. At most [`FOUND_MAX`] and 4 MiB, but for a single larger one.
#[derive(Debug, Default)]
pub struct Found {
    /// The messages.
    pub messages: Vec<FoundMessage>,
    /// Where to go on, if there may be more.
    pub after: Option<FindCursor>,
    /// Their share of the byte budget: to be kept until they have been written.
    pub budget: ReplyBudget,
}

/// Where a look into a topic starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeekFrom {
    /// At the first message there is.
    Earliest,
    /// At this place, or the nearest there is after it.
    Offset(QueueOffset),
    /// At the first message stored at this time or later.
    Since(UnixMillis),
    /// At these places, by number of the queue; other queues are left out.
    Places(Vec<(u32, QueueOffset)>),
}

/// What a look into a topic showed.
#[derive(Debug, Default)]
pub struct Peeked {
    /// The messages, in the order they were stored.
    pub messages: Vec<FoundMessage>,
    /// Where to go on in each queue, by number; empty when the end was reached.
    pub next: Vec<(u32, QueueOffset)>,
    /// Their share of the byte budget.
    pub budget: ReplyBudget,
}

impl Broker {
    /// Messages by id or key, newest first within a topic.
    pub async fn find(&self, request: FindRequest) -> Result<Found, Refusal> {
        let limit = check_count(request.limit)?;
        let topics = match (&request.topic, &request.wanted) {
            (Some(topic), _) => vec![self.topic_to_look_into(topic)?],
            (None, Wanted::Id(_)) => self.all_topics(),
            (None, Wanted::Key(_)) => return Err(Refusal::TopicNotFound { topic: String::new() }),
        };
        let mut found = Found { budget: self.share_of_budget(limits::REPLY_BYTES_MAX).await, ..Found::default() };
        let mut bytes = 0;
        for topic in topics {
            if request.after.as_ref().is_some_and(|after| topic.name < after.topic) {
                continue;
            }
            if !self.find_in(&request, &topic, limit, &mut found, &mut bytes).await? {
                break;
            }
        }
        found.budget.shrink(bytes);
        Ok(found)
    }

    /// Looks into one topic; false when the answer is full.
    async fn find_in(
        &self,
        request: &FindRequest,
        topic: &TopicConfig,
        limit: usize,
        found: &mut Found,
        bytes: &mut usize,
    ) -> Result<bool, Refusal> {
        let (kind, text) = match &request.wanted {
            Wanted::Id(id) => (b'i', id),
            Wanted::Key(key) => (b'k', key),
        };
        let term = martlet_shard::term(topic.id, kind, text);
        let after = request.after.as_ref().filter(|after| after.topic == topic.name);
        // One more than fits, to know whether there are more; and all that were seen before once more.
        let wanted = (after.map_or(0, |after| after.seen) + limit + 1).min(HITS_MAX);
        let hits = self.inner.reader.find(term, wanted).await.map_err(read_failed)?;
        if hits.is_empty() {
            return Ok(true);
        }
        let queues = self.queues_of(topic).await?;
        // A lite topic is told apart by the shard's number of its queue: all have the number 0 within themselves.
        let is_lite = topic.kind == TopicType::Lite;
        let index_of = |id: QueueId| {
            let of_topic = queues.iter().find(|queue| queue.queue == id).map(|queue| queue.index);
            of_topic.or_else(|| u32::try_from(id.0).ok().filter(|_| is_lite))
        };
        // A message that has the same key twice is found twice.
        let mut known = BTreeSet::new();
        let hits: Vec<(QueueId, QueueOffset)> = hits.into_iter().filter(|&hit| known.insert(hit)).collect();
        let start = after.map_or(0, |after| {
            let place = hits.iter().position(|&(id, at)| index_of(id) == Some(after.queue) && at == after.offset);
            // Newer ones may have come in front of it; if it is gone itself, so is what was older.
            place.map_or(after.seen.min(hits.len()), |place| place + 1)
        });
        let name: Arc<str> = topic.name.as_str().into();
        for (n, &(id, offset)) in hits.iter().enumerate().skip(start) {
            let Some(queue) = index_of(id) else { continue };
            let cursor = FindCursor { topic: topic.name.clone(), queue, offset, seen: n + 1 };
            let Some(stored) = self.read_one(id, offset).await? else { continue };
            let in_time = request.since.is_none_or(|since| stored.store_time >= since)
                && request.until.is_none_or(|until| stored.store_time < until);
            if in_time && is_called(&stored.record, &request.wanted) {
                let with_it = *bytes + stored.record.len();
                let full = found.messages.len() >= limit || with_it > limits::REPLY_BYTES_MAX;
                if full && !found.messages.is_empty() {
                    return Ok(false);
                }
                *bytes = with_it;
                found.messages.push(found_message(&name, queue, stored));
            }
            found.after = Some(cursor);
        }
        if hits.len() >= wanted {
            return Ok(false);
        }
        found.after = None;
        Ok(true)
    }

    /// Messages of a topic from a place or time on, of one queue or of all of them, without consuming any.
    pub async fn peek(
        &self,
        topic: &str,
        queue: Option<u32>,
        from: &PeekFrom,
        count: usize,
    ) -> Result<Peeked, Refusal> {
        let count = check_count(count)?;
        let topic = self.topic_to_look_into(topic)?;
        let mut queues = self.queues_of(&topic).await?;
        if let Some(wanted) = queue {
            queues.retain(|queue| queue.index == wanted);
            if queues.is_empty() {
                let rule = "is not a queue of this topic";
                return Err(Refusal::Setting { field: "queue", value: wanted.to_string(), rule });
            }
        }
        let mut peeked = Peeked { budget: self.share_of_budget(limits::REPLY_BYTES_MAX).await, ..Peeked::default() };
        let mut starts: Vec<(u32, QueueOffset, QueueOffset)> = Vec::new();
        let mut all: Vec<StoredMessage> = Vec::new();
        for figures in &queues {
            let start = match from {
                PeekFrom::Earliest => figures.min,
                PeekFrom::Offset(offset) => *offset,
                PeekFrom::Since(time) => self.offset_at(figures.queue, *time).await?,
                PeekFrom::Places(places) => match places.iter().find(|(index, _)| *index == figures.index) {
                    Some((_, offset)) => *offset,
                    None => continue,
                },
            };
            let start = start.clamp(figures.min, figures.max);
            starts.push((figures.index, start, figures.max));
            let range = start..figures.max;
            let more = self.inner.reader.messages(figures.queue, range, count, limits::REPLY_BYTES_MAX).await;
            all.extend(more.map_err(read_failed)?);
            // No more than the answer can hold is kept from queue to queue.
            all.sort_by_key(|message| (message.store_time, message.queue, message.offset));
            let mut bytes = 0;
            let fits = all.iter().take(count).take_while(|message| {
                bytes += message.record.len();
                bytes <= limits::REPLY_BYTES_MAX
            });
            let fits = fits.count().max(1);
            all.truncate(fits);
        }
        let name: Arc<str> = topic.name.as_str().into();
        let index_of = |id: QueueId| queues.iter().find(|queue| queue.queue == id).map(|queue| queue.index);
        let mut bytes = 0;
        for message in all {
            let Some(index) = index_of(message.queue) else { continue };
            bytes += message.record.len();
            if let Some(place) = starts.iter_mut().find(|(queue, ..)| *queue == index) {
                place.1 = message.offset.next();
            }
            peeked.messages.push(found_message(&name, index, message));
        }
        // Places that repair dropped are not there to be shown: nothing found is the end.
        let at_end = peeked.messages.is_empty() || starts.iter().all(|(_, at, end)| at >= end);
        if !at_end {
            peeked.next = starts.iter().map(|&(index, at, _)| (index, at)).collect();
        }
        peeked.budget.shrink(bytes);
        Ok(peeked)
    }

    /// A topic by name, `%DLQ%group` too. Never makes one.
    pub(crate) fn topic_to_look_into(&self, name: &str) -> Result<Arc<TopicConfig>, Refusal> {
        names::check_existing_topic(name)?;
        self.known_topic(name).ok_or_else(|| Refusal::TopicNotFound { topic: name.to_owned() })
    }

    /// Every topic, in order of names, those of dead letters included.
    pub(crate) fn all_topics(&self) -> Vec<Arc<TopicConfig>> {
        let dead = self.groups().into_iter().map(|group| format!("{}{}", names::DEAD_LETTER_PREFIX, group.name));
        let mut topics: Vec<_> = dead.filter_map(|name| self.known_topic(&name)).collect();
        topics.extend(self.topics());
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        topics
    }

    pub(crate) async fn queues_of(&self, topic: &TopicConfig) -> Result<Vec<QueueFigures>, Refusal> {
        match self.ask(|token| Command::DescribeTopic { topic: topic.id, token }).await? {
            Output::Queues(figures) => Ok(figures),
            other => Err(self.unexpected(other, &topic.name, "")),
        }
    }

    pub(crate) async fn offset_at(&self, queue: QueueId, time: UnixMillis) -> Result<QueueOffset, Refusal> {
        martlet_shard::offset_at(&self.inner.reader, queue, time).await.map_err(read_failed)
    }

    pub(crate) async fn read_one(&self, queue: QueueId, offset: QueueOffset) -> Result<Option<StoredMessage>, Refusal> {
        let found = self.inner.reader.messages(queue, offset..offset.next(), 1, 1).await;
        found.map(|mut found| found.pop()).map_err(read_failed)
    }
}

fn check_count(count: usize) -> Result<usize, Refusal> {
    match count {
        1..=FOUND_MAX => Ok(count),
        _ => Err(Refusal::Setting { field: "count", value: count.to_string(), rule: "is not from 1 to 1000" }),
    }
}

pub(crate) fn found_message(topic: &Arc<str>, queue: u32, stored: StoredMessage) -> FoundMessage {
    let StoredMessage { offset, store_time, record, .. } = stored;
    FoundMessage { topic: topic.clone(), queue, offset, store_time, record }
}

pub(crate) fn read_failed(error: martlet_store::ReadError) -> Refusal {
    Refusal::ReadFailed { reason: error.to_string() }
}

/// Whether a message really is what its hash promised.
fn is_called(record: &[u8], wanted: &Wanted) -> bool {
    record::fields(record).map_while(Result::ok).any(|field| match (field, wanted) {
        (Field::MessageId(found), Wanted::Id(id)) => found == id,
        (Field::Key(found), Wanted::Key(key)) => found == key,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_model::record::RecordWriter;

    #[test]
    fn a_message_with_another_name_behind_the_same_hash_is_not_shown() {
        let mut writer = RecordWriter::with_capacity(64);
        writer.field(Field::MessageId("a")).field(Field::Key("b")).field(Field::Key("c"));
        let record = writer.finish(b"x");
        for (wanted, is) in [
            (Wanted::Id("a".into()), true),
            (Wanted::Id("b".into()), false),
            (Wanted::Key("a".into()), false),
            (Wanted::Key("b".into()), true),
            (Wanted::Key("c".into()), true),
            (Wanted::Key("b c".into()), false),
        ] {
            assert_eq!(is_called(&record, &wanted), is, "{wanted:?}");
        }
        assert!(!is_called(b"", &Wanted::Id("a".into())));
    }
}
