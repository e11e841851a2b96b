//! The command line against a running broker: tables, JSON, errors, messages there and back.

use crate::process::{self, Broker, succeeded};
use serde_json::{Value, json};
use std::process::Stdio;

fn broker() -> (tempfile::TempDir, Broker) {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("data"));
    (folder, broker)
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn topics_are_created_listed_described_updated_and_deleted() {
    let (_folder, broker) = broker();
    assert!(broker.ok(&["topic", "list"]).starts_with("no topics yet"));
    let said = broker.ok(&["topic", "create", "orders", "--queues", "4", "--retention", "24h"]);
    assert_eq!(said, "created topic orders (type normal, 4 queues, read-write, retention 1d)\n");
    let list = broker.ok(&["topic", "list"]);
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("NAME") && lines[1].starts_with("orders  normal"), "{list}");
    let topics = parsed(&broker.ok(&["topic", "list", "--json"]));
    assert_eq!((&topics[0]["name"], &topics[0]["retention_millis"]), (&json!("orders"), &json!(86_400_000)));

    broker.ok(&["topic", "update", "orders", "--queues", "2", "--retention", "default"]);
    let topic = parsed(&broker.ok(&["topic", "describe", "orders", "--json"]));
    assert_eq!(topic["retention_millis"], json!(null));
    assert_eq!(topic["broker"], json!("broker-a"));
    assert!(broker.ok(&["topic", "describe", "orders"]).contains("4 to receive, 2 to send"));
    broker.ok(&["topic", "update", "orders", "--read-queues", "2"]);

    let error = broker.fails(&["topic", "create", "orders", "--queues", "9"]);
    assert!(error.contains("topic orders exists already"), "{error}");
    let error = broker.fails(&["topic", "create", "a b"]);
    assert!(error.contains("ILLEGAL_TOPIC"), "{error}");
    let error = broker.fails(&["topic", "update", "orders", "--queues", "5000"]);
    assert!(error.contains("is not between 1 and 1024"), "{error}");
    broker.ok(&["topic", "update", "orders", "--deduplicate", "5m"]);
    assert!(broker.ok(&["topic", "describe", "orders"]).contains("deduplicate 5m\n"));
    broker.ok(&["topic", "update", "orders", "--deduplicate", "off"]);
    assert_eq!(parsed(&broker.ok(&["topic", "describe", "orders", "--json"]))["deduplicate_millis"], json!(null));
    broker.ok(&["topic", "delete", "orders"]);
    let error = broker.fails(&["topic", "describe", "orders"]);
    assert!(error.contains("topic orders does not exist (TOPIC_NOT_FOUND)"), "{error}");
}

#[test]
fn groups_are_created_listed_described_updated_and_deleted() {
    let (_folder, broker) = broker();
    let mut create = vec!["group", "create", "billing", "--max-attempts", "3"];
    create.extend(["--backoff", "1s,2s", "--dead-letters", "discard"]);
    let said = broker.ok(&create);
    assert_eq!(
        said,
        "created consumer group billing (order concurrent, 3 attempts, back-off 1s,2s, dead letters: discard)\n"
    );
    broker.ok(&["group", "update", "billing", "--backoff", "exponential:5s,2h,2"]);
    let group = parsed(&broker.ok(&["group", "describe", "billing", "--json"]));
    assert_eq!((&group["max_attempts"], &group["backoff"]), (&json!(3), &json!("exponential:5s,2h,2")));
    assert_eq!((&group["backlog"], &group["clients"]), (&json!(0), &json!([])));
    assert!(broker.ok(&["group", "list"]).contains("exponential:5s,2h,2"));
    let error = broker.fails(&["group", "create", "billing", "--order", "fifo"]);
    assert!(error.contains("consumer group billing exists already"), "{error}");
    broker.ok(&["group", "delete", "billing"]);
    assert_eq!(broker.ok(&["group", "list", "--json"]).trim(), "[]");
    broker.ok(&["group", "create", "late", "--from", "latest"]);
    assert_eq!(parsed(&broker.ok(&["group", "describe", "late", "--json"]))["from"], json!("latest"));
    assert!(broker.ok(&["group", "describe", "late"]).contains("begins        latest (of 20"));
    broker.ok(&["group", "update", "late", "--from", "2026-01-31T23:59:59Z"]);
    let group = parsed(&broker.ok(&["group", "describe", "late", "--json"]));
    assert_eq!((&group["from"], &group["from_millis"]), (&json!("time"), &json!(1_769_903_999_000_i64)));
    let error = broker.fails(&["group", "update", "late", "--from", "4711"]);
    assert!(error.contains("an offset, which means another message in each queue"), "{error}");
    broker.ok(&["group", "delete", "late"]);
}

#[test]
fn sql_conditions_choose_what_is_received_and_bad_ones_are_refused_with_their_place() {
    let (_folder, broker) = broker();
    broker.ok(&["topic", "create", "orders", "--queues", "1"]);
    for amount in ["50", "150", "many", "250"] {
        broker.ok(&["send", "orders", amount, "--property", &format!("order-amount={amount}"), "--tag", "red"]);
    }
    let sql = "order-amount BETWEEN 100 AND 200 AND TAGS = 'red'";
    let received = broker.ok(&["receive", "orders", "--group", "billing", "--sql", sql, "--count", "1", "--json"]);
    assert_eq!(parsed(&received)["body"], json!("150"));
    let group = parsed(&broker.ok(&["group", "describe", "billing", "--json"]));
    let subscription = &group["subscriptions"][0];
    assert_eq!((&subscription["type"], &subscription["expression"]), (&json!("sql"), &json!(sql)));
    assert_eq!(group["disagreement"], json!(null));
    let error = broker.fails(&["receive", "orders", "--group", "billing", "--sql", "order-amount > 'x'"]);
    assert!(error.contains("position 15") && error.contains("ILLEGAL_FILTER_EXPRESSION"), "{error}");
}

#[test]
fn what_is_sent_is_received_with_everything_it_had_and_then_acknowledged() {
    let (_folder, broker) = broker();
    broker.ok(&["topic", "create", "orders", "--queues", "1"]);
    broker.ok(&["group", "create", "billing"]);
    let mut send = vec!["send", "orders", "grüße", "second", "--tag", "red", "--key", "k1", "--key", "k2"];
    send.extend(["--property", "colour=dark red"]);
    broker.ok(&send);
    let received = broker.ok(&["receive", "orders", "--group", "billing", "--count", "2", "--json"]);
    let messages: Vec<Value> = received.lines().map(parsed).collect();
    let mut bodies: Vec<&Value> = messages.iter().map(|message| &message["body"]).collect();
    bodies.sort_by_key(|body| body.to_string());
    assert_eq!(bodies, [&json!("grüße"), &json!("second")]);
    for message in &messages {
        assert_eq!(message["tag"], json!("red"));
        assert_eq!(message["keys"], json!(["k1", "k2"]));
        assert_eq!(message["properties"], json!({ "colour": "dark red" }));
        assert_eq!((&message["attempt"], &message["queue"]), (&json!(1), &json!(0)));
    }
    let group = parsed(&broker.ok(&["group", "describe", "billing", "--json"]));
    assert_eq!(group["backlog"], json!(0));
    assert_eq!(group["progress"][0]["committed_offset"], json!(2));
}

#[test]
fn json_lines_go_in_and_come_out_and_a_bad_one_is_named() {
    let (_folder, broker) = broker();
    broker.ok(&["topic", "create", "orders", "--queues", "4"]);
    let lines: String =
        (0..500).map(|number| format!("{{\"body\":\"m{number}\",\"keys\":[\"{number}\"]}}\n")).collect();
    let sent = broker.run_with_input(&["send", "orders", "--json"], &lines);
    assert_eq!(succeeded(&sent, &["send"]).lines().count(), 500);
    let received = broker.ok(&["receive", "orders", "--group", "g", "--count", "500", "--json"]);
    let mut numbers: Vec<u32> =
        received.lines().map(|line| parsed(line)["keys"][0].as_str().unwrap().parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..500).collect::<Vec<u32>>());

    let bad = broker.run_with_input(&["send", "orders", "-"], "{\"body\":\"a\"}\n{\"boddy\":\"b\"}\n");
    let error = String::from_utf8(bad.stderr).unwrap();
    assert!(!bad.status.success() && error.contains("standard input, line 2: unknown field `boddy`"), "{error}");
}

#[test]
fn killed_and_started_again_it_has_every_acknowledged_message() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let broker = Broker::start(&data);
    broker.ok(&["topic", "create", "orders", "--queues", "2"]);
    broker.ok(&["group", "create", "billing"]);
    broker.ok(&["send", "orders", "before", "--count", "200"]);
    let first = broker.ok(&["receive", "orders", "--group", "billing", "--count", "50"]);
    assert_eq!(first.lines().count(), 50);
    broker.kill();
    let broker = Broker::start(&data);
    let rest = broker.ok(&["receive", "orders", "--group", "billing", "--count", "150"]);
    assert_eq!(rest.lines().count(), 150);
    assert!(rest.lines().all(|line| !line.contains("attempt=")), "a settled message came again:\n{rest}");
    let group = parsed(&broker.ok(&["group", "describe", "billing", "--json"]));
    assert_eq!(group["backlog"], json!(0));
}

#[test]
fn metrics_count_what_happened() {
    let (_folder, broker) = broker();
    broker.ok(&["topic", "create", "orders"]);
    broker.ok(&["group", "create", "billing"]);
    broker.ok(&["send", "orders", "a", "--count", "7"]);
    broker.ok(&["receive", "orders", "--group", "billing", "--count", "3"]);
    let (status, text) = broker.get("/metrics");
    assert_eq!(status, 200);
    let value = |name: &str, label: &str| {
        let line = text.lines().find(|line| line.starts_with(name) && line.contains(label));
        line.unwrap_or_else(|| panic!("{name} {label} is not in\n{text}")).rsplit(' ').next().unwrap().to_owned()
    };
    assert_eq!(value("rocketmq_messages_in_total{", "topic=\"orders\""), "7.0");
    assert_eq!(value("rocketmq_messages_out_total{", "consumer_group=\"billing\""), "3.0");
    assert_eq!(value("rocketmq_consumer_lag_messages{", "consumer_group=\"billing\""), "4.0");
    assert_eq!(value("rocketmq_topic_number{", ""), "1.0");
    assert!(value("process_resident_memory_bytes{", "").parse::<f64>().unwrap() > 1e6);
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_broker_that_is_not_there_is_an_error_with_its_address() {
    let output = process::martlet().args(["topic", "list", "--endpoint", "127.0.0.1:1"]).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains("cannot reach a broker at 127.0.0.1:1"), "{error}");
}

#[test]
fn a_damaged_log_is_shown_repaired_by_name_and_what_is_lost_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = data.to_str().unwrap();
    let broker = Broker::start(&data);
    broker.ok(&["topic", "create", "orders", "--queues", "1"]);
    for body in ["first", "precious", "third"] {
        broker.ok(&["send", "orders", body]);
    }
    broker.kill();
    let log = |arguments: &[&str]| process::martlet().arg("log").args(arguments).output().unwrap();
    assert!(log(&["inspect", path]).status.success());

    let segment = data.join("shard-0/0000000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let place = bytes.windows(8).position(|window| window == b"precious").unwrap();
    bytes[place] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();

    let mut start = process::martlet();
    start.args(["--nameserver-listen", "off", "--remoting-listen", "off", "--http-listen", "off"]);
    start.args(["--grpc-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", path]);
    let error = process::refused_start(&mut start);
    assert!(error.contains("0000000001.seg is damaged at position"), "{error}");
    let shown = log(&["inspect", path]);
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(!shown.status.success() && text.contains("DAMAGED") && text.contains("expected"), "{text}");
    let frame = text.split_once("--frame ").unwrap().1.split_whitespace().next().unwrap();
    let repaired = log(&["repair", path, "--frame", frame, "--json"]);
    let lost = parsed(&succeeded(&repaired, &["repair"]));
    assert_eq!((&lost["messages"][0]["offset"], &lost["messages"][0]["intact"]), (&json!(1), &json!(false)), "{lost}");

    let broker = Broker::start(&data);
    let received = broker.ok(&["receive", "orders", "--group", "g", "--count", "2"]);
    assert!(received.contains("first") && received.contains("third"), "{received}");
    let bad = log(&["repair", path, "--frame", "x"]);
    assert!(String::from_utf8(bad.stderr).unwrap().contains("a frame is SEGMENT:POSITION"));
}

#[test]
fn a_reader_that_leaves_early_ends_a_command_and_is_no_error() {
    let (_folder, broker) = broker();
    broker.ok(&["topic", "create", "orders"]);
    for arguments in [&["topic", "list"][..], &["topic", "describe", "orders"], &["topic", "list", "--json"]] {
        let mut command = process::martlet();
        command.args(arguments).args(["--endpoint", &broker.grpc]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        assert!(output.status.success(), "{arguments:?}: {}", output.status);
    }
}
