//! Consumers that keep their own place: PullMessage, GetOffset, UpdateOffset, QueryOffset.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use martlet_broker::{GroupSettings, TopicSettings};
use martlet_grpc::proto::v2::messaging_service_client::MessagingServiceClient;
use martlet_grpc::proto::v2::pull_message_response::Content;
use martlet_grpc::proto::v2::{self, Code};
use std::time::Duration;
use tonic::transport::Channel;
use world::*;

type Client = MessagingServiceClient<Channel>;

fn queue(topic: &str, id: i32) -> Option<v2::MessageQueue> {
    Some(v2::MessageQueue { topic: resource(topic), id, ..Default::default() })
}

fn pull(offset: i64, wait_secs: Option<i64>) -> v2::PullMessageRequest {
    v2::PullMessageRequest {
        group: resource("billing"),
        message_queue: queue("orders", 0),
        offset,
        batch_size: 32,
        filter_expression: None,
        long_polling_timeout: wait_secs.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
    }
}

/// What a pull brought. Checks the order of the frames.
#[derive(Debug)]
struct Brought {
    code: Code,
    text: String,
    messages: Vec<v2::Message>,
    next: Option<i64>,
}

impl Brought {
    fn bodies(&self) -> Vec<&str> {
        self.messages.iter().map(|message| std::str::from_utf8(&message.body).unwrap()).collect()
    }
}

async fn brought(client: &mut Client, request: v2::PullMessageRequest) -> Brought {
    let mut stream = client.pull_message(from("puller", request)).await.unwrap().into_inner();
    let Some(Content::Status(status)) = stream.message().await.unwrap().unwrap().content else {
        panic!("the status does not come first")
    };
    let mut brought = Brought { code: status.code(), text: status.message, messages: Vec::new(), next: None };
    while let Some(response) = stream.message().await.unwrap() {
        assert_eq!(brought.next, None, "something comes after the next offset");
        match response.content.unwrap() {
            Content::Message(message) => brought.messages.push(message),
            Content::NextOffset(next) => brought.next = Some(next),
            Content::Status(status) => panic!("a second status: {status:?}"),
        }
    }
    brought
}

/// A topic of one queue with these messages, tagged in turn red and green.
async fn world(bodies: &[&str]) -> (World, Client) {
    let world = World::new();
    let settings = TopicSettings { queues: Some(1), ..TopicSettings::default() };
    world.broker.create_topic("orders", settings).await.unwrap();
    let mut client = world.client().await;
    for (n, body) in bodies.iter().enumerate() {
        tagged(&mut client, body, ["red", "green"][n % 2]).await;
    }
    (world, client)
}

async fn tagged(client: &mut Client, body: &str, tag: &str) {
    let mut message = message("orders", body, body.as_bytes());
    message.system_properties.as_mut().unwrap().tag = Some(tag.into());
    let answer = client.send_message(send(vec![message])).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
}

async fn get(client: &mut Client, group: &str) -> (Code, i64) {
    let request = v2::GetOffsetRequest { group: resource(group), message_queue: queue("orders", 0) };
    let answer = client.get_offset(from("puller", request)).await.unwrap().into_inner();
    (answer.status.unwrap().code(), answer.offset)
}

async fn update(client: &mut Client, offset: i64) -> Code {
    let request = v2::UpdateOffsetRequest { group: resource("billing"), message_queue: queue("orders", 0), offset };
    client.update_offset(from("puller", request)).await.unwrap().into_inner().status.unwrap().code()
}

async fn query(client: &mut Client, policy: i32, timestamp: Option<prost_types::Timestamp>) -> (Code, i64) {
    let message_queue = queue("orders", 0);
    let request = v2::QueryOffsetRequest { message_queue, query_offset_policy: policy, timestamp };
    let answer = client.query_offset(from("puller", request)).await.unwrap().into_inner();
    (answer.status.unwrap().code(), answer.offset)
}

#[tokio::test]
async fn a_pull_brings_what_is_there_from_its_offset_on_and_says_where_to_go_on() {
    let (_world, mut client) = world(&["a", "b", "c"]).await;
    let all = brought(&mut client, pull(0, None)).await;
    assert_eq!((all.code, all.bodies(), all.next), (Code::Ok, vec!["a", "b", "c"], Some(3)));
    let system = system(&all.messages[1]);
    assert_eq!((system.queue_id, system.queue_offset, &system.message_id[..]), (0, Some(1), "b"));
    assert_eq!((&system.receipt_handle, system.delivery_attempt), (&None, None), "nothing was handed out");
    assert!(system.body_digest.is_some() && system.born_timestamp.is_some());
    let two = brought(&mut client, v2::PullMessageRequest { batch_size: 2, ..pull(0, None) }).await;
    assert_eq!((two.bodies(), two.next), (vec!["a", "b"], Some(2)));
    let end = brought(&mut client, pull(3, None)).await;
    assert_eq!((end.code, end.messages.len(), end.next), (Code::MessageNotFound, 0, Some(3)));
    // The group has consumed nothing: consumers that are handed messages get them all.
    let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    assert_eq!(polled.messages.len(), 3);
}

#[tokio::test]
async fn a_pull_that_waits_is_answered_when_a_message_comes() {
    let (world, mut client) = world(&["a"]).await;
    let mut other = world.client().await;
    let mut waiting = tokio::spawn(async move { brought(&mut other, pull(1, Some(20))).await });
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err(), "it waits");
    tagged(&mut client, "b", "red").await;
    let got = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!((got.code, got.bodies(), got.next), (Code::Ok, vec!["b"], Some(2)));
    // One that nobody waits for any more is given up.
    let abandoned = client.pull_message(from("puller", pull(2, Some(20))));
    assert!(tokio::time::timeout(Duration::from_millis(50), abandoned).await.is_err());
    let late = brought(&mut world.client().await, pull(2, Some(1))).await;
    assert_eq!((late.code, late.next), (Code::MessageNotFound, Some(2)));
}

#[tokio::test]
async fn a_filtered_pull_passes_over_what_does_not_match_and_does_not_look_at_it_again() {
    let (world, mut client) = world(&["r0", "g1", "r2", "g3", "r4", "g5"]).await;
    let filtered = |tag: &str, offset, batch_size| {
        let filter_expression = Some(v2::FilterExpression { r#type: 1, expression: tag.into() });
        v2::PullMessageRequest { filter_expression, batch_size, ..pull(offset, None) }
    };
    let green = brought(&mut client, filtered("green", 0, 1)).await;
    assert_eq!((green.bodies(), green.next), (vec!["g1"], Some(3)), "up to the next that matches");
    let green = brought(&mut client, filtered("green", 3, 32)).await;
    assert_eq!((green.code, green.bodies(), green.next), (Code::Ok, vec!["g3", "g5"], Some(6)));
    let none = brought(&mut client, filtered("blue", 0, 32)).await;
    assert_eq!((none.code, none.messages.len(), none.next), (Code::MessageNotFound, 0, Some(6)));
    // What comes meanwhile and does not match does not end the wait.
    let mut other = world.client().await;
    let waiting = v2::PullMessageRequest {
        long_polling_timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..filtered("blue", 6, 32)
    };
    let mut waiting = tokio::spawn(async move { brought(&mut other, waiting).await });
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut waiting).await.is_err(), "it waits");
    tagged(&mut client, "r6", "red").await;
    tagged(&mut client, "b7", "blue").await;
    let got = tokio::time::timeout(Duration::from_secs(10), waiting).await.unwrap().unwrap();
    assert_eq!((got.bodies(), got.next), (vec!["b7"], Some(8)));
}

#[tokio::test]
async fn large_messages_are_pulled_a_reply_at_a_time() {
    let (_world, mut client) = world(&[]).await;
    for n in 0..3 {
        let body = vec![n; 3 << 20];
        let answer = client.send_message(send(vec![message("orders", &n.to_string(), &body)])).await.unwrap();
        assert_eq!(answer.into_inner().status.unwrap().code(), Code::Ok);
    }
    let mut offset = 0;
    for n in 0..3 {
        let got = brought(&mut client, pull(offset, None)).await;
        assert_eq!((got.messages.len(), got.messages[0].body[0], got.next), (1, n, Some(offset + 1)));
        offset = got.next.unwrap();
    }
}

#[tokio::test]
async fn offsets_are_committed_asked_for_and_kept() {
    let (_world, mut client) = world(&["a", "b", "c", "d"]).await;
    assert_eq!(get(&mut client, "billing").await, (Code::OffsetNotFound, 0), "it has not begun");
    assert_eq!(update(&mut client, 2).await, Code::Ok);
    assert_eq!(get(&mut client, "billing").await, (Code::Ok, 2));
    // What is below counts as consumed for those who are handed messages, too.
    let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    assert_eq!(polled.messages.iter().map(|message| &message.body[..]).collect::<Vec<_>>(), [b"c", b"d"]);
    assert_eq!(get(&mut client, "billing").await, (Code::Ok, 2), "they are in flight");
    assert_eq!(update(&mut client, 4).await, Code::Ok);
    let handles: Vec<String> = polled.messages.iter().map(handle).collect();
    let acks = ack(&mut client, "billing", "orders", &handles).await;
    assert!(acks.iter().all(|status| status.code() == Code::Ok), "settled is settled");
    assert_eq!(update(&mut client, 1).await, Code::Ok, "back again");
    assert_eq!(get(&mut client, "billing").await, (Code::Ok, 1));
    let again = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    assert_eq!(again.messages.len(), 3);
    assert!(again.messages.iter().all(|message| system(message).delivery_attempt == Some(1)));
    assert_eq!(update(&mut client, 5).await, Code::IllegalOffset);
    assert_eq!(update(&mut client, -1).await, Code::IllegalOffset);
}

#[tokio::test]
async fn ends_of_a_queue_and_places_by_time_are_answered() {
    let (_world, mut client) = world(&["a", "b", "c"]).await;
    assert_eq!(query(&mut client, 0, None).await, (Code::Ok, 0));
    assert_eq!(query(&mut client, 1, None).await, (Code::Ok, 3));
    let pulled = brought(&mut client, pull(0, None)).await;
    let stored = |n: usize| system(&pulled.messages[n]).store_timestamp;
    let expected = (0..3).position(|n| stored(n) == stored(2)).unwrap() as i64;
    assert_eq!(query(&mut client, 2, stored(2)).await, (Code::Ok, expected));
    let (long_ago, far_ahead) = (1, 4_000_000_000);
    let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
    assert_eq!(query(&mut client, 2, at(long_ago)).await, (Code::Ok, 0));
    assert_eq!(query(&mut client, 2, at(far_ahead)).await, (Code::Ok, 3));
    for (policy, time) in [(2, None), (2, Some(prost_types::Timestamp { seconds: 0, nanos: -1 })), (3, None)] {
        assert_eq!(query(&mut client, policy, time).await.0, Code::BadRequest);
    }
}

#[tokio::test]
async fn pulls_that_break_a_rule_are_refused_by_name() {
    let (world, mut client) = world(&["a", "b"]).await;
    let settings = TopicSettings { permission: Some(martlet_model::Permission::Write), ..TopicSettings::default() };
    world.broker.create_topic("write-only", settings).await.unwrap();
    let sql = |text: &str| Some(v2::FilterExpression { r#type: 2, expression: text.into() });
    let rows = [
        (v2::PullMessageRequest { group: resource(""), ..pull(0, None) }, Code::IllegalConsumerGroup, "group"),
        (v2::PullMessageRequest { message_queue: queue("", 0), ..pull(0, None) }, Code::IllegalTopic, "topic"),
        (v2::PullMessageRequest { message_queue: None, ..pull(0, None) }, Code::IllegalTopic, "topic"),
        (v2::PullMessageRequest { message_queue: queue("none", 0), ..pull(0, None) }, Code::TopicNotFound, "none"),
        (v2::PullMessageRequest { message_queue: queue("orders", -1), ..pull(0, None) }, Code::BadRequest, "-1"),
        (v2::PullMessageRequest { message_queue: queue("orders", 1), ..pull(0, None) }, Code::BadRequest, "queue 1"),
        (v2::PullMessageRequest { message_queue: queue("write-only", 0), ..pull(0, None) }, Code::Forbidden, "write"),
        (v2::PullMessageRequest { batch_size: 0, ..pull(0, None) }, Code::BadRequest, "batch_size 0"),
        (v2::PullMessageRequest { filter_expression: sql("a ="), ..pull(0, None) }, Code::IllegalFilterExpression, ""),
        (pull(0, Some(-1)), Code::IllegalPollingTime, "-1 s"),
        (pull(-1, None), Code::IllegalOffset, "offset -1"),
    ];
    for (request, code, text) in rows {
        let got = brought(&mut client, request.clone()).await;
        assert_eq!((got.code, got.next), (code, None), "{request:?}: {}", got.text);
        assert!(got.text.contains(text), "{}", got.text);
    }
    let past = brought(&mut client, pull(9, None)).await;
    assert_eq!((past.code, past.next), (Code::IllegalOffset, Some(2)), "the nearest place there is");
    assert_eq!(past.text, "offset 9 of queue 0 is not from 0 to 2");
}

#[tokio::test]
async fn without_automatic_creation_a_group_that_is_missing_is_named() {
    let world = World::with(|broker, _| broker.auto_create_groups = false);
    world.broker.create_topic("orders", TopicSettings::default()).await.unwrap();
    world.broker.create_group("known", GroupSettings::default()).await.unwrap();
    let mut client = world.client().await;
    assert_eq!(brought(&mut client, pull(0, None)).await.code, Code::ConsumerGroupNotFound);
    assert_eq!(get(&mut client, "billing").await.0, Code::ConsumerGroupNotFound);
    assert_eq!(get(&mut client, "known").await.0, Code::OffsetNotFound);
    assert_eq!(update(&mut client, 0).await, Code::ConsumerGroupNotFound);
    let missing = v2::GetOffsetRequest { group: resource("known"), message_queue: queue("none", 0) };
    let answer = client.get_offset(from("puller", missing)).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::TopicNotFound);
}
