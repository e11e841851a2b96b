//! How fast an SQL92 filter of three comparisons is on records like those of clients, on one core.
//!
//! `cargo run --release -p martlet-model --example sql_filter -- [evaluations]`

#![allow(clippy::unwrap_used, missing_docs)]

use martlet_model::Filter;
use martlet_model::record::{Field, RecordWriter};
use std::time::Instant;

fn main() {
    let evaluations: usize = std::env::args().nth(1).map_or(10_000_000, |arg| arg.parse().unwrap());
    let records: Vec<_> = (0..1024)
        .map(|n| {
            let (amount, region) = ((n % 200).to_string(), ["north", "south", "east", "west"][n % 4]);
            let mut writer = RecordWriter::with_capacity(512);
            writer.field(Field::MessageId("01A2B3C4D5E6F708090A0B0C0D0E0F1011")).field(Field::Tag("t"));
            writer.field(Field::Key("key-1")).field(Field::Property("colour", "red"));
            writer.field(Field::Property("amount", &amount)).field(Field::Property("region", region));
            writer.field(Field::BornTimestamp(1_800_000_000_000)).field(Field::BornHost("host.example:1234"));
            writer.finish(&[7; 256])
        })
        .collect();
    for (what, filter) in [
        ("three comparisons", Filter::sql("amount > 100 AND region = 'north' AND colour <> 'blue'").unwrap()),
        ("three comparisons, all looked at", Filter::sql("amount >= 0 AND region <> 'x' AND colour = 'red'").unwrap()),
        ("a tag", Filter::tags("a || b").unwrap()),
    ] {
        let started = Instant::now();
        let passed = (0..evaluations).filter(|n| filter.matches(&records[n % records.len()])).count();
        let seconds = started.elapsed().as_secs_f64();
        let rate = evaluations as f64 / seconds;
        println!("{what}: {rate:.0} evaluations a second, {passed} of {evaluations} passed");
    }
}
