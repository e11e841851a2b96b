//! Dropping what is clean from memory changes nothing, and neither does a crash once all is durable.

use crate::world::*;
use martlet_shard::{Output, SettleError};

/// A small generator of choices; the same seed gives the same ones.
struct Choices(u64);

impl Choices {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Evict,
}

/// Plays one seed; gives back everything a client could tell.
fn play(seed: u64, fault: Fault, filters: bool) -> Vec<String> {
    let mut choices = Choices(seed);
    let mut told = Vec::new();
    // Attempts do not run out: what is not in memory goes to the dead letters when it is looked at again, not before.
    // With a filter, where the walk over the queues begins depends on how often a poll was looked at.
    let queues = if filters { 1 } else { 2 };
    let mut world =
        World::new(seed).topic("orders", queues).group("billing", max_attempts(99)).group("audit", max_attempts(99));
    let mut held: Vec<Delivery> = Vec::new();
    for step in 0..400 {
        match choices.below(12) {
            0..=2 => {
                for n in 0..=choices.below(40) {
                    let tag = ["red", "green", "blue"][choices.below(3)];
                    world.send_tagged("orders", tag, &format!("{step}.{n}"));
                }
            }
            3..=5 => {
                let group = ["billing", "audit"][choices.below(2)];
                let mut how = invisible_secs(10 + choices.below(50) as i64).batch(1 + choices.below(32) as u32);
                if filters && group == "audit" {
                    // One and the same: with several, it is a matter of timing which are live when messages are passed over.
                    how = how.tags("green || blue");
                }
                let mut received = world.receive(group, how.clone());
                // A filtered poll is answered with what is known to match; the rest is looked at meanwhile.
                let mut more = filters && group == "audit";
                while more {
                    let next = world.receive(group, how.clone());
                    more = next.len() > 0;
                    received.0.extend(next.0);
                }
                // In which order a reply lists them is nobody's business.
                received.0.sort_by(|a, b| a.body.cmp(&b.body));
                let lines: Vec<_> = received
                    .0
                    .iter()
                    .map(|d| {
                        format!("{step} {group} {} {}.{} #{}", d.body, d.hand_out.queue.0, d.hand_out.offset, d.attempt)
                    })
                    .collect();
                told.extend(lines);
                held.extend(received.0);
            }
            6..=8 if !held.is_empty() => {
                for _ in 0..choices.below(20).min(held.len()) {
                    let delivery = held.swap_remove(choices.below(held.len()));
                    told.push(format!("{step} ack {} {:?}", delivery.body, world.ack(&delivery.handle)));
                }
            }
            9 if !held.is_empty() => {
                let at = choices.below(held.len());
                let changed = world.change_invisible(&held[at].handle, choices.below(60) as i64);
                told.push(format!("{step} change {} {}", held[at].body, changed.is_ok()));
                if let Ok(handle) = changed {
                    held[at].handle = handle;
                }
            }
            10 if !held.is_empty() => {
                let delivery = held.swap_remove(choices.below(held.len()));
                world.undo(&delivery.handle);
            }
            _ => world.advance_millis(choices.below(40_000) as i64),
        }
        let now = choices.below(4) == 0;
        match fault {
            Fault::Evict if now => world.shard_mut().shard_mut().evict_clean(),
            _ => {}
        }
    }
    for group in ["billing", "audit"] {
        told.push(format!("{:?}", world.progress_of(group)));
    }
    told.push(format!("{:?}", world.queues_of("orders").iter().map(|q| (q.min, q.max)).collect::<Vec<_>>()));
    told
}

fn same(seed: u64, fault: Fault, filters: bool) {
    let (calm, stormy) = (play(seed, Fault::None, filters), play(seed, fault, filters));
    for (calm, stormy) in calm.iter().zip(&stormy) {
        assert_eq!(calm, stormy, "seed {seed}");
    }
    assert_eq!(calm.len(), stormy.len(), "seed {seed}");
}

#[test]
fn dropping_what_is_clean_changes_nothing() {
    (0..24).for_each(|seed| same(seed, Fault::Evict, seed % 2 == 0));
}

#[test]
fn the_same_seed_tells_the_same_story() {
    (0..10).for_each(|seed| same(seed, Fault::None, true));
}

#[test]
fn a_poll_is_served_although_what_it_touches_was_dropped() {
    let mut world = World::new(1).topic("orders", 2).group("billing", max_attempts(4));
    world.send_all("orders", &["a", "b", "c"]);
    world.shard_mut().shard_mut().evict_clean();
    let first = world.receive("billing", invisible_secs(30).batch(1)).one();
    world.shard_mut().shard_mut().evict_clean();
    assert_eq!(world.shard().shard().sizes().1, 0, "nothing is resident");
    let poll = world.poll("billing", invisible_secs(30).batch(1));
    world.settle();
    assert_eq!(world.received(poll).unwrap().len(), 1);
    let poll = world.poll("billing", invisible_secs(30).batch(4));
    world.settle();
    world.shard_mut().shard_mut().evict_clean();
    world.received(poll);
    let poll = world.poll("billing", invisible_secs(30).batch(4));
    world.settle();
    world.shard_mut().shard_mut().evict_clean();
    world.send("orders", "d");
    assert_eq!(world.received(poll).unwrap().one().body, "d");
    assert_eq!(world.ack(&first.handle), Ok(()));
}

#[test]
fn a_store_that_cannot_be_read_refuses_and_recovers() {
    let mut world = World::new(2).topic("orders", 1).group("billing", max_attempts(4));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    world.shard_mut().shard_mut().evict_clean();
    world.store().fail_reads(true);
    assert!(matches!(world.ack(&first.handle), Err(AckError::Refused(_))));
    let topic = world.topic_id("orders");
    let figures = world.ask(|token| martlet_shard::Command::DescribeTopic { topic, token });
    assert!(matches!(figures, Output::Refused(_)));
    world.store().fail_reads(false);
    world.advance_secs(30);
    assert_eq!(world.ack(&first.handle), Err(AckError::Settle(SettleError::Lapsed { ago_millis: 0 })));
    assert_eq!(world.receive("billing", invisible_secs(30)).one().attempt, 2);
}

#[test]
fn a_poll_that_needs_more_than_fits_in_memory_is_served() {
    let mut world = World::new(4);
    world.options.resident_max = 2;
    let mut world = World::with(world.options).topic("orders", 1).group("billing", max_attempts(4));
    world.receive("billing", invisible_secs(30));
    // Some of what the poll needs is in memory already, the rest comes later.
    world.make_topic("orders", 6, None);
    for n in 0..6 {
        world.send("orders", &n.to_string());
    }
    let mut received = 0;
    while received < 6 {
        let some = world.receive("billing", invisible_secs(30).batch(2)).len();
        assert!(some > 0);
        received += some;
    }
}

#[test]
fn memory_follows_what_is_active() {
    let mut world = World::new(3);
    world.options.resident_max = 16;
    let mut world = World::with(world.options).topic("orders", 8).group("g0", max_attempts(4));
    for n in 1..20 {
        world.make_group(&format!("g{n}"), max_attempts(4));
    }
    for n in 0..20 {
        world.send("orders", "a");
        let received = world.receive(&format!("g{n}"), invisible_secs(30));
        received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
        assert!(world.shard().shard().sizes().1 <= 48, "{} entities are resident", world.shard().shard().sizes().1);
    }
}
