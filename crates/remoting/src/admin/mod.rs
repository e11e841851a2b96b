//! What `mqadmin` and dashboards ask: topics, groups, the broker, messages.
//!
//! - `topics`, `groups`: made, changed, deleted, described. `overview`: the broker's figures. `settings`: its settings.
//! - `stats`, `rates`: what went in and out, how far groups are. `lite`: lite topics.
//! - `access`: users and what they may do.
//! - `look`: messages by id, key and place, and places by time. `forward`: questions that a consumer answers. `kv`: KV configs.

mod access;
mod forward;
mod groups;
mod kv;
mod lite;
mod look;
mod overview;
mod rates;
mod settings;
mod stats;
mod topics;

pub(crate) use rates::Rates;

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

/// What one request creates or changes, at most.
const LISTED_MAX: usize = 1_000;

/// What is to be created or changed.
fn listed<'a>(said: &'a Json, field: &str) -> Result<&'a [Json], Denied> {
    let items = said.items(field);
    match items.len() {
        0 => Err(invalid(format!("field {field} is missing or empty"))),
        count if count > LISTED_MAX => Err(invalid(format!("{field} has {count} entries, the limit is {LISTED_MAX}"))),
        _ => Ok(items),
    }
}
