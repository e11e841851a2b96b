//! Polls: for messages in any order, in order, and for half messages.
//!
//! Source: http.md sections 3.4 and 5.

use crate::answer::{Answer, Code, Denied};
use crate::body::Reply;
use crate::connection::Link;
use crate::front::Front;
use crate::message_out::{self, Facts};
use crate::target::{Mode, Target};
use crate::xml_out::Document;
use hyper::{HeaderMap, StatusCode};
use martlet_broker::{GroupSettings, HALF_LEASE_MILLIS, HandedOut, ReceiveRequest, Received, Refusal};
use martlet_model::group::{DeliveryOrder, RetryBackoff};
use martlet_model::{Filter, GroupConfig, limits};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time to the next delivery, for groups that do not say otherwise, in milliseconds.
const UNORDERED_MILLIS: i64 = 300_000;
const ORDERED_MILLIS: i64 = 60_000;
/// Deliveries of a message: the first and 288 more.
const ATTEMPTS_MAX: u32 = 289;
/// Shortest time to the next delivery that a group can ask for, in milliseconds.
const NEXT_MILLIS_MIN: i64 = 1_000;
/// Bytes of a document beyond which no message is added.
const DOCUMENT_BYTES_MAX: usize = 8 << 20;

impl Front {
    /// Hands out messages, of which there is at least one, or says that there are none.
    pub(crate) async fn consume(&self, link: &Link, headers: &HeaderMap, target: &Target) -> Result<Answer, Denied> {
        let (group, count, wait) = (target.needs_group()?, target.count()?, target.wait_millis()?);
        if target.mode == Mode::Halves {
            return self.consume_halves(target, count as usize, wait).await;
        }
        let filter = Filter::tags(target.tag.as_deref().unwrap_or("*")).map_err(Refusal::from)?;
        self.broker.untyped_topic(&target.topic).await?;
        let config = self.broker.group_or(group, &settings(target.mode)).await?;
        if target.mode == Mode::Ordered && config.order != DeliveryOrder::Fifo {
            let text = format!(
                "consumer group {group} is consumed in order and was not made for that; an ordered one is made by its first \
                 ordered consume, or with order fifo"
            );
            return Err(Denied::argument(text));
        }
        let end = Instant::now() + Duration::from_millis(wait.unsigned_abs());
        let invisible_millis = next_consume_millis(&config);
        let mut request = ReceiveRequest {
            client_id: self.member(link, headers, group)?,
            group: group.to_owned(),
            topic: target.topic.clone(),
            filter: Arc::new(filter),
            batch_size: count,
            invisible_millis,
            renew_for_millis: None,
            poll_millis: wait,
            message_group_max: count,
            attempt_id: None,
            queue: None,
        };
        loop {
            let received = tokio::select! {
                biased;
                received = self.broker.receive(request.clone()) => received?,
                () = self.shutdown() => Received::default(),
            };
            if received.messages.is_empty() {
                return Err(Denied::nothing());
            }
            if let Some(answer) = self.messages(&request, received).await? {
                return Ok(answer);
            }
            // All of it went to the dead letters. An empty answer would break clients.
            let left = end.saturating_duration_since(Instant::now()).as_millis();
            request.poll_millis = i64::try_from(left).unwrap_or(0);
        }
    }

    /// The document with what was handed out. What XML cannot carry goes to the dead letters, so that it does not break what comes
    /// with it; what does not fit goes back undone. `None`: nothing is left.
    async fn messages(&self, request: &ReceiveRequest, received: Received) -> Result<Option<Answer>, Denied> {
        let (group, topic) = (&request.group, &request.topic);
        let handles = received.messages.iter().map(|message| message.handle.clone()).collect();
        let mut handed_out = HandedOut::new(&self.broker, group, handles);
        let now = martlet_broker::wall_clock().0;
        let bytes: usize = received.messages.iter().map(|message| message.record.len() + 512).sum();
        let mut document = Document::begin("Messages", bytes);
        let (mut written, mut uncarriable) = (Vec::new(), Vec::new());
        for message in received.messages {
            if document.len() > DOCUMENT_BYTES_MAX {
                break;
            }
            let before = i64::from(message.attempt.saturating_sub(1));
            let facts = Facts {
                handle: &message.handle,
                stored: message.store_time.0,
                // When that was is not kept; these deliveries come at intervals.
                first_consumed: now - before * message.invisible_millis,
                next_consume: now + message.invisible_millis,
                attempt: message.attempt,
            };
            match message_out::write(&mut document, &message.record, &facts) {
                Ok(()) => written.push(message.handle),
                Err(why) => uncarriable.push((message.handle, message.queue, message.offset, why)),
            }
        }
        drop(received.budget);
        handed_out.all_but(
            &[&written[..], &uncarriable.iter().map(|(handle, ..)| handle.clone()).collect::<Vec<_>>()].concat(),
        );
        for (handle, queue, offset, why) in uncarriable {
            // Should it not get there it waits for its next delivery: given back at once it would come again at once.
            handed_out.keep(std::slice::from_ref(&handle));
            let moved = self.broker.forward_to_dead_letters(group, topic, &handle).await;
            self.complaints.say(|more| {
                tracing::warn!(topic, group, queue, %offset, %why, ?moved, more, "a message cannot be sent over HTTP, it is a dead letter");
            });
        }
        if written.is_empty() {
            return Ok(None);
        }
        let document = document.finish();
        let mut held = self.outbound.nothing();
        if !self.outbound.take(&mut held, document.len(), self.limits.write_timeout).await {
            let limit = self.outbound.limit() as u64;
            return Err(Refusal::Busy { what: "bytes of replies under way", limit }.into());
        }
        let reply = Reply::with_messages(document, held, handed_out);
        Ok(Some(Answer { status: StatusCode::OK, code: Code::Ok, reply }))
    }

    /// Hands out half messages that are due. Whoever asks may have them.
    async fn consume_halves(&self, target: &Target, count: usize, wait: i64) -> Result<Answer, Denied> {
        self.broker.untyped_topic(&target.topic).await?;
        let wait = Duration::from_millis(wait.unsigned_abs());
        let halves = tokio::select! {
            biased;
            halves = self.broker.poll_halves(&target.topic, count, wait) => halves?,
            () = self.shutdown() => Vec::new(),
        };
        let mut document = Document::begin("Messages", halves.len() * 512);
        let mut any = false;
        for half in halves {
            let facts = Facts {
                handle: &half.handle,
                stored: half.began.0,
                first_consumed: half.until.0 - HALF_LEASE_MILLIS,
                next_consume: half.until.0,
                attempt: half.number,
            };
            match message_out::write(&mut document, &half.message.record, &facts) {
                Ok(()) => any = true,
                // These came over HTTP.
                Err(why) => tracing::error!(%why, topic = target.topic, "a half message cannot be sent over HTTP"),
            }
        }
        match any {
            true => Ok(Answer { status: StatusCode::OK, code: Code::Ok, reply: Reply::new(document.finish()) }),
            false => Err(Denied::nothing()),
        }
    }
}

/// What a group is made with by its first HTTP consumer.
fn settings(mode: Mode) -> GroupSettings {
    let (order, millis) = match mode {
        Mode::Ordered => (DeliveryOrder::Fifo, ORDERED_MILLIS),
        _ => (DeliveryOrder::Concurrent, UNORDERED_MILLIS),
    };
    GroupSettings {
        order: Some(order),
        max_attempts: Some(ATTEMPTS_MAX),
        backoff: Some(RetryBackoff::Customized(vec![millis])),
        ..GroupSettings::default()
    }
}

/// Time to the next delivery: the first wait of the group's back-off; of one that was left at its default, this protocol's.
fn next_consume_millis(group: &GroupConfig) -> i64 {
    let default = match group.order {
        DeliveryOrder::Concurrent => UNORDERED_MILLIS,
        DeliveryOrder::Fifo => ORDERED_MILLIS,
    };
    match group.retry.backoff == GroupSettings::default_retry(group.order).backoff {
        true => default,
        false => group.retry.backoff.wait_millis(1).clamp(NEXT_MILLIS_MIN, limits::CHANGE_INVISIBLE_MILLIS_MAX),
    }
}
