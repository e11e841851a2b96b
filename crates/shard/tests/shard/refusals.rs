//! Refusals that promise nothing, and polls that nobody waits for.

use crate::world::*;
use martlet_shard::{Command, Incoming, Output, Refused, ShardOptions};

#[test]
fn a_refusal_that_read_no_state_does_not_wait_for_the_disk() {
    let mut world = World::with(ShardOptions { polls_max: 1, ..ShardOptions::default() })
        .topic("orders", 1)
        .group("billing", max_attempts(5));
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
    world.send("orders", "a");
    world.hold_syncs();
    // Something is under way that later answers may rest on.
    let sent = world.begin_send("orders", &["b"], None);
    world.settle();
    let (topic, deadline) = (world.topic_id("orders"), Some(world.now.plus(-1)));
    let messages =
        || vec![Incoming { record: message("late", None), terms: Vec::new(), message_group: None, lite_topic: None }];
    let late = world.begin(|token| Command::Send { topic, messages: messages(), deadline, token });
    assert_eq!(world.answer_to(late), Some(Output::Refused(Refused::DeadlinePassed)));
    let first = world.receive("billing", invisible_secs(30)).one();
    let waiting = world.poll("billing", invisible_secs(30));
    let refused = world.poll("billing", invisible_secs(30));
    assert_eq!(world.refused(refused), Some(Refused::PollsFull { limit: 1 }));
    world.cancel(waiting);
    world.store().full = true;
    let full = world.begin(|token| Command::Send { topic, messages: messages(), deadline: None, token });
    assert!(matches!(world.answer_to(full), Some(Output::Refused(Refused::DiskFull { .. }))));
    assert_eq!(world.answer_to(sent), None, "what promises something waits");
    world.store().full = false;
    world.sync();
    assert!(matches!(world.answer_to(sent), Some(Output::Sent(_))));
    world.ack(&first.handle).unwrap();
}

#[test]
fn a_poll_given_up_while_its_queue_is_being_loaded_is_handed_nothing() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(5));
    world.send("orders", "a");
    world.crash();
    world.holds_loads = true;
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    world.cancel(poll);
    world.holds_loads = false;
    world.settle();
    assert!(world.received(poll).is_none(), "nobody waits for it");
    let received = world.receive("billing", invisible_secs(30)).one();
    assert_eq!((received.body.as_str(), received.attempt), ("a", 1));
}

#[test]
fn while_the_store_is_behind_sends_are_refused_and_polls_wait_without_changing_anything() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(5));
    world.send("orders", "a");
    // Nothing is resident, and nothing can be read.
    world.crash();
    world.store().behind = true;
    world.holds_loads = true;
    let topic = world.topic_id("orders");
    let messages =
        vec![Incoming { record: message("b", None), terms: Vec::new(), message_group: None, lite_topic: None }];
    let sent = world.begin(|token| Command::Send { topic, messages, deadline: None, token });
    assert_eq!(world.answer_to(sent), Some(Output::Refused(Refused::StoreBehind { waited_millis: 2_000 })));
    world.holds_loads = false;
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(poll).is_none(), "a hand-out would pile up in the batch");
    world.store().behind = false;
    world.settle();
    assert_eq!(world.received(poll).unwrap().one().body, "a");
}
