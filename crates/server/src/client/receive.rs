//! `martlet receive`: polls as a simple consumer does, prints, acknowledges.

use super::message::JsonMessage;
use super::{
    ClientError, Connection, REQUEST_TIMEOUT, accepted, call_failed, proto_duration, refused, request, resource,
};
use crate::cli::ReceiveArgs;
use martlet_grpc::proto::v2;
use std::io::Write;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const BATCH: u64 = 32;
/// How long a poll waits, in milliseconds: the shortest the protocol allows when nobody wants to wait for more.
const POLL_MILLIS: i64 = 5_000;
const FOLLOW_POLL_MILLIS: i64 = 20_000;
/// An empty answer this much before the end of its poll counts as having waited for all of it.
const EARLY_MILLIS: i64 = 500;
/// Between an empty answer and the next poll, so that answers before their time do not make a busy loop.
const EMPTY_PAUSE: Duration = Duration::from_millis(20);
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Runs it, until done or interrupted.
pub async fn run(args: ReceiveArgs) -> Result<(), ClientError> {
    let connection = Connection::open(&args.target).await?;
    let queues = queues(&connection, &args.topic).await?;
    let session = Session::open(&connection, &args).await?;
    let result = tokio::select! {
        result = receive(&connection, &args, &queues) => result,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(ClientError::Io).map(|()| 0),
    };
    session.close(&connection, &args.group).await;
    let received = result?;
    if !args.target.json {
        let verb = if args.no_ack { "received (not acknowledged)" } else { "received and acknowledged" };
        eprintln!("{verb} {received} message{}", if received == 1 { "" } else { "s" });
    }
    Ok(())
}

/// One readable queue of each broker: a poll that names one is answered from all queues of its broker.
async fn queues(connection: &Connection, topic: &str) -> Result<Vec<v2::MessageQueue>, ClientError> {
    let what = format!("looking up topic {topic}");
    let message = v2::QueryRouteRequest { topic: Some(resource(topic)), endpoints: Some(connection.endpoints()) };
    let answer = connection.messaging().query_route(request(message, REQUEST_TIMEOUT)).await;
    let answer = answer.map_err(call_failed(&*what))?.into_inner();
    accepted(&what, answer.status)?;
    let mut queues: Vec<v2::MessageQueue> = Vec::new();
    for queue in answer.message_queues {
        let readable = [v2::Permission::Read as i32, v2::Permission::ReadWrite as i32].contains(&queue.permission);
        let name = |queue: &v2::MessageQueue| queue.broker.as_ref().map(|broker| broker.name.clone());
        if readable && !queues.iter().any(|known| name(known) == name(&queue)) {
            queues.push(queue);
        }
    }
    if queues.is_empty() { Err(ClientError::Input(format!("topic {topic} has no readable queue"))) } else { Ok(queues) }
}

/// What keeps a consumer known: its telemetry stream and its heartbeats.
struct Session {
    commands: mpsc::Sender<v2::TelemetryCommand>,
    heartbeats: tokio::task::JoinHandle<()>,
    answers: tokio::task::JoinHandle<()>,
}

impl Session {
    async fn open(connection: &Connection, args: &ReceiveArgs) -> Result<Self, ClientError> {
        let settings = v2::Settings {
            client_type: Some(v2::ClientType::SimpleConsumer.into()),
            access_point: Some(connection.endpoints()),
            request_timeout: Some(proto_duration(REQUEST_TIMEOUT.as_millis() as i64)),
            pub_sub: Some(v2::settings::PubSub::Subscription(v2::Subscription {
                group: Some(resource(&args.group)),
                subscriptions: vec![v2::SubscriptionEntry {
                    topic: Some(resource(&args.topic)),
                    expression: Some(filter(args)),
                }],
                fifo: Some(false),
                long_polling_timeout: Some(proto_duration(poll_millis(args))),
                ..Default::default()
            })),
            user_agent: Some(v2::Ua {
                language: v2::Language::Rust.into(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                platform: std::env::consts::OS.to_owned(),
                hostname: std::env::var("HOSTNAME").unwrap_or_else(|_| "localhost".to_owned()),
            }),
            ..Default::default()
        };
        let (commands, outgoing) = mpsc::channel(4);
        let command = v2::TelemetryCommand {
            command: Some(v2::telemetry_command::Command::Settings(settings)),
            ..Default::default()
        };
        let what = format!("joining consumer group {}", args.group);
        let closed = || ClientError::Input(format!("{what}: the broker closed the session"));
        commands.send(command).await.map_err(|_| closed())?;
        let mut client = connection.messaging();
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, async {
            let mut stream = client.telemetry(ReceiverStream::new(outgoing)).await?.into_inner();
            let first = stream.message().await?;
            Ok((first, stream))
        });
        let (first, mut stream) = match answer.await {
            Ok(answer) => answer.map_err(call_failed(&*what))?,
            Err(_) => return Err(ClientError::Input(format!("{what}: no answer within {REQUEST_TIMEOUT:?}"))),
        };
        let first = first.ok_or_else(closed)?;
        if first.status.is_some() {
            accepted(&what, first.status)?;
        }
        // Commands for push consumers come here; a simple consumer needs none of them.
        let answers = tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
        let heartbeats = tokio::spawn(heartbeats(connection.clone(), args.group.clone()));
        Ok(Self { commands, heartbeats, answers })
    }

    async fn close(self, connection: &Connection, group: &str) {
        self.heartbeats.abort();
        let message = v2::NotifyClientTerminationRequest { group: Some(resource(group)) };
        // The broker notices by itself if this does not arrive.
        let _ = connection.messaging().notify_client_termination(request(message, Duration::from_secs(2))).await;
        drop(self.commands);
        self.answers.abort();
    }
}

async fn heartbeats(connection: Connection, group: String) {
    let mut ticks = tokio::time::interval(HEARTBEAT);
    loop {
        ticks.tick().await;
        let message =
            v2::HeartbeatRequest { group: Some(resource(&group)), client_type: v2::ClientType::SimpleConsumer.into() };
        // A lost one is made up for by the next; a broker that is gone shows in the poll.
        let _ = connection.messaging().heartbeat(request(message, REQUEST_TIMEOUT)).await;
    }
}

fn filter(args: &ReceiveArgs) -> v2::FilterExpression {
    let (kind, expression) = match &args.sql {
        Some(expression) => (v2::FilterType::Sql, expression),
        None => (v2::FilterType::Tag, &args.filter),
    };
    v2::FilterExpression { r#type: kind.into(), expression: expression.clone() }
}

fn poll_millis(args: &ReceiveArgs) -> i64 {
    if args.follow || args.count.is_some() { FOLLOW_POLL_MILLIS } else { POLL_MILLIS }
}

async fn receive(connection: &Connection, args: &ReceiveArgs, queues: &[v2::MessageQueue]) -> Result<u64, ClientError> {
    let mut received = 0;
    let mut last = Instant::now();
    // With several brokers no poll may wait for long, or the others' messages wait with it.
    let poll = if queues.len() == 1 { poll_millis(args) } else { POLL_MILLIS };
    loop {
        let mut empty = true;
        for queue in queues {
            let wanted = args.count.map_or(BATCH, |count| (count - received).min(BATCH));
            if wanted == 0 {
                return Ok(received);
            }
            let messages = poll_once(connection, args, queue, wanted, poll).await?;
            if messages.is_empty() {
                continue;
            }
            empty = false;
            last = Instant::now();
            received += messages.len() as u64;
            print(&messages, args.target.json)?;
            if !args.no_ack {
                acknowledge(connection, args, &messages).await?;
            }
        }
        if !empty {
            continue;
        }
        // A poll may come back empty before its time, when nothing that it looked at passed the filter or was readable:
        // there are no more only if nothing came for as long as a poll may wait.
        if !args.follow && last.elapsed().as_millis() as i64 >= poll - EARLY_MILLIS {
            return Ok(received);
        }
        tokio::time::sleep(EMPTY_PAUSE).await;
    }
}

async fn poll_once(
    connection: &Connection,
    args: &ReceiveArgs,
    queue: &v2::MessageQueue,
    wanted: u64,
    poll_millis: i64,
) -> Result<Vec<v2::Message>, ClientError> {
    let what = format!("receiving from topic {}", args.topic);
    let message = v2::ReceiveMessageRequest {
        group: Some(resource(&args.group)),
        message_queue: Some(queue.clone()),
        filter_expression: Some(filter(args)),
        batch_size: wanted as i32,
        invisible_duration: Some(proto_duration(args.invisible)),
        auto_renew: false,
        long_polling_timeout: Some(proto_duration(poll_millis)),
        attempt_id: None,
    };
    let deadline = REQUEST_TIMEOUT + Duration::from_millis(poll_millis.unsigned_abs());
    let answer = connection.messaging().receive_message(request(message, deadline)).await;
    let mut stream = answer.map_err(call_failed(&*what))?.into_inner();
    let mut messages = Vec::new();
    while let Some(frame) = stream.message().await.map_err(call_failed(&*what))? {
        match frame.content {
            Some(v2::receive_message_response::Content::Message(message)) => messages.push(message),
            Some(v2::receive_message_response::Content::Status(status)) => {
                let empty = status.code == v2::Code::MessageNotFound as i32;
                if !empty && status.code != v2::Code::Ok as i32 {
                    return Err(refused(&what, &status));
                }
            }
            Some(v2::receive_message_response::Content::DeliveryTimestamp(_)) | None => {}
        }
    }
    Ok(messages)
}

fn print(messages: &[v2::Message], as_json: bool) -> Result<(), ClientError> {
    let mut out = std::io::stdout().lock();
    for message in messages {
        let message = JsonMessage::of(message);
        if as_json {
            let line = serde_json::to_string(&message).map_err(std::io::Error::from)?;
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{}", message.line())?;
        }
    }
    // Acknowledged only when whoever reads this has it.
    out.flush()?;
    Ok(())
}

async fn acknowledge(connection: &Connection, args: &ReceiveArgs, messages: &[v2::Message]) -> Result<(), ClientError> {
    let what = "acknowledging";
    let entries = messages
        .iter()
        .filter_map(|message| message.system_properties.as_ref())
        .map(|system| v2::AckMessageEntry {
            message_id: system.message_id.clone(),
            receipt_handle: system.receipt_handle.clone().unwrap_or_default(),
            ..Default::default()
        })
        .collect();
    let message =
        v2::AckMessageRequest { group: Some(resource(&args.group)), topic: Some(resource(&args.topic)), entries };
    let answer = connection.messaging().ack_message(request(message, REQUEST_TIMEOUT)).await;
    let answer = answer.map_err(call_failed(what))?.into_inner();
    for entry in &answer.entries {
        let status = entry.status.clone().unwrap_or_default();
        if status.code != v2::Code::Ok as i32 {
            eprintln!("message {} comes again: {} ({})", entry.message_id, status.message, status.code);
        }
    }
    let status = answer.status.unwrap_or_default();
    let told = [v2::Code::Ok as i32, v2::Code::MultipleResults as i32].contains(&status.code);
    if told || !answer.entries.is_empty() { Ok(()) } else { Err(refused(what, &status)) }
}
