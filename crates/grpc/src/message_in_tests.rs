use super::*;
use crate::proto::v2::{Resource, SystemProperties};
use martlet_model::record;
use std::net::SocketAddr;

const DAY: i64 = 86_400_000;
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn peer() -> SocketAddr {
    "192.0.2.1:5000".parse().unwrap()
}

fn accept(message: v2::Message, index: usize, now: UnixMillis, peer: &SocketAddr) -> Result<NewMessage, Denied> {
    super::accept(message, index, now, peer, DAY, &Chosen::default())
}

fn message(change: impl FnOnce(&mut v2::Message, &mut SystemProperties)) -> v2::Message {
    let mut message = v2::Message {
        topic: Some(Resource { resource_namespace: String::new(), name: "orders".into() }),
        body: bytes::Bytes::from_static(b"body"),
        ..Default::default()
    };
    let mut system = SystemProperties { message_id: "01AB".into(), ..Default::default() };
    change(&mut message, &mut system);
    message.system_properties = Some(system);
    message
}

#[test]
fn what_a_client_sets_is_in_the_record() {
    let sent = message(|message, system| {
        message.user_properties.insert("colour".into(), "red".into());
        system.tag = Some("t".into());
        system.keys = vec!["k1".into(), "k2".into()];
        system.born_timestamp = Some(time::timestamp(UnixMillis(5)));
        system.born_host = "host".into();
        system.trace_context = Some("trace".into());
        system.body_encoding = Encoding::Gzip as i32;
        // A client writes the delivery time here; it means nothing on the way in.
        system.delivery_attempt = Some(77);
    });
    let accepted = accept(sent, 0, NOW, &peer()).unwrap();
    assert_eq!(accepted.message_type, MessageType::Normal);
    assert_eq!((accepted.message_id.as_str(), accepted.keys.len()), ("01AB", 2));
    let fields: Vec<_> = record::fields(&accepted.record).map(Result::unwrap).collect();
    assert_eq!(
        fields,
        [
            Field::MessageId("01AB"),
            Field::Tag("t"),
            Field::Key("k1"),
            Field::Key("k2"),
            Field::Property("colour", "red"),
            Field::BornTimestamp(5),
            Field::BornHost("host"),
            Field::TraceContext("trace"),
            Field::Compressed,
        ]
    );
    assert_eq!(record::body(&accepted.record).unwrap(), "body");
}

#[test]
fn what_a_client_leaves_out_is_filled_in() {
    let accepted = accept(message(|_, _| ()), 0, NOW, &peer()).unwrap();
    let fields: Vec<_> = record::fields(&accepted.record).map(Result::unwrap).collect();
    assert_eq!(fields, [Field::MessageId("01AB"), Field::BornTimestamp(NOW.0), Field::BornHost("192.0.2.1:5000")]);
}

#[test]
fn the_content_makes_the_type() {
    let kind = |change: fn(&mut SystemProperties)| {
        accept(message(|_, system| change(system)), 0, NOW, &peer()).unwrap().message_type
    };
    assert_eq!(kind(|system| system.message_type = v2::MessageType::Fifo as i32), MessageType::Normal);
    assert_eq!(kind(|system| system.message_group = Some("g".into())), MessageType::Fifo);
    assert_eq!(kind(|system| system.delivery_timestamp = Some(time::timestamp(NOW))), MessageType::Delay);
    assert_eq!(kind(|system| system.message_type = v2::MessageType::Transaction as i32), MessageType::Transaction);
    assert_eq!(kind(|system| system.priority = Some(3)), MessageType::Priority);
    assert_eq!(kind(|system| system.lite_topic = Some("l".into())), MessageType::Lite);
}

type Change = Box<dyn FnOnce(&mut v2::Message, &mut SystemProperties)>;

fn at_limit() -> Vec<Change> {
    vec![
        Box::new(|message, _| message.body = vec![1; limits::BODY_BYTES_MAX].into()),
        Box::new(|_, system| system.message_group = Some("g".repeat(63))),
        Box::new(|_, system| system.message_id = "i".repeat(256)),
        Box::new(|_, system| system.lite_topic = Some("l".repeat(64))),
        Box::new(|_, system| system.delivery_timestamp = Some(time::timestamp(NOW.plus(86_400_000)))),
        Box::new(|_, system| system.delivery_timestamp = Some(time::timestamp(UnixMillis(0)))),
        Box::new(|_, system| system.orphaned_transaction_recovery_duration = Some(time::duration(3_600_000))),
        Box::new(|_, system| system.tag = Some("t".repeat(16_384))),
        Box::new(|message, _| {
            message.user_properties = (0..128).map(|n| (n.to_string(), "v".into())).collect();
        }),
    ]
}

fn beyond_limit() -> Vec<(Code, &'static str, Change)> {
    vec![
        (Code::MessageBodyEmpty, "body", Box::new(|message, _| message.body = bytes::Bytes::new())),
        (
            Code::MessageBodyTooLarge,
            "4194305",
            Box::new(|message, _| message.body = vec![1; limits::BODY_BYTES_MAX + 1].into()),
        ),
        (Code::IllegalMessageId, "message_id", Box::new(|_, system| system.message_id = " ".into())),
        (Code::IllegalMessageId, "257", Box::new(|_, system| system.message_id = "i".repeat(257))),
        (Code::IllegalMessageTag, "tag", Box::new(|_, system| system.tag = Some(" ".into()))),
        (Code::IllegalMessageTag, "a|b", Box::new(|_, system| system.tag = Some("a|b".into()))),
        (Code::IllegalMessageTag, "tag", Box::new(|_, system| system.tag = Some("a\u{85}".into()))),
        (Code::IllegalMessageKey, "key", Box::new(|_, system| system.keys = vec!["k".into(), String::new()])),
        (Code::IllegalMessageKey, "key", Box::new(|_, system| system.keys = vec!["a\n".into()])),
        (Code::IllegalMessageGroup, "message_group", Box::new(|_, system| system.message_group = Some("".into()))),
        (Code::IllegalMessageGroup, "64 bytes", Box::new(|_, system| system.message_group = Some("g".repeat(64)))),
        (Code::IllegalMessageGroup, "control", Box::new(|_, system| system.message_group = Some("a\0".into()))),
        (
            Code::MessagePropertiesTooLarge,
            "129",
            Box::new(|message, _| {
                message.user_properties = (0..129).map(|n| (n.to_string(), "v".into())).collect();
            }),
        ),
        (Code::MessagePropertiesTooLarge, "16385", Box::new(|_, system| system.tag = Some("t".repeat(16_385)))),
        (
            Code::IllegalMessagePropertyKey,
            "UNIQ_KEY",
            Box::new(|message, _| drop(message.user_properties.insert("UNIQ_KEY".into(), "v".into()))),
        ),
        (
            Code::IllegalMessagePropertyKey,
            "colour",
            Box::new(|message, _| drop(message.user_properties.insert("colour".into(), "a\u{1}".into()))),
        ),
        (
            Code::IllegalDeliveryTime,
            "86400001",
            Box::new(|_, system| system.delivery_timestamp = Some(time::timestamp(NOW.plus(86_400_001)))),
        ),
        (
            Code::IllegalDeliveryTime,
            "not a time",
            Box::new(|_, system| {
                system.delivery_timestamp = Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 });
            }),
        ),
        (
            Code::BadRequest,
            "3601",
            Box::new(|_, system| system.orphaned_transaction_recovery_duration = Some(time::duration(3_601_000))),
        ),
        (
            Code::BadRequest,
            "-1 s",
            Box::new(|_, system| system.orphaned_transaction_recovery_duration = Some(time::duration(-1000))),
        ),
        (Code::IllegalLiteTopic, "lite_topic", Box::new(|_, system| system.lite_topic = Some("a b".into()))),
        (Code::IllegalLiteTopic, "64", Box::new(|_, system| system.lite_topic = Some("l".repeat(65)))),
        (Code::BadRequest, "-3", Box::new(|_, system| system.priority = Some(-3))),
        (Code::BadRequest, "9", Box::new(|_, system| system.body_encoding = 9)),
        (
            Code::MessagePropertiesTooLarge,
            "trace_context",
            Box::new(|_, system| system.trace_context = Some("t".repeat(5000))),
        ),
    ]
}

#[test]
fn every_limit_holds_to_the_byte_and_names_what_broke_it() {
    for change in at_limit() {
        accept(message(change), 0, NOW, &peer()).unwrap();
    }
    for (code, part, change) in beyond_limit() {
        let denied = accept(message(change), 3, NOW, &peer()).unwrap_err();
        assert_eq!(denied.code, code, "{denied}");
        assert!(denied.message.starts_with("message 3: ") && denied.message.contains(part), "{denied} lacks {part}");
    }
}

#[test]
fn a_batch_goes_to_one_legal_topic() {
    let to = |topic: &str| {
        let mut message = message(|_, _| ());
        message.topic = Some(Resource { resource_namespace: "ns".into(), name: topic.into() });
        message
    };
    assert_eq!(topic_of(&[to("a"), to("a")]), Ok("ns%a".into()));
    assert_eq!(topic_of(&[]).unwrap_err().code, Code::MessageCorrupted);
    assert_eq!(topic_of(&[to("a"), to("b")]).unwrap_err().code, Code::MessageCorrupted);
    assert_eq!(topic_of(&[to("a b")]).unwrap_err().code, Code::IllegalTopic);
    assert_eq!(topic_of(&[v2::Message::default()]).unwrap_err().code, Code::IllegalTopic);
    assert_eq!(topic_of(&vec![to("a"); limits::SEND_BATCH_MAX + 1]).unwrap_err().code, Code::PayloadTooLarge);
}
