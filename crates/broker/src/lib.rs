//! The node's front office: what the protocols call. Looks things up in the catalog, checks limits, knows the connected
//! clients, keeps byte budgets, and hands the rest to the shard that owns the queue.
//!
//! In: requests in the domain's own words ([`requests`]). Out: answers, or one [`Refusal`] that a protocol translates in
//! one table. Holds no wire format and no rule about messages.
//!
//! - `broker`: the catalog's side: topics, groups, figures.
//! - `send`: messages on their way in. `messages`: receive, settle: names to ids, commands to the shard, bodies read outside of it.
//! - `handed_out`: taking back what does not reach its client.
//! - `delayed`: delayed messages and their recall.
//! - `transactions`: half messages, their ends, and the checks that producers are sent; `polled`: those that producers ask for.
//! - `find`, `dead_letters`, `progress`: looking at messages without consuming them, resending, moving groups.
//! - `lite`: what clients subscribe to of lite topics; `lite_progress`: moving their groups, and ages.
//! - `physical`: physical offsets, by which remoting clients know messages.
//! - `pull`: consumers that keep their own place.
//! - `members`: queue-based members of groups, and who listens to changes; `queue_pull` and
//!   `queue_offsets`: what they pull, commit and lock.
//! - `clients`: who is connected; what a vanished client held goes back.
//! - `broadcast`: groups in which broadcasting takes effect for all.
//! - `agreement`: what members subscribe to, told to the shard; where they differ, reported.
//! - `access`: users and policies; `kv`: KV configs.
//! - `inquiry`: questions to one client, whichever protocol asks.
//! - `runtime`: the shard's thread, its clock and its inbox.
//! - `mailbox`: replies on their way back to the runtimes, one wake-up for many.
//! - [`copy`]: everything a stopped broker keeps, in another place.
//! - `stats`: what is counted per topic and group.

mod access;
mod agreement;
mod broadcast;
mod broadcast_receive;
mod broker;
mod clients;
pub mod copy;
mod dead_letters;
mod delayed;
mod find;
mod handed_out;
mod inquiry;
mod kv;
mod lite;
mod lite_progress;
mod mailbox;
mod marks;
mod members;
mod messages;
mod options;
mod physical;
mod places;
mod polled;
mod progress;
mod pull;
mod queue_offsets;
mod queue_pull;
mod refusal;
mod requests;
mod runtime;
mod send;
mod stats;
mod transactions;

pub use access::{AccessNow, AccessOptions};
pub use agreement::Disagreement;
pub use broker::Broker;
pub use dead_letters::{DeadLetterAt, DeadLetterList, Resent};
pub use find::{FOUND_MAX, FindCursor, FindRequest, Found, FoundMessage, PeekFrom, Peeked, Wanted};
pub use handed_out::HandedOut;
pub use inquiry::{Inquiry, InquiryReply, NoReply, PendingReply};
pub use lite::{LITE_LIST_MAX, LiteSubscriptions, LiteSyncRequest, LiteTopicList, LiteTopicStatus};
pub use lite_progress::{LITE_RESET_MAX, LiteMoved, LiteWhich, ResetLiteTopic};
pub use martlet_auth as auth;
pub use martlet_bucket::{Class, Counts, Location, Scheme};
pub use martlet_cluster::UserChange;
pub use martlet_shard::{
    HalfPlace, LATENESS_MILLIS, LiteAction, LiteLook, LiteNotice, LiteProgress, LiteStart, MarkedPlace, PullStatus,
    SendBackDelay, TransactionCheck,
};
pub use martlet_store::Durability;
pub use members::{
    CLIENT_ID_BYTES_MAX, ConsumeFrom, MEMBER_SUBSCRIPTIONS_MAX, MemberInfo, MemberKind, MemberSubscription,
    MessageModel, QueueMember,
};
pub use messages::ReplyBudget;
pub use options::{BrokerOptions, BucketPlace, OpenError, OpenReport};
pub use physical::NotKnown;
pub use polled::{HALF_LEASE_MILLIS, PolledHalf};
pub use progress::{ResetQueue, ResetTo};
pub use pull::{OffsetOf, PullRequest, Pulled};
pub use queue_offsets::StoredOffset;
pub use queue_pull::{PullMode, PulledMessage, QueuePull, QueuePulled, SendBack};
pub use refusal::Refusal;
pub use requests::*;
pub use runtime::wall_clock;
pub use send::{SendOutcome, Sending};
pub use stats::{Figures, GroupCount, TopicCount};
pub use transactions::{OpenTransaction, PRODUCER_GROUP, TransactionList, producer_group};
