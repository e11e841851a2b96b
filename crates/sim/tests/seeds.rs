//! A few hundred seeds, the same bytes twice, and broken builds that are caught.

#![allow(clippy::unwrap_used)]

use martlet_sim::bucket::{self, BucketPlan, Objects};
use martlet_sim::{Broken, Disk, Plan, Report, run};

#[test]
fn a_few_hundred_seeds_keep_every_promise() {
    let mut all = Report::default();
    for seed in 0..200 {
        match run::<Disk>(seed, Plan::default()) {
            Ok(report) => {
                assert!(report.steps >= 2_000 && report.faults.total() >= 5, "seed {seed} is too tame: {report:?}");
                all.add(&report);
            }
            Err(violation) => panic!("{violation}"),
        }
    }
    println!("{all:?}");
    assert!(
        all.sent > 10_000
            && all.delivered > all.sent / 2
            && all.dead_letters > 0
            && all.recalled > 0
            && all.committed > 0,
        "too little happened: {all:?}"
    );
    assert!(all.reset > 100 && all.looked_at > 0, "{all:?}");
    assert!(all.pulled > all.sent / 10 && all.taken > 500 && all.stale > 500, "{all:?}");
    assert!(all.halves > 1_000 && all.ended > 1_000 && all.ends_refused > 100 && all.checks > 1_000, "{all:?}");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in 1_000..1_010 {
        let (first, second) = (run::<Disk>(seed, Plan::default()), run::<Disk>(seed, Plan::default()));
        assert_eq!(first, second);
        assert_ne!(first.map(|report| report.hash), run::<Disk>(seed + 1, Plan::default()).map(|report| report.hash));
    }
}

#[test]
fn broken_builds_are_caught() {
    for broken in [Broken::ReleaseBeforeSync, Broken::DeleteTooEarly, Broken::LossyIndexKey] {
        let plan = Plan { broken: Some(broken), ..Plan::default() };
        let caught = (0..200).find_map(|seed| run::<Disk>(seed, plan).err());
        println!("{broken:?}: {}", caught.as_ref().map_or("not caught".into(), ToString::to_string));
        assert!(caught.is_some(), "{broken:?} goes unnoticed");
    }
}

#[test]
fn owners_of_a_bucket_that_overtake_each_other_keep_what_was_durable() {
    let mut all = bucket::BucketReport::default();
    for seed in 0..20 {
        match bucket::run(seed, BucketPlan::default()) {
            Ok(report) => all.add(&report),
            Err(violation) => panic!("{violation} --bucket"),
        }
    }
    println!("{all}");
    assert!(
        all.zombies > 20
            && all.told_why * 10 > all.buried * 9
            && all.killed > 10
            && all.failed_openings > 10
            && all.closed > 20,
        "too tame: {all}"
    );
}

#[test]
fn a_shard_in_a_bucket_keeps_every_promise_through_takeovers() {
    let mut all = Report::default();
    let played: Vec<_> = std::thread::scope(|scope| {
        let seeds: Vec<_> = (0..16).map(|seed| scope.spawn(move || run::<Objects>(seed, Plan::default()))).collect();
        seeds.into_iter().map(|seed| seed.join().unwrap()).collect()
    });
    for report in played {
        match report {
            Ok(report) => all.add(&report),
            Err(violation) => panic!("{violation} --shard-in-bucket"),
        }
    }
    println!("{all:?}");
    assert!(all.overtaken > 3 && all.delivered > 10_000 && all.pulled > 1_000 && all.ended > 100, "{all:?}");
}

#[test]
fn a_bucket_that_keeps_nobody_out_is_caught() {
    let plan = BucketPlan { without_fencing: true, ..BucketPlan::default() };
    let violation = |seed| match std::panic::catch_unwind(|| bucket::run(seed, plan)) {
        Ok(played) => played.err(),
        // An opening of SlateDB may meet what fencing was to prevent, and panics. What has to be caught is caught by our own judge,
        // so such a seed says nothing.
        Err(panic) if panic.downcast_ref() == Some(&"the stored epoch is lower than the local epoch") => None,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    let caught = (0..20).find_map(violation);
    println!("{}", caught.as_ref().map_or("not caught".into(), ToString::to_string));
    assert!(caught.is_some(), "no fencing goes unnoticed");
}
