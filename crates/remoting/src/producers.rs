//! Producers by group: who can be asked how a transaction ended.

use crate::connection::Link;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The producers of all connections.
#[derive(Debug, Default)]
pub(crate) struct Producers(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Connections by group and number.
    groups: BTreeMap<String, BTreeMap<u64, Arc<Link>>>,
    links: BTreeMap<u64, OfLink>,
    /// Goes round among the producers of a group.
    turn: usize,
}

/// What a connection said of itself.
#[derive(Debug, Default)]
struct OfLink {
    clients: BTreeSet<Arc<str>>,
    groups: BTreeSet<String>,
}

impl Producers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client says which groups it has producers of, at most so many over its connection; further ones are passed over.
    /// False if there were.
    pub fn heard(&self, link: &Arc<Link>, client_id: &Arc<str>, groups: &[&str], groups_max: usize) -> bool {
        let mut state = self.state();
        let State { groups: all, links, .. } = &mut *state;
        let of_link = links.entry(link.number).or_default();
        if of_link.clients.len() < groups_max {
            of_link.clients.insert(client_id.clone());
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
    pub fn link_gone(&self, link: u64) -> BTreeSet<Arc<str>> {
        let mut state = self.state();
        let Some(of_link) = state.links.remove(&link) else { return BTreeSet::new() };
        of_link.groups.iter().for_each(|group| state.forget(link, group));
        of_link.clients
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
