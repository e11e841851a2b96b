//! Who makes a call, and whether it may: signatures, and what each request needs.
//!
//! Source: grpc.md section 4, grpc-v1.md section 3.

use crate::call::Call;
use crate::code::Denied;
use crate::proto::rocketmq_v1 as wire;
use crate::proto::v2::Code;
use crate::proto::{v1 as admin, v2};
use crate::resource::{Parts, group_name, topic_name};
use crate::service::Front;
use martlet_broker::ClientRole;
use martlet_broker::auth::Action::{Pub, Sub};
use martlet_broker::auth::{Access, AccessError, Action, Caller, Need, Resource, ResourceKind};

/// Header with access key and signature.
const AUTHORIZATION: &str = "authorization";
/// Header whose text is what is signed, whatever it says: clients write it in several forms and time zones.
const DATE_TIME: &str = "x-mq-date-time";

impl From<AccessError> for Denied {
    fn from(error: AccessError) -> Self {
        Self::new(Code::Unauthorized, error.to_string())
    }
}

/// What a request needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// To be signed.
    Signature,
    /// To be signed by a super user.
    SuperUser,
    /// To be signed by a user that may do all of this.
    All(Vec<Wanted>),
}

/// One of some actions on a resource.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    kind: ResourceKind,
    name: String,
    actions: &'static [Action],
}

fn topic(name: Option<impl Into<Parts>>, actions: &'static [Action]) -> Result<Wanted, Denied> {
    Ok(Wanted { kind: ResourceKind::Topic, name: topic_name(name)?, actions })
}

fn group(name: Option<impl Into<Parts>>) -> Result<Wanted, Denied> {
    Ok(Wanted { kind: ResourceKind::Group, name: group_name(name)?, actions: &[Sub] })
}

fn publishing(name: Option<impl Into<Parts>>) -> Result<Needs, Denied> {
    Ok(Needs::All(vec![topic(name, &[Pub])?]))
}

fn consuming(of: Option<impl Into<Parts>>, from: Option<impl Into<Parts>>) -> Result<Needs, Denied> {
    Ok(Needs::All(vec![group(of)?, topic(from, &[Sub])?]))
}

/// What a client that says this of itself needs.
pub(crate) fn needs_of_role(role: &ClientRole) -> Needs {
    let of_topic = |name: &String, actions| Wanted { kind: ResourceKind::Topic, name: name.clone(), actions };
    match role {
        ClientRole::Producer { topics } => Needs::All(topics.iter().map(|name| of_topic(name, &[Pub])).collect()),
        ClientRole::Consumer { group, subscriptions, .. } => {
            let own = Wanted { kind: ResourceKind::Group, name: group.clone(), actions: &[Sub] };
            let topics = subscriptions.iter().map(|(name, _)| of_topic(name, &[Sub]));
            Needs::All([own].into_iter().chain(topics).collect())
        }
    }
}

/// A request that says what it needs. Every request of every service does.
pub(crate) trait Guarded {
    /// What it needs; names that break a rule are refused as the call itself would.
    fn needs(&self) -> Result<Needs, Denied>;
}

/// Requests that need what an expression says.
macro_rules! guarded {
    ($($package:ident::$request:ident: $own:ident => $needs:expr;)+) => {
        $(impl Guarded for $package::$request {
            fn needs(&self) -> Result<Needs, Denied> {
                let $own = self;
                $needs
            }
        })+
    };
}

/// Requests that only super users make.
macro_rules! for_super_users {
    ($package:ident: $($request:ident),+ $(,)?) => {
        guarded! { $($package::$request: _own => Ok(Needs::SuperUser);)+ }
    };
}

guarded! {
    v2::QueryRouteRequest: own => Ok(Needs::All(vec![topic(own.topic.as_ref(), &[Pub, Sub])?]));
    v2::SendMessageRequest: own => publishing(own.messages.first().and_then(|message| message.topic.as_ref()));
    v2::EndTransactionRequest: own => publishing(own.topic.as_ref());
    v2::RecallMessageRequest: own => publishing(own.topic.as_ref());
    v2::QueryAssignmentRequest: own => consuming(own.group.as_ref(), own.topic.as_ref());
    v2::ReceiveMessageRequest: own => consuming(own.group.as_ref(), queue_topic(own.message_queue.as_ref()));
    v2::PullMessageRequest: own => consuming(own.group.as_ref(), queue_topic(own.message_queue.as_ref()));
    v2::UpdateOffsetRequest: own => consuming(own.group.as_ref(), queue_topic(own.message_queue.as_ref()));
    v2::GetOffsetRequest: own => consuming(own.group.as_ref(), queue_topic(own.message_queue.as_ref()));
    v2::QueryOffsetRequest: own => Ok(Needs::All(vec![topic(queue_topic(own.message_queue.as_ref()), &[Sub])?]));
    v2::AckMessageRequest: own => consuming(own.group.as_ref(), own.topic.as_ref());
    v2::ChangeInvisibleDurationRequest: own => consuming(own.group.as_ref(), own.topic.as_ref());
    v2::ForwardMessageToDeadLetterQueueRequest: own => consuming(own.group.as_ref(), own.topic.as_ref());
    v2::SyncLiteSubscriptionRequest: own => consuming(own.group.as_ref(), own.topic.as_ref());
    // Those of producers have no group, or one that is nothing to consume with.
    v2::HeartbeatRequest: own => match own.client_type() {
        v2::ClientType::Producer | v2::ClientType::Unspecified => Ok(Needs::Signature),
        _ => Ok(Needs::All(vec![group(own.group.as_ref())?])),
    };
    v2::NotifyClientTerminationRequest: own => match own.group.as_ref().filter(|group| !group.name.is_empty()) {
        Some(name) => Ok(Needs::All(vec![group(Some(name))?])),
        None => Ok(Needs::Signature),
    };
    wire::QueryRouteRequest: own => Ok(Needs::All(vec![topic(own.topic.as_ref(), &[Pub, Sub])?]));
    wire::SendMessageRequest: own => publishing(own.message.as_ref().and_then(|message| message.topic.as_ref()));
    wire::QueryAssignmentRequest: own => consuming(own.group.as_ref(), own.topic.as_ref());
    wire::ReceiveMessageRequest: own => consuming(own.group.as_ref(), partition_topic(own.partition.as_ref()));
    wire::PullMessageRequest: own => consuming(own.group.as_ref(), partition_topic(own.partition.as_ref()));
    wire::QueryOffsetRequest: own => Ok(Needs::All(vec![topic(partition_topic(own.partition.as_ref()), &[Sub])?]));
    wire::AckMessageRequest: own => consuming(own.group.as_ref(), own.topic.as_ref());
    wire::NackMessageRequest: own => consuming(own.group.as_ref(), own.topic.as_ref());
    wire::ForwardMessageToDeadLetterQueueRequest: own => consuming(own.group.as_ref(), own.topic.as_ref());
    wire::HeartbeatRequest: own => match &own.client_data {
        Some(wire::heartbeat_request::ClientData::ConsumerData(data)) => {
            let topics = data.subscriptions.iter().map(|entry| topic(entry.topic.as_ref(), &[Sub]));
            Ok(Needs::All([group(data.group.as_ref())].into_iter().chain(topics).collect::<Result<_, _>>()?))
        }
        _ => Ok(Needs::Signature),
    };
    wire::PollCommandRequest: own => match &own.group {
        Some(wire::poll_command_request::Group::ConsumerGroup(name)) => Ok(Needs::All(vec![group(Some(name))?])),
        // What is asked of producers is theirs by their group, which is no resource.
        _ => Ok(Needs::Signature),
    };
    wire::NotifyClientTerminationRequest: own => match &own.group {
        Some(wire::notify_client_termination_request::Group::ConsumerGroup(name)) => {
            Ok(Needs::All(vec![group(Some(name))?]))
        }
        _ => Ok(Needs::Signature),
    };
    // It names a half message by its id alone, which its producer knows.
    wire::EndTransactionRequest: _own => Ok(Needs::Signature);
    wire::HealthCheckRequest: _own => Ok(Needs::Signature);
    wire::ReportThreadStackTraceRequest: _own => Ok(Needs::Signature);
    wire::ReportMessageConsumptionResultRequest: _own => Ok(Needs::Signature);
}

for_super_users! {
    v2:
    DescribeTopicStatusRequest,
    ListSubscriptionRequest,
    DescribeSubscriptionRequest,
    DescribeGroupAccumulationRequest,
    ListConsumerConnectionRequest,
    GetTopicRouteRequest,
    GetProxyRuntimeStatsRequest,
    ChangeLogLevelRequest,
    DeleteSubscriptionRequest,
    ResetGroupOffsetRequest,
    ListMessageRequest,
    PrintThreadStackTraceRequest,
    VerifyMessageRequest,
    AdminSendMessageRequest,
    GetConsumerRunningInfoRequest,
    QueryTimeSpanRequest,
}

for_super_users! {
    admin:
    CreateTopicRequest,
    UpdateTopicRequest,
    DeleteTopicRequest,
    DescribeTopicRequest,
    ListTopicsRequest,
    CreateGroupRequest,
    UpdateGroupRequest,
    DeleteGroupRequest,
    DescribeGroupRequest,
    ListGroupsRequest,
    ListLiteTopicsRequest,
    DescribeLiteTopicRequest,
    FindMessagesRequest,
    PeekMessagesRequest,
    ListDeadLettersRequest,
    ResendDeadLettersRequest,
    ResetOffsetRequest,
    ListTransactionsRequest,
    ResolveTransactionRequest,
}

fn queue_topic(queue: Option<&v2::MessageQueue>) -> Option<&v2::Resource> {
    queue.and_then(|queue| queue.topic.as_ref())
}

fn partition_topic(partition: Option<&wire::Partition>) -> Option<&wire::Resource> {
    partition.and_then(|partition| partition.topic.as_ref())
}

impl Front {
    /// Refuses a call that is not signed, or whose user may not make this request. Costs nothing while access control is off.
    pub(crate) fn check_access(&self, call: &Call, request: &impl Guarded) -> Result<(), Denied> {
        self.check_needs(call, || request.needs())
    }

    /// The same for what a request turned out to need.
    pub(crate) fn check_needs(&self, call: &Call, needs: impl FnOnce() -> Result<Needs, Denied>) -> Result<(), Denied> {
        let Some(access) = self.broker.access() else { return Ok(()) };
        let caller = caller(access.get(), call.header(AUTHORIZATION), call.header(DATE_TIME))?;
        if caller.is_super() {
            return Ok(());
        }
        match needs()? {
            Needs::Signature => {}
            Needs::SuperUser => caller.permit_super("the admin service")?,
            Needs::All(wanted) => {
                for Wanted { kind, name, actions } in &wanted {
                    let need = Need { resource: Resource { kind: *kind, name }, actions };
                    caller.permit(&need, call.peer.remote.ip())?;
                }
            }
        }
        Ok(())
    }
}

/// Who has signed a call: `MQv2-HMAC-SHA1 Credential=ACCESS-KEY[/REGION/SERVICE], SignedHeaders=x-mq-date-time, Signature=HEX`.
fn caller<'a>(access: Access<'a>, authorization: &'a str, date_time: &str) -> Result<Caller<'a>, AccessError> {
    let missing = "header authorization";
    if authorization.is_empty() {
        return Err(AccessError::Anonymous { missing });
    }
    let wrong = |field, rule| Err(AccessError::Unreadable { field, rule });
    let Some((_, said)) = authorization.split_once(' ') else {
        return wrong(missing, "is not a scheme, a space and what the scheme says");
    };
    if date_time.is_empty() {
        return wrong("header x-mq-date-time", "is missing, and it is what is signed");
    }
    let (mut name, mut signature) = ("", "");
    for part in said.split(',') {
        match part.trim().split_once('=') {
            Some(("Credential", credential)) => name = credential.split('/').next().unwrap_or(""),
            Some(("Signature", hex)) => signature = hex,
            Some(_) => {}
            None => return wrong(missing, "has a part without ="),
        }
    }
    let Some(signature) = from_hex(signature) else {
        return wrong(missing, "has a signature that is not in hexadecimal digits");
    };
    access.authenticate(name, "Credential in header authorization", [date_time.as_bytes()], &signature)
}

/// The bytes of pairs of hexadecimal digits in either case.
fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_broker::auth::{Accounts, Secret};
    use std::collections::BTreeMap;
    use std::fmt::Write;

    fn said(authorization: &str, date_time: &str) -> Result<String, String> {
        let (accounts, users, policies) = (Accounts::parse("ak secret").unwrap(), BTreeMap::new(), BTreeMap::new());
        let access = Access { accounts: &accounts, users: &users, policies: &policies, authorization: false };
        caller(access, authorization, date_time)
            .map(|caller| caller.name().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn all_forms_of_clients_are_read() {
        // What is signed is the text, whatever it says.
        for date in ["20260102T030405Z", "2026-01-02T03:04:05.123+08:00", "?"] {
            let lower = Secret::new("secret").sign([date.as_bytes()]).iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            });
            let of = |credential: &str, signature: &str| {
                format!("MQv2-HMAC-SHA1 Credential={credential}, SignedHeaders=x-mq-date-time, Signature={signature}")
            };
            for (credential, signature) in [
                ("ak", lower.to_uppercase()),
                ("ak", lower.clone()),
                ("ak//Rocketmq", lower.clone()),
                ("ak/cn-hangzhou/RocketMQ", lower.to_uppercase()),
            ] {
                assert_eq!(said(&of(credential, &signature), date), Ok("ak".to_owned()), "{credential} {date}");
            }
            for (wrong, text) in [
                (of("ak", &lower[1..]), "hexadecimal"),
                (of("ak", &lower[2..]), "another one"),
                (of("ak", "zz"), "hexadecimal"),
                (of("ak", ""), "another one"),
                (of("", &lower), "Credential in header authorization is missing or empty"),
                (of("other", &lower), "is not known"),
                ("MQv2-HMAC-SHA1".to_owned(), "a space"),
                ("MQv2-HMAC-SHA1 Credential".to_owned(), "without ="),
                (String::new(), "header authorization is missing"),
            ] {
                let refused = said(&wrong, date).unwrap_err();
                assert!(refused.contains(text), "{wrong}: {refused}");
            }
            assert!(said(&of("ak", &lower), "").unwrap_err().contains("x-mq-date-time is missing"));
            assert!(said(&of("ak", &lower), "other").is_err());
        }
    }
}
