//! What all connections share, and which request goes where.

use crate::answer::{Answer, Code, Denied};
use crate::body::{self, NotRead, Reply};
use crate::connection::Link;
use crate::target::{CONSUME_TARGET_MAX, Mode, Target};
use crate::{Limits, auth};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use martlet_broker::auth::Caller;
use martlet_broker::{AccessNow, Broker};
use martlet_model::UnixMillis;
use martlet_net::budget::Budget;
use martlet_net::complaints::Complaints;
use martlet_net::latency::{Latencies, Outcome, RpcLatency};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

const PUBLISH: &str = "publish_message";
const CONSUME: &str = "consume_message";
const ACK: &str = "ack_message";
const CONSUME_HALVES: &str = "consume_half_message";
const END: &str = "end_transaction";
const OTHER: &str = "other";

/// Said in every reply. The first in lower case, which one SDK needs.
pub(crate) const REQUEST_ID: &str = "x-mq-request-id";
const VERSION: &str = "x-mq-version";
const VERSION_SPOKEN: &str = "2015-06-06";
const XML: &str = "text/xml;charset=UTF-8";
/// How long a client that asks too much is held before it is told.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// What is left of a refused request's body is read up to here, so that its connection can go on.
const LEFT_BYTES_MAX: usize = 64 << 10;
const LEFT_TIMEOUT: Duration = Duration::from_secs(5);

/// Ids of requests and messages, unlike those of other processes.
#[derive(Debug)]
struct Ids {
    seed: u64,
    next: AtomicU64,
}

impl Ids {
    fn request(&self) -> String {
        let mut id = String::with_capacity(24);
        put_hex(&mut id, self.seed, 12);
        put_hex(&mut id, self.next.fetch_add(1, Ordering::Relaxed), 12);
        id
    }

    /// 32 digits, as those of other clients.
    fn message(&self, now: UnixMillis) -> String {
        let mut id = String::with_capacity(32);
        put_hex(&mut id, self.seed, 10);
        put_hex(&mut id, now.0.cast_unsigned(), 12);
        put_hex(&mut id, self.next.fetch_add(1, Ordering::Relaxed), 10);
        id
    }
}

/// Appends the last hexadecimal digits of a number, upper case, at most 16.
pub(crate) fn put_hex(text: &mut String, number: u64, digits: u32) {
    for place in (0..digits).rev() {
        text.push(char::from(b"0123456789ABCDEF"[(number >> (4 * place) & 0xf) as usize]));
    }
}

/// What all connections share.
pub(crate) struct Front {
    pub broker: Broker,
    pub limits: Limits,
    pub inbound: Budget,
    pub outbound: Budget,
    pub connections: Arc<AtomicUsize>,
    pub latencies: Latencies,
    pub complaints: Complaints,
    ids: Ids,
    stop: watch::Receiver<bool>,
}

impl Front {
    pub fn new(broker: Broker, limits: Limits, stop: watch::Receiver<bool>) -> Self {
        Self {
            broker,
            inbound: Budget::for_requests(limits.inbound_bytes, limits.publish_bytes),
            outbound: Budget::new(limits.outbound_bytes),
            limits,
            connections: Arc::default(),
            latencies: Latencies::of(&[PUBLISH, CONSUME, ACK, CONSUME_HALVES, END, OTHER]),
            complaints: Complaints::default(),
            ids: Ids { seed: RandomState::new().hash_one(0), next: AtomicU64::new(1) },
            stop,
        }
    }

    /// Becomes true when the front shuts down.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// Returns when the front shuts down.
    pub async fn shutdown(&self) {
        // A sender that is gone means the same.
        let _ = self.stopped().wait_for(|stop| *stop).await;
    }

    /// An id for a message.
    pub fn message_id(&self, now: UnixMillis) -> String {
        self.ids.message(now)
    }

    /// Answers a request.
    pub async fn handle(&self, link: &Link, request: Request<Incoming>) -> Response<Reply> {
        link.phase.serving();
        if link.phase.was_sent_ahead() {
            // The others of this thread come in between, however many requests this connection has at hand.
            tokio::task::yield_now().await;
        }
        let (arrived, id) = (Instant::now(), self.ids.request());
        let (parts, body) = request.into_parts();
        let mut call = OTHER;
        let (answered, close) = self.carry_out(link, &parts, body, &mut call).await;
        let (status, code, reply) = match answered {
            Ok(Answer { status, code, reply }) => (status, code, reply),
            Err(denied) => {
                let host = parts.headers.get(HOST).and_then(|host| std::str::from_utf8(host.as_bytes()).ok());
                let host = host.map_or_else(|| link.local.to_string(), str::to_owned);
                self.tell_of(link.peer, &id, call, &denied);
                if denied.code == Code::QpsLimitExceeded {
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                (denied.code.status(), denied.code, Reply::new(denied.document(&id, &host)))
            }
        };
        let outcome = if code == Code::InternalServerError { Outcome::Failed } else { Outcome::Success };
        self.latencies.observe(call, code.number(), outcome, arrived.elapsed());
        let is_empty = reply.is_empty();
        let mut response = Response::new(reply.on(&link.phase));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&id) {
            headers.insert(REQUEST_ID, id);
        }
        headers.insert(VERSION, HeaderValue::from_static(VERSION_SPOKEN));
        if !is_empty {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(XML));
        }
        if close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// The whole reply to a request whose head cannot be read; its connection ends with it.
    pub fn unreadable(&self, peer: SocketAddr, local: SocketAddr, status: u16) -> Vec<u8> {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
        let Limits { head_bytes, headers_max, .. } = self.limits;
        let denied = Denied::argument(match status {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                format!("the request's head has more than {head_bytes} bytes or more than {headers_max} headers")
            }
            StatusCode::URI_TOO_LONG => format!("the request's target does not fit a head of {head_bytes} bytes"),
            _ => "the request's head is not one of HTTP/1.1".to_owned(),
        });
        let id = self.ids.request();
        self.tell_of(peer, &id, OTHER, &denied);
        self.latencies.observe(OTHER, denied.code.number(), Outcome::Success, Duration::ZERO);
        let document = denied.document(&id, &local.to_string());
        let length = document.len();
        format!(
            "HTTP/1.1 {status}\r\n{REQUEST_ID}: {id}\r\n{VERSION}: {VERSION_SPOKEN}\r\ncontent-type: {XML}\r\n\
             content-length: {length}\r\nconnection: close\r\n\r\n{document}"
        )
        .into_bytes()
    }

    /// Counts a refusal and writes it to the log, by the id that the client is told.
    fn tell_of(&self, peer: SocketAddr, id: &str, call: &str, denied: &Denied) {
        if denied.code == Code::MessageNotExist {
            return;
        }
        let code = denied.code.name();
        self.broker.count_refusal(code);
        tracing::debug!(request = id, %peer, call, code, %denied, "a request was refused");
        self.complaints.say(|more| {
            tracing::info!(request = id, %peer, call, code, %denied, more, "requests were refused");
        });
    }

    /// The answer, and whether the connection ends with it.
    async fn carry_out(
        &self,
        link: &Link,
        parts: &Parts,
        body: Incoming,
        call: &mut &'static str,
    ) -> (Result<Answer, Denied>, bool) {
        let target = match self.check_head(link, parts) {
            Ok(target) => target,
            Err(denied) => {
                let left = body::read(body, LEFT_BYTES_MAX, &self.inbound, LEFT_TIMEOUT).await;
                return (Err(denied), left.is_err());
            }
        };
        *call = match (&parts.method, target.mode) {
            (&Method::POST, _) => PUBLISH,
            (&Method::GET, Mode::Halves) => CONSUME_HALVES,
            (&Method::GET, _) => CONSUME,
            (_, Mode::Commit | Mode::Rollback) => END,
            _ => ACK,
        };
        let max = match parts.method {
            Method::POST => self.limits.publish_bytes,
            _ => self.limits.other_bytes,
        };
        let (body, _held) = match body::read(body, max, &self.inbound, self.limits.read_timeout).await {
            Ok(read) => read,
            Err(NotRead(denied)) => return (Err(denied), true),
        };
        if let Err(denied) = auth::check_digest(&parts.headers, &body) {
            return (Err(denied), false);
        }
        let answered = match parts.method {
            Method::POST => self.publish(link, &target, &body).await,
            Method::GET => self.consume(link, &parts.headers, &target).await,
            _ => self.settle(&target, &body).await,
        };
        (answered, false)
    }

    /// What can be said before the body is there.
    fn check_head(&self, link: &Link, parts: &Parts) -> Result<Target, Denied> {
        let access = self.broker.access();
        let access = access.as_ref().map(AccessNow::get);
        let caller = access.as_ref().map(|access| auth::check(access, parts, SystemTime::now())).transpose()?;
        if ![Method::GET, Method::POST, Method::DELETE].contains(&parts.method) {
            let text = format!("method {} is not GET, POST or DELETE", parts.method);
            return Err(Denied::new(Code::InvalidRequestUrl, text));
        }
        let length = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
        if parts.method == Method::GET && length > CONSUME_TARGET_MAX {
            let text =
                format!("the request line has a target of {length} characters, the limit is {CONSUME_TARGET_MAX}");
            return Err(Denied::new(Code::InvalidRequestUrl, text));
        }
        let target = Target::read(parts.uri.path(), parts.uri.query())?;
        let fits = match parts.method {
            Method::GET => matches!(target.mode, Mode::Any | Mode::Ordered | Mode::Halves),
            Method::POST => target.mode == Mode::Any,
            _ => matches!(target.mode, Mode::Any | Mode::Commit | Mode::Rollback),
        };
        if !fits {
            let text = format!("query parameter trans does not go with method {}", parts.method);
            return Err(Denied::argument(text));
        }
        if let Some(caller) = caller.filter(Caller::is_bound) {
            let needs = auth::needs(&parts.method, &target);
            needs.iter().try_for_each(|need| caller.permit(need, link.peer.ip()))?;
        }
        Ok(target)
    }
}

/// An answer with nothing to say.
pub(crate) fn done() -> Answer {
    Answer { status: StatusCode::NO_CONTENT, code: Code::Ok, reply: Reply::default() }
}

/// All series of latencies.
pub(crate) fn figures(latencies: &Latencies) -> Vec<RpcLatency> {
    latencies.figures(Code::name_of, |call| call == CONSUME || call == CONSUME_HALVES)
}
