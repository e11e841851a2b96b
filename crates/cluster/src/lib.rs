//! What all nodes of a cluster share: the catalog of topics and consumer groups, KV configs, users and their policies.
//!
//! - [`Catalog`]: one version of it, a value; changes are functions that keep its rules ([`ChangeError`]).
//! - [`CatalogStore`]: where versions are kept, each created only if it does not exist yet. [`LocalCatalogStore`] is a
//!   folder, [`BucketCatalogStore`] a bucket, [`MemoryCatalogStore`] is for tests.
//! - [`CatalogService`]: the newest version in memory for readers, and compare-and-swap for changes.
//!
//! Rules
//! - A version that exists is never written again; of two who make the same version, one loses and starts over.
//! - A damaged newest version is an error that names it, never silently an older one.
//! - Ids of topics and groups are never used again, so what is deleted and created again is another thing.

mod any;
mod bucket;
mod catalog;
mod codec;
mod error;
mod kv;
mod local;
mod memory;
mod service;
mod settings;
#[cfg(test)]
mod settings_properties;
mod store;
#[cfg(test)]
#[path = "../../model/src/texts.rs"]
mod texts;
mod users;

pub use any::AnyCatalogStore;
pub use bucket::BucketCatalogStore;
pub use catalog::Catalog;
pub use codec::{DecodeError, FORMAT_VERSION};
pub use error::ChangeError;
pub use kv::{KV_CONFIGS_MAX, KV_NAME_BYTES_MAX, KV_VALUE_BYTES_MAX};
pub use local::LocalCatalogStore;
pub use memory::MemoryCatalogStore;
pub use service::{CatalogError, CatalogService};
pub use settings::{
    DEDUPLICATE_MILLIS_RANGE, GROUPS_MAX, GroupSettings, POP_TOPICS_MAX, RETENTION_MILLIS_RANGE, TOPICS_MAX,
    TopicSettings,
};
pub use store::{CatalogStore, CreateError, ReadError, VERSIONS_KEPT};
pub use users::{POLICY_ENTRIES_MAX, USERS_MAX, UserChange};
