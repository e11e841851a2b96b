//! Figures of the process itself. Source: proc(5); absent where there is no `/proc`.

use super::Families;

/// Memory and processor time.
pub fn add(families: &mut Families, uptime_seconds: f64) {
    families.gauge("martlet_uptime_seconds", "Seconds since the process started", uptime_seconds);
    if let Some(bytes) = std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_bytes) {
        families.gauge("process_resident_memory_bytes", "Resident memory", bytes as f64);
    }
    if let Some(seconds) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds) {
        families.counter("process_cpu_seconds", "Processor time, user and system", seconds);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        families.gauge("process_open_fds", "Open files and sockets", files.count() as f64);
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Fields 14 and 15, in ticks of which Linux shows 100 a second to programs on every platform of ours.
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the name in parentheses, and may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / 100.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn proc_files_are_read_as_they_are() {
        assert_eq!(super::resident_bytes("Name:\tx\nVmRSS:\t   2048 kB\n"), Some(2 << 20));
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100";
        assert_eq!(super::cpu_seconds(stat), Some(3.0));
        assert_eq!(super::cpu_seconds("7 (a"), None);
    }
}
