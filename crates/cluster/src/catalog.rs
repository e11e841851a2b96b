//! One version of the catalog, and the functions that make the next one.
//!
//! No I/O and no clock. A function that fails leaves the catalog as it was.

use crate::{ChangeError, GROUPS_MAX, GroupSettings, TOPICS_MAX, TopicSettings};
use martlet_auth::{Policies, User};
use martlet_model::group::DeliveryOrder;
use martlet_model::names::{self, DEAD_LETTER_PREFIX, RETRY_PREFIX};
use martlet_model::{
    DeadLetterPolicy, GroupConfig, GroupId, LiteTopics, Permission, TopicConfig, TopicId, UnixMillis, limits,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Topics and consumer groups at one version. Cloning it is cheap: entries are shared.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalog {
    pub(crate) version: u64,
    pub(crate) next_topic_id: u32,
    pub(crate) next_group_id: u32,
    pub(crate) topics: BTreeMap<String, Arc<TopicConfig>>,
    pub(crate) groups: BTreeMap<String, Arc<GroupConfig>>,
    /// By namespace and key.
    pub(crate) kv_configs: BTreeMap<String, BTreeMap<String, String>>,
    /// By name.
    pub(crate) users: BTreeMap<String, User>,
    /// By user; of a user or account that is there.
    pub(crate) policies: BTreeMap<String, Policies>,
}

impl Default for Catalog {
    /// Version 0: nothing in it, nothing stored.
    fn default() -> Self {
        Self {
            version: 0,
            next_topic_id: 1,
            next_group_id: 1,
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            kv_configs: BTreeMap::new(),
            users: BTreeMap::new(),
            policies: BTreeMap::new(),
        }
    }
}

impl Catalog {
    /// Counted from 1; 0 if nothing was ever stored.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The topic of that name.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicConfig>> {
        self.topics.get(name)
    }

    /// The consumer group of that name.
    pub fn group(&self, name: &str) -> Option<&Arc<GroupConfig>> {
        self.groups.get(name)
    }

    /// All topics in order of their names.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<TopicConfig>> {
        self.topics.values()
    }

    /// All consumer groups in order of their names.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Arc<GroupConfig>> {
        self.groups.values()
    }

    /// Creates a topic. One that exists and agrees with the settings is returned as it is. That of traces can be created, too: who asks
    /// for it is the broker.
    pub fn create_topic(
        &mut self,
        name: &str,
        settings: &TopicSettings,
        now: UnixMillis,
        auto_created: bool,
    ) -> Result<Arc<TopicConfig>, ChangeError> {
        names::check_existing_topic(name)?;
        if name.starts_with(DEAD_LETTER_PREFIX) || name.starts_with(RETRY_PREFIX) {
            return Err(ChangeError::Setting {
                field: "topic",
                value: name.to_owned(),
                rule: "belongs to a consumer group and is there without being created",
            });
        }
        if let Some(topic) = self.topics.get(name) {
            return if settings.agree_with(topic) {
                Ok(topic.clone())
            } else {
                Err(ChangeError::Exists { what: "topic", name: name.to_owned() })
            };
        }
        let full = ChangeError::Full { what: "topics", limit: TOPICS_MAX };
        let next_id = match self.next_topic_id.checked_add(1) {
            Some(next) if self.topics.len() < TOPICS_MAX => next,
            _ => return Err(full),
        };
        let queues = settings.queues.unwrap_or(limits::TOPIC_QUEUES_DEFAULT);
        let mut topic = TopicConfig {
            id: TopicId(self.next_topic_id),
            name: name.to_owned(),
            kind: settings.kind.unwrap_or_default(),
            read_queues: queues,
            write_queues: queues,
            permission: Permission::default(),
            retention_millis: None,
            lite: LiteTopics::default(),
            deduplicate_millis: None,
            created_millis: now.0,
            auto_created,
        };
        settings.apply_to(&mut topic)?;
        self.next_topic_id = next_id;
        let topic = Arc::new(topic);
        self.topics.insert(name.to_owned(), topic.clone());
        Ok(topic)
    }

    /// Changes what the settings say and keeps the rest.
    pub fn update_topic(&mut self, name: &str, settings: &TopicSettings) -> Result<Arc<TopicConfig>, ChangeError> {
        let Some(entry) = self.topics.get_mut(name) else {
            return Err(ChangeError::TopicNotFound { topic: name.to_owned() });
        };
        let mut topic = (**entry).clone();
        settings.apply_to(&mut topic)?;
        if topic != **entry {
            *entry = Arc::new(topic);
        }
        Ok(entry.clone())
    }

    /// Deletes a topic. Its id is never used again. Groups whose dead letters went there keep saying so; until a topic
    /// of that name is created again they go to the group's own.
    pub fn delete_topic(&mut self, name: &str) -> Result<Arc<TopicConfig>, ChangeError> {
        self.topics.remove(name).ok_or_else(|| ChangeError::TopicNotFound { topic: name.to_owned() })
    }

    /// Creates a consumer group. One that exists and agrees with the settings is returned as it is.
    pub fn create_group(
        &mut self,
        name: &str,
        settings: &GroupSettings,
        now: UnixMillis,
        auto_created: bool,
    ) -> Result<Arc<GroupConfig>, ChangeError> {
        names::check_group(name)?;
        if let Some(group) = self.groups.get(name) {
            return if settings.agree_with(group) {
                Ok(group.clone())
            } else {
                Err(ChangeError::Exists { what: "consumer group", name: name.to_owned() })
            };
        }
        let full = ChangeError::Full { what: "consumer groups", limit: GROUPS_MAX };
        let next_id = match self.next_group_id.checked_add(1) {
            Some(next) if self.groups.len() < GROUPS_MAX => next,
            _ => return Err(full),
        };
        let order = settings.order.unwrap_or_default();
        let lite = settings.new_lite(|topic| self.topics.get(topic).map(|topic| topic.kind))?;
        // Lite topics are in order whatever the group says: a long wait would hold all of one up.
        let retry_as = if lite.is_some() { DeliveryOrder::Fifo } else { order };
        let mut group = GroupConfig {
            id: GroupId(self.next_group_id),
            name: name.to_owned(),
            order,
            pattern: settings.pattern.unwrap_or_default(),
            lite,
            retry: GroupSettings::default_retry(retry_as),
            dead_letters: DeadLetterPolicy::default(),
            start: Default::default(),
            pop_topics: Vec::new(),
            created_millis: now.0,
            auto_created,
        };
        settings.apply_to(&mut group)?;
        self.next_group_id = next_id;
        let group = Arc::new(group);
        self.groups.insert(name.to_owned(), group.clone());
        Ok(group)
    }

    /// Changes what the settings say and keeps the rest.
    pub fn update_group(&mut self, name: &str, settings: &GroupSettings) -> Result<Arc<GroupConfig>, ChangeError> {
        let Some(entry) = self.groups.get_mut(name) else {
            return Err(ChangeError::GroupNotFound { group: name.to_owned() });
        };
        let mut group = (**entry).clone();
        settings.apply_to(&mut group)?;
        if group != **entry {
            *entry = Arc::new(group);
        }
        Ok(entry.clone())
    }

    /// Deletes a consumer group. Its id is never used again.
    pub fn delete_group(&mut self, name: &str) -> Result<Arc<GroupConfig>, ChangeError> {
        self.groups.remove(name).ok_or_else(|| ChangeError::GroupNotFound { group: name.to_owned() })
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
