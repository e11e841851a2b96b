//! The broker on a bucket, here a folder in its stead: other processes take it over.

use crate::process::{Broker, martlet, refused_start};
use std::path::Path;

fn store_of(folder: &Path) -> String {
    format!("file://{}", folder.join("bucket").display())
}

#[test]
fn messages_outlive_a_process_that_was_killed_and_one_that_starts_elsewhere_serves_them() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_of(folder.path());
    let first = Broker::start_with(&folder.path().join("one"), &["--store", &store]);
    assert!(first.said.contains(&format!("{store} (new)")), "{}", first.said);
    assert!(first.said.contains("when the bucket has it"), "{}", first.said);
    first.ok(&["send", "orders", "body-a", "body-b", "body-c"]);
    first.kill();
    let second = Broker::start_with(&folder.path().join("two"), &["--store", &store]);
    assert!(second.said.contains("1 topic,"), "{}", second.said);
    let received = second.ok(&["receive", "orders", "--group", "billing", "--count", "3", "--json"]);
    for body in ["body-a", "body-b", "body-c"] {
        assert!(received.contains(body), "{body} missing: {received}");
    }
    let (_, metrics) = second.get("/metrics");
    assert!(metrics.contains("martlet_bucket_requests_total"), "{metrics}");
    assert!(second.terminate().0);
}

#[test]
fn a_process_that_was_overtaken_says_so_and_serves_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = store_of(folder.path());
    let first = Broker::start_with(&folder.path().join("one"), &["--store", &store]);
    let second = Broker::start_with(&folder.path().join("two"), &["--store", &store]);
    // It had a second to notice before the other one was ready.
    let (code, reason) = first.get("/healthz");
    assert_eq!(code, 503, "{reason}");
    assert!(reason.contains("another process has taken the shard over"), "{reason}");
    let error = first.fails(&["send", "orders", "x"]);
    assert!(error.contains("has stopped"), "{error}");
    second.ok(&["send", "orders", "x"]);
}

#[test]
fn what_names_no_store_is_refused_with_what_it_takes() {
    let error = refused_start(martlet().args(["--store", "ftp://somewhere"]));
    assert!(error.contains("flag --store") && error.contains("s3://BUCKET/PREFIX"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bucket"), "a file").unwrap();
    let error = refused_start(martlet().args(["--store", &store_of(folder.path())]));
    assert!(error.contains("cannot open the store file://") && error.contains("create of the folder"), "{error}");
}
