//! An object store, one of whose writes waits until the test has done something else.

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result,
};
use std::fmt::{Display, Formatter};
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

/// Objects as one process reaches them, whose next write can be held.
#[derive(Debug)]
pub struct Held {
    objects: Arc<InMemory>,
    next: Mutex<Option<(oneshot::Sender<()>, oneshot::Receiver<()>)>>,
}

/// The write that is held.
pub struct Hold {
    reached: oneshot::Receiver<()>,
    go_on: oneshot::Sender<()>,
}

impl Held {
    pub fn new(objects: Arc<InMemory>) -> Self {
        Self { objects, next: Mutex::new(None) }
    }

    /// Holds the next write.
    pub fn hold(&self) -> Hold {
        let (reach, reached) = oneshot::channel();
        let (go_on, goes_on) = oneshot::channel();
        *self.next.lock().unwrap() = Some((reach, goes_on));
        Hold { reached, go_on }
    }
}

impl Hold {
    /// Waits for the write, does this before it, and lets it go on.
    pub fn before_it<T>(self, work: impl FnOnce() -> T) -> T {
        self.reached.blocking_recv().unwrap();
        let done = work();
        self.go_on.send(()).unwrap();
        done
    }
}

impl Display for Held {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("held")
    }
}

#[async_trait]
impl ObjectStore for Held {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let held = self.next.lock().unwrap().take();
        if let Some((reach, goes_on)) = held {
            reach.send(()).unwrap();
            goes_on.await.unwrap();
        }
        self.objects.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.objects.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.objects.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.objects.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.objects.copy_opts(from, to, options).await
    }
}
