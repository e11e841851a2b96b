//! Settings of topics and groups, each against a statement of its range that shares nothing with the code. Nothing of a change that is
//! refused is kept.

use crate::texts::{is_showable, text};
use crate::{Catalog, ChangeError, GroupSettings, TopicSettings};
use martlet_model::group::StartFrom;
use martlet_model::{DeadLetterPolicy, RetryBackoff, TopicType, UnixMillis};
use proptest::prelude::*;
use proptest::sample::select;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// Around each of these, and anything.
fn around(limits: &'static [i64]) -> impl Strategy<Value = i64> {
    prop_oneof![6 => (select(limits), -1..=1_i64).prop_map(|(limit, off)| limit.saturating_add(off)), 1 => any::<i64>()]
}

fn count(limits: &'static [i64]) -> impl Strategy<Value = u32> {
    around(limits).prop_map(|count| u32::try_from(count).unwrap_or(u32::MAX))
}

fn backoff() -> impl Strategy<Value = RetryBackoff> {
    let wait = || prop_oneof![9 => 1..=86_400_000_i64, 1 => around(&[0, 86_400_000])];
    let multiplier = prop_oneof![
        3 => 1.0..100.0_f64,
        2 => select(&[0.0, 0.999, 1.0, 100.0, 100.001, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY][..]),
    ];
    prop_oneof![
        prop_oneof![3 => prop::collection::vec(wait(), 0..4), 1 => prop::collection::vec(1..9_i64, 62..67)]
            .prop_map(RetryBackoff::Customized),
        (wait(), wait(), multiplier).prop_map(|(initial_millis, max_millis, multiplier)| RetryBackoff::Exponential {
            initial_millis,
            max_millis,
            multiplier
        }),
    ]
}

fn is_backoff(backoff: &RetryBackoff) -> bool {
    let is_wait = |millis: &i64| *millis >= 1 && *millis <= 24 * 60 * 60 * 1000;
    match backoff {
        RetryBackoff::Customized(waits) => !waits.is_empty() && waits.len() <= 64 && waits.iter().all(is_wait),
        RetryBackoff::Exponential { initial_millis, max_millis, multiplier } => {
            is_wait(initial_millis)
                && is_wait(max_millis)
                && initial_millis <= max_millis
                && *multiplier >= 1.0
                && *multiplier <= 100.0
        }
    }
}

/// That a change was made exactly if it `should` be, and is said to be `field`'s fault if not.
fn check<T: std::fmt::Debug>(changed: Result<T, ChangeError>, should: bool, field: &str) -> Result<(), TestCaseError> {
    prop_assert_eq!(changed.is_ok(), should, "{:?}", changed);
    if let Err(error) = changed {
        let text = error.to_string();
        prop_assert!(text.starts_with(field) && is_showable(&text), "{:?} is about {}", text, field);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn queues_of_a_topic_are_1_to_1024_and_none_is_written_that_is_not_read(
        queues in prop::option::of(count(&[0, 4, 1_024])),
        read_queues in prop::option::of(count(&[0, 4, 1_024])),
    ) {
        let mut catalog = Catalog::default();
        let four = TopicSettings { queues: Some(4), ..Default::default() };
        catalog.create_topic("t", &four, NOW, false).unwrap();
        let before = catalog.clone();
        let fine = |count: Option<u32>| count.is_none_or(|count| (1..=1_024).contains(&count));
        let legal = fine(queues) && fine(read_queues) && read_queues.is_none_or(|read| read >= queues.unwrap_or(4));
        let changed = catalog.update_topic("t", &TopicSettings { queues, read_queues, ..Default::default() });
        let field = if fine(queues) { "read queues " } else { "queues " };
        check(changed, legal, field)?;
        if !legal {
            prop_assert_eq!(&catalog, &before);
        }
        let topic = catalog.topic("t").unwrap();
        prop_assert!(topic.write_queues >= 1 && topic.write_queues <= topic.read_queues && topic.read_queues <= 1_024);
    }

    #[test]
    fn a_topic_keeps_messages_for_a_minute_to_ten_years(millis in around(&[0, 60_000, 315_360_000_000])) {
        let mut catalog = Catalog::default();
        let settings = TopicSettings { retention_millis: Some(millis), ..Default::default() };
        let legal = millis == 0 || (60_000..=3_650 * 24 * 60 * 60 * 1000).contains(&millis);
        check(catalog.create_topic("t", &settings, NOW, false), legal, &format!("retention {millis} ms "))?;
        prop_assert_eq!(catalog.topic("t").is_some(), legal);
    }

    #[test]
    fn a_group_delivers_1_to_10000_times(attempts in count(&[0, 17, 10_000])) {
        let mut catalog = Catalog::default();
        let settings = GroupSettings { max_attempts: Some(attempts), ..Default::default() };
        let legal = (1..=10_000).contains(&attempts);
        check(catalog.create_group("g", &settings, NOW, false), legal, &format!("maximum attempts {attempts} "))?;
    }

    #[test]
    fn a_group_waits_1_ms_to_a_day_between_deliveries(backoff in backoff()) {
        let mut catalog = Catalog::default();
        catalog.create_group("g", &GroupSettings::default(), NOW, false).unwrap();
        let before = catalog.clone();
        let settings = GroupSettings { backoff: Some(backoff.clone()), ..Default::default() };
        let field = match &backoff {
            RetryBackoff::Customized(_) => "back-off ",
            RetryBackoff::Exponential { .. } => "",
        };
        check(catalog.update_group("g", &settings), is_backoff(&backoff), field)?;
        if is_backoff(&backoff) {
            for attempt in [1, 2, 3, 64, 65, 10_000] {
                prop_assert!((1..=86_400_000).contains(&backoff.wait_millis(attempt)), "attempt {}", attempt);
            }
        } else {
            prop_assert_eq!(catalog, before);
        }
    }

    #[test]
    fn a_topic_recognises_send_retries_for_a_second_to_a_day_and_one_of_lite_topics_never(
        millis in around(&[0, 1_000, 86_400_000]),
        is_lite: bool,
    ) {
        let mut catalog = Catalog::default();
        let kind = Some(if is_lite { TopicType::Lite } else { TopicType::Normal });
        let settings = TopicSettings { kind, deduplicate_millis: Some(millis), ..Default::default() };
        let legal = millis == 0 || !is_lite && (1_000..=86_400_000).contains(&millis);
        check(catalog.create_topic("t", &settings, NOW, false), legal, &format!("de-duplication {millis} ms "))?;
    }

    #[test]
    fn a_group_begins_between_1970_and_the_end_of_9999(millis in around(&[0, 253_402_300_799_999]), latest: bool) {
        let mut catalog = Catalog::default();
        let start = if latest { StartFrom::Latest(millis) } else { StartFrom::Time(millis) };
        let settings = GroupSettings { start: Some(start), ..Default::default() };
        let legal = (0..253_402_300_800_000).contains(&millis);
        check(catalog.create_group("g", &settings, NOW, false), legal, &format!("start {millis} ms "))?;
    }

    #[test]
    fn names_in_the_catalog_keep_to_the_rules_of_names(
        name in prop_oneof![
            2 => text(127),
            1 => (select(&["%DLQ%", "%RETRY%", "rmq_sys_", "CID_RMQ_SYS_"][..]), text(120)).prop_map(|(prefix, rest)| format!("{prefix}{rest}")),
        ],
    ) {
        let mut catalog = Catalog::default();
        let of_a_group = name.starts_with("%DLQ%") || name.starts_with("%RETRY%");
        let legal = martlet_model::names::check_topic(&name).is_ok() && !of_a_group;
        check(catalog.create_topic(&name, &TopicSettings::default(), NOW, false), legal, "topic ")?;
        let settings = GroupSettings { dead_letters: Some(DeadLetterPolicy::Topic(name.clone())), ..Default::default() };
        check(catalog.create_group("g", &settings, NOW, false), legal, if of_a_group { "" } else { "topic " })?;
        let legal = martlet_model::names::check_group(&name).is_ok();
        check(catalog.create_group(&name, &GroupSettings::default(), NOW, false), legal, "consumer group ")?;
    }
}
