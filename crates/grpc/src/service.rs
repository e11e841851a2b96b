//! Which call goes where.

use crate::Limits;
use crate::call::Call;
use crate::code::Denied;
use crate::inquiry::Inquiries;
use crate::latency::{self, Latencies, Outcome, Package};
use crate::proto::v2::Code;
use crate::proto::{v1 as admin, v2};
use crate::sessions::{Polls, Sessions};
use crate::transport::connection::{CallGuard, Peer};
use crate::transport::frames::{Frame, FrameReader, framed};
use crate::transport::{GrpcCode, GrpcError, reply};
use crate::v1::{self, Commands, V1};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Method, Request, StatusCode};
use martlet_broker::Broker;
use martlet_model::limits::INBOUND_BYTES_MAX;
use martlet_net::budget::Budget;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;
use tokio::sync::watch;

/// Largest request other than a send, in bytes.
pub(crate) const SMALL_REQUEST_BYTES_MAX: usize = 4 << 20;

/// What all connections share.
pub(crate) struct Front {
    pub(crate) broker: Broker,
    pub(crate) advertise: Option<(String, u16)>,
    pub(crate) limits: Limits,
    pub(crate) inbound: Budget,
    pub(crate) outbound: Budget,
    pub(crate) sessions: Sessions,
    /// Questions to clients of v2.
    pub(crate) inquiries: Inquiries,
    pub(crate) polls: Polls,
    /// For clients of v1, which ask for them.
    pub(crate) commands: Commands,
    pub(crate) stats: Stats,
    stop: watch::Receiver<bool>,
}

/// What the front counts.
#[derive(Debug)]
pub(crate) struct Stats {
    pub(crate) started: Instant,
    pub(crate) connections: Arc<AtomicUsize>,
    messages_in: AtomicU64,
    messages_out: AtomicU64,
    /// Of v2 and the admin services.
    pub(crate) latencies: Latencies,
    /// Of v1.
    pub(crate) latencies_v1: Latencies,
}

/// Calls whose latency is counted, the frequent ones first. Telemetry is a stream that lives as long as its client.
const TIMED_CALLS: [&str; 17] = [
    "SendMessage",
    "AckMessage",
    "ReceiveMessage",
    "ChangeInvisibleDuration",
    "Heartbeat",
    "QueryRoute",
    "QueryAssignment",
    "ForwardMessageToDeadLetterQueue",
    "EndTransaction",
    "SyncLiteSubscription",
    "RecallMessage",
    "NotifyClientTermination",
    "PullMessage",
    "UpdateOffset",
    "GetOffset",
    "QueryOffset",
    // All calls of both admin services.
    "Admin",
];

impl Stats {
    pub(crate) fn received(&self, messages: usize) {
        self.messages_in.fetch_add(messages as u64, Ordering::Relaxed);
    }

    pub(crate) fn delivered(&self, messages: usize) {
        self.messages_out.fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// A call was answered with a code of its package; whether the client took the answer.
    pub(crate) fn answered(&self, call: &Call, package: Package, code: i32, written: bool) {
        let outcome = if written { latency::outcome_of(package, code) } else { Outcome::NotWritten };
        self.took(call, package, code, outcome);
    }

    /// A call was given up by its client.
    pub(crate) fn cancelled(&self, call: &Call, package: Package) {
        self.took(call, package, package.cancelled(), Outcome::Cancelled);
    }

    fn took(&self, call: &Call, package: Package, code: i32, outcome: Outcome) {
        let latencies = match package {
            Package::V1 => &self.latencies_v1,
            Package::V2 => &self.latencies,
        };
        latencies.observe(call.timed_as(), code, outcome, call.arrived.elapsed());
    }

    /// Messages received and delivered since the start.
    pub(crate) fn messages(&self) -> (u64, u64) {
        (self.messages_in.load(Ordering::Relaxed), self.messages_out.load(Ordering::Relaxed))
    }
}

/// Reads the request of a unary call, has it answered, and writes the answer.
macro_rules! unary {
    ($front:ident, $call:ident, $body:ident, $respond:ident, $handler:ident, $response:ty, $bytes_max:expr) => {
        if let Some((request, _held)) = $front.request($body, &mut $respond, $bytes_max).await {
            let answer: Result<$response, _> = match $front.check_access(&$call, &request) {
                Ok(()) => $front.$handler(&$call, request).await,
                Err(denied) => Err(denied),
            };
            $front.answer(&$call, answer, &mut $respond).await;
        }
    };
}
pub(crate) use unary;

/// An answer that has nothing to say but a status.
pub(crate) trait Refused: Default {
    fn refused(denied: Denied) -> Self;

    /// The package it is of.
    const PACKAGE: Package = Package::V2;

    /// The code of its status; OK for an answer that has none.
    fn code(&self) -> i32 {
        Code::Ok as i32
    }
}

macro_rules! refused {
    ($($response:ty),+ $(,)?) => {
        $(impl Refused for $response {
            fn refused(denied: Denied) -> Self {
                let mut answer = Self::default();
                answer.status = Some(denied.status());
                answer
            }

            fn code(&self) -> i32 {
                self.status.as_ref().map_or(Code::Ok as i32, |status| status.code)
            }
        })+
    };
}

refused!(
    v2::QueryRouteResponse,
    v2::HeartbeatResponse,
    v2::SendMessageResponse,
    v2::QueryAssignmentResponse,
    v2::AckMessageResponse,
    v2::ForwardMessageToDeadLetterQueueResponse,
    v2::UpdateOffsetResponse,
    v2::GetOffsetResponse,
    v2::QueryOffsetResponse,
    v2::EndTransactionResponse,
    v2::NotifyClientTerminationResponse,
    v2::ChangeInvisibleDurationResponse,
    v2::RecallMessageResponse,
    v2::SyncLiteSubscriptionResponse,
    v2::DescribeTopicStatusResponse,
    v2::ListSubscriptionResponse,
    v2::DescribeSubscriptionResponse,
    v2::DeleteSubscriptionResponse,
    v2::DescribeGroupAccumulationResponse,
    v2::ListConsumerConnectionResponse,
    v2::ResetGroupOffsetResponse,
    v2::ListMessageResponse,
    v2::PrintThreadStackTraceResponse,
    v2::VerifyMessageResponse,
    v2::AdminSendMessageResponse,
    v2::GetConsumerRunningInfoResponse,
    v2::GetTopicRouteResponse,
    v2::QueryTimeSpanResponse,
    v2::GetProxyRuntimeStatsResponse,
    admin::CreateTopicResponse,
    admin::UpdateTopicResponse,
    admin::DeleteTopicResponse,
    admin::DescribeTopicResponse,
    admin::ListTopicsResponse,
    admin::CreateGroupResponse,
    admin::UpdateGroupResponse,
    admin::DeleteGroupResponse,
    admin::DescribeGroupResponse,
    admin::ListGroupsResponse,
    admin::ListLiteTopicsResponse,
    admin::DescribeLiteTopicResponse,
    admin::FindMessagesResponse,
    admin::PeekMessagesResponse,
    admin::ListDeadLettersResponse,
    admin::ResendDeadLettersResponse,
    admin::ResetOffsetResponse,
    admin::ListTransactionsResponse,
    admin::ResolveTransactionResponse,
);

impl Refused for v2::ChangeLogLevelResponse {
    fn refused(denied: Denied) -> Self {
        Self { remark: denied.message }
    }
}

impl Front {
    pub(crate) fn new(
        broker: Broker,
        advertise: Option<(String, u16)>,
        limits: Limits,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            broker,
            advertise,
            inbound: Budget::for_requests(limits.inbound_bytes, INBOUND_BYTES_MAX + 1024),
            outbound: Budget::new(limits.outbound_bytes.max(2 * SMALL_REQUEST_BYTES_MAX)),
            sessions: Sessions::new(limits.clients_max),
            inquiries: Inquiries::default(),
            polls: Polls::new(limits.polls_per_client_max, limits.polls_max),
            commands: Commands::new(limits.clients_max),
            stats: Stats {
                started: Instant::now(),
                connections: Arc::default(),
                messages_in: AtomicU64::new(0),
                messages_out: AtomicU64::new(0),
                latencies: Latencies::of(&TIMED_CALLS),
                latencies_v1: Latencies::of(&v1::TIMED_CALLS),
            },
            limits,
            stop,
        }
    }

    /// Completes when the front shuts down.
    pub(crate) async fn shutdown(&self) {
        // A sender that is gone means the same.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// Becomes true when the front shuts down.
    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// Runs one call to its end.
    pub(crate) async fn handle(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
        _guard: CallGuard,
    ) {
        let (head, body) = request.into_parts();
        if head.method != Method::POST {
            return reply::refuse(&mut respond, StatusCode::METHOD_NOT_ALLOWED);
        }
        let content_type = head.headers.get(http::header::CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
        if !content_type.starts_with(b"application/grpc") {
            return reply::refuse(&mut respond, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        let call = match Call::new(head, peer) {
            Ok(call) => call,
            Err(error) => return reply::fail(&mut respond, &error),
        };
        let front = &*self;
        match call.head.uri.path() {
            "/apache.rocketmq.v2.MessagingService/SendMessage" => {
                unary!(front, call, body, respond, send_message, v2::SendMessageResponse, INBOUND_BYTES_MAX)
            }
            "/apache.rocketmq.v2.MessagingService/ReceiveMessage" => {
                if let Some(request) = front.only_message(body, &mut respond).await {
                    // Boxed, so that sends and acks do not carry its size into their tasks.
                    Box::pin(front.receive_message(&call, request, &mut respond)).await;
                }
            }
            "/apache.rocketmq.v2.MessagingService/AckMessage" => {
                unary!(front, call, body, respond, ack_message, v2::AckMessageResponse, SMALL_REQUEST_BYTES_MAX)
            }
            // Boxed, so that the calls above do not carry the size of these.
            _ => Box::pin(front.handle_other(call, body, respond)).await,
        }
    }

    async fn handle_other(&self, call: Call, body: RecvStream, mut respond: SendResponse<Bytes>) {
        let path = call.head.uri.path();
        let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return unknown(&mut respond, path);
        };
        macro_rules! calls {
            ($($name:literal => $handler:ident -> $response:ty),+ $(,)?) => {
                match method {
                    $($name => {
                        unary!(self, call, body, respond, $handler, $response, SMALL_REQUEST_BYTES_MAX)
                    })+
                    _ => unknown(&mut respond, path),
                }
            };
        }
        match service {
            "apache.rocketmq.v2.MessagingService" => match method {
                "Telemetry" => self.telemetry(&call, body, &mut respond).await,
                "PullMessage" => {
                    if let Some(request) = self.only_message(body, &mut respond).await {
                        self.pull_message(&call, request, &mut respond).await;
                    }
                }
                _ => calls! {
                    "QueryRoute" => query_route -> v2::QueryRouteResponse,
                    "Heartbeat" => heartbeat -> v2::HeartbeatResponse,
                    "QueryAssignment" => query_assignment -> v2::QueryAssignmentResponse,
                    "ChangeInvisibleDuration" => change_invisible_duration -> v2::ChangeInvisibleDurationResponse,
                    "ForwardMessageToDeadLetterQueue" =>
                        forward_message_to_dead_letter_queue -> v2::ForwardMessageToDeadLetterQueueResponse,
                    "NotifyClientTermination" => notify_client_termination -> v2::NotifyClientTerminationResponse,
                    "EndTransaction" => end_transaction -> v2::EndTransactionResponse,
                    "UpdateOffset" => update_offset -> v2::UpdateOffsetResponse,
                    "GetOffset" => get_offset -> v2::GetOffsetResponse,
                    "QueryOffset" => query_offset -> v2::QueryOffsetResponse,
                    "RecallMessage" => recall_message -> v2::RecallMessageResponse,
                    "SyncLiteSubscription" => sync_lite_subscription -> v2::SyncLiteSubscriptionResponse,
                },
            },
            "apache.rocketmq.v2.Admin" => calls! {
                "DescribeTopicStatus" => describe_topic_status -> v2::DescribeTopicStatusResponse,
                "ListSubscription" => list_subscription -> v2::ListSubscriptionResponse,
                "DescribeSubscription" => describe_subscription -> v2::DescribeSubscriptionResponse,
                "DescribeGroupAccumulation" => describe_group_accumulation -> v2::DescribeGroupAccumulationResponse,
                "ListConsumerConnection" => list_consumer_connection -> v2::ListConsumerConnectionResponse,
                "GetTopicRoute" => get_topic_route -> v2::GetTopicRouteResponse,
                "GetProxyRuntimeStats" => get_proxy_runtime_stats -> v2::GetProxyRuntimeStatsResponse,
                "ChangeLogLevel" => change_log_level -> v2::ChangeLogLevelResponse,
                "DeleteSubscription" => delete_subscription -> v2::DeleteSubscriptionResponse,
                "ResetGroupOffset" => reset_group_offset -> v2::ResetGroupOffsetResponse,
                "QueryMessage" => query_message -> v2::ListMessageResponse,
                "PrintThreadStackTrace" => print_thread_stack_trace -> v2::PrintThreadStackTraceResponse,
                "VerifyMessage" => verify_message -> v2::VerifyMessageResponse,
                "AdminSendMessage" => admin_send_message -> v2::AdminSendMessageResponse,
                "GetConsumerRunningInfo" => get_consumer_running_info -> v2::GetConsumerRunningInfoResponse,
                "QueryTimeSpan" => query_time_span -> v2::QueryTimeSpanResponse,
            },
            "martlet.v1.Admin" => calls! {
                "CreateTopic" => create_topic -> admin::CreateTopicResponse,
                "UpdateTopic" => update_topic -> admin::UpdateTopicResponse,
                "DeleteTopic" => delete_topic -> admin::DeleteTopicResponse,
                "DescribeTopic" => describe_topic -> admin::DescribeTopicResponse,
                "ListTopics" => list_topics -> admin::ListTopicsResponse,
                "CreateGroup" => create_group -> admin::CreateGroupResponse,
                "UpdateGroup" => update_group -> admin::UpdateGroupResponse,
                "DeleteGroup" => delete_group -> admin::DeleteGroupResponse,
                "DescribeGroup" => describe_group -> admin::DescribeGroupResponse,
                "ListGroups" => list_groups -> admin::ListGroupsResponse,
                "ListLiteTopics" => list_lite_topics -> admin::ListLiteTopicsResponse,
                "DescribeLiteTopic" => describe_lite_topic -> admin::DescribeLiteTopicResponse,
                "FindMessages" => find_messages -> admin::FindMessagesResponse,
                "PeekMessages" => peek_messages -> admin::PeekMessagesResponse,
                "ListDeadLetters" => list_dead_letters -> admin::ListDeadLettersResponse,
                "ResendDeadLetters" => resend_dead_letters -> admin::ResendDeadLettersResponse,
                "ResetOffset" => reset_offset -> admin::ResetOffsetResponse,
                "ListTransactions" => list_transactions -> admin::ListTransactionsResponse,
                "ResolveTransaction" => resolve_transaction -> admin::ResolveTransactionResponse,
            },
            v1::SERVICE => V1(self).handle(call, body, respond).await,
            _ => unknown(&mut respond, path),
        }
    }

    /// The message of a unary call, and its share of the inbound budget, to be held until it is answered; `None` after the call has
    /// been failed.
    pub(crate) async fn request<M: Message + Default>(
        &self,
        body: RecvStream,
        respond: &mut SendResponse<Bytes>,
        bytes_max: usize,
    ) -> Option<(M, Frame)> {
        let reader = FrameReader::new(body, self.inbound.clone(), bytes_max);
        let read = reader.only(self.limits.request_timeout).await.and_then(|frame| {
            // The message shares the frame's memory.
            M::decode(frame.message.clone()).map(|message| (message, frame)).map_err(|error| {
                GrpcError::new(GrpcCode::InvalidArgument, format!("the request cannot be read: {error}"))
            })
        });
        read.map_err(|error| reply::fail(respond, &error)).ok()
    }

    /// The message of a small call that may wait for long, whose answer is written by itself.
    pub(crate) async fn only_message<M: Message + Default>(
        &self,
        body: RecvStream,
        respond: &mut SendResponse<Bytes>,
    ) -> Option<M> {
        self.request(body, respond, SMALL_REQUEST_BYTES_MAX).await.map(|(message, _)| message)
    }

    /// Writes the answer to a unary call; a refusal is one with its status and nothing else.
    pub(crate) async fn answer<R: Refused + Message>(
        &self,
        call: &Call,
        answer: Result<R, Denied>,
        respond: &mut SendResponse<Bytes>,
    ) {
        let answer = answer.unwrap_or_else(|denied| {
            self.broker.count_refusal(denied.code.as_str_name());
            R::refused(denied)
        });
        let frame = framed(answer.encoded_len(), |frame| {
            // A buffer that grows takes everything.
            let _ = answer.encode(frame);
        });
        // A client that is gone does not need its answer.
        let written = reply::answer(respond, [frame], &self.outbound).await.is_ok();
        self.stats.answered(call, R::PACKAGE, answer.code(), written);
    }
}

/// Calls that later versions will answer.
macro_rules! not_supported {
    ($($handler:ident($request:ty) -> $response:ty = $name:literal),+ $(,)?) => {
        impl Front {
            $(pub(crate) async fn $handler(&self, _call: &Call, _request: $request) -> Result<$response, Denied> {
                Err(Denied::not_supported($name))
            })+
        }
    };
}

not_supported! {
    change_log_level(v2::ChangeLogLevelRequest) -> v2::ChangeLogLevelResponse = "ChangeLogLevel",
    delete_subscription(v2::DeleteSubscriptionRequest) -> v2::DeleteSubscriptionResponse = "DeleteSubscription",
    admin_send_message(v2::AdminSendMessageRequest) -> v2::AdminSendMessageResponse = "AdminSendMessage",
    get_consumer_running_info(v2::GetConsumerRunningInfoRequest) -> v2::GetConsumerRunningInfoResponse =
        "GetConsumerRunningInfo",
    query_time_span(v2::QueryTimeSpanRequest) -> v2::QueryTimeSpanResponse = "QueryTimeSpan",
}

pub(crate) fn unknown(respond: &mut SendResponse<Bytes>, path: &str) {
    let path = crate::message_in::cut(path);
    reply::fail(respond, &GrpcError::new(GrpcCode::Unimplemented, format!("{path} is not a call of this broker")));
}
