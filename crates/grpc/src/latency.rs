//! What this protocol's codes and calls are to `rocketmq_rpc_latency`.

use crate::proto::v2::Code;
use crate::v1::RpcCode;
pub(crate) use martlet_net::latency::{Latencies, Outcome, RpcLatency};

/// Whose codes an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Package {
    /// `apache.rocketmq.v1`: those of gRPC.
    V1,
    /// `apache.rocketmq.v2`, its own; the admin services have the same.
    V2,
}

impl Package {
    /// The code of a call that its client gave up.
    pub(crate) fn cancelled(self) -> i32 {
        match self {
            Self::V1 => RpcCode::Cancelled as i32,
            Self::V2 => Code::Unspecified as i32,
        }
    }
}

/// What an answer with this code is, if the client takes it: of v2's, codes from 50000 on are the broker's failures.
pub(crate) fn outcome_of(package: Package, code: i32) -> Outcome {
    let failed = match package {
        Package::V1 => RpcCode::of(code).is_some_and(RpcCode::is_failure),
        Package::V2 => code >= Code::InternalError as i32,
    };
    if failed { Outcome::Failed } else { Outcome::Success }
}

/// All series that have an observation.
pub(crate) fn figures(package: Package, latencies: &Latencies) -> Vec<RpcLatency> {
    let name_of = |code| match package {
        Package::V1 => RpcCode::of(code).map(RpcCode::name),
        Package::V2 => Code::try_from(code).ok().map(|code| code.as_str_name()),
    };
    let waits = |call: &str| matches!(call, "ReceiveMessage" | "PullMessage" | "PollCommand");
    latencies.figures(|code| name_of(code).unwrap_or("OTHER"), waits)
}
