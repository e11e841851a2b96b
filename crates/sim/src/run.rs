//! One seed: the shard on its store, the clock, and what happens when.

use crate::faults::{FAULTS, Fault};
use crate::ground::{End, Failing, Ground, IndexHarm};
use crate::halves::Taking;
use crate::judge::{Judge, Message, MessageNumber, Sent, Verdict};
use crate::{Plan, Report, Violation};
use martlet_model::handle::ReceiptHandle;
use martlet_model::{Filter, GroupId, QueueId, QueueOffset, RetryBackoff, TagFilter, TopicId, UnixMillis, record};
use martlet_shard::{
    Command, DeadLetters, GroupFacts, HandOut, LiteGroup, LiteParent, Load, LoadId, Output, Placed, ShardClock,
    ShardLoop, ShardOptions, TopicFacts, execute,
};
use martlet_store::conformance::Random;
use martlet_store::{Notice, Reader, RecoveryReport, Room, Store};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

mod again;
mod answers;
mod catalog;
mod clients;
mod commits;
mod drain;
mod halves;
mod levels;
mod lite;
mod members;
mod open;
mod overtaken;
mod strike;
#[cfg(test)]
mod tests;
mod transactions;

pub use again::Again;
use catalog::{Group, Topic};
use clients::Client;
use halves::Halves;
use members::Member;
pub use transactions::INTERVAL_MILLIS;

const START: UnixMillis = UnixMillis(1_800_000_000_000);
/// Messages older than this may have been dropped by retention.
const SAFE_AGE_MILLIS: i64 = 70 * 3_600_000;
/// For how long topics that do so recognise message ids.
const WINDOW_MILLIS: i64 = 3_600_000;
const TAGS: [&str; 4] = ["a", "b", "c", ""];

/// The reading side of the store.
type ReaderOf<G> = <<G as Ground>::Store as Store>::Reader;

/// Plays a seed on this ground to its end.
pub fn run<G: Ground>(seed: u64, plan: Plan) -> Result<Report, Violation> {
    let mut run = Run::<G>::new(seed, plan);
    match run.play() {
        Ok(()) => Ok(Report { seeds: 1, steps: run.step, hash: run.hash.0, ..run.report }),
        Err(what) => Err(Violation { seed, step: run.step, what }),
    }
}

/// What a command without an answer was.
enum Pending {
    Catalog,
    Send(Vec<MessageNumber>),
    SendAgain(MessageNumber),
    Recall(MessageNumber),
    Half(MessageNumber),
    End {
        number: MessageNumber,
        commit: bool,
    },
    TakeHalf(Taking),
    EndTaken {
        number: MessageNumber,
        commit: bool,
        until: UnixMillis,
        stale: bool,
    },
    Receive {
        client: usize,
        life: u32,
        group: GroupId,
        topic: TopicId,
        invisible_millis: i64,
        renewed_for: Option<u64>,
        batch: u32,
        retries_only: bool,
    },
    Settle(Vec<(ReceiptHandle, MessageNumber)>),
    Change {
        handle: ReceiptHandle,
        number: MessageNumber,
        millis: i64,
        at: UnixMillis,
    },
    SyncLite {
        client: usize,
        life: u32,
        at: UnixMillis,
    },
    ResetLite {
        group: GroupId,
        key: Option<u64>,
    },
    Describe,
    Commit {
        group: GroupId,
        past: QueueOffset,
        below: Vec<MessageNumber>,
    },
    Member(members::Asked),
    CommitForward {
        group: GroupId,
        below: Vec<MessageNumber>,
    },
}

/// FNV-1a over everything that is said.
struct Hash(u64);

impl std::fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

struct Run<G: Ground> {
    plan: Plan,
    random: Random,
    report: Report,
    hash: Hash,
    step: u64,

    ground: G,
    resident_max: usize,
    recent_groups_max: usize,
    shard: Option<ShardLoop<G::Store, u64>>,
    /// While another process has taken the store over from the shard: the first question asked since.
    overtaken: Option<u64>,
    clock: ShardClock,
    wall_offset: i64,
    monotonic: i64,
    now: UnixMillis,
    next_wakeup: Option<UnixMillis>,
    /// One in so many chances the store gets a step.
    slowness: u64,
    reads_fail: bool,
    /// Until then it is not known what is visible: reads failed, and undos with them.
    blind_until: UnixMillis,
    /// Until then what is due may wait: the shard saw the disk full.
    late_until: UnixMillis,

    judge: Judge,
    topics: Vec<Topic>,
    groups: Vec<Group>,
    clients: Vec<Client>,
    halves: Halves,
    members: Vec<Member>,
    dropped_topics: Vec<TopicId>,
    dropped_groups: Vec<GroupId>,
    next_id: u32,
    queue_ids: BTreeMap<(TopicId, u32), QueueId>,

    inbox: Vec<Command<u64>>,
    pending: BTreeMap<u64, Pending>,
    loads: Vec<(LoadId, Load)>,
    next_token: u64,
    described: Option<(u64, u64)>,
    /// Places of the messages of the reply that is being looked at.
    in_reply: Vec<(QueueId, QueueOffset)>,
    /// What the client that drains is to ack of it.
    drained: Vec<(ReceiptHandle, MessageNumber)>,
    /// Levels of a topic by priority that have something for a group and got nothing.
    passed_over: BTreeMap<(GroupId, TopicId, u32), levels::PassedOver>,
}

impl<G: Ground> Run<G> {
    fn new(seed: u64, plan: Plan) -> Self {
        let mut random = Random::new(seed);
        let ground = G::new(seed, &plan, &mut random);
        let resident_max = if random.one_in(8) { 8 } else { 1_000 };
        Self {
            plan,
            random,
            report: Report::default(),
            hash: Hash(0xcbf2_9ce4_8422_2325),
            step: 0,
            ground,
            resident_max,
            recent_groups_max: 10_000,
            shard: None,
            overtaken: None,
            clock: ShardClock::start(START, UnixMillis(0), 0),
            wall_offset: 0,
            monotonic: 0,
            now: START,
            next_wakeup: None,
            slowness: 1,
            reads_fail: false,
            blind_until: UnixMillis(0),
            late_until: UnixMillis(0),
            judge: Judge::default(),
            topics: Vec::new(),
            groups: Vec::new(),
            clients: Vec::new(),
            halves: Halves::default(),
            members: (0..members::MEMBERS).map(|_| Member::default()).collect(),
            dropped_topics: Vec::new(),
            dropped_groups: Vec::new(),
            next_id: 1,
            queue_ids: BTreeMap::new(),
            inbox: Vec::new(),
            pending: BTreeMap::new(),
            loads: Vec::new(),
            next_token: 0,
            described: None,
            in_reply: Vec::new(),
            drained: Vec::new(),
            passed_over: BTreeMap::new(),
        }
    }

    fn play(&mut self) -> Verdict {
        self.recent_groups_max = [0, 20, 10_000][self.random.below(3) as usize];
        self.open()?;
        for index in 0..3 {
            let topic = self.new_topic(index);
            self.topics.push(topic);
        }
        for index in 0..5 {
            let group = self.new_group(index);
            self.groups.push(group);
        }
        self.clients = (0..6).map(|number| Client::new(number, number as usize % 3)).collect();
        let lite = lite::FIRST_CLIENT..lite::FIRST_CLIENT + lite::CLIENTS;
        self.clients.extend(lite.map(|number| Client::new(number, lite::GROUP)));
        let mixed = members::FIRST_CLIENT..members::FIRST_CLIENT + members::CLIENTS;
        self.clients.extend(mixed.map(|number| Client::new(number, members::GROUP)));
        self.apply_catalog();
        self.pump()?;
        while self.step < self.plan.steps || self.report.faults.total() < self.plan.faults_min {
            self.step += 1;
            self.one_step()?;
        }
        self.drain()
    }

    fn one_step(&mut self) -> Verdict {
        match self.random.below(1000) {
            0..=3 => {
                let (fault, _) = FAULTS[self.random.below(FAULTS.len() as u64) as usize];
                self.strike(fault)?;
            }
            4..=14 => self.recall(),
            15..=31 => self.end_some(),
            32..=43 => self.poll_halves(),
            44 => self.commit_forward(),
            45..=47 => self.commit(),
            48..=57 => self.send_again(),
            58..=249 => self.produce(),
            250..=699 => {
                // Members act more often: a pull and a commit settle many messages.
                let count = (self.clients.len() + 2 * members::MEMBERS) as u64;
                let client = self.random.below(count) as usize;
                if client >= self.clients.len() {
                    self.act_as_member();
                    return self.go_on();
                }
                match self.clients[client].group == lite::GROUP && self.random.one_in(6) {
                    true => self.sync_lite(client),
                    false => self.act(client),
                }
            }
            700..=899 => {
                let millis = match self.random.below(40) {
                    0 => self.random.below(90_000),
                    1..=8 => self.random.below(6_000),
                    _ => self.random.below(40),
                };
                self.monotonic += millis as i64;
                self.subscribe(false);
            }
            991..=994 => self.look_at_ages()?,
            995..=999 => self.reset_lite(),
            _ => self.slowness = if self.random.below(20) == 0 { 12 } else { 1 },
        }
        self.go_on()
    }

    /// The store and the shard get a chance.
    fn go_on(&mut self) -> Verdict {
        if self.random.below(self.slowness) == 0
            && let Some(shard) = &self.shard
        {
            self.ground.step(shard.store(), &mut self.random);
        }
        if self.random.below(3) > 0 {
            self.turn(false)?;
        }
        Ok(())
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.plan.trace {
            println!("{:6} {} {}", self.step, self.now.since(START), what());
        }
    }

    fn step_store(&mut self) {
        if let Some(shard) = &self.shard {
            self.ground.write_and_sync(shard.store());
        }
    }

    fn ask(&mut self, pending: Pending, command: impl FnOnce(u64) -> Command<u64>) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.pending.insert(token, pending);
        self.inbox.push(command(token));
        token
    }

    fn turn(&mut self, all_loads: bool) -> Verdict {
        let Some(reader) = self.reader() else { return Ok(()) };
        let mut commands = Vec::new();
        let mut at = 0;
        while at < self.loads.len() {
            if all_loads || self.random.below(3) > 0 {
                let (id, load) = self.loads.remove(at);
                let result = G::read(execute(&reader, &load))?;
                if let (Err(error), false) = (&result, self.reads_fail) {
                    return Err(format!("{load:?}: {error}"));
                }
                commands.push(Command::Loaded { id, result });
            } else {
                at += 1;
            }
        }
        commands.append(&mut self.inbox);
        self.now = self.clock.read(START.plus(self.monotonic + self.wall_offset), self.monotonic);
        let (now, paused) = (self.now, self.clock.pauses_deletion());
        let Some(shard) = &mut self.shard else { return Ok(()) };
        if shard.store().room() != Room::Open {
            // What is due is tried again a second after.
            self.late_until = now.plus(2_000);
        }
        let turn = shard.turn(now, paused, commands);
        let notices = G::notices(shard.store());
        let epoch = shard.shard().epoch();
        self.loads.extend(turn.loads);
        self.next_wakeup = turn.next_wakeup;
        for check in &turn.checks {
            let _ = write!(self.hash, "{check:?}");
            self.say(|| format!("{check:?}"));
        }
        self.check_all(turn.checks, epoch)?;
        for (token, output) in turn.replies {
            self.may_answer(token, &output)?;
            let _ = write!(self.hash, "{token} {output:?}");
            self.say(|| format!("{token} {output:?}"));
            self.answered(token, output, epoch, &reader)?;
        }
        for notice in notices {
            match notice {
                Notice::IndexFailed { .. } | Notice::LeftBehind { .. } => {}
                other => return Err(format!("the store noticed {other:?}")),
            }
        }
        if let Some(failure) = turn.failed {
            self.say(|| format!("the store failed: {failure}"));
            if self.overtaken.is_some() {
                return Ok(());
            }
            if G::SHARED {
                return Err(format!("the store failed, and nobody has taken it over: {failure}"));
            }
            let end = if self.random.one_in(2) { End::Crash } else { End::Exit };
            self.restart(end)?;
        }
        if self.step.is_multiple_of(8) && self.overtaken.is_none() {
            self.check_visible()?;
        }
        Ok(())
    }

    /// At rest, and unless what is needed cannot be read, no poll waits while there is a visible message for it, nor a pull while
    /// there is something to read.
    fn check_visible(&self) -> Verdict {
        let Some(shard) = &self.shard else { return Ok(()) };
        let rests = shard.is_idle() && self.loads.is_empty() && self.inbox.is_empty();
        let due = self.next_wakeup.is_some_and(|at| at <= self.now);
        if !rests || due || self.reads_fail || self.now < self.blind_until {
            return Ok(());
        }
        let epoch = shard.shard().epoch();
        self.no_pull_waits(epoch)?;
        for client in self.clients.iter().filter(|client| client.polling.is_some()) {
            let group = &self.groups[client.group];
            let topic = self.topics[group.topic].facts.id;
            if client.polling != Some((group.facts.id, topic)) {
                continue;
            }
            let (id, max) = (group.facts.id, group.facts.max_attempts);
            let late = self.now < self.late_until;
            let filter = group.filter_of(client.number);
            let is_lite = group.facts.lite.is_some();
            let wants = |number: MessageNumber, message: &Message| {
                let wanted = !client.retries_only || self.judge.is_known_to(id, number);
                let wanted = wanted && (client.group != members::GROUP || self.is_nobodys(id, number, message));
                let subscribed = !is_lite || client.said.is_sure(message.key, self.now) && self.is_kept(message);
                wanted && subscribed && filter.wants(message.tag) && (message.due.is_none() || !late)
            };
            let ordered = group.facts.ordered || is_lite;
            if let Some(number) = self.judge.visible(id, topic, max, epoch, self.now, ordered, wants) {
                let track = self.judge.tracks.get(&id).and_then(|tracks| tracks.get(&number));
                return Err(format!(
                    "client {} of {id:?} waits although message {number} is visible: {:?}, {track:?} at {:?}",
                    client.number, self.judge.messages[number as usize], self.now
                ));
            }
        }
        Ok(())
    }

    /// Turns until nothing is left to do at this time.
    fn pump(&mut self) -> Verdict {
        for _ in 0..2_000 {
            self.step += 1;
            self.turn(true)?;
            let Some(shard) = &self.shard else { return Ok(()) };
            self.ground.settle(shard.store());
            let rests = shard.is_idle() && self.loads.is_empty() && self.inbox.is_empty();
            if rests && self.next_wakeup.is_none_or(|at| at > self.now) {
                return Ok(());
            }
        }
        let idle = self.shard.as_ref().map(ShardLoop::is_idle);
        let (next, now, loads) = (self.next_wakeup, self.now, &self.loads);
        Err(format!(
            "the shard does not come to rest: idle {idle:?}, next wake-up {next:?} at {now:?}, loads {loads:?}"
        ))
    }
}
