//! The end of a message's attempts.

use crate::world::*;
use martlet_model::record::{self, Field};
use martlet_shard::SettleError;
use martlet_store::{Op, Reader};

fn exhaust(world: &mut World, group: &str, attempts: u32) -> Delivery {
    let mut last = None;
    for attempt in 1..=attempts {
        let delivery = world.receive(group, invisible_secs(30)).one();
        assert_eq!(delivery.attempt, attempt);
        world.advance_secs(30);
        last = Some(delivery);
    }
    assert_eq!(world.receive(group, invisible_secs(30)).len(), 0, "there is no attempt more");
    last.unwrap()
}

#[test]
fn after_its_last_attempt_a_message_is_a_dead_letter_once_with_origin_and_id() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(2));
    world.send("orders", "a");
    let last = exhaust(&mut world, "billing", 2);
    assert_eq!(world.ack(&last.handle), Ok(()), "settled by the move");
    assert_eq!(world.progress_of("billing").1, 1);
    assert_eq!(world.shard().shard().counters().dead_letters, 1);

    let dead = invisible_secs(30).dead_letters_of(world.group_id("billing"));
    let copy = world.receive("billing", dead.clone()).one();
    assert_eq!((copy.body.as_str(), copy.attempt), ("a", 1));
    let (queue, offset) = (copy.hand_out.queue, copy.hand_out.offset);
    let stored = at_once(world.reader().messages(queue, offset..offset.next(), 1, 1)).unwrap().pop().unwrap();
    let fields: Vec<_> = record::fields(&stored.record).map(Result::unwrap).collect();
    assert!(fields.contains(&Field::DeadLetterTopic("orders")) && fields.contains(&Field::DeadLetterMessageId("a")));
    world.ack(&copy.handle).unwrap();
    assert_eq!(world.receive("billing", dead).len(), 0);
}

#[test]
fn copy_and_settling_are_one_batch() {
    let mut world = World::new(2).topic("orders", 1).group("billing", max_attempts(1));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    let before = world.store().batches().len();
    world.forward_to_dead_letters(&first.handle).unwrap();
    let with_copy: Vec<_> = world.store().batches()[before..]
        .iter()
        .filter(|batch| batch.ops.iter().any(|op| matches!(op, Op::Append { .. })))
        .collect();
    assert_eq!(with_copy.len(), 1);
    assert!(with_copy[0].ops.iter().any(|op| matches!(op, Op::Delta { .. } | Op::Put { .. } | Op::Remove { .. })));
}

#[test]
fn a_message_can_be_sent_to_the_dead_letters_at_once() {
    let mut world = World::new(3).topic("orders", 1).group("billing", max_attempts(16));
    world.send_all("orders", &["a", "b"]);
    let received = world.receive("billing", invisible_secs(30));
    assert_eq!(world.forward_to_dead_letters(&received.0[0].handle), Ok(()));
    assert_eq!(world.forward_to_dead_letters(&received.0[0].handle), Ok(()), "twice is as good as once");
    assert_eq!(world.progress_of("billing").1, 1);
    world.advance_secs(30);
    assert_eq!(world.receive("billing", invisible_secs(30)).one().body, "b");
    let stale = world.forward_to_dead_letters(&received.0[1].handle);
    assert_eq!(stale, Err(AckError::Settle(SettleError::Superseded)));
}

#[test]
fn a_group_may_name_its_dead_letter_topic_and_a_missing_one_falls_back() {
    let mut world = World::new(4)
        .topic("orders", 1)
        .topic("failed", 1)
        .group("billing", max_attempts(1).dead_letters_into("failed"))
        .group("shipping", max_attempts(1).dead_letters_into("nowhere"))
        .group("audit", max_attempts(1));
    world.send("orders", "a");
    exhaust(&mut world, "billing", 1);
    exhaust(&mut world, "shipping", 1);
    assert_eq!(world.progress_of("billing").1, 0);
    let failed = world.topic_id("failed");
    assert_eq!(world.receive("audit", invisible_secs(30).from(failed)).one().body, "a");
    assert_eq!(world.progress_of("shipping").1, 1);
}

#[test]
fn a_dead_letter_topic_deleted_while_the_letter_is_under_way_falls_back_as_well() {
    let mut world = World::new(5)
        .topic("orders", 1)
        .topic("failed", 1)
        .group("billing", max_attempts(1).dead_letters_into("failed"));
    world.send("orders", "a");
    world.receive("billing", invisible_secs(30)).one();
    world.holds_loads = true;
    world.advance_secs(30);
    world.drop_topic("failed");
    world.holds_loads = false;
    world.advance_secs(60);
    assert_eq!(world.progress_of("billing").1, 1);
}

#[test]
fn a_group_may_discard_instead() {
    let mut world = World::new(6).topic("orders", 1).group("billing", max_attempts(2).discarding());
    world.send("orders", "a");
    exhaust(&mut world, "billing", 2);
    assert_eq!(world.progress_of("billing").1, 0);
    assert_eq!(world.progress_of("billing").0[0].committed.0, 1);
    assert_eq!(world.shard().shard().counters().discarded, 1);
}

#[test]
fn a_dead_letter_that_finds_no_room_or_cannot_be_read_is_moved_later() {
    let mut world = World::new(7).topic("orders", 1).group("billing", max_attempts(1));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    world.store().full = true;
    assert!(matches!(world.forward_to_dead_letters(&first.handle), Err(AckError::Refused(_))));
    world.store().full = false;
    world.store().fail_reads(true);
    world.advance_secs(60);
    assert_eq!(world.shard().shard().counters().dead_letters, 0);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0, "it had its attempt");
    world.store().fail_reads(false);
    world.advance_secs(60);
    assert_eq!(world.shard().shard().counters().dead_letters, 1);
}

#[test]
fn a_dead_letter_whose_target_queue_cannot_be_read_is_not_stuck() {
    let mut world = World::new(8).topic("orders", 1).group("billing", max_attempts(1));
    world.send("orders", "a");
    world.receive("billing", invisible_secs(30)).one();
    world.crash();
    world.receive("billing", invisible_secs(30));
    world.holds_loads = true;
    world.advance_secs(30);
    world.store().fail_reads(true);
    world.holds_loads = false;
    world.settle();
    world.store().fail_reads(false);
    world.advance_secs(60);
    assert_eq!(world.progress_of("billing").1, 1);
}

#[test]
fn a_client_that_goes_while_its_message_moves_to_the_dead_letters_brings_nothing_back() {
    let mut world = World::new(20).topic("orders", 1).group("billing", max_attempts(16));
    world.send("orders", "a");
    let held = world.receive("billing", auto_renew(7)).one();
    let handle = world.decode(&held.handle).unwrap();
    let client = martlet_shard::ClientNumber(7);
    world.turn([
        martlet_shard::Command::DeadLetter { handle, token: u64::MAX },
        martlet_shard::Command::ClientGone { client },
    ]);
    world.settle();
    assert_eq!(world.answer_to(u64::MAX), Some(martlet_shard::Output::Settled(Ok(()))));
    assert_eq!(world.progress_of("billing").1, 1);
    assert_eq!(world.shard().shard().counters().messages_out, 1);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
}
