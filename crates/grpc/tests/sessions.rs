//! Telemetry, heartbeats, good-byes and the drain, against a real broker.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_grpc::proto::v2::{self, ClientType, Code, TelemetryCommand, settings::PubSub, telemetry_command::Command};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use world::*;

fn producer_settings(topics: &[&str]) -> TelemetryCommand {
    let publishing =
        v2::Publishing { topics: topics.iter().filter_map(|topic| resource(topic)).collect(), ..Default::default() };
    command(v2::Settings {
        client_type: Some(ClientType::Producer as i32),
        pub_sub: Some(PubSub::Publishing(publishing)),
        ..Default::default()
    })
}

fn consumer_settings(group: &str, topic: &str) -> TelemetryCommand {
    let subscription = v2::Subscription {
        group: resource(group),
        subscriptions: vec![v2::SubscriptionEntry { topic: resource(topic), expression: None }],
        ..Default::default()
    };
    command(v2::Settings {
        client_type: Some(ClientType::PushConsumer as i32),
        pub_sub: Some(PubSub::Subscription(subscription)),
        ..Default::default()
    })
}

fn command(settings: v2::Settings) -> TelemetryCommand {
    TelemetryCommand { status: None, command: Some(Command::Settings(settings)) }
}

#[tokio::test]
async fn a_session_has_its_headers_at_once_and_settings_answered_every_time() {
    let world = World::new();
    let mut client = world.client().await;
    let (commands, stream) = mpsc::channel(4);
    // The answer's head comes before anything has been said.
    let session = client.telemetry(from("c1", ReceiverStream::new(stream)));
    let mut answers = tokio::time::timeout(Duration::from_secs(5), session).await.unwrap().unwrap().into_inner();
    for _ in 0..2 {
        commands.send(consumer_settings("billing", "orders")).await.unwrap();
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.status.unwrap().code(), Code::Ok);
        let Some(Command::Settings(settings)) = answer.command else { panic!("no settings") };
        assert_eq!(settings.backoff_policy.as_ref().unwrap().max_attempts, 17);
        let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { panic!("no subscription") };
        assert_eq!((subscription.receive_batch_size, subscription.fifo), (Some(32), Some(false)));
        assert_eq!(subscription.subscriptions.len(), 1);
    }
    let known = world.broker.clients();
    assert_eq!((known.len(), &*known[0].client_id, &known[0].language[..]), (1, "c1", "RUST"));

    // Commands of the broker reach the client on the same stream.
    let nonce = v2::ReconnectEndpointsCommand { nonce: "1".into() };
    let reconnect = TelemetryCommand { status: None, command: Some(Command::ReconnectEndpointsCommand(nonce)) };
    let server = world.server.as_ref().unwrap();
    assert!(server.command("c1", reconnect.clone()) && !server.command("nobody", reconnect.clone()));
    assert_eq!(answers.message().await.unwrap().unwrap(), reconnect);

    // A client that half-closes gets a clean end.
    drop(commands);
    assert!(answers.message().await.unwrap().is_none());
    while server.command("c1", reconnect.clone()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn settings_that_break_a_rule_end_the_stream_with_an_error_and_a_missing_id_with_a_status() {
    let world = World::new();
    let mut client = world.client().await;
    for (bad, part) in [
        (producer_settings(&["a b"]), "ILLEGAL_TOPIC"),
        (consumer_settings("a b", "orders"), "ILLEGAL_CONSUMER_GROUP"),
        (command(v2::Settings::default()), "BAD_REQUEST"),
    ] {
        let stream = tokio_stream::iter([bad]);
        let mut answers = client.telemetry(from("c1", stream)).await.unwrap().into_inner();
        let error = answers.message().await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        assert!(error.message().contains(part), "{error}");
    }
    let stream = tokio_stream::iter([producer_settings(&[])]);
    let mut answers = client.telemetry(stream).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.status.unwrap().code(), answer.command), (Code::ClientIdRequired, None));
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_heartbeat_alone_makes_a_client_known_and_a_good_bye_forgets_it() {
    let world = World::new();
    let mut client = world.client().await;
    let consumer = v2::HeartbeatRequest { group: resource("billing"), client_type: ClientType::SimpleConsumer as i32 };
    for _ in 0..2 {
        let answer = client.heartbeat(from("c1", consumer.clone())).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code(), Code::Ok);
    }
    assert_eq!(world.broker.clients().len(), 1);
    let answer = client.heartbeat(from("c2", v2::HeartbeatRequest::default())).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::UnrecognizedClientType);
    let answer = client.heartbeat(v2::HeartbeatRequest::default()).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::ClientIdRequired);

    let bye = v2::NotifyClientTerminationRequest { group: resource("billing") };
    for code in [Code::Ok, Code::UnrecognizedClientType] {
        let answer = client.notify_client_termination(from("c1", bye.clone())).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code(), code);
    }
    assert!(world.broker.clients().is_empty());
}

#[tokio::test]
async fn a_drain_answers_polls_that_wait_and_lets_nobody_in() {
    let mut world = World::new();
    world.broker.create_topic("orders", Default::default()).await.unwrap();
    let mut client = world.client().await;
    let poll = tokio::spawn(async move { poll(&mut client, from("consumer", receive("billing", "orders"))).await });
    until("a poll that waits", || world.broker.figures().waiting_polls > 0).await;
    let address = world.address();
    let server = world.server.take().unwrap();
    tokio::task::spawn_blocking(move || server.shutdown()).await.unwrap();
    let polled = poll.await.unwrap();
    assert_eq!((polled.code, polled.messages.len()), (Code::MessageNotFound, 0));
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_member_is_asked_on_its_stream_and_what_it_says_comes_back() {
    let world = World::new();
    let mut client = world.client().await;
    client.send_message(send(vec![message("orders", "m-1", b"on trial")])).await.unwrap();
    let (commands, stream) = mpsc::channel(4);
    commands.send(consumer_settings("billing", "orders")).await.unwrap();
    let mut answers = client.telemetry(from("c1", ReceiverStream::new(stream))).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().status.unwrap().code(), Code::Ok);

    let mut admin = v2::admin_client::AdminClient::new(world.channel().await);
    let trace = |client_id: &str| v2::PrintThreadStackTraceRequest {
        client_id: client_id.into(),
        group: resource("billing"),
        ..Default::default()
    };
    let stranger = admin.print_thread_stack_trace(from("tool", trace("c2"))).await.unwrap().into_inner();
    let status = stranger.status.unwrap();
    assert_eq!((status.code(), &status.message[..]), (Code::BadRequest, "client c2 is no member of group billing"));

    let asking = tokio::spawn(async move { (admin.print_thread_stack_trace(from("tool", trace("c1"))).await, admin) });
    let Some(Command::PrintThreadStackTraceCommand(asked)) = answers.message().await.unwrap().unwrap().command else {
        panic!("a stack trace was to be asked for")
    };
    let said =
        |nonce: &str| v2::ThreadStackTrace { nonce: nonce.into(), thread_stack_trace: Some("main: waits".into()) };
    // An answer to nothing that was asked is passed over.
    for nonce in ["nothing", asked.nonce.as_str()] {
        let command = Some(Command::ThreadStackTrace(said(nonce)));
        commands.send(TelemetryCommand { status: None, command }).await.unwrap();
    }
    let (told, mut admin) = asking.await.unwrap();
    assert_eq!(told.unwrap().into_inner().thread_stack_trace.as_deref(), Some("main: waits"));

    for (code, said) in [(Code::Ok, ""), (Code::FailedToConsumeMessage, "FAILED_TO_CONSUME_MESSAGE: threw")] {
        let request = v2::VerifyMessageRequest {
            client_id: "c1".into(),
            group: resource("billing"),
            topic: resource("orders"),
            message_id: "m-1".into(),
            ..Default::default()
        };
        let asking = tokio::spawn(async move { (admin.verify_message(from("tool", request)).await, admin) });
        let Some(Command::VerifyMessageCommand(asked)) = answers.message().await.unwrap().unwrap().command else {
            panic!("a message was to be consumed on trial")
        };
        assert_eq!(&asked.message.unwrap().body[..], b"on trial");
        let status = v2::Status { code: code as i32, message: said.split(": ").nth(1).unwrap_or("").into() };
        let command = Some(Command::VerifyMessageResult(v2::VerifyMessageResult { nonce: asked.nonce }));
        commands.send(TelemetryCommand { status: Some(status), command }).await.unwrap();
        let told;
        (told, admin) = asking.await.unwrap();
        let status = told.unwrap().into_inner().status.unwrap();
        assert_eq!(status.code(), code);
        assert!(status.message.ends_with(said), "{}", status.message);
    }
}
