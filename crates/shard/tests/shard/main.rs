//! What users notice of a shard, told through its one door: [`martlet_shard::ShardLoop`] on a store.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_types, missing_docs)]

mod batches;
mod catalog;
mod cost;
mod dead_letters;
mod dedup;
mod delivery;
mod durability;
mod eviction;
mod filters;
mod handles;
mod lite;
mod lite_ages;
mod lite_expiry;
mod lite_reset;
mod lite_subscriptions;
mod lite_wildcard;
mod marks;
mod memory;
mod mixed;
mod ordered;
mod ordered_faults;
mod polled;
mod priority;
mod pull;
mod queue_based;
mod refusals;
mod renewal;
mod resend;
mod reset;
mod retention;
mod retries;
mod send_back;
mod start;
mod timers;
mod transactions;
mod waiting;
mod world;
