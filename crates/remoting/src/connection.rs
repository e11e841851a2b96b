//! One connection: frames in, requests side by side, answers out as they come.

use crate::answer::{Answer, Denied};
use crate::asked::Asked;
use crate::codec::code::response;
use crate::codec::fields::{FieldList, Fields};
use crate::codec::frame::{self, Frame};
use crate::codec::header::{FLAG_ONE_WAY, FLAG_RESPONSE, Header};
use crate::codec::{DecodeError, code};
use crate::front::Front;
use bytes::{Bytes, BytesMut};
use martlet_broker::{HandedOut, MessageModel, ReplyBudget};
use martlet_net::budget::{Budget, Taken};
use martlet_net::deadline::Deadline;
use martlet_net::latency::Outcome;
use martlet_net::listener::Connection;
use martlet_net::stream::Stream;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Version that answers and requests carry: clients switch features on by it. Ordinal of 5.5.0.
pub(crate) const VERSION: i32 = 513;
/// Frames that are gathered for one write.
const GATHERED_MAX: usize = 64;
/// Bodies from this size on are not copied for that.
const SHARED_BODY_BYTES_MIN: usize = 16 * 1024;
/// Room that is made for what comes next while nothing is known of it: at first, and on a connection over which much comes at once.
const READ_AHEAD_BYTES: std::ops::RangeInclusive<usize> = 4 << 10..=32 << 10;

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

/// A frame on its way out.
#[derive(Debug)]
struct Outgoing {
    head: Bytes,
    body: Bytes,
    /// Kept until it is written.
    _budget: Option<ReplyBudget>,
    handed_out: Option<HandedOut>,
}

/// Where frames go to be written; `None`: that was all. In boxes, as the queue of a connection that rests has room for 32 of them.
type Out = mpsc::Sender<Option<Box<Outgoing>>>;

/// A client's end of a connection, for whoever wants to send it something.
#[derive(Debug)]
pub(crate) struct Link {
    /// Unique in this process.
    pub number: u64,
    /// Where the client is.
    pub peer: SocketAddr,
    /// The same as text, which each of its messages says.
    pub peer_text: Box<str>,
    /// The address it dialled, as this machine sees it.
    pub local: SocketAddr,
    /// `None`: the end.
    out: Out,
    next_opaque: AtomicI32,
    /// Requests that its client has not answered yet.
    asked: Asked,
    /// Groups that its client consumes with: as whom, and how.
    groups: Mutex<BTreeMap<String, Membership>>,
}

/// As whom a client consumes with a group, and how.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    /// Its id.
    pub client: Arc<str>,
    /// Whether it shares messages with the others.
    pub model: MessageModel,
    /// Whether it asks for messages by itself rather than handing them to a listener.
    pub active: bool,
}

impl Link {
    fn groups(&self) -> MutexGuard<'_, BTreeMap<String, Membership>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As whom its client consumes with a group, and how; `None`: it does not, as far as it has said.
    pub fn member(&self, group: &str) -> Option<(Arc<str>, MessageModel)> {
        self.groups().get(group).map(|member| (member.client.clone(), member.model))
    }

    /// Whether its client asks for messages by itself rather than handing them to a listener.
    pub fn consumes_actively(&self, group: &str) -> bool {
        self.groups().get(group).is_some_and(|member| member.active)
    }

    /// Its client consumes with a group, one of so many at most.
    pub fn consumes(&self, group: &str, member: Membership, max: usize) -> Result<(), Denied> {
        let mut groups = self.groups();
        if groups.len() >= max && !groups.contains_key(group) {
            let remark = format!("consumerDataSet brings the connection to more than {max} groups, the limit");
            return Err(Denied::new(response::SYSTEM_BUSY, remark));
        }
        groups.insert(group.to_owned(), member);
        Ok(())
    }

    /// Its client has left a group.
    pub fn consumes_no_more(&self, group: &str) {
        self.groups().remove(group);
    }

    /// Sends a request that nobody answers. `false`: the client does not read, or is gone.
    pub fn tell(&self, code: i32, fields: FieldList, body: Bytes) -> bool {
        let opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        let header = Header { code, opaque, fields, flag: FLAG_ONE_WAY, version: VERSION, ..Header::default() };
        let head = frame::head(&header, body.len());
        self.out.try_send(Some(Box::new(Outgoing { head, body, _budget: None, handed_out: None }))).is_ok()
    }

    /// Sends a request and waits so long for its answer. `None`: the client does not read, does not answer, or is gone.
    pub async fn ask(&self, code: i32, fields: FieldList, body: Bytes, patience: Duration) -> Option<Frame> {
        let opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.asked.begin(opaque)?;
        let header = Header { code, opaque, fields, version: VERSION, ..Header::default() };
        let head = frame::head(&header, body.len());
        self.out.try_send(Some(Box::new(Outgoing { head, body, _budget: None, handed_out: None }))).ok()?;
        timeout(patience, waiting.answer()).await.ok()?
    }

    /// Sends the answer to a request. An error: the client is gone.
    async fn answer(&self, to: &Header, answer: Answer) -> Result<(), ()> {
        let header = Header {
            code: answer.code,
            opaque: to.opaque,
            flag: FLAG_RESPONSE,
            version: VERSION,
            remark: answer.remark,
            fields: answer.fields,
            format: to.format,
            ..Header::default()
        };
        let head = frame::head(&header, answer.body.len());
        let Answer { body, budget, handed_out, .. } = answer;
        let outgoing = Box::new(Outgoing { head, body, _budget: budget, handed_out });
        self.out.send(Some(outgoing)).await.map_err(|_| ())
    }
}

/// Has the front forget a connection, however it ends.
struct Forgotten<'a>(&'a Front, &'a Arc<Link>);

impl Drop for Forgotten<'_> {
    fn drop(&mut self) {
        // Whoever hears that an answer will not come finds the connection gone.
        self.0.link_gone(self.1);
        self.1.asked.close();
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(front: Arc<Front>, connection: Connection) -> Result<(), LinkError> {
    let limits = front.limits.clone();
    let (read, write) = tokio::io::split(connection.stream);
    let (out, outgoing) = mpsc::channel(limits.requests_per_connection_max.max(GATHERED_MAX));
    let link = Arc::new(Link {
        number: front.next_link.fetch_add(1, Ordering::Relaxed),
        peer: connection.peer,
        peer_text: connection.peer.to_string().into(),
        local: connection.local,
        out,
        next_opaque: AtomicI32::new(0),
        asked: Asked::default(),
        groups: Mutex::default(),
    });
    front.link_made(&link);
    let _forgotten = Forgotten(&front, &link);
    let mut requests = JoinSet::new();
    let mut stopped = front.stopped();
    let mut writing = pin!(write_frames(write, outgoing, limits.write_timeout));
    let ended = tokio::select! {
        ended = read_requests(&front, &link, read, &mut requests) => ended,
        ended = &mut writing => ended,
        _ = stopped.wait_for(|stop| *stop) => Ok(()),
    };
    if *front.stopped().borrow() {
        let draining = async {
            while requests.join_next().await.is_some() {}
            // A client that does not read holds this up no longer than the drain.
            let _ = link.out.send(None).await;
            std::future::pending::<()>().await;
        };
        let drained = async {
            tokio::select! {
                () = draining => Ok(()),
                ended = &mut writing => ended,
            }
        };
        return timeout(limits.drain_timeout, drained).await.unwrap_or(Ok(()));
    }
    match ended {
        Err(error) if error.is_hang_up() => Ok(()),
        ended => ended,
    }
}

/// What a request holds until it is answered.
struct Held {
    _place: OwnedSemaphorePermit,
    _bytes: [Taken; 2],
}

/// Reads requests and starts each, until the client goes or says nothing for too long.
async fn read_requests(
    front: &Arc<Front>,
    link: &Arc<Link>,
    read: ReadHalf<Stream>,
    requests: &mut JoinSet<()>,
) -> Result<(), LinkError> {
    let limits = &front.limits;
    let places = Arc::new(Semaphore::new(limits.requests_per_connection_max));
    let polls = Arc::new(Semaphore::new(limits.polls_per_connection_max));
    // The largest frame must fit.
    let own_bytes = Budget::new(limits.connection_bytes.max(frame::FRAME_BYTES_MAX + 4));
    let quiet = Deadline::after(limits.idle_timeout);
    let mut frames = Frames { read, buffer: BytesMut::new(), ahead: *READ_AHEAD_BYTES.start(), quiet };
    loop {
        while requests.try_join_next().is_some() {}
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let is_idle = || {
            places.available_permits() + 1 >= limits.requests_per_connection_max
                && polls.available_permits() == limits.polls_per_connection_max
        };
        let Some(length) = frames.length(limits.idle_timeout, limits.frame_timeout, is_idle).await? else {
            return Ok(());
        };
        let (mut own, mut shared) = (own_bytes.nothing(), front.inbound.nothing());
        let patience = limits.frame_timeout;
        if !own_bytes.take(&mut own, length, patience).await || !front.inbound.take(&mut shared, length, patience).await
        {
            return Err(LinkError::Slow { what: "waiting for room for a request", limit: patience });
        }
        let bytes = frames.take(length, limits.frame_timeout).await?;
        let frame = frame::decode(&bytes)?;
        if frame.header.is_response() {
            link.asked.answered(frame);
            continue;
        }
        // What waits for messages takes no place from what does not.
        let place = match waits(&frame.header) {
            false => place,
            true => match polls.clone().try_acquire_owned() {
                Ok(poll) => poll,
                Err(_) => {
                    let limit = limits.polls_per_connection_max;
                    let remark = format!("the connection is at its limit of {limit} pulls that wait");
                    front.broker.count_refusal(response::name(response::SYSTEM_BUSY));
                    let busy = Answer::from(Denied::new(response::SYSTEM_BUSY, remark));
                    if link.answer(&frame.header, busy).await.is_err() {
                        return Ok(());
                    }
                    continue;
                }
            },
        };
        let held = Held { _place: place, _bytes: [own, shared] };
        requests.spawn(answer(front.clone(), link.clone(), frame, held));
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

/// Carries out one request and answers it.
async fn answer(front: Arc<Front>, link: Arc<Link>, request: Frame, _held: Held) {
    let began = Instant::now();
    let Frame { header, body } = request;
    let answer = front.carry_out(&link, &header, body).await.and_then(Answer::fitting).unwrap_or_else(|denied| {
        front.broker.count_refusal(denied.reason());
        Answer::from(denied)
    });
    let code = answer.code;
    let mut outcome = if code == response::SYSTEM_ERROR { Outcome::Failed } else { Outcome::Success };
    if !header.is_one_way() && link.answer(&header, answer).await.is_err() {
        outcome = Outcome::NotWritten;
    }
    front.latencies.observe(code::request::name(header.code), code, outcome, began.elapsed());
}

/// Frames as they come.
struct Frames {
    read: ReadHalf<Stream>,
    buffer: BytesMut,
    /// Room that is made for what comes next, in [`READ_AHEAD_BYTES`].
    ahead: usize,
    /// When the client has said nothing for too long.
    quiet: Deadline,
}

impl Frames {
    /// Bytes of the next frame, its length included. `None`: the client is gone, or has said nothing for `idle` while nothing
    /// was under way. The frame must follow its first byte within `limit`.
    async fn length(
        &mut self,
        idle: Duration,
        limit: Duration,
        is_idle: impl Fn() -> bool,
    ) -> Result<Option<usize>, LinkError> {
        loop {
            if let Some(length) = frame::length(&self.buffer)? {
                return Ok(Some(length));
            }
            let nothing_yet = self.buffer.is_empty();
            if self.buffer.capacity() - self.buffer.len() < self.ahead / 4 {
                self.buffer.reserve(self.ahead);
            }
            let patience = if nothing_yet { idle } else { limit };
            match self.read_some(patience).await {
                Some(read) => match read? {
                    0 if nothing_yet => return Ok(None),
                    0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                    _ => {}
                },
                None if nothing_yet && is_idle() => return Ok(None),
                None if nothing_yet => {}
                None => return Err(LinkError::Slow { what: "a frame", limit }),
            }
        }
    }

    /// The next frame, which has so many bytes.
    async fn take(&mut self, length: usize, limit: Duration) -> Result<Bytes, LinkError> {
        let end = Instant::now() + limit;
        while self.buffer.len() < length {
            let missing = length - self.buffer.len();
            if self.buffer.capacity() - self.buffer.len() < missing {
                self.buffer.reserve(missing.max(self.ahead));
            }
            match self.read_some(end.saturating_duration_since(Instant::now())).await {
                Some(Ok(0)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Some(read) => drop(read?),
                None => return Err(LinkError::Slow { what: "a frame", limit }),
            }
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    /// Reads what has come, as much as there is room for; 0 bytes: the client is gone. `None`: nothing has come for so long.
    async fn read_some(&mut self, patience: Duration) -> Option<io::Result<usize>> {
        let room = self.buffer.capacity() - self.buffer.len();
        let read = self.quiet.bound(patience, self.read.read_buf(&mut self.buffer)).await?;
        // Each read is a system call: one is to bring all that a client has under way.
        match read {
            Ok(bytes) if bytes == room => self.ahead = (self.ahead * 2).min(*READ_AHEAD_BYTES.end()),
            Ok(bytes) if bytes < self.ahead / 8 => self.ahead = (self.ahead / 2).max(*READ_AHEAD_BYTES.start()),
            _ => {}
        }
        Some(read)
    }
}

/// Writes frames as they come, several at a time where they do.
async fn write_frames(
    mut write: WriteHalf<Stream>,
    mut outgoing: mpsc::Receiver<Option<Box<Outgoing>>>,
    limit: Duration,
) -> Result<(), LinkError> {
    let mut waiting = Vec::new();
    let mut gathered = BytesMut::new();
    let mut handed_out = Vec::new();
    let slow = |_| LinkError::Slow { what: "writing to a client that does not read", limit };
    while outgoing.recv_many(&mut waiting, GATHERED_MAX).await > 0 {
        let mut is_over = false;
        for frame in waiting.drain(..) {
            let Some(frame) = frame else {
                is_over = true;
                break;
            };
            let Outgoing { head, body, _budget, handed_out: more } = *frame;
            handed_out.extend(more);
            gathered.extend_from_slice(&head);
            if body.len() < SHARED_BODY_BYTES_MIN {
                gathered.extend_from_slice(&body);
            } else {
                timeout(limit, write.write_all(&gathered.split())).await.map_err(slow)??;
                timeout(limit, write.write_all(&body)).await.map_err(slow)??;
            }
        }
        let written = async {
            write.write_all(&gathered.split()).await?;
            write.flush().await
        };
        timeout(limit, written).await.map_err(slow)??;
        handed_out.drain(..).for_each(HandedOut::written);
        if is_over {
            let _ = timeout(limit, write.shutdown()).await;
            return Ok(());
        }
    }
    Ok(())
}
