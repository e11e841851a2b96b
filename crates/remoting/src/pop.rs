//! Messages of a topic, whatever queue they are in, for clients that settle each of them; and which clients do so.

use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::{FieldError, Fields};
use crate::codec::json::Json;
use crate::codec::shown;
use crate::front::Front;
use crate::link::Link;
use crate::members::filter;
use crate::message_out::{self, Facts};
use crate::pop_handle::PopHandle;
use bytes::BytesMut;
use martlet_broker::{DeliveredMessage, GroupSettings, HandedOut, MarkedPlace, ReceiveRequest, Received, Refusal};
use martlet_model::group::{DeliveryOrder, RequestMode};
use martlet_model::names::RETRY_PREFIX;
use martlet_model::{limits, names};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Longest wait, in milliseconds: clients give up 10 s after the time they ask for, which is 15 s.
const WAIT_MILLIS_MAX: i64 = 25_000;
/// The number of a queue that stands for all of a broker's.
const ANY_QUEUE: i32 = -1;
/// The revive queue of answers to ordered groups, and of others.
const REVIVE_QUEUE: (i32, i32) = (999, 0);
/// How long a message is held to see whether there is one, in milliseconds.
const LOOK_MILLIS: i64 = 10_000;

/// Whether a request may wait for messages.
pub(crate) fn may_wait(fields: &Fields<'_>) -> bool {
    fields.i64("pollTime").is_ok_and(|millis| millis > 0)
}

/// A poll, and whether its group is ordered.
struct Poll {
    request: ReceiveRequest,
    ordered: bool,
}

impl Front {
    /// Hands out messages.
    pub(crate) async fn pop(&self, link: &Link, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let count = fields.i32("maxMsgNums")?;
        let batch_size = u32::try_from(count).ok().filter(|count| (1..=limits::RECEIVE_BATCH_MAX).contains(count));
        let batch_size = batch_size.ok_or_else(|| {
            let max = limits::RECEIVE_BATCH_MAX;
            Denied::new(response::INVALID_PARAMETER, format!("field maxMsgNums is {count}, not from 1 to {max}"))
        })?;
        let invisible_millis = fields.i64("invisibleTime")?;
        if !(1..=limits::CHANGE_INVISIBLE_MILLIS_MAX).contains(&invisible_millis) {
            let max = limits::CHANGE_INVISIBLE_MILLIS_MAX;
            let remark = format!("field invisibleTime is {invisible_millis} ms, not from 1 ms to {max} ms");
            return Err(Denied::new(response::INVALID_PARAMETER, remark));
        }
        // Where a group begins is its own setting, and that a request is old is seen by its connection being gone.
        fields.i64("bornTime")?;
        fields.i32("initMode")?;
        let Poll { mut request, ordered } = self.poll_of(fields)?;
        (request.batch_size, request.invisible_millis) = (batch_size, invisible_millis);
        let group = request.group.clone();
        let received = self.receive(request).await?;
        self.popped(link, group, received, ordered, invisible_millis)
    }

    /// Whether there is a message to pop; waits for one. Looks by taking one and giving it back, so that filters, order and retries
    /// count.
    pub(crate) async fn notification(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        fields.i64("bornTime")?;
        let Poll { mut request, .. } = self.poll_of(fields)?;
        // With it, what the client has in flight would be taken for what was looked at.
        request.attempt_id = None;
        let group = request.group.clone();
        let received = self.receive(request).await?;
        let has = !received.messages.is_empty();
        let handles = received.messages.into_iter().map(|message| message.handle).collect();
        self.broker.undo(&group, handles);
        Ok(Answer::done().with("hasMsg", has).with("pollingFull", false))
    }

    /// What both kinds of polls say.
    fn poll_of(&self, fields: &Fields<'_>) -> Result<Poll, Denied> {
        let (group, name) = (fields.text("consumerGroup")?, fields.text("topic")?);
        let poll_millis = fields.i64("pollTime")?;
        let queue = match fields.i32("queueId")? {
            ANY_QUEUE => None,
            queue => Some(queue),
        };
        names::check_group(group)?;
        let topic = self.broker.known_topic(name).filter(|_| !name.starts_with(RETRY_PREFIX));
        let topic = topic.ok_or_else(|| Refusal::TopicNotFound { topic: shown(name) })?;
        let queue = match queue.map(u32::try_from) {
            None => None,
            Some(Ok(queue)) if queue < topic.read_queues => Some(queue),
            Some(_) => {
                let (queue, count) = (queue.unwrap_or_default(), topic.read_queues);
                let remark = format!("queueId {queue} is not one of topic {name}, which has {count} queues");
                return Err(Denied::new(response::INVALID_PARAMETER, remark));
            }
        };
        let expression = fields.optional("exp").unwrap_or("*");
        let filter = Arc::new(filter(fields.optional("expType"), expression).map_err(Refusal::Filter)?);
        let knows_order = fields.flag("order");
        let ordered = self.broker.known_group(group).is_some_and(|group| group.order == DeliveryOrder::Fifo);
        if knows_order && !ordered {
            let expected = "false: the consumer group is not an ordered one";
            return Err(FieldError::Value { name: "order", value: "true".into(), expected }.into());
        }
        let attempt_id = fields.optional("attemptId");
        let attempt_id = attempt_id.filter(|id| !id.is_empty() && id.len() <= limits::MESSAGE_ID_BYTES_MAX);
        let request = ReceiveRequest {
            // Members are those that heartbeats name.
            client_id: Arc::from(""),
            group: group.to_owned(),
            topic: name.to_owned(),
            queue,
            filter,
            batch_size: 1,
            invisible_millis: LOOK_MILLIS,
            renew_for_millis: None,
            poll_millis: poll_millis.clamp(0, WAIT_MILLIS_MAX),
            // Who does not know that the group is ordered handles all that it gets at once.
            message_group_max: if knows_order { limits::RECEIVE_BATCH_MAX } else { 1 },
            attempt_id: attempt_id.map(str::to_owned),
        };
        Ok(Poll { request, ordered })
    }

    async fn receive(&self, request: ReceiveRequest) -> Result<Received, Denied> {
        let mut stopped = self.stopped();
        tokio::select! {
            biased;
            received = self.broker.receive(request) => Ok(received?),
            _ = stopped.wait_for(|stop| *stop) => Ok(Received::default()),
        }
    }

    /// What a poll is told.
    fn popped(
        &self,
        link: &Link,
        group: String,
        received: Received,
        ordered: bool,
        invisible_millis: i64,
    ) -> Result<Answer, Denied> {
        let Received { messages, budget } = received;
        let bytes: usize = messages.iter().map(|message| message.record.len() + 512).sum();
        let mut body = BytesMut::with_capacity(bytes);
        // By the clock that clients compare it with, and after the wait.
        let popped = martlet_broker::wall_clock().0;
        let mut places = Places::default();
        for message in &messages {
            let Some((mark, physical)) = self.broker.marked(&message.handle) else { continue };
            let place = MarkedPlace { index: message.queue, offset: message.offset, mark };
            let handle = PopHandle { popped, invisible_millis, broker: self.broker.broker_name(), place }.to_string();
            let facts = Facts {
                topic: &message.topic,
                queue: message.queue,
                offset: message.offset.0,
                physical_offset: physical.map_or(-1, |at| at.0),
                stored: message.store_time.0,
                reconsumed: i32::try_from(message.attempt.saturating_sub(1)).unwrap_or(i32::MAX),
                store_host: self.addresses.store_host(link),
                cluster: self.broker.cluster_name(),
                is_half: false,
                more: &[("POP_CK", &handle)],
            };
            match message_out::encode(&mut body, &message.record, &facts) {
                Ok(()) => places.add(message),
                Err(error) => {
                    let (topic, queue, offset) = (&message.topic, message.queue, message.offset);
                    tracing::error!(%topic, queue, %offset, %error, "a record cannot be read, it is not delivered");
                }
            }
        }
        let (code, remark) = match body.is_empty() {
            false => (response::SUCCESS, "FOUND"),
            true => (response::POLLING_TIMEOUT, "NO_MESSAGE"),
        };
        let (starts, offsets, counts) = places.texts();
        let handles = messages.into_iter().map(|message| message.handle).collect();
        let handed_out = Some(HandedOut::new(&self.broker, &group, handles));
        let budget = Some(budget);
        let answer =
            Answer { code, remark: Some(remark.into()), body: body.freeze(), budget, handed_out, ..Answer::default() };
        let answer = answer
            .with("popTime", popped)
            .with("invisibleTime", invisible_millis)
            .with("reviveQid", if ordered { REVIVE_QUEUE.0 } else { REVIVE_QUEUE.1 })
            // Clients show it at most.
            .with("restNum", 0)
            .with("startOffsetInfo", starts)
            .with("msgOffsetInfo", offsets);
        Ok(if ordered { answer.with("orderCountInfo", counts) } else { answer })
    }

    /// How members that leave it to the broker get the messages of a topic; kept until it is said otherwise.
    pub(crate) async fn set_request_mode(&self, body: &[u8]) -> Result<Answer, Denied> {
        let said = Json::parse(body, "body")?;
        let text = |name: &'static str| said.text(name).ok_or(FieldError::Missing { name });
        let (topic, group) = (text("topic")?, text("consumerGroup")?);
        let mode = match text("mode")? {
            "POP" => RequestMode::Pop,
            "PULL" => RequestMode::Pull,
            other => {
                let (name, value) = ("mode", shown(other));
                return Err(FieldError::Value { name, value, expected: "POP or PULL" }.into());
            }
        };
        if self.broker.known_topic(topic).filter(|_| !topic.starts_with(RETRY_PREFIX)).is_none() {
            return Err(Refusal::TopicNotFound { topic: shown(topic) }.into());
        }
        self.broker.group(group).await?;
        let request_mode = Some((topic.to_owned(), mode));
        self.broker.update_group(group, GroupSettings { request_mode, ..GroupSettings::default() }).await?;
        self.tell_members(group);
        Ok(Answer::done())
    }

    /// The assignment of a member that pops a topic: one poll serves all queues.
    pub(crate) fn any_queue(&self, topic: &str) -> Answer {
        let queue = Json::object([
            ("brokerName", self.broker.broker_name().into()),
            ("queueId", ANY_QUEUE.into()),
            ("topic", topic.into()),
        ]);
        let assigned = Json::object([("messageQueue", queue), ("mode", "POP".into())]);
        Answer::json(&Json::object([("messageQueueAssignments", Json::List(vec![assigned]))]))
    }
}

/// Where the messages of an answer are, by queue.
#[derive(Default)]
struct Places {
    offsets: BTreeMap<u32, Vec<u64>>,
    /// Deliveries before this one, of messages that had some.
    counts: Vec<(u32, u64, u32)>,
}

impl Places {
    fn add(&mut self, message: &DeliveredMessage) {
        let (queue, offset) = (message.queue, message.offset.0);
        self.offsets.entry(queue).or_default().push(offset);
        if message.attempt > 1 {
            self.counts.push((queue, offset, message.attempt - 1));
        }
    }

    /// First offset of each queue, all offsets of each queue, and deliveries before this one: entries are separated by `;`, their
    /// fields by spaces, the first of which says that they are of the topic itself.
    fn texts(&self) -> (String, String, String) {
        let (mut starts, mut all, mut counts) = (String::new(), String::new(), String::new());
        // Strings that grow take everything.
        for (n, (queue, offsets)) in self.offsets.iter().enumerate() {
            let between = if n > 0 { ";" } else { "" };
            let _ = write!(starts, "{between}0 {queue} {}", offsets.iter().min().unwrap_or(&0));
            let _ = write!(all, "{between}0 {queue} ");
            for (n, offset) in offsets.iter().enumerate() {
                let _ = write!(all, "{}{offset}", if n > 0 { "," } else { "" });
            }
        }
        for (n, (queue, offset, count)) in self.counts.iter().enumerate() {
            let _ = write!(counts, "{}0 qo{queue}%{offset} {count}", if n > 0 { ";" } else { "" });
        }
        (starts, all, counts)
    }
}
