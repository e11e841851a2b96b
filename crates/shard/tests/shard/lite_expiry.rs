//! The end of lite topics by their time to live, and of their messages by age.

use crate::world::lite::LASTING;
use crate::world::{AckError, Receive, World, invisible_secs};
use martlet_shard::{LiteParent, SettleError};

const TTL_SECS: i64 = 1_600;

fn world(expire_unconsumed: bool) -> World {
    let parent = LiteParent { expire_millis: Some(TTL_SECS * 1_000), expire_unconsumed, ..LASTING };
    World::new(1).lite_parent("chat", parent).lite_group("web", "chat", false, 100)
}

fn client(world: &World) -> Receive {
    invisible_secs(30).lite(world.topic_id("chat"), 1)
}

fn lite_topics(world: &mut World) -> usize {
    world.store().keys().iter().filter(|key| key[0] == 17).count()
}

fn consume(world: &mut World) -> Vec<String> {
    let received = world.receive("web", client(world));
    received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    received.0.into_iter().map(|delivery| delivery.body).collect()
}

#[test]
fn a_consumed_lite_topic_ends_after_its_time_to_live_with_all_that_belongs_to_it() {
    let mut world = world(false);
    world.subscribe_lite("web", 1, &["a"]);
    world.send_lite("chat", "a", &["a1"]);
    assert_eq!(consume(&mut world), ["a1"]);
    world.advance_secs(TTL_SECS - 1);
    assert_eq!(lite_topics(&mut world), 1, "never early");
    world.advance_secs(TTL_SECS / 16 + 2);
    assert_eq!(lite_topics(&mut world), 0, "and at most 1/16 late");
    let left: Vec<u8> =
        world.store().keys().iter().map(|key| key[0]).filter(|kind| [5, 6, 7, 20, 21, 22].contains(kind)).collect();
    assert!(left.is_empty(), "keys of these kinds are left: {left:?}");
}

#[test]
fn a_lite_topic_made_again_is_another_one_and_its_subscribers_get_it() {
    let mut world = world(false);
    world.subscribe_lite("web", 1, &["a"]);
    world.send_lite("chat", "a", &["old"]);
    let old = world.receive("web", client(&world)).one();
    world.ack(&old.handle).unwrap();
    for _ in 0..TTL_SECS / 60 + 4 {
        world.advance_secs(60);
        world.subscribe_lite("web", 1, &["a"]);
    }
    assert_eq!(lite_topics(&mut world), 0);
    world.send_lite("chat", "a", &["new"]);
    let new = world.receive("web", client(&world)).one();
    assert_eq!((new.body.as_str(), new.hand_out.offset.0, new.attempt), ("new", 0, 1));
    assert_ne!(new.hand_out.queue, old.hand_out.queue);
    assert_eq!(world.ack(&old.handle), Err(AckError::Settle(SettleError::Gone)));
}

#[test]
fn each_message_keeps_it_for_another_time_to_live() {
    let mut world = world(false);
    world.subscribe_lite("web", 1, &["a"]);
    for n in 0..6 {
        world.send_lite("chat", "a", &[&format!("a{n}")]);
        world.subscribe_lite("web", 1, &["a"]);
        assert_eq!(consume(&mut world), [format!("a{n}")]);
        world.advance_secs(TTL_SECS - 10);
        assert_eq!(lite_topics(&mut world), 1);
        world.shard_mut().shard_mut().evict_clean();
    }
    world.advance_secs(TTL_SECS / 8);
    assert_eq!(lite_topics(&mut world), 0);
}

/// The reference ends a lite topic whatever waits in it.
#[test]
fn messages_that_are_not_consumed_keep_it_until_they_are_or_until_retention_takes_them() {
    let mut world = world(false);
    world.subscribe_lite("web", 1, &["a"]);
    world.send_lite("chat", "a", &["a1"]);
    world.send_lite("chat", "nobody", &["n1"]);
    world.advance_secs(10 * TTL_SECS);
    assert_eq!(lite_topics(&mut world), 2);
    world.subscribe_lite("web", 1, &["a"]);
    assert_eq!(consume(&mut world), ["a1"]);
    world.advance_secs(TTL_SECS);
    assert_eq!(lite_topics(&mut world), 1, "nobody ever came for the other");
    world.advance_secs(76 * 3_600);
    assert_eq!(lite_topics(&mut world), 0, "its message is older than the retention");
}

#[test]
fn where_the_parent_says_so_messages_end_with_their_lite_topic() {
    let mut world = world(true);
    world.subscribe_lite("web", 1, &["a"]);
    world.send_lite("chat", "a", &["a1"]);
    world.crash();
    world.advance_secs(TTL_SECS + TTL_SECS / 8);
    assert_eq!(lite_topics(&mut world), 0);
}

#[test]
fn messages_of_lite_topics_end_with_the_retention_even_where_the_lite_topic_does_not() {
    let mut world = World::new(1);
    world.make_lite_parent("chat", LASTING, Some(64_000));
    world.send_lite("chat", "a", &["a1"]);
    world.crash();
    world.advance_secs(70);
    let mut world = world.lite_group("web", "chat", false, 100);
    world.subscribe_lite("web", 1, &["a"]);
    assert!(consume(&mut world).is_empty());
    assert_eq!(lite_topics(&mut world), 1);
    world.send_lite("chat", "a", &["a2"]);
    let next = world.receive("web", client(&world)).one();
    assert_eq!((next.body.as_str(), next.hand_out.offset.0), ("a2", 1), "the same lite topic goes on");
}

#[test]
fn while_the_clock_is_not_to_be_trusted_nothing_ends() {
    let mut world = world(true);
    world.send_lite("chat", "a", &["a1"]);
    world.pauses_deletion = true;
    world.advance_secs(3 * TTL_SECS);
    assert_eq!(lite_topics(&mut world), 1);
    world.pauses_deletion = false;
    world.advance_secs(120);
    assert_eq!(lite_topics(&mut world), 0);
}

#[test]
fn many_end_a_few_at_a_time_and_what_cannot_be_read_is_tried_again() {
    let mut world = world(true);
    for n in 0..300 {
        world.send_lite("chat", &format!("s{n}"), &["x"]);
    }
    world.shard_mut().shard_mut().evict_clean();
    world.advance_secs(TTL_SECS + TTL_SECS / 16 - 1);
    world.store().fail_reads(true);
    world.advance_secs(3);
    assert_eq!(lite_topics(&mut world), 300);
    world.store().fail_reads(false);
    world.advance_secs(3);
    assert_eq!(lite_topics(&mut world), 0);
}
