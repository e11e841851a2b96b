//! One HTTP/2 connection: accepts calls, watches that somebody is still there, drains on shutdown.
//!
//! Pings of clients are answered and never counted against them (some ping every 60 s without a call). Ours go out
//! every 30 s; if one is not answered by the next, the connection is half-open and is dropped.

use crate::Limits;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, RecvStream};
use http::Request;
use martlet_net::listener::Connection;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

const PING_EVERY: Duration = Duration::from_secs(30);
/// Frames of at most this size are taken; larger ones would only make others on the connection wait.
const FRAME_BYTES_MAX: u32 = 64 * 1024;
/// Bytes that the connection keeps for one stream that its client does not read.
const SEND_BUFFER_BYTES_MAX: usize = 256 * 1024;

/// What a call knows of its connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Who is at the other end.
    pub(crate) remote: SocketAddr,
    /// The address that was dialled.
    pub(crate) local: SocketAddr,
    /// Calls under way.
    calls: AtomicUsize,
}

impl Peer {
    pub(crate) fn new(remote: SocketAddr, local: SocketAddr) -> Self {
        Self { remote, local, calls: AtomicUsize::new(0) }
    }
}

/// Counts a call as under way until dropped.
#[derive(Debug)]
pub(crate) struct CallGuard(Arc<Peer>);

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one connection until it ends; `call` is run as a task of its own for each request.
pub(crate) async fn serve<F>(
    connection: Connection,
    limits: &Limits,
    mut shutdown: watch::Receiver<bool>,
    mut call: impl FnMut(Arc<Peer>, Request<RecvStream>, SendResponse<Bytes>, CallGuard) -> F,
) -> Result<(), h2::Error>
where
    F: Future<Output = ()> + Send + 'static,
{
    let peer = Arc::new(Peer::new(connection.peer, connection.local));
    let handshake = h2::server::Builder::new()
        .initial_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(limits.calls_per_connection_max)
        .max_header_list_size(limits.header_bytes_max)
        .max_send_buffer_size(SEND_BUFFER_BYTES_MAX)
        .handshake::<_, Bytes>(connection.stream);
    let Ok(handshake) = tokio::time::timeout(limits.open_timeout, handshake).await else { return Ok(()) };
    let mut http = handshake?;
    let mut pings = http.ping_pong();
    let mut ticks = tokio::time::interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut ping_out, mut last_call, mut draining) = (false, Instant::now(), false);
    let mut stop = pin!(async move {
        // A sender that is gone means the same.
        let _ = shutdown.wait_for(|stop| *stop).await;
    });
    let mut drained = pin!(tokio::time::sleep(limits.drain_timeout));
    loop {
        tokio::select! {
            biased;
            request = http.accept() => match request {
                None => return Ok(()),
                Some(Err(error)) => return Err(error),
                Some(Ok((request, respond))) => {
                    last_call = Instant::now();
                    peer.calls.fetch_add(1, Ordering::Relaxed);
                    let guard = CallGuard(peer.clone());
                    tokio::spawn(call(peer.clone(), request, respond, guard));
                }
            },
            pong = poll_fn(|cx| match &mut pings {
                Some(pings) => pings.poll_pong(cx).map(|_| ()),
                None => std::task::Poll::Pending,
            }), if ping_out => {
                let () = pong;
                ping_out = false;
            }
            _ = ticks.tick() => {
                if ping_out {
                    tracing::debug!(peer = %peer.remote, "no answer to a ping, dropping the connection");
                    return Ok(());
                }
                let idle = peer.calls.load(Ordering::Relaxed) == 0 && last_call.elapsed() >= limits.idle_timeout;
                if idle && !draining {
                    http.graceful_shutdown();
                    draining = true;
                    drained.as_mut().reset(Instant::now() + limits.drain_timeout);
                }
                ping_out = pings.as_mut().is_some_and(|pings| pings.send_ping(Ping::opaque()).is_ok());
            }
            () = &mut stop, if !draining => {
                http.graceful_shutdown();
                draining = true;
                drained.as_mut().reset(Instant::now() + limits.drain_timeout);
            }
            () = &mut drained, if draining => return Ok(()),
        }
    }
}
