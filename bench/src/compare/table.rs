//! The figures of a comparison, their targets, and the Markdown table of both.

use std::collections::BTreeMap;

use super::servers::Kind;
use crate::error::Result;
use crate::report::{Report, number};

/// What Martlet's figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    /// At most this times the figure of the other.
    AtMost(f64, Kind),
    /// At least this times the figure of the other.
    AtLeast(f64, Kind),
    /// Below this, in the figure's own unit.
    Below(f64),
}

struct Row {
    key: &'static str,
    label: &'static str,
    unit: &'static str,
    goals: &'static [Goal],
}

const fn row(key: &'static str, label: &'static str, unit: &'static str, goals: &'static [Goal]) -> Row {
    Row { key, label, unit, goals }
}

use Goal::{AtLeast, AtMost, Below};
use Kind::{Floor, Reference};

const CPU: &str = "s per million";
const RATE: &str = "messages/s";

const ROWS: &[Row] = &[
    row("send CPU 1024/32", "send 1 KiB, 32 senders: server CPU", CPU, &[AtMost(0.1, Reference), AtMost(2.0, Floor)]),
    row("send CPU 1024/256", "send 1 KiB, 256 senders: server CPU", CPU, &[]),
    row("send CPU 128/32", "send 128 B, 32 senders: server CPU", CPU, &[]),
    row("send CPU 128/256", "send 128 B, 256 senders: server CPU", CPU, &[]),
    row("rate 1024/32", "send 1 KiB, 32 senders", RATE, &[AtLeast(0.65, Floor), AtLeast(4.0, Reference)]),
    row("rate 1024/256", "send 1 KiB, 256 senders", RATE, &[AtLeast(0.75, Floor), AtLeast(4.0, Reference)]),
    row("rate 128/32", "send 128 B, 32 senders", RATE, &[AtLeast(0.65, Floor), AtLeast(4.0, Reference)]),
    row("rate 128/256", "send 128 B, 256 senders", RATE, &[AtLeast(0.75, Floor), AtLeast(4.0, Reference)]),
    row(
        "receive CPU batch",
        "receive + ack 32 to a request: server CPU",
        CPU,
        &[AtMost(0.1, Reference), AtMost(2.0, Floor)],
    ),
    row(
        "receive CPU single",
        "receive + ack one by one: server CPU",
        CPU,
        &[AtMost(0.1, Reference), AtMost(2.0, Floor)],
    ),
    row("receive rate batch", "receive + ack 32 to a request", RATE, &[]),
    row("receive rate single", "receive + ack one by one", RATE, &[]),
    row("latency p50", "send to received at 1,000/s: p50", "ms", &[]),
    row("latency p99", "send to received at 1,000/s: p99", "ms", &[AtMost(0.2, Reference), Below(3.0)]),
    row("latency p99.9", "send to received at 1,000/s: p99.9", "ms", &[]),
    row("written 1024/32", "written to files per message byte, 32 senders", "", &[Below(1.3)]),
    row("written 1024/256", "written to files per message byte, 256 senders", "", &[Below(1.3)]),
    row(
        "receive written batch",
        "receive + ack 32 to a request: written to files",
        "bytes per message",
        &[Below(64.0)],
    ),
    row("receive written single", "receive + ack one by one: written to files", "bytes per message", &[Below(64.0)]),
    row("ready", "ready after start, empty folder", "ms", &[Below(100.0)]),
    row("ready with log", "ready after start, large log", "ms", &[Below(1500.0)]),
    row("idle RSS", "resident memory, idle", "MB", &[Below(30.0)]),
    row("load RSS", "resident memory, largest under load", "MB", &[Below(150.0)]),
    row("polls RSS", "resident memory, 1,000 polls of 4 MiB messages", "MB", &[Below(400.0)]),
    row("slots RSS", "resident memory grown, open slots in one queue", "MB", &[Below(50.0)]),
    row("slots CPU before", "receive + ack before open slots: server CPU", CPU, &[]),
    row("slots CPU", "receive + ack beside open slots: server CPU", CPU, &[]),
    row("idle CPU", "idle CPU", "% of a core", &[Below(0.3)]),
    row("generator CPU", "the generator's own CPU, mean of sends", CPU, &[]),
];

/// Those of the loads of TCP clients.
const TCP_ROWS: &[Row] = &[
    row("send CPU 32", "send 1 KiB, 32 senders: server CPU", CPU, &[AtMost(1.0 / 6.0, Reference)]),
    row("send CPU 256", "send 1 KiB, 256 senders: server CPU", CPU, &[AtMost(1.0 / 6.0, Reference)]),
    row("batch CPU", "send 32 of 1 KiB in a batch, 32 senders: server CPU", CPU, &[AtMost(0.25, Reference)]),
    row("pull CPU", "pull up to 32: server CPU", CPU, &[AtMost(1.0 / 3.0, Reference)]),
    row("send rate 32", "send 1 KiB, 32 senders", RATE, &[AtLeast(1.5, Reference)]),
    row("send rate 256", "send 1 KiB, 256 senders", RATE, &[AtLeast(2.0, Reference)]),
    row("batch rate", "send 32 of 1 KiB in a batch, 32 senders", RATE, &[]),
    row("pull rate", "pull up to 32", RATE, &[]),
    row("send p99 32", "send 1 KiB, 32 senders: p99", "ms", &[]),
    row("send p99 256", "send 1 KiB, 256 senders: p99", "ms", &[]),
    row("latency p50", "send to received at 1,000/s: p50", "ms", &[]),
    row("latency p99", "send to received at 1,000/s: p99", "ms", &[AtMost(0.5, Reference)]),
    row("idle RSS", "resident memory, idle connections", "MB", &[Below(200.0)]),
    row("idle CPU", "idle connections with heartbeats: CPU", "% of a core", &[Below(3.0)]),
    row("ready", "ready after start, empty folder", "ms", &[]),
    row("load RSS", "resident memory, largest under load", "MB", &[]),
    row("generator CPU", "the generator's own CPU, sends of 1 message", CPU, &[]),
];

/// Keys of which the largest value of a run is told, not the median.
const LARGEST: &[&str] = &["load RSS", "polls RSS"];

/// Everything measured so far.
#[derive(Default)]
pub struct Results {
    /// Median cost of an fdatasync on this disk.
    pub sync_ms: f64,
    tcp: bool,
    values: BTreeMap<(Kind, &'static str), Vec<f64>>,
    notes: Vec<String>,
}

impl Results {
    /// None yet; `tcp`: of the loads of TCP clients.
    pub fn new(tcp: bool) -> Self {
        Self { tcp, ..Self::default() }
    }

    /// Adds one value.
    pub fn put(&mut self, kind: Kind, key: &'static str, value: f64) {
        self.values.entry((kind, key)).or_default().push(value);
    }

    /// Adds figures of a report as `(key, name in the report)`, or the reason why there are none.
    pub fn take(&mut self, kind: Kind, report: Result<Report>, figures: &[(&'static str, &str)]) {
        match report {
            Ok(report) => {
                for (key, name) in figures {
                    if let Some(value) = report.get(name) {
                        self.put(kind, key, value);
                    }
                }
                if let Some(error) = report.first_error {
                    let failed = report.figures.iter().find(|f| f.name == "failed").map_or(0.0, |f| f.value);
                    self.note(format!(
                        "{kind}: {}: {} failed while measured; first: {error}",
                        report.load,
                        number(failed)
                    ));
                }
            }
            Err(error) => self.note(format!("{kind}: {error}")),
        }
    }

    /// Adds a remark that is printed below the table, and at once to standard error.
    pub fn note(&mut self, note: String) {
        eprintln!("bench: {note}");
        self.notes.push(note);
    }

    fn figure(&self, kind: Kind, key: &str) -> Option<(f64, f64, f64)> {
        let (_, values) = self.values.iter().find(|((k, name), _)| *k == kind && *name == key)?;
        let mut sorted = values.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = if LARGEST.contains(&key) { high } else { median(&sorted) };
        Some((middle, low, high))
    }

    fn cell(&self, kind: Kind, key: &str) -> String {
        match self.figure(kind, key) {
            None => "–".to_owned(),
            Some((middle, low, high)) if low == high => number(middle),
            Some((middle, low, high)) => format!("{} ({}–{})", number(middle), number(low), number(high)),
        }
    }

    fn ratio(&self, other: Kind, key: &str) -> String {
        match (self.figure(Kind::Martlet, key), self.figure(other, key)) {
            (Some((ours, ..)), Some((theirs, ..))) if theirs > 0.0 => number(ours / theirs),
            _ => "–".to_owned(),
        }
    }

    /// The goal in words, and whether it is met; `None` if a figure is missing.
    fn judge(&self, goal: Goal, key: &str) -> (String, Option<bool>) {
        let ours = self.figure(Kind::Martlet, key).map(|f| f.0);
        let theirs = |kind| self.figure(kind, key).map(|f| f.0);
        match goal {
            AtMost(times, kind) => {
                let met = ours.zip(theirs(kind)).map(|(a, b)| a <= b * times);
                (format!("≤ {} × {kind}", number(times)), met)
            }
            AtLeast(times, kind) => {
                let met = ours.zip(theirs(kind)).map(|(a, b)| a >= b * times);
                (format!("≥ {} × {kind}", number(times)), met)
            }
            Below(limit) => (format!("< {}", number(limit)), ours.map(|a| a < limit)),
        }
    }

    /// The Markdown table.
    fn markdown(&self) -> String {
        let mut out = String::from(
            "| figure | unit | reference | floor | Martlet | × reference | × floor | targets |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |\n",
        );
        for row in if self.tcp { TCP_ROWS } else { ROWS } {
            let targets = row.goals.iter().map(|goal| {
                let (words, met) = self.judge(*goal, row.key);
                let met = match met {
                    Some(true) => "met",
                    Some(false) => "**missed**",
                    None => "not measured",
                };
                format!("{words}: {met}")
            });
            let cells = Kind::ALL.map(|kind| self.cell(kind, row.key)).join(" | ");
            let ratios = [Reference, Floor].map(|kind| self.ratio(kind, row.key)).join(" | ");
            out += &format!(
                "| {} | {} | {cells} | {ratios} | {} |\n",
                row.label,
                row.unit,
                targets.collect::<Vec<_>>().join("; ")
            );
        }
        out += &format!("\nfdatasync after appending 4 KiB on this disk: median {} ms.\n", number(self.sync_ms));
        for note in &self.notes {
            out += &format!("\n- {note}");
        }
        out
    }

    /// Prints the table, or all values as JSON.
    pub fn print(&self, json: bool) {
        if !json {
            println!("{}", self.markdown());
            return;
        }
        let mut servers: BTreeMap<String, BTreeMap<&str, &Vec<f64>>> = BTreeMap::new();
        for ((kind, key), values) in &self.values {
            servers.entry(kind.to_string()).or_default().insert(key, values);
        }
        println!("{}", serde_json::json!({ "sync_ms": self.sync_ms, "servers": servers, "notes": self.notes }));
    }
}

fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_judged_on_medians_and_a_missing_column_is_not_measured() {
        let mut results = Results::default();
        for (kind, values) in [(Reference, [300.0, 400.0, 350.0]), (Floor, [17.0, 18.0, 16.0])] {
            for value in values {
                results.put(kind, "send CPU 1024/32", value);
            }
        }
        let line = |results: &Results| {
            results.markdown().lines().find(|l| l.contains("send 1 KiB, 32 senders: server CPU")).unwrap().to_owned()
        };
        assert!(line(&results).ends_with("≤ 0.100 × reference: not measured; ≤ 2.00 × floor: not measured |"));
        results.put(Kind::Martlet, "send CPU 1024/32", 34.5);
        let with_martlet = line(&results);
        assert!(with_martlet.contains("| 350 (300–400) | 17.0 (16.0–18.0) | 34.5 | 0.0986 | 2.03 |"), "{with_martlet}");
        assert!(with_martlet.ends_with("≤ 0.100 × reference: met; ≤ 2.00 × floor: **missed** |"));
    }

    #[test]
    fn every_figure_that_has_a_goal_is_a_row_once() {
        for rows in [ROWS, TCP_ROWS] {
            for (i, row) in rows.iter().enumerate() {
                assert!(rows[i + 1..].iter().all(|other| other.key != row.key), "{} twice", row.key);
            }
        }
        assert!(LARGEST.iter().all(|key| ROWS.iter().any(|row| row.key == *key)));
    }
}
