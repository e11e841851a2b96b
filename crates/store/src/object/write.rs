//! From batches of the shard to batches of the database, and from there to durability.

use super::head::Head;
use super::period::Period;
use super::shared::Shared;
use super::state::State;
use super::{keys, merge};
use crate::{Batch, Op, StoredMessage, Term, Ticket};
use bytes::Bytes;
use martlet_model::QueueId;
use slatedb::{Db, Error, WriteBatch};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Queues whose heads are kept in memory, twice that at most: some 150 bytes each.
const HEADS_MAX: usize = 32_768;

/// Takes batches in, one after the other.
pub struct Writer {
    db: Db,
    shared: Arc<Shared>,
    state: State,
    /// Word of the last owner that it has closed the store; taken back with the first batch.
    closed: bool,
    heads: Heads,
}

/// Heads of queues that were written to lately. What was not asked for while the younger half filled up is forgotten.
#[derive(Default)]
struct Heads {
    young: HashMap<QueueId, Head>,
    old: HashMap<QueueId, Head>,
}

impl Heads {
    fn take(&mut self, queue: QueueId) -> Option<Head> {
        self.young.remove(&queue).or_else(|| self.old.remove(&queue))
    }

    fn put(&mut self, queue: QueueId, head: Head) {
        if self.young.len() >= HEADS_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(queue, head);
    }
}

impl Writer {
    pub fn new(db: Db, shared: Arc<Shared>, state: State, closed: bool) -> Self {
        Self { db, shared, state, closed, heads: Heads::default() }
    }

    /// Ends when the store is closed or has failed.
    pub async fn run(mut self, mut handed: mpsc::UnboundedReceiver<(Ticket, Batch)>) {
        while let Some((ticket, batch)) = handed.recv().await {
            if let Err(error) = self.take_in(batch).await {
                return self.shared.fail("writing a batch", &error);
            }
            self.shared.applied_one(ticket);
        }
        if !self.closed {
            let mut last = WriteBatch::new();
            last.put_bytes(keys::closed(), Bytes::new());
            if let Err(error) = self.db.write(last).await {
                self.shared.fail("writing that the store is closed", &error);
            }
        }
    }

    async fn take_in(&mut self, batch: Batch) -> Result<(), Error> {
        let mut out = WriteBatch::new();
        self.state.time = self.state.time.max(batch.time);
        self.state.number += 1;
        let mut heads: HashMap<QueueId, Option<Head>> = HashMap::new();
        for (index, op) in batch.ops.into_iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            match op {
                Op::Append { queue, offset, record, terms, keep_until } => {
                    let head = self.head(&mut heads, queue, offset.0 == 0).await?.get_or_insert_default();
                    let period = head.append(offset, self.state.time, keep_until);
                    let message = StoredMessage { queue, offset, store_time: batch.time, record };
                    self.put(&mut out, period, index, &message, &terms);
                }
                Op::Restore { message, terms, keep_until } => {
                    let head = self.head(&mut heads, message.queue, false).await?.get_or_insert_default();
                    let period = head.append(message.offset, self.state.time, keep_until);
                    self.put(&mut out, period, index, &message, &terms);
                }
                Op::Put { key, image, .. } => out.put_bytes(keys::shard(&key), merge::image(&image).into()),
                Op::Delta { key, delta } => out.merge(keys::shard(&key), merge::delta(&delta)),
                Op::Remove { key } => out.delete(keys::shard(&key)),
                Op::Trim { queue, below } => {
                    self.head(&mut heads, queue, false).await?.get_or_insert_default().trim(below);
                }
                Op::Forget { queue } => {
                    self.heads.take(queue);
                    heads.insert(queue, None);
                }
            }
        }
        for (queue, head) in heads {
            match head {
                Some(head) => {
                    out.put_bytes(keys::head(queue), head.encode().into());
                    self.heads.put(queue, head);
                }
                None => out.delete(keys::head(queue)),
            }
        }
        out.put_bytes(keys::state(), self.state.encode().into());
        if std::mem::take(&mut self.closed) {
            out.delete(keys::closed());
        }
        self.db.write(out).await.map(drop)
    }

    /// Adds a message, that came `index`-th in its batch, and what it can be found by.
    fn put(&self, out: &mut WriteBatch, period: Period, index: u32, message: &StoredMessage, terms: &[Term]) {
        let StoredMessage { queue, offset, store_time, record } = message;
        let mut value = Vec::with_capacity(8 + record.len());
        value.extend_from_slice(&store_time.0.to_le_bytes());
        value.extend_from_slice(record);
        out.put_bytes(keys::message(period, *queue, *offset), value.into());
        let place = Bytes::from([queue.0.to_be_bytes(), offset.0.to_be_bytes()].concat());
        for term in terms {
            out.put_bytes(keys::term_place(period, term.0, self.state.number, index), place.clone());
        }
    }

    /// The head of a queue as the batch so far leaves it.
    async fn head<'h>(
        &mut self,
        heads: &'h mut HashMap<QueueId, Option<Head>>,
        queue: QueueId,
        new: bool,
    ) -> Result<&'h mut Option<Head>, Error> {
        let unknown = match heads.entry(queue) {
            Entry::Occupied(known) => return Ok(known.into_mut()),
            Entry::Vacant(unknown) => unknown,
        };
        let mut head = self.heads.take(queue);
        if head.is_none() && !new {
            let found = self.db.get(keys::head(queue)).await?;
            let decoded = found.map(|bytes| Head::decode(&bytes)).transpose();
            head = decoded.map_err(|error| Error::data(format!("head of queue {}: {error}", queue.0)))?;
        }
        Ok(unknown.insert(head))
    }
}

/// Flushes whatever was taken in, with at least the interval between the beginnings of two flushes.
pub async fn flush(db: Db, shared: Arc<Shared>, interval: Duration) {
    let mut applied = shared.subscribe();
    let mut upto = 0;
    loop {
        match applied.wait_for(|applied| *applied > upto).await {
            Ok(applied) if *applied < u64::MAX => upto = *applied,
            // The store has failed.
            _ => return,
        }
        let began = Instant::now();
        let flushed = db.flush().await;
        shared.took(began.elapsed());
        let rest = interval.saturating_sub(began.elapsed());
        shared.rest(!rest.is_zero());
        shared.flushed(upto, flushed.as_ref().err());
        shared.wake();
        if flushed.is_err() {
            return;
        }
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
            shared.rest(false);
            shared.wake();
        }
    }
}
