//! What the catalog knows about a topic.

use crate::ids::TopicId;
use serde::{Deserialize, Serialize};

/// The type of a message: what makes its delivery special. Wire numbers are those of gRPC v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageType {
    /// Nothing special.
    Normal = 1,
    /// Ordered within its message group.
    Fifo = 2,
    /// Not delivered before its delivery timestamp.
    Delay = 3,
    /// Delivered only after its transaction commits.
    Transaction = 4,
    /// In a lite topic.
    Lite = 5,
    /// Delivered in order of priority.
    Priority = 6,
}

/// What a topic accepts (`message.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TopicType {
    /// Normal messages.
    #[default]
    Normal,
    /// Messages with a message group.
    Fifo,
    /// Messages with a delivery timestamp.
    Delay,
    /// Transactional messages.
    Transaction,
    /// Messages for lite topics.
    Lite,
    /// Messages with a priority.
    Priority,
    /// Normal, ordered, delayed and transactional messages together.
    Mixed,
}

impl TopicType {
    /// All types, in the order the documentation lists them.
    pub const ALL: [Self; 7] =
        [Self::Normal, Self::Fifo, Self::Delay, Self::Transaction, Self::Lite, Self::Priority, Self::Mixed];

    /// The message types the topic takes.
    pub fn accepts(self) -> &'static [MessageType] {
        match self {
            Self::Normal => &[MessageType::Normal],
            Self::Fifo => &[MessageType::Fifo],
            Self::Delay => &[MessageType::Delay],
            Self::Transaction => &[MessageType::Transaction],
            Self::Lite => &[MessageType::Lite],
            Self::Priority => &[MessageType::Priority],
            Self::Mixed => &[MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction],
        }
    }

    /// Its word in the command line and the catalog.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Fifo => "fifo",
            Self::Delay => "delay",
            Self::Transaction => "transaction",
            Self::Lite => "lite",
            Self::Priority => "priority",
            Self::Mixed => "mixed",
        }
    }
}

/// What clients may do with a topic's queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permission {
    /// Send and receive (6).
    #[default]
    ReadWrite,
    /// Receive only (4).
    Read,
    /// Send only (2).
    Write,
    /// Neither (0).
    None,
}

impl Permission {
    /// Whether messages may be received.
    pub fn readable(self) -> bool {
        matches!(self, Self::ReadWrite | Self::Read)
    }

    /// Whether messages may be sent.
    pub fn writable(self) -> bool {
        matches!(self, Self::ReadWrite | Self::Write)
    }
}

/// What holds for the lite topics of a parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LiteTopics {
    /// Minutes without a message after which one ends; `None`: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_minutes: Option<u32>,
    /// Whether that takes along messages that a group has not consumed.
    pub expire_unconsumed: bool,
    /// Most of them; `None`: [`crate::limits::LITE_TOPICS_DEFAULT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

impl LiteTopics {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// One topic in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// Its generation.
    pub id: TopicId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// What it accepts.
    #[serde(default, rename = "type")]
    pub kind: TopicType,
    /// Queues of each shard that messages are received from, 1 to 1024.
    pub read_queues: u32,
    /// Queues of each shard that messages are sent to, 1 to 1024. Fewer than `read_queues` while a topic shrinks.
    pub write_queues: u32,
    /// What clients may do.
    #[serde(default)]
    pub permission: Permission,
    /// How long messages are kept, in milliseconds; `None` for the broker's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_millis: Option<i64>,
    /// Of a parent of lite topics.
    #[serde(default, skip_serializing_if = "LiteTopics::is_default")]
    pub lite: LiteTopics,
    /// For how long a message id that was sent before is recognised, in milliseconds; `None`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deduplicate_millis: Option<i64>,
    /// When it was created, milliseconds since the Unix epoch.
    #[serde(default)]
    pub created_millis: i64,
    /// Whether a send created it rather than an administrator.
    #[serde(default)]
    pub auto_created: bool,
}
