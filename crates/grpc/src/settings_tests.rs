use super::*;
use crate::proto::v2::{ClientType, FilterExpression, Publishing, Resource, Settings, Subscription, SubscriptionEntry};
use martlet_model::{DeadLetterPolicy, GroupId};

fn resource(name: &str) -> Resource {
    Resource { resource_namespace: "ns".into(), name: name.into() }
}

fn producer(topics: &[&str]) -> Settings {
    Settings {
        client_type: Some(ClientType::Producer as i32),
        pub_sub: Some(PubSub::Publishing(Publishing {
            topics: topics.iter().map(|topic| resource(topic)).collect(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn consumer(group: &str, topic: &str, kind: FilterType, expression: &str) -> Settings {
    let expression = FilterExpression { r#type: kind as i32, expression: expression.into() };
    Settings {
        client_type: Some(ClientType::PushConsumer as i32),
        pub_sub: Some(PubSub::Subscription(Subscription {
            group: Some(resource(group)),
            subscriptions: vec![SubscriptionEntry { topic: Some(resource(topic)), expression: Some(expression) }],
            ..Default::default()
        })),
        ..Default::default()
    }
}

fn group(order: DeliveryOrder, retry: RetryPolicy) -> GroupConfig {
    GroupConfig {
        id: GroupId(1),
        name: "billing".into(),
        order,
        pattern: Default::default(),
        lite: None,
        retry,
        dead_letters: DeadLetterPolicy::default(),
        start: Default::default(),
        pop_topics: Vec::new(),
        created_millis: 0,
        auto_created: false,
    }
}

#[test]
fn a_producer_gets_the_body_size_and_an_exponential_back_off() {
    let merged = merge(producer(&["orders"]), None);
    let Some(PubSub::Publishing(publishing)) = &merged.pub_sub else { panic!("{merged:?}") };
    assert_eq!(publishing.max_body_size, 4 * 1024 * 1024);
    assert!(publishing.validate_message_type);
    assert_eq!(publishing.topics, [resource("orders")], "topics come back with their namespace");
    assert!(matches!(merged.backoff_policy.unwrap().strategy, Some(Strategy::ExponentialBackoff(_))));
    assert_eq!(merged.metric, Some(v2::Metric { on: false, endpoints: None }));
    assert_eq!(role(&producer(&["orders"])).unwrap(), ClientRole::Producer { topics: vec!["ns%orders".into()] });
}

#[test]
fn a_consumer_gets_the_group_s_order_and_retry_policy() {
    let exponential = RetryBackoff::Exponential { initial_millis: 5000, max_millis: 7_200_000, multiplier: 2.0 };
    let fifo = group(DeliveryOrder::Fifo, RetryPolicy { max_attempts: 4, backoff: exponential });
    let merged = merge(consumer("billing", "orders", FilterType::Tag, "*"), Some(&fifo));
    let Some(PubSub::Subscription(subscription)) = &merged.pub_sub else { panic!("{merged:?}") };
    assert_eq!(subscription.fifo, Some(true));
    assert_eq!(subscription.receive_batch_size, Some(32));
    assert_eq!(subscription.long_polling_timeout, Some(time::duration(20_000)));
    assert_eq!((subscription.lite_subscription_quota, subscription.max_lite_topic_size), (Some(2000), Some(64)));
    let policy = merged.backoff_policy.unwrap();
    assert_eq!(policy.max_attempts, 4);
    let Some(Strategy::ExponentialBackoff(backoff)) = policy.strategy else { panic!("{policy:?}") };
    assert_eq!((backoff.initial, backoff.multiplier), (Some(time::duration(5000)), 2.0));

    // A group that does not exist yet is answered as if it were new.
    let merged = merge(consumer("billing", "orders", FilterType::Tag, "*"), None);
    let policy = merged.backoff_policy.unwrap();
    let Some(Strategy::CustomizedBackoff(backoff)) = policy.strategy else { panic!("{policy:?}") };
    assert_eq!((policy.max_attempts, backoff.next.len()), (17, 16));
    assert_eq!(backoff.next[0], time::duration(10_000));
}

#[test]
fn settings_that_break_a_rule_are_refused() {
    let code = |settings: &Settings| role(settings).unwrap_err().code;
    assert_eq!(code(&Settings::default()), Code::BadRequest);
    assert_eq!(code(&producer(&["a b"])), Code::IllegalTopic);
    assert_eq!(code(&producer(&["t"; TOPICS_MAX + 1])), Code::BadRequest);
    assert_eq!(code(&consumer("a b", "orders", FilterType::Tag, "*")), Code::IllegalConsumerGroup);
    assert_eq!(code(&consumer("billing", "", FilterType::Tag, "*")), Code::IllegalTopic);
    assert_eq!(code(&consumer("billing", "orders", FilterType::Tag, "a || ")), Code::IllegalFilterExpression);
    let sql = role(&consumer("billing", "orders", FilterType::Sql, "a > 1 garbage")).unwrap_err();
    let text = "filter expression, position 6: expected AND, OR or the end, found garbage";
    assert_eq!((sql.code, &sql.message[..]), (Code::IllegalFilterExpression, text));
    assert!(role(&consumer("billing", "orders", FilterType::Sql, "a > 1")).is_ok());

    let with = |properties: Vec<(String, String)>| Settings {
        client_properties: properties.into_iter().collect(),
        ..producer(&[])
    };
    assert!(role(&with(vec![("app.name-1_x".into(), "v".repeat(256))])).is_ok());
    for bad in [
        vec![("1a".to_owned(), String::new())],
        vec![("rocketmq.x".to_owned(), String::new())],
        vec![("k".repeat(65), String::new())],
        vec![("k".to_owned(), "v".repeat(257))],
        (0..33).map(|n| (format!("k{n}"), String::new())).collect(),
        (0..20).map(|n| (format!("k{n}"), "v".repeat(250))).collect(),
    ] {
        assert_eq!(code(&with(bad)), Code::InvalidClientProperties);
    }
}
