//! Each load of TCP clients against their floor, in this process.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::time::Duration;

use martlet_bench::load::Target;
use martlet_bench::load::tcp::idle;
use martlet_bench::load::tcp::latency::{self, Latency};
use martlet_bench::load::tcp::pull::{self, Pulling};
use martlet_bench::load::tcp::send::{self, Sends};
use martlet_bench::template::{Dress, Spread};

fn target(endpoint: String) -> Target {
    let pids = vec![std::process::id()];
    Target { endpoint, topic: "orders".to_owned(), spread: Spread::None, dress: Dress::default(), v1: false, pids }
}

fn floor(after: Duration) -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || martlet_bench::floor_tcp::serve(listener, 2, 256, after));
    target(endpoint)
}

fn sends(batch: usize) -> Sends {
    let (warm, measure) = (Duration::from_millis(50), Duration::from_millis(200));
    Sends { senders: 7, connections: 3, batch, size: 128, warm, measure }
}

#[test]
fn closed_loops_count_messages_and_nothing_fails() {
    for batch in [1, 32] {
        let report = send::closed(&floor(Duration::ZERO), &sends(batch)).unwrap();
        assert_eq!((report.first_error.as_deref(), report.get("failed")), (None, Some(0.0)));
        let messages = report.get("messages").unwrap();
        assert!(messages > 10.0 && messages % batch as f64 == 0.0, "{messages}");
        assert!(report.get("p50").unwrap() > 0.0 && report.get("p50") <= report.get("p99"));
    }
}

#[test]
fn senders_of_one_connection_do_not_wait_for_each_other() {
    let after = Duration::from_millis(20);
    let report = send::closed(&floor(after), &Sends { senders: 30, connections: 1, ..sends(1) }).unwrap();
    assert!(report.get("p50").unwrap() >= 20.0);
    // One after the other there would be at most 10.
    assert!(report.get("messages").unwrap() > 30.0, "{:?}", report.get("messages"));
}

#[test]
fn a_fill_stops_at_its_count_of_messages() {
    for (batch, count) in [(1, 500), (32, 3_200)] {
        let report = send::fill(&floor(Duration::ZERO), &sends(batch), count).unwrap();
        assert_eq!((report.first_error.as_deref(), report.get("messages")), (None, Some(count as f64)));
    }
}

#[test]
fn pulls_account_for_every_message_they_get() {
    for commits in [true, false] {
        let pulling = Pulling { group: "billing".to_owned(), count: 10_000, connections: 3, commits };
        let report = pull::drain(&floor(Duration::ZERO), &pulling).unwrap();
        assert_eq!(report.first_error, None);
        let messages = report.get("messages").unwrap();
        assert!(messages >= 10_000.0 && messages % 32.0 == 0.0, "{messages}");
    }
}

#[test]
fn connections_at_rest_stay_open_and_send_heartbeats() {
    // A heartbeat is due every 150 ms.
    let report = idle::run(&floor(Duration::ZERO), 200, Duration::from_millis(500)).unwrap();
    assert_eq!((report.first_error.as_deref(), report.get("still open")), (None, Some(200.0)));
    assert!(report.get("heartbeats").unwrap() >= 1.0);
}

#[test]
fn a_latency_of_no_messages_is_an_error_not_a_zero() {
    // The floor hands out messages that this run has not sent.
    let (warm, measure) = (Duration::from_millis(10), Duration::from_millis(100));
    let shape = Latency { group: "billing".to_owned(), rate: 100, size: 128, warm, measure };
    let nothing = latency::run(&floor(Duration::ZERO), &shape).unwrap_err().to_string();
    assert_eq!(nothing, "timed: stalled at 0 of 1; last error: none");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let refused = send::closed(&target(unused.clone()), &sends(1)).unwrap_err().to_string();
    assert!(refused.starts_with(&format!("connection to {unused}: ")), "{refused}");
}
