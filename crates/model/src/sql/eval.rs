//! A condition against a record: one pass over its fields, then three-valued logic. Nothing is built on the way but
//! the texts of numbers that a record keeps as numbers.

use super::{Name, Node, Operand, Relation, SQL_PROPERTIES_MAX, Search};
use crate::record::{Field, PROPERTY_KIND, contents, field, property};
use std::borrow::Cow;
use std::cmp::Ordering;

/// Properties looked up without memory of their own.
const FEW: usize = 8;

/// A property is not what it is compared with.
struct Mismatch;

/// `None`: unknown.
type Answer<T> = Result<Option<T>, Mismatch>;

#[derive(Clone, Copy)]
enum Value<'a> {
    Text(&'a str),
    Integer(i64),
    Decimal(f64),
    Truth(bool),
}

type Found<'a> = Option<Cow<'a, str>>;

pub fn matches(root: &Node, names: &[Name], record: &[u8]) -> bool {
    let mut few: [Found<'_>; FEW] = Default::default();
    let mut many: Vec<Found<'_>>;
    let found = match few.get_mut(..names.len()) {
        Some(found) => found,
        None => {
            many = vec![None; names.len().min(SQL_PROPERTIES_MAX)];
            &mut many[..]
        }
    };
    look_up(names, record, found);
    matches!(truth(root, found), Ok(Some(true)))
}

/// The first field of each name counts; keys are joined.
fn look_up<'a>(names: &[Name], record: &'a [u8], found: &mut [Found<'a>]) {
    let mut missing = names.len();
    // More keys may follow the first.
    let has_keys = names.contains(&Name::Keys);
    let has_system = names.iter().any(|name| !matches!(name, Name::User(_)));
    for (kind, content) in contents(record) {
        if kind == PROPERTY_KIND {
            let Some((key, value)) = property(content) else { return };
            let named = |(name, slot): &(&Name, &mut Found<'a>)| {
                matches!(name, Name::User(wanted) if wanted.as_bytes() == key) && slot.is_none()
            };
            if let Some((_, slot)) = names.iter().zip(found.iter_mut()).find(named) {
                let Ok(value) = std::str::from_utf8(value) else { return };
                *slot = Some(value.into());
                missing -= 1;
            }
        } else if has_system {
            let Some((name, text)) = field(kind, content).and_then(system) else { continue };
            let Some(slot) = names.iter().position(|wanted| *wanted == name).and_then(|at| found.get_mut(at)) else {
                continue;
            };
            match (slot, text) {
                (Some(keys), text) if name == Name::Keys => {
                    let keys = keys.to_mut();
                    keys.push(' ');
                    keys.push_str(&text.text());
                }
                (Some(_), _) => {}
                (slot, text) => {
                    *slot = Some(text.text());
                    missing -= 1;
                }
            }
        }
        if missing == 0 && !has_keys {
            return;
        }
    }
}

/// A system property as the record keeps it.
enum Kept<'a> {
    Text(&'a str),
    Number(i64),
}

impl<'a> Kept<'a> {
    fn text(self) -> Cow<'a, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Number(number) => number.to_string().into(),
        }
    }
}

fn system(field: Field<'_>) -> Option<(Name, Kept<'_>)> {
    Some(match field {
        Field::Key(text) => (Name::Keys, Kept::Text(text)),
        Field::Tag(text) => (Name::Tag, Kept::Text(text)),
        Field::MessageId(text) => (Name::MessageId, Kept::Text(text)),
        Field::MessageGroup(text) => (Name::MessageGroup, Kept::Text(text)),
        Field::LiteTopic(text) => (Name::LiteTopic, Kept::Text(text)),
        Field::BornHost(text) => (Name::BornHost, Kept::Text(text)),
        Field::TraceContext(text) => (Name::TraceContext, Kept::Text(text)),
        Field::DeadLetterTopic(text) => (Name::DeadLetterTopic, Kept::Text(text)),
        Field::DeadLetterMessageId(text) => (Name::DeadLetterMessageId, Kept::Text(text)),
        Field::DeliveryTimestamp(millis) => (Name::DeliveryTimestamp, Kept::Number(millis)),
        Field::BornTimestamp(millis) => (Name::BornTimestamp, Kept::Number(millis)),
        Field::Priority(priority) => (Name::Priority, Kept::Number(i64::from(priority))),
        _ => return None,
    })
}

fn truth(node: &Node, found: &[Found<'_>]) -> Answer<bool> {
    Ok(match node {
        Node::Constant(value) => *value,
        Node::Bare(place) => text(*place, found).map(|_| false),
        Node::Not(node) => truth(node, found)?.map(|value| !value),
        Node::And(nodes) => return joined(nodes, found, false),
        Node::Or(nodes) => return joined(nodes, found, true),
        Node::Compare(relation, left, right) => {
            let (Some(left), Some(right)) = (value(left, found)?, value(right, found)?) else { return Ok(None) };
            Some(compare(*relation, left, right)?)
        }
        Node::In { property, members, negated } => text(*property, found)
            .map(|text| members.binary_search_by(|member| (**member).cmp(text)).is_ok() != *negated),
        Node::Search { how, within, text, negated } => Some(match value(within, found)? {
            Some(Value::Text(within)) if !text.is_empty() => {
                let hit = match how {
                    Search::Contains => within.contains(&**text),
                    Search::StartsWith => within.starts_with(&**text),
                    Search::EndsWith => within.ends_with(&**text),
                };
                hit != *negated
            }
            _ => false,
        }),
        Node::IsNull { operand, negated } => Some(value(operand, found)?.is_none() != *negated),
    })
}

/// `dominant` decides at once: false for AND, true for OR.
fn joined(nodes: &[Node], found: &[Found<'_>], dominant: bool) -> Answer<bool> {
    let mut unknown = false;
    for node in nodes {
        match truth(node, found)? {
            Some(value) if value == dominant => return Ok(Some(dominant)),
            Some(_) => {}
            None => unknown = true,
        }
    }
    Ok((!unknown).then_some(!dominant))
}

fn text<'f>(place: usize, found: &'f [Found<'_>]) -> Option<&'f str> {
    found.get(place)?.as_deref()
}

fn value<'f>(operand: &'f Operand, found: &'f [Found<'_>]) -> Answer<Value<'f>> {
    Ok(match operand {
        Operand::Property(place) => text(*place, found).map(Value::Text),
        Operand::Integer(number) => Some(Value::Integer(*number)),
        Operand::Decimal(number) => Some(Value::Decimal(*number)),
        Operand::Text(text) => Some(Value::Text(text)),
        Operand::Condition(node) => truth(node, found)?.map(Value::Truth),
    })
}

fn compare(relation: Relation, left: Value<'_>, right: Value<'_>) -> Result<bool, Mismatch> {
    if matches!(relation, Relation::Equal | Relation::NotEqual) {
        let equal = match (left, right) {
            (Value::Text(left), Value::Text(right)) => left == right,
            (Value::Truth(left), Value::Truth(right)) => left == right,
            (Value::Text(text), Value::Truth(truth)) | (Value::Truth(truth), Value::Text(text)) => {
                text.eq_ignore_ascii_case("true") == truth
            }
            _ => order(left, right)? == Some(Ordering::Equal),
        };
        return Ok(equal == (relation == Relation::Equal));
    }
    let (left, right) = match (left, right) {
        (Value::Text(left), Value::Text(right)) => (Value::Decimal(decimal(left)?), Value::Decimal(decimal(right)?)),
        other => other,
    };
    let Some(order) = order(left, right)? else { return Ok(false) };
    Ok(match relation {
        Relation::Less => order.is_lt(),
        Relation::LessOrEqual => order.is_le(),
        Relation::Greater => order.is_gt(),
        Relation::GreaterOrEqual => order.is_ge(),
        Relation::Equal | Relation::NotEqual => false,
    })
}

/// Numbers, or one and a text that must be one of the same kind.
fn order(left: Value<'_>, right: Value<'_>) -> Result<Option<Ordering>, Mismatch> {
    Ok(match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => Some(left.cmp(&right)),
        (Value::Integer(left), Value::Text(right)) => Some(left.cmp(&integer(right)?)),
        (Value::Text(left), Value::Integer(right)) => Some(integer(left)?.cmp(&right)),
        (Value::Decimal(left), Value::Decimal(right)) => left.partial_cmp(&right),
        (Value::Decimal(left), Value::Integer(right)) => left.partial_cmp(&(right as f64)),
        (Value::Integer(left), Value::Decimal(right)) => (left as f64).partial_cmp(&right),
        (Value::Decimal(left), Value::Text(right)) => left.partial_cmp(&decimal(right)?),
        (Value::Text(left), Value::Decimal(right)) => decimal(left)?.partial_cmp(&right),
        (Value::Text(_), Value::Text(_)) | (Value::Truth(_), _) | (_, Value::Truth(_)) => return Err(Mismatch),
    })
}

fn integer(text: &str) -> Result<i64, Mismatch> {
    text.parse().map_err(|_| Mismatch)
}

/// Digits, sign, point, exponent; not the words for infinity and not-a-number.
fn decimal(text: &str) -> Result<f64, Mismatch> {
    let text = text.trim();
    match text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E')) {
        true => text.parse().map_err(|_| Mismatch),
        false => Err(Mismatch),
    }
}
