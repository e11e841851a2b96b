//! Queue-based consumption in the model: whose a queue is, what was pulled from it, and what comes of that.
//!
//! What a member was told is certain from the answer on; how long it lasts at least goes by when it asked. Who came to a queue
//! last, and whether anybody came between, decides how much a commit is certain to settle.

use super::{Judge, MessageNumber, Track, Verdict};
use martlet_model::{GroupId, QueueOffset, TopicId, UnixMillis};
use std::collections::BTreeMap;

/// A queue of a topic in the eyes of one group.
pub type QueueKey = (GroupId, TopicId, u32);
/// A queue-based member: its number and its life.
pub type MemberId = (usize, u32);

/// How long a pull keeps a queue at least, and a lock.
pub const LEASED_MILLIS: i64 = 40_000;
const LOCKED_MILLIS: i64 = 60_000;
/// A member that does not come for so long may not have a queue any more, though nobody else came.
pub const LATE_MILLIS: i64 = 300_000;

/// A member has a queue for certain, all the time in between.
#[derive(Clone, Copy, Debug)]
struct Hold {
    member: MemberId,
    from: UnixMillis,
    until: UnixMillis,
}

impl Hold {
    fn covers(&self, from: UnixMillis, to: UnixMillis) -> bool {
        self.from < from && to < self.until
    }
}

/// Whose the queues are.
#[derive(Debug, Default)]
pub struct Queues {
    leases: BTreeMap<QueueKey, Hold>,
    locks: BTreeMap<QueueKey, Hold>,
    /// By whom, and until when at the latest a queue may be locked; without end while that is asked for.
    perhaps_locked: BTreeMap<(QueueKey, MemberId), UnixMillis>,
    /// Who came last (`None`: message-based members), how often that was another than before, and when.
    came: BTreeMap<QueueKey, (Option<MemberId>, u64, UnixMillis)>,
    /// Until when a queue may be anybody's.
    perhaps_until: BTreeMap<QueueKey, UnixMillis>,
}

impl Queues {
    /// Somebody comes to a queue. Gives back a number that stays the same while nobody else comes, and it is not late.
    pub fn come(&mut self, key: QueueKey, who: Option<MemberId>, now: UnixMillis) -> u64 {
        let (last, count, seen) = self.came.entry(key).or_insert((who, 0, now));
        // References are handed back as soon as nobody has the retry queue.
        let late = if key.1.retry_group().is_some() { LEASED_MILLIS } else { LATE_MILLIS };
        if *last != who || now.since(*seen) > late {
            (*last, *count) = (who, *count + 1);
            self.leases.remove(&key);
        }
        *seen = now;
        *count
    }

    /// That number.
    pub fn turn(&self, key: QueueKey) -> u64 {
        self.came.get(&key).map_or(0, |(_, count, _)| *count)
    }

    /// It may be somebody's until then.
    pub fn perhaps_owned(&mut self, key: QueueKey, until: UnixMillis) {
        self.perhaps_until.insert(key, until);
    }

    /// Whether it is nobody's for certain.
    pub fn is_free(&self, key: QueueKey, now: UnixMillis) -> bool {
        self.perhaps_until.get(&key).is_none_or(|until| *until < now)
    }

    /// A member asks for a lock.
    pub fn locking(&mut self, key: QueueKey, member: MemberId) {
        self.perhaps_locked.insert((key, member), UnixMillis(i64::MAX));
    }

    /// What was asked for at that time is answered: whether the queue is the member's.
    pub fn locked(
        &mut self,
        key: QueueKey,
        member: MemberId,
        is_its_own: bool,
        (asked, now): (UnixMillis, UnixMillis),
    ) -> Verdict {
        self.perhaps_locked.remove(&(key, member));
        let others = self.may_be_locked(key, member, asked);
        if is_its_own {
            self.is_not_locked_by_another(key, member, asked, now)?;
            self.perhaps_locked.insert((key, member), now.plus(LOCKED_MILLIS));
            self.locks.insert(key, Hold { member, from: now, until: asked.plus(LOCKED_MILLIS) });
            self.perhaps_owned(key, now.plus(LOCKED_MILLIS));
            return Ok(());
        }
        match others {
            true => Ok(()),
            false => Err(format!("{key:?} is not locked for {member:?}, and nobody else has locked it")),
        }
    }

    /// A member that asked for a lock is gone, or its queue is: if it got the lock, it is over by itself.
    pub fn perhaps_locked(&mut self, key: QueueKey, member: MemberId, now: UnixMillis) {
        self.perhaps_locked.insert((key, member), now.plus(LOCKED_MILLIS));
    }

    /// Whether another member may have locked a queue.
    pub fn may_be_locked(&self, key: QueueKey, member: MemberId, now: UnixMillis) -> bool {
        self.perhaps_locked.iter().any(|((of, who), until)| *of == key && *who != member && *until >= now)
    }

    /// A member is given something that was decided between these times.
    pub fn is_not_locked_by_another(
        &self,
        key: QueueKey,
        member: MemberId,
        asked: UnixMillis,
        now: UnixMillis,
    ) -> Verdict {
        match self.locks.get(&key).filter(|hold| hold.member != member && hold.covers(asked, now)) {
            Some(hold) => Err(format!("{key:?} is given to {member:?} and is locked: {hold:?} at {now:?}")),
            None => Ok(()),
        }
    }

    /// A pull is answered that was asked for when this was the queue's turn.
    pub fn leased(&mut self, key: QueueKey, member: MemberId, turn: u64, (asked, now): (UnixMillis, UnixMillis)) {
        if self.turn(key) == turn {
            self.leases.insert(key, Hold { member, from: now, until: asked.plus(LEASED_MILLIS) });
        }
    }

    /// A message that was never handed out is handed out by message, decided then.
    pub fn is_nobodys(&self, key: QueueKey, decided: UnixMillis) -> Verdict {
        let holds = self.leases.get(&key).into_iter().chain(self.locks.get(&key));
        match holds.into_iter().find(|hold| hold.covers(decided, decided)) {
            Some(hold) => Err(format!("{key:?} is handed out by message, and is {hold:?} at {decided:?}")),
            None => Ok(()),
        }
    }

    /// A member gives up a queue, or (`None`) all it has. What it was still asking for may be before or after that.
    pub fn given_up(&mut self, member: MemberId, key: Option<QueueKey>) {
        for (of, (_, count, _)) in &mut self.came {
            *count += u64::from(key.is_none_or(|key| key == *of));
        }
        for holds in [&mut self.leases, &mut self.locks] {
            holds.retain(|of, hold| hold.member != member || key.is_some_and(|key| key != *of));
        }
    }

    /// Nothing of this is durable.
    pub fn crashed(&mut self) {
        let turns = self.came.iter().map(|(key, (_, count, seen))| (*key, (None, count + 1, *seen))).collect();
        *self = Self { came: turns, ..Self::default() };
    }
}

/// How far a send-back has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SentBack {
    /// Nobody has, or it was delivered since.
    #[default]
    No,
    /// No answer yet, and not delivered since.
    Asked,
    /// It is to be delivered again.
    Owed,
}

impl Track {
    /// It was delivered, one way or the other.
    pub fn is_delivered(&mut self) {
        self.sent_back = SentBack::No;
    }

    /// What a commit or a message-based member's ack settles may come again after all, if it was sent back as well.
    pub fn settle(&mut self, certain: bool) {
        match certain && !self.loose {
            true => self.settled = true,
            false => self.perhaps_settled = true,
        }
    }

    /// What was settled may come again.
    pub fn loosen(&mut self) {
        self.recounted = true;
        self.promised = None;
        if std::mem::take(&mut self.settled) {
            self.perhaps_settled = true;
        }
    }
}

impl Judge {
    /// A member pulled a message, by a pull that was asked for then. `place`: where, unless it came by way of the retries.
    pub fn pulled(
        &mut self,
        group: GroupId,
        number: MessageNumber,
        place: Option<(u32, QueueOffset)>,
        asked: UnixMillis,
        ordered: bool,
        (epoch, now): (u32, UnixMillis),
    ) -> Verdict {
        self.may_be_seen(number, place, (epoch, now))?;
        if ordered {
            self.is_not_held_before(group, number, asked, (epoch, now))?;
        }
        let track = self.track(group, number);
        // In order, what is behind something that is not settled is read again.
        if track.settled && !ordered {
            return Err(format!("message {number} was settled in {group:?} and is pulled again: {track:?}"));
        }
        let held = track.last.is_some_and(|last| last.is_live(epoch, now) && last.at < asked);
        if held && !track.may_be_settled() && !track.loose {
            return Err(format!("message {number} is pulled while somebody has it in {group:?}: {track:?} at {now:?}"));
        }
        track.is_delivered();
        track.pulled_again |= track.pulled.is_some();
        track.pulled = Some(now);
        Ok(())
    }

    /// Of an ordered group: nothing of its message group in front of it is in flight.
    fn is_not_held_before(
        &self,
        group: GroupId,
        number: MessageNumber,
        asked: UnixMillis,
        (epoch, now): (u32, UnixMillis),
    ) -> Verdict {
        let message = &self.messages[number as usize];
        let Some((index, offset)) = message.place else { return Ok(()) };
        let Some(tracks) = self.tracks.get(&group) else { return Ok(()) };
        for (&earlier, track) in tracks {
            let other = &self.messages[earlier as usize];
            let before = other.place.is_some_and(|(queue, place)| queue == index && place < offset);
            let held = track.last.is_some_and(|last| last.is_live(epoch, now) && last.at < asked);
            if before && held && other.topic == message.topic && other.key == message.key && !track.may_be_settled() {
                return Err(format!("message {number} is pulled while {earlier} before it is in flight: {track:?}"));
            }
        }
        Ok(())
    }

    /// Whether a message is for certain still to be given to somebody: nobody ever got it, by a poll or a pull.
    pub fn is_for_anybody(&self, group: GroupId, number: usize, epoch: u32, now: UnixMillis) -> bool {
        let track = self.tracks.get(&group).and_then(|tracks| tracks.get(&(number as u64)));
        self.is_untouched_by_polls(group, number, epoch, now)
            && track.is_none_or(|track| track.pulled.is_none() && track.under_way == 0 && !track.loose)
    }

    /// Nothing between these places of a queue that is still to be given to somebody is passed over.
    pub fn none_is_skipped(
        &self,
        key: QueueKey,
        range: std::ops::Range<QueueOffset>,
        read: &[std::ops::Range<QueueOffset>],
        (epoch, now): (u32, UnixMillis),
    ) -> Verdict {
        let (group, topic, index) = key;
        for (number, message) in self.messages.iter().enumerate() {
            let here = message.place.filter(|(queue, _)| message.topic == topic && *queue == index);
            let passed = here.is_some_and(|(_, at)| range.contains(&at) && !read.iter().any(|read| read.contains(&at)));
            if passed && self.is_for_anybody(group, number, epoch, now) {
                return Err(format!("{group:?} skips message {number} of {range:?}: {message:?} at {now:?}"));
            }
        }
        Ok(())
    }

    /// A message is being sent back: from now on it may come again, however often it was delivered.
    pub fn sending_back(&mut self, group: GroupId, number: MessageNumber) {
        let track = self.track(group, number);
        track.loosen();
        track.loose = true;
        track.sent_back = SentBack::Asked;
    }

    /// It was taken back. `pulled`: when the member pulled it. It is to come again, unless a message-based member had it since, or
    /// still has it from an earlier send-back.
    pub fn sent_back(&mut self, group: GroupId, number: MessageNumber, pulled: UnixMillis) {
        let track = self.track(group, number);
        let handed_out = track.last.is_some_and(|last| last.visible >= pulled || last.renewed_for.is_some());
        if track.sent_back == SentBack::Asked && !handed_out && track.under_way == 0 {
            track.sent_back = SentBack::Owed;
            track.perhaps_settled = false;
        }
    }

    /// Of an ordered group, a commit begins anew from there on.
    pub fn begins_anew(&mut self, key: QueueKey, from: QueueOffset) {
        let (group, topic, index) = key;
        let Some(tracks) = self.tracks.get_mut(&group) else { return };
        for (&number, track) in tracks.iter_mut() {
            let message = &self.messages[number as usize];
            let here = message.place.is_none_or(|(queue, place)| queue == index && place >= from);
            if message.topic == topic && here {
                track.loosen();
            }
        }
    }

    /// Whether a message is old enough that retention may have taken it.
    pub fn is_old(&self, number: MessageNumber, now: UnixMillis) -> bool {
        match self.messages[number as usize].sent {
            super::Sent::Yes { at, .. } => super::may_be_dropped(at, now),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: QueueKey = (GroupId(1), TopicId(1), 0);
    const ONE: MemberId = (1, 0);
    const OTHER: MemberId = (2, 0);

    #[test]
    fn a_lock_keeps_others_out_as_long_as_it_lasts_for_certain() {
        let mut queues = Queues::default();
        let at = |millis| UnixMillis(millis);
        queues.locking(KEY, ONE);
        assert!(queues.locked(KEY, OTHER, false, (at(0), at(5))).is_ok(), "the first may have it already");
        assert!(queues.locked(KEY, ONE, true, (at(0), at(10))).is_ok());
        assert!(queues.is_not_locked_by_another(KEY, OTHER, at(10), at(20)).is_ok(), "it may have been decided before");
        assert!(queues.is_not_locked_by_another(KEY, OTHER, at(11), at(20)).is_err());
        assert!(queues.is_not_locked_by_another(KEY, ONE, at(11), at(20)).is_ok());
        assert!(queues.is_not_locked_by_another(KEY, OTHER, at(11), at(60_000)).is_ok(), "it may be over");
        assert!(queues.is_nobodys(KEY, at(11)).is_err());
        queues.given_up(ONE, Some(KEY));
        assert!(queues.is_nobodys(KEY, at(11)).is_ok());
        assert!(queues.locked(KEY, OTHER, false, (at(70_011), at(70_012))).is_err(), "nobody has it");
        queues.locking(KEY, ONE);
        assert!(queues.may_be_locked(KEY, OTHER, at(900_000)) && !queues.may_be_locked(KEY, ONE, at(900_000)));
        queues.perhaps_locked(KEY, ONE, at(900_000));
        assert!(queues.may_be_locked(KEY, OTHER, at(960_000)) && !queues.may_be_locked(KEY, OTHER, at(960_001)));
    }

    #[test]
    fn who_pulls_has_the_queue_until_somebody_else_comes() {
        let mut queues = Queues::default();
        let at = |millis| UnixMillis(millis);
        let turn = queues.come(KEY, Some(ONE), at(0));
        queues.leased(KEY, ONE, turn, (at(0), at(1)));
        assert_eq!(queues.come(KEY, Some(ONE), at(2)), turn);
        assert!(queues.is_nobodys(KEY, at(2)).is_err() && queues.is_nobodys(KEY, at(40_000)).is_ok());
        assert_ne!(queues.come(KEY, Some(OTHER), at(3)), turn);
        assert!(queues.is_nobodys(KEY, at(4)).is_ok(), "that is not decided yet");
        queues.leased(KEY, ONE, turn, (at(2), at(5)));
        assert!(queues.is_nobodys(KEY, at(6)).is_ok(), "the pull was before the other came");
    }
}
