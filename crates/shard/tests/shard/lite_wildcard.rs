//! Groups that consume every lite topic of their parent.

use crate::world::lite::LASTING;
use crate::world::{Receive, World, invisible_secs};
use martlet_shard::{LiteAction, LiteParent, LiteStart, Output, Refused};

fn world() -> World {
    World::new(1).lite_parent("chat", LASTING).wildcard_group("log", "chat")
}

fn client(world: &World, client: u64) -> Receive {
    invisible_secs(30).lite(world.topic_id("chat"), client)
}

fn marks(world: &mut World) -> usize {
    world.store().keys().iter().filter(|key| key.starts_with(&[21, 1, 1])).count()
}

/// Polls and acknowledges until nothing comes.
fn drain(world: &mut World, number: u64) -> Vec<String> {
    let mut bodies = Vec::new();
    loop {
        let received = world.receive("log", client(world, number));
        if received.0.is_empty() {
            return bodies;
        }
        for delivery in received.0 {
            world.ack(&delivery.handle).unwrap();
            bodies.push(delivery.body);
        }
    }
}

#[test]
fn its_clients_get_what_comes_to_any_lite_topic_made_before_or_later() {
    let mut world = world();
    let waiting = world.poll("log", client(&world, 1));
    world.send_lite("chat", "a", &["a1"]);
    assert_eq!(world.received(waiting).unwrap().in_order(), ["a1"]);
    world.send_lite("chat", "b", &["b1", "b2"]);
    world.send_lite("chat", "a", &["a2"]);
    let second = world.receive("log", client(&world, 2));
    assert_eq!(second.in_order(), ["b1", "b2"], "a2 waits for a1");
    second.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    world.advance_secs(31);
    assert_eq!(drain(&mut world, 1), ["a1", "a2"]);
    assert_eq!(marks(&mut world), 0, "of what is consumed nothing is noted");
}

#[test]
fn what_waits_is_found_again_after_a_crash() {
    let mut world = world();
    for n in 0..50 {
        world.send_lite("chat", &format!("s{n}"), &["x"]);
    }
    let some = world.receive("log", client(&world, 1).batch(20));
    assert_eq!(some.len(), 20);
    some.0.iter().take(10).for_each(|delivery| world.ack(&delivery.handle).unwrap());
    assert_eq!(marks(&mut world), 40);
    world.crash();
    assert_eq!(drain(&mut world, 2).len(), 30);
    world.advance_secs(31);
    assert_eq!(drain(&mut world, 2).len(), 10);
    assert_eq!(marks(&mut world), 0);
}

#[test]
fn several_polls_that_wait_share_what_comes() {
    let mut world = world();
    let waiting: Vec<_> = (1..=3).map(|number| world.poll("log", client(&world, number).batch(1))).collect();
    let sent = world.try_send_lite("chat", &[("a", "1"), ("b", "2"), ("c", "3")]);
    assert!(matches!(sent, Output::Sent(_)));
    for poll in waiting {
        assert_eq!(world.received(poll).expect("each is served").len(), 1);
    }
}

#[test]
fn its_clients_have_no_sets_and_a_full_one_is_a_sign_of_life() {
    let mut world = world();
    let add = LiteAction::Add(LiteStart::Last);
    assert_eq!(world.sync_lite("log", 1, add, &["a"]), Output::Refused(Refused::LiteWildcard));
    assert_eq!(world.sync_lite("log", 1, LiteAction::Remove, &["a"]), Output::Refused(Refused::LiteWildcard));
    assert_eq!(world.sync_lite("log", 1, LiteAction::Set, &[]), Output::Done);
    assert_eq!(world.shard().shard().lite_sizes().1, 0);
    world.send_lite("chat", "a", &["a1"]);
    assert_eq!(drain(&mut world, 1), ["a1"]);
}

#[test]
fn what_it_has_not_consumed_keeps_a_lite_topic_and_nothing_is_left_of_one_that_ended() {
    let parent = LiteParent { expire_millis: Some(1_600_000), ..LASTING };
    let mut world = World::new(1).lite_parent("chat", parent).wildcard_group("log", "chat");
    world.send_lite("chat", "a", &["a1"]);
    world.shard_mut().shard_mut().evict_clean();
    world.advance_secs(5_000);
    assert_eq!(drain(&mut world, 1), ["a1"]);
    world.advance_secs(5_000);
    let left: Vec<u8> =
        world.store().keys().iter().map(|key| key[0]).filter(|kind| [5, 6, 7, 9, 17, 20, 21].contains(kind)).collect();
    assert!(left.is_empty(), "keys of these kinds are left: {left:?}");
    world.send_lite("chat", "b", &["b1"]);
    world.drop_group("log");
    assert_eq!(marks(&mut world), 0);
}
