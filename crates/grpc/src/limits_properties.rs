//! Limits of calls, polls and sessions, each against a statement of its own that shares nothing with the code.

use crate::call::Call;
use crate::code::Denied;
use crate::proto::v2::{self, Code, settings::PubSub};
use crate::texts::{is_showable, text};
use crate::transport::connection::Peer;
use crate::transport::timeout;
use crate::{consumer, pull, settings};
use proptest::prelude::*;
use proptest::sample::select;
use prost_types::Duration as Asked;
use std::collections::BTreeMap;
use std::time::Duration;

/// Seconds and nanoseconds around a number of milliseconds, and what is no duration at all.
fn duration_around(millis: impl Strategy<Value = i64>) -> impl Strategy<Value = Asked> {
    let near = (millis, -2..=2_i64, select(&[0, 999_999][..])).prop_map(|(millis, off, more)| {
        let millis = millis.saturating_add(off);
        Asked { seconds: millis.div_euclid(1000), nanos: (millis.rem_euclid(1000) * 1_000_000) as i32 + more }
    });
    let seconds = select(&[0, -1, i64::MIN, i64::MAX, i64::MAX / 1000 - 1, 315_576_000_000][..]);
    let nanos = select(&[0, -1, 999_999_999, 1_000_000_000, i32::MIN, i32::MAX][..]);
    prop_oneof![
        5 => near,
        1 => (seconds, nanos).prop_map(|(seconds, nanos)| Asked { seconds, nanos }),
        1 => (any::<i64>(), any::<i32>()).prop_map(|(seconds, nanos)| Asked { seconds, nanos }),
    ]
}

/// Whole milliseconds; none if it is negative or no duration, or more than 64 bits count.
fn whole_millis(asked: &Asked) -> Option<i128> {
    let fine = (0..1_000_000_000).contains(&asked.nanos) && (0..i64::MAX / 1000).contains(&asked.seconds);
    fine.then_some((i128::from(asked.seconds) * 1_000_000_000 + i128::from(asked.nanos)) / 1_000_000)
}

/// That a refusal has this code and a text with these parts.
fn refused(denied: &Denied, code: Code, parts: &[&str]) -> Result<(), TestCaseError> {
    prop_assert_eq!(denied.code, code, "{}", denied);
    prop_assert!(is_showable(&denied.message), "{:?}", denied);
    for part in parts {
        prop_assert!(denied.message.contains(part), "{} lacks {:?}", denied, part);
    }
    Ok(())
}

/// Milliseconds that a deadline leaves: around all that matters.
fn remaining() -> impl Strategy<Value = Option<u64>> {
    let near = (select(&[0, 5_000, 5_100, 6_500, 20_000, 20_100, 21_500, 33_000][..]), 0..5_u64);
    prop_oneof![
        1 => Just(None),
        5 => near.prop_map(|(millis, off)| Some(millis + off)),
        2 => (0..60_000_u64).prop_map(Some),
        1 => any::<u64>().prop_map(Some),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_invisible_duration_is_within_its_range_to_the_millisecond(
        asked in prop::option::weighted(0.9, duration_around(select(&[0, 10_000, 43_200_000][..]))),
        change: bool,
    ) {
        let (min, max) = if change { (0, 43_200_000) } else { (10_000, 43_200_000) };
        let millis = whole_millis(&asked.unwrap_or_default()).filter(|millis| (min..=max).contains(millis));
        match consumer::invisible_millis(asked.as_ref(), min as i64, max as i64) {
            Ok(found) => prop_assert_eq!(Some(i128::from(found)), millis),
            Err(denied) => {
                prop_assert_eq!(millis, None, "{}", denied);
                let Asked { seconds, nanos } = asked.unwrap_or_default();
                let value = format!("{seconds} s and {nanos} ns");
                let range = format!("from {min} ms to {max} ms");
                refused(&denied, Code::IllegalInvisibleTime, &["invisible_duration", &value, &range])?;
            }
        }
    }

    #[test]
    fn a_poll_waits_5_to_20_s_and_ends_before_its_deadline(
        asked in prop::option::of(duration_around(select(&[0, 5_000, 15_000, 20_000, 40_000][..]))),
        remaining in remaining(),
        request_timeout in prop_oneof![select(&[0, 1, 2, 3_000, 10_000][..]), any::<u64>()],
        version in prop_oneof![select(&["", "5.0.2", "5.0.3", "5.0.3-beta", "5.1.4", "9", "4.9.9"][..]).prop_map(String::from), "[ -~]{0,8}"],
    ) {
        let request_timeout = Duration::from_millis(request_timeout);
        let found = consumer::poll_millis(asked.as_ref(), remaining.map(Duration::from_millis), request_timeout, &version);
        let too_short = remaining.is_some_and(|left| left < 5_000);
        let no_duration = asked.as_ref().is_some_and(|asked| whole_millis(asked).is_none());
        match found {
            Ok(found) => {
                prop_assert!(!too_short && !no_duration);
                let wanted = match (&asked, remaining) {
                    (Some(asked), _) => whole_millis(asked).unwrap(),
                    (None, Some(left)) => i128::from(left) - request_timeout.as_millis() as i128 / 2,
                    (None, None) => 20_000,
                };
                let bounded = wanted.clamp(5_000, 20_000);
                let before = remaining.map_or(i128::MAX, |left| i128::from(left) - 100);
                prop_assert_eq!(i128::from(found), bounded.min(before));
            }
            Err(denied) if no_duration => {
                let Asked { seconds, nanos } = asked.unwrap_or_default();
                let value = format!("{seconds} s and {nanos} ns");
                refused(&denied, Code::IllegalPollingTime, &["long_polling_timeout", &value])?;
            }
            Err(denied) => {
                prop_assert!(too_short, "{}", denied);
                let knows = version.as_bytes() >= "5.0.3".as_bytes();
                let code = if knows { Code::IllegalPollingTime } else { Code::BadRequest };
                let left = format!("{} ms are left until the deadline", remaining.unwrap_or_default());
                refused(&denied, code, &[&left, "5000 ms"])?;
            }
        }
    }

    #[test]
    fn a_pull_waits_up_to_20_s_and_ends_before_its_deadline(
        asked in prop::option::of(duration_around(select(&[0, 1_000, 20_000, 40_000][..]))),
        remaining in remaining(),
    ) {
        let millis = asked.as_ref().map(whole_millis);
        match (pull::poll_millis(asked.as_ref(), remaining.map(Duration::from_millis)), millis) {
            (Ok(found), None) => prop_assert_eq!(found, 0),
            (Ok(found), Some(Some(wanted))) => {
                let before = remaining.map_or(i128::MAX, |left| i128::from(left.saturating_sub(100)));
                prop_assert_eq!(i128::from(found), wanted.min(20_000).min(before));
            }
            (Err(denied), Some(None)) => refused(&denied, Code::IllegalPollingTime, &["long_polling_timeout"])?,
            (found, _) => return Err(TestCaseError::fail(format!("{found:?}"))),
        }
    }

    #[test]
    fn a_deadline_has_1_to_8_digits_and_a_unit(
        value in prop_oneof![
            4 => "[0-9]{0,10}[HMSmunhs]?",
            2 => "[-+ .0-9]{0,4}[0-9]{1,4} ?[HMSmun]",
            1 => text(9),
        ],
    ) {
        let nanos: BTreeMap<char, u128> =
            [('H', 3_600_000_000_000), ('M', 60_000_000_000), ('S', 1_000_000_000), ('m', 1_000_000), ('u', 1_000), ('n', 1)].into();
        let unit = value.chars().last().and_then(|last| nanos.get(&last));
        let digits = &value[..value.len() - value.chars().last().map_or(0, char::len_utf8)];
        let number = (1..=8).contains(&digits.len()).then(|| digits.chars().map(|digit| digit.to_digit(10)).collect::<Option<Vec<_>>>());
        let number = number.flatten().map(|digits| digits.iter().fold(0, |number, digit| number * 10 + u128::from(*digit)));
        match timeout::parse(value.as_bytes()) {
            Ok(found) => prop_assert_eq!(Some(found.as_nanos()), number.zip(unit).map(|(number, unit)| number * unit)),
            Err(error) => {
                prop_assert!(number.is_none() || unit.is_none(), "{}", error);
                prop_assert!(is_showable(&error.to_string()) && error.to_string().starts_with("grpc-timeout "), "{}", error);
            }
        }
    }

    #[test]
    fn a_client_id_is_text_that_is_not_blank_and_has_up_to_512_bytes(id in text(512)) {
        // What a header can carry at all; of that, text is what can be seen, and blanks.
        let Ok(header) = http::HeaderValue::from_bytes(id.as_bytes()) else { return Ok(()) };
        let parts = http::Request::builder().header("x-mq-client-id", header).body(()).unwrap().into_parts().0;
        let address = "192.0.2.1:5000".parse().unwrap();
        let call = Call::new(parts, Peer::new(address, address).into()).unwrap();
        let seen = id.trim_matches([' ', '\t']);
        let is_text = id.chars().all(|character| character.is_ascii() && (character == '\t' || !character.is_ascii_control()));
        match call.client_id() {
            Ok(found) => prop_assert!(found == seen && is_text && (1..=512).contains(&seen.len())),
            Err(denied) if !is_text || seen.is_empty() => refused(&denied, Code::ClientIdRequired, &["x-mq-client-id"])?,
            Err(denied) => {
                prop_assert!(seen.len() > 512, "{}", denied);
                let said = format!("x-mq-client-id has {} bytes, the limit is 512", seen.len());
                refused(&denied, Code::BadRequest, &[&said])?;
            }
        }
    }

    #[test]
    fn a_filter_has_a_known_language_and_at_most_16_kib(
        language in prop_oneof![9 => 0..4_i32, 1 => any::<i32>()],
        expression in prop_oneof![
            3 => "[ab*|= ']{0,12}",
            2 => select(&["*", "", " ", "a", "a || b", "a = 1", "a = 1 garbage", "a = 'x"][..]).prop_map(String::from),
            1 => text(30),
            1 => text(16_384),
        ],
    ) {
        let given = v2::FilterExpression { r#type: language, expression: expression.clone() };
        match settings::filter(Some(&given)) {
            Ok(filter) => {
                prop_assert!((0..=2).contains(&language) && expression.len() <= 16_384);
                // What is told about it compiles again, to the same.
                prop_assert_eq!(settings::filter(Some(&settings::expression(&filter))), Ok(filter));
            }
            Err(denied) => {
                let parts: &[&str] = match () {
                    () if !(0..=2).contains(&language) => &["filter type", &language.to_string()],
                    () if expression.len() > 16_384 => &["filter expression", &expression.len().to_string(), "16384"],
                    () => &["filter expression", "position"],
                };
                refused(&denied, Code::IllegalFilterExpression, parts)?;
            }
        }
    }

    #[test]
    fn client_properties_keep_to_all_their_limits(
        properties in prop_oneof![
            3 => prop::collection::btree_map(
                prop_oneof![3 => "[a-zA-Z][a-zA-Z0-9_.-]{0,8}", 1 => text(64), 1 => text(57).prop_map(|rest| format!("rocketmq{rest}"))],
                prop_oneof![3 => text(4), 1 => text(256)],
                0..3,
            ),
            1 => (30..36_usize).prop_map(|count| (0..count).map(|number| (format!("k{number}"), String::new())).collect()),
            // 16 times 256 is the limit of all together.
            1 => (15..18_usize, 250..=252_usize).prop_map(|(count, value)| {
                (0..count).map(|number| (format!("key{number:02}"), "v".repeat(value))).collect()
            }),
        ],
    ) {
        let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        let is_key = |key: &str| {
            key.chars().next().is_some_and(|first| letters.contains(first))
                && key.chars().all(|character| letters.contains(character) || "0123456789_.-".contains(character))
                && key.chars().count() <= 64
                && !key.starts_with("rocketmq.")
        };
        let properties: BTreeMap<String, String> = properties;
        let legal = properties.len() <= 32
            && properties.keys().all(|key| is_key(key))
            && properties.values().all(|value| value.chars().count() <= 256)
            && properties.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() <= 4_096;
        let count = properties.len();
        let given = v2::Settings {
            pub_sub: Some(PubSub::Publishing(v2::Publishing::default())),
            client_properties: properties,
            ..Default::default()
        };
        match settings::role(&given) {
            Ok(_) => prop_assert!(legal),
            Err(denied) => {
                prop_assert!(!legal, "{}", denied);
                let too_many = format!("{count} entries, the limit is 32");
                refused(&denied, Code::InvalidClientProperties, &["client_properties: ", if count > 32 { &too_many } else { "" }])?;
            }
        }
    }
}
