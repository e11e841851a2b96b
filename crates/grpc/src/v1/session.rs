//! Heartbeats, good-byes, and the poll by which clients are asked something.
//!
//! Source: grpc-v1.md sections 4, 5 and 8.

use super::commands::{Listening, Waiting};
use super::{DIALECT, V1, check_client_id, code, hold_millis};
use crate::call::Call;
use crate::code::Denied;
use crate::latency::Package;
use crate::message_in::cut;
use crate::message_out::{Frames, not_handed_out};
use crate::proto::rocketmq_v1::{self as wire, ConsumeModel, heartbeat_request, poll_command_response};
use crate::proto::v2::Code;
use crate::resource::{bare_name, group_name, topic_name};
use crate::service::Front;
use crate::transport::frames::framed;
use crate::transport::{GrpcCode, GrpcError, reply};
use bytes::Bytes;
use h2::server::SendResponse;
use martlet_broker::{
    ClientInfo, ClientRole, ConsumeFrom, FoundMessage, GroupSettings, MEMBER_SUBSCRIPTIONS_MAX, MemberSubscription,
    MessageModel, QueueMember,
};
use martlet_model::group::DeliveryOrder;
use martlet_model::limits;
use prost::Message;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

impl V1<'_> {
    pub(super) async fn heartbeat(
        self,
        call: &Call,
        request: wire::HeartbeatRequest,
    ) -> Result<wire::HeartbeatResponse, Denied> {
        check_client_id(&request.client_id)?;
        let client_id: Arc<str> = request.client_id.into();
        if self.commands.has_ended(&client_id) {
            // It was on its way when the client said good-bye.
            return Ok(wire::HeartbeatResponse { common: code::ok() });
        }
        match request.client_data {
            Some(heartbeat_request::ClientData::ProducerData(data)) => {
                let group = group_name(data.group.as_ref())?;
                let namespace = data.group.map(|group| group.resource_namespace).unwrap_or_default();
                self.commands.producer_seen(&client_id, group, namespace)?;
                if !self.broker.heartbeat(&client_id) {
                    let role = ClientRole::Producer { topics: Vec::new() };
                    self.broker.client_seen(info(call, client_id, role))?;
                }
            }
            Some(heartbeat_request::ClientData::ConsumerData(data)) => {
                self.consumer_seen(call, client_id, data, request.fifo_flag).await?;
            }
            None => {
                let text = "neither producer_data nor consumer_data is set";
                return Err(Denied::new(Code::UnrecognizedClientType, text));
            }
        }
        Ok(wire::HeartbeatResponse { common: code::ok() })
    }

    async fn consumer_seen(
        self,
        call: &Call,
        client_id: Arc<str>,
        data: wire::ConsumerData,
        in_order: bool,
    ) -> Result<(), Denied> {
        let group = group_name(data.group.as_ref())?;
        let count = data.subscriptions.len();
        if count > MEMBER_SUBSCRIPTIONS_MAX {
            let text = format!("subscriptions has {count} entries, the limit is {MEMBER_SUBSCRIPTIONS_MAX}");
            return Err(Denied::new(Code::BadRequest, text));
        }
        let model = data.consume_model();
        let mut subscriptions = Vec::with_capacity(count);
        for entry in data.subscriptions {
            let topic = topic_name(entry.topic.as_ref())?;
            subscriptions.push((topic, super::consumer::filter(entry.expression.as_ref())?));
        }
        // What the group is made with, if this is its first member.
        let settings = GroupSettings {
            order: in_order.then_some(DeliveryOrder::Fifo),
            max_attempts: data
                .dead_letter_policy
                .and_then(|policy| u32::try_from(policy.max_delivery_attempts).ok())
                .filter(|attempts| (1..=limits::GROUP_ATTEMPTS_MAX).contains(attempts)),
            ..GroupSettings::default()
        };
        self.broker.group_or(&group, &settings).await?;
        match model {
            ConsumeModel::Clustering => {
                let role = ClientRole::Consumer { group: group.clone(), push: true, subscriptions };
                self.broker.client_seen(info(call, client_id, role))?;
            }
            // It pulls, and keeps its own place.
            ConsumeModel::Broadcasting => {
                let ClientInfo { client_id, language, version, remote, .. } =
                    info(call, client_id, ClientRole::Producer { topics: Vec::new() });
                let subscription = |(topic, filter)| MemberSubscription { topic, filter: Arc::new(filter), version: 0 };
                let member = QueueMember {
                    client_id,
                    connection: None,
                    group,
                    model: MessageModel::Broadcasting,
                    from: ConsumeFrom::Last,
                    subscriptions: subscriptions.into_iter().map(subscription).collect(),
                    language,
                    version,
                    remote,
                };
                self.broker.register_member(member).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn notify_client_termination(
        self,
        _call: &Call,
        request: wire::NotifyClientTerminationRequest,
    ) -> Result<wire::NotifyClientTerminationResponse, Denied> {
        use wire::notify_client_termination_request::Group;
        check_client_id(&request.client_id)?;
        self.commands.gone(&request.client_id.as_str().into())?;
        // Its listeners may still be at work.
        self.broker.client_leaves(&request.client_id);
        if let Some(Group::ConsumerGroup(group)) = request.group {
            self.broker.unregister_member(&group_name(Some(&group))?, &request.client_id);
        }
        Ok(wire::NotifyClientTerminationResponse { common: code::ok() })
    }

    pub(super) async fn report_thread_stack_trace(
        self,
        _call: &Call,
        request: wire::ReportThreadStackTraceRequest,
    ) -> Result<wire::ReportThreadStackTraceResponse, Denied> {
        Err(never_asked(&request.command_id))
    }

    pub(super) async fn report_message_consumption_result(
        self,
        _call: &Call,
        request: wire::ReportMessageConsumptionResultRequest,
    ) -> Result<wire::ReportMessageConsumptionResultResponse, Denied> {
        Err(never_asked(&request.command_id))
    }

    /// Waits until there is something to ask the client; after 20 s it is told that there is nothing.
    pub(super) async fn poll_command(
        self,
        call: &Call,
        request: wire::PollCommandRequest,
        respond: &mut SendResponse<Bytes>,
    ) {
        let hold = Duration::from_millis(hold_millis(None, call.remaining()).unsigned_abs());
        let polled = tokio::select! {
            biased;
            waiting = self.next_command(call, &request, hold) => waiting,
            _ = poll_fn(|cx| respond.poll_reset(cx)) => return self.stats.cancelled(call, Package::V1),
            () = self.shutdown() => {
                return reply::fail(respond, &GrpcError::new(GrpcCode::Unavailable, "the broker is shutting down"));
            }
        };
        let (command, listening, _share) = match polled {
            Ok((waiting, listening)) => match waiting {
                Some(Waiting { command, share }) => (command, listening, Some(share)),
                None => (poll_command_response::Type::NoopCommand(wire::NoopCommand {}), listening, None),
            },
            // The one answer that has no place for a status.
            Err(denied) => {
                self.broker.count_refusal(denied.code.as_str_name());
                let code = match denied.code {
                    Code::TooManyRequests => GrpcCode::ResourceExhausted,
                    Code::Unauthorized => GrpcCode::PermissionDenied,
                    _ => GrpcCode::InvalidArgument,
                };
                return reply::fail(respond, &GrpcError::new(code, denied.message));
            }
        };
        let answer = wire::PollCommandResponse { r#type: Some(command) };
        let frame = framed(answer.encoded_len(), |frame| {
            // A buffer that grows takes everything.
            let _ = answer.encode(frame);
        });
        let written = reply::answer(respond, [frame], &self.outbound).await.is_ok();
        if written {
            listening.answered();
        }
        self.stats.answered(call, Package::V1, code::RpcCode::Ok as i32, written);
    }

    async fn next_command(
        &self,
        call: &Call,
        request: &wire::PollCommandRequest,
        hold: Duration,
    ) -> Result<(Option<Waiting>, Listening<'_>), Denied> {
        self.check_access(call, request)?;
        let client_id = request.client_id.as_str();
        check_client_id(client_id)?;
        let poll = self.polls.begin(client_id)?;
        self.broker.heartbeat(client_id);
        let listening = self.commands.listen(&poll.client_id)?;
        let waiting = tokio::select! {
            biased;
            waiting = listening.queue.next() => Some(waiting),
            () = listening.queue.ended() => None,
            () = tokio::time::sleep(hold) => None,
        };
        Ok((waiting, listening))
    }
}

impl Front {
    /// Asks a producer of this group how a transaction ended, the next time it polls. `false`: there is none.
    pub(crate) fn check_v1(
        &self,
        group: &str,
        message: &FoundMessage,
        transaction_id: &str,
        store_host: &str,
    ) -> Result<bool, Denied> {
        let Some(taker) = self.commands.taker(group) else { return Ok(false) };
        let namespace = taker.namespace.as_str();
        let Some(share) = self.commands.share(message.record.len()) else { return Ok(false) };
        let command = {
            let name = bare_name(namespace, &message.topic).to_owned();
            let topic = wire::Resource { resource_namespace: namespace.to_owned(), name };
            let mut frames = Frames::of(&DIALECT, topic.encode_to_vec(), 256);
            frames.message(&not_handed_out(message), store_host).map_err(|error| {
                Denied::new(Code::InternalServerError, format!("a half message cannot be read: {error}"))
            })?;
            let frame = frames.finish().concat();
            let decoded = wire::ReceiveMessageResponse::decode(&frame[..]);
            let orphan = decoded.map_err(|error| Denied::new(Code::InternalServerError, error.to_string()))?;
            let command = wire::RecoverOrphanedTransactionCommand {
                orphaned_transactional_message: orphan.messages.into_iter().next(),
                transaction_id: transaction_id.to_owned(),
            };
            poll_command_response::Type::RecoverOrphanedTransactionCommand(command)
        };
        taker.queue.push(Waiting { command, share });
        Ok(true)
    }
}

fn info(call: &Call, client_id: Arc<str>, role: ClientRole) -> ClientInfo {
    ClientInfo {
        client_id,
        language: cut(call.header("x-mq-language")),
        version: cut(call.header("x-mq-client-version")),
        remote: call.peer.remote.to_string(),
        role,
    }
}

fn never_asked(command_id: &str) -> Denied {
    let text = format!("command_id {:?} is not of a command that this broker has sent", cut(command_id));
    Denied::new(Code::PreconditionFailed, text)
}
