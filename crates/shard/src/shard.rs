//! The state of one shard, what is resident of it, and how commands find what they touch.

use crate::attempts::Attempts;
use crate::codec::{self, CodecError, QueueImage, ShardImage};
use crate::command::*;
use crate::dead::Resent;
use crate::halves::{HalfBuckets, HalfFound};
use crate::keys;
use crate::load::{Load, LoadId, Loaded, scan_all};
use crate::ordered::message_group_of;
use crate::priority::{Levels, priority_of};
use crate::progress::{Progress, SlotChange};
use crate::pull::Waits;
use crate::queue::Queue;
use crate::timers::Timers;
use crate::transactions::HalfJob;
use bytes::Bytes;
use martlet_model::handle::{DeliveryNumber, HandleKey, ReceiptHandle};
use martlet_model::{Filter, GroupId, QueueId, QueueOffset, TopicId, UnixMillis, limits};
use martlet_store::{Op, ReadError, Reader, Room};
use std::collections::btree_map::Entry;
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
    /// How long after the sending of a half message nobody is asked about its transaction, unless the message says so.
    pub transaction_immunity_millis: i64,
    /// Time between two checks of a transaction.
    pub transaction_check_interval_millis: i64,
    /// Checks of a transaction, after which it is given up.
    pub transaction_checks_max: u32,
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
            transaction_immunity_millis: limits::TRANSACTION_IMMUNITY_MILLIS,
            transaction_check_interval_millis: limits::TRANSACTION_CHECK_INTERVAL_MILLIS,
            transaction_checks_max: limits::TRANSACTION_CHECKS_MAX,
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

/// Something that is loaded and dropped as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entity {
    Queue(QueueId),
    Progress(GroupId, QueueId),
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

pub(crate) struct Topic {
    pub facts: TopicFacts,
    pub queues: Vec<QueueId>,
    /// Queues that message groups are spread over: the write queues the topic was created with.
    pub spread: u32,
    /// Round robin of sends and of receives.
    pub next_send: usize,
    pub next_receive: usize,
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

/// Why something is being loaded.
pub(crate) enum Purpose<T> {
    Entity(Entity),
    DeadLetter {
        group: GroupId,
        queue: QueueId,
        offset: QueueOffset,
        reply: Option<T>,
    },
    Filter {
        group: GroupId,
        queue: QueueId,
        from: QueueOffset,
        until: QueueOffset,
    },
    /// Which filters the visible slots of a range match, that is not known any more.
    Classify {
        group: GroupId,
        queue: QueueId,
        from: QueueOffset,
        until: QueueOffset,
    },
    Sweep(Bytes),
    DescribeGroup {
        group: GroupId,
        token: T,
    },
    /// Message groups of a lent range.
    Keyed {
        group: GroupId,
        queue: QueueId,
        from: QueueOffset,
        until: QueueOffset,
    },
    /// Parked messages of a message group that is free, or of which retention took some.
    Parked {
        group: GroupId,
        queue: QueueId,
        key: u64,
        start: u64,
    },
    Timers,
    Due,
    Recall {
        topic: TopicId,
        at: TimerAt,
    },
    Resend {
        queue: QueueId,
        offset: QueueOffset,
        token: T,
    },
    Half(HalfPlace),
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

    pub(crate) polls: BTreeMap<(TopicId, GroupId), VecDeque<Poll<T>>>,
    pub(crate) poll_places: BTreeMap<PollId, (TopicId, GroupId)>,
    pub(crate) poll_ends: BTreeSet<(UnixMillis, PollId)>,
    pub(crate) waits: Waits<T>,
    /// Polls whose time is over and that are answered after these reads.
    overdue: BTreeMap<PollId, Vec<LoadId>>,
    /// Groups and topics whose polls may be served now.
    pub(crate) stirred: BTreeSet<(TopicId, GroupId)>,

    parked: BTreeMap<Entity, Vec<Work<T>>>,
    loads: BTreeMap<LoadId, Purpose<T>>,
    next_load: u64,
    pub(crate) resent: Resent,
    pub(crate) sweeps: BTreeSet<Bytes>,
    /// Sweeps to be asked for once the open batch is in the store: before, they would not find what it writes.
    pub(crate) next_sweeps: Vec<Bytes>,
    /// Parked messages to be asked for then, for the same reason: group, queue, message group, chunk.
    pub(crate) next_parked: Vec<(GroupId, QueueId, u64, u64)>,

    /// Earliest due slot of each resident progress, both ways.
    due: BTreeSet<(UnixMillis, GroupId, QueueId)>,
    due_of: BTreeMap<(GroupId, QueueId), UnixMillis>,
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
    /// Loads to be asked for once the open batch is in the store.
    pub(crate) after_batch: Vec<(Load, Purpose<T>)>,

    /// The open batch.
    pub(crate) ops: Vec<Op>,
    touched: BTreeSet<(GroupId, QueueId)>,
    reindex: BTreeSet<(GroupId, QueueId)>,
    appended: BTreeSet<QueueId>,
    batch: u64,
    durable_batch: u64,
    /// Queue ends of batches under way, by batch number.
    under_way: VecDeque<(u64, Vec<(QueueId, QueueOffset)>)>,
    /// Last batch that changed an entity.
    changed_in: BTreeMap<Entity, u64>,

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
            shard.groups.insert(id, codec::decode_group(id, &state.image.unwrap_or_default())?);
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
        for (key, state) in scan_all(reader, keys::kind(keys::RESENT)).await? {
            shard.resent.load(&key, &state.image.unwrap_or_default())?;
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
            overdue: BTreeMap::new(),
            stirred: BTreeSet::new(),
            parked: BTreeMap::new(),
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
            next_sweeps: Vec::new(),
            next_parked: Vec::new(),
            timers: Timers::default(),
            halves: HalfBuckets::default(),
            half_jobs: BTreeMap::new(),
            checks: Vec::new(),
            recalls: BTreeMap::new(),
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
        (self.poll_places.len() + self.waits.len(), self.queues.len() + self.progress.len(), open)
    }

    /// Open slots of the group and queue that has most of them in memory.
    pub fn open_slots_most(&self) -> usize {
        self.progress.values().map(Progress::open_slots).max().unwrap_or(0)
    }

    pub(crate) fn handle(&mut self, work: Work<T>) {
        if let Some(entity) = self.first_missing(&work) {
            self.parked.entry(entity).or_default().push(work);
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
            Work::Half { place, found } => self.work_on_half(place, *found),
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
            Command::SendHalf { topic, record, immunity_millis, deadline, token } => {
                self.send_half(topic, record, immunity_millis, deadline, token);
            }
            Command::EndTransaction { topic, place, commit, token } => {
                self.half_job(place, HalfJob::End { topic, commit, token });
            }
            Command::Checked { check } => self.half_job(check.place, HalfJob::Checked(check.due)),
            Command::Receive { receive, token } => self.receive(receive, token),
            Command::CancelPoll { poll } => {
                if self.take_poll(poll).is_none() && !self.waits.cancel(poll) {
                    self.drop_parked_poll(poll);
                }
            }
            Command::Undo { handles } => handles.iter().for_each(|handle| self.undo(handle)),
            Command::Lost { handles } => handles.iter().for_each(|handle| self.lost(handle)),
            Command::Ack { handles, token } => {
                let answers = handles.iter().map(|handle| self.ack(handle)).collect();
                self.reply(token, Output::Acked(answers));
            }
            Command::ChangeInvisible { handle, invisible_millis, token } => {
                let answer = self.change_invisible(&handle, invisible_millis);
                self.reply(token, Output::Changed(answer));
            }
            Command::DeadLetter { handle, token } => self.dead_letter(&handle, token),
            Command::ClientGone { client } => self.client_gone(client),
            Command::Subscribe { group, topic, filter } => self.subscribe(group, topic, &filter),
            Command::DescribeSubscriptions { group, token } => self.describe_subscriptions(group, token),
            Command::DescribeTopic { topic, token } => self.describe_topic(topic, token),
            Command::DescribeGroup { group, token } => {
                self.want(Load::GroupQueues(group), Purpose::DescribeGroup { group, token });
            }
            Command::Unresolved { topic, index, from, limit, token } => {
                self.unresolved(topic, index, from, limit, token);
            }
            Command::Resend { place, token } => self.resend(place, token),
            Command::Reset { group, topic, targets, token } => self.reset(group, topic, &targets, token),
            Command::AwaitOffset { poll, topic, index, from, until, token } => {
                self.await_offset(poll, (topic, index), from, until, token);
            }
            Command::DropOldest { bytes } => self.drop_oldest(bytes),
            Command::Loaded { id, result } => self.loaded(id, result),
        }
    }

    /// The first entity a piece of work touches that is not resident. Loads of all that miss are begun at once.
    fn first_missing(&mut self, work: &Work<T>) -> Option<Entity> {
        let mut first = None;
        for entity in self.touched_by(work) {
            if self.is_resident(entity) || !self.is_known(entity) {
                continue;
            }
            first = first.or(Some(entity));
            self.begin_load(entity);
        }
        first
    }

    /// What a piece of work needs to be resident.
    fn touched_by(&self, work: &Work<T>) -> Vec<Entity> {
        let mut touched: Vec<Entity> = Vec::new();
        let of_handle =
            |handle: &ReceiptHandle| [Entity::Queue(handle.queue), Entity::Progress(handle.group, handle.queue)];
        match work {
            Work::Command(Command::Send { topic, messages, .. }) => {
                if self.topics.get(topic).is_some_and(|topic| topic.facts.by_priority) {
                    touched.extend(self.queues_in_turn(*topic).iter().copied().map(Entity::Queue));
                } else if let Some(topic) = self.topics.get(topic) {
                    let groups = messages.iter().filter_map(|message| message.message_group);
                    touched.extend(groups.filter_map(|group| topic.queue_for(group)).map(Entity::Queue));
                    touched.extend(topic.send_queue().map(Entity::Queue));
                }
            }
            Work::Command(Command::Schedule { topic, .. }) | Work::Fire { topic, .. } => {
                touched.extend(self.queues_in_turn(*topic).iter().copied().map(Entity::Queue));
            }
            Work::Half { found, .. } => touched.extend(self.queues_of_commit(found).into_iter().map(Entity::Queue)),
            Work::Command(Command::Receive { receive, .. }) => {
                touched.extend(self.touched_by_poll(receive.topic, receive.group));
            }
            Work::Command(Command::Ack { handles, .. } | Command::Undo { handles } | Command::Lost { handles }) => {
                touched.extend(handles.iter().flat_map(of_handle));
            }
            Work::Command(Command::ChangeInvisible { handle, .. } | Command::DeadLetter { handle, .. }) => {
                touched.extend(of_handle(handle));
            }
            Work::Command(Command::DescribeTopic { topic, .. }) => {
                let queues = self.topics.get(topic).into_iter().flat_map(|topic| topic.queues.iter().copied());
                touched.extend(queues.map(Entity::Queue));
            }
            Work::DescribeGroup { group, queues, .. } => {
                touched
                    .extend(queues.iter().flat_map(|&queue| [Entity::Queue(queue), Entity::Progress(*group, queue)]));
                let dead_letters = self.topics.get(&TopicId::dead_letters_of(*group));
                touched.extend(dead_letters.iter().flat_map(|topic| topic.queues.iter().copied().map(Entity::Queue)));
            }
            Work::DeadLetter { group, queue, record, into, .. } => {
                touched.extend([Entity::Queue(*queue), Entity::Progress(*group, *queue)]);
                let target = self.topics.get(into).and_then(|topic| topic.queue_for_message(None, record));
                touched.extend(target.map(Entity::Queue));
            }
            Work::Command(Command::Unresolved { topic, index, .. } | Command::AwaitOffset { topic, index, .. }) => {
                touched.extend(self.queue_at(*topic, *index).map(Entity::Queue));
            }
            Work::Command(Command::Resend { place, .. }) => {
                touched.extend(self.queue_at(place.topic, place.index).map(Entity::Queue));
            }
            Work::Command(Command::Reset { group, topic, targets, .. }) => {
                let queues = self.reset_queues(*topic, targets);
                touched.extend(queues.iter().flat_map(|&id| [Entity::Queue(id), Entity::Progress(*group, id)]));
            }
            Work::Resend { queue, record, into, .. } => {
                touched.push(Entity::Queue(*queue));
                let group = message_group_of(record);
                let target = self.topics.get(into).and_then(|topic| topic.queue_for_message(group, record));
                touched.extend(target.map(Entity::Queue));
            }
            Work::Expire(queue) => touched.push(Entity::Queue(*queue)),
            Work::Command(_) => {}
        }
        touched
    }

    pub(crate) fn queue_at(&self, topic: TopicId, index: u32) -> Option<QueueId> {
        self.topics.get(&topic)?.queues.get(index as usize).copied()
    }

    fn touched_by_poll(&self, topic: TopicId, group: GroupId) -> impl Iterator<Item = Entity> {
        let queues = self.topics.get(&topic).map_or(&[][..], |topic| topic.read_queues());
        queues.iter().flat_map(move |&queue| [Entity::Queue(queue), Entity::Progress(group, queue)])
    }

    /// Begins loading an entity unless that is under way.
    fn begin_load(&mut self, entity: Entity) {
        if let Entry::Vacant(parked) = self.parked.entry(entity) {
            parked.insert(Vec::new());
            let load = match entity {
                Entity::Queue(queue) => Load::Queue(queue),
                Entity::Progress(group, queue) => {
                    let since = self.groups.get(&group).and_then(|group| group.since);
                    match self.is_ordered(group) {
                        true => Load::OrderedProgress(group, queue, since),
                        false => Load::Progress(group, queue, since),
                    }
                }
            };
            self.want(load, Purpose::Entity(entity));
        }
    }

    /// Begins loading what a poll of this group on this topic touches and is not resident: a queue added while it waited.
    pub(crate) fn load_for_poll(&mut self, topic: TopicId, group: GroupId) {
        let queues = self.topics.get(&topic).map(|topic| topic.read_queues().to_vec()).unwrap_or_default();
        for queue in queues {
            for entity in [Entity::Queue(queue), Entity::Progress(group, queue)] {
                if !self.is_resident(entity) && self.is_known(entity) {
                    self.begin_load(entity);
                }
            }
        }
    }

    fn is_resident(&self, entity: Entity) -> bool {
        match entity {
            Entity::Queue(queue) => self.queues.contains_key(&queue),
            Entity::Progress(group, queue) => self.progress.contains_key(&(group, queue)),
        }
    }

    /// Whether it can exist at all: handles of deleted groups and topics name what is gone.
    fn is_known(&self, entity: Entity) -> bool {
        let (group, queue) = match entity {
            Entity::Queue(queue) => (None, queue),
            Entity::Progress(group, queue) => (Some(group), queue),
        };
        group.is_none_or(|group| self.groups.contains_key(&group)) && self.topic_of.contains_key(&queue)
    }

    pub(crate) fn want(&mut self, load: Load, purpose: Purpose<T>) -> LoadId {
        let id = LoadId(self.next_load);
        self.next_load += 1;
        self.loads.insert(id, purpose);
        self.wanted.push((id, load));
        id
    }

    fn loaded(&mut self, id: LoadId, result: Result<Loaded, ReadError>) {
        let Some(purpose) = self.loads.remove(&id) else { return };
        match (purpose, result) {
            (Purpose::Entity(entity), result) => {
                let kept = result.map_err(|error| error.to_string()).and_then(|loaded| self.keep(entity, loaded));
                if let (Ok(()), Entity::Queue(queue) | Entity::Progress(_, queue)) = (&kept, entity)
                    && let Some(&topic) = self.topic_of.get(&queue)
                {
                    self.stir_topic(topic);
                }
                for work in self.parked.remove(&entity).unwrap_or_default() {
                    match &kept {
                        Ok(()) => self.handle(work),
                        Err(reason) => self.refuse_work(work, reason),
                    }
                }
            }
            (Purpose::DeadLetter { group, queue, offset, reply }, Ok(Loaded::Message(message))) => {
                self.dead_letter_loaded(group, queue, offset, message, reply);
            }
            (Purpose::DeadLetter { group, queue, offset, reply }, result) => {
                let reason = result.err().map(|error| error.to_string());
                self.dead_letter_failed(group, queue, offset, reply, reason);
            }
            (Purpose::Filter { group, queue, from, until }, result) => {
                let matches = match result {
                    Ok(Loaded::Matches(matches)) => Some(matches),
                    _ => None,
                };
                self.filtered(group, queue, id, from..until, matches);
            }
            (Purpose::Classify { group, queue, from, until }, result) => {
                let matches = match result {
                    Ok(Loaded::Matches(matches)) => Some(matches),
                    _ => None,
                };
                self.classified(group, queue, id, from..until, matches);
            }
            (Purpose::Keyed { group, queue, from, until }, result) => {
                let found = match result {
                    Ok(Loaded::Keyed(found)) => Some(found),
                    _ => None,
                };
                self.keyed(group, queue, id, from..until, found);
            }
            (Purpose::Parked { group, queue, key, start }, result) => {
                let offsets = match result {
                    Ok(Loaded::Parked(offsets)) => offsets,
                    _ => None,
                };
                self.parked_loaded(group, queue, (key, start), id, offsets.as_deref());
            }
            (Purpose::Sweep(prefix), Ok(Loaded::Keys(keys))) => self.swept(prefix, &keys),
            // What is swept is garbage: it can wait for the next batch.
            (Purpose::Sweep(prefix), _) => self.next_sweeps.push(prefix),
            (Purpose::DescribeGroup { group, token }, Ok(Loaded::Queues(mut queues))) => {
                queues.extend(
                    self.progress.range((group, QueueId(0))..=(group, QueueId(u64::MAX))).map(|(key, _)| key.1),
                );
                queues.sort_unstable();
                queues.dedup();
                self.handle(Work::DescribeGroup { group, queues, token });
            }
            (Purpose::Resend { queue, offset, token }, Ok(Loaded::Message(message))) => {
                self.resend_loaded(queue, offset, token, Ok(message));
            }
            (Purpose::Resend { queue, offset, token }, result) => {
                let error = result.err().unwrap_or(ReadError::Closed);
                self.resend_loaded(queue, offset, token, Err(error));
            }
            (Purpose::DescribeGroup { token, .. }, result) => {
                let reason = result.err().map_or_else(String::new, |error| error.to_string());
                self.reply(token, Output::Refused(Refused::ReadFailed(reason)));
            }
            (Purpose::Timers, Ok(Loaded::Timers(found, more))) => self.timers_scanned(Some((found, more))),
            (Purpose::Timers, _) => self.timers_scanned(None),
            (Purpose::Due, Ok(Loaded::Due(found))) => self.due_loaded(Some(found)),
            (Purpose::Due, _) => self.due_loaded(None),
            (Purpose::Half(place), Ok(Loaded::Half(found))) => self.half_loaded(place, found),
            (Purpose::Half(place), result) => {
                let reason = result.err().map_or_else(String::new, |error| error.to_string());
                self.half_unknown(place, &reason);
            }
            (Purpose::Recall { topic, at }, Ok(Loaded::Timer { there, message })) => {
                self.recall_loaded(topic, at, Ok((there, message)));
            }
            (Purpose::Recall { topic, at }, result) => {
                let reason = result.err().map_or_else(String::new, |error| error.to_string());
                self.recall_loaded(topic, at, Err(reason));
            }
        }
    }

    fn keep(&mut self, entity: Entity, loaded: Loaded) -> Result<(), String> {
        if !self.is_known(entity) || self.is_resident(entity) {
            return Ok(());
        }
        match (entity, loaded) {
            (Entity::Queue(id), Loaded::Queue { image, bounds }) => {
                let bytes = image.and_then(|state| state.image).ok_or("the queue has no entry in the store")?;
                let image = QueueImage::decode(&bytes).map_err(|error| error.to_string())?;
                let bounds = bounds.unwrap_or_default();
                self.queues.insert(id, Queue::load(id, image, bounds.start, bounds.end));
                self.reindex_expiry(id);
                let groups: Vec<_> = self.progress.keys().filter(|key| key.1 == id).map(|key| key.0).collect();
                groups.into_iter().for_each(|group| self.clamp(group, id));
            }
            (Entity::Progress(group, queue), Loaded::OrderedProgress { frontier, pages, start, parked }) => {
                self.keep(entity, Loaded::Progress { frontier, pages, start })?;
                let chunks = parked.ok_or("parked messages cannot be read")?;
                if let Some(progress) = self.progress.get_mut(&(group, queue)) {
                    progress.restore_parked(&chunks);
                }
                self.clamp(group, queue);
            }
            (Entity::Progress(group, queue), Loaded::Progress { frontier, pages, start }) => {
                let progress = match frontier.and_then(|state| state.image) {
                    Some(bytes) => {
                        let next = codec::decode_frontier(&bytes).map_err(|error| error.to_string())?;
                        Progress::load(group, queue, next, &pages).map_err(|error| error.to_string())?
                    }
                    // A new group starts at the first message that is there, unless it says otherwise.
                    None => {
                        let mut progress = Progress::new(group, queue, start);
                        progress.mark_created();
                        self.touched.insert((group, queue));
                        self.ops.push(Op::Put {
                            key: keys::consumer(queue, group),
                            image: Bytes::new(),
                            keep_until: None,
                        });
                        progress
                    }
                };
                self.progress.insert((group, queue), progress);
                self.reindex.insert((group, queue));
                self.clamp(group, queue);
                // What lapsed while it was not in memory is visible before anybody is served.
                self.lapse(group, queue);
            }
            _ => return Err("the store answered something else than was asked".into()),
        }
        Ok(())
    }

    /// A poll that waits for something to be loaded and that nobody waits for any more.
    fn drop_parked_poll(&mut self, poll: PollId) {
        let is_it = |work: &mut Work<T>| match work {
            Work::Command(Command::Receive { receive, .. }) => receive.poll == poll,
            Work::Command(Command::AwaitOffset { poll: waiting, .. }) => *waiting == poll,
            _ => false,
        };
        for parked in self.parked.values_mut() {
            if parked.extract_if(.., is_it).next().is_some() {
                return;
            }
        }
    }

    fn refuse_work(&mut self, work: Work<T>, reason: &str) {
        let token = match work {
            Work::DeadLetter { group, queue, offset, reply, .. } => {
                return self.dead_letter_failed(group, queue, offset, reply, Some(reason.to_owned()));
            }
            Work::Resend { queue, offset, token, .. } => {
                let refused = Output::Refused(Refused::ReadFailed(reason.to_owned()));
                return self.resend_failed(queue, offset, token, refused);
            }
            Work::Expire(queue) => return self.set_expiry(queue, Some(self.now.plus(PAUSED_MILLIS))),
            Work::Fire { messages, .. } => return self.timers_again(messages.into_iter().map(|(at, _)| at)),
            Work::Half { place, .. } => return self.half_unknown(place, reason),
            Work::Command(
                Command::Send { token, .. }
                | Command::Schedule { token, .. }
                | Command::Receive { token, .. }
                | Command::Ack { token, .. }
                | Command::ChangeInvisible { token, .. }
                | Command::DeadLetter { token, .. }
                | Command::DescribeTopic { token, .. }
                | Command::DescribeSubscriptions { token, .. }
                | Command::Unresolved { token, .. }
                | Command::Resend { token, .. }
                | Command::AwaitOffset { token, .. }
                | Command::Reset { token, .. },
            )
            | Work::DescribeGroup { token, .. } => Some(token),
            Work::Command(_) => None,
        };
        if let Some(token) = token {
            self.reply(token, Output::Refused(Refused::ReadFailed(reason.to_owned())));
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
        if let Some(progress) = self.progress.get_mut(&(group, queue)) {
            progress.apply(&change);
            self.note_changed(group, queue);
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

    pub(crate) fn put_queue(&mut self, id: QueueId) {
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
        if self.queues.len() + self.progress.len() > self.options.resident_max {
            self.evict_clean();
        }
        if !self.has_changes() {
            self.ask_after_batch();
        }
    }

    fn serve_stirred(&mut self) {
        while let Some((topic, group)) = self.stirred.pop_first() {
            self.serve(topic, group);
        }
    }

    /// When something is due by itself, if anything.
    pub(crate) fn next_wakeup(&self) -> Option<UnixMillis> {
        let due = self.due.first().map(|entry| entry.0);
        let poll = self.poll_ends.first().map(|entry| entry.0);
        let expiry = self.expiries.first().map(|entry| entry.0);
        // While deletion pauses, look now and then whether it goes on.
        let expiry = expiry.map(|at| if self.deletion_paused { at.max(self.now.plus(PAUSED_MILLIS)) } else { at });
        [due, poll, expiry, self.next_timer(), self.waits.first_end()].into_iter().flatten().min()
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
                let (topic, durable) = (queue.topic, queue.durable);
                self.stir_topic(topic);
                self.reached(id, durable);
            }
        }
    }

    pub(crate) fn stir_topic(&mut self, topic: TopicId) {
        let waiting = self.polls.range((topic, GroupId(0))..=(topic, GroupId(u32::MAX)));
        self.stirred.extend(waiting.map(|(key, _)| *key));
    }

    /// Drops every resident entity that is durable as it is and that no poll waits on.
    pub fn evict_clean(&mut self) {
        let durable = self.durable_batch;
        let is_durable =
            |changed_in: &BTreeMap<Entity, u64>, entity| changed_in.get(&entity).is_none_or(|&batch| batch <= durable);
        // What waits for something else to be loaded must not lose meanwhile what it has, or it would never be whole.
        let mut needed: BTreeSet<Entity> =
            self.polls.keys().flat_map(|&(topic, group)| self.touched_by_poll(topic, group)).collect();
        needed.extend(self.parked.values().flatten().flat_map(|work| self.touched_by(work)));
        let (touched, changed_in, reindex) = (&self.touched, &self.changed_in, &self.reindex);
        let evicted: Vec<_> = self
            .progress
            .iter()
            .filter(|(key, progress)| {
                progress.is_clean()
                    && progress.renewals.is_empty()
                    && !touched.contains(key)
                    && !reindex.contains(key)
                    && !needed.contains(&Entity::Progress(key.0, key.1))
                    && is_durable(changed_in, Entity::Progress(key.0, key.1))
            })
            .map(|(key, _)| *key)
            .collect();
        for key in evicted {
            self.progress.remove(&key);
            self.changed_in.remove(&Entity::Progress(key.0, key.1));
            if let Some(due) = self.due_of.remove(&key) {
                self.due.remove(&(due, key.0, key.1));
            }
        }
        let in_use: BTreeSet<QueueId> =
            self.progress.keys().map(|key| key.1).chain(self.appended.iter().copied()).collect();
        let changed_in = &self.changed_in;
        self.queues.retain(|&id, queue| {
            in_use.contains(&id)
                || needed.contains(&Entity::Queue(id))
                || queue.durable < queue.next
                || !is_durable(changed_in, Entity::Queue(id))
        });
        self.changed_in.retain(|_, batch| *batch > durable);
    }

    pub(crate) fn forget_progress(&mut self, group: GroupId, queue: QueueId) {
        self.progress.remove(&(group, queue));
        self.touched.remove(&(group, queue));
        self.changed_in.remove(&Entity::Progress(group, queue));
        if let Some(due) = self.due_of.remove(&(group, queue)) {
            self.due.remove(&(due, group, queue));
        }
    }
}

impl Topic {
    /// The queue the next send goes to.
    pub fn send_queue(&self) -> Option<QueueId> {
        let count = (self.facts.write_queues as usize).min(self.queues.len());
        (count > 0).then(|| self.queues[self.next_send % count])
    }

    /// The queue of a message group, by its hash: always the same, whatever queues are added or closed to new messages. Only
    /// if that queue is not read any more, and so what is in it was given up, another one.
    pub fn queue_for(&self, group: u64) -> Option<QueueId> {
        let at = |count: u32| group.checked_rem(u64::from(count)).map(|index| index as usize);
        let queue = at(self.spread).and_then(|index| self.read_queues().get(index));
        queue.or_else(|| self.queues.get(at(self.facts.write_queues)?)).copied()
    }

    /// The queue of a message with this priority, in a topic whose queues are levels.
    pub fn level(&self, priority: u32) -> Option<QueueId> {
        self.queues.get(self.facts.write_queues.checked_sub(1)?.min(priority) as usize).copied()
    }

    /// Where this record goes, of this message group or the next one without a group.
    pub fn queue_for_message(&self, group: Option<u64>, record: &[u8]) -> Option<QueueId> {
        if self.facts.by_priority {
            return self.level(priority_of(record));
        }
        group.and_then(|group| self.queue_for(group)).or_else(|| self.send_queue())
    }

    /// The queues messages are received from.
    pub fn read_queues(&self) -> &[QueueId] {
        &self.queues[..(self.facts.read_queues as usize).min(self.queues.len())]
    }
}
