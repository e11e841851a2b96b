//! Transactions: half messages, their ids and ends, and the checks that producers are sent.
//!
//! The shard says when somebody is to be asked; a protocol takes the checks ([`Broker::take_checks`]), finds a producer of the
//! topic that it can reach ([`Broker::producers_of`]), and says so ([`Broker::checked`]): only then the check counts.

use crate::find::{found_message, read_failed};
use crate::{Broker, FOUND_MAX, FoundMessage, NewMessage, Refusal, SentMessage};
use martlet_model::record::{self, Field};
use martlet_model::{MessageType, ProducerHandle, ProducerHandleKind, TopicConfig, TopicId, UnixMillis, limits};
use martlet_shard::{Command, EndError, Half, HalfPlace, Incoming, Output, TransactionCheck};
use std::sync::Arc;
use std::sync::PoisonError;
use tokio::sync::mpsc;

/// Checks that wait for the protocol; more are not made and not counted.
pub(crate) const CHECKS_WAITING_MAX: usize = 4_096;
/// Says whether it could send a check: of it the half message and the producer group that sent that.
pub(crate) type CheckListener = Arc<dyn Fn(&TransactionCheck, &FoundMessage, &str) -> bool + Send + Sync>;
/// Half messages read at a time while a topic's are looked for.
const SCAN_HALVES: usize = 1_024;

/// A transaction that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// What ends it.
    pub transaction_id: String,
    /// Name of the topic its message is for.
    pub topic: String,
    /// The client's message id.
    pub message_id: String,
    /// When it was sent.
    pub began: UnixMillis,
    /// When a producer is asked next; of one that was given up, when retention drops it.
    pub due: UnixMillis,
    /// Checks that producers were sent.
    pub checks: u32,
    /// Producers are not asked any more.
    pub given_up: bool,
}

/// Some of the transactions that have not ended, oldest bucket first.
#[derive(Clone, Debug, Default)]
pub struct TransactionList {
    /// At most as many as were asked for.
    pub transactions: Vec<OpenTransaction>,
    /// Where to go on; `None`: there are no more.
    pub next: Option<HalfPlace>,
}

/// The system property that names the producer group of a half message.
pub const PRODUCER_GROUP: &str = "PGROUP";

/// The producer group that sent a half message, where its protocol has such.
pub fn producer_group(half: &FoundMessage) -> Option<&str> {
    system_property(&half.record, PRODUCER_GROUP)
}

fn system_property<'a>(record: &'a [u8], name: &str) -> Option<&'a str> {
    record::find(record, |field| match field {
        Field::SystemProperty(key, value) if key == name => Some(value),
        _ => None,
    })
}

/// A send with a transactional message has that message and no other.
pub(crate) fn check_alone(messages: &[NewMessage]) -> Result<bool, Refusal> {
    let transactional = messages.iter().any(|message| message.message_type == MessageType::Transaction);
    match (transactional, messages.len()) {
        (true, count) if count > 1 => Err(Refusal::Setting {
            field: "number of messages",
            value: count.to_string(),
            rule: "is more than 1; a transactional message is sent alone",
        }),
        (transactional, _) => Ok(transactional),
    }
}

impl Broker {
    /// What a sender is told of a half message.
    pub(crate) fn sent_half(&self, topic: TopicId, place: HalfPlace, time: UnixMillis) -> SentMessage {
        let id = self.transaction_id(topic, place, time);
        let waits_at = Some((place.queue, place.offset));
        SentMessage { offset: place.offset, transaction_id: Some(id), waits_at, ..SentMessage::default() }
    }

    /// `time` is when the transaction began, or of a polled half message until when this id ends it.
    pub(crate) fn transaction_id(&self, topic: TopicId, place: HalfPlace, time: UnixMillis) -> String {
        self.producer_handle(ProducerHandleKind::Transaction, topic, time, place.queue, place.offset)
    }

    /// Whether this is a transaction id of this broker and topic.
    fn place_of(&self, topic: &TopicConfig, transaction_id: &str) -> Result<HalfPlace, Refusal> {
        self.place_and_time_of(topic, transaction_id).map(|(place, _)| place)
    }

    /// The same, and the time in it.
    pub(crate) fn place_and_time_of(
        &self,
        topic: &TopicConfig,
        transaction_id: &str,
    ) -> Result<(HalfPlace, UnixMillis), Refusal> {
        let handle =
            self.read_producer_handle(transaction_id, ProducerHandleKind::Transaction, (&topic.name, topic.id));
        match handle {
            Ok(handle) => Ok((HalfPlace { queue: handle.queue, offset: handle.offset }, handle.time)),
            Err(Refusal::ProducerHandle { reason }) => Err(Refusal::TransactionId { reason }),
            Err(other) => Err(other),
        }
    }

    /// Name of the topic that a transaction id is for.
    pub fn topic_of_transaction(&self, transaction_id: &str) -> Result<String, Refusal> {
        let refuse = |reason: String| Refusal::TransactionId { reason };
        let handle = ProducerHandle::decode(transaction_id, ProducerHandleKind::Transaction, &self.inner.shard.key);
        let id = handle.map_err(|error| refuse(error.to_string()))?.topic;
        let topic = self.inner.catalog.snapshot().topics().find(|topic| topic.id == id).map(|topic| topic.name.clone());
        topic.ok_or_else(|| refuse("transaction id is for a topic that was deleted".into()))
    }

    /// Ends a transaction; returns once that is durable. `None`: its sender does not know yet, it goes on waiting.
    pub async fn end_transaction(
        &self,
        topic: &str,
        transaction_id: &str,
        commit: Option<bool>,
    ) -> Result<(), Refusal> {
        let topic = self.known_topic(topic).ok_or_else(|| Refusal::TopicNotFound { topic: topic.to_owned() })?;
        let place = self.place_of(&topic, transaction_id)?;
        let Some(commit) = commit else { return Ok(()) };
        let ended = self.ask(|token| Command::EndTransaction { topic: topic.id, place, commit, token }).await?;
        match ended {
            Output::Ended(Ok(())) => Ok(()),
            Output::Ended(Err(error @ EndError::Ended { .. })) => {
                Err(Refusal::TransactionOver { reason: error.to_string() })
            }
            Output::Ended(Err(error)) => Err(Refusal::TransactionGone { reason: error.to_string() }),
            other => Err(self.unexpected(other, &topic.name, "")),
        }
    }

    /// Ends the transaction whose half message lies at a place; returns once that is durable. For protocols whose clients name
    /// places instead of signed ids: nothing ends unless the half message there has one of these message ids and was sent by
    /// this producer group. `None`: its sender does not know yet, it goes on waiting.
    pub async fn end_transaction_at(
        &self,
        place: HalfPlace,
        message_ids: &[&str],
        producer_group: &str,
        commit: Option<bool>,
    ) -> Result<(), Refusal> {
        let gone = |reason: &str| Refusal::TransactionGone { reason: reason.to_owned() };
        let found = martlet_shard::halves(&self.inner.reader, Some(place), 1).await.map_err(read_failed)?;
        let Some((_, half)) = found.into_iter().find(|(at, _)| *at == place) else {
            return Err(gone("no half message waits at this place; it has ended, or there never was one"));
        };
        if !message_ids.contains(&half.message_id.as_str()) {
            return Err(gone("the half message at this place has another message id"));
        }
        let stored = self.read_one(place.queue, place.offset).await?;
        let group = stored.as_ref().and_then(|stored| system_property(&stored.record, PRODUCER_GROUP));
        if group.is_some_and(|group| group != producer_group) {
            return Err(gone("the half message at this place is of another producer group"));
        }
        let Some(commit) = commit else { return Ok(()) };
        let topic = half.topic;
        match self.ask(|token| Command::EndTransaction { topic, place, commit, token }).await? {
            Output::Ended(Ok(())) => Ok(()),
            Output::Ended(Err(error @ EndError::Ended { .. })) => {
                Err(Refusal::TransactionOver { reason: error.to_string() })
            }
            Output::Ended(Err(error)) => Err(Refusal::TransactionGone { reason: error.to_string() }),
            other => Err(self.unexpected(other, &self.name_of(topic).unwrap_or_default(), "")),
        }
    }

    /// Whoever reaches producers by their group is asked first, with the half message and the group that sent it, to send a
    /// check; it says whether it could. Replaces a listener from before.
    pub fn on_check(&self, listener: impl Fn(&TransactionCheck, &FoundMessage, &str) -> bool + Send + Sync + 'static) {
        *self.inner.group_checks.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(listener));
    }

    /// Sends a check to a producer of the group that sent the half message. `false`: it has none, or none can be reached.
    pub fn check_by_group(&self, check: &TransactionCheck, message: &FoundMessage) -> bool {
        let listener = self.inner.group_checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        listener.zip(producer_group(message)).is_some_and(|(listener, group)| listener(check, message, group))
    }

    /// Transactions that have not ended, of one topic or of all, from a place on; `given_up`: only those of which producers
    /// are not asked any more.
    pub async fn transactions(
        &self,
        topic: Option<&str>,
        given_up: bool,
        from: Option<HalfPlace>,
        limit: usize,
    ) -> Result<TransactionList, Refusal> {
        if !(1..=FOUND_MAX).contains(&limit) {
            let rule = "is not from 1 to 1000";
            return Err(Refusal::Setting { field: "limit", value: limit.to_string(), rule });
        }
        let topic = topic.map(|name| self.topic_to_look_into(name)).transpose()?;
        let catalog = self.inner.catalog.snapshot();
        let names: std::collections::BTreeMap<TopicId, &str> =
            catalog.topics().map(|topic| (topic.id, topic.name.as_str())).collect();
        let mut list = TransactionList::default();
        let mut from = from;
        loop {
            let found = martlet_shard::halves(&self.inner.reader, from, SCAN_HALVES).await.map_err(read_failed)?;
            let last = found.last().map(|&(place, _)| place);
            for (place, half) in found {
                // What waits for a topic that was deleted goes when it is looked at next.
                let Some(name) = names.get(&half.topic) else { continue };
                if topic.as_ref().is_some_and(|topic| topic.id != half.topic) || given_up && !half.given_up {
                    continue;
                }
                if list.transactions.len() == limit {
                    list.next = Some(place);
                    return Ok(list);
                }
                list.transactions.push(self.open_transaction(name, place, half));
            }
            match last {
                Some(last) => from = Some(HalfPlace { offset: last.offset.next(), ..last }),
                None => return Ok(list),
            }
        }
    }

    fn open_transaction(&self, topic: &str, place: HalfPlace, half: Half) -> OpenTransaction {
        OpenTransaction {
            transaction_id: self.transaction_id(half.topic, place, half.began),
            topic: topic.to_owned(),
            message_id: half.message_id,
            began: half.began,
            due: half.due,
            checks: half.checks,
            given_up: half.given_up,
        }
    }

    /// The checks that producers are to be sent. For one protocol: whoever asks first.
    pub fn take_checks(&self) -> Option<mpsc::Receiver<TransactionCheck>> {
        self.inner.checks.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Name of the topic a check is about; `None` if that was deleted.
    pub fn topic_of_check(&self, check: &TransactionCheck) -> Option<Arc<TopicConfig>> {
        self.inner.catalog.snapshot().topics().find(|topic| topic.id == check.topic).cloned()
    }

    /// What a producer is asked about: the half message, and its transaction id. `None`: it has ended meanwhile.
    pub async fn read_check(&self, check: &TransactionCheck) -> Result<Option<(FoundMessage, String)>, Refusal> {
        let Some(topic) = self.topic_of_check(check) else { return Ok(None) };
        let Some(stored) = self.read_one(check.place.queue, check.place.offset).await? else { return Ok(None) };
        let id = self.transaction_id(check.topic, check.place, check.began);
        Ok(Some((found_message(&topic.name.as_str().into(), 0, stored), id)))
    }

    /// Connected clients that publish a topic, another one first each time; at most so many.
    pub fn producers_of(&self, topic: &str, most: usize) -> Vec<Arc<str>> {
        self.inner.clients.producers_of(topic, most)
    }

    /// A producer was sent this check.
    pub fn checked(&self, check: TransactionCheck) {
        // A shard that has stopped counts nothing any more.
        let _ = self.inner.shard.submit(Command::Checked { check });
    }
}

/// The command for a half message, and how long its message asks to be left alone.
pub(crate) fn half_command<T>(
    topic: TopicId,
    message: Incoming,
    immunity_millis: Option<i64>,
    polled: bool,
    deadline: Option<UnixMillis>,
    token: T,
) -> Command<T> {
    let immunity_millis = immunity_millis.map(|millis| millis.clamp(0, limits::TRANSACTION_IMMUNITY_MILLIS_MAX));
    Command::SendHalf { topic, record: message.record, immunity_millis, polled, deadline, token }
}
