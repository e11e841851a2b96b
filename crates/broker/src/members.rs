//! Members of consumer groups: queue-based ones, which say so in heartbeats, beside those that receive by message.
//!
//! Queue-based members share the queues of a topic out among themselves, each by the same list of members. That list names
//! the message-based ones too, so that they leave queues free for these.
//!
//! Rules
//! - A heartbeat replaces what the member said before. One that is not heard of for two minutes has left; so have all
//!   of a connection that is closed.
//! - A member that has left gives up its queues and locks at once.
//! - Where they disagree on the message model: see [`crate::broadcast`].
//! - Whoever listens is told the name of each group whose members or subscriptions have changed.

use crate::broadcast::Broadcast;
use crate::{Broker, ClientInfo, ClientRole, Refusal};
use martlet_model::{Filter, QueueOffset, TopicId, limits};
use martlet_shard::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Most subscriptions of one member.
pub const MEMBER_SUBSCRIPTIONS_MAX: usize = 1_000;
/// Longest client id, in bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 256;
/// The shard is told of subscriptions again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// Changes that a listener may be behind before it has missed some.
const CHANGES_MAX: usize = 1_024;

/// Whether the members of a group share messages, or each gets all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MessageModel {
    /// They share them.
    #[default]
    Clustering,
    /// Each gets all, and keeps its offsets itself.
    Broadcasting,
}

/// Where a member would begin in a queue its group has not been in. Kept for listings: the member decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConsumeFrom {
    /// Behind the last message.
    #[default]
    Last,
    /// At the first message there is.
    First,
    /// At a time.
    Timestamp,
}

/// What a member subscribes to.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberSubscription {
    /// Topic name.
    pub topic: String,
    /// What passes.
    pub filter: Arc<Filter>,
    /// The client's number for it, growing with each change.
    pub version: i64,
}

/// One group of a queue-based client, as its heartbeat says.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueMember {
    /// The client's id.
    pub client_id: Arc<str>,
    /// The connection it speaks through, numbered by the protocol; `None` where it is not bound to one.
    pub connection: Option<u64>,
    /// Group name.
    pub group: String,
    /// Whether it shares messages with the others.
    pub model: MessageModel,
    /// Where it begins.
    pub from: ConsumeFrom,
    /// What it subscribes to.
    pub subscriptions: Vec<MemberSubscription>,
    /// `JAVA`, `CPP`, … as the client says.
    pub language: String,
    /// Its version.
    pub version: String,
    /// Address it comes from.
    pub remote: String,
}

/// How a member gets its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberKind {
    /// It pulls queues that it owns.
    QueueBased,
    /// It is handed messages, whatever queue they are in, and gives them to a listener.
    Push,
    /// The same, when it asks for them.
    Simple,
}

/// A live member of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct MemberInfo {
    /// Its client id.
    pub client_id: Arc<str>,
    /// How it gets its messages.
    pub kind: MemberKind,
    /// The connection it speaks through; of queue-based members.
    pub connection: Option<u64>,
    /// Whether it shares messages with the others.
    pub model: MessageModel,
    /// Where it begins; of queue-based members.
    pub from: ConsumeFrom,
    /// What it subscribes to.
    pub subscriptions: Vec<MemberSubscription>,
    /// As the client says.
    pub language: String,
    /// As the client says.
    pub version: String,
    /// Address it comes from.
    pub remote: String,
}

pub(crate) struct Member {
    pub info: QueueMember,
    /// When it was first heard of.
    pub joined: Instant,
    seen: Instant,
    /// When the shard was told of its subscriptions.
    told: Option<Instant>,
    /// Where it is by itself (see [`crate::broadcast`]).
    pub offsets: BTreeMap<(TopicId, u32), QueueOffset>,
}

/// Queue-based members of all groups.
pub(crate) struct Members {
    state: Mutex<State>,
    changes: broadcast::Sender<String>,
    max: usize,
}

#[derive(Default)]
pub(crate) struct State {
    /// By group, by client id.
    pub of: BTreeMap<String, BTreeMap<Arc<str>, Member>>,
    connections: BTreeMap<u64, BTreeSet<(String, Arc<str>)>>,
    count: usize,
    /// Groups in which broadcasting takes effect.
    pub broadcasts: BTreeMap<String, Broadcast>,
}

/// What a heartbeat changed.
struct Seen {
    changed: bool,
    tell_shard: bool,
}

impl State {
    fn forget(&mut self, group: &str, client_id: &str) -> Option<QueueMember> {
        let members = self.of.get_mut(group)?;
        let member = members.remove(client_id)?;
        if members.is_empty() {
            self.of.remove(group);
        }
        self.count -= 1;
        self.leave_connection(&member.info);
        Some(member.info)
    }

    fn leave_connection(&mut self, member: &QueueMember) {
        let Some(number) = member.connection else { return };
        if let Some(of_connection) = self.connections.get_mut(&number) {
            of_connection.remove(&(member.group.clone(), member.client_id.clone()));
            if of_connection.is_empty() {
                self.connections.remove(&number);
            }
        }
    }
}

impl Members {
    pub fn new(max: usize) -> Self {
        Self { state: Mutex::default(), changes: broadcast::Sender::new(CHANGES_MAX), max }
    }

    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The members of a group have changed, of whatever kind.
    pub fn changed(&self, group: &str) {
        // Without listeners nobody needs to know.
        let _ = self.changes.send(group.to_owned());
    }

    fn seen(&self, info: QueueMember) -> Result<Seen, Refusal> {
        let mut state = self.state();
        let now = Instant::now();
        let known = state.of.get_mut(&info.group).and_then(|members| members.get_mut(&info.client_id));
        if known.is_none() && state.count >= self.max {
            return Err(Refusal::Busy { what: "number of members of consumer groups", limit: self.max as u64 });
        }
        let known = state.of.get_mut(&info.group).and_then(|members| members.get_mut(&info.client_id));
        let (changed, tell_shard) = match known {
            Some(member) => {
                let before = std::mem::replace(&mut member.info, info.clone());
                let changed = before.subscriptions != info.subscriptions || before.model != info.model;
                let tell = changed || member.told.is_none_or(|told| told.elapsed() >= TELL_AGAIN);
                member.seen = now;
                if tell {
                    member.told = Some(now);
                }
                if before.connection != info.connection {
                    state.leave_connection(&before);
                }
                (changed, tell)
            }
            None => {
                state.count += 1;
                let (told, offsets) = (Some(now), BTreeMap::new());
                let member = Member { info: info.clone(), joined: now, seen: now, told, offsets };
                state.of.entry(info.group.clone()).or_default().insert(info.client_id.clone(), member);
                (true, true)
            }
        };
        if let Some(number) = info.connection {
            state.connections.entry(number).or_default().insert((info.group, info.client_id));
        }
        Ok(Seen { changed, tell_shard })
    }

    fn gone(&self, group: &str, client_id: &str) -> Option<QueueMember> {
        self.state().forget(group, client_id)
    }

    fn connection_gone(&self, connection: u64) -> Vec<QueueMember> {
        let mut state = self.state();
        let members = state.connections.remove(&connection).unwrap_or_default();
        members.into_iter().filter_map(|(group, client_id)| state.forget(&group, &client_id)).collect()
    }

    /// Takes out those not seen for so long.
    fn expire(&self, limit: Duration) -> Vec<QueueMember> {
        let mut state = self.state();
        let members = state.of.iter().flat_map(|(group, members)| members.values().map(move |member| (group, member)));
        let expired: Vec<_> = members
            .filter(|(_, member)| member.seen.elapsed() > limit)
            .map(|(group, member)| (group.clone(), member.info.client_id.clone()))
            .collect();
        expired.into_iter().filter_map(|(group, client_id)| state.forget(&group, &client_id)).collect()
    }

    /// Each pull asks this.
    fn newest_subscription(&self, group: &str, topic: &str) -> Option<MemberSubscription> {
        let state = self.state();
        let all = state.of.get(group)?.values().flat_map(|member| &member.info.subscriptions);
        all.filter(|subscription| subscription.topic == topic).max_by_key(|subscription| subscription.version).cloned()
    }

    fn of_group(&self, group: &str) -> Vec<QueueMember> {
        self.state().of.get(group).map_or_else(Vec::new, |of| of.values().map(|member| member.info.clone()).collect())
    }
}

impl Broker {
    /// A heartbeat of a queue-based client names one of its groups: it is a member from now on, or still. Makes the group if
    /// it is missing and groups are made automatically. True if members or subscriptions have changed.
    pub async fn register_member(&self, member: QueueMember) -> Result<bool, Refusal> {
        if member.client_id.is_empty() || member.client_id.len() > CLIENT_ID_BYTES_MAX {
            let value = member.client_id.chars().take(64).collect();
            return Err(Refusal::Setting { field: "client id", value, rule: "is not 1 to 256 bytes long" });
        }
        if member.subscriptions.len() > MEMBER_SUBSCRIPTIONS_MAX {
            let limit = MEMBER_SUBSCRIPTIONS_MAX as u64;
            return Err(Refusal::Busy { what: "number of subscriptions of one member", limit });
        }
        self.group(&member.group).await?;
        let (group, model) = (member.group.clone(), member.model);
        let subscriptions: Vec<_> =
            member.subscriptions.iter().map(|of| (of.topic.clone(), (*of.filter).clone())).collect();
        let seen = self.inner.members.seen(member)?;
        // A broadcasting member takes nothing from the group's progress.
        if seen.tell_shard && model == MessageModel::Clustering {
            let role = ClientRole::Consumer { group: group.clone(), push: true, subscriptions };
            self.tell_subscriptions(&role);
        }
        if seen.changed {
            self.apply_message_model(&group);
            self.inner.members.changed(&group);
        }
        Ok(seen.changed)
    }

    /// A queue-based client leaves a group. True if it was a member.
    pub fn unregister_member(&self, group: &str, client_id: &str) -> bool {
        let gone = self.inner.members.gone(group, client_id);
        let was_there = gone.is_some();
        self.members_left(gone);
        was_there
    }

    /// A connection is closed: all its members have left.
    pub fn connection_closed(&self, connection: u64) {
        self.members_left(self.inner.members.connection_gone(connection));
    }

    /// Members that were not heard of for too long have left.
    pub(crate) fn expire_members(&self) {
        let gone = self.inner.members.expire(Duration::from_millis(limits::CLIENT_EXPIRY_MILLIS as u64));
        for member in &gone {
            let (client, group) = (&member.client_id, &member.group);
            tracing::info!("{client} has left {group}: not heard of for {} s", limits::CLIENT_EXPIRY_MILLIS / 1000);
        }
        self.members_left(gone);
    }

    fn members_left(&self, gone: impl IntoIterator<Item = QueueMember>) {
        let mut changed = BTreeSet::new();
        for member in gone {
            if let Some(group) = self.known_group(&member.group) {
                // A full inbox refuses this; the leases end by themselves.
                let client = member.client_id;
                let _ = self.inner.shard.submit(Command::MemberGone { group: group.id, client });
            }
            changed.insert(member.group);
        }
        for group in &changed {
            self.apply_message_model(group);
            self.inner.members.changed(group);
        }
    }

    /// The live members of a group, of both kinds, in the order of their client ids.
    pub fn members(&self, group: &str) -> Vec<MemberInfo> {
        let queue_based = self.inner.members.of_group(group).into_iter().map(queue_based);
        let message_based = self.inner.clients.of_group(group).into_iter().filter_map(message_based);
        let mut members: Vec<MemberInfo> = queue_based.chain(message_based).collect();
        members.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        members.dedup_by(|a, b| a.client_id == b.client_id);
        members
    }

    /// The live members of all groups that have any.
    pub(crate) fn members_of_groups(&self) -> BTreeMap<String, Vec<MemberInfo>> {
        let mut found: BTreeMap<String, Vec<MemberInfo>> = BTreeMap::new();
        for (group, members) in &self.inner.members.state().of {
            let members = members.values().map(|member| queue_based(member.info.clone()));
            found.insert(group.clone(), members.collect());
        }
        for client in self.inner.clients.all() {
            let ClientRole::Consumer { group, .. } = &client.role else { continue };
            let group = group.clone();
            found.entry(group).or_default().extend(message_based(client));
        }
        found
    }

    /// The newest subscription of any queue-based member of a group to a topic.
    pub fn member_subscription(&self, group: &str, topic: &str) -> Option<MemberSubscription> {
        self.inner.members.newest_subscription(group, topic)
    }

    /// Names of groups whose members or subscriptions change from now on. Who is too slow to take them is told so, and may
    /// take it that all have changed.
    pub fn member_changes(&self) -> broadcast::Receiver<String> {
        self.inner.members.changes.subscribe()
    }
}

fn queue_based(member: QueueMember) -> MemberInfo {
    let QueueMember { client_id, connection, model, from, subscriptions, language, version, remote, .. } = member;
    let kind = MemberKind::QueueBased;
    MemberInfo { client_id, kind, connection, model, from, subscriptions, language, version, remote }
}

fn message_based(client: ClientInfo) -> Option<MemberInfo> {
    let ClientInfo { client_id, language, version, remote, role } = client;
    let ClientRole::Consumer { subscriptions, push, .. } = role else { return None };
    let subscription = |(topic, filter)| MemberSubscription { topic, filter: Arc::new(filter), version: 0 };
    Some(MemberInfo {
        client_id,
        kind: if push { MemberKind::Push } else { MemberKind::Simple },
        connection: None,
        model: MessageModel::Clustering,
        from: ConsumeFrom::default(),
        subscriptions: subscriptions.into_iter().map(subscription).collect(),
        language,
        version,
        remote,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(client_id: &str, connection: u64, group: &str, topics: &[&str]) -> QueueMember {
        let subscription =
            |topic: &&str| MemberSubscription { topic: (*topic).to_owned(), filter: Arc::new(Filter::ALL), version: 1 };
        QueueMember {
            client_id: client_id.into(),
            connection: Some(connection),
            group: group.to_owned(),
            model: MessageModel::Clustering,
            from: ConsumeFrom::Last,
            subscriptions: topics.iter().map(subscription).collect(),
            language: "JAVA".into(),
            version: "5".into(),
            remote: String::new(),
        }
    }

    fn ids(members: &Members, group: &str) -> Vec<String> {
        members.of_group(group).iter().map(|member| member.client_id.to_string()).collect()
    }

    #[test]
    fn members_come_change_move_to_another_connection_and_leave_with_it() {
        let members = Members::new(3);
        assert!(members.seen(member("b", 1, "billing", &["orders"])).unwrap().changed);
        assert!(members.seen(member("a", 2, "billing", &["orders"])).unwrap().changed);
        assert!(members.seen(member("b", 1, "audit", &["orders"])).unwrap().changed);
        assert_eq!(ids(&members, "billing"), ["a", "b"]);
        assert!(!members.seen(member("b", 1, "billing", &["orders"])).unwrap().changed);
        assert!(members.seen(member("b", 1, "billing", &["orders", "refunds"])).unwrap().changed);
        assert!(matches!(members.seen(member("c", 3, "billing", &[])), Err(Refusal::Busy { limit: 3, .. })));
        assert!(!members.seen(member("a", 4, "billing", &["orders"])).unwrap().changed);
        assert!(members.connection_gone(2).is_empty(), "a is on another one");
        let gone = members.connection_gone(1);
        assert_eq!(gone.iter().map(|member| &*member.group).collect::<Vec<_>>(), ["audit", "billing"]);
        assert_eq!(ids(&members, "billing"), ["a"]);
        assert!(members.gone("billing", "a").is_some() && members.gone("billing", "a").is_none());
        assert!(members.connection_gone(4).is_empty());
        assert!(members.state().of.is_empty() && members.state().count == 0);
    }

    #[test]
    fn a_move_of_a_group_that_broadcasts_is_due_again_if_it_was_refused() {
        let members = Members::new(3);
        let model = MessageModel::Broadcasting;
        members.seen(QueueMember { model, ..member("loud", 1, "billing", &[]) }).unwrap();
        for id in ["fast", "slow"] {
            members.seen(member(id, 1, "billing", &[])).unwrap();
        }
        let (queue, other) = ((TopicId(1), 0), (TopicId(2), 0));
        let go = |id, to| members.move_own_offset("billing", id, queue, QueueOffset(to)).flatten();
        assert!(!go("fast", 10).unwrap().is_back());
        let ahead = go("fast", 12).unwrap();
        members.not_moved("billing", queue, ahead);
        assert_eq!(go("fast", 12), Some(ahead));
        let back = go("slow", 5).unwrap();
        assert!(back.is_back());
        // It is said again as it was meant, whatever is refused besides.
        members.not_moved("billing", queue, back);
        members.not_moved("billing", queue, ahead);
        let again = go("slow", 6).unwrap();
        assert!(again.is_back() && again.to == QueueOffset(6));
        let ahead = go("slow", 7).unwrap();
        assert!(!ahead.is_back());
        members.forget_topic(other.0);
        assert_eq!(members.own_offset("billing", "slow", queue), Some(QueueOffset(7)));
        members.forget_topic(queue.0);
        assert_eq!(members.own_offset("billing", "slow", queue), None);
        members.gone("billing", "loud");
        assert_eq!(members.move_own_offset("billing", "slow", queue, QueueOffset(8)), None, "all share again");
    }

    #[test]
    fn silent_members_leave() {
        let members = Members::new(3);
        members.seen(member("a", 1, "billing", &[])).unwrap();
        assert!(members.expire(Duration::from_secs(60)).is_empty());
        assert_eq!(members.expire(Duration::ZERO).len(), 1);
        assert!(ids(&members, "billing").is_empty());
    }
}
