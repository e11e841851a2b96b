//! The HTTP front: what the HTTP SDKs of RocketMQ's vendor speak.
//!
//! In: HTTP/1.1 connections. Out: calls of [`martlet_broker::Broker`]. Holds every rule of the wire and no rule about messages.
//!
//! - `connection`: one connection, with its deadlines (`stream`). `front`: what all share, and which request goes where.
//! - `target`: path and query. `auth`: signatures, permissions, clocks, digests. `body`: bodies in and out.
//! - `answer`: what requests are answered, and the one table from refusals to codes.
//! - `xml_in`, `xml_out`: the documents. `properties`: the string in them that holds properties.
//! - `publish`, `message_in`: messages on their way in. `consume`, `message_out`, `inflate`: on their way out.
//! - `settle`: acknowledgements, ends of transactions.
//! - `fuzz`: the decoders, for bytes of any kind.
//!
//! # Memory
//!
//! Whatever clients send, memory is bounded by [`Limits`]: heads by [`Limits::head_bytes`] per connection, bodies by a limit per
//! kind of request and by one budget ([`Limits::inbound_bytes`]), from which bytes are taken as they arrive; replies with
//! messages by another ([`Limits::outbound_bytes`]). Whoever is slow in either direction is closed.

mod answer;
pub mod auth;
mod body;
mod connection;
mod consume;
mod front;
pub mod fuzz;
mod inflate;
mod message_in;
mod message_out;
mod properties;
mod publish;
mod server;
mod settle;
mod stream;
mod target;
mod xml_in;
mod xml_out;

pub use martlet_net::ServeError;
pub use martlet_net::latency::RpcLatency;
pub use martlet_net::tls::TlsOptions;
pub use server::{HttpFigures, HttpServer, serve};

use std::net::SocketAddr;
use std::time::Duration;

/// How the front is set up.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Where clients connect, with TLS or plaintext.
    pub listen: SocketAddr,
    /// The certificate.
    pub tls: TlsOptions,
    /// Threads that serve connections; 0: one per core.
    pub workers: usize,
    /// Limits.
    pub limits: Limits,
}

impl HttpOptions {
    /// The defaults, with this address and certificate.
    pub fn new(listen: SocketAddr, tls: TlsOptions) -> Self {
        Self { listen, tls, workers: 0, limits: Limits::default() }
    }
}

/// Bounds of the front.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections_max: usize,
    /// Time for PROXY header, TLS handshake and the first bytes together.
    pub open_timeout: Duration,
    /// A connection on which no request comes for this long is closed.
    pub idle_timeout: Duration,
    /// Time for a request's head to arrive, from its first byte on, and as much for its body.
    pub read_timeout: Duration,
    /// Time that a reply may wait for a client that does not read.
    pub write_timeout: Duration,
    /// Time for requests under way when the front shuts down.
    pub drain_timeout: Duration,
    /// Bytes of a request's head: request line and headers; 431 beyond.
    pub head_bytes: usize,
    /// Headers of a request; 431 beyond.
    pub headers_max: usize,
    /// Bytes of the document of a publish: a body of 4 MiB, every byte of it escaped, and properties.
    pub publish_bytes: usize,
    /// Bytes of the body of any other request.
    pub other_bytes: usize,
    /// Bytes of requests under way, over all connections; those above 64 KiB leave a quarter of them to the others.
    pub inbound_bytes: usize,
    /// Bytes of replies with messages under way, over all connections.
    pub outbound_bytes: usize,
    /// Consumer groups that one connection is known to poll for; of more it is not told who polls.
    pub groups_per_connection_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            open_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            read_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            head_bytes: 16 << 10,
            headers_max: 64,
            publish_bytes: (24 << 20) + (256 << 10),
            other_bytes: 64 << 10,
            inbound_bytes: 256 << 20,
            outbound_bytes: 128 << 20,
            groups_per_connection_max: 64,
        }
    }
}
