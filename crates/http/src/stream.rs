//! Deadlines of a connection: for a request to begin, for its head to arrive, for a reply to be taken. And the reply to a head
//! that cannot be read: hyper answers it by itself, with a status and nothing else.

use crate::front::REQUEST_ID;
use martlet_net::deadline::Deadline;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const SERVING: u8 = 2;

/// What a connection does.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    now: AtomicU8,
    /// Somebody has looked for bytes since the last request, and there were none.
    waited: AtomicBool,
}

impl Phase {
    /// A request has come; how long its body takes is watched by who reads it.
    pub fn serving(&self) {
        self.now.store(SERVING, Ordering::Relaxed);
    }

    /// Whether this request was there before the last one had its reply: its client may have sent any number of them. Asked once for
    /// each request.
    pub fn was_sent_ahead(&self) -> bool {
        !self.waited.swap(false, Ordering::Relaxed)
    }

    /// The reply is on its way: the next request may come.
    pub fn idle(&self) {
        self.now.store(IDLE, Ordering::Relaxed);
    }
}

/// What a request is answered whose head hyper has refused with this status.
pub(crate) type Refusal = Box<dyn Fn(u16) -> Vec<u8> + Send>;

/// A stream whose other side must not be too slow.
pub(crate) struct Watched<S> {
    inner: S,
    refusal: Refusal,
    /// The reply to a head that was refused, as far as it has not been written.
    refused: Option<Vec<u8>>,
    /// What is written next goes on with what was taken in part.
    midst: bool,
    phase: Arc<Phase>,
    idle: Duration,
    read: Duration,
    write: Duration,
    /// The phase in which somebody looked for bytes last, and in vain.
    reading_in: u8,
    /// When that phase is over. While a request is served it moves on whenever it comes, so that somebody looks again after that.
    reading: Deadline,
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    /// With the time for a request to begin, for the rest of its head, and for what is written to be taken.
    pub fn new(inner: S, phase: Arc<Phase>, [idle, read, write]: [Duration; 3], refusal: Refusal) -> Self {
        let (refused, midst, reading_in, reading, writing) = (None, false, IDLE, Deadline::after(idle), None);
        Self { inner, refusal, refused, midst, phase, idle, read, write, reading_in, reading, writing }
    }

    /// Whether this is hyper's own answer to a head. All others have an id.
    fn refuses(&self, bytes: &[u8]) -> Option<u16> {
        let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let has_id =
            || bytes.windows(REQUEST_ID.len()).any(|window| window.eq_ignore_ascii_case(REQUEST_ID.as_bytes()));
        // One that was sent ahead is refused as soon as the reply before it is written.
        let is_head = !self.midst && self.phase.now.load(Ordering::Relaxed) != SERVING;
        let status = std::str::from_utf8(status).ok()?.parse().ok()?;
        (is_head && (400..600).contains(&status) && !has_id()).then_some(status)
    }

    /// How long the phase may last in which somebody looks for bytes, if it has lasted longer.
    fn late_to_read(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let phase = self.phase.now.load(Ordering::Relaxed);
        let limit = if phase == HEAD { self.read } else { self.idle };
        if std::mem::replace(&mut self.reading_in, phase) != phase && phase != SERVING {
            self.reading.set(limit);
        }
        while self.reading.poll(cx).is_ready() {
            if phase != SERVING {
                return Some(limit);
            }
            self.reading.set(limit);
        }
        None
    }

    fn taken(&mut self, written: &Poll<io::Result<usize>>, bytes: usize) {
        if let Poll::Ready(Ok(count)) = written {
            self.midst = *count < bytes;
        }
    }

    /// What a write came to: late if nothing was taken for too long.
    fn watched<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let limit = self.write;
        let sleep = self.writing.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match sleep.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(late(limit, "took a reply"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

fn late(limit: Duration, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("the client has not {what} for {} s", limit.as_secs()))
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if read.is_pending() {
            this.phase.waited.store(true, Ordering::Relaxed);
        }
        match read {
            Poll::Ready(_) => {
                if buf.filled().len() > before {
                    let _ = this.phase.now.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed);
                }
                read
            }
            Poll::Pending => match this.late_to_read(cx) {
                Some(limit) => Poll::Ready(Err(late(limit, "sent a whole head of a request"))),
                None => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncWrite + Unpin> Watched<S> {
    /// Writes the reply to a head that was refused in place of hyper's. `None`: this is another reply.
    fn write_refusal(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Option<Poll<io::Result<()>>> {
        if self.refused.is_none() {
            self.refused = Some((self.refusal)(self.refuses(bytes)?));
        }
        let rest = self.refused.as_mut()?;
        while !rest.is_empty() {
            match Pin::new(&mut self.inner).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(count)) => drop(rest.drain(..count)),
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        self.refused = None;
        Some(Poll::Ready(Ok(())))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = match self.write_refusal(cx, buf) {
            Some(refused) => refused.map_ok(|()| buf.len()),
            None => Pin::new(&mut self.inner).poll_write(cx, buf),
        };
        self.taken(&written, buf.len());
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // A head is in one piece.
        let head = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        let bytes = bufs.iter().map(|buf| buf.len()).sum();
        let written = match self.write_refusal(cx, head) {
            Some(refused) => refused.map_ok(|()| bytes),
            None => Pin::new(&mut self.inner).poll_write_vectored(cx, bufs),
        };
        self.taken(&written, bytes);
        self.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.watched(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watched(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    const SECOND: Duration = Duration::from_secs(1);

    fn watched(bytes: usize) -> (Watched<tokio::io::DuplexStream>, tokio::io::DuplexStream, Arc<Phase>) {
        let (ours, theirs) = tokio::io::duplex(bytes);
        let phase = Arc::<Phase>::default();
        let times = [10 * SECOND, 2 * SECOND, 3 * SECOND];
        let refusal = Box::new(|status: u16| format!("{status} in other words").into_bytes());
        (Watched::new(ours, phase.clone(), times, refusal), theirs, phase)
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_may_begin_late_but_must_then_arrive_and_one_that_is_served_is_not_watched() {
        let (mut stream, mut client, phase) = watched(64);
        let began = Instant::now();
        tokio::time::sleep(9 * SECOND).await;
        client.write_all(b"G").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'G');
        // More bytes do not buy more time.
        let drip = tokio::spawn(async move {
            for _ in 0..10 {
                tokio::time::sleep(SECOND).await;
                client.write_all(b"E").await.unwrap();
            }
            client
        });
        while stream.read_u8().await.is_ok() {}
        assert_eq!(began.elapsed().as_secs(), 11);
        drip.abort();

        let (mut stream, _client, _) = watched(64);
        let began = Instant::now();
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 10);
        let (mut stream, _client, phase_of_served) = watched(64);
        phase_of_served.serving();
        assert!(tokio::time::timeout(60 * SECOND, stream.read_u8()).await.is_err());
        drop(phase);
    }

    #[tokio::test]
    async fn only_what_hyper_says_of_a_head_is_said_in_other_words() {
        let hyper = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\n\r\n";
        let ours = b"HTTP/1.1 400 Bad Request\r\nx-mq-request-id: 1\r\n\r\n";
        // The reply of 18 bytes is taken in three pieces.
        let (mut stream, mut client, _) = watched(8);
        client.write_all(b"G").await.unwrap();
        stream.read_u8().await.unwrap();
        let writing = tokio::spawn(async move {
            stream.write_all(hyper).await.unwrap();
            stream.write_all(ours).await.unwrap();
        });
        let mut read = String::new();
        client.read_to_string(&mut read).await.unwrap();
        writing.await.unwrap();
        assert_eq!(read.as_bytes(), [b"431 in other words", &ours[..]].concat());
        let (mut stream, mut client, phase) = watched(1_000);
        phase.serving();
        stream.write_all(hyper).await.unwrap();
        drop(stream);
        read.clear();
        client.read_to_string(&mut read).await.unwrap();
        assert_eq!(read.as_bytes(), hyper, "no head is read");
    }

    #[tokio::test]
    async fn requests_that_were_sent_ahead_are_told_from_those_that_were_waited_for() {
        let (mut stream, mut client, phase) = watched(64);
        client.write_all(b"12").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        assert!(phase.was_sent_ahead());
        stream.read_exact(&mut [0]).await.unwrap();
        assert!(phase.was_sent_ahead(), "nobody has waited");
        let (read, written) = (async { stream.read_u8().await.unwrap() }, client.write_all(b"3"));
        assert_eq!(tokio::join!(biased; read, written).0, b'3');
        assert!(!phase.was_sent_ahead());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_reply_is_given_up() {
        let (mut stream, _client, _) = watched(8);
        let began = Instant::now();
        assert_eq!(stream.write_all(&[0; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}
