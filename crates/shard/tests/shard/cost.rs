//! What receiving and acking costs the log.

use crate::world::lite::LASTING;
use crate::world::*;
use martlet_shard::Command;
use martlet_store::{Op, StoredMessage};

/// Bytes of keys and values, without framing.
fn bytes(ops: &[Op]) -> usize {
    ops.iter()
        .map(|op| match op {
            Op::Append { record, .. } | Op::Restore { message: StoredMessage { record, .. }, .. } => record.len() + 8,
            Op::Put { key, image, .. } => key.len() + image.len(),
            Op::Delta { key, delta } => key.len() + delta.len(),
            Op::Remove { key } => key.len(),
            Op::Trim { .. } | Op::Forget { .. } => 12,
        })
        .sum()
}

#[test]
fn receiving_and_acking_a_message_writes_less_than_40_bytes() {
    const MESSAGES: usize = 16_384;
    let mut world = World::new(1).topic("orders", 8).group("billing", max_attempts(16));
    for n in 0..MESSAGES {
        world.begin_send("orders", &["x"], None);
        if n % 64 == 63 {
            world.settle();
        }
    }
    world.settle();
    let start = world.store().batches().len();
    let mut pending = Vec::new();
    let mut acked = 0;
    while acked < MESSAGES {
        let received = world.receive("billing", auto_renew(1));
        for delivery in &received.0 {
            pending.push(world.decode(&delivery.handle).unwrap());
        }
        world.advance_millis(3);
        for handles in pending.chunks(16) {
            let first = (1 << 32) + acked as u64;
            let acks = handles.iter().zip(first..);
            let acks: Vec<_> = acks.map(|(&handle, token)| Command::Ack { handles: vec![handle], token }).collect();
            acked += handles.len();
            world.turn(acks);
        }
        pending.clear();
    }
    world.settle();
    let written: usize = world.store().batches()[start..].iter().map(|batch| bytes(&batch.ops)).sum();
    let each = written as f64 / MESSAGES as f64;
    println!("{each:.1} bytes per message received and acked");
    assert!(each < 40.0, "{each:.1} bytes per message received and acked");
    assert!(each > 1.0, "the state is written at all");
}

#[test]
fn a_message_that_is_alone_in_its_lite_topic_costs_less_than_100_bytes() {
    const TOPICS: usize = 256;
    let names: Vec<String> = (0..TOPICS).map(|n| format!("session-{n}")).collect();
    let mut world = World::new(1).lite_parent("chat", LASTING).lite_group("web", "chat", false, 1_000);
    world.subscribe_lite("web", 1, &names.iter().map(String::as_str).collect::<Vec<_>>());
    let mut start = 0;
    for round in 0..4 {
        // What making the lite topics costs is not meant.
        if round == 1 {
            start = world.store().batches().len();
        }
        for some in names.chunks(64) {
            let messages: Vec<(&str, &str)> = some.iter().map(|name| (name.as_str(), "x")).collect();
            world.try_send_lite("chat", &messages);
        }
        let mut acked = 0;
        while acked < TOPICS {
            for delivery in world.receive("web", invisible_secs(30).lite(world.topic_id("chat"), 1)).0 {
                let handle = world.decode(&delivery.handle).unwrap();
                world.begin(|token| Command::Ack { handles: vec![handle], token });
                acked += 1;
            }
            world.settle();
        }
    }
    let ops = || world.shard().store().batches()[start..].iter().flat_map(|batch| &batch.ops);
    let records: usize = ops().map(|op| if let Op::Append { record, .. } = op { record.len() } else { 0 }).sum();
    let written: usize = ops().map(|op| bytes(std::slice::from_ref(op))).sum();
    let (each, count) = ((written - records) as f64 / (3 * TOPICS) as f64, ops().count() as f64 / (3 * TOPICS) as f64);
    println!("{each:.1} bytes in {count:.1} changes per message sent, received and acked");
    assert!(each < 100.0, "{each:.1} bytes per message sent, received and acked");
}
