use super::*;
use martlet_broker::{Class, Counts, GroupCount, MemberInfo, MessageModel, ProgressStatus, TopicCount};
use martlet_model::group::{ConsumptionPattern, DeliveryOrder};
use martlet_model::{DeadLetterPolicy, GroupConfig, GroupId, RetryPolicy};

fn snapshot() -> Snapshot {
    let sizes = HistogramFigures { buckets: vec![(1024.0, 2), (4096.0, 1)], above: 1, sum: 10_000.0 };
    let consumer = |id: &str, language: &str| MemberInfo {
        client_id: id.into(),
        kind: MemberKind::Push,
        connection: None,
        model: MessageModel::Clustering,
        from: Default::default(),
        subscriptions: Vec::new(),
        language: language.into(),
        version: "5.0.7".into(),
        remote: "127.0.0.1:1".into(),
    };
    let progress = |queue, ready, in_flight| ProgressStatus {
        topic: "orders".into(),
        queue,
        in_flight,
        ready,
        waiting_retry: 1,
        lag_millis: 1_000 * i64::from(queue),
        queueing_millis: 500 * i64::from(queue),
        ..ProgressStatus::default()
    };
    Snapshot {
        cluster: "DefaultCluster".into(),
        broker: "broker-a".into(),
        figures: Figures {
            topics: vec![TopicCount { topic: "orders".into(), messages_in: 4, bytes_in: 10_000, sizes }],
            groups: vec![GroupCount {
                group: "billing".into(),
                topic: "orders".into(),
                messages_out: 3,
                bytes_out: 9_000,
            }],
            refusals: vec![("topic_not_found", 2)],
            notices: vec![("index_rebuilt", 1)],
            dead_letters: vec![("billing".into(), "orders".into(), 9)],
            counters: counters(),
            waiting: vec![("later".into(), martlet_shard::Waiting { delayed: 11, halves: 4, given_up: 1 })],
            lite_topics: vec![("chat".into(), 12)],
            lite: (13, 14, 15),
            waiting_polls: 5,
            resident_entities: 6,
            open_slots: 7,
            open_slots_most: (6, 100),
            batch_messages: HistogramFigures { buckets: vec![(1.0, 5), (2.0, 1)], above: 0, sum: 7.0 },
            batch_replies: HistogramFigures::default(),
            sync_millis: HistogramFigures { buckets: vec![(0.5, 3)], above: 1, sum: 9.0 },
            usage: Default::default(),
            bucket: vec![(
                Class::Wal,
                Counts { puts: 20, gets: 3, lists: 1, deletes: 2, bytes_sent: 4_096, bytes_received: 512 },
            )],
            shortage: Some(Shortage::Behind { waited_millis: 2_000 }),
            reply_bytes: (10, 100),
            producers: Vec::new(),
            members: BTreeMap::from([(
                "billing".into(),
                vec![consumer("a", "JAVA"), consumer("b", "JAVA"), consumer("c", "\"evil\nlanguage")],
            )]),
            stopped: None,
        },
        topics: 1,
        groups: vec![GroupStatus {
            config: GroupConfig {
                id: GroupId(1),
                name: "billing".into(),
                order: DeliveryOrder::Concurrent,
                pattern: ConsumptionPattern::Clustering,
                lite: None,
                retry: RetryPolicy::default(),
                dead_letters: DeadLetterPolicy::GroupTopic,
                start: Default::default(),
                pop_topics: Vec::new(),
                created_millis: 0,
                auto_created: false,
            },
            progress: vec![progress(0, 10, 2), progress(1, 20, 3)],
            dead_letters: 9,
            members: Vec::new(),
            subscriptions: Vec::new(),
            disagreement: None,
        }],
        group_count: 1,
        remoting: Some(RemotingFigures { connections: 3, inbound: (1, 2), latencies: Vec::new() }),
        http: Some(HttpFigures { connections: 4, inbound: (1, 2), outbound: (3, 4), latencies: Vec::new() }),
        grpc: Some(GrpcFigures {
            connections: 3,
            polls: 2,
            inbound: (11, 12),
            outbound: (13, 14),
            latencies: vec![martlet_grpc::RpcLatency {
                call: "SendMessage",
                code: "OK",
                result: "success",
                long_polling: false,
                millis: HistogramFigures { buckets: vec![(1.0, 4)], above: 0, sum: 2.0 },
            }],
            latencies_v1: Vec::new(),
        }),
        uptime_seconds: 1.5,
    }
}

fn counters() -> martlet_shard::Counters {
    martlet_shard::Counters {
        dead_letters: 9,
        dropped_unconsumed: 8,
        timers_out: 2,
        lateness: [1, 0, 0, 1, 0, 0, 0, 0],
        lateness_sum: 300,
        ..Default::default()
    }
}

#[test]
fn names_and_labels_are_those_that_dashboards_for_the_reference_expect() {
    let text = text(snapshot()).unwrap();
    let common = "cluster=\"DefaultCluster\",node_type=\"broker\",node_id=\"broker-a\"";
    for line in [
        format!("rocketmq_messages_in_total{{{common},topic=\"orders\",is_system=\"false\"}} 4.0"),
        format!("rocketmq_throughput_in_total{{{common},topic=\"orders\",is_system=\"false\"}} 10000.0"),
        format!("rocketmq_message_size_bucket{{{common},le=\"4096.0\",topic=\"orders\",is_system=\"false\"}} 3"),
        format!("rocketmq_message_size_bucket{{{common},le=\"+Inf\",topic=\"orders\",is_system=\"false\"}} 4"),
        format!("rocketmq_message_size_count{{{common},topic=\"orders\",is_system=\"false\"}} 4"),
        format!("rocketmq_consumer_lag_messages{{{common},consumer_group=\"billing\",topic=\"orders\"}} 37.0"),
        format!("rocketmq_consumer_inflight_messages{{{common},consumer_group=\"billing\",topic=\"orders\"}} 5.0"),
        format!("rocketmq_consumer_ready_messages{{{common},consumer_group=\"billing\",topic=\"orders\"}} 30.0"),
        format!(
            "rocketmq_send_to_dlq_messages_total{{{common},consumer_group=\"billing\",topic=\"orders\",\
             is_system=\"false\"}} 9.0"
        ),
        format!(
            "rocketmq_rpc_latency_bucket{{{common},le=\"1.0\",protocol_type=\"grpc\",request_code=\"SendMessage\",\
             response_code=\"ok\",is_long_polling=\"false\",result=\"success\"}} 4"
        ),
        format!("rocketmq_consumer_lag_latency{{{common},consumer_group=\"billing\",topic=\"orders\"}} 1000.0"),
        format!("rocketmq_consumer_queueing_latency{{{common},consumer_group=\"billing\",topic=\"orders\"}} 500.0"),
        format!("martlet_log_sync_milliseconds_count{{{common}}} 4"),
        format!("martlet_batch_messages_count{{{common}}} 6"),
        format!("martlet_store_notices_total{{{common},kind=\"index_rebuilt\"}} 1.0"),
        format!("martlet_bucket_requests_total{{{common},class=\"wal\",operation=\"put\"}} 20.0"),
        format!("martlet_bucket_bytes_total{{{common},class=\"wal\",direction=\"sent\"}} 4096.0"),
        format!("martlet_disk_full{{{common}}} 0.0"),
        format!("martlet_store_behind{{{common}}} 1.0"),
        format!("martlet_open_slots_most{{{common}}} 6.0"),
        format!("martlet_open_slots_limit{{{common}}} 100.0"),
        format!("martlet_inbound_budget_used_bytes{{{common}}} 11.0"),
        format!("martlet_inbound_budget_bytes{{{common}}} 12.0"),
        format!("martlet_outbound_budget_used_bytes{{{common}}} 13.0"),
        format!("rocketmq_topic_number{{{common}}} 1.0"),
        format!("martlet_refusals_total{{{common},reason=\"topic_not_found\"}} 2.0"),
        format!("martlet_dropped_unconsumed_messages_total{{{common}}} 8.0"),
        "# TYPE rocketmq_consumer_connections gauge".to_owned(),
        "# EOF".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nis not in\n{text}");
    }
}

#[test]
fn what_clients_call_themselves_does_not_make_series() {
    let text = text(snapshot()).unwrap();
    let connections: Vec<&str> =
        text.lines().filter(|line| line.starts_with("rocketmq_consumer_connections{")).collect();
    assert_eq!(connections.len(), 2, "{connections:?}");
    assert!(connections.iter().any(|line| line.contains("language=\"OTHER\"")));
    assert!(!text.contains("evil"));
}
