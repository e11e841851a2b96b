//! Members of one group of which some broadcast.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::Result;
use crate::agent::{Agent, Event, PATIENCE_SECS};
use crate::broker::Broker;
use crate::checks::unique;
use crate::language::Program;

/// Members that share messages and one that broadcasts: each gets everything, as long as that one is there.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn to_all(program: &Program) -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = (unique("disagreeing"), unique("members"));
    broker.create_topic(&topic, 2)?;
    let start = |arguments: &[&str]| {
        Agent::ready(program, &broker, &topic, false, &[&["push", "--group", &group], arguments].concat())
    };
    let mut members = [start(&[])?, start(&[])?, start(&["--broadcasting"])?];
    // Until each of those that broadcast, or are broadcast to, gets what the others get, too.
    let mut round = 0;
    let mut have_last = [false; 3];
    while have_last.contains(&false) {
        round += 1;
        assert!(round < 60, "some member does not get everything: {have_last:?}");
        let body = format!("round {round}");
        for _ in 0..2 {
            broker.send(&topic, &body, &[])?;
        }
        have_last = [false; 3];
        for (member, has) in members.iter_mut().zip(&mut have_last) {
            let mut count = 0;
            while let Some(event) = member.next(Duration::from_millis(700))? {
                if let Event::Received(received) = event
                    && received.body() == body
                {
                    count += 1;
                }
                if count == 2 {
                    *has = true;
                    break;
                }
            }
        }
    }
    let described = broker.describe_group(&group)?;
    assert!(described.is_none_or(|group| group["disagreement"].to_string().contains("broadcasting")));
    let sent: BTreeSet<String> = (0..8).map(|n| format!("for all {n}")).collect();
    for text in &sent {
        broker.send(&topic, text, &[])?;
    }
    for member in &mut members {
        member.await_bodies(sent.clone())?;
    }
    let [one, mut other, broadcasting] = members;
    broadcasting.finish()?;
    one.finish()?;
    let sent: BTreeSet<String> = (0..8).map(|n| format!("for one {n}")).collect();
    for text in &sent {
        broker.send(&topic, text, &[])?;
    }
    other.await_bodies(sent)?;
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    other.finish()
}
