//! The broker's figures and settings, as tools expect them.

use super::data_version;
use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::header::language_name;
use crate::codec::json::Json;
use crate::codec::shown;
use crate::front::Front;
use bytes::Bytes;
use std::collections::BTreeMap;

/// What tools show as the version of this broker.
const VERSION_SHOWN: &str = concat!("Martlet_", env!("CARGO_PKG_VERSION"));

impl Front {
    /// Figures of the broker. Those that this one has nothing for are zeros: tools read numbers there.
    pub(crate) fn runtime_info(&self) -> Answer {
        let figures = self.broker.figures();
        let messages_in: u64 = figures.topics.iter().map(|topic| topic.messages_in).sum();
        let messages_out: u64 = figures.groups.iter().map(|group| group.messages_out).sum();
        let bytes_in: u64 = figures.topics.iter().map(|topic| topic.bytes_in).sum();
        let usage = &figures.usage;
        let own = usage.log_bytes + usage.index_bytes;
        let share = match usage.disk_total {
            0 => 0.0,
            total => own as f64 / total as f64,
        };
        let seconds = self.started.elapsed().as_secs().max(1);
        let per_second = |count: u64| format!("{0:.2} {0:.2} {0:.2}", count as f64 / seconds as f64);
        let average = if messages_in == 0 { 0.0 } else { bytes_in as f64 / messages_in as f64 };
        let mut table: BTreeMap<&str, String> = BTreeMap::new();
        for zero in [
            "sendThreadPoolQueueSize",
            "pullThreadPoolQueueSize",
            "queryThreadPoolQueueSize",
            "sendThreadPoolQueueHeadWaitTimeMills",
            "pullThreadPoolQueueHeadWaitTimeMills",
            "queryThreadPoolQueueHeadWaitTimeMills",
            "pageCacheLockTimeMills",
            "timerReadBehind",
            "timerOffsetBehind",
            "timerCongestNum",
            "msgPutTotalYesterdayMorning",
            "msgPutTotalTodayMorning",
            "msgGetTotalYesterdayMorning",
            "msgGetTotalTodayMorning",
            "commitLogMinOffset",
        ] {
            table.insert(zero, "0".into());
        }
        for (name, value) in [
            ("brokerVersionDesc", VERSION_SHOWN.to_owned()),
            ("brokerVersion", crate::connection::VERSION.to_string()),
            ("brokerActive", "true".into()),
            ("putTps", per_second(messages_in)),
            ("getTransferredTps", per_second(messages_out)),
            ("getTotalTps", per_second(messages_out)),
            ("getFoundTps", per_second(messages_out)),
            ("getMissTps", "0.00 0.00 0.00".into()),
            ("timerEnqueueTps", "0.0".into()),
            ("timerDequeueTps", "0.0".into()),
            ("msgPutTotalTodayNow", messages_in.to_string()),
            ("msgGetTotalTodayNow", messages_out.to_string()),
            ("putMessageTimesTotal", messages_in.to_string()),
            ("putMessageAverageSize", format!("{average:.2}")),
            ("commitLogDiskRatio", format!("{share:.4}")),
            ("consumeQueueDiskRatio", "0.0".into()),
            ("commitLogMaxOffset", usage.written_bytes.to_string()),
            ("commitLogDirCapacity", format!("Total : {} B, Free : {} B.", usage.disk_total, usage.disk_free)),
            // Tools show how long ago that was.
            ("earliestMessageTimeStamp", martlet_broker::wall_clock().0.to_string()),
            ("bootTimestamp", martlet_broker::wall_clock().plus(-(seconds as i64 * 1_000)).0.to_string()),
            (
                "runtime",
                format!("[ {} days, {} hours, {} minutes ]", seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60),
            ),
        ] {
            table.insert(name, value);
        }
        let table = table.into_iter().map(|(name, value)| (Json::from(name), value.into())).collect();
        Answer::json(&Json::object([("table", Json::Object(table))]))
    }

    /// Settings of the broker, as `key=value` lines with the reference's keys.
    pub(crate) fn broker_config(&self) -> Answer {
        let options = self.broker.options();
        let lines = [
            ("brokerName", options.broker_name.clone()),
            ("brokerClusterName", options.cluster_name.clone()),
            ("brokerId", "0".into()),
            ("autoCreateTopicEnable", options.auto_create_topics.to_string()),
            ("autoCreateSubscriptionGroup", options.auto_create_groups.to_string()),
            ("fileReservedTime", (options.retention_millis / 3_600_000).to_string()),
            ("transactionTimeOut", options.transaction_immunity_millis.to_string()),
            ("transactionCheckInterval", options.transaction_check_interval_millis.to_string()),
            ("transactionCheckMax", options.transaction_checks_max.to_string()),
            ("timerMaxDelaySec", (options.delay_max_millis / 1_000).to_string()),
        ];
        let text: String = lines.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        Answer { body: Bytes::from(text), ..Answer::done() }.with("version", data_version())
    }

    /// Connections with a producer of a group.
    pub(crate) fn producer_connections(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let group = fields.text("producerGroup")?;
        let connections: Vec<Json> =
            self.producers.clients_of(group).iter().map(|client| client.json("clientAddr")).collect();
        if connections.is_empty() {
            let shown = shown(group);
            return Err(Denied::new(
                response::SYSTEM_ERROR,
                format!("producer group {shown} has no connected producer"),
            ));
        }
        Ok(Answer::json(&Json::object([("connectionSet", Json::List(connections))])))
    }

    /// All producers by group.
    pub(crate) fn all_producers(&self) -> Answer {
        let groups = self.producers.groups();
        let table = groups.iter().map(|group| {
            let clients = self.producers.clients_of(group);
            (Json::from(group.as_str()), Json::List(clients.iter().map(|client| client.json("remoteIP")).collect()))
        });
        Answer::json(&Json::object([("data", Json::Object(table.collect()))]))
    }
}

impl crate::producers::Client {
    fn json(&self, address: &'static str) -> Json {
        Json::object([
            (address, self.peer.to_string().into()),
            ("clientId", (&*self.id).into()),
            ("language", language_name(self.language).into()),
            ("lastUpdateTimestamp", self.heard.0.into()),
            ("version", self.version.into()),
        ])
    }
}
