//! Codes of requests and answers. Requests and answers have spaces of their own; name server and broker share one.

/// Codes of requests that this broker knows.
pub mod request {
    /// A message, long field names.
    pub const SEND_MESSAGE: i32 = 10;
    /// Messages of a queue from an offset on.
    pub const PULL_MESSAGE: i32 = 11;
    /// Messages by key.
    pub const QUERY_MESSAGE: i32 = 12;
    /// Where a group is in a queue.
    pub const QUERY_CONSUMER_OFFSET: i32 = 14;
    /// A group moves in a queue.
    pub const UPDATE_CONSUMER_OFFSET: i32 = 15;
    /// Creates or changes a topic.
    pub const UPDATE_AND_CREATE_TOPIC: i32 = 17;
    /// The first offset stored at a time or later.
    pub const SEARCH_OFFSET_BY_TIMESTAMP: i32 = 29;
    /// The next offset of a queue.
    pub const GET_MAX_OFFSET: i32 = 30;
    /// The first offset of a queue.
    pub const GET_MIN_OFFSET: i32 = 31;
    /// When the first message of a queue was stored.
    pub const GET_EARLIEST_MSG_STORETIME: i32 = 32;
    /// One message by its physical offset.
    pub const VIEW_MESSAGE_BY_ID: i32 = 33;
    /// A client is alive.
    pub const HEART_BEAT: i32 = 34;
    /// A client leaves a group.
    pub const UNREGISTER_CLIENT: i32 = 35;
    /// A message is to come again.
    pub const CONSUMER_SEND_MSG_BACK: i32 = 36;
    /// A transaction ends.
    pub const END_TRANSACTION: i32 = 37;
    /// Members of a group.
    pub const GET_CONSUMER_LIST_BY_GROUP: i32 = 38;
    /// To a producer: how did this transaction end?
    pub const CHECK_TRANSACTION_STATE: i32 = 39;
    /// To a consumer: members of the group have changed.
    pub const NOTIFY_CONSUMER_IDS_CHANGED: i32 = 40;
    /// Locks queues for ordered consumption.
    pub const LOCK_BATCH_MQ: i32 = 41;
    /// Unlocks them.
    pub const UNLOCK_BATCH_MQ: i32 = 42;
    /// Is this subscription a legal one?
    pub const CHECK_CLIENT_CONFIG: i32 = 46;
    /// Sets a value of the name server.
    pub const PUT_KV_CONFIG: i32 = 100;
    /// A value of the name server.
    pub const GET_KV_CONFIG: i32 = 101;
    /// Removes a value of the name server.
    pub const DELETE_KV_CONFIG: i32 = 102;
    /// Queues and addresses of a topic.
    pub const GET_ROUTEINFO_BY_TOPIC: i32 = 105;
    /// Brokers of the cluster.
    pub const GET_BROKER_CLUSTER_INFO: i32 = 106;
    /// Creates or changes a group.
    pub const UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: i32 = 200;
    /// Bounds of a topic's queues.
    pub const GET_TOPIC_STATS_INFO: i32 = 202;
    /// Members of a group with their subscriptions.
    pub const GET_CONSUMER_CONNECTION_LIST: i32 = 203;
    /// All topics.
    pub const GET_ALL_TOPIC_LIST_FROM_NAMESERVER: i32 = 206;
    /// Deletes a group.
    pub const DELETE_SUBSCRIPTIONGROUP: i32 = 207;
    /// Progress of a group.
    pub const GET_CONSUME_STATS: i32 = 208;
    /// Deletes a topic in the broker.
    pub const DELETE_TOPIC_IN_BROKER: i32 = 215;
    /// Deletes a topic in the name server.
    pub const DELETE_TOPIC_IN_NAMESRV: i32 = 216;
    /// Moves a group.
    pub const INVOKE_BROKER_TO_RESET_OFFSET: i32 = 222;
    /// KV configs of a namespace.
    pub const GET_KVLIST_BY_NAMESPACE: i32 = 219;
    /// To a consumer, from a tool: how are you?
    pub const GET_CONSUMER_RUNNING_INFO: i32 = 307;
    /// To a consumer, from a tool: consume this message.
    pub const CONSUME_MESSAGE_DIRECTLY: i32 = 309;
    /// A message, short field names.
    pub const SEND_MESSAGE_V2: i32 = 310;
    /// Messages for one queue.
    pub const SEND_BATCH_MESSAGE: i32 = 320;
    /// The answer to a request that was a message, long field names.
    pub const SEND_REPLY_MESSAGE: i32 = 324;
    /// The same, short field names.
    pub const SEND_REPLY_MESSAGE_V2: i32 = 325;
    /// To a producer: the answer to a request that it sent as a message.
    pub const PUSH_REPLY_MESSAGE_TO_CLIENT: i32 = 326;
    /// Settings of a topic.
    pub const GET_TOPIC_CONFIG: i32 = 351;
    /// [`PULL_MESSAGE`] of lite pull consumers.
    pub const LITE_PULL_MESSAGE: i32 = 361;
    /// Stops a delayed message.
    pub const RECALL_MESSAGE: i32 = 370;
    /// Queues that a member should read.
    pub const QUERY_ASSIGNMENT: i32 = 400;
    /// How members that are assigned queues get a topic's messages.
    pub const SET_MESSAGE_REQUEST_MODE: i32 = 401;
    /// Messages of a topic, to be settled one by one.
    pub const POP_MESSAGE: i32 = 200_050;
    /// A message is settled.
    pub const ACK_MESSAGE: i32 = 200_051;
    /// A message is to stay invisible for so long.
    pub const CHANGE_MESSAGE_INVISIBLETIME: i32 = 200_053;
    /// Is there a message to pop?
    pub const NOTIFICATION: i32 = 200_054;
    /// Messages are settled.
    pub const BATCH_ACK_MESSAGE: i32 = 200_151;
    /// Settings of all topics.
    pub const GET_ALL_TOPIC_CONFIG: i32 = 21;
    /// Settings of the broker.
    pub const GET_BROKER_CONFIG: i32 = 26;
    /// Figures of the broker.
    pub const GET_BROKER_RUNTIME_INFO: i32 = 28;
    /// Settings of all groups.
    pub const GET_ALL_SUBSCRIPTIONGROUP_CONFIG: i32 = 201;
    /// Connections with a producer of a group.
    pub const GET_PRODUCER_CONNECTION_LIST: i32 = 204;
    /// Topics of a cluster.
    pub const GET_TOPICS_BY_CLUSTER: i32 = 224;
    /// Groups that consume a topic.
    pub const QUERY_TOPIC_CONSUME_BY_WHO: i32 = 300;
    /// Topics that are not users' own.
    pub const GET_SYSTEM_TOPIC_LIST_FROM_BROKER: i32 = 305;
    /// All producers.
    pub const GET_ALL_PRODUCER_INFO: i32 = 328;
    /// Settings of a group.
    pub const GET_SUBSCRIPTIONGROUP_CONFIG: i32 = 352;
    /// Creates or changes topics.
    pub const UPDATE_AND_CREATE_TOPIC_LIST: i32 = 18;
    /// Changes settings of the broker.
    pub const UPDATE_BROKER_CONFIG: i32 = 25;
    /// Creates or changes groups.
    pub const UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST: i32 = 225;
    /// Topics that are not users' own, by the name server.
    pub const GET_SYSTEM_TOPIC_LIST_FROM_NS: i32 = 304;
    /// Removes what is expired of queues.
    pub const CLEAN_EXPIRED_CONSUMEQUEUE: i32 = 306;
    /// Messages of the last minute, hour and day.
    pub const VIEW_BROKER_STATS_DATA: i32 = 315;
    /// Removes queues of topics that are gone.
    pub const CLEAN_UNUSED_TOPIC: i32 = 316;
    /// How far all groups are.
    pub const GET_BROKER_CONSUME_STATS: i32 = 317;
    /// Settings of the name server.
    pub const GET_NAMESRV_CONFIG: i32 = 319;
    /// Removes what is expired of the log.
    pub const DELETE_EXPIRED_COMMITLOG: i32 = 329;
    /// Topics that a group consumes.
    pub const QUERY_TOPICS_BY_CONSUMER: i32 = 343;
    /// Replicas.
    pub const GET_BROKER_HA_STATUS: i32 = 907;
    /// All lite topics together.
    pub const GET_BROKER_LITE_INFO: i32 = 200_074;
    /// A parent of lite topics.
    pub const GET_PARENT_TOPIC_INFO: i32 = 200_075;
    /// A lite topic.
    pub const GET_LITE_TOPIC_INFO: i32 = 200_076;
    /// The lite topics of a client.
    pub const GET_LITE_CLIENT_INFO: i32 = 200_077;
    /// How far a group of lite topics is.
    pub const GET_LITE_GROUP_INFO: i32 = 200_078;
    /// Sets the hand-out of lite topics going.
    pub const TRIGGER_LITE_DISPATCH: i32 = 200_079;
    /// Makes a user.
    pub const AUTH_CREATE_USER: i32 = 3_001;
    /// Changes a user.
    pub const AUTH_UPDATE_USER: i32 = 3_002;
    /// Removes a user.
    pub const AUTH_DELETE_USER: i32 = 3_003;
    /// A user.
    pub const AUTH_GET_USER: i32 = 3_004;
    /// All users.
    pub const AUTH_LIST_USER: i32 = 3_005;
    /// Adds entries to a user's policies.
    pub const AUTH_CREATE_ACL: i32 = 3_006;
    /// The same.
    pub const AUTH_UPDATE_ACL: i32 = 3_007;
    /// Removes entries of a user's policies.
    pub const AUTH_DELETE_ACL: i32 = 3_008;
    /// A user's policies.
    pub const AUTH_GET_ACL: i32 = 3_009;
    /// All policies.
    pub const AUTH_LIST_ACL: i32 = 3_010;

    /// What metrics call the codes, the frequent ones first.
    pub const NAMES: [(i32, &str); 91] = [
        (SEND_MESSAGE_V2, "send_message_v2"),
        (PULL_MESSAGE, "pull_message"),
        (LITE_PULL_MESSAGE, "lite_pull_message"),
        (SEND_MESSAGE, "send_message"),
        (SEND_BATCH_MESSAGE, "send_batch_message"),
        (UPDATE_CONSUMER_OFFSET, "update_consumer_offset"),
        (POP_MESSAGE, "pop_message"),
        (ACK_MESSAGE, "ack_message"),
        (HEART_BEAT, "heart_beat"),
        (GET_ROUTEINFO_BY_TOPIC, "get_routeinfo_by_topic"),
        (END_TRANSACTION, "end_transaction"),
        (QUERY_MESSAGE, "query_message"),
        (QUERY_CONSUMER_OFFSET, "query_consumer_offset"),
        (UPDATE_AND_CREATE_TOPIC, "update_and_create_topic"),
        (SEARCH_OFFSET_BY_TIMESTAMP, "search_offset_by_timestamp"),
        (GET_MAX_OFFSET, "get_max_offset"),
        (GET_MIN_OFFSET, "get_min_offset"),
        (GET_EARLIEST_MSG_STORETIME, "get_earliest_msg_storetime"),
        (VIEW_MESSAGE_BY_ID, "view_message_by_id"),
        (UNREGISTER_CLIENT, "unregister_client"),
        (CONSUMER_SEND_MSG_BACK, "consumer_send_msg_back"),
        (GET_CONSUMER_LIST_BY_GROUP, "get_consumer_list_by_group"),
        (CHECK_TRANSACTION_STATE, "check_transaction_state"),
        (NOTIFY_CONSUMER_IDS_CHANGED, "notify_consumer_ids_changed"),
        (LOCK_BATCH_MQ, "lock_batch_mq"),
        (UNLOCK_BATCH_MQ, "unlock_batch_mq"),
        (CHECK_CLIENT_CONFIG, "check_client_config"),
        (PUT_KV_CONFIG, "put_kv_config"),
        (GET_KV_CONFIG, "get_kv_config"),
        (DELETE_KV_CONFIG, "delete_kv_config"),
        (GET_KVLIST_BY_NAMESPACE, "get_kvlist_by_namespace"),
        (GET_CONSUMER_RUNNING_INFO, "get_consumer_running_info"),
        (CONSUME_MESSAGE_DIRECTLY, "consume_message_directly"),
        (GET_BROKER_CLUSTER_INFO, "get_broker_cluster_info"),
        (UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, "update_and_create_subscriptiongroup"),
        (GET_TOPIC_STATS_INFO, "get_topic_stats_info"),
        (GET_CONSUMER_CONNECTION_LIST, "get_consumer_connection_list"),
        (GET_ALL_TOPIC_LIST_FROM_NAMESERVER, "get_all_topic_list_from_nameserver"),
        (DELETE_SUBSCRIPTIONGROUP, "delete_subscriptiongroup"),
        (GET_CONSUME_STATS, "get_consume_stats"),
        (DELETE_TOPIC_IN_BROKER, "delete_topic_in_broker"),
        (DELETE_TOPIC_IN_NAMESRV, "delete_topic_in_namesrv"),
        (INVOKE_BROKER_TO_RESET_OFFSET, "invoke_broker_to_reset_offset"),
        (GET_TOPIC_CONFIG, "get_topic_config"),
        (RECALL_MESSAGE, "recall_message"),
        (QUERY_ASSIGNMENT, "query_assignment"),
        (GET_ALL_TOPIC_CONFIG, "get_all_topic_config"),
        (GET_BROKER_CONFIG, "get_broker_config"),
        (GET_BROKER_RUNTIME_INFO, "get_broker_runtime_info"),
        (GET_ALL_SUBSCRIPTIONGROUP_CONFIG, "get_all_subscriptiongroup_config"),
        (GET_PRODUCER_CONNECTION_LIST, "get_producer_connection_list"),
        (GET_TOPICS_BY_CLUSTER, "get_topics_by_cluster"),
        (QUERY_TOPIC_CONSUME_BY_WHO, "query_topic_consume_by_who"),
        (GET_SYSTEM_TOPIC_LIST_FROM_BROKER, "get_system_topic_list_from_broker"),
        (GET_ALL_PRODUCER_INFO, "get_all_producer_info"),
        (GET_SUBSCRIPTIONGROUP_CONFIG, "get_subscriptiongroup_config"),
        (SEND_REPLY_MESSAGE, "send_reply_message"),
        (SEND_REPLY_MESSAGE_V2, "send_reply_message_v2"),
        (PUSH_REPLY_MESSAGE_TO_CLIENT, "push_reply_message_to_client"),
        (SET_MESSAGE_REQUEST_MODE, "set_message_request_mode"),
        (CHANGE_MESSAGE_INVISIBLETIME, "change_message_invisibletime"),
        (NOTIFICATION, "notification"),
        (BATCH_ACK_MESSAGE, "batch_ack_message"),
        (UPDATE_AND_CREATE_TOPIC_LIST, "update_and_create_topic_list"),
        (UPDATE_BROKER_CONFIG, "update_broker_config"),
        (UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, "update_and_create_subscriptiongroup_list"),
        (GET_SYSTEM_TOPIC_LIST_FROM_NS, "get_system_topic_list_from_ns"),
        (CLEAN_EXPIRED_CONSUMEQUEUE, "clean_expired_consumequeue"),
        (VIEW_BROKER_STATS_DATA, "view_broker_stats_data"),
        (CLEAN_UNUSED_TOPIC, "clean_unused_topic"),
        (GET_BROKER_CONSUME_STATS, "get_broker_consume_stats"),
        (GET_NAMESRV_CONFIG, "get_namesrv_config"),
        (DELETE_EXPIRED_COMMITLOG, "delete_expired_commitlog"),
        (QUERY_TOPICS_BY_CONSUMER, "query_topics_by_consumer"),
        (GET_BROKER_HA_STATUS, "get_broker_ha_status"),
        (GET_BROKER_LITE_INFO, "get_broker_lite_info"),
        (GET_PARENT_TOPIC_INFO, "get_parent_topic_info"),
        (GET_LITE_TOPIC_INFO, "get_lite_topic_info"),
        (GET_LITE_CLIENT_INFO, "get_lite_client_info"),
        (GET_LITE_GROUP_INFO, "get_lite_group_info"),
        (TRIGGER_LITE_DISPATCH, "trigger_lite_dispatch"),
        (AUTH_CREATE_USER, "auth_create_user"),
        (AUTH_UPDATE_USER, "auth_update_user"),
        (AUTH_DELETE_USER, "auth_delete_user"),
        (AUTH_GET_USER, "auth_get_user"),
        (AUTH_LIST_USER, "auth_list_user"),
        (AUTH_CREATE_ACL, "auth_create_acl"),
        (AUTH_UPDATE_ACL, "auth_update_acl"),
        (AUTH_DELETE_ACL, "auth_delete_acl"),
        (AUTH_GET_ACL, "auth_get_acl"),
        (AUTH_LIST_ACL, "auth_list_acl"),
    ];
    /// What metrics call all other codes.
    pub const OTHER: &str = "other";

    /// What metrics call a code.
    pub fn name(code: i32) -> &'static str {
        NAMES.iter().find(|(known, _)| *known == code).map_or(OTHER, |(_, name)| name)
    }
}

/// Codes of answers.
pub mod response {
    /// Done.
    pub const SUCCESS: i32 = 0;
    /// Failed; producers try another queue.
    pub const SYSTEM_ERROR: i32 = 1;
    /// Too much to do; trying again later helps.
    pub const SYSTEM_BUSY: i32 = 2;
    /// Not a code this broker knows.
    pub const REQUEST_CODE_NOT_SUPPORTED: i32 = 3;
    /// The message breaks a rule; clients do not try again.
    pub const MESSAGE_ILLEGAL: i32 = 13;
    /// The broker cannot work now; producers try again.
    pub const SERVICE_NOT_AVAILABLE: i32 = 14;
    /// Not allowed.
    pub const NO_PERMISSION: i32 = 16;
    /// No such topic.
    pub const TOPIC_NOT_EXIST: i32 = 17;
    /// Nothing there yet.
    pub const PULL_NOT_FOUND: i32 = 19;
    /// Nothing that passes the filter; go on at once.
    pub const PULL_RETRY_IMMEDIATELY: i32 = 20;
    /// The offset is not one of the queue's.
    pub const PULL_OFFSET_MOVED: i32 = 21;
    /// Nothing is known of that.
    pub const QUERY_NOT_FOUND: i32 = 22;
    /// The filter expression cannot be compiled.
    pub const SUBSCRIPTION_PARSE_FAILED: i32 = 23;
    /// No member of the group has subscribed to this.
    pub const SUBSCRIPTION_NOT_EXIST: i32 = 24;
    /// A newer heartbeat is to come.
    pub const SUBSCRIPTION_NOT_LATEST: i32 = 25;
    /// No such group.
    pub const SUBSCRIPTION_GROUP_NOT_EXIST: i32 = 26;
    /// A field is wrong.
    pub const INVALID_PARAMETER: i32 = 29;
    /// The group has no member.
    pub const CONSUMER_NOT_ONLINE: i32 = 206;
    /// The consumer that was asked does not answer.
    pub const CONSUME_MSG_TIMEOUT: i32 = 207;
    /// There is no such delivery any more.
    pub const NO_MESSAGE: i32 = 208;
    /// No message came within the poll.
    pub const POLLING_TIMEOUT: i32 = 210;
    /// What is asked for is not possible any more.
    pub const ILLEGAL_OPERATION: i32 = 604;
    /// No such user.
    pub const USER_NOT_EXIST: i32 = 3_001;
    /// The user has no such policy.
    pub const POLICY_NOT_EXIST: i32 = 3_002;

    /// What metrics call a code.
    pub fn name(code: i32) -> &'static str {
        match code {
            SUCCESS => "success",
            SYSTEM_ERROR => "system_error",
            SYSTEM_BUSY => "system_busy",
            REQUEST_CODE_NOT_SUPPORTED => "request_code_not_supported",
            MESSAGE_ILLEGAL => "message_illegal",
            SERVICE_NOT_AVAILABLE => "service_not_available",
            NO_PERMISSION => "no_permission",
            TOPIC_NOT_EXIST => "topic_not_exist",
            PULL_NOT_FOUND => "pull_not_found",
            PULL_RETRY_IMMEDIATELY => "pull_retry_immediately",
            PULL_OFFSET_MOVED => "pull_offset_moved",
            QUERY_NOT_FOUND => "query_not_found",
            SUBSCRIPTION_PARSE_FAILED => "subscription_parse_failed",
            SUBSCRIPTION_NOT_EXIST => "subscription_not_exist",
            SUBSCRIPTION_NOT_LATEST => "subscription_not_latest",
            SUBSCRIPTION_GROUP_NOT_EXIST => "subscription_group_not_exist",
            INVALID_PARAMETER => "invalid_parameter",
            CONSUMER_NOT_ONLINE => "consumer_not_online",
            CONSUME_MSG_TIMEOUT => "consume_msg_timeout",
            NO_MESSAGE => "no_message",
            POLLING_TIMEOUT => "polling_timeout",
            ILLEGAL_OPERATION => "illegal_operation",
            _ => "other",
        }
    }
}

/// The code a client means: binary headers hold 16 bits, which cut off the codes from 200,000 on.
pub fn whole(code: i16) -> i32 {
    match code {
        3442..=3448 => 200_050 + i32::from(code) - 3442,
        3462..=3471 => 200_070 + i32::from(code) - 3462,
        3543 => 200_151,
        other => i32::from(other),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn large_codes_survive_a_binary_header() {
        for code in (200_050..=200_056).chain(200_070..=200_079).chain([200_151, 0, 10, 310, 400]) {
            assert_eq!(super::whole(code as i16), code);
        }
    }
}
