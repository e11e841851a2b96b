//! The catalog of a node: in a folder or in a bucket.

use crate::{BucketCatalogStore, CatalogStore, CreateError, LocalCatalogStore, ReadError};
use bytes::Bytes;

/// Where a node's catalog is kept.
#[derive(Clone)]
pub enum AnyCatalogStore {
    /// In a folder of the local disk.
    Local(LocalCatalogStore),
    /// In a bucket.
    Bucket(BucketCatalogStore),
}

impl CatalogStore for AnyCatalogStore {
    async fn latest(&self) -> Result<Option<(u64, Bytes)>, ReadError> {
        match self {
            Self::Local(store) => store.latest().await,
            Self::Bucket(store) => store.latest().await,
        }
    }

    async fn create(&self, version: u64, bytes: Bytes) -> Result<(), CreateError> {
        match self {
            Self::Local(store) => store.create(version, bytes).await,
            Self::Bucket(store) => store.create(version, bytes).await,
        }
    }

    fn location(&self, version: u64) -> String {
        match self {
            Self::Local(store) => store.location(version),
            Self::Bucket(store) => store.location(version),
        }
    }
}
