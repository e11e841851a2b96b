//! The older package on the same port: what real clients of it rest on, and how it meets the newer one.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use flate2::Compression;
use flate2::write::GzEncoder;
use martlet_broker::{GroupSettings, TopicSettings};
use martlet_grpc::proto::rocketmq_v1::messaging_service_client::MessagingServiceClient;
use martlet_grpc::proto::rocketmq_v1::{self as v1, heartbeat_request::ClientData};
use martlet_grpc::proto::v2;
use martlet_model::group::{DeliveryOrder, RetryBackoff};
use martlet_model::{TopicType, limits};
use sha1::{Digest, Sha1};
use std::io::Write;
use std::time::Duration;
use tonic::transport::Channel;
use world::{World, until};

const OK: i32 = 0;
const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;

type Client = MessagingServiceClient<Channel>;

async fn client(world: &World) -> Client {
    MessagingServiceClient::new(world.channel().await).max_decoding_message_size(64 << 20)
}

fn resource(name: &str) -> Option<v1::Resource> {
    Some(v1::Resource { resource_namespace: String::new(), name: name.into() })
}

fn in_instance(name: &str) -> Option<v1::Resource> {
    Some(v1::Resource { resource_namespace: "MQ_INST_1".into(), name: name.into() })
}

/// As the published client sends it: one key, empty where there is none, no digest.
fn message(topic: Option<v1::Resource>, id: &str, body: &[u8]) -> v1::Message {
    let system =
        v1::SystemAttribute { message_id: id.into(), keys: vec![String::new()], ..v1::SystemAttribute::default() };
    v1::Message {
        topic,
        user_attribute: Default::default(),
        system_attribute: Some(system),
        body: body.to_vec().into(),
    }
}

async fn send(client: &mut Client, message: v1::Message) -> v1::SendMessageResponse {
    client.send_message(v1::SendMessageRequest { message: Some(message), partition: None }).await.unwrap().into_inner()
}

fn code(common: &Option<v1::ResponseCommon>) -> i32 {
    common.as_ref().unwrap().status.as_ref().unwrap().code
}

fn text(common: &Option<v1::ResponseCommon>) -> &str {
    &common.as_ref().unwrap().status.as_ref().unwrap().message
}

fn receive(client: &str, group: &str, topic: Option<v1::Resource>, queue: i32) -> v1::ReceiveMessageRequest {
    v1::ReceiveMessageRequest {
        group: resource(group),
        client_id: client.into(),
        partition: Some(v1::Partition { topic, id: queue, ..v1::Partition::default() }),
        batch_size: 32,
        invisible_duration: Some(prost_types::Duration { seconds: 900, nanos: 0 }),
        ..v1::ReceiveMessageRequest::default()
    }
}

fn consumer(client: &str, group: &str, topic: &str, model: v1::ConsumeModel, in_order: bool) -> v1::HeartbeatRequest {
    let subscription = v1::SubscriptionEntry { topic: resource(topic), expression: None };
    let data = v1::ConsumerData {
        group: resource(group),
        subscriptions: vec![subscription],
        consume_model: model as i32,
        dead_letter_policy: Some(v1::DeadLetterPolicy { max_delivery_attempts: 3 }),
        ..v1::ConsumerData::default()
    };
    v1::HeartbeatRequest {
        client_id: client.into(),
        client_data: Some(ClientData::ConsumerData(data)),
        fifo_flag: in_order,
    }
}

fn system(message: &v1::Message) -> &v1::SystemAttribute {
    message.system_attribute.as_ref().unwrap()
}

fn checked(message: &v1::Message) -> &[u8] {
    let digest = system(message).body_digest.as_ref().unwrap();
    assert_eq!(digest.r#type(), v1::DigestType::Sha1);
    let sum: String = Sha1::digest(&message.body).iter().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(digest.checksum, sum);
    &message.body
}

#[tokio::test]
async fn a_message_comes_back_with_all_that_it_was_sent_with() {
    let world = World::new();
    let mut client = client(&world).await;
    let mut sent = message(in_instance("orders"), "01AB", b"hello");
    sent.user_attribute.insert("colour".into(), "grün".into());
    let attributes = sent.system_attribute.as_mut().unwrap();
    attributes.tag = "greeting".into();
    attributes.keys = vec!["4711 4712".into()];
    attributes.trace_context = "00-trace".into();
    attributes.partition_id = 3;
    let answer = send(&mut client, sent).await;
    assert_eq!((code(&answer.common), &answer.message_id[..], &answer.transaction_id[..]), (OK, "01AB", ""));

    let mut request = receive("c1", "readers", in_instance("orders"), -1);
    request.group = in_instance("readers");
    let received = client.receive_message(request).await.unwrap().into_inner();
    assert_eq!(code(&received.common), OK);
    assert_eq!(received.invisible_duration.as_ref().unwrap().seconds, 900);
    let [message] = &received.messages[..] else { panic!("{} messages", received.messages.len()) };
    assert_eq!((checked(message), &message.topic), (&b"hello"[..], &in_instance("orders")));
    assert_eq!(message.user_attribute.get("colour").map(String::as_str), Some("grün"));
    let of = system(message);
    assert_eq!((&of.message_id[..], &of.tag[..], &of.trace_context[..]), ("01AB", "greeting", "00-trace"));
    assert_eq!(of.keys, ["4711", "4712"]);
    assert_eq!((of.partition_id, of.partition_offset, of.delivery_attempt), (3, 0, 1));
    assert_eq!(of.body_encoding(), v1::Encoding::Identity);
    assert_eq!(of.message_type(), v1::MessageType::Normal);
    assert!(of.store_timestamp.is_some() && of.born_timestamp.is_some() && !of.store_host.is_empty());

    // The same topic and group over the other package, by the names that all protocols know.
    assert!(world.broker.known_topic("MQ_INST_1%orders").is_some());
    let ack = v1::AckMessageRequest {
        group: in_instance("readers"),
        topic: in_instance("orders"),
        client_id: "c1".into(),
        handle: Some(v1::ack_message_request::Handle::ReceiptHandle(of.receipt_handle.clone())),
        message_id: "01AB".into(),
    };
    let acked = client.ack_message(ack).await.unwrap().into_inner();
    assert_eq!(code(&acked.common), OK);
    let status = world.broker.group_status("MQ_INST_1%readers").await.unwrap();
    assert_eq!(status.progress.iter().map(|of| of.accumulation()).sum::<u64>(), 0);
}

#[tokio::test]
async fn bodies_that_newer_clients_compress_with_gzip_come_as_zlib() {
    let world = World::new();
    let (mut old, mut new) = (client(&world).await, world.client().await);
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&[b'a'; 5_000]).unwrap();
    let mut sent = world::message("orders", "01", &gzip.finish().unwrap());
    sent.system_properties.as_mut().unwrap().body_encoding = v2::Encoding::Gzip as i32;
    new.send_message(world::send(vec![sent])).await.unwrap();
    let received = old.receive_message(receive("c1", "readers", resource("orders"), -1)).await.unwrap().into_inner();
    let message = &received.messages[0];
    assert_eq!(system(message).body_encoding(), v1::Encoding::Gzip);
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::ZlibDecoder::new(checked(message)), &mut plain).unwrap();
    assert!(plain.len() == 5_000 && plain.iter().all(|byte| *byte == b'a'));
}

/// An ordered client tries anything but OK again, ten times a second and for ever.
#[tokio::test]
async fn a_client_that_holds_a_message_of_a_topic_that_is_deleted_goes_on() {
    let world = World::new();
    let mut client = client(&world).await;
    let in_order = GroupSettings { order: Some(martlet_model::group::DeliveryOrder::Fifo), ..GroupSettings::default() };
    world.broker.create_group("readers", in_order).await.unwrap();
    send(&mut client, message(resource("orders"), "01", b"b")).await;
    let polled = || {
        let mut request = receive("c1", "readers", resource("orders"), 0);
        request.fifo_flag = true;
        request
    };
    let received = client.receive_message(polled()).await.unwrap().into_inner();
    world.broker.delete_topic("orders").await.unwrap();
    let ack = v1::AckMessageRequest {
        group: resource("readers"),
        topic: resource("orders"),
        client_id: "c1".into(),
        handle: Some(v1::ack_message_request::Handle::ReceiptHandle(
            system(&received.messages[0]).receipt_handle.clone(),
        )),
        message_id: "01".into(),
    };
    let acked = client.ack_message(ack.clone()).await.unwrap().into_inner();
    assert_eq!(code(&acked.common), OK);
    assert!(text(&acked.common).contains("orders"), "{}", text(&acked.common));
    world.broker.delete_group("readers").await.unwrap();
    assert_eq!(code(&client.ack_message(ack).await.unwrap().into_inner().common), OK);

    // Its next poll makes the topic again, for all types of messages.
    let mut asking = client.clone();
    let poll = tokio::spawn(async move { asking.receive_message(polled()).await.unwrap().into_inner() });
    until("the topic is there again", || world.broker.known_topic("orders").is_some()).await;
    assert_eq!(world.broker.known_topic("orders").unwrap().kind, martlet_model::TopicType::Mixed);
    poll.abort();
}

#[tokio::test]
async fn failed_messages_come_again_and_the_clients_own_number_of_attempts_counts() {
    let world = World::new();
    let mut client = client(&world).await;
    let group = GroupSettings { backoff: Some(RetryBackoff::Customized(vec![1])), ..GroupSettings::default() };
    world.broker.create_group("readers", group).await.unwrap();
    send(&mut client, message(resource("orders"), "01", b"b")).await;
    for attempt in 1..=2 {
        let answer = client.receive_message(receive("c1", "readers", resource("orders"), -1)).await.unwrap();
        let answer = answer.into_inner();
        let of = system(&answer.messages[0]);
        assert_eq!(of.delivery_attempt, attempt);
        let nack = v1::NackMessageRequest {
            group: resource("readers"),
            topic: resource("orders"),
            client_id: "c1".into(),
            receipt_handle: of.receipt_handle.clone(),
            message_id: "01".into(),
            delivery_attempt: attempt,
            max_delivery_attempts: 2,
        };
        let answer = client.nack_message(nack).await.unwrap().into_inner();
        assert_eq!(code(&answer.common), OK, "{}", text(&answer.common));
    }
    assert_eq!(world.broker.group_status("readers").await.unwrap().dead_letters, 1);
}

#[tokio::test]
async fn ordered_consumers_are_never_told_to_try_a_void_handle_again() {
    let world = World::new();
    let mut client = client(&world).await;
    let topic = TopicSettings { kind: Some(TopicType::Fifo), ..TopicSettings::default() };
    world.broker.create_topic("orders", topic).await.unwrap();
    let heartbeat = consumer("c1", "in-order", "orders", v1::ConsumeModel::Clustering, true);
    assert_eq!(code(&client.heartbeat(heartbeat).await.unwrap().into_inner().common), OK);
    let made = world.broker.known_group("in-order").unwrap();
    assert_eq!((made.order, made.retry.max_attempts), (DeliveryOrder::Fifo, 3));
    for (id, key) in [("01", "a"), ("02", "a"), ("03", "b")] {
        let mut sent = message(resource("orders"), id, b"b");
        sent.system_attribute.as_mut().unwrap().message_group = key.into();
        assert_eq!(code(&send(&mut client, sent).await.common), OK);
    }
    let assignments = v1::QueryAssignmentRequest {
        topic: resource("orders"),
        group: resource("in-order"),
        client_id: "c1".into(),
        endpoints: None,
    };
    let assigned = client.query_assignment(assignments).await.unwrap().into_inner().assignments;
    let queues: Vec<i32> = assigned.iter().map(|assigned| assigned.partition.as_ref().unwrap().id).collect();
    assert_eq!(queues, (0..queues.len() as i32).collect::<Vec<_>>());
    let mut seen = Vec::new();
    for queue in queues {
        let mut request = receive("c1", "in-order", resource("orders"), queue);
        request.fifo_flag = true;
        // The others have nothing: there one waits for its whole time.
        let Ok(answer) = tokio::time::timeout(Duration::from_millis(300), client.receive_message(request)).await else {
            continue;
        };
        for message in answer.unwrap().into_inner().messages {
            seen.push((system(&message).message_group.clone(), system(&message).message_id.clone()));
            for _ in 0..2 {
                let ack = v1::AckMessageRequest {
                    group: resource("in-order"),
                    topic: resource("orders"),
                    client_id: "c1".into(),
                    handle: Some(v1::ack_message_request::Handle::ReceiptHandle(
                        system(&message).receipt_handle.clone(),
                    )),
                    message_id: String::new(),
                };
                let acked = client.ack_message(ack).await.unwrap().into_inner();
                assert_eq!(code(&acked.common), OK, "{}", text(&acked.common));
            }
        }
    }
    seen.sort();
    let expected = [("a", "01"), ("a", "02"), ("b", "03")].map(|(group, id)| (group.to_owned(), id.to_owned()));
    assert_eq!(seen, expected);
    let mut unordered = receive("c1", "plain", resource("orders"), 0);
    unordered.fifo_flag = true;
    world.broker.create_group("plain", GroupSettings::default()).await.unwrap();
    let refused = client.receive_message(unordered).await.unwrap().into_inner();
    assert_eq!(code(&refused.common), FAILED_PRECONDITION, "{}", text(&refused.common));
}

#[tokio::test]
async fn a_producer_of_the_group_is_asked_how_a_transaction_ended() {
    let world = World::with(|broker, _| broker.transaction_immunity_millis = 100);
    let mut client = client(&world).await;
    let topic = TopicSettings { kind: Some(TopicType::Transaction), ..TopicSettings::default() };
    world.broker.create_topic("MQ_INST_1%orders", topic).await.unwrap();
    let producer = v1::ProducerData { group: in_instance("shop") };
    let heartbeat = v1::HeartbeatRequest {
        client_id: "p1".into(),
        client_data: Some(ClientData::ProducerData(producer)),
        fifo_flag: false,
    };
    assert_eq!(code(&client.heartbeat(heartbeat).await.unwrap().into_inner().common), OK);
    let poll = v1::PollCommandRequest {
        client_id: "p1".into(),
        topics: vec![],
        group: Some(v1::poll_command_request::Group::ProducerGroup(in_instance("shop").unwrap())),
    };
    let mut polling = client.clone();
    let polled = tokio::spawn(async move { polling.poll_command(poll).await.unwrap().into_inner() });
    let mut half = message(in_instance("orders"), "01", b"half");
    let attributes = half.system_attribute.as_mut().unwrap();
    attributes.message_type = v1::MessageType::Transaction as i32;
    attributes.producer_group = in_instance("shop");
    let sent = send(&mut client, half).await;
    assert_eq!(code(&sent.common), OK, "{}", text(&sent.common));
    let asked = tokio::time::timeout(world::PATIENCE, polled).await.unwrap().unwrap();
    let Some(v1::poll_command_response::Type::RecoverOrphanedTransactionCommand(asked)) = asked.r#type else {
        panic!("asked for something else")
    };
    let orphan = asked.orphaned_transactional_message.unwrap();
    assert_eq!((checked(&orphan), &orphan.topic), (&b"half"[..], &in_instance("orders")));
    assert_eq!(asked.transaction_id, sent.transaction_id);
    let end = v1::EndTransactionRequest {
        group: in_instance("shop"),
        message_id: "01".into(),
        transaction_id: asked.transaction_id,
        resolution: v1::end_transaction_request::TransactionResolution::Commit as i32,
        source: v1::end_transaction_request::Source::ServerCheck as i32,
        trace_context: String::new(),
    };
    for _ in 0..2 {
        let ended = client.end_transaction(end.clone()).await.unwrap().into_inner();
        assert_eq!(code(&ended.common), OK, "{}", text(&ended.common));
    }
    let received = client.receive_message(receive("c1", "readers", in_instance("orders"), -1)).await.unwrap();
    assert_eq!(received.into_inner().messages.len(), 1);
}

#[tokio::test]
async fn broadcasting_takes_effect_for_all_members_until_the_last_that_broadcasts_has_left() {
    let world = World::new();
    let mut client = client(&world).await;
    world.broker.create_topic("news", TopicSettings { queues: Some(1), ..TopicSettings::default() }).await.unwrap();
    let group = GroupSettings { backoff: Some(RetryBackoff::Customized(vec![1])), ..GroupSettings::default() };
    world.broker.create_group("readers", group).await.unwrap();
    send(&mut client, message(resource("news"), "before", b"b")).await;
    let shares = |id: &str| consumer(id, "readers", "news", v1::ConsumeModel::Clustering, false);
    for id in ["c1", "c2"] {
        client.heartbeat(shares(id)).await.unwrap();
    }
    let mut both = receive("c1", "readers", resource("news"), -1);
    both.batch_size = 1;
    let first = client.receive_message(both).await.unwrap().into_inner().messages.remove(0);
    assert_eq!(system(&first).message_id, "before");
    let ack = |id: &str, message: &v1::Message| v1::AckMessageRequest {
        group: resource("readers"),
        topic: resource("news"),
        client_id: id.into(),
        handle: Some(v1::ack_message_request::Handle::ReceiptHandle(system(message).receipt_handle.clone())),
        message_id: String::new(),
    };
    // It is to come again, and not to all.
    let nack = v1::NackMessageRequest {
        group: resource("readers"),
        topic: resource("news"),
        client_id: "c1".into(),
        receipt_handle: system(&first).receipt_handle.clone(),
        message_id: "before".into(),
        delivery_attempt: 1,
        max_delivery_attempts: 17,
    };
    assert_eq!(code(&client.nack_message(nack).await.unwrap().into_inner().common), OK);

    let broadcasts = consumer("b1", "readers", "news", v1::ConsumeModel::Broadcasting, false);
    client.heartbeat(broadcasts).await.unwrap();
    assert!(world.broker.disagreement("readers").is_some());
    for index in 0..5 {
        send(&mut client, message(resource("news"), &format!("m{index}"), b"b")).await;
    }
    for id in ["c1", "c2"] {
        let request = v1::QueryAssignmentRequest {
            topic: resource("news"),
            group: resource("readers"),
            client_id: id.into(),
            endpoints: None,
        };
        let assigned = client.query_assignment(request).await.unwrap().into_inner().assignments;
        assert_eq!(assigned.len(), 1);
        assert_eq!(assigned[0].partition.as_ref().unwrap().id, 0);
        let mut got = Vec::new();
        while got.len() < if id == "c1" { 6 } else { 5 } {
            let more = client.receive_message(receive(id, "readers", resource("news"), 0)).await.unwrap().into_inner();
            got.extend(more.messages);
        }
        got.sort_by_key(|message| (system(message).message_id.clone(), system(message).delivery_attempt));
        let ids: Vec<_> = got.iter().map(|message| &system(message).message_id[..]).collect();
        match id {
            "c1" => assert_eq!(ids, ["before", "m0", "m1", "m2", "m3", "m4"]),
            _ => assert_eq!(ids, ["m0", "m1", "m2", "m3", "m4"]),
        }
        // One has settled all, the other all but the last two; nobody settles what another has.
        let settled = if id == "c1" { 6 } else { 3 };
        for message in &got[..settled] {
            let foreign = client.ack_message(ack("c3", message)).await.unwrap().into_inner();
            assert!(system(message).message_id == "before" || code(&foreign.common) == INVALID_ARGUMENT);
            assert_eq!(code(&client.ack_message(ack(id, message)).await.unwrap().into_inner().common), OK);
        }
    }
    // The one that broadcasts has its own place.
    let end = v1::QueryOffsetRequest {
        partition: Some(v1::Partition { topic: resource("news"), id: 0, ..Default::default() }),
        policy: v1::QueryOffsetPolicy::End as i32,
        time_point: None,
    };
    assert_eq!(client.query_offset(end).await.unwrap().into_inner().offset, 6);

    let goodbye = v1::NotifyClientTerminationRequest {
        client_id: "b1".into(),
        group: Some(v1::notify_client_termination_request::Group::ConsumerGroup(resource("readers").unwrap())),
    };
    client.notify_client_termination(goodbye).await.unwrap();
    let again = client.receive_message(receive("c1", "readers", resource("news"), -1)).await.unwrap().into_inner();
    let ids: Vec<_> = again.messages.iter().map(|message| &system(message).message_id[..]).collect();
    assert_eq!(ids, ["m3", "m4"], "the group is where the slowest was");
}

#[tokio::test]
async fn pulls_always_say_where_to_go_on() {
    let world = World::new();
    let mut client = client(&world).await;
    world.broker.create_topic("news", TopicSettings { queues: Some(1), ..TopicSettings::default() }).await.unwrap();
    for index in 0..3 {
        let mut sent = message(resource("news"), &index.to_string(), b"b");
        sent.system_attribute.as_mut().unwrap().tag = if index == 1 { "b" } else { "a" }.into();
        send(&mut client, sent).await;
    }
    let pull = |offset: i64| v1::PullMessageRequest {
        group: resource("readers"),
        partition: Some(v1::Partition { topic: resource("news"), id: 0, ..Default::default() }),
        offset,
        batch_size: 32,
        await_time: None,
        filter_expression: Some(v1::FilterExpression { r#type: 0, expression: "b".into() }),
        client_id: "b1".into(),
    };
    let pulled = client.pull_message(pull(0)).await.unwrap().into_inner();
    assert_eq!((code(&pulled.common), pulled.min_offset, pulled.max_offset, pulled.next_offset), (OK, 0, 3, 3));
    let [message] = &pulled.messages[..] else { panic!("{} messages", pulled.messages.len()) };
    assert_eq!((checked(message), system(message).partition_offset), (&b"b"[..], 1));
    assert_eq!(system(message).delivery_attempt, 1);
    let beyond = client.pull_message(pull(17)).await.unwrap().into_inner();
    assert_eq!((code(&beyond.common), beyond.next_offset), (OUT_OF_RANGE, 3));
    let bad = client.pull_message(v1::PullMessageRequest { batch_size: 0, ..pull(2) }).await.unwrap().into_inner();
    assert_eq!((code(&bad.common), bad.next_offset), (INVALID_ARGUMENT, 2));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_by_field_value_and_limit() {
    let world = World::with(|broker, _| broker.auto_create_topics = false);
    let mut client = client(&world).await;
    world.broker.create_topic("orders", TopicSettings { queues: Some(2), ..TopicSettings::default() }).await.unwrap();
    let route = v1::QueryRouteRequest { topic: resource("nowhere"), endpoints: None };
    assert_eq!(code(&client.query_route(route).await.unwrap().into_inner().common), NOT_FOUND);
    let mut cases = Vec::new();
    let base = || message(resource("orders"), "01", b"b");
    let mut change = |what: &'static str, change: &dyn Fn(&mut v1::Message)| {
        let mut message = base();
        change(&mut message);
        cases.push((what, message));
    };
    change("partition_id 2", &|message| message.system_attribute.as_mut().unwrap().partition_id = 2);
    change("body is empty", &|message| message.body.clear());
    change("message_id is blank", &|message| message.system_attribute.as_mut().unwrap().message_id.clear());
    change("body_encoding 9", &|message| message.system_attribute.as_mut().unwrap().body_encoding = 9);
    change("limit is 4194304", &|message| message.body = vec![0; limits::BODY_BYTES_MAX + 1].into());
    change("resource_namespace has 500 bytes", &|message| {
        message.topic.as_mut().unwrap().resource_namespace = "n".repeat(500);
    });
    for (expected, message) in cases {
        let answer = send(&mut client, message).await;
        let said = text(&answer.common);
        assert!(code(&answer.common) == INVALID_ARGUMENT && said.contains(expected), "{expected}: {said}");
    }
    let mut fifo = base();
    fifo.system_attribute.as_mut().unwrap().message_group = "g".into();
    assert_eq!(code(&send(&mut client, fifo).await.common), FAILED_PRECONDITION);
    let nobody = client.heartbeat(v1::HeartbeatRequest { client_id: "c".into(), ..Default::default() }).await.unwrap();
    assert_eq!(code(&nobody.into_inner().common), INVALID_ARGUMENT);
    let anonymous = v1::PollCommandRequest::default();
    assert_eq!(client.poll_command(anonymous).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}
