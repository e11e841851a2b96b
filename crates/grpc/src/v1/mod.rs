//! `apache.rocketmq.v1`: the vendor's Java clients 2.x, on the port of v2 and with the same transport, budgets and limits.
//!
//! All calls have one request and one answer, long polls too. What both packages say alike is checked and written by the code
//! of v2; what differs is here.
//!
//! - `code`: codes.
//! - `producer`, `consumer`, `pull`, `session`: the calls.
//! - `commands`: what clients are asked, for which they poll.
//!
//! Source: grpc-v1.md.

mod code;
mod commands;
mod consumer;
mod producer;
mod pull;
mod session;

pub(crate) use code::RpcCode;
pub(crate) use commands::Commands;
pub(crate) use producer::read_send;

use crate::call::Call;
use crate::code::Denied;
use crate::latency::Package;
use crate::message_out::{Dialect, Frames};
use crate::proto::rocketmq_v1::{self as wire, Resource};
use crate::proto::v2::Code;
use crate::service::{Front, Refused, SMALL_REQUEST_BYTES_MAX, unary, unknown};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use martlet_broker::DeliveredMessage;
use martlet_model::limits;
use prost::Message as _;
use std::ops::Deref;
use std::time::Duration;

/// Its service, in the path of a call.
pub(crate) const SERVICE: &str = "apache.rocketmq.v1.MessagingService";
/// Kept free of the client's deadline, for the way back.
const DEADLINE_RESERVE_MILLIS: i64 = 500;

/// Calls whose latency is counted, the frequent ones first.
pub(crate) const TIMED_CALLS: [&str; 16] = [
    "SendMessage",
    "AckMessage",
    "ReceiveMessage",
    "Heartbeat",
    "QueryAssignment",
    "PollCommand",
    "QueryRoute",
    "NackMessage",
    "PullMessage",
    "EndTransaction",
    "ForwardMessageToDeadLetterQueue",
    "QueryOffset",
    "HealthCheck",
    "NotifyClientTermination",
    "ReportThreadStackTrace",
    "ReportMessageConsumptionResult",
];

/// Messages on their way out.
const DIALECT: Dialect = Dialect {
    messages: 2,
    handle: 13,
    queue: 14,
    offset: 15,
    attempt: 17,
    message_group: 19,
    trace_context: 20,
    newer: false,
    unspecified: false,
    streams: false,
    zlib_only: true,
};

/// The front, for clients of v1.
#[derive(Clone, Copy)]
pub(crate) struct V1<'a>(pub(crate) &'a Front);

impl Deref for V1<'_> {
    type Target = Front;

    fn deref(&self) -> &Front {
        self.0
    }
}

macro_rules! refused {
    ($($response:ident),+ $(,)?) => {
        $(impl Refused for wire::$response {
            const PACKAGE: Package = Package::V1;

            fn refused(denied: Denied) -> Self {
                let mut answer = Self::default();
                answer.common = code::denied(denied);
                answer
            }

            fn code(&self) -> i32 {
                code::of(self.common.as_ref())
            }
        })+
    };
}

refused!(
    QueryRouteResponse,
    HeartbeatResponse,
    HealthCheckResponse,
    SendMessageResponse,
    QueryAssignmentResponse,
    ReceiveMessageResponse,
    AckMessageResponse,
    NackMessageResponse,
    ForwardMessageToDeadLetterQueueResponse,
    EndTransactionResponse,
    QueryOffsetResponse,
    PullMessageResponse,
    ReportThreadStackTraceResponse,
    ReportMessageConsumptionResultResponse,
    NotifyClientTerminationResponse,
);

impl V1<'_> {
    /// Runs one call to its end.
    pub(crate) async fn handle(self, call: Call, body: RecvStream, mut respond: SendResponse<Bytes>) {
        let path = call.head.uri.path();
        macro_rules! calls {
            ($($name:literal => $handler:ident -> $response:ident, $bytes_max:expr;)+) => {
                match call.timed_as() {
                    $($name => unary!(self, call, body, respond, $handler, wire::$response, $bytes_max),)+
                    "ReceiveMessage" => {
                        if let Some(request) = self.only_message(body, &mut respond).await {
                            self.receive_message(&call, request, &mut respond).await;
                        }
                    }
                    "PullMessage" => {
                        if let Some(request) = self.only_message(body, &mut respond).await {
                            self.pull_message(&call, request, &mut respond).await;
                        }
                    }
                    "PollCommand" => {
                        if let Some(request) = self.only_message(body, &mut respond).await {
                            self.poll_command(&call, request, &mut respond).await;
                        }
                    }
                    _ => unknown(&mut respond, path),
                }
            };
        }
        calls! {
            "SendMessage" => send_message -> SendMessageResponse, limits::INBOUND_BYTES_MAX;
            "AckMessage" => ack_message -> AckMessageResponse, SMALL_REQUEST_BYTES_MAX;
            "QueryRoute" => query_route -> QueryRouteResponse, SMALL_REQUEST_BYTES_MAX;
            "Heartbeat" => heartbeat -> HeartbeatResponse, SMALL_REQUEST_BYTES_MAX;
            "HealthCheck" => health_check -> HealthCheckResponse, SMALL_REQUEST_BYTES_MAX;
            "QueryAssignment" => query_assignment -> QueryAssignmentResponse, SMALL_REQUEST_BYTES_MAX;
            "NackMessage" => nack_message -> NackMessageResponse, SMALL_REQUEST_BYTES_MAX;
            "ForwardMessageToDeadLetterQueue" =>
                forward_message_to_dead_letter_queue -> ForwardMessageToDeadLetterQueueResponse, SMALL_REQUEST_BYTES_MAX;
            "EndTransaction" => end_transaction -> EndTransactionResponse, SMALL_REQUEST_BYTES_MAX;
            "QueryOffset" => query_offset -> QueryOffsetResponse, SMALL_REQUEST_BYTES_MAX;
            "ReportThreadStackTrace" =>
                report_thread_stack_trace -> ReportThreadStackTraceResponse, SMALL_REQUEST_BYTES_MAX;
            "ReportMessageConsumptionResult" =>
                report_message_consumption_result -> ReportMessageConsumptionResultResponse, SMALL_REQUEST_BYTES_MAX;
            "NotifyClientTermination" =>
                notify_client_termination -> NotifyClientTerminationResponse, SMALL_REQUEST_BYTES_MAX;
        }
    }
}

/// What a record, whatever it is, becomes; for fuzzing. Damage is an error, never half a message.
pub(crate) fn write_record(message: &DeliveredMessage) {
    let mut frames = Frames::of(&DIALECT, Resource::default().encode_to_vec(), 0);
    let written = frames.message(message, "").is_ok();
    let frame = frames.finish_as_one(&wire::ReceiveMessageResponse::default()).concat();
    let read = frame.get(5..).map(wire::ReceiveMessageResponse::decode);
    assert!(read.is_some_and(|read| read.is_ok_and(|read| read.messages.len() == usize::from(written))));
}

/// Client ids are in requests, not in headers.
fn check_client_id(client_id: &str) -> Result<(), Denied> {
    if client_id.trim().is_empty() {
        return Err(Denied::new(Code::ClientIdRequired, "client_id is missing or blank"));
    }
    let max = martlet_broker::CLIENT_ID_BYTES_MAX;
    if client_id.len() > max {
        let text = format!("client_id has {} bytes, the limit is {max}", client_id.len());
        return Err(Denied::new(Code::BadRequest, text));
    }
    Ok(())
}

/// How long a poll is held: 20 s, or what the client asks for within the limits of polls; never past its deadline. Answered
/// at once, clients would ask again at once.
fn hold_millis(asked: Option<&prost_types::Duration>, remaining: Option<Duration>) -> i64 {
    let (min, max) = limits::POLL_MILLIS;
    let wanted = match asked.and_then(crate::time::millis) {
        None | Some(0) => max,
        Some(millis) => millis.clamp(min, max),
    };
    let left = remaining.map_or(i64::MAX, |left| i64::try_from(left.as_millis()).unwrap_or(i64::MAX));
    wanted.min(left - DEADLINE_RESERVE_MILLIS).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_held_whatever_clients_ask_for() {
        let hold = |asked: Option<i64>, left: Option<u64>| {
            hold_millis(asked.map(crate::time::duration).as_ref(), left.map(Duration::from_millis))
        };
        assert_eq!(hold(None, None), 20_000);
        assert_eq!(hold(Some(0), Some(30_000)), 20_000);
        // A batch consumer's seconds come as milliseconds.
        assert_eq!(hold(Some(10), Some(30_000)), 5_000);
        assert_eq!(hold(Some(60_000), Some(30_000)), 20_000);
        assert_eq!(hold(None, Some(3_000)), 2_500);
        assert_eq!(hold(None, Some(100)), 0);
    }
}
