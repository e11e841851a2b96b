//! Retries: which come first, and how many.

use crate::world::*;

#[test]
fn due_retries_go_first_and_take_at_most_half_of_a_batch() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(9));
    world.send_all("orders", &["a", "b", "c", "d", "e", "f"]);
    assert_eq!(world.receive("billing", invisible_secs(10)).len(), 6);
    world.advance_secs(10);
    world.send_all("orders", &["u", "v", "w", "x", "y", "z"]);
    let mixed = world.receive("billing", invisible_secs(600).batch(4));
    let order: Vec<_> = mixed.0.iter().map(|delivery| (delivery.body.as_str(), delivery.attempt)).collect();
    assert_eq!(order, [("a", 2), ("b", 2), ("u", 1), ("v", 1)]);
    let rest = world.receive("billing", invisible_secs(600));
    assert_eq!(rest.bodies(), ["c", "d", "e", "f", "w", "x", "y", "z"], "all that is there");
}

#[test]
fn retries_fill_a_batch_when_there_is_nothing_new() {
    let mut world = World::new(2).topic("orders", 1).group("billing", max_attempts(9));
    world.send_all("orders", &["a", "b", "c", "d"]);
    world.receive("billing", invisible_secs(10));
    world.advance_secs(10);
    assert_eq!(world.receive("billing", invisible_secs(10)).bodies(), ["a", "b", "c", "d"]);
}

#[test]
fn a_message_that_fails_at_once_again_and_again_does_not_hold_up_single_polls() {
    let mut world = World::new(3).topic("orders", 1).group("billing", max_attempts(1_000));
    world.send("orders", "poison");
    let fails = |world: &mut World| {
        let delivery = world.receive("billing", invisible_secs(30).batch(1)).one();
        match delivery.body.as_str() {
            "poison" => drop(world.change_invisible(&delivery.handle, 0).unwrap()),
            _ => world.ack(&delivery.handle).unwrap(),
        }
        delivery.body
    };
    fails(&mut world);
    world.send_all("orders", &["a", "b", "c", "d", "e"]);
    let received: Vec<_> = (0..10).map(|_| fails(&mut world)).collect();
    let fresh: Vec<_> = received.iter().filter(|body| *body != "poison").collect();
    assert_eq!(fresh, ["a", "b", "c", "d", "e"], "every other message may be a retry: {received:?}");
}

#[test]
fn a_retry_is_not_starved_by_a_stream_of_new_messages_either() {
    let mut world = World::new(4).topic("orders", 1).group("billing", max_attempts(1_000));
    world.send("orders", "late");
    world.receive("billing", invisible_secs(10));
    world.advance_secs(10);
    for round in 0.. {
        assert!(round < 3, "the retry waits behind new messages");
        world.send_all("orders", &["a", "b"]);
        let delivery = world.receive("billing", invisible_secs(30).batch(1)).one();
        world.ack(&delivery.handle).unwrap();
        if delivery.body == "late" {
            break;
        }
    }
}

#[test]
fn a_nacked_message_waits_as_long_as_the_client_said() {
    let mut world = World::new(5).topic("orders", 1).group("billing", max_attempts(3));
    world.send("orders", "a");
    let first = world.receive("billing", invisible_secs(30)).one();
    world.change_invisible(&first.handle, 10).unwrap();
    let poll = world.poll("billing", invisible_secs(30));
    world.advance_millis(9_999);
    assert!(world.received(poll).is_none());
    world.advance_millis(1);
    assert_eq!(world.received(poll).unwrap().one().attempt, 2);
}
