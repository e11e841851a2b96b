//! Deadlines of a connection: for a request to begin, for its head to arrive, for a reply to be taken.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const SERVING: u8 = 2;

/// What a connection does.
#[derive(Debug, Default)]
pub(crate) struct Phase {
    now: AtomicU8,
    /// Who looked for bytes while a request was served, and is to look again when that is over: from then on there is a deadline.
    reader: Mutex<Option<Waker>>,
}

impl Phase {
    /// A request has come; how long its body takes is watched by who reads it.
    pub fn serving(&self) {
        self.now.store(SERVING, Ordering::Relaxed);
    }

    /// The reply is on its way: the next request may come.
    pub fn idle(&self) {
        self.now.store(IDLE, Ordering::Relaxed);
        if let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reader.wake();
        }
    }
}

/// A stream whose other side must not be too slow.
#[derive(Debug)]
pub(crate) struct Watched<S> {
    inner: S,
    phase: Arc<Phase>,
    idle: Duration,
    read: Duration,
    write: Duration,
    reading: Option<(u8, Pin<Box<Sleep>>)>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    /// With the time for a request to begin, for the rest of its head, and for what is written to be taken.
    pub fn new(inner: S, phase: Arc<Phase>, idle: Duration, read: Duration, write: Duration) -> Self {
        Self { inner, phase, idle, read, write, reading: None, writing: None }
    }

    fn late_to_read(&mut self, cx: &mut Context<'_>) -> bool {
        let phase = self.phase.now.load(Ordering::Relaxed);
        let limit = match phase {
            SERVING => {
                self.reading = None;
                *self.phase.reader.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
                return false;
            }
            HEAD => self.read,
            _ => self.idle,
        };
        let (armed, sleep) = self.reading.get_or_insert_with(|| (phase, Box::pin(tokio::time::sleep(limit))));
        if *armed != phase {
            *armed = phase;
            sleep.as_mut().reset(Instant::now() + limit);
        }
        sleep.as_mut().poll(cx).is_ready()
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
        match read {
            Poll::Ready(_) => {
                if buf.filled().len() > before {
                    let _ = this.phase.now.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed);
                }
                read
            }
            Poll::Pending if this.late_to_read(cx) => {
                let limit = this.reading.as_ref().map_or(this.idle, |(phase, _)| match *phase {
                    HEAD => this.read,
                    _ => this.idle,
                });
                Poll::Ready(Err(late(limit, "sent a whole head of a request")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watched(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
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

    const SECOND: Duration = Duration::from_secs(1);

    fn watched(bytes: usize) -> (Watched<tokio::io::DuplexStream>, tokio::io::DuplexStream, Arc<Phase>) {
        let (ours, theirs) = tokio::io::duplex(bytes);
        let phase = Arc::<Phase>::default();
        (Watched::new(ours, phase.clone(), 10 * SECOND, 2 * SECOND, 3 * SECOND), theirs, phase)
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

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_reply_is_given_up() {
        let (mut stream, _client, _) = watched(8);
        let began = Instant::now();
        assert_eq!(stream.write_all(&[0; 100]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}
