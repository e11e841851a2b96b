//! Loads of TCP clients, and their options on the command line. The endpoint is the name server's; topics must exist.

pub mod idle;
pub mod latency;
pub mod pull;
pub mod send;

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::error::Result;
use crate::load::Target;
use crate::report::Report;
use crate::template::{Dress, Spread};

/// The server under load.
#[derive(Args, Clone, Debug)]
pub struct Server {
    /// Name server, HOST:PORT, plain text; the route says where the broker is.
    #[arg(long, default_value = "127.0.0.1:9876")]
    endpoint: String,
    /// Topic, which must exist.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Process of the server, for CPU, memory and writes; several are summed.
    #[arg(long = "pid")]
    pids: Vec<u32>,
}

impl Server {
    fn target(self) -> Target {
        let Self { endpoint, topic, pids } = self;
        Target { endpoint, topic, spread: Spread::None, dress: Dress::default(), v1: false, pids }
    }
}

/// Which load.
#[derive(Subcommand, Clone, Debug)]
pub enum Load {
    /// Closed loop: each sender waits for its answer. Capacity.
    Send {
        /// Server.
        #[command(flatten)]
        server: Server,
        /// Senders, dealt out to the connections.
        #[arg(long, default_value_t = 32)]
        senders: usize,
        /// Connections, each a client of its own.
        #[arg(long, default_value_t = 8)]
        connections: usize,
        /// Messages in a frame; more than one go as a batch.
        #[arg(long, default_value_t = 1)]
        batch: usize,
        /// Body in bytes, 16 to 4 MiB.
        #[arg(long, default_value_t = 1024)]
        size: usize,
        /// Seconds before measuring.
        #[arg(long, default_value_t = 2.0)]
        warm: f64,
        /// Seconds measured.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// Stop after this many messages, whole batches, instead of after a time: to fill a topic.
        #[arg(long)]
        count: Option<u64>,
    },
    /// Pull a filled topic from its first message on, as push consumers do: up to 32 messages at a time.
    Pull {
        /// Server.
        #[command(flatten)]
        server: Server,
        /// Consumer group, fresh.
        #[arg(long, default_value = "bench-pull")]
        group: String,
        /// Messages to pull.
        #[arg(long, default_value_t = 300_000)]
        count: u64,
        /// Connections, each a client with its share of the queues.
        #[arg(long, default_value_t = 4)]
        connections: usize,
        /// Pulls do not commit what was pulled before, as those of lite pull consumers.
        #[arg(long)]
        no_commits: bool,
    },
    /// Send to received at a fixed rate, with a pull that waits on each queue.
    Latency {
        /// Server.
        #[command(flatten)]
        server: Server,
        /// Consumer group.
        #[arg(long, default_value = "bench-latency")]
        group: String,
        /// Sends a second.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// Body in bytes.
        #[arg(long, default_value_t = 1024)]
        size: usize,
        /// Seconds before measuring.
        #[arg(long, default_value_t = 2.0)]
        warm: f64,
        /// Seconds measured.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Connections that only send heartbeats, each every 30 s: the server's memory and share of a core.
    Idle {
        /// Server.
        #[command(flatten)]
        server: Server,
        /// Connections, each a client of its own.
        #[arg(long, default_value_t = 10_000)]
        connections: usize,
        /// Seconds measured, after all are connected.
        #[arg(long, default_value_t = 60.0)]
        seconds: f64,
    },
}

impl Load {
    /// Runs it.
    pub fn run(self) -> Result<Report> {
        let time = Duration::from_secs_f64;
        match self {
            Self::Send { server, senders, connections, batch, size, warm, seconds, count } => {
                let (warm, measure) = (time(warm), time(seconds));
                let sends = send::Sends { senders, connections, batch, size, warm, measure };
                match count {
                    Some(count) => send::fill(&server.target(), &sends, count),
                    None => send::closed(&server.target(), &sends),
                }
            }
            Self::Pull { server, group, count, connections, no_commits } => {
                pull::drain(&server.target(), &pull::Pulling { group, count, connections, commits: !no_commits })
            }
            Self::Latency { server, group, rate, size, warm, seconds } => {
                let (warm, measure) = (time(warm), time(seconds));
                latency::run(&server.target(), &latency::Latency { group, rate, size, warm, measure })
            }
            Self::Idle { server, connections, seconds } => idle::run(&server.target(), connections, time(seconds)),
        }
    }
}
