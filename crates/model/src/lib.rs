//! The vocabulary every other crate speaks: names, ids, messages, topics, consumer groups, filters, limits.
//! No I/O, no clock, no randomness.
//!
//! - [`ids`]: the numbers that name queues, topics, groups and places, each its own type.
//! - [`names`]: what a topic, group, tag, key or property may be called, and the error that says why not.
//! - [`record`]: the bytes of one message as the log keeps them.
//! - [`topic`], [`group`]: what the catalog knows about topics and consumer groups.
//! - [`filter`], [`sql`]: tag expressions and SQL92 conditions, compiled once per subscription.
//! - [`handle`]: receipt handles.
//! - [`histogram`]: counting observations into buckets.
//! - [`producer_handle`]: recall handles and transaction ids.
//! - [`limits`]: every default limit with its meaning.

pub mod filter;
pub mod group;
pub mod handle;
pub mod histogram;
pub mod ids;
pub mod limits;
pub mod names;
pub mod producer_handle;
pub mod record;
pub mod sql;
#[cfg(test)]
mod texts;
pub mod topic;

pub use filter::{Filter, FilterError, TagFilter};
pub use group::{DeadLetterPolicy, GroupConfig, LiteConsumers, LiteResets, RetryBackoff, RetryPolicy};
pub use histogram::{Histogram, HistogramFigures};
pub use ids::{GroupId, PhysicalOffset, QueueId, QueueOffset, TopicId, UnixMillis};
pub use producer_handle::{ProducerHandle, ProducerHandleError, ProducerHandleKind};
pub use topic::{LiteTopics, MessageType, Permission, TopicConfig, TopicType};
