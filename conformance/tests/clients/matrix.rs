//! Each published client of all four families reads what each other one sends: gRPC v2 and v1, the remoting protocol, HTTP.

use std::collections::{BTreeMap, BTreeSet};

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, Draft, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::language::{Language, Program};

fn programs() -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for language in Language::ALL {
        programs.extend(language.program()?);
    }
    Ok(programs)
}

/// Has `send` send, then each client read, and calls `read` with it. A client that a busy machine may make miss what was sent before it
/// started is started first.
fn each_reads<T>(
    programs: &[Program],
    reader: impl Fn(&Program) -> Result<Agent>,
    send: impl FnOnce() -> Result<T>,
    mut read: impl FnMut(&T, &'static str, &mut Agent) -> Result<()>,
) -> Result<()> {
    let early = programs.iter().filter(|program| program.language.may_begin_at_the_end());
    let mut early: BTreeMap<_, _> =
        early.map(|program| Ok((program.language.name(), reader(program)?))).collect::<Result<_>>()?;
    let sent = send()?;
    for program in programs {
        let name = program.language.name();
        let mut consumer = early.remove(name).map_or_else(|| reader(program), Ok)?;
        read(&sent, name, &mut consumer)?;
        consumer.finish()?;
    }
    Ok(())
}

#[test]
fn every_client_reads_what_every_client_sends_with_every_field() -> Result<()> {
    let programs = programs()?;
    let broker = Broker::start()?;
    let topic = unique("matrix");
    broker.create_topic(&topic, 4)?;
    // On a busy machine a client may try a send again whose answer is late.
    broker.deduplicate(&topic, "5m")?;
    let reader = |program: &Program| {
        let kind = if program.language.has_push() { "push" } else { program.language.consumer() };
        Agent::ready(program, &broker, &topic, false, &[kind, "--group", &unique("readers")])
    };
    let send = || {
        let mut sent = BTreeMap::new();
        for program in &programs {
            let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
            let sender = program.language.name();
            let body = format!("from {sender}: grün");
            sent.insert(body.clone(), (producer.send(&Draft::full(&body))?, sender));
            producer.finish()?;
        }
        Ok(sent)
    };
    each_reads(&programs, reader, send, |sent, name, consumer| {
        let mut left = sent.clone();
        while !left.is_empty() {
            let received = consumer.received()?;
            let Some((id, sender)) = left.remove(&received.body()) else {
                panic!("{name} got {received:?}, which is not among what is left")
            };
            let pair = format!("from {sender} to {name}: {received:?}");
            assert_eq!((received.id.as_str(), received.attempt), (id.as_str(), 1), "{pair}");
            assert_eq!(received.tag.as_deref(), Some("greeting"), "{pair}");
            assert_eq!(received.keys, BTreeSet::from(["4711", "4712"].map(str::to_owned)), "{pair}");
            assert_eq!(received.properties.get("colour").map(String::as_str), Some("grün"), "{pair}");
        }
        Ok(())
    })
}

/// Messages of a message group: the sharding key of the vendor's clients. Those of Apache's remoting protocol choose a queue instead.
#[test]
fn every_client_reads_in_order_what_every_client_sends_in_order() -> Result<()> {
    const EACH: usize = 4;
    let programs = programs()?;
    let broker = Broker::start()?;
    let topic = unique("matrix");
    broker.create_topic_for("fifo", &topic, 4)?;
    broker.deduplicate(&topic, "5m")?;
    let groups: BTreeMap<_, _> = programs.iter().map(|program| (program.language.name(), unique("readers"))).collect();
    for group in groups.values() {
        broker.create_ordered_group(group, "1s")?;
    }
    let reader = |program: &Program| {
        let kind = if program.language.has_push() { "push" } else { program.language.consumer() };
        let arguments = [&[kind, "--group", &groups[program.language.name()]], program.language.in_order()].concat();
        Agent::ready(program, &broker, &topic, false, &arguments)
    };
    let send = || {
        let mut senders = BTreeSet::new();
        for program in programs.iter().filter(|program| program.language.has_message_groups()) {
            let sender = program.language.name();
            let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
            for number in 0..EACH {
                let message_group = Some(sender.to_owned());
                producer.send(&Draft { message_group, ..Draft::body(format!("{sender} {number}").as_bytes()) })?;
            }
            producer.finish()?;
            senders.insert(sender.to_owned());
        }
        Ok(senders)
    };
    each_reads(&programs, reader, send, |senders, name, consumer| {
        let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while seen.values().map(Vec::len).sum::<usize>() < senders.len() * EACH {
            let received = consumer.received()?;
            assert_eq!(received.attempt, 1, "{name} got {received:?}");
            let body = received.body();
            let Some((sender, number)) = body.split_once(' ') else { panic!("{name} got {received:?}") };
            // The Go and C++ clients of the remoting protocol do not show it.
            if let Some(message_group) = received.message_group.as_deref().filter(|text| !text.is_empty()) {
                assert_eq!(message_group, sender, "{name} got {received:?}");
            }
            seen.entry(sender.to_owned()).or_default().push(number.to_owned());
        }
        let in_order: Vec<String> = (0..EACH).map(|number| number.to_string()).collect();
        for sender in senders {
            assert_eq!(seen.get(sender), Some(&in_order), "from {sender} to {name}");
        }
        broker.await_no_backlog(&groups[name], PATIENCE_SECS)
    })
}
