//! The gRPC front: `apache.rocketmq.v2` and `.v1` for clients, `martlet.v1.Admin` for the command line.
//!
//! In: TCP connections. Out: calls of [`martlet_broker::Broker`]. Turns frames into the broker's words and back, and
//! holds every rule of the wire: validation, codes, settings, poll times. Holds no rule about messages.
//!
//! - `transport`: gRPC over HTTP/2, made for small calls: no router, no boxed streams, one task per call.
//! - [`proto`]: generated types and clients.
//! - [`code`]: the one table from refusals to codes.
//! - `service`: which call goes where. `producer`, `consumer`, `pull`, `session`, `transactions`, `admin`, `catalog`, `inspect`: the calls.
//! - `inquiry`: questions that are put to a client on its stream.
//! - `access`: who makes a call, and whether it may.
//! - `v1`: the calls of the older package.
//! - `latency`: how long they take.
//! - `message_in`, `message_out`: between messages of the wire and records.
//! - [`fuzz`]: every decoder behind a function that takes bytes.
//!
//! # Memory
//!
//! Whatever clients send, memory is bounded by [`Limits`]:
//! - Before HTTP/2: [`Limits::connections_max`] sockets, a few kB each, for at most [`Limits::open_timeout`].
//! - Inbound: bytes of requests are taken from one budget ([`Limits::inbound_bytes`]) as they arrive and given back when
//!   the call is over. What HTTP/2 holds before that is at most [`Limits::connection_window_bytes`] per connection,
//!   and only while the budget is exhausted, for a second.
//! - Calls: [`Limits::calls_per_connection_max`]; polls per client and in all; a request must be complete within
//!   [`Limits::request_timeout`].
//! - Outbound: an answer that does not fit into its client's window is counted against [`Limits::outbound_bytes`] and
//!   dropped after 30 s without progress; messages in it go back to the broker. Message bodies are counted by the
//!   broker's own reply budget until they are written.
//! - Sessions: [`Limits::clients_max`], 64 commands each; messages in checks of transactions and on trial that wait have 16 MiB in all.
//!   1,024 questions to clients are under way at a time, each for 10 s at most.

mod access;
mod admin;
mod call;
mod catalog;
pub mod code;
mod consumer;
pub mod fuzz;
mod inquiry;
mod inspect;
mod latency;
mod lite;
mod message_in;
mod message_out;
mod producer;
pub mod proto;
mod pull;
mod resource;
mod route;
mod server;
mod service;
mod session;
mod sessions;
mod settings;
mod time;
pub mod transactions;
mod transport;
mod v1;

#[cfg(test)]
mod limits_properties;
#[cfg(test)]
#[path = "../../model/src/texts.rs"]
mod texts;

pub use martlet_net::ServeError;
pub use martlet_net::latency::RpcLatency;
pub use martlet_net::tls::TlsOptions;
pub use server::{GrpcFigures, GrpcServer, serve};

use std::net::SocketAddr;
use std::time::Duration;

/// How the front is set up.
#[derive(Clone, Debug)]
pub struct GrpcOptions {
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// Host and port that clients are told to dial. `None`: what each client dialled itself, which is right behind
    /// containers and address translation as long as clients connect to the broker directly. Port 0: the one that is
    /// listened on.
    pub advertise: Option<(String, u16)>,
    /// The certificate.
    pub tls: TlsOptions,
    /// Threads that serve connections; 0: one per core.
    pub workers: usize,
    /// Limits.
    pub limits: Limits,
}

impl GrpcOptions {
    /// The defaults, with this address and certificate.
    pub fn new(listen: SocketAddr, tls: TlsOptions) -> Self {
        Self { listen, advertise: None, tls, workers: 0, limits: Limits::default() }
    }
}

/// Bounds of the front; see the module's text for what they add up to.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections_max: usize,
    /// Time for PROXY header, TLS handshake and HTTP/2 preface together.
    pub open_timeout: Duration,
    /// A connection without a call for this long is closed. The reference's 120 s.
    pub idle_timeout: Duration,
    /// Time for calls under way when the front shuts down.
    pub drain_timeout: Duration,
    /// Time for a request's message to arrive.
    pub request_timeout: Duration,
    /// Calls under way per connection.
    pub calls_per_connection_max: u32,
    /// Bytes of one request's headers.
    pub header_bytes_max: u32,
    /// Bytes that a client may send ahead on one stream.
    pub stream_window_bytes: u32,
    /// Bytes that a client may send ahead on one connection.
    pub connection_window_bytes: u32,
    /// Bytes of requests held at a time, over all clients; those above 64 KiB leave a quarter of them to the others. At least the
    /// largest request (130 MiB).
    pub inbound_bytes: usize,
    /// Bytes of answers that wait for slow readers, over all clients.
    pub outbound_bytes: usize,
    /// Clients with a session at a time.
    pub clients_max: usize,
    /// Polls of one client at a time.
    pub polls_per_client_max: usize,
    /// Polls at a time, over all clients.
    pub polls_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            open_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            drain_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            calls_per_connection_max: 2048,
            header_bytes_max: 16 * 1024,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 2 << 20,
            inbound_bytes: 256 << 20,
            outbound_bytes: 128 << 20,
            clients_max: 100_000,
            polls_per_client_max: 1024,
            polls_max: 50_000,
        }
    }
}
