//! Sends: messages on their way into the shard, and what their senders are told.

use crate::{Broker, NewMessage, Refusal, SendRequest, SentMessage};
use crate::{delayed, transactions};
use martlet_model::{TopicConfig, TopicType, names};
use martlet_shard::{Command, Incoming, Output};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::sync::oneshot;

/// A send that the shard has. Ready once all its messages are durable, or are not going to be; [`Broker::sent`] says which. Dropping
/// it changes nothing about them.
#[derive(Debug)]
#[must_use]
pub struct Sending {
    /// Taken when it is over.
    facts: Option<Facts>,
    answer: oneshot::Receiver<Output>,
}

/// What the shard said of a send; for [`Broker::sent`].
#[derive(Debug)]
#[must_use]
pub struct SendOutcome {
    facts: Facts,
    /// `None`: the shard has stopped.
    output: Option<Output>,
}

#[derive(Debug)]
struct Facts {
    topic: Arc<TopicConfig>,
    /// Of each record.
    bytes: Vec<usize>,
    /// How long from its beginning the sender alone ends a half message.
    unasked_millis: i64,
}

impl Future for Sending {
    type Output = SendOutcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SendOutcome> {
        let output = std::task::ready!(Pin::new(&mut self.answer).poll(cx)).ok();
        match self.facts.take() {
            Some(facts) => Poll::Ready(SendOutcome { facts, output }),
            // Was ready before.
            None => Poll::Pending,
        }
    }
}

impl Broker {
    /// Stores messages; returns once they are durable.
    pub async fn send(&self, request: SendRequest) -> Result<Vec<SentMessage>, Refusal> {
        let topic = match request.topic.starts_with(names::RETRY_PREFIX) {
            true => self.topic_to_look_into(&request.topic)?,
            false => self.topic(&request.topic).await?,
        };
        let sending = self.begin_send(topic, request.messages, request.deadline)?;
        let outcome = match request.deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline.into(), sending).await {
                Ok(outcome) => outcome,
                Err(_) => return Err(Refusal::OutcomeUnknown),
            },
            None => sending.await,
        };
        self.sent(outcome)
    }

    /// Hands messages to the shard, 1 to `limits::SEND_BATCH_MAX` of them. For who sends much and has the topic at hand.
    pub fn begin_send(
        &self,
        topic: Arc<TopicConfig>,
        messages: Vec<NewMessage>,
        deadline: Option<Instant>,
    ) -> Result<Sending, Refusal> {
        if let Some(group) = topic.name.strip_prefix(names::RETRY_PREFIX) {
            self.check_takes_back(group)?;
        }
        check_sendable(&topic, &messages)?;
        let transactional = transactions::check_alone(&messages)?;
        let immunity = messages.iter().find_map(|message| message.immunity_millis);
        let polled = messages.iter().any(|message| message.polled);
        let bytes: Vec<usize> = messages.iter().map(|message| message.record.len()).collect();
        let deadline = deadline.map(|at| {
            let left = at.saturating_duration_since(Instant::now()).as_millis();
            self.inner.shard.now().plus(i64::try_from(left).unwrap_or(i64::MAX))
        });
        let is_scheduled = messages.iter().any(|message| message.deliver_at.is_some());
        let dues: Vec<_> = match is_scheduled {
            true => messages.iter().map(|message| message.deliver_at).collect(),
            false => Vec::new(),
        };
        let is_lite = topic.kind == TopicType::Lite;
        let mut messages: Vec<Incoming> = messages
            .into_iter()
            .map(|message| {
                let mut terms = Vec::with_capacity(1 + message.keys.len());
                terms.push(martlet_shard::term(topic.id, b'i', &message.message_id));
                terms.extend(message.keys.iter().map(|key| martlet_shard::term(topic.id, b'k', key)));
                let message_group = martlet_shard::message_group_of(&message.record);
                let lite_topic = is_lite.then(|| martlet_shard::lite_topic_of(&message.record)).flatten();
                Incoming { record: message.record, terms, message_group, lite_topic }
            })
            .collect();
        let half = if transactional { messages.pop() } else { None };
        let answer = self.begin_ask(|token| match half {
            Some(half) => transactions::half_command(topic.id, half, immunity, polled, deadline, token),
            None if is_scheduled => {
                let messages = delayed::scheduled(messages, &dues);
                Command::Schedule { topic: topic.id, messages, deadline, token }
            }
            None => Command::Send { topic: topic.id, messages, deadline, token },
        })?;
        // The sender of a polled one ends it until it is due.
        let unasked_millis = match polled {
            true => immunity.unwrap_or(self.inner.options.transaction_immunity_millis),
            false => 0,
        };
        Ok(Sending { facts: Some(Facts { topic, bytes, unasked_millis }), answer })
    }

    /// Where the messages of a send are, if they are durable.
    pub fn sent(&self, outcome: SendOutcome) -> Result<Vec<SentMessage>, Refusal> {
        let SendOutcome { facts: Facts { topic, bytes, unasked_millis }, output } = outcome;
        let sent = match output.ok_or_else(|| self.stopped())? {
            Output::Sent(places) => {
                let sent = |(queue, offset)| SentMessage { queue, offset, ..SentMessage::default() };
                places.into_iter().map(sent).collect()
            }
            Output::Scheduled(placed) => self.sent_later(topic.id, &placed),
            Output::Half(place, began) => vec![self.sent_half(topic.id, place, began.plus(unasked_millis))],
            other => return Err(self.unexpected(other, &topic.name, "")),
        };
        let stats = self.inner.stats.topic(&topic.name);
        bytes.iter().for_each(|&bytes| stats.sent(bytes));
        Ok(sent)
    }
}

fn check_sendable(topic: &TopicConfig, messages: &[NewMessage]) -> Result<(), Refusal> {
    if !topic.permission.writable() || topic.write_queues == 0 {
        return Err(Refusal::NotWritable { topic: topic.name.clone() });
    }
    if topic.id.group_it_belongs_to().is_some() {
        return Ok(());
    }
    let accepted = topic.kind.accepts();
    match messages.iter().enumerate().find(|(_, message)| !accepted.contains(&message.message_type)) {
        Some((index, message)) => Err(Refusal::MessageTypeConflict {
            topic: topic.name.clone(),
            accepts: topic.kind,
            found: message.message_type,
            index,
        }),
        None => Ok(()),
    }
}
