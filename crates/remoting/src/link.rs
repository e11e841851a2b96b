//! A client's end of a connection, for whoever wants to send it something.

use crate::answer::Denied;
use crate::asked::Asked;
use crate::codec::code::response;
use crate::codec::fields::FieldList;
use crate::codec::frame::Frame;
use crate::codec::header::{FLAG_ONE_WAY, Header};
use crate::outbox::Outbox;
use bytes::Bytes;
use martlet_broker::MessageModel;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Version that answers and requests carry: clients switch features on by it. Ordinal of 5.5.0.
pub(crate) const VERSION: i32 = 513;

/// A client's end of a connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// Unique in this process.
    pub number: u64,
    /// Where the client is.
    pub peer: SocketAddr,
    /// The same as text, which each of its messages says.
    pub peer_text: Box<str>,
    /// The address it dialled, as this machine sees it.
    pub local: SocketAddr,
    /// What is to be written to it.
    pub outbox: Outbox,
    next_opaque: AtomicI32,
    /// Requests that its client has not answered yet.
    pub asked: Asked,
    /// Groups that its client consumes with: as whom, and how.
    groups: Mutex<BTreeMap<String, Membership>>,
}

/// As whom a client consumes with a group, and how.
#[derive(Clone, Debug)]
pub(crate) struct Membership {
    /// Its id.
    pub client: Arc<str>,
    /// Whether it shares messages with the others.
    pub model: MessageModel,
    /// Whether it asks for messages by itself rather than handing them to a listener.
    pub active: bool,
}

impl Link {
    pub fn new(number: u64, peer: SocketAddr, local: SocketAddr, outbox: Outbox) -> Self {
        Self {
            number,
            peer,
            peer_text: peer.to_string().into(),
            local,
            outbox,
            next_opaque: AtomicI32::new(0),
            asked: Asked::default(),
            groups: Mutex::default(),
        }
    }

    fn groups(&self) -> MutexGuard<'_, BTreeMap<String, Membership>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As whom its client consumes with a group, and how; `None`: it does not, as far as it has said.
    pub fn member(&self, group: &str) -> Option<(Arc<str>, MessageModel)> {
        self.groups().get(group).map(|member| (member.client.clone(), member.model))
    }

    /// Whether its client asks for messages by itself rather than handing them to a listener.
    pub fn consumes_actively(&self, group: &str) -> bool {
        self.groups().get(group).is_some_and(|member| member.active)
    }

    /// Its client consumes with a group, one of so many at most.
    pub fn consumes(&self, group: &str, member: Membership, max: usize) -> Result<(), Denied> {
        let mut groups = self.groups();
        if groups.len() >= max && !groups.contains_key(group) {
            let remark = format!("consumerDataSet brings the connection to more than {max} groups, the limit");
            return Err(Denied::new(response::SYSTEM_BUSY, remark));
        }
        groups.insert(group.to_owned(), member);
        Ok(())
    }

    /// Its client has left a group.
    pub fn consumes_no_more(&self, group: &str) {
        self.groups().remove(group);
    }

    /// Sends a request that nobody answers. `false`: the client does not read, or is gone.
    pub fn tell(&self, code: i32, fields: FieldList, body: Bytes) -> bool {
        let opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        let header = Header { code, opaque, fields, flag: FLAG_ONE_WAY, version: VERSION, ..Header::default() };
        self.outbox.offer(&header, body)
    }

    /// Sends a request and waits so long for its answer. `None`: the client does not read, does not answer, or is gone.
    pub async fn ask(&self, code: i32, fields: FieldList, body: Bytes, patience: Duration) -> Option<Frame> {
        let opaque = self.next_opaque.fetch_add(1, Ordering::Relaxed);
        let mut waiting = self.asked.begin(opaque)?;
        let header = Header { code, opaque, fields, version: VERSION, ..Header::default() };
        if !self.outbox.offer(&header, body) {
            return None;
        }
        timeout(patience, waiting.answer()).await.ok()?
    }
}
