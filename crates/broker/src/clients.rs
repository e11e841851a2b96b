//! Who is connected. A client that neither heartbeats nor says anything for two minutes is gone.

use crate::{ClientInfo, ClientRole, Refusal};
use martlet_model::limits;
use martlet_shard::ClientNumber;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

struct Client {
    info: ClientInfo,
    number: ClientNumber,
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
}

impl Clients {
    pub fn new(max: usize) -> Self {
        Self { state: Mutex::default(), max }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client says who it is, for the first time or again.
    pub fn seen(&self, info: ClientInfo) -> Result<(), Refusal> {
        let mut state = self.state();
        if let Some(client) = state.by_id.get_mut(&info.client_id) {
            client.info = info;
            client.seen = Instant::now();
            client.told = client.seen;
            return Ok(());
        }
        if state.by_id.len() >= self.max {
            return Err(Refusal::Busy { what: "number of connected clients", limit: self.max as u64 });
        }
        state.next += 1;
        let number = ClientNumber(state.next);
        let now = Instant::now();
        state.by_id.insert(info.client_id.clone(), Client { info, number, seen: now, told: now });
        Ok(())
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

    /// The number of a client that polls; one that never introduced itself becomes known by polling.
    pub fn number(&self, id: &Arc<str>, group: &str) -> Result<ClientNumber, Refusal> {
        if let Some(client) = self.state().by_id.get_mut(id) {
            client.seen = Instant::now();
            return Ok(client.number);
        }
        let role = ClientRole::Consumer { group: group.to_owned(), push: false, subscriptions: Vec::new() };
        let (language, version, remote) = Default::default();
        self.seen(ClientInfo { client_id: id.clone(), language, version, remote, role })?;
        Ok(self.state().by_id.get(id).map_or(ClientNumber(0), |client| client.number))
    }

    /// Forgets a client.
    pub fn gone(&self, id: &str) -> Option<ClientNumber> {
        self.state().by_id.remove(id).map(|client| client.number)
    }

    /// Forgets those not seen for too long.
    pub fn expire(&self) -> Vec<(Arc<str>, ClientNumber)> {
        let limit = Duration::from_millis(limits::CLIENT_EXPIRY_MILLIS as u64);
        let mut state = self.state();
        let expired: Vec<_> = state
            .by_id
            .iter()
            .filter(|(_, client)| client.seen.elapsed() > limit)
            .map(|(id, client)| (id.clone(), client.number))
            .collect();
        for (id, _) in &expired {
            state.by_id.remove(id);
        }
        expired
    }

    pub fn all(&self) -> Vec<ClientInfo> {
        self.state().by_id.values().map(|client| client.info.clone()).collect()
    }

    /// Consumers of one group.
    pub fn of_group(&self, name: &str) -> Vec<ClientInfo> {
        let is_member = |info: &ClientInfo| matches!(&info.role, ClientRole::Consumer { group, .. } if group == name);
        self.state().by_id.values().filter(|client| is_member(&client.info)).map(|client| client.info.clone()).collect()
    }
}
