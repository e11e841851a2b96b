//! Random conditions, their text, and what they mean by the sheet, written down once more and without cleverness.

use proptest::prelude::*;
use std::collections::BTreeMap;

pub type Properties = BTreeMap<&'static str, &'static str>;

#[derive(Clone, Debug)]
pub enum Condition {
    Constant(Option<bool>),
    Bare(&'static str),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
    Compare(&'static str, &'static str, Literal),
    CompareTwo(&'static str, &'static str, &'static str),
    IsTrue(Box<Condition>, bool),
    Between(&'static str, i64, i64, bool),
    In(&'static str, Vec<&'static str>, bool),
    Search(&'static str, &'static str, &'static str, bool),
    IsNull(&'static str, bool),
}

#[derive(Clone, Debug)]
pub enum Literal {
    Integer(i64),
    Decimal(f64),
    Text(&'static str),
    Truth(bool),
}

pub const NAMES: [&str; 5] = ["a", "b_1", "$c", "größe", "with-dash.dot"];
pub const TEXTS: [&str; 10] = ["", "5", "-7", "7.5", "x", "true", "TRUE", "it's", "9223372036854775808", "0.0"];

pub fn conditions() -> impl Strategy<Value = Condition> {
    use prop::sample::select;
    let name = || select(&NAMES[..]);
    let text = || select(&TEXTS[..]);
    let literal = prop_oneof![
        (-8..8i64).prop_map(Literal::Integer),
        select(&[0.0, 7.5, -7.0, 5.0][..]).prop_map(Literal::Decimal),
        text().prop_map(Literal::Text),
        any::<bool>().prop_map(Literal::Truth),
    ];
    let number = prop_oneof![(-8..8i64).prop_map(Literal::Integer), Just(Literal::Decimal(0.5))];
    let leaf = prop_oneof![
        prop_oneof![Just(None), any::<bool>().prop_map(Some)].prop_map(Condition::Constant),
        name().prop_map(Condition::Bare),
        (select(&["=", "<>"][..]), name(), literal)
            .prop_map(|(op, name, literal)| Condition::Compare(op, name, literal)),
        (select(&["<", "<=", ">", ">="][..]), name(), number)
            .prop_map(|(op, name, literal)| Condition::Compare(op, name, literal)),
        (select(&["=", "<>", "<", "<=", ">", ">="][..]), name(), name())
            .prop_map(|(op, left, right)| Condition::CompareTwo(op, left, right)),
        (name(), -8..0i64, 0..8i64, any::<bool>())
            .prop_map(|(name, low, high, not)| Condition::Between(name, low, high, not)),
        (name(), prop::collection::vec(text(), 1..4), any::<bool>())
            .prop_map(|(name, members, not)| Condition::In(name, members, not)),
        (select(&["CONTAINS", "startswith", "EndsWith"][..]), name(), text(), any::<bool>())
            .prop_map(|(how, name, text, not)| Condition::Search(how, name, text, not)),
        (name(), any::<bool>()).prop_map(|(name, not)| Condition::IsNull(name, not)),
    ];
    leaf.prop_recursive(5, 40, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|c| Condition::Not(Box::new(c))),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| Condition::And(Box::new(l), Box::new(r))),
            (inner.clone(), inner.clone()).prop_map(|(l, r)| Condition::Or(Box::new(l), Box::new(r))),
            (inner, any::<bool>()).prop_map(|(c, truth)| Condition::IsTrue(Box::new(c), truth)),
        ]
    })
}

pub fn properties() -> impl Strategy<Value = Properties> {
    prop::collection::btree_map(prop::sample::select(&NAMES[..]), prop::sample::select(&TEXTS[..]), 0..5)
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl Literal {
    fn text(&self) -> String {
        match self {
            Self::Integer(number) => format!("{number}L"),
            Self::Decimal(number) => format!("{number:?}"),
            Self::Text(text) => quote(text),
            Self::Truth(truth) => truth.to_string(),
        }
    }
}

impl Condition {
    pub fn text(&self) -> String {
        let not = |not: &bool| if *not { "NOT " } else { "" };
        match self {
            Self::Constant(None) => "null".into(),
            Self::Constant(Some(truth)) => truth.to_string(),
            Self::Bare(name) => (*name).into(),
            Self::Not(inner) => format!("NOT ({})", inner.text()),
            Self::And(left, right) => format!("({}) AND ({})", left.text(), right.text()),
            Self::Or(left, right) => format!("({}) or ({})", left.text(), right.text()),
            Self::Compare(op, name, literal) => format!("{name} {op} {}", literal.text()),
            Self::CompareTwo(op, left, right) => format!("{left} {op} \"{right}\""),
            // A property alone is a condition only where one is wanted; a constant NULL equals nothing.
            Self::IsTrue(inner, truth) => format!("(NOT ({})) = {truth}", inner.text()),
            Self::Between(name, low, high, negated) => format!("{name} {}BETWEEN {low} AND {high}", not(negated)),
            Self::In(name, members, negated) => {
                let members: Vec<_> = members.iter().map(|text| quote(text)).collect();
                format!("{name} {}IN ({})", not(negated), members.join(","))
            }
            Self::Search(how, name, text, negated) => format!("{name} {}{how} {}", not(negated), quote(text)),
            Self::IsNull(name, negated) => format!("{name} IS {}NULL", not(negated)),
        }
    }

    /// `Err`: a property is not what it is compared with.
    pub fn means(&self, properties: &Properties) -> Result<Option<bool>, ()> {
        let property = |name: &&'static str| properties.get(name).copied();
        Ok(match self {
            Self::Constant(truth) => *truth,
            Self::Bare(name) => property(name).map(|_| false),
            Self::Not(inner) => inner.means(properties)?.map(|truth| !truth),
            Self::And(left, right) => match left.means(properties)? {
                Some(false) => Some(false),
                left => match (left, right.means(properties)?) {
                    (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                },
            },
            Self::Or(left, right) => match left.means(properties)? {
                Some(true) => Some(true),
                left => match (left, right.means(properties)?) {
                    (_, Some(true)) => Some(true),
                    (Some(false), Some(false)) => Some(false),
                    _ => None,
                },
            },
            Self::Compare(op, name, literal) => match property(name) {
                Some(text) => Some(compared(op, text, literal)?),
                None => None,
            },
            Self::CompareTwo(op, left, right) => match (property(left), property(right)) {
                (Some(left), Some(right)) => Some(match *op {
                    "=" => left == right,
                    "<>" => left != right,
                    op => {
                        let right = right.parse().map_err(drop)?;
                        left.parse::<f64>().map_err(drop)?;
                        compared(op, left, &Literal::Decimal(right))?
                    }
                }),
                _ => None,
            },
            Self::IsTrue(inner, truth) => inner.means(properties)?.map(|inner| inner != *truth),
            Self::Between(name, low, high, negated) => match property(name) {
                Some(text) => {
                    let number: i64 = text.parse().map_err(drop)?;
                    Some((*low <= number && number <= *high) != *negated)
                }
                None => None,
            },
            Self::In(name, members, negated) => property(name).map(|text| members.contains(&text) != *negated),
            Self::Search(how, name, text, negated) => Some(match property(name) {
                Some(within) if !text.is_empty() => {
                    let hit = match how.to_ascii_uppercase().as_str() {
                        "CONTAINS" => within.contains(text),
                        "STARTSWITH" => within.starts_with(text),
                        _ => within.ends_with(text),
                    };
                    hit != *negated
                }
                _ => false,
            }),
            Self::IsNull(name, negated) => Some(property(name).is_none() != *negated),
        })
    }
}

fn compared(op: &str, text: &str, literal: &Literal) -> Result<bool, ()> {
    let by = |less: bool, equal: bool| match op {
        "=" => equal,
        "<>" => !equal,
        "<" => less,
        "<=" => less || equal,
        ">" => !less && !equal,
        _ => !less,
    };
    Ok(match literal {
        Literal::Integer(number) => {
            let value: i64 = text.parse().map_err(drop)?;
            by(value < *number, value == *number)
        }
        Literal::Decimal(number) => {
            let value: f64 = text.parse().map_err(drop)?;
            by(value < *number, value == *number)
        }
        Literal::Text(other) => by(false, text == *other),
        Literal::Truth(truth) => by(false, text.eq_ignore_ascii_case("true") == *truth),
    })
}
