//! What the shard asks its caller to read from the store. The caller runs [`execute`] wherever it likes and gives the
//! result back as a command.

use crate::command::{HalfPlace, TimerAt};
use crate::halves::{self, HalfFound};
use crate::keys;
use crate::ordered::message_group_of;
use crate::parked::{self, StoredChunk};
use crate::timers::{self, Timer};
use bytes::Bytes;
use martlet_model::{Filter, GroupId, QueueId, QueueOffset, UnixMillis};
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
    Timers(Option<TimerAt>),
    /// Messages of buckets, sorted by place; as many as fit [`DUE_BYTES`].
    Due(Vec<(QueueId, QueueOffset)>),
    /// A timer, and the message it is about.
    Timer(TimerAt),
    /// How a transaction stands.
    Half {
        /// Its half message.
        place: HalfPlace,
        /// Whether the message itself is wanted.
        with_message: bool,
    },
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
    /// For [`Load::Half`]. `None`: a newer broker wrote it.
    Half(Option<HalfFound>),
}

/// Bytes of messages that one [`Load::Due`] brings, or one message.
const DUE_BYTES: usize = 1 << 20;
/// Most keys one sweep removes.
const SWEEP_KEYS: usize = 256;
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
        Load::Timers(from) => {
            let (found, more) = timers::scan(reader, *from).await?;
            Loaded::Timers(found, more)
        }
        Load::Due(places) => Loaded::Due(due(reader, places).await?),
        Load::Timer(at) => Loaded::Timer {
            there: reader.get(&keys::timer(*at)).await?.is_some_and(|state| state.image.is_some()),
            message: reader.messages(at.queue, at.offset..at.offset.next(), 1, 1).await?.pop(),
        },
        Load::Half { place, with_message } => Loaded::Half(halves::find(reader, *place, *with_message).await?),
    })
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
    walk(reader, queue, range, |message| {
        let mask = mask_of(message, filters);
        (mask != 0).then_some((message.offset, mask))
    })
    .await
}

async fn keyed<R: Reader>(
    reader: &R,
    queue: QueueId,
    range: Range<QueueOffset>,
    filters: &[Arc<Filter>],
) -> Result<Vec<(QueueOffset, u64, u64)>, ReadError> {
    walk(reader, queue, range, |message| {
        let mask = mask_of(message, filters);
        (mask != 0).then(|| (message.offset, mask, message_group_of(&message.record).unwrap_or(0)))
    })
    .await
}

/// A bit per filter that a message matches.
fn mask_of(message: &StoredMessage, filters: &[Arc<Filter>]) -> u64 {
    let matching = filters.iter().enumerate().filter(|(_, filter)| filter.matches(&message.record));
    matching.fold(0, |mask, (bit, _)| mask | 1 << bit)
}

/// What `pick` makes of the messages of a range.
async fn walk<R: Reader, T>(
    reader: &R,
    queue: QueueId,
    range: Range<QueueOffset>,
    pick: impl Fn(&StoredMessage) -> Option<T>,
) -> Result<Vec<T>, ReadError> {
    let mut found = Vec::new();
    let mut from = range.start;
    while from < range.end {
        let messages = reader.messages(queue, from..range.end, 1024, 1 << 20).await?;
        let Some(last) = messages.last() else { break };
        from = last.offset.next();
        found.extend(messages.iter().filter_map(&pick));
    }
    Ok(found)
}
