//! Where a group begins in a queue that it has not received from.

use crate::world::*;
use martlet_model::QueueOffset;
use martlet_shard::ResetTarget;

/// Ten messages, a second apart: `0` at the start of the clock.
fn world() -> World {
    let mut world = World::new(1).topic("orders", 1);
    for n in 0..10 {
        world.send("orders", &n.to_string());
        world.advance_millis(1_000);
    }
    world
}

#[test]
fn a_group_begins_at_the_first_message_unless_it_says_otherwise() {
    let mut world = world();
    world.make_group("all", max_attempts(5));
    assert_eq!(world.receive("all", invisible_secs(30)).len(), 10);
    world.make_group("some", max_attempts(5).since(START.plus(7_000)));
    assert_eq!(world.receive("some", invisible_secs(30)).bodies(), ["7", "8", "9"]);
    let now = world.now;
    world.make_group("none", max_attempts(5).since(now));
    assert_eq!(world.receive("none", invisible_secs(30)).len(), 0);
    world.send("orders", "new");
    assert_eq!(world.receive("none", invisible_secs(30)).bodies(), ["new"]);
    let (figures, _) = world.progress_of("none");
    assert_eq!(figures[0].committed, QueueOffset(10), "what was there before is not its backlog");
    assert_eq!(world.shard().shard().counters().dropped_unconsumed, 0);
}

#[test]
fn what_comes_between_the_making_of_a_group_and_its_first_poll_is_not_lost() {
    let mut world = world();
    let now = world.now;
    world.make_group("late", max_attempts(5).since(now));
    world.send("orders", "a");
    world.crash();
    world.send("orders", "b");
    world.shard_mut().shard_mut().evict_clean();
    assert_eq!(world.receive("late", invisible_secs(30)).bodies(), ["a", "b"]);
}

#[test]
fn queues_and_topics_that_come_later_are_received_whole() {
    let mut world = world();
    let now = world.now;
    world.make_group("late", max_attempts(5).since(now));
    assert_eq!(world.receive("late", invisible_secs(30)).len(), 0);
    world.make_topic("orders", 4, None);
    for n in 0..4 {
        world.send("orders", &format!("new{n}"));
    }
    world.advance_millis(1_000);
    assert_eq!(world.receive("late", invisible_secs(30)).len(), 4);
}

#[test]
fn an_ordered_group_begins_there_too_and_a_change_does_not_move_it() {
    let mut world = world();
    world.send_grouped("orders", &[("k", "k1"), ("k", "k2")]);
    let since = START.plus(9_000);
    world.make_group("ordered", max_attempts(5).in_order().since(since));
    let received = world.receive("ordered", invisible_secs(30));
    assert_eq!(received.bodies(), ["9", "k1", "k2"]);
    for delivery in &received.0 {
        world.ack(&delivery.handle).unwrap();
    }
    // Another start is for queues it has not received from.
    world.make_group("ordered", max_attempts(5).in_order().since(START));
    world.crash();
    assert_eq!(world.receive("ordered", invisible_secs(30).without_waiting()).len(), 0);
}

#[test]
fn a_start_before_the_first_message_that_is_left_means_that_one() {
    let mut world = World::new(1).topic_kept("orders", 1, Some(3_600_000));
    world.send("orders", "old");
    world.advance_millis(2 * 3_600_000);
    world.send("orders", "new");
    world.make_group("early", max_attempts(5).since(START));
    assert_eq!(world.receive("early", invisible_secs(30)).bodies(), ["new"]);
    assert_eq!(world.shard().shard().counters().dropped_unconsumed, 0, "it never was its to lose");
    // A reset does not look at where the group began.
    let (group, topic) = (world.group_id("early"), world.topic_id("orders"));
    let targets = vec![(0, ResetTarget::Latest)];
    world.ask(|token| martlet_shard::Command::Reset { group, topic, targets, token });
    assert_eq!(world.receive("early", invisible_secs(30).without_waiting()).len(), 0);
}
