//! KV configs: texts that tools keep in the name server, by namespace and key. The broker keeps them and reads none.

use crate::{Catalog, ChangeError};
use std::collections::BTreeMap;

/// Most KV configs, over all namespaces.
pub const KV_CONFIGS_MAX: usize = 1_024;
/// Longest namespace, and longest key, in bytes.
pub const KV_NAME_BYTES_MAX: usize = 255;
/// Longest value, in bytes.
pub const KV_VALUE_BYTES_MAX: usize = 1_024;

impl Catalog {
    /// The value of a key.
    pub fn kv_config(&self, namespace: &str, key: &str) -> Option<&str> {
        self.kv_configs.get(namespace)?.get(key).map(String::as_str)
    }

    /// All keys of a namespace with their values; `None`: it has none.
    pub fn kv_configs(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.kv_configs.get(namespace)
    }

    /// Sets the value of a key.
    pub fn put_kv_config(&mut self, namespace: &str, key: &str, value: &str) -> Result<(), ChangeError> {
        for (field, name) in [("namespace", namespace), ("key", key)] {
            if name.is_empty() || name.len() > KV_NAME_BYTES_MAX {
                let value = name.chars().take(128).collect();
                return Err(ChangeError::Setting { field, value, rule: "has not from 1 to 255 bytes" });
            }
        }
        if value.len() > KV_VALUE_BYTES_MAX {
            let value = format!("of {} bytes", value.len());
            return Err(ChangeError::Setting { field: "value", value, rule: "is longer than 1,024 bytes" });
        }
        let is_new = self.kv_config(namespace, key).is_none();
        if is_new && self.kv_configs.values().map(BTreeMap::len).sum::<usize>() >= KV_CONFIGS_MAX {
            return Err(ChangeError::Full { what: "KV configs", limit: KV_CONFIGS_MAX });
        }
        self.kv_configs.entry(namespace.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        Ok(())
    }

    /// Removes a key. One that is not there is removed already.
    pub fn delete_kv_config(&mut self, namespace: &str, key: &str) {
        if let Some(keys) = self.kv_configs.get_mut(namespace) {
            keys.remove(key);
            if keys.is_empty() {
                self.kv_configs.remove(namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_set_replaced_kept_and_removed_within_their_limits() {
        let mut catalog = Catalog::default();
        catalog.put_kv_config("ORDER_TOPIC_CONFIG", "orders", "broker-a:4").unwrap();
        catalog.put_kv_config("ORDER_TOPIC_CONFIG", "orders", "broker-a:8").unwrap();
        let read = Catalog::decode(0, &catalog.encode().unwrap()).unwrap();
        assert_eq!(read, catalog);
        assert_eq!(read.kv_config("ORDER_TOPIC_CONFIG", "orders"), Some("broker-a:8"));
        let long = "x".repeat(1_025);
        for (namespace, key, value) in [("", "k", "v"), ("n", &long[..256], "v"), ("n", "k", &long)] {
            assert!(matches!(catalog.put_kv_config(namespace, key, value), Err(ChangeError::Setting { .. })));
        }
        for number in 1..KV_CONFIGS_MAX {
            catalog.put_kv_config("n", &number.to_string(), "v").unwrap();
        }
        assert!(matches!(
            catalog.put_kv_config("n", "more", "v"),
            Err(ChangeError::Full { limit: KV_CONFIGS_MAX, .. })
        ));
        catalog.put_kv_config("n", "1", "w").unwrap();
        catalog.delete_kv_config("ORDER_TOPIC_CONFIG", "orders");
        catalog.delete_kv_config("ORDER_TOPIC_CONFIG", "orders");
        assert_eq!(catalog.kv_configs("ORDER_TOPIC_CONFIG"), None);
        catalog.put_kv_config("n", "more", "v").unwrap();
    }
}
