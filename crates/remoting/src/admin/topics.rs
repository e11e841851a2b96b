//! Topics: made, changed, deleted, described.

use super::{data_version, invalid, queue_json};
use crate::answer::{Answer, Denied};
use crate::codec::fields::Fields;
use crate::codec::json::Json;
use crate::codec::shown;
use crate::front::Front;
use crate::route::permission_bits;
use martlet_broker::{Refusal, TopicSettings};
use martlet_model::{Permission, TopicConfig, TopicType, limits, names};

/// Name of the attribute that says what a topic takes.
const MESSAGE_TYPE: &str = "message.type";
/// What it says of a topic that was made without a type.
const UNSPECIFIED: &str = "UNSPECIFIED";
/// Name of the attribute that says after how many minutes without a message a lite topic ends.
const LITE_EXPIRATION: &str = "lite.topic.expiration";

/// What attributes say, such as `+message.type=FIFO,+lite.topic.expiration=60`.
fn attributes(text: &str, settings: &mut TopicSettings) -> Result<(), Denied> {
    for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let shown = shown(entry);
        let Some((name, value)) = entry.strip_prefix('+').and_then(|entry| entry.split_once('=')) else {
            return Err(invalid(format!("attributes has {shown:?}, which is not +name=value")));
        };
        match (name, value) {
            (MESSAGE_TYPE, value) => {
                let known = TopicType::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(value));
                settings.kind = match (known, value) {
                    (None, UNSPECIFIED) => None,
                    (None, _) => {
                        return Err(invalid(format!("attribute {MESSAGE_TYPE} is {value:?}, which is no type")));
                    }
                    (known, _) => known,
                };
            }
            (LITE_EXPIRATION, value) => {
                let minutes = value.parse().map_err(|_| invalid(format!("attribute {name} is not a number")))?;
                settings.lite_expire_minutes = Some(minutes);
            }
            // What holds here anyway.
            ("cleanup.policy", "DELETE") | ("queue.type", "SimpleCQ") | ("reserve.time", "-1") => {}
            _ => return Err(invalid(format!("attributes has {shown:?}, which this broker does not have"))),
        }
    }
    Ok(())
}

fn settings(read: i32, write: i32, perm: i32, said: &str) -> Result<TopicSettings, Denied> {
    let count =
        |field: &str, count: i32| u32::try_from(count).map_err(|_| invalid(format!("{field} {count} is negative")));
    let mut settings = TopicSettings {
        queues: Some(count("writeQueueNums", write)?),
        read_queues: Some(count("readQueueNums", read)?),
        permission: Some(permission(perm)?),
        ..TopicSettings::default()
    };
    attributes(said, &mut settings)?;
    Ok(settings)
}

fn permission(bits: i32) -> Result<Permission, Denied> {
    match bits & 6 {
        6 => Ok(Permission::ReadWrite),
        4 => Ok(Permission::Read),
        2 => Ok(Permission::Write),
        _ if (0..16).contains(&bits) => Ok(Permission::None),
        _ => Err(invalid(format!("perm {bits} is not from 0 to 15"))),
    }
}

impl Front {
    /// Creates or changes a topic.
    pub(crate) async fn update_topic(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (read, write) = (fields.i32("readQueueNums")?, fields.i32("writeQueueNums")?);
        let settings = settings(read, write, fields.i32("perm")?, fields.optional("attributes").unwrap_or(""))?;
        self.change_topic(fields.text("topic")?, settings).await?;
        Ok(Answer::done())
    }

    /// Creates or changes topics, one after the other, up to the first that is refused.
    pub(crate) async fn update_topics(&self, body: &[u8]) -> Result<Answer, Denied> {
        let said = Json::parse(body, "body")?;
        for topic in super::listed(&said, "topicConfigList")? {
            let name = topic.text("topicName").ok_or_else(|| invalid("field topicName is missing"))?;
            let number = |field: &'static str, default: i32| match topic.text(field) {
                None => Ok(default),
                Some(text) => text.parse().map_err(|_| invalid(format!("{field} {} is not a number", shown(text)))),
            };
            let default = i32::try_from(limits::TOPIC_QUEUES_DEFAULT).unwrap_or(i32::MAX);
            let (read, write) = (number("readQueueNums", default)?, number("writeQueueNums", default)?);
            let attributes = match topic.get("attributes") {
                Some(Json::Object(entries)) => {
                    let text = |(key, value): &(Json, Json)| Some(format!("{}={}", key.scalar()?, value.scalar()?));
                    entries.iter().filter_map(text).collect::<Vec<_>>().join(",")
                }
                _ => String::new(),
            };
            self.change_topic(name, settings(read, write, number("perm", 6)?, &attributes)?).await?;
        }
        Ok(Answer::done())
    }

    async fn change_topic(&self, name: &str, settings: TopicSettings) -> Result<(), Denied> {
        if let Some(known) = self.topic_of_group(name) {
            return match settings.agree_with(&known) {
                true => Ok(()),
                false => Err(invalid(format!(
                    "topic {name} comes and goes with its group: readQueueNums and writeQueueNums are 1, perm is 6"
                ))),
            };
        }
        names::check_topic(name)?;
        match (self.broker.known_topic(name), settings.kind) {
            (Some(known), kind) => {
                // What a topic takes stays as it was made.
                if kind.is_some_and(|kind| kind != known.kind) {
                    let remark = format!(
                        "attribute {MESSAGE_TYPE} of topic {name} is {}, and cannot be changed",
                        known.kind.name()
                    );
                    return Err(invalid(remark));
                }
                self.broker.update_topic(name, TopicSettings { kind: None, ..settings }).await?
            }
            (None, Some(_)) => self.broker.create_topic(name, settings).await?,
            (None, None) => self.broker.create_untyped_topic(name, settings).await?,
        };
        Ok(())
    }

    /// Deletes a topic with its messages. One that is not there needs nothing.
    pub(crate) async fn delete_topic(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let name = fields.text("topic")?;
        // Those of groups come and go with them.
        if [names::RETRY_PREFIX, names::DEAD_LETTER_PREFIX].iter().any(|prefix| name.starts_with(prefix)) {
            return Ok(Answer::done());
        }
        names::check_topic(name)?;
        match self.broker.delete_topic(name).await {
            Ok(()) | Err(Refusal::TopicNotFound { .. }) => Ok(Answer::done()),
            Err(other) => Err(other.into()),
        }
    }

    /// The name server has no topics of its own: there is nothing to delete.
    pub(crate) fn delete_route(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        fields.text("topic")?;
        Ok(Answer::done())
    }

    fn topic_json(&self, topic: &TopicConfig) -> Json {
        let kind = match topic.kind {
            // Made by those who know no types, as nobody else may: tools look for it under this name.
            TopicType::Mixed if !self.broker.options().mixed_topics => UNSPECIFIED.to_owned(),
            kind => kind.name().to_uppercase(),
        };
        let life = match topic.kind {
            TopicType::Lite => Json::from(super::lite::expiration(topic).to_string()),
            _ => Json::Null,
        };
        Json::object([
            ("attributes", Json::object([(LITE_EXPIRATION, life), (MESSAGE_TYPE, kind.into())])),
            ("order", (topic.kind == TopicType::Fifo).into()),
            ("perm", permission_bits(topic.permission).into()),
            ("readQueueNums", topic.read_queues.into()),
            ("topicFilterType", "SINGLE_TAG".into()),
            ("topicName", topic.name.as_str().into()),
            ("topicSysFlag", 0.into()),
            ("writeQueueNums", topic.write_queues.into()),
        ])
    }

    fn existing(&self, name: &str) -> Result<std::sync::Arc<TopicConfig>, Denied> {
        self.broker.known_topic(name).ok_or_else(|| Refusal::TopicNotFound { topic: name.to_owned() }.into())
    }

    /// Settings of a topic. Those of a group's retries are what they are.
    pub(crate) fn topic_config(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let name = fields.text("topic")?;
        if let Some(retries) = self.retry_topic(name) {
            return Ok(Answer::json(&self.topic_json(&retries)));
        }
        Ok(Answer::json(&self.topic_json(&*self.existing(name)?)))
    }

    /// The retry topic of a group that exists.
    fn retry_topic(&self, name: &str) -> Option<TopicConfig> {
        let group = self.broker.known_group(name.strip_prefix(names::RETRY_PREFIX)?)?;
        let dead_letters = self.broker.known_topic(&format!("{}{}", names::DEAD_LETTER_PREFIX, group.name))?;
        Some(TopicConfig { name: name.to_owned(), ..(*dead_letters).clone() })
    }

    /// The topic of retries or of dead letters of a group that exists.
    fn topic_of_group(&self, name: &str) -> Option<TopicConfig> {
        match name.starts_with(names::DEAD_LETTER_PREFIX) {
            true => self.broker.known_topic(name).map(|topic| (*topic).clone()),
            false => self.retry_topic(name),
        }
    }

    /// Settings of all topics, and of those of groups.
    pub(crate) fn topic_configs(&self) -> Answer {
        let mut topics: Vec<TopicConfig> = self.broker.topics().iter().map(|topic| (**topic).clone()).collect();
        for group in self.broker.groups() {
            let of_group =
                [names::RETRY_PREFIX, names::DEAD_LETTER_PREFIX].map(|prefix| format!("{prefix}{}", group.name));
            topics.extend(of_group.iter().filter_map(|name| self.topic_of_group(name)));
        }
        let table = topics.iter().map(|topic| (Json::from(topic.name.as_str()), self.topic_json(topic))).collect();
        let count = topics.len();
        Answer::json(&Json::object([
            ("dataVersion", data_version()),
            ("mappingDataVersion", data_version()),
            ("topicConfigTable", Json::Object(table)),
        ]))
        .with("totalTopicNum", count)
    }

    /// Bounds of a topic's queues.
    pub(crate) async fn topic_stats(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let name = fields.text("topic")?;
        if self.retry_topic(name).is_some() && self.broker.known_topic(name).is_none() {
            return Ok(Answer::json(&Json::object([("offsetTable", Json::Object(Vec::new()))])));
        }
        let status = self.broker.topic_status(name).await?;
        let table = status.queues.iter().map(|queue| {
            let bounds = Json::object([
                ("lastUpdateTimestamp", queue.last_store_time.map_or(0, |time| time.0).into()),
                ("maxOffset", queue.max_offset.0.into()),
                ("minOffset", queue.min_offset.0.into()),
            ]);
            (queue_json(name, self.broker.broker_name(), queue.queue), bounds)
        });
        let table = Json::Object(table.collect());
        Ok(Answer::json(&Json::object([("offsetTable", table), ("topicPutTps", self.topic_put_tps(name))])))
    }

    /// Groups that consume a topic, now or before.
    pub(crate) async fn consumed_by(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let topic = fields.text("topic")?;
        self.existing(topic)?;
        let mut groups = Vec::new();
        for group in self.broker.groups() {
            // One that is deleted meanwhile is none.
            let Ok(status) = self.broker.group_status(&group.name).await else { continue };
            // Of those that broadcast nothing else is known than what they subscribe to.
            let mut wanted = status.members.iter().flat_map(|member| &member.subscriptions);
            let consumes = status.progress.iter().any(|progress| progress.topic == topic)
                || status.subscriptions.iter().any(|subscription| subscription.topic == topic)
                || wanted.any(|subscription| subscription.topic == topic);
            if consumes {
                groups.push(group.name.clone());
            }
        }
        Ok(Answer::json(&Json::object([("groupList", Json::list(groups))])))
    }
}
