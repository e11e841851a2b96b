//! Load generator and side-by-side comparison for brokers that speak RocketMQ's gRPC v2.
//!
//! In: an endpoint and a load. Out: throughput, latency percentiles, CPU, memory and bytes written of the server, and the
//! generator's own CPU. Binaries: `bench` (the loads and `bench compare`) and `floor` (the least a gRPC server can cost).
//!
//! Rules
//! - The generator shares the machine with the server, so it is built to cost little: bare HTTP/2 on current-thread
//!   runtimes, request frames copied from a template, no task per message in closed loops.
//! - Closed loops measure capacity; latency is taken from open loops, from the moment a send was *meant* to start.
//! - Counters of time and work are read at the same instants, after a warm-up that is not counted.

pub mod client;
pub mod compare;
pub mod error;
pub mod floor;
pub mod load;
pub mod pace;
pub mod procfs;
pub mod report;
pub mod slim;
pub mod sql;
pub mod template;
pub mod wire;

/// The protocol's messages and the server side of its services, generated from `proto/`.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("apache.rocketmq.v2");
}
