//! Topics whose messages are delivered by priority: levels, ageing, retries.

use crate::world::{World, invisible_secs, max_attempts};

/// A topic with so many levels and a group.
fn world(levels: u32) -> World {
    World::new(1).topic_by_priority("orders", levels).group("billing", max_attempts(3))
}

#[test]
fn the_highest_come_first_and_what_is_above_all_levels_counts_as_the_highest() {
    let mut world = world(4);
    let messages = [(0, "low a"), (3, "high a"), (1, "middle"), (99, "high b"), (0, "low b")];
    let places = world.send_by_priority("orders", &messages);
    assert_eq!(places, [(0, 0), (3, 0), (1, 0), (3, 1), (0, 1)]);
    assert_eq!(world.receive("billing", invisible_secs(30).batch(2)).in_order(), ["high a", "high b"]);
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["middle", "low a", "low b"]);
}

#[test]
fn levels_survive_a_crash() {
    let mut world = world(3);
    world.send_by_priority("orders", &[(0, "low"), (2, "high")]);
    world.crash();
    let places = world.send_by_priority("orders", &[(1, "middle")]);
    assert_eq!(places, [(1, 0)]);
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["high", "middle", "low"]);
}

/// The reference puts the retries of all priorities into one queue.
#[test]
fn a_retry_keeps_its_priority() {
    let mut world = world(3);
    world.send_by_priority("orders", &[(2, "high"), (0, "low a")]);
    let high = world.receive("billing", invisible_secs(30).batch(1)).one();
    let low = world.receive("billing", invisible_secs(30).batch(1)).one();
    assert_eq!((&*high.body, &*low.body), ("high", "low a"));
    world.change_invisible(&low.handle, 0).unwrap();
    world.change_invisible(&high.handle, 0).unwrap();
    world.send_by_priority("orders", &[(1, "middle"), (0, "low b")]);
    world.advance_secs(3_600);
    let again = world.receive("billing", invisible_secs(30).batch(1)).one();
    assert_eq!((&*again.body, again.attempt), ("high", 2));
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["middle", "low a", "low b"]);
}

#[test]
fn a_resent_dead_letter_goes_back_to_its_level() {
    let mut world = world(3);
    world.send_by_priority("orders", &[(1, "a")]);
    let first = world.receive("billing", invisible_secs(30)).one();
    world.forward_to_dead_letters(&first.handle).unwrap();
    let group = world.group_id("billing");
    let letter = world.receive("billing", invisible_secs(30).dead_letters_of(group)).one();
    let place =
        martlet_shard::DeadLetterPlace { topic: letter.hand_out.topic, index: 0, offset: letter.hand_out.offset };
    world.ask(|token| martlet_shard::Command::Resend { place, token });
    let again = world.receive("billing", invisible_secs(30)).one();
    assert_eq!((again.hand_out.queue_index, &*again.body), (1, "a"));
}

/// In the reference a higher level that never runs dry starves all below it.
#[test]
fn every_level_is_in_one_of_thirty_two_batches() {
    for batch in [1, 2, 32] {
        let mut world = world(8);
        for level in 0..7 {
            world.send_by_priority("orders", &[(level, &format!("level {level}"))]);
        }
        let mut seen = Vec::new();
        for _ in 0..32 {
            let busy: Vec<(i32, &str)> = (0..batch).map(|_| (7, "busy")).collect();
            world.send_by_priority("orders", &busy);
            let received = world.receive("billing", invisible_secs(600).batch(batch));
            assert_eq!(received.len(), batch as usize);
            let lower = received.bodies().iter().filter(|body| **body != "busy").count();
            assert!(lower <= (batch as usize / 2).max(1), "{lower} of a batch of {batch}");
            seen.extend(received.in_order().into_iter().filter(|body| *body != "busy").map(str::to_owned));
        }
        seen.sort();
        let expected: Vec<String> = (0..7).map(|level| format!("level {level}")).collect();
        assert_eq!(seen, expected, "in batches of {batch}");
    }
}

#[test]
fn a_level_that_was_passed_over_for_five_seconds_is_in_the_next_batch() {
    let mut world = world(2);
    world.send_by_priority("orders", &[(0, "low")]);
    let mut taken = Vec::new();
    for second in 0..6 {
        world.send_by_priority("orders", &[(1, "busy")]);
        taken.push(world.receive("billing", invisible_secs(600).batch(1)).one().body);
        if second < 5 {
            world.advance_secs(1);
        }
    }
    assert_eq!(taken, ["busy", "busy", "busy", "busy", "busy", "low"]);
}

#[test]
fn lower_levels_do_not_overtake_one_that_is_looked_through_for_a_filter() {
    let mut world = world(2);
    world.send_by_priority("orders", &[(0, "low"), (1, "high a"), (1, "high b")]);
    let poll = invisible_secs(30).sql("_SYS_MSG_PRIORITY_ >= 0").batch(1);
    let order: Vec<String> = (0..3).map(|_| world.receive("billing", poll.clone()).one().body).collect();
    assert_eq!(order, ["high a", "high b", "low"]);
}

#[test]
fn an_ordered_group_has_the_order_of_each_level() {
    let mut world = World::new(1).topic_by_priority("orders", 2).group("billing", max_attempts(3).in_order());
    world.send_by_priority("orders", &[(0, "low a"), (1, "high a"), (0, "low b"), (1, "high b")]);
    assert_eq!(world.receive("billing", invisible_secs(30).batch(3)).in_order(), ["high a", "high b", "low a"]);
}

#[test]
fn a_poll_for_retries_alone_takes_from_the_highest_level_first() {
    let mut world = world(3);
    world.send_by_priority("orders", &[(0, "low"), (2, "high"), (1, "middle")]);
    world.receive("billing", invisible_secs(30));
    world.advance_secs(30);
    let retries = || invisible_secs(30).retries_only().batch(1);
    assert_eq!(world.receive("billing", retries()).one().body, "high");
    assert_eq!(world.receive("billing", retries()).one().body, "middle");
    assert_eq!(world.receive("billing", retries()).one().body, "low");
}
