//! The object engine over the real S3 protocol, and Google's: requests through a socket to a server in this process, or to
//! a store of somebody else's.
#![allow(missing_docs, clippy::unwrap_used)]

use martlet_bucket::{Bucket, BucketError, Location};
use martlet_model::{QueueId, QueueOffset, UnixMillis};
use martlet_s3_server::{BUCKET, KEY, Protocol, SECRET, Server};
use martlet_store::conformance::{self, Bell, Subject, block_on};
use martlet_store::object::{BucketOptions, BucketStore};
use martlet_store::{Batch, Op, Reader, Store, Ticket};
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

fn connect(server: &Server, bucket: &str, secret: &str) -> Arc<dyn ObjectStore> {
    let retry = RetryConfig { max_retries: 2, retry_timeout: Duration::from_secs(5), ..RetryConfig::default() };
    let builder = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_region("us-east-1")
        .with_access_key_id(KEY)
        .with_secret_access_key(secret)
        .with_bucket_name(bucket)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_retry(retry);
    Arc::new(builder.build().unwrap())
}

fn open(server: &Server, bucket: &str, secret: &str) -> Result<Bucket, BucketError> {
    let location: Location = format!("s3://{bucket}/broker").parse().unwrap();
    Bucket::of_store(location, connect(server, bucket, secret), "test")
}

/// Where it is set, the contract is tried on the store that it names, `s3://bucket/prefix`, `gs://…` or `az://…`, with
/// the credentials in the environment, instead of on a server in this process that speaks S3.
const STORE: &str = "MARTLET_TEST_STORE";

struct Place {
    bucket: Bucket,
    bell: Arc<Bell>,
    _server: Option<Server>,
}

impl Place {
    /// A place that nobody has used yet.
    fn new(name: &str) -> Self {
        if let Ok(store) = std::env::var(STORE) {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            let location: Location = format!("{store}/{name}-{}", now.as_millis()).parse().unwrap();
            return Self { bucket: Bucket::open(location, "test").unwrap(), bell: Arc::default(), _server: None };
        }
        let server = Server::start().unwrap();
        let bucket = open(&server, BUCKET, SECRET).unwrap();
        Self { bucket, bell: Arc::default(), _server: Some(server) }
    }

    /// One on a server that speaks Google's protocol.
    fn of_googles() -> Self {
        let server = Server::start_speaking(Protocol::Google).unwrap();
        let builder = GoogleCloudStorageBuilder::new()
            .with_base_url(&server.endpoint())
            .with_bearer_token(SECRET)
            .with_bucket_name(BUCKET)
            .with_client_options(ClientOptions::new().with_allow_http(true));
        let location = format!("gs://{BUCKET}/broker").parse().unwrap();
        let bucket = Bucket::of_store(location, Arc::new(builder.build().unwrap()), "test").unwrap();
        Self { bucket, bell: Arc::default(), _server: Some(server) }
    }
}

impl Subject for Place {
    type Store = BucketStore;

    fn open(&mut self) -> BucketStore {
        let options = BucketOptions::new(self.bucket.clone(), "shard-0", self.bell.waker());
        BucketStore::open(BucketOptions { flush_interval: Duration::ZERO, ..options }).unwrap().0
    }

    fn wait(&mut self, store: &mut BucketStore, ticket: Ticket) {
        let durable = self.bell.wait_until(|| {
            assert!(store.progress().failed.is_none(), "{:?}", store.progress());
            store.progress().durable >= ticket
        });
        assert!(durable, "{:?}", store.progress());
    }

    fn close(&mut self, store: BucketStore) {
        let progress = store.close();
        assert!(progress.failed.is_none(), "{progress:?}");
    }
}

fn keeps_the_contract(place: impl Fn(&str) -> Place) {
    conformance::a_batch_is_readable_at_once_and_after_opening_again(&mut place("batches"));
    conformance::keys_hold_an_image_and_the_deltas_since(&mut place("keys"));
    conformance::bounds_outlive_the_messages_and_end_with_forget(&mut place("bounds"));
    conformance::a_message_may_be_larger_than_a_segment(&mut place("large"));
    conformance::random_batches_read_like_the_model(&mut place("random"), 1);
}

#[test]
fn the_contract_is_kept() {
    keeps_the_contract(Place::new);
}

#[test]
fn the_contract_is_kept_over_googles_protocol() {
    keeps_the_contract(|_| Place::of_googles());
}

#[test]
fn a_second_owner_takes_over() {
    takes_over(Place::new("owners"));
}

#[test]
fn a_second_owner_takes_over_through_googles_protocol() {
    takes_over(Place::of_googles());
}

fn takes_over(mut place: Place) {
    let message = |offset: u64| {
        let op = Op::Append {
            queue: QueueId(1),
            offset: QueueOffset(offset),
            record: "a message".into(),
            terms: Vec::new(),
            keep_until: UnixMillis(1_000_000),
        };
        Batch { time: UnixMillis(1), ops: vec![op] }
    };
    let mut first = place.open();
    let ticket = first.commit(message(0));
    place.wait(&mut first, ticket);
    let mut second = place.open();
    first.commit(message(1));
    assert!(place.bell.wait_until(|| first.progress().failed.is_some()), "the first owner does not learn it");
    let ticket = second.commit(message(1));
    place.wait(&mut second, ticket);
    let range = QueueOffset(0)..QueueOffset(9);
    assert_eq!(block_on(second.reader().messages(QueueId(1), range, 9, 999)).unwrap().len(), 2);
    drop(first);
    place.close(second);
}

#[test]
fn a_bucket_that_cannot_be_used_is_refused_with_the_operation_and_the_stores_answer() {
    let server = Server::start().unwrap();
    let told = |bucket: &str, secret: &str| match open(&server, bucket, secret) {
        Ok(_) => panic!("{bucket} was opened"),
        Err(error) => error.to_string(),
    };
    let forbidden = told("orders", "a wrong secret");
    assert!(forbidden.contains("SignatureDoesNotMatch"), "{forbidden}");
    open(&server, "orders", SECRET).unwrap();
    let missing = told("nowhere", SECRET);
    assert!(missing.starts_with("put of broker/checks/test in s3://nowhere/broker failed: "), "{missing}");
    assert!(missing.contains("NoSuchBucket"), "{missing}");
    let format = server.folder().join("orders/broker/format.json");
    let text = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    assert_eq!(
        told("orders", SECRET),
        "format.json in s3://orders/broker has format version 2; this build knows 1 to 1"
    );
    std::fs::write(&format, text.replace("0.18.0", "0.19.0")).unwrap();
    assert_eq!(
        told("orders", SECRET),
        "format.json in s3://orders/broker has SlateDB version 0.19.0; this build knows 0.18.0"
    );
}
