//! Message ids that were sent before: recognised within the topic's window, stored once.

use crate::world::{World, incoming, invisible_secs, max_attempts, message};
use martlet_model::record::{self, Field};
use martlet_model::{QueueOffset, UnixMillis};
use martlet_shard::{Command, EndError, HalfPlace, Output, Placed, RecallError, Scheduled, ShardOptions, TimerAt};

const WINDOW: i64 = 300_000;

fn world() -> World {
    let mut world = World::new(1);
    world.deduplicate("orders", 2, Some(WINDOW));
    world.group("billing", max_attempts(3))
}

/// Sends bodies, which are their message ids too; gives back queue and offset of each.
fn send(world: &mut World, topic: &str, bodies: &[&str]) -> Vec<(u32, u64)> {
    let token = world.begin_send(topic, bodies, None);
    world.settle();
    places(world.answer_to(token))
}

fn places(answer: Option<Output>) -> Vec<(u32, u64)> {
    match answer {
        Some(Output::Sent(places)) => places.into_iter().map(|(queue, offset)| (queue, offset.0)).collect(),
        other => panic!("a send was answered with {other:?}"),
    }
}

#[test]
fn a_message_id_that_was_sent_before_gets_the_first_ones_place_and_is_stored_once() {
    let mut world = world();
    let first = send(&mut world, "orders", &["a"]);
    let others = send(&mut world, "orders", &["b", "c"]);
    world.advance_millis(WINDOW - 1);
    assert_eq!(send(&mut world, "orders", &["a"]), first);
    assert_eq!(send(&mut world, "orders", &["c", "d", "c", "d"])[..1], others[1..]);
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["a", "b", "c", "d"]);
    assert_eq!(world.shard().shard().counters().deduplicated, 4);
}

#[test]
fn after_the_window_or_without_one_it_is_another_message() {
    let mut world = world();
    let first = send(&mut world, "orders", &["a"]);
    world.advance_millis(WINDOW);
    assert_ne!(send(&mut world, "orders", &["a"]), first);
    world.deduplicate("orders", 2, None);
    send(&mut world, "orders", &["a"]);
    assert_eq!(world.shard().shard().known_ids(), 0);
    world.deduplicate("orders", 2, Some(WINDOW));
    send(&mut world, "orders", &["a"]);
    world.make_topic("audit", 1, None);
    assert_eq!(send(&mut world, "audit", &["a", "a"]), [(0, 0), (0, 1)]);
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["a"; 4]);
    world.drop_topic("orders");
    assert_eq!(world.shard().shard().known_ids(), 0);
    world.deduplicate("orders", 2, Some(WINDOW));
    assert_eq!(send(&mut world, "orders", &["a"]), [(0, 0)], "another topic of this name");
}

#[test]
fn the_answer_waits_until_the_first_message_is_durable() {
    let mut world = world();
    world.hold_syncs();
    let first = world.begin_send("orders", &["a"], None);
    world.settle();
    let second = world.begin_send("orders", &["a"], None);
    world.settle();
    assert_eq!((world.answer_to(first), world.answer_to(second)), (None, None));
    world.sync();
    assert_eq!(places(world.answer_to(first)), places(world.answer_to(second)));
}

#[test]
fn a_retry_of_an_ordered_message_does_not_come_after_what_was_sent_behind_it() {
    let mut world = World::new(2);
    world.deduplicate("orders", 4, Some(WINDOW));
    let mut world = world.group("billing", max_attempts(3).in_order());
    let first = world.send_grouped("orders", &[("customer", "a")]);
    let both = world.send_grouped("orders", &[("customer", "b"), ("customer", "a")]);
    assert_eq!(both, [(first[0].0, first[0].1 + 1), first[0]]);
    world.crash();
    assert_eq!(world.send_grouped("orders", &[("customer", "a")]), first);
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["a", "b"]);
}

#[test]
fn a_retry_keeps_the_level_of_the_first() {
    let mut world = World::new(3).topic_by_priority("orders", 3);
    world.deduplicate("orders", 3, Some(WINDOW));
    let mut world = world.group("billing", max_attempts(3));
    let first = world.send_by_priority("orders", &[(2, "urgent"), (0, "not")]);
    assert_eq!(first, [(2, 0), (0, 0)]);
    // The id counts, not what else a sender says of the message.
    assert_eq!(world.send_by_priority("orders", &[(0, "urgent")]), first[..1]);
    world.crash();
    assert_eq!(world.send_by_priority("orders", &[(2, "urgent"), (0, "not")]), first);
    assert_eq!(world.receive("billing", invisible_secs(30)).in_order(), ["urgent", "not"]);
}

#[test]
fn ids_survive_a_crash_as_their_messages_do() {
    let mut world = world();
    let kept = send(&mut world, "orders", &["kept"]);
    world.hold_syncs();
    let lost = world.begin_send("orders", &["lost"], None);
    world.settle();
    assert_eq!(world.answer_to(lost), None);
    world.crash();
    assert_eq!(send(&mut world, "orders", &["kept"]), kept);
    send(&mut world, "orders", &["lost"]);
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["kept", "lost"]);
    // The window counts from the first send, not from the opening.
    world.advance_millis(WINDOW);
    world.crash();
    assert_eq!(world.shard().shard().known_ids(), 0);
}

fn schedule(world: &mut World, body: &str, due: UnixMillis) -> Placed {
    let topic = world.topic_id("orders");
    let record = record::with_fields(&message(body, None), &[Field::DeliveryTimestamp(due.0)]).unwrap();
    let messages = vec![Scheduled { message: martlet_shard::Incoming { record, ..incoming(body, None, None) }, due }];
    match world.ask(|token| Command::Schedule { topic, messages, deadline: None, token }) {
        Output::Scheduled(placed) => placed[0],
        other => panic!("a delayed message was answered with {other:?}"),
    }
}

fn recall(world: &mut World, at: TimerAt) -> Result<String, RecallError> {
    let topic = world.topic_id("orders");
    match world.ask(|token| Command::Recall { topic, at, token }) {
        Output::Recalled(answer) => answer,
        other => panic!("a recall was answered with {other:?}"),
    }
}

#[test]
fn a_delayed_message_keeps_its_timer_through_a_restart_and_then_has_its_place_in_the_topic() {
    let mut world = world();
    let due = UnixMillis(world.now.0 + 60_000);
    let first = schedule(&mut world, "a", due);
    assert!(matches!(first, Placed::Later(at) if at.due == due));
    assert_eq!(schedule(&mut world, "a", due), first);
    world.crash();
    assert_eq!(schedule(&mut world, "a", due), first);
    world.advance_secs(61);
    let place = Placed::Now(0, QueueOffset(0));
    assert_eq!(schedule(&mut world, "a", due), place);
    world.crash();
    // It counts anew from its delivery.
    world.advance_millis(WINDOW - 2_000);
    assert_eq!(schedule(&mut world, "a", due), place);
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["a"]);
    world.advance_secs(10);
    assert_ne!(schedule(&mut world, "a", due), place);
}

#[test]
fn a_recalled_message_does_not_come_back_with_a_retry() {
    let mut world = world();
    let due = UnixMillis(world.now.0 + 60_000);
    let Placed::Later(at) = schedule(&mut world, "a", due) else { panic!("it waits") };
    assert_eq!(recall(&mut world, at), Ok("a".into()));
    assert_eq!(schedule(&mut world, "a", due), Placed::Later(at));
    world.advance_secs(61);
    assert_eq!(world.receive("billing", invisible_secs(30)).len(), 0);
}

fn half(world: &mut World, body: &str) -> (HalfPlace, UnixMillis) {
    world.send_half("orders", message(body, None), None, false)
}

fn end(world: &mut World, place: HalfPlace, commit: bool) -> Result<(), EndError> {
    let topic = world.topic_id("orders");
    match world.ask(|token| Command::EndTransaction { topic, place, commit, token }) {
        Output::Ended(answer) => answer,
        other => panic!("the end of a transaction was answered with {other:?}"),
    }
}

fn open_transactions(world: &World) -> u64 {
    world.shard().shard().waiting().map(|(_, waiting)| waiting.halves).sum()
}

#[test]
fn a_half_message_sent_again_is_the_same_transaction_open_or_ended() {
    let mut world = world();
    let first = half(&mut world, "a");
    world.advance_secs(2);
    assert_eq!(half(&mut world, "a"), first);
    world.crash();
    assert_eq!(half(&mut world, "a"), first);
    assert_eq!(open_transactions(&world), 1);
    let other = half(&mut world, "b");
    assert_ne!(other.0, first.0);
    assert_eq!(end(&mut world, first.0, true), Ok(()));
    assert_eq!(end(&mut world, other.0, false), Ok(()));
    assert_eq!((half(&mut world, "a"), half(&mut world, "b")), (first, other));
    assert_eq!(end(&mut world, first.0, true), Ok(()));
    assert_eq!(end(&mut world, other.0, true), Err(EndError::Ended { committed: false }));
    assert_eq!(open_transactions(&world), 0);
    world.advance_millis(WINDOW);
    let later = half(&mut world, "a");
    assert_ne!(later.0, first.0, "after the window it is another transaction");
    assert_eq!(end(&mut world, later.0, true), Ok(()));
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["a", "a"]);
}

#[test]
fn a_half_message_is_nobodys_first_until_it_is_committed() {
    let mut world = world();
    let (place, _) = half(&mut world, "a");
    assert_eq!(send(&mut world, "orders", &["a"]), [(0, 0)], "unseen, it is no message of the topic");
    let (unseen, _) = half(&mut world, "b");
    assert_eq!(end(&mut world, place, true), Ok(()), "a commit is no send: it is never left out");
    assert_eq!(end(&mut world, unseen, true), Ok(()));
    let committed = world.receive("billing", invisible_secs(30));
    assert_eq!(committed.bodies(), ["a", "a", "b"]);
    let of_b = committed.0.iter().find(|delivery| delivery.body == "b").unwrap().hand_out;
    assert_eq!(send(&mut world, "orders", &["b"]), [(of_b.queue_index, of_b.offset.0)]);
}

#[test]
fn the_number_of_ids_is_bounded_and_what_is_forgotten_early_is_counted() {
    let mut world = World::with(ShardOptions { known_ids_max: 3, ..ShardOptions::default() });
    world.deduplicate("orders", 1, Some(WINDOW));
    let places: Vec<_> = ["a", "b", "c", "d"].iter().flat_map(|id| send(&mut world, "orders", &[id])).collect();
    assert_eq!(world.shard().shard().known_ids(), 3);
    assert_eq!(world.shard().shard().counters().ids_forgotten, 1);
    assert_eq!(send(&mut world, "orders", &["b", "d"]), [places[1], places[3]]);
    world.crash();
    let shard = world.shard().shard();
    assert_eq!((shard.known_ids(), shard.known_ids_not_read().len()), (3, 1), "{:?}", shard.known_ids_not_read());
    assert_eq!(send(&mut world, "orders", &["b", "c", "d"]), places[1..]);
    assert_ne!(send(&mut world, "orders", &["a"]), places[..1]);
}

#[test]
fn an_opening_reads_no_more_than_so_many_bytes_and_the_newest_first() {
    let mut world = World::with(ShardOptions { known_ids_read_bytes_max: 3 << 20, ..ShardOptions::default() });
    world.deduplicate("orders", 1, Some(WINDOW));
    let body = |n: u32| format!("{n:02}").repeat(150_000);
    for n in 0..40 {
        send(&mut world, "orders", &[&body(n)]);
    }
    world.crash();
    let known = world.shard().shard().known_ids();
    assert!((5..=7).contains(&known), "{known} of 24 MB");
    let told = world.shard().shard().known_ids_not_read().to_vec();
    assert!(told.len() == 1 && told[0].contains("3145728 bytes"), "{told:?}");
    assert_eq!(send(&mut world, "orders", &[&body(39), &body(36)]), [(0, 39), (0, 36)]);
    assert_eq!(send(&mut world, "orders", &[&body(0)]), [(0, 40)]);
}

#[test]
fn what_cannot_be_read_at_the_opening_is_left_out_and_told() {
    let mut world = world();
    world.deduplicate("audit", 1, Some(WINDOW));
    let due = UnixMillis(world.now.0 + 60_000);
    let of_audit = send(&mut world, "audit", &["kept"]);
    send(&mut world, "orders", &["first"]);
    let waiting = schedule(&mut world, "later", due);
    let damaged = world.queues_of("orders")[0].queue;
    world.store().damage(damaged);
    world.crash();
    let told = world.shard().shard().known_ids_not_read();
    let expected =
        "queue 0 of topic orders: 1.log is damaged at position 9: expected what was written, found other bytes";
    assert_eq!(told, [expected]);
    assert_eq!(send(&mut world, "audit", &["kept"]), of_audit);
    assert_eq!(schedule(&mut world, "later", due), waiting);
    let Placed::Later(at) = waiting else { panic!("it waits") };
    world.store().damage(at.queue);
    world.crash();
    assert!(world.shard().shard().known_ids_not_read()[1].starts_with("delayed messages: 1.log is damaged"));
}

/// A message that was sent, and when.
#[derive(Clone, Debug)]
enum Sent {
    Message,
    Delayed(UnixMillis),
    Half,
}

/// Where it is, as its sender is told.
fn again(world: &mut World, id: &str, sent: &Sent) -> String {
    match sent {
        Sent::Message => format!("{:?}", send(world, "orders", &[id])),
        Sent::Delayed(due) => format!("{:?}", schedule(world, id, *due)),
        Sent::Half => format!("{:?}", half(world, id)),
    }
}

#[test]
fn what_is_known_after_an_opening_is_what_was_known_before() {
    for seed in 1..=30_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        let mut world = world();
        let mut sent: Vec<(String, Sent, UnixMillis)> = Vec::new();
        let mut ended = Vec::new();
        for n in 0..80 {
            let id = format!("{seed}.{n}");
            let kind = match below(4) {
                0 => Sent::Delayed(world.now.plus(below(400_000) as i64 - 10_000)),
                1 => Sent::Half,
                _ => Sent::Message,
            };
            again(&mut world, &id, &kind);
            sent.push((id, kind, world.now));
            let (id, kind, _) = sent[below(sent.len() as u64) as usize].clone();
            if let Sent::Half = kind
                && below(2) == 0
                && !ended.contains(&id)
            {
                let (place, _) = half(&mut world, &id);
                assert_eq!(end(&mut world, place, below(2) == 0), Ok(()));
                ended.push(id);
            }
            world.advance_millis(below(9_000) as i64);
            if below(20) == 0 {
                world.crash();
            }
        }
        let (now, before) = (world.now, world.shard().shard().counters().clone());
        let stored = (before.messages_in, before.timers_in, before.halves_in);
        let deduplicated = before.deduplicated;
        sent.retain(|(id, _, at)| now.since(*at) < WINDOW && !ended.contains(id));
        let ask =
            |world: &mut World| -> Vec<String> { sent.iter().map(|(id, kind, _)| again(world, id, kind)).collect() };
        let before = ask(&mut world);
        let counters = world.shard().shard().counters();
        assert_eq!((counters.messages_in, counters.timers_in, counters.halves_in), stored, "seed {seed}");
        assert_eq!(counters.deduplicated - deduplicated, sent.len() as u64, "seed {seed}");
        world.crash();
        assert_eq!(ask(&mut world), before, "seed {seed}");
        let counters = world.shard().shard().counters();
        assert_eq!((counters.messages_in, counters.timers_in, counters.halves_in), (0, 0, 0), "seed {seed}");
    }
}
