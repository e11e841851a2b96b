//! Failures of a call that gRPC itself reports: everything that is not an answer in the protocol's own `Status`.

use std::borrow::Cow;

/// The gRPC status codes that this server uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum GrpcCode {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

/// A call that ends without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrpcError {
    pub(crate) code: GrpcCode,
    pub(crate) message: Cow<'static, str>,
}

impl GrpcError {
    pub(crate) fn new(code: GrpcCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into() }
    }

    /// The message as the `grpc-message` header wants it: printable ASCII, everything else percent-encoded.
    pub(crate) fn encoded_message(&self) -> String {
        use std::fmt::Write;
        let mut text = String::with_capacity(self.message.len());
        for byte in self.message.bytes() {
            if (b' '..=b'~').contains(&byte) && byte != b'%' {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_a_header() {
        let error = GrpcError::new(GrpcCode::Internal, "50 % of größe\n");
        assert_eq!(error.encoded_message(), "50 %25 of gr%C3%B6%C3%9Fe%0A");
    }
}
