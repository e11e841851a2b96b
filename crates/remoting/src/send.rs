//! Sends, and recalls of what was sent.

use crate::answer::{Answer, Denied};
use crate::clients::PRODUCER_GROUP_BYTES_MAX;
use crate::codec::code::{request, response};
use crate::codec::fields::{self, Fields};
use crate::codec::header::Header;
use crate::codec::ids;
use crate::codec::message::{BatchMessage, decode_batch};
use crate::front::Front;
use crate::link::Link;
use crate::message_in::{self, Accepted, Request};
use crate::message_out::REGION;
use crate::route::CREATING_TOPIC;
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use bytes::Bytes;
use martlet_broker::{Refusal, SendOutcome, SentMessage, TopicSettings};
use martlet_model::{PhysicalOffset, TopicConfig, TopicType, UnixMillis, limits, names};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

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

/// What the fields of a head are called, in the order of [`Head`]'s.
const LONG_NAMES: [&str; 10] = [
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
const SHORT_NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "m"];

/// Which of [`SHORT_NAMES`] a name is. They are most of what there is to read: compared as bytes, not as texts.
fn short_name(name: &str) -> Option<usize> {
    match name.as_bytes() {
        [letter @ b'a'..=b'i'] => Some(usize::from(letter - b'a')),
        b"m" => Some(9),
        _ => None,
    }
}

/// Whether requests with this code send messages.
pub(crate) fn is_send(code: i32) -> bool {
    matches!(code, request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE)
}

impl<'a> Head<'a> {
    /// That of a request that sends.
    pub fn read(header: &'a Header) -> Result<Self, Denied> {
        let is_long = matches!(header.code, request::SEND_MESSAGE | request::SEND_REPLY_MESSAGE);
        let names = if is_long { &LONG_NAMES } else { &SHORT_NAMES };
        // All at once: looking for each would read the header ten times.
        let mut values: [Option<&'a str>; 10] = [None; 10];
        for (name, value) in header.fields.iter() {
            let at = if is_long { LONG_NAMES.iter().position(|known| *known == name) } else { short_name(name) };
            if let Some(place) = at.and_then(|at| values.get_mut(at)) {
                place.get_or_insert(value);
            }
        }
        let [group, topic, default_topic, default_queues, queue, sys_flag, born, flag, properties, batch] =
            std::array::from_fn(|at| (names[at], values[at]));
        let group = fields::text(group)?;
        if group.len() > PRODUCER_GROUP_BYTES_MAX {
            let remark = format!("producer group has {} bytes, the limit is {PRODUCER_GROUP_BYTES_MAX}", group.len());
            return Err(Denied::illegal(remark));
        }
        Ok(Self {
            group,
            topic: fields::text(topic)?,
            default_topic: fields::text(default_topic)?,
            default_queues: fields::i32(default_queues)?,
            queue: fields::i32(queue)?,
            sys_flag: fields::i32(sys_flag)?,
            born: fields::i64(born)?,
            flag: fields::i32(flag)?,
            properties: properties.1.unwrap_or(""),
            is_batch: fields::flag(batch) || header.code == request::SEND_BATCH_MESSAGE,
        })
    }
}

/// A send that is under way.
#[derive(Debug)]
pub(crate) struct Sending {
    sending: martlet_broker::Sending,
    /// Taken when it is over.
    facts: Option<Facts>,
}

/// What is known of a send besides what comes of it.
#[derive(Debug)]
pub(crate) struct Facts {
    topic: Arc<TopicConfig>,
    /// The queue its sender chose.
    queue: Option<u32>,
    /// The broker's address, as its client knows it.
    host: SocketAddr,
    /// Id of the first message.
    id: String,
    /// When the first is to be delivered, if that can be recalled.
    timer: Option<UnixMillis>,
}

/// What a sender is told, as far as that is known.
pub(crate) enum Told {
    /// This.
    Answer(Result<Answer, Denied>),
    /// These are durable; what their places are called has to be asked for.
    Places(Vec<SentMessage>),
}

impl Future for Sending {
    type Output = (SendOutcome, Facts);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.sending).poll(cx));
        match self.facts.take() {
            Some(facts) => Poll::Ready((outcome, facts)),
            // Was ready before.
            None => Poll::Pending,
        }
    }
}

impl Front {
    /// Hands the messages of a request to the shard. `None`: their topic is not there yet, so that it takes [`Self::send`].
    pub(crate) fn begin_send(&self, link: &Link, header: &Header, body: &[u8]) -> Result<Option<Sending>, Denied> {
        self.check_access(link, header, body)?;
        let head = Head::read(header)?;
        match self.broker.known_topic(head.topic) {
            Some(topic) => self.send_to(link, &head, topic, body).map(Some),
            None => Ok(None),
        }
    }

    /// Stores messages; answers once they are durable. Makes their topic if it is missing.
    pub(crate) async fn send(&self, link: &Link, header: &Header, body: Bytes) -> Result<Answer, Denied> {
        let head = Head::read(header)?;
        names::check_existing_topic(head.topic).map_err(|error| Denied::illegal(error.to_string()))?;
        let topic = self.topic_to_send_to(&head).await?;
        let (outcome, facts) = self.send_to(link, &head, topic, &body)?.await;
        match self.told(&facts, outcome) {
            Told::Answer(answer) => answer,
            Told::Places(sent) => self.places_told(&facts, &sent).await,
        }
    }

    /// Hands messages to the shard.
    fn send_to(&self, link: &Link, head: &Head<'_>, topic: Arc<TopicConfig>, body: &[u8]) -> Result<Sending, Denied> {
        let queue = queue_of(head, &topic)?;
        let now = martlet_broker::wall_clock();
        let host = self.addresses.store_host(link);
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
        let new_id = || new_unique_key(host, now);
        let accepted = match head.is_batch {
            true => {
                if body.len() > limits::BODY_BYTES_MAX {
                    let (bytes, max) = (body.len(), limits::BODY_BYTES_MAX);
                    return Err(Denied::illegal(format!("the batch has {bytes} bytes, the limit is {max}")));
                }
                let batch =
                    decode_batch(body, BATCH_MESSAGES_MAX).map_err(|error| Denied::illegal(error.to_string()))?;
                if batch.is_empty() {
                    return Err(Denied::illegal("the batch has no message"));
                }
                let accept =
                    |one: &BatchMessage<'_>| message_in::accept(&request, one.properties, one.flag, one.body, new_id);
                batch.iter().map(accept).collect::<Result<Vec<_>, _>>()?
            }
            false => vec![message_in::accept(&request, head.properties, head.flag, body, new_id)?],
        };
        let id = accepted.first().map(|first| first.message.message_id.clone()).unwrap_or_default();
        let timer = accepted.first().filter(|first| first.has_timer).and_then(|first| first.message.deliver_at);
        let messages = accepted.into_iter().map(|Accepted { message, .. }| message).collect();
        let sending = self.broker.begin_send(topic.clone(), messages, None)?;
        Ok(Sending { sending, facts: Some(Facts { topic, queue, host, id, timer }) })
    }

    /// What a sender is told once its messages are durable, or are not going to be.
    pub(crate) fn told(&self, facts: &Facts, outcome: SendOutcome) -> Told {
        let sent = match self.broker.sent(outcome) {
            Ok(sent) => sent,
            Err(refusal) => return Told::Answer(Err(refusal.into())),
        };
        match self.broker.known_physical_offsets(&facts.topic, &sent) {
            Ok(places) => Told::Answer(places.map_err(Denied::from).map(|places| self.places(facts, &sent, &places))),
            Err(_) => Told::Places(sent),
        }
    }

    /// The same where the places have to be asked for.
    pub(crate) async fn places_told(&self, facts: &Facts, sent: &[SentMessage]) -> Result<Answer, Denied> {
        let places = self.broker.physical_offsets(&facts.topic, sent).await?;
        Ok(self.places(facts, sent, &places))
    }

    fn places(&self, facts: &Facts, sent: &[SentMessage], places: &[PhysicalOffset]) -> Answer {
        let mut offset_ids = String::with_capacity(33 * sent.len());
        for at in places {
            if !offset_ids.is_empty() {
                offset_ids.push(',');
            }
            ids::put_offset_id(&mut offset_ids, facts.host, *at);
        }
        let (first, topic) = (sent.first().cloned().unwrap_or_default(), &facts.topic);
        // What waits is in none of the topic's queues yet; clients want the one it was meant for.
        let queue = match first.waits_at {
            Some(_) => facts.queue.unwrap_or(0),
            // To clients every lite topic has one queue.
            None if topic.kind == TopicType::Lite => 0,
            None => first.queue,
        };
        let mut answer = Answer::done();
        let fields = &mut answer.fields;
        fields.reserve(7, offset_ids.len() + facts.id.len() + 128);
        fields.push("msgId", &offset_ids);
        fields.push_number("queueId", queue);
        fields.push_number("queueOffset", first.offset.0);
        fields.push("transactionId", &facts.id);
        fields.push("MSG_REGION", REGION);
        fields.push("TRACE_ON", "true");
        if let Some((at, handle)) = facts.timer.zip(first.recall_handle.as_ref()) {
            let text = format!("{HANDLE_VERSION} {} {} {} {handle}", topic.name, self.broker.broker_name(), at.0);
            fields.push("recallHandle", &URL_SAFE.encode(text));
        }
        answer
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
fn new_unique_key(host: SocketAddr, now: UnixMillis) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ip = match host.ip() {
        std::net::IpAddr::V4(ip) => u32::from(ip),
        std::net::IpAddr::V6(ip) => u128::from(ip) as u32,
    };
    let (process, count) = (std::process::id() as u16, NEXT.fetch_add(1, Ordering::Relaxed));
    format!("{ip:08X}{process:04X}{:012X}{count:08X}", now.0 as u64 & 0xffff_ffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_where_they_are_in_their_list() {
        for (at, name) in SHORT_NAMES.iter().enumerate() {
            assert_eq!(short_name(name), Some(at));
        }
        assert_eq!((short_name(""), short_name("j"), short_name("aa")), (None, None, None));
    }
}
