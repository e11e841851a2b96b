//! Plays seeds: `sim --seeds 0..1000`, `sim --forever`, `sim --seed 17 --trace`.

use clap::Parser;
use martlet_sim::{Broken, Plan, Report, Violation, run};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Deterministic simulation of a shard, its store and its clients under faults.
#[derive(Parser)]
struct Arguments {
    /// Play these seeds, for instance 0..1000.
    #[arg(long, value_parser = range, conflicts_with_all = ["seed", "forever"])]
    seeds: Option<std::ops::Range<u64>>,
    /// Play one seed.
    #[arg(long, conflicts_with = "forever")]
    seed: Option<u64>,
    /// Play on until something is found.
    #[arg(long)]
    forever: bool,
    /// Print what is found and play on.
    #[arg(long)]
    keep_going: bool,
    /// Print every answer.
    #[arg(long)]
    trace: bool,
    /// Play a build that is broken on purpose.
    #[arg(long, value_parser = broken)]
    broken: Option<Broken>,
    /// Steps of a seed.
    #[arg(long, default_value_t = Plan::default().steps)]
    steps: u64,
    /// Threads; by default one per core.
    #[arg(long)]
    threads: Option<usize>,
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds.ok_or_else(|| format!("{text} is not a range like 0..1000"))
}

fn broken(text: &str) -> Result<Broken, String> {
    match text {
        "release-before-sync" => Ok(Broken::ReleaseBeforeSync),
        "delete-too-early" => Ok(Broken::DeleteTooEarly),
        "lossy-index-key" => Ok(Broken::LossyIndexKey),
        _ => Err("one of release-before-sync, delete-too-early, lossy-index-key".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let plan = Plan { steps: arguments.steps, broken: arguments.broken, trace: arguments.trace, ..Plan::default() };
    let seeds = match (arguments.seeds, arguments.seed, arguments.forever) {
        (Some(seeds), ..) => seeds,
        (_, Some(seed), _) => seed..seed + 1,
        (_, _, true) => 0..u64::MAX,
        _ => 0..100,
    };
    let threads = arguments.threads.or(std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let shared = Mutex::new((Report::default(), None::<Violation>));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let played = std::panic::catch_unwind(|| run(seed, plan));
                    let played = played.unwrap_or_else(|_| {
                        Err(Violation { seed, step: 0, what: "the shard or the store panicked".into() })
                    });
                    let mut shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match played {
                        Ok(report) => {
                            shared.0.add(&report);
                            if shared.0.seeds.is_multiple_of(10_000) {
                                summary(&shared.0, begun);
                            }
                        }
                        Err(violation) if arguments.keep_going => println!("{violation}"),
                        Err(violation) => {
                            stop.store(true, Ordering::Relaxed);
                            if shared.1.as_ref().is_none_or(|first| first.seed > violation.seed) {
                                shared.1 = Some(violation);
                            }
                        }
                    }
                }
            });
        }
    });
    let (report, violation) = shared.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    summary(&report, begun);
    match violation {
        Some(violation) => {
            eprintln!("{violation}{}", arguments.broken.map_or("", |_| " (and the same --broken)"));
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn summary(report: &Report, begun: Instant) {
    let Report { seeds, steps, faults, sent, delivered, acked, recalled, committed, dead_letters, hash, .. } = report;
    let Report { again, halves, ended, ends_refused, checks, .. } = report;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{seeds} seeds, {steps} steps, {} faults in {seconds:.1} s ({faults})", faults.total());
    println!(
        "  {sent} sent, {again} again, {delivered} delivered, {acked} acked, {recalled} recalled, {committed} commits, {dead_letters} dead letters\n  {halves} half \
         messages, {ended} ended, {ends_refused} ends refused, {checks} checks, hash {hash:016x}"
    );
}
