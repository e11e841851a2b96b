//! Ordered groups: order and locks per message group, redelivery, dead letters, re-entry.

use crate::world::*;
use martlet_shard::SettleError;

fn world(queues: u32) -> World {
    World::new(1).topic("orders", queues).group("billing", max_attempts(4).in_order())
}

fn ack_all(world: &mut World, received: &Received) {
    received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
}

#[test]
fn a_message_group_is_always_in_the_same_queue_however_many_queues_are_added() {
    let mut world = world(4);
    let groups: Vec<String> = (0..40).map(|n| format!("customer {n}")).collect();
    let places = |world: &mut World| -> Vec<u32> {
        let messages: Vec<_> = groups.iter().map(|group| (group.as_str(), "m")).collect();
        world.send_grouped("orders", &messages).into_iter().map(|place| place.0).collect()
    };
    let before = places(&mut world);
    assert!((0..4).all(|queue| before.contains(&queue)), "groups are spread over the queues: {before:?}");
    world.make_topic("orders", 9, None);
    assert_eq!(places(&mut world), before);
    world.crash();
    assert_eq!(places(&mut world), before);
}

#[test]
fn the_queue_of_a_message_group_is_pinned() {
    // Written out: another mapping would break the order of what is in the queues already.
    let hashes = ["", "a", "customer 7", "客户"].map(martlet_shard::message_group);
    assert_eq!(hashes, PINNED);
}

const PINNED: [u64; 4] =
    [4_401_252_870_960_544_527, 10_727_336_238_993_541_990, 1_100_260_388_842_245_840, 2_559_394_721_897_965_748];

#[test]
fn messages_of_one_group_come_in_order_and_lock_only_their_group() {
    // ▲ The reference locks the whole queue (semantics.md 2.9).
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3"), ("c", "c1"), ("b", "b2")]);
    let first = world.receive("billing", invisible_secs(30).batch(2));
    assert_eq!(first.in_order(), ["a1", "b1"], "shared among the message groups");
    let second = world.receive("billing", invisible_secs(30));
    assert_eq!(second.in_order(), ["c1"], "a and b are locked");
    world.ack(&first.0[0].handle).unwrap();
    let third = world.receive("billing", invisible_secs(30));
    assert_eq!(third.in_order(), ["a2", "a3"], "the group's next come together, in order");
    world.send_grouped("orders", &[("a", "a4"), ("d", "d1")]);
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["d1"]);
    world.ack(&third.0[1].handle).unwrap();
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0, "a2 is not settled yet");
    world.ack(&third.0[0].handle).unwrap();
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["a4"]);
}

#[test]
fn who_wants_one_message_of_each_group_gets_one() {
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "a1"), ("a", "a2"), ("b", "b1"), ("b", "b2"), ("b", "b3")]);
    for expected in [["a1", "b1"], ["a2", "b2"]] {
        let received = world.receive("billing", invisible_secs(30).one_of_each_message_group());
        assert_eq!(received.bodies(), expected);
        ack_all(&mut world, &received);
    }
    assert_eq!(world.receive("billing", invisible_secs(30).one_of_each_message_group()).in_order(), ["b3"]);
}

#[test]
fn a_concurrent_group_on_the_same_topic_is_not_held_up() {
    // ▲ Order is the group's, not the topic's (#8154, #7999): both are what their group says.
    let mut world = world(1).group("audit", max_attempts(4));
    world.send_grouped("orders", &[("a", "a1"), ("a", "a2")]);
    assert_eq!(world.receive("audit", invisible_secs(30).batch(1)).in_order(), ["a1"]);
    assert_eq!(world.receive("audit", invisible_secs(30).batch(1)).in_order(), ["a2"]);
    assert_eq!(world.receive("billing", invisible_secs(30).batch(1)).in_order(), ["a1"]);
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0);
}

#[test]
fn messages_without_a_group_keep_the_order_of_their_queue() {
    let mut world = world(1);
    world.send_all("orders", &["1", "2", "3"]);
    let first = world.receive("billing", invisible_secs(30).batch(2));
    assert_eq!(first.in_order(), ["1", "2"]);
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0);
    ack_all(&mut world, &first);
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["3"]);
}

#[test]
fn redelivery_never_repeats_acked_messages_of_a_batch() {
    // ▲ The reference begins again at the first unacked one of the batch, acked ones after it included.
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "1"), ("a", "2"), ("a", "3"), ("a", "4")]);
    let first = world.receive("billing", invisible_secs(30));
    assert_eq!(first.in_order(), ["1", "2", "3", "4"]);
    for n in [0, 2] {
        world.ack(&first.0[n].handle).unwrap();
    }
    world.advance_secs(30);
    let again = world.receive("billing", invisible_secs(30));
    assert_eq!(again.in_order(), ["2", "4"]);
    assert!(again.0.iter().all(|delivery| delivery.attempt == 2));
    assert!(matches!(world.ack(&first.0[1].handle), Err(AckError::Settle(SettleError::Superseded))));
}

#[test]
fn the_earliest_unsettled_goes_first_whatever_lapses_first() {
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "1"), ("a", "2"), ("a", "3"), ("b", "b1")]);
    let first = world.receive("billing", invisible_secs(30).batch(32));
    assert_eq!(first.in_order(), ["1", "2", "3", "b1"]);
    // The first waits for its retry longer than the others are in flight; b is not concerned.
    world.change_invisible(&first.0[0].handle, 60).unwrap();
    world.change_invisible(&first.0[3].handle, 0).unwrap();
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["b1"]);
    world.advance_secs(31);
    world.ack(&first.0[2].handle).unwrap_err();
    let only_b = world.receive("billing", invisible_secs(300));
    assert_eq!(only_b.in_order(), ["b1"], "2 and 3 have lapsed, but do not overtake 1");
    world.advance_secs(29);
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["1", "2", "3"]);
}

#[test]
fn a_message_sent_back_at_once_is_the_next_of_its_group() {
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "1"), ("a", "2")]);
    let first = world.receive("billing", invisible_secs(30).batch(1)).one();
    world.change_invisible(&first.handle, 0).unwrap();
    let again = world.receive("billing", invisible_secs(30).batch(1)).one();
    assert_eq!((again.body.as_str(), again.attempt), ("1", 2));
}

#[test]
fn after_the_last_attempt_a_message_is_dead_lettered_and_its_group_moves_on() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(2).in_order());
    world.send_grouped("orders", &[("a", "1"), ("a", "2"), ("a", "3")]);
    for _ in 0..2 {
        assert_eq!(world.receive("billing", invisible_secs(30).batch(1)).in_order(), ["1"]);
        assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0);
        world.advance_secs(30);
    }
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["2", "3"]);
    assert_eq!(world.progress_of("billing").1, 1);
}

#[test]
fn after_the_last_attempt_a_message_is_discarded_and_its_group_moves_on() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(1).in_order().discarding());
    world.send_grouped("orders", &[("a", "1"), ("a", "2")]);
    assert_eq!(world.receive("billing", invisible_secs(30).batch(1)).in_order(), ["1"]);
    world.advance_secs(30);
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["2"]);
    assert_eq!(world.progress_of("billing").1, 0);
}

#[test]
fn a_message_forwarded_to_the_dead_letters_by_its_consumer_frees_its_group() {
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "1"), ("a", "2")]);
    let first = world.receive("billing", invisible_secs(30).batch(1)).one();
    world.forward_to_dead_letters(&first.handle).unwrap();
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["2"]);
}

#[test]
fn what_reached_nobody_goes_first_again() {
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "1"), ("a", "2"), ("a", "3")]);
    let first = world.receive("billing", invisible_secs(30));
    world.undo(&first.0[1].handle);
    world.undo(&first.0[2].handle);
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0, "1 is in flight");
    world.ack(&first.0[0].handle).unwrap();
    let again = world.receive("billing", invisible_secs(30));
    assert_eq!(again.in_order(), ["2", "3"]);
    assert!(again.0.iter().all(|delivery| delivery.attempt == 1));
}

#[test]
fn the_same_attempt_id_brings_what_is_still_in_flight_under_the_same_attempt() {
    // ▲ #10827: the repeated poll was answered with nothing, and the queue stood still for the length of a lease.
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "1"), ("a", "2"), ("b", "b1"), ("a", "3")]);
    let lost = world.receive("billing", invisible_secs(30).batch(3).attempt_id("x"));
    assert_eq!(lost.in_order(), ["1", "2", "b1"]);
    world.ack(&lost.0[0].handle).unwrap();
    assert_eq!(world.receive("billing", invisible_secs(30).attempt_id("y").without_waiting()).len(), 0);
    assert_eq!(world.receive("billing", invisible_secs(30).attempt_id("x").by(2).without_waiting()).len(), 0);
    let again = world.receive("billing", invisible_secs(30).batch(3).attempt_id("x"));
    assert_eq!(again.in_order(), ["2", "b1"]);
    assert!(again.0.iter().all(|delivery| delivery.attempt == 1));
    assert!(matches!(world.ack(&lost.0[1].handle), Err(AckError::Settle(SettleError::Superseded))));
    let third = world.receive("billing", invisible_secs(30).batch(3).attempt_id("x"));
    assert_eq!(third.in_order(), ["2", "b1"], "as often as it takes");
    ack_all(&mut world, &third);
    assert_eq!(world.receive("billing", invisible_secs(30).batch(3).attempt_id("x")).in_order(), ["3"]);
    world.advance_secs(30);
    assert_eq!(world.receive("billing", invisible_secs(30).attempt_id("x")).one().attempt, 2, "lapsed: a new attempt");
}

#[test]
fn filtered_members_get_a_group_in_order_too() {
    let mut world = world(1);
    world.send_tagged("orders", "red", "1");
    world.send_tagged("orders", "green", "2");
    world.send_tagged("orders", "red", "3");
    world.send_tagged("orders", "blue", "4");
    let reds = |world: &mut World| world.receive("billing", invisible_secs(30).tags("red"));
    // Both filters are live before anything is handed out.
    let green = world.poll("billing", invisible_secs(30).tags("green").by(2));
    assert_eq!(reds(&mut world).in_order(), ["1"], "2 is for another member, and before 3");
    assert!(world.received(green).is_none());
    world.advance_secs(30);
    let again = reds(&mut world);
    assert_eq!(again.in_order(), ["1"]);
    let green = world.poll("billing", invisible_secs(30).tags("green").by(2));
    world.ack(&again.0[0].handle).unwrap();
    world.settle();
    let green = world.received(green).unwrap();
    assert_eq!(green.in_order(), ["2"]);
    ack_all(&mut world, &green);
    assert_eq!(reds(&mut world).in_order(), ["3"]);
}

#[test]
fn hand_outs_of_an_ordered_group_wait_until_they_are_durable() {
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "1")]);
    world.hold_syncs();
    let poll = world.poll("billing", invisible_secs(30));
    world.settle();
    assert!(world.received(poll).is_none());
    world.sync();
    assert_eq!(world.received(poll).unwrap().in_order(), ["1"]);
}

#[test]
fn a_client_that_vanishes_gives_its_groups_back_in_order() {
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "1"), ("a", "2"), ("a", "3")]);
    let first = world.receive("billing", auto_renew(5));
    assert_eq!(first.len(), 3);
    world.ack(&first.0[1].handle).unwrap();
    world.advance_secs(600);
    assert_eq!(world.receive("billing", auto_renew(6).without_waiting()).len(), 0, "renewed");
    world.client_gone(5);
    assert_eq!(world.receive("billing", auto_renew(6)).in_order(), ["1", "3"]);
}

#[test]
fn a_poll_for_retries_alone_brings_nothing_of_a_message_group_that_was_never_delivered() {
    let mut world = world(1);
    world.send_grouped("orders", &[("a", "a1"), ("a", "a2")]);
    assert_eq!(world.receive("billing", invisible_secs(30).one_of_each_message_group()).in_order(), ["a1"]);
    world.advance_secs(30);
    assert_eq!(world.receive("billing", invisible_secs(30).retries_only()).in_order(), ["a1"]);
}

#[test]
fn what_came_last_is_handed_out_in_order_without_being_read_for_its_message_group() {
    let mut world = world(2);
    let bodies: Vec<String> = (0..500).map(|n| format!("{}.{n}", n % 100)).collect();
    let grouped = |bodies: &[String]| -> Vec<(String, String)> {
        bodies.iter().map(|body| (body.split('.').next().unwrap().to_owned(), body.clone())).collect()
    };
    let send = |world: &mut World, bodies: &[String]| {
        let messages = grouped(bodies);
        world.send_grouped("orders", &messages.iter().map(|(g, b)| (g.as_str(), b.as_str())).collect::<Vec<_>>());
    };
    // Where the group is has been read before.
    assert_eq!(world.receive("billing", invisible_secs(30).without_waiting()).len(), 0);
    send(&mut world, &bodies[..300]);
    world.holds_loads = true;
    let mut last = [None; 100];
    let mut count = 0;
    let mut take = |world: &mut World, most: usize| {
        let mut taken = 0;
        while taken < most {
            let received = world.receive("billing", invisible_secs(30));
            assert!(received.len() > 0, "{taken} of {most}");
            for delivery in &received.0 {
                let (group, number) = delivery.body.split_once('.').unwrap();
                let (group, number) = (group.parse::<usize>().unwrap(), number.parse::<u32>().unwrap());
                assert!(last[group] < Some(number), "{group}: {number} after {:?}", last[group]);
                last[group] = Some(number);
                taken += 1;
            }
            ack_all(world, &received);
        }
        count += taken;
    };
    take(&mut world, 300);
    // What was sent before a restart is read; what comes after it, again not.
    world.holds_loads = false;
    send(&mut world, &bodies[300..400]);
    world.crash();
    take(&mut world, 100);
    send(&mut world, &bodies[400..]);
    world.holds_loads = true;
    take(&mut world, 100);
    assert_eq!(count, 500);
}
