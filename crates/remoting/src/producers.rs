//! Producers by group: who can be asked how a transaction ended.

use crate::link::Link;
use martlet_model::UnixMillis;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The producers of all connections.
#[derive(Debug, Default)]
pub(crate) struct Producers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Connections by group and number.
    groups: BTreeMap<String, BTreeMap<u64, Arc<Link>>>,
    /// Connections by client and number.
    clients: BTreeMap<Arc<str>, BTreeMap<u64, Arc<Link>>>,
    links: BTreeMap<u64, OfLink>,
    /// Goes round among the producers of a group.
    turn: usize,
}

/// A client, as its last heartbeat said.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// Unique per client instance.
    pub id: Arc<str>,
    /// Where it is.
    pub peer: SocketAddr,
    /// Number of its language.
    pub language: u8,
    /// Ordinal of its version.
    pub version: i32,
    /// When that was.
    pub heard: UnixMillis,
}

/// What a connection said of itself.
#[derive(Debug, Default)]
struct OfLink {
    clients: BTreeMap<Arc<str>, Client>,
    groups: BTreeSet<String>,
}

impl Producers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client says which groups it has producers of, at most so many over its connection; further ones are passed over.
    /// False if there were.
    pub fn heard(&self, link: &Arc<Link>, client: Client, groups: &[&str], groups_max: usize) -> bool {
        let mut state = self.state();
        let State { groups: all, clients, links, .. } = &mut *state;
        let of_link = links.entry(link.number).or_default();
        if of_link.clients.len() < groups_max || of_link.clients.contains_key(&client.id) {
            clients.entry(client.id.clone()).or_default().insert(link.number, link.clone());
            of_link.clients.insert(client.id.clone(), client);
        }
        for group in groups {
            if of_link.groups.contains(*group) {
                continue;
            }
            if of_link.groups.len() >= groups_max {
                return false;
            }
            of_link.groups.insert((*group).to_owned());
            all.entry((*group).to_owned()).or_default().insert(link.number, link.clone());
        }
        true
    }

    /// A connection has no producer of a group any more.
    pub fn leave(&self, link: u64, group: &str) {
        let mut state = self.state();
        if let Some(of_link) = state.links.get_mut(&link) {
            of_link.groups.remove(group);
        }
        state.forget(link, group);
    }

    /// A connection has ended; the clients it was of.
    pub fn link_gone(&self, link: u64) -> Vec<Arc<str>> {
        let mut state = self.state();
        let Some(of_link) = state.links.remove(&link) else { return Vec::new() };
        of_link.groups.iter().for_each(|group| state.forget(link, group));
        for client in of_link.clients.keys() {
            if let Some(links) = state.clients.get_mut(client) {
                links.remove(&link);
                if links.is_empty() {
                    state.clients.remove(client);
                }
            }
        }
        of_link.clients.into_keys().collect()
    }

    /// Groups that have a producer.
    pub fn groups(&self) -> Vec<String> {
        self.state().groups.keys().cloned().collect()
    }

    /// Clients with a producer of a group.
    pub fn clients_of(&self, group: &str) -> Vec<Client> {
        let state = self.state();
        let links = state.groups.get(group).into_iter().flat_map(BTreeMap::keys);
        links.filter_map(|link| state.links.get(link)).flat_map(|of_link| of_link.clients.values().cloned()).collect()
    }

    /// The version of a client, as it said over a connection.
    pub fn version(&self, link: u64, id: &str) -> Option<i32> {
        self.state().links.get(&link)?.clients.get(id).map(|client| client.version)
    }

    /// The newest connection of a client.
    pub fn client(&self, id: &str) -> Option<Arc<Link>> {
        self.state().clients.get(id)?.values().next_back().cloned()
    }

    /// Connections with a producer of a group, another one first each time.
    pub fn of(&self, group: &str) -> Vec<Arc<Link>> {
        let mut state = self.state();
        state.turn = state.turn.wrapping_add(1);
        let Some(links) = state.groups.get(group) else { return Vec::new() };
        let mut links: Vec<_> = links.values().cloned().collect();
        let first = state.turn % links.len().max(1);
        links.rotate_left(first);
        links
    }
}

impl State {
    fn forget(&mut self, link: u64, group: &str) {
        if let Some(links) = self.groups.get_mut(group) {
            links.remove(&link);
            if links.is_empty() {
                self.groups.remove(group);
            }
        }
    }
}
