//! Delayed messages and their recall through the socket, against a real broker.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_broker::TopicSettings;
use martlet_grpc::proto::v2::messaging_service_client::MessagingServiceClient;
use martlet_grpc::proto::v2::{self, Code};
use martlet_model::TopicType;
use std::time::SystemTime;
use tonic::transport::Channel;
use world::*;

type Client = MessagingServiceClient<Channel>;

async fn topic(world: &World, name: &str, kind: TopicType) {
    let settings = TopicSettings { kind: Some(kind), queues: Some(1), ..Default::default() };
    world.broker.create_topic(name, settings).await.unwrap();
}

fn in_millis(millis: i64) -> prost_types::Timestamp {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64;
    let at = now + millis;
    prost_types::Timestamp { seconds: at.div_euclid(1000), nanos: at.rem_euclid(1000) as i32 * 1_000_000 }
}

fn delayed(topic: &str, id: &str, millis: i64) -> v2::Message {
    let mut message = message(topic, id, id.as_bytes());
    message.system_properties.as_mut().unwrap().delivery_timestamp = Some(in_millis(millis));
    message
}

async fn sent(client: &mut Client, messages: Vec<v2::Message>) -> Vec<v2::SendResultEntry> {
    let answer = client.send_message(send(messages)).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert_eq!(status.code(), Code::Ok, "{}", status.message);
    answer.entries
}

async fn recall(client: &mut Client, topic: &str, handle: &str) -> (Code, String, String) {
    let request = v2::RecallMessageRequest { topic: resource(topic), recall_handle: handle.into() };
    let answer = client.recall_message(from("producer", request)).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    (status.code(), status.message, answer.message_id)
}

fn now_millis() -> i64 {
    let now = in_millis(0);
    now.seconds * 1000 + i64::from(now.nanos) / 1_000_000
}

#[tokio::test]
async fn a_delayed_message_comes_with_its_type_and_timestamp_and_not_before_it() {
    let world = World::new();
    topic(&world, "later", TopicType::Delay).await;
    let mut client = world.client().await;
    let sending = vec![delayed("later", "past", -60_000), delayed("later", "soon", 700)];
    let due = sending[1].system_properties.as_ref().unwrap().delivery_timestamp.unwrap();
    let entries = sent(&mut client, sending).await;
    assert!(entries[0].recall_handle.is_empty(), "there is nothing to recall");
    assert!(!entries[1].recall_handle.is_empty());
    let first = poll(&mut client, from("consumer", receive("billing", "later"))).await.messages;
    assert_eq!(system(&first[0]).message_id, "past");
    let second = poll(&mut client, from("consumer", receive("billing", "later"))).await.messages;
    let system = system(&second[0]);
    assert!(now_millis() >= due.seconds * 1000 + i64::from(due.nanos) / 1_000_000);
    assert_eq!((&*system.message_id, system.message_type()), ("soon", v2::MessageType::Delay));
    assert_eq!(system.delivery_timestamp, Some(due));
}

#[tokio::test]
async fn recall_is_answered_truthfully_and_bad_handles_have_answers_of_their_own() {
    let world = World::new();
    topic(&world, "later", TopicType::Delay).await;
    topic(&world, "other", TopicType::Delay).await;
    let mut client = world.client().await;
    let entries = sent(&mut client, vec![delayed("later", "stopped", 3_600_000), delayed("later", "goes", 300)]).await;
    let stopped = &entries[0].recall_handle;
    assert_eq!(recall(&mut client, "later", stopped).await, (Code::Ok, "OK".into(), "stopped".into()));
    let (code, text, id) = recall(&mut client, "later", stopped).await;
    assert_eq!((code, &*id), (Code::MessageNotFound, ""));
    assert!(text.contains("recalled before"), "{text}");

    let polled = poll(&mut client, from("consumer", receive("billing", "later"))).await.messages;
    assert_eq!(system(&polled[0]).message_id, "goes");
    let (code, text, _) = recall(&mut client, "later", &entries[1].recall_handle).await;
    assert!(code == Code::MessageNotFound && text.contains("was due"), "{text}");

    let (code, text, _) = recall(&mut client, "other", stopped).await;
    assert!(code == Code::BadRequest && text.contains("another topic"), "{text}");
    let (code, text, _) = recall(&mut client, "later", "nonsense").await;
    assert!(code == Code::BadRequest && text.contains("8 characters"), "{text}");
    let forged = format!("{}{}", &stopped[..59], if stopped.ends_with('A') { 'B' } else { 'A' });
    assert_eq!(recall(&mut client, "later", &forged).await.0, Code::BadRequest);
    assert_eq!(recall(&mut client, "missing-topic|x y", stopped).await.0, Code::IllegalTopic);
    topic(&world, "plain", TopicType::Normal).await;
    assert_eq!(recall(&mut client, "plain", stopped).await.0, Code::MessagePropertyConflictWithType);
}

#[tokio::test]
async fn types_and_the_latest_delivery_timestamp_are_checked() {
    let world = World::with(|broker, _| {
        broker.delay_max_millis = 2 * 3_600_000;
        broker.mixed_topics = true;
    });
    topic(&world, "later", TopicType::Delay).await;
    topic(&world, "plain", TopicType::Normal).await;
    topic(&world, "mixed", TopicType::Mixed).await;
    let mut client = world.client().await;
    let mut refused = async |message: v2::Message| {
        let answer = client.send_message(send(vec![message])).await.unwrap().into_inner();
        assert!(answer.entries.is_empty());
        let status = answer.status.unwrap();
        (status.code(), status.message)
    };
    let (code, text) = refused(delayed("later", "far", 2 * 3_600_000 + 60_000)).await;
    assert!(code == Code::IllegalDeliveryTime && text.contains("7200000 ms"), "{text}");
    assert_eq!(refused(delayed("plain", "a", 60_000)).await.0, Code::MessagePropertyConflictWithType);
    assert_eq!(refused(message("later", "a", b"a")).await.0, Code::MessagePropertyConflictWithType);
    sent(&mut client, vec![message("mixed", "now", b"a"), delayed("mixed", "then", 60_000)]).await;
    let polled = poll(&mut client, from("consumer", receive("billing", "mixed"))).await.messages;
    assert_eq!(polled.iter().map(|message| &*system(message).message_id).collect::<Vec<_>>(), ["now"]);
    let plain = World::new();
    let settings = TopicSettings { kind: Some(TopicType::Mixed), ..Default::default() };
    assert!(plain.broker.create_topic("mixed", settings).await.is_err());
}
