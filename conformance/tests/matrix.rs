//! Each published client reads what each other one sends, over gRPC and the remoting protocol, both ways.

use std::collections::{BTreeMap, BTreeSet};

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, Draft};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::language::{Language, Program};

#[test]
fn every_client_reads_what_every_client_sends_with_every_field() -> Result<()> {
    let mut programs = Vec::new();
    for language in Language::ALL {
        programs.extend(language.program()?);
    }
    let broker = Broker::start()?;
    let topic = unique("matrix");
    broker.create_topic(&topic, 4)?;
    let reader = |program: &Program| {
        let kind = if program.language.has_push() { "push" } else { "simple" };
        Agent::ready(program, &broker, &topic, false, &[kind, "--group", &unique("readers")])
    };
    // A machine that is busy must not make these miss what was sent before.
    let waiting = programs.iter().filter(|program| program.language.may_begin_at_the_end());
    let mut waiting: Vec<_> = waiting.map(|program| Ok((program.language, reader(program)?))).collect::<Result<_>>()?;
    let mut sent = BTreeMap::new();
    for program in &programs {
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
        let sender = program.language.name();
        let body = format!("from {sender}: grün");
        sent.insert(body.clone(), (producer.send(&Draft::full(&body))?, sender));
        producer.finish()?;
    }
    for program in &programs {
        let name = program.language.name();
        let mut consumer = match waiting.iter().position(|(language, _)| *language == program.language) {
            Some(at) => waiting.remove(at).1,
            None => reader(program)?,
        };
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
        consumer.finish()?;
    }
    Ok(())
}
