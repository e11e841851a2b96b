//! The published clients of the HTTP SDK protocol against the broker, and beside clients of the other protocols. Every request
//! is signed, and the broker checks that.

use std::collections::{BTreeMap, BTreeSet};

use martlet_conformance::agent::{Agent, Draft, Event, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::{now_millis, texts, unique};
use martlet_conformance::language::{Language, Program};
use martlet_conformance::{HarnessError, Result};

/// What clients of other protocols are told besides: the broker of these tests takes signed requests only.
const SIGNED: [&str; 4] = ["--access-key", "key", "--secret-key", "secret"];

/// Calls with the program of each language, and a broker that knows their key.
fn with_each(flags: &[&str], check: impl Fn(&Program, &Broker) -> Result<()>) -> Result<()> {
    for language in [Language::PythonHttp, Language::NodejsHttp, Language::JavaHttp] {
        let Some(program) = language.program()? else { continue };
        let io = |source| HarnessError::Io { what: "writing accounts".into(), source };
        let accounts = tempfile::NamedTempFile::new().map_err(io)?;
        std::fs::write(accounts.path(), "key secret\n").map_err(io)?;
        let path = accounts.path().display().to_string();
        let flags = [&["--accounts", &*path], flags].concat();
        if let Some(broker) = Broker::start_own_with(language.name(), &flags)? {
            check(&program, &broker)?;
        }
    }
    Ok(())
}

/// What XML escapes, lines, and characters of more than one byte and unit.
const ODD_BODY: &str = "<a href=\"x\">it's & äöü 漢字 😀</a>\n\tend";

#[test]
fn what_http_clients_send_is_read_over_grpc_with_every_field() -> Result<()> {
    with_each(&[], |program, broker| {
        for (instance, topic) in [("", unique("fields")), ("MQ_INST", unique("fields"))] {
            let arguments = ["produce", "--stdin", "--instance", instance];
            let arguments = if instance.is_empty() { &arguments[..2] } else { &arguments[..] };
            let mut producer = Agent::ready(program, broker, &topic, false, arguments)?;
            let id = producer.send(&Draft::full(ODD_BODY))?;
            let full_name = if instance.is_empty() { topic.clone() } else { format!("{instance}%{topic}") };
            let message = broker.receive(&full_name, &unique("readers"), 1)?.remove(0);
            assert_eq!(message["message_id"].as_str(), Some(id.as_str()), "{message}");
            assert_eq!((message["body"].as_str(), message["tag"].as_str()), (Some(ODD_BODY), Some("greeting")));
            assert_eq!(texts(&message["keys"]), BTreeSet::from(["4711", "4712"]), "{message}");
            assert_eq!(message["properties"], serde_json::json!({"colour": "grün"}), "{message}");
            producer.finish()?;
        }
        Ok(())
    })
}

#[test]
fn what_is_sent_over_grpc_and_http_is_consumed_over_http_with_every_field() -> Result<()> {
    with_each(&[], |program, broker| {
        let (topic, group) = (unique("fields"), unique("readers"));
        let mut producer = Agent::ready(program, broker, &topic, false, &["produce", "--stdin"])?;
        let arguments = ["consume", "--group", &group, "--filter", "greeting||other"];
        let mut consumer = Agent::ready(program, broker, &topic, false, &arguments)?;
        producer.send(&Draft { tag: Some("unwanted".into()), ..Draft::full("unwanted") })?;
        let flags = ["--tag", "greeting", "--key", "4711", "--key", "4712", "--property", "colour=grün"];
        broker.send(&topic, ODD_BODY, &flags)?;
        producer.send(&Draft::full(ODD_BODY))?;
        for _ in 0..2 {
            let received = consumer.received()?;
            assert_eq!((received.body().as_str(), received.attempt), (ODD_BODY, 1), "{received:?}");
            assert_eq!(received.tag.as_deref(), Some("greeting"));
            assert_eq!(received.keys, ["4711", "4712"].map(str::to_owned).into());
            assert_eq!(received.properties, BTreeMap::from([("colour".to_owned(), "grün".to_owned())]));
        }
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()?;
        producer.finish()
    })
}

#[test]
fn a_refused_handle_is_named_and_the_one_beside_it_is_settled() -> Result<()> {
    with_each(&[], |program, broker| {
        let (topic, group) = (unique("refused"), unique("readers"));
        broker.send(&topic, "hello", &[])?;
        let mut consumer =
            Agent::ready(program, broker, &topic, false, &["consume", "--group", &group, "--ack-twice"])?;
        let said = consumer.wait("a refusal", PATIENCE_SECS, |event| match event {
            Event::AckFailed { message, .. } => Some(message.clone()),
            _ => None,
        })?;
        assert_eq!(said, "ReceiptHandleError: the other one");
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()
    })
}

#[test]
fn what_is_not_acknowledged_comes_again_with_a_higher_attempt() -> Result<()> {
    with_each(&[], |program, broker| {
        let (topic, group) = (unique("again"), unique("readers"));
        broker.create_group(&group, 3, "1s")?;
        broker.send(&topic, "hello", &[])?;
        let arguments = ["consume", "--group", &group, "--fail-first", "1"];
        let mut consumer = Agent::ready(program, broker, &topic, false, &arguments)?;
        let (first, second) = (consumer.received()?, consumer.received()?);
        assert_eq!((first.attempt, second.attempt), (1, 2));
        assert_eq!((&first.id, first.body()), (&second.id, second.body()));
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()
    })
}

#[test]
fn messages_of_a_sharding_key_come_in_order_and_delays_hold() -> Result<()> {
    with_each(&[], |program, broker| {
        let (topic, group) = (unique("ordered"), unique("readers"));
        let mut producer = Agent::ready(program, broker, &topic, false, &["produce", "--stdin"])?;
        let arguments = ["consume", "--group", &group, "--orderly", "--batch", "4"];
        let mut consumer = Agent::ready(program, broker, &topic, false, &arguments)?;
        for n in 0..30 {
            let message_group = Some(format!("key-{}", n % 3));
            producer.send(&Draft { message_group, ..Draft::body(n.to_string().as_bytes()) })?;
        }
        let mut next = BTreeMap::from([(0, 0), (1, 1), (2, 2)]);
        for _ in 0..30 {
            let received = consumer.received()?;
            let n: u32 = received.body().parse().expect("a number");
            assert_eq!(received.message_group, Some(format!("key-{}", n % 3)));
            assert_eq!(next.insert(n % 3, n + 3), Some(n), "{n} is out of order");
        }
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        consumer.finish()?;

        let (topic, due) = (unique("later"), now_millis() + 3_000);
        let mut later = Agent::ready(program, broker, &topic, false, &["produce", "--stdin"])?;
        later.send(&Draft { deliver_at_ms: Some(due), ..Draft::body(b"later") })?;
        let arguments = ["consume", "--group", &unique("readers")];
        let mut consumer = Agent::ready(program, broker, &topic, false, &arguments)?;
        let received = consumer.received()?;
        assert!(received.at_ms() >= due, "{} ms early", due - received.at_ms());
        consumer.finish()?;
        later.finish()?;
        producer.finish()
    })
}

#[test]
fn transactions_end_as_their_sender_says_or_whoever_asks_for_them() -> Result<()> {
    with_each(&[], |program, broker| {
        let (topic, group) = (unique("transactions"), unique("readers"));
        let mut producer = Agent::ready(program, broker, &topic, false, &["produce", "--stdin"])?;
        let mut send = |body: &str, transaction: &str, outcome: &str| -> Result<String> {
            producer.send(&Draft::full(body).in_transaction(transaction, outcome))
        };
        let mut expected = BTreeMap::from([
            ("committed", send("committed", "commit", "commit")?),
            ("silent, then committed", send("silent, then committed", "silent", "commit")?),
        ]);
        send("rolled back", "rollback", "commit")?;
        send("silent, then rolled back", "silent", "rollback")?;
        let halves = Agent::ready(program, broker, &topic, false, &["halves"])?;
        for message in broker.receive(&topic, &group, expected.len())? {
            let body = message["body"].as_str().unwrap_or("").to_owned();
            let id = expected.remove(body.as_str()).unwrap_or_else(|| panic!("{body} came"));
            assert_eq!(message["message_id"].as_str(), Some(id.as_str()));
        }
        broker.await_no_transactions(&topic, PATIENCE_SECS)?;
        halves.finish()?;
        producer.finish()
    })
}

#[test]
fn a_wrong_secret_and_an_unknown_key_are_refused() -> Result<()> {
    with_each(&[], |program, broker| {
        for (key, secret, code) in
            [("key", "wrong", "SignatureDoesNotMatch"), ("nobody", "secret", "InvalidAccessKeyId")]
        {
            let arguments = ["produce", "--stdin", "--access-key", key, "--secret-key", secret];
            let mut producer = Agent::ready(program, broker, &unique("refused"), false, &arguments)?;
            producer.feed(&Draft::body(b"hello"))?;
            let said = producer.wait("a refusal", PATIENCE_SECS, |event| match event {
                Event::SendFailed { message, .. } => Some(message.clone()),
                _ => None,
            })?;
            assert!(said.contains(code), "{said}");
            producer.finish()?;
        }
        Ok(())
    })
}

#[test]
fn tcp_and_http_clients_read_what_the_other_has_sent() -> Result<()> {
    let Some(tcp) = Language::JavaTcp.program()? else { return Ok(()) };
    with_each(&[], |program, broker| {
        let (topic, group) = (unique("both"), unique("readers"));
        let mut sender = Agent::ready(&tcp, broker, &topic, false, &[&["produce", "--stdin"], &SIGNED[..]].concat())?;
        // Long enough to be compressed by its sender.
        let long = "long text ".repeat(5_000);
        let id = sender.send(&Draft::full(&long))?;
        let mut consumer = Agent::ready(program, broker, &topic, false, &["consume", "--group", &group])?;
        let received = consumer.received()?;
        assert!(received.body() == long, "the body is another one");
        assert_eq!((&received.id, received.tag.as_deref()), (&id, Some("greeting")));
        assert_eq!(received.keys, ["4711", "4712"].map(str::to_owned).into());
        assert_eq!(received.properties.get("colour").map(String::as_str), Some("grün"), "{received:?}");
        consumer.finish()?;
        sender.finish()?;

        let readers = unique("readers");
        let arguments = [&["push", "--group", &readers], &SIGNED[..]].concat();
        let mut consumer = Agent::ready(&tcp, broker, &topic, false, &arguments)?;
        consumer.received()?;
        let mut sender = Agent::ready(program, broker, &topic, false, &["produce", "--stdin"])?;
        let id = sender.send(&Draft::full(ODD_BODY))?;
        let received = consumer.received()?;
        assert_eq!((&*received.body(), &received.id, received.tag.as_deref()), (ODD_BODY, &id, Some("greeting")));
        assert_eq!(received.keys, ["4711", "4712"].map(str::to_owned).into());
        assert_eq!(received.properties.get("colour").map(String::as_str), Some("grün"), "{received:?}");
        sender.finish()?;
        consumer.finish()
    })
}
