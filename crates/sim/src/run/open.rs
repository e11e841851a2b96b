//! Opening and closing, and what must be there after that.

use super::*;

impl<G: Ground> Run<G> {
    pub(super) fn restart(&mut self, end: End) -> Verdict {
        self.close(end);
        self.reopen()
    }

    pub(super) fn close(&mut self, end: End) {
        self.heal();
        let epoch = self.epoch();
        for pending in self.pending.values() {
            if let Pending::Receive { group, .. } = pending {
                self.judge.unheard(*group, epoch);
            }
        }
        if let Some(shard) = self.shard.take() {
            self.ground.end(shard.into_store(), end, &mut self.random);
        }
        self.inbox.clear();
        let resets = self.pending.values().filter_map(|pending| match pending {
            Pending::ResetLite { group, key } => Some((*group, *key)),
            _ => None,
        });
        for (group, key) in resets.collect::<Vec<_>>() {
            self.moving_in_lite(group, key);
        }
        self.pending.clear();
        self.passed_over.clear();
        self.loads.clear();
        self.judge.crashed();
        self.members.iter_mut().for_each(members::Member::disconnected);
        for client in &mut self.clients {
            client.polling = None;
            client.said.forget();
        }
    }

    pub(super) fn open(&mut self) -> Verdict {
        let (store, report) = self.open_store()?;
        self.begin_on(store, &report)
    }

    pub(super) fn open_store(&mut self) -> Result<(G::Store, RecoveryReport), String> {
        let wall = START.plus(self.monotonic + self.wall_offset);
        self.ground.open(wall).map_err(|error| format!("the store does not open: {error}"))
    }

    /// The shard on a store that was just opened.
    pub(super) fn begin_on(&mut self, store: G::Store, report: &RecoveryReport) -> Verdict {
        self.say(|| format!("{report:?}"));
        let wall = START.plus(self.monotonic + self.wall_offset);
        self.clock = ShardClock::start(wall, report.last_time, self.monotonic);
        let now = self.clock.read(wall, self.monotonic);
        if now < report.last_time {
            return Err(format!("time went back from {:?} to {now:?}", report.last_time));
        }
        self.now = now;
        let options = ShardOptions {
            resident_max: self.resident_max,
            lite_resident_max: self.resident_max,
            transaction_check_interval_millis: transactions::INTERVAL_MILLIS,
            transaction_checks_max: transactions::CHECKS_MAX,
            hand_outs_wait: G::SHARED,
            recent_groups_max: self.recent_groups_max,
            ..ShardOptions::default()
        };
        let shard = G::read(ShardLoop::open(store, options, now))?;
        self.shard = Some(shard.map_err(|error| format!("the shard does not open: {error}"))?);
        Ok(())
    }

    pub(super) fn reopen(&mut self) -> Verdict {
        let (store, report) = self.open_store()?;
        self.reopen_on(store, &report)
    }

    pub(super) fn reopen_on(&mut self, store: G::Store, report: &RecoveryReport) -> Verdict {
        self.begin_on(store, report)?;
        self.check_durable()?;
        self.apply_catalog();
        Ok(())
    }

    /// Everything acknowledged and not too old is there, body and all.
    pub(super) fn check_durable(&mut self) -> Verdict {
        let Some(reader) = self.reader() else { return Ok(()) };
        for topic in &self.topics {
            // Of lite topics several have a queue of this number: what is lost of them, the drain misses.
            if topic.facts.lite.is_some() {
                continue;
            }
            let id = topic.facts.id;
            for index in 0..topic.facts.read_queues {
                let Some(&queue) = self.queue_ids.get(&(id, index)) else { continue };
                let all = QueueOffset(0)..QueueOffset(1 << 40);
                let found = G::read(reader.messages(queue, all, 1 << 20, 1 << 30))?;
                let found = found.map_err(|error| format!("after a restart: {error}"))?;
                let found: BTreeMap<_, _> = found.iter().map(|message| (message.offset, &message.record)).collect();
                for (number, message) in self.judge.messages.iter().enumerate() {
                    let (Sent::Yes { at, .. }, Some((in_queue, offset))) = (message.sent, message.place) else {
                        continue;
                    };
                    if message.topic != id || in_queue != index || self.now.since(at) > SAFE_AGE_MILLIS {
                        continue;
                    }
                    let Some(record) = found.get(&offset) else {
                        return Err(format!("message {number} was acknowledged and is lost: {message:?}"));
                    };
                    let body = record::body(record).map_err(|error| error.to_string())?;
                    if self.judge.recognise(&body, Some(id))? != number as u64 {
                        return Err(format!("another message is in the place of {number}: {message:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn reader(&self) -> Option<ReaderOf<G>> {
        self.shard.as_ref().map(|shard| shard.store().reader())
    }
}
