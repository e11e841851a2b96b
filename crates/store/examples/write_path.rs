//! Cost of the write path: messages of 1 KiB with two terms each, committed in batches as they come when the one before
//! is durable. Prints messages per second, CPU per message, and bytes handed to write() per message byte.
//!
//! `cargo run --release -p martlet-store --example write_path -- FOLDER [MESSAGES] [BATCH]`
#![allow(missing_docs)]

use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use martlet_store::conformance::block_on;
use martlet_store::local::{LocalStore, Options};
use martlet_store::{Batch, Op, Reader, Store, Term};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// CPU seconds and bytes handed to write() of this process so far.
fn used() -> (f64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok()).unwrap_or(0);
    (ticks as f64 / 100.0, written)
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM")).collect::<Vec<_>>().join(" ")
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("folder expected")?;
    let messages: u64 = arguments.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let size: u64 = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let main = std::thread::current();
    let started = Instant::now();
    let (mut store, report) = LocalStore::open(Options::new(folder.into(), [7; 16], Arc::new(move || main.unpark())))?;
    println!("opened in {:?}: {report:?}; {}", started.elapsed(), resident());
    let record = Bytes::from(vec![b'x'; 1024]);
    let bounds = block_on(store.reader().bounds(QueueId(1)))?;
    let first = bounds.map_or(0, |bounds| bounds.end.0);
    let (cpu, written) = used();
    let started = Instant::now();
    let mut offset = first;
    let mut slowest = Duration::ZERO;
    while offset < first + messages {
        let ops = (offset..offset + size).map(|offset| Op::Append {
            queue: QueueId(1),
            offset: QueueOffset(offset),
            record: record.clone(),
            terms: vec![Term(mix(offset * 2)), Term(mix(offset * 2 + 1))],
            keep_until: UnixMillis(72 * 3_600_000),
        });
        let handed = Instant::now();
        let ticket = store.commit(Batch { time: UnixMillis(offset as i64 / 20), ops: ops.collect() });
        while store.progress().durable < ticket {
            if let Some(failure) = store.progress().failed {
                return Err(failure.to_string().into());
            }
            std::thread::park_timeout(Duration::from_secs(1));
        }
        slowest = slowest.max(handed.elapsed());
        offset += size;
    }
    let time = started.elapsed();
    let count = (offset - first).max(1) as f64;
    println!("{count} messages in {time:?}: {:.0}/s, slowest batch {slowest:?}", count / time.as_secs_f64());
    for wait in [0, 3] {
        std::thread::sleep(Duration::from_secs(wait));
        let (cpu_after, written_after) = used();
        println!(
            "after {wait} s of rest: {:.2} us CPU each, {:.3} bytes written per byte; {}",
            (cpu_after - cpu) * 1e6 / count,
            (written_after - written) as f64 / count / 1024.0,
            resident(),
        );
    }
    println!("{:?}", store.usage());
    store.reader().take_notices().iter().for_each(|notice| println!("{notice:?}"));
    store.close();
    Ok(())
}

fn mix(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
