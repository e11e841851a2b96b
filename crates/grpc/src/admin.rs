//! The Admin service of `apache.rocketmq.v2`: asking about topics, groups and clients. Source: grpc.md section 5.14.

use crate::call::Call;
use crate::code::{self, Denied};
use crate::proto::v2::{self, Code, Resource};
use crate::resource::{group_name, topic_name};
use crate::service::Front;
use crate::settings;
use crate::time;
use martlet_broker::{ClientInfo, ClientRole, GroupStatus, MemberInfo, MessageModel};
use martlet_model::{Filter, Permission, TopicType, UnixMillis};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

impl Front {
    pub(crate) async fn describe_topic_status(
        &self,
        _call: &Call,
        request: v2::DescribeTopicStatusRequest,
    ) -> Result<v2::DescribeTopicStatusResponse, Denied> {
        let name = topic_name(request.topic)?;
        let topic = self.broker.topic_status(&name).await?.config;
        let mut tags = BTreeMap::new();
        tags.insert("type".to_owned(), topic.kind.name().to_owned());
        tags.insert("read_queues".to_owned(), topic.read_queues.to_string());
        tags.insert("write_queues".to_owned(), topic.write_queues.to_string());
        Ok(v2::DescribeTopicStatusResponse {
            status: Some(code::ok()),
            topic_message_type: match topic.kind {
                // The wire has no word for it; the tags do.
                TopicType::Mixed => v2::MessageType::Unspecified,
                kind => {
                    kind.accepts().first().map_or(v2::MessageType::Normal, |one| crate::message_out::wire_type(*one))
                }
            } as i32,
            description: None,
            create_timestamp: Some(time::timestamp(UnixMillis(topic.created_millis))),
            tags,
        })
    }

    pub(crate) async fn list_subscription(
        &self,
        _call: &Call,
        request: v2::ListSubscriptionRequest,
    ) -> Result<v2::ListSubscriptionResponse, Denied> {
        let name = |resource: &Option<Resource>| resource.as_ref().map_or("", |resource| &resource.name).to_owned();
        let mut subscriptions: BTreeMap<(String, String), v2::SubscriptionInfo> = BTreeMap::new();
        for (_, info) in self.subscriptions(request.topic, request.group)? {
            let key = (name(&info.group), name(&info.topic));
            subscriptions
                .entry(key)
                .and_modify(|known| known.subscription_consistency &= known.expression == info.expression)
                .or_insert(info);
        }
        Ok(v2::ListSubscriptionResponse {
            status: Some(code::ok()),
            subscription_info: subscriptions.into_values().collect(),
        })
    }

    pub(crate) async fn describe_subscription(
        &self,
        _call: &Call,
        request: v2::DescribeSubscriptionRequest,
    ) -> Result<v2::DescribeSubscriptionResponse, Denied> {
        use v2::describe_subscription_response::ClientSubscriptionInfo;
        let client_subscription_info = self
            .subscriptions(request.topic, request.group)?
            .into_iter()
            .map(|(client, info)| ClientSubscriptionInfo {
                client_info: Some(client_info(&client)),
                subscription_info: Some(info),
            })
            .collect();
        Ok(v2::DescribeSubscriptionResponse { status: Some(code::ok()), client_subscription_info })
    }

    /// Subscriptions of connected consumers, of one topic, one group, or both.
    fn subscriptions(
        &self,
        topic: Option<Resource>,
        group: Option<Resource>,
    ) -> Result<Vec<(ClientInfo, v2::SubscriptionInfo)>, Denied> {
        if topic.is_none() && group.is_none() {
            return Err(Denied::new(Code::BadRequest, "neither topic nor group is set"));
        }
        let topic = topic.map(|topic| topic_name(Some(topic))).transpose()?;
        let group = group.map(|group| group_name(Some(group))).transpose()?;
        let mut found = Vec::new();
        for client in self.broker.clients() {
            let ClientRole::Consumer { group: member_of, subscriptions, .. } = &client.role else { continue };
            if group.as_ref().is_some_and(|group| group != member_of) {
                continue;
            }
            for (subscribed, filter) in subscriptions {
                if topic.as_ref().is_none_or(|topic| topic == subscribed) {
                    found.push((client.clone(), subscription_info(member_of, subscribed, filter)));
                }
            }
        }
        Ok(found)
    }

    pub(crate) async fn describe_group_accumulation(
        &self,
        _call: &Call,
        request: v2::DescribeGroupAccumulationRequest,
    ) -> Result<v2::DescribeGroupAccumulationResponse, Denied> {
        use v2::describe_group_accumulation_response::GroupAccumulation;
        let group = group_name(request.group)?;
        let wanted: Vec<String> = request.topics.into_iter().map(|topic| topic.name).collect();
        let status: GroupStatus = self.broker.group_status(&group).await?;
        let mut topics: BTreeMap<String, GroupAccumulation> = BTreeMap::new();
        let mut all = GroupAccumulation::default();
        for progress in &status.progress {
            if !wanted.is_empty() && !wanted.contains(&progress.topic) {
                continue;
            }
            let of_topic = topics.entry(progress.topic.clone()).or_default();
            for sum in [of_topic, &mut all] {
                let delay = sum.deliver_delay_time.as_ref().and_then(time::millis).unwrap_or(0);
                sum.deliver_delay_time = Some(time::duration(delay.max(progress.lag_millis)));
                let add = |to: &mut i64, count: u64| *to = to.saturating_add_unsigned(count);
                add(&mut sum.inflight_messages, progress.in_flight);
                // What waits for its retry is not in anybody's hands; it counts with what is to be delivered.
                add(&mut sum.ready_messages, progress.ready + progress.waiting_retry);
                add(&mut sum.accumulation, progress.accumulation());
            }
        }
        Ok(v2::DescribeGroupAccumulationResponse {
            status: Some(code::ok()),
            accumulation: Some(all),
            topic_accumulation: topics,
            lite_topic_accumulation: BTreeMap::new(),
        })
    }

    pub(crate) async fn list_consumer_connection(
        &self,
        _call: &Call,
        request: v2::ListConsumerConnectionRequest,
    ) -> Result<v2::ListConsumerConnectionResponse, Denied> {
        let group = group_name(request.group)?;
        let topic = request.topic.map(|topic| topic_name(Some(topic))).transpose()?;
        let members = self.broker.group_status(&group).await?.members;
        let wants = |member: &MemberInfo, topic: &str| member.subscriptions.iter().any(|each| each.topic == topic);
        let client_info = members
            .iter()
            .filter(|member| topic.as_deref().is_none_or(|topic| wants(member, topic)))
            .map(member_info)
            .collect();
        Ok(v2::ListConsumerConnectionResponse { status: Some(code::ok()), client_info })
    }

    pub(crate) async fn get_topic_route(
        &self,
        call: &Call,
        request: v2::GetTopicRouteRequest,
    ) -> Result<v2::GetTopicRouteResponse, Denied> {
        let name = topic_name(request.topic)?;
        let topic = self.broker.topic_status(&name).await?.config;
        let endpoints = self.endpoints(call, None);
        let address = endpoints.addresses.first().map_or_else(String::new, |address| {
            if address.host.contains(':') {
                format!("[{}]:{}", address.host, address.port)
            } else {
                format!("{}:{}", address.host, address.port)
            }
        });
        let broker = self.broker.broker_name();
        let permission = match topic.permission {
            Permission::ReadWrite => 6,
            Permission::Read => 4,
            Permission::Write => 2,
            Permission::None => 0,
        };
        let route = serde_json::json!({
            "brokerDatas": [{
                "brokerAddrs": { "0": address },
                "brokerName": broker,
                "cluster": self.broker.cluster_name(),
                "enableActingMaster": false,
            }],
            "filterServerTable": {},
            "queueDatas": [{
                "brokerName": broker,
                "perm": permission,
                "readQueueNums": topic.read_queues,
                "topicSysFlag": 0,
                "writeQueueNums": topic.write_queues,
            }],
        });
        Ok(v2::GetTopicRouteResponse { status: Some(code::ok()), topic_route_data: route.to_string() })
    }

    /// Rates are means since the start; metrics have finer ones.
    pub(crate) async fn get_proxy_runtime_stats(
        &self,
        _call: &Call,
        _request: v2::GetProxyRuntimeStatsRequest,
    ) -> Result<v2::GetProxyRuntimeStatsResponse, Denied> {
        let seconds = self.stats.started.elapsed().as_secs_f64().max(1.0);
        let (messages_in, messages_out) = self.stats.messages();
        let clients = self.broker.clients();
        let producers = clients.iter().filter(|client| matches!(client.role, ClientRole::Producer { .. })).count();
        Ok(v2::GetProxyRuntimeStatsResponse {
            status: Some(code::ok()),
            proxy_name: self.broker.broker_name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            in_tps: messages_in as f64 / seconds,
            out_tps: messages_out as f64 / seconds,
            connections: self.stats.connections.load(Ordering::Relaxed) as i64,
            producers: producers as i64,
            consumers: (clients.len() - producers) as i64,
        })
    }
}

fn resource(name: &str) -> Resource {
    Resource { resource_namespace: String::new(), name: name.to_owned() }
}

fn subscription_info(group: &str, topic: &str, filter: &Filter) -> v2::SubscriptionInfo {
    v2::SubscriptionInfo {
        group: Some(resource(group)),
        topic: Some(resource(topic)),
        expression: Some(settings::expression(filter)),
        online: true,
        last_update_timestamp: None,
        message_model: v2::MessageModel::Clustering as i32,
        subscription_consistency: true,
    }
}

fn member_info(member: &MemberInfo) -> v2::ClientInfo {
    let model = match member.model {
        MessageModel::Clustering => v2::MessageModel::Clustering,
        MessageModel::Broadcasting => v2::MessageModel::Broadcasting,
    };
    let MemberInfo { client_id, language, version, remote, .. } = member;
    v2::ClientInfo { message_model: model as i32, ..told(client_id, version, language, remote) }
}

fn client_info(client: &ClientInfo) -> v2::ClientInfo {
    told(&client.client_id, &client.version, &client.language, &client.remote)
}

fn told(client_id: &str, version: &str, language: &str, remote: &str) -> v2::ClientInfo {
    // Client ids start with the host name, up to an @.
    let hostname = client_id.split_once('@').map_or("", |(host, _)| host).to_owned();
    v2::ClientInfo {
        client_id: client_id.to_owned(),
        version: version.to_owned(),
        language: language.to_owned(),
        hostname,
        egress_ip: remote.to_owned(),
        message_model: v2::MessageModel::Clustering as i32,
    }
}
