//! Dropping old messages: by age, and by space when the disk runs full.

use crate::shard::Shard;
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use martlet_store::Op;

/// What is too young on disk to be dropped although its time is over is looked at again after this.
const EXPIRE_AGAIN_MILLIS: i64 = 1_000;

impl<T> Shard<T> {
    /// Drops what is older than the topic's retention from a resident queue.
    pub(crate) fn expire(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get(&id) else { return };
        let below = queue.expired_below(self.now, self.retention_of(queue.topic));
        self.trim(id, below);
        self.reindex_expiry(id);
        // What is not durable yet is not dropped; come back to it.
        if self.expiry_of.get(&id).is_some_and(|&at| at <= self.now) {
            self.set_expiry(id, Some(self.now.plus(EXPIRE_AGAIN_MILLIS)));
        }
    }

    /// Drops the oldest messages of all resident queues, mark by mark, until about so many bytes are freed. The newest
    /// mark of a queue stays: a disk that still runs full then refuses sends rather than losing fresh messages.
    pub(crate) fn drop_oldest(&mut self, bytes: u64) {
        let mut freed = 0;
        while freed < bytes {
            let oldest = self
                .queues
                .values()
                .filter_map(|queue| Some((queue.marks.front()?.0, queue.marks.get(1)?.1, queue)))
                .min_by_key(|(time, ..)| *time);
            let Some((_, below, queue)) = oldest else { return };
            let id = queue.id;
            freed += (below.0.saturating_sub(queue.min.0)) * queue.record_bytes.max(256) as u64;
            self.trim(id, below);
            self.reindex_expiry(id);
        }
    }

    fn trim(&mut self, id: QueueId, below: QueueOffset) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        // What is not durable yet is not old, whatever a clock says.
        let below = below.min(queue.durable);
        if below <= queue.min {
            return;
        }
        queue.trim(below);
        self.ops.push(Op::Trim { queue: id, below });
        let resent = self.resent.trim(id, below);
        self.ops.extend(resent.into_iter().map(|key| Op::Remove { key }));
        self.put_queue(id);
        for group in self.groups_in(id) {
            self.clamp(group, id);
            // What waited for one of those to be settled need not any more.
            self.stir(group, id);
        }
    }

    pub(crate) fn reindex_expiry(&mut self, id: QueueId) {
        // Lite topics have timers of their own, which cost no memory.
        if self.is_lite_queue(id) {
            return;
        }
        let next = self.queues.get(&id).and_then(|queue| queue.next_expiry(self.retention_of(queue.topic)));
        self.set_expiry(id, next);
    }

    pub(crate) fn set_expiry(&mut self, id: QueueId, at: Option<UnixMillis>) {
        let old = match at {
            Some(at) => self.expiry_of.insert(id, at),
            None => self.expiry_of.remove(&id),
        };
        if let Some(old) = old {
            self.expiries.remove(&(old, id));
        }
        if let Some(at) = at {
            self.expiries.insert((at, id));
        }
    }
}
