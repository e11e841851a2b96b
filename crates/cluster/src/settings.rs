//! What may be set of topics and consumer groups, and the ranges.
//! Source: product.md A2, B4, B10; semantics.md section 2.11.

use crate::ChangeError;
use martlet_model::group::{ConsumptionPattern, DeliveryOrder, StartFrom};
use martlet_model::names::{self, DEAD_LETTER_PREFIX, RETRY_PREFIX};
use martlet_model::{
    DeadLetterPolicy, GroupConfig, Permission, RetryBackoff, RetryPolicy, TopicConfig, TopicType, limits,
};

/// Most topics of one catalog. Our own limit: a catalog is read and written as a whole.
pub const TOPICS_MAX: usize = 20_000;
/// Most consumer groups of one catalog. Our own limit.
pub const GROUPS_MAX: usize = 20_000;
/// Shortest and longest retention of a topic, in milliseconds: a minute and ten years.
pub const RETENTION_MILLIS_RANGE: (i64, i64) = (60_000, 3_650 * 86_400_000);

/// Latest time a group may begin at: the end of the year 9999.
pub const START_MILLIS_MAX: i64 = 253_402_300_799_999;

const ATTEMPTS_LIMIT: u32 = 10_000;
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
    /// Where it begins in queues it has not received from yet; times from 0 to [`START_MILLIS_MAX`].
    pub start: Option<StartFrom>,
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
            && self.start.is_none_or(|start| is_same_start(start, group.start))
    }

    /// Retries of a new group with this order.
    pub(crate) fn default_retry(order: DeliveryOrder) -> RetryPolicy {
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
            if !(1..=ATTEMPTS_LIMIT).contains(&attempts) {
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
        Ok(())
    }
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
