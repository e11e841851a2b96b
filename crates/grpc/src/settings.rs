//! Settings: what a client says at the start of a session, checked, and the answer with the broker's part filled in.
//!
//! Source: grpc.md sections 6.1 and 6.3. Two values are a matter of life and death for clients: a maximum body size of
//! 0 makes producers refuse every message, and a retry policy without a strategy makes consumers fail at start.

use crate::code::Denied;
use crate::message_in::cut;
use crate::proto::v2::{self, Code, FilterType, retry_policy::Strategy, settings::PubSub};
use crate::resource::{group_name, topic_name};
use crate::time;
use martlet_broker::{ClientInfo, ClientRole};
use martlet_model::group::DeliveryOrder;
use martlet_model::{Filter, GroupConfig, LiteConsumers, RetryBackoff, RetryPolicy, limits};
use std::sync::Arc;

/// Most topics in one client's settings, published or subscribed. Our own limit.
const TOPICS_MAX: usize = 1024;
/// Attempts of producers to send one message.
const PRODUCER_ATTEMPTS_MAX: i32 = 3;

const CLIENT_PROPERTIES_MAX: usize = 32;
const CLIENT_PROPERTY_KEY_MAX: usize = 64;
const CLIENT_PROPERTY_VALUE_MAX: usize = 256;
const CLIENT_PROPERTIES_BYTES_MAX: usize = 4096;

/// What the settings say about the client's place in the broker.
pub(crate) fn role(settings: &v2::Settings) -> Result<ClientRole, Denied> {
    check_client_properties(settings)?;
    match &settings.pub_sub {
        None => Err(Denied::new(Code::BadRequest, "settings have neither publishing nor subscription")),
        Some(PubSub::Publishing(publishing)) => {
            check_count("publishing.topics", publishing.topics.len())?;
            let mut topics = Vec::with_capacity(publishing.topics.len());
            for topic in &publishing.topics {
                topics.push(topic_name(Some(topic))?);
            }
            Ok(ClientRole::Producer { topics })
        }
        Some(PubSub::Subscription(subscription)) => {
            check_count("subscription.subscriptions", subscription.subscriptions.len())?;
            let group = group_name(subscription.group.as_ref())?;
            let mut subscriptions = Vec::with_capacity(subscription.subscriptions.len());
            for entry in &subscription.subscriptions {
                let topic = topic_name(entry.topic.as_ref())?;
                subscriptions.push((topic, filter(entry.expression.as_ref())?));
            }
            Ok(ClientRole::Consumer { group, push: is_push(settings.client_type()), subscriptions })
        }
    }
}

/// The namespace of what a producer sends to: that of the first of its topics.
pub(crate) fn published_namespace(settings: &v2::Settings) -> &str {
    match &settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => publishing.topics.first().map_or("", |topic| &topic.resource_namespace),
        _ => "",
    }
}

/// Whether this type of client hands messages to a listener.
pub(crate) fn is_push(client_type: v2::ClientType) -> bool {
    matches!(client_type, v2::ClientType::PushConsumer | v2::ClientType::LitePushConsumer)
}

/// Whether this type of client consumes lite topics.
pub(crate) fn is_lite(client_type: v2::ClientType) -> bool {
    matches!(client_type, v2::ClientType::LitePushConsumer | v2::ClientType::LiteSimpleConsumer)
}

/// Compiles a filter expression. None at all means every message.
pub(crate) fn filter(expression: Option<&v2::FilterExpression>) -> Result<Filter, Denied> {
    let Some(expression) = expression else { return Ok(Filter::ALL) };
    let compiled = match FilterType::try_from(expression.r#type) {
        Ok(FilterType::Tag | FilterType::Unspecified) => Filter::tags(&expression.expression),
        Ok(FilterType::Sql) => Filter::sql(&expression.expression),
        Err(_) => {
            let text = format!("filter type {} is not known", expression.r#type);
            return Err(Denied::new(Code::IllegalFilterExpression, text));
        }
    };
    compiled.map_err(|error| Denied::new(Code::IllegalFilterExpression, error.to_string()))
}

/// A filter in the words of the wire.
pub(crate) fn expression(filter: &Filter) -> v2::FilterExpression {
    let kind = match filter {
        Filter::Tags(_) => FilterType::Tag,
        Filter::Sql(_) => FilterType::Sql,
    };
    v2::FilterExpression { r#type: kind as i32, expression: filter.to_string() }
}

/// What the registry of clients keeps.
pub(crate) fn client_info(
    client_id: &Arc<str>,
    language: &str,
    version: &str,
    remote: String,
    settings: &v2::Settings,
    role: ClientRole,
) -> ClientInfo {
    let agent = settings.user_agent.as_ref();
    let or_agent = |header: &str, agent: Option<&str>| {
        if header.is_empty() { cut(agent.unwrap_or("")) } else { cut(header) }
    };
    ClientInfo {
        client_id: client_id.clone(),
        language: or_agent(language, agent.map(|agent| agent.language().as_str_name())),
        version: or_agent(version, agent.map(|agent| agent.version.as_str())),
        remote,
        role,
    }
}

/// The settings that go back: the client's own, with the broker's part filled in. `group` is the consumer group's
/// entry in the catalog, if it has one.
pub(crate) fn merge(mut settings: v2::Settings, group: Option<&GroupConfig>) -> v2::Settings {
    match &mut settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            publishing.max_body_size = limits::BODY_BYTES_MAX as i32;
            publishing.validate_message_type = true;
            settings.backoff_policy = Some(v2::RetryPolicy {
                max_attempts: PRODUCER_ATTEMPTS_MAX,
                // Three clients fail at start with anything but an exponential back-off here.
                strategy: Some(Strategy::ExponentialBackoff(v2::ExponentialBackoff {
                    initial: Some(time::duration(10)),
                    max: Some(time::duration(1000)),
                    multiplier: 2.0,
                })),
            });
        }
        Some(PubSub::Subscription(subscription)) => {
            subscription.fifo = Some(group.is_some_and(|group| group.order == DeliveryOrder::Fifo));
            subscription.receive_batch_size = Some(limits::RECEIVE_BATCH_MAX as i32);
            subscription.long_polling_timeout = Some(time::duration(limits::POLL_MILLIS.1));
            let lite = group.and_then(|group| group.lite.as_ref());
            let quota = lite.map_or(limits::LITE_SUBSCRIPTIONS_DEFAULT, LiteConsumers::quota);
            // Neither may be missing or 0, whatever the client: some then refuse every subscription or hang at start.
            subscription.lite_subscription_quota = Some(i32::try_from(quota).unwrap_or(i32::MAX));
            subscription.max_lite_topic_size = Some(limits::LITE_TOPIC_BYTES_MAX as i32);
            settings.backoff_policy = Some(match group {
                Some(group) => retry_policy(&group.retry),
                None => retry_policy(&RetryPolicy::default()),
            });
        }
        None => {}
    }
    settings.metric = Some(v2::Metric { on: false, endpoints: None });
    settings
}

/// A retry policy in the words of the wire.
pub(crate) fn retry_policy(policy: &RetryPolicy) -> v2::RetryPolicy {
    let strategy = match &policy.backoff {
        RetryBackoff::Customized(waits) => {
            let waits = if waits.is_empty() { &[0][..] } else { waits };
            Strategy::CustomizedBackoff(v2::CustomizedBackoff {
                next: waits.iter().map(|millis| time::duration(*millis)).collect(),
            })
        }
        RetryBackoff::Exponential { initial_millis, max_millis, multiplier } => {
            Strategy::ExponentialBackoff(v2::ExponentialBackoff {
                initial: Some(time::duration(*initial_millis)),
                max: Some(time::duration(*max_millis)),
                multiplier: *multiplier as f32,
            })
        }
    };
    v2::RetryPolicy { max_attempts: i32::try_from(policy.max_attempts).unwrap_or(i32::MAX), strategy: Some(strategy) }
}

fn check_count(field: &str, count: usize) -> Result<(), Denied> {
    if count > TOPICS_MAX {
        return Err(Denied::new(Code::BadRequest, format!("{field} has {count} entries, the limit is {TOPICS_MAX}")));
    }
    Ok(())
}

fn check_client_properties(settings: &v2::Settings) -> Result<(), Denied> {
    let properties = &settings.client_properties;
    let deny = |text: String| Err(Denied::new(Code::InvalidClientProperties, format!("client_properties: {text}")));
    if properties.len() > CLIENT_PROPERTIES_MAX {
        return deny(format!("{} entries, the limit is {CLIENT_PROPERTIES_MAX}", properties.len()));
    }
    let mut bytes = 0;
    for (key, value) in properties {
        let legal = key.starts_with(|c: char| c.is_ascii_alphabetic())
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
        if !legal || key.len() > CLIENT_PROPERTY_KEY_MAX {
            return deny(format!(
                "key {:?} is not a letter and up to {} letters, digits, _, . and -",
                cut(key),
                CLIENT_PROPERTY_KEY_MAX - 1
            ));
        }
        if key.starts_with("rocketmq.") {
            return deny(format!("key {key:?} has the reserved prefix rocketmq."));
        }
        if value.chars().count() > CLIENT_PROPERTY_VALUE_MAX {
            let count = value.chars().count();
            return deny(format!("value of {key:?} has {count} characters, the limit is {CLIENT_PROPERTY_VALUE_MAX}"));
        }
        bytes += key.len() + value.len();
    }
    if bytes > CLIENT_PROPERTIES_BYTES_MAX {
        return deny(format!("{bytes} bytes in all, the limit is {CLIENT_PROPERTIES_BYTES_MAX}"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
