//! Whether the members of a consumer group want the same. They should; where they do not, all are served all the same (see
//! `martlet_shard`'s subscriptions), and it is reported: in the log, in metrics, in a group's status, to clients in the
//! answer to their settings.

use crate::{Broker, ClientRole, MemberInfo};
use martlet_model::Filter;
use martlet_model::names::RETRY_PREFIX;
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
    /// Some broadcast, others share messages.
    pub models: bool,
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
        if self.models {
            parts.push("differ in broadcasting, which takes effect for all whose protocol has it".to_owned());
        }
        write!(f, "members {}", parts.join(" and "))
    }
}

impl Disagreement {
    /// What members of one group differ in; `None`: they agree. Those that never said what they subscribe to are left out.
    pub fn of(members: &[MemberInfo]) -> Option<Self> {
        let models = members.iter().any(|member| Some(member.model) != members.first().map(|first| first.model));
        let mut found = Self { models, ..Self::default() };
        let mut topics: Option<BTreeSet<&str>> = None;
        let mut filters: BTreeMap<&str, &Filter> = BTreeMap::new();
        let mut differ: BTreeSet<&str> = BTreeSet::new();
        for member in members {
            // Those that broadcast have no use for retries.
            let wanted = || member.subscriptions.iter().filter(|wanted| !wanted.topic.starts_with(RETRY_PREFIX));
            let named: BTreeSet<&str> = wanted().map(|wanted| wanted.topic.as_str()).collect();
            if named.is_empty() {
                continue;
            }
            found.topics |= topics.get_or_insert_with(|| named.clone()) != &named;
            for wanted in wanted() {
                if *filters.entry(&wanted.topic).or_insert(&wanted.filter) != &*wanted.filter {
                    differ.insert(&wanted.topic);
                }
            }
        }
        found.filters = differ.into_iter().take(TOPICS_NAMED).map(str::to_owned).collect();
        (found != Self::default()).then_some(found)
    }
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
        Disagreement::of(&self.members(group))
    }

    /// Writes new disagreements to the log, and old ones now and then.
    pub(crate) fn log_disagreements(&self, told: &mut Told) {
        let now = Instant::now();
        let groups = self.members_of_groups().into_iter();
        let found: BTreeMap<_, _> =
            groups.filter_map(|(group, members)| Some((group, Disagreement::of(&members)?))).collect();
        told.retain(|group, _| found.contains_key(group));
        for (group, disagreement) in found {
            let known = told.get(&group);
            if known.is_none_or(|(last, at)| *last != disagreement || now.duration_since(*at) > LOG_AGAIN) {
                tracing::warn!("consumer group {group}: {disagreement}");
                told.insert(group, (disagreement, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConsumeFrom, MemberKind, MemberSubscription, MessageModel};

    fn member(kind: MemberKind, model: MessageModel, subscriptions: &[(&str, &str)]) -> MemberInfo {
        let subscription = |(topic, tags): &(&str, &str)| MemberSubscription {
            topic: (*topic).to_owned(),
            filter: Arc::new(Filter::tags(tags).unwrap_or(Filter::ALL)),
            version: 0,
        };
        MemberInfo {
            client_id: "".into(),
            kind,
            connection: None,
            model,
            from: ConsumeFrom::default(),
            subscriptions: subscriptions.iter().map(subscription).collect(),
            language: String::new(),
            version: String::new(),
            remote: String::new(),
        }
    }

    #[test]
    fn members_agree_by_topics_and_filters_however_they_are_written() {
        let said = |members: &[&[(&str, &str)]]| {
            let member = |subscriptions: &&[_]| member(MemberKind::Push, MessageModel::Clustering, subscriptions);
            let members: Vec<_> = members.iter().map(member).collect();
            Disagreement::of(&members).map(|found| found.to_string())
        };
        assert_eq!(said(&[&[("a", "x || y"), ("b", "*")], &[("b", ""), ("a", "y||x")], &[]]), None);
        let topics = "members subscribe to different topics";
        assert_eq!(said(&[&[("a", "*")], &[("b", "*")]]).as_deref(), Some(topics));
        let both = format!("{topics} and have different filters on a");
        assert_eq!(said(&[&[("a", "x"), ("b", "*")], &[("a", "y")]]), Some(both));
    }

    #[test]
    fn members_that_broadcast_beside_others_are_reported() {
        let one = member(MemberKind::QueueBased, MessageModel::Clustering, &[("a", "*"), ("%RETRY%billing", "*")]);
        let other = member(MemberKind::QueueBased, MessageModel::Broadcasting, &[("a", "*")]);
        let by_message = member(MemberKind::Push, MessageModel::Clustering, &[("a", "*")]);
        let differ = Some(Disagreement { models: true, ..Disagreement::default() });
        assert_eq!(Disagreement::of(&[one.clone(), by_message.clone()]), None);
        assert_eq!(Disagreement::of(&[other.clone(), by_message]), differ);
        assert_eq!(Disagreement::of(&[one, other]), differ);
    }
}
