use super::naive::{Properties, conditions, properties};
use super::*;
use crate::filter::Filter;
use crate::record::RecordWriter;
use crate::record::{self, Field};
use crate::texts::{is_showable, text};
use proptest::prelude::*;

fn record_of(properties: &[(&str, &str)]) -> bytes::Bytes {
    let mut writer = RecordWriter::with_capacity(64);
    writer.field(Field::MessageId("01ID")).field(Field::Tag("red")).field(Field::Key("k1")).field(Field::Key("k2"));
    for (key, value) in properties {
        writer.field(Field::Property(key, value));
    }
    writer.field(Field::BornTimestamp(1_800_000_000_000)).field(Field::Priority(4));
    writer.finish(b"body")
}

fn passes(expression: &str, properties: &[(&str, &str)]) -> bool {
    let filter = SqlFilter::parse(expression).unwrap_or_else(|error| panic!("{expression}: {error}"));
    filter.matches(&record_of(properties))
}

fn refused_at(expression: &str) -> usize {
    match SqlFilter::parse(expression) {
        Err(FilterError::Sql { position, reason }) => {
            assert!(!reason.is_empty());
            position
        }
        other => panic!("{expression}: {other:?}"),
    }
}

#[test]
fn properties_take_the_type_of_what_they_are_compared_with() {
    let some = &[("n", "7"), ("d", "7.5"), ("t", "abc"), ("b", "True")][..];
    for expression in [
        "n = 7",
        "n = 7L",
        "n = 7.0",
        "d = 7.5",
        "n < 8 AND n >= 7 AND n <= 7 AND n > -1",
        "n <> 8",
        "t = 'abc'",
        "t <> 'x'",
        "n = '7'",
        "b = TRUE",
        "b <> false",
        "t = FALSE",
        "d > n",
        "7 < 8",
        "+n = 7",
        "d > 7",
    ] {
        let expected = expression != "d > 7";
        assert_eq!(passes(expression, some), expected, "{expression}");
    }
    for expression in ["n = 8", "t = 5", "t > 5", "d = 7", "t < n", "n = '07'", "t = TRUE", "n <> 7"] {
        assert!(!passes(expression, some), "{expression}");
    }
}

#[test]
fn what_is_missing_is_unknown_and_what_is_unknown_does_not_pass() {
    for expression in [
        "x = 1",
        "x <> 1",
        "NOT (x = 1)",
        "x IN ('a')",
        "x NOT IN ('a')",
        "x BETWEEN 1 AND 2",
        "x NOT BETWEEN 1 AND 2",
        "x CONTAINS 'a'",
        "x NOT CONTAINS 'a'",
        "n CONTAINS ''",
        "n NOT CONTAINS ''",
        "x = 1 AND n = 1",
        "NULL",
        "x",
        "n",
        "NOT x",
    ] {
        assert!(!passes(expression, &[("n", "1")]), "{expression}");
    }
    for expression in ["x IS NULL", "n IS NOT NULL", "x = 1 OR n = 1", "n = 1 OR x = 1", "NOT (x = 1 AND n = 2)"] {
        assert!(passes(expression, &[("n", "1")]), "{expression}");
    }
}

#[test]
fn a_property_of_another_type_ends_the_evaluation_unless_it_was_decided_before() {
    assert!(!passes("t > 5 OR n = 1", &[("n", "1"), ("t", "x")]));
    assert!(passes("n = 1 OR t > 5", &[("n", "1"), ("t", "x")]));
    assert!(!passes("NOT (t > 5)", &[("t", "x")]));
    assert!(!passes("(t > 5) IS NULL", &[("t", "x")]));
}

#[test]
fn words_are_found_in_any_case_texts_have_quotes_and_comments_are_nothing() {
    let some = &[("city", "'s-Hertogenbosch"), ("n", "5")][..];
    assert!(passes("city Contains 'Herto' and city startsWITH '''s-' AND city endswith 'bosch'", some));
    assert!(passes("n /* five */ = -- of all\n 5", some));
    assert!(passes("n between 5. and 5E0 and n in ('4', '5') and not (n in('6'))", some));
    assert!(passes("n = 5 -- and nothing else", some));
    assert!(passes("((((n)) = ((5))))", some));
    assert!(passes("n > .5", some));
}

#[test]
fn system_properties_are_visible_by_their_keys() {
    for expression in [
        "TAGS = 'red'",
        "KEYS = 'k1 k2'",
        "UNIQ_KEY = '01ID'",
        "BORN_TIMESTAMP >= 1800000000000",
        "_SYS_MSG_PRIORITY_ BETWEEN 4 AND 4",
        "__SHARDINGKEY IS NULL",
        "TAGS IN ('blue', 'red') AND KEYS CONTAINS 'k2' AND n = 1",
    ] {
        assert!(passes(expression, &[("n", "1")]), "{expression}");
    }
}

/// The reference takes only ASCII identifiers.
#[test]
fn names_with_dashes_dots_and_letters_of_any_language_are_usable() {
    let some = &[("order-type", "a"), ("app.version", "3"), ("größe", "9"), ("订单", "x"), ("a b", "y"), ("in", "z")];
    for expression in [
        "order-type = 'a'",
        "app.version = 3",
        "größe > 8",
        "订单 = 'x'",
        "\"a b\" = 'y'",
        "\"in\" in ('z')",
        "order-type='a'--comment",
    ] {
        assert!(passes(expression, some), "{expression}");
    }
}

/// The reference refuses it.
#[test]
fn zero_with_a_point_is_a_number() {
    assert!(passes("n > 0.0 AND m = 0.0", &[("n", "0.1"), ("m", "0")]));
}

/// The reference ignores what follows a valid prefix.
#[test]
fn what_follows_a_condition_is_refused_with_its_place() {
    assert_eq!(refused_at("a = 1 garbage"), 6);
    assert_eq!(refused_at("a = 1)"), 5);
    assert_eq!(refused_at("a = 1 b = 2"), 6);
    let error = SqlFilter::parse("a = 1 garbage").unwrap_err().to_string();
    assert_eq!(error, "filter expression, position 6: expected AND, OR or the end, found garbage");
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    for (expression, place) in [
        ("", 0),
        ("a", usize::MAX),
        ("a =", 3),
        ("a = NULL", 2),
        ("a != 1", 2),
        ("a LIKE 'x'", 2),
        ("a + 1 = 2", 2),
        ("a > 'x'", 4),
        ("a > TRUE", 4),
        ("'x' < a", 0),
        ("a BETWEEN 5 AND 3", 10),
        ("a BETWEEN 'x' AND 'y'", 10),
        ("a BETWEEN 1 OR 2", 12),
        ("a IN ()", 6),
        ("a IN ('x', 5)", 11),
        ("a IN ('x'", 9),
        ("5 IN ('x')", 0),
        ("a CONTAINS 5", 11),
        ("a CONTAINS b", 11),
        ("5", 0),
        ("'x'", 0),
        ("a = 007", 4),
        ("a = 9223372036854775808", 4),
        ("a = 99999999999999999999", 4),
        ("a = 5x", 5),
        ("a = 1e999", 4),
        ("a = 'x", 4),
        ("a = \"x", 4),
        ("\"\" = 1", 0),
        ("/* a = 1", 0),
        ("(a = 1", 6),
        ("a NOT = 1", 6),
        ("a IS 5", 5),
        ("a = 1 AND", 9),
        ("AND a = 1", 0),
        ("-a = 1", 0),
        ("(a = 1) = 5", 8),
        ("a = 1 ; b = 2", 6),
        ("a > 1 > 2", 0),
        ("NOT a = 1", 0),
        ("b = 1 OR NOT a IN ('x')", 9),
        ("NOT a IS NULL", 0),
    ] {
        if place == usize::MAX {
            assert!(SqlFilter::parse(expression).is_ok());
        } else {
            assert_eq!(refused_at(expression), place, "{expression}");
        }
    }
    assert!(SqlFilter::parse("a = -9223372036854775808").is_ok());
}

#[test]
fn depth_length_and_properties_are_bounded() {
    let nested = |levels: usize| format!("{}a = 1{}", "(".repeat(levels), ")".repeat(levels));
    assert!(SqlFilter::parse(&nested(SQL_DEPTH_MAX - 1)).is_ok());
    assert_eq!(refused_at(&nested(SQL_DEPTH_MAX)), SQL_DEPTH_MAX);
    assert!(SqlFilter::parse(&format!("{}a", "NOT ".repeat(10_000))).is_err());
    assert!(SqlFilter::parse(&format!("a = 1{}", " IS NULL".repeat(SQL_DEPTH_MAX))).is_err());
    assert!(SqlFilter::parse(&format!("a{}", " = a".repeat(SQL_DEPTH_MAX + 1))).is_err());
    // A long row is not deep.
    let row = vec!["a=1"; 2_000].join(" OR ");
    assert!(passes(&row, &[("a", "1")]));
    let names: Vec<String> = (0..=SQL_PROPERTIES_MAX).map(|n| format!("p{n}=1")).collect();
    assert!(SqlFilter::parse(&names[1..].join(" OR ")).is_ok());
    assert!(SqlFilter::parse(&names.join(" OR ")).is_err());
    let many: Vec<_> = names[1..].iter().map(|name| name.trim_end_matches("=1")).collect();
    assert!(passes(&names[1..].join(" AND "), &many.iter().map(|name| (*name, "1")).collect::<Vec<_>>()));
    assert!(matches!(SqlFilter::parse(&" ".repeat(FILTER_BYTES_MAX + 1)), Err(FilterError::TooLong { .. })));
}

#[test]
fn filters_of_both_languages_are_one_kind_of_thing() {
    assert!(Filter::sql(" * ").unwrap().is_all() && Filter::sql("").unwrap().is_all());
    assert!(!Filter::NONE.matches(&record_of(&[])) && Filter::ALL.matches(&record_of(&[])));
    assert_eq!(Filter::sql(" a = 1 ").unwrap(), Filter::sql("a = 1").unwrap());
    assert_ne!(Filter::sql("red").unwrap(), Filter::tags("red").unwrap());
    assert!(Filter::tags("red || blue").unwrap().matches(&record_of(&[])));
    assert_eq!(Filter::sql("a = 1").unwrap().to_string(), "a = 1");
}

#[test]
fn a_dead_letter_shows_its_own_fields_first() {
    let again = record::with_fields(&record_of(&[("n", "1")]), &[Field::DeadLetterTopic("orders")]).unwrap();
    assert!(SqlFilter::parse("DLQ_ORIGIN_TOPIC = 'orders' AND n = 1").unwrap().matches(&again));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn conditions_mean_what_the_sheet_says(condition in conditions(), properties in properties()) {
        let text = condition.text();
        let filter = SqlFilter::parse(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        let fields: Vec<_> = Properties::iter(&properties).map(|(key, value)| (*key, *value)).collect();
        let expected = condition.means(&properties) == Ok(Some(true));
        prop_assert_eq!(filter.matches(&record_of(&fields)), expected, "{}", text);
    }

    /// Subscriptions are kept as text.
    #[test]
    fn the_text_of_a_condition_compiles_to_the_same_condition(
        condition in conditions(),
        properties in properties(),
        around in prop::sample::select(&[("", ""), (" ", "\n"), ("-- why\n", " "), ("", " -- why"), ("/* why */", "\t/**/")][..]),
    ) {
        let text = format!("{}{}{}", around.0, condition.text(), around.1);
        let filter = Filter::sql(&text).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
        let again = Filter::sql(&filter.to_string());
        prop_assert_eq!(again.as_ref(), Ok(&filter));
        let fields: Vec<_> = Properties::iter(&properties).map(|(key, value)| (*key, *value)).collect();
        let record = record_of(&fields);
        prop_assert_eq!(again.unwrap().matches(&record), filter.matches(&record), "{}", text);
    }

    /// A condition with one piece of it cut out and another put in its place.
    #[test]
    fn a_damaged_condition_is_refused_with_its_place_or_is_another_condition(
        condition in conditions(),
        cut in any::<(prop::sample::Index, prop::sample::Index)>(),
        piece in prop_oneof![text(4), text(400), "[0-9]{1,40}", Just("9".repeat(2_000))],
    ) {
        let whole: Vec<char> = condition.text().chars().collect();
        let (from, to) = (cut.0.index(whole.len() + 1), cut.1.index(whole.len() + 1));
        let (from, to) = (from.min(to), from.max(to));
        let damaged: String = whole[..from].iter().copied().chain(piece.chars()).chain(whole[to..].iter().copied()).collect();
        match Filter::sql(&damaged) {
            Ok(filter) => {
                filter.matches(&record_of(&[("a", "5"), ("b", "x")]));
                prop_assert_eq!(Filter::sql(&filter.to_string()), Ok(filter));
            }
            Err(error) => {
                prop_assert!(is_showable(&error.to_string()), "{:?}", error);
                let FilterError::Sql { position, .. } = error else { return Err(TestCaseError::fail(error.to_string())) };
                prop_assert!(damaged.is_char_boundary(position), "{damaged}: {position}");
            }
        }
    }

    #[test]
    fn no_text_makes_the_parser_fail_otherwise_than_with_a_place_in_it(text in "[ -~\\n\u{e4}\u{4e2d}]{0,60}") {
        if let Err(FilterError::Sql { position, .. }) = SqlFilter::parse(&text) {
            prop_assert!(text.is_char_boundary(position), "{text}: {position}");
        }
    }

    #[test]
    fn no_row_of_tokens_does_either(
        tokens in prop::collection::vec(
            prop::sample::select(&["a", "5", "1.5", "'x'", "NOT", "AND", "OR", "IN", "(", ")", ",", "=", "<", "<>",
                "BETWEEN", "IS", "NULL", "TRUE", "-", "+", "CONTAINS", "\"q\"", "--", "/*", "*/"][..]),
            0..24,
        ),
    ) {
        let text = tokens.join(" ");
        if let Ok(filter) = SqlFilter::parse(&text) {
            filter.matches(&record_of(&[("a", "5"), ("q", "x")]));
        }
    }
}
