//! Calls of consumers that broadcast: each keeps its own place.
//!
//! Source: grpc-v1.md section 7.

use super::consumer::filter;
use super::{DIALECT, V1, check_client_id, code, hold_millis};
use crate::call::Call;
use crate::code::Denied;
use crate::latency::Package;
use crate::message_out::{Dialect, Frames, not_handed_out};
use crate::proto::rocketmq_v1::{self as wire, QueryOffsetPolicy};
use crate::proto::v2::Code;
use crate::pull::nearest;
use crate::resource::{group_name, topic_name};
use crate::service::Refused;
use crate::time;
use crate::transport::reply;
use bytes::Bytes;
use h2::server::SendResponse;
use martlet_broker::{OffsetOf, PullRequest, Pulled};
use martlet_model::{QueueOffset, UnixMillis, limits};
use prost::Message;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

/// The answer has its messages elsewhere.
const PULLED: Dialect = Dialect { messages: 5, ..DIALECT };

impl V1<'_> {
    pub(super) async fn query_offset(
        self,
        _call: &Call,
        request: wire::QueryOffsetRequest,
    ) -> Result<wire::QueryOffsetResponse, Denied> {
        let which = match QueryOffsetPolicy::try_from(request.policy) {
            Ok(QueryOffsetPolicy::Beginning) => OffsetOf::Beginning,
            Ok(QueryOffsetPolicy::End) => OffsetOf::End,
            Ok(QueryOffsetPolicy::TimePoint) => {
                let at = request.time_point.as_ref().and_then(time::unix_millis);
                OffsetOf::Time(UnixMillis(at.ok_or_else(|| {
                    Denied::new(Code::BadRequest, "time_point is missing or not a time, policy TIME_POINT needs it")
                })?))
            }
            Err(_) => return Err(Denied::new(Code::BadRequest, format!("policy {} is not known", request.policy))),
        };
        let (topic, queue) = queue_of(request.partition.as_ref())?;
        let offset = offset_out(self.broker.offset_of(&topic, queue, which).await?);
        Ok(wire::QueryOffsetResponse { common: code::ok(), offset })
    }

    /// One pull. Clients go on from the offset in the answer, whatever its code: it is never missing.
    pub(super) async fn pull_message(
        self,
        call: &Call,
        request: wire::PullMessageRequest,
        respond: &mut SendResponse<Bytes>,
    ) {
        let asked = request.offset;
        let resource = request.partition.as_ref().and_then(|partition| partition.topic.clone()).unwrap_or_default();
        let pulled = tokio::select! {
            biased;
            pulled = self.pull(call, request) => pulled,
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return self.stats.cancelled(call, Package::V1),
            () = self.shutdown() => Ok(None),
        };
        let mut answer = wire::PullMessageResponse { common: code::ok(), next_offset: asked, ..Default::default() };
        let mut frames = Frames::of(&PULLED, resource.encode_to_vec(), 256);
        let mut count = 0;
        // Held until they are written.
        let mut budget = None;
        match pulled {
            Ok(Some(pulled)) => {
                answer.next_offset = offset_out(pulled.next);
                (answer.min_offset, answer.max_offset) = (offset_out(pulled.min), offset_out(pulled.max));
                let store_host = call.peer.local.to_string();
                for message in &pulled.messages {
                    count += usize::from(frames.message_or_say(&not_handed_out(message), &store_host));
                }
                budget = Some(pulled.budget);
            }
            Ok(None) => {}
            Err((denied, nearest)) => {
                self.broker.count_refusal(denied.code.as_str_name());
                answer = wire::PullMessageResponse {
                    next_offset: nearest.map_or(asked, offset_out),
                    ..wire::PullMessageResponse::refused(denied)
                };
            }
        }
        let written = reply::answer(respond, frames.finish_as_one(&answer), &self.outbound).await.is_ok();
        drop(budget);
        if written {
            self.stats.delivered(count);
        }
        self.stats.answered(call, Package::V1, answer.code(), written);
    }

    /// Why nothing was pulled, and where to go on if that is known.
    async fn pull(
        self,
        call: &Call,
        request: wire::PullMessageRequest,
    ) -> Result<Option<Pulled>, (Denied, Option<QueueOffset>)> {
        self.check_access(call, &request).map_err(|denied| (denied, None))?;
        check_client_id(&request.client_id)?;
        let group = group_name(request.group.as_ref())?;
        let (topic, queue) = queue_of(request.partition.as_ref())?;
        let Ok(from) = u64::try_from(request.offset).map(QueueOffset) else {
            let text = format!("offset {} is negative", request.offset);
            return Err((Denied::new(Code::IllegalOffset, text), Some(QueueOffset(0))));
        };
        let filter = Arc::new(filter(request.filter_expression.as_ref())?);
        if request.batch_size < 1 {
            let text = format!("batch_size {} is less than 1", request.batch_size);
            return Err(Denied::new(Code::BadRequest, text).into());
        }
        let poll_millis = hold_millis(request.await_time.as_ref(), call.remaining());
        let poll = self.polls.begin(&request.client_id)?;
        let batch_size = (request.batch_size as u32).min(limits::RECEIVE_BATCH_MAX);
        let commands = self.commands.of(&poll.client_id)?;
        if self.broker.known_topic(&topic).is_some_and(|topic| (topic.read_queues..topic.write_queues).contains(&queue))
        {
            // Those that broadcast pull every queue of the route, whatever its permission.
            tokio::select! {
                () = commands.ended() => {}
                () = tokio::time::sleep(Duration::from_millis(poll_millis.unsigned_abs())) => {}
            }
            return Ok(None);
        }
        let pull = PullRequest { group, topic, queue, from, filter, batch_size, poll_millis };
        let pulled = tokio::select! {
            biased;
            pulled = self.broker.pull(pull) => pulled,
            () = commands.ended() => return Ok(None),
        };
        pulled.map(Some).map_err(|refusal| (Denied::from(&refusal), nearest(&refusal)))
    }
}

/// Name of the topic and number of the queue.
fn queue_of(partition: Option<&wire::Partition>) -> Result<(String, u32), Denied> {
    let topic = topic_name(partition.and_then(|partition| partition.topic.as_ref()))?;
    let id = partition.map_or(0, |partition| partition.id);
    match u32::try_from(id) {
        Ok(id) => Ok((topic, id)),
        Err(_) => {
            Err(Denied::new(Code::BadRequest, format!("partition.id {id} is negative; one queue is to be named")))
        }
    }
}

fn offset_out(offset: QueueOffset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}
