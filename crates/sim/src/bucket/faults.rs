//! The object store of one simulated process: the same objects as everybody's, over a network of its own that is slow,
//! loses answers, is cut, and ends with the process.

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use martlet_store::conformance::Random;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use slatedb_common::retry::NonRetryable;
use std::fmt::{Display, Formatter};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What happens to the requests of one process.
#[derive(Debug)]
pub struct Network {
    random: Mutex<Random>,
    /// One request in so many has a fault; 0: none.
    pub faulty: AtomicU64,
    /// Requests fail, as when there is no way to the store.
    pub cut: AtomicBool,
    /// Requests that write fail.
    pub read_only: AtomicBool,
    /// Requests left until the process dies.
    pub left: AtomicU64,
    /// The process is stopped: nothing of it moves until it goes on.
    stopped: watch::Sender<bool>,
    /// Faults that happened.
    pub faults: AtomicU64,
    /// The store creates objects that exist, so that nobody is kept out.
    pub creates_twice: AtomicBool,
}

/// What becomes of one request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Served,
    /// Carried out, and the answer is lost.
    AnswerLost,
    /// Carried out, and the process is no more.
    LastWord,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        Self {
            random: Mutex::new(Random::new(seed)),
            faulty: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            left: AtomicU64::new(u64::MAX),
            stopped: watch::Sender::new(false),
            faults: AtomicU64::new(0),
            creates_twice: AtomicBool::new(false),
        }
    }

    /// No request reaches the store any more.
    pub fn die(&self) {
        self.left.store(0, SeqCst);
        self.go_on();
    }

    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    pub fn go_on(&self) {
        self.stopped.send_replace(false);
    }

    fn below(&self, limit: u64) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).below(limit)
    }

    async fn runs(&self) {
        // The sender lives as long as we do.
        let _ = self.stopped.subscribe().wait_for(|stopped| !stopped).await;
    }

    /// The same of one that writes.
    async fn before_write(&self) -> Result<Fate> {
        if self.read_only.load(SeqCst) {
            return Err(failed("503 SlowDown"));
        }
        self.before().await
    }

    /// What becomes of the next request.
    async fn before(&self) -> Result<Fate> {
        self.runs().await;
        let left = self.left.fetch_update(SeqCst, SeqCst, |left| match left {
            u64::MAX => None,
            left => Some(left.saturating_sub(1)),
        });
        let fate = match left {
            Ok(0) => return Err(dead()),
            // Whether its last request arrives is a matter of luck.
            Ok(1) if self.below(2) == 0 => return Err(dead()),
            Ok(1) => Fate::LastWord,
            _ => Fate::Served,
        };
        if self.cut.load(SeqCst) {
            return Err(failed("no way to the store"));
        }
        let faulty = self.faulty.load(SeqCst);
        if faulty > 0 && self.below(faulty) == 0 {
            self.faults.fetch_add(1, SeqCst);
            match self.below(4) {
                0 => return Err(failed("503 SlowDown")),
                1 => return Ok(Fate::AnswerLost),
                _ => tokio::time::sleep(Duration::from_micros(self.below(5_000))).await,
            }
        }
        Ok(fate)
    }

    async fn after<T>(&self, fate: Fate, answer: Result<T>) -> Result<T> {
        self.runs().await;
        match fate {
            Fate::Served if self.left.load(SeqCst) == 0 => Err(dead()),
            Fate::Served => answer,
            Fate::AnswerLost => Err(failed("the connection ended before the answer")),
            Fate::LastWord => Err(dead()),
        }
    }
}

fn failed(what: &'static str) -> Error {
    Error::Generic { store: "simulated", source: what.into() }
}

fn dead() -> Error {
    Error::Generic { store: "simulated", source: Box::new(NonRetryable("the process is dead".into())) }
}

/// Objects that all processes share, as one of them reaches them.
#[derive(Debug)]
pub struct Reached {
    pub objects: Arc<InMemory>,
    pub network: Arc<Network>,
}

impl Display for Reached {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("simulated")
    }
}

#[async_trait]
impl ObjectStore for Reached {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fate = self.network.before_write().await?;
        let again = self.network.creates_twice.load(SeqCst) && options.mode == PutMode::Create;
        let options = if again { PutOptions { mode: PutMode::Overwrite, ..options } } else { options };
        let answer = self.objects.put_opts(location, payload, options).await;
        self.network.after(fate, answer).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let fate = self.network.before_write().await?;
        let answer = self.objects.put_multipart_opts(at, options).await;
        self.network.after(fate, answer).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.network.before().await?;
        let answer = self.objects.get_opts(location, options).await;
        self.network.after(fate, answer).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (objects, network) = (self.objects.clone(), self.network.clone());
        let one = move |location: Result<Path>| {
            let (objects, network) = (objects.clone(), network.clone());
            async move {
                let fate = network.before_write().await?;
                let mut deleted = objects.delete_stream(stream::iter([location]).boxed());
                let answer = deleted.next().await.unwrap_or_else(|| Err(failed("no answer")));
                network.after(fate, answer).await
            }
        };
        locations.then(one).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (network, listed) = (self.network.clone(), self.objects.list(prefix));
        let listing = async move {
            match network.before().await {
                Ok(fate) => match network.after(fate, Ok(())).await {
                    Ok(()) => listed,
                    Err(error) => stream::iter([Err(error)]).boxed(),
                },
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        };
        stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let fate = self.network.before().await?;
        let answer = self.objects.list_with_delimiter(prefix).await;
        self.network.after(fate, answer).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let fate = self.network.before_write().await?;
        let answer = self.objects.copy_opts(from, to, options).await;
        self.network.after(fate, answer).await
    }
}
