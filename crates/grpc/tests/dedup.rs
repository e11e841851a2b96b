//! Messages sent again under the same message id, over another connection, against a real broker. What published clients do when
//! a connection is lost is in the conformance tests.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_broker::TopicSettings;
use martlet_grpc::proto::v1::{self, admin_client::AdminClient};
use martlet_grpc::proto::v2::{self, Code, MessageType, TransactionResolution};
use martlet_model::TopicType;
use world::*;

async fn topic(world: &World, name: &str, kind: TopicType, deduplicate_millis: Option<i64>) {
    let settings = TopicSettings { kind: Some(kind), queues: Some(2), deduplicate_millis, ..Default::default() };
    world.broker.create_topic(name, settings).await.unwrap();
}

/// Sends over a connection of its own.
async fn sent(world: &World, messages: Vec<v2::Message>) -> Vec<v2::SendResultEntry> {
    let answer = world.client().await.send_message(send(messages)).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    answer.entries
}

async fn received(world: &World, topic: &str) -> Vec<String> {
    let polled = poll(&mut world.client().await, from("consumer", receive("billing", topic))).await;
    polled.messages.iter().map(|message| system(message).message_id.clone()).collect()
}

fn of_kind(topic: &str, id: &str, change: impl FnOnce(&mut v2::SystemProperties)) -> Vec<v2::Message> {
    let mut message = message(topic, id, id.as_bytes());
    change(message.system_properties.as_mut().unwrap());
    vec![message]
}

#[tokio::test]
async fn a_batch_sent_again_has_the_first_answers_where_the_topic_asks_for_it() {
    let world = World::new();
    let batch = |topic| vec![message(topic, "a", b"a"), message(topic, "b", b"b")];
    topic(&world, "once", TopicType::Normal, Some(300_000)).await;
    let first = sent(&world, batch("once")).await;
    assert_eq!(sent(&world, batch("once")).await, first);
    let mut grown = batch("once");
    grown.push(message("once", "c", b"c"));
    assert_eq!(sent(&world, grown).await[..2], first[..]);
    assert_eq!(received(&world, "once").await, ["a", "b", "c"]);

    topic(&world, "every", TopicType::Normal, None).await;
    let first = sent(&world, batch("every")).await;
    let second = sent(&world, batch("every")).await;
    assert!(first.iter().zip(&second).all(|(first, second)| first.message_id == second.message_id));
    let mut ids = received(&world, "every").await;
    ids.sort_unstable();
    assert_eq!(ids, ["a", "a", "b", "b"]);
}

#[tokio::test]
async fn a_delayed_message_sent_again_has_the_same_recall_handle_and_a_half_message_the_same_transaction() {
    let world = World::new();
    topic(&world, "later", TopicType::Delay, Some(300_000)).await;
    topic(&world, "deals", TopicType::Transaction, Some(300_000)).await;
    let at = std::time::SystemTime::now() + std::time::Duration::from_secs(3_600);
    let delayed = of_kind("later", "a", |system| system.delivery_timestamp = Some(at.into()));
    let first = sent(&world, delayed.clone()).await;
    assert!(!first[0].recall_handle.is_empty());
    assert_eq!(sent(&world, delayed).await, first);
    let recall = v2::RecallMessageRequest { topic: resource("later"), recall_handle: first[0].recall_handle.clone() };
    let mut client = world.client().await;
    let answer = client.recall_message(from("producer", recall.clone())).await.unwrap().into_inner();
    assert_eq!((answer.status.unwrap().code(), &*answer.message_id), (Code::Ok, "a"));
    let answer = client.recall_message(from("producer", recall)).await.unwrap().into_inner();
    assert!(answer.status.unwrap().message.contains("recalled before"), "there was one message to recall");

    let half = of_kind("deals", "a", |system| system.message_type = MessageType::Transaction as i32);
    let first = sent(&world, half.clone()).await;
    assert!(!first[0].transaction_id.is_empty());
    assert_eq!(sent(&world, half).await, first);
    for _ in 0..2 {
        let end = v2::EndTransactionRequest {
            topic: resource("deals"),
            message_id: "a".into(),
            transaction_id: first[0].transaction_id.clone(),
            resolution: TransactionResolution::Commit as i32,
            ..Default::default()
        };
        let answer = client.end_transaction(from("producer", end)).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code(), Code::Ok);
    }
    assert_eq!(received(&world, "deals").await, ["a"]);
}

#[tokio::test]
async fn the_window_is_a_setting_of_the_topic() {
    let world = World::new();
    let mut admin = AdminClient::new(world.channel().await);
    let settings = |millis| Some(v1::TopicSettings { deduplicate_millis: Some(millis), ..Default::default() });
    let create = v1::CreateTopicRequest { name: "orders".into(), settings: settings(1_000) };
    let created = admin.create_topic(create.clone()).await.unwrap().into_inner().topic.unwrap();
    assert_eq!(created.deduplicate_millis, Some(1_000));
    let again = admin.create_topic(create).await.unwrap().into_inner();
    assert_eq!(again.status.unwrap().code(), Code::Ok, "the same settings");
    for millis in [-1, 1, 999, 86_400_001] {
        let update = v1::UpdateTopicRequest { name: "orders".into(), settings: settings(millis) };
        let status = admin.update_topic(update).await.unwrap().into_inner().status.unwrap();
        let expected = format!("de-duplication {millis} ms is not between one second and one day");
        assert_eq!((status.code(), status.message), (Code::BadRequest, expected));
    }
    for (millis, known) in [(86_400_000, Some(86_400_000)), (0, None)] {
        let update = v1::UpdateTopicRequest { name: "orders".into(), settings: settings(millis) };
        let updated = admin.update_topic(update).await.unwrap().into_inner();
        assert_eq!(updated.topic.unwrap().deduplicate_millis, known);
    }
}
