//! Who is subscribed to which lite topic: versions, exclusive groups, leases, places to begin at.

use crate::world::lite::LASTING;
use crate::world::{Receive, World, invisible_secs};
use martlet_model::{LiteResets, QueueOffset};
use martlet_shard::{LiteAction, LiteStart, Output, Refused};

fn world(exclusive: bool) -> World {
    World::new(1).lite_parent("chat", LASTING).lite_group("web", "chat", exclusive, 4)
}

fn client(world: &World, client: u64) -> Receive {
    invisible_secs(30).lite(world.topic_id("chat"), client)
}

/// The names a client is handed something of, when each of these is sent to.
fn subscribed(world: &mut World, number: u64, names: &[&str]) -> Vec<String> {
    for name in names {
        world.send_lite("chat", name, &[name]);
    }
    let received = world.receive("web", client(world, number));
    received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    received.bodies().iter().map(|body| body.to_string()).collect()
}

#[test]
fn each_action_does_what_it_says() {
    let mut world = world(false);
    let all = ["a", "b", "c", "d"];
    world.subscribe_lite("web", 1, &["a", "b", "a"]);
    assert_eq!(subscribed(&mut world, 1, &all), ["a", "b"]);
    assert_eq!(world.sync_lite("web", 1, LiteAction::Remove, &["b", "never"]), Output::Done);
    assert_eq!(subscribed(&mut world, 1, &["a", "b"]), ["a"]);
    assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &["c", "d"]), Output::Done);
    assert_eq!(subscribed(&mut world, 1, &["a", "b"]), ["c", "d"], "what was sent before comes too");
    assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &[]), Output::Done);
    assert!(subscribed(&mut world, 1, &all).is_empty());
    world.subscribe_lite("web", 1, &["a"]);
    assert_eq!(world.sync_lite("web", 1, LiteAction::Clear, &[]), Output::Done);
    assert_eq!(world.shard().shard().lite_sizes().1, 0);
}

#[test]
fn an_older_synchronisation_never_rolls_a_newer_one_back_not_even_after_a_crash() {
    let mut world = world(false);
    assert_eq!(world.sync_version("web", 1, LiteAction::Set, &["a"], Some(5)), Output::Done);
    assert_eq!(world.sync_version("web", 1, LiteAction::Add(LiteStart::Last), &["b"], Some(6)), Output::Done);
    assert_eq!(world.sync_version("web", 1, LiteAction::Set, &["a"], Some(5)), Output::Done);
    assert_eq!(subscribed(&mut world, 1, &["a", "b"]), ["a", "b"]);
    world.crash();
    assert_eq!(world.sync_version("web", 1, LiteAction::Set, &["a"], Some(5)), Output::Done);
    assert_eq!(subscribed(&mut world, 1, &["a", "b"]), ["a", "b"]);
    assert_eq!(world.sync_version("web", 1, LiteAction::Set, &["b"], Some(6)), Output::Done, "an equal one counts");
    assert_eq!(subscribed(&mut world, 1, &["a", "b"]), ["b"]);
    assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &["a"]), Output::Done);
    assert_eq!(subscribed(&mut world, 1, &["b"]), ["a"], "and so does one without a version");
}

#[test]
fn a_full_synchronisation_that_changes_nothing_writes_nothing() {
    let mut world = world(false);
    world.subscribe_lite("web", 1, &["a", "b"]);
    let before = world.store().batches().len();
    for _ in 0..20 {
        assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &["b", "a"]), Output::Done);
        world.advance_secs(1);
    }
    assert_eq!(world.store().batches().len(), before);
    world.advance_secs(60);
    assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &["b", "a"]), Output::Done);
    assert_eq!(world.store().batches().len(), before + 1, "the lease, once a minute");
}

#[test]
fn no_way_of_subscribing_goes_past_the_quota() {
    let mut world = world(false);
    world.subscribe_lite("web", 1, &["a", "b", "c"]);
    let full = Output::Refused(Refused::LiteSubscriptionsFull { wanted: 5, limit: 4 });
    assert_eq!(world.sync_lite("web", 1, LiteAction::Add(LiteStart::Last), &["d", "e"]), full);
    assert_eq!(world.sync_lite("web", 1, LiteAction::Add(LiteStart::Min), &["d", "e"]), full);
    assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &["v", "w", "x", "y", "z"]), full);
    assert_eq!(subscribed(&mut world, 1, &["a", "d"]), ["a"], "and what was there stays");
    world.subscribe_lite("web", 1, &["a", "b", "c", "d"]);
}

#[test]
fn a_lease_ends_without_a_sign_of_life_and_with_its_client() {
    let mut world = world(false);
    world.subscribe_lite("web", 1, &["a"]);
    world.subscribe_lite("web", 2, &["b"]);
    world.subscribe_lite("web", 3, &["c"]);
    for _ in 0..4 {
        world.advance_secs(60);
        assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &["a"]), Output::Done);
        world.receive("web", client(&world, 2));
    }
    assert_eq!(world.shard().shard().lite_sizes(), (0, 2, 2), "a synchronisation and a poll both keep it");
    world.client_gone(2);
    assert_eq!(world.shard().shard().lite_sizes().1, 1);
    world.crash();
    world.receive("web", client(&world, 9));
    assert_eq!(world.shard().shard().lite_sizes().1, 1, "what has ended does not come back");
    world.advance_secs(181);
    assert_eq!(world.shard().shard().lite_sizes().1, 0, "whoever does not come back after a restart loses it");
    let left = world.store().keys().iter().filter(|key| [18, 19].contains(&key[0])).count();
    assert_eq!(left, 0);
}

#[test]
fn subscriptions_survive_a_crash_and_bring_what_waits_before_the_client_says_anything_but_a_poll() {
    let mut world = world(false);
    world.subscribe_lite("web", 1, &["a", "b"]);
    world.send_lite("chat", "a", &["a1"]);
    world.crash();
    assert_eq!(world.receive("web", client(&world, 1)).in_order(), ["a1"]);
    let waiting = world.poll("web", client(&world, 1));
    world.send_lite("chat", "b", &["b1"]);
    assert_eq!(world.received(waiting).unwrap().in_order(), ["b1"]);
}

#[test]
fn in_an_exclusive_group_the_newest_subscriber_takes_over_and_the_other_is_told() {
    let mut world = world(true);
    world.subscribe_lite("web", 1, &["a", "b"]);
    world.subscribe_lite("web", 2, &["a"]);
    assert_eq!(world.told(), [("client-1".into(), "a".into())]);
    let loser = world.poll("web", client(&world, 1));
    world.send_lite("chat", "a", &["a1"]);
    assert!(world.received(loser).is_none());
    assert_eq!(world.receive("web", client(&world, 2)).in_order(), ["a1"]);
    assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &["a", "b"]), Output::Done);
    assert_eq!(world.told(), [("client-1".into(), "a".into())], "a full set takes nothing, and it is told again");
    world.send_lite("chat", "b", &["b1"]);
    assert_eq!(world.received(loser).unwrap().in_order(), ["b1"]);
}

/// The reference keeps this in memory only: after a restart two clients that both send their full set are both subscribed.
#[test]
fn exclusiveness_survives_a_crash() {
    let mut world = world(true);
    world.subscribe_lite("web", 1, &["a"]);
    world.subscribe_lite("web", 2, &["a"]);
    world.told();
    world.crash();
    assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &["a"]), Output::Done);
    assert_eq!(world.told(), [("client-1".into(), "a".into())]);
    assert_eq!(world.sync_lite("web", 2, LiteAction::Set, &["a"]), Output::Done);
    assert!(world.told().is_empty());
    assert_eq!(subscribed(&mut world, 2, &["a"]), ["a"]);
    world.client_gone(2);
    assert_eq!(world.sync_lite("web", 1, LiteAction::Set, &["a"]), Output::Done);
    assert!(world.told().is_empty(), "free again: a full set gets it");
    assert_eq!(subscribed(&mut world, 1, &["a"]), ["a"]);
}

#[test]
fn nobody_is_told_before_the_takeover_is_durable() {
    let mut world = world(true);
    world.subscribe_lite("web", 1, &["a"]);
    world.hold_syncs();
    let _ = world.begin_sync("web", 2, LiteAction::Add(LiteStart::Last), &["a"]);
    world.settle();
    assert!(world.told().is_empty());
    world.sync();
    assert_eq!(world.told(), [("client-1".into(), "a".into())]);
}

#[test]
fn every_place_to_begin_at_is_honoured() {
    let mut world = world(false);
    for n in 0..10 {
        world.send_lite("chat", "a", &[&format!("a{n}")]);
        world.advance_secs(10);
    }
    let from_7 = martlet_model::UnixMillis(crate::world::START.0 + 65_000);
    for (start, first) in [
        (LiteStart::Min, Some("a0")),
        (LiteStart::Offset(QueueOffset(4)), Some("a4")),
        (LiteStart::Offset(QueueOffset(99)), None),
        (LiteStart::Tail(3), Some("a7")),
        (LiteStart::Tail(99), Some("a0")),
        (LiteStart::Time(from_7), Some("a7")),
        (LiteStart::Max, None),
        (LiteStart::Last, None),
        (LiteStart::Min, Some("a0")),
    ] {
        assert_eq!(world.sync_lite("web", 1, LiteAction::Clear, &[]), Output::Done);
        assert_eq!(world.sync_lite("web", 1, LiteAction::Add(start), &["a", "not-there"]), Output::Done);
        let received = world.receive("web", client(&world, 1));
        assert_eq!(received.in_order().first().copied(), first, "{start:?}");
        received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
    }
}

#[test]
fn a_group_of_another_parent_or_of_none_is_refused() {
    let mut world = world(false).lite_parent("other", LASTING).group("plain", crate::world::max_attempts(3));
    assert_eq!(
        world.sync_lite("plain", 1, LiteAction::Set, &["a"]),
        Output::Refused(Refused::TopicGone),
        "a group without a parent"
    );
    let other = invisible_secs(30).lite(world.topic_id("other"), 1);
    let poll = world.poll("web", other);
    world.settle();
    assert_eq!(world.refused(poll), Some(Refused::NotLite));
}

#[test]
fn a_takeover_and_an_unsubscription_have_the_group_begin_again_where_it_says_so() {
    let resets = [(false, false), (true, false), (false, true), (true, true)];
    for (exclusive, unsubscribe) in resets {
        let resets = LiteResets { exclusive, unsubscribe };
        let mut world = World::new(1).lite_parent("chat", LASTING).resetting_group("web", "chat", resets);
        let received = |world: &mut World, number| {
            let received = world.receive("web", client(world, number));
            received.0.iter().for_each(|delivery| world.ack(&delivery.handle).unwrap());
            received.in_order().iter().map(|body| body.to_string()).collect::<Vec<_>>()
        };
        let all = |again: bool| if again { vec!["a1", "a2"] } else { vec![] };
        world.subscribe_lite("web", 1, &["a", "b"]);
        world.send_lite("chat", "a", &["a1", "a2"]);
        assert_eq!(received(&mut world, 1), ["a1", "a2"]);
        world.crash();
        world.subscribe_lite("web", 2, &["a"]);
        assert_eq!(received(&mut world, 2), all(exclusive), "{resets:?}: taken over");
        world.subscribe_lite("web", 2, &["a"]);
        assert!(received(&mut world, 2).is_empty(), "{resets:?}: it has it already");
        world.sync_lite("web", 1, LiteAction::Add(LiteStart::Max), &["a"]);
        assert!(received(&mut world, 1).is_empty(), "{resets:?}: a client says where it begins");
        world.sync_lite("web", 1, LiteAction::Remove, &["a"]);
        world.subscribe_lite("web", 1, &["a"]);
        assert_eq!(received(&mut world, 1), all(unsubscribe), "{resets:?}: unsubscribed");
        world.sync_lite("web", 1, LiteAction::Set, &["b"]);
        world.subscribe_lite("web", 1, &["a"]);
        assert!(received(&mut world, 1).is_empty(), "{resets:?}: a full set without it is no unsubscription");
    }
}
