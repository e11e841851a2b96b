//! The one table from refusals to codes of the wire.

use crate::proto::v2::{Code, Status};
use martlet_broker::Refusal;
use martlet_model::names::NameError;

/// The code a client is told for a refusal.
///
/// Clients stop retrying a settlement only on OK and INVALID_RECEIPT_HANDLE, so every handle that will never work again
/// has that code, with a text of its own. Clients wait before the next try only on TOO_MANY_REQUESTS.
pub fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::Name(NameError::Topic { .. }) => Code::IllegalTopic,
        Refusal::Name(NameError::Group { .. }) | Refusal::NotLite { .. } => Code::IllegalConsumerGroup,
        Refusal::Name(NameError::LiteTopic { .. }) => Code::IllegalLiteTopic,
        Refusal::OtherLiteParent { .. } => Code::IllegalTopic,
        Refusal::LiteTopicsFull { .. } => Code::LiteTopicQuotaExceeded,
        Refusal::LiteSubscriptionsFull { .. } => Code::LiteSubscriptionQuotaExceeded,
        Refusal::Filter(_) => Code::IllegalFilterExpression,
        Refusal::TopicNotFound { .. } => Code::TopicNotFound,
        Refusal::GroupNotFound { .. } => Code::ConsumerGroupNotFound,
        Refusal::NotWritable { .. } | Refusal::NotReadable { .. } => Code::Forbidden,
        Refusal::MessageTypeConflict { .. } => Code::MessagePropertyConflictWithType,
        Refusal::HandleForged { .. }
        | Refusal::HandleForeign { .. }
        | Refusal::HandleLapsed { .. }
        | Refusal::HandleSuperseded => Code::InvalidReceiptHandle,
        Refusal::ProducerHandle { .. } | Refusal::UserNotFound { .. } | Refusal::PolicyNotFound { .. } => {
            Code::BadRequest
        }
        Refusal::NoAccessControl => Code::Forbidden,
        // The one of the codes for "there is none" that clients know for a message.
        Refusal::NotWaiting { .. } | Refusal::TransactionGone { .. } | Refusal::NotSentBack { .. } => {
            Code::MessageNotFound
        }
        Refusal::TransactionId { .. } => Code::InvalidTransactionId,
        Refusal::Busy { .. } | Refusal::DiskFull { .. } | Refusal::StoreBehind { .. } => Code::TooManyRequests,
        Refusal::OutcomeUnknown => Code::ProxyTimeout,
        Refusal::ShardStopped { .. } | Refusal::ShuttingDown => Code::HaNotAvailable,
        Refusal::ReadFailed { .. } | Refusal::Catalog { .. } => Code::InternalServerError,
        Refusal::Exists { .. } | Refusal::NotResent { .. } | Refusal::TransactionOver { .. } => {
            Code::PreconditionFailed
        }
        Refusal::LiteTopicNotFound { .. } => Code::NotFound,
        Refusal::OffsetOutOfRange { .. } => Code::IllegalOffset,
        Refusal::Setting { .. } => Code::BadRequest,
        Refusal::NotSupported { .. } => Code::NotImplemented,
        // The broker may learn to refuse in ways that this table does not know yet; the text still says why.
        _ => Code::InternalServerError,
    }
}

/// The status for a refusal.
pub fn status(refusal: &Refusal) -> Status {
    Status { code: code(refusal) as i32, message: refusal.to_string() }
}

/// The status of success.
pub fn ok() -> Status {
    Status { code: Code::Ok as i32, message: "OK".into() }
}

/// A request that is refused before the broker sees it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    /// The code.
    pub code: Code,
    /// Names field, value and limit.
    pub message: String,
}

impl Denied {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn not_supported(what: &str) -> Self {
        Self::new(Code::NotImplemented, format!("{what} is not supported yet"))
    }

    pub(crate) fn status(&self) -> Status {
        Status { code: self.code as i32, message: self.message.clone() }
    }
}

impl From<&Refusal> for Denied {
    fn from(refusal: &Refusal) -> Self {
        Self::new(code(refusal), refusal.to_string())
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::from(&refusal)
    }
}

impl From<NameError> for Denied {
    fn from(error: NameError) -> Self {
        Self::from(&Refusal::Name(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_model::{FilterError, MessageType, TopicType};
    use std::collections::BTreeSet;

    fn all() -> Vec<(Refusal, Code)> {
        let text = String::new;
        vec![
            (Refusal::Name(NameError::Topic { value: text(), rule: "" }), Code::IllegalTopic),
            (Refusal::Name(NameError::Group { value: text(), rule: "" }), Code::IllegalConsumerGroup),
            (Refusal::Name(NameError::LiteTopic { value: text(), rule: "" }), Code::IllegalLiteTopic),
            (Refusal::LiteTopicsFull { topic: text(), limit: 1 }, Code::LiteTopicQuotaExceeded),
            (Refusal::LiteSubscriptionsFull { wanted: 2, limit: 1 }, Code::LiteSubscriptionQuotaExceeded),
            (Refusal::NotLite { group: text() }, Code::IllegalConsumerGroup),
            (Refusal::LiteTopicNotFound { topic: text(), lite_topic: text() }, Code::NotFound),
            (Refusal::OtherLiteParent { group: text(), topic: text(), parent: text() }, Code::IllegalTopic),
            (Refusal::Filter(FilterError::TooLong { bytes: 1 }), Code::IllegalFilterExpression),
            (Refusal::TopicNotFound { topic: text() }, Code::TopicNotFound),
            (Refusal::GroupNotFound { group: text() }, Code::ConsumerGroupNotFound),
            (Refusal::NotWritable { topic: text() }, Code::Forbidden),
            (Refusal::NotReadable { topic: text() }, Code::Forbidden),
            (
                Refusal::MessageTypeConflict {
                    topic: text(),
                    accepts: TopicType::Fifo,
                    found: MessageType::Normal,
                    index: 0,
                },
                Code::MessagePropertyConflictWithType,
            ),
            (Refusal::HandleForged { reason: "forged".into() }, Code::InvalidReceiptHandle),
            (Refusal::HandleForeign { what: "topic", named: text() }, Code::InvalidReceiptHandle),
            (Refusal::HandleLapsed { ago_millis: 1 }, Code::InvalidReceiptHandle),
            (Refusal::HandleSuperseded, Code::InvalidReceiptHandle),
            (Refusal::ProducerHandle { reason: "handle".into() }, Code::BadRequest),
            (Refusal::NotWaiting { reason: text() }, Code::MessageNotFound),
            (Refusal::TransactionId { reason: "id".into() }, Code::InvalidTransactionId),
            (Refusal::TransactionOver { reason: text() }, Code::PreconditionFailed),
            (Refusal::TransactionGone { reason: text() }, Code::MessageNotFound),
            (Refusal::Busy { what: "polls", limit: 1 }, Code::TooManyRequests),
            (Refusal::DiskFull { free: 0, needed: 1 }, Code::TooManyRequests),
            (Refusal::StoreBehind { waited_millis: 2_000 }, Code::TooManyRequests),
            (Refusal::OutcomeUnknown, Code::ProxyTimeout),
            (Refusal::ShardStopped { shard: text(), reason: text() }, Code::HaNotAvailable),
            (Refusal::ShuttingDown, Code::HaNotAvailable),
            (Refusal::ReadFailed { reason: text() }, Code::InternalServerError),
            (Refusal::Exists { what: "topic", name: text() }, Code::PreconditionFailed),
            (Refusal::Setting { field: "queues", value: text(), rule: "is wrong" }, Code::BadRequest),
            (Refusal::OffsetOutOfRange { queue: 0, offset: 9, min: 1, max: 2 }, Code::IllegalOffset),
            (Refusal::NotResent { reason: text() }, Code::PreconditionFailed),
            (Refusal::NotSentBack { reason: "not sent back".into() }, Code::MessageNotFound),
            (Refusal::Catalog { reason: text() }, Code::InternalServerError),
            (Refusal::NotSupported { what: "this" }, Code::NotImplemented),
            (Refusal::UserNotFound { user: text() }, Code::BadRequest),
            (Refusal::PolicyNotFound { user: text(), about: None }, Code::BadRequest),
            (Refusal::NoAccessControl, Code::Forbidden),
        ]
    }

    #[test]
    fn every_refusal_has_its_code_and_a_text_of_its_own() {
        let mut texts = BTreeSet::new();
        for (refusal, expected) in all() {
            let status = status(&refusal);
            assert_eq!(status.code, expected as i32, "{refusal:?}");
            assert!(texts.insert(status.message.clone()), "{refusal:?} has the text of another refusal");
        }
        // Refusals are told apart by the names of their variants; a new one fails here until the list above has it.
        let source = include_str!("../../broker/src/refusal.rs");
        let body = source.split_once("pub enum Refusal {").unwrap().1;
        let variants: BTreeSet<&str> = body
            .lines()
            .filter_map(|line| line.strip_prefix("    ").filter(|rest| rest.starts_with(char::is_uppercase)))
            .map(|rest| rest.split(|c: char| !c.is_alphanumeric()).next().unwrap())
            .collect();
        let all = all().into_iter().map(|(refusal, _)| format!("{refusal:?}")).collect::<Vec<_>>();
        let listed: BTreeSet<&str> =
            all.iter().map(|text| text.split(|c: char| !c.is_alphanumeric()).next().unwrap()).collect();
        assert_eq!(variants, listed);
    }
}
