//! The vendor's Java client 2.0.7, which speaks gRPC v1: by itself, beside clients of the other protocols, and in an instance.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use martlet_conformance::agent::{Agent, Draft, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::{texts, unique};
use martlet_conformance::language::{Language, Program};
use martlet_conformance::{Result, broadcasting, checks, transactions};

fn with(check: impl FnOnce(&Program) -> Result<()>) -> Result<()> {
    Language::OnsV1.program()?.map_or(Ok(()), |program| check(&program))
}

#[test]
fn push_consumer_gets_every_field() -> Result<()> {
    with(|program| checks::round_trip(program, "push", false))
}

#[test]
fn a_tag_filter_lets_through_what_it_names() -> Result<()> {
    with(checks::tag_filter)
}

#[test]
fn a_condition_lets_through_what_it_matches() -> Result<()> {
    with(checks::sql_filter)
}

#[test]
fn a_failed_message_comes_again_with_a_higher_attempt() -> Result<()> {
    with(checks::redelivery)
}

#[test]
fn the_client_resumes_after_the_broker_was_killed() -> Result<()> {
    with(checks::restart)
}

#[test]
fn delayed_messages_come_when_they_are_due() -> Result<()> {
    with(checks::delayed)
}

#[test]
fn messages_of_a_sharding_key_come_in_order() -> Result<()> {
    with(|program| checks::ordered(program, "push"))
}

#[test]
fn transactions_end_as_their_producer_says_through_kills() -> Result<()> {
    with(transactions::end_to_end)
}

/// Digests of many bodies, and bodies around the length from which the client compresses them.
#[test]
fn bodies_of_every_kind_arrive_whole() -> Result<()> {
    with(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("bodies"), unique("readers"));
        broker.create_topic(&topic, 2)?;
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
        let mut sent = BTreeMap::new();
        let short = (0..300u32).map(|n| format!("body {n}").into_bytes());
        let long = [4_095, 4_096, 4_097, 1 << 20].map(|length| vec![b'l'; length]);
        // Nothing to compress: it becomes longer by that.
        let noise: Vec<u8> = (0..4_194_304u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for body in short.chain(long).chain([noise]) {
            let draft = Draft::body(&body);
            sent.insert(producer.send(&draft)?, draft.body_hex);
        }
        producer.finish()?;
        let mut consumer = Agent::ready(program, &broker, &topic, false, &["push", "--group", &group])?;
        while !sent.is_empty() {
            let received = consumer.received()?;
            assert_eq!(received.attempt, 1, "{} was not taken the first time", received.id);
            assert!(sent.remove(&received.id).is_some_and(|body| body == received.body_hex), "{}", received.id);
        }
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()
    })
}

#[test]
fn what_fails_for_the_last_time_is_a_dead_letter_in_any_order_and_in_order() -> Result<()> {
    with(|program| {
        let Some(broker) = Broker::start_own("dead letters")? else { return Ok(()) };
        let (topic, group) = (unique("failing"), unique("members"));
        broker.create_topic(&topic, 2)?;
        broker.create_group(&group, 17, "1s")?;
        let arguments = ["push", "--group", &group, "--fail-all", "--max-reconsume", "2"];
        let mut consumer = Agent::ready(program, &broker, &topic, false, &arguments)?;
        broker.send(&topic, "dead", &["--tag", "t", "--property", "colour=red"])?;
        let mut ids = BTreeSet::new();
        for attempt in 1..=3 {
            let received = consumer.received()?;
            assert_eq!((received.attempt, received.tag.as_deref()), (attempt, Some("t")));
            ids.insert(received.id);
        }
        assert_eq!(ids.len(), 1);
        let dead = broker.receive(&format!("%DLQ%{group}"), &unique("undertakers"), 1)?.remove(0);
        assert_eq!((dead["body"].as_str(), &dead["properties"]["colour"]), (Some("dead"), &"red".into()));
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()?;

        // Its attempts are its own affair: the broker sees one hand-out, and that it gives up. What comes after goes on.
        let (topic, group) = (unique("ordered"), unique("members"));
        broker.create_ordered(&topic, 1, &group, "1s")?;
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
        for body in ["first", "second"] {
            producer.send(&Draft { message_group: Some("key".into()), ..Draft::body(body.as_bytes()) })?;
        }
        let arguments = ["push", "--orderly", "--group", &group, "--fail-first", "2", "--max-reconsume", "1"];
        let mut consumer = Agent::ready(program, &broker, &topic, false, &arguments)?;
        let mut seen = Vec::new();
        for _ in 0..4 {
            let received = consumer.received()?;
            seen.push((received.body(), received.attempt));
        }
        let expected = [("first", 1), ("first", 2), ("second", 1), ("second", 2)];
        assert_eq!(seen, expected.map(|(body, attempt)| (body.to_owned(), attempt)));
        let dead = broker.receive(&format!("%DLQ%{group}"), &unique("undertakers"), 2)?;
        assert_eq!(dead.iter().filter_map(|dead| dead["body"].as_str()).collect::<BTreeSet<_>>().len(), 2);
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()?;
        producer.finish()
    })
}

#[test]
fn members_share_one_queue_and_another_goes_on_where_one_was_killed() -> Result<()> {
    with(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("shared"), unique("members"));
        broker.create_topic(&topic, 1)?;
        let start = || Agent::ready(program, &broker, &topic, false, &["push", "--group", &group]);
        let mut members = [start()?, start()?];
        let mut sent = 0;
        // Until each has had one: messages are shared, not queues.
        for member in &mut members {
            loop {
                broker.send(&topic, "first", &[])?;
                sent += 1;
                assert!(sent < 200, "a member gets nothing");
                if member.next(Duration::from_millis(500))?.is_some() {
                    break;
                }
            }
        }
        let [one, mut other] = members;
        one.kill();
        for n in 0..20 {
            broker.send(&topic, &format!("after {n}"), &[])?;
        }
        // What the killed one was handed in the meantime comes when its broker has not heard of it for two minutes.
        other.await_bodies((0..20).map(|n| format!("after {n}")).collect())?;
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        other.finish()
    })
}

#[test]
fn one_member_that_broadcasts_makes_all_members_get_everything() -> Result<()> {
    with(broadcasting::to_all)
}

/// `(I, name)` here, over HTTP and over gRPC v2 is `I%name` over TCP and for the command line.
#[test]
fn names_of_an_instance_meet_across_generations() -> Result<()> {
    with(|program| {
        let broker = Broker::start()?;
        let (topic, instance) = (unique("orders"), "MQ_INST_1");
        let full_name = format!("{instance}%{topic}");
        broker.create_topic(&full_name, 2)?;
        let produce = ["produce", "--stdin", "--instance", instance];
        let mut producer = Agent::ready(program, &broker, &topic, false, &produce)?;
        let id = producer.send(&Draft::full("from v1"))?;
        let message = broker.receive(&full_name, &unique("readers"), 1)?.remove(0);
        assert_eq!((message["message_id"].as_str(), message["tag"].as_str()), (Some(id.as_str()), Some("greeting")));
        assert_eq!(texts(&message["keys"]), BTreeSet::from(["4711", "4712"]), "{message}");

        let mut sent = BTreeSet::from(["from v1".to_owned()]);
        for sender in [Language::Ons, Language::PythonHttp, Language::Java, Language::Python] {
            let Some(sender) = sender.program()? else { continue };
            let mut producer = Agent::ready(&sender, &broker, &topic, false, &produce)?;
            let body = format!("from {}", sender.language.name());
            producer.send(&Draft::full(&body))?;
            sent.insert(body);
            producer.finish()?;
        }
        let mut readers = vec![program.clone()];
        for reader in [Language::Java, Language::Python] {
            readers.extend(reader.program()?);
        }
        for reader in &readers {
            let (group, mut missing) = (unique("readers"), sent.clone());
            let arguments = [reader.language.consumer(), "--group", &group, "--instance", instance];
            let mut consumer = Agent::ready(reader, &broker, &topic, false, &arguments)?;
            while !missing.is_empty() {
                let received = consumer.received()?;
                assert!(missing.remove(&received.body()), "{received:?}");
                assert_eq!(received.topic.as_deref(), Some(topic.as_str()));
                assert_eq!(received.keys, BTreeSet::from(["4711", "4712"].map(str::to_owned)), "{received:?}");
            }
            broker.await_no_backlog(&format!("{instance}%{group}"), PATIENCE_SECS)?;
            consumer.finish()?;
        }
        producer.finish()
    })
}

/// It closes by waiting for the answers to all that it has asked, which its polls would have for 20 s.
#[test]
fn a_client_that_ends_does_not_wait_for_its_polls() -> Result<()> {
    with(|program| {
        let broker = Broker::start()?;
        let topic = unique("idle");
        broker.create_topic(&topic, 2)?;
        let arguments = ["push", "--group", &unique("readers"), "--batch", "4"];
        let mut consumer = Agent::ready(program, &broker, &topic, false, &arguments)?;
        broker.send(&topic, "hello", &[])?;
        assert_eq!(consumer.received()?.body(), "hello");
        let begun = std::time::Instant::now();
        consumer.finish()?;
        assert!(begun.elapsed() < Duration::from_secs(15), "ended after {:?}", begun.elapsed());
        Ok(())
    })
}
