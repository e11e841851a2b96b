//! Routes: which queues a topic has, and where clients find them.
//!
//! Clients dial nothing but what a route says. Unless an advertised address is set, that is what the client dialled
//! itself: it is known to work behind containers and address translation.

use crate::message_out::wire_type;
use crate::proto::v2::{self, AddressScheme, Endpoints, Permission, Resource};
use martlet_model::TopicConfig;
use std::net::{IpAddr, SocketAddr};

/// Longest host name that is echoed: the limit of the domain name system.
const HOST_BYTES_MAX: usize = 255;

/// The endpoints that a client is told: the advertised ones; else what it says it dialled; else the `:authority` of its
/// call; else the address its connection came in on. Always one address.
pub(crate) fn endpoints(
    advertise: Option<&(String, u16)>,
    dialled: Option<&Endpoints>,
    authority: Option<&http::uri::Authority>,
    local: SocketAddr,
) -> Endpoints {
    if let Some((host, port)) = advertise {
        return one(scheme_of(host), host.clone(), *port);
    }
    if let Some(dialled) = dialled
        && let Some(address) = dialled.addresses.first()
        && !address.host.trim().is_empty()
        && address.host.len() <= HOST_BYTES_MAX
        && let Ok(port) = u16::try_from(address.port)
        && port > 0
    {
        // Clients compare routes with what they dialled, so the scheme stays as they gave it (some say DOMAIN_NAME for
        // an address).
        let scheme = match dialled.scheme() {
            AddressScheme::Unspecified => scheme_of(&address.host),
            given => given,
        };
        return one(scheme, address.host.clone(), port);
    }
    if let Some(authority) = authority
        && let Some(port) = authority.port_u16()
    {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if !host.is_empty() {
            return one(scheme_of(host), host.to_owned(), port);
        }
    }
    let host = local.ip().to_canonical().to_string();
    one(scheme_of(&host), host, local.port())
}

fn one(scheme: AddressScheme, host: String, port: u16) -> Endpoints {
    Endpoints { scheme: scheme as i32, addresses: vec![v2::Address { host, port: i32::from(port) }] }
}

fn scheme_of(host: &str) -> AddressScheme {
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => AddressScheme::IPv4,
        Ok(IpAddr::V6(_)) => AddressScheme::IPv6,
        Err(_) => AddressScheme::DomainName,
    }
}

/// All queues of a topic in order of their numbers, the same at every call: clients map message groups by this order.
pub(crate) fn queues(
    topic: &TopicConfig,
    resource: &Resource,
    broker: &str,
    endpoints: &Endpoints,
) -> Vec<v2::MessageQueue> {
    let accepts: Vec<i32> = topic.kind.accepts().iter().map(|kind| wire_type(*kind) as i32).collect();
    (0..topic.read_queues.max(topic.write_queues))
        .map(|queue| {
            let readable = topic.permission.readable() && queue < topic.read_queues;
            let writable = topic.permission.writable() && queue < topic.write_queues;
            let permission = match (readable, writable) {
                (true, true) => Permission::ReadWrite,
                (true, false) => Permission::Read,
                (false, true) => Permission::Write,
                (false, false) => Permission::None,
            };
            self::queue(resource, queue as i32, permission, broker, endpoints, accepts.clone())
        })
        .collect()
}

/// One queue of the wire; id -1 stands for any queue of the broker.
pub(crate) fn queue(
    resource: &Resource,
    id: i32,
    permission: Permission,
    broker: &str,
    endpoints: &Endpoints,
    accept_message_types: Vec<i32>,
) -> v2::MessageQueue {
    v2::MessageQueue {
        topic: Some(resource.clone()),
        id,
        permission: permission as i32,
        broker: Some(v2::Broker { name: broker.to_owned(), id: 0, endpoints: Some(endpoints.clone()) }),
        accept_message_types,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use martlet_model::{TopicId, TopicType};

    fn dialled(scheme: AddressScheme, addresses: &[(&str, i32)]) -> Endpoints {
        let addresses =
            addresses.iter().map(|(host, port)| v2::Address { host: (*host).into(), port: *port }).collect();
        Endpoints { scheme: scheme as i32, addresses }
    }

    #[test]
    fn clients_are_told_what_they_dialled_unless_an_address_is_advertised() {
        let local = "10.0.0.5:8081".parse().unwrap();
        let authority: http::uri::Authority = "[2001:db8::1]:9000".parse().unwrap();
        let mapped = dialled(AddressScheme::IPv4, &[("203.0.113.9", 30_081)]);
        assert_eq!(endpoints(None, Some(&mapped), Some(&authority), local), mapped);
        let go = dialled(AddressScheme::DomainName, &[("203.0.113.9", 30_081), ("203.0.113.10", 30_081)]);
        let told = endpoints(None, Some(&go), None, local);
        assert_eq!(told, dialled(AddressScheme::DomainName, &[("203.0.113.9", 30_081)]));
        let unspecified = dialled(AddressScheme::Unspecified, &[("broker.example", 80)]);
        assert_eq!(endpoints(None, Some(&unspecified), None, local).scheme(), AddressScheme::DomainName);
        for nonsense in [
            dialled(AddressScheme::IPv4, &[]),
            dialled(AddressScheme::IPv4, &[("", 1)]),
            dialled(AddressScheme::IPv4, &[("h", 0)]),
            dialled(AddressScheme::IPv4, &[("h", 70_000)]),
        ] {
            let told = endpoints(None, Some(&nonsense), Some(&authority), local);
            assert_eq!(told, dialled(AddressScheme::IPv6, &[("2001:db8::1", 9000)]));
            let told = endpoints(None, Some(&nonsense), None, local);
            assert_eq!(told, dialled(AddressScheme::IPv4, &[("10.0.0.5", 8081)]));
        }
        let advertise = ("broker.example".to_owned(), 443);
        let told = endpoints(Some(&advertise), Some(&mapped), None, local);
        assert_eq!(told, dialled(AddressScheme::DomainName, &[("broker.example", 443)]));
    }

    #[test]
    fn queues_come_in_order_with_the_right_they_really_have() {
        let topic = TopicConfig {
            id: TopicId(1),
            name: "orders".into(),
            kind: TopicType::Mixed,
            read_queues: 3,
            write_queues: 2,
            permission: martlet_model::Permission::ReadWrite,
            retention_millis: None,
            lite: Default::default(),
            deduplicate_millis: None,
            created_millis: 0,
            auto_created: false,
        };
        let resource = Resource { resource_namespace: "ns".into(), name: "orders".into() };
        let endpoints = dialled(AddressScheme::IPv4, &[("203.0.113.9", 1)]);
        let route = queues(&topic, &resource, "broker-a", &endpoints);
        let facts: Vec<_> = route.iter().map(|queue| (queue.id, queue.permission())).collect();
        assert_eq!(facts, [(0, Permission::ReadWrite), (1, Permission::ReadWrite), (2, Permission::Read)]);
        assert!(route.iter().all(|queue| queue.topic.as_ref() == Some(&resource)));
        assert_eq!(route[0].accept_message_types, [1, 2, 3, 4]);
        let none = TopicConfig { permission: martlet_model::Permission::None, ..topic };
        assert!(queues(&none, &resource, "b", &endpoints).iter().all(|q| q.permission() == Permission::None));
    }
}
