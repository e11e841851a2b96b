//! The loop around a shard: commands in, one batch out, replies once the batch they rest on is durable.
//!
//! The caller owns the thread and the clock. One turn: look how far durability came and release what waited for it,
//! apply the commands that have arrived, do what is due, hand the store the batch if it is ready for one.

use crate::answer::{LiteNotice, Output, TransactionCheck};
use crate::command::Command;
use crate::load::{Load, LoadId};
use crate::shard::{OpenError, Shard, ShardOptions, When, Work};
use martlet_model::{Histogram, HistogramFigures, UnixMillis};
use martlet_store::{Batch, Op, Progress, Store, StoreFailure, Ticket};
use std::collections::VecDeque;
use std::sync::Arc;

/// Upper bounds of the histograms of batches.
const BATCH_BOUNDS: [u64; 10] = [0, 1, 2, 4, 8, 16, 32, 64, 256, 1024];

/// What a turn brought.
#[derive(Debug)]
pub struct Turn<T> {
    /// Replies that may leave now.
    pub replies: Vec<(T, Output)>,
    /// Clients to be told that lite subscriptions of theirs have ended.
    pub notices: Vec<LiteNotice>,
    /// To be read by [`crate::execute`] and given back as [`Command::Loaded`].
    pub loads: Vec<(LoadId, Load)>,
    /// To be sent to a producer each; what reached one is given back as [`Command::Checked`].
    pub checks: Vec<TransactionCheck>,
    /// Call again at this time at the latest.
    pub next_wakeup: Option<UnixMillis>,
    /// The store failed: nothing more will ever become durable. Waiting replies will never come; drop them.
    pub failed: Option<Arc<StoreFailure>>,
}

/// A shard and its store.
pub struct ShardLoop<S: Store, T> {
    shard: Shard<T>,
    store: S,
    /// Replies that rest on the open batch.
    open: Vec<(T, Output)>,
    open_notices: Vec<LiteNotice>,
    /// Batches under way, and what waits for them.
    waiting: VecDeque<(Ticket, Vec<(T, Output)>)>,
    notices_under_way: VecDeque<(Ticket, Vec<LiteNotice>)>,
    /// Checks of transactions that rest on them.
    waiting_checks: VecDeque<(Ticket, Vec<TransactionCheck>)>,
    durable_batches: u64,
    hold: bool,
    lazy: bool,
    /// Whether the batch that raised the epoch is durable; before, not even a hand-out may leave.
    epoch_is_durable: bool,
    batch_messages: Histogram,
    batch_replies: Histogram,
}

impl<S: Store, T> ShardLoop<S, T> {
    /// Opens the shard in a store.
    pub async fn open(store: S, options: ShardOptions, now: UnixMillis) -> Result<Self, OpenError> {
        let shard = Shard::open(&store.reader(), options, now).await?;
        Ok(Self {
            shard,
            store,
            open: Vec::new(),
            open_notices: Vec::new(),
            waiting: VecDeque::new(),
            notices_under_way: VecDeque::new(),
            waiting_checks: VecDeque::new(),
            durable_batches: 0,
            hold: false,
            lazy: false,
            epoch_is_durable: false,
            batch_messages: Histogram::new(&BATCH_BOUNDS),
            batch_replies: Histogram::new(&BATCH_BOUNDS),
        })
    }

    /// The shard, for figures.
    pub fn shard(&self) -> &Shard<T> {
        &self.shard
    }

    /// The shard, to drop what is clean.
    pub fn shard_mut(&mut self) -> &mut Shard<T> {
        &mut self.shard
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// The store, for callers that step it themselves.
    pub fn store_mut(&mut self) -> &mut S {
        &mut self.store
    }

    /// Ends the loop; what is not durable yet is the store's to finish or to lose.
    pub fn into_store(self) -> S {
        self.store
    }

    /// Lets the open batch grow: nothing is handed to the store until this is taken back.
    pub fn hold(&mut self, hold: bool) {
        self.hold = hold;
    }

    /// Lets a batch that no reply rests on wait: a hand-out is not promised to survive a crash.
    pub fn lazy(&mut self, lazy: bool) {
        self.lazy = lazy;
    }

    /// Whether the open batch has changes.
    pub fn has_open_batch(&self) -> bool {
        self.shard.has_changes()
    }

    /// How many replies rest on the open batch.
    pub fn open_replies(&self) -> usize {
        self.open.len()
    }

    /// How many replies rest on batches under way.
    pub fn replies_under_way(&self) -> usize {
        self.waiting.iter().map(|(_, replies)| replies.len()).sum()
    }

    /// Messages stored per batch, and replies that rested on each, since the opening.
    pub fn batch_figures(&self) -> (HistogramFigures, HistogramFigures) {
        (self.batch_messages.figures(1.0), self.batch_replies.figures(1.0))
    }

    /// Batches that became durable so far.
    pub fn durable_batches(&self) -> u64 {
        self.durable_batches
    }

    /// Whether anything is waiting to become durable or to be handed to the store.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.open.is_empty() && !self.shard.has_changes()
    }

    /// One turn at `now`, which never decreases. `pause_deletion`: the clock is not to be trusted for deletion by age.
    pub fn turn(
        &mut self,
        now: UnixMillis,
        pause_deletion: bool,
        commands: impl IntoIterator<Item = Command<T>>,
    ) -> Turn<T> {
        let mut released = Vec::new();
        let progress = self.store.progress();
        if progress.failed.is_some() {
            return self.failed(progress);
        }
        let mut durable = 0;
        while self.waiting.front().is_some_and(|(ticket, _)| *ticket <= progress.durable) {
            if let Some((_, replies)) = self.waiting.pop_front() {
                released.extend(replies);
                durable += 1;
            }
        }
        let mut notices = self.durable_notices(progress.durable);
        let mut checks = Vec::new();
        while self.waiting_checks.front().is_some_and(|(ticket, _)| *ticket <= progress.durable) {
            checks.extend(self.waiting_checks.pop_front().into_iter().flat_map(|(_, checks)| checks));
        }
        self.durable_batches += durable;
        self.epoch_is_durable |= durable > 0;
        self.shard.now = self.shard.now.max(now);
        self.shard.room = self.store.room();
        self.shard.batches_durable(durable);
        // Before the commands: a renewal that is due is no reason to refuse an ack.
        self.shard.lapse_due();
        for command in commands {
            self.shard.handle(Work::Command(command));
        }
        self.shard.tick(pause_deletion);
        self.shard.finish_turn();
        for (token, output, when) in self.shard.replies.drain(..) {
            match when {
                When::Now if self.epoch_is_durable => released.push((token, output)),
                _ => self.open.push((token, output)),
            }
        }
        self.open_notices.append(&mut self.shard.lite.notices);
        self.close_batch(&mut released);
        notices.extend(self.notices_on_nothing());
        Turn {
            replies: released,
            notices,
            loads: std::mem::take(&mut self.shard.wanted),
            checks,
            next_wakeup: self.shard.next_wakeup(),
            failed: None,
        }
    }

    fn close_batch(&mut self, released: &mut Vec<(T, Output)>) {
        if self.shard.has_changes() {
            if self.store.ready() && !self.hold && !(self.lazy && self.open.is_empty()) {
                let ops = self.shard.take_batch();
                self.batch_messages.observe(ops.iter().filter(|op| matches!(op, Op::Append { .. })).count() as u64);
                self.batch_replies.observe(self.open.len() as u64);
                let ticket = self.store.commit(Batch { time: self.shard.now, ops });
                if !self.shard.checks.is_empty() {
                    self.waiting_checks.push_back((ticket, std::mem::take(&mut self.shard.checks)));
                }
                self.waiting.push_back((ticket, std::mem::take(&mut self.open)));
                if !self.open_notices.is_empty() {
                    self.notices_under_way.push_back((ticket, std::mem::take(&mut self.open_notices)));
                }
            }
            return;
        }
        // Replies without changes rest on the newest batch under way, or on nothing.
        match self.waiting.back_mut() {
            Some((_, replies)) => replies.append(&mut self.open),
            None => released.append(&mut self.open),
        }
    }

    /// What is to be told although nothing changed rests on the newest batch under way, or on nothing.
    fn notices_on_nothing(&mut self) -> Vec<LiteNotice> {
        if self.open_notices.is_empty() || self.shard.has_changes() {
            return Vec::new();
        }
        let notices = std::mem::take(&mut self.open_notices);
        match self.waiting.back() {
            Some(&(ticket, _)) => {
                self.notices_under_way.push_back((ticket, notices));
                Vec::new()
            }
            None => notices,
        }
    }

    /// What is told to clients rests on a batch, as replies do.
    fn durable_notices(&mut self, durable: Ticket) -> Vec<LiteNotice> {
        let mut notices = Vec::new();
        while self.notices_under_way.front().is_some_and(|(ticket, _)| *ticket <= durable) {
            notices.extend(self.notices_under_way.pop_front().into_iter().flat_map(|(_, notices)| notices));
        }
        notices
    }

    fn failed(&mut self, progress: Progress) -> Turn<T> {
        let mut replies = Vec::new();
        while self.waiting.front().is_some_and(|(ticket, _)| *ticket <= progress.durable) {
            replies.extend(self.waiting.pop_front().into_iter().flat_map(|(_, replies)| replies));
        }
        Turn {
            replies,
            notices: Vec::new(),
            loads: Vec::new(),
            checks: Vec::new(),
            next_wakeup: None,
            failed: progress.failed,
        }
    }
}
