//! What one user may do.

use crate::pattern::{Pattern, Resource};
use crate::source::Source;
use crate::{Invalid, Need};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::net::IpAddr;

/// Entries of one user, at most.
pub const ENTRIES_MAX: usize = 1_000;
/// Source addresses of one entry, at most.
pub const SOURCES_MAX: usize = 32;

/// What is done with a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Each of the others; in entries only.
    All,
    /// Send to it.
    Pub,
    /// Consume from it or with it.
    Sub,
    /// Make it.
    Create,
    /// Change it.
    Update,
    /// Delete it.
    Delete,
    /// Look at it.
    Get,
    /// See that it is there.
    List,
}

impl Action {
    const EACH: [(Self, &'static str); 8] = [
        (Self::All, "All"),
        (Self::Pub, "Pub"),
        (Self::Sub, "Sub"),
        (Self::Create, "Create"),
        (Self::Update, "Update"),
        (Self::Delete, "Delete"),
        (Self::Get, "Get"),
        (Self::List, "List"),
    ];

    /// The action of that name, in whatever case.
    pub fn of(name: &str) -> Result<Self, Invalid> {
        let found = Self::EACH.into_iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
        let rule = "is not All, Pub, Sub, Create, Update, Delete, Get or List";
        found.map(|(action, _)| action).ok_or_else(|| Invalid::new("action", name, rule))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::EACH.into_iter().find(|(action, _)| *action == self).map_or("", |(_, name)| name)
    }
}

/// What becomes of a request that an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It is carried out.
    Allow,
    /// It is refused.
    Deny,
}

impl Decision {
    /// The decision of that name, in whatever case.
    pub fn of(name: &str) -> Result<Self, Invalid> {
        let found = [Self::Allow, Self::Deny].into_iter().find(|known| known.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| Invalid::new("decision", name, "is not Allow or Deny"))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
        }
    }
}

/// Which of a user's two policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyKind {
    /// Looked at first.
    #[default]
    Custom,
    /// Looked at where the other one has no entry for a request.
    Default,
}

impl PolicyKind {
    /// The kind of that name, in whatever case; none is [`PolicyKind::Custom`].
    pub fn of(name: Option<&str>) -> Result<Self, Invalid> {
        match name.map(str::trim).unwrap_or("") {
            "" => Ok(Self::Custom),
            name if name.eq_ignore_ascii_case("Custom") => Ok(Self::Custom),
            name if name.eq_ignore_ascii_case("Default") => Ok(Self::Default),
            name => Err(Invalid::new("policyType", name, "is not Custom or Default")),
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Custom => "Custom",
            Self::Default => "Default",
        }
    }
}

/// What one policy says about some resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The resources.
    pub resource: Pattern,
    /// At least one.
    pub actions: Vec<Action>,
    /// Where requests come from; empty: from everywhere.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
    /// What becomes of them.
    pub decision: Decision,
}

impl Entry {
    fn check(&self) -> Result<(), Invalid> {
        if self.actions.is_empty() {
            return Err(Invalid::new("actions", "", "are none"));
        }
        if self.sources.len() > SOURCES_MAX {
            return Err(Invalid::new("sourceIps", &self.sources.len().to_string(), "are more than 32"));
        }
        Ok(())
    }

    fn is_about(&self, resource: &Resource<'_>, actions: &[Action], source: IpAddr) -> bool {
        self.resource.matches(resource)
            && self.actions.iter().any(|own| *own == Action::All || actions.contains(own))
            && (self.sources.is_empty() || self.sources.iter().any(|own| own.contains(source)))
    }
}

/// Both policies of a user. Within each, a pattern is there once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policies {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    custom: Vec<Entry>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    default: Vec<Entry>,
}

impl Policies {
    /// The entries of one of the two, in the order they were made.
    pub fn entries(&self, kind: PolicyKind) -> &[Entry] {
        match kind {
            PolicyKind::Custom => &self.custom,
            PolicyKind::Default => &self.default,
        }
    }

    fn of(&mut self, kind: PolicyKind) -> &mut Vec<Entry> {
        match kind {
            PolicyKind::Custom => &mut self.custom,
            PolicyKind::Default => &mut self.default,
        }
    }

    /// Entries of both.
    pub fn len(&self) -> usize {
        self.custom.len() + self.default.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an entry, in the place of the one with the same pattern if there is one.
    pub fn put(&mut self, kind: PolicyKind, entry: Entry) -> Result<(), Invalid> {
        entry.check()?;
        let all = self.len();
        let entries = self.of(kind);
        match entries.iter_mut().find(|known| known.resource == entry.resource) {
            Some(known) => *known = entry,
            None if all >= ENTRIES_MAX => {
                let rule = "is one entry too many: the limit is 1,000 of one user";
                return Err(Invalid::new("resource", &entry.resource.to_string(), rule));
            }
            None => entries.push(entry),
        }
        Ok(())
    }

    /// Removes the entry with this pattern; whether it was there.
    pub fn remove(&mut self, kind: PolicyKind, resource: &Pattern) -> bool {
        let entries = self.of(kind);
        let before = entries.len();
        entries.retain(|entry| entry.resource != *resource);
        entries.len() < before
    }

    /// What becomes of a request; `None`: no entry is about it, and it is refused. Entries of the custom policy come before those of the
    /// default one; of each, those with the most specific pattern count: a name, the longest beginning of one, all of a kind, everything. Of
    /// two that are equal in this, the one that denies counts.
    pub fn decide(&self, need: &Need<'_>, source: IpAddr) -> Option<Decision> {
        let best = |entries: &[Entry]| {
            let about = entries.iter().filter(|entry| entry.is_about(&need.resource, need.actions, source));
            about
                .min_by_key(|entry| (Reverse(entry.resource.rank()), entry.decision == Decision::Allow))
                .map(|entry| entry.decision)
        };
        best(&self.custom).or_else(|| best(&self.default))
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
