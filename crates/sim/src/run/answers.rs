//! What the shard answers, and what the model makes of it.

use super::*;

impl<G: Ground> Run<G> {
    pub(super) fn answered(&mut self, token: u64, output: Output, epoch: u32, reader: &ReaderOf<G>) -> Verdict {
        let Some(pending) = self.pending.remove(&token) else {
            return Err(format!("an answer nobody waits for: {token} {output:?}"));
        };
        match (pending, output) {
            (Pending::Catalog, Output::Done) => {
                if self.pending.values().all(|pending| !matches!(pending, Pending::Catalog)) {
                    self.dropped_topics.clear();
                    self.dropped_groups.clear();
                }
            }
            (Pending::Send(numbers), Output::Sent(places)) => {
                self.report.sent += places.len() as u64;
                for (number, place) in numbers.into_iter().zip(places) {
                    let message = &mut self.judge.messages[number as usize];
                    if *message.place.get_or_insert(place) != place {
                        return Err(format!("message {number} is at {:?}, acknowledged at {place:?}", message.place));
                    }
                    if message.level.is_some_and(|level| level != place.0) {
                        return Err(format!("message {number} of level {:?} is at {place:?}", message.level));
                    }
                    message.sent = Sent::Yes { at: self.now, epoch };
                }
            }
            (Pending::Send(numbers), Output::Scheduled(placed)) => {
                self.report.sent += placed.len() as u64;
                for (number, placed) in numbers.into_iter().zip(placed) {
                    let message = &mut self.judge.messages[number as usize];
                    match placed {
                        Placed::Now(queue, offset) => message.place = Some((queue, offset)),
                        Placed::Later(at) if message.place.is_none() => message.timer = Some(at),
                        Placed::Later(_) => return Err(format!("message {number} was handed out before it waited")),
                    }
                    message.sent = Sent::Yes { at: self.now, epoch };
                }
            }
            (Pending::Half(number), Output::Half(place, began)) => self.half_sent(number, place, began),
            (Pending::Half(number), Output::Refused(_)) => {
                self.judge.messages[number as usize].sent = Sent::No;
            }
            (Pending::End { number, commit }, Output::Ended(answer)) => self.ended(number, commit, Some(answer))?,
            (Pending::End { number, commit }, Output::Refused(_)) => self.ended(number, commit, None)?,
            (Pending::TakeHalf(taking), Output::HalfTaken(taken)) => self.half_taken(&taking, taken, reader)?,
            (Pending::TakeHalf(_), Output::Refused(_)) => {}
            (Pending::EndTaken { number, commit, until, stale }, Output::Ended(answer)) => {
                self.taken_ended(number, commit, (until, stale), answer)?;
            }
            (Pending::EndTaken { number, commit, .. }, Output::Refused(_)) => self.ended(number, commit, None)?,
            (Pending::SendAgain(number), output) => self.sent_again(number, output)?,
            (Pending::Recall(number), Output::Recalled(answer)) => {
                self.report.recalled += u64::from(answer.is_ok());
                self.judge.recalled(number, Some(answer), self.now)?;
            }
            (Pending::Recall(number), Output::Refused(_)) => self.judge.recalled(number, None, self.now)?,
            (Pending::Send(numbers), Output::Refused(_)) => {
                numbers.into_iter().for_each(|number| self.judge.messages[number as usize].sent = Sent::No);
            }
            (
                Pending::Receive { client, life, group, topic, invisible_millis, renewed_for, batch, retries_only },
                output,
            ) => {
                let vanished = self.clients.get(client).is_some_and(|client| client.life != life);
                if let Some(client) = self.clients.get_mut(client).filter(|_| !vanished) {
                    client.polling = None;
                }
                if let Output::Delivered(hand_outs) = output {
                    self.in_order(group, &hand_outs, epoch)?;
                    self.in_reply = hand_outs.iter().map(|hand_out| (hand_out.queue, hand_out.offset)).collect();
                    match retries_only {
                        true => self.are_retries(group, &hand_outs, epoch)?,
                        false => self.by_priority(group, topic, &hand_outs, batch, epoch)?,
                    }
                    for hand_out in &hand_outs {
                        // It may have waited for durability since.
                        let decided = hand_out.until.plus(-invisible_millis);
                        self.delivered(client, group, topic, (renewed_for, decided), hand_out, epoch, reader)?;
                    }
                    if !self.drained.is_empty() {
                        let drained = std::mem::take(&mut self.drained);
                        self.settle_all(drained);
                    }
                    if self.reads_fail {
                        self.judge.unheard(group, epoch);
                    }
                }
                if vanished {
                    self.loosen_all_of(client as u64);
                }
            }
            (Pending::Settle(handles), Output::Acked(answers)) => {
                self.report.acked += answers.iter().filter(|answer| answer.is_ok()).count() as u64;
                for ((handle, number), answer) in handles.into_iter().zip(answers) {
                    self.settled(&handle, number, &answer, epoch)?;
                }
            }
            (Pending::Settle(handles), Output::Settled(answer)) => {
                for (handle, number) in handles {
                    self.settled(&handle, number, &answer, epoch)?;
                }
            }
            (Pending::Settle(handles), Output::Refused(_)) => {
                for (handle, number) in handles {
                    if let Some(tracks) = self.judge.tracks.get_mut(&handle.group) {
                        let track = tracks.entry(number).or_default();
                        track.under_way = track.under_way.saturating_sub(1);
                    }
                }
            }
            (Pending::Change { handle, number, millis, at }, Output::Changed(answer)) => {
                self.changed(handle, number, millis, at, answer.ok());
            }
            (Pending::Change { .. }, Output::Refused(_)) => {}
            (Pending::SyncLite { client, life, at }, output) => self.synced(client, life, at, output == Output::Done),
            (Pending::Describe, Output::Progress(figures, dead_letters)) => {
                let left = figures.iter().map(|figure| figure.ready + figure.in_flight + figure.waiting_retry).sum();
                self.described = Some((left, dead_letters));
            }
            (Pending::ResetLite { group, key }, output) => {
                // What was acked while it was on its way, too.
                self.moving_in_lite(group, key);
                self.report.reset += u64::from(matches!(output, Output::LiteReset(moved) if !moved.is_empty()));
            }
            (Pending::Commit { group, past, below }, Output::Reset(moved)) => {
                self.committed(group, past, below, Some(&moved))?;
            }
            (Pending::Commit { group, past, below }, Output::Refused(_)) => {
                self.committed(group, past, below, None)?;
            }
            (Pending::CommitForward { group, below }, Output::Committed(counted)) => {
                self.committed_forward(group, below, Some(counted), epoch)?;
            }
            (Pending::CommitForward { group, below }, Output::Refused(_)) => {
                self.committed_forward(group, below, None, epoch)?;
            }
            (Pending::Member(asked), output) => self.member_answered(asked, output, epoch, reader)?,
            (_, output) => return Err(format!("{token} was answered with {output:?}")),
        }
        Ok(())
    }

    pub(super) fn settled(
        &mut self,
        handle: &ReceiptHandle,
        number: MessageNumber,
        answer: &Result<(), martlet_shard::SettleError>,
        epoch: u32,
    ) -> Verdict {
        let group = self.groups.iter().find(|group| group.facts.id == handle.group);
        match group.filter(|_| self.is_live(handle.topic)) {
            // A lite topic ends with all its messages.
            Some(_) if *answer == Err(martlet_shard::SettleError::Gone) && self.may_end(number) => {
                let kept = self.is_kept(&self.judge.messages[number as usize]);
                self.judge.ended_with_lite_topic(handle, number, kept, epoch, self.now)
            }
            Some(group) => {
                let (mixed, max) = (self.mixed(handle.group), group.facts.max_attempts);
                self.judge.settled(handle, number, answer, epoch, self.now, max, mixed.is_some())?;
                if mixed == Some(true) && self.is_being_committed(handle.group, number) {
                    self.judge.track(handle.group, number).loosen();
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn delivered(
        &mut self,
        client: usize,
        group: GroupId,
        topic: TopicId,
        (renewed_for, decided): (Option<u64>, UnixMillis),
        hand_out: &HandOut,
        epoch: u32,
        reader: &ReaderOf<G>,
    ) -> Verdict {
        self.report.delivered += 1;
        let HandOut { queue, offset, .. } = *hand_out;
        let handle = ReceiptHandle { shard: 0, group, topic, queue, offset, delivery: hand_out.delivery };
        let read = G::read(reader.messages(queue, offset..offset.next(), 1, 1))?;
        let message = match read {
            Ok(mut messages) => messages.pop(),
            // As the broker does when it cannot read what it is to deliver.
            Err(_) if self.reads_fail => {
                self.judge.unread(group, hand_out, epoch);
                self.inbox.push(Command::Undo { handles: vec![handle] });
                return Ok(());
            }
            Err(error) => return Err(format!("{hand_out:?}: {error}")),
        };
        let Some(message) = message else {
            let old = self.now.since(START) > SAFE_AGE_MILLIS;
            let gone = !self.groups.iter().any(|g| g.facts.id == group);
            return if old || gone || !self.is_live(topic) && topic.dead_letter_group().is_none() {
                Ok(())
            } else {
                Err(format!("{hand_out:?} is handed out and not there"))
            };
        };
        let body = record::body(&message.record).map_err(|error| error.to_string())?;
        if topic.dead_letter_group().is_some() {
            return self.dead_letter(group, &body, handle);
        }
        let number = self.judge.recognise(&body, Some(topic))?;
        let Some(at) = self.groups.iter().position(|g| g.facts.id == group) else { return Ok(()) };
        if !self.is_live(topic) {
            return Ok(());
        }
        let tag = self.judge.messages[number as usize].tag;
        let wanted = match self.clients.get(client) {
            Some(client) => self.groups[at].filter_of(client.number).wants(tag),
            None => self.groups[at].wants(tag),
        };
        if !wanted {
            return Err(format!("message {number} does not match the filter of {group:?}"));
        }
        if self.is_lite(group) {
            self.in_lite_order(group, number, hand_out, &self.in_reply, epoch)?;
        } else {
            self.queue_ids.insert((topic, hand_out.queue_index), queue);
        }
        self.judge.delivered(group, number, hand_out, epoch, self.now, renewed_for)?;
        if self.mixed(group).is_some() {
            self.handed_out_beside_members(hand_out, decided)?;
        }
        match self.clients.get_mut(client) {
            Some(client) => client.held.push((handle, number)),
            None => self.drained.push((handle, number)),
        }
        Ok(())
    }

    /// What an ordered group is handed: no message of a message group before an earlier one that is not settled.
    pub(super) fn in_order(&self, group: GroupId, hand_outs: &[HandOut], epoch: u32) -> Verdict {
        let Some(group) = self.groups.iter().find(|known| known.facts.id == group && known.facts.ordered) else {
            return Ok(());
        };
        for (n, hand_out) in hand_outs.iter().enumerate() {
            if self.is_live(hand_out.topic) {
                let before = &hand_outs[..n];
                let max = group.facts.max_attempts;
                self.judge.in_order(group.facts.id, hand_out, before, max, epoch, self.now, |tag| group.wants(tag))?;
            }
        }
        Ok(())
    }

    /// What a poll for retries alone brings: nothing that was never delivered. In a group with queue-based members it may have been
    /// passed by one of them.
    fn are_retries(&self, group: GroupId, hand_outs: &[HandOut], epoch: u32) -> Verdict {
        // Of a group that was deleted meanwhile it is not known any more what it was handed.
        if !self.groups.iter().any(|known| known.facts.id == group) {
            return Ok(());
        }
        for hand_out in hand_outs {
            let place = (hand_out.queue_index, hand_out.offset);
            let is_it = |message: &Message| message.topic == hand_out.topic && message.place == Some(place);
            let number = self.judge.messages.iter().position(is_it).filter(|_| self.mixed(group).is_none());
            let is_new = number.is_some_and(|number| self.judge.is_untouched(group, number, epoch, self.now));
            if hand_out.attempt < 2 || is_new {
                return Err(format!("a poll for retries of {group:?} brings {number:?} as new: {hand_out:?}"));
            }
        }
        Ok(())
    }
}
