//! The published Java clients of the remoting protocol as consumers that pop, and with requests and replies.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, Draft, Event, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::language::{Language, Program};

/// Those of 5.5.0; 4.9.8 does not know popping.
fn popping() -> Result<Option<Program>> {
    Language::JavaTcp.program()
}

/// Sends so many messages over TCP.
fn produce(program: &Program, broker: &Broker, topic: &str, count: u32) -> Result<()> {
    let arguments = ["produce", "--count", &count.to_string()];
    let mut producer = Agent::start(program, broker, topic, false, &arguments)?;
    producer.wait("the last send", PATIENCE_SECS, |event| matches!(event, Event::Done).then_some(()))
}

/// Retries come with the right count, and after the group's attempts the message is a dead letter.
#[test]
fn popped_messages_come_with_every_field_come_again_and_end_as_dead_letters() -> Result<()> {
    let Some(program) = popping()? else { return Ok(()) };
    let broker = Broker::start()?;
    let (topic, again, dead) = (unique("popped"), unique("again"), unique("dead"));
    broker.create_topic(&topic, 4)?;
    broker.create_group(&dead, 2, "1s")?;
    let mut fails_once =
        Agent::ready(&program, &broker, &topic, false, &["push", "--pop", "--group", &again, "--fail-first", "1"])?;
    let arguments = ["push", "--pop", "--group", &dead, "--fail-all", "--filter", "t || u"];
    let mut fails_always = Agent::ready(&program, &broker, &topic, false, &arguments)?;
    broker.send(&topic, "other", &["--tag", "other"])?;
    broker.send(&topic, "body", &["--tag", "t", "--key", "4711", "--property", "colour=red"])?;
    let mut attempts: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for _ in 0..4 {
        let received = fails_once.received()?;
        attempts.entry(received.body()).or_default().push(received.attempt);
        assert!(received.properties.contains_key("POP_CK"), "it was pulled: {received:?}");
        if received.body() == "body" {
            assert_eq!((received.tag.as_deref(), received.topic.as_deref()), (Some("t"), Some(topic.as_str())));
            assert_eq!(received.keys, BTreeSet::from(["4711".to_owned()]));
            assert_eq!(received.properties.get("colour").map(String::as_str), Some("red"));
        }
    }
    assert_eq!(attempts, ["body", "other"].map(|body| (body.to_owned(), vec![1, 2])).into());
    broker.await_no_backlog(&again, PATIENCE_SECS)?;
    for attempt in 1..=2 {
        let received = fails_always.received()?;
        assert_eq!((received.body().as_str(), received.attempt), ("body", attempt));
    }
    let letters = broker.receive(&format!("%DLQ%{dead}"), &unique("undertakers"), 1)?;
    assert_eq!(letters[0]["body"], "body");
    broker.await_no_backlog(&dead, PATIENCE_SECS)?;
    fails_once.finish()?;
    fails_always.finish()
}

/// That a group pops, and how far it is, survive a kill.
#[test]
fn popping_goes_on_after_the_broker_was_killed_and_loses_nothing() -> Result<()> {
    let Some(program) = popping()? else { return Ok(()) };
    let Some(mut broker) = Broker::start_own("a kill")? else { return Ok(()) };
    let (topic, group) = (unique("killed"), unique("members"));
    broker.create_topic(&topic, 4)?;
    let arguments = ["push", "--pop", "--group", &group, "--invisible-secs", "5"];
    let mut consumer = Agent::ready(&program, &broker, &topic, false, &arguments)?;
    for round in 0..3 {
        let mut sent: BTreeSet<String> = (0..20).map(|n| format!("{round}: {n}")).collect();
        for text in &sent {
            broker.send(&topic, text, &[])?;
        }
        broker.kill9()?;
        broker.restart()?;
        while !sent.is_empty() {
            let received = consumer.received()?;
            assert!(received.properties.contains_key("POP_CK"), "it was pulled: {received:?}");
            sent.remove(&received.body());
        }
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    consumer.finish()
}

/// Members that pop over TCP and members that receive over gRPC share the messages of a group.
#[test]
fn each_message_goes_to_one_member_of_a_group_of_both_protocols() -> Result<()> {
    let (Some(program), Some(grpc)) = (popping()?, Language::Go.program()?) else { return Ok(()) };
    let broker = Broker::start()?;
    let (topic, group) = (unique("mixed"), unique("members"));
    broker.create_topic(&topic, 4)?;
    let mut members = [
        Agent::ready(&program, &broker, &topic, false, &["push", "--pop", "--group", &group])?,
        Agent::ready(&grpc, &broker, &topic, false, &["push", "--group", &group])?,
    ];
    let mut got = [Vec::new(), Vec::new()];
    let mut sent = 0;
    // Which member is faster is its own business: until both had some.
    while got.iter().any(Vec::is_empty) && sent < 2_000 {
        produce(&program, &broker, &topic, 100)?;
        sent += 100;
        let deadline = std::time::Instant::now() + Duration::from_secs(PATIENCE_SECS);
        while got.iter().map(Vec::len).sum::<usize>() < sent {
            assert!(std::time::Instant::now() < deadline, "{:?} of {sent} came", got.each_ref().map(Vec::len));
            for (member, got) in members.iter_mut().zip(&mut got) {
                if let Some(Event::Received(received)) = member.next(Duration::from_millis(20))? {
                    got.push(received.id);
                }
            }
        }
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    assert!(got.iter().all(|got| !got.is_empty()), "one member got nothing: {:?}", got.each_ref().map(Vec::len));
    let all: BTreeSet<&String> = got.iter().flatten().collect();
    assert_eq!((all.len(), got.iter().map(Vec::len).sum::<usize>()), (sent, sent), "some came twice");
    members.into_iter().try_for_each(Agent::finish)
}

/// A failed message comes again before what follows it in its message group.
#[test]
fn ordered_popping_keeps_each_message_group_in_order() -> Result<()> {
    let Some(program) = popping()? else { return Ok(()) };
    let Some(broker) = Broker::start_own("an ordered group")? else { return Ok(()) };
    let (topic, group) = (unique("in-order"), unique("members"));
    broker.create_ordered(&topic, 2, &group, "1s")?;
    for number in 0..12 {
        broker.send(&topic, &format!("{number:02}"), &["--message-group", &format!("g{}", number % 3)])?;
    }
    let arguments = ["pop-ordered", "--group", &group, "--fail-first", "1"];
    let mut consumer = Agent::ready(&program, &broker, &topic, false, &arguments)?;
    let mut by_group: BTreeMap<String, Vec<(String, Option<String>)>> = BTreeMap::new();
    for _ in 0..24 {
        let received = consumer.received()?;
        let place = by_group.entry(received.message_group.clone().unwrap_or_default()).or_default();
        place.push((received.body(), received.result));
    }
    for first in 0..3 {
        let numbers = (first..12).step_by(3).map(|number| format!("{number:02}"));
        let twice = |body: String| ["failure", "success"].map(|result| (body.clone(), Some(result.to_owned())));
        assert_eq!(by_group[&format!("g{first}")], numbers.flat_map(twice).collect::<Vec<_>>());
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    consumer.finish()
}

#[test]
fn a_request_is_answered_by_whoever_consumes_it() -> Result<()> {
    for language in [Language::JavaTcp, Language::JavaTcp4] {
        let Some(program) = language.program()? else { continue };
        let broker = Broker::start()?;
        let (topic, group) = (unique("requests"), unique("repliers"));
        broker.create_topic(&topic, 2)?;
        let replier = Agent::ready(&program, &broker, &topic, false, &["reply", "--group", &group])?;
        let mut requester = Agent::ready(&program, &broker, &topic, false, &["request"])?;
        for question in ["one", "two"] {
            requester.feed(&Draft::body(question.as_bytes()))?;
            assert_eq!(requester.received()?.body(), format!("re: {question}"));
        }
        requester.finish()?;
        replier.finish()?;
    }
    Ok(())
}
