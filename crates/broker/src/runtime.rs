//! The shard's thread: its inbox, its clock, and the loads it asks for.
//!
//! One thread owns the [`ShardLoop`]. Requests push a command into the inbox and wait for a oneshot; the thread takes
//! all that has come, runs a turn, and sends replies out. It sleeps when there is nothing to do, and is woken by a new
//! command, by the store, or by the next thing due.

use crate::mailbox::Mailbox;
use crate::options::OpenError;
use crate::polled::PolledHalves;
use crate::stats::ShardFigures;
use martlet_model::handle::{HandleKey, ReceiptHandle};
use martlet_model::{GroupId, UnixMillis};
use martlet_shard::{
    ClockNotice, Command, HandOut, LiteNotice, Load, LoadId, Loaded, Output, ShardClock, ShardLoop, ShardOptions,
    TransactionCheck,
};
use martlet_store::{ReadError, Room, Shortage, Store};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait for the shard.
const INBOX_MAX: usize = 65_536;
/// Under load, a batch grows until it serves as many requests as there are askers (those whose replies have just left and
/// those who wait already), or for so long per asker: one sync serves more replies. A batch that served a single reply
/// is followed by no pause, so a lone sender waits for nothing.
const BATCH_PAUSE_PER_ASKER: Duration = Duration::from_micros(25);
/// The longest such pause.
const BATCH_PAUSE_MAX: Duration = Duration::from_millis(4);
/// A batch that no reply rests on (hand-outs alone) goes along with the next one, or is written after so long.
const LAZY_PAUSE: Duration = Duration::from_millis(5);
/// Figures are brought up to date this often while there is work.
const FIGURES_EVERY: Duration = Duration::from_secs(1);

/// Whom a reply goes to.
#[derive(Debug)]
pub(crate) struct Token {
    reply: oneshot::Sender<Output>,
    /// A poll of this group: what it is handed is taken back if nobody is there any more.
    poll_of: Option<GroupId>,
    /// Where the reply is put; `None`: straight to the task.
    mailbox: Option<Arc<Mailbox>>,
}

/// Why a command was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    Full,
    Stopped,
}

const AWAKE: u8 = 0;
/// Letting the open batch grow: what only adds to it need not wake the thread.
const RESTING: u8 = 1;
const ASLEEP: u8 = 2;

struct Inbox {
    state: Mutex<InboxState>,
    /// What the shard's thread does, or will once it has looked at the inbox a last time: `AWAKE`, `RESTING` or `ASLEEP`.
    doing: AtomicU8,
    thread: Mutex<Option<Thread>>,
}

#[derive(Default)]
struct InboxState {
    commands: Vec<Command<Token>>,
    /// While the thread rests, so many commands wake it.
    enough: usize,
    closing: bool,
    stopped: Option<String>,
}

/// Where requests hand their commands in.
#[derive(Clone)]
pub(crate) struct ShardHandle {
    inbox: Arc<Inbox>,
    pub shard: u32,
    pub epoch: u32,
    pub key: HandleKey,
    figures: Arc<Mutex<ShardFigures>>,
    wall: Wall,
    listeners: Arc<Mutex<Vec<NoticeListener>>>,
    pub polled: Arc<PolledHalves>,
}

/// Told on the shard's thread: must not wait.
pub(crate) type NoticeListener = Arc<dyn Fn(&LiteNotice) + Send + Sync>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The wall clock and a steady one, read together.
#[derive(Clone, Copy)]
pub(crate) struct Wall {
    start: Instant,
}

/// The wall clock.
pub fn wall_clock() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMillis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

impl Wall {
    fn steady(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}

impl Inbox {
    /// Wakes the thread if it sleeps; if it only rests, only for what is urgent.
    fn wake(&self, urgent: bool) {
        let sleeping = |doing: u8| doing == ASLEEP || doing == RESTING && urgent;
        let woken =
            self.doing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |doing| sleeping(doing).then_some(AWAKE));
        if woken.is_ok()
            && let Some(thread) = &*lock(&self.thread)
        {
            thread.unpark();
        }
    }
}

/// Wakes the shard's thread; made before the thread, for the store.
#[derive(Clone)]
pub(crate) struct Bell(Arc<Inbox>);

impl Bell {
    pub fn new() -> Self {
        let inbox = Inbox { state: Mutex::default(), doing: AtomicU8::new(AWAKE), thread: Mutex::new(None) };
        Self(Arc::new(inbox))
    }

    pub fn ring(&self) {
        self.0.wake(true);
    }
}

impl ShardHandle {
    /// Opens the shard in a store and starts its thread.
    pub fn start<S: Store>(
        store: S,
        options: ShardOptions,
        bell: Bell,
        last_durable: UnixMillis,
        checks: mpsc::Sender<TransactionCheck>,
    ) -> Result<(Self, u32, JoinHandle<S>), OpenError> {
        let wall = Wall { start: Instant::now() };
        let clock = ShardClock::start(wall_clock(), last_durable, wall.steady());
        let opening = ShardLoop::<S, Token>::open(store, options, wall_clock().max(last_durable));
        let shard = block_on(opening)?;
        for what in shard.shard().known_ids_not_read() {
            tracing::warn!("messages that were sent before may be stored again when their senders try again: {what}");
        }
        let epoch = shard.shard().epoch();
        let (number, key) = shard.shard().handle_key();
        let opened =
            ShardFigures { now: wall_clock().max(last_durable), steady: wall.steady(), ..ShardFigures::default() };
        let figures = Arc::new(Mutex::new(opened));
        let inbox = bell.0;
        let handle = Self {
            inbox: inbox.clone(),
            shard: number,
            epoch,
            key,
            figures: Arc::clone(&figures),
            wall,
            listeners: Arc::default(),
            polled: Arc::default(),
        };
        let (pending, handed) = (Vec::new(), handle.clone());
        let runner = Runner { shard, clock, inbox: inbox.clone(), figures, wall, pending, handle: handed, checks };
        let thread = std::thread::Builder::new()
            .name("martlet-shard".into())
            .spawn(move || runner.run())
            .map_err(|error| OpenError::System { what: "starting the shard's thread", error })?;
        *lock(&inbox.thread) = Some(thread.thread().clone());
        thread.thread().unpark();
        Ok((handle, epoch, thread))
    }

    /// Hands a command in; says why if it was not taken.
    pub fn submit(&self, command: Command<Token>) -> Result<(), NotTaken> {
        let adds_to_batch = matches!(
            command,
            Command::Send { .. }
                | Command::Ack { .. }
                | Command::AckMarked { .. }
                | Command::ChangeInvisible { .. }
                | Command::ChangeMarked { .. }
                | Command::DeadLetter { .. }
        );
        let enough;
        {
            let mut state = lock(&self.inbox.state);
            if state.stopped.is_some() || state.closing {
                return Err(NotTaken::Stopped);
            }
            // What gives something back is always taken: its number is bounded by what was given out.
            let gives_back = matches!(
                command,
                Command::Undo { .. }
                    | Command::Lost { .. }
                    | Command::CancelPoll { .. }
                    | Command::ClientGone { .. }
                    | Command::ClientLeaves { .. }
            );
            if state.commands.len() >= INBOX_MAX && !gives_back {
                return Err(NotTaken::Full);
            }
            state.commands.push(command);
            enough = state.commands.len() >= state.enough;
        }
        self.inbox.wake(enough || !adds_to_batch);
        Ok(())
    }

    /// A token for a request of this thread, and where its reply arrives.
    pub fn token(&self, poll_of: Option<GroupId>) -> (Token, oneshot::Receiver<Output>) {
        let (reply, answer) = oneshot::channel();
        (Token { reply, poll_of, mailbox: Mailbox::here(self) }, answer)
    }

    /// Hands a reply to whoever asked. They may have gone; what they asked for is done all the same, but what they were
    /// handed is taken back.
    pub fn release(&self, token: Token, output: Output) {
        if let (Err(Output::Delivered(hand_outs)), Some(group)) = (token.reply.send(output), token.poll_of) {
            self.undo(hand_outs.iter().map(|hand_out| self.receipt(group, hand_out)).collect());
        }
    }

    /// Whoever reaches clients is told when a lite subscription of theirs has ended.
    pub fn listen(&self, listener: NoticeListener) {
        lock(&self.listeners).push(listener);
    }

    fn tell(&self, notices: &[LiteNotice]) {
        let listeners = lock(&self.listeners).clone();
        for notice in notices {
            listeners.iter().for_each(|listener| listener(notice));
        }
    }

    /// Tells shards of one process apart.
    pub fn address(&self) -> usize {
        Arc::as_ptr(&self.inbox).addr()
    }

    /// Finishes what has arrived, then stops; the thread ends.
    pub fn close(&self) {
        lock(&self.inbox.state).closing = true;
        self.inbox.wake(true);
    }

    /// Why the shard stopped, if it did.
    pub fn stopped(&self) -> Option<String> {
        lock(&self.inbox.state).stopped.clone()
    }

    /// Figures at most a second old.
    pub fn figures(&self) -> ShardFigures {
        lock(&self.figures).clone()
    }

    /// The shard's idea of now, near enough for deadlines of polls.
    pub fn now(&self) -> UnixMillis {
        let figures = lock(&self.figures);
        figures.now.plus(self.wall.steady().saturating_sub(figures.steady))
    }

    /// Takes back what was handed out.
    pub fn undo(&self, handles: Vec<ReceiptHandle>) {
        if !handles.is_empty() {
            // A shard that has stopped has no hand-outs left to take back.
            let _ = self.submit(Command::Undo { handles });
        }
    }

    /// The handle of a hand-out.
    pub fn receipt(&self, group: GroupId, hand_out: &HandOut) -> ReceiptHandle {
        ReceiptHandle {
            shard: self.shard,
            group,
            topic: hand_out.topic,
            queue: hand_out.queue,
            offset: hand_out.offset,
            delivery: hand_out.delivery,
        }
    }
}

type Reading = Pin<Box<dyn Future<Output = Result<Loaded, ReadError>> + Send>>;

struct Runner<S: Store> {
    shard: ShardLoop<S, Token>,
    clock: ShardClock,
    inbox: Arc<Inbox>,
    figures: Arc<Mutex<ShardFigures>>,
    wall: Wall,
    /// Loads that were not answered at the first poll.
    pending: Vec<(LoadId, Reading)>,
    handle: ShardHandle,
    /// Where checks of transactions go.
    checks: mpsc::Sender<TransactionCheck>,
}

impl<S: Store> Runner<S> {
    fn run(mut self) -> S {
        let reader = self.shard.store().reader();
        let waker = Waker::from(Arc::new(WakeInbox(self.inbox.clone())));
        let mut commands: Vec<Command<Token>> = Vec::new();
        let mut told = Instant::now();
        let mut untold = true;
        let mut told_behind = false;
        let mut pause_until = told;
        let mut askers = 0usize;
        let mut unwritten_since: Option<Instant> = None;
        loop {
            let rest = pause_until.saturating_duration_since(Instant::now());
            // Said before looking: whoever comes later wakes us again. While the store is busy, it wakes us when it is done.
            self.inbox.doing.store(RESTING, Ordering::SeqCst);
            // One that is behind refuses messages, which must not wait until it is not.
            let behind = matches!(self.shard.store().room(), Room::OnlyProgress(Shortage::Behind { .. }));
            let store_busy = !self.shard.store().ready();
            if rest.is_zero() && (!store_busy || behind) {
                self.inbox.doing.store(ASLEEP, Ordering::SeqCst);
            }
            let closing = {
                let mut state = lock(&self.inbox.state);
                commands.append(&mut state.commands);
                let still = askers.saturating_sub(self.shard.open_replies() + commands.len());
                state.enough = if store_busy && !behind { usize::MAX } else { still.max(1) };
                state.closing
            };
            self.poll_readings(&waker, &mut commands);
            let now = self.clock.read(wall_clock(), self.wall.steady());
            if let Some(notice) = self.clock.take_notice() {
                match notice {
                    ClockNotice::Jumped { by_millis } => tracing::warn!(
                        "the wall clock is {by_millis} ms away from the shard's time; deletion by age pauses until they agree"
                    ),
                    ClockNotice::Settled => tracing::info!("the wall clock has settled; deletion by age goes on"),
                }
            }
            untold |= !commands.is_empty() || behind != told_behind;
            let complete = self.shard.open_replies() + commands.len() >= askers;
            let (durable, served) = (self.shard.durable_batches(), self.shard.replies_under_way());
            self.shard.hold(!closing && (served > 1 || !rest.is_zero() && !complete));
            self.shard.lazy(!closing && unwritten_since.is_none_or(|since| since.elapsed() < LAZY_PAUSE));
            let turn = self.shard.turn(now, self.clock.pauses_deletion(), commands.drain(..));
            if self.shard.durable_batches() > durable {
                askers = served + self.shard.open_replies();
                let pause = BATCH_PAUSE_PER_ASKER.saturating_mul(u32::try_from(askers).unwrap_or(u32::MAX));
                pause_until = Instant::now() + if served > 1 { pause.min(BATCH_PAUSE_MAX) } else { Duration::ZERO };
            }
            unwritten_since = self.shard.has_open_batch().then(|| unwritten_since.unwrap_or_else(Instant::now));
            self.release(turn.replies);
            // One for which there is no room is not counted, and comes again after the interval.
            for check in turn.checks {
                match check.polled {
                    true => self.handle.polled.offer(check, now),
                    false => drop(self.checks.try_send(check)),
                }
            }
            if !turn.notices.is_empty() {
                self.handle.tell(&turn.notices);
            }
            if let Some(failure) = turn.failed {
                return self.stop(&failure.to_string());
            }
            let mut again = self.shard.durable_batches() > durable;
            for (id, load) in turn.loads {
                again |= self.begin(&reader, id, load, &waker, &mut commands);
            }
            if untold && told.elapsed() >= FIGURES_EVERY {
                told = Instant::now();
                untold = false;
                told_behind = behind;
                self.tell(now);
            }
            if again {
                continue;
            }
            if closing && self.shard.is_idle() && self.pending.is_empty() {
                lock(&self.inbox.state).stopped = Some("the broker is shutting down".into());
                return self.shard.into_store();
            }
            let due = turn.next_wakeup.map(|at| Duration::from_millis(at.since(now).max(0) as u64));
            let tell = untold.then(|| FIGURES_EVERY.saturating_sub(told.elapsed()));
            if store_busy && self.shard.store().ready() {
                continue;
            }
            // Times of the shard are whole milliseconds: waking on the edge would be a turn too early.
            let due = due.map(|due| due + Duration::from_micros(200));
            let rest = (!rest.is_zero()).then(|| pause_until.saturating_duration_since(Instant::now()));
            let lazy = unwritten_since.map(|since| LAZY_PAUSE.saturating_sub(since.elapsed())).filter(|_| !store_busy);
            if self.inbox.doing.load(Ordering::SeqCst) != AWAKE {
                match due.into_iter().chain(tell).chain(rest).chain(lazy).min() {
                    Some(sleep) => std::thread::park_timeout(sleep),
                    None => std::thread::park(),
                }
            }
        }
    }

    /// Starts a load; true if it was answered at once.
    fn begin(
        &mut self,
        reader: &S::Reader,
        id: LoadId,
        load: Load,
        waker: &Waker,
        commands: &mut Vec<Command<Token>>,
    ) -> bool {
        let reader = reader.clone();
        let mut reading: Reading = Box::pin(async move { martlet_shard::execute(&reader, &load).await });
        match reading.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Ready(result) => {
                commands.push(Command::Loaded { id, result });
                true
            }
            Poll::Pending => {
                self.pending.push((id, reading));
                false
            }
        }
    }

    fn poll_readings(&mut self, waker: &Waker, commands: &mut Vec<Command<Token>>) {
        self.pending.retain_mut(|(id, reading)| match reading.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Ready(result) => {
                commands.push(Command::Loaded { id: *id, result });
                false
            }
            Poll::Pending => true,
        });
    }

    /// Sends a turn's replies out, with one wake-up per thread that waits.
    fn release(&self, replies: Vec<(Token, Output)>) {
        let mut to_ring: Vec<Arc<Mailbox>> = Vec::new();
        for (token, output) in replies {
            let Some(mailbox) = token.mailbox.clone() else {
                self.handle.release(token, output);
                continue;
            };
            match mailbox.put(token, output) {
                Ok(true) => to_ring.push(mailbox),
                Ok(false) => {}
                Err((token, output)) => self.handle.release(token, output),
            }
        }
        to_ring.iter().for_each(|mailbox| mailbox.ring());
    }

    fn tell(&self, now: UnixMillis) {
        let (polls, resident, open_slots) = self.shard.shard().sizes();
        *lock(&self.figures) = ShardFigures {
            now,
            steady: self.wall.steady(),
            counters: self.shard.shard().counters().clone(),
            waiting: self.shard.shard().waiting().collect(),
            lite_topics: self.shard.shard().lite_counts().collect(),
            lite: self.shard.shard().lite_sizes(),
            polls,
            resident,
            open_slots,
            open_slots_most: self.shard.shard().open_slots_most(),
            batches: self.shard.batch_figures(),
            usage: self.shard.store().usage(),
            shortage: match self.shard.store().room() {
                Room::Open => None,
                Room::OnlyProgress(shortage) => Some(shortage),
            },
        };
    }

    /// The store failed. Everybody who waits is told by a closed channel; later commands are not taken.
    fn stop(self, reason: &str) -> S {
        tracing::error!("the shard stops: {reason}");
        let mut state = lock(&self.inbox.state);
        state.stopped = Some(reason.to_owned());
        state.commands.clear();
        drop(state);
        self.shard.into_store()
    }
}

struct WakeInbox(Arc<Inbox>);

impl std::task::Wake for WakeInbox {
    fn wake(self: Arc<Self>) {
        self.0.wake(true);
    }
}

/// Runs a future on this thread; for opening, before any runtime is there.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
