//! What acks, moves to the dead letters and recalls may be answered with.

use super::{Judge, MessageNumber, Recall, Sent, Verdict, may_be_dropped};
use martlet_model::UnixMillis;
use martlet_model::handle::ReceiptHandle;
use martlet_shard::{RecallError, SettleError};

impl Judge {
    /// What an ack or a move to the dead letters was answered with. `has_members`: the group has queue-based members.
    #[allow(clippy::too_many_arguments)]
    pub fn settled(
        &mut self,
        handle: &ReceiptHandle,
        number: MessageNumber,
        answer: &Result<(), SettleError>,
        epoch: u32,
        now: UnixMillis,
        max_attempts: u32,
        has_members: bool,
    ) -> Verdict {
        // What retention has taken is settled for everybody.
        let sent = self.messages[number as usize].sent;
        let old = matches!(sent, Sent::Yes { at, .. } if may_be_dropped(at, now));
        let track = self.track(handle.group, number);
        track.under_way = track.under_way.saturating_sub(1);
        let is_last = track.last.is_some_and(|last| last.delivery == handle.delivery);
        let live = is_last && track.last.is_some_and(|last| last.is_live(epoch, now));
        match answer {
            // What lapsed may have become a reference in the retry queue: its handle is as good as that of a settled one.
            Ok(()) if has_members && !live => track.settle(false),
            Ok(()) if is_last || track.may_be_settled() || handle.delivery.epoch() != epoch => track.settle(true),
            // After its last attempt it is settled by the move to the dead letters.
            Ok(()) if old || track.last.is_none_or(|last| last.attempt >= max_attempts) => {}
            _ if track.recounted && *answer != Err(SettleError::Gone) => {}
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
        let young = matches!(sent, Sent::Yes { at, .. } if !may_be_dropped(at, now));
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
        let delivered = self.was_seen(number);
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
}
