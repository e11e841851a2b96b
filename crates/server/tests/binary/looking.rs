//! Commands that look at messages, resend dead letters and move groups.

use crate::process::Broker;
use serde_json::Value;

#[test]
fn messages_are_found_and_peeked_at_and_stay_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("data"));
    broker.ok(&["topic", "create", "orders", "--queues", "1"]);
    for body in ["one", "two", "three"] {
        broker.ok(&["send", "orders", body, "--key", "4711", "--tag", body]);
    }
    let found = broker.ok(&["message", "find", "--topic", "orders", "--key", "4711", "--json"]);
    let found: Vec<Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(
        found.iter().map(|message| message["body"].as_str().unwrap()).collect::<Vec<_>>(),
        ["three", "two", "one"]
    );
    let id = found[1]["message_id"].as_str().unwrap();
    let shown = broker.ok(&["message", "get", id]);
    assert!(shown.contains("queue 0, offset 1") && shown.contains("two"), "{shown}");
    assert!(broker.fails(&["message", "get", "nothing"]).contains("there is no message nothing"));
    let table = broker.ok(&["message", "peek", "--topic", "orders", "--offset", "1", "--count", "1"]);
    assert!(table.contains("MESSAGE ID") && table.contains("two") && !table.contains("three"), "{table}");
    let recent = broker.ok(&["message", "peek", "--topic", "orders", "--since", "10m", "--json"]);
    assert_eq!(recent.lines().count(), 3);
    assert!(
        broker.ok(&["message", "peek", "--topic", "orders", "--since", "2100-01-01T00:00Z"]).contains("no messages")
    );
    assert!(broker.fails(&["message", "peek", "--topic", "none"]).contains("topic none does not exist"));
    assert_eq!(broker.ok(&["receive", "orders", "--group", "billing"]).lines().count(), 3, "nothing was consumed");
}

#[test]
fn a_group_is_moved_and_its_dead_letters_are_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("data"));
    broker.ok(&["topic", "create", "orders", "--queues", "1"]);
    broker.ok(&["group", "create", "billing", "--max-attempts", "1"]);
    broker.ok(&["send", "orders", "one", "two"]);
    assert_eq!(broker.ok(&["receive", "orders", "--group", "billing"]).lines().count(), 2);
    let moved = broker.ok(&["group", "reset-offset", "billing", "orders", "--to", "earliest"]);
    assert!(moved.contains("WAS AT") && moved.contains('2'), "{moved}");
    let moved = broker.ok(&["group", "reset-offset", "billing", "orders", "--to", "1", "--queue", "0", "--json"]);
    let moved: Value = serde_json::from_str(&moved).unwrap();
    assert_eq!((moved[0]["from_offset"].as_u64(), moved[0]["to_offset"].as_u64()), (Some(0), Some(1)));
    let error = broker.fails(&["group", "reset-offset", "billing", "orders", "--to", "9"]);
    assert!(error.contains("offset 9 of queue 0 is not from 0 to 2"), "{error}");

    broker.ok(&["receive", "orders", "--group", "billing", "--no-ack", "--invisible", "10s", "--count", "1"]);
    let started = std::time::Instant::now();
    while broker.ok(&["dead-letter", "list", "billing"]).contains("no dead letters") {
        assert!(started.elapsed().as_secs() < 60, "it does not become a dead letter");
        std::thread::park_timeout(std::time::Duration::from_millis(200));
    }
    let listed = broker.ok(&["dead-letter", "list", "billing", "--json"]);
    let letter: Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!(letter["body"], "two");
    let shown = broker.ok(&["dead-letter", "show", "billing", letter["message_id"].as_str().unwrap()]);
    assert!(shown.contains("dead letter of orders"), "{shown}");
    let resent = broker.ok(&["dead-letter", "resend", "billing", "--all"]);
    assert!(resent.contains("resent to orders at offset 2 of queue 0"), "{resent}");
    assert!(broker.ok(&["dead-letter", "list", "billing"]).contains("no dead letters"));
    let error = broker.fails(&["dead-letter", "resend", "billing", letter["message_id"].as_str().unwrap()]);
    assert!(error.contains("nothing was resent"), "{error}");
    assert!(broker.ok(&["receive", "orders", "--group", "billing"]).contains("two"));
}

#[test]
fn lite_topics_are_listed_and_described_for_people() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("data"));
    broker.ok(&["topic", "create", "chat", "--type", "lite"]);
    broker.ok(&["group", "create", "web", "--pattern", "lite-selective", "--lite-parent", "chat"]);
    let empty = broker.ok(&["lite", "list", "chat"]);
    assert_eq!(empty, "no lite topics of chat yet; the first message to one makes it\n");
    broker.ok(&["send", "chat", "hello", "--lite-topic", "alice"]);
    broker.ok(&["send", "chat", "one", "two", "--lite-topic", "bob"]);
    // The list is read from the index, which what was sent just now reaches a little later.
    let started = std::time::Instant::now();
    let listed = loop {
        let listed = broker.ok(&["lite", "list", "chat", "--group", "web"]);
        let has_both = listed.lines().any(|line| line.split_whitespace().take(3).eq(["bob", "2", "2"]));
        if has_both || started.elapsed().as_secs() > 60 {
            break listed;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(100));
    };
    assert!(listed.contains("COMMITTED") && listed.ends_with("all 2 lite topics of chat\n"), "{listed}");
    let first = broker.ok(&["lite", "list", "chat", "--count", "1"]);
    assert!(first.contains("alice") && !first.contains("bob") && first.contains("the first 1 of "), "{first}");
    let described = broker.ok(&["lite", "describe", "chat", "bob", "--group", "web"]);
    for line in ["messages     2 (offsets from 0, the next one gets 2)", "backlog      2 never handed out", "no client"]
    {
        assert!(described.contains(line), "{line}: {described}");
    }
    assert!(broker.fails(&["lite", "describe", "chat", "carol"]).contains("carol of topic chat does not exist"));
}

#[test]
fn a_group_is_moved_in_lite_topics_and_its_backlog_has_an_age() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("data"));
    broker.ok(&["topic", "create", "chat", "--type", "lite"]);
    broker.ok(&["group", "create", "web", "--pattern", "lite-selective", "--lite-parent", "chat"]);
    broker.ok(&["send", "chat", "hello", "--lite-topic", "alice"]);
    broker.ok(&["send", "chat", "one", "two", "--lite-topic", "bob"]);
    let reset = |more: &[&'static str]| [&["group", "reset-offset", "web", "chat", "--to"], more].concat();
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(broker.ok(&reset(&["earliest"])), "moved in 0 lite topics\n", "it has been in none");
    for name in ["alice", "bob"] {
        broker.ok(&reset(&["latest", "--lite-topic", name]));
    }
    let moved = broker.ok(&reset(&["1", "--lite-topic", "bob"]));
    assert_eq!(words(moved.lines().last().unwrap_or_default()), ["bob", "2", "1"], "{moved}");
    assert!(broker.fails(&reset(&["1"])).contains("is a place of one lite topic, which has to be named"));
    assert!(broker.fails(&reset(&["1", "--lite-topic", "carol"])).contains("carol of topic chat does not exist"));
    assert_eq!(broker.ok(&reset(&["10m"])), "moved in 2 lite topics\n");
    let moved: Value = serde_json::from_str(&broker.ok(&reset(&["earliest", "--json"]))).unwrap();
    assert_eq!(moved[0]["lite_topic"], "alice");

    let described: Value = serde_json::from_str(&broker.ok(&["group", "describe", "web", "--json"])).unwrap();
    let progress = &described["progress"][0];
    assert_eq!((&progress["topic"], progress["ready"].as_u64()), (&Value::from("chat"), Some(3)));
    let ages = (progress["lag_millis"].as_i64(), progress["queueing_millis"].as_i64());
    assert!(ages.0 > Some(0) && ages.1 > Some(0), "{ages:?}");
    let described = broker.ok(&["group", "describe", "web"]);
    let row = described.lines().find(|line| line.starts_with("chat")).expect("there is a row for the parent");
    assert_eq!(words(row)[..8], ["chat", "-", "-", "-", "3", "0", "0", "3"], "{row}");
    let parent = broker.ok(&["topic", "describe", "chat"]);
    assert!(parent.contains("its messages are in its lite topics: martlet lite list chat"), "{parent}");
}
