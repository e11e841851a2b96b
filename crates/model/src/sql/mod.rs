//! SQL92 filters: a condition over a message's properties, compiled once and evaluated straight on its record.
//!
//! ```text
//! or      := and (OR and)*
//! and     := eq (AND eq)*
//! eq      := cmp ((= | <>) cmp | IS [NOT] NULL)*
//! cmp     := unary ((> | >= | < | <=) unary
//!                  | [NOT] (CONTAINS | STARTSWITH | ENDSWITH) 'text'
//!                  | [NOT] BETWEEN unary AND unary
//!                  | [NOT] IN ('text', …))*
//! unary   := (+ | - | NOT) unary | literal | property | ( or )
//! literal := integer [L] | decimal | 'text' | TRUE | FALSE | NULL
//! ```
//!
//! Keywords are written in any case; `''` in a text is one quote; `--` to the end of the line and `/* … */` are comments. A
//! property is a letter, `_` or `$`, then letters, digits, `_`, `$`, `-`, `.`, `/`; letters and digits of any language
//! count. Any other name, or one that is a keyword, is written `"between quotes"`.
//!
//! Rules
//! - Properties are texts. Compared with a whole number they must be one (`7.5` is not), with a decimal or by `<` and `>`
//!   a number, with TRUE or FALSE the word `true` counts as true and all else as false. A property that is not what it is
//!   compared with ends the evaluation: the message does not pass.
//! - A missing property makes a comparison unknown. AND: false dominates; OR: true dominates; NOT of unknown is unknown;
//!   the searches for text are false. What is unknown in the end does not pass. AND and OR look at their right side
//!   only if the left one leaves it open.
//! - A property alone is never true.
//! - NOT binds more tightly than comparisons. `NOT a = 1` is refused: `NOT (a = 1)` says what is meant.
//! - All of the expression is read: what follows a condition is refused, with its place.
//!
//! | key | is |
//! | --- | --- |
//! | `TAGS`, `KEYS`, `UNIQ_KEY` | tag, keys joined by a space, message id |
//! | `__SHARDINGKEY`, `__LITE_TOPIC` | message group, lite topic |
//! | `TIMER_DELIVER_MS`, `BORN_TIMESTAMP` | delivery timestamp, time of birth; milliseconds since the Unix epoch |
//! | `_SYS_MSG_PRIORITY_`, `__BORNHOST`, `TRACE_CONTEXT` | priority, where it was born, trace context |
//! | `DLQ_ORIGIN_TOPIC`, `DLQ_ORIGIN_MESSAGE_ID` | where a dead letter comes from |
//!
//! Limits: 16 KiB of expression, 64 different properties, 64 levels of nesting. Source: semantics.md section 8.2.

mod eval;
mod lex;
mod parse;

use crate::filter::{FILTER_BYTES_MAX, FilterError};
use std::fmt;

/// Most different properties in one expression.
pub const SQL_PROPERTIES_MAX: usize = 64;
/// Deepest nesting of one expression.
pub const SQL_DEPTH_MAX: usize = 64;

/// A compiled SQL92 expression. Two are equal if their texts are.
#[derive(Clone)]
pub struct SqlFilter {
    expression: Box<str>,
    names: Box<[Name]>,
    root: Node,
}

/// What a property of an expression is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    User(Box<str>),
    Tag,
    Keys,
    MessageId,
    MessageGroup,
    LiteTopic,
    DeliveryTimestamp,
    BornTimestamp,
    Priority,
    BornHost,
    TraceContext,
    DeadLetterTopic,
    DeadLetterMessageId,
}

/// A condition.
#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// TRUE, FALSE, NULL.
    Constant(Option<bool>),
    /// A property, by its place among the names, where a condition stands: unknown if missing, else false.
    Bare(usize),
    Not(Box<Node>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Compare(Relation, Operand, Operand),
    /// Members are sorted.
    In {
        property: usize,
        members: Box<[Box<str>]>,
        negated: bool,
    },
    Search {
        how: Search,
        within: Operand,
        text: Box<str>,
        negated: bool,
    },
    IsNull {
        operand: Operand,
        negated: bool,
    },
}

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Property(usize),
    Integer(i64),
    Decimal(f64),
    Text(Box<str>),
    Condition(Box<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Contains,
    StartsWith,
    EndsWith,
}

impl SqlFilter {
    /// Compiles an expression.
    pub fn parse(expression: &str) -> Result<Self, FilterError> {
        if expression.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLong { bytes: expression.len() });
        }
        let (root, names) = parse::parse(expression)?;
        Ok(Self { expression: expression.trim().into(), names, root })
    }

    /// Its text.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// Whether a message passes, by its record. A record that cannot be read passes as far as it can be.
    pub fn matches(&self, record: &[u8]) -> bool {
        eval::matches(&self.root, &self.names, record)
    }
}

impl Name {
    fn of(name: &str) -> Self {
        match name {
            "TAGS" => Self::Tag,
            "KEYS" => Self::Keys,
            "UNIQ_KEY" => Self::MessageId,
            "__SHARDINGKEY" => Self::MessageGroup,
            "__LITE_TOPIC" => Self::LiteTopic,
            "TIMER_DELIVER_MS" => Self::DeliveryTimestamp,
            "BORN_TIMESTAMP" => Self::BornTimestamp,
            "_SYS_MSG_PRIORITY_" => Self::Priority,
            "__BORNHOST" => Self::BornHost,
            "TRACE_CONTEXT" => Self::TraceContext,
            "DLQ_ORIGIN_TOPIC" => Self::DeadLetterTopic,
            "DLQ_ORIGIN_MESSAGE_ID" => Self::DeadLetterMessageId,
            other => Self::User(other.into()),
        }
    }
}

impl PartialEq for SqlFilter {
    fn eq(&self, other: &Self) -> bool {
        self.expression == other.expression
    }
}

impl Eq for SqlFilter {}

impl fmt::Debug for SqlFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqlFilter").field(&self.expression).finish()
    }
}

impl fmt::Display for SqlFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.expression)
    }
}

#[cfg(test)]
mod naive;
#[cfg(test)]
mod tests;
