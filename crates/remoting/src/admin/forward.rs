//! What tools ask of one consumer: the broker passes it on over the consumer's connection, and the answer back. Of a consumer of another
//! protocol it tells what it knows, and asks it what can be asked there.

use super::groups::subscription_json;
use crate::access::is_credential;
use crate::answer::{Answer, Denied};
use crate::codec::code::{request, response};
use crate::codec::fields::{FieldList, Fields};
use crate::codec::header::Header;
use crate::codec::json::Json;
use crate::codec::shown;
use crate::codec::{ids, version};
use crate::front::Front;
use crate::link::Link;
use bytes::{Bytes, BytesMut};
use martlet_broker::{FoundMessage, Inquiry, InquiryReply, MemberInfo, MemberKind, NoReply, Refusal};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a consumer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest answer that is passed on, in bytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Clients know such requests from this version on: 3.1.8-SNAPSHOT.
const VERSION_MIN: i32 = 62;

/// A consumer that tools name.
enum Consumer {
    Tcp(Arc<Link>),
    /// Of another protocol.
    Elsewhere(MemberInfo),
}

impl Front {
    /// How a consumer of a group is: its queues, subscriptions and figures.
    pub(crate) async fn consumer_running_info(&self, header: &Header, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let link = match self.consumer_to_ask(fields).await? {
            Consumer::Tcp(link) => link,
            Consumer::Elsewhere(member) => return self.info_of(&member, fields.flag("jstackEnable")).await,
        };
        self.ask_consumer(&link, request::GET_CONSUMER_RUNNING_INFO, fields, header.fields.clone(), Bytes::new()).await
    }

    /// Has a consumer of a group consume one message, past all queues: nobody's progress moves.
    pub(crate) async fn consume_directly(&self, header: &Header, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let consumer = self.consumer_to_ask(fields).await?;
        let id = fields.text("msgId")?;
        let Some((_, at)) = ids::read_offset_id(id) else {
            let remark = format!("msgId {} is not an id with a store's address and place", shown(id));
            return Err(Denied::new(response::INVALID_PARAMETER, remark));
        };
        let found = self.broker.message_at(at).await?;
        let Some(message) = found.filter(|message| !self.is_of_other_topic(fields, &message.topic)) else {
            return Err(Denied::new(response::SYSTEM_ERROR, format!("no message has the id {id}")));
        };
        let link = match consumer {
            Consumer::Tcp(link) => link,
            Consumer::Elsewhere(member) => return self.consume_elsewhere(&member, message).await,
        };
        let mut body = BytesMut::new();
        self.show(&link, &mut body, &message).await?;
        // Consumers answer by the topic's and the group's flags, of which this broker has none.
        let told = [("brokerName", self.broker.broker_name()), ("topicSysFlag", "0"), ("groupSysFlag", "0")];
        let given = header.fields.iter().filter(|(name, _)| !told.iter().any(|(known, _)| name == known));
        let given = given.chain(told).collect();
        self.ask_consumer(&link, request::CONSUME_MESSAGE_DIRECTLY, fields, given, body.freeze()).await
    }

    /// What is known of a consumer that is handed its messages: it has no queues of its own. What its threads are doing it is asked,
    /// if that is wanted and it can be asked.
    async fn info_of(&self, member: &MemberInfo, with_stack: bool) -> Result<Answer, Denied> {
        let reply = match with_stack.then(|| self.broker.inquire(&member.client_id, Inquiry::StackTrace)).flatten() {
            Some(reply) => Some(reply.await.map_err(no_reply)?),
            None => None,
        };
        let stack = reply.and_then(|reply| match reply {
            InquiryReply::StackTrace(stack) => Some(stack),
            InquiryReply::Consumed(_) => None,
        });
        let active = if member.kind == MemberKind::Simple { "CONSUME_ACTIVELY" } else { "CONSUME_PASSIVELY" };
        let properties = Json::object([
            ("PROP_CLIENT_VERSION", member.version.as_str().into()),
            ("PROP_CONSUME_TYPE", active.into()),
            // Tools want a number; these clients tell none.
            ("PROP_CONSUMER_START_TIMESTAMP", "0".into()),
        ]);
        let subscriptions = member.subscriptions.iter();
        let subscriptions = subscriptions.map(|each| subscription_json(&each.topic, &each.filter, each.version));
        Ok(Answer::json(&Json::object([
            ("jstack", stack.map_or(Json::Null, |stack| stack.as_str().into())),
            ("mqPopTable", Json::Object(Vec::new())),
            ("mqTable", Json::Object(Vec::new())),
            ("properties", properties),
            ("statusTable", Json::Object(Vec::new())),
            ("subscriptionSet", Json::List(subscriptions.collect())),
            ("userConsumerInfo", Json::Object(Vec::new())),
        ])))
    }

    async fn consume_elsewhere(&self, member: &MemberInfo, message: FoundMessage) -> Result<Answer, Denied> {
        let began = Instant::now();
        let client = &member.client_id;
        let Some(reply) = self.broker.inquire(client, Inquiry::Consume(Arc::new(message))) else {
            let remark = format!("consumer {} has no stream to be asked on", shown(client));
            return Err(Denied::new(response::SYSTEM_ERROR, remark));
        };
        let (result, remark) = match reply.await.map_err(no_reply)? {
            InquiryReply::Consumed(Err(reason)) => ("CR_LATER", Json::from(reason.as_str())),
            InquiryReply::Consumed(Ok(())) | InquiryReply::StackTrace(_) => ("CR_SUCCESS", Json::Null),
        };
        Ok(Answer::json(&Json::object([
            ("autoCommit", true.into()),
            ("consumeResult", result.into()),
            ("order", false.into()),
            ("remark", remark),
            ("spentTimeMills", i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX).into()),
        ])))
    }

    /// The consumer that is named.
    async fn consumer_to_ask(&self, fields: &Fields<'_>) -> Result<Consumer, Denied> {
        let (group, client) = (fields.text("consumerGroup")?, fields.text("clientId")?);
        let failed = |what: &str| {
            let remark = format!("consumer {} of group {} {what}", shown(client), shown(group));
            Denied::new(response::SYSTEM_ERROR, remark)
        };
        if let Some(link) = self.consumer(group, client) {
            return match self.producers.version(link.number, client) {
                Some(ordinal) if ordinal < VERSION_MIN => {
                    Err(failed(&format!("has version {}, which cannot be asked", version::name(ordinal))))
                }
                _ => Ok(Consumer::Tcp(link)),
            };
        }
        let members = match self.broker.group_status(group).await {
            Ok(status) => status.members,
            Err(Refusal::GroupNotFound { .. }) => Vec::new(),
            Err(refusal) => return Err(refusal.into()),
        };
        let is_it = |member: &MemberInfo| &*member.client_id == client && member.kind != MemberKind::QueueBased;
        members.into_iter().find(is_it).map(Consumer::Elsewhere).ok_or_else(|| failed("is not connected"))
    }

    /// Asks a consumer, and gives back its own answer.
    async fn ask_consumer(
        &self,
        link: &Link,
        code: i32,
        fields: &Fields<'_>,
        given: FieldList,
        body: Bytes,
    ) -> Result<Answer, Denied> {
        let (group, client) = (shown(fields.text("consumerGroup")?), shown(fields.text("clientId")?));
        let given = given.iter().filter(|(name, _)| !is_credential(name)).collect();
        let Some(answer) = link.ask(code, given, body, PATIENCE).await else {
            return Err(match self.link(link.number) {
                None => Denied::new(response::SYSTEM_ERROR, format!("consumer {client} of group {group} has gone")),
                Some(_) => {
                    let limit = PATIENCE.as_secs();
                    let remark = format!("consumer {client} of group {group} did not answer within {limit} s");
                    Denied::new(response::CONSUME_MSG_TIMEOUT, remark)
                }
            });
        };
        let bytes = answer.body.len();
        if bytes > ANSWER_BYTES_MAX {
            let remark = format!("the answer of consumer {client} has {bytes} bytes, the limit is {ANSWER_BYTES_MAX}");
            return Err(Denied::new(response::SYSTEM_ERROR, remark));
        }
        let (code, remark) = (answer.header.code, answer.header.remark);
        Ok(Answer { code, remark, body: answer.body, ..Answer::default() })
    }
}

/// The protocol's word for a question without an answer.
fn no_reply(none: NoReply) -> Denied {
    let code = match none {
        NoReply::Late { .. } => response::CONSUME_MSG_TIMEOUT,
        NoReply::Gone { .. } | NoReply::Impossible { .. } => response::SYSTEM_ERROR,
    };
    Denied::new(code, none.to_string())
}
