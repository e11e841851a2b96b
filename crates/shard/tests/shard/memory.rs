//! A store in memory that is obviously right: a list of batches, and what applying them leaves. Syncs can be held back,
//! and a crash forgets the batches that were not synced.

use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset};
use martlet_store::{
    Batch, KeyState, Op, Progress, ReadError, Reader, Room, Shortage, Store, StoreFailure, StoredMessage, Term, Ticket,
    Usage,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Default)]
struct Queue {
    min: u64,
    next: u64,
    messages: BTreeMap<u64, StoredMessage>,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<QueueId, Queue>,
    keys: BTreeMap<Bytes, KeyState>,
    failing_reads: bool,
    /// Queues whose messages cannot be read.
    damaged: BTreeSet<QueueId>,
}

pub struct MemoryStore {
    batches: Vec<Batch>,
    /// Batches that were there at the opening.
    opened_with: usize,
    durable: usize,
    state: Arc<Mutex<State>>,
    pub holds_syncs: bool,
    pub full: bool,
    pub behind: bool,
    failed: Option<Arc<StoreFailure>>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::with(Vec::new())
    }

    fn with(batches: Vec<Batch>) -> Self {
        let mut state = State::default();
        batches
            .iter()
            .flat_map(|batch| batch.ops.iter().map(move |op| (batch, op)))
            .for_each(|(b, op)| state.apply(b, op));
        Self {
            opened_with: batches.len(),
            durable: batches.len(),
            batches,
            state: Arc::new(Mutex::new(state)),
            holds_syncs: false,
            full: false,
            behind: false,
            failed: None,
        }
    }

    pub fn sync(&mut self) {
        self.durable = self.batches.len();
    }

    pub fn fail(&mut self) {
        self.failed = Some(Arc::new(StoreFailure {
            operation: "fdatasync",
            file: "1.log".into(),
            position: Some(0),
            cause: "no such luck".into(),
        }));
    }

    pub fn fail_reads(&mut self, failing: bool) {
        self.state.lock().unwrap().failing_reads = failing;
    }

    /// The messages of a queue cannot be read any more, also after a crash.
    pub fn damage(&mut self, queue: QueueId) {
        self.state.lock().unwrap().damaged.insert(queue);
    }

    pub fn crash(mut self) -> Self {
        self.batches.truncate(self.durable);
        let damaged = std::mem::take(&mut self.state.lock().unwrap().damaged);
        let crashed = Self::with(self.batches);
        crashed.state.lock().unwrap().damaged = damaged;
        crashed
    }

    pub fn batches(&self) -> &[Batch] {
        &self.batches
    }

    pub fn keys(&self) -> Vec<Bytes> {
        self.state.lock().unwrap().keys.keys().cloned().collect()
    }
}

impl State {
    fn apply(&mut self, batch: &Batch, op: &Op) {
        match op.clone() {
            Op::Append { queue: id, offset, record, .. } => {
                let queue = self.queues.entry(id).or_default();
                assert_eq!(queue.next, offset.0, "offsets of a queue have no holes");
                queue.next += 1;
                queue.messages.insert(offset.0, StoredMessage { queue: id, offset, store_time: batch.time, record });
            }
            Op::Restore { .. } => panic!("a shard restores nothing"),
            Op::Put { key, image, .. } => {
                self.keys.insert(key, KeyState { image: Some(image), deltas: Vec::new() });
            }
            Op::Delta { key, delta } => self.keys.entry(key).or_default().deltas.push(delta),
            Op::Remove { key } => drop(self.keys.remove(&key)),
            Op::Trim { queue, below } => {
                let queue = self.queues.entry(queue).or_default();
                assert!(below.0 <= queue.next, "a queue is not trimmed beyond its end");
                queue.min = queue.min.max(below.0);
                queue.messages = queue.messages.split_off(&queue.min);
            }
            Op::Forget { queue } => drop(self.queues.remove(&queue)),
        }
    }
}

impl Store for MemoryStore {
    type Reader = MemoryReader;

    fn ready(&self) -> bool {
        self.durable == self.batches.len()
    }

    fn commit(&mut self, batch: Batch) -> Ticket {
        {
            let mut state = self.state.lock().unwrap();
            batch.ops.iter().for_each(|op| state.apply(&batch, op));
        }
        self.batches.push(batch);
        if !self.holds_syncs && self.failed.is_none() {
            self.sync();
        }
        Ticket((self.batches.len() - self.opened_with) as u64)
    }

    fn progress(&self) -> Progress {
        Progress { durable: Ticket((self.durable - self.opened_with) as u64), failed: self.failed.clone() }
    }

    fn room(&self) -> Room {
        match (self.full, self.behind) {
            (true, _) => Room::OnlyProgress(Shortage::DiskFull { free: 1, needed: 2 }),
            (_, true) => Room::OnlyProgress(Shortage::Behind { waited_millis: 2_000 }),
            _ => Room::Open,
        }
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }

    fn reader(&self) -> MemoryReader {
        MemoryReader(self.state.clone())
    }
}

#[derive(Clone)]
pub struct MemoryReader(Arc<Mutex<State>>);

impl MemoryReader {
    fn state(&self) -> Result<MutexGuard<'_, State>, ReadError> {
        let state = self.0.lock().unwrap();
        if state.failing_reads {
            return Err(ReadError::Io { file: "1.log".into(), position: 0, cause: "no such luck".into() });
        }
        Ok(state)
    }
}

impl Reader for MemoryReader {
    async fn messages(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        let state = self.state()?;
        if state.damaged.contains(&queue) {
            let (expected, found) = ("what was written".into(), "other bytes".into());
            return Err(ReadError::Damaged { file: "1.log".into(), position: 9, expected, found });
        }
        let mut bytes = 0;
        let found = state.queues.get(&queue).into_iter().flat_map(|q| q.messages.range(range.start.0..range.end.0));
        Ok(found
            .take(max_messages)
            .map(|(_, message)| message.clone())
            .take_while(|message| {
                let first = bytes == 0;
                bytes += message.record.len();
                first || bytes <= max_bytes
            })
            .collect())
    }

    async fn bounds(&self, queue: QueueId) -> Result<Option<Range<QueueOffset>>, ReadError> {
        Ok(self.state()?.queues.get(&queue).map(|queue| QueueOffset(queue.min)..QueueOffset(queue.next)))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyState>, ReadError> {
        Ok(self.state()?.keys.get(key).cloned())
    }

    async fn scan(&self, range: Range<Bytes>, limit: usize) -> Result<Vec<(Bytes, KeyState)>, ReadError> {
        let state = self.state()?;
        Ok(state.keys.range(range).take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn find(&self, _: Term, _: usize) -> Result<Vec<(QueueId, QueueOffset)>, ReadError> {
        Ok(Vec::new())
    }
}
