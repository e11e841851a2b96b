//! The floor: the least a tonic server can spend on a request, to measure brokers against.
//!
//! It decodes SendMessage with the same generated code and answers OK; ReceiveMessage streams a status, 32 messages that were
//! encoded once at the start, and a delivery timestamp, at once; AckMessage decodes its entries and answers OK for each. It
//! keeps nothing, so a message "received" was never sent. Route, Telemetry settings, assignment, heartbeat and termination
//! are answered well enough for a client to work.
//!
//! How it is run: one acceptor deals connections in turn to N threads, each with a current-thread runtime and a tonic server
//! of its own. An HTTP/2 connection is one lock, so a multi-threaded runtime only adds hand-overs between cores; dealing in
//! turn keeps the threads evenly loaded at a handful of connections, where SO_REUSEPORT's hashing would not.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use prost::encoding::{self, DecodeContext, WireType};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::client::{endpoints, resource};
use crate::pb;
use crate::pb::messaging_service_server::{MessagingService, MessagingServiceServer};

/// A `ReceiveMessageResponse` that is encoded already.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Frame(Bytes);

impl Message for Frame {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        // Only ever encoded; decoding skips whatever comes.
        encoding::skip_field(wire_type, tag, buf, context)
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl Frame {
    fn new(field: u32, content: &impl Message) -> Self {
        let mut bytes = Vec::new();
        encoding::message::encode(field, content, &mut bytes);
        Self(bytes.into())
    }
}

/// The service. `delivery` is what every poll is answered with.
#[derive(Clone)]
struct Floor {
    address: SocketAddr,
    delivery: std::sync::Arc<Vec<Frame>>,
}

fn delivery(body: usize) -> Vec<Frame> {
    let now = prost_types::Timestamp::from(std::time::SystemTime::now());
    let mut frames = vec![Frame::new(1, &fine())];
    for offset in 0..32 {
        let message = pb::Message {
            topic: Some(resource("floor")),
            user_properties: Default::default(),
            system_properties: Some(pb::SystemProperties {
                tag: Some("bench".to_owned()),
                keys: vec!["0000002A".to_owned()],
                message_id: format!("01000000000001002A0000002A{offset:08X}"),
                body_digest: Some(pb::Digest {
                    r#type: pb::DigestType::Md5 as i32,
                    checksum: "D41D8CD98F00B204E9800998ECF8427E".to_owned(),
                }),
                body_encoding: pb::Encoding::Identity as i32,
                message_type: pb::MessageType::Normal as i32,
                born_timestamp: Some(now),
                born_host: "bench".to_owned(),
                store_timestamp: Some(now),
                store_host: "127.0.0.1".to_owned(),
                receipt_handle: Some(format!("handle-of-{offset:030}-and-a-usual-length")),
                queue_id: 0,
                queue_offset: Some(offset),
                delivery_attempt: Some(1),
                ..Default::default()
            }),
            body: vec![7; body].into(),
        };
        frames.push(Frame::new(2, &message));
    }
    frames.push(Frame::new(3, &now));
    frames
}

fn fine() -> pb::Status {
    pb::Status { code: pb::Code::Ok as i32, message: "OK".to_owned() }
}

impl Floor {
    fn queue(&self, topic: Option<pb::Resource>) -> pb::MessageQueue {
        pb::MessageQueue {
            topic,
            id: 0,
            permission: pb::Permission::ReadWrite as i32,
            broker: Some(pb::Broker {
                name: "floor".to_owned(),
                id: 0,
                endpoints: Some(endpoints(&self.address.to_string())),
            }),
            accept_message_types: vec![pb::MessageType::Normal as i32],
        }
    }
}

/// Server streams of this service.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn absent<T>(rpc: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!("the floor has no {rpc}")))
}

#[tonic::async_trait]
impl MessagingService for Floor {
    type ReceiveMessageStream = tokio_stream::Iter<Delivery>;
    type PullMessageStream = Answers<pb::PullMessageResponse>;
    type TelemetryStream = Answers<pb::TelemetryCommand>;

    async fn send_message(
        &self,
        request: Request<pb::SendMessageRequest>,
    ) -> Result<Response<pb::SendMessageResponse>, Status> {
        let messages = request.into_inner().messages;
        let entries = messages.into_iter().map(|message| pb::SendResultEntry {
            status: Some(fine()),
            message_id: message.system_properties.map(|p| p.message_id).unwrap_or_default(),
            ..Default::default()
        });
        Ok(Response::new(pb::SendMessageResponse { status: Some(fine()), entries: entries.collect() }))
    }

    async fn receive_message(
        &self,
        _request: Request<pb::ReceiveMessageRequest>,
    ) -> Result<Response<Self::ReceiveMessageStream>, Status> {
        Ok(Response::new(tokio_stream::iter(Delivery { frames: self.delivery.clone(), next: 0 })))
    }

    async fn ack_message(
        &self,
        request: Request<pb::AckMessageRequest>,
    ) -> Result<Response<pb::AckMessageResponse>, Status> {
        let entries = request.into_inner().entries.into_iter().map(|entry| pb::AckMessageResultEntry {
            message_id: entry.message_id,
            receipt_handle: entry.receipt_handle,
            status: Some(fine()),
        });
        Ok(Response::new(pb::AckMessageResponse { status: Some(fine()), entries: entries.collect() }))
    }

    async fn query_route(
        &self,
        request: Request<pb::QueryRouteRequest>,
    ) -> Result<Response<pb::QueryRouteResponse>, Status> {
        let queue = self.queue(request.into_inner().topic);
        Ok(Response::new(pb::QueryRouteResponse { status: Some(fine()), message_queues: vec![queue] }))
    }

    async fn query_assignment(
        &self,
        request: Request<pb::QueryAssignmentRequest>,
    ) -> Result<Response<pb::QueryAssignmentResponse>, Status> {
        let assignment = pb::Assignment { message_queue: Some(self.queue(request.into_inner().topic)) };
        Ok(Response::new(pb::QueryAssignmentResponse { status: Some(fine()), assignments: vec![assignment] }))
    }

    async fn telemetry(
        &self,
        request: Request<Streaming<pb::TelemetryCommand>>,
    ) -> Result<Response<Self::TelemetryStream>, Status> {
        let answers = request.into_inner().map(|command| {
            let mut command = command?;
            command.status = Some(fine());
            if let Some(pb::telemetry_command::Command::Settings(settings)) = &mut command.command {
                settings.backoff_policy = Some(pb::RetryPolicy {
                    max_attempts: 3,
                    strategy: Some(pb::retry_policy::Strategy::ExponentialBackoff(pb::ExponentialBackoff {
                        initial: Some(prost_types::Duration { seconds: 0, nanos: 10_000_000 }),
                        max: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
                        multiplier: 2.0,
                    })),
                });
            }
            Ok(command)
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn heartbeat(&self, _: Request<pb::HeartbeatRequest>) -> Result<Response<pb::HeartbeatResponse>, Status> {
        Ok(Response::new(pb::HeartbeatResponse { status: Some(fine()) }))
    }

    async fn notify_client_termination(
        &self,
        _: Request<pb::NotifyClientTerminationRequest>,
    ) -> Result<Response<pb::NotifyClientTerminationResponse>, Status> {
        Ok(Response::new(pb::NotifyClientTerminationResponse { status: Some(fine()) }))
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        _: Request<pb::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<Response<pb::ForwardMessageToDeadLetterQueueResponse>, Status> {
        absent("ForwardMessageToDeadLetterQueue")
    }

    async fn pull_message(
        &self,
        _: Request<pb::PullMessageRequest>,
    ) -> Result<Response<Self::PullMessageStream>, Status> {
        absent("PullMessage")
    }

    async fn update_offset(
        &self,
        _: Request<pb::UpdateOffsetRequest>,
    ) -> Result<Response<pb::UpdateOffsetResponse>, Status> {
        absent("UpdateOffset")
    }

    async fn get_offset(&self, _: Request<pb::GetOffsetRequest>) -> Result<Response<pb::GetOffsetResponse>, Status> {
        absent("GetOffset")
    }

    async fn query_offset(
        &self,
        _: Request<pb::QueryOffsetRequest>,
    ) -> Result<Response<pb::QueryOffsetResponse>, Status> {
        absent("QueryOffset")
    }

    async fn end_transaction(
        &self,
        _: Request<pb::EndTransactionRequest>,
    ) -> Result<Response<pb::EndTransactionResponse>, Status> {
        absent("EndTransaction")
    }

    async fn change_invisible_duration(
        &self,
        _: Request<pb::ChangeInvisibleDurationRequest>,
    ) -> Result<Response<pb::ChangeInvisibleDurationResponse>, Status> {
        absent("ChangeInvisibleDuration")
    }

    async fn recall_message(
        &self,
        _: Request<pb::RecallMessageRequest>,
    ) -> Result<Response<pb::RecallMessageResponse>, Status> {
        absent("RecallMessage")
    }

    async fn sync_lite_subscription(
        &self,
        _: Request<pb::SyncLiteSubscriptionRequest>,
    ) -> Result<Response<pb::SyncLiteSubscriptionResponse>, Status> {
        absent("SyncLiteSubscription")
    }
}

/// The frames of one poll's answer.
pub struct Delivery {
    frames: std::sync::Arc<Vec<Frame>>,
    next: usize,
}

impl Iterator for Delivery {
    type Item = Result<Frame, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let frame = self.frames.get(self.next)?.clone();
        self.next += 1;
        Some(Ok(frame))
    }
}

/// Serves on `listener` with `threads` runtimes until the process ends; polls hand out bodies of `body` bytes.
pub fn serve(listener: TcpListener, threads: usize, body: usize) -> io::Result<()> {
    let floor = Floor { address: listener.local_addr()?, delivery: std::sync::Arc::new(delivery(body)) };
    let mut hands = Vec::new();
    for _ in 0..threads.max(1) {
        let (hand, sockets) = mpsc::channel::<io::Result<TcpStream>>(64);
        let (raw, given) = std::sync::mpsc::sync_channel::<std::net::TcpStream>(64);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let floor = floor.clone();
        // Sockets must be registered with the runtime that serves them.
        let handle = runtime.handle().clone();
        std::thread::spawn(move || {
            for socket in given {
                let _inside = handle.enter();
                if hand.blocking_send(TcpStream::from_std(socket)).is_err() {
                    return;
                }
            }
        });
        std::thread::spawn(move || {
            let server = tonic::transport::Server::builder()
                .tcp_nodelay(true)
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .add_service(MessagingServiceServer::new(floor).max_decoding_message_size(136_314_880));
            runtime.block_on(server.serve_with_incoming(ReceiverStream::new(sockets)))
        });
        hands.push(raw);
    }
    for turn in 0.. {
        let (socket, _) = listener.accept()?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let gone = |_| io::Error::other("a runtime of the floor ended");
        hands[turn % hands.len()].send(socket).map_err(gone)?;
    }
    Ok(())
}
