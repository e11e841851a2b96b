//! Lite topics: parents, groups, and clients that subscribe.

use super::*;
use martlet_model::LiteResets;
use martlet_shard::{LiteAction, LiteGroup, LiteParent, LiteStart, LiteSync};

/// A parent that keeps its lite topics for ever.
pub const LASTING: LiteParent = LiteParent { expire_millis: None, expire_unconsumed: false, topics_max: 1_000 };

impl World {
    /// A parent of lite topics.
    pub fn lite_parent(mut self, name: &str, lite: LiteParent) -> Self {
        self.make_lite_parent(name, lite, None);
        self
    }

    pub fn make_lite_parent(&mut self, name: &str, lite: LiteParent, retention_millis: Option<i64>) -> TopicId {
        let known = self.topics.get(name).map(|topic| topic.id);
        let id = known.unwrap_or_else(|| TopicId(self.take_id()));
        let (read_queues, write_queues, by_priority, lite) = (1, 1, false, Some(lite));
        let topic = TopicFacts {
            deduplicate_millis: None,
            id,
            name: name.into(),
            read_queues,
            write_queues,
            retention_millis,
            by_priority,
            lite,
        };
        self.topics.insert(name.into(), topic.clone());
        assert_eq!(self.ask(|token| Command::ApplyTopic { topic, token }), Output::Done);
        id
    }

    /// A group of consumers of its lite topics; five attempts.
    pub fn lite_group(self, name: &str, parent: &str, exclusive: bool, subscriptions_max: u32) -> Self {
        let parent = self.topics[parent].id;
        let resets = LiteResets::default();
        self.group_of_lite(name, LiteGroup { parent, exclusive, subscriptions_max, wildcard: false, resets })
    }

    /// A group in which something moves it back; a lite topic is one client's at a time.
    pub fn resetting_group(self, name: &str, parent: &str, resets: LiteResets) -> Self {
        let parent = self.topics[parent].id;
        let (exclusive, wildcard, subscriptions_max) = (true, false, 100);
        self.group_of_lite(name, LiteGroup { parent, exclusive, subscriptions_max, wildcard, resets })
    }

    /// A group all of whose clients consume all of its lite topics; five attempts.
    pub fn wildcard_group(self, name: &str, parent: &str) -> Self {
        let parent = self.topics[parent].id;
        self.group_of_lite(
            name,
            LiteGroup { parent, exclusive: false, subscriptions_max: 1, wildcard: true, resets: LiteResets::default() },
        )
    }

    fn group_of_lite(mut self, name: &str, lite: LiteGroup) -> Self {
        let lite = Some(lite);
        let id = GroupId(self.take_id());
        let group = GroupFacts {
            id,
            name: name.into(),
            max_attempts: 5,
            backoff: RetryBackoff::default(),
            dead_letters: DeadLetters::Topic(TopicId::dead_letters_of(id)),
            ordered: false,
            since: None,
            lite,
        };
        self.groups.insert(name.into(), group.clone());
        assert_eq!(self.ask(|token| Command::ApplyGroup { group, token }), Output::Done);
        self
    }

    pub fn send_lite(&mut self, parent: &str, lite_topic: &str, bodies: &[&str]) {
        let sent = self.try_send_lite(parent, &bodies.iter().map(|&body| (lite_topic, body)).collect::<Vec<_>>());
        assert!(matches!(sent, Output::Sent(places) if places.len() == bodies.len()));
    }

    /// Messages of lite topics, in one request.
    pub fn try_send_lite(&mut self, parent: &str, messages: &[(&str, &str)]) -> Output {
        let token = self.begin_send_lite(parent, messages);
        self.settle();
        self.answer_to(token).expect("a send is answered")
    }

    pub fn begin_send_lite(&mut self, parent: &str, messages: &[(&str, &str)]) -> u64 {
        let topic = self.topics[parent].id;
        let messages = messages
            .iter()
            .map(|&(name, body)| {
                let record = record::with_fields(&message(body, None), &[Field::LiteTopic(name)]).unwrap();
                Incoming { record, terms: Vec::new(), message_group: None, lite_topic: Some(name.into()) }
            })
            .collect();
        self.begin(|token| Command::Send { topic, messages, deadline: None, token })
    }

    /// What a client says of its lite topics.
    pub fn sync_lite(&mut self, group: &str, client: u64, action: LiteAction, names: &[&str]) -> Output {
        self.sync_version(group, client, action, names, None)
    }

    pub fn sync_version(
        &mut self,
        group: &str,
        client: u64,
        action: LiteAction,
        names: &[&str],
        version: Option<i64>,
    ) -> Output {
        let token = self.begin_sync_version(group, client, action, names, version);
        self.settle();
        self.answer_to(token).expect("a synchronisation is answered")
    }

    pub fn begin_sync(&mut self, group: &str, client: u64, action: LiteAction, names: &[&str]) -> u64 {
        self.begin_sync_version(group, client, action, names, None)
    }

    fn begin_sync_version(
        &mut self,
        group: &str,
        client: u64,
        action: LiteAction,
        names: &[&str],
        version: Option<i64>,
    ) -> u64 {
        let facts = &self.groups[group];
        let (group, topic) = (facts.id, facts.lite.map_or(TopicId(0), |lite| lite.parent));
        let names = names.iter().map(|&name| name.into()).collect();
        let client_id = format!("client-{client}").into();
        let client = ClientNumber(client);
        let sync = LiteSync { client, client_id, group, topic, action, names, version };
        self.begin(|token| Command::SyncLite { sync, token })
    }

    pub fn subscribe_lite(&mut self, group: &str, client: u64, names: &[&str]) {
        assert_eq!(self.sync_lite(group, client, LiteAction::Add(LiteStart::Last), names), Output::Done);
    }

    pub fn suspend(&mut self, handle: &str, secs: i64) -> Result<String, AckError> {
        let handle = self.decode(handle)?;
        let millis = secs * 1_000;
        match self.ask(|token| Command::ChangeInvisible { handle, invisible_millis: millis, suspend: true, token }) {
            Output::Changed(Ok(handle)) => Ok(handle.encode(&self.shard().shard().handle_key().1)),
            Output::Changed(Err(error)) => Err(AckError::Settle(error)),
            other => panic!("a suspension was answered with {other:?}"),
        }
    }

    /// Clients told that a lite subscription has ended, by number, and its name.
    pub fn told(&mut self) -> Vec<(String, String)> {
        let notices = std::mem::take(&mut self.notices);
        notices.into_iter().map(|notice| (notice.client_id.to_string(), notice.lite_topic.to_string())).collect()
    }
}

impl Receive {
    /// As this client of a group of lite topics.
    pub fn lite(self, parent: TopicId, client: u64) -> Self {
        let client_id = Some(format!("client-{client}").into());
        Self { topic: Some(parent), client: ClientNumber(client), client_id, ..self }
    }
}
