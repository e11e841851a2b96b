//! Transactions: unseen until committed, committed once, asked about, given up, ended truthfully; through crashes.

use crate::world::*;
use martlet_model::record::{self, Field};
use martlet_model::{TopicId, limits};
use martlet_shard::{
    Command, EndError, Half, HalfPlace, Output, Refused, ShardOptions, TopicFacts, TransactionCheck, Waiting, halves,
};

const SECOND: i64 = 1_000;
const HOUR: i64 = 3_600 * SECOND;
const DAY: i64 = 24 * HOUR;

fn world(seed: u64) -> World {
    World::new(seed).topic("orders", 2).group("billing", max_attempts(3))
}

fn begin_half(world: &mut World, body: &str, immunity: Option<i64>) -> u64 {
    world.begin_half("orders", message(body, None), immunity, false)
}

fn half(world: &mut World, body: &str) -> HalfPlace {
    half_immune(world, body, None)
}

fn half_immune(world: &mut World, body: &str, immunity: Option<i64>) -> HalfPlace {
    let (place, began) = world.send_half("orders", message(body, None), immunity, false);
    assert_eq!(began, world.now);
    place
}

fn begin_end(world: &mut World, place: HalfPlace, commit: bool) -> u64 {
    let topic = world.topic_id("orders");
    world.begin(|token| Command::EndTransaction { topic, place, commit, token })
}

fn end(world: &mut World, place: HalfPlace, commit: bool) -> Result<(), EndError> {
    let token = begin_end(world, place, commit);
    world.settle();
    match world.answer_to(token) {
        Some(Output::Ended(answer)) => answer,
        other => panic!("the end of a transaction was answered with {other:?}"),
    }
}

fn commit(world: &mut World, place: HalfPlace) -> Result<(), EndError> {
    end(world, place, true)
}

fn roll_back(world: &mut World, place: HalfPlace) -> Result<(), EndError> {
    end(world, place, false)
}

/// The checks since the last look; each reaches a producer.
fn checks(world: &mut World) -> Vec<TransactionCheck> {
    let checks = std::mem::take(&mut world.checks);
    for check in &checks {
        world.turn([Command::Checked { check: check.clone() }]);
    }
    world.settle();
    checks
}

fn waiting(world: &World) -> Waiting {
    let id = world.topic_id("orders");
    world.shard().shard().waiting().find(|(topic, _)| *topic == id).map_or(Waiting::default(), |(_, waiting)| waiting)
}

fn listed(world: &World) -> Vec<(HalfPlace, Half)> {
    at_once(halves(&world.reader(), None, 1_000)).unwrap()
}

/// Everything there is, acked.
fn take_all(world: &mut World) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let received = world.receive("billing", invisible_secs(30).batch(32));
        if received.len() == 0 {
            all.sort();
            return all;
        }
        for delivery in received.0 {
            world.ack(&delivery.handle).unwrap();
            all.push(delivery.body);
        }
    }
}

/// Keys of the store that transactions leave.
fn keys_left(world: &World) -> usize {
    use martlet_store::Reader as _;
    let range = bytes::Bytes::from_static(&[9])..bytes::Bytes::from_static(&[13]);
    at_once(world.reader().scan(range, 1_000)).unwrap().len()
}

#[test]
fn a_half_message_is_seen_by_nobody_until_it_is_committed() {
    let mut world = world(1);
    let place = half(&mut world, "order");
    assert_eq!(take_all(&mut world), [""; 0]);
    assert!(world.queues_of("orders").iter().all(|queue| queue.max.0 == 0));
    assert_eq!(waiting(&world), Waiting { halves: 1, ..Waiting::default() });
    let poll = world.poll("billing", invisible_secs(30));
    assert_eq!(commit(&mut world, place), Ok(()));
    let delivery = world.received(poll).expect("a waiting poll is served by the commit").one();
    assert_eq!((delivery.body.as_str(), delivery.attempt), ("order", 1));
    assert_eq!(waiting(&world), Waiting::default());
}

#[test]
fn committing_twice_is_ok_and_delivers_once() {
    let mut world = world(2);
    let place = half(&mut world, "order");
    let ends: Vec<u64> = (0..3).map(|_| begin_end(&mut world, place, true)).collect();
    world.settle();
    for end in ends {
        assert_eq!(world.answer_to(end), Some(Output::Ended(Ok(()))));
    }
    world.crash();
    assert_eq!(commit(&mut world, place), Ok(()));
    assert_eq!(take_all(&mut world), ["order"]);
}

#[test]
fn a_commit_after_a_rollback_and_a_rollback_after_a_commit_are_refused_truthfully() {
    let mut world = world(3);
    let (committed, rolled_back) = (half(&mut world, "committed"), half(&mut world, "rolled back"));
    assert_eq!(commit(&mut world, committed), Ok(()));
    assert_eq!(roll_back(&mut world, rolled_back), Ok(()));
    for _ in 0..2 {
        assert_eq!(roll_back(&mut world, committed), Err(EndError::Ended { committed: true }));
        assert_eq!(commit(&mut world, rolled_back), Err(EndError::Ended { committed: false }));
        assert_eq!(roll_back(&mut world, rolled_back), Ok(()));
        world.crash();
    }
    assert_eq!(take_all(&mut world), ["committed"]);
    let never = HalfPlace { offset: martlet_model::QueueOffset(99), ..committed };
    assert_eq!(commit(&mut world, never), Err(EndError::Unknown));
}

#[test]
fn of_two_opposite_ends_at_once_the_first_counts() {
    let mut world = world(4);
    let place = half(&mut world, "order");
    let (topic, token) = (world.topic_id("orders"), 1_000_000);
    let end = |commit, token| Command::EndTransaction { topic, place, commit, token };
    // The second arrives while the first reads what there is.
    world.turn([end(false, token), end(true, token + 1)]);
    world.turn([end(true, token + 2)]);
    world.settle();
    assert_eq!(world.answer_to(token), Some(Output::Ended(Ok(()))));
    for late in [token + 1, token + 2] {
        assert_eq!(world.answer_to(late), Some(Output::Ended(Err(EndError::Ended { committed: false }))));
    }
    // The message was not read for the rollback, and is for the commit behind it.
    let place = half(&mut world, "second");
    let end = |commit, token| Command::EndTransaction { topic, place, commit, token };
    let due = world.now.plus(limits::TRANSACTION_IMMUNITY_MILLIS);
    let check = TransactionCheck { topic, place, began: world.now, due, number: 1, polled: false };
    world.turn([Command::Checked { check }]);
    world.turn([end(true, token + 3)]);
    world.settle();
    assert_eq!(world.answer_to(token + 3), Some(Output::Ended(Ok(()))));
    assert_eq!(take_all(&mut world), ["second"]);
}

#[test]
fn an_end_is_answered_when_it_is_durable_and_what_a_crash_took_can_be_ended_again() {
    let mut world = world(5);
    let place = half(&mut world, "order");
    world.hold_syncs();
    let unanswered = begin_end(&mut world, place, true);
    for _ in 0..5 {
        world.turn([]);
    }
    assert_eq!(world.answer_to(unanswered), None);
    assert_eq!(take_all(&mut world), [""; 0], "nobody is handed what is not durable");
    world.crash();
    assert_eq!(take_all(&mut world), [""; 0]);
    assert_eq!(roll_back(&mut world, place), Ok(()));
    assert_eq!(take_all(&mut world), [""; 0]);
    world.hold_syncs();
    let lost = begin_half(&mut world, "lost", None);
    world.turn([]);
    assert_eq!(world.answer_to(lost), None);
    world.crash();
    assert_eq!((listed(&world).len(), waiting(&world)), (0, Waiting::default()));
}

#[test]
fn checks_begin_after_the_immunity_come_at_the_interval_and_end_in_giving_up() {
    let mut world = world(6);
    let place = half(&mut world, "order");
    world.advance_millis(5_999);
    assert_eq!(checks(&mut world), []);
    world.advance_millis(1);
    for number in 1..=15 {
        let found = checks(&mut world);
        assert_eq!(found.len(), 1, "check {number}");
        assert_eq!((found[0].place, found[0].number), (place, number));
        world.advance_millis(29_999);
        assert_eq!(checks(&mut world), []);
        world.advance_millis(1);
    }
    assert_eq!(checks(&mut world), [], "the last one was the fifteenth");
    assert_eq!(waiting(&world), Waiting { halves: 1, given_up: 1, delayed: 0 });
    let given_up = &listed(&world)[0].1;
    assert!(given_up.given_up && given_up.checks == 15 && given_up.message_id == "order", "{given_up:?}");
    world.advance_millis(HOUR);
    world.crash();
    assert_eq!((checks(&mut world), take_all(&mut world)), (vec![], vec![]));
    // Whoever knows can end it still.
    assert_eq!(commit(&mut world, place), Ok(()));
    assert_eq!((take_all(&mut world), waiting(&world)), (vec!["order".into()], Waiting::default()));
}

#[test]
fn a_message_may_ask_for_its_own_immunity_which_costs_it_no_checks() {
    let mut world = world(7);
    let place = half_immune(&mut world, "slow", Some(HOUR));
    half_immune(&mut world, "fast", Some(0));
    assert_eq!(checks(&mut world).len(), 1);
    world.advance_millis(HOUR - 1);
    assert!(checks(&mut world).iter().all(|check| check.place != place));
    world.advance_millis(1);
    let found: Vec<_> = checks(&mut world).into_iter().filter(|check| check.place == place).collect();
    assert_eq!((found.len(), found[0].number), (1, 1), "none was used up before");
    assert_eq!(commit(&mut world, place), Ok(()), "an end after the immunity is as good as one before");
}

#[test]
fn a_check_that_reached_no_producer_is_not_counted() {
    let mut world = world(8);
    half(&mut world, "order");
    for _ in 0..100 {
        world.advance_millis(30 * SECOND);
        let unsent = std::mem::take(&mut world.checks);
        assert!(unsent.iter().all(|check| check.number == 1) && unsent.len() == 1, "{unsent:?}");
    }
    world.crash();
    world.advance_millis(30 * SECOND);
    assert_eq!(checks(&mut world)[0].number, 1);
    world.advance_millis(30 * SECOND);
    let second = checks(&mut world).remove(0);
    assert_eq!(second.number, 2);
    // What is told too late, or twice, does not count again.
    world.advance_millis(30 * SECOND);
    world.turn([Command::Checked { check: second }]);
    world.settle();
    assert_eq!(listed(&world)[0].1.checks, 2);
}

#[test]
fn a_check_leaves_when_its_batch_is_durable_and_comes_again_if_a_crash_took_it() {
    let mut world = world(9);
    half(&mut world, "order");
    world.hold_syncs();
    world.advance_millis(6 * SECOND);
    assert_eq!(world.checks, []);
    world.crash();
    assert_eq!(checks(&mut world).len(), 1);
    // Overdue after a restart: at once.
    let place = half(&mut world, "second");
    world.now = world.now.plus(HOUR);
    world.crash();
    assert!(checks(&mut world).iter().any(|check| check.place == place));
}

#[test]
fn no_check_is_made_of_a_transaction_that_ended() {
    let mut world = world(10);
    let (one, two) = (half(&mut world, "one"), half(&mut world, "two"));
    assert_eq!((commit(&mut world, one), roll_back(&mut world, two)), (Ok(()), Ok(())));
    let three = half(&mut world, "three");
    world.now = world.now.plus(6 * SECOND);
    // Due, and ended in the same turn.
    let end = begin_end(&mut world, three, true);
    world.settle();
    assert_eq!(world.answer_to(end), Some(Output::Ended(Ok(()))));
    world.advance_millis(HOUR);
    assert_eq!(checks(&mut world), []);
}

#[test]
fn retention_drops_what_nobody_ended_and_forgets_how_others_did() {
    let mut world = world(11);
    let kept = half(&mut world, "forgotten");
    let ended = half(&mut world, "ended");
    assert_eq!(commit(&mut world, ended), Ok(()));
    assert_eq!(take_all(&mut world), ["ended"]);
    world.advance_millis(3 * DAY - 1);
    assert_eq!((listed(&world).len(), roll_back(&mut world, ended)), (1, Err(EndError::Ended { committed: true })));
    world.pauses_deletion = true;
    world.advance_millis(1);
    assert_eq!(listed(&world).len(), 1, "the clock is not to be trusted");
    world.pauses_deletion = false;
    world.advance_millis(60 * SECOND);
    assert_eq!((listed(&world).len(), waiting(&world)), (0, Waiting::default()));
    assert_eq!(commit(&mut world, kept), Err(EndError::Unknown));
    assert_eq!(commit(&mut world, ended), Err(EndError::Unknown));
    assert_eq!(world.shard().shard().counters().halves_dropped, 1);
    assert_eq!(keys_left(&world), 0, "nothing is left of either");
    assert_eq!(take_all(&mut world), [""; 0]);
}

#[test]
fn a_bucket_goes_when_its_hour_is_over_and_all_in_it_have_ended() {
    let mut world = world(12);
    let first = half(&mut world, "first");
    world.advance_millis(HOUR);
    let second = half(&mut world, "second");
    assert_ne!(first.queue, second.queue);
    assert_eq!(roll_back(&mut world, second), Ok(()));
    world.crash();
    let reader = world.reader();
    let bounds = |queue| at_once(martlet_store::Reader::bounds(&reader, queue)).unwrap();
    assert!(bounds(first.queue).is_some() && bounds(second.queue).is_some());
    assert_eq!(commit(&mut world, first), Ok(()));
    world.advance_millis(HOUR);
    let reader = world.reader();
    let bounds = |queue| at_once(martlet_store::Reader::bounds(&reader, queue)).unwrap();
    assert!(bounds(first.queue).is_none() && bounds(second.queue).is_none());
    assert_eq!(take_all(&mut world), ["first"]);
    assert_eq!(commit(&mut world, first), Ok(()), "the outcome outlives the bucket");
}

#[test]
fn transactions_of_a_deleted_topic_go_with_it_and_the_new_one_knows_nothing_of_them() {
    let mut world = world(13);
    let (open, ended) = (half(&mut world, "open"), half(&mut world, "ended"));
    assert_eq!(commit(&mut world, ended), Ok(()));
    let old: TopicId = world.topic_id("orders");
    world.drop_topic("orders");
    let answer = world.ask(|token| Command::EndTransaction { topic: old, place: open, commit: true, token });
    assert_eq!(answer, Output::Refused(Refused::TopicGone));
    world.make_topic("orders", 1, None);
    assert_eq!(commit(&mut world, open), Err(EndError::Unknown));
    world.advance_millis(10 * SECOND);
    assert_eq!((checks(&mut world), listed(&world).len()), (vec![], 0));
    world.advance_millis(3 * DAY);
    assert_eq!(keys_left(&world), 0);
}

#[test]
fn a_transactional_message_with_a_time_waits_for_both() {
    let mut world = world(14);
    let at = world.now.plus(60 * SECOND).0;
    let mut send = |body: &str| {
        let record = record::with_fields(&message(body, None), &[Field::DeliveryTimestamp(at)]).unwrap();
        world.send_half("orders", record, None, false).0
    };
    let (early, late) = (send("early"), send("late"));
    assert_eq!(commit(&mut world, early), Ok(()));
    assert_eq!(take_all(&mut world), [""; 0]);
    world.crash();
    world.advance_millis(60 * SECOND);
    assert_eq!(take_all(&mut world), ["early"]);
    assert_eq!(commit(&mut world, late), Ok(()));
    assert_eq!(take_all(&mut world), ["late"], "its time has passed");
}

#[test]
fn committed_messages_of_a_message_group_come_in_the_order_of_their_commits() {
    let mut world = World::new(15).topic("orders", 4).group("billing", max_attempts(3).in_order());
    let mut places = Vec::new();
    for body in ["a", "b", "c"] {
        let record = record::with_fields(&message(body, None), &[Field::MessageGroup("customer")]).unwrap();
        places.push(world.send_half("orders", record, None, false).0);
    }
    for at in [2, 0, 1] {
        assert_eq!(commit(&mut world, places[at]), Ok(()));
    }
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["c", "a", "b"]);
}

#[test]
fn five_thousand_due_at_once_are_each_asked_about_once() {
    let mut world = world(16);
    let places: Vec<HalfPlace> = (0..5_000).map(|n| half(&mut world, &format!("{n}"))).collect();
    world.now = world.now.plus(10 * SECOND);
    world.crash();
    let mut asked: Vec<HalfPlace> = checks(&mut world).into_iter().map(|check| check.place).collect();
    asked.sort_unstable();
    assert_eq!(asked, places);
    for place in places {
        assert_eq!(roll_back(&mut world, place), Ok(()));
    }
    assert_eq!((waiting(&world), listed(&world).len()), (Waiting::default(), 0));
}

#[test]
fn random_transactions_and_crashes_lose_nothing_and_double_nothing() {
    for seed in 0..30u64 {
        let options = ShardOptions { resident_max: 4, transaction_checks_max: 3, ..ShardOptions::default() };
        let mut world = World::with(options).topic("orders", 2).group("billing", max_attempts(3));
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut all: Vec<(String, HalfPlace, Option<bool>)> = Vec::new();
        let mut came = Vec::new();
        for n in 0..300 {
            match next(10) {
                0..=3 => {
                    let body = format!("{n:03}");
                    let place = half_immune(&mut world, &body, Some(next(20_000) as i64));
                    all.push((body, place, None));
                }
                4..=6 if !all.is_empty() => {
                    let at = next(all.len() as u64) as usize;
                    let commit = next(3) > 0;
                    let answer = end(&mut world, all[at].1, commit);
                    let known = *all[at].2.get_or_insert(commit);
                    let expected = if known == commit { Ok(()) } else { Err(EndError::Ended { committed: known }) };
                    assert_eq!(answer, expected, "seed {seed}: {all:?}");
                }
                7 => world.crash(),
                8 => world.shard_mut().shard_mut().evict_clean(),
                _ => world.advance_millis(next(20 * SECOND as u64) as i64),
            }
            let open: Vec<HalfPlace> = all.iter().filter(|one| one.2.is_none()).map(|one| one.1).collect();
            let checks = checks(&mut world);
            assert!(
                checks.iter().all(|check| open.contains(&check.place) && check.number <= 3),
                "seed {seed}: {checks:?}"
            );
            came.extend(take_all(&mut world));
            let found: Vec<HalfPlace> = listed(&world).into_iter().map(|(place, _)| place).collect();
            assert_eq!((found.len(), waiting(&world).halves), (open.len(), open.len() as u64), "seed {seed}");
        }
        came.sort();
        let committed: Vec<String> =
            all.iter().filter(|one| one.2 == Some(true)).map(|(body, ..)| body.clone()).collect();
        assert_eq!(came, committed, "seed {seed}: each committed one comes once, and no other");
    }
}

#[test]
fn with_a_full_disk_no_half_message_is_taken_and_none_committed_but_a_rollback_is_good() {
    let mut world = world(17);
    let (one, two) = (half(&mut world, "one"), half(&mut world, "two"));
    world.store().full = true;
    let refused = |output| matches!(output, Some(Output::Refused(Refused::DiskFull { .. })));
    let tokens = [begin_half(&mut world, "three", None), begin_end(&mut world, one, true)];
    world.settle();
    for token in tokens {
        assert!(refused(world.answer_to(token)));
    }
    assert_eq!(roll_back(&mut world, two), Ok(()));
    world.advance_millis(10 * SECOND);
    assert_eq!(checks(&mut world).len(), 1, "the one that is left is asked about");
    world.store().full = false;
    assert_eq!(commit(&mut world, one), Ok(()));
    assert_eq!(take_all(&mut world), ["one"]);
}

#[test]
fn reads_that_fail_for_a_while_lose_no_transaction_and_no_check() {
    let mut world = world(18);
    let place = half(&mut world, "order");
    world.store().fail_reads(true);
    let token = begin_end(&mut world, place, true);
    world.settle();
    assert!(matches!(world.answer_to(token), Some(Output::Refused(Refused::ReadFailed(_)))));
    world.advance_millis(10 * SECOND);
    assert_eq!(checks(&mut world), []);
    world.store().fail_reads(false);
    world.advance_millis(2 * SECOND);
    assert_eq!(checks(&mut world).len(), 1);
    assert_eq!(commit(&mut world, place), Ok(()));
    assert_eq!(take_all(&mut world), ["order"]);
}

#[test]
fn a_topic_that_takes_no_messages_takes_no_commit_until_it_does_again() {
    let mut world = world(19);
    let place = half(&mut world, "order");
    let open = TopicFacts {
        deduplicate_millis: None,
        id: world.topic_id("orders"),
        name: "orders".into(),
        read_queues: 2,
        write_queues: 2,
        retention_millis: None,
        by_priority: false,
        lite: None,
    };
    let closed = TopicFacts { write_queues: 0, ..open.clone() };
    assert_eq!(world.ask(|token| Command::ApplyTopic { topic: closed, token }), Output::Done);
    let token = begin_end(&mut world, place, true);
    world.settle();
    assert_eq!(world.answer_to(token), Some(Output::Refused(Refused::NotWritable)));
    assert_eq!(world.ask(|token| Command::ApplyTopic { topic: open, token }), Output::Done);
    assert_eq!(commit(&mut world, place), Ok(()));
    assert_eq!(take_all(&mut world), ["order"]);
}
