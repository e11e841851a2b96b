//! What this protocol's codes and calls are to `rocketmq_rpc_latency`.

use crate::proto::v2::Code;
pub(crate) use martlet_net::latency::{Latencies, Outcome, RpcLatency};

/// What an answer with this code is, if the client takes it: codes from 50000 on, and gRPC errors, are the broker's failures.
pub(crate) fn outcome_of(code: i32) -> Outcome {
    if code >= Code::InternalError as i32 { Outcome::Failed } else { Outcome::Success }
}

/// All series that have an observation.
pub(crate) fn figures(latencies: &Latencies) -> Vec<RpcLatency> {
    let name_of = |code| Code::try_from(code).map_or("OTHER", |code: Code| code.as_str_name());
    latencies.figures(name_of, |call| matches!(call, "ReceiveMessage" | "PullMessage"))
}
