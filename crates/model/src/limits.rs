//! Default limits, with their units. Source: the reference's defaults (grpc.md section 8) unless said otherwise.

/// Largest message body, in bytes.
pub const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest body that a client has compressed, in bytes: clients look at its length before, and what cannot be compressed becomes
/// a little longer.
pub const COMPRESSED_BODY_BYTES_MAX: usize = BODY_BYTES_MAX + 16 * 1024;
/// Largest sum of a message's property keys and values, tag and keys, in UTF-8 bytes.
pub const PROPERTIES_BYTES_MAX: usize = 16 * 1024;
/// Most user properties of one message.
pub const PROPERTIES_MAX: usize = 128;
/// Longest topic name, in characters.
pub const TOPIC_CHARS_MAX: usize = 127;
/// Longest consumer group name, in characters.
pub const GROUP_CHARS_MAX: usize = 120;
/// Longest message group, in UTF-8 bytes.
pub const MESSAGE_GROUP_BYTES_MAX: usize = 63;
/// Longest name of a lite topic, in bytes.
pub const LITE_TOPIC_BYTES_MAX: usize = 64;
/// Lite topics one client may subscribe to, unless its group says otherwise.
pub const LITE_SUBSCRIPTIONS_DEFAULT: u32 = 2_000;
/// The same for a group without a quota of its own (-1), so that what is kept of a client has a bound. Our own limit.
pub const LITE_SUBSCRIPTIONS_MAX: u32 = 50_000;
/// Lite topics of one parent topic, unless it says otherwise. Our own limit.
pub const LITE_TOPICS_DEFAULT: u64 = 10_000_000;
/// A client's lite subscriptions end when neither a synchronisation nor a poll came for this long, in milliseconds.
pub const LITE_LEASE_MILLIS: i64 = 180_000;
/// Longest message id, in UTF-8 bytes. The reference has no limit; ids of clients have 34 or 32 characters.
pub const MESSAGE_ID_BYTES_MAX: usize = 256;
/// Most messages in one send request. The reference has no limit but its 130 MiB of inbound bytes.
pub const SEND_BATCH_MAX: usize = 1024;
/// Most messages in one receive; more is cut down silently, as the reference does.
pub const RECEIVE_BATCH_MAX: u32 = 32;
/// Most bytes of records in one reply, unless a single message is larger.
pub const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most receipt handles in one ack request. Our own limit.
pub const ACK_BATCH_MAX: usize = 1024;
/// Most deliveries of a message, the first included. Our own limit.
pub const GROUP_ATTEMPTS_MAX: u32 = 10_000;
/// Shortest and longest invisible duration of a receive, in milliseconds.
pub const RECEIVE_INVISIBLE_MILLIS: (i64, i64) = (10_000, 12 * 3_600_000);
/// Longest invisible duration of a change, in milliseconds; the shortest is 0.
pub const CHANGE_INVISIBLE_MILLIS_MAX: i64 = 12 * 3_600_000;
/// Invisible duration of a receive with `auto_renew`, in milliseconds; extended by the same amount while the client lives.
pub const AUTO_RENEW_SLICE_MILLIS: i64 = 60_000;
/// How long one hand-out is renewed in all, in milliseconds.
pub const AUTO_RENEW_TOTAL_MILLIS: i64 = 3 * 3_600_000;
/// Shortest and longest poll, in milliseconds.
pub const POLL_MILLIS: (i64, i64) = (5_000, 20_000);
/// A client that neither heartbeats nor holds a stream for this long is gone, in milliseconds.
pub const CLIENT_EXPIRY_MILLIS: i64 = 120_000;
/// Deliveries of a message before it becomes a dead letter: the first and 16 retries.
pub const ATTEMPTS_MAX: u32 = 17;
/// Open slots (in flight or waiting for retry) of one group and queue; beyond it only retries are served. Our own limit.
pub const OPEN_SLOTS_MAX: usize = 100_000;
/// Messages are kept this long unless their topic says otherwise, in milliseconds (72 h).
pub const RETENTION_MILLIS: i64 = 72 * 3_600_000;
/// Latest delivery timestamp, in milliseconds from the message's arrival (40 days). The reference's proxy takes a day.
pub const DELAY_MILLIS_MAX: i64 = 40 * 86_400_000;
/// How long after the sending of a half message no producer is asked about its transaction, unless the message says so, in
/// milliseconds.
pub const TRANSACTION_IMMUNITY_MILLIS: i64 = 6_000;
/// Longest such time that a message may ask for, in milliseconds.
pub const TRANSACTION_IMMUNITY_MILLIS_MAX: i64 = 3_600_000;
/// Time between two checks of a transaction, in milliseconds.
pub const TRANSACTION_CHECK_INTERVAL_MILLIS: i64 = 30_000;
/// Checks of a transaction, after which it is given up.
pub const TRANSACTION_CHECKS_MAX: u32 = 15;
/// Producers that ask for half messages by themselves get one no longer when it is so old, in milliseconds (4 h).
/// Source: product.md LIM-15.
pub const TRANSACTION_POLLED_MILLIS_MAX: i64 = 4 * 3_600_000;
/// Message ids that one shard remembers to recognise send retries, of all topics that ask for it; about 40 MB. Our own limit.
pub const DEDUPLICATION_IDS_MAX: usize = 262_144;
/// Bytes of messages that are read back for that when a shard is opened. Our own limit.
pub const DEDUPLICATION_READ_BYTES_MAX: u64 = 256 << 20;
/// Queues of an auto-created topic.
pub const TOPIC_QUEUES_DEFAULT: u32 = 8;
/// Most queues of one topic and shard. Our own limit.
pub const TOPIC_QUEUES_MAX: u32 = 1024;
/// Largest gRPC message accepted: 32 bodies of 4 MiB and some.
pub const INBOUND_BYTES_MAX: usize = 136_314_880;
