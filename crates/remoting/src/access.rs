//! Who sends a request, and whether it may: signatures, and what each code needs.
//!
//! Source: remoting.md section 5.

use crate::answer::Denied;
use crate::codec::code::{request, response};
use crate::codec::fields::{FieldError, Fields};
use crate::codec::header::Header;
use crate::codec::json::Json;
use crate::front::Front;
use crate::link::Link;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use martlet_broker::auth::Action::{Create, Delete, Get, List, Pub, Sub, Update};
use martlet_broker::auth::{Access, AccessError, Action, Caller, Need};
use martlet_model::names::RETRY_PREFIX;

/// Names the user.
pub(crate) const ACCESS_KEY: &str = "AccessKey";
/// HMAC-SHA1 in base64 of all other fields and the body.
const SIGNATURE: &str = "Signature";
/// Goes with a user of a token service, of which this broker has none; signed like any field.
const SECURITY_TOKEN: &str = "SecurityToken";
/// Says that a client is one of the vendor's older ones.
const VENDORS_CHANNEL: &str = "OnsChannel";
/// Old clients add this one after they have signed.
const ADDED_LATER: &str = "_UNIQUE_KEY_QUERY";
/// Ordinal of 4.9.3, the last version that does.
const ADDED_LATER_UNTIL: i32 = 399;

impl From<AccessError> for Denied {
    fn from(error: AccessError) -> Self {
        Self::new(response::NO_PERMISSION, error.to_string())
    }
}

impl Front {
    /// Refuses a request that is not signed, or that its user may not send. Costs nothing while access control is off.
    pub(crate) fn check_access(&self, link: &Link, header: &Header, body: &[u8]) -> Result<(), Denied> {
        let Some(access) = self.broker.access() else { return Ok(()) };
        let caller = caller(access.get(), header, body)?;
        if is_about_access(header.code) && !caller.is_bound() {
            // Where no policies are looked at, nobody else could be told from whoever may send and consume.
            return Ok(caller.permit_super("a request about users and policies")?);
        }
        if !caller.is_bound() {
            return Ok(());
        }
        let said = match has_names_in_body(header.code) {
            true => Json::parse(body, "body")?,
            false => Json::Null,
        };
        let about = About { fields: Fields::of(header), said: &said, cluster: self.broker.cluster_name() };
        let needs = needs(header.code, about)?;
        needs.iter().try_for_each(|need| Ok(caller.permit(need, link.peer.ip())?))
    }

    /// Whether a request that has been let in is from a super user.
    pub(crate) fn is_by_super_user(&self, header: &Header) -> bool {
        let name = header.field(ACCESS_KEY).unwrap_or("");
        self.broker
            .access()
            .is_some_and(|access| access.get().named(name, ACCESS_KEY).is_ok_and(|caller| caller.is_super()))
    }

    /// Whether a request that has been let in for the topic it names is about a message of another one.
    pub(crate) fn is_of_other_topic(&self, fields: &Fields<'_>, topic: &str) -> bool {
        let named = fields.optional("topic").filter(|named| !named.trim().is_empty());
        self.broker.has_access_control() && named.is_some_and(|named| named != topic)
    }
}

/// Who has signed a request.
fn caller<'a>(access: Access<'a>, header: &'a Header, body: &[u8]) -> Result<Caller<'a>, AccessError> {
    let name = header.field(ACCESS_KEY).unwrap_or("");
    if header.code == request::GET_ROUTEINFO_BY_TOPIC && header.field(VENDORS_CHANNEL).is_some() {
        // These clients sign such a request in a way that nobody has found out.
        return access.named(name, ACCESS_KEY);
    }
    let signature = STANDARD.decode(header.field(SIGNATURE).unwrap_or("")).unwrap_or_default();
    let mut fields: Vec<(&str, &str)> =
        header.fields.iter().filter(|(name, _)| is_signed(name, header.version)).collect();
    // In the order of UTF-16, which is that of bytes where all are ASCII.
    fields.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    let parts = fields.into_iter().map(|(_, value)| value.as_bytes()).chain([body]);
    access.authenticate(name, ACCESS_KEY, parts, &signature)
}

fn is_signed(name: &str, version: i32) -> bool {
    name != SIGNATURE && (name != ADDED_LATER || version > ADDED_LATER_UNTIL)
}

/// Whether a field is for this broker's eyes only, and not to be passed on.
pub(crate) fn is_credential(name: &str) -> bool {
    [ACCESS_KEY, SIGNATURE, SECURITY_TOKEN].contains(&name)
}

fn is_about_access(code: i32) -> bool {
    (request::AUTH_CREATE_USER..=request::AUTH_LIST_ACL).contains(&code)
}

/// Whether what a request is about is in its body.
fn has_names_in_body(code: i32) -> bool {
    matches!(
        code,
        request::HEART_BEAT
            | request::LOCK_BATCH_MQ
            | request::UNLOCK_BATCH_MQ
            | request::BATCH_ACK_MESSAGE
            | request::QUERY_ASSIGNMENT
            | request::SET_MESSAGE_REQUEST_MODE
            | request::UPDATE_AND_CREATE_TOPIC_LIST
            | request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP
            | request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST
    )
}

/// One of some actions on a topic; for that of a group's retries, on the group.
fn topic<'a>(name: &'a str, actions: &'static [Action]) -> Need<'a> {
    name.strip_prefix(RETRY_PREFIX).map_or(Need::topic(name, actions), |group| Need::group(group, actions))
}

fn is_retry(topic: &str) -> bool {
    topic.starts_with(RETRY_PREFIX)
}

/// What a body says under a key.
fn said_text<'a>(said: &'a Json, name: &'static str) -> Result<&'a str, FieldError> {
    said.text(name).filter(|text| !text.trim().is_empty()).ok_or(FieldError::Missing { name })
}

/// A group, and the topics of its queues, of which that of its retries is no other thing.
fn group_and_topics<'a>(
    group: &'a str,
    topics: impl IntoIterator<Item = &'a str>,
    actions: &'static [Action],
) -> Vec<Need<'a>> {
    let topics = topics.into_iter().filter(|topic| !is_retry(topic)).map(|name| Need::topic(name, actions));
    [Need::group(group, actions)].into_iter().chain(topics).collect()
}

/// What a request is about: its fields, its body where that has names, and the name of the cluster.
#[derive(Clone, Copy)]
struct About<'a> {
    fields: Fields<'a>,
    said: &'a Json,
    cluster: &'a str,
}

type Needs<'a> = Result<Vec<Need<'a>>, FieldError>;

impl<'a> About<'a> {
    /// A field that may be missing.
    fn named(&self, field: &'static str) -> Option<&'a str> {
        self.fields.optional(field).filter(|name| !name.trim().is_empty())
    }

    fn cluster(&self, actions: &'static [Action]) -> Needs<'a> {
        Ok(vec![Need::cluster(self.cluster, actions)])
    }

    fn topic(&self, field: &'static str, actions: &'static [Action]) -> Needs<'a> {
        Ok(vec![topic(self.fields.text(field)?, actions)])
    }

    fn group(&self, field: &'static str, actions: &'static [Action]) -> Needs<'a> {
        Ok(vec![Need::group(self.fields.text(field)?, actions)])
    }

    /// Both, where a topic is named.
    fn both(&self, group: &'static str, topic: &'static str, actions: &'static [Action]) -> Needs<'a> {
        Ok(group_and_topics(self.fields.text(group)?, self.named(topic), actions))
    }

    /// Both, the group and topic that the body says.
    fn said_both(&self, actions: &'static [Action]) -> Needs<'a> {
        Ok(group_and_topics(said_text(self.said, "consumerGroup")?, [said_text(self.said, "topic")?], actions))
    }

    /// Of a message that is named by its place: its topic, which is compared later, or the whole broker if that is not said.
    fn message(&self, actions: &'static [Action]) -> Vec<Need<'a>> {
        vec![self.named("topic").map_or(Need::cluster(self.cluster, &[Get]), |name| topic(name, actions))]
    }

    fn send(&self, field: &'static str) -> Needs<'a> {
        let name = self.fields.text(field)?;
        Ok(vec![topic(name, if is_retry(name) { &[Sub] } else { &[Pub] })])
    }
}

/// What a request needs, all of it. One with nothing to need is for everybody who signs.
fn needs<'a>(code: i32, about: About<'a>) -> Needs<'a> {
    let About { fields, said, .. } = about;
    match code {
        request::GET_ROUTEINFO_BY_TOPIC => about.topic("topic", &[Pub, Sub, Get]),
        request::SEND_MESSAGE => about.send("topic"),
        request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => about.send("b"),
        request::RECALL_MESSAGE => about.topic("topic", &[Pub]),
        // Clients before 5.x do not say the topic. The half message's id, which is compared, is known to its producer only.
        request::END_TRANSACTION => Ok(about.named("topic").map(|name| topic(name, &[Pub])).into_iter().collect()),
        request::PULL_MESSAGE
        | request::LITE_PULL_MESSAGE
        | request::POP_MESSAGE
        | request::NOTIFICATION
        | request::ACK_MESSAGE
        | request::CHANGE_MESSAGE_INVISIBLETIME => {
            fields.text("topic")?;
            about.both("consumerGroup", "topic", &[Sub])
        }
        request::BATCH_ACK_MESSAGE => {
            let mut needs = Vec::new();
            for entry in said.items("acks") {
                let group = entry.text("c").map_or_else(|| said_text(entry, "consumerGroup"), Ok)?;
                let topic = entry.text("t").map_or_else(|| said_text(entry, "topic"), Ok)?;
                needs.extend(group_and_topics(group, [topic], &[Sub]));
            }
            Ok(needs)
        }
        request::CONSUMER_SEND_MSG_BACK => about.both("group", "originTopic", &[Sub]),
        request::HEART_BEAT => {
            let mut needs = Vec::new();
            for consumer in said.items("consumerDataSet") {
                let topics = consumer.items("subscriptionDataSet").iter().filter_map(|data| data.text("topic"));
                needs.extend(group_and_topics(said_text(consumer, "groupName")?, topics, &[Sub]));
            }
            Ok(needs)
        }
        request::UNREGISTER_CLIENT => {
            Ok(about.named("consumerGroup").map(|name| Need::group(name, &[Sub])).into_iter().collect())
        }
        request::GET_CONSUMER_LIST_BY_GROUP => about.group("consumerGroup", &[Sub, Get]),
        request::QUERY_CONSUMER_OFFSET => about.both("consumerGroup", "topic", &[Sub, Get]),
        request::UPDATE_CONSUMER_OFFSET => about.both("consumerGroup", "topic", &[Sub, Update]),
        request::LOCK_BATCH_MQ | request::UNLOCK_BATCH_MQ => {
            let topics = said.items("mqSet").iter().filter_map(|queue| queue.text("topic"));
            Ok(group_and_topics(said_text(said, "consumerGroup")?, topics, &[Sub]))
        }
        request::QUERY_ASSIGNMENT => about.said_both(&[Sub]),
        // Replies go to one client; what names it came with a message. The others tell nothing of topics and groups.
        request::SEND_REPLY_MESSAGE
        | request::SEND_REPLY_MESSAGE_V2
        | request::CHECK_CLIENT_CONFIG
        | request::GET_BROKER_CLUSTER_INFO => Ok(Vec::new()),
        _ => needs_of_tools(code, about),
    }
}

/// What `mqadmin` and dashboards need.
fn needs_of_tools<'a>(code: i32, about: About<'a>) -> Needs<'a> {
    let About { said, .. } = about;
    match code {
        request::UPDATE_AND_CREATE_TOPIC => about.topic("topic", &[Create]),
        request::UPDATE_AND_CREATE_TOPIC_LIST => said
            .items("topicConfigList")
            .iter()
            .map(|config| Ok(topic(said_text(config, "topicName")?, &[Create])))
            .collect(),
        request::DELETE_TOPIC_IN_BROKER | request::DELETE_TOPIC_IN_NAMESRV => about.topic("topic", &[Delete]),
        request::GET_TOPIC_CONFIG
        | request::GET_TOPIC_STATS_INFO
        | request::QUERY_TOPIC_CONSUME_BY_WHO
        | request::GET_PARENT_TOPIC_INFO
        | request::GET_MAX_OFFSET
        | request::GET_MIN_OFFSET
        | request::SEARCH_OFFSET_BY_TIMESTAMP
        | request::GET_EARLIEST_MSG_STORETIME => about.topic("topic", &[Sub, Get]),
        request::QUERY_MESSAGE => about.topic("topic", &[Sub, Get]),
        request::VIEW_MESSAGE_BY_ID => Ok(about.message(&[Sub, Get])),
        request::GET_LITE_TOPIC_INFO | request::GET_LITE_CLIENT_INFO => about.topic("parentTopic", &[Sub, Get]),
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => Ok(vec![Need::group(said_text(said, "groupName")?, &[Create])]),
        request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => said
            .items("groupConfigList")
            .iter()
            .map(|config| Ok(Need::group(said_text(config, "groupName")?, &[Create])))
            .collect(),
        request::DELETE_SUBSCRIPTIONGROUP => about.group("groupName", &[Delete]),
        request::SET_MESSAGE_REQUEST_MODE => about.said_both(&[Update]),
        request::INVOKE_BROKER_TO_RESET_OFFSET => about.both("group", "topic", &[Update]),
        request::GET_SUBSCRIPTIONGROUP_CONFIG | request::QUERY_TOPICS_BY_CONSUMER | request::GET_LITE_GROUP_INFO => {
            about.group("group", &[Sub, Get])
        }
        request::TRIGGER_LITE_DISPATCH => about.group("group", &[Update]),
        request::GET_CONSUME_STATS => about.both("consumerGroup", "topic", &[Sub, Get]),
        request::GET_CONSUMER_CONNECTION_LIST | request::GET_CONSUMER_RUNNING_INFO => {
            about.group("consumerGroup", &[Sub, Get])
        }
        request::CONSUME_MESSAGE_DIRECTLY => {
            let mut needs = about.group("consumerGroup", &[Sub])?;
            needs.extend(about.message(&[Sub]));
            Ok(needs)
        }
        request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER
        | request::GET_TOPICS_BY_CLUSTER
        | request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER
        | request::GET_SYSTEM_TOPIC_LIST_FROM_NS => about.cluster(&[Get, List]),
        request::PUT_KV_CONFIG
        | request::DELETE_KV_CONFIG
        | request::UPDATE_BROKER_CONFIG
        | request::CLEAN_EXPIRED_CONSUMEQUEUE
        | request::CLEAN_UNUSED_TOPIC
        | request::DELETE_EXPIRED_COMMITLOG
        | request::AUTH_CREATE_USER
        | request::AUTH_UPDATE_USER
        | request::AUTH_DELETE_USER
        | request::AUTH_CREATE_ACL
        | request::AUTH_UPDATE_ACL
        | request::AUTH_DELETE_ACL => about.cluster(&[Update]),
        // What else there is looks at the broker as a whole.
        _ => about.cluster(&[Get]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::code::request::NAMES;
    use martlet_broker::auth::ResourceKind;

    fn needed(code: i32, fields: &[(&str, &str)], body: &str) -> Vec<(ResourceKind, String, &'static [Action])> {
        let header = Header { code, fields: fields.iter().copied().collect(), ..Header::default() };
        let said = if has_names_in_body(code) { Json::parse(body.as_bytes(), "body").unwrap() } else { Json::Null };
        let about = About { fields: Fields::of(&header), said: &said, cluster: "c" };
        let needs = needs(code, about).unwrap();
        needs.iter().map(|need| (need.resource.kind, need.resource.name.to_owned(), need.actions)).collect()
    }

    #[test]
    fn retries_are_the_groups() {
        let pull = |topic| needed(request::PULL_MESSAGE, &[("consumerGroup", "g"), ("topic", topic)], "");
        assert_eq!(
            pull("t"),
            [(ResourceKind::Group, "g".to_owned(), &[Sub][..]), (ResourceKind::Topic, "t".to_owned(), &[Sub][..])]
        );
        assert_eq!(pull("%RETRY%g"), [(ResourceKind::Group, "g".to_owned(), &[Sub][..])]);
        let send = |topic| needed(request::SEND_MESSAGE_V2, &[("a", "p"), ("b", topic)], "");
        assert_eq!(send("t"), [(ResourceKind::Topic, "t".to_owned(), &[Pub][..])]);
        assert_eq!(send("%RETRY%g"), [(ResourceKind::Group, "g".to_owned(), &[Sub][..])]);
    }

    #[test]
    fn heartbeats_need_what_their_consumers_subscribe_to() {
        let body = r#"{"clientID":"x","producerDataSet":[{"groupName":"p"}],"consumerDataSet":[{"groupName":"g",
            "subscriptionDataSet":[{"topic":"t"},{"topic":"%RETRY%g"}]}]}"#;
        let names: Vec<String> = needed(request::HEART_BEAT, &[], body).into_iter().map(|need| need.1).collect();
        assert_eq!(names, ["g", "t"]);
    }

    #[test]
    fn a_message_by_its_place_needs_its_topic_or_the_whole_broker() {
        assert_eq!(needed(request::VIEW_MESSAGE_BY_ID, &[("offset", "1")], "")[0].0, ResourceKind::Cluster);
        assert_eq!(needed(request::VIEW_MESSAGE_BY_ID, &[("topic", "t")], "")[0].0, ResourceKind::Topic);
    }

    /// A code that is added to the broker and forgotten here needs the whole broker.
    #[test]
    fn few_codes_are_for_everybody_who_signs() {
        let fields: Vec<(&str, &str)> =
            ["topic", "b", "group", "consumerGroup", "groupName", "parentTopic"].map(|name| (name, "x")).into();
        let body = r#"{"consumerGroup":"x","topic":"x","groupName":"x","acks":[{"c":"x","t":"x"}],
            "consumerDataSet":[{"groupName":"x"}],"topicConfigList":[{"topicName":"x"}],"groupConfigList":[{"groupName":"x"}]}"#;
        let open: Vec<i32> =
            NAMES.iter().map(|(code, _)| *code).filter(|code| needed(*code, &fields, body).is_empty()).collect();
        let expected = [
            request::CHECK_CLIENT_CONFIG,
            request::GET_BROKER_CLUSTER_INFO,
            request::SEND_REPLY_MESSAGE,
            request::SEND_REPLY_MESSAGE_V2,
        ];
        assert_eq!(open, expected);
    }

    #[test]
    fn old_clients_add_a_field_after_they_have_signed() {
        assert!(!is_signed(SIGNATURE, 513) && is_signed(ACCESS_KEY, 0) && is_signed(SECURITY_TOKEN, 0));
        assert!(!is_signed(ADDED_LATER, 399) && is_signed(ADDED_LATER, 400));
    }
}
