//! Connections at rest: each is a client that sends a heartbeat every 30 s and nothing else.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::Result;
use crate::load::{self, Gate, Tally, Target};
use crate::procfs;
use crate::report::Report;
use crate::tcp::code;
use crate::tcp::link::Link;
use crate::tcp::session::{BEAT_EVERY, Role, Route, heartbeat, unix_ms};

/// Connections that are made at the same time.
const CONNECTING_MAX: usize = 64;
/// What a server does right after the last connection is not rest.
const SETTLE: Duration = Duration::from_secs(2);

/// Runs it with so many connections.
pub fn run(target: &Target, connections: usize, measure: Duration) -> Result<Report> {
    more_files();
    let tally = Arc::new(Tally::default());
    let begin = Instant::now();
    let empty = if target.pids.is_empty() { None } else { Some(procfs::usage(&target.pids)?) };
    let worker = async |_, mut gate: Gate| {
        let route = Route::ask(&target.endpoint, &target.topic, &tally.traffic).await?;
        let links: Vec<(Link, String)> = stream::iter(0..connections)
            .map(|nth| attach(target, &route, nth, &tally))
            .buffered(CONNECTING_MAX)
            .try_collect()
            .await?;
        let attached = begin.elapsed();
        gate.pass().await;
        let from = tokio::time::Instant::now();
        let open = Rc::new(Cell::new(links.len()));
        let beats = links.into_iter().enumerate().map(|(nth, (link, beat))| {
            let first = from + BEAT_EVERY.mul_f64(nth as f64 / connections as f64);
            let (tally, open) = (Arc::clone(&tally), Rc::clone(&open));
            tokio::task::spawn_local(async move {
                if let Err(error) = beat_on(link, &beat, first, &tally).await {
                    open.set(open.get() - 1);
                    tally.fail(&error);
                }
            })
        });
        let beats: Vec<_> = beats.collect();
        gate.over(Duration::ZERO).await;
        beats.iter().for_each(tokio::task::JoinHandle::abort);
        Ok((attached, open.get()))
    };
    let drive = || load::timed(target, &tally, SETTLE, measure);
    let ((before, after), results) = load::run(1, &tally, worker, drive)?;
    let mut report = Report::new(format!("TCP idle: {connections} connections, a heartbeat of each every 30 s"));
    for (attached, open) in results {
        report.add("attached", attached.as_secs_f64(), "s");
        report.add("still open", open as f64, "");
    }
    if let (Some(empty), Some((cores, resident))) = (empty, after.server_since(&before)) {
        report.add("idle CPU", cores * 100.0, "% of a core");
        report.add("server RSS", resident / 1e6, "MB");
        report.add("RSS grown", (resident - empty.rss as f64) / 1e6, "MB");
    }
    report.add("heartbeats", (after.done - before.done) as f64, "");
    report.add("failed", (after.failed - before.failed) as f64, "");
    report.first_error = tally.first_error();
    Ok(report)
}

/// A client with its first heartbeat, and what it says in each.
async fn attach(target: &Target, route: &Route, nth: usize, tally: &Tally) -> Result<(Link, String)> {
    let mut link = Link::open(&route.address, true, Arc::clone(&tally.traffic)).await?;
    let beat = heartbeat(nth as u64, &target.topic, &Role::Producer, unix_ms());
    link.ask(code::HEARTBEAT, &[], beat.as_bytes()).await?.ok(code::HEARTBEAT)?;
    Ok((link, beat))
}

/// Sends a heartbeat every 30 s from `first` on.
async fn beat_on(mut link: Link, beat: &str, first: tokio::time::Instant, tally: &Tally) -> Result<()> {
    let mut due = first;
    loop {
        tokio::time::sleep_until(due).await;
        link.ask(code::HEARTBEAT, &[], beat.as_bytes()).await?.ok(code::HEARTBEAT)?;
        tally.add(1);
        due += BEAT_EVERY;
    }
}

/// Asks for as many open files as this process may have.
fn more_files() {
    let limit = getrlimit(Resource::Nofile);
    // If it may not, the connection that is one too many says so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
