//! The agents' common command line; `conformance/README.md` describes it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

pub struct Options {
    pub command: String,
    pub tls: bool,
    pub stdin: bool,
    pub transactional: bool,
    pub fail_all: bool,
    pub deadline: Instant,
    values: HashMap<String, String>,
}

const VALUES: [&str; 12] = [
    "endpoint", "topic", "group", "filter", "count", "deadline-secs", "invisible-secs", "change-invisible", "batch",
    "cache", "fail-first", "fail-every",
];

impl Options {
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
        let command = args.next().ok_or("usage: produce|simple|push --endpoint HOST:PORT --topic T ...")?;
        let mut options = Options {
            command,
            tls: false,
            stdin: false,
            transactional: false,
            fail_all: false,
            deadline: Instant::now(),
            values: HashMap::new(),
        };
        while let Some(argument) = args.next() {
            match argument.trim_start_matches("--") {
                "tls" => options.tls = true,
                "stdin" => options.stdin = true,
                "transactional" => options.transactional = true,
                "fail-all" => options.fail_all = true,
                name if VALUES.contains(&name) => {
                    let value = args.next().ok_or(format!("--{name} needs a value"))?;
                    options.values.insert(name.to_string(), value);
                }
                name => return Err(format!("unknown option --{name}")),
            }
        }
        options.deadline = Instant::now() + Duration::from_secs(options.number("deadline-secs", 60));
        Ok(options)
    }

    pub fn text(&self, name: &str) -> String {
        self.values.get(name).cloned().unwrap_or_default()
    }

    pub fn number(&self, name: &str, otherwise: u64) -> u64 {
        self.values.get(name).and_then(|value| value.parse().ok()).unwrap_or(otherwise)
    }

    pub fn late(&self) -> bool {
        Instant::now() >= self.deadline
    }
}
