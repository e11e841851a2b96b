//! Calls of producers: routes, sends, ends of transactions.
//!
//! Source: grpc-v1.md sections 5, 6 and 8.

use super::{V1, code};
use crate::call::Call;
use crate::code::Denied;
use crate::message_in::{self, Chosen};
use crate::proto::rocketmq_v1::{self as wire, end_transaction_request, system_attribute::TimedDelivery};
use crate::proto::v2::{self, Code};
use crate::resource::{group_name, topic_name};
use martlet_broker::SendRequest;
use martlet_model::{MessageType, TopicConfig, TopicType};
use prost::Message as _;

impl V1<'_> {
    pub(super) async fn query_route(
        self,
        call: &Call,
        request: wire::QueryRouteRequest,
    ) -> Result<wire::QueryRouteResponse, Denied> {
        let topic = self.broker.untyped_topic(&topic_name(request.topic.as_ref())?).await?;
        let resource = request.topic.unwrap_or_default();
        let endpoints = self.endpoints_for(call, request.endpoints);
        let queues = topic.read_queues.max(topic.write_queues);
        let partitions = (0..queues).map(|id| self.partition(&topic, &resource, id as i32, &endpoints)).collect();
        Ok(wire::QueryRouteResponse { common: code::ok(), partitions })
    }

    /// Where this client is told to send its calls.
    pub(super) fn endpoints_for(self, call: &Call, dialled: Option<wire::Endpoints>) -> wire::Endpoints {
        let dialled = dialled.map(|dialled| v2::Endpoints {
            scheme: scheme_in(dialled.scheme()) as i32,
            addresses: addresses(dialled.addresses, |wire::Address { host, port }| v2::Address { host, port }),
        });
        let told = self.endpoints(call, dialled.as_ref());
        wire::Endpoints {
            scheme: scheme_out(told.scheme()) as i32,
            addresses: addresses(told.addresses, |v2::Address { host, port }| wire::Address { host, port }),
        }
    }

    /// One queue of the wire; id -1 stands for all of them.
    pub(super) fn partition(
        self,
        topic: &TopicConfig,
        resource: &wire::Resource,
        id: i32,
        endpoints: &wire::Endpoints,
    ) -> wire::Partition {
        let has = |count: u32| u32::try_from(id).map_or(count > 0, |id| id < count);
        let readable = topic.permission.readable() && has(topic.read_queues);
        let writable = topic.permission.writable() && has(topic.write_queues);
        let permission = match (readable, writable) {
            (true, true) => wire::Permission::ReadWrite,
            (true, false) => wire::Permission::Read,
            (false, true) => wire::Permission::Write,
            (false, false) => wire::Permission::None,
        };
        let name = self.broker.broker_name().to_owned();
        wire::Partition {
            topic: Some(resource.clone()),
            id,
            permission: permission as i32,
            broker: Some(wire::Broker { name, id: 0, endpoints: Some(endpoints.clone()) }),
        }
    }

    pub(super) async fn health_check(
        self,
        _call: &Call,
        _request: wire::HealthCheckRequest,
    ) -> Result<wire::HealthCheckResponse, Denied> {
        Ok(wire::HealthCheckResponse { common: code::ok() })
    }

    pub(super) async fn send_message(
        self,
        call: &Call,
        request: wire::SendMessageRequest,
    ) -> Result<wire::SendMessageResponse, Denied> {
        let message = request.message.unwrap_or_default();
        let name = topic_name(message.topic.as_ref())?;
        let topic = self.broker.untyped_topic(&name).await?;
        let system = message.system_attribute.unwrap_or_default();
        let queue = chosen_queue(&topic, &system)?;
        let producer_group = system.producer_group.as_ref().map(|group| group_name(Some(group))).transpose()?;
        let is_half = system.message_type() == wire::MessageType::Transaction;
        let chosen = Chosen { queue, producer_group: producer_group.as_deref().filter(|_| is_half) };
        let message = v2::Message {
            topic: None,
            user_properties: message.user_attribute,
            system_properties: Some(system_in(system)?),
            body: message.body,
        };
        let delay_max = self.broker.options().delay_max_millis;
        let message =
            message_in::accept(message, 0, martlet_broker::wall_clock(), &call.peer.remote, delay_max, &chosen)?;
        if message.message_type != MessageType::Normal {
            self.check_types(&name, std::slice::from_ref(&message)).await?;
        }
        let message_id = message.message_id.clone();
        let request = SendRequest { topic: name, messages: vec![message], deadline: call.deadline };
        let sent = self.broker.send(request).await?;
        self.stats.received(sent.len());
        let transaction_id = sent.into_iter().next().and_then(|sent| sent.transaction_id).unwrap_or_default();
        Ok(wire::SendMessageResponse { common: code::ok(), message_id, transaction_id })
    }

    pub(super) async fn end_transaction(
        self,
        _call: &Call,
        request: wire::EndTransactionRequest,
    ) -> Result<wire::EndTransactionResponse, Denied> {
        if message_in::is_blank(&request.transaction_id) {
            return Err(Denied::new(Code::InvalidTransactionId, "transaction_id is blank"));
        }
        let commit = match end_transaction_request::TransactionResolution::try_from(request.resolution) {
            Ok(end_transaction_request::TransactionResolution::Commit) => true,
            Ok(end_transaction_request::TransactionResolution::Rollback) => false,
            Err(_) => {
                let text = format!("resolution {} is not known", request.resolution);
                return Err(Denied::new(Code::BadRequest, text));
            }
        };
        let topic = self.broker.topic_of_transaction(&request.transaction_id)?;
        self.broker.end_transaction(&topic, &request.transaction_id, Some(commit)).await?;
        Ok(wire::EndTransactionResponse { common: code::ok() })
    }
}

/// What arbitrary bytes do to the reading of a send; for fuzzing. What is accepted keeps to the limits and can be read back.
pub(crate) fn read_send(bytes: &[u8]) {
    let Ok(request) = wire::SendMessageRequest::decode(bytes) else { return };
    let message = request.message.unwrap_or_default();
    let Ok(system) = system_in(message.system_attribute.unwrap_or_default()) else { return };
    if topic_name(message.topic.as_ref()).is_err() {
        return;
    }
    message_in::check_accepted(v2::Message {
        topic: None,
        user_properties: message.user_attribute,
        system_properties: Some(system),
        body: message.body,
    });
}

/// The queue that the sender chose, if that is for it to choose: the queue of a message group is the broker's affair, so that
/// messages of one group keep their order whoever sends them; so is that of a priority.
fn chosen_queue(topic: &TopicConfig, system: &wire::SystemAttribute) -> Result<Option<u32>, Denied> {
    let id = system.partition_id;
    match u32::try_from(id) {
        _ if !system.message_group.is_empty() || matches!(topic.kind, TopicType::Lite | TopicType::Priority) => {
            Ok(None)
        }
        Ok(queue) if queue < topic.write_queues => Ok(Some(queue)),
        _ => {
            let count = topic.write_queues;
            let text = format!("partition_id {id} is not one of the {count} queues of topic {}", topic.name);
            Err(Denied::new(Code::BadRequest, text))
        }
    }
}

/// What the sender says of its message, in the words of v2; what clients leave empty is absent.
fn system_in(system: wire::SystemAttribute) -> Result<v2::SystemProperties, Denied> {
    let encoding = match wire::Encoding::try_from(system.body_encoding) {
        Ok(wire::Encoding::Identity) => v2::Encoding::Identity as i32,
        Ok(wire::Encoding::Gzip) => v2::Encoding::Gzip as i32,
        Err(_) => {
            let text = format!("body_encoding {} is not known", system.body_encoding);
            return Err(Denied::new(Code::BadRequest, text));
        }
    };
    let kind = match system.message_type() {
        wire::MessageType::Transaction => v2::MessageType::Transaction,
        // What it is follows from what it has.
        _ => v2::MessageType::Unspecified,
    };
    let delivery_timestamp = match system.timed_delivery {
        None => None,
        Some(TimedDelivery::DeliveryTimestamp(at)) => Some(at),
        Some(TimedDelivery::DelayLevel(level)) => {
            let text = format!("delay_level {level} is not supported; delivery_timestamp is");
            return Err(Denied::new(Code::NotImplemented, text));
        }
    };
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(v2::SystemProperties {
        tag: some(system.tag),
        keys: system.keys.iter().flat_map(|key| keys_of(key)).map(str::to_owned).collect(),
        message_id: system.message_id,
        body_encoding: encoding,
        message_type: kind as i32,
        born_timestamp: system.born_timestamp,
        born_host: system.born_host,
        delivery_timestamp,
        message_group: some(system.message_group),
        trace_context: some(system.trace_context),
        orphaned_transaction_recovery_duration: system.orphaned_transaction_recovery_period,
        ..v2::SystemProperties::default()
    })
}

/// Clients send all keys as one text; as such it comes back, too. Taken apart only where that puts it together again.
fn keys_of(text: &str) -> Vec<&str> {
    let keys: Vec<&str> = text.split(' ').collect();
    match keys.iter().any(|key| key.is_empty()) {
        false => keys,
        true if text.is_empty() => Vec::new(),
        true => vec![text],
    }
}

fn addresses<A, B>(addresses: Vec<A>, change: impl FnMut(A) -> B) -> Vec<B> {
    addresses.into_iter().map(change).collect()
}

fn scheme_in(scheme: wire::AddressScheme) -> v2::AddressScheme {
    match scheme {
        wire::AddressScheme::IPv4 => v2::AddressScheme::IPv4,
        wire::AddressScheme::IPv6 => v2::AddressScheme::IPv6,
        wire::AddressScheme::DomainName => v2::AddressScheme::DomainName,
    }
}

fn scheme_out(scheme: v2::AddressScheme) -> wire::AddressScheme {
    match scheme {
        v2::AddressScheme::Unspecified | v2::AddressScheme::IPv4 => wire::AddressScheme::IPv4,
        v2::AddressScheme::IPv6 => wire::AddressScheme::IPv6,
        v2::AddressScheme::DomainName => wire::AddressScheme::DomainName,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_apart_only_where_they_go_together_again() {
        assert!(keys_of("").is_empty());
        assert_eq!(keys_of("a b"), ["a", "b"]);
        for whole in ["a  b", " a", "a "] {
            assert_eq!(keys_of(whole), [whole]);
        }
    }

    #[test]
    fn what_clients_leave_empty_is_absent_and_what_is_not_known_is_refused() {
        let system = wire::SystemAttribute { keys: vec![String::new()], ..Default::default() };
        let read = system_in(system).unwrap();
        assert_eq!((read.tag, read.keys.len(), read.message_group), (None, 0, None));
        let denied = |system| system_in(system).unwrap_err().code;
        let level = Some(TimedDelivery::DelayLevel(3));
        assert_eq!(denied(wire::SystemAttribute { timed_delivery: level, ..Default::default() }), Code::NotImplemented);
        assert_eq!(denied(wire::SystemAttribute { body_encoding: 7, ..Default::default() }), Code::BadRequest);
    }
}
