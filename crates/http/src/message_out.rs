//! A message on its way out: from its record to the elements that clients read, or why XML cannot carry it.
//!
//! Source: http.md sections 3.2 and 3.4.

use crate::auth::body_digest;
use crate::inflate::inflated;
use crate::message_in::{KEYS, SHARDING_KEY, START_DELIVER_TIME};
use crate::properties;
use crate::xml_out::{Document, is_legal};
use bytes::Bytes;
use martlet_model::record::{self, Field};
use std::borrow::Cow;
use std::collections::BTreeSet;

/// What the record does not say of a message.
#[derive(Clone, Debug)]
pub(crate) struct Facts<'a> {
    /// The handle.
    pub handle: &'a str,
    /// When it was stored, ms.
    pub stored: i64,
    /// When it was first given to anybody, ms.
    pub first_consumed: i64,
    /// When it is given to somebody again, ms.
    pub next_consume: i64,
    /// Deliveries, this one included.
    pub attempt: u32,
}

/// Why XML cannot carry a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Uncarriable {
    /// A newer broker wrote it.
    #[error("its record cannot be read")]
    Unreadable,
    /// Clients refuse an empty body, and with it all that came along.
    #[error("its body is empty")]
    Empty,
    /// Compressed in a way that is not known here, or more than a body may be.
    #[error("its body cannot be inflated to at most 4 MiB")]
    Compressed,
    /// Not text.
    #[error("its body is not text that XML 1.0 can carry")]
    Body,
    /// Not text either.
    #[error("its tag, id or handle is not text that XML 1.0 can carry")]
    Tag,
}

/// Writes a message as a child of the root. Nothing is written if it cannot be carried. Of its properties, those that cannot
/// are left out.
pub(crate) fn write(document: &mut Document, record: &Bytes, facts: &Facts<'_>) -> Result<(), Uncarriable> {
    let (mut id, mut tag, mut born, mut compressed) = ("", None, None, false);
    let (mut keys, mut text) = (String::new(), String::new());
    let mut seen = BTreeSet::new();
    let mut put = |key: &'static str, value: &str| {
        if properties::can_be_carried(key, value) && seen.insert(Cow::Borrowed(key)) {
            properties::put(&mut text, key, value);
        }
    };
    let mut users = Vec::new();
    let mut fields = record::fields(record);
    for field in fields.by_ref() {
        match field.map_err(|_| Uncarriable::Unreadable)? {
            Field::MessageId(found) => id = found,
            Field::Tag(found) => tag = Some(found).filter(|tag| !tag.is_empty()),
            Field::Key(key) => {
                if !keys.is_empty() {
                    keys.push(' ');
                }
                keys.push_str(key);
            }
            Field::Property(key, value) => users.push((key, value)),
            Field::BornTimestamp(millis) => born = Some(millis),
            Field::MessageGroup(group) => put(SHARDING_KEY, group),
            Field::DeliveryTimestamp(millis) => put(START_DELIVER_TIME, &millis.to_string()),
            Field::DeadLetterTopic(topic) => put("DLQ_ORIGIN_TOPIC", topic),
            Field::DeadLetterMessageId(id) => put("DLQ_ORIGIN_MESSAGE_ID", id),
            Field::Compressed => compressed = true,
            _ => {}
        }
    }
    if !keys.is_empty() {
        put(KEYS, &keys);
    }
    for (key, value) in users {
        if properties::can_be_carried(key, value) && seen.insert(Cow::Owned(key.to_owned())) {
            properties::put(&mut text, key, value);
        }
    }
    let stored = record.get(fields.body_start()..).unwrap_or_default();
    let body = match compressed {
        true => Cow::Owned(inflated(stored).ok_or(Uncarriable::Compressed)?),
        false => Cow::Borrowed(stored),
    };
    if body.is_empty() {
        return Err(Uncarriable::Empty);
    }
    let body_text = std::str::from_utf8(&body).ok().filter(|body| is_legal(body)).ok_or(Uncarriable::Body)?;
    if ![id, facts.handle, tag.unwrap_or("")].into_iter().all(is_legal) {
        return Err(Uncarriable::Tag);
    }
    document.open("Message");
    document.element("MessageId", id);
    document.element("ReceiptHandle", facts.handle);
    document.element("MessageBody", body_text);
    document.element("MessageBodyMD5", &body_digest(&body));
    document.number("PublishTime", born.unwrap_or(facts.stored));
    document.number("NextConsumeTime", facts.next_consume);
    document.number("FirstConsumeTime", facts.first_consumed);
    document.number("ConsumedTimes", i64::from(facts.attempt));
    if let Some(tag) = tag {
        document.element("MessageTag", tag);
    }
    if !text.is_empty() {
        document.element("Properties", &text);
    }
    document.close("Message");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_model::record::RecordWriter;

    fn written(fields: &[Field<'_>], body: &[u8]) -> Result<String, Uncarriable> {
        let mut writer = RecordWriter::with_capacity(64);
        for field in fields {
            writer.field(*field);
        }
        let facts = Facts { handle: "h", stored: 1, first_consumed: 2, next_consume: 3, attempt: 4 };
        let mut document = Document::begin("Messages", 0);
        write(&mut document, &writer.finish(body), &facts)?;
        Ok(document.finish())
    }

    #[test]
    fn a_message_has_what_all_sdks_need_and_no_property_that_one_would_misread() {
        let text = written(
            &[
                Field::MessageId("id"),
                Field::Key("a"),
                Field::Key("b"),
                Field::MessageGroup("s"),
                Field::DeliveryTimestamp(7),
                Field::Property("colour", "grün & <blau>"),
                Field::Property("time", "10:30"),
                Field::Property("colour", "twice"),
                Field::Property("KEYS", "twice"),
                Field::SystemProperty("INSTANCE_ID", ""),
            ],
            b"<b>",
        );
        let text = text.unwrap();
        assert!(
            text.contains(
                "<MessageId>id</MessageId><ReceiptHandle>h</ReceiptHandle><MessageBody>&lt;b&gt;</MessageBody>"
            )
        );
        let properties =
            "<Properties>__SHARDINGKEY:s|__STARTDELIVERTIME:7|KEYS:a b|colour:grün &amp; &lt;blau&gt;|</Properties>";
        assert!(text.contains(properties), "{text}");
        assert!(text.contains("<PublishTime>1</PublishTime><NextConsumeTime>3</NextConsumeTime>"), "{text}");
        assert!(!text.contains("MessageTag"), "absent is safest");
    }

    #[test]
    fn what_xml_cannot_carry_is_said_and_leaves_nothing_behind() {
        let id = Field::MessageId("id");
        assert_eq!(written(&[id], b""), Err(Uncarriable::Empty));
        assert_eq!(written(&[id], b"\xff"), Err(Uncarriable::Body));
        assert_eq!(written(&[id], b"a\0b"), Err(Uncarriable::Body));
        assert_eq!(written(&[id, Field::Tag("\u{1}")], b"b"), Err(Uncarriable::Tag));
        assert_eq!(written(&[id, Field::Compressed], b"plain"), Err(Uncarriable::Compressed));
        let facts = Facts { handle: "h", stored: 1, first_consumed: 2, next_consume: 3, attempt: 4 };
        let mut document = Document::begin("Messages", 0);
        let before = document.len();
        assert_eq!(write(&mut document, &Bytes::from_static(b"\x09"), &facts), Err(Uncarriable::Unreadable));
        assert_eq!(document.len(), before);
    }
}
