//! Messages with a priority through the socket.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_grpc::proto::v2::{self, Code};
use world::*;

fn with_priority(topic: &str, priority: Option<i32>, body: &str) -> v2::Message {
    let mut message = message(topic, body, body.as_bytes());
    if let Some(system) = &mut message.system_properties {
        system.priority = priority;
    }
    message
}

async fn priority_world() -> World {
    let world = World::new();
    let kind = Some(martlet_model::TopicType::Priority);
    let topic = martlet_broker::TopicSettings { kind, queues: Some(4), ..Default::default() };
    world.broker.create_topic("alarms", topic).await.unwrap();
    world.broker.create_topic("orders", Default::default()).await.unwrap();
    world.broker.create_group("watch", Default::default()).await.unwrap();
    world
}

#[tokio::test]
async fn the_highest_come_first_and_say_their_priority() {
    let world = priority_world().await;
    let mut client = world.client().await;
    for (priority, body) in [(0, "low"), (70, "highest"), (2, "high")] {
        let sent = client.send_message(send(vec![with_priority("alarms", Some(priority), body)])).await.unwrap();
        assert_eq!(sent.into_inner().status.unwrap().code(), Code::Ok);
    }
    let polled = poll(&mut client, from("consumer", receive("watch", "alarms"))).await;
    let came: Vec<_> = polled
        .messages
        .iter()
        .map(|message| (String::from_utf8(message.body.to_vec()).unwrap(), system(message).priority))
        .collect();
    let expected = [("highest", 70), ("high", 2), ("low", 0)].map(|(body, priority)| (body.to_owned(), Some(priority)));
    assert_eq!(came, expected);
    let kinds = polled.messages.iter().map(|message| system(message).message_type);
    assert!(kinds.into_iter().all(|kind| kind == v2::MessageType::Priority as i32));
}

#[tokio::test]
async fn a_topic_by_priority_takes_nothing_else_and_other_topics_take_no_priority() {
    let world = priority_world().await;
    let mut client = world.client().await;
    let mut grouped = with_priority("alarms", Some(1), "grouped");
    grouped.system_properties.as_mut().unwrap().message_group = Some("g".into());
    for (message, part) in [
        (with_priority("alarms", None, "normal"), "alarms"),
        (with_priority("orders", Some(1), "priority"), "orders"),
        (grouped, "alarms"),
    ] {
        let status = client.send_message(send(vec![message])).await.unwrap().into_inner().status.unwrap();
        assert_eq!(status.code(), Code::MessagePropertyConflictWithType, "{}", status.message);
        assert!(status.message.contains(part), "{}", status.message);
    }
    let negative = client.send_message(send(vec![with_priority("alarms", Some(-1), "negative")])).await.unwrap();
    let status = negative.into_inner().status.unwrap();
    assert_eq!((status.code(), status.message.contains("-1")), (Code::BadRequest, true), "{}", status.message);
}
