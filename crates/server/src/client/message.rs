//! Messages as JSON lines: what `receive --json` prints, `send -` reads.
//!
//! | field | meaning |
//! | --- | --- |
//! | `body` | text; `body_base64` instead where it is not UTF-8 or is compressed |
//! | `tag`, `keys`, `properties`, `message_group`, `lite_topic`, `priority` | as sent |
//! | `body_encoding` | `gzip` if the body is compressed |
//! | `topic`, `message_id`, `queue`, `offset`, `attempt`, `born_millis`, `store_millis` | facts of a delivery; ignored when sent again |

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use martlet_grpc::proto::v2;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JsonMessage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_encoding: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lite_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub born_millis: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_millis: Option<i64>,
}

/// What is to be sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    pub body: Bytes,
    pub compressed: bool,
    pub tag: Option<String>,
    pub keys: Vec<String>,
    pub properties: BTreeMap<String, String>,
    pub message_group: Option<String>,
    pub lite_topic: Option<String>,
    pub priority: Option<i32>,
}

/// A body as text, or else as base64.
pub fn body_of(body: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(body) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(body))),
    }
}

impl JsonMessage {
    /// Reads one line. The error says what is wrong with it, without the line's number.
    pub fn parse(line: &str) -> Result<Draft, String> {
        let message: Self = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let body = match (message.body, message.body_base64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(text)) => Bytes::from(STANDARD.decode(text).map_err(|error| format!("body_base64: {error}"))?),
            (None, None) => return Err("there is neither body nor body_base64".into()),
            (Some(_), Some(_)) => return Err("there are both body and body_base64".into()),
        };
        let compressed = match message.body_encoding.as_deref() {
            None | Some("identity") => false,
            Some("gzip") => true,
            Some(other) => return Err(format!("body_encoding {other:?} is neither \"identity\" nor \"gzip\"")),
        };
        Ok(Draft {
            body,
            compressed,
            tag: message.tag,
            keys: message.keys,
            properties: message.properties,
            message_group: message.message_group,
            lite_topic: message.lite_topic,
            priority: message.priority,
        })
    }

    /// A delivered message.
    pub fn of(message: &v2::Message) -> Self {
        let system = message.system_properties.clone().unwrap_or_default();
        let compressed = system.body_encoding == v2::Encoding::Gzip as i32;
        let (body, body_base64) =
            if compressed { (None, Some(STANDARD.encode(&message.body))) } else { body_of(&message.body) };
        let millis = |time: &prost_types::Timestamp| time.seconds * 1_000 + i64::from(time.nanos / 1_000_000);
        Self {
            topic: message.topic.as_ref().map(|topic| topic.name.clone()),
            body,
            body_base64,
            body_encoding: compressed.then(|| "gzip".to_owned()),
            tag: system.tag,
            keys: system.keys,
            properties: message.user_properties.clone(),
            message_group: system.message_group,
            lite_topic: system.lite_topic,
            priority: system.priority,
            message_id: Some(system.message_id),
            queue: Some(system.queue_id),
            offset: system.queue_offset,
            attempt: system.delivery_attempt,
            born_millis: system.born_timestamp.as_ref().map(millis),
            store_millis: system.store_timestamp.as_ref().map(millis),
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let mut text = format!(
            "{} {}:{}",
            self.topic.as_deref().unwrap_or("-"),
            self.queue.unwrap_or(-1),
            self.offset.unwrap_or(-1)
        );
        if let Some(attempt) = self.attempt.filter(|attempt| *attempt > 1) {
            text.push_str(&format!(" attempt={attempt}"));
        }
        if let Some(name) = &self.lite_topic {
            text.push_str(&format!(" lite-topic={name}"));
        }
        if let Some(priority) = self.priority {
            text.push_str(&format!(" priority={priority}"));
        }
        if let Some(tag) = &self.tag {
            text.push_str(&format!(" tag={tag}"));
        }
        for key in &self.keys {
            text.push_str(&format!(" key={key}"));
        }
        for (key, value) in &self.properties {
            text.push_str(&format!(" {key}={value}"));
        }
        match (&self.body, &self.body_base64) {
            (Some(body), _) => text.push_str(&format!("  {body}")),
            (None, Some(body)) => text.push_str(&format!("  base64:{body}")),
            (None, None) => {}
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_receive_prints_send_reads() {
        let message = v2::Message {
            topic: Some(super::super::resource("orders")),
            user_properties: [("colour".to_owned(), "red".to_owned())].into(),
            system_properties: Some(v2::SystemProperties {
                tag: Some("a".into()),
                keys: vec!["k1".into(), "k2".into()],
                message_id: "01".repeat(17),
                queue_id: 3,
                queue_offset: Some(17),
                delivery_attempt: Some(2),
                priority: Some(4),
                ..Default::default()
            }),
            body: Bytes::from_static("grüße".as_bytes()),
        };
        let json = JsonMessage::of(&message);
        assert_eq!(json.line(), "orders 3:17 attempt=2 priority=4 tag=a key=k1 key=k2 colour=red  grüße");
        let draft = JsonMessage::parse(&serde_json::to_string(&json).unwrap()).unwrap();
        assert_eq!((&draft.body, &draft.keys, draft.tag.as_deref()), (&message.body, &json.keys, Some("a")));
        assert_eq!(draft.priority, Some(4));

        let binary = v2::Message { body: Bytes::from_static(&[0xFF, 0]), ..message };
        let draft = JsonMessage::parse(&serde_json::to_string(&JsonMessage::of(&binary)).unwrap()).unwrap();
        assert_eq!(draft.body, binary.body);
    }

    #[test]
    fn a_bad_line_says_what_is_wrong() {
        for (line, part) in [
            ("{", "EOF"),
            ("{}", "neither body"),
            (r#"{"body":"a","body_base64":"YQ=="}"#, "both"),
            (r#"{"body_base64":"?"}"#, "body_base64"),
            (r#"{"body":"a","tags":["x"]}"#, "unknown field `tags`"),
            (r#"{"body":"a","body_encoding":"lz4"}"#, "lz4"),
        ] {
            let error = JsonMessage::parse(line).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
