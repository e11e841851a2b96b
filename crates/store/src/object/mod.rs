//! The object engine: a shard's state in one database of SlateDB, in a bucket or in a folder in its stead.
//!
//! SlateDB's write batches are ours; its flush of the write-ahead log is what makes them durable; its fencing of older
//! writers is what makes a shard have one owner. [`keys`] has the table of what lies under which key.
//!
//! **Commit.** A batch becomes one write batch of the database, readable at once, and is made durable by a flush of the
//! log: one PUT. The store is not ready while a batch is on its way, nor before the flush interval since the last flush
//! began is over, nor, when many were answered, before they had time to ask again; so a lone batch waits for one PUT, and under
//! load everything that comes meanwhile is one batch.
//!
//! **Fencing.** Who opens the shard raises the epoch in the manifest and takes the next place in the log with a write that
//! must create; the owner before fails at its next flush, or learns of it by looking at the manifest once a second, and
//! reports [`Progress::failed`](crate::Progress). The new owner has read all of the log up to its own place in it before
//! [`BucketStore::open`] returns. If the store was not closed by its last owner, opening waits one such second
//! more, so that a living one has noticed and answers nothing from old state.
//!
//! **Space.** Messages lie in the period in which they are expected to be trimmed ([`period`]), each a tree of its own. When
//! a period is over and nothing in it can be read any more, its tree is given up as a whole ([`space`]): nothing is
//! rewritten for that.

mod clock;
mod head;
mod keys;
mod merge;
mod options;
mod period;
mod read;
mod shared;
mod space;
mod state;
mod write;

pub use options::BucketOptions;
pub use read::BucketReader;

use crate::{Batch, OpenError, Progress, RecoveryReport, Room, Shortage, Store, Ticket, Usage};
use clock::SteadyClock;
use martlet_bucket::{Bucket, Scheme, with_causes};
use object_store::path::Path;
use shared::Shared;
use slatedb::compactor::CompactorBuilder;
use slatedb::config::{CloseOptions, FlushType};
use slatedb::{CloseReason, Db, Error, ErrorKind, SstBlockSize};
use state::State;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Closing gives up on a bucket that does not answer; what is not durable then was never acknowledged.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);

/// A store in a bucket.
pub struct BucketStore {
    bucket: Bucket,
    db: Db,
    shared: Arc<Shared>,
    stalled_after: Duration,
    to_writer: Option<mpsc::UnboundedSender<(Ticket, Batch)>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl BucketStore {
    /// Opens or makes the shard, and takes it over from whoever has it. Blocks; not to be called from an asynchronous
    /// task.
    pub fn open(options: BucketOptions) -> Result<(Self, RecoveryReport), OpenError> {
        let runtime = options.bucket.runtime();
        runtime.block_on(Self::open_here(options))
    }

    async fn open_here(options: BucketOptions) -> Result<(Self, RecoveryReport), OpenError> {
        let clock = Arc::new(options.wall.map_or_else(SteadyClock::start, |wall| SteadyClock::start_at(wall.0)));
        let bucket = options.bucket.clone();
        let failed = |operation: &'static str| {
            let place = format!("{} in {}", options.name, bucket.location());
            move |error: Error| OpenError::Bucket { operation, place, cause: told(&error) }
        };
        let dead = space::Dead::default();
        let path = bucket.path(&options.name);
        let mut looked_again = false;
        let (db, fenced) = loop {
            let shown = clock::last_shown(&path, bucket.store()).await.map_err(failed("reading the clock"))?;
            shown.inspect(|shown| clock.not_before(*shown));
            let began = clock.millis();
            let built = build(&options, &path, &clock, &dead).await;
            let fenced = Instant::now();
            // The owner before may have written while we looked; from now on it cannot.
            let shown = clock::last_shown(&path, bucket.store()).await.map_err(failed("reading the clock"))?;
            shown.inspect(|shown| clock.not_before(*shown));
            if looked_again || shown.is_none_or(|shown| shown <= began) {
                break (built.map_err(failed("opening the database"))?, fenced);
            }
            // What this database named by our clock may be older than what the owner before wrote last: it would be refused, and
            // end the database. One that was opened since then names nothing too early.
            looked_again = true;
            if let Ok(db) = built {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, db.close()).await;
            }
        };
        let found = db.get(keys::state()).await.map_err(failed("reading the state"))?;
        let state = match &found {
            None => State::default(),
            Some(bytes) => State::decode(bytes).ok_or_else(|| OpenError::Damaged {
                file: format!("the state of {}", options.name),
                position: 0,
                expected: "16 bytes".to_owned(),
                found: format!("{} bytes", bytes.len()),
            })?,
        };
        let closed = db.get(keys::closed()).await.map_err(failed("reading the state"))?.is_some();
        if found.is_some() && !closed {
            tokio::time::sleep((options.manifest_poll * 5 / 4).saturating_sub(fenced.elapsed())).await;
        }
        let shared = Arc::new(Shared::new(options.waker.clone(), format!("{} in {}", options.name, bucket.location())));
        let (to_writer, handed) = mpsc::unbounded_channel();
        let writer = write::Writer::new(db.clone(), shared.clone(), state, closed);
        let tasks = vec![
            tokio::spawn(writer.run(handed)),
            tokio::spawn(write::flush(db.clone(), shared.clone(), options.flush_interval)),
            tokio::spawn(shared::watch(db.clone(), shared.clone())),
            tokio::spawn(shared::tell_of_stalls(shared.clone(), options.stalled_after)),
            tokio::spawn(space::look_after(db.clone(), dead, options.look_after_every)),
        ];
        let report = RecoveryReport {
            created: found.is_none(),
            segments: db.manifest().all_sst_views().count() as u64,
            last_time: state.time,
            ..RecoveryReport::default()
        };
        let stalled_after = options.stalled_after;
        Ok((Self { bucket, db, shared, stalled_after, to_writer: Some(to_writer), tasks }, report))
    }

    /// Makes durable what was committed, writes down that it is closed, and ends the database. Blocks.
    pub fn close(mut self) -> Progress {
        let runtime = self.bucket.runtime();
        let shared = self.shared.clone();
        let (db, to_writer, mut tasks) = (self.db.clone(), self.to_writer.take(), std::mem::take(&mut self.tasks));
        runtime.block_on(async move {
            let closing = async {
                // The writer takes in what was handed over, and leaves word that it was closed.
                drop(to_writer);
                if let Some(writer) = tasks.first_mut() {
                    // A panic of a task has been printed.
                    let _ = writer.await;
                }
                shared.closing();
                let flushed = db.flush().await;
                shared.flushed(shared.applied(), flushed.err().as_ref());
                let options = CloseOptions::default().with_flush_type(Some(FlushType::MemTable));
                // What matters is in the log by now.
                let _ = db.close_with_options(options).await;
            };
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
            tasks.iter().for_each(tokio::task::JoinHandle::abort);
            shared.progress()
        })
    }
}

/// Opens or makes the database, and fences who had it.
async fn build(
    options: &BucketOptions,
    path: &Path,
    clock: &Arc<SteadyClock>,
    dead: &space::Dead,
) -> Result<Db, Error> {
    let bucket = &options.bucket;
    let compactor = CompactorBuilder::new(path.clone(), bucket.compaction_store().clone())
        .with_options(options.compactor())
        .with_scheduler_supplier(Arc::new(space::Scheduling { dead: Arc::clone(dead) }))
        .with_merge_operator(Arc::new(merge::Pieces))
        .with_sst_block_size(SstBlockSize::Block16Kib)
        .with_system_clock(clock.clone());
    Db::builder(path.clone(), bucket.store().clone())
        .with_settings(options.settings(bucket.location().scheme == Scheme::File))
        .with_compactor_builder(compactor)
        .with_merge_operator(Arc::new(merge::Pieces))
        .with_segment_extractor(Arc::new(keys::Trees))
        .with_sst_block_size(SstBlockSize::Block16Kib)
        .with_db_cache(options.cache(), 0)
        .with_system_clock(clock.clone())
        .build()
        .await
}

impl Drop for BucketStore {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Store for BucketStore {
    type Reader = BucketReader;

    fn ready(&self) -> bool {
        self.shared.ready()
    }

    fn commit(&mut self, batch: Batch) -> Ticket {
        let ticket = self.shared.hand_over(batch.ops.len());
        if let Some(to_writer) = &self.to_writer {
            // A writer that has ended has left a failure behind.
            let _ = to_writer.send((ticket, batch));
        }
        ticket
    }

    fn progress(&self) -> Progress {
        self.shared.progress()
    }

    fn room(&self) -> Room {
        match self.shared.waiting_for() {
            Some(waited) if waited >= self.stalled_after => Room::OnlyProgress(Shortage::Behind {
                waited_millis: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            }),
            _ => Room::Open,
        }
    }

    fn usage(&self) -> Usage {
        let manifest = self.db.manifest();
        let tables = manifest.all_sst_views().map(|view| view.estimate_size());
        let (segments, log_bytes) = tables.fold((0, 0), |(count, bytes), size| (count + 1, bytes + size));
        Usage { log_bytes, segments, written_bytes: self.bucket.meter().bytes_sent(), ..Usage::default() }
    }

    fn reader(&self) -> BucketReader {
        BucketReader::new(self.bucket.clone(), self.db.clone(), self.shared.clone())
    }
}

/// An error of the database in words for people.
fn told(error: &Error) -> String {
    match error.kind() {
        ErrorKind::Closed(CloseReason::Fenced) => "another process has taken the shard over (fenced)".to_owned(),
        _ => with_causes(error),
    }
}

#[cfg(test)]
mod tests;
