//! The clock the database is given: wall time at the start, from then on steady, and never behind what it showed before.
//!
//! The database refuses writes when its clock has gone back since the last one, another process's included, and its
//! timers do not bear it. So a machine whose clock is an hour slow goes on from the last owner's time: what that was is
//! read off the names of tables and compactions, which hold it, and the end of the log, before the database is opened. It is
//! read again once the last owner is fenced; if it wrote meanwhile, and later than our clock shows, the database is opened anew.

use chrono::{DateTime, Utc};
use object_store::ObjectStore;
use object_store::path::Path;
use slatedb::admin::Admin;
use slatedb::{Error, WalReader};
use slatedb_common::{SystemClock, SystemClockTicker};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime};

const MARGIN_MILLIS: i64 = 2_000;
/// Objects at the end of the log that are looked into: those that fence an owner are empty.
const LOG_LOOKED_INTO: usize = 64;

#[derive(Debug)]
pub struct SteadyClock {
    start: Instant,
    /// Milliseconds since 1970 at the start.
    base: AtomicI64,
}

impl SteadyClock {
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self::start_at(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// A clock that shows `wall` now.
    pub fn start_at(wall: i64) -> Self {
        Self { start: Instant::now(), base: AtomicI64::new(wall) }
    }

    pub fn millis(&self) -> i64 {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.base.load(SeqCst).saturating_add(elapsed)
    }

    /// Goes on from a little after `shown` if it is not beyond that. A little: the owner before may still be writing, and its clock
    /// may be ahead of ours by less than we can see; tables that are older than its last would be refused.
    pub fn not_before(&self, shown: i64) {
        let behind = shown.saturating_add(MARGIN_MILLIS).saturating_sub(self.millis());
        if behind > 0 {
            self.base.fetch_add(behind, SeqCst);
        }
    }
}

impl SystemClock for SteadyClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.millis()).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    fn sleep<'a>(&'a self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(tokio::time::sleep(duration))
    }

    fn ticker<'a>(&'a self, duration: Duration) -> SystemClockTicker<'a> {
        SystemClockTicker::new(self, duration)
    }
}

/// The latest time of the database at this path that anything in it tells of; `None` if there is no database.
pub async fn last_shown(path: &Path, store: &Arc<dyn ObjectStore>) -> Result<Option<i64>, Error> {
    let admin = Admin::builder(path.clone(), store.clone()).build();
    if admin.read_manifest(None).await?.is_none() {
        return Ok(None);
    }
    let view = admin.read_compactor_state_view().await?;
    let manifest = view.manifest();
    let tables = manifest.all_sst_views().flat_map(|view| [view.id.timestamp_ms(), view.sst.id.value().timestamp_ms()]);
    let gone = manifest.segments().iter().filter_map(|tree| Some(tree.last_compacted_l0_sst_view_id()?.timestamp_ms()));
    let compactions = view.compactions().into_iter().flat_map(|all| all.recent_compactions());
    let compactions = compactions.map(|compaction| compaction.id().timestamp_ms());
    let latest = tables.chain(gone).chain(compactions).max().unwrap_or(0);
    let mut shown = manifest.last_l0_clock_tick().max(i64::try_from(latest).unwrap_or(i64::MAX));
    let log =
        WalReader::new(path.clone(), store.clone()).list(manifest.replay_after_wal_id().saturating_add(1)..).await?;
    for object in log.iter().rev().take(LOG_LOOKED_INTO) {
        let mut rows = object.iterator().await?;
        let mut last = None;
        while let Some(row) = rows.next().await? {
            last = row.create_ts.max(last);
        }
        if let Some(last) = last {
            shown = shown.max(last);
            break;
        }
    }
    Ok(Some(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_hardly_ahead_of_the_last_owner_s_is_set_ahead() {
        let clock = SteadyClock::start_at(1_000_000);
        clock.not_before(999_990);
        assert!(clock.millis() >= 999_990 + MARGIN_MILLIS, "its owner may show some milliseconds more by now");
        let clock = SteadyClock::start_at(1_000_000);
        clock.not_before(1_000_000 - MARGIN_MILLIS - 1);
        assert!(clock.millis() < 1_000_000 + MARGIN_MILLIS, "what is ahead by far is left alone");
    }
}
