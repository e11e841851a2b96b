//! How a shard in a bucket is opened, and what that means for the database.

use martlet_bucket::Bucket;
use martlet_model::UnixMillis;
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, GarbageCollectorDirectoryOptions, GarbageCollectorOptions, Settings,
};
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::db_cache::{DbCache, SplitCache};
use std::sync::Arc;
use std::time::Duration;

/// How to open a shard in a bucket.
#[derive(Clone)]
pub struct BucketOptions {
    /// The place.
    pub bucket: Bucket,
    /// Name of the shard's database in it.
    pub name: String,
    /// Least time between two flushes of the log. Each is one PUT, which costs money: at 50 ms an always-busy shard makes
    /// 20 a second. Shorter means less latency under load and more, smaller objects.
    pub flush_interval: Duration,
    /// Size from which memory is written as a table.
    pub table_bytes: usize,
    /// Bytes of batches in memory that are not in a table yet, from which commits wait. At least four tables.
    pub unflushed_bytes: usize,
    /// Bytes of blocks of tables that are kept in memory.
    pub block_cache_bytes: u64,
    /// Bytes of indexes and filters of tables that are kept in memory. Too few, and every read fetches them again.
    pub index_cache_bytes: u64,
    /// Compactions at a time.
    pub compactions: usize,
    /// Age from which objects that nothing needs any more are deleted; it is looked for them as often.
    pub garbage_after: Duration,
    /// How often it is looked what can be compacted.
    pub compaction_poll: Duration,
    /// How often it is looked which periods can be given up.
    pub look_after_every: Duration,
    /// How often it is looked whether somebody else owns the shard; a new owner gives the one before so long, and a
    /// little more, to know.
    pub manifest_poll: Duration,
    /// What the wall clock shows at the opening; unset, it is read.
    pub wall: Option<UnixMillis>,
    /// A batch that is not durable after so long: new messages are refused until it is.
    pub stalled_after: Duration,
    /// Called after each change of [`Store::progress`](crate::Store::progress) and of
    /// [`Store::ready`](crate::Store::ready); must not block.
    pub waker: Arc<dyn Fn() + Send + Sync>,
}

impl BucketOptions {
    /// The defaults for a shard of this name.
    pub fn new(bucket: Bucket, name: impl Into<String>, waker: Arc<dyn Fn() + Send + Sync>) -> Self {
        Self {
            bucket,
            name: name.into(),
            flush_interval: Duration::from_millis(50),
            table_bytes: 16 << 20,
            unflushed_bytes: 96 << 20,
            block_cache_bytes: 32 << 20,
            index_cache_bytes: 16 << 20,
            compactions: 2,
            garbage_after: Duration::from_secs(300),
            compaction_poll: Duration::from_secs(8),
            look_after_every: Duration::from_secs(60),
            manifest_poll: Duration::from_secs(1),
            wall: None,
            stalled_after: Duration::from_secs(2),
            waker,
        }
    }

    pub(super) fn settings(&self, folder: bool) -> Settings {
        Settings {
            // Flushes are asked for, see `write::flush`.
            flush_interval: None,
            manifest_poll_interval: self.manifest_poll,
            l0_sst_size_bytes: self.table_bytes,
            max_unflushed_bytes: self.unflushed_bytes.max(self.table_bytes.saturating_mul(4)),
            // All trees together; a flush makes one table in each period it touches.
            l0_max_ssts: 256,
            l0_max_ssts_per_key: 24,
            l0_flush_parallelism: 2,
            compactor_options: None,
            garbage_collector_options: Some(self.collector(folder)),
            ..Settings::default()
        }
    }

    pub(super) fn compactor(&self) -> CompactorOptions {
        CompactorOptions {
            poll_interval: self.compaction_poll,
            max_concurrent_compactions: self.compactions.max(1),
            worker: Some(CompactionWorkerOptions {
                max_concurrent_compactions: self.compactions.max(1),
                compactions_poll_interval: self.compaction_poll,
                max_sst_size: 64 << 20,
                max_fetch_tasks: 2,
                bytes_to_fetch: 1 << 20,
                max_subcompactions: 1,
                ..CompactionWorkerOptions::default()
            }),
            ..CompactorOptions::default()
        }
    }

    fn collector(&self, folder: bool) -> GarbageCollectorOptions {
        let older_than = |min_age| {
            let interval = Some(self.garbage_after);
            Some(GarbageCollectorDirectoryOptions { interval, min_age, dry_run: false })
        };
        // Without conditional overwrites, as in a folder, only age keeps a process that slept from writing a manifest of a
        // number that was deleted.
        let least = Duration::from_secs(if folder { 24 * 3600 } else { 600 });
        let metadata = older_than(self.garbage_after.max(least));
        GarbageCollectorOptions {
            manifest_options: metadata,
            compactions_options: metadata,
            wal_options: older_than(self.garbage_after),
            compacted_options: older_than(self.garbage_after),
            // Empty objects, one for each opening: they are what keeps an old owner out, for however long it slept.
            wal_fence_options: None,
            detach_options: None,
            boundary_files_enabled: !folder,
            ..GarbageCollectorOptions::default()
        }
    }

    pub(super) fn cache(&self) -> Arc<dyn DbCache> {
        let cache = |max_capacity| {
            let options = MokaCacheOptions { max_capacity, time_to_live: None, time_to_idle: None };
            Some(Arc::new(MokaCache::new_with_opts(options)) as Arc<dyn DbCache>)
        };
        let split = SplitCache::new().with_block_cache(cache(self.block_cache_bytes));
        Arc::new(split.with_meta_cache(cache(self.index_cache_bytes)).build())
    }
}
