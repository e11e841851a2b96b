//! A broker with its gRPC front in a temporary folder, and clients of it.
#![allow(dead_code, missing_docs, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request};
use martlet_broker::{Broker, BrokerOptions};
use martlet_grpc::proto::v2::messaging_service_client::MessagingServiceClient;
use martlet_grpc::proto::v2::{self, Code, receive_message_response::Content};
use martlet_grpc::{GrpcOptions, GrpcServer, TlsOptions};
use prost::Message;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::Channel;

/// How long anything may take that has no time of its own.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub broker: Broker,
    pub server: Option<GrpcServer>,
    pub folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_, _| ())
    }

    pub fn with(change: impl FnOnce(&mut BrokerOptions, &mut GrpcOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut broker = BrokerOptions::new(folder.path());
        let tls = TlsOptions::SelfSigned { folder: folder.path().join("tls"), names: vec![] };
        let mut grpc = GrpcOptions::new("127.0.0.1:0".parse().unwrap(), tls);
        // Clients of a test live on the thread that shuts the broker down, so they cannot take part in a drain.
        grpc.limits.drain_timeout = Duration::from_millis(100);
        change(&mut broker, &mut grpc);
        let (broker, _) = Broker::open(broker).unwrap();
        let server = martlet_grpc::serve(broker.clone(), grpc).unwrap();
        Self { broker, server: Some(server), folder }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().local_addr()
    }

    pub async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.address())).unwrap().connect().await.unwrap()
    }

    pub async fn client(&self) -> MessagingServiceClient<Channel> {
        MessagingServiceClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
        self.broker.close();
    }
}

/// Waits for what no event tells of, a figure or a clock; fails by name if it does not come.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let polled = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}

pub fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.into() })
}

/// A request of a client with this id.
pub fn from<T>(client: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.metadata_mut().insert("x-mq-client-id", client.parse().unwrap());
    request.metadata_mut().insert("x-mq-client-version", "5.0.7".parse().unwrap());
    request.metadata_mut().insert("x-mq-language", "RUST".parse().unwrap());
    request
}

pub fn message(topic: &str, id: &str, body: &[u8]) -> v2::Message {
    v2::Message {
        topic: resource(topic),
        system_properties: Some(v2::SystemProperties { message_id: id.into(), ..Default::default() }),
        body: Bytes::copy_from_slice(body),
        ..Default::default()
    }
}

pub fn send(messages: Vec<v2::Message>) -> tonic::Request<v2::SendMessageRequest> {
    from("producer", v2::SendMessageRequest { messages })
}

pub fn receive(group: &str, topic: &str) -> v2::ReceiveMessageRequest {
    v2::ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(v2::MessageQueue { topic: resource(topic), id: -1, ..Default::default() }),
        batch_size: 32,
        invisible_duration: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        ..Default::default()
    }
}

/// What one poll brought: code and text of the status, the messages. Checks the order of the frames.
pub struct Polled {
    pub code: Code,
    pub text: String,
    pub messages: Vec<v2::Message>,
}

pub async fn poll(
    client: &mut MessagingServiceClient<Channel>,
    request: tonic::Request<v2::ReceiveMessageRequest>,
) -> Polled {
    let mut stream = client.receive_message(request).await.unwrap().into_inner();
    let mut contents = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        contents.push(response.content.unwrap());
    }
    polled(contents)
}

pub fn polled(contents: Vec<Content>) -> Polled {
    let mut contents = contents.into_iter();
    let Some(Content::Status(status)) = contents.next() else { panic!("the status does not come first") };
    let mut messages = Vec::new();
    let mut ended = false;
    for content in contents {
        assert!(!ended, "something comes after the delivery timestamp");
        match content {
            Content::Message(message) => messages.push(message),
            Content::DeliveryTimestamp(_) => ended = true,
            Content::Status(status) => panic!("a second status: {status:?}"),
        }
    }
    assert!(ended, "the delivery timestamp is missing");
    Polled { code: status.code(), text: status.message, messages }
}

pub fn system(message: &v2::Message) -> &v2::SystemProperties {
    message.system_properties.as_ref().unwrap()
}

pub fn handle(message: &v2::Message) -> String {
    system(message).receipt_handle.clone().unwrap()
}

pub async fn ack(
    client: &mut MessagingServiceClient<Channel>,
    group: &str,
    topic: &str,
    handles: &[String],
) -> Vec<v2::Status> {
    let entries = handles
        .iter()
        .map(|handle| v2::AckMessageEntry { receipt_handle: handle.clone(), ..Default::default() })
        .collect();
    let request = v2::AckMessageRequest { group: resource(group), topic: resource(topic), entries };
    let response = client.ack_message(from("consumer", request)).await.unwrap().into_inner();
    response.entries.into_iter().map(|entry| entry.status.unwrap()).collect()
}

/// A bare HTTP/2 connection, for what a well-behaved client does not do.
pub async fn raw(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    window: u32,
) -> h2::client::SendRequest<Bytes> {
    let (client, connection) =
        h2::client::Builder::new().initial_window_size(window).handshake::<_, Bytes>(io).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client.ready().await.unwrap()
}

/// A gRPC message with its prefix.
pub fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.extend_from_slice(&[0]);
    frame.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

pub struct RawAnswer {
    pub status: http::StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl RawAnswer {
    /// The gRPC status, in headers or trailers.
    pub fn grpc_status(&self) -> String {
        let value = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"));
        value.map_or_else(String::new, |value| value.to_str().unwrap().to_owned())
    }

    pub fn message<M: Message + Default>(&self) -> M {
        M::decode(self.body.slice(5..)).unwrap()
    }
}

pub fn raw_request(path: &str) -> Request<()> {
    Request::post(format!("http://broker.example:9999{path}"))
        .header("content-type", "application/grpc")
        .header("x-mq-client-id", "raw")
        .body(())
        .unwrap()
}

pub async fn raw_call(client: &mut h2::client::SendRequest<Bytes>, request: Request<()>, body: Bytes) -> RawAnswer {
    let (response, mut stream) = client.send_request(request, false).unwrap();
    stream.send_data(body, true).unwrap();
    let response = tokio::time::timeout(Duration::from_secs(20), response).await.unwrap().unwrap();
    let (head, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    while let Some(chunk) = incoming.data().await {
        let chunk = chunk.unwrap();
        incoming.flow_control().release_capacity(chunk.len()).unwrap();
        body.extend_from_slice(&chunk);
    }
    let trailers = incoming.trailers().await.unwrap().unwrap_or_default();
    RawAnswer { status: head.status, headers: head.headers, body: body.freeze(), trailers }
}
