//! Queue-based members: pulls, commits, locks, and queues that change between them and message-based members.

use crate::world::queues::Puller;
use crate::world::*;
use martlet_model::QueueOffset;
use martlet_shard::PullStatus::{Found, Moved, NoMatch, NothingNew};
use martlet_shard::{Command, Output, Refused, ResetTarget};

/// A queue with so many messages, named by their offsets, and two members that may pull it.
fn world(messages: u64) -> (World, Puller, Puller) {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(5));
    for n in 0..messages {
        world.send("orders", &n.to_string());
    }
    let (a, b) = (world.puller("billing", "orders", "a"), world.puller("billing", "orders", "b"));
    (world, a, b)
}

fn by_message(world: &mut World) -> Received {
    world.receive("billing", invisible_secs(30).without_waiting())
}

#[test]
fn a_member_pulls_in_order_from_its_place_on_and_what_it_committed_is_where_the_next_one_begins() {
    let (mut world, a, b) = world(40);
    assert_eq!(world.stored(&a), None, "the group has not been there");
    assert_eq!(world.pull(&a, 0), (Found, 32, (0..32).collect()));
    assert_eq!(world.pull(&a, 32), (Found, 40, (32..40).collect()));
    assert_eq!(world.pull(&a, 40), (NothingNew, 40, vec![]));
    assert!(world.commit(&a, 35));
    world.crash();
    assert_eq!(world.stored(&b), Some(35));
    assert_eq!(world.pull(&b, 35), (Found, 40, (35..40).collect()));
}

#[test]
fn nobody_has_the_first_messages_of_a_group_before_its_beginning_is_durable() {
    let (mut world, a, b) = world(40);
    world.hold_syncs();
    let first = world.begin_pull(&a, 0, 0);
    world.settle();
    assert_eq!(world.answer_to(first), None);
    world.sync();
    assert!(matches!(world.answer_to(first), Some(Output::Pulled(pulled)) if pulled.next == QueueOffset(32)));
    // The member goes on behind what it has, and is gone before it has settled any of that.
    world.crash();
    assert_eq!(world.pull(&a, 32), (Found, 40, (32..40).collect()));
    world.crash();
    assert_eq!(world.stored(&b), Some(0));
}

#[test]
fn a_commit_that_promises_nothing_counts_at_once_and_a_crash_may_take_it_back() {
    let (mut world, a, _) = world(40);
    world.pull(&a, 0);
    world.commit(&a, 5);
    world.hold_syncs();
    let commit = world.commit_unpromised(&a, 20);
    world.settle();
    assert_eq!(world.answer_to(commit), Some(Output::Committed(true)));
    world.crash();
    let stored = world.stored(&a);
    assert!(matches!(stored, Some(5 | 20)), "{stored:?}");
    world.pull(&a, 5);
    let commit = world.commit_unpromised(&a, 30);
    world.settle();
    assert_eq!(world.answer_to(commit), Some(Output::Committed(true)));
    world.crash();
    assert_eq!(world.stored(&a), Some(30), "it was durable in time");
}

#[test]
fn a_pull_waits_for_a_durable_message_or_the_end_of_its_time_and_keeps_the_queue_meanwhile() {
    let (mut world, a, _) = world(1);
    let waiting = world.begin_pull(&a, 1, 20);
    world.settle();
    world.hold_syncs();
    world.begin_send("orders", &["b"], None);
    world.settle();
    assert_eq!(world.pulled(waiting), None);
    world.sync();
    assert_eq!(world.pulled(waiting), Some((Found, 2, vec![1])));
    let in_vain = world.begin_pull(&a, 2, 20);
    world.advance_secs(19);
    assert_eq!(world.pulled(in_vain), None);
    world.advance_secs(1);
    assert_eq!(world.pulled(in_vain), Some((NothingNew, 2, vec![])));
    assert_eq!(world.shard().shard().sizes().0, 0);
    assert_eq!(by_message(&mut world).len(), 0, "the queue is a's");
}

#[test]
fn a_group_begins_where_its_first_member_does() {
    let (mut world, a, b) = world(10);
    assert_eq!(world.pull(&a, 7), (Found, 10, vec![7, 8, 9]));
    world.crash();
    assert_eq!(world.stored(&b), Some(7), "nothing was committed, and the group has been there");
    assert_eq!(world.progress_of("billing").0[0].ready, 3);
}

#[test]
fn places_outside_of_the_queue_are_answered_with_where_to_go() {
    let (mut world, a, _) = world(3);
    assert_eq!(world.pull(&a, 9), (Moved, 3, vec![]));
    assert_eq!(world.pull(&a, 3), (NothingNew, 3, vec![]));
    let beyond =
        Refused::OffsetOutOfRange { index: 0, offset: QueueOffset(4), min: QueueOffset(0), max: QueueOffset(3) };
    assert_eq!(world.commit_as(&a, Some("a".into()), 4), Output::Refused(beyond));
    world.send("orders", "3");
    assert_eq!(world.pull(&a, 3), (Found, 4, vec![3]), "a commit beyond the end settles nothing to come");
}

#[test]
fn pulls_below_what_retention_took_are_moved_to_the_first_message_there_is() {
    let mut world = World::new(1).topic_kept("orders", 1, Some(64_000)).group("billing", max_attempts(5));
    let a = world.puller("billing", "orders", "a");
    world.send_all("orders", &["0", "1"]);
    assert_eq!(world.pull(&a, 0), (Found, 2, vec![0, 1]));
    world.advance_secs(80);
    world.send("orders", "2");
    world.settle();
    assert_eq!(world.pull(&a, 1), (Moved, 2, vec![]));
    assert_eq!(world.pull(&a, 2), (Found, 3, vec![2]));
    assert!(world.commit(&a, 3));
}

#[test]
fn a_queue_that_a_member_pulls_is_not_handed_out_by_message_until_it_stops() {
    let (mut world, a, _) = world(4);
    assert_eq!(world.pull(&a, 0).2, [0, 1, 2, 3]);
    assert!(world.commit(&a, 2));
    let poll = world.poll("billing", invisible_secs(30).wait_secs(120));
    world.advance_secs(39);
    assert!(world.received(poll).is_none());
    world.advance_secs(2);
    assert_eq!(world.received(poll).unwrap().bodies(), ["2", "3"], "the lease is over");
    world.pull(&a, 4);
    world.send("orders", "4");
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(poll).is_none());
    world.member_gone(&a);
    assert_eq!(world.received(poll).unwrap().bodies(), ["4"], "it left");
}

#[test]
fn a_member_passes_over_what_others_have_in_flight_or_settled() {
    let (mut world, a, _) = world(3);
    let got = world.receive("billing", invisible_secs(30).batch(2).without_waiting());
    world.ack(&got.0[1].handle).unwrap();
    assert_eq!(world.stored(&a), Some(2));
    assert_eq!(world.pull(&a, 0), (Found, 3, vec![2]), "0 is in flight, 1 is settled");
    assert!(world.commit(&a, 3));
    world.ack(&got.0[0].handle).unwrap();
    assert_eq!(world.progress_of("billing").0[0].committed.0, 3);
}

#[test]
fn a_commit_leaves_what_others_have_in_flight() {
    let (mut world, a, _) = world(3);
    world.receive("billing", invisible_secs(30).batch(1).without_waiting()).one();
    assert_eq!(world.pull(&a, 1).2, [1, 2]);
    assert!(world.commit(&a, 3));
    world.member_gone(&a);
    world.advance_secs(31);
    assert_eq!(by_message(&mut world).bodies(), ["0"], "it lapsed and is there again");
}

#[test]
fn passing_over_what_is_not_durably_settled_waits() {
    let (mut world, a, _) = world(3);
    let got = by_message(&mut world);
    world.hold_syncs();
    let handles: Vec<_> = got.0.iter().map(|delivery| world.decode(&delivery.handle).unwrap()).collect();
    world.begin(|token| Command::Ack { handles, token });
    world.settle();
    let pull = world.begin_pull(&a, 0, 0);
    world.settle();
    assert_eq!(world.pulled(pull), None, "the acks may be lost yet");
    world.crash();
    assert_eq!(world.stored(&a), Some(3), "in flight until they lapse");
    world.member_gone(&a);
    world.advance_secs(31);
    assert_eq!(by_message(&mut world).bodies(), ["0", "1", "2"]);
}

#[test]
fn a_gap_is_told_once_it_is_durable() {
    let (mut world, a, _) = world(3);
    let got = by_message(&mut world);
    world.hold_syncs();
    let handles: Vec<_> = got.0.iter().map(|delivery| world.decode(&delivery.handle).unwrap()).collect();
    world.begin(|token| Command::Ack { handles, token });
    let pull = world.begin_pull(&a, 0, 0);
    world.settle();
    assert_eq!(world.pulled(pull), None);
    world.sync();
    assert_eq!(world.pulled(pull), Some((NoMatch, 3, vec![])));
}

#[test]
fn a_late_commit_of_a_member_that_lost_the_queue_settles_nothing() {
    let (mut world, a, b) = world(4);
    world.pull(&a, 0);
    world.advance_secs(41);
    let got = world.receive("billing", invisible_secs(30).batch(1).without_waiting()).one();
    assert!(!world.commit(&a, 4), "messages were handed out since");
    assert_eq!(by_message(&mut world).bodies(), ["1", "2", "3"]);
    world.ack(&got.handle).unwrap();
    // The same among queue-based members.
    world.pull(&a, 4);
    world.send_all("orders", &["4", "5"]);
    world.pull(&a, 4);
    assert_eq!(world.pull(&b, 4).2, [4, 5]);
    assert!(!world.commit(&a, 6));
    assert_eq!(world.stored(&b), Some(4));
}

#[test]
fn a_slow_members_commit_counts_as_long_as_nobody_came_between() {
    let (mut world, a, b) = world(4);
    world.pull(&a, 0);
    world.advance_secs(120);
    assert!(world.commit(&a, 3));
    assert_eq!(world.stored(&b), Some(3));
    // But not of one that never pulled.
    assert!(!world.commit(&b, 4));
}

#[test]
fn nothing_comes_between_asking_for_the_offset_and_the_pull_from_there() {
    let (mut world, a, b) = world(4);
    world.pull(&a, 0);
    world.commit(&a, 2);
    world.member_gone(&a);
    assert_eq!(world.stored(&b), Some(2));
    assert_eq!(by_message(&mut world).len(), 0);
    assert_eq!(world.pull(&b, 2).2, [2, 3]);
}

#[test]
fn the_owner_may_go_back_and_commit_there_unless_others_hold_messages() {
    let (mut world, a, b) = world(4);
    world.pull(&a, 0);
    world.commit(&a, 4);
    assert!(!world.commit(&a, 1), "it did not go back");
    assert_eq!(world.pull(&a, 1), (Found, 4, vec![1, 2, 3]), "a seek reads again");
    assert!(world.commit(&a, 2));
    assert_eq!(world.stored(&b), Some(2));

    let (mut world, a, b) = self::world(4);
    let held = world.receive("billing", invisible_secs(300).batch(1).without_waiting()).one();
    world.pull(&a, 1);
    world.commit(&a, 4);
    assert_eq!(world.pull(&a, 0), (Found, 4, vec![1, 2, 3]), "0 is in flight");
    assert!(!world.commit(&a, 2), "somebody holds 0");
    assert_eq!(world.stored(&b), Some(4));
    world.ack(&held.handle).unwrap();
}

#[test]
fn asking_again_for_what_got_no_answer_is_not_going_back() {
    let (mut world, a, b) = world(4);
    world.pull(&b, 0);
    world.commit(&b, 4);
    assert_eq!(world.pull(&a, 0), (NoMatch, 4, vec![]), "b has settled them");
    assert_eq!(world.pull(&a, 0), (NoMatch, 4, vec![]), "the answer was lost on the way");
}

#[test]
fn a_member_that_lost_the_queue_and_comes_back_does_not_get_what_was_settled() {
    let (mut world, a, _) = world(4);
    world.pull(&a, 0);
    world.advance_secs(41);
    let got = by_message(&mut world);
    got.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    assert_eq!(world.pull(&a, 0), (NoMatch, 4, vec![]));
}

#[test]
fn an_administrators_reset_moves_the_owner_and_commits_until_then_do_not_count() {
    let (mut world, a, _) = world(6);
    world.pull(&a, 0);
    world.commit(&a, 4);
    let waiting = world.begin_pull(&a, 6, 20);
    world.settle();
    let (group, topic) = (world.group_id("billing"), world.topic_id("orders"));
    let targets = vec![(0, ResetTarget::Offset(QueueOffset(1)))];
    world.ask(|token| Command::Reset { group, topic, targets, token });
    assert_eq!(world.pulled(waiting), Some((Moved, 1, vec![])));
    assert_eq!(world.pull(&a, 1).2, [1, 2, 3, 4, 5]);
    assert!(world.commit(&a, 2));
    let targets = vec![(0, ResetTarget::Latest)];
    world.ask(|token| Command::Reset { group, topic, targets, token });
    assert!(!world.commit(&a, 3));
    assert_eq!(world.pull(&a, 6), (NothingNew, 6, vec![]), "it is there already");
}

#[test]
fn a_lock_keeps_other_members_out_for_a_minute_and_gives_the_queue() {
    let (mut world, a, b) = world(2);
    assert!(world.lock(&a) && !world.lock(&b));
    assert_eq!(by_message(&mut world).len(), 0);
    let waiting = world.begin_pull(&b, 0, 5);
    world.advance_secs(5);
    assert_eq!(world.pulled(waiting), Some((NothingNew, 0, vec![])), "a has it");
    world.advance_secs(54);
    assert!(world.lock(&a), "renewed");
    world.advance_secs(59);
    assert!(!world.lock(&b));
    world.advance_secs(2);
    assert!(world.lock(&b) && !world.lock(&a));
    world.unlock(&a);
    assert!(world.lock(&b), "not a's to unlock");
    world.unlock(&b);
    assert!(world.lock(&a));
    world.member_gone(&a);
    assert_eq!(by_message(&mut world).bodies(), ["0", "1"]);
}

#[test]
fn an_ordered_groups_queue_goes_over_where_nothing_is_in_flight() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(5).in_order());
    world.send_grouped("orders", &[("g", "0"), ("g", "1"), ("h", "2")]);
    let a = world.puller("billing", "orders", "a");
    let got = world.receive("billing", invisible_secs(30).one_of_each_message_group().batch(1).without_waiting()).one();
    assert_eq!(got.body, "0");
    assert_eq!(world.stored(&a), Some(0));
    assert_eq!(world.pull(&a, 0), (NothingNew, 0, vec![]), "0 is in flight");
    world.ack(&got.handle).unwrap();
    assert_eq!(world.stored(&a), Some(1));
    assert_eq!(world.pull(&a, 1), (Found, 3, vec![1, 2]));
    assert!(world.commit(&a, 2));
    world.member_gone(&a);
    assert_eq!(by_message(&mut world).bodies(), ["2"]);
}

#[test]
fn nothing_is_left_of_a_deleted_group_or_topic() {
    let (mut world, a, _) = world(2);
    let waiting = world.begin_pull(&a, 2, 20);
    world.settle();
    world.drop_group("billing");
    assert_eq!(world.answer_to(waiting), Some(Output::Refused(Refused::GroupGone)));
    world.make_group("billing", max_attempts(5));
    assert_eq!(world.pull(&a, 0).2, [0, 1]);
    let waiting = world.begin_pull(&a, 2, 20);
    world.settle();
    world.drop_topic("orders");
    assert_eq!(world.answer_to(waiting), Some(Output::Refused(Refused::TopicGone)));
}
