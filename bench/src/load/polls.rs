//! Memory under polls: many polls at once on a topic of large messages, and readers that take nothing for a while.
//!
//! Each poll could be handed a batch of 32 messages of up to 4 MiB; the streams have the usual small window of 64 KiB and
//! are not read before the hold is over. What the server buffers meanwhile is its own choice, and shows in its peak.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::load::receive::{Acks, Consumer};
use crate::load::send::{Sends, fill};
use crate::load::{self, Gate, Snapshot, Tally, Target};
use crate::procfs;
use crate::report::Report;

const SMALL_WINDOW: u32 = 65_535;

/// How the load is shaped.
#[derive(Clone, Debug)]
pub struct Polls {
    /// Consumer group, fresh.
    pub group: String,
    /// Polls at once.
    pub polls: usize,
    /// Connections they are spread over.
    pub connections: usize,
    /// Body size in bytes, at most 4 MiB.
    pub size: usize,
    /// Messages in the topic.
    pub count: u64,
    /// How long nothing is read.
    pub hold: Duration,
}

/// Fills the topic, opens the polls, holds, reads everything, and tells the server's peak from the first poll on.
pub fn run(target: &Target, shape: &Polls) -> Result<Report> {
    let sends = Sends {
        senders: 4,
        connections: 1,
        threads: 1,
        size: shape.size,
        warm: Duration::ZERO,
        measure: Duration::ZERO,
    };
    let filled = fill(target, &sends, shape.count)?;
    procfs::reset_peak(&target.pids)?;
    let tally = Arc::new(Tally::default());
    let answered = AtomicU64::new(0);
    let worker = async |_, mut gate: Gate| {
        let mut consumers = Vec::new();
        for _ in 0..shape.connections.clamp(1, shape.polls.max(1)) {
            consumers.push(Consumer::open(target, &shape.group, Acks::Batch, SMALL_WINDOW, &tally).await?);
        }
        gate.pass().await;
        let release = Instant::now() + shape.hold;
        let polls = (0..shape.polls).map(|i| poll_loop(&consumers[i % consumers.len()], i, release, &tally, &answered));
        let all = futures_util::future::join_all(polls);
        tokio::select! {
            _ = all => {}
            () = gate.over(Duration::ZERO) => {}
        }
        Ok(())
    };
    let drive = || {
        let before = Snapshot::take(target, &tally)?;
        load::until_done("polls", &tally, shape.count, shape.hold + Duration::from_secs(40))?;
        Ok((before, Snapshot::take(target, &tally)?))
    };
    let ((before, after), _) = load::run(1, &tally, worker, drive)?;
    let mut report = Report::new(format!(
        "{} polls on {} connections, {} messages of {} bytes, nothing read for {} s",
        shape.polls,
        shape.connections,
        shape.count,
        shape.size,
        shape.hold.as_secs()
    ));
    report.add("answered while held", answered.load(Ordering::Relaxed) as f64, "polls");
    report.add("fill rate", filled.get("rate").unwrap_or_default(), "messages/s");
    load::add_figures(&mut report, &before, &after, None);
    report.first_error = tally.first_error();
    Ok(report)
}

async fn poll_loop(consumer: &Consumer, index: usize, release: Instant, tally: &Tally, answered: &AtomicU64) {
    let mut turn = index;
    while !tally.stopped() {
        let received: Result<_> = async {
            let mut answer = consumer.poll(turn).await?;
            answer.head().await?;
            if Instant::now() < release {
                answered.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep_until(release.into()).await;
            }
            consumer.read(answer).await
        }
        .await;
        turn += 1;
        match received {
            Ok(messages) => tally.add(consumer.ack(&messages, Acks::Batch, tally).await),
            Err(error) => {
                tally.fail(&error);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
