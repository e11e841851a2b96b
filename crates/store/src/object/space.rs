//! Giving up periods: what is in one that has ended, and of which nothing can be read any more, goes as a whole.
//!
//! A period that has ended takes no new messages, because the shard's time never decreases. So what was found dead stays
//! dead, whoever finds it; nothing has to be written down.

use super::head::Head;
use super::keys;
use super::period::Period;
use super::state::State;
use bytes::Bytes;
use martlet_model::QueueId;
use slatedb::compactor::{
    CompactionScheduler, CompactionSchedulerSupplier, CompactionSpec, CompactorStateView,
    SizeTieredCompactionSchedulerSupplier, SourceId,
};
use slatedb::config::{CompactorOptions, DurabilityLevel, ReadOptions, ScanOptions};
use slatedb::{Db, Error};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Trees that may be given up.
pub type Dead = Arc<Mutex<BTreeSet<Bytes>>>;

fn lock(dead: &Dead) -> MutexGuard<'_, BTreeSet<Bytes>> {
    dead.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives up what is dead; merges the rest by size, each tree for itself.
pub struct Scheduling {
    pub dead: Dead,
}

impl CompactionSchedulerSupplier for Scheduling {
    fn compaction_scheduler(&self, options: &CompactorOptions) -> Box<dyn CompactionScheduler + Send + Sync> {
        let tiers = SizeTieredCompactionSchedulerSupplier::new().compaction_scheduler(options);
        Box::new(Scheduler { dead: self.dead.clone(), tiers })
    }
}

struct Scheduler {
    dead: Dead,
    tiers: Box<dyn CompactionScheduler + Send + Sync>,
}

impl CompactionScheduler for Scheduler {
    fn propose(&self, state: &CompactorStateView) -> Vec<CompactionSpec> {
        let active: BTreeSet<&Bytes> = state
            .compactions()
            .into_iter()
            .flat_map(|all| all.recent_compactions())
            .filter(|compaction| compaction.active())
            .map(|compaction| compaction.spec().segment())
            .collect();
        let dead = lock(&self.dead);
        let mut specs = Vec::new();
        for tree in state.manifest().segments() {
            let tables = tree.l0().iter().map(|view| SourceId::SstView(view.id));
            let sources: Vec<SourceId> =
                tables.chain(tree.compacted().iter().map(|run| SourceId::SortedRun(run.id))).collect();
            if dead.contains(tree.prefix()) && !sources.is_empty() && !active.contains(tree.prefix()) {
                specs.push(CompactionSpec::drain_segment(tree.prefix().clone(), sources));
            }
        }
        // What is given up must not be merged at the same time; the next round has time for that.
        if specs.is_empty() { self.tiers.propose(state) } else { specs }
    }
}

/// Looks now and then which periods have ended and are dead.
pub async fn look_after(db: Db, dead: Dead, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        // The next round tries again; a database that has ended ends this task with the store.
        if let Ok(found) = look(&db, &dead).await {
            lock(&dead).extend(found);
        }
    }
}

/// Periods that have ended and have nothing to read, as far as is durable: a trim that may yet be lost frees nothing.
pub async fn look(db: &Db, known: &Dead) -> Result<Vec<Bytes>, Error> {
    let durable = ReadOptions::default().with_durability_filter(DurabilityLevel::Remote);
    let state = db.get_with_options(keys::state(), &durable).await?;
    let Some(state) = state.as_deref().and_then(State::decode) else { return Ok(Vec::new()) };
    let trees = db.status().list_segments();
    let mut found = Vec::new();
    {
        // Those that are gone need not be remembered.
        let there: BTreeSet<&Bytes> = trees.iter().map(|tree| &tree.prefix).collect();
        lock(known).retain(|tree| there.contains(tree));
    }
    for tree in &trees {
        let Some(period) = keys::of_period(&tree.prefix) else { continue };
        let looked_at = lock(known).contains(&tree.prefix);
        if !looked_at && period.end() <= state.time && is_dead(db, period, &durable).await? {
            found.push(tree.prefix.clone());
        }
    }
    Ok(found)
}

/// Goes from queue to queue, and stops at the first that can be read.
async fn is_dead(db: &Db, period: Period, durable: &ReadOptions) -> Result<bool, Error> {
    let options = ScanOptions::default().with_durability_filter(DurabilityLevel::Remote);
    let mut queue = QueueId(0);
    loop {
        let mut rows = db.scan_with_options(keys::messages_from(period, queue), &options).await?;
        let Some(row) = rows.next().await? else { return Ok(true) };
        let Some((of, _)) = keys::of_message(&row.key) else { return Ok(false) };
        match db.get_with_options(keys::head(of), durable).await? {
            Some(head) if !Head::decode(&head).is_ok_and(|head| !head.lives_in(period)) => return Ok(false),
            _ => {}
        }
        let Some(next) = of.0.checked_add(1) else { return Ok(true) };
        queue = QueueId(next);
    }
}
