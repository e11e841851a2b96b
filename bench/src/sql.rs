//! What an SQL92 condition costs to evaluate: records of a topic against one condition, on one thread.
//!
//! `bench/java/SqlFilter.java` does the same with the reference's filter: same condition, same properties.

use std::hint::black_box;
use std::time::{Duration, Instant};

use martlet_model::Filter;
use martlet_model::record::{Field, RecordWriter};

use crate::error::{BenchError, Result};
use crate::report::Report;

/// Three comparisons: a text, and two numbers.
pub const EXPRESSION: &str = "region = 'eu' AND amount > 250 AND level <= 3";
/// Different messages.
const MESSAGES: u32 = 1_000;
/// Evaluations between two looks at the clock.
const ROUND: u64 = MESSAGES as u64;

/// Evaluates for so long.
pub fn run(expression: &str, time: Duration) -> Result<Report> {
    let compiled = Filter::sql(expression).map_err(|error| BenchError::Server { what: error.to_string() })?;
    let records: Vec<_> = (0..MESSAGES).map(record).collect();
    let (mut done, mut passed) = (0, 0u64);
    let begin = Instant::now();
    while begin.elapsed() < time {
        passed += records.iter().filter(|record| black_box(&compiled).matches(black_box(record))).count() as u64;
        done += ROUND;
    }
    let mut report = Report::new(format!("{expression}: records of {} bytes", records.first().map_or(0, |r| r.len())));
    report.add("evaluations", done as f64 / begin.elapsed().as_secs_f64(), "per second");
    report.add("passed", passed as f64 / done.max(1) as f64 * 100.0, "%");
    Ok(report)
}

/// A message as a client sends it, with five properties, of which the condition names three.
fn record(n: u32) -> bytes::Bytes {
    let mut writer = RecordWriter::with_capacity(512);
    writer
        .field(Field::MessageId("01AABBCCDDEEFF00110022334455667788"))
        .field(Field::Tag("order"))
        .field(Field::Key("7ABCDEF7"))
        .field(Field::Property("customer", &n.to_string()))
        .field(Field::Property("region", ["eu", "us", "asia"][n as usize % 3]))
        .field(Field::Property("amount", &(n % 1_000).to_string()))
        .field(Field::Property("level", &(n % 7).to_string()))
        .field(Field::Property("source", "shop"))
        .field(Field::BornTimestamp(1_700_000_000_000))
        .field(Field::BornHost("bench"));
    writer.finish(&[0; 128])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_passes_some_messages() {
        let compiled = Filter::sql(EXPRESSION).unwrap();
        let passed: Vec<u32> = (0..2_000).filter(|&n| compiled.matches(&record(n))).collect();
        assert!(passed.contains(&252) && !passed.contains(&249), "{passed:?}");
    }
}
