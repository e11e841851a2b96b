//! Each published client reads what each other one sends, over gRPC and the remoting protocol, both ways.

use std::collections::{BTreeMap, BTreeSet};

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, Draft};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::language::Language;

#[test]
fn every_client_reads_what_every_client_sends_with_every_field() -> Result<()> {
    let mut programs = Vec::new();
    for language in Language::ALL {
        programs.extend(language.program()?);
    }
    let broker = Broker::start()?;
    let topic = unique("matrix");
    broker.create_topic(&topic, 4)?;
    let mut sent = BTreeMap::new();
    for program in &programs {
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
        let sender = program.language.name();
        let body = format!("from {sender}: grün");
        sent.insert(body.clone(), (producer.send(&Draft::full(&body))?, sender));
        producer.finish()?;
    }
    for program in &programs {
        let reader = program.language.name();
        let kind = if program.language.has_push() { "push" } else { "simple" };
        let group = unique("readers");
        let mut consumer = Agent::ready(program, &broker, &topic, false, &[kind, "--group", &group])?;
        let mut left = sent.clone();
        while !left.is_empty() {
            let received = consumer.received()?;
            let Some((id, sender)) = left.remove(&received.body()) else {
                panic!("{reader} got {received:?}, which is not among what is left")
            };
            let pair = format!("from {sender} to {reader}: {received:?}");
            assert_eq!((received.id.as_str(), received.attempt), (id.as_str(), 1), "{pair}");
            assert_eq!(received.tag.as_deref(), Some("greeting"), "{pair}");
            assert_eq!(received.keys, BTreeSet::from(["4711", "4712"].map(str::to_owned)), "{pair}");
            assert_eq!(received.properties.get("colour").map(String::as_str), Some("grün"), "{pair}");
        }
        consumer.finish()?;
    }
    Ok(())
}
