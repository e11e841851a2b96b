//! Groups whose queue-based members disagree on the message model: broadcasting takes effect for all of them, as the product
//! documents it (product sheet, CM-5).
//!
//! Clients act on their own setting, so it is brought about by what they are answered. While any member broadcasts,
//!
//! - each of the others is told that it is alone, and so takes all queues; locks of queues are granted to each;
//! - it pulls without owning the queue, and where it is is kept for itself alone, in memory, as long as it is a member; it begins
//!   where the group is, but those that were there when broadcasting took effect all begin where the first of them did. What
//!   message-based members that share settle before that first one asks, none of them sees;
//! - the group stays where the slowest of them is: there new members begin, and there all go on when the last one that broadcasts
//!   has left. What message-based members have settled beyond comes again only when a slower member turns up;
//! - nothing is taken back for another delivery: it would come to those, too, that had no trouble with it. Clients then try
//!   again by themselves.
//!
//! Not so in FIFO groups: ordered messages are never broadcast (CM-14). Retries that were there before go to one member each
//! as ever. Message-based members are broadcast to where their protocol knows that (see [`crate::broadcast_receive`]); the others
//! share what the slowest has not settled.

use crate::broadcast_receive::Alone;
use crate::members::{Member, MemberInfo, MemberKind, Members, MessageModel, State};
use crate::{Broker, Refusal};
use martlet_model::group::DeliveryOrder;
use martlet_model::names::RETRY_PREFIX;
use martlet_model::{GroupId, QueueOffset, TopicId};
use martlet_shard::Command;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// Where a group goes after its slowest member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// There.
    pub to: QueueOffset,
    /// Where it was moved before, if it was.
    pub from: Option<QueueOffset>,
}

/// Steps in several queues.
type Steps = Vec<((TopicId, u32), Step)>;

impl Step {
    /// Whether it goes back, as a slower member has turned up.
    pub fn is_back(&self) -> bool {
        self.from.is_some_and(|from| self.to < from)
    }

    /// What the shard is asked for it.
    pub fn command<T>(&self, group: GroupId, (topic, index): (TopicId, u32), token: T) -> Command<T> {
        let (offset, client, forward_only) = (self.to, None, !self.is_back());
        Command::CommitOffset { group, topic, index, offset, client, forward_only, promised: true, token }
    }
}

/// What is kept of a group in which broadcasting takes effect.
#[derive(Debug)]
pub(crate) struct Broadcast {
    /// When it began to.
    since: Instant,
    /// Where the group was when the first member asked, of queues that members have been in by themselves; `None`: nowhere yet.
    began_at: BTreeMap<(TopicId, u32), Option<QueueOffset>>,
    /// Where the group was moved since.
    moved_to: BTreeMap<(TopicId, u32), QueueOffset>,
    /// Message-based members that are broadcast to (see [`crate::broadcast_receive`]).
    pub alone: BTreeMap<Arc<str>, Alone>,
}

impl Members {
    /// Whether a member of the group broadcasts.
    fn broadcast(&self, group: &str) -> bool {
        let state = self.state();
        state.of.get(group).is_some_and(|members| members.values().any(Member::broadcasts))
    }

    /// Where a member that would share messages is by itself.
    pub fn own_offset(&self, group: &str, client_id: &str, queue: (TopicId, u32)) -> Option<QueueOffset> {
        self.state().of.get(group)?.get(client_id)?.offsets.get(&queue).copied()
    }

    /// The same changes. Gives back where the group is to go, if anywhere; `None`: it is no such member.
    pub fn move_own_offset(
        &self,
        group: &str,
        client_id: &str,
        queue: (TopicId, u32),
        to: QueueOffset,
    ) -> Option<Option<Step>> {
        let mut state = self.state();
        let members = state.of.get_mut(group)?;
        // The last one that broadcasts may just have left: then all share again.
        if !members.values().any(Member::broadcasts) {
            return None;
        }
        let member = members.get_mut(client_id).filter(|member| !member.broadcasts())?;
        member.offsets.insert(queue, to);
        Some(state.follow_slowest(group, queue))
    }

    /// A group was not moved after all: what is due then is due again with the next move of a member.
    pub fn not_moved(&self, group: &str, queue: (TopicId, u32), step: Step) {
        let mut state = self.state();
        let Some(broadcast) = state.broadcasts.get_mut(group) else { return };
        let moved_to = broadcast.moved_to.get(&queue).copied();
        let moved_to = match step.is_back() {
            true => moved_to.max(step.from),
            // A later step stands.
            false if moved_to != Some(step.to) => return,
            false => step.from,
        };
        match moved_to {
            Some(moved_to) => broadcast.moved_to.insert(queue, moved_to),
            None => broadcast.moved_to.remove(&queue),
        };
    }

    /// A topic is gone with its queues.
    pub fn forget_topic(&self, topic: TopicId) {
        let mut state = self.state();
        for member in state.of.values_mut().flat_map(BTreeMap::values_mut) {
            member.offsets.retain(|queue, _| queue.0 != topic);
        }
        for broadcast in state.broadcasts.values_mut() {
            broadcast.began_at.retain(|queue, _| queue.0 != topic);
            broadcast.moved_to.retain(|queue, _| queue.0 != topic);
            broadcast.alone.values_mut().for_each(|alone| alone.forget_topic(topic));
        }
    }

    /// Where a queue-based member begins that is not in a queue by itself yet; `stored` is where the group is. `None`: where its
    /// own setting says.
    pub fn begin_by_itself(
        &self,
        group: &str,
        client_id: &str,
        queue: (TopicId, u32),
        stored: Option<QueueOffset>,
    ) -> Option<QueueOffset> {
        let mut state = self.state();
        let joined = state.of.get(group).and_then(|members| members.get(client_id)).map(|member| member.joined);
        match state.broadcasts.get_mut(group) {
            Some(broadcast) => broadcast.begin(queue, stored, joined),
            None => stored,
        }
    }

    /// Members have come, left, or changed their message model; `may`: broadcasting can take effect. Whether it does, and if it just
    /// has ended, where the group goes back to.
    fn apply(&self, group: &str, may: bool) -> (bool, Steps) {
        let mut state = self.state();
        if may && state.of.get(group).is_some_and(|members| members.values().any(Member::broadcasts)) {
            state.broadcasts.entry(group.to_owned()).or_default();
            return (true, Vec::new());
        }
        let moved_to = state.broadcasts.get(group).map_or_else(BTreeMap::new, |broadcast| broadcast.moved_to.clone());
        let step = |(queue, from)| Some((queue, Step { to: state.slowest(group, queue)?, from: Some(from) }));
        let back = moved_to.into_iter().filter_map(step).filter(|(_, step)| step.is_back()).collect();
        state.broadcasts.remove(group);
        state.forget_offsets(group);
        (false, back)
    }

    /// The group was moved by somebody else: all begin anew.
    pub fn begin_anew(&self, group: &str) {
        let mut state = self.state();
        if let Some(broadcast) = state.broadcasts.get_mut(group) {
            *broadcast = Broadcast { since: broadcast.since, ..Broadcast::default() };
            state.forget_offsets(group);
        }
    }
}

impl Default for Broadcast {
    fn default() -> Self {
        let (began_at, moved_to, alone) = Default::default();
        Self { since: Instant::now(), began_at, moved_to, alone }
    }
}

impl Broadcast {
    /// Where a member that joined at this time begins in a queue, if the group is anywhere in it: one that was there when broadcasting
    /// took effect begins with the first of these, however far others are by now.
    pub fn begin(
        &mut self,
        queue: (TopicId, u32),
        stored: Option<QueueOffset>,
        joined: Option<Instant>,
    ) -> Option<QueueOffset> {
        let began_at = *self.began_at.entry(queue).or_insert(stored);
        if joined.is_some_and(|joined| joined <= self.since) { began_at } else { stored }
    }
}

impl State {
    fn forget_offsets(&mut self, group: &str) {
        if let Some(members) = self.of.get_mut(group) {
            members.values_mut().for_each(|member| member.offsets.clear());
        }
    }

    /// Somebody has moved: where the group is to go, if that is elsewhere than before.
    pub fn follow_slowest(&mut self, group: &str, queue: (TopicId, u32)) -> Option<Step> {
        let to = self.slowest(group, queue)?;
        let before = self.broadcasts.entry(group.to_owned()).or_default().moved_to.insert(queue, to);
        (before != Some(to)).then_some(Step { to, from: before })
    }

    /// Where the slowest of those is that have been in a queue by themselves.
    pub fn slowest(&self, group: &str, queue: (TopicId, u32)) -> Option<QueueOffset> {
        let queue_based = self.of.get(group).into_iter().flat_map(BTreeMap::values);
        let queue_based = queue_based.filter_map(|member| member.offsets.get(&queue).copied());
        let message_based = self.broadcasts.get(group).into_iter().flat_map(|broadcast| broadcast.alone.values());
        queue_based.chain(message_based.filter_map(|member| member.settled(queue))).min()
    }
}

impl Broker {
    /// Whether broadcasting takes effect for all queue-based members of a group.
    pub fn broadcasts(&self, group: &str) -> bool {
        let is_fifo = || self.known_group(group).is_some_and(|group| group.order == DeliveryOrder::Fifo);
        self.inner.members.broadcast(group) && !is_fifo()
    }

    /// The members among whom one of them shares out queues: all, or where broadcasting takes effect, itself.
    pub fn members_to_share_with(&self, group: &str, client_id: &str) -> Vec<MemberInfo> {
        let mut members = self.members(group);
        if self.broadcasts(group) {
            members.retain(|member| &*member.client_id == client_id);
        }
        members
    }

    /// Whether queue-based members keep where they are in this topic each for itself.
    pub(crate) fn keep_own_offsets(&self, group: &str, topic: &str) -> bool {
        !topic.starts_with(RETRY_PREFIX) && self.broadcasts(group)
    }

    /// A message is not taken back where broadcasting takes effect.
    pub(crate) fn check_takes_back(&self, group: &str) -> Result<(), Refusal> {
        if !self.broadcasts(group) {
            return Ok(());
        }
        let reason = "broadcasting takes effect for all members of the group, and each tries again by itself";
        Err(Refusal::NotSentBack { reason: reason.to_owned() })
    }

    /// Members have come, left, or changed their message model.
    pub(crate) fn apply_message_model(&self, group: &str) {
        let is_fifo = self.known_group(group).is_some_and(|group| group.order == DeliveryOrder::Fifo);
        let (takes_effect, back) = self.inner.members.apply(group, !is_fifo);
        back.into_iter().for_each(|(queue, step)| self.move_group(group, queue, step));
        if !takes_effect {
            return;
        }
        // Nobody owns queues any more: what members say of the group's progress would not count.
        let Some(known) = self.known_group(group) else { return };
        for member in self.members(group).iter().filter(|member| member.shares_queues()) {
            let client: Arc<str> = member.client_id.clone();
            // A full inbox refuses this; the leases end by themselves.
            let _ = self.inner.shard.submit(Command::MemberGone { group: known.id, client });
        }
    }
}

impl Member {
    fn broadcasts(&self) -> bool {
        self.info.model == MessageModel::Broadcasting
    }
}

impl MemberInfo {
    /// Whether it would share queues with others.
    fn shares_queues(&self) -> bool {
        self.kind == MemberKind::QueueBased && self.model == MessageModel::Clustering
    }
}
