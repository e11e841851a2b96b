//! What a crash takes, and what it does not.

use crate::world::*;
use martlet_shard::{Output, SettleError};

#[test]
fn everything_durable_is_there_after_a_crash() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(5));
    world.send_all("orders", &["acked", "lapsing", "changed", "undone", "new"]);
    let received = world.receive("billing", invisible_secs(30).batch(4));
    world.ack(&received.0[0].handle).unwrap();
    let changed = world.change_invisible(&received.0[2].handle, 600).unwrap();
    world.undo(&received.0[3].handle);
    world.crash();
    let next = world.receive("billing", invisible_secs(30));
    assert_eq!(next.bodies(), ["new", "undone"]);
    assert!(next.0.iter().all(|delivery| delivery.attempt == 1));
    world.advance_secs(30);
    let again = world.receive("billing", invisible_secs(30));
    assert_eq!(again.bodies(), ["lapsing", "new", "undone"]);
    assert!(again.0.iter().all(|delivery| delivery.attempt == 2));
    assert_eq!(world.ack(&changed), Ok(()), "invisible for 600 s, crash or not, by the same handle");
    for delivery in again.0 {
        world.ack(&delivery.handle).unwrap();
    }
    world.advance_secs(900);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
}

#[test]
fn handles_of_hand_outs_that_a_crash_took_are_superseded() {
    let mut world = World::new(2).topic("orders", 1).group("billing", max_attempts(5));
    world.receive("billing", invisible_secs(30));
    world.send("orders", "a");
    world.hold_syncs();
    let lost = world.receive("billing", invisible_secs(30)).one();
    world.crash();
    let superseded = Err(AckError::Settle(SettleError::Superseded));
    let _ = world.progress_of("billing");
    assert_eq!(world.ack(&lost.handle), superseded);
    let again = world.receive("billing", invisible_secs(30)).one();
    assert_eq!(again.attempt, 1);
    assert_eq!(world.ack(&lost.handle), superseded);
    assert!(again.hand_out.delivery.epoch() > lost.hand_out.delivery.epoch());
}

#[test]
fn an_answer_never_precedes_the_sync_it_rests_on() {
    let mut world = World::new(3).topic("orders", 1).group("billing", max_attempts(5));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    world.hold_syncs();
    let handle = world.decode(&first.handle).unwrap();
    let acks: Vec<_> =
        (0..2).map(|_| world.begin(|token| martlet_shard::Command::Ack { handles: vec![handle], token })).collect();
    world.settle();
    assert!(acks.iter().all(|&ack| world.answer_to(ack).is_none()), "the second rests on the first");
    world.sync();
    for ack in acks {
        assert_eq!(world.answer_to(ack), Some(Output::Acked(vec![Ok(())])));
    }
}

#[test]
fn before_the_epoch_is_durable_nothing_is_handed_out() {
    let mut world = World::new(4).topic("orders", 1).group("billing", max_attempts(5));
    world.send("orders", "a");
    let epoch = world.shard().shard().epoch();
    world.crash();
    assert_eq!(world.shard().shard().epoch(), epoch + 1);
    world.hold_syncs();
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert_eq!(world.received(poll).unwrap().len(), 1, "durable since the opening has settled");
}

#[test]
fn a_failed_sync_ends_the_shard_and_every_answer_that_waits() {
    let mut world = World::new(5).topic("orders", 1).group("billing", max_attempts(5));
    world.send("orders", "a");
    world.store().fail();
    let send = world.begin_send("orders", &["b"], None);
    let now = world.now;
    for _ in 0..3 {
        let turn = world.shard_mut().turn(now, false, []);
        assert!(turn.failed.is_some() && turn.replies.is_empty());
    }
    assert_eq!(world.answer_to(send), None);
    world.crash();
    assert_eq!(world.receive("billing", invisible_secs(30)).one().body, "a");
}

#[test]
fn the_secret_of_handles_survives_and_handles_stay_valid() {
    let mut world = World::new(6).topic("orders", 1).group("billing", max_attempts(5));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(300)).one();
    world.options.new_handle_key = [99; 16];
    world.crash();
    assert_eq!(world.ack(&first.handle), Ok(()));
}
