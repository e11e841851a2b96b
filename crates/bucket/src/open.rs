//! Opening a place.

use crate::error::with_causes;
use crate::{BucketError, Location, Meter, Scheme, check, format};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads for requests to the store, for compaction and for reads that memory cannot answer.
const THREADS: usize = 2;
/// A request that has no answer by then is made again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Retries of one request by the client itself; whoever asked decides what comes after.
const RETRIES: usize = 3;
const RETRY_TIME: Duration = Duration::from_secs(20);

/// A place that was opened. Cheap to clone; the last clone ends its runtime.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    location: Location,
    /// Under which everything lies; empty for folders, whose store is the folder itself.
    prefix: Path,
    store: Arc<dyn ObjectStore>,
    /// The same, counted as compaction.
    compaction_store: Arc<dyn ObjectStore>,
    meter: Meter,
    created: AtomicBool,
    handle: Handle,
    /// Taken out only when it is dropped.
    runtime: Option<Runtime>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last clone may go in any thread, one of another runtime included, where waiting is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bucket {
    /// Opens a place: checks it, and reads its format or writes it. Blocks; not to be called from an asynchronous task.
    ///
    /// `name` is of this opening alone: random, so that openings at the same time do not meet.
    pub fn open(location: Location, name: &str) -> Result<Self, BucketError> {
        let store = connect(&location)?;
        Self::of_store(location, store, name)
    }

    /// Opens a place in a store that somebody else connected to: for tests, with faults of their making.
    pub fn of_store(location: Location, store: Arc<dyn ObjectStore>, name: &str) -> Result<Self, BucketError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("martlet-bucket")
            .enable_all()
            .build()
            .map_err(|error| BucketError::System { what: "starting the store's threads", cause: error.to_string() })?;
        let meter = Meter::default();
        let prefix =
            if location.scheme == Scheme::File { Path::default() } else { Path::from(location.prefix.as_str()) };
        let inner = Inner {
            prefix,
            compaction_store: meter.measure_compaction(store.clone()),
            store: meter.measure(store),
            meter,
            created: AtomicBool::new(false),
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
            location,
        };
        let bucket = Self { inner: Arc::new(inner) };
        let created = bucket.runtime().block_on(async {
            check::check(&bucket, name).await?;
            format::check_or_create(&bucket).await
        })?;
        bucket.inner.created.store(created, Relaxed);
        Ok(bucket)
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.inner.location
    }

    /// Whether nothing was here before.
    pub fn created(&self) -> bool {
        self.inner.created.load(Relaxed)
    }

    /// The object store, counted.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.store
    }

    /// The object store for compaction, counted as such.
    pub fn compaction_store(&self) -> &Arc<dyn ObjectStore> {
        &self.inner.compaction_store
    }

    /// Full name of an object of this place.
    pub fn path(&self, name: &str) -> Path {
        let below = Path::from(name);
        self.inner.prefix.parts().chain(below.parts()).collect()
    }

    /// What was asked of it so far.
    pub fn meter(&self) -> &Meter {
        &self.inner.meter
    }

    /// Where its requests run.
    pub fn runtime(&self) -> Handle {
        self.inner.handle.clone()
    }

    /// Runs a future on its runtime and waits for it from whatever runtime or thread the caller is on. `None` if the
    /// runtime has ended.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
        self.runtime().spawn(work).await.ok()
    }

    /// The store's refusal of an operation.
    pub fn refused(&self, operation: &'static str, object: &Path, error: &object_store::Error) -> BucketError {
        BucketError::Refused {
            location: self.inner.location.to_string(),
            operation,
            object: object.to_string(),
            cause: with_causes(error),
        }
    }
}

fn connect(location: &Location) -> Result<Arc<dyn ObjectStore>, BucketError> {
    let settings = |error: object_store::Error| BucketError::Settings {
        location: location.to_string(),
        cause: with_causes(&error),
    };
    let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: RETRY_TIME };
    let client = ClientOptions::new().with_timeout(REQUEST_TIMEOUT).with_connect_timeout(CONNECT_TIMEOUT);
    Ok(match location.scheme {
        Scheme::S3 => {
            let builder = AmazonS3Builder::from_env().with_bucket_name(&location.bucket).with_retry(retry);
            let client = client.with_allow_http(allows_plain("AWS_ALLOW_HTTP"));
            Arc::new(builder.with_client_options(client).build().map_err(settings)?)
        }
        Scheme::Gcs => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(&location.bucket).with_retry(retry);
            let client = client.with_allow_http(allows_plain("GOOGLE_ALLOW_HTTP"));
            Arc::new(builder.with_client_options(client).build().map_err(settings)?)
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::from_env().with_container_name(&location.bucket).with_retry(retry);
            let client = client.with_allow_http(allows_plain("AZURE_ALLOW_HTTP"));
            Arc::new(builder.with_client_options(client).build().map_err(settings)?)
        }
        Scheme::File => {
            std::fs::create_dir_all(&location.prefix).map_err(|error| BucketError::Refused {
                location: location.to_string(),
                operation: "create",
                object: "the folder".to_owned(),
                cause: error.to_string(),
            })?;
            let store = LocalFileSystem::new_with_prefix(&location.prefix).map_err(settings)?;
            Arc::new(store.with_fsync(true))
        }
        Scheme::Memory => Arc::new(InMemory::new()),
    })
}

/// Whether the environment allows plain HTTP, for a store in the same network.
fn allows_plain(variable: &str) -> bool {
    std::env::var(variable).is_ok_and(|value| value.eq_ignore_ascii_case("true"))
}
