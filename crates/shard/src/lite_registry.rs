//! Who subscribes to which lite topics: per group and client a set of names, per name the clients.
//!
//! Pure data in memory. A name is kept once for all who subscribe to it and stands for a small number in their sets, so
//! that a million subscriptions cost some 200 bytes each and comparing a set with what a client says costs one hash.
//!
//! Rules
//! - A member is in the list of a name exactly if the name is in its set.
//! - `sum` is the sum of the hashes of a member's names, whatever order they came in.
//! - A name that nobody subscribes to is forgotten.

use martlet_model::{GroupId, QueueId, TopicId, UnixMillis};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;
use std::sync::Arc;

use crate::command::ClientNumber;

/// A client of a group; not used again within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MemberNo(pub u32);

/// A name that somebody subscribes to; used again once it is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NameNo(u32);

/// What names of a set add to its sum: SipHash-1-3 of the UTF-8 bytes.
pub fn name_hash(name: &str) -> u64 {
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(0x6d61_7274_6c65_7431, 0x6c69_7465_5f76_5f31);
    hasher.write(name.as_bytes());
    hasher.finish()
}

/// The sum of a list of names, as [`Member::sum`].
pub fn sum_of(names: &[Arc<str>]) -> u64 {
    names.iter().fold(0, |sum, name| sum.wrapping_add(name_hash(name)))
}

/// Lite topics that may have something for a client.
///
/// *Awake* are those of which that is known and in memory: polls are served from these. The others are woken a few at a time, as
/// many as a poll has room for: of a million that wait, those in memory are then the ones about to be handed out.
#[derive(Debug, Default)]
pub struct Ready {
    awake: Round,
    asleep: Round,
    waking: BTreeSet<QueueId>,
}

/// Lite topics in a circle, and where the next walk begins.
#[derive(Debug, Default)]
struct Round {
    queues: BTreeSet<QueueId>,
    from: QueueId,
}

impl Round {
    /// The first ones of a walk around, at most so many.
    fn walk(&self, most: usize) -> Vec<QueueId> {
        self.queues.range(self.from..).chain(self.queues.range(..self.from)).take(most).copied().collect()
    }

    /// The next walk begins behind this one.
    fn pass(&mut self, queue: QueueId) {
        self.from = QueueId(queue.0 + 1);
    }
}

impl Ready {
    /// It may have something, and is not known to be in memory.
    pub fn insert(&mut self, queue: QueueId) {
        if !self.awake.queues.contains(&queue) && !self.waking.contains(&queue) {
            self.asleep.queues.insert(queue);
        }
    }

    /// It has something, and is in memory.
    pub fn insert_awake(&mut self, queue: QueueId) {
        self.remove(queue);
        self.awake.queues.insert(queue);
    }

    pub fn remove(&mut self, queue: QueueId) {
        self.awake.queues.remove(&queue);
        self.asleep.queues.remove(&queue);
        self.waking.remove(&queue);
    }

    pub fn len(&self) -> usize {
        self.awake.queues.len() + self.asleep.queues.len() + self.waking.len()
    }

    /// The next awake ones, at most so many.
    pub fn awake(&self, most: usize) -> Vec<QueueId> {
        self.awake.walk(most)
    }

    /// An awake one has had its turn.
    pub fn pass(&mut self, queue: QueueId) {
        self.awake.pass(queue);
    }

    /// Takes the next ones that are to be woken, so that at most so many are being woken.
    pub fn wake(&mut self, most: usize) -> Vec<QueueId> {
        let some = self.asleep.walk(most.saturating_sub(self.waking.len()));
        for &queue in &some {
            self.asleep.pass(queue);
            self.asleep.queues.remove(&queue);
            self.waking.insert(queue);
        }
        some
    }

    /// Those that `still` does not know to be on their way are asleep again: what was read has left the memory since, or could
    /// not be read.
    pub fn give_up_waking(&mut self, still: impl Fn(QueueId) -> bool) {
        for queue in self.waking.iter().copied().filter(|&queue| !still(queue)).collect::<Vec<_>>() {
            self.waking.remove(&queue);
            self.asleep.queues.insert(queue);
        }
    }
}

/// What the store has of a member's set.
#[derive(Clone, Copy, Debug, Default)]
pub struct StoredSet {
    pub image_bytes: usize,
    pub delta_bytes: usize,
    pub deltas: u32,
}

/// One client of a group.
#[derive(Debug)]
pub struct Member {
    pub group: GroupId,
    pub client_id: Arc<str>,
    /// Its number, once it said something since the opening.
    pub client: Option<ClientNumber>,
    /// Sorted.
    names: Vec<NameNo>,
    pub sum: u64,
    /// The newest version it gave.
    pub version: Option<i64>,
    /// Its last sign of life; after an opening, the opening.
    pub seen: UnixMillis,
    /// What the store says of that; `None`: nothing of it is in the store.
    pub stored_seen: Option<UnixMillis>,
    pub stored: Option<StoredSet>,
    pub ready: Ready,
    /// Names of which it is not known yet whether they have something for it.
    pub unchecked: Vec<NameNo>,
    /// Whether some of these are being looked up.
    pub checking: bool,
}

impl Member {
    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn has(&self, name: NameNo) -> bool {
        self.names.binary_search(&name).is_ok()
    }
}

#[derive(Debug)]
enum Subscribers {
    Nobody,
    One(MemberNo),
    /// At least two, sorted.
    Many(Box<Many>),
}

#[derive(Debug)]
struct Many(Vec<MemberNo>);

impl Subscribers {
    fn as_slice(&self) -> &[MemberNo] {
        match self {
            Self::Nobody => &[],
            Self::One(member) => std::slice::from_ref(member),
            Self::Many(many) => &many.0,
        }
    }

    fn add(&mut self, member: MemberNo) {
        let mut all = self.as_slice().to_vec();
        if let Err(at) = all.binary_search(&member) {
            all.insert(at, member);
            *self = Self::of(all);
        }
    }

    fn remove(&mut self, member: MemberNo) {
        match self {
            Self::Nobody => {}
            Self::One(only) if *only != member => {}
            Self::One(_) => *self = Self::Nobody,
            Self::Many(many) => {
                many.0.retain(|other| *other != member);
                if many.0.len() < 2 {
                    *self = Self::of(std::mem::take(&mut many.0));
                }
            }
        }
    }

    fn of(all: Vec<MemberNo>) -> Self {
        match all[..] {
            [] => Self::Nobody,
            [only] => Self::One(only),
            _ => Self::Many(Box::new(Many(all))),
        }
    }
}

#[derive(Debug)]
struct Entry {
    name: Arc<str>,
    parent: TopicId,
    subscribers: Subscribers,
}

/// The subscriptions of a shard.
#[derive(Debug, Default)]
pub struct Registry {
    by_name: BTreeMap<(TopicId, Arc<str>), NameNo>,
    entries: Vec<Option<Entry>>,
    free: Vec<NameNo>,
    members: BTreeMap<MemberNo, Member>,
    by_client: BTreeMap<(GroupId, Arc<str>), MemberNo>,
    next_member: u32,
    subscriptions: usize,
}

impl Registry {
    /// The member of this client, made if there is none.
    pub fn member_of(&mut self, group: GroupId, client_id: &Arc<str>, now: UnixMillis) -> MemberNo {
        if let Some(&member) = self.by_client.get(&(group, client_id.clone())) {
            return member;
        }
        let number = MemberNo(self.next_member);
        self.next_member += 1;
        self.by_client.insert((group, client_id.clone()), number);
        let member = Member {
            group,
            client_id: client_id.clone(),
            client: None,
            names: Vec::new(),
            sum: 0,
            version: None,
            seen: now,
            stored_seen: None,
            stored: None,
            ready: Ready::default(),
            unchecked: Vec::new(),
            checking: false,
        };
        self.members.insert(number, member);
        number
    }

    pub fn find(&self, group: GroupId, client_id: &Arc<str>) -> Option<MemberNo> {
        self.by_client.get(&(group, client_id.clone())).copied()
    }

    pub fn get(&self, member: MemberNo) -> Option<&Member> {
        self.members.get(&member)
    }

    pub fn get_mut(&mut self, member: MemberNo) -> Option<&mut Member> {
        self.members.get_mut(&member)
    }

    pub fn members(&self) -> impl Iterator<Item = (MemberNo, &Member)> {
        self.members.iter().map(|(&number, member)| (number, member))
    }

    /// How many subscriptions there are.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    pub fn name(&self, number: NameNo) -> Option<&Arc<str>> {
        Some(&self.entries.get(number.0 as usize)?.as_ref()?.name)
    }

    /// The number of a name that somebody subscribes to.
    pub fn number(&self, parent: TopicId, name: &Arc<str>) -> Option<NameNo> {
        self.by_name.get(&(parent, name.clone())).copied()
    }

    /// Who subscribes to a lite topic.
    pub fn subscribers(&self, parent: TopicId, name: &Arc<str>) -> &[MemberNo] {
        let entry = self.number(parent, name).and_then(|number| self.entries.get(number.0 as usize)?.as_ref());
        entry.map_or(&[], |entry| entry.subscribers.as_slice())
    }

    /// Of these, those of one group.
    pub fn subscribers_of(&self, parent: TopicId, name: &Arc<str>, group: GroupId) -> Vec<MemberNo> {
        let of_group = |member: &&MemberNo| self.members.get(*member).is_some_and(|member| member.group == group);
        self.subscribers(parent, name).iter().filter(of_group).copied().collect()
    }

    /// Whether a member subscribes to a lite topic.
    pub fn has(&self, member: MemberNo, parent: TopicId, name: &Arc<str>) -> bool {
        let number = self.number(parent, name);
        number.is_some_and(|number| self.members.get(&member).is_some_and(|member| member.has(number)))
    }

    /// The names of a member, in the order of their numbers.
    pub fn names_of(&self, member: MemberNo) -> Vec<Arc<str>> {
        let numbers = self.members.get(&member).map_or(&[][..], |member| &member.names);
        numbers.iter().filter_map(|&number| self.name(number).cloned()).collect()
    }

    /// Adds a name to a set. `None`: it is there already.
    pub fn add(&mut self, member: MemberNo, parent: TopicId, name: &Arc<str>) -> Option<NameNo> {
        let number = match self.number(parent, name) {
            Some(number) => number,
            None => self.new_name(parent, name),
        };
        let of = self.members.get_mut(&member)?;
        let at = of.names.binary_search(&number).err()?;
        of.names.insert(at, number);
        of.sum = of.sum.wrapping_add(name_hash(name));
        self.subscriptions += 1;
        if let Some(Some(entry)) = self.entries.get_mut(number.0 as usize) {
            entry.subscribers.add(member);
        }
        Some(number)
    }

    fn new_name(&mut self, parent: TopicId, name: &Arc<str>) -> NameNo {
        let entry = Some(Entry { name: name.clone(), parent, subscribers: Subscribers::Nobody });
        let number = match self.free.pop() {
            Some(number) => {
                self.entries[number.0 as usize] = entry;
                number
            }
            None => {
                self.entries.push(entry);
                NameNo(self.entries.len() as u32 - 1)
            }
        };
        self.by_name.insert((parent, name.clone()), number);
        number
    }

    /// Takes a name out of a set. False: it was not in it.
    pub fn remove(&mut self, member: MemberNo, parent: TopicId, name: &Arc<str>) -> bool {
        let Some(number) = self.number(parent, name) else { return false };
        let Some(of) = self.members.get_mut(&member) else { return false };
        let Ok(at) = of.names.binary_search(&number) else { return false };
        of.names.remove(at);
        of.unchecked.retain(|unchecked| *unchecked != number);
        of.sum = of.sum.wrapping_sub(name_hash(name));
        self.unsubscribed(member, number);
        true
    }

    /// Forgets what is ready for a member and has all its names looked up again.
    pub fn check_again(&mut self, member: MemberNo) {
        if let Some(of) = self.members.get_mut(&member) {
            of.ready = Ready::default();
            of.unchecked = of.names.clone();
        }
    }

    fn unsubscribed(&mut self, member: MemberNo, number: NameNo) {
        self.subscriptions -= 1;
        let Some(slot) = self.entries.get_mut(number.0 as usize) else { return };
        if let Some(entry) = slot {
            entry.subscribers.remove(member);
            if matches!(entry.subscribers, Subscribers::Nobody) {
                self.by_name.remove(&(entry.parent, entry.name.clone()));
                *slot = None;
                self.free.push(number);
            }
        }
    }

    /// Forgets a member and its set.
    pub fn drop_member(&mut self, number: MemberNo) -> Option<Member> {
        let member = self.members.remove(&number)?;
        self.by_client.remove(&(member.group, member.client_id.clone()));
        for &name in &member.names {
            self.unsubscribed(number, name);
        }
        Some(member)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: TopicId = TopicId(3);

    fn name(n: usize) -> Arc<str> {
        format!("session-{n}").into()
    }

    #[test]
    fn sets_and_lists_agree_and_a_name_without_subscribers_is_forgotten() {
        let mut registry = Registry::default();
        let now = UnixMillis(5);
        let members: Vec<MemberNo> =
            (0..3).map(|n| registry.member_of(GroupId(n % 2), &name(100 + n as usize), now)).collect();
        assert_eq!(registry.member_of(GroupId(0), &name(100), now), members[0]);
        for (n, &member) in members.iter().enumerate() {
            for k in n..10 {
                assert!(registry.add(member, PARENT, &name(k)).is_some());
                assert!(registry.add(member, PARENT, &name(k)).is_none());
            }
        }
        assert_eq!(registry.subscriptions(), 27);
        assert_eq!(registry.subscribers(PARENT, &name(0)), [members[0]]);
        assert_eq!(registry.subscribers(PARENT, &name(9)), members);
        assert_eq!(registry.subscribers_of(PARENT, &name(9), GroupId(0)), [members[0], members[2]]);
        assert_eq!(registry.subscribers(TopicId(4), &name(9)), []);
        let all: Vec<Arc<str>> = (0..10).rev().map(name).collect();
        assert_eq!(registry.get(members[0]).unwrap().sum, sum_of(&all));

        assert!(registry.remove(members[0], PARENT, &name(0)) && !registry.remove(members[0], PARENT, &name(0)));
        assert_eq!(registry.number(PARENT, &name(0)), None);
        assert_eq!(registry.get(members[0]).unwrap().sum, registry.get(members[1]).unwrap().sum);
        let again = registry.add(members[2], PARENT, &name(77)).unwrap();
        assert_eq!(registry.entries.len(), 10, "the place of the forgotten name is used again");
        assert_eq!(registry.name(again), Some(&name(77)));

        for member in members {
            registry.drop_member(member);
        }
        assert!(registry.by_name.is_empty() && registry.by_client.is_empty() && registry.subscriptions() == 0);
    }

    #[test]
    fn a_walk_goes_around_and_begins_where_the_last_one_ended() {
        let mut ready = Ready::default();
        for n in [5, 1, 9] {
            ready.insert_awake(QueueId(n));
        }
        assert_eq!(ready.awake(2), [1, 5].map(QueueId));
        ready.pass(QueueId(5));
        assert_eq!(ready.awake(9), [9, 1, 5].map(QueueId));
        ready.remove(QueueId(9));
        assert_eq!(ready.awake(9), [1, 5].map(QueueId));
    }

    #[test]
    fn only_so_many_are_woken_at_a_time_and_what_does_not_wake_sleeps_on() {
        let mut ready = Ready::default();
        (0..10).for_each(|n| ready.insert(QueueId(n)));
        assert_eq!(ready.wake(3), [0, 1, 2].map(QueueId));
        assert_eq!(ready.wake(3), []);
        ready.insert(QueueId(1));
        ready.insert_awake(QueueId(0));
        assert_eq!(ready.awake(9), [QueueId(0)]);
        assert_eq!((ready.wake(3), ready.len()), (vec![QueueId(3)], 10));
        ready.give_up_waking(|queue| queue == QueueId(3));
        assert_eq!(ready.wake(9), [4, 5, 6, 7, 8, 9, 1, 2].map(QueueId), "around, and those last");
    }
}
