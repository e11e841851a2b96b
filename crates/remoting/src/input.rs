//! Bytes as they come from a client.
//!
//! What is read goes into memory that all connections of a thread share, as nearly always whole frames come, and are taken at once.
//! A connection keeps only what is left: the beginning of a frame, or frames that there is no place for yet.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes that are read at once where nothing is known of what comes. Each read is a system call: one is to bring all that a client has
/// under way.
const SHARED_BYTES: usize = 64 * 1024;
/// The same for the rest of what has begun, if that is not known to be longer.
const MORE_BYTES: usize = 16 * 1024;
/// Up to so many bytes of a beginning are moved to the shared memory.
const MOVED_BYTES_MAX: usize = 4 * 1024;

thread_local! {
    /// The shared memory, while no connection of this thread reads into it.
    static SHARED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What has come and was not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Input {
    bytes: Vec<u8>,
    is_shared: bool,
}

impl Input {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Has somebody take frames from the front of it, who says how many bytes those had, and how many of the next one are missing.
    pub fn take<T>(&mut self, take: impl FnOnce(&[u8]) -> (usize, usize, T)) -> T {
        let (taken, missing, result) = take(&self.bytes);
        self.keep(taken, missing);
        result
    }

    /// Keeps all but so many bytes in front, and no more memory than that and so many more take.
    fn keep(&mut self, taken: usize, missing: usize) {
        if taken == 0 && !self.is_shared {
            return;
        }
        let left = self.bytes.get(taken..).unwrap_or_default();
        let mut kept = Vec::new();
        if !left.is_empty() {
            kept.reserve_exact(left.len() + missing);
            kept.extend_from_slice(left);
        }
        let bytes = std::mem::replace(&mut self.bytes, kept);
        if std::mem::take(&mut self.is_shared) {
            SHARED.set(bytes);
        }
    }

    /// Reads what has come; at least so many bytes are known to be missing. 0: the client is gone.
    pub fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        missing: usize,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.len() <= MOVED_BYTES_MAX && self.bytes.len() + missing <= SHARED_BYTES {
            let mut shared = SHARED.take();
            shared.clear();
            shared.reserve_exact(SHARED_BYTES);
            shared.extend_from_slice(&self.bytes);
            (self.bytes, self.is_shared) = (shared, true);
        } else if self.bytes.capacity() - self.bytes.len() < missing.max(1) {
            self.bytes.reserve_exact(missing.max(MORE_BYTES));
        }
        let read = pin!(from.read_buf(&mut self.bytes)).poll(cx);
        if !matches!(read, Poll::Ready(Ok(1..))) {
            self.keep(0, 0);
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::task::Waker;

    proptest! {
        #[test]
        fn bytes_are_taken_in_order_whatever_is_read_and_left(
            reads in prop::collection::vec((0..100_000_usize, 0..100_000_usize, 1..9_000_usize), 1..12),
        ) {
            let mut inputs = [Input::default(), Input::default()];
            let mut sent = [0_usize, 0];
            let mut seen = [0_usize, 0];
            let cx = &mut Context::from_waker(Waker::noop());
            for (n, &(bytes, left, missing)) in reads.iter().enumerate() {
                let which = n % 2;
                let more: Vec<u8> = (0..bytes).map(|at| ((sent[which] + at) % 251) as u8).collect();
                let mut from = &more[..];
                while let Poll::Ready(read) = inputs[which].poll_read(cx, &mut from, missing) {
                    let read = read.unwrap();
                    if read == 0 {
                        break;
                    }
                    sent[which] += read;
                    inputs[which].take(|found| {
                        let taken = found.len().saturating_sub(left);
                        let expected = (0..taken).map(|at| ((seen[which] + at) % 251) as u8);
                        assert!(found[..taken].iter().copied().eq(expected));
                        seen[which] += taken;
                        (taken, missing, ())
                    });
                    assert!(!inputs[which].is_shared);
                }
                prop_assert_eq!(inputs[which].is_empty(), sent[which] == seen[which]);
            }
        }
    }

    #[test]
    fn a_connection_that_waits_keeps_no_memory_for_what_may_come() {
        let (mut near, mut far) = tokio::io::duplex(1024);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut input = Input::default();
        assert!(input.poll_read(cx, &mut near, 4).is_pending());
        assert_eq!(input.bytes.capacity(), 0);
        assert!(pin!(tokio::io::AsyncWriteExt::write_all(&mut far, b"abcdef")).poll(cx).is_ready());
        assert!(matches!(input.poll_read(cx, &mut near, 4), Poll::Ready(Ok(6))));
        input.take(|found| (found.len() - 2, 0, ()));
        assert_eq!((&input.bytes[..], input.bytes.capacity()), (&b"ef"[..], 2));
        assert!(input.poll_read(cx, &mut near, 4).is_pending());
        assert_eq!((&input.bytes[..], input.bytes.capacity()), (&b"ef"[..], 2));
    }
}
