//! The bytes of one catalog version: JSON, so that people can read it, with a checksum, so that nobody has to guess.
//!
//! | field | meaning |
//! | --- | --- |
//! | `format` | version of this layout; newer ones are refused by number |
//! | `crc32c` | CRC-32C of the text of `catalog`, as 8 hexadecimal digits |
//! | `catalog` | `version`, `next_topic_id`, `next_group_id`, `topics`, `groups`, and `kv_configs`, `users`, `policies` if there are any |

use crate::Catalog;
use bytes::Bytes;
use martlet_auth::{Policies, User};
use martlet_model::{GroupConfig, TopicConfig};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Version of the layout this program writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;

/// Why bytes are not a catalog.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer program.
    #[error("catalog format {found} is newer than {FORMAT_VERSION}, the newest this program reads")]
    NewerFormat {
        /// What the bytes say.
        found: u32,
    },
    /// Damaged: not JSON, fields missing or unknown, or a wrong checksum.
    #[error("damaged catalog: {reason}")]
    Damaged {
        /// Position, expected, found.
        reason: String,
    },
}

#[derive(Deserialize)]
struct Probe {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<T> {
    format: u32,
    crc32c: String,
    catalog: T,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<T, G> {
    version: u64,
    next_topic_id: u32,
    next_group_id: u32,
    topics: Vec<T>,
    groups: Vec<G>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    kv_configs: BTreeMap<String, BTreeMap<String, String>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    users: BTreeMap<String, User>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    policies: BTreeMap<String, Policies>,
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, text.as_bytes()))
}

fn damaged(reason: impl ToString) -> DecodeError {
    DecodeError::Damaged { reason: reason.to_string() }
}

impl Catalog {
    /// Its bytes. Fails only if a number in it is not finite, which the rules of the catalog exclude.
    pub fn encode(&self) -> Result<Bytes, serde_json::Error> {
        let body = serde_json::to_string(&Body::<&TopicConfig, &GroupConfig> {
            version: self.version,
            next_topic_id: self.next_topic_id,
            next_group_id: self.next_group_id,
            topics: self.topics.values().map(|topic| &**topic).collect(),
            groups: self.groups.values().map(|group| &**group).collect(),
            kv_configs: self.kv_configs.clone(),
            users: self.users.clone(),
            policies: self.policies.clone(),
        })?;
        let crc32c = checksum(&body);
        let envelope = Envelope { format: FORMAT_VERSION, crc32c, catalog: RawValue::from_string(body)? };
        Ok(serde_json::to_vec(&envelope)?.into())
    }

    /// Reads what [`Catalog::encode`] wrote as version `version`.
    pub fn decode(version: u64, bytes: &[u8]) -> Result<Self, DecodeError> {
        let probe: Probe = serde_json::from_slice(bytes).map_err(damaged)?;
        if probe.format > FORMAT_VERSION {
            return Err(DecodeError::NewerFormat { found: probe.format });
        }
        if probe.format == 0 {
            return Err(damaged("format 0 was never written"));
        }
        let envelope: Envelope<&RawValue> = serde_json::from_slice(bytes).map_err(damaged)?;
        let expected = checksum(envelope.catalog.get());
        if envelope.crc32c != expected {
            return Err(damaged(format!("checksum is {expected}, the file says {}", envelope.crc32c)));
        }
        let body: Body<TopicConfig, GroupConfig> = serde_json::from_str(envelope.catalog.get()).map_err(damaged)?;
        if body.version != version {
            return Err(damaged(format!("it says version {} and is kept as version {version}", body.version)));
        }
        let mut catalog = Self {
            version,
            next_topic_id: body.next_topic_id,
            next_group_id: body.next_group_id,
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            kv_configs: body.kv_configs,
            users: body.users,
            policies: body.policies,
        };
        for topic in body.topics {
            if topic.id.0 >= body.next_topic_id {
                return Err(damaged(format!("topic {} has id {}, not given out yet", topic.name, topic.id.0)));
            }
            if let Some(twice) = catalog.topics.insert(topic.name.clone(), Arc::new(topic)) {
                return Err(damaged(format!("topic {} is there twice", twice.name)));
            }
        }
        for group in body.groups {
            if group.id.0 >= body.next_group_id {
                return Err(damaged(format!("group {} has id {}, not given out yet", group.name, group.id.0)));
            }
            if let Some(twice) = catalog.groups.insert(group.name.clone(), Arc::new(group)) {
                return Err(damaged(format!("group {} is there twice", twice.name)));
            }
        }
        Ok(catalog)
    }
}
