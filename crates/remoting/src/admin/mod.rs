//! What `mqadmin` and dashboards ask: topics, groups, the broker, messages.
//!
//! - `topics`, `groups`: made, changed, deleted, described. `overview`: the broker's figures and settings.
//! - `look`: messages by id, key and place, and places by time. `forward`: questions that a consumer answers. `kv`: KV configs.

mod forward;
mod groups;
mod kv;
mod look;
mod overview;
mod topics;

use crate::answer::Denied;
use crate::codec::code::response;
use crate::codec::json::Json;

/// A queue as a key or value of JSON.
pub(crate) fn queue_json(topic: &str, broker: &str, queue: u32) -> Json {
    Json::object([("brokerName", broker.into()), ("queueId", queue.into()), ("topic", topic.into())])
}

/// Versions of lists: they are told whole each time.
fn data_version() -> Json {
    Json::object([("counter", 1.into()), ("stateVersion", 0.into()), ("timestamp", 0.into())])
}

fn invalid(remark: impl Into<String>) -> Denied {
    Denied::new(response::INVALID_PARAMETER, remark)
}
