//! What tools ask, and what they make and delete.

mod world;

use martlet_broker::{ClientInfo, ClientRole, Inquiry, InquiryReply, LiteWhich, ResetTo};
use martlet_model::{Filter, TopicType, record};
use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::frame::{self, Frame};
use martlet_remoting::codec::header::{FLAG_RESPONSE, Header};
use martlet_remoting::codec::message::decode_all;
use world::{Client, World, denied, field, json};

fn topic_fields<'a>(name: &'a str, queues: &'a str, attributes: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("topic", name),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", queues),
        ("writeQueueNums", queues),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("order", "false"),
        ("attributes", attributes),
    ]
}

#[tokio::test]
async fn topics_are_made_changed_described_and_deleted() {
    let world = World::new();
    let mut client = world.client().await;
    for (name, attributes, kind) in [
        ("plain", "", TopicType::Mixed),
        ("ordered", "+message.type=FIFO", TopicType::Fifo),
        ("later", "+message.type=DELAY,+cleanup.policy=DELETE", TopicType::Delay),
    ] {
        let answer = client.ask(request::UPDATE_AND_CREATE_TOPIC, &topic_fields(name, "4", attributes), b"").await;
        assert_eq!(denied(&answer), (response::SUCCESS, ""), "{name}");
        assert_eq!(world.broker.known_topic(name).unwrap().kind, kind);
    }
    for (fields, part) in [
        (topic_fields("plain", "4", "+message.type=FIFO"), "message.type"),
        (topic_fields("new", "4", "+message.type=ODD"), "message.type"),
        (topic_fields("new", "4", "+cleanup.policy=COMPACTION"), "cleanup.policy"),
        (topic_fields("new", "-1", ""), "writeQueueNums"),
        (topic_fields("new", "100000", ""), "100000"),
        (topic_fields("TBW102", "4", ""), "system topic"),
    ] {
        let answer = client.ask(request::UPDATE_AND_CREATE_TOPIC, &fields, b"").await;
        let (code, remark) = denied(&answer);
        assert_eq!(code, response::INVALID_PARAMETER, "{fields:?}");
        assert!(remark.contains(part), "{fields:?}: {remark}");
    }
    let answer = client.ask(request::UPDATE_AND_CREATE_TOPIC, &topic_fields("plain", "6", ""), b"").await;
    assert_eq!(answer.header.code, response::SUCCESS);
    let config = json(&client.ask(request::GET_TOPIC_CONFIG, &[("topic", "plain")], b"").await.body);
    assert_eq!(
        (config.int("writeQueueNums"), config.int("perm"), config.text("order")),
        (Some(6), Some(6), Some("false"))
    );
    let all = client.ask(request::GET_ALL_TOPIC_CONFIG, &[], b"").await;
    assert_eq!(field(&all, "totalTopicNum"), "3");
    client.produce("plain", "5", &[], b"body").await;
    let stats = client.ask(request::GET_TOPIC_STATS_INFO, &[("topic", "plain")], b"").await;
    let text = String::from_utf8_lossy(&stats.body).into_owned();
    assert!(text.starts_with(r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"plain"}:{"#), "{text}");
    assert!(text.contains("\"maxOffset\":1"), "{text}");
    for code in [request::DELETE_TOPIC_IN_BROKER, request::DELETE_TOPIC_IN_NAMESRV] {
        assert_eq!(client.ask(code, &[("topic", "plain")], b"").await.header.code, response::SUCCESS);
    }
    let answer = client.ask(request::GET_TOPIC_CONFIG, &[("topic", "plain")], b"").await;
    assert_eq!(answer.header.code, response::TOPIC_NOT_EXIST);
}

#[tokio::test]
async fn groups_are_made_changed_described_and_deleted() {
    let world = World::new();
    let mut client = world.client().await;
    let body = br#"{"groupName":"billing","consumeEnable":true,"retryMaxTimes":3,"consumeMessageOrderly":false,
        "groupRetryPolicy":{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[1000,5000]}},"attributes":{}}"#;
    let answer = client.ask(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], body).await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    assert_eq!(world.broker.known_group("billing").unwrap().retry.max_attempts, 4);
    let config = json(&client.ask(request::GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", "billing")], b"").await.body);
    assert_eq!((config.int("retryMaxTimes"), config.text("groupName")), (Some(3), Some("billing")));
    let all = client.ask(request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &[], b"").await;
    assert_eq!(field(&all, "totalGroupNum"), "1");
    for (body, part) in [
        (&b"{}"[..], "groupName"),
        (br#"{"groupName":"billing","retryMaxTimes":-7}"#, "retryMaxTimes"),
        (br#"{"groupName":"billing","consumeEnable":false}"#, "consumeEnable"),
        (br#"{"groupName":"a b"}"#, "a b"),
        (b"[", "JSON"),
    ] {
        let answer = client.ask(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], body).await;
        let (code, remark) = denied(&answer);
        assert_eq!(code, response::INVALID_PARAMETER, "{part}");
        assert!(remark.contains(part), "{part}: {remark}");
    }
    let offline = client.ask(request::GET_CONSUMER_CONNECTION_LIST, &[("consumerGroup", "billing")], b"").await;
    assert_eq!(offline.header.code, response::CONSUMER_NOT_ONLINE);
    let heartbeat = br#"{"clientID":"a@1","producerDataSet":[],"consumerDataSet":[{"groupName":"billing",
        "consumeType":1,"messageModel":0,"consumeFromWhere":0,"unitMode":false,"subscriptionDataSet":[]}]}"#;
    let answer = client.ask(request::HEART_BEAT, &[], heartbeat).await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    let online = client.ask(request::GET_CONSUMER_CONNECTION_LIST, &[("consumerGroup", "billing")], b"").await;
    assert_eq!(online.header.code, response::SUCCESS);
    let said = json(&online.body);
    assert_eq!(said.items("connectionSet")[0].text("clientId"), Some("a@1"));
    assert_eq!(said.text("messageModel"), Some("BROADCASTING"));
    let stats = client.ask(request::GET_CONSUME_STATS, &[("consumerGroup", "nobody")], b"").await;
    assert_eq!(&stats.body[..], br#"{"offsetTable":{}}"#);
    let answer = client.ask(request::DELETE_SUBSCRIPTIONGROUP, &[("groupName", "billing")], b"").await;
    assert_eq!(answer.header.code, response::SUCCESS);
    let answer = client.ask(request::GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", "billing")], b"").await;
    assert_eq!(answer.header.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
}

#[tokio::test]
async fn messages_are_found_by_place_key_and_id() {
    let world = World::new();
    let mut client = world.client().await;
    let pairs = [("UNIQ_KEY", "0102"), ("KEYS", "4711"), ("colour", "red")];
    let sent = client.produce("orders", "0", &pairs, b"hello").await;
    let (_, at) = martlet_remoting::codec::ids::read_offset_id(field(&sent, "msgId")).unwrap();
    let place = at.0.to_string();
    let answer = client.ask(request::VIEW_MESSAGE_BY_ID, &[("offset", &place)], b"").await;
    let seen = &decode_all(&answer.body).unwrap()[0];
    assert_eq!((&seen.body[..], seen.topic.as_str(), seen.physical_offset), (&b"hello"[..], "orders", at.0));
    let answer = client.ask(request::VIEW_MESSAGE_BY_ID, &[("offset", "999999999")], b"").await;
    assert_eq!(answer.header.code, response::SYSTEM_ERROR);
    let query = |key: &'static str, by_id: &'static str| {
        let end = "99999999999999";
        let times = [("beginTimestamp", "0"), ("endTimestamp", end)];
        [("topic", "orders"), ("key", key), ("maxNum", "32"), times[0], times[1], ("_UNIQUE_KEY_QUERY", by_id)]
    };
    for (key, by_id) in [("4711", "false"), ("0102", "false"), ("0102", "true")] {
        let answer = client.ask(request::QUERY_MESSAGE, &query(key, by_id), b"").await;
        assert_eq!(denied(&answer), (response::SUCCESS, ""), "{key} {by_id}");
        assert_eq!(decode_all(&answer.body).unwrap().len(), 1);
    }
    let answer = client.ask(request::QUERY_MESSAGE, &query("4711", "true"), b"").await;
    assert_eq!(answer.header.code, response::QUERY_NOT_FOUND);
}

#[tokio::test]
async fn a_group_is_moved_back_and_forward_only_if_that_is_forced() {
    let world = World::new();
    let mut client = world.client().await;
    for _ in 0..3 {
        client.produce("orders", "0", &[], b"body").await;
    }
    world.broker.group("billing").await.unwrap();
    let fields = |time: &'static str, forced: &'static str| {
        [("group", "billing"), ("topic", "orders"), ("timestamp", time), ("isForce", forced), ("queueId", "0")]
    };
    let moved = r#"{"offsetTable":{{"brokerName":"broker-a","queueId":0,"topic":"orders"}:"#;
    for (time, forced, to) in [("-1", "true", "3"), ("0", "false", "0")] {
        let answer = client.ask(request::INVOKE_BROKER_TO_RESET_OFFSET, &fields(time, forced), b"").await;
        assert_eq!(String::from_utf8_lossy(&answer.body), format!("{moved}{to}}}}}"), "{time} {forced}");
    }
    let answer = client.ask(request::INVOKE_BROKER_TO_RESET_OFFSET, &fields("-1", "false"), b"").await;
    assert_eq!(&answer.body[..], br#"{"offsetTable":{}}"#, "forward only if that is forced");
}

#[tokio::test]
async fn a_group_of_lite_topics_is_moved_in_all_where_it_has_been() {
    let world = World::new();
    let mut client = world.client().await;
    let fields = topic_fields("chat", "1", "+message.type=LITE");
    client.ask(request::UPDATE_AND_CREATE_TOPIC, &fields, b"").await;
    let group = br#"{"groupName":"web","attributes":{"+lite.bind.topic":"chat"}}"#;
    client.ask(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], group).await;
    for name in ["alice", "bob", "carol"] {
        client.produce("chat", "0", &[("__LITE_TOPIC", name)], b"body").await;
    }
    for (name, to) in [("alice", ResetTo::Latest), ("bob", ResetTo::Earliest)] {
        world.broker.reset_lite("web", "chat", LiteWhich::Named(name), to, false).await.unwrap();
    }
    let fields = |time: &'static str, forced: &'static str| {
        [("group", "web"), ("topic", "chat"), ("timestamp", time), ("isForce", forced)]
    };
    let place =
        |name: &str, to: u64| format!(r#"{{"brokerName":"broker-a","queueId":0,"topic":"%LMQ%$chat${name}"}}:{to}"#);
    for (time, forced, moved) in [
        ("-1", "false", String::new()),
        ("0", "false", place("alice", 0)),
        ("-1", "true", format!("{},{}", place("alice", 1), place("bob", 1))),
    ] {
        let answer = client.ask(request::INVOKE_BROKER_TO_RESET_OFFSET, &fields(time, forced), b"").await;
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(body, format!(r#"{{"offsetTable":{{{moved}}}}}"#), "{time} {forced}: {:?}", answer.header.remark);
    }
    let fields = [&fields("0", "true")[..], &[("queueId", "0")]].concat();
    let answer = client.ask(request::INVOKE_BROKER_TO_RESET_OFFSET, &fields, b"").await;
    assert_eq!(answer.header.code, response::INVALID_PARAMETER);
}

#[tokio::test]
async fn figures_are_numbers_where_tools_read_numbers() {
    let world = World::new();
    let mut client = world.client().await;
    let heartbeat = br#"{"clientID":"c1","producerDataSet":[{"groupName":"producers"}]}"#;
    client.ask(request::HEART_BEAT, &[], heartbeat).await;
    let info = json(&client.ask(request::GET_BROKER_RUNTIME_INFO, &[], b"").await.body);
    let table = info.get("table").unwrap();
    for name in ["putTps", "getTransferredTps"] {
        let first = table.text(name).unwrap().split(' ').next().unwrap();
        assert!(first.parse::<f64>().is_ok(), "{name}");
    }
    for name in ["pageCacheLockTimeMills", "commitLogDiskRatio", "timerEnqueueTps", "earliestMessageTimeStamp"] {
        assert!(table.text(name).unwrap().parse::<f64>().is_ok(), "{name}");
    }
    let config = client.ask(request::GET_BROKER_CONFIG, &[], b"").await;
    assert!(String::from_utf8_lossy(&config.body).contains("brokerName=broker-a\n"));
    let list = client.ask(request::GET_PRODUCER_CONNECTION_LIST, &[("producerGroup", "producers")], b"").await;
    assert_eq!(json(&list.body).items("connectionSet")[0].text("clientId"), Some("c1"));
    let all = json(&client.ask(request::GET_ALL_PRODUCER_INFO, &[], b"").await.body);
    assert_eq!(all.get("data").unwrap().items("producers").len(), 1);
}

/// A client that consumes with group billing.
async fn consumer(world: &World, version: i32) -> Client {
    let mut client = world.client().await;
    client.version = version;
    let heartbeat = br#"{"clientID":"a@1","producerDataSet":[],"consumerDataSet":[{"groupName":"billing",
        "consumeType":1,"messageModel":1,"consumeFromWhere":0,"unitMode":false,"subscriptionDataSet":[]}]}"#;
    assert_eq!(client.ask(request::HEART_BEAT, &[], heartbeat).await.header.code, response::SUCCESS);
    client
}

/// The next request that a consumer is to answer.
async fn asked(client: &mut Client) -> Frame {
    loop {
        let frame = client.notice().await;
        if !frame.header.is_one_way() {
            return frame;
        }
    }
}

async fn answer(client: &mut Client, to: &Frame, code: i32, remark: Option<&str>, body: &[u8]) {
    let (opaque, remark) = (to.header.opaque, remark.map(str::to_owned));
    let header = Header { code, opaque, remark, flag: FLAG_RESPONSE, ..Header::default() };
    client.write(&[&frame::head(&header, body.len())[..], body].concat()).await;
}

const STATUS: [(&str, &str); 3] = [("consumerGroup", "billing"), ("clientId", "a@1"), ("jstackEnable", "true")];

#[tokio::test]
async fn a_consumer_is_asked_how_it_is_and_to_consume_a_message_and_its_own_answer_comes_back() {
    let world = World::new();
    let (mut consumer, mut tool) = (consumer(&world, 513).await, world.client().await);
    tool.send(request::GET_CONSUMER_RUNNING_INFO, &STATUS, b"", 0).await;
    let question = asked(&mut consumer).await;
    assert_eq!(question.header.code, request::GET_CONSUMER_RUNNING_INFO);
    assert_eq!((field(&question, "consumerGroup"), field(&question, "jstackEnable")), ("billing", "true"));
    let info = br#"{"jstack":"main","mqTable":{{"brokerName":"broker-a","queueId":0,"topic":"orders"}:{}}}"#;
    answer(&mut consumer, &question, response::SUCCESS, None, info).await;
    let told = tool.answer().await;
    assert_eq!((told.header.code, &told.body[..]), (response::SUCCESS, &info[..]));

    let sent = tool.produce("orders", "0", &[("UNIQ_KEY", "0102")], b"hello").await;
    let fields = [("consumerGroup", "billing"), ("clientId", "a@1"), ("msgId", field(&sent, "msgId"))];
    tool.send(request::CONSUME_MESSAGE_DIRECTLY, &fields, b"", 0).await;
    let question = asked(&mut consumer).await;
    assert_eq!((question.header.code, field(&question, "brokerName")), (request::CONSUME_MESSAGE_DIRECTLY, "broker-a"));
    let message = &decode_all(&question.body).unwrap()[0];
    assert_eq!((message.topic.as_str(), &message.body[..]), ("orders", &b"hello"[..]));
    answer(&mut consumer, &question, response::SYSTEM_ERROR, Some("not my group"), b"").await;
    assert_eq!(denied(&tool.answer().await), (response::SYSTEM_ERROR, "not my group"));
}

#[tokio::test]
async fn a_consumer_that_cannot_be_asked_or_does_not_answer_is_named() {
    let world = World::new();
    let mut tool = world.client().await;
    let ask = async |tool: &mut Client, fields: &[(&str, &str)], code: i32| {
        let answer = tool.ask(code, fields, b"").await;
        (answer.header.code, answer.header.remark.unwrap_or_default())
    };
    let status = request::GET_CONSUMER_RUNNING_INFO;
    let named = |what: &str| format!("consumer a@1 of group billing {what}");
    let refused = |what: &str| (response::SYSTEM_ERROR, named(what));
    assert_eq!(ask(&mut tool, &STATUS, status).await, refused("is not connected"));
    let old = consumer(&world, 61).await;
    assert_eq!(ask(&mut tool, &STATUS, status).await, refused("has version 61, which cannot be asked"));
    drop(old);

    let mut silent = consumer(&world, 513).await;
    let other = [("consumerGroup", "other"), STATUS[1], STATUS[2]];
    let stranger = "consumer a@1 of group other is not connected";
    assert_eq!(ask(&mut tool, &other, status).await, (response::SYSTEM_ERROR, stranger.into()));
    for (id, code) in [("0102", response::INVALID_PARAMETER), (&"0".repeat(32), response::SYSTEM_ERROR)] {
        let fields = [STATUS[0], STATUS[1], ("msgId", id)];
        assert_eq!(ask(&mut tool, &fields, request::CONSUME_MESSAGE_DIRECTLY).await.0, code, "{id}");
    }
    let late = (response::CONSUME_MSG_TIMEOUT, named("did not answer within 10 s"));
    assert_eq!(ask(&mut tool, &STATUS, status).await, late);
    asked(&mut silent).await;
    tool.send(status, &STATUS, b"", 0).await;
    asked(&mut silent).await;
    drop(silent);
    assert_eq!(denied(&tool.answer().await), (response::SYSTEM_ERROR, named("has gone").as_str()));
}

/// Stands for a client of another protocol, that is reached over its own connection.
#[tokio::test]
async fn a_consumer_of_another_protocol_is_described_and_asked_where_it_is_connected() {
    let world = World::new();
    let subscription = ("orders".to_owned(), Filter::ALL);
    let role = ClientRole::Consumer { group: "billing".into(), push: true, subscriptions: vec![subscription] };
    let client = ClientInfo {
        client_id: "a@1".into(),
        language: "JAVA".into(),
        version: "5.2.1".into(),
        remote: "127.0.0.1:4711".into(),
        role,
    };
    world.broker.group("billing").await.unwrap();
    world.broker.client_seen(client).unwrap();
    let mut tool = world.client().await;
    let sent = tool.produce("orders", "0", &[("UNIQ_KEY", "0102")], b"hello").await;
    let status = request::GET_CONSUMER_RUNNING_INFO;
    let told = tool.ask(status, &STATUS, b"").await;
    let text = std::str::from_utf8(&told.body).unwrap();
    assert!(
        text.contains(r#""PROP_CONSUME_TYPE":"CONSUME_PASSIVELY""#) && text.contains(r#""topic":"orders""#),
        "{text}"
    );
    assert!(!text.contains("jstack"), "{text}");
    let fields = [("consumerGroup", "billing"), ("clientId", "a@1"), ("msgId", field(&sent, "msgId"))];
    let alone = tool.ask(request::CONSUME_MESSAGE_DIRECTLY, &fields, b"").await;
    assert_eq!(denied(&alone), (response::SYSTEM_ERROR, "consumer a@1 has no stream to be asked on"));

    world.broker.on_inquiry(|client, inquiry| {
        assert_eq!(client, "a@1");
        let reply = match inquiry {
            Inquiry::StackTrace => InquiryReply::StackTrace("main: waits".into()),
            Inquiry::Consume(message) => {
                assert_eq!(&record::body(&message.record).unwrap()[..], b"hello");
                InquiryReply::Consumed(Err("the listener threw".into()))
            }
        };
        Some(Box::pin(async { Ok(reply) }))
    });
    let with_stack = [STATUS[0], STATUS[1], ("jstackEnable", "true")];
    let told = tool.ask(status, &with_stack, b"").await;
    assert!(std::str::from_utf8(&told.body).unwrap().contains(r#""jstack":"main: waits""#), "{told:?}");
    let told = tool.ask(request::CONSUME_MESSAGE_DIRECTLY, &fields, b"").await;
    let text = std::str::from_utf8(&told.body).unwrap();
    assert!(text.contains(r#""consumeResult":"CR_LATER""#) && text.contains("the listener threw"), "{text}");
}

#[tokio::test]
async fn kv_configs_are_kept_by_namespace_and_key() {
    let world = World::new();
    let mut client = world.client().await;
    let key = [("namespace", "ORDER_TOPIC_CONFIG"), ("key", "orders")];
    let remark = "no value of key orders in namespace ORDER_TOPIC_CONFIG";
    let nothing = (response::QUERY_NOT_FOUND, remark);
    assert_eq!(denied(&client.ask(request::GET_KV_CONFIG, &key, b"").await), nothing);
    for value in ["broker-a:4", "broker-a:8"] {
        let answer = client.ask(request::PUT_KV_CONFIG, &[key[0], key[1], ("value", value)], b"").await;
        assert_eq!(denied(&answer), (response::SUCCESS, ""));
        assert_eq!(field(&client.ask(request::GET_KV_CONFIG, &key, b"").await, "value"), value);
    }
    let all = client.ask(request::GET_KVLIST_BY_NAMESPACE, &key[..1], b"").await;
    assert_eq!(&all.body[..], br#"{"table":{"orders":"broker-a:8"}}"#);
    let long = "x".repeat(1_025);
    let answer = client.ask(request::PUT_KV_CONFIG, &[key[0], key[1], ("value", &long)], b"").await;
    let remark = "value of 1025 bytes is longer than 1,024 bytes";
    assert_eq!(denied(&answer), (response::INVALID_PARAMETER, remark));
    for _ in 0..2 {
        assert_eq!(client.ask(request::DELETE_KV_CONFIG, &key, b"").await.header.code, response::SUCCESS);
    }
    assert_eq!(denied(&client.ask(request::GET_KV_CONFIG, &key, b"").await), nothing);
    let answer = client.ask(request::GET_KVLIST_BY_NAMESPACE, &key[..1], b"").await;
    assert_eq!(answer.header.code, response::QUERY_NOT_FOUND);
}

#[tokio::test]
async fn traces_have_a_topic_that_the_first_one_makes_and_nobody_else_changes() {
    const TRACES: &str = "RMQ_SYS_TRACE_TOPIC";
    let world = World::with(|broker, _| broker.auto_create_topics = false);
    let mut client = world.client().await;
    let listed = json(&client.ask(request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER, &[], b"").await.body);
    assert!(listed.items("topicList").iter().any(|name| name.scalar() == Some(TRACES)));
    for made in [false, true] {
        let route = json(&client.ask(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", TRACES)], b"").await.body);
        let queues = &route.items("queueDatas")[0];
        assert_eq!((queues.int("writeQueueNums"), queues.int("perm")), (Some(8), Some(6)));
        assert_eq!(world.broker.known_topic(TRACES).is_some(), made);
        let sent = client.produce(TRACES, "7", &[("UNIQ_KEY", "0A"), ("KEYS", "0102 4711")], b"Pub").await;
        assert_eq!(denied(&sent), (response::SUCCESS, ""));
    }
    assert_eq!(world.broker.known_topic(TRACES).unwrap().kind, TopicType::Normal);
    let fields = [
        ("topic", TRACES),
        ("key", "0102"),
        ("maxNum", "32"),
        ("beginTimestamp", "0"),
        ("endTimestamp", "99999999999999"),
    ];
    let found = client.ask(request::QUERY_MESSAGE, &fields, b"").await;
    assert_eq!(decode_all(&found.body).unwrap().len(), 2);
    for (code, fields) in [
        (request::UPDATE_AND_CREATE_TOPIC, topic_fields(TRACES, "4", "")),
        (request::DELETE_TOPIC_IN_BROKER, vec![("topic", TRACES)]),
    ] {
        let refused = (response::INVALID_PARAMETER, "topic \"RMQ_SYS_TRACE_TOPIC\" is a system topic");
        assert_eq!(denied(&client.ask(code, &fields, b"").await), refused);
    }
    let other = client.produce("RMQ_SYS_TRANS_HALF_TOPIC", "0", &[], b"body").await;
    assert_eq!(other.header.code, response::MESSAGE_ILLEGAL);
}
