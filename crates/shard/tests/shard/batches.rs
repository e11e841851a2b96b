//! Hand-outs of several messages at a time: what comes together, and what is kept of it.

use crate::world::*;
use martlet_shard::SettleError;

fn world(queues: u32) -> World {
    World::new(1).topic("orders", queues).group("billing", max_attempts(4).in_order())
}

fn send(world: &mut World, messages: &[(String, String)]) {
    let messages: Vec<_> = messages.iter().map(|(group, body)| (group.as_str(), body.as_str())).collect();
    world.send_grouped("orders", &messages);
}

#[test]
fn what_is_handed_out_together_in_order_lies_together_in_the_log() {
    let mut world = world(1);
    let messages: Vec<_> = (0..80).map(|n| (format!("g{}", n / 2), format!("{n}"))).collect();
    send(&mut world, &messages);
    let expected: Vec<String> = (0..64).map(|n| format!("{n}")).collect();
    for part in expected.chunks(32) {
        assert_eq!(world.receive("billing", invisible_secs(30).batch(32)).in_order(), part);
    }
}

#[test]
fn one_message_group_gets_a_quarter_of_a_batch_while_others_wait() {
    let mut world = world(1);
    let mut messages: Vec<_> = (0..20).map(|n| ("busy".to_owned(), format!("busy {n:02}"))).collect();
    messages.extend((0..40).map(|n| (format!("g{n}"), format!("other {n:02}"))));
    send(&mut world, &messages);
    let first = world.receive("billing", invisible_secs(30).batch(32));
    let busy: Vec<&str> = first.bodies().into_iter().filter(|body| body.starts_with("busy")).collect();
    assert_eq!(busy, (0..8).map(|n| format!("busy {n:02}")).collect::<Vec<_>>());
    assert_eq!(first.len(), 32);
    assert_eq!(world.receive("billing", invisible_secs(30).batch(32)).len(), 16, "the rest of the others");
    first.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    assert_eq!(world.receive("billing", invisible_secs(30).batch(32)).len(), 12, "alone, it gets all it wants");
}

#[test]
fn a_hand_out_in_order_of_several_messages_survives_a_crash() {
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "a1"), ("b", "b1"), ("a", "a2"), ("b", "b2"), ("c", "c1")]);
    let first = world.receive("billing", invisible_secs(30));
    assert_eq!(first.in_order(), ["a1", "b1", "a2", "b2", "c1"]);
    world.crash();
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0, "all are locked");
    world.ack(&first.0[0].handle).unwrap();
    world.ack(&first.0[3].handle).unwrap();
    world.advance_secs(30);
    let again = world.receive("billing", invisible_secs(30));
    assert_eq!(again.in_order(), ["b1", "a2", "c1"]);
    assert!(again.0.iter().all(|delivery| delivery.attempt == 2));
}

#[test]
fn acks_of_one_request_are_answered_one_by_one_and_settle_what_they_name_and_no_more() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(4));
    world.send_all("orders", &["a", "b", "c", "d", "e", "f"]);
    let old = world.receive("billing", invisible_secs(10));
    world.advance_secs(60);
    let new = world.receive("billing", invisible_secs(30));
    assert_eq!(new.bodies(), ["a", "b", "c", "d", "e", "f"]);
    let handle = |received: &Received, n: usize| received.0[n].handle.clone();
    // A run, one of it again, one that was given to somebody else since in the midst of a run, and one from behind.
    let handles = [(&new, 0), (&new, 1), (&new, 1), (&new, 3), (&old, 4), (&new, 5), (&new, 2)];
    let handles = handles.map(|(received, n)| handle(received, n));
    let answers = world.ack_together(&handles.each_ref().map(String::as_str)).unwrap();
    let dead = Err(SettleError::Superseded);
    assert_eq!(answers, [Ok(()), Ok(()), Ok(()), Ok(()), dead, Ok(()), Ok(())]);
    world.crash();
    world.advance_secs(60);
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["e"]);
}
