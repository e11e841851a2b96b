//! gRPC messages out of an HTTP/2 stream: one byte "compressed", four bytes length (big endian), then the message.
//!
//! Bytes are taken from the inbound budget as they arrive, so that a client that announces much and sends little holds
//! little. A message that came in one piece is not copied.

use super::error::{GrpcCode, GrpcError};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use martlet_net::budget::{Budget, Taken};
use std::time::Duration;

/// Length of the prefix of a message.
pub(crate) const PREFIX_BYTES: usize = 5;
/// How long a message waits for room in the inbound budget.
const BUDGET_PATIENCE: Duration = Duration::from_secs(1);

/// One message and its share of the inbound budget, to be kept until the message has been dealt with.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) message: Bytes,
    pub(crate) _held: Taken,
}

/// Reads messages from a request's body. A read that is given up half-way loses nothing.
#[derive(Debug)]
pub(crate) struct FrameReader {
    body: RecvStream,
    budget: Budget,
    message_bytes_max: usize,
    /// Received, not yet counted against the budget.
    uncounted: Option<Bytes>,
    /// Counted, not yet looked at.
    rest: Bytes,
    /// The start of a message that came in pieces.
    partial: BytesMut,
    held: Taken,
}

impl FrameReader {
    pub(crate) fn new(body: RecvStream, budget: Budget, message_bytes_max: usize) -> Self {
        let held = budget.nothing();
        Self { body, budget, message_bytes_max, uncounted: None, rest: Bytes::new(), partial: BytesMut::new(), held }
    }

    /// The only message of a unary request, and the end of the stream after it.
    pub(crate) async fn only(mut self, limit: Duration) -> Result<Frame, GrpcError> {
        let read = async {
            let frame = self.next().await?;
            let frame = frame.ok_or_else(|| GrpcError::new(GrpcCode::Internal, "the request has no message"))?;
            while self.rest.is_empty() {
                if self.body.is_end_stream() {
                    return Ok(frame);
                }
                match self.chunk().await? {
                    Some(chunk) => self.rest = chunk,
                    None => return Ok(frame),
                }
            }
            Err(GrpcError::new(GrpcCode::Internal, "the request has more than one message"))
        };
        tokio::time::timeout(limit, read).await.unwrap_or_else(|_| {
            let text = format!("the request was not complete within {} ms", limit.as_millis());
            Err(GrpcError::new(GrpcCode::DeadlineExceeded, text))
        })
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, GrpcError> {
        loop {
            if let Some(frame) = self.complete()? {
                return Ok(Some(frame));
            }
            match self.chunk().await? {
                Some(chunk) if self.partial.is_empty() => self.rest = chunk,
                Some(chunk) => self.partial.extend_from_slice(&chunk),
                None if self.partial.is_empty() => return Ok(None),
                None => return Err(GrpcError::new(GrpcCode::Internal, "the request ended within a message")),
            }
        }
    }

    /// A message that is there already. Afterwards `rest` is empty or `partial` is.
    fn complete(&mut self) -> Result<Option<Frame>, GrpcError> {
        if self.partial.is_empty() {
            let length = prefix(&self.rest, self.message_bytes_max)?;
            if let Some(end) = length.map(|length| PREFIX_BYTES + length)
                && self.rest.len() >= end
            {
                let message = self.rest.split_to(end).slice(PREFIX_BYTES..);
                return Ok(Some(self.frame(message)));
            }
            self.partial.extend_from_slice(&std::mem::take(&mut self.rest));
        }
        if let Some(length) = prefix(&self.partial, self.message_bytes_max)? {
            let end = PREFIX_BYTES + length;
            if self.partial.len() >= end {
                let message = self.partial.split_to(end).freeze().slice(PREFIX_BYTES..);
                self.rest = std::mem::take(&mut self.partial).freeze();
                return Ok(Some(self.frame(message)));
            }
            self.partial.reserve(end - self.partial.len());
        }
        Ok(None)
    }

    fn frame(&mut self, message: Bytes) -> Frame {
        Frame { message, _held: std::mem::replace(&mut self.held, self.budget.nothing()) }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, GrpcError> {
        if self.uncounted.is_none() {
            self.uncounted = self
                .body
                .data()
                .await
                .transpose()
                .map_err(|error| GrpcError::new(GrpcCode::Internal, format!("reading the request: {error}")))?;
        }
        let Some(length) = self.uncounted.as_ref().map(Bytes::len) else { return Ok(None) };
        if !self.budget.take(&mut self.held, length, BUDGET_PATIENCE).await {
            let text = format!("inbound bytes are at their limit of {}", self.budget.limit());
            return Err(GrpcError::new(GrpcCode::ResourceExhausted, text));
        }
        // A stream that has ended has no window to give back to.
        let _ = self.body.flow_control().release_capacity(length);
        Ok(self.uncounted.take())
    }
}

/// Reads the prefix of a message: its length, or `None` if fewer than five bytes are there.
pub(crate) fn prefix(bytes: &[u8], message_bytes_max: usize) -> Result<Option<usize>, GrpcError> {
    let Some([compressed, length @ ..]) = bytes.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    if *compressed != 0 {
        return Err(GrpcError::new(GrpcCode::Unimplemented, "compressed gRPC messages are not supported"));
    }
    let length = u32::from_be_bytes(*length) as usize;
    if length > message_bytes_max {
        let text = format!("the request has {length} bytes, the limit is {message_bytes_max}");
        return Err(GrpcError::new(GrpcCode::ResourceExhausted, text));
    }
    Ok(Some(length))
}

/// Puts the prefix in front of a message that is written by `write` and has `length` bytes.
pub(crate) fn framed(length: usize, write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + length);
    frame.extend_from_slice(&[0]);
    frame.extend_from_slice(&(length as u32).to_be_bytes());
    write(&mut frame);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_checked_before_anything_is_kept() {
        assert_eq!(prefix(&[0, 0, 0, 1], 10), Ok(None));
        assert_eq!(prefix(&[0, 0, 0, 0, 10], 10), Ok(Some(10)));
        assert_eq!(prefix(&[0, 0, 0, 0, 11], 10).unwrap_err().code, GrpcCode::ResourceExhausted);
        assert_eq!(prefix(&[1, 0, 0, 0, 1], 10).unwrap_err().code, GrpcCode::Unimplemented);
        assert_eq!(&framed(2, |frame| frame.extend_from_slice(b"ab"))[..], b"\0\0\0\0\x02ab");
    }
}
