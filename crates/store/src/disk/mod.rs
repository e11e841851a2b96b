//! Files in one folder, as the engine sees them: blocking calls, typed errors, and nothing durable before it is synced.
//!
//! Rules an engine may rely on, and a simulated disk takes to the letter
//! - Bytes written survive a crash only after [`DiskFile::sync_data`]; before it any subset of 512-byte sectors may.
//! - A created, renamed or removed name survives only after [`Disk::sync_dir`].
//! - Data of a file whose name is durable survives once synced.

pub(crate) mod real;
pub(crate) mod sim;

use std::fmt;

/// Bytes that survive a crash together or not at all.
pub(crate) const SECTOR: usize = 512;

/// Why a call failed, as far as the engine has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskErrorKind {
    NotFound,
    Exists,
    /// Another process holds the folder; its number if it left one.
    Locked(Option<u32>),
    /// No space left.
    Full,
    Other,
}

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskError {
    pub kind: DiskErrorKind,
    pub operation: &'static str,
    pub file: String,
    pub position: u64,
    pub cause: String,
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} at position {} failed: {}", self.operation, self.file, self.position, self.cause)
    }
}

impl std::error::Error for DiskError {}

pub(crate) type DiskResult<T> = Result<T, DiskError>;

/// Bytes of the file system, without those that it keeps back for the system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub total: u64,
    pub free: u64,
}

/// One folder.
pub(crate) trait Disk: Send + Sync + 'static {
    type File: DiskFile;

    /// Keeps every other process out until this value is dropped.
    fn lock(&self) -> DiskResult<()>;
    /// A new empty file; an existing one is an error.
    fn create(&self, name: &str) -> DiskResult<Self::File>;
    /// An existing file, for reading and writing.
    fn open(&self, name: &str) -> DiskResult<Self::File>;
    /// Names and lengths of all files.
    fn list(&self) -> DiskResult<Vec<(String, u64)>>;
    /// Renames, replacing `to` if it exists.
    fn rename(&self, from: &str, to: &str) -> DiskResult<()>;
    fn remove(&self, name: &str) -> DiskResult<()>;
    fn sync_dir(&self) -> DiskResult<()>;
    fn space(&self) -> DiskResult<Space>;
    /// Whether blocks are overwritten where they are, so that a sync of what was written before has less to do than one of what was
    /// only allocated.
    fn overwrites_in_place(&self) -> bool;
    /// Bytes handed to writes so far.
    fn written_bytes(&self) -> u64;
}

/// One open file.
pub(crate) trait DiskFile: Send + Sync + 'static {
    /// Reads up to `into.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, position: u64, into: &mut [u8]) -> DiskResult<usize>;
    /// Writes all of `parts`, one after the other.
    fn write_at(&self, position: u64, parts: &[&[u8]]) -> DiskResult<()>;
    fn sync_data(&self) -> DiskResult<()>;
    /// Makes the file `length` bytes long with all space allocated; what is new reads as zeros.
    fn preallocate(&self, length: u64) -> DiskResult<()>;
    /// Cuts the file.
    fn truncate(&self, length: u64) -> DiskResult<()>;
    fn length(&self) -> DiskResult<u64>;
}
