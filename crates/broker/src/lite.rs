//! Lite topics: what clients subscribe to, and who may poll for it.

use crate::{Broker, Refusal};
use martlet_model::{GroupConfig, GroupId, TopicConfig, TopicId, TopicType, UnixMillis};
use martlet_shard::{Command, LiteAction, LiteLook, LiteNotice, LiteProgress, LiteSync, Output};
use martlet_store::ReadError;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A client brings its lite subscriptions up to date.
#[derive(Clone, Debug)]
pub struct LiteSyncRequest {
    /// Who.
    pub client_id: Arc<str>,
    /// Its group, which consumes lite topics.
    pub group: String,
    /// Parent of the lite topics.
    pub topic: String,
    /// What is to happen.
    pub action: LiteAction,
    /// Names of lite topics, already checked by `names::check_lite_topic`.
    pub names: Vec<Arc<str>>,
    /// What comes with an older version than was seen before changes nothing.
    pub version: Option<i64>,
}

/// A lite topic, and how far a group is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteTopicStatus {
    /// The lite topic.
    pub look: LiteLook,
    /// The group's progress, if one was asked for.
    pub progress: Option<LiteProgress>,
    /// Milliseconds since the oldest message that the group has not settled was stored; 0 if all are.
    pub lag_millis: i64,
    /// The same of those that were never handed out.
    pub queueing_millis: i64,
}

/// Some lite topics of a parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiteTopicList {
    /// In the order of their names.
    pub topics: Vec<LiteTopicStatus>,
    /// Whether there may be more behind them.
    pub more: bool,
    /// How many the parent has, as of at most a second ago.
    pub total: u64,
}

/// Names of lite topics in their order, and when who subscribes to them was last heard of.
pub type LiteSubscriptions = (Vec<Arc<str>>, Option<UnixMillis>);

/// Most lite topics in one list.
pub const LITE_LIST_MAX: usize = 1_000;

impl Broker {
    /// Lite topics of a parent behind this name, at most so many (up to [`LITE_LIST_MAX`]), and how far a group is in them.
    /// Read from the log's index: what is sent just now may be missing.
    pub async fn lite_topics(
        &self,
        topic: &str,
        group: Option<&str>,
        behind: Option<&str>,
        limit: usize,
    ) -> Result<LiteTopicList, Refusal> {
        let (parent, group) = self.lite_names(topic, group)?;
        let reader = &self.inner.reader;
        let looks = martlet_shard::lite_topics(reader, parent, behind, limit.clamp(1, LITE_LIST_MAX)).await;
        let (looks, more) = looks.map_err(read_failed)?;
        let mut topics = Vec::with_capacity(looks.len());
        for look in looks {
            topics.push(self.with_progress(look, group).await?);
        }
        Ok(LiteTopicList { topics, more, total: self.lite_count(parent) })
    }

    /// How many lite topics a parent has, as of at most a second ago.
    pub(crate) fn lite_count(&self, parent: TopicId) -> u64 {
        let counts = self.inner.shard.figures().lite_topics;
        counts.iter().find(|(id, _)| *id == parent).map_or(0, |(_, count)| *count)
    }

    /// One lite topic, how far a group is in it, and the group and id of each client that subscribes to it. `None`: there is
    /// no such lite topic; its subscribers are told all the same.
    pub async fn lite_topic(
        &self,
        topic: &str,
        name: &str,
        group: Option<&str>,
    ) -> Result<(Option<LiteTopicStatus>, Vec<(String, Arc<str>)>), Refusal> {
        let (parent, group) = self.lite_names(topic, group)?;
        let look = martlet_shard::lite_topic(&self.inner.reader, parent, name).await.map_err(read_failed)?;
        let status = match look {
            Some(look) => Some(self.with_progress(look, group).await?),
            None => None,
        };
        let name: Arc<str> = name.into();
        match self.ask(|token| Command::DescribeLite { topic: parent, name, token }).await? {
            Output::LiteSubscribers(found) => {
                let groups: BTreeMap<GroupId, String> =
                    self.groups().iter().map(|group| (group.id, group.name.clone())).collect();
                let named = |(group, client): (GroupId, Arc<str>)| Some((groups.get(&group)?.clone(), client));
                Ok((status, found.into_iter().filter_map(named).collect()))
            }
            other => Err(self.unexpected(other, topic, "")),
        }
    }

    /// Names of the lite topics that a client of a group subscribes to, and when it was last heard of, both as stored. `None`: it
    /// subscribes to nothing.
    pub async fn lite_subscriptions(&self, group: &str, client_id: &str) -> Result<Option<LiteSubscriptions>, Refusal> {
        let known = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        let found = martlet_shard::lite_subscriptions(&self.inner.reader, known.id, client_id).await;
        found.map_err(read_failed)
    }

    pub(crate) fn lite_names(&self, topic: &str, group: Option<&str>) -> Result<(TopicId, Option<GroupId>), Refusal> {
        let known = self.known_topic(topic).ok_or_else(|| Refusal::TopicNotFound { topic: topic.to_owned() })?;
        let Some(name) = group else { return Ok((known.id, None)) };
        let group = self.known_group(name).ok_or_else(|| Refusal::GroupNotFound { group: name.to_owned() })?;
        if group.lite.is_none() {
            return Err(Refusal::NotLite { group: name.to_owned() });
        }
        check_poll(&known, &group)?;
        Ok((known.id, Some(group.id)))
    }

    async fn with_progress(&self, look: LiteLook, group: Option<GroupId>) -> Result<LiteTopicStatus, Refusal> {
        let progress = match group {
            Some(group) => {
                let found = martlet_shard::lite_progress(&self.inner.reader, group, &look).await;
                Some(found.map_err(read_failed)?)
            }
            None => None,
        };
        let lag_millis = self.age_of(progress.and_then(|progress| progress.oldest));
        let queueing_millis = self.age_of(progress.and_then(|progress| progress.oldest_ready));
        Ok(LiteTopicStatus { look, progress, lag_millis, queueing_millis })
    }

    /// Changes what a client subscribes to; returns once that is durable.
    pub async fn sync_lite(&self, request: LiteSyncRequest) -> Result<(), Refusal> {
        let LiteSyncRequest { client_id, group: group_name, topic: topic_name, action, names, version } = request;
        let group =
            self.known_group(&group_name).ok_or_else(|| Refusal::GroupNotFound { group: group_name.clone() })?;
        let topic = self.known_topic(&topic_name).ok_or(Refusal::TopicNotFound { topic: topic_name })?;
        if group.lite.is_none() {
            return Err(Refusal::NotLite { group: group_name });
        }
        check_poll(&topic, &group)?;
        let client = self.client_number(&client_id, &group_name)?;
        let (group, topic_id) = (group.id, topic.id);
        let sync = LiteSync { client, client_id, group, topic: topic_id, action, names, version };
        match self.ask(|token| Command::SyncLite { sync, token }).await? {
            Output::Done => Ok(()),
            other => Err(self.unexpected(other, &topic.name, &group_name)),
        }
    }

    /// Whoever reaches clients is told, durably decided, when one has lost a lite subscription to another. Called on the
    /// shard's thread: it must not wait.
    pub fn on_lite_notice(&self, listener: impl Fn(&LiteNotice) + Send + Sync + 'static) {
        self.inner.shard.listen(Arc::new(listener));
    }
}

/// A group is not moved in a topic that is none of its own, nor in the queues of a parent of lite topics, which hold nothing:
/// [`Broker::reset_lite`] moves it in these.
pub(crate) fn check_move(topic: &TopicConfig, group: &GroupConfig) -> Result<(), Refusal> {
    check_poll(topic, group)?;
    match topic.kind {
        TopicType::Lite => Err(Refusal::Setting {
            field: "topic",
            value: topic.name.clone(),
            rule: "is a parent of lite topics, whose own queues hold nothing to move a group in",
        }),
        _ => Ok(()),
    }
}

fn read_failed(error: ReadError) -> Refusal {
    Refusal::ReadFailed { reason: error.to_string() }
}

/// A group of lite topics polls its parent, and nobody else does.
pub(crate) fn check_poll(topic: &TopicConfig, group: &GroupConfig) -> Result<(), Refusal> {
    match &group.lite {
        // Dead letters are polled like those of any other group.
        Some(lite) if lite.parent != topic.name && topic.id.dead_letter_group().is_none() => {
            Err(Refusal::OtherLiteParent {
                group: group.name.clone(),
                topic: topic.name.clone(),
                parent: lite.parent.clone(),
            })
        }
        None if topic.kind == TopicType::Lite => Err(Refusal::NotLite { group: group.name.clone() }),
        _ => Ok(()),
    }
}
