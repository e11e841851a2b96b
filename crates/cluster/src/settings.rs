//! What may be set of topics and consumer groups, and the ranges.
//! Source: product.md A2, B4, B10; semantics.md section 2.11.

use crate::ChangeError;
use martlet_model::group::{ConsumptionPattern, DeliveryOrder, LiteConsumers, LiteResets, RequestMode, StartFrom};
use martlet_model::names::{self, DEAD_LETTER_PREFIX, RETRY_PREFIX};
use martlet_model::{
    DeadLetterPolicy, GroupConfig, Permission, RetryBackoff, RetryPolicy, TopicConfig, TopicType, limits,
};

/// Most topics of one catalog. Our own limit: a catalog is read and written as a whole.
pub const TOPICS_MAX: usize = 20_000;
/// Most consumer groups of one catalog. Our own limit.
pub const GROUPS_MAX: usize = 20_000;
/// Topics that the TCP clients of one group pop. Our own limit.
pub const POP_TOPICS_MAX: usize = 1_000;
/// Shortest and longest retention of a topic, in milliseconds: a minute and ten years.
pub const RETENTION_MILLIS_RANGE: (i64, i64) = (60_000, 3_650 * 86_400_000);

/// Longest time to live of a lite topic, in minutes (30 days), as in the reference.
pub const LITE_EXPIRE_MINUTES_MAX: i32 = 43_200;
/// Latest time a group may begin at: the end of the year 9999.
pub const START_MILLIS_MAX: i64 = 253_402_300_799_999;

/// Shortest and longest window of de-duplication, in milliseconds: a second and a day.
pub const DEDUPLICATE_MILLIS_RANGE: (i64, i64) = (1_000, 86_400_000);

const BACKOFF_STEPS_MAX: usize = 64;
const BACKOFF_MILLIS_MAX: i64 = 86_400_000;
const MULTIPLIER_MAX: f64 = 100.0;
/// Wait between the deliveries of an ordered group, unless it says otherwise (product.md RT-5).
const FIFO_BACKOFF_MILLIS: i64 = 3_000;

/// What a new or changed topic should be. `None` keeps what is, or takes the default at creation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicSettings {
    /// Type; cannot be changed after creation.
    pub kind: Option<TopicType>,
    /// Queues that messages are sent to, 1 to `limits::TOPIC_QUEUES_MAX`. Growing adds read queues too; shrinking keeps
    /// the read queues, so that what is in them can still be received.
    pub queues: Option<u32>,
    /// Queues that messages are received from; not fewer than `queues`. Giving up read queues gives up what is in them.
    pub read_queues: Option<u32>,
    /// What clients may do.
    pub permission: Option<Permission>,
    /// Retention in milliseconds, within [`RETENTION_MILLIS_RANGE`]; 0 returns to the broker's default.
    pub retention_millis: Option<i64>,
    /// Of a parent of lite topics: minutes without a message after which one ends, 1 to [`LITE_EXPIRE_MINUTES_MAX`]; -1:
    /// never.
    pub lite_expire_minutes: Option<i32>,
    /// The same: whether that takes unconsumed messages along.
    pub lite_expire_unconsumed: Option<bool>,
    /// The same: most lite topics; 0 returns to the default.
    pub lite_topics_max: Option<u64>,
    /// For how long message ids are recognised, in milliseconds, within [`DEDUPLICATE_MILLIS_RANGE`]; 0: not at all.
    pub deduplicate_millis: Option<i64>,
}

/// What a new or changed consumer group should be. `None` keeps what is, or takes the default at creation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupSettings {
    /// Delivery order; cannot be changed after creation.
    pub order: Option<DeliveryOrder>,
    /// Consumption pattern; cannot be changed after creation.
    pub pattern: Option<ConsumptionPattern>,
    /// Deliveries in all, the first included, 1 to 10,000.
    pub max_attempts: Option<u32>,
    /// Waits between them, each 1 ms to 24 h.
    pub backoff: Option<RetryBackoff>,
    /// After the last attempt.
    pub dead_letters: Option<DeadLetterPolicy>,
    /// Parent of the lite topics its consumers have sets of; needed at creation with that pattern, and cannot be changed.
    pub lite_parent: Option<String>,
    /// Whether a lite topic is one client's at a time; cannot be changed after creation.
    pub lite_exclusive: Option<bool>,
    /// Whether all clients consume every lite topic; cannot be changed after creation, and not together with the former.
    pub lite_wildcard: Option<bool>,
    /// Lite topics one client may subscribe to, 1 to `limits::LITE_SUBSCRIPTIONS_MAX`; -1: as many as that.
    pub lite_subscriptions_max: Option<i32>,
    /// Whether a client that takes a lite topic over from another begins at its first message.
    pub lite_reset_exclusive: Option<bool>,
    /// Whether the group begins at the first message again once a client has unsubscribed.
    pub lite_reset_unsubscribe: Option<bool>,
    /// Where it begins in queues it has not received from yet; times from 0 to [`START_MILLIS_MAX`].
    pub start: Option<StartFrom>,
    /// How its TCP clients get the messages of a topic; in at most [`POP_TOPICS_MAX`] topics by popping.
    pub request_mode: Option<(String, RequestMode)>,
}

fn refuse<T>(field: &'static str, value: impl ToString, rule: &'static str) -> Result<T, ChangeError> {
    Err(ChangeError::Setting { field, value: value.to_string().chars().take(128).collect(), rule })
}

fn check_queues(field: &'static str, count: u32) -> Result<u32, ChangeError> {
    if (1..=limits::TOPIC_QUEUES_MAX).contains(&count) {
        Ok(count)
    } else {
        refuse(field, count, "is not between 1 and 1024")
    }
}

impl TopicSettings {
    /// Whether a topic is as these settings say, where they say something.
    pub fn agree_with(&self, topic: &TopicConfig) -> bool {
        self.kind.is_none_or(|kind| kind == topic.kind)
            && self.queues.is_none_or(|queues| queues == topic.write_queues)
            && self.read_queues.is_none_or(|queues| queues == topic.read_queues)
            && self.permission.is_none_or(|permission| permission == topic.permission)
            && self.retention_millis.is_none_or(|millis| millis == topic.retention_millis.unwrap_or(0))
            && self.lite_expire_minutes.is_none_or(|minutes| {
                minutes == topic.lite.expire_minutes.map_or(-1, |minutes| i32::try_from(minutes).unwrap_or(i32::MAX))
            })
            && self.lite_expire_unconsumed.is_none_or(|told| told == topic.lite.expire_unconsumed)
            && self.lite_topics_max.is_none_or(|max| max == topic.lite.max.unwrap_or(0))
            && self.deduplicate_millis.is_none_or(|millis| millis == topic.deduplicate_millis.unwrap_or(0))
    }

    pub(crate) fn apply_to(&self, topic: &mut TopicConfig) -> Result<(), ChangeError> {
        if let Some(kind) = self.kind
            && kind != topic.kind
        {
            return refuse("type", kind.name(), "cannot replace the topic's type, which is fixed at creation");
        }
        if let Some(queues) = self.queues {
            topic.write_queues = check_queues("queues", queues)?;
            topic.read_queues = topic.read_queues.max(queues);
        }
        if let Some(queues) = self.read_queues {
            if check_queues("read queues", queues)? < topic.write_queues {
                return refuse("read queues", queues, "is fewer than the queues that messages are sent to");
            }
            topic.read_queues = queues;
        }
        if let Some(permission) = self.permission {
            topic.permission = permission;
        }
        if let Some(millis) = self.retention_millis {
            if millis != 0 && !(RETENTION_MILLIS_RANGE.0..=RETENTION_MILLIS_RANGE.1).contains(&millis) {
                return refuse("retention", format!("{millis} ms"), "is not between one minute and 3650 days");
            }
            topic.retention_millis = (millis != 0).then_some(millis);
        }
        if let Some(millis) = self.deduplicate_millis {
            if millis != 0 && topic.kind == TopicType::Lite {
                return refuse("de-duplication", format!("{millis} ms"), "is not taken by topics of type lite");
            }
            if millis != 0 && !(DEDUPLICATE_MILLIS_RANGE.0..=DEDUPLICATE_MILLIS_RANGE.1).contains(&millis) {
                return refuse("de-duplication", format!("{millis} ms"), "is not between one second and one day");
            }
            topic.deduplicate_millis = (millis != 0).then_some(millis);
        }
        self.apply_lite(topic)
    }

    fn apply_lite(&self, topic: &mut TopicConfig) -> Result<(), ChangeError> {
        let is_lite = topic.kind == TopicType::Lite;
        if let Some(minutes) = self.lite_expire_minutes {
            if !is_lite {
                return refuse("lite expiration", minutes, "is only taken by topics of type lite");
            }
            if minutes != -1 && !(1..=LITE_EXPIRE_MINUTES_MAX).contains(&minutes) {
                return refuse("lite expiration", minutes, "is neither -1 nor between 1 and 43200 minutes");
            }
            topic.lite.expire_minutes = u32::try_from(minutes).ok();
        }
        if let Some(told) = self.lite_expire_unconsumed {
            if !is_lite {
                return refuse("lite expiration of unconsumed messages", told, "is only taken by topics of type lite");
            }
            topic.lite.expire_unconsumed = told;
        }
        if let Some(max) = self.lite_topics_max {
            if !is_lite {
                return refuse("maximum of lite topics", max, "is only taken by topics of type lite");
            }
            topic.lite.max = Some(max).filter(|max| *max > 0);
        }
        Ok(())
    }
}

impl GroupSettings {
    /// Whether a group is as these settings say, where they say something.
    pub fn agree_with(&self, group: &GroupConfig) -> bool {
        self.order.is_none_or(|order| order == group.order)
            && self.pattern.is_none_or(|pattern| pattern == group.pattern)
            && self.max_attempts.is_none_or(|attempts| attempts == group.retry.max_attempts)
            && self.backoff.as_ref().is_none_or(|backoff| *backoff == group.retry.backoff)
            && self.dead_letters.as_ref().is_none_or(|policy| *policy == group.dead_letters)
            && self
                .lite_parent
                .as_ref()
                .is_none_or(|parent| group.lite.as_ref().is_some_and(|lite| lite.parent == *parent))
            && self.lite_exclusive.is_none_or(|told| group.lite.as_ref().is_some_and(|lite| lite.exclusive == told))
            && self.lite_wildcard.is_none_or(|told| group.lite.as_ref().is_some_and(|lite| lite.wildcard == told))
            && self.lite_subscriptions_max.is_none_or(|max| {
                quota(max).is_some_and(|max| group.lite.as_ref().is_some_and(|lite| lite.quota() == max))
            })
            && self
                .lite_reset_exclusive
                .is_none_or(|told| group.lite.as_ref().is_some_and(|lite| lite.resets.exclusive == told))
            && self
                .lite_reset_unsubscribe
                .is_none_or(|told| group.lite.as_ref().is_some_and(|lite| lite.resets.unsubscribe == told))
            && self.start.is_none_or(|start| is_same_start(start, group.start))
            && self.request_mode.as_ref().is_none_or(|(topic, mode)| group.request_mode(topic) == *mode)
    }

    /// Retries of a new group with this order.
    pub fn default_retry(order: DeliveryOrder) -> RetryPolicy {
        match order {
            DeliveryOrder::Concurrent => RetryPolicy::default(),
            DeliveryOrder::Fifo => {
                RetryPolicy { backoff: RetryBackoff::Customized(vec![FIFO_BACKOFF_MILLIS]), ..RetryPolicy::default() }
            }
        }
    }

    pub(crate) fn apply_to(&self, group: &mut GroupConfig) -> Result<(), ChangeError> {
        if let Some(order) = self.order
            && order != group.order
        {
            let value = match order {
                DeliveryOrder::Concurrent => "concurrent",
                DeliveryOrder::Fifo => "fifo",
            };
            return refuse("delivery order", value, "cannot replace the group's order, which is fixed at creation");
        }
        if let Some(pattern) = self.pattern
            && pattern != group.pattern
        {
            let value = match pattern {
                ConsumptionPattern::Clustering => "clustering",
                ConsumptionPattern::LiteSelective => "lite-selective",
            };
            return refuse("consumption pattern", value, "cannot replace the group's, which is fixed at creation");
        }
        if let Some(attempts) = self.max_attempts {
            if !(1..=limits::GROUP_ATTEMPTS_MAX).contains(&attempts) {
                return refuse("maximum attempts", attempts, "is not between 1 and 10000");
            }
            group.retry.max_attempts = attempts;
        }
        if let Some(backoff) = &self.backoff {
            check_backoff(backoff)?;
            group.retry.backoff = backoff.clone();
        }
        if let Some(policy) = &self.dead_letters {
            if let DeadLetterPolicy::Topic(topic) = policy {
                names::check_topic(topic)?;
                if topic.starts_with(DEAD_LETTER_PREFIX) || topic.starts_with(RETRY_PREFIX) {
                    return refuse("dead-letter topic", topic, "belongs to a consumer group");
                }
            }
            group.dead_letters = policy.clone();
        }
        if let Some(start) = self.start {
            if start.since().is_some_and(|millis| !(0..=START_MILLIS_MAX).contains(&millis)) {
                let millis = start.since().unwrap_or_default();
                return refuse("start", format!("{millis} ms"), "is not a time from 1970 to 9999");
            }
            group.start = start;
        }
        if let Some((topic, mode)) = &self.request_mode {
            names::check_topic(topic)?;
            let place = group.pop_topics.binary_search(topic);
            match (mode, place) {
                (RequestMode::Pop, Err(_)) if group.pop_topics.len() >= POP_TOPICS_MAX => {
                    return refuse(
                        "request mode of topic",
                        topic,
                        "cannot be POP: the group pops 1000 topics, the limit",
                    );
                }
                (RequestMode::Pop, Err(at)) => group.pop_topics.insert(at, topic.clone()),
                (RequestMode::Pull, Ok(at)) => drop(group.pop_topics.remove(at)),
                (RequestMode::Pop, Ok(_)) | (RequestMode::Pull, Err(_)) => {}
            }
        }
        self.apply_lite(group)
    }

    /// Settings of a group of lite topics; at creation [`GroupSettings::new_lite`] has made its part before.
    fn apply_lite(&self, group: &mut GroupConfig) -> Result<(), ChangeError> {
        const ELSE: &str = "is only taken by groups of the consumption pattern lite-selective";
        let Some(lite) = &mut group.lite else {
            if let Some(parent) = &self.lite_parent {
                return refuse("parent of lite topics", parent, ELSE);
            }
            if let Some(told) = self.lite_exclusive {
                return refuse("exclusive lite subscription", told, ELSE);
            }
            if let Some(told) = self.lite_wildcard {
                return refuse("wildcard lite subscription", told, ELSE);
            }
            if let Some(told) = self.lite_reset_exclusive.or(self.lite_reset_unsubscribe) {
                return refuse("reset of lite topics", told, ELSE);
            }
            return self
                .lite_subscriptions_max
                .map_or(Ok(()), |max| refuse("lite subscriptions of a client", max, ELSE));
        };
        if let Some(parent) = self.lite_parent.as_ref().filter(|parent| **parent != lite.parent) {
            return refuse("parent of lite topics", parent, "cannot replace the group's, which is fixed at creation");
        }
        if let Some(told) = self.lite_exclusive.filter(|told| *told != lite.exclusive) {
            return refuse("exclusive lite subscription", told, "cannot be changed after creation");
        }
        if let Some(told) = self.lite_wildcard.filter(|told| *told != lite.wildcard) {
            return refuse("wildcard lite subscription", told, "cannot be changed after creation");
        }
        if let Some(max) = self.lite_subscriptions_max {
            let Some(quota) = quota(max) else {
                return refuse("lite subscriptions of a client", max, "is neither -1 nor between 1 and 50000");
            };
            lite.subscriptions_max = Some(quota).filter(|quota| *quota != limits::LITE_SUBSCRIPTIONS_DEFAULT);
        }
        lite.resets.exclusive = self.lite_reset_exclusive.unwrap_or(lite.resets.exclusive);
        lite.resets.unsubscribe = self.lite_reset_unsubscribe.unwrap_or(lite.resets.unsubscribe);
        Ok(())
    }

    /// What a new group knows of lite topics; `kind` tells the type of a topic that exists.
    pub(crate) fn new_lite(
        &self,
        kind: impl FnOnce(&str) -> Option<TopicType>,
    ) -> Result<Option<LiteConsumers>, ChangeError> {
        if self.pattern != Some(ConsumptionPattern::LiteSelective) {
            return Ok(None);
        }
        let Some(parent) = &self.lite_parent else {
            return refuse(
                "parent of lite topics",
                "",
                "is missing: a lite-selective group consumes those of one topic",
            );
        };
        match kind(parent) {
            Some(TopicType::Lite) => {}
            Some(_) => return refuse("parent of lite topics", parent, "is not a topic of type lite"),
            None => return Err(ChangeError::TopicNotFound { topic: parent.clone() }),
        }
        let (exclusive, wildcard) = (self.lite_exclusive.unwrap_or(false), self.lite_wildcard.unwrap_or(false));
        if exclusive && wildcard {
            return refuse("wildcard lite subscription", wildcard, "does not go together with an exclusive one");
        }
        let (parent, resets) = (parent.clone(), LiteResets::default());
        Ok(Some(LiteConsumers { parent, exclusive, wildcard, subscriptions_max: None, resets }))
    }
}

/// How many lite topics a client may subscribe to; `None` for what is out of range.
fn quota(max: i32) -> Option<u32> {
    let bounded = limits::LITE_SUBSCRIPTIONS_MAX;
    if max == -1 { Some(bounded) } else { u32::try_from(max).ok().filter(|max| (1..=bounded).contains(max)) }
}

/// `latest` is the same whenever it was set.
fn is_same_start(wanted: StartFrom, found: StartFrom) -> bool {
    wanted == found || matches!((wanted, found), (StartFrom::Latest(_), StartFrom::Latest(_)))
}

fn check_backoff(backoff: &RetryBackoff) -> Result<(), ChangeError> {
    let within = |millis: i64| (1..=BACKOFF_MILLIS_MAX).contains(&millis);
    match backoff {
        RetryBackoff::Customized(waits) => {
            if waits.is_empty() || waits.len() > BACKOFF_STEPS_MAX {
                return refuse("back-off", format!("of {} waits", waits.len()), "does not have 1 to 64 waits");
            }
            match waits.iter().find(|&&millis| !within(millis)) {
                Some(millis) => refuse("back-off wait", format!("{millis} ms"), "is not between 1 ms and 24 h"),
                None => Ok(()),
            }
        }
        RetryBackoff::Exponential { initial_millis, max_millis, multiplier } => {
            if !within(*initial_millis) {
                return refuse("initial back-off", format!("{initial_millis} ms"), "is not between 1 ms and 24 h");
            }
            if !within(*max_millis) || max_millis < initial_millis {
                return refuse(
                    "maximum back-off",
                    format!("{max_millis} ms"),
                    "is not between the initial one and 24 h",
                );
            }
            if !(1.0..=MULTIPLIER_MAX).contains(multiplier) {
                return refuse("back-off multiplier", multiplier, "is not between 1 and 100");
            }
            Ok(())
        }
    }
}
