//! Threads of a front: one accepts connections on all its sockets, each serves its share of them on a single-threaded runtime.

use crate::ServeError;
use crate::complaints::Complaints;
use std::future::Future;
use std::net::TcpListener as StdListener;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Connections that wait for one worker.
const HANDED_OVER_MAX: usize = 1024;
/// While a thread serves connections, a timer of its runtime is due this often, at the latest. A timer that is due before all others makes
/// the runtime write to itself, a system call, so that it wakes up early enough: nearly every request would have one for its deadlines,
/// as those are seconds ahead and the timers of requests before it are gone by then.
const BEAT: Duration = Duration::from_secs(1);
/// Pause after a failed accept, so that a shortage of file handles does not become a busy loop.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);

/// Serves connections.
pub trait Service: Clone + Send + 'static {
    /// Serves one until its end, or until it has been told to stop and has drained.
    fn connection(&self, tcp: TcpStream) -> impl Future<Output = ()> + Send;
}

/// How the threads are set up.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// Threads are called `martlet-NAME-N`.
    pub name: &'static str,
    /// Threads; 0: one per core.
    pub count: usize,
    /// Connections at a time; more are closed at once.
    pub connections_max: usize,
    /// Time for what is under way when the front shuts down.
    pub drain_timeout: Duration,
}

/// Something that a front does besides serving connections, until it ends.
pub type Background = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Running threads. Dropping them does not stop them; whoever holds the other end of `stopped` does.
#[derive(Debug)]
pub struct Workers {
    name: &'static str,
    threads: Vec<JoinHandle<()>>,
}

/// Starts them. `open` counts connections at this moment; `stopped` says when to take no new ones.
pub fn start<S: Service>(
    sockets: Vec<StdListener>,
    options: &WorkerOptions,
    service: &S,
    open: &Arc<AtomicUsize>,
    stopped: &watch::Receiver<bool>,
    background: Vec<Background>,
) -> Result<Workers, ServeError> {
    let count = match options.count {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let (inboxes, outboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(HANDED_OVER_MAX)).unzip();
    let mut workers = Workers { name: options.name, threads: Vec::with_capacity(count) };
    let mut first = Some((sockets, background, inboxes));
    for (number, inbox) in outboxes.into_iter().enumerate() {
        let worker = Worker { service: service.clone(), open: open.clone(), options: options.clone() };
        let first = first.take();
        let stopped = stopped.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Worker)?;
        let name = format!("martlet-{}-{number}", options.name);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async move {
                if let Some((sockets, background, inboxes)) = first {
                    background.into_iter().for_each(|task| drop(tokio::spawn(task)));
                    let complaints = Arc::new(Complaints::default());
                    for socket in sockets {
                        let accepting = Accepting {
                            inboxes: inboxes.clone(),
                            open: worker.open.clone(),
                            connections_max: worker.options.connections_max,
                            complaints: complaints.clone(),
                        };
                        tokio::spawn(accepting.run(socket, stopped.clone()));
                    }
                }
                worker.run(inbox, stopped).await;
            });
        });
        workers.threads.push(thread.map_err(ServeError::Worker)?);
    }
    Ok(workers)
}

impl Workers {
    /// Waits until all have drained. Blocks.
    pub fn join(&mut self) {
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a worker of the {} front panicked", self.name);
            }
        }
    }
}

struct Accepting {
    inboxes: Vec<mpsc::Sender<std::net::TcpStream>>,
    open: Arc<AtomicUsize>,
    connections_max: usize,
    complaints: Arc<Complaints>,
}

impl Accepting {
    /// Accepts connections and gives each to the next worker.
    async fn run(self, socket: StdListener, mut stopped: watch::Receiver<bool>) {
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, "a port cannot be listened on");
                return;
            }
        };
        let mut next = (0..self.inboxes.len()).cycle();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = stopped.wait_for(|stop| *stop) => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.complaints.say(|more| tracing::warn!(%error, more, "accepting a connection failed"));
                    tokio::time::sleep(ACCEPT_BACK_OFF).await;
                    continue;
                }
            };
            let limit = self.connections_max;
            if self.open.load(Ordering::Relaxed) >= limit {
                self.complaints.say(|more| tracing::warn!(%peer, limit, more, "too many connections, one is closed"));
                continue;
            }
            // Counted here, so that connections on their way to a worker count too.
            self.open.fetch_add(1, Ordering::Relaxed);
            let handed = stream.into_std().ok().is_some_and(|stream| {
                next.next().and_then(|at| self.inboxes.get(at)).is_some_and(|inbox| inbox.try_send(stream).is_ok())
            });
            if !handed {
                self.open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

struct Worker<S> {
    service: S,
    open: Arc<AtomicUsize>,
    options: WorkerOptions,
}

/// Takes a connection off the count when it ends, however it ends.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S: Service> Worker<S> {
    /// Serves what comes in until the end of the drain.
    async fn run(self, mut inbox: mpsc::Receiver<std::net::TcpStream>, mut stopped: watch::Receiver<bool>) {
        let mut connections = tokio::task::JoinSet::new();
        let mut beat = pin!(tokio::time::sleep(BEAT));
        loop {
            tokio::select! {
                () = &mut beat, if !connections.is_empty() => beat.as_mut().reset(Instant::now() + BEAT),
                stream = inbox.recv() => {
                    let Some(stream) = stream else { break };
                    let counted = Counted(self.open.clone());
                    let service = self.service.clone();
                    connections.spawn(async move {
                        let _counted = counted;
                        if let Ok(stream) = TcpStream::from_std(stream) {
                            service.connection(stream).await;
                        }
                    });
                }
                Some(_) = connections.join_next() => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        let drain = self.options.drain_timeout + Duration::from_millis(500);
        let drained = tokio::time::timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::info!(left = connections.len(), "closing connections that did not drain in time");
        }
    }
}
