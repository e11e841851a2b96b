//! Topics and groups come, change and go without a trace.

use crate::world::lite::LASTING;
use crate::world::*;
use martlet_shard::{Output, Refused};

/// Keys that a new shard with these topics and groups has.
fn keys_of(topics: u32, groups: u32) -> usize {
    let world = World::new(0);
    let mut world = (0..topics).fold(world, |world, n| world.topic(&format!("t{n}"), 2));
    for n in 0..groups {
        world.make_group(&format!("g{n}"), max_attempts(2));
    }
    world.store().keys().len()
}

fn busy(seed: u64) -> World {
    let mut world =
        World::new(seed).topic("t0", 2).topic("t1", 2).group("g0", max_attempts(2)).group("g1", max_attempts(2));
    for topic in ["t0", "t1"] {
        let id = world.topic_id(topic);
        for n in 0..60 {
            world.send(topic, &n.to_string());
        }
        for group in ["g0", "g1"] {
            let received = world.receive(group, invisible_secs(30).from(id));
            received.0.iter().step_by(2).for_each(|delivery| world.ack(&delivery.handle).unwrap());
        }
    }
    world
}

#[test]
fn a_deleted_topic_leaves_nothing_in_the_store() {
    for crash in [false, true] {
        let mut world = busy(1);
        world.drop_topic("t0");
        if crash {
            world.crash();
        }
        world.drop_topic("t1");
        world.settle();
        assert_eq!(world.store().keys().len(), keys_of(0, 2));
    }
}

#[test]
fn a_deleted_group_leaves_nothing_in_the_store() {
    for crash in [false, true] {
        let mut world = busy(2);
        let mut none = busy(3);
        world.advance_secs(30);
        world.receive("g0", invisible_secs(30));
        world.advance_secs(30);
        if crash {
            world.crash();
        }
        for world in [&mut world, &mut none] {
            world.drop_group("g0");
            world.drop_group("g1");
        }
        if crash {
            world.crash();
        }
        world.settle();
        assert_eq!(world.store().keys().len(), keys_of(2, 0));
        assert_eq!(none.store().keys().len(), keys_of(2, 0));
    }
}

#[test]
fn a_group_deleted_in_the_turn_of_its_first_poll_leaves_nothing() {
    for topic in [false, true] {
        let mut world = World::new(3).topic("t0", 2).group("g0", max_attempts(2));
        world.hold_syncs();
        world.begin_send("t0", &["a"], None);
        world.holds_loads = true;
        let poll = world.poll("g0", invisible_secs(30));
        world.holds_loads = false;
        world.turn([]);
        match topic {
            true => {
                let topic = world.topic_id("t0");
                world.begin(|token| martlet_shard::Command::DropTopic { topic, token });
            }
            false => {
                let group = world.group_id("g0");
                world.begin(|token| martlet_shard::Command::DropGroup { group, token });
            }
        }
        for _ in 0..5 {
            world.turn([]);
        }
        world.sync();
        let gone = if topic { Refused::TopicGone } else { Refused::GroupGone };
        assert_eq!(world.refused(poll), Some(gone));
        let left = if topic { keys_of(0, 1) } else { keys_of(1, 0) };
        assert_eq!(world.store().keys().len(), left);
    }
}

#[test]
fn a_deletion_that_a_crash_interrupts_goes_on_afterwards() {
    let mut world = busy(4);
    world.holds_loads = true;
    world.drop_topic("t0");
    world.holds_loads = false;
    world.crash();
    world.drop_topic("t1");
    world.settle();
    assert_eq!(world.store().keys().len(), keys_of(0, 2));
}

#[test]
fn what_is_deleted_refuses_by_name_and_polls_end_at_once() {
    let mut world = World::new(5).topic("t0", 1).group("g0", max_attempts(2)).group("g1", max_attempts(2));
    let polls = [world.poll("g0", invisible_secs(30)), world.poll("g1", invisible_secs(30))];
    world.settle();
    world.drop_group("g0");
    assert_eq!(world.refused(polls[0]), Some(Refused::GroupGone));
    let topic = world.topic_id("t0");
    world.drop_topic("t0");
    assert_eq!(world.refused(polls[1]), Some(Refused::TopicGone));
    let sent = world.ask(|token| martlet_shard::Command::Send { topic, messages: Vec::new(), deadline: None, token });
    assert_eq!(sent, Output::Refused(Refused::TopicGone));
}

#[test]
fn a_queue_that_is_read_while_its_topic_is_deleted_does_not_come_back() {
    let mut world = World::new(7).topic("t0", 1).lite_parent("chat", LASTING).group("g0", max_attempts(2));
    // From here on a queue that is not known may be a lite topic's.
    world.send_lite("chat", "alice", &["a1"]);
    world.send("t0", "x");
    let queues = |world: &mut World| world.store().keys().iter().filter(|key| key[0] == 4).count();
    let before = queues(&mut world);
    world.shard_mut().shard_mut().evict_clean();
    world.holds_loads = true;
    let poll = world.poll("g0", invisible_secs(30));
    world.drop_topic("t0");
    world.holds_loads = false;
    world.settle();
    assert_eq!(world.refused(poll), Some(Refused::TopicGone));
    world.advance_secs(30 * 24 * 3_600);
    assert_eq!(queues(&mut world), before - 1, "nothing is written about it any more");
}

#[test]
fn figures_of_topics_and_groups_add_up() {
    let mut world = World::new(6).topic("orders", 1).group("billing", max_attempts(3));
    world.send_all("orders", &["a", "b", "c", "d", "e"]);
    let received = world.receive("billing", invisible_secs(30).batch(3));
    world.ack(&received.0[0].handle).unwrap();
    world.change_invisible(&received.0[1].handle, 0).unwrap();
    let (figures, dead) = world.progress_of("billing");
    let f = figures[0];
    assert_eq!((f.committed.0, f.max.0, f.in_flight, f.waiting_retry, f.ready, dead), (1, 5, 1, 1, 2, 0));
}
