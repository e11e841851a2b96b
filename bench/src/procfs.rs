//! What the kernel says about processes: CPU time, resident memory, bytes handed to write.
//!
//! Source: proc(5). `utime` and `stime` are in ticks of 10 ms (USER_HZ is 100 on every Linux that Rust supports). `wchar`
//! counts bytes of write(2), writev(2) and pwrite(2), on files and on sockets; send(2) is not in it.

use std::path::PathBuf;

use crate::error::{BenchError, Result};

const TICKS_PER_SECOND: f64 = 100.0;

/// Counters of one process, or of several summed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// User and system CPU seconds since the process began.
    pub cpu_s: f64,
    /// Bytes handed to write calls since the process began, sockets included.
    pub written: u64,
    /// Resident bytes now.
    pub rss: u64,
    /// Largest resident bytes so far (of several processes: sum of their peaks).
    pub rss_peak: u64,
}

/// The sum over `pids`; an error if one of them is gone.
pub fn usage(pids: &[u32]) -> Result<Usage> {
    let mut sum = Usage::default();
    for &pid in pids {
        let stat = read(pid, "stat")?;
        sum.cpu_s += cpu_seconds(&stat).ok_or_else(|| unreadable(pid, "stat"))?;
        let status = read(pid, "status")?;
        sum.rss += field(&status, "VmRSS:").ok_or_else(|| unreadable(pid, "status"))? * 1024;
        sum.rss_peak += field(&status, "VmHWM:").ok_or_else(|| unreadable(pid, "status"))? * 1024;
        sum.written += field(&read(pid, "io")?, "wchar:").ok_or_else(|| unreadable(pid, "io"))?;
    }
    Ok(sum)
}

/// Starts the peak of each process anew from what is resident now.
pub fn reset_peak(pids: &[u32]) -> Result<()> {
    for &pid in pids {
        let path = PathBuf::from(format!("/proc/{pid}/clear_refs"));
        std::fs::write(&path, "5").map_err(|source| BenchError::File { path, source })?;
    }
    Ok(())
}

fn read(pid: u32, file: &str) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/{file}"));
    std::fs::read_to_string(&path).map_err(|source| BenchError::File { path, source })
}

fn unreadable(pid: u32, file: &str) -> BenchError {
    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "a field is missing");
    BenchError::File { path: PathBuf::from(format!("/proc/{pid}/{file}")), source }
}

/// utime + stime: fields 14 and 15. The name in parentheses may hold spaces and parentheses itself.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.starts_with(name))?;
    line[name.len()..].split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_an_awkward_process_name() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 100 1000 10";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("42 cut off"), None);
    }

    #[test]
    fn the_own_process_has_memory_and_a_missing_one_is_named() {
        let own = usage(&[std::process::id()]).unwrap();
        assert!(own.rss > 0 && own.rss_peak >= own.rss);
        let gone = usage(&[u32::MAX]).unwrap_err().to_string();
        assert!(gone.starts_with("/proc/4294967295/stat: "), "{gone}");
    }
}
