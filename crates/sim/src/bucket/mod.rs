//! Processes that take a shard in a bucket over from each other: one owner, zombies that do not know it yet, openings that
//! die halfway, and an object store that is slow, fails and loses answers, all from one seed.
//!
//! The engine runs on the database's own threads and timers, so one seed plays the same schedule each time but not the same
//! interleaving: what is checked holds in all of them.
//!
//! - What an owner reported durable is there for every later one; what is there was handed over, in order, without a gap.
//! - An opened store reads like the model after exactly those batches.
//! - Nothing that an owner hands over after it was overtaken becomes durable, and it learns that it was overtaken: it fails, and says why.
//! - A process whose requests fail for a while, or wait, goes on by itself.

mod faults;
mod objects;

pub use objects::Objects;

use crate::Violation;
use faults::{Network, Reached};
use martlet_bucket::{Bucket, Location, Scheme};
use martlet_model::UnixMillis;
use martlet_store::conformance::{Batches, Bell, Model, Random, block_on};
use martlet_store::object::{BucketOptions, BucketStore};
use martlet_store::{Batch, Op, Reader, Store, Ticket};
use object_store::memory::InMemory;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

/// How often a process looks whether it still owns the shard.
const MANIFEST_POLL: Duration = Duration::from_millis(10);
/// 2027: the wall clock of the first process.
const START: i64 = 1_800_000_000_000;
const HOUR: i64 = 3_600_000;
/// Written with every batch: how many there were.
const COUNT: &[u8] = b"count";
/// Openings that may fail one after the other.
const OPENINGS: u32 = 50;

/// How a seed is played.
#[derive(Clone, Copy, Debug)]
pub struct BucketPlan {
    /// Steps before the end.
    pub steps: u64,
    /// A build without fencing: the store lets anybody create what exists.
    pub without_fencing: bool,
    /// Print every step.
    pub trace: bool,
}

impl Default for BucketPlan {
    fn default() -> Self {
        Self { steps: 60, without_fencing: false, trace: false }
    }
}

/// What one seed, or many, came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketReport {
    /// Seeds played.
    pub seeds: u64,
    /// Batches handed to an owner.
    pub batches: u64,
    /// Stores opened.
    pub openings: u64,
    /// Openings that died or failed.
    pub failed_openings: u64,
    /// Owners that were overtaken alive.
    pub zombies: u64,
    /// Of these, those that were asked what they know of it.
    pub buried: u64,
    /// And those that said that somebody has taken over.
    pub told_why: u64,
    /// Owners that were killed.
    pub killed: u64,
    /// Owners that were closed.
    pub closed: u64,
    /// Networks that were cut for a while.
    pub cuts: u64,
    /// Requests that were slow, failed, or lost their answer.
    pub faults: u64,
}

impl BucketReport {
    /// Adds another report's figures.
    pub fn add(&mut self, other: &Self) {
        self.seeds += other.seeds;
        self.batches += other.batches;
        self.openings += other.openings;
        self.failed_openings += other.failed_openings;
        self.zombies += other.zombies;
        self.buried += other.buried;
        self.told_why += other.told_why;
        self.killed += other.killed;
        self.closed += other.closed;
        self.cuts += other.cuts;
        self.faults += other.faults;
    }
}

impl std::fmt::Display for BucketReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seeds, batches, openings, failed_openings, zombies, buried, told_why, killed, closed, cuts, faults } =
            self;
        write!(
            f,
            "{seeds} seeds, {batches} batches, {openings} openings and {failed_openings} that failed, {zombies} owners overtaken alive \
             ({told_why} of {buried} said so), \
             {killed} killed, {closed} closed, {cuts} cuts, {faults} requests with a fault"
        )
    }
}

/// Plays a seed to its end.
pub fn run(seed: u64, plan: BucketPlan) -> Result<BucketReport, Violation> {
    let mut run = Run::new(seed, plan);
    match run.play() {
        Ok(()) => Ok(BucketReport { seeds: 1, ..std::mem::take(&mut run.report) }),
        Err(what) => Err(Violation { seed, step: run.step, what }),
    }
}

type Verdict = Result<(), String>;

/// A process that has the shard open, or had.
struct Process {
    number: u64,
    store: BucketStore,
    network: Arc<Network>,
    bell: Arc<Bell>,
    /// Batches that were there when it opened.
    base: u64,
    /// Of what it handed over, so much may be durable: all, until it is overtaken.
    limit: u64,
}

impl Process {
    fn durable(&self) -> u64 {
        self.store.progress().durable.0
    }

    /// Nothing beyond what its successor found is durable.
    fn check_limit(&self) -> Verdict {
        let durable = self.durable();
        if durable <= self.limit {
            return Ok(());
        }
        let Self { number, limit, .. } = self;
        Err(format!("process {number} says that batch {durable} of its own is durable; its successor found {limit}"))
    }
}

struct Run {
    plan: BucketPlan,
    random: Random,
    seed: u64,
    step: u64,
    report: BucketReport,
    objects: Arc<InMemory>,
    location: Location,
    batches: Batches,
    /// What was there when the owner opened.
    opened_with: Model,
    /// What the owner was handed.
    handed: Vec<Batch>,
    /// The two together.
    model: Model,
    owner: Option<Process>,
    zombies: Vec<Process>,
    /// An opening that failed may have overtaken the owner all the same.
    may_be_fenced: bool,
    /// One request in so many has a fault.
    faulty: u64,
}

impl Drop for Run {
    /// Nobody is left waiting for ever, however it ended.
    fn drop(&mut self) {
        self.owner.iter().chain(&self.zombies).for_each(|process| process.network.go_on());
    }
}

impl Run {
    fn new(seed: u64, plan: BucketPlan) -> Self {
        let mut random = Random::new(seed ^ 0xb0c4_e700);
        Self {
            plan,
            seed,
            step: 0,
            report: BucketReport::default(),
            objects: Arc::default(),
            location: Location { scheme: Scheme::Memory, bucket: String::new(), prefix: String::new() },
            batches: Batches::new(seed),
            opened_with: Model::default(),
            handed: Vec::new(),
            model: Model::default(),
            owner: None,
            zombies: Vec::new(),
            may_be_fenced: false,
            faulty: [0, 100, 20][random.below(3) as usize],
            random,
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.plan.trace {
            println!("{:4} {}", self.step, what());
        }
    }

    fn play(&mut self) -> Verdict {
        self.open()?;
        while self.step < self.plan.steps {
            self.step += 1;
            self.one_step()?;
        }
        self.wait_for_all()?;
        self.compare()?;
        for zombie in std::mem::take(&mut self.zombies) {
            self.bury(zombie)?;
        }
        self.close()?;
        self.open()?;
        self.compare()
    }

    fn one_step(&mut self) -> Verdict {
        match self.random.below(100) {
            0..=54 => self.commit(),
            55..=69 => self.wait_for_all(),
            70..=75 => self.compare(),
            // Somebody else takes over from an owner that runs, or is stopped in the middle of something.
            76..=82 => {
                if let Some(owner) = &self.owner
                    && self.random.one_in(2)
                {
                    self.say(|| format!("process {} is stopped", owner.number));
                    owner.network.stop();
                }
                self.open()
            }
            83..=86 => self.kill(),
            87..=89 => self.half_an_opening(),
            90..=91 => {
                self.close()?;
                self.open()
            }
            92..=93 => self.cut(),
            _ => self.stir_a_zombie(),
        }
    }

    fn commit(&mut self) -> Verdict {
        if self.owner.as_ref().is_none_or(|owner| owner.store.progress().failed.is_some()) {
            return self.after_failure();
        }
        let batch = self.next_batch();
        self.model.apply(&batch);
        self.report.batches += 1;
        self.handed.push(batch.clone());
        if let Some(owner) = &mut self.owner {
            let ticket = owner.store.commit(batch);
            if ticket != Ticket(self.handed.len() as u64) {
                return Err(format!(
                    "{ticket:?} was given for batch {} of process {}",
                    self.handed.len(),
                    owner.number
                ));
            }
        }
        Ok(())
    }

    fn next_batch(&mut self) -> Batch {
        let mut batch = self.batches.next(&self.model);
        let count = self.base() + self.handed.len() as u64 + 1;
        let image = count.to_be_bytes().to_vec().into();
        batch.ops.push(Op::Put { key: COUNT.into(), image, keep_until: None });
        batch
    }

    fn base(&self) -> u64 {
        self.owner.as_ref().map_or(0, |owner| owner.base)
    }

    /// The owner says that it has failed: only somebody who takes over is a reason.
    fn after_failure(&mut self) -> Verdict {
        let Some(owner) = &self.owner else { return self.open() };
        let Some(failure) = owner.store.progress().failed else { return Ok(()) };
        if !self.may_be_fenced {
            return Err(format!("process {} has failed: {failure}", owner.number));
        }
        self.open()
    }

    fn wait_for_all(&mut self) -> Verdict {
        let Some(owner) = &self.owner else { return Ok(()) };
        let all = self.handed.len() as u64;
        let ended = || owner.durable() >= all || owner.store.progress().failed.is_some();
        if !owner.bell.wait_until(ended) {
            return Err(format!(
                "process {} has made {} of {all} batches durable, and no more",
                owner.number,
                owner.durable()
            ));
        }
        if owner.store.progress().failed.is_some() { self.after_failure() } else { Ok(()) }
    }

    /// The owner's store reads like the model, batches that are not durable included.
    fn compare(&mut self) -> Verdict {
        let Some(owner) = &self.owner else { return Ok(()) };
        if owner.store.progress().failed.is_some() {
            return self.after_failure();
        }
        let Err(error) = self.model.compare(&owner.store.reader()) else { return Ok(()) };
        // One that is overtaken meanwhile may answer that it is closed before it says that it has failed.
        if self.may_be_fenced
            && error.contains("closed")
            && owner.bell.wait_until(|| owner.store.progress().failed.is_some())
        {
            return self.after_failure();
        }
        Err(format!("process {}: {error}", owner.number))
    }

    fn kill(&mut self) -> Verdict {
        if let Some(owner) = self.owner.take() {
            self.say(|| format!("process {} is killed", owner.number));
            owner.network.die();
            self.report.killed += 1;
            // What was durable when it died, and nothing is more now.
            let durable = owner.durable();
            self.report.faults += owner.network.faults.load(SeqCst);
            let base = owner.base;
            drop(owner);
            return self.open_after(base, durable);
        }
        self.open()
    }

    /// The owner ends in order: all that was handed over is there.
    fn close(&mut self) -> Verdict {
        let Some(owner) = self.owner.take() else { return Ok(()) };
        self.say(|| format!("process {} is closed", owner.number));
        let (number, base, all) = (owner.number, owner.base, self.handed.len() as u64);
        let progress = owner.store.close();
        self.report.faults += owner.network.faults.load(SeqCst);
        self.report.closed += 1;
        match &progress.failed {
            Some(failure) if !self.may_be_fenced => {
                return Err(format!("process {number} failed when it was closed: {failure}"));
            }
            None if progress.durable.0 < all => {
                return Err(format!("process {number} was closed with {} of {all} batches", progress.durable.0));
            }
            _ => {}
        }
        self.open_after(base, progress.durable.0)?;
        Ok(())
    }

    fn cut(&mut self) -> Verdict {
        if let Some(owner) = &self.owner {
            self.say(|| format!("process {} is cut off", owner.number));
            owner.network.cut.store(true, SeqCst);
            self.report.cuts += 1;
        }
        for _ in 0..self.random.below(4) {
            self.commit()?;
        }
        if let Some(owner) = &self.owner {
            owner.network.cut.store(false, SeqCst);
        }
        Ok(())
    }

    /// A process that has been overtaken goes on, and writes.
    fn stir_a_zombie(&mut self) -> Verdict {
        if self.zombies.is_empty() {
            return Ok(());
        }
        let at = self.random.below(self.zombies.len() as u64) as usize;
        let zombie = self.zombies.swap_remove(at);
        if self.random.one_in(2) {
            return self.bury(zombie);
        }
        self.zombies.push(zombie);
        let (batch, at) = (self.next_batch(), self.zombies.len() - 1);
        let zombie = &mut self.zombies[at];
        zombie.network.go_on();
        zombie.store.commit(batch);
        zombie.check_limit()
    }

    /// One that was overtaken learns it, and nothing of what it did since is there.
    fn bury(&mut self, mut zombie: Process) -> Verdict {
        self.say(|| format!("process {} goes on", zombie.number));
        zombie.network.go_on();
        let batch = self.next_batch();
        let ticket = zombie.store.commit(batch);
        let (bell, number) = (zombie.bell.clone(), zombie.number);
        if !bell.wait_until(|| zombie.store.progress().failed.is_some() || zombie.durable() >= ticket.0) {
            return Err(format!("process {number} was overtaken and does not learn it"));
        }
        zombie.check_limit()?;
        // The database ends in disorder now and then when it is fenced amid its work: that it ends is what matters.
        let failure = zombie.store.progress().failed.map(|failure| failure.to_string()).unwrap_or_default();
        self.report.told_why += u64::from(failure.contains("another process has taken the shard over"));
        self.report.buried += 1;
        self.report.faults += zombie.network.faults.load(SeqCst);
        zombie.store.close();
        Ok(())
    }

    /// A process begins to open the shard and dies over it.
    fn half_an_opening(&mut self) -> Verdict {
        let left = 1 + self.random.below(40);
        if let Ok(process) = self.begin(left) {
            if process.network.left.swap(u64::MAX, SeqCst) > 0 {
                // It had done all it needed.
                return self.succeed(process);
            }
            process.network.die();
        }
        self.say(|| format!("an opening died after {left} requests"));
        self.report.failed_openings += 1;
        self.may_be_fenced = true;
        Ok(())
    }

    fn open(&mut self) -> Verdict {
        let (base, durable) = self.owner.as_ref().map_or((0, 0), |owner| (owner.base, owner.durable()));
        self.open_after(base, durable)
    }

    fn open_after(&mut self, base: u64, durable: u64) -> Verdict {
        let mut last = String::new();
        for _ in 0..OPENINGS {
            match self.begin(u64::MAX) {
                Ok(process) => return self.succeed_after(process, base, durable),
                Err(error) => {
                    self.say(|| format!("an opening failed: {error}"));
                    last = error;
                    self.report.failed_openings += 1;
                    self.may_be_fenced = true;
                }
            }
        }
        Err(format!("{OPENINGS} openings failed, the last one with: {last}"))
    }

    fn succeed(&mut self, process: Process) -> Verdict {
        let (base, durable) = self.owner.as_ref().map_or((0, 0), |owner| (owner.base, owner.durable()));
        self.succeed_after(process, base, durable)
    }

    /// A process with the shard open, that dies after so many requests.
    fn begin(&mut self, left: u64) -> Result<Process, String> {
        let number = self.report.openings + self.report.failed_openings;
        let network = Arc::new(Network::new(self.seed ^ (number << 32)));
        let bell = Arc::<Bell>::default();
        let reached = Reached { objects: self.objects.clone(), network: network.clone() };
        let name = format!("{number}");
        let bucket = Bucket::of_store(self.location.clone(), Arc::new(reached), &name);
        let bucket = bucket.map_err(|error| error.to_string())?;
        // Only now: the bucket's own check would notice.
        network.creates_twice.store(self.plan.without_fencing, SeqCst);
        network.faulty.store(self.faulty, SeqCst);
        network.left.store(left, SeqCst);
        let off = [0, 0, HOUR, -HOUR][self.random.below(4) as usize];
        let options = BucketOptions {
            flush_interval: Duration::from_millis(self.random.below(3)),
            table_bytes: [2 << 10, 16 << 10, 1 << 20][self.random.below(3) as usize],
            compaction_poll: Duration::from_millis(10),
            look_after_every: Duration::from_millis(10),
            manifest_poll: MANIFEST_POLL,
            wall: Some(UnixMillis(START + off)),
            ..BucketOptions::new(bucket, "shard-0", bell.waker())
        };
        let (store, _) = BucketStore::open(options).map_err(|error| error.to_string())?;
        Ok(Process { number, store, network, bell, base: 0, limit: u64::MAX })
    }

    /// Somebody else is the owner now: looks at what it found, and at what the one before says.
    fn succeed_after(&mut self, mut process: Process, base: u64, durable: u64) -> Verdict {
        self.report.openings += 1;
        let number = process.number;
        let found =
            block_on(process.store.reader().get(COUNT)).map_err(|error| format!("process {number}: {error}"))?;
        let found = found.and_then(|state| state.image);
        let count = found.as_deref().and_then(|image| image.try_into().ok()).map_or(0, u64::from_be_bytes);
        self.say(|| {
            format!(
                "process {number} opens and finds {count} batches, of {base} and {durable} to {}",
                self.handed.len()
            )
        });
        // What became durable until now counts, too.
        let durable = self.owner.as_ref().map_or(durable, Process::durable).max(durable);
        if count < base + durable {
            return Err(format!("process {number} found {count} batches; {} were durable", base + durable));
        }
        let survived = count - base;
        if survived > self.handed.len() as u64 {
            return Err(format!(
                "process {number} found {count} batches; there were {}",
                base + self.handed.len() as u64
            ));
        }
        let mut model = self.opened_with.clone();
        self.handed.iter().take(survived as usize).for_each(|batch| model.apply(batch));
        model
            .compare(&process.store.reader())
            .map_err(|error| format!("process {number} after {count} batches: {error}"))?;
        if let Some(mut owner) = self.owner.take() {
            owner.limit = survived;
            self.report.zombies += 1;
            self.zombies.push(owner);
        }
        for zombie in &self.zombies {
            zombie.check_limit()?;
        }
        process.base = count;
        self.opened_with = model.clone();
        self.model = model;
        self.handed.clear();
        self.may_be_fenced = false;
        self.owner = Some(process);
        Ok(())
    }
}
