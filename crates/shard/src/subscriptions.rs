//! Subscriptions: which filters a group has on a topic, and which of them count when messages are passed over.
//!
//! Rules
//! - A subscription is *live* while a member polls with it, or the broker says that a member with it is connected, and for
//!   [`limits::CLIENT_EXPIRY_MILLIS`] after the last of either.
//! - What a live subscription matches stays for its members; what matches none counts as consumed.
//! - Live ones are in the store. After an opening each that is there counts as just seen: its members get the time to come
//!   back before anything of theirs is passed over.
//! - One that is not live any more leaves the store no later than the messages are passed over that it alone matched.
//!
//! At most [`FILTERS_MAX`] different ones per group and topic; those in memory are all there are.

use crate::answer::{Output, SubscriptionFigures};
use crate::codec::{self, CodecError};
use crate::keys;
use crate::shard::{LiveFilter, Shard};
use bytes::Bytes;
use martlet_model::{Filter, GroupId, TopicId, UnixMillis, limits};
use martlet_store::{KeyState, Op};
use std::hash::Hasher as _;
use std::sync::Arc;

/// Most filters of one group on one topic that are told apart.
pub const FILTERS_MAX: usize = 64;
/// The last sign of life is written anew after so long.
const STORE_AGAIN_MILLIS: i64 = 600_000;

/// What a filter is told apart by in keys: SipHash of its language and text.
fn number(filter: &Filter) -> u64 {
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(0x6d61_7274_6c65_7431, 0x6669_6c74_6572_5f31);
    hasher.write_u8(u8::from(matches!(filter, Filter::Sql(_))));
    hasher.write(filter.to_string().as_bytes());
    hasher.finish()
}

impl LiveFilter {
    pub fn is_live(&self, now: UnixMillis) -> bool {
        now.since(self.seen) <= limits::CLIENT_EXPIRY_MILLIS
    }
}

impl<T> Shard<T> {
    /// A connected member subscribes so. Of what is too much its polls will say it.
    pub(crate) fn subscribe(&mut self, group: GroupId, topic: TopicId, filter: &Arc<Filter>) {
        let known = self.topics.contains_key(&topic) || topic.dead_letter_group().is_some();
        if known && self.groups.contains_key(&group) {
            self.note_filter((topic, group), filter);
        }
    }

    /// Notes that the group uses this filter, and returns its bit. `None`: too many different ones.
    pub(crate) fn note_filter(&mut self, key: (TopicId, GroupId), filter: &Arc<Filter>) -> Option<u32> {
        let now = self.now;
        let live = self.filters.entry(key).or_default();
        if let Some(at) = live.iter().position(|entry| entry.filter == *filter) {
            self.keep_filter_live(key, at as u32);
            return Some(at as u32);
        }
        let entry = LiveFilter { filter: filter.clone(), seen: now, stored: None };
        let at = live.iter().position(|entry| !entry.is_live(now));
        let replaced = match at {
            Some(at) => Some(std::mem::replace(&mut live[at], entry)),
            None if live.len() < FILTERS_MAX => {
                live.push(entry);
                None
            }
            None => return None,
        };
        let at = at.unwrap_or(live.len() - 1) as u32;
        if let Some(LiveFilter { filter, stored: Some(_), .. }) = replaced {
            self.ops.push(Op::Remove { key: keys::subscription(key.1, key.0, number(&filter)) });
        }
        self.store_filter(key, at);
        self.forget_filters(key);
        Some(at)
    }

    /// A poll that waits keeps its filter live, however long the shard was away.
    pub(crate) fn keep_filter_live(&mut self, key: (TopicId, GroupId), bit: u32) {
        let now = self.now;
        let Some(entry) = self.filters.get_mut(&key).and_then(|live| live.get_mut(bit as usize)) else { return };
        let was_live = entry.is_live(now);
        entry.seen = now;
        if entry.stored.is_none_or(|stored| now.since(stored) > STORE_AGAIN_MILLIS) {
            self.store_filter(key, bit);
        }
        if !was_live {
            self.forget_filters(key);
        }
    }

    fn store_filter(&mut self, key: (TopicId, GroupId), bit: u32) {
        let now = self.now;
        let Some(entry) = self.filters.get_mut(&key).and_then(|live| live.get_mut(bit as usize)) else { return };
        entry.stored = Some(now);
        let image = Bytes::from(codec::encode_subscription(&entry.filter, now));
        let key = keys::subscription(key.1, key.0, number(&entry.filter));
        self.ops.push(Op::Put { key, image, keep_until: None });
    }

    /// Bits mean something else now, and what was looked at may match the newcomer: it is looked at again.
    fn forget_filters(&mut self, (topic, group): (TopicId, GroupId)) {
        let queues = self.topics.get(&topic).map(|topic| topic.queues.clone()).unwrap_or_default();
        for queue in queues {
            if let Some(progress) = self.progress.get_mut(&(group, queue)) {
                progress.forget_filters();
            }
        }
    }

    /// Whether some live subscription does not want everything.
    pub(crate) fn is_filtered(&self, topic: TopicId, group: GroupId) -> bool {
        let live = self.filters.get(&(topic, group));
        live.is_some_and(|live| live.iter().any(|entry| !entry.filter.is_all() && entry.is_live(self.now)))
    }

    /// One filter per bit, to pass messages over by. Those not live any more keep their bits, match nothing and leave the
    /// store.
    pub(crate) fn live_filters(&mut self, topic: TopicId, group: GroupId) -> Vec<Arc<Filter>> {
        let now = self.now;
        let Some(live) = self.filters.get_mut(&(topic, group)) else { return Vec::new() };
        let none = Arc::new(Filter::NONE);
        let mut filters = Vec::with_capacity(live.len());
        for entry in live {
            if entry.is_live(now) {
                filters.push(entry.filter.clone());
                continue;
            }
            if entry.stored.take().is_some() {
                let key = keys::subscription(group, topic, number(&entry.filter));
                self.ops.push(Op::Remove { key });
            }
            filters.push(none.clone());
        }
        filters
    }

    /// Forgets the subscriptions of a deleted topic or group.
    pub(crate) fn forget_subscriptions(&mut self, of: impl Fn(&(TopicId, GroupId)) -> bool) {
        let ops = &mut self.ops;
        self.filters.retain(|key, live| {
            if !of(key) {
                return true;
            }
            for entry in live.iter().filter(|entry| entry.stored.is_some()) {
                ops.push(Op::Remove { key: keys::subscription(key.1, key.0, number(&entry.filter)) });
            }
            false
        });
    }

    /// What the store has, at opening.
    pub(crate) fn load_subscriptions(&mut self, found: Vec<(Bytes, KeyState)>) -> Result<(), CodecError> {
        for (key, state) in found {
            let Some(&[group, topic, _]) = keys::numbers(&key).as_deref() else {
                return Err(CodecError { what: "subscription" });
            };
            let place = (TopicId(topic as u32), GroupId(group as u32));
            let (filter, stored) = codec::decode_subscription(&state.image.unwrap_or_default())?;
            let live = self.filters.entry(place).or_default();
            if live.len() < FILTERS_MAX {
                live.push(LiveFilter { filter: Arc::new(filter), seen: self.now, stored: Some(stored) });
            }
        }
        Ok(())
    }

    /// How many live subscriptions a group has on a topic.
    pub fn live_subscriptions(&self, group: GroupId, topic: TopicId) -> usize {
        let live = self.filters.get(&(topic, group));
        live.map_or(0, |live| live.iter().filter(|entry| entry.is_live(self.now)).count())
    }

    pub(crate) fn describe_subscriptions(&mut self, group: GroupId, token: T) {
        let now = self.now;
        let of_group = self.filters.iter().filter(|(key, _)| key.1 == group);
        let figures = of_group
            .flat_map(|(key, live)| live.iter().map(move |entry| (key.0, entry)))
            .filter(|(_, entry)| entry.is_live(now))
            .map(|(topic, entry)| SubscriptionFigures { topic, filter: entry.filter.clone(), seen: entry.seen })
            .collect();
        self.reply(token, Output::Subscriptions(figures));
    }
}
