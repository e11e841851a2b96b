//! Which messages a group is to be handed for certain, and which not yet.

use super::{Judge, Message, MessageNumber, Recall, Sent, Track, Verdict, may_be_dropped};
use martlet_model::{GroupId, TopicId, UnixMillis};
use martlet_shard::HandOut;

impl Judge {
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
        if may_be_dropped(at, now) {
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
        wants: impl Fn(MessageNumber, &Message) -> bool,
    ) -> Option<MessageNumber> {
        let tracks = self.tracks.get(&group);
        let numbered = self.messages.iter().enumerate().rev();
        let mut of_topic =
            numbered.filter(|(number, message)| message.topic == topic && wants(*number as u64, message));
        of_topic.find_map(|(number, message)| {
            let Sent::Yes { at, epoch: sent_in } = message.sent else { return None };
            let stopped = message.recall != Recall::No;
            if message.due.is_some_and(|due| due > now || stopped) {
                return None;
            }
            let at = message.due.map_or(at, |due| due.max(at));
            if may_be_dropped(at, now) {
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
                && !may_be_dropped(at, now))
            && self.attempts_unread(group, message, epoch) == 0
    }

    /// Whether for certain no poll of a group was ever handed a message, nor did more than one command that is under way settle
    /// it.
    pub fn is_untouched_by_polls(&self, group: GroupId, number: usize, epoch: u32, now: UnixMillis) -> bool {
        let message = &self.messages[number];
        let track = self.tracks.get(&group).and_then(|tracks| tracks.get(&(number as u64)));
        let settled = |track: &Track| track.settled || track.perhaps_settled || track.under_way > 1;
        let handed = track.is_some_and(|track| track.last.is_some() || settled(track));
        let Sent::Yes { at, epoch: sent_in } = message.sent else { return false };
        !handed
            && sent_in == epoch
            && !may_be_dropped(at, now)
            && !self.unheard.contains_key(&(group, epoch))
            && self.attempts_unread(group, message, epoch) == 0
    }

    /// Whether a message was handed to a group, as far as anybody heard.
    pub fn is_known_to(&self, group: GroupId, number: MessageNumber) -> bool {
        let track = self.tracks.get(&group).and_then(|tracks| tracks.get(&number));
        track.is_some_and(|track| track.last.is_some())
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
