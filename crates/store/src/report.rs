//! What opening a store tells: settings, errors, and what recovery found.

use martlet_model::UnixMillis;
use std::path::PathBuf;

/// When a batch counts as durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After `fdatasync`: acknowledged data survives power loss.
    #[default]
    Fdatasync,
    /// After `write()`: acknowledged data survives a crash of the process, but power loss or a crash of the system
    /// takes what the kernel had not written yet, up to a whole segment.
    PageCacheOnlyLosesDataOnPowerLoss,
}

/// What recovery found in a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The folder was empty and has a new log now.
    pub created: bool,
    /// Segments that exist.
    pub segments: u64,
    /// Bytes of the log that were read because the index did not have them yet.
    pub replayed_bytes: u64,
    /// Time of the last batch found; 0 if there is none.
    pub last_time: UnixMillis,
    /// A last frame that was not written completely and has been cut off. Nothing of it was ever reported durable.
    pub torn: Option<TornTail>,
    /// Files of steps that were not completed, removed.
    pub leftovers_removed: Vec<String>,
    /// Why the index was rebuilt from the log, if it was.
    pub index_rebuilt: Option<String>,
}

/// A torn frame at the end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// File name within the store's folder.
    pub file: String,
    /// Where the torn frame starts.
    pub position: u64,
    /// Bytes from there that were not zero any more.
    pub bytes_cut: u64,
}

/// A store that could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another process has the folder.
    #[error("folder {} is in use by another process{}", folder.display(), process.map_or(String::new(), |p| format!(" ({p})")))]
    Locked {
        /// The folder.
        folder: PathBuf,
        /// Number of that process, if known.
        process: Option<u32>,
    },
    /// Written by a newer build.
    #[error("{file} has format version {found}, this build knows up to {known}")]
    NewerFormat {
        /// File name within the folder.
        file: String,
        /// Its version.
        found: u64,
        /// The newest version known.
        known: u64,
    },
    /// What was durable is not there any more. `martlet log inspect` shows it, `martlet log repair` drops it by name.
    #[error("{file} is damaged at position {position}: expected {expected}, found {found}")]
    Damaged {
        /// File name within the folder.
        file: String,
        /// Byte position in the file.
        position: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The system refused.
    #[error("{operation} of {file} at position {position} failed: {cause}")]
    Io {
        /// The operation.
        operation: &'static str,
        /// File name within the folder.
        file: String,
        /// Byte position in the file.
        position: u64,
        /// The system's answer.
        cause: String,
    },
    /// The database in a bucket could not be opened.
    #[error("{operation} of {place} failed: {cause}")]
    Bucket {
        /// The operation.
        operation: &'static str,
        /// The shard and the bucket.
        place: String,
        /// In the words of the database or the bucket.
        cause: String,
    },
    /// The index could not be opened or rebuilt.
    #[error("index: {0}")]
    Index(String),
}

/// Something a store came upon while it was running, for the log and the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The index had lost something and was rebuilt from the log.
    IndexRebuilt {
        /// What did not fit.
        why: String,
    },
    /// The index could not be read or written; maintenance tries again.
    IndexFailed {
        /// In the words of the index.
        cause: String,
    },
    /// A segment is damaged. Its space is not reclaimed until it is repaired.
    Damaged {
        /// File name within the store's folder.
        file: String,
        /// Byte position in the file.
        position: u64,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file that is not needed any more could not be removed; the next opening does it.
    LeftBehind {
        /// File name within the store's folder.
        file: String,
        /// The system's answer.
        cause: String,
    },
}
