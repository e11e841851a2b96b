//! Receives and acknowledgements of a filled topic: 32 acks to a request, or one by one as the official clients do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use prost::Message as _;

use crate::client::{Role, Session, WIDE_WINDOW, all_tags, ok, resource};
use crate::error::Result;
use crate::load::{self, Gate, Snapshot, Tally, Target};
use crate::pb;
use crate::report::Report;
use crate::slim::{AckEntry, AckRequest, AckResponse, Message, ReceiveResponse};
use crate::wire::{Rpc, frame, protocol};

/// Largest batch of the protocol.
pub const BATCH: i32 = 32;
/// How long the server may hold a poll.
const POLL: i64 = 15;
/// Deadline of a poll: what it may be held, and the usual three seconds.
pub const POLL_TIMEOUT: HeaderValue = HeaderValue::from_static("18S");

/// Receive window of a client that is one of many.
const SMALL_WINDOW: u32 = 65_535;

/// How messages are acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Acks {
    /// All of a batch in one request.
    Batch,
    /// One request a message, those of a batch at the same time.
    Single,
    /// Not at all: the messages stay invisible for an hour, and count as done when they are received.
    None,
}

/// How a receive load is shaped.
#[derive(Clone, Debug)]
pub struct Receives {
    /// Consumer group; a fresh one reads from the start of a fresh topic.
    pub group: String,
    /// Polls at the same time.
    pub pollers: usize,
    /// Connections they are spread over.
    pub connections: usize,
    /// Messages to receive and acknowledge.
    pub count: u64,
    /// How to acknowledge.
    pub acks: Acks,
}

/// A consumer session.
pub struct Consumer {
    session: Session,
    group: String,
    topic: String,
    polls: Vec<Bytes>,
}

/// Invisible duration of messages that are not to be acknowledged.
const LEFT_OPEN: prost_types::Duration = prost_types::Duration { seconds: 3600, nanos: 0 };

impl Consumer {
    /// Connects. `window` bounds what the server can send on one stream before it is read.
    pub async fn open(target: &Target, group: &str, acks: Acks, window: u32, tally: &Tally) -> Result<Self> {
        let role = Role::Consumer { group: group.to_owned(), filter: all_tags() };
        Self::open_as(role, target, group, acks, window, tally).await
    }

    /// The same of a consumer that wants some messages only.
    pub async fn open_filtered(
        target: &Target,
        group: &str,
        filter: &pb::FilterExpression,
        tally: &Tally,
    ) -> Result<Self> {
        let role = Role::Consumer { group: group.to_owned(), filter: filter.clone() };
        Self::open_as(role, target, group, Acks::Batch, WIDE_WINDOW, tally).await
    }

    /// How many different polls there are: one per queue that is assigned to it.
    pub fn queues(&self) -> usize {
        self.polls.len()
    }

    /// The same of a client that subscribes to lite topics.
    pub async fn open_lite(target: &Target, group: &str, client: u32, tally: &Tally) -> Result<Self> {
        let role = Role::LiteConsumer { group: group.to_owned(), client };
        Self::open_as(role, target, group, Acks::Single, SMALL_WINDOW, tally).await
    }

    async fn open_as(role: Role, target: &Target, group: &str, acks: Acks, window: u32, tally: &Tally) -> Result<Self> {
        let traffic = Arc::clone(&tally.traffic);
        let filter = match &role {
            Role::Consumer { filter, .. } => filter.clone(),
            Role::Producer | Role::LiteConsumer { .. } => all_tags(),
        };
        let session = Session::open(&target.endpoint, &target.topic, role, window, traffic).await?;
        let polls = session
            .queues
            .iter()
            .map(|queue| {
                frame(&pb::ReceiveMessageRequest {
                    group: Some(resource(group)),
                    message_queue: Some(queue.clone()),
                    filter_expression: Some(filter.clone()),
                    batch_size: BATCH,
                    invisible_duration: (acks == Acks::None).then_some(LEFT_OPEN),
                    // Renewal would end with the client.
                    auto_renew: acks != Acks::None,
                    long_polling_timeout: Some(prost_types::Duration { seconds: POLL, nanos: 0 }),
                    attempt_id: None,
                })
            })
            .collect();
        Ok(Self { session, group: group.to_owned(), topic: target.topic.clone(), polls })
    }

    /// Says which lite topics it wants: all of them, as clients do every 30 s.
    pub async fn sync_lite(&self, names: &[String]) -> Result<()> {
        let request = pb::SyncLiteSubscriptionRequest {
            action: pb::LiteSubscriptionAction::CompleteAdd as i32,
            topic: Some(resource(&self.topic)),
            group: Some(resource(&self.group)),
            lite_topic_set: names.to_vec(),
            ..Default::default()
        };
        let answer: pb::SyncLiteSubscriptionResponse =
            self.session.call(Rpc::SyncLiteSubscription, frame(&request)).await?;
        ok(Rpc::SyncLiteSubscription, answer.status)
    }

    /// Starts a poll; `turn` chooses among the assigned queues.
    pub async fn poll(&self, turn: usize) -> Result<crate::wire::Answer> {
        let poll = self.polls[turn % self.polls.len()].clone();
        self.session.stream(Rpc::ReceiveMessage, &POLL_TIMEOUT, poll).await
    }

    /// Reads a poll's answer to its end: the messages, none if the poll found nothing.
    pub async fn read(&self, mut answer: crate::wire::Answer) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        let mut status = None;
        while let Some(bytes) = answer.next().await? {
            let part = ReceiveResponse::decode(bytes).map_err(|e| protocol(Rpc::ReceiveMessage, e))?;
            messages.extend(part.message);
            status = status.or(part.status);
        }
        let code = status.as_ref().map_or(0, |s| s.code);
        if code == pb::Code::MessageNotFound as i32 && messages.is_empty() {
            return Ok(messages);
        }
        ok(Rpc::ReceiveMessage, status)?;
        Ok(messages)
    }

    /// Polls once. An error is counted, and nothing received.
    pub async fn receive(&self, turn: usize, tally: &Tally) -> Vec<Message> {
        let received = match self.poll(turn).await {
            Ok(answer) => self.read(answer).await,
            Err(error) => Err(error),
        };
        match received {
            Ok(messages) => messages,
            Err(error) => {
                tally.fail(&error);
                // "Too many requests" and the like: an official client waits 20 ms.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Vec::new()
            }
        }
    }

    /// Acknowledges messages; how many were.
    pub async fn ack(&self, messages: &[Message], how: Acks, tally: &Tally) -> u64 {
        match how {
            Acks::None => messages.len() as u64,
            Acks::Batch => self.ack_request(messages, tally).await,
            Acks::Single => {
                let requests = messages.chunks(1).map(|one| self.ack_request(one, tally));
                futures_util::future::join_all(requests).await.into_iter().sum()
            }
        }
    }

    async fn ack_request(&self, messages: &[Message], tally: &Tally) -> u64 {
        let properties = messages.iter().filter_map(|m| m.system_properties.as_ref());
        let entries = properties.map(|p| AckEntry {
            message_id: p.message_id.clone(),
            receipt_handle: p.receipt_handle.clone().unwrap_or_default(),
        });
        let request = AckRequest {
            group: Some(resource(&self.group)),
            topic: Some(resource(&self.topic)),
            entries: entries.collect(),
        };
        let answer: Result<AckResponse> = self.session.call(Rpc::AckMessage, frame(&request)).await;
        match answer {
            Ok(answer) => {
                let mut acked = 0;
                for entry in answer.entries {
                    match ok(Rpc::AckMessage, entry.status) {
                        Ok(()) => acked += 1,
                        Err(error) => tally.fail(&error),
                    }
                }
                if acked == 0
                    && let Err(error) = ok(Rpc::AckMessage, answer.status)
                {
                    tally.fail(&error);
                }
                acked
            }
            Err(error) => {
                tally.fail(&error);
                0
            }
        }
    }

    /// Says goodbye; a server that does not answer is not waited for.
    pub async fn close(&self) {
        drop(tokio::time::timeout(Duration::from_secs(1), self.session.close()).await);
    }
}

/// Receives and acknowledges `count` messages that are in the topic already.
pub fn drain(target: &Target, receives: &Receives) -> Result<Report> {
    let tally = Arc::new(Tally::default());
    let worker = async |_, mut gate: Gate| {
        let mut consumers = Vec::new();
        for _ in 0..receives.connections.clamp(1, receives.pollers.max(1)) {
            consumers.push(Consumer::open(target, &receives.group, receives.acks, WIDE_WINDOW, &tally).await?);
        }
        gate.pass().await;
        let polls = (0..receives.pollers).map(|i| poll_loop(&consumers[i % consumers.len()], i, receives.acks, &tally));
        let all = futures_util::future::join_all(polls);
        tokio::select! {
            _ = all => {}
            // Polls of an empty topic are held for long: nobody waits for them.
            () = gate.over(Duration::ZERO) => {}
        }
        for consumer in &consumers {
            consumer.close().await;
        }
        Ok(())
    };
    let drive = || {
        let before = Snapshot::take(target, &tally)?;
        load::until_done("receive", &tally, receives.count, Duration::from_secs(30))?;
        Ok((before, Snapshot::take(target, &tally)?))
    };
    let ((before, after), _) = load::run(1, &tally, worker, drive)?;
    let mut report = Report::new(format!(
        "receive and ack: {} messages, {} pollers on {} connections, acks {:?}",
        receives.count, receives.pollers, receives.connections, receives.acks
    ));
    load::add_figures(&mut report, &before, &after, None);
    report.first_error = tally.first_error();
    Ok(report)
}

async fn poll_loop(consumer: &Consumer, index: usize, acks: Acks, tally: &Tally) {
    let mut turn = index;
    while !tally.stopped() {
        let messages = consumer.receive(turn, tally).await;
        turn += 1;
        if !messages.is_empty() {
            tally.add(consumer.ack(&messages, acks, tally).await);
        }
    }
}
