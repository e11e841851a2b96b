//! Whether the members of a consumer group want the same. They should; where they do not, all are served all the same (see
//! `martlet_shard`'s subscriptions), and it is reported: in the log, in metrics, in a group's status, to clients in the
//! answer to their settings.

use crate::{Broker, ClientInfo, ClientRole};
use martlet_model::Filter;
use martlet_shard::Command;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A group that still disagrees is written to the log again after so long.
const LOG_AGAIN: Duration = Duration::from_secs(600);
/// Topics named in a report.
const TOPICS_NAMED: usize = 8;

/// In what the members of a group differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disagreement {
    /// They subscribe to different topics.
    pub topics: bool,
    /// Topics on which they have different filters, by name; 8 at most.
    pub filters: Vec<String>,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.topics {
            parts.push("subscribe to different topics".to_owned());
        }
        if !self.filters.is_empty() {
            parts.push(format!("have different filters on {}", self.filters.join(", ")));
        }
        write!(f, "members {}", parts.join(" and "))
    }
}

/// What the consumers of each group differ in; groups that agree are left out. Members that never said what they subscribe
/// to are left out too.
pub fn disagreements<'a>(clients: impl IntoIterator<Item = &'a ClientInfo>) -> BTreeMap<String, Disagreement> {
    #[derive(Default)]
    struct Seen<'a> {
        topics: Option<BTreeSet<&'a str>>,
        topics_differ: bool,
        filters: BTreeMap<&'a str, &'a Filter>,
        filters_differ: BTreeSet<&'a str>,
    }
    let mut groups: BTreeMap<&str, Seen<'_>> = BTreeMap::new();
    for client in clients {
        let ClientRole::Consumer { group, subscriptions, .. } = &client.role else { continue };
        if subscriptions.is_empty() {
            continue;
        }
        let seen = groups.entry(group).or_default();
        let topics: BTreeSet<&str> = subscriptions.iter().map(|(topic, _)| topic.as_str()).collect();
        seen.topics_differ |= seen.topics.get_or_insert_with(|| topics.clone()) != &topics;
        for (topic, filter) in subscriptions {
            if seen.filters.entry(topic).or_insert(filter) != &filter {
                seen.filters_differ.insert(topic);
            }
        }
    }
    let differ = groups.into_iter().filter(|(_, seen)| seen.topics_differ || !seen.filters_differ.is_empty());
    differ
        .map(|(group, seen)| {
            let filters = seen.filters_differ.into_iter().take(TOPICS_NAMED).map(str::to_owned).collect();
            (group.to_owned(), Disagreement { topics: seen.topics_differ, filters })
        })
        .collect()
}

/// When which group's disagreement was written to the log.
pub(crate) type Told = BTreeMap<String, (Disagreement, Instant)>;

impl Broker {
    /// Tells the shard what a connected member subscribes to, so that it counts as live between its polls.
    pub(crate) fn tell_subscriptions(&self, role: &ClientRole) {
        let ClientRole::Consumer { group, subscriptions, .. } = role else { return };
        let Some(group) = self.known_group(group) else { return };
        for (topic, filter) in subscriptions {
            if let Some(topic) = self.known_topic(topic) {
                let filter = Arc::new(filter.clone());
                // A full inbox refuses this; the next heartbeat says it again.
                let _ = self.inner.shard.submit(Command::Subscribe { group: group.id, topic: topic.id, filter });
            }
        }
    }

    /// What the connected members of a group differ in.
    pub fn disagreement(&self, group: &str) -> Option<Disagreement> {
        disagreements(&self.inner.clients.of_group(group)).remove(group)
    }

    /// Writes new disagreements to the log, and old ones now and then.
    pub(crate) fn log_disagreements(&self, told: &mut Told) {
        let now = Instant::now();
        let found = disagreements(&self.inner.clients.all());
        told.retain(|group, _| found.contains_key(group));
        for (group, disagreement) in found {
            let known = told.get(&group);
            if known.is_none_or(|(last, at)| *last != disagreement || now.duration_since(*at) > LOG_AGAIN) {
                tracing::warn!("consumer group {group}: {disagreement}; a message is kept for whoever wants it");
                told.insert(group, (disagreement, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, group: &str, subscriptions: &[(&str, &str)]) -> ClientInfo {
        let subscriptions = subscriptions
            .iter()
            .map(|(topic, tags)| ((*topic).to_owned(), Filter::tags(tags).unwrap_or(Filter::ALL)))
            .collect();
        let role = ClientRole::Consumer { group: group.to_owned(), push: true, subscriptions };
        ClientInfo {
            client_id: id.into(),
            language: String::new(),
            version: String::new(),
            remote: String::new(),
            role,
        }
    }

    #[test]
    fn members_agree_by_topics_and_filters_however_they_are_written() {
        let members = [
            member("1", "same", &[("a", "x || y"), ("b", "*")]),
            member("2", "same", &[("b", ""), ("a", "y||x")]),
            member("3", "same", &[]),
            member("4", "topics", &[("a", "*")]),
            member("5", "topics", &[("b", "*")]),
            member("6", "both", &[("a", "x"), ("b", "*")]),
            member("7", "both", &[("a", "y")]),
        ];
        let found = disagreements(&members);
        assert_eq!(found.len(), 2);
        assert_eq!(found["topics"], Disagreement { topics: true, filters: vec![] });
        assert_eq!(found["both"].to_string(), "members subscribe to different topics and have different filters on a");
    }
}
