//! The catalog in a bucket: one object per version, `catalog/0000000012.json`, created only if it is absent.
//!
//! The same on a folder that stands in for a bucket. Requests run on the bucket's own runtime, so it does not matter
//! where they are made.

use crate::{CatalogStore, CreateError, ReadError, VERSIONS_KEPT};
use bytes::Bytes;
use futures_util::TryStreamExt;
use martlet_bucket::Bucket;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions};

/// How often `latest` looks again when the version it found was pruned meanwhile.
const READ_TRIES: u32 = 5;
const FOLDER: &str = "catalog";

/// Versions in a bucket, shared by all who open it.
#[derive(Clone)]
pub struct BucketCatalogStore {
    bucket: Bucket,
}

impl BucketCatalogStore {
    /// Uses the folder `catalog` of the bucket.
    pub fn new(bucket: Bucket) -> Self {
        Self { bucket }
    }

    fn path(&self, version: u64) -> Path {
        self.bucket.path(&format!("{FOLDER}/{version:010}.json"))
    }

    /// All versions, oldest first.
    async fn versions(&self) -> Result<Vec<u64>, Error> {
        let folder = self.bucket.path(FOLDER);
        let mut versions: Vec<u64> = self
            .bucket
            .store()
            .list(Some(&folder))
            .try_filter_map(|object| async move {
                let name = object.location.filename().and_then(|name| name.strip_suffix(".json"));
                Ok(name.and_then(|name| name.parse::<u64>().ok()))
            })
            .try_collect()
            .await?;
        versions.sort_unstable();
        Ok(versions)
    }

    async fn read_latest(&self) -> Result<Option<(u64, Bytes)>, ReadError> {
        let failed = |path: Path, error: Error| ReadError {
            location: format!("{path} in {}", self.bucket.location()),
            reason: error.to_string(),
        };
        let mut tries = READ_TRIES;
        loop {
            let versions = self.versions().await.map_err(|error| failed(self.bucket.path(FOLDER), error))?;
            let Some(&version) = versions.last() else { return Ok(None) };
            let got = match self.bucket.store().get(&self.path(version)).await {
                Ok(answer) => answer.bytes().await,
                Err(error) => Err(error),
            };
            match got {
                Ok(bytes) => return Ok(Some((version, bytes))),
                // Newer versions came and this one was pruned between listing and reading.
                Err(Error::NotFound { .. }) if tries > 1 => tries -= 1,
                Err(error) => return Err(failed(self.path(version), error)),
            }
        }
    }

    async fn write(&self, version: u64, bytes: Bytes) -> Result<(), CreateError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.bucket.store().put_opts(&self.path(version), bytes.into(), options).await {
            Ok(_) => {}
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                return Err(CreateError::Exists { version });
            }
            Err(error) => {
                return Err(CreateError::Io { location: self.location(version), reason: error.to_string() });
            }
        }
        // A version that is missing may have been there, and be pruned: whoever has not looked for long would write where nobody reads.
        let versions = self.versions().await.map_err(|error| CreateError::Io {
            location: self.location(version),
            reason: format!("written, but whether it is among the newest is not known: {error}"),
        })?;
        let kept = versions.len().saturating_sub(VERSIONS_KEPT);
        let (old, newest) = versions.split_at_checked(kept).unwrap_or_default();
        self.prune(old).await;
        match newest.contains(&version) {
            true => Ok(()),
            false => Err(CreateError::Exists { version }),
        }
    }

    /// Removes old versions. One that cannot be removed costs space only, so it is logged and left.
    async fn prune(&self, old: &[u64]) {
        for version in old {
            match self.bucket.store().delete(&self.path(*version)).await {
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => {
                    let object = self.location(*version);
                    tracing::warn!(%object, %error, "cannot remove an old version of the catalog");
                }
            }
        }
    }
}

const GONE: &str = "the bucket's threads have ended";

impl CatalogStore for BucketCatalogStore {
    async fn latest(&self) -> Result<Option<(u64, Bytes)>, ReadError> {
        let store = self.clone();
        let read = self.bucket.run(async move { store.read_latest().await }).await;
        read.unwrap_or_else(|| Err(ReadError { location: self.bucket.location().to_string(), reason: GONE.to_owned() }))
    }

    async fn create(&self, version: u64, bytes: Bytes) -> Result<(), CreateError> {
        let store = self.clone();
        let written = self.bucket.run(async move { store.write(version, bytes).await }).await;
        let gone = || CreateError::Io { location: self.location(version), reason: GONE.to_owned() };
        written.unwrap_or_else(|| Err(gone()))
    }

    fn location(&self, version: u64) -> String {
        format!("{} in {}", self.path(version), self.bucket.location())
    }
}
