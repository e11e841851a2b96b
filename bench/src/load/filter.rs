//! A sparse filter: a fresh group skips a filled topic of which next to nothing matches, while another group on another topic
//! receives what is sent at a fixed rate. How many messages are skipped a second, and what does the other group notice?
//!
//! A round is over when the group has received every needle: these were sent last, so all before them was looked at.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client::WIDE_WINDOW;
use crate::error::{BenchError, Result};
use crate::load::latency::poll_loop;
use crate::load::receive::{Acks, Consumer};
use crate::load::send::{Count, Producer, paced};
use crate::load::{self, Gate, Snapshot, Tally, Target};
use crate::pb;
use crate::report::Report;
use crate::template::Dress;

/// Body of needles and of what is sent beside them, in bytes.
const SIZE: usize = 128;
/// A round in which nothing matches for so long has failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// How the load is shaped.
#[derive(Clone, Debug)]
pub struct Filtering {
    /// Messages in the topic that do not match.
    pub count: u64,
    /// Messages sent behind them that do.
    pub needles: u64,
    /// The filter.
    pub expression: String,
    /// Whether it is an SQL92 condition; else a tag expression.
    pub sql: bool,
    /// Fresh groups, one after the other.
    pub rounds: u32,
    /// Sends a second to the other topic.
    pub rate: u32,
    /// How long these go on before the first round.
    pub quiet: Duration,
}

/// What a run found out.
struct Seen {
    /// Of each round.
    took: Vec<Duration>,
    /// Around the rounds.
    between: (Snapshot, Snapshot),
    /// Send to received of the other topic, before the rounds and during each.
    quiet: hdrhistogram::Histogram<u64>,
    beside: Vec<hdrhistogram::Histogram<u64>>,
}

/// Runs it. p50 to max are send to received of the other topic during the rounds; `quiet p99` is the same before them.
pub fn run(target: &Target, shape: &Filtering) -> Result<Report> {
    let filter_type = if shape.sql { pb::FilterType::Sql } else { pb::FilterType::Tag };
    let filter = pb::FilterExpression { r#type: filter_type as i32, expression: shape.expression.clone() };
    let other = Target { topic: format!("{}-beside", target.topic), dress: Dress::default(), ..target.clone() };
    let mut dress = Dress { tag: "needle".to_owned(), ..target.dress.clone() };
    dress.properties.push(("needle".to_owned(), "1".to_owned()));
    let needles = Target { dress, ..target.clone() };
    // Counts what the other group receives; it ends the load.
    let received = Arc::new(Tally::default());
    let finished = Tally::default();
    let run = load::run_number();
    let worker = async |_, mut gate: Gate| {
        let needle = Producer::open(&needles, SIZE, 0, run, &received).await?;
        for _ in 0..shape.needles {
            needle.send(0).await?;
        }
        needle.close().await;
        let producer = Rc::new(Producer::open(&other, SIZE, 0, run, &received).await?);
        // The topic may be created by its first send, and a consumer needs a route.
        producer.send(0).await?;
        let consumer = Rc::new(Consumer::open(&other, "bench-beside", Acks::Single, WIDE_WINDOW, &received).await?);
        // Their groups are made here, and not while others are measured.
        let mut skipping = Vec::new();
        for round in 0..shape.rounds {
            let group = format!("bench-filter-{:x}-{round}", run & 0xffff_ffff);
            skipping.push(Consumer::open_filtered(target, &group, &filter, &received).await?);
        }
        gate.pass().await;
        let (sends, receives) = (Rc::new(RefCell::new(load::histogram()?)), Rc::new(RefCell::new(load::histogram()?)));
        let polls = (0..4).map(|_| poll_loop(&consumer, 0, run, &received, &receives));
        let producers = [Rc::clone(&producer)];
        let sending = paced(&producers, shape.rate, &received, Count::Failures, &sends);
        let rounds = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            received.record(true);
            tokio::time::sleep(shape.quiet).await;
            let quiet = receives.replace(load::histogram()?);
            let before = Snapshot::take(target, &received)?;
            let (mut took, mut beside) = (Vec::new(), Vec::new());
            for consumer in &skipping {
                took.push(skip(consumer, shape.needles, &received).await?);
                beside.push(receives.replace(load::histogram()?));
                finished.add(1);
            }
            Ok::<_, BenchError>(Seen { took, between: (before, Snapshot::take(target, &received)?), quiet, beside })
        };
        let others = async { tokio::join!(sending, futures_util::future::join_all(polls)) };
        let seen = tokio::select! {
            seen = rounds => seen?,
            _ = others => return Err(BenchError::Server { what: "the sends beside ended".to_owned() }),
            () = gate.over(Duration::ZERO) => return Err(BenchError::Server { what: "nothing matched".to_owned() }),
        };
        producer.close().await;
        consumer.close().await;
        for consumer in &skipping {
            consumer.close().await;
        }
        Ok(seen)
    };
    let drive = || load::until_done("filter", &finished, u64::from(shape.rounds), PATIENCE);
    let ((), seen) = load::run(1, &received, worker, drive)?;
    let mut report = Report::new(format!(
        "filter {:?}: {} of {} messages match, {} rounds; {} sends a second beside",
        shape.expression, shape.needles, shape.count, shape.rounds, shape.rate
    ));
    for Seen { took, between: (before, after), quiet, beside } in seen {
        let mut rates: Vec<f64> = took.iter().map(|took| shape.count as f64 / took.as_secs_f64()).collect();
        rates.sort_by(f64::total_cmp);
        report.add("skipped, median", rates.get(rates.len() / 2).copied().unwrap_or_default(), "messages/s");
        report.add("skipped, least", rates.first().copied().unwrap_or_default(), "messages/s");
        report.add("seconds", took.iter().sum::<Duration>().as_secs_f64(), "s");
        if let Some((cores, rss)) = after.server_since(&before) {
            report.add("server cores", cores, "");
            report.add("server RSS", rss / 1e6, "MB");
        }
        let mut all = load::histogram()?;
        // Same bounds: adding cannot fail.
        for one in &beside {
            let _ = all.add(one);
        }
        report.add("received beside", all.len() as f64, "messages");
        report.add_latency(&all);
        let mut p99: Vec<u64> = beside.iter().map(|one| one.value_at_quantile(0.99)).collect();
        p99.sort_unstable();
        report.add("p99, median round", p99.get(p99.len() / 2).copied().unwrap_or_default() as f64 / 1e6, "ms");
        report.add("p99, worst round", p99.last().copied().unwrap_or_default() as f64 / 1e6, "ms");
        report.add("quiet p50", quiet.value_at_quantile(0.5) as f64 / 1e6, "ms");
        report.add("quiet p99", quiet.value_at_quantile(0.99) as f64 / 1e6, "ms");
    }
    report.first_error = received.first_error();
    Ok(report)
}

/// From the first poll of a fresh group until it has received all needles.
async fn skip(consumer: &Consumer, needles: u64, tally: &Tally) -> Result<Duration> {
    let begin = Instant::now();
    let found = std::cell::Cell::new(0);
    let poll = |queue: usize| {
        let found = &found;
        async move {
            while found.get() < needles {
                let messages = consumer.read(consumer.poll(queue).await?).await?;
                found.set(found.get() + messages.len() as u64);
                consumer.ack(&messages, Acks::Batch, tally).await;
            }
            Ok::<_, BenchError>(begin.elapsed())
        }
    };
    // One poll per assigned queue, as a push consumer has them. The one that receives the last needle ends the round.
    let polls: Vec<_> = (0..consumer.queues()).map(|queue| Box::pin(poll(queue))).collect();
    let (took, _, _) = futures_util::future::select_all(polls).await;
    took
}
