//! Open slots: messages that were handed out and never acknowledged, as one failing message in a thousand leaves them over
//! hours. What do they cost in memory, and do they slow the queue down?
//!
//! Receives and acknowledges some messages, leaves `count` others invisible for an hour, and receives and acknowledges as
//! many as at first again. For one queue, create the topic with one queue before.

use std::time::Duration;

use crate::error::Result;
use crate::load::Target;
use crate::load::receive::{Acks, Receives, drain};
use crate::load::send::{Sends, fill};
use crate::report::Report;

/// Messages acknowledged before and after.
const ACKED: u64 = 20_000;

/// Runs it on `target` with a fresh group; `count` slots stay open.
pub fn run(target: &Target, group: &str, count: u64) -> Result<Report> {
    let sends =
        Sends { senders: 64, connections: 8, threads: 1, size: 128, warm: Duration::ZERO, measure: Duration::ZERO };
    let receives_of = |group: String, acks, count| Receives { group, pollers: 8, connections: 4, count, acks };
    let receives = |acks, count| receives_of(group.to_owned(), acks, count);
    fill(target, &sends, ACKED)?;
    let before = drain(target, &receives(Acks::Batch, ACKED))?;
    fill(target, &sends, count)?;
    // What sending and receiving as much take without open slots, so that only these are told.
    let settled = drain(target, &receives_of(format!("{group}-settling"), Acks::Batch, ACKED + count))?;
    let opened = drain(target, &receives(Acks::None, count))?;
    fill(target, &sends, ACKED)?;
    let after = drain(target, &receives(Acks::Batch, ACKED))?;
    let mut report = Report::new(format!("{count} open slots"));
    let figure = |report: &Report, name| report.get(name).unwrap_or_default();
    report.add("rate before", figure(&before, "rate"), "messages/s");
    report.add("rate with open slots", figure(&after, "rate"), "messages/s");
    report.add("server CPU before", figure(&before, "server CPU"), "s per million");
    report.add("server CPU with open slots", figure(&after, "server CPU"), "s per million");
    report.add("RSS before", figure(&settled, "server RSS"), "MB");
    report.add("RSS with open slots", figure(&opened, "server RSS"), "MB");
    report.add("RSS grown", figure(&opened, "server RSS") - figure(&settled, "server RSS"), "MB");
    report.first_error = after.first_error.or(opened.first_error).or(before.first_error);
    Ok(report)
}
