//! The naive model: what was sent, who was told what about it, and what may therefore not happen.
//!
//! It knows nothing of queues, pages and batches. What a crash may or may not have taken it holds for possible both ways.

use crate::run::Again;
use crate::transactions::Transaction;
use martlet_model::handle::{DeliveryNumber, ReceiptHandle};
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis, limits};
use martlet_shard::{HalfPlace, HandOut, RecallError, SettleError, TimerAt};
use std::collections::BTreeMap;

/// Number of a message; the first bytes of its body.
pub type MessageNumber = u64;

/// How far a send has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Under way in this epoch.
    UnderWay { epoch: u32 },
    /// Acknowledged, then and in that epoch.
    Yes { at: UnixMillis, epoch: u32 },
    /// A crash took the answer.
    Perhaps,
    /// Acknowledged as a half message, and neither committed nor rolled back as far as anybody heard.
    Half,
    /// Refused, or rolled back.
    No,
}

/// A message.
#[derive(Debug)]
pub struct Message {
    pub topic: TopicId,
    pub tag: usize,
    pub length: usize,
    pub sent: Sent,
    /// Hash of its message group.
    pub key: Option<u64>,
    /// Its queue, where that goes by priority.
    pub level: Option<u32>,
    /// Only where its topic recognises it.
    pub again: Option<Again>,
    pub place: Option<(u32, QueueOffset)>,
    pub queue: Option<QueueId>,
    /// Its delivery timestamp, and the timer it waits on once that is acknowledged.
    pub due: Option<UnixMillis>,
    pub timer: Option<TimerAt>,
    pub recall: Recall,
    pub transaction: Option<Transaction>,
}

/// How far the recall of a message has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recall {
    /// Nobody asked.
    #[default]
    No,
    /// So many are under way.
    UnderWay(u32),
    /// A crash took the answer.
    Perhaps,
    /// Answered: it is stopped for good.
    Stopped,
}

/// The last hand-out of a message to a group.
#[derive(Clone, Copy, Debug)]
pub struct Last {
    pub delivery: DeliveryNumber,
    pub attempt: u32,
    pub epoch: u32,
    pub at: UnixMillis,
    /// Invisible at least until then, and at the latest visible then: an answer does not say when it was decided.
    pub until: UnixMillis,
    pub visible: UnixMillis,
    /// Renewed while this client lives.
    pub renewed_for: Option<u64>,
    /// An undo, a change, or the end of its client is under way or done: it may be visible at any time.
    pub loosened: bool,
    pub undone: bool,
    /// Its lite topic was suspended: this attempt may not count, nor one before that counted no more.
    pub uncounted: bool,
}

/// What is known of a message in a group.
#[derive(Debug, Default)]
pub struct Track {
    pub last: Option<Last>,
    /// Answered: it is settled for good.
    pub settled: bool,
    /// Commands that may settle it and have no answer yet.
    pub under_way: u32,
    /// A crash took the answer of such a command.
    pub perhaps_settled: bool,
    /// By a durable answer: invisible until then, whatever happens; and the attempts it had.
    pub promised: Option<(UnixMillis, u32)>,
    /// Places of its dead letters.
    pub dead_letters: Vec<QueueOffset>,
}

impl Last {
    /// Whether the next hand-out may be of this attempt; `unread` of those between could not be read.
    fn may_be_followed_by(&self, attempt: u32, unread: u32) -> bool {
        let next = self.attempt + 1;
        let counted = (next..=next + unread).contains(&attempt);
        counted || (self.undone && attempt == self.attempt) || (self.uncounted && attempt <= self.attempt)
    }

    fn is_live(&self, epoch: u32, now: UnixMillis) -> bool {
        let kept = match self.renewed_for {
            Some(_) => now.since(self.at) < limits::AUTO_RENEW_TOTAL_MILLIS,
            None => self.until > now,
        };
        self.epoch == epoch && !self.loosened && kept
    }
}

impl Track {
    fn may_be_settled(&self) -> bool {
        self.settled || self.under_way > 0 || self.perhaps_settled
    }
}

/// Where a hand-out is from, and for which group.
type UnreadKey = (GroupId, TopicId, (u32, QueueOffset));

/// The model.
#[derive(Debug, Default)]
pub struct Judge {
    pub messages: Vec<Message>,
    /// Checks of half messages that no producer knows the place of.
    pub checks_of_unknown: BTreeMap<HalfPlace, u32>,
    pub tracks: BTreeMap<GroupId, BTreeMap<MessageNumber, Track>>,
    /// Replies to polls of a group that may have been durable and reached nobody, by epoch: each may have cost any of its
    /// messages an attempt.
    unheard: BTreeMap<(GroupId, u32), u32>,
    /// Hand-outs by place that could not be read, in one epoch and since the last one that was: given back, unless they had
    /// lapsed by then, which leaves an attempt that nobody heard of.
    unread: BTreeMap<UnreadKey, (u32, u32)>,
}

pub type Verdict = Result<(), String>;

/// The body of a message.
pub fn body(number: MessageNumber, length: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.resize(8 + length, number as u8 ^ 0x5a);
    body
}

impl Judge {
    pub fn track(&mut self, group: GroupId, number: MessageNumber) -> &mut Track {
        self.tracks.entry(group).or_default().entry(number).or_default()
    }

    /// Which message a body is, if it is one that was sent to this topic (`None`: to any).
    pub fn recognise(&self, bytes: &[u8], topic: Option<TopicId>) -> Result<MessageNumber, String> {
        let number = bytes.first_chunk().map(|first| u64::from_le_bytes(*first));
        let known = number.and_then(|number| Some((number, self.messages.get(number as usize)?)));
        let Some((number, message)) = known else { return Err(format!("a body that nobody sent: {bytes:?}")) };
        if bytes != body(number, message.length) {
            return Err(format!("message {number} has another body than was sent"));
        }
        if topic.is_some_and(|topic| topic != message.topic) {
            return Err(format!("message {number} was sent to {:?} and came from {topic:?}", message.topic));
        }
        Ok(number)
    }

    pub fn delivered(
        &mut self,
        group: GroupId,
        number: MessageNumber,
        hand_out: &HandOut,
        epoch: u32,
        now: UnixMillis,
        renewed_for: Option<u64>,
    ) -> Verdict {
        let message = &mut self.messages[number as usize];
        match message.sent {
            Sent::UnderWay { epoch: sent_in } if sent_in == epoch => {
                return Err(format!("message {number} was handed out before it was acknowledged"));
            }
            Sent::No => return Err(format!("message {number} was refused or rolled back, and handed out")),
            Sent::Half => return Err(format!("message {number} was handed out before its transaction was committed")),
            _ => {}
        }
        if message.due.is_some_and(|due| due > now) {
            return Err(format!("message {number} is due at {:?} and was handed out at {now:?}", message.due));
        }
        if message.recall == Recall::Stopped {
            return Err(format!("message {number} was recalled and is handed out"));
        }
        if let Some(transaction) = message.transaction.as_mut().filter(|transaction| transaction.perhaps_committed()) {
            transaction.outcome = Some(true);
        }
        let place = (hand_out.queue_index, hand_out.offset);
        if *message.place.get_or_insert(place) != place {
            return Err(format!("message {number} moved from {:?} to {place:?}", message.place));
        }
        message.queue = Some(hand_out.queue);
        let track = self.track(group, number);
        if track.settled {
            return Err(format!("message {number} was settled in {group:?} and is handed out again: {track:?}"));
        }
        // Decided earlier, before the epoch was durable, and told later: dead on arrival.
        if track.last.is_some_and(|last| last.epoch == epoch && last.delivery > hand_out.delivery) {
            return Ok(());
        }
        if let Some((until, attempts)) = track.promised {
            if now < until {
                return Err(format!(
                    "message {number} was promised to be invisible until {until:?}: {track:?} at {now:?}"
                ));
            }
            if hand_out.attempt <= attempts {
                return Err(format!("message {number} had {attempts} attempts durably, now {}", hand_out.attempt));
            }
        }
        let attempt = hand_out.attempt;
        let unread = self.take_unread(group, hand_out, epoch);
        let track = self.track(group, number);
        match track.last {
            Some(last) if last.is_live(epoch, now) && track.under_way == 0 => {
                return Err(format!("message {number} has two live handles in {group:?}: {track:?} at {now:?}"));
            }
            Some(last) if last.epoch == epoch && !last.may_be_followed_by(attempt, unread) => {
                return Err(format!("attempt {attempt} of message {number} after {last:?}"));
            }
            // Across a crash attempts go back, and a hand-out whose answer the crash took may count.
            _ => {}
        }
        let HandOut { delivery, until, .. } = *hand_out;
        track.promised = None;
        let (at, visible) = (now, until);
        let (loosened, undone, uncounted) = (false, false, false);
        track.last =
            Some(Last { delivery, attempt, epoch, at, until, visible, renewed_for, loosened, undone, uncounted });
        Ok(())
    }

    /// What an ack or a move to the dead letters was answered with.
    pub fn settled(
        &mut self,
        handle: &ReceiptHandle,
        number: MessageNumber,
        answer: &Result<(), SettleError>,
        epoch: u32,
        now: UnixMillis,
        max_attempts: u32,
    ) -> Verdict {
        // What retention has taken is settled for everybody.
        let sent = self.messages[number as usize].sent;
        let old = matches!(sent, Sent::Yes { at, .. } if now.since(at) > limits::RETENTION_MILLIS / 2);
        let track = self.track(handle.group, number);
        track.under_way = track.under_way.saturating_sub(1);
        let is_last = track.last.is_some_and(|last| last.delivery == handle.delivery);
        let live = is_last && track.last.is_some_and(|last| last.is_live(epoch, now));
        match answer {
            Ok(()) if is_last || track.may_be_settled() || handle.delivery.epoch() != epoch => track.settled = true,
            // After its last attempt it is settled by the move to the dead letters.
            Ok(()) if old || track.last.is_none_or(|last| last.attempt >= max_attempts) => {}
            Ok(()) => return Err(format!("a dead handle settled message {number}: {handle:?}, {track:?}")),
            Err(SettleError::Gone) => return Err(format!("message {number} is said to be gone: {handle:?}")),
            Err(error) if live && !track.may_be_settled() => {
                return Err(format!("the live handle of message {number} is refused as {error}: {track:?} at {now:?}"));
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// A message is said to be gone with its lite topic, which it kept from ending as long as it was not settled, or did not.
    pub fn ended_with_lite_topic(
        &mut self,
        handle: &ReceiptHandle,
        number: MessageNumber,
        kept: bool,
        epoch: u32,
        now: UnixMillis,
    ) -> Verdict {
        let sent = self.messages[number as usize].sent;
        let young = matches!(sent, Sent::Yes { at, .. } if now.since(at) <= limits::RETENTION_MILLIS / 2);
        let track = self.track(handle.group, number);
        track.under_way = track.under_way.saturating_sub(1);
        let held = track.last.is_some_and(|last| last.is_live(epoch, now)) && !track.may_be_settled();
        match kept && young && held {
            true => {
                Err(format!("message {number} of a lite topic is said to be gone while {track:?} holds it: {handle:?}"))
            }
            false => Ok(()),
        }
    }

    /// What a recall was answered with.
    pub fn recalled(
        &mut self,
        number: MessageNumber,
        answer: Option<Result<String, RecallError>>,
        now: UnixMillis,
    ) -> Verdict {
        let delivered =
            self.tracks.values().any(|tracks| tracks.get(&number).is_some_and(|track| track.last.is_some()));
        let message = &mut self.messages[number as usize];
        let others = match message.recall {
            Recall::UnderWay(count) => count > 1,
            Recall::Perhaps | Recall::Stopped => true,
            Recall::No => false,
        };
        if let Recall::UnderWay(count) = message.recall {
            message.recall = if count > 1 { Recall::UnderWay(count - 1) } else { Recall::No };
        }
        let is_due = message.due.is_some_and(|due| due <= now);
        match answer {
            Some(Ok(_)) if delivered => {
                return Err(format!("message {number} was delivered and is said to be stopped"));
            }
            Some(Ok(_)) if message.recall == Recall::Stopped => {
                return Err(format!("message {number} is stopped twice"));
            }
            Some(Ok(id)) if id != number.to_string() => return Err(format!("the recall of {number} stopped {id:?}")),
            Some(Ok(_)) => message.recall = Recall::Stopped,
            Some(Err(RecallError::Recalled)) if !others => {
                return Err(format!("message {number} is said to be recalled before, and was not: {message:?}"));
            }
            Some(Err(RecallError::Fired { .. })) if !is_due => {
                return Err(format!("message {number} is said to be over before its time: {message:?} at {now:?}"));
            }
            Some(Err(_)) | None => {}
        }
        Ok(())
    }

    /// A reply to a poll of this group may have been durable and reached nobody.
    pub fn unheard(&mut self, group: GroupId, epoch: u32) {
        *self.unheard.entry((group, epoch)).or_default() += 1;
    }

    /// A hand-out that could not be read goes back: late, if it has lapsed meanwhile.
    pub fn unread(&mut self, group: GroupId, hand_out: &HandOut, epoch: u32) {
        let key = (group, hand_out.topic, (hand_out.queue_index, hand_out.offset));
        let (since, count) = self.unread.entry(key).or_insert((epoch, 0));
        *count = if *since == epoch { *count + 1 } else { 1 };
        *since = epoch;
    }

    fn take_unread(&mut self, group: GroupId, hand_out: &HandOut, epoch: u32) -> u32 {
        let key = (group, hand_out.topic, (hand_out.queue_index, hand_out.offset));
        self.unread.remove(&key).filter(|&(since, _)| since == epoch).map_or(0, |(_, count)| count)
    }

    /// Attempts a message may have had in this epoch beyond those that were heard of.
    fn attempts_unread(&self, group: GroupId, message: &Message, epoch: u32) -> u32 {
        let found = message.place.and_then(|place| self.unread.get(&(group, message.topic, place)));
        found.filter(|(since, _)| *since == epoch).map_or(0, |&(_, count)| count)
    }

    /// Whether a message may have had its last attempt, for all that was heard of it and may not have been.
    pub fn may_be_exhausted(&self, group: GroupId, number: MessageNumber, max_attempts: u32) -> bool {
        let last = self.tracks.get(&group).and_then(|tracks| tracks.get(&number)).and_then(|track| track.last);
        let (heard, since) = match (last, self.messages[number as usize].sent) {
            (Some(last), _) => (last.attempt, last.epoch),
            (None, Sent::Yes { epoch, .. } | Sent::UnderWay { epoch }) => (0, epoch),
            (None, Sent::Perhaps | Sent::Half | Sent::No) => (0, 0),
        };
        let unheard: u32 = self.unheard.range((group, since)..=(group, u32::MAX)).map(|(_, count)| count).sum();
        heard + unheard >= max_attempts
    }

    /// Power or process went: what has no answer may have happened or not.
    pub fn crashed(&mut self) {
        for message in &mut self.messages {
            if let Recall::UnderWay(_) = message.recall {
                message.recall = Recall::Perhaps;
            }
            if let Some(transaction) = &mut message.transaction {
                transaction.crashed();
                match message.sent {
                    // Nobody knows what to commit.
                    Sent::UnderWay { .. } => message.sent = Sent::No,
                    Sent::Half if transaction.perhaps_committed() => message.sent = Sent::Perhaps,
                    _ => {}
                }
            }
            if let Sent::UnderWay { .. } = message.sent {
                message.sent = Sent::Perhaps;
            }
        }
        for track in self.tracks.values_mut().flat_map(BTreeMap::values_mut) {
            track.perhaps_settled |= track.under_way > 0;
            track.under_way = 0;
        }
    }

    /// A message handed to an ordered group, in one reply behind `before`: of its message group (without one: of its
    /// queue's messages without one) nothing earlier is unsettled but what the reply brings before it.
    #[allow(clippy::too_many_arguments)]
    pub fn in_order(
        &self,
        group: GroupId,
        hand_out: &HandOut,
        before: &[HandOut],
        max_attempts: u32,
        epoch: u32,
        now: UnixMillis,
        wants: impl Fn(usize) -> bool,
    ) -> Verdict {
        let at = (hand_out.queue_index, hand_out.offset);
        let of_topic = || self.messages.iter().enumerate().filter(|(_, message)| message.topic == hand_out.topic);
        let Some((number, message)) = of_topic().find(|(_, message)| message.place == Some(at)) else { return Ok(()) };
        for (earlier, other) in of_topic().filter(|(_, other)| other.key == message.key) {
            let Some(place) = other.place else { continue };
            if message.key.is_some() && place.0 != at.0 {
                return Err(format!("messages {earlier} and {number} of one message group are in two queues"));
            }
            if place.0 != at.0 || place.1 >= at.1 || !wants(other.tag) {
                continue;
            }
            if self.is_unsettled(group, earlier as u64, max_attempts, epoch, now)
                && !before.iter().any(|other| (other.queue_index, other.offset) == place)
            {
                let track = self.tracks.get(&group).and_then(|tracks| tracks.get(&(earlier as u64)));
                return Err(format!("message {number} at {at:?} overtakes {earlier} at {place:?}: {track:?}"));
            }
        }
        Ok(())
    }

    /// Whether a message is for certain neither settled nor dropped.
    pub fn is_unsettled(
        &self,
        group: GroupId,
        number: MessageNumber,
        max_attempts: u32,
        epoch: u32,
        now: UnixMillis,
    ) -> bool {
        let Sent::Yes { at, epoch: sent_in } = self.messages[number as usize].sent else { return false };
        if now.since(at) > limits::RETENTION_MILLIS / 2 {
            return false;
        }
        let unread = self.attempts_unread(group, &self.messages[number as usize], epoch);
        match self.tracks.get(&group).and_then(|tracks| tracks.get(&number)) {
            Some(track) if track.may_be_settled() => false,
            // Hand-outs that nobody heard of may have survived a crash, the last one too.
            None | Some(Track { last: None, .. }) => sent_in == epoch && unread < max_attempts,
            Some(Track { last: Some(last), .. }) => last.epoch == epoch && last.attempt + unread < max_attempts,
        }
    }

    /// A visible message that this group is not handed, if there is one. `wants` says which messages it could be. Of an
    /// ordered group one is meant that nothing of its message group is before, or may be in flight beside.
    #[allow(clippy::too_many_arguments)]
    pub fn visible(
        &self,
        group: GroupId,
        topic: TopicId,
        max_attempts: u32,
        epoch: u32,
        now: UnixMillis,
        ordered: bool,
        wants: impl Fn(&Message) -> bool,
    ) -> Option<MessageNumber> {
        let tracks = self.tracks.get(&group);
        let numbered = self.messages.iter().enumerate().rev();
        let mut of_topic = numbered.filter(|(_, message)| message.topic == topic && wants(message));
        of_topic.find_map(|(number, message)| {
            let Sent::Yes { at, epoch: sent_in } = message.sent else { return None };
            let stopped = message.recall != Recall::No;
            if message.due.is_some_and(|due| due > now || stopped) {
                return None;
            }
            let at = message.due.map_or(at, |due| due.max(at));
            if now.since(at) > limits::RETENTION_MILLIS / 2 {
                return None;
            }
            let unread = self.attempts_unread(group, message, epoch);
            let visible = match tracks.and_then(|tracks| tracks.get(&(number as u64))) {
                // A hand-out that nobody heard of may have survived a crash.
                None => sent_in == epoch && unread == 0,
                Some(track) if track.may_be_settled() => false,
                Some(Track { last: None, .. }) => sent_in == epoch && unread == 0,
                Some(Track { last: Some(last), .. }) => {
                    // Of other epochs it is not known whether it is still invisible.
                    let known = last.epoch == epoch && !last.loosened && last.renewed_for.is_none();
                    known && unread == 0 && last.attempt < max_attempts && last.visible <= now
                }
            };
            (visible && (!ordered || self.is_alone(group, number, message))).then_some(number as u64)
        })
    }

    /// Whether a message is for certain visible to a group since before `now`, and was never handed to it.
    pub fn is_untouched(&self, group: GroupId, number: usize, epoch: u32, now: UnixMillis) -> bool {
        let message = &self.messages[number];
        let track = self.tracks.get(&group).and_then(|tracks| tracks.get(&(number as u64)));
        let known = track.is_none_or(|track| track.last.is_none() && !track.may_be_settled());
        known
            && matches!(message.sent, Sent::Yes { at, epoch: sent_in } if sent_in == epoch && at < now
                && now.since(at) <= limits::RETENTION_MILLIS / 2)
            && self.attempts_unread(group, message, epoch) == 0
    }

    /// Whether all other messages of its message group are settled in this group, or later and never heard of.
    fn is_alone(&self, group: GroupId, number: usize, message: &Message) -> bool {
        let tracks = self.tracks.get(&group);
        let others = self.messages.iter().enumerate().filter(|(other, _)| *other != number);
        others.filter(|(_, other)| other.topic == message.topic && other.key == message.key).all(|(other, at)| {
            match tracks.and_then(|tracks| tracks.get(&(other as u64))) {
                Some(track) => track.settled,
                // Of one that nobody was handed yet it is not known what it is behind.
                None => matches!(at.sent, Sent::No | Sent::Half) || message.place.is_some() && at.place > message.place,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_since_it_was_last_heard_of_may_have_cost_a_message_its_last_attempt() {
        let (group, other) = (GroupId(1), GroupId(2));
        let sent = Sent::Yes { at: UnixMillis(0), epoch: 3 };
        let message = Message {
            topic: TopicId(1),
            tag: 0,
            length: 0,
            sent,
            key: None,
            level: None,
            again: None,
            place: None,
            queue: None,
            due: None,
            timer: None,
            recall: Recall::No,
            transaction: None,
        };
        let mut judge = Judge { messages: vec![message], ..Judge::default() };
        judge.unheard(group, 2);
        judge.unheard(other, 3);
        assert!(!judge.may_be_exhausted(group, 0, 1));
        judge.unheard(group, 3);
        assert!(judge.may_be_exhausted(group, 0, 1) && !judge.may_be_exhausted(group, 0, 2));
        let (at, until) = (UnixMillis(0), UnixMillis(0));
        let (loosened, undone, uncounted, renewed_for) = (false, false, false, None);
        let delivery = DeliveryNumber(1);
        let visible = until;
        judge.track(group, 0).last =
            Some(Last { delivery, attempt: 1, epoch: 4, at, until, visible, renewed_for, loosened, undone, uncounted });
        assert!(judge.may_be_exhausted(group, 0, 1) && !judge.may_be_exhausted(group, 0, 2));
        judge.unheard(group, 5);
        assert!(judge.may_be_exhausted(group, 0, 2) && !judge.may_be_exhausted(group, 0, 3));
    }
}
