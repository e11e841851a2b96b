//! Lite topics: SyncLiteSubscription, and which clients fit which groups.
//!
//! Source: grpc.md section 5.12.

use crate::call::Call;
use crate::code::{self, Denied};
use crate::proto::v1;
use crate::proto::v2::{
    self, Code, LiteSubscriptionAction, NotifyUnsubscribeLiteCommand, TelemetryCommand, offset_option,
    telemetry_command::Command,
};
use crate::resource::{group_name, topic_name};
use crate::service::Front;
use martlet_broker::{LiteAction, LiteNotice, LiteStart, LiteSyncRequest, LiteTopicStatus, Refusal};
use martlet_model::{GroupConfig, QueueOffset, UnixMillis, limits, names};
use std::sync::Arc;

impl Front {
    pub(crate) async fn sync_lite_subscription(
        &self,
        call: &Call,
        request: v2::SyncLiteSubscriptionRequest,
    ) -> Result<v2::SyncLiteSubscriptionResponse, Denied> {
        let client_id = Arc::from(call.client_id()?);
        let group = group_name(request.group)?;
        let topic = topic_name(request.topic)?;
        let action = action(request.action, request.offset_option.as_ref())?;
        let (count, max) = (request.lite_topic_set.len(), limits::LITE_SUBSCRIPTIONS_MAX as usize);
        if count > max {
            let refusal = Refusal::LiteSubscriptionsFull { wanted: count as u64, limit: max as u64 };
            return Err(refusal.into());
        }
        for name in &request.lite_topic_set {
            names::check_lite_topic(name)?;
        }
        let names = request.lite_topic_set.into_iter().map(Arc::from).collect();
        let version = request.version;
        self.broker.sync_lite(LiteSyncRequest { client_id, group, topic, action, names, version }).await?;
        Ok(v2::SyncLiteSubscriptionResponse { status: Some(code::ok()) })
    }

    pub(crate) async fn list_lite_topics(
        &self,
        _call: &Call,
        request: v1::ListLiteTopicsRequest,
    ) -> Result<v1::ListLiteTopicsResponse, Denied> {
        let v1::ListLiteTopicsRequest { topic, group, after, limit } = request;
        names::check_topic(&topic)?;
        let limit = if limit == 0 { LIST_DEFAULT } else { limit as usize };
        let list = self.broker.lite_topics(&topic, some(&group), some(&after), limit).await?;
        let last = list.topics.last().filter(|_| list.more);
        Ok(v1::ListLiteTopicsResponse {
            status: Some(code::ok()),
            next: last.map_or_else(String::new, |last| last.look.name.to_string()),
            lite_topics: list.topics.iter().map(lite_topic_out).collect(),
            total: list.total,
        })
    }

    pub(crate) async fn describe_lite_topic(
        &self,
        _call: &Call,
        request: v1::DescribeLiteTopicRequest,
    ) -> Result<v1::DescribeLiteTopicResponse, Denied> {
        let v1::DescribeLiteTopicRequest { topic, lite_topic, group } = request;
        names::check_topic(&topic)?;
        names::check_lite_topic(&lite_topic)?;
        let (found, subscribers) = self.broker.lite_topic(&topic, &lite_topic, some(&group)).await?;
        if found.is_none() && subscribers.is_empty() {
            let text = format!("lite topic {lite_topic} of topic {topic} does not exist");
            return Err(Denied::new(Code::NotFound, text));
        }
        let unwritten = || v1::LiteTopic { name: lite_topic.clone(), ..Default::default() };
        let subscriber =
            |(group, client): (String, Arc<str>)| v1::LiteSubscriber { group, client_id: client.to_string() };
        Ok(v1::DescribeLiteTopicResponse {
            status: Some(code::ok()),
            lite_topic: Some(found.as_ref().map_or_else(unwritten, lite_topic_out)),
            subscribers: subscribers.into_iter().map(subscriber).collect(),
        })
    }

    /// Tells a client that it has lost a lite topic. One without a stream is told again when it sends its full set.
    pub(crate) fn notify_unsubscribe_lite(&self, notice: &LiteNotice) {
        let command = NotifyUnsubscribeLiteCommand { lite_topic: notice.lite_topic.to_string() };
        let command = Command::NotifyUnsubscribeLiteCommand(command);
        let command = TelemetryCommand { status: Some(code::ok()), command: Some(command) };
        if !self.sessions.command(&notice.client_id, command) {
            let (client, lite_topic) = (&notice.client_id, &notice.lite_topic);
            tracing::debug!(%client, %lite_topic, "a client could not be told that it has lost a lite topic");
        }
    }
}

/// Lite topics in a list that does not say how many.
const LIST_DEFAULT: usize = 500;

/// Empty text stands for none.
fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn lite_topic_out(status: &LiteTopicStatus) -> v1::LiteTopic {
    let look = &status.look;
    v1::LiteTopic {
        name: look.name.to_string(),
        min_offset: look.min.0,
        max_offset: look.max.0,
        last_millis: look.last.0,
        progress: status.progress.map(|progress| v1::LiteProgress {
            committed_offset: progress.committed.0,
            ready: progress.ready,
            open: progress.open,
            lag_millis: status.lag_millis,
            queueing_millis: status.queueing_millis,
        }),
    }
}

/// What a synchronisation says.
fn action(number: i32, option: Option<&v2::OffsetOption>) -> Result<LiteAction, Denied> {
    let action = match LiteSubscriptionAction::try_from(number) {
        Ok(LiteSubscriptionAction::PartialAdd) => LiteAction::Add(option.map_or(Ok(LiteStart::Last), start)?),
        Ok(LiteSubscriptionAction::PartialRemove) => LiteAction::Remove,
        Ok(LiteSubscriptionAction::CompleteAdd) => LiteAction::Set,
        Ok(LiteSubscriptionAction::CompleteRemove) => LiteAction::Clear,
        Err(_) => return Err(Denied::new(Code::BadRequest, format!("action {number} is not known"))),
    };
    Ok(action)
}

/// Where a subscription begins.
fn start(option: &v2::OffsetOption) -> Result<LiteStart, Denied> {
    use offset_option::{OffsetType, Policy};
    let positive = |what: &str, number: i64| {
        let text = format!("offset_option.{what} {number} is negative");
        u64::try_from(number).map_err(|_| Denied::new(Code::IllegalOffset, text))
    };
    match option.offset_type {
        None => Ok(LiteStart::Last),
        Some(OffsetType::Policy(number)) => match Policy::try_from(number) {
            Ok(Policy::Last) => Ok(LiteStart::Last),
            Ok(Policy::Min) => Ok(LiteStart::Min),
            Ok(Policy::Max) => Ok(LiteStart::Max),
            Err(_) => Err(Denied::new(Code::IllegalOffset, format!("offset_option.policy {number} is not known"))),
        },
        Some(OffsetType::Offset(offset)) => Ok(LiteStart::Offset(QueueOffset(positive("offset", offset)?))),
        Some(OffsetType::TailN(count)) => Ok(LiteStart::Tail(positive("tail_n", count)?)),
        Some(OffsetType::Timestamp(millis)) => Ok(LiteStart::Time(UnixMillis(positive("timestamp", millis)? as i64))),
    }
}

/// Lite consumers belong to groups of lite topics, and to their parent; others do not.
pub(crate) fn check_client<'a>(
    is_lite: bool,
    group: &GroupConfig,
    topics: impl IntoIterator<Item = &'a str>,
) -> Result<(), Denied> {
    match (&group.lite, is_lite) {
        (None, true) => Err(Refusal::NotLite { group: group.name.clone() }.into()),
        (Some(lite), false) => {
            let (group, parent) = (&group.name, &lite.parent);
            let text = format!("consumer group {group} consumes lite topics of {parent}, this client does not");
            Err(Denied::new(Code::IllegalConsumerGroup, text))
        }
        (Some(lite), true) => match topics.into_iter().find(|topic| *topic != lite.parent) {
            Some(topic) => {
                let (group, parent) = (group.name.clone(), lite.parent.clone());
                Err(Refusal::OtherLiteParent { group, topic: topic.to_owned(), parent }.into())
            }
            None => Ok(()),
        },
        (None, false) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use offset_option::OffsetType;

    fn add(offset_type: OffsetType) -> Result<LiteAction, Code> {
        let option = v2::OffsetOption { offset_type: Some(offset_type) };
        action(LiteSubscriptionAction::PartialAdd as i32, Some(&option)).map_err(|denied| denied.code)
    }

    #[test]
    fn every_place_to_begin_at_is_understood_and_nonsense_is_refused() {
        assert_eq!(add(OffsetType::Policy(0)), Ok(LiteAction::Add(LiteStart::Last)));
        assert_eq!(add(OffsetType::Policy(1)), Ok(LiteAction::Add(LiteStart::Min)));
        assert_eq!(add(OffsetType::Policy(2)), Ok(LiteAction::Add(LiteStart::Max)));
        assert_eq!(add(OffsetType::Offset(7)), Ok(LiteAction::Add(LiteStart::Offset(QueueOffset(7)))));
        assert_eq!(add(OffsetType::TailN(3)), Ok(LiteAction::Add(LiteStart::Tail(3))));
        assert_eq!(add(OffsetType::Timestamp(9)), Ok(LiteAction::Add(LiteStart::Time(UnixMillis(9)))));
        for nonsense in
            [OffsetType::Policy(9), OffsetType::Offset(-1), OffsetType::TailN(-1), OffsetType::Timestamp(-1)]
        {
            assert_eq!(add(nonsense), Err(Code::IllegalOffset));
        }
        assert_eq!(action(2, None).map_err(|denied| denied.code), Ok(LiteAction::Set));
        assert_eq!(action(9, None).map_err(|denied| denied.code), Err(Code::BadRequest));
    }
}
