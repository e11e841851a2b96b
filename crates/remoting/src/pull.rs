//! Pulls, and offsets of groups.

use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::json::Json;
use crate::front::Front;
use crate::link::Link;
use crate::members::filter;
use crate::message_out::{self, Facts};
use bytes::BytesMut;
use martlet_broker::{
    MessageModel, OffsetOf, PullMode, PullStatus, QueuePull, QueuePulled, Refusal, ResetTo, StoredOffset,
};
use martlet_model::names::{self, RETRY_PREFIX};
use martlet_model::{Filter, QueueOffset, TopicType, UnixMillis, limits};
use std::sync::Arc;

/// Bits of the system flags of a pull.
const COMMITS: i32 = 0x1;
const MAY_WAIT: i32 = 0x2;
const HAS_FILTER: i32 = 0x4;
/// Longest wait, in milliseconds: clients give up after 30 s.
const WAIT_MILLIS_MAX: i64 = 25_000;
/// What tools know a lite topic by: this, the parent, `$`, and the name.
const LITE_QUEUE_PREFIX: &str = "%LMQ%$";
/// Most lite topics that the answer to a reset names.
const LITE_TOPICS_NAMED: usize = 1_000;

/// Whether a request may wait for messages.
pub(crate) fn may_wait(fields: &Fields<'_>) -> bool {
    fields.i32("sysFlag").is_ok_and(|flags| flags & MAY_WAIT != 0)
}

impl Front {
    /// Messages of a queue from an offset on.
    pub(crate) async fn pull(&self, link: &Link, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (group, topic) = (fields.text("consumerGroup")?, fields.text("topic")?);
        let queue = fields.queue()?;
        let offset = fields.i64("queueOffset")?;
        let max_messages = fields.i32("maxMsgNums")?;
        let flags = fields.i32("sysFlag")?;
        let commit = fields.i64("commitOffset")?;
        let wait = fields.i64("suspendTimeoutMillis")?;
        let version = fields.i64("subVersion")?;
        let max_bytes = fields.i32_or("maxMsgBytes", i32::MAX)?;
        let max_messages = u32::try_from(max_messages).ok().filter(|count| *count > 0).ok_or_else(|| {
            Denied::new(response::INVALID_PARAMETER, format!("maxMsgNums {max_messages} is not from 1 on"))
        })?;
        let member = link.member(group);
        let (mode, client_id) = match &member {
            Some((client_id, MessageModel::Clustering)) => (PullMode::Member, client_id.clone()),
            Some((client_id, MessageModel::Broadcasting)) => (PullMode::Look, client_id.clone()),
            None if flags & HAS_FILTER != 0 => (PullMode::Look, Arc::from("")),
            None => return Err(self.not_registered(group)),
        };
        let filter = match flags & HAS_FILTER != 0 {
            true => {
                let expression = fields.optional("subscription").unwrap_or("*");
                Arc::new(filter(fields.optional("expressionType"), expression).map_err(Refusal::Filter)?)
            }
            false => self.registered_filter(group, topic, version)?,
        };
        let Ok(offset) = u64::try_from(offset) else {
            let (min, max) = (
                self.broker.offset_of(topic, queue, OffsetOf::Beginning).await?,
                self.broker.offset_of(topic, queue, OffsetOf::End).await?,
            );
            return Ok(moved(min.0, min.0, max.0, PullStatus::Moved));
        };
        let pull = QueuePull {
            group: group.to_owned(),
            topic: topic.to_owned(),
            queue,
            offset,
            max_messages,
            max_bytes: usize::try_from(max_bytes).unwrap_or(0).clamp(1, limits::REPLY_BYTES_MAX),
            filter,
            wait_millis: if flags & MAY_WAIT != 0 { wait.clamp(0, WAIT_MILLIS_MAX) } else { 0 },
            commit: u64::try_from(commit).ok().filter(|commit| flags & COMMITS != 0 && *commit > 0),
            mode,
            client_id,
        };
        let pulled = self.broker.pull_queue(pull).await?;
        self.pulled(link, pulled)
    }

    fn not_registered(&self, group: &str) -> Denied {
        match self.broker.known_group(group) {
            None => Refusal::GroupNotFound { group: group.to_owned() }.into(),
            Some(_) => {
                let remark = format!("no heartbeat over this connection has said that it consumes as {group}");
                Denied::new(response::SUBSCRIPTION_NOT_EXIST, remark)
            }
        }
    }

    /// The filter that members of a group have registered for a topic.
    fn registered_filter(&self, group: &str, topic: &str, version: i64) -> Result<Arc<Filter>, Denied> {
        match self.broker.member_subscription(group, topic) {
            Some(known) if known.version < version => {
                let remark = format!("field subVersion is {version}, the newest heartbeat said {}", known.version);
                Err(Denied::new(response::SUBSCRIPTION_NOT_LATEST, remark))
            }
            Some(known) => Ok(known.filter),
            // Retries have passed the filter before.
            None if topic.strip_prefix(RETRY_PREFIX) == Some(group) => Ok(Arc::new(Filter::ALL)),
            None => {
                let remark = format!("no member of consumer group {group} subscribes to topic {topic}");
                Err(Denied::new(response::SUBSCRIPTION_NOT_EXIST, remark))
            }
        }
    }

    fn pulled(&self, link: &Link, pulled: QueuePulled) -> Result<Answer, Denied> {
        let store_host = self.addresses.store_host(link);
        let bytes: usize = pulled.messages.iter().map(|message| message.record.len() + 256).sum();
        let mut body = BytesMut::with_capacity(bytes);
        for message in &pulled.messages {
            let origin = message.origin.map(|at| crate::codec::ids::offset_id(store_host, at));
            let mut more = Vec::new();
            if let Some(topic) = &message.retry_topic {
                more.push(("RETRY_TOPIC", &**topic));
            }
            if let Some(origin) = &origin {
                more.push(("ORIGIN_MESSAGE_ID", origin.as_str()));
            }
            let facts = Facts {
                topic: &message.topic,
                queue: message.queue,
                offset: message.offset.0,
                physical_offset: message.physical.map_or(-1, |at| at.0),
                stored: message.store_time.0,
                reconsumed: i32::try_from(message.reconsume_times).unwrap_or(i32::MAX),
                store_host,
                cluster: self.broker.cluster_name(),
                is_half: false,
                more: &more,
            };
            let encoded = message_out::encode(&mut body, &message.record, &facts);
            encoded.map_err(|error| Denied::new(response::SYSTEM_ERROR, error.to_string()))?;
        }
        let answer = moved(pulled.next.0, pulled.min.0, pulled.max.0, pulled.status);
        Ok(Answer { body: body.freeze(), budget: Some(pulled.budget), ..answer })
    }

    /// Where a group is in a queue.
    pub(crate) async fn group_offset(&self, link: &Link, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (group, topic) = (fields.text("consumerGroup")?, fields.text("topic")?);
        let queue = fields.queue()?;
        let zero_counts = fields.optional("setZeroIfNotFound") != Some("false");
        let member = link.member(group).map(|(client_id, _)| client_id);
        match self.broker.queue_offset(group, topic, queue, member.as_deref()).await? {
            StoredOffset::Found(offset) => Ok(Answer::done().with("offset", offset)),
            // All that the queue ever had is there: a new group begins with it, whatever its members prefer.
            StoredOffset::NotFound { min, .. } if min.0 == 0 && zero_counts => Ok(Answer::done().with("offset", 0)),
            StoredOffset::NotFound { .. } => {
                let remark = format!("consumer group {group} has not been in queue {queue} of topic {topic}");
                Err(Denied::new(response::QUERY_NOT_FOUND, remark))
            }
        }
    }

    /// An administrator moves a group in a topic: to a time, or in one queue to a place. Unless that is forced, only back.
    pub(crate) async fn reset(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (group, topic) = (fields.text("group")?, fields.text("topic")?);
        let time = fields.i64("timestamp")?;
        let (queue, offset) = (fields.i32_or("queueId", -1)?, fields.i64_or("offset", -1)?);
        let forced = fields.flag("isForce");
        if self.broker.known_topic(topic).is_some_and(|topic| topic.kind == TopicType::Lite) {
            return self.reset_lite(group, topic, time, forced, queue >= 0 || offset >= 0).await;
        }
        let status = self.broker.topic_status(topic).await?;
        let mut table = Vec::new();
        for bounds in status.queues {
            if queue >= 0 && queue.unsigned_abs() != bounds.queue {
                continue;
            }
            let to = match (u64::try_from(offset), time) {
                (Ok(offset), _) if queue >= 0 => offset,
                // To these clients that is the end.
                (_, ..0) => bounds.max_offset.0,
                (_, time) => self.broker.offset_of(topic, bounds.queue, OffsetOf::Time(UnixMillis(time))).await?.0,
            };
            let stored = self.broker.queue_offset(group, topic, bounds.queue, None).await?;
            if !forced && matches!(stored, StoredOffset::Found(stored) if stored.0 < to) {
                continue;
            }
            let to = ResetTo::Offset(QueueOffset(to));
            for moved in self.broker.reset_offset(group, topic, Some(bounds.queue), to).await? {
                let queue = crate::admin::queue_json(topic, self.broker.broker_name(), moved.queue);
                table.push((queue, moved.to.0.into()));
            }
        }
        if queue >= 0 && table.is_empty() && forced {
            let remark = format!("queueId {queue} is not one of topic {topic}");
            return Err(Denied::new(response::INVALID_PARAMETER, remark));
        }
        Ok(Answer::json(&Json::object([("offsetTable", Json::Object(table))])))
    }

    /// The same in all lite topics of a parent where the group has been. The answer names the first of those that it was moved in.
    async fn reset_lite(
        &self,
        group: &str,
        parent: &str,
        time: i64,
        forced: bool,
        names_a_place: bool,
    ) -> Result<Answer, Denied> {
        if names_a_place {
            let remark =
                format!("topic {parent} is a parent of lite topics: a group is moved in all of them, to a time");
            return Err(Denied::new(response::INVALID_PARAMETER, remark));
        }
        // To these clients what is below 0 is the end.
        let to = if time < 0 { ResetTo::Latest } else { ResetTo::Time(UnixMillis(time)) };
        let moved = self.broker.reset_all_lite(group, parent, to, !forced, LITE_TOPICS_NAMED).await?;
        let table = moved.iter().map(|topic| {
            let name = format!("{LITE_QUEUE_PREFIX}{parent}${}", topic.name);
            (crate::admin::queue_json(&name, self.broker.broker_name(), 0), topic.to.0.into())
        });
        Ok(Answer::json(&Json::object([("offsetTable", Json::Object(table.collect()))])))
    }

    /// A group moves in a queue.
    pub(crate) async fn move_group(&self, link: &Link, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (group, topic) = (fields.text("consumerGroup")?, fields.text("topic")?);
        let (queue, offset) = (fields.queue()?, fields.u64("commitOffset")?);
        if names::is_system_group(group) {
            return Ok(Answer::done());
        }
        let member = link.member(group).map(|(client_id, _)| client_id);
        self.broker.commit_queue_offset(group, topic, queue, offset, member.as_deref()).await?;
        Ok(Answer::done())
    }
}

/// What a pull is told besides messages.
fn moved(next: u64, min: u64, max: u64, status: PullStatus) -> Answer {
    let (code, remark) = match status {
        PullStatus::Found => (response::SUCCESS, "FOUND"),
        PullStatus::NothingNew => (response::PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE"),
        PullStatus::NoMatch => (response::PULL_RETRY_IMMEDIATELY, "NO_MATCHED_MESSAGE"),
        PullStatus::Moved => (response::PULL_OFFSET_MOVED, "OFFSET_OVERFLOW_BADLY"),
    };
    Answer { code, remark: Some(remark.to_owned()), ..Answer::default() }
        .with("suggestWhichBrokerId", 0)
        .with("nextBeginOffset", next)
        .with("minOffset", min)
        .with("maxOffset", max)
}
