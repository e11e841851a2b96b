//! A broker in a bucket: what every client is put through, and processes that take it over from each other under load.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, Draft, Event, PATIENCE_SECS};
use martlet_conformance::broker::keep_in_buckets;
use martlet_conformance::checks::unique;
use martlet_conformance::input::{Commit, commits};
use martlet_conformance::language::{Language, programs};
use martlet_conformance::nodes::{Node, Nodes};

martlet_conformance::suite!(Language::Go, keep_in_buckets);

/// How long the demonstration goes on, in seconds, if `MARTLET_DEMO_SECS` does not say.
const DEMO_SECS: u64 = 30;
/// Times that the commits are sent if it goes on for ten minutes.
const ROUNDS_OF_TEN_MINUTES: u64 = 5;
/// Producers of each language: one of them waits for each send's answer, which takes a flush.
const PRODUCERS_EACH: usize = 4;
/// Commits given to a producer ahead of its answers.
const FED_AHEAD: usize = 8;
/// A zombie may talk to clients for so long after somebody has taken over.
const ZOMBIE: Duration = Duration::from_secs(3);
/// Who is cut off from the bucket is so for three seconds and up to so much more: beyond the two after which it says so.
const CUT_MORE_MILLIS: u64 = 5_000;
/// Between two faults there are two seconds and up to so much more.
const QUIET_MORE_MILLIS: u64 = 5_000;

/// What is done to the process that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Killed, and started again elsewhere.
    Killed,
    /// Stopped, taken over from, and let go on.
    Zombie,
    /// Cut off from the bucket for a while.
    CutOff,
}

/// xorshift64*: numbers for the order of faults.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % limit
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Producers and consumers, and what they have said.
struct Load {
    producers: Vec<(Agent, Vec<Draft>, Fed)>,
    consumers: Vec<Agent>,
    arrived: BTreeSet<String>,
    deliveries: usize,
    per_consumer: Vec<usize>,
    last_sent: Instant,
    /// The longest time without a send since it was last asked for.
    gap: Duration,
}

/// How far a producer is in its input.
#[derive(Default)]
struct Fed {
    fed: usize,
    sent: usize,
    failures: usize,
}

impl Load {
    fn sent(&self) -> usize {
        self.producers.iter().map(|(_, _, fed)| fed.sent).sum()
    }

    /// Feeds the producers up to this part of their input, and takes what anybody has said.
    fn turn(&mut self, part: f64) -> Result<()> {
        for (producer, drafts, progress) in &mut self.producers {
            let due = ((drafts.len() as f64 * part) as usize).min(drafts.len()).min(progress.sent + FED_AHEAD);
            while progress.fed < due {
                producer.feed(&drafts[progress.fed])?;
                progress.fed += 1;
            }
            let mut wait = Duration::from_millis(1);
            while let Some(event) = producer.next(wait)? {
                wait = Duration::ZERO;
                match event {
                    Event::Sent { .. } => {
                        progress.sent += 1;
                        let now = Instant::now();
                        self.gap = self.gap.max(now - self.last_sent);
                        self.last_sent = now;
                    }
                    Event::SendFailed { .. } => progress.failures += 1,
                    _ => {}
                }
            }
        }
        // Producers that have nothing to do make no gap.
        if self.producers.iter().all(|(_, _, progress)| progress.fed == progress.sent) {
            self.last_sent = Instant::now();
        }
        for (number, consumer) in self.consumers.iter_mut().enumerate() {
            while let Some(event) = consumer.next(Duration::ZERO)? {
                if let Event::Received(received) = event {
                    self.deliveries += 1;
                    self.per_consumer[number] += 1;
                    self.arrived.extend(received.keys);
                }
            }
        }
        Ok(())
    }

    /// Goes on until the time is over.
    fn run_until(&mut self, end: Instant, part: impl Fn() -> f64) -> Result<()> {
        while Instant::now() < end {
            self.turn(part())?;
        }
        Ok(())
    }

    /// Whether everything was.
    fn all_sent(&self) -> bool {
        self.producers.iter().all(|(_, drafts, fed)| fed.sent == drafts.len())
    }

    /// Goes on until something was sent that was not before, if anything is left.
    fn run_until_sent(&mut self, part: impl Fn() -> f64) -> Result<()> {
        let (before, deadline) = (self.sent(), Instant::now() + Duration::from_secs(PATIENCE_SECS));
        while self.sent() == before && !self.all_sent() {
            assert!(Instant::now() < deadline, "nothing was sent for {PATIENCE_SECS} s");
            self.turn(part().max(self.least_part()))?;
        }
        Ok(())
    }

    /// So that there is something to send.
    fn least_part(&self) -> f64 {
        let parts = self.producers.iter().map(|(_, drafts, fed)| (fed.sent + 1) as f64 / drafts.len().max(1) as f64);
        parts.fold(1.0, f64::min)
    }
}

#[test]
fn nothing_acknowledged_is_lost_while_processes_die_hang_and_are_cut_off() -> Result<()> {
    let Some([go, python]) = programs([Language::Go, Language::Python])? else { return Ok(()) };
    let Some(commits) = commits() else { return Ok(()) };
    let secs = from_environment("MARTLET_DEMO_SECS").unwrap_or(DEMO_SECS);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = from_environment("MARTLET_SEED").unwrap_or(since.as_millis() as u64 | 1);
    eprintln!("BUCKET DEMONSTRATION: seed {seed}, {secs} s");
    let mut random = Random(seed);
    let mut nodes = Nodes::new()?;
    let mut serving = nodes.start()?;
    let (topic, group) = (unique("commits"), unique("readers"));
    nodes.command(&["topic", "create", &topic, "--queues", "4"])?;
    nodes.command(&["group", "create", &group, "--max-attempts", "17", "--backoff", "1s"])?;
    let broker = nodes.broker();

    // The whole five times in ten minutes, less in less.
    let count = (commits.len() as u64 * ROUNDS_OF_TEN_MINUTES * secs / 600).max(1) as usize;
    let keyed = |(n, commit): (usize, &Commit)| Draft {
        keys: BTreeSet::from([format!("{}-{}", n / commits.len(), commit.id)]),
        ..commit.draft()
    };
    let drafts: Vec<Draft> = commits.iter().cycle().take(count).enumerate().map(keyed).collect();
    let wanted: BTreeSet<String> = drafts.iter().flat_map(|draft| draft.keys.clone()).collect();
    let producing = ["produce", "--stdin"];
    let reading = ["push", "--group", &group, "--cache", "64"];
    let mut producers = Vec::new();
    for (number, part) in drafts.chunks(drafts.len().div_ceil(2 * PRODUCERS_EACH)).enumerate() {
        let program = if number % 2 == 0 { &go } else { &python };
        producers.push((Agent::ready(program, &broker, &topic, false, &producing)?, part.to_vec(), Fed::default()));
    }
    let mut load = Load {
        producers,
        consumers: vec![
            Agent::ready(&go, &broker, &topic, false, &reading)?,
            Agent::ready(&python, &broker, &topic, false, &reading)?,
        ],
        arrived: BTreeSet::new(),
        deliveries: 0,
        per_consumer: vec![0; 2],
        last_sent: Instant::now(),
        gap: Duration::ZERO,
    };

    let began = Instant::now();
    let part = || began.elapsed().as_secs_f64() / secs as f64;
    let mut gaps: Vec<(Fault, Duration)> = Vec::new();
    let mut next = Vec::new();
    let mut buried = Vec::new();
    while began.elapsed() < Duration::from_secs(secs) {
        let quiet = Duration::from_millis(2_000 + random.below(QUIET_MORE_MILLIS));
        load.run_until(Instant::now() + quiet, part)?;
        if load.all_sent() {
            break;
        }
        if next.is_empty() {
            next = vec![Fault::Killed, Fault::Zombie, Fault::CutOff];
        }
        let fault = next.swap_remove(random.below(next.len() as u64) as usize);
        load.gap = Duration::ZERO;
        load.last_sent = Instant::now();
        match fault {
            Fault::Killed => {
                serving.kill9()?;
                nodes.leave(&serving);
                serving = nodes.start()?;
            }
            Fault::Zombie => {
                serving.stop()?;
                let zombie: Node = std::mem::replace(&mut serving, nodes.start()?);
                // Clients are still connected to it when it goes on, and what they have asked meanwhile is there to be answered.
                zombie.go_on()?;
                load.run_until(Instant::now() + ZOMBIE, part)?;
                nodes.leave(&zombie);
                buried.push(zombie.said());
            }
            Fault::CutOff => {
                serving.cut(&nodes);
                let cut = Duration::from_millis(3_000 + random.below(CUT_MORE_MILLIS));
                load.run_until(Instant::now() + cut, part)?;
                serving.mend(&nodes);
            }
        }
        load.run_until_sent(part)?;
        gaps.push((fault, load.gap));
        eprintln!("BUCKET DEMONSTRATION: {:5.1?} {fault:?}, {:.1?} without a send", began.elapsed(), load.gap);
    }
    // What was in flight when a process ended comes again when its invisible duration is over.
    let so_far = |load: &Load| (load.sent(), load.arrived.len());
    let (mut before, mut since) = (so_far(&load), Instant::now());
    while before != (drafts.len(), wanted.len()) && since.elapsed() < Duration::from_secs(PATIENCE_SECS) {
        load.turn(1.0)?;
        if so_far(&load) != before {
            (before, since) = (so_far(&load), Instant::now());
        }
    }
    for fault in [Fault::Killed, Fault::Zombie, Fault::CutOff] {
        let of: Vec<Duration> = gaps.iter().filter(|(of, _)| *of == fault).map(|(_, gap)| *gap).collect();
        let (longest, all) = (of.iter().max().copied().unwrap_or_default(), of.iter().sum::<Duration>());
        eprintln!(
            "BUCKET DEMONSTRATION: {fault:?} {} times: {:.1?} without a send on average, {longest:.1?} at most",
            of.len(),
            all / (of.len().max(1) as u32)
        );
    }
    eprintln!(
        "BUCKET DEMONSTRATION: {} messages sent ({} sends retried), {} deliveries {:?}, {} of {} arrived, after {:.1?}",
        load.sent(),
        load.producers.iter().map(|(_, _, fed)| fed.failures).sum::<usize>(),
        load.deliveries,
        load.per_consumer,
        load.arrived.len(),
        wanted.len(),
        began.elapsed(),
    );
    assert_eq!(load.sent(), drafts.len(), "all sends are acknowledged in the end");
    let missing: Vec<&String> = wanted.difference(&load.arrived).collect();
    assert!(missing.is_empty(), "{} messages did not arrive, such as {:?}", missing.len(), missing.first());
    assert!(load.per_consumer.iter().all(|&count| count > 0), "both languages took part");
    assert!(!buried.is_empty() || secs < DEMO_SECS, "nobody was a zombie");
    for said in &buried {
        assert!(said.contains("taken the shard over"), "a zombie does not say what has happened to it: {said}");
    }
    Ok(())
}
