//! Tag filters: what does not match counts as consumed, and nothing that matches a member is lost.

use crate::world::*;
use martlet_shard::{Command, Output, Refused};
use martlet_store::Reader;

#[test]
fn a_filtered_group_receives_what_matches_and_the_rest_counts_as_consumed() {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(3));
    for n in 0..100 {
        world.send_tagged("orders", ["red", "green", "blue"][n % 3], &format!("{n:02}"));
    }
    let received = world.receive("billing", invisible_secs(30).tags("green"));
    assert_eq!(received.len(), 32);
    for delivery in &received.0 {
        assert_eq!(delivery.body.parse::<usize>().unwrap() % 3, 1);
        world.ack(&delivery.handle).unwrap();
    }
    assert_eq!(world.receive("billing", invisible_secs(30).tags("green")).one().body, "97");
    let (figures, _) = world.progress_of("billing");
    assert_eq!((figures[0].ready, figures[0].in_flight, figures[0].committed.0), (0, 1, 97));
    assert_eq!(world.shard().shard().counters().filtered, 67);
}

#[test]
fn a_waiting_poll_is_woken_by_what_it_wants_only() {
    let mut world = World::new(2).topic("orders", 1).group("billing", max_attempts(3));
    let poll = world.poll("billing", invisible_secs(30).tags("green"));
    world.settle();
    world.send_tagged("orders", "red", "a");
    world.send("orders", "b");
    assert!(world.received(poll).is_none());
    world.send_tagged("orders", "green", "c");
    assert_eq!(world.received(poll).unwrap().one().body, "c");
}

#[test]
fn two_members_with_different_filters_lose_nothing_and_get_only_theirs() {
    let mut world = World::new(3).topic("orders", 2).group("billing", max_attempts(3));
    let red = || invisible_secs(30).tags("red");
    let green = || invisible_secs(30).tags("green");
    for how in [red(), green()] {
        world.receive("billing", how);
    }
    for n in 0..20 {
        world.send_tagged("orders", ["red", "green"][n % 2], ["r", "g"][n % 2]);
    }
    let reds = world.receive("billing", red());
    assert_eq!(reds.bodies(), ["r"; 10]);
    let greens = world.receive("billing", green());
    assert_eq!(greens.bodies(), ["g"; 10]);
    world.advance_secs(30);
    assert_eq!(world.receive("billing", green()).bodies(), ["g"; 10], "retries go to whom they match, too");
    assert_eq!(world.receive("billing", red()).bodies(), ["r"; 10]);
}

#[test]
fn a_filter_that_arrives_while_messages_are_looked_at_loses_nothing() {
    let mut world = World::new(4).topic("orders", 1).group("billing", max_attempts(3));
    let first = world.poll("billing", invisible_secs(30).tags("red"));
    world.settle();
    world.holds_loads = true;
    world.send_tagged("orders", "green", "g");
    world.turn([]);
    let second = world.poll("billing", invisible_secs(30).tags("green"));
    world.holds_loads = false;
    world.settle();
    assert!(world.received(first).is_none());
    assert_eq!(world.received(second).unwrap().one().body, "g");
}

#[test]
fn a_new_filter_does_not_hand_out_what_does_not_match_it() {
    let mut world = World::new(5).topic("orders", 1).group("billing", max_attempts(3));
    for _ in 0..3 {
        world.send_tagged("orders", "red", "r");
    }
    assert_eq!(world.receive("billing", invisible_secs(30).tags("red").batch(1)).one().body, "r");
    assert_eq!(world.receive("billing", invisible_secs(30).tags("green")).len(), 0);
    assert_eq!(world.receive("billing", invisible_secs(30).tags("red")).len(), 2);
}

#[test]
fn after_a_crash_and_after_eviction_filters_still_hold() {
    for crash in [true, false] {
        let mut world = World::new(6).topic("orders", 1).group("billing", max_attempts(9));
        let red = || invisible_secs(30).tags("red");
        let green = || invisible_secs(30).tags("green");
        world.receive("billing", green());
        for _ in 0..3 {
            world.send_tagged("orders", "red", "r");
            world.send_tagged("orders", "green", "g");
        }
        assert_eq!(world.receive("billing", red().batch(1)).len(), 1);
        assert_eq!(world.receive("billing", green().batch(1)).len(), 1);
        match crash {
            true => world.crash(),
            false => world.shard_mut().shard_mut().evict_clean(),
        }
        assert_eq!(world.receive("billing", green()).bodies(), ["g", "g"]);
        assert_eq!(world.receive("billing", red()).bodies(), ["r", "r"]);
        world.advance_secs(30);
        for (how, body) in [(green(), "g"), (red(), "r")] {
            // What was in flight at that time is looked at while the first poll takes the rest.
            let polls: Vec<_> = (0..2).map(|_| world.receive("billing", how.clone())).collect();
            assert_eq!(polls.iter().flat_map(Received::bodies).collect::<Vec<_>>(), [body; 3]);
        }
    }
}

#[test]
fn a_member_that_returns_after_a_long_pause_gets_what_still_waits_for_it() {
    let mut world = World::new(7).topic("orders", 1).group("billing", max_attempts(9));
    let both = || invisible_secs(300).tags("red || green");
    world.receive("billing", both());
    world.advance_secs(200);
    for _ in 0..3 {
        world.send_tagged("orders", "red", "r");
    }
    assert_eq!(world.receive("billing", invisible_secs(300).tags("red").batch(1)).len(), 1);
    assert_eq!(world.receive("billing", both()).bodies(), ["r", "r"]);
}

#[test]
fn what_a_member_was_handed_waits_for_its_return_however_long_it_was_away() {
    let mut world = World::new(8).topic("orders", 1).group("billing", max_attempts(9));
    world.send_tagged("orders", "red", "r");
    world.receive("billing", invisible_secs(30).tags("red")).one();
    world.advance_secs(300);
    for _ in 0..2 {
        assert_eq!(world.receive("billing", invisible_secs(30).tags("green")).len(), 0);
    }
    world.send_tagged("orders", "red", "passed over");
    world.send_tagged("orders", "green", "g");
    assert_eq!(world.receive("billing", invisible_secs(30).tags("green")).one().body, "g", "holds nothing up");
    let again = world.receive("billing", invisible_secs(30).tags("red")).one();
    assert_eq!((again.body.as_str(), again.attempt), ("r", 2));
}

#[test]
fn a_poll_that_waits_through_a_long_stall_still_gets_only_what_it_wants() {
    let mut world = World::new(10).topic("orders", 1).group("billing", max_attempts(9));
    let poll = world.poll("billing", invisible_secs(300).tags("red"));
    world.settle();
    world.begin_send("orders", &["g"], Some("green"));
    world.begin_send("orders", &["r"], Some("red"));
    // The machine slept; nothing happened for minutes, and the next turn is far later.
    world.now = world.now.plus(600_000);
    world.settle();
    // Its time is over, but not before what is there has been looked at for it.
    assert_eq!(world.received(poll).unwrap().bodies(), ["r"]);
}

#[test]
fn a_member_without_a_filter_beside_one_with_gets_the_rest() {
    let mut world = World::new(9).topic("orders", 1).group("billing", max_attempts(9));
    world.receive("billing", invisible_secs(30).tags("red"));
    world.receive("billing", invisible_secs(30));
    for n in 0..10 {
        world.send_tagged("orders", ["red", "green"][n % 2], ["r", "g"][n % 2]);
    }
    let all = world.receive("billing", invisible_secs(30));
    assert_eq!(all.len(), 10);
}

#[test]
fn sql_conditions_filter_like_tags_and_beside_them() {
    let mut world = World::new(11).topic("orders", 1).group("billing", max_attempts(9));
    let sql = || invisible_secs(30).sql("TAGS = 'red' AND UNIQ_KEY STARTSWITH 'b'");
    let tags = || invisible_secs(30).tags("green");
    world.receive("billing", sql());
    world.receive("billing", tags());
    for (tag, body) in [("red", "a1"), ("red", "b1"), ("green", "b2"), ("blue", "b3")] {
        world.send_tagged("orders", tag, body);
    }
    assert_eq!(world.receive("billing", tags()).bodies(), ["b2"]);
    assert_eq!(world.receive("billing", sql()).bodies(), ["b1"]);
    assert_eq!(world.shard().shard().counters().filtered, 2);
}

#[test]
fn after_a_restart_what_another_known_member_wants_is_not_passed_over() {
    let mut world = World::new(12).topic("orders", 1).group("billing", max_attempts(9));
    world.receive("billing", invisible_secs(30).tags("green"));
    world.receive("billing", invisible_secs(30).sql("TAGS = 'red'"));
    for (tag, body) in [("red", "r"), ("green", "g"), ("blue", "b")] {
        world.send_tagged("orders", tag, body);
    }
    world.crash();
    // The member that wants green ones is still away.
    let red = || invisible_secs(30).sql("TAGS = 'red'");
    assert_eq!(world.receive("billing", red()).bodies(), ["r"]);
    world.advance_secs(100);
    world.receive("billing", red());
    assert_eq!(world.receive("billing", invisible_secs(30).tags("green")).bodies(), ["g"]);
    assert_eq!(world.shard().shard().counters().filtered, 1);
}

#[test]
fn a_subscription_whose_members_stay_away_is_forgotten_and_holds_nothing_back() {
    let mut world = World::new(13).topic("orders", 1).group("billing", max_attempts(9));
    world.receive("billing", invisible_secs(30).tags("green"));
    world.receive("billing", invisible_secs(30).tags("red"));
    for crash in [true, false] {
        if crash {
            world.crash();
        }
        world.advance_secs(121);
        world.send_tagged("orders", "green", "g");
        world.receive("billing", invisible_secs(30).tags("red"));
    }
    assert_eq!(world.progress_of("billing").0[0].committed.0, 2);
    let group = world.group_id("billing");
    let subscriptions = |world: &mut World| match world.ask(|token| Command::DescribeSubscriptions { group, token }) {
        Output::Subscriptions(found) => found.iter().map(|found| found.filter.to_string()).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(subscriptions(&mut world), ["red"]);
    world.crash();
    assert_eq!(subscriptions(&mut world), ["red"], "the store has forgotten it too");
}

#[test]
fn a_connected_member_that_does_not_poll_loses_nothing() {
    let mut world = World::new(14).topic("orders", 1).group("billing", max_attempts(9));
    let (group, topic) = (world.group_id("billing"), world.topic_id("orders"));
    let filter = std::sync::Arc::new(martlet_model::Filter::tags("green").unwrap());
    for round in 0..10 {
        let filter = filter.clone();
        world.turn([Command::Subscribe { group, topic, filter }]);
        world.send_tagged("orders", "green", &round.to_string());
        world.receive("billing", invisible_secs(30).tags("red"));
        world.advance_secs(60);
    }
    assert_eq!(world.receive("billing", invisible_secs(30).tags("green")).len(), 10);
}

#[test]
fn the_65th_different_filter_is_refused_by_its_own_name_until_one_has_gone() {
    let mut world = World::new(15).topic("orders", 1).group("billing", max_attempts(9));
    for n in 0..64 {
        world.receive("billing", invisible_secs(30).tags(&format!("t{n}")).without_waiting());
    }
    let poll = world.poll("billing", invisible_secs(30).tags("one more"));
    world.settle();
    assert_eq!(world.refused(poll), Some(Refused::FiltersFull { limit: 64 }));
    world.advance_secs(121);
    assert_eq!(world.receive("billing", invisible_secs(30).tags("one more")).len(), 0);
}

#[test]
fn subscriptions_of_deleted_groups_and_topics_leave_the_store() {
    let mut world = World::new(16).topic("orders", 1).topic("bills", 1).group("billing", max_attempts(9));
    let keys_left = |world: &mut World| {
        let range = bytes::Bytes::from_static(&[14])..bytes::Bytes::from_static(&[15]);
        at_once(world.reader().scan(range, 100)).unwrap().len()
    };
    for topic in ["orders", "bills"] {
        let topic = world.topic_id(topic);
        world.receive("billing", invisible_secs(30).tags("red").from(topic));
    }
    world.crash();
    assert_eq!(keys_left(&mut world), 2);
    world.drop_topic("bills");
    assert_eq!(keys_left(&mut world), 1);
    world.drop_group("billing");
    world.settle();
    assert_eq!(keys_left(&mut world), 0);
}

/// What a filter is kept as is never longer than what was asked for.
#[test]
fn a_filter_as_long_as_the_limit_is_there_after_a_crash() {
    let mut world = World::new(17).topic("orders", 1).group("billing", max_attempts(3));
    let tags: Vec<String> = (0..2_900).map(|number| number.to_string()).collect();
    let tags = tags.join("||");
    assert!((16_000..=16_384).contains(&tags.len()));
    let poll = world.poll("billing", invisible_secs(30).tags(&tags));
    world.settle();
    world.crash();
    assert!(world.received(poll).is_none());
    world.send_tagged("orders", "red", "a");
    world.send_tagged("orders", "2899", "b");
    // Another member does not want it; the one that is away still does.
    assert_eq!(world.receive("billing", invisible_secs(30).tags("red")).one().body, "a");
    assert_eq!(world.receive("billing", invisible_secs(30).tags(&tags)).one().body, "b");
}

#[test]
fn a_poll_for_retries_alone_gets_what_was_delivered_before_a_crash_and_matches() {
    let mut world = World::new(21).topic("orders", 1).group("billing", max_attempts(3));
    world.receive("billing", invisible_secs(30).tags("red"));
    world.send_tagged("orders", "red", "a");
    assert_eq!(world.receive("billing", invisible_secs(30).tags("red")).one().body, "a");
    world.crash();
    world.send_tagged("orders", "red", "b");
    world.advance_secs(30);
    assert_eq!(world.receive("billing", invisible_secs(30).tags("red").retries_only()).bodies(), ["a"]);
}
