//! The published Java clients of the remoting protocol, 5.5.0 and 4.9.8, against the broker; what they send is read over gRPC.

use std::collections::{BTreeMap, BTreeSet};

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, Draft, Event, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::{now_millis, texts, unique};
use martlet_conformance::language::{Language, Program};

fn with_each(check: impl Fn(&Program) -> Result<()>) -> Result<()> {
    for language in [Language::JavaTcp, Language::JavaTcp4] {
        if let Some(program) = language.program()? {
            check(&program)?;
        }
    }
    Ok(())
}

/// The topic is made by the first send, and what was sent in each way is there with tag, keys and properties.
#[test]
fn what_tcp_clients_send_in_every_way_is_read_over_grpc() -> Result<()> {
    with_each(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("tcp"), unique("readers"));
        let mut expected = BTreeMap::new();
        for mode in ["sync", "async", "oneway", "queue"] {
            let arguments = ["produce", "--stdin", "--mode", mode, "--queue", "2"];
            let mut producer = Agent::ready(program, &broker, &topic, false, &arguments)?;
            let draft = Draft::full(&format!("by {mode}"));
            producer.feed(&draft)?;
            let (id, queue) = producer.wait("a send", PATIENCE_SECS, |event| match event {
                Event::Sent { id, queue, .. } => Some((id.clone(), *queue)),
                _ => None,
            })?;
            expected.insert(format!("by {mode}"), (id, queue));
            producer.finish()?;
        }
        let received = broker.receive(&topic, &group, expected.len())?;
        for message in &received {
            let body = message["body"].as_str().unwrap_or("");
            let (id, queue) = expected.remove(body).unwrap_or_else(|| panic!("{message} was not sent"));
            assert_eq!(message["message_id"].as_str(), Some(id.as_str()), "{message}");
            assert_eq!(texts(&message["keys"]), BTreeSet::from(["4711", "4712"]), "{message}");
            assert_eq!((&message["tag"], &message["attempt"]), (&"greeting".into(), &1.into()), "{message}");
            assert_eq!(message["properties"], serde_json::json!({"colour": "grün"}), "{message}");
            if let Some(queue) = queue {
                assert_eq!(message["queue"], queue, "{message}");
            }
            if body == "by queue" {
                assert_eq!(message["queue"], 2, "{message}");
            }
        }
        Ok(())
    })
}

#[test]
fn batches_and_compressed_bodies_arrive_whole_over_tls_and_the_old_port() -> Result<()> {
    with_each(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("batches"), unique("readers"));
        let arguments = ["produce", "--mode", "batch", "--count", "100"];
        Agent::ready(program, &broker, &topic, true, &arguments)?.finish()?;
        let received = broker.receive(&topic, &group, 100)?;
        let bodies: BTreeSet<_> = received.iter().filter_map(|message| message["body"].as_str()).collect();
        let queues: BTreeSet<_> = received.iter().filter_map(|message| message["queue"].as_u64()).collect();
        assert_eq!((bodies.len(), queues.len()), (100, 1), "all of a batch, in one queue");

        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin", "--vip"])?;
        producer.send(&Draft::body("long ".repeat(20_000).as_bytes()))?;
        producer.finish()?;
        let received = broker.receive(&topic, &group, 1)?;
        assert_eq!(received[0]["body_encoding"], "gzip", "compressed by its sender, and kept so");
        Ok(())
    })
}

#[test]
fn levels_and_timers_delay_and_a_recalled_message_never_comes() -> Result<()> {
    with_each(|program| {
        let broker = Broker::start()?;
        let (topic, group) = (unique("delayed"), unique("readers"));
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
        let began = now_millis();
        if program.language == Language::JavaTcp {
            let due = began + 5_000;
            producer.feed(&Draft { deliver_at_ms: Some(due), recall: true, ..Draft::body(b"recalled") })?;
            let recalled = producer.wait("a recall", PATIENCE_SECS, |event| match event {
                Event::Recalled { .. } => Some(Ok(())),
                Event::RecallFailed { message } => Some(Err(message.clone())),
                _ => None,
            })?;
            assert_eq!(recalled, Ok(()));
        }
        producer.send(&Draft { deliver_at_ms: Some(now_millis() + 6_000), ..Draft::body(b"timer") })?;
        producer.send(&Draft { delay_level: Some(2), ..Draft::body(b"level") })?;
        let sent = now_millis();
        let received = broker.receive(&topic, &group, 2)?;
        for message in &received {
            let stored = message["store_millis"].as_u64().unwrap_or(0);
            let wait = if message["body"] == "level" { 5_000 } else { 6_000 };
            assert!(stored >= began + wait, "{message} came after {} ms", stored.saturating_sub(began));
            assert!(
                stored <= sent + wait + 5_000,
                "{message} came {} ms after it was sent",
                stored.saturating_sub(sent)
            );
        }
        producer.finish()
    })
}

#[test]
fn transactions_end_as_their_producer_says_and_survive_a_kill_of_the_broker() -> Result<()> {
    with_each(|program| {
        let soon = ["--transaction-immunity-seconds", "2", "--transaction-check-interval-seconds", "2"];
        let Some(mut broker) = Broker::start_own_with("transactions", &soon)? else { return Ok(()) };
        let (topic, group) = (unique("transactions"), unique("readers"));
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin", "--transactional"])?;
        let mut send = |body: &str, transaction: &str, outcome: &str| -> Result<String> {
            producer.send(&Draft::full(body).in_transaction(transaction, outcome))
        };
        let mut expected = BTreeMap::from([
            ("committed", send("committed", "commit", "commit")?),
            ("silent, then committed", send("silent, then committed", "silent", "commit")?),
        ]);
        send("rolled back", "rollback", "commit")?;
        send("silent, then rolled back", "silent", "rollback")?;
        broker.kill9()?;
        broker.restart()?;
        producer.wait("a check", PATIENCE_SECS, |event| matches!(event, Event::Checked { .. }).then_some(()))?;
        for message in broker.receive(&topic, &group, expected.len())? {
            let body = message["body"].as_str().unwrap_or("").to_owned();
            let id = expected.remove(body.as_str()).unwrap_or_else(|| panic!("{body} came"));
            assert_eq!(message["message_id"].as_str(), Some(id.as_str()));
            assert_eq!(texts(&message["keys"]), BTreeSet::from(["4711", "4712"]), "{message}");
        }
        broker.await_no_transactions(&topic, PATIENCE_SECS)?;
        producer.finish()
    })
}

#[test]
fn nothing_acknowledged_is_lost_when_the_broker_is_killed_while_clients_send() -> Result<()> {
    with_each(|program| {
        let Some(mut broker) = Broker::start_own("a kill")? else { return Ok(()) };
        let (topic, group) = (unique("killed"), unique("readers"));
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--count", "3000"])?;
        let mut acknowledged = BTreeSet::new();
        let mut kills = 0;
        loop {
            let event = producer.wait("a send", PATIENCE_SECS, |event| match event {
                Event::Sent { id, .. } => Some(Some(id.clone())),
                Event::Done => Some(None),
                _ => None,
            })?;
            let Some(id) = event else { break };
            acknowledged.insert(id);
            if acknowledged.len() == 500 * (kills + 1) && kills < 3 {
                kills += 1;
                broker.kill9()?;
                broker.restart()?;
            }
        }
        assert_eq!((acknowledged.len(), kills), (3000, 3));
        let mut missing = acknowledged;
        while !missing.is_empty() {
            for message in broker.receive(&topic, &group, 1.max(missing.len() / 2))? {
                missing.remove(message["message_id"].as_str().unwrap_or(""));
            }
        }
        Ok(())
    })
}

/// The topic of traces, which nobody creates, on a broker that makes no others by itself.
#[test]
fn traces_of_a_message_are_consumed_like_messages_and_found_by_its_id() -> Result<()> {
    const TRACES: &str = "RMQ_SYS_TRACE_TOPIC";
    with_each(|program| {
        let Some(broker) = Broker::start_own_with("traces", &["--auto-create-topics", "false"])? else { return Ok(()) };
        let (topic, group) = (unique("traced"), unique("readers"));
        broker.create_topic(&topic, 4)?;
        let mut watcher = Agent::ready(program, &broker, TRACES, false, &["push", "--group", "watchers"])?;
        let mut consumer = Agent::ready(program, &broker, &topic, false, &["push", "--group", &group, "--trace"])?;
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin", "--trace"])?;
        let id = producer.send(&Draft::full("hello"))?;
        assert_eq!(consumer.received()?.id, id);
        let mut missing = BTreeSet::from(["Pub", "SubBefore", "SubAfter"]);
        while !missing.is_empty() {
            let traces = watcher.received()?;
            assert!(traces.keys.contains(&id), "{traces:?}");
            for record in traces.body().split('\u{2}') {
                let fields: Vec<_> = record.split('\u{1}').collect();
                if fields.contains(&id.as_str()) {
                    missing.remove(fields[0]);
                }
            }
        }
        let mut query = Agent::ready(program, &broker, TRACES, false, &["query", "--key", &id])?;
        let found = query.received()?;
        assert!(found.keys.contains(&id) && found.body().contains(&id), "{found:?}");
        query.finish()?;
        producer.finish()?;
        consumer.finish()?;
        watcher.finish()
    })
}
