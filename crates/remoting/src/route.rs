//! What a name server is asked: topics, their queues, and addresses.

use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::header::Header;
use crate::codec::json::Json;
use crate::codec::shown;
use crate::front::Front;
use crate::link::Link;
use martlet_model::names::{self, DEAD_LETTER_PREFIX, RETRY_PREFIX};
use martlet_model::{Permission, limits};

/// Producers ask for the route of this topic where the one they send to does not exist yet.
pub(crate) const CREATING_TOPIC: &str = "TBW102";
/// From this version on clients read standard JSON; older ones were made for numbers as keys.
const STANDARD_JSON_VERSION: i32 = 401;
/// Bits of a topic's permission.
const READ: i32 = 4;
const WRITE: i32 = 2;
const INHERIT: i32 = 1;

/// What a route says of a topic's queues.
pub(crate) struct Queues {
    pub read: u32,
    pub write: u32,
    pub permission: i32,
}

/// The bits of a permission.
pub(crate) fn permission_bits(permission: Permission) -> i32 {
    let bit = |has: bool, bit: i32| if has { bit } else { 0 };
    bit(permission.readable(), READ) | bit(permission.writable(), WRITE)
}

impl Front {
    /// Queues and addresses of a topic.
    pub(crate) fn route(&self, link: &Link, header: &Header, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let topic = fields.text("topic")?;
        let queues = self.queues(topic).ok_or_else(|| {
            let shown = shown(topic);
            Denied::new(response::TOPIC_NOT_EXIST, format!("No topic route info in name server for the topic: {shown}"))
        })?;
        let queue_data = Json::object([
            ("brokerName", self.broker.broker_name().into()),
            ("perm", queues.permission.into()),
            ("readQueueNums", queues.read.into()),
            ("topicSysFlag", 0.into()),
            ("writeQueueNums", queues.write.into()),
        ]);
        let standard = header.version >= STANDARD_JSON_VERSION || fields.flag("acceptStandardJsonOnly");
        Ok(Answer::json(&Json::object([
            ("brokerDatas", Json::List(vec![self.broker_data(link, standard)])),
            ("filterServerTable", Json::Object(Vec::new())),
            ("queueDatas", Json::List(vec![queue_data])),
        ])))
    }

    /// The queues of a topic; `None`: there is no such topic.
    pub(crate) fn queues(&self, name: &str) -> Option<Queues> {
        let options = self.broker.options();
        let both = READ | WRITE;
        if name == CREATING_TOPIC {
            let count = limits::TOPIC_QUEUES_DEFAULT;
            let creating = Queues { read: count, write: count, permission: both | INHERIT };
            return options.auto_create_topics.then_some(creating);
        }
        if let Some(group) = name.strip_prefix(RETRY_PREFIX) {
            // A group's first consumer asks before its first heartbeat has made the group.
            let known = self.broker.known_group(group).is_some();
            let coming = options.auto_create_groups && names::check_group(group).is_ok();
            return (known || coming).then_some(Queues { read: 1, write: 1, permission: both });
        }
        if self.is_reply_topic(name) {
            return Some(Queues { read: 1, write: 1, permission: both });
        }
        let topic = self.broker.known_topic(name);
        if name == names::TRACE_TOPIC && topic.is_none() {
            // The first trace makes it.
            let count = limits::TOPIC_QUEUES_DEFAULT;
            return Some(Queues { read: count, write: count, permission: both });
        }
        if topic.is_none() && options.auto_create_topics && self.is_own_name(name) {
            return Some(Queues { read: 1, write: 1, permission: both });
        }
        let topic = topic?;
        let permission = permission_bits(topic.permission);
        Some(Queues { read: topic.read_queues, write: topic.write_queues, permission })
    }

    /// Whether a topic has the name of the broker or of the cluster: tools send to it to see whether that is possible, and it is
    /// made by the first who does.
    fn is_own_name(&self, name: &str) -> bool {
        name == self.broker.broker_name() || name == self.broker.cluster_name()
    }

    /// Where this broker is.
    fn broker_data(&self, link: &Link, standard: bool) -> Json {
        let master = if standard { Json::from("0") } else { Json::from(0) };
        Json::object([
            ("brokerAddrs", Json::Object(vec![(master, self.addresses.broker(link).into())])),
            ("brokerName", self.broker.broker_name().into()),
            ("cluster", self.broker.cluster_name().into()),
            ("enableActingMaster", false.into()),
        ])
    }

    /// The brokers of the cluster.
    pub(crate) fn cluster(&self, link: &Link, header: &Header) -> Answer {
        let (broker, cluster) = (self.broker.broker_name(), self.broker.cluster_name());
        let data = self.broker_data(link, header.version >= STANDARD_JSON_VERSION);
        Answer::json(&Json::object([
            ("brokerAddrTable", Json::object([(broker, data)])),
            ("clusterAddrTable", Json::object([(cluster, Json::list([broker]))])),
        ]))
    }

    /// All topics, those of groups included; clusters and brokers are topics to those who ask.
    pub(crate) fn topic_list(&self) -> Answer {
        let mut names: Vec<String> = self.broker.topics().iter().map(|topic| topic.name.clone()).collect();
        for group in self.broker.groups() {
            names.push(format!("{RETRY_PREFIX}{}", group.name));
            names.push(format!("{DEAD_LETTER_PREFIX}{}", group.name));
        }
        if self.broker.options().auto_create_topics {
            let made_by_sends = [CREATING_TOPIC, self.broker.cluster_name(), self.broker.broker_name()];
            names.extend(made_by_sends.map(str::to_owned));
        }
        names.sort_unstable();
        names.dedup();
        Answer::json(&Json::object([("topicList", Json::list(names))]))
    }

    /// Topics that are not users' own.
    pub(crate) fn system_topic_list(&self) -> Answer {
        let names = [CREATING_TOPIC, names::TRACE_TOPIC, self.broker.cluster_name(), self.broker.broker_name()];
        Answer::json(&Json::object([("topicList", Json::list(names))]))
    }
}
