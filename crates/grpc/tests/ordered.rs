//! Ordered messages through the socket.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_grpc::proto::v2::{self, Code};
use martlet_model::group::DeliveryOrder;
use world::*;

fn grouped(group: &str, body: &str) -> v2::Message {
    let mut message = message("payments", body, body.as_bytes());
    if let Some(system) = &mut message.system_properties {
        system.message_group = Some(group.into());
    }
    message
}

async fn ordered_world() -> World {
    let world = World::new();
    let topic = martlet_broker::TopicSettings { kind: Some(martlet_model::TopicType::Fifo), ..Default::default() };
    world.broker.create_topic("payments", topic).await.unwrap();
    let group = martlet_broker::GroupSettings { order: Some(DeliveryOrder::Fifo), ..Default::default() };
    world.broker.create_group("ledger", group).await.unwrap();
    world
}

fn bodies(polled: &Polled) -> Vec<String> {
    polled.messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_message_group_comes_in_order_and_a_repeated_attempt_brings_the_same() {
    let world = ordered_world().await;
    let mut client = world.client().await;
    for part in [["a1", "b1", "a2"], ["a3", "b2", "a4"]] {
        let messages = part.map(|body| grouped(&body[..1], body)).to_vec();
        let sent = client.send_message(send(messages)).await.unwrap().into_inner();
        assert_eq!((sent.status.unwrap().code(), sent.entries.len()), (Code::Ok, 3));
    }
    let receive = |attempt: &str| v2::ReceiveMessageRequest {
        attempt_id: Some(attempt.into()),
        long_polling_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        ..receive("ledger", "payments")
    };
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let attempt = format!("attempt {}", seen.len());
        let polled = poll(&mut client, from("consumer", receive(&attempt))).await;
        assert_eq!(polled.code, Code::Ok, "{}", polled.text);
        let again = poll(&mut client, from("consumer", receive(&attempt))).await;
        assert_eq!(bodies(&again), bodies(&polled));
        let attempts = again.messages.iter().map(|message| system(message).delivery_attempt);
        assert!(attempts.into_iter().all(|attempt| attempt == Some(1)));
        let dead = ack(&mut client, "ledger", "payments", &[handle(&polled.messages[0])]).await;
        assert_eq!(dead[0].code(), Code::InvalidReceiptHandle, "the first answer's handles are superseded");
        let handles: Vec<_> = again.messages.iter().map(handle).collect();
        let answers = ack(&mut client, "ledger", "payments", &handles).await;
        assert!(answers.iter().all(|status| status.code() == Code::Ok), "{answers:?}");
        seen.extend(bodies(&again));
    }
    let of = |group| seen.iter().filter(|body| body.starts_with(group)).map(String::as_str).collect::<Vec<_>>();
    assert_eq!((of('a'), of('b')), (vec!["a1", "a2", "a3", "a4"], vec!["b1", "b2"]));
}

#[tokio::test]
async fn settings_and_assignments_say_that_the_group_is_ordered() {
    let world = ordered_world().await;
    let mut client = world.client().await;
    let request =
        v2::QueryAssignmentRequest { topic: resource("payments"), group: resource("ledger"), ..Default::default() };
    let answer = client.query_assignment(from("consumer", request)).await.unwrap().into_inner();
    let ids = answer.assignments.iter().map(|assignment| assignment.message_queue.as_ref().unwrap().id);
    assert_eq!(ids.collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
}
