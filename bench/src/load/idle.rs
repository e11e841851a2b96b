//! Loads without messages: a server at rest, the time until it serves, and what a sync of this disk costs.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::client;
use crate::error::{BenchError, Result};
use crate::load::Target;
use crate::procfs;
use crate::report::Report;
use crate::tcp::session::Route;

/// CPU and memory of a server that nobody talks to, over `period`.
pub fn idle(pids: &[u32], period: Duration) -> Result<Report> {
    let before = procfs::usage(pids)?;
    let begin = Instant::now();
    std::thread::sleep(period);
    let after = procfs::usage(pids)?;
    let mut report = Report::new(format!("idle for {} s", period.as_secs()));
    report.add("idle CPU", (after.cpu_s - before.cpu_s) / begin.elapsed().as_secs_f64() * 100.0, "% of a core");
    report.add("server RSS", after.rss as f64 / 1e6, "MB");
    report.add("server RSS peak", after.rss_peak as f64 / 1e6, "MB");
    Ok(report)
}

/// Starts `command` (program and arguments) and dials until it answers a QueryRoute. The process goes on; its output goes to
/// `log`.
pub fn ready(command: &[String], log: &Path, target: &Target, patience: Duration) -> Result<(Child, Report)> {
    ready_by(command, log, |ended| until_ready(target, patience, ended))
}

/// The same of a name server of TCP clients.
pub fn ready_tcp(command: &[String], log: &Path, target: &Target, patience: Duration) -> Result<(Child, Report)> {
    ready_by(command, log, |ended| until_ready_tcp(target, patience, ended))
}

fn ready_by(
    command: &[String],
    log: &Path,
    wait: impl FnOnce(&mut dyn FnMut() -> bool) -> Result<()>,
) -> Result<(Child, Report)> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(BenchError::Setting { name: "command", value: "empty".to_owned(), limit: "a program" });
    };
    let file = |source| BenchError::File { path: log.to_owned(), source };
    let output = std::fs::File::create(log).map_err(file)?;
    let errors = output.try_clone().map_err(file)?;
    let begin = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .map_err(|source| BenchError::File { path: program.into(), source })?;
    match wait(&mut || child.try_wait().is_ok_and(|s| s.is_some())) {
        Ok(()) => {
            let mut report = Report::new("ready after start".to_owned());
            report.add("ready", begin.elapsed().as_secs_f64() * 1e3, "ms");
            Ok((child, report))
        }
        Err(error) => {
            drop(child.kill());
            drop(child.wait());
            let told = std::fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<_> = told.lines().rev().take(5).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            Err(BenchError::Server {
                what: format!("{program} did not get ready: {error}; it said: {}", tail.join(" | ")),
            })
        }
    }
}

/// Dials every millisecond until a QueryRoute is answered.
pub fn until_ready(target: &Target, patience: Duration, ended: impl FnMut() -> bool) -> Result<()> {
    dial_until(patience, ended, async || match client::probe(&target.endpoint, &target.topic).await {
        Ok(0) => Err(BenchError::Server { what: "a QueryRoute without a status".to_owned() }),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    })
}

/// Dials every millisecond until a name server of TCP clients says where the topic is, or that it is nowhere.
pub fn until_ready_tcp(target: &Target, patience: Duration, ended: impl FnMut() -> bool) -> Result<()> {
    let traffic = Arc::default();
    dial_until(patience, ended, async || match Route::ask(&target.endpoint, &target.topic, &traffic).await {
        Ok(_) | Err(BenchError::Status { .. }) => Ok(()),
        Err(error) => Err(error),
    })
}

fn dial_until(patience: Duration, mut ended: impl FnMut() -> bool, dial: impl AsyncFn() -> Result<()>) -> Result<()> {
    let io = |source| BenchError::File { path: "runtime".into(), source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
    let begin = Instant::now();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        loop {
            let last = match tokio::time::timeout(Duration::from_secs(3), dial()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer within 3 s".to_owned(),
            };
            if ended() || begin.elapsed() > patience {
                return Err(BenchError::Stalled { load: "ready", done: 0, wanted: 1, last });
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
}

/// Appends 4 KiB and syncs its data, 200 times, in `folder`.
pub fn sync_cost(folder: &Path) -> Result<Report> {
    let path = folder.join("sync-probe");
    let file_error = |source| BenchError::File { path: path.clone(), source };
    let mut file = std::fs::File::create(&path).map_err(file_error)?;
    let mut histogram = super::histogram()?;
    for _ in 0..200 {
        file.write_all(&[7; 4096]).map_err(file_error)?;
        let begin = Instant::now();
        file.sync_data().map_err(file_error)?;
        histogram.saturating_record(begin.elapsed().as_nanos() as u64);
    }
    std::fs::remove_file(&path).map_err(file_error)?;
    let mut report = Report::new("fdatasync after appending 4 KiB".to_owned());
    report.add_latency(&histogram);
    Ok(report)
}
