//! The heart: a deterministic, single-threaded state machine that holds every messaging rule of one shard.
//!
//! In: [`Command`]s and the time of the turn. Out: replies, requests to load something, and one batch of changes for the
//! store. No clock, no randomness, no I/O, no `async`: [`ShardLoop`] is the one door, and the broker's runtime and the
//! simulation are its two callers.
//!
//! Rules
//! - Every change of durable state is one value that is applied in memory and written to the batch alike; what is loaded
//!   later is what applying it left. A clean resident entity can be dropped at any moment.
//! - A reply leaves after the batch its state rests on is durable. The one exception is the hand-out to an unordered
//!   group on a store of one owner: a crash in between costs a redelivery.
//! - Nobody is handed a message that is not durable.
//! - A message has at most one live receipt handle per group within an epoch.
//! - Of one message group, an ordered group has messages in flight with one poll at a time, and in order.
//! - No poll waits while there is a visible message for it, open slots permitting.
//!
//! Layout: [`command`] and [`answer`] are the vocabulary; `keys` and `codec` say what lies in the store; `queue` and `progress`
//! are the entities, `resident` which of them are in memory, `ordered` and `parked` what ordered groups add; `send`, `delay`,
//! `transactions`, `receive`, `sequence`, `settle`, `subscriptions`, `catalog`, `retention`, `reset`, `pull` decide; `owners`,
//! `queue_based` and `retries` serve members that pull queues; `lite`, `lite_registry`, `lite_subscriptions`, `lite_receive`,
//! `lite_wildcard`, `lite_backlog` and `lite_expiry` are lite topics;
//! `dedup` and `dedup_open` know what was sent before; `timers` and `schedule` keep what is due by itself, `halves` the half
//! messages; `turn` is the loop around them.

pub mod answer;
mod attempts;
mod catalog;
mod clock;
mod codec;
pub mod command;
mod dead;
mod dedup;
mod dedup_open;
mod delay;
mod halves;
mod keys;
mod lite;
mod lite_backlog;
mod lite_expiry;
mod lite_look;
mod lite_receive;
mod lite_registry;
mod lite_subscriptions;
mod lite_wildcard;
mod load;
mod marks;
mod ordered;
mod owners;
mod parked;
mod priority;
mod progress;
mod pull;
mod queue;
mod queue_based;
mod receive;
mod recent;
mod reset;
mod resident;
mod retention;
mod retries;
mod schedule;
mod send;
mod sequence;
mod settle;
mod shard;
mod subscriptions;
mod timers;
mod topic;
mod transactions;
mod turn;

pub use answer::{
    Counters, EndError, HalfTaken, HandOut, LATENESS_MILLIS, LiteNotice, Output, Placed, ProgressFigures, PullStatus,
    Pulled, QueueFigures, RecallError, Refused, ResendError, SettleError, SubscriptionFigures, TransactionCheck,
    Waiting,
};
pub use clock::{ClockNotice, ShardClock};
pub use command::{
    ClientNumber, Command, DeadLetterPlace, DeadLetters, GroupFacts, Half, HalfPlace, Incoming, LiteAction, LiteAge,
    LiteGroup, LiteParent, LiteReset, LiteStart, LiteSync, MarkedPlace, PollId, PullCommand, ReceiveCommand,
    ResetTarget, Scheduled, SendBackCommand, SendBackDelay, TimerAt, TopicFacts,
};
pub use halves::{HalfFound, halves};
pub use lite::lite_topic_of;
pub use lite_look::{
    LiteLook, LiteOldest, LiteProgress, lite_oldest, lite_progress, lite_subscriptions, lite_topic, lite_topics,
    lite_topics_of_group,
};
pub use load::{LiteFound, Load, LoadId, Loaded, StoredLite, execute, offset_at};
pub use ordered::{message_group, message_group_of};
pub use parked::StoredChunk;
pub use queue::LiteConsumer;
pub use shard::{OpenError, Shard, ShardOptions};
pub use timers::Timer;
pub use turn::{ShardLoop, Turn};

/// The term a message is found by: SipHash of topic, kind (`b'i'` message id, `b'k'` key) and text.
pub fn term(topic: martlet_model::TopicId, kind: u8, text: &str) -> martlet_store::Term {
    use std::hash::Hasher as _;
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(0x6d61_7274_6c65_7431, 0x7465_726d_735f_7631);
    hasher.write_u32(topic.0);
    hasher.write_u8(kind);
    hasher.write(text.as_bytes());
    martlet_store::Term(hasher.finish())
}
