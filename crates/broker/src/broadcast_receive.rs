//! Message-based members that are broadcast to, where broadcasting takes effect for their group (see [`crate::broadcast`]).
//!
//! Each reads every queue from where it is by itself: at first where any member begins, or at the end of a queue in which the group
//! has not been. What it was given is open until it settles it; nothing is given to it again. Its own place is in front of the first
//! that is open, and the group stays where the slowest is, so that nothing is lost when the last one that broadcasts leaves.
//!
//! In memory, as long as the member is known and broadcasting takes effect. At most [`OPEN_MAX`] messages are open per queue.

use crate::members::State;
use crate::queue_offsets::StoredOffset;
use crate::queue_pull::{PullMode, QueuePull};
use crate::{Broker, DeliveredMessage, ReceiveRequest, Received, Refusal};
use martlet_model::{QueueOffset, TopicId};
use martlet_shard::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Most messages that one member may have open in one queue; what clients keep ready.
const OPEN_MAX: usize = 5_000;
/// How long a member waits that cannot be given anything right now.
const LATER: Duration = Duration::from_secs(1);
/// What the handles of such messages begin with. They are not signed: all that one can do with them is to settle what some member
/// has open.
const HANDLE: &str = "broadcast:";

/// Where a member is by itself.
#[derive(Debug, Default)]
pub(crate) struct Alone(BTreeMap<(TopicId, u32), Place>);

#[derive(Debug, Default)]
struct Place {
    next: QueueOffset,
    open: BTreeSet<QueueOffset>,
}

impl Alone {
    /// Everything below is settled; `None`: it has not been there.
    pub fn settled(&self, queue: (TopicId, u32)) -> Option<QueueOffset> {
        self.0.get(&queue).map(Place::settled)
    }
}

impl Place {
    fn settled(&self) -> QueueOffset {
        self.open.first().copied().unwrap_or(self.next)
    }
}

/// A message that a member was given: as a handle, `broadcast:topic:queue:offset:client id`, the first three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Given<'a> {
    queue: (TopicId, u32),
    offset: QueueOffset,
    client_id: &'a str,
}

impl<'a> Given<'a> {
    fn handle(&self) -> String {
        let ((TopicId(topic), queue), QueueOffset(offset)) = (self.queue, self.offset);
        format!("{HANDLE}{topic}:{queue}:{offset}:{}", self.client_id)
    }

    fn parse(handle: &'a str) -> Option<Self> {
        let mut parts = handle.strip_prefix(HANDLE)?.splitn(4, ':');
        let (topic, queue) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let offset = parts.next()?.parse().ok()?;
        Some(Self { queue: (TopicId(topic), queue), offset: QueueOffset(offset), client_id: parts.next()? })
    }
}

impl Broker {
    /// A poll of a member whose protocol knows broadcasting: like [`Broker::receive`], and where broadcasting takes effect, what
    /// there is of one queue for this member alone.
    pub async fn receive_or_broadcast(&self, request: ReceiveRequest) -> Result<Received, Refusal> {
        if !self.broadcasts(&request.group) {
            return self.receive(request).await;
        }
        let topic = self.topic_to_look_into(&request.topic)?;
        let wait = Duration::from_millis(request.poll_millis.unsigned_abs()).min(LATER);
        let Some(queue) = request.queue else {
            // It shares still, and will be told that it does not.
            tokio::time::sleep(wait).await;
            return Ok(Received::default());
        };
        let (group, client_id) = (&request.group, &request.client_id);
        self.client_number(client_id, group)?;
        let place = (topic.id, queue);
        let Some(from) = self.begin_alone(&request, queue, place).await? else {
            tokio::time::sleep(wait).await;
            return Ok(Received::default());
        };
        let pulled = self
            .pull_queue(QueuePull {
                group: group.clone(),
                topic: request.topic.clone(),
                queue,
                offset: from.0,
                max_messages: request.batch_size,
                max_bytes: martlet_model::limits::REPLY_BYTES_MAX,
                filter: request.filter.clone(),
                wait_millis: request.poll_millis,
                mode: PullMode::Look,
                client_id: client_id.clone(),
            })
            .await?;
        let offsets = pulled.messages.iter().map(|message| message.offset);
        let moved = {
            let mut state = self.inner.members.state();
            match state.place(group, &Given { queue: place, offset: from, client_id }) {
                Some(place) if place.next == from => {
                    let before = place.settled();
                    place.open.extend(offsets);
                    place.next = pulled.next;
                    place.settled() > before
                }
                // All share again, or another poll was faster.
                _ => return Ok(Received::default()),
            }
        };
        if moved {
            self.follow_slowest(group, place);
        }
        let messages = pulled.messages.into_iter().map(|message| DeliveredMessage {
            topic: message.topic,
            queue,
            offset: message.offset,
            store_time: message.store_time,
            attempt: 1,
            handle: Given { queue: place, offset: message.offset, client_id }.handle(),
            invisible_millis: request.invisible_millis,
            record: message.record,
        });
        Ok(Received { messages: messages.collect(), budget: pulled.budget })
    }

    /// Where a member goes on; `None`: nowhere right now, it has as much open as it may have.
    async fn begin_alone(
        &self,
        request: &ReceiveRequest,
        queue: u32,
        place: (TopicId, u32),
    ) -> Result<Option<QueueOffset>, Refusal> {
        let known = |broker: &Self| {
            let state = broker.inner.members.state();
            let alone = state.broadcasts.get(&request.group)?.alone.get(&request.client_id)?.0.get(&place)?;
            Some((alone.open.len() < OPEN_MAX).then_some(alone.next))
        };
        if let Some(next) = known(self) {
            return Ok(next);
        }
        let stored = match self.queue_offset(&request.group, &request.topic, queue, None).await? {
            StoredOffset::Found(offset) => offset,
            StoredOffset::NotFound { max, .. } => max,
        };
        let joined = self.inner.clients.joined(&request.client_id);
        let mut state = self.inner.members.state();
        // All share again.
        let Some(broadcast) = state.broadcasts.get_mut(&request.group) else { return Ok(None) };
        let next = broadcast.begin(place, stored, joined);
        let alone = broadcast.alone.entry(request.client_id.clone()).or_default();
        let place = alone.0.entry(place).or_insert(Place { next, open: BTreeSet::new() });
        Ok(Some(place.next))
    }

    /// Whether the handle is of a message that was broadcast; such a one is settled, whether the client succeeded or failed. Where it
    /// is not open any more, because all share again, it comes again if the group has not passed it.
    pub fn ack_broadcast(&self, group: &str, handle: &str) -> bool {
        let Some(given) = Given::parse(handle) else { return false };
        let moved = self.inner.members.state().place(group, &given).is_some_and(|place| {
            let before = place.settled();
            place.open.remove(&given.offset);
            place.settled() > before
        });
        if moved {
            self.follow_slowest(group, given.queue);
        }
        true
    }

    /// A message did not reach its member, if it was broadcast: it goes on in front of it.
    pub(crate) fn undo_broadcast(&self, group: &str, handle: &str) {
        let Some(given) = Given::parse(handle) else { return };
        if let Some(place) = self.inner.members.state().place(group, &given)
            && place.open.remove(&given.offset)
        {
            place.next = place.next.min(given.offset);
        }
    }

    /// A consumer that receives by message has left its group.
    pub(crate) fn consumer_left(&self, group: &str, client_id: &str) {
        if let Some(broadcast) = self.inner.members.state().broadcasts.get_mut(group) {
            broadcast.alone.remove(client_id);
        }
        self.inner.members.changed(group);
    }

    /// The group goes where the slowest is. That is no promise to anybody, so nobody waits for it.
    fn follow_slowest(&self, group: &str, (topic, index): (TopicId, u32)) {
        let slowest = self.inner.members.state().slowest(group, (topic, index));
        let (Some(offset), Some(group)) = (slowest, self.known_group(group)) else { return };
        let (token, _answer) = self.inner.shard.token(None);
        let commit = Command::CommitOffset { group: group.id, topic, index, offset, client: None::<Arc<str>>, token };
        // A full inbox refuses this; the next one says the same.
        let _ = self.inner.shard.submit(commit);
    }
}

impl State {
    fn place(&mut self, group: &str, given: &Given<'_>) -> Option<&mut Place> {
        self.broadcasts.get_mut(group)?.alone.get_mut(given.client_id)?.0.get_mut(&given.queue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_in_front_of_the_first_that_is_open() {
        let mut place = Place { next: QueueOffset(7), open: BTreeSet::new() };
        assert_eq!(place.settled(), QueueOffset(7));
        place.open.extend([QueueOffset(4), QueueOffset(6)]);
        assert_eq!(place.settled(), QueueOffset(4));
        place.open.remove(&QueueOffset(4));
        assert_eq!(place.settled(), QueueOffset(6));
    }

    #[test]
    fn handles_are_read_and_others_are_left_alone() {
        let given = Given { queue: (TopicId(5), 3), offset: QueueOffset(17), client_id: "host@1:2" };
        assert_eq!(Given::parse(&given.handle()), Some(given));
        for other in ["", "broadcast", "broadcast:3:1:2", "broadcast:1:-1:2:c", "xbroadcast:1:1:2:c"] {
            assert_eq!(Given::parse(other), None, "{other}");
        }
    }
}
