//! Sends of TCP clients in a closed loop, one message or a batch to a frame.
//!
//! A connection has no task for each of its senders: what arrives in one read is answered with the next sends in one write.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::error::Result;
use crate::load::{self, Gate, Tally, Target};
use crate::pace::now_ns;
use crate::report::Report;
use crate::tcp::link::{SLOTS_MAX, Slots};
use crate::tcp::sends;
use crate::tcp::session::{Role, Session, unix_ms};

/// How a send load is shaped.
#[derive(Clone, Debug)]
pub struct Sends {
    /// Senders that each wait for their answer before the next send; at most 10,000 on a connection.
    pub senders: usize,
    /// Connections they are dealt out to, each a client of its own.
    pub connections: usize,
    /// Messages in a frame.
    pub batch: usize,
    /// Body size in bytes, at least 16.
    pub size: usize,
    /// Not measured.
    pub warm: Duration,
    /// Measured.
    pub measure: Duration,
}

impl Sends {
    fn name(&self) -> String {
        let Self { senders, connections, batch, size, .. } = self;
        let frame = if *batch > 1 { format!("{batch} messages") } else { "1 message".to_owned() };
        format!("TCP send, closed loop: {senders} senders on {connections} connections, {frame} of {size} bytes")
    }
}

/// A producer session with its frames.
pub struct Producer {
    /// Its connection.
    pub session: Session,
    sends: sends::Sends,
    /// Unix time at 0 of the generator's clock.
    zero_ms: u64,
}

impl Producer {
    /// Connects.
    pub async fn open(target: &Target, size: usize, batch: usize, run: u64, tally: &Tally) -> Result<Self> {
        let traffic = Arc::clone(&tally.traffic);
        let session = Session::open(&target.endpoint, &target.topic, &Role::Producer, traffic).await?;
        let shape =
            sends::Shape { topic: &target.topic, dress: &target.dress, size, batch, client: session.number, run };
        let sends = sends::Sends::new(&session.route, &shape)?;
        Ok(Self { session, sends, zero_ms: unix_ms().saturating_sub(now_ns() / 1_000_000) })
    }

    /// Gathers the next frame.
    pub fn add(&mut self, opaque: u32, intended_ns: u64, now_ns: u64) {
        let born_ms = self.zero_ms + now_ns / 1_000_000;
        self.sends.add(&mut self.session.link.out, opaque, intended_ns, born_ms);
    }

    /// Code of its requests.
    pub fn code(&self) -> i32 {
        self.sends.code()
    }
}

/// Closed loop for a time: throughput, and latency of a frame as a by-product.
pub fn closed(target: &Target, sends: &Sends) -> Result<Report> {
    let tally = Arc::new(Tally::default());
    let drive = || load::timed(target, &tally, sends.warm, sends.measure);
    let ((before, after), histogram) = closed_loop(target, sends, &tally, None, drive)?;
    let mut report = Report::new(sends.name());
    load::add_figures(&mut report, &before, &after, Some(sends.size));
    report.add_latency(&histogram);
    report.first_error = tally.first_error();
    Ok(report)
}

/// Closed loop until `count` messages are acknowledged, whole batches, to fill a topic.
pub fn fill(target: &Target, sends: &Sends, count: u64) -> Result<Report> {
    let tally = Arc::new(Tally::default());
    let drive = || load::counted("fill", target, &tally, count, Duration::from_secs(30));
    let frames = count.div_ceil(sends.batch.max(1) as u64);
    let ((before, after), _) = closed_loop(target, sends, &tally, Some(frames), drive)?;
    let mut report = Report::new(format!("TCP fill: {count} messages of {} bytes", sends.size));
    load::add_figures(&mut report, &before, &after, Some(sends.size));
    report.first_error = tally.first_error();
    Ok(report)
}

fn closed_loop<R>(
    target: &Target,
    sends: &Sends,
    tally: &Arc<Tally>,
    frames: Option<u64>,
    drive: impl FnOnce() -> Result<R>,
) -> Result<(R, Histogram<u64>)> {
    let connections = sends.connections.clamp(1, sends.senders.max(1));
    let run = load::run_number();
    // Tickets of a counted run: exactly so many frames succeed.
    let tickets = Tickets { taken: AtomicU64::new(0), count: frames };
    let worker = async |_, mut gate: Gate| {
        let mut producers = Vec::new();
        for _ in 0..connections {
            producers.push(Producer::open(target, sends.size, sends.batch, run, tally).await?);
        }
        gate.pass().await;
        let histogram = Rc::new(RefCell::new(load::histogram()?));
        let loops = producers.into_iter().enumerate().map(|(nth, producer)| {
            let senders = sends.senders / connections + usize::from(nth < sends.senders % connections);
            let looping = send_loop(producer, senders, sends.batch as u64, tally, &tickets, &histogram);
            // What is on its way on a connection that broke is not known any more.
            async move { looping.await.unwrap_or_else(|error| tally.fail(&error)) }
        });
        tokio::select! {
            _ = futures_util::future::join_all(loops) => {}
            () = gate.over(Duration::from_secs(10)) => {}
        }
        let histogram = histogram.borrow().clone();
        Ok(histogram)
    };
    let (result, histograms) = load::run(1, tally, worker, drive)?;
    let mut sum = load::histogram()?;
    for histogram in histograms {
        // Same bounds: adding cannot fail.
        let _ = sum.add(histogram);
    }
    Ok((result, sum))
}

struct Tickets {
    taken: AtomicU64,
    /// `None`: any number.
    count: Option<u64>,
}

impl Tickets {
    fn take(&self) -> bool {
        self.count.is_none_or(|count| self.taken.fetch_add(1, Ordering::Relaxed) < count)
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps `senders` sends under way on one connection until the load stops or the tickets are out.
async fn send_loop(
    mut producer: Producer,
    senders: usize,
    messages: u64,
    tally: &Tally,
    tickets: &Tickets,
    histogram: &RefCell<Histogram<u64>>,
) -> Result<()> {
    let mut slots = Slots::new(senders.min(SLOTS_MAX));
    let mut now = now_ns();
    loop {
        while slots.busy() < slots.len() && !tally.stopped() && tickets.take() {
            let Some(opaque) = slots.begin(now) else { break };
            producer.add(opaque, now, now);
        }
        if slots.busy() == 0 {
            return Ok(());
        }
        producer.session.flush().await?;
        producer.session.link.read().await?;
        now = now_ns();
        let mut refused = false;
        while let Some(answer) = producer.session.answer()? {
            let begun = slots.answered(&answer, producer.code())?;
            match answer.ok(producer.code()) {
                Ok(_) => {
                    tally.add(messages);
                    if tally.recording() {
                        histogram.borrow_mut().saturating_record(now - begun);
                    }
                }
                Err(error) => {
                    tally.fail(&error);
                    tickets.give_back();
                    refused = true;
                }
            }
        }
        if refused {
            // A refusing server is not to be hammered; a client backs off as well.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
