//! Both admin services, against a real broker.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_grpc::proto::v1::{self, admin_client::AdminClient};
use martlet_grpc::proto::v2::{self, Code, admin_client::AdminClient as ApacheAdminClient};
use tonic::Request;
use world::*;

fn code(status: Option<v2::Status>) -> Code {
    status.unwrap().code()
}

#[tokio::test]
async fn topics_are_created_changed_described_listed_and_deleted() {
    let world = World::new();
    let mut admin = AdminClient::new(world.channel().await);
    let settings = v1::TopicSettings {
        r#type: Some(v1::TopicType::Fifo as i32),
        queues: Some(3),
        retention_millis: Some(3_600_000),
        ..Default::default()
    };
    let create = v1::CreateTopicRequest { name: "orders".into(), settings: Some(settings) };
    let created = admin.create_topic(create.clone()).await.unwrap().into_inner();
    assert_eq!(code(created.status), Code::Ok);
    let topic = created.topic.unwrap();
    assert_eq!((topic.r#type(), topic.read_queues, topic.retention_millis), (v1::TopicType::Fifo, 3, Some(3_600_000)));

    let mut other = create.clone();
    if let Some(settings) = &mut other.settings {
        settings.queues = Some(4);
    }
    assert_eq!(code(admin.create_topic(other).await.unwrap().into_inner().status), Code::PreconditionFailed);
    let nonsense = v1::TopicSettings { queues: Some(0), ..Default::default() };
    let update = |settings| v1::UpdateTopicRequest { name: "orders".into(), settings: Some(settings) };
    assert_eq!(code(admin.update_topic(update(nonsense)).await.unwrap().into_inner().status), Code::BadRequest);
    let grown = v1::TopicSettings { queues: Some(5), ..Default::default() };
    let updated = admin.update_topic(update(grown)).await.unwrap().into_inner();
    assert_eq!(updated.topic.unwrap().write_queues, 5);

    let describe = v1::DescribeTopicRequest { name: "orders".into() };
    let described = admin.describe_topic(describe.clone()).await.unwrap().into_inner();
    assert_eq!((described.queues.len(), &described.broker[..]), (5, world.broker.broker_name()));
    let listed = admin.list_topics(v1::ListTopicsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.topics.iter().map(|topic| &topic.name[..]).collect::<Vec<_>>(), ["orders"]);
    let delete = v1::DeleteTopicRequest { name: "orders".into() };
    assert_eq!(code(admin.delete_topic(delete.clone()).await.unwrap().into_inner().status), Code::Ok);
    assert_eq!(code(admin.delete_topic(delete).await.unwrap().into_inner().status), Code::TopicNotFound);
    assert_eq!(code(admin.describe_topic(describe).await.unwrap().into_inner().status), Code::TopicNotFound);
}

#[tokio::test]
async fn groups_show_their_settings_their_progress_and_who_is_connected() {
    let world = World::new();
    let mut admin = AdminClient::new(world.channel().await);
    let mut apache = ApacheAdminClient::new(world.channel().await);
    let mut client = world.client().await;
    let backoff = v1::Backoff {
        strategy: Some(v1::backoff::Strategy::Customized(v1::CustomizedBackoff { next_millis: vec![1000, 5000] })),
    };
    let settings = v1::GroupSettings {
        retry: Some(v1::RetryPolicy { max_attempts: 4, backoff: Some(backoff.clone()) }),
        dead_letters: Some(v1::DeadLetterPolicy {
            policy: Some(v1::dead_letter_policy::Policy::Discard(Default::default())),
        }),
        ..Default::default()
    };
    let create = v1::CreateGroupRequest { name: "billing".into(), settings: Some(settings) };
    let created = admin.create_group(create).await.unwrap().into_inner();
    assert_eq!(code(created.status), Code::Ok);
    let retry = created.group.unwrap().retry.unwrap();
    assert_eq!((retry.max_attempts, retry.backoff), (4, Some(backoff)));
    let fewer =
        v1::GroupSettings { retry: Some(v1::RetryPolicy { max_attempts: 2, backoff: None }), ..Default::default() };
    let update = v1::UpdateGroupRequest { name: "billing".into(), settings: Some(fewer) };
    let updated = admin.update_group(update).await.unwrap().into_inner().group.unwrap().retry.unwrap();
    assert_eq!(updated.max_attempts, 2);
    assert!(
        matches!(updated.backoff.unwrap().strategy, Some(v1::backoff::Strategy::Customized(list)) if list.next_millis == [1000, 5000])
    );

    let heartbeat =
        v2::HeartbeatRequest { group: resource("billing"), client_type: v2::ClientType::SimpleConsumer as i32 };
    client.heartbeat(from("host@1", heartbeat)).await.unwrap();
    let batch = (0..6).map(|n| message("orders", &format!("m{n}"), b"x")).collect();
    client.send_message(send(batch)).await.unwrap();
    let mut taken = 0;
    while taken < 6 {
        taken += poll(&mut client, from("host@1", receive("billing", "orders"))).await.messages.len();
    }
    let describe = v1::DescribeGroupRequest { name: "billing".into() };
    let described = admin.describe_group(describe).await.unwrap().into_inner();
    assert_eq!(described.progress.iter().map(|progress| progress.in_flight).sum::<u64>(), 6);
    assert_eq!(described.clients.len(), 1);

    let request = v2::DescribeGroupAccumulationRequest { group: resource("billing"), ..Default::default() };
    let accumulation = apache.describe_group_accumulation(request).await.unwrap().into_inner();
    assert_eq!(accumulation.topic_accumulation["orders"].inflight_messages, 6);
    assert_eq!(accumulation.accumulation.unwrap().accumulation, 6);
    let request = v2::ListConsumerConnectionRequest { group: resource("billing"), ..Default::default() };
    let connections = apache.list_consumer_connection(request).await.unwrap().into_inner();
    assert_eq!(
        (&connections.client_info[0].client_id[..], &connections.client_info[0].hostname[..]),
        ("host@1", "host")
    );

    let listed = admin.list_groups(v1::ListGroupsRequest {}).await.unwrap().into_inner();
    assert_eq!(listed.groups.len(), 1);
    let delete = v1::DeleteGroupRequest { name: "billing".into() };
    assert_eq!(code(admin.delete_group(delete).await.unwrap().into_inner().status), Code::Ok);
    let request = v2::ListConsumerConnectionRequest { group: resource("billing"), ..Default::default() };
    let gone = apache.list_consumer_connection(request).await.unwrap().into_inner();
    assert_eq!(code(gone.status), Code::ConsumerGroupNotFound);
}

#[tokio::test]
async fn the_apache_service_tells_of_topics_routes_and_rates() {
    let world = World::new();
    world.broker.create_topic("orders", Default::default()).await.unwrap();
    let mut apache = ApacheAdminClient::new(world.channel().await);
    let request = v2::DescribeTopicStatusRequest { topic: resource("orders"), ..Default::default() };
    let status = apache.describe_topic_status(request).await.unwrap().into_inner();
    assert_eq!((status.topic_message_type(), &status.tags["type"][..]), (v2::MessageType::Normal, "normal"));
    let request = v2::GetTopicRouteRequest { topic: resource("orders"), ..Default::default() };
    let route = apache.get_topic_route(Request::new(request)).await.unwrap().into_inner().topic_route_data;
    let route: serde_json::Value = serde_json::from_str(&route).unwrap();
    assert_eq!(route["queueDatas"][0]["readQueueNums"], 8);
    assert_eq!(route["brokerDatas"][0]["brokerAddrs"]["0"], world.address().to_string());
    let stats = apache.get_proxy_runtime_stats(v2::GetProxyRuntimeStatsRequest {}).await.unwrap().into_inner();
    assert!(stats.connections >= 1 && !stats.version.is_empty());
    let list = apache.list_subscription(v2::ListSubscriptionRequest::default()).await.unwrap().into_inner();
    assert_eq!(code(list.status), Code::BadRequest);
    let span = apache.query_time_span(v2::QueryTimeSpanRequest::default()).await.unwrap().into_inner();
    assert_eq!(code(span.status), Code::NotImplemented);
}

#[tokio::test]
async fn a_group_begins_where_it_was_told_to() {
    use v1::start_from::Place;
    let world = World::new();
    let mut admin = AdminClient::new(world.channel().await);
    let mut client = world.client().await;
    client.send_message(send(vec![message("orders", "old", b"x")])).await.unwrap();
    // The clock that messages are stored by counts milliseconds.
    let sent = std::time::Instant::now();
    until("a later millisecond", || sent.elapsed().as_millis() >= 2).await;
    let start = |place| Some(v1::StartFrom { place: Some(place) });
    let late = start(Place::Latest(Default::default()));
    let settings = Some(v1::GroupSettings { start: late, ..Default::default() });
    let create = v1::CreateGroupRequest { name: "late".into(), settings: settings.clone() };
    let created = admin.create_group(create.clone()).await.unwrap().into_inner();
    let Some(Place::Latest(latest)) = created.group.unwrap().start.unwrap().place else { panic!("not the latest") };
    assert!(latest.since_millis > 1_700_000_000_000);
    assert_eq!(code(admin.create_group(create).await.unwrap().into_inner().status), Code::Ok, "the same settings");
    client.send_message(send(vec![message("orders", "new", b"x")])).await.unwrap();
    let polled = poll(&mut client, from("c", receive("late", "orders"))).await;
    assert_eq!(polled.messages.iter().map(|message| &system(message).message_id[..]).collect::<Vec<_>>(), ["new"]);
    let since = start(Place::TimeMillis(latest.since_millis));
    let settings = Some(v1::GroupSettings { start: since, ..Default::default() });
    let update = v1::UpdateGroupRequest { name: "late".into(), settings };
    let updated = admin.update_group(update).await.unwrap().into_inner();
    assert_eq!(updated.group.unwrap().start, since);
    let nonsense = Some(v1::GroupSettings { start: start(Place::TimeMillis(-1)), ..Default::default() });
    let update = v1::UpdateGroupRequest { name: "late".into(), settings: nonsense };
    let status = admin.update_group(update).await.unwrap().into_inner().status.unwrap();
    assert_eq!((status.code(), &status.message[..]), (Code::BadRequest, "start -1 ms is not a time from 1970 to 9999"));
}
