//! What can go wrong while loading a server, in the words of the load.

use std::path::PathBuf;

/// A load that could not be run, or could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The TCP connection was refused or broke off.
    #[error("connection to {endpoint}: {source}")]
    Connect {
        /// `host:port` as given.
        endpoint: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// HTTP/2 failed below the RPC.
    #[error("{rpc}: HTTP/2: {source}")]
    Http2 {
        /// RPC, or `handshake`.
        rpc: &'static str,
        /// What the HTTP/2 layer said.
        source: h2::Error,
    },
    /// The call ended with a gRPC status that is not 0.
    #[error("{rpc}: gRPC status {code}: {message}")]
    Grpc {
        /// RPC that was called.
        rpc: &'static str,
        /// grpc-status, 0 to 16.
        code: String,
        /// grpc-message, percent-encoded as received.
        message: String,
    },
    /// The answer's own status is neither OK nor expected.
    #[error("{rpc}: status {code}: {message}")]
    Status {
        /// RPC that was called.
        rpc: &'static str,
        /// Code of the protocol, such as 40402.
        code: i32,
        /// Text of the server.
        message: String,
    },
    /// The server's bytes are not what the protocol says.
    #[error("{rpc}: {what}")]
    Protocol {
        /// RPC that was called.
        rpc: &'static str,
        /// What is wrong with the answer.
        what: String,
    },
    /// A file of a process or of the comparison could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Path tried.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Nothing moved for too long.
    #[error("{load}: stalled at {done} of {wanted}; last error: {last}")]
    Stalled {
        /// Name of the load.
        load: &'static str,
        /// Units done.
        done: u64,
        /// Units wanted.
        wanted: u64,
        /// Last error seen by a worker, or `none`.
        last: String,
    },
    /// A setting out of its range.
    #[error("{name} is {value}, must be {limit}")]
    Setting {
        /// Name of the option.
        name: &'static str,
        /// Value given.
        value: String,
        /// Range allowed.
        limit: &'static str,
    },
    /// A server or a script of the comparison did not do its part.
    #[error("{what}")]
    Server {
        /// Which, and what it said.
        what: String,
    },
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, BenchError>;
