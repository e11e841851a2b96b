//! Groups: made, changed, deleted, described; who is connected.

use super::{data_version, invalid};
use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::json::Json;
use crate::codec::shown;
use crate::codec::{ids, version};
use crate::front::Front;
use martlet_broker::{ConsumeFrom, GroupSettings, GroupStatus, MemberKind, MessageModel, ProgressStatus, Refusal};
use martlet_model::group::{ConsumptionPattern, DeliveryOrder};
use martlet_model::{Filter, GroupConfig, RetryBackoff, TagFilter};
use std::collections::{BTreeMap, BTreeSet};

/// What clients know as the version of 5.0.0: of clients whose version has no such number.
const OTHER_CLIENTS_VERSION: i32 = 413;

/// Attributes of groups of lite topics: the parent, how clients share a lite topic, whether they have all of them, how many one
/// client may subscribe to, and what moves the group back to a lite topic's first message.
const LITE_PARENT: &str = "lite.bind.topic";
const LITE_MODEL: &str = "lite.sub.model";
const LITE_WILDCARD: &str = "lite.sub.wildcard";
const LITE_QUOTA: &str = "lite.sub.client.quota";
const LITE_RESET_EXCLUSIVE: &str = "lite.sub.reset.offset.exclusive";
const LITE_RESET_UNSUBSCRIBE: &str = "lite.sub.reset.offset.unsubscribe";

fn group_json(group: &GroupConfig) -> Json {
    let policy = match &group.retry.backoff {
        RetryBackoff::Customized(waits) => Json::object([
            ("customizedRetryPolicy", Json::object([("next", Json::list(waits.iter().copied()))])),
            ("type", "CUSTOMIZED".into()),
        ]),
        RetryBackoff::Exponential { initial_millis, max_millis, multiplier } => Json::object([
            (
                "exponentialRetryPolicy",
                Json::object([
                    ("initial", (*initial_millis).into()),
                    ("max", (*max_millis).into()),
                    ("multiplier", (multiplier.round() as i64).into()),
                ]),
            ),
            ("type", "EXPONENTIAL".into()),
        ]),
    };
    let lite = group.lite.iter().flat_map(|lite| {
        let model = if lite.exclusive { "Exclusive" } else { "Shared" };
        [
            (LITE_PARENT, lite.parent.clone()),
            (LITE_MODEL, model.to_owned()),
            (LITE_WILDCARD, lite.wildcard.to_string()),
            (LITE_QUOTA, lite.quota().to_string()),
            (LITE_RESET_EXCLUSIVE, lite.resets.exclusive.to_string()),
            (LITE_RESET_UNSUBSCRIBE, lite.resets.unsubscribe.to_string()),
        ]
    });
    let attributes = lite.map(|(name, value)| (Json::from(name), Json::from(value))).collect();
    Json::object([
        ("attributes", Json::Object(attributes)),
        ("brokerId", 0.into()),
        ("consumeBroadcastEnable", true.into()),
        ("consumeEnable", true.into()),
        ("consumeFromMinEnable", true.into()),
        ("consumeMessageOrderly", (group.order == DeliveryOrder::Fifo).into()),
        ("consumeTimeoutMinute", 15.into()),
        ("groupName", group.name.as_str().into()),
        ("groupRetryPolicy", policy),
        ("groupSysFlag", 0.into()),
        ("notifyConsumerIdsChangedEnable", true.into()),
        ("retryMaxTimes", group.retry.max_attempts.saturating_sub(1).into()),
        ("retryQueueNums", 1.into()),
        ("whichBrokerWhenConsumeSlowly", 1.into()),
    ])
}

impl Front {
    /// Creates or changes a group.
    pub(crate) async fn update_group(&self, body: &[u8]) -> Result<Answer, Denied> {
        self.change_group(&Json::parse(body, "body")?).await?;
        Ok(Answer::done())
    }

    /// Creates or changes groups, one after the other, up to the first that is refused.
    pub(crate) async fn update_groups(&self, body: &[u8]) -> Result<Answer, Denied> {
        let said = Json::parse(body, "body")?;
        for group in super::listed(&said, "groupConfigList")? {
            self.change_group(group).await?;
        }
        Ok(Answer::done())
    }

    async fn change_group(&self, said: &Json) -> Result<(), Denied> {
        let name = said.text("groupName").ok_or_else(|| invalid("field groupName is missing"))?;
        if said.text("consumeEnable") == Some("false") {
            return Err(invalid("consumeEnable false is not something that this broker can do"));
        }
        let max_attempts = match said.int("retryMaxTimes") {
            None => None,
            // No limit, to these clients.
            Some(-1) => Some(10_000),
            Some(times) => match u32::try_from(times) {
                Ok(times) => Some(times.saturating_add(1)),
                Err(_) => return Err(invalid(format!("retryMaxTimes {times} is neither -1 nor from 0 on"))),
            },
        };
        let settings = GroupSettings { max_attempts, backoff: backoff(said)?, ..GroupSettings::default() };
        let settings = attributes(said, settings)?;
        match self.broker.known_group(name) {
            Some(_) => self.broker.update_group(name, settings).await?,
            None => {
                let order = said.is_true("consumeMessageOrderly").then_some(DeliveryOrder::Fifo);
                self.broker.create_group(name, GroupSettings { order, ..settings }).await?
            }
        };
        Ok(())
    }

    /// Deletes a group and its progress. One that is not there needs nothing.
    pub(crate) async fn delete_group(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        match self.broker.delete_group(fields.text("groupName")?).await {
            Ok(()) | Err(Refusal::GroupNotFound { .. }) => Ok(Answer::done()),
            Err(other) => Err(other.into()),
        }
    }

    /// Settings of all groups.
    pub(crate) fn group_configs(&self) -> Answer {
        let groups = self.broker.groups();
        let table = groups.iter().map(|group| (Json::from(group.name.as_str()), group_json(group))).collect();
        let count = groups.len();
        Answer::json(&Json::object([
            ("dataVersion", data_version()),
            ("forbiddenTable", Json::Object(Vec::new())),
            ("subscriptionGroupTable", Json::Object(table)),
        ]))
        .with("totalGroupNum", count)
    }

    /// Settings of a group.
    pub(crate) fn group_config(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let name = fields.text("group")?;
        let group = self.broker.known_group(name);
        let group = group.ok_or_else(|| Denied::from(Refusal::GroupNotFound { group: name.to_owned() }))?;
        Ok(Answer::json(&group_json(&group)))
    }

    /// How far a group is.
    pub(crate) async fn consume_stats(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let name = fields.text("consumerGroup")?;
        let topic = fields.optional("topic").filter(|topic| !topic.is_empty());
        let status = match self.broker.group_status(name).await {
            Ok(status) => status,
            // Nothing is known of it: what tools take for that is an empty table.
            Err(Refusal::GroupNotFound { .. }) => {
                return Ok(Answer::json(&Json::object([("offsetTable", Json::Object(Vec::new()))])));
            }
            Err(other) => return Err(other.into()),
        };
        let shows = |progress: &ProgressStatus| topic.is_none_or(|topic| progress.topic == topic);
        let table = self.offset_table(&status, shows).await?;
        Ok(Answer::json(&Json::object([("consumeTps", self.consume_tps(name)), ("offsetTable", table)])))
    }

    /// Topics that a group consumes, now or before.
    pub(crate) async fn consumed_topics(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let status = self.broker.group_status(fields.text("group")?).await?;
        let progress = status.progress.iter().map(|progress| progress.topic.as_str());
        let subscriptions = status.subscriptions.iter().map(|subscription| subscription.topic.as_str());
        let topics: BTreeSet<&str> = progress.chain(subscriptions).collect();
        Ok(Answer::json(&Json::object([("topicList", Json::list(topics))])))
    }

    /// Connected consumers of a group and what they subscribe to.
    pub(crate) async fn consumer_connections(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let name = fields.text("consumerGroup")?;
        let status = self.broker.group_status(name).await;
        let offline = || {
            let remark = format!("consumer group {name} has no connected consumer");
            Denied::new(response::CONSUMER_NOT_ONLINE, remark)
        };
        let status: GroupStatus = match status {
            Ok(status) if !status.members.is_empty() => status,
            Ok(_) | Err(Refusal::GroupNotFound { .. }) => return Err(offline()),
            Err(other) => return Err(other.into()),
        };
        let broadcasts = status.members.iter().any(|member| member.model == MessageModel::Broadcasting);
        let queue_based = status.members.iter().find(|member| member.kind == MemberKind::QueueBased);
        let from = match queue_based.map(|member| member.from) {
            Some(ConsumeFrom::Last) => "CONSUME_FROM_LAST_OFFSET",
            Some(ConsumeFrom::Timestamp) => "CONSUME_FROM_TIMESTAMP",
            Some(ConsumeFrom::First) | None => "CONSUME_FROM_FIRST_OFFSET",
        };
        let active = status.members.iter().all(|member| match member.kind {
            MemberKind::Push => false,
            MemberKind::Simple => true,
            MemberKind::QueueBased => {
                let link = member.connection.and_then(|number| self.link(number));
                link.is_some_and(|link| link.consumes_actively(name))
            }
        });
        let connections = status.members.iter().map(|client| {
            Json::object([
                ("clientAddr", client.remote.as_str().into()),
                ("clientId", (&*client.client_id).into()),
                ("language", client.language.as_str().into()),
                ("version", version::ordinal(&client.version).unwrap_or(OTHER_CLIENTS_VERSION).into()),
            ])
        });
        let said = || status.members.iter().flat_map(|member| &member.subscriptions);
        let mut subscriptions: BTreeMap<&str, Json> = BTreeMap::new();
        for subscription in &status.subscriptions {
            // Not all protocols number them.
            let versions = said().filter(|said| said.topic == subscription.topic).map(|said| said.version);
            let version = versions.max().filter(|version| *version > 0).unwrap_or(subscription.seen.0);
            let shown = subscription_json(&subscription.topic, &subscription.filter, version);
            subscriptions.insert(&subscription.topic, shown);
        }
        // Nobody hands out to those that broadcast: only they know what they subscribe to.
        for subscription in said() {
            let shown = || subscription_json(&subscription.topic, &subscription.filter, subscription.version);
            subscriptions.entry(&subscription.topic).or_insert_with(shown);
        }
        let subscriptions = subscriptions.into_iter().map(|(topic, shown)| (Json::from(topic), shown));
        Ok(Answer::json(&Json::object([
            ("connectionSet", Json::List(connections.collect())),
            ("consumeFromWhere", from.into()),
            ("consumeType", if active { "CONSUME_ACTIVELY" } else { "CONSUME_PASSIVELY" }.into()),
            ("messageModel", if broadcasts { "BROADCASTING" } else { "CLUSTERING" }.into()),
            ("subscriptionTable", Json::Object(subscriptions.collect())),
        ])))
    }
}

/// A subscription. Tools judge by its tags who has been given a message.
pub(super) fn subscription_json(topic: &str, filter: &Filter, version: i64) -> Json {
    let tags: Vec<&str> = match filter {
        Filter::Tags(TagFilter::AnyOf(tags)) => tags.iter().map(String::as_str).collect(),
        Filter::Tags(TagFilter::All) | Filter::Sql(_) => Vec::new(),
    };
    Json::object([
        ("classFilterMode", false.into()),
        ("codeSet", Json::list(tags.iter().map(|tag| ids::tag_hash(tag)))),
        ("expressionType", if matches!(filter, Filter::Sql(_)) { "SQL92" } else { "TAG" }.into()),
        ("subString", filter.to_string().into()),
        ("subVersion", version.into()),
        ("tagsSet", Json::list(tags)),
        ("topic", topic.into()),
    ])
}

/// What attributes say, such as `"+lite.bind.topic":"parent"`.
fn attributes(said: &Json, mut settings: GroupSettings) -> Result<GroupSettings, Denied> {
    let Some(Json::Object(entries)) = said.get("attributes") else { return Ok(settings) };
    for (key, value) in entries {
        let (key, value) = (key.scalar().unwrap_or(""), value.scalar().unwrap_or(""));
        let unknown = || {
            let (key, value) = (shown(key), shown(value));
            invalid(format!("attributes has {key} = {value}, which this broker does not have"))
        };
        match (key.strip_prefix('+').unwrap_or(key), value) {
            (LITE_PARENT, parent) => {
                settings.pattern = Some(ConsumptionPattern::LiteSelective);
                settings.lite_parent = Some(parent.to_owned());
            }
            (LITE_MODEL, "Shared" | "Exclusive") => settings.lite_exclusive = Some(value == "Exclusive"),
            (LITE_WILDCARD, "true" | "false") => settings.lite_wildcard = Some(value == "true"),
            (LITE_RESET_EXCLUSIVE, "true" | "false") => settings.lite_reset_exclusive = Some(value == "true"),
            (LITE_RESET_UNSUBSCRIBE, "true" | "false") => settings.lite_reset_unsubscribe = Some(value == "true"),
            (LITE_QUOTA, most) => settings.lite_subscriptions_max = Some(most.parse().map_err(|_| unknown())?),
            _ => return Err(unknown()),
        }
    }
    Ok(settings)
}

/// Waits between deliveries.
fn backoff(said: &Json) -> Result<Option<RetryBackoff>, Denied> {
    let Some(policy) = said.get("groupRetryPolicy") else { return Ok(None) };
    if let Some(custom) = policy.get("customizedRetryPolicy") {
        let waits: Option<Vec<i64>> = custom.items("next").iter().map(|wait| wait.scalar()?.parse().ok()).collect();
        let waits = waits.filter(|waits| !waits.is_empty());
        return match waits {
            Some(waits) => Ok(Some(RetryBackoff::Customized(waits))),
            None => Err(invalid("customizedRetryPolicy.next is not a list of milliseconds")),
        };
    }
    let Some(exponential) = policy.get("exponentialRetryPolicy") else { return Ok(None) };
    let number = |field: &'static str| {
        exponential.int(field).ok_or_else(|| invalid(format!("exponentialRetryPolicy.{field} is not a number")))
    };
    let (initial_millis, max_millis, multiplier) = (number("initial")?, number("max")?, number("multiplier")?);
    Ok(Some(RetryBackoff::Exponential { initial_millis, max_millis, multiplier: multiplier as f64 }))
}
