//! Demonstrations on real input: kills in the middle of a stream of commits, sharing one queue, and the way to the dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, Draft, Event, PATIENCE_SECS, Received};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::input::{Commit, commits};
use martlet_conformance::language::{Language, programs};

/// Kills during the stream of commits.
const KILLS: usize = 10;
/// Messages a push consumer may hold; with it, what can be in flight at a kill is bounded.
const CACHE: usize = 64;
/// Commits given to the producer ahead of its answers, so that a kill finds it at work.
const FED_AHEAD: usize = 8;

#[test]
fn every_commit_arrives_through_ten_kills() -> Result<()> {
    let Some([python, java, go]) = programs([Language::Python, Language::Java, Language::Go])? else { return Ok(()) };
    let Some(commits) = commits() else { return Ok(()) };
    let drafts: Vec<Draft> = commits.iter().map(Commit::draft).collect();
    let Some(mut broker) = Broker::start_own("ten kills")? else { return Ok(()) };
    let (topic, group) = (unique("commits"), unique("readers"));
    broker.create_topic(&topic, 4)?;
    broker.create_group(&group, 17, "1s")?;
    let cache = CACHE.to_string();
    let reading = ["push", "--group", &group, "--cache", &cache];
    let mut readers =
        [Agent::ready(&java, &broker, &topic, true, &reading)?, Agent::ready(&go, &broker, &topic, true, &reading)?];
    let mut producer = Agent::ready(&python, &broker, &topic, false, &["produce", "--stdin"])?;

    let began = Instant::now();
    let mut arrivals = Arrivals::default();
    let (mut fed, mut sent, mut send_failures, mut kills) = (0, 0, 0, 0);
    while sent < drafts.len() {
        while fed < drafts.len().min(sent + FED_AHEAD) {
            producer.feed(&drafts[fed])?;
            fed += 1;
        }
        match producer.next(Duration::from_secs(PATIENCE_SECS))? {
            Some(Event::Sent { .. }) => sent += 1,
            Some(Event::SendFailed { .. }) => send_failures += 1,
            Some(_) => {}
            None => panic!("nothing was sent for {PATIENCE_SECS} s, after {sent} of {}", drafts.len()),
        }
        arrivals.take(&mut readers, Duration::ZERO)?;
        if kills < KILLS && sent >= (kills + 1) * drafts.len() / (KILLS + 1) {
            kills += 1;
            // In turn: just after an answer, with the next send under way; as a send sets out; with an acknowledgement under way; and
            // with both.
            if kills & 2 != 0 {
                arrivals.take_one(&mut readers)?;
            }
            if kills & 1 != 0 && fed < drafts.len() {
                producer.feed(&drafts[fed])?;
                fed += 1;
            }
            broker.kill9()?;
            broker.restart()?;
        }
    }
    let sent_after = began.elapsed();
    // What was in flight at a kill comes again when its invisible duration, 60 s for push consumers, lapses.
    let deadline = Instant::now() + Duration::from_secs(PATIENCE_SECS);
    while arrivals.commits.len() < drafts.len() && Instant::now() < deadline {
        arrivals.take(&mut readers, Duration::from_millis(100))?;
    }
    let arrived_after = began.elapsed();
    let mut backlog = broker.backlog(&group)?;
    while backlog != Some(0) && Instant::now() < deadline {
        // Duplicates that are still to come close the last slots.
        arrivals.take(&mut readers, Duration::from_millis(250))?;
        backlog = broker.backlog(&group)?;
    }
    // Duplicates that were sent before the last slot closed have all been reported when the readers have nothing left to say.
    arrivals.take(&mut readers, Duration::from_millis(500))?;
    let in_flight_max = readers.len() * CACHE + FED_AHEAD;
    let duplicates = arrivals.total - arrivals.commits.len();
    eprintln!(
        "DEMONSTRATION 2: {} commits sent in {sent_after:.1?} ({send_failures} sends retried), {kills} kills, {} deliveries \
         (java {}, go {}), all there after {arrived_after:.1?}, duplicates {duplicates} of at most {} x {in_flight_max}, \
         backlog {backlog:?}",
        drafts.len(),
        arrivals.total,
        arrivals.per_reader[0],
        arrivals.per_reader[1],
        kills,
    );
    let wanted: BTreeSet<String> = drafts.iter().flat_map(|draft| draft.keys.clone()).collect();
    let missing: Vec<&String> = wanted.difference(&arrivals.commits).collect();
    assert!(missing.is_empty(), "{} commits did not arrive, such as {:?}", missing.len(), missing.first());
    assert_eq!(backlog, Some(0), "the backlog ends at zero");
    assert!(duplicates <= kills * in_flight_max, "more duplicates than could be in flight");
    assert!(arrivals.per_reader.iter().all(|&count| count > 0), "both languages took part");
    Ok(())
}

#[derive(Default)]
struct Arrivals {
    commits: BTreeSet<String>,
    total: usize,
    per_reader: [usize; 2],
}

impl Arrivals {
    /// Waits until a reader reports one delivery more.
    fn take_one(&mut self, readers: &mut [Agent; 2]) -> Result<()> {
        let (before, deadline) = (self.total, Instant::now() + Duration::from_secs(PATIENCE_SECS));
        while self.total == before && Instant::now() < deadline {
            self.take(readers, Duration::from_millis(1))?;
        }
        Ok(())
    }

    /// Takes what the readers have reported; waits for each no longer than `patience`.
    fn take(&mut self, readers: &mut [Agent; 2], patience: Duration) -> Result<()> {
        for (number, reader) in readers.iter_mut().enumerate() {
            let mut wait = patience;
            while let Some(event) = reader.next(wait)? {
                wait = Duration::ZERO;
                if let Event::Received(received) = event {
                    self.total += 1;
                    self.per_reader[number] += 1;
                    self.commits.extend(received.keys);
                }
            }
        }
        Ok(())
    }
}

#[test]
fn three_consumers_share_one_queue() -> Result<()> {
    let Some([go]) = programs([Language::Go])? else { return Ok(()) };
    let broker = Broker::start()?;
    let (topic, group) = (unique("one-queue"), unique("three"));
    broker.create_topic(&topic, 1)?;
    broker.create_group(&group, 17, "10s")?;
    let mut readers = Vec::new();
    for _ in 0..3 {
        readers.push(Agent::ready(&go, &broker, &topic, true, &["push", "--group", &group, "--cache", "4"])?);
    }
    let mut producer = Agent::ready(&go, &broker, &topic, true, &["produce", "--stdin"])?;
    let mut counts = [0usize; 3];
    let mut sent = 0;
    let deadline = Instant::now() + Duration::from_secs(PATIENCE_SECS);
    // A group's members take up work at their own pace: send until each has had something.
    while counts.contains(&0) && Instant::now() < deadline {
        for _ in 0..10 {
            producer.send(&Draft::body(format!("{sent}").as_bytes()))?;
            sent += 1;
        }
        collect(&mut readers, &mut counts, Duration::from_millis(50))?;
    }
    while counts.iter().sum::<usize>() < sent && Instant::now() < deadline {
        collect(&mut readers, &mut counts, Duration::from_millis(100))?;
    }
    eprintln!("DEMONSTRATION 3: {sent} messages in one queue, three consumers received {counts:?}");
    assert!(!counts.contains(&0), "all three receive");
    assert_eq!(counts.iter().sum::<usize>(), sent, "each message once");
    Ok(())
}

fn collect(readers: &mut [Agent], counts: &mut [usize; 3], patience: Duration) -> Result<()> {
    for (reader, count) in readers.iter_mut().zip(counts) {
        let mut wait = patience;
        while let Some(event) = reader.next(wait)? {
            wait = Duration::ZERO;
            *count += usize::from(matches!(event, Event::Received(_)));
        }
    }
    Ok(())
}

#[test]
fn failing_messages_end_as_dead_letters() -> Result<()> {
    // Any of the five may get a retry: with two attempts, one message in 25 ends dead.
    const ATTEMPTS: usize = 2;
    const MESSAGES: usize = 150;
    const BACKOFF: Duration = Duration::from_secs(1);
    let Some([go]) = programs([Language::Go])? else { return Ok(()) };
    let Some(broker) = Broker::start_own("dead letters")? else { return Ok(()) };
    let (topic, group) = (unique("fails"), unique("five"));
    broker.create_topic(&topic, 1)?;
    broker.create_group(&group, ATTEMPTS as u32, "1s")?;
    let mut readers = Vec::new();
    for failing in [true, false, false, false, false] {
        let mut arguments = vec!["push", "--group", &group, "--cache", "4"];
        arguments.extend(failing.then_some("--fail-all"));
        readers.push(Agent::ready(&go, &broker, &topic, true, &arguments)?);
    }
    let mut producer = Agent::ready(&go, &broker, &topic, true, &["produce", "--stdin"])?;
    let began = Instant::now();
    let mut deliveries: BTreeMap<String, Vec<Received>> = BTreeMap::new();
    let mut sent = 0;
    let open = |deliveries: &BTreeMap<String, Vec<Received>>| {
        deliveries.len() < MESSAGES || deliveries.values().any(|all| !succeeded(all) && all.len() < ATTEMPTS)
    };
    while open(&deliveries) {
        assert!(
            began.elapsed() < Duration::from_secs(PATIENCE_SECS),
            "{} of {MESSAGES} were delivered",
            deliveries.len()
        );
        if sent < MESSAGES {
            producer.send(&Draft::body(format!("{sent}").as_bytes()))?;
            sent += 1;
        }
        for reader in &mut readers {
            while let Some(event) = reader.next(Duration::from_millis(2))? {
                if let Event::Received(received) = event {
                    deliveries.entry(received.id.clone()).or_default().push(received);
                }
            }
        }
    }
    let mut retried = 0;
    for (id, all) in &mut deliveries {
        // Five processes report, on a busy machine not in the order of what they report.
        all.sort_by_key(|received| received.at_us);
        for (place, received) in all.iter().enumerate() {
            assert_eq!(received.attempt as usize, place + 1, "attempts of {id} rise by one");
            if place > 0 {
                retried += 1;
                let waited = Duration::from_micros(received.at_us - all[place - 1].at_us);
                assert!(
                    waited + Duration::from_millis(50) >= BACKOFF,
                    "{id} came again after {waited:?}, due after {BACKOFF:?}"
                );
            }
        }
    }
    let dead: BTreeSet<&String> =
        deliveries.iter().filter(|(_, all)| !succeeded(all) && all.len() == ATTEMPTS).map(|(id, _)| id).collect();
    eprintln!("DEMONSTRATION 3: {sent} messages, {retried} retries, {} failed {ATTEMPTS} times", dead.len());
    assert!(retried > 0, "some message failed and came again");
    drop(readers);

    // A message all of whose consumers fail is a dead letter for certain.
    let doomed_topic = unique("doomed");
    let doomed_group = unique("hopeless");
    broker.create_topic(&doomed_topic, 1)?;
    broker.create_group(&doomed_group, 3, "1s,2s")?;
    let mut reader =
        Agent::ready(&go, &broker, &doomed_topic, true, &["push", "--group", &doomed_group, "--fail-all"])?;
    let mut producer = Agent::ready(&go, &broker, &doomed_topic, true, &["produce", "--stdin"])?;
    let doomed = Draft { keys: ["doomed".to_owned()].into(), tag: Some("t".into()), ..Draft::body(b"doomed") };
    producer.send(&doomed)?;
    let attempts = (0..3).map(|_| Ok(reader.received()?.attempt)).collect::<Result<Vec<u32>>>()?;
    assert_eq!(attempts, [1, 2, 3]);
    for (group, at_least) in [(&doomed_group, 1), (&group, dead.len())] {
        if at_least == 0 {
            continue;
        }
        let letters = format!("%DLQ%{group}");
        let mut undertaker =
            Agent::ready(&go, &broker, &letters, true, &["simple", "--group", &unique("undertakers")])?;
        let mut found = BTreeSet::new();
        while found.len() < at_least {
            let letter = undertaker.received()?;
            if group == &doomed_group {
                assert_eq!(
                    (letter.body_hex, letter.keys, letter.tag),
                    (doomed.body_hex.clone(), doomed.keys.clone(), doomed.tag.clone())
                );
            }
            found.insert(letter.id);
        }
        eprintln!("DEMONSTRATION 3: {} dead letters read from {letters}", found.len());
    }
    Ok(())
}

fn succeeded(deliveries: &[Received]) -> bool {
    deliveries.iter().any(|received| received.result.as_deref() == Some("success"))
}
