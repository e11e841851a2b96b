//! Every reason for which a request is refused, as facts. Protocols translate them in one table each.

use martlet_model::names::NameError;
use martlet_model::{FilterError, MessageType, TopicType};

/// Why a request was not carried out. The text names field, value and limit; it has no advice and no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A topic or group name breaks a rule.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The filter expression cannot be compiled.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// There is no such topic.
    #[error("topic {topic} does not exist")]
    TopicNotFound {
        /// Its name.
        topic: String,
    },
    /// There is no such consumer group.
    #[error("consumer group {group} does not exist")]
    GroupNotFound {
        /// Its name.
        group: String,
    },
    /// There is no such user.
    #[error("user {user:?} does not exist")]
    UserNotFound {
        /// Its name, cut.
        user: String,
    },
    /// The user has no such policy.
    #[error("user {user:?} has no policy{}", about.as_ref().map_or(String::new(), |about| format!(" about {about}")))]
    PolicyNotFound {
        /// Its name, cut.
        user: String,
        /// The pattern that was named.
        about: Option<String>,
    },
    /// Users and policies cannot be changed while access control is off.
    #[error("access control is off: the setting accounts switches it on")]
    NoAccessControl,
    /// The topic may not be written to.
    #[error("topic {topic} has no writable queue")]
    NotWritable {
        /// Its name.
        topic: String,
    },
    /// The topic may not be read from.
    #[error("topic {topic} has no readable queue")]
    NotReadable {
        /// Its name.
        topic: String,
    },
    /// The topic does not take messages of this type.
    #[error("topic {topic} takes {} messages, message {index} is {found:?}", accepts.name())]
    MessageTypeConflict {
        /// Its name.
        topic: String,
        /// What it takes.
        accepts: TopicType,
        /// The message's type.
        found: MessageType,
        /// Place in the request, counted from 0.
        index: usize,
    },
    /// The handle is not one of this shard's, or signed by somebody else.
    #[error("{reason}")]
    HandleForged {
        /// What is wrong with it.
        reason: String,
    },
    /// The handle belongs to another group or topic than the request names.
    #[error("receipt handle was given out for another {what} than {named}")]
    HandleForeign {
        /// `consumer group` or `topic`.
        what: &'static str,
        /// What the request names.
        named: String,
    },
    /// The invisible duration has passed; the message is, or soon will be, delivered again.
    #[error("receipt handle has lapsed: its invisible duration ended {ago_millis} ms ago")]
    HandleLapsed {
        /// How long ago.
        ago_millis: i64,
    },
    /// The message was handed out again since, or the hand-out was lost in a crash.
    #[error("receipt handle is superseded by a newer delivery of the message")]
    HandleSuperseded,
    /// A recall handle or transaction id that is not one of this shard and topic.
    #[error("{reason}")]
    ProducerHandle {
        /// What is wrong with it.
        reason: String,
    },
    /// A transaction id that is not one of this shard and topic.
    #[error("{reason}")]
    TransactionId {
        /// What is wrong with it.
        reason: String,
    },
    /// The transaction ended before, the other way.
    #[error("transaction is not ended: {reason}")]
    TransactionOver {
        /// How it ended.
        reason: String,
    },
    /// Nothing is known of the transaction any more, or its message is not there.
    #[error("transaction cannot be ended: {reason}")]
    TransactionGone {
        /// What happened to it.
        reason: String,
    },
    /// The message is not taken back for another delivery.
    #[error("message is not taken back: {reason}")]
    NotSentBack {
        /// Why.
        reason: String,
    },
    /// The message to be recalled does not wait any more.
    #[error("message is not recalled: {reason}")]
    NotWaiting {
        /// What happened to it.
        reason: String,
    },
    /// Too many open slots, polls, clients or bytes; trying again later can help.
    #[error("{what} is at its limit of {limit}")]
    Busy {
        /// What is full.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// New messages are refused until there is room on the disk.
    #[error("disk is full: {free} bytes free, new messages are taken from {needed} bytes on")]
    DiskFull {
        /// Free bytes.
        free: u64,
        /// Needed bytes.
        needed: u64,
    },
    /// New messages are refused until what came before is durable: the bucket is slow or cannot be reached.
    #[error("the store is behind: a batch has waited for {waited_millis} ms to become durable; try again")]
    StoreBehind {
        /// How long it has waited.
        waited_millis: u64,
    },
    /// The deadline passed while the request was under way: it may or may not have been carried out.
    #[error("no durable answer within the deadline; the outcome is unknown")]
    OutcomeUnknown,
    /// The shard has stopped: its store failed.
    #[error("shard {shard} has stopped: {reason}")]
    ShardStopped {
        /// Its name.
        shard: String,
        /// Why.
        reason: String,
    },
    /// The broker is shutting down.
    #[error("the broker is shutting down")]
    ShuttingDown,
    /// A read from the log failed.
    #[error("reading the log failed: {reason}")]
    ReadFailed {
        /// The engine's words.
        reason: String,
    },
    /// The topic or group exists already, with other settings.
    #[error("{what} {name} exists already")]
    Exists {
        /// `topic` or `consumer group`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A setting of a topic or group is out of range or cannot be changed.
    #[error("{field} {value} {rule}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// The value.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// A queue has no such place.
    #[error("offset {offset} of queue {queue} is not from {min} to {max}")]
    OffsetOutOfRange {
        /// Number of the queue within its topic.
        queue: u32,
        /// What was asked for.
        offset: u64,
        /// First readable offset.
        min: u64,
        /// Next offset.
        max: u64,
    },
    /// The parent has as many lite topics as it may have.
    #[error("topic {topic} has {limit} lite topics, the limit")]
    LiteTopicsFull {
        /// The parent.
        topic: String,
        /// The limit.
        limit: u64,
    },
    /// The client would have too many lite subscriptions.
    #[error("the client would subscribe to {wanted} lite topics, the limit is {limit}")]
    LiteSubscriptionsFull {
        /// What it asked for.
        wanted: u64,
        /// The limit.
        limit: u64,
    },
    /// A group of ordinary topics and lite topics do not go together.
    #[error("consumer group {group} does not consume lite topics")]
    NotLite {
        /// The group.
        group: String,
    },
    /// A group of lite topics is bound to one parent.
    #[error("consumer group {group} consumes lite topics of {parent}, not of topic {topic}")]
    OtherLiteParent {
        /// The group.
        group: String,
        /// What the request names.
        topic: String,
        /// Its parent.
        parent: String,
    },
    /// There is no such lite topic, or not any more.
    #[error("lite topic {lite_topic} of topic {topic} does not exist")]
    LiteTopicNotFound {
        /// The parent.
        topic: String,
        /// The name.
        lite_topic: String,
    },
    /// A dead letter stays where it is.
    #[error("the dead letter was not resent: {reason}")]
    NotResent {
        /// Why.
        reason: String,
    },
    /// The catalog could not be changed.
    #[error("changing the catalog failed: {reason}")]
    Catalog {
        /// Why.
        reason: String,
    },
    /// Something later versions will do.
    #[error("{what} is not supported yet")]
    NotSupported {
        /// What.
        what: &'static str,
    },
}
