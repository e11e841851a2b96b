//! The broker on a bucket that speaks S3 or Google's protocol, as a process of its own, and the bucket's bad days.

use crate::process::{Broker, martlet, refused_start};
use martlet_s3_server::{Mood, Protocol, SECRET, Server};
use std::process::Command;
use std::time::{Duration, Instant};

/// What the environment says about the server.
fn reached(command: &mut Command, server: &Server, secret: &str) {
    command.envs(server.environment()).env("AWS_SECRET_ACCESS_KEY", secret);
}

fn start(server: &Server, data: &std::path::Path) -> Broker {
    let flags = ["--store", "s3://orders/broker"];
    Broker::start_as(data, &flags, |command| reached(command, server, SECRET))
}

/// Resident bytes of a process.
fn resident(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn is_behind(broker: &Broker) -> bool {
    let (_, metrics) = broker.get("/metrics");
    metrics.lines().any(|line| line.starts_with("martlet_store_behind") && line.ends_with(" 1.0"))
}

/// Sends once; the error, if it was refused.
fn try_to_send(broker: &Broker, body: &str) -> Result<(), String> {
    let output = broker.run(&["send", "orders", body]);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
}

#[test]
fn while_the_bucket_is_away_sends_are_refused_in_time_and_all_goes_on_when_it_is_back() {
    let server = Server::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let broker = start(&server, folder.path());
    broker.ok(&["send", "orders", "before"]);
    let mut sent = vec!["before".to_owned()];
    let rest = resident(&broker);
    let moods = [Mood::Unavailable, Mood::Cut, Mood::Silent, Mood::Expired];
    for (round, mood) in moods.into_iter().enumerate() {
        // Figures are up to a second old.
        while is_behind(&broker) {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        server.is(mood);
        // The first one waits for the bucket.
        let waiting = format!("waiting-{round}");
        let began = Instant::now();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| try_to_send(&broker, &waiting));
            while !is_behind(&broker) {
                assert!(began.elapsed() < Duration::from_secs(30), "{mood:?}: nobody notices");
                std::thread::park_timeout(Duration::from_millis(20));
            }
            // From now on they are refused at once, with memory as it is.
            let large = "x".repeat(100_000);
            for _ in 0..10 {
                let asked = Instant::now();
                let refused = try_to_send(&broker, &large).unwrap_err();
                assert!(refused.contains("the store is behind") && refused.contains("try again"), "{refused}");
                assert!(asked.elapsed() < Duration::from_secs(3), "{mood:?}: refused after {:?}", asked.elapsed());
            }
            assert!(resident(&broker) < rest + (64 << 20), "{mood:?}: {} bytes after {rest}", resident(&broker));
            server.is(Mood::Serving);
            if first.join().unwrap().is_ok() {
                sent.push(waiting.clone());
            }
        });
        let body = format!("after-{round}");
        let back = Instant::now();
        while let Err(error) = try_to_send(&broker, &body) {
            assert!(back.elapsed() < Duration::from_secs(60), "{mood:?}: {error}");
        }
        sent.push(body);
    }
    let (code, _) = broker.get("/healthz");
    assert_eq!(code, 200);
    let received = broker.ok(&["receive", "orders", "--group", "billing", "--count", "100", "--json"]);
    for body in &sent {
        assert!(received.contains(body.as_str()), "{body} is missing: {received}");
    }
    assert!(broker.terminate().0);
}

#[test]
fn a_bucket_that_cannot_be_used_keeps_the_broker_from_starting_and_is_named_with_its_answer() {
    let server = Server::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (store, secret, mood, said) in [
        ("s3://nowhere/broker", SECRET, Mood::Serving, ["put of broker/checks/", "NoSuchBucket"]),
        ("s3://orders/broker", "a wrong secret", Mood::Serving, ["put of broker/checks/", "SignatureDoesNotMatch"]),
        ("s3://orders/broker", SECRET, Mood::Expired, ["put of broker/checks/", "ExpiredToken"]),
    ] {
        server.is(mood);
        let mut command = martlet();
        command.arg("--data").arg(folder.path()).args(["--store", store]);
        reached(&mut command, &server, secret);
        let error = refused_start(&mut command);
        assert!(error.contains(&format!("cannot open the store {store}")), "{error}");
        assert!(said.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn a_broker_on_a_bucket_of_googles_starts_elsewhere_with_all_it_had() {
    let server = Server::start_speaking(Protocol::Google).unwrap();
    let start = |data: &std::path::Path| {
        Broker::start_as(data, &["--store", "gs://orders/broker"], |command| {
            command.envs(server.environment());
        })
    };
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path());
    broker.ok(&["send", "orders", "kept"]);
    broker.kill();
    let elsewhere = tempfile::tempdir().unwrap();
    let broker = start(elsewhere.path());
    let received = broker.ok(&["receive", "orders", "--group", "billing", "--json"]);
    assert!(received.contains("kept"), "{received}");
    assert!(broker.terminate().0);
}
