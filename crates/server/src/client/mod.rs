//! The command line's side of the wire: one connection, the headers of a client, and errors for people.

pub mod dead_letter;
pub mod group;
pub mod lite;
pub mod look;
pub mod message;
pub mod receive;
pub mod send;
pub mod table;
pub mod topic;
pub mod transaction;

use crate::cli::Target;
use crate::duration::show_time;
use martlet_broker::auth::Secret;
use martlet_grpc::proto::v2::messaging_service_client::MessagingServiceClient;
use martlet_grpc::proto::{v1, v2};
use martlet_model::limits;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use v1::admin_client::AdminClient;

/// How long a request may take, long polls aside.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot reach a broker at {endpoint}: {reason}; is one running? (--endpoint HOST:PORT names another)")]
    Unreachable {
        /// Where.
        endpoint: String,
        /// The innermost reason.
        reason: String,
    },
    /// The endpoint is not HOST:PORT.
    #[error("endpoint {endpoint:?} is not HOST:PORT")]
    BadEndpoint {
        /// As given.
        endpoint: String,
    },
    /// The call failed below the protocol.
    #[error("{what}: {reason}")]
    Call {
        /// What was asked.
        what: String,
        /// gRPC's words.
        reason: String,
    },
    /// The broker refused.
    #[error("{what}: {message} ({code})")]
    Refused {
        /// What was asked.
        what: String,
        /// The broker's words.
        message: String,
        /// Name of the protocol's code.
        code: String,
    },
    /// Bad input from the user.
    #[error("{0}")]
    Input(String),
    /// Standard input or output failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Headers that make us a client in the broker's eyes.
#[derive(Clone)]
pub struct Headers {
    client_id: MetadataValue<Ascii>,
    /// Access key and secret to sign with.
    signer: Option<(String, Secret)>,
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        let headers = request.metadata_mut();
        headers.insert("x-mq-client-id", self.client_id.clone());
        headers.insert("x-mq-language", MetadataValue::from_static("RUST"));
        headers.insert("x-mq-client-version", MetadataValue::from_static(env!("CARGO_PKG_VERSION")));
        headers.insert("x-mq-protocol", MetadataValue::from_static("v2"));
        if let Some((name, secret)) = &self.signer {
            let now = show_time(unix_millis());
            let signature = secret.sign([now.as_bytes()]).iter().fold(String::new(), |mut text, byte| {
                // A text that grows takes everything.
                let _ = write!(text, "{byte:02x}");
                text
            });
            let text = format!("MQv2-HMAC-SHA1 Credential={name}, SignedHeaders=x-mq-date-time, Signature={signature}");
            let bad = |_| tonic::Status::invalid_argument("the access key has characters that no header can carry");
            headers.insert("authorization", text.parse().map_err(bad)?);
            headers.insert("x-mq-date-time", now.parse().map_err(bad)?);
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Headers>;

/// One connection to one broker.
#[derive(Clone)]
pub struct Connection {
    channel: Channel,
    headers: Headers,
    endpoint: String,
}

impl Connection {
    /// Connects, within 5 s.
    pub async fn open(target: &Target) -> Result<Self, ClientError> {
        let endpoint = target.endpoint.as_str();
        let signer = match (&target.access_key, &target.secret_key) {
            (Some(name), Some(secret)) => Some((name.clone(), secret.clone())),
            (None, None) => None,
            _ => return Err(ClientError::Input("--access-key and --secret-key go together".into())),
        };
        let bad = || ClientError::BadEndpoint { endpoint: endpoint.to_owned() };
        let (host, port) = endpoint.rsplit_once(':').ok_or_else(bad)?;
        let legal = !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok();
        let target =
            legal.then(|| Endpoint::from_shared(format!("http://{endpoint}")).ok()).flatten().ok_or_else(bad)?;
        let channel =
            target.connect_timeout(Duration::from_secs(5)).connect().await.map_err(|error| {
                ClientError::Unreachable { endpoint: endpoint.to_owned(), reason: innermost(&error) }
            })?;
        let id = format!("martlet-cli@{}@{:x}", std::process::id(), unix_millis());
        let client_id = id.parse().map_err(|_| bad())?;
        Ok(Self { channel, headers: Headers { client_id, signer }, endpoint: endpoint.to_owned() })
    }

    /// Sending and receiving.
    pub fn messaging(&self) -> MessagingServiceClient<Service> {
        MessagingServiceClient::with_interceptor(self.channel.clone(), self.headers.clone())
            .max_decoding_message_size(limits::INBOUND_BYTES_MAX)
            .max_encoding_message_size(limits::INBOUND_BYTES_MAX)
    }

    /// Topics and groups.
    pub fn admin(&self) -> AdminClient<Service> {
        AdminClient::with_interceptor(self.channel.clone(), self.headers.clone())
            .max_decoding_message_size(limits::INBOUND_BYTES_MAX)
    }

    /// The endpoint in the protocol's form.
    pub fn endpoints(&self) -> v2::Endpoints {
        let (host, port) = self.endpoint.rsplit_once(':').unwrap_or((&self.endpoint, ""));
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let scheme = match bare.parse() {
            Ok(std::net::IpAddr::V4(_)) => v2::AddressScheme::IPv4,
            Ok(std::net::IpAddr::V6(_)) => v2::AddressScheme::IPv6,
            Err(_) => v2::AddressScheme::DomainName,
        };
        let address = v2::Address { host: bare.to_owned(), port: port.parse().unwrap_or(8081) };
        v2::Endpoints { scheme: scheme.into(), addresses: vec![address] }
    }
}

/// A request with a deadline.
pub fn request<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

/// A topic or group by name.
pub fn resource(name: &str) -> v2::Resource {
    v2::Resource { resource_namespace: String::new(), name: name.to_owned() }
}

/// Turns gRPC's error into ours.
pub fn call_failed(what: impl Into<String>) -> impl FnOnce(tonic::Status) -> ClientError {
    move |status| {
        let message = status.message();
        let reason = match (status.code(), message.is_empty()) {
            (tonic::Code::Unimplemented, _) => "the broker does not have this function".to_owned(),
            (code, true) => format!("{code:?}"),
            (code, false) => format!("{message} ({code:?})"),
        };
        ClientError::Call { what: what.into(), reason }
    }
}

/// Fails unless the answer's status is OK.
pub fn accepted(what: &str, status: Option<v2::Status>) -> Result<(), ClientError> {
    let status = status.unwrap_or_default();
    if status.code == v2::Code::Ok as i32 { Ok(()) } else { Err(refused(what, &status)) }
}

/// The broker's refusal as an error.
pub fn refused(what: &str, status: &v2::Status) -> ClientError {
    let code = v2::Code::try_from(status.code).map_or(status.code.to_string(), |code| code.as_str_name().to_owned());
    let message = if status.message.is_empty() { "refused".to_owned() } else { status.message.clone() };
    ClientError::Refused { what: what.to_owned(), message, code }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The wall clock.
pub fn unix_millis() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Milliseconds since the epoch in the protocol's form.
pub fn timestamp(unix_millis: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: unix_millis.div_euclid(1_000),
        nanos: (unix_millis.rem_euclid(1_000) * 1_000_000) as i32,
    }
}

/// Milliseconds in the protocol's form.
pub fn proto_duration(millis: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: millis / 1_000, nanos: (millis % 1_000 * 1_000_000) as i32 }
}

/// Makes message ids of the documented form: 34 upper-case hex digits. Source: grpc.md section 7.1.
pub struct MessageIds {
    prefix: String,
    sequence: AtomicU32,
}

impl MessageIds {
    /// Ids of this process.
    pub fn new() -> Self {
        use std::hash::{BuildHasher, Hasher};
        // A node of random bits stands in for the network card's address.
        let node = std::hash::RandomState::new().build_hasher().finish() & 0xFFFF_FFFF_FFFF;
        let seconds = (unix_millis() / 1_000 - 1_609_459_200) as u32;
        let prefix = format!("01{node:012X}{:04X}{seconds:08X}", std::process::id() as u16);
        Self { prefix, sequence: AtomicU32::new(0) }
    }

    /// The next one.
    pub fn next(&self) -> String {
        format!("{}{:08X}", self.prefix, self.sequence.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_ids_have_the_documented_form_and_differ() {
        let ids = MessageIds::new();
        let (first, second) = (ids.next(), ids.next());
        assert_eq!(first.len(), 34);
        assert!(first.starts_with("01") && first.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(first, second);
    }

    #[tokio::test]
    async fn a_bad_endpoint_is_named() {
        for endpoint in ["", "host", "host:", ":1", "http://h:1", "a b:1", "h:99999"] {
            let target = Target { endpoint: endpoint.into(), access_key: None, secret_key: None, json: false };
            assert!(matches!(Connection::open(&target).await, Err(ClientError::BadEndpoint { .. })), "{endpoint}");
        }
    }
}
