//! The engine a node was told to use, as one type: the choice is made once, at the opening.

use crate::copy::{Contents, Queues, Terms};
use crate::local::{LocalReader, LocalStore};
use crate::object::{BucketReader, BucketStore};
use crate::{
    Batch, KeyState, Notice, Progress, ReadError, Reader, Room, Store, StoredMessage, Term, Ticket, Usage, WholeMessage,
};
use bytes::Bytes;
use martlet_model::{HistogramFigures, QueueId, QueueOffset};
use std::ops::Range;

/// A shard's store in a folder or in a bucket.
pub enum AnyStore {
    /// In a folder of this machine.
    Local(LocalStore),
    /// In a bucket.
    Bucket(BucketStore),
}

impl AnyStore {
    /// Makes durable what was committed, then stops. Blocks.
    pub fn close(self) -> Progress {
        match self {
            Self::Local(store) => store.close(),
            Self::Bucket(store) => store.close(),
        }
    }
}

impl Store for AnyStore {
    type Reader = AnyReader;

    fn ready(&self) -> bool {
        match self {
            Self::Local(store) => store.ready(),
            Self::Bucket(store) => store.ready(),
        }
    }

    fn commit(&mut self, batch: Batch) -> Ticket {
        match self {
            Self::Local(store) => store.commit(batch),
            Self::Bucket(store) => store.commit(batch),
        }
    }

    fn progress(&self) -> Progress {
        match self {
            Self::Local(store) => store.progress(),
            Self::Bucket(store) => store.progress(),
        }
    }

    fn room(&self) -> Room {
        match self {
            Self::Local(store) => store.room(),
            Self::Bucket(store) => store.room(),
        }
    }

    fn usage(&self) -> Usage {
        match self {
            Self::Local(store) => store.usage(),
            Self::Bucket(store) => store.usage(),
        }
    }

    fn reader(&self) -> AnyReader {
        match self {
            Self::Local(store) => AnyReader::Local(store.reader()),
            Self::Bucket(store) => AnyReader::Bucket(store.reader()),
        }
    }
}

/// Reads of an [`AnyStore`].
#[derive(Clone)]
pub enum AnyReader {
    /// In a folder of this machine.
    Local(LocalReader),
    /// In a bucket.
    Bucket(BucketReader),
}

impl AnyReader {
    /// What maintenance noticed since the last call; the newest 64 at most are kept.
    pub fn take_notices(&self) -> Vec<Notice> {
        match self {
            Self::Local(reader) => reader.take_notices(),
            Self::Bucket(_) => Vec::new(),
        }
    }

    /// How long syncs of the log took since the opening, in milliseconds; of a bucket, flushes.
    pub fn sync_millis(&self) -> HistogramFigures {
        match self {
            Self::Local(reader) => reader.sync_millis(),
            Self::Bucket(reader) => reader.flush_millis(),
        }
    }

    /// What was asked of the bucket since the opening, if it is one.
    pub fn meter(&self) -> Option<&martlet_bucket::Meter> {
        match self {
            Self::Local(_) => None,
            Self::Bucket(reader) => Some(reader.meter()),
        }
    }
}

impl Contents for AnyReader {
    async fn queues(&self, from: QueueId, limit: usize) -> Result<Queues, ReadError> {
        match self {
            Self::Local(reader) => reader.queues(from, limit).await,
            Self::Bucket(reader) => reader.queues(from, limit).await,
        }
    }

    async fn terms(&self, parts: Vec<(QueueId, Range<QueueOffset>)>) -> Result<Terms, ReadError> {
        match self {
            Self::Local(reader) => reader.terms(parts).await,
            Self::Bucket(reader) => reader.terms(parts).await,
        }
    }

    async fn whole(
        &self,
        terms: &Terms,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<WholeMessage>, ReadError> {
        match self {
            Self::Local(reader) => reader.whole(terms, queue, range, max_messages, max_bytes).await,
            Self::Bucket(reader) => reader.whole(terms, queue, range, max_messages, max_bytes).await,
        }
    }
}

impl Reader for AnyReader {
    async fn messages(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        match self {
            Self::Local(reader) => reader.messages(queue, range, max_messages, max_bytes).await,
            Self::Bucket(reader) => reader.messages(queue, range, max_messages, max_bytes).await,
        }
    }

    async fn look_through(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        match self {
            Self::Local(reader) => reader.look_through(queue, range, max_messages, max_bytes).await,
            Self::Bucket(reader) => reader.look_through(queue, range, max_messages, max_bytes).await,
        }
    }

    async fn bounds(&self, queue: QueueId) -> Result<Option<Range<QueueOffset>>, ReadError> {
        match self {
            Self::Local(reader) => reader.bounds(queue).await,
            Self::Bucket(reader) => reader.bounds(queue).await,
        }
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyState>, ReadError> {
        match self {
            Self::Local(reader) => reader.get(key).await,
            Self::Bucket(reader) => reader.get(key).await,
        }
    }

    async fn scan(&self, range: Range<Bytes>, limit: usize) -> Result<Vec<(Bytes, KeyState)>, ReadError> {
        match self {
            Self::Local(reader) => reader.scan(range, limit).await,
            Self::Bucket(reader) => reader.scan(range, limit).await,
        }
    }

    async fn find(&self, term: Term, limit: usize) -> Result<Vec<(QueueId, QueueOffset)>, ReadError> {
        match self {
            Self::Local(reader) => reader.find(term, limit).await,
            Self::Bucket(reader) => reader.find(term, limit).await,
        }
    }
}
