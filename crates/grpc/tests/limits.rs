//! Every limit of the protocol, over a real connection: what is at the limit is taken, what is beyond it is refused with the
//! protocol's code and a text that names it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use martlet_broker::{GroupSettings, TopicSettings};
use martlet_grpc::proto::v2::messaging_service_client::MessagingServiceClient;
use martlet_grpc::proto::v2::{self, Code, settings::PubSub};
use martlet_model::{TopicType, limits};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::transport::Channel;
use world::*;

type Client = MessagingServiceClient<Channel>;
type Change = Box<dyn Fn(&mut v2::Message, &mut v2::SystemProperties)>;

async fn world() -> (World, Client) {
    let world = World::new();
    let kinds = [("orders", TopicType::Normal), ("ordered", TopicType::Fifo), ("later", TopicType::Delay)];
    for (name, kind) in kinds {
        let settings = TopicSettings { kind: Some(kind), queues: Some(1), ..TopicSettings::default() };
        world.broker.create_topic(name, settings).await.unwrap();
    }
    let client = world.client().await;
    (world, client)
}

fn change(change: impl Fn(&mut v2::Message, &mut v2::SystemProperties) + 'static) -> Change {
    Box::new(change)
}

fn property(key: &'static str, value: &'static str) -> Change {
    change(move |message, _| drop(message.user_properties.insert(key.into(), value.into())))
}

fn properties(count: usize) -> Change {
    change(move |message, _| message.user_properties = (0..count).map(|n| (n.to_string(), "v".into())).collect())
}

/// So many seconds from now.
fn ahead(seconds: i64) -> Option<prost_types::Timestamp> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
    Some(prost_types::Timestamp { seconds: now + seconds, nanos: 0 })
}

fn seconds(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos })
}

async fn sent(client: &mut Client, topic: &str, change: &Change) -> v2::Status {
    let mut message = message(topic, "01AB", b"body");
    let mut system = message.system_properties.take().unwrap();
    change(&mut message, &mut system);
    message.system_properties = Some(system);
    let answer = client.send_message(send(vec![message])).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert_eq!(answer.entries.len(), usize::from(status.code() == Code::Ok));
    status
}

#[tokio::test]
async fn messages_at_the_limits_are_taken() {
    let (_world, mut client) = world().await;
    let rows: Vec<(&str, Change)> = vec![
        ("orders", change(|message, _| message.body = vec![1; 4_194_304].into())),
        ("orders", change(|message, _| message.body = vec![1].into())),
        ("orders", change(|_, system| system.message_id = "i".repeat(256))),
        ("orders", change(|_, system| system.tag = Some("t".repeat(16_384)))),
        ("orders", change(|_, system| system.keys = vec!["k".repeat(8_192); 2])),
        ("orders", properties(128)),
        ("orders", property("name of any kind, \u{20ac}", "value | of any kind")),
        ("ordered", change(|_, system| system.message_group = Some("g".repeat(63)))),
        ("ordered", change(|_, system| system.message_group = Some("\u{20ac}".repeat(21)))),
        ("later", change(|_, system| system.delivery_timestamp = ahead(40 * 86_400 - 5))),
        ("later", change(|_, system| system.delivery_timestamp = ahead(-86_400))),
    ];
    for (n, (topic, change)) in rows.iter().enumerate() {
        let status = sent(&mut client, topic, change).await;
        assert_eq!(status.code(), Code::Ok, "row {n}: {}", status.message);
    }
}

/// A delivery timestamp long ago means at once, and what a client says of its birth is shown as it is.
#[tokio::test]
async fn times_as_far_back_as_can_be_counted_are_taken_and_shown() {
    let (_world, mut client) = world().await;
    let first = Some(prost_types::Timestamp { seconds: i64::MIN / 1000, nanos: 999_000_000 });
    let last = Some(prost_types::Timestamp { seconds: i64::MAX / 1000 - 1, nanos: 999_000_000 });
    for born in [first, last] {
        let change = change(move |_, system| {
            system.delivery_timestamp = first;
            system.born_timestamp = born;
        });
        let status = sent(&mut client, "later", &change).await;
        assert_eq!(status.code(), Code::Ok, "{}", status.message);
        let polled = poll(&mut client, from("c", receive("billing", "later"))).await;
        assert_eq!((polled.code, polled.messages.len()), (Code::Ok, 1), "{}", polled.text);
        let shown = system(&polled.messages[0]);
        assert_eq!((shown.born_timestamp, shown.delivery_timestamp), (born, first));
        assert_eq!(ack(&mut client, "billing", "later", &[handle(&polled.messages[0])]).await[0].code(), Code::Ok);
    }
}

#[tokio::test]
async fn an_ack_has_1_to_1024_handles() {
    let (world, mut client) = world().await;
    world.broker.create_group("billing", GroupSettings::default()).await.unwrap();
    for (count, fine) in [(0, false), (1, true), (1_023, true), (1_024, true), (1_025, false), (5_000, false)] {
        let request = v2::AckMessageRequest {
            topic: resource("orders"),
            group: resource("billing"),
            entries: vec![v2::AckMessageEntry { receipt_handle: "h".into(), ..Default::default() }; count],
        };
        let answer = client.ack_message(from("c", request)).await.unwrap().into_inner();
        let status = answer.status.unwrap();
        if fine {
            assert_eq!((status.code(), answer.entries.len()), (Code::InvalidReceiptHandle, count));
        } else {
            let text = format!("entries has {count} receipt handles, a request has 1 to 1024");
            assert_eq!((status.code(), status.message, answer.entries.len()), (Code::BadRequest, text, 0));
        }
    }
}

#[tokio::test]
async fn messages_beyond_the_limits_are_refused_by_name() {
    let (_world, mut client) = world().await;
    let group = |group: &'static str| change(move |_, system| system.message_group = Some(group.into()));
    let tag = |tag: &'static str| change(move |_, system| system.tag = Some(tag.into()));
    let key = |key: &'static str| change(move |_, system| system.keys = vec!["fine".into(), key.into()]);
    let lite = |lite: &'static str| change(move |_, system| system.lite_topic = Some(lite.into()));
    let rows: Vec<(&str, Change, Code, &str)> = vec![
        ("orders", change(|message, _| message.body.clear()), Code::MessageBodyEmpty, "body is empty"),
        (
            "orders",
            change(|message, _| message.body = vec![1; 4_194_305].into()),
            Code::MessageBodyTooLarge,
            "body has 4194305 bytes, the limit is 4194304",
        ),
        ("orders", change(|_, system| system.message_id.clear()), Code::IllegalMessageId, "message_id is blank"),
        ("orders", change(|_, system| system.message_id = "  ".into()), Code::IllegalMessageId, "message_id is blank"),
        ("orders", tag(""), Code::IllegalMessageTag, "tag is blank"),
        ("orders", tag("a|b"), Code::IllegalMessageTag, "tag \"a|b\""),
        ("orders", tag("a\u{7f}"), Code::IllegalMessageTag, "control character"),
        ("orders", key(" "), Code::IllegalMessageKey, "a key is blank"),
        ("orders", key("a\tb"), Code::IllegalMessageKey, "control character"),
        ("ordered", group(""), Code::IllegalMessageGroup, "message_group is blank"),
        ("ordered", group("a\u{0}"), Code::IllegalMessageGroup, "control character"),
        (
            "ordered",
            change(|_, system| system.message_group = Some("g".repeat(64))),
            Code::IllegalMessageGroup,
            "message_group has 64 bytes, the limit is 63",
        ),
        ("orders", property("UNIQ_KEY", "v"), Code::IllegalMessagePropertyKey, "\"UNIQ_KEY\" is a reserved name"),
        ("orders", property("__LITE_TOPIC", "v"), Code::IllegalMessagePropertyKey, "is a reserved name"),
        ("orders", property("_SYS_MSG_PRIORITY_", "v"), Code::IllegalMessagePropertyKey, "is a reserved name"),
        ("orders", property("a\u{1}", "v"), Code::IllegalMessagePropertyKey, "control character"),
        ("orders", property("colour", "a\n"), Code::IllegalMessagePropertyKey, "user property \"colour\""),
        ("orders", properties(129), Code::MessagePropertiesTooLarge, "129 entries, the limit is 128"),
        (
            "orders",
            change(|_, system| system.keys = vec!["k".repeat(8_192), "k".repeat(8_193)]),
            Code::MessagePropertiesTooLarge,
            "have 16385 bytes, the limit is 16384",
        ),
        (
            "later",
            change(|_, system| system.delivery_timestamp = ahead(40 * 86_400 + 5)),
            Code::IllegalDeliveryTime,
            "ahead, the limit is 3456000000 ms",
        ),
        (
            "orders",
            change(|_, system| system.orphaned_transaction_recovery_duration = seconds(3_601, 0)),
            Code::BadRequest,
            "orphaned_transaction_recovery_duration of 3601 s",
        ),
        ("orders", lite(""), Code::IllegalLiteTopic, "lite_topic"),
        ("orders", lite("a.b"), Code::IllegalLiteTopic, "lite_topic \"a.b\""),
        ("orders", change(|_, system| system.lite_topic = Some("l".repeat(65))), Code::IllegalLiteTopic, "1 to 64"),
        ("orders", change(|_, system| system.priority = Some(-1)), Code::BadRequest, "priority -1 is negative"),
        ("orders", change(|_, system| system.body_encoding = 9), Code::BadRequest, "body_encoding 9"),
        (
            "orders",
            change(|_, system| system.message_group = Some("g".into())),
            Code::MessagePropertyConflictWithType,
            "",
        ),
        ("later", change(|_, _| ()), Code::MessagePropertyConflictWithType, "takes delay messages"),
    ];
    for (n, (topic, change, code, text)) in rows.iter().enumerate() {
        let status = sent(&mut client, topic, change).await;
        assert_eq!(status.code(), *code, "row {n}: {}", status.message);
        assert!(status.message.contains(text), "row {n}: {}", status.message);
    }
}

/// What a topic of this name is answered with by every call that takes one.
async fn by_topic(client: &mut Client, name: &str) -> Vec<(&'static str, v2::Status)> {
    let topic = || resource(name);
    let queue = || Some(v2::MessageQueue { topic: topic(), ..Default::default() });
    let group = || resource("billing");
    macro_rules! ask {
        ($($call:ident($request:expr)),+ $(,)?) => {
            vec![$((stringify!($call), client.$call(from("c", $request)).await.unwrap().into_inner().status.unwrap())),+]
        };
    }
    let mut answers = ask! {
        query_route(v2::QueryRouteRequest { topic: topic(), endpoints: None }),
        send_message(v2::SendMessageRequest { messages: vec![message(name, "01AB", b"x")] }),
        query_assignment(v2::QueryAssignmentRequest { topic: topic(), group: group(), endpoints: None }),
        ack_message(v2::AckMessageRequest { topic: topic(), group: group(), entries: vec![Default::default()] }),
        change_invisible_duration(v2::ChangeInvisibleDurationRequest { topic: topic(), group: group(), ..Default::default() }),
        forward_message_to_dead_letter_queue(
            v2::ForwardMessageToDeadLetterQueueRequest { topic: topic(), group: group(), ..Default::default() }
        ),
        recall_message(v2::RecallMessageRequest { topic: topic(), recall_handle: "h".into() }),
        get_offset(v2::GetOffsetRequest { group: group(), message_queue: queue() }),
        update_offset(v2::UpdateOffsetRequest { group: group(), message_queue: queue(), offset: 0 }),
        query_offset(v2::QueryOffsetRequest { message_queue: queue(), ..Default::default() }),
    };
    let polled = poll(client, from("c", receive("billing", name))).await;
    answers.push(("receive_message", v2::Status { code: polled.code as i32, message: polled.text }));
    answers
}

/// The same for a consumer group.
async fn by_group(client: &mut Client, name: &str) -> Vec<(&'static str, v2::Status)> {
    let topic = || resource("orders");
    let queue = || Some(v2::MessageQueue { topic: topic(), ..Default::default() });
    let group = || resource(name);
    macro_rules! ask {
        ($($call:ident($request:expr)),+ $(,)?) => {
            vec![$((stringify!($call), client.$call(from("c", $request)).await.unwrap().into_inner().status.unwrap())),+]
        };
    }
    let mut answers = ask! {
        query_assignment(v2::QueryAssignmentRequest { topic: topic(), group: group(), endpoints: None }),
        ack_message(v2::AckMessageRequest { topic: topic(), group: group(), entries: vec![Default::default()] }),
        change_invisible_duration(v2::ChangeInvisibleDurationRequest { topic: topic(), group: group(), ..Default::default() }),
        forward_message_to_dead_letter_queue(
            v2::ForwardMessageToDeadLetterQueueRequest { topic: topic(), group: group(), ..Default::default() }
        ),
        heartbeat(v2::HeartbeatRequest { group: group(), client_type: v2::ClientType::SimpleConsumer as i32 }),
        get_offset(v2::GetOffsetRequest { group: group(), message_queue: queue() }),
        update_offset(v2::UpdateOffsetRequest { group: group(), message_queue: queue(), offset: 0 }),
    };
    let polled = poll(client, from("c", receive(name, "orders"))).await;
    answers.push(("receive_message", v2::Status { code: polled.code as i32, message: polled.text }));
    answers
}

#[tokio::test]
async fn names_beyond_the_limits_are_refused_by_every_call() {
    let (_world, mut client) = world().await;
    let system = [
        "TBW102",
        "SCHEDULE_TOPIC_XXXX",
        "BenchmarkTest",
        "RMQ_SYS_TRANS_HALF_TOPIC",
        "RMQ_SYS_TRACE_TOPIC",
        "RMQ_SYS_TRANS_OP_HALF_TOPIC",
        "TRANS_CHECK_MAX_TIME_TOPIC",
        "SELF_TEST_TOPIC",
        "OFFSET_MOVED_EVENT",
        "CHECKPOINT_TOPIC",
        "rmq_sys_anything",
    ];
    let long = "t".repeat(128);
    for name in ["", "  ", "a b", "a.b", "\u{e4}", &long].into_iter().chain(system) {
        for (call, status) in by_topic(&mut client, name).await {
            assert_eq!(status.code(), Code::IllegalTopic, "{call} with topic {name:?}: {}", status.message);
        }
    }
    let long = "g".repeat(121);
    for name in ["", " ", "a b", "a/b", "CID_RMQ_SYS_x", &long] {
        for (call, status) in by_group(&mut client, name).await {
            assert_eq!(status.code(), Code::IllegalConsumerGroup, "{call} with group {name:?}: {}", status.message);
        }
    }
    let longest = ["aA0_-|%".to_owned() + &"t".repeat(120), "aA0_-|%".to_owned() + &"g".repeat(113)];
    let route = v2::QueryRouteRequest { topic: resource(&longest[0]), endpoints: None };
    assert_eq!(client.query_route(from("c", route)).await.unwrap().into_inner().status.unwrap().code(), Code::Ok);
    let assigned =
        v2::QueryAssignmentRequest { topic: resource(&longest[0]), group: resource(&longest[1]), endpoints: None };
    let assigned = client.query_assignment(from("c", assigned)).await.unwrap().into_inner().status.unwrap();
    assert_eq!(assigned.code(), Code::Ok, "{}", assigned.message);
}

#[tokio::test]
async fn times_of_polls_hold_to_their_limits() {
    let (_world, mut client) = world().await;
    let fill = (0..40).map(|n| message("orders", &format!("{n}"), b"x")).collect();
    client.send_message(send(fill)).await.unwrap();
    // Just within, and just beyond: seconds and nanoseconds.
    let rows = [
        (seconds(10, 0), Code::Ok),
        (seconds(43_200, 0), Code::Ok),
        (seconds(9, 999_999_999), Code::IllegalInvisibleTime),
        (seconds(43_200, 1_000_000), Code::IllegalInvisibleTime),
        (seconds(-10, 0), Code::IllegalInvisibleTime),
        (None, Code::IllegalInvisibleTime),
    ];
    for (n, (invisible_duration, code)) in rows.into_iter().enumerate() {
        let request = v2::ReceiveMessageRequest { invisible_duration, batch_size: 1, ..receive("billing", "orders") };
        let polled = poll(&mut client, from("c", request)).await;
        assert_eq!(polled.code, code, "row {n}: {}", polled.text);
    }
    // More than 32 are cut down, without a word.
    let request = v2::ReceiveMessageRequest { batch_size: 33, ..receive("other", "orders") };
    let polled = poll(&mut client, from("c", request)).await;
    assert_eq!((polled.code, polled.messages.len()), (Code::Ok, 32));
    // A push consumer says nothing of use about the invisible duration.
    let request =
        v2::ReceiveMessageRequest { auto_renew: true, invisible_duration: None, ..receive("other", "orders") };
    assert_eq!(poll(&mut client, from("c", request)).await.code, Code::Ok);
    let handle = handle(&polled.messages[0]);
    let rows = [
        (seconds(43_200, 1_000_000), Code::IllegalInvisibleTime),
        (seconds(-1, 0), Code::IllegalInvisibleTime),
        (seconds(43_200, 0), Code::Ok),
    ];
    for (n, (invisible_duration, code)) in rows.into_iter().enumerate() {
        let request = v2::ChangeInvisibleDurationRequest {
            group: resource("other"),
            topic: resource("orders"),
            receipt_handle: handle.clone(),
            invisible_duration,
            ..Default::default()
        };
        let status = client.change_invisible_duration(from("c", request)).await.unwrap().into_inner().status.unwrap();
        assert_eq!(status.code(), code, "row {n}: {}", status.message);
    }
    for (version, code) in [("5.0.3", Code::IllegalPollingTime), ("5.0.2", Code::BadRequest)] {
        let mut request = from("c", receive("billing", "orders"));
        request.metadata_mut().insert("x-mq-client-version", version.parse().unwrap());
        request.set_timeout(Duration::from_millis(4_500));
        let polled = poll(&mut client, request).await;
        assert_eq!(polled.code, code, "{version}: {}", polled.text);
        assert!(polled.text.contains("at least 5000 ms"), "{}", polled.text);
    }
}

#[tokio::test]
async fn client_properties_beyond_the_limits_end_the_session() {
    let (_world, mut client) = world().await;
    let key = |letters: usize| "k".repeat(letters);
    let many = |count: usize| (0..count).map(|n| (format!("k{n}"), String::new())).collect::<Vec<_>>();
    let one = |key: String, value: usize| vec![(key, "v".repeat(value))];
    let bytes = |count: usize| (0..count).map(|n| (format!("key{n:02}"), "v".repeat(251))).collect::<Vec<_>>();
    let rows = [
        (many(32), true),
        (many(33), false),
        (one(key(64), 256), true),
        (one(key(65), 1), false),
        (one("k".into(), 257), false),
        (one("a.b_c-1".into(), 1), true),
        (one("1a".into(), 1), false),
        (one("a b".into(), 1), false),
        (one(String::new(), 1), false),
        (one("rocketmq.own".into(), 1), false),
        (bytes(16), true),
        (bytes(17), false),
    ];
    for (n, (properties, fine)) in rows.into_iter().enumerate() {
        let settings = v2::Settings {
            pub_sub: Some(PubSub::Publishing(v2::Publishing::default())),
            client_properties: properties.into_iter().collect(),
            ..Default::default()
        };
        let command = Some(v2::telemetry_command::Command::Settings(settings));
        let stream = tokio_stream::iter([v2::TelemetryCommand { command, ..Default::default() }]);
        let mut answers = client.telemetry(from("c", stream)).await.unwrap().into_inner();
        match answers.message().await {
            Ok(answer) => assert!(fine && answer.unwrap().status.unwrap().code() == Code::Ok, "row {n}"),
            Err(error) => assert!(!fine && error.message().contains("INVALID_CLIENT_PROPERTIES"), "row {n}: {error}"),
        }
    }
}

#[tokio::test]
async fn batches_of_every_size_up_to_the_limits_are_stored_whole() {
    let (world, mut client) = world().await;
    let batch = |count: usize| send((0..count).map(|n| message("orders", &format!("{count}-{n}"), b"x")).collect());
    let mut stored = 0;
    for count in [1, 2, 31, 32, 33, 255, 256, 257, 1_023, limits::SEND_BATCH_MAX] {
        let answer = client.send_message(batch(count)).await.unwrap().into_inner();
        assert_eq!((answer.status.unwrap().code(), answer.entries.len()), (Code::Ok, count));
        for (n, entry) in answer.entries.iter().enumerate() {
            assert_eq!((&entry.message_id, entry.offset), (&format!("{count}-{n}"), stored + n as i64));
        }
        stored += count as i64;
    }
    let answer = client.send_message(batch(limits::SEND_BATCH_MAX + 1)).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert_eq!((status.code(), answer.entries.len()), (Code::PayloadTooLarge, 0));
    assert_eq!(status.message, "messages has 1025 entries, the limit is 1024");
    let answer = client.send_message(send(vec![])).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::MessageCorrupted);
    let queues = world.broker.topic_status("orders").await.unwrap().queues;
    assert_eq!(queues[0].max_offset.0 as i64, stored, "nothing of the refused ones");
}

#[tokio::test]
async fn the_largest_request_is_stored_and_received_and_a_larger_one_is_refused() {
    let (_world, mut client) = world().await;
    let body = |n: u8| vec![n; limits::BODY_BYTES_MAX];
    let batch = |count: u8| send((0..count).map(|n| message("orders", &n.to_string(), &body(n))).collect());
    let answer = client.send_message(batch(32)).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert_eq!((status.code(), answer.entries.len()), (Code::Ok, 32), "{}", status.message);
    let refused = client.send_message(batch(33)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
    let mut received = 0;
    while received < 32 {
        let polled = poll(&mut client, from("c", receive("billing", "orders"))).await;
        assert_eq!(polled.code, Code::Ok);
        for message in &polled.messages {
            assert_eq!(system(message).message_id, message.body[0].to_string());
            assert!(message.body.len() == limits::BODY_BYTES_MAX && message.body.iter().all(|&b| b == message.body[0]));
            let acked = ack(&mut client, "billing", "orders", &[handle(message)]).await;
            assert_eq!(acked[0].code(), Code::Ok);
        }
        received += polled.messages.len();
    }
}
