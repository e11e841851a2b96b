//! Bodies: of requests, read within their limits, and of replies, which know whether they were taken.

use crate::answer::{Code, Denied};
use crate::stream::Phase;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use martlet_broker::HandedOut;
use martlet_net::budget::{Budget, Taken};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// A body that was not read to its end: the connection cannot go on.
#[derive(Debug)]
pub(crate) struct NotRead(pub Denied);

/// Reads a body of at most so many bytes, which are taken from the budget as they arrive.
pub(crate) async fn read(
    mut body: Incoming,
    max: usize,
    budget: &Budget,
    limit: Duration,
) -> Result<(Bytes, Taken), NotRead> {
    let too_long = |bytes: u64| {
        let text = format!("the body of the request has {bytes} bytes or more, the limit is {max}");
        NotRead(Denied::argument(text))
    };
    let declared = body.size_hint().lower();
    if declared > max as u64 {
        return Err(too_long(declared));
    }
    let end = tokio::time::Instant::now() + limit;
    let (mut taken, mut first, mut more) = (budget.nothing(), Bytes::new(), BytesMut::new());
    loop {
        let next = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx));
        let frame = match tokio::time::timeout_at(end, next).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(NotRead(Denied::argument(format!("the body of the request did not arrive: {error}"))));
            }
            Err(_) => {
                let text = format!("the body of the request did not arrive within {} s", limit.as_secs());
                return Err(NotRead(Denied::argument(text)));
            }
        };
        // Trailers say nothing here.
        let Ok(data) = frame.into_data() else { continue };
        let bytes = first.len() + more.len() + data.len();
        if bytes > max {
            return Err(too_long(bytes as u64));
        }
        if !budget.take(&mut taken, data.len(), limit).await {
            let text = format!("bytes of requests under way are at their limit of {}", budget.limit());
            return Err(NotRead(Denied::new(Code::QpsLimitExceeded, text)));
        }
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.reserve(usize::try_from(declared).unwrap_or(0).clamp(bytes, max));
                more.extend_from_slice(&std::mem::take(&mut first));
            }
            more.extend_from_slice(&data);
        }
    }
    Ok((if more.is_empty() { first } else { more.freeze() }, taken))
}

/// The body of a reply.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    bytes: Bytes,
    /// Given back when the reply was taken, or could not be.
    _held: Option<Taken>,
    /// What is taken back if it is dropped before it was taken.
    handed_out: Option<HandedOut>,
    phase: Option<Arc<Phase>>,
}

impl Reply {
    pub fn new(document: String) -> Self {
        Self { bytes: Bytes::from(document), _held: None, handed_out: None, phase: None }
    }

    /// With the bytes that it takes of a budget, and with what is taken back if it does not leave.
    pub fn with_messages(document: String, held: Taken, handed_out: HandedOut) -> Self {
        Self { bytes: Bytes::from(document), _held: Some(held), handed_out: Some(handed_out), phase: None }
    }

    /// The connection waits for its next request once this is taken.
    pub fn on(mut self, phase: &Arc<Phase>) -> Self {
        self.phase = Some(phase.clone());
        self
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        if let Some(handed_out) = self.handed_out.take() {
            handed_out.written();
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(phase) = &self.phase {
            phase.idle();
        }
    }
}
