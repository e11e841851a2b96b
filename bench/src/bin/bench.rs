//! `bench`: loads for any broker that speaks RocketMQ's gRPC v2, and for its other protocols; the comparison. See `bench/README.md`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Parser, Subcommand};
use martlet_bench::compare;
use martlet_bench::error::Result;
use martlet_bench::load::delay::{self, Delay};
use martlet_bench::load::filter::{self, Filtering};
use martlet_bench::load::http::{self, Publishes};
use martlet_bench::load::latency::{self, Latency};
use martlet_bench::load::lite::{self, Lite};
use martlet_bench::load::polls::{self, Polls};
use martlet_bench::load::receive::{self, Acks, Receives};
use martlet_bench::load::send::{self, Sends};
use martlet_bench::load::{Target, idle, slots, tcp};
use martlet_bench::report::Report;
use martlet_bench::sql;
use martlet_bench::template::{Dress, Spread};

#[derive(Parser)]
#[command(about = "Load generator for RocketMQ gRPC v2 endpoints")]
struct Arguments {
    /// One line of JSON instead of a table.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Server {
    /// Server, HOST:PORT, plain text.
    #[arg(long, default_value = "127.0.0.1:8081")]
    endpoint: String,
    /// Topic; created by the first send where the server creates topics by itself.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// Spread sends over so many message groups, for topics of type fifo.
    #[arg(long, default_value_t = 0)]
    message_groups: u32,
    /// Spread the sends of each producer over so many lite topics of its own, for topics of type lite.
    #[arg(long, default_value_t = 0, conflicts_with = "message_groups")]
    lite_topics: u32,
    /// Tag of what is sent.
    #[arg(long, default_value = "bench")]
    tag: String,
    /// User property of what is sent, KEY=VALUE; may be given several times.
    #[arg(long = "property", value_parser = property)]
    properties: Vec<(String, String)>,
    /// What is sent is due so many seconds after the load began, for topics of type delay.
    #[arg(long, conflicts_with_all = ["message_groups", "lite_topics"])]
    deliver_after: Option<u64>,
    /// Send by gRPC v1 instead of v2.
    #[arg(long, conflicts_with_all = ["message_groups", "lite_topics", "deliver_after"])]
    v1: bool,
    /// Process of the server, for CPU, memory and writes; several are summed.
    #[arg(long = "pid")]
    pids: Vec<u32>,
}

fn property(text: &str) -> std::result::Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("not of the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Server {
    fn target(self) -> Target {
        let Self { endpoint, topic, message_groups, lite_topics, tag, properties, deliver_after, v1, pids } = self;
        let deliver_at = deliver_after.map(|seconds| SystemTime::now() + Duration::from_secs(seconds));
        let spread = match (message_groups, lite_topics) {
            (0, 0) => Spread::None,
            (0, lite_topics) => Spread::LiteTopics(lite_topics),
            (message_groups, _) => Spread::MessageGroups(message_groups),
        };
        Target { endpoint, topic, spread, dress: Dress { tag, properties, deliver_at }, v1, pids }
    }
}

#[derive(Args)]
struct Shape {
    /// Connections, each a client of its own.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Body in bytes, 16 to 4 MiB.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Seconds before measuring.
    #[arg(long, default_value_t = 2.0)]
    warm: f64,
    /// Seconds measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

impl Shape {
    fn sends(&self, senders: usize) -> Sends {
        Sends {
            senders,
            connections: self.connections,
            threads: self.threads,
            size: self.size,
            warm: Duration::from_secs_f64(self.warm),
            measure: Duration::from_secs_f64(self.seconds),
        }
    }
}

#[derive(Subcommand)]
enum Command {
    /// Closed loop: each sender waits for its answer. Capacity.
    Send {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        shape: Shape,
        /// Senders.
        #[arg(long, default_value_t = 32)]
        senders: usize,
        /// Open loop at this rate instead: latency from the intended start.
        #[arg(long)]
        rate: Option<u32>,
        /// Stop after this many messages instead of after a time: to fill a topic.
        #[arg(long, conflicts_with = "rate")]
        count: Option<u64>,
    },
    /// Closed loop of publishes over the HTTP SDK protocol: one at a time on each connection.
    Http {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        shape: Shape,
        /// Access key that signs, with --secret.
        #[arg(long, requires = "secret")]
        key: Option<String>,
        /// Its secret.
        #[arg(long, requires = "key")]
        secret: Option<String>,
    },
    /// Loads of TCP clients (remoting): sends, batches, pulls, send to received, connections at rest.
    #[command(subcommand)]
    Tcp(tcp::Load),
    /// Receive and acknowledge messages that are in the topic.
    Receive {
        #[command(flatten)]
        server: Server,
        /// Consumer group.
        #[arg(long, default_value = "bench-group")]
        group: String,
        /// Messages to receive.
        #[arg(long, default_value_t = 60_000)]
        count: u64,
        /// Polls at the same time.
        #[arg(long, default_value_t = 8)]
        pollers: usize,
        /// Connections they are spread over.
        #[arg(long, default_value_t = 4)]
        connections: usize,
        /// Acks: all of a batch in one request, one by one, or none (slots stay open).
        #[arg(long, value_enum, default_value_t = Acks::Batch)]
        acks: Acks,
    },
    /// Send to received at a fixed rate, with a consumer that waits.
    Latency {
        #[command(flatten)]
        server: Server,
        #[command(flatten)]
        shape: Shape,
        /// Consumer group.
        #[arg(long, default_value = "bench-latency")]
        group: String,
        /// Sends a second.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// Polls that wait.
        #[arg(long, default_value_t = 4)]
        pollers: usize,
    },
    /// A group whose filter matches next to nothing of a filled topic, and the latency of another topic beside it.
    Filter {
        #[command(flatten)]
        server: Server,
        /// Messages in the topic before, made by `send --count`; none of them matches.
        #[arg(long, default_value_t = 1_000_000)]
        count: u64,
        /// Messages sent behind them that match: with the tag `needle` and the property `needle` = 1.
        #[arg(long, default_value_t = 1)]
        needles: u64,
        /// Tag expression, or an SQL92 condition with --sql.
        #[arg(long, default_value = "needle")]
        expression: String,
        /// The expression is an SQL92 condition.
        #[arg(long)]
        sql: bool,
        /// Times a fresh group skips all of it.
        #[arg(long, default_value_t = 5)]
        rounds: u32,
        /// Sends a second to the other topic.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// Seconds of these before the first group.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Messages that are all due at the same moment: from then until they are received. The server may be restarted between.
    Delay {
        #[command(flatten)]
        server: Server,
        /// Consumer group, fresh.
        #[arg(long, default_value = "bench-delay")]
        group: String,
        /// Messages.
        #[arg(long, default_value_t = 100_000)]
        count: u64,
        /// Seconds from now until they are due; the consumer connects three seconds before.
        #[arg(long, default_value_t = 20)]
        ahead: u64,
        /// Body in bytes.
        #[arg(long, default_value_t = 128)]
        size: usize,
        /// Senders.
        #[arg(long, default_value_t = 256)]
        senders: usize,
    },
    /// Evaluations of an SQL92 condition a second, without a server.
    Sql {
        /// The condition; about the properties that `bench/java/SqlFilter.java` says.
        #[arg(long, default_value = sql::EXPRESSION)]
        expression: String,
        /// Seconds.
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Clients that subscribe to lite topics made by `send --lite-topics`: attaching, rest, and send to received.
    Lite {
        #[command(flatten)]
        server: Server,
        /// Consumer group: lite-selective, of the topic.
        #[arg(long, default_value = "bench-lite")]
        group: String,
        /// Clients, each with an equal share of the lite topics.
        #[arg(long, default_value_t = 500)]
        clients: u32,
        /// Lite topics.
        #[arg(long, default_value_t = 1_000_000)]
        topics: u32,
        /// Sends a second after the rest; 0: none.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// Body in bytes.
        #[arg(long, default_value_t = 128)]
        size: usize,
        /// Seconds in which nothing is sent.
        #[arg(long, default_value_t = 60.0)]
        rest: f64,
        /// Seconds of sends.
        #[arg(long, default_value_t = 15.0)]
        seconds: f64,
    },
    /// Many polls that could each be handed large messages: memory.
    Polls {
        #[command(flatten)]
        server: Server,
        /// Consumer group, fresh.
        #[arg(long, default_value = "bench-polls")]
        group: String,
        /// Polls at once.
        #[arg(long, default_value_t = 1000)]
        polls: usize,
        /// Connections they are spread over.
        #[arg(long, default_value_t = 20)]
        connections: usize,
        /// Body in bytes; the protocol's limit is 4,194,304.
        #[arg(long, default_value_t = 4 << 20)]
        size: usize,
        /// Messages in the topic.
        #[arg(long, default_value_t = 200)]
        count: u64,
        /// Seconds in which nothing is read.
        #[arg(long, default_value_t = 5.0)]
        hold: f64,
    },
    /// Messages handed out and never acknowledged: their memory, and the speed beside them.
    Slots {
        #[command(flatten)]
        server: Server,
        /// Consumer group, fresh.
        #[arg(long, default_value = "bench-slots")]
        group: String,
        /// Slots left open.
        #[arg(long, default_value_t = 170_000)]
        count: u64,
    },
    /// CPU and memory of a server at rest.
    Idle {
        /// Process of the server; several are summed.
        #[arg(long = "pid", required = true)]
        pids: Vec<u32>,
        /// Seconds.
        #[arg(long, default_value_t = 30.0)]
        seconds: f64,
    },
    /// Time from the start of a command until it answers a QueryRoute; the process is ended afterwards.
    Ready {
        #[command(flatten)]
        server: Server,
        /// Where its output goes.
        #[arg(long, default_value = "bench-ready.log")]
        log: PathBuf,
        /// Program and arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// What fdatasync costs in a folder.
    Sync {
        /// Folder on the disk in question.
        #[arg(long, default_value = ".")]
        folder: PathBuf,
    },
    /// Starts the reference, the floor and Martlet, and runs the same loads on each. A Markdown table.
    Compare(compare::Options),
}

fn run(command: Command, json: bool) -> Result<Report> {
    match command {
        Command::Send { server, shape, senders, rate, count } => {
            let (target, sends) = (server.target(), shape.sends(senders));
            match (rate, count) {
                (Some(rate), _) => send::open(&target, &sends, rate),
                (None, Some(count)) => send::fill(&target, &sends, count),
                (None, None) => send::closed(&target, &sends),
            }
        }
        Command::Http { server, shape, key, secret } => {
            let Sends { connections, threads, size, warm, measure, .. } = shape.sends(1);
            let account = key.zip(secret);
            http::closed(&server.target(), &Publishes { connections, threads, size, account, warm, measure })
        }
        Command::Tcp(load) => load.run(),
        Command::Receive { server, group, count, pollers, connections, acks } => {
            receive::drain(&server.target(), &Receives { group, pollers, connections, count, acks })
        }
        Command::Latency { server, shape, group, rate, pollers } => {
            let sends = shape.sends(1);
            let latency = Latency { rate, size: sends.size, group, pollers, warm: sends.warm, measure: sends.measure };
            latency::run(&server.target(), &latency)
        }
        Command::Filter { server, count, needles, expression, sql, rounds, rate, seconds } => {
            let quiet = Duration::from_secs_f64(seconds);
            filter::run(&server.target(), &Filtering { count, needles, expression, sql, rounds, rate, quiet })
        }
        Command::Delay { server, group, count, ahead, size, senders } => {
            let ahead = Duration::from_secs(ahead);
            delay::run(&server.target(), &Delay { group, count, ahead, size, senders })
        }
        Command::Sql { expression, seconds } => sql::run(&expression, Duration::from_secs_f64(seconds)),
        Command::Lite { server, group, clients, topics, rate, size, rest, seconds } => {
            let (rest, measure) = (Duration::from_secs_f64(rest), Duration::from_secs_f64(seconds));
            lite::run(&server.target(), &Lite { group, clients, topics, rate, size, rest, measure })
        }
        Command::Polls { server, group, polls, connections, size, count, hold } => {
            let hold = Duration::from_secs_f64(hold);
            polls::run(&server.target(), &Polls { group, polls, connections, size, count, hold })
        }
        Command::Slots { server, group, count } => slots::run(&server.target(), &group, count),
        Command::Idle { pids, seconds } => idle::idle(&pids, Duration::from_secs_f64(seconds)),
        Command::Ready { server, log, command } => {
            let (mut child, report) = idle::ready(&command, &log, &server.target(), Duration::from_secs(120))?;
            // It may have ended by itself; there is nothing more to learn from it.
            drop(child.kill());
            drop(child.wait());
            Ok(report)
        }
        Command::Sync { folder } => idle::sync_cost(&folder),
        Command::Compare(options) => compare::run(&options, json),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let compares = matches!(arguments.command, Command::Compare(_));
    match run(arguments.command, arguments.json) {
        Ok(report) => {
            if !compares {
                report.print(arguments.json);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
