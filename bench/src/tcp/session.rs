//! A client's start: route from the name server, a connection to the broker, a heartbeat; and a heartbeat every 30 s from then on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::link::{Link, beat, is_beat};
use super::{Answer, code, protocol};
use crate::error::Result;
use crate::wire::Traffic;

/// Time between two heartbeats of a client.
pub const BEAT_EVERY: Duration = Duration::from_secs(30);
/// Producer group of all loads.
pub const PRODUCER_GROUP: &str = "bench";

/// Where a topic is. Of a cluster, its first broker that has the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `host:port` of the broker.
    pub address: String,
    /// Name of the broker.
    pub broker: String,
    /// Queues to send to: 0 up to this.
    pub write_queues: u32,
    /// Queues to read from: 0 up to this.
    pub read_queues: u32,
}

impl Route {
    /// Asks the name server.
    pub async fn ask(endpoint: &str, topic: &str, traffic: &Arc<Traffic>) -> Result<Self> {
        let mut link = Link::open(endpoint, true, Arc::clone(traffic)).await?;
        let fields = [("topic", topic), ("acceptStandardJsonOnly", "true")];
        let answer = link.ask(code::ROUTE, &fields, b"").await?.ok(code::ROUTE)?;
        let body: Value = serde_json::from_slice(&answer.body).map_err(|error| protocol(code::ROUTE, error))?;
        Self::read(&body).ok_or_else(|| protocol(code::ROUTE, "a route without a broker that has queues"))
    }

    fn read(body: &Value) -> Option<Self> {
        let queues = |data: &Value, name: &str| data.get(name)?.as_u64()?.try_into().ok();
        body.get("queueDatas")?.as_array()?.iter().find_map(|data| {
            let broker = data.get("brokerName")?.as_str()?;
            let mut brokers = body.get("brokerDatas")?.as_array()?.iter();
            let at = brokers.find(|at| at.get("brokerName").and_then(Value::as_str) == Some(broker))?;
            let (write_queues, read_queues) = (queues(data, "writeQueueNums")?, queues(data, "readQueueNums")?);
            let address = at.get("brokerAddrs")?.get("0")?.as_str()?.to_owned();
            let some = write_queues > 0 && read_queues > 0;
            some.then(|| Self { address, broker: broker.to_owned(), write_queues, read_queues })
        })
    }
}

/// Who the client is.
#[derive(Clone, Debug)]
pub enum Role {
    /// Sends.
    Producer,
    /// Pulls as a push consumer of this group, from its queues of the topic.
    Consumer {
        /// Consumer group.
        group: String,
    },
}

/// A connected client.
pub struct Session {
    /// Its connection to the broker.
    pub link: Link,
    /// Where the topic is.
    pub route: Route,
    /// Different for each session within a machine for a while.
    pub number: u64,
    /// What its subscription is said to be from, in milliseconds of Unix time.
    pub subscribed_ms: u64,
    beat: Vec<u8>,
    beaten: Instant,
}

impl Session {
    /// Begins one: `endpoint` is the name server's.
    pub async fn open(endpoint: &str, topic: &str, role: &Role, traffic: Arc<Traffic>) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) << 32 | u64::from(std::process::id());
        let route = Route::ask(endpoint, topic, &traffic).await?;
        let mut link = Link::open(&route.address, false, traffic).await?;
        let subscribed_ms = unix_ms();
        let body = heartbeat(number, topic, role, subscribed_ms);
        link.ask(code::HEARTBEAT, &[], body.as_bytes()).await?.ok(code::HEARTBEAT)?;
        Ok(Self { link, route, number, subscribed_ms, beat: beat(body.as_bytes()), beaten: Instant::now() })
    }

    /// Writes what was gathered, and a heartbeat if one is due.
    pub async fn flush(&mut self) -> Result<()> {
        if self.beaten.elapsed() >= BEAT_EVERY {
            self.beaten = Instant::now();
            self.link.out.extend_from_slice(&self.beat);
        }
        self.link.flush().await
    }

    /// The next answer that was read, unless it is to a heartbeat.
    pub fn answer(&mut self) -> Result<Option<Answer>> {
        while let Some(answer) = self.link.answer()? {
            if !is_beat(&answer) {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }
}

/// Milliseconds of Unix time.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Body of the heartbeats of client `number`.
pub fn heartbeat(number: u64, topic: &str, role: &Role, subscribed_ms: u64) -> String {
    let producers = match role {
        Role::Producer => json!([{ "groupName": PRODUCER_GROUP }, { "groupName": "CLIENT_INNER_PRODUCER" }]),
        // The Java client of a consumer has this one, too.
        Role::Consumer { .. } => json!([{ "groupName": "CLIENT_INNER_PRODUCER" }]),
    };
    let consumers = match role {
        Role::Producer => json!([]),
        Role::Consumer { group } => json!([{
            "groupName": group,
            "consumeType": "CONSUME_PASSIVELY",
            "messageModel": "CLUSTERING",
            "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET",
            "subscriptionDataSet": [subscription(topic, subscribed_ms),
                subscription(&format!("%RETRY%{group}"), subscribed_ms)],
            "unitMode": false,
        }]),
    };
    let client = format!("127.0.0.1@{}#{number}", std::process::id());
    json!({
        "clientID": client,
        "producerDataSet": producers,
        "consumerDataSet": consumers,
        "heartbeatFingerprint": 0,
        "withoutSub": false,
    })
    .to_string()
}

fn subscription(topic: &str, version: u64) -> Value {
    json!({
        "topic": topic,
        "subString": "*",
        "tagsSet": [],
        "codeSet": [],
        "subVersion": version,
        "classFilterMode": false,
        "expressionType": "TAG",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_of_the_broker_that_has_queues_of_the_topic() {
        let body = json!({
            "brokerDatas": [{ "brokerAddrs": { "1": "x:1" }, "brokerName": "a" },
                { "brokerAddrs": { "0": "h:2" }, "brokerName": "b" }],
            "queueDatas": [{ "brokerName": "a", "readQueueNums": 4, "writeQueueNums": 4 },
                { "brokerName": "b", "readQueueNums": 8, "writeQueueNums": 6 }],
        });
        let route = Route { address: "h:2".to_owned(), broker: "b".to_owned(), write_queues: 6, read_queues: 8 };
        assert_eq!(Route::read(&body), Some(route));
        assert_eq!(Route::read(&json!({ "brokerDatas": [], "queueDatas": [] })), None);
    }
}
