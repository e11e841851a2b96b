//! `martlet store copy`: a broker moves from a folder into a bucket and back, and nothing is lost on the way.

use crate::process::{Broker, martlet, refused_start, succeeded};
use martlet_s3_server::Server;
use std::path::Path;
use std::process::Output;

const BUCKET: &str = "s3://orders/moved";

fn copy(server: &Server, from: &str, to: &str) -> Output {
    martlet().args(["store", "copy", from, to]).envs(server.environment()).output().unwrap()
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_broker_moves_into_a_bucket_and_back_with_its_messages_progress_and_settings() {
    let server = Server::start().unwrap();
    let home = tempfile::tempdir().unwrap();
    let (first, third) = (home.path().join("first"), home.path().join("third"));
    let broker = Broker::start(&first);
    broker.ok(&["topic", "create", "orders", "--queues", "3", "--retention", "7d"]);
    broker.ok(&["send", "orders", "one", "two", "three", "--key", "4711"]);
    broker.ok(&["receive", "orders", "--group", "billing", "--count", "1"]);
    let stored = broker.ok(&["message", "find", "--topic", "orders", "--key", "4711", "--json"]);
    let running = refused(&copy(&server, text(&first), BUCKET));
    assert!(running.contains("in use") && running.contains(text(&first)), "{running}");
    // Not closed: what a crash leaves is copied as well.
    broker.kill();
    let said = succeeded(&copy(&server, text(&first), BUCKET), &["store", "copy"]);
    assert!(said.starts_with("copied 3 messages") && said.contains(BUCKET), "{said}");
    let again = refused(&copy(&server, text(&first), BUCKET));
    assert!(again.contains(&format!("{BUCKET} is not empty")), "{again}");

    let in_bucket = |command: &mut std::process::Command| {
        command.envs(server.environment());
    };
    let broker = Broker::start_as(&home.path().join("second"), &["--store", BUCKET], in_bucket);
    // By offset: the same key in several queues has no order of its own.
    let found = broker.ok(&["message", "find", "--topic", "orders", "--key", "4711", "--json"]);
    let lines = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&found), lines(&stored), "ids, times and places are the same");
    assert!(broker.ok(&["topic", "describe", "orders"]).contains("7d"));
    broker.ok(&["send", "orders", "four"]);
    assert!(broker.terminate().0);

    succeeded(&copy(&server, BUCKET, text(&third)), &["store", "copy"]);
    let broker = Broker::start(&third);
    let left = broker.ok(&["receive", "orders", "--group", "billing", "--count", "3", "--json"]);
    let bodies = ["one", "two", "three", "four"].map(|body| left.matches(&format!("\"{body}\"")).count());
    assert_eq!(bodies.iter().sum::<usize>(), 3, "what was acknowledged does not come again: {left}");
    assert_eq!(bodies[3], 1, "{left}");
    assert!(broker.ok(&["message", "find", "--topic", "orders", "--key", "4711"]).contains("three"));
}

#[test]
fn an_unfinished_copy_is_opened_by_nobody_and_goes_on() {
    let server = Server::start().unwrap();
    let home = tempfile::tempdir().unwrap();
    let (from, to) = (home.path().join("from"), home.path().join("to"));
    let broker = Broker::start(&from);
    broker.ok(&["send", "orders", "one", "two"]);
    assert!(broker.terminate().0);
    // What a copy that was cut off at its beginning has left.
    std::fs::create_dir(&to).unwrap();
    std::fs::write(to.join("copying-from"), text(&from)).unwrap();
    let error = refused_start(martlet().args(["--data", text(&to)]));
    assert!(error.contains("an unfinished copy of") && error.contains("martlet store copy"), "{error}");
    let error = refused(&copy(&server, BUCKET, text(&to)));
    assert!(error.contains("holds no broker's data"), "{error}");
    let other = home.path().join("other");
    let broker = Broker::start(&other);
    assert!(broker.terminate().0);
    let error = refused(&copy(&server, text(&other), text(&to)));
    assert!(error.contains("holds an unfinished copy of") && error.contains(text(&from)), "{error}");
    succeeded(&copy(&server, text(&from), text(&to)), &["store", "copy"]);
    let broker = Broker::start(&to);
    let received = broker.ok(&["receive", "orders", "--group", "billing", "--count", "2", "--json"]);
    assert!(received.contains("one") && received.contains("two"), "{received}");
}
