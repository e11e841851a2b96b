//! Tag expressions against a statement of what they mean that takes them apart byte by byte.

use super::*;
use crate::texts::{is_showable, text};
use proptest::prelude::*;
use proptest::sample::select;

/// What stands between the `||` of an expression.
fn parts(expression: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut rest = expression;
    while let Some(character) = rest.chars().next() {
        if let Some(behind) = rest.strip_prefix("||") {
            parts.push(String::new());
            rest = behind;
        } else {
            parts.last_mut().unwrap().push(character);
            rest = &rest[character.len_utf8()..];
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

/// What an expression lets through: `None` if it is none, `Some(None)` if everything.
fn meaning(expression: &str) -> Option<Option<BTreeSet<String>>> {
    let parts = parts(expression);
    if expression.len() > 16_384 {
        return None;
    }
    if expression.trim().is_empty() || parts.iter().all(|part| part == "*") {
        return Some(None);
    }
    parts.iter().all(|part| !part.is_empty() && !part.contains('|')).then(|| Some(parts.into_iter().collect()))
}

/// Few tags or many, close together or not, often as long as the limit or a byte off.
fn expression() -> impl Strategy<Value = String> {
    let tag = prop_oneof![4 => "[a-e]{1,3}", 1 => Just("*".to_owned()), 1 => Just("red car".to_owned()), 1 => text(6)];
    let or = select(&["||", " || ", "|| ", " ||\t", "|", "||||"][..]);
    let or = prop_oneof![3 => Just("||"), 1 => or];
    let some = prop::collection::vec((tag, or), 0..6).prop_map(|pairs| {
        let all: String = pairs.iter().flat_map(|(tag, or)| [tag, *or]).collect();
        // Half of them end with a tag.
        if pairs.len() % 2 == 0 { all.trim_end_matches(['|', ' ', '\t']).to_owned() } else { all }
    });
    let many = (select(&["||", " || "][..]), 16_380..16_389_usize).prop_map(|(or, bytes)| {
        let mut all = (0..).map(|n| format!("{n}{or}")).scan(0, |length, part| {
            *length += part.len();
            (*length < bytes).then_some(part)
        });
        let mut all: String = all.by_ref().collect();
        all.extend(std::iter::repeat_n('x', bytes - all.len()));
        all
    });
    prop_oneof![8 => some, 1 => many, 1 => text(16_384)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_tag_expression_means_its_parts_and_its_text_means_the_same(expression in expression(), other in "[a-e]{1,3}") {
        let meant = meaning(&expression);
        let filter = match (Filter::tags(&expression), &meant) {
            (Ok(filter), Some(_)) => filter,
            (Err(error), None) => {
                prop_assert!(is_showable(&error.to_string()), "{}", error);
                if let FilterError::TooLong { bytes } = error {
                    prop_assert!(error.to_string().contains("16384") && error.to_string().contains(&bytes.to_string()));
                    prop_assert!(bytes == expression.len() && bytes > 16_384);
                } else {
                    prop_assert!(error.to_string().starts_with("filter expression "));
                }
                return Ok(());
            }
            (filter, _) => return Err(TestCaseError::fail(format!("{filter:?}, but it means {meant:?}"))),
        };
        // Subscriptions are kept as text: what is read back has to be the same.
        let again = Filter::tags(&filter.to_string());
        prop_assert_eq!(again.as_ref(), Ok(&filter));
        let Filter::Tags(tags) = &filter else { panic!("{filter:?}") };
        let meant = meant.unwrap();
        prop_assert_eq!(tags.matches(None), meant.is_none());
        let candidates = parts(&expression).into_iter().chain([other, expression.clone()]);
        for candidate in candidates.take(40) {
            prop_assert_eq!(tags.matches(Some(&candidate)), meant.as_ref().is_none_or(|set| set.contains(&candidate)));
        }
    }
}
