//! Filters: which messages of a topic a subscription wants. Tag expressions are `*`, one tag, or several joined by `||`;
//! SQL92 conditions are in [`crate::sql`]. Compiled once per subscription.
//! Source: product.md part A1 (BC-16) and B6, grpc.md section 5.4.

use crate::record;
use crate::sql::SqlFilter;
use std::collections::BTreeSet;

/// A compiled filter expression of either language.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// A tag expression.
    Tags(TagFilter),
    /// An SQL92 condition.
    Sql(SqlFilter),
}

impl Filter {
    /// Every message passes.
    pub const ALL: Self = Self::Tags(TagFilter::All);
    /// None does.
    pub const NONE: Self = Self::Tags(TagFilter::AnyOf(BTreeSet::new()));

    /// Compiles a tag expression.
    pub fn tags(expression: &str) -> Result<Self, FilterError> {
        TagFilter::parse(expression).map(Self::Tags)
    }

    /// Compiles an SQL92 condition. Blank and `*` mean all: clients write the filter for everything in either language.
    pub fn sql(expression: &str) -> Result<Self, FilterError> {
        match expression.trim() {
            "" | "*" if expression.len() <= FILTER_BYTES_MAX => Ok(Self::ALL),
            _ => SqlFilter::parse(expression).map(Self::Sql),
        }
    }

    /// Whether every message passes.
    pub fn is_all(&self) -> bool {
        *self == Self::ALL
    }

    /// Whether a message passes, by its record.
    pub fn matches(&self, record: &[u8]) -> bool {
        match self {
            Self::Tags(TagFilter::All) => true,
            Self::Tags(tags) => tags.matches(record::text_of(record, record::TAG_KIND)),
            Self::Sql(sql) => sql.matches(record),
        }
    }
}

impl std::fmt::Display for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tags(tags) => tags.fmt(f),
            Self::Sql(sql) => sql.fmt(f),
        }
    }
}

/// A compiled tag expression.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TagFilter {
    /// `*` or nothing: every message, with or without a tag.
    All,
    /// Messages that have one of these tags.
    AnyOf(BTreeSet<String>),
}

/// Why an expression was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A tag between two `||` is blank.
    #[error("filter expression {expression:?} has an empty tag at position {position}")]
    EmptyTag {
        /// The expression (cut to 128 characters).
        expression: String,
        /// Byte position of the empty tag.
        position: usize,
    },
    /// A tag has a `|` in it, which no message's tag has.
    #[error("filter expression {expression:?} has a single | at position {position}, which no tag has")]
    SingleBar {
        /// The expression (cut to 128 characters).
        expression: String,
        /// Byte position of the bar.
        position: usize,
    },
    /// An SQL92 expression is not one.
    #[error("filter expression, position {position}: {reason}")]
    Sql {
        /// Byte position of what is wrong, counted from 0.
        position: usize,
        /// What is wrong.
        reason: String,
    },
    /// The expression is too long.
    #[error("filter expression of {bytes} bytes is longer than {} bytes", FILTER_BYTES_MAX)]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Longest filter expression, in bytes. Our own limit.
pub const FILTER_BYTES_MAX: usize = 16 * 1024;

impl TagFilter {
    /// Compiles an expression. Blank means all, as clients that set no expression expect; so does `*`, however often.
    pub fn parse(expression: &str) -> Result<Self, FilterError> {
        if expression.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong { bytes: expression.len() });
        }
        if matches!(expression.trim(), "" | "*") {
            return Ok(Self::All);
        }
        let shown = || expression.chars().take(128).collect();
        let mut tags = BTreeSet::new();
        let mut position = 0;
        for part in expression.split("||") {
            if let Some(bar) = part.find('|') {
                return Err(FilterError::SingleBar { expression: shown(), position: position + bar });
            }
            match part.trim() {
                "" => return Err(FilterError::EmptyTag { expression: shown(), position }),
                tag => tags.insert(tag.to_owned()),
            };
            position += part.len() + 2;
        }
        // Its text would mean all.
        Ok(if tags.iter().eq(["*"]) { Self::All } else { Self::AnyOf(tags) })
    }

    /// Whether a message with this tag passes.
    pub fn matches(&self, tag: Option<&str>) -> bool {
        match self {
            Self::All => true,
            Self::AnyOf(tags) => tag.is_some_and(|tag| tags.contains(tag)),
        }
    }
}

/// An expression that compiles to the same filter and is no longer than what it was compiled from: subscriptions are kept so.
impl std::fmt::Display for TagFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::AnyOf(tags) => f.write_str(&tags.iter().map(String::as_str).collect::<Vec<_>>().join("||")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_compile_and_match() {
        assert_eq!(TagFilter::parse("").unwrap(), TagFilter::All);
        assert_eq!(TagFilter::parse(" * ").unwrap(), TagFilter::All);
        let two = TagFilter::parse("a || b").unwrap();
        assert!(two.matches(Some("a")) && two.matches(Some("b")) && !two.matches(Some("c")) && !two.matches(None));
        assert_eq!(two.to_string(), "a||b");
        let error = TagFilter::parse("a || ").unwrap_err();
        assert_eq!(error, FilterError::EmptyTag { expression: "a || ".into(), position: 4 });
        let error = TagFilter::parse("a || b | c").unwrap_err().to_string();
        assert_eq!(error, "filter expression \"a || b | c\" has a single | at position 7, which no tag has");
        assert!(TagFilter::parse(&"a".repeat(FILTER_BYTES_MAX + 1)).is_err());
    }
}

#[cfg(test)]
#[path = "filter_properties.rs"]
mod properties;
