//! `martlet-s3-server`: a bucket on this machine, until it is killed.

use clap::Parser;
use martlet_s3_server::{BUCKET, KEY, Options, Protocol, SECRET, Server};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Serves the S3 protocol from a folder, for demonstrations and benchmarks.
#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Where the objects are.
    #[arg(long)]
    folder: PathBuf,
    /// Milliseconds by which the answer to a PUT is late.
    #[arg(long, default_value_t = 0)]
    put_delay_ms: u64,
}

fn main() -> std::io::Result<()> {
    let Arguments { listen, folder, put_delay_ms } = Arguments::parse();
    let put_delay = Duration::from_millis(put_delay_ms);
    let server = Server::start_with(Options { protocol: Protocol::S3, listen, folder, put_delay })?;
    println!("Bucket {BUCKET} at {}, access key id {KEY:?}, secret {SECRET:?}", server.endpoint());
    loop {
        std::thread::park();
    }
}
