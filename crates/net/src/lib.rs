//! What listeners of every protocol need before they speak it.
//!
//! - [`listener`]: from an accepted socket to a connection: TLS, plaintext and PROXY protocol on one port.
//! - [`workers`]: threads that accept connections and serve them.
//! - [`budget`]: bytes that all connections share.
//! - [`latency`]: how long calls take.
//! - [`gzip`]: compressed bodies in the wrapping that clients can read.
//! - [`complaints`]: log lines about peers, not more than a log can bear.

pub mod budget;
pub mod complaints;
pub mod gzip;
pub mod latency;
pub mod listener;
pub mod proxy;
pub mod sniff;
pub mod stream;
pub mod tls;
pub mod workers;
