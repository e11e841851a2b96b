//! An administrator moves a group in lite topics, and what becomes of messages in flight.

use crate::world::lite::LASTING;
use crate::world::*;
use martlet_model::QueueOffset;
use martlet_shard::{
    Command, LiteParent, LiteReset, Output, Refused, ResetTarget, SettleError, lite_topic, lite_topics_of_group,
};

fn world() -> World {
    World::new(1).lite_parent("chat", LASTING).lite_group("web", "chat", false, 100)
}

fn client(world: &World, client: u64) -> Receive {
    invisible_secs(30).lite(world.topic_id("chat"), client)
}

/// Moves a group in these lite topics.
fn reset(world: &mut World, group: &str, names: &[&str], to: ResetTarget, only_back: bool) -> Output {
    let (group, parent) = (world.group_id(group), world.topic_id("chat"));
    let reader = world.reader();
    let queue =
        |name: &&str| at_once(lite_topic(&reader, parent, name)).unwrap().expect("there is such a lite topic").queue;
    let targets = names.iter().map(|name| (queue(name), to)).collect();
    world.ask(|token| Command::ResetLite { reset: LiteReset { group, parent, targets, only_back }, token })
}

/// Where the group was and is in each lite topic that it was moved in.
fn moved(output: Output) -> Vec<(u64, u64)> {
    match output {
        Output::LiteReset(moved) => moved.into_iter().map(|(_, from, to)| (from.0, to.0)).collect(),
        other => panic!("a reset was answered with {other:?}"),
    }
}

/// Ready, in flight, waiting for a retry.
fn backlog(world: &mut World, group: &str) -> (u64, u64, u64) {
    let figures = world.progress_of(group).0.remove(0);
    (figures.ready, figures.in_flight, figures.waiting_retry)
}

#[test]
fn a_reset_backward_delivers_again_with_attempts_from_one_and_ends_the_lock() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice", "bob"]);
    world.send_lite("chat", "alice", &["a1", "a2", "a3", "a4"]);
    world.send_lite("chat", "bob", &["b1"]);
    let first = world.receive("web", client(&world, 1));
    assert_eq!(first.in_order(), ["a1", "a2", "a3", "a4", "b1"]);
    world.ack(&first.0[0].handle).unwrap();
    world.ack(&first.0[1].handle).unwrap();
    let waiting = world.poll("web", client(&world, 1));
    assert_eq!(moved(reset(&mut world, "web", &["alice"], ResetTarget::Offset(QueueOffset(1)), false)), [(2, 1)]);
    let again = world.received(waiting).expect("a poll that waits is served at once");
    assert_eq!(again.in_order(), ["a2", "a3", "a4"]);
    assert!(again.0.iter().all(|delivery| delivery.attempt == 1));
    let superseded = Err(AckError::Settle(SettleError::Superseded));
    assert_eq!(world.ack(&first.0[2].handle), superseded, "in flight from the target on");
    assert_eq!(world.ack(&first.0[4].handle), Ok(()), "another lite topic");
    assert_eq!(backlog(&mut world, "web"), (0, 3, 0));
    again.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    assert_eq!(backlog(&mut world, "web"), (0, 0, 0));
}

#[test]
fn a_reset_forward_settles_what_is_below_and_its_handles_do_nothing() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice"]);
    world.send_lite("chat", "alice", &["a1", "a2", "a3"]);
    let held = world.receive("web", client(&world, 1).batch(2));
    assert_eq!(moved(reset(&mut world, "web", &["alice"], ResetTarget::Latest, false)), [(0, 3)]);
    assert_eq!(backlog(&mut world, "web"), (0, 0, 0));
    held.0.iter().for_each(|delivery| assert_eq!(world.ack(&delivery.handle), Ok(()), "settled is settled"));
    world.advance_secs(100);
    assert!(world.receive("web", client(&world, 1)).0.is_empty(), "nothing comes back");
    world.send_lite("chat", "alice", &["a4"]);
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["a4"]);
}

#[test]
fn where_it_may_only_go_back_it_goes_nowhere_else_and_no_place_is_made_up() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice", "bob"]);
    world.send_lite("chat", "alice", &["a1", "a2"]);
    world.send_lite("chat", "bob", &["b1"]);
    let received = world.receive("web", client(&world, 1).batch(2));
    assert_eq!(received.in_order(), ["a1", "a2"]);
    received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    let near = ResetTarget::Near(QueueOffset(1));
    assert_eq!(moved(reset(&mut world, "web", &["alice", "bob"], near, true)), [(2, 1)], "bob would go forward");
    assert_eq!(world.receive("web", client(&world, 1)).bodies(), ["a2", "b1"]);
    let refused = reset(&mut world, "web", &["bob", "alice"], ResetTarget::Offset(QueueOffset(2)), false);
    assert!(
        matches!(refused, Output::Refused(Refused::OffsetOutOfRange { offset: QueueOffset(2), .. })),
        "{refused:?}"
    );
    assert_eq!(backlog(&mut world, "web"), (0, 2, 0), "a refused reset moves nothing, in no lite topic");
}

#[test]
fn a_reset_survives_a_crash_and_reaches_who_subscribes_but_was_not_heard_of_since() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice"]);
    world.send_lite("chat", "alice", &["a1", "a2"]);
    let received = world.receive("web", client(&world, 1));
    received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    world.crash();
    assert_eq!(moved(reset(&mut world, "web", &["alice"], ResetTarget::Earliest, false)), [(2, 0)]);
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["a1", "a2"]);
    world.crash();
    assert_eq!(moved(reset(&mut world, "web", &["alice"], ResetTarget::Near(QueueOffset(9)), false)), [(0, 2)]);
    world.crash();
    world.advance_secs(31);
    assert!(world.receive("web", client(&world, 1)).0.is_empty());
}

#[test]
fn a_group_of_all_lite_topics_gets_again_what_it_had_consumed() {
    let mut world = World::new(1).lite_parent("chat", LASTING).wildcard_group("log", "chat");
    for name in ["a", "b", "c"] {
        world.send_lite("chat", name, &["x", "y"]);
    }
    let received = world.receive("log", client(&world, 1));
    assert_eq!(received.len(), 6);
    received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    world.shard_mut().shard_mut().evict_clean();
    assert_eq!(moved(reset(&mut world, "log", &["a", "c"], ResetTarget::Earliest, false)), [(2, 0), (2, 0)]);
    world.crash();
    let again = world.receive("log", client(&world, 1));
    assert_eq!(again.len(), 4, "the list of what waits is in the store");
    assert_eq!(moved(reset(&mut world, "log", &["a", "b", "c"], ResetTarget::Latest, false)).len(), 3);
    let marks =
        world.store().keys().iter().filter(|key| key.starts_with(&[21])).filter(|key| key[1..3] != [0, 1]).count();
    assert_eq!(marks, 0, "of what is settled nothing is noted");
}

#[test]
fn where_a_group_has_been_is_found_a_part_at_a_time_and_without_its_dead_letters() {
    let mut world = world();
    let names: Vec<String> = (0..7).map(|n| format!("s{n}")).collect();
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    world.subscribe_lite("web", 1, &wanted);
    for name in &wanted {
        world.send_lite("chat", name, &["x"]);
    }
    world.send_lite("chat", "nobody's", &["x"]);
    let (group, parent) = (world.group_id("web"), world.topic_id("chat"));
    let dead = martlet_model::TopicId::dead_letters_of(group);
    world.receive("web", invisible_secs(30).lite(dead, 1));
    let (mut found, mut behind) = (Vec::new(), None);
    loop {
        let part = at_once(lite_topics_of_group(&world.reader(), parent, group, behind, 3)).unwrap();
        assert!(part.0.len() <= 3);
        found.extend(part.0.iter().map(|look| look.name.to_string()));
        match part.1 {
            Some(next) => behind = Some(next),
            None => break,
        }
    }
    found.sort_unstable();
    assert_eq!(found, wanted);
}

#[test]
fn what_has_ended_meanwhile_is_passed_over_and_another_parent_refused() {
    let parent = LiteParent { expire_millis: Some(1_600_000), ..LASTING };
    let mut world = World::new(1).lite_parent("chat", parent).lite_group("web", "chat", false, 100);
    world.subscribe_lite("web", 1, &["alice"]);
    world.send_lite("chat", "alice", &["a1"]);
    let (group, chat) = (world.group_id("web"), world.topic_id("chat"));
    let queue = at_once(lite_topic(&world.reader(), chat, "alice")).unwrap().unwrap().queue;
    let targets = vec![(queue, ResetTarget::Earliest)];
    let of = |parent| LiteReset { group, parent, targets: targets.clone(), only_back: false };
    let other = world.make_lite_parent("other", LASTING, None);
    let refused = world.ask(|token| Command::ResetLite { reset: of(other), token });
    assert_eq!(refused, Output::Refused(Refused::NotLite));
    let received = world.receive("web", client(&world, 1)).one();
    world.ack(&received.handle).unwrap();
    world.advance_secs(5_000);
    assert_eq!(moved(world.ask(|token| Command::ResetLite { reset: of(chat), token })), []);
}
