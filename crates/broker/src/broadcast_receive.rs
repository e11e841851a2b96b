//! Message-based members that are broadcast to, where broadcasting takes effect for their group (see [`crate::broadcast`]).
//!
//! Each reads every queue from where it is by itself: at first where any member begins. What it was given is open until it settles
//! it, or for as long as it asked for: then it is given to it again, as is what did not reach it. Its own place is in front of the first that
//! is not settled, and the group follows the slowest. What was to be delivered again before broadcasting took effect is handed out as
//! ever, to one of them.
//!
//! In memory, as long as the member is known and broadcasting takes effect. At most [`OPEN_MAX`] messages are open per queue.

use crate::broadcast::Step;
use crate::members::State;
use crate::queue_offsets::StoredOffset;
use crate::queue_pull::{PullMode, QueuePull};
use crate::{Broker, DeliveredMessage, OffsetOf, ReceiveRequest, Received, Refusal};
use martlet_model::group::{DeliveryOrder, StartFrom};
use martlet_model::{QueueOffset, TopicId, UnixMillis, limits};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Most messages that one member may have open in one queue; what clients keep ready.
const OPEN_MAX: usize = 5_000;
/// How long a member waits that cannot be given anything right now.
const LATER: Duration = Duration::from_secs(1);
/// What the handles of such messages begin with. They are not signed: who says that it is another client could settle what that one
/// has open, as it could say good-bye for it.
const HANDLE: &str = "broadcast:";

/// Where a member is by itself.
#[derive(Debug, Default)]
pub(crate) struct Alone(BTreeMap<(TopicId, u32), Place>);

#[derive(Debug, Default)]
struct Place {
    /// What comes from here on was never given to it.
    next: QueueOffset,
    /// Until when it has what.
    open: BTreeMap<QueueOffset, Instant>,
    /// To be given to it again.
    again: BTreeSet<QueueOffset>,
}

/// What a member is given next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// What comes from here on.
    From(QueueOffset),
    /// This one again.
    Again(QueueOffset),
}

impl Alone {
    /// Everything below is settled; `None`: it has not been there.
    pub fn settled(&self, queue: (TopicId, u32)) -> Option<QueueOffset> {
        self.0.get(&queue).map(Place::settled)
    }

    pub fn forget_topic(&mut self, topic: TopicId) {
        self.0.retain(|queue, _| queue.0 != topic);
    }
}

impl Place {
    fn settled(&self) -> QueueOffset {
        let open = self.open.keys().next().copied();
        let again = self.again.first().copied();
        open.into_iter().chain(again).chain([self.next]).min().unwrap_or(self.next)
    }

    /// `None`: it has as much open as it may have.
    fn due(&mut self, now: Instant) -> Option<Next> {
        let over = self.open.extract_if(.., |_, until| *until <= now).map(|(offset, _)| offset);
        self.again.extend(over);
        match self.again.first() {
            Some(&again) => Some(Next::Again(again)),
            None => (self.open.len() < OPEN_MAX).then_some(Next::From(self.next)),
        }
    }

    /// It is given these, and is through with what lies between them. False: another poll of it was faster.
    fn give(&mut self, next: Next, offsets: &[QueueOffset], go_on: QueueOffset, until: Instant) -> bool {
        let still = match next {
            Next::From(from) => self.next == from,
            Next::Again(offset) => self.again.remove(&offset),
        };
        if still {
            self.open.extend(offsets.iter().map(|offset| (*offset, until)));
            if matches!(next, Next::From(_)) {
                self.next = go_on;
            }
        }
        still
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
    /// there is of one queue for this member alone. In a group in any order, a queue is named only where messages are broadcast.
    pub async fn receive_or_broadcast(&self, request: ReceiveRequest) -> Result<Received, Refusal> {
        let broadcasts = self.broadcasts(&request.group);
        let group = self.group(&request.group).await?;
        let wait = Duration::from_millis(request.poll_millis.unsigned_abs()).min(LATER);
        match request.queue {
            _ if group.order == DeliveryOrder::Fifo => self.receive(request).await,
            None if !broadcasts => {
                let received = self.receive(request.clone()).await?;
                if self.broadcasts(&request.group) && !received.messages.is_empty() {
                    // The client was told meanwhile to give up what this came for.
                    let handles = received.messages.into_iter().map(|message| message.handle).collect();
                    self.undo(&request.group, handles);
                    return Ok(Received::default());
                }
                Ok(received)
            }
            Some(queue) if broadcasts => self.broadcast_to(request, queue, wait).await,
            // The client has not been told yet how messages are shared now.
            _ => {
                tokio::time::sleep(wait).await;
                Ok(Received::default())
            }
        }
    }

    async fn broadcast_to(&self, request: ReceiveRequest, queue: u32, wait: Duration) -> Result<Received, Refusal> {
        let (group, client_id) = (&request.group, &request.client_id);
        let topic = self.topic_to_look_into(&request.topic)?;
        self.client_number(client_id, group)?;
        let retries = self.receive_some(ReceiveRequest { poll_millis: 0, ..request.clone() }, true).await?;
        if !retries.messages.is_empty() {
            return Ok(retries);
        }
        let place = (topic.id, queue);
        let Some(next) = self.begin_alone(&request, queue, place).await? else {
            tokio::time::sleep(wait).await;
            return Ok(Received::default());
        };
        let (offset, max_messages, wait_millis) = match next {
            Next::From(from) => (from.0, request.batch_size, request.poll_millis),
            Next::Again(offset) => (offset.0, 1, 0),
        };
        let pull = QueuePull {
            group: group.clone(),
            topic: request.topic.clone(),
            queue,
            offset,
            max_messages,
            max_bytes: limits::REPLY_BYTES_MAX,
            filter: request.filter.clone(),
            wait_millis,
            commit: None,
            mode: PullMode::Look,
            client_id: client_id.clone(),
        };
        let mut pulled = self.pull_queue(pull).await?;
        if let Next::Again(offset) = next {
            // It may be gone by now.
            pulled.messages.retain(|message| message.offset == offset);
        }
        let offsets: Vec<_> = pulled.messages.iter().map(|message| message.offset).collect();
        let millis = request.renew_for_millis.unwrap_or(request.invisible_millis);
        let until = Instant::now() + Duration::from_millis(millis.unsigned_abs());
        let moved = {
            let mut state = self.inner.members.state();
            let given = Given { queue: place, offset: QueueOffset(offset), client_id };
            // All share again, or another poll was faster.
            let Some(of) = state.place(group, &given) else { return Ok(Received::default()) };
            if !of.give(next, &offsets, pulled.next, until) {
                return Ok(Received::default());
            }
            state.follow_slowest(group, place)
        };
        moved.into_iter().for_each(|step| self.move_group(group, place, step));
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

    /// What a member is given next; `None`: nothing right now.
    async fn begin_alone(
        &self,
        request: &ReceiveRequest,
        queue: u32,
        place: (TopicId, u32),
    ) -> Result<Option<Next>, Refusal> {
        let (group, client_id) = (&request.group, &request.client_id);
        // Of a client that is not a member here, nobody would see it leave.
        let Some(joined) = self.inner.clients.joined(client_id, group) else { return Ok(None) };
        let given = Given { queue: place, offset: QueueOffset(0), client_id };
        if let Some(known) = self.inner.members.state().place(group, &given) {
            return Ok(known.due(Instant::now()));
        }
        let stored = match self.queue_offset(group, &request.topic, queue, None).await? {
            StoredOffset::Found(offset) => Some(offset),
            StoredOffset::NotFound { .. } => None,
        };
        let begun = {
            let mut state = self.inner.members.state();
            let Some(broadcast) = state.broadcasts.get_mut(group) else { return Ok(None) };
            broadcast.begin(place, stored, Some(joined))
        };
        let next = match begun {
            Some(offset) => offset,
            None => {
                let start = match self.group(group).await?.start {
                    StartFrom::Earliest => OffsetOf::Beginning,
                    StartFrom::Latest(millis) | StartFrom::Time(millis) => OffsetOf::Time(UnixMillis(millis)),
                };
                let start = self.offset_of(&request.topic, queue, start).await?;
                // It has begun, whatever happens to the place in memory.
                self.move_group(group, place, Step { to: start, from: None });
                start
            }
        };
        let due = {
            let mut state = self.inner.members.state();
            let Some(broadcast) = state.broadcasts.get_mut(group) else { return Ok(None) };
            let alone = broadcast.alone.entry(client_id.clone()).or_default();
            let place = alone.0.entry(place).or_insert(Place { next, ..Place::default() });
            place.due(Instant::now())
        };
        // It may have left meanwhile, and then nobody would take the place away.
        if self.inner.clients.joined(client_id, group).is_none() {
            self.consumer_left(group, client_id);
            return Ok(None);
        }
        Ok(due)
    }

    /// Settles a message if the handle is of one that was broadcast, whether the client succeeded or failed; `None`: it is of none. Where
    /// the message is not open any more, because all share again, it comes again if the group has not passed it.
    pub fn ack_broadcast(
        &self,
        group: &str,
        topic: &str,
        client_id: &str,
        handle: &str,
    ) -> Option<Result<(), Refusal>> {
        let given = Given::parse(handle)?;
        let is_of = |what, named: &str| Some(Err(Refusal::HandleForeign { what, named: named.to_owned() }));
        if given.client_id != client_id {
            return is_of("client", client_id);
        }
        if self.known_topic(topic).is_none_or(|topic| topic.id != given.queue.0) {
            return is_of("topic", topic);
        }
        let moved = {
            let mut state = self.inner.members.state();
            if let Some(place) = state.place(group, &given) {
                place.open.remove(&given.offset);
                place.again.remove(&given.offset);
                state.follow_slowest(group, given.queue)
            } else {
                None
            }
        };
        moved.into_iter().for_each(|step| self.move_group(group, given.queue, step));
        Some(Ok(()))
    }

    /// A message did not reach its member, if it was broadcast: it is given to it again.
    pub(crate) fn undo_broadcast(&self, group: &str, handle: &str) {
        let Some(given) = Given::parse(handle) else { return };
        if let Some(place) = self.inner.members.state().place(group, &given)
            && place.open.remove(&given.offset).is_some()
        {
            place.again.insert(given.offset);
        }
    }

    /// A consumer that receives by message has left its group.
    pub(crate) fn consumer_left(&self, group: &str, client_id: &str) {
        if let Some(broadcast) = self.inner.members.state().broadcasts.get_mut(group) {
            broadcast.alone.remove(client_id);
        }
        self.inner.members.changed(group);
    }

    /// The group goes there. That is no promise to anybody, so nobody waits for it.
    pub(crate) fn move_group(&self, name: &str, (topic, index): (TopicId, u32), step: Step) {
        let Some(group) = self.known_group(name) else { return };
        let (token, _answer) = self.inner.shard.token(None);
        if self.inner.shard.submit(step.command(group.id, (topic, index), token)).is_err() {
            self.inner.members.not_moved(name, (topic, index), step);
        }
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
    fn a_member_is_in_front_of_the_first_that_it_has_not_settled() {
        let (now, at) = (Instant::now(), |offset| QueueOffset(offset));
        let later = now + Duration::from_secs(1);
        let mut place = Place { next: at(4), ..Place::default() };
        assert_eq!((place.settled(), place.due(now)), (at(4), Some(Next::From(at(4)))));
        assert!(place.give(Next::From(at(4)), &[at(4), at(6)], at(7), later));
        assert!(!place.give(Next::From(at(4)), &[at(4)], at(5), later), "another poll was faster");
        assert_eq!((place.settled(), place.next), (at(4), at(7)));
        place.open.remove(&at(4));
        assert_eq!(place.settled(), at(6));
        // What it did not settle in time it is given again, before what is new; the group does not pass it.
        assert_eq!((place.due(later), place.settled()), (Some(Next::Again(at(6))), at(6)));
        assert!(place.give(Next::Again(at(6)), &[at(6)], at(7), later) && place.again.is_empty());
        place.open.remove(&at(6));
        assert_eq!((place.settled(), place.due(later)), (at(7), Some(Next::From(at(7)))));
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
