//! One connection: requests one after the other, until its end.

use crate::front::Front;
use crate::stream::{Phase, Watched};
use hyper::header::{HeaderMap, USER_AGENT};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use martlet_broker::{ClientInfo, ClientRole, Refusal};
use martlet_net::listener::Connection;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are kept of a connection's reads.
const READ_BUFFER_BYTES: usize = 64 << 10;

/// What requests know of their connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// The same as text, which each of its messages says.
    pub peer_text: Box<str>,
    /// The address that was dialled.
    pub local: SocketAddr,
    pub phase: Arc<Phase>,
    /// Groups it is known to poll for.
    groups: Mutex<BTreeSet<String>>,
}

impl Link {
    /// What the broker knows this connection's consumer of a group by: clients of this protocol have no ids.
    fn client_id(&self, group: &str) -> Arc<str> {
        format!("{}@http@{group}", self.peer).into()
    }
}

/// Takes a connection's consumers off the broker's list, however it ends.
struct Known {
    front: Arc<Front>,
    link: Arc<Link>,
}

impl Drop for Known {
    fn drop(&mut self) {
        let groups = std::mem::take(&mut *self.link.groups.lock().unwrap_or_else(PoisonError::into_inner));
        for group in groups {
            self.front.broker.client_gone(&self.link.client_id(&group));
        }
    }
}

/// Serves a connection until its end.
pub(crate) async fn serve(front: Arc<Front>, connection: Connection) -> hyper::Result<()> {
    let Connection { stream, peer, local, .. } = connection;
    let link = Arc::new(Link {
        peer,
        peer_text: peer.to_string().into(),
        local,
        phase: Arc::default(),
        groups: Mutex::default(),
    });
    let _known = Known { front: front.clone(), link: link.clone() };
    let limits = &front.limits;
    let times = [limits.idle_timeout, limits.read_timeout, limits.write_timeout];
    let refusal = {
        let front = front.clone();
        Box::new(move |status| front.unreadable(peer, local, status))
    };
    let io = TokioIo::new(Watched::new(stream, link.phase.clone(), times, refusal));
    let service = service_fn(|request| {
        let (front, link) = (front.clone(), link.clone());
        async move { Ok::<_, Infallible>(front.handle(&link, request).await) }
    });
    let served = http1::Builder::new()
        .keep_alive(true)
        .max_headers(limits.headers_max)
        .max_header_size(limits.head_bytes)
        .max_buf_size(READ_BUFFER_BYTES)
        // The stream's own deadlines tell a connection without a request from one that is slow.
        .header_read_timeout(None)
        .serve_connection(io, service);
    let (mut served, mut stop, mut stopping) = (pin!(served), front.stopped(), false);
    loop {
        tokio::select! {
            result = served.as_mut() => return result,
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                served.as_mut().graceful_shutdown();
                stopping = true;
            }
        }
    }
}

impl Front {
    /// The consumer of a group that this connection is; made known to the broker with the first poll.
    pub(crate) fn member(&self, link: &Link, headers: &HeaderMap, group: &str) -> Result<Arc<str>, Refusal> {
        let client_id = link.client_id(group);
        let is_new = {
            let mut groups = link.groups.lock().unwrap_or_else(PoisonError::into_inner);
            let has_room = groups.len() < self.limits.groups_per_connection_max;
            !groups.contains(group) && has_room && groups.insert(group.to_owned())
        };
        if is_new {
            let (language, version) = sdk(headers);
            // What it subscribes to is known from its polls: one connection may poll several topics.
            let role = ClientRole::Consumer { group: group.to_owned(), push: false, subscriptions: Vec::new() };
            let remote = link.peer.to_string();
            self.broker.client_seen(ClientInfo { client_id: client_id.clone(), language, version, remote, role })?;
        }
        Ok(client_id)
    }
}

/// Language and version of an SDK that says `mq-LANGUAGE-sdk/VERSION(…)`.
fn sdk(headers: &HeaderMap) -> (String, String) {
    const SHOWN_MAX: usize = 32;
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("");
    let found = agent.strip_prefix("mq-").and_then(|rest| rest.split_once("-sdk/"));
    let Some((language, rest)) = found else { return ("HTTP".into(), String::new()) };
    let version = rest.split(['(', ' ']).next().unwrap_or("");
    let shown = |text: &str| text.chars().take(SHOWN_MAX).collect::<String>();
    (shown(&language.to_uppercase()), shown(version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn sdks_are_known_by_what_they_say() {
        for (agent, expected) in [
            ("mq-python-sdk/1.0.3(Linux/5;3.11)", ("PYTHON", "1.0.3")),
            ("mq-nodejs-sdk/1.0.4", ("NODEJS", "1.0.4")),
            ("curl/8", ("HTTP", "")),
        ] {
            let headers = HeaderMap::from_iter([(USER_AGENT, HeaderValue::from_static(agent))]);
            assert_eq!(sdk(&headers), (expected.0.to_owned(), expected.1.to_owned()), "{agent}");
        }
        assert_eq!(sdk(&HeaderMap::new()).0, "HTTP");
    }
}
