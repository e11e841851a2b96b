//! What queue-based members send back, and retries that go from one kind of member to the other.

use crate::world::queues::Puller;
use crate::world::*;
use martlet_model::{QueueOffset, TopicId};
use martlet_shard::PullStatus::{Found, NothingNew};
use martlet_shard::SendBackDelay::{DeadLetter, Millis, Policy};
use martlet_shard::{Command, Output, Refused, SettleError};

/// A queue with so many messages, named by their offsets, a member that pulls it, and the same one pulling retries.
fn world(messages: u64) -> (World, Puller, Puller) {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(3));
    for n in 0..messages {
        world.send("orders", &n.to_string());
    }
    let member = world.puller("billing", "orders", "a");
    let retries = world.retry_puller("billing", "a");
    (world, member, retries)
}

fn ok() -> Output {
    Output::Settled(Ok(()))
}

fn by_message(world: &mut World) -> Received {
    world.receive("billing", invisible_secs(30))
}

#[test]
fn what_is_sent_back_is_pulled_as_a_retry_when_it_is_due_and_settled_by_its_commit() {
    let (mut world, member, retries) = world(3);
    assert_eq!(world.pull(&member, 0).2, [0, 1, 2]);
    assert_eq!(world.pull(&retries, 0), (NothingNew, 0, vec![]));
    assert_eq!(world.send_back(&member, 1, Millis(10_000)), ok());
    assert!(world.commit(&member, 3));
    let waiting = world.begin_pull(&retries, 0, 20);
    world.advance_secs(9);
    assert_eq!(world.pulled(waiting), None);
    world.advance_secs(1);
    assert_eq!(world.pulled(waiting), Some((Found, 1, vec![0])));
    assert_eq!(world.retry(&retries, 0), (1, 1), "of offset 1, delivered once");
    assert!(world.commit(&retries, 1));
    world.crash();
    assert_eq!((world.stored(&member), world.stored(&retries)), (Some(3), Some(1)));
    world.member_gone(&member);
    world.advance_secs(60);
    assert_eq!(by_message(&mut world).len(), 0);
}

#[test]
fn a_retry_that_is_sent_back_counts_up_and_becomes_a_dead_letter_after_the_last_attempt() {
    let (mut world, member, retries) = world(1);
    world.pull(&member, 0);
    world.pull(&retries, 0);
    world.send_back(&member, 0, Millis(1_000));
    world.commit(&member, 1);
    world.advance_secs(1);
    assert_eq!(world.pull(&retries, 0).2, [0]);
    assert_eq!(world.send_back(&retries, 0, Policy), ok());
    world.commit(&retries, 1);
    world.advance_secs(60);
    assert_eq!(world.pull(&retries, 1), (Found, 2, vec![1]));
    assert_eq!(world.retry(&retries, 1), (0, 2));
    assert_eq!(world.send_back(&retries, 1, Policy), ok(), "the third delivery was the last");
    world.commit(&retries, 2);
    assert_eq!(world.progress_of("billing").1, 1);
    world.advance_secs(7_200);
    assert_eq!(world.pull(&retries, 2), (NothingNew, 2, vec![]));
}

#[test]
fn a_member_may_allow_fewer_attempts_than_the_group_or_none() {
    let (mut world, member, _) = world(2);
    world.pull(&member, 0);
    let last = |world: &mut World, offset| world.send_back_at_most(&member, offset, Policy, Some(1));
    assert_eq!(last(&mut world, 0), ok());
    assert_eq!(world.send_back(&member, 1, DeadLetter), ok());
    assert_eq!(world.progress_of("billing").1, 2);
    assert!(world.commit(&member, 2));
}

#[test]
fn what_is_not_there_or_not_the_groups_is_not_taken_back() {
    let (mut world, member, _) = world(1);
    let gone = Output::Settled(Err(SettleError::Gone));
    assert_eq!(world.send_back(&member, 1, Policy), gone);
    world.make_group("audit", max_attempts(3));
    let others = world.retry_puller("audit", "x");
    world.pull(&others, 0);
    let foreign = Puller { group: "billing", ..others };
    assert_eq!(world.send_back(&foreign, 0, Policy), gone);
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(3).in_order());
    world.send("orders", "0");
    let member = world.puller("billing", "orders", "a");
    world.pull(&member, 0);
    assert_eq!(world.send_back(&member, 0, Policy), Output::Refused(Refused::InOrder));
}

#[test]
fn a_crash_between_sending_back_and_committing_loses_nothing() {
    let (mut world, member, retries) = world(4);
    world.pull(&member, 0);
    world.pull(&retries, 0);
    assert_eq!(world.send_back(&member, 2, Millis(10_000)), ok());
    world.crash();
    // Nobody has committed: all but what waits is pulled again.
    assert_eq!(world.stored(&member), Some(0));
    assert_eq!(world.pull(&member, 0).2, [0, 1, 3]);
    world.pull(&retries, 0);
    world.commit(&member, 4);
    world.advance_secs(10);
    assert_eq!(world.pull(&retries, 0).2, [0]);
    assert_eq!(world.retry(&retries, 0), (2, 1));
    // A retry is sent back, and the crash comes before the retry queue's commit.
    assert_eq!(world.send_back(&retries, 0, Millis(10_000)), ok());
    world.crash();
    assert_eq!(world.pull(&member, 4), (NothingNew, 4, vec![]));
    assert_eq!(world.stored(&retries), Some(1), "it was settled by the send-back");
    world.pull(&retries, 1);
    world.advance_secs(10);
    assert_eq!(world.pull(&retries, 1).2, [1]);
    assert_eq!(world.retry(&retries, 1), (2, 2));
}

#[test]
fn a_member_that_goes_on_after_a_crash_and_sends_back_late_loses_nothing() {
    let (mut world, member, retries) = world(4);
    world.pull(&member, 0);
    world.pull(&retries, 0);
    world.crash();
    assert_eq!(world.send_back(&member, 3, Millis(1_000)), ok());
    assert_eq!(world.pull(&member, 4), (NothingNew, 4, vec![]));
    assert!(world.commit(&member, 4));
    // The shard cannot know that the member has 0 to 2: they come again.
    world.advance_secs(1);
    let again = world.begin_pull(&retries, 0, 20);
    world.settle();
    let (_, _, again) = world.pulled(again).unwrap();
    let mut offsets: Vec<u64> = again.iter().map(|&place| world.retry(&retries, place).0).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 1, 2, 3]);
}

#[test]
fn what_lapses_of_message_based_members_becomes_a_retry_of_the_queues_owner() {
    let (mut world, member, retries) = world(2);
    by_message(&mut world);
    assert_eq!(world.stored(&member), Some(2));
    world.pull(&member, 2);
    world.pull(&retries, 0);
    world.advance_secs(20);
    world.pull(&member, 2);
    world.pull(&retries, 0);
    world.advance_secs(10);
    assert_eq!(world.pull(&retries, 0).2, [0, 1]);
    assert_eq!(world.retry(&retries, 1), (1, 1));
    world.commit(&retries, 2);
    world.member_gone(&member);
    world.advance_secs(60);
    assert_eq!(by_message(&mut world).len(), 0);
}

#[test]
fn what_a_message_based_member_gives_back_unseen_behind_the_owner_becomes_a_retry() {
    let (mut world, member, retries) = world(2);
    let got = world.receive("billing", invisible_secs(30).batch(1).without_waiting()).one();
    world.pull(&member, 1);
    world.pull(&retries, 0);
    world.undo(&got.handle);
    world.commit(&member, 2);
    assert_eq!(world.pull(&retries, 0).2, [0]);
    assert_eq!(world.retry(&retries, 0), (0, 0), "nobody has seen it");
}

#[test]
fn the_owners_commit_does_not_settle_what_was_given_back_unseen_behind_it() {
    let (mut world, member, _) = world(3);
    let got = world.receive("billing", invisible_secs(30).batch(1).without_waiting()).one();
    // It begins where the message in flight is, and passes over it.
    assert_eq!(world.pull(&member, 0).2, [1, 2]);
    world.undo(&got.handle);
    assert!(world.commit(&member, 3));
    assert_eq!(by_message(&mut world).bodies(), ["0"], "nobody pulls retries");
}

#[test]
fn retries_that_wait_when_queue_based_members_leave_are_handed_out_by_message() {
    let (mut world, member, retries) = world(3);
    world.pull(&member, 0);
    world.pull(&retries, 0);
    world.send_back(&member, 0, Millis(1_000));
    world.send_back(&member, 1, Millis(30_000));
    world.commit(&member, 3);
    world.advance_secs(1);
    assert_eq!(world.pull(&retries, 0).2, [0], "pulled, and never committed");
    let poll = world.poll("billing", invisible_secs(30).wait_secs(100));
    world.member_gone(&member);
    let got = world.received(poll).unwrap().one();
    assert_eq!((got.body.as_str(), got.attempt), ("0", 2));
    world.ack(&got.handle).unwrap();
    world.crash();
    world.advance_secs(30);
    let got = by_message(&mut world).one();
    assert_eq!((got.body.as_str(), got.attempt), ("1", 2), "the one that waited");
    world.ack(&got.handle).unwrap();
    assert_eq!(world.progress_of("billing").0.iter().map(|figures| figures.waiting_retry).sum::<u64>(), 0);
    assert_eq!(world.pull(&retries, 1), (NothingNew, 1, vec![]));
}

#[test]
fn a_reference_that_was_handed_back_is_not_pulled_again() {
    let (mut world, member, retries) = world(1);
    world.pull(&member, 0);
    world.pull(&retries, 0);
    world.send_back(&member, 0, Millis(1_000));
    world.commit(&member, 1);
    world.advance_secs(1);
    world.member_gone(&member);
    let got = by_message(&mut world).one();
    world.crash();
    assert_eq!(world.pull(&retries, 0).2, Vec::<u64>::new());
    world.ack(&got.handle).unwrap();
}

#[test]
fn retries_of_an_owned_queue_go_by_message_while_nobody_pulls_retries() {
    let (mut world, member, _) = world(2);
    world.pull(&member, 0);
    world.send_back(&member, 0, Millis(1_000));
    world.commit(&member, 1);
    world.advance_secs(1);
    let got = by_message(&mut world).one();
    assert_eq!((got.body.as_str(), got.attempt), ("0", 2), "and 1 stays with the owner");
}

#[test]
fn retries_that_came_due_before_anybody_pulled_them_are_there_for_the_first_who_does() {
    let (mut world, member, retries) = world(2);
    world.pull(&member, 0);
    world.send_back(&member, 0, Millis(1_000));
    world.commit(&member, 2);
    world.advance_secs(5);
    let waiting = world.begin_pull(&retries, 0, 20);
    world.settle();
    assert_eq!(world.pulled(waiting), Some((Found, 1, vec![0])));
    assert_eq!(world.retry(&retries, 0), (0, 1));
}

#[test]
fn a_retry_is_dropped_with_its_message_and_its_group() {
    let mut world = World::new(1).topic_kept("orders", 1, Some(64_000)).group("billing", max_attempts(3));
    world.send("orders", "0");
    let (member, retries) = (world.puller("billing", "orders", "a"), world.retry_puller("billing", "a"));
    world.pull(&member, 0);
    world.pull(&retries, 0);
    world.send_back(&member, 0, Millis(1_000));
    world.commit(&member, 1);
    world.advance_secs(2);
    world.advance_secs(80);
    assert_eq!(world.queues_of("orders")[0].min, QueueOffset(1));
    world.member_gone(&member);
    assert_eq!(by_message(&mut world).len(), 0, "retention has taken it");
    let topic = TopicId::retries_of(world.group_id("billing"));
    world.drop_group("billing");
    let describe = world.ask(|token| Command::DescribeTopic { topic, token });
    assert_eq!(describe, Output::Refused(Refused::TopicGone));
}
