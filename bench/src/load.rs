//! The loads, and what they share: workers on current-thread runtimes, a gate they start through together, and counters read
//! at the same instants on both sides.

pub mod delay;
pub mod filter;
pub mod http;
pub mod idle;
pub mod latency;
pub mod lite;
pub mod polls;
pub mod receive;
pub mod send;
pub mod slots;
pub mod tcp;

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::watch;

use crate::error::{BenchError, Result};
use crate::procfs::{self, Usage};
use crate::report::Report;
use crate::template::{Dress, Spread};
use crate::wire::Traffic;

/// The server under load.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port`.
    pub endpoint: String,
    /// Topic of the load.
    pub topic: String,
    /// What sends are spread over.
    pub spread: Spread,
    /// What sends look like.
    pub dress: Dress,
    /// They go by `apache.rocketmq.v1`.
    pub v1: bool,
    /// Processes whose CPU, memory and writes are told; none if empty.
    pub pids: Vec<u32>,
}

/// Counters that all workers of a load add to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Operations that succeeded.
    pub done: AtomicU64,
    /// Operations that failed.
    pub failed: AtomicU64,
    /// Socket bytes.
    pub traffic: Arc<Traffic>,
    recording: AtomicBool,
    stopped: AtomicBool,
    first_error: Mutex<Option<String>>,
}

impl Tally {
    /// Whether latencies count: after the warm-up, before the end.
    pub fn recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed)
    }

    /// From now on latencies count, or do not any more.
    pub fn record(&self, on: bool) {
        self.recording.store(on, Ordering::Relaxed);
    }

    /// Whether no new operation is to begin.
    pub fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Adds successes.
    pub fn add(&self, n: u64) {
        self.done.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds a failure and keeps the first one's text.
    pub fn fail(&self, error: &BenchError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| error.to_string());
    }

    /// Text of the first failure.
    pub fn first_error(&self) -> Option<String> {
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A histogram of nanoseconds: 1 µs to 2 minutes, two digits.
pub fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1_000, 120_000_000_000, 3).map_err(|e| BenchError::Server { what: e.to_string() })
}

/// Start and end of a load, as a worker sees them.
#[derive(Clone)]
pub struct Gate {
    ready: mpsc::Sender<bool>,
    phase: watch::Receiver<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Preparing,
    Running,
    Stopped,
}

impl Gate {
    /// Says that this worker is connected, and waits for all others.
    pub async fn pass(&mut self) {
        // A driver that is gone ends the wait too: both mean there is nothing to wait for.
        let _ = self.ready.send(true);
        drop(self.phase.wait_for(|p| *p >= Phase::Running).await);
    }

    /// Resolves `grace` after the end of the load: what hangs longer is dropped.
    pub async fn over(&mut self, grace: Duration) {
        drop(self.phase.wait_for(|p| *p >= Phase::Stopped).await);
        tokio::time::sleep(grace).await;
    }
}

/// Runs `worker(index, gate)` on `threads` threads, each with a current-thread runtime, and `drive` on this one between the
/// moment all workers are connected and the end. Returns what `drive` and the workers returned.
pub fn run<T, R, F, Fut>(
    threads: usize,
    tally: &Arc<Tally>,
    worker: F,
    drive: impl FnOnce() -> Result<R>,
) -> Result<(R, Vec<T>)>
where
    T: Send,
    F: Fn(usize, Gate) -> Fut + Sync,
    Fut: Future<Output = Result<T>>,
{
    let (ready_tx, ready) = mpsc::channel();
    let (phase_tx, phase) = watch::channel(Phase::Preparing);
    std::thread::scope(|scope| {
        let mut handles = Vec::new();
        for index in 0..threads {
            let gate = Gate { ready: ready_tx.clone(), phase: phase.clone() };
            let (worker, ready_tx) = (&worker, ready_tx.clone());
            handles.push(scope.spawn(move || -> Result<T> {
                let io = |source| BenchError::File { path: "runtime".into(), source };
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
                let result = tokio::task::LocalSet::new().block_on(&runtime, worker(index, gate));
                if result.is_err() {
                    let _ = ready_tx.send(false);
                }
                result
            }));
        }
        drop(ready_tx);
        let all_ready = (0..threads).all(|_| ready.recv().unwrap_or(false));
        let driven = if all_ready {
            phase_tx.send_replace(Phase::Running);
            Some(drive())
        } else {
            None
        };
        tally.stopped.store(true, Ordering::Relaxed);
        phase_tx.send_replace(Phase::Stopped);
        let mut results = Vec::new();
        for handle in handles {
            let died = || BenchError::Server { what: "a worker of the generator panicked".to_owned() };
            results.push(handle.join().map_err(|_| died())??);
        }
        let lost = || BenchError::Server { what: "a worker ended before the load began".to_owned() };
        Ok((driven.ok_or_else(lost)??, results))
    })
}

/// All counters at one instant.
#[derive(Clone, Debug)]
pub struct Snapshot {
    at: Instant,
    server: Option<Usage>,
    own: Usage,
    done: u64,
    failed: u64,
    read: u64,
}

impl Snapshot {
    /// Reads them now.
    pub fn take(target: &Target, tally: &Tally) -> Result<Self> {
        Ok(Self {
            server: if target.pids.is_empty() { None } else { Some(procfs::usage(&target.pids)?) },
            own: procfs::usage(&[std::process::id()])?,
            done: tally.done.load(Ordering::Relaxed),
            failed: tally.failed.load(Ordering::Relaxed),
            read: tally.traffic.read.load(Ordering::Relaxed),
            at: Instant::now(),
        })
    }
}

impl Snapshot {
    /// Cores that the server used since an earlier one, and its resident memory now in bytes.
    pub fn server_since(&self, before: &Self) -> Option<(f64, f64)> {
        let (was, is) = (before.server?, self.server?);
        Some(((is.cpu_s - was.cpu_s) / (self.at - before.at).as_secs_f64(), is.rss as f64))
    }
}

/// Adds rate, failures, CPU, memory and writes between two snapshots. `body` is the size of a message in bytes if bytes
/// written per message byte are to be told.
pub fn add_figures(report: &mut Report, before: &Snapshot, after: &Snapshot, body: Option<usize>) {
    let seconds = (after.at - before.at).as_secs_f64();
    let done = (after.done - before.done) as f64;
    let per_million = |cpu: f64| cpu / done.max(1.0) * 1e6;
    report.add("rate", done / seconds, "messages/s");
    report.add("messages", done, "");
    report.add("failed", (after.failed - before.failed) as f64, "");
    report.add("seconds", seconds, "s");
    if let (Some(was), Some(is)) = (before.server, after.server) {
        report.add("server CPU", per_million(is.cpu_s - was.cpu_s), "s per million");
        report.add("server cores", (is.cpu_s - was.cpu_s) / seconds, "");
        report.add("server RSS", is.rss as f64 / 1e6, "MB");
        report.add("server RSS peak", is.rss_peak as f64 / 1e6, "MB");
        // Answers leave through writev, which the kernel counts like a file's; what came out of the sockets is taken off.
        let all = is.written - was.written;
        let files = all.saturating_sub(after.read - before.read) as f64;
        report.add("written, all", all as f64 / done.max(1.0), "bytes per message");
        report.add("written, files", files / done.max(1.0), "bytes per message");
        if let Some(body) = body {
            report.add("written per message byte", files / (done.max(1.0) * body as f64), "");
        }
    }
    report.add("generator CPU", per_million(after.own.cpu_s - before.own.cpu_s), "s per million");
}

/// Lets a load warm up and run, and reads the counters at both ends of the measured part; an error if nothing was done in it.
pub fn timed(target: &Target, tally: &Tally, warm: Duration, measure: Duration) -> Result<(Snapshot, Snapshot)> {
    std::thread::sleep(warm);
    let before = Snapshot::take(target, tally)?;
    tally.recording.store(true, Ordering::Relaxed);
    std::thread::sleep(measure);
    tally.recording.store(false, Ordering::Relaxed);
    let after = Snapshot::take(target, tally)?;
    if after.done == before.done {
        // Percentiles of nothing would look like a perfect server.
        let last = tally.first_error().unwrap_or_else(|| "none".to_owned());
        return Err(BenchError::Stalled { load: "timed", done: 0, wanted: 1, last });
    }
    Ok((before, after))
}

/// Drives a load of `count` operations: all that are done count, those of before the first look, too.
pub fn counted(
    load: &'static str,
    target: &Target,
    tally: &Tally,
    count: u64,
    patience: Duration,
) -> Result<(Snapshot, Snapshot)> {
    let before = Snapshot { done: 0, failed: 0, ..Snapshot::take(target, tally)? };
    until_done(load, tally, count, patience)?;
    Ok((before, Snapshot::take(target, tally)?))
}

/// Waits until `wanted` operations are done; an error if nothing moves for `patience`.
pub fn until_done(load: &'static str, tally: &Tally, wanted: u64, patience: Duration) -> Result<()> {
    let mut seen = (0, Instant::now());
    loop {
        let done = tally.done.load(Ordering::Relaxed);
        if done >= wanted {
            return Ok(());
        }
        if done != seen.0 {
            seen = (done, Instant::now());
        } else if seen.1.elapsed() > patience {
            let last = tally.first_error().unwrap_or_else(|| "none".to_owned());
            return Err(BenchError::Stalled { load, done, wanted, last });
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A number that tells this run's messages from those of others.
pub fn run_number() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ u64::from(std::process::id())
}
