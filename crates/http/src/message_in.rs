//! A message on its way in: every rule of the wire, then the record.
//!
//! Source: http.md sections 3.1 and 3.2.

use crate::answer::Denied;
use crate::properties;
use crate::xml_in::Publish;
use martlet_broker::NewMessage;
use martlet_model::record::{Field, RecordWriter};
use martlet_model::{MessageType, TopicType, UnixMillis, limits, names};

/// Message keys.
pub(crate) const KEYS: &str = "KEYS";
/// Delivery timestamp, milliseconds since the Unix epoch.
pub(crate) const START_DELIVER_TIME: &str = "__STARTDELIVERTIME";
/// Seconds until a half message is first due; marks a transactional message.
pub(crate) const TRANS_CHECK: &str = "__TransCheckT";
/// Message group.
pub(crate) const SHARDING_KEY: &str = "__SHARDINGKEY";
/// Range of [`TRANS_CHECK`].
const TRANS_CHECK_SECONDS: std::ops::RangeInclusive<i64> = 10..=300;
/// Keys by which a message can be found; the store takes so many, with its id.
const KEYS_FOUND_BY_MAX: usize = 63;

/// What holds for a request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// When it came.
    pub now: UnixMillis,
    /// Where from, as text.
    pub peer: &'a str,
    /// What the topic takes.
    pub kind: TopicType,
    /// Latest delivery timestamp, in milliseconds from now.
    pub delay_max: i64,
    /// The id of the message.
    pub message_id: String,
}

/// Checks a message and writes its record.
pub(crate) fn accept(request: Request<'_>, publish: &Publish) -> Result<NewMessage, Denied> {
    let body = publish.body.as_deref().unwrap_or("");
    if body.is_empty() {
        return Err(Denied::argument("element MessageBody is missing or empty"));
    }
    if body.len() > limits::BODY_BYTES_MAX {
        let (bytes, max) = (body.len(), limits::BODY_BYTES_MAX);
        return Err(Denied::argument(format!("element MessageBody has {bytes} bytes, the limit is {max}")));
    }
    let tag = publish.tag.as_deref().filter(|tag| !tag.is_empty());
    if let Some(tag) = tag.filter(|tag| tag.trim().is_empty() || tag.contains(is_no_tag)) {
        let shown: String = tag.chars().take(64).collect();
        return Err(Denied::argument(format!("element MessageTag {shown:?} is blank or has a | or control character")));
    }
    let text = publish.properties.as_deref().unwrap_or("");
    let bytes = text.len() + tag.map_or(0, str::len);
    if bytes > limits::PROPERTIES_BYTES_MAX {
        let max = limits::PROPERTIES_BYTES_MAX;
        return Err(Denied::argument(format!(
            "elements Properties and MessageTag have {bytes} bytes, the limit is {max}"
        )));
    }
    let properties = properties::parse(text)?;
    let find = |name: &str| properties.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    let is_user = |key: &str| ![KEYS, START_DELIVER_TIME, TRANS_CHECK, SHARDING_KEY].contains(&key);
    let users = || properties.iter().copied().filter(|(key, _)| is_user(key));
    if users().count() > limits::PROPERTIES_MAX {
        let (count, max) = (users().count(), limits::PROPERTIES_MAX);
        return Err(Denied::argument(format!("there are {count} user properties, the limit is {max}")));
    }
    for (key, value) in users() {
        if names::is_reserved_property(key) {
            return Err(Denied::argument(format!("property {key:?} is a reserved name")));
        }
        if key.contains(char::is_control) || value.contains(char::is_control) {
            return Err(Denied::argument(format!("property {key:?} has a control character in key or value")));
        }
    }
    let immunity_millis = find(TRANS_CHECK).map(immunity_millis).transpose()?;
    let deliver_at = find(START_DELIVER_TIME).map(|value| deliver_at(&request, value)).transpose()?.flatten();
    let message_group = find(SHARDING_KEY).filter(|key| !key.is_empty());
    let message_type = match request.kind {
        _ if immunity_millis.is_some() => MessageType::Transaction,
        _ if deliver_at.is_some() => MessageType::Delay,
        TopicType::Fifo | TopicType::Mixed if message_group.is_some() => MessageType::Fifo,
        _ => MessageType::Normal,
    };

    let mut writer = RecordWriter::with_capacity(body.len() + bytes + 256);
    writer.field(Field::MessageId(&request.message_id));
    if let Some(tag) = tag {
        writer.field(Field::Tag(tag));
    }
    let mut keys: Vec<String> = Vec::new();
    for key in find(KEYS).unwrap_or("").split(' ').filter(|key| !key.is_empty()) {
        writer.field(Field::Key(key));
        if keys.len() < KEYS_FOUND_BY_MAX {
            keys.push(key.to_owned());
        }
    }
    for (key, value) in users() {
        writer.field(Field::Property(key, value));
    }
    writer.field(Field::BornTimestamp(request.now.0)).field(Field::BornHost(request.peer));
    if let Some(group) = message_group {
        writer.field(Field::MessageGroup(group));
    }
    if let Some(at) = deliver_at {
        writer.field(Field::DeliveryTimestamp(at.0));
    }
    if message_type != MessageType::Normal {
        writer.field(Field::MessageType(message_type));
    }
    Ok(NewMessage {
        message_type,
        message_id: request.message_id,
        keys,
        deliver_at,
        immunity_millis,
        polled: immunity_millis.is_some(),
        record: writer.finish(body.as_bytes()),
    })
}

fn is_no_tag(char: char) -> bool {
    char == '|' || char.is_control()
}

fn number(name: &str, value: &str) -> Result<i64, Denied> {
    value.trim().parse().map_err(|_| {
        let shown: String = value.chars().take(64).collect();
        Denied::argument(format!("property {name} is {shown:?}, not a whole number"))
    })
}

fn immunity_millis(value: &str) -> Result<i64, Denied> {
    let seconds = number(TRANS_CHECK, value)?;
    if !TRANS_CHECK_SECONDS.contains(&seconds) {
        let (min, max) = (TRANS_CHECK_SECONDS.start(), TRANS_CHECK_SECONDS.end());
        return Err(Denied::argument(format!("property {TRANS_CHECK} is {seconds} s, not from {min} to {max} s")));
    }
    Ok(seconds * 1_000)
}

/// `None`: at once.
fn deliver_at(request: &Request<'_>, value: &str) -> Result<Option<UnixMillis>, Denied> {
    let at = UnixMillis(number(START_DELIVER_TIME, value)?);
    let (ahead, max) = (at.since(request.now), request.delay_max);
    if ahead > max {
        let text = format!("property {START_DELIVER_TIME} is {ahead} ms ahead, the limit is {max} ms");
        return Err(Denied::argument(text));
    }
    Ok((ahead > 0).then_some(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_model::record;

    const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

    fn accept_as(kind: TopicType, properties: &str, tag: &str, body: &str) -> Result<NewMessage, Denied> {
        let request = Request { now: NOW, peer: "10.0.0.1:4711", kind, delay_max: 1_000_000, message_id: "ID".into() };
        let publish =
            Publish { body: Some(body.to_owned()), tag: Some(tag.to_owned()), properties: Some(properties.to_owned()) };
        accept(request, &publish)
    }

    fn accepted(properties: &str) -> NewMessage {
        accept_as(TopicType::Mixed, properties, "", "body").unwrap()
    }

    #[test]
    fn properties_become_what_the_record_has_fields_for() {
        let message = accept_as(TopicType::Mixed, "KEYS:a b|__SHARDINGKEY:s|colour:grün|", "t", "body").unwrap();
        assert_eq!((message.message_type, &*message.keys), (MessageType::Fifo, &["a".to_owned(), "b".to_owned()][..]));
        let fields: Vec<_> = record::fields(&message.record).map(Result::unwrap).collect();
        let expected = [
            Field::MessageId("ID"),
            Field::Tag("t"),
            Field::Key("a"),
            Field::Key("b"),
            Field::Property("colour", "grün"),
            Field::BornTimestamp(NOW.0),
            Field::BornHost("10.0.0.1:4711"),
            Field::MessageGroup("s"),
            Field::MessageType(MessageType::Fifo),
        ];
        assert_eq!(fields, expected);
        assert_eq!(record::body(&message.record).unwrap(), "body");
    }

    #[test]
    fn types_follow_what_is_asked_for() {
        let later = NOW.0 + 5_000;
        let delayed = accepted(&format!("__STARTDELIVERTIME:{later}"));
        assert_eq!((delayed.message_type, delayed.deliver_at), (MessageType::Delay, Some(UnixMillis(later))));
        let past = accepted("__STARTDELIVERTIME:5");
        assert_eq!((past.message_type, past.deliver_at), (MessageType::Normal, None));
        let half = accepted("__TransCheckT:10");
        let told = (half.message_type, half.immunity_millis, half.polled);
        assert_eq!(told, (MessageType::Transaction, Some(10_000), true));
        let keyless = accept_as(TopicType::Fifo, "", "", "body").unwrap();
        assert_eq!(keyless.message_type, MessageType::Normal, "a topic of type fifo will refuse it");
    }

    #[test]
    fn every_refusal_names_what_is_wrong() {
        let long = "x".repeat(17_000);
        for (properties, tag, body, named) in [
            ("", "", "", "MessageBody"),
            ("", "a|b", "b", "MessageTag"),
            ("", " ", "b", "MessageTag"),
            ("", "a\tb", "b", "MessageTag"),
            ("", &*long, "b", "17000"),
            ("a", "", "b", "\"a\""),
            ("TAGS:x", "", "b", "TAGS"),
            ("a:b\nc", "", "b", "control"),
            ("__TransCheckT:9", "", "b", "__TransCheckT"),
            ("__TransCheckT:301", "", "b", "300"),
            ("__TransCheckT:x", "", "b", "whole number"),
            ("__STARTDELIVERTIME:1800001000001", "", "b", "1000001 ms ahead"),
            ("__STARTDELIVERTIME:", "", "b", "whole number"),
        ] {
            let denied = accept_as(TopicType::Mixed, properties, tag, body).unwrap_err();
            assert!(denied.message.contains(named), "{} does not name {named}", denied.message);
        }
        let many: String = (0..129).map(|n| format!("k{n}:v|")).collect();
        assert!(accept_as(TopicType::Mixed, &many, "", "b").unwrap_err().message.contains("129"));
    }
}
