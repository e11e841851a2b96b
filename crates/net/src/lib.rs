//! What listeners of every protocol need before they speak it.
//!
//! - [`listener`]: from an accepted socket to a connection: TLS, plaintext and PROXY protocol on one port.
//! - [`workers`]: threads that accept connections and serve them.
//! - [`ServeError`]: why a front could not be started.
//! - [`budget`]: bytes that all connections share.
//! - [`deadline`]: deadlines that move with every request.
//! - [`latency`]: how long calls take.
//! - [`gzip`]: compressed bodies in the wrapping that clients can read.
//! - [`fuzz`]: decoders and any bytes.
//! - [`complaints`]: log lines about peers, not more than a log can bear.

pub mod budget;
pub mod complaints;
pub mod deadline;
pub mod fuzz;
pub mod gzip;
pub mod latency;
pub mod listener;
pub mod proxy;
pub mod sniff;
pub mod stream;
pub mod tls;
pub mod workers;

use std::io;
use std::net::SocketAddr;

/// Why a front could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// An address cannot be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No certificate.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// A thread or its runtime could not be made.
    #[error("starting a worker: {0}")]
    Worker(io::Error),
}
