//! Questions to clients on their Telemetry streams: stack traces, and messages to be consumed on trial. Their answers come as commands
//! with the question's nonce.
//!
//! Source: grpc.md sections 3 and 5.

use crate::call::Call;
use crate::code::{self, Denied};
use crate::inspect::shown;
use crate::proto::v2::{self, Code, TelemetryCommand, telemetry_command::Command};
use crate::resource::{full_name, group_name};
use crate::service::Front;
use crate::sessions::lock;
use martlet_broker::{FindRequest, Inquiry, InquiryReply, NoReply, PendingReply, Wanted};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Questions under way at a time.
const INQUIRIES_MAX: usize = 1_024;

/// Questions under way, by their nonce.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inquiries(Arc<Open>);

#[derive(Debug, Default)]
struct Open {
    next: AtomicU64,
    asked: Mutex<HashMap<String, (String, oneshot::Sender<TelemetryCommand>)>>,
}

/// A question, until it is dropped.
struct Asked {
    inquiries: Inquiries,
    nonce: String,
    answer: oneshot::Receiver<TelemetryCommand>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        lock(&self.inquiries.0.asked).remove(&self.nonce);
    }
}

impl Inquiries {
    /// A new question to a client. `None`: too many are under way.
    fn begin(&self, client_id: &str) -> Option<Asked> {
        let nonce = self.0.next.fetch_add(1, Ordering::Relaxed).to_string();
        let (sender, answer) = oneshot::channel();
        let mut asked = lock(&self.0.asked);
        if asked.len() >= INQUIRIES_MAX {
            return None;
        }
        asked.insert(nonce.clone(), (client_id.to_owned(), sender));
        drop(asked);
        Some(Asked { inquiries: self.clone(), nonce, answer })
    }

    /// A client's answer, if it was asked.
    pub(crate) fn answered(&self, client_id: &str, answer: TelemetryCommand) {
        let nonce = match &answer.command {
            Some(Command::ThreadStackTrace(trace)) => &trace.nonce,
            Some(Command::VerifyMessageResult(result)) => &result.nonce,
            _ => return tracing::debug!(client = %client_id, "a command of a client is ignored"),
        };
        let mut asked = lock(&self.0.asked);
        if asked.get(nonce).is_none_or(|(client, _)| client != client_id) {
            return tracing::debug!(client = %client_id, "an answer to no question is ignored");
        }
        if let Some((_, sender)) = asked.remove(nonce) {
            // Whoever asked may have given up.
            let _ = sender.send(answer);
        }
    }
}

impl Front {
    /// Asks a client that has a stream.
    pub(crate) fn inquire(&self, client_id: &str, inquiry: Inquiry, store_host: &str) -> Option<PendingReply> {
        if !self.sessions.has_stream(client_id) {
            return None;
        }
        let asked = self.put(client_id, inquiry, store_host);
        let client = client_id.to_owned();
        Some(Box::pin(async move {
            let mut asked = asked?;
            match tokio::time::timeout(PATIENCE, &mut asked.answer).await {
                Ok(Ok(answer)) => read(client, answer),
                Ok(Err(_)) => Err(NoReply::Gone { client }),
                Err(_) => Err(NoReply::Late { client, limit_secs: PATIENCE.as_secs() }),
            }
        }))
    }

    fn put(&self, client_id: &str, inquiry: Inquiry, store_host: &str) -> Result<Asked, NoReply> {
        let client = || client_id.to_owned();
        let impossible = |reason: String| NoReply::Impossible { client: client(), reason };
        let too_many = || impossible(format!("questions under way are at their limit of {INQUIRIES_MAX}"));
        let asked = self.inquiries.begin(client_id).ok_or_else(too_many)?;
        let nonce = asked.nonce.clone();
        let (command, bytes) = match inquiry {
            Inquiry::StackTrace => {
                (Command::PrintThreadStackTraceCommand(v2::PrintThreadStackTraceCommand { nonce }), 0)
            }
            Inquiry::Consume(message) => {
                let bytes = message.record.len();
                let message = shown(&message, store_host).map_err(|denied| impossible(denied.to_string()))?;
                (Command::VerifyMessageCommand(v2::VerifyMessageCommand { nonce, message: Some(message) }), bytes)
            }
        };
        let command = TelemetryCommand { status: None, command: Some(command) };
        match self.sessions.command_with(client_id, command, bytes) {
            true => Ok(asked),
            false => Err(NoReply::Gone { client: client() }),
        }
    }

    pub(crate) async fn print_thread_stack_trace(
        &self,
        call: &Call,
        request: v2::PrintThreadStackTraceRequest,
    ) -> Result<v2::PrintThreadStackTraceResponse, Denied> {
        let asked = self.ask_member(call, request.group, &request.client_id, Inquiry::StackTrace).await?;
        let thread_stack_trace = match asked {
            InquiryReply::StackTrace(trace) => Some(trace),
            InquiryReply::Consumed(_) => None,
        };
        Ok(v2::PrintThreadStackTraceResponse { status: Some(code::ok()), thread_stack_trace })
    }

    pub(crate) async fn verify_message(
        &self,
        call: &Call,
        request: v2::VerifyMessageRequest,
    ) -> Result<v2::VerifyMessageResponse, Denied> {
        let topic = full_name("topic", request.topic)?;
        let wanted = FindRequest {
            topic: Some(topic.clone()),
            wanted: Wanted::Id(request.message_id.clone()),
            since: None,
            until: None,
            limit: 1,
            after: None,
        };
        let found = self.broker.find(wanted).await?.messages.pop().ok_or_else(|| {
            let text = format!("no message of topic {topic} has the id {}", request.message_id);
            Denied::new(Code::MessageNotFound, text)
        })?;
        let inquiry = Inquiry::Consume(Arc::new(found));
        match self.ask_member(call, request.group, &request.client_id, inquiry).await? {
            InquiryReply::Consumed(Err(reason)) => Err(Denied::new(Code::FailedToConsumeMessage, reason)),
            InquiryReply::Consumed(Ok(())) | InquiryReply::StackTrace(_) => {
                Ok(v2::VerifyMessageResponse { status: Some(code::ok()) })
            }
        }
    }

    async fn ask_member(
        &self,
        call: &Call,
        group: Option<v2::Resource>,
        client_id: &str,
        inquiry: Inquiry,
    ) -> Result<InquiryReply, Denied> {
        let group = group_name(group)?;
        let members = self.broker.group_status(&group).await?.members;
        if members.iter().all(|member| &*member.client_id != client_id) {
            return Err(Denied::new(Code::BadRequest, format!("client {client_id} is no member of group {group}")));
        }
        let store_host = call.peer.local.to_string();
        let Some(reply) = self.inquire(client_id, inquiry, &store_host) else {
            let text = format!("client {client_id} of group {group} has no Telemetry stream to be asked on");
            return Err(Denied::new(Code::BadRequest, text));
        };
        reply.await.map_err(|none| {
            let code = match none {
                NoReply::Late { .. } => Code::ProxyTimeout,
                NoReply::Gone { .. } | NoReply::Impossible { .. } => Code::InternalError,
            };
            Denied::new(code, none.to_string())
        })
    }
}

/// What a client's answer says.
fn read(client: String, answer: TelemetryCommand) -> Result<InquiryReply, NoReply> {
    let status = answer.status.unwrap_or_default();
    let failed = !matches!(Code::try_from(status.code), Ok(Code::Ok | Code::Unspecified));
    let code = Code::try_from(status.code).map_or_else(|_| status.code.to_string(), |code| code.as_str_name().into());
    let said = format!("{code}: {}", status.message);
    match answer.command {
        Some(Command::ThreadStackTrace(trace)) if !failed => {
            Ok(InquiryReply::StackTrace(trace.thread_stack_trace.unwrap_or_default()))
        }
        Some(Command::VerifyMessageResult(_)) if status.code == Code::FailedToConsumeMessage as i32 => {
            Ok(InquiryReply::Consumed(Err(said)))
        }
        Some(Command::VerifyMessageResult(_)) if !failed => Ok(InquiryReply::Consumed(Ok(()))),
        _ => Err(NoReply::Impossible { client, reason: said }),
    }
}
