//! Hand-outs of several messages at a time: what comes together, and what is kept of it.

use crate::world::*;

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
