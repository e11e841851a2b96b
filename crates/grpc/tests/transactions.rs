//! Transactions through the socket: half messages, ends, checks on a producer's stream, operators; against a real broker.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_broker::TopicSettings;
use martlet_grpc::proto::v1::{self, admin_client::AdminClient};
use martlet_grpc::proto::v2::messaging_service_client::MessagingServiceClient;
use martlet_grpc::proto::v2::{
    self, ClientType, Code, MessageType, TelemetryCommand, TransactionResolution, settings::PubSub,
    telemetry_command::Command,
};
use martlet_model::TopicType;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use world::*;

type Client = MessagingServiceClient<Channel>;

/// A broker that asks soon, and gives up after two checks.
fn asking() -> World {
    World::with(|broker, _| {
        broker.transaction_immunity_millis = 100;
        broker.transaction_check_interval_millis = 100;
        broker.transaction_checks_max = 2;
    })
}

async fn topic(world: &World, name: &str, kind: TopicType) {
    let settings = TopicSettings { kind: Some(kind), queues: Some(1), ..Default::default() };
    world.broker.create_topic(name, settings).await.unwrap();
}

fn transactional(topic: &str, id: &str) -> v2::Message {
    let mut message = message(topic, id, id.as_bytes());
    message.system_properties.as_mut().unwrap().message_type = MessageType::Transaction as i32;
    message
}

async fn half(client: &mut Client, topic: &str, id: &str) -> String {
    let answer = client.send_message(send(vec![transactional(topic, id)])).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert_eq!(status.code(), Code::Ok, "{}", status.message);
    assert_eq!((answer.entries.len(), &*answer.entries[0].message_id), (1, id));
    assert!(!answer.entries[0].transaction_id.is_empty());
    answer.entries[0].transaction_id.clone()
}

async fn end(client: &mut Client, topic: &str, id: &str, resolution: i32) -> (Code, String) {
    let request = v2::EndTransactionRequest {
        topic: resource(topic),
        message_id: "any".into(),
        transaction_id: id.into(),
        resolution,
        ..Default::default()
    };
    let status = client.end_transaction(from("producer", request)).await.unwrap().into_inner().status.unwrap();
    (status.code(), status.message)
}

const COMMIT: i32 = TransactionResolution::Commit as i32;
const ROLLBACK: i32 = TransactionResolution::Rollback as i32;

/// A producer's stream, once the broker knows what it publishes.
async fn producer(
    client: &mut Client,
    id: &str,
    topic: &str,
) -> (mpsc::Sender<TelemetryCommand>, Streaming<TelemetryCommand>) {
    producer_of(client, id, resource(topic)).await
}

async fn producer_of(
    client: &mut Client,
    id: &str,
    topic: Option<v2::Resource>,
) -> (mpsc::Sender<TelemetryCommand>, Streaming<TelemetryCommand>) {
    let (commands, stream) = mpsc::channel(4);
    let mut answers = client.telemetry(from(id, ReceiverStream::new(stream))).await.unwrap().into_inner();
    let publishing = v2::Publishing { topics: topic.into_iter().collect(), ..Default::default() };
    let settings = v2::Settings {
        client_type: Some(ClientType::Producer as i32),
        pub_sub: Some(PubSub::Publishing(publishing)),
        ..Default::default()
    };
    commands.send(TelemetryCommand { status: None, command: Some(Command::Settings(settings)) }).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().status.unwrap().code(), Code::Ok);
    (commands, answers)
}

async fn check(answers: &mut Streaming<TelemetryCommand>) -> v2::RecoverOrphanedTransactionCommand {
    let answer = tokio::time::timeout(Duration::from_secs(20), answers.message()).await.unwrap().unwrap().unwrap();
    match answer.command {
        Some(Command::RecoverOrphanedTransactionCommand(check)) => check,
        other => panic!("a check was expected, and there is {other:?}"),
    }
}

async fn received(client: &mut Client, topic: &str) -> Vec<v2::Message> {
    let polled = poll(client, from("consumer", receive("billing", topic))).await;
    let handles: Vec<String> = polled.messages.iter().map(handle).collect();
    if !handles.is_empty() {
        assert!(ack(client, "billing", topic, &handles).await.iter().all(|status| status.code() == Code::Ok));
    }
    polled.messages
}

async fn left(admin: &mut AdminClient<Channel>, request: v1::ListTransactionsRequest) -> Vec<v1::Transaction> {
    let answer = admin.list_transactions(request).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    answer.transactions
}

#[tokio::test]
async fn ends_are_idempotent_and_the_opposite_one_is_refused_truthfully() {
    let world = World::new();
    topic(&world, "orders", TopicType::Transaction).await;
    let mut client = world.client().await;
    let (committed, rolled_back) = (half(&mut client, "orders", "a").await, half(&mut client, "orders", "b").await);
    let pending = TransactionResolution::Unspecified as i32;
    assert_eq!(end(&mut client, "orders", &committed, pending).await.0, Code::Ok);
    for _ in 0..3 {
        assert_eq!(end(&mut client, "orders", &committed, COMMIT).await.0, Code::Ok);
        assert_eq!(end(&mut client, "orders", &rolled_back, ROLLBACK).await.0, Code::Ok);
    }
    let (code, text) = end(&mut client, "orders", &committed, ROLLBACK).await;
    assert!(code == Code::PreconditionFailed && text.contains("committed before"), "{code:?} {text}");
    let (code, text) = end(&mut client, "orders", &rolled_back, COMMIT).await;
    assert!(code == Code::PreconditionFailed && text.contains("rolled back before"), "{code:?} {text}");
    let messages = received(&mut client, "orders").await;
    assert_eq!(messages.len(), 1);
    assert_eq!(
        (&*system(&messages[0]).message_id, system(&messages[0]).message_type()),
        ("a", MessageType::Transaction)
    );
    let none = poll(&mut client, from("consumer", receive("others", "orders"))).await.messages;
    assert_eq!(none.len(), 1, "another group gets one as well");
}

#[tokio::test]
async fn bad_transactions_have_codes_of_their_own() {
    let world = World::new();
    topic(&world, "orders", TopicType::Transaction).await;
    topic(&world, "other", TopicType::Transaction).await;
    topic(&world, "plain", TopicType::Normal).await;
    let mut client = world.client().await;
    let mut refused = async |messages: Vec<v2::Message>| {
        let answer = client.send_message(send(messages)).await.unwrap().into_inner();
        assert!(answer.entries.is_empty());
        let status = answer.status.unwrap();
        (status.code(), status.message)
    };
    let (code, text) = refused(vec![transactional("orders", "a"), transactional("orders", "b")]).await;
    assert!(code == Code::BadRequest && text.contains("messages 2 is more than 1"), "{text}");
    assert_eq!(refused(vec![transactional("plain", "a")]).await.0, Code::MessagePropertyConflictWithType);
    assert_eq!(refused(vec![message("orders", "a", b"a")]).await.0, Code::MessagePropertyConflictWithType);
    let mut patient = transactional("orders", "a");
    patient.system_properties.as_mut().unwrap().orphaned_transaction_recovery_duration =
        Some(prost_types::Duration { seconds: 3_601, nanos: 0 });
    let (code, text) = refused(vec![patient]).await;
    assert!(code == Code::BadRequest && text.contains("3600 s"), "{text}");

    let id = half(&mut client, "orders", "a").await;
    assert_eq!(end(&mut client, "orders", " ", COMMIT).await.0, Code::InvalidTransactionId);
    let (code, text) = end(&mut client, "orders", "nonsense", COMMIT).await;
    assert!(code == Code::InvalidTransactionId && text.contains("8 characters"), "{text}");
    let forged = format!("{}{}", &id[..59], if id.ends_with('A') { 'B' } else { 'A' });
    assert_eq!(end(&mut client, "orders", &forged, COMMIT).await.0, Code::InvalidTransactionId);
    let (code, text) = end(&mut client, "other", &id, COMMIT).await;
    assert!(code == Code::InvalidTransactionId && text.contains("another topic"), "{text}");
    assert_eq!(end(&mut client, "missing", &id, COMMIT).await.0, Code::TopicNotFound);
    assert_eq!(end(&mut client, "a b", &id, COMMIT).await.0, Code::IllegalTopic);
    let (code, text) = end(&mut client, "orders", &id, 9).await;
    assert!(code == Code::BadRequest && text.contains("resolution 9"), "{text}");
    assert_eq!(end(&mut client, "orders", &id, COMMIT).await.0, Code::Ok, "none of that ended it");
}

#[tokio::test]
async fn what_clients_of_an_instance_name_is_known_by_its_full_name_and_told_them_by_both_parts() {
    let world = asking();
    topic(&world, "I%orders", TopicType::Transaction).await;
    let mut client = world.client().await;
    let named = |name: &str| Some(v2::Resource { resource_namespace: "I".into(), name: name.into() });
    let (_plain, mut elsewhere) = producer(&mut client, "p2", "orders").await;
    let (_commands, mut answers) = producer_of(&mut client, "p1", named("orders")).await;
    let mut message = transactional("orders", "a");
    message.topic = named("orders");
    let answer = client.send_message(send(vec![message])).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    let asked = check(&mut answers).await;
    assert_eq!(asked.message.unwrap().topic, named("orders"));
    let request = v2::EndTransactionRequest {
        topic: named("orders"),
        transaction_id: asked.transaction_id,
        resolution: COMMIT,
        ..Default::default()
    };
    let ended = client.end_transaction(from("p1", request)).await.unwrap().into_inner();
    assert_eq!(ended.status.unwrap().code(), Code::Ok);
    let stray = tokio::time::timeout(Duration::from_millis(1), elsewhere.message()).await;
    assert!(stray.is_err(), "who publishes a topic of this name without the instance is not asked: {stray:?}");

    let mut asking = receive("", "");
    asking.group = named("billing");
    asking.message_queue = Some(v2::MessageQueue { topic: named("orders"), id: -1, ..Default::default() });
    let polled = poll(&mut client, from("c", asking.clone())).await;
    assert_eq!((polled.code, polled.messages.len()), (Code::Ok, 1), "{}", polled.text);
    assert_eq!(polled.messages[0].topic, named("orders"));
    assert_eq!(world.broker.group_status("I%billing").await.unwrap().config.name, "I%billing");
    let entry = v2::AckMessageEntry { receipt_handle: handle(&polled.messages[0]), ..Default::default() };
    let done = v2::AckMessageRequest { group: named("billing"), topic: named("orders"), entries: vec![entry] };
    let done = client.ack_message(from("c", done)).await.unwrap().into_inner();
    assert_eq!(done.status.unwrap().code(), Code::Ok);
    let plain = poll(&mut client, from("c", receive("others", "I%orders"))).await;
    assert_eq!(plain.messages[0].topic, resource("I%orders"), "asked for by its full name, it is told by that");

    asking.message_queue.as_mut().unwrap().topic = named("");
    let polled = poll(&mut client, from("c", asking.clone())).await;
    assert_eq!(polled.code, Code::IllegalTopic);
    asking.group = Some(v2::Resource { resource_namespace: "n".repeat(200), name: "g".into() });
    let polled = poll(&mut client, from("c", asking)).await;
    assert_eq!(polled.code, Code::BadRequest);
    assert!(polled.text.contains("group.resource_namespace has 200 bytes, the limit is 127"), "{}", polled.text);
}

#[tokio::test]
async fn a_producer_of_the_topic_is_asked_with_the_whole_message_and_its_answer_counts() {
    let world = asking();
    topic(&world, "orders", TopicType::Transaction).await;
    topic(&world, "other", TopicType::Transaction).await;
    let mut client = world.client().await;
    let (_other, mut elsewhere) = producer(&mut client, "p2", "other").await;
    let id = half(&mut client, "orders", "a").await;
    // Nobody publishes it yet: the check is not lost.
    let mut admin = AdminClient::new(world.channel().await);
    let (_commands, mut answers) = producer(&mut client, "p1", "orders").await;
    let asked = check(&mut answers).await;
    let message = asked.message.unwrap();
    assert_eq!((&*asked.transaction_id, &*message.body), (&*id, &b"a"[..]));
    assert_eq!(message.topic, resource("orders"));
    let about = system(&message);
    assert_eq!((&*about.message_id, about.message_type()), ("a", MessageType::Transaction));
    assert!(
        about.body_digest.as_ref().is_some_and(|digest| digest.checksum.len() == 40) && about.born_timestamp.is_some()
    );
    assert_eq!(end(&mut client, "orders", &asked.transaction_id, COMMIT).await.0, Code::Ok);
    assert_eq!(received(&mut client, "orders").await.len(), 1);
    assert_eq!(left(&mut admin, v1::ListTransactionsRequest::default()).await, []);
    let stray = tokio::time::timeout(Duration::from_millis(1), elsewhere.message()).await;
    assert!(stray.is_err(), "who publishes something else is not asked: {stray:?}");
}

#[tokio::test]
async fn what_is_given_up_is_listed_and_ended_by_an_operator() {
    let world = asking();
    topic(&world, "orders", TopicType::Transaction).await;
    let mut client = world.client().await;
    let mut admin = AdminClient::new(world.channel().await);
    let (_commands, mut answers) = producer(&mut client, "p1", "orders").await;
    let ids = [half(&mut client, "orders", "a").await, half(&mut client, "orders", "b").await];
    for _ in 0..4 {
        check(&mut answers).await;
    }
    let given_up = v1::ListTransactionsRequest { topic: "orders".into(), given_up: true, ..Default::default() };
    let both = async {
        loop {
            let found = left(&mut admin, given_up.clone()).await;
            if found.len() == 2 {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, both).await.expect("both are given up");
    assert!(found.iter().all(|one| one.checks == 2 && one.given_up && one.topic == "orders"), "{found:?}");
    assert_eq!(found.iter().map(|one| &*one.transaction_id).collect::<Vec<_>>(), [&*ids[0], &*ids[1]]);
    let page = |from| v1::ListTransactionsRequest { limit: 1, from, ..Default::default() };
    let first = admin.list_transactions(page(None)).await.unwrap().into_inner();
    assert_eq!((first.transactions.len(), &*first.transactions[0].message_id), (1, "a"));
    let second = admin.list_transactions(page(first.next)).await.unwrap().into_inner();
    assert_eq!((&*second.transactions[0].message_id, second.next), ("b", None));
    for (id, commit) in [(&ids[0], true), (&ids[1], false)] {
        let request = v1::ResolveTransactionRequest { transaction_id: id.clone(), commit };
        let answer = admin.resolve_transaction(request).await.unwrap().into_inner();
        assert_eq!((answer.status.unwrap().code(), &*answer.topic), (Code::Ok, "orders"));
    }
    assert_eq!(left(&mut admin, given_up).await, []);
    assert_eq!(system(&received(&mut client, "orders").await[0]).message_id, "a");
    let request = v1::ResolveTransactionRequest { transaction_id: "nonsense".into(), commit: true };
    let answer = admin.resolve_transaction(request).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::InvalidTransactionId);
    let missing = v1::ListTransactionsRequest { topic: "missing".into(), ..Default::default() };
    let answer = admin.list_transactions(missing).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::TopicNotFound);
}
