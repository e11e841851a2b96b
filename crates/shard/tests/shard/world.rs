//! A shard on a store, with a clock to move and clients to play, so that tests read like the guide.

use crate::memory::{MemoryReader, MemoryStore};
use martlet_model::handle::{HandleError, ReceiptHandle};
use martlet_model::record::{self, Field, RecordWriter};
use martlet_model::{Filter, GroupId, RetryBackoff, TopicId, UnixMillis, limits};
use martlet_shard::{
    ClientNumber, Command, DeadLetters, GroupFacts, HalfPlace, HandOut, Incoming, LiteNotice, LoadId, Loaded, Output,
    PollId, ProgressFigures, QueueFigures, ReceiveCommand, Refused, SettleError, ShardLoop, ShardOptions, TopicFacts,
    TransactionCheck, execute,
};
use martlet_store::{ReadError, Reader, Store};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

pub mod lite;
pub mod marks;
pub mod queues;

pub const START: UnixMillis = UnixMillis(1_800_000_000_000);
const SHARD: u32 = 7;

/// Runs a future that never waits.
pub fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the store in memory never waits"),
    }
}

/// What a consumer group is made with.
#[derive(Clone)]
pub struct GroupSpec {
    max_attempts: u32,
    backoff: RetryBackoff,
    discard: bool,
    dead_letters: Option<&'static str>,
    ordered: bool,
    since: Option<UnixMillis>,
}

pub fn max_attempts(max_attempts: u32) -> GroupSpec {
    GroupSpec {
        max_attempts,
        backoff: RetryBackoff::default(),
        discard: false,
        dead_letters: None,
        ordered: false,
        since: None,
    }
}

impl GroupSpec {
    pub fn in_order(self) -> Self {
        Self { ordered: true, ..self }
    }

    /// Begins at what is stored at this time or later.
    pub fn since(self, since: UnixMillis) -> Self {
        Self { since: Some(since), ..self }
    }

    pub fn discarding(self) -> Self {
        Self { discard: true, ..self }
    }

    pub fn dead_letters_into(self, topic: &'static str) -> Self {
        Self { dead_letters: Some(topic), ..self }
    }
}

/// How to poll.
#[derive(Clone)]
pub struct Receive {
    invisible_millis: i64,
    batch: u32,
    filter: Filter,
    topic: Option<TopicId>,
    queue: Option<u32>,
    client: ClientNumber,
    auto_renew: bool,
    wait_millis: i64,
    message_group_max: u32,
    attempt_id: Option<Arc<str>>,
    client_id: Option<Arc<str>>,
    retries_only: bool,
}

pub fn invisible_secs(secs: i64) -> Receive {
    Receive {
        invisible_millis: secs * 1_000,
        batch: 32,
        filter: Filter::ALL,
        topic: None,
        queue: None,
        client: ClientNumber(1),
        auto_renew: false,
        wait_millis: 20_000,
        message_group_max: 32,
        attempt_id: None,
        client_id: None,
        retries_only: false,
    }
}

pub fn auto_renew(client: u64) -> Receive {
    Receive { auto_renew: true, client: ClientNumber(client), ..invisible_secs(60) }
}

impl Receive {
    pub fn retries_only(self) -> Self {
        Self { retries_only: true, ..self }
    }

    pub fn queue(self, index: u32) -> Self {
        Self { queue: Some(index), ..self }
    }

    pub fn batch(self, batch: u32) -> Self {
        Self { batch, ..self }
    }

    pub fn tags(self, expression: &str) -> Self {
        Self { filter: Filter::tags(expression).unwrap(), ..self }
    }

    pub fn sql(self, expression: &str) -> Self {
        Self { filter: Filter::sql(expression).unwrap(), ..self }
    }

    pub fn dead_letters_of(self, group: GroupId) -> Self {
        Self { topic: Some(TopicId::dead_letters_of(group)), ..self }
    }

    pub fn from(self, topic: TopicId) -> Self {
        Self { topic: Some(topic), ..self }
    }

    pub fn wait_secs(self, secs: i64) -> Self {
        Self { wait_millis: secs * 1_000, ..self }
    }

    pub fn attempt_id(self, id: &str) -> Self {
        Self { attempt_id: Some(id.into()), ..self }
    }

    pub fn one_of_each_message_group(self) -> Self {
        Self { message_group_max: 1, ..self }
    }

    pub fn by(self, client: u64) -> Self {
        Self { client: ClientNumber(client), ..self }
    }

    pub fn without_waiting(self) -> Self {
        Self { wait_millis: 0, ..self }
    }
}

/// One message as a client sees it.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub handle: String,
    pub attempt: u32,
    pub body: String,
    pub hand_out: HandOut,
}

#[derive(Clone, Debug)]
pub struct Received(pub Vec<Delivery>);

impl Received {
    pub fn one(mut self) -> Delivery {
        assert_eq!(self.0.len(), 1, "exactly one message was expected");
        self.0.remove(0)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In the order of the reply.
    pub fn in_order(&self) -> Vec<&str> {
        self.0.iter().map(|delivery| delivery.body.as_str()).collect()
    }

    pub fn bodies(&self) -> Vec<&str> {
        let mut bodies: Vec<_> = self.0.iter().map(|delivery| delivery.body.as_str()).collect();
        bodies.sort_unstable();
        bodies
    }
}

/// Why a handle was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AckError {
    NotAHandle(HandleError),
    Settle(SettleError),
    Refused(Refused),
}

/// A poll on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting(u64);

pub struct World {
    shard: Option<ShardLoop<MemoryStore, u64>>,
    pub options: ShardOptions,
    pub now: UnixMillis,
    pub pauses_deletion: bool,
    answers: BTreeMap<u64, Output>,
    next_token: u64,
    next_id: u32,
    topics: BTreeMap<String, TopicFacts>,
    groups: BTreeMap<String, GroupFacts>,
    loads: Vec<(LoadId, Result<Loaded, ReadError>)>,
    pub holds_loads: bool,
    polled_by: BTreeMap<u64, GroupId>,
    notices: Vec<LiteNotice>,
    /// Checks of transactions that the shard asked for, oldest first.
    pub checks: Vec<TransactionCheck>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let options = ShardOptions { shard: SHARD, new_handle_key: [seed as u8; 16], ..ShardOptions::default() };
        Self::with(options)
    }

    pub fn with(options: ShardOptions) -> Self {
        let mut world = Self {
            shard: None,
            options,
            now: START,
            pauses_deletion: false,
            answers: BTreeMap::new(),
            next_token: 0,
            next_id: 1,
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            loads: Vec::new(),
            holds_loads: false,
            polled_by: BTreeMap::new(),
            notices: Vec::new(),
            checks: Vec::new(),
        };
        world.open(MemoryStore::new());
        world
    }

    fn open(&mut self, store: MemoryStore) {
        self.shard = Some(at_once(ShardLoop::open(store, self.options.clone(), self.now)).unwrap());
        self.answers.clear();
        self.loads.clear();
        self.settle();
    }

    pub fn shard(&self) -> &ShardLoop<MemoryStore, u64> {
        self.shard.as_ref().unwrap()
    }

    pub fn shard_mut(&mut self) -> &mut ShardLoop<MemoryStore, u64> {
        self.shard.as_mut().unwrap()
    }

    pub fn store(&mut self) -> &mut MemoryStore {
        self.shard_mut().store_mut()
    }

    pub fn reader(&self) -> MemoryReader {
        self.shard().store().reader()
    }

    // The catalog.

    pub fn topic(self, name: &str, queues: u32) -> Self {
        self.topic_kept(name, queues, None)
    }

    pub fn topic_kept(mut self, name: &str, queues: u32, retention_millis: Option<i64>) -> Self {
        self.make_topic(name, queues, retention_millis);
        self
    }

    pub fn make_topic(&mut self, name: &str, queues: u32, retention_millis: Option<i64>) -> TopicId {
        let known = self.topics.get(name).map(|topic| topic.id);
        let id = known.unwrap_or_else(|| TopicId(self.take_id()));
        self.apply_topic(TopicFacts { id, retention_millis, ..facts(name, queues) });
        id
    }

    /// A topic whose queues are levels of priority.
    pub fn topic_by_priority(mut self, name: &str, queues: u32) -> Self {
        let id = TopicId(self.take_id());
        self.apply_topic(TopicFacts { id, by_priority: true, ..facts(name, queues) });
        self
    }

    /// A topic, made if it is not there, that recognises message ids for so long; `None`: not any more.
    pub fn deduplicate(&mut self, name: &str, queues: u32, deduplicate_millis: Option<i64>) {
        let new = TopicFacts { id: TopicId(self.next_id), ..facts(name, queues) };
        let known = self.topics.get(name).cloned().unwrap_or_else(|| {
            self.take_id();
            new
        });
        self.apply_topic(TopicFacts { deduplicate_millis, ..known });
    }

    fn apply_topic(&mut self, topic: TopicFacts) {
        self.topics.insert(topic.name.to_string(), topic.clone());
        assert_eq!(self.ask(|token| Command::ApplyTopic { topic, token }), Output::Done);
    }

    pub fn drop_topic(&mut self, name: &str) {
        let topic = self.topics.remove(name).unwrap().id;
        assert_eq!(self.ask(|token| Command::DropTopic { topic, token }), Output::Done);
    }

    pub fn group(mut self, name: &str, spec: GroupSpec) -> Self {
        self.make_group(name, spec);
        self
    }

    pub fn make_group(&mut self, name: &str, spec: GroupSpec) -> GroupId {
        let known = self.groups.get(name).map(|group| group.id);
        let id = known.unwrap_or_else(|| GroupId(self.take_id()));
        let into = spec.dead_letters.map(|topic| self.topics.get(topic).map_or(TopicId(999_999), |topic| topic.id));
        let dead_letters = match spec.discard {
            true => DeadLetters::Discard,
            false => DeadLetters::Topic(into.unwrap_or(TopicId::dead_letters_of(id))),
        };
        let GroupSpec { max_attempts, backoff, ordered, since, .. } = spec;
        let group =
            GroupFacts { id, name: name.into(), max_attempts, backoff, dead_letters, ordered, since, lite: None };
        self.groups.insert(name.into(), group.clone());
        assert_eq!(self.ask(|token| Command::ApplyGroup { group, token }), Output::Done);
        id
    }

    pub fn drop_group(&mut self, name: &str) {
        let group = self.groups.remove(name).unwrap().id;
        assert_eq!(self.ask(|token| Command::DropGroup { group, token }), Output::Done);
    }

    fn take_id(&mut self) -> u32 {
        self.next_id += 1;
        self.next_id - 1
    }

    pub fn topic_id(&self, name: &str) -> TopicId {
        self.topics[name].id
    }

    pub fn group_id(&self, name: &str) -> GroupId {
        self.groups[name].id
    }

    // Producers.

    pub fn send(&mut self, topic: &str, body: &str) {
        self.send_all(topic, &[body]);
    }

    pub fn send_all(&mut self, topic: &str, bodies: &[&str]) {
        let token = self.begin_send(topic, bodies, None);
        self.settle();
        assert!(matches!(self.answer_to(token), Some(Output::Sent(places)) if places.len() == bodies.len()));
    }

    pub fn send_tagged(&mut self, topic: &str, tag: &str, body: &str) {
        let token = self.begin_send(topic, &[body], Some(tag));
        self.settle();
        assert!(matches!(self.answer_to(token), Some(Output::Sent(_))));
    }

    /// A send that is under way; see [`World::answer_to`].
    pub fn begin_send(&mut self, topic: &str, bodies: &[&str], tag: Option<&str>) -> u64 {
        let topic = self.topics[topic].id;
        let messages = bodies.iter().map(|body| incoming(body, tag, None)).collect();
        self.begin(|token| Command::Send { topic, messages, deadline: None, token })
    }

    /// Sends messages of message groups, in one request; gives back queue number and offset of each.
    pub fn send_grouped(&mut self, topic: &str, messages: &[(&str, &str)]) -> Vec<(u32, u64)> {
        let topic = self.topics[topic].id;
        let messages = messages.iter().map(|(group, body)| incoming(body, None, Some(group))).collect();
        match self.ask(|token| Command::Send { topic, messages, deadline: None, token }) {
            Output::Sent(places) => places.into_iter().map(|(queue, offset)| (queue, offset.0)).collect(),
            other => panic!("a send was answered with {other:?}"),
        }
    }

    /// Sends messages with a priority, in one request; gives back queue number and offset of each.
    pub fn send_by_priority(&mut self, topic: &str, messages: &[(i32, &str)]) -> Vec<(u32, u64)> {
        let topic = self.topics[topic].id;
        let incoming = |&(priority, body): &(i32, &str)| {
            let record = record::with_fields(&message(body, None), &[Field::Priority(priority)]).unwrap();
            Incoming { record, terms: Vec::new(), message_group: None, lite_topic: None }
        };
        let messages = messages.iter().map(incoming).collect();
        match self.ask(|token| Command::Send { topic, messages, deadline: None, token }) {
            Output::Sent(places) => places.into_iter().map(|(queue, offset)| (queue, offset.0)).collect(),
            other => panic!("a send was answered with {other:?}"),
        }
    }

    /// A half message that is on its way; see [`World::answer_to`]. A *polled* one is asked for, instead of its producer.
    pub fn begin_half(&mut self, topic: &str, record: bytes::Bytes, immunity_millis: Option<i64>, polled: bool) -> u64 {
        let topic = self.topics[topic].id;
        self.begin(|token| Command::SendHalf { topic, record, immunity_millis, polled, deadline: None, token })
    }

    /// Sends a half message; gives back its place and when its transaction began.
    pub fn send_half(
        &mut self,
        topic: &str,
        record: bytes::Bytes,
        immunity_millis: Option<i64>,
        polled: bool,
    ) -> (HalfPlace, UnixMillis) {
        let token = self.begin_half(topic, record, immunity_millis, polled);
        self.settle();
        match self.answer_to(token) {
            Some(Output::Half(place, began)) => (place, began),
            other => panic!("a half message was answered with {other:?}"),
        }
    }

    // Consumers.

    pub fn receive(&mut self, group: &str, how: Receive) -> Received {
        let poll = self.poll(group, how);
        self.settle();
        self.received(poll).unwrap_or_else(|| {
            self.cancel(poll);
            Received(Vec::new())
        })
    }

    /// A poll that waits; see [`World::received`].
    pub fn poll(&mut self, group: &str, how: Receive) -> Waiting {
        let group = self.groups[group].id;
        let topic = how.topic.unwrap_or_else(|| self.topics.values().map(|topic| topic.id).min().unwrap());
        let until = self.now.plus(how.wait_millis);
        let poll = PollId(self.next_token);
        let receive = ReceiveCommand {
            poll,
            client: how.client,
            group,
            topic,
            queue: how.queue,
            filter: Arc::new(how.filter),
            batch_size: how.batch,
            invisible_millis: how.invisible_millis,
            renew_for_millis: how.auto_renew.then_some(limits::AUTO_RENEW_TOTAL_MILLIS),
            retries_only: how.retries_only,
            until,
            message_group_max: how.message_group_max,
            attempt_id: how.attempt_id,
            client_id: how.client_id,
        };
        self.polled_by.insert(self.next_token, group);
        Waiting(self.begin(|token| Command::Receive { receive, token }))
    }

    /// The answer to a poll, if it was answered.
    pub fn received(&mut self, poll: Waiting) -> Option<Received> {
        match self.answers.remove(&poll.0)? {
            Output::Delivered(hand_outs) => {
                Some(Received(hand_outs.into_iter().map(|hand_out| self.delivery(poll.0, hand_out)).collect()))
            }
            other => panic!("a poll was answered with {other:?}"),
        }
    }

    /// Why a poll was refused, if it was.
    pub fn refused(&mut self, poll: Waiting) -> Option<Refused> {
        match self.answers.remove(&poll.0)? {
            Output::Refused(refused) => Some(refused),
            other => panic!("a poll that was to be refused was answered with {other:?}"),
        }
    }

    pub fn cancel(&mut self, poll: Waiting) {
        self.turn([Command::CancelPoll { poll: PollId(poll.0) }]);
    }

    fn delivery(&self, poll: u64, hand_out: HandOut) -> Delivery {
        let HandOut { queue, offset, .. } = hand_out;
        let message = at_once(self.reader().messages(queue, offset..offset.next(), 1, 1)).unwrap().pop();
        let record = message.expect("a message that is handed out can be read").record;
        let group = self.polled_by[&poll];
        let handle =
            ReceiptHandle { shard: SHARD, group, topic: hand_out.topic, queue, offset, delivery: hand_out.delivery };
        Delivery {
            handle: handle.encode(&self.shard().shard().handle_key().1),
            attempt: hand_out.attempt,
            body: String::from_utf8(record::body(&record).unwrap().to_vec()).unwrap(),
            hand_out,
        }
    }

    pub fn decode(&self, handle: &str) -> Result<ReceiptHandle, AckError> {
        ReceiptHandle::decode(handle, &self.shard().shard().handle_key().1).map_err(AckError::NotAHandle)
    }

    pub fn ack(&mut self, handle: &str) -> Result<(), AckError> {
        self.ack_together(&[handle])?.remove(0).map_err(AckError::Settle)
    }

    /// Acknowledges with one request: an answer per handle.
    pub fn ack_together(&mut self, handles: &[&str]) -> Result<Vec<Result<(), SettleError>>, AckError> {
        let handles = handles.iter().map(|handle| self.decode(handle)).collect::<Result<_, _>>()?;
        match self.ask(|token| Command::Ack { handles, token }) {
            Output::Acked(answers) => Ok(answers),
            Output::Refused(refused) => Err(AckError::Refused(refused)),
            other => panic!("an ack was answered with {other:?}"),
        }
    }

    pub fn change_invisible(&mut self, handle: &str, secs: i64) -> Result<String, AckError> {
        let handle = self.decode(handle)?;
        match self.ask(|token| Command::ChangeInvisible {
            handle,
            invisible_millis: secs * 1_000,
            suspend: false,
            token,
        }) {
            Output::Changed(Ok(handle)) => Ok(handle.encode(&self.shard().shard().handle_key().1)),
            Output::Changed(Err(error)) => Err(AckError::Settle(error)),
            other => panic!("a change of invisibility was answered with {other:?}"),
        }
    }

    pub fn forward_to_dead_letters(&mut self, handle: &str) -> Result<(), AckError> {
        let handle = self.decode(handle)?;
        match self.ask(|token| Command::DeadLetter { handle, token }) {
            Output::Settled(answer) => answer.map_err(AckError::Settle),
            Output::Refused(refused) => Err(AckError::Refused(refused)),
            other => panic!("a move to the dead letters was answered with {other:?}"),
        }
    }

    pub fn undo(&mut self, handle: &str) {
        let handles = vec![self.decode(handle).unwrap()];
        self.turn([Command::Undo { handles }]);
        self.settle();
    }

    pub fn client_leaves(&mut self, client: u64) {
        self.turn([Command::ClientLeaves { client: ClientNumber(client) }]);
        self.settle();
    }

    pub fn client_gone(&mut self, client: u64) {
        self.turn([Command::ClientGone { client: ClientNumber(client) }]);
        self.settle();
    }

    // Figures.

    pub fn progress_of(&mut self, group: &str) -> (Vec<ProgressFigures>, u64) {
        let group = self.groups[group].id;
        match self.ask(|token| Command::DescribeGroup { group, token }) {
            Output::Progress(figures, dead_letters) => (figures, dead_letters),
            other => panic!("a question about a group was answered with {other:?}"),
        }
    }

    pub fn queues_of(&mut self, topic: &str) -> Vec<QueueFigures> {
        let topic = self.topics[topic].id;
        match self.ask(|token| Command::DescribeTopic { topic, token }) {
            Output::Queues(figures) => figures,
            other => panic!("a question about a topic was answered with {other:?}"),
        }
    }

    // Time and faults.

    pub fn advance_secs(&mut self, secs: i64) {
        self.advance_millis(secs * 1_000);
    }

    /// Moves the clock, stopping wherever the shard wants to be woken.
    pub fn advance_millis(&mut self, millis: i64) {
        let end = self.now.plus(millis);
        while let Some(at) = self.settle().filter(|&at| at <= end) {
            self.now = self.now.max(at);
        }
        self.now = end;
        self.settle();
    }

    /// Batches are written but do not become durable until [`World::sync`].
    pub fn hold_syncs(&mut self) {
        self.store().holds_syncs = true;
    }

    pub fn sync(&mut self) {
        self.store().sync();
        self.store().holds_syncs = false;
        self.settle();
    }

    /// Power fails; what was not synced is gone. The shard opens again.
    pub fn crash(&mut self) {
        let store = std::mem::replace(self.store(), MemoryStore::new());
        self.open(store.crash());
    }

    // The loop.

    /// Sends a command and waits for its answer.
    pub fn ask(&mut self, command: impl FnOnce(u64) -> Command<u64>) -> Output {
        let token = self.begin(command);
        self.settle();
        self.answer_to(token).expect("a command is answered")
    }

    /// Sends a command.
    pub fn begin(&mut self, command: impl FnOnce(u64) -> Command<u64>) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        let command = command(token);
        self.turn([command]);
        token
    }

    pub fn answer_to(&mut self, token: u64) -> Option<Output> {
        self.answers.remove(&token)
    }

    /// One turn. What the shard wants to read is read at once, and given back by the next turn.
    pub fn turn(&mut self, commands: impl IntoIterator<Item = Command<u64>>) -> Option<UnixMillis> {
        let loaded: Vec<_> = match self.holds_loads {
            true => Vec::new(),
            false => self.loads.drain(..).map(|(id, result)| Command::Loaded { id, result }).collect(),
        };
        let (now, paused) = (self.now, self.pauses_deletion);
        let turn = self.shard_mut().turn(now, paused, loaded.into_iter().chain(commands));
        let reader = self.reader();
        self.checks.extend(turn.checks);
        self.loads.extend(turn.loads.iter().map(|(id, load)| (*id, at_once(execute(&reader, load)))));
        self.notices.extend(turn.notices);
        for (token, output) in turn.replies {
            assert!(self.answers.insert(token, output).is_none(), "a command is answered once");
        }
        turn.next_wakeup
    }

    /// Turns until nothing is left to do at this time; gives back when there is.
    pub fn settle(&mut self) -> Option<UnixMillis> {
        for _ in 0..10_000 {
            let next = self.turn([]);
            let reads = !self.loads.is_empty() && !self.holds_loads;
            let writes = !self.shard().is_idle() && !self.shard().store().holds_syncs && self.shard().store().ready();
            if !reads && !writes && next.is_none_or(|next| next > self.now) {
                return next;
            }
        }
        panic!("the shard does not come to rest");
    }
}

/// A topic with so many queues and nothing special.
fn facts(name: &str, queues: u32) -> TopicFacts {
    TopicFacts {
        id: TopicId(0),
        name: name.into(),
        read_queues: queues,
        write_queues: queues,
        retention_millis: None,
        by_priority: false,
        lite: None,
        deduplicate_millis: None,
    }
}

/// A message with this body, as a broker hands it over.
pub fn incoming(body: &str, tag: Option<&str>, message_group: Option<&str>) -> Incoming {
    let mut record = message(body, tag);
    if let Some(group) = message_group {
        record = record::with_fields(&record, &[Field::MessageGroup(group)]).unwrap();
    }
    Incoming {
        record,
        terms: Vec::new(),
        message_group: message_group.map(martlet_shard::message_group),
        lite_topic: None,
    }
}

/// A record with this body.
pub fn message(body: &str, tag: Option<&str>) -> bytes::Bytes {
    let mut writer = RecordWriter::with_capacity(body.len() + 16);
    writer.field(Field::MessageId(body));
    if let Some(tag) = tag {
        writer.field(Field::Tag(tag));
    }
    writer.finish(body.as_bytes())
}
