//! Each load against the floor, in this process.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::time::Duration;

use martlet_bench::load::latency::{self, Latency};
use martlet_bench::load::receive::{self, Acks, Receives};
use martlet_bench::load::send::{self, Sends};
use martlet_bench::load::{Target, idle};
use martlet_bench::template::{Dress, Spread};

fn floor() -> Target {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || martlet_bench::floor::serve(listener, 2, 256));
    Target {
        endpoint,
        topic: "orders".to_owned(),
        spread: Spread::None,
        dress: Dress::default(),
        v1: false,
        pids: vec![std::process::id()],
    }
}

fn sends(threads: usize) -> Sends {
    Sends {
        senders: 6,
        connections: 3,
        threads,
        size: 128,
        warm: Duration::from_millis(50),
        measure: Duration::from_millis(200),
    }
}

#[test]
fn closed_loops_count_what_was_answered_and_nothing_fails() {
    for threads in [1, 2] {
        let report = send::closed(&floor(), &sends(threads)).unwrap();
        assert_eq!(report.first_error, None);
        assert_eq!(report.get("failed"), Some(0.0));
        assert!(report.get("messages").unwrap() > 10.0);
        assert!(report.get("p50").unwrap() > 0.0 && report.get("p50") <= report.get("p99"));
    }
}

#[test]
fn a_fill_stops_at_its_count() {
    let report = send::fill(&floor(), &sends(2), 500).unwrap();
    assert_eq!(report.get("messages"), Some(500.0));
    assert_eq!(report.first_error, None);
}

#[test]
fn an_open_loop_keeps_its_rate_on_a_server_that_can_follow() {
    let shape = Sends { measure: Duration::from_millis(500), ..sends(1) };
    let report = send::open(&floor(), &shape, 200).unwrap();
    assert_eq!(report.get("failed"), Some(0.0));
    let sent = report.get("messages").unwrap();
    assert!((50.0..=150.0).contains(&sent), "{sent} of about 100");
}

#[test]
fn each_way_of_acknowledging_accounts_for_everything_it_receives() {
    for acks in [Acks::Batch, Acks::Single, Acks::None] {
        let shape = Receives { group: "billing".to_owned(), pollers: 4, connections: 2, count: 1_000, acks };
        let report = receive::drain(&floor(), &shape).unwrap();
        assert_eq!(report.first_error, None);
        assert!(report.get("messages").unwrap() >= 1_000.0);
    }
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let target = Target {
        endpoint: unused.clone(),
        topic: "orders".to_owned(),
        spread: Spread::None,
        dress: Dress::default(),
        v1: false,
        pids: vec![],
    };
    let refused = send::closed(&target, &sends(2)).unwrap_err().to_string();
    assert!(refused.starts_with(&format!("connection to {unused}: ")), "{refused}");
    let never = idle::until_ready(&target, Duration::from_millis(50), || false).unwrap_err().to_string();
    assert!(never.starts_with("ready: stalled at 0 of 1; last error: connection to "), "{never}");
}

#[test]
fn a_latency_of_no_messages_is_an_error_not_a_zero() {
    // The floor hands out messages that this run has not sent.
    let shape = Latency {
        rate: 100,
        size: 128,
        group: "billing".to_owned(),
        pollers: 1,
        warm: Duration::from_millis(10),
        measure: Duration::from_millis(100),
    };
    let nothing = latency::run(&floor(), &shape).unwrap_err().to_string();
    assert_eq!(nothing, "timed: stalled at 0 of 1; last error: none");
}
