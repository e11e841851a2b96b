//! The naive model: what was sent, who was told what about it, and what may therefore not happen.
//!
//! It knows nothing of pages, slots and batches. What a crash may or may not have taken it holds for possible both ways.

use crate::run::Again;
use crate::transactions::Transaction;
use martlet_model::handle::DeliveryNumber;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis, limits};
use martlet_shard::{HalfPlace, HandOut, TimerAt};
use std::collections::BTreeMap;

mod queues;
mod settle;
mod visible;

use queues::Queues;
pub use queues::{LATE_MILLIS, LEASED_MILLIS, MemberId, QueueKey, SentBack};

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

impl Message {
    /// Whether it may be in its topic by now, as far as anybody knows.
    pub fn may_be_there(&self, now: UnixMillis) -> bool {
        match self.sent {
            Sent::No => false,
            Sent::Half => self.transaction.is_some_and(|transaction| transaction.may_have_ended(true)),
            _ => self.due.is_none_or(|due| due <= now),
        }
    }
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
    /// When a queue-based member pulled it last.
    pub pulled: Option<UnixMillis>,
    /// That was not the first time: what another member left behind may have become a reference in the retry queue, and who goes
    /// back reads it all the same, which no commit of that place counts for.
    pub pulled_again: bool,
    /// It was sent back: it may be open more than once.
    pub loose: bool,
    /// Its attempts may be counted anew.
    pub recounted: bool,
    pub sent_back: SentBack,
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
    pub fn may_be_settled(&self) -> bool {
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
    /// Of the group that has queue-based members.
    pub queues: Queues,
}

pub type Verdict = Result<(), String>;

/// Whether retention may have taken what was stored then.
fn may_be_dropped(at: UnixMillis, now: UnixMillis) -> bool {
    now.since(at) > limits::RETENTION_MILLIS / 2
}

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

    /// Somebody sees a message at a place, if that is its own: it is there, durable, and its time has come.
    fn may_be_seen(
        &mut self,
        number: MessageNumber,
        place: Option<(u32, QueueOffset)>,
        (epoch, now): (u32, UnixMillis),
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
        if let Some(place) = place
            && *message.place.get_or_insert(place) != place
        {
            return Err(format!("message {number} moved from {:?} to {place:?}", message.place));
        }
        Ok(())
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
        self.may_be_seen(number, Some((hand_out.queue_index, hand_out.offset)), (epoch, now))?;
        self.messages[number as usize].queue = Some(hand_out.queue);
        let track = self.track(group, number);
        if track.settled {
            return Err(format!("message {number} was settled in {group:?} and is handed out again: {track:?}"));
        }
        track.is_delivered();
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
            Some(_) if track.loose || track.recounted && track.perhaps_settled => {}
            Some(last) if last.is_live(epoch, now) && track.under_way == 0 => {
                return Err(format!("message {number} has two live handles in {group:?}: {track:?} at {now:?}"));
            }
            Some(last) if last.epoch == epoch && !last.may_be_followed_by(attempt, unread) && !track.recounted => {
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

    /// Whether anybody was handed a message, or pulled it.
    pub fn was_seen(&self, number: MessageNumber) -> bool {
        let seen = |track: &Track| track.last.is_some() || track.pulled.is_some();
        self.tracks.values().any(|tracks| tracks.get(&number).is_some_and(seen))
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
        self.queues.crashed();
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
            if track.sent_back == SentBack::Asked {
                track.sent_back = SentBack::No;
            }
        }
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
