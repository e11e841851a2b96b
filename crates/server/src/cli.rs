//! The command line: `martlet` alone is the broker, with a subcommand it is a client of one.

use crate::config::keys::KEYS;
use crate::duration::{parse_millis, parse_time};
use clap::{Arg, ArgMatches, Args, Command, Subcommand, ValueEnum};
use martlet_broker::auth::Secret;
use martlet_broker::copy::Place;
use std::path::PathBuf;

const ABOUT: &str = "A message broker for RocketMQ clients, in one process.\n\n\
    Without a subcommand this starts a broker: data in ./martlet-data, clients on port 8081 (gRPC), metrics and health on \
    port 8082. Every key below can also stand in a TOML file (--config FILE) as retention_hours = 24, or in the \
    environment as MARTLET_RETENTION_HOURS=24. The flag wins over the environment, that over the file.";

const EXAMPLES: &str = "Examples:\n  \
    martlet                                     start a broker\n  \
    martlet topic create orders --queues 4      create a topic in a running one\n  \
    martlet send orders 'hello'                 send a message\n  \
    martlet receive orders --group billing      receive and acknowledge what is there\n  \
    martlet group describe billing              see how far a group is\n  \
    martlet message find --topic orders --key 4711   look at messages without consuming them\n  \
    martlet dead-letter resend billing --all    put back what a group gave up\n  \
    martlet transaction list --given-up         see which transactions nobody ended";

/// The whole command line.
pub fn command() -> Command {
    let mut command = Command::new("martlet")
        .version(env!("CARGO_PKG_VERSION"))
        .args_conflicts_with_subcommands(true)
        .disable_help_subcommand(true)
        .max_term_width(110)
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("TOML file with any of the keys below; also MARTLET_CONFIG")
                .value_parser(clap::value_parser!(PathBuf)),
        );
    for key in KEYS {
        let default = if key.default.is_empty() { String::new() } else { format!(" [default: {}]", key.default) };
        let reference =
            if key.reference.is_empty() { String::new() } else { format!(" [RocketMQ: {}]", key.reference) };
        command = command.arg(
            Arg::new(key.name)
                .long(key.name.replace('_', "-"))
                .value_name(key.placeholder)
                .help_heading(key.section)
                .help(format!("{}{default}", key.meaning))
                .long_help(format!("{} {}{default}{reference}", key.meaning, key.cost)),
        );
    }
    // Said last, because the subcommands bring a description of their own.
    Action::augment_subcommands(command)
        .about("A message broker for RocketMQ clients, in one process")
        .long_about(ABOUT)
        .after_help(EXAMPLES)
}

/// The keys given as flags, and the file.
pub fn given_flags(matches: &ArgMatches) -> (Vec<(String, String)>, Option<PathBuf>) {
    let flags = KEYS
        .iter()
        .filter_map(|key| Some((key.name.to_owned(), matches.get_one::<String>(key.name)?.clone())))
        .collect();
    (flags, matches.get_one::<PathBuf>("config").cloned())
}

/// What to do instead of being a broker.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Create, list, describe, update or delete topics
    #[command(subcommand)]
    Topic(TopicAction),
    /// Create, list, describe, update or delete consumer groups
    #[command(subcommand)]
    Group(GroupAction),
    /// List or describe lite topics
    #[command(subcommand)]
    Lite(LiteAction),
    /// Look at messages without consuming them
    #[command(subcommand)]
    Message(MessageAction),
    /// List, show or resend what a consumer group gave up
    #[command(subcommand)]
    DeadLetter(DeadLetterAction),
    /// List transactions that nobody ended, commit or roll back one of them
    #[command(subcommand)]
    Transaction(TransactionAction),
    /// Send messages
    Send(SendArgs),
    /// Receive messages and acknowledge them
    Receive(ReceiveArgs),
    /// Look into the log of a stopped broker, or repair it
    #[command(subcommand)]
    Log(LogAction),
    /// Copy everything that a stopped broker keeps
    #[command(subcommand)]
    Store(StoreAction),
}

fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

/// How to reach a broker, and how to answer.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// Broker to talk to
    #[arg(long, value_name = "HOST:PORT", env = "MARTLET_ENDPOINT", default_value = "127.0.0.1:8081")]
    pub endpoint: String,
    /// User to sign as, where the broker has access control
    #[arg(long, value_name = "NAME", env = "MARTLET_ACCESS_KEY")]
    pub access_key: Option<String>,
    /// Its secret; the environment does not show it to other users of the machine, as a flag does
    #[arg(long, value_name = "SECRET", env = "MARTLET_SECRET_KEY", hide_env_values = true, value_parser = secret)]
    pub secret_key: Option<Secret>,
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// What topics take.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TopicTypeArg {
    /// Nothing special
    Normal,
    /// Ordered within their message group
    Fifo,
    /// Not delivered before their time
    Delay,
    /// Delivered when their transaction commits
    Transaction,
    /// In lite topics
    Lite,
    /// By priority
    Priority,
    /// Normal, fifo, delay and transaction together
    Mixed,
}

/// What clients may do with a topic.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PermissionArg {
    /// Send and receive
    ReadWrite,
    /// Receive only
    Read,
    /// Send only
    Write,
    /// Neither
    None,
}

/// Subcommands of `martlet topic`.
#[derive(Debug, Subcommand)]
pub enum TopicAction {
    /// Create a topic
    Create {
        /// 1 to 127 letters, digits, '_', '-', '%' and '|'
        name: String,
        /// What it takes; cannot be changed later [default: normal]
        #[arg(long = "type", value_name = "TYPE")]
        kind: Option<TopicTypeArg>,
        #[command(flatten)]
        settings: TopicSettingsArgs,
        #[command(flatten)]
        target: Target,
    },
    /// List all topics
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show a topic and its queues
    Describe {
        /// Topic
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Change what is given and keep the rest
    Update {
        /// Topic
        name: String,
        #[command(flatten)]
        settings: TopicSettingsArgs,
        /// Queues to receive from; fewer gives up what is in the others. After shrinking with --queues
        #[arg(long, value_name = "COUNT")]
        read_queues: Option<u32>,
        #[command(flatten)]
        target: Target,
    },
    /// Delete a topic with all its messages
    Delete {
        /// Topic
        name: String,
        #[command(flatten)]
        target: Target,
    },
}

/// Settings of a topic that can be changed.
#[derive(Clone, Debug, Args)]
pub struct TopicSettingsArgs {
    /// Queues, 1 to 1024 [default: 8]
    #[arg(long, value_name = "COUNT")]
    pub queues: Option<u32>,
    /// What clients may do [default: read-write]
    #[arg(long)]
    pub permission: Option<PermissionArg>,
    /// How long messages are kept, such as 72h; `default` for the broker's setting
    #[arg(long, value_name = "DURATION", value_parser = parse_retention)]
    pub retention: Option<i64>,
    /// Type lite: a lite topic ends when no message came for this long, in whole minutes such as 30m; `never` [default: never]
    #[arg(long, value_name = "DURATION", value_parser = parse_lite_expire)]
    pub lite_expire: Option<i32>,
    /// Type lite: whether that takes along messages that a group has not consumed [default: false]
    #[arg(long, value_name = "BOOL")]
    pub lite_expire_unconsumed: Option<bool>,
    /// Type lite: most lite topics; 0 for the default [default: 10000000]
    #[arg(long, value_name = "COUNT")]
    pub lite_topics_max: Option<u64>,
    /// Recognise message ids that were sent before for so long, such as 5m, and store them once; `off` for not at all
    /// [default: off]
    #[arg(long, value_name = "DURATION", value_parser = parse_deduplicate)]
    pub deduplicate: Option<i64>,
}

/// Minutes; -1 for never.
fn parse_lite_expire(text: &str) -> Result<i32, String> {
    if text == "never" {
        return Ok(-1);
    }
    match parse_millis(text)? {
        millis if millis % 60_000 == 0 && millis > 0 => {
            i32::try_from(millis / 60_000).map_err(|_| format!("{text} is longer than 43200m"))
        }
        _ => Err(format!("{text} is not a number of whole minutes")),
    }
}

fn parse_deduplicate(text: &str) -> Result<i64, String> {
    if text == "off" { Ok(0) } else { parse_millis(text) }
}

fn parse_retention(text: &str) -> Result<i64, String> {
    if text == "default" { Ok(0) } else { parse_millis(text) }
}

/// In which order a group gets messages.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OrderArg {
    /// In no particular order
    Concurrent,
    /// In order within a message group
    Fifo,
}

/// How the consumers of a group share messages.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum PatternArg {
    /// Each message goes to one of them
    Clustering,
    /// Each has its own set of lite topics
    LiteSelective,
}

/// Subcommands of `martlet group`.
#[derive(Debug, Subcommand)]
pub enum GroupAction {
    /// Create a consumer group
    Create {
        /// 1 to 120 letters, digits, '_', '-', '%' and '|'
        name: String,
        /// Delivery order; cannot be changed later [default: concurrent]
        #[arg(long)]
        order: Option<OrderArg>,
        /// Consumption pattern; cannot be changed later [default: clustering]
        #[arg(long)]
        pattern: Option<PatternArg>,
        #[command(flatten)]
        settings: GroupSettingsArgs,
        #[command(flatten)]
        target: Target,
    },
    /// List all consumer groups
    List {
        #[command(flatten)]
        target: Target,
    },
    /// Show a group's settings, progress, backlog and clients
    Describe {
        /// Consumer group
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Change what is given and keep the rest
    Update {
        /// Consumer group
        name: String,
        #[command(flatten)]
        settings: GroupSettingsArgs,
        #[command(flatten)]
        target: Target,
    },
    /// Delete a group with its progress
    Delete {
        /// Consumer group
        name: String,
        #[command(flatten)]
        target: Target,
    },
    /// Move a group to another place of a topic, whether its consumers are connected or not
    ///
    /// Everything below the place is settled; everything from there on is delivered (again), attempts counted anew.
    ResetOffset {
        /// Consumer group
        group: String,
        /// Topic; of a group of lite topics, their parent
        topic: String,
        /// Where to: `earliest`, `latest`, an offset, a time such as 2026-01-31T23:59:59Z, or how long ago, such as 10m
        #[arg(long, value_name = "PLACE", value_parser = parse_place)]
        to: PlaceArg,
        /// Only this queue, by number; needed with an offset if the topic has several
        #[arg(long, value_name = "N", conflicts_with = "lite_topic")]
        queue: Option<u32>,
        /// Only this lite topic, needed with an offset; else all where the group has been, one after the other
        #[arg(long, value_name = "NAME")]
        lite_topic: Option<String>,
        #[command(flatten)]
        target: Target,
    },
}

/// Where a group is moved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceArg {
    /// The first message there is.
    Earliest,
    /// Behind the last one.
    Latest,
    /// This offset.
    Offset(u64),
    /// The first message stored at this time or later, in milliseconds since the Unix epoch.
    Time(i64),
}

fn parse_place(text: &str) -> Result<PlaceArg, String> {
    match text {
        "earliest" => Ok(PlaceArg::Earliest),
        "latest" => Ok(PlaceArg::Latest),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map(PlaceArg::Offset).map_err(|_| format!("{text:?} is not an offset"))
        }
        _ => parse_time_arg(text).map(PlaceArg::Time),
    }
}

fn parse_start(text: &str) -> Result<PlaceArg, String> {
    match parse_place(text)? {
        PlaceArg::Offset(_) => Err(format!("{text:?} is an offset, which means another message in each queue")),
        place => Ok(place),
    }
}

fn parse_time_arg(text: &str) -> Result<i64, String> {
    parse_time(text, crate::client::unix_millis())
}

/// Subcommands of `martlet message`.
#[derive(Debug, Subcommand)]
pub enum MessageAction {
    /// Show the message, or messages, with this id
    Get {
        /// Message id
        id: String,
        /// Only in this topic; otherwise in all of them, dead letters included
        #[arg(long)]
        topic: Option<String>,
        #[command(flatten)]
        target: Target,
    },
    /// Find messages by key, or by id within a topic; the newest first
    Find {
        /// Topic
        #[arg(long)]
        topic: String,
        /// Key
        #[arg(long, required_unless_present = "id", conflicts_with = "id")]
        key: Option<String>,
        /// Message id
        #[arg(long)]
        id: Option<String>,
        /// Stored at this time or later: 2026-01-31T23:59:59Z, or how long ago, such as 10m
        #[arg(long, value_name = "TIME", value_parser = parse_time_arg)]
        since: Option<i64>,
        /// Stored before this time
        #[arg(long, value_name = "TIME", value_parser = parse_time_arg)]
        until: Option<i64>,
        /// Most messages; all without it
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        target: Target,
    },
    /// Show what is in a topic, in the order it was stored, without consuming it
    Peek {
        /// Topic
        #[arg(long)]
        topic: String,
        /// Only this queue, by number
        #[arg(long, value_name = "N")]
        queue: Option<u32>,
        /// From this offset on
        #[arg(long, value_name = "O", conflicts_with = "since")]
        offset: Option<u64>,
        /// Stored at this time or later: 2026-01-31T23:59:59Z, or how long ago, such as 10m
        #[arg(long, value_name = "TIME", value_parser = parse_time_arg)]
        since: Option<i64>,
        /// Most messages
        #[arg(long, value_name = "N", default_value_t = 32)]
        count: u64,
        #[command(flatten)]
        target: Target,
    },
}

/// Subcommands of `martlet lite`.
#[derive(Debug, Subcommand)]
pub enum LiteAction {
    /// List the lite topics of a topic, in order of their names
    List {
        /// Topic of type lite
        parent: String,
        /// Show how far this consumer group is in each
        #[arg(long)]
        group: Option<String>,
        /// Most lite topics; all without it
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        target: Target,
    },
    /// Show a lite topic and who subscribes to it
    Describe {
        /// Topic of type lite
        parent: String,
        /// Lite topic
        name: String,
        /// Show how far this consumer group is in it
        #[arg(long)]
        group: Option<String>,
        #[command(flatten)]
        target: Target,
    },
}

/// Transactions that were neither committed nor rolled back.
#[derive(Debug, Subcommand)]
pub enum TransactionAction {
    /// List them, with the ids that end them
    List {
        /// Only those whose message is for this topic
        #[arg(long)]
        topic: Option<String>,
        /// Only those of which producers are not asked any more
        #[arg(long)]
        given_up: bool,
        /// Most transactions
        #[arg(short = 'n', long)]
        count: Option<u64>,
        #[command(flatten)]
        target: Target,
    },
    /// Put the message of a transaction into its topic
    Commit(EndArgs),
    /// Drop the message of a transaction
    Rollback(EndArgs),
}

/// Which transaction to end.
#[derive(Debug, Args)]
pub struct EndArgs {
    /// Its id, as `transaction list` shows it
    pub transaction_id: String,
    #[command(flatten)]
    pub target: Target,
}

/// Subcommands of `martlet dead-letter`.
#[derive(Debug, Subcommand)]
pub enum DeadLetterAction {
    /// List a group's dead letters that were not resent, oldest first
    List {
        /// Consumer group
        group: String,
        /// Most dead letters; all without it
        #[arg(long, value_name = "N")]
        count: Option<u64>,
        #[command(flatten)]
        target: Target,
    },
    /// Show a dead letter in full, whether it was resent or not
    Show {
        /// Consumer group
        group: String,
        /// Message id
        id: String,
        #[command(flatten)]
        target: Target,
    },
    /// Put dead letters back into the topics they came from, each once
    Resend {
        /// Consumer group
        group: String,
        /// Message id
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        id: Option<String>,
        /// All of them
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        target: Target,
    },
}

/// Settings of a consumer group that can be changed.
#[derive(Clone, Debug, Args)]
pub struct GroupSettingsArgs {
    /// Deliveries of a message before it is given up, the first included [default: 17]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_attempts: Option<u32>,
    /// Waits before each retry, such as 10s,30s,1m (the last repeats), or exponential:FIRST,LONGEST,FACTOR such as
    /// exponential:5s,2h,2
    #[arg(long, value_name = "WAITS", value_parser = parse_backoff)]
    pub backoff: Option<BackoffArg>,
    /// Where a message goes after its last attempt: `group` for %DLQ%NAME, `discard`, or a topic [default: group]
    #[arg(long, value_name = "group|discard|TOPIC")]
    pub dead_letters: Option<String>,
    /// Pattern lite-selective: parent of the lite topics; cannot be changed later
    #[arg(long, value_name = "TOPIC")]
    pub lite_parent: Option<String>,
    /// Pattern lite-selective: a lite topic is one client's at a time; cannot be changed later [default: false]
    #[arg(long, value_name = "BOOL")]
    pub lite_exclusive: Option<bool>,
    /// Pattern lite-selective: every client consumes every lite topic; cannot be changed later [default: false]
    #[arg(long, value_name = "BOOL")]
    pub lite_wildcard: Option<bool>,
    /// Pattern lite-selective: lite topics one client may subscribe to, 1 to 50000; -1 for as many as that [default: 2000]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub lite_subscriptions: Option<i32>,
    /// Pattern lite-selective: a client that takes a lite topic over begins at its first message [default: false]
    #[arg(long, value_name = "BOOL")]
    pub lite_reset_exclusive: Option<bool>,
    /// Pattern lite-selective: once a client has unsubscribed from a lite topic the group begins there again [default: false]
    #[arg(long, value_name = "BOOL")]
    pub lite_reset_unsubscribe: Option<bool>,
    /// Where it begins in queues it has not received from yet: `earliest`, `latest` (behind what is there now), a time such
    /// as 2026-01-31T23:59:59Z, or how long ago, such as 10m [default: earliest]
    #[arg(long, value_name = "PLACE", value_parser = parse_start)]
    pub from: Option<PlaceArg>,
}

/// Waits in milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub enum BackoffArg {
    /// One per retry.
    Customized(Vec<i64>),
    /// First, longest, factor.
    Exponential(i64, i64, f64),
}

fn parse_backoff(text: &str) -> Result<BackoffArg, String> {
    if let Some(parts) = text.strip_prefix("exponential:") {
        let parts: Vec<&str> = parts.split(',').collect();
        let [first, longest, factor] = parts[..] else {
            return Err("exponential takes FIRST,LONGEST,FACTOR, such as exponential:5s,2h,2".into());
        };
        let factor = factor.trim().parse().map_err(|_| format!("{factor:?} is not a number"))?;
        return Ok(BackoffArg::Exponential(parse_millis(first)?, parse_millis(longest)?, factor));
    }
    text.split(',').map(parse_millis).collect::<Result<_, _>>().map(BackoffArg::Customized)
}

fn parse_property(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a property is KEY=VALUE".into()),
    }
}

/// `martlet send`.
#[derive(Debug, Args)]
pub struct SendArgs {
    /// Topic
    pub topic: String,
    /// Bodies, one message each; `-`, or none with --json: JSON lines from standard input, each an object with `body` (or
    /// `body_base64`), and if wanted `tag`, `keys`, `properties`, `message_group`, `lite_topic`, `priority`
    #[arg(value_name = "BODY")]
    pub bodies: Vec<String>,
    /// Tag of each message
    #[arg(long)]
    pub tag: Option<String>,
    /// Key of each message; may be repeated
    #[arg(long = "key", value_name = "KEY")]
    pub keys: Vec<String>,
    /// Property of each message; may be repeated
    #[arg(long = "property", value_name = "KEY=VALUE", value_parser = parse_property)]
    pub properties: Vec<(String, String)>,
    /// Message group of each message: they are sent one after the other, for topics of type fifo
    #[arg(long, value_name = "NAME")]
    pub message_group: Option<String>,
    /// Lite topic of each message, for topics of type lite: they are sent one after the other
    #[arg(long, value_name = "NAME", conflicts_with_all = ["message_group", "priority"])]
    pub lite_topic: Option<String>,
    /// Priority of each message, for topics of type priority: 0 is the lowest, the topic's queues less 1 the highest; what
    /// is above counts as the highest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..), conflicts_with = "message_group")]
    pub priority: Option<i32>,
    /// Send each body this many times
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub count: u64,
    #[command(flatten)]
    pub target: Target,
}

/// `martlet receive`.
#[derive(Debug, Args)]
pub struct ReceiveArgs {
    /// Topic
    pub topic: String,
    /// Consumer group
    #[arg(long, short)]
    pub group: String,
    /// Stop after this many messages; without it, when there are no more
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Tags wanted, such as a or "a || b"
    #[arg(long, value_name = "TAGS", default_value = "*")]
    pub filter: String,
    /// SQL92 condition over properties instead, such as "amount > 100 AND TAGS IN ('a', 'b')"
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "filter")]
    pub sql: Option<String>,
    /// Go on waiting for new messages until interrupted, or until --count is reached
    #[arg(long, short)]
    pub follow: bool,
    /// Do not acknowledge: the messages come again when --invisible has passed
    #[arg(long)]
    pub no_ack: bool,
    /// How long what is received stays invisible to others, 10s to 12h
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_millis)]
    pub invisible: i64,
    #[command(flatten)]
    pub target: Target,
}

/// Subcommands of `martlet log`.
#[derive(Debug, Subcommand)]
pub enum LogAction {
    /// Check every frame of a log and show what is damaged: file, position, expected, found
    Inspect {
        /// Data folder of a stopped broker
        dir: PathBuf,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
    /// Drop one damaged frame, named as inspect names it, and list what is lost
    Repair {
        /// Data folder of a stopped broker
        dir: PathBuf,
        /// The frame, as inspect names it
        #[arg(long, value_name = "SEGMENT:POSITION", value_parser = parse_frame)]
        frame: (u32, u64),
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

/// Subcommands of `martlet store`.
#[derive(Debug, Subcommand)]
pub enum StoreAction {
    /// Copy everything from one place to another, empty one: to move a broker, or as a backup
    ///
    /// A place is a data folder, or a bucket as --store names it: s3://BUCKET/PREFIX, gs://, az://, file:///FOLDER. The
    /// broker of FROM must be stopped; one that still runs on a bucket is fenced off and stops. A copy that was
    /// interrupted goes on when the same command is run again; until it is whole no broker opens it.
    Copy {
        /// Where everything is
        from: Place,
        /// Where it is to be as well
        to: Place,
        /// Print JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

fn parse_frame(text: &str) -> Result<(u32, u64), String> {
    let parts =
        text.split_once(':').and_then(|(segment, position)| Some((segment.parse().ok()?, position.parse().ok()?)));
    parts.ok_or_else(|| "a frame is SEGMENT:POSITION, such as 3:4096".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_place_is_a_word_an_offset_or_a_time() {
        assert_eq!(parse_place("earliest"), Ok(PlaceArg::Earliest));
        assert_eq!(parse_place("latest"), Ok(PlaceArg::Latest));
        assert_eq!(parse_place("4711"), Ok(PlaceArg::Offset(4711)));
        assert_eq!(parse_place("1970-01-02T00:00:00Z"), Ok(PlaceArg::Time(86_400_000)));
        assert!(matches!(parse_place("10m"), Ok(PlaceArg::Time(_))));
        for bad in ["", "-1", "soon", "99999999999999999999", "2026-13-01T00:00:00Z"] {
            assert!(parse_place(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn back_off_is_read_as_a_list_or_as_a_rule() {
        assert_eq!(parse_backoff("10s,30s,1m").unwrap(), BackoffArg::Customized(vec![10_000, 30_000, 60_000]));
        assert_eq!(parse_backoff("exponential:5s,2h,2").unwrap(), BackoffArg::Exponential(5_000, 7_200_000, 2.0));
        for bad in ["", "10", "exponential:5s", "exponential:5s,2h,x", "1s,,2s"] {
            assert!(parse_backoff(bad).is_err(), "{bad}");
        }
    }
}
