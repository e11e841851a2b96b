//! Random batches that keep the contract, from a seed.

use super::model::Model;
use crate::{Batch, Op, Term};
use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use std::collections::BTreeMap;

/// A small generator of random numbers: the same seed gives the same numbers everywhere.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator for a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, any 64 bits.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.any() % limit.max(1)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// Makes batches that fit what a model already holds.
#[derive(Clone, Debug)]
pub struct Batches {
    random: Random,
    /// Forgotten queues are never used again.
    first_queue: u64,
    /// Largest record, bytes.
    pub record_max: u64,
}

impl Batches {
    /// Batches for a seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), first_queue: 1, record_max: 300 }
    }

    /// The next batch after what `model` holds.
    pub fn next(&mut self, model: &Model) -> Batch {
        let time = model.time().plus(self.random.below(3_600_000) as i64);
        let mut next: BTreeMap<QueueId, QueueOffset> = BTreeMap::new();
        let mut ops = Vec::new();
        for _ in 0..self.random.below(12) {
            let queue = QueueId(self.first_queue + self.random.below(5));
            let bounds = model.bounds(queue).unwrap_or(QueueOffset(0)..QueueOffset(0));
            let end = *next.entry(queue).or_insert(bounds.end);
            let random = &mut self.random;
            let key = Bytes::from(format!("key/{}", random.below(12)));
            let value = |random: &mut Random, max: u64| {
                let byte = random.any() as u8;
                Bytes::from(vec![byte; random.below(max) as usize])
            };
            ops.push(match random.below(20) {
                0..=8 => {
                    next.insert(queue, end.next());
                    let mut terms: Vec<Term> = (0..random.below(3)).map(|_| Term(random.below(20))).collect();
                    terms.dedup();
                    let keep = [600_000, 3 * 86_400_000, 40 * 86_400_000][random.below(3) as usize];
                    let record = value(random, self.record_max);
                    Op::Append { queue, offset: end, record, terms, keep_until: time.plus(keep) }
                }
                9..=11 => Op::Put { key, image: value(random, 600), keep_until: None },
                12..=14 => Op::Delta { key, delta: value(random, 30) },
                15..=16 => Op::Remove { key },
                17..=18 => {
                    let span = end.0 - bounds.start.0.min(end.0);
                    Op::Trim { queue, below: QueueOffset(bounds.start.0.min(end.0) + random.below(span + 1)) }
                }
                _ if random.one_in(8) => {
                    let queue = QueueId(self.first_queue);
                    self.first_queue += 1;
                    ops.push(Op::Forget { queue });
                    continue;
                }
                _ => continue,
            });
        }
        // A forgotten queue's number is never used again, not in the same batch either.
        let first = self.first_queue;
        ops.retain(|op| match op {
            Op::Append { queue, .. } | Op::Trim { queue, .. } => queue.0 >= first,
            _ => true,
        });
        Batch { time: time.max(UnixMillis(1)), ops }
    }
}
