//! Who may do what: users and their secrets, signatures, policies.
//!
//! Deterministic; the one thing it reads is the file of accounts.
//!
//! - [`User`], [`Secret`]: who signs. [`Accounts`]: those that a file names.
//! - [`Policies`]: what one user may do: [`Entry`]s of a [`Pattern`], [`Action`]s, [`Source`]s and a [`Decision`].
//! - [`Access`]: users and policies at one moment. It says who a request is from ([`Access::authenticate`]); the [`Caller`] says whether
//!   it may do what it asks ([`Caller::permit`]).
//!
//! No secret is in anything that is printed, [`Secret::reveal`] aside.

mod access;
mod accounts;
mod pattern;
mod policy;
mod source;
mod user;

pub use access::{Access, AccessError, Caller, Need};
pub use accounts::{Accounts, AccountsError};
pub use pattern::{Pattern, Resource, ResourceKind};
pub use policy::{Action, Decision, ENTRIES_MAX, Entry, Policies, PolicyKind, SOURCES_MAX};
pub use source::Source;
pub use user::{NAME_BYTES_MAX, SECRET_BYTES_MAX, Secret, User, UserKind, check_name, check_secret};

/// A value that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?} {rule}")]
pub struct Invalid {
    /// The field.
    pub field: &'static str,
    /// What it says, cut; never a secret.
    pub value: String,
    /// The rule.
    pub rule: &'static str,
}

impl Invalid {
    fn new(field: &'static str, value: &str, rule: &'static str) -> Self {
        Self { field, value: cut(value), rule }
    }
}

/// What is shown of a text from outside: its first 64 characters.
pub fn cut(text: &str) -> String {
    text.chars().take(64).collect()
}
