//! Clients with a session: what their settings said, the stream that commands can be sent on, their polls under way.
//!
//! Bounds: [`crate::Limits::clients_max`] sessions; one that has neither a stream nor a heartbeat for 120 s is
//! forgotten. Polls: [`crate::Limits::polls_per_client_max`] and [`crate::Limits::polls_max`].

use crate::code::Denied;
use crate::proto::v2::{Code, TelemetryCommand};
use martlet_model::limits::CLIENT_EXPIRY_MILLIS;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Commands that wait for one client's stream.
pub(crate) const COMMANDS_WAITING_MAX: usize = 64;
/// Bytes of messages in commands that wait, over all clients.
const COMMAND_BYTES_WAITING_MAX: usize = 16 << 20;
/// They are counted in units of this many bytes.
const COMMAND_UNIT: usize = 1024;
/// What clients wait for an answer unless they say otherwise.
const REQUEST_TIMEOUT_DEFAULT: Duration = Duration::from_secs(3);

/// A command on its way to a client's stream, and its share of the bytes that may wait.
#[derive(Debug)]
pub(crate) struct WaitingCommand {
    pub(crate) command: TelemetryCommand,
    _share: Option<Share>,
}

/// Bytes of messages in commands that wait, over all clients of one package.
#[derive(Debug)]
pub(crate) struct CommandBytes(Arc<Semaphore>);

/// A command's part of these, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share(#[allow(dead_code, reason = "held, not looked at")] OwnedSemaphorePermit);

impl Default for CommandBytes {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(COMMAND_BYTES_WAITING_MAX / COMMAND_UNIT)))
    }
}

impl CommandBytes {
    /// So many of them; `None`: there are not as many left.
    pub(crate) fn take(&self, bytes: usize) -> Option<Share> {
        let units = u32::try_from(bytes.div_ceil(COMMAND_UNIT)).unwrap_or(u32::MAX);
        self.0.clone().try_acquire_many_owned(units).ok().map(Share)
    }
}

#[derive(Debug)]
struct Session {
    request_timeout: Duration,
    /// Of a producer: that of its topics, empty for none.
    namespace: String,
    stream: Option<(u64, mpsc::Sender<WaitingCommand>)>,
    seen: Instant,
}

/// All sessions.
#[derive(Debug)]
pub(crate) struct Sessions {
    map: Mutex<(HashMap<Arc<str>, Session>, usize)>,
    next_stream: AtomicU64,
    clients_max: usize,
    command_bytes: CommandBytes,
}

impl Sessions {
    pub(crate) fn new(clients_max: usize) -> Self {
        let command_bytes = CommandBytes::default();
        Self { map: Mutex::default(), next_stream: AtomicU64::new(1), clients_max, command_bytes }
    }

    /// A number for a new stream.
    pub(crate) fn stream_number(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Remembers a client's settings and the stream they came on; a newer stream replaces an older one.
    pub(crate) fn settle(
        &self,
        client_id: &Arc<str>,
        request_timeout: Option<Duration>,
        namespace: String,
        stream: (u64, mpsc::Sender<WaitingCommand>),
        now: Instant,
    ) -> Result<(), Denied> {
        let mut guard = lock(&self.map);
        let (map, sweep_at) = &mut *guard;
        if !map.contains_key(client_id) && map.len() >= (*sweep_at).clamp(1024.min(self.clients_max), self.clients_max)
        {
            let expiry = Duration::from_millis(CLIENT_EXPIRY_MILLIS as u64);
            map.retain(|_, session| session.stream.is_some() || now.duration_since(session.seen) < expiry);
            *sweep_at = map.len() * 2;
            if map.len() >= self.clients_max {
                let text = format!("clients are at their limit of {}", self.clients_max);
                return Err(Denied::new(Code::TooManyRequests, text));
            }
        }
        let request_timeout = request_timeout.unwrap_or(REQUEST_TIMEOUT_DEFAULT);
        map.insert(client_id.clone(), Session { request_timeout, namespace, stream: Some(stream), seen: now });
        Ok(())
    }

    /// A stream has ended; the client may go on without.
    pub(crate) fn stream_ended(&self, client_id: &str, stream: u64) {
        if let Some(session) = lock(&self.map).0.get_mut(client_id)
            && session.stream.as_ref().is_some_and(|(number, _)| *number == stream)
        {
            session.stream = None;
        }
    }

    /// A sign of life.
    pub(crate) fn seen(&self, client_id: &str, now: Instant) {
        if let Some(session) = lock(&self.map).0.get_mut(client_id) {
            session.seen = now;
        }
    }

    /// The client has said good-bye. Whether it was known.
    pub(crate) fn gone(&self, client_id: &str) -> bool {
        lock(&self.map).0.remove(client_id).is_some()
    }

    /// How long the client waits for an answer.
    pub(crate) fn request_timeout(&self, client_id: &str) -> Duration {
        lock(&self.map).0.get(client_id).map_or(REQUEST_TIMEOUT_DEFAULT, |session| session.request_timeout)
    }

    /// Whether commands can be sent to a client.
    pub(crate) fn has_stream(&self, client_id: &str) -> bool {
        lock(&self.map).0.get(client_id).is_some_and(|session| session.stream.is_some())
    }

    /// Sends a command to a client. `false`: it has no stream, or does not read it.
    pub(crate) fn command(&self, client_id: &str, command: TelemetryCommand) -> bool {
        self.command_with(client_id, command, 0)
    }

    /// The same of one with so many bytes of message, which may be too many.
    pub(crate) fn command_with(&self, client_id: &str, command: TelemetryCommand, bytes: usize) -> bool {
        let share = match bytes {
            0 => None,
            _ => match self.command_bytes.take(bytes) {
                None => return false,
                share => share,
            },
        };
        let guard = lock(&self.map);
        let stream = guard.0.get(client_id).and_then(|session| session.stream.as_ref());
        stream.is_some_and(|(_, sender)| sender.try_send(WaitingCommand { command, _share: share }).is_ok())
    }

    /// The namespace in which the first of these clients that has a stream knows its topics. `None`: none has one.
    pub(crate) fn listening_in(&self, ids: &[Arc<str>]) -> Option<String> {
        let guard = lock(&self.map);
        let first = ids.iter().find_map(|id| guard.0.get(id).filter(|session| session.stream.is_some()));
        first.map(|session| session.namespace.clone())
    }

    /// Sends a command with so many bytes of message to the first of these clients, of those that know their topics in this
    /// namespace, that can take it. `false`: none can.
    pub(crate) fn command_any(
        &self,
        ids: &[Arc<str>],
        namespace: &str,
        command: TelemetryCommand,
        bytes: usize,
    ) -> bool {
        let Some(share) = self.command_bytes.take(bytes) else { return false };
        let mut waiting = WaitingCommand { command, _share: Some(share) };
        let guard = lock(&self.map);
        let sessions = ids.iter().filter_map(|id| guard.0.get(id)).filter(|session| session.namespace == namespace);
        let streams = sessions.filter_map(|session| session.stream.as_ref());
        for (_, sender) in streams {
            match sender.try_send(waiting) {
                Ok(()) => return true,
                Err(mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back)) => waiting = back,
            }
        }
        false
    }
}

/// Polls under way.
#[derive(Debug)]
pub(crate) struct Polls {
    clients: Mutex<HashMap<Arc<str>, usize>>,
    all: AtomicUsize,
    per_client_max: usize,
    max: usize,
}

/// One poll under way, until dropped.
#[derive(Debug)]
pub(crate) struct Poll<'a> {
    polls: &'a Polls,
    /// The client, for the request.
    pub(crate) client_id: Arc<str>,
}

impl Polls {
    pub(crate) fn new(per_client_max: usize, max: usize) -> Self {
        Self { clients: Mutex::default(), all: AtomicUsize::new(0), per_client_max, max }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.all.load(Ordering::Relaxed)
    }

    /// Begins a poll.
    pub(crate) fn begin(&self, client_id: &str) -> Result<Poll<'_>, Denied> {
        let full = |what: &str, limit: usize| {
            Err(Denied::new(Code::TooManyRequests, format!("{what} at its limit of {limit} polls")))
        };
        let mut clients = lock(&self.clients);
        if self.all.load(Ordering::Relaxed) >= self.max {
            return full("the broker is", self.max);
        }
        let client_id = match clients.get_key_value(client_id) {
            Some((_, count)) if *count >= self.per_client_max => {
                return full(&format!("client {client_id} is"), self.per_client_max);
            }
            Some((id, _)) => id.clone(),
            None => Arc::from(client_id),
        };
        *clients.entry(client_id.clone()).or_default() += 1;
        self.all.fetch_add(1, Ordering::Relaxed);
        Ok(Poll { polls: self, client_id })
    }
}

impl Drop for Poll<'_> {
    fn drop(&mut self) {
        let mut clients = lock(&self.polls.clients);
        if let Some(count) = clients.get_mut(&self.client_id) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client_id);
            }
        }
        self.polls.all.fetch_sub(1, Ordering::Relaxed);
    }
}

/// No code panics while it holds one of these locks half-way through a change, so a poisoned one is as good as new.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_are_limited_per_client_and_in_all_and_come_back() {
        let polls = Polls::new(2, 3);
        let a = (polls.begin("a").unwrap(), polls.begin("a").unwrap());
        assert_eq!(polls.begin("a").unwrap_err().code, Code::TooManyRequests);
        let b = polls.begin("b").unwrap();
        assert_eq!(polls.begin("c").unwrap_err().code, Code::TooManyRequests);
        drop((a, b));
        assert_eq!((polls.count(), polls.clients.lock().unwrap().len()), (0, 0));
    }

    #[test]
    fn a_newer_stream_replaces_an_older_one_and_silent_clients_are_forgotten() {
        let sessions = Sessions::new(2);
        let start = Instant::now();
        let (sender, mut commands) = mpsc::channel(1);
        let (old, _old_commands) = mpsc::channel(1);
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        sessions.settle(&one, Some(Duration::from_secs(9)), String::new(), (1, old), start).unwrap();
        sessions.settle(&one, Some(Duration::from_secs(9)), String::new(), (2, sender.clone()), start).unwrap();
        sessions.stream_ended("one", 1);
        assert!(sessions.command("one", TelemetryCommand::default()));
        assert!(commands.try_recv().is_ok());
        assert_eq!(sessions.request_timeout("one"), Duration::from_secs(9));
        assert_eq!(sessions.request_timeout("nobody"), Duration::from_secs(3));

        sessions.settle(&two, None, String::new(), (3, sender.clone()), start).unwrap();
        let three: Arc<str> = "three".into();
        let denied = sessions.settle(&three, None, String::new(), (4, sender.clone()), start).unwrap_err();
        assert_eq!(denied.code, Code::TooManyRequests);
        sessions.stream_ended("two", 3);
        let later = start + Duration::from_secs(121);
        sessions.settle(&three, None, String::new(), (4, sender), later).unwrap();
        assert!(!sessions.gone("two") && sessions.gone("one") && sessions.gone("three"));
    }
}
