//! Receipt handles: which settle their message, and what the others are told.

use crate::world::*;
use martlet_model::handle::HandleError;
use martlet_shard::SettleError;

fn superseded() -> Result<(), AckError> {
    Err(AckError::Settle(SettleError::Superseded))
}

#[test]
fn a_lapsed_message_returns_with_one_more_attempt_and_its_old_handle_is_dead() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(2));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    world.advance_millis(29_999);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0, "invisible until the last millisecond");
    world.advance_millis(251);
    assert_eq!(world.ack(&first.handle), Err(AckError::Settle(SettleError::Lapsed { ago_millis: 250 })));
    let second = world.receive("billing", invisible_secs(30)).one();
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(world.ack(&first.handle), superseded());
    assert_eq!(world.ack(&second.handle), Ok(()));
    assert_eq!(world.progress_of("billing").0[0].committed.0, 1);
}

#[test]
fn acking_twice_is_as_good_as_once() {
    let mut world = World::new(2).topic("orders", 1).group("billing", max_attempts(2));
    world.send_all("orders", &["a", "b"]);
    let received = world.receive("billing", invisible_secs(30));
    for _ in 0..2 {
        assert_eq!(world.ack(&received.0[1].handle), Ok(()));
    }
    assert_eq!(world.progress_of("billing").0[0].committed.0, 0, "a is still open");
    assert_eq!(world.ack(&received.0[0].handle), Ok(()));
    world.advance_secs(60);
    assert_eq!(world.ack(&received.0[0].handle), Ok(()), "late, but settled");
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
    assert_eq!(world.shard().shard().counters().acked, 2);
}

#[test]
fn forged_and_foreign_handles_are_told_from_malformed_ones() {
    let mut world = World::new(3).topic("orders", 1).group("billing", max_attempts(2));
    let mut other = World::new(4).topic("orders", 1).group("billing", max_attempts(2));
    other.send("orders", "a");
    let foreign = other.receive("billing", invisible_secs(30)).one().handle;
    let forged = |error| Err(AckError::NotAHandle(error));
    assert_eq!(world.ack(&foreign), forged(HandleError::Forged));
    assert_eq!(world.ack("7 1800000000000 30000"), forged(HandleError::Malformed { length: 21 }));
}

#[test]
fn changing_the_invisible_duration_gives_a_new_handle_and_kills_the_old() {
    let mut world = World::new(5).topic("orders", 1).group("billing", max_attempts(2));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    let longer = world.change_invisible(&first.handle, 60).unwrap();
    assert_eq!(world.ack(&first.handle), superseded());
    assert_eq!(
        world.change_invisible(&first.handle, 60),
        Err(AckError::Settle(SettleError::Superseded)),
        "only the newest handle can change it again"
    );
    world.advance_millis(59_999);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
    assert_eq!(world.ack(&longer), Ok(()));
}

#[test]
fn an_invisible_duration_of_zero_makes_a_message_visible_at_once() {
    let mut world = World::new(6).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    let handle = world.change_invisible(&first.handle, 0).unwrap();
    let second = world.received(poll).unwrap().one();
    assert_eq!(second.attempt, 2);
    assert_eq!(world.ack(&handle), superseded());
    let handle = world.change_invisible(&second.handle, 0).unwrap();
    assert_eq!(world.ack(&handle), Err(AckError::Settle(SettleError::Lapsed { ago_millis: 0 })));
}

#[test]
fn an_undone_hand_out_leaves_slot_and_attempt_as_before() {
    let mut world = World::new(7).topic("orders", 1).group("billing", max_attempts(2));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    world.undo(&first.handle);
    assert_eq!(world.progress_of("billing").0[0].ready, 1);
    let again = world.receive("billing", invisible_secs(30)).one();
    assert_eq!(again.attempt, 1);
    world.undo(&first.handle);
    assert_eq!(world.ack(&first.handle), superseded(), "an undo of a dead handle changes nothing");
    world.advance_secs(30);
    let second = world.receive("billing", invisible_secs(30)).one();
    world.undo(&second.handle);
    let second = world.receive("billing", invisible_secs(30)).one();
    assert_eq!(second.attempt, 2, "an undone last attempt is not the end");
    assert_eq!(world.ack(&second.handle), Ok(()));
}

#[test]
fn an_undone_hand_out_goes_to_a_poll_that_waits() {
    let mut world = World::new(8).topic("orders", 1).group("billing", max_attempts(2));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    world.undo(&first.handle);
    assert_eq!(world.received(poll).unwrap().one().attempt, 1);
}

#[test]
fn handles_of_a_topic_or_group_created_again_belong_to_something_else() {
    let mut world =
        World::new(9).topic("orders", 1).group("billing", max_attempts(2)).group("shipping", max_attempts(2));
    let gone = || Err(AckError::Settle(SettleError::Gone));
    world.send("orders", "a");
    let billing = world.receive("billing", invisible_secs(30)).one();
    let shipping = world.receive("shipping", invisible_secs(30)).one();
    world.drop_group("billing");
    world.make_group("billing", max_attempts(2));
    assert_eq!(world.ack(&billing.handle), gone());
    assert_eq!(world.receive("billing", invisible_secs(30)).one().attempt, 1, "a new group starts at the beginning");
    world.drop_topic("orders");
    world.make_topic("orders", 1, None);
    assert_eq!(world.ack(&shipping.handle), gone());
    assert_eq!(world.receive("shipping", invisible_secs(30)).len(), 0, "the messages went with the topic");
}

#[test]
fn a_handle_settles_a_message_for_its_own_group_only() {
    let mut world =
        World::new(10).topic("orders", 1).group("billing", max_attempts(2)).group("shipping", max_attempts(2));
    world.send("orders", "a");
    let billing = world.receive("billing", invisible_secs(30)).one();
    let shipping = world.receive("shipping", invisible_secs(30)).one();
    world.ack(&billing.handle).unwrap();
    world.advance_secs(30);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
    assert_eq!(world.receive("shipping", invisible_secs(30)).one().attempt, 2);
    assert_eq!(world.ack(&shipping.handle), superseded());
}
