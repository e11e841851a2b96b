//! `floor`: the least a gRPC server can cost. See the library's `floor` module for what it is and how it is run.

use std::net::TcpListener;
use std::time::Duration;

use clap::Parser;

#[derive(Parser)]
#[command(about = "A bare server that reads and answers OK, over gRPC or HTTP: the yardstick below every broker")]
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
    /// With --http: milliseconds before each answer, as a server spends that waits for a disk.
    #[arg(long, default_value_t = 0, requires = "http")]
    after: u64,
    /// Body of the messages handed to polls, in bytes.
    #[arg(long, default_value_t = 1024)]
    size: usize,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let listener = TcpListener::bind(&arguments.listen)?;
    println!("floor on {} with {} threads", listener.local_addr()?, arguments.threads);
    match arguments.http {
        true => martlet_bench::floor_http::serve(listener, arguments.threads, Duration::from_millis(arguments.after))?,
        false => martlet_bench::floor::serve(listener, arguments.threads, arguments.size)?,
    }
    Ok(())
}
