//! What queue-based members are answered, and what the model makes of it.

use super::{Asked, GROUP, Held, OWNED_MILLIS_MAX, Place, State, client_id};
use crate::ground::Ground;
use crate::judge::{LATE_MILLIS, LEASED_MILLIS, MemberId, MessageNumber, QueueKey, Verdict};
use crate::run::{ReaderOf, Run};
use martlet_model::record::{self, RetryOf};
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use martlet_shard::{Command, HandOut, Output, PullStatus, Pulled, SettleError};
use martlet_store::{Reader, StoredMessage};

/// What a place that a member is to read has.
enum Pulls {
    /// This message, and whether by a reference.
    Message(MessageNumber, bool),
    /// What it names is not there any more.
    Nothing,
    /// Reading fails: the member asks again.
    Unreadable,
}

impl<G: Ground> Run<G> {
    pub(in crate::run) fn member_answered(
        &mut self,
        asked: Asked,
        output: Output,
        epoch: u32,
        reader: &ReaderOf<G>,
    ) -> Verdict {
        let now = self.now;
        match (asked, output) {
            (Asked::Unlock, Output::Done) => Ok(()),
            (Asked::Where { key, who, named }, output) => {
                if named {
                    self.judge.queues.perhaps_owned(key, now.plus(OWNED_MILLIS_MAX));
                }
                if self.members[who.0].life == who.1 {
                    self.members[who.0].asks_where = false;
                }
                match output {
                    Output::StoredOffset { stored, min, .. } => self.told_where(key, who, stored, min, epoch),
                    Output::Refused(_) => Ok(()),
                    other => Err(format!("a question where {key:?} is was answered with {other:?}")),
                }
            }
            (Asked::Pull { key, who, from, turn, at }, output) => {
                self.judge.queues.perhaps_owned(key, now.plus(OWNED_MILLIS_MAX));
                if let Some(place) = self.place_of(who, key) {
                    place.pulling = false;
                }
                match output {
                    Output::Pulled(pulled) => self.pulled(key, who, (from, turn, at), &pulled, epoch, reader),
                    Output::Refused(_) => Ok(()),
                    other => Err(format!("a pull of {key:?} was answered with {other:?}")),
                }
            }
            (Asked::Commit { key, who, below, last, .. }, output) => {
                let counted = match output {
                    Output::Committed(counted) => Some(counted),
                    Output::Refused(_) => None,
                    other => return Err(format!("a commit of {key:?} was answered with {other:?}")),
                };
                self.commit_answered(key, who, below, last, counted)
            }
            (Asked::SendBack { key, who, offset, number, pulled }, output) => {
                let held = self.place_of(who, key).and_then(|place| place.held.iter_mut().find(|h| h.offset == offset));
                match (output, held) {
                    (Output::Settled(Ok(())), held) => {
                        held.into_iter().for_each(|held| held.state = State::Done);
                        if self.is_current(key) {
                            self.judge.sent_back(key.0, number, pulled);
                        }
                    }
                    // Too old.
                    (Output::Settled(Err(SettleError::Gone)), held) => {
                        held.into_iter().for_each(|held| held.state = State::Done);
                        if self.is_current(key) && key.1.retry_group().is_none() && !self.judge.is_old(number, now) {
                            return Err(format!("message {number} of {key:?} is gone for who sends it back"));
                        }
                    }
                    (Output::Refused(_), held) => held.into_iter().for_each(|held| held.state = State::Open),
                    (other, _) => return Err(format!("a send-back was answered with {other:?}")),
                }
                Ok(())
            }
            (Asked::Lock { who, keys, at }, output) => {
                if self.members[who.0].life == who.1 {
                    self.members[who.0].asks_for_locks = false;
                }
                let Output::Locked(locked) = output else { return Err(format!("a lock was answered with {output:?}")) };
                for key in keys {
                    let is_its_own = locked.contains(&(key.1, key.2));
                    match self.is_current(key) && self.members[who.0].life == who.1 {
                        true => self.judge.queues.locked(key, who, is_its_own, (at, now))?,
                        false => self.judge.queues.perhaps_locked(key, who, now),
                    }
                    self.judge.queues.perhaps_owned(key, now.plus(OWNED_MILLIS_MAX));
                }
                Ok(())
            }
            (asked, output) => Err(format!("{asked:?} was answered with {output:?}")),
        }
    }

    fn place_of(&mut self, who: MemberId, key: QueueKey) -> Option<&mut Place> {
        let member = self.members.get_mut(who.0).filter(|member| member.life == who.1)?;
        member.places.get_mut(&(key.1, key.2))
    }

    fn told_where(
        &mut self,
        key: QueueKey,
        who: MemberId,
        stored: Option<QueueOffset>,
        min: QueueOffset,
        epoch: u32,
    ) -> Verdict {
        if !self.is_current(key) {
            return Ok(());
        }
        if let Some(stored) = stored {
            self.judge.none_is_skipped(key, QueueOffset(0)..stored, &[], (epoch, self.now))?;
        }
        let next = stored.unwrap_or(min);
        let (pulling, committing, queue, held, last) = (false, false, QueueId(0), Vec::new(), self.now);
        let member = &mut self.members[who.0];
        if member.life == who.1 {
            member.places.entry((key.1, key.2)).or_insert(Place { next, pulling, committing, queue, held, last });
        }
        Ok(())
    }

    fn pulled(
        &mut self,
        key: QueueKey,
        who: MemberId,
        (from, turn, asked): (QueueOffset, u64, UnixMillis),
        pulled: &Pulled,
        epoch: u32,
        reader: &ReaderOf<G>,
    ) -> Verdict {
        if !self.is_current(key) {
            return Ok(());
        }
        let now = self.now;
        self.judge.none_is_skipped(key, from..pulled.next, &pulled.places, (epoch, now))?;
        if pulled.status == PullStatus::NothingNew {
            return Ok(());
        }
        self.judge.queues.is_not_locked_by_another(key, who, asked, now)?;
        if self.members[who.0].life == who.1 {
            self.judge.queues.leased(key, who, turn, (asked, now));
        }
        if pulled.status == PullStatus::Moved {
            if let Some(place) = self.place_of(who, key) {
                (place.next, place.last) = (pulled.next, asked);
                place.held.clear();
            }
            return Ok(());
        }
        let mut held = Vec::new();
        let ordered = self.groups[GROUP].facts.ordered;
        for places in &pulled.places {
            let found = match G::read(reader.messages(pulled.queue, places.clone(), 1 << 12, 1 << 30))? {
                Ok(found) => found,
                // The member asks again.
                Err(_) if self.reads_fail => return Ok(()),
                Err(error) => return Err(format!("{pulled:?}: {error}")),
            };
            for message in found {
                let offset = message.offset;
                let (number, is_retry) = match self.pulled_message(key, &message, reader)? {
                    Pulls::Message(number, is_retry) => (number, is_retry),
                    Pulls::Nothing => continue,
                    Pulls::Unreadable => return Ok(()),
                };
                let place = (!is_retry).then_some((key.2, offset));
                self.judge.pulled(key.0, number, place, asked, ordered, (epoch, now))?;
                self.report.pulled += 1;
                held.push(Held { offset, number, at: now, turn, state: State::Open });
            }
        }
        // A reply may be too small for all of it.
        let mut next = pulled.next;
        if held.len() > 1 && self.random.one_in(4) {
            let kept = 1 + self.random.below(held.len() as u64 - 1) as usize;
            next = held[kept].offset;
            held.truncate(kept);
            let (group, topic, index) = key;
            self.inbox.push(Command::PullTold { group, place: (topic, index), client: client_id(who), next });
        }
        if let Some(place) = self.place_of(who, key) {
            (place.next, place.queue, place.last) = (next, pulled.queue, asked);
            place.held.extend(held);
        }
        Ok(())
    }

    /// Which message was stored there, or is named there.
    fn pulled_message(&self, key: QueueKey, stored: &StoredMessage, reader: &ReaderOf<G>) -> Result<Pulls, String> {
        let reference = record::retry_of(&stored.record);
        let text = |error: record::RecordError| error.to_string();
        let Some(RetryOf { topic, queue, offset, .. }) = reference else {
            let body = record::body(&stored.record).map_err(text)?;
            return Ok(Pulls::Message(self.judge.recognise(&body, Some(key.1))?, false));
        };
        let found = G::read(reader.messages(queue, offset..offset.next(), 1, 1))?;
        let original = match found {
            Ok(mut found) => found.pop(),
            Err(_) if self.reads_fail => return Ok(Pulls::Unreadable),
            Err(error) => return Err(format!("{reference:?}: {error}")),
        };
        let Some(original) = original.filter(|_| self.is_live(topic)) else {
            return Ok(Pulls::Nothing);
        };
        let body = record::body(&original.record).map_err(text)?;
        Ok(Pulls::Message(self.judge.recognise(&body, Some(topic))?, true))
    }

    fn commit_answered(
        &mut self,
        key: QueueKey,
        who: MemberId,
        below: Vec<Held>,
        last: UnixMillis,
        counted: Option<bool>,
    ) -> Verdict {
        if let Some(place) = self.place_of(who, key) {
            place.committing = false;
        }
        if !self.is_current(key) {
            return Ok(());
        }
        self.report.committed += u64::from(counted == Some(true));
        let now_is_the_turn = self.judge.queues.turn(key);
        let is_plain = !self.groups[GROUP].facts.ordered;
        for &Held { number, turn, .. } in &below {
            // References are handed back, and nobody is told, once nobody has the retry queue.
            let has_it = key.1.retry_group().is_none() || self.now.since(last) < LEASED_MILLIS;
            let certain = turn == now_is_the_turn && has_it;
            let in_time = self.now.since(last) < LATE_MILLIS && !self.judge.is_old(number, self.now);
            let track = self.judge.track(key.0, number);
            track.under_way = track.under_way.saturating_sub(1);
            match counted {
                Some(true) => track.settle(certain && is_plain),
                _ if track.may_be_settled() || track.loose || track.pulled_again => {}
                Some(false) if certain && in_time && is_plain => {
                    return Err(format!("the commit of {who:?} past {number} of {key:?} does not count: {track:?}"));
                }
                _ => {}
            }
        }
        // Its next commit, which is further on, covers them too.
        if counted != Some(true)
            && let Some(place) = self.place_of(who, key)
        {
            place.held.extend(below);
        }
        Ok(())
    }

    /// What a message-based member of this group is handed is nobody else's.
    pub(in crate::run) fn handed_out_beside_members(&mut self, hand_out: &HandOut, decided: UnixMillis) -> Verdict {
        let key = (self.groups[GROUP].facts.id, hand_out.topic, hand_out.queue_index);
        // Replies of an ordered group wait: what a member has by now it may not have had when that was decided.
        let decided_now = !self.groups[GROUP].facts.ordered;
        if hand_out.attempt == 1 && decided_now && self.is_current(key) {
            self.judge.queues.is_nobodys(key, decided)?;
        }
        self.judge.queues.come(key, None, self.now);
        Ok(())
    }
}
