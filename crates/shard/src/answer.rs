//! What a shard answers, and the figures it counts.

#[cfg(doc)]
use crate::command::Command;
use crate::command::{HalfPlace, TimerAt};
use martlet_model::handle::{DeliveryNumber, ReceiptHandle};
use martlet_model::{Filter, GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A producer of this topic is to be asked how a transaction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionCheck {
    /// The topic.
    pub topic: TopicId,
    /// Its half message.
    pub place: HalfPlace,
    /// When that was sent.
    pub began: UnixMillis,
    /// When the next check is due; tells this check from others.
    pub due: UnixMillis,
    /// This one's number, from 1.
    pub number: u32,
    /// Nobody is to be sent it: it is for whoever asks next, by [`Command::TakeHalf`].
    pub polled: bool,
}

/// A half message in the hands of a producer that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HalfTaken {
    /// Until then it is offered to nobody else, and it can be ended by [`Command::EndTaken`] with this time.
    pub until: UnixMillis,
    /// How often it was taken, this time included.
    pub number: u32,
}

/// What a pull came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    /// There is something to read.
    Found,
    /// Nothing came.
    NothingNew,
    /// There is nothing for the member up to the place where it is to go on.
    NoMatch,
    /// The place is not the queue's, or the group was moved: the member is to go on somewhere else.
    Moved,
}

/// What a queue-based member is to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The queue.
    pub queue: QueueId,
    /// What the pull came to.
    pub status: PullStatus,
    /// Where to go on.
    pub next: QueueOffset,
    /// First readable offset.
    pub min: QueueOffset,
    /// Next offset, as far as messages may be read.
    pub max: QueueOffset,
    /// What to read, in order.
    pub places: Vec<std::ops::Range<QueueOffset>>,
}

/// A client's lite subscription has ended without its doing: it is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteNotice {
    /// The client.
    pub client_id: Arc<str>,
    /// Its group.
    pub group: GroupId,
    /// Name of the lite topic.
    pub lite_topic: Arc<str>,
}

/// Why a message was not resent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResendError {
    /// Retention has taken it, or it never was.
    #[error("there is no such message any more")]
    NotThere,
    /// It is back in its topic already.
    #[error("it was resent before")]
    AlreadyResent,
    /// Somebody else is just resending it.
    #[error("it is being resent already")]
    UnderWay,
    /// It did not become a dead letter.
    #[error("it is not a dead letter")]
    NoDeadLetter,
    /// The topic it came from does not exist any more.
    #[error("topic {topic}, where it came from, does not exist any more")]
    TopicGone {
        /// The name.
        topic: Arc<str>,
    },
}

/// One message handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandOut {
    /// The topic.
    pub topic: TopicId,
    /// The queue.
    pub queue: QueueId,
    /// The queue's number within the topic.
    pub queue_index: u32,
    /// The place.
    pub offset: QueueOffset,
    /// Delivery attempt, from 1.
    pub attempt: u32,
    /// Number of this delivery, for the handle.
    pub delivery: DeliveryNumber,
    /// When it lapses.
    pub until: UnixMillis,
    /// About how many bytes its record has, judged by those stored in its queue lately; 0 if that is not known.
    pub bytes_hint: usize,
}

/// Why a handle does not settle its message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The invisible duration has passed.
    #[error("the invisible duration ended {ago_millis} ms ago")]
    Lapsed {
        /// How long ago.
        ago_millis: i64,
    },
    /// Handed out again since, or the hand-out was lost in a crash.
    #[error("superseded by a newer delivery")]
    Superseded,
    /// The group or queue is gone.
    #[error("the topic or consumer group was deleted")]
    Gone,
}

/// Why a message is not stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecallError {
    /// Its time has passed: it went to its topic, or was recalled before.
    #[error("it was due {ago_millis} ms ago and does not wait any more")]
    Fired {
        /// How long ago.
        ago_millis: i64,
    },
    /// Its time is still to come, and it does not wait: recalled before.
    #[error("it was recalled before")]
    Recalled,
}

/// Why a transaction does not end as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// It has been due since it was sent or taken: it is for somebody else to end.
    #[error("the time in which this handle ends it is over")]
    Lapsed,
    /// It ended before, the other way.
    #[error("it was {} before", if *committed { "committed" } else { "rolled back" })]
    Ended {
        /// Which way.
        committed: bool,
    },
    /// Nothing is known of it.
    #[error("it does not wait any more: it ended, or was dropped, longer ago than the topic keeps messages")]
    Unknown,
    /// The message was dropped from the log by repair.
    #[error("its message is not in the log any more")]
    Lost,
}

/// Where a message came to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// In its topic: queue number within the topic, and place.
    Now(u32, QueueOffset),
    /// In a bucket, until it is due.
    Later(TimerAt),
}

/// How many messages of a topic wait for something other than a consumer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// For their delivery timestamp.
    pub delayed: u64,
    /// For the end of their transaction.
    pub halves: u64,
    /// Of these, those that producers are not asked about any more.
    pub given_up: u64,
}

/// Why a command was refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The shard does not know this topic (deleted meanwhile).
    #[error("topic is not known to the shard")]
    TopicGone,
    /// The shard does not know this group (deleted meanwhile).
    #[error("consumer group is not known to the shard")]
    GroupGone,
    /// The topic has no queue to send to.
    #[error("topic has no writable queue")]
    NotWritable,
    /// No room for messages.
    #[error("disk is full: {free} bytes free, {needed} needed")]
    DiskFull {
        /// Free bytes.
        free: u64,
        /// Needed bytes.
        needed: u64,
    },
    /// What came before is not durable yet, and that for long.
    #[error("the store is behind: the oldest batch has waited for {waited_millis} ms")]
    StoreBehind {
        /// How long the oldest batch has waited.
        waited_millis: u64,
    },
    /// The deadline had passed before anything was done.
    #[error("the deadline passed before the shard got to it")]
    DeadlinePassed,
    /// Too many polls are waiting.
    #[error("{limit} polls are waiting already")]
    PollsFull {
        /// The limit.
        limit: usize,
    },
    /// The group has too many different filters on the topic.
    #[error("the consumer group has {limit} different filters on the topic already")]
    FiltersFull {
        /// The limit.
        limit: usize,
    },
    /// The store could not be read.
    #[error("reading failed: {0}")]
    ReadFailed(String),
    /// A message for a parent of lite topics does not say which.
    #[error("a message names no lite topic")]
    NoLiteTopic,
    /// The parent has too many lite topics.
    #[error("the topic has {limit} lite topics already")]
    LiteTopicsFull {
        /// The limit.
        limit: u64,
    },
    /// The client would have too many lite subscriptions.
    #[error("the client would have {wanted} lite subscriptions, the limit is {limit}")]
    LiteSubscriptionsFull {
        /// What it asked for.
        wanted: u64,
        /// The limit.
        limit: u64,
    },
    /// A client of a group that consumes every lite topic names some.
    #[error("the consumer group consumes every lite topic")]
    LiteWildcard,
    /// The group does not consume lite topics of this parent.
    #[error("the consumer group does not consume lite topics of this topic")]
    NotLite,
    /// Messages of an ordered group are not sent back: others would overtake them.
    #[error("the consumer group is ordered and takes no message back")]
    InOrder,
    /// Too many messages of a queue are open.
    #[error("the consumer group has {limit} open messages in the queue already")]
    OpenSlotsFull {
        /// The limit.
        limit: u64,
    },
    /// A queue has no such place.
    #[error("offset {} of queue {index} is not from {} to {}", offset.0, min.0, max.0)]
    OffsetOutOfRange {
        /// Number of the queue within its topic.
        index: u32,
        /// What was asked for.
        offset: QueueOffset,
        /// First readable offset.
        min: QueueOffset,
        /// Next offset.
        max: QueueOffset,
    },
}

impl From<martlet_store::Shortage> for Refused {
    fn from(shortage: martlet_store::Shortage) -> Self {
        match shortage {
            martlet_store::Shortage::DiskFull { free, needed } => Self::DiskFull { free, needed },
            martlet_store::Shortage::Behind { waited_millis } => Self::StoreBehind { waited_millis },
        }
    }
}

/// One queue's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFigures {
    /// The queue.
    pub queue: QueueId,
    /// The queue's number within the topic.
    pub index: u32,
    /// First readable offset.
    pub min: QueueOffset,
    /// Next offset.
    pub max: QueueOffset,
    /// Store time of the newest message.
    pub last_store_time: Option<UnixMillis>,
}

/// A group's progress in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressFigures {
    /// The topic.
    pub topic: TopicId,
    /// The queue's number within the topic.
    pub index: u32,
    /// The queue.
    pub queue: QueueId,
    /// Everything below is settled.
    pub committed: QueueOffset,
    /// Next offset of the queue.
    pub max: QueueOffset,
    /// The oldest message that was never handed out; `max` if there is none.
    pub oldest_ready: QueueOffset,
    /// Handed out, not settled, not lapsed.
    pub in_flight: u64,
    /// Visible again or waiting to be.
    pub waiting_retry: u64,
    /// Never handed out; of an ordered group, parked ones too.
    pub ready: u64,
}

impl ProgressFigures {
    /// In place of a queue: all lite topics of a group together, of which no place can be said.
    pub(crate) const LITE_TOPICS: QueueId = QueueId(u64::MAX);

    /// Whether this is a group's progress in all its lite topics together.
    pub fn is_of_lite_topics(&self) -> bool {
        self.queue == Self::LITE_TOPICS
    }
}

/// A live subscription of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionFigures {
    /// The topic.
    pub topic: TopicId,
    /// What passes.
    pub filter: Arc<Filter>,
    /// The last sign of life of a member with it; after an opening, the opening.
    pub seen: UnixMillis,
}

/// What a shard says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Stored: queue number within the topic, and place of each message.
    Sent(Vec<(u32, QueueOffset)>),
    /// Stored: where each message is.
    Scheduled(Vec<Placed>),
    /// Stopped: the message's id, empty if it has none.
    Recalled(Result<String, RecallError>),
    /// Stored apart: where, and when.
    Half(HalfPlace, UnixMillis),
    /// Taken; `None`: it has ended, or was due again since.
    HalfTaken(Option<HalfTaken>),
    /// The transaction has ended as asked, now or before.
    Ended(Result<(), EndError>),
    /// Handed out; empty when the poll ended without a message.
    Delivered(Vec<HandOut>),
    /// One answer per handle.
    Acked(Vec<Result<(), SettleError>>),
    /// The new handle.
    Changed(Result<ReceiptHandle, SettleError>),
    /// Moved or discarded; or taken back.
    Settled(Result<(), SettleError>),
    /// Carried out.
    Done,
    /// The topic's queues, by number.
    Queues(Vec<QueueFigures>),
    /// The group's progress, and the number of its dead letters.
    Progress(Vec<ProgressFigures>, u64),
    /// The group's live subscriptions.
    Subscriptions(Vec<SubscriptionFigures>),
    /// Groups and ids of clients that subscribe to a lite topic.
    LiteSubscribers(Vec<(GroupId, Arc<str>)>),
    /// A queue, and places in it, in order.
    Offsets(QueueId, Vec<QueueOffset>),
    /// Back in this topic, in this queue by number, at this place.
    Resent(Result<(TopicId, u32, QueueOffset), ResendError>),
    /// Per queue by number: where the group's committed offset was, and where it is.
    Reset(Vec<(u32, QueueOffset, QueueOffset)>),
    /// Of lite topics by their queues: where the group's committed offset was, and where it is. Without those that have ended
    /// or stayed.
    LiteReset(Vec<(QueueId, QueueOffset, QueueOffset)>),
    /// The queue, and how far it may be read; not past the awaited place if the time was over before.
    Reached {
        /// The queue.
        queue: QueueId,
        /// First readable offset.
        min: QueueOffset,
        /// Messages below it may be read.
        max: QueueOffset,
    },
    /// The topic of a queue, and the queue's number within it.
    PlaceOf(Option<(TopicId, u32)>),
    /// What to read.
    Pulled(Pulled),
    /// Whether the commit counted.
    Committed(bool),
    /// Where the group is in the queue, and the queue's bounds.
    StoredOffset {
        /// Where queue-based members go on; `None`: the group has not been there.
        stored: Option<QueueOffset>,
        /// First readable offset.
        min: QueueOffset,
        /// Next offset, as far as messages may be read.
        max: QueueOffset,
    },
    /// Locked queues: topics, and numbers within them.
    Locked(Vec<(TopicId, u32)>),
    /// Not carried out.
    Refused(Refused),
}

/// Bounds of [`Counters::lateness`], in milliseconds.
pub const LATENESS_MILLIS: [i64; 7] = [1, 10, 100, 1_000, 10_000, 60_000, 3_600_000];

/// What happened since the shard was opened; only ever grows. For metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages stored.
    pub messages_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Sends of a message id that was known, and so not stored.
    pub deduplicated: u64,
    /// Message ids forgotten before their topic's window was over, for there were too many.
    pub ids_forgotten: u64,
    /// Messages handed out, retries included.
    pub messages_out: u64,
    /// Of these, with an attempt above 1.
    pub retries_out: u64,
    /// Messages settled by ack.
    pub acked: u64,
    /// Hand-outs undone.
    pub undone: u64,
    /// Messages moved to dead letters.
    pub dead_letters: u64,
    /// The same by group and topic they came from, as far as these exist.
    pub dead_letters_of: BTreeMap<(GroupId, TopicId), u64>,
    /// Messages discarded after their last attempt.
    pub discarded: u64,
    /// Messages that a group had not settled when retention or a full disk dropped them.
    pub dropped_unconsumed: u64,
    /// Messages skipped because no live filter of the group matched.
    pub filtered: u64,
    /// Times a group and queue stood at the limit of open slots when a poll came.
    pub open_slots_full: u64,
    /// Messages that began to wait for their delivery timestamp.
    pub timers_in: u64,
    /// Of these, those that went to their topic.
    pub timers_out: u64,
    /// Of these, those that were recalled.
    pub recalled: u64,
    /// Of these, those whose topic was deleted or that were dropped from the log by repair.
    pub timers_dropped: u64,
    /// Lite topics made.
    pub lite_made: u64,
    /// Of these, those that ended after their time to live.
    pub lite_ended: u64,
    /// How late messages went to their topics: up to each of [`LATENESS_MILLIS`], and later than that.
    pub lateness: [u64; LATENESS_MILLIS.len() + 1],
    /// Sum of that, in milliseconds.
    pub lateness_sum: u64,
    /// Half messages stored.
    pub halves_in: u64,
    /// Of these, those that were committed.
    pub committed: u64,
    /// Of these, those that were rolled back.
    pub rolled_back: u64,
    /// Of these, those that were given up after their last check; they may be committed or rolled back later.
    pub given_up: u64,
    /// Of these, those that retention dropped, whose topic was deleted or that were dropped from the log by repair.
    pub halves_dropped: u64,
    /// Checks that producers were sent.
    pub transaction_checks: u64,
}
