//! Runs the published RocketMQ 5.x clients, unmodified, against a real broker process.
//!
//! One small program per language (an *agent*) speaks to the broker through that language's client and reports what happens as
//! JSON lines; all agents take the same command line, so one set of [`checks`] serves every language. `README.md` beside this
//! crate describes both.
//!
//! The broker is `MARTLET_BIN`, or else built from this workspace; with `CONFORMANCE_ENDPOINT=host:port` a broker that already
//! runs is used, and what needs a broker of its own (kill, restart, retry schedules) is skipped aloud.

pub mod agent;
pub mod broadcasting;
pub mod broker;
pub mod checks;
pub mod crowd;
pub mod input;
pub mod language;
pub mod lite;
pub mod nodes;
mod ports;
pub mod process;
pub mod relay;
pub mod retries;
pub mod stop;
mod suite;
pub mod transactions;

use std::path::PathBuf;

/// Why the harness could not do its part. Never means that a client and a broker disagree: that is a failed assertion.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// A program could not be started, or a file not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A build, an installation or a `martlet` command ended badly.
    #[error("{what} failed:\n{output}")]
    Command {
        /// The command line.
        what: String,
        /// Its output, or the last part of it.
        output: String,
    },
    /// Something that was waited for did not happen.
    #[error("{what} did not happen within {secs} s\n{log}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long, in seconds.
        secs: u64,
        /// Last lines of the process's log.
        log: String,
    },
    /// An agent ended or said something that is not an event.
    #[error("{agent}: {what}\n{log}")]
    Agent {
        /// Language and command.
        agent: String,
        /// What is wrong.
        what: String,
        /// Last lines of its standard error.
        log: String,
    },
}

/// What the harness's functions return.
pub type Result<T> = std::result::Result<T, HarnessError>;

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> HarnessError {
    let what = what.into();
    move |source| HarnessError::Io { what, source }
}

/// Says that something is left out and why; in CI nothing may be left out, so there it fails.
///
/// # Panics
/// When the environment says `CI=true`.
pub fn skip(what: &str, why: &str) {
    let line = format!("SKIPPED: {what}: {why}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{line} (not allowed where CI=true)");
    say(&line);
}

/// Says what a published client cannot do, so that nobody takes the test's silence for a proof.
pub fn not_in_client(what: &str, why: &str) {
    say(&format!("NOT IN THE CLIENT: {what}: {why}"));
}

/// Writes past the test runner's capture: `eprintln!` would be shown for failed tests only.
pub(crate) fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

pub(crate) fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The last lines of a log file, for an error message.
pub(crate) fn tail(path: &std::path::Path) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
