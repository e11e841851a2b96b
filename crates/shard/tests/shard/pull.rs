//! Consumers that keep their own place: waiting for a message, and telling how far they are.

use crate::world::*;
use martlet_model::{QueueOffset, UnixMillis};
use martlet_shard::{Command, Output, PollId, Refused, ResetTarget, SettleError};

fn begin(world: &mut World, poll: u64, from: u64, until: UnixMillis) -> u64 {
    let (poll, from, topic) = (PollId(poll), QueueOffset(from), world.topic_id("orders"));
    world.begin(|token| Command::AwaitOffset { poll, topic, index: 0, from, until, token })
}

fn reached(world: &mut World, token: u64) -> Option<u64> {
    match world.answer_to(token)? {
        Output::Reached { max, .. } => Some(max.0),
        other => panic!("a wait was answered with {other:?}"),
    }
}

fn commit(world: &mut World, offset: u64) -> Output {
    let (group, topic) = (world.group_id("billing"), world.topic_id("orders"));
    let targets = vec![(0, ResetTarget::Commit(QueueOffset(offset)))];
    world.ask(|token| Command::Reset { group, topic, targets, token })
}

fn moved(from: u64, to: u64) -> Output {
    Output::Reset(vec![(0, QueueOffset(from), QueueOffset(to))])
}

fn world() -> World {
    World::new(1).topic("orders", 1).group("billing", max_attempts(5))
}

#[test]
fn a_wait_is_answered_when_a_message_is_durable_or_the_time_is_over_or_nobody_waits() {
    let mut world = world();
    world.send_all("orders", &["a", "b"]);
    let later = world.now.plus(20_000);
    let there = begin(&mut world, 1_001, 1, later);
    let (ahead, cancelled) = (begin(&mut world, 1_002, 2, later), begin(&mut world, 1_003, 2, later));
    world.settle();
    assert_eq!(reached(&mut world, there), Some(2), "there is one: no waiting");
    assert_eq!(reached(&mut world, ahead), None);
    assert_eq!(world.shard().shard().sizes().0, 2);
    world.turn([Command::CancelPoll { poll: PollId(1_003) }]);
    world.send("orders", "c");
    assert_eq!(reached(&mut world, ahead), Some(3));
    assert_eq!(reached(&mut world, cancelled), None);
    let soon = world.now.plus(5_000);
    let in_vain = begin(&mut world, 1_004, 3, soon);
    world.advance_millis(4_999);
    assert_eq!(reached(&mut world, in_vain), None);
    world.advance_millis(1);
    assert_eq!(reached(&mut world, in_vain), Some(3), "nothing came");
    assert_eq!(world.shard().shard().sizes().0, 0);
    // It costs the group nothing: nobody has received anything.
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["a", "b", "c"]);
}

#[test]
fn a_wait_for_a_queue_that_is_not_in_memory_is_answered_all_the_same() {
    let mut world = world();
    let until = world.now.plus(20_000);
    let wait = begin(&mut world, 1_001, 0, until);
    world.settle();
    world.shard_mut().shard_mut().evict_clean();
    world.send("orders", "a");
    assert_eq!(reached(&mut world, wait), Some(1));
    world.crash();
    let wait = begin(&mut world, 1_002, 0, until);
    world.settle();
    assert_eq!(reached(&mut world, wait), Some(1));
}

#[test]
fn waits_are_refused_out_of_range_beyond_the_limit_of_polls_and_when_the_topic_goes() {
    let mut options = World::new(1).options;
    options.polls_max = 1;
    let mut world = World::with(options).topic("orders", 1).group("billing", max_attempts(5));
    let until = world.now.plus(20_000);
    let far = begin(&mut world, 1_001, 1, until);
    let (first, second) = (begin(&mut world, 1_002, 0, until), begin(&mut world, 1_003, 0, until));
    world.settle();
    let (offset, min, max) = (QueueOffset(1), QueueOffset(0), QueueOffset(0));
    let refused = |refused| Some(Output::Refused(refused));
    assert_eq!(world.answer_to(far), refused(Refused::OffsetOutOfRange { index: 0, offset, min, max }));
    assert_eq!(world.answer_to(second), refused(Refused::PollsFull { limit: 1 }));
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert_eq!(world.refused(poll), Some(Refused::PollsFull { limit: 1 }));
    world.drop_topic("orders");
    assert_eq!(world.answer_to(first), refused(Refused::TopicGone));
}

#[test]
fn a_commit_forward_settles_what_is_below_and_leaves_the_rest_as_it_is() {
    let mut world = world();
    world.send_all("orders", &["a", "b", "c", "d", "e", "f"]);
    let four = world.receive("billing", invisible_secs(30).batch(4));
    world.ack(&four.0[3].handle).unwrap();
    assert_eq!(commit(&mut world, 2), moved(0, 2));
    assert_eq!(world.ack(&four.0[0].handle), Ok(()), "in flight below: settled");
    assert_eq!(world.change_invisible(&four.0[2].handle, 0).map(drop), Ok(()), "in flight above: still live");
    let rest = world.receive("billing", invisible_secs(30));
    assert_eq!(rest.bodies(), ["c", "e", "f"], "acked stays acked");
    let retried = rest.0.iter().find(|delivery| delivery.body == "c").unwrap();
    assert_eq!(retried.attempt, 2);
    assert_eq!(commit(&mut world, 6), moved(2, 6));
    world.crash();
    world.advance_secs(600);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0, "nothing comes back");
    let (figures, _) = world.progress_of("billing");
    assert_eq!(figures[0].committed, QueueOffset(6));
}

#[test]
fn a_commit_of_a_consumer_that_went_back_is_a_reset() {
    let mut world = world();
    world.send_all("orders", &["a", "b", "c"]);
    assert_eq!(commit(&mut world, 3), moved(0, 3));
    assert_eq!(commit(&mut world, 1), moved(3, 1));
    let again = world.receive("billing", invisible_secs(30));
    assert_eq!(again.bodies(), ["b", "c"]);
    assert_eq!(commit(&mut world, 0), moved(1, 0));
    assert_eq!(world.ack(&again.0[0].handle), Err(AckError::Settle(SettleError::Superseded)));
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["a", "b", "c"]);
}

#[test]
fn a_commit_of_an_ordered_group_is_a_reset_and_keeps_the_order() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(5).in_order());
    world.send_grouped("orders", &[("k", "1"), ("k", "2"), ("k", "3"), ("k", "4")]);
    let first = world.receive("billing", invisible_secs(30).batch(1)).one();
    assert_eq!(commit(&mut world, 2), moved(0, 2));
    assert_eq!(world.ack(&first.handle), Ok(()));
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["3", "4"]);
    world.advance_secs(30);
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["3", "4"]);
}

#[test]
fn a_commit_past_the_end_is_refused_and_one_before_the_first_message_means_the_first() {
    let mut world = World::new(1).topic_kept("orders", 1, Some(3_600_000)).group("billing", max_attempts(5));
    world.send_all("orders", &["a", "b"]);
    let (offset, min, max) = (QueueOffset(3), QueueOffset(0), QueueOffset(2));
    let refused = Output::Refused(Refused::OffsetOutOfRange { index: 0, offset, min, max });
    assert_eq!(commit(&mut world, 3), refused);
    world.advance_millis(2 * 3_600_000);
    world.send("orders", "c");
    assert!(matches!(commit(&mut world, 1), Output::Reset(moved) if moved[0].2 == QueueOffset(2)));
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["c"]);
}
