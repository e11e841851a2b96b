//! How old what a group of lite topics has not settled is.

use crate::world::lite::LASTING;
use crate::world::*;
use martlet_model::UnixMillis;
use martlet_shard::{Command, LiteParent, LiteReset, ResetTarget, lite_oldest, lite_progress, lite_topic};

fn world() -> World {
    let names: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    let mut world = World::new(1).lite_parent("chat", LASTING).lite_group("web", "chat", false, 100);
    world.subscribe_lite("web", 1, &names.iter().map(String::as_str).collect::<Vec<_>>());
    world
}

fn client(world: &World, client: u64) -> Receive {
    invisible_secs(300).lite(world.topic_id("chat"), client)
}

/// Ages in seconds of the oldest message that is not settled, and of the oldest that was never handed out; how many lite topics
/// had to be corrected.
fn look(world: &mut World, group: &str, most: usize) -> (Option<i64>, Option<i64>, usize) {
    let group = world.group_id(group);
    let found = at_once(lite_oldest(&world.reader(), group, true, most)).unwrap();
    let corrected = found.younger.len();
    world.turn([Command::CorrectLiteAges { group, found: found.younger }]);
    world.settle();
    let now = world.now;
    let age = |time: Option<UnixMillis>| time.map(|time| now.since(time) / 1_000);
    (age(found.oldest), age(found.oldest_ready), corrected)
}

fn ages(world: &mut World) -> (Option<i64>, Option<i64>) {
    let (oldest, ready, _) = look(world, "web", 100);
    (oldest, ready)
}

/// Keys that say since when something waits.
fn notes(world: &mut World) -> usize {
    world.store().keys().iter().filter(|key| key.starts_with(&[21, 1, 3])).count()
}

#[test]
fn ages_are_exact_at_every_stage_and_through_a_crash() {
    let mut world = world();
    assert_eq!(ages(&mut world), (None, None));
    world.send_lite("chat", "s1", &["a"]);
    world.advance_secs(10);
    world.send_lite("chat", "s2", &["b"]);
    world.advance_secs(10);
    world.send_lite("chat", "s1", &["c"]);
    world.advance_secs(10);
    assert_eq!(ages(&mut world), (Some(30), Some(30)));
    let first = world.receive("web", client(&world, 1).batch(1)).one();
    assert_eq!((first.body.as_str(), ages(&mut world)), ("a", (Some(30), Some(20))), "handed out is not settled");
    world.ack(&first.handle).unwrap();
    assert_eq!(ages(&mut world), (Some(20), Some(20)), "b, though s1 waited longer");
    world.crash();
    world.shard_mut().shard_mut().evict_clean();
    assert_eq!(ages(&mut world), (Some(20), Some(20)));
    let rest = world.receive("web", client(&world, 1));
    assert_eq!(ages(&mut world), (Some(20), None));
    for delivery in &rest.0 {
        world.ack(&delivery.handle).unwrap();
    }
    assert_eq!((ages(&mut world), notes(&mut world)), ((None, None), 0));
    world.send_lite("chat", "s2", &["d"]);
    world.advance_secs(5);
    assert_eq!(ages(&mut world), (Some(5), Some(5)));
}

#[test]
fn a_look_reads_one_lite_topic_where_many_wait_and_corrects_those_it_found_younger() {
    let mut world = world();
    for n in 0..40 {
        world.send_lite("chat", &format!("s{n}"), &["x", "y"]);
        world.advance_secs(1);
    }
    assert_eq!(look(&mut world, "web", 100), (Some(40), Some(40), 0));
    world.advance_secs(20);
    for n in 0..40 {
        world.send_lite("chat", &format!("s{n}"), &["z"]);
    }
    // Of each lite topic all but the last is settled: none was ever without a message.
    let mut left = 80;
    while left > 0 {
        let received = world.receive("web", client(&world, 1).batch(30));
        for delivery in received.0.iter().filter(|delivery| delivery.body != "z") {
            world.ack(&delivery.handle).unwrap();
            left -= 1;
        }
    }
    world.advance_secs(5);
    let (oldest, _, corrected) = look(&mut world, "web", 10);
    assert_eq!((oldest, corrected), (Some(5), 10), "at most as many as are asked for");
    world.shard_mut().shard_mut().evict_clean();
    assert_eq!(look(&mut world, "web", 100).2, 30);
    assert_eq!(look(&mut world, "web", 100).2, 0);
    world.crash();
    assert_eq!(look(&mut world, "web", 100), (Some(5), None, 0));
}

#[test]
fn where_many_have_all_of_theirs_in_flight_what_is_ready_is_not_said_to_be_older_than_they_are() {
    let mut world = world();
    for name in ["s1", "s2", "s3", "s4"] {
        world.send_lite("chat", name, &["x"]);
        world.advance_secs(10);
    }
    assert_eq!(world.receive("web", client(&world, 1).batch(3)).len(), 3);
    assert_eq!(look(&mut world, "web", 100), (Some(40), Some(10), 0));
    assert_eq!(
        look(&mut world, "web", 2),
        (Some(40), Some(30), 0),
        "no look at the third or fourth: at most as old as the second"
    );
}

#[test]
fn who_goes_back_has_old_messages_again() {
    let mut world = world();
    world.send_lite("chat", "s1", &["a", "b"]);
    world.advance_secs(100);
    let received = world.receive("web", client(&world, 1));
    world.ack(&received.0[0].handle).unwrap();
    world.send_lite("chat", "s1", &["c"]);
    world.ack(&received.0[1].handle).unwrap();
    let (group, parent) = (world.group_id("web"), world.topic_id("chat"));
    let queue = at_once(lite_topic(&world.reader(), parent, "s1")).unwrap().unwrap().queue;
    let stale = at_once(lite_oldest(&world.reader(), group, true, 9)).unwrap().younger;
    assert_eq!(ages(&mut world), (Some(0), Some(0)));
    let reset = |world: &mut World, to| {
        let targets = vec![(queue, to)];
        world.ask(|token| Command::ResetLite { reset: LiteReset { group, parent, targets, only_back: false }, token });
    };
    reset(&mut world, ResetTarget::Earliest);
    assert_eq!(ages(&mut world), (Some(100), Some(100)));
    // What was found before it went back does not count any more.
    world.turn([Command::CorrectLiteAges { group, found: stale }]);
    assert_eq!(ages(&mut world), (Some(100), Some(100)));
    reset(&mut world, ResetTarget::Latest);
    assert_eq!((ages(&mut world), notes(&mut world)), ((None, None), 0));
}

#[test]
fn what_a_group_finds_when_it_comes_counts_from_when_it_was_stored() {
    let mut world = world();
    world.send_lite("chat", "late", &["a"]);
    world.advance_secs(50);
    assert_eq!(ages(&mut world), (None, None), "the group has not been there");
    world.subscribe_lite("web", 2, &["late"]);
    world.send_lite("chat", "late", &["b"]);
    assert_eq!(ages(&mut world), (Some(50), Some(50)));
    let look = at_once(lite_topic(&world.reader(), world.topic_id("chat"), "late")).unwrap().unwrap();
    let received = world.receive("web", client(&world, 2).batch(1)).one();
    let progress = at_once(lite_progress(&world.reader(), world.group_id("web"), &look)).unwrap();
    let age = |time: Option<UnixMillis>| world.now.since(time.unwrap()) / 1_000;
    assert_eq!((age(progress.oldest), age(progress.oldest_ready)), (50, 0), "of one lite topic alone");
    world.ack(&received.handle).unwrap();
    assert_eq!(ages(&mut world), (Some(0), Some(0)));
}

#[test]
fn what_retention_takes_does_not_age_and_nothing_is_left_of_what_is_deleted() {
    let mut world = World::new(1).lite_parent("chat", LASTING).wildcard_group("log", "chat");
    world.make_lite_parent("chat", LiteParent { expire_millis: Some(1_600_000), ..LASTING }, Some(3_600_000));
    world.send_lite("chat", "a", &["old"]);
    world.shard_mut().shard_mut().evict_clean();
    world.advance_secs(8_000);
    assert_eq!((look(&mut world, "log", 9).0, notes(&mut world)), (None, 0), "retention has taken it");
    world.send_lite("chat", "b", &["x"]);
    world.send_lite("chat", "c", &["y"]);
    assert_eq!(notes(&mut world), 2);
    world.shard_mut().shard_mut().evict_clean();
    world.drop_topic("chat");
    world.settle();
    assert_eq!(notes(&mut world), 0);
    let mut world = World::new(1).lite_parent("chat", LASTING).wildcard_group("log", "chat");
    world.send_lite("chat", "b", &["x"]);
    world.drop_group("log");
    world.settle();
    assert_eq!(notes(&mut world), 0);
}
