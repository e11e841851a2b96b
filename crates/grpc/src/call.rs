//! What a call says about itself besides its message: client id, deadline, versions, where it comes from.

use crate::code::Denied;
use crate::proto::v2::Code;
use crate::transport::connection::Peer;
use crate::transport::{GrpcCode, GrpcError, timeout};
use http::request::Parts;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest client id, in bytes. Clients make theirs of host name, process id and a counter.
const CLIENT_ID_BYTES_MAX: usize = 512;

/// One call.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) head: Parts,
    pub(crate) peer: Arc<Peer>,
    /// When the client stops waiting; `None` if it did not say.
    pub(crate) deadline: Option<Instant>,
    /// When its headers were looked at.
    pub(crate) arrived: Instant,
}

impl Call {
    pub(crate) fn new(head: Parts, peer: Arc<Peer>) -> Result<Self, GrpcError> {
        let arrived = Instant::now();
        let deadline = match head.headers.get("grpc-timeout") {
            None => None,
            // Some clients wait for decades; a deadline past what the clock can count is none.
            Some(value) => timeout::parse(value.as_bytes())
                .map(|limit| arrived.checked_add(limit))
                .map_err(|error| GrpcError::new(GrpcCode::InvalidArgument, error.to_string()))?,
        };
        Ok(Self { head, peer, deadline, arrived })
    }

    /// A header's text; empty if it is missing or not text.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
    }

    /// What its latency is counted under.
    pub(crate) fn timed_as(&self) -> &str {
        let call = self.head.uri.path().strip_prefix("/apache.rocketmq.v");
        let call = call.and_then(|path| path.get(1..)?.strip_prefix(".MessagingService/"));
        call.unwrap_or("Admin")
    }

    /// The id that every call must carry.
    pub(crate) fn client_id(&self) -> Result<&str, Denied> {
        let id = self.header("x-mq-client-id").trim();
        if id.is_empty() {
            return Err(Denied::new(Code::ClientIdRequired, "header x-mq-client-id is missing, blank or not text"));
        }
        if id.len() > CLIENT_ID_BYTES_MAX {
            let text = format!("header x-mq-client-id has {} bytes, the limit is {CLIENT_ID_BYTES_MAX}", id.len());
            return Err(Denied::new(Code::BadRequest, text));
        }
        Ok(id)
    }

    /// Time left until the deadline.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}
