//! Reads: of memory at once, on the caller's thread; of anything else on the bucket's.

use super::head::Head;
use super::period::Period;
use super::shared::Shared;
use super::{keys, merge, told};
use crate::copy::{Contents, Queues, Terms};
use crate::{KeyState, ReadError, Reader, StoredMessage, Term, WholeMessage};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use martlet_bucket::Bucket;
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use slatedb::config::ScanOptions;
use slatedb::{Db, Error};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Fetched from the bucket at a time while a queue is read along.
const READ_AHEAD_MAX: usize = 1 << 20;
/// Periods looked into at a time for a term.
const PERIODS_AT_A_TIME: usize = 8;

/// Reads of a [`BucketStore`](super::BucketStore).
#[derive(Clone)]
pub struct BucketReader {
    bucket: Bucket,
    db: Db,
    shared: Arc<Shared>,
}

impl BucketReader {
    pub(super) fn new(bucket: Bucket, db: Db, shared: Arc<Shared>) -> Self {
        Self { bucket, db, shared }
    }

    /// What was asked of the bucket since it was opened.
    pub fn meter(&self) -> &martlet_bucket::Meter {
        self.bucket.meter()
    }

    /// How long flushes of the log took since the opening, in milliseconds.
    pub fn flush_millis(&self) -> martlet_model::HistogramFigures {
        self.shared.flush_millis()
    }

    /// Answers at once if nothing has to be fetched, else on the bucket's threads.
    async fn ask<T, F>(&self, question: impl FnOnce(Db) -> F + Send) -> Result<T, ReadError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ReadError>> + Send + 'static,
    {
        self.shared.all_applied().await;
        let mut asking = Box::pin(question(self.db.clone()));
        let runtime = self.bucket.runtime();
        let first = {
            let _inside = runtime.enter();
            // Polled again at once by whoever gets it, so nothing is missed.
            asking.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        };
        match first {
            Poll::Ready(answer) => answer,
            Poll::Pending => runtime.spawn(asking).await.map_err(|_| ReadError::Closed)?,
        }
    }
}

impl Reader for BucketReader {
    async fn messages(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        self.ask(move |db| messages(db, queue, range, max_messages, max_bytes, |_, message| message)).await
    }

    async fn look_through(
        &self,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<StoredMessage>, ReadError> {
        self.shared.all_applied().await;
        // Even if all of it is in memory, it is too much for a thread that serves others.
        let reading = messages(self.db.clone(), queue, range, max_messages, max_bytes, |_, message| message);
        self.bucket.run(reading).await.ok_or(ReadError::Closed)?
    }

    async fn bounds(&self, queue: QueueId) -> Result<Option<Range<QueueOffset>>, ReadError> {
        self.ask(move |db| async move {
            let head = head(&db, queue).await?;
            Ok(head.map(|head| QueueOffset(head.trim)..QueueOffset(head.next)))
        })
        .await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyState>, ReadError> {
        let key = keys::shard(key);
        self.ask(move |db| async move {
            match db.get(&key).await.map_err(failed("a key"))? {
                Some(value) => merge::decode(&value).map(Some).map_err(|error| damaged("a key's value", &error)),
                None => Ok(None),
            }
        })
        .await
    }

    async fn scan(&self, range: Range<Bytes>, limit: usize) -> Result<Vec<(Bytes, KeyState)>, ReadError> {
        self.ask(move |db| scan(db, range, limit)).await
    }

    async fn find(&self, term: Term, limit: usize) -> Result<Vec<(QueueId, QueueOffset)>, ReadError> {
        self.ask(move |db| find(db, term, limit)).await
    }
}

impl Contents for BucketReader {
    async fn queues(&self, from: QueueId, limit: usize) -> Result<Queues, ReadError> {
        self.ask(move |db| queues(db, from, limit)).await
    }

    async fn terms(&self, parts: Vec<(QueueId, Range<QueueOffset>)>) -> Result<Terms, ReadError> {
        self.ask(move |db| terms(db, parts)).await
    }

    async fn whole(
        &self,
        terms: &Terms,
        queue: QueueId,
        range: Range<QueueOffset>,
        max_messages: usize,
        max_bytes: usize,
    ) -> Result<Vec<WholeMessage>, ReadError> {
        let make = |period: Period, message| WholeMessage {
            message,
            terms: Vec::new(),
            keep_until: UnixMillis(period.end().0.saturating_sub(1)),
        };
        let mut found = self.ask(move |db| messages(db, queue, range, max_messages, max_bytes, make)).await?;
        for whole in &mut found {
            whole.terms = terms.of(whole.message.queue, whole.message.offset).collect();
        }
        Ok(found)
    }
}

fn failed(what: &'static str) -> impl Fn(Error) -> ReadError {
    move |error| match error.kind() {
        slatedb::ErrorKind::Closed(_) => ReadError::Closed,
        slatedb::ErrorKind::Data => ReadError::Damaged {
            file: what.to_owned(),
            position: 0,
            expected: "what was written".to_owned(),
            found: told(&error),
        },
        _ => ReadError::Io { file: what.to_owned(), position: 0, cause: told(&error) },
    }
}

fn damaged(what: &str, error: &crate::codec::Malformed) -> ReadError {
    ReadError::Damaged {
        file: what.to_owned(),
        position: error.at as u64,
        expected: error.expected.to_owned(),
        found: "something else".to_owned(),
    }
}

async fn head(db: &Db, queue: QueueId) -> Result<Option<Head>, ReadError> {
    let found = db.get(keys::head(queue)).await.map_err(failed("the head of a queue"))?;
    found.map(|bytes| Head::decode(&bytes).map_err(|error| damaged("the head of a queue", &error))).transpose()
}

/// Each made of the message and the period it lies in.
async fn messages<T>(
    db: Db,
    queue: QueueId,
    range: Range<QueueOffset>,
    max_messages: usize,
    max_bytes: usize,
    make: impl Fn(Period, StoredMessage) -> T,
) -> Result<Vec<T>, ReadError> {
    let mut found = Vec::new();
    let Some(head) = head(&db, queue).await? else { return Ok(found) };
    let options = ScanOptions {
        read_ahead_bytes: max_bytes.clamp(1, READ_AHEAD_MAX),
        cache_blocks: true,
        ..ScanOptions::default()
    };
    let mut bytes = 0usize;
    for (period, from, to) in head.parts(range.start, range.end) {
        let keys = keys::message(period, queue, from)..keys::message(period, queue, to);
        let mut rows = db.scan_with_options(keys, &options).await.map_err(failed("messages"))?;
        loop {
            if found.len() >= max_messages {
                return Ok(found);
            }
            let Some(row) = rows.next().await.map_err(failed("messages"))? else { break };
            let (Some((queue, offset)), Some(time)) = (keys::of_message(&row.key), row.value.first_chunk::<8>()) else {
                let error = crate::codec::Malformed { expected: "a message's key and time", at: 0 };
                return Err(damaged("a message", &error));
            };
            let record = row.value.slice(8..);
            bytes = bytes.saturating_add(record.len());
            if bytes > max_bytes && !found.is_empty() {
                return Ok(found);
            }
            let store_time = UnixMillis(i64::from_le_bytes(*time));
            found.push(make(period, StoredMessage { queue, offset, store_time, record }));
        }
    }
    Ok(found)
}

async fn scan(db: Db, range: Range<Bytes>, limit: usize) -> Result<Vec<(Bytes, KeyState)>, ReadError> {
    let mut found = Vec::new();
    if range.start >= range.end || limit == 0 {
        return Ok(found);
    }
    let options = ScanOptions { read_ahead_bytes: 64 << 10, cache_blocks: true, ..ScanOptions::default() };
    let keys = keys::shard(&range.start)..keys::shard(&range.end);
    let mut rows = db.scan_with_options(keys, &options).await.map_err(failed("keys"))?;
    while found.len() < limit
        && let Some(row) = rows.next().await.map_err(failed("keys"))?
    {
        let state = merge::decode(&row.value).map_err(|error| damaged("a key's value", &error))?;
        found.extend(keys::of_shard(&row.key).map(|key| (key, state)));
    }
    Ok(found)
}

/// All there are: their number is small.
fn periods(db: &Db) -> Vec<Period> {
    db.status().list_segments().iter().filter_map(|tree| keys::of_period(&tree.prefix)).collect()
}

async fn queues(db: Db, from: QueueId, limit: usize) -> Result<Queues, ReadError> {
    let mut found = Vec::new();
    let mut rows = db.scan(keys::heads_from(from)).await.map_err(failed("heads of queues"))?;
    while found.len() < limit
        && let Some(row) = rows.next().await.map_err(failed("heads of queues"))?
    {
        let Some(queue) = keys::of_head(&row.key) else { continue };
        let head = Head::decode(&row.value).map_err(|error| damaged("the head of a queue", &error))?;
        found.push((queue, QueueOffset(head.trim)..QueueOffset(head.next)));
    }
    let last = found.last().filter(|_| found.len() >= limit);
    Ok(Queues { next: last.map(|(queue, _)| QueueId(queue.0.saturating_add(1))), found })
}

/// Terms lie by term, not by message: all of them are looked at.
async fn terms(db: Db, mut parts: Vec<(QueueId, Range<QueueOffset>)>) -> Result<Terms, ReadError> {
    parts.sort_unstable_by_key(|(queue, range)| (*queue, range.start));
    let mut found = Vec::new();
    for period in periods(&db) {
        let mut rows = db.scan(keys::terms(period)).await.map_err(failed("terms"))?;
        while let Some(row) = rows.next().await.map_err(failed("terms"))? {
            let (Some(term), Some((queue, offset))) = (keys::of_term(&row.key), keys::place(&row.value)) else {
                let error = crate::codec::Malformed { expected: "a term and a place", at: 0 };
                return Err(damaged("a place of a term", &error));
            };
            let after = parts.partition_point(|(of, range)| (*of, range.start) <= (queue, offset));
            let part = after.checked_sub(1).and_then(|at| parts.get(at));
            if part.is_some_and(|(of, range)| *of == queue && range.contains(&offset)) {
                found.push((queue, offset, Term(term)));
            }
        }
    }
    Ok(Terms::new(found))
}

/// Looks into all periods.
async fn find(db: Db, term: Term, limit: usize) -> Result<Vec<(QueueId, QueueOffset)>, ReadError> {
    let places: Vec<_> = stream::iter(periods(&db).into_iter().map(|period| places(db.clone(), period, term)))
        .buffer_unordered(PERIODS_AT_A_TIME)
        .try_collect()
        .await?;
    let newest: BTreeMap<Bytes, (QueueId, QueueOffset)> = places.into_iter().flatten().collect();
    let mut heads: HashMap<QueueId, Option<Head>> = HashMap::new();
    let mut found = Vec::new();
    for (queue, offset) in newest.into_values() {
        if found.len() >= limit {
            break;
        }
        let known = match heads.entry(queue) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(head(&db, queue).await?),
        };
        if known.as_ref().is_some_and(|head| (head.trim..head.next).contains(&offset.0)) {
            found.push((queue, offset));
        }
    }
    Ok(found)
}

/// Places of a term in one period, by age.
async fn places(db: Db, period: Period, term: Term) -> Result<Vec<(Bytes, (QueueId, QueueOffset))>, ReadError> {
    let mut found = Vec::new();
    let mut rows = db.scan_prefix(keys::term(period, term.0), ..).await.map_err(failed("places of a term"))?;
    while let Some(row) = rows.next().await.map_err(failed("places of a term"))? {
        let (Some(age), Some(place)) = (keys::age(&row.key), keys::place(&row.value)) else {
            let error = crate::codec::Malformed { expected: "a place", at: 0 };
            return Err(damaged("a place of a term", &error));
        };
        found.push((Bytes::copy_from_slice(age), place));
    }
    Ok(found)
}
