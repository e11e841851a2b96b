//! Queue-based members: clients that pull queues and commit offsets.

use super::{World, at_once};
use martlet_model::record::{self, RetryOf};
use martlet_model::{QueueOffset, TopicId};
use martlet_shard::{
    Command, Output, PollId, PullCommand, PullStatus, Pulled, Refused, SendBackCommand, SendBackDelay,
};
use martlet_store::Reader;
use std::sync::Arc;

/// What a pull brought: its status, where to go on, and the places to read.
pub type Answer = (PullStatus, u64, Vec<u64>);

/// A member of a group, pulling one queue.
#[derive(Clone)]
pub struct Puller {
    pub group: &'static str,
    pub topic: TopicId,
    pub queue: u32,
    pub client: Arc<str>,
}

impl World {
    /// A member of a group that pulls queue 0 of a topic.
    pub fn puller(&self, group: &'static str, topic: &str, client: &str) -> Puller {
        Puller { group, topic: self.topic_id(topic), queue: 0, client: client.into() }
    }

    /// Pulls at most 32 places, without waiting.
    pub fn pull(&mut self, member: &Puller, from: u64) -> Answer {
        self.try_pull(member, from).unwrap()
    }

    pub fn try_pull(&mut self, member: &Puller, from: u64) -> Result<Answer, Refused> {
        let token = self.begin_pull(member, from, 0);
        self.settle();
        match self.answer_to(token) {
            Some(Output::Pulled(pulled)) => Ok(answer(&pulled)),
            Some(Output::Refused(refused)) => Err(refused),
            other => panic!("a pull was answered with {other:?}"),
        }
    }

    /// A pull that waits; see [`World::pulled`].
    pub fn begin_pull(&mut self, member: &Puller, from: u64, wait_secs: i64) -> u64 {
        let (group, until) = (self.group_id(member.group), self.now.plus(wait_secs * 1_000));
        let (topic, index, client) = (member.topic, member.queue, member.client.clone());
        self.begin(|token| {
            let (poll, from) = (PollId(1 << 40 | token), QueueOffset(from));
            let pull = PullCommand { poll, client, group, topic, index, from, most: 32, until };
            Command::Pull { pull, token }
        })
    }

    /// The answer to a pull, if it was answered.
    pub fn pulled(&mut self, token: u64) -> Option<Answer> {
        match self.answer_to(token)? {
            Output::Pulled(pulled) => Some(answer(&pulled)),
            other => panic!("a pull was answered with {other:?}"),
        }
    }

    /// Whether the commit counted.
    pub fn commit(&mut self, member: &Puller, offset: u64) -> bool {
        match self.commit_as(member, Some(member.client.clone()), offset) {
            Output::Committed(counted) => counted,
            other => panic!("a commit was answered with {other:?}"),
        }
    }

    pub fn commit_as(&mut self, member: &Puller, client: Option<Arc<str>>, offset: u64) -> Output {
        let commit = self.commit_command(member, client, offset, true);
        self.ask(commit)
    }

    /// A commit whose reply promises nothing; see [`World::answer_to`].
    pub fn commit_unpromised(&mut self, member: &Puller, offset: u64) -> u64 {
        let commit = self.commit_command(member, Some(member.client.clone()), offset, false);
        self.begin(commit)
    }

    fn commit_command(
        &self,
        member: &Puller,
        client: Option<Arc<str>>,
        offset: u64,
        promised: bool,
    ) -> impl FnOnce(u64) -> Command<u64> + use<> {
        let (group, topic, index) = (self.group_id(member.group), member.topic, member.queue);
        let (offset, forward_only) = (QueueOffset(offset), false);
        move |token| Command::CommitOffset { group, topic, index, offset, client, forward_only, promised, token }
    }

    /// Where the group is, as a member asks before its first pull.
    pub fn stored(&mut self, member: &Puller) -> Option<u64> {
        let (group, topic, index) = (self.group_id(member.group), member.topic, member.queue);
        let client = Some(member.client.clone());
        match self.ask(|token| Command::StoredOffset { group, topic, index, client, token }) {
            Output::StoredOffset { stored, .. } => stored.map(|stored| stored.0),
            other => panic!("a question for an offset was answered with {other:?}"),
        }
    }

    /// Locks the member's queue; whether it has it.
    pub fn lock(&mut self, member: &Puller) -> bool {
        let (group, client, queue) = (self.group_id(member.group), member.client.clone(), (member.topic, member.queue));
        match self.ask(|token| Command::LockQueues { group, client, queues: vec![queue], token }) {
            Output::Locked(locked) => locked == [queue],
            other => panic!("a lock was answered with {other:?}"),
        }
    }

    pub fn unlock(&mut self, member: &Puller) {
        let (group, client, queue) = (self.group_id(member.group), member.client.clone(), (member.topic, member.queue));
        let unlock = |token| Command::UnlockQueues { group, client, queues: vec![queue], token };
        assert_eq!(self.ask(unlock), Output::Done);
    }

    pub fn member_gone(&mut self, member: &Puller) {
        let (group, client) = (self.group_id(member.group), member.client.clone());
        self.turn([Command::MemberGone { group, client }]);
        self.settle();
    }
}

impl World {
    /// A member of a group that pulls its retries.
    pub fn retry_puller(&self, group: &'static str, client: &str) -> Puller {
        Puller { group, topic: TopicId::retries_of(self.group_id(group)), queue: 0, client: client.into() }
    }

    pub fn send_back(&mut self, member: &Puller, offset: u64, delay: SendBackDelay) -> Output {
        self.send_back_at_most(member, offset, delay, None)
    }

    /// Sends back a message that may be delivered so often.
    pub fn send_back_at_most(
        &mut self,
        member: &Puller,
        offset: u64,
        delay: SendBackDelay,
        attempts_max: Option<u32>,
    ) -> Output {
        let (group, offset) = (self.group_id(member.group), QueueOffset(offset));
        let topic = member.topic;
        let queue = match self.ask(|token| Command::DescribeTopic { topic, token }) {
            Output::Queues(queues) => queues[member.queue as usize].queue,
            other => panic!("a question about a topic was answered with {other:?}"),
        };
        let back = SendBackCommand { group, queue, offset, delay, attempts_max };
        self.ask(|token| Command::SendBack { back, token })
    }

    /// Of which offset a place of the retry queue is a retry, and how often that was delivered.
    pub fn retry(&mut self, retries: &Puller, place: u64) -> (u64, u32) {
        let ((_, offset), attempts) = self.retry_of(retries, place);
        (offset, attempts)
    }

    /// The same with the number of the queue.
    pub fn retry_of(&mut self, retries: &Puller, place: u64) -> ((u32, u64), u32) {
        let topic = retries.topic;
        let queue = match self.ask(|token| Command::DescribeTopic { topic, token }) {
            Output::Queues(queues) => queues[0].queue,
            other => panic!("a question about a topic was answered with {other:?}"),
        };
        let offset = QueueOffset(place);
        let message = at_once(self.reader().messages(queue, offset..offset.next(), 1, 1)).unwrap().pop().unwrap();
        let reference = record::retry_of(&message.record);
        let RetryOf { queue, offset, attempts, .. } = reference.expect("a place of the retry queue names a message");
        match self.ask(|token| Command::PlaceOf { queue, token }) {
            Output::PlaceOf(Some((_, index))) => ((index, offset.0), attempts),
            other => panic!("a question for a queue was answered with {other:?}"),
        }
    }
}

fn answer(pulled: &Pulled) -> Answer {
    let places = pulled.places.iter().flat_map(|places| places.start.0..places.end.0).collect();
    (pulled.status, pulled.next.0, places)
}
