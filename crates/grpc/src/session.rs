//! Sessions: Telemetry streams, heartbeats, good-byes.

use crate::access::needs_of_role;
use crate::call::Call;
use crate::code::{self, Denied};
use crate::lite;
use crate::proto::v2::{self, ClientType, Code, TelemetryCommand, settings::PubSub, telemetry_command::Command};
use crate::resource::group_name;
use crate::service::Front;
use crate::sessions::{COMMANDS_WAITING_MAX, WaitingCommand};
use crate::settings;
use crate::time;
use crate::transport::frames::{FrameReader, framed};
use crate::transport::reply::{OpenAnswer, Undelivered};
use crate::transport::{GrpcCode, GrpcError};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use martlet_broker::{ClientInfo, ClientRole, Refusal};
use prost::Message;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Largest command that a client sends: settings, stack traces.
const COMMAND_BYTES_MAX: usize = 4 << 20;

/// How a Telemetry stream ends.
enum End {
    /// Both sides are done.
    Finished,
    /// With a gRPC error.
    Failed(GrpcError),
    /// The client is gone.
    Gone,
}

impl From<Undelivered> for End {
    fn from(_: Undelivered) -> Self {
        Self::Gone
    }
}

impl Front {
    /// A session's stream. The headers of the answer go out at once, because some clients wait for them before they send
    /// anything.
    pub(crate) async fn telemetry(&self, call: &Call, body: RecvStream, respond: &mut SendResponse<Bytes>) {
        let Ok(mut answer) = OpenAnswer::start(respond, self.outbound.clone()) else { return };
        let client_id: Arc<str> = match call.client_id() {
            Ok(id) => id.into(),
            Err(denied) => {
                let command = TelemetryCommand { status: Some(denied.status()), command: None };
                if send(&mut answer, &command).await.is_ok() {
                    answer.finish();
                }
                return;
            }
        };
        let number = self.sessions.stream_number();
        let end = self.converse(call, body, &mut answer, &client_id, number).await;
        self.sessions.stream_ended(&client_id, number);
        match end {
            End::Finished => answer.finish(),
            End::Failed(error) => answer.fail(&error),
            End::Gone => {}
        }
    }

    async fn converse(
        &self,
        call: &Call,
        body: RecvStream,
        answer: &mut OpenAnswer,
        client_id: &Arc<str>,
        number: u64,
    ) -> End {
        let (sender, mut commands) = mpsc::channel::<WaitingCommand>(COMMANDS_WAITING_MAX);
        let mut reader = FrameReader::new(body, self.inbound.clone(), COMMAND_BYTES_MAX);
        loop {
            let frame = tokio::select! {
                frame = reader.next() => match frame {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return End::Finished,
                    Err(error) => return End::Failed(error),
                },
                Some(waiting) = commands.recv() => match send(answer, &waiting.command).await {
                    Ok(()) => continue,
                    Err(gone) => return gone.into(),
                },
                () = answer.abandoned() => return End::Gone,
                () = self.shutdown() => {
                    return End::Failed(GrpcError::new(GrpcCode::Unavailable, "the broker is shutting down"));
                }
            };
            let command = match TelemetryCommand::decode(frame.message.clone()) {
                Ok(command) => command,
                Err(error) => {
                    let text = format!("the command cannot be read: {error}");
                    return End::Failed(GrpcError::new(GrpcCode::InvalidArgument, text));
                }
            };
            let Some(Command::Settings(settings)) = command.command else {
                self.inquiries.answered(client_id, command);
                continue;
            };
            match self.settle(call, client_id, settings, (number, sender.clone())).await {
                Ok(command) => match send(answer, &command).await {
                    Ok(()) => {}
                    Err(gone) => return gone.into(),
                },
                Err(denied) if matches!(denied.code, Code::TooManyRequests | Code::Unauthorized) => {
                    self.broker.count_refusal(denied.code.as_str_name());
                    let command = TelemetryCommand { status: Some(denied.status()), command: None };
                    return send(answer, &command).await.map_or_else(End::from, |()| End::Finished);
                }
                Err(denied) => {
                    let text = format!("{}: {}", denied.code.as_str_name(), denied.message);
                    return End::Failed(GrpcError::new(GrpcCode::InvalidArgument, text));
                }
            }
        }
    }

    /// Takes a client's settings in and gives back what both sides go by.
    async fn settle(
        &self,
        call: &Call,
        client_id: &Arc<str>,
        settings: v2::Settings,
        stream: (u64, mpsc::Sender<WaitingCommand>),
    ) -> Result<TelemetryCommand, Denied> {
        let role = settings::role(&settings);
        self.check_needs(call, || role.as_ref().map(needs_of_role).map_err(Clone::clone))?;
        let role = role?;
        let is_lite = settings::is_lite(settings.client_type());
        let group = match &role {
            // One of lite topics is never made by a consumer's arrival: its parent must be known.
            ClientRole::Consumer { group, .. } if is_lite => self.broker.known_group(group),
            ClientRole::Consumer { group, .. } => match self.broker.group(group).await {
                Ok(group) => Some(group),
                // Answered as if it were new, so that the client starts; its polls say what is missing.
                Err(Refusal::GroupNotFound { .. }) => None,
                Err(refusal) => return Err(refusal.into()),
            },
            ClientRole::Producer { .. } => None,
        };
        if let (Some(group), ClientRole::Consumer { subscriptions, .. }) = (&group, &role) {
            lite::check_client(is_lite, group, subscriptions.iter().map(|(topic, _)| topic.as_str()))?;
        }
        let info = settings::client_info(
            client_id,
            call.header("x-mq-language"),
            call.header("x-mq-client-version"),
            call.peer.remote.to_string(),
            &settings,
            role,
        );
        let request_timeout = settings
            .request_timeout
            .as_ref()
            .and_then(time::millis)
            .map(|millis| Duration::from_millis(millis.unsigned_abs()));
        let namespace = settings::published_namespace(&settings).to_owned();
        self.sessions.settle(client_id, request_timeout, namespace, stream, Instant::now())?;
        self.broker.client_seen(info)?;
        let merged = settings::merge(settings, group.as_deref());
        let mut status = code::ok();
        // The one place where the protocol lets a client be told: it is served all the same.
        if let Some(group) = &group
            && let Some(disagreement) = self.broker.disagreement(&group.name)
        {
            status.message = format!("OK; {disagreement}");
        }
        Ok(TelemetryCommand { status: Some(status), command: Some(Command::Settings(merged)) })
    }

    /// A client that the broker does not know any more, after a restart say, is learnt again from what its heartbeat
    /// says: it will not send its settings for minutes.
    pub(crate) async fn heartbeat(
        &self,
        call: &Call,
        request: v2::HeartbeatRequest,
    ) -> Result<v2::HeartbeatResponse, Denied> {
        let client_id = call.client_id()?;
        self.sessions.seen(client_id, Instant::now());
        if !self.broker.heartbeat(client_id) {
            let role = learnt_role(&request)?;
            let version = call.header("x-mq-client-version");
            self.broker.client_seen(ClientInfo {
                client_id: client_id.into(),
                language: crate::message_in::cut(call.header("x-mq-language")),
                version: crate::message_in::cut(version),
                remote: call.peer.remote.to_string(),
                role,
            })?;
        }
        Ok(v2::HeartbeatResponse { status: Some(code::ok()) })
    }

    pub(crate) async fn notify_client_termination(
        &self,
        call: &Call,
        _request: v2::NotifyClientTerminationRequest,
    ) -> Result<v2::NotifyClientTerminationResponse, Denied> {
        let client_id = call.client_id()?;
        let had_session = self.sessions.gone(client_id);
        let known = self.broker.heartbeat(client_id);
        self.broker.client_gone(client_id);
        if !had_session && !known {
            let text = format!("client {client_id} is not known");
            return Err(Denied::new(Code::UnrecognizedClientType, text));
        }
        Ok(v2::NotifyClientTerminationResponse { status: Some(code::ok()) })
    }
}

/// What a heartbeat alone tells of a client.
fn learnt_role(request: &v2::HeartbeatRequest) -> Result<ClientRole, Denied> {
    let unrecognized = |text: String| Err(Denied::new(Code::UnrecognizedClientType, text));
    match ClientType::try_from(request.client_type) {
        Ok(ClientType::Producer) => Ok(ClientRole::Producer { topics: Vec::new() }),
        Ok(ClientType::Unspecified) => {
            unrecognized("client_type is not set, and there are no settings of this client".into())
        }
        Ok(consumer) => {
            let (group, push) = (group_name(request.group.as_ref())?, settings::is_push(consumer));
            Ok(ClientRole::Consumer { group, push, subscriptions: Vec::new() })
        }
        Err(_) => unrecognized(format!("client_type {} is not known", request.client_type)),
    }
}

async fn send(answer: &mut OpenAnswer, command: &TelemetryCommand) -> Result<(), Undelivered> {
    answer
        .send(framed(command.encoded_len(), |frame| {
            // A buffer that grows takes everything.
            let _ = command.encode(frame);
        }))
        .await
}

/// What arbitrary bytes do to the reading of settings; for fuzzing.
pub(crate) fn read_settings(bytes: &[u8]) {
    if let Ok(TelemetryCommand { command: Some(Command::Settings(settings)), .. }) = TelemetryCommand::decode(bytes)
        && settings::role(&settings).is_ok()
    {
        let merged = settings::merge(settings, None);
        let complete = match &merged.pub_sub {
            Some(PubSub::Publishing(publishing)) => publishing.max_body_size > 0,
            Some(PubSub::Subscription(subscription)) => subscription.receive_batch_size.is_some_and(|size| size > 0),
            None => false,
        };
        assert!(complete && merged.backoff_policy.is_some_and(|policy| policy.strategy.is_some()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_tells_enough_to_learn_a_client_again() {
        let heartbeat = |kind: i32, group: &str| v2::HeartbeatRequest {
            group: Some(v2::Resource { resource_namespace: String::new(), name: group.into() }),
            client_type: kind,
        };
        let producer = ClientRole::Producer { topics: vec![] };
        assert_eq!(learnt_role(&heartbeat(ClientType::Producer as i32, "")).unwrap(), producer);
        let consumer = ClientRole::Consumer { group: "billing".into(), push: true, subscriptions: vec![] };
        assert_eq!(learnt_role(&heartbeat(ClientType::PushConsumer as i32, "billing")).unwrap(), consumer);
        let code = |kind, group| learnt_role(&heartbeat(kind, group)).unwrap_err().code;
        assert_eq!(code(0, "billing"), Code::UnrecognizedClientType);
        assert_eq!(code(99, "billing"), Code::UnrecognizedClientType);
        assert_eq!(code(ClientType::SimpleConsumer as i32, ""), Code::IllegalConsumerGroup);
    }
}
