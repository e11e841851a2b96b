//! What Apache's dashboard reads beyond what `mqadmin` does, and looks for under names of its own.

mod world;

use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::json::Json;
use martlet_remoting::codec::message::decode_all;
use martlet_remoting::codec::properties;
use world::{Client, World, denied, field, json};

async fn done(client: &mut Client, code: i32, fields: &[(&str, &str)], body: &[u8]) {
    let answer = client.ask(code, fields, body).await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""), "{code} {fields:?}");
}

/// A consumer of topic orders, in a group of its own.
async fn consumer(client: &mut Client, group: &str, model: &str, filter: &str) {
    let body = format!(
        r#"{{"clientID":"{group}@1","producerDataSet":[],"consumerDataSet":[{{"groupName":"{group}",
        "consumeType":"CONSUME_PASSIVELY","messageModel":"{model}","consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","unitMode":false,
        "subscriptionDataSet":[{{"topic":"orders","subString":"{filter}","subVersion":7,"expressionType":"TAG"}}]}}]}}"#
    );
    done(client, request::HEART_BEAT, &[], body.as_bytes()).await;
}

/// The type of each topic in the list of all topics.
async fn types(client: &mut Client) -> Vec<(String, String)> {
    let answer = client.ask(request::GET_ALL_TOPIC_CONFIG, &[], b"").await;
    let all = json(&answer.body);
    let Some(Json::Object(table)) = all.get("topicConfigTable") else { panic!("{all}") };
    assert_eq!(field(&answer, "totalTopicNum"), table.len().to_string());
    let kind =
        |config: &Json| config.get("attributes").and_then(|all| all.text("message.type")).unwrap_or("").to_owned();
    let mut types: Vec<_> =
        table.iter().map(|(name, config)| (name.scalar().unwrap_or("").to_owned(), kind(config))).collect();
    types.sort();
    types
}

#[tokio::test]
async fn topics_of_groups_are_in_the_list_and_a_topic_without_a_type_says_so() {
    for (mixed, kind) in [(false, "UNSPECIFIED"), (true, "MIXED")] {
        let world = World::with(|broker, _| broker.mixed_topics = mixed);
        let mut client = world.client().await;
        client.produce("orders", "0", &[], b"body").await;
        done(&mut client, request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], br#"{"groupName":"billing"}"#).await;
        let expected = [("%DLQ%billing", "NORMAL"), ("%RETRY%billing", "NORMAL"), ("orders", kind)];
        let expected = expected.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
        assert_eq!(types(&mut client).await, expected);
        // As it is told, it is taken again.
        let attributes = format!("+message.type={kind}");
        let counts = [("topic", "orders"), ("readQueueNums", "8"), ("writeQueueNums", "8"), ("perm", "6")];
        let fields = [&counts[..], &[("attributes", attributes.as_str())]].concat();
        done(&mut client, request::UPDATE_AND_CREATE_TOPIC, &fields, b"").await;
    }
}

#[tokio::test]
async fn who_consumes_a_topic_is_told_with_versions_and_tags_and_of_those_that_broadcast() {
    let world = World::new();
    let mut client = world.client().await;
    client.produce("orders", "0", &[], b"body").await;
    for (group, model, filter, tags, codes) in [
        ("audit", "BROADCASTING", "*", Vec::new(), Vec::new()),
        ("billing", "CLUSTERING", "open || paid", vec!["open", "paid"], vec![3_417_674, 3_433_164]),
    ] {
        consumer(&mut client, group, model, filter).await;
        let fields = [("consumerGroup", group)];
        let shown = json(&client.ask(request::GET_CONSUMER_CONNECTION_LIST, &fields, b"").await.body);
        let subscription = shown.get("subscriptionTable").and_then(|table| table.get("orders"));
        let subscription = subscription.unwrap_or_else(|| panic!("{group} subscribes to nothing: {shown}"));
        assert_eq!(subscription.int("subVersion"), Some(7), "{group}");
        assert_eq!(subscription.items("tagsSet"), tags.into_iter().map(Json::from).collect::<Vec<_>>(), "{group}");
        assert_eq!(subscription.items("codeSet"), codes.into_iter().map(Json::from).collect::<Vec<Json>>(), "{group}");
    }
    let by = json(&client.ask(request::QUERY_TOPIC_CONSUME_BY_WHO, &[("topic", "orders")], b"").await.body);
    assert_eq!(by.items("groupList"), [Json::from("audit"), Json::from("billing")]);
}

#[tokio::test]
async fn a_dead_letter_names_the_message_that_a_consumer_can_be_given_again() {
    let world = World::new();
    let mut client = world.client().await;
    let id = "0A0000050000000000000000000000AA";
    let sent = client.produce("orders", "0", &[("UNIQ_KEY", id)], b"body").await;
    let at = martlet_remoting::codec::ids::read_offset_id(field(&sent, "msgId")).unwrap().1.0.to_string();
    consumer(&mut client, "billing", "CLUSTERING", "*").await;
    let back = [("group", "billing"), ("offset", at.as_str()), ("delayLevel", "-1")];
    done(&mut client, request::CONSUMER_SEND_MSG_BACK, &back, b"").await;
    let times = [("beginTimestamp", "0"), ("endTimestamp", "99999999999999"), ("maxNum", "32")];
    let query = [&[("topic", "%DLQ%billing"), ("key", id), ("indexType", "U")], &times[..]].concat();
    let found = client.ask(request::QUERY_MESSAGE, &query, b"").await;
    assert_eq!(denied(&found), (response::SUCCESS, ""));
    let message = &decode_all(&found.body).unwrap()[0];
    let pairs = properties::parse(&message.properties).unwrap();
    let said = |name: &str| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1);
    assert_eq!((said("RETRY_TOPIC"), said("ORIGIN_MESSAGE_ID")), (Some("orders"), Some(id)));
}
