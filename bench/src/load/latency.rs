//! Send to received: sends at a fixed rate, a consumer that waits, latency from the intended start of the send to the moment
//! the generator has the message decoded. One runtime for both sides, so one clock.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::client::WIDE_WINDOW;
use crate::error::Result;
use crate::load::receive::{Acks, Consumer};
use crate::load::send::{Count, Producer, paced};
use crate::load::{self, Gate, Tally, Target};
use crate::pace::now_ns;
use crate::report::Report;
use crate::template::Stamp;

/// How the load is shaped.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Sends a second.
    pub rate: u32,
    /// Body size in bytes, at least 16.
    pub size: usize,
    /// Consumer group.
    pub group: String,
    /// Polls that wait at the same time.
    pub pollers: usize,
    /// Not measured.
    pub warm: Duration,
    /// Measured.
    pub measure: Duration,
}

/// Runs it. Figures p50 to max are send to received; "send p50" and "send p99" are send to acknowledged.
pub fn run(target: &Target, shape: &Latency) -> Result<Report> {
    // Successes counted here are receives.
    let received = Arc::new(Tally::default());
    let run = load::run_number();
    let worker = async |_, mut gate: Gate| {
        let producer = Rc::new(Producer::open(target, shape.size, 0, run, &received).await?);
        // The topic may be created by its first send, and a consumer needs a route.
        producer.send(0).await?;
        let consumer = Rc::new(Consumer::open(target, &shape.group, Acks::Single, WIDE_WINDOW, &received).await?);
        gate.pass().await;
        let (sends, receives) = (Rc::new(RefCell::new(load::histogram()?)), Rc::new(RefCell::new(load::histogram()?)));
        let polls = (0..shape.pollers.max(1)).map(|i| poll_loop(&consumer, i, run, &received, &receives));
        let producers = [Rc::clone(&producer)];
        let sending = paced(&producers, shape.rate, &received, Count::Failures, &sends);
        let all = async { tokio::join!(sending, futures_util::future::join_all(polls)).0 };
        tokio::select! {
            () = all => {}
            () = gate.over(Duration::from_secs(1)) => {}
        }
        producer.close().await;
        consumer.close().await;
        let histograms = (sends.borrow().clone(), receives.borrow().clone());
        Ok(histograms)
    };
    let drive = || load::timed(target, &received, shape.warm, shape.measure);
    let ((before, after), histograms) = load::run(1, &received, worker, drive)?;
    let mut report = Report::new(format!(
        "send to received: {} a second, {} bytes, {} waiting polls",
        shape.rate, shape.size, shape.pollers
    ));
    load::add_figures(&mut report, &before, &after, None);
    for (sends, receives) in histograms {
        report.add_send_to_received(&sends, &receives);
    }
    report.first_error = received.first_error();
    Ok(report)
}

/// Polls until the load stops, and notes when each message of this run arrives.
pub async fn poll_loop(
    consumer: &Rc<Consumer>,
    index: usize,
    run: u64,
    tally: &Arc<Tally>,
    histogram: &RefCell<hdrhistogram::Histogram<u64>>,
) {
    let mut turn = index;
    let mut acks = tokio::task::JoinSet::new();
    while !tally.stopped() {
        let messages = consumer.receive(turn, tally).await;
        let now = now_ns();
        turn += 1;
        let own = messages.iter().filter_map(|m| Stamp::read(&m.body)).filter(|s| s.run == run);
        for stamp in own.filter(|s| s.intended_ns > 0) {
            tally.add(1);
            if tally.recording() {
                histogram.borrow_mut().saturating_record(now.saturating_sub(stamp.intended_ns));
            }
        }
        // The next poll does not wait for the acks, as in a push consumer.
        while acks.try_join_next().is_some() {}
        let (consumer, tally) = (Rc::clone(consumer), Arc::clone(tally));
        acks.spawn_local(async move { consumer.ack(&messages, Acks::Single, &tally).await });
    }
    while acks.join_next().await.is_some() {}
}
