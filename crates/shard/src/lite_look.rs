//! Looks at lite topics that change nothing: read from the store beside the shard, or said by it without a load.

use crate::answer::Output;
use crate::codec::{self, LiteImage};
use crate::command::LiteAge;
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
    /// When the oldest message that is not settled was stored, if there is one.
    pub oldest: Option<UnixMillis>,
    /// The same of those that were never handed out.
    pub oldest_ready: Option<UnixMillis>,
}

/// The oldest messages of all lite topics of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiteOldest {
    /// When the oldest that is not settled was stored, if there is one.
    pub oldest: Option<UnixMillis>,
    /// The same of those that were never handed out.
    pub oldest_ready: Option<UnixMillis>,
    /// Lite topics whose messages turned out to be younger than was noted: for [`Command::CorrectLiteAges`](crate::Command).
    pub younger: Vec<LiteAge>,
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

/// Lite topics of a parent in which a group has been, in the order of their queues, behind this one; of at most so many queues
/// that are looked at. And the last of these, if there may be more.
pub async fn lite_topics_of_group<R: Reader>(
    reader: &R,
    parent: TopicId,
    group: GroupId,
    behind: Option<QueueId>,
    limit: usize,
) -> Result<(Vec<LiteLook>, Option<QueueId>), ReadError> {
    let mut range = keys::frontiers_of(group);
    if let Some(behind) = behind {
        range.start = keys::frontier(group, QueueId(behind.0.saturating_add(1)));
    }
    let found = reader.scan(range, limit).await?;
    let queues = found.iter().filter_map(|(key, _)| keys::numbers(key)?.get(1).copied().map(QueueId));
    let mut looks = Vec::with_capacity(found.len());
    let mut last = None;
    for queue in queues {
        last = Some(queue);
        // Its dead letters are in no lite topic, and what the parent before it had is being swept.
        if let Some((_, look)) = look_at(reader, queue).await?.filter(|(of, _)| *of == parent) {
            looks.push(look);
        }
    }
    Ok((looks, last.filter(|_| found.len() == limit)))
}

/// One lite topic, if it exists.
pub async fn lite_topic<R: Reader>(reader: &R, parent: TopicId, name: &str) -> Result<Option<LiteLook>, ReadError> {
    let number = reader.get(&keys::lite_topic(parent, name)).await?.and_then(|state| state.image);
    let Some(queue) = number.and_then(|image| codec::decode_number(&image, "lite topic").ok()).map(QueueId) else {
        return Ok(None);
    };
    // Otherwise it has gone between the two reads, or its queue has not been written yet.
    Ok(look_at(reader, queue).await?.map(|(_, look)| look))
}

/// The lite topic that a queue is, if it is one, and its parent.
async fn look_at<R: Reader>(reader: &R, queue: QueueId) -> Result<Option<(TopicId, LiteLook)>, ReadError> {
    let image = reader.get(&keys::lite_queue(queue)).await?.and_then(|state| state.image);
    let Some(image) = image.and_then(|image| LiteImage::decode(&image).ok()) else { return Ok(None) };
    let bounds = reader.bounds(queue).await?.unwrap_or_default();
    let look = LiteLook { name: image.name, queue, min: bounds.start, max: bounds.end, last: image.last };
    Ok(Some((image.parent, look)))
}

/// How far a group is in a lite topic; one that was never there is at its beginning.
pub async fn lite_progress<R: Reader>(reader: &R, group: GroupId, look: &LiteLook) -> Result<LiteProgress, ReadError> {
    progress_in(reader, group, look.queue, look.min..look.max).await
}

async fn progress_in<R: Reader>(
    reader: &R,
    group: GroupId,
    queue: QueueId,
    bounds: Range<QueueOffset>,
) -> Result<LiteProgress, ReadError> {
    let frontier = reader.get(&keys::frontier(group, queue)).await?.and_then(|state| state.image);
    let pages = scan_all(reader, keys::pages(group, queue)).await?;
    let next = frontier.and_then(|image| codec::decode_frontier(&image).ok()).unwrap_or(bounds.start);
    let progress = Progress::load(group, queue, next, &pages).ok();
    let (committed, next, open) = progress.map_or((bounds.start, bounds.start, 0), |progress| {
        (progress.committed(), progress.next(), progress.open_slots() as u64)
    });
    let (committed, next) = (committed.max(bounds.start), next.max(bounds.start));
    let oldest = stored_at(reader, queue, committed..bounds.end).await?;
    let oldest_ready = match next == committed {
        true => oldest,
        false => stored_at(reader, queue, next..bounds.end).await?,
    };
    Ok(LiteProgress { committed, open, ready: bounds.end.0.saturating_sub(next.0), oldest, oldest_ready })
}

/// When the first message of a range was stored, if there is one.
async fn stored_at<R: Reader>(
    reader: &R,
    queue: QueueId,
    range: Range<QueueOffset>,
) -> Result<Option<UnixMillis>, ReadError> {
    if range.start >= range.end {
        return Ok(None);
    }
    Ok(reader.messages(queue, range, 1, 1).await?.first().map(|message| message.store_time))
}

/// How old what a group has not settled in its lite topics is, and what it was never handed out if that is asked. Looks at those of which
/// it was noted that they may have the oldest, as a rule one or two, at most so many. Of more than that it is the oldest in these, or if these
/// have none, a time that it is not older than.
pub async fn lite_oldest<R: Reader>(
    reader: &R,
    group: GroupId,
    with_ready: bool,
    most: usize,
) -> Result<LiteOldest, ReadError> {
    let found = reader.scan(keys::prefixed(&keys::lite_since_of(group)), most).await?;
    let mut all = LiteOldest::default();
    for (since, queue) in found.iter().filter_map(|(key, _)| keys::since_of(key)) {
        // Nothing of this one or of those behind it is older than that.
        let is_found = |known: Option<UnixMillis>| known.is_some_and(|known| known <= since);
        if is_found(all.oldest) && (!with_ready || is_found(all.oldest_ready)) {
            return Ok(all);
        }
        let bounds = reader.bounds(queue).await?.unwrap_or_default();
        let LiteProgress { committed, oldest, oldest_ready, .. } = progress_in(reader, group, queue, bounds).await?;
        let older = |known: Option<UnixMillis>, other| known.into_iter().chain(other).min();
        (all.oldest, all.oldest_ready) = (older(all.oldest, oldest), older(all.oldest_ready, oldest_ready));
        if oldest.is_none_or(|oldest| oldest > since) {
            all.younger.push(LiteAge { queue, since, committed, oldest: oldest.unwrap_or(since) });
        }
    }
    // Of all that there are in so many nothing was found: what there is in the others is not older than the last.
    if let Some((last, _)) = found.last().filter(|_| found.len() == most).and_then(|(key, _)| keys::since_of(key)) {
        all.oldest = all.oldest.or(Some(last));
        all.oldest_ready = all.oldest_ready.or(Some(last));
    }
    Ok(all)
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
