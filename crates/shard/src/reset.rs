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

use crate::answer::{Output, Refused};
use crate::command::ResetTarget;
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
            let (min, max) = (queue.min, queue.next);
            let to = match target {
                ResetTarget::Earliest => min,
                ResetTarget::Latest => max,
                ResetTarget::Near(offset) => offset.clamp(min, max),
                ResetTarget::Offset(offset) if offset < min || offset > max => {
                    let refused = Refused::OffsetOutOfRange { index, offset, min, max };
                    return self.reply(token, Output::Refused(refused));
                }
                ResetTarget::Commit(offset) if offset > max => {
                    let refused = Refused::OffsetOutOfRange { index, offset, min, max };
                    return self.reply(token, Output::Refused(refused));
                }
                ResetTarget::Commit(offset) => offset.max(min),
                ResetTarget::Offset(offset) => offset,
            };
            places.push((id, index, to, matches!(target, ResetTarget::Commit(_))));
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
}
