//! How long calls take, by call, code and outcome: `rocketmq_rpc_latency`. For every protocol.
//!
//! One table of histograms per call. A combination of code and outcome takes a slot of its call's table when it is first
//! seen; when the table is full, later combinations share its last slot. Counting takes no lock and allocates nothing.

use martlet_model::{Histogram, HistogramFigures};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds; the reference's, which are milliseconds.
const BOUNDS: [u64; 9] = [1_000, 3_000, 5_000, 7_000, 10_000, 100_000, 1_000_000, 2_000_000, 3_000_000];
/// Combinations of code and outcome that are told apart per call.
const SLOTS: usize = 12;
/// In a slot that nobody has taken.
const FREE: u64 = u64::MAX;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer was written, whatever its code.
    Success = 0,
    /// The client gave it up before there was an answer.
    Cancelled = 1,
    /// The broker failed it, by its code.
    Failed = 2,
    /// There was an answer, and the client did not take it.
    NotWritten = 3,
}

impl Outcome {
    /// The reference's label values.
    fn name(number: u64) -> &'static str {
        match number {
            0 => "success",
            1 => "cancelled",
            2 => "process_request_failed",
            _ => "write_channel_failed",
        }
    }
}

/// Calls of one kind.
#[derive(Debug)]
struct Table {
    call: &'static str,
    keys: [AtomicU64; SLOTS],
    times: [Histogram; SLOTS],
}

/// Latencies of all calls.
#[derive(Debug)]
pub struct Latencies(Vec<Table>);

/// One series of `rocketmq_rpc_latency`.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcLatency {
    /// Name of the call, such as `SendMessage`.
    pub call: &'static str,
    /// Name of the code in the answer, such as `OK`; `OTHER` where too many different ones came.
    pub code: &'static str,
    /// `success`, `cancelled`, `process_request_failed` or `write_channel_failed`.
    pub result: &'static str,
    /// Whether the call may wait for messages.
    pub long_polling: bool,
    /// Milliseconds from the first byte of the request's headers that was looked at to the answer's last.
    pub millis: HistogramFigures,
}

impl Latencies {
    /// An empty table for each of these calls; others are not counted.
    pub fn of(calls: &[&'static str]) -> Self {
        let table = |&call: &&'static str| Table {
            call,
            keys: [const { AtomicU64::new(FREE) }; SLOTS],
            times: [const { Histogram::new(&BOUNDS) }; SLOTS],
        };
        Self(calls.iter().map(table).collect())
    }

    /// Counts one call. The calls made most come first in the table, so finding them is cheap.
    pub fn observe(&self, call: &str, code: i32, outcome: Outcome, took: Duration) {
        let Some(table) = self.0.iter().find(|table| table.call == call) else { return };
        let key = u64::from(code.unsigned_abs()) << 2 | outcome as u64;
        let slot = table.keys.iter().position(|slot| {
            let taken = slot.load(Ordering::Acquire);
            taken == key
                || taken == FREE
                    && match slot.compare_exchange(FREE, key, Ordering::AcqRel, Ordering::Acquire) {
                        Ok(_) => true,
                        Err(other) => other == key,
                    }
        });
        let slot = slot.unwrap_or(SLOTS - 1);
        table.times[slot].observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if table.keys[slot].load(Ordering::Acquire) != key {
            table.keys[slot].store(OTHER, Ordering::Release);
        }
    }

    /// All series that have an observation. The protocol says what a code is called, and which calls wait for messages.
    pub fn figures(&self, name_of: impl Fn(i32) -> &'static str, waits: impl Fn(&str) -> bool) -> Vec<RpcLatency> {
        let series = |table: &Table| {
            let (call, long_polling) = (table.call, waits(table.call));
            let slots = table.keys.iter().zip(&table.times);
            let found: Vec<_> = slots
                .map(|(key, times)| (key.load(Ordering::Acquire), times))
                .filter(|(key, _)| *key != FREE)
                .map(|(key, times)| RpcLatency {
                    call,
                    code: i32::try_from(key >> 2).map_or("OTHER", &name_of),
                    result: Outcome::name(key & 3),
                    long_polling,
                    millis: times.figures(1_000.0),
                })
                .collect();
            found
        };
        self.0.iter().flat_map(series).collect()
    }
}

/// In the last slot of a full table.
const OTHER: u64 = FREE - 4;

#[cfg(test)]
mod tests {
    use super::*;

    const OK: i32 = 20_000;
    const INTERNAL_ERROR: i32 = 50_000;

    fn figures(latencies: &Latencies) -> Vec<RpcLatency> {
        let name_of = |code| match code {
            OK => "OK",
            INTERNAL_ERROR => "INTERNAL_ERROR",
            _ => "SOME",
        };
        latencies.figures(name_of, |call| call == "ReceiveMessage")
    }

    #[test]
    fn calls_are_told_apart_by_code_and_outcome_until_the_table_is_full() {
        let latencies = Latencies::of(&["SendMessage", "ReceiveMessage"]);
        let took = Duration::from_micros(2_500);
        latencies.observe("SendMessage", OK, Outcome::Success, took);
        latencies.observe("SendMessage", OK, Outcome::Success, took);
        latencies.observe("SendMessage", OK, Outcome::NotWritten, took);
        latencies.observe("ReceiveMessage", INTERNAL_ERROR, Outcome::Failed, took);
        latencies.observe("NoSuchCall", OK, Outcome::Success, took);
        let found = figures(&latencies);
        let told: Vec<_> =
            found.iter().map(|one| (one.call, one.code, one.result, one.long_polling, one.millis.count())).collect();
        assert_eq!(
            told,
            [
                ("SendMessage", "OK", "success", false, 2),
                ("SendMessage", "OK", "write_channel_failed", false, 1),
                ("ReceiveMessage", "INTERNAL_ERROR", "process_request_failed", true, 1),
            ]
        );
        assert_eq!(found[0].millis.buckets[1], (3.0, 2));
        for code in 0..100 {
            latencies.observe("SendMessage", code, Outcome::Cancelled, took);
        }
        let found = figures(&latencies);
        let sends: Vec<_> = found.iter().filter(|one| one.call == "SendMessage").collect();
        assert_eq!(sends.len(), SLOTS, "bounded");
        assert_eq!(sends.iter().map(|one| one.millis.count()).sum::<u64>(), 103, "nothing is lost");
        assert_eq!(sends.last().map(|one| one.code), Some("OTHER"));
    }
}
