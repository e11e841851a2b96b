//! Frames on their way to a client: gathered while others are being written, then written together.

use crate::codec::frame;
use crate::codec::header::Header;
use bytes::Bytes;
use futures_util::task::AtomicWaker;
use martlet_broker::{HandedOut, ReplyBudget};
use martlet_net::latency::Outcome;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;
use tokio::io::AsyncWrite;

/// Bodies from this size on are not copied next to other frames.
const SHARED_BODY_BYTES_MIN: usize = 16 * 1024;
/// Pieces that are handed to the system at once.
const SLICES_MAX: usize = 16;
/// Memory that a connection keeps for the next frames: bytes, and entries about them.
const KEPT_BYTES_MAX: usize = 16 * 1024;
const KEPT_ENTRIES_MAX: usize = 64;

/// Frames that wait for the connection's task to write them.
#[derive(Debug)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    /// Wakes that task.
    task: AtomicWaker,
    frames_max: usize,
}

#[derive(Debug, Default)]
struct State {
    waiting: Batch,
    closed: bool,
}

/// What an answer carries until it is written.
#[derive(Debug, Default)]
pub(crate) struct Carried {
    /// What messages in it take of the broker's bytes.
    pub budget: Option<ReplyBudget>,
    /// What in it is taken back if it is not written.
    pub handed_out: Option<HandedOut>,
}

/// What is counted of an answer once it is written, or is not going to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub call: &'static str,
    pub code: i32,
    pub outcome: Outcome,
    pub began: Instant,
}

impl Outbox {
    /// An empty one, that takes so many frames that nobody has asked for.
    pub fn new(frames_max: usize) -> Self {
        Self { state: Mutex::default(), task: AtomicWaker::new(), frames_max }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an answer, from the connection's own task, which is not woken.
    pub fn answer(&self, header: &Header, body: Bytes, carried: Carried, counted: Counted) {
        let waiting = &mut self.state().waiting;
        waiting.put(header, body);
        waiting.counted.push(counted);
        if carried.budget.is_some() || carried.handed_out.is_some() {
            waiting.carried.push(carried);
        }
    }

    /// Takes a frame that the client has not asked for. `false`: too many wait, or the connection is gone.
    pub fn offer(&self, header: &Header, body: Bytes) -> bool {
        {
            let mut state = self.state();
            if state.closed || state.waiting.frames >= self.frames_max {
                return false;
            }
            state.waiting.put(header, body);
        }
        self.task.wake();
        true
    }

    /// The task to be woken for what is offered.
    pub fn register(&self, task: &Waker) {
        self.task.register(task);
    }

    /// Frames that wait.
    pub fn frames(&self) -> usize {
        self.state().waiting.frames
    }

    /// What waits, for memory of what was written. Empty: nothing does.
    pub fn swap(&self, written: Batch) -> Batch {
        debug_assert!(written.frames == 0, "not written yet");
        std::mem::replace(&mut self.state().waiting, written)
    }

    /// Takes nothing more; gives what was still waiting.
    pub fn close(&self) -> Batch {
        let mut state = self.state();
        state.closed = true;
        std::mem::take(&mut state.waiting)
    }
}

/// Frames that are written together, and how far that is.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    frames: usize,
    /// What comes before `tail`, piece by piece.
    pieces: Vec<Bytes>,
    tail: Vec<u8>,
    /// Pieces written.
    at: usize,
    /// Bytes written of the next one.
    offset: usize,
    carried: Vec<Carried>,
    counted: Vec<Counted>,
}

impl Batch {
    fn put(&mut self, header: &Header, body: Bytes) {
        self.frames += 1;
        frame::put_head(&mut self.tail, header, body.len());
        if body.len() < SHARED_BODY_BYTES_MIN {
            self.tail.extend_from_slice(&body);
        } else {
            self.pieces.push(std::mem::take(&mut self.tail).into());
            self.pieces.push(body);
        }
    }

    /// Frames in it.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Which of its pieces is being written.
    pub fn piece(&self) -> usize {
        self.at
    }

    /// Writes as much as the client takes; ready once that was all.
    pub fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        loop {
            let left = self.pieces.get(self.at..).unwrap_or_default().iter().map(|piece| &piece[..]);
            let left = left.chain([&self.tail[..]]);
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let (mut count, mut offset) = (0, self.offset);
            for (piece, slice) in left.zip(&mut slices) {
                *slice = IoSlice::new(piece.get(std::mem::take(&mut offset)..).unwrap_or_default());
                count += 1;
            }
            let slices = slices.get(..count).unwrap_or_default();
            if slices.iter().all(|slice| slice.is_empty()) {
                return Poll::Ready(Ok(()));
            }
            let written = match slices {
                [one] => ready!(Pin::new(&mut *to).poll_write(cx, one))?,
                several => ready!(Pin::new(&mut *to).poll_write_vectored(cx, several))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
    }

    fn advance(&mut self, mut written: usize) {
        loop {
            let length = self.pieces.get(self.at).map_or(self.tail.len(), Bytes::len);
            let left = length - self.offset;
            if written < left || self.at >= self.pieces.len() {
                self.offset += written;
                return;
            }
            written -= left;
            (self.at, self.offset) = (self.at + 1, 0);
        }
    }

    /// All of it was written: what was handed out in it is the client's, and its memory is free for more.
    pub fn written(&mut self, count: impl FnMut(Counted)) {
        self.carried.drain(..).filter_map(|carried| carried.handed_out).for_each(HandedOut::written);
        self.counted.drain(..).for_each(count);
        self.pieces.clear();
        self.tail.clear();
        (self.frames, self.at, self.offset) = (0, 0, 0);
        if self.tail.capacity() > KEPT_BYTES_MAX {
            self.tail = Vec::new();
        }
        self.pieces.shrink_to(KEPT_ENTRIES_MAX);
        self.counted.shrink_to(KEPT_ENTRIES_MAX);
    }

    /// It is not going to be written. What it carries is taken back as it is dropped.
    pub fn given_up(mut self, mut count: impl FnMut(Counted)) {
        self.counted.drain(..).for_each(|counted| count(Counted { outcome: Outcome::NotWritten, ..counted }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes as many bytes at a time as it is told, and says to come again in between.
    struct Slow {
        taken: Vec<u8>,
        sizes: Vec<usize>,
        rests: bool,
    }

    impl Slow {
        fn take(&mut self, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
            self.rests = !self.rests;
            if self.rests {
                return Poll::Pending;
            }
            let room = self.sizes.pop().unwrap_or(usize::MAX);
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(room).collect();
            self.taken.extend(&all);
            Poll::Ready(Ok(all.len()))
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.take(&[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.take(slices)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        #[test]
        fn all_of_a_batch_is_written_in_order_however_little_is_taken_at_a_time(
            bodies in prop::collection::vec(prop_oneof![0..9_usize, 16_380..16_390_usize, 16_384..40_000_usize], 0..40),
            sizes in prop::collection::vec(1..30_000_usize, 0..40),
        ) {
            let outbox = Outbox::new(1_000);
            let mut expected = Vec::new();
            for (n, &bytes) in bodies.iter().enumerate() {
                let header = Header { code: 10, opaque: n as i32, ..Header::default() };
                let body = Bytes::from(vec![n as u8; bytes]);
                frame::put_head(&mut expected, &header, bytes);
                expected.extend_from_slice(&body);
                prop_assert!(outbox.offer(&header, body));
            }
            prop_assert_eq!(outbox.frames(), bodies.len());
            let mut slow = Slow { taken: Vec::new(), sizes, rests: false };
            let mut batch = outbox.swap(Batch::default());
            let cx = &mut Context::from_waker(Waker::noop());
            while batch.poll_write(cx, &mut slow).map(Result::unwrap).is_pending() {}
            prop_assert!(slow.taken == expected);
            batch.written(|_| {});
            prop_assert_eq!((batch.frames(), outbox.swap(batch).frames()), (0, 0));
        }
    }

    #[test]
    fn only_so_much_is_taken_unasked_and_nothing_once_it_is_closed() {
        let outbox = Outbox::new(2);
        let header = Header::default();
        assert!(outbox.offer(&header, Bytes::new()) && outbox.offer(&header, Bytes::new()));
        assert!(!outbox.offer(&header, Bytes::new()));
        let counted = Counted { call: "x", code: 0, outcome: Outcome::Success, began: Instant::now() };
        outbox.answer(&header, Bytes::new(), Carried::default(), counted);
        let left = outbox.close();
        assert_eq!(left.frames(), 3);
        let mut outcomes = Vec::new();
        left.given_up(|counted| outcomes.push(counted.outcome));
        assert_eq!(outcomes, [Outcome::NotWritten]);
        assert!(!outbox.offer(&header, Bytes::new()));
    }
}
