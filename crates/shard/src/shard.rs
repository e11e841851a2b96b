//! The state of one shard, and the steps of a turn.

use crate::answer::*;
use crate::attempts::Attempts;
use crate::codec::{self, CodecError, QueueImage, ShardImage};
use crate::command::*;
use crate::dead::Resent;
use crate::dedup::KnownIds;
use crate::halves::{HalfBuckets, HalfFound};
use crate::keys;
use crate::lite::{LOOKS_MAX as LITE_LOOKS_MAX, Lite};
use crate::load::{LiteFound, Load, LoadId, scan_all};
use crate::owners::Owners;
use crate::priority::Levels;
use crate::progress::{Progress, SlotChange};
use crate::pull::Waits;
use crate::queue::Queue;
use crate::resident::{Entity, Purpose};
use crate::retries::{HandingBack, SentRetry};
use crate::timers::Timers;
use crate::topic::Topic;
use crate::transactions::HalfJob;
use bytes::Bytes;
use martlet_model::handle::{DeliveryNumber, HandleKey};
use martlet_model::record::RetryOf;
use martlet_model::{Filter, GroupId, QueueId, QueueOffset, TopicId, UnixMillis, limits};
use martlet_store::{Op, ReadError, Reader, Room, Shortage};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// How often to look whether deletion by age goes on again.
pub(crate) const PAUSED_MILLIS: i64 = 60_000;

/// How a shard is set up.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// Told apart in receipt handles; for instance a hash of the broker name.
    pub shard: u32,
    /// Secret for handles, used when the store is new. From a source of randomness.
    pub new_handle_key: [u8; 16],
    /// How long messages of topics without their own retention are kept.
    pub retention_millis: i64,
    /// Open slots of one group and queue beyond which only retries are handed out.
    pub open_slots_max: usize,
    /// Polls that may wait at a time.
    pub polls_max: usize,
    /// Whether hand-outs wait for durability: true where another owner may have taken the store over.
    pub hand_outs_wait: bool,
    /// Entities kept in memory; beyond it clean ones are dropped.
    pub resident_max: usize,
    /// The same of lite topics, what groups have of them, and names that were looked up.
    pub lite_resident_max: usize,
    /// How long after the sending of a half message nobody is asked about its transaction, unless the message says so.
    pub transaction_immunity_millis: i64,
    /// Time between two checks of a transaction.
    pub transaction_check_interval_millis: i64,
    /// Checks of a transaction, after which it is given up.
    pub transaction_checks_max: u32,
    /// Message ids remembered to recognise send retries.
    pub known_ids_max: usize,
    /// Bytes of messages read back for them at the opening; a read that was begun is finished.
    pub known_ids_read_bytes_max: u64,
    /// Messages of which the message group stays in memory, the newest: 16 bytes each.
    pub recent_groups_max: usize,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            shard: 0,
            new_handle_key: [0; 16],
            retention_millis: limits::RETENTION_MILLIS,
            open_slots_max: limits::OPEN_SLOTS_MAX,
            polls_max: 100_000,
            hand_outs_wait: false,
            resident_max: 100_000,
            lite_resident_max: 100_000,
            transaction_immunity_millis: limits::TRANSACTION_IMMUNITY_MILLIS,
            transaction_check_interval_millis: limits::TRANSACTION_CHECK_INTERVAL_MILLIS,
            transaction_checks_max: limits::TRANSACTION_CHECKS_MAX,
            known_ids_max: limits::DEDUPLICATION_IDS_MAX,
            known_ids_read_bytes_max: limits::DEDUPLICATION_READ_BYTES_MAX,
            recent_groups_max: 262_144,
        }
    }
}

/// Why a shard could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Something in the store was not written by this version or an older one.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// A command, or the rest of one.
#[derive(Debug)]
pub(crate) enum Work<T> {
    Command(Command<T>),
    DescribeGroup {
        group: GroupId,
        queues: Vec<QueueId>,
        token: T,
    },
    /// Append a dead letter to the queue, which is resident now, and settle the original.
    DeadLetter {
        group: GroupId,
        queue: QueueId,
        offset: QueueOffset,
        record: Bytes,
        into: TopicId,
        reply: Option<T>,
    },
    /// Append a message to its topic, of which a queue is resident now, and note it as resent.
    Resend {
        queue: QueueId,
        offset: QueueOffset,
        record: Bytes,
        into: TopicId,
        token: T,
    },
    Expire(QueueId),
    /// Store messages that are due in their topic.
    Fire {
        topic: TopicId,
        messages: Vec<(TimerAt, Bytes)>,
    },
    /// A lite topic, which is resident now, may have something for a group.
    LiteWake {
        group: GroupId,
        queue: QueueId,
    },
    /// A client subscribes to lite topics from a place on; those that exist are resident now.
    LiteSubscribe {
        sync: LiteSync,
        found: Vec<LiteFound>,
        token: T,
    },
    /// The timer of a lite topic is due; it and the progress of these groups are resident now.
    LiteExpire {
        at: TimerAt,
        parent: TopicId,
        groups: Vec<GroupId>,
    },
    /// A message that is sent back is resident, and so is the retry that it was.
    SendBack {
        back: SendBackCommand,
        retry: Option<SentRetry>,
        token: T,
    },
    /// A group's retry queue is resident: see what is to be handed back.
    HandBack {
        group: GroupId,
    },
    /// What references of a group's retry queue name is resident.
    HandedBack {
        group: GroupId,
        found: Vec<(QueueOffset, Option<RetryOf>)>,
    },
    /// A pull that waited goes on.
    PullAgain {
        pull: PullCommand,
        token: T,
    },
    /// A group's progress in a queue is resident: say where it is.
    StoredOffset {
        place: (GroupId, TopicId, u32),
        client: Option<Arc<str>>,
        token: T,
    },
    /// Do what is to be done with a half message; queues of its topic are resident now.
    Half {
        place: HalfPlace,
        found: Box<HalfFound>,
    },
}

/// When a reply may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    Durable,
}

pub(crate) struct Poll<T> {
    pub receive: ReceiveCommand,
    pub filter_bit: u32,
    pub token: T,
}

/// A live filter of a group on a topic.
pub(crate) struct LiveFilter {
    pub filter: Arc<Filter>,
    /// The last sign of life of a member with it.
    pub seen: UnixMillis,
    /// What the store says of that; `None`: it is not there.
    pub stored: Option<UnixMillis>,
}

/// One shard. `T` is what callers recognise their replies by.
pub struct Shard<T> {
    pub(crate) options: ShardOptions,
    pub(crate) image: ShardImage,
    pub(crate) now: UnixMillis,
    pub(crate) room: Room,
    pub(crate) next_delivery: DeliveryNumber,

    pub(crate) topics: BTreeMap<TopicId, Topic>,
    pub(crate) topic_of: BTreeMap<QueueId, TopicId>,
    pub(crate) groups: BTreeMap<GroupId, GroupFacts>,
    pub(crate) queues: BTreeMap<QueueId, Queue>,
    pub(crate) progress: BTreeMap<(GroupId, QueueId), Progress>,
    pub(crate) filters: BTreeMap<(TopicId, GroupId), Vec<LiveFilter>>,
    pub(crate) attempts: Attempts,
    /// Whose last reply of a single message was a retry; the next one prefers a new message.
    pub(crate) retry_turn: BTreeSet<(TopicId, GroupId)>,
    pub(crate) levels: Levels,
    pub(crate) known_ids: KnownIds,

    pub(crate) polls: BTreeMap<(TopicId, GroupId), VecDeque<Poll<T>>>,
    pub(crate) poll_places: BTreeMap<PollId, (TopicId, GroupId)>,
    pub(crate) poll_ends: BTreeSet<(UnixMillis, PollId)>,
    pub(crate) waits: Waits<T>,
    pub(crate) owners: Owners,
    pub(crate) handing_back: HandingBack,
    /// Polls whose time is over and that are answered after these reads.
    overdue: BTreeMap<PollId, Vec<LoadId>>,
    /// Groups and topics whose polls may be served now.
    pub(crate) stirred: BTreeSet<(TopicId, GroupId)>,
    /// The queue of each message of which the message group is in memory, oldest first; see [`crate::recent`].
    pub(crate) recent_order: VecDeque<QueueId>,

    pub(crate) awaiting: BTreeMap<Entity, Vec<Work<T>>>,
    pub(crate) loads: BTreeMap<LoadId, Purpose<T>>,
    pub(crate) next_load: u64,
    pub(crate) resent: Resent,
    pub(crate) sweeps: BTreeSet<Bytes>,
    /// Sweeps to be asked for once the open batch is in the store: before, they would not find what it writes.
    pub(crate) next_sweeps: Vec<Bytes>,
    /// Parked messages to be asked for then, for the same reason: group, queue, message group, chunk.
    pub(crate) next_parked: Vec<(GroupId, QueueId, u64, u64)>,

    /// Earliest due slot of each resident progress, both ways.
    pub(crate) due: BTreeSet<(UnixMillis, GroupId, QueueId)>,
    pub(crate) due_of: BTreeMap<(GroupId, QueueId), UnixMillis>,
    /// Next expiry of each queue with messages, both ways; resident or not.
    pub(crate) expiries: BTreeSet<(UnixMillis, QueueId)>,
    pub(crate) expiry_of: BTreeMap<QueueId, UnixMillis>,
    pub(crate) deletion_paused: bool,

    pub(crate) timers: Timers,
    pub(crate) halves: HalfBuckets,
    /// What is to happen to half messages of which it is being read how they stand.
    pub(crate) half_jobs: BTreeMap<HalfPlace, Vec<HalfJob<T>>>,
    /// To be sent to producers once the open batch is durable.
    pub(crate) checks: Vec<TransactionCheck>,
    /// Recalls whose timers are being read.
    pub(crate) recalls: BTreeMap<TimerAt, Vec<T>>,
    pub(crate) lite: Lite<T>,
    /// The shard's own value is to be written with the next batch.
    pub(crate) image_changed: bool,
    /// Loads to be asked for once the open batch is in the store.
    pub(crate) after_batch: Vec<(Load, Purpose<T>)>,

    /// The open batch.
    pub(crate) ops: Vec<Op>,
    pub(crate) touched: BTreeSet<(GroupId, QueueId)>,
    pub(crate) reindex: BTreeSet<(GroupId, QueueId)>,
    pub(crate) appended: BTreeSet<QueueId>,
    pub(crate) batch: u64,
    pub(crate) durable_batch: u64,
    /// Queue ends of batches under way, by batch number.
    under_way: VecDeque<(u64, Vec<(QueueId, QueueOffset)>)>,
    /// Last batch that changed an entity.
    pub(crate) changed_in: BTreeMap<Entity, u64>,

    pub(crate) replies: Vec<(T, Output, When)>,
    pub(crate) wanted: Vec<(LoadId, Load)>,
    pub(crate) counters: Counters,
}

impl<T> Shard<T> {
    /// Opens the shard that a store holds, or begins a new one. The first batch raises the epoch; no reply leaves before
    /// it is durable, so no delivery number is ever given out twice.
    pub async fn open<R: Reader>(reader: &R, options: ShardOptions, now: UnixMillis) -> Result<Self, OpenError> {
        let image = match reader.get(&keys::shard()).await?.and_then(|state| state.image) {
            Some(bytes) => {
                let image = ShardImage::decode(&bytes)?;
                ShardImage { epoch: image.epoch + 1, opened: now, ..image }
            }
            None => ShardImage { epoch: 1, next_queue: 0, handle_key: HandleKey(options.new_handle_key), opened: now },
        };
        let mut shard = Self::empty(options, image, now);
        let number = |key: &Bytes, what| keys::numbers(key).and_then(|n| n.first().copied()).ok_or(CodecError { what });
        for (key, state) in scan_all(reader, keys::kind(keys::TOPIC)).await? {
            let id = TopicId(number(&key, "topic")? as u32);
            let (facts, queues, spread) = codec::decode_topic(id, &state.image.unwrap_or_default())?;
            shard.topic_of.extend(queues.iter().map(|&queue| (queue, id)));
            shard.topics.insert(id, Topic { facts, queues, spread, next_send: 0, next_receive: 0 });
        }
        for (key, state) in scan_all(reader, keys::kind(keys::GROUP)).await? {
            let id = GroupId(number(&key, "consumer group")? as u32);
            let facts = codec::decode_group(id, &state.image.unwrap_or_default())?;
            shard.note_lite_group(id, facts.lite.map(|lite| lite.parent));
            shard.groups.insert(id, facts);
        }
        for (key, state) in scan_all(reader, keys::kind(keys::QUEUE)).await? {
            let id = QueueId(number(&key, "queue")?);
            let image = QueueImage::decode(&state.image.unwrap_or_default())?;
            if let Some(&(time, _)) = image.marks.get(1).or(image.marks.first()) {
                let retention = shard.retention_of(image.topic);
                shard.set_expiry(id, Some(time.plus(retention)));
            }
        }
        shard.load_subscriptions(scan_all(reader, keys::kind(keys::SUBSCRIPTION)).await?)?;
        for (key, _) in scan_all(reader, keys::kind(keys::SWEEP)).await? {
            shard.want_sweep(key.slice(1..));
        }
        shard.timers = Timers::open(reader, &mut shard.halves).await?;
        shard.load_known_ids(reader).await?;
        for (key, state) in scan_all(reader, keys::kind(keys::RESENT)).await? {
            shard.resent.load(&key, &state.image.unwrap_or_default())?;
        }
        for (key, state) in scan_all(reader, keys::lite_counts()).await? {
            let bad = CodecError { what: "count of lite topics" };
            let parent = keys::numbers(&key).and_then(|numbers| numbers.get(1).copied()).ok_or(bad)?;
            let count = codec::decode_number(&state.image.unwrap_or_default(), "count of lite topics")?;
            shard.lite.counts.insert(TopicId(parent as u32), count);
        }
        for (key, state) in scan_all(reader, keys::lite_unsettled_all()).await? {
            let bad = CodecError { what: "count of unsettled messages" };
            let group = keys::numbers(&key).and_then(|numbers| numbers.get(1).copied()).ok_or(bad)?;
            let count = codec::decode_number(&state.image.unwrap_or_default(), "count of unsettled messages")?;
            shard.lite.backlogs.of.insert(GroupId(group as u32), count);
        }
        shard.put_image();
        Ok(shard)
    }

    fn empty(options: ShardOptions, image: ShardImage, now: UnixMillis) -> Self {
        Self {
            next_delivery: DeliveryNumber::first_of(image.epoch).plus(1),
            options,
            image,
            now,
            room: Room::Open,
            topics: BTreeMap::new(),
            topic_of: BTreeMap::new(),
            groups: BTreeMap::new(),
            queues: BTreeMap::new(),
            progress: BTreeMap::new(),
            filters: BTreeMap::new(),
            attempts: Attempts::default(),
            polls: BTreeMap::new(),
            poll_places: BTreeMap::new(),
            poll_ends: BTreeSet::new(),
            waits: Waits::default(),
            owners: Owners::default(),
            handing_back: HandingBack::default(),
            overdue: BTreeMap::new(),
            recent_order: VecDeque::new(),
            stirred: BTreeSet::new(),
            awaiting: BTreeMap::new(),
            loads: BTreeMap::new(),
            next_load: 0,
            resent: Resent::default(),
            sweeps: BTreeSet::new(),
            due: BTreeSet::new(),
            due_of: BTreeMap::new(),
            expiries: BTreeSet::new(),
            expiry_of: BTreeMap::new(),
            deletion_paused: false,
            retry_turn: BTreeSet::new(),
            levels: Levels::default(),
            known_ids: KnownIds::default(),
            next_sweeps: Vec::new(),
            next_parked: Vec::new(),
            timers: Timers::default(),
            halves: HalfBuckets::default(),
            half_jobs: BTreeMap::new(),
            checks: Vec::new(),
            recalls: BTreeMap::new(),
            lite: Lite::default(),
            image_changed: false,
            after_batch: Vec::new(),
            ops: Vec::new(),
            touched: BTreeSet::new(),
            reindex: BTreeSet::new(),
            appended: BTreeSet::new(),
            batch: 1,
            durable_batch: 0,
            under_way: VecDeque::new(),
            changed_in: BTreeMap::new(),
            replies: Vec::new(),
            wanted: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// The secret that signs this shard's handles, and the number they carry.
    pub fn handle_key(&self) -> (u32, HandleKey) {
        (self.options.shard, self.image.handle_key)
    }

    /// The epoch of this opening.
    pub fn epoch(&self) -> u32 {
        self.image.epoch
    }

    /// What happened since the opening.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Parked messages of ordered groups in resident progress, and how many of their offsets are in memory.
    pub fn parked(&self) -> (u64, usize) {
        let ordered = self.progress.values().filter_map(Progress::ordered);
        ordered.fold((0, 0), |sum, ordered| (sum.0 + ordered.parked(), sum.1 + ordered.parked_in_memory()))
    }

    /// Polls waiting, resident entities, open slots.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let open = self.progress.values().map(Progress::open_slots).sum();
        (self.polls_waiting(), self.queues.len() + self.progress.len(), open)
    }

    /// Open slots of the group and queue that has most of them in memory.
    pub fn open_slots_most(&self) -> usize {
        self.progress.values().map(Progress::open_slots).max().unwrap_or(0)
    }

    pub(crate) fn handle(&mut self, work: Work<T>) {
        let work = match work {
            Work::Command(command) => match self.refuse_while_behind(command) {
                Some(command) => {
                    self.make_topic_asked_for(&command);
                    Work::Command(command)
                }
                None => return,
            },
            other => other,
        };
        if let Some(entity) = self.first_missing(&work) {
            self.awaiting.entry(entity).or_default().push(work);
            return;
        }
        match work {
            Work::Command(command) => self.carry_out(command),
            Work::DescribeGroup { group, queues, token } => self.describe_group_loaded(group, &queues, token),
            Work::DeadLetter { group, queue, offset, record, into, reply } => {
                self.append_dead_letter(group, queue, offset, &record, into, reply);
            }
            Work::Resend { queue, offset, record, into, token } => {
                self.append_resent(queue, offset, &record, into, token);
            }
            Work::Expire(queue) => self.expire(queue),
            Work::Fire { topic, messages } => self.fire(topic, messages),
            Work::LiteWake { group, queue } => self.lite_awake(group, queue),
            Work::LiteSubscribe { sync, found, token } => self.subscribe_lite_at(&sync, &found, token),
            Work::LiteExpire { at, groups, .. } => self.expire_lite(at, &groups),
            Work::Half { place, found } => self.work_on_half(place, *found),
            Work::SendBack { back, retry, token } => self.send_back_to(&back, retry, token),
            Work::HandBack { group } => self.hand_back(group),
            Work::HandedBack { group, found } => self.handed_back(group, &found),
            Work::PullAgain { pull, token } => self.pull(pull, true, token),
            Work::StoredOffset { place, client, token } => self.stored_offset_found(place, client, true, token),
        }
    }

    fn carry_out(&mut self, command: Command<T>) {
        match command {
            Command::ApplyTopic { topic, token } => self.apply_topic(topic, token),
            Command::DropTopic { topic, token } => {
                self.drop_topic(topic);
                self.reply(token, Output::Done);
            }
            Command::ApplyGroup { group, token } => self.apply_group(group, token),
            Command::DropGroup { group, token } => {
                self.drop_group(group);
                self.reply(token, Output::Done);
            }
            Command::KeepOnly { topics, groups, token } => {
                self.keep_only(&topics, &groups);
                self.reply(token, Output::Done);
            }
            Command::Send { topic, messages, deadline, token } => self.send(topic, messages, deadline, token),
            Command::Schedule { topic, messages, deadline, token } => self.schedule(topic, messages, deadline, token),
            Command::Recall { topic, at, token } => self.recall(topic, at, token),
            Command::SendHalf { topic, record, immunity_millis, polled, deadline, token } => {
                self.send_half(topic, record, immunity_millis, polled, deadline, token);
            }
            Command::EndTransaction { topic, place, commit, token } => {
                self.half_job(place, HalfJob::End { topic, until: None, commit, token });
            }
            Command::EndTaken { topic, place, until, commit, token } => {
                self.half_job(place, HalfJob::End { topic, until: Some(until), commit, token });
            }
            Command::Checked { check } => self.half_job(check.place, HalfJob::Checked(check.due)),
            Command::TakeHalf { check, lease_millis, token } => {
                let (due, number) = (check.due, check.number);
                self.half_job(check.place, HalfJob::Take { due, number, lease_millis, token });
            }
            Command::Receive { receive, token } => self.receive(receive, token),
            Command::CancelPoll { poll } => {
                if self.take_poll(poll).is_none() && !self.waits.cancel(poll) {
                    self.drop_awaiting_poll(poll);
                }
            }
            Command::Undo { handles } => handles.iter().for_each(|handle| self.undo(handle)),
            Command::Lost { handles } => handles.iter().for_each(|handle| self.lost(handle)),
            Command::Ack { handles, token } => {
                let answers = self.ack(&handles);
                self.reply(token, Output::Acked(answers));
            }
            Command::AckMarked { group, topic, places, token } => {
                let handles: Vec<_> = places.iter().map(|place| self.marked_handle(group, topic, place)).collect();
                let answers = self.ack(&handles);
                self.reply(token, Output::Acked(answers));
            }
            Command::ChangeMarked { group, topic, place, invisible_millis, token } => {
                let handle = self.marked_handle(group, topic, &place);
                let answer = self.change_invisible(&handle, invisible_millis, false);
                self.reply(token, Output::Changed(answer));
            }
            Command::ChangeInvisible { handle, invisible_millis, suspend, token } => {
                let answer = self.change_invisible(&handle, invisible_millis, suspend);
                self.reply(token, Output::Changed(answer));
            }
            Command::DeadLetter { handle, token } => self.dead_letter(&handle, token),
            Command::SyncLite { sync, token } => self.sync_lite(sync, token),
            Command::DescribeLite { topic, name, token } => self.describe_lite(topic, &name, token),
            Command::ClientGone { client } => self.client_gone(client),
            Command::ClientLeaves { client } => self.client_leaves(client),
            Command::Subscribe { group, topic, filter } => self.subscribe(group, topic, &filter),
            Command::DescribeSubscriptions { group, token } => self.describe_subscriptions(group, token),
            Command::DescribeTopic { topic, token } => self.describe_topic(topic, token),
            // One may have progress in a million lite topics.
            Command::DescribeGroup { group, token } if self.lite_group(group).is_some() => {
                self.handle(Work::DescribeGroup { group, queues: Vec::new(), token });
            }
            Command::DescribeGroup { group, token } => {
                self.want(Load::GroupQueues(group), Purpose::DescribeGroup { group, token });
            }
            Command::Unresolved { topic, index, from, limit, token } => {
                self.unresolved(topic, index, from, limit, token);
            }
            Command::Resend { place, token } => self.resend(place, token),
            Command::Reset { group, topic, targets, token } => self.reset(group, topic, &targets, token),
            Command::CorrectLiteAges { group, found } => self.correct_since(group, &found),
            Command::ResetLite { reset, token } => self.reset_lite(&reset, token),
            Command::AwaitOffset { poll, topic, index, from, until, token } => {
                self.await_offset(poll, (topic, index), from, until, token);
            }
            Command::Pull { pull, token } => self.pull(pull, false, token),
            Command::PullTold { group, place: (topic, index), client, next } => {
                self.pull_told(group, (topic, index), &client, next);
            }
            Command::PlaceOf { queue, token } => {
                let place = self.topic_of.get(&queue).copied().zip(self.index_of(queue));
                self.reply(token, Output::PlaceOf(place));
            }
            Command::CommitOffset { group, topic, index, offset, client, forward_only, promised, token } => {
                let when = if promised { When::Durable } else { When::Now };
                self.commit_offset(group, (topic, index), (offset, forward_only), client.as_deref(), (when, token));
            }
            Command::StoredOffset { group, topic, index, client, token } => {
                self.stored_offset((group, topic, index), client, token);
            }
            Command::LockQueues { group, client, queues, token } => {
                let locked = self.lock_queues(group, &client, &queues);
                self.reply(token, Output::Locked(locked));
            }
            Command::UnlockQueues { group, client, queues, token } => {
                self.unlock_queues(group, &client, &queues);
                self.reply(token, Output::Done);
            }
            Command::DescribeLocks { group, token } => {
                let locked = self.locked_queues(group);
                self.reply(token, Output::Locked(locked));
            }
            Command::MemberGone { group, client } => self.member_gone(group, &client),
            Command::SendBack { back, token } => self.send_back(back, token),
            Command::DropOldest { bytes } => self.drop_oldest(bytes),
            Command::Loaded { id, result } => self.loaded(id, result),
        }
    }

    pub(crate) fn reply(&mut self, token: T, output: Output) {
        self.replies.push((token, output, When::Durable));
    }

    /// A refusal that read no state of the store promises nothing: it need not wait for any batch.
    pub(crate) fn refuse_now(&mut self, token: T, refused: Refused) {
        self.replies.push((token, Output::Refused(refused), When::Now));
    }

    pub(crate) fn retention_of(&self, topic: TopicId) -> i64 {
        self.topics.get(&topic).and_then(|topic| topic.facts.retention_millis).unwrap_or(self.options.retention_millis)
    }

    /// Changes a slot: in memory, and in the batch.
    pub(crate) fn change(&mut self, group: GroupId, queue: QueueId, change: SlotChange) {
        let settles = matches!(change, SlotChange::Close { .. });
        let before = if settles { self.unsettled_in_lite(group, queue) } else { 0 };
        if let Some(progress) = self.progress.get_mut(&(group, queue)) {
            progress.apply(&change);
            self.note_changed(group, queue);
        }
        if before > 0 {
            let after = self.unsettled_in_lite(group, queue);
            self.backlog_changed(group, queue, before, after);
        }
    }

    /// The progress has something for the batch, and its next due time may be another.
    pub(crate) fn note_changed(&mut self, group: GroupId, queue: QueueId) {
        self.touched.insert((group, queue));
        self.reindex.insert((group, queue));
    }

    pub(crate) fn note_due(&mut self, group: GroupId, queue: QueueId) {
        self.reindex.insert((group, queue));
    }

    pub(crate) fn note_append(&mut self, queue: QueueId) {
        self.appended.insert(queue);
    }

    pub(crate) fn put_image(&mut self) {
        let image = Bytes::from(self.image.encode());
        self.ops.push(Op::Put { key: keys::shard(), image, keep_until: None });
    }

    pub(crate) fn pauses_deletion(&self) -> bool {
        self.deletion_paused
    }

    pub(crate) fn put_queue(&mut self, id: QueueId) {
        if self.is_lite_queue(id) {
            return self.put_lite(id);
        }
        if let Some(queue) = self.queues.get(&id) {
            let image = Bytes::from(queue.image().encode());
            self.ops.push(Op::Put { key: keys::queue(id), image, keep_until: None });
            self.changed_in.insert(Entity::Queue(id), self.batch);
        }
    }

    /// What is due by itself: lapses, ends of polls, expiry.
    pub(crate) fn tick(&mut self, pause_deletion: bool) {
        self.deletion_paused = pause_deletion;
        self.lapse_due();
        self.end_owners();
        // A poll whose time is over still gets what is there.
        self.serve_stirred();
        while let Some(&(at, poll)) = self.poll_ends.first() {
            if at > self.now {
                break;
            }
            self.poll_ends.pop_first();
            let reads = self.reads_for(poll);
            self.overdue.insert(poll, reads);
        }
        self.end_overdue();
        self.end_waits();
        while let Some(&(at, queue)) = self.expiries.first() {
            if at > self.now || pause_deletion {
                break;
            }
            self.set_expiry(queue, None);
            self.handle(Work::Expire(queue));
        }
        self.fire_timers();
        self.expire_leases();
    }

    /// Reads under way that may find something for a poll.
    fn reads_for(&self, poll: PollId) -> Vec<LoadId> {
        let Some(&(topic, group)) = self.poll_places.get(&poll) else { return Vec::new() };
        let queues = self.topics.get(&topic).map_or(&[][..], Topic::read_queues);
        queues.iter().filter_map(|&queue| self.progress.get(&(group, queue))).flat_map(Progress::reads).collect()
    }

    /// Polls whose time is over end without a message once what was being read for them has been read. What is read
    /// later they do not wait for.
    fn end_overdue(&mut self) {
        let loads = &self.loads;
        let read = self.overdue.iter().filter(|(_, reads)| !reads.iter().any(|id| loads.contains_key(id)));
        let over: Vec<PollId> = read.map(|(&poll, _)| poll).collect();
        for poll in over {
            self.overdue.remove(&poll);
            if let Some(poll) = self.take_poll(poll) {
                self.replies.push((poll.token, Output::Delivered(Vec::new()), When::Now));
            }
        }
    }

    /// A poll is answered or given up.
    pub(crate) fn forget_overdue(&mut self, poll: PollId) {
        self.overdue.remove(&poll);
    }

    /// Slots whose time has come.
    pub(crate) fn lapse_due(&mut self) {
        while let Some(&(at, group, queue)) = self.due.first() {
            if at > self.now {
                break;
            }
            self.due.pop_first();
            self.due_of.remove(&(group, queue));
            self.lapse(group, queue);
        }
    }

    /// Serves stirred polls and brings the due index up to date; last step of a turn.
    pub(crate) fn finish_turn(&mut self) {
        self.serve_stirred();
        for (group, queue) in std::mem::take(&mut self.reindex) {
            let next = self.progress.get(&(group, queue)).and_then(Progress::next_due);
            let old = match next {
                Some(next) => self.due_of.insert((group, queue), next),
                None => self.due_of.remove(&(group, queue)),
            };
            if old != next {
                old.map(|old| self.due.remove(&(old, group, queue)));
                next.map(|next| self.due.insert((next, group, queue)));
            }
        }
        self.evict_lite(self.options.lite_resident_max, LITE_LOOKS_MAX);
        let lite = self.lite_sizes().0;
        if (self.queues.len() + self.progress.len()).saturating_sub(lite) > self.options.resident_max {
            self.evict_clean();
        }
        if !self.has_changes() {
            self.ask_after_batch();
        }
    }

    fn serve_stirred(&mut self) {
        // What is handed out while the store takes nothing would pile up in the open batch: polls wait, as on an empty queue.
        if matches!(self.room, Room::OnlyProgress(Shortage::Behind { .. })) {
            return;
        }
        while let Some((topic, group)) = self.stirred.pop_first() {
            self.serve(topic, group);
        }
        while let Some(member) = self.lite.stirred.pop_first() {
            self.serve_lite(member);
        }
    }

    /// When something is due by itself, if anything.
    pub(crate) fn next_wakeup(&self) -> Option<UnixMillis> {
        let due = self.due.first().map(|entry| entry.0);
        let poll = self.poll_ends.first().map(|entry| entry.0);
        let expiry = self.expiries.first().map(|entry| entry.0);
        // While deletion pauses, look now and then whether it goes on.
        let expiry = expiry.map(|at| if self.deletion_paused { at.max(self.now.plus(PAUSED_MILLIS)) } else { at });
        let lease = self.lite.leases.first().map(|entry| entry.0);
        let owner = self.owners.first_end();
        [due, poll, expiry, lease, owner, self.next_timer(), self.waits.first_end()].into_iter().flatten().min()
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.ops.is_empty() || !self.touched.is_empty()
    }

    /// Closes the open batch.
    pub(crate) fn take_batch(&mut self) -> Vec<Op> {
        for (group, queue) in std::mem::take(&mut self.touched) {
            if let Some(progress) = self.progress.get_mut(&(group, queue)) {
                progress.flush(&mut self.ops);
                self.changed_in.insert(Entity::Progress(group, queue), self.batch);
            }
        }
        let ends = std::mem::take(&mut self.appended)
            .into_iter()
            .filter_map(|id| Some((id, self.queues.get(&id)?.next)))
            .collect::<Vec<_>>();
        for (id, _) in &ends {
            self.changed_in.insert(Entity::Queue(*id), self.batch);
        }
        for (group, queue, key, start) in std::mem::take(&mut self.next_parked) {
            self.want_parked(group, queue, key, start);
        }
        self.flush_waiting();
        self.flush_lite();
        self.ask_after_batch();
        for prefix in std::mem::take(&mut self.next_sweeps) {
            self.want(Load::Sweep(prefix.clone()), Purpose::Sweep(prefix));
        }
        self.resent.batch_taken();
        self.under_way.push_back((self.batch, ends));
        self.batch += 1;
        std::mem::take(&mut self.ops)
    }

    /// The oldest `count` batches under way have become durable.
    pub(crate) fn batches_durable(&mut self, count: u64) {
        for _ in 0..count {
            let Some((batch, ends)) = self.under_way.pop_front() else { return };
            self.durable_batch = batch;
            for (id, end) in ends {
                let Some(queue) = self.queues.get_mut(&id) else { continue };
                queue.durable = queue.durable.max(end);
                let (topic, durable, is_lite) = (queue.topic, queue.durable, queue.lite.is_some());
                match is_lite {
                    true => self.lite_durable(id),
                    false => self.stir_topic(topic),
                }
                self.reached(id, durable);
                if let Some(group) = topic.retry_group() {
                    self.hand_back_if_polled(group);
                }
            }
        }
    }

    pub(crate) fn stir_topic(&mut self, topic: TopicId) {
        let waiting = self.polls.range((topic, GroupId(0))..=(topic, GroupId(u32::MAX)));
        self.stirred.extend(waiting.map(|(key, _)| *key));
    }
}
