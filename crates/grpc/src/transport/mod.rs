//! gRPC over HTTP/2: connections, message frames, answers, deadlines, byte budgets. Knows no RPC.

pub(crate) mod connection;
pub(crate) mod error;
pub(crate) mod frames;
pub(crate) mod reply;
pub mod timeout;

pub(crate) use error::{GrpcCode, GrpcError};
