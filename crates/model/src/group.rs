//! What the catalog knows about a consumer group: delivery order, retry policy, dead letters.
//! Source: product.md A2 and B4, semantics.md section 2.11.

use crate::ids::GroupId;
use crate::limits;
use serde::{Deserialize, Serialize};

/// How long a failed message waits before its next delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryBackoff {
    /// One duration in milliseconds per retry; the last one repeats.
    Customized(Vec<i64>),
    /// `min(max, initial * multiplier^(retry - 1))`, in milliseconds.
    Exponential {
        /// First wait.
        initial_millis: i64,
        /// Longest wait.
        max_millis: i64,
        /// Growth per retry, at least 1.
        multiplier: f64,
    },
}

/// The documented waits: 10 s, 30 s, 1 min … 10 min, 20 min, 30 min, 1 h, 2 h; every later retry waits 2 h.
pub const DEFAULT_BACKOFF_MILLIS: [i64; 16] = [
    10_000, 30_000, 60_000, 120_000, 180_000, 240_000, 300_000, 360_000, 420_000, 480_000, 540_000, 600_000, 1_200_000,
    1_800_000, 3_600_000, 7_200_000,
];

impl Default for RetryBackoff {
    fn default() -> Self {
        Self::Customized(DEFAULT_BACKOFF_MILLIS.to_vec())
    }
}

impl RetryBackoff {
    /// Milliseconds to wait after delivery attempt `attempt` (counted from 1) failed.
    pub fn wait_millis(&self, attempt: u32) -> i64 {
        let retry = attempt.max(1);
        match self {
            Self::Customized(waits) => {
                let last = waits.len().saturating_sub(1);
                waits.get((retry as usize - 1).min(last)).copied().unwrap_or(0).max(0)
            }
            Self::Exponential { initial_millis, max_millis, multiplier } => {
                let wait = *initial_millis as f64 * multiplier.powi(retry.min(64) as i32 - 1);
                if wait.is_finite() { (wait as i64).clamp(0, (*max_millis).max(0)) } else { (*max_millis).max(0) }
            }
        }
    }
}

/// Retries of a consumer group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryPolicy {
    /// Deliveries in all, the first included; at least 1.
    pub max_attempts: u32,
    /// Waits between them.
    #[serde(default)]
    pub backoff: RetryBackoff,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: limits::ATTEMPTS_MAX, backoff: RetryBackoff::default() }
    }
}

/// What happens to a message after its last attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterPolicy {
    /// A copy goes to `%DLQ%group`.
    #[default]
    GroupTopic,
    /// A copy goes to this topic; to `%DLQ%group` if it does not exist then.
    Topic(String),
    /// The message counts as consumed.
    Discard,
}

/// In which order messages are handed to a group's consumers. Cannot be changed after creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryOrder {
    /// In no particular order.
    #[default]
    Concurrent,
    /// In order within a message group.
    Fifo,
}

/// Where a group begins in a queue that it has not received from yet. Times are milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StartFrom {
    /// At the first message there is.
    #[default]
    Earliest,
    /// Behind what was there when this was set, which was then: at the first message stored at that time or later.
    Latest(i64),
    /// At the first message stored at this time or later.
    Time(i64),
}

impl StartFrom {
    /// Whether that is the first message there is.
    pub fn is_earliest(&self) -> bool {
        *self == Self::Earliest
    }

    /// The time from which on messages are of interest; `None`: all of them.
    pub fn since(&self) -> Option<i64> {
        match self {
            Self::Earliest => None,
            Self::Latest(millis) | Self::Time(millis) => Some(*millis),
        }
    }
}

/// How the consumers of a group share messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConsumptionPattern {
    /// Each message goes to one consumer of the group.
    #[default]
    Clustering,
    /// Each consumer has its own set of lite topics.
    LiteSelective,
}

/// How clients of the TCP protocol that leave it to the broker get the messages of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestMode {
    /// They pull queues that they share out among themselves.
    #[default]
    Pull,
    /// They are handed messages, whatever queue these are in.
    Pop,
}

/// What moves a group back to the first message of a lite topic. Either can be changed at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiteResets {
    /// In an exclusive group, another client takes it over, unless that says itself where it begins.
    #[serde(default)]
    pub exclusive: bool,
    /// A client says that it does not want it any more. (Not the end of its lease, nor a full set without it.)
    #[serde(default)]
    pub unsubscribe: bool,
}

impl LiteResets {
    /// Whether nothing does.
    pub fn is_never(&self) -> bool {
        *self == Self::default()
    }
}

/// What holds for a group whose consumers have sets of lite topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiteConsumers {
    /// Name of the lite topics' parent. Cannot be changed after creation.
    pub parent: String,
    /// Whether a lite topic is one client's at a time. Cannot be changed after creation.
    #[serde(default)]
    pub exclusive: bool,
    /// Whether all clients consume every lite topic. Cannot be changed after creation.
    #[serde(default)]
    pub wildcard: bool,
    /// Lite topics one client may subscribe to, 1 to [`limits::LITE_SUBSCRIPTIONS_MAX`]; `None`: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscriptions_max: Option<u32>,
    /// What moves it back.
    #[serde(default, skip_serializing_if = "LiteResets::is_never")]
    pub resets: LiteResets,
}

impl LiteConsumers {
    /// Lite topics one client may subscribe to.
    pub fn quota(&self) -> u32 {
        self.subscriptions_max.unwrap_or(limits::LITE_SUBSCRIPTIONS_DEFAULT)
    }
}

/// One consumer group in the catalog.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Its generation.
    pub id: GroupId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// Delivery order.
    #[serde(default)]
    pub order: DeliveryOrder,
    /// Consumption pattern.
    #[serde(default)]
    pub pattern: ConsumptionPattern,
    /// Where that is [`ConsumptionPattern::LiteSelective`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lite: Option<LiteConsumers>,
    /// Retries.
    #[serde(default)]
    pub retry: RetryPolicy,
    /// After the last attempt.
    #[serde(default)]
    pub dead_letters: DeadLetterPolicy,
    /// Where it begins.
    #[serde(default, skip_serializing_if = "StartFrom::is_earliest")]
    pub start: StartFrom,
    /// Topics whose messages are for it in [`RequestMode::Pop`], in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pop_topics: Vec<String>,
    /// When it was created, milliseconds since the Unix epoch.
    #[serde(default)]
    pub created_millis: i64,
    /// Whether a consumer's arrival created it rather than an administrator.
    #[serde(default)]
    pub auto_created: bool,
}

impl GroupConfig {
    /// How its clients get the messages of a topic, where they leave it to the broker.
    pub fn request_mode(&self, topic: &str) -> RequestMode {
        match self.pop_topics.binary_search_by(|known| known.as_str().cmp(topic)) {
            Ok(_) => RequestMode::Pop,
            Err(_) => RequestMode::Pull,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_follow_the_documented_list_and_its_last_entry_repeats() {
        let backoff = RetryBackoff::default();
        assert_eq!(
            [1, 2, 3, 16, 17, 400].map(|attempt| backoff.wait_millis(attempt)),
            [10_000, 30_000, 60_000, 7_200_000, 7_200_000, 7_200_000]
        );
        let exponential = RetryBackoff::Exponential { initial_millis: 5_000, max_millis: 7_200_000, multiplier: 2.0 };
        assert_eq!([1, 2, 3, 60].map(|attempt| exponential.wait_millis(attempt)), [5_000, 10_000, 20_000, 7_200_000]);
        assert_eq!(RetryBackoff::Customized(vec![]).wait_millis(3), 0);
    }
}
