//! Where versions of the catalog are kept.

use bytes::Bytes;
use std::future::Future;

/// How many of the newest versions an engine keeps.
pub const VERSIONS_KEPT: usize = 16;

/// Why reading failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the catalog at {location}: {reason}")]
pub struct ReadError {
    /// File, folder or object.
    pub location: String,
    /// The system's words.
    pub reason: String,
}

/// Why a version was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Somebody else created that version, or had before it was removed as an old one. Nothing was changed.
    #[error("catalog version {version} exists already, or did")]
    Exists {
        /// The version.
        version: u64,
    },
    /// Writing failed. Whether the version exists now is unknown.
    #[error("cannot write the catalog at {location}: {reason}")]
    Io {
        /// File, folder or object.
        location: String,
        /// The system's words.
        reason: String,
    },
}

/// A sequence of versions, each created only if it does not exist yet.
///
/// A version is durable when `create` returns, and either whole or not there after a crash. Engines keep the newest
/// [`VERSIONS_KEPT`] and do not look inside the bytes.
pub trait CatalogStore: Send + Sync + 'static {
    /// The newest version and its bytes; `None` if there is none yet.
    fn latest(&self) -> impl Future<Output = Result<Option<(u64, Bytes)>, ReadError>> + Send;

    /// Makes `bytes` version `version`. One that has been there and is not kept any more exists, too.
    fn create(&self, version: u64, bytes: Bytes) -> impl Future<Output = Result<(), CreateError>> + Send;

    /// What to call a version in front of people: its file or object.
    fn location(&self, version: u64) -> String;
}
