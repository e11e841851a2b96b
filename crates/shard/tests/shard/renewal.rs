//! Hand-outs under renewal: alive as long as their client.

use crate::world::*;
use martlet_model::limits;

#[test]
fn a_renewed_hand_out_keeps_its_handle_for_hours() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let first = world.receive("billing", auto_renew(1)).one();
    world.advance_secs(2 * 3_600 + 17);
    assert_eq!(world.receive("billing", auto_renew(2)).len(), 0);
    assert_eq!(world.ack(&first.handle), Ok(()));
}

#[test]
fn an_ack_that_arrives_with_the_renewal_counts() {
    let mut world = World::new(2).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let first = world.receive("billing", auto_renew(1)).one();
    // The shard's thread was busy elsewhere for a while: renewal is overdue when the ack comes in.
    world.now = world.now.plus(60_500);
    assert_eq!(world.ack(&first.handle), Ok(()));
}

#[test]
fn what_a_vanished_client_held_is_visible_at_once_and_nothing_else() {
    let mut world = World::new(3).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let held = world.receive("billing", auto_renew(1)).one();
    world.send("orders", "b");
    world.receive("billing", auto_renew(2)).one();
    world.send("orders", "c");
    world.receive("billing", invisible_secs(300)).one();
    let poll = world.poll("billing", auto_renew(2));
    world.settle();
    world.client_gone(1);
    let again = world.received(poll).unwrap().one();
    assert_eq!((again.body.as_str(), again.attempt), ("a", 2));
    assert!(world.ack(&held.handle).is_err());
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
}

#[test]
fn what_a_client_holds_that_leaves_it_may_still_settle_for_a_while() {
    let mut world = World::new(5).topic("orders", 1).group("billing", max_attempts(3));
    let bodies = ["a", "b"];
    bodies.iter().for_each(|body| world.send("orders", body));
    let held = world.receive("billing", auto_renew(1));
    world.client_leaves(1);
    assert_eq!(world.receive("billing", auto_renew(2).without_waiting()).len(), 0);
    assert_eq!(world.ack(&held.0[0].handle), Ok(()));
    world.advance_millis(limits::AUTO_RENEW_SLICE_MILLIS);
    let again = world.receive("billing", auto_renew(2)).one();
    assert_eq!((again.body.as_str(), again.attempt), ("b", 2));
}

#[test]
fn after_the_last_renewal_the_groups_own_waits_hold() {
    let mut world = World::new(4).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let first = world.receive("billing", auto_renew(1)).one();
    world.advance_millis(limits::AUTO_RENEW_TOTAL_MILLIS);
    assert!(world.ack(&first.handle).is_err(), "the handle died with the last renewal");
    let poll = world.poll("billing", invisible_secs(30));
    world.advance_millis(9_999);
    assert!(world.received(poll).is_none(), "10 s after the first attempt");
    world.advance_millis(1);
    assert_eq!(world.received(poll).unwrap().one().attempt, 2);
}

#[test]
fn a_move_to_the_dead_letters_that_fails_leaves_the_hand_out_renewed() {
    let mut world = World::new(6).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let first = world.receive("billing", auto_renew(1)).one();
    world.store().fail_reads(true);
    assert!(world.forward_to_dead_letters(&first.handle).is_err());
    world.store().fail_reads(false);
    world.advance_secs(600);
    assert_eq!(world.ack(&first.handle), Ok(()));
}

#[test]
fn an_undone_renewed_hand_out_is_not_renewed() {
    let mut world = World::new(5).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let first = world.receive("billing", auto_renew(1)).one();
    world.undo(&first.handle);
    let second = world.receive("billing", invisible_secs(30)).one();
    world.advance_secs(30);
    assert!(world.ack(&second.handle).is_err());
    assert_eq!(world.receive("billing", invisible_secs(30)).one().attempt, 2);
}
