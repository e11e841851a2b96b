//! Members of groups, pulls, offsets and locks.

#![allow(clippy::unwrap_used)]

mod world;

use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::message::decode_all;
use world::{Client, World, denied, field, json};

async fn heartbeat(client: &mut Client, id: &str, group: &str, topic: &str, version: i64) {
    heartbeat_as(client, 1, id, group, topic, version).await;
}

/// `model`: 0 broadcasts, 1 shares messages.
async fn heartbeat_as(client: &mut Client, model: i32, id: &str, group: &str, topic: &str, version: i64) {
    // Some clients write numbers as texts, and names as their places in a list.
    let body = format!(
        r#"{{"clientID":"{id}","producerDataSet":[{{"groupName":"CLIENT_INNER_PRODUCER"}}],"consumerDataSet":[{{"groupName":"{group}",
        "consumeType":1,"messageModel":{model},"consumeFromWhere":0,"unitMode":false,
        "subscriptionDataSet":[{{"topic":"{topic}","subString":"a || b","subVersion":"{version}"}}]}}]}}"#
    );
    let answer = client.ask(request::HEART_BEAT, &[], body.as_bytes()).await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
}

fn pull_fields<'a>(queue: &'a str, offset: &'a str, flags: &'a str, version: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("consumerGroup", "billing"),
        ("topic", "orders"),
        ("queueId", queue),
        ("queueOffset", offset),
        ("maxMsgNums", "32"),
        ("sysFlag", flags),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "20000"),
        ("subVersion", version),
    ]
}

#[tokio::test]
async fn members_are_listed_and_told_when_others_come_and_go() {
    let world = World::new();
    let (mut one, mut two) = (world.client().await, world.client().await);
    let list = [("consumerGroup", "billing")];
    let answer = one.ask(request::GET_CONSUMER_LIST_BY_GROUP, &list, b"").await;
    assert_eq!(answer.header.code, response::SYSTEM_ERROR);
    heartbeat(&mut one, "c1", "billing", "orders", 1).await;
    let notice = one.notice().await;
    assert_eq!(
        (notice.header.code, field(&notice, "consumerGroup")),
        (request::NOTIFY_CONSUMER_IDS_CHANGED, "billing")
    );
    heartbeat(&mut two, "c2", "billing", "orders", 1).await;
    for client in [&mut one, &mut two] {
        let notice = client.notice().await;
        assert_eq!((notice.header.code, notice.header.is_one_way()), (request::NOTIFY_CONSUMER_IDS_CHANGED, true));
    }
    let answer = one.ask(request::GET_CONSUMER_LIST_BY_GROUP, &list, b"").await;
    assert_eq!(&answer.body[..], br#"{"consumerIdList":["c1","c2"]}"#);
    for (client, queues) in [("c1", 0..2), ("c2", 2..4)] {
        one.produce("orders", "0", &[], b"body").await;
        let body = format!(
            r#"{{"topic":"orders","consumerGroup":"billing","clientId":"{client}","strategyName":"AVG","messageModel":"CLUSTERING"}}"#
        );
        let answer = one.ask(request::QUERY_ASSIGNMENT, &[], body.as_bytes()).await;
        let assigned = json(&answer.body);
        let found = assigned.items("messageQueueAssignments").iter();
        let found: Vec<_> = found.filter_map(|one| one.get("messageQueue")?.int("queueId")).collect();
        assert_eq!(found, queues.collect::<Vec<i64>>(), "{client}");
    }
    // A heartbeat that says the same changes nothing; a closed connection does.
    heartbeat(&mut two, "c2", "billing", "orders", 1).await;
    drop(two);
    let notice = one.notice().await;
    assert_eq!(notice.header.code, request::NOTIFY_CONSUMER_IDS_CHANGED);
    let answer = one.ask(request::GET_CONSUMER_LIST_BY_GROUP, &list, b"").await;
    assert_eq!(&answer.body[..], br#"{"consumerIdList":["c1"]}"#);
    let leave = [("clientID", "c1"), ("producerGroup", ""), ("consumerGroup", "billing")];
    one.ask(request::UNREGISTER_CLIENT, &leave, b"").await;
    let answer = one.ask(request::GET_CONSUMER_LIST_BY_GROUP, &list, b"").await;
    assert_eq!(answer.header.code, response::SYSTEM_ERROR);
}

#[tokio::test]
async fn a_pull_brings_what_passes_waits_for_more_and_holds_nothing_else_up() {
    let world = World::new();
    let mut client = world.client().await;
    let mut producer = world.client().await;
    for (tag, key) in [("a", "k1"), ("c", "k2"), ("b", "k3")] {
        let sent = producer.produce("orders", "1", &[("UNIQ_KEY", key), ("TAGS", tag)], tag.as_bytes()).await;
        assert_eq!(sent.header.code, response::SUCCESS);
    }
    let early = client.ask(request::PULL_MESSAGE, &pull_fields("1", "0", "2", "0"), b"").await;
    assert_eq!(early.header.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    heartbeat(&mut client, "c1", "billing", "orders", 7).await;
    let opaque = client.send(request::PULL_MESSAGE, &pull_fields("1", "0", "2", "7"), b"", 0).await;
    let found = client.answer().await;
    assert_eq!((found.header.code, found.header.opaque), (response::SUCCESS, opaque));
    assert_eq!((field(&found, "nextBeginOffset"), field(&found, "maxOffset")), ("3", "3"));
    let messages = decode_all(&found.body).unwrap();
    let shown: Vec<_> = messages.iter().map(|one| (one.queue_offset, one.queue, &one.body[..])).collect();
    assert_eq!(shown, [(0, 1, &b"a"[..]), (2, 1, &b"b"[..])]);
    for part in ["UNIQ_KEY\u{1}k1", "TAGS\u{1}a", "CLUSTER\u{1}DefaultCluster"] {
        assert!(messages[0].properties.contains(part), "{part:?} is not in {:?}", messages[0].properties);
    }
    // Waits, and everything else on the connection goes on.
    let waiting = client.send(request::PULL_MESSAGE, &pull_fields("1", "3", "2", "7"), b"", 0).await;
    let other = client.send(request::GET_MAX_OFFSET, &[("topic", "orders"), ("queueId", "1")], b"", 0).await;
    let first = client.answer().await;
    assert_eq!((first.header.opaque, field(&first, "offset")), (other, "3"));
    producer.produce("orders", "1", &[("TAGS", "a")], b"late").await;
    let woken = client.answer().await;
    assert_eq!((woken.header.opaque, woken.header.code), (waiting, response::SUCCESS));
    assert_eq!(&decode_all(&woken.body).unwrap()[0].body[..], b"late");
}

#[tokio::test]
async fn pulls_that_cannot_be_are_refused_by_name() {
    let world = World::with(|_, remoting| remoting.limits.polls_per_connection_max = 1);
    let mut client = world.client().await;
    client.produce("orders", "0", &[("TAGS", "a")], b"body").await;
    heartbeat(&mut client, "c1", "billing", "orders", 7).await;
    let cases = [
        (pull_fields("0", "0", "0", "8"), response::SUBSCRIPTION_NOT_LATEST, "subVersion"),
        (pull_fields("9", "0", "0", "7"), response::INVALID_PARAMETER, "queue"),
        (pull_fields("0", "99", "0", "7"), response::PULL_OFFSET_MOVED, ""),
        (pull_fields("0", "-1", "0", "7"), response::PULL_OFFSET_MOVED, ""),
        (pull_fields("0", "1", "0", "7"), response::PULL_NOT_FOUND, ""),
    ];
    for (fields, code, part) in cases {
        let answer = client.ask(request::PULL_MESSAGE, &fields, b"").await;
        assert_eq!(answer.header.code, code, "{fields:?}: {:?}", answer.header.remark);
        assert!(denied(&answer).1.contains(part), "{:?}", answer.header.remark);
        if code < response::SUBSCRIPTION_PARSE_FAILED {
            assert_eq!((field(&answer, "minOffset"), field(&answer, "maxOffset")), ("0", "1"));
        }
    }
    let mut fields = pull_fields("0", "0", "0", "7");
    fields[4].1 = "0";
    let answer = client.ask(request::PULL_MESSAGE, &fields, b"").await;
    assert_eq!(denied(&answer), (response::INVALID_PARAMETER, "maxMsgNums 0 is not from 1 on"));
    // One that waits is all that this connection may have.
    client.send(request::PULL_MESSAGE, &pull_fields("0", "1", "2", "7"), b"", 0).await;
    let answer = client.ask(request::PULL_MESSAGE, &pull_fields("1", "0", "2", "7"), b"").await;
    assert_eq!(answer.header.code, response::SYSTEM_BUSY);
    assert_eq!(client.produce("orders", "1", &[], b"body").await.header.code, response::SUCCESS);
}

#[tokio::test]
async fn offsets_are_kept_and_places_told() {
    let world = World::new();
    let mut client = world.client().await;
    for _ in 0..3 {
        client.produce("orders", "0", &[("TAGS", "a")], b"body").await;
    }
    heartbeat(&mut client, "c1", "billing", "orders", 7).await;
    let place = [("consumerGroup", "billing"), ("topic", "orders"), ("queueId", "0")];
    let answer = client.ask(request::QUERY_CONSUMER_OFFSET, &place, b"").await;
    assert_eq!(field(&answer, "offset"), "0", "a new group on a young topic begins with its first message");
    let strict = [&place[..], &[("setZeroIfNotFound", "false")]].concat();
    let answer = client.ask(request::QUERY_CONSUMER_OFFSET, &strict, b"").await;
    assert_eq!(answer.header.code, response::QUERY_NOT_FOUND);
    client.ask(request::PULL_MESSAGE, &pull_fields("0", "0", "0", "7"), b"").await;
    let commit = [&place[..], &[("commitOffset", "2")]].concat();
    client.tell(request::UPDATE_CONSUMER_OFFSET, &commit, b"").await;
    let answer = client.ask(request::QUERY_CONSUMER_OFFSET, &strict, b"").await;
    assert_eq!(field(&answer, "offset"), "2");
    let queue = [("topic", "orders"), ("queueId", "0")];
    for (code, name, expected) in [
        (request::GET_MAX_OFFSET, "offset", Some("3")),
        (request::GET_MIN_OFFSET, "offset", Some("0")),
        (request::GET_EARLIEST_MSG_STORETIME, "timestamp", None),
    ] {
        let answer = client.ask(code, &queue, b"").await;
        assert!(expected.is_none_or(|expected| expected == field(&answer, name)), "{code}");
    }
    for (time, boundary, expected) in
        [("0", "lower", "0"), ("99999999999999", "lower", "3"), ("99999999999999", "upper", "2")]
    {
        let fields = [&queue[..], &[("timestamp", time), ("boundaryType", boundary)]].concat();
        let answer = client.ask(request::SEARCH_OFFSET_BY_TIMESTAMP, &fields, b"").await;
        assert_eq!(field(&answer, "offset"), expected, "{time} {boundary}");
    }
}

#[tokio::test]
async fn a_queue_is_locked_by_one_client_at_a_time() {
    let world = World::new();
    let mut client = world.client().await;
    client.produce("orders", "0", &[], b"body").await;
    heartbeat(&mut client, "c1", "billing", "orders", 7).await;
    let body = |id: &str| {
        format!(
            r#"{{"consumerGroup":"billing","clientId":"{id}","onlyThisBroker":false,
            "mqSet":[{{"brokerName":"broker-a","queueId":1,"topic":"orders"}},{{"brokerName":"other","queueId":1,"topic":"orders"}}]}}"#
        )
    };
    let own = r#"{"lockOKMQSet":[{"brokerName":"broker-a","queueId":1,"topic":"orders"}]}"#;
    let answer = client.ask(request::LOCK_BATCH_MQ, &[], body("c1").as_bytes()).await;
    assert_eq!(String::from_utf8_lossy(&answer.body), own);
    let answer = client.ask(request::LOCK_BATCH_MQ, &[], body("c2").as_bytes()).await;
    assert_eq!(String::from_utf8_lossy(&answer.body), r#"{"lockOKMQSet":[]}"#);
    client.ask(request::UNLOCK_BATCH_MQ, &[], body("c1").as_bytes()).await;
    let answer = client.ask(request::LOCK_BATCH_MQ, &[], body("c2").as_bytes()).await;
    assert_eq!(String::from_utf8_lossy(&answer.body), own);
    let answer = client.ask(request::LOCK_BATCH_MQ, &[], b"{\"clientId\":\"c1\"}").await;
    assert_eq!(denied(&answer), (response::INVALID_PARAMETER, "field consumerGroup is missing"));
}

/// All that pull queues get everything while one member broadcasts, and share again when it has left.
#[tokio::test]
async fn where_one_member_broadcasts_each_takes_all_queues_and_the_group_waits_for_the_slowest() {
    let world = World::new();
    let (mut one, mut two, mut third) = (world.client().await, world.client().await, world.client().await);
    let mut operator = world.client().await;
    for _ in 0..3 {
        operator.produce("orders", "0", &[("TAGS", "a")], b"body").await;
    }
    heartbeat(&mut one, "c1", "billing", "orders", 7).await;
    heartbeat(&mut two, "c2", "billing", "orders", 7).await;
    one.ask(request::PULL_MESSAGE, &pull_fields("0", "0", "0", "7"), b"").await;
    heartbeat_as(&mut third, 0, "c3", "billing", "orders", 7).await;
    let list = [("consumerGroup", "billing")];
    for (client, id) in [(&mut one, "c1"), (&mut two, "c2")] {
        let answer = client.ask(request::GET_CONSUMER_LIST_BY_GROUP, &list, b"").await;
        assert_eq!(String::from_utf8_lossy(&answer.body), format!(r#"{{"consumerIdList":["{id}"]}}"#));
        let body = format!(r#"{{"topic":"orders","consumerGroup":"billing","clientId":"{id}"}}"#);
        let answer = client.ask(request::QUERY_ASSIGNMENT, &[], body.as_bytes()).await;
        assert_eq!(json(&answer.body).items("messageQueueAssignments").len(), 4);
        let lock = format!(
            r#"{{"consumerGroup":"billing","clientId":"{id}","mqSet":[{{"brokerName":"broker-a","queueId":0,"topic":"orders"}}]}}"#
        );
        let answer = client.ask(request::LOCK_BATCH_MQ, &[], lock.as_bytes()).await;
        assert_eq!(json(&answer.body).items("lockOKMQSet").len(), 1);
        let answer = client.ask(request::PULL_MESSAGE, &pull_fields("0", "0", "0", "7"), b"").await;
        assert_eq!(decode_all(&answer.body).unwrap().len(), 3, "{id}");
    }
    let place = [("consumerGroup", "billing"), ("topic", "orders"), ("queueId", "0")];
    for (client, offset) in [(&mut one, "3"), (&mut two, "1")] {
        // Where the first of them has come to since says nothing to one that was there.
        let answer = client.ask(request::QUERY_CONSUMER_OFFSET, &place, b"").await;
        assert_eq!(field(&answer, "offset"), "0");
        let commit = [&place[..], &[("commitOffset", offset)]].concat();
        client.ask(request::UPDATE_CONSUMER_OFFSET, &commit, b"").await;
    }
    for (client, offset) in [(&mut one, "3"), (&mut two, "1"), (&mut operator, "1")] {
        let answer = client.ask(request::QUERY_CONSUMER_OFFSET, &place, b"").await;
        assert_eq!(field(&answer, "offset"), offset);
    }
    let back = [("group", "billing"), ("offset", "0"), ("delayLevel", "0")];
    let answer = one.ask(request::CONSUMER_SEND_MSG_BACK, &back, b"").await;
    assert_eq!(answer.header.code, response::ILLEGAL_OPERATION);
    assert!(denied(&answer).1.contains("broadcasting"), "{:?}", answer.header.remark);
    let answer = one.produce("%RETRY%billing", "0", &[], b"body").await;
    assert!(denied(&answer).1.contains("broadcasting"), "{:?}", answer.header.remark);

    let leave = [("clientID", "c3"), ("consumerGroup", "billing")];
    third.ask(request::UNREGISTER_CLIENT, &leave, b"").await;
    let answer = one.ask(request::GET_CONSUMER_LIST_BY_GROUP, &list, b"").await;
    assert_eq!(&answer.body[..], br#"{"consumerIdList":["c1","c2"]}"#);
    let answer = one.ask(request::QUERY_CONSUMER_OFFSET, &place, b"").await;
    assert_eq!(field(&answer, "offset"), "1", "what the slowest had not done is there for all");
}

#[tokio::test]
async fn filters_are_checked_before_a_consumer_starts() {
    let world = World::new();
    let mut client = world.client().await;
    let body = |expression: &str| {
        format!(
            r#"{{"clientId":"c1","group":"billing","subscriptionData":{{"topic":"orders","subString":"{expression}","expressionType":"SQL92"}}}}"#
        )
    };
    let answer = client.ask(request::CHECK_CLIENT_CONFIG, &[], body("a > 5").as_bytes()).await;
    assert_eq!(answer.header.code, response::SUCCESS);
    let answer = client.ask(request::CHECK_CLIENT_CONFIG, &[], body("a >").as_bytes()).await;
    assert_eq!(answer.header.code, response::SUBSCRIPTION_PARSE_FAILED);
}
