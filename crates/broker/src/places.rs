//! Where a broker keeps things: a folder of this machine, or a bucket.

use crate::options::{BrokerOptions, BucketPlace, OpenError};
use martlet_bucket::Bucket;
use martlet_cluster::{AnyCatalogStore, BucketCatalogStore, LocalCatalogStore};
use martlet_store::RecoveryReport;
use martlet_store::any::AnyStore;
use martlet_store::local::{LocalStore, Options as LocalOptions};
use martlet_store::object::{BucketOptions, BucketStore};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Name of the one shard: its folder, or its database in the bucket.
pub(crate) const SHARD: &str = "shard-0";
/// File or object that says what is being copied into this place.
pub(crate) const COPYING: &str = "copying-from";
/// While an index is rebuilt at the start, progress is told this often.
const REBUILD_TOLD_EVERY: Duration = Duration::from_secs(1);

pub(crate) type Waker = Arc<dyn Fn() + Send + Sync>;
pub(crate) type Opened = (AnyStore, RecoveryReport, AnyCatalogStore);

/// Opens the shard's store and the catalog's.
pub(crate) fn open(options: &BrokerOptions, waker: Waker) -> Result<Opened, OpenError> {
    let unfinished = |from: Option<String>, place: String| match from {
        Some(from) => Err(OpenError::Unfinished { place, from }),
        None => Ok(()),
    };
    match &options.bucket {
        None => {
            let folder = &options.data_dir;
            unfinished(folder_copied_from(folder)?, folder.display().to_string())?;
            in_folder(options, waker)
        }
        Some(place) => {
            let bucket = open_bucket(place)?;
            unfinished(bucket.text(COPYING)?, place.location.to_string())?;
            in_bucket(place, bucket, waker)
        }
    }
}

/// What is being copied into a folder.
pub(crate) fn folder_copied_from(folder: &Path) -> Result<Option<String>, OpenError> {
    match std::fs::read_to_string(folder.join(COPYING)) {
        Ok(from) => Ok(Some(from)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::Folder { folder: folder.to_owned(), error }),
    }
}

pub(crate) fn in_folder(options: &BrokerOptions, waker: Waker) -> Result<Opened, OpenError> {
    let folder = &options.data_dir;
    std::fs::create_dir_all(folder).map_err(|error| OpenError::Folder { folder: folder.clone(), error })?;
    let (store, recovery) = LocalStore::open(LocalOptions {
        segment_bytes: options.segment_bytes,
        tail_cache_bytes: options.tail_cache_bytes,
        durability: options.durability,
        rebuild_progress: rebuild_progress(),
        ..LocalOptions::new(folder.join(SHARD), random()?, waker)
    })?;
    let catalog_folder = folder.join("catalog");
    let catalog = LocalCatalogStore::open(&catalog_folder)
        .map_err(|error| OpenError::Folder { folder: catalog_folder, error })?;
    Ok((AnyStore::Local(store), recovery, AnyCatalogStore::Local(catalog)))
}

pub(crate) fn open_bucket(place: &BucketPlace) -> Result<Bucket, OpenError> {
    let name = u128::from_le_bytes(random()?);
    Ok(Bucket::open(place.location.clone(), &format!("{name:032x}"))?)
}

pub(crate) fn in_bucket(place: &BucketPlace, bucket: Bucket, waker: Waker) -> Result<Opened, OpenError> {
    let options = BucketOptions::new(bucket.clone(), SHARD, waker);
    let (store, recovery) = BucketStore::open(BucketOptions {
        flush_interval: place.flush_interval,
        table_bytes: place.table_bytes,
        unflushed_bytes: place.table_bytes.saturating_mul(6),
        // Indexes and filters are a few per cent of the tables; without them every read costs several requests.
        block_cache_bytes: place.cache_bytes - place.cache_bytes / 4,
        index_cache_bytes: place.cache_bytes / 4,
        compactions: place.compactions,
        garbage_after: place.garbage_after,
        ..options
    })?;
    Ok((AnyStore::Bucket(store), recovery, AnyCatalogStore::Bucket(BucketCatalogStore::new(bucket))))
}

/// Says how far rebuilding an index is, once a second.
fn rebuild_progress() -> Arc<dyn Fn(u64, u64) + Send + Sync> {
    let told = Mutex::new(Instant::now());
    Arc::new(move |done, total| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= REBUILD_TOLD_EVERY {
            *told = Instant::now();
            let percent = done.saturating_mul(100) / total.max(1);
            tracing::info!("rebuilding the index from the log: {percent} % ({done} of {total} bytes)");
        }
    })
}

/// 16 random bytes.
pub(crate) fn random() -> Result<[u8; 16], OpenError> {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match filled {
        Ok(16) => Ok(bytes),
        Ok(_) => {
            Err(OpenError::System { what: "asking for randomness", error: std::io::ErrorKind::UnexpectedEof.into() })
        }
        Err(error) => Err(OpenError::System { what: "asking for randomness", error: error.into() }),
    }
}
