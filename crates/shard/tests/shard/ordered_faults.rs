//! Ordered groups through crashes, eviction, retention and deletion; and what a stuck message group costs.

use crate::world::*;
use martlet_shard::ShardOptions;
use std::collections::{BTreeMap, BTreeSet};

struct Choices(u64);

impl Choices {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

fn figures(world: &mut World) -> (u64, u64, u64) {
    let (figures, _) = world.progress_of("billing");
    figures
        .iter()
        .fold((0, 0, 0), |sum, queue| (sum.0 + queue.ready, sum.1 + queue.in_flight, sum.2 + queue.waiting_retry))
}

#[test]
fn order_and_locks_survive_a_crash() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(4).in_order());
    let messages: Vec<(&str, String)> = (0..100).map(|n| (["a", "b"][n % 2], n.to_string())).collect();
    let messages: Vec<_> = messages.iter().map(|(group, body)| (*group, body.as_str())).collect();
    world.send_grouped("orders", &messages);
    let first = world.receive("billing", invisible_secs(30).batch(2));
    assert_eq!(first.in_order(), ["0", "1"]);
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0, "both are locked");
    assert_eq!(figures(&mut world), (98, 2, 0), "parked messages are counted");
    world.crash();
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0, "both are locked still");
    assert_eq!(figures(&mut world), (98, 2, 0));
    world.ack(&first.0[0].handle).unwrap();
    let mut expected = 2;
    while expected < 100 {
        let next = world.receive("billing", invisible_secs(30).batch(7));
        for delivery in &next.0 {
            assert_eq!(delivery.body, expected.to_string());
            expected += 2;
            if expected % 3 == 0 {
                world.crash();
            }
            world.ack(&delivery.handle).unwrap();
        }
    }
    assert_eq!(figures(&mut world), (49, 1, 0));
    world.advance_secs(30);
    let b = world.receive("billing", invisible_secs(30));
    assert_eq!(b.in_order()[0], "1");
}

/// Many message groups under random faults: of each, messages come in order, none twice after its ack, and none is stuck.
fn play(seed: u64) {
    let mut choices = Choices(seed);
    let mut options = World::new(seed).options;
    options.open_slots_max = [12, 100_000][seed as usize % 2];
    options.recent_groups_max = [0, 5, 100_000][seed as usize / 2 % 3];
    let queues = 1 + seed as u32 % 3;
    // A poll that is repeated brings what it brought, not what was sent back of it meanwhile: those come after.
    let repeats = seed % 4 == 3;
    let mut world = World::with(options).topic("orders", queues).group("billing", max_attempts(999).in_order());
    let mut sent: BTreeMap<usize, u32> = BTreeMap::new();
    let mut settled: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
    let mut held: Vec<(usize, u32, Delivery)> = Vec::new();
    let parse = |body: &str| {
        let (group, number) = body.split_once('.').unwrap();
        (group.parse::<usize>().unwrap(), number.parse::<u32>().unwrap())
    };
    let receive = |world: &mut World, held: &mut Vec<_>, settled: &BTreeMap<usize, BTreeSet<u32>>, how: Receive| {
        let received = world.receive("billing", how);
        let mut last: BTreeMap<usize, u32> = BTreeMap::new();
        for delivery in received.0 {
            let (group, number) = parse(&delivery.body);
            let done = settled.get(&group).cloned().unwrap_or_default();
            assert!(!done.contains(&number), "seed {seed}: {group}.{number} was settled and comes again");
            let from = last.get(&group).map_or(0, |last| last + 1);
            assert!(
                (from..number).all(|n| done.contains(&n)),
                "seed {seed}: {group}.{number} overtakes {from}: {done:?}"
            );
            last.insert(group, number);
            held.push((group, number, delivery));
        }
    };
    for _ in 0..500 {
        match choices.below(16) {
            0..=3 => {
                // A few hot groups, many rare ones.
                let mut messages = Vec::new();
                for _ in 0..=choices.below(40) {
                    let range = [3, 40][choices.below(2)];
                    let group = choices.below(range);
                    let number = sent.entry(group).or_default();
                    messages.push((group.to_string(), format!("{group}.{number}")));
                    *number += 1;
                }
                let messages: Vec<_> = messages.iter().map(|(group, body)| (group.as_str(), body.as_str())).collect();
                world.send_grouped("orders", &messages);
            }
            4..=8 => {
                let how = invisible_secs(10 + choices.below(40) as i64).batch(1 + choices.below(32) as u32);
                let how =
                    if repeats && choices.below(3) == 0 { how.attempt_id(&choices.below(4).to_string()) } else { how };
                receive(&mut world, &mut held, &settled, how.without_waiting());
            }
            9..=11 if !held.is_empty() => {
                for _ in 0..choices.below(24).min(held.len()) {
                    let (group, number, delivery) = held.swap_remove(choices.below(held.len()));
                    if world.ack(&delivery.handle).is_ok() {
                        settled.entry(group).or_default().insert(number);
                    }
                }
            }
            12 if !held.is_empty() && !repeats => {
                let (_, _, delivery) = held.swap_remove(choices.below(held.len()));
                let _ = world.change_invisible(&delivery.handle, choices.below(60) as i64);
            }
            13 if !held.is_empty() && !repeats => {
                let (_, _, delivery) = held.swap_remove(choices.below(held.len()));
                world.undo(&delivery.handle);
            }
            14 => match choices.below(3) {
                0 => world.crash(),
                _ => world.shard_mut().shard_mut().evict_clean(),
            },
            _ => world.advance_millis(choices.below(20_000) as i64),
        }
    }
    let total: u32 = sent.values().sum();
    let mut idle = 0;
    while settled.values().map(BTreeSet::len).sum::<usize>() < total as usize {
        receive(&mut world, &mut held, &settled, invisible_secs(10).without_waiting());
        idle = if held.is_empty() { idle + 1 } else { 0 };
        assert!(idle < 20, "seed {seed}: a message group is stuck: {:?}", figures(&mut world));
        for (group, number, delivery) in held.drain(..) {
            if world.ack(&delivery.handle).is_ok() {
                settled.entry(group).or_default().insert(number);
            }
        }
        world.advance_secs(15);
    }
    assert_eq!(figures(&mut world), (0, 0, 0), "seed {seed}");
    let parked: Vec<_> = world.store().keys().into_iter().filter(|key| key[0] == 13).collect();
    assert!(parked.is_empty(), "seed {seed}: {parked:?}");
}

#[test]
fn every_message_group_comes_in_order_and_to_its_end_whatever_happens() {
    (0..60).for_each(play);
}

#[test]
fn retention_takes_parked_messages_and_counts_them() {
    let hour = 3_600_000;
    let mut world =
        World::new(1).topic_kept("orders", 1, Some(64 * hour)).group("billing", max_attempts(99).in_order());
    let stuck = |world: &mut World, n: usize| {
        let bodies: Vec<String> = (0..n).map(|n| n.to_string()).collect();
        world.send_grouped("orders", &bodies.iter().map(|body| ("a", body.as_str())).collect::<Vec<_>>());
    };
    stuck(&mut world, 700);
    let first = world.receive("billing", invisible_secs(12 * 3600).batch(1));
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0);
    assert_eq!(first.len(), 1);
    world.advance_millis(10 * hour);
    stuck(&mut world, 400);
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0);
    assert_eq!(figures(&mut world).0, 1_099);
    world.advance_millis(64 * hour + 600_000);
    assert_eq!(figures(&mut world), (400, 0, 0), "the first 700 are gone");
    assert_eq!(world.shard().shard().counters().dropped_unconsumed, 700);
    assert_eq!(world.receive("billing", invisible_secs(30).batch(2)).in_order(), ["0", "1"]);
    world.crash();
    world.advance_millis(20 * hour);
    assert_eq!(figures(&mut world), (0, 0, 0));
    assert!(world.store().keys().iter().all(|key| key[0] != 13));
}

#[test]
fn deleted_groups_and_topics_leave_no_parked_messages() {
    for drop_topic in [false, true] {
        let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(99).in_order());
        for n in 0..600 {
            world.send_grouped("orders", &[(["a", "b", "c"][n % 3], "m")]);
        }
        assert_eq!(world.receive("billing", invisible_secs(60).batch(3)).len(), 3);
        assert_eq!(world.receive("billing", invisible_secs(60).without_waiting()).len(), 0);
        assert!(world.store().keys().iter().any(|key| key[0] == 13));
        match drop_topic {
            true => world.drop_topic("orders"),
            false => world.drop_group("billing"),
        }
        world.settle();
        assert!(world.store().keys().iter().all(|key| ![5, 6, 7, 8, 13].contains(&key[0])), "topic: {drop_topic}");
    }
}

#[test]
fn a_store_that_cannot_be_read_delays_a_group_and_loses_nothing_of_it() {
    let options = ShardOptions { recent_groups_max: 0, ..World::new(1).options };
    let mut world = World::with(options).topic("orders", 1).group("billing", max_attempts(99).in_order());
    let bodies: Vec<String> = (0..900).map(|n| n.to_string()).collect();
    world.send_grouped("orders", &bodies.iter().map(|body| ("a", body.as_str())).collect::<Vec<_>>());
    let (mut expected, mut failures) = (1, 0);
    let first = world.receive("billing", invisible_secs(30).batch(1)).one();
    world.ack(&first.handle).unwrap();
    while expected < 900 {
        // Whatever the poll needs to read, it cannot.
        world.store().fail_reads(true);
        let poll = world.poll("billing", invisible_secs(30));
        world.settle();
        world.store().fail_reads(false);
        let received = world.received(poll).unwrap_or_else(|| {
            failures += 1;
            world.cancel(poll);
            world.receive("billing", invisible_secs(30))
        });
        assert!(received.len() > 0, "{expected} have come");
        for delivery in received.0 {
            assert_eq!(delivery.body, expected.to_string());
            world.ack(&delivery.handle).unwrap();
            expected += 1;
        }
    }
    assert!(failures > 1, "chunks were to be read");
}

/// A million messages of a stuck key in front of everybody.
#[test]
fn a_stuck_key_with_a_million_messages_delays_no_other_key_and_costs_little_memory() {
    const STUCK: usize = 1_000_000;
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(9999).in_order());
    world.send_grouped("orders", &[("stuck", "s")]);
    let held = world.receive("billing", invisible_secs(12 * 3_600)).one();
    let messages = vec![("stuck", "s"); 10_000];
    for _ in 0..STUCK / messages.len() {
        world.send_grouped("orders", &messages);
        // Somebody polls; the stuck messages are passed by.
        assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
    }
    assert_eq!(figures(&mut world), (STUCK as u64, 1, 0));
    let (parked, in_memory) = world.shard().shard().parked();
    assert!(parked >= STUCK as u64 - 8, "{parked} are parked");
    // Offsets in memory, and what is kept per chunk of 256: far below 20 MB.
    assert!(in_memory * 8 + parked as usize / 256 * 48 < 1 << 20, "{in_memory} offsets are in memory");
    assert!(world.shard().shard().sizes().2 < 40, "open slots: {}", world.shard().shard().sizes().2);

    // What another key costs now is what it costs in an empty queue.
    let cost = |world: &mut World, group: &str| {
        world.settle();
        let (batches, ops) =
            (world.store().batches().len(), world.store().batches().iter().map(|b| b.ops.len()).sum::<usize>());
        world.send_grouped("orders", &[(group, "o")]);
        let received = world.receive("billing", invisible_secs(30)).one();
        assert_eq!(received.body, "o");
        world.ack(&received.handle).unwrap();
        world.settle();
        let now = world.store().batches().iter().map(|b| b.ops.len()).sum::<usize>();
        (world.store().batches().len() - batches, now - ops)
    };
    let behind = cost(&mut world, "other");
    let mut empty = World::new(1).topic("orders", 1).group("billing", max_attempts(9999).in_order());
    empty.receive("billing", invisible_secs(30).without_waiting());
    cost(&mut empty, "other");
    let alone = cost(&mut empty, "another");
    assert!(behind.0 <= alone.0 + 1 && behind.1 <= alone.1 + 2, "behind a stuck key {behind:?}, alone {alone:?}");

    // Set free, it goes on where it was, and each message costs itself only, however many there are.
    world.ack(&held.handle).unwrap();
    let ops = |world: &mut World| world.store().batches().iter().map(|b| b.ops.len()).sum::<usize>();
    let before = ops(&mut world);
    for _ in 0..100 {
        let received = world.receive("billing", invisible_secs(30));
        assert!(!received.0.is_empty());
        received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    }
    let per_poll = (ops(&mut world) - before) / 100;
    assert!(per_poll <= 40, "{per_poll} operations per poll of 32");
}
