//! Calls of consumers that keep their own place: PullMessage, GetOffset, UpdateOffset, QueryOffset.
//!
//! No client of the project has them and the reference does not serve them; what the messages leave open is said in
//! docs/compatibility.md.

use crate::call::Call;
use crate::code::{self, Denied};
use crate::latency::Package;
use crate::message_out::{Frames, not_handed_out};
use crate::proto::v2::{self, Code, QueryOffsetPolicy};
use crate::resource::{group_name, of_instance, topic_name};
use crate::service::Front;
use crate::settings;
use crate::time;
use crate::transport::reply;
use bytes::Bytes;
use h2::server::SendResponse;
use martlet_broker::{OffsetOf, PullRequest, Pulled, Refusal};
use martlet_model::{QueueOffset, UnixMillis, limits};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

/// Kept free of the client's deadline, for the way back.
const DEADLINE_RESERVE_MILLIS: i64 = 100;

/// What a pull ended with: how it went, what it brought, and where to go on, if that is known.
struct Answer {
    result: Result<Pulled, Denied>,
    next: Option<QueueOffset>,
}

impl Front {
    /// One pull. The frames: the status, the messages, the offset to go on from. Where the offset asked for is not one of the
    /// queue's, the nearest one that is.
    pub(crate) async fn pull_message(
        &self,
        call: &Call,
        request: v2::PullMessageRequest,
        respond: &mut SendResponse<Bytes>,
    ) {
        let from = u64::try_from(request.offset).ok().map(QueueOffset);
        let topic = of_instance(request.message_queue.as_ref());
        let answer = tokio::select! {
            biased;
            answer = self.pull(call, request) => answer,
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return self.stats.cancelled(call, Package::V2),
            () = self.shutdown() => {
                let pulled = Pulled { next: from.unwrap_or_default(), ..Pulled::default() };
                Answer { result: Ok(pulled), next: from }
            }
        };
        let mut frames = Frames::of_topic(topic.as_ref(), 256);
        let code = match &answer.result {
            Ok(pulled) if pulled.messages.is_empty() => {
                frames.status(Code::MessageNotFound, "no new message");
                Code::MessageNotFound
            }
            Ok(pulled) => {
                frames.status(Code::Ok, "OK");
                let store_host = call.peer.local.to_string();
                for message in &pulled.messages {
                    frames.message_or_say(&not_handed_out(message), &store_host);
                }
                Code::Ok
            }
            Err(denied) => {
                self.broker.count_refusal(denied.code.as_str_name());
                frames.status(denied.code, &denied.message);
                denied.code
            }
        };
        if let Some(next) = answer.next {
            frames.next_offset(next);
        }
        let written = reply::answer(respond, frames.finish(), &self.outbound).await;
        if let (Ok(()), Ok(pulled)) = (&written, &answer.result) {
            self.stats.delivered(pulled.messages.len());
        }
        self.stats.answered(call, Package::V2, code as i32, written.is_ok());
    }

    async fn pull(&self, call: &Call, request: v2::PullMessageRequest) -> Answer {
        let pulling = async {
            self.check_access(call, &request)?;
            let client_id = call.client_id()?;
            let group = group_name(request.group)?;
            let (topic, queue) = queue_of(request.message_queue)?;
            let from = offset(request.offset)?;
            let filter = Arc::new(settings::filter(request.filter_expression.as_ref())?);
            if request.batch_size < 1 {
                let text = format!("batch_size {} is less than 1", request.batch_size);
                return Err((Denied::new(Code::BadRequest, text), None));
            }
            let poll_millis = poll_millis(request.long_polling_timeout.as_ref(), call.remaining())?;
            let _poll = self.polls.begin(client_id)?;
            let batch_size = request.batch_size as u32;
            let request = PullRequest { group, topic, queue, from, filter, batch_size, poll_millis };
            self.broker.pull(request).await.map_err(|refusal| (Denied::from(&refusal), nearest(&refusal)))
        };
        match pulling.await {
            Ok(pulled) => Answer { next: Some(pulled.next), result: Ok(pulled) },
            Err((denied, next)) => Answer { result: Err(denied), next },
        }
    }

    pub(crate) async fn get_offset(
        &self,
        call: &Call,
        request: v2::GetOffsetRequest,
    ) -> Result<v2::GetOffsetResponse, Denied> {
        call.client_id()?;
        let group = group_name(request.group)?;
        let (topic, queue) = queue_of(request.message_queue)?;
        match self.broker.committed_offset(&group, &topic, queue).await? {
            Some(committed) => Ok(v2::GetOffsetResponse { status: Some(code::ok()), offset: wire(committed) }),
            None => {
                let text = format!("consumer group {group} has no offset in queue {queue} of topic {topic} yet");
                Err(Denied::new(Code::OffsetNotFound, text))
            }
        }
    }

    pub(crate) async fn update_offset(
        &self,
        call: &Call,
        request: v2::UpdateOffsetRequest,
    ) -> Result<v2::UpdateOffsetResponse, Denied> {
        call.client_id()?;
        let group = group_name(request.group)?;
        let (topic, queue) = queue_of(request.message_queue)?;
        let to = offset(request.offset)?;
        self.broker.commit_offset(&group, &topic, queue, to).await?;
        Ok(v2::UpdateOffsetResponse { status: Some(code::ok()) })
    }

    pub(crate) async fn query_offset(
        &self,
        call: &Call,
        request: v2::QueryOffsetRequest,
    ) -> Result<v2::QueryOffsetResponse, Denied> {
        call.client_id()?;
        let (topic, queue) = queue_of(request.message_queue)?;
        let which = match QueryOffsetPolicy::try_from(request.query_offset_policy) {
            Ok(QueryOffsetPolicy::Beginning) => OffsetOf::Beginning,
            Ok(QueryOffsetPolicy::End) => OffsetOf::End,
            Ok(QueryOffsetPolicy::Timestamp) => OffsetOf::Time(timestamp(request.timestamp.as_ref())?),
            Err(_) => {
                let text = format!("query_offset_policy {} is not known", request.query_offset_policy);
                return Err(Denied::new(Code::BadRequest, text));
            }
        };
        let found = self.broker.offset_of(&topic, queue, which).await?;
        Ok(v2::QueryOffsetResponse { status: Some(code::ok()), offset: wire(found) })
    }
}

/// Of an offset that is not one of the queue's, the nearest that is.
pub(crate) fn nearest(refusal: &Refusal) -> Option<QueueOffset> {
    match refusal {
        Refusal::OffsetOutOfRange { offset, min, max, .. } => Some(QueueOffset((*offset).clamp(*min, *max))),
        _ => None,
    }
}

impl From<Denied> for (Denied, Option<QueueOffset>) {
    fn from(denied: Denied) -> Self {
        (denied, None)
    }
}

/// Name of the topic and number of the queue.
fn queue_of(queue: Option<v2::MessageQueue>) -> Result<(String, u32), Denied> {
    let queue = queue.unwrap_or_default();
    let topic = topic_name(queue.topic)?;
    match u32::try_from(queue.id) {
        Ok(id) => Ok((topic, id)),
        Err(_) => {
            let text = format!("message_queue.id {} is negative; one queue is to be named", queue.id);
            Err(Denied::new(Code::BadRequest, text))
        }
    }
}

fn offset(offset: i64) -> Result<QueueOffset, Denied> {
    match u64::try_from(offset) {
        Ok(offset) => Ok(QueueOffset(offset)),
        Err(_) => Err(Denied::new(Code::IllegalOffset, format!("offset {offset} is negative"))),
    }
}

fn timestamp(timestamp: Option<&prost_types::Timestamp>) -> Result<UnixMillis, Denied> {
    let Some(timestamp) = timestamp else {
        return Err(Denied::new(Code::BadRequest, "timestamp is missing, query_offset_policy TIMESTAMP needs it"));
    };
    time::unix_millis(timestamp).map(UnixMillis).ok_or_else(|| {
        let prost_types::Timestamp { seconds, nanos } = timestamp;
        Denied::new(Code::BadRequest, format!("timestamp of {seconds} s and {nanos} ns is not a time"))
    })
}

fn wire(offset: QueueOffset) -> i64 {
    i64::try_from(offset.0).unwrap_or(i64::MAX)
}

/// How long a pull waits: as asked, not at all if nothing is, at most as long as a poll, and never past the deadline.
pub(crate) fn poll_millis(asked: Option<&prost_types::Duration>, remaining: Option<Duration>) -> Result<i64, Denied> {
    let Some(asked) = asked else { return Ok(0) };
    let Some(wanted) = time::millis(asked) else {
        let prost_types::Duration { seconds, nanos } = asked;
        let text = format!("long_polling_timeout of {seconds} s and {nanos} ns is not a duration");
        return Err(Denied::new(Code::IllegalPollingTime, text));
    };
    let left = remaining.map(|left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
    let left = left.map_or(i64::MAX, |left| (left - DEADLINE_RESERVE_MILLIS).max(0));
    Ok(wanted.min(limits::POLL_MILLIS.1).min(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_waits_as_asked_and_never_past_its_deadline() {
        let wait = |asked: Option<i64>, left: Option<u64>| {
            let asked = asked.map(time::duration);
            poll_millis(asked.as_ref(), left.map(Duration::from_millis)).map_err(|denied| denied.code)
        };
        assert_eq!(wait(None, None), Ok(0));
        assert_eq!(wait(None, Some(3_000)), Ok(0));
        assert_eq!(wait(Some(1_000), None), Ok(1_000));
        assert_eq!(wait(Some(40_000), None), Ok(20_000));
        assert_eq!(wait(Some(15_000), Some(3_000)), Ok(2_900));
        assert_eq!(wait(Some(15_000), Some(50)), Ok(0));
        assert_eq!(wait(Some(-1), None), Err(Code::IllegalPollingTime));
    }
}
