//! Sends, and recalls of what was sent.

use crate::answer::{Answer, Denied};
use crate::clients::PRODUCER_GROUP_BYTES_MAX;
use crate::codec::code::{request, response};
use crate::codec::fields::{FieldError, Fields};
use crate::codec::ids;
use crate::codec::message::decode_batch;
use crate::connection::Link;
use crate::front::Front;
use crate::message_in::{self, Accepted, Request};
use crate::message_out::REGION;
use crate::route::CREATING_TOPIC;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use martlet_broker::{Refusal, SendRequest, SentMessage, TopicSettings};
use martlet_model::{TopicConfig, TopicType, UnixMillis, limits, names};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Messages of a batch. Our own limit: 4 MiB hold so many of 256 bytes.
const BATCH_MESSAGES_MAX: usize = 16_384;
/// First word of a recall handle.
const HANDLE_VERSION: &str = "v1";

/// What a send says besides its messages.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub group: &'a str,
    pub topic: &'a str,
    pub default_topic: &'a str,
    pub default_queues: i32,
    pub queue: i32,
    pub sys_flag: i32,
    pub born: i64,
    pub flag: i32,
    pub properties: &'a str,
    pub is_batch: bool,
}

/// What the fields of a head are called, in the order of [`Head::read`].
type HeadNames = [&'static str; 10];

const LONG_NAMES: HeadNames = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "batch",
];
/// Those of version 2.
const SHORT_NAMES: HeadNames = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "m"];

impl<'a> Head<'a> {
    /// That of a request with this code.
    pub fn read(code: i32, fields: &Fields<'a>) -> Result<Self, FieldError> {
        let names = match code {
            request::SEND_MESSAGE | request::SEND_REPLY_MESSAGE => LONG_NAMES,
            _ => SHORT_NAMES,
        };
        let [group, topic, default_topic, default_queues, queue, sys_flag, born, flag, properties, batch] = names;
        Ok(Self {
            group: fields.text(group)?,
            topic: fields.text(topic)?,
            default_topic: fields.text(default_topic)?,
            default_queues: fields.i32(default_queues)?,
            queue: fields.i32(queue)?,
            sys_flag: fields.i32(sys_flag)?,
            born: fields.i64(born)?,
            flag: fields.i32(flag)?,
            properties: fields.optional(properties).unwrap_or(""),
            is_batch: fields.flag(batch),
        })
    }
}

impl Front {
    /// Stores messages; answers once they are durable.
    pub(crate) async fn send(
        &self,
        link: &Arc<Link>,
        code: i32,
        fields: &Fields<'_>,
        body: Bytes,
    ) -> Result<Answer, Denied> {
        let mut head = Head::read(code, fields)?;
        head.is_batch |= code == request::SEND_BATCH_MESSAGE;
        if head.group.len() > PRODUCER_GROUP_BYTES_MAX {
            let remark =
                format!("producer group has {} bytes, the limit is {PRODUCER_GROUP_BYTES_MAX}", head.group.len());
            return Err(Denied::illegal(remark));
        }
        names::check_existing_topic(head.topic).map_err(|error| Denied::illegal(error.to_string()))?;
        let topic = self.topic_to_send_to(&head).await?;
        let queue = queue_of(&head, &topic)?;
        let now = martlet_broker::wall_clock();
        let request = Request {
            now,
            peer: &link.peer_text,
            kind: topic.kind,
            queue,
            sys_flag: head.sys_flag,
            born: head.born,
            is_batch: head.is_batch,
            delay_max: self.broker.options().delay_max_millis,
            names_bytes: self.broker.cluster_name().len(),
        };
        let new_id = || new_unique_key(self.addresses.store_host(link), now);
        let mut accepted = Vec::new();
        if head.is_batch {
            if body.len() > limits::BODY_BYTES_MAX {
                let (bytes, max) = (body.len(), limits::BODY_BYTES_MAX);
                return Err(Denied::illegal(format!("the batch has {bytes} bytes, the limit is {max}")));
            }
            let batch = decode_batch(&body, BATCH_MESSAGES_MAX).map_err(|error| Denied::illegal(error.to_string()))?;
            if batch.is_empty() {
                return Err(Denied::illegal("the batch has no message"));
            }
            for one in &batch {
                accepted.push(message_in::accept(&request, one.properties, one.flag, one.body, new_id)?);
            }
        } else {
            accepted.push(message_in::accept(&request, head.properties, head.flag, &body, new_id)?);
        }
        drop(body);
        let id = accepted.first().map(|first| first.message.message_id.clone()).unwrap_or_default();
        let timer = accepted.first().filter(|first| first.has_timer).and_then(|first| first.message.deliver_at);
        let messages = accepted.into_iter().map(|Accepted { message, .. }| message).collect();
        let sent = self.broker.send(SendRequest { topic: head.topic.to_owned(), messages, deadline: None }).await?;
        self.sent(link, &topic, queue, &sent, id, timer).await
    }

    /// The topic of a send; made if it is missing and its sender may have it made. It takes what these clients send, of
    /// whatever type: they know no types of topics.
    async fn topic_to_send_to(&self, head: &Head<'_>) -> Result<Arc<TopicConfig>, Denied> {
        if let Some(topic) = self.broker.known_topic(head.topic) {
            return Ok(topic);
        }
        if head.topic != names::TRACE_TOPIC && head.default_topic != CREATING_TOPIC {
            return Err(Refusal::TopicNotFound { topic: head.topic.to_owned() }.into());
        }
        let asked = u32::try_from(head.default_queues).unwrap_or(0);
        let queues = Some(asked.clamp(1, limits::TOPIC_QUEUES_DEFAULT));
        let settings = TopicSettings { kind: Some(TopicType::Mixed), queues, ..TopicSettings::default() };
        let topic = self.broker.topic_or(head.topic, &settings).await?;
        tracing::info!(topic = head.topic, queues = topic.write_queues, "a send has created a topic");
        Ok(topic)
    }

    /// What a sender is told.
    async fn sent(
        &self,
        link: &Link,
        topic: &TopicConfig,
        chosen: Option<u32>,
        sent: &[SentMessage],
        id: String,
        timer: Option<UnixMillis>,
    ) -> Result<Answer, Denied> {
        let host = self.addresses.store_host(link);
        let mut offset_ids = String::with_capacity(33 * sent.len());
        for at in self.broker.physical_offsets(topic, sent).await? {
            if !offset_ids.is_empty() {
                offset_ids.push(',');
            }
            ids::put_offset_id(&mut offset_ids, host, at);
        }
        let first = sent.first().cloned().unwrap_or_default();
        // What waits is in none of the topic's queues yet; clients want the one it was meant for.
        let queue = match first.waits_at {
            Some(_) => chosen.unwrap_or(0),
            // To clients every lite topic has one queue.
            None if topic.kind == TopicType::Lite => 0,
            None => first.queue,
        };
        let handle = timer.zip(first.recall_handle.as_ref()).map(|(at, handle)| {
            let text = format!("{HANDLE_VERSION} {} {} {} {handle}", topic.name, self.broker.broker_name(), at.0);
            URL_SAFE.encode(text)
        });
        let mut answer = Answer::done()
            .with("msgId", offset_ids)
            .with("queueId", queue)
            .with("queueOffset", first.offset)
            .with("transactionId", id)
            .with("MSG_REGION", REGION)
            .with("TRACE_ON", true);
        if let Some(handle) = handle {
            answer = answer.with("recallHandle", handle);
        }
        Ok(answer)
    }

    /// Stops a message that waits for its time.
    pub(crate) async fn recall(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let topic = fields.text("topic")?;
        let text = fields.text("recallHandle")?;
        names::check_topic(topic)?;
        let bad = |what: &str| Denied::new(response::ILLEGAL_OPERATION, format!("field recallHandle {what}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| bad("is not base64"))?;
        let handle = String::from_utf8(bytes).map_err(|_| bad("is not one that this broker gives out"))?;
        let parts: Vec<&str> = handle.split(' ').collect();
        let [HANDLE_VERSION, named, broker, _, inner] = parts[..] else {
            return Err(bad("is not one that this broker gives out"));
        };
        if named != topic {
            return Err(bad("was given out for another topic"));
        }
        if broker != self.broker.broker_name() {
            return Err(bad("was given out by another broker"));
        }
        let id = self.broker.recall(topic, inner).await?;
        Ok(Answer::done().with("msgId", id))
    }
}

/// The queue that a send names; `None`: the broker's choice.
fn queue_of(head: &Head<'_>, topic: &TopicConfig) -> Result<Option<u32>, Denied> {
    let count = topic.read_queues.max(topic.write_queues);
    match u32::try_from(head.queue) {
        Err(_) => Ok(None),
        Ok(queue) if queue < count => Ok(Some(queue)),
        Ok(queue) => {
            let remark = format!("queueId {queue} is not one of topic {}, which has {count} queues", topic.name);
            Err(Denied::new(response::INVALID_PARAMETER, remark))
        }
    }
}

/// An id for a message that came without one: as clients make theirs, of address, process, time and a counter.
fn new_unique_key(host: std::net::SocketAddr, now: UnixMillis) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ip = match host.ip() {
        std::net::IpAddr::V4(ip) => u32::from(ip),
        std::net::IpAddr::V6(ip) => u128::from(ip) as u32,
    };
    let (process, count) = (std::process::id() as u16, NEXT.fetch_add(1, Ordering::Relaxed));
    format!("{ip:08X}{process:04X}{:012X}{count:08X}", now.0 as u64 & 0xffff_ffff_ffff)
}
