//! What clients are asked: each polls for it, so it waits here. And that a client ends: it waits for the answers to all it has asked,
//! so its polls are then answered at once.
//!
//! Bounds: `Limits::clients_max` clients, about 64 commands each; messages in commands that wait have 16 MiB in all. What waits for a
//! client whose poll is lost, or that does not poll again, is dropped within 30 s of other polls; one that has neither polled nor sent a
//! heartbeat for 120 s is forgotten.

use crate::code::Denied;
use crate::proto::rocketmq_v1::poll_command_response::Type;
use crate::proto::v2::Code;
use crate::sessions::{CommandBytes, Share, lock};
use martlet_model::limits::CLIENT_EXPIRY_MILLIS;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Commands that wait for one client.
const WAITING_MAX: usize = 64;
/// A client polls again within this time after an answer, or it is gone.
const POLLS_AGAIN: Duration = Duration::from_secs(5);
/// Clients that are silent are looked for so often, when others are not.
const SWEEP_EVERY: Duration = Duration::from_secs(30);

/// A command on its way to a client, and its share of the bytes that may wait.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) command: Type,
    pub(super) share: Share,
}

/// What waits for one client.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Waiting>>,
    bell: Notify,
    /// The client has said good-bye.
    ended: watch::Sender<bool>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: Mutex::default(), bell: Notify::new(), ended: watch::Sender::new(false) }
    }
}

impl Queue {
    /// Completes when the client says good-bye; at once if it has. It may go on to settle what it has.
    pub(super) async fn ended(&self) {
        // It cannot fail: the sender is there.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Leaves a command for the client.
    pub(super) fn push(&self, waiting: Waiting) {
        lock(&self.waiting).push_back(waiting);
        self.bell.notify_one();
    }

    /// The oldest, when there is one. Dropping the future loses nothing.
    pub(super) async fn next(&self) -> Waiting {
        loop {
            if let Some(waiting) = lock(&self.waiting).pop_front() {
                return waiting;
            }
            self.bell.notified().await;
        }
    }
}

/// A poll for commands under way.
#[derive(Debug)]
pub(super) struct Listening<'a> {
    commands: &'a Commands,
    client_id: Arc<str>,
    pub(super) queue: Arc<Queue>,
}

impl Listening<'_> {
    /// It is answered: the client will poll again.
    pub(super) fn answered(self) {
        if let Some(client) = lock(&self.commands.state).clients.get_mut(&self.client_id) {
            client.answered = Some(Instant::now());
        }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        if let Some(client) = lock(&self.commands.state).clients.get_mut(&self.client_id) {
            client.polls = client.polls.saturating_sub(1);
            if !client.is_there() {
                // Others are asked instead.
                lock(&client.queue.waiting).clear();
            }
        }
    }
}

/// Commands of all clients.
#[derive(Debug)]
pub(crate) struct Commands {
    state: Mutex<State>,
    bytes: CommandBytes,
    clients_max: usize,
}

#[derive(Debug, Default)]
struct State {
    clients: HashMap<Arc<str>, Client>,
    swept: Option<Instant>,
    /// Producers by group.
    producers: BTreeMap<String, BTreeSet<Arc<str>>>,
    /// Goes round among the producers of a group.
    turn: usize,
}

#[derive(Debug)]
struct Client {
    queue: Arc<Queue>,
    /// Of a producer: its group, and the namespace that it names topics in.
    producer: Option<(String, String)>,
    /// Polls for commands under way.
    polls: usize,
    /// When the last of these was answered: the next will come at once.
    answered: Option<Instant>,
    seen: Instant,
}

impl Commands {
    pub(crate) fn new(clients_max: usize) -> Self {
        Self { state: Mutex::default(), bytes: CommandBytes::default(), clients_max }
    }

    /// What waits for a client, which polls, if not for this then for messages.
    pub(super) fn of(&self, client_id: &Arc<str>) -> Result<Arc<Queue>, Denied> {
        let mut state = lock(&self.state);
        Ok(state.client(client_id, self.clients_max)?.queue.clone())
    }

    /// The same; what it is asked, it hears, until that is dropped.
    pub(super) fn listen(&self, client_id: &Arc<str>) -> Result<Listening<'_>, Denied> {
        let mut state = lock(&self.state);
        let client = state.client(client_id, self.clients_max)?;
        client.polls += 1;
        Ok(Listening { commands: self, client_id: client_id.clone(), queue: client.queue.clone() })
    }

    /// A client says that it is a producer of a group, and in which namespace its names are.
    pub(super) fn producer_seen(&self, client_id: &Arc<str>, group: String, namespace: String) -> Result<(), Denied> {
        let mut state = lock(&self.state);
        let client = state.client(client_id, self.clients_max)?;
        let before = client.producer.replace((group.clone(), namespace));
        if before.as_ref().is_none_or(|(before, _)| *before != group) {
            before.iter().for_each(|(before, _)| state.leave(before, client_id));
            state.producers.entry(group).or_default().insert(client_id.clone());
        }
        Ok(())
    }

    /// A client has said good-bye. It is remembered for a while, as it may poll once more.
    pub(super) fn gone(&self, client_id: &Arc<str>) -> Result<(), Denied> {
        let mut state = lock(&self.state);
        let client = state.client(client_id, self.clients_max)?;
        client.queue.ended.send_replace(true);
        lock(&client.queue.waiting).clear();
        if let Some((group, _)) = client.producer.take() {
            state.leave(&group, client_id);
        }
        Ok(())
    }

    /// Whether a producer of this group polls.
    pub(crate) fn any_listens(&self, group: &str) -> bool {
        let state = lock(&self.state);
        state.producers_of(group).any(|client| client.is_there())
    }

    /// Whether a client has said good-bye.
    pub(super) fn has_ended(&self, client_id: &str) -> bool {
        lock(&self.state).clients.get(client_id).is_some_and(|client| *client.queue.ended.borrow())
    }

    /// A producer of this group that hears what it is asked, another one first each time. `None`: there is none, or each has as much
    /// to answer as it may.
    pub(super) fn taker(&self, group: &str) -> Option<Taker> {
        let mut state = lock(&self.state);
        state.turn = state.turn.wrapping_add(1);
        let count = state.producers.get(group).map_or(0, BTreeSet::len);
        let first = state.turn % count.max(1);
        let mut there = state.producers_of(group).cycle().skip(first).take(count).filter(|client| client.is_there());
        let client = there.find(|client| lock(&client.queue.waiting).len() < WAITING_MAX)?;
        let (_, namespace) = client.producer.as_ref()?;
        Some(Taker { queue: client.queue.clone(), namespace: namespace.clone() })
    }

    /// So many bytes of those that may wait; `None`: there are not as many left.
    pub(super) fn share(&self, bytes: usize) -> Option<Share> {
        self.bytes.take(bytes)
    }
}

/// A producer that can be asked.
#[derive(Debug)]
pub(super) struct Taker {
    pub(super) queue: Arc<Queue>,
    /// That it names topics in.
    pub(super) namespace: String,
}

impl State {
    /// A client that has said something, known before or not.
    fn client(&mut self, id: &Arc<str>, clients_max: usize) -> Result<&mut Client, Denied> {
        if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP_EVERY) {
            self.sweep();
        }
        if !self.clients.contains_key(id) {
            if self.clients.len() >= clients_max {
                self.sweep();
            }
            if self.clients.len() >= clients_max {
                return Err(Denied::new(Code::TooManyRequests, format!("clients are at their limit of {clients_max}")));
            }
        }
        let new = || Client { queue: Arc::default(), producer: None, polls: 0, answered: None, seen: Instant::now() };
        let client = self.clients.entry(id.clone()).or_insert_with(new);
        client.seen = Instant::now();
        Ok(client)
    }

    /// Forgets those that were not heard of for too long, and what waits for those that do not poll any more.
    fn sweep(&mut self) {
        let lost = self.clients.values().filter(|client| !client.is_there());
        lost.for_each(|client| lock(&client.queue.waiting).clear());
        let expiry = Duration::from_millis(CLIENT_EXPIRY_MILLIS as u64);
        let silent = |client: &Client| client.seen.elapsed() >= expiry && client.polls == 0;
        let gone: Vec<_> = self.clients.iter().filter(|(_, client)| silent(client)).map(|(id, _)| id.clone()).collect();
        gone.iter().for_each(|id| self.forget(id));
        self.swept = Some(Instant::now());
    }

    fn forget(&mut self, id: &str) {
        if let Some(Client { producer: Some((group, _)), .. }) = self.clients.remove(id) {
            self.leave(&group, id);
        }
    }

    fn leave(&mut self, group: &str, id: &str) {
        if let Some(ids) = self.producers.get_mut(group) {
            ids.remove(id);
            if ids.is_empty() {
                self.producers.remove(group);
            }
        }
    }

    fn producers_of(&self, group: &str) -> impl Iterator<Item = &Client> + Clone {
        self.producers.get(group).into_iter().flatten().filter_map(|id| self.clients.get(id))
    }
}

impl Client {
    /// Whether it hears what it is asked, as far as one can tell.
    fn is_there(&self) -> bool {
        self.polls > 0 || self.answered.is_some_and(|answered| answered.elapsed() < POLLS_AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rocketmq_v1::NoopCommand;

    fn ask(commands: &Commands, group: &str) -> bool {
        let Some(taker) = commands.taker(group) else { return false };
        assert_eq!(taker.namespace, "I");
        let share = commands.share(10).unwrap();
        taker.queue.push(Waiting { command: Type::NoopCommand(NoopCommand {}), share });
        true
    }

    #[tokio::test]
    async fn producers_are_asked_in_turn_and_only_those_that_poll() {
        let commands = Commands::new(3);
        let ids: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).to_vec();
        for id in &ids {
            commands.producer_seen(id, "billing".into(), "I".into()).unwrap();
        }
        assert!(!commands.any_listens("billing") && !ask(&commands, "billing"));
        let polls: Vec<_> = ids[..2].iter().map(|id| commands.listen(id).unwrap()).collect();
        let queues: Vec<_> = polls.iter().map(|poll| poll.queue.clone()).collect();
        assert!(commands.any_listens("billing"));
        for _ in 0..6 {
            assert!(ask(&commands, "billing"));
        }
        let waiting = |queue: &Arc<Queue>| lock(&queue.waiting).len();
        assert_eq!(waiting(&queues[0]) + waiting(&queues[1]), 6);
        assert!(waiting(&queues[0]) > 0 && waiting(&queues[1]) > 0);
        queues[0].next().await;
        assert!(!ask(&commands, "audit"), "nobody there");
        ids[..2].iter().for_each(|id| commands.gone(id).unwrap());
        assert!(!commands.any_listens("billing"), "c has never polled");
        queues[0].ended().await;
        commands.listen(&ids[0]).unwrap().queue.ended().await;
        let denied = |id: &str| commands.of(&Arc::from(id)).map(|_| ()).map_err(|denied| denied.code);
        assert_eq!((denied("a"), denied("d")), (Ok(()), Err(Code::TooManyRequests)));
    }

    #[test]
    fn a_client_that_takes_nothing_or_is_lost_is_left_alone() {
        let commands = Commands::new(3);
        let id = Arc::from("a");
        commands.producer_seen(&id, "billing".into(), "I".into()).unwrap();
        let poll = commands.listen(&id).unwrap();
        let taken = (0..100).filter(|_| ask(&commands, "billing")).count();
        assert_eq!(taken, WAITING_MAX);
        drop(poll);
        assert!(!commands.any_listens("billing"), "its poll was given up");
        commands.listen(&id).unwrap().answered();
        assert!(commands.any_listens("billing"));
    }
}
