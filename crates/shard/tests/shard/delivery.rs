//! Who gets what, and when.

use crate::world::*;
use martlet_shard::{Command, Output, Refused};

#[test]
fn a_waiting_poll_is_answered_as_soon_as_a_message_is_durable_and_never_before() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(2));
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(poll).is_none());

    world.hold_syncs();
    let send = world.begin_send("orders", &["a"], None);
    world.settle();
    assert_eq!(world.answer_to(send), None, "not durable yet, so not acknowledged");
    assert!(world.received(poll).is_none(), "not durable yet, so not handed out");

    world.store().sync();
    world.turn([]);
    assert!(matches!(world.answer_to(send), Some(Output::Sent(_))));
    assert_eq!(world.received(poll).unwrap().one().body, "a", "answered by the very turn that saw it durable");
}

#[test]
fn a_poll_that_finds_nothing_ends_at_its_time_with_nothing() {
    let mut world = World::new(2).topic("orders", 4).group("billing", max_attempts(2));
    let poll = world.poll("billing", invisible_secs(30));
    world.advance_millis(19_999);
    assert!(world.received(poll).is_none());
    world.advance_millis(1);
    assert_eq!(world.received(poll).unwrap().len(), 0);
}

#[test]
fn a_poll_that_does_not_wait_still_gets_what_is_there() {
    let mut world = World::new(3).topic("orders", 2).group("billing", max_attempts(2));
    world.receive("billing", invisible_secs(30));
    world.send("orders", "a");
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).one().body, "a");
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0);
}

#[test]
fn four_messages_and_four_waiting_polls_make_one_message_each() {
    let mut world = World::new(4).topic("orders", 1).group("billing", max_attempts(2));
    let polls: Vec<_> = (0..4).map(|_| world.poll("billing", invisible_secs(30))).collect();
    world.settle();
    world.send_all("orders", &["a", "b", "c", "d"]);
    for poll in polls {
        world.received(poll).unwrap().one();
    }
}

#[test]
fn ten_messages_and_three_waiting_polls_are_shared_evenly() {
    let mut world = World::new(5).topic("orders", 1).group("billing", max_attempts(2));
    let polls: Vec<_> = (0..3).map(|_| world.poll("billing", invisible_secs(30))).collect();
    world.settle();
    world.send_all("orders", &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]);
    let mut counts: Vec<_> = polls.into_iter().map(|poll| world.received(poll).unwrap().len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [3, 3, 4]);
}

#[test]
fn three_consumers_of_one_queue_all_receive() {
    let mut world = World::new(6).topic("orders", 1).group("billing", max_attempts(2));
    let mut received = [0; 3];
    for _ in 0..20 {
        let polls: Vec<_> = (0..3).map(|_| world.poll("billing", invisible_secs(30).batch(4))).collect();
        world.settle();
        world.send_all("orders", &["a", "b", "c", "d", "e", "f"]);
        for (count, poll) in received.iter_mut().zip(polls) {
            *count += world.received(poll).unwrap().len();
        }
    }
    assert_eq!(received, [40; 3]);
}

#[test]
fn no_message_is_left_behind_in_any_queue() {
    let mut world = World::new(7).topic("orders", 8).group("billing", max_attempts(2));
    let bodies: Vec<String> = (0..100).map(|n| format!("{n:03}")).collect();
    bodies.iter().for_each(|body| world.send("orders", body));
    let mut received = Vec::new();
    while received.len() < 100 {
        let some = world.receive("billing", invisible_secs(30));
        assert_eq!(some.len(), 32.min(100 - received.len()), "no poll takes less than there is");
        received.extend(some.0.into_iter().map(|delivery| delivery.body));
    }
    received.sort();
    assert_eq!(received, bodies);
}

#[test]
fn every_group_gets_every_message() {
    let mut world =
        World::new(8).topic("orders", 2).group("billing", max_attempts(2)).group("shipping", max_attempts(2));
    world.send_all("orders", &["a", "b"]);
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["a", "b"]);
    assert_eq!(world.receive("shipping", invisible_secs(30)).bodies(), ["a", "b"]);
}

#[test]
fn a_poll_that_waits_hears_of_queues_that_are_added_meanwhile() {
    let mut world = World::new(9).topic("orders", 1).group("billing", max_attempts(2));
    let mut polls: Vec<_> = (0..3).map(|_| world.poll("billing", invisible_secs(30))).collect();
    world.settle();
    world.make_topic("orders", 3, None);
    for body in ["a", "b", "c"] {
        world.send("orders", body);
        let at = polls.iter().position(|&poll| world.received(poll).is_some_and(|received| received.len() == 1));
        polls.swap_remove(at.unwrap_or_else(|| panic!("{body} waits although a poll does")));
    }
}

#[test]
fn a_cancelled_poll_takes_nothing_away() {
    let mut world = World::new(10).topic("orders", 1).group("billing", max_attempts(2));
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    world.cancel(poll);
    world.send("orders", "a");
    assert!(world.received(poll).is_none());
    assert_eq!(world.receive("billing", invisible_secs(30)).one().attempt, 1);
}

#[test]
fn beyond_the_limit_of_open_slots_only_retries_are_handed_out() {
    let mut world = World::new(11);
    world.options.open_slots_max = 4;
    let mut world = World::with(world.options).topic("orders", 1).group("billing", max_attempts(5));
    world.send_all("orders", &["a", "b", "c", "d", "e", "f"]);
    let first = world.receive("billing", invisible_secs(30));
    assert_eq!(first.bodies(), ["a", "b", "c", "d"]);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
    assert!(world.shard().shard().counters().open_slots_full > 0);

    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    world.ack(&first.0[2].handle).unwrap();
    assert_eq!(world.received(poll).unwrap().one().body, "e", "room for one, and somebody waits");

    world.advance_secs(30);
    let again = world.receive("billing", invisible_secs(30));
    assert_eq!(again.bodies(), ["a", "b", "d", "e"], "retries are served");
}

#[test]
fn more_polls_than_allowed_are_refused_by_number() {
    let mut world = World::new(12);
    world.options.polls_max = 2;
    let mut world = World::with(world.options).topic("orders", 1).group("billing", max_attempts(5));
    let polls: Vec<_> = (0..2).map(|_| world.poll("billing", invisible_secs(30))).collect();
    world.settle();
    let third = world.poll("billing", invisible_secs(30));
    world.settle();
    assert_eq!(world.refused(third), Some(Refused::PollsFull { limit: 2 }));
    world.cancel(polls[0]);
    let fourth = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(fourth).is_none(), "it waits");
    world.send("orders", "a");
    assert_eq!(world.received(polls[1]).unwrap().one().body, "a");
}

#[test]
fn a_send_after_its_deadline_or_on_a_full_disk_is_refused_and_receiving_goes_on() {
    let mut world = World::new(13).topic("orders", 1).group("billing", max_attempts(5));
    world.send("orders", "a");
    let (topic, late) = (world.topic_id("orders"), world.now.plus(-1));
    let messages = || vec![incoming("b", None, None)];
    let refused = world.ask(|token| Command::Send { topic, messages: messages(), deadline: Some(late), token });
    assert_eq!(refused, Output::Refused(Refused::DeadlinePassed));

    world.store().full = true;
    let refused = world.ask(|token| Command::Send { topic, messages: messages(), deadline: None, token });
    assert_eq!(refused, Output::Refused(Refused::DiskFull { free: 1, needed: 2 }));
    let delivery = world.receive("billing", invisible_secs(30)).one();
    world.ack(&delivery.handle).unwrap();
    world.store().full = false;
    world.send("orders", "c");
    assert_eq!(world.receive("billing", invisible_secs(30)).one().body, "c");
}
