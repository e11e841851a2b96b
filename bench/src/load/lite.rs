//! Lite topics and those who subscribe to them: how fast all clients are attached, what their subscriptions cost at rest,
//! and how soon a message is with its subscriber.
//!
//! Each client says its whole set every 30 s, as the official ones do, and has one poll that waits. The lite topics are those that
//! `send --lite-topics` made; neighbours belong to different clients. What waits in them is received first: the rest begins once
//! nothing has come for [`QUIET`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::load::receive::{Acks, Consumer};
use crate::load::send::{Count, Producer, paced};
use crate::load::{self, Gate, Snapshot, Tally, Target};
use crate::pace::now_ns;
use crate::procfs;
use crate::report::Report;
use crate::template::{Spread, Stamp, lite_topic};

/// How often a client says its set.
const SYNC: Duration = Duration::from_secs(30);
/// Nothing was received for so long: nothing waited any more.
const QUIET: Duration = Duration::from_secs(2);
/// Clients that begin their sessions at the same time.
const AT_A_TIME: usize = 32;

/// How the load is shaped.
#[derive(Clone, Debug)]
pub struct Lite {
    /// Consumer group, lite-selective.
    pub group: String,
    /// Clients.
    pub clients: u32,
    /// Lite topics, each of which one of them subscribes to.
    pub topics: u32,
    /// Sends a second; 0: only subscriptions.
    pub rate: u32,
    /// Body size in bytes, at least 16.
    pub size: usize,
    /// How long nothing is sent: the cost of subscriptions alone.
    pub rest: Duration,
    /// How long is sent.
    pub measure: Duration,
}

/// Messages of earlier runs that were received, and when the last one came, by [`now_ns`].
#[derive(Default)]
struct Backlog {
    received: AtomicU64,
    last_ns: AtomicU64,
}

/// Attaches all clients, lets them rest, then sends. Figures p50 to max are send to received.
pub fn run(target: &Target, shape: &Lite) -> Result<Report> {
    let received = Arc::new(Tally::default());
    let run = load::run_number();
    let spread = Spread::LiteTopics(shape.topics);
    let producing = Target { spread, ..target.clone() };
    let before_all = procfs::usage(&target.pids)?;
    let (backlog, rested_enough) = (Arc::new(Backlog::default()), Arc::new(tokio::sync::Notify::new()));
    let worker = async |_, mut gate: Gate| {
        let began = Instant::now();
        let mut consumers = Vec::new();
        while consumers.len() < shape.clients as usize {
            let some = (consumers.len()..shape.clients as usize).take(AT_A_TIME).map(|client| {
                let (tally, names) = (Arc::clone(&received), names_of(client as u32, shape));
                async move {
                    let consumer = Consumer::open_lite(target, &shape.group, client as u32, &tally).await?;
                    consumer.sync_lite(&names).await?;
                    Ok(Rc::new(consumer))
                }
            });
            consumers.extend(futures_util::future::try_join_all(some).await?);
        }
        let attached = began.elapsed();
        let producer = Rc::new(Producer::open(&producing, shape.size, 0, run, &received).await?);
        gate.pass().await;
        let receives = Rc::new(RefCell::new(load::histogram()?));
        let (sends, syncs) = (Rc::new(RefCell::new(load::histogram()?)), Cell::new(0u64));
        let each = consumers.iter().enumerate().map(|(client, consumer)| {
            let client = client as u32;
            let polls = poll_loop(consumer, run, &received, &receives, &backlog);
            let names = names_of(client, shape);
            let beats = sync_loop(consumer, client, shape.clients, names, &received, &syncs);
            async { tokio::join!(polls, beats) }
        });
        let producers = [Rc::clone(&producer)];
        let sending = async {
            if shape.rate > 0 {
                rested_enough.notified().await;
                paced(&producers, shape.rate, &received, Count::Failures, &sends).await;
            }
        };
        let all = async { tokio::join!(sending, futures_util::future::join_all(each)) };
        tokio::select! {
            _ = all => {}
            () = gate.over(Duration::from_millis(200)) => {}
        }
        producer.close().await;
        let histograms = (sends.borrow().clone(), receives.borrow().clone());
        Ok((attached, syncs.get(), histograms))
    };
    let drive = || {
        let begun = (Instant::now(), Snapshot::take(target, &received)?);
        backlog.last_ns.store(now_ns(), Ordering::Relaxed);
        while now_ns().saturating_sub(backlog.last_ns.load(Ordering::Relaxed)) < QUIET.as_nanos() as u64 {
            std::thread::sleep(Duration::from_millis(50));
        }
        let drained = begun.0.elapsed().saturating_sub(QUIET);
        let before = Snapshot::take(target, &received)?;
        let drain_cpu = before.server_since(&begun.1).map(|(cores, _)| cores * (drained + QUIET).as_secs_f64());
        std::thread::sleep(shape.rest);
        let rested = Snapshot::take(target, &received)?;
        rested_enough.notify_one();
        let timed = match shape.rate {
            0 => None,
            _ => Some(load::timed(target, &received, Duration::from_secs(1), shape.measure)?),
        };
        Ok(((drained, drain_cpu), before, rested, timed))
    };
    let (((drained, drain_cpu), before, rested, timed), results) = load::run(1, &received, worker, drive)?;
    let mut report = Report::new(format!(
        "lite topics: {} clients subscribe to {} of them, {} sends a second of {} bytes",
        shape.clients, shape.topics, shape.rate, shape.size
    ));
    let subscriptions = f64::from(shape.topics.max(1));
    for (attached, syncs, (sends, receives)) in results {
        report.add("attached after", attached.as_secs_f64(), "s");
        let waited = backlog.received.load(Ordering::Relaxed);
        if waited > 0 {
            report.add("backlog received", waited as f64, "messages");
            report.add("backlog received in", drained.as_secs_f64(), "s");
            drain_cpu
                .into_iter()
                .for_each(|cpu| report.add("its server CPU", cpu / waited as f64 * 1e6, "s per million"));
        }
        report.add("synchronisations", syncs as f64, "");
        if timed.is_some() {
            report.add_send_to_received(&sends, &receives);
        }
    }
    if let Some((cores, rss)) = rested.server_since(&before) {
        report.add("server cores at rest", cores, "");
        report.add("RSS per subscription", (rss - before_all.rss as f64) / subscriptions, "bytes");
    }
    if let Some((before, after)) = timed {
        load::add_figures(&mut report, &before, &after, None);
    }
    report.first_error = received.first_error();
    Ok(report)
}

fn names_of(client: u32, shape: &Lite) -> Vec<String> {
    (client..shape.topics).step_by(shape.clients.max(1) as usize).map(lite_topic).collect()
}

/// Says the whole set every 30 s, each client at a moment of its own.
async fn sync_loop(
    consumer: &Consumer,
    client: u32,
    clients: u32,
    names: Vec<String>,
    tally: &Tally,
    syncs: &Cell<u64>,
) {
    tokio::time::sleep(SYNC * client / clients.max(1)).await;
    while !tally.stopped() {
        match consumer.sync_lite(&names).await {
            Ok(()) => syncs.set(syncs.get() + 1),
            Err(error) => tally.fail(&error),
        }
        tokio::time::sleep(SYNC).await;
    }
}

async fn poll_loop(
    consumer: &Consumer,
    run: u64,
    tally: &Tally,
    histogram: &RefCell<hdrhistogram::Histogram<u64>>,
    backlog: &Backlog,
) {
    while !tally.stopped() {
        let messages = consumer.receive(0, tally).await;
        let now = now_ns();
        for stamp in messages.iter().filter_map(|m| Stamp::read(&m.body)) {
            if stamp.run != run {
                backlog.received.fetch_add(1, Ordering::Relaxed);
                backlog.last_ns.store(now, Ordering::Relaxed);
                continue;
            }
            tally.add(1);
            if tally.recording() {
                histogram.borrow_mut().saturating_record(now.saturating_sub(stamp.intended_ns));
            }
        }
        consumer.ack(&messages, Acks::Single, tally).await;
    }
}
