use crate::{Catalog, ChangeError, DecodeError, GroupSettings, POP_TOPICS_MAX, TopicSettings};
use martlet_model::group::{ConsumptionPattern, DeliveryOrder, RequestMode, StartFrom};
use martlet_model::{DeadLetterPolicy, Permission, RetryBackoff, TopicType, UnixMillis};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn queues(queues: u32) -> TopicSettings {
    TopicSettings { queues: Some(queues), ..TopicSettings::default() }
}

fn text<T: std::fmt::Debug>(result: Result<T, ChangeError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_topic_gets_defaults_and_an_id_that_is_never_used_again() {
    let mut catalog = Catalog::default();
    let first = catalog.create_topic("orders", &TopicSettings::default(), NOW, false).unwrap();
    assert_eq!((first.read_queues, first.write_queues, first.kind), (8, 8, TopicType::Normal));
    assert_eq!((first.permission, first.created_millis), (Permission::ReadWrite, NOW.0));
    catalog.delete_topic("orders").unwrap();
    let second = catalog.create_topic("orders", &TopicSettings::default(), NOW, true).unwrap();
    assert_ne!(first.id, second.id);
    assert!(second.auto_created);
}

#[test]
fn creating_again_is_fine_with_the_same_settings_and_refused_with_others() {
    let mut catalog = Catalog::default();
    let first = catalog.create_topic("orders", &queues(4), NOW, false).unwrap();
    let before = catalog.clone();
    assert_eq!(catalog.create_topic("orders", &queues(4), UnixMillis(5), false).unwrap(), first);
    assert_eq!(text(catalog.create_topic("orders", &queues(5), NOW, false)), "topic orders exists already");
    assert_eq!(catalog, before);
    let fifo = GroupSettings { order: Some(DeliveryOrder::Fifo), ..GroupSettings::default() };
    catalog.create_group("g", &GroupSettings::default(), NOW, false).unwrap();
    assert_eq!(text(catalog.create_group("g", &fifo, NOW, false)), "consumer group g exists already");
}

#[test]
fn growing_adds_read_queues_and_shrinking_keeps_them_until_told() {
    let mut catalog = Catalog::default();
    let both = |catalog: &Catalog| {
        let topic = catalog.topic("t").unwrap();
        (topic.read_queues, topic.write_queues)
    };
    catalog.create_topic("t", &queues(4), NOW, false).unwrap();
    catalog.update_topic("t", &queues(6)).unwrap();
    assert_eq!(both(&catalog), (6, 6));
    catalog.update_topic("t", &queues(2)).unwrap();
    assert_eq!(both(&catalog), (6, 2));
    let read = |read_queues| TopicSettings { read_queues: Some(read_queues), ..TopicSettings::default() };
    assert_eq!(
        text(catalog.update_topic("t", &read(1))),
        "read queues 1 is fewer than the queues that messages are sent to"
    );
    catalog.update_topic("t", &read(2)).unwrap();
    assert_eq!(both(&catalog), (2, 2));
    for count in [0, 1025, u32::MAX] {
        assert_eq!(
            text(catalog.update_topic("t", &queues(count))),
            format!("queues {count} is not between 1 and 1024")
        );
    }
}

#[test]
fn what_is_fixed_at_creation_cannot_be_changed() {
    let mut catalog = Catalog::default();
    catalog.create_topic("t", &TopicSettings::default(), NOW, false).unwrap();
    catalog.create_group("g", &GroupSettings::default(), NOW, false).unwrap();
    let kind = TopicSettings { kind: Some(TopicType::Fifo), queues: Some(3), ..TopicSettings::default() };
    assert!(text(catalog.update_topic("t", &kind)).starts_with("type fifo cannot replace"));
    assert_eq!(catalog.topic("t").unwrap().write_queues, 8);
    let order = GroupSettings { order: Some(DeliveryOrder::Fifo), ..GroupSettings::default() };
    assert!(text(catalog.update_group("g", &order)).starts_with("delivery order fifo cannot replace"));
    let pattern = GroupSettings { pattern: Some(ConsumptionPattern::LiteSelective), ..GroupSettings::default() };
    assert!(text(catalog.update_group("g", &pattern)).starts_with("consumption pattern lite-selective cannot"));
    let same = GroupSettings { order: Some(DeliveryOrder::Concurrent), ..GroupSettings::default() };
    catalog.update_group("g", &same).unwrap();
}

#[test]
fn names_follow_the_rules_and_topics_of_groups_are_not_created_by_hand() {
    let mut catalog = Catalog::default();
    let settings = TopicSettings::default();
    assert!(matches!(catalog.create_topic("a b", &settings, NOW, false), Err(ChangeError::Name(_))));
    assert!(matches!(catalog.create_topic("%DLQ%g", &settings, NOW, false), Err(ChangeError::Setting { .. })));
    assert!(matches!(catalog.create_group("a/b", &GroupSettings::default(), NOW, false), Err(ChangeError::Name(_))));
    assert_eq!(text(catalog.update_topic("nope", &settings)), "topic nope does not exist");
    assert_eq!(text(catalog.delete_group("nope")), "consumer group nope does not exist");
}

#[test]
fn ranges_of_retention_attempts_and_back_off_are_kept() {
    let mut catalog = Catalog::default();
    let keep = |millis| TopicSettings { retention_millis: Some(millis), ..TopicSettings::default() };
    for millis in [-1, 1, 59_999, i64::MAX] {
        let refusal = text(catalog.create_topic("t", &keep(millis), NOW, false));
        assert_eq!(refusal, format!("retention {millis} ms is not between one minute and 3650 days"));
    }
    catalog.create_topic("t", &keep(60_000), NOW, false).unwrap();
    assert_eq!(catalog.update_topic("t", &keep(0)).unwrap().retention_millis, None);

    let customized = |waits: &[i64]| RetryBackoff::Customized(waits.to_vec());
    let exponential =
        |initial_millis, max_millis, multiplier| RetryBackoff::Exponential { initial_millis, max_millis, multiplier };
    for backoff in [
        customized(&[]),
        customized(&[0]),
        customized(&[10_000, -1]),
        customized(&[1; 65]),
        customized(&[86_400_001]),
        exponential(0, 5, 2.0),
        exponential(10, 5, 2.0),
        exponential(10, 500, 0.5),
        exponential(10, 500, f64::NAN),
        exponential(10, 500, f64::INFINITY),
    ] {
        let settings = GroupSettings { backoff: Some(backoff.clone()), ..GroupSettings::default() };
        assert!(catalog.create_group("g", &settings, NOW, false).is_err(), "{backoff:?}");
    }
    for max_attempts in [0, 10_001] {
        let settings = GroupSettings { max_attempts: Some(max_attempts), ..GroupSettings::default() };
        assert!(catalog.create_group("g", &settings, NOW, false).is_err(), "{max_attempts}");
    }
    let settings = GroupSettings {
        max_attempts: Some(1),
        backoff: Some(exponential(5_000, 7_200_000, 2.0)),
        dead_letters: Some(DeadLetterPolicy::Topic("graves".into())),
        ..GroupSettings::default()
    };
    catalog.create_group("g", &settings, NOW, false).unwrap();
    let looped =
        GroupSettings { dead_letters: Some(DeadLetterPolicy::Topic("%RETRY%g".into())), ..GroupSettings::default() };
    assert_eq!(text(catalog.update_group("g", &looped)), "dead-letter topic %RETRY%g belongs to a consumer group");
}

#[test]
fn an_ordered_group_waits_three_seconds_and_a_concurrent_one_by_the_list() {
    let mut catalog = Catalog::default();
    let fifo = GroupSettings { order: Some(DeliveryOrder::Fifo), ..GroupSettings::default() };
    let ordered = catalog.create_group("ordered", &fifo, NOW, false).unwrap();
    assert_eq!((ordered.retry.max_attempts, ordered.retry.backoff.wait_millis(4)), (17, 3_000));
    let concurrent = catalog.create_group("concurrent", &GroupSettings::default(), NOW, false).unwrap();
    assert_eq!(concurrent.retry.backoff.wait_millis(2), 30_000);
}

#[test]
fn lite_settings_are_taken_where_they_mean_something_and_within_their_ranges() {
    let mut catalog = Catalog::default();
    let expire = |minutes| TopicSettings { lite_expire_minutes: Some(minutes), ..TopicSettings::default() };
    let parent = TopicSettings { kind: Some(TopicType::Lite), ..expire(30) };
    let topic = catalog.create_topic("chat", &parent, NOW, false).unwrap();
    assert_eq!(topic.lite.expire_minutes, Some(30));
    assert_eq!(catalog.update_topic("chat", &expire(-1)).unwrap().lite.expire_minutes, None);
    for minutes in [0, -2, 43_201] {
        assert!(text(catalog.update_topic("chat", &expire(minutes))).contains("43200"));
    }
    catalog.create_topic("plain", &TopicSettings::default(), NOW, false).unwrap();
    assert!(text(catalog.update_topic("plain", &expire(30))).contains("type lite"));

    let lite = |parent: Option<&str>| GroupSettings {
        pattern: Some(ConsumptionPattern::LiteSelective),
        lite_parent: parent.map(Into::into),
        ..GroupSettings::default()
    };
    assert!(text(catalog.create_group("web", &lite(None), NOW, false)).contains("missing"));
    assert!(text(catalog.create_group("web", &lite(Some("plain")), NOW, false)).contains("not a topic of type lite"));
    assert!(text(catalog.create_group("web", &lite(Some("nowhere")), NOW, false)).contains("nowhere"));
    let group = catalog.create_group("web", &lite(Some("chat")), NOW, false).unwrap();
    assert_eq!(group.lite.as_ref().map(|lite| (lite.exclusive, lite.quota())), Some((false, 2_000)));
    assert_eq!(group.retry.backoff.wait_millis(1), 3_000, "a lite topic waits as a whole");
    let most = |max| GroupSettings { lite_subscriptions_max: Some(max), ..GroupSettings::default() };
    assert_eq!(catalog.update_group("web", &most(-1)).unwrap().lite.as_ref().map(|lite| lite.quota()), Some(50_000));
    for max in [0, -2, 50_001] {
        assert!(text(catalog.update_group("web", &most(max))).contains("50000"));
    }
    catalog.create_group("g", &GroupSettings::default(), NOW, false).unwrap();
    assert!(text(catalog.update_group("g", &most(5))).contains("lite-selective"));
    let resets = |unsubscribe| GroupSettings { lite_reset_unsubscribe: Some(unsubscribe), ..GroupSettings::default() };
    assert!(text(catalog.update_group("g", &resets(false))).contains("lite-selective"));
    for unsubscribe in [true, false] {
        let group = catalog.update_group("web", &resets(unsubscribe)).unwrap();
        let found = group.lite.as_ref().map(|lite| (lite.resets.exclusive, lite.resets.unsubscribe));
        assert_eq!(found, Some((false, unsubscribe)));
        assert!(resets(unsubscribe).agree_with(&group) && !resets(!unsubscribe).agree_with(&group));
    }
    let exclusive = GroupSettings { lite_exclusive: Some(true), ..GroupSettings::default() };
    assert!(text(catalog.update_group("web", &exclusive)).contains("cannot be changed"));
    assert_eq!(Catalog::decode(0, &catalog.encode().unwrap()).unwrap(), Catalog { version: 0, ..catalog });
}

fn sample() -> Catalog {
    let mut catalog = Catalog { version: 7, ..Catalog::default() };
    let lite = TopicSettings {
        kind: Some(TopicType::Lite),
        permission: Some(Permission::Read),
        retention_millis: Some(60_000),
        ..queues(3)
    };
    catalog.create_topic("lite", &lite, NOW, false).unwrap();
    catalog.create_topic("plain", &TopicSettings::default(), NOW, true).unwrap();
    let settings = GroupSettings {
        backoff: Some(RetryBackoff::Exponential { initial_millis: 1, max_millis: 9, multiplier: 1.5 }),
        dead_letters: Some(DeadLetterPolicy::Discard),
        ..GroupSettings::default()
    };
    catalog.create_group("g", &settings, NOW, false).unwrap();
    catalog
}

#[test]
fn the_request_mode_is_kept_per_topic_and_bounded() {
    let mut catalog = sample();
    let set =
        |topic: &str, mode| GroupSettings { request_mode: Some((topic.into(), mode)), ..GroupSettings::default() };
    let fresh = Catalog::decode(7, &catalog.encode().unwrap()).unwrap();
    for topic in ["orders", "audits", "orders"] {
        catalog.update_group("g", &set(topic, RequestMode::Pop)).unwrap();
    }
    assert_eq!(catalog.group("g").unwrap().pop_topics, ["audits", "orders"]);
    let read = Catalog::decode(7, &catalog.encode().unwrap()).unwrap();
    let modes = ["audits", "orders", "others"].map(|topic| read.group("g").unwrap().request_mode(topic));
    assert_eq!(modes, [RequestMode::Pop, RequestMode::Pop, RequestMode::Pull]);
    for topic in ["audits", "orders", "others"] {
        catalog.update_group("g", &set(topic, RequestMode::Pull)).unwrap();
    }
    assert_eq!(Catalog::decode(7, &catalog.encode().unwrap()).unwrap(), fresh);
    assert!(matches!(catalog.update_group("g", &set("no topic", RequestMode::Pop)), Err(ChangeError::Name(_))));
    for number in 0..POP_TOPICS_MAX {
        catalog.update_group("g", &set(&format!("t{number}"), RequestMode::Pop)).unwrap();
    }
    let refused = catalog.update_group("g", &set("one-more", RequestMode::Pop)).unwrap_err().to_string();
    assert!(refused.contains("one-more") && refused.contains("1000"), "{refused}");
}

#[test]
fn a_group_begins_where_it_is_told_to_and_latest_agrees_with_latest() {
    let mut catalog = sample();
    let begins = |start| GroupSettings { start: Some(start), ..GroupSettings::default() };
    assert_eq!(catalog.group("g").unwrap().start, StartFrom::Earliest);
    let made = catalog.create_group("late", &begins(StartFrom::Latest(5)), NOW, false).unwrap();
    assert_eq!((made.start, made.start.since()), (StartFrom::Latest(5), Some(5)));
    let again = catalog.create_group("late", &begins(StartFrom::Latest(9)), NOW, false).unwrap();
    assert_eq!(again.start, StartFrom::Latest(5), "the same settings: it stays as it is");
    let other = catalog.create_group("late", &begins(StartFrom::Time(5)), NOW, false);
    assert!(matches!(other, Err(ChangeError::Exists { .. })), "{other:?}");
    assert_eq!(Catalog::decode(7, &catalog.encode().unwrap()).unwrap(), catalog);
    let updated = catalog.update_group("late", &begins(StartFrom::Latest(9))).unwrap();
    assert_eq!(updated.start, StartFrom::Latest(9), "later than then");
    for bad in [-1, 253_402_300_800_000] {
        let refused = catalog.update_group("late", &begins(StartFrom::Time(bad)));
        assert!(matches!(refused, Err(ChangeError::Setting { field: "start", .. })), "{refused:?}");
    }
}

#[test]
fn bytes_round_trip_and_the_layout_is_pinned() {
    let catalog = sample();
    let bytes = catalog.encode().unwrap();
    assert_eq!(Catalog::decode(7, &bytes).unwrap(), catalog);
    let fixture = include_str!("../tests/fixtures/catalog-format-1.json");
    assert_eq!(std::str::from_utf8(&bytes).unwrap(), fixture.trim_end());
}

#[test]
fn every_damaged_byte_is_noticed() {
    let bytes = sample().encode().unwrap();
    for place in 0..bytes.len() {
        let mut damaged = bytes.to_vec();
        damaged[place] ^= 0x01;
        assert!(Catalog::decode(7, &damaged).is_err(), "byte {place} changed and nobody saw it");
    }
    for length in 0..bytes.len() {
        assert!(Catalog::decode(7, &bytes[..length]).is_err(), "cut to {length} bytes");
    }
    assert!(Catalog::decode(8, &bytes).unwrap_err().to_string().contains("kept as version 8"));
}

#[test]
fn a_newer_format_is_refused_by_number() {
    let error = Catalog::decode(1, br#"{"format":9,"something":"else"}"#).unwrap_err();
    assert_eq!(error, DecodeError::NewerFormat { found: 9 });
}
