//! Copying what one store holds into another, of whichever engine: to move a broker, or to have a second copy of it.
//!
//! The source must be at rest. A copy goes on where an earlier one stopped, also if the source was used in between: queues
//! only grow at one end and shrink at the other, so what is missing of them is what comes after what is there; keys are
//! written anew. When [`copy`] has ended well the target reads like the source, store times included. Only the order of
//! messages of one term that lie in different queues is not kept.

use crate::{Batch, Op, ReadError, Reader, Term, WholeMessage};
use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use std::future::Future;
use std::ops::Range;

/// Queues and keys asked for at a time.
const PAGE: usize = 1_024;
/// Messages asked for at a time.
const MESSAGES: usize = 1_024;

/// In what portions is copied.
#[derive(Clone, Copy, Debug)]
pub struct Portions {
    /// Messages whose terms are looked up at a time: in a bucket that takes a look at all terms, and 24 bytes of memory for each.
    pub window: u64,
    /// Bytes of messages and keys from which a batch is handed over.
    pub batch_bytes: usize,
    /// Operations from which a batch is handed over.
    pub batch_ops: usize,
}

impl Default for Portions {
    fn default() -> Self {
        Self { window: 1_000_000, batch_bytes: 4 << 20, batch_ops: 8_192 }
    }
}

/// Some of the queues there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// Number and bounds of each, by number.
    pub found: Vec<(QueueId, Range<QueueOffset>)>,
    /// Where to ask for more; `None`: there are no more.
    pub next: Option<QueueId>,
}

/// Terms of some messages.
#[derive(Debug, Default)]
pub struct Terms(Vec<(QueueId, QueueOffset, Term)>);

impl Terms {
    /// In any order.
    pub(crate) fn new(mut all: Vec<(QueueId, QueueOffset, Term)>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    /// Those of one message.
    pub(crate) fn of(&self, queue: QueueId, offset: QueueOffset) -> impl Iterator<Item = Term> {
        let start = self.0.partition_point(|(of, at, _)| (*of, *at) < (queue, offset));
        self.0[start..].iter().take_while(move |(of, at, _)| (*of, *at) == (queue, offset)).map(|(_, _, term)| *term)
    }
}

/// Reads of all that a store holds. What is not durable may be missing.
pub trait Contents: Reader {
    /// About `limit` of the queues there are, from one on.
    fn queues(&self, from: QueueId, limit: usize) -> impl Future<Output = Result<Queues, ReadError>> + Send;

    /// What [`Contents::whole`] must know about messages of these parts. Parts of one queue do not overlap.
    fn terms(&self, parts: Vec<(QueueId, Range<QueueOffset>)>)
    -> impl Future<Output = Result<Terms, ReadError>> + Send;

    /// [`Reader::messages`], with all that was said of them; within the parts that `terms` was asked for.
    fn whole(
        &self,
        terms: &Terms,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Vec<WholeMessage>, ReadError>> + Send;
}

/// Why a copy did not come about.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source cannot be read.
    #[error("reading the source: {0}")]
    Source(ReadError),
    /// The target cannot be read.
    #[error("reading the target: {0}")]
    Target(ReadError),
    /// The target has what the source never had.
    #[error("the target is no copy of the source: queue {} goes up to offset {target}, in the source to {source_end}", queue.0)]
    Other {
        /// The queue.
        queue: QueueId,
        /// The next offset there.
        target: QueueOffset,
        /// The next offset in the source.
        source_end: QueueOffset,
    },
    /// The last messages of a queue were dropped by a repair: its next offset cannot be told to the target.
    #[error("the last messages of queue {} are missing from the source (from offset {from})", queue.0)]
    LastMissing {
        /// The queue.
        queue: QueueId,
        /// Where it ends.
        from: QueueOffset,
    },
    /// The target does not take it.
    #[error("writing the target: {0}")]
    Write(String),
}

/// How much there is to copy, or how much was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Queues.
    pub queues: u64,
    /// Messages.
    pub messages: u64,
    /// Bytes of records.
    pub bytes: u64,
    /// Keys.
    pub keys: u64,
}

/// What is missing in the target: queues, and messages at most. Bytes and keys are not counted ahead.
///
/// # Errors
/// When either cannot be read, or the target has what the source never had.
pub async fn missing<S: Contents, T: Contents>(source: &S, target: &T) -> Result<Amount, CopyError> {
    let mut amount = Amount::default();
    let mut next = Some(QueueId(0));
    while let Some(from) = next {
        let page = source.queues(from, PAGE).await.map_err(CopyError::Source)?;
        for (queue, bounds) in page.found {
            let part = missing_part(target, queue, &bounds).await?.0;
            amount.queues += 1;
            amount.messages += part.end.0.saturating_sub(part.start.0);
        }
        next = page.next;
    }
    Ok(amount)
}

/// What of a queue is missing, and whether the target must be told where it begins.
async fn missing_part<T: Contents>(
    target: &T,
    queue: QueueId,
    bounds: &Range<QueueOffset>,
) -> Result<(Range<QueueOffset>, bool), CopyError> {
    let there = target.bounds(queue).await.map_err(CopyError::Target)?;
    let (first, end) = there.as_ref().map_or((None, QueueOffset(0)), |there| (Some(there.start), there.end));
    if end > bounds.end {
        return Err(CopyError::Other { queue, target: end, source_end: bounds.end });
    }
    Ok((end.max(bounds.start)..bounds.end, first.is_none_or(|first| first < bounds.start)))
}

/// Copies all that is missing. Batches of `time`, which is the last one of the source, are handed over one after the other;
/// `progress` is told after each.
///
/// # Errors
/// When either store cannot be read, `hand_over` fails, or the target has what the source never had.
pub async fn copy<S: Contents, T: Contents>(
    source: &S,
    target: &T,
    time: UnixMillis,
    portions: Portions,
    hand_over: impl AsyncFnMut(Batch) -> Result<(), CopyError>,
    progress: impl FnMut(Amount),
) -> Result<Amount, CopyError> {
    let mut copying =
        Copying { time, portions, hand_over, progress, ops: Vec::new(), bytes: 0, done: Amount::default() };
    copying.forget(source, target).await?;
    copying.queues(source, target).await?;
    copying.remove_keys(source, target).await?;
    copying.keys(source).await?;
    copying.flush().await?;
    Ok(copying.done)
}

struct Copying<W, P> {
    time: UnixMillis,
    portions: Portions,
    hand_over: W,
    progress: P,
    ops: Vec<Op>,
    bytes: usize,
    done: Amount,
}

impl<W: AsyncFnMut(Batch) -> Result<(), CopyError>, P: FnMut(Amount)> Copying<W, P> {
    async fn add(&mut self, op: Op, bytes: usize) -> Result<(), CopyError> {
        self.ops.push(op);
        self.bytes += bytes;
        let full = self.bytes >= self.portions.batch_bytes || self.ops.len() >= self.portions.batch_ops;
        if full { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), CopyError> {
        self.bytes = 0;
        let ops = std::mem::take(&mut self.ops);
        (self.hand_over)(Batch { time: self.time, ops }).await?;
        (self.progress)(self.done);
        Ok(())
    }

    /// Queues that are no more.
    async fn forget<S: Contents, T: Contents>(&mut self, source: &S, target: &T) -> Result<(), CopyError> {
        let mut next = Some(QueueId(0));
        while let Some(from) = next {
            let page = target.queues(from, PAGE).await.map_err(CopyError::Target)?;
            for (queue, _) in page.found {
                if source.bounds(queue).await.map_err(CopyError::Source)?.is_none() {
                    self.add(Op::Forget { queue }, 0).await?;
                }
            }
            next = page.next;
        }
        Ok(())
    }

    async fn queues<S: Contents, T: Contents>(&mut self, source: &S, target: &T) -> Result<(), CopyError> {
        let (mut parts, mut messages) = (Vec::new(), 0);
        let mut next = Some(QueueId(0));
        while let Some(from) = next {
            let page = source.queues(from, PAGE).await.map_err(CopyError::Source)?;
            for (queue, bounds) in page.found {
                let (mut part, begins) = missing_part(target, queue, &bounds).await?;
                if begins {
                    self.add(Op::Trim { queue, below: bounds.start }, 0).await?;
                }
                self.done.queues += 1;
                while part.start < part.end {
                    let end = part.end.min(QueueOffset(part.start.0.saturating_add(self.portions.window - messages)));
                    messages += end.0 - part.start.0;
                    parts.push((queue, part.start..end));
                    part.start = end;
                    if messages >= self.portions.window {
                        self.messages(source, std::mem::take(&mut parts)).await?;
                        messages = 0;
                    }
                }
            }
            next = page.next;
        }
        self.messages(source, parts).await
    }

    async fn messages<S: Contents>(
        &mut self,
        source: &S,
        parts: Vec<(QueueId, Range<QueueOffset>)>,
    ) -> Result<(), CopyError> {
        let terms = source.terms(parts.clone()).await.map_err(CopyError::Source)?;
        for (queue, part) in parts {
            let mut from = part.start;
            while from < part.end {
                let found = source.whole(&terms, queue, from..part.end, MESSAGES, self.portions.batch_bytes).await;
                let found = found.map_err(CopyError::Source)?;
                if found.is_empty() {
                    let end = source.bounds(queue).await.map_err(CopyError::Source)?.map(|bounds| bounds.end);
                    if end == Some(part.end) {
                        return Err(CopyError::LastMissing { queue, from });
                    }
                }
                let before = from;
                for WholeMessage { message, terms, keep_until } in found {
                    from = message.offset.next();
                    let bytes = message.record.len();
                    self.done.messages += 1;
                    self.done.bytes += bytes as u64;
                    self.add(Op::Restore { message, terms, keep_until }, bytes + 64).await?;
                }
                if from == before {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Keys that are no more.
    async fn remove_keys<S: Reader, T: Reader>(&mut self, source: &S, target: &T) -> Result<(), CopyError> {
        let mut range = all_keys();
        loop {
            let page = target.scan(range.clone(), PAGE).await.map_err(CopyError::Target)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            range.start = after(last);
            for (key, _) in page {
                if source.get(&key).await.map_err(CopyError::Source)?.is_none() {
                    self.add(Op::Remove { key }, 0).await?;
                }
            }
        }
    }

    async fn keys<S: Reader>(&mut self, source: &S) -> Result<(), CopyError> {
        let mut range = all_keys();
        loop {
            let page = source.scan(range.clone(), PAGE).await.map_err(CopyError::Source)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            range.start = after(last);
            for (key, state) in page {
                self.done.keys += 1;
                // In one batch: a copy that is cut off must not leave deltas to be written twice.
                let bytes =
                    state.image.as_ref().map_or(0, Bytes::len) + state.deltas.iter().map(Bytes::len).sum::<usize>();
                let Portions { batch_bytes, batch_ops, .. } = self.portions;
                if self.bytes + bytes > batch_bytes || self.ops.len() + state.deltas.len() + 1 > batch_ops {
                    self.flush().await?;
                }
                self.ops.push(match state.image {
                    Some(image) => Op::Put { key: key.clone(), image, keep_until: None },
                    None => Op::Remove { key: key.clone() },
                });
                self.ops.extend(state.deltas.into_iter().map(|delta| Op::Delta { key: key.clone(), delta }));
                self.bytes += bytes;
            }
        }
    }
}

fn all_keys() -> Range<Bytes> {
    Bytes::new()..Bytes::from_static(&[0xff; 513])
}

/// The next key there can be.
fn after(key: &Bytes) -> Bytes {
    [&key[..], &[0]].concat().into()
}
