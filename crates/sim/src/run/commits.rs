//! Consumers that keep their own place: they tell a group that everything below it is settled.

use super::{Pending, Run};
use crate::judge::{MessageNumber, Sent, Verdict};
use martlet_model::{GroupId, QueueOffset};
use martlet_shard::{Command, ResetTarget};

impl Run {
    /// Commits just past a message that is for certain not settled: so it never goes back.
    pub(super) fn commit(&mut self) {
        let at = self.random.below(self.groups.len() as u64) as usize;
        let facts = &self.groups[at].facts;
        if facts.ordered || facts.lite.is_some() {
            return;
        }
        let (id, max_attempts) = (facts.id, facts.max_attempts);
        let topic = self.topics[self.groups[at].topic].facts.id;
        let epoch = self.epoch();
        let of_topic =
            self.judge.messages.iter().enumerate().rev().filter(|(_, message)| message.topic == topic).take(40);
        let unsettled: Vec<(u32, QueueOffset)> = of_topic
            .filter(|(_, message)| self.groups[at].wants(message.tag))
            .filter(|(number, _)| self.judge.is_unsettled(id, *number as u64, max_attempts, epoch, self.now))
            .filter_map(|(_, message)| message.place)
            .collect();
        if unsettled.is_empty() {
            return;
        }
        let (index, past) = unsettled[self.random.below(unsettled.len() as u64) as usize];
        let mut below: Vec<MessageNumber> = Vec::new();
        for (number, message) in self.judge.messages.iter().enumerate() {
            if message.topic != topic || message.sent == Sent::No {
                continue;
            }
            match message.place {
                Some((queue, offset)) if queue == index && offset <= past => {
                    below.push(number as u64);
                    self.judge.tracks.entry(id).or_default().entry(number as u64).or_default().under_way += 1;
                }
                Some(_) => {}
                // Nobody knows where it lies; it may be below.
                None => {
                    let tracks = self.judge.tracks.entry(id).or_default();
                    tracks.entry(number as u64).or_default().perhaps_settled = true;
                }
            }
        }
        let targets = vec![(index, ResetTarget::Commit(past.next()))];
        let pending = Pending::Commit { group: id, past: past.next(), below };
        self.ask(pending, |token| Command::Reset { group: id, topic, targets, token });
    }

    /// A commit was answered: with where the group was and is, or not at all.
    pub(super) fn committed(
        &mut self,
        group: GroupId,
        past: QueueOffset,
        below: Vec<MessageNumber>,
        answer: Option<&[(u32, QueueOffset, QueueOffset)]>,
    ) -> Verdict {
        if let Some(moved) = answer {
            match moved {
                [(_, from, to)] if from < to && *to >= past => self.report.committed += 1,
                _ => return Err(format!("a commit of {past:?} moved {group:?} so: {moved:?}")),
            }
        }
        // The group may be another by now.
        let Some(tracks) = self.judge.tracks.get_mut(&group) else { return Ok(()) };
        for number in below {
            let track = tracks.entry(number).or_default();
            track.under_way = track.under_way.saturating_sub(1);
            track.settled |= answer.is_some();
        }
        Ok(())
    }
}
