//! Answers on an HTTP/2 stream.
//!
//! What fits into the client's window is handed over at once. The rest waits for the window, holding its bytes against
//! the outbound budget, for a limited time: a reader that stalls gets its stream reset.

use super::error::GrpcError;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use martlet_net::budget::Budget;
use std::future::poll_fn;
use std::time::Duration;

/// How long the window of a client may stay closed while an answer waits for it.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// An answer could not be handed over; nothing more can be said on this stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client did not take the answer")]
pub(crate) struct Undelivered;

impl From<h2::Error> for Undelivered {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

fn head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}

fn error_trailers(error: &GrpcError, headers: &mut HeaderMap) {
    headers.insert("grpc-status", HeaderValue::from(error.code as u16));
    if let Ok(message) = HeaderValue::from_str(&error.encoded_message()) {
        headers.insert("grpc-message", message);
    }
}

/// Sends a whole answer of one or more chunks, then the OK trailers.
pub(crate) async fn answer(
    respond: &mut SendResponse<Bytes>,
    chunks: impl IntoIterator<Item = Bytes>,
    outbound: &Budget,
) -> Result<(), Undelivered> {
    let mut stream = respond.send_response(head(), false)?;
    for chunk in chunks {
        send(&mut stream, chunk, outbound).await?;
    }
    stream.send_trailers(ok_trailers())?;
    Ok(())
}

/// Ends a call that has had no answer yet with a gRPC error.
pub(crate) fn fail(respond: &mut SendResponse<Bytes>, error: &GrpcError) {
    let mut response = head();
    error_trailers(error, response.headers_mut());
    // The client may be gone: then nobody waits for this.
    let _ = respond.send_response(response, true);
}

/// Answers a request that is not gRPC at all.
pub(crate) fn refuse(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    let _ = respond.send_response(response, true);
}

/// An answer in several parts that starts before its first message is known.
#[derive(Debug)]
pub(crate) struct OpenAnswer {
    stream: SendStream<Bytes>,
    outbound: Budget,
}

impl OpenAnswer {
    /// Sends the headers at once.
    pub(crate) fn start(respond: &mut SendResponse<Bytes>, outbound: Budget) -> Result<Self, Undelivered> {
        Ok(Self { stream: respond.send_response(head(), false)?, outbound })
    }

    pub(crate) async fn send(&mut self, frame: Bytes) -> Result<(), Undelivered> {
        send(&mut self.stream, frame, &self.outbound).await
    }

    pub(crate) fn finish(mut self) {
        let _ = self.stream.send_trailers(ok_trailers());
    }

    pub(crate) fn fail(mut self, error: &GrpcError) {
        let mut trailers = HeaderMap::with_capacity(2);
        error_trailers(error, &mut trailers);
        let _ = self.stream.send_trailers(trailers);
    }

    /// Completes when the client gives the stream up or the connection is lost.
    pub(crate) async fn abandoned(&mut self) {
        let _ = poll_fn(|cx| self.stream.poll_reset(cx)).await;
    }
}

async fn send(stream: &mut SendStream<Bytes>, mut chunk: Bytes, outbound: &Budget) -> Result<(), Undelivered> {
    stream.reserve_capacity(chunk.len());
    if stream.capacity() >= chunk.len() {
        return Ok(stream.send_data(chunk, false)?);
    }
    let mut held = outbound.nothing();
    if !outbound.take(&mut held, chunk.len(), STALL_LIMIT).await {
        stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        return Err(Undelivered);
    }
    while !chunk.is_empty() {
        let free = tokio::time::timeout(STALL_LIMIT, poll_fn(|cx| stream.poll_capacity(cx))).await;
        let Ok(Some(Ok(free))) = free else {
            stream.send_reset(Reason::CANCEL);
            return Err(Undelivered);
        };
        if free > 0 {
            stream.send_data(chunk.split_to(free.min(chunk.len())), false)?;
            stream.reserve_capacity(chunk.len());
        }
    }
    Ok(())
}
