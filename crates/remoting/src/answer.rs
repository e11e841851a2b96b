//! What requests are answered, and the one table from refusals to codes.

use crate::codec::DecodeError;
use crate::codec::code::response;
use crate::codec::fields::{FieldError, FieldList};
use crate::codec::frame::FRAME_BYTES_MAX;
use crate::codec::json::Json;
use bytes::Bytes;
use martlet_broker::{HandedOut, Refusal, ReplyBudget};
use martlet_model::names::NameError;
use std::fmt::Display;

/// Longest body of an answer, in bytes: with its header it is a frame that all clients take.
const BODY_BYTES_MAX: usize = FRAME_BYTES_MAX - 64 * 1024;

/// An answer to a request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// One of [`response`].
    pub code: i32,
    /// For people.
    pub remark: Option<String>,
    /// Fields by name.
    pub fields: FieldList,
    /// The body.
    pub body: Bytes,
    /// What messages in it take of the broker's bytes; kept until they are written.
    pub budget: Option<ReplyBudget>,
    /// What in it is taken back if it is not written.
    pub handed_out: Option<HandedOut>,
}

impl Answer {
    /// Done, and nothing to say.
    pub fn done() -> Self {
        Self::default()
    }

    /// Done, with a body in JSON.
    pub fn json(body: &Json) -> Self {
        Self { body: Bytes::from(body.to_string()), ..Self::default() }
    }

    /// The same, unless its body is longer than clients take.
    pub fn fitting(self) -> Result<Self, Denied> {
        match self.body.len() {
            bytes if bytes > BODY_BYTES_MAX => {
                let remark = format!("the answer has {bytes} bytes, the limit is {BODY_BYTES_MAX}");
                Err(Denied::new(response::SYSTEM_ERROR, remark))
            }
            _ => Ok(self),
        }
    }

    /// Adds a field.
    pub fn with(mut self, name: &str, value: impl Display) -> Self {
        self.fields.push_shown(name, value);
        self
    }
}

/// A request that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{remark}")]
pub(crate) struct Denied {
    /// One of [`response`].
    pub code: i32,
    /// Names field, value and limit.
    pub remark: String,
}

impl Denied {
    pub fn new(code: i32, remark: impl Into<String>) -> Self {
        Self { code, remark: remark.into() }
    }

    /// A message that breaks a rule.
    pub fn illegal(remark: impl Into<String>) -> Self {
        Self::new(response::MESSAGE_ILLEGAL, remark)
    }

    /// The reason's name in metrics.
    pub fn reason(&self) -> &'static str {
        response::name(self.code)
    }
}

impl From<Denied> for Answer {
    fn from(denied: Denied) -> Self {
        Self { code: denied.code, remark: Some(denied.remark), ..Self::default() }
    }
}

impl From<FieldError> for Denied {
    fn from(error: FieldError) -> Self {
        Self::new(response::INVALID_PARAMETER, error.to_string())
    }
}

impl From<DecodeError> for Denied {
    fn from(error: DecodeError) -> Self {
        Self::new(response::INVALID_PARAMETER, error.to_string())
    }
}

impl From<NameError> for Denied {
    fn from(error: NameError) -> Self {
        Self::new(response::INVALID_PARAMETER, error.to_string())
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::new(code(&refusal), refusal.to_string())
    }
}

/// The code that a client is told for a refusal. Producers try another queue or broker on 1, 2, 14, 16 and 17, and give up
/// on all others, so what will fail again has one of those.
fn code(refusal: &Refusal) -> i32 {
    match refusal {
        Refusal::UserNotFound { .. } => response::USER_NOT_EXIST,
        Refusal::PolicyNotFound { .. } => response::POLICY_NOT_EXIST,
        Refusal::TopicNotFound { .. } | Refusal::LiteTopicNotFound { .. } => response::TOPIC_NOT_EXIST,
        Refusal::GroupNotFound { .. } => response::SUBSCRIPTION_GROUP_NOT_EXIST,
        Refusal::NotWritable { .. } | Refusal::NotReadable { .. } | Refusal::NoAccessControl => response::NO_PERMISSION,
        Refusal::MessageTypeConflict { .. } => response::MESSAGE_ILLEGAL,
        Refusal::Filter(_) => response::SUBSCRIPTION_PARSE_FAILED,
        Refusal::Busy { .. } | Refusal::StoreBehind { .. } => response::SYSTEM_BUSY,
        Refusal::DiskFull { .. } | Refusal::ShardStopped { .. } | Refusal::ShuttingDown => {
            response::SERVICE_NOT_AVAILABLE
        }
        Refusal::ProducerHandle { .. } | Refusal::NotWaiting { .. } | Refusal::NotSentBack { .. } => {
            response::ILLEGAL_OPERATION
        }
        Refusal::Name(_) | Refusal::Setting { .. } | Refusal::OffsetOutOfRange { .. } | Refusal::Exists { .. } => {
            response::INVALID_PARAMETER
        }
        Refusal::NotSupported { .. } => response::REQUEST_CODE_NOT_SUPPORTED,
        _ => response::SYSTEM_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_no_client_takes_is_refused_with_its_size() {
        let of = |bytes| Answer { body: Bytes::from(vec![0; bytes]), ..Answer::done() }.fitting();
        assert!(of(BODY_BYTES_MAX).is_ok());
        let remark = "the answer has 16711681 bytes, the limit is 16711680";
        assert_eq!(of(BODY_BYTES_MAX + 1).unwrap_err(), Denied::new(response::SYSTEM_ERROR, remark));
    }
}
