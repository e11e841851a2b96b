//! Which lite topics each client of a group wants, kept in the store and under one lease per client.
//!
//! | action | what it does to the client's set |
//! | --- | --- |
//! | add | these too; where lite topics are one client's at a time, others lose them and are told |
//! | remove | these not any more |
//! | set | exactly these; what another client has in an exclusive group it keeps, and this one is told |
//! | clear | none |
//!
//! Rules
//! - A set survives restarts, and so do its version and who has what in an exclusive group: an older version never rolls a
//!   newer one back.
//! - A synchronisation that says what is known costs one comparison and no write, but for the lease once a minute.
//! - A lease ends [`limits::LITE_LEASE_MILLIS`] after the last synchronisation or poll, or with its client. After an opening each
//!   counts as just renewed.
//! - What a new subscription finds is looked up once, by name; from then on events say what there is for it.
//! - Where the group says so ([`LiteResets`](martlet_model::LiteResets)), it begins at a lite topic's first message again when a
//!   client takes that over, unless it says where it begins, or has unsubscribed from it.

use crate::answer::*;
use crate::codec;
use crate::command::*;
use crate::keys;
use crate::lite_registry::{MemberNo, StoredSet, sum_of};
use crate::load::{LiteFound, Load};
use crate::resident::{Entity, Purpose};
use crate::shard::{Shard, Work};
use bytes::Bytes;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, limits};
use martlet_store::{KeyState, Op};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The last sign of life is written anew after so long.
const STORE_AGAIN_MILLIS: i64 = 60_000;
/// A client's ready list is made anew once it is longer than its set by so many.
const READY_SLACK: usize = 256;
/// Names looked up at a time.
const LOOK_UP: usize = 256;
/// A set is written anew once it has so many deltas, or their bytes outweigh it by so many.
const DELTAS_MAX: u32 = 64;
const DELTA_SLACK_BYTES: usize = 2_048;
/// Most bytes of one delta, below the store's limit.
const DELTA_BYTES_MAX: usize = 60 << 10;

/// What a synchronisation came to.
#[derive(Debug, Default)]
struct Applied {
    /// Whether it was carried out: what it said is not older than what was known.
    is_news: bool,
    /// Lite topics in which the group begins again.
    again: Vec<Arc<str>>,
}

impl<T> Shard<T> {
    /// A client brings its set up to date. The group's sets are in memory.
    pub(crate) fn sync_lite(&mut self, sync: LiteSync, token: T) {
        if let Some(refused) = self.refuses_sync(&sync) {
            return self.reply(token, Output::Refused(refused));
        }
        let resets = self.lite_group(sync.group).map(|facts| facts.resets).unwrap_or_default();
        let at = match sync.action {
            LiteAction::Add(LiteStart::Last) => resets.exclusive.then_some(None),
            LiteAction::Add(LiteStart::Time(time)) => Some(Some(time)),
            LiteAction::Add(_) => Some(None),
            LiteAction::Remove => resets.unsubscribe.then_some(None),
            LiteAction::Set | LiteAction::Clear => None,
        };
        // Before anything is handed out: where it begins.
        if let Some(at) = at {
            let (group, parent, names) = (sync.group, sync.topic, sync.names.clone());
            let load = Load::LiteLookup { group, parent, names, at };
            return self.want_after_batch(load, Purpose::LiteStart { sync, token });
        }
        let output = self.apply_sync(&sync).map_or_else(Output::Refused, |_| Output::Done);
        self.reply(token, output);
    }

    fn refuses_sync(&self, sync: &LiteSync) -> Option<Refused> {
        if !self.groups.contains_key(&sync.group) {
            return Some(Refused::GroupGone);
        }
        if !self.topics.contains_key(&sync.topic) {
            return Some(Refused::TopicGone);
        }
        match self.lite_group(sync.group).filter(|facts| facts.parent == sync.topic) {
            None => Some(Refused::NotLite),
            Some(facts) => {
                let partial = matches!(sync.action, LiteAction::Add(_) | LiteAction::Remove);
                (facts.wildcard && partial).then_some(Refused::LiteWildcard)
            }
        }
    }

    /// It is known what there is of the lite topics that a client begins in.
    pub(crate) fn lite_start_found(&mut self, sync: LiteSync, token: T, found: Option<Vec<LiteFound>>) {
        match found.filter(|found| found.len() == sync.names.len()) {
            Some(found) => self.handle(Work::LiteSubscribe { sync, found, token }),
            None => self.reply(token, Output::Refused(Refused::ReadFailed("a lite topic cannot be read".into()))),
        }
    }

    /// The same, and their queues and the group's progress in them are in memory.
    pub(crate) fn subscribe_lite_at(&mut self, sync: &LiteSync, found: &[LiteFound], token: T) {
        let applied = match self.refuses_sync(sync) {
            Some(refused) => Err(refused),
            None => self.apply_sync(sync),
        };
        let output = applied.map_or_else(Output::Refused, |applied| {
            for (name, found) in sync.names.iter().zip(found) {
                match sync.action {
                    LiteAction::Add(LiteStart::Last) | LiteAction::Remove if applied.again.contains(name) => {
                        self.start_lite(sync.group, LiteStart::Min, found);
                    }
                    LiteAction::Add(start) if applied.is_news => self.start_lite(sync.group, start, found),
                    _ => {}
                }
            }
            Output::Done
        });
        self.reply(token, output);
    }

    fn start_lite(&mut self, group: GroupId, start: LiteStart, found: &LiteFound) {
        let Some(id) = found.queue else { return };
        let Some(queue) = self.queues.get(&id) else { return };
        let (min, max) = (queue.min, queue.next);
        let to = match start {
            LiteStart::Last => return,
            LiteStart::Min => min,
            LiteStart::Max => max,
            LiteStart::Offset(offset) => offset,
            LiteStart::Tail(count) => QueueOffset(max.0.saturating_sub(count)),
            LiteStart::Time(_) => found.at.unwrap_or(max),
        };
        self.move_in_lite(group, id, to.clamp(min, max));
    }

    /// The member a client is, made if there is none, and seen just now.
    pub(crate) fn lite_member(&mut self, group: GroupId, client: ClientNumber, client_id: &Arc<str>) -> MemberNo {
        let now = self.now;
        let known = self.lite.registry.find(group, client_id);
        let number = known.unwrap_or_else(|| self.lite.registry.member_of(group, client_id, now));
        if let Some(member) = self.lite.registry.get_mut(number) {
            member.client = Some(client);
            member.seen = now;
        }
        if known.is_none() {
            self.lite.leases.insert((now.plus(limits::LITE_LEASE_MILLIS), number));
        }
        number
    }

    /// Changes a client's set.
    fn apply_sync(&mut self, sync: &LiteSync) -> Result<Applied, Refused> {
        let (stale, done) = (Applied::default(), Applied { is_news: true, ..Applied::default() });
        let Some(facts) = self.lite_group(sync.group) else { return Err(Refused::GroupGone) };
        let number = self.lite_member(sync.group, sync.client, &sync.client_id);
        let registry = &self.lite.registry;
        let Some(member) = registry.get(number) else { return Ok(stale) };
        if sync.version.zip(member.version).is_some_and(|(version, known)| version < known) {
            self.store_lease(number, false);
            return Ok(stale);
        }
        // Its clients have no sets: a full one, empty as a rule, is a sign of life.
        if facts.wildcard && sync.action == LiteAction::Set {
            return Ok(done);
        }
        let same = member.len() == sync.names.len() && member.sum == sum_of(&sync.names);
        let (added, removed): (Vec<Arc<str>>, Vec<Arc<str>>) = match sync.action {
            LiteAction::Clear => {
                self.drop_lite_member(number);
                return Ok(done);
            }
            LiteAction::Set if same => Default::default(),
            LiteAction::Set => {
                let wanted: BTreeSet<&Arc<str>> = sync.names.iter().collect();
                let has = |name: &&&Arc<str>| !registry.has(number, sync.topic, name);
                let added = wanted.iter().filter(has).map(|name| Arc::clone(name)).collect();
                let names = registry.names_of(number);
                (added, names.into_iter().filter(|name| !wanted.contains(name)).collect())
            }
            LiteAction::Add(_) => {
                let wanted: BTreeSet<&Arc<str>> = sync.names.iter().collect();
                let new = wanted.into_iter().filter(|name| !registry.has(number, sync.topic, name));
                (new.cloned().collect(), Vec::new())
            }
            LiteAction::Remove => {
                let wanted: BTreeSet<&Arc<str>> = sync.names.iter().collect();
                let there = wanted.into_iter().filter(|name| registry.has(number, sync.topic, name));
                (Vec::new(), there.cloned().collect())
            }
        };
        let (wanted, limit) = ((member.len() + added.len() - removed.len()) as u64, u64::from(facts.subscriptions_max));
        if wanted > limit && !added.is_empty() {
            return Err(Refused::LiteSubscriptionsFull { wanted, limit });
        }
        let mut newer = false;
        if let (Some(member), Some(version)) = (self.lite.registry.get_mut(number), sync.version) {
            newer = member.version != Some(version);
            member.version = Some(version);
        }
        let (added, taken) = match facts.exclusive {
            true => self.take_over(number, sync, added),
            false => (added, Vec::new()),
        };
        self.change_set(number, sync.topic, &added, &removed);
        self.store_lease(number, newer);
        self.check_lite(number);
        let mut again = if facts.resets.exclusive { taken } else { Vec::new() };
        if facts.resets.unsubscribe && sync.action == LiteAction::Remove {
            again.extend(removed);
        }
        Ok(Applied { again, ..done })
    }

    /// In an exclusive group, what others have: taken from them by an add, left to them by a full set. Gives back what this
    /// client gets, and what of that others had.
    fn take_over(&mut self, number: MemberNo, sync: &LiteSync, added: Vec<Arc<str>>) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let (group, parent) = (sync.group, sync.topic);
        let (mut gets, mut taken) = (Vec::with_capacity(added.len()), Vec::new());
        for name in added {
            let others = self.lite.registry.subscribers_of(parent, &name, group);
            let takes = matches!(sync.action, LiteAction::Add(_));
            let losers: Vec<MemberNo> = match takes {
                true => others.into_iter().filter(|other| *other != number).collect(),
                false if others.is_empty() => Vec::new(),
                false => vec![number],
            };
            for &loser in &losers {
                let client_id = self.lite.registry.get(loser).map(|member| member.client_id.clone());
                let notice = client_id.map(|client_id| LiteNotice { client_id, group, lite_topic: name.clone() });
                self.lite.notices.extend(notice);
                if takes {
                    self.change_set(loser, parent, &[], std::slice::from_ref(&name));
                }
            }
            if takes && !losers.is_empty() {
                taken.push(name.clone());
            }
            if takes || losers.is_empty() {
                gets.push(name);
            }
        }
        (gets, taken)
    }

    /// Changes a set in memory and in the batch.
    fn change_set(&mut self, number: MemberNo, parent: TopicId, added: &[Arc<str>], removed: &[Arc<str>]) {
        let mut delta = Vec::new();
        for name in removed {
            if self.lite.registry.remove(number, parent, name) {
                codec::put_lite_name(&mut delta, name, true);
            }
        }
        for name in added {
            if let Some(name_number) = self.lite.registry.add(number, parent, name) {
                codec::put_lite_name(&mut delta, name, false);
                if let Some(member) = self.lite.registry.get_mut(number) {
                    member.unchecked.push(name_number);
                }
            }
        }
        if !delta.is_empty() {
            self.store_set(number, &delta);
        }
        // What was ready of names that left is found out by polls; of a client that does not poll it must not pile up.
        let member = self.lite.registry.get(number);
        if member.is_some_and(|member| member.ready.len() > member.len() + READY_SLACK) {
            self.lite.registry.check_again(number);
        }
    }

    fn store_set(&mut self, number: MemberNo, delta: &[u8]) {
        let Some(member) = self.lite.registry.get(number) else { return };
        let key = keys::lite_set(member.group, &member.client_id);
        let fits = |stored: &StoredSet| {
            stored.deltas < DELTAS_MAX
                && delta.len() <= DELTA_BYTES_MAX
                && stored.delta_bytes + delta.len() <= stored.image_bytes + DELTA_SLACK_BYTES
        };
        let stored = match member.stored.filter(fits) {
            Some(stored) => {
                self.ops.push(Op::Delta { key, delta: Bytes::copy_from_slice(delta) });
                StoredSet { delta_bytes: stored.delta_bytes + delta.len(), deltas: stored.deltas + 1, ..stored }
            }
            None => {
                let mut image = Vec::new();
                for name in self.lite.registry.names_of(number) {
                    codec::put_lite_name(&mut image, &name, false);
                }
                let image_bytes = image.len();
                self.ops.push(Op::Put { key, image: Bytes::from(image), keep_until: None });
                StoredSet { image_bytes, ..StoredSet::default() }
            }
        };
        if let Some(member) = self.lite.registry.get_mut(number) {
            member.stored = Some(stored);
        }
    }

    /// Writes the lease, if there is a set and it is time to, or `now`.
    fn store_lease(&mut self, number: MemberNo, at_once: bool) {
        let now = self.now;
        let Some(member) = self.lite.registry.get_mut(number) else { return };
        let due = at_once || member.stored_seen.is_none_or(|stored| now.since(stored) > STORE_AGAIN_MILLIS);
        if !due || member.stored.is_none() {
            return;
        }
        member.stored_seen = Some(now);
        let key = keys::lite_lease(member.group, &member.client_id);
        let image = Bytes::from(codec::encode_lite_lease(now, member.version));
        self.ops.push(Op::Put { key, image, keep_until: None });
    }

    /// Has names looked up of which it is not known whether they have something for this member.
    pub(crate) fn check_lite(&mut self, number: MemberNo) {
        let Some(member) = self.lite.registry.get_mut(number) else { return };
        let Some(facts) = self.groups.get(&member.group).and_then(|group| group.lite) else { return };
        if member.checking || member.unchecked.is_empty() {
            return;
        }
        member.checking = true;
        let group = member.group;
        let some = member.unchecked.split_off(member.unchecked.len().saturating_sub(LOOK_UP));
        let names: Vec<Arc<str>> = some.iter().filter_map(|&name| self.lite.registry.name(name).cloned()).collect();
        let load = Load::LiteLookup { group, parent: facts.parent, names: names.clone(), at: None };
        self.want(load, Purpose::LiteLookup { member: number, parent: facts.parent, names });
    }

    /// They have been looked up.
    pub(crate) fn lite_looked_up(
        &mut self,
        number: MemberNo,
        parent: TopicId,
        names: &[Arc<str>],
        found: Option<Vec<LiteFound>>,
    ) {
        let unread = found.is_none();
        let mut waits = Vec::new();
        for (at, name) in names.iter().enumerate() {
            // It may have unsubscribed meanwhile.
            if !self.lite.registry.has(number, parent, name) {
                continue;
            }
            match &found {
                Some(found) => waits.extend(found.get(at).filter(|found| found.waits).and_then(|found| found.queue)),
                None => {
                    let again = self.lite.registry.number(parent, name);
                    self.lite.registry.get_mut(number).into_iter().for_each(|member| member.unchecked.extend(again));
                }
            }
        }
        let Some(member) = self.lite.registry.get_mut(number) else { return };
        member.checking = false;
        for queue in waits {
            member.ready.insert(queue);
        }
        if self.lite.polls.contains_key(&number) {
            self.lite.stirred.insert(number);
        }
        // What cannot be read is tried again when the client says something.
        if !unread {
            self.check_lite(number);
        }
    }

    /// A client's lite subscriptions are over. Its polls wait on, for nothing.
    pub(crate) fn drop_lite_member(&mut self, number: MemberNo) {
        let Some(member) = self.lite.registry.drop_member(number) else { return };
        self.lite.leases.retain(|lease| lease.1 != number);
        self.lite.stirred.remove(&number);
        if member.stored.is_some() {
            self.ops.push(Op::Remove { key: keys::lite_set(member.group, &member.client_id) });
        }
        if member.stored_seen.is_some() {
            self.ops.push(Op::Remove { key: keys::lite_lease(member.group, &member.client_id) });
        }
        let polls: Vec<PollId> =
            self.lite.polls.get(&number).into_iter().flatten().map(|poll| poll.receive.poll).collect();
        for poll in polls {
            if let Some(poll) = self.take_poll(poll) {
                self.reply(poll.token, Output::Delivered(Vec::new()));
            }
        }
    }

    /// Members of these groups, or of all.
    pub(crate) fn drop_lite_members(&mut self, of: impl Fn(GroupId, Option<ClientNumber>) -> bool) {
        let members = self.lite.registry.members();
        let gone: Vec<MemberNo> =
            members.filter(|(_, member)| of(member.group, member.client)).map(|(number, _)| number).collect();
        gone.into_iter().for_each(|number| self.drop_lite_member(number));
    }

    /// Leases that have ended.
    pub(crate) fn expire_leases(&mut self) {
        while let Some(&(at, number)) = self.lite.leases.first() {
            if at > self.now {
                return;
            }
            self.lite.leases.pop_first();
            let waits = self.lite.polls.contains_key(&number);
            let Some(member) = self.lite.registry.get_mut(number) else { continue };
            if waits {
                member.seen = self.now;
            }
            let end = member.seen.plus(limits::LITE_LEASE_MILLIS);
            match end > self.now {
                true => drop(self.lite.leases.insert((end, number))),
                false => self.drop_lite_member(number),
            }
        }
    }

    /// Some of a group's sets have been read; the others are asked for. True: that was the last.
    pub(crate) fn lite_members_loaded(
        &mut self,
        group: GroupId,
        found: Vec<(Arc<str>, KeyState, Option<KeyState>)>,
    ) -> Result<(), String> {
        let Some(facts) = self.lite_group(group) else { return Ok(()) };
        let now = self.now;
        for (client_id, set, lease) in found {
            if self.lite.registry.find(group, &client_id).is_some() {
                continue;
            }
            let names = codec::decode_lite_set(&set).map_err(|error| error.to_string())?;
            let lease = lease.and_then(|state| state.image).map(|bytes| codec::decode_lite_lease(&bytes)).transpose();
            let lease = lease.map_err(|error| error.to_string())?;
            let number = self.lite.registry.member_of(group, &client_id, now);
            self.lite.leases.insert((now.plus(limits::LITE_LEASE_MILLIS), number));
            let numbers: Vec<_> =
                names.iter().filter_map(|name| self.lite.registry.add(number, facts.parent, name)).collect();
            if let Some(member) = self.lite.registry.get_mut(number) {
                member.unchecked = numbers;
                member.version = lease.and_then(|lease| lease.1);
                member.stored_seen = lease.map(|lease| lease.0);
                member.stored = Some(StoredSet {
                    image_bytes: set.image.as_ref().map_or(0, Bytes::len),
                    delta_bytes: set.deltas.iter().map(Bytes::len).sum(),
                    deltas: set.deltas.len() as u32,
                });
            }
        }
        Ok(())
    }

    /// What a subscription from a place on touches.
    pub(crate) fn touched_by_start(&self, sync: &LiteSync, found: &[LiteFound]) -> Vec<Entity> {
        let of = |queue: QueueId| [Entity::Queue(queue), Entity::Progress(sync.group, queue)];
        found.iter().filter_map(|found| found.queue).flat_map(of).collect()
    }
}
