//! One connection: frames in, requests side by side, answers out as they come.
//!
//! All of it is one task: it takes the frames that came, begins their requests, and writes the answers that are there, as many at a
//! time as there are.

use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::frame::{self, Frame};
use crate::codec::header::{FLAG_RESPONSE, Format, Header};
use crate::codec::{DecodeError, code};
use crate::front::Front;
use crate::input::Input;
use crate::link::{Link, VERSION};
use crate::outbox::{Batch, Carried, Counted, Outbox};
use crate::send;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use martlet_broker::SendOutcome;
use martlet_net::budget::Taken;
use martlet_net::deadline::Deadline;
use martlet_net::latency::Outcome;
use martlet_net::listener::Connection;
use martlet_net::stream::Stream;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::AsyncWrite as _;
use tokio::time::timeout;

/// Frames that may wait for a client that was not asked for them, at least.
const OFFERED_MIN: usize = 64;
/// Rounds of reading and answering, one after the other, before other connections have their turn.
const ROUNDS_MAX: usize = 16;

/// Why a connection was closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The client sent what is no frame.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something took too long.
    #[error("{what} took longer than {} s", limit.as_secs())]
    Slow {
        /// What.
        what: &'static str,
        /// The limit.
        limit: Duration,
    },
}

impl LinkError {
    /// Whether the peer just went away, as clients do.
    fn is_hang_up(&self) -> bool {
        let Self::Io(error) = self else { return false };
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(error.kind(), UnexpectedEof | ConnectionReset | BrokenPipe)
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(front: Arc<Front>, connection: Connection) -> Result<(), LinkError> {
    let outbox = Outbox::new(front.limits.requests_per_connection_max.max(OFFERED_MIN));
    let number = front.next_link.fetch_add(1, Ordering::Relaxed);
    let link = Arc::new(Link::new(number, connection.peer, connection.local, outbox));
    front.link_made(&link);
    let (mut stopped, drain) = (front.stopped(), front.limits.drain_timeout);
    let mut serving = Serving::new(front, link, connection.stream);
    let ended = tokio::select! {
        ended = poll_fn(|cx| serving.poll(cx)) => Some(ended),
        _ = stopped.wait_for(|stop| *stop) => None,
    };
    match ended {
        Some(Err(error)) if error.is_hang_up() => Ok(()),
        Some(ended) => ended,
        // A client that does not read holds this up no longer than the drain.
        None => timeout(drain, poll_fn(|cx| serving.poll_drained(cx))).await.unwrap_or(Ok(())),
    }
}

/// A request under way.
struct Request {
    /// Taken when it is over.
    about: Option<About>,
    work: Work,
}

/// What is known of a request besides what it asks.
#[derive(Debug)]
struct About {
    code: i32,
    opaque: i32,
    format: Format,
    is_one_way: bool,
    /// Whether it may wait for messages.
    waits: bool,
    /// Bytes of its frame.
    bytes: usize,
    began: Instant,
}

enum Work {
    /// A send that the shard has: most requests are, and it takes little to wait for one.
    Sending(send::Sending),
    /// Anything else.
    Other(Pin<Box<dyn Future<Output = Result<Answer, Denied>> + Send>>),
}

/// What came of a request.
enum Done {
    Sent(SendOutcome, send::Facts),
    Other(Result<Answer, Denied>),
}

impl Future for Request {
    type Output = (About, Done);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(About, Done)> {
        let done = match &mut self.work {
            Work::Sending(sending) => {
                let (outcome, facts) = ready!(Pin::new(sending).poll(cx));
                Done::Sent(outcome, facts)
            }
            Work::Other(work) => Done::Other(ready!(work.as_mut().poll(cx))),
        };
        match self.about.take() {
            Some(about) => Poll::Ready((about, done)),
            // Was ready before.
            None => Poll::Pending,
        }
    }
}

/// What a connection waits for from its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// Nothing: it is not read, as there is no place for more.
    Nothing,
    /// Another frame, after so many.
    Next(u64),
    /// The rest of a frame, after so many.
    Rest(u64),
}

/// Why no more frames are taken for now.
enum Stop {
    /// There is no place, or no room; whatever ends that wakes the task.
    Full,
    /// So many bytes more are missing, at least.
    Missing(usize),
}

/// A connection being served.
struct Serving {
    front: Arc<Front>,
    link: Arc<Link>,
    stream: Stream,
    input: Input,
    /// The header of the request that is looked at; kept for its memory.
    header: Header,
    requests: FuturesUnordered<Request>,
    /// Those of them that may wait for messages.
    polls: usize,
    /// Bytes of frames of requests under way.
    held: Taken,
    /// The frame that comes next has its room in `held`.
    has_room: bool,
    /// That room, while others have it. `None`: they did not give it back in time.
    room: Option<Pin<Box<dyn Future<Output = Option<Taken>> + Send>>>,
    frames: u64,
    awaited: Awaited,
    quiet: Deadline,
    writing: Batch,
    /// Batches written.
    batches: u64,
    /// Which piece of which batch the client has until then to take.
    slow: Option<((u64, usize), Deadline)>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.requests.clear();
        // Whoever hears that an answer will not come finds the connection gone.
        self.front.link_gone(&self.link);
        self.link.asked.close();
        for batch in [std::mem::take(&mut self.writing), self.link.outbox.close()] {
            batch.given_up(|counted| self.front.count(counted));
        }
    }
}

impl Serving {
    fn new(front: Arc<Front>, link: Arc<Link>, stream: Stream) -> Self {
        Self {
            input: Input::default(),
            header: Header::default(),
            requests: FuturesUnordered::new(),
            polls: 0,
            held: front.inbound.nothing(),
            has_room: false,
            room: None,
            frames: 0,
            awaited: Awaited::Nothing,
            quiet: Deadline::after(front.limits.idle_timeout),
            writing: Batch::default(),
            batches: 0,
            slow: None,
            front,
            link,
            stream,
        }
    }

    /// Reads requests, begins each, and answers them, until the client goes or says nothing for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.link.outbox.register(cx.waker());
        for _ in 0..ROUNDS_MAX {
            self.poll_requests(cx);
            if let Poll::Ready(Err(error)) = self.poll_writing(cx) {
                return Poll::Ready(Err(error));
            }
            match self.poll_reading(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Answers what is under way, reads nothing more, and says good-bye.
    fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        self.link.outbox.register(cx.waker());
        self.poll_requests(cx);
        ready!(self.poll_writing(cx))?;
        if !self.requests.is_empty() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx).map_err(LinkError::from)
    }

    /// Takes the answers that are there.
    fn poll_requests(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some((about, done))) = self.requests.poll_next_unpin(cx) {
            let result = match done {
                Done::Other(result) => result,
                Done::Sent(outcome, facts) => match self.front.told(&facts, outcome) {
                    send::Told::Answer(result) => result,
                    send::Told::Places(sent) => {
                        let front = self.front.clone();
                        let work = Work::Other(Box::pin(async move { front.places_told(&facts, &sent).await }));
                        self.requests.push(Request { about: Some(about), work });
                        continue;
                    }
                },
            };
            self.polls -= usize::from(about.waits);
            self.held.give_back(about.bytes);
            self.answer(&about, result);
        }
    }

    /// Answers a request.
    fn answer(&self, about: &About, result: Result<Answer, Denied>) {
        let answer = result.and_then(Answer::fitting).unwrap_or_else(|denied| {
            self.front.broker.count_refusal(denied.reason());
            Answer::from(denied)
        });
        let Answer { code, remark, fields, body, budget, handed_out } = answer;
        let outcome = if code == response::SYSTEM_ERROR { Outcome::Failed } else { Outcome::Success };
        let counted = Counted { call: code::request::name(about.code), code, outcome, began: about.began };
        if about.is_one_way {
            return self.front.count(counted);
        }
        let header = Header {
            code,
            opaque: about.opaque,
            flag: FLAG_RESPONSE,
            version: VERSION,
            remark,
            fields,
            format: about.format,
            ..Header::default()
        };
        self.link.outbox.answer(&header, body, Carried { budget, handed_out }, counted);
    }

    /// Writes the frames that are there. Ready: all were, or the client is too slow.
    fn poll_writing(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        loop {
            if self.writing.frames() == 0 {
                self.writing = self.link.outbox.swap(std::mem::take(&mut self.writing));
                if self.writing.frames() == 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            let written = match self.writing.poll_write(cx, &mut self.stream) {
                Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_flush(cx),
                other => other,
            };
            match written {
                Poll::Ready(result) => result?,
                Poll::Pending => return self.poll_slow(cx),
            }
            self.batches += 1;
            let front = &self.front;
            self.writing.written(|counted| front.count(counted));
        }
    }

    /// Ready once the client has had its time to take what is being written.
    fn poll_slow(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let limit = self.front.limits.write_timeout;
        let piece = (self.batches, self.writing.piece());
        let (of, deadline) = self.slow.get_or_insert_with(|| (piece, Deadline::after(limit)));
        if *of != piece {
            deadline.set(limit);
            *of = piece;
        }
        let what = "writing to a client that does not read";
        deadline.poll(cx).map(|()| Err(LinkError::Slow { what, limit }))
    }

    /// Takes frames and reads more of them. Ready: whether the client is still there.
    fn poll_reading(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, LinkError>> {
        let mut input = std::mem::take(&mut self.input);
        let before = self.frames;
        let stop = input.take(|bytes| self.take_frames(cx, bytes));
        self.input = input;
        if self.frames > before && stop.is_ok() {
            // What was begun comes first: it has not been looked at yet.
            return Poll::Ready(Ok(true));
        }
        let missing = match stop? {
            Stop::Full => {
                self.awaited = Awaited::Nothing;
                return Poll::Pending;
            }
            Stop::Missing(bytes) => bytes,
        };
        let nothing_yet = self.input.is_empty();
        match self.input.poll_read(cx, &mut self.stream, missing) {
            Poll::Ready(Ok(0)) if nothing_yet => Poll::Ready(Ok(false)),
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            Poll::Ready(read) => Poll::Ready(read.map(|_| true).map_err(LinkError::from)),
            Poll::Pending => self.poll_quiet(cx, nothing_yet),
        }
    }

    /// Ready once nothing has come for too long. Not an error while nothing has begun.
    fn poll_quiet(&mut self, cx: &mut Context<'_>, nothing_yet: bool) -> Poll<Result<bool, LinkError>> {
        let (awaited, limit) = match nothing_yet {
            true => (Awaited::Next(self.frames), self.front.limits.idle_timeout),
            false => (Awaited::Rest(self.frames), self.front.limits.frame_timeout),
        };
        if self.awaited != awaited {
            self.awaited = awaited;
            self.quiet.set(limit);
        }
        while self.quiet.poll(cx).is_ready() {
            match nothing_yet {
                true if self.requests.is_empty() => return Poll::Ready(Ok(false)),
                true => self.quiet.set(limit),
                false => return Poll::Ready(Err(LinkError::Slow { what: "a frame", limit })),
            }
        }
        Poll::Pending
    }

    /// Begins the requests whose frames are there. Says how many bytes they had, and how many are missing of the next.
    fn take_frames(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> (usize, usize, Result<Stop, LinkError>) {
        let mut at = 0;
        let stop = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            match self.take_frame(cx, rest) {
                Ok(Ok(length)) => at += length,
                Ok(Err(stop)) => break Ok(stop),
                Err(error) => break Err(error),
            }
        };
        // Of what has no room yet nothing more is read.
        let missing = match stop {
            Ok(Stop::Missing(missing)) if self.has_room => missing,
            _ => 0,
        };
        (at, missing, stop)
    }

    /// Begins the request whose frame is in front. Gives its length, or says why it is not taken.
    fn take_frame(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Result<Result<usize, Stop>, LinkError> {
        let limits = &self.front.limits;
        let others = self.requests.len() - self.polls + self.link.outbox.frames() + self.writing.frames();
        if others >= limits.requests_per_connection_max {
            return Ok(Err(Stop::Full));
        }
        let Some(length) = frame::length(bytes)? else {
            return Ok(Err(Stop::Missing(frame::LENGTH_BYTES - bytes.len())));
        };
        if !self.has_room && !self.poll_room(cx, length)? {
            return Ok(Err(Stop::Full));
        }
        self.has_room = true;
        let Some(frame) = bytes.get(..length) else { return Ok(Err(Stop::Missing(length - bytes.len()))) };
        self.has_room = false;
        self.frames += 1;
        let mut header = std::mem::take(&mut self.header);
        let body = frame::read(frame, &mut header);
        self.header = header;
        self.begin(length, body?);
        Ok(Ok(length))
    }

    /// Makes room for a frame of so many bytes. `false`: there is none yet.
    fn poll_room(&mut self, cx: &mut Context<'_>, length: usize) -> Result<bool, LinkError> {
        let limits = &self.front.limits;
        if let Some(room) = &mut self.room {
            let Poll::Ready(taken) = room.as_mut().poll(cx) else { return Ok(false) };
            self.room = None;
            let limit = limits.frame_timeout;
            self.held.merge(taken.ok_or(LinkError::Slow { what: "waiting for room for a request", limit })?);
            return Ok(true);
        }
        // The largest frame must fit.
        let own = self.held.bytes();
        if own > 0 && own + length > limits.connection_bytes.max(frame::FRAME_BYTES_MAX + frame::LENGTH_BYTES) {
            return Ok(false);
        }
        if self.front.inbound.try_take(&mut self.held, length) {
            return Ok(true);
        }
        let (budget, patience) = (self.front.inbound.clone(), limits.frame_timeout);
        self.room = Some(Box::pin(async move {
            let mut taken = budget.nothing();
            budget.take(&mut taken, length, patience).await.then_some(taken)
        }));
        self.poll_room(cx, length)
    }

    /// Begins the request that [`Self::header`] says, whose frame has so many bytes.
    fn begin(&mut self, bytes: usize, body: &[u8]) {
        let header = &self.header;
        if header.is_response() {
            let header = std::mem::take(&mut self.header);
            self.link.asked.answered(Frame { header, body: Bytes::copy_from_slice(body) });
            return self.held.give_back(bytes);
        }
        let about = About {
            code: header.code,
            opaque: header.opaque,
            format: header.format,
            is_one_way: header.is_one_way(),
            waits: waits(header),
            bytes,
            began: Instant::now(),
        };
        let begun = match send::is_send(header.code) {
            true => self.front.begin_send(&self.link, header, body),
            false => Ok(None),
        };
        let limit = self.front.limits.polls_per_connection_max;
        let denied = match begun {
            Ok(Some(sending)) => {
                return self.requests.push(Request { about: Some(about), work: Work::Sending(sending) });
            }
            Ok(None) if about.waits && self.polls >= limit => {
                let remark = format!("the connection is at its limit of {limit} pulls that wait");
                Denied::new(response::SYSTEM_BUSY, remark)
            }
            Ok(None) => {
                // What waits for messages takes no place from what does not.
                self.polls += usize::from(about.waits);
                let (front, link) = (self.front.clone(), self.link.clone());
                let (header, body) = (std::mem::take(&mut self.header), Bytes::copy_from_slice(body));
                let work = Work::Other(Box::pin(async move { front.carry_out(&link, &header, body).await }));
                return self.requests.push(Request { about: Some(about), work });
            }
            Err(denied) => denied,
        };
        self.held.give_back(bytes);
        self.answer(&about, Err(denied));
    }
}

/// Whether a request may wait for messages.
fn waits(header: &Header) -> bool {
    match header.code {
        code::request::PULL_MESSAGE | code::request::LITE_PULL_MESSAGE => crate::pull::may_wait(&Fields::of(header)),
        code::request::POP_MESSAGE | code::request::NOTIFICATION => crate::pop::may_wait(&Fields::of(header)),
        _ => false,
    }
}
