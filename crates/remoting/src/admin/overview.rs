//! The broker's figures, and who produces, as tools expect them.

use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::header::language_name;
use crate::codec::json::Json;
use crate::codec::shown;
use crate::front::Front;
use std::collections::BTreeMap;

/// What tools show as the version of this broker.
const VERSION_SHOWN: &str = concat!("Martlet_", env!("CARGO_PKG_VERSION"));

impl Front {
    /// Figures of the broker. Those that this one has nothing for are zeros: tools read numbers there.
    pub(crate) fn runtime_info(&self) -> Answer {
        let figures = self.broker.figures();
        let messages_in: u64 = figures.topics.iter().map(|topic| topic.messages_in).sum();
        let bytes_in: u64 = figures.topics.iter().map(|topic| topic.bytes_in).sum();
        let usage = &figures.usage;
        let disk_used = usage.disk_total.saturating_sub(usage.disk_free);
        let share = match usage.disk_total {
            0 => 0.0,
            total => disk_used as f64 / total as f64,
        };
        let seconds = self.started.elapsed().as_secs();
        let (put, got) = self.rates.rates(|| self.broker.figures());
        let counts = self.rates.days(|| self.broker.figures());
        let per_second = |rates: [f64; 3]| rates.map(|rate| format!("{rate:.2}")).join(" ");
        let gibibytes = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
        let average = if messages_in == 0 { 0.0 } else { bytes_in as f64 / messages_in as f64 };
        let mut table: BTreeMap<&str, String> = BTreeMap::new();
        for zero in [
            "sendThreadPoolQueueSize",
            "pullThreadPoolQueueSize",
            "queryThreadPoolQueueSize",
            "ackThreadPoolQueueSize",
            "litePullThreadPoolQueueSize",
            "EndTransactionQueueSize",
            "sendThreadPoolQueueHeadWaitTimeMills",
            "pullThreadPoolQueueHeadWaitTimeMills",
            "queryThreadPoolQueueHeadWaitTimeMills",
            "ackThreadPoolQueueHeadWaitTimeMills",
            "litePullThreadPoolQueueHeadWaitTimeMills",
            "dispatchBehindBytes",
            "putMessageFailedTimes",
            "startAcceptSendRequestTimeStamp",
            "pageCacheLockTimeMills",
            "timerReadBehind",
            "timerOffsetBehind",
            "timerCongestNum",
            "commitLogMinOffset",
        ] {
            table.insert(zero, "0".into());
        }
        for (name, value) in [
            ("brokerVersionDesc", VERSION_SHOWN.to_owned()),
            ("brokerVersion", crate::link::VERSION.to_string()),
            ("brokerActive", "true".into()),
            ("putTps", per_second(put)),
            ("getTransferredTps", per_second(got)),
            ("getTotalTps", per_second(got)),
            ("getFoundTps", per_second(got)),
            ("getMissTps", "0.00 0.00 0.00".into()),
            ("timerEnqueueTps", "0.0".into()),
            ("timerDequeueTps", "0.0".into()),
            ("msgPutTotalYesterdayMorning", counts.yesterday.0.to_string()),
            ("msgPutTotalTodayMorning", counts.today.0.to_string()),
            ("msgPutTotalTodayNow", counts.now.0.to_string()),
            ("msgGetTotalYesterdayMorning", counts.yesterday.1.to_string()),
            ("msgGetTotalTodayMorning", counts.today.1.to_string()),
            ("msgGetTotalTodayNow", counts.now.1.to_string()),
            ("putMessageTimesTotal", messages_in.to_string()),
            ("putMessageSizeTotal", bytes_in.to_string()),
            ("remainHowManyDataToFlush", "0 B".into()),
            ("putMessageAverageSize", format!("{average:.2}")),
            ("commitLogDiskRatio", format!("{share:.4}")),
            ("consumeQueueDiskRatio", format!("{share:.4}")),
            ("commitLogMaxOffset", usage.written_bytes.to_string()),
            (
                "commitLogDirCapacity",
                format!("Total : {}, Free : {}.", gibibytes(usage.disk_total), gibibytes(usage.disk_free)),
            ),
            // Tools show how long ago that was.
            ("earliestMessageTimeStamp", martlet_broker::wall_clock().0.to_string()),
            ("bootTimestamp", martlet_broker::wall_clock().plus(-(seconds as i64 * 1_000)).0.to_string()),
            ("runtime", format!("[ {days} days, {hours} hours, {minutes} minutes, {} seconds ]", seconds % 60)),
        ] {
            table.insert(name, value);
        }
        let table = table.into_iter().map(|(name, value)| (Json::from(name), value.into())).collect();
        Answer::json(&Json::object([("table", Json::Object(table))]))
    }

    /// Replicas: there are none.
    pub(crate) fn replicas(&self) -> Answer {
        let written = self.broker.figures().usage.written_bytes;
        Answer::json(&Json::object([
            ("haConnectionInfo", Json::List(Vec::new())),
            ("inSyncSlaveNums", 0.into()),
            ("master", true.into()),
            ("masterCommitLogMaxOffset", written.into()),
        ]))
    }

    /// Connections with a producer of a group.
    pub(crate) fn producer_connections(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let group = fields.text("producerGroup")?;
        let connections: Vec<Json> = self
            .producers
            .clients_of(group)
            .iter()
            .map(|client| client.json("clientAddr", client.peer.to_string()))
            .collect();
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
            (
                Json::from(group.as_str()),
                Json::List(clients.iter().map(|client| client.json("remoteIP", format!("/{}", client.peer))).collect()),
            )
        });
        Answer::json(&Json::object([("data", Json::Object(table.collect()))]))
    }
}

impl crate::producers::Client {
    fn json(&self, field: &'static str, address: String) -> Json {
        Json::object([
            (field, address.into()),
            ("clientId", (&*self.id).into()),
            ("language", language_name(self.language).into()),
            ("lastUpdateTimestamp", self.heard.0.into()),
            ("version", self.version.into()),
        ])
    }
}
