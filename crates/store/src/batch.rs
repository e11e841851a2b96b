//! What a batch holds, and what reads give back.

use bytes::Bytes;
use martlet_model::{QueueId, QueueOffset, UnixMillis};

/// A 64-bit hash of something a message can be found by (message id or key, within a topic). The shard computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// One change. A batch applies its operations in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A message at the end of its queue. `offset` must be the queue's next one (0 for a queue never written).
    Append {
        /// The queue.
        queue: QueueId,
        /// The place the message takes.
        offset: QueueOffset,
        /// The message, see `martlet_model::record`; opaque to the engine.
        record: Bytes,
        /// What it can be found by; at most 64.
        terms: Vec<Term>,
        /// When it is expected to be trimmed. A hint for placing bytes of like age together, never a rule.
        keep_until: UnixMillis,
    },
    /// A message as another store has it, with the store time it has there. Offsets go up, but may leave some out. Of one
    /// queue all that is restored comes before the first [`Op::Append`].
    Restore {
        /// The message.
        message: StoredMessage,
        /// As [`Op::Append`] has them.
        terms: Vec<Term>,
        /// As [`Op::Append`] has it.
        keep_until: UnixMillis,
    },
    /// Sets a key to an image; deltas kept for the key so far are dropped.
    Put {
        /// 1 to 512 bytes.
        key: Bytes,
        /// Up to 4 MiB.
        image: Bytes,
        /// Like `Append::keep_until`; `None` for what has no end in sight.
        keep_until: Option<UnixMillis>,
    },
    /// Adds a delta to a key: reads give the image and all deltas since, in order. The engine never interprets them;
    /// the shard sets a new image before deltas pile up.
    Delta {
        /// 1 to 512 bytes.
        key: Bytes,
        /// Up to 64 KiB.
        delta: Bytes,
    },
    /// Forgets a key, its image and its deltas. Removing what is not there is fine.
    Remove {
        /// 1 to 512 bytes.
        key: Bytes,
    },
    /// Messages of the queue below `below` will not be read again. Going back is ignored.
    Trim {
        /// The queue.
        queue: QueueId,
        /// First offset that stays readable; may be the queue's next offset. Beyond it only before a queue is restored: it then
        /// goes on from there.
        below: QueueOffset,
    },
    /// The queue is deleted: all its messages and its bounds are forgotten. Its number is never used again.
    Forget {
        /// The queue.
        queue: QueueId,
    },
}

/// Everything that changed in one turn of the shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The shard's time; never decreases from batch to batch. It is the store time of the messages in it.
    pub time: UnixMillis,
    /// The changes, in order. Empty batches are allowed and come due like any other.
    pub ops: Vec<Op>,
}

/// What is kept under one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyState {
    /// The last image, if one was ever set.
    pub image: Option<Bytes>,
    /// The deltas after it, in order.
    pub deltas: Vec<Bytes>,
}

/// A message with all that [`Op::Restore`] takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeMessage {
    /// The message.
    pub message: StoredMessage,
    /// What it can be found by, in no order.
    pub terms: Vec<Term>,
    /// When it is expected to be trimmed; of a bucket, a time that puts it where it was.
    pub keep_until: UnixMillis,
}

/// A message as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its queue.
    pub queue: QueueId,
    /// Its place.
    pub offset: QueueOffset,
    /// Time of the batch it came with.
    pub store_time: UnixMillis,
    /// The record, shared with the engine's cache where it came from there.
    pub record: Bytes,
}
