//! Moving a group to another place of a topic's queues.
//!
//! From then on the group is where it would be had it just arrived at the target: everything below is settled, everything
//! from there on is delivered (again), attempts counted anew.
//!
//! | at the reset | afterwards |
//! | --- | --- |
//! | in flight, or waiting for a retry, below the target | settled; its handle acks with OK and does nothing |
//! | the same from the target on | delivered again; its handle is superseded |
//! | acked before, from the target on | delivered again |
//! | on its way to the dead letters | not moved |

use crate::command::{Output, Refused, ResetTarget};
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
                ResetTarget::Offset(offset) => offset,
            };
            places.push((id, index, to));
        }
        let mut moved: Vec<(u32, QueueOffset, QueueOffset)> = Vec::with_capacity(places.len());
        for (id, index, to) in places {
            let Some(progress) = self.progress.get_mut(&(group, id)) else { continue };
            moved.push((index, progress.committed(), to));
            progress.reset(to);
            self.note_changed(group, id);
        }
        self.stirred.insert((topic, group));
        self.reply(token, Output::Reset(moved));
    }
}
