//! What went in and out, and how far groups are: for all of the broker.

use super::rates::{Amount, MARK_EVERY};
use super::{invalid, queue_json};
use crate::answer::{Answer, Denied};
use crate::codec::code::response;
use crate::codec::fields::Fields;
use crate::codec::json::Json;
use crate::codec::shown;
use crate::front::Front;
use crate::link::Link;
use martlet_broker::{GroupStatus, ProgressStatus, Refusal};
use martlet_model::{QueueOffset, TopicType};
use std::sync::Arc;
use tokio::sync::watch;

/// A number as tools read it.
fn decimal(value: f64) -> Json {
    Json::Number(format!("{value:.4}"))
}

fn amount(amount: Amount) -> Json {
    Json::object([("avgpt", decimal(0.0)), ("sum", amount.sum.into()), ("tps", decimal(amount.rate))])
}

impl Front {
    /// Remembers from time to time what was counted, until the front shuts down.
    pub(crate) async fn keep_rates(self: Arc<Self>, mut stopped: watch::Receiver<bool>) {
        let mut marks = tokio::time::interval(MARK_EVERY);
        loop {
            tokio::select! {
                _ = marks.tick() => self.rates.mark(&self.broker.figures(), martlet_broker::wall_clock()),
                _ = stopped.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Messages of the last minute, hour and day.
    pub(crate) fn stats_data(&self, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let (name, key) = (fields.text("statsName")?, fields.text("statsKey")?);
        let figures = || self.broker.figures();
        let found = match name {
            "TOPIC_PUT_NUMS" => self.rates.topic(key, figures),
            // Names have no such letter.
            "GROUP_GET_NUMS" => key.split_once('@').and_then(|(topic, group)| self.rates.group(group, topic, figures)),
            "BROKER_PUT_NUMS" if key == self.broker.cluster_name() => Some(self.rates.all(figures).0),
            "BROKER_GET_NUMS" if key == self.broker.cluster_name() => Some(self.rates.all(figures).1),
            _ => None,
        };
        let [minute, hour, day] = found.ok_or_else(|| {
            let remark = format!("statsName {} has nothing for statsKey {}", shown(name), shown(key));
            Denied::new(response::SYSTEM_ERROR, remark)
        })?;
        let parts = [("statsDay", amount(day)), ("statsHour", amount(hour)), ("statsMinute", amount(minute))];
        Ok(Answer::json(&Json::object(parts)))
    }

    /// How far a group is in queues. `lastTimestamp` is when the last message that it has settled was stored.
    pub(super) async fn offset_table(
        &self,
        status: &GroupStatus,
        shows: impl Fn(&ProgressStatus) -> bool,
    ) -> Result<Json, Denied> {
        let mut table = Vec::new();
        for progress in status.progress.iter().filter(|progress| shows(progress)) {
            let handed_out = progress.max_offset.0.saturating_sub(progress.ready);
            let last = match progress.committed.0.checked_sub(1) {
                Some(last) => self.broker.stored_at(&progress.topic, progress.queue, QueueOffset(last)).await?,
                None => None,
            };
            let figures = Json::object([
                ("brokerOffset", progress.max_offset.0.into()),
                ("consumerOffset", progress.committed.0.into()),
                ("lastTimestamp", last.map_or(0, |time| time.0).into()),
                ("pullOffset", handed_out.max(progress.committed.0).into()),
            ]);
            table.push((queue_json(&progress.topic, self.broker.broker_name(), progress.queue), figures));
        }
        Ok(Json::Object(table))
    }

    /// Messages per second that go out to a group.
    pub(super) fn consume_tps(&self, group: &str) -> Json {
        decimal(self.rates.consumed(group, || self.broker.figures()))
    }

    /// Messages per second that come in for a topic.
    pub(super) fn topic_put_tps(&self, topic: &str) -> Json {
        decimal(self.rates.produced(topic, || self.broker.figures()))
    }

    /// How far all groups are, in all topics that have a message; or only in those in order.
    pub(crate) async fn all_consume_stats(&self, link: &Link, fields: &Fields<'_>) -> Result<Answer, Denied> {
        let ordered = match fields.text("isOrder")? {
            "true" => true,
            "false" => false,
            other => return Err(invalid(format!("isOrder {} is neither true nor false", shown(other)))),
        };
        let in_order = |topic: &str| self.broker.known_topic(topic).is_some_and(|topic| topic.kind == TopicType::Fifo);
        let mut list = Vec::new();
        let (mut waiting, mut in_flight) = (0, 0);
        for group in self.broker.groups() {
            let status = match self.broker.group_status(&group.name).await {
                Ok(status) => status,
                // Deleted meanwhile.
                Err(Refusal::GroupNotFound { .. }) => continue,
                Err(other) => return Err(other.into()),
            };
            let shows =
                |progress: &ProgressStatus| progress.max_offset.0 > 0 && (!ordered || in_order(&progress.topic));
            let shown = || status.progress.iter().filter(|progress| shows(progress));
            if shown().next().is_none() {
                continue;
            }
            waiting += shown().map(|progress| progress.max_offset.0.saturating_sub(progress.committed.0)).sum::<u64>();
            in_flight += shown().map(|progress| progress.in_flight).sum::<u64>();
            let stats = Json::object([
                ("consumeTps", self.consume_tps(&group.name)),
                ("offsetTable", self.offset_table(&status, shows).await?),
            ]);
            list.push(Json::object([(group.name.as_str(), Json::List(vec![stats]))]));
        }
        Ok(Answer::json(&Json::object([
            ("brokerAddr", self.addresses.broker(link).into()),
            ("consumeStatsList", Json::List(list)),
            ("totalDiff", waiting.into()),
            ("totalInflightDiff", in_flight.into()),
        ])))
    }
}
