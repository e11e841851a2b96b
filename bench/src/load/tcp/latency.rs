//! Send to received of TCP clients: sends at a fixed rate to all queues in turn, a push consumer's pull that waits on each of
//! them, latency from the intended start of the send to the moment the generator has the message. One runtime, so one clock.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::pull::{Consumer, begin};
use super::send::Producer;
use crate::error::{BenchError, Result};
use crate::load::{self, Gate, Tally, Target};
use crate::pace::{Pacer, now_ns};
use crate::report::Report;
use crate::tcp::code;
use crate::tcp::link::{SLOTS_MAX, Slots};
use crate::tcp::pulls::Shape;
use crate::template::Stamp;

/// How the load is shaped.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Consumer group.
    pub group: String,
    /// Sends a second.
    pub rate: u32,
    /// Body size in bytes, at least 16.
    pub size: usize,
    /// Not measured.
    pub warm: Duration,
    /// Measured.
    pub measure: Duration,
}

/// Runs it. Figures p50 to max are send to received; "send p50" and "send p99" are send to acknowledged.
pub fn run(target: &Target, latency: &Latency) -> Result<Report> {
    // Successes counted here are receives.
    let received = Arc::new(Tally::default());
    let run = load::run_number();
    let shape = Shape { topic: &target.topic, group: &latency.group, commits: true, waits: true };
    let worker = async |_, mut gate: Gate| {
        let producer = Producer::open(target, latency.size, 1, run, &received).await?;
        let consumer = Consumer::open(target, &shape, (0, 1), code::MAX_OFFSET, &received).await?;
        gate.pass().await;
        let (sends, receives) = (RefCell::new(load::histogram()?), RefCell::new(load::histogram()?));
        let all = async {
            let sending = async {
                paced(producer, latency.rate, &received, &sends).await.unwrap_or_else(|error| received.fail(&error));
            };
            let receiving = async {
                pull_loop(consumer, run, &received, &receives).await.unwrap_or_else(|error| received.fail(&error));
            };
            tokio::join!(sending, receiving)
        };
        tokio::select! {
            _ = all => {}
            // Pulls are held for long: nobody waits for them.
            () = gate.over(Duration::from_secs(1)) => {}
        }
        Ok((sends.into_inner(), receives.into_inner()))
    };
    let drive = || load::timed(target, &received, latency.warm, latency.measure);
    let ((before, after), histograms) = load::run(1, &received, worker, drive)?;
    let mut report = Report::new(format!(
        "TCP send to received: {} a second, {} bytes, a waiting pull on each queue",
        latency.rate, latency.size
    ));
    load::add_figures(&mut report, &before, &after, None);
    for (sends, receives) in histograms {
        report.add_send_to_received(&sends, &receives);
    }
    report.first_error = received.first_error();
    Ok(report)
}

/// Starts every send when it is due until the load stops, then waits for those under way.
async fn paced(mut producer: Producer, rate: u32, tally: &Tally, histogram: &RefCell<Histogram<u64>>) -> Result<()> {
    let mut pacer = Pacer::start(rate);
    let mut slots = Slots::new(SLOTS_MAX);
    while !tally.stopped() || slots.busy() > 0 {
        tokio::select! {
            due = pacer.due(), if !tally.stopped() => {
                let now = now_ns();
                for index in due {
                    let intended = pacer.intended_ns(index);
                    match slots.begin(intended) {
                        Some(opaque) => producer.add(opaque, intended, now),
                        None => tally.fail(&BenchError::Server { what: format!("{SLOTS_MAX} sends are under way") }),
                    }
                }
                producer.session.flush().await?;
            }
            read = producer.session.link.read() => {
                read?;
                let now = now_ns();
                while let Some(answer) = producer.session.answer()? {
                    let intended = slots.answered(&answer, producer.code())?;
                    match answer.ok(producer.code()) {
                        Ok(_) if tally.recording() => histogram.borrow_mut().saturating_record(now - intended),
                        Ok(_) => {}
                        Err(error) => tally.fail(&error),
                    }
                }
            }
        }
    }
    Ok(())
}

/// Pulls each queue until the load stops, and notes when each message of this run arrives.
async fn pull_loop(mut consumer: Consumer, run: u64, tally: &Tally, histogram: &RefCell<Histogram<u64>>) -> Result<()> {
    let mut slots = Slots::new(consumer.queues.len());
    for queue in 0..consumer.queues.len() {
        begin(&mut consumer, &mut slots, queue);
    }
    while !tally.stopped() {
        consumer.session.flush().await?;
        consumer.session.link.read().await?;
        let now = now_ns();
        while let Some(answer) = consumer.session.answer()? {
            let queue = slots.answered(&answer, code::PULL)? as usize;
            let each = |body: &[u8]| {
                let Some(stamp) = Stamp::read(body).filter(|stamp| stamp.run == run) else { return };
                tally.add(1);
                if tally.recording() {
                    histogram.borrow_mut().saturating_record(now.saturating_sub(stamp.intended_ns));
                }
            };
            if let Err(error) = consumer.queues[queue].take(&answer, each) {
                tally.fail(&error);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            begin(&mut consumer, &mut slots, queue);
        }
    }
    Ok(())
}
