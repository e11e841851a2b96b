//! The remoting front: what 4.x and 5.x clients, `mqadmin` and dashboards speak over TCP to name servers and brokers.
//!
//! In: TCP connections. Out: calls of [`martlet_broker::Broker`]. One process is name server and broker at once, so every port
//! takes every code. Holds every rule of the wire and no rule about messages.
//!
//! - [`codec`]: bytes to values and back, pure.
//! - `connection`: frames in and out, requests side by side. `input`, `outbox`: their bytes. `front`: which code goes where.
//! - `link`: a client's end of a connection, for whoever wants to send it something.
//! - `answer`: what requests are answered, and the one table from refusals to codes.
//! - `route`: topics, queues and addresses. `send`, `message_in`: messages on their way in. `message_out`: on their way out.
//! - `access`: who sends a request, and whether it may.
//! - `admin`: what `mqadmin` and dashboards ask.
//! - `members`: consumers and their groups. `pull`: messages of queues, and offsets of groups.
//! - `pop`, `pop_handle`, `pop_settle`: messages of topics, settled one by one. `reply`: answers to requests that are messages.
//! - `asked`: what clients were asked and are to answer. `fuzz`: the decoders, for bytes of any kind.
//! - `producers`: who can be asked about transactions. `clients`: heartbeats. `transactions`: ends and checks.
//!
//! # Memory
//!
//! Whatever clients send, memory is bounded by [`Limits`]: frames are taken from one budget ([`Limits::inbound_bytes`]) and
//! from their connection's ([`Limits::connection_bytes`]) before they are read, and given back when they are answered. While a
//! budget is exhausted, or [`Limits::requests_per_connection_max`] are under way or wait to be written, a connection is not read.
//! An answer that is not read for [`Limits::write_timeout`] ends its connection. A connection that rests has no buffers.

mod access;
mod admin;
mod answer;
mod asked;
mod clients;
pub mod codec;
mod connection;
mod front;
pub mod fuzz;
mod input;
mod link;
mod members;
mod message_in;
mod message_out;
mod outbox;
mod pop;
mod pop_handle;
mod pop_settle;
mod producers;
mod pull;
mod reply;
mod route;
mod send;
mod send_back;
mod server;
mod transactions;

pub use martlet_net::latency::RpcLatency;
pub use martlet_net::tls::TlsOptions;
pub use server::{RemotingFigures, RemotingServer, ServeError, serve};

use std::net::SocketAddr;
use std::time::Duration;

/// How the front is set up.
#[derive(Clone, Debug)]
pub struct RemotingOptions {
    /// Where clients expect a name server; `None`: nowhere.
    pub nameserver_listen: Option<SocketAddr>,
    /// Where they expect a broker; `None`: on the name server's port. Two ports below it is listened on, too, if that can be:
    /// old clients go there.
    pub listen: Option<SocketAddr>,
    /// Host and port that clients are told to dial, and that ids of messages carry. `None`: the address by which each client
    /// came. Port 0: the broker's.
    pub advertise: Option<(String, u16)>,
    /// The certificate.
    pub tls: TlsOptions,
    /// Threads that serve connections; 0: one per core.
    pub workers: usize,
    /// Limits.
    pub limits: Limits,
}

impl RemotingOptions {
    /// The defaults, with these addresses and this certificate.
    pub fn new(nameserver_listen: SocketAddr, listen: SocketAddr, tls: TlsOptions) -> Self {
        let (nameserver_listen, listen) = (Some(nameserver_listen), Some(listen));
        Self { nameserver_listen, listen, advertise: None, tls, workers: 0, limits: Limits::default() }
    }
}

/// Bounds of the front.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections_max: usize,
    /// Time for PROXY header, TLS handshake and the first bytes together.
    pub open_timeout: Duration,
    /// A connection on which nothing comes for this long, and nothing is under way, is closed. The reference's 120 s.
    pub idle_timeout: Duration,
    /// Time for requests under way when the front shuts down.
    pub drain_timeout: Duration,
    /// Time for a frame to arrive, from its first byte on, and to wait for a budget.
    pub frame_timeout: Duration,
    /// Time that an answer may wait for a client that does not read.
    pub write_timeout: Duration,
    /// Requests under way per connection.
    pub requests_per_connection_max: usize,
    /// Pulls that wait for messages, per connection.
    pub polls_per_connection_max: usize,
    /// Bytes of requests under way per connection.
    pub connection_bytes: usize,
    /// Bytes of requests under way, over all connections; those above 64 KiB leave a quarter of them to the others.
    pub inbound_bytes: usize,
    /// Groups that one connection may have producers of, and as many that it may have consumers of.
    pub groups_per_connection_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            open_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(10),
            frame_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            requests_per_connection_max: 1024,
            polls_per_connection_max: 4096,
            connection_bytes: 32 << 20,
            inbound_bytes: 256 << 20,
            groups_per_connection_max: 1024,
        }
    }
}
