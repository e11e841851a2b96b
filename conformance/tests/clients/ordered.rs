//! Demonstration on real input: commits as an ordered stream by author, to five consumers of which one fails every tenth message and
//! one is killed again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, Draft, Event, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::input::{Commit, commits};
use martlet_conformance::language::{Language, Program};

/// Commits of the demonstration, the first ones of the file.
const COMMITS: usize = 3_000;
/// Commits given to the producer ahead of its answers.
const FED_AHEAD: usize = 32;
/// Kills of one consumer, spread over the stream.
const KILLS: usize = 4;
/// Which of the five fails, and which is killed.
const FAILING: usize = 3;
const KILLED: usize = 4;

#[derive(Default)]
struct Arrivals {
    /// When (in microseconds since the Unix epoch), which consumer, author, commit, whether it was a success.
    all: Vec<(u64, usize, String, String, bool)>,
    commits: BTreeSet<String>,
}

impl Arrivals {
    fn take(&mut self, readers: &mut [Agent], patience: Duration) -> Result<()> {
        for (number, reader) in readers.iter_mut().enumerate() {
            let mut wait = patience;
            while let Some(event) = reader.next(wait)? {
                wait = Duration::ZERO;
                self.note(number, event);
            }
        }
        Ok(())
    }

    fn note(&mut self, reader: usize, event: Event) {
        let Event::Received(received) = event else { return };
        let success = received.result.as_deref() != Some("failure");
        let commit = received.keys.into_iter().next().unwrap_or_default();
        if success {
            self.commits.insert(commit.clone());
        }
        self.all.push((received.at_us, reader, received.message_group.unwrap_or_default(), commit, success));
    }
}

fn reader(go: &Program, broker: &Broker, topic: &str, group: &str, number: usize) -> Result<Agent> {
    let arguments: &[&str] = match number {
        FAILING => &["push", "--cache", "64", "--fail-every", "10"],
        // Short leases, so that what dies with it comes again soon.
        KILLED => &["simple", "--batch", "8", "--invisible-secs", "10"],
        _ => &["push", "--cache", "64"],
    };
    Agent::ready(go, broker, topic, true, &[arguments, &["--group", group]].concat())
}

#[test]
fn commits_of_each_author_arrive_in_order_and_no_author_waits_for_another() -> Result<()> {
    let Some(go) = Language::Go.program()? else { return Ok(()) };
    let Some(broker) = Broker::start_own("commits in order")? else { return Ok(()) };
    let Some(mut commits) = commits() else { return Ok(()) };
    commits.truncate(COMMITS);
    let (topic, group) = (unique("by-author"), unique("five"));
    broker.create_ordered(&topic, 4, &group, "200ms")?;
    let mut readers = Vec::new();
    for number in 0..5 {
        readers.push(reader(&go, &broker, &topic, &group, number)?);
    }
    let mut producer = Agent::ready(&go, &broker, &topic, true, &["produce", "--stdin"])?;
    let (mut fed, mut sent, mut kills) = (0, 0, Vec::new());
    let mut arrivals = Arrivals::default();
    while sent < commits.len() {
        while fed < commits.len().min(sent + FED_AHEAD) {
            let Commit { author, id: commit, .. } = &commits[fed];
            let keys = [commit.clone()].into();
            producer.feed(&Draft { message_group: Some(author.clone()), keys, ..Draft::body(commit.as_bytes()) })?;
            fed += 1;
        }
        match producer.next(Duration::from_secs(PATIENCE_SECS))? {
            Some(Event::Sent { .. }) => sent += 1,
            Some(_) => {}
            None => panic!("nothing was sent for {PATIENCE_SECS} s, after {sent} of {}", commits.len()),
        }
        arrivals.take(&mut readers, Duration::ZERO)?;
        if kills.len() < KILLS && sent >= (kills.len() + 1) * commits.len() / (KILLS + 1) {
            // Killed at work. What it acknowledged just before, it had told.
            kills.push(now());
            let next = reader(&go, &broker, &topic, &group, KILLED)?;
            let said = std::mem::replace(&mut readers[KILLED], next).kill();
            said.into_iter().for_each(|event| arrivals.note(KILLED, event));
        }
    }
    let deadline = Instant::now() + Duration::from_secs(PATIENCE_SECS);
    while arrivals.commits.len() < commits.len() && Instant::now() < deadline {
        arrivals.take(&mut readers, Duration::from_millis(50))?;
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    arrivals.take(&mut readers, Duration::from_millis(500))?;
    assert_eq!(arrivals.commits.len(), commits.len(), "every commit arrives");

    // Five processes report, each in order; by time they are put in line, to the microsecond.
    arrivals.all.sort_by_key(|arrival| arrival.0);
    let mut first: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for (_, _, author, commit, success) in &arrivals.all {
        if *success && known.insert(commit) {
            first.entry(author).or_default().push(commit);
        }
    }
    let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for Commit { author, id: commit, .. } in &commits {
        wanted.entry(author).or_default().push(commit);
    }
    for (author, commits) in &wanted {
        let came = first.get(author).map_or(&[][..], Vec::as_slice);
        if let Some(wrong) = came.iter().zip(commits).position(|(came, wanted)| came != wanted) {
            let wanted = &commits[wrong.saturating_sub(2)..commits.len().min(wrong + 6)];
            let story: Vec<_> = arrivals.all.iter().filter(|arrival| wanted.contains(&arrival.3.as_str())).collect();
            panic!("commit {wrong} of {author} came out of order: wanted {wanted:?}, came {story:#?}");
        }
    }
    // While a commit of one author waits for its retry, other authors' arrive.
    let failures: Vec<_> = arrivals.all.iter().filter(|arrival| !arrival.4).collect();
    let last_of_others =
        |author: &str| arrivals.all.iter().rev().find(|arrival| arrival.2 != author).map(|last| last.0);
    let disturbing: Vec<_> = failures.iter().filter(|failure| last_of_others(&failure.2) > Some(failure.0)).collect();
    let meanwhile = |from: u64, author: &str, duration: Duration| {
        let others =
            arrivals.all.iter().filter(|arrival| (from..from + duration.as_micros() as u64).contains(&arrival.0));
        others.filter(|arrival| arrival.2 != author && arrival.4).count()
    };
    let undisturbed =
        disturbing.iter().filter(|failure| meanwhile(failure.0, &failure.2, Duration::from_millis(200)) > 0).count();
    let after_kills: Vec<usize> = kills.iter().map(|&at| meanwhile(at, "", Duration::from_secs(2))).collect();
    let counts: Vec<usize> =
        (0..5).map(|number| arrivals.all.iter().filter(|arrival| arrival.1 == number).count()).collect();
    eprintln!(
        "ORDERED DEMONSTRATION: {} commits of {} authors, each author's in order; deliveries per consumer {counts:?}; {} failures, \
         of {} with others' commits to come these came meanwhile in {undisturbed}; in the 2 s after each kill {after_kills:?} arrived",
        commits.len(),
        wanted.len(),
        failures.len(),
        disturbing.len(),
    );
    assert!(!failures.is_empty() && undisturbed * 2 > disturbing.len(), "a failing commit holds up other authors");
    assert!(after_kills.iter().all(|&count| count > 0), "a killed consumer holds up everybody");
    Ok(())
}

/// Microseconds since the Unix epoch, as agents report.
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64
}
