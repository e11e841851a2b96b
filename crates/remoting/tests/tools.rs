//! What `mqadmin` shows of the broker: figures, settings, progress, lite topics; and what it may ask for twice.

mod world;

use martlet_broker::{ClientInfo, ClientRole, LiteSyncRequest};
use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::json::Json;
use martlet_remoting::codec::message::decode_all;
use world::{Client, World, denied, json};

/// Asks, and gives back what an answer that is no refusal says.
async fn told(client: &mut Client, code: i32, fields: &[(&str, &str)]) -> Json {
    let answer = client.ask(code, fields, b"").await;
    assert_eq!(denied(&answer).0, response::SUCCESS, "{code} {fields:?}: {:?}", answer.header.remark);
    json(&answer.body)
}

fn topic_fields<'a>(name: &'a str, queues: &'a str, perm: &'a str, attributes: &'a str) -> Vec<(&'a str, &'a str)> {
    let counts = [("readQueueNums", queues), ("writeQueueNums", queues), ("perm", perm)];
    let rest = [("topicFilterType", "SINGLE_TAG"), ("order", "false"), ("attributes", attributes)];
    [("topic", name), ("defaultTopic", "TBW102")].into_iter().chain(counts).chain(rest).collect()
}

/// A consumer of group billing that begins at the end, and whether it asks for messages by itself.
fn heartbeat(kind: &str) -> String {
    let subscription = r#"{"topic":"orders","subString":"*","subVersion":1,"expressionType":"TAG"}"#;
    format!(
        r#"{{"clientID":"a@1","producerDataSet":[],"consumerDataSet":[{{"groupName":"billing","consumeType":"{kind}",
        "messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","unitMode":false,
        "subscriptionDataSet":[{subscription}]}}]}}"#
    )
}

/// Three messages in queue 0 of topic orders, of which group billing has consumed two.
async fn consumed() -> (World, Client) {
    let world = World::new();
    let mut client = world.client().await;
    for body in ["1", "2", "3"] {
        client.produce("orders", "0", &[("KEYS", "4711")], body.as_bytes()).await;
    }
    let answer = client.ask(request::HEART_BEAT, &[], heartbeat("CONSUME_PASSIVELY").as_bytes()).await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    let place = [("consumerGroup", "billing"), ("topic", "orders"), ("queueId", "0"), ("commitOffset", "2")];
    // Who is no member may say so of a queue that no member has.
    let answer = world.client().await.ask(request::UPDATE_CONSUMER_OFFSET, &place, b"").await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    (world, client)
}

#[tokio::test]
async fn messages_are_counted_by_topic_and_for_the_whole_broker() {
    let (_world, mut client) = consumed().await;
    for (name, key) in [("TOPIC_PUT_NUMS", "orders"), ("BROKER_PUT_NUMS", "DefaultCluster")] {
        let stats = told(&mut client, request::VIEW_BROKER_STATS_DATA, &[("statsName", name), ("statsKey", key)]).await;
        for span in ["statsMinute", "statsHour", "statsDay"] {
            assert_eq!(stats.get(span).unwrap().int("sum"), Some(3), "{name} {span}");
        }
    }
    let fields = [("statsName", "GROUP_GET_NUMS"), ("statsKey", "orders@nobody")];
    let answer = client.ask(request::VIEW_BROKER_STATS_DATA, &fields, b"").await;
    let remark = "statsName GROUP_GET_NUMS has nothing for statsKey orders@nobody";
    assert_eq!(denied(&answer), (response::SYSTEM_ERROR, remark));
}

#[tokio::test]
async fn progress_says_when_the_last_settled_message_was_stored_of_one_group_and_of_all() {
    let (world, mut client) = consumed().await;
    let last = world.broker.stored_at("orders", 0, martlet_model::QueueOffset(1)).await.unwrap().unwrap();
    let expected = format!(
        r#"{{"brokerName":"broker-a","queueId":0,"topic":"orders"}}:{{"brokerOffset":3,"consumerOffset":2,"lastTimestamp":{},"#,
        last.0
    );
    for (code, field) in [
        (request::GET_CONSUME_STATS, ("consumerGroup", "billing")),
        (request::GET_BROKER_CONSUME_STATS, ("isOrder", "false")),
    ] {
        let answer = client.ask(code, &[field], b"").await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(&expected), "{code}: {text}");
    }
    let all = told(&mut client, request::GET_BROKER_CONSUME_STATS, &[("isOrder", "false")]).await;
    assert_eq!((all.int("totalDiff"), all.items("consumeStatsList").len()), (Some(1), 1));
    let ordered = told(&mut client, request::GET_BROKER_CONSUME_STATS, &[("isOrder", "true")]).await;
    assert_eq!((ordered.int("totalDiff"), ordered.items("consumeStatsList").len()), (Some(0), 0));
    let topics = told(&mut client, request::QUERY_TOPICS_BY_CONSUMER, &[("group", "billing")]).await;
    assert!(topics.items("topicList").contains(&"orders".into()), "{topics}");
}

#[tokio::test]
async fn a_group_is_shown_as_its_consumers_said_they_consume() {
    let (_world, mut client) = consumed().await;
    for kind in ["CONSUME_PASSIVELY", "CONSUME_ACTIVELY"] {
        client.ask(request::HEART_BEAT, &[], heartbeat(kind).as_bytes()).await;
        let shown = told(&mut client, request::GET_CONSUMER_CONNECTION_LIST, &[("consumerGroup", "billing")]).await;
        let said = (shown.text("consumeType"), shown.text("consumeFromWhere"), shown.text("messageModel"));
        assert_eq!(said, (Some(kind), Some("CONSUME_FROM_LAST_OFFSET"), Some("CLUSTERING")));
    }
}

#[tokio::test]
async fn of_what_has_a_key_the_newest_are_told_the_oldest_of_them_first() {
    let (_world, mut client) = consumed().await;
    let query = async |client: &mut Client, most: &str, kind: &str| {
        let times = [("beginTimestamp", "0"), ("endTimestamp", "99999999999999")];
        let fields = [("topic", "orders"), ("key", "4711"), ("maxNum", most), times[0], times[1], ("indexType", kind)];
        client.ask(request::QUERY_MESSAGE, &fields, b"").await
    };
    let found = query(&mut client, "2", "K").await;
    let offsets: Vec<i64> = decode_all(&found.body).unwrap().iter().map(|message| message.queue_offset).collect();
    assert_eq!(offsets, [1, 2]);
    let by_tag = query(&mut client, "2", "T").await;
    let remark = "indexType T is not supported: messages are found by key and by id, not by tag";
    assert_eq!(denied(&by_tag), (response::INVALID_PARAMETER, remark));
}

#[tokio::test]
async fn what_is_not_there_may_be_deleted_and_what_comes_with_a_group_be_asked_to_be_as_it_is() {
    let (_world, mut client) = consumed().await;
    for (code, field) in [
        (request::DELETE_TOPIC_IN_BROKER, ("topic", "nothing")),
        (request::DELETE_SUBSCRIPTIONGROUP, ("groupName", "nobody")),
        (request::CLEAN_EXPIRED_CONSUMEQUEUE, ("", "")),
    ] {
        assert_eq!(denied(&client.ask(code, &[field], b"").await), (response::SUCCESS, ""), "{field:?}");
    }
    for topic in ["%DLQ%billing", "%RETRY%billing"] {
        let same = client.ask(request::UPDATE_AND_CREATE_TOPIC, &topic_fields(topic, "1", "6", ""), b"").await;
        assert_eq!(denied(&same), (response::SUCCESS, ""));
        let other = client.ask(request::UPDATE_AND_CREATE_TOPIC, &topic_fields(topic, "1", "2", ""), b"").await;
        let (code, remark) = denied(&other);
        assert!(code == response::INVALID_PARAMETER && remark.contains("perm is 6"), "{remark}");
    }
}

#[tokio::test]
async fn lists_of_topics_and_groups_are_made_up_to_what_is_refused() {
    let world = World::new();
    let mut client = world.client().await;
    let topics = br#"{"topicConfigList":[{"topicName":"one","readQueueNums":3,"writeQueueNums":3,"perm":6},
        {"topicName":"two","attributes":{"+message.type":"FIFO"}},{"topicName":"a b"},{"topicName":"four"}]}"#;
    let answer = client.ask(request::UPDATE_AND_CREATE_TOPIC_LIST, &[], topics).await;
    let (code, remark) = denied(&answer);
    assert!(code == response::INVALID_PARAMETER && remark.contains("a b"), "{remark}");
    assert_eq!(world.broker.known_topic("one").unwrap().write_queues, 3);
    assert_eq!(world.broker.known_topic("two").unwrap().kind, martlet_model::TopicType::Fifo);
    assert!(world.broker.known_topic("four").is_none());
    let groups = br#"{"groupConfigList":[{"groupName":"billing","retryMaxTimes":5}]}"#;
    let answer = client.ask(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, &[], groups).await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    assert_eq!(world.broker.known_group("billing").unwrap().retry.max_attempts, 6);
    for (code, field) in [
        (request::UPDATE_AND_CREATE_TOPIC_LIST, "topicConfigList"),
        (request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, "groupConfigList"),
    ] {
        let empty = client.ask(code, &[], b"{}").await;
        assert_eq!(denied(&empty).1, format!("field {field} is missing or empty"));
        let many = format!(r#"{{"{field}":[{}]}}"#, vec!["{}"; 1_001].join(","));
        let many = client.ask(code, &[], many.as_bytes()).await;
        assert_eq!(denied(&many).1, format!("{field} has 1001 entries, the limit is 1000"));
    }
}

#[tokio::test]
async fn settings_may_be_asked_to_be_as_they_are_and_say_how_else_they_change() {
    let world = World::new();
    let mut client = world.client().await;
    let answer = client.ask(request::UPDATE_BROKER_CONFIG, &[], b"#comment\nfileReservedTime=72\n").await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    for (body, remark) in [
        (
            "fileReservedTime=24\n",
            "fileReservedTime is 72, and changes with a restart: start the broker with --retention-hours",
        ),
        ("brokerId=1", "brokerId is 0, and cannot be changed"),
        ("odd=1", "odd is not a setting of this broker"),
    ] {
        let answer = client.ask(request::UPDATE_BROKER_CONFIG, &[], body.as_bytes()).await;
        assert_eq!(denied(&answer), (response::INVALID_PARAMETER, remark));
    }
    let port = world.server().local_addr().port();
    for code in [request::GET_BROKER_CONFIG, request::GET_NAMESRV_CONFIG] {
        let config = client.ask(code, &[], b"").await;
        let text = String::from_utf8_lossy(&config.body).into_owned();
        assert!(text.contains(&format!("listenPort={port}\n")), "{text}");
    }
    let replicas = told(&mut client, request::GET_BROKER_HA_STATUS, &[]).await;
    assert_eq!((replicas.text("master"), replicas.int("inSyncSlaveNums")), (Some("true"), Some(0)));
}

#[tokio::test]
async fn topics_with_the_names_of_broker_and_cluster_have_routes_where_sends_make_topics() {
    let names = ["broker-a", "DefaultCluster"];
    let listed = async |world: &World| {
        let mut client = world.client().await;
        let list = told(&mut client, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[]).await;
        let mut routed = Vec::new();
        for name in names {
            routed.push(client.ask(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", name)], b"").await.header.code);
        }
        let listed = names.map(|name| list.items("topicList").iter().filter(|topic| **topic == name.into()).count());
        (listed, routed)
    };
    let world = World::new();
    assert_eq!(listed(&world).await, ([1, 1], vec![response::SUCCESS; 2]));
    world.client().await.produce("broker-a", "0", &[], b"body").await;
    assert_eq!(listed(&world).await.0, [1, 1], "listed once");
    let strict = World::with(|broker, _| broker.auto_create_topics = false);
    assert_eq!(listed(&strict).await, ([0, 0], vec![response::TOPIC_NOT_EXIST; 2]));
}

#[tokio::test]
async fn lite_topics_are_shown_by_parent_topic_group_and_client() {
    let world = World::new();
    let mut client = world.client().await;
    let fields = topic_fields("parent", "1", "6", "+message.type=LITE,+lite.topic.expiration=60");
    let answer = client.ask(request::UPDATE_AND_CREATE_TOPIC, &fields, b"").await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    let group = br#"{"groupName":"lites","attributes":{"+lite.bind.topic":"parent","+lite.sub.model":"Exclusive","+lite.sub.reset.offset.unsubscribe":"true"}}"#;
    let answer = client.ask(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], group).await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    let config = told(&mut client, request::GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", "lites")]).await;
    let attributes = config.get("attributes").unwrap();
    assert_eq!(attributes.text("lite.bind.topic"), Some("parent"));
    assert_eq!(attributes.text("lite.sub.model"), Some("Exclusive"));
    assert_eq!(attributes.text("lite.sub.reset.offset.exclusive"), Some("false"));
    assert_eq!(attributes.text("lite.sub.reset.offset.unsubscribe"), Some("true"));
    for (lite, count) in [("a", 1), ("b", 2)] {
        for _ in 0..count {
            let sent = client.produce("parent", "0", &[("__LITE_TOPIC", lite)], b"body").await;
            assert_eq!(denied(&sent).0, response::SUCCESS, "{:?}", sent.header.remark);
        }
    }
    let role = ClientRole::Consumer { group: "lites".into(), push: true, subscriptions: Vec::new() };
    let (language, version, remote) = ("JAVA".into(), "5.2.0".into(), "127.0.0.1:1".into());
    world.broker.client_seen(ClientInfo { client_id: "c@1".into(), language, version, remote, role }).unwrap();
    let action = martlet_broker::LiteAction::Add(martlet_broker::LiteStart::Last);
    let names = vec!["a".into(), "b".into()];
    let (group, topic) = ("lites".into(), "parent".into());
    let sync = LiteSyncRequest { client_id: "c@1".into(), group, topic, action, names, version: None };
    world.broker.sync_lite(sync).await.unwrap();

    let parent = told(&mut client, request::GET_PARENT_TOPIC_INFO, &[("topic", "parent")]).await;
    assert_eq!((parent.int("ttl"), parent.items("groups").len()), (Some(60), 1));
    let lite = [("parentTopic", "parent"), ("liteTopic", "b")];
    let lite = told(&mut client, request::GET_LITE_TOPIC_INFO, &lite).await;
    assert_eq!(lite.get("topicOffset").unwrap().int("maxOffset"), Some(2));
    assert_eq!(lite.items("subscriber")[0].text("clientId"), Some("c@1"));
    let of_client = [("parentTopic", "parent"), ("group", "lites"), ("clientId", "c@1")];
    let of_client = told(&mut client, request::GET_LITE_CLIENT_INFO, &of_client).await;
    assert_eq!(of_client.items("liteTopicSet"), ["a".into(), "b".into()]);
    assert!(of_client.int("lastAccessTime").unwrap() > 0);
    let of_group = [("group", "lites"), ("topK", "1")];
    let of_group = told(&mut client, request::GET_LITE_GROUP_INFO, &of_group).await;
    assert_eq!(of_group.items("lagCountTopK").len(), 1);
    assert_eq!(of_group.items("lagCountTopK")[0].text("liteTopic"), Some("b"));
    let longest = &of_group.items("lagTimestampTopK")[0];
    assert_eq!(longest.text("liteTopic"), Some("a"), "its message is the oldest");
    assert!(longest.int("earliestUnconsumedTimestamp").unwrap() > 0);
    let in_one = [("group", "lites"), ("liteTopic", "a")];
    let in_one = told(&mut client, request::GET_LITE_GROUP_INFO, &in_one).await;
    assert_eq!(in_one.get("liteTopicOffsetWrapper").unwrap().int("brokerOffset"), Some(1));
    let all = told(&mut client, request::GET_BROKER_LITE_INFO, &[]).await;
    assert_eq!(all.get("topicMeta").unwrap().int("parent"), Some(60));
    let dispatched = client.ask(request::TRIGGER_LITE_DISPATCH, &[("group", "lites")], b"").await;
    assert_eq!(denied(&dispatched), (response::SUCCESS, ""));
    for (code, field) in [
        (request::GET_PARENT_TOPIC_INFO, ("topic", "nothing")),
        (request::GET_LITE_GROUP_INFO, ("group", "nobody")),
        (request::TRIGGER_LITE_DISPATCH, ("group", "nobody")),
    ] {
        assert_ne!(client.ask(code, &[field], b"").await.header.code, response::SUCCESS, "{field:?}");
    }
}
