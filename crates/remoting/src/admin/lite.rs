//! What tools ask of lite topics, their groups and clients.

use super::invalid;
use crate::answer::{Answer, Denied};
use crate::codec::fields::Fields;
use crate::codec::json::Json;
use crate::front::Front;
use martlet_broker::{LITE_LIST_MAX, LiteTopicStatus, Refusal};
use martlet_model::{GroupConfig, TopicConfig, TopicType, limits};
use std::sync::Arc;

/// Lite topics that are looked at for those with most messages waiting.
const LOOKED_AT_MAX: usize = 10 * LITE_LIST_MAX;

/// Minutes after which a lite topic ends; -1: never.
pub(super) fn expiration(topic: &TopicConfig) -> i64 {
    topic.lite.expire_minutes.map_or(-1, i64::from)
}

impl Front {
    fn parent(&self, name: &str) -> Result<Arc<TopicConfig>, Denied> {
        let topic = self.broker.known_topic(name);
        let topic = topic.ok_or_else(|| Denied::from(Refusal::TopicNotFound { topic: name.to_owned() }))?;
        match topic.kind {
            TopicType::Lite => Ok(topic),
            kind => Err(invalid(format!("topic {name} is of type {}, not a parent of lite topics", kind.name()))),
        }
    }

    /// A group, and the parent of its lite topics.
    fn lite_group(&self, name: &str) -> Result<(Arc<GroupConfig>, String), Denied> {
        let group = self.broker.known_group(name);
        let group = group.ok_or_else(|| Denied::from(Refusal::GroupNotFound { group: name.to_owned() }))?;
        match &group.lite {
            Some(lite) => Ok((group.clone(), lite.parent.clone())),
            None => Err(Refusal::NotLite { group: name.to_owned() }.into()),
        }
    }

    fn groups_of_parent(&self, parent: &str) -> Vec<String> {
        let groups = self.broker.groups();
        let of_parent = groups.iter().filter(|group| group.lite.as_ref().is_some_and(|lite| lite.parent == parent));
        of_parent.map(|group| group.name.clone()).collect()
    }

    fn lite_count(&self, parent: &str) -> u64 {
        let counts = self.broker.figures().lite_topics;
        counts.iter().find(|(name, _)| name == parent).map_or(0, |(_, count)| *count)
    }

    /// All lite topics together.
    pub(crate) fn broker_lite_info(&self) -> Answer {
        let figures = self.broker.figures();
        let count: u64 = figures.lite_topics.iter().map(|(_, count)| count).sum();
        let topics = self.broker.topics();
        let parents = || topics.iter().filter(|topic| topic.kind == TopicType::Lite);
        let lives = parents().map(|topic| (Json::from(topic.name.as_str()), expiration(topic).into()));
        let groups = parents().map(|topic| (topic, self.groups_of_parent(&topic.name)));
        let groups = groups.filter(|(_, groups)| !groups.is_empty());
        let groups = groups.map(|(topic, groups)| (Json::from(topic.name.as_str()), Json::list(groups)));
        let most = i32::try_from(limits::LITE_TOPICS_DEFAULT).unwrap_or(i32::MAX);
        Answer::json(&Json::object([
            ("cqTableSize", 0.into()),
            ("currentLmqNum", count.into()),
            ("eventMapSize", 0.into()),
            ("groupMeta", Json::Object(groups.collect())),
            ("liteSubscriptionCount", figures.lite.1.into()),
            ("maxLmqNum", most.into()),
            ("offsetTableSize", 0.into()),
            ("orderInfoCount", 0.into()),
            ("storeType", if self.broker.options().bucket.is_some() { "bucket" } else { "log" }.into()),
            ("topicMeta", Json::Object(lives.collect())),
        ]))
    }

    /// A parent of lite topics.
    pub(crate) fn parent_topic_info(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let parent = self.parent(fields.text("topic")?)?;
        let count = self.lite_count(&parent.name);
        Ok(Answer::json(&Json::object([
            ("groups", Json::list(self.groups_of_parent(&parent.name))),
            ("liteTopicCount", count.into()),
            ("lmqNum", count.into()),
            ("topic", parent.name.as_str().into()),
            ("ttl", expiration(&parent).into()),
        ])))
    }

    /// A lite topic, and who subscribes to it.
    pub(crate) async fn lite_topic_info(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let parent = self.parent(fields.text("parentTopic")?)?;
        let name = fields.text("liteTopic")?;
        let (status, subscribers) = self.broker.lite_topic(&parent.name, name, None).await?;
        let (min, max, last) = status.map_or((0, 0, 0), |status| {
            let look = status.look;
            (look.min.0, look.max.0, look.last.0)
        });
        let subscribers = subscribers.into_iter().map(|(group, client)| {
            let (client, group): (&str, &str) = (&client, &group);
            Json::object([("clientId", client.into()), ("group", group.into())])
        });
        let offsets =
            Json::object([("lastUpdateTimestamp", last.into()), ("maxOffset", max.into()), ("minOffset", min.into())]);
        Ok(Answer::json(&Json::object([
            ("liteTopic", name.into()),
            ("parentTopic", parent.name.as_str().into()),
            ("shardingToBroker", true.into()),
            ("subscriber", Json::List(subscribers.collect())),
            ("topicOffset", offsets),
        ])))
    }

    /// The lite topics that a client subscribes to.
    pub(crate) async fn lite_client_info(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let parent = self.parent(fields.text("parentTopic")?)?;
        let (group, client) = (fields.text("group")?, fields.text("clientId")?);
        let most = usize::try_from(fields.i32_or("maxCount", i32::MAX)?).unwrap_or(0);
        self.lite_group(group)?;
        let known = self.broker.lite_subscriptions(group, client).await?;
        let (names, seen) = known.map_or_else(Default::default, |(names, seen)| (names, seen.map_or(0, |seen| seen.0)));
        let told = names.iter().take(most).map(|name| Json::from(&**name));
        let told = Json::List(told.collect());
        Ok(Answer::json(&Json::object([
            ("clientId", client.into()),
            ("group", group.into()),
            ("lastAccessTime", seen.into()),
            ("lastConsumeTime", 0.into()),
            ("liteTopicCount", names.len().into()),
            ("liteTopicSet", told),
            ("parentTopic", parent.name.as_str().into()),
        ])))
    }

    /// How far a group of lite topics is: in one of them, or in all together and in those with most messages waiting.
    pub(crate) async fn lite_group_info(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let name = fields.text("group")?;
        let (_, parent) = self.lite_group(name)?;
        let lite_topic = fields.optional("liteTopic").filter(|name| !name.is_empty());
        let mut parts = vec![("group", name.into()), ("parentTopic", parent.as_str().into())];
        if let Some(lite_topic) = lite_topic {
            let (status, _) = self.broker.lite_topic(&parent, lite_topic, Some(name)).await?;
            let lag = status.as_ref().map_or(0, lag);
            let oldest = status.as_ref().map_or(0, oldest);
            parts.extend([
                ("earliestUnconsumedTimestamp", oldest.into()),
                ("liteTopic", lite_topic.into()),
                ("totalLagCount", lag.into()),
            ]);
            if let Some(LiteTopicStatus { look, progress: Some(progress), .. }) = status {
                let wrapper = Json::object([
                    ("brokerOffset", look.max.0.into()),
                    ("consumerOffset", progress.committed.0.into()),
                    ("lastTimestamp", look.last.0.into()),
                    ("pullOffset", look.max.0.saturating_sub(progress.ready).into()),
                ]);
                parts.push(("liteTopicOffsetWrapper", wrapper));
            }
            return Ok(Answer::json(&Json::object(parts)));
        }
        let most = usize::try_from(fields.i32_or("topK", 20)?).unwrap_or(0).min(LITE_LIST_MAX);
        let status = self.broker.group_status(name).await?;
        let total: u64 = status.progress.iter().map(|progress| progress.accumulation()).sum();
        let mut found: Vec<(u64, i64, Arc<str>)> = Vec::new();
        let mut longest: Vec<(i64, u64, Arc<str>)> = Vec::new();
        let (mut behind, mut looked_at): (Option<Arc<str>>, _) = (None, 0);
        while looked_at < LOOKED_AT_MAX {
            let list = self.broker.lite_topics(&parent, Some(name), behind.as_deref(), LITE_LIST_MAX).await?;
            looked_at += list.topics.len();
            behind = list.topics.last().map(|last| last.look.name.clone());
            for status in list.topics.iter().filter(|status| lag(status) > 0) {
                let (lag, oldest, name) = (lag(status), oldest(status), &status.look.name);
                found.push((lag, oldest, name.clone()));
                longest.push((oldest, lag, name.clone()));
            }
            found.sort_by(|one, other| other.cmp(one));
            found.truncate(most);
            longest.sort();
            longest.truncate(most);
            if !list.more || behind.is_none() {
                break;
            }
        }
        let most_waiting = found.iter().map(|(lag, oldest, name)| waiting(name, *lag, *oldest));
        let longest_waiting = longest.iter().map(|(oldest, lag, name)| waiting(name, *lag, *oldest));
        let oldest = self.broker.oldest_of_lite(name).await?;
        parts.extend([
            ("earliestUnconsumedTimestamp", oldest.map_or(0, |oldest| oldest.0).into()),
            ("lagCountTopK", Json::List(most_waiting.collect())),
            ("lagTimestampTopK", Json::List(longest_waiting.collect())),
            ("totalLagCount", total.into()),
        ]);
        Ok(Answer::json(&Json::object(parts)))
    }

    /// Nothing has to be set going: whoever polls is given what there is.
    pub(crate) fn dispatch_lite(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        self.lite_group(fields.text("group")?)?;
        Ok(Answer::done())
    }
}

/// Messages of a lite topic that a group has not settled.
fn lag(status: &LiteTopicStatus) -> u64 {
    status.progress.map_or(0, |progress| progress.open + progress.ready)
}

/// When the oldest of these was stored; 0 if there is none.
fn oldest(status: &LiteTopicStatus) -> i64 {
    status.progress.and_then(|progress| progress.oldest).map_or(0, |oldest| oldest.0)
}

fn waiting(name: &str, lag: u64, oldest: i64) -> Json {
    Json::object([("earliestUnconsumedTimestamp", oldest.into()), ("lagCount", lag.into()), ("liteTopic", name.into())])
}
