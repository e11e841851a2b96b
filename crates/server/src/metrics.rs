//! Metrics in the OpenMetrics text format, made from snapshots at the moment they are asked for.
//!
//! Names of the reference broker where the meaning is the same (prefix `rocketmq_`), our own beside them (prefix
//! `martlet_`). Labels are topics and consumer groups of the catalog, never clients or lite topics, so that the number
//! of series is bounded by what an administrator can see.
//! Source of the names: semantics.md section 13.

mod process;

use martlet_broker::{Disagreement, Figures, GroupStatus, MemberKind};
use martlet_grpc::{GrpcFigures, RpcLatency};
use martlet_http::HttpFigures;
use martlet_model::HistogramFigures;
use martlet_model::names::TRACE_TOPIC;
use martlet_remoting::RemotingFigures;
use martlet_store::Shortage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;

/// Everything that one answer of `/metrics` says.
#[derive(Debug)]
pub struct Snapshot {
    /// Value of the label `cluster`.
    pub cluster: String,
    /// Value of the label `node_id`: the broker's name.
    pub broker: String,
    /// What the broker counted.
    pub figures: Figures,
    /// Topics in the catalog.
    pub topics: usize,
    /// How far groups are.
    pub groups: Vec<GroupStatus>,
    /// Groups in the catalog; more than `groups` if there are too many to look at each time.
    pub group_count: usize,
    /// Figures of the gRPC port, once it is there.
    pub grpc: Option<GrpcFigures>,
    /// Figures of the ports of TCP clients, if there are such.
    pub remoting: Option<RemotingFigures>,
    /// Of the front for HTTP clients.
    pub http: Option<HttpFigures>,
    /// Seconds since the process started.
    pub uptime_seconds: f64,
}

type Labels = Vec<(&'static str, String)>;
/// Consumers are counted by group, language and version, and by mode and protocol.
type ConsumerSeries = (String, String, String, (&'static str, &'static str));

enum Value {
    Counter(f64),
    Gauge(f64),
    Histogram(HistogramFigures),
}

/// Families in the order they are written, each with its samples.
#[derive(Default)]
struct Families {
    order: Vec<(&'static str, &'static str)>,
    samples: BTreeMap<&'static str, Vec<(Labels, Value)>>,
}

impl Families {
    fn add(&mut self, name: &'static str, help: &'static str, labels: Labels, value: Value) {
        if !self.samples.contains_key(name) {
            self.order.push((name, help));
        }
        self.samples.entry(name).or_default().push((labels, value));
    }

    fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.add(name, help, Vec::new(), Value::Gauge(value));
    }

    fn counter(&mut self, name: &'static str, help: &'static str, value: f64) {
        self.add(name, help, Vec::new(), Value::Counter(value));
    }
}

/// The text of one answer.
pub fn text(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_labels(
        [("cluster", snapshot.cluster.clone()), ("node_type", "broker".into()), ("node_id", snapshot.broker.clone())]
            .into_iter()
            .map(|(key, value)| (key.into(), value.into())),
    );
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut families = Families::default();
        self.messages(&mut families);
        self.groups(&mut families);
        self.clients(&mut families);
        self.store(&mut families);
        self.bucket(&mut families);
        self.shard(&mut families);
        if let Some(grpc) = &self.grpc {
            Self::grpc(grpc, &mut families);
        }
        if let Some(remoting) = &self.remoting {
            Self::remoting(remoting, &mut families);
        }
        if let Some(http) = &self.http {
            Self::http(http, &mut families);
        }
        process::add(&mut families, self.uptime_seconds);
        for (name, help) in &families.order {
            let samples = families.samples.get(name).map(Vec::as_slice).unwrap_or_default();
            let kind = match samples.first() {
                Some((_, Value::Counter(_))) => MetricType::Counter,
                Some((_, Value::Histogram(_))) => MetricType::Histogram,
                Some((_, Value::Gauge(_))) | None => MetricType::Gauge,
            };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for (labels, value) in samples {
                let labels = labels.as_slice();
                let mut sample = family.encode_family(&labels)?;
                match value {
                    Value::Counter(value) => sample.encode_counter::<NoLabelSet, f64, f64>(value, None)?,
                    Value::Gauge(value) => sample.encode_gauge(value)?,
                    Value::Histogram(histogram) => {
                        let above = (f64::INFINITY, histogram.above);
                        let buckets: Vec<(f64, u64)> = histogram.buckets.iter().copied().chain([above]).collect();
                        let count = buckets.iter().map(|(_, count)| count).sum();
                        sample.encode_histogram::<NoLabelSet>(histogram.sum, count, &buckets, None)?;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Snapshot {
    fn messages(&self, families: &mut Families) {
        for topic in &self.figures.topics {
            let labels = || vec![("topic", topic.topic.clone()), is_system(&topic.topic)];
            let value = Value::Counter(topic.messages_in as f64);
            families.add("rocketmq_messages_in", "Messages stored", labels(), value);
        }
        for topic in &self.figures.topics {
            let labels = || vec![("topic", topic.topic.clone()), is_system(&topic.topic)];
            let value = Value::Counter(topic.bytes_in as f64);
            families.add("rocketmq_throughput_in", "Bytes of messages stored", labels(), value);
            let sizes = Value::Histogram(topic.sizes.clone());
            families.add("rocketmq_message_size", "Sizes of messages stored, in bytes", labels(), sizes);
        }
        for group in &self.figures.groups {
            let labels = || {
                vec![("topic", group.topic.clone()), ("consumer_group", group.group.clone()), is_system(&group.topic)]
            };
            let value = Value::Counter(group.messages_out as f64);
            families.add("rocketmq_messages_out", "Messages handed out, retries included", labels(), value);
            let value = Value::Counter(group.bytes_out as f64);
            families.add("rocketmq_throughput_out", "Bytes of messages handed out", labels(), value);
        }
        families.gauge("rocketmq_topic_number", "Topics", self.topics as f64);
        families.gauge("rocketmq_consumer_group_number", "Consumer groups", self.group_count as f64);
    }

    fn groups(&self, families: &mut Families) {
        for group in &self.groups {
            let mut topics: BTreeMap<&str, (u64, u64, u64, i64, i64)> = BTreeMap::new();
            for progress in &group.progress {
                let sums = topics.entry(&progress.topic).or_default();
                sums.0 += progress.accumulation();
                sums.1 += progress.in_flight;
                sums.2 += progress.ready;
                sums.3 = sums.3.max(progress.lag_millis);
                sums.4 = sums.4.max(progress.queueing_millis);
            }
            for (topic, (lag, in_flight, ready, lag_millis, queueing_millis)) in topics {
                let labels = || vec![("consumer_group", group.config.name.clone()), ("topic", topic.to_owned())];
                let mut add = |name, help, value: u64| families.add(name, help, labels(), Value::Gauge(value as f64));
                add("rocketmq_consumer_lag_messages", "Messages a group has not settled", lag);
                add("rocketmq_consumer_inflight_messages", "Messages handed out and not settled", in_flight);
                add("rocketmq_consumer_ready_messages", "Messages never handed out", ready);
                let help = "Milliseconds since the oldest message that is not settled was stored";
                add("rocketmq_consumer_lag_latency", help, lag_millis.unsigned_abs());
                let help = "Milliseconds since the oldest message that was never handed out was stored";
                add("rocketmq_consumer_queueing_latency", help, queueing_millis.unsigned_abs());
            }
            let labels = vec![("consumer_group", group.config.name.clone())];
            let value = Value::Gauge(group.dead_letters as f64);
            families.add("martlet_dead_letter_messages", "Messages in a group's dead-letter queue", labels, value);
        }
    }

    fn clients(&self, families: &mut Families) {
        let mut producers: BTreeMap<(String, String), u64> = BTreeMap::new();
        let mut consumers: BTreeMap<ConsumerSeries, u64> = BTreeMap::new();
        for client in &self.figures.producers {
            let of = (known_language(&client.language), short(&client.version));
            *producers.entry(of).or_default() += 1;
        }
        for (group, members) in &self.figures.members {
            for member in members {
                let mode = match member.kind {
                    MemberKind::Push => ("push", "grpc"),
                    MemberKind::Simple => ("pop", "grpc"),
                    MemberKind::QueueBased => ("push", "remoting"),
                };
                let of = (group.clone(), known_language(&member.language), short(&member.version), mode);
                *consumers.entry(of).or_default() += 1;
            }
            if Disagreement::of(members).is_some() {
                let help = "1 while the members of a group differ in topics, in filters, or in broadcasting";
                let labels = vec![("consumer_group", group.clone())];
                families.add("martlet_subscription_disagreement", help, labels, Value::Gauge(1.0));
            }
        }
        for ((language, version), count) in producers {
            let labels = vec![("language", language), ("version", version), ("protocol_type", "grpc".into())];
            let value = Value::Gauge(count as f64);
            families.add("rocketmq_producer_connections", "Connected producers", labels, value);
        }
        for ((group, language, version, (mode, protocol)), count) in consumers {
            let labels = vec![
                ("consumer_group", group),
                ("language", language),
                ("version", version),
                ("consume_mode", mode.into()),
                ("protocol_type", protocol.into()),
            ];
            let value = Value::Gauge(count as f64);
            families.add("rocketmq_consumer_connections", "Connected consumers", labels, value);
        }
    }

    fn grpc(grpc: &GrpcFigures, families: &mut Families) {
        families.gauge("martlet_grpc_connections", "Connections of the gRPC port", grpc.connections as f64);
        families.gauge("martlet_grpc_polls", "Receive calls under way on the gRPC port", grpc.polls as f64);
        let (used, limit) = grpc.inbound;
        families.gauge("martlet_inbound_budget_used_bytes", "Bytes of requests held", used as f64);
        families.gauge("martlet_inbound_budget_bytes", "Most bytes of requests held", limit as f64);
        let (used, limit) = grpc.outbound;
        families.gauge("martlet_outbound_budget_used_bytes", "Bytes of answers waiting for slow readers", used as f64);
        families.gauge("martlet_outbound_budget_bytes", "Most bytes of answers waiting for slow readers", limit as f64);
        latencies("grpc", &grpc.latencies, families);
        latencies("grpc_v1", &grpc.latencies_v1, families);
    }

    fn remoting(remoting: &RemotingFigures, families: &mut Families) {
        let help = "Connections of TCP clients at this moment";
        families.gauge("martlet_remoting_connections", help, remoting.connections as f64);
        let (used, limit) = remoting.inbound;
        let help = "Bytes of requests of TCP clients that are held";
        families.gauge("martlet_remoting_inbound_budget_used_bytes", help, used as f64);
        let help = "Most bytes of requests of TCP clients that may be held";
        families.gauge("martlet_remoting_inbound_budget_bytes", help, limit as f64);
        latencies("remoting", &remoting.latencies, families);
    }

    fn http(http: &HttpFigures, families: &mut Families) {
        families.gauge(
            "martlet_http_connections",
            "Connections of HTTP clients at this moment",
            http.connections as f64,
        );
        let (used, limit) = http.inbound;
        families.gauge(
            "martlet_http_inbound_budget_used_bytes",
            "Bytes of requests of HTTP clients that are held",
            used as f64,
        );
        let help = "Most bytes of requests of HTTP clients that may be held";
        families.gauge("martlet_http_inbound_budget_bytes", help, limit as f64);
        let (used, limit) = http.outbound;
        let help = "Bytes of messages on their way to HTTP clients";
        families.gauge("martlet_http_outbound_budget_used_bytes", help, used as f64);
        let help = "Most bytes of messages on their way to HTTP clients";
        families.gauge("martlet_http_outbound_budget_bytes", help, limit as f64);
        latencies("http", &http.latencies, families);
    }

    fn bucket(&self, families: &mut Families) {
        for (class, counts) in &self.figures.bucket {
            let requests =
                [("put", counts.puts), ("get", counts.gets), ("list", counts.lists), ("delete", counts.deletes)];
            for (operation, count) in requests {
                let labels = vec![("class", class.name().to_owned()), ("operation", operation.to_owned())];
                let help = "Requests to the bucket, by what they were for";
                families.add("martlet_bucket_requests", help, labels, Value::Counter(count as f64));
            }
            for (direction, bytes) in [("sent", counts.bytes_sent), ("received", counts.bytes_received)] {
                let labels = vec![("class", class.name().to_owned()), ("direction", direction.to_owned())];
                let help = "Bytes to and from the bucket, by what they were for";
                families.add("martlet_bucket_bytes", help, labels, Value::Counter(bytes as f64));
            }
        }
    }

    fn store(&self, families: &mut Families) {
        let usage = &self.figures.usage;
        let labels = match self.figures.bucket.is_empty() {
            true => vec![("storage_type", "local".to_owned()), ("storage_medium", "disk".to_owned())],
            false => vec![("storage_type", "tiered".to_owned()), ("storage_medium", "object".to_owned())],
        };
        let size = Value::Gauge((usage.log_bytes + usage.index_bytes) as f64);
        families.add("rocketmq_storage_size", "Bytes of log and index on disk", labels, size);
        families.gauge("martlet_log_bytes", "Bytes of all log segments", usage.log_bytes as f64);
        if let Some(bytes) = usage.live_bytes {
            families.gauge("martlet_log_live_bytes", "Bytes of the log that are still alive", bytes as f64);
        }
        families.gauge("martlet_log_segments", "Log segments", usage.segments as f64);
        families.gauge("martlet_index_bytes", "Bytes of the index on disk", usage.index_bytes as f64);
        families.gauge(
            "martlet_disk_bytes",
            "Size of the file system the log is on, without what it keeps back for the system",
            usage.disk_total as f64,
        );
        families.gauge("martlet_disk_free_bytes", "Free bytes of that file system", usage.disk_free as f64);
        let syncs = Value::Histogram(self.figures.sync_millis.clone());
        families.add("martlet_log_sync_milliseconds", "How long syncs of the log took", Vec::new(), syncs);
        for (kind, count) in &self.figures.notices {
            let value = Value::Counter(*count as f64);
            let help = "What the store came upon while it ran; the log has the details";
            families.add("martlet_store_notices", help, vec![("kind", (*kind).to_owned())], value);
        }
        families.counter("martlet_written_bytes", "Bytes handed to write() by the store", usage.written_bytes as f64);
        let full = matches!(self.figures.shortage, Some(Shortage::DiskFull { .. }));
        families.gauge("martlet_disk_full", "1 while sends are refused for want of space", f64::from(u8::from(full)));
        let behind = matches!(self.figures.shortage, Some(Shortage::Behind { .. }));
        let help = "1 while sends are refused because a batch has waited for long to become durable";
        families.gauge("martlet_store_behind", help, f64::from(u8::from(behind)));
        let stopped = f64::from(u8::from(self.figures.stopped.is_some()));
        families.gauge("martlet_shard_stopped", "1 if the shard has stopped because its store failed", stopped);
    }

    fn shard(&self, families: &mut Families) {
        let counters = &self.figures.counters;
        let mut count = |name, help, value: u64| families.counter(name, help, value as f64);
        count("martlet_acked_messages", "Messages settled by ack", counters.acked);
        count("martlet_retried_messages", "Hand-outs with an attempt above 1", counters.retries_out);
        let again = "Sends of a message id that was known, and so not stored again";
        count("martlet_deduplicated_messages", again, counters.deduplicated);
        let forgotten =
            "Message ids forgotten before their topic's window of de-duplication was over, for there were too many";
        count("martlet_deduplication_forgotten_ids", forgotten, counters.ids_forgotten);
        count("martlet_undone_messages", "Hand-outs undone because nobody was there any more", counters.undone);
        count("martlet_discarded_messages", "Messages discarded after their last attempt", counters.discarded);
        let dropped = "Messages that a group had not settled when retention or a full disk dropped them";
        count("martlet_dropped_unconsumed_messages", dropped, counters.dropped_unconsumed);
        count(
            "martlet_filtered_messages",
            "Messages skipped because no filter of the group matched",
            counters.filtered,
        );
        count("rocketmq_timer_enqueue", "Messages that began to wait for their delivery timestamp", counters.timers_in);
        count("rocketmq_timer_dequeue", "Messages that went to their topic when they were due", counters.timers_out);
        count("martlet_recalled_messages", "Delayed messages recalled before they were due", counters.recalled);
        let dropped = "Delayed messages dropped because their topic was deleted or repair dropped them from the log";
        count("martlet_timer_dropped_messages", dropped, counters.timers_dropped);
        count("martlet_half_messages_in", "Half messages stored", counters.halves_in);
        count("martlet_transactions_committed", "Transactions committed", counters.committed);
        count("martlet_transactions_rolled_back", "Transactions rolled back", counters.rolled_back);
        let checks = "Times a producer was asked how a transaction ended";
        count("martlet_transaction_checks", checks, counters.transaction_checks);
        count("martlet_transactions_given_up", "Transactions given up after their last check", counters.given_up);
        let dropped = "Half messages dropped by retention, with their topic, or by repair";
        count("martlet_half_messages_dropped", dropped, counters.halves_dropped);
        let full = "Polls that met a group and queue at its limit of open slots";
        count("martlet_open_slots_full", full, counters.open_slots_full);
        let seconds = martlet_broker::LATENESS_MILLIS.iter().map(|&bound| bound as f64 / 1000.0);
        let lateness = HistogramFigures {
            buckets: seconds.zip(counters.lateness).collect(),
            above: counters.lateness[martlet_broker::LATENESS_MILLIS.len()],
            sum: counters.lateness_sum as f64 / 1000.0,
        };
        let help = "Seconds from the delivery timestamp to the message's going to its topic";
        families.add("martlet_timer_lateness_seconds", help, Vec::new(), Value::Histogram(lateness));
        for (topic, waiting) in &self.figures.waiting {
            let labels = vec![("topic", topic.clone())];
            let value = Value::Gauge(waiting.delayed as f64);
            families.add("rocketmq_timing_messages", "Messages that wait for their delivery timestamp", labels, value);
            let labels = || vec![("topic", topic.clone())];
            let half = Value::Gauge(waiting.halves as f64);
            families.add(
                "rocketmq_half_messages",
                "Messages that wait for the end of their transaction",
                labels(),
                half,
            );
            let given_up = Value::Gauge(waiting.given_up as f64);
            let help = "Half messages of which producers are not asked any more";
            families.add("martlet_half_messages_given_up", help, labels(), given_up);
        }
        let figures = &self.figures;
        for (topic, lite_topics) in &figures.lite_topics {
            let labels = vec![("topic", topic.clone())];
            let value = Value::Gauge(*lite_topics as f64);
            families.add("martlet_lite_topics", "Lite topics of a parent", labels, value);
        }
        let (resident, subscriptions, clients) = figures.lite;
        let help = "Lite topics, progress in them and names of none in memory";
        families.gauge("martlet_lite_resident_entities", help, resident as f64);
        families.gauge("martlet_lite_subscriptions", "Live subscriptions to lite topics", subscriptions as f64);
        families.gauge("martlet_lite_clients", "Clients with a lease on lite subscriptions", clients as f64);
        families.counter("martlet_lite_topics_made", "Lite topics made", counters.lite_made as f64);
        families.counter(
            "martlet_lite_topics_ended",
            "Lite topics that ended after their time to live",
            counters.lite_ended as f64,
        );
        for (group, topic, count) in &figures.dead_letters {
            let labels = vec![("consumer_group", group.clone()), ("topic", topic.clone()), is_system(topic)];
            let value = Value::Counter(*count as f64);
            families.add("rocketmq_send_to_dlq_messages", "Messages moved to dead letters", labels, value);
        }
        families.gauge("martlet_open_slots", "Open slots in memory, over all groups", figures.open_slots as f64);
        let (most, limit) = figures.open_slots_most;
        let help = "Open slots of the group and queue in memory that has most";
        families.gauge("martlet_open_slots_most", help, most as f64);
        families.gauge("martlet_open_slots_limit", "Most open slots of one group and queue", limit as f64);
        let batches = Value::Histogram(figures.batch_messages.clone());
        families.add("martlet_batch_messages", "Messages stored per batch of the log", Vec::new(), batches);
        let batches = Value::Histogram(figures.batch_replies.clone());
        families.add("martlet_batch_replies", "Replies that waited for one batch", Vec::new(), batches);
        families.gauge("martlet_waiting_polls", "Polls waiting for a message", figures.waiting_polls as f64);
        let resident = figures.resident_entities as f64;
        families.gauge("martlet_resident_entities", "Queues and progress pages in memory", resident);
        let (used, budget) = figures.reply_bytes;
        families.gauge("martlet_reply_budget_used_bytes", "Bytes of replies under way", used as f64);
        families.gauge("martlet_reply_budget_bytes", "Most bytes of replies under way", budget as f64);
        for (reason, count) in &figures.refusals {
            let labels = vec![("reason", (*reason).to_owned())];
            families.add("martlet_refusals", "Requests refused", labels, Value::Counter(*count as f64));
        }
    }
}

/// Whether a topic is one of the broker's own.
fn is_system(topic: &str) -> (&'static str, String) {
    ("is_system", (topic == TRACE_TOPIC).to_string())
}

/// How long the calls of a protocol took.
fn latencies(protocol: &str, latencies: &[RpcLatency], families: &mut Families) {
    for series in latencies {
        let labels = vec![
            ("protocol_type", protocol.to_owned()),
            ("request_code", series.call.to_owned()),
            ("response_code", series.code.to_lowercase()),
            ("is_long_polling", series.long_polling.to_string()),
            ("result", series.result.to_owned()),
        ];
        let value = Value::Histogram(series.millis.clone());
        families.add("rocketmq_rpc_latency", "How long calls took, in milliseconds", labels, value);
    }
}

/// Clients choose their words, so only known ones become label values.
fn known_language(language: &str) -> String {
    const KNOWN: [&str; 13] = [
        "JAVA", "CPP", "DOT_NET", "DOTNET", "GOLANG", "GO", "RUST", "PYTHON", "PHP", "NODE_JS", "RUBY", "KOTLIN",
        "HTTP",
    ];
    if KNOWN.contains(&language) { language.to_owned() } else { "OTHER".to_owned() }
}

fn short(version: &str) -> String {
    version.chars().filter(|character| character.is_ascii_graphic()).take(16).collect()
}

#[cfg(test)]
mod tests;
