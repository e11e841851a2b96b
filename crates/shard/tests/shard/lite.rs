//! Lite topics as users see them: made by the first message, in order, one stuck one delays no other.

use crate::world::lite::LASTING;
use crate::world::{AckError, Receive, World, invisible_secs};
use martlet_model::{QueueOffset, TopicId};
use martlet_shard::{Command, DeadLetterPlace, LiteAction, LiteParent, LiteStart, Output, Refused, SettleError};

fn world() -> World {
    World::new(1).lite_parent("chat", LASTING).lite_group("web", "chat", false, 100)
}

fn client(world: &World, client: u64) -> Receive {
    invisible_secs(30).lite(world.topic_id("chat"), client)
}

#[test]
fn the_first_message_makes_the_lite_topic_and_a_subscriber_gets_it_in_order() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice"]);
    let waiting = world.poll("web", client(&world, 1));
    assert!(world.received(waiting).is_none());
    world.send_lite("chat", "alice", &["a1", "a2", "a3"]);
    world.send_lite("chat", "bob", &["b1"]);
    let received = world.received(waiting).expect("the poll that waits is served");
    assert_eq!(received.in_order(), ["a1", "a2", "a3"]);
    assert!(world.receive("web", client(&world, 1)).0.is_empty(), "bob is not subscribed to, alice is locked");
    for delivery in received.0 {
        world.ack(&delivery.handle).unwrap();
    }
    world.send_lite("chat", "alice", &["a4"]);
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["a4"]);
}

#[test]
fn what_was_sent_before_the_subscription_is_delivered_from_the_earliest_on() {
    let mut world = world();
    world.send_lite("chat", "alice", &["a1", "a2"]);
    world.subscribe_lite("web", 1, &["alice", "nobody-yet"]);
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["a1", "a2"]);
}

#[test]
fn one_reply_brings_messages_of_several_lite_topics_each_in_order() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice", "bob", "carol"]);
    let sent = world.try_send_lite("chat", &[("alice", "a1"), ("bob", "b1"), ("alice", "a2"), ("carol", "c1")]);
    assert!(matches!(sent, Output::Sent(_)));
    let received = world.receive("web", client(&world, 1));
    assert_eq!(received.in_order(), ["a1", "a2", "b1", "c1"]);
    assert!(received.0.iter().all(|delivery| delivery.attempt == 1));
}

#[test]
fn a_lite_topic_whose_consumer_is_stuck_delays_no_other_and_nothing_of_its_own_overtakes() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice", "bob"]);
    world.subscribe_lite("web", 2, &["alice"]);
    world.send_lite("chat", "alice", &["a1", "a2"]);
    let stuck = world.receive("web", client(&world, 1).batch(1)).one();
    assert_eq!(stuck.body, "a1");
    assert!(world.receive("web", client(&world, 2)).0.is_empty(), "a2 waits for a1, whoever asks");
    world.send_lite("chat", "bob", &["b1"]);
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["b1"]);
    world.advance_secs(31);
    let again = world.receive("web", client(&world, 2));
    assert_eq!(again.in_order(), ["a1", "a2"]);
    assert_eq!(again.0[0].attempt, 2);
    assert!(matches!(world.ack(&stuck.handle), Err(AckError::Settle(SettleError::Superseded))));
}

#[test]
fn a_poll_that_waits_is_served_when_a_lock_ends_by_ack_lapse_or_release() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice"]);
    world.subscribe_lite("web", 2, &["alice"]);
    world.send_lite("chat", "alice", &["a1", "a2", "a3"]);
    let first = world.receive("web", client(&world, 1).batch(1)).one();
    let waiting = world.poll("web", client(&world, 2).batch(1));
    world.ack(&first.handle).unwrap();
    let second = world.received(waiting).expect("the ack unlocks").one();
    assert_eq!(second.body, "a2");
    let waiting = world.poll("web", client(&world, 1).batch(1));
    world.change_invisible(&second.handle, 0).unwrap();
    let again = world.received(waiting).expect("the release unlocks").one();
    assert_eq!((again.body.as_str(), again.attempt), ("a2", 2));
    let mut how = client(&world, 2).batch(1);
    how = how.wait_secs(60);
    let waiting = world.poll("web", how);
    world.advance_secs(31);
    let third = world.received(waiting).expect("the lapse unlocks").one();
    assert_eq!((third.body.as_str(), third.attempt), ("a2", 3));
    world.undo(&third.handle);
    let undone = world.receive("web", client(&world, 1).batch(5));
    assert_eq!(undone.in_order(), ["a2", "a3"]);
    assert_eq!(undone.0[0].attempt, 3, "what reached nobody was no attempt");
}

#[test]
fn after_its_last_attempt_a_message_goes_to_the_dead_letters_and_the_lite_topic_moves_on() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice"]);
    world.send_lite("chat", "alice", &["poison", "a2"]);
    for attempt in 1..=5 {
        let delivery = world.receive("web", client(&world, 1).batch(1)).one();
        assert_eq!((delivery.body.as_str(), delivery.attempt), ("poison", attempt));
        world.change_invisible(&delivery.handle, 1).unwrap();
        world.advance_secs(2);
    }
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["a2"]);
    let own = world.group_id("web");
    let place = DeadLetterPlace { topic: TopicId::dead_letters_of(own), index: 0, offset: QueueOffset(0) };
    let back = world.ask(|token| Command::Resend { place, token });
    assert!(matches!(back, Output::Resent(Ok(_))), "{back:?}");
    world.advance_secs(31);
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["a2", "poison"], "resent into its lite topic");
    assert_eq!(world.shard().shard().counters().dead_letters_of[&(own, world.topic_id("chat"))], 1);
}

#[test]
fn a_suspended_lite_topic_waits_as_a_whole_and_its_attempts_do_not_count() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice", "bob"]);
    world.send_lite("chat", "alice", &["a1", "a2", "a3"]);
    let received = world.receive("web", client(&world, 1).batch(2));
    world.suspend(&received.0[1].handle, 10).unwrap();
    let handle = world.suspend(&received.0[0].handle, 10).unwrap();
    assert_ne!(handle, received.0[0].handle);
    assert!(world.ack(&received.0[0].handle).is_err(), "the handle before it is dead");
    world.advance_secs(9);
    assert!(world.receive("web", client(&world, 1)).0.is_empty());
    world.send_lite("chat", "bob", &["b1"]);
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["b1"], "others go on");
    world.advance_secs(2);
    let again = world.receive("web", client(&world, 1));
    assert_eq!(again.in_order(), ["a1", "a2", "a3"]);
    assert!(again.0.iter().all(|delivery| delivery.attempt == 1));
    world.advance_secs(31);
    let lapsed = world.receive("web", client(&world, 1));
    assert!(lapsed.0.iter().all(|delivery| delivery.attempt == 2));
    world.suspend(&lapsed.0[0].handle, 1).unwrap();
    world.suspend(&lapsed.0[2].handle, 1).unwrap();
    world.advance_secs(2);
    let again = world.receive("web", client(&world, 1));
    assert!(again.0.iter().all(|delivery| delivery.attempt == 2), "taken back once, however often it is said");
}

#[test]
fn order_locks_and_attempts_hold_through_a_crash() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice"]);
    world.send_lite("chat", "alice", &["a1", "a2"]);
    let before = world.receive("web", client(&world, 1).batch(1)).one();
    world.crash();
    assert!(world.receive("web", client(&world, 1)).0.is_empty(), "a1 is in flight still, and a2 waits for it");
    world.ack(&before.handle).unwrap();
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["a2"]);
    world.crash();
    let waiting = world.poll("web", client(&world, 1).wait_secs(60));
    world.advance_secs(31);
    let again = world.received(waiting).expect("what was in flight before the crash lapses").one();
    assert_eq!((again.body.as_str(), again.attempt), ("a2", 2));
}

#[test]
fn nothing_is_lost_or_out_of_order_when_everything_clean_is_dropped_from_memory_at_any_moment() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice", "bob"]);
    let (mut sent, mut got) = (0, Vec::new());
    let waiting = world.poll("web", client(&world, 1).wait_secs(3_600));
    for round in 0..40 {
        let name = ["alice", "bob"][round % 2];
        let bodies = [format!("{name}{sent:03}"), format!("{name}{:03}", sent + 1)];
        sent += 2;
        world.send_lite("chat", name, &[&bodies[0], &bodies[1]]);
        world.shard_mut().shard_mut().evict_clean();
        for delivery in world.receive("web", client(&world, 1)).0 {
            world.shard_mut().shard_mut().evict_clean();
            match (round + delivery.body.len() + got.len()) % 5 {
                0 => drop(world.change_invisible(&delivery.handle, 0).unwrap()),
                _ => {
                    world.ack(&delivery.handle).unwrap();
                    got.push(delivery.body);
                }
            }
        }
    }
    let last = world.received(waiting).map(|received| received.0).unwrap_or_default();
    for delivery in last {
        world.ack(&delivery.handle).unwrap();
        got.push(delivery.body);
    }
    for _ in 0..100 {
        world.shard_mut().shard_mut().evict_clean();
        for delivery in world.receive("web", client(&world, 1)).0 {
            world.ack(&delivery.handle).unwrap();
            got.push(delivery.body);
        }
        world.advance_secs(31);
    }
    let (_, subscriptions, _) = world.shard().shard().lite_sizes();
    assert_eq!(subscriptions, 2);
    let mut unique = got.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), sent, "each message is acked once: {got:?}");
    assert_eq!(got.len(), sent);
}

/// Ready, in flight, waiting for a retry; dead letters.
fn backlog(world: &mut World) -> (u64, u64, u64, u64) {
    let (figures, dead_letters) = world.progress_of("web");
    assert_eq!(figures.len(), 1, "all lite topics together");
    (figures[0].ready, figures[0].in_flight, figures[0].waiting_retry, dead_letters)
}

#[test]
fn the_backlog_of_a_group_is_exact_at_every_stage_and_through_a_crash() {
    let mut world = world();
    world.send_lite("chat", "alice", &["before"]);
    assert_eq!(backlog(&mut world), (0, 0, 0, 0), "the group has not been there");
    world.subscribe_lite("web", 1, &["alice", "bob"]);
    world.send_lite("chat", "alice", &["a1", "a2"]);
    world.send_lite("chat", "bob", &["b1"]);
    world.send_lite("chat", "carol", &["nobody's"]);
    assert_eq!(backlog(&mut world), (4, 0, 0, 0));
    let received = world.receive("web", client(&world, 1).batch(3));
    assert_eq!(backlog(&mut world), (1, 3, 0, 0));
    world.ack(&received.0[0].handle).unwrap();
    world.shard_mut().shard_mut().evict_clean();
    world.send_lite("chat", "bob", &["b2"]);
    world.crash();
    world.receive("web", client(&world, 1).batch(1));
    let (ready, in_flight, waiting_retry, _) = backlog(&mut world);
    assert_eq!(ready + in_flight + waiting_retry, 4);
    world.advance_secs(31);
    let mut left = 4;
    while left > 0 {
        for delivery in world.receive("web", client(&world, 1)).0 {
            world.ack(&delivery.handle).unwrap();
            left -= 1;
            let (ready, in_flight, waiting_retry, _) = backlog(&mut world);
            assert_eq!(ready + in_flight + waiting_retry, left);
        }
    }
    assert_eq!(world.sync_lite("web", 1, LiteAction::Add(LiteStart::Min), &["alice"]), Output::Done);
    assert_eq!(backlog(&mut world).0, 3, "a place to begin at before what is settled");
    world.drop_topic("chat");
    world.drop_group("web");
    assert!(!world.store().keys().iter().any(|key| key.starts_with(&[21, 1, 2])));
}

#[test]
fn of_idle_lite_topics_nothing_stays_in_memory_beyond_the_limit() {
    let mut world = world();
    world.options.lite_resident_max = 50;
    world.crash();
    for n in 0..500 {
        world.send_lite("chat", &format!("session-{n}"), &["hello"]);
    }
    let (resident, ..) = world.shard().shard().lite_sizes();
    assert!(resident <= 60, "{resident} are in memory");
    world.subscribe_lite("web", 1, &["session-7"]);
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["hello"]);
    world.send_lite("chat", "session-3", &["again"]);
    world.subscribe_lite("web", 1, &["session-3"]);
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["hello", "again"], "found again, not made anew");
}

#[test]
fn a_poll_brings_no_more_lite_topics_into_memory_than_it_takes_and_all_are_received() {
    let mut world = world();
    let names: Vec<String> = (0..90).map(|n| format!("session-{n}")).collect();
    for name in &names {
        world.send_lite("chat", name, &["hello"]);
    }
    world.crash();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    world.subscribe_lite("web", 1, &names);
    world.settle();
    let received = world.receive("web", client(&world, 1).batch(4));
    let (resident, ..) = world.shard().shard().lite_sizes();
    // Of each a queue and the group's progress; and as many again for the next poll.
    assert!(resident <= 2 * 2 * 4, "{resident} are in memory for a poll of 4");
    let mut left = names.len();
    let mut settle = |world: &mut World, received: &crate::world::Received| {
        for delivery in &received.0 {
            world.ack(&delivery.handle).unwrap();
        }
        left -= received.len();
        left
    };
    settle(&mut world, &received);
    for _ in 0..names.len() {
        // What is in memory at any time is thrown out: nothing is lost by that.
        world.shard_mut().shard_mut().evict_clean();
        let received = world.receive("web", client(&world, 1).batch(4));
        if settle(&mut world, &received) == 0 {
            return;
        }
    }
    panic!("some lite topics were never received");
}

#[test]
fn a_parent_has_no_more_lite_topics_than_it_may_and_each_message_names_one() {
    let few = LiteParent { topics_max: 2, ..LASTING };
    let mut world = World::new(1).lite_parent("chat", few);
    world.send_lite("chat", "alice", &["a1"]);
    let refused = world.try_send_lite("chat", &[("bob", "b1"), ("carol", "c1")]);
    assert_eq!(refused, Output::Refused(Refused::LiteTopicsFull { limit: 2 }));
    world.send_lite("chat", "bob", &["b1"]);
    world.crash();
    let refused = world.try_send_lite("chat", &[("carol", "c1")]);
    assert_eq!(refused, Output::Refused(Refused::LiteTopicsFull { limit: 2 }), "the count survives a crash");
    world.send_lite("chat", "alice", &["a2"]);
    let token = world.begin_send("chat", &["to nowhere"], None);
    world.settle();
    assert_eq!(world.answer_to(token), Some(Output::Refused(Refused::NoLiteTopic)));
}

#[test]
fn a_deleted_parent_leaves_nothing_and_one_of_its_name_begins_anew() {
    let mut world = world();
    world.subscribe_lite("web", 1, &["alice"]);
    world.send_lite("chat", "alice", &["a1"]);
    world.send_lite("chat", "bob", &["b1"]);
    let held = world.receive("web", client(&world, 1)).one();
    world.shard_mut().shard_mut().evict_clean();
    world.drop_topic("chat");
    assert_eq!(world.ack(&held.handle), Err(AckError::Settle(SettleError::Gone)));
    world.drop_group("web");
    world.settle();
    let left: Vec<u8> = world
        .store()
        .keys()
        .iter()
        .map(|key| key[0])
        .filter(|kind| [5, 6, 7, 8, 17, 18, 19, 20, 21].contains(kind))
        .collect();
    assert!(left.is_empty(), "keys of these kinds are left: {left:?}");
    let mut world = world.lite_parent("chat", LASTING).lite_group("web", "chat", false, 100);
    world.subscribe_lite("web", 1, &["alice"]);
    assert!(world.receive("web", client(&world, 1)).0.is_empty());
}
