//! Lite topics through the socket.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_broker::{GroupSettings, TopicSettings};
use martlet_grpc::proto::v1::{self, admin_client::AdminClient, reset_offset_request as reset};
use martlet_grpc::proto::v2::messaging_service_client::MessagingServiceClient;
use martlet_grpc::proto::v2::{
    self, ClientType, Code, LiteSubscriptionAction, offset_option, settings::PubSub, telemetry_command::Command,
};
use martlet_model::group::ConsumptionPattern;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use world::*;

async fn lite_world(exclusive: bool) -> World {
    let world = World::new();
    let topic = TopicSettings {
        kind: Some(martlet_model::TopicType::Lite),
        lite_topics_max: Some(3),
        lite_expire_minutes: Some(30),
        ..Default::default()
    };
    world.broker.create_topic("chat", topic).await.unwrap();
    let group = GroupSettings {
        pattern: Some(ConsumptionPattern::LiteSelective),
        lite_parent: Some("chat".into()),
        lite_exclusive: Some(exclusive),
        lite_subscriptions_max: Some(2),
        ..Default::default()
    };
    world.broker.create_group("web", group).await.unwrap();
    world
}

fn lite(name: &str, body: &str) -> v2::Message {
    let mut message = message("chat", body, body.as_bytes());
    message.system_properties.get_or_insert_default().lite_topic = Some(name.into());
    message
}

type Client = MessagingServiceClient<Channel>;

async fn try_send(client: &mut Client, messages: Vec<v2::Message>) -> v2::Status {
    client.send_message(send(messages)).await.unwrap().into_inner().status.unwrap()
}

async fn sync(client: &mut Client, id: &str, action: LiteSubscriptionAction, names: &[&str]) -> v2::Status {
    sync_as(
        client,
        id,
        v2::SyncLiteSubscriptionRequest {
            action: action as i32,
            topic: resource("chat"),
            group: resource("web"),
            lite_topic_set: names.iter().map(|&name| name.into()).collect(),
            ..Default::default()
        },
    )
    .await
}

async fn sync_as(client: &mut Client, id: &str, request: v2::SyncLiteSubscriptionRequest) -> v2::Status {
    client.sync_lite_subscription(from(id, request)).await.unwrap().into_inner().status.unwrap()
}

async fn polled_by(client: &mut Client, id: &str) -> Polled {
    let request = v2::ReceiveMessageRequest {
        long_polling_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        ..receive("web", "chat")
    };
    poll(client, from(id, request)).await
}

fn bodies(polled: &Polled) -> Vec<String> {
    polled.messages.iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn what_goes_to_a_lite_topic_comes_in_order_to_whoever_subscribes_to_it() {
    let world = lite_world(false).await;
    let mut client = world.client().await;
    let sent = try_send(&mut client, vec![lite("alice", "a1"), lite("bob", "b1"), lite("alice", "a2")]).await;
    assert_eq!(sent.code(), Code::Ok, "{}", sent.message);
    for id in ["one", "two"] {
        let status = sync(&mut client, id, LiteSubscriptionAction::CompleteAdd, &[]).await;
        assert_eq!(status.code(), Code::Ok, "an empty full set is fine: {}", status.message);
    }
    let status = sync(&mut client, "one", LiteSubscriptionAction::PartialAdd, &["alice"]).await;
    assert_eq!(status.code(), Code::Ok, "{}", status.message);
    let polled = polled_by(&mut client, "one").await;
    assert_eq!((polled.code, bodies(&polled)), (Code::Ok, vec!["a1".to_owned(), "a2".to_owned()]), "{}", polled.text);
    let first = system(&polled.messages[0]);
    assert_eq!((first.lite_topic.as_deref(), first.message_type()), (Some("alice"), v2::MessageType::Lite));

    let suspend = v2::ChangeInvisibleDurationRequest {
        group: resource("web"),
        topic: resource("chat"),
        receipt_handle: handle(&polled.messages[0]),
        invisible_duration: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
        message_id: first.message_id.clone(),
        lite_topic: Some("alice".into()),
        suspend: Some(true),
    };
    let changed = client.change_invisible_duration(from("one", suspend)).await.unwrap().into_inner();
    assert_eq!(changed.status.unwrap().code(), Code::Ok);
    let again = polled_by(&mut client, "one").await;
    assert_eq!(bodies(&again), ["a1", "a2"]);
    assert!(again.messages.iter().all(|message| system(message).delivery_attempt == Some(1)));
    let handles: Vec<_> = again.messages.iter().map(handle).collect();
    assert!(ack(&mut client, "web", "chat", &handles).await.iter().all(|status| status.code() == Code::Ok));

    let status = sync(&mut client, "two", LiteSubscriptionAction::CompleteAdd, &["bob"]).await;
    assert_eq!(status.code(), Code::Ok);
    assert_eq!(bodies(&polled_by(&mut client, "two").await), ["b1"]);
}

#[tokio::test]
async fn every_refusal_has_its_code_and_names_what_is_wrong() {
    let world = lite_world(false).await;
    world.broker.create_group("plain", GroupSettings::default()).await.unwrap();
    let mut client = world.client().await;
    let status = try_send(&mut client, vec![lite("a b", "x")]).await;
    assert_eq!(status.code(), Code::IllegalLiteTopic);
    let status = try_send(&mut client, vec![message("chat", "x", b"x")]).await;
    assert_eq!(status.code(), Code::MessagePropertyConflictWithType, "{}", status.message);
    let status = try_send(&mut client, vec![lite("a", "1"), lite("b", "2"), lite("c", "3"), lite("d", "4")]).await;
    assert_eq!(status.code(), Code::LiteTopicQuotaExceeded);
    assert!(status.message.contains("chat") && status.message.contains('3'), "{}", status.message);

    use LiteSubscriptionAction::{CompleteAdd, PartialAdd};
    for action in [PartialAdd, CompleteAdd] {
        let status = sync(&mut client, "one", action, &["a", "b", "c"]).await;
        assert_eq!(status.code(), Code::LiteSubscriptionQuotaExceeded);
        assert!(status.message.contains('3') && status.message.contains('2'), "{}", status.message);
        assert_eq!(sync(&mut client, "one", action, &["a b"]).await.code(), Code::IllegalLiteTopic);
        assert_eq!(sync(&mut client, "one", action, &[""]).await.code(), Code::IllegalLiteTopic);
    }
    let request = |group: &str, topic: &str| v2::SyncLiteSubscriptionRequest {
        group: resource(group),
        topic: resource(topic),
        lite_topic_set: vec!["a".into()],
        ..Default::default()
    };
    world.broker.create_topic("other", TopicSettings::default()).await.unwrap();
    for (group, topic, code) in [
        ("plain", "chat", Code::IllegalConsumerGroup),
        ("web", "other", Code::IllegalTopic),
        ("web", "nowhere", Code::TopicNotFound),
        ("nobody", "chat", Code::ConsumerGroupNotFound),
    ] {
        let status = sync_as(&mut client, "one", request(group, topic)).await;
        assert_eq!(status.code(), code, "{group} {topic}: {}", status.message);
    }
    let negative = v2::OffsetOption { offset_type: Some(offset_option::OffsetType::TailN(-1)) };
    let request = v2::SyncLiteSubscriptionRequest { offset_option: Some(negative), ..request("web", "chat") };
    assert_eq!(sync_as(&mut client, "one", request).await.code(), Code::IllegalOffset);
    let polled = poll(&mut client, from("one", receive("plain", "chat"))).await;
    assert_eq!(polled.code, Code::IllegalConsumerGroup, "{}", polled.text);
}

fn lite_settings(group: &str, topic: &str, kind: ClientType) -> v2::TelemetryCommand {
    let subscription = v2::Subscription {
        group: resource(group),
        subscriptions: vec![v2::SubscriptionEntry { topic: resource(topic), expression: None }],
        ..Default::default()
    };
    let settings = v2::Settings {
        client_type: Some(kind as i32),
        pub_sub: Some(PubSub::Subscription(subscription)),
        ..Default::default()
    };
    v2::TelemetryCommand { status: None, command: Some(Command::Settings(settings)) }
}

async fn session(
    client: &mut Client,
    id: &str,
    first: v2::TelemetryCommand,
) -> (tokio::sync::mpsc::Sender<v2::TelemetryCommand>, tonic::Streaming<v2::TelemetryCommand>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    sender.send(first).await.unwrap();
    let answers = client.telemetry(from(id, ReceiverStream::new(receiver))).await.unwrap().into_inner();
    (sender, answers)
}

#[tokio::test]
async fn lite_clients_are_told_their_quota_and_when_another_takes_a_lite_topic_over() {
    let world = lite_world(true).await;
    let mut client = world.client().await;
    let (_one, mut answers) =
        session(&mut client, "one", lite_settings("web", "chat", ClientType::LitePushConsumer)).await;
    let Some(Command::Settings(settings)) = answers.message().await.unwrap().unwrap().command else { panic!() };
    let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { panic!() };
    assert_eq!((subscription.lite_subscription_quota, subscription.max_lite_topic_size), (Some(2), Some(64)));
    use LiteSubscriptionAction::PartialAdd;
    assert_eq!(sync(&mut client, "one", PartialAdd, &["alice"]).await.code(), Code::Ok);
    assert_eq!(sync(&mut client, "two", PartialAdd, &["alice"]).await.code(), Code::Ok);
    let told = answers.message().await.unwrap().unwrap().command.unwrap();
    let Command::NotifyUnsubscribeLiteCommand(told) = told else { panic!("{told:?}") };
    assert_eq!(told.lite_topic, "alice");
}

#[tokio::test]
async fn clients_and_groups_of_different_kinds_do_not_go_together() {
    let world = lite_world(false).await;
    world.broker.create_group("plain", GroupSettings::default()).await.unwrap();
    let mut client = world.client().await;
    for (group, topic, kind, code) in [
        ("plain", "chat", ClientType::LiteSimpleConsumer, "ILLEGAL_CONSUMER_GROUP"),
        ("web", "chat", ClientType::PushConsumer, "ILLEGAL_CONSUMER_GROUP"),
        ("web", "other", ClientType::LitePushConsumer, "ILLEGAL_TOPIC"),
    ] {
        let (_sender, mut answers) = session(&mut client, "one", lite_settings(group, topic, kind)).await;
        let error = answers.message().await.unwrap_err();
        assert!(error.message().starts_with(code), "{}", error.message());
    }
}

/// Moves the group in lite topics.
async fn reset(admin: &mut AdminClient<Channel>, lite_topic: &str, to: reset::To) -> v1::ResetOffsetResponse {
    let request = v1::ResetOffsetRequest {
        group: "web".into(),
        topic: "chat".into(),
        lite_topic: lite_topic.into(),
        to: Some(to),
        ..Default::default()
    };
    admin.reset_offset(from("admin", request)).await.unwrap().into_inner()
}

/// Name, where the group was, and where it is.
fn moved(answer: &v1::ResetOffsetResponse) -> Vec<(&str, u64, u64)> {
    let status = answer.status.as_ref().unwrap();
    assert_eq!(status.code(), Code::Ok, "{}", status.message);
    let topics = answer.lite_topics.iter();
    topics.map(|topic| (topic.name.as_str(), topic.from_offset, topic.to_offset)).collect()
}

#[tokio::test]
async fn an_administrator_moves_a_group_in_one_lite_topic_or_in_all_and_sees_how_old_its_backlog_is() {
    let world = lite_world(false).await;
    let mut client = world.client().await;
    let sent = try_send(&mut client, vec![lite("alice", "a1"), lite("alice", "a2"), lite("bob", "b1")]).await;
    assert_eq!(sent.code(), Code::Ok, "{}", sent.message);
    sync(&mut client, "one", LiteSubscriptionAction::PartialAdd, &["alice", "bob"]).await;
    let polled = polled_by(&mut client, "one").await;
    assert_eq!(bodies(&polled), ["a1", "a2", "b1"]);
    let handles: Vec<_> = polled.messages.iter().map(handle).collect();
    assert!(ack(&mut client, "web", "chat", &handles).await.iter().all(|status| status.code() == Code::Ok));

    let mut admin = AdminClient::new(world.channel().await);
    let answer = reset(&mut admin, "alice", reset::To::Offset(1)).await;
    assert_eq!(moved(&answer), [("alice", 2, 1)]);
    let again = polled_by(&mut client, "one").await;
    assert_eq!(bodies(&again), ["a2"]);
    assert_eq!(system(&again.messages[0]).delivery_attempt, Some(1));
    let answer = reset(&mut admin, "", reset::To::TimeMillis(0)).await;
    assert_eq!((moved(&answer), answer.next), (vec![("alice", 1, 0), ("bob", 1, 0)], None));
    let superseded = ack(&mut client, "web", "chat", &[handle(&again.messages[0])]).await;
    assert_eq!(superseded[0].code(), Code::InvalidReceiptHandle, "in flight from the target on");

    let request = v1::DescribeGroupRequest { name: "web".into() };
    let described = admin.describe_group(from("admin", request)).await.unwrap().into_inner();
    let [progress] = &described.progress[..] else { panic!("{:?}", described.progress) };
    assert_eq!((progress.ready, progress.in_flight), (3, 0));
    assert!(progress.lag_millis > 0 && progress.lag_millis == progress.queueing_millis, "{progress:?}");
    let request = v1::DescribeLiteTopicRequest { topic: "chat".into(), lite_topic: "bob".into(), group: "web".into() };
    let bob = admin.describe_lite_topic(from("admin", request)).await.unwrap().into_inner();
    assert!(bob.lite_topic.unwrap().progress.unwrap().lag_millis > 0);

    // The call that knows times only, and all lite topics.
    let request = v2::ResetGroupOffsetRequest {
        group: resource("web"),
        topic: resource("chat"),
        reset_timestamp: Some(prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 }),
        ..Default::default()
    };
    let mut tools = v2::admin_client::AdminClient::new(world.channel().await);
    let status = tools.reset_group_offset(from("admin", request)).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.code(), Code::Ok, "{}", status.message);
    let answer = reset(&mut admin, "", reset::To::Latest(reset::Latest {})).await;
    assert_eq!(moved(&answer), [("alice", 2, 2), ("bob", 1, 1)], "everything is settled");
}

#[tokio::test]
async fn a_reset_that_names_no_place_is_refused_and_update_offset_cannot_name_a_lite_topic() {
    let world = lite_world(false).await;
    let mut client = world.client().await;
    let sent = try_send(&mut client, vec![lite("alice", "a1")]).await;
    assert_eq!(sent.code(), Code::Ok, "{}", sent.message);
    let mut admin = AdminClient::new(world.channel().await);
    for (lite_topic, to, code, expected) in [
        ("", reset::To::Offset(0), Code::BadRequest, "is a place of one lite topic, which has to be named"),
        ("alice", reset::To::Offset(2), Code::IllegalOffset, "is not from 0 to 1"),
        ("bob", reset::To::TimeMillis(0), Code::NotFound, "lite topic bob of topic chat does not exist"),
        ("b/b", reset::To::TimeMillis(0), Code::IllegalLiteTopic, "b/b"),
    ] {
        let status = reset(&mut admin, lite_topic, to).await.status.unwrap();
        assert_eq!(status.code(), code, "{}", status.message);
        assert!(status.message.contains(expected), "{}", status.message);
    }
    let queue = Some(v2::MessageQueue { topic: resource("chat"), ..Default::default() });
    let request = v2::UpdateOffsetRequest { group: resource("web"), message_queue: queue, offset: 0 };
    let status = client.update_offset(from("one", request)).await.unwrap().into_inner().status.unwrap();
    let expected = "topic chat is a parent of lite topics, whose own queues hold nothing to move a group in";
    assert_eq!((status.code(), status.message.as_str()), (Code::BadRequest, expected));
}
