//! Deterministic simulation: one shard on a simulated store, clients of every temper, and faults at any moment, all from
//! one seed. A naive model judges what clients can tell.
//!
//! In: a seed and a [`Plan`]. Out: a [`Report`], or the [`Violation`] with the seed that shows it. The same seed gives the
//! same bytes: [`Report::hash`] covers every answer in order.
//!
//! What is checked, on every step and cheaply; checks draw no randomness, so that they do not change the run:
//! - nothing acknowledged is lost: sends, acks, changes of invisibility (after every crash and at the end),
//! - nothing is delivered that was not sent, or before it is durable; bodies are compared,
//! - a message has at most one live handle per group within an epoch, and a live one is accepted,
//! - attempts grow by one, and go back only across a crash,
//! - what a consumer that keeps its own place has committed past is not delivered to its group again; a commit forward only
//!   brings nothing back,
//! - a poll for retries alone brings nothing that was never delivered,
//! - a polled half message is one producer's at a time, and ended by nobody whose time is over; it is offered until it ends,
//! - a group with queue-based and message-based members skips nothing: what a member passes over somebody has, or had; whose a
//!   locked or pulled queue is nobody else gets it; what a member was told to have committed stays so, and what it sent back
//!   comes again, whichever kind of member is left; in order, nothing is pulled behind what is in flight,
//! - nothing is delivered before it is due, or after it was recalled; at rest nothing that is due still waits,
//! - a half message is handed out only once a commit was answered, or a crash took the answer; however often its transaction is
//!   ended, one end counts and the others are told so; checks come neither early nor after the end,
//! - no poll waits while there is a visible message for it, nor a pull while there is something to read,
//! - how old the backlog of lite topics is, as found by a look at few, is what a look at all says, at any moment and through resets,
//! - at the end the backlog is zero, dead letters are there once, and deletion leaves nothing in the store.
//!
//! The same is played on the object engine ([`bucket::Objects`]), where another process takes the shard over now and then from one
//! that lives: what that one answers since was asked before. [`bucket`] has another simulation, of that engine alone.
//!
//! Layout: `run` plays clients, clock and faults, a module for each kind of them, on a [`Ground`]; `judge`, `transactions` and `halves` are the
//! model (`judge::queues` of queue-based consumption); [`faults`] names and counts what goes wrong.

pub mod bucket;
pub mod faults;
mod ground;
mod halves;
mod judge;
mod run;
mod transactions;

pub use faults::{Fault, FaultCounts};
pub use ground::{Disk, Ground};
pub use run::run;

/// A build that is broken on purpose, to show that the simulation would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Answers leave before the sync.
    ReleaseBeforeSync,
    /// Segments are deleted before the manifest that does without them is durable.
    DeleteTooEarly,
    /// The index forgets entries and nothing notices.
    LossyIndexKey,
    /// On the object engine: the store lets anybody create what exists.
    WithoutFencing,
}

/// How a seed is played.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Steps before the drain.
    pub steps: u64,
    /// Fewest faults; more come as the seed likes.
    pub faults_min: u64,
    /// A broken build.
    pub broken: Option<Broken>,
    /// Print every step.
    pub trace: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self { steps: 2_000, faults_min: 5, broken: None, trace: false }
    }
}

/// What one seed, or many, came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Seeds played.
    pub seeds: u64,
    /// Steps, drains included.
    pub steps: u64,
    /// Faults by kind.
    pub faults: FaultCounts,
    /// Messages acknowledged.
    pub sent: u64,
    /// Messages sent again and recognised, or stored at last.
    pub again: u64,
    /// Messages handed out.
    pub delivered: u64,
    /// Times a group was moved in a lite topic.
    pub reset: u64,
    /// Lite topics whose oldest message turned out to be younger than was noted.
    pub looked_at: u64,
    /// Messages pulled by queue-based members.
    pub pulled: u64,
    /// Messages acked.
    pub acked: u64,
    /// Delayed messages that were stopped.
    pub recalled: u64,
    /// Half messages acknowledged.
    pub halves: u64,
    /// Ends of transactions that were answered OK.
    pub ended: u64,
    /// Ends of transactions that were refused: ended the other way before.
    pub ends_refused: u64,
    /// Checks of transactions.
    pub checks: u64,
    /// Times a polled half message was taken.
    pub taken: u64,
    /// Ends of polled half messages that came too late.
    pub stale: u64,
    /// Commits of consumers that keep their own place.
    pub committed: u64,
    /// Processes that others took over from while they lived.
    pub overtaken: u64,
    /// Dead letters found at the end.
    pub dead_letters: u64,
    /// Hash of everything that was answered, in order.
    pub hash: u64,
}

impl Report {
    /// Adds another report's figures.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.steps += other.steps;
        self.faults.add(&other.faults);
        self.sent += other.sent;
        self.again += other.again;
        self.delivered += other.delivered;
        self.reset += other.reset;
        self.looked_at += other.looked_at;
        self.pulled += other.pulled;
        self.acked += other.acked;
        self.recalled += other.recalled;
        self.halves += other.halves;
        self.ended += other.ended;
        self.ends_refused += other.ends_refused;
        self.checks += other.checks;
        self.taken += other.taken;
        self.stale += other.stale;
        self.committed += other.committed;
        self.overtaken += other.overtaken;
        self.dead_letters += other.dead_letters;
        self.hash ^= other.hash;
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The seed that shows it.
    pub seed: u64,
    /// The step in which it was noticed.
    pub step: u64,
    /// What happened.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, step, what } = self;
        write!(
            f,
            "seed {seed}, step {step}: {what}\nreplay: cargo run --release -p martlet-sim -- --seed {seed} --trace"
        )
    }
}

impl std::error::Error for Violation {}
