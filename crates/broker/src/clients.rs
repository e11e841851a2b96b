//! Who is connected. A client that neither heartbeats nor says anything for two minutes is gone.

use crate::{ClientInfo, ClientRole, Refusal};
use martlet_model::limits;
use martlet_shard::ClientNumber;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

struct Client {
    info: ClientInfo,
    number: ClientNumber,
    /// When it was first heard of.
    joined: Instant,
    seen: Instant,
    /// When the shard was told of its subscriptions.
    told: Instant,
}

/// The shard is told of subscriptions again after so long.
const TELL_AGAIN: Duration = Duration::from_secs(30);

/// The connected clients.
#[derive(Default)]
pub(crate) struct Clients {
    state: Mutex<State>,
    max: usize,
}

#[derive(Default)]
struct State {
    by_id: BTreeMap<Arc<str>, Client>,
    next: u64,
    /// Who publishes a topic.
    producers: BTreeMap<String, BTreeSet<Arc<str>>>,
    /// Goes round among them.
    turn: usize,
}

impl State {
    fn forget(&mut self, id: &str) -> Option<Client> {
        let client = self.by_id.remove(id)?;
        self.publishes(&client.info, false);
        Some(client)
    }

    fn publishes(&mut self, info: &ClientInfo, does: bool) {
        let ClientRole::Producer { topics } = &info.role else { return };
        for topic in topics {
            if does {
                self.producers.entry(topic.clone()).or_default().insert(info.client_id.clone());
            } else if let Some(ids) = self.producers.get_mut(topic) {
                ids.remove(&info.client_id);
                if ids.is_empty() {
                    self.producers.remove(topic);
                }
            }
        }
    }
}

impl Clients {
    pub fn new(max: usize) -> Self {
        Self { state: Mutex::default(), max }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client says who it is, for the first time or again. Groups that it has joined or left, or in which it subscribes to
    /// something else.
    pub fn seen(&self, info: ClientInfo) -> Result<Vec<String>, Refusal> {
        let mut state = self.state();
        if let Some(client) = state.by_id.get_mut(&info.client_id) {
            let before = std::mem::replace(&mut client.info, info.clone());
            client.seen = Instant::now();
            client.told = client.seen;
            state.publishes(&before, false);
            state.publishes(&info, true);
            return Ok(changed_groups(Some(&before.role), &info.role));
        }
        if state.by_id.len() >= self.max {
            return Err(Refusal::Busy { what: "number of connected clients", limit: self.max as u64 });
        }
        state.next += 1;
        let number = ClientNumber(state.next);
        let now = Instant::now();
        state.publishes(&info, true);
        let changed = changed_groups(None, &info.role);
        state.by_id.insert(info.client_id.clone(), Client { info, number, joined: now, seen: now, told: now });
        Ok(changed)
    }

    /// When a consumer of a group was first heard of, if it is one.
    pub fn joined(&self, id: &str, group: &str) -> Option<Instant> {
        let state = self.state();
        let client = state.by_id.get(id)?;
        group_of(&client.info.role).filter(|of| *of == group).map(|_| client.joined)
    }

    /// Whether the client is known.
    pub fn heartbeat(&self, id: &str) -> bool {
        match self.state().by_id.get_mut(id) {
            Some(client) => {
                client.seen = Instant::now();
                true
            }
            None => false,
        }
    }

    /// What a client does, if the shard is to be told of its subscriptions again.
    pub fn to_tell(&self, id: &str) -> Option<ClientRole> {
        let mut state = self.state();
        let client = state.by_id.get_mut(id)?;
        if client.told.elapsed() < TELL_AGAIN || !matches!(client.info.role, ClientRole::Consumer { .. }) {
            return None;
        }
        client.told = Instant::now();
        Some(client.info.role.clone())
    }

    /// The number of a client that polls; one that never introduced itself becomes known by polling (true).
    pub fn number(&self, id: &Arc<str>, group: &str) -> Result<(ClientNumber, bool), Refusal> {
        if let Some(client) = self.state().by_id.get_mut(id) {
            client.seen = Instant::now();
            return Ok((client.number, false));
        }
        let role = ClientRole::Consumer { group: group.to_owned(), push: false, subscriptions: Vec::new() };
        let (language, version, remote) = Default::default();
        self.seen(ClientInfo { client_id: id.clone(), language, version, remote, role })?;
        Ok((self.state().by_id.get(id).map_or(ClientNumber(0), |client| client.number), true))
    }

    /// Forgets a client. Its number, and the group it was a member of.
    pub fn gone(&self, id: &str) -> Option<(ClientNumber, Option<String>)> {
        self.state().forget(id).map(|client| (client.number, group_of(&client.info.role).cloned()))
    }

    /// Forgets those not seen for too long. Their ids, numbers and groups.
    pub fn expire(&self) -> Vec<(Arc<str>, ClientNumber, Option<String>)> {
        let limit = Duration::from_millis(limits::CLIENT_EXPIRY_MILLIS as u64);
        let mut state = self.state();
        let expired: Vec<_> = state
            .by_id
            .iter()
            .filter(|(_, client)| client.seen.elapsed() > limit)
            .map(|(id, client)| (id.clone(), client.number, group_of(&client.info.role).cloned()))
            .collect();
        for (id, ..) in &expired {
            state.forget(id);
        }
        expired
    }

    pub fn all(&self) -> Vec<ClientInfo> {
        self.state().by_id.values().map(|client| client.info.clone()).collect()
    }

    /// Clients that publish a topic, another one first each time.
    pub fn producers_of(&self, topic: &str, most: usize) -> Vec<Arc<str>> {
        let mut state = self.state();
        state.turn = state.turn.wrapping_add(1);
        let Some(ids) = state.producers.get(topic) else { return Vec::new() };
        let first = state.turn % ids.len().max(1);
        ids.iter().cycle().skip(first).take(most.min(ids.len())).cloned().collect()
    }

    /// Consumers of one group.
    pub fn of_group(&self, name: &str) -> Vec<ClientInfo> {
        let is_member = |info: &ClientInfo| matches!(&info.role, ClientRole::Consumer { group, .. } if group == name);
        self.state().by_id.values().filter(|client| is_member(&client.info)).map(|client| client.info.clone()).collect()
    }
}

fn group_of(role: &ClientRole) -> Option<&String> {
    match role {
        ClientRole::Consumer { group, .. } => Some(group),
        ClientRole::Producer { .. } => None,
    }
}

/// Groups whose members are others, or subscribe to something else, where a client's role changes.
fn changed_groups(before: Option<&ClientRole>, after: &ClientRole) -> Vec<String> {
    if before == Some(after) {
        return Vec::new();
    }
    let mut groups: Vec<String> = before.into_iter().chain([after]).filter_map(group_of).cloned().collect();
    groups.dedup();
    groups
}
