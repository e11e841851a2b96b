//! What all connections share, and which code goes where.

use crate::Limits;
use crate::admin::Rates;
use crate::answer::{Answer, Denied};
use crate::codec::code::{request, response};
use crate::codec::fields::Fields;
use crate::codec::header::Header;
use crate::link::Link;
use crate::outbox::Counted;
use crate::producers::Producers;
use crate::send;
use bytes::Bytes;
use martlet_broker::Broker;
use martlet_net::budget::Budget;
use martlet_net::latency::{Latencies, RpcLatency};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// Where clients are told to go.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// Host and address, if they are not told the one they came by.
    advertised: Option<(String, SocketAddr)>,
    /// Port of the broker on this machine.
    port: u16,
}

impl Addresses {
    pub fn new(advertised: Option<(String, SocketAddr)>, port: u16) -> Self {
        let with_port = |(host, mut address): (String, SocketAddr)| {
            if address.port() == 0 {
                address.set_port(port);
            }
            (host, address)
        };
        Self { advertised: advertised.map(with_port), port }
    }

    /// The broker's address for this client, as ids of messages carry it.
    pub fn store_host(&self, link: &Link) -> SocketAddr {
        match &self.advertised {
            Some((_, address)) => *address,
            None => SocketAddr::new(link.local.ip().to_canonical(), self.port),
        }
    }

    /// The same, as routes say it.
    pub fn broker(&self, link: &Link) -> String {
        match &self.advertised {
            Some((host, address)) if host.parse::<std::net::IpAddr>().is_err() => {
                format!("{host}:{}", address.port())
            }
            _ => self.store_host(link).to_string(),
        }
    }
}

/// What all connections share.
pub(crate) struct Front {
    pub broker: Broker,
    pub addresses: Addresses,
    pub limits: Limits,
    pub inbound: Budget,
    pub producers: Producers,
    pub connections: Arc<AtomicUsize>,
    pub next_link: AtomicU64,
    pub latencies: Latencies,
    pub rates: Rates,
    /// Connections by number, for what is sent to clients unasked.
    links: Mutex<BTreeMap<u64, Arc<Link>>>,
    pub started: Instant,
    stop: watch::Receiver<bool>,
}

impl Front {
    pub fn new(broker: Broker, addresses: Addresses, limits: Limits, stop: watch::Receiver<bool>) -> Self {
        let inbound = Budget::for_requests(limits.inbound_bytes, crate::codec::frame::FRAME_BYTES_MAX + 4);
        let names: Vec<&'static str> = request::NAMES.iter().map(|(_, name)| *name).chain([request::OTHER]).collect();
        Self {
            broker,
            addresses,
            limits,
            inbound,
            producers: Producers::default(),
            connections: Arc::default(),
            next_link: AtomicU64::new(1),
            latencies: Latencies::of(&names),
            rates: Rates::default(),
            links: Mutex::default(),
            started: Instant::now(),
            stop,
        }
    }

    /// Becomes true when the front shuts down.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// A connection has begun.
    pub fn link_made(&self, link: &Arc<Link>) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).insert(link.number, link.clone());
    }

    /// A connection by its number.
    pub fn link(&self, number: u64) -> Option<Arc<Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// The newest connection over which a client consumes with a group.
    pub fn consumer(&self, group: &str, client_id: &str) -> Option<Arc<Link>> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.values().rev().find(|link| link.member(group).is_some_and(|(id, _)| &*id == client_id)).cloned()
    }

    /// A connection has ended.
    pub fn link_gone(&self, link: &Arc<Link>) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).remove(&link.number);
        self.broker.connection_closed(link.number);
        for client in self.producers.link_gone(link.number) {
            self.broker.client_gone(&client);
        }
    }

    /// Counts a request that is over.
    pub fn count(&self, counted: Counted) {
        let Counted { call, code, outcome, began } = counted;
        self.latencies.observe(call, code, outcome, began.elapsed());
    }

    /// Carries out one request.
    pub async fn carry_out(&self, link: &Arc<Link>, header: &Header, body: Bytes) -> Result<Answer, Denied> {
        self.check_access(link, header, &body)?;
        let fields = Fields::of(header);
        match header.code {
            code if send::is_send(code) => self.send(link, header, body).await,
            request::SEND_REPLY_MESSAGE | request::SEND_REPLY_MESSAGE_V2 => {
                Box::pin(self.send_reply(link, header, body)).await
            }
            request::POP_MESSAGE => Box::pin(self.pop(link, &fields)).await,
            request::ACK_MESSAGE => self.ack(&fields).await,
            request::BATCH_ACK_MESSAGE => Box::pin(self.batch_ack(&body)).await,
            request::CHANGE_MESSAGE_INVISIBLETIME => self.change_invisible(&fields).await,
            request::NOTIFICATION => Box::pin(self.notification(&fields)).await,
            request::END_TRANSACTION => self.end_transaction(&fields).await,
            request::RECALL_MESSAGE => self.recall(&fields).await,
            request::GET_ROUTEINFO_BY_TOPIC => self.route(link, header, &fields),
            request::GET_BROKER_CLUSTER_INFO => Ok(self.cluster(link, header)),
            request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => Ok(self.topic_list()),
            request::PULL_MESSAGE | request::LITE_PULL_MESSAGE => self.pull(link, &fields).await,
            request::UPDATE_CONSUMER_OFFSET => self.move_group(link, &fields).await,
            request::QUERY_CONSUMER_OFFSET => self.group_offset(link, &fields).await,
            request::CONSUMER_SEND_MSG_BACK => self.send_back(&fields).await,
            request::GET_CONSUMER_LIST_BY_GROUP => self.member_list(link, &fields),
            request::LOCK_BATCH_MQ => self.lock_queues(&body, true).await,
            request::UNLOCK_BATCH_MQ => self.lock_queues(&body, false).await,
            request::CHECK_CLIENT_CONFIG => self.check_client(&body),
            request::HEART_BEAT => self.heartbeat(link, header, &body).await,
            request::UNREGISTER_CLIENT => self.unregister(link, &fields),
            // Boxed, so that sends do not carry the size of these.
            _ => Box::pin(self.administer(link, header, &fields, body)).await,
        }
    }

    /// Carries out what tools ask.
    async fn administer(
        &self,
        link: &Arc<Link>,
        header: &Header,
        fields: &Fields<'_>,
        body: Bytes,
    ) -> Result<Answer, Denied> {
        match header.code {
            request::GET_KV_CONFIG => self.kv_config(fields),
            request::PUT_KV_CONFIG => self.put_kv_config(fields).await,
            request::DELETE_KV_CONFIG => self.delete_kv_config(fields).await,
            request::GET_KVLIST_BY_NAMESPACE => self.kv_configs(fields),
            request::GET_CONSUMER_RUNNING_INFO => self.consumer_running_info(header, fields).await,
            request::CONSUME_MESSAGE_DIRECTLY => self.consume_directly(header, fields).await,
            request::QUERY_MESSAGE => self.query_messages(link, fields).await,
            request::VIEW_MESSAGE_BY_ID => self.view_message(link, fields).await,
            request::GET_MAX_OFFSET => self.max_offset(fields).await,
            request::GET_MIN_OFFSET => self.min_offset(fields).await,
            request::SEARCH_OFFSET_BY_TIMESTAMP => self.offset_by_time(fields).await,
            request::GET_EARLIEST_MSG_STORETIME => self.earliest_time(fields).await,
            request::UPDATE_AND_CREATE_TOPIC => self.update_topic(fields).await,
            request::DELETE_TOPIC_IN_BROKER => self.delete_topic(fields).await,
            request::DELETE_TOPIC_IN_NAMESRV => self.delete_route(fields),
            request::GET_TOPIC_CONFIG => self.topic_config(fields),
            request::GET_ALL_TOPIC_CONFIG => Ok(self.topic_configs()),
            request::GET_TOPIC_STATS_INFO => self.topic_stats(fields).await,
            request::GET_TOPICS_BY_CLUSTER => Ok(self.topic_list()),
            request::GET_SYSTEM_TOPIC_LIST_FROM_BROKER | request::GET_SYSTEM_TOPIC_LIST_FROM_NS => {
                Ok(self.system_topic_list())
            }
            request::QUERY_TOPIC_CONSUME_BY_WHO => self.consumed_by(fields).await,
            request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP => self.update_group(&body).await,
            request::QUERY_ASSIGNMENT => self.assignment(&body),
            request::SET_MESSAGE_REQUEST_MODE => self.set_request_mode(&body).await,
            request::INVOKE_BROKER_TO_RESET_OFFSET => self.reset(fields).await,
            request::DELETE_SUBSCRIPTIONGROUP => self.delete_group(fields).await,
            request::GET_SUBSCRIPTIONGROUP_CONFIG => self.group_config(fields),
            request::GET_ALL_SUBSCRIPTIONGROUP_CONFIG => Ok(self.group_configs()),
            request::UPDATE_AND_CREATE_TOPIC_LIST => self.update_topics(&body).await,
            request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST => self.update_groups(&body).await,
            request::QUERY_TOPICS_BY_CONSUMER => self.consumed_topics(fields).await,
            request::VIEW_BROKER_STATS_DATA => self.stats_data(fields),
            request::GET_BROKER_CONSUME_STATS => self.all_consume_stats(link, fields).await,
            request::UPDATE_BROKER_CONFIG => self.update_broker_config(link, &body),
            request::GET_NAMESRV_CONFIG => Ok(self.nameserver_config(link)),
            request::GET_BROKER_HA_STATUS => Ok(self.replicas()),
            // The broker does so by itself.
            request::CLEAN_EXPIRED_CONSUMEQUEUE | request::CLEAN_UNUSED_TOPIC | request::DELETE_EXPIRED_COMMITLOG => {
                Ok(Answer::done())
            }
            request::GET_BROKER_LITE_INFO => Ok(self.broker_lite_info()),
            request::GET_PARENT_TOPIC_INFO => self.parent_topic_info(fields),
            request::GET_LITE_TOPIC_INFO => self.lite_topic_info(fields).await,
            request::GET_LITE_CLIENT_INFO => self.lite_client_info(fields).await,
            request::GET_LITE_GROUP_INFO => self.lite_group_info(fields).await,
            request::TRIGGER_LITE_DISPATCH => self.dispatch_lite(fields),
            request::GET_CONSUME_STATS => self.consume_stats(fields).await,
            request::GET_CONSUMER_CONNECTION_LIST => self.consumer_connections(fields).await,
            request::GET_PRODUCER_CONNECTION_LIST => self.producer_connections(fields),
            request::GET_ALL_PRODUCER_INFO => Ok(self.all_producers()),
            request::GET_BROKER_RUNTIME_INFO => Ok(self.runtime_info()),
            request::GET_BROKER_CONFIG => Ok(self.broker_config(link)),
            request::AUTH_CREATE_USER => self.put_user(header, fields, &body, true).await,
            request::AUTH_UPDATE_USER => self.put_user(header, fields, &body, false).await,
            request::AUTH_DELETE_USER => self.delete_user(header, fields).await,
            request::AUTH_GET_USER => self.user(header, fields),
            request::AUTH_LIST_USER => self.users(header, fields),
            request::AUTH_CREATE_ACL | request::AUTH_UPDATE_ACL => self.put_policies(fields, &body).await,
            request::AUTH_DELETE_ACL => self.delete_policies(fields).await,
            request::AUTH_GET_ACL => self.policies(fields),
            request::AUTH_LIST_ACL => self.all_policies(fields),
            other => {
                let remark = format!("request code {other} is not supported");
                Err(Denied::new(response::REQUEST_CODE_NOT_SUPPORTED, remark))
            }
        }
    }
}

/// All series of latencies.
pub(crate) fn figures(latencies: &Latencies) -> Vec<RpcLatency> {
    let waits = |call: &str| matches!(call, "pull_message" | "lite_pull_message" | "pop_message" | "notification");
    latencies.figures(response::name, waits)
}
