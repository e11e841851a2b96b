//! What a simulated shard stands on: the one difference between its simulations on a disk and in a bucket.

mod disk;

pub use disk::Disk;

use crate::Plan;
use martlet_model::UnixMillis;
use martlet_store::conformance::Random;
use martlet_store::{Notice, RecoveryReport, Store};
use std::future::Future;

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With all that it had not made durable.
    Crash,
    /// The process goes, what it has written stays.
    Exit,
}

/// What a store can no longer do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    Writes,
    Syncs,
    Reads,
}

/// What becomes of an index while no store is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexHarm {
    Deleted,
    EntriesLost,
}

/// An engine, and what may happen to what it keeps its bytes in.
pub trait Ground: Sized {
    /// The engine.
    type Store: Store;

    /// Whether another process may take over from one that lives; such a store fails for no other reason.
    const SHARED: bool;

    /// An empty one.
    fn new(seed: u64, plan: &Plan, random: &mut Random) -> Self;

    /// Opens what is here. `wall`: what the process's clock shows.
    fn open(&mut self, wall: UnixMillis) -> Result<(Self::Store, RecoveryReport), String>;

    /// Ends a process.
    fn end(&mut self, store: Self::Store, end: End, random: &mut Random);

    /// The answer of a reader.
    fn read<F: Future>(future: F) -> Result<F::Output, String>;

    /// The store gets a chance to do something, perhaps.
    fn step(&mut self, store: &Self::Store, random: &mut Random);

    /// What was handed over last becomes durable, if it can.
    fn write_and_sync(&self, store: &Self::Store);

    /// Nothing is on its way any more.
    fn settle(&self, store: &Self::Store);

    /// What the store noticed since the last call.
    fn notices(_store: &Self::Store) -> Vec<Notice> {
        Vec::new()
    }

    /// Something fails from now on, for a while or until [`Ground::heal`]. Says whether reads do.
    fn fail(&mut self, what: Failing) -> bool;

    /// New messages find no room until [`Ground::heal`]: no more than so many bytes are left, or what was handed over does not
    /// become durable.
    fn fill(&mut self, left: u64);

    /// Nothing fails any more.
    fn heal(&mut self);

    /// While no store is open.
    fn harm_index(&mut self, _harm: IndexHarm, _random: &mut Random) {}

    /// The process that has the store open does not move from now on; [`Ground::open`] makes it the one before.
    fn stop(&mut self) {}

    /// The process before goes on.
    fn go_on(&mut self) {}

    /// Waits until the process before has learned that it was overtaken; false if it does not.
    fn learns_of_it(&self, _store: &Self::Store) -> bool {
        true
    }
}
