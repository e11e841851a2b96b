//! Transactions with real clients, through kills.

use std::collections::{BTreeMap, BTreeSet};

use crate::Result;
use crate::agent::{Agent, Draft, Event, PATIENCE_SECS, hex};
use crate::broker::Broker;
use crate::checks::unique;
use crate::language::Program;

/// Committed messages come, rolled-back ones never do. About those whose producer said nothing it is asked after a kill of the broker, and
/// another one when it was killed itself.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn end_to_end(program: &Program) -> Result<()> {
    let soon = ["--transaction-immunity-seconds", "2", "--transaction-check-interval-seconds", "2"];
    let Some(mut broker) = Broker::start_own_with("transactions", &soon)? else { return Ok(()) };
    let (topic, group) = (unique("transactions"), unique("committed"));
    broker.create_topic_for("transaction", &topic, 2)?;
    broker.create_group(&group, 17, "10s")?;
    let arguments = [program.language.consumer(), "--group", &group];
    let mut reader = Agent::ready(program, &broker, &topic, false, &arguments)?;
    let produce = ["produce", "--stdin", "--transactional"];
    let mut producer = Agent::ready(program, &broker, &topic, false, &produce)?;
    let mut expected = BTreeSet::new();
    let mut send = |producer: &mut Agent, name: &str, transaction: &str, outcome: &str| -> Result<()> {
        let draft = Draft::body(name.as_bytes()).in_transaction(transaction, outcome);
        if outcome == "commit" {
            expected.insert(draft.body_hex.clone());
        }
        producer.feed(&draft)?;
        // A check would find out too; but an end that can be told has to be taken.
        let sent = producer.wait("a half message and its end", PATIENCE_SECS, |event| match event {
            Event::Sent { .. } => Some(Ok(())),
            Event::EndFailed { message } => Some(Err(message.clone())),
            _ => None,
        })?;
        assert_eq!(sent, Ok(()), "{name}, {transaction}");
        Ok(())
    };
    for number in 0..6 {
        send(&mut producer, &format!("committed {number}"), "commit", "commit")?;
        send(&mut producer, &format!("rolled back {number}"), "rollback", "rollback")?;
    }
    for outcome in ["commit", "rollback"] {
        send(&mut producer, &format!("silent, {outcome}"), "silent", outcome)?;
    }
    // The half messages outlive the broker, and their producer too: another one that publishes the topic is asked.
    broker.kill9()?;
    broker.restart()?;
    if program.language.opens_its_stream_again() {
        let is_check = |event: &Event| matches!(event, Event::Checked { .. }).then_some(());
        producer.wait("a check after the kill", PATIENCE_SECS, is_check)?;
    }
    send(&mut producer, "after the kill", "commit", "commit")?;
    for outcome in ["commit", "rollback"] {
        send(&mut producer, &format!("orphan, {outcome}"), "silent", outcome)?;
    }
    producer.kill();
    let mut heir = Agent::ready(program, &broker, &topic, false, &produce)?;
    // Clients of v1 have not said what they publish before.
    send(&mut heir, "by the heir", "commit", "commit")?;
    // That it was asked shows in what comes: it may have been asked before it said that it is ready.
    let mut came: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    while came.len() < expected.len() {
        let received = reader.received()?;
        let (body, id) = (received.body_hex, received.id);
        assert!(expected.contains(&body), "{body} was rolled back and came");
        came.entry(body).or_default().insert(id);
    }
    let orphan = hex(b"orphan, commit");
    assert_eq!(came[&orphan].len(), 1, "one transaction, one message");
    broker.await_no_transactions(&topic, PATIENCE_SECS)?;
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    heir.finish()?;
    reader.finish()
}
