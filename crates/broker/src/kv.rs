//! KV configs: texts that tools keep in the name server. They are in the catalog, and nothing here depends on them.

use crate::broker::catalog_refusal;
use crate::{Broker, Refusal};
use std::collections::BTreeMap;

impl Broker {
    /// The value of a key in a namespace.
    pub fn kv_config(&self, namespace: &str, key: &str) -> Option<String> {
        self.inner.catalog.snapshot().kv_config(namespace, key).map(str::to_owned)
    }

    /// All keys of a namespace with their values; `None`: it has none.
    pub fn kv_configs(&self, namespace: &str) -> Option<BTreeMap<String, String>> {
        self.inner.catalog.snapshot().kv_configs(namespace).cloned()
    }

    /// Sets the value of a key, durably.
    pub async fn put_kv_config(&self, namespace: &str, key: &str, value: &str) -> Result<(), Refusal> {
        let changed = self.inner.catalog.change(|catalog| catalog.put_kv_config(namespace, key, value)).await;
        changed.map(drop).map_err(catalog_refusal)
    }

    /// Removes a key, durably. One that is not there is removed already.
    pub async fn delete_kv_config(&self, namespace: &str, key: &str) -> Result<(), Refusal> {
        let removed = self.inner.catalog.change(|catalog| {
            catalog.delete_kv_config(namespace, key);
            Ok(())
        });
        removed.await.map(drop).map_err(catalog_refusal)
    }
}
