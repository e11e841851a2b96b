//! A message on its way in: every rule of the wire, then the record.
//!
//! Properties that the record has fields for become those; other names that clients may not use for themselves are kept as
//! system properties; all others are the user's. What the broker says of itself on the way out is not kept.

use crate::answer::Denied;
use crate::codec::message::sys;
use crate::codec::properties::{self, PROPERTY_STRING_BYTES_MAX};
use martlet_broker::NewMessage;
use martlet_model::record::{Field, RecordWriter};
use martlet_model::{MessageType, TopicType, UnixMillis, limits, names};

/// Delays by level, in seconds, from level 1 on.
const DELAY_LEVEL_SECONDS: [i64; 18] =
    [1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1200, 1800, 3600, 7200];
/// Bytes of what the broker adds to the properties of a message, without names.
const ADDED_BYTES: usize = 256;
/// Keys by which a message can be found; the store takes so many, with its id.
const KEYS_FOUND_BY_MAX: usize = 63;
/// System properties besides `names::RESERVED_PROPERTIES`.
const MORE_SYSTEM_PROPERTIES: [&str; 12] = [
    "__transactionId__",
    "TRANSACTION_CHECK_TIMES",
    "CHECK_IMMUNITY_TIME_IN_SECONDS",
    "TRANS_OFFSET",
    "INNER_MULTI_DISPATCH",
    "INNER_NUM",
    "INNER_BASE",
    "TIMER_ROLL_LABEL",
    "ORIGIN_GROUP",
    "REDIRECT",
    "PROPERTY_FORWARD_QUEUE_ID",
    "TRACE_CONTEXT",
];
/// What the broker says of itself, and what is another hand-out's.
const NOT_KEPT: [&str; 4] = ["MSG_REGION", "TRACE_ON", "CLUSTER", "POP_CK"];
/// Properties with this prefix are between a client and its library.
const TRANSIENT: &str = "__RMQ.TRANSIENT.";
/// System flags that say how a body is to be read.
const KEPT_SYS_FLAGS: i32 = sys::COMPRESSED | sys::COMPRESSION | 0x2 | 0x40 | 0x80;

/// How long a message of this level waits, in milliseconds; higher levels are the highest. `None`: not at all.
pub(crate) fn delay_level_millis(level: i64) -> Option<i64> {
    let index = usize::try_from(level.checked_sub(1)?).ok()?;
    let seconds = DELAY_LEVEL_SECONDS.get(index.min(DELAY_LEVEL_SECONDS.len() - 1))?;
    Some(seconds * 1_000)
}

/// What holds for all messages of a request.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// When it came.
    pub now: UnixMillis,
    /// Where from, as text.
    pub peer: &'a str,
    /// What the topic takes.
    pub kind: TopicType,
    /// The queue its sender chose.
    pub queue: Option<u32>,
    /// System flags.
    pub sys_flag: i32,
    /// When it was made, ms.
    pub born: i64,
    /// Whether it has several messages.
    pub is_batch: bool,
    /// Latest delivery timestamp, in milliseconds from now.
    pub delay_max: i64,
    /// Names that are added to messages on their way out, in bytes.
    pub names_bytes: usize,
}

/// A message that was accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub message: NewMessage,
    /// Whether it waits for a time of its own, rather than for that of a level: such a message can be recalled.
    pub has_timer: bool,
}

/// Checks one message and writes its record; `new_id` makes an id for one that has none.
pub(crate) fn accept(
    request: &Request<'_>,
    text: &str,
    flag: i32,
    body: &[u8],
    new_id: impl FnOnce() -> String,
) -> Result<Accepted, Denied> {
    if body.is_empty() {
        return Err(Denied::illegal("body is empty"));
    }
    if body.len() > limits::BODY_BYTES_MAX {
        let (bytes, max) = (body.len(), limits::BODY_BYTES_MAX);
        return Err(Denied::illegal(format!("body has {bytes} bytes, the limit is {max}")));
    }
    let bytes = text.len() + request.names_bytes + ADDED_BYTES;
    if bytes > PROPERTY_STRING_BYTES_MAX {
        let (bytes, max) = (text.len(), PROPERTY_STRING_BYTES_MAX - request.names_bytes - ADDED_BYTES);
        return Err(Denied::illegal(format!("properties have {bytes} bytes, the limit is {max}")));
    }
    let properties = properties::parse(text).map_err(|error| Denied::illegal(error.to_string()))?;
    let named = Named::of(&properties);
    let message_id = named.unique_key.map_or_else(new_id, str::to_owned);
    if message_id.len() > limits::MESSAGE_ID_BYTES_MAX {
        let (bytes, max) = (message_id.len(), limits::MESSAGE_ID_BYTES_MAX);
        return Err(Denied::illegal(format!("property UNIQ_KEY has {bytes} bytes, the limit is {max}")));
    }
    let is_half = named.half.is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let delivery = delivery(request, &named)?;
    if request.is_batch && (is_half || delivery.is_some()) {
        return Err(Denied::illegal("a message of a batch has a delay or a transaction, which batches do not take"));
    }
    let priority = named.priority.map(|value| number("_SYS_MSG_PRIORITY_", value)).transpose()?;
    let priority = match priority.map(i32::try_from) {
        Some(Ok(priority)) if priority >= 0 => Some(priority),
        None => None,
        Some(_) => return Err(Denied::illegal("property _SYS_MSG_PRIORITY_ is not from 0 to 2147483647")),
    };
    let lite_topic = named.lite_topic;
    if let Some(lite) = lite_topic {
        names::check_lite_topic(lite).map_err(|error| Denied::illegal(error.to_string()))?;
    }
    // Clients of this protocol keep an order by queue; where the broker is to keep it, a queue's messages are one group.
    let message_group = match (named.sharding_key, request.kind, request.queue) {
        (Some(key), ..) => Some(key.to_owned()),
        (None, TopicType::Fifo, Some(queue)) => Some(format!("queue-{queue}")),
        (None, TopicType::Fifo, None) => Some("queue-0".to_owned()),
        _ => None,
    };
    let delivery_at = delivery.as_ref().map(|delivery| delivery.at);
    let message_type = match request.kind {
        _ if is_half => MessageType::Transaction,
        _ if delivery_at.is_some() => MessageType::Delay,
        TopicType::Lite if lite_topic.is_some() => MessageType::Lite,
        TopicType::Priority if priority.is_some() => MessageType::Priority,
        TopicType::Fifo => MessageType::Fifo,
        TopicType::Mixed if message_group.is_some() => MessageType::Fifo,
        _ => MessageType::Normal,
    };

    let mut writer = RecordWriter::with_capacity(body.len() + text.len() + message_id.len() + 160);
    // In front, where alone it counts.
    if let Some(queue) = request.queue.filter(|_| !matches!(request.kind, TopicType::Lite | TopicType::Priority)) {
        writer.field(Field::Queue(queue));
    }
    writer.field(Field::MessageId(&message_id));
    let mut keys = Vec::new();
    for &(name, value) in &properties {
        match name {
            "TAGS" => {
                writer.field(Field::Tag(value));
            }
            "KEYS" => {
                for key in value.split(' ').filter(|key| !key.is_empty()) {
                    writer.field(Field::Key(key));
                    if keys.len() < KEYS_FOUND_BY_MAX {
                        keys.push(key.to_owned());
                    }
                }
            }
            "UNIQ_KEY" | "__SHARDINGKEY" | "_SYS_MSG_PRIORITY_" | "__LITE_TOPIC" => {}
            name if NOT_KEPT.contains(&name) || name.starts_with(TRANSIENT) => {}
            name if is_system(name) => {
                writer.field(Field::SystemProperty(name, value));
            }
            name => {
                writer.field(Field::Property(name, value));
            }
        }
    }
    writer.field(Field::BornTimestamp(request.born)).field(Field::BornHost(request.peer));
    if let Some(group) = &message_group {
        writer.field(Field::MessageGroup(group));
    }
    if let Some(at) = delivery_at {
        writer.field(Field::DeliveryTimestamp(at.0));
    }
    if let Some(context) = named.trace_context {
        writer.field(Field::TraceContext(context));
    }
    if request.sys_flag & sys::COMPRESSED != 0 {
        writer.field(Field::Compressed);
    }
    if message_type != MessageType::Normal {
        writer.field(Field::MessageType(message_type));
    }
    if let Some(lite) = lite_topic {
        writer.field(Field::LiteTopic(lite));
    }
    if let Some(priority) = priority {
        writer.field(Field::Priority(priority));
    }
    if flag != 0 {
        writer.field(Field::Flag(flag));
    }
    if request.sys_flag & KEPT_SYS_FLAGS != 0 {
        writer.field(Field::SysFlag(request.sys_flag & KEPT_SYS_FLAGS));
    }
    let immunity_millis = match named.immunity.filter(|_| is_half) {
        Some(value) => immunity(value)?,
        None => None,
    };
    let record = writer.finish(body);
    let message =
        NewMessage { message_type, message_id, keys, deliver_at: delivery_at, immunity_millis, polled: false, record };
    Ok(Accepted { message, has_timer: delivery.is_some_and(|delivery| !delivery.by_level) })
}

/// Whether users may not name a property so.
pub(crate) fn is_system(name: &str) -> bool {
    names::is_reserved_property(name) || MORE_SYSTEM_PROPERTIES.contains(&name)
}

/// From now and a property's number to a time.
type TimeOf = fn(UnixMillis, i64) -> UnixMillis;

/// Properties that say when, in the order in which they count.
const TIMERS: [(&str, TimeOf); 4] = [
    ("TIMER_DELAY_SEC", |now, seconds| now.plus(seconds.saturating_mul(1_000))),
    ("TIMER_DELAY_MS", |now, millis| now.plus(millis)),
    ("TIMER_DELIVER_MS", |_, millis| UnixMillis(millis)),
    // Of clients that were made for another vendor's brokers.
    ("__STARTDELIVERTIME", |_, millis| UnixMillis(millis)),
];

/// Values of properties that say what kind of message it is.
#[derive(Default)]
struct Named<'a> {
    unique_key: Option<&'a str>,
    half: Option<&'a str>,
    delay_level: Option<&'a str>,
    /// Of each of [`TIMERS`].
    timers: [Option<&'a str>; TIMERS.len()],
    priority: Option<&'a str>,
    lite_topic: Option<&'a str>,
    sharding_key: Option<&'a str>,
    trace_context: Option<&'a str>,
    immunity: Option<&'a str>,
}

impl<'a> Named<'a> {
    /// Those of a message, found in one go.
    fn of(properties: &[(&'a str, &'a str)]) -> Self {
        let mut named = Self::default();
        for &(name, value) in properties {
            let place = match name {
                "UNIQ_KEY" => &mut named.unique_key,
                "TRAN_MSG" => &mut named.half,
                "DELAY" => &mut named.delay_level,
                "_SYS_MSG_PRIORITY_" => &mut named.priority,
                "__LITE_TOPIC" => &mut named.lite_topic,
                "__SHARDINGKEY" => &mut named.sharding_key,
                "TRACE_CONTEXT" => &mut named.trace_context,
                "CHECK_IMMUNITY_TIME_IN_SECONDS" => &mut named.immunity,
                name => match TIMERS.iter().zip(&mut named.timers).find(|((timer, _), _)| *timer == name) {
                    Some((_, timer)) => timer,
                    None => continue,
                },
            };
            *place = Some(value);
        }
        named
    }
}

/// When a message is to be delivered.
struct Delivery {
    at: UnixMillis,
    by_level: bool,
}

fn delivery(request: &Request<'_>, named: &Named<'_>) -> Result<Option<Delivery>, Denied> {
    let now = request.now;
    if let Some(value) = named.delay_level
        && let Some(millis) = delay_level_millis(number("DELAY", value)?)
    {
        return Ok(Some(Delivery { at: now.plus(millis), by_level: true }));
    }
    for ((name, at), value) in TIMERS.into_iter().zip(named.timers) {
        let Some(value) = value else { continue };
        let at = at(now, number(name, value)?);
        let ahead = at.since(now);
        if ahead > request.delay_max {
            let max = request.delay_max;
            return Err(Denied::illegal(format!("property {name} is {ahead} ms ahead, the limit is {max} ms")));
        }
        return Ok((ahead > 0).then_some(Delivery { at, by_level: false }));
    }
    Ok(None)
}

fn number(name: &str, value: &str) -> Result<i64, Denied> {
    value.trim().parse().map_err(|_| {
        let shown: String = value.chars().take(64).collect();
        Denied::illegal(format!("property {name} is {shown:?}, not a whole number"))
    })
}

/// How long nobody is asked about a half message, in milliseconds; negative: as long as the broker says.
fn immunity(value: &str) -> Result<Option<i64>, Denied> {
    let seconds = number("CHECK_IMMUNITY_TIME_IN_SECONDS", value)?;
    let max = limits::TRANSACTION_IMMUNITY_MILLIS_MAX / 1_000;
    match seconds {
        ..0 => Ok(None),
        seconds if seconds <= max => Ok(Some(seconds * 1_000)),
        seconds => {
            Err(Denied::illegal(format!("property CHECK_IMMUNITY_TIME_IN_SECONDS is {seconds}, the limit is {max}")))
        }
    }
}
