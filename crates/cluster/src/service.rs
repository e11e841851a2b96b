//! The newest catalog in memory, and compare-and-swap for changes.
//!
//! Readers take a snapshot and never wait for a change. Changes of one process queue up behind each other; those of
//! others are met by starting over from their version.

use crate::{Catalog, CatalogStore, ChangeError, CreateError, DecodeError, ReadError};
use std::sync::{Arc, PoisonError, RwLock};

/// How often a change starts over because others were faster. Each loss means that somebody else made progress.
const ATTEMPTS_MAX: u32 = 1_000;

/// Why the catalog could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The change breaks a rule.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store could not be written; whether the change was made is unknown.
    #[error(transparent)]
    Write(CreateError),
    /// The newest version is damaged or written by a newer program.
    #[error("{location}: {error}")]
    Unreadable {
        /// Its file or object.
        location: String,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// The catalog cannot be written as JSON.
    #[error("cannot encode catalog version {version}: {reason}")]
    Encode {
        /// The version that was to be created.
        version: u64,
        /// The encoder's words.
        reason: String,
    },
    /// Others changed the catalog at every try.
    #[error("the catalog was changed by others {ATTEMPTS_MAX} times in a row")]
    Contended,
}

/// The catalog of one node.
pub struct CatalogService<S> {
    store: S,
    current: RwLock<Arc<Catalog>>,
    /// Held during a change, so that changes of this process do not race each other.
    changing: tokio::sync::Mutex<()>,
}

impl<S: CatalogStore> CatalogService<S> {
    /// Reads the newest version. A damaged one is an error that names it.
    pub async fn open(store: S) -> Result<Self, CatalogError> {
        let service = Self { store, current: RwLock::default(), changing: tokio::sync::Mutex::new(()) };
        service.refresh().await?;
        Ok(service)
    }

    /// The catalog as this node knows it.
    pub fn snapshot(&self) -> Arc<Catalog> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over a newer version that others have made, and returns what is current then.
    pub async fn refresh(&self) -> Result<Arc<Catalog>, CatalogError> {
        let Some((version, bytes)) = self.store.latest().await? else { return Ok(self.snapshot()) };
        if version <= self.snapshot().version() {
            return Ok(self.snapshot());
        }
        let catalog = Catalog::decode(version, &bytes)
            .map_err(|error| CatalogError::Unreadable { location: self.store.location(version), error })?;
        Ok(self.publish(catalog))
    }

    /// Makes a change durable and returns what it returned, with the catalog it is in.
    ///
    /// `change` may run several times, each time on a newer catalog. One that changes nothing creates no version. A
    /// refusal is judged on the newest version there is, not only on the one this node has heard of.
    pub async fn change<T>(
        &self,
        mut change: impl FnMut(&mut Catalog) -> Result<T, ChangeError>,
    ) -> Result<(T, Arc<Catalog>), CatalogError> {
        let _turn = self.changing.lock().await;
        for _ in 0..ATTEMPTS_MAX {
            let before = self.snapshot();
            let mut after = (*before).clone();
            let result = match change(&mut after) {
                Ok(result) => result,
                Err(refusal) if self.refresh().await?.version() == before.version => return Err(refusal.into()),
                Err(_) => continue,
            };
            if after == *before {
                return Ok((result, before));
            }
            after.version = before.version + 1;
            let bytes = after
                .encode()
                .map_err(|error| CatalogError::Encode { version: after.version, reason: error.to_string() })?;
            match self.store.create(after.version, bytes).await {
                Ok(()) => return Ok((result, self.publish(after))),
                Err(CreateError::Exists { .. }) => {
                    self.refresh().await?;
                }
                Err(error) => return Err(CatalogError::Write(error)),
            }
        }
        Err(CatalogError::Contended)
    }

    /// Never goes back to an older version.
    fn publish(&self, catalog: Catalog) -> Arc<Catalog> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if catalog.version > current.version {
            *current = Arc::new(catalog);
        }
        current.clone()
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
