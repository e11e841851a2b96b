//! Polls that wait are served as soon as what they wait for is there, however it came about.

use crate::world::*;
use martlet_shard::{Command, Output, TopicFacts};

const HOUR: i64 = 3_600_000;

/// `a1` is in flight for a day, and a poll waits for `a2` behind it.
fn behind_the_first(world: &mut World) -> (Delivery, Waiting) {
    world.send_grouped("orders", &[("a", "a1"), ("a", "a2")]);
    let first = world.receive("billing", invisible_secs(86_400).batch(1)).one();
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(poll).is_none(), "a1 is in flight");
    (first, poll)
}

fn bodies(world: &mut World, poll: Waiting) -> Vec<String> {
    let received = world.received(poll).expect("the poll is served");
    received.in_order().into_iter().map(str::to_owned).collect()
}

#[test]
fn discarding_a_message_on_request_lets_its_message_group_go_on() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(4).in_order().discarding());
    let (first, poll) = behind_the_first(&mut world);
    world.forward_to_dead_letters(&first.handle).unwrap();
    assert_eq!(bodies(&mut world, poll), ["a2"]);
}

#[test]
fn a_message_the_log_has_lost_lets_its_message_group_go_on() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(4).in_order());
    let (first, poll) = behind_the_first(&mut world);
    let handles = vec![world.decode(&first.handle).unwrap()];
    world.turn([Command::Lost { handles }]);
    world.settle();
    assert_eq!(bodies(&mut world, poll), ["a2"]);
}

#[test]
fn a_message_that_retention_takes_in_flight_lets_its_message_group_go_on() {
    let mut world = World::new(1).topic_kept("orders", 1, Some(HOUR)).group("billing", max_attempts(4).in_order());
    world.send_grouped("orders", &[("a", "a1")]);
    let _first = world.receive("billing", invisible_secs(86_400)).one();
    world.advance_millis(HOUR / 2);
    world.send_grouped("orders", &[("a", "a2")]);
    // Between two marks of a queue, messages count as old as the later one.
    world.advance_millis(HOUR - 10_000);
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(poll).is_none(), "a1 is in flight");
    world.advance_secs(15);
    assert_eq!(bodies(&mut world, poll), ["a2"]);
}

#[test]
fn a_discarded_message_makes_room_where_open_slots_are_scarce() {
    let mut options = World::new(1).options;
    options.open_slots_max = 1;
    let mut world = World::with(options).topic("orders", 1).group("billing", max_attempts(4).discarding());
    world.send_all("orders", &["1", "2"]);
    let first = world.receive("billing", invisible_secs(86_400)).one();
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(poll).is_none(), "there is no slot for the second");
    world.forward_to_dead_letters(&first.handle).unwrap();
    assert_eq!(bodies(&mut world, poll), ["2"]);
}

#[test]
fn a_queue_that_is_read_again_serves_polls_that_wait() {
    let mut world = World::new(1).topic("orders", 2).group("billing", max_attempts(4));
    let id = world.topic_id("orders");
    let read = |world: &mut World, read_queues: u32| {
        let topic = TopicFacts {
            id,
            name: "orders".into(),
            read_queues,
            write_queues: 2,
            retention_millis: None,
            by_priority: false,
            lite: None,
            deduplicate_millis: None,
        };
        assert_eq!(world.ask(|token| Command::ApplyTopic { topic, token }), Output::Done);
    };
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
    read(&mut world, 1);
    world.send("orders", "1");
    world.send("orders", "2");
    assert_eq!(world.receive("billing", invisible_secs(86_400)).one().hand_out.queue_index, 0);
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(poll).is_none(), "the other queue is not read");
    read(&mut world, 2);
    assert_eq!(bodies(&mut world, poll).len(), 1);
}

#[test]
fn a_poll_without_waiting_time_gets_what_one_read_finds_for_it() {
    let mut world =
        World::new(1).topic("orders", 1).group("billing", max_attempts(4)).group("ordered", max_attempts(4).in_order());
    world.send_tagged("orders", "red", "r");
    world.send_tagged("orders", "green", "g");
    let at_once = || invisible_secs(30).without_waiting();
    let filtered = world.poll("billing", at_once().tags("green"));
    let ordered = world.poll("ordered", at_once());
    world.settle();
    assert_eq!(bodies(&mut world, filtered), ["g"]);
    assert_eq!(bodies(&mut world, ordered), ["r", "g"]);
    // What is left matches nobody: the poll is answered all the same, and at once.
    let none = world.poll("billing", at_once().tags("green"));
    world.settle();
    assert!(bodies(&mut world, none).is_empty());
    assert_eq!(world.shard().shard().sizes().0, 0);
}

#[test]
fn a_poll_without_waiting_time_waits_for_one_read_and_no_more() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(4));
    let reds: Vec<String> = (0..1_024).map(|n| n.to_string()).collect();
    let wanted = world.begin_send("orders", &reds.iter().map(String::as_str).collect::<Vec<_>>(), Some("red"));
    world.settle();
    assert!(matches!(world.answer_to(wanted), Some(Output::Sent(_))));
    world.send_tagged("orders", "green", "g");
    let at_once = || invisible_secs(30).without_waiting().tags("green");
    let first = world.poll("billing", at_once());
    world.settle();
    assert!(bodies(&mut world, first).is_empty(), "the read found nothing, and there are more to look at");
    let second = world.poll("billing", at_once());
    world.settle();
    assert_eq!(bodies(&mut world, second), ["g"]);
    // A read that does not end keeps the poll; one that fails ends it.
    world.send_tagged("orders", "green", "h");
    world.holds_loads = true;
    let held = world.poll("billing", at_once());
    world.turn([]);
    world.advance_millis(10);
    assert!(world.received(held).is_none(), "it is being read for");
    world.holds_loads = false;
    world.settle();
    assert_eq!(bodies(&mut world, held), ["h"]);
}
