//! What a shard is asked and what it answers.

use crate::load::{LoadId, Loaded};
use bytes::Bytes;
use martlet_model::handle::{DeliveryNumber, ReceiptHandle};
use martlet_model::{Filter, GroupId, QueueId, QueueOffset, RetryBackoff, TopicId, UnixMillis};
use martlet_store::Term;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A poll, numbered by the caller; unique within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PollId(pub u64);

/// A connected client, numbered by the caller; unique within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientNumber(pub u64);

/// What the shard needs to know of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFacts {
    /// The topic.
    pub id: TopicId,
    /// Its name, written into dead letters.
    pub name: Arc<str>,
    /// Queues that messages are received from; at least `write_queues`.
    pub read_queues: u32,
    /// Queues that messages are sent to.
    pub write_queues: u32,
    /// How long messages are kept; `None` for the shard's default.
    pub retention_millis: Option<i64>,
    /// Whether messages are delivered by priority: the queues are levels, and a message of priority `p` goes
    /// to queue `min(p, write_queues - 1)`. Never changes.
    pub by_priority: bool,
    /// Its messages go to lite topics. Never comes or goes.
    pub lite: Option<LiteParent>,
    /// For how long a message id that was sent before is recognised, and the message not stored again; `None`: not at all.
    pub deduplicate_millis: Option<i64>,
}

/// What the shard needs to know of a parent of lite topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiteParent {
    /// A lite topic ends so long after its last message, in milliseconds; `None`: never.
    pub expire_millis: Option<i64>,
    /// Whether that takes messages along that a group has not consumed.
    pub expire_unconsumed: bool,
    /// Most lite topics.
    pub topics_max: u64,
}

/// What the shard needs to know of a group of consumers of lite topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiteGroup {
    /// The parent of its lite topics.
    pub parent: TopicId,
    /// Whether a lite topic is one client's at a time.
    pub exclusive: bool,
    /// Lite topics one client may subscribe to.
    pub subscriptions_max: u32,
    /// Whether all clients consume every lite topic, and none has a set of its own.
    pub wildcard: bool,
}

/// Where a group's messages go after their last attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetters {
    /// Into this topic; into `%DLQ%group` if the shard does not know it.
    Topic(TopicId),
    /// Nowhere: they count as consumed.
    Discard,
}

/// What the shard needs to know of a consumer group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupFacts {
    /// The group.
    pub id: GroupId,
    /// Its name, for the name of its dead-letter topic.
    pub name: Arc<str>,
    /// Deliveries in all, at least 1.
    pub max_attempts: u32,
    /// Waits between them, where the shard decides (a client that vanished keeps its own waits).
    pub backoff: RetryBackoff,
    /// After the last attempt.
    pub dead_letters: DeadLetters,
    /// Whether messages of one message group are handed out in order. Never changes.
    pub ordered: bool,
    /// Its clients consume lite topics, each its own. Never changes but for the limits.
    pub lite: Option<LiteGroup>,
    /// In a queue it has not received from yet, it begins at the first message stored at this time or later; `None`: at
    /// the first there is.
    pub since: Option<UnixMillis>,
}

/// A message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// The record.
    pub record: Bytes,
    /// What it can be found by.
    pub terms: Vec<Term>,
    /// [`crate::message_group`] of its message group, if it has one: all of one group go to one queue.
    pub message_group: Option<u64>,
    /// Name of its lite topic; where the topic has such, every message has one.
    pub lite_topic: Option<Arc<str>>,
}

/// One thing that happens by itself: when, and the place of the message it is about in its bucket, a hidden queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerAt {
    /// When.
    pub due: UnixMillis,
    /// The bucket.
    pub queue: QueueId,
    /// The place in it.
    pub offset: QueueOffset,
}

/// Where a half message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HalfPlace {
    /// Its bucket, a hidden queue.
    pub queue: QueueId,
    /// The place there.
    pub offset: QueueOffset,
}

/// A half message whose transaction has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// Where it goes when it is committed.
    pub topic: TopicId,
    /// When it was sent.
    pub began: UnixMillis,
    /// When a producer is asked next; of one that was given up, when retention drops it.
    pub due: UnixMillis,
    /// How long after the sending nobody was to be asked.
    pub immunity_millis: i64,
    /// Checks that producers were sent.
    pub checks: u32,
    /// Nobody is asked any more.
    pub given_up: bool,
    /// Its producers ask for it ([`Command::TakeHalf`]) instead of being asked.
    pub polled: bool,
    /// The client's message id.
    pub message_id: String,
}

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

/// A message that is not to be delivered before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// The message.
    pub message: Incoming,
    /// Its delivery timestamp; what is not in the future is stored like any other message.
    pub due: UnixMillis,
}

/// A poll for messages.
#[derive(Clone, Debug)]
pub struct ReceiveCommand {
    /// Names the poll for [`Command::CancelPoll`].
    pub poll: PollId,
    /// Who polls.
    pub client: ClientNumber,
    /// For which group.
    pub group: GroupId,
    /// From which topic.
    pub topic: TopicId,
    /// Number of the queue within the topic; `None`: of all of them. Has no meaning for lite topics.
    pub queue: Option<u32>,
    /// What passes.
    pub filter: Arc<Filter>,
    /// Most messages.
    pub batch_size: u32,
    /// How long they stay invisible.
    pub invisible_millis: i64,
    /// Renew that while the client lives, for so long in all, by `limits::AUTO_RENEW_SLICE_MILLIS` at a time. `None`: not.
    pub renew_for_millis: Option<i64>,
    /// Only what was delivered before is wanted.
    pub retries_only: bool,
    /// When to answer with nothing.
    pub until: UnixMillis,
    /// Most messages of one message group, where the group is ordered; at least 1.
    pub message_group_max: u32,
    /// In an ordered group, repeating it brings what it brought before and is still in flight.
    pub attempt_id: Option<Arc<str>>,
    /// Id of the client, which its lite subscriptions go by; only where the group has such.
    pub client_id: Option<Arc<str>>,
}

/// A queue-based member pulls.
#[derive(Clone, Debug)]
pub struct PullCommand {
    /// Names the pull for [`Command::CancelPoll`].
    pub poll: PollId,
    /// The member's client id.
    pub client: Arc<str>,
    /// Its group.
    pub group: GroupId,
    /// The topic.
    pub topic: TopicId,
    /// Number of the queue within it.
    pub index: u32,
    /// The first place of interest.
    pub from: QueueOffset,
    /// Most places; at least 1, cut down to 1,024.
    pub most: u32,
    /// When to answer with nothing.
    pub until: UnixMillis,
}

/// When a message that is sent back is due again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendBackDelay {
    /// As the group's policy says.
    Policy,
    /// After so many milliseconds.
    Millis(i64),
    /// Never: it becomes a dead letter at once.
    DeadLetter,
}

/// A queue-based member has failed on a message.
#[derive(Clone, Copy, Debug)]
pub struct SendBackCommand {
    /// Its group.
    pub group: GroupId,
    /// The queue it was pulled from: a topic's, or the group's retry queue.
    pub queue: QueueId,
    /// The place there.
    pub offset: QueueOffset,
    /// When it is due again.
    pub delay: SendBackDelay,
    /// Deliveries in all, if the member allows fewer than the group.
    pub attempts_max: Option<u32>,
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

/// What a client says of its lite subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteAction {
    /// These too, from a place on. Where lite topics are one client's at a time, it takes them over.
    Add(LiteStart),
    /// These not any more.
    Remove,
    /// These and no others. Takes nothing from another client.
    Set,
    /// None any more.
    Clear,
}

/// Where a group begins in a lite topic that a client subscribes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteStart {
    /// Where it is; at the first message there is, if it is new there.
    Last,
    /// At the first message there is.
    Min,
    /// Behind the last one.
    Max,
    /// At this place, or the nearest there is.
    Offset(QueueOffset),
    /// At the last so many messages.
    Tail(u64),
    /// At the first message stored at this time or later.
    Time(UnixMillis),
}

/// A client brings its lite subscriptions up to date.
#[derive(Clone, Debug)]
pub struct LiteSync {
    /// Who.
    pub client: ClientNumber,
    /// Its id, which the subscriptions go by; at most 256 bytes.
    pub client_id: Arc<str>,
    /// For which group.
    pub group: GroupId,
    /// Parent of the lite topics.
    pub topic: TopicId,
    /// What is to happen.
    pub action: LiteAction,
    /// Names of lite topics.
    pub names: Vec<Arc<str>>,
    /// What comes with an older version than was seen before changes nothing.
    pub version: Option<i64>,
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

/// One input. `T` is what the caller recognises its reply by.
#[derive(Debug)]
pub enum Command<T> {
    /// Creates or changes a topic.
    ApplyTopic {
        /// What it shall be.
        topic: TopicFacts,
        /// For [`Output::Done`].
        token: T,
    },
    /// Deletes a topic with all its messages.
    DropTopic {
        /// Which.
        topic: TopicId,
        /// For [`Output::Done`].
        token: T,
    },
    /// Creates or changes a group.
    ApplyGroup {
        /// What it shall be.
        group: GroupFacts,
        /// For [`Output::Done`].
        token: T,
    },
    /// Deletes a group, its progress and its dead letters.
    DropGroup {
        /// Which.
        group: GroupId,
        /// For [`Output::Done`].
        token: T,
    },
    /// Drops every topic and group that is not among these: what the catalog deleted while this shard was not looking.
    KeepOnly {
        /// Topics that exist.
        topics: BTreeSet<TopicId>,
        /// Groups that exist.
        groups: BTreeSet<GroupId>,
        /// For [`Output::Done`].
        token: T,
    },
    /// Stores messages in one batch: those without a message group in one queue, the others in the queue of their group.
    Send {
        /// Where.
        topic: TopicId,
        /// At least one.
        messages: Vec<Incoming>,
        /// Refused if the turn starts after this.
        deadline: Option<UnixMillis>,
        /// For [`Output::Sent`].
        token: T,
    },
    /// Keeps messages until they are due, all in one batch; answered by [`Output::Scheduled`].
    Schedule {
        /// Where they go then.
        topic: TopicId,
        /// At least one.
        messages: Vec<Scheduled>,
        /// Refused if the turn starts after this.
        deadline: Option<UnixMillis>,
        /// For the reply.
        token: T,
    },
    /// Stops a waiting message; answered by [`Output::Recalled`].
    Recall {
        /// Where it would go.
        topic: TopicId,
        /// When, and where it waits.
        at: TimerAt,
        /// For the reply.
        token: T,
    },
    /// Stores a half message: seen by nobody until its transaction is committed. Answered by [`Output::Half`].
    SendHalf {
        /// Where it goes then.
        topic: TopicId,
        /// The record.
        record: Bytes,
        /// How long nobody is asked about it; `None`: the shard's own time.
        immunity_millis: Option<i64>,
        /// Its producers ask for it instead of being asked: see [`TransactionCheck::polled`].
        polled: bool,
        /// Refused if the turn starts after this.
        deadline: Option<UnixMillis>,
        /// For the reply.
        token: T,
    },
    /// Ends a transaction; answered by [`Output::Ended`].
    EndTransaction {
        /// The topic of its message.
        topic: TopicId,
        /// Its half message.
        place: HalfPlace,
        /// Commit, or else roll back.
        commit: bool,
        /// For the reply.
        token: T,
    },
    /// A producer was sent this check: it counts. No reply.
    Checked {
        /// Which.
        check: TransactionCheck,
    },
    /// A producer takes the half message of a check that nobody was sent; answered by [`Output::HalfTaken`].
    TakeHalf {
        /// Which.
        check: TransactionCheck,
        /// How long it is this producer's, in milliseconds; then it is due again.
        lease_millis: i64,
        /// For the reply.
        token: T,
    },
    /// Ends a transaction as [`Command::EndTransaction`] does, unless the half message has been due since; answered by
    /// [`Output::Ended`].
    EndTaken {
        /// The topic of its message.
        topic: TopicId,
        /// Its half message.
        place: HalfPlace,
        /// [`HalfTaken::until`], or when it was first due.
        until: UnixMillis,
        /// Commit, or else roll back.
        commit: bool,
        /// For the reply.
        token: T,
    },
    /// Polls; answered by [`Output::Delivered`].
    Receive {
        /// The poll.
        receive: ReceiveCommand,
        /// For the reply.
        token: T,
    },
    /// Nobody waits for this poll any more. It gets no reply.
    CancelPoll {
        /// Which.
        poll: PollId,
    },
    /// These hand-outs reached nobody: slot and attempt as before. Those that are not live any more are left alone.
    Undo {
        /// Which.
        handles: Vec<ReceiptHandle>,
    },
    /// These messages were handed out and are not in the log any more (a frame was dropped by repair): settled, counted as
    /// dropped.
    Lost {
        /// Which.
        handles: Vec<ReceiptHandle>,
    },
    /// Settles messages; answered by [`Output::Acked`] in the same order.
    Ack {
        /// Decoded handles.
        handles: Vec<ReceiptHandle>,
        /// For the reply.
        token: T,
    },
    /// The same, of hand-outs that are named by their places and marks.
    AckMarked {
        /// Who was handed them.
        group: GroupId,
        /// The topic of all of them.
        topic: TopicId,
        /// Which.
        places: Vec<MarkedPlace>,
        /// For the reply.
        token: T,
    },
    /// [`Command::ChangeInvisible`] of a hand-out that is named by its place and mark.
    ChangeMarked {
        /// Who was handed it.
        group: GroupId,
        /// Its topic.
        topic: TopicId,
        /// Which.
        place: MarkedPlace,
        /// From now on; 0 for at once.
        invisible_millis: i64,
        /// For the reply.
        token: T,
    },
    /// Makes a message visible after this time; answered by [`Output::Changed`].
    ChangeInvisible {
        /// Decoded handle.
        handle: ReceiptHandle,
        /// From now on; 0 for at once.
        invisible_millis: i64,
        /// Of a lite topic: the group gets nothing of it meanwhile, and the attempts under way do not count.
        suspend: bool,
        /// For the reply.
        token: T,
    },
    /// Moves a message to the dead letters (or discards it); answered by [`Output::Settled`].
    DeadLetter {
        /// Decoded handle.
        handle: ReceiptHandle,
        /// For the reply.
        token: T,
    },
    /// Brings a client's lite subscriptions up to date, and keeps them; answered by [`Output::Done`].
    SyncLite {
        /// What it says.
        sync: LiteSync,
        /// For the reply.
        token: T,
    },
    /// Who subscribes to a lite topic; answered by [`Output::LiteSubscribers`].
    DescribeLite {
        /// Parent of the lite topic.
        topic: TopicId,
        /// Its name.
        name: Arc<str>,
        /// For the reply.
        token: T,
    },
    /// A client is gone: what it had in flight under renewal becomes visible.
    ClientGone {
        /// Which.
        client: ClientNumber,
    },
    /// A client is about to end, and may still settle what it has: that is not renewed any more.
    ClientLeaves {
        /// Which.
        client: ClientNumber,
    },
    /// A connected member of a group has this subscription: it stays live. No reply. To be repeated well within the
    /// expiry of clients while the member is there.
    Subscribe {
        /// Its group.
        group: GroupId,
        /// What it subscribes to.
        topic: TopicId,
        /// What passes.
        filter: Arc<Filter>,
    },
    /// A group's live subscriptions; answered by [`Output::Subscriptions`].
    DescribeSubscriptions {
        /// Which.
        group: GroupId,
        /// For the reply.
        token: T,
    },
    /// Figures of a topic's queues; answered by [`Output::Queues`].
    DescribeTopic {
        /// Which.
        topic: TopicId,
        /// For the reply.
        token: T,
    },
    /// A group's progress; answered by [`Output::Progress`].
    DescribeGroup {
        /// Which.
        group: GroupId,
        /// For the reply.
        token: T,
    },
    /// Places of a queue whose messages were not resent, in order; answered by [`Output::Offsets`].
    Unresolved {
        /// Topic of dead letters.
        topic: TopicId,
        /// Number of the queue within it.
        index: u32,
        /// From here on.
        from: QueueOffset,
        /// Most.
        limit: u32,
        /// For the reply.
        token: T,
    },
    /// Puts a dead letter back into the topic it came from, once; answered by [`Output::Resent`].
    Resend {
        /// Which.
        place: DeadLetterPlace,
        /// For the reply.
        token: T,
    },
    /// Moves a group to other places of a topic's queues, all in one batch; answered by [`Output::Reset`].
    Reset {
        /// The group.
        group: GroupId,
        /// The topic.
        topic: TopicId,
        /// Numbers of queues within the topic, and where to go.
        targets: Vec<(u32, ResetTarget)>,
        /// For the reply.
        token: T,
    },
    /// Waits until a message at this place of a queue or behind it may be read; answered by [`Output::Reached`].
    AwaitOffset {
        /// Names the wait for [`Command::CancelPoll`].
        poll: PollId,
        /// The topic.
        topic: TopicId,
        /// Number of the queue within it.
        index: u32,
        /// The place; one of the queue's or the next one.
        from: QueueOffset,
        /// When to answer all the same.
        until: UnixMillis,
        /// For the reply.
        token: T,
    },
    /// A queue-based member pulls; answered by [`Output::Pulled`].
    Pull {
        /// The pull.
        pull: PullCommand,
        /// For the reply.
        token: T,
    },
    /// A queue-based member was told to go on before the place its last pull named. No reply.
    PullTold {
        /// Its group.
        group: GroupId,
        /// The topic, and the number of the queue within it.
        place: (TopicId, u32),
        /// Its client id.
        client: Arc<str>,
        /// Where it goes on.
        next: QueueOffset,
    },
    /// Which topic a queue belongs to; answered by [`Output::PlaceOf`].
    PlaceOf {
        /// The queue.
        queue: QueueId,
        /// For the reply.
        token: T,
    },
    /// How far a queue-based member is in a queue; answered by [`Output::Committed`].
    CommitOffset {
        /// The group.
        group: GroupId,
        /// The topic.
        topic: TopicId,
        /// Number of the queue within it.
        index: u32,
        /// Everything below is consumed.
        offset: QueueOffset,
        /// The member's client id; `None`: an administrator says so, and it counts unless a member has the queue.
        client: Option<Arc<str>>,
        /// Nothing that is settled comes again by this.
        forward_only: bool,
        /// For the reply.
        token: T,
    },
    /// Where a group is in a queue; answered by [`Output::StoredOffset`].
    StoredOffset {
        /// The group.
        group: GroupId,
        /// The topic.
        topic: TopicId,
        /// Number of the queue within it.
        index: u32,
        /// The member that will pull from there: the queue is kept for it for a while.
        client: Option<Arc<str>>,
        /// For the reply.
        token: T,
    },
    /// A queue-based member locks queues for 60 s, or renews that; answered by [`Output::Locked`] with those that it has.
    LockQueues {
        /// Its group.
        group: GroupId,
        /// Its client id.
        client: Arc<str>,
        /// Topics, and numbers of queues within them.
        queues: Vec<(TopicId, u32)>,
        /// For the reply.
        token: T,
    },
    /// A queue-based member unlocks queues; answered by [`Output::Done`].
    UnlockQueues {
        /// Its group.
        group: GroupId,
        /// Its client id.
        client: Arc<str>,
        /// Topics, and numbers of queues within them.
        queues: Vec<(TopicId, u32)>,
        /// For the reply.
        token: T,
    },
    /// The queues of a group that any member has locked; answered by [`Output::Locked`].
    DescribeLocks {
        /// The group.
        group: GroupId,
        /// For the reply.
        token: T,
    },
    /// A queue-based member has left the group: its queues are free. No reply.
    MemberGone {
        /// The group.
        group: GroupId,
        /// Its client id.
        client: Arc<str>,
    },
    /// A queue-based member has failed on a message, which is to be delivered again; answered by [`Output::Settled`].
    SendBack {
        /// What and when.
        back: SendBackCommand,
        /// For the reply.
        token: T,
    },
    /// Drops the oldest messages of all queues until about so many bytes are free to reclaim.
    DropOldest {
        /// Bytes.
        bytes: u64,
    },
    /// What was asked for by a [`crate::Load`].
    Loaded {
        /// Which load.
        id: LoadId,
        /// What was found, or why reading failed.
        result: Result<Loaded, martlet_store::ReadError>,
    },
}

/// Where a dead letter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadLetterPlace {
    /// The topic of dead letters.
    pub topic: TopicId,
    /// Number of the queue within it.
    pub index: u32,
    /// The place.
    pub offset: QueueOffset,
}

/// Where a group is moved to in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetTarget {
    /// The first message there is.
    Earliest,
    /// Behind the last one.
    Latest,
    /// This place, or the nearest there is: what was found for a time may have moved since.
    Near(QueueOffset),
    /// This place, which must be one of the queue's or the next one it will take.
    Offset(QueueOffset),
    /// Everything below this place is settled, which must not be behind the next one the queue will take. From there on
    /// all is as it was, unless the group is ordered or its committed offset is ahead of the place: then it is a reset.
    Commit(QueueOffset),
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

/// A hand-out, named by the place of its message and the mark of the delivery (`martlet_model::handle`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkedPlace {
    /// The queue's number within the topic.
    pub index: u32,
    /// The place.
    pub offset: QueueOffset,
    /// The mark.
    pub mark: u32,
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
