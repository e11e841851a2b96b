//! Messages by id, key and place, and places by time.

use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::{FieldError, Fields};
use crate::front::Front;
use crate::link::Link;
use crate::message_out::{self, Facts};
use bytes::BytesMut;
use martlet_broker::{FindRequest, FoundMessage, OffsetOf, PeekFrom, Wanted};
use martlet_model::{PhysicalOffset, UnixMillis};

/// Messages that one question is answered with, at most.
const QUERIED_MAX: i32 = 64;

impl Front {
    /// Appends a message that was found.
    pub(super) async fn show(
        &self,
        link: &Link,
        out: &mut BytesMut,
        message: &FoundMessage,
    ) -> Result<PhysicalOffset, Denied> {
        let queue = self.broker.queue_id(&message.topic, message.queue).await?;
        let physical = PhysicalOffset::of(queue, message.offset)
            .ok_or_else(|| Denied::new(response::SYSTEM_ERROR, "the message has no physical offset"))?;
        let facts = Facts {
            topic: &message.topic,
            queue: message.queue,
            offset: message.offset.0,
            physical_offset: physical.0,
            stored: message.store_time.0,
            reconsumed: 0,
            store_host: self.addresses.store_host(link),
            cluster: self.broker.cluster_name(),
            is_half: false,
            more: &[],
        };
        message_out::encode(out, &message.record, &facts)
            .map_err(|error| Denied::new(response::SYSTEM_ERROR, error.to_string()))?;
        Ok(physical)
    }

    /// One message by its physical offset.
    pub(crate) async fn view_message(&self, link: &Link, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let at = PhysicalOffset(fields.i64("offset")?);
        let found = self.broker.message_at(at).await?;
        let Some(message) = found.filter(|message| !self.is_of_other_topic(fields, &message.topic)) else {
            return Err(Denied::new(response::SYSTEM_ERROR, format!("no message is at offset {}", at.0)));
        };
        let mut body = BytesMut::new();
        self.show(link, &mut body, &message).await?;
        Ok(Answer { body: body.freeze(), ..Answer::done() })
    }

    /// Messages by key or id.
    pub(crate) async fn query_messages(&self, link: &Link, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (topic, key) = (fields.text("topic")?, fields.text("key")?);
        let most = fields.i32("maxNum")?.clamp(1, QUERIED_MAX) as usize;
        let (since, until) = (fields.i64("beginTimestamp")?, fields.i64("endTimestamp")?);
        if fields.optional("indexType") == Some("T") {
            let remark = "indexType T is not supported: messages are found by key and by id, not by tag";
            return Err(Denied::new(response::INVALID_PARAMETER, remark));
        }
        let by_id = fields.flag("_UNIQUE_KEY_QUERY") || fields.optional("indexType") == Some("U");
        let wanted = match by_id {
            true => vec![Wanted::Id(key.to_owned())],
            // Ids are keys to those who ask.
            false => vec![Wanted::Key(key.to_owned()), Wanted::Id(key.to_owned())],
        };
        let mut body = BytesMut::new();
        let mut newest = None;
        for wanted in wanted {
            let request = FindRequest {
                topic: Some(topic.to_owned()),
                wanted,
                since: Some(UnixMillis(since)),
                until: Some(UnixMillis(until.saturating_add(1))),
                limit: most,
                after: None,
            };
            let mut found = self.broker.find(request).await?;
            // Of the newest, the oldest first.
            found.messages.reverse();
            found.messages.sort_by_key(|message| message.store_time);
            for message in &found.messages {
                let physical = self.show(link, &mut body, message).await?;
                newest = newest.max(Some((message.store_time.0, physical.0)));
            }
            if newest.is_some() {
                break;
            }
        }
        let Some((stored, physical)) = newest else {
            return Err(Denied::new(response::QUERY_NOT_FOUND, "no message has this key"));
        };
        let answer = Answer { body: body.freeze(), ..Answer::done() };
        Ok(answer.with("indexLastUpdateTimestamp", stored).with("indexLastUpdatePhyoffset", physical))
    }

    async fn offset_answer(&self, fields: &Fields<'_>, which: OffsetOf) -> Result<Answer, Denied> {
        let (topic, queue) = (fields.text("topic")?, fields.queue()?);
        let offset = self.broker.offset_of(topic, queue, which).await?;
        Ok(Answer::done().with("offset", offset))
    }

    /// The next offset of a queue.
    pub(crate) async fn max_offset(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        self.offset_answer(fields, OffsetOf::End).await
    }

    /// The first offset of a queue.
    pub(crate) async fn min_offset(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        self.offset_answer(fields, OffsetOf::Beginning).await
    }

    /// The first offset stored at a time or later; of the upper boundary, behind the last one stored at it or earlier.
    pub(crate) async fn offset_by_time(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let time = fields.i64("timestamp")?;
        let which = match fields.optional("boundaryType").map(str::to_ascii_lowercase).as_deref() {
            None | Some("lower") => OffsetOf::Time(UnixMillis(time)),
            Some("upper") => OffsetOf::TimeUpper(UnixMillis(time)),
            Some(other) => {
                let (name, value) = ("boundaryType", other.chars().take(64).collect());
                return Err(FieldError::Value { name, value, expected: "lower or upper" }.into());
            }
        };
        self.offset_answer(fields, which).await
    }

    /// When the first message of a queue was stored; -1: it has none.
    pub(crate) async fn earliest_time(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (topic, queue) = (fields.text("topic")?, fields.queue()?);
        let peeked = self.broker.peek(topic, Some(queue), &PeekFrom::Earliest, 1).await?;
        let stored = peeked.messages.first().map_or(-1, |message| message.store_time.0);
        Ok(Answer::done().with("timestamp", stored))
    }
}
