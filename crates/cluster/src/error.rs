//! Why a change of the catalog was refused.

use martlet_auth::Invalid;
use martlet_model::names::NameError;

/// A change that breaks a rule. The text names field, value and limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// The name breaks a rule.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is such a topic or group already, with other settings.
    #[error("{what} {name} exists already")]
    Exists {
        /// `topic` or `consumer group`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// There is no such topic.
    #[error("topic {topic} does not exist")]
    TopicNotFound {
        /// Its name.
        topic: String,
    },
    /// There is no such consumer group.
    #[error("consumer group {group} does not exist")]
    GroupNotFound {
        /// Its name.
        group: String,
    },
    /// There is no such user.
    #[error("user {user:?} does not exist")]
    UserNotFound {
        /// Its name, cut.
        user: String,
    },
    /// The user has no such policy.
    #[error("user {user:?} has no policy{}", about.as_ref().map_or(String::new(), |about| format!(" about {about}")))]
    PolicyNotFound {
        /// Its name, cut.
        user: String,
        /// The pattern that was named.
        about: Option<String>,
    },
    /// A setting is out of range or cannot be changed.
    #[error("{field} {value} {rule}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// The value.
        value: String,
        /// The rule.
        rule: &'static str,
    },
    /// The catalog is full.
    #[error("the catalog has {limit} {what} already, its limit")]
    Full {
        /// `topics`, `consumer groups`, `KV configs`, `users` or `entries of policies`.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl From<Invalid> for ChangeError {
    fn from(invalid: Invalid) -> Self {
        let Invalid { field, value, rule } = invalid;
        Self::Setting { field, value, rule }
    }
}
