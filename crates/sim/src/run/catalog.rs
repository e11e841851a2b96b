//! Topics and groups: how they are made, and what a broker tells a shard of them.

use super::*;

pub(super) struct Topic {
    pub facts: TopicFacts,
}

pub(super) struct Group {
    pub facts: GroupFacts,
    /// Index of the topic it consumes.
    pub topic: usize,
    /// What its members subscribe to, in turn.
    pub filters: Vec<MemberFilter>,
    /// When it was made.
    pub born: UnixMillis,
}

#[derive(Clone)]
pub(super) struct MemberFilter {
    pub filter: Arc<Filter>,
    /// Which tags that lets pass; `None`: any, and none at all.
    pub tags: Option<&'static [&'static str]>,
}

impl MemberFilter {
    /// Whether a message with this tag, by its number, passes.
    pub fn wants(&self, tag: usize) -> bool {
        self.tags.is_none_or(|tags| tags.contains(&TAGS[tag]))
    }
}

impl Group {
    /// Whether some member wants a message with this tag.
    pub fn wants(&self, tag: usize) -> bool {
        self.filters.iter().any(|filter| filter.wants(tag))
    }

    /// What the client of this number subscribes to.
    pub fn filter_of(&self, client: u64) -> &MemberFilter {
        &self.filters[client as usize / 3 % self.filters.len()]
    }
}

impl<G: Ground> Run<G> {
    /// Whether a topic is there, and neither deleted nor about to be.
    pub(super) fn is_live(&self, topic: TopicId) -> bool {
        self.topics.iter().any(|live| live.facts.id == topic)
    }

    pub(super) fn new_topic(&mut self, index: usize) -> Topic {
        self.next_id += 1;
        let queues = 1 + self.random.below(3) as u32;
        let facts = TopicFacts {
            id: TopicId(self.next_id),
            name: format!("topic{index}").into(),
            read_queues: queues,
            write_queues: queues,
            retention_millis: None,
            by_priority: index != lite::PARENT && self.random.one_in(3),
            lite: (index == lite::PARENT).then_some(LiteParent {
                expire_millis: self.random.one_in(2).then_some(600_000),
                expire_unconsumed: false,
                topics_max: 100,
            }),
            deduplicate_millis: (index != lite::PARENT && self.random.one_in(2)).then_some(WINDOW_MILLIS),
        };
        Topic { facts }
    }

    pub(super) fn new_group(&mut self, index: usize) -> Group {
        self.next_id += 1;
        let id = GroupId(self.next_id);
        let discards = index == 1 && self.random.one_in(2);
        let facts = GroupFacts {
            id,
            name: format!("group{index}").into(),
            max_attempts: 2 + self.random.below(6) as u32,
            backoff: RetryBackoff::default(),
            dead_letters: match discards {
                true => DeadLetters::Discard,
                false => DeadLetters::Topic(TopicId::dead_letters_of(id)),
            },
            ordered: index != lite::GROUP && self.random.one_in(2),
            since: None,
            lite: (index == lite::GROUP).then(|| LiteGroup {
                parent: self.topics[lite::PARENT].facts.id,
                exclusive: self.random.one_in(2),
                subscriptions_max: 100,
                wildcard: false,
                resets: Default::default(),
            }),
        };
        let member = |filter, tags| MemberFilter { filter: Arc::new(filter), tags };
        let tags = |tags: &[&str]| Filter::Tags(TagFilter::AnyOf(tags.iter().map(|&tag| tag.to_owned()).collect()));
        let filters = match index {
            2 => {
                let sql = Filter::sql("TAGS in ('a', 'b') AND x IS NULL").unwrap_or(Filter::ALL);
                let first = if self.random.one_in(2) { sql } else { tags(&["a", "b"]) };
                // Half of the time the members disagree; not where one's message may wait for another's.
                let disagree = self.random.one_in(2) && !facts.ordered;
                let second = disagree.then(|| member(tags(&["c"]), Some(&["c"][..])));
                std::iter::once(member(first, Some(&["a", "b"][..]))).chain(second).collect()
            }
            _ => vec![member(Filter::ALL, None)],
        };
        let topic = if index == lite::GROUP { lite::PARENT } else { index % 2 };
        Group { facts, topic, filters, born: self.now }
    }

    /// As a broker does after a start: what is to be, and what is to go.
    pub(super) fn apply_catalog(&mut self) {
        for topic in self.dropped_topics.clone() {
            self.catalog(|token| Command::DropTopic { topic, token });
        }
        for group in self.dropped_groups.clone() {
            self.catalog(|token| Command::DropGroup { group, token });
        }
        let topics: Vec<_> = self.topics.iter().map(|topic| topic.facts.clone()).collect();
        let groups: Vec<_> = self.groups.iter().map(|group| group.facts.clone()).collect();
        for topic in topics {
            self.catalog(|token| Command::ApplyTopic { topic, token });
        }
        for group in groups {
            self.catalog(|token| Command::ApplyGroup { group, token });
        }
        self.subscribe(true);
    }

    /// All members say what they subscribe to, as connected ones do. `unknown_only`: where the shard does not know it from
    /// before, because it was opened; whoever it knows takes some time to come back.
    pub(super) fn subscribe(&mut self, unknown_only: bool) {
        for at in 0..self.groups.len() {
            let (group, topic) = (self.groups[at].facts.id, self.topics[self.groups[at].topic].facts.id);
            let known = self.shard.as_ref().map_or(0, |shard| shard.shard().live_subscriptions(group, topic));
            if self.groups[at].filters.len() < 2 || unknown_only && known >= self.groups[at].filters.len() {
                continue;
            }
            for member in self.groups[at].filters.clone() {
                self.inbox.push(Command::Subscribe { group, topic, filter: member.filter });
            }
        }
    }

    pub(super) fn catalog(&mut self, command: impl FnOnce(u64) -> Command<u64>) {
        self.ask(Pending::Catalog, command);
    }
}
