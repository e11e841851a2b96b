//! What the model must hold for possible, played without chance.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::ground::Disk;

/// One topic, one group, one client, and messages; some sends make several segments.
fn run(facts: impl Fn(&mut GroupFacts), filtered: bool, sends: u32) -> Run<Disk> {
    let mut run = Run::<Disk>::new(1, Plan::default());
    run.ground.options.segment_bytes = 4 << 10;
    run.open().unwrap();
    let topic = run.new_topic(0);
    run.topics.push(topic);
    let mut group = run.new_group(if filtered { 2 } else { 0 });
    group.topic = 0;
    facts(&mut group.facts);
    run.groups.push(group);
    run.clients.push(Client::new(1, 0));
    run.apply_catalog();
    run.pump().unwrap();
    // The group's progress is in memory from now on, and old messages are not.
    run.poll(0);
    run.pump().unwrap();
    run.monotonic += 20_000;
    run.pump().unwrap();
    let mut sends = sends;
    while sends > 0 || run.judge.messages.iter().all(|message| message.place.is_none()) {
        run.produce();
        run.pump().unwrap();
        sends = sends.saturating_sub(1);
    }
    run
}

#[test]
fn an_attempt_that_a_crash_kept_but_nobody_heard_of_may_be_the_last() {
    let discards_after_two = |facts: &mut GroupFacts| {
        (facts.ordered, facts.max_attempts, facts.dead_letters) = (true, 2, DeadLetters::Discard);
    };
    let mut run = run(discards_after_two, false, 1);
    run.poll(0);
    run.pump().unwrap();
    let heard = run.clients[0].held.clone();
    run.monotonic += 61_000;
    run.pump().unwrap();
    // The hand-out is durable, and the process gone before the reply leaves.
    run.poll(0);
    run.turn(true).unwrap();
    run.step_store();
    run.restart(End::Exit).unwrap();
    let group = run.groups[0].facts.id;
    run.drain().unwrap();
    let tracks = &run.judge.tracks[&group];
    let unheard = heard.iter().any(|(_, number)| {
        let track = &tracks[number];
        !track.settled && track.last.unwrap().attempt == 1
    });
    assert!(unheard, "one was to be discarded unheard: {tracks:?}");
}

#[test]
fn a_poll_may_wait_while_what_it_needs_cannot_be_read_and_the_next_one_is_served() {
    let mut run = run(|facts| facts.ordered = false, true, 200);
    run.reads_fail = run.ground.fail(Failing::Reads);
    run.poll(0);
    run.pump().unwrap();
    assert!(run.clients[0].polling.is_some(), "the poll was to wait");
    run.check_visible().unwrap();
    // With reads in order the same would be a broken promise.
    run.reads_fail = false;
    assert!(run.check_visible().is_err());
    run.ground.heal();
    run.poll(0);
    run.pump().unwrap();
    assert!(!run.clients[0].held.is_empty());
}

#[test]
fn what_is_due_may_wait_a_little_once_the_disk_has_room_again() {
    let mut run = run(|facts| facts.ordered = false, false, 1);
    let due = loop {
        run.produce();
        run.pump().unwrap();
        let waits = run.judge.messages.iter().rev().find(|message| message.timer.is_some() && message.place.is_none());
        if let Some(due) = waits.and_then(|message| message.due).filter(|due| *due > run.now.plus(100)) {
            break due;
        }
    };
    let wait = |run: &mut Run<Disk>| {
        while run.clients[0].polling.is_none() {
            run.poll(0);
            run.pump().unwrap();
        }
    };
    run.monotonic += due.since(run.now) - 1;
    run.pump().unwrap();
    wait(&mut run);
    run.ground.fill(0);
    run.pump().unwrap();
    run.monotonic += 1;
    run.pump().unwrap();
    run.heal();
    run.pump().unwrap();
    wait(&mut run);
    run.check_visible().unwrap();
    run.late_until = run.now;
    assert!(run.check_visible().is_err(), "it was to be late");
    run.monotonic += 1_000;
    run.pump().unwrap();
    assert!(run.judge.messages.iter().any(|message| message.due == Some(due) && message.place.is_some()));
}

#[test]
fn what_could_not_be_read_and_lapsed_before_it_went_back_has_had_an_attempt() {
    let mut run = run(|facts| (facts.ordered, facts.max_attempts) = (true, 16), false, 1);
    run.poll(0);
    run.pump().unwrap();
    let heard = run.clients[0].held.clone();
    assert!(!heard.is_empty());
    // Of an ordered group the reply waits for the disk, which is slower than the invisible duration.
    run.monotonic += 61_000;
    run.poll(0);
    run.turn(true).unwrap();
    run.reads_fail = run.ground.fail(Failing::Reads);
    run.step_store();
    run.monotonic += 61_000;
    run.turn(true).unwrap();
    run.heal();
    run.pump().unwrap();
    for _ in 0..4 {
        run.monotonic += 61_000;
        run.poll(0);
        run.pump().unwrap();
    }
    let group = run.groups[0].facts.id;
    let attempts: Vec<u32> =
        heard.iter().map(|(_, number)| run.judge.tracks[&group][number].last.unwrap().attempt).collect();
    assert!(attempts.iter().any(|&attempt| attempt >= 3), "{attempts:?}");
    // An attempt that nothing accounts for would be a broken promise still.
    let number = heard[0].1;
    run.judge.track(group, number).last.as_mut().unwrap().attempt -= 2;
    run.monotonic += 61_000;
    run.poll(0);
    assert!(run.pump().is_err());
}
