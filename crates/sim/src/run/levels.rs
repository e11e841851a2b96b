//! Topics by priority: nothing lower before something higher beyond what ageing allows, and no level starves.

use super::Run;
use crate::ground::Ground;
use crate::judge::Verdict;
use martlet_model::{GroupId, TopicId, UnixMillis};
use martlet_shard::HandOut;
use std::collections::BTreeMap;

/// In so many batches in a row a level is once.
const BATCHES: u32 = 32;
/// After so long it is in the next batch, or in one of the next few: there are at most three levels, and batches of one.
const AGE_MILLIS: i64 = 5_000;
const AGED_BATCHES: u32 = 3;

/// A level that has something for a group and got nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassedOver {
    since: UnixMillis,
    batches: u32,
    /// Of these, after [`AGE_MILLIS`].
    aged: u32,
}

impl<G: Ground> Run<G> {
    /// A reply to a poll, before its messages are looked at one by one. Only of groups where every member wants everything
    /// and no reply waits: of others it is not known what the shard knew when it decided.
    pub(super) fn by_priority(
        &mut self,
        group: GroupId,
        topic: TopicId,
        hand_outs: &[HandOut],
        batch: u32,
        epoch: u32,
    ) -> Verdict {
        let known = self.groups.iter().find(|known| known.facts.id == group);
        let plain = known.is_some_and(|known| !known.facts.ordered && known.filters.iter().all(|f| f.tags.is_none()));
        let levels = self.topics.iter().any(|known| known.facts.id == topic && known.facts.by_priority);
        // Where queue-based members have a level, message-based ones get nothing of it.
        if G::SHARED || !plain || !levels || hand_outs.is_empty() || self.mixed(group).is_some() {
            return Ok(());
        }
        if self.reads_fail || self.now < self.blind_until {
            self.passed_over.retain(|key, _| key.0 != group);
            return Ok(());
        }
        // A message of each level that is there and not in the reply.
        let mut left: BTreeMap<u32, usize> = BTreeMap::new();
        for (number, message) in self.judge.messages.iter().enumerate().filter(|(_, message)| message.topic == topic) {
            let (Some(level), Some(place)) = (message.level, message.place) else { continue };
            let delivered = hand_outs.iter().any(|hand_out| (hand_out.queue_index, hand_out.offset) == place);
            if !delivered && self.judge.is_untouched(group, number, epoch, self.now) {
                left.insert(level, number);
            }
        }
        if let Some((&highest, number)) = left.last_key_value() {
            let lower = hand_outs.iter().filter(|hand_out| hand_out.queue_index < highest).count();
            if lower > (batch as usize / 2).max(1) {
                return Err(format!(
                    "{group:?} gets {lower} messages in a batch of {batch} below level {highest}, where {number} is left"
                ));
            }
        }
        let now = self.now;
        let is_passed_over =
            |level: &u32| left.contains_key(level) && hand_outs.iter().all(|hand_out| hand_out.queue_index != *level);
        self.passed_over.retain(|key, _| (key.0, key.1) != (group, topic) || is_passed_over(&key.2));
        for level in left.keys().copied().filter(is_passed_over) {
            let new = PassedOver { since: now, batches: 0, aged: 0 };
            let entry = self.passed_over.entry((group, topic, level)).or_insert(new);
            entry.batches += 1;
            entry.aged += u32::from(now.since(entry.since) >= AGE_MILLIS);
            if entry.batches >= BATCHES || entry.aged > AGED_BATCHES {
                return Err(format!("level {level} of {topic:?} starves in {group:?}: {entry:?} at {now:?}"));
            }
        }
        Ok(())
    }
}
