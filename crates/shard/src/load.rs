//! What the shard asks its caller to read from the store. The caller runs [`execute`] wherever it likes and gives the
//! result back as a command.

use crate::keys;
use crate::ordered::message_group_of;
use crate::parked::{self, StoredChunk};
use bytes::Bytes;
use martlet_model::{Filter, GroupId, QueueId, QueueOffset};
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
    /// A group's frontier and pages.
    Progress(GroupId, QueueId),
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
    /// An ordered group's frontier, pages and parked messages.
    OrderedProgress(GroupId, QueueId),
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
}

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
        Load::Progress(group, queue) => Loaded::Progress {
            frontier: reader.get(&keys::frontier(*group, *queue)).await?,
            pages: scan_all(reader, keys::pages(*group, *queue)).await?,
        },
        Load::OrderedProgress(group, queue) => Loaded::OrderedProgress {
            frontier: reader.get(&keys::frontier(*group, *queue)).await?,
            pages: scan_all(reader, keys::pages(*group, *queue)).await?,
            parked: parked_chunks(reader, keys::parked_in(*group, *queue)).await?,
        },
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
    })
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
