//! What every client must be able to do. One function per fear; a language's test file calls all of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::{Agent, Draft, Event, PATIENCE_SECS, Received};
use crate::broker::Broker;
use crate::language::{Language, Program};
use crate::{Result, not_in_client};

/// A name nobody else uses: a broker that is not ours keeps what earlier runs left.
pub fn unique(name: &str) -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{name}-{}-{}", since.as_nanos(), std::process::id())
}

/// Milliseconds since the Unix epoch.
pub fn now_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The texts in a list of JSON.
pub fn texts(value: &serde_json::Value) -> BTreeSet<&str> {
    value.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str).collect()
}

fn drafts() -> Vec<Draft> {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let full = Draft {
        keys: ["order-1", "bestellung"].map(String::from).into(),
        tag: Some("created".into()),
        properties: BTreeMap::from([("region".into(), "eu".into()), ("größe".into(), "小".into())]),
        ..Draft::body(&all_bytes)
    };
    // Half a MiB of bytes that do not compress well: clients deflate bodies above 4 KiB.
    let large: Vec<u8> = (0..524_288u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    vec![full, Draft::body(b"x"), Draft { tag: Some("large".into()), ..Draft::body(&large) }]
}

fn same(sent: &BTreeMap<String, Draft>, received: &Received) {
    let draft = sent.get(&received.id);
    assert!(draft.is_some(), "a message with an id nobody sent: {}", received.id);
    let Some(draft) = draft else { return };
    assert!(draft.body_hex == received.body_hex, "body of {} changed", received.id);
    assert_eq!(draft.tag, received.tag, "tag");
    assert_eq!(draft.keys, received.keys, "keys");
    assert_eq!(draft.properties, received.properties, "properties");
    assert_eq!(received.attempt, 1, "attempt of a first delivery");
}

/// Producer to consumer, with every field intact. `consumer` is `simple` or `push`.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn round_trip(program: &Program, consumer: &str, tls: bool) -> Result<()> {
    if consumer == "push" && !push(program.language) {
        return Ok(());
    }
    let broker = Broker::start()?;
    if tls && broker.certificate().is_none() && verifies(program.language) {
        crate::skip(
            program.language.name(),
            "this client verifies certificates: name the broker's in CONFORMANCE_CERTIFICATE",
        );
        return Ok(());
    }
    let (topic, group) = (unique("round-trip"), unique("readers"));
    broker.create_topic(&topic, 4)?;
    broker.create_group(&group, 17, "10s")?;
    let mut producer = Agent::ready(program, &broker, &topic, tls, &["produce", "--stdin"])?;
    let mut sent = BTreeMap::new();
    for draft in drafts() {
        sent.insert(producer.send(&draft)?, draft);
    }
    producer.finish()?;
    let count = sent.len().to_string();
    let mut arguments = vec![consumer, "--group", &group];
    if consumer == "simple" {
        // It has every answer when it ends; a push consumer acknowledges in the background and must not end before.
        arguments.extend(["--count", &count]);
    }
    let mut reader = Agent::ready(program, &broker, &topic, tls, &arguments)?;
    let expected = sent.clone();
    while !sent.is_empty() {
        let received = reader.received()?;
        same(&expected, &received);
        assert!(sent.remove(&received.id).is_some(), "{} was delivered twice", received.id);
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    reader.finish()
}

fn verifies(language: Language) -> bool {
    matches!(language, Language::Python | Language::Nodejs | Language::Rust)
}

fn simple(language: Language) -> bool {
    language.consumer() == "simple"
}

fn push(language: Language) -> bool {
    if !language.has_push() {
        not_in_client(language.name(), "the published version has no push consumer");
    }
    language.has_push()
}

/// A tag expression lets through what it names and nothing else.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn tag_filter(program: &Program) -> Result<()> {
    let broker = Broker::start()?;
    let topic = unique("filtered");
    // One queue: what comes after an unwanted message proves that it was left out and not just late.
    broker.create_topic(&topic, 1)?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    for tag in ["a", "c", "b", "c", "a"] {
        producer.send(&Draft { tag: Some(tag.into()), ..Draft::body(tag.as_bytes()) })?;
    }
    for consumer in ["simple", "push"] {
        if consumer == "push" && !push(program.language) || consumer == "simple" && !simple(program.language) {
            continue;
        }
        let group = unique("filtering");
        broker.create_group(&group, 17, "10s")?;
        let arguments = [consumer, "--group", &group, "--filter", "a || b", "--count", "3"];
        let mut reader = Agent::ready(program, &broker, &topic, false, &arguments)?;
        let mut tags = Vec::new();
        for _ in 0..3 {
            tags.push(reader.received()?.tag.unwrap_or_default());
        }
        tags.sort();
        assert_eq!(tags, ["a", "a", "b"], "{consumer}");
        reader.finish()?;
    }
    Ok(())
}

/// SQL conditions over properties and the tag.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn sql_filter(program: &Program) -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = (unique("filtered"), unique("filtering"));
    broker.create_topic(&topic, 1)?;
    broker.create_group(&group, 17, "10s")?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    for (tag, region, amount) in [("a", "eu", 5), ("b", "eu", 50), ("b", "us", 50), ("b", "eu", 7), ("a", "eu", 70)] {
        let properties = BTreeMap::from([("region".into(), region.into()), ("amount".into(), amount.to_string())]);
        producer.send(&Draft { tag: Some(tag.into()), properties, ..Draft::body(b"order") })?;
    }
    let condition = "sql:region = 'eu' AND (amount BETWEEN 40 AND 60 OR TAGS IN ('a') AND amount > 6)";
    let arguments = [program.language.consumer(), "--group", &group, "--filter", condition];
    let mut reader = Agent::ready(program, &broker, &topic, false, &arguments)?;
    let mut amounts = [reader.received()?, reader.received()?].map(|received| received.properties["amount"].clone());
    amounts.sort();
    assert_eq!(amounts, ["50", "70"]);
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    reader.finish()
}

/// Delayed messages come when they are due, through a kill of the broker while they wait, and a recalled one never does.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn delayed(program: &Program) -> Result<()> {
    let Some(mut broker) = Broker::start_own("delay")? else { return Ok(()) };
    let (topic, group) = (unique("delayed"), unique("waiting"));
    broker.create_topic_for("delay", &topic, 1)?;
    broker.create_group(&group, 17, "10s")?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    let arguments = [program.language.consumer(), "--group", &group];
    let mut reader = Agent::ready(program, &broker, &topic, false, &arguments)?;
    let recalls = program.language.has_recall();
    if !recalls {
        not_in_client(program.language.name(), "the published version cannot recall a message");
    }
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let due_in = |secs: u64| (since.as_secs() + secs) * 1_000;
    let mut sent = BTreeMap::new();
    // One queue: what is due last shows that the recalled one before it does not come.
    for (body, secs, recall) in [("past", 0, false), ("soon", 8, false), ("recalled", 9, recalls), ("last", 12, false)]
    {
        let deliver_at_ms = Some(due_in(secs));
        let id = producer.send(&Draft { deliver_at_ms, recall, ..Draft::body(body.as_bytes()) })?;
        if recall {
            let recalled = producer.wait("a recall", PATIENCE_SECS, |event| match event {
                Event::Recalled { id } => Some(Ok(id.clone())),
                Event::RecallFailed { message } => Some(Err(message.clone())),
                _ => None,
            })?;
            assert_eq!(recalled, Ok(id), "{body}");
        } else {
            sent.insert(id, (body, secs));
        }
    }
    assert_eq!(sent.get(&reader.received()?.id), Some(&("past", 0)), "a time in the past is now");
    broker.kill9()?;
    broker.restart()?;
    let mut came = vec!["past"];
    while came.len() < sent.len() {
        let received = reader.received()?;
        let (body, secs) = sent[&received.id];
        if !came.contains(&body) {
            assert!(received.at_ms() >= due_in(secs), "{body} came {} ms early", due_in(secs) - received.at_ms());
            came.push(body);
        }
    }
    assert_eq!(came, if recalls { vec!["past", "soon", "last"] } else { vec!["past", "soon", "recalled", "last"] });
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    reader.finish()
}

/// A message whose consumption fails comes again, with a higher attempt and not before its time.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn redelivery(program: &Program) -> Result<()> {
    let Some(broker) = Broker::start_own("redelivery")? else { return Ok(()) };
    let (topic, group) = (unique("failing"), unique("failers"));
    broker.create_topic(&topic, 1)?;
    broker.create_group(&group, 5, "1s,2s")?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    let id = producer.send(&Draft::body(b"again"))?;
    if push(program.language) {
        let waits_ms: &[u64] = if program.language.keeps_backoff() {
            &[1000, 2000]
        } else {
            not_in_client(program.language.name(), "the published push consumer does not keep the group's back-off");
            &[0, 0]
        };
        comes_again(program, &broker, &topic, &id, &group, &["push", "--fail-first", "2"], waits_ms)?;
    }
    if !program.language.has_push() || !program.language.keeps_backoff() {
        // Not acknowledged, it lapses, whatever the client knows of back-off. Ten seconds is the shortest invisible duration; it begins before
        // the delivery is on its way, hence the seconds less.
        let group = unique("lapsers");
        broker.create_group(&group, 5, "1s,2s")?;
        let arguments = ["simple", "--fail-first", "1", "--count", "1", "--invisible-secs", "10"];
        comes_again(program, &broker, &topic, &id, &group, &arguments, &[7000])?;
    }
    Ok(())
}

/// One delivery, then one more for each of `waits_ms`, the shortest times in between.
fn comes_again(
    program: &Program,
    broker: &Broker,
    topic: &str,
    id: &str,
    group: &str,
    arguments: &[&str],
    waits_ms: &[u64],
) -> Result<()> {
    /// By how much the clocks of the agent and the broker may seem to differ.
    const CLOCKS_MS: u64 = 50;
    let mut reader = Agent::ready(program, broker, topic, false, &[arguments, &["--group", group]].concat())?;
    let mut last = reader.received()?;
    assert_eq!((last.id.as_str(), last.attempt), (id, 1));
    for wait in waits_ms {
        let next = reader.received()?;
        assert_eq!(next.id, id);
        assert_eq!(next.attempt, last.attempt + 1, "each delivery counts one more");
        let waited = next.at_ms().saturating_sub(last.at_ms());
        assert!(waited + CLOCKS_MS >= *wait, "came again after {waited} ms, not {wait} ms");
        last = next;
    }
    // The last acknowledgement may still be on its way.
    broker.await_no_backlog(group, PATIENCE_SECS)?;
    reader.finish()
}

/// A simple consumer may ask for a message to be visible again sooner or later.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn change_invisible(program: &Program) -> Result<()> {
    if !program.language.has_change_invisible() {
        not_in_client(program.language.name(), "the published version cannot change an invisible duration");
        return Ok(());
    }
    let broker = Broker::start()?;
    let (topic, group) = (unique("postponed"), unique("postponers"));
    broker.create_topic(&topic, 1)?;
    broker.create_group(&group, 17, "10s")?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    let id = producer.send(&Draft::body(b"later"))?;
    let arguments = ["simple", "--group", &group, "--invisible-secs", "60", "--change-invisible", "2", "--count", "1"];
    let mut reader = Agent::ready(program, &broker, &topic, false, &arguments)?;
    assert_eq!(reader.received()?.attempt, 1);
    reader.wait("the change", PATIENCE_SECS, |event| matches!(event, Event::Changed { .. }).then_some(()))?;
    let again = reader.received()?;
    assert_eq!((again.id, again.attempt), (id, 2));
    reader.finish()
}

/// Clients carry on by themselves after the broker was killed and started again, and nothing acknowledged is lost.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn restart(program: &Program) -> Result<()> {
    let Some(mut broker) = Broker::start_own("restart")? else { return Ok(()) };
    let (topic, group) = (unique("killed"), unique("survivors"));
    broker.create_topic(&topic, 2)?;
    broker.create_group(&group, 17, "1s")?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    let consumer = if push(program.language) { "push" } else { "simple" };
    let arguments = [consumer, "--group", &group];
    let mut reader = Agent::ready(program, &broker, &topic, false, &arguments)?;
    let mut missing = BTreeMap::new();
    for round in 0..2 {
        for number in 0..10 {
            let draft = Draft::body(format!("{round}/{number}").as_bytes());
            missing.insert(draft.body_hex.clone(), producer.send(&draft)?);
        }
        if round == 0 {
            // Some are consumed before the kill, some may not be.
            missing.remove(&reader.received()?.body_hex);
            broker.kill9()?;
            broker.restart()?;
        }
    }
    // A message in flight at the kill comes again when its invisible duration (60 s for push consumers) lapses.
    while !missing.is_empty() {
        missing.remove(&reader.received()?.body_hex);
    }
    reader.finish()
}

/// Messages of a message group come in the order they were sent, through a kill of the broker in the middle.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn ordered(program: &Program, consumer: &str) -> Result<()> {
    const GROUPS: usize = 3;
    const MESSAGES: usize = 12;
    if consumer == "push" && !push(program.language) {
        return Ok(());
    }
    let Some(mut broker) = Broker::start_own("order")? else { return Ok(()) };
    let (topic, group) = (unique("ordered"), unique("in-order"));
    broker.create_ordered(&topic, 2, &group, "1s")?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    let arguments = [&[consumer, "--group", &group], program.language.in_order()].concat();
    let mut reader = Agent::ready(program, &broker, &topic, false, &arguments)?;
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut take = |reader: &mut Agent| -> Result<usize> {
        let received = reader.received()?;
        let message_group = received.message_group.unwrap_or_default();
        let of_group = seen.entry(message_group).or_default();
        // What was in flight at the kill may come twice; what counts is when it came first.
        if !of_group.contains(&received.body_hex) {
            of_group.push(received.body_hex);
        }
        Ok(seen.values().map(Vec::len).sum())
    };
    for number in 0..MESSAGES {
        for of_group in 0..GROUPS {
            let message_group = Some(format!("customer {of_group}"));
            producer.send(&Draft { message_group, ..Draft::body(format!("{number:03}").as_bytes()) })?;
        }
        if number == MESSAGES / 2 {
            take(&mut reader)?;
            broker.kill9()?;
            broker.restart()?;
        }
    }
    while take(&mut reader)? < GROUPS * MESSAGES {}
    let sent: Vec<String> = (0..MESSAGES).map(|n| crate::agent::hex(format!("{n:03}").as_bytes())).collect();
    assert_eq!(seen.len(), GROUPS, "message groups: {:?}", seen.keys());
    for (message_group, came) in &seen {
        assert_eq!(came, &sent, "{message_group}, {consumer}");
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    reader.finish()
}

/// What was sent before anybody received comes by priority, the highest first, also after a kill of the broker.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn by_priority(program: &Program) -> Result<()> {
    let Some(lowest) = program.language.lowest_priority() else {
        not_in_client(program.language.name(), "the published version knows no priority");
        return Ok(());
    };
    let Some(mut broker) = Broker::start_own("priority")? else { return Ok(()) };
    let (topic, group) = (unique("alarms"), unique("watch"));
    broker.create_topic_for("priority", &topic, 4 + lowest.unsigned_abs())?;
    broker.create_group(&group, 17, "10s")?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    let priorities = [1, 0, 3, 9, 2, 0, 1, 3];
    for (number, priority) in priorities.into_iter().enumerate() {
        let draft = Draft { priority: Some(priority + lowest), ..Draft::body(format!("{number}").as_bytes()) };
        producer.send(&draft)?;
        if number == 4 {
            broker.kill9()?;
            broker.restart()?;
        }
    }
    let count = priorities.len().to_string();
    let mut reader = Agent::ready(
        program,
        &broker,
        &topic,
        false,
        &["simple", "--group", &group, "--batch", &count, "--count", &count],
    )?;
    let mut levels = Vec::new();
    for _ in priorities {
        let received = reader.received()?;
        let is_it = |number: &usize| crate::agent::hex(format!("{number}").as_bytes()) == received.body_hex;
        let priority = (0..priorities.len()).find(is_it).map(|number| priorities[number]);
        levels.push(priority.map(|priority| priority.min(3)));
    }
    assert_eq!(levels, [3, 3, 3, 2, 1, 1, 0, 0].map(Some), "{}", program.language.name());
    reader.finish()
}
