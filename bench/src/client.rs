//! A client session as the official clients begin one: route, Telemetry with settings, heartbeats, termination.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;

use crate::error::{BenchError, Result};
use crate::pb;
use crate::wire::{Connection, Rpc, Traffic, frame, protocol};

/// Deadline of a unary call, as in all official clients.
pub const CALL_TIMEOUT: HeaderValue = HeaderValue::from_static("3S");
/// Receive window that never holds a server back in these loads.
pub const WIDE_WINDOW: u32 = 16 << 20;

const HEARTBEAT: Duration = Duration::from_secs(10);

/// Who the session is.
#[derive(Clone, Debug)]
pub enum Role {
    /// Sends to the topic.
    Producer,
    /// Receives as a push consumer of this group; messages stay invisible as long as the server renews.
    Consumer {
        /// Consumer group.
        group: String,
        /// Which messages it wants.
        filter: pb::FilterExpression,
    },
    /// The same of a group of lite topics; the number is its client id, the same in each run.
    LiteConsumer {
        /// Consumer group.
        group: String,
        /// Number among the clients of the load.
        client: u32,
    },
}

/// A connected client. Lives on the runtime that opened it.
#[derive(Clone)]
pub struct Session {
    connection: Connection,
    request_ids: Arc<AtomicU64>,
    /// Queues to send to or to receive from; empty for a topic that is yet to be created by the first send.
    pub queues: Vec<pb::MessageQueue>,
    role: Role,
    /// Number of this session, different for each within a machine for a while.
    pub number: u64,
}

impl Session {
    /// Connects, asks for the route, opens Telemetry and waits for its settings.
    pub async fn open(endpoint: &str, topic: &str, role: Role, window: u32, traffic: Arc<Traffic>) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed) << 32 | u64::from(std::process::id());
        let client_id = match &role {
            Role::LiteConsumer { client, .. } => format!("bench-lite@{client}"),
            Role::Producer | Role::Consumer { .. } => format!("bench@{}@{number:x}", std::process::id()),
        };
        let connection = Connection::open(endpoint, headers(client_id)?, window, traffic).await?;
        let mut session = Self { connection, request_ids: Arc::default(), queues: Vec::new(), role, number };
        session.queues = session.queues_of(topic, endpoint).await?;
        session.telemetry(topic).await?;
        let beating = session.clone();
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                // A lost heartbeat shows as a failing load soon enough.
                drop(beating.heartbeat().await);
            }
        });
        Ok(session)
    }

    /// One unary call with the usual deadline.
    pub async fn call<R: Message + Default>(&self, rpc: Rpc, frame: Bytes) -> Result<R> {
        self.connection.unary(rpc, self.request_id(), &CALL_TIMEOUT, frame).await
    }

    /// One server-streaming call.
    pub async fn stream(&self, rpc: Rpc, timeout: &HeaderValue, frame: Bytes) -> Result<crate::wire::Answer> {
        let (answer, _) = self.connection.start(rpc, self.request_id(), timeout, frame, true).await?;
        Ok(answer)
    }

    /// Says goodbye as clients do on shutdown.
    pub async fn close(&self) -> Result<()> {
        let request = pb::NotifyClientTerminationRequest { group: self.group() };
        self.call::<pb::NotifyClientTerminationResponse>(Rpc::NotifyClientTermination, frame(&request)).await.map(drop)
    }

    fn request_id(&self) -> u64 {
        self.request_ids.fetch_add(1, Ordering::Relaxed)
    }

    fn group(&self) -> Option<pb::Resource> {
        match &self.role {
            Role::Producer => None,
            Role::Consumer { group, .. } | Role::LiteConsumer { group, .. } => Some(resource(group)),
        }
    }

    fn filter(&self) -> pb::FilterExpression {
        match &self.role {
            Role::Consumer { filter, .. } => filter.clone(),
            Role::Producer | Role::LiteConsumer { .. } => all_tags(),
        }
    }

    fn client_type(&self) -> pb::ClientType {
        match self.role {
            Role::Producer => pb::ClientType::Producer,
            Role::Consumer { .. } => pb::ClientType::PushConsumer,
            Role::LiteConsumer { .. } => pb::ClientType::LitePushConsumer,
        }
    }

    async fn heartbeat(&self) -> Result<()> {
        let request = pb::HeartbeatRequest { group: self.group(), client_type: self.client_type() as i32 };
        self.call::<pb::HeartbeatResponse>(Rpc::Heartbeat, frame(&request)).await.map(drop)
    }

    async fn queues_of(&self, topic: &str, endpoint: &str) -> Result<Vec<pb::MessageQueue>> {
        let route = query_route(&self.connection, topic, endpoint).await?;
        let status = route.status.unwrap_or_default();
        if status.code == pb::Code::TopicNotFound as i32 && matches!(self.role, Role::Producer) {
            return Ok(Vec::new());
        }
        ok(Rpc::QueryRoute, Some(status))?;
        let Some(group) = self.group() else { return Ok(route.message_queues) };
        let request = pb::QueryAssignmentRequest {
            topic: Some(resource(topic)),
            group: Some(group),
            endpoints: Some(endpoints(endpoint)),
        };
        let answer: pb::QueryAssignmentResponse = self.call(Rpc::QueryAssignment, frame(&request)).await?;
        ok(Rpc::QueryAssignment, answer.status)?;
        let queues: Vec<_> = answer.assignments.into_iter().filter_map(|a| a.message_queue).collect();
        if queues.is_empty() {
            return Err(protocol(Rpc::QueryAssignment, "no queue assigned"));
        }
        Ok(queues)
    }

    /// Opens the stream, waits for the server's settings, and keeps it open as long as the runtime lives.
    async fn telemetry(&self, topic: &str) -> Result<()> {
        let subscription = |group| pb::Subscription {
            group: Some(group),
            subscriptions: vec![pb::SubscriptionEntry {
                topic: Some(resource(topic)),
                expression: Some(self.filter()),
            }],
            ..Default::default()
        };
        let pub_sub = match self.group() {
            None => pb::settings::PubSub::Publishing(pb::Publishing {
                topics: vec![resource(topic)],
                max_body_size: 4 << 20,
                validate_message_type: true,
            }),
            Some(group) => pb::settings::PubSub::Subscription(subscription(group)),
        };
        let settings = pb::Settings {
            client_type: Some(self.client_type() as i32),
            request_timeout: Some(prost_types::Duration { seconds: 3, nanos: 0 }),
            user_agent: Some(pb::Ua {
                language: pb::Language::Java as i32,
                version: "5.2.0".to_owned(),
                platform: "linux".to_owned(),
                hostname: "bench".to_owned(),
            }),
            pub_sub: Some(pub_sub),
            ..Default::default()
        };
        let command =
            pb::TelemetryCommand { status: None, command: Some(pb::telemetry_command::Command::Settings(settings)) };
        let forever = HeaderValue::from_static("99999999S");
        let (mut answer, stream) =
            self.connection.start(Rpc::Telemetry, self.request_id(), &forever, frame(&command), false).await?;
        let first =
            answer.next().await?.ok_or_else(|| protocol(Rpc::Telemetry, "the stream ended without settings"))?;
        let first = pb::TelemetryCommand::decode(first).map_err(|e| protocol(Rpc::Telemetry, e))?;
        ok(Rpc::Telemetry, first.status)?;
        if !matches!(first.command, Some(pb::telemetry_command::Command::Settings(_))) {
            return Err(protocol(Rpc::Telemetry, "the first command is not settings"));
        }
        tokio::task::spawn_local(async move {
            let _open = stream;
            while let Ok(Some(_)) = answer.next().await {}
        });
        Ok(())
    }
}

/// Asks once for a route over a fresh connection: the sign that a server is ready. Any status of the protocol will do.
pub async fn probe(endpoint: &str, topic: &str) -> Result<i32> {
    let connection =
        Connection::open(endpoint, headers("bench-probe".to_owned())?, WIDE_WINDOW, Arc::default()).await?;
    Ok(query_route(&connection, topic, endpoint).await?.status.unwrap_or_default().code)
}

async fn query_route(connection: &Connection, topic: &str, endpoint: &str) -> Result<pb::QueryRouteResponse> {
    let request = pb::QueryRouteRequest { topic: Some(resource(topic)), endpoints: Some(endpoints(endpoint)) };
    connection.unary(Rpc::QueryRoute, 0, &CALL_TIMEOUT, frame(&request)).await
}

/// OK, or an error that names the RPC.
pub fn ok(rpc: Rpc, status: Option<pb::Status>) -> Result<()> {
    let status = status.ok_or_else(|| protocol(rpc, "no status"))?;
    if status.code == pb::Code::Ok as i32 {
        return Ok(());
    }
    Err(BenchError::Status { rpc: rpc.name(), code: status.code, message: status.message })
}

/// A topic or group without a namespace.
pub fn resource(name: &str) -> pb::Resource {
    pb::Resource { resource_namespace: String::new(), name: name.to_owned() }
}

/// `*`: every tag.
pub fn all_tags() -> pb::FilterExpression {
    pb::FilterExpression { r#type: pb::FilterType::Tag as i32, expression: "*".to_owned() }
}

/// `host:port` as the protocol wants it; port 80 if there is none, as clients have it.
pub fn endpoints(endpoint: &str) -> pb::Endpoints {
    let (host, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, "80"));
    let scheme = match host.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => pb::AddressScheme::IPv4,
        Ok(std::net::IpAddr::V6(_)) => pb::AddressScheme::IPv6,
        Err(_) => pb::AddressScheme::DomainName,
    };
    let address = pb::Address { host: host.to_owned(), port: port.parse().unwrap_or(80) };
    pb::Endpoints { scheme: scheme as i32, addresses: vec![address] }
}

fn headers(client_id: String) -> Result<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(16);
    for (name, value) in [
        ("content-type", "application/grpc".to_owned()),
        ("te", "trailers".to_owned()),
        ("user-agent", "martlet-bench".to_owned()),
        ("x-mq-client-id", client_id),
        ("x-mq-language", "JAVA".to_owned()),
        ("x-mq-protocol", "v2".to_owned()),
        ("x-mq-client-version", "5.2.0".to_owned()),
        ("x-mq-namespace", String::new()),
        ("x-mq-date-time", date_time()),
    ] {
        let value = HeaderValue::try_from(value).map_err(|e| protocol(Rpc::Telemetry, e))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

/// `yyyyMMddTHHmmssZ` in UTC. Servers treat it as an opaque text.
fn date_time() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    // Days to a date, counting years from March so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", time / 3600, time / 60 % 60, time % 60)
}
