//! The simulated engine: the core of the local one on a disk and an index in memory, with no thread. Whoever drives it
//! decides when a frame is written, when it is synced, and when the power goes; the same seed gives the same bytes.

use crate::conformance::Random;
use crate::disk::Disk;
use crate::disk::sim::{Faults, SimDisk};
use crate::engine::maintain::Step;
use crate::engine::read::Reach;
use crate::engine::{Broken, Engine, Settings};
use crate::index::memory::MemoryIndex;
use crate::{
    Batch, Durability, KeyState, Notice, OpenError, Progress, ReadError, Reader, RecoveryReport, Room, Store,
    StoredMessage, Term, Ticket, Usage,
};
use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// Settings and defects of a simulated store.
#[derive(Clone, Copy, Debug)]
pub struct SimOptions {
    /// Length of a segment; small ones make much happen.
    pub segment_bytes: u32,
    /// Bytes of records last appended that stay in memory.
    pub tail_cache_bytes: usize,
    /// Segments the log may be larger than twice what is alive.
    pub slack_segments: u64,
    /// Broken: batches are reported durable once written, before the sync.
    pub release_before_sync: bool,
    /// Broken: a segment is removed before the manifest without it is durable.
    pub delete_segment_too_early: bool,
    /// Broken: the index forgets one in so many entries of each crash without the store noticing; 0: never.
    pub lossy_index: u64,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 10,
            tail_cache_bytes: 4 << 10,
            slack_segments: 1,
            release_before_sync: false,
            delete_segment_too_early: false,
            lossy_index: 0,
        }
    }
}

/// What outlives a store: its disk and its index.
#[derive(Clone, Default)]
pub struct SimPlace {
    disk: SimDisk,
    index: MemoryIndex,
}

impl SimPlace {
    /// The index is deleted, as a user might. Only while no store is open.
    pub fn delete_index(&self) {
        self.index.delete();
    }

    /// The index loses about one in `n` of its entries. Only while no store is open.
    pub fn lose_of_index(&self, n: u64, random: &mut Random) {
        self.index.lose_one_in(n, random);
    }

    /// Turns over one bit of a file, without a word.
    pub fn flip_bit(&self, file: &str, position: u64, bit: u8) {
        self.disk.flip(file, position, bit);
    }

    /// What fails from now on until the next crash: writes, syncs, reads.
    pub fn fail(&self, writes: bool, syncs: bool, reads: bool) {
        self.disk.set_faults(Faults { writes, syncs, reads, capacity: 0 });
    }

    /// Bytes the disk has from now on until the next crash.
    pub fn set_capacity(&self, capacity: u64) {
        self.disk.set_faults(Faults { capacity, ..Faults::default() });
    }

    /// Names and lengths of the files.
    pub fn files(&self) -> Vec<(String, u64)> {
        self.disk.list().unwrap_or_default()
    }

    /// Opens the store that is here, or a new one.
    pub fn open(&self, options: SimOptions) -> Result<(SimStore, RecoveryReport), OpenError> {
        let settings = Settings {
            segment_bytes: options.segment_bytes,
            tail_cache_bytes: options.tail_cache_bytes,
            memory_index_bytes: 1 << 20,
            seal_after_millis: 3_600_000,
            slack_segments: options.slack_segments,
            durability: Durability::Fdatasync,
            broken: Broken {
                release_before_sync: options.release_before_sync,
                delete_segment_too_early: options.delete_segment_too_early,
            },
        };
        let opened = Engine::open(
            self.disk.clone(),
            PathBuf::from("simulated"),
            settings,
            *b"a simulated log.",
            || Ok((self.index.clone(), None)),
            &mut |_, _| {},
            Box::new(|| {}),
        );
        match opened {
            Ok((core, report)) => {
                if options.lossy_index > 0 {
                    // After the check at opening, so that nothing notices.
                    self.index.lose_one_in(options.lossy_index, &mut Random::new(7));
                }
                Ok((SimStore { core: Arc::new(core), place: self.clone() }, report))
            }
            Err(error) => {
                self.disk.close();
                Err(error)
            }
        }
    }
}

type Core = Engine<SimDisk, MemoryIndex>;

/// A store that does nothing by itself.
pub struct SimStore {
    core: Arc<Core>,
    place: SimPlace,
}

impl SimStore {
    /// Writes the oldest batch that is on its way. False if there is none, or the one before is not synced yet.
    pub fn step_write(&self) -> bool {
        self.core.step_write()
    }

    /// Syncs what was written last. False if there is nothing to sync.
    pub fn step_sync(&self) -> bool {
        self.core.step_sync()
    }

    /// One step of maintenance. False if there is nothing to do before something else happens.
    pub fn step_maintain(&self) -> bool {
        self.core.step_maintain() == Step::Worked
    }

    /// Checks about `budget` bytes of sealed segments; damage becomes a notice.
    pub fn step_scrub(&self, budget: u64) {
        // A read that fails is tried again by the next call.
        let _ = self.core.step_scrub(budget);
    }

    /// Writes and syncs all that is on its way.
    pub fn settle(&self) {
        while self.core.step_write() {
            self.core.step_sync();
        }
    }

    /// What maintenance noticed since the last call.
    pub fn take_notices(&self) -> Vec<Notice> {
        self.core.take_notices()
    }

    /// Bytes that were carried out of reclaimed segments since the opening.
    pub fn carried_bytes(&self) -> u64 {
        self.core.carried_bytes()
    }

    /// Times that files of terms were merged since the opening.
    pub fn terms_merged(&self) -> u64 {
        self.core.terms_merged()
    }

    /// The power goes. What was not synced is lost or torn.
    pub fn crash(self, random: &mut Random) -> SimPlace {
        self.place.disk.crash(random);
        self.place
    }

    /// The process ends, the system lives on.
    pub fn close(self) -> SimPlace {
        self.place.disk.close();
        self.place
    }
}

impl Store for SimStore {
    type Reader = SimReader;

    fn ready(&self) -> bool {
        self.core.ready()
    }

    fn commit(&mut self, batch: Batch) -> Ticket {
        self.core.commit(&batch)
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

    fn reader(&self) -> SimReader {
        SimReader { core: self.core.clone() }
    }
}

/// Reads of a [`SimStore`], ready at the first poll.
#[derive(Clone)]
pub struct SimReader {
    core: Arc<Core>,
}

/// Cold reads always have an answer.
fn answered<T>(answer: Result<Option<T>, ReadError>) -> Result<T, ReadError> {
    answer?.ok_or(ReadError::Closed)
}

impl Reader for SimReader {
    async fn messages(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        answered(self.core.messages(Reach::Cold, queue, range, max_messages, max_bytes))
    }

    async fn bounds(&self, queue: QueueId) -> Result<Option<Range<QueueOffset>>, ReadError> {
        answered(self.core.bounds(Reach::Cold, queue))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyState>, ReadError> {
        answered(self.core.get(Reach::Cold, key))
    }

    async fn scan(&self, range: Range<Bytes>, limit: usize) -> Result<Vec<(Bytes, KeyState)>, ReadError> {
        answered(self.core.scan(Reach::Cold, range, limit))
    }

    async fn find(&self, term: Term, limit: usize) -> Result<Vec<(QueueId, QueueOffset)>, ReadError> {
        answered(self.core.find(Reach::Cold, term, limit))
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod torn_creation_tests;
