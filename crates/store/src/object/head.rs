//! What is known of a queue: its bounds, and in which periods its messages lie.
//!
//! | field | form |
//! | --- | --- |
//! | trim | varint |
//! | next minus trim | varint |
//! | number of runs | varint |
//! | of each run: first offset minus that of the one before, class of the period (byte), its index | varints |
//!
//! A run is a row of offsets in one period, up to the first of the next run. Offsets at or above the trim point always
//! have one.

use super::period::Period;
use crate::codec::{Input, Malformed, put_varint};
use martlet_model::{QueueOffset, UnixMillis};

/// Within so many messages a queue does not go back to a period that ends earlier: else two that take turns with
/// different times would make a run of each message.
const RUN_MIN: u64 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub first: u64,
    pub period: Period,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub trim: u64,
    pub next: u64,
    pub runs: Vec<Run>,
}

impl Head {
    /// Takes the next offset; says where the message goes. `now` never decreases.
    pub fn append(&mut self, offset: QueueOffset, now: UnixMillis, until: UnixMillis) -> Period {
        let period = Period::of(now, until);
        self.next = self.next.max(offset.0.saturating_add(1));
        if let Some(last) = self.runs.last() {
            let lasts = last.period.end() > until && last.period.end() > now;
            let short = offset.0.saturating_sub(last.first) < RUN_MIN;
            if last.period == period || lasts && (short || last.period.end() <= period.end()) {
                return last.period;
            }
        }
        self.runs.push(Run { first: offset.0, period });
        period
    }

    pub fn trim(&mut self, below: QueueOffset) {
        self.trim = self.trim.max(below.0);
        self.next = self.next.max(below.0);
        let gone = self.runs.iter().skip(1).take_while(|run| run.first <= self.trim).count();
        self.runs.drain(..gone);
    }

    /// The parts of `from..to` that can be read, each with its period.
    pub fn parts(
        &self,
        from: QueueOffset,
        to: QueueOffset,
    ) -> impl Iterator<Item = (Period, QueueOffset, QueueOffset)> {
        let (from, to) = (from.0.max(self.trim), to.0.min(self.next));
        self.runs.iter().enumerate().filter_map(move |(index, run)| {
            let end = self.runs.get(index + 1).map_or(self.next, |next| next.first);
            let (from, to) = (from.max(run.first), to.min(end));
            (from < to).then_some((run.period, QueueOffset(from), QueueOffset(to)))
        })
    }

    /// Whether anything of it can still be read from a period.
    pub fn lives_in(&self, period: Period) -> bool {
        self.parts(QueueOffset(0), QueueOffset(u64::MAX)).any(|(part, _, _)| part == period)
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 8 * self.runs.len());
        put_varint(&mut out, self.trim);
        put_varint(&mut out, self.next.saturating_sub(self.trim));
        put_varint(&mut out, self.runs.len() as u64);
        let mut before = 0;
        for run in &self.runs {
            put_varint(&mut out, run.first.saturating_sub(before));
            out.push(run.period.class);
            put_varint(&mut out, u64::from(run.period.index));
            before = run.first;
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input::new(bytes);
        let trim = input.varint("trim point")?;
        let next = trim.checked_add(input.varint("next offset")?).ok_or(input.malformed("next offset below 2^64"))?;
        let mut head = Self { trim, next, runs: Vec::new() };
        let mut first = 0u64;
        for _ in 0..input.varint("number of runs")? {
            let distance = input.varint("first offset of a run")?;
            first = first.checked_add(distance).ok_or(input.malformed("first offset below 2^64"))?;
            let class = input.byte("class of a period")?;
            let index = input.varint("index of a period")?;
            let index = u32::try_from(index).map_err(|_| input.malformed("index of a period below 2^32"))?;
            head.runs.push(Run { first, period: Period { class, index } });
        }
        if input.is_empty() { Ok(head) } else { Err(input.malformed("end of the value")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::Random;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn every_offset_is_found_in_the_period_it_was_put_into() {
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let (mut head, mut placed, mut now) = (Head::default(), Vec::new(), UnixMillis(HOUR));
            for offset in 0..4_000 {
                now = now.plus(random.below(HOUR as u64 / 20) as i64);
                let until = now.plus([HOUR, 72 * HOUR, 24 * HOUR][random.below(3) as usize]);
                let period = head.append(QueueOffset(offset), now, until);
                assert!(period.end() > until, "seed {seed}: a message outlives its period");
                placed.push(period);
                if random.one_in(100) {
                    head.trim(QueueOffset(head.trim + random.below(head.next - head.trim + 1)));
                }
                head = Head::decode(&head.encode()).unwrap();
            }
            let found: Vec<Period> = head
                .parts(QueueOffset(0), QueueOffset(u64::MAX))
                .flat_map(|(period, from, to)| (from.0..to.0).map(move |_| period))
                .collect();
            assert_eq!(found, placed[head.trim as usize..], "seed {seed}");
            assert!(head.runs.len() < 40, "seed {seed}: {} runs", head.runs.len());
        }
    }

    #[test]
    fn damaged_heads_are_refused() {
        let mut head = Head::default();
        head.append(QueueOffset(0), UnixMillis(0), UnixMillis(HOUR));
        let bytes = head.encode();
        for length in 0..bytes.len() {
            assert!(Head::decode(&bytes[..length]).is_err(), "{length}");
        }
        assert!(Head::decode(&[bytes, vec![0]].concat()).is_err());
    }
}
