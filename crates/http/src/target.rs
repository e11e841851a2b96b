//! Path and query of a request. Pure.
//!
//! Source: http.md sections 2 and 2.1.

use crate::answer::{Code, Denied};
use martlet_model::names;

/// Characters of a consume's target.
pub(crate) const CONSUME_TARGET_MAX: usize = 1024;
/// Characters of any other target.
const TARGET_MAX: usize = 4096;
/// Messages of a consume, and handles of an ack.
pub(crate) const BATCH_MAX: u32 = 16;
/// Longest poll, in seconds.
const WAIT_SECONDS_MAX: i64 = 30;

/// What a consume wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Messages in no particular order.
    #[default]
    Any,
    /// Messages in order.
    Ordered,
    /// Half messages that are due.
    Halves,
    /// To commit.
    Commit,
    /// To roll back.
    Rollback,
}

/// What path and query say, names with their namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    /// Full name.
    pub topic: String,
    /// Full name; `None`: missing or empty.
    pub group: Option<String>,
    pub mode: Mode,
    /// As it was sent.
    count: Option<String>,
    wait: Option<String>,
    /// Decoded; `None`: missing or empty.
    pub tag: Option<String>,
}

impl Target {
    /// Reads `[prefix]/topics/TOPIC/messages?…`.
    pub fn read(path: &str, query: Option<&str>) -> Result<Self, Denied> {
        let length = path.len() + query.map_or(0, |query| query.len() + 1);
        if length > TARGET_MAX {
            let text = format!("the request line has a target of {length} characters, the limit is {TARGET_MAX}");
            return Err(Denied::new(Code::InvalidRequestUrl, text));
        }
        let refuse = || {
            let shown: String = path.chars().take(128).collect();
            Denied::new(Code::InvalidRequestUrl, format!("path {shown:?} is not /topics/TOPIC/messages"))
        };
        let mut parts = path.rsplit('/');
        let (last, topic, first) = (parts.next(), parts.next(), parts.next());
        let (Some("messages"), Some(topic), Some("topics")) = (last, topic, first) else { return Err(refuse()) };
        let topic = decoded(topic, false).ok_or_else(refuse)?;
        let (mut target, mut namespace, mut group) = (Self::default(), None, None);
        for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decoded(value, true).ok_or_else(|| {
                let shown: String = name.chars().take(64).collect();
                Denied::new(Code::InvalidQueryString, format!("query parameter {shown:?} is not UTF-8"))
            })?;
            let place = match name {
                "ns" => &mut namespace,
                "consumer" => &mut group,
                "numOfMessages" => &mut target.count,
                "waitseconds" => &mut target.wait,
                "tag" => &mut target.tag,
                "trans" => {
                    target.mode = mode(&value)?;
                    continue;
                }
                // What newer clients may add.
                _ => continue,
            };
            if place.replace(value).is_some() {
                let text = format!("query parameter {name} is there twice");
                return Err(Denied::new(Code::InvalidQueryString, text));
            }
        }
        let namespace = namespace.unwrap_or_default();
        target.topic = names::full_name(&namespace, topic);
        names::check_topic(&target.topic)?;
        target.group = group.filter(|group| !group.is_empty()).map(|group| names::full_name(&namespace, group));
        target.group.as_deref().map(names::check_group).transpose()?;
        target.tag = target.tag.filter(|tag| !tag.is_empty());
        Ok(target)
    }

    /// The group, where there must be one.
    pub fn needs_group(&self) -> Result<&str, Denied> {
        self.group.as_deref().ok_or_else(|| Denied::argument("query parameter consumer is missing"))
    }

    /// How many messages.
    pub fn count(&self) -> Result<u32, Denied> {
        let value = self.count.as_deref();
        let value = value.ok_or_else(|| Denied::argument("query parameter numOfMessages is missing"))?;
        match value.parse() {
            Ok(count) if (1..=BATCH_MAX).contains(&count) => Ok(count),
            _ => Err(out_of_range("numOfMessages", value, &format!("from 1 to {BATCH_MAX}"))),
        }
    }

    /// How long to wait, in milliseconds. One SDK says -1 where it does not want to.
    pub fn wait_millis(&self) -> Result<i64, Denied> {
        let value = self.wait.as_deref().unwrap_or("0");
        match value.parse() {
            Ok(seconds) if (-1..=WAIT_SECONDS_MAX).contains(&seconds) => Ok(seconds.max(0) * 1_000),
            _ => Err(out_of_range("waitseconds", value, &format!("from 0 to {WAIT_SECONDS_MAX}"))),
        }
    }
}

fn out_of_range(name: &str, value: &str, range: &str) -> Denied {
    let shown: String = value.chars().take(32).collect();
    Denied::argument(format!("query parameter {name} {shown:?} is not a number {range}"))
}

fn mode(value: &str) -> Result<Mode, Denied> {
    match value {
        "" => Ok(Mode::Any),
        "order" => Ok(Mode::Ordered),
        "pop" => Ok(Mode::Halves),
        "commit" => Ok(Mode::Commit),
        "rollback" => Ok(Mode::Rollback),
        other => {
            let shown: String = other.chars().take(32).collect();
            Err(Denied::argument(format!("query parameter trans {shown:?} is not order, pop, commit or rollback")))
        }
    }
}

/// Percent-decoded; a `%` that is no escape stands for itself, as in names. `None`: not UTF-8.
fn decoded(text: &str, plus_is_space: bool) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(target: &str) -> Result<Target, Denied> {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        Target::read(path, query)
    }

    #[test]
    fn parameters_come_in_any_order_and_every_encoding() {
        let sent =
            "/topics/t/messages?trans=order&waitseconds=-1&tag=a%7C%7Cb+c%20d&ns=I&numOfMessages=16&consumer=g&x=y";
        let target = read(sent).unwrap();
        assert_eq!((&*target.topic, target.group.as_deref(), target.mode), ("I%t", Some("I%g"), Mode::Ordered));
        assert_eq!(target.tag.as_deref(), Some("a||b c d"));
        assert_eq!((target.count(), target.wait_millis()), (Ok(16), Ok(0)));
        let bare = read("/some/prefix/topics/t/messages?consumer=&waitseconds=30").unwrap();
        assert_eq!((&*bare.topic, bare.group.as_deref(), bare.wait_millis()), ("t", None, Ok(30_000)));
        assert_eq!(read("/topics/%DLQ%g/messages?ns=I").unwrap().topic, "%DLQ%I%g");
        assert_eq!(read("/topics/I%25t/messages").unwrap().topic, "I%t");
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for path in ["/", "/topics/t", "/topics/t/messages/", "/queues/t/messages", "/topics/%ff/messages"] {
            assert_eq!(read(path).unwrap_err().code, Code::InvalidRequestUrl, "{path}");
        }
        for target in ["ns=a&ns=b", "tag=%ff"] {
            let denied = read(&format!("/topics/t/messages?{target}")).unwrap_err();
            assert_eq!(denied.code, Code::InvalidQueryString, "{target}");
        }
        for target in ["/topics//messages", "/topics/a.b/messages", "/topics/t/messages?consumer=a.b"] {
            assert_eq!(read(target).unwrap_err().code, Code::InvalidArgument, "{target}");
        }
        for count in ["0", "17", "-1", "undefined", "", "99999999999"] {
            let target = read(&format!("/topics/t/messages?numOfMessages={count}")).unwrap();
            assert_eq!(target.count().unwrap_err().code, Code::InvalidArgument, "{count}");
        }
        for wait in ["31", "-2", "x"] {
            let target = read(&format!("/topics/t/messages?waitseconds={wait}")).unwrap();
            assert!(target.wait_millis().unwrap_err().message.contains("waitseconds"), "{wait}");
        }
        assert!(read("/topics/t/messages?trans=other").unwrap_err().message.contains("trans"));
        assert_eq!(
            read(&format!("/topics/t/messages?x={}", "y".repeat(5_000))).unwrap_err().code,
            Code::InvalidRequestUrl
        );
    }

    proptest! {
        #[test]
        fn no_target_panics(path in "[/a-z%0-9.]{0,40}", query in "[a-z%&=+0-9]{0,60}") {
            let _ = Target::read(&path, Some(&query));
            let _ = Target::read(&format!("/topics/{path}/messages"), Some(&query));
        }
    }
}
