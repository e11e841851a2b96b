//! Moving a group to another place of a topic's queues.
//!
//! After a reset the group is where it would be had it just arrived at the target: everything below is settled, everything
//! from there on is delivered (again), attempts counted anew.
//!
//! | at the reset | afterwards |
//! | --- | --- |
//! | in flight, or waiting for a retry, below the target | settled; its handle acks with OK and does nothing |
//! | the same from the target on | delivered again; its handle is superseded |
//! | acked before, from the target on | delivered again |
//! | on its way to the dead letters | not moved |
//!
//! A *commit* is what a consumer that keeps its own place says of it. It settles everything below the place the same way and
//! leaves the rest as it is: in flight, acked or waiting. If the committed offset is ahead of the place, the consumer went
//! back, and it is a reset; so it is in an ordered group, whose locks and parked messages begin anew.
//!
//! Lite topics are many: they are reset a few per command, each where it is when its command is carried out, and all of a command
//! in one batch. Whoever wants more goes through them by the numbers of their queues
//! ([`crate::lite_look::lite_topics_of_group`]).

use crate::answer::{Output, Refused};
use crate::command::{LiteReset, ResetTarget};
use crate::queue::Queue;
use crate::shard::Shard;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId};

impl<T> Shard<T> {
    /// Queues that a reset touches.
    pub(crate) fn reset_queues(&self, topic: TopicId, targets: &[(u32, ResetTarget)]) -> Vec<QueueId> {
        let queues = self.topics.get(&topic).map_or(&[][..], |topic| &topic.queues);
        targets.iter().filter_map(|(index, _)| queues.get(*index as usize).copied()).collect()
    }

    /// Resets all of these queues in one batch, or refuses.
    pub(crate) fn reset(&mut self, group: GroupId, topic: TopicId, targets: &[(u32, ResetTarget)], token: T) {
        if !self.groups.contains_key(&group) {
            return self.reply(token, Output::Refused(Refused::GroupGone));
        }
        let queues = self.reset_queues(topic, targets);
        if queues.len() != targets.len() {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        }
        let mut places = Vec::with_capacity(targets.len());
        for (&id, &(index, target)) in queues.iter().zip(targets) {
            let Some(queue) = self.queues.get(&id) else {
                return self.reply(token, Output::Refused(Refused::TopicGone));
            };
            match place_of(queue, index, target) {
                Ok(to) => places.push((id, index, to, matches!(target, ResetTarget::Commit(_)))),
                Err(refused) => return self.reply(token, Output::Refused(refused)),
            }
        }
        let mut moved: Vec<(u32, QueueOffset, QueueOffset)> = Vec::with_capacity(places.len());
        for (id, index, to, is_commit) in places {
            let ordered = self.is_ordered(group);
            let Some(progress) = self.progress.get_mut(&(group, id)) else { continue };
            let from = progress.committed();
            if is_commit && !ordered && from <= to {
                progress.skip_to(to);
            } else {
                progress.reset(to);
            }
            moved.push((index, from, if is_commit { progress.committed() } else { to }));
            self.note_changed(group, id);
            if !is_commit {
                self.note_moved(group, id, to);
            }
        }
        self.stirred.insert((topic, group));
        self.reply(token, Output::Reset(moved));
    }

    /// Resets a group of lite topics in all of these that there still are, in one batch, or refuses.
    pub(crate) fn reset_lite(&mut self, reset: &LiteReset, token: T) {
        let LiteReset { group, parent, ref targets, only_back } = *reset;
        if !self.groups.contains_key(&group) {
            return self.reply(token, Output::Refused(Refused::GroupGone));
        }
        if self.lite_group(group).is_none_or(|facts| facts.parent != parent) {
            return self.reply(token, Output::Refused(Refused::NotLite));
        }
        let mut places = Vec::with_capacity(targets.len());
        for &(id, target) in targets {
            // It may have ended since.
            let Some(queue) = self.queues.get(&id).filter(|queue| queue.topic == parent) else { continue };
            let Some(progress) = self.progress.get(&(group, id)) else { continue };
            match place_of(queue, queue.index, target) {
                Ok(to) if only_back && progress.committed() <= to => {}
                Ok(to) => places.push((id, progress.committed(), to)),
                Err(refused) => return self.reply(token, Output::Refused(refused)),
            }
        }
        for &(id, _, to) in &places {
            self.move_in_lite(group, id, to);
        }
        self.reply(token, Output::LiteReset(places));
    }

    /// A group is at this place of a lite topic from now on; both are in memory.
    pub(crate) fn move_in_lite(&mut self, group: GroupId, id: QueueId, to: QueueOffset) {
        let before = self.unsettled_in_lite(group, id);
        let Some(progress) = self.progress.get_mut(&(group, id)) else { return };
        progress.reset(to);
        self.note_changed(group, id);
        let after = self.unsettled_in_lite(group, id);
        self.backlog_changed(group, id, before, after);
        self.note_went_back(group, id);
        if after > 0 {
            self.mark_if_wild(group, id);
        }
        self.stir_lite(group, id);
    }
}

/// The place of a queue that is meant, if it has it.
fn place_of(queue: &Queue, index: u32, target: ResetTarget) -> Result<QueueOffset, Refused> {
    let (min, max) = (queue.min, queue.next);
    match target {
        ResetTarget::Earliest => Ok(min),
        ResetTarget::Latest => Ok(max),
        ResetTarget::Near(offset) => Ok(offset.clamp(min, max)),
        ResetTarget::Offset(offset) if offset >= min && offset <= max => Ok(offset),
        ResetTarget::Commit(offset) if offset <= max => Ok(offset.max(min)),
        ResetTarget::Offset(offset) | ResetTarget::Commit(offset) => {
            Err(Refused::OffsetOutOfRange { index, offset, min, max })
        }
    }
}
