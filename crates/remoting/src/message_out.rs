//! A message on its way out: from its record to the bytes that clients read.

use crate::codec::message::{Message, sys};
use crate::codec::properties;
use bytes::{Bytes, BytesMut};
use martlet_model::MessageType;
use martlet_model::names;
use martlet_model::record::{self, Field, RecordError};
use std::net::SocketAddr;

/// Said in every message and to every sender. Clients that trace name it.
pub(crate) const REGION: &str = "DefaultRegion";

/// What the record does not say of a message.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Number of its queue.
    pub queue: u32,
    /// Its place there.
    pub offset: u64,
    /// The number clients echo.
    pub physical_offset: i64,
    /// When it was stored, ms.
    pub stored: i64,
    /// Deliveries before this one.
    pub reconsumed: i32,
    /// This broker's address.
    pub store_host: SocketAddr,
    /// The cluster's name.
    pub cluster: &'a str,
    /// Whether it is shown to its producer before its transaction has ended.
    pub is_half: bool,
    /// More system properties, which win over those of the record.
    pub more: &'a [(&'a str, &'a str)],
}

/// Appends a message.
pub(crate) fn encode(out: &mut BytesMut, record: &Bytes, facts: &Facts<'_>) -> Result<(), RecordError> {
    let (mut born, mut born_host, mut flag, mut sys_flag) = (None, None, 0, None);
    let (mut compressed, mut message_type) = (false, MessageType::Normal);
    let (mut message_id, mut has_time) = (None, false);
    let (mut due, mut dead_letter) = (None, (None, None));
    let mut keys = String::new();
    let mut text = String::with_capacity(512);
    let is_more = |name: &str| facts.more.iter().any(|(more, _)| *more == name);
    let mut fields = record::fields(record);
    for field in fields.by_ref() {
        match field? {
            Field::MessageId(id) => message_id = Some(id),
            Field::Tag(tag) => properties::put(&mut text, "TAGS", tag),
            Field::Key(key) => {
                if !keys.is_empty() {
                    keys.push(' ');
                }
                keys.push_str(key);
            }
            Field::Property(name, value) => properties::put(&mut text, name, value),
            Field::SystemProperty(name, value) => {
                has_time |= name == "DELAY" || name == "__STARTDELIVERTIME" || name.starts_with("TIMER_");
                if !is_more(name) {
                    properties::put(&mut text, name, value);
                }
            }
            Field::BornTimestamp(millis) => born = Some(millis),
            Field::BornHost(host) => born_host = host.parse().ok(),
            Field::MessageGroup(group) => properties::put(&mut text, "__SHARDINGKEY", group),
            Field::DeliveryTimestamp(millis) => due = Some(millis),
            // Clients of this protocol find it among the system properties.
            // References are read for what they name.
            Field::TraceContext(_) | Field::Queue(_) | Field::RetryOf(_) => {}
            Field::Compressed => compressed = true,
            Field::MessageType(found) => message_type = found,
            // A dead letter of a dead letter carries two origins; the one written last is in front.
            Field::DeadLetterTopic(topic) => dead_letter.0 = dead_letter.0.or(Some(topic)),
            Field::DeadLetterMessageId(id) => dead_letter.1 = dead_letter.1.or(Some(id)),
            Field::LiteTopic(lite) => properties::put(&mut text, "__LITE_TOPIC", lite),
            Field::Priority(priority) => properties::put(&mut text, "_SYS_MSG_PRIORITY_", &priority.to_string()),
            Field::Flag(found) => flag = found,
            Field::SysFlag(found) => sys_flag = Some(found),
        }
    }
    let stored_body = &record[fields.body_start()..];
    // What this protocol's clients have compressed says how; of others, only gzip is what these cannot read.
    let zlib = if compressed && sys_flag.is_none() { martlet_net::gzip::as_zlib(stored_body) } else { None };
    let body = zlib.as_deref().unwrap_or(stored_body);
    let mut sys_flag = sys_flag.unwrap_or(if compressed { sys::COMPRESSED | compression(body) } else { 0 });
    if message_type == MessageType::Transaction {
        sys_flag |= if facts.is_half { sys::PREPARED } else { sys::COMMITTED };
    }
    properties::put(&mut text, "KEYS", &keys);
    properties::put(&mut text, "UNIQ_KEY", message_id.unwrap_or(""));
    if let Some(due) = due.filter(|_| !has_time) {
        properties::put(&mut text, "TIMER_DELIVER_MS", &due.to_string());
    }
    properties::put(&mut text, "DLQ_ORIGIN_TOPIC", dead_letter.0.unwrap_or(""));
    properties::put(&mut text, "DLQ_ORIGIN_MESSAGE_ID", dead_letter.1.unwrap_or(""));
    // By these names dashboards have a consumer try it again. They find it by either kind of id.
    if facts.topic.starts_with(names::DEAD_LETTER_PREFIX) {
        for (name, value) in [("RETRY_TOPIC", dead_letter.0), ("ORIGIN_MESSAGE_ID", dead_letter.1)] {
            if !is_more(name) {
                properties::put(&mut text, name, value.unwrap_or(""));
            }
        }
    }
    for (name, value) in facts.more {
        properties::put(&mut text, name, value);
    }
    for (name, value) in [("MSG_REGION", REGION), ("TRACE_ON", "true"), ("CLUSTER", facts.cluster)] {
        properties::put(&mut text, name, value);
    }
    let message = Message {
        queue: i32::try_from(facts.queue).unwrap_or(i32::MAX),
        flag,
        queue_offset: i64::try_from(facts.offset).unwrap_or(i64::MAX),
        physical_offset: facts.physical_offset,
        sys_flag,
        born: born.unwrap_or(facts.stored),
        // Those of other protocols may name a host.
        born_host: born_host.unwrap_or(facts.store_host),
        stored: facts.stored,
        store_host: facts.store_host,
        reconsumed: facts.reconsumed,
        half_offset: 0,
        body,
        topic: facts.topic,
        properties: &text,
    };
    message.encode(out);
    Ok(())
}

/// The bits for what a body is compressed with, by its first bytes.
fn compression(body: &[u8]) -> i32 {
    let kind = match body {
        [0x04, 0x22, 0x4d, 0x18, ..] => 1,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => 2,
        _ => 3,
    };
    kind << sys::COMPRESSION_SHIFT
}
