//! Delayed messages: on time, once, through crashes; recalled truthfully; however many wait.

use crate::world::*;
use martlet_model::{GroupId, TopicId};
use martlet_shard::{Command, Incoming, LiteParent, Output, Placed, RecallError, Refused, Scheduled, TimerAt, Waiting};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

fn begin_schedule(world: &mut World, topic: &str, messages: &[(&str, i64)]) -> u64 {
    let id = world.topic_id(topic);
    let now = world.now;
    let messages = messages
        .iter()
        .map(|(body, millis)| Scheduled {
            message: Incoming { record: message(body, None), terms: Vec::new(), message_group: None, lite_topic: None },
            due: now.plus(*millis),
        })
        .collect();
    world.begin(|token| Command::Schedule { topic: id, messages, deadline: None, token })
}

fn schedule_all(world: &mut World, topic: &str, messages: &[(&str, i64)]) -> Vec<Placed> {
    let token = begin_schedule(world, topic, messages);
    world.settle();
    match world.answer_to(token) {
        Some(Output::Scheduled(placed)) => placed,
        other => panic!("delayed messages were answered with {other:?}"),
    }
}

fn schedule(world: &mut World, topic: &str, body: &str, millis: i64) -> TimerAt {
    match schedule_all(world, topic, &[(body, millis)])[..] {
        [Placed::Later(at)] => at,
        ref other => panic!("a delayed message came to lie at {other:?}"),
    }
}

fn recall(world: &mut World, topic: &str, at: TimerAt) -> Result<String, RecallError> {
    let topic = world.topic_id(topic);
    match world.ask(|token| Command::Recall { topic, at, token }) {
        Output::Recalled(answer) => answer,
        other => panic!("a recall was answered with {other:?}"),
    }
}

fn waiting(world: &World, topic: &str) -> u64 {
    let id = world.topic_id(topic);
    world.shard().shard().waiting().find(|(topic, _)| *topic == id).map_or(0, |(_, waiting)| waiting.delayed)
}

fn world(seed: u64) -> World {
    World::new(seed).topic("orders", 1).group("billing", max_attempts(3))
}

/// Everything there is, acked.
fn take_all(world: &mut World) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let received = world.receive("billing", invisible_secs(30).batch(32));
        if received.len() == 0 {
            return all;
        }
        for delivery in received.0 {
            world.ack(&delivery.handle).unwrap();
            all.push(delivery.body);
        }
    }
}

#[test]
fn a_delayed_message_comes_at_its_time_to_the_millisecond_and_never_before() {
    let mut world = world(1);
    schedule_all(&mut world, "orders", &[("in a minute", 60_000), ("in a second", 1_000), ("at once", -5)]);
    assert_eq!(take_all(&mut world), ["at once"]);
    world.advance_millis(999);
    assert_eq!(take_all(&mut world), [""; 0]);
    world.advance_millis(1);
    assert_eq!(take_all(&mut world), ["in a second"]);
    world.advance_millis(58_999);
    assert_eq!((take_all(&mut world).len(), waiting(&world, "orders")), (0, 1));
    world.advance_millis(1);
    assert_eq!((take_all(&mut world), waiting(&world, "orders")), (vec!["in a minute".to_owned()], 0));
    let counters = world.shard().shard().counters();
    assert_eq!((counters.timers_in, counters.timers_out, counters.lateness_sum), (2, 2, 0));
}

#[test]
fn a_waiting_poll_is_answered_when_the_message_is_due() {
    let mut world = world(2);
    schedule(&mut world, "orders", "a", 5_000);
    let poll = world.poll("billing", invisible_secs(30));
    world.advance_millis(4_999);
    assert!(world.received(poll).is_none());
    world.advance_millis(1);
    assert_eq!(world.received(poll).unwrap().one().body, "a");
}

#[test]
fn delayed_messages_survive_a_crash_and_overdue_ones_come_at_once_and_once() {
    let mut world = world(3);
    schedule_all(&mut world, "orders", &[("soon", 1_000), ("overdue", 10_000), ("in 40 days", 40 * DAY)]);
    world.advance_millis(1_000);
    assert_eq!(take_all(&mut world), ["soon"]);
    world.now = world.now.plus(3 * HOUR);
    world.crash();
    assert_eq!(take_all(&mut world), ["overdue"], "and nothing twice");
    assert_eq!(waiting(&world, "orders"), 1);
    // Longer than any message is kept: retention counts from the delivery time.
    world.advance_millis(40 * DAY - 3 * HOUR - 1_001);
    assert_eq!(take_all(&mut world), [""; 0]);
    world.advance_millis(1);
    assert_eq!(take_all(&mut world), ["in 40 days"]);
    world.advance_millis(DAY);
    assert_eq!(world.queues_of("orders")[0].min.0, 2, "it is kept for as long as any other from then on");
}

#[test]
fn what_was_not_durable_is_not_promised_and_what_fired_undurably_fires_again() {
    let mut world = world(4);
    schedule(&mut world, "orders", "kept", 1_000);
    world.hold_syncs();
    let unanswered = begin_schedule(&mut world, "orders", &[("lost", 1_000)]);
    world.turn([]);
    assert_eq!(world.answer_to(unanswered), None);
    world.advance_millis(2_000);
    world.crash();
    assert_eq!(take_all(&mut world), ["kept"]);
    world.advance_millis(HOUR);
    assert_eq!(take_all(&mut world), [""; 0]);
}

#[test]
fn a_recalled_message_is_never_delivered_and_the_answer_says_what_happened() {
    let mut world = world(5);
    let stopped = schedule(&mut world, "orders", "stopped", 60_000);
    let comes = schedule(&mut world, "orders", "comes", 60_000);
    assert_eq!(recall(&mut world, "orders", stopped), Ok("stopped".into()));
    assert_eq!(recall(&mut world, "orders", stopped), Err(RecallError::Recalled));
    assert_eq!(waiting(&world, "orders"), 1);
    world.crash();
    assert_eq!(recall(&mut world, "orders", stopped), Err(RecallError::Recalled));
    world.advance_millis(60_000);
    assert_eq!(take_all(&mut world), ["comes"]);
    world.advance_millis(500);
    assert_eq!(recall(&mut world, "orders", comes), Err(RecallError::Fired { ago_millis: 500 }));
    let never = TimerAt { due: world.now.plus(5), ..comes };
    assert_eq!(recall(&mut world, "orders", never), Err(RecallError::Recalled), "there is no such timer");
}

#[test]
fn of_two_recalls_at_once_one_stops_the_message_and_it_is_counted_once() {
    let mut world = world(6);
    let at = schedule(&mut world, "orders", "a", 60_000);
    schedule(&mut world, "orders", "b", 60_000);
    let topic = world.topic_id("orders");
    let one = world.begin(|token| Command::Recall { topic, at, token });
    let two = world.begin(|token| Command::Recall { topic, at, token });
    world.settle();
    assert_eq!(world.answer_to(one), Some(Output::Recalled(Ok("a".into()))));
    assert_eq!(world.answer_to(two), Some(Output::Recalled(Err(RecallError::Recalled))));
    assert_eq!(waiting(&world, "orders"), 1);
}

#[test]
fn a_recall_while_the_message_is_being_read_either_stops_it_or_says_that_it_went() {
    let mut world = world(7);
    let at = schedule(&mut world, "orders", "a", 1_000);
    world.holds_loads = true;
    world.advance_millis(1_000);
    let topic = world.topic_id("orders");
    let token = world.begin(|token| Command::Recall { topic, at, token });
    world.holds_loads = false;
    world.settle();
    let answer = world.answer_to(token);
    let delivered = take_all(&mut world);
    match answer {
        Some(Output::Recalled(Ok(_))) => assert!(delivered.is_empty()),
        Some(Output::Recalled(Err(RecallError::Fired { .. }))) => assert_eq!(delivered, ["a"]),
        other => panic!("a recall was answered with {other:?}"),
    }
}

#[test]
fn a_recall_answer_waits_until_it_is_durable() {
    let mut world = world(8);
    let at = schedule(&mut world, "orders", "a", 60_000);
    world.hold_syncs();
    let topic = world.topic_id("orders");
    let token = world.begin(|token| Command::Recall { topic, at, token });
    for _ in 0..5 {
        world.turn([]);
    }
    assert_eq!(world.answer_to(token), None);
    world.crash();
    world.advance_millis(60_000);
    assert_eq!(take_all(&mut world), ["a"], "nobody was told that it was stopped");
}

#[test]
fn with_a_full_disk_what_is_due_waits_and_is_recalled_still() {
    let mut world = world(9);
    let stopped = schedule(&mut world, "orders", "stopped", 1_000);
    schedule(&mut world, "orders", "late", 1_000);
    world.store().full = true;
    world.advance_millis(5_000);
    assert_eq!(take_all(&mut world), [""; 0]);
    assert_eq!(recall(&mut world, "orders", stopped), Ok("stopped".into()));
    let topic = world.topic_id("orders");
    let messages = vec![];
    let refused = world.ask(|token| Command::Schedule { topic, messages, deadline: None, token });
    assert!(matches!(refused, Output::Refused(Refused::DiskFull { .. })));
    world.store().full = false;
    world.advance_millis(1_000);
    assert_eq!(take_all(&mut world), ["late"]);
    assert_eq!(world.shard().shard().counters().lateness.iter().sum::<u64>(), 1);
}

#[test]
fn reads_that_fail_for_a_while_lose_nothing() {
    let mut world = world(10);
    schedule(&mut world, "orders", "a", 1_000);
    world.store().fail_reads(true);
    world.advance_millis(3_000);
    world.store().fail_reads(false);
    world.advance_millis(2_000);
    assert_eq!(take_all(&mut world), ["a"]);
}

#[test]
fn what_waits_for_a_deleted_topic_goes_with_it() {
    let mut world = world(11);
    let at = schedule(&mut world, "orders", "a", 1_000);
    let other = world.make_topic("other", 1, None);
    schedule(&mut world, "other", "b", 1_000);
    world.drop_topic("orders");
    world.make_topic("orders", 1, None);
    assert_eq!(waiting(&world, "orders"), 0);
    let old = TopicId(1);
    assert_eq!(world.ask(|token| Command::Recall { topic: old, at, token }), Output::Refused(Refused::TopicGone));
    world.advance_millis(2 * HOUR);
    assert_eq!(world.receive("billing", invisible_secs(30).from(other)).one().body, "b");
    assert_eq!(world.shard().shard().counters().timers_dropped, 1);
    let (topic, group) = (world.topic_id("other"), world.group_id("billing"));
    assert_ne!((topic, group), (old, GroupId(0)));
}

#[test]
fn buckets_and_their_messages_are_gone_when_their_hour_is_over() {
    let mut world = world(12);
    let stopped = schedule(&mut world, "orders", "stopped", 2 * HOUR);
    schedule_all(&mut world, "orders", &[("a", 10), ("b", HOUR), ("c", 2 * HOUR), ("d", 50 * HOUR)]);
    recall(&mut world, "orders", stopped).unwrap();
    let keys = |world: &mut World, kind: u8| world.store().keys().iter().filter(|key| key[0] == kind).count();
    assert_eq!((keys(&mut world, 9), keys(&mut world, 10)), (4, 5), "four timers; four buckets and a count");
    world.advance_millis(3 * HOUR + 10);
    assert_eq!((keys(&mut world, 9), keys(&mut world, 10)), (1, 2));
    world.advance_millis(50 * HOUR);
    assert_eq!((keys(&mut world, 9), keys(&mut world, 10)), (0, 0));
    assert_eq!(take_all(&mut world), ["a", "b", "c", "d"]);
    assert_eq!(world.shard().shard().waiting().collect::<Vec<_>>(), Vec::<(TopicId, Waiting)>::new());
}

#[test]
fn a_hundred_thousand_that_wait_are_a_few_thousand_in_memory_and_all_come_in_order_of_time() {
    let mut world = world(13);
    let count = 100_000;
    for block in 0..100 {
        let bodies: Vec<String> = (0..1_000).map(|n| format!("{:06}", block + n * 100)).collect();
        // Spread over an hour, out of order of sending.
        let messages: Vec<(&str, i64)> =
            bodies.iter().enumerate().map(|(n, body)| (body.as_str(), 1_000 + (block + n as i64 * 100) * 36)).collect();
        schedule_all(&mut world, "orders", &messages);
    }
    let near = world.shard().shard().near_timers();
    assert!((1..=33_000).contains(&near), "{near} timers in memory");
    assert_eq!(waiting(&world, "orders"), count);
    // The farthest is not in memory; a recall finds it all the same.
    let far = schedule(&mut world, "orders", "far", DAY);
    assert_eq!(recall(&mut world, "orders", far), Ok("far".into()));
    world.crash();
    assert!(world.shard().shard().near_timers() <= 33_000);
    world.advance_millis(1_000 + 36 * count as i64);
    assert_eq!((waiting(&world, "orders"), world.queues_of("orders")[0].max.0), (0, count));
    let bodies = take_all(&mut world);
    assert_eq!(bodies.len() as u64, count);
    assert!(bodies.is_sorted(), "one queue has them in order of their times");
}

#[test]
fn a_burst_at_one_instant_comes_whole_while_others_are_sent_meanwhile() {
    let mut world = world(14);
    let due = 60_000;
    for _ in 0..50 {
        schedule_all(&mut world, "orders", &vec![("burst", due); 1_000]);
    }
    schedule(&mut world, "orders", "later", due + 1);
    world.now = world.now.plus(due);
    for n in 0..20 {
        begin_schedule(&mut world, "orders", &[("fresh", 5 + n)]);
    }
    world.settle();
    assert_eq!(world.queues_of("orders")[0].max.0, 50_000);
    assert_eq!(world.shard().shard().counters().lateness[0], 50_000);
    world.advance_millis(100);
    assert_eq!((world.queues_of("orders")[0].max.0, waiting(&world, "orders")), (50_021, 0));
}

#[test]
fn random_delays_recalls_and_crashes_lose_nothing_and_double_nothing() {
    for seed in 0..30u64 {
        let mut world = world(seed);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |below: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % below
        };
        let mut timers: Vec<(String, TimerAt)> = Vec::new();
        let mut stopped = Vec::new();
        let mut came: Vec<(String, i64)> = Vec::new();
        for n in 0..300 {
            match next(10) {
                0..=4 => {
                    let body = format!("{n}");
                    let at = schedule(&mut world, "orders", &body, 1 + next(4 * HOUR as u64) as i64);
                    timers.push((body, at));
                }
                5 if !timers.is_empty() => {
                    let (body, at) = timers[next(timers.len() as u64) as usize].clone();
                    let due = at.due <= world.now;
                    match recall(&mut world, "orders", at) {
                        Ok(id) => {
                            assert!(!due && id == body, "seed {seed}");
                            stopped.push(body);
                        }
                        Err(RecallError::Recalled) => assert!(stopped.contains(&body), "seed {seed}"),
                        Err(RecallError::Fired { .. }) => assert!(due, "seed {seed}"),
                    }
                }
                6 => world.crash(),
                7 => world.shard_mut().shard_mut().evict_clean(),
                _ => world.advance_millis(next(HOUR as u64) as i64),
            }
            let now = world.now;
            came.extend(take_all(&mut world).into_iter().map(|body| (body, now.0)));
        }
        world.advance_millis(5 * HOUR);
        let now = world.now;
        came.extend(take_all(&mut world).into_iter().map(|body| (body, now.0)));
        let mut bodies: Vec<&String> = came.iter().map(|(body, _)| body).chain(&stopped).collect();
        bodies.sort();
        let mut expected: Vec<&String> = timers.iter().map(|(body, _)| body).collect();
        expected.sort();
        assert_eq!(bodies, expected, "seed {seed}: each comes once or was stopped");
        for (body, at) in &timers {
            let came = came.iter().find(|(came, _)| came == body);
            assert!(came.is_none_or(|(_, came)| *came >= at.due.0), "seed {seed}: {body} came early");
        }
        assert_eq!(waiting(&world, "orders"), 0, "seed {seed}");
    }
}

#[test]
fn a_due_message_does_not_wait_behind_lite_topics_that_end_together() {
    const LITE_TOPICS: usize = 9_000;
    let expire_millis = Some(HOUR);
    let parent = LiteParent { expire_millis, expire_unconsumed: true, topics_max: LITE_TOPICS as u64 };
    let mut world = world(8).lite_parent("chat", parent);
    let names: Vec<String> = (0..LITE_TOPICS).map(|n| n.to_string()).collect();
    let messages: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "hello")).collect();
    assert!(matches!(world.try_send_lite("chat", &messages), Output::Sent(_)));
    schedule(&mut world, "orders", "late", 2 * HOUR);
    let poll = world.poll("billing", invisible_secs(30).wait_secs(3 * 3_600));

    // All of it is due at once, the lite topics first.
    world.now = world.now.plus(2 * HOUR);
    let mut turns = 0;
    let received = loop {
        if let Some(received) = world.received(poll) {
            break received;
        }
        turns += 1;
        assert!(turns < 1_000, "the message is not delivered");
        world.turn([]);
    };
    assert_eq!(received.bodies(), ["late"]);
    let left = world.store().keys().iter().filter(|key| key[0] == 17).count();
    assert!(left > LITE_TOPICS - 1_000, "{left} lite topics were left when the message came");
    world.settle();
    assert_eq!(world.store().keys().iter().filter(|key| key[0] == 17).count(), 0);
}
