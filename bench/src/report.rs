//! Figures of one load, for people and for programs.

use serde::Serialize;

/// One number with its unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
    /// Unit, empty for a plain count.
    pub unit: &'static str,
}

/// What one load gave.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Name of the load and its settings.
    pub load: String,
    /// In the order they are told.
    pub figures: Vec<Figure>,
    /// First error seen, if some operations failed.
    pub first_error: Option<String>,
}

impl Report {
    /// A report without figures yet.
    pub fn new(load: String) -> Self {
        Self { load, ..Self::default() }
    }

    /// Adds a figure.
    pub fn add(&mut self, name: &'static str, value: f64, unit: &'static str) {
        self.figures.push(Figure { name, value, unit });
    }

    /// Adds percentiles of a histogram of nanoseconds, in milliseconds.
    pub fn add_latency(&mut self, histogram: &hdrhistogram::Histogram<u64>) {
        for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
            self.add(name, histogram.value_at_quantile(quantile) as f64 / 1e6, "ms");
        }
    }

    /// Percentiles from send to received, and two of from send to acknowledged.
    pub fn add_send_to_received(
        &mut self,
        sends: &hdrhistogram::Histogram<u64>,
        receives: &hdrhistogram::Histogram<u64>,
    ) {
        self.add_latency(receives);
        self.add("send p50", sends.value_at_quantile(0.5) as f64 / 1e6, "ms");
        self.add("send p99", sends.value_at_quantile(0.99) as f64 / 1e6, "ms");
    }

    /// The value of a figure; `None` if this load does not have it.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|f| f.name == name).map(|f| f.value)
    }

    /// Prints a table, or one line of JSON.
    pub fn print(&self, json: bool) {
        if json {
            // A struct of strings and numbers always serializes.
            println!("{}", serde_json::to_string(self).unwrap_or_default());
            return;
        }
        println!("{}", self.load);
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::UTF8_BORDERS_ONLY);
        for figure in &self.figures {
            table.add_row([figure.name.to_owned(), number(figure.value), figure.unit.to_owned()]);
        }
        println!("{table}");
        if let Some(error) = &self.first_error {
            println!("first error: {error}");
        }
    }
}

/// Three significant digits or whole numbers, thousands set apart.
pub fn number(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude < 1e-9 {
        return "0".to_owned();
    }
    if magnitude < 100.0 {
        let decimals = (2 - magnitude.log10().floor() as i32).clamp(0, 4) as usize;
        return format!("{value:.decimals$}");
    }
    let digits = format!("{:.0}", magnitude);
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 { format!("-{out}") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_enough_to_compare() {
        let shown: Vec<_> =
            [0.0, 0.1234, 1.5, 17.04, 386.4, 29_500.0, -1_234_567.0].iter().map(|v| number(*v)).collect();
        assert_eq!(shown, ["0", "0.123", "1.50", "17.0", "386", "29,500", "-1,234,567"]);
    }
}
