//! The one table of configuration keys. `--help`, the flags, the environment variables and `docs/configuration.md` are
//! made from it.

use super::{Advertise, Config, Durability, Listen};
use martlet_broker::{Location, Scheme};
use std::ops::RangeInclusive;

/// One key.
pub struct Key {
    /// Its name in the file.
    pub name: &'static str,
    /// Heading it stands under.
    pub section: &'static str,
    /// What its value looks like in `--help`.
    pub placeholder: &'static str,
    /// The default as text; empty if it is unset.
    pub default: &'static str,
    /// What it means, in one sentence.
    pub meaning: &'static str,
    /// Why this default, and what the other choice costs.
    pub cost: &'static str,
    /// What is accepted, for error messages: "it takes …".
    pub accepts: &'static str,
    /// The reference broker's name for it; empty if it has none.
    pub reference: &'static str,
    /// Puts a value in, or says `None`.
    pub set: fn(&mut Config, &str) -> Option<()>,
}

impl Key {
    /// `--retention-hours`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name.replace('_', "-"))
    }

    /// `MARTLET_RETENTION_HOURS`.
    pub fn variable(&self) -> String {
        format!("{}{}", super::ENV_PREFIX, self.name.to_uppercase())
    }
}

fn put<T>(place: &mut T, value: Option<T>) -> Option<()> {
    *place = value?;
    Some(())
}

fn number(text: &str, range: RangeInclusive<u32>) -> Option<u32> {
    text.replace('_', "").parse().ok().filter(|number| range.contains(number))
}

fn listen_or_off(text: &str) -> Option<Option<Listen>> {
    if text == "off" { Some(None) } else { Listen::parse(text).map(Some) }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Names that stand in routes and metrics: what a topic may be called, without `%` and `|`.
fn name(text: &str) -> Option<String> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    (!text.is_empty() && text.len() <= 64 && text.bytes().all(legal)).then(|| text.to_owned())
}

fn store(text: &str) -> Option<Option<Location>> {
    if text.is_empty() {
        return Some(None);
    }
    // Memory is for tests: nothing of it would be left.
    text.parse().ok().filter(|location: &Location| location.scheme != Scheme::Memory).map(Some)
}

fn path(text: &str) -> Option<std::path::PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

const ADDRESS: &str = "IP:PORT, localhost:PORT, or a PORT on all interfaces";
const ADDRESS_OR_OFF: &str = "IP:PORT, localhost:PORT, a PORT on all interfaces, or off";
const DIAL: &str = "HOST or HOST:PORT, with a name or an IP address";
const NAME: &str = "1 to 64 letters, digits, '_', '-' and '.'";
const BOOL: &str = "true or false";

/// All keys, in the order people read about them.
pub const KEYS: &[Key] = &[
    Key {
        name: "data",
        section: "Where things are",
        placeholder: "DIR",
        default: "./martlet-data",
        meaning: "Folder with everything the broker keeps: messages, progress, topics and groups, certificate.",
        cost: "Created if missing. One process at a time. Put it on a disk whose syncs are fast: they bound latency.",
        accepts: "a folder",
        reference: "storePathRootDir",
        set: |config, text| put(&mut config.data, path(text)),
    },
    Key {
        name: "store",
        section: "Where things are",
        placeholder: "URL",
        default: "",
        meaning: "Bucket that keeps messages, progress, topics and groups instead of the data folder: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or file:///FOLDER.",
        cost: "Durable as the bucket is, and the process may be started again elsewhere; a send waits for a PUT. \
               Credentials come from the environment, as the store's own tools read them (AWS_*, GOOGLE_*, AZURE_*). A second \
               process on the same place takes it over from the first.",
        accepts: "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER",
        reference: "",
        set: |config, text| put(&mut config.store, store(text)),
    },
    Key {
        name: "grpc_listen",
        section: "Where things are",
        placeholder: "ADDRESS",
        default: "0.0.0.0:8081",
        meaning: "Where 5.x clients and the command line connect, with TLS or plaintext.",
        cost: "All interfaces, as containers need it; without access control (accounts) use localhost:8081 or a \
               firewall on an open network.",
        accepts: ADDRESS,
        reference: "grpcServerPort (proxy)",
        set: |config, text| put(&mut config.grpc_listen, Listen::parse(text)),
    },
    Key {
        name: "nameserver_listen",
        section: "Where things are",
        placeholder: "ADDRESS",
        default: "0.0.0.0:9876",
        meaning: "Where 4.x and 5.x TCP clients, mqadmin and dashboards expect the name server, with TLS or plaintext.",
        cost: "As for grpc_listen. This port takes whatever remoting_listen takes, too; off if no such client is to come.",
        accepts: ADDRESS_OR_OFF,
        reference: "listenPort (name server)",
        set: |config, text| put(&mut config.nameserver_listen, listen_or_off(text)),
    },
    Key {
        name: "remoting_listen",
        section: "Where things are",
        placeholder: "ADDRESS",
        default: "0.0.0.0:10911",
        meaning: "Where TCP clients expect the broker, with TLS or plaintext; two ports below it, too, for old clients that go there.",
        cost: "As for grpc_listen. Off, the name server's port is told to clients for this one.",
        accepts: ADDRESS_OR_OFF,
        reference: "listenPort (broker)",
        set: |config, text| put(&mut config.remoting_listen, listen_or_off(text)),
    },
    Key {
        name: "http_listen",
        section: "Where things are",
        placeholder: "ADDRESS",
        default: "0.0.0.0:8080",
        meaning: "Where clients of the HTTP SDK protocol connect, with TLS or plaintext.",
        cost: "As for grpc_listen; off if no such client is to come.",
        accepts: ADDRESS_OR_OFF,
        reference: "",
        set: |config, text| put(&mut config.http_listen, listen_or_off(text)),
    },
    Key {
        name: "admin_listen",
        section: "Where things are",
        placeholder: "ADDRESS",
        default: "0.0.0.0:8082",
        meaning: "Where /metrics, /healthz and /readyz are.",
        cost: "It shows names of topics and groups, and changes nothing.",
        accepts: ADDRESS,
        reference: "metricsPromExporterPort",
        set: |config, text| put(&mut config.admin_listen, Listen::parse(text)),
    },
    Key {
        name: "advertise",
        section: "Where things are",
        placeholder: "HOST[:PORT]",
        default: "",
        meaning: "What clients are told to dial, on every listener; the port is that of the gRPC listener.",
        cost: "Unset, clients are told the address they came by, which works behind Docker and NAT as it is. Set it \
               when their first connection goes through something that their later ones should not.",
        accepts: DIAL,
        reference: "brokerIP1",
        set: |config, text| put(&mut config.advertise, Advertise::parse(text)),
    },
    Key {
        name: "grpc_advertise",
        section: "Where things are",
        placeholder: "HOST[:PORT]",
        default: "",
        meaning: "What clients of the gRPC port are told to dial, if it differs from advertise.",
        cost: "For a load balancer or a port mapping of this listener alone.",
        accepts: DIAL,
        reference: "localServeAddr (proxy)",
        set: |config, text| put(&mut config.grpc_advertise, Advertise::parse(text)),
    },
    Key {
        name: "remoting_advertise",
        section: "Where things are",
        placeholder: "HOST[:PORT]",
        default: "",
        meaning: "What TCP clients are told to dial, if it differs from advertise. A name is looked up at the start: ids of messages \
                  carry its address.",
        cost: "For a load balancer or a port mapping of this listener alone.",
        accepts: DIAL,
        reference: "brokerIP1",
        set: |config, text| put(&mut config.remoting_advertise, Advertise::parse(text)),
    },
    Key {
        name: "broker_name",
        section: "Names",
        placeholder: "NAME",
        default: "broker-a",
        meaning: "Name of this broker in routes.",
        cost: "Keep it for the life of the data folder: clients remember queues by it.",
        accepts: NAME,
        reference: "brokerName",
        set: |config, text| put(&mut config.broker_name, name(text)),
    },
    Key {
        name: "cluster_name",
        section: "Names",
        placeholder: "NAME",
        default: "DefaultCluster",
        meaning: "Name of the cluster in routes and metrics.",
        cost: "Scripts for the reference broker expect the default.",
        accepts: NAME,
        reference: "brokerClusterName",
        set: |config, text| put(&mut config.cluster_name, name(text)),
    },
    Key {
        name: "tls_cert",
        section: "TLS",
        placeholder: "FILE",
        default: "",
        meaning: "Certificate chain in PEM, with tls_key.",
        cost: "Unset, a self-signed certificate is made on first start and kept in the data folder. Plaintext is \
               always accepted on the same port.",
        accepts: "a file",
        reference: "tlsCertPath (proxy)",
        set: |config, text| put(&mut config.tls_cert, path(text).map(Some)),
    },
    Key {
        name: "tls_key",
        section: "TLS",
        placeholder: "FILE",
        default: "",
        meaning: "Private key in PEM, with tls_cert.",
        cost: "It must be readable by the broker only; that is not checked.",
        accepts: "a file",
        reference: "tlsKeyPath (proxy)",
        set: |config, text| put(&mut config.tls_key, path(text).map(Some)),
    },
    Key {
        name: "accounts",
        section: "Access control",
        placeholder: "FILE",
        default: "",
        meaning: "File with an access key, a space and its secret on each line. Requests of every protocol must then be signed by one of \
                  these accounts, which may do everything, or by a user made with mqadmin.",
        cost: "Unset, signatures are not looked at, and whoever reaches a port may do everything. Signatures hide nothing: where the network \
               is not to be trusted, clients need TLS, too. The file is read at the start; it should be readable by the broker only, which is not checked.",
        accepts: "a file",
        reference: "authenticationEnabled, initAuthenticationUser",
        set: |config, text| put(&mut config.accounts, path(text).map(Some)),
    },
    Key {
        name: "authorization",
        section: "Access control",
        placeholder: "BOOL",
        default: "false",
        meaning: "Users made with mqadmin need a policy for each topic and group. It needs accounts.",
        cost: "Off, every user may send, consume and administer, but not make users; the admin service of gRPC, which martlet's own commands \
               use, always needs a super user.",
        accepts: BOOL,
        reference: "authorizationEnabled",
        set: |config, text| put(&mut config.authorization, flag(text)),
    },
    Key {
        name: "auto_create_topics",
        section: "Topics and groups",
        placeholder: "BOOL",
        default: "true",
        meaning: "A send to a topic that does not exist creates it, as normal topic with 8 queues.",
        cost: "Handy for trying out; switch it off where a misspelt topic should be an error.",
        accepts: BOOL,
        reference: "autoCreateTopicEnable",
        set: |config, text| put(&mut config.auto_create_topics, flag(text)),
    },
    Key {
        name: "auto_create_groups",
        section: "Topics and groups",
        placeholder: "BOOL",
        default: "true",
        meaning: "A consumer of a group that does not exist creates it, with default retries.",
        cost: "As for topics.",
        accepts: BOOL,
        reference: "autoCreateSubscriptionGroup",
        set: |config, text| put(&mut config.auto_create_groups, flag(text)),
    },
    Key {
        name: "open_slots_max",
        section: "Topics and groups",
        placeholder: "COUNT",
        default: "100000",
        meaning: "Most messages of one group and queue that may be in flight or waiting for retry.",
        cost: "Beyond it the group gets only retries. Each costs some bytes of memory while it is open.",
        accepts: "a whole number from 32 to 10000000",
        reference: "popInflightMessageThreshold",
        set: |config, text| put(&mut config.open_slots_max, number(text, 32..=10_000_000)),
    },
    Key {
        name: "delay_max_hours",
        section: "Topics and groups",
        placeholder: "HOURS",
        default: "960",
        meaning: "How far ahead the delivery timestamp of a message may be; 960 hours are 40 days.",
        cost: "A message that waits takes room on the disk until it is due, and none in memory.",
        accepts: "whole hours from 1 to 87600",
        reference: "maxDelayTimeMills (proxy), timerMaxDelaySec",
        set: |config, text| put(&mut config.delay_max_hours, number(text, 1..=87_600)),
    },
    Key {
        name: "mixed_topics",
        section: "Topics and groups",
        placeholder: "BOOL",
        default: "false",
        meaning: "Topics of type mixed may be made: they take normal, ordered, delayed and transactional messages.",
        cost: "A topic of one type tells a sender at once that it sends something else than consumers expect.",
        accepts: BOOL,
        reference: "enableMixedMessageType",
        set: |config, text| put(&mut config.mixed_topics, flag(text)),
    },
    Key {
        name: "transaction_immunity_seconds",
        section: "Topics and groups",
        placeholder: "SECONDS",
        default: "6",
        meaning: "How long after the sending of a transactional message its producer is left alone, unless the message says so.",
        cost: "Shorter asks about transactions that are still under way; longer lets those of a producer that died wait.",
        accepts: "whole seconds from 0 to 3600",
        reference: "transactionTimeOut",
        set: |config, text| put(&mut config.transaction_immunity_seconds, number(text, 0..=3_600)),
    },
    Key {
        name: "transaction_check_interval_seconds",
        section: "Topics and groups",
        placeholder: "SECONDS",
        default: "30",
        meaning: "Time between two checks of a transaction that has not ended.",
        cost: "Each check sends the message to a producer and writes a hundred bytes to the disk.",
        accepts: "whole seconds from 1 to 86400",
        reference: "transactionCheckInterval",
        set: |config, text| put(&mut config.transaction_check_interval_seconds, number(text, 1..=86_400)),
    },
    Key {
        name: "transaction_checks_max",
        section: "Topics and groups",
        placeholder: "COUNT",
        default: "15",
        meaning: "How often producers are asked about a transaction before it is given up; only checks that were sent count.",
        cost: "What is given up is kept as long as the topic keeps messages, listed, and ended by martlet transaction.",
        accepts: "a whole number from 1 to 1000000",
        reference: "transactionCheckMax",
        set: |config, text| put(&mut config.transaction_checks_max, number(text, 1..=1_000_000)),
    },
    Key {
        name: "durability",
        section: "Messages on disk",
        placeholder: "PROMISE",
        default: "fdatasync",
        meaning: "When a send is acknowledged: once the disk has it (fdatasync), or once the operating system has it.",
        cost: "page-cache-only-loses-data-on-power-loss is faster on slow disks, and loses acknowledged messages when \
               the machine loses power. Either way there is one disk and no replica.",
        accepts: "fdatasync or page-cache-only-loses-data-on-power-loss",
        reference: "flushDiskType",
        set: |config, text| put(&mut config.durability, Durability::parse(text)),
    },
    Key {
        name: "retention_hours",
        section: "Messages on disk",
        placeholder: "HOURS",
        default: "72",
        meaning: "How long messages are kept, consumed or not, unless their topic says otherwise.",
        cost: "Longer needs more disk; what a group has not consumed in time is dropped, and counted in a metric.",
        accepts: "whole hours from 1 to 87600",
        reference: "fileReservedTime",
        set: |config, text| put(&mut config.retention_hours, number(text, 1..=87_600)),
    },
    Key {
        name: "disk_watermark_percent",
        section: "Messages on disk",
        placeholder: "PERCENT",
        default: "85",
        meaning: "Share of the room the log has, its own files and what is free on the disk, beyond which the oldest messages go before their time.",
        cost: "Higher keeps more and leaves less room for other things on the disk; what these take is not counted.",
        accepts: "a whole number from 10 to 99",
        reference: "diskMaxUsedSpaceRatio",
        set: |config, text| put(&mut config.disk_watermark_percent, number(text, 10..=99)),
    },
    Key {
        name: "segment_mib",
        section: "Messages on disk",
        placeholder: "MIB",
        default: "128",
        meaning: "Size of one log segment, the unit in which space is given back.",
        cost: "Larger segments give space back later and take longer to replay after a crash.",
        accepts: "MiB, a whole number from 16 to 1024",
        reference: "mappedFileSizeCommitLog",
        set: |config, text| put(&mut config.segment_mib, number(text, 16..=1024)),
    },
    Key {
        name: "store_flush_ms",
        section: "Messages in a bucket",
        placeholder: "MILLISECONDS",
        default: "50",
        meaning: "Least time between two flushes to the bucket; each is one PUT with everything that came meanwhile.",
        cost: "Shorter answers sooner under load and pays for more PUTs: at 50 ms at most 20 a second. Alone, a send \
               waits for its PUT only.",
        accepts: "milliseconds, a whole number from 0 to 10000",
        reference: "",
        set: |config, text| put(&mut config.store_flush_ms, number(text, 0..=10_000)),
    },
    Key {
        name: "store_table_mib",
        section: "Messages in a bucket",
        placeholder: "MIB",
        default: "16",
        meaning: "Size from which what is in memory is written to the bucket as a table.",
        cost: "Larger tables need fewer requests; up to six of them are held in memory, and a start after a crash reads up \
               to that again.",
        accepts: "MiB, a whole number from 1 to 256",
        reference: "",
        set: |config, text| put(&mut config.store_table_mib, number(text, 1..=256)),
    },
    Key {
        name: "store_cache_mib",
        section: "Messages in a bucket",
        placeholder: "MIB",
        default: "48",
        meaning: "Memory for what was read from the bucket, a quarter of it for indexes of tables.",
        cost: "Less means more requests, and slower reads for consumers that are behind.",
        accepts: "MiB, a whole number from 4 to 65536",
        reference: "",
        set: |config, text| put(&mut config.store_cache_mib, number(text, 4..=65_536)),
    },
    Key {
        name: "store_compactions",
        section: "Messages in a bucket",
        placeholder: "COUNT",
        default: "2",
        meaning: "Compactions of tables in the bucket at a time.",
        cost: "Each takes memory and a processor while it runs. With too few, tables pile up, and in the end writes wait.",
        accepts: "a whole number from 1 to 16",
        reference: "",
        set: |config, text| put(&mut config.store_compactions, number(text, 1..=16)),
    },
    Key {
        name: "store_garbage_minutes",
        section: "Messages in a bucket",
        placeholder: "MINUTES",
        default: "5",
        meaning: "Age from which tables and pieces of the log that nothing needs any more are deleted from the bucket; it is looked for \
                  them as often.",
        cost: "Later means more bytes to pay for. Sooner gives a process that is slow less time to finish reading what another \
               has replaced meanwhile.",
        accepts: "minutes, a whole number from 1 to 1440",
        reference: "",
        set: |config, text| put(&mut config.store_garbage_minutes, number(text, 1..=1_440)),
    },
    Key {
        name: "tail_cache_mib",
        section: "Memory and processors",
        placeholder: "MIB",
        default: "16",
        meaning: "Memory for the newest messages, so that consumers that keep up never read the disk.",
        cost: "More helps consumers that are a little behind; it is memory the process holds.",
        accepts: "MiB, a whole number from 1 to 65536",
        reference: "",
        set: |config, text| put(&mut config.tail_cache_mib, number(text, 1..=65_536)),
    },
    Key {
        name: "workers",
        section: "Memory and processors",
        placeholder: "COUNT",
        default: "0",
        meaning: "Threads that serve connections; 0: one per processor.",
        cost: "More than processors helps nobody.",
        accepts: "a whole number from 0 to 1024",
        reference: "grpcThreadPoolNums (proxy)",
        set: |config, text| put(&mut config.workers, number(text, 0..=1024).map(|count| count as usize)),
    },
    Key {
        name: "drain_seconds",
        section: "Start and stop",
        placeholder: "SECONDS",
        default: "10",
        meaning: "How long a stop waits for requests under way, after SIGTERM or Ctrl-C. A second signal stops at once.",
        cost: "Nothing acknowledged is lost either way; a client cut off repeats its request.",
        accepts: "whole seconds from 0 to 600",
        reference: "",
        set: |config, text| put(&mut config.drain_seconds, number(text, 0..=600)),
    },
    Key {
        name: "log_level",
        section: "Start and stop",
        placeholder: "LEVEL",
        default: "info",
        meaning: "What is logged to standard error: error, warn, info, debug or trace, or a list such as \
                  info,martlet_store=debug.",
        cost: "debug and below cost speed.",
        accepts: "error, warn, info, debug or trace, or a list such as info,martlet_store=debug",
        reference: "rocketmq.log.level",
        set: |config, text| {
            let legal = !text.is_empty() && text.parse::<tracing_subscriber::EnvFilter>().is_ok();
            put(&mut config.log_level, legal.then(|| text.to_owned()))
        },
    },
];
