use super::*;
use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt::{Display, Formatter};
use std::sync::Arc;

/// Refuses one kind of operation, or forgets that objects must not be created twice.
#[derive(Debug, Default)]
struct Fault {
    memory: InMemory,
    refused: &'static str,
    creates_twice: bool,
}

impl Display for Fault {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("fault")
    }
}

fn denied(path: &Path) -> Error {
    Error::PermissionDenied { path: path.to_string(), source: "403 AccessDenied".into() }
}

impl Fault {
    fn check(&self, operation: &str, path: &Path) -> Result<()> {
        if self.refused == operation { Err(denied(path)) } else { Ok(()) }
    }
}

#[async_trait]
impl ObjectStore for Fault {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.check("put", location)?;
        let options = if self.creates_twice { PutOptions { mode: PutMode::Overwrite, ..options } } else { options };
        self.memory.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check("get", location)?;
        self.memory.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.refused {
            "delete" => locations.map(|location| Err(denied(&location?))).boxed(),
            _ => self.memory.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match prefix {
            Some(prefix) if self.refused == "list" => stream::once(std::future::ready(Err(denied(prefix)))).boxed(),
            _ => self.memory.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

fn open(fault: Fault) -> std::result::Result<Bucket, BucketError> {
    Bucket::of_store("s3://orders/a/b".parse().unwrap(), Arc::new(fault), "test")
}

#[test]
fn each_missing_right_is_told_with_the_operation_the_object_and_the_answer() {
    for (refused, object) in
        [("put", "a/b/checks/test"), ("get", "a/b/checks/test"), ("list", "a/b/checks"), ("delete", "a/b/checks/test")]
    {
        let Err(error) = open(Fault { refused, ..Fault::default() }) else { panic!("opened without {refused}") };
        let said = error.to_string();
        assert!(said.starts_with(&format!("{refused} of {object} in s3://orders/a/b failed: ")), "{said}");
        assert!(said.contains("403 AccessDenied"), "{said}");
    }
}

#[test]
fn a_store_that_creates_an_object_twice_is_refused() {
    let Err(error) = open(Fault { creates_twice: true, ..Fault::default() }) else { panic!("opened") };
    assert!(matches!(error, BucketError::NoConditionalWrites { .. }), "{error}");
}

#[test]
fn everything_lies_under_the_prefix_and_is_counted_by_class() {
    let bucket = open(Fault::default()).unwrap();
    assert!(bucket.created());
    assert_eq!(bucket.path("shard-0/wal/1").as_ref(), "a/b/shard-0/wal/1");
    let before = bucket.meter().counts(Class::Wal);
    assert_eq!(before, Counts::default());
    let (counted, runtime) = (bucket.clone(), bucket.runtime());
    runtime.block_on(async move {
        counted.store().put(&counted.path("shard-0/wal/1"), "1234".into()).await.unwrap();
        counted.store().get(&counted.path("shard-0/wal/1")).await.unwrap();
        counted.compaction_store().put(&counted.path("shard-0/compacted/1"), "12".into()).await.unwrap();
    });
    let wal = bucket.meter().counts(Class::Wal);
    assert_eq!((wal.puts, wal.gets, wal.bytes_sent, wal.bytes_received), (1, 1, 4, 4));
    assert_eq!(bucket.meter().counts(Class::Compaction).bytes_sent, 2);
    assert_eq!(bucket.meter().counts(Class::Table), Counts::default());
}

#[test]
fn a_place_that_was_opened_before_is_known_and_an_unknown_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::of_folder(folder.path()).unwrap();
    assert!(Bucket::open(location.clone(), "one").unwrap().created());
    assert!(!Bucket::open(location.clone(), "two").unwrap().created());
    let file = folder.path().join("format.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for (from, to, said) in [
        ("\"format\": 1", "\"format\": 2", "has format version 2; this build knows 1 to 1"),
        ("0.18.0", "0.19.0", "has SlateDB version 0.19.0; this build knows 0.18.0"),
        ("{", "", "is damaged"),
    ] {
        std::fs::write(&file, text.replace(from, to)).unwrap();
        let Err(error) = Bucket::open(location.clone(), "three") else { panic!("opened with {to}") };
        assert!(error.to_string().contains(said), "{error}");
    }
}
