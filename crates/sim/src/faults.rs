//! What goes wrong, and how often it did.

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The power goes; what was not synced is lost or torn.
    Crash,
    /// The process is killed; the system lives on.
    Kill,
    /// A sync fails.
    SyncError,
    /// Writes fail.
    WriteError,
    /// Reads fail for a while.
    ReadError,
    /// The disk runs full.
    DiskFull,
    /// The disk is slow for a while.
    SlowDisk,
    /// The wall clock jumps by an hour.
    ClockHour,
    /// The wall clock jumps by four days.
    ClockDays,
    /// The index is deleted while the store is closed.
    IndexDeleted,
    /// The index loses entries while the store is closed.
    IndexLossy,
    /// Everything clean is dropped from memory.
    Eviction,
    /// A client vanishes with what it holds.
    ClientVanishes,
    /// A topic is deleted and created again.
    TopicRecreated,
    /// A group is deleted and created again.
    GroupRecreated,
}

/// All kinds, with their names.
pub const FAULTS: [(Fault, &str); 15] = [
    (Fault::Crash, "crash"),
    (Fault::Kill, "kill"),
    (Fault::SyncError, "sync-error"),
    (Fault::WriteError, "write-error"),
    (Fault::ReadError, "read-error"),
    (Fault::DiskFull, "disk-full"),
    (Fault::SlowDisk, "slow-disk"),
    (Fault::ClockHour, "clock-hour"),
    (Fault::ClockDays, "clock-days"),
    (Fault::IndexDeleted, "index-deleted"),
    (Fault::IndexLossy, "index-lossy"),
    (Fault::Eviction, "eviction"),
    (Fault::ClientVanishes, "client-vanishes"),
    (Fault::TopicRecreated, "topic-recreated"),
    (Fault::GroupRecreated, "group-recreated"),
];

/// How often each kind happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts([u64; FAULTS.len()]);

impl FaultCounts {
    /// Counts one.
    pub fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How many of a kind.
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }

    /// How many in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }
}

impl std::fmt::Display for FaultCounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts: Vec<_> = FAULTS.iter().map(|(fault, name)| format!("{name} {}", self.of(*fault))).collect();
        f.write_str(&counts.join(", "))
    }
}
