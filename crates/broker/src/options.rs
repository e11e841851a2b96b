//! How a broker is set up, and what opening it found.

use crate::AccessOptions;
use martlet_bucket::Location;
use martlet_store::{Durability, RecoveryReport};
use std::path::PathBuf;
use std::time::Duration;

/// How a broker is set up.
#[derive(Clone, Debug)]
pub struct BrokerOptions {
    /// Folder for everything that must survive; made if it is missing. With a bucket, not used for messages.
    pub data_dir: PathBuf,
    /// Where messages, progress and the catalog are kept instead of the folder.
    pub bucket: Option<BucketPlace>,
    /// What clients know the one shard of this node by.
    pub broker_name: String,
    /// What scripts know the cluster by.
    pub cluster_name: String,
    /// Create a topic when a client asks for its route.
    pub auto_create_topics: bool,
    /// Create a consumer group when a consumer arrives.
    pub auto_create_groups: bool,
    /// When a send counts as durable.
    pub durability: Durability,
    /// Length of a segment of the log.
    pub segment_bytes: u32,
    /// Newest records kept in memory.
    pub tail_cache_bytes: usize,
    /// How long messages of topics without their own retention are kept.
    pub retention_millis: i64,
    /// Open slots of one group and queue beyond which only retries are handed out.
    pub open_slots_max: usize,
    /// Share of the disk in use from which the oldest messages are dropped; 1.0 never.
    pub disk_watermark: f64,
    /// Polls waiting at a time, over all clients.
    pub polls_max: usize,
    /// Connected clients at a time.
    pub clients_max: usize,
    /// Bytes of messages on their way to clients at a time.
    pub reply_bytes: usize,
    /// Latest delivery timestamp of a message, in milliseconds from its arrival.
    pub delay_max_millis: i64,
    /// Whether topics of type MIXED may be made.
    pub mixed_topics: bool,
    /// How long after the sending of a half message nobody is asked about it, unless the message says so.
    pub transaction_immunity_millis: i64,
    /// Time between two checks of a transaction.
    pub transaction_check_interval_millis: i64,
    /// Checks of a transaction, after which it is given up.
    pub transaction_checks_max: u32,
    /// Who may do what; `None`: everybody everything.
    pub access: Option<AccessOptions>,
}

/// A bucket to keep everything in, and how.
#[derive(Clone, Debug)]
pub struct BucketPlace {
    /// The bucket and the prefix in it.
    pub location: Location,
    /// Least time between two flushes of the log.
    pub flush_interval: Duration,
    /// Bytes of what was read from the bucket that are kept in memory.
    pub cache_bytes: u64,
    /// Size from which memory is written as a table.
    pub table_bytes: usize,
    /// Compactions at a time.
    pub compactions: usize,
    /// Age from which objects that nothing needs any more are deleted.
    pub garbage_after: Duration,
}

impl BucketPlace {
    /// The defaults for a place.
    pub fn new(location: Location) -> Self {
        Self {
            location,
            flush_interval: Duration::from_millis(50),
            cache_bytes: 48 << 20,
            table_bytes: 16 << 20,
            compactions: 2,
            garbage_after: Duration::from_secs(300),
        }
    }
}

impl BrokerOptions {
    /// The defaults, with data in this folder.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            bucket: None,
            broker_name: "broker-a".into(),
            cluster_name: "DefaultCluster".into(),
            auto_create_topics: true,
            auto_create_groups: true,
            durability: Durability::Fdatasync,
            segment_bytes: 128 << 20,
            tail_cache_bytes: 16 << 20,
            retention_millis: martlet_model::limits::RETENTION_MILLIS,
            open_slots_max: martlet_model::limits::OPEN_SLOTS_MAX,
            disk_watermark: 0.85,
            polls_max: 100_000,
            clients_max: 100_000,
            reply_bytes: 64 << 20,
            delay_max_millis: martlet_model::limits::DELAY_MILLIS_MAX,
            mixed_topics: false,
            transaction_immunity_millis: martlet_model::limits::TRANSACTION_IMMUNITY_MILLIS,
            transaction_check_interval_millis: martlet_model::limits::TRANSACTION_CHECK_INTERVAL_MILLIS,
            transaction_checks_max: martlet_model::limits::TRANSACTION_CHECKS_MAX,
            access: None,
        }
    }
}

/// What opening found.
#[derive(Clone, Debug)]
pub struct OpenReport {
    /// What the log's recovery did.
    pub recovery: RecoveryReport,
    /// Openings of this shard so far.
    pub epoch: u32,
    /// Topics in the catalog.
    pub topics: usize,
    /// Consumer groups in the catalog.
    pub groups: usize,
}

/// Why a broker could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A folder could not be made or read.
    #[error("{folder}: {error}")]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] martlet_store::OpenError),
    /// The bucket cannot be used.
    #[error(transparent)]
    Bucket(#[from] martlet_bucket::BucketError),
    /// A copy of another place that has not come to its end.
    #[error("an unfinished copy of {from}; finish it with `martlet store copy {from} {place}`, or remove it")]
    Unfinished {
        /// The place.
        place: String,
        /// What is being copied.
        from: String,
    },
    /// The shard's state could not be read.
    #[error(transparent)]
    Shard(#[from] martlet_shard::OpenError),
    /// The catalog could not be read.
    #[error(transparent)]
    Catalog(#[from] martlet_cluster::CatalogError),
    /// The system has no randomness or no thread to give.
    #[error("{what}: {error}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        error: std::io::Error,
    },
    /// The shard stopped while it was being opened.
    #[error("the shard stopped while opening: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}
