//! What requests are answered, and the one table from refusals to codes.

use crate::body::Reply;
use crate::xml_in::XmlError;
use crate::xml_out;
use hyper::StatusCode;
use martlet_broker::Refusal;
use martlet_model::names::NameError;

/// The protocol's codes. Source: http.md section 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// Not an error: in figures only.
    Ok,
    AccessDenied,
    InvalidAccessKeyId,
    SignatureDoesNotMatch,
    InvalidAuthorizationHeader,
    MissingAuthorizationHeader,
    InvalidDateHeader,
    MissingDateHeader,
    TimeExpired,
    InvalidDigest,
    InvalidRequestUrl,
    InvalidQueryString,
    InvalidArgument,
    MalformedXml,
    MissingReceiptHandle,
    ReceiptHandleError,
    MessageNotExist,
    TopicNotExist,
    SubscriptionNotExist,
    QpsLimitExceeded,
    InternalServerError,
}

/// All codes, in the order of their numbers in figures.
const CODES: [(Code, &str, u16); 21] = [
    (Code::Ok, "OK", 200),
    (Code::AccessDenied, "AccessDenied", 403),
    (Code::InvalidAccessKeyId, "InvalidAccessKeyId", 403),
    (Code::SignatureDoesNotMatch, "SignatureDoesNotMatch", 403),
    (Code::InvalidAuthorizationHeader, "InvalidAuthorizationHeader", 400),
    (Code::MissingAuthorizationHeader, "MissingAuthorizationHeader", 400),
    (Code::InvalidDateHeader, "InvalidDateHeader", 400),
    (Code::MissingDateHeader, "MissingDateHeader", 400),
    (Code::TimeExpired, "TimeExpired", 408),
    (Code::InvalidDigest, "InvalidDigest", 400),
    (Code::InvalidRequestUrl, "InvalidRequestURL", 400),
    (Code::InvalidQueryString, "InvalidQueryString", 400),
    (Code::InvalidArgument, "InvalidArgument", 400),
    (Code::MalformedXml, "MalformedXML", 400),
    (Code::MissingReceiptHandle, "MissingReceiptHandle", 400),
    (Code::ReceiptHandleError, "ReceiptHandleError", 400),
    (Code::MessageNotExist, "MessageNotExist", 404),
    (Code::TopicNotExist, "TopicNotExist", 404),
    (Code::SubscriptionNotExist, "SubscriptionNotExist", 404),
    (Code::QpsLimitExceeded, "QpsLimitExceeded", 429),
    (Code::InternalServerError, "InternalServerError", 500),
];

impl Code {
    /// Its name on the wire and in figures.
    pub fn name(self) -> &'static str {
        CODES.iter().find(|(code, ..)| *code == self).map_or("InternalServerError", |(_, name, _)| name)
    }

    /// The status of a reply that is nothing but this code.
    pub fn status(self) -> StatusCode {
        let status =
            CODES.iter().find(|(code, ..)| *code == self).and_then(|(.., status)| StatusCode::from_u16(*status).ok());
        status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Its number in figures.
    pub fn number(self) -> i32 {
        CODES.iter().position(|(code, ..)| *code == self).and_then(|at| i32::try_from(at).ok()).unwrap_or(0)
    }

    /// The name for a number in figures.
    pub fn name_of(number: i32) -> &'static str {
        usize::try_from(number).ok().and_then(|at| CODES.get(at)).map_or("OTHER", |(_, name, _)| name)
    }
}

/// An answer that says yes, or yes in part.
#[derive(Debug)]
pub(crate) struct Answer {
    /// 200, 201, 204; 404 where some handles were refused.
    pub status: StatusCode,
    /// For figures.
    pub code: Code,
    /// The document; empty with 204.
    pub reply: Reply,
}

/// A request that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Denied {
    /// The code.
    pub code: Code,
    /// Names field, value and limit.
    pub message: String,
}

impl Denied {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A value that breaks a rule.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// Nothing to consume, the everyday answer to a poll.
    pub fn nothing() -> Self {
        Self::new(Code::MessageNotExist, "no message to consume")
    }

    /// The document that says so.
    pub fn document(&self, request_id: &str, host: &str) -> String {
        // Quotas are known by this word.
        let prefix = if self.code == Code::QpsLimitExceeded { "TooManyRequests: " } else { "" };
        xml_out::error(self.code.name(), &format!("{prefix}{}", self.message), request_id, host)
    }
}

impl From<NameError> for Denied {
    fn from(error: NameError) -> Self {
        Self::argument(error.to_string())
    }
}

impl From<XmlError> for Denied {
    fn from(error: XmlError) -> Self {
        let code = match error {
            XmlError::Malformed { .. } | XmlError::Refused { .. } => Code::MalformedXml,
            XmlError::Schema { .. } => Code::InvalidArgument,
        };
        Self::new(code, error.to_string())
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::new(code(&refusal), refusal.to_string())
    }
}

/// The code that a client is told for a refusal.
pub(crate) fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::TopicNotFound { .. } => Code::TopicNotExist,
        Refusal::GroupNotFound { .. } => Code::SubscriptionNotExist,
        Refusal::NotWritable { .. } | Refusal::NotReadable { .. } => Code::AccessDenied,
        Refusal::Busy { .. } | Refusal::StoreBehind { .. } => Code::QpsLimitExceeded,
        // The message is, or soon will be, another delivery's.
        Refusal::HandleLapsed { .. } | Refusal::HandleSuperseded | Refusal::TransactionGone { .. } => {
            Code::MessageNotExist
        }
        Refusal::HandleForged { .. }
        | Refusal::HandleForeign { .. }
        | Refusal::ProducerHandle { .. }
        | Refusal::TransactionId { .. }
        | Refusal::TransactionOver { .. } => Code::ReceiptHandleError,
        Refusal::DiskFull { .. }
        | Refusal::OutcomeUnknown
        | Refusal::ShardStopped { .. }
        | Refusal::ShuttingDown
        | Refusal::ReadFailed { .. }
        | Refusal::Catalog { .. } => Code::InternalServerError,
        _ => Code::InvalidArgument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_name_status_and_number() {
        for (number, (code, name, status)) in CODES.into_iter().enumerate() {
            assert_eq!((code.name(), code.status().as_u16(), code.number()), (name, status, number as i32));
            assert_eq!(Code::name_of(code.number()), name);
        }
        assert_eq!(Code::name_of(-1), "OTHER");
    }
}
