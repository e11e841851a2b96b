//! `martlet.v1.Admin`: creating, changing, describing, listing and deleting topics and consumer groups.

use crate::call::Call;
use crate::code::{self, Denied};
use crate::proto::v1;
use crate::proto::v2::{self, Code};
use crate::service::Front;
use crate::settings;
use martlet_broker::{
    GroupSettings, MemberInfo, MemberKind, MemberSubscription, MessageModel, ProgressStatus, QueueStatus,
    SubscriptionStatus, TopicSettings,
};
use martlet_model::group::{ConsumptionPattern, DeliveryOrder, StartFrom};
use martlet_model::{DeadLetterPolicy, GroupConfig, Permission, RetryBackoff, TopicConfig, TopicType, names};

impl Front {
    pub(crate) async fn create_topic(
        &self,
        _call: &Call,
        request: v1::CreateTopicRequest,
    ) -> Result<v1::CreateTopicResponse, Denied> {
        names::check_topic(&request.name)?;
        let topic = self.broker.create_topic(&request.name, topic_settings(request.settings)?).await?;
        Ok(v1::CreateTopicResponse { status: Some(code::ok()), topic: Some(topic_out(&topic)) })
    }

    pub(crate) async fn update_topic(
        &self,
        _call: &Call,
        request: v1::UpdateTopicRequest,
    ) -> Result<v1::UpdateTopicResponse, Denied> {
        names::check_topic(&request.name)?;
        let topic = self.broker.update_topic(&request.name, topic_settings(request.settings)?).await?;
        Ok(v1::UpdateTopicResponse { status: Some(code::ok()), topic: Some(topic_out(&topic)) })
    }

    pub(crate) async fn delete_topic(
        &self,
        _call: &Call,
        request: v1::DeleteTopicRequest,
    ) -> Result<v1::DeleteTopicResponse, Denied> {
        names::check_topic(&request.name)?;
        self.broker.delete_topic(&request.name).await?;
        Ok(v1::DeleteTopicResponse { status: Some(code::ok()) })
    }

    pub(crate) async fn describe_topic(
        &self,
        _call: &Call,
        request: v1::DescribeTopicRequest,
    ) -> Result<v1::DescribeTopicResponse, Denied> {
        names::check_existing_topic(&request.name)?;
        let status = self.broker.topic_status(&request.name).await?;
        Ok(v1::DescribeTopicResponse {
            status: Some(code::ok()),
            topic: Some(topic_out(&status.config)),
            queues: status.queues.iter().map(queue_out).collect(),
            broker: self.broker.broker_name().to_owned(),
            delayed: status.waiting.delayed,
            half: status.waiting.halves,
            given_up: status.waiting.given_up,
            lite_topics: status.lite_topics,
        })
    }

    pub(crate) async fn list_topics(
        &self,
        _call: &Call,
        _request: v1::ListTopicsRequest,
    ) -> Result<v1::ListTopicsResponse, Denied> {
        let mut topics: Vec<_> = self.broker.topics().iter().map(|topic| topic_out(topic)).collect();
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(v1::ListTopicsResponse { status: Some(code::ok()), topics })
    }

    pub(crate) async fn create_group(
        &self,
        _call: &Call,
        request: v1::CreateGroupRequest,
    ) -> Result<v1::CreateGroupResponse, Denied> {
        names::check_group(&request.name)?;
        let group = self.broker.create_group(&request.name, group_settings(request.settings)?).await?;
        Ok(v1::CreateGroupResponse { status: Some(code::ok()), group: Some(group_out(&group)) })
    }

    pub(crate) async fn update_group(
        &self,
        _call: &Call,
        request: v1::UpdateGroupRequest,
    ) -> Result<v1::UpdateGroupResponse, Denied> {
        names::check_group(&request.name)?;
        let group = self.broker.update_group(&request.name, group_settings(request.settings)?).await?;
        Ok(v1::UpdateGroupResponse { status: Some(code::ok()), group: Some(group_out(&group)) })
    }

    pub(crate) async fn delete_group(
        &self,
        _call: &Call,
        request: v1::DeleteGroupRequest,
    ) -> Result<v1::DeleteGroupResponse, Denied> {
        names::check_group(&request.name)?;
        self.broker.delete_group(&request.name).await?;
        Ok(v1::DeleteGroupResponse { status: Some(code::ok()) })
    }

    pub(crate) async fn describe_group(
        &self,
        _call: &Call,
        request: v1::DescribeGroupRequest,
    ) -> Result<v1::DescribeGroupResponse, Denied> {
        names::check_group(&request.name)?;
        let status = self.broker.group_status(&request.name).await?;
        Ok(v1::DescribeGroupResponse {
            status: Some(code::ok()),
            group: Some(group_out(&status.config)),
            progress: status.progress.iter().map(progress_out).collect(),
            dead_letters: status.dead_letters,
            clients: status.members.iter().map(client_out).collect(),
            subscriptions: status.subscriptions.iter().map(subscription_out).collect(),
            disagreement: status.disagreement.map_or_else(String::new, |disagreement| disagreement.to_string()),
        })
    }

    pub(crate) async fn list_groups(
        &self,
        _call: &Call,
        _request: v1::ListGroupsRequest,
    ) -> Result<v1::ListGroupsResponse, Denied> {
        let mut groups: Vec<_> = self.broker.groups().iter().map(|group| group_out(group)).collect();
        groups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(v1::ListGroupsResponse { status: Some(code::ok()), groups })
    }
}

fn not_known(field: &str, number: i32) -> Denied {
    Denied::new(Code::BadRequest, format!("{field} {number} is not known"))
}

fn topic_settings(settings: Option<v1::TopicSettings>) -> Result<TopicSettings, Denied> {
    let settings = settings.unwrap_or_default();
    let kind = match settings.r#type {
        None => None,
        Some(number) => match v1::TopicType::try_from(number) {
            Ok(v1::TopicType::Unspecified) => None,
            Ok(v1::TopicType::Normal) => Some(TopicType::Normal),
            Ok(v1::TopicType::Fifo) => Some(TopicType::Fifo),
            Ok(v1::TopicType::Delay) => Some(TopicType::Delay),
            Ok(v1::TopicType::Transaction) => Some(TopicType::Transaction),
            Ok(v1::TopicType::Lite) => Some(TopicType::Lite),
            Ok(v1::TopicType::Priority) => Some(TopicType::Priority),
            Ok(v1::TopicType::Mixed) => Some(TopicType::Mixed),
            Err(_) => return Err(not_known("topic type", number)),
        },
    };
    let permission = match settings.permission {
        None => None,
        Some(number) => match v2::Permission::try_from(number) {
            Ok(v2::Permission::Unspecified) => None,
            Ok(v2::Permission::None) => Some(Permission::None),
            Ok(v2::Permission::Read) => Some(Permission::Read),
            Ok(v2::Permission::Write) => Some(Permission::Write),
            Ok(v2::Permission::ReadWrite) => Some(Permission::ReadWrite),
            Err(_) => return Err(not_known("permission", number)),
        },
    };
    Ok(TopicSettings {
        kind,
        queues: settings.queues,
        read_queues: settings.read_queues,
        permission,
        retention_millis: settings.retention_millis,
        lite_expire_minutes: settings.lite_expire_minutes,
        lite_expire_unconsumed: settings.lite_expire_unconsumed,
        lite_topics_max: settings.lite_topics_max,
        deduplicate_millis: settings.deduplicate_millis,
    })
}

fn group_settings(settings: Option<v1::GroupSettings>) -> Result<GroupSettings, Denied> {
    let settings = settings.unwrap_or_default();
    let order = match settings.order {
        None => None,
        Some(number) => match v1::DeliveryOrder::try_from(number) {
            Ok(v1::DeliveryOrder::Unspecified) => None,
            Ok(v1::DeliveryOrder::Concurrent) => Some(DeliveryOrder::Concurrent),
            Ok(v1::DeliveryOrder::Fifo) => Some(DeliveryOrder::Fifo),
            Err(_) => return Err(not_known("delivery order", number)),
        },
    };
    let pattern = match settings.pattern {
        None => None,
        Some(number) => match v1::ConsumptionPattern::try_from(number) {
            Ok(v1::ConsumptionPattern::Unspecified) => None,
            Ok(v1::ConsumptionPattern::Clustering) => Some(ConsumptionPattern::Clustering),
            Ok(v1::ConsumptionPattern::LiteSelective) => Some(ConsumptionPattern::LiteSelective),
            Err(_) => return Err(not_known("consumption pattern", number)),
        },
    };
    let retry = settings.retry.unwrap_or_default();
    let max_attempts = Some(retry.max_attempts).filter(|count| *count > 0);
    let backoff = retry.backoff.and_then(|backoff| backoff.strategy).map(|strategy| match strategy {
        v1::backoff::Strategy::Customized(list) => RetryBackoff::Customized(list.next_millis),
        v1::backoff::Strategy::Exponential(curve) => RetryBackoff::Exponential {
            initial_millis: curve.initial_millis,
            max_millis: curve.max_millis,
            multiplier: curve.multiplier,
        },
    });
    let dead_letters = settings.dead_letters.and_then(|policy| policy.policy).map(|policy| match policy {
        v1::dead_letter_policy::Policy::GroupTopic(_) => DeadLetterPolicy::GroupTopic,
        v1::dead_letter_policy::Policy::Topic(topic) => DeadLetterPolicy::Topic(topic),
        v1::dead_letter_policy::Policy::Discard(_) => DeadLetterPolicy::Discard,
    });
    if let Some(DeadLetterPolicy::Topic(topic)) = &dead_letters {
        names::check_topic(topic)?;
    }
    let start = settings.start.and_then(|start| start.place).map(|place| match place {
        v1::start_from::Place::Earliest(_) => StartFrom::Earliest,
        v1::start_from::Place::Latest(_) => StartFrom::Latest(0),
        v1::start_from::Place::TimeMillis(millis) => StartFrom::Time(millis),
    });
    if let Some(parent) = &settings.lite_parent {
        names::check_topic(parent)?;
    }
    let (lite_parent, lite_exclusive) = (settings.lite_parent, settings.lite_exclusive);
    let (lite_wildcard, lite_subscriptions_max) = (settings.lite_wildcard, settings.lite_subscriptions_max);
    let (lite_reset_exclusive, lite_reset_unsubscribe) =
        (settings.lite_reset_exclusive, settings.lite_reset_unsubscribe);
    Ok(GroupSettings {
        order,
        pattern,
        max_attempts,
        backoff,
        dead_letters,
        start,
        lite_parent,
        lite_exclusive,
        lite_wildcard,
        lite_subscriptions_max,
        lite_reset_exclusive,
        lite_reset_unsubscribe,
        request_mode: None,
    })
}

fn topic_out(topic: &TopicConfig) -> v1::Topic {
    v1::Topic {
        name: topic.name.clone(),
        r#type: match topic.kind {
            TopicType::Normal => v1::TopicType::Normal,
            TopicType::Fifo => v1::TopicType::Fifo,
            TopicType::Delay => v1::TopicType::Delay,
            TopicType::Transaction => v1::TopicType::Transaction,
            TopicType::Lite => v1::TopicType::Lite,
            TopicType::Priority => v1::TopicType::Priority,
            TopicType::Mixed => v1::TopicType::Mixed,
        } as i32,
        read_queues: topic.read_queues,
        write_queues: topic.write_queues,
        permission: match topic.permission {
            Permission::ReadWrite => v2::Permission::ReadWrite,
            Permission::Read => v2::Permission::Read,
            Permission::Write => v2::Permission::Write,
            Permission::None => v2::Permission::None,
        } as i32,
        retention_millis: topic.retention_millis,
        deduplicate_millis: topic.deduplicate_millis,
        created_millis: topic.created_millis,
        auto_created: topic.auto_created,
        lite_expire_minutes: topic.lite.expire_minutes,
        lite_expire_unconsumed: topic.lite.expire_unconsumed,
        lite_topics_max: topic.lite.max,
    }
}

fn queue_out(queue: &QueueStatus) -> v1::QueueStatus {
    v1::QueueStatus {
        queue: queue.queue,
        min_offset: queue.min_offset.0,
        max_offset: queue.max_offset.0,
        last_store_millis: queue.last_store_time.map(|time| time.0),
    }
}

fn group_out(group: &GroupConfig) -> v1::Group {
    let strategy = match &group.retry.backoff {
        RetryBackoff::Customized(list) => {
            v1::backoff::Strategy::Customized(v1::CustomizedBackoff { next_millis: list.clone() })
        }
        RetryBackoff::Exponential { initial_millis, max_millis, multiplier } => {
            v1::backoff::Strategy::Exponential(v1::ExponentialBackoff {
                initial_millis: *initial_millis,
                max_millis: *max_millis,
                multiplier: *multiplier,
            })
        }
    };
    let policy = match &group.dead_letters {
        DeadLetterPolicy::GroupTopic => v1::dead_letter_policy::Policy::GroupTopic(Default::default()),
        DeadLetterPolicy::Topic(topic) => v1::dead_letter_policy::Policy::Topic(topic.clone()),
        DeadLetterPolicy::Discard => v1::dead_letter_policy::Policy::Discard(Default::default()),
    };
    v1::Group {
        name: group.name.clone(),
        order: match group.order {
            DeliveryOrder::Concurrent => v1::DeliveryOrder::Concurrent,
            DeliveryOrder::Fifo => v1::DeliveryOrder::Fifo,
        } as i32,
        pattern: match group.pattern {
            ConsumptionPattern::Clustering => v1::ConsumptionPattern::Clustering,
            ConsumptionPattern::LiteSelective => v1::ConsumptionPattern::LiteSelective,
        } as i32,
        retry: Some(v1::RetryPolicy {
            max_attempts: group.retry.max_attempts,
            backoff: Some(v1::Backoff { strategy: Some(strategy) }),
        }),
        dead_letters: Some(v1::DeadLetterPolicy { policy: Some(policy) }),
        created_millis: group.created_millis,
        auto_created: group.auto_created,
        start: Some(v1::StartFrom {
            place: Some(match group.start {
                StartFrom::Earliest => v1::start_from::Place::Earliest(Default::default()),
                StartFrom::Latest(since_millis) => {
                    v1::start_from::Place::Latest(v1::start_from::Latest { since_millis })
                }
                StartFrom::Time(millis) => v1::start_from::Place::TimeMillis(millis),
            }),
        }),
        lite: group.lite.as_ref().map(|lite| v1::LiteConsumers {
            parent: lite.parent.clone(),
            exclusive: lite.exclusive,
            wildcard: lite.wildcard,
            subscriptions_max: lite.quota(),
            reset_exclusive: lite.resets.exclusive,
            reset_unsubscribe: lite.resets.unsubscribe,
        }),
    }
}

fn progress_out(progress: &ProgressStatus) -> v1::Progress {
    v1::Progress {
        topic: progress.topic.clone(),
        queue: progress.queue,
        committed_offset: progress.committed.0,
        max_offset: progress.max_offset.0,
        in_flight: progress.in_flight,
        waiting_retry: progress.waiting_retry,
        ready: progress.ready,
        lag_millis: progress.lag_millis,
        queueing_millis: progress.queueing_millis,
    }
}

fn subscription_out(subscription: &SubscriptionStatus) -> v1::Subscription {
    v1::Subscription {
        topic: subscription.topic.clone(),
        expression: Some(settings::expression(&subscription.filter)),
        seen_millis: subscription.seen.0,
    }
}

fn client_out(member: &MemberInfo) -> v1::Client {
    let subscription = |each: &MemberSubscription| v1::ClientSubscription {
        topic: each.topic.clone(),
        expression: each.filter.to_string(),
    };
    v1::Client {
        client_id: member.client_id.to_string(),
        language: member.language.clone(),
        version: member.version.clone(),
        remote_address: member.remote.clone(),
        push: member.kind == MemberKind::Push,
        subscriptions: member.subscriptions.iter().map(subscription).collect(),
        queue_based: member.kind == MemberKind::QueueBased,
        broadcasting: member.model == MessageModel::Broadcasting,
    }
}
