//! The node's front office: what the protocols call. Looks things up in the catalog, checks permission and limits, knows
//! the connected clients, keeps byte budgets, and hands the rest to the shard that owns the queue.
//!
//! In: requests in the domain's own words ([`requests`]). Out: answers, or one [`Refusal`] that a protocol translates in
//! one table. Holds no wire format and no rule about messages.

mod refusal;
mod requests;

pub use refusal::Refusal;
pub use requests::*;
