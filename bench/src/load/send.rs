//! Sends: in a closed loop for capacity, in an open loop for latency at a rate.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::client::{Role, Session, WIDE_WINDOW, ok};
use crate::error::{BenchError, Result};
use crate::load::{self, Gate, Tally, Target};
use crate::pace::{Pacer, now_ns};
use crate::report::Report;
use crate::slim::SendResponse;
use crate::template::SendTemplate;
use crate::v1;
use crate::wire::{Rpc, protocol};

/// Sends of an open loop that may be under way at once; what is due beyond it fails.
const IN_FLIGHT_MAX: usize = 20_000;

/// How a send load is shaped.
#[derive(Clone, Debug)]
pub struct Sends {
    /// Closed loop: senders that each wait for their answer before the next send. Not used in an open loop.
    pub senders: usize,
    /// HTTP/2 connections, each a client of its own.
    pub connections: usize,
    /// Threads of the generator.
    pub threads: usize,
    /// Body size in bytes, at least 16.
    pub size: usize,
    /// Not measured.
    pub warm: Duration,
    /// Measured.
    pub measure: Duration,
}

/// What of an open loop goes into its tally.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Successes and failures.
    All,
    /// Failures only: somebody else counts successes.
    Failures,
}

/// A producer session that builds its sends from a template.
pub struct Producer {
    session: Session,
    template: SendTemplate,
    v1: bool,
    sequence: Cell<u32>,
}

impl Producer {
    /// Connects. `nth`: the number of this producer among those of its load.
    pub async fn open(target: &Target, size: usize, nth: usize, run: u64, tally: &Tally) -> Result<Self> {
        let traffic = Arc::clone(&tally.traffic);
        let session = Session::open(&target.endpoint, &target.topic, Role::Producer, WIDE_WINDOW, traffic).await?;
        let template = match target.v1 {
            true => SendTemplate::v1((&target.topic, &target.dress), size, session.number, run)?,
            false => {
                let dressed = (target.topic.as_str(), &target.dress);
                SendTemplate::new(dressed, size, session.number, nth as u32, run, target.spread)?
            }
        };
        Ok(Self { session, template, v1: target.v1, sequence: Cell::new(0) })
    }

    /// Sends one message and checks the answer: OK, one entry, the id that was sent.
    pub async fn send(&self, intended_ns: u64) -> Result<()> {
        let sequence = self.sequence.get();
        self.sequence.set(sequence.wrapping_add(1));
        let frame = self.template.frame(sequence, intended_ns);
        if self.v1 {
            let answer: v1::SendResponse = self.session.call(Rpc::SendMessageV1, frame).await?;
            let status = answer.common.and_then(|common| common.status).unwrap_or_default();
            return match status.code {
                0 if self.template.is_id_of(&answer.message_id, sequence) => Ok(()),
                0 => Err(protocol(Rpc::SendMessageV1, "a foreign message id".to_owned())),
                code => Err(BenchError::Status { rpc: Rpc::SendMessageV1.name(), code, message: status.message }),
            };
        }
        let answer: SendResponse = self.session.call(Rpc::SendMessage, frame).await?;
        ok(Rpc::SendMessage, answer.status)?;
        match &answer.entries[..] {
            [entry] if self.template.is_id_of(&entry.message_id, sequence) => Ok(()),
            entries => Err(protocol(Rpc::SendMessage, format!("{} entries, or a foreign message id", entries.len()))),
        }
    }

    /// Says goodbye; a server that does not answer is not waited for.
    pub async fn close(&self) {
        drop(tokio::time::timeout(Duration::from_secs(1), self.session.close()).await);
    }
}

fn share(total: usize, parts: usize, index: usize) -> usize {
    total / parts + usize::from(index < total % parts)
}

/// Closed loop for a time: throughput, and latency as a by-product.
pub fn closed(target: &Target, sends: &Sends) -> Result<Report> {
    let tally = Arc::new(Tally::default());
    let drive = || load::timed(target, &tally, sends.warm, sends.measure);
    let ((before, after), histogram) = closed_loop(target, sends, &tally, None, drive)?;
    let mut report = Report::new(format!(
        "send, closed loop: {} senders on {} connections, {} bytes",
        sends.senders, sends.connections, sends.size
    ));
    load::add_figures(&mut report, &before, &after, Some(sends.size));
    report.add_latency(&histogram);
    report.first_error = tally.first_error();
    Ok(report)
}

/// Closed loop until `count` messages are acknowledged, to fill a topic.
pub fn fill(target: &Target, sends: &Sends, count: u64) -> Result<Report> {
    let tally = Arc::new(Tally::default());
    let drive = || load::counted("fill", target, &tally, count, Duration::from_secs(30));
    let ((before, after), _) = closed_loop(target, sends, &tally, Some(count), drive)?;
    let mut report = Report::new(format!("fill: {count} messages of {} bytes", sends.size));
    load::add_figures(&mut report, &before, &after, Some(sends.size));
    report.first_error = tally.first_error();
    Ok(report)
}

fn closed_loop<R>(
    target: &Target,
    sends: &Sends,
    tally: &Arc<Tally>,
    count: Option<u64>,
    drive: impl FnOnce() -> Result<R>,
) -> Result<(R, Histogram<u64>)> {
    let threads = sends.threads.clamp(1, sends.connections.max(1));
    let connections = sends.connections.clamp(threads, sends.senders.max(threads));
    let run = load::run_number();
    // Tickets of a counted run: exactly `count` sends succeed.
    let tickets = AtomicU64::new(0);
    let worker = async |index: usize, mut gate: Gate| {
        let mut producers = Vec::new();
        for nth in 0..share(connections, threads, index) {
            producers.push(Rc::new(Producer::open(target, sends.size, nth * threads + index, run, tally).await?));
        }
        gate.pass().await;
        let histogram = Rc::new(RefCell::new(load::histogram()?));
        let mut tasks = tokio::task::JoinSet::new();
        let tickets = &tickets;
        let all = async {
            let mut loops = Vec::new();
            for sender in 0..share(sends.senders, threads, index) {
                let producer = Rc::clone(&producers[sender % producers.len()]);
                loops.push(sender_loop(producer, tally, count.map(|c| (tickets, c)), Rc::clone(&histogram)));
            }
            futures_util::future::join_all(loops).await;
        };
        tokio::select! {
            _ = all => {}
            () = gate.over(Duration::from_secs(10)) => {}
        }
        for producer in producers {
            tasks.spawn_local(async move { producer.close().await });
        }
        while tasks.join_next().await.is_some() {}
        let histogram = histogram.borrow().clone();
        Ok(histogram)
    };
    let (result, histograms) = load::run(threads, tally, worker, drive)?;
    let mut sum = load::histogram()?;
    for histogram in histograms {
        // Same bounds: adding cannot fail.
        let _ = sum.add(histogram);
    }
    Ok((result, sum))
}

async fn sender_loop(
    producer: Rc<Producer>,
    tally: &Tally,
    tickets: Option<(&AtomicU64, u64)>,
    histogram: Rc<RefCell<Histogram<u64>>>,
) {
    while !tally.stopped() {
        if let Some((taken, count)) = tickets
            && taken.fetch_add(1, Ordering::Relaxed) >= count
        {
            return;
        }
        let begin = now_ns();
        match producer.send(begin).await {
            Ok(()) => {
                tally.add(1);
                if tally.recording() {
                    histogram.borrow_mut().saturating_record(now_ns() - begin);
                }
            }
            Err(error) => {
                tally.fail(&error);
                if let Some((taken, _)) = tickets {
                    taken.fetch_sub(1, Ordering::Relaxed);
                }
                // A refusing server is not to be hammered; an official client backs off as well.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Open loop: `rate` sends a second whatever the server does, latency from the intended start.
pub fn open(target: &Target, sends: &Sends, rate: u32) -> Result<Report> {
    let tally = Arc::new(Tally::default());
    let run = load::run_number();
    let worker = async |_, mut gate: Gate| {
        let mut producers = Vec::new();
        for nth in 0..sends.connections.max(1) {
            producers.push(Rc::new(Producer::open(target, sends.size, nth, run, &tally).await?));
        }
        gate.pass().await;
        let histogram = Rc::new(RefCell::new(load::histogram()?));
        let paced = paced(&producers, rate, &tally, Count::All, &histogram);
        tokio::select! {
            () = paced => {}
            () = gate.over(Duration::from_secs(10)) => {}
        }
        for producer in producers {
            producer.close().await;
        }
        let histogram = histogram.borrow().clone();
        Ok(histogram)
    };
    let drive = || load::timed(target, &tally, sends.warm, sends.measure);
    let ((before, after), histograms) = load::run(1, &tally, worker, drive)?;
    let mut report = Report::new(format!(
        "send, open loop: {rate} a second on {} connections, {} bytes",
        sends.connections, sends.size
    ));
    load::add_figures(&mut report, &before, &after, Some(sends.size));
    for histogram in histograms {
        report.add_latency(&histogram);
    }
    report.first_error = tally.first_error();
    Ok(report)
}

/// Starts every send when it is due until the load stops, then waits for those under way.
pub async fn paced(
    producers: &[Rc<Producer>],
    rate: u32,
    tally: &Arc<Tally>,
    count: Count,
    histogram: &Rc<RefCell<Histogram<u64>>>,
) {
    let mut pacer = Pacer::start(rate);
    let mut under_way = tokio::task::JoinSet::new();
    while !tally.stopped() {
        for index in pacer.due().await {
            while under_way.try_join_next().is_some() {}
            if under_way.len() >= IN_FLIGHT_MAX {
                tally.fail(&BenchError::Server { what: format!("{IN_FLIGHT_MAX} sends are under way") });
                continue;
            }
            let intended = pacer.intended_ns(index);
            let producer = Rc::clone(&producers[index as usize % producers.len()]);
            let (tally, histogram) = (Arc::clone(tally), Rc::clone(histogram));
            under_way.spawn_local(async move {
                match producer.send(intended).await {
                    Ok(()) => {
                        tally.add(u64::from(count == Count::All));
                        if tally.recording() {
                            histogram.borrow_mut().saturating_record(now_ns() - intended);
                        }
                    }
                    Err(error) => tally.fail(&error),
                }
            });
        }
    }
    while under_way.join_next().await.is_some() {}
}
