//! Consumers as members of their groups: what heartbeats say of them, lists of members, notices of changes, locks of queues.

use crate::answer::{Answer, Denied};
use crate::codec::code::{request, response};
use crate::codec::fields::Fields;
use crate::codec::header::{Header, language_name};
use crate::codec::json::Json;
use crate::codec::shown;
use crate::codec::version;
use crate::front::Front;
use crate::link::{Link, Membership};
use bytes::Bytes;
use martlet_broker::{ConsumeFrom, MemberSubscription, MessageModel, QueueMember, Refusal};
use martlet_model::group::RequestMode;
use martlet_model::{Filter, FilterError, names};
use std::sync::Arc;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

/// Queues that one request locks or unlocks, at most.
const QUEUES_MAX: usize = 4_096;

/// Compiles a filter. Of tags, what is empty between two bars is passed over, as clients do.
pub(crate) fn filter(kind: Option<&str>, expression: &str) -> Result<Filter, FilterError> {
    if kind == Some("SQL92") {
        return Filter::sql(expression);
    }
    let tags: Vec<&str> = expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()).collect();
    match tags[..] {
        [] => Ok(Filter::ALL),
        _ => Filter::tags(&tags.join("||")),
    }
}

fn parse_failed(error: &FilterError) -> Denied {
    Denied::new(response::SUBSCRIPTION_PARSE_FAILED, error.to_string())
}

fn subscription(said: &Json) -> Result<MemberSubscription, Denied> {
    let topic = said.text("topic").unwrap_or("");
    names::check_existing_topic(topic)?;
    let filter = filter(said.text("expressionType"), said.text("subString").unwrap_or("*"));
    Ok(MemberSubscription {
        topic: topic.to_owned(),
        filter: Arc::new(filter.map_err(|error| parse_failed(&error))?),
        version: said.int("subVersion").unwrap_or(0),
    })
}

/// The share of one of so many members, counted from 0.
fn share(queues: usize, members: usize, place: usize) -> std::ops::Range<usize> {
    let (each, more) = (queues / members.max(1), queues % members.max(1));
    let start = place * each + place.min(more);
    start..start + each + usize::from(place < more)
}

impl Front {
    /// What a heartbeat says of one group that its client consumes with.
    pub(crate) async fn consumer_heard(
        &self,
        link: &Arc<Link>,
        header: &Header,
        client_id: &Arc<str>,
        said: &Json,
    ) -> Result<(), Denied> {
        let group = said.text("groupName").unwrap_or("");
        // Groups of tools are no one's.
        if names::is_system_group(group) {
            return Ok(());
        }
        // Names, or by some clients their places in the list.
        let model = match said.text("messageModel") {
            Some("BROADCASTING" | "0") => MessageModel::Broadcasting,
            _ => MessageModel::Clustering,
        };
        let from = match said.text("consumeFromWhere") {
            Some("CONSUME_FROM_FIRST_OFFSET" | "CONSUME_FROM_MIN_OFFSET" | "4" | "2") => ConsumeFrom::First,
            Some("CONSUME_FROM_TIMESTAMP" | "5") => ConsumeFrom::Timestamp,
            _ => ConsumeFrom::Last,
        };
        let subscriptions: Result<Vec<_>, _> = said.items("subscriptionDataSet").iter().map(subscription).collect();
        let member = QueueMember {
            client_id: client_id.clone(),
            connection: Some(link.number),
            group: group.to_owned(),
            model,
            from,
            subscriptions: subscriptions?,
            language: language_name(header.language).to_owned(),
            version: version::name(header.version),
            remote: link.peer.to_string(),
        };
        match self.broker.register_member(member).await {
            Ok(_) => {
                let active = matches!(said.text("consumeType"), Some("CONSUME_ACTIVELY" | "0"));
                let member = Membership { client: client_id.clone(), model, active };
                link.consumes(group, member, self.limits.groups_per_connection_max)
            }
            // Where groups are not made automatically, what the client asks next is answered so.
            Err(Refusal::GroupNotFound { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// A client leaves a group.
    pub(crate) fn consumer_left(&self, link: &Link, group: &str, client_id: &str) {
        self.broker.unregister_member(group, client_id);
        link.consumes_no_more(group);
    }

    /// Ids of a group's members; for one of them, those among whom it shares out queues.
    pub(crate) fn member_list(&self, link: &Link, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let group = fields.text("consumerGroup")?;
        let members = match link.member(group) {
            Some((client, _)) => self.broker.members_to_share_with(group, &client),
            None => self.broker.members(group),
        };
        if members.is_empty() {
            let shown = shown(group);
            let remark = format!("consumer group {shown} has no connected member");
            return Err(Denied::new(response::SYSTEM_ERROR, remark));
        }
        let ids = members.iter().map(|member| Json::from(&*member.client_id));
        Ok(Answer::json(&Json::object([("consumerIdList", Json::List(ids.collect()))])))
    }

    /// The queues of a topic that a member should read: each member gets as many as the others, or one more, side by side.
    pub(crate) fn assignment(&self, body: &[u8]) -> Result<Answer, Denied> {
        let said = Json::parse(body, "body")?;
        let text = |field: &str| {
            let missing = || Denied::new(response::INVALID_PARAMETER, format!("field {field} is missing"));
            said.text(field).ok_or_else(missing)
        };
        let (topic, group, client) = (text("topic")?, text("consumerGroup")?, text("clientId")?);
        let known = self.queues(topic);
        let known = known.ok_or_else(|| Denied::from(Refusal::TopicNotFound { topic: topic.to_owned() }))?;
        let queues = known.read as usize;
        let range = if matches!(said.text("messageModel"), Some("BROADCASTING" | "0")) {
            0..queues
        } else if self.broker.known_group(group).is_some_and(|group| group.request_mode(topic) == RequestMode::Pop) {
            return Ok(self.any_queue(topic));
        } else {
            let members = self.broker.members_to_share_with(group, client);
            // Without an answer the client keeps what it has, and asks again.
            let place = members.iter().position(|member| &*member.client_id == client).ok_or_else(|| {
                let remark = format!("the client is not a member of consumer group {group}");
                Denied::new(response::SYSTEM_ERROR, remark)
            })?;
            share(queues, members.len(), place)
        };
        let broker = self.broker.broker_name();
        let assigned = range.map(|queue| {
            let queue = crate::admin::queue_json(topic, broker, queue as u32);
            Json::object([("messageQueue", queue), ("mode", "PULL".into())])
        });
        Ok(Answer::json(&Json::object([("messageQueueAssignments", Json::List(assigned.collect()))])))
    }

    /// Whether a subscription is a legal one.
    pub(crate) fn check_client(&self, body: &[u8]) -> Result<Answer, Denied> {
        let said = Json::parse(body, "body")?;
        let Some(said) = said.get("subscriptionData") else {
            return Err(Denied::new(response::INVALID_PARAMETER, "field subscriptionData is missing"));
        };
        subscription(said)?;
        Ok(Answer::done())
    }

    /// Locks queues for a member, or unlocks them.
    pub(crate) async fn lock_queues(&self, body: &[u8], lock: bool) -> Result<Answer, Denied> {
        let said = Json::parse(body, "body")?;
        let missing = |field: &str| Denied::new(response::INVALID_PARAMETER, format!("field {field} is missing"));
        let group = said.text("consumerGroup").ok_or_else(|| missing("consumerGroup"))?;
        let client = said.text("clientId").ok_or_else(|| missing("clientId"))?;
        let listed = said.items("mqSet");
        if listed.len() > QUEUES_MAX {
            let remark = format!("mqSet has {} queues, the limit is {QUEUES_MAX}", listed.len());
            return Err(Denied::new(response::INVALID_PARAMETER, remark));
        }
        let own = listed.iter().filter(|queue| queue.text("brokerName") == Some(self.broker.broker_name()));
        let queues: Vec<(String, u32)> = own
            .filter_map(|queue| Some((queue.text("topic")?.to_owned(), u32::try_from(queue.int("queueId")?).ok()?)))
            .collect();
        if !lock {
            self.broker.unlock_queues(group, client, &queues).await?;
            return Ok(Answer::done());
        }
        let locked = self.broker.lock_queues(group, client, &queues).await?;
        let broker = self.broker.broker_name();
        let locked = locked.iter().map(|(topic, queue)| crate::admin::queue_json(topic, broker, *queue));
        Ok(Answer::json(&Json::object([("lockOKMQSet", Json::List(locked.collect()))])))
    }

    /// Tells members when those of their group change, until the front shuts down.
    pub(crate) async fn tell_of_members(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut changes = self.broker.member_changes();
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            match change {
                Ok(group) => self.tell_members(&group),
                Err(RecvError::Lagged(_)) => {
                    self.broker.groups().iter().for_each(|group| self.tell_members(&group.name));
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// Has members ask anew what is theirs.
    pub(crate) fn tell_members(&self, group: &str) {
        for member in self.broker.members(group) {
            let Some(link) = member.connection.and_then(|number| self.link(number)) else { continue };
            let fields = [("consumerGroup", group)].into_iter().collect();
            // Who does not read learns of it when it asks by itself.
            link.tell(request::NOTIFY_CONSUMER_IDS_CHANGED, fields, Bytes::new());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_leave_no_queue_out() {
        for (queues, members) in [(0, 1), (4, 1), (4, 3), (3, 4), (1024, 7)] {
            let shares: Vec<_> = (0..members).map(|place| share(queues, members, place)).collect();
            let all: Vec<usize> = shares.iter().cloned().flatten().collect();
            assert_eq!(all, (0..queues).collect::<Vec<_>>());
            let sizes = shares.iter().map(|share| share.len());
            assert!(sizes.clone().max() <= sizes.min().map(|least| least + 1), "{queues} {members}");
        }
    }

    #[test]
    fn tags_are_read_as_clients_write_them() {
        for all in ["", " ", "*", "||"] {
            assert!(filter(Some("TAG"), all).unwrap().is_all(), "{all:?}");
        }
        assert_eq!(filter(None, "a||b || ").unwrap(), Filter::tags("a||b").unwrap());
        assert!(filter(Some("SQL92"), "a >").is_err());
    }
}
