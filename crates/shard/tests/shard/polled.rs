//! Polled half messages: nobody is asked about them, who asks has one for a time, and only then ends it; through crashes.

use crate::world::*;
use martlet_model::{UnixMillis, limits};
use martlet_shard::{Command, EndError, HalfPlace, HalfTaken, Output, TransactionCheck, halves};

const SECOND: i64 = 1_000;
const IMMUNITY: i64 = 20 * SECOND;
const LEASE: i64 = 10 * SECOND;

fn world(seed: u64) -> World {
    World::new(seed).topic("orders", 2).group("billing", max_attempts(3))
}

fn half(world: &mut World) -> HalfPlace {
    world.send_half("orders", message("order", None), Some(IMMUNITY), true).0
}

/// The check that is due.
fn due(world: &mut World) -> TransactionCheck {
    let mut checks = std::mem::take(&mut world.checks);
    assert_eq!(checks.len(), 1, "{checks:?}");
    assert!(checks[0].polled, "a producer would be asked: {checks:?}");
    checks.remove(0)
}

fn take(world: &mut World, check: &TransactionCheck) -> Option<HalfTaken> {
    let check = check.clone();
    match world.ask(|token| Command::TakeHalf { check, lease_millis: LEASE, token }) {
        Output::HalfTaken(taken) => taken,
        other => panic!("taking a half message was answered with {other:?}"),
    }
}

fn end(world: &mut World, place: HalfPlace, until: UnixMillis, commit: bool) -> Result<(), EndError> {
    let topic = world.topic_id("orders");
    match world.ask(|token| Command::EndTaken { topic, place, until, commit, token }) {
        Output::Ended(answer) => answer,
        other => panic!("the end of a transaction was answered with {other:?}"),
    }
}

fn bodies(world: &mut World) -> usize {
    world.receive("billing", invisible_secs(30).batch(32)).len()
}

#[test]
fn its_sender_ends_it_until_it_is_due_and_then_only_who_took_it() {
    let mut world = world(1);
    let (in_time, late) = (half(&mut world), half(&mut world));
    let until = world.now.plus(IMMUNITY);
    world.advance_millis(IMMUNITY - 1);
    assert_eq!(world.checks, []);
    assert_eq!(end(&mut world, in_time, until, true), Ok(()));
    world.advance_millis(1);
    let check = due(&mut world);
    assert_eq!((check.place, check.number), (late, 1));
    assert_eq!(end(&mut world, late, until, true), Err(EndError::Lapsed), "it is for somebody else to end");
    let taken = take(&mut world, &check).unwrap();
    assert_eq!(taken, HalfTaken { until: world.now.plus(LEASE), number: 1 });
    assert_eq!(take(&mut world, &check), None, "it is taken");
    assert_eq!(bodies(&mut world), 1);
    assert_eq!(end(&mut world, late, taken.until, true), Ok(()));
    assert_eq!(end(&mut world, late, taken.until, true), Ok(()), "the same end again");
    assert_eq!(end(&mut world, late, until, false), Err(EndError::Ended { committed: true }));
    assert_eq!(bodies(&mut world), 1);
    world.advance_millis(LEASE);
    assert_eq!(world.checks, []);
}

#[test]
fn what_is_not_ended_is_due_again_under_another_handle_through_a_crash() {
    let mut world = world(2);
    let place = half(&mut world);
    world.advance_millis(IMMUNITY);
    let check = due(&mut world);
    let first = take(&mut world, &check).unwrap();
    world.crash();
    world.advance_millis(LEASE - 1);
    assert_eq!(world.checks, []);
    world.advance_millis(1);
    let again = due(&mut world);
    assert_eq!((again.place, again.number), (place, 2));
    assert_eq!(end(&mut world, place, first.until, true), Err(EndError::Lapsed));
    assert_eq!(take(&mut world, &check), None, "a check from before");
    let second = take(&mut world, &again).unwrap();
    assert_eq!(second.number, 2);
    assert_eq!(end(&mut world, place, first.until, true), Err(EndError::Lapsed));
    assert_eq!(end(&mut world, place, second.until, false), Ok(()));
    assert_eq!((bodies(&mut world), take(&mut world, &again)), (0, None));
}

#[test]
fn nobody_asks_for_it_and_it_is_said_again_until_it_is_old() {
    let mut world = world(3);
    let place = half(&mut world);
    world.advance_millis(IMMUNITY);
    for _ in 0..30 {
        // Far more often than producers are asked about others.
        assert_eq!(due(&mut world).number, 1);
        world.advance_millis(limits::TRANSACTION_CHECK_INTERVAL_MILLIS);
    }
    world.advance_millis(limits::TRANSACTION_POLLED_MILLIS_MAX);
    world.checks.clear();
    world.advance_millis(limits::TRANSACTION_CHECK_INTERVAL_MILLIS);
    assert_eq!(world.checks, []);
    let (_, given_up) = at_once(halves(&world.reader(), None, 10)).unwrap().remove(0);
    assert!(given_up.given_up && given_up.polled, "{given_up:?}");
    // Whoever looks after the broker can still end it.
    let topic = world.topic_id("orders");
    let ended = world.ask(|token| Command::EndTransaction { topic, place, commit: true, token });
    assert_eq!(ended, Output::Ended(Ok(())));
    assert_eq!(bodies(&mut world), 1);
}

#[test]
fn what_was_taken_is_not_given_again_by_the_same_check_though_both_end_at_the_same_time() {
    let mut world = world(9);
    half(&mut world);
    world.advance_millis(IMMUNITY);
    let check = due(&mut world);
    let lease_millis = check.due.since(world.now);
    let mut take = || {
        let check = check.clone();
        world.ask(|token| Command::TakeHalf { check, lease_millis, token })
    };
    assert_eq!(take(), Output::HalfTaken(Some(HalfTaken { until: check.due, number: 1 })));
    assert_eq!(take(), Output::HalfTaken(None), "two producers would have it");
}
