//! What the shard asks its caller to read from the store. The caller runs [`execute`] wherever it likes and gives the
//! result back as a command.

use crate::codec;
use crate::command::{HalfPlace, TimerAt};
use crate::halves::{self, HalfFound};
use crate::keys;
use crate::ordered::message_group_of;
use crate::parked::{self, StoredChunk};
use crate::progress::Progress;
use crate::queue::LiteConsumer;
use crate::schedule::{self, TimersOf};
use crate::timers::Timer;
use bytes::Bytes;
use martlet_model::record::{self, RetryOf};
use martlet_model::{Filter, GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_store::{KeyState, ReadError, Reader, StoredMessage};
use std::ops::Range;
use std::sync::Arc;

/// Names one load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadId(pub u64);

/// One thing to read.
#[derive(Clone, Debug)]
pub enum Load {
    /// A queue's image and bounds.
    Queue(QueueId),
    /// A group's frontier and pages. If it has none: where it begins, by this time.
    Progress(GroupId, QueueId, Option<UnixMillis>),
    /// One message, for a dead letter.
    Message(QueueId, QueueOffset),
    /// Which messages of a range match which of these filters.
    Filter {
        /// The queue.
        queue: QueueId,
        /// Lent offsets.
        range: Range<QueueOffset>,
        /// At most 64.
        filters: Vec<Arc<Filter>>,
    },
    /// An ordered group's frontier, pages and parked messages; else the same.
    OrderedProgress(GroupId, QueueId, Option<UnixMillis>),
    /// Which messages of a range match which of these filters, and of which message group they are.
    Keyed {
        /// The queue.
        queue: QueueId,
        /// Lent offsets.
        range: Range<QueueOffset>,
        /// At most 64.
        filters: Vec<Arc<Filter>>,
    },
    /// One chunk of parked messages.
    Parked {
        /// The group.
        group: GroupId,
        /// The queue.
        queue: QueueId,
        /// Hash of the message group.
        key: u64,
        /// The chunk's first offset.
        start: u64,
    },
    /// Some keys below a prefix, to be removed.
    Sweep(Bytes),
    /// The queues a group has progress in.
    GroupQueues(GroupId),
    /// The next timers, from this one on.
    Timers(TimersOf, TimerAt),
    /// Messages of buckets, sorted by place; as many as fit [`DUE_BYTES`].
    Due(Vec<(QueueId, QueueOffset)>),
    /// A timer, and the message it is about.
    Timer(TimerAt),
    /// A lite topic by its name.
    Lite(TopicId, Arc<str>),
    /// A lite topic by its queue.
    LiteQueue(QueueId),
    /// Some clients of a group and their lite subscriptions, from this key on.
    LiteMembers(GroupId, Option<Bytes>),
    /// Whether lite topics have something for a group, and what was stored in them from a time on.
    LiteLookup {
        /// The group.
        group: GroupId,
        /// Parent of the lite topics.
        parent: TopicId,
        /// Their names.
        names: Vec<Arc<str>>,
        /// The time, if that is asked.
        at: Option<UnixMillis>,
    },
    /// The groups that have progress in a queue.
    Consumers(QueueId),
    /// Lite topics that a group may not have settled, from this key on.
    LiteBacklog(GroupId, Option<Bytes>),
    /// What references in these places of a retry queue name.
    References(QueueId, Vec<Range<QueueOffset>>),
    /// Whether a group has been in a queue.
    HasProgress(GroupId, QueueId),
    /// How a transaction stands.
    Half {
        /// Its half message.
        place: HalfPlace,
        /// Whether the message itself is wanted.
        with_message: bool,
    },
}

/// What is known of a lite topic that was looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiteFound {
    /// Its queue; `None`: there is no such lite topic.
    pub queue: Option<QueueId>,
    /// Whether something in it is not settled by the group.
    pub waits: bool,
    /// The first place stored at the time asked for, or later.
    pub at: Option<QueueOffset>,
}

/// What was found.
#[derive(Clone, Debug)]
pub enum Loaded {
    /// For [`Load::Queue`].
    Queue {
        /// Key 4.
        image: Option<KeyState>,
        /// First readable and next offset.
        bounds: Option<Range<QueueOffset>>,
    },
    /// For [`Load::Progress`].
    Progress {
        /// Key 5.
        frontier: Option<KeyState>,
        /// Keys 6.
        pages: Vec<(Bytes, KeyState)>,
        /// Where to begin without a frontier.
        start: QueueOffset,
    },
    /// For [`Load::References`]; `None`: a whole message. Without what is not there.
    References(Vec<(QueueOffset, Option<RetryOf>)>),
    /// For [`Load::HasProgress`].
    HasProgress(bool),
    /// For [`Load::Message`]; `None` if it was trimmed.
    Message(Option<StoredMessage>),
    /// For [`Load::Filter`]: offsets that match, with a bit per filter.
    Matches(Vec<(QueueOffset, u64)>),
    /// For [`Load::OrderedProgress`].
    OrderedProgress {
        /// Key 5.
        frontier: Option<KeyState>,
        /// Keys 6.
        pages: Vec<(Bytes, KeyState)>,
        /// Where to begin without a frontier.
        start: QueueOffset,
        /// Keys 13, without the offsets. `None`: one of them cannot be read.
        parked: Option<Vec<StoredChunk>>,
    },
    /// For [`Load::Keyed`]: offsets that match, a bit per filter, and the hash of the message group.
    Keyed(Vec<(QueueOffset, u64, u64)>),
    /// For [`Load::Parked`]: what is left of the chunk. `None`: it cannot be read.
    Parked(Option<Vec<u64>>),
    /// For [`Load::Sweep`].
    Keys(Vec<Bytes>),
    /// For [`Load::GroupQueues`].
    Queues(Vec<QueueId>),
    /// For [`Load::Timers`]: the timers, and whether there may be more.
    Timers(Vec<(TimerAt, Timer)>, bool),
    /// For [`Load::Due`]: a prefix of what was asked for, with what was found.
    Due(Vec<(QueueId, QueueOffset, Option<Bytes>)>),
    /// For [`Load::Timer`].
    Timer {
        /// Whether it is there.
        there: bool,
        /// Its message, if that is still there.
        message: Option<StoredMessage>,
    },
    /// For [`Load::Lite`]; `None`: there is none of that name.
    Lite(Option<StoredLite>),
    /// For [`Load::LiteQueue`]; `None`: there is none any more.
    LiteQueue(Option<StoredLite>),
    /// For [`Load::LiteMembers`]: client id, keys 18 and 19, and where to go on if there may be more.
    LiteMembers(Vec<(Arc<str>, KeyState, Option<KeyState>)>, Option<Bytes>),
    /// For [`Load::LiteLookup`], in the order asked. `None`: something cannot be read.
    LiteLookup(Option<Vec<LiteFound>>),
    /// For [`Load::Consumers`].
    Consumers(Vec<GroupId>),
    /// For [`Load::LiteBacklog`]: their queues, and where to go on if there may be more.
    LiteBacklog(Vec<QueueId>, Option<Bytes>),
    /// For [`Load::Sweep`] of lite topics: keys 17 and the queues they name.
    LiteSwept(Vec<(Bytes, Option<QueueId>)>),
    /// For [`Load::Half`]. `None`: a newer broker wrote it.
    Half(Option<HalfFound>),
}

/// A lite topic as the store has it.
#[derive(Clone, Debug)]
pub struct StoredLite {
    /// Its queue.
    pub queue: QueueId,
    /// Key 20.
    pub image: KeyState,
    /// First readable and next offset.
    pub bounds: Range<QueueOffset>,
    /// Groups that have progress in it.
    pub consumers: Vec<LiteConsumer>,
}

/// Bytes of messages that one [`Load::Due`] brings, or one message.
const DUE_BYTES: usize = 1 << 20;
/// Most keys one sweep removes.
const SWEEP_KEYS: usize = 256;
/// Messages of a range that are looked at together, and their bytes.
const AT_ONCE: usize = 1024;
const AT_ONCE_BYTES: usize = 1 << 20;
/// Clients whose lite subscriptions are read at a time.
const LITE_MEMBERS: usize = 4;
/// Most keys one scan brings; more are fetched by the next.
const SCAN_KEYS: usize = 4096;

/// Reads it.
pub async fn execute<R: Reader>(reader: &R, load: &Load) -> Result<Loaded, ReadError> {
    Ok(match load {
        Load::Queue(queue) => {
            Loaded::Queue { image: reader.get(&keys::queue(*queue)).await?, bounds: reader.bounds(*queue).await? }
        }
        Load::Progress(group, queue, since) => {
            let frontier = reader.get(&keys::frontier(*group, *queue)).await?;
            let start = start(reader, *queue, frontier.as_ref(), *since).await?;
            Loaded::Progress { frontier, pages: scan_all(reader, keys::pages(*group, *queue)).await?, start }
        }
        Load::OrderedProgress(group, queue, since) => {
            let frontier = reader.get(&keys::frontier(*group, *queue)).await?;
            let start = start(reader, *queue, frontier.as_ref(), *since).await?;
            Loaded::OrderedProgress {
                frontier,
                pages: scan_all(reader, keys::pages(*group, *queue)).await?,
                start,
                parked: parked_chunks(reader, keys::parked_in(*group, *queue)).await?,
            }
        }
        Load::Keyed { queue, range, filters } => Loaded::Keyed(keyed(reader, *queue, range.clone(), filters).await?),
        Load::Parked { group, queue, key, start } => {
            let state = reader.get(&keys::parked(*group, *queue, *key, *start)).await?;
            Loaded::Parked(state.map_or(Some(Vec::new()), |state| parked::decode(*start, &state).ok()))
        }
        Load::Message(queue, offset) => {
            Loaded::Message(reader.messages(*queue, *offset..offset.next(), 1, 1).await?.pop())
        }
        Load::Filter { queue, range, filters } => {
            Loaded::Matches(matches(reader, *queue, range.clone(), filters).await?)
        }
        Load::Sweep(prefix) if prefix.first() == Some(&keys::LITE_TOPIC) => {
            let found = reader.scan(keys::prefixed(prefix), SWEEP_KEYS).await?;
            Loaded::LiteSwept(found.into_iter().map(|(key, state)| (key, lite_queue_of(&state))).collect())
        }
        Load::Sweep(prefix) => Loaded::Keys(
            reader.scan(keys::prefixed(prefix), SWEEP_KEYS).await?.into_iter().map(|(key, _)| key).collect(),
        ),
        Load::GroupQueues(group) => Loaded::Queues(
            scan_all(reader, keys::frontiers_of(*group))
                .await?
                .iter()
                .filter_map(|(key, _)| keys::numbers(key)?.get(1).map(|&queue| QueueId(queue)))
                .collect(),
        ),
        Load::Timers(of, from) => {
            let (found, more) = schedule::scan(reader, *of, Some(*from)).await?;
            Loaded::Timers(found, more)
        }
        Load::Due(places) => Loaded::Due(due(reader, places).await?),
        Load::Timer(at) => Loaded::Timer {
            there: reader.get(&keys::timer(TimersOf::Messages, *at)).await?.is_some_and(|state| state.image.is_some()),
            message: reader.messages(at.queue, at.offset..at.offset.next(), 1, 1).await?.pop(),
        },
        Load::Lite(parent, name) => {
            let found = reader.get(&keys::lite_topic(*parent, name)).await?.and_then(|state| lite_queue_of(&state));
            Loaded::Lite(match found {
                Some(queue) => stored_lite(reader, queue).await?,
                None => None,
            })
        }
        Load::LiteQueue(queue) => Loaded::LiteQueue(stored_lite(reader, *queue).await?),
        Load::LiteMembers(group, from) => lite_members(reader, *group, from.clone()).await?,
        Load::LiteLookup { group, parent, names, at } => {
            Loaded::LiteLookup(lite_lookup(reader, *group, *parent, names, *at).await?)
        }
        Load::LiteBacklog(group, from) => {
            let mut range = keys::prefixed(&keys::lite_backlog_of(*group));
            range.start = from.clone().unwrap_or(range.start);
            let found = reader.scan(range, SCAN_KEYS).await?;
            let last = found.last().filter(|_| found.len() == SCAN_KEYS);
            let next = last.map(|(key, _)| Bytes::from([key, &[0][..]].concat()));
            let queue = |key: &Bytes| keys::numbers(key)?.get(2).copied().map(QueueId);
            Loaded::LiteBacklog(found.iter().filter_map(|(key, _)| queue(key)).collect(), next)
        }
        Load::Consumers(queue) => Loaded::Consumers(consumers(reader, *queue).await?),
        Load::References(queue, places) => {
            let mut found = Vec::new();
            for range in places {
                for message in all_of(reader, *queue, range.clone()).await? {
                    let reference = record::retry_of(&message.record);
                    found.push((message.offset, reference));
                }
            }
            Loaded::References(found)
        }
        Load::HasProgress(group, queue) => {
            let frontier = reader.get(&keys::frontier(*group, *queue)).await?;
            Loaded::HasProgress(frontier.is_some_and(|frontier| frontier.image.is_some()))
        }
        Load::Half { place, with_message } => Loaded::Half(halves::find(reader, *place, *with_message).await?),
    })
}

/// All messages of a range.
async fn all_of<R: Reader>(
    reader: &R,
    queue: QueueId,
    range: Range<QueueOffset>,
) -> Result<Vec<StoredMessage>, ReadError> {
    let (mut all, mut at) = (Vec::new(), range.start);
    while at < range.end {
        let found = reader.messages(queue, at..range.end, AT_ONCE, AT_ONCE_BYTES).await?;
        let Some(last) = found.last() else { break };
        at = last.offset.next();
        all.extend(found);
    }
    Ok(all)
}

fn lite_queue_of(state: &KeyState) -> Option<QueueId> {
    codec::decode_number(state.image.as_ref()?, "lite topic").ok().map(QueueId)
}

async fn stored_lite<R: Reader>(reader: &R, queue: QueueId) -> Result<Option<StoredLite>, ReadError> {
    let Some(image) = reader.get(&keys::lite_queue(queue)).await? else { return Ok(None) };
    let bounds = reader.bounds(queue).await?.unwrap_or_default();
    let found = scan_all(reader, keys::prefixed(&keys::consumers_of(queue))).await?;
    let mut consumers = Vec::with_capacity(found.len());
    for (key, state) in &found {
        let Some(group) = consumer_of(key) else { continue };
        let put_last = state.image.as_ref().and_then(|image| codec::decode_number(image, "time").ok());
        let mut since = put_last.and_then(|time| i64::try_from(time).ok()).map(UnixMillis);
        if let Some(time) = since {
            let stands = reader.get(&keys::lite_since(group, time, queue)).await?.is_some_and(|it| it.image.is_some());
            since = since.filter(|_| stands);
        }
        consumers.push(LiteConsumer { group, since });
    }
    Ok(Some(StoredLite { queue, image, bounds, consumers }))
}

/// The group that a key 7 names.
fn consumer_of(key: &Bytes) -> Option<GroupId> {
    Some(GroupId(u32::try_from(*keys::numbers(key)?.get(1)?).ok()?))
}

async fn consumers<R: Reader>(reader: &R, queue: QueueId) -> Result<Vec<GroupId>, ReadError> {
    let found = scan_all(reader, keys::prefixed(&keys::consumers_of(queue))).await?;
    Ok(found.iter().filter_map(|(key, _)| consumer_of(key)).collect())
}

async fn lite_members<R: Reader>(reader: &R, group: GroupId, from: Option<Bytes>) -> Result<Loaded, ReadError> {
    let mut range = keys::prefixed(&keys::lite_sets_of(group));
    range.start = from.unwrap_or(range.start);
    let found = reader.scan(range, LITE_MEMBERS).await?;
    let last = found.last().filter(|_| found.len() == LITE_MEMBERS);
    let next = last.map(|(key, _)| Bytes::from([key, &[0][..]].concat()));
    let mut members = Vec::with_capacity(found.len());
    for (key, set) in found {
        if let Some((_, client_id)) = keys::text_of(&key) {
            let lease = reader.get(&keys::lite_lease(group, client_id)).await?;
            members.push((Arc::from(client_id), set, lease));
        }
    }
    Ok(Loaded::LiteMembers(members, next))
}

async fn lite_lookup<R: Reader>(
    reader: &R,
    group: GroupId,
    parent: TopicId,
    names: &[Arc<str>],
    at: Option<UnixMillis>,
) -> Result<Option<Vec<LiteFound>>, ReadError> {
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let queue = reader.get(&keys::lite_topic(parent, name)).await?.and_then(|state| lite_queue_of(&state));
        let Some(id) = queue else {
            all.push(LiteFound::default());
            continue;
        };
        let bounds = reader.bounds(id).await?.unwrap_or_default();
        let frontier = reader.get(&keys::frontier(group, id)).await?.and_then(|state| state.image);
        let waits = match frontier {
            None => bounds.start < bounds.end,
            Some(frontier) => {
                let pages = scan_all(reader, keys::pages(group, id)).await?;
                let progress =
                    codec::decode_frontier(&frontier).and_then(|next| Progress::load(group, id, next, &pages));
                let Ok(progress) = progress else { return Ok(None) };
                progress.open_slots() > 0 || progress.next() < bounds.end
            }
        };
        let at = match at {
            Some(time) => Some(offset_at(reader, id, time).await?),
            None => None,
        };
        all.push(LiteFound { queue, waits, at });
    }
    Ok(Some(all))
}

/// Where a group without a frontier begins.
async fn start<R: Reader>(
    reader: &R,
    queue: QueueId,
    frontier: Option<&KeyState>,
    since: Option<UnixMillis>,
) -> Result<QueueOffset, ReadError> {
    match since {
        Some(since) if frontier.is_none_or(|frontier| frontier.image.is_none()) => {
            offset_at(reader, queue, since).await
        }
        _ => Ok(QueueOffset(0)),
    }
}

async fn due<R: Reader>(
    reader: &R,
    places: &[(QueueId, QueueOffset)],
) -> Result<Vec<(QueueId, QueueOffset, Option<Bytes>)>, ReadError> {
    let mut found = Vec::with_capacity(places.len());
    let mut left = DUE_BYTES;
    while let Some(&(queue, first)) = places.get(found.len()) {
        let rest = places[found.len()..].iter().zip(first.0..);
        let run = rest.take_while(|((of, offset), expected)| *of == queue && offset.0 == *expected).count();
        let messages = reader.messages(queue, first..QueueOffset(first.0 + run as u64), run, left).await?;
        let bytes: usize = messages.iter().map(|message| message.record.len()).sum();
        // The first that is there always comes, so of a run of which nothing comes nothing is there. What is missing
        // behind the last one may be there: it did not fit.
        let until =
            messages.last().filter(|_| messages.len() < run).map_or(first.0 + run as u64, |last| last.offset.0 + 1);
        let mut messages = messages.into_iter().peekable();
        for offset in (first.0..until).map(QueueOffset) {
            let record = messages.next_if(|message| message.offset == offset).map(|message| message.record);
            found.push((queue, offset, record));
        }
        left = left.saturating_sub(bytes);
        if left == 0 {
            break;
        }
    }
    Ok(found)
}

/// First place of a queue whose message was stored at this time or later; the queue's end if there is none. Reads one
/// message per halving of the queue.
pub async fn offset_at<R: Reader>(reader: &R, queue: QueueId, time: UnixMillis) -> Result<QueueOffset, ReadError> {
    let bounds = reader.bounds(queue).await?.unwrap_or_default();
    let (mut low, mut high) = (bounds.start.0, bounds.end.0);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = reader.messages(queue, QueueOffset(middle)..QueueOffset(high), 1, 1).await?;
        match found.first() {
            Some(message) if message.store_time < time => low = message.offset.0 + 1,
            // Too new, or a stretch that repair dropped.
            Some(_) | None => high = middle,
        }
    }
    Ok(QueueOffset(low))
}

/// All keys of a range, in order.
pub async fn scan_all<R: Reader>(reader: &R, mut range: Range<Bytes>) -> Result<Vec<(Bytes, KeyState)>, ReadError> {
    let mut all = Vec::new();
    loop {
        let some = reader.scan(range.clone(), SCAN_KEYS).await?;
        let full = some.len() == SCAN_KEYS;
        if let Some((last, _)) = some.last() {
            range.start = Bytes::from([last, &[0][..]].concat());
        }
        all.extend(some);
        if !full {
            return Ok(all);
        }
    }
}

/// All chunks of parked messages of a range, a part at a time: their offsets are not kept.
async fn parked_chunks<R: Reader>(reader: &R, mut range: Range<Bytes>) -> Result<Option<Vec<StoredChunk>>, ReadError> {
    let mut chunks = Vec::new();
    loop {
        let some = reader.scan(range.clone(), SCAN_KEYS).await?;
        for (key, state) in &some {
            match parked::summary(key, state) {
                Ok(chunk) => chunks.extend(chunk),
                Err(_) => return Ok(None),
            }
        }
        match some.last() {
            Some((last, _)) if some.len() == SCAN_KEYS => range.start = Bytes::from([last, &[0][..]].concat()),
            _ => return Ok(Some(chunks)),
        }
    }
}

async fn matches<R: Reader>(
    reader: &R,
    queue: QueueId,
    range: Range<QueueOffset>,
    filters: &[Arc<Filter>],
) -> Result<Vec<(QueueOffset, u64)>, ReadError> {
    let pick = |message: &StoredMessage| Some((message.offset, mask_of(message, filters))).filter(|found| found.1 != 0);
    walk(reader, queue, range, Passed::Most, pick).await
}

/// What matches some filter, with its message group.
async fn keyed<R: Reader>(
    reader: &R,
    queue: QueueId,
    range: Range<QueueOffset>,
    filters: &[Arc<Filter>],
) -> Result<Vec<(QueueOffset, u64, u64)>, ReadError> {
    let pick = |message: &StoredMessage| {
        let mask = mask_of(message, filters);
        (mask != 0).then(|| (message.offset, mask, message_group_of(&message.record).unwrap_or(0)))
    };
    walk(reader, queue, range, Passed::Few, pick).await
}

/// How many of the messages that are read are not handed out.
#[derive(Clone, Copy)]
enum Passed {
    Most,
    Few,
}

/// What `pick` makes of the messages of a range.
async fn walk<R: Reader, T>(
    reader: &R,
    queue: QueueId,
    range: Range<QueueOffset>,
    passed: Passed,
    pick: impl Fn(&StoredMessage) -> Option<T>,
) -> Result<Vec<T>, ReadError> {
    let mut found = Vec::new();
    let mut from = range.start;
    while from < range.end {
        let rest = from..range.end;
        let messages = match passed {
            Passed::Most => reader.look_through(queue, rest, AT_ONCE, AT_ONCE_BYTES).await?,
            Passed::Few => reader.messages(queue, rest, AT_ONCE, AT_ONCE_BYTES).await?,
        };
        let Some(last) = messages.last() else { break };
        from = last.offset.next();
        found.extend(messages.iter().filter_map(&pick));
    }
    Ok(found)
}

/// A bit per filter that a message matches.
fn mask_of(message: &StoredMessage, filters: &[Arc<Filter>]) -> u64 {
    let matching = filters.iter().enumerate().filter(|(_, filter)| filter.matches(&message.record));
    matching.fold(0, |mask, (bit, _)| mask | 1 << bit)
}
