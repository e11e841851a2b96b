//! What receiving and acking costs the log.

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
