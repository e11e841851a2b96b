//! Settings of the broker and of the name server, by the reference's names.

use super::{data_version, invalid};
use crate::answer::{Answer, Denied};
use crate::codec::shown;
use crate::front::Front;
use crate::link::Link;
use bytes::Bytes;
use martlet_broker::Durability;

/// A setting: its name, its value, and the flag that it has here, if any.
type Setting = (&'static str, String, Option<&'static str>);

fn text<'a>(settings: impl Iterator<Item = (&'a str, String)>) -> Bytes {
    Bytes::from(settings.map(|(name, value)| format!("{name}={value}\n")).collect::<String>())
}

impl Front {
    fn settings(&self, link: &Link) -> Vec<Setting> {
        let options = self.broker.options();
        let at = self.addresses.store_host(link);
        let flush = match options.durability {
            Durability::Fdatasync => "SYNC_FLUSH",
            Durability::PageCacheOnlyLosesDataOnPowerLoss => "ASYNC_FLUSH",
        };
        vec![
            ("brokerName", options.broker_name.clone(), Some("broker-name")),
            ("brokerClusterName", options.cluster_name.clone(), Some("cluster-name")),
            ("brokerId", "0".into(), None),
            ("brokerRole", "ASYNC_MASTER".into(), None),
            ("brokerPermission", "6".into(), None),
            ("brokerIP1", at.ip().to_string(), Some("remoting-advertise")),
            ("listenPort", at.port().to_string(), Some("remoting-listen")),
            ("autoCreateTopicEnable", options.auto_create_topics.to_string(), Some("auto-create-topics")),
            ("autoCreateSubscriptionGroup", options.auto_create_groups.to_string(), Some("auto-create-groups")),
            ("enableMixedMessageType", options.mixed_topics.to_string(), Some("mixed-topics")),
            ("enablePropertyFilter", "true".into(), None),
            ("timerWheelEnable", "true".into(), None),
            ("traceTopicEnable", "true".into(), None),
            ("flushDiskType", flush.into(), Some("durability")),
            ("fileReservedTime", (options.retention_millis / 3_600_000).to_string(), Some("retention-hours")),
            ("diskMaxUsedSpaceRatio", format!("{:.0}", options.disk_watermark * 100.0), Some("disk-watermark-percent")),
            ("mappedFileSizeCommitLog", options.segment_bytes.to_string(), Some("segment-mib")),
            ("popInflightMessageThreshold", options.open_slots_max.to_string(), Some("open-slots-max")),
            ("timerMaxDelaySec", (options.delay_max_millis / 1_000).to_string(), Some("delay-max-hours")),
            (
                "transactionTimeOut",
                options.transaction_immunity_millis.to_string(),
                Some("transaction-immunity-seconds"),
            ),
            (
                "transactionCheckInterval",
                options.transaction_check_interval_millis.to_string(),
                Some("transaction-check-interval-seconds"),
            ),
            ("transactionCheckMax", options.transaction_checks_max.to_string(), Some("transaction-checks-max")),
        ]
    }

    /// Settings of the broker, as `key=value` lines with the reference's keys.
    pub(crate) fn broker_config(&self, link: &Link) -> Answer {
        let settings = self.settings(link);
        let body = text(settings.into_iter().map(|(name, value, _)| (name, value)));
        Answer { body, ..Answer::done() }.with("version", data_version())
    }

    /// Nothing can be changed while the broker runs: what is to be as it is will do, anything else is told its flag.
    pub(crate) fn update_broker_config(&self, link: &Link, body: &[u8]) -> Result<Answer, Denied> {
        let said = std::str::from_utf8(body).map_err(|_| invalid("body is not UTF-8"))?;
        let settings = self.settings(link);
        let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            let (name, value) = (name.trim(), value.trim());
            let known = settings.iter().find(|(known, ..)| *known == name);
            let (_, current, flag) =
                known.ok_or_else(|| invalid(format!("{} is not a setting of this broker", shown(name))))?;
            if current == value {
                continue;
            }
            return Err(invalid(match flag {
                Some(flag) => {
                    format!("{name} is {current}, and changes with a restart: start the broker with --{flag}")
                }
                None => format!("{name} is {current}, and cannot be changed"),
            }));
        }
        Ok(Answer::done())
    }

    /// Settings of the name server, in the same form.
    pub(crate) fn nameserver_config(&self, link: &Link) -> Answer {
        let port = link.local.port().to_string();
        let settings = [
            ("listenPort", port),
            ("enableTopicList", "true".into()),
            ("enableAllTopicList", "true".into()),
            ("orderMessageEnable", "false".into()),
            ("supportActingMaster", "false".into()),
        ];
        Answer { body: text(settings.into_iter()), ..Answer::done() }
    }
}
