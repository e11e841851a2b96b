//! Lite topics with real clients, through kills.

use std::collections::BTreeMap;

use crate::agent::{Agent, Draft, Event, PATIENCE_SECS, hex};
use crate::broker::Broker;
use crate::checks::unique;
use crate::language::Program;
use crate::{Result, not_in_client};

/// A name of one letter: the Python client (5.1.2) subscribes to each letter of a name (`LiteTopicSubscriptionManager.subscribe_lite`), and to
/// the name itself only with its next full set, up to 30 s later and by no means from another client.
const ONE_LETTER: &str = "a";

/// Whether the client has this consumer, `lite` or `lite-simple`; said aloud if not.
fn has(program: &Program, consumer: &str) -> bool {
    let language = program.language;
    let (has, what) = match consumer {
        "lite-simple" => (language.has_lite_simple(), "the published version has no lite simple consumer"),
        _ => (language.has_lite(), "the published version knows no lite topics"),
    };
    if !has {
        not_in_client(language.name(), what);
    }
    has
}

/// Two clients of a group each get the lite topics they subscribe to and no others, each in order, through a kill of the broker.
/// `consumer` is `lite` or `lite-simple`.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn in_order(program: &Program, consumer: &str) -> Result<()> {
    const MESSAGES: usize = 12;
    if !has(program, consumer) {
        return Ok(());
    }
    let Some(mut broker) = Broker::start_own("lite topics")? else { return Ok(()) };
    let (topic, group) = (unique("chat"), unique("web"));
    broker.create_lite(&topic, &group, false)?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    let sets = ["alice,bob", "carol"];
    let mut readers = Vec::new();
    for set in sets {
        let arguments = [consumer, "--group", &group, "--lite-topics", set];
        readers.push(Agent::ready(program, &broker, &topic, false, &arguments)?);
    }
    for number in 0..MESSAGES {
        for lite_topic in sets.iter().flat_map(|set| set.split(',')) {
            let lite_topic = Some(lite_topic.to_owned());
            producer.send(&Draft { lite_topic, ..Draft::body(format!("{number:03}").as_bytes()) })?;
        }
        if number == MESSAGES / 2 {
            broker.kill9()?;
            broker.restart()?;
        }
    }
    let sent: Vec<String> = (0..MESSAGES).map(|n| hex(format!("{n:03}").as_bytes())).collect();
    for (reader, set) in readers.iter_mut().zip(sets) {
        let wanted = set.split(',').count();
        let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while seen.values().map(Vec::len).sum::<usize>() < wanted * MESSAGES {
            let received = reader.received()?;
            let of_topic = seen.entry(received.lite_topic.unwrap_or_default()).or_default();
            // What was in flight at the kill may come twice; what counts is when it came first.
            if !of_topic.contains(&received.body_hex) {
                of_topic.push(received.body_hex);
            }
        }
        assert_eq!(seen.keys().map(String::as_str).collect::<Vec<_>>(), set.split(',').collect::<Vec<_>>());
        for (lite_topic, came) in &seen {
            assert_eq!(came, &sent, "{lite_topic}");
        }
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    readers.into_iter().try_for_each(Agent::finish)
}

/// Where a lite topic is one client's at a time, the newest subscriber gets it and the one before it is told, and that stays so through a
/// kill of the broker.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn taken_over(program: &Program) -> Result<()> {
    if !has(program, "lite") {
        return Ok(());
    }
    let Some(mut broker) = Broker::start_own("lite topics of one client")? else { return Ok(()) };
    let (topic, group) = (unique("chat"), unique("web"));
    broker.create_lite(&topic, &group, true)?;
    let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
    let mut send =
        |body: &str| producer.send(&Draft { lite_topic: Some(ONE_LETTER.into()), ..Draft::body(body.as_bytes()) });
    let subscribed = |broker: &Broker| -> Result<Agent> {
        let arguments = ["lite", "--group", &group, "--lite-topics", ONE_LETTER];
        let mut agent = Agent::ready(program, broker, &topic, false, &arguments)?;
        let is_it = |event: &Event| matches!(event, Event::Subscribed).then_some(());
        agent.wait("a subscription", PATIENCE_SECS, is_it).map(|()| agent)
    };
    let mut first = subscribed(&broker)?;
    send("first")?;
    assert_eq!(first.received()?.body_hex, hex(b"first"));
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    let mut second = subscribed(&broker)?;
    if program.language.shows_what_is_taken_away() {
        let lost = first.wait("a lite topic's loss", PATIENCE_SECS, |event| match event {
            Event::TakenAway { lite_topic } => Some(lite_topic.clone()),
            _ => None,
        })?;
        assert_eq!(lost, ONE_LETTER);
    } else {
        not_in_client(program.language.name(), "the published version does not show that a lite topic was taken away");
    }
    send("second")?;
    assert_eq!(second.received()?.body_hex, hex(b"second"));
    broker.kill9()?;
    broker.restart()?;
    send("third")?;
    // The one before it comes again if its acknowledgement was lost in the kill.
    while second.received()?.body_hex != hex(b"third") {}
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    second.finish()?;
    let late: Vec<Event> = first.kill().into_iter().filter(|event| matches!(event, Event::Received(_))).collect();
    assert!(late.is_empty(), "came to the client that had lost the lite topic: {late:?}");
    Ok(())
}
