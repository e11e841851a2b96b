//! gRPC over bare HTTP/2: one connection, unary calls and server streams, on a current-thread runtime.
//!
//! A frame is one byte (0: not compressed), the length as u32 big-endian, the encoded message. Bytes read and written on
//! the socket are counted. Must run inside a `tokio::task::LocalSet`: the connection's driver is a local task.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::error::{BenchError, Result};

/// The RPCs that loads use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rpc {
    QueryRoute,
    Heartbeat,
    SendMessage,
    QueryAssignment,
    ReceiveMessage,
    AckMessage,
    Telemetry,
    NotifyClientTermination,
    SyncLiteSubscription,
    /// Of the older package.
    SendMessageV1,
}

impl Rpc {
    const ALL: [Rpc; 10] = [
        Rpc::QueryRoute,
        Rpc::Heartbeat,
        Rpc::SendMessage,
        Rpc::QueryAssignment,
        Rpc::ReceiveMessage,
        Rpc::AckMessage,
        Rpc::Telemetry,
        Rpc::NotifyClientTermination,
        Rpc::SyncLiteSubscription,
        Rpc::SendMessageV1,
    ];

    /// Name in the service.
    pub fn name(self) -> &'static str {
        match self {
            Rpc::QueryRoute => "QueryRoute",
            Rpc::Heartbeat => "Heartbeat",
            Rpc::SendMessage | Rpc::SendMessageV1 => "SendMessage",
            Rpc::QueryAssignment => "QueryAssignment",
            Rpc::ReceiveMessage => "ReceiveMessage",
            Rpc::AckMessage => "AckMessage",
            Rpc::Telemetry => "Telemetry",
            Rpc::NotifyClientTermination => "NotifyClientTermination",
            Rpc::SyncLiteSubscription => "SyncLiteSubscription",
        }
    }
}

/// Bytes that passed through sockets, summed over connections.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the server.
    pub read: AtomicU64,
    /// To the server.
    pub written: AtomicU64,
}

struct Counted {
    socket: TcpStream,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.traffic.read.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        polled
    }
}

impl Counted {
    fn count(&self, polled: Poll<std::io::Result<usize>>) -> Poll<std::io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = polled {
            self.traffic.written.fetch_add(n as u64, Ordering::Relaxed);
        }
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.count(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// One HTTP/2 connection with the headers its client sends on every call.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    uris: Vec<Uri>,
    headers: HeaderMap,
}

/// Header that differs from call to call, as in the official clients.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-mq-request-id");

impl Connection {
    /// Dials `endpoint` (`host:port`) in plain text. `window` is the receive window of a stream in bytes, at most 2^31-1;
    /// the connection gets four times as much, so that only a stream that is not read holds the server back.
    pub async fn open(endpoint: &str, headers: HeaderMap, window: u32, traffic: Arc<Traffic>) -> Result<Self> {
        let refused = |source| BenchError::Connect { endpoint: endpoint.to_owned(), source };
        let socket = TcpStream::connect(endpoint).await.map_err(refused)?;
        socket.set_nodelay(true).map_err(refused)?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .initial_connection_window_size(window.saturating_mul(4).min(1 << 30))
            .max_concurrent_reset_streams(1024)
            .handshake(Counted { socket, traffic })
            .await
            .map_err(|source| BenchError::Http2 { rpc: "handshake", source })?;
        // Its error reaches every open stream, and they report it.
        tokio::task::spawn_local(async move { drop(connection.await) });
        let authority: Authority = endpoint.parse().map_err(|_| BenchError::Setting {
            name: "endpoint",
            value: endpoint.to_owned(),
            limit: "HOST:PORT",
        })?;
        let mut uris = Vec::new();
        for rpc in Rpc::ALL {
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(authority.clone());
            let package = if rpc == Rpc::SendMessageV1 { "v1" } else { "v2" };
            let path = format!("/apache.rocketmq.{package}.MessagingService/{}", rpc.name());
            parts.path_and_query = PathAndQuery::try_from(path).ok();
            uris.push(Uri::from_parts(parts).map_err(|e| protocol(rpc, e))?);
        }
        Ok(Self { sender, uris, headers })
    }

    /// Starts a call. `timeout` goes out as `grpc-timeout`; nothing here enforces it.
    pub async fn start(
        &self,
        rpc: Rpc,
        request_id: u64,
        timeout: &HeaderValue,
        frame: Bytes,
        end: bool,
    ) -> Result<(Answer, SendStream<Bytes>)> {
        let http2 = |source| BenchError::Http2 { rpc: rpc.name(), source };
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uris[rpc as usize].clone();
        let mut headers = self.headers.clone();
        headers.insert(HeaderName::from_static("grpc-timeout"), timeout.clone());
        let id = format!("6d61-7274-{request_id:016x}");
        headers.insert(REQUEST_ID, HeaderValue::from_maybe_shared(Bytes::from(id)).map_err(|e| protocol(rpc, e))?);
        *request.headers_mut() = headers;
        let mut sender = self.sender.clone().ready().await.map_err(http2)?;
        let (response, mut stream) = sender.send_request(request, false).map_err(http2)?;
        stream.send_data(frame, end).map_err(http2)?;
        Ok((Answer { rpc, head: Some(response), body: None, buffer: BytesMut::new() }, stream))
    }

    /// One request, one answer.
    pub async fn unary<R: Message + Default>(
        &self,
        rpc: Rpc,
        request_id: u64,
        timeout: &HeaderValue,
        frame: Bytes,
    ) -> Result<R> {
        let (mut answer, _stream) = self.start(rpc, request_id, timeout, frame, true).await?;
        let bytes = answer.next().await?.ok_or_else(|| protocol(rpc, "no message in the answer"))?;
        let decoded = R::decode(bytes).map_err(|e| protocol(rpc, e))?;
        match answer.next().await? {
            None => Ok(decoded),
            Some(_) => Err(protocol(rpc, "more than one message in the answer")),
        }
    }
}

/// The answer of one call, frame by frame.
pub struct Answer {
    rpc: Rpc,
    head: Option<h2::client::ResponseFuture>,
    body: Option<RecvStream>,
    buffer: BytesMut,
}

impl Answer {
    /// Waits for the head only: nothing of the body is read, so the server runs into the stream's window.
    pub async fn head(&mut self) -> Result<()> {
        if let Some(head) = self.head.take() {
            let response = head.await.map_err(|source| BenchError::Http2 { rpc: self.rpc.name(), source })?;
            if response.status() != http::StatusCode::OK {
                return Err(protocol(self.rpc, format!("HTTP status {}", response.status())));
            }
            grpc_status(self.rpc, response.headers(), false)?;
            self.body = Some(response.into_body());
        }
        Ok(())
    }

    /// The next message, or `None` after a clean end (grpc-status 0).
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.head().await?;
        loop {
            if let Some(message) = self.take_frame()? {
                return Ok(Some(message));
            }
            let Some(body) = self.body.as_mut() else { return Ok(None) };
            let http2 = |source| BenchError::Http2 { rpc: self.rpc.name(), source };
            match body.data().await {
                Some(chunk) => {
                    let chunk = chunk.map_err(http2)?;
                    body.flow_control().release_capacity(chunk.len()).map_err(http2)?;
                    self.buffer.extend_from_slice(&chunk);
                }
                None => {
                    let trailers = body.trailers().await.map_err(http2)?;
                    self.body = None;
                    if !self.buffer.is_empty() {
                        return Err(protocol(self.rpc, "the stream ends inside a message"));
                    }
                    // A trailers-only answer has its status in the head, which was looked at before.
                    if let Some(trailers) = trailers {
                        grpc_status(self.rpc, &trailers, true)?;
                    }
                    return Ok(None);
                }
            }
        }
    }

    fn take_frame(&mut self) -> Result<Option<Bytes>> {
        if self.buffer.len() < 5 {
            return Ok(None);
        }
        if self.buffer[0] != 0 {
            return Err(protocol(self.rpc, "compressed message, not asked for"));
        }
        let length = (&self.buffer[1..5]).get_u32() as usize;
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        self.buffer.advance(5);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

fn grpc_status(rpc: Rpc, headers: &HeaderMap, required: bool) -> Result<()> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    match headers.get("grpc-status") {
        None if required => Err(protocol(rpc, "trailers without grpc-status")),
        None => Ok(()),
        Some(code) if code == "0" => Ok(()),
        Some(_) => Err(BenchError::Grpc { rpc: rpc.name(), code: text("grpc-status"), message: text("grpc-message") }),
    }
}

/// A wrong answer to `rpc`.
pub fn protocol(rpc: Rpc, what: impl ToString) -> BenchError {
    BenchError::Protocol { rpc: rpc.name(), what: what.to_string() }
}

/// The gRPC frame of a message.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(5 + length);
    out.put_u8(0);
    out.put_u32(length as u32);
    // The buffer was sized for it, so encoding cannot run out of room.
    message.encode_raw(&mut out);
    out.freeze()
}
