//! Putting dead letters back: each once, whatever crashes.

use crate::world::*;
use martlet_model::QueueOffset;
use martlet_shard::{Command, DeadLetterPlace, Output, Refused, ResendError};

/// "a" and "b" are dead letters of the group, "c" is not.
fn world() -> World {
    let mut world = World::new(1).topic("orders", 1).group("billing", max_attempts(1));
    world.send_all("orders", &["a", "b"]);
    world.receive("billing", invisible_secs(30));
    world.advance_secs(30);
    world.send("orders", "c");
    assert_eq!(world.progress_of("billing").1, 2);
    world
}

fn place(world: &World, offset: u64) -> DeadLetterPlace {
    let topic = martlet_model::TopicId::dead_letters_of(world.group_id("billing"));
    DeadLetterPlace { topic, index: 0, offset: QueueOffset(offset) }
}

fn resend(world: &mut World, offset: u64) -> Output {
    let place = place(world, offset);
    world.ask(|token| Command::Resend { place, token })
}

fn unresolved(world: &mut World, limit: u32) -> Vec<u64> {
    let (topic, from) = (place(world, 0).topic, QueueOffset(0));
    match world.ask(|token| Command::Unresolved { topic, index: 0, from, limit, token }) {
        Output::Offsets(_, offsets) => offsets.iter().map(|offset| offset.0).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_resent_dead_letter_is_received_once_more_and_counts_no_longer() {
    let mut world = world();
    let topic = world.topic_id("orders");
    assert_eq!(unresolved(&mut world, 10), [0, 1]);
    assert_eq!(resend(&mut world, 0), Output::Resent(Ok((topic, 0, QueueOffset(3)))));
    assert_eq!(world.progress_of("billing").1, 1);
    assert_eq!(unresolved(&mut world, 10), [1]);
    assert_eq!(resend(&mut world, 0), Output::Resent(Err(ResendError::AlreadyResent)));
    let received = world.receive("billing", invisible_secs(30));
    assert_eq!(received.bodies(), ["a", "c"]);
    assert!(received.0.iter().all(|delivery| delivery.attempt == 1));
    // It fails again, and is a dead letter of its own that can be resent.
    world.advance_secs(30);
    assert_eq!(unresolved(&mut world, 10), [1, 2, 3]);
    assert!(matches!(resend(&mut world, 2), Output::Resent(Ok(_))));
}

#[test]
fn a_crash_neither_loses_nor_repeats_what_is_being_resent() {
    let mut world = world();
    world.hold_syncs();
    let letter = place(&world, 0);
    let answer = world.begin(|token| Command::Resend { place: letter, token });
    world.settle();
    assert_eq!(world.answer_to(answer), None, "said only when it is durable");
    world.crash();
    assert_eq!(unresolved(&mut world, 10), [0, 1], "neither side of it happened");
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["c"]);
    assert!(matches!(resend(&mut world, 0), Output::Resent(Ok(_))));
    world.crash();
    assert_eq!(unresolved(&mut world, 10), [1], "both did");
    assert_eq!(resend(&mut world, 0), Output::Resent(Err(ResendError::AlreadyResent)));
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["a"]);
}

#[test]
fn two_who_resend_the_same_letter_at_once_send_it_once() {
    let mut world = world();
    let letter = place(&world, 1);
    let answers: Vec<_> = (0..2).map(|_| world.begin(|token| Command::Resend { place: letter, token })).collect();
    world.settle();
    let answers: Vec<_> = answers.into_iter().map(|answer| world.answer_to(answer).unwrap()).collect();
    let sent = answers.iter().filter(|answer| matches!(answer, Output::Resent(Ok(_)))).count();
    assert_eq!(sent, 1, "{answers:?}");
    assert_eq!(world.receive("billing", invisible_secs(30)).bodies(), ["b", "c"]);
}

#[test]
fn what_cannot_be_resent_stays_and_says_why() {
    let mut world = world();
    assert_eq!(resend(&mut world, 2), Output::Resent(Err(ResendError::NotThere)));
    world.store().full = true;
    assert!(matches!(resend(&mut world, 0), Output::Refused(Refused::DiskFull { .. })));
    world.store().full = false;
    world.store().fail_reads(true);
    assert!(matches!(resend(&mut world, 0), Output::Refused(Refused::ReadFailed(_))));
    world.store().fail_reads(false);
    let (topic, orders) = (world.topic_id("orders"), QueueOffset(0));
    let normal = DeadLetterPlace { topic, index: 0, offset: orders };
    let answer = world.ask(|token| Command::Resend { place: normal, token });
    assert_eq!(answer, Output::Resent(Err(ResendError::NoDeadLetter)));
    world.drop_topic("orders");
    assert_eq!(resend(&mut world, 0), Output::Resent(Err(ResendError::TopicGone { topic: "orders".into() })));
    assert_eq!(unresolved(&mut world, 10), [0, 1]);
}

#[test]
fn a_deleted_group_takes_its_notes_of_resent_letters_along() {
    let mut world = world();
    assert!(matches!(resend(&mut world, 0), Output::Resent(Ok(_))));
    world.drop_group("billing");
    world.crash();
    let reader = world.reader();
    let found = martlet_store::Reader::scan(&reader, vec![16u8].into()..vec![17u8].into(), 10);
    assert!(at_once(found).unwrap().is_empty());
}
