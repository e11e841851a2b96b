//! Old messages go, and a clock that jumps takes nothing with it.

use crate::world::*;
use martlet_shard::Command;

const HOUR: i64 = 3_600_000;

#[test]
fn messages_are_kept_for_the_time_of_their_topic() {
    let mut world = World::new(1).topic_kept("short", 1, Some(HOUR)).topic("long", 1).group("billing", max_attempts(3));
    world.receive("billing", invisible_secs(30));
    world.send("short", "a");
    world.send("long", "a");
    world.advance_millis(HOUR - 1);
    assert_eq!(world.queues_of("short")[0].min.0, 0);
    world.advance_millis(HOUR / 64 + 2);
    assert_eq!((world.queues_of("short")[0].min.0, world.queues_of("short")[0].max.0), (1, 1));
    assert_eq!(world.shard().shard().counters().dropped_unconsumed, 1, "billing had not had it");
    assert_eq!(world.queues_of("long")[0].min.0, 0);
    world.advance_millis(73 * HOUR);
    assert_eq!(world.queues_of("long")[0].min.0, 1);
}

#[test]
fn a_group_that_comes_late_has_lost_nothing_that_it_never_had() {
    let mut world = World::new(2).topic_kept("orders", 1, Some(HOUR)).group("billing", max_attempts(3));
    world.send_all("orders", &["a", "b", "c"]);
    world.advance_millis(2 * HOUR);
    world.send("orders", "d");
    assert_eq!(world.receive("billing", invisible_secs(30)).one().body, "d");
    assert_eq!(world.shard().shard().counters().dropped_unconsumed, 0);
}

#[test]
fn what_was_in_flight_when_it_expired_counts_as_unconsumed_and_its_ack_is_fine() {
    let mut world = World::new(3).topic_kept("orders", 1, Some(HOUR)).group("billing", max_attempts(3));
    world.send_all("orders", &["a", "b"]);
    let received = world.receive("billing", invisible_secs(12 * 3_600));
    world.ack(&received.0[0].handle).unwrap();
    world.advance_millis(2 * HOUR);
    assert_eq!(world.shard().shard().counters().dropped_unconsumed, 1);
    assert_eq!(world.ack(&received.0[1].handle), Ok(()));
}

#[test]
fn deletion_by_age_waits_while_the_clock_is_not_trusted_and_the_shard_sleeps_meanwhile() {
    let mut world = World::new(4).topic_kept("orders", 1, Some(HOUR)).group("billing", max_attempts(3));
    world.send("orders", "a");
    world.pauses_deletion = true;
    world.advance_millis(96 * HOUR);
    let next = world.settle();
    assert!(next.is_none_or(|next| next > world.now), "a paused deletion is no reason to be woken at once");
    assert_eq!(world.queues_of("orders")[0].min.0, 0);
    world.pauses_deletion = false;
    world.advance_millis(60_000);
    assert_eq!(world.queues_of("orders")[0].min.0, 1);
}

#[test]
fn a_retention_shorter_than_a_sync_does_not_spin() {
    let mut world = World::new(5).topic_kept("orders", 1, Some(1)).group("billing", max_attempts(3));
    world.hold_syncs();
    world.begin_send("orders", &["a"], None);
    world.settle();
    world.now = world.now.plus(5_000);
    let next = world.turn([]);
    assert!(next.is_none_or(|next| next > world.now));
    world.sync();
    world.advance_millis(5_000);
    assert_eq!(world.queues_of("orders")[0].min.0, 1);
}

#[test]
fn retention_survives_a_crash() {
    let mut world = World::new(6).topic_kept("orders", 1, Some(HOUR)).group("billing", max_attempts(3));
    world.send("orders", "a");
    world.crash();
    world.advance_millis(2 * HOUR);
    assert_eq!(world.queues_of("orders")[0].min.0, 1);
}

#[test]
fn a_full_disk_takes_the_oldest_messages_first_and_leaves_the_newest() {
    let mut world = World::new(7).topic("old", 1).topic("new", 1).group("billing", max_attempts(3));
    for _ in 0..4 {
        world.send_all("old", &["a"; 10]);
        world.advance_millis(2 * HOUR);
    }
    for _ in 0..4 {
        world.send_all("new", &["a"; 10]);
        world.advance_millis(2 * HOUR);
    }
    world.turn([Command::DropOldest { bytes: 20 * 256 }]);
    world.settle();
    assert_eq!(world.queues_of("old")[0].min.0, 20);
    assert_eq!(world.queues_of("new")[0].min.0, 0);
    world.turn([Command::DropOldest { bytes: u64::MAX }]);
    world.settle();
    assert_eq!((world.queues_of("old")[0].min.0, world.queues_of("new")[0].min.0), (30, 30));
}

#[test]
fn a_shorter_retention_holds_for_messages_that_are_there_already() {
    let mut world = World::new(8).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    world.advance_millis(2 * HOUR);
    world.make_topic("orders", 1, Some(HOUR));
    world.advance_millis(1_000);
    assert_eq!(world.queues_of("orders")[0].min.0, 1);
}
