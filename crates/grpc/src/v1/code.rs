//! The codes of v1: those of gRPC itself, in the status that each answer has in its `common`.
//!
//! Source: grpc-v1.md section 2.7.

use crate::code::Denied;
use crate::proto::google::rpc;
use crate::proto::rocketmq_v1::ResponseCommon;
use crate::proto::v2::Code;

/// The ones that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum RpcCode {
    Ok = 0,
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl RpcCode {
    const ALL: [Self; 13] = [
        Self::Ok,
        Self::Cancelled,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::Unauthenticated,
    ];

    /// The code with this number.
    pub(crate) fn of(number: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as i32 == number)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Cancelled => "CANCELLED",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::OutOfRange => "OUT_OF_RANGE",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// Whether the broker has failed, rather than refused.
    pub(crate) fn is_failure(self) -> bool {
        matches!(self, Self::DeadlineExceeded | Self::Unimplemented | Self::Internal | Self::Unavailable)
    }
}

/// What a code of v2 is in v1. Clients try anything but OK again or log it; they wait before they do.
pub(crate) fn rpc_code(code: Code) -> RpcCode {
    match code {
        Code::Ok | Code::MultipleResults => RpcCode::Ok,
        Code::NotFound
        | Code::MessageNotFound
        | Code::TopicNotFound
        | Code::ConsumerGroupNotFound
        | Code::OffsetNotFound => RpcCode::NotFound,
        Code::Forbidden => RpcCode::PermissionDenied,
        Code::Unauthorized => RpcCode::Unauthenticated,
        Code::TooManyRequests => RpcCode::ResourceExhausted,
        Code::PreconditionFailed | Code::MessagePropertyConflictWithType => RpcCode::FailedPrecondition,
        Code::IllegalOffset => RpcCode::OutOfRange,
        Code::NotImplemented => RpcCode::Unimplemented,
        Code::HaNotAvailable => RpcCode::Unavailable,
        Code::ProxyTimeout => RpcCode::DeadlineExceeded,
        other if (other as i32) < Code::InternalError as i32 => RpcCode::InvalidArgument,
        _ => RpcCode::Internal,
    }
}

/// Success.
pub(crate) fn ok() -> Option<ResponseCommon> {
    said("OK")
}

/// Success, with something to say.
pub(crate) fn said(message: &str) -> Option<ResponseCommon> {
    common(RpcCode::Ok, message.to_owned())
}

/// A refusal.
pub(crate) fn denied(denied: Denied) -> Option<ResponseCommon> {
    common(rpc_code(denied.code), denied.message)
}

fn common(code: RpcCode, message: String) -> Option<ResponseCommon> {
    let status = rpc::Status { code: code as i32, message, details: Vec::new() };
    Some(ResponseCommon { status: Some(status), ..ResponseCommon::default() })
}

/// The code of an answer.
pub(crate) fn of(common: Option<&ResponseCommon>) -> i32 {
    common.and_then(|common| common.status.as_ref()).map_or(RpcCode::Ok as i32, |status| status.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_what_clients_tell_apart() {
        for (code, expected) in [
            (Code::Ok, RpcCode::Ok),
            (Code::TopicNotFound, RpcCode::NotFound),
            (Code::Unauthorized, RpcCode::Unauthenticated),
            (Code::TooManyRequests, RpcCode::ResourceExhausted),
            (Code::IllegalTopic, RpcCode::InvalidArgument),
            (Code::IllegalOffset, RpcCode::OutOfRange),
            (Code::HaNotAvailable, RpcCode::Unavailable),
            (Code::InternalServerError, RpcCode::Internal),
        ] {
            assert_eq!(rpc_code(code), expected, "{code:?}");
        }
        assert!(RpcCode::ALL.iter().all(|code| RpcCode::of(*code as i32) == Some(*code)));
        assert_eq!(RpcCode::of(99), None);
    }
}
