//! Access control over gRPC: signatures and policies, of both packages, the session stream and the admin service.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_broker::auth::{Accounts, Action, Decision, Entry, PolicyKind, Secret};
use martlet_broker::{AccessOptions, UserChange};
use martlet_grpc::proto::rocketmq_v1 as old;
use martlet_grpc::proto::v1::{self as admin, admin_client::AdminClient};
use martlet_grpc::proto::v2::{self, Code, TelemetryCommand, settings::PubSub, telemetry_command::Command};
use std::fmt::Write;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use world::*;

const ROOT: (&str, &str) = ("root", "rootsecret");
const ANN: (&str, &str) = ("ann", "annsecret");

fn world(authorization: bool) -> World {
    World::with(|broker, _| {
        broker.access = Some(AccessOptions { accounts: Accounts::parse("root rootsecret").unwrap(), authorization });
    })
}

async fn make_ann(world: &World) {
    let said = UserChange { secret: Some(Secret::new("annsecret")), ..UserChange::default() };
    world.broker.create_user("ann", &said).await.unwrap();
}

async fn allow(world: &World, resource: &str, action: Action) {
    let (resource, actions) = (resource.parse().unwrap(), vec![action]);
    let entry = Entry { resource, actions, sources: Vec::new(), decision: Decision::Allow };
    world.broker.put_policies("ann", &[(PolicyKind::Custom, entry)]).await.unwrap();
}

/// The request, signed as the SDKs do.
fn signed<T>((user, secret): (&str, &str), mut request: tonic::Request<T>) -> tonic::Request<T> {
    let date = "20260102T030405Z";
    let signature = Secret::new(secret).sign([date.as_bytes()]).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    let said =
        format!("MQv2-HMAC-SHA1 Credential={user}//Rocketmq, SignedHeaders=x-mq-date-time, Signature={signature}");
    request.metadata_mut().insert("authorization", said.parse().unwrap());
    request.metadata_mut().insert("x-mq-date-time", date.parse().unwrap());
    request
}

fn one() -> tonic::Request<v2::SendMessageRequest> {
    send(vec![message("orders", "id1", b"hello")])
}

async fn sent(world: &World, request: tonic::Request<v2::SendMessageRequest>) -> (Code, String) {
    let answer = world.client().await.send_message(request).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    (status.code(), status.message)
}

#[tokio::test]
async fn only_signed_calls_are_carried_out_and_refusals_are_answers() {
    let world = world(false);
    make_ann(&world).await;
    assert_eq!(sent(&world, signed(ROOT, one())).await.0, Code::Ok);
    assert_eq!(sent(&world, signed(ANN, one())).await.0, Code::Ok);
    let (code, text) = sent(&world, one()).await;
    assert_eq!(code, Code::Unauthorized);
    assert!(text.contains("header authorization is missing"), "{text}");
    for wrong in [("root", "other"), ("nobody", "x"), ("", "")] {
        assert_eq!(sent(&world, signed(wrong, one())).await.0, Code::Unauthorized, "{wrong:?}");
    }
    let mut no_date = signed(ROOT, one());
    no_date.metadata_mut().remove("x-mq-date-time");
    assert_eq!(sent(&world, no_date).await.0, Code::Unauthorized);
    // A poll, too, whose answer is a stream.
    let polled = poll(&mut world.client().await, from("c", receive("billing", "orders"))).await;
    assert_eq!((polled.code, polled.messages.len()), (Code::Unauthorized, 0));
    // The admin service is for super users, policies or not.
    let mut admin = AdminClient::new(world.channel().await);
    for (user, expected) in [(ROOT, Code::Ok), (ANN, Code::Unauthorized)] {
        let listed = admin.list_topics(signed(user, from("cli", admin::ListTopicsRequest {}))).await.unwrap();
        assert_eq!(listed.into_inner().status.unwrap().code(), expected);
    }
}

#[tokio::test]
async fn users_need_policies_for_topic_and_group() {
    let world = world(true);
    make_ann(&world).await;
    let (code, text) = sent(&world, signed(ANN, one())).await;
    assert_eq!(code, Code::Unauthorized);
    assert_eq!(text, "user \"ann\" has no permission to Pub Topic:orders from 127.0.0.1: no policy is about it");
    allow(&world, "Topic:ord*", Action::Pub).await;
    assert_eq!(sent(&world, signed(ANN, one())).await.0, Code::Ok);
    let mut client = world.client().await;
    let mut received = async || {
        let request = v2::ReceiveMessageRequest { batch_size: 1, ..receive("billing", "orders") };
        poll(&mut client, signed(ANN, from("c", request))).await
    };
    assert!(received().await.text.contains("Sub Group:billing"));
    allow(&world, "Group:billing", Action::Sub).await;
    assert!(received().await.text.contains("Sub Topic:orders"));
    allow(&world, "Topic:orders", Action::All).await;
    let polled = received().await;
    assert_eq!((polled.code, polled.messages.len()), (Code::Ok, 1));
}

#[tokio::test]
async fn a_session_is_told_and_ended_where_its_settings_are_not_allowed() {
    let world = world(true);
    make_ann(&world).await;
    let session = async |user| {
        let (commands, stream) = mpsc::channel(4);
        let mut client = world.client().await;
        let mut answers =
            client.telemetry(signed(user, from("c", ReceiverStream::new(stream)))).await.unwrap().into_inner();
        let publishing = v2::Publishing { topics: resource("orders").into_iter().collect(), ..Default::default() };
        let settings = v2::Settings {
            client_type: Some(v2::ClientType::Producer as i32),
            pub_sub: Some(PubSub::Publishing(publishing)),
            ..Default::default()
        };
        commands.send(TelemetryCommand { status: None, command: Some(Command::Settings(settings)) }).await.unwrap();
        let first = answers.message().await.unwrap().unwrap().status.unwrap().code();
        let is_over = first != Code::Ok && answers.message().await.unwrap().is_none();
        (first, is_over)
    };
    assert_eq!(session(("ann", "wrong")).await, (Code::Unauthorized, true));
    assert_eq!(session(ANN).await, (Code::Unauthorized, true));
    assert!(world.broker.clients().is_empty());
    allow(&world, "Topic:orders", Action::Pub).await;
    assert_eq!(session(ANN).await, (Code::Ok, false));
}

#[tokio::test]
async fn the_older_package_has_a_code_of_its_own() {
    const UNAUTHENTICATED: i32 = 16;
    let world = world(true);
    make_ann(&world).await;
    let mut client = old::messaging_service_client::MessagingServiceClient::new(world.channel().await);
    let topic = || Some(old::Resource { name: "orders".into(), ..Default::default() });
    let request = || old::QueryRouteRequest { topic: topic(), endpoints: None };
    let mut code = async |request| {
        let answer = client.query_route(request).await.unwrap().into_inner();
        answer.common.unwrap().status.unwrap().code
    };
    assert_eq!(code(tonic::Request::new(request())).await, UNAUTHENTICATED);
    assert_eq!(code(signed(ANN, tonic::Request::new(request()))).await, UNAUTHENTICATED);
    allow(&world, "Topic:orders", Action::Pub).await;
    assert_eq!(code(signed(ANN, tonic::Request::new(request()))).await, 0);
    // The one answer that has no place for a status.
    let poll = old::PollCommandRequest { client_id: "c".into(), ..Default::default() };
    assert_eq!(client.poll_command(poll).await.unwrap_err().code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn without_access_control_credentials_are_not_looked_at() {
    let world = World::new();
    let mut odd = one();
    odd.metadata_mut().insert("authorization", "MQv2-HMAC-SHA1 Credential=".parse().unwrap());
    assert_eq!(sent(&world, odd).await.0, Code::Ok);
}
