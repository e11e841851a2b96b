//! A burst: messages with one delivery timestamp for all, from that moment until each of them is received and acknowledged.
//!
//! Sender and consumer do not overlap: in between the server may be killed and started again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::client::WIDE_WINDOW;
use crate::error::{BenchError, Result};
use crate::load::receive::{Acks, Consumer};
use crate::load::send::{Sends, fill};
use crate::load::{self, Gate, Tally, Target};
use crate::report::Report;
use crate::template::Dress;

/// Connections of the consumer, and polls.
const CONNECTIONS: usize = 4;
const POLLERS: usize = 8;
/// The consumer connects so long before the messages are due.
const BEFORE: Duration = Duration::from_secs(3);

/// How the load is shaped.
#[derive(Clone, Debug)]
pub struct Delay {
    /// Consumer group.
    pub group: String,
    /// Messages.
    pub count: u64,
    /// From now until they are due.
    pub ahead: Duration,
    /// Body in bytes.
    pub size: usize,
    /// Senders at the same time.
    pub senders: usize,
}

/// Runs it. Figures are milliseconds from the delivery timestamp until a message was received, or negative if it came before.
pub fn run(target: &Target, shape: &Delay) -> Result<Report> {
    let due = SystemTime::now() + shape.ahead;
    let producing = Target { dress: Dress { deliver_at: Some(due), ..target.dress.clone() }, ..target.clone() };
    let sends = Sends {
        senders: shape.senders,
        connections: 8,
        threads: 1,
        size: shape.size,
        warm: Duration::ZERO,
        measure: Duration::ZERO,
    };
    let sent = fill(&producing, &sends, shape.count)?;
    let left = due.duration_since(SystemTime::now()).unwrap_or_default().checked_sub(BEFORE);
    let Some(left) = left else {
        let value = format!("{} s", shape.ahead.as_secs());
        return Err(BenchError::Setting { name: "ahead", value, limit: "longer than sending takes, and 3 s" });
    };
    std::thread::sleep(left);
    let tally = Arc::new(Tally::default());
    let worker = async |_, mut gate: Gate| {
        let mut consumers = Vec::new();
        for _ in 0..CONNECTIONS {
            consumers.push(Consumer::open(target, &shape.group, Acks::Batch, WIDE_WINDOW, &tally).await?);
        }
        gate.pass().await;
        let arrived = std::cell::RefCell::new(Vec::new());
        let polls = (0..POLLERS).map(|n| poll_loop(&consumers[n % CONNECTIONS], n, due, &tally, &arrived));
        tokio::select! {
            _ = futures_util::future::join_all(polls) => {}
            () = gate.over(Duration::ZERO) => {}
        }
        for consumer in &consumers {
            consumer.close().await;
        }
        Ok(arrived.into_inner())
    };
    let drive = || load::until_done("delay", &tally, shape.count, BEFORE + Duration::from_secs(60));
    let ((), arrived) = load::run(1, &tally, worker, drive)?;
    let mut arrived: Vec<f64> = arrived.into_iter().flatten().collect();
    arrived.sort_by(f64::total_cmp);
    let at = |share: f64| arrived.get(((arrived.len() as f64 * share) as usize).min(arrived.len().saturating_sub(1)));
    let mut report = Report::new(format!("{} messages of {} bytes due at once", shape.count, shape.size));
    report.add("sent", sent.get("rate").unwrap_or_default(), "messages/s");
    report.add("received", arrived.len() as f64, "messages");
    for (name, share) in [("first", 0.0), ("median", 0.5), ("p99", 0.99), ("last", 1.0)] {
        report.add(name, at(share).copied().unwrap_or_default(), "ms after due");
    }
    report.first_error = tally.first_error();
    Ok(report)
}

async fn poll_loop(
    consumer: &Consumer,
    index: usize,
    due: SystemTime,
    tally: &Tally,
    arrived: &std::cell::RefCell<Vec<f64>>,
) {
    let mut turn = index;
    while !tally.stopped() {
        let messages = consumer.receive(turn, tally).await;
        let after = match SystemTime::now().duration_since(due) {
            Ok(after) => after.as_secs_f64(),
            Err(early) => -early.duration().as_secs_f64(),
        };
        turn += 1;
        arrived.borrow_mut().extend(messages.iter().map(|_| after * 1e3));
        if !messages.is_empty() {
            tally.add(consumer.ack(&messages, Acks::Batch, tally).await);
        }
    }
}
