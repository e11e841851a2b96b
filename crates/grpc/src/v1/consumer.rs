//! Calls of consumers that share messages: assignments, polls, settlements.
//!
//! A concurrent consumer is assigned one partition, -1, which stands for all queues: messages are handed out one by one, so that
//! members share whatever the number of queues is, with members of other protocols, too. An ordered consumer is assigned every
//! queue; of each it takes one message at a time, and order is kept by what is locked. Where broadcasting takes effect for
//! the group, each member is assigned every queue, and gets all of it.
//!
//! Source: grpc-v1.md sections 5 and 7.

use super::{DIALECT, V1, check_client_id, code, hold_millis};
use crate::call::Call;
use crate::code::Denied;
use crate::consumer::frames_capacity;
use crate::latency::Package;
use crate::message_out::Frames;
use crate::proto::rocketmq_v1::{self as wire, ConsumePolicy};
use crate::proto::v2::{self, Code};
use crate::resource::{group_name, topic_name};
use crate::service::Refused;
use crate::transport::reply;
use crate::{settings, time};
use bytes::Bytes;
use h2::server::SendResponse;
use martlet_broker::{GroupSettings, HandedOut, ReceiveRequest, Received, Refusal};
use martlet_model::group::DeliveryOrder;
use martlet_model::limits;
use prost::Message;
use std::future::poll_fn;
use std::sync::Arc;

impl V1<'_> {
    pub(super) async fn query_assignment(
        self,
        call: &Call,
        request: wire::QueryAssignmentRequest,
    ) -> Result<wire::QueryAssignmentResponse, Denied> {
        check_client_id(&request.client_id)?;
        let (name, group) = (topic_name(request.topic.as_ref())?, group_name(request.group.as_ref())?);
        let topic = self.broker.untyped_topic(&name).await?;
        if !topic.permission.readable() || topic.read_queues == 0 {
            return Err(Refusal::NotReadable { topic: name }.into());
        }
        let common = code::ok();
        let Some(config) = self.broker.known_group(&group) else {
            if !self.broker.options().auto_create_groups {
                return Err(Refusal::GroupNotFound { group }.into());
            }
            // Its first heartbeat makes it, and says in which order it consumes; the client asks again in a moment.
            return Ok(wire::QueryAssignmentResponse { common, assignments: Vec::new() });
        };
        let resource = request.topic.unwrap_or_default();
        let endpoints = self.endpoints_for(call, request.endpoints);
        let each = config.order == DeliveryOrder::Fifo || self.broker.broadcasts(&group);
        let queues = if each { 0..topic.read_queues as i32 } else { -1..0 };
        let assignments = queues
            .map(|id| wire::Assignment { partition: Some(self.partition(&topic, &resource, id, &endpoints)) })
            .collect();
        Ok(wire::QueryAssignmentResponse { common, assignments })
    }

    /// One long poll. Messages that the client did not take go back.
    pub(super) async fn receive_message(
        self,
        call: &Call,
        mut request: wire::ReceiveMessageRequest,
        respond: &mut SendResponse<Bytes>,
    ) {
        let resource = request.partition.as_mut().and_then(|partition| partition.topic.take()).unwrap_or_default();
        let invisible_duration = request.invisible_duration;
        let received = tokio::select! {
            biased;
            received = self.poll(call, &resource, request) => received,
            // Dropping the poll gives it up: what would have been handed out stays with the broker.
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return self.stats.cancelled(call, Package::V1),
            () = self.shutdown() => Ok(None),
        };
        let mut answer = wire::ReceiveMessageResponse { common: code::ok(), ..Default::default() };
        let mut count = 0;
        // Held until they are written.
        let mut handed_out = None;
        let chunks = match received {
            Ok(Some(received)) => {
                let now = martlet_broker::wall_clock();
                answer.delivery_timestamp = Some(time::timestamp(now));
                answer.invisible_duration = invisible_duration;
                let Polled { group, received } = received;
                let handles = received.messages.iter().map(|message| message.handle.clone()).collect();
                let mut frames = Frames::of(&DIALECT, resource.encode_to_vec(), frames_capacity(&received));
                let store_host = call.peer.local.to_string();
                for message in &received.messages {
                    count += usize::from(frames.message_or_say(message, &store_host));
                }
                handed_out = Some((HandedOut::new(&self.broker, &group, handles), received.budget));
                frames.finish_as_one(&answer)
            }
            Ok(None) => Frames::of(&DIALECT, Vec::new(), 64).finish_as_one(&answer),
            Err(denied) => {
                self.broker.count_refusal(denied.code.as_str_name());
                answer = wire::ReceiveMessageResponse::refused(denied);
                Frames::of(&DIALECT, Vec::new(), 64).finish_as_one(&answer)
            }
        };
        let written = reply::answer(respond, chunks, &self.outbound).await.is_ok();
        self.stats.answered(call, Package::V1, answer.code(), written);
        if written {
            self.stats.delivered(count);
            handed_out.into_iter().for_each(|(messages, _)| messages.written());
        }
    }

    /// `None`: nothing came.
    async fn poll(
        self,
        call: &Call,
        topic: &wire::Resource,
        request: wire::ReceiveMessageRequest,
    ) -> Result<Option<Polled>, Denied> {
        self.check_access(call, &request)?;
        check_client_id(&request.client_id)?;
        let (group, topic) = (group_name(request.group.as_ref())?, topic_name(Some(topic))?);
        let partition = request.partition.as_ref().map_or(-1, |partition| partition.id);
        let filter = Arc::new(filter(request.filter_expression.as_ref())?);
        if request.batch_size < 1 {
            return Err(Denied::new(Code::BadRequest, format!("batch_size {} is less than 1", request.batch_size)));
        }
        if request.consume_policy() != ConsumePolicy::Resume {
            let text = format!(
                "consume_policy {} is not supported; where a new group begins is a setting of the group, and `martlet group \
                 reset` moves it",
                request.consume_policy
            );
            return Err(Denied::new(Code::NotImplemented, text));
        }
        // Made for all types of messages, should it have been deleted.
        self.broker.untyped_topic(&topic).await?;
        // It may come before the first heartbeat.
        let settings = GroupSettings { order: request.fifo_flag.then_some(DeliveryOrder::Fifo), ..Default::default() };
        let config = self.broker.group_or(&group, &settings).await?;
        if request.fifo_flag && config.order != DeliveryOrder::Fifo {
            let text = format!(
                "consumer group {group} is consumed in order and was not made for that; an ordered one is made by its first \
                 ordered consumer, or with order fifo"
            );
            return Err(Denied::new(Code::PreconditionFailed, text));
        }
        let poll = self.polls.begin(&request.client_id)?;
        let poll_millis = hold_millis(request.await_time.as_ref(), call.remaining());
        let (min, max) = limits::RECEIVE_INVISIBLE_MILLIS;
        let invisible = request.invisible_duration.as_ref().and_then(time::millis).unwrap_or(max).clamp(min, max);
        let request = ReceiveRequest {
            client_id: poll.client_id.clone(),
            group: group.clone(),
            topic,
            queue: u32::try_from(partition).ok(),
            filter,
            batch_size: (request.batch_size as u32).min(limits::RECEIVE_BATCH_MAX),
            invisible_millis: limits::AUTO_RENEW_SLICE_MILLIS.min(invisible),
            // So that a client or broker that dies does not keep them for the 15 minutes that clients ask for. An ordered consumer
            // tries again by itself, for as long as it likes, on one handle.
            renew_for_millis: Some(if request.fifo_flag { limits::AUTO_RENEW_TOTAL_MILLIS } else { invisible }),
            poll_millis,
            message_group_max: limits::RECEIVE_BATCH_MAX,
            attempt_id: None,
        };
        let commands = self.commands.of(&poll.client_id)?;
        let received = tokio::select! {
            biased;
            // One that has ended is not to become a member again.
            () = commands.ended() => return Ok(None),
            received = self.broker.receive_or_broadcast(request) => received?,
        };
        Ok((!received.messages.is_empty()).then_some(Polled { group, received }))
    }

    pub(super) async fn ack_message(
        self,
        _call: &Call,
        request: wire::AckMessageRequest,
    ) -> Result<wire::AckMessageResponse, Denied> {
        let handle = match request.handle {
            Some(wire::ack_message_request::Handle::ReceiptHandle(handle)) => handle,
            Some(wire::ack_message_request::Handle::Offset(_)) => {
                return Err(Denied::new(
                    Code::NotImplemented,
                    "an ack by offset is not supported; one by receipt_handle is",
                ));
            }
            None => String::new(),
        };
        let (group, topic) = (request.group, request.topic);
        let (group, topic) = (group_name(group.as_ref())?, topic_name(topic.as_ref())?);
        let acked = match self.broker.ack_broadcast(&group, &topic, &request.client_id, &handle) {
            Some(settled) => settled,
            None => {
                let acked = self.broker.ack(&group, &topic, vec![handle]).await;
                acked.and_then(|acked| acked.into_iter().next().unwrap_or(Ok(())))
            }
        };
        Ok(wire::AckMessageResponse { common: self.settled(&group, acked)? })
    }

    /// A concurrent consumer failed on a message: it comes again after the group's back-off, or after its last attempt is a dead
    /// letter. How many attempts there are, the client says; the group's own number is the upper limit.
    pub(super) async fn nack_message(
        self,
        _call: &Call,
        request: wire::NackMessageRequest,
    ) -> Result<wire::NackMessageResponse, Denied> {
        let (group, topic) = (group_name(request.group.as_ref())?, topic_name(request.topic.as_ref())?);
        let handle = request.receipt_handle;
        let attempt = u32::try_from(request.delivery_attempt).unwrap_or(0).max(1);
        let most = u32::try_from(request.max_delivery_attempts).ok().filter(|most| *most > 0);
        let nacked = match self.broker.ack_broadcast(&group, &topic, &request.client_id, &handle) {
            // What is broadcast is not delivered again.
            Some(settled) => settled,
            None => self.broker.nack(&group, &topic, &handle, attempt, most).await,
        };
        Ok(wire::NackMessageResponse { common: self.settled(&group, nacked)? })
    }

    pub(super) async fn forward_message_to_dead_letter_queue(
        self,
        _call: &Call,
        request: wire::ForwardMessageToDeadLetterQueueRequest,
    ) -> Result<wire::ForwardMessageToDeadLetterQueueResponse, Denied> {
        let (group, topic) = (group_name(request.group.as_ref())?, topic_name(request.topic.as_ref())?);
        let moved = self.broker.forward_to_dead_letters(&group, &topic, &request.receipt_handle).await;
        Ok(wire::ForwardMessageToDeadLetterQueueResponse { common: self.settled(&group, moved)? })
    }

    /// The answer to a settlement. An ordered consumer tries anything but OK again ten times a second and stands still meanwhile:
    /// it is told that a handle is void, or that the topic or group is gone, and that is all there is to do.
    fn settled(self, group: &str, settled: Result<(), Refusal>) -> Result<Option<wire::ResponseCommon>, Denied> {
        let Err(refusal) = settled else { return Ok(code::ok()) };
        let denied = Denied::from(&refusal);
        let ordered = || self.broker.known_group(group).is_none_or(|group| group.order == DeliveryOrder::Fifo);
        let is_over =
            [Code::InvalidReceiptHandle, Code::TopicNotFound, Code::ConsumerGroupNotFound].contains(&denied.code);
        if is_over && ordered() {
            return Ok(code::said(&format!("not settled: {}", denied.message)));
        }
        Err(denied)
    }
}

/// What a poll brought.
struct Polled {
    group: String,
    received: Received,
}

/// Compiles a filter expression. None at all means every message.
pub(super) fn filter(expression: Option<&wire::FilterExpression>) -> Result<martlet_model::Filter, Denied> {
    let Some(expression) = expression else { return Ok(martlet_model::Filter::ALL) };
    let kind = match wire::FilterType::try_from(expression.r#type) {
        Ok(wire::FilterType::Tag) => v2::FilterType::Tag as i32,
        Ok(wire::FilterType::Sql) => v2::FilterType::Sql as i32,
        Err(_) => {
            let text = format!("filter type {} is not known", expression.r#type);
            return Err(Denied::new(Code::IllegalFilterExpression, text));
        }
    };
    settings::filter(Some(&v2::FilterExpression { r#type: kind, expression: expression.expression.clone() }))
}
