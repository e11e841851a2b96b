//! `martlet.v1.Admin`: looking at messages without consuming them, dead letters, moving groups. And those calls of
//! `apache.rocketmq.v2.Admin` that ask the same.

use crate::call::Call;
use crate::code::{self, Denied};
use crate::message_out::{Frames, not_handed_out};
use crate::proto::v1::{
    self, find_messages_request as find, peek_messages_request as peek, reset_offset_request as reset,
};
use crate::proto::v2::{self, Code, list_message_request::SearchKey};
use crate::resource::{full_name, group_name};
use crate::service::Front;
use crate::time;
use martlet_broker::{
    DeadLetterAt, FOUND_MAX, FindCursor, FindRequest, FoundMessage, LiteWhich, PeekFrom, ResetTo, Wanted,
};
use martlet_model::{QueueId, QueueOffset, TopicType, UnixMillis, names};
use prost::Message;

const FIND_DEFAULT: u32 = 100;
const PEEK_DEFAULT: u32 = 32;

impl Front {
    pub(crate) async fn find_messages(
        &self,
        call: &Call,
        request: v1::FindMessagesRequest,
    ) -> Result<v1::FindMessagesResponse, Denied> {
        let wanted = match request.wanted {
            Some(find::Wanted::MessageId(id)) => Wanted::Id(id),
            Some(find::Wanted::Key(key)) => Wanted::Key(key),
            None => return Err(Denied::new(Code::BadRequest, "neither message_id nor key is set")),
        };
        if request.topic.is_empty() && matches!(wanted, Wanted::Key(_)) {
            return Err(Denied::new(Code::BadRequest, "topic is empty; keys are looked up within a topic"));
        }
        let after = request.after.map(|after| {
            let v1::Place { topic, queue, offset } = after.last.unwrap_or_default();
            let seen = usize::try_from(after.seen).unwrap_or(usize::MAX).min(1 << 30);
            FindCursor { topic, queue, offset: QueueOffset(offset), seen }
        });
        let request = FindRequest {
            topic: Some(request.topic).filter(|topic| !topic.is_empty()),
            wanted,
            since: request.since_millis.map(UnixMillis),
            until: request.until_millis.map(UnixMillis),
            limit: count("limit", request.limit, FIND_DEFAULT)?,
            after,
        };
        let found = self.broker.find(request).await?;
        Ok(v1::FindMessagesResponse {
            status: Some(code::ok()),
            messages: self.shown(call, &found.messages)?,
            after: found.after.map(|after| v1::FindCursor {
                last: Some(v1::Place { topic: after.topic, queue: after.queue, offset: after.offset.0 }),
                seen: after.seen as u64,
            }),
        })
    }

    pub(crate) async fn peek_messages(
        &self,
        call: &Call,
        request: v1::PeekMessagesRequest,
    ) -> Result<v1::PeekMessagesResponse, Denied> {
        let from = match request.from {
            None => PeekFrom::Earliest,
            Some(peek::From::Offset(offset)) => PeekFrom::Offset(QueueOffset(offset)),
            Some(peek::From::SinceMillis(millis)) => PeekFrom::Since(UnixMillis(millis)),
            Some(peek::From::Places(places)) => {
                let places = places.places.iter().map(|place| (place.queue, QueueOffset(place.offset)));
                PeekFrom::Places(places.collect())
            }
        };
        let most = count("count", request.count, PEEK_DEFAULT)?;
        let peeked = self.broker.peek(&request.topic, request.queue, &from, most).await?;
        let next = peeked.next.iter().map(|&(queue, offset)| v1::Place {
            topic: request.topic.clone(),
            queue,
            offset: offset.0,
        });
        Ok(v1::PeekMessagesResponse {
            status: Some(code::ok()),
            messages: self.shown(call, &peeked.messages)?,
            next: next.collect(),
        })
    }

    pub(crate) async fn list_dead_letters(
        &self,
        call: &Call,
        request: v1::ListDeadLettersRequest,
    ) -> Result<v1::ListDeadLettersResponse, Denied> {
        names::check_group(&request.group)?;
        let limit = count("limit", request.limit, FIND_DEFAULT)?;
        if !request.message_id.is_empty() {
            let found = self.broker.dead_letters_by_id(&request.group, &request.message_id).await?;
            let messages = self.shown(call, &found.messages)?;
            return Ok(v1::ListDeadLettersResponse { status: Some(code::ok()), messages, next: None });
        }
        let list = self.broker.dead_letters(&request.group, request.from.map(letter_at), limit).await?;
        Ok(v1::ListDeadLettersResponse {
            status: Some(code::ok()),
            messages: self.shown(call, &list.messages)?,
            next: list.next.map(place),
        })
    }

    pub(crate) async fn resend_dead_letters(
        &self,
        _call: &Call,
        request: v1::ResendDeadLettersRequest,
    ) -> Result<v1::ResendDeadLettersResponse, Denied> {
        names::check_group(&request.group)?;
        if !(1..=FOUND_MAX).contains(&request.letters.len()) {
            let text = format!("letters has {} places, a request has 1 to {FOUND_MAX}", request.letters.len());
            return Err(Denied::new(Code::BadRequest, text));
        }
        let letters = request.letters.into_iter().map(letter_at).collect();
        let results = self.broker.resend(&request.group, letters).await?.into_iter().map(|resent| {
            let (status, to) = match resent.outcome {
                Ok(to) => (code::ok(), Some(place(to))),
                Err(refusal) => (code::status(&refusal), None),
            };
            v1::ResendResult { from: Some(place(resent.from)), status: Some(status), to }
        });
        Ok(v1::ResendDeadLettersResponse { status: Some(code::ok()), results: results.collect() })
    }

    pub(crate) async fn reset_offset(
        &self,
        _call: &Call,
        request: v1::ResetOffsetRequest,
    ) -> Result<v1::ResetOffsetResponse, Denied> {
        names::check_group(&request.group)?;
        let to = match request.to {
            Some(reset::To::Earliest(_)) => ResetTo::Earliest,
            Some(reset::To::Latest(_)) => ResetTo::Latest,
            Some(reset::To::TimeMillis(millis)) => ResetTo::Time(UnixMillis(millis)),
            Some(reset::To::Offset(offset)) => ResetTo::Offset(QueueOffset(offset)),
            None => return Err(Denied::new(Code::BadRequest, "it is not set where to reset the group to")),
        };
        if self.is_parent(&request.topic) || !request.lite_topic.is_empty() {
            return self.reset_in_lite(request, to).await;
        }
        let queues = self.broker.reset_offset(&request.group, &request.topic, request.queue, to).await?;
        let queues = queues.iter().map(|queue| v1::ResetQueue {
            queue: queue.queue,
            from_offset: queue.from.0,
            to_offset: queue.to.0,
        });
        Ok(v1::ResetOffsetResponse { status: Some(code::ok()), queues: queues.collect(), ..Default::default() })
    }

    fn is_parent(&self, topic: &str) -> bool {
        self.broker.known_topic(topic).is_some_and(|topic| topic.kind == TopicType::Lite)
    }

    async fn reset_in_lite(
        &self,
        request: v1::ResetOffsetRequest,
        to: ResetTo,
    ) -> Result<v1::ResetOffsetResponse, Denied> {
        if request.queue.is_some() {
            return Err(Denied::new(Code::BadRequest, "queue is set, and lite topics have names"));
        }
        let which = match &*request.lite_topic {
            "" => LiteWhich::All(request.after.map(QueueId)),
            name => {
                names::check_lite_topic(name)?;
                LiteWhich::Named(name)
            }
        };
        let moved = self.broker.reset_lite(&request.group, &request.topic, which, to, false).await?;
        let lite_topics = moved.topics.iter().map(|topic| v1::ResetLiteTopic {
            name: topic.name.to_string(),
            from_offset: topic.from.0,
            to_offset: topic.to.0,
        });
        Ok(v1::ResetOffsetResponse {
            status: Some(code::ok()),
            queues: Vec::new(),
            lite_topics: lite_topics.collect(),
            next: moved.next.map(|queue| queue.0),
        })
    }

    /// The same by the call of `apache.rocketmq.v2`, which knows times only.
    pub(crate) async fn reset_group_offset(
        &self,
        _call: &Call,
        request: v2::ResetGroupOffsetRequest,
    ) -> Result<v2::ResetGroupOffsetResponse, Denied> {
        let group = group_name(request.group)?;
        let time = request.reset_timestamp.as_ref().and_then(time::unix_millis);
        let time = time.ok_or_else(|| Denied::new(Code::BadRequest, "reset_timestamp is missing or not a time"))?;
        let topic = full_name("topic", request.topic)?;
        let to = ResetTo::Time(UnixMillis(time));
        if self.is_parent(&topic) {
            self.broker.reset_all_lite(&group, &topic, to, false, 0).await?;
        } else {
            self.broker.reset_offset(&group, &topic, None, to).await?;
        }
        Ok(v2::ResetGroupOffsetResponse { status: Some(code::ok()) })
    }

    /// Messages by id or key. The scroll id is the place the answer before ended at: `queue-offset-seen`.
    pub(crate) async fn query_message(
        &self,
        call: &Call,
        request: v2::ListMessageRequest,
    ) -> Result<v2::ListMessageResponse, Denied> {
        let topic = full_name("topic", request.topic)?;
        let wanted = match request.search_key {
            Some(SearchKey::MessageId(id)) => Wanted::Id(id),
            Some(SearchKey::MessageKey(key)) => Wanted::Key(key),
            _ => return Err(Denied::new(Code::BadRequest, "neither message_id nor message_key is set")),
        };
        let after = match request.scroll_id.filter(|scroll| !scroll.is_empty()) {
            Some(scroll) => Some(
                cursor(&topic, &scroll)
                    .ok_or_else(|| Denied::new(Code::BadRequest, "scroll_id is not one that an answer had"))?,
            ),
            None => None,
        };
        let most = u32::try_from(request.max_message_nums).unwrap_or(0);
        let request = FindRequest {
            topic: Some(topic),
            wanted,
            since: request.begin_timestamp.as_ref().and_then(time::unix_millis).map(UnixMillis),
            // Inclusive on the wire.
            until: request.end_timestamp.as_ref().and_then(time::unix_millis).map(|end| UnixMillis(end).plus(1)),
            limit: count("max_message_nums", most, FIND_DEFAULT)?,
            after,
        };
        let found = self.broker.find(request).await?;
        Ok(v2::ListMessageResponse {
            status: Some(code::ok()),
            messages: self.shown(call, &found.messages)?,
            scroll_id: found
                .after
                .map_or_else(String::new, |after| format!("{}-{}-{}", after.queue, after.offset.0, after.seen)),
        })
    }

    /// Messages as clients know them, without what only a hand-out has.
    fn shown(&self, call: &Call, messages: &[FoundMessage]) -> Result<Vec<v2::Message>, Denied> {
        let store_host = call.peer.local.to_string();
        messages.iter().map(|message| shown(message, &store_host)).collect()
    }
}

pub(crate) fn shown(message: &FoundMessage, store_host: &str) -> Result<v2::Message, Denied> {
    let damaged = |reason: String| {
        let (topic, queue, offset) = (&message.topic, message.queue, message.offset.0);
        let text = format!("the message at offset {offset} of queue {queue} of {topic} cannot be shown: {reason}");
        Denied::new(Code::InternalServerError, text)
    };
    let mut frames = Frames::with_capacity(256);
    frames.message(&not_handed_out(message), store_host).map_err(|error| damaged(error.to_string()))?;
    let frame = frames.finish().concat();
    let answer = v2::ReceiveMessageResponse::decode(frame.get(5..).unwrap_or_default());
    match answer.map(|answer| answer.content) {
        Ok(Some(v2::receive_message_response::Content::Message(message))) => Ok(message),
        Ok(_) => Err(damaged("it has no content".into())),
        Err(error) => Err(damaged(error.to_string())),
    }
}

pub(crate) fn count(field: &str, number: u32, default: u32) -> Result<usize, Denied> {
    match number {
        0 => Ok(default as usize),
        _ if number as usize <= FOUND_MAX => Ok(number as usize),
        _ => Err(Denied::new(Code::BadRequest, format!("{field} {number} is more than {FOUND_MAX}"))),
    }
}

fn cursor(topic: &str, scroll: &str) -> Option<FindCursor> {
    let mut parts = scroll.split('-');
    let (queue, offset, seen) = (parts.next()?, parts.next()?, parts.next()?);
    let cursor = FindCursor {
        topic: topic.to_owned(),
        queue: queue.parse().ok()?,
        offset: QueueOffset(offset.parse().ok()?),
        seen: seen.parse().ok().filter(|seen| *seen < 1 << 30)?,
    };
    parts.next().is_none().then_some(cursor)
}

fn place(at: DeadLetterAt) -> v1::Place {
    v1::Place { topic: at.topic, queue: at.queue, offset: at.offset.0 }
}

fn letter_at(place: v1::Place) -> DeadLetterAt {
    DeadLetterAt { topic: place.topic, queue: place.queue, offset: QueueOffset(place.offset) }
}
