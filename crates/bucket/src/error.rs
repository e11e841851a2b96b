//! Why a bucket cannot be used.

/// Why a place cannot be opened. Each says which operation failed on what, and what the store answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// The environment does not say how to reach it.
    #[error("{location}: the environment does not say how to reach it: {cause}")]
    Settings {
        /// The place.
        location: String,
        /// The client's words.
        cause: String,
    },
    /// The store refused or could not be reached.
    #[error("{operation} of {object} in {location} failed: {cause}")]
    Refused {
        /// The place.
        location: String,
        /// What was asked: `put`, `get`, `list`, `delete`.
        operation: &'static str,
        /// The object it was asked of.
        object: String,
        /// The store's answer.
        cause: String,
    },
    /// The store creates an object a second time although it was told not to: two owners could overwrite each other.
    #[error(
        "{location} has no conditional writes: {object} was created a second time although it existed. A store that \
         does not honour If-None-Match cannot keep two processes from overwriting each other"
    )]
    NoConditionalWrites {
        /// The place.
        location: String,
        /// The object.
        object: String,
    },
    /// Written by a newer program, or by one this build does not know.
    #[error("{object} in {location} has {what} {found}; this build knows {known}")]
    Format {
        /// The place.
        location: String,
        /// The object that says so.
        object: String,
        /// What of it: `format version`, `SlateDB version`.
        what: &'static str,
        /// What is there.
        found: String,
        /// What this build knows.
        known: String,
    },
    /// The format cannot be read.
    #[error("{object} in {location} is damaged: {cause}")]
    Damaged {
        /// The place.
        location: String,
        /// The object.
        object: String,
        /// What is wrong.
        cause: String,
    },
    /// The system refused something basic.
    #[error("{what}: {cause}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// The system's answer.
        cause: String,
    },
}

/// An error and what it came from, once each: clients tend to repeat the one in the other.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let told = cause.to_string();
        if !text.contains(&told) {
            text = format!("{text}: {told}");
        }
        next = cause.source();
    }
    text
}
