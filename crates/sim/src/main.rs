//! Plays seeds: `sim --seeds 0..1000`, `sim --forever`, `sim --seed 17 --trace`.

use clap::Parser;
use martlet_sim::bucket::{self, BucketPlan, BucketReport, Objects};
use martlet_sim::{Broken, Disk, Plan, Report, Violation, run};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Seeds after which figures are printed.
const TOLD_EVERY: u64 = 10_000;
const BUCKET_THREADS: usize = 16;

/// Deterministic simulation of a shard, its store and its clients under faults.
#[derive(Parser)]
struct Arguments {
    /// Play these seeds, for instance 0..1000.
    #[arg(long, value_parser = range, conflicts_with_all = ["seed", "forever"])]
    seeds: Option<Range<u64>>,
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
    /// Play processes that take a shard in a bucket over from each other, on the real object engine.
    #[arg(long, conflicts_with_all = ["broken", "steps"])]
    bucket: bool,
    /// Play the whole shard on the real object engine, and processes that take it over from each other.
    #[arg(long, conflicts_with = "bucket")]
    shard_in_bucket: bool,
    /// With --bucket, a build without fencing: the store lets anybody create what exists.
    #[arg(long, requires = "bucket")]
    without_fencing: bool,
    /// Threads; by default one per core, in a bucket, where most of the time is waiting, 16.
    #[arg(long)]
    threads: Option<usize>,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let bounds = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    bounds.ok_or_else(|| format!("{text} is not a range like 0..1000"))
}

fn broken(text: &str) -> Result<Broken, String> {
    match text {
        "release-before-sync" => Ok(Broken::ReleaseBeforeSync),
        "delete-too-early" => Ok(Broken::DeleteTooEarly),
        "lossy-index-key" => Ok(Broken::LossyIndexKey),
        "without-fencing" => Ok(Broken::WithoutFencing),
        _ => Err("one of release-before-sync, delete-too-early, lossy-index-key, without-fencing".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seeds = match (arguments.seeds, arguments.seed, arguments.forever) {
        (Some(seeds), ..) => seeds,
        (_, Some(seed), _) => seed..seed + 1,
        (_, _, true) => 0..u64::MAX,
        _ => 0..100,
    };
    if arguments.bucket {
        let plan =
            BucketPlan { without_fencing: arguments.without_fencing, trace: arguments.trace, ..BucketPlan::default() };
        let threads = arguments.threads.unwrap_or(BUCKET_THREADS);
        let add = |all: &mut BucketReport, one: &BucketReport| {
            all.add(one);
            all.seeds
        };
        let show = |report: &BucketReport, begun: Instant| {
            println!("{report} in {:.1} s", begun.elapsed().as_secs_f64());
        };
        let more = if arguments.without_fencing { " --bucket --without-fencing" } else { " --bucket" };
        return play(seeds, threads, arguments.keep_going, more, |seed| bucket::run(seed, plan), add, show);
    }
    let plan = Plan { steps: arguments.steps, broken: arguments.broken, trace: arguments.trace, ..Plan::default() };
    let add = |all: &mut Report, one: &Report| {
        all.add(one);
        all.seeds
    };
    if arguments.shard_in_bucket {
        let more = if arguments.broken.is_some() {
            " --shard-in-bucket (and the same --broken)"
        } else {
            " --shard-in-bucket"
        };
        let threads = arguments.threads.unwrap_or(BUCKET_THREADS);
        return play(seeds, threads, arguments.keep_going, more, |seed| run::<Objects>(seed, plan), add, summary);
    }
    let threads = arguments.threads.or(std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let more = if arguments.broken.is_some() { " (and the same --broken)" } else { "" };
    play(seeds, threads, arguments.keep_going, more, |seed| run::<Disk>(seed, plan), add, summary)
}

/// Plays seeds on so many threads and adds up what they came to.
fn play<R: Default + Send>(
    seeds: Range<u64>,
    threads: usize,
    keep_going: bool,
    more: &str,
    run: impl Fn(u64) -> Result<R, Violation> + Sync,
    add: impl Fn(&mut R, &R) -> u64 + Sync,
    show: impl Fn(&R, Instant) + Sync,
) -> ExitCode {
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let shared = Mutex::new((R::default(), None::<Violation>));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
                    let played = played.unwrap_or_else(|_| {
                        Err(Violation { seed, step: 0, what: "the shard or the store panicked".into() })
                    });
                    let mut shared = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match played {
                        Ok(report) => {
                            if add(&mut shared.0, &report).is_multiple_of(TOLD_EVERY) {
                                show(&shared.0, begun);
                            }
                        }
                        Err(violation) if keep_going => println!("{violation}{more}"),
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
    show(&report, begun);
    match violation {
        Some(violation) => {
            eprintln!("{violation}{more}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn summary(report: &Report, begun: Instant) {
    let Report { seeds, steps, faults, sent, delivered, acked, recalled, committed, dead_letters, hash, .. } = report;
    let Report {
        pulled, reset, looked_at, again, halves, ended, ends_refused, checks, taken, stale, overtaken, ..
    } = report;
    let seconds = begun.elapsed().as_secs_f64();
    println!("{seeds} seeds, {steps} steps, {} faults in {seconds:.1} s ({faults})", faults.total());
    println!(
        "  {sent} sent, {again} again, {delivered} delivered, {pulled} pulled, {acked} acked, {recalled} recalled, {committed} commits, {reset} resets, {looked_at} lite topics younger, {dead_letters} dead letters\n  {halves} half \
         messages, {ended} ended, {ends_refused} ends refused, {checks} checks, {taken} taken, {stale} stale, {overtaken} overtaken, hash {hash:016x}"
    );
}
