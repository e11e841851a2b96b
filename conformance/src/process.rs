//! Starting a broker's process, and waiting for what nothing announces.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::{HarnessError, Result, io, tail};

const START_SECS: u64 = 120;
/// Between two questions for a number.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts a broker, and waits until it says that it is ready. What it says goes to the end of the log.
///
/// # Errors
/// When it does not become ready; then it is gone.
pub(crate) fn launch(mut command: Command, log_path: &Path) -> Result<Child> {
    let log = OpenOptions::new().create(true).append(true).open(log_path).map_err(io("opening a broker's log"))?;
    let errors = log.try_clone().map_err(io("opening a broker's log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
    let mut child = command.spawn().map_err(io(format!("starting {command:?}")))?;
    let (tell, ready) = channel();
    if let Some(said) = child.stdout.take() {
        // Ends with the process: what it says later goes to the log too.
        std::thread::spawn(move || copy_lines(said, log, &tell));
    }
    let Err(why) = ready.recv_timeout(Duration::from_secs(START_SECS)) else { return Ok(child) };
    let _ = child.kill().and_then(|()| child.wait());
    let what = match why {
        RecvTimeoutError::Timeout => "the broker's start",
        RecvTimeoutError::Disconnected => "the broker's start (it has ended)",
    };
    Err(HarnessError::Timeout { what: what.into(), secs: START_SECS, log: tail(log_path) })
}

fn copy_lines(said: ChildStdout, mut log: File, tell: &Sender<()>) {
    for line in BufReader::new(said).lines().map_while(std::result::Result::ok) {
        if writeln!(log, "{line}").is_err() {
            return;
        }
        if line.starts_with("Ready after") {
            let _ = tell.send(());
        }
    }
}

/// Asks again and again until the answer is zero, or nobody can be asked: when clients have done something in the background is
/// no event that anybody reports.
///
/// # Errors
/// When it is not zero within `secs` seconds, or the question fails.
pub fn await_zero(what: &str, secs: u64, mut ask: impl FnMut() -> Result<Option<u64>>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(secs);
    while let Some(left) = ask()?.filter(|&left| left > 0) {
        if Instant::now() >= deadline {
            return Err(HarnessError::Timeout { what: what.to_owned(), secs, log: format!("{left} are left") });
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Bytes of a process that are in memory now.
///
/// # Errors
/// When it is gone.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).map_err(io(format!("reading {path}")))?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib << 10).ok_or_else(|| HarnessError::Command { what: format!("reading {path}"), output: status })
}

/// Files and sockets that this process, and each that it starts, may have open at a time.
///
/// # Errors
/// When the system does not say.
pub fn open_files_max() -> Result<u64> {
    let path = "/proc/self/limits";
    let limits = std::fs::read_to_string(path).map_err(io(format!("reading {path}")))?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    Ok(soft.and_then(|soft| soft.parse().ok()).unwrap_or(u64::MAX))
}
