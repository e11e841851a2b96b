//! A message on its way in: every rule of the wire, then the record.
//!
//! Source: grpc.md sections 5.3, 7.5 and 8.

use crate::code::Denied;
use crate::proto::v2::{self, Code, Encoding};
use crate::resource::{full_name, topic_name};
use crate::time;
use martlet_broker::{NewMessage, PRODUCER_GROUP};
use martlet_model::record::{Field, RecordWriter};
use martlet_model::{MessageType, UnixMillis, limits, names};

/// Longest trace context and born host, in bytes. The reference has no limit.
const OPAQUE_BYTES_MAX: usize = 4096;

/// Name of the topic that all messages of a request go to.
pub(crate) fn topic_of(messages: &[v2::Message]) -> Result<String, Denied> {
    let Some(first) = messages.first() else {
        return Err(Denied::new(Code::MessageCorrupted, "messages is empty, a request has at least 1"));
    };
    if messages.len() > limits::SEND_BATCH_MAX {
        let text = format!("messages has {} entries, the limit is {}", messages.len(), limits::SEND_BATCH_MAX);
        return Err(Denied::new(Code::PayloadTooLarge, text));
    }
    let topic = topic_name(first.topic.as_ref())?;
    for (index, message) in messages.iter().enumerate().skip(1) {
        if message.topic != first.topic {
            let other = full_name("topic", message.topic.as_ref()).unwrap_or_default();
            let text = format!("message {index} goes to topic {:?}, message 0 to {topic:?}", cut(&other));
            return Err(Denied::new(Code::MessageCorrupted, text));
        }
    }
    Ok(topic)
}

/// What v1 clients say of a message besides what v2 clients do.
#[derive(Debug, Default)]
pub(crate) struct Chosen<'a> {
    /// The queue that its sender chose.
    pub(crate) queue: Option<u32>,
    /// Of a half message: the group whose producers know how its transaction ended.
    pub(crate) producer_group: Option<&'a str>,
}

/// Checks one message and writes its record. `index` is its place in the request, `peer` is where it comes from,
/// `delay_max` how far ahead its delivery timestamp may be, in milliseconds.
pub(crate) fn accept(
    message: v2::Message,
    index: usize,
    now: UnixMillis,
    peer: &std::net::SocketAddr,
    delay_max: i64,
    chosen: &Chosen<'_>,
) -> Result<NewMessage, Denied> {
    let mut system = message.system_properties.unwrap_or_default();
    let deny = |code, text: std::fmt::Arguments<'_>| Err(Denied::new(code, format!("message {index}: {text}")));

    if message.body.is_empty() {
        return deny(Code::MessageBodyEmpty, format_args!("body is empty"));
    }
    let compressed = match Encoding::try_from(system.body_encoding) {
        Ok(Encoding::Gzip) => true,
        Ok(Encoding::Identity | Encoding::Unspecified) => false,
        Err(_) => {
            let encoding = system.body_encoding;
            return deny(Code::BadRequest, format_args!("body_encoding {encoding} is not known"));
        }
    };
    let max = if compressed { limits::COMPRESSED_BODY_BYTES_MAX } else { limits::BODY_BYTES_MAX };
    if message.body.len() > max {
        let bytes = message.body.len();
        return deny(Code::MessageBodyTooLarge, format_args!("body has {bytes} bytes, the limit is {max}"));
    }
    if is_blank(&system.message_id) {
        return deny(Code::IllegalMessageId, format_args!("message_id is blank"));
    }
    if system.message_id.len() > limits::MESSAGE_ID_BYTES_MAX {
        let (bytes, max) = (system.message_id.len(), limits::MESSAGE_ID_BYTES_MAX);
        return deny(Code::IllegalMessageId, format_args!("message_id has {bytes} bytes, the limit is {max}"));
    }
    let mut property_bytes = 0;
    if let Some(tag) = &system.tag {
        if is_blank(tag) {
            return deny(Code::IllegalMessageTag, format_args!("tag is blank"));
        }
        if tag.contains('|') || has_control(tag) {
            return deny(Code::IllegalMessageTag, format_args!("tag {:?} has a | or a control character", cut(tag)));
        }
        property_bytes += tag.len();
    }
    for key in &system.keys {
        if is_blank(key) {
            return deny(Code::IllegalMessageKey, format_args!("a key is blank"));
        }
        if has_control(key) {
            return deny(Code::IllegalMessageKey, format_args!("key {:?} has a control character", cut(key)));
        }
        property_bytes += key.len();
    }
    if let Some(group) = &system.message_group {
        if is_blank(group) {
            return deny(Code::IllegalMessageGroup, format_args!("message_group is blank"));
        }
        if group.len() > limits::MESSAGE_GROUP_BYTES_MAX {
            let (bytes, max) = (group.len(), limits::MESSAGE_GROUP_BYTES_MAX);
            return deny(
                Code::IllegalMessageGroup,
                format_args!("message_group has {bytes} bytes, the limit is {max}"),
            );
        }
        if has_control(group) {
            let group = cut(group);
            return deny(Code::IllegalMessageGroup, format_args!("message_group {group:?} has a control character"));
        }
    }
    if message.user_properties.len() > limits::PROPERTIES_MAX {
        let (count, max) = (message.user_properties.len(), limits::PROPERTIES_MAX);
        let text = format_args!("user_properties has {count} entries, the limit is {max}");
        return deny(Code::MessagePropertiesTooLarge, text);
    }
    for (key, value) in &message.user_properties {
        if names::is_reserved_property(key) {
            return deny(Code::IllegalMessagePropertyKey, format_args!("user property {key:?} is a reserved name"));
        }
        if has_control(key) || has_control(value) {
            let key = cut(key);
            return deny(
                Code::IllegalMessagePropertyKey,
                format_args!("user property {key:?} has a control character in key or value"),
            );
        }
        property_bytes += key.len() + value.len();
    }
    if property_bytes > limits::PROPERTIES_BYTES_MAX {
        let max = limits::PROPERTIES_BYTES_MAX;
        let text = format_args!("user properties, tag and keys have {property_bytes} bytes, the limit is {max}");
        return deny(Code::MessagePropertiesTooLarge, text);
    }
    let delivery = match &system.delivery_timestamp {
        None => None,
        Some(timestamp) => match time::unix_millis(timestamp) {
            Some(at) if at <= now.plus(delay_max).0 => Some(at),
            Some(at) => {
                let ahead = at.saturating_sub(now.0);
                let text = format_args!("delivery_timestamp is {ahead} ms ahead, the limit is {delay_max} ms");
                return deny(Code::IllegalDeliveryTime, text);
            }
            None => {
                let (seconds, nanos) = (timestamp.seconds, timestamp.nanos);
                let text = format_args!("delivery_timestamp of {seconds} s and {nanos} ns is not a time");
                return deny(Code::IllegalDeliveryTime, text);
            }
        },
    };
    let immunity = system.orphaned_transaction_recovery_duration.as_ref().and_then(time::millis);
    if let Some(recovery) = &system.orphaned_transaction_recovery_duration
        && immunity.is_none_or(|millis| millis > limits::TRANSACTION_IMMUNITY_MILLIS_MAX)
    {
        let (seconds, max) = (recovery.seconds, limits::TRANSACTION_IMMUNITY_MILLIS_MAX / 1000);
        let text = format_args!("orphaned_transaction_recovery_duration of {seconds} s is not from 0 to {max} s");
        return deny(Code::BadRequest, text);
    }
    if let Some(lite) = &system.lite_topic
        && names::check_lite_topic(lite).is_err()
    {
        let (lite, max) = (cut(lite), limits::LITE_TOPIC_BYTES_MAX);
        let text = format_args!("lite_topic {lite:?} is not 1 to {max} letters, digits, _ and -");
        return deny(Code::IllegalLiteTopic, text);
    }
    if let Some(priority) = system.priority.filter(|priority| *priority < 0) {
        return deny(Code::BadRequest, format_args!("priority {priority} is negative"));
    }
    for (field, text) in [("trace_context", system.trace_context.as_deref()), ("born_host", Some(&*system.born_host))] {
        if let Some(bytes) = text.map(str::len).filter(|bytes| *bytes > OPAQUE_BYTES_MAX) {
            let text = format_args!("{field} has {bytes} bytes, the limit is {OPAQUE_BYTES_MAX}");
            return deny(Code::MessagePropertiesTooLarge, text);
        }
    }

    let message_type = message_type(&system);
    // Heads, lengths and times take less than 8 bytes a field.
    let mut writer = RecordWriter::with_capacity(
        message.body.len()
            + property_bytes
            + system.message_id.len()
            + system.born_host.len().max(48)
            + system.trace_context.as_ref().map_or(0, String::len)
            + chosen.producer_group.map_or(0, str::len)
            + 8 * (message.user_properties.len() + system.keys.len() + 16),
    );
    // In front, where alone it counts.
    if let Some(queue) = chosen.queue {
        writer.field(Field::Queue(queue));
    }
    writer.field(Field::MessageId(&system.message_id));
    if let Some(tag) = &system.tag {
        writer.field(Field::Tag(tag));
    }
    for key in &system.keys {
        writer.field(Field::Key(key));
    }
    for (key, value) in &message.user_properties {
        writer.field(Field::Property(key, value));
    }
    let born = system.born_timestamp.as_ref().and_then(time::unix_millis);
    writer.field(Field::BornTimestamp(born.unwrap_or(now.0)));
    if is_blank(&system.born_host) {
        writer.field(Field::BornHost(&peer.to_string()));
    } else {
        writer.field(Field::BornHost(&system.born_host));
    }
    if let Some(group) = &system.message_group {
        writer.field(Field::MessageGroup(group));
    }
    if let Some(at) = delivery {
        writer.field(Field::DeliveryTimestamp(at));
    }
    if let Some(context) = &system.trace_context {
        writer.field(Field::TraceContext(context));
    }
    if compressed {
        writer.field(Field::Compressed);
    }
    if message_type != MessageType::Normal {
        writer.field(Field::MessageType(message_type));
    }
    if let Some(lite) = &system.lite_topic {
        writer.field(Field::LiteTopic(lite));
    }
    if let Some(priority) = system.priority {
        writer.field(Field::Priority(priority));
    }
    if let Some(group) = chosen.producer_group {
        writer.field(Field::SystemProperty(PRODUCER_GROUP, group));
    }
    Ok(NewMessage {
        message_type,
        message_id: std::mem::take(&mut system.message_id),
        keys: std::mem::take(&mut system.keys),
        deliver_at: delivery.map(UnixMillis),
        immunity_millis: immunity.filter(|_| message_type == MessageType::Transaction),
        polled: false,
        record: writer.finish(&message.body),
    })
}

/// Accepts a message as if it had been sent; for fuzzing. What is accepted keeps to the limits and can be read back.
pub(crate) fn check_accepted(message: v2::Message) {
    let length = message.body.len();
    let peer = std::net::SocketAddr::from(([192, 0, 2, 1], 1));
    if let Ok(accepted) = accept(message, 0, UnixMillis(0), &peer, limits::DELAY_MILLIS_MAX, &Chosen::default()) {
        assert!((1..=limits::COMPRESSED_BODY_BYTES_MAX).contains(&length));
        assert_eq!(martlet_model::record::body(&accepted.record).map(|body| body.len()), Ok(length));
    }
}

/// The type that the content makes of a message; what the client calls it counts for transactions only.
fn message_type(system: &v2::SystemProperties) -> MessageType {
    if system.message_type == v2::MessageType::Transaction as i32 {
        MessageType::Transaction
    } else if system.delivery_timestamp.is_some() {
        MessageType::Delay
    } else if system.message_group.is_some() {
        MessageType::Fifo
    } else if system.priority.is_some() {
        MessageType::Priority
    } else if system.lite_topic.is_some() {
        MessageType::Lite
    } else {
        MessageType::Normal
    }
}

pub(crate) fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

pub(crate) fn has_control(text: &str) -> bool {
    // Almost all text has none of the bytes that a control character can start with.
    text.bytes().any(|byte| byte < 0x20 || byte == 0x7f || byte == 0xc2) && text.chars().any(char::is_control)
}

/// The start of a text that is quoted in an error.
pub(crate) fn cut(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
#[path = "message_in_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "message_in_properties.rs"]
mod properties;
