//! Consumers that keep their own place: they tell a group that everything below it is settled, or that everything below it
//! that nobody was handed is.

use super::{Pending, Run, members};
use crate::ground::Ground;
use crate::judge::{MessageNumber, Track, Verdict};
use martlet_model::{GroupId, QueueOffset, TopicId};
use martlet_shard::{Command, ResetTarget};

impl<G: Ground> Run<G> {
    /// Commits just past a message that is for certain not settled: so it never goes back.
    pub(super) fn commit(&mut self) {
        let Some(at) = self.group_that_commits() else { return };
        let facts = &self.groups[at].facts;
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
        let below = self.committing(id, topic, (index, past.next()), |_| true);
        let targets = vec![(index, ResetTarget::Commit(past.next()))];
        let pending = Pending::Commit { group: id, past: past.next(), below };
        self.ask(pending, |token| Command::Reset { group: id, topic, targets, token });
    }

    /// A group without an order, and of polls only.
    fn group_that_commits(&mut self) -> Option<usize> {
        let at = self.random.below(self.groups.len() as u64) as usize;
        let facts = &self.groups[at].facts;
        (!facts.ordered && facts.lite.is_none() && at != members::GROUP).then_some(at)
    }

    /// A commit settles what lies below a place, where `is_passed` says so. Gives back what is known to lie there.
    fn committing(
        &mut self,
        group: GroupId,
        topic: TopicId,
        (index, offset): (u32, QueueOffset),
        is_passed: impl Fn(&Track) -> bool,
    ) -> Vec<MessageNumber> {
        let tracks = self.judge.tracks.entry(group).or_default();
        let mut below = Vec::new();
        for (number, message) in self.judge.messages.iter().enumerate() {
            let is_below = message.place.is_none_or(|(queue, place)| queue == index && place < offset);
            if message.topic != topic || !is_below || !message.may_be_there(self.now) {
                continue;
            }
            let number = number as MessageNumber;
            let track = tracks.entry(number).or_default();
            match message.place {
                _ if !is_passed(track) => {}
                Some(_) => {
                    below.push(number);
                    track.under_way += 1;
                }
                // Nobody knows where it lies; it may be below.
                None => track.perhaps_settled = true,
            }
        }
        below
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

    /// Commits forward only, anywhere: behind where the group is, too.
    pub(super) fn commit_forward(&mut self) {
        let Some(at) = self.group_that_commits() else { return };
        let facts = &self.groups[at].facts;
        let (group, topic) = (facts.id, self.topics[self.groups[at].topic].facts.id);
        let of_topic = self.judge.messages.iter().rev().filter(|message| message.topic == topic);
        let places: Vec<(u32, QueueOffset)> = of_topic.filter_map(|message| message.place).take(60).collect();
        if places.is_empty() {
            return;
        }
        let (index, last) = places[self.random.below(places.len() as u64) as usize];
        let offset = last.next();
        // What was delivered stays open, unless nobody got it or a crash took the delivery, which nobody waited for.
        let epoch = self.epoch();
        let is_passed =
            |track: &Track| track.last.is_none_or(|last| last.attempt <= 1 && (last.undone || last.epoch < epoch));
        let below = self.committing(group, topic, (index, offset), is_passed);
        let (client, forward_only) = (None, true);
        self.ask(Pending::CommitForward { group, below }, |token| Command::CommitOffset {
            group,
            topic,
            index,
            offset,
            client,
            forward_only,
            promised: true,
            token,
        });
    }

    /// Such a commit was answered: with whether it counted, or not at all.
    pub(super) fn committed_forward(
        &mut self,
        group: GroupId,
        below: Vec<MessageNumber>,
        counted: Option<bool>,
        epoch: u32,
    ) -> Verdict {
        // The group may be another by now.
        if !self.judge.tracks.contains_key(&group) {
            return Ok(());
        }
        self.report.committed += u64::from(counted == Some(true));
        for number in below {
            let tag = self.judge.messages[number as usize].tag;
            let wanted = self.groups.iter().any(|known| known.facts.id == group && known.wants(tag));
            let untouched = wanted && self.judge.is_untouched_by_polls(group, number as usize, epoch, self.now);
            if untouched && counted == Some(false) {
                return Err(format!(
                    "a commit past message {number} does not count, which nobody was handed in {group:?}"
                ));
            }
            let track = self.judge.track(group, number);
            track.under_way = track.under_way.saturating_sub(1);
            match counted {
                Some(true) if untouched => track.settled = true,
                Some(true) => track.perhaps_settled = true,
                _ => {}
            }
        }
        Ok(())
    }
}
