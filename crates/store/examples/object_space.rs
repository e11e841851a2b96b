//! Three ways to give space back in an object store, side by side: what is written and what lies in the bucket while
//! messages come for 72 simulated hours and are kept for 24.
//!
//! Keys of queue and offset, with (a) a compaction filter that drops what was trimmed, (b) a time to live per message;
//! (c) keys that begin with the period in which the message expires, a tree of its own for each period, dropped as a whole.
//! The bucket is memory; times are scaled down, sizes too: 2 MiB of messages an hour into level-0 tables of 256 KiB.
//!
//! `cargo run -p martlet-store --example object_space -- [filter|ttl|period]...`
#![allow(missing_docs)]

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use martlet_bucket::{Class, Meter};
use martlet_store::conformance::Random;
use object_store::memory::InMemory;
use slatedb::compactor::{
    CompactionScheduler, CompactionSchedulerSupplier, CompactionSpec, CompactorBuilder, CompactorStateView,
    SizeTieredCompactionSchedulerSupplier, SourceId,
};
use slatedb::config::{CompactionWorkerOptions, CompactorOptions, FlushOptions, FlushType, PutOptions, Settings, Ttl};
use slatedb::{
    CompactionFilter, CompactionFilterDecision, CompactionFilterError, CompactionFilterSupplier, CompactionJobContext,
    Db, PrefixExtractor, PrefixTarget, RowEntry, WriteBatch,
};
use slatedb_common::{SystemClock, SystemClockTicker};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

type Failure = Box<dyn std::error::Error>;

const HOURS: u64 = 72;
const KEPT: u64 = 24;
const QUEUES: u64 = 16;
const MESSAGE: usize = 1024;
const PER_HOUR: u64 = (2 << 20) / MESSAGE as u64 / QUEUES * QUEUES;
/// Hours that share a tree in (c): a twelfth of what is kept.
const PERIOD: u64 = 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Filter,
    Ttl,
    Period,
}

/// The wall clock, moved on by hand.
#[derive(Debug, Default)]
struct Clock(AtomicI64);

impl SystemClock for Clock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_800_000_000_000 + self.0.load(Relaxed)).unwrap_or_default()
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

/// First offset that is kept, the same in all queues here.
#[derive(Clone, Default)]
struct Trimmed(Arc<AtomicU64>);

#[async_trait]
impl CompactionFilter for Trimmed {
    async fn filter(&mut self, entry: &RowEntry) -> Result<CompactionFilterDecision, CompactionFilterError> {
        let offset = entry.key.last_chunk().map_or(u64::MAX, |bytes| u64::from_be_bytes(*bytes));
        let dead = offset < self.0.load(Relaxed);
        Ok(if dead { CompactionFilterDecision::Drop } else { CompactionFilterDecision::Keep })
    }

    async fn on_compaction_end(&mut self) -> Result<(), CompactionFilterError> {
        Ok(())
    }
}

#[async_trait]
impl CompactionFilterSupplier for Trimmed {
    async fn create_compaction_filter(
        &self,
        _: &CompactionJobContext,
    ) -> Result<Box<dyn CompactionFilter>, CompactionFilterError> {
        Ok(Box::new(self.clone()))
    }
}

struct Periods;

impl PrefixExtractor for Periods {
    fn name(&self) -> &str {
        "period"
    }

    fn prefix_len(&self, target: &PrefixTarget) -> Option<usize> {
        let (PrefixTarget::Point(bytes) | PrefixTarget::Prefix(bytes)) = target;
        (bytes.len() >= 8).then_some(8)
    }
}

/// Size-tiered within a period; a period before `dead` goes as a whole.
struct Dropping {
    dead: Arc<AtomicU64>,
    tiers: Box<dyn CompactionScheduler + Send + Sync>,
}

impl CompactionScheduler for Dropping {
    fn propose(&self, state: &CompactorStateView) -> Vec<CompactionSpec> {
        let busy: Vec<&Bytes> = state
            .compactions()
            .into_iter()
            .flat_map(|all| all.recent_compactions())
            .filter(|compaction| compaction.active())
            .map(|compaction| compaction.spec().segment())
            .collect();
        let mut specs = Vec::new();
        for segment in state.manifest().segments() {
            let dead = segment.prefix().first_chunk().is_some_and(|b| u64::from_be_bytes(*b) < self.dead.load(Relaxed));
            let sources: Vec<SourceId> = segment.l0().iter().map(|view| SourceId::SstView(view.id)).collect();
            let runs = segment.compacted().iter().map(|run| SourceId::SortedRun(run.id));
            let sources: Vec<SourceId> = sources.into_iter().chain(runs).collect();
            if dead && !sources.is_empty() && !busy.contains(&segment.prefix()) {
                specs.push(CompactionSpec::drain_segment(segment.prefix().clone(), sources));
            }
        }
        if specs.is_empty() { self.tiers.propose(state) } else { specs }
    }
}

struct DroppingSupplier(Arc<AtomicU64>);

impl CompactionSchedulerSupplier for DroppingSupplier {
    fn compaction_scheduler(&self, options: &CompactorOptions) -> Box<dyn CompactionScheduler + Send + Sync> {
        let tiers = SizeTieredCompactionSchedulerSupplier::new().compaction_scheduler(options);
        Box::new(Dropping { dead: self.0.clone(), tiers })
    }
}

fn settings() -> Settings {
    Settings {
        flush_interval: Some(Duration::from_millis(5)),
        manifest_poll_interval: Duration::from_millis(20),
        l0_sst_size_bytes: 256 << 10,
        max_unflushed_bytes: 64 << 20,
        l0_max_ssts: 64,
        l0_max_ssts_per_key: 16,
        compactor_options: None,
        garbage_collector_options: None,
        ..Settings::default()
    }
}

fn compactor() -> CompactorOptions {
    CompactorOptions {
        poll_interval: Duration::from_millis(20),
        commit_compacted_interval: Duration::from_millis(10),
        worker: Some(CompactionWorkerOptions {
            compactions_poll_interval: Duration::from_millis(10),
            max_sst_size: 4 << 20,
            ..CompactionWorkerOptions::default()
        }),
        ..CompactorOptions::default()
    }
}

/// Bytes of tables the manifest names.
fn referenced(db: &Db) -> (u64, usize) {
    let manifest = db.manifest();
    let tables: Vec<u64> = manifest.all_sst_views().map(|view| view.estimate_size()).collect();
    (tables.iter().sum(), tables.len())
}

fn key(way: Way, hour: u64, queue: u64, offset: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(24);
    if way == Way::Period {
        key.extend_from_slice(&((hour + KEPT) / PERIOD).to_be_bytes());
    }
    key.extend_from_slice(&queue.to_be_bytes());
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

async fn run(way: Way) -> Result<(), Failure> {
    let (meter, clock, trimmed, dead) =
        (Meter::default(), Arc::new(Clock::default()), Trimmed::default(), Arc::new(AtomicU64::new(0)));
    let memory: Arc<dyn object_store::ObjectStore> = Arc::new(InMemory::new());
    let bucket = meter.measure(memory.clone());
    let mut compactor = CompactorBuilder::new("shard", meter.measure_compaction(memory)).with_options(compactor());
    compactor = compactor.with_system_clock(clock.clone());
    match way {
        Way::Filter => compactor = compactor.with_compaction_filter_supplier(Arc::new(trimmed.clone())),
        Way::Ttl => {}
        Way::Period => compactor = compactor.with_scheduler_supplier(Arc::new(DroppingSupplier(dead.clone()))),
    }
    let mut builder = Db::builder("shard", bucket).with_settings(settings()).with_compactor_builder(compactor);
    builder = builder.with_system_clock(clock.clone());
    if way == Way::Period {
        builder = builder.with_segment_extractor(Arc::new(Periods));
    }
    let db = builder.build().await?;
    let mut random = Random::new(1);
    let mut largest = 0.0f64;
    for hour in 0..HOURS {
        clock.0.store((hour * 3_600_000) as i64, Relaxed);
        let first = hour * PER_HOUR / QUEUES;
        for offset in first..first + PER_HOUR / QUEUES {
            let mut batch = WriteBatch::new();
            for queue in 0..QUEUES {
                let record: Vec<u8> = (0..MESSAGE / 8).flat_map(|_| random.any().to_le_bytes()).collect();
                let ttl = match way {
                    Way::Ttl => Ttl::ExpireAfterMillis(KEPT * 3_600_000),
                    _ => Ttl::NoExpiry,
                };
                batch.put_with_options(key(way, hour, queue, offset), record, &PutOptions { ttl });
            }
            db.write(batch).await?;
        }
        trimmed.0.store((hour + 1).saturating_sub(KEPT) * PER_HOUR / QUEUES, Relaxed);
        dead.store(hour / PERIOD, Relaxed);
        db.flush_with_options(FlushOptions { flush_type: FlushType::MemTable }).await?;
        // Compaction has as much time as it needs: in life an hour is long.
        let mut still = 0;
        let mut before = (referenced(&db), meter.counts(Class::Compaction));
        while still < 5 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            let now = (referenced(&db), meter.counts(Class::Compaction));
            still = if now == before { still + 1 } else { 0 };
            before = now;
        }
        let live = (hour + 1).min(KEPT) * PER_HOUR * MESSAGE as u64;
        let ratio = before.0.0 as f64 / live as f64;
        if hour >= KEPT {
            largest = largest.max(ratio);
        }
        if hour % 12 == 11 {
            println!(
                "{way:?} hour {:2}: live {:3} MiB, tables {:3} MiB in {:3} ({ratio:.2} of live)",
                hour + 1,
                live >> 20,
                before.0.0 >> 20,
                before.0.1
            );
        }
    }
    let messages = (HOURS * PER_HOUR * MESSAGE as u64) as f64;
    let of = |class| meter.counts(class).bytes_sent as f64 / messages;
    println!(
        "{way:?}: written per message byte {:.2} (log {:.2}, level 0 {:.2}, compaction {:.2}); tables at most {largest:.2} of live; read by compaction {:.2}",
        meter.bytes_sent() as f64 / messages,
        of(Class::Wal),
        of(Class::Table),
        of(Class::Compaction),
        meter.counts(Class::Compaction).bytes_received as f64 / messages,
    );
    db.close().await?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let ways = [("filter", Way::Filter), ("ttl", Way::Ttl), ("period", Way::Period)];
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    for (name, way) in ways {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            runtime.block_on(run(way))?;
        }
    }
    Ok(())
}
