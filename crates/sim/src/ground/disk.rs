//! A disk of its own, with no thread: the same seed gives the same bytes.

use super::{End, Failing, Ground, IndexHarm};
use crate::{Broken, Plan};
use martlet_model::UnixMillis;
use martlet_store::conformance::Random;
use martlet_store::sim::{SimOptions, SimPlace, SimStore};
use martlet_store::{Notice, RecoveryReport};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// The simulated local engine.
pub struct Disk {
    place: SimPlace,
    pub(crate) options: SimOptions,
}

impl Ground for Disk {
    type Store = SimStore;

    const SHARED: bool = false;

    fn new(_seed: u64, plan: &Plan, random: &mut Random) -> Self {
        let options = SimOptions {
            segment_bytes: [4 << 10, 16 << 10, 64 << 10][random.below(3) as usize],
            release_before_sync: plan.broken == Some(Broken::ReleaseBeforeSync),
            delete_segment_too_early: plan.broken == Some(Broken::DeleteTooEarly),
            lossy_index: if plan.broken == Some(Broken::LossyIndexKey) { 10 } else { 0 },
            ..SimOptions::default()
        };
        Self { place: SimPlace::default(), options }
    }

    fn open(&mut self, _wall: UnixMillis) -> Result<(SimStore, RecoveryReport), String> {
        self.place.open(self.options).map_err(|error| error.to_string())
    }

    fn end(&mut self, store: SimStore, end: End, random: &mut Random) {
        match end {
            End::Crash => drop(store.crash(random)),
            End::Exit => drop(store.close()),
        }
    }

    fn read<F: Future>(future: F) -> Result<F::Output, String> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Ok(output),
            Poll::Pending => Err("reading waits".into()),
        }
    }

    fn step(&mut self, store: &SimStore, random: &mut Random) {
        match random.below(3) {
            0 => drop(store.step_write()),
            1 => drop(store.step_sync()),
            _ => self.write_and_sync(store),
        }
        if random.below(4) == 0 {
            store.step_maintain();
        }
    }

    fn write_and_sync(&self, store: &SimStore) {
        store.step_write();
        store.step_sync();
    }

    fn settle(&self, store: &SimStore) {
        // What was written before may still wait for its sync.
        store.step_sync();
        store.settle();
        store.step_maintain();
    }

    fn notices(store: &SimStore) -> Vec<Notice> {
        store.take_notices()
    }

    fn fail(&mut self, what: Failing) -> bool {
        self.place.fail(what == Failing::Writes, what == Failing::Syncs, what == Failing::Reads);
        what == Failing::Reads
    }

    fn fill(&mut self, left: u64) {
        let used: u64 = self.place.files().iter().map(|file| file.1).sum();
        self.place.set_capacity(used + left);
    }

    fn heal(&mut self) {
        self.place.fail(false, false, false);
    }

    fn harm_index(&mut self, harm: IndexHarm, random: &mut Random) {
        match harm {
            IndexHarm::Deleted => self.place.delete_index(),
            IndexHarm::EntriesLost => self.place.lose_of_index(10, random),
        }
    }
}
