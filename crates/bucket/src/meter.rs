//! Counts what is asked of the object store and how many bytes pass, by class: these are what a bucket is paid by.

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::fmt::{Display, Formatter};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The write-ahead log: one object for each flush.
    Wal,
    /// Tables written when memory is emptied, and reads of any table for a reader.
    Table,
    /// What compaction reads and writes.
    Compaction,
    /// Manifests, the list of compactions, boundaries of the garbage collector.
    Manifest,
    /// Everything else: the catalog, the format, checks at the opening.
    Other,
}

impl Class {
    /// All classes.
    pub const ALL: [Self; 5] = [Self::Wal, Self::Table, Self::Compaction, Self::Manifest, Self::Other];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Wal => "wal",
            Self::Table => "table",
            Self::Compaction => "compaction",
            Self::Manifest => "manifest",
            Self::Other => "other",
        }
    }

    fn of(location: &Path) -> Self {
        for part in location.parts() {
            match part.as_ref() {
                "wal" => return Self::Wal,
                "compacted" => return Self::Table,
                "manifest" | "compactions" | "gc" => return Self::Manifest,
                _ => {}
            }
        }
        Self::Other
    }
}

/// Counts of one class since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Objects and parts of objects written.
    pub puts: u64,
    /// Objects, parts of objects or their sizes read.
    pub gets: u64,
    /// Listings begun.
    pub lists: u64,
    /// Objects deleted.
    pub deletes: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received, as far as the answer's length says.
    pub bytes_received: u64,
}

impl Counts {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.puts + self.gets + self.lists + self.deletes
    }
}

#[derive(Debug, Default)]
struct Counters {
    puts: AtomicU64,
    gets: AtomicU64,
    lists: AtomicU64,
    deletes: AtomicU64,
    bytes_sent: AtomicU64,
    bytes_received: AtomicU64,
}

/// What was counted; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    classes: Arc<[Counters; 5]>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Meter {
    /// Counts of one class so far.
    pub fn counts(&self, class: Class) -> Counts {
        let counters = self.of(class);
        Counts {
            puts: counters.puts.load(Relaxed),
            gets: counters.gets.load(Relaxed),
            lists: counters.lists.load(Relaxed),
            deletes: counters.deletes.load(Relaxed),
            bytes_sent: counters.bytes_sent.load(Relaxed),
            bytes_received: counters.bytes_received.load(Relaxed),
        }
    }

    /// Bytes sent by all classes.
    pub fn bytes_sent(&self) -> u64 {
        Class::ALL.iter().map(|class| self.counts(*class).bytes_sent).sum()
    }

    /// The same object store, counted.
    pub fn measure(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Metered { store, meter: self.clone(), tables: Class::Table })
    }

    /// The same object store for whoever compacts: tables count as [`Class::Compaction`].
    pub fn measure_compaction(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Metered { store, meter: self.clone(), tables: Class::Compaction })
    }

    /// What the object store answered last when it refused or could not be reached, and has not done since.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn noted<T>(&self, answer: Result<T>) -> Result<T> {
        use object_store::Error;
        let text = match &answer {
            // These are answers, not trouble.
            Ok(_)
            | Err(
                Error::NotFound { .. }
                | Error::AlreadyExists { .. }
                | Error::Precondition { .. }
                | Error::NotModified { .. }
                | Error::NotImplemented { .. },
            ) => None,
            Err(error) => Some(error.to_string()),
        };
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if trouble.is_some() || text.is_some() {
            *trouble = text;
        }
        drop(trouble);
        answer
    }

    fn of(&self, class: Class) -> &Counters {
        &self.classes[class as usize]
    }

    fn sent(&self, class: Class, bytes: usize) {
        let counters = self.of(class);
        counters.puts.fetch_add(1, Relaxed);
        counters.bytes_sent.fetch_add(bytes as u64, Relaxed);
    }
}

#[derive(Debug)]
struct Metered {
    store: Arc<dyn ObjectStore>,
    meter: Meter,
    /// What tables count as.
    tables: Class,
}

impl Display for Metered {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.meter.sent(self.class(location), payload.content_length());
        self.meter.noted(self.store.put_opts(location, payload, options).await)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let class = self.class(location);
        self.meter.sent(class, 0);
        let upload = self.meter.noted(self.store.put_multipart_opts(location, options).await)?;
        Ok(Box::new(MeteredUpload { upload, meter: self.meter.clone(), class }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (class, head) = (self.class(location), options.head);
        let counters = self.meter.of(class);
        counters.gets.fetch_add(1, Relaxed);
        let answer = self.meter.noted(self.store.get_opts(location, options).await)?;
        if !head {
            counters.bytes_received.fetch_add(answer.range.end.saturating_sub(answer.range.start), Relaxed);
        }
        Ok(answer)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let meter = self.meter.clone();
        let counted = locations.inspect(move |location| {
            if let Ok(location) = location {
                meter.of(Class::of(location)).deletes.fetch_add(1, Relaxed);
            }
        });
        self.store.delete_stream(counted.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count_list(prefix);
        self.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count_list(prefix);
        self.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count_list(prefix);
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.meter.sent(self.class(to), 0);
        self.store.copy_opts(from, to, options).await
    }
}

impl Metered {
    fn class(&self, location: &Path) -> Class {
        match Class::of(location) {
            Class::Table => self.tables,
            other => other,
        }
    }

    fn count_list(&self, prefix: Option<&Path>) {
        let class = prefix.map_or(Class::Other, |prefix| self.class(prefix));
        self.meter.of(class).lists.fetch_add(1, Relaxed);
    }
}

#[derive(Debug)]
struct MeteredUpload {
    upload: Box<dyn MultipartUpload>,
    meter: Meter,
    class: Class,
}

#[async_trait]
impl MultipartUpload for MeteredUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.meter.sent(self.class, data.content_length());
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.meter.sent(self.class, 0);
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
