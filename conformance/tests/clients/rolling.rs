//! A rolling move: producers and consumers of an old TCP client are replaced one by one by gRPC clients in the same groups, and back
//! again. Nothing is lost, retries and dead letters included, and ordered groups keep their order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, Draft, Event, PATIENCE_SECS, Received};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::language::{Language, Program, programs};

/// Messages between two steps of the move.
const BETWEEN: u32 = 20;

/// What the members of a group had, in the order in which they had it.
#[derive(Default)]
struct Consumed(Vec<(u64, String)>);

impl Consumed {
    fn take(&mut self, received: &Received) {
        if received.result.as_deref() == Some("success") {
            self.0.push((received.at_us, received.body()));
        }
    }

    /// Takes what these have, until all of `sent` was consumed.
    fn await_all(&mut self, members: &mut [Agent], sent: &BTreeSet<String>) -> Result<()> {
        let mut idle = 0;
        while !sent.iter().all(|text| self.0.iter().any(|(_, had)| had == text)) {
            for member in &mut *members {
                match member.next(Duration::from_millis(100))? {
                    Some(Event::Received(received)) => {
                        self.take(&received);
                        idle = 0;
                    }
                    _ => idle += 1,
                }
            }
            let had: BTreeSet<&String> = self.0.iter().map(|(_, text)| text).collect();
            let missing: Vec<_> = sent.iter().filter(|text| !had.contains(text)).take(5).collect();
            assert!(idle < PATIENCE_SECS * 20, "{} of {} consumed, not {missing:?}", had.len(), sent.len());
        }
        Ok(())
    }
}

/// Old and new, as many as a program is started for each place.
fn clients() -> Result<Option<[Program; 2]>> {
    programs([Language::JavaTcp4, Language::Java])
}

#[test]
fn clients_are_moved_one_by_one_and_back_and_nothing_is_lost() -> Result<()> {
    let Some([old, new]) = clients()? else { return Ok(()) };
    let broker = Broker::start()?;
    let (topic, group, failing) = (unique("rolling"), unique("members"), unique("failing"));
    broker.create_topic(&topic, 4)?;
    broker.create_group(&group, 16, "1s")?;
    broker.create_group(&failing, 2, "1s")?;
    let consumer = |program: &Program, group: &str, fails: &[&str]| {
        let delay: &[&str] = if program.language.is_tcp() { &["--delay-level", "1"] } else { &[] };
        Agent::ready(program, &broker, &topic, false, &[&["push", "--group", group], fails, delay].concat())
    };
    let producer = |program: &Program| Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"]);
    let once = ["--fail-first", "1"];
    let mut producers = [producer(&old)?, producer(&old)?];
    let mut members = vec![consumer(&old, &group, &once)?, consumer(&old, &group, &once)?];
    let mut fails = consumer(&old, &failing, &["--fail-all"])?;
    let (mut sent, mut consumed) = (BTreeSet::new(), Consumed::default());
    let send = |producers: &mut [Agent; 2], sent: &mut BTreeSet<String>| -> Result<()> {
        for n in 0..BETWEEN {
            let text = format!("number {}", sent.len());
            producers[n as usize % 2].send(&Draft::body(text.as_bytes()))?;
            sent.insert(text);
        }
        Ok(())
    };
    for program in [&new, &old] {
        for place in 0..2 {
            send(&mut producers, &mut sent)?;
            members.push(consumer(program, &group, &once)?);
            send(&mut producers, &mut sent)?;
            members.remove(0).finish_and_tell(|received| consumed.take(received))?;
            send(&mut producers, &mut sent)?;
            std::mem::replace(&mut producers[place], producer(program)?).finish()?;
            consumed.await_all(&mut members, &sent)?;
        }
        std::mem::replace(&mut fails, consumer(program, &failing, &["--fail-all"])?).finish()?;
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    broker.await_no_backlog(&failing, PATIENCE_SECS)?;
    let twice = consumed.0.len() - sent.len();
    eprintln!("ROLLING MOVE: {} messages, each consumed after a retry; {twice} more than once", sent.len());
    assert!(twice <= 4 * BETWEEN as usize, "{twice} of {} were consumed more than once", sent.len());
    let dead = broker.receive(&format!("%DLQ%{failing}"), &unique("undertakers"), sent.len())?;
    let dead: BTreeSet<_> = dead.iter().filter_map(|message| Some(message["body"].as_str()?.to_owned())).collect();
    assert_eq!(dead.len(), sent.len(), "dead letters");
    producers.into_iter().chain(members).chain([fails]).try_for_each(Agent::finish)
}

#[test]
fn members_of_an_ordered_group_are_moved_and_keep_the_order() -> Result<()> {
    let Some([old, new]) = clients()? else { return Ok(()) };
    let broker = Broker::start()?;
    let (topic, group) = (unique("rolling-order"), unique("members"));
    broker.create_ordered(&topic, 4, &group, "1s")?;
    let member = |program: &Program| {
        let orderly: &[&str] = if program.language.is_tcp() { &["--orderly"] } else { &[] };
        Agent::ready(program, &broker, &topic, false, &[&["push", "--group", &group], orderly].concat())
    };
    let mut producer = Agent::ready(&new, &broker, &topic, false, &["produce", "--stdin"])?;
    let (mut sent, mut consumed) = (BTreeSet::new(), Consumed::default());
    let mut send = |sent: &mut BTreeSet<String>| -> Result<()> {
        for _ in 0..BETWEEN {
            let (key, text) = (sent.len() % 5, format!("{}/{:04}", sent.len() % 5, sent.len()));
            producer.send(&Draft { message_group: Some(format!("key {key}")), ..Draft::body(text.as_bytes()) })?;
            sent.insert(text);
        }
        Ok(())
    };
    let mut members = vec![member(&old)?, member(&old)?];
    for program in [&new, &old] {
        for _ in 0..2 {
            send(&mut sent)?;
            members.push(member(program)?);
            send(&mut sent)?;
            members.remove(0).finish_and_tell(|received| consumed.take(received))?;
            send(&mut sent)?;
            consumed.await_all(&mut members, &sent)?;
        }
    }
    consumed.0.sort();
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (_, text) in consumed.0.into_iter().filter(|(_, text)| seen.insert(text.clone())) {
        let key = text.split('/').next().unwrap_or("").to_owned();
        let before = last.insert(key, text.clone()).unwrap_or_default();
        assert!(before < text, "{text} came after {before}");
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    members.into_iter().try_for_each(Agent::finish)
}
