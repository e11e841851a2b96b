//! What a shard is asked.

use crate::answer::TransactionCheck;
#[cfg(doc)]
use crate::answer::{HalfTaken, Output};
use crate::load::{LoadId, Loaded};
use bytes::Bytes;
use martlet_model::handle::ReceiptHandle;
use martlet_model::{Filter, GroupId, LiteResets, QueueId, QueueOffset, RetryBackoff, TopicId, UnixMillis};
use martlet_store::Term;
use std::collections::BTreeSet;
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
    /// What moves it back to the first message of a lite topic.
    pub resets: LiteResets,
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

/// A message that is not to be delivered before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduled {
    /// The message.
    pub message: Incoming,
    /// Its delivery timestamp; what is not in the future is stored like any other message.
    pub due: UnixMillis,
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
    /// Moves a group of lite topics in some of them, all in one batch; answered by [`Output::LiteReset`].
    ResetLite {
        /// Where to.
        reset: LiteReset,
        /// For the reply.
        token: T,
    },
    /// What a look at lite topics found: how old what a group has not settled there is. Not answered.
    CorrectLiteAges {
        /// The group.
        group: GroupId,
        /// The lite topics; all are in memory while the command is carried out.
        found: Vec<LiteAge>,
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
        /// Nothing that is settled comes again by this. For groups without an order, as ordered messages are never broadcast.
        forward_only: bool,
        /// The reply promises that it is durable. If not, the reply comes at once, and a crash may take it back.
        promised: bool,
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

/// A group of lite topics is moved in some of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteReset {
    /// The group.
    pub group: GroupId,
    /// Parent of the lite topics, which the group is bound to.
    pub parent: TopicId,
    /// Queues of lite topics, and where to go. Those that have ended are passed over. All are in memory while the command is
    /// carried out: a few dozen at a time.
    pub targets: Vec<(QueueId, ResetTarget)>,
    /// Nothing between where the group is and where it would be is settled: what would go forward stays.
    pub only_back: bool,
}

/// How old what a group has not settled of a lite topic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiteAge {
    /// Queue of the lite topic.
    pub queue: QueueId,
    /// What was noted: none of it was stored earlier.
    pub since: UnixMillis,
    /// Where the group is.
    pub committed: QueueOffset,
    /// When the message there was stored; if there is none, what was noted.
    pub oldest: UnixMillis,
}
