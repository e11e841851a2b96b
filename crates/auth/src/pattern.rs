//! Resources, and patterns of them.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 512;

/// What kind of thing is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceKind {
    /// The broker as a whole, by the name of its cluster.
    Cluster,
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
}

impl ResourceKind {
    const ALL: [Self; 3] = [Self::Cluster, Self::Topic, Self::Group];

    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Topic => "Topic",
            Self::Group => "Group",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource<'a> {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its name as all protocols know it.
    pub name: &'a str,
}

impl fmt::Display for Resource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), crate::cut(self.name))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Any,
    Prefix(String),
    Literal(String),
}

/// Which resources an entry is about: `*`, `Topic:*`, `Topic:orders-*` or `Topic:orders`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    /// `None`: of every kind.
    kind: Option<ResourceKind>,
    name: Name,
}

impl Pattern {
    /// Whether it is about this resource.
    pub fn matches(&self, resource: &Resource<'_>) -> bool {
        self.kind.is_none_or(|kind| kind == resource.kind)
            && match &self.name {
                Name::Any => true,
                Name::Prefix(prefix) => resource.name.starts_with(prefix.as_str()),
                Name::Literal(name) => resource.name == name,
            }
    }

    /// How specific it is: of two that match, the larger one counts.
    pub(crate) fn rank(&self) -> (u8, usize) {
        match (self.kind, &self.name) {
            (None, _) => (0, 0),
            (_, Name::Any) => (1, 0),
            (_, Name::Prefix(prefix)) => (2, prefix.len()),
            (_, Name::Literal(_)) => (3, 0),
        }
    }
}

impl FromStr for Pattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |rule| Invalid::new("resource", text, rule);
        if text == "*" {
            return Ok(Self { kind: None, name: Name::Any });
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(wrong("is longer than 512 bytes"));
        }
        let form = "is not *, or Cluster, Topic or Group with a colon and a name, the beginning of one and *, or *";
        let (kind, name) = text.split_once(':').ok_or_else(|| wrong(form))?;
        let kind = ResourceKind::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(kind));
        let kind = kind.ok_or_else(|| wrong(form))?;
        let (prefix, is_prefix) = name.strip_suffix('*').map_or((name, false), |prefix| (prefix, true));
        if name.is_empty() || prefix.contains('*') || name.chars().any(char::is_control) {
            return Err(wrong(form));
        }
        let name = match (prefix, is_prefix) {
            ("", _) => Name::Any,
            (prefix, true) => Name::Prefix(prefix.to_owned()),
            (name, false) => Name::Literal(name.to_owned()),
        };
        Ok(Self { kind: Some(kind), name })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(kind) = self.kind else { return f.write_str("*") };
        let kind = kind.name();
        match &self.name {
            Name::Any => write!(f, "{kind}:*"),
            Name::Prefix(prefix) => write!(f, "{kind}:{prefix}*"),
            Name::Literal(name) => write!(f, "{kind}:{name}"),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_what_they_say_and_are_written_as_they_were_read() {
        let topic = |name| Resource { kind: ResourceKind::Topic, name };
        for (text, name, matches) in [
            ("*", "orders", true),
            ("Topic:*", "orders", true),
            ("Topic:ord*", "orders", true),
            ("Topic:orders*", "orders", true),
            ("Topic:orders", "orders", true),
            ("Topic:orders", "orders-2", false),
            ("Topic:ords*", "orders", false),
            ("Group:orders", "orders", false),
            ("Group:*", "orders", false),
        ] {
            let pattern: Pattern = text.parse().unwrap();
            assert_eq!(pattern.matches(&topic(name)), matches, "{text}");
            assert_eq!(pattern.to_string(), text);
        }
        assert_eq!("topic:a".parse::<Pattern>().unwrap().to_string(), "Topic:a");
        let long = format!("Topic:{}", "x".repeat(507));
        for text in ["", "orders", "Topic:", "Queue:a", "Topic:a*b", "Topic:**", "*:a", "Topic:a\n", &long] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
    }
}
