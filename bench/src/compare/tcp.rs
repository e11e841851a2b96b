//! The comparison's loads of TCP clients.

use std::time::Duration;

use super::servers::{Kind, Server};
use super::table::Results;
use super::{Options, say};
use crate::load::Target;
use crate::load::tcp::idle;
use crate::load::tcp::latency::{self, Latency};
use crate::load::tcp::pull::{self, Pulling};
use crate::load::tcp::send::{self, Sends};

/// Bytes of a body.
const SIZE: usize = 1024;
/// Messages of a batch.
const BATCH: usize = 32;
/// Pulls are so cheap that the kernel's clock of 10 ms needs so many times the messages of other loads.
const PULLED: u64 = 5;

fn sends(senders: usize, batch: usize, measure: Duration) -> Sends {
    let warm = Duration::from_secs(if batch > 1 { 1 } else { 3 });
    Sends { senders, connections: 8, batch, size: SIZE, warm, measure }
}

fn pulling(group: String, count: u64) -> Pulling {
    Pulling { group, count, connections: 4, commits: true }
}

/// Connections at rest, before anything was sent; topics of all rounds; and the load that warms the JVMs up: sends, batches,
/// and pulls of what was sent.
pub fn prepare(server: &Server, options: &Options, results: &mut Results) {
    let kind = server.kind;
    let mut topics = vec!["bench-send".to_owned(), "bench-warm".to_owned()];
    for round in 0..options.rounds {
        topics.push(format!("bench-pull-{round}"));
        topics.push(format!("bench-latency-{round}"));
    }
    for topic in topics {
        if let Err(error) = server.create_topic(&topic) {
            results.note(format!("{kind}: topic {topic}: {error}"));
        }
    }
    if options.idle_connections > 0 && kind != Kind::Floor {
        say(format!("{} idle connections: {kind}", options.idle_connections));
        // Each sends one heartbeat in that time.
        let report = idle::run(&server.target("bench-send"), options.idle_connections, Duration::from_secs(30));
        results.take(kind, report, &[("idle CPU", "idle CPU"), ("idle RSS", "server RSS")]);
    }
    if kind == Kind::Reference {
        say(format!("warming the reference up for {} s", options.jvm_warm_up));
        warm_up(&server.target("bench-warm"), Duration::from_secs(options.jvm_warm_up), results);
    }
}

fn warm_up(target: &Target, time: Duration, results: &mut Results) {
    let share = |part: f64| Duration::from_secs_f64(time.as_secs_f64() * part);
    let begin = std::time::Instant::now();
    let warmed = send::closed(target, &sends(32, 1, share(0.4))).and_then(|sent| {
        send::closed(target, &sends(32, BATCH, share(0.1)))?;
        let count = sent.get("messages").unwrap_or_default() as u64;
        while begin.elapsed() < share(0.9) {
            pull::drain(target, &pulling("bench-warm".to_owned(), count))?;
        }
        send::closed(target, &sends(256, 1, share(0.1)))
    });
    if let Err(error) = warmed {
        results.note(format!("warm-up of the reference: {error}"));
    }
}

/// Each load once.
pub fn one_round(server: &Server, options: &Options, round: usize, results: &mut Results) {
    let (kind, measure) = (server.kind, Duration::from_secs(options.seconds));
    let target = server.target("bench-send");
    for (senders, batch, keys) in [
        (32, 1, ["send CPU 32", "send rate 32", "send p99 32"]),
        (256, 1, ["send CPU 256", "send rate 256", "send p99 256"]),
        (32, BATCH, ["batch CPU", "batch rate", "batch p99"]),
    ] {
        let report = send::closed(&target, &sends(senders, batch, measure));
        let mut figures =
            vec![(keys[0], "server CPU"), (keys[1], "rate"), (keys[2], "p99"), ("load RSS", "server RSS peak")];
        figures.extend((batch == 1).then_some(("generator CPU", "generator CPU")));
        results.take(kind, report, &figures);
    }
    let (target, count) = (server.target(&format!("bench-pull-{round}")), PULLED * options.messages);
    if let Err(error) = send::fill(&target, &sends(32, BATCH, measure), count) {
        results.note(format!("{kind}: fill: {error}"));
        return;
    }
    let report = pull::drain(&target, &pulling(format!("bench-pull-{round}"), count));
    results.take(kind, report, &[("pull CPU", "server CPU"), ("pull rate", "rate")]);
    if kind == Kind::Floor {
        // It hands out messages that nobody sent, so there is no latency to measure.
        return;
    }
    let shape = Latency {
        group: format!("bench-latency-{round}"),
        rate: 1000,
        size: SIZE,
        warm: Duration::from_secs(3),
        measure: Duration::from_secs(options.seconds.max(10)),
    };
    let report = latency::run(&server.target(&format!("bench-latency-{round}")), &shape);
    results.take(kind, report, &[("latency p50", "p50"), ("latency p99", "p99")]);
}
