//! Clients of lite topics: what they subscribe to, and what is certain of it.
//!
//! Synchronisations are carried out in the order they are said. What has no answer yet, or lost it in a crash, is not
//! certain; nor is what an exclusive group's full set asked for, which another client may keep.

use super::{Pending, Run};
use crate::ground::Ground;
use crate::judge::{Message, MessageNumber, Sent, Verdict};
use bytes::Bytes;
use martlet_model::handle::ReceiptHandle;
use martlet_model::{GroupId, QueueId, QueueOffset, UnixMillis};
use martlet_shard::{
    ClientNumber, Command, HandOut, LiteAction, LiteReset, LiteStart, LiteSync, ResetTarget, lite_oldest,
    lite_progress, lite_topics_of_group,
};
use martlet_store::Reader as _;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Names of lite topics.
pub(super) const NAMES: [&str; 6] = ["l0", "l1", "l2", "l3", "l4", "l5"];
/// Which topic is the parent, which group consumes its lite topics, and its clients.
pub(super) const PARENT: usize = 2;
pub(super) const GROUP: usize = 3;
pub(super) const FIRST_CLIENT: u64 = 6;
pub(super) const CLIENTS: u64 = 3;
/// So long after a synchronisation its lease holds for certain.
const SURE_MILLIS: i64 = 170_000;

/// A synchronisation whose answer changes nothing.
const NOBODYS: Pending = Pending::SyncLite { client: usize::MAX, life: 0, at: UnixMillis(0) };

/// What a client has said.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The set, if every synchronisation so far is carried out and nothing else happens.
    asked: BTreeSet<usize>,
    unanswered: u32,
    /// What it certainly has, until then.
    sure: BTreeSet<usize>,
    sure_until: UnixMillis,
    /// Whether the next synchronisation must be a full one.
    lost: bool,
    /// The last version it gave, and whether the shard certainly knows it.
    version: i64,
    knows_version: bool,
}

impl Said {
    /// Whether messages of this lite topic, by the hash of its name, are certainly the client's.
    pub fn is_sure(&self, key: Option<u64>, now: UnixMillis) -> bool {
        let name = NAMES.iter().position(|name| Some(martlet_shard::message_group(name)) == key);
        now < self.sure_until && self.unanswered == 0 && name.is_some_and(|name| self.sure.contains(&name))
    }

    /// Nothing is known any more.
    pub fn forget(&mut self) {
        *self = Self { lost: true, version: self.version, ..Self::default() };
    }
}

/// The id of a client.
pub(super) fn client_id(number: u64) -> Arc<str> {
    format!("client {number}").into()
}

impl<G: Ground> Run<G> {
    pub(super) fn is_lite(&self, group: GroupId) -> bool {
        self.groups.get(GROUP).is_some_and(|known| known.facts.id == group)
    }

    /// One of the clients brings its set up to date, now and then the same set again.
    pub(super) fn sync_lite(&mut self, at: usize) {
        let Some(group) = self.groups.get(GROUP) else { return };
        let Some(exclusive) = group.facts.lite.map(|lite| lite.exclusive) else { return };
        let group = group.facts.id;
        let mut names: BTreeSet<usize> = (0..NAMES.len()).filter(|_| self.random.one_in(2)).collect();
        let (chance, versioned, late) = (self.random.below(8), !self.random.one_in(3), self.random.one_in(10));
        let (number, life, now) = (self.clients[at].number, self.clients[at].life, self.now);
        let said = &mut self.clients[at].said;
        // Its lease may be over, and its set with it: it says all of it again.
        if now >= said.sure_until {
            said.sure.clear();
            said.lost |= said.sure_until > UnixMillis(0);
        }
        // One that comes too late changes nothing, if what it is late for is known.
        if late && said.knows_version && said.unanswered == 0 && now < said.sure_until {
            let version = Some(said.version - 1);
            let sync = LiteSync { version, ..self.sync_of(group, number, LiteAction::Set, &names) };
            self.ask(NOBODYS, |token| Command::SyncLite { sync, token });
            return;
        }
        let action = match chance {
            _ if said.lost => LiteAction::Set,
            0..=2 => LiteAction::Add(LiteStart::Last),
            3 => LiteAction::Remove,
            4 => LiteAction::Clear,
            5 => LiteAction::Set,
            _ => {
                names = said.asked.clone();
                LiteAction::Set
            }
        };
        let before = std::mem::take(&mut said.sure);
        let asked = std::mem::take(&mut said.asked);
        (said.asked, said.sure) = match action {
            LiteAction::Add(_) => (&asked | &names, &before | &names),
            LiteAction::Remove => (&asked - &names, &before - &names),
            LiteAction::Clear => Default::default(),
            LiteAction::Set if exclusive => (names.clone(), &before & &names),
            LiteAction::Set => (names.clone(), names.clone()),
        };
        said.lost = false;
        said.unanswered += 1;
        said.version += i64::from(versioned);
        said.knows_version = (said.knows_version || versioned) && action != LiteAction::Clear;
        let version = versioned.then_some(said.version);
        if exclusive && matches!(action, LiteAction::Add(_)) {
            for other in (0..self.clients.len()).filter(|other| *other != at) {
                let said = &mut self.clients[other].said;
                said.sure = &said.sure - &names;
                said.asked = &said.asked - &names;
            }
        }
        let sync = LiteSync { version, ..self.sync_of(group, number, action, &names) };
        self.ask(Pending::SyncLite { client: at, life, at: now }, |token| Command::SyncLite { sync, token });
    }

    /// Everything, for the client that drains.
    pub(super) fn sync_all(&mut self, group: GroupId, number: u64) {
        let exclusive = self.groups[GROUP].facts.lite.is_some_and(|lite| lite.exclusive);
        let action = if exclusive { LiteAction::Add(LiteStart::Last) } else { LiteAction::Set };
        let sync = self.sync_of(group, number, action, &(0..NAMES.len()).collect());
        self.ask(NOBODYS, |token| Command::SyncLite { sync, token });
    }

    fn sync_of(&self, group: GroupId, number: u64, action: LiteAction, names: &BTreeSet<usize>) -> LiteSync {
        let topic = self.topics[PARENT].facts.id;
        let names = names.iter().map(|&name| NAMES[name].into()).collect();
        LiteSync {
            client: ClientNumber(number),
            client_id: client_id(number),
            group,
            topic,
            action,
            names,
            version: None,
        }
    }

    pub(super) fn synced(&mut self, client: usize, life: u32, at: UnixMillis, done: bool) {
        let Some(client) = self.clients.get_mut(client).filter(|client| client.life == life) else { return };
        client.said.unanswered = client.said.unanswered.saturating_sub(1);
        match done {
            true => client.said.sure_until = at.plus(SURE_MILLIS),
            false => client.said.forget(),
        }
    }

    /// Whether a message of a lite topic cannot have ended with it: it keeps its lite topic until the group has settled it, but
    /// for one that was made later.
    pub(super) fn is_kept(&self, message: &Message) -> bool {
        let (Some(topic), Some(group)) = (self.topics.get(PARENT), self.groups.get(GROUP)) else { return true };
        let ends = topic.facts.lite.is_some_and(|lite| lite.expire_millis.is_some());
        let since = match message.sent {
            Sent::Yes { at, .. } => at >= group.born,
            _ => false,
        };
        message.topic != topic.facts.id || !ends || since
    }

    /// Whether a message may end with its lite topic.
    pub(super) fn may_end(&self, number: MessageNumber) -> bool {
        let message = self.judge.messages.get(number as usize);
        let facts = self.topics.get(PARENT).map(|topic| &topic.facts);
        let facts = facts.filter(|facts| message.is_some_and(|message| message.topic == facts.id));
        facts.and_then(|facts| facts.lite).is_some_and(|lite| lite.expire_millis.is_some())
    }

    /// A lite topic is suspended: of all its messages the attempt may not count, and the time may be another.
    pub(super) fn suspended(&mut self, handle: &ReceiptHandle, number: MessageNumber) {
        let Some(key) = self.judge.messages.get(number as usize).map(|message| (message.topic, message.key)) else {
            return;
        };
        let of_key: Vec<MessageNumber> = (0..self.judge.messages.len() as u64)
            .filter(|&other| {
                let message = &self.judge.messages[other as usize];
                (message.topic, message.key) == key
            })
            .collect();
        let Some(tracks) = self.judge.tracks.get_mut(&handle.group) else { return };
        for other in of_key {
            let Some(track) = tracks.get_mut(&other) else { continue };
            track.promised = None;
            if let Some(last) = &mut track.last {
                (last.loosened, last.undone, last.uncounted) = (true, true, true);
            }
        }
    }

    /// Of a lite topic no message comes before an earlier one that is not settled. `reply`: places of what the same reply brings,
    /// each lite topic's in order.
    pub(super) fn in_lite_order(
        &self,
        group: GroupId,
        number: MessageNumber,
        hand_out: &HandOut,
        reply: &[(QueueId, QueueOffset)],
        epoch: u32,
    ) -> Verdict {
        let max = self.groups[GROUP].facts.max_attempts;
        let message = &self.judge.messages[number as usize];
        for (earlier, other) in self.judge.messages.iter().enumerate() {
            let same = other.topic == message.topic && other.key == message.key;
            // Of one that ended and was made again the number is another.
            let here = other.place.filter(|place| place.0 == hand_out.queue_index);
            let before = here.map(|place| place.1).filter(|&offset| offset < hand_out.offset);
            let earlier = earlier as u64;
            if same
                && self.is_kept(other)
                && before.is_some_and(|offset| !reply.contains(&(hand_out.queue, offset)))
                && self.judge.is_unsettled(group, earlier, max, epoch, self.now)
            {
                let track = self.judge.tracks.get(&group).and_then(|tracks| tracks.get(&earlier));
                return Err(format!("message {number} of a lite topic overtakes {earlier}: {hand_out:?}, {track:?}"));
            }
        }
        Ok(())
    }

    /// An administrator moves the group in a lite topic. From then on it is not certain what of that is settled, nor whether it comes
    /// again; but the count of what is left, its age, and the order are.
    pub(super) fn reset_lite(&mut self) {
        let (Some(parent), Some(group)) = (self.topics.get(PARENT), self.groups.get(GROUP)) else { return };
        let (parent, group) = (parent.facts.id, group.facts.id);
        let places = self.judge.messages.iter().rev().filter(|message| message.topic == parent);
        let places: Vec<_> =
            places.filter_map(|message| Some((message.key, message.queue?, message.place?.1))).take(40).collect();
        if places.is_empty() {
            return;
        }
        let (key, queue, offset) = places[self.random.below(places.len() as u64) as usize];
        let target = match self.random.below(4) {
            0 => ResetTarget::Earliest,
            1 => ResetTarget::Latest,
            _ => ResetTarget::Near(offset),
        };
        let (targets, only_back) = (vec![(queue, target)], self.random.one_in(3));
        self.moving_in_lite(group, key);
        let reset = LiteReset { group, parent, targets, only_back };
        self.ask(Pending::ResetLite { group, key }, |token| Command::ResetLite { reset, token });
    }

    /// A group is being moved in a lite topic, or was.
    pub(super) fn moving_in_lite(&mut self, group: GroupId, key: Option<u64>) {
        let Some(parent) = self.topics.get(PARENT).map(|topic| topic.facts.id) else { return };
        for (number, message) in self.judge.messages.iter().enumerate() {
            if message.topic != parent || message.key != key {
                continue;
            }
            let track = self.judge.tracks.entry(group).or_default().entry(number as u64).or_default();
            track.loosen();
            track.perhaps_settled = true;
            // An ack that was carried out before may be answered after.
            track.loose |= track.under_way > 0;
            if let Some(last) = &mut track.last {
                (last.loosened, last.undone, last.uncounted) = (true, true, true);
            }
        }
    }

    /// Somebody asks how old what the group has not settled is: what a look at few lite topics says is what a look at all of them
    /// does.
    pub(super) fn look_at_ages(&mut self) -> Verdict {
        let (Some(parent), Some(group)) = (self.topics.get(PARENT), self.groups.get(GROUP)) else { return Ok(()) };
        let (parent, group) = (parent.facts.id, group.facts.id);
        let Some(reader) = self.reader().filter(|_| !self.reads_fail) else { return Ok(()) };
        // Of a parent that is deleted some is left until it is swept.
        let sweeps = Bytes::from_static(&[8])..Bytes::from_static(&[9]);
        let is_swept = G::read(reader.scan(sweeps, 1))?.map_err(|error| error.to_string())?.is_empty();
        if !is_swept || self.pending.values().any(|pending| matches!(pending, Pending::Catalog)) {
            return Ok(());
        }
        let found = G::read(lite_oldest(&reader, group, true, 1_000))?.map_err(|error| error.to_string())?;
        let all = G::read(lite_topics_of_group(&reader, parent, group, None, 1_000))?;
        let (mut oldest, mut oldest_ready) = (None, None);
        for look in all.map_err(|error| error.to_string())?.0 {
            let progress = G::read(lite_progress(&reader, group, &look))?.map_err(|error| error.to_string())?;
            let older = |known: Option<UnixMillis>, other| known.into_iter().chain(other).min();
            (oldest, oldest_ready) = (older(oldest, progress.oldest), older(oldest_ready, progress.oldest_ready));
        }
        if (found.oldest, found.oldest_ready) != (oldest, oldest_ready) {
            return Err(format!("the oldest are {oldest:?} and {oldest_ready:?}, and found is {found:?}"));
        }
        self.report.looked_at += found.younger.len() as u64;
        self.inbox.push(Command::CorrectLiteAges { group, found: found.younger });
        Ok(())
    }
}
