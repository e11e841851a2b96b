//! What things may be called. Source: grpc.md section 8, semantics.md section 1.4.

use crate::limits;

/// Why a name was refused: field, value, limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The topic name breaks a rule.
    #[error("topic {value:?} {rule}")]
    Topic {
        /// The name as given (cut to 128 characters).
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The consumer group name breaks a rule.
    #[error("consumer group {value:?} {rule}")]
    Group {
        /// The name as given (cut to 128 characters).
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The name of a lite topic breaks a rule.
    #[error("lite topic \"{value}\" {rule}")]
    LiteTopic {
        /// The name as given (cut to 128 characters).
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
}

/// Prefix of the dead-letter topic of a consumer group.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";
/// Prefix of the retry topic of a consumer group.
pub const RETRY_PREFIX: &str = "%RETRY%";

/// Topic that clients over TCP send their traces to. The broker makes it when the first comes; nobody else creates, changes or deletes it.
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";

/// The name by which all protocols know a topic or group of a namespace, the id of an instance: `namespace%name`. Those of a
/// group's own topics have it behind their prefix. Without a namespace the name is whole; an empty one stays empty.
pub fn full_name(namespace: &str, name: String) -> String {
    if namespace.is_empty() || name.is_empty() {
        return name;
    }
    for prefix in [DEAD_LETTER_PREFIX, RETRY_PREFIX] {
        if let Some(group) = name.strip_prefix(prefix) {
            return format!("{prefix}{namespace}%{group}");
        }
    }
    format!("{namespace}%{name}")
}

const SYSTEM_TOPICS: [&str; 12] = [
    "TBW102",
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC",
    "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC",
    TRACE_TOPIC,
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "CHECKPOINT_TOPIC",
];

const SYSTEM_GROUPS: [&str; 13] = [
    "DEFAULT_PRODUCER",
    "DEFAULT_CONSUMER",
    "TOOLS_CONSUMER",
    "SCHEDULE_CONSUMER",
    "FILTERSRV_CONSUMER",
    "__MONITOR_CONSUMER",
    "CLIENT_INNER_PRODUCER",
    "SELF_TEST_P_GROUP",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_ONSAPI_PULL",
];

fn legal(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-')
}

fn shown(value: &str) -> String {
    value.chars().take(128).collect()
}

/// Whether a lite topic may have this name: 1 to 64 bytes of letters, digits, `_` and `-`.
pub fn check_lite_topic(name: &str) -> Result<(), NameError> {
    let refuse = |rule| Err(NameError::LiteTopic { value: shown(name), rule });
    if name.trim().is_empty() {
        return refuse("is blank");
    }
    if name.len() > limits::LITE_TOPIC_BYTES_MAX {
        return refuse("has more than 64 bytes");
    }
    match name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-')) {
        true => Ok(()),
        false => refuse("has characters other than letters, digits, _ and -"),
    }
}

/// Whether clients may name this topic: legal characters, length, not a system topic. Dead-letter and retry topics
/// (`%DLQ%group`, `%RETRY%group`) pass; whether they exist is the group's affair.
pub fn check_topic(name: &str) -> Result<(), NameError> {
    let refuse = |rule| Err(NameError::Topic { value: shown(name), rule });
    let max = if name.starts_with(DEAD_LETTER_PREFIX) || name.starts_with(RETRY_PREFIX) {
        255
    } else {
        limits::TOPIC_CHARS_MAX
    };
    if name.trim().is_empty() {
        return refuse("is blank");
    }
    if name.chars().count() > max {
        return refuse(if max == 255 { "is longer than 255 characters" } else { "is longer than 127 characters" });
    }
    if !name.bytes().all(legal) {
        return refuse("has a character other than letters, digits, %, |, _ and -");
    }
    if SYSTEM_TOPICS.contains(&name) || name.starts_with("rmq_sys_") {
        return refuse("is a system topic");
    }
    Ok(())
}

/// Whether a topic of this name may be there: one that clients may name, or [`TRACE_TOPIC`].
pub fn check_existing_topic(name: &str) -> Result<(), NameError> {
    if name == TRACE_TOPIC { Ok(()) } else { check_topic(name) }
}

/// Whether a group is one of tools and of the reference's own, which no user may name.
pub fn is_system_group(name: &str) -> bool {
    name.starts_with("CID_RMQ_SYS_") || SYSTEM_GROUPS.contains(&name)
}

/// Whether clients may name this consumer group.
pub fn check_group(name: &str) -> Result<(), NameError> {
    let refuse = |rule| Err(NameError::Group { value: shown(name), rule });
    if name.trim().is_empty() {
        return refuse("is blank");
    }
    if name.chars().count() > limits::GROUP_CHARS_MAX {
        return refuse("is longer than 120 characters");
    }
    if !name.bytes().all(legal) {
        return refuse("has a character other than letters, digits, %, |, _ and -");
    }
    if is_system_group(name) {
        return refuse("is a system group");
    }
    Ok(())
}

/// Property keys that clients may not set because they carry system facts between protocols.
/// Source: grpc.md section 7.5.
pub const RESERVED_PROPERTIES: [&str; 54] = [
    "TRACE_ON",
    "MSG_REGION",
    "KEYS",
    "TAGS",
    "WAIT",
    "DELAY",
    "RETRY_TOPIC",
    "REAL_TOPIC",
    "REAL_QID",
    "TRAN_MSG",
    "PGROUP",
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    "UNIQ_KEY",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "POP_CK",
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "INSTANCE_ID",
    "CORRELATION_ID",
    "REPLY_TO_CLIENT",
    "TTL",
    "ARRIVE_TIME",
    "PUSH_REPLY_TIME",
    "CLUSTER",
    "MSG_TYPE",
    "INNER_MULTI_QUEUE_OFFSET",
    "TIMER_DELAY_MS",
    "TIMER_DELAY_SEC",
    "TIMER_DELIVER_MS",
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
    "TIMER_ROLL_TIMES",
    "TIMER_OUT_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_DELAY_LEVEL",
    "__BORNHOST",
    "BORN_TIMESTAMP",
    "DLQ_ORIGIN_TOPIC",
    "DLQ_ORIGIN_MESSAGE_ID",
    "__CRC32#",
    "__LITE_TOPIC",
    "_SYS_MSG_PRIORITY_",
    "__STARTDELIVERTIME",
];

/// Whether a user property may not have this key.
pub fn is_reserved_property(key: &str) -> bool {
    RESERVED_PROPERTIES.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_in_front_of_the_name_and_behind_the_prefix_of_a_group() {
        for (namespace, name, full) in [("", "t", "t"), ("I", "t", "I%t"), ("I", "%DLQ%g", "%DLQ%I%g"), ("I", "", "")] {
            assert_eq!(full_name(namespace, name.to_owned()), full);
        }
    }

    #[test]
    fn names_follow_the_documented_rules() {
        assert!(check_topic("orders-2_%|x").is_ok());
        assert!(check_topic(&"t".repeat(127)).is_ok());
        for bad in ["", "  ", "a b", "täst", "TBW102", "rmq_sys_x", &"t".repeat(128)] {
            assert!(check_topic(bad).is_err(), "{bad}");
        }
        assert!(check_topic(&format!("%DLQ%{}", "g".repeat(120))).is_ok());
        assert!(check_topic(TRACE_TOPIC).is_err() && check_existing_topic(TRACE_TOPIC).is_ok());
        assert!(check_existing_topic("TBW102").is_err() && check_existing_topic("orders").is_ok());
        assert!(check_group(&"g".repeat(120)).is_ok());
        for bad in ["", "a/b", "CID_RMQ_SYS_x", "DEFAULT_CONSUMER", &"g".repeat(121)] {
            assert!(check_group(bad).is_err(), "{bad}");
        }
        let text = check_topic("a b").unwrap_err().to_string();
        assert_eq!(text, "topic \"a b\" has a character other than letters, digits, %, |, _ and -");
    }
}

#[cfg(test)]
#[path = "names_properties.rs"]
mod properties;
