//! One shard's durable state behind one trait: queues of messages beside an ordered key space, changed only by atomic
//! batches, read by queue and offset range or by key range.
//!
//! In: [`Batch`]es from one shard, in order. Out: [`Ticket`]s that come due when a batch is durable, and reads.
//!
//! Rules
//! - A batch is atomic: after a crash all of it is there or nothing of it, and never a later batch without an earlier one.
//! - Every batch whose ticket was reported durable survives any crash.
//! - Reads see every batch handed to [`Store::commit`], durable or not. Whoever must not speak of what may yet be lost
//!   looks at [`Store::progress`].
//! - A message stays readable until its queue is trimmed past it; a key stays until it is removed. Liveness is the
//!   shard's word, space is the engine's business.
//! - A failed write or sync fails the store for good: [`Progress::failed`] is set, nothing later becomes durable.
//!
//! Engines: [`local`] (segments of frames and a rebuildable index, in one folder), [`object`] (a database in a bucket) and
//! [`sim`] (the core of the local one on a simulated disk and index that crash, tear, fail and forget from a seed). All
//! pass [`conformance`].

pub mod any;
mod batch;
mod cache;
mod codec;
pub mod conformance;
pub mod copy;
mod disk;
mod engine;
mod frame;
mod index;
pub mod inspect;
mod key;
pub mod local;
mod mem;
pub mod object;
mod payload;
mod report;
mod scan;
pub mod sim;
mod terms;

pub use batch::{Batch, KeyState, Op, StoredMessage, Term, WholeMessage};
pub use report::{Durability, Notice, OpenError, RecoveryReport, TornTail};

use bytes::Bytes;
pub(crate) use martlet_model::UnixMillis;
use martlet_model::{QueueId, QueueOffset};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;

/// Number of a batch, counted from 1 since the store was opened. Tickets come due in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// How far durability has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Every batch up to and with this one survives a crash. `Ticket(0)`: none since the store was opened.
    pub durable: Ticket,
    /// Set once and for good when a write or sync failed. Batches after `durable` may or may not be found after a restart.
    pub failed: Option<Arc<StoreFailure>>,
}

/// Why a store stopped: what was being done, to which file, and what the system answered.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of {file}{} failed: {cause}", position.map_or(String::new(), |at| format!(" at position {at}")))]
pub struct StoreFailure {
    /// The operation, for instance `write` or `fdatasync`.
    pub operation: &'static str,
    /// File name within the store's folder; of a bucket, the shard in it.
    pub file: String,
    /// Byte position in the file, where there is one.
    pub position: Option<u64>,
    /// The system's answer.
    pub cause: String,
}

/// Whether there is room, asked by the shard once per turn. Cheap: no I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Everything is accepted.
    Open,
    /// New messages are to be refused; acks, progress and trims are still taken, from the reserve.
    OnlyProgress(Shortage),
}

/// What is short when new messages are to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// Free space of the file system is below the reserve: (free bytes, needed bytes).
    DiskFull {
        /// Bytes the file system has free for the store.
        free: u64,
        /// Bytes that must be free before new messages are taken again.
        needed: u64,
    },
    /// What was handed over is not durable yet although it has waited for long: a bucket that cannot be reached, or is slow.
    Behind {
        /// How long the oldest batch has waited.
        waited_millis: u64,
    },
}

/// Figures for metrics, retention by watermark and the console. What an engine does not know or does not have is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of all segment files; of a bucket, of all tables.
    pub log_bytes: u64,
    /// Of these, bytes of frames that are still alive by the account, where there is one.
    pub live_bytes: Option<u64>,
    /// Number of segments, the open one included; of a bucket, of tables.
    pub segments: u64,
    /// Bytes of the index on disk (0 where it is in memory).
    pub index_bytes: u64,
    /// Size of the file system the log is on, without what it keeps back for the system.
    pub disk_total: u64,
    /// Bytes of it that are free.
    pub disk_free: u64,
    /// Bytes handed to write(), or sent to the bucket, since the store was opened.
    pub written_bytes: u64,
}

/// A read that could not be answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bytes on disk are not what was written.
    #[error("{file} is damaged at position {position}: expected {expected}, found {found}")]
    Damaged {
        /// File name within the store's folder.
        file: String,
        /// Byte position in the file.
        position: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The system refused to read.
    #[error("reading {file} at position {position} failed: {cause}")]
    Io {
        /// File name within the store's folder.
        file: String,
        /// Byte position in the file.
        position: u64,
        /// The system's answer.
        cause: String,
    },
    /// The store is closed or has failed.
    #[error("the store is closed")]
    Closed,
}

/// The writing side, owned by one shard.
pub trait Store: Send + 'static {
    /// The reading side of this engine.
    type Reader: Reader;

    /// Whether a batch handed over now would start on its way at once. A local log has one frame unsynced at a time and
    /// says no while that one is under way, so that the next batch grows meanwhile (group commit).
    fn ready(&self) -> bool;

    /// Hands over one atomic batch. Never waits for I/O. Called when [`Store::ready`], or regardless of it at shutdown.
    /// After a failure the ticket is given out but never comes due.
    fn commit(&mut self, batch: Batch) -> Ticket;

    /// How far durability has come. The engine calls the waker given at opening after each change of this answer.
    fn progress(&self) -> Progress;

    /// Whether new messages may still be taken.
    fn room(&self) -> Room;

    /// Figures for people.
    fn usage(&self) -> Usage;

    /// A reading side; cheap to clone, usable from any thread.
    fn reader(&self) -> Self::Reader;
}

/// The reading side of a store.
pub trait Reader: Clone + Send + Sync + 'static {
    /// Messages of `queue` with offsets in `range`, in order, at most `max_messages`, and no more once `max_bytes` of
    /// records are reached (the first is always returned). Offsets that were trimmed or never written are left out.
    fn messages(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Vec<StoredMessage>, ReadError>> + Send;

    /// The same for those who look through many messages to find few: whoever else reads or works goes first.
    fn look_through(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> impl Future<Output = Result<Vec<StoredMessage>, ReadError>> + Send {
        self.messages(queue, range, max_messages, max_bytes)
    }

    /// First readable offset (the trim point) and the offset the next message will take. `None` if nothing was ever
    /// appended to or trimmed from the queue.
    fn bounds(&self, queue: QueueId) -> impl Future<Output = Result<Option<Range<QueueOffset>>, ReadError>> + Send;

    /// What is kept under a key. `None` if there is nothing.
    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Option<KeyState>, ReadError>> + Send;

    /// Keys of `range` in order, at most `limit`.
    fn scan(
        &self,
        range: Range<Bytes>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(Bytes, KeyState)>, ReadError>> + Send;

    /// Places of messages appended with this term, newest first, at most `limit`. Terms are 64-bit hashes: the caller
    /// reads the messages and checks the text. Messages below the trim point are left out.
    fn find(
        &self,
        term: Term,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<(QueueId, QueueOffset)>, ReadError>> + Send;
}
