//! Moving a group to another place, and what becomes of messages in flight.

use crate::world::*;
use martlet_model::QueueOffset;
use martlet_shard::{Command, Output, Refused, ResetTarget, SettleError};

fn reset(world: &mut World, to: ResetTarget) -> Output {
    let (group, topic) = (world.group_id("billing"), world.topic_id("orders"));
    world.ask(|token| Command::Reset { group, topic, targets: vec![(0, to)], token })
}

fn moved(from: u64, to: u64) -> Output {
    Output::Reset(vec![(0, QueueOffset(from), QueueOffset(to))])
}

fn world() -> World {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(5));
    world.send_all("orders", &["a", "b", "c", "d", "e", "f"]);
    world
}

#[test]
fn a_reset_backward_delivers_everything_again_with_attempts_from_one() {
    let mut world = world();
    let first = world.receive("billing", invisible_secs(30).batch(4));
    for delivery in &first.0[..3] {
        world.ack(&delivery.handle).unwrap();
    }
    // "d" lapses twice: its attempts would go on from 2.
    world.advance_secs(30);
    let retried = world.receive("billing", invisible_secs(30).batch(1)).one();
    assert_eq!((retried.body.as_str(), retried.attempt), ("d", 2));
    assert_eq!(reset(&mut world, ResetTarget::Offset(QueueOffset(1))), moved(3, 1));
    let superseded = Err(AckError::Settle(SettleError::Superseded));
    assert_eq!(world.ack(&retried.handle), superseded, "in flight above the target");
    let again = world.receive("billing", invisible_secs(30));
    assert_eq!(again.bodies(), ["b", "c", "d", "e", "f"]);
    assert!(again.0.iter().all(|delivery| delivery.attempt == 1));
    assert_eq!(world.ack(&retried.handle), superseded, "a newer delivery exists");
    for delivery in again.0 {
        world.ack(&delivery.handle).unwrap();
    }
    let (figures, _) = world.progress_of("billing");
    assert_eq!((figures[0].committed, figures[0].ready, figures[0].in_flight), (QueueOffset(6), 0, 0));
}

#[test]
fn a_reset_forward_settles_what_is_below_and_drops_due_retries() {
    let mut world = world();
    let in_flight = world.receive("billing", invisible_secs(30).batch(2));
    let lapsing = world.receive("billing", invisible_secs(10).batch(1)).one();
    world.advance_secs(10);
    assert_eq!(reset(&mut world, ResetTarget::Latest), moved(0, 6));
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0, "no retry is due");
    for handle in in_flight.0.iter().chain([&lapsing]).map(|delivery| &delivery.handle) {
        assert_eq!(world.ack(handle), Ok(()), "settled is settled");
    }
    world.advance_secs(600);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0, "nothing comes back");
    world.send("orders", "g");
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["g"]);
}

#[test]
fn a_reset_survives_a_crash_and_what_was_stored_before_it_does_not() {
    let mut world = World::new(2).topic("orders", 1).group("billing", max_attempts(5));
    let bodies: Vec<String> = (0..3000).map(|n| format!("{n:04}")).collect();
    world.send_all("orders", &bodies.iter().map(String::as_str).collect::<Vec<_>>());
    // Pages are stored on both sides of the target.
    for _ in 0..90 {
        let received = world.receive("billing", invisible_secs(30));
        for delivery in received.0.iter().skip(1) {
            world.ack(&delivery.handle).unwrap();
        }
    }
    assert!(matches!(reset(&mut world, ResetTarget::Offset(QueueOffset(1500))), Output::Reset(_)));
    let one = world.receive("billing", invisible_secs(30).batch(1)).one();
    assert_eq!((one.body.as_str(), one.attempt), ("1500", 1));
    world.crash();
    world.shard_mut().shard_mut().evict_clean();
    world.advance_secs(30);
    let mut seen = Vec::new();
    loop {
        let received = world.receive("billing", invisible_secs(300).without_waiting());
        if received.len() == 0 {
            break;
        }
        for delivery in received.0 {
            world.ack(&delivery.handle).unwrap();
            seen.push(delivery.body);
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, bodies[1500..], "each once, none from below");
    world.crash();
    assert_eq!(world.progress_of("billing").0[0].committed, QueueOffset(3000));
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0);
}

#[test]
fn a_reset_of_an_ordered_group_forgets_what_was_parked_and_begins_in_order_from_the_target() {
    let mut world = World::new(3).topic("orders", 1).group("billing", max_attempts(5).in_order());
    let bodies: Vec<String> = (0..2000).map(|n| format!("{n:04}")).collect();
    let of_one_key: Vec<_> = bodies.iter().map(|body| ("customer", body.as_str())).collect();
    world.send_grouped("orders", &of_one_key);
    let take = |world: &mut World| {
        let received = world.receive("billing", invisible_secs(30));
        received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
        received.0.into_iter().map(|delivery| delivery.body).collect::<Vec<_>>()
    };
    // The first is held: the others are parked, some chunks in memory, all in the store.
    let held = world.receive("billing", invisible_secs(30).batch(1)).one();
    assert!(take(&mut world).is_empty());
    for (crash, target) in [(false, 1000), (true, 500), (false, 1990), (true, 0)] {
        assert!(matches!(reset(&mut world, ResetTarget::Offset(QueueOffset(target))), Output::Reset(_)));
        if crash {
            world.crash();
        }
        assert_eq!(world.progress_of("billing").0[0].committed, QueueOffset(target));
        let first = take(&mut world);
        assert_eq!(first.first(), Some(&bodies[target as usize]), "the lock of what was held is gone");
    }
    let held_again = world.ack(&held.handle);
    assert_eq!(held_again, Ok(()), "settled since");
    let mut seen = Vec::new();
    loop {
        let more = take(&mut world);
        if more.is_empty() {
            break;
        }
        seen.extend(more);
    }
    assert_eq!(seen, bodies[bodies.len() - seen.len()..], "in order, to the end");
    assert_eq!(world.progress_of("billing").0[0].committed, QueueOffset(2000));
    world.crash();
    assert!(take(&mut world).is_empty(), "nothing of what was parked before comes back");
}

#[test]
fn a_waiting_poll_is_served_by_a_reset_and_a_new_group_can_start_at_the_end() {
    let mut world = world();
    assert_eq!(reset(&mut world, ResetTarget::Latest), moved(0, 6));
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(poll).is_none(), "it waits");
    assert_eq!(reset(&mut world, ResetTarget::Near(QueueOffset(4))), moved(6, 4));
    assert_eq!(world.received(poll).unwrap().bodies(), ["e", "f"]);
}

#[test]
fn a_place_that_is_not_there_is_refused_with_the_limits_and_changes_nothing() {
    let mut world = world();
    let (index, min, max) = (0, QueueOffset(0), QueueOffset(6));
    let refused = Refused::OffsetOutOfRange { index, offset: QueueOffset(7), min, max };
    assert_eq!(reset(&mut world, ResetTarget::Offset(QueueOffset(7))), Output::Refused(refused));
    assert_eq!(reset(&mut world, ResetTarget::Near(QueueOffset(70))), moved(0, 6));
    assert_eq!(reset(&mut world, ResetTarget::Earliest), moved(6, 0));
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 6);
}

#[test]
fn a_dead_letter_under_way_at_a_reset_is_not_moved_and_moves_nothing() {
    let mut world = World::new(3).topic("orders", 1).group("billing", max_attempts(1));
    world.send_all("orders", &["a", "b", "c"]);
    world.receive("billing", invisible_secs(30).batch(1)).one();
    world.holds_loads = true;
    world.advance_secs(30);
    assert_eq!(reset(&mut world, ResetTarget::Earliest), moved(0, 0));
    world.holds_loads = false;
    world.settle();
    let (figures, dead_letters) = world.progress_of("billing");
    assert_eq!((dead_letters, figures[0].committed, figures[0].ready), (0, QueueOffset(0), 3));
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["a", "b", "c"]);
}

#[test]
fn figures_of_a_group_are_exact_at_every_stage() {
    let mut world = world();
    let stage = |world: &mut World| {
        let figures = world.progress_of("billing").0[0];
        (figures.ready, figures.in_flight, figures.waiting_retry, figures.oldest_ready.0)
    };
    let received = world.receive("billing", invisible_secs(30).batch(4));
    assert_eq!(stage(&mut world), (2, 4, 0, 4));
    world.ack(&received.0[0].handle).unwrap();
    world.undo(&received.0[1].handle);
    assert_eq!(stage(&mut world), (3, 2, 0, 1));
    let longer = world.change_invisible(&received.0[2].handle, 60).unwrap();
    world.advance_secs(30);
    assert_eq!(stage(&mut world), (3, 1, 1, 1));
    world.shard_mut().shard_mut().evict_clean();
    assert_eq!(stage(&mut world), (3, 1, 1, 1), "loaded again");
    world.crash();
    assert_eq!(stage(&mut world), (3, 1, 1, 1), "after a crash");
    world.ack(&longer).unwrap();
    let rest = world.receive("billing", invisible_secs(30));
    assert_eq!(stage(&mut world), (0, 4, 0, 6));
    rest.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    assert_eq!(stage(&mut world), (0, 0, 0, 6));
}
