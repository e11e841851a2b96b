//! Messages that are popped and settled one by one.

#![allow(clippy::unwrap_used)]

mod world;

use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::frame::Frame;
use martlet_remoting::codec::header::Format;
use martlet_remoting::codec::message::{Decoded, decode_all};
use martlet_remoting::codec::properties;
use world::{Client, World, denied, field, json};

const POP: [(&str, &str); 11] = [
    ("consumerGroup", "billing"),
    ("topic", "orders"),
    ("queueId", "-1"),
    ("maxMsgNums", "32"),
    ("invisibleTime", "60000"),
    ("pollTime", "0"),
    ("bornTime", "1700000000000"),
    ("initMode", "0"),
    ("expType", "TAG"),
    ("exp", "*"),
    ("order", "false"),
];

/// These fields, with some of them changed; one without a value is left out.
fn with<'a>(fields: &[(&'a str, &'a str)], changes: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = fields.iter().filter(|(name, _)| changes.iter().all(|(other, _)| other != name));
    kept.chain(changes.iter().filter(|(_, value)| !value.is_empty())).copied().collect()
}

/// A popped message.
struct Popped {
    message: Decoded,
    ck: String,
}

fn messages(answer: &Frame) -> Vec<Popped> {
    let ck = |message: &Decoded| {
        let all = properties::parse(&message.properties).unwrap();
        all.iter().find(|(name, _)| *name == "POP_CK").unwrap().1.to_owned()
    };
    decode_all(&answer.body).unwrap().into_iter().map(|message| Popped { ck: ck(&message), message }).collect()
}

async fn pop(client: &mut Client, changes: &[(&str, &str)]) -> Vec<Popped> {
    let answer = client.ask(request::POP_MESSAGE, &with(&POP, changes), b"").await;
    match answer.header.code {
        response::SUCCESS => messages(&answer),
        code => {
            assert_eq!(code, response::POLLING_TIMEOUT, "{:?}", answer.header);
            Vec::new()
        }
    }
}

/// Settles a message, or keeps it invisible, by what is said to be its `POP_CK`.
async fn settle(client: &mut Client, code: i32, ck: &str, more: &[(&str, &str)]) -> Frame {
    let parts: Vec<&str> = ck.split(' ').collect();
    let fields = [
        ("consumerGroup", "billing"),
        ("topic", "orders"),
        ("queueId", parts[6]),
        ("offset", parts[7]),
        ("extraInfo", ck),
    ];
    client.ask(code, &with(&fields, more), b"").await
}

async fn ack(client: &mut Client, ck: &str) -> i32 {
    settle(client, request::ACK_MESSAGE, ck, &[]).await.header.code
}

async fn send(client: &mut Client, queue: &str, bodies: &[&str]) {
    for body in bodies {
        let sent = client.produce("orders", queue, &[("TAGS", body), ("__SHARDINGKEY", "g")], body.as_bytes()).await;
        assert_eq!(sent.header.code, response::SUCCESS);
    }
}

fn bodies(popped: &[Popped]) -> Vec<String> {
    popped.iter().map(|one| String::from_utf8_lossy(&one.message.body).into_owned()).collect()
}

#[tokio::test]
async fn a_pop_says_where_its_messages_are_and_an_ack_settles_them() {
    let world = World::new();
    let mut client = world.client().await;
    send(&mut client, "1", &["a", "b"]).await;
    send(&mut client, "0", &["c"]).await;
    let answer = client.ask(request::POP_MESSAGE, &POP, b"").await;
    assert_eq!(answer.header.code, response::SUCCESS);
    assert_eq!((field(&answer, "startOffsetInfo"), field(&answer, "msgOffsetInfo")), ("0 0 0;0 1 0", "0 0 0;0 1 0,1"));
    assert_eq!((field(&answer, "reviveQid"), field(&answer, "invisibleTime")), ("0", "60000"));
    let popped = messages(&answer);
    let mut found = bodies(&popped);
    found.sort();
    assert_eq!(found, ["a", "b", "c"]);
    for one in &popped {
        let (queue, offset) = (one.message.queue.to_string(), one.message.queue_offset.to_string());
        let time = field(&answer, "popTime");
        let parts: Vec<&str> = one.ck.split(' ').collect();
        let expected = [&offset, time, "60000", parts[3], "0", "broker-a", &queue, &offset];
        assert_eq!(parts, expected);
        assert_eq!(one.message.reconsumed, 0);
    }
    let empty = client.ask(request::POP_MESSAGE, &POP, b"").await;
    assert_eq!(empty.header.code, response::POLLING_TIMEOUT);
    assert_eq!((field(&empty, "restNum"), field(&empty, "startOffsetInfo")), ("0", ""));
    for one in &popped {
        assert_eq!(ack(&mut client, &one.ck).await, response::SUCCESS);
        assert_eq!(ack(&mut client, &one.ck).await, response::SUCCESS, "twice is as good as once");
    }
    let status = world.broker.group_status("billing").await.unwrap();
    assert_eq!(status.progress.iter().map(|queue| queue.accumulation()).sum::<u64>(), 0);
}

#[tokio::test]
async fn a_pop_waits_for_a_message_and_passes_on_what_its_filter_and_queue_let_through() {
    let world = World::new();
    let (mut client, mut producer) = (world.client().await, world.client().await);
    send(&mut producer, "0", &["a", "b"]).await;
    send(&mut producer, "1", &["a"]).await;
    assert_eq!(bodies(&pop(&mut client, &[("exp", "a"), ("queueId", "1")]).await), ["a"]);
    assert_eq!(pop(&mut client, &[("exp", "a"), ("queueId", "1")]).await.len(), 0);
    assert_eq!(bodies(&pop(&mut client, &[("exp", "a || c")]).await), ["a"]);
    let waiting = client.send(request::POP_MESSAGE, &with(&POP, &[("exp", "c"), ("pollTime", "15000")]), b"", 0).await;
    let other = client.send(request::GET_MAX_OFFSET, &[("topic", "orders"), ("queueId", "0")], b"", 0).await;
    assert_eq!(client.answer().await.header.opaque, other, "what waits holds nothing else up");
    send(&mut producer, "0", &["c"]).await;
    let answer = client.answer().await;
    assert_eq!((answer.header.opaque, bodies(&messages(&answer))), (waiting, vec!["c".to_owned()]));
}

#[tokio::test]
async fn a_message_kept_invisible_comes_again_when_that_is_over_and_only_its_newest_handle_counts() {
    let world = World::new();
    let mut client = world.client().await;
    client.format = Format::Binary;
    send(&mut client, "0", &["a"]).await;
    let first = pop(&mut client, &[]).await.remove(0);
    let code = request::CHANGE_MESSAGE_INVISIBLETIME;
    let changed = settle(&mut client, code, &first.ck, &[("invisibleTime", "30000")]).await;
    assert_eq!((changed.header.code, field(&changed, "invisibleTime")), (response::SUCCESS, "30000"));
    assert_eq!(ack(&mut client, &first.ck).await, response::NO_MESSAGE);
    // As clients put it together.
    let next = |changed: &Frame| {
        format!("0 {} 30000 {} 0 broker-a 0 0", field(changed, "popTime"), field(changed, "reviveQid"))
    };
    let changed = settle(&mut client, code, &next(&changed), &[("invisibleTime", "0")]).await;
    assert_eq!(changed.header.code, response::SUCCESS);
    let second = pop(&mut client, &[("pollTime", "15000")]).await.remove(0);
    assert_eq!((second.message.reconsumed, second.message.queue_offset), (1, 0));
    assert_eq!(ack(&mut client, &next(&changed)).await, response::NO_MESSAGE);
    assert_eq!(ack(&mut client, &second.ck).await, response::SUCCESS);
}

#[tokio::test]
async fn a_batch_settles_what_it_names_and_says_what_it_does_not() {
    let world = World::new();
    let mut client = world.client().await;
    send(&mut client, "1", &["a", "b"]).await;
    let popped = pop(&mut client, &[]).await;
    let entry = |ck: &str| {
        let parts: Vec<&str> = ck.split(' ').collect();
        format!(
            r#"{{"c":"billing","t":"orders","r":"0","so":{},"q":{},"rq":{},"pt":{},"it":{},"b":"AQ=="}}"#,
            parts[0], parts[6], parts[3], parts[1], parts[2]
        )
    };
    let forged = popped[1].ck.replacen(popped[1].ck.split(' ').nth(3).unwrap(), "7", 1);
    let batch = |entries: &[String]| format!(r#"{{"brokerName":"broker-a","acks":[{}]}}"#, entries.join(","));
    let body = batch(&[entry(&popped[0].ck), entry(&forged)]);
    let answer = client.ask(request::BATCH_ACK_MESSAGE, &[], body.as_bytes()).await;
    let (code, remark) = denied(&answer);
    assert_eq!(code, response::NO_MESSAGE);
    assert!(remark.starts_with("1 of 2 messages are not settled"), "{remark}");
    let body = batch(&[entry(&popped[0].ck), entry(&popped[1].ck)]);
    assert_eq!(client.ask(request::BATCH_ACK_MESSAGE, &[], body.as_bytes()).await.header.code, response::SUCCESS);
    let status = world.broker.group_status("billing").await.unwrap();
    assert_eq!(status.progress.iter().map(|queue| queue.accumulation()).sum::<u64>(), 0);
}

/// What comes once a client is seen to be gone goes to the next one, as if that had never waited.
#[tokio::test]
async fn a_client_that_hangs_up_while_it_waits_takes_nothing_along() {
    let world = World::new();
    let mut producer = world.client().await;
    send(&mut producer, "0", &["a"]).await;
    let mut client = world.client().await;
    for one in pop(&mut client, &[]).await {
        ack(&mut client, &one.ck).await;
    }
    client.send(request::POP_MESSAGE, &with(&POP, &[("pollTime", "15000")]), b"", 0).await;
    // Answered in turn: the poll has been read.
    client.ask(request::GET_MAX_OFFSET, &[("topic", "orders"), ("queueId", "0")], b"").await;
    world::until("the poll waits", || world.broker.figures().waiting_polls == 1).await;
    drop(client);
    // What is written before the end of a connection is seen is the client's, read or not.
    world::until("the poll has ended", || world.broker.figures().waiting_polls == 0).await;
    send(&mut producer, "0", &["b"]).await;
    let mut other = world.client().await;
    let popped = pop(&mut other, &[("pollTime", "15000")]).await;
    assert_eq!((bodies(&popped), popped[0].message.reconsumed), (vec!["b".to_owned()], 0));
}

#[tokio::test]
async fn an_ordered_group_gets_a_message_group_one_by_one_or_together_if_it_knows() {
    let world = World::new();
    let mut client = world.client().await;
    let group = br#"{"groupName":"billing","consumeMessageOrderly":true}"#;
    client.ask(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], group).await;
    send(&mut client, "0", &["a", "b", "c"]).await;
    let answer = client.ask(request::POP_MESSAGE, &POP, b"").await;
    let popped = messages(&answer);
    assert_eq!((bodies(&popped), field(&answer, "reviveQid")), (vec!["a".to_owned()], "999"));
    assert!(pop(&mut client, &[]).await.is_empty(), "the next one waits for it");
    assert_eq!(ack(&mut client, &popped[0].ck).await, response::SUCCESS);
    let knows = [("order", "true"), ("pollTime", "15000")];
    let popped = pop(&mut client, &knows).await;
    assert_eq!(bodies(&popped), ["b", "c"]);
    let code = request::CHANGE_MESSAGE_INVISIBLETIME;
    settle(&mut client, code, &popped[0].ck, &[("invisibleTime", "0")]).await;
    assert_eq!(ack(&mut client, &popped[1].ck).await, response::SUCCESS);
    let answer = client.ask(request::POP_MESSAGE, &with(&POP, &knows), b"").await;
    assert_eq!((bodies(&messages(&answer)), messages(&answer)[0].message.reconsumed), (vec!["b".to_owned()], 1));
    let queue = messages(&answer)[0].message.queue;
    assert_eq!(field(&answer, "orderCountInfo"), format!("0 qo{queue}%1 1"));
}

#[tokio::test]
async fn a_notification_says_that_there_is_a_message_and_takes_nothing() {
    let world = World::new();
    let (mut client, mut producer) = (world.client().await, world.client().await);
    send(&mut producer, "0", &["b"]).await;
    let look = with(&POP, &[("exp", "a"), ("maxMsgNums", ""), ("invisibleTime", "")]);
    let answer = client.ask(request::NOTIFICATION, &look, b"").await;
    assert_eq!((field(&answer, "hasMsg"), field(&answer, "pollingFull")), ("false", "false"));
    client.send(request::NOTIFICATION, &with(&look, &[("pollTime", "15000")]), b"", 0).await;
    send(&mut producer, "0", &["a"]).await;
    assert_eq!(field(&client.answer().await, "hasMsg"), "true");
    let popped = pop(&mut client, &[("exp", "a"), ("pollTime", "15000")]).await;
    assert_eq!((bodies(&popped), popped[0].message.reconsumed), (vec!["a".to_owned()], 0));
}

#[tokio::test]
async fn an_operator_says_which_topics_a_group_pops_and_members_are_told() {
    let world = World::new();
    let mut client = world.client().await;
    send(&mut client, "0", &["a"]).await;
    let heartbeat = br#"{"clientID":"c1","producerDataSet":[],"consumerDataSet":[{"groupName":"billing",
        "subscriptionDataSet":[{"topic":"orders","subString":"*"}]}]}"#;
    client.ask(request::HEART_BEAT, &[], heartbeat).await;
    assert_eq!(client.notice().await.header.code, request::NOTIFY_CONSUMER_IDS_CHANGED);
    let assignment = async |client: &mut Client, topic: &str| {
        let body =
            format!(r#"{{"topic":"{topic}","consumerGroup":"billing","clientId":"c1","messageModel":"CLUSTERING"}}"#);
        let answer = client.ask(request::QUERY_ASSIGNMENT, &[], body.as_bytes()).await;
        let assigned = json(&answer.body);
        let one = |one: &martlet_remoting::codec::json::Json| {
            (one.get("messageQueue")?.int("queueId")?, one.text("mode")?.to_owned()).into()
        };
        assigned.items("messageQueueAssignments").iter().filter_map(one).collect::<Vec<(i64, String)>>()
    };
    let set = async |client: &mut Client, mode: &str| {
        let body = format!(r#"{{"topic":"orders","consumerGroup":"billing","mode":"{mode}","popShareQueueNum":0}}"#);
        let answer = client.ask(request::SET_MESSAGE_REQUEST_MODE, &[], body.as_bytes()).await;
        assert_eq!(denied(&answer), (response::SUCCESS, ""));
    };
    assert_eq!(assignment(&mut client, "orders").await.len(), 4);
    set(&mut client, "POP").await;
    assert_eq!(client.notice().await.header.code, request::NOTIFY_CONSUMER_IDS_CHANGED);
    assert_eq!(assignment(&mut client, "orders").await, [(-1, "POP".to_owned())]);
    assert_eq!(assignment(&mut client, "%RETRY%billing").await, [(0, "PULL".to_owned())]);
    set(&mut client, "PULL").await;
    assert_eq!(assignment(&mut client, "orders").await.len(), 4);
    for (body, part) in [
        ("{}", "field topic is missing"),
        (r#"{"topic":"orders","consumerGroup":"billing","mode":"PUSH"}"#, "field mode is \"PUSH\""),
        (r#"{"topic":"nowhere","consumerGroup":"billing","mode":"POP"}"#, "topic nowhere does not exist"),
        (r#"{"topic":"%RETRY%billing","consumerGroup":"billing","mode":"POP"}"#, "does not exist"),
    ] {
        let answer = client.ask(request::SET_MESSAGE_REQUEST_MODE, &[], body.as_bytes()).await;
        assert!(answer.header.code != response::SUCCESS && denied(&answer).1.contains(part), "{:?}", denied(&answer));
    }
}

#[tokio::test]
async fn what_cannot_be_popped_is_refused_by_name() {
    let world = World::with(|broker, _| broker.auto_create_groups = false);
    let mut client = world.client().await;
    send(&mut client, "0", &["a"]).await;
    let answer = client.ask(request::POP_MESSAGE, &POP, b"").await;
    assert_eq!(answer.header.code, response::SUBSCRIPTION_GROUP_NOT_EXIST);
    client.ask(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], br#"{"groupName":"billing"}"#).await;
    let invalid = response::INVALID_PARAMETER;
    let cases: [(&str, &str, i32, &str); 16] = [
        ("maxMsgNums", "0", invalid, "maxMsgNums is 0, not from 1 to 32"),
        ("maxMsgNums", "33", invalid, "maxMsgNums is 33"),
        ("maxMsgNums", "", invalid, "maxMsgNums is missing"),
        ("invisibleTime", "0", invalid, "invisibleTime is 0 ms"),
        ("invisibleTime", "43200001", invalid, "invisibleTime is 43200001 ms"),
        ("pollTime", "x", invalid, "pollTime is \"x\""),
        ("bornTime", "", invalid, "bornTime is missing"),
        ("initMode", "", invalid, "initMode is missing"),
        ("queueId", "4", invalid, "queueId 4 is not one of topic orders, which has 4 queues"),
        ("queueId", "-2", invalid, "queueId -2"),
        ("topic", "nowhere", response::TOPIC_NOT_EXIST, "nowhere"),
        ("topic", "%RETRY%billing", response::TOPIC_NOT_EXIST, "%RETRY%billing"),
        ("consumerGroup", "no group", invalid, "no group"),
        ("consumerGroup", "", invalid, "consumerGroup is missing"),
        ("exp", "a | b", response::SUBSCRIPTION_PARSE_FAILED, ""),
        ("order", "true", invalid, "not an ordered one"),
    ];
    for (name, value, code, part) in cases {
        let answer = client.ask(request::POP_MESSAGE, &with(&POP, &[(name, value)]), b"").await;
        assert_eq!(answer.header.code, code, "{name}={value}: {:?}", answer.header.remark);
        assert!(denied(&answer).1.contains(part), "{name}={value}: {:?}", answer.header.remark);
    }
    assert_eq!(pop(&mut client, &[]).await.len(), 1, "nothing of that has taken the message");
}

#[tokio::test]
async fn nobody_settles_what_was_not_handed_to_them() {
    let world = World::new();
    let mut client = world.client().await;
    send(&mut client, "0", &["a"]).await;
    let popped = pop(&mut client, &[]).await.remove(0);
    pop(&mut client, &[("consumerGroup", "audit")]).await;
    let parts: Vec<&str> = popped.ck.split(' ').collect();
    let changed = |at: usize, text: &str| {
        let mut parts = parts.clone();
        parts[at] = text;
        parts.join(" ")
    };
    let invalid = response::INVALID_PARAMETER;
    for code in [request::ACK_MESSAGE, request::CHANGE_MESSAGE_INVISIBLETIME] {
        let hold = ("invisibleTime", "1000");
        for (ck, change, expected) in [
            (changed(3, "1"), hold, response::NO_MESSAGE),
            (popped.ck.clone(), ("consumerGroup", "audit"), response::NO_MESSAGE),
            (popped.ck.clone(), ("consumerGroup", "strangers"), response::SUBSCRIPTION_GROUP_NOT_EXIST),
            (popped.ck.clone(), ("topic", "nowhere"), response::TOPIC_NOT_EXIST),
            (popped.ck.clone(), ("offset", "1"), invalid),
            (popped.ck.clone(), ("queueId", "1"), invalid),
            (popped.ck.clone(), ("offset", "-1"), invalid),
            (popped.ck.clone(), ("extraInfo", "1 2 3"), invalid),
            (changed(5, "broker-b"), hold, invalid),
        ] {
            let answer = settle(&mut client, code, &ck, &with(&[hold], &[change])).await;
            assert_eq!(answer.header.code, expected, "{code} {ck} {change:?}: {:?}", answer.header.remark);
        }
    }
    for (millis, part) in [("-1", "-1 ms"), ("43200001", "43200001 ms"), ("", "invisibleTime is missing")] {
        let answer =
            settle(&mut client, request::CHANGE_MESSAGE_INVISIBLETIME, &popped.ck, &[("invisibleTime", millis)]).await;
        assert_eq!(answer.header.code, invalid);
        assert!(denied(&answer).1.contains(part), "{:?}", answer.header.remark);
    }
    for body in ["", "{}", "[1]", r#"{"acks":[{"c":"billing"}]}"#, r#"{"brokerName":"broker-b","acks":[]}"#] {
        let answer = client.ask(request::BATCH_ACK_MESSAGE, &[], body.as_bytes()).await;
        assert_eq!(answer.header.code, invalid, "{body}: {:?}", answer.header.remark);
    }
    assert_eq!(ack(&mut client, &popped.ck).await, response::SUCCESS, "it is still its own client's");
}
