//! The side-by-side comparison: Apache RocketMQ, the floor and Martlet under the same loads, in interleaved rounds.
//!
//! All servers are started once; a server that is not being measured is stopped with SIGSTOP, so that it takes neither CPU
//! nor a cold start. The reference gets its time to warm up first. Figures are medians over the rounds, with the smallest and
//! the largest in brackets. A load that fails on one server leaves a gap and a note, and the run goes on.

mod servers;
mod table;
mod tcp;

use std::path::PathBuf;
use std::time::Duration;

use crate::error::Result;
use crate::load::latency::{self, Latency};
use crate::load::polls::{self, Polls};
use crate::load::receive::{self, Acks, Receives};
use crate::load::send::{self, Sends};
use crate::load::{Target, idle, slots};
use crate::report::Report;
use servers::{Kind, Server};
use table::Results;

/// What is compared, and for how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Folder with the reference's start.sh, stop.sh and mqadmin.sh; without it that column is left out.
    #[arg(long, env = "REFERENCE_DIR")]
    reference: Option<PathBuf>,
    /// The martlet program; by default the one beside this program. If there is none, that column is left out.
    #[arg(long, env = "MARTLET_BIN")]
    martlet: Option<PathBuf>,
    /// Where servers keep their data; it should be on the disk in question. Made if absent; each run uses a folder of its own
    /// in it, and removes it.
    #[arg(long, default_value = "bench-work")]
    work: PathBuf,
    /// Rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of load before the reference counts as warm.
    #[arg(long, default_value_t = 60)]
    jvm_warm_up: u64,
    /// Seconds measured of each timed load.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Messages received and acknowledged in each round, per way of acknowledging.
    #[arg(long, default_value_t = 60_000)]
    messages: u64,
    /// Messages of 4 MiB for the polls' memory; 0 leaves that out.
    #[arg(long, default_value_t = 100)]
    large_messages: u64,
    /// Messages left unacknowledged in one queue of Martlet; 0 leaves that out.
    #[arg(long, default_value_t = 170_000)]
    open_slots: u64,
    /// GiB of log for the time to be ready again; 0 leaves that out.
    #[arg(long, default_value_t = 0)]
    log_gib: u64,
    /// The loads of TCP clients (remoting) instead of those of gRPC.
    #[arg(long)]
    tcp: bool,
    /// With --tcp: connections that only send heartbeats; 0 leaves that out.
    #[arg(long, default_value_t = 10_000)]
    idle_connections: usize,
    /// First of the ports used (the reference takes its usual ones besides).
    #[arg(long, default_value_t = 18081)]
    port: u16,
}

/// Runs everything and prints the table; the report is empty.
pub fn run(options: &Options, json: bool) -> Result<Report> {
    let file = |source| crate::error::BenchError::File { path: options.work.clone(), source };
    std::fs::create_dir_all(&options.work).map_err(file)?;
    let work = tempfile::Builder::new().prefix("compare-").tempdir_in(&options.work).map_err(file)?;
    let mut results = Results::new(options.tcp);
    let sync = idle::sync_cost(work.path())?;
    results.sync_ms = sync.get("p50").unwrap_or_default();

    let mut running: Vec<Server> = Vec::new();
    for kind in Kind::ALL {
        say(format!("starting {kind}"));
        match Server::start(kind, options, work.path()) {
            Ok(Some(server)) => {
                results.put(kind, "ready", server.ready_ms);
                running.push(server);
            }
            Ok(None) => results.note(format!("{kind}: left out, {}", kind.how_to_have(options))),
            Err(error) => results.note(format!("{kind}: not started: {error}")),
        }
        let Some(server) = running.last().filter(|s| s.kind == kind) else { continue };
        if options.tcp {
            tcp::prepare(server, options, &mut results);
            server.pause();
            continue;
        }
        if kind != Kind::Floor {
            // What a server does right after its start is not idling.
            std::thread::sleep(Duration::from_secs(5));
            let report = idle::idle(&server.pids, Duration::from_secs(20));
            results.take(kind, report, &[("idle CPU", "idle CPU"), ("idle RSS", "server RSS")]);
        }
        if kind == Kind::Reference {
            prepare_reference(server, options, &mut results);
        }
        server.pause();
    }
    for round in 0..options.rounds {
        for server in &running {
            say(format!("round {} of {}: {}", round + 1, options.rounds, server.kind));
            // What another one has left to be written would be written on this one's time.
            rustix::fs::sync();
            server.resume();
            match options.tcp {
                true => tcp::one_round(server, options, round, &mut results),
                false => one_round(server, options, round, &mut results),
            }
            server.pause();
        }
    }
    if options.tcp {
        drop(running);
        results.print(json);
        return Ok(Report::default());
    }
    for server in running.iter().filter(|s| s.kind != Kind::Floor && options.large_messages > 0) {
        say(format!("polls of large messages: {}", server.kind));
        server.resume();
        let shape = Polls {
            group: "bench-polls".to_owned(),
            polls: 1000,
            connections: 20,
            size: 4 << 20,
            count: options.large_messages,
            hold: Duration::from_secs(5),
        };
        let report = polls::run(&server.target("bench-polls"), &shape);
        results.take(server.kind, report, &[("polls RSS", "server RSS peak")]);
        server.pause();
    }
    for server in running.iter().filter(|s| s.kind == Kind::Martlet && options.open_slots > 0) {
        server.resume();
        if let Err(error) = server.create_topic("bench-slots") {
            results.note(format!("topic bench-slots: {error}"));
        }
        let report = slots::run(&server.target("bench-slots"), "bench-slots", options.open_slots);
        let figures = [
            ("slots RSS", "RSS grown"),
            ("slots CPU before", "server CPU before"),
            ("slots CPU", "server CPU with open slots"),
        ];
        results.take(server.kind, report, &figures);
        server.pause();
    }
    if options.log_gib > 0
        && let Some(index) = running.iter().position(|s| s.kind == Kind::Martlet)
    {
        let server = running.swap_remove(index);
        match reopen(server, options, work.path()) {
            Ok(ready_ms) => results.put(Kind::Martlet, "ready with log", ready_ms),
            Err(error) => results.note(format!("ready with a log of {} GiB: {error}", options.log_gib)),
        }
    }
    drop(running);
    results.print(json);
    Ok(Report::default())
}

fn say(what: String) {
    eprintln!("bench: {what}");
}

fn sends(options: &Options, senders: usize, size: usize) -> Sends {
    Sends {
        senders,
        connections: 8,
        threads: 1,
        size,
        warm: Duration::from_secs(3),
        measure: Duration::from_secs(options.seconds),
    }
}

/// Topics of all rounds, and the load that warms the JVMs up: sends, then receives of what was sent.
fn prepare_reference(server: &Server, options: &Options, results: &mut Results) {
    let mut topics = vec!["bench-send".to_owned(), "bench-warm".to_owned(), "bench-polls".to_owned()];
    for round in 0..options.rounds {
        topics.push(format!("bench-receive-{round}"));
        topics.push(format!("bench-latency-{round}"));
    }
    for topic in topics {
        if let Err(error) = server.create_topic(&topic) {
            results.note(format!("topic {topic}: {error}"));
        }
    }
    say(format!("warming the reference up for {} s", options.jvm_warm_up));
    let target = server.target("bench-warm");
    let warm = Sends { measure: Duration::from_secs(options.jvm_warm_up / 2), ..sends(options, 32, 1024) };
    let sent = send::closed(&target, &warm).and_then(|sent| {
        let count = sent.get("messages").unwrap_or_default() as u64;
        receive::drain(&target, &receives("bench-warm", Acks::Batch, count / 2))?;
        receive::drain(&target, &receives("bench-warm", Acks::Single, count / 2))
    });
    if let Err(error) = sent {
        results.note(format!("warm-up of the reference: {error}"));
    }
}

fn receives(group: &str, acks: Acks, count: u64) -> Receives {
    Receives { group: group.to_owned(), pollers: 8, connections: 4, count, acks }
}

fn one_round(server: &Server, options: &Options, round: usize, results: &mut Results) {
    let kind = server.kind;
    let target = server.target("bench-send");
    for (size, senders, keys) in [
        (1024, 32, ["send CPU 1024/32", "rate 1024/32", "written 1024/32"]),
        (1024, 256, ["send CPU 1024/256", "rate 1024/256", "written 1024/256"]),
        (128, 32, ["send CPU 128/32", "rate 128/32", "written 128/32"]),
        (128, 256, ["send CPU 128/256", "rate 128/256", "written 128/256"]),
    ] {
        let report = send::closed(&target, &sends(options, senders, size));
        let figures = [
            (keys[0], "server CPU"),
            (keys[1], "rate"),
            (keys[2], "written per message byte"),
            ("load RSS", "server RSS peak"),
            ("generator CPU", "generator CPU"),
        ];
        results.take(kind, report, &figures);
    }
    let target = server.target(&format!("bench-receive-{round}"));
    let filled = send::fill(&target, &sends(options, 64, 1024), options.messages);
    if let Err(error) = filled {
        results.note(format!("{kind}: fill: {error}"));
        return;
    }
    for (acks, name, keys) in [
        (Acks::Batch, "batch", ["receive CPU batch", "receive rate batch", "receive written batch"]),
        (Acks::Single, "single", ["receive CPU single", "receive rate single", "receive written single"]),
    ] {
        let report = receive::drain(&target, &receives(&format!("bench-{name}-{round}"), acks, options.messages));
        let figures =
            [(keys[0], "server CPU"), (keys[1], "rate"), (keys[2], "written, files"), ("load RSS", "server RSS peak")];
        results.take(kind, report, &figures);
    }
    if kind == Kind::Floor {
        // It hands out messages that nobody sent, so there is no latency to measure.
        return;
    }
    let shape = Latency {
        rate: 1000,
        size: 1024,
        group: format!("bench-latency-{round}"),
        pollers: 4,
        warm: Duration::from_secs(3),
        measure: Duration::from_secs(options.seconds.max(10)),
    };
    let report = latency::run(&server.target(&format!("bench-latency-{round}")), &shape);
    results.take(kind, report, &[("latency p50", "p50"), ("latency p99", "p99"), ("latency p99.9", "p99.9")]);
}

/// Fills the log, stops the server, starts it again on the same folder.
fn reopen(server: Server, options: &Options, work: &std::path::Path) -> Result<f64> {
    server.resume();
    let size = 16 << 10;
    let target: Target = server.target("bench-large");
    send::fill(&target, &sends(options, 256, size), (options.log_gib << 30) / size as u64)?;
    drop(server);
    let again = Server::start(Kind::Martlet, options, work)?;
    Ok(again.map(|s| s.ready_ms).unwrap_or_default())
}
