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

/// A flush of so many changes answers many clients.
const CROWD: usize = 32;
/// The longest rest after it, for them to ask again.
const GATHERING_MAX: Duration = Duration::from_millis(20);

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

/// For how long nothing is flushed after a flush that took so long: for the rest of the interval; and if many clients were answered,
/// for a part of the time it took, so that they ask again before the next one begins. Else the half that does not make it waits for
/// two flushes, in turn with the other half, and each flush answers one half only.
fn rest(interval: Duration, took: Duration, changes: usize) -> Duration {
    let gathering = if changes < CROWD { Duration::ZERO } else { (took / 4).min(GATHERING_MAX) };
    interval.saturating_sub(took).max(gathering)
}

/// Flushes whatever was taken in, and rests.
pub async fn flush(db: Db, shared: Arc<Shared>, interval: Duration) {
    let mut applied = shared.subscribe();
    let mut upto = 0;
    loop {
        match applied.wait_for(|applied| *applied > upto).await {
            Ok(applied) if *applied < u64::MAX => upto = *applied,
            // The store has failed.
            _ => return,
        }
        let (began, changes) = (Instant::now(), shared.take_changes());
        let flushed = db.flush().await;
        shared.took(began.elapsed());
        let rest = rest(interval, began.elapsed(), changes);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_flush_for_many_there_is_time_to_ask_again_and_a_lone_client_does_not_wait_for_others() {
        let rests = |interval, took, changes| {
            rest(Duration::from_millis(interval), Duration::from_millis(took), changes).as_millis()
        };
        assert_eq!(rests(50, 10, 1), 40);
        assert_eq!(rests(50, 10, 1_000), 40, "the interval is time enough");
        assert_eq!(rests(50, 60, 1), 0);
        assert_eq!(rests(50, 60, 1_000), 15);
        assert_eq!(rests(50, 10_000, 1_000), 20, "no longer than that");
    }
}
