//! What protocols ask and what they are told, in the domain's own words.

use crate::members::MemberInfo;
use bytes::Bytes;
pub use martlet_cluster::{GroupSettings, TopicSettings};
use martlet_model::{Filter, GroupConfig, MessageType, QueueId, QueueOffset, TopicConfig, UnixMillis};
pub use martlet_shard::Waiting;
use std::sync::Arc;

/// A message on its way in. The protocol has checked the message's own limits and written the record.
#[derive(Clone, Debug)]
pub struct NewMessage {
    /// Its type, compared with the topic's.
    pub message_type: MessageType,
    /// The client's message id, for the index.
    pub message_id: String,
    /// Its keys, for the index.
    pub keys: Vec<String>,
    /// Not to be delivered before, at most [`crate::BrokerOptions::delay_max_millis`] ahead; also in the record.
    pub deliver_at: Option<UnixMillis>,
    /// Of a transactional message: how long after its sending nobody is asked about it; `None`: the broker's own time.
    pub immunity_millis: Option<i64>,
    /// Of a transactional message: its producers ask for it ([`crate::Broker::poll_halves`]), nobody is to ask them.
    pub polled: bool,
    /// The record, see `martlet_model::record`.
    pub record: Bytes,
}

/// Messages for one topic; all are stored in one batch or none is.
#[derive(Clone, Debug)]
pub struct SendRequest {
    /// Topic name, already checked by `names::check_topic`.
    pub topic: String,
    /// 1 to `limits::SEND_BATCH_MAX` messages.
    pub messages: Vec<NewMessage>,
    /// When the client stops waiting; `None` if it did not say.
    pub deadline: Option<std::time::Instant>,
}

/// Where a sent message is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentMessage {
    /// Number of the queue within the topic; 0 for a message that waits.
    pub queue: u32,
    /// Its place there, or among the messages that wait with it.
    pub offset: QueueOffset,
    /// Stops the message as long as it waits for its delivery timestamp.
    pub recall_handle: Option<String>,
    /// Ends the transaction of a half message.
    pub transaction_id: Option<String>,
    /// Of a message that waits: where, for protocols whose clients name places.
    pub waits_at: Option<(QueueId, QueueOffset)>,
}

/// A poll for messages.
#[derive(Clone, Debug)]
pub struct ReceiveRequest {
    /// The client that polls, and is a member of the group by that. Empty: whose clients are members by heartbeats, if at all;
    /// then nothing is renewed.
    pub client_id: Arc<str>,
    /// Consumer group name.
    pub group: String,
    /// Topic name.
    pub topic: String,
    /// Number of the queue within the topic; `None`: of all of them.
    pub queue: Option<u32>,
    /// Compiled filter.
    pub filter: Arc<Filter>,
    /// Most messages, 1 to 32.
    pub batch_size: u32,
    /// How long what is handed out stays invisible.
    pub invisible_millis: i64,
    /// Extend that while the client lives, for so long in all, by `limits::AUTO_RENEW_SLICE_MILLIS` at a time. `None`: not.
    pub renew_for_millis: Option<i64>,
    /// How long to wait for a message, in milliseconds; 0: not at all.
    pub poll_millis: i64,
    /// Most messages of one message group, where the group is ordered.
    pub message_group_max: u32,
    /// Repeating it re-enters the same hand-out of an ordered group.
    pub attempt_id: Option<String>,
}

/// One message handed out.
#[derive(Clone, Debug)]
pub struct DeliveredMessage {
    /// Name of the topic it came from.
    pub topic: Arc<str>,
    /// Number of the queue within the topic.
    pub queue: u32,
    /// Its place there.
    pub offset: QueueOffset,
    /// When it was stored.
    pub store_time: UnixMillis,
    /// Delivery attempt, counted from 1.
    pub attempt: u32,
    /// The receipt handle.
    pub handle: String,
    /// How long it stays invisible.
    pub invisible_millis: i64,
    /// The record.
    pub record: Bytes,
}

/// What a poll brought. Dropping it undelivered gives nothing back by itself: a protocol that could not hand the
/// messages to its client calls [`crate::Broker::undo`] with the handles.
#[derive(Debug, Default)]
pub struct Received {
    /// The messages; empty if none came within the poll.
    pub messages: Vec<DeliveredMessage>,
    /// Their share of the byte budget: to be kept until they have been written to the client.
    pub budget: crate::ReplyBudget,
}

/// What a connected client said of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientInfo {
    /// Its id, unique per client instance.
    pub client_id: Arc<str>,
    /// `JAVA`, `GO`, … as the client says.
    pub language: String,
    /// Its version.
    pub version: String,
    /// Address it comes from.
    pub remote: String,
    /// What it does.
    pub role: ClientRole,
}

/// What a client does.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientRole {
    /// Sends to these topics.
    Producer {
        /// Topic names it announced or sent to.
        topics: Vec<String>,
    },
    /// Receives as a member of a group.
    Consumer {
        /// Group name.
        group: String,
        /// Hands messages to a listener rather than to calls.
        push: bool,
        /// Topic name and filter expression.
        subscriptions: Vec<(String, Filter)>,
    },
}

/// One queue's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatus {
    /// Number of the queue within the topic.
    pub queue: u32,
    /// First readable offset.
    pub min_offset: QueueOffset,
    /// Offset the next message will take.
    pub max_offset: QueueOffset,
    /// Store time of the newest message, if known.
    pub last_store_time: Option<UnixMillis>,
}

/// A topic and how full it is.
#[derive(Clone, Debug)]
pub struct TopicStatus {
    /// The catalog's entry.
    pub config: TopicConfig,
    /// Its queues.
    pub queues: Vec<QueueStatus>,
    /// Messages that wait for something other than a consumer, as of at most a second ago.
    pub waiting: Waiting,
    /// Of a parent: its lite topics, as of then.
    pub lite_topics: u64,
}

/// A group's progress in one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgressStatus {
    /// Topic name (a `%DLQ%` topic is not listed here).
    pub topic: String,
    /// Number of the queue within the topic.
    pub queue: u32,
    /// Everything below is settled.
    pub committed: QueueOffset,
    /// Offset the next message will take.
    pub max_offset: QueueOffset,
    /// Handed out and not settled.
    pub in_flight: u64,
    /// Waiting for their next delivery.
    pub waiting_retry: u64,
    /// Never handed out.
    pub ready: u64,
    /// Milliseconds since the oldest message that is not settled was stored; 0 if all are.
    pub lag_millis: i64,
    /// Milliseconds since the oldest message that was never handed out was stored; 0 if there is none.
    pub queueing_millis: i64,
}

impl ProgressStatus {
    /// Messages not yet settled: accumulation = ready + in flight + waiting for retry.
    pub fn accumulation(&self) -> u64 {
        self.ready + self.in_flight + self.waiting_retry
    }
}

/// A live subscription of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionStatus {
    /// Topic name.
    pub topic: String,
    /// What passes.
    pub filter: Arc<Filter>,
    /// The last sign of life of a member with it, after a restart the restart at the earliest.
    pub seen: UnixMillis,
}

/// A group, how far it is, and who is connected.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The catalog's entry.
    pub config: GroupConfig,
    /// Its progress, per topic and queue it has ever received from.
    pub progress: Vec<ProgressStatus>,
    /// Messages in its dead-letter queue.
    pub dead_letters: u64,
    /// Its live members, of both kinds, in the order of their client ids.
    pub members: Vec<MemberInfo>,
    /// Its live subscriptions: what messages are kept for.
    pub subscriptions: Vec<SubscriptionStatus>,
    /// What its consumers differ in.
    pub disagreement: Option<crate::Disagreement>,
}
