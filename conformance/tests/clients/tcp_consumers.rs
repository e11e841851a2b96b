//! The published clients of the remoting protocol as consumers: Java 5.5.0 and 4.9.8, Go, Python, which is C++,
//! and the product's own for Java.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use martlet_conformance::agent::{Agent, Draft, Event, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::language::{Language, Program};
use martlet_conformance::{Result, broadcasting};

/// With both versions of the Java client, which have settings that the others lack.
fn with_each(check: impl Fn(&Program) -> Result<()>) -> Result<()> {
    with(&[Language::JavaTcp, Language::JavaTcp4], check)
}

/// With the clients of all languages.
fn with_all(check: impl Fn(&Program) -> Result<()>) -> Result<()> {
    with(&[Language::JavaTcp, Language::JavaTcp4, Language::GoTcp, Language::PythonTcp, Language::Ons], check)
}

fn with(languages: &[Language], check: impl Fn(&Program) -> Result<()>) -> Result<()> {
    for language in languages {
        if let Some(program) = language.program()? {
            check(&program)?;
        }
    }
    Ok(())
}

#[test]
fn what_is_sent_over_grpc_is_consumed_over_tcp_with_every_field() -> Result<()> {
    with_each(|program| {
        let broker = Broker::start()?;
        for kind in ["push", "lite-pull"] {
            let (topic, group) = (unique("fields"), unique("readers"));
            broker.create_topic(&topic, 2)?;
            broker.send(&topic, "before", &["--tag", "t", "--key", "4711", "--property", "colour=red"])?;
            let mut consumer = Agent::ready(program, &broker, &topic, false, &[kind, "--group", &group])?;
            let received = consumer.received()?;
            assert_eq!((received.body().as_str(), received.tag.as_deref(), received.attempt), ("before", Some("t"), 1));
            assert_eq!(received.keys, BTreeSet::from(["4711".to_owned()]));
            assert_eq!(received.properties.get("colour").map(String::as_str), Some("red"), "{received:?}");
            broker.send(&topic, "after", &[])?;
            assert_eq!(consumer.received()?.body(), "after");
            broker.await_no_backlog(&group, PATIENCE_SECS)?;
            consumer.finish()?;
        }
        Ok(())
    })
}

#[test]
fn compressed_bodies_are_read_as_they_were_sent() -> Result<()> {
    with_each(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("compressed"), unique("readers"));
        let long = "long ".repeat(20_000);
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
        producer.send(&Draft::body(long.as_bytes()))?;
        producer.finish()?;
        let mut consumer = Agent::ready(program, &broker, &topic, false, &["push", "--group", &group])?;
        assert!(consumer.received()?.body() == long, "the body is another one");
        consumer.finish()
    })
}

#[test]
fn tags_and_conditions_let_through_what_they_name() -> Result<()> {
    with_each(|program| {
        let broker = Broker::start()?;
        for filter in ["a || b", "sql:TAGS IN ('a', 'b') AND size > 3"] {
            let (topic, group) = (unique("filtered"), unique("readers"));
            broker.create_topic(&topic, 2)?;
            let arguments = ["push", "--group", &group, "--filter", filter];
            let mut consumer = Agent::ready(program, &broker, &topic, false, &arguments)?;
            for tag in ["a", "c", "b", "c"] {
                broker.send(&topic, tag, &["--tag", tag, "--property", "size=5"])?;
            }
            let bodies = BTreeSet::from([consumer.received()?.body(), consumer.received()?.body()]);
            assert_eq!(bodies, BTreeSet::from(["a".to_owned(), "b".to_owned()]), "{filter}");
            broker.await_no_backlog(&group, PATIENCE_SECS)?;
            consumer.finish()?;
        }
        Ok(())
    })
}

/// A second member takes its share at once, and the first one takes that back when the second is killed.
#[test]
fn members_share_queues_and_take_over_from_one_that_was_killed() -> Result<()> {
    with_all(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("shared"), unique("members"));
        broker.create_topic(&topic, 4)?;
        let arguments = ["push", "--group", &group];
        let mut first = Agent::ready(program, &broker, &topic, false, &arguments)?;
        broker.send(&topic, "for the first", &[])?;
        assert_eq!(first.received()?.body(), "for the first");
        let mut second = Agent::ready(program, &broker, &topic, false, &arguments)?;
        let mut number = 0;
        // Which queue a message goes to is the broker's choice: until the second one has some.
        let shared = loop {
            broker.send(&topic, &format!("number {number}"), &[])?;
            number += 1;
            if let Some(Event::Received(received)) = second.next(Duration::from_millis(500))? {
                break received.body();
            }
            assert!(number < 200, "the second member gets nothing");
        };
        assert!(shared.starts_with("number"), "{shared}");
        drop(second.kill());
        let sent: BTreeSet<String> = (0..8).map(|n| format!("after {n}")).collect();
        for text in &sent {
            broker.send(&topic, text, &[])?;
        }
        first.await_bodies(sent)?;
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        first.finish()
    })
}

#[test]
fn consumers_go_on_after_the_broker_was_killed_and_lose_nothing() -> Result<()> {
    with_all(|program| {
        let Some(mut broker) = Broker::start_own("a kill")? else { return Ok(()) };
        let (topic, group) = (unique("killed"), unique("members"));
        broker.create_topic(&topic, 4)?;
        let mut consumer = Agent::ready(program, &broker, &topic, false, &["push", "--group", &group])?;
        for round in 0..3 {
            let sent: BTreeSet<String> = (0..20).map(|n| format!("{round}: {n}")).collect();
            for text in &sent {
                broker.send(&topic, text, &[])?;
            }
            broker.kill9()?;
            broker.restart()?;
            consumer.await_bodies(sent)?;
        }
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()
    })
}

/// Each queue in its order, with failures in between, and by one member at a time.
#[test]
fn orderly_consumers_get_each_queue_in_order() -> Result<()> {
    with_each(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("orderly"), unique("members"));
        let arguments = ["push", "--orderly", "--group", &group, "--fail-first", "1"];
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
        for number in 0..40 {
            producer.send(&Draft::body(format!("{number:03}").as_bytes()))?;
        }
        producer.finish()?;
        let mut consumer = Agent::ready(program, &broker, &topic, false, &arguments)?;
        let mut by_queue: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut done = 0;
        while done < 40 {
            let received = consumer.received()?;
            if received.result.as_deref() == Some("success") {
                done += 1;
                let queue = received.queue.map_or_else(String::new, |queue| queue.to_string());
                by_queue.entry(queue).or_default().push(received.body());
            }
        }
        assert_eq!(by_queue.len(), 4);
        for (queue, bodies) in by_queue {
            assert!(bodies.is_sorted(), "queue {queue}: {bodies:?}");
        }
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()
    })
}

#[test]
fn each_member_of_a_broadcasting_group_gets_everything() -> Result<()> {
    with_each(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("broadcast"), unique("members"));
        broker.create_topic(&topic, 2)?;
        let arguments = ["push", "--broadcasting", "--group", &group];
        let mut members = [
            Agent::ready(program, &broker, &topic, false, &arguments)?,
            Agent::ready(program, &broker, &topic, false, &arguments)?,
        ];
        // They begin behind the last message, once they have asked where that is: until both have had one.
        let mut number = 0;
        for member in &mut members {
            loop {
                broker.send(&topic, "first", &[])?;
                number += 1;
                assert!(number < 200, "a member gets nothing");
                if member.next(Duration::from_millis(500))?.is_some() {
                    break;
                }
            }
        }
        broker.send(&topic, "last", &[])?;
        for mut member in members {
            member.await_bodies(BTreeSet::from(["last".to_owned()]))?;
            member.finish()?;
        }
        Ok(())
    })
}

/// Members that share messages and one that broadcasts: each gets everything, as long as that one is there.
#[test]
fn one_member_that_broadcasts_makes_all_members_get_everything() -> Result<()> {
    with_each(broadcasting::to_all)
}

/// Retries come with a higher attempt, over TCP and over gRPC alike, and after the last one the message is a dead letter.
#[test]
fn failed_messages_come_again_and_end_as_dead_letters() -> Result<()> {
    with_each(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("retried"), unique("members"));
        broker.create_topic(&topic, 2)?;
        let arguments = ["push", "--group", &group, "--fail-first", "2", "--delay-level", "1"];
        let mut consumer = Agent::ready(program, &broker, &topic, false, &arguments)?;
        broker.send(&topic, "twice failed", &["--tag", "t", "--property", "colour=red"])?;
        for attempt in 1..=3 {
            let received = consumer.received()?;
            assert_eq!((received.body().as_str(), received.attempt), ("twice failed", attempt));
            assert_eq!((received.tag.as_deref(), received.topic.as_deref()), (Some("t"), Some(topic.as_str())));
        }
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()?;

        let group = unique("members");
        let arguments =
            ["push", "--group", &group, "--fail-all", "--delay-level", "1", "--max-reconsume", "1", "--filter", "dead"];
        let mut consumer = Agent::ready(program, &broker, &topic, false, &arguments)?;
        broker.send(&topic, "dead", &["--tag", "dead"])?;
        for attempt in 1..=2 {
            assert_eq!(consumer.received()?.attempt, attempt);
        }
        let dead = broker.receive(&format!("%DLQ%{group}"), &unique("undertakers"), 1)?;
        assert_eq!(dead[0]["body"], "dead");
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()
    })
}
