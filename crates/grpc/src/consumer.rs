//! Calls of consumers: assignments, polls, settlements.

use crate::call::Call;
use crate::code::{self, Denied};
use crate::latency::Package;
use crate::message_out::Frames;
use crate::proto::v2::{self, Code, Permission};
use crate::resource::{group_name, of_instance, topic_name};
use crate::route;
use crate::service::Front;
use crate::settings;
use crate::time;
use crate::transport::reply;
use bytes::Bytes;
use h2::server::SendResponse;
use martlet_broker::{ReceiveRequest, Received, Refusal};
use martlet_model::group::DeliveryOrder;
use martlet_model::limits;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

/// What the Go client says of itself in `x-mq-language`.
const GO: &str = "GO";
/// Kept free of the client's deadline, for the way back.
const DEADLINE_RESERVE_MILLIS: i64 = 100;
/// Clients from this version on know the code for polls that are too short; compared as text, as the reference does.
const POLLING_TIME_CODE_SINCE: &str = "5.0.3";

impl Front {
    pub(crate) async fn query_assignment(
        &self,
        call: &Call,
        request: v2::QueryAssignmentRequest,
    ) -> Result<v2::QueryAssignmentResponse, Denied> {
        call.client_id()?;
        let resource = request.topic.unwrap_or_default();
        let name = topic_name(Some(&resource))?;
        let group = group_name(request.group)?;
        let topic = self.broker.topic(&name).await?;
        if !topic.permission.readable() || topic.read_queues == 0 {
            return Err(Refusal::NotReadable { topic: name }.into());
        }
        let group = self.broker.group(&group).await?;
        let permission = if topic.permission.writable() { Permission::ReadWrite } else { Permission::Read };
        let endpoints = self.endpoints(call, request.endpoints.as_ref());
        // -1 means the whole broker: it hands out messages of all queues, so one poll serves them all.
        let queues = match group.order {
            _ if group.lite.is_some() => -1..0,
            DeliveryOrder::Fifo => 0..topic.read_queues as i32,
            DeliveryOrder::Concurrent => -1..0,
        };
        let assignments = queues
            .map(|id| {
                let queue = route::queue(&resource, id, permission, self.broker.broker_name(), &endpoints, Vec::new());
                v2::Assignment { message_queue: Some(queue) }
            })
            .collect();
        Ok(v2::QueryAssignmentResponse { status: Some(code::ok()), assignments })
    }

    /// One long poll. The answer is written here because it streams, and because messages that the client did not take
    /// go back.
    pub(crate) async fn receive_message(
        &self,
        call: &Call,
        request: v2::ReceiveMessageRequest,
        respond: &mut SendResponse<Bytes>,
    ) {
        // One that is refused gets no messages that could have to go back.
        let group = group_name(request.group.as_ref()).unwrap_or_default();
        let topic = of_instance(request.message_queue.as_ref());
        let received = tokio::select! {
            biased;
            received = self.poll(call, request) => received,
            // Dropping the poll gives it up: what would have been handed out stays with the broker.
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return self.stats.cancelled(call, Package::V2),
            () = self.shutdown() => Ok(Received::default()),
        };
        let code = match &received {
            Ok(received) if received.messages.is_empty() => Code::MessageNotFound,
            Ok(_) => Code::Ok,
            Err(denied) => denied.code,
        };
        let mut frames = match &received {
            Ok(received) if !received.messages.is_empty() => {
                let mut frames = Frames::of_topic(topic.as_ref(), frames_capacity(received));
                frames.status(Code::Ok, "OK");
                let store_host = call.peer.local.to_string();
                for message in &received.messages {
                    frames.message_or_say(message, &store_host);
                }
                frames
            }
            Ok(_) => {
                let mut frames = Frames::with_capacity(64);
                frames.status(Code::MessageNotFound, "no new message");
                frames
            }
            Err(denied) => {
                self.broker.count_refusal(denied.code.as_str_name());
                let mut frames = Frames::with_capacity(64 + denied.message.len());
                frames.status(denied.code, &denied.message);
                frames
            }
        };
        frames.delivery_timestamp(martlet_broker::wall_clock());
        let written = reply::answer(respond, frames.finish(), &self.outbound).await;
        self.stats.answered(call, Package::V2, code as i32, written.is_ok());
        if let Ok(received) = received {
            match written {
                Ok(()) => self.stats.delivered(received.messages.len()),
                Err(_) if received.messages.is_empty() => {}
                Err(_) => {
                    let handles = received.messages.into_iter().map(|message| message.handle).collect();
                    self.broker.undo(&group, handles);
                }
            }
        }
    }

    async fn poll(&self, call: &Call, request: v2::ReceiveMessageRequest) -> Result<Received, Denied> {
        self.check_access(call, &request)?;
        let client_id = call.client_id()?;
        let group = group_name(request.group)?;
        let queue = request.message_queue.unwrap_or_default();
        let topic = topic_name(queue.topic)?;
        let filter = Arc::new(settings::filter(request.filter_expression.as_ref())?);
        if request.batch_size < 1 {
            return Err(Denied::new(Code::BadRequest, format!("batch_size {} is less than 1", request.batch_size)));
        }
        let invisible_millis = if request.auto_renew {
            limits::AUTO_RENEW_SLICE_MILLIS
        } else {
            let (min, max) = limits::RECEIVE_INVISIBLE_MILLIS;
            invisible_millis(request.invisible_duration.as_ref(), min, max)?
        };
        let poll_millis = poll_millis(
            request.long_polling_timeout.as_ref(),
            call.remaining(),
            self.sessions.request_timeout(client_id),
            call.header("x-mq-client-version"),
        )?;
        // The Go client's push consumer goes on to the next message of a batch while a failed one waits for its retry:
        // of each message group it gets one at a time. Of the push and the simple consumer only the former renews.
        let one_by_one = request.auto_renew && call.header("x-mq-language") == GO;
        let poll = self.polls.begin(client_id)?;
        let request = ReceiveRequest {
            client_id: poll.client_id.clone(),
            group,
            topic,
            queue: None,
            filter,
            batch_size: (request.batch_size as u32).min(limits::RECEIVE_BATCH_MAX),
            invisible_millis,
            renew_for_millis: request.auto_renew.then_some(limits::AUTO_RENEW_TOTAL_MILLIS),
            poll_millis,
            message_group_max: if one_by_one { 1 } else { limits::RECEIVE_BATCH_MAX },
            attempt_id: request.attempt_id.filter(|id| !id.is_empty() && id.len() <= limits::MESSAGE_ID_BYTES_MAX),
        };
        Ok(self.broker.receive(request).await?)
    }

    pub(crate) async fn ack_message(
        &self,
        call: &Call,
        request: v2::AckMessageRequest,
    ) -> Result<v2::AckMessageResponse, Denied> {
        call.client_id()?;
        let group = group_name(request.group)?;
        let topic = topic_name(request.topic)?;
        let count = request.entries.len();
        if count == 0 || count > limits::ACK_BATCH_MAX {
            let text = format!("entries has {count} receipt handles, a request has 1 to {}", limits::ACK_BATCH_MAX);
            return Err(Denied::new(Code::BadRequest, text));
        }
        let handles = request.entries.iter().map(|entry| entry.receipt_handle.clone()).collect();
        let answers = self.broker.ack(&group, &topic, handles).await?;
        let mut common = None;
        let entries: Vec<_> = request
            .entries
            .into_iter()
            .zip(answers)
            .map(|(entry, answer)| {
                let status = match &answer {
                    Ok(()) => code::ok(),
                    Err(refusal) => code::status(refusal),
                };
                match &common {
                    None => common = Some(status.clone()),
                    Some(other) if other.code != status.code => {
                        let message = "entries have different codes".into();
                        common = Some(v2::Status { code: Code::MultipleResults as i32, message });
                    }
                    Some(_) => {}
                }
                v2::AckMessageResultEntry {
                    message_id: entry.message_id,
                    receipt_handle: entry.receipt_handle,
                    status: Some(status),
                }
            })
            .collect();
        Ok(v2::AckMessageResponse { status: common, entries })
    }

    /// Answers with the handle to use from now on, whatever the outcome: clients store it before they look at the
    /// status.
    pub(crate) async fn change_invisible_duration(
        &self,
        call: &Call,
        request: v2::ChangeInvisibleDurationRequest,
    ) -> Result<v2::ChangeInvisibleDurationResponse, Denied> {
        let handle = request.receipt_handle;
        let change = async {
            call.client_id()?;
            let group = group_name(request.group)?;
            let topic = topic_name(request.topic)?;
            let millis = invisible_millis(request.invisible_duration.as_ref(), 0, limits::CHANGE_INVISIBLE_MILLIS_MAX)?;
            let suspend = request.suspend.unwrap_or(false);
            Ok::<_, Denied>(self.broker.change_invisible(&group, &topic, &handle, millis, suspend).await?)
        };
        let (status, receipt_handle) = match change.await {
            Ok(newer) => (code::ok(), newer),
            Err(denied) => (denied.status(), handle),
        };
        Ok(v2::ChangeInvisibleDurationResponse { status: Some(status), receipt_handle })
    }

    pub(crate) async fn forward_message_to_dead_letter_queue(
        &self,
        call: &Call,
        request: v2::ForwardMessageToDeadLetterQueueRequest,
    ) -> Result<v2::ForwardMessageToDeadLetterQueueResponse, Denied> {
        call.client_id()?;
        let group = group_name(request.group)?;
        let topic = topic_name(request.topic)?;
        self.broker.forward_to_dead_letters(&group, &topic, &request.receipt_handle).await?;
        Ok(v2::ForwardMessageToDeadLetterQueueResponse { status: Some(code::ok()) })
    }
}

/// Room for an answer: bodies, and what clients and the broker put around them.
pub(crate) fn frames_capacity(received: &Received) -> usize {
    let bytes: usize = received.messages.iter().map(|message| message.record.len().min(16 * 1024) + 320).sum();
    bytes + 64
}

/// Checks an invisible duration and gives it in milliseconds.
pub(crate) fn invisible_millis(duration: Option<&prost_types::Duration>, min: i64, max: i64) -> Result<i64, Denied> {
    let duration = duration.cloned().unwrap_or_default();
    match time::millis(&duration) {
        Some(millis) if (min..=max).contains(&millis) => Ok(millis),
        _ => {
            let prost_types::Duration { seconds, nanos } = duration;
            let text = format!("invisible_duration of {seconds} s and {nanos} ns is not from {min} ms to {max} ms");
            Err(Denied::new(Code::IllegalInvisibleTime, text))
        }
    }
}

/// How long a poll waits: what the client asks for, else its deadline without half of its request timeout; from 5 s to
/// 20 s; never past the deadline.
pub(crate) fn poll_millis(
    asked: Option<&prost_types::Duration>,
    remaining: Option<Duration>,
    request_timeout: Duration,
    client_version: &str,
) -> Result<i64, Denied> {
    let (min, max) = limits::POLL_MILLIS;
    let remaining = remaining.map(|left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
    let wanted = match asked {
        Some(duration) => time::millis(duration).ok_or_else(|| {
            let prost_types::Duration { seconds, nanos } = duration;
            let text = format!("long_polling_timeout of {seconds} s and {nanos} ns is not a duration");
            Denied::new(Code::IllegalPollingTime, text)
        })?,
        None => match remaining {
            Some(left) => left - i64::try_from(request_timeout.as_millis() / 2).unwrap_or(i64::MAX),
            None => max,
        },
    };
    let wanted = wanted.clamp(min, max);
    let Some(left) = remaining else { return Ok(wanted) };
    if left < min {
        let code = if client_version < POLLING_TIME_CODE_SINCE { Code::BadRequest } else { Code::IllegalPollingTime };
        let text = format!("{left} ms are left until the deadline, a poll needs at least {min} ms");
        return Err(Denied::new(code, text));
    }
    Ok(wanted.min(left - DEADLINE_RESERVE_MILLIS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(asked: Option<i64>, remaining: Option<u64>) -> Result<i64, Code> {
        let asked = asked.map(time::duration);
        let remaining = remaining.map(Duration::from_millis);
        poll_millis(asked.as_ref(), remaining, Duration::from_secs(3), "5.0.7").map_err(|denied| denied.code)
    }

    #[test]
    fn polls_wait_as_asked_within_limits_and_never_past_the_deadline() {
        assert_eq!(poll(Some(15_000), None), Ok(15_000));
        assert_eq!(poll(Some(40_000), Some(40_000)), Ok(20_000));
        assert_eq!(poll(Some(1_000), Some(4_000_000)), Ok(5_000));
        assert_eq!(poll(Some(20_000), Some(10_000)), Ok(9_900));
        assert_eq!(poll(None, Some(33_000)), Ok(20_000));
        assert_eq!(poll(None, Some(10_000)), Ok(8_500));
        assert_eq!(poll(None, Some(5_000)), Ok(4_900));
        assert_eq!(poll(None, None), Ok(20_000));
        assert_eq!(poll(Some(20_000), Some(3_000)), Err(Code::IllegalPollingTime));
        assert_eq!(poll(Some(-1), None), Err(Code::IllegalPollingTime));
        for old in ["", "5.0.0"] {
            let left = Some(Duration::from_secs(3));
            let denied = poll_millis(None, left, Duration::from_secs(3), old).unwrap_err();
            assert_eq!(denied.code, Code::BadRequest);
        }
    }

    #[test]
    fn invisible_durations_hold_to_the_millisecond() {
        let (min, max) = limits::RECEIVE_INVISIBLE_MILLIS;
        let check = |millis: i64| invisible_millis(Some(&time::duration(millis)), min, max).map_err(|e| e.code);
        assert_eq!(check(10_000), Ok(10_000));
        assert_eq!(check(43_200_000), Ok(43_200_000));
        for bad in [9_999, 43_200_001, -1] {
            assert_eq!(check(bad), Err(Code::IllegalInvisibleTime));
        }
        assert_eq!(invisible_millis(None, min, max).unwrap_err().code, Code::IllegalInvisibleTime);
        assert_eq!(invisible_millis(None, 0, max), Ok(0));
    }
}
