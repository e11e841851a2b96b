//! Looks at lite topics that change nothing: read from the store beside the shard, or said by it without a load.

use crate::answer::Output;
use crate::codec::{self, LiteImage};
use crate::keys;
use crate::load::scan_all;
use crate::progress::Progress;
use crate::shard::Shard;
use bytes::Bytes;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_store::{ReadError, Reader};
use std::ops::Range;
use std::sync::Arc;

/// A lite topic as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteLook {
    /// Its name.
    pub name: Arc<str>,
    /// Its queue.
    pub queue: QueueId,
    /// First readable offset.
    pub min: QueueOffset,
    /// Next offset.
    pub max: QueueOffset,
    /// When a message came last: never later, and earlier by at most 1/16 of its time to live.
    pub last: UnixMillis,
}

/// How far a group is in a lite topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiteProgress {
    /// Everything below is settled.
    pub committed: QueueOffset,
    /// Handed out, or visible again, and not settled.
    pub open: u64,
    /// Never handed out.
    pub ready: u64,
}

/// Lite topics of a parent in the order of their names, behind this name, at most so many; and whether there may be more.
pub async fn lite_topics<R: Reader>(
    reader: &R,
    parent: TopicId,
    behind: Option<&str>,
    limit: usize,
) -> Result<(Vec<LiteLook>, bool), ReadError> {
    let all: Range<Bytes> = keys::prefixed(&keys::lite_topics_of(parent));
    let start = behind.map(|name| Bytes::from([&keys::lite_topic(parent, name)[..], &[0][..]].concat()));
    let found = reader.scan(start.unwrap_or(all.start)..all.end, limit).await?;
    let more = found.len() == limit;
    let mut looks = Vec::with_capacity(found.len());
    for (key, _) in &found {
        if let Some((_, name)) = keys::text_of(key) {
            looks.extend(lite_topic(reader, parent, name).await?);
        }
    }
    Ok((looks, more))
}

/// One lite topic, if it exists.
pub async fn lite_topic<R: Reader>(reader: &R, parent: TopicId, name: &str) -> Result<Option<LiteLook>, ReadError> {
    let number = reader.get(&keys::lite_topic(parent, name)).await?.and_then(|state| state.image);
    let Some(queue) = number.and_then(|image| codec::decode_number(&image, "lite topic").ok()).map(QueueId) else {
        return Ok(None);
    };
    let image = reader.get(&keys::lite_queue(queue)).await?.and_then(|state| state.image);
    // Gone between the two reads, or its queue has not been written yet.
    let Some(image) = image.and_then(|image| LiteImage::decode(&image).ok()) else { return Ok(None) };
    let bounds = reader.bounds(queue).await?.unwrap_or_default();
    Ok(Some(LiteLook { name: image.name, queue, min: bounds.start, max: bounds.end, last: image.last }))
}

/// How far a group is in a lite topic; one that was never there is at its beginning.
pub async fn lite_progress<R: Reader>(reader: &R, group: GroupId, look: &LiteLook) -> Result<LiteProgress, ReadError> {
    let frontier = reader.get(&keys::frontier(group, look.queue)).await?.and_then(|state| state.image);
    let pages = scan_all(reader, keys::pages(group, look.queue)).await?;
    let next = frontier.and_then(|image| codec::decode_frontier(&image).ok()).unwrap_or(look.min);
    let progress = Progress::load(group, look.queue, next, &pages).ok();
    let (committed, next, open) = progress.map_or((look.min, look.min, 0), |progress| {
        (progress.committed(), progress.next(), progress.open_slots() as u64)
    });
    let ready = look.max.0.saturating_sub(next.max(look.min).0);
    Ok(LiteProgress { committed: committed.max(look.min), open, ready })
}

/// Names of the lite topics that a client of a group subscribes to, in their order, and when it was last heard of, as stored.
/// `None`: it subscribes to nothing.
pub async fn lite_subscriptions<R: Reader>(
    reader: &R,
    group: GroupId,
    client_id: &str,
) -> Result<Option<(Vec<Arc<str>>, Option<UnixMillis>)>, ReadError> {
    let Some(set) = reader.get(&keys::lite_set(group, client_id)).await? else { return Ok(None) };
    // What cannot be read has stopped the shard before.
    let names = codec::decode_lite_set(&set).unwrap_or_default();
    let lease = reader.get(&keys::lite_lease(group, client_id)).await?.and_then(|state| state.image);
    let seen = lease.and_then(|image| codec::decode_lite_lease(&image).ok()).map(|(seen, _)| seen);
    Ok((!names.is_empty()).then(|| (names.into_iter().collect(), seen)))
}

impl<T> Shard<T> {
    /// How many lite topics a parent has.
    pub fn lite_count(&self, parent: TopicId) -> u64 {
        self.lite.counts.get(&parent).copied().unwrap_or(0)
    }

    /// Lite topics per parent.
    pub fn lite_counts(&self) -> impl Iterator<Item = (TopicId, u64)> + '_ {
        self.lite.counts.iter().map(|(&parent, &count)| (parent, count))
    }

    /// Who subscribes to a lite topic, as far as a client of the group came since the opening.
    pub(crate) fn describe_lite(&mut self, parent: TopicId, name: &Arc<str>, token: T) {
        let registry = &self.lite.registry;
        let members = registry.subscribers(parent, name).iter().filter_map(|&member| registry.get(member));
        let subscribers = members.map(|member| (member.group, member.client_id.clone())).collect();
        self.reply(token, Output::LiteSubscribers(subscribers));
    }
}
