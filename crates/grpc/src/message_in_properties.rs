//! One field of a message at a time, against a statement of its rule that shares nothing with the code: accepted if and only if the
//! statement says so, and refused with the field's own code and a text that names field, value and limit.

use super::*;
use crate::proto::v2::{Resource, SystemProperties};
use crate::texts::{character, is_showable, text};
use martlet_model::record;
use proptest::prelude::*;
use proptest::sample::select;
use std::sync::LazyLock;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const DAY: i64 = 86_400_000;

fn message(change: impl FnOnce(&mut v2::Message, &mut SystemProperties)) -> v2::Message {
    let mut message =
        v2::Message { topic: resource("orders"), body: bytes::Bytes::from_static(b"body"), ..Default::default() };
    let mut system = SystemProperties { message_id: "01AB".into(), ..Default::default() };
    change(&mut message, &mut system);
    message.system_properties = Some(system);
    message
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.into() })
}

/// What a message is answered with: its record, or code and text.
fn judge(message: v2::Message) -> Result<NewMessage, Denied> {
    accept(message, 7, NOW, &"192.0.2.1:5000".parse().unwrap(), DAY, &Chosen::default())
}

/// That a message is accepted exactly if it `should` be, else refused with `code` and a text that has all of `parts`.
fn check(message: v2::Message, should: bool, code: Code, parts: &[&str]) -> Result<(), TestCaseError> {
    match judge(message) {
        Ok(_) => prop_assert!(should, "accepted, and should not be"),
        Err(denied) => {
            prop_assert!(!should, "refused, and should not be: {}", denied);
            prop_assert_eq!(denied.code, code, "{}", denied);
            prop_assert!(is_showable(&denied.message) && denied.message.starts_with("message 7: "), "{}", denied);
            for part in parts {
                prop_assert!(denied.message.contains(part), "{} lacks {:?}", denied, part);
            }
        }
    }
    Ok(())
}

/// By code point: those below the space, and from delete to the end of the second block of control characters.
fn is_control(character: char) -> bool {
    matches!(character as u32, 0..=31 | 127..=159)
}

/// Nothing that could be seen.
fn is_empty_looking(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

fn is_plain(text: &str) -> bool {
    !is_empty_looking(text) && !text.chars().any(is_control)
}

/// How a value is quoted: its first 128 characters.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(128).collect::<String>())
}

/// Seconds and nanoseconds around a number of milliseconds, normalised or not, and anything at all.
fn time_around(millis: i64) -> impl Strategy<Value = (i64, i32)> {
    let near = (millis - 2..=millis + 2, select(&[0, 1, 999_999][..]))
        .prop_map(|(millis, nanos)| (millis.div_euclid(1000), (millis.rem_euclid(1000) * 1_000_000) as i32 + nanos));
    let seconds = select(&[0, -1, 1, i64::MIN, i64::MAX, i64::MAX / 1000 - 1, 253_402_300_800][..]);
    let nanos = select(&[0, -1, 999_999_999, 1_000_000_000, i32::MIN, i32::MAX][..]);
    prop_oneof![4 => near, 1 => (seconds, nanos), 1 => (any::<i64>(), any::<i32>())]
}

/// In nanoseconds; none if the nanoseconds are not those of a second.
fn nanoseconds((seconds, nanos): (i64, i32)) -> Option<i128> {
    (0..1_000_000_000).contains(&nanos).then_some(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

/// As many zeros as asked for, without a copy each.
fn zeros(bytes: usize) -> bytes::Bytes {
    static ZEROS: LazyLock<bytes::Bytes> = LazyLock::new(|| vec![0; 4_194_305].into());
    ZEROS.slice(..bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_tag_is_plain_and_has_no_bar(tag in prop_oneof![4 => text(40), 1 => text(16_384)]) {
        let fits = tag.len() <= 16_384;
        let legal = is_plain(&tag) && !tag.contains('|');
        let sent = message(|_, system| system.tag = Some(tag.clone()));
        if legal && !fits {
            check(sent, false, Code::MessagePropertiesTooLarge, &["tag", &format!("{} bytes", tag.len()), "16384"])?;
        } else {
            let said = if is_empty_looking(&tag) { "blank".into() } else { shown(&tag) };
            check(sent, legal, Code::IllegalMessageTag, &["tag", &said])?;
        }
    }

    #[test]
    fn every_key_is_plain(keys in prop::collection::vec(text(20), 0..5)) {
        let wrong = keys.iter().find(|key| !is_plain(key));
        let said = wrong.map_or(String::new(), |key| if is_empty_looking(key) { "blank".into() } else { shown(key) });
        let sent = message(|_, system| system.keys = keys.clone());
        check(sent, wrong.is_none(), Code::IllegalMessageKey, &["key", &said])?;
    }

    #[test]
    fn a_message_group_is_plain_and_has_up_to_63_bytes(group in text(63)) {
        let legal = is_plain(&group) && group.len() < 64;
        let length = format!("has {} bytes, the limit is 63", group.len());
        let said = match () {
            () if is_empty_looking(&group) => "blank".into(),
            () if group.len() > 63 => length,
            () => shown(&group),
        };
        let sent = message(|_, system| system.message_group = Some(group.clone()));
        check(sent, legal, Code::IllegalMessageGroup, &["message_group", &said])?;
    }

    #[test]
    fn a_message_id_is_not_blank_and_has_up_to_256_bytes(id in text(256)) {
        let legal = !is_empty_looking(&id) && id.len() <= 256;
        let said = if is_empty_looking(&id) { "blank".into() } else { format!("has {} bytes, the limit is 256", id.len()) };
        let sent = message(|_, system| system.message_id = id.clone());
        check(sent, legal, Code::IllegalMessageId, &["message_id", &said])?;
    }

    #[test]
    fn a_lite_topic_is_a_word_of_up_to_64_characters(lite in text(64)) {
        let word = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
        let legal = (1..=64).contains(&lite.chars().count()) && lite.chars().all(|character| word.contains(character));
        let sent = message(|_, system| system.lite_topic = Some(lite.clone()));
        check(sent, legal, Code::IllegalLiteTopic, &["lite_topic", &shown(&lite), "1 to 64"])?;
    }

    #[test]
    fn user_properties_are_not_reserved_and_have_no_control_characters(
        key in prop_oneof![
            3 => text(30),
            1 => select(&["TAGS", "tags", "UNIQ_KEY", "__CRC32#", "1ST_POP_TIME", "_SYS_MSG_PRIORITY_", "TTL "][..]).prop_map(String::from),
        ],
        value in prop_oneof![text(30), character().prop_map(String::from)],
    ) {
        let reserved = ["TAGS", "UNIQ_KEY", "__CRC32#", "1ST_POP_TIME", "_SYS_MSG_PRIORITY_"].contains(&key.as_str());
        let legal = !reserved && !key.chars().chain(value.chars()).any(is_control);
        let sent = message(|message, _| drop(message.user_properties.insert(key.clone(), value)));
        let said = if reserved { "reserved" } else { "control character" };
        check(sent, legal, Code::IllegalMessagePropertyKey, &["user property", &shown(&key), said])?;
    }

    #[test]
    fn there_are_up_to_128_user_properties(count in prop_oneof![0..4_usize, 126..131_usize, Just(1_000)]) {
        let sent = message(|message, _| {
            message.user_properties = (0..count).map(|number| (number.to_string(), String::new())).collect();
        });
        let said = format!("has {count} entries, the limit is 128");
        check(sent, count <= 128, Code::MessagePropertiesTooLarge, &["user_properties", &said])?;
    }

    #[test]
    fn tag_keys_and_properties_have_up_to_16384_bytes_together(
        tag in prop::option::of(1..3_000_usize),
        keys in prop::collection::vec(1..3_000_usize, 0..3),
        properties in prop::collection::vec(0..2_000_usize, 0..4),
        off in -2..=2_isize,
        letter in select(vec!['a', '\u{e4}', '\u{20ac}']),
    ) {
        // One more property makes the sum what is wanted.
        let spent = tag.unwrap_or(0) + keys.iter().sum::<usize>() + properties.iter().map(|bytes| bytes + 1).sum::<usize>();
        let total = 16_384_usize.saturating_add_signed(off);
        let written = |bytes: usize| letter.to_string().repeat(bytes / letter.len_utf8()) + &"x".repeat(bytes % letter.len_utf8());
        let sent = message(|message, system| {
            system.tag = tag.map(written);
            system.keys = keys.iter().map(|bytes| written(*bytes)).collect();
            message.user_properties =
                properties.iter().enumerate().map(|(number, bytes)| (number.to_string(), written(*bytes))).collect();
            message.user_properties.insert("last".into(), written(total.saturating_sub(spent + 4)));
        });
        let total = total.max(spent + 4);
        let said = format!("have {total} bytes, the limit is 16384");
        check(sent, total <= 16_384, Code::MessagePropertiesTooLarge, &["user properties, tag and keys", &said])?;
    }

    #[test]
    fn a_delivery_timestamp_is_at_most_the_longest_delay_ahead(at in time_around(NOW.0 + DAY)) {
        // What milliseconds of 64 bits can count.
        let time = nanoseconds(at).filter(|_| at.0.unsigned_abs() < i64::MAX as u64 / 1000);
        let ahead = time.map(|nanos| nanos.div_euclid(1_000_000) - i128::from(NOW.0));
        let timestamp = prost_types::Timestamp { seconds: at.0, nanos: at.1 };
        let sent = message(|_, system| system.delivery_timestamp = Some(timestamp));
        let said = match ahead {
            Some(ahead) => format!("is {ahead} ms ahead, the limit is 86400000 ms"),
            None => format!("of {} s and {} ns is not a time", at.0, at.1),
        };
        let legal = ahead.is_some_and(|ahead| ahead <= i128::from(DAY));
        check(sent, legal, Code::IllegalDeliveryTime, &["delivery_timestamp", &said])?;
    }

    #[test]
    fn a_transaction_may_be_left_alone_for_up_to_an_hour(duration in prop_oneof![time_around(3_600_000), time_around(0)]) {
        let legal = nanoseconds(duration).is_some_and(|nanos| (0..3_600_001_000_000).contains(&nanos));
        let given = prost_types::Duration { seconds: duration.0, nanos: duration.1 };
        let sent = message(|_, system| system.orphaned_transaction_recovery_duration = Some(given));
        let said = format!("{} s", duration.0);
        check(sent, legal, Code::BadRequest, &["orphaned_transaction_recovery_duration", &said, "3600 s"])?;
    }

    #[test]
    fn a_priority_is_not_negative(priority in prop_oneof![any::<i32>(), -2..3_i32]) {
        let sent = message(|_, system| system.priority = Some(priority));
        check(sent, priority >= 0, Code::BadRequest, &["priority", &priority.to_string()])?;
    }

    #[test]
    fn an_encoding_is_one_of_the_protocols(encoding in prop_oneof![any::<i32>(), -1..5_i32]) {
        let sent = message(|_, system| system.body_encoding = encoding);
        check(sent, [0, 1, 2].contains(&encoding), Code::BadRequest, &["body_encoding", &encoding.to_string()])?;
    }

    #[test]
    fn what_is_kept_unread_has_up_to_4096_bytes(text in text(4_096), traced: bool) {
        let field = if traced { "trace_context" } else { "born_host" };
        let sent = message(|_, system| match traced {
            true => system.trace_context = Some(text.clone()),
            false => system.born_host = text.clone(),
        });
        let said = format!("{field} has {} bytes, the limit is 4096", text.len());
        check(sent, text.len() <= 4_096, Code::MessagePropertiesTooLarge, &[&said])?;
    }

    #[test]
    fn all_messages_of_a_request_go_to_one_topic(
        topics in prop::collection::vec(prop_oneof![20 => Just("orders".to_owned()), 1 => text(127)], 0..6),
    ) {
        let batch: Vec<_> = topics.iter().map(|topic| v2::Message { topic: resource(topic), ..Default::default() }).collect();
        let expected = match topics.first() {
            None => Err(Code::MessageCorrupted),
            Some(first) if names::check_topic(first).is_err() => Err(Code::IllegalTopic),
            Some(first) if topics.iter().any(|topic| topic != first) => Err(Code::MessageCorrupted),
            Some(first) => Ok(first.as_str()),
        };
        match topic_of(&batch) {
            Ok(topic) => prop_assert_eq!(Ok(&*topic), expected),
            Err(denied) => {
                prop_assert_eq!(Err(denied.code), expected, "{}", denied);
                prop_assert!(is_showable(&denied.message), "{}", denied);
            }
        }
    }
}

proptest! {
    // Bodies are large.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_body_has_1_to_4194304_bytes(bytes in prop_oneof![1 => 0..3_usize, 2 => 4_194_302..=4_194_305_usize, 1 => 0..70_000_usize]) {
        let sent = message(|message, _| message.body = zeros(bytes));
        match bytes {
            0 => check(sent, false, Code::MessageBodyEmpty, &["body is empty"])?,
            1..=4_194_304 => {
                let accepted = judge(sent).map_err(|denied| TestCaseError::fail(denied.message))?;
                prop_assert_eq!(record::body(&accepted.record), Ok(zeros(bytes)));
            }
            _ => check(sent, false, Code::MessageBodyTooLarge, &["body has 4194305 bytes, the limit is 4194304"])?,
        }
    }

    #[test]
    fn a_request_has_1_to_1024_messages(count in prop_oneof![1 => 0..3_usize, 2 => 1_022..=1_026_usize, 1 => 0..5_000_usize]) {
        let batch = vec![v2::Message { topic: resource("orders"), ..Default::default() }; count];
        match (count, topic_of(&batch)) {
            (0, answer) => prop_assert_eq!(answer.unwrap_err().code, Code::MessageCorrupted),
            (1..=1_024, answer) => prop_assert_eq!(answer, Ok("orders".into())),
            (_, answer) => {
                let text = format!("messages has {count} entries, the limit is 1024");
                prop_assert_eq!(answer, Err(Denied::new(Code::PayloadTooLarge, text)));
            }
        }
    }
}
