//! The ground of a shard whose store others may take over: the object engine, and objects that all processes share.

use super::faults::{Network, Reached};
use super::{MANIFEST_POLL, OPENINGS};
use crate::ground::{End, Failing, Ground};
use crate::{Broken, Plan};
use martlet_bucket::{Bucket, Location, Scheme};
use martlet_model::UnixMillis;
use martlet_store::conformance::{Bell, Random, block_on};
use martlet_store::object::{BucketOptions, BucketStore};
use martlet_store::{RecoveryReport, Room, Store};
use object_store::memory::InMemory;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// A batch that is under way for so long means that new messages are refused.
const STALLED_AFTER: Duration = Duration::from_millis(20);
/// For how many chances to do something writes are refused.
const REFUSED_FOR: u64 = 20;

/// The way of one process to the objects.
struct Way {
    network: Arc<Network>,
    bell: Arc<Bell>,
}

/// A bucket in memory, and processes that reach it over networks of their own.
///
/// Failing writes and syncs are writing requests that fail for a while: the store waits and goes on. Reads would be tried again for as
/// long, and who plays the seed with them; so they do not fail. The engine runs on its own threads,
/// so one seed plays the same schedule each time but not the same interleaving.
pub struct Objects {
    random: Random,
    objects: Arc<InMemory>,
    location: Location,
    /// Of the process that opened last.
    way: Option<Way>,
    /// Of the one before, from a takeover to its end.
    before: Option<Way>,
    opened: u64,
    table_bytes: usize,
    /// One request in so many has a fault.
    faulty: u64,
    /// Chances to do something until writes are no longer refused.
    refused_for: u64,
    without_fencing: bool,
}

impl Objects {
    fn begin(&mut self, wall: UnixMillis) -> Result<(BucketStore, RecoveryReport), String> {
        self.opened += 1;
        let network = Arc::new(Network::new(self.random.below(u64::MAX)));
        let bell = Arc::<Bell>::default();
        let reached = Reached { objects: self.objects.clone(), network: network.clone() };
        let bucket = Bucket::of_store(self.location.clone(), Arc::new(reached), &self.opened.to_string());
        let bucket = bucket.map_err(|error| error.to_string())?;
        // Only now: the bucket's own check would notice.
        network.creates_twice.store(self.without_fencing, SeqCst);
        network.faulty.store(self.faulty, SeqCst);
        let options = BucketOptions {
            flush_interval: Duration::from_micros(self.random.below(1_500)),
            table_bytes: self.table_bytes,
            compaction_poll: Duration::from_millis(10),
            look_after_every: Duration::from_millis(10),
            manifest_poll: MANIFEST_POLL,
            wall: Some(wall),
            stalled_after: STALLED_AFTER,
            ..BucketOptions::new(bucket, "shard-0", bell.waker())
        };
        let opened = BucketStore::open(options).map_err(|error| error.to_string())?;
        self.before = self.way.replace(Way { network, bell });
        Ok(opened)
    }

    fn refuse_writes(&self, refuse: bool) {
        self.way.iter().for_each(|way| way.network.read_only.store(refuse, SeqCst));
    }

    /// Waits until the store is ready for more, or, while its writes are refused, takes no new messages.
    fn wait(&self, store: &BucketStore) {
        if let Some(way) = self.before.as_ref().or(self.way.as_ref()) {
            let refuses = || way.network.read_only.load(SeqCst) && store.room() != Room::Open;
            let done = || store.ready() || store.progress().failed.is_some() || refuses();
            // Who waits in vain finds the shard not at rest.
            let _ = way.bell.wait_until(done);
        }
    }
}

impl Ground for Objects {
    type Store = BucketStore;

    const SHARED: bool = true;

    fn new(seed: u64, plan: &Plan, random: &mut Random) -> Self {
        Self {
            random: Random::new(seed ^ 0xb0c4_e701),
            objects: Arc::default(),
            location: Location { scheme: Scheme::Memory, bucket: String::new(), prefix: String::new() },
            way: None,
            before: None,
            opened: 0,
            table_bytes: [16 << 10, 64 << 10, 1 << 20][random.below(3) as usize],
            faulty: [0, 200, 50][random.below(3) as usize],
            refused_for: 0,
            without_fencing: plan.broken == Some(Broken::WithoutFencing),
        }
    }

    fn open(&mut self, wall: UnixMillis) -> Result<(BucketStore, RecoveryReport), String> {
        let mut last = String::new();
        for _ in 0..OPENINGS {
            match self.begin(wall) {
                Ok(opened) => return Ok(opened),
                Err(error) => last = error,
            }
        }
        Err(format!("{OPENINGS} openings failed, the last one with: {last}"))
    }

    fn end(&mut self, store: BucketStore, end: End, _random: &mut Random) {
        // After a takeover it is the one before that ends.
        let way = self.before.take().or_else(|| self.way.take());
        match end {
            End::Crash => {
                way.iter().for_each(|way| way.network.die());
                drop(store);
            }
            End::Exit => drop(store.close()),
        }
    }

    fn read<F: Future>(future: F) -> Result<F::Output, String> {
        Ok(block_on(future))
    }

    fn step(&mut self, store: &BucketStore, random: &mut Random) {
        match self.refused_for {
            0 if random.below(3) > 0 => self.wait(store),
            0 => {}
            1 => self.heal(),
            _ => self.refused_for -= 1,
        }
    }

    fn write_and_sync(&self, store: &BucketStore) {
        self.wait(store);
    }

    fn settle(&self, store: &BucketStore) {
        self.wait(store);
    }

    fn fail(&mut self, what: Failing) -> bool {
        if what != Failing::Reads {
            self.refuse_writes(true);
            self.refused_for = REFUSED_FOR;
        }
        false
    }

    fn fill(&mut self, _left: u64) {
        self.refuse_writes(true);
    }

    fn heal(&mut self) {
        self.refuse_writes(false);
        self.refused_for = 0;
    }

    fn stop(&mut self) {
        self.way.iter().for_each(|way| way.network.stop());
    }

    fn go_on(&mut self) {
        self.before.iter().for_each(|way| way.network.go_on());
    }

    fn learns_of_it(&self, store: &BucketStore) -> bool {
        self.before.as_ref().is_some_and(|way| way.bell.wait_until(|| store.progress().failed.is_some()))
    }
}

impl Drop for Objects {
    /// Nobody is left waiting for ever, however it ended.
    fn drop(&mut self) {
        self.way.iter().chain(&self.before).for_each(|way| way.network.die());
    }
}
