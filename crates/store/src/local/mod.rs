//! The local engine: segments of frames and a rebuildable index in one folder of this machine.
//!
//! One thread writes and syncs; reads that memory cannot answer go to a few threads of their own. Reads of what was
//! appended last are answered at the first poll, on the caller's thread, and so are most reads of who goes on where the last
//! one ended. Who looks through many messages to find few has a thread that gives way to all others.

mod ahead;
mod pool;

use crate::copy::{Contents, Queues, Terms};
use crate::disk::real::RealDisk;
use crate::engine::maintain::Step;
use crate::engine::read::Reach;
use crate::engine::{Broken, Engine, Settings};
use crate::index::fjall::FjallIndex;
use crate::{
    Batch, Durability, KeyState, Notice, Op, OpenError, Progress, ReadError, Reader, RecoveryReport, Room, Store,
    StoredMessage, Term, Ticket, Usage, WholeMessage,
};
use ahead::{Ahead, Asked, Stretch};
use bytes::Bytes;
use martlet_model::{Histogram, HistogramFigures, QueueId, QueueOffset};
use pool::Pool;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How to open a folder.
#[derive(Clone)]
pub struct Options {
    /// The folder; made if it is missing.
    pub dir: PathBuf,
    /// Length of a segment, preallocated. 1 MiB to 2 GiB; default 128 MiB.
    pub segment_bytes: u32,
    /// Bytes of records last appended that stay in memory. Default 16 MiB.
    pub tail_cache_bytes: usize,
    /// When a batch counts as durable.
    pub durability: Durability,
    /// Random bytes: the log's id if the folder is new.
    pub log_id_seed: [u8; 16],
    /// Told while a lost index is rebuilt: bytes of the log done, and all in all.
    pub rebuild_progress: Arc<dyn Fn(u64, u64) + Send + Sync>,
    /// Called from the engine's threads after each change of [`Store::progress`]; must not block.
    pub waker: Arc<dyn Fn() + Send + Sync>,
}

impl Options {
    /// The defaults for a folder.
    pub fn new(dir: PathBuf, log_id_seed: [u8; 16], waker: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            dir,
            segment_bytes: 128 << 20,
            tail_cache_bytes: 16 << 20,
            durability: Durability::Fdatasync,
            log_id_seed,
            rebuild_progress: Arc::new(|_, _| {}),
            waker,
        }
    }
}

type Core = Engine<RealDisk, FjallIndex>;

/// Upper bounds of the histogram of syncs, in microseconds.
const SYNC_BOUNDS: [u64; 11] = [100, 200, 500, 1_000, 2_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000];

/// What wakes the writer.
#[derive(Default)]
struct Signal {
    state: Mutex<SignalState>,
    changed: Condvar,
}

#[derive(Default)]
struct SignalState {
    work: bool,
    closing: bool,
}

impl Signal {
    fn raise(&self, change: impl FnOnce(&mut SignalState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Waits for work; false when there is none and the store is closing.
    fn wait(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if std::mem::take(&mut state.work) {
                return true;
            }
            if state.closing {
                return false;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for work or some time; false when the store is closing.
    fn wait_at_most(&self, time: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut state, _) = self
            .changed
            .wait_timeout_while(state, time, |state| !state.work && !state.closing)
            .unwrap_or_else(PoisonError::into_inner);
        state.work = false;
        !state.closing
    }

    fn is_closing(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closing
    }
}

/// How often maintenance looks whether there is anything to do.
const MAINTENANCE_EVERY: Duration = Duration::from_millis(500);

/// Bytes of old segments checked each time.
const SCRUB_BYTES: u64 = 512 << 10;

/// Does what there is to do.
fn maintain(core: &Core, writer: &Signal, signal: &Signal) {
    while !signal.is_closing() {
        match core.step_maintain() {
            Step::Worked => writer.raise(|state| state.work = true),
            // The writer's progress goes on with it.
            Step::Waiting => {
                writer.raise(|state| state.work = true);
                return;
            }
            Step::Idle => return,
        }
    }
}

/// A store in a folder of this machine.
pub struct LocalStore {
    core: Arc<Core>,
    signal: Arc<Signal>,
    pool: Arc<Pool>,
    behind: Arc<Pool>,
    ahead: Arc<Ahead>,
    syncs: Arc<Histogram>,
    /// To be stopped in this order.
    threads: Vec<(Arc<Signal>, JoinHandle<()>)>,
}

impl LocalStore {
    /// Opens or makes the folder and recovers what is in it. Blocks.
    pub fn open(options: Options) -> Result<(Self, RecoveryReport), OpenError> {
        let disk = RealDisk::open(&options.dir)?;
        let settings = Settings {
            segment_bytes: options.segment_bytes.clamp(1 << 20, 2 << 30),
            tail_cache_bytes: options.tail_cache_bytes,
            memory_index_bytes: 16 << 20,
            seal_after_millis: 3_600_000,
            slack_segments: 4,
            durability: options.durability,
            broken: Broken::default(),
        };
        let waker = options.waker.clone();
        let index = options.dir.join("index");
        let told = options.rebuild_progress.clone();
        let (core, report) = Core::open(
            disk,
            options.dir,
            settings,
            options.log_id_seed,
            || FjallIndex::open(&index),
            &mut |done, total| told(done, total),
            Box::new(move || waker()),
        )?;
        let core = Arc::new(core);
        let signal = Arc::new(Signal::default());
        let maintenance = Arc::new(Signal::default());
        let syncs = Arc::new(Histogram::new(&SYNC_BOUNDS));
        let writer = {
            let (core, signal, maintenance) = (core.clone(), signal.clone(), maintenance.clone());
            let syncs = syncs.clone();
            spawn("martlet-log", move || {
                while signal.wait() {
                    while core.step_write() {
                        let began = Instant::now();
                        core.step_sync();
                        syncs.observe(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX));
                    }
                    if core.take_attention() {
                        maintenance.raise(|state| state.work = true);
                    }
                }
            })?
        };
        let maintainer = {
            let (core, writer, signal) = (core.clone(), signal.clone(), maintenance.clone());
            spawn("martlet-maintain", move || {
                while signal.wait_at_most(MAINTENANCE_EVERY) {
                    maintain(&core, &writer, &signal);
                    // Unreadable for now is not damage; the next round tries again.
                    let _ = core.step_scrub(SCRUB_BYTES);
                }
            })?
        };
        let (pool, behind) = (Arc::new(Pool::start(2)?), Arc::new(Pool::start_behind()?));
        // Opening may have left work behind: a new account after a rebuild, a sealed segment.
        signal.raise(|state| state.work = true);
        maintenance.raise(|state| state.work = true);
        let threads = vec![(maintenance, maintainer), (signal.clone(), writer)];
        Ok((Self { core, signal, pool, behind, ahead: Arc::default(), syncs, threads }, report))
    }

    /// Writes and syncs what was committed, then stops. The folder is free when this returns and no reader is left.
    pub fn close(mut self) -> Progress {
        self.stop();
        self.core.progress()
    }

    fn stop(&mut self) {
        for (signal, thread) in self.threads.drain(..) {
            signal.raise(|state| state.closing = true);
            // A panic of the thread has been printed; there is nothing left to wait for.
            let _ = thread.join();
        }
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(|cause| OpenError::Io {
        operation: "starting a thread",
        file: name.to_owned(),
        position: 0,
        cause: cause.to_string(),
    })
}

impl Store for LocalStore {
    type Reader = LocalReader;

    fn ready(&self) -> bool {
        self.core.ready()
    }

    fn commit(&mut self, batch: Batch) -> Ticket {
        let ticket = self.core.commit(&batch);
        if batch.ops.iter().any(|op| matches!(op, Op::Trim { .. } | Op::Forget { .. })) {
            self.ahead.clear();
        }
        self.signal.raise(|state| state.work = true);
        ticket
    }

    fn progress(&self) -> Progress {
        self.core.progress()
    }

    fn room(&self) -> Room {
        self.core.room()
    }

    fn usage(&self) -> Usage {
        self.core.usage()
    }

    fn reader(&self) -> LocalReader {
        LocalReader {
            core: self.core.clone(),
            pool: self.pool.clone(),
            behind: self.behind.clone(),
            ahead: self.ahead.clone(),
            syncs: self.syncs.clone(),
        }
    }
}

/// So many messages are looked through where they are asked for.
const FEW_MESSAGES: u64 = 128;

/// Reads of a [`LocalStore`].
#[derive(Clone)]
pub struct LocalReader {
    core: Arc<Core>,
    pool: Arc<Pool>,
    behind: Arc<Pool>,
    ahead: Arc<Ahead>,
    syncs: Arc<Histogram>,
}

impl LocalReader {
    /// What maintenance noticed since the last call; the newest 64 at most are kept.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.core.take_notices()
    }

    /// How long syncs of the log took since the opening, in milliseconds.
    pub fn sync_millis(&self) -> HistogramFigures {
        self.syncs.figures(1_000.0)
    }

    /// Answers from memory at once, or on one of the pool's threads.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl Fn(&Core, Reach) -> Result<Option<T>, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        if let Some(answer) = question(&self.core, Reach::Warm)? {
            return Ok(answer);
        }
        let core = self.core.clone();
        let answer = self.pool.run(move || question(&core, Reach::Cold)).await;
        answer.ok_or(ReadError::Closed)??.ok_or(ReadError::Closed)
    }
}

/// What is asked for, from the disk.
fn read_asked(core: &Core, asked: &Asked) -> Result<(Vec<StoredMessage>, Stretch), ReadError> {
    let found = core.messages(Reach::Cold, asked.queue, asked.range.clone(), asked.messages, asked.bytes)?;
    Ok((found.ok_or(ReadError::Closed)?, Stretch::default()))
}

/// The same, and some of what follows. What follows may not keep anybody from what was asked for.
fn read_ahead(core: &Core, asked: &Asked) -> Result<(Vec<StoredMessage>, Stretch), ReadError> {
    let more = asked.with_more();
    if let Ok(Some(found)) = core.messages(Reach::Cold, more.queue, more.range, more.messages, more.bytes) {
        let mut rest = Stretch::new(found);
        if let (found, true) = rest.take(asked) {
            return Ok((found, rest));
        }
    }
    read_asked(core, asked)
}

impl Reader for LocalReader {
    async fn messages(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        if let Some(found) = self.core.messages(Reach::Warm, queue, range.clone(), max_messages, max_bytes)? {
            return Ok(found);
        }
        let asked = Asked { queue, range, messages: max_messages, bytes: max_bytes };
        let (mut known, era) = self.ahead.take(queue, asked.range.start);
        if let Some(stretch) = &mut known
            && let (found, true) = stretch.take(&asked)
            && let Some(last) = found.last()
        {
            self.ahead.put((queue, last.offset.next()), std::mem::take(stretch), era);
            return Ok(found);
        }
        let (core, goes_on) = (self.core.clone(), known.is_some());
        let read = self.pool.run(move || if goes_on { read_ahead(&core, &asked) } else { read_asked(&core, &asked) });
        let (found, rest) = read.await.ok_or(ReadError::Closed)??;
        if let Some(last) = found.last() {
            self.ahead.put((queue, last.offset.next()), rest, era);
        }
        Ok(found)
    }

    async fn look_through(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        if range.end.0.saturating_sub(range.start.0) <= FEW_MESSAGES {
            return self.messages(queue, range, max_messages, max_bytes).await;
        }
        let core = self.core.clone();
        let read = move || core.messages(Reach::Cold, queue, range, max_messages, max_bytes);
        self.behind.run(read).await.ok_or(ReadError::Closed)??.ok_or(ReadError::Closed)
    }

    async fn bounds(&self, queue: QueueId) -> Result<Option<Range<QueueOffset>>, ReadError> {
        self.ask(move |core, reach| core.bounds(reach, queue)).await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyState>, ReadError> {
        let key = Bytes::copy_from_slice(key);
        self.ask(move |core, reach| core.get(reach, &key)).await
    }

    async fn scan(&self, range: Range<Bytes>, limit: usize) -> Result<Vec<(Bytes, KeyState)>, ReadError> {
        self.ask(move |core, reach| core.scan(reach, range.clone(), limit)).await
    }

    async fn find(&self, term: Term, limit: usize) -> Result<Vec<(QueueId, QueueOffset)>, ReadError> {
        self.ask(move |core, reach| core.find(reach, term, limit)).await
    }
}

impl Contents for LocalReader {
    async fn queues(&self, from: QueueId, limit: usize) -> Result<Queues, ReadError> {
        let core = self.core.clone();
        self.pool.run(move || core.queues(from, limit)).await.ok_or(ReadError::Closed)?
    }

    /// They lie with the messages.
    async fn terms(&self, _: Vec<(QueueId, Range<QueueOffset>)>) -> Result<Terms, ReadError> {
        Ok(Terms::default())
    }

    async fn whole(
        &self,
        _: &Terms,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<WholeMessage>, ReadError> {
        let core = self.core.clone();
        let read = move || core.whole(queue, range, max_messages, max_bytes);
        self.pool.run(read).await.ok_or(ReadError::Closed)??.ok_or(ReadError::Closed)
    }
}

#[cfg(test)]
pub(crate) mod tests;
