//! Hand-outs that are named by place and mark: of clients whose protocol has no room for a receipt handle.

use crate::messages::settle_refusal;
use crate::{Broker, Refusal};
use martlet_model::handle::ReceiptHandle;
use martlet_model::{PhysicalOffset, limits};
use martlet_shard::{Command, MarkedPlace, Output};

impl Broker {
    /// The mark of the delivery that a receipt handle is of, and where its message is; `None` if the handle is not one of this
    /// broker's.
    pub fn marked(&self, handle: &str) -> Option<(u32, Option<PhysicalOffset>)> {
        let key = self.inner.shard.key;
        let handle = ReceiptHandle::decode(handle, &key).ok()?;
        Some((handle.mark(&key), PhysicalOffset::of(handle.queue, handle.offset)))
    }

    /// Settles messages of a topic that were handed to a group, 1,024 at most; one answer per place, in order.
    pub async fn ack_marked(
        &self,
        group: &str,
        topic: &str,
        places: Vec<MarkedPlace>,
    ) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        if places.len() > limits::ACK_BATCH_MAX {
            let limit = limits::ACK_BATCH_MAX as u64;
            return Err(Refusal::Busy { what: "number of messages in one request", limit });
        }
        let (group_id, topic_id) = self.ids(group, topic)?;
        let ack = |token| Command::AckMarked { group: group_id, topic: topic_id, places, token };
        match self.ask(ack).await? {
            Output::Acked(answers) => Ok(answers.into_iter().map(|answer| answer.map_err(settle_refusal)).collect()),
            other => Err(self.unexpected(other, topic, group)),
        }
    }

    /// Makes a message that was handed to a group visible after so many milliseconds from now, at most 12 hours; the new mark.
    pub async fn change_invisible_marked(
        &self,
        group: &str,
        topic: &str,
        place: MarkedPlace,
        millis: i64,
    ) -> Result<u32, Refusal> {
        check_invisible(millis)?;
        let (group_id, topic_id) = self.ids(group, topic)?;
        let change = |token| {
            let (group, topic, invisible_millis) = (group_id, topic_id, millis);
            Command::ChangeMarked { group, topic, place, invisible_millis, token }
        };
        match self.ask(change).await? {
            Output::Changed(Ok(handle)) => Ok(handle.mark(&self.inner.shard.key)),
            Output::Changed(Err(error)) => Err(settle_refusal(error)),
            other => Err(self.unexpected(other, topic, group)),
        }
    }
}

pub(crate) fn check_invisible(millis: i64) -> Result<(), Refusal> {
    if (0..=limits::CHANGE_INVISIBLE_MILLIS_MAX).contains(&millis) {
        return Ok(());
    }
    let value = format!("{millis} ms");
    Err(Refusal::Setting { field: "invisible duration", value, rule: "is not between 0 and 12 hours" })
}
