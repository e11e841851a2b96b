//! Names against rules that are stated here once more, character by character.

use super::*;
use crate::texts::{is_showable, text};
use proptest::prelude::*;
use proptest::sample::select;

const LEGAL: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%|_-";

const SYSTEM: &str = "TBW102 SCHEDULE_TOPIC_XXXX BenchmarkTest RMQ_SYS_TRANS_HALF_TOPIC RMQ_SYS_TRACE_TOPIC \
    RMQ_SYS_TRANS_OP_HALF_TOPIC TRANS_CHECK_MAX_TIME_TOPIC SELF_TEST_TOPIC OFFSET_MOVED_EVENT CHECKPOINT_TOPIC";

const RESERVED: &str = "TRACE_ON MSG_REGION KEYS TAGS WAIT DELAY RETRY_TOPIC REAL_TOPIC REAL_QID TRAN_MSG PGROUP MIN_OFFSET \
    MAX_OFFSET BUYER_ID ORIGIN_MESSAGE_ID TRANSFER_FLAG CORRECTION_FLAG MQ2_FLAG RECONSUME_TIME UNIQ_KEY MAX_RECONSUME_TIMES \
    CONSUME_START_TIME POP_CK POP_CK_OFFSET 1ST_POP_TIME TRAN_PREPARED_QUEUE_OFFSET DUP_INFO EXTEND_UNIQ_INFO INSTANCE_ID \
    CORRELATION_ID REPLY_TO_CLIENT TTL ARRIVE_TIME PUSH_REPLY_TIME CLUSTER MSG_TYPE INNER_MULTI_QUEUE_OFFSET TIMER_DELAY_MS \
    TIMER_DELAY_SEC TIMER_DELIVER_MS TIMER_ENQUEUE_MS TIMER_DEQUEUE_MS TIMER_ROLL_TIMES TIMER_OUT_MS TIMER_DEL_UNIQKEY \
    TIMER_DELAY_LEVEL __BORNHOST BORN_TIMESTAMP DLQ_ORIGIN_TOPIC DLQ_ORIGIN_MESSAGE_ID __CRC32# __LITE_TOPIC \
    _SYS_MSG_PRIORITY_ __STARTDELIVERTIME";

/// 1 to `max` of the legal characters.
fn is_word(name: &str, max: usize) -> bool {
    (1..=max).contains(&name.chars().count()) && name.chars().all(|character| LEGAL.contains(character))
}

fn is_topic(name: &str) -> bool {
    let of_a_group = name.strip_prefix("%DLQ%").or(name.strip_prefix("%RETRY%")).is_some();
    is_word(name, if of_a_group { 255 } else { 127 })
        && !SYSTEM.split(' ').any(|system| system == name)
        && !name.starts_with("rmq_sys_")
        // Names of newer versions of the reference.
        && !["RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC", "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC"].contains(&name)
}

fn is_group(name: &str) -> bool {
    is_word(name, 120) && !name.starts_with("CID_RMQ_SYS_") && !SYSTEM_GROUPS.contains(&name)
}

/// A name near a limit, perhaps behind a prefix that means something, or a system's own with up to one character more.
fn name() -> impl Strategy<Value = String> {
    let prefixes = &["", "", "", "%DLQ%", "%RETRY%", "%dlq%", "rmq_sys_", "RMQ_SYS_", "CID_RMQ_SYS_", "CID_"][..];
    let whole = SYSTEM.split(' ').chain(SYSTEM_GROUPS).collect::<Vec<_>>();
    prop_oneof![
        6 => (select(prefixes), prop_oneof![text(127), text(120), text(250), text(8)])
            .prop_map(|(prefix, rest)| format!("{prefix}{rest}")),
        1 => (select(whole), select(&["", "", "x", " "][..])).prop_map(|(name, more)| format!("{name}{more}")),
    ]
}

/// What every refusal of a name says: which field, the beginning of the value, and the limit if that is what it breaks.
fn names_the_rule(text: &str, field: &str, name: &str, max: usize) -> bool {
    let shown: String = name.chars().take(128).collect();
    let too_long = !name.trim().is_empty() && name.chars().count() > max;
    is_showable(text)
        && text.starts_with(&format!("{field} {shown:?} "))
        && text.contains("is longer than") == too_long
        && text.contains(&format!(" {max} characters")) == too_long
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_topic_is_named_within_the_rules_and_no_other_way(name in name()) {
        let checked = check_topic(&name);
        prop_assert_eq!(checked.is_ok(), is_topic(&name));
        if let Err(error) = checked {
            let max = if name.starts_with("%DLQ%") || name.starts_with("%RETRY%") { 255 } else { 127 };
            prop_assert!(names_the_rule(&error.to_string(), "topic", &name, max), "{}", error);
        }
    }

    #[test]
    fn a_group_is_named_within_the_rules_and_no_other_way(name in name()) {
        let checked = check_group(&name);
        prop_assert_eq!(checked.is_ok(), is_group(&name));
        if let Err(error) = checked {
            prop_assert!(names_the_rule(&error.to_string(), "consumer group", &name, 120), "{}", error);
        }
    }

    #[test]
    fn the_dead_letter_topic_of_every_legal_group_is_a_legal_topic(name in name()) {
        if check_group(&name).is_ok() {
            let letters = format!("{DEAD_LETTER_PREFIX}{name}");
            prop_assert!(check_topic(&letters).is_ok());
        }
    }

    #[test]
    fn the_listed_keys_of_properties_are_reserved_and_no_other(
        listed in select(RESERVED.split_whitespace().collect::<Vec<_>>()),
        other in prop_oneof![text(20), "[A-Z_]{1,12}"],
        more in select(&["", " ", "x", "_"][..]),
    ) {
        prop_assert!(is_reserved_property(listed));
        for key in [format!("{listed}{more}"), listed.to_lowercase(), other] {
            prop_assert_eq!(is_reserved_property(&key), RESERVED.split_whitespace().any(|reserved| reserved == key), "{}", key);
        }
    }
}
