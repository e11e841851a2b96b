//! `floor`: the least a server can cost. See the library's `floor` modules for what it is and how it is run.

use std::net::TcpListener;
use std::time::Duration;

use clap::Parser;

#[derive(Parser)]
#[command(about = "A bare server that reads and answers OK, over gRPC, HTTP or TCP: the yardstick below every broker")]
struct Arguments {
    /// Address to serve on.
    #[arg(long, default_value = "127.0.0.1:8081")]
    listen: String,
    /// Current-thread runtimes, one thread each.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The floor of publishes over HTTP instead.
    #[arg(long)]
    http: bool,
    /// The floor of TCP clients (remoting) instead.
    #[arg(long, conflicts_with = "http")]
    tcp: bool,
    /// With --http or --tcp: milliseconds before each answer, as a server spends that waits for a disk.
    #[arg(long, default_value_t = 0)]
    after: u64,
    /// Body of the messages handed to polls, in bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(&arguments.listen)?;
    println!("floor on {} with {} threads", listener.local_addr()?, arguments.threads);
    let Arguments { threads, http, tcp, size, .. } = arguments;
    let after = Duration::from_millis(arguments.after);
    match (http, tcp) {
        (true, _) => martlet_bench::floor_http::serve(listener, threads, after)?,
        (_, true) => martlet_bench::floor_tcp::serve(listener, threads, size, after)?,
        _ if after.is_zero() => martlet_bench::floor::serve(listener, threads, size)?,
        _ => return Err("--after needs --http or --tcp".into()),
    }
    Ok(())
}
