//! What is counted, per topic and group, and snapshots of it for metrics.

use crate::{ClientInfo, MemberInfo};
use martlet_model::{Histogram, HistogramFigures, TopicId, UnixMillis};
use martlet_shard::{Counters, Waiting};
use martlet_store::{Notice, Shortage, Usage};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

/// Upper bounds of the message size histogram, in bytes (the reference's).
const SIZE_BOUNDS: [u64; 6] = [1 << 10, 4 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20];

pub(crate) struct TopicStats {
    sizes: Histogram,
}

impl Default for TopicStats {
    fn default() -> Self {
        Self { sizes: Histogram::new(&SIZE_BOUNDS) }
    }
}

impl TopicStats {
    pub fn sent(&self, bytes: usize) {
        self.sizes.observe(bytes as u64);
    }
}

#[derive(Default)]
pub(crate) struct GroupStats {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl GroupStats {
    pub fn delivered(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// All counters of a broker. Bounded by the catalog: only names that exist are counted.
#[derive(Default)]
pub(crate) struct Stats {
    topics: RwLock<BTreeMap<String, Arc<TopicStats>>>,
    groups: RwLock<BTreeMap<(String, String), Arc<GroupStats>>>,
    refusals: RwLock<BTreeMap<&'static str, AtomicU64>>,
    notices: [AtomicU64; NOTICES.len()],
}

/// What a store may come upon while it runs, as label values.
const NOTICES: [&str; 4] = ["index_rebuilt", "index_failed", "damaged", "left_behind"];

impl Stats {
    pub fn topic(&self, topic: &str) -> Arc<TopicStats> {
        if let Some(stats) = self.topics.read().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return stats.clone();
        }
        self.topics.write().unwrap_or_else(PoisonError::into_inner).entry(topic.to_owned()).or_default().clone()
    }

    pub fn group(&self, group: &str, topic: &str) -> Arc<GroupStats> {
        let key = (group.to_owned(), topic.to_owned());
        if let Some(stats) = self.groups.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return stats.clone();
        }
        self.groups.write().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone()
    }

    pub fn refused(&self, reason: &'static str) {
        if let Some(count) = self.refusals.read().unwrap_or_else(PoisonError::into_inner).get(reason) {
            count.fetch_add(1, Relaxed);
            return;
        }
        self.refusals.write().unwrap_or_else(PoisonError::into_inner).entry(reason).or_default().fetch_add(1, Relaxed);
    }

    /// The store came upon something: it is logged and counted.
    pub fn noticed(&self, notice: &Notice) {
        let kind = match notice {
            Notice::IndexRebuilt { why } => {
                tracing::warn!("the index had lost something and was rebuilt from the log: {why}");
                0
            }
            Notice::IndexFailed { cause } => {
                tracing::warn!("the index could not be read or written, maintenance tries again: {cause}");
                1
            }
            Notice::Damaged { file, position, expected, found } => {
                tracing::error!(
                    "{file} is damaged at position {position}: expected {expected}, found {found}; its space is kept \
                     until the broker is stopped and `martlet log repair` was run"
                );
                2
            }
            Notice::LeftBehind { file, cause } => {
                tracing::warn!("{file} is not needed any more and could not be removed: {cause}");
                3
            }
        };
        self.notices[kind].fetch_add(1, Relaxed);
    }

    pub fn notice_counts(&self) -> Vec<(&'static str, u64)> {
        NOTICES.iter().zip(&self.notices).map(|(&kind, count)| (kind, count.load(Relaxed))).collect()
    }

    pub fn forget_topic(&self, topic: &str) {
        self.topics.write().unwrap_or_else(PoisonError::into_inner).remove(topic);
        self.groups.write().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.1 != topic);
    }

    pub fn forget_group(&self, group: &str) {
        self.groups.write().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.0 != group);
    }

    pub fn topic_counts(&self) -> Vec<TopicCount> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics
            .iter()
            .map(|(topic, stats)| {
                let sizes = stats.sizes.figures(1.0);
                TopicCount { topic: topic.clone(), messages_in: sizes.count(), bytes_in: sizes.sum as u64, sizes }
            })
            .collect()
    }

    pub fn group_counts(&self) -> Vec<GroupCount> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups
            .iter()
            .map(|((group, topic), stats)| GroupCount {
                group: group.clone(),
                topic: topic.clone(),
                messages_out: stats.messages.load(Relaxed),
                bytes_out: stats.bytes.load(Relaxed),
            })
            .collect()
    }

    pub fn refusal_counts(&self) -> Vec<(&'static str, u64)> {
        let refusals = self.refusals.read().unwrap_or_else(PoisonError::into_inner);
        refusals.iter().map(|(reason, count)| (*reason, count.load(Relaxed))).collect()
    }
}

/// What came in for one topic since the start.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicCount {
    /// Its name.
    pub topic: String,
    /// Messages.
    pub messages_in: u64,
    /// Bytes of their records.
    pub bytes_in: u64,
    /// Sizes of their records, in bytes.
    pub sizes: HistogramFigures,
}

/// What went out to one group from one topic since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCount {
    /// Group name.
    pub group: String,
    /// Topic name.
    pub topic: String,
    /// Messages, retries included.
    pub messages_out: u64,
    /// Bytes of their records.
    pub bytes_out: u64,
}

/// What the shard's thread tells of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct ShardFigures {
    pub now: UnixMillis,
    pub steady: i64,
    pub counters: Counters,
    pub waiting: Vec<(TopicId, Waiting)>,
    pub lite_topics: Vec<(TopicId, u64)>,
    /// Of lite topics: what is in memory, subscriptions, and members that hold them.
    pub lite: (usize, usize, usize),
    pub polls: usize,
    pub resident: usize,
    pub open_slots: usize,
    pub open_slots_most: usize,
    pub batches: (HistogramFigures, HistogramFigures),
    pub usage: Usage,
    pub shortage: Option<Shortage>,
}

/// A snapshot of everything that metrics want, at most a second old.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Per topic.
    pub topics: Vec<TopicCount>,
    /// Per group and topic.
    pub groups: Vec<GroupCount>,
    /// Requests refused, by reason.
    pub refusals: Vec<(&'static str, u64)>,
    /// What the store came upon while it ran, by kind.
    pub notices: Vec<(&'static str, u64)>,
    /// Messages moved to dead letters: group, topic they came from, count.
    pub dead_letters: Vec<(String, String, u64)>,
    /// The shard's own counters.
    pub counters: Counters,
    /// Messages that wait for something other than a consumer, by topic.
    pub waiting: Vec<(String, Waiting)>,
    /// Lite topics per parent.
    pub lite_topics: Vec<(String, u64)>,
    /// Of lite topics: what is in memory, subscriptions, and clients that hold them.
    pub lite: (usize, usize, usize),
    /// Polls waiting.
    pub waiting_polls: usize,
    /// Queues and progresses in memory.
    pub resident_entities: usize,
    /// Open slots in memory, over all groups.
    pub open_slots: usize,
    /// Open slots of the group and queue that has most, and the limit of each.
    pub open_slots_most: (usize, usize),
    /// Messages per batch of the log.
    pub batch_messages: HistogramFigures,
    /// Replies that waited for one batch.
    pub batch_replies: HistogramFigures,
    /// How long syncs of the log took, in milliseconds.
    pub sync_millis: HistogramFigures,
    /// Space.
    pub usage: Usage,
    /// What was asked of the bucket since the opening; empty where there is none.
    pub bucket: Vec<(martlet_bucket::Class, martlet_bucket::Counts)>,
    /// Why sends are being refused, if they are.
    pub shortage: Option<Shortage>,
    /// Bytes of replies under way, and the budget they are taken from.
    pub reply_bytes: (usize, usize),
    /// Clients of message-based protocols that publish.
    pub producers: Vec<ClientInfo>,
    /// Live members of groups.
    pub members: BTreeMap<String, Vec<MemberInfo>>,
    /// Why the shard stopped, if it did.
    pub stopped: Option<String>,
}
