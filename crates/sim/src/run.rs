//! One seed: the shard on its store, the clock, and what happens when.

use crate::faults::{FAULTS, Fault};
use crate::judge::{Judge, Message, MessageNumber, Sent, Verdict};
use crate::{Broken, Plan, Report, Violation};
use martlet_model::handle::ReceiptHandle;
use martlet_model::{Filter, GroupId, QueueId, QueueOffset, RetryBackoff, TagFilter, TopicId, UnixMillis, record};
use martlet_shard::{
    Command, DeadLetters, GroupFacts, HandOut, LiteGroup, LiteParent, Load, LoadId, Output, Placed, ShardClock,
    ShardLoop, ShardOptions, TopicFacts, execute,
};
use martlet_store::conformance::Random;
use martlet_store::sim::{SimOptions, SimPlace, SimReader, SimStore};
use martlet_store::{Notice, Reader, Room, Store};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

mod again;
mod clients;
mod commits;
mod drain;
mod levels;
mod lite;
#[cfg(test)]
mod tests;
mod transactions;

pub use again::Again;
use clients::Client;

const START: UnixMillis = UnixMillis(1_800_000_000_000);
/// Messages older than this may have been dropped by retention.
const SAFE_AGE_MILLIS: i64 = 70 * 3_600_000;
/// For how long topics that do so recognise message ids.
const WINDOW_MILLIS: i64 = 3_600_000;
const TAGS: [&str; 4] = ["a", "b", "c", ""];

/// Plays a seed to its end.
pub fn run(seed: u64, plan: Plan) -> Result<Report, Violation> {
    let mut run = Run::new(seed, plan);
    match run.play() {
        Ok(()) => Ok(Report { seeds: 1, steps: run.step, hash: run.hash.0, ..run.report }),
        Err(what) => Err(Violation { seed, step: run.step, what }),
    }
}

struct Topic {
    facts: TopicFacts,
}

struct Group {
    facts: GroupFacts,
    /// Index of the topic it consumes.
    topic: usize,
    /// What its members subscribe to, in turn.
    filters: Vec<MemberFilter>,
    /// When it was made.
    born: UnixMillis,
}

#[derive(Clone)]
struct MemberFilter {
    filter: Arc<Filter>,
    /// Which tags that lets pass; `None`: any, and none at all.
    tags: Option<&'static [&'static str]>,
}

impl MemberFilter {
    /// Whether a message with this tag, by its number, passes.
    fn wants(&self, tag: usize) -> bool {
        self.tags.is_none_or(|tags| tags.contains(&TAGS[tag]))
    }
}

impl Group {
    /// Whether some member wants a message with this tag.
    fn wants(&self, tag: usize) -> bool {
        self.filters.iter().any(|filter| filter.wants(tag))
    }

    /// What the client of this number subscribes to.
    fn filter_of(&self, client: u64) -> &MemberFilter {
        &self.filters[client as usize / 3 % self.filters.len()]
    }
}

/// What a command without an answer was.
enum Pending {
    Catalog,
    Send(Vec<MessageNumber>),
    SendAgain(MessageNumber),
    Recall(MessageNumber),
    Half(MessageNumber),
    End { number: MessageNumber, commit: bool },
    Receive { client: usize, life: u32, group: GroupId, topic: TopicId, renewed_for: Option<u64>, batch: u32 },
    Settle(Vec<(ReceiptHandle, MessageNumber)>),
    Change { handle: ReceiptHandle, number: MessageNumber, millis: i64, at: UnixMillis },
    SyncLite { client: usize, life: u32, at: UnixMillis },
    Describe,
    Commit { group: GroupId, past: QueueOffset, below: Vec<MessageNumber> },
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

struct Run {
    plan: Plan,
    random: Random,
    report: Report,
    hash: Hash,
    step: u64,

    place: SimPlace,
    options: SimOptions,
    resident_max: usize,
    shard: Option<ShardLoop<SimStore, u64>>,
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
    /// Levels of a topic by priority that have something for a group and got nothing.
    passed_over: BTreeMap<(GroupId, TopicId, u32), levels::PassedOver>,
}

/// Runs a future that never waits.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

impl Run {
    fn new(seed: u64, plan: Plan) -> Self {
        let mut random = Random::new(seed);
        let options = SimOptions {
            segment_bytes: [4 << 10, 16 << 10, 64 << 10][random.below(3) as usize],
            release_before_sync: plan.broken == Some(Broken::ReleaseBeforeSync),
            delete_segment_too_early: plan.broken == Some(Broken::DeleteTooEarly),
            lossy_index: if plan.broken == Some(Broken::LossyIndexKey) { 10 } else { 0 },
            ..SimOptions::default()
        };
        let resident_max = if random.one_in(8) { 8 } else { 1_000 };
        Self {
            plan,
            random,
            report: Report::default(),
            hash: Hash(0xcbf2_9ce4_8422_2325),
            step: 0,
            place: SimPlace::default(),
            options,
            resident_max,
            shard: None,
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
            passed_over: BTreeMap::new(),
        }
    }

    fn play(&mut self) -> Verdict {
        self.open()?;
        for index in 0..3 {
            let topic = self.new_topic(index);
            self.topics.push(topic);
        }
        for index in 0..4 {
            let group = self.new_group(index);
            self.groups.push(group);
        }
        self.clients = (0..6).map(|number| Client::new(number, number as usize % 3)).collect();
        let lite = lite::FIRST_CLIENT..lite::FIRST_CLIENT + lite::CLIENTS;
        self.clients.extend(lite.map(|number| Client::new(number, lite::GROUP)));
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
            15..=44 => self.end_some(),
            45..=47 => self.commit(),
            48..=57 => self.send_again(),
            58..=249 => self.produce(),
            250..=699 => {
                let client = self.random.below(self.clients.len() as u64) as usize;
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
            _ => self.slowness = if self.random.below(20) == 0 { 12 } else { 1 },
        }
        if self.random.below(self.slowness) == 0
            && let Some(shard) = &self.shard
        {
            match self.random.below(3) {
                0 => drop(shard.store().step_write()),
                1 => drop(shard.store().step_sync()),
                _ => {
                    shard.store().step_write();
                    shard.store().step_sync();
                }
            }
            if self.random.below(4) == 0 {
                shard.store().step_maintain();
            }
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

    fn strike(&mut self, fault: Fault) -> Verdict {
        self.say(|| format!("FAULT {fault:?}"));
        self.report.faults.count(fault);
        match fault {
            Fault::Crash => self.restart(true)?,
            Fault::Kill => self.restart(false)?,
            Fault::SyncError => self.place.fail(false, true, false),
            Fault::WriteError => self.place.fail(true, false, false),
            Fault::ReadError => {
                self.place.fail(false, false, true);
                self.reads_fail = true;
                for _ in 0..4 {
                    self.turn(false)?;
                }
                self.heal();
            }
            Fault::DiskFull => {
                let used: u64 = self.place.files().iter().map(|file| file.1).sum();
                self.place.set_capacity(used + self.random.below(2_000));
                for _ in 0..20 {
                    self.produce();
                    self.step_store();
                    self.turn(false)?;
                }
                self.heal();
            }
            Fault::SlowDisk => self.slowness = 40,
            Fault::ClockHour | Fault::ClockDays => {
                let by = if fault == Fault::ClockHour { 3_600_000 } else { 4 * 86_400_000 };
                self.wall_offset += if self.random.one_in(2) { by } else { -by };
                if self.random.one_in(2) {
                    let crash = self.random.one_in(2);
                    self.restart(crash)?;
                }
            }
            Fault::IndexDeleted | Fault::IndexLossy => {
                self.close(true);
                match fault {
                    Fault::IndexDeleted => self.place.delete_index(),
                    _ => self.place.lose_of_index(10, &mut self.random),
                }
                self.reopen()?;
            }
            Fault::Eviction => self.shard.iter_mut().for_each(|shard| shard.shard_mut().evict_clean()),
            Fault::ClientVanishes => {
                let client = self.random.below(self.clients.len() as u64) as usize;
                self.vanish(client);
            }
            Fault::TopicRecreated => {
                let index = self.random.below(self.topics.len() as u64) as usize;
                let topic = self.topics[index].facts.id;
                self.dropped_topics.push(topic);
                self.catalog(|token| Command::DropTopic { topic, token });
                self.topics[index] = self.new_topic(index);
                if index == lite::PARENT {
                    let parent = self.topics[index].facts.id;
                    self.groups[lite::GROUP].facts.lite.iter_mut().for_each(|lite| lite.parent = parent);
                    self.clients.iter_mut().for_each(|client| client.said.forget());
                }
                self.apply_catalog();
            }
            Fault::GroupRecreated => {
                let index = self.random.below(self.groups.len() as u64) as usize;
                let group = self.groups[index].facts.id;
                self.judge.tracks.remove(&group);
                self.dropped_groups.push(group);
                self.catalog(|token| Command::DropGroup { group, token });
                self.groups[index] = self.new_group(index);
                if index == lite::GROUP {
                    self.clients.iter_mut().for_each(|client| client.said.forget());
                }
                self.apply_catalog();
            }
        }
        Ok(())
    }

    fn heal(&mut self) {
        self.place.fail(false, false, false);
        if std::mem::take(&mut self.reads_fail) {
            self.blind_until = self.now.plus(900_000);
        }
    }

    fn step_store(&mut self) {
        if let Some(shard) = &self.shard {
            shard.store().step_write();
            shard.store().step_sync();
        }
    }

    // Catalog.

    fn new_topic(&mut self, index: usize) -> Topic {
        self.next_id += 1;
        let queues = 1 + self.random.below(3) as u32;
        let facts = TopicFacts {
            id: TopicId(self.next_id),
            name: format!("topic{index}").into(),
            read_queues: queues,
            write_queues: queues,
            retention_millis: None,
            by_priority: index != lite::PARENT && self.random.one_in(3),
            lite: (index == lite::PARENT).then_some(LiteParent {
                expire_millis: self.random.one_in(2).then_some(600_000),
                expire_unconsumed: false,
                topics_max: 100,
            }),
            deduplicate_millis: (index != lite::PARENT && self.random.one_in(2)).then_some(WINDOW_MILLIS),
        };
        Topic { facts }
    }

    fn new_group(&mut self, index: usize) -> Group {
        self.next_id += 1;
        let id = GroupId(self.next_id);
        let discards = index == 1 && self.random.one_in(2);
        let facts = GroupFacts {
            id,
            name: format!("group{index}").into(),
            max_attempts: 2 + self.random.below(6) as u32,
            backoff: RetryBackoff::default(),
            dead_letters: match discards {
                true => DeadLetters::Discard,
                false => DeadLetters::Topic(TopicId::dead_letters_of(id)),
            },
            ordered: index != lite::GROUP && self.random.one_in(2),
            since: None,
            lite: (index == lite::GROUP).then(|| LiteGroup {
                parent: self.topics[lite::PARENT].facts.id,
                exclusive: self.random.one_in(2),
                subscriptions_max: 100,
                wildcard: false,
            }),
        };
        let member = |filter, tags| MemberFilter { filter: Arc::new(filter), tags };
        let tags = |tags: &[&str]| Filter::Tags(TagFilter::AnyOf(tags.iter().map(|&tag| tag.to_owned()).collect()));
        let filters = match index {
            2 => {
                let sql = Filter::sql("TAGS in ('a', 'b') AND x IS NULL").unwrap_or(Filter::ALL);
                let first = if self.random.one_in(2) { sql } else { tags(&["a", "b"]) };
                // Half of the time the members disagree; not where one's message may wait for another's.
                let disagree = self.random.one_in(2) && !facts.ordered;
                let second = disagree.then(|| member(tags(&["c"]), Some(&["c"][..])));
                std::iter::once(member(first, Some(&["a", "b"][..]))).chain(second).collect()
            }
            _ => vec![member(Filter::ALL, None)],
        };
        let topic = if index == lite::GROUP { lite::PARENT } else { index % 2 };
        Group { facts, topic, filters, born: self.now }
    }

    /// As a broker does after a start: what is to be, and what is to go.
    fn apply_catalog(&mut self) {
        for topic in self.dropped_topics.clone() {
            self.catalog(|token| Command::DropTopic { topic, token });
        }
        for group in self.dropped_groups.clone() {
            self.catalog(|token| Command::DropGroup { group, token });
        }
        let topics: Vec<_> = self.topics.iter().map(|topic| topic.facts.clone()).collect();
        let groups: Vec<_> = self.groups.iter().map(|group| group.facts.clone()).collect();
        for topic in topics {
            self.catalog(|token| Command::ApplyTopic { topic, token });
        }
        for group in groups {
            self.catalog(|token| Command::ApplyGroup { group, token });
        }
        self.subscribe(true);
    }

    /// All members say what they subscribe to, as connected ones do. `unknown_only`: where the shard does not know it from
    /// before, because it was opened; whoever it knows takes some time to come back.
    fn subscribe(&mut self, unknown_only: bool) {
        for at in 0..self.groups.len() {
            let (group, topic) = (self.groups[at].facts.id, self.topics[self.groups[at].topic].facts.id);
            let known = self.shard.as_ref().map_or(0, |shard| shard.shard().live_subscriptions(group, topic));
            if self.groups[at].filters.len() < 2 || unknown_only && known >= self.groups[at].filters.len() {
                continue;
            }
            for member in self.groups[at].filters.clone() {
                self.inbox.push(Command::Subscribe { group, topic, filter: member.filter });
            }
        }
    }

    fn catalog(&mut self, command: impl FnOnce(u64) -> Command<u64>) {
        self.ask(Pending::Catalog, command);
    }

    // Opening and closing.

    fn restart(&mut self, power: bool) -> Verdict {
        self.close(power);
        self.reopen()
    }

    fn close(&mut self, power: bool) {
        self.heal();
        let epoch = self.epoch();
        for pending in self.pending.values() {
            if let Pending::Receive { group, .. } = pending {
                self.judge.unheard(*group, epoch);
            }
        }
        if let Some(shard) = self.shard.take() {
            let store = shard.into_store();
            match power {
                true => drop(store.crash(&mut self.random)),
                false => drop(store.close()),
            }
        }
        self.inbox.clear();
        self.pending.clear();
        self.passed_over.clear();
        self.loads.clear();
        self.judge.crashed();
        for client in &mut self.clients {
            client.polling = None;
            client.said.forget();
        }
    }

    fn open(&mut self) -> Verdict {
        let (store, report) =
            self.place.open(self.options).map_err(|error| format!("the store does not open: {error}"))?;
        self.say(|| format!("{report:?}"));
        let wall = START.plus(self.monotonic + self.wall_offset);
        self.clock = ShardClock::start(wall, report.last_time, self.monotonic);
        let now = self.clock.read(wall, self.monotonic);
        if now < report.last_time {
            return Err(format!("time went back from {:?} to {now:?}", report.last_time));
        }
        self.now = now;
        let options = ShardOptions {
            resident_max: self.resident_max,
            lite_resident_max: self.resident_max,
            transaction_check_interval_millis: transactions::INTERVAL_MILLIS,
            transaction_checks_max: transactions::CHECKS_MAX,
            ..ShardOptions::default()
        };
        let shard = at_once(ShardLoop::open(store, options, now)).ok_or("opening waits")?;
        self.shard = Some(shard.map_err(|error| format!("the shard does not open: {error}"))?);
        Ok(())
    }

    fn reopen(&mut self) -> Verdict {
        self.open()?;
        self.check_durable()?;
        self.apply_catalog();
        Ok(())
    }

    /// Everything acknowledged and not too old is there, body and all.
    fn check_durable(&mut self) -> Verdict {
        let Some(reader) = self.reader() else { return Ok(()) };
        for topic in &self.topics {
            // Of lite topics several have a queue of this number: what is lost of them, the drain misses.
            if topic.facts.lite.is_some() {
                continue;
            }
            let id = topic.facts.id;
            for index in 0..topic.facts.read_queues {
                let Some(&queue) = self.queue_ids.get(&(id, index)) else { continue };
                let all = QueueOffset(0)..QueueOffset(1 << 40);
                let found = at_once(reader.messages(queue, all, 1 << 20, 1 << 30)).ok_or("reading waits")?;
                let found = found.map_err(|error| format!("after a restart: {error}"))?;
                let found: BTreeMap<_, _> = found.iter().map(|message| (message.offset, &message.record)).collect();
                for (number, message) in self.judge.messages.iter().enumerate() {
                    let (Sent::Yes { at, .. }, Some((in_queue, offset))) = (message.sent, message.place) else {
                        continue;
                    };
                    if message.topic != id || in_queue != index || self.now.since(at) > SAFE_AGE_MILLIS {
                        continue;
                    }
                    let Some(record) = found.get(&offset) else {
                        return Err(format!("message {number} was acknowledged and is lost: {message:?}"));
                    };
                    let body = record::body(record).map_err(|error| error.to_string())?;
                    if self.judge.recognise(&body, Some(id))? != number as u64 {
                        return Err(format!("another message is in the place of {number}: {message:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn reader(&self) -> Option<SimReader> {
        self.shard.as_ref().map(|shard| shard.store().reader())
    }

    // The loop.

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
                let result = at_once(execute(&reader, &load)).ok_or("reading waits")?;
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
        let notices = shard.store().take_notices();
        let epoch = shard.shard().epoch();
        self.loads.extend(turn.loads);
        self.next_wakeup = turn.next_wakeup;
        for check in &turn.checks {
            let _ = write!(self.hash, "{check:?}");
            self.say(|| format!("{check:?}"));
        }
        self.check_all(turn.checks, epoch)?;
        for (token, output) in turn.replies {
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
            let power = self.random.one_in(2);
            self.restart(power)?;
        }
        if self.step.is_multiple_of(8) {
            self.check_visible()?;
        }
        Ok(())
    }

    /// At rest, and unless what is needed cannot be read, no poll waits while there is a visible message for it.
    fn check_visible(&self) -> Verdict {
        let Some(shard) = &self.shard else { return Ok(()) };
        let rests = shard.is_idle() && self.loads.is_empty() && self.inbox.is_empty();
        let due = self.next_wakeup.is_some_and(|at| at <= self.now);
        if !rests || due || self.reads_fail || self.now < self.blind_until {
            return Ok(());
        }
        let epoch = shard.shard().epoch();
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
            let wants = |message: &Message| {
                let subscribed = !is_lite || client.said.is_sure(message.key, self.now) && self.is_kept(message);
                subscribed && filter.wants(message.tag) && (message.due.is_none() || !late)
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
            // What was written before may still wait for its sync.
            shard.store().step_sync();
            shard.store().settle();
            shard.store().step_maintain();
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

    fn answered(&mut self, token: u64, output: Output, epoch: u32, reader: &SimReader) -> Verdict {
        let Some(pending) = self.pending.remove(&token) else {
            return Err(format!("an answer nobody waits for: {token} {output:?}"));
        };
        match (pending, output) {
            (Pending::Catalog, Output::Done) => {
                if self.pending.values().all(|pending| !matches!(pending, Pending::Catalog)) {
                    self.dropped_topics.clear();
                    self.dropped_groups.clear();
                }
            }
            (Pending::Send(numbers), Output::Sent(places)) => {
                self.report.sent += places.len() as u64;
                for (number, place) in numbers.into_iter().zip(places) {
                    let message = &mut self.judge.messages[number as usize];
                    if *message.place.get_or_insert(place) != place {
                        return Err(format!("message {number} is at {:?}, acknowledged at {place:?}", message.place));
                    }
                    if message.level.is_some_and(|level| level != place.0) {
                        return Err(format!("message {number} of level {:?} is at {place:?}", message.level));
                    }
                    message.sent = Sent::Yes { at: self.now, epoch };
                }
            }
            (Pending::Send(numbers), Output::Scheduled(placed)) => {
                self.report.sent += placed.len() as u64;
                for (number, placed) in numbers.into_iter().zip(placed) {
                    let message = &mut self.judge.messages[number as usize];
                    match placed {
                        Placed::Now(queue, offset) => message.place = Some((queue, offset)),
                        Placed::Later(at) if message.place.is_none() => message.timer = Some(at),
                        Placed::Later(_) => return Err(format!("message {number} was handed out before it waited")),
                    }
                    message.sent = Sent::Yes { at: self.now, epoch };
                }
            }
            (Pending::Half(number), Output::Half(place, _)) => self.half_sent(number, place),
            (Pending::Half(number), Output::Refused(_)) => {
                self.judge.messages[number as usize].sent = Sent::No;
            }
            (Pending::End { number, commit }, Output::Ended(answer)) => self.ended(number, commit, Some(answer))?,
            (Pending::End { number, commit }, Output::Refused(_)) => self.ended(number, commit, None)?,
            (Pending::SendAgain(number), output) => self.sent_again(number, output)?,
            (Pending::Recall(number), Output::Recalled(answer)) => {
                self.report.recalled += u64::from(answer.is_ok());
                self.judge.recalled(number, Some(answer), self.now)?;
            }
            (Pending::Recall(number), Output::Refused(_)) => self.judge.recalled(number, None, self.now)?,
            (Pending::Send(numbers), Output::Refused(_)) => {
                numbers.into_iter().for_each(|number| self.judge.messages[number as usize].sent = Sent::No);
            }
            (Pending::Receive { client, life, group, topic, renewed_for, batch }, output) => {
                let vanished = self.clients.get(client).is_some_and(|client| client.life != life);
                if let Some(client) = self.clients.get_mut(client).filter(|_| !vanished) {
                    client.polling = None;
                }
                if let Output::Delivered(hand_outs) = output {
                    self.in_order(group, &hand_outs, epoch)?;
                    self.in_reply = hand_outs.iter().map(|hand_out| (hand_out.queue, hand_out.offset)).collect();
                    self.by_priority(group, topic, &hand_outs, batch, epoch)?;
                    for hand_out in &hand_outs {
                        self.delivered(client, group, topic, renewed_for, hand_out, epoch, reader)?;
                    }
                    if self.reads_fail {
                        self.judge.unheard(group, epoch);
                    }
                }
                if vanished {
                    self.loosen_all_of(client as u64);
                }
            }
            (Pending::Settle(handles), Output::Acked(answers)) => {
                self.report.acked += answers.iter().filter(|answer| answer.is_ok()).count() as u64;
                for ((handle, number), answer) in handles.into_iter().zip(answers) {
                    self.settled(&handle, number, &answer, epoch)?;
                }
            }
            (Pending::Settle(handles), Output::Settled(answer)) => {
                for (handle, number) in handles {
                    self.settled(&handle, number, &answer, epoch)?;
                }
            }
            (Pending::Settle(handles), Output::Refused(_)) => {
                for (handle, number) in handles {
                    if let Some(tracks) = self.judge.tracks.get_mut(&handle.group) {
                        let track = tracks.entry(number).or_default();
                        track.under_way = track.under_way.saturating_sub(1);
                    }
                }
            }
            (Pending::Change { handle, number, millis, at }, Output::Changed(answer)) => {
                self.changed(handle, number, millis, at, answer.ok());
            }
            (Pending::Change { .. }, Output::Refused(_)) => {}
            (Pending::SyncLite { client, life, at }, output) => self.synced(client, life, at, output == Output::Done),
            (Pending::Describe, Output::Progress(figures, dead_letters)) => {
                let left = figures.iter().map(|figure| figure.ready + figure.in_flight + figure.waiting_retry).sum();
                self.described = Some((left, dead_letters));
            }
            (Pending::Commit { group, past, below }, Output::Reset(moved)) => {
                self.committed(group, past, below, Some(&moved))?;
            }
            (Pending::Commit { group, past, below }, Output::Refused(_)) => {
                self.committed(group, past, below, None)?;
            }
            (_, output) => return Err(format!("{token} was answered with {output:?}")),
        }
        Ok(())
    }

    fn settled(
        &mut self,
        handle: &ReceiptHandle,
        number: MessageNumber,
        answer: &Result<(), martlet_shard::SettleError>,
        epoch: u32,
    ) -> Verdict {
        let group = self.groups.iter().find(|group| group.facts.id == handle.group);
        match group.filter(|_| self.topics.iter().any(|topic| topic.facts.id == handle.topic)) {
            // A lite topic ends with all its messages.
            Some(_) if *answer == Err(martlet_shard::SettleError::Gone) && self.may_end(number) => {
                let kept = self.is_kept(&self.judge.messages[number as usize]);
                self.judge.ended_with_lite_topic(handle, number, kept, epoch, self.now)
            }
            Some(group) => self.judge.settled(handle, number, answer, epoch, self.now, group.facts.max_attempts),
            None => Ok(()),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn delivered(
        &mut self,
        client: usize,
        group: GroupId,
        topic: TopicId,
        renewed_for: Option<u64>,
        hand_out: &HandOut,
        epoch: u32,
        reader: &SimReader,
    ) -> Verdict {
        self.report.delivered += 1;
        let HandOut { queue, offset, .. } = *hand_out;
        let handle = ReceiptHandle { shard: 0, group, topic, queue, offset, delivery: hand_out.delivery };
        let read = at_once(reader.messages(queue, offset..offset.next(), 1, 1)).ok_or("reading waits")?;
        let message = match read {
            Ok(mut messages) => messages.pop(),
            // As the broker does when it cannot read what it is to deliver.
            Err(_) if self.reads_fail => {
                self.judge.unread(group, hand_out, epoch);
                self.inbox.push(Command::Undo { handles: vec![handle] });
                return Ok(());
            }
            Err(error) => return Err(format!("{hand_out:?}: {error}")),
        };
        let Some(message) = message else {
            let old = self.now.since(START) > SAFE_AGE_MILLIS;
            let gone = !self.groups.iter().any(|g| g.facts.id == group);
            return if old || gone || !self.lives_or_dead_letters(topic) {
                Ok(())
            } else {
                Err(format!("{hand_out:?} is handed out and not there"))
            };
        };
        let body = record::body(&message.record).map_err(|error| error.to_string())?;
        if topic.dead_letter_group().is_some() {
            return self.dead_letter(group, &body, handle);
        }
        let number = self.judge.recognise(&body, Some(topic))?;
        let Some(at) = self.groups.iter().position(|g| g.facts.id == group) else { return Ok(()) };
        if !self.topics.iter().any(|t| t.facts.id == topic) {
            return Ok(());
        }
        let tag = self.judge.messages[number as usize].tag;
        let wanted = match self.clients.get(client) {
            Some(client) => self.groups[at].filter_of(client.number).wants(tag),
            None => self.groups[at].wants(tag),
        };
        if !wanted {
            return Err(format!("message {number} does not match the filter of {group:?}"));
        }
        if self.is_lite(group) {
            self.in_lite_order(group, number, hand_out, &self.in_reply, epoch)?;
        } else {
            self.queue_ids.insert((topic, hand_out.queue_index), queue);
        }
        self.judge.delivered(group, number, hand_out, epoch, self.now, renewed_for)?;
        match self.clients.get_mut(client) {
            Some(client) => client.held.push((handle, number)),
            None => self.settle_all(vec![(handle, number)]),
        }
        Ok(())
    }

    /// What an ordered group is handed: no message of a message group before an earlier one that is not settled.
    fn in_order(&self, group: GroupId, hand_outs: &[HandOut], epoch: u32) -> Verdict {
        let Some(group) = self.groups.iter().find(|known| known.facts.id == group && known.facts.ordered) else {
            return Ok(());
        };
        for (n, hand_out) in hand_outs.iter().enumerate() {
            if self.topics.iter().any(|topic| topic.facts.id == hand_out.topic) {
                let before = &hand_outs[..n];
                let max = group.facts.max_attempts;
                self.judge.in_order(group.facts.id, hand_out, before, max, epoch, self.now, |tag| group.wants(tag))?;
            }
        }
        Ok(())
    }

    fn lives_or_dead_letters(&self, topic: TopicId) -> bool {
        topic.dead_letter_group().is_some() || self.topics.iter().any(|t| t.facts.id == topic)
    }
}
