//! The listener's threads: accepts connections and hands them round robin to single-threaded runtimes.

use crate::GrpcOptions;
use crate::latency::RpcLatency;
use crate::listener::sniff::Opening;
use crate::listener::tls::TlsError;
use crate::listener::{self, Connection};
use crate::service::Front;
use crate::transport::connection;
use martlet_broker::Broker;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// Connections that wait for one worker.
const HANDED_OVER_MAX: usize = 1024;
/// Pause after a failed accept, so that a shortage of file handles does not become a busy loop.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(50);
/// Complaints about connections are logged at most this often.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

/// Said to HTTP/1 clients.
const HTTP1_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 85\r\n\
connection: close\r\n\r\nThis port speaks gRPC (HTTP/2), plaintext or TLS: RocketMQ 5.x clients connect here.\n";

/// Why the front could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on.
    #[error("listening on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// No certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A thread or its runtime could not be made.
    #[error("starting a worker: {0}")]
    Worker(io::Error),
}

/// Figures of a running front.
#[derive(Clone, Debug, Default)]
pub struct GrpcFigures {
    /// Connections at this moment.
    pub connections: usize,
    /// Polls under way at this moment.
    pub polls: usize,
    /// Bytes of requests held, and the most that may be.
    pub inbound: (usize, usize),
    /// Bytes of answers that wait for slow readers, and the most that may.
    pub outbound: (usize, usize),
    /// How long calls took since the start.
    pub latencies: Vec<RpcLatency>,
}

/// A running front. Dropping it lets it drain without waiting for that.
pub struct GrpcServer {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<()>>,
    front: Arc<Front>,
}

impl GrpcServer {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Connections at this moment.
    pub fn connections(&self) -> usize {
        self.front.stats.connections.load(Ordering::Relaxed)
    }

    /// Polls under way at this moment.
    pub fn polls(&self) -> usize {
        self.front.polls.count()
    }

    /// What it does at this moment, and what it counted.
    pub fn figures(&self) -> GrpcFigures {
        GrpcFigures {
            connections: self.connections(),
            polls: self.polls(),
            inbound: self.front.inbound.used_and_limit(),
            outbound: self.front.outbound.used_and_limit(),
            latencies: self.front.stats.latencies.figures(),
        }
    }

    /// Sends a command on a client's Telemetry stream. `false`: it has none, or does not read it.
    pub fn command(&self, client_id: &str, command: crate::proto::v2::TelemetryCommand) -> bool {
        self.front.sessions.command(client_id, command)
    }

    /// Takes no new connections and calls, answers polls that wait, lets calls under way finish within the drain limit,
    /// then closes what is left. Blocks until then.
    pub fn shutdown(mut self) {
        self.stop.send_replace(true);
        for worker in self.workers.drain(..) {
            if worker.join().is_err() {
                tracing::error!("a gRPC worker panicked");
            }
        }
    }
}

/// Starts listening. The broker is called from the front's own threads.
pub fn serve(broker: Broker, options: GrpcOptions) -> Result<GrpcServer, ServeError> {
    let tls = TlsAcceptor::from(listener::tls::load(&options.tls, &[b"h2", b"http/1.1"])?);
    let listen = |source| ServeError::Listen { address: options.listen, source };
    let socket = StdListener::bind(options.listen).map_err(listen)?;
    socket.set_nonblocking(true).map_err(listen)?;
    let local_addr = socket.local_addr().map_err(listen)?;
    let count = match options.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    };
    let (stop, stopped) = watch::channel(false);
    let mut checks = broker.take_checks();
    let advertise = options.advertise.map(|(host, port)| (host, if port == 0 { local_addr.port() } else { port }));
    let front = Arc::new(Front::new(broker, advertise, options.limits, stopped.clone()));
    let told = Arc::downgrade(&front);
    front.broker.on_lite_notice(move |notice| {
        if let Some(front) = told.upgrade() {
            front.notify_unsubscribe_lite(notice);
        }
    });
    let complaints = Arc::new(Complaints::default());
    let (inboxes, outboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(HANDED_OVER_MAX)).unzip();
    let mut server = GrpcServer { local_addr, stop, workers: Vec::with_capacity(count), front: front.clone() };
    let mut accepting = Some((socket, inboxes));
    for (number, inbox) in outboxes.into_iter().enumerate() {
        let worker = Worker { front: front.clone(), tls: tls.clone(), complaints: complaints.clone() };
        let accepting = accepting.take();
        let checks = checks.take();
        let stopped = stopped.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Worker)?;
        let thread = std::thread::Builder::new()
            .name(format!("martlet-grpc-{number}"))
            .spawn(move || {
                runtime.block_on(async move {
                    if let Some((socket, inboxes)) = accepting {
                        tokio::spawn(accept(socket, inboxes, worker.clone(), stopped.clone()));
                    }
                    if let Some(checks) = checks {
                        let sending = worker.front.clone().send_checks(checks, stopped.clone(), local_addr.to_string());
                        tokio::spawn(sending);
                    }
                    worker.run(inbox, stopped).await;
                });
            })
            .map_err(ServeError::Worker)?;
        server.workers.push(thread);
    }
    Ok(server)
}

/// Accepts connections and gives each to the next worker.
async fn accept(
    socket: StdListener,
    inboxes: Vec<mpsc::Sender<std::net::TcpStream>>,
    worker: Worker,
    mut stopped: watch::Receiver<bool>,
) {
    let socket = match TcpListener::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(%error, "the gRPC port cannot be listened on");
            return;
        }
    };
    let mut next = (0..inboxes.len()).cycle();
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                worker.complaints.say(|more| tracing::warn!(%error, more, "accepting a connection failed"));
                tokio::time::sleep(ACCEPT_BACK_OFF).await;
                continue;
            }
        };
        let limit = worker.front.limits.connections_max;
        if worker.front.stats.connections.load(Ordering::Relaxed) >= limit {
            worker.complaints.say(|more| tracing::warn!(%peer, limit, more, "too many connections, one is closed"));
            continue;
        }
        // Counted here, so that connections on their way to a worker count too.
        worker.front.stats.connections.fetch_add(1, Ordering::Relaxed);
        let handed = stream.into_std().ok().is_some_and(|stream| {
            next.next().and_then(|at| inboxes.get(at)).is_some_and(|inbox| inbox.try_send(stream).is_ok())
        });
        if !handed {
            worker.front.stats.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[derive(Clone)]
struct Worker {
    front: Arc<Front>,
    tls: TlsAcceptor,
    complaints: Arc<Complaints>,
}

/// Takes a connection off the count when it ends, however it ends.
struct Counted(Arc<Front>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.stats.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Serves what comes in until the end of the drain.
    async fn run(self, mut inbox: mpsc::Receiver<std::net::TcpStream>, mut stopped: watch::Receiver<bool>) {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                stream = inbox.recv() => {
                    let Some(stream) = stream else { break };
                    let counted = Counted(self.front.clone());
                    let worker = self.clone();
                    connections.spawn(async move {
                        let _counted = counted;
                        worker.connection(stream).await;
                    });
                }
                Some(_) = connections.join_next() => {}
                _ = stopped.wait_for(|stop| *stop) => break,
            }
        }
        let drain = self.front.limits.drain_timeout + Duration::from_millis(500);
        let drained = tokio::time::timeout(drain, async { while connections.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::info!(left = connections.len(), "closing connections that did not drain in time");
        }
    }

    async fn connection(&self, stream: std::net::TcpStream) {
        let limits = &self.front.limits;
        let remote = stream.peer_addr();
        let opened = match TcpStream::from_std(stream) {
            Ok(stream) => listener::open(stream, Some(&self.tls), limits.open_timeout).await,
            Err(error) => Err(error.into()),
        };
        let connection = match opened {
            Ok(connection) => connection,
            Err(error) if error.is_hang_up() => return,
            Err(error) => {
                let peer = remote.map_or_else(|_| "unknown".to_owned(), |peer| peer.to_string());
                self.complaints.say(|more| tracing::info!(peer, %error, more, "a connection could not be opened"));
                return;
            }
        };
        let peer = connection.peer;
        match connection.opening {
            Opening::Http2 => {
                let front = &self.front;
                let served = connection::serve(connection, limits, front.stopped(), |peer, request, respond, guard| {
                    front.clone().handle(peer, request, respond, guard)
                });
                if let Err(error) = served.await {
                    tracing::debug!(%peer, %error, "a connection ended");
                }
            }
            Opening::Http1 => say_what_is_spoken(connection).await,
            opening => {
                self.complaints
                    .say(|more| tracing::info!(%peer, ?opening, more, "a connection does not speak gRPC, closed"));
            }
        }
    }
}

/// Tells an HTTP/1 client that it is wrong here. Best effort: it may be gone.
async fn say_what_is_spoken(connection: Connection) {
    let mut stream = connection.stream;
    let said = async {
        stream.write_all(HTTP1_ANSWER).await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), said).await;
}

/// Lets one line through per [`COMPLAINT_EVERY`] and counts the rest.
#[derive(Debug, Default)]
struct Complaints(Mutex<(Option<Instant>, u64)>);

impl Complaints {
    /// Calls `say` with the number of complaints that were left out since the last one, if it is time.
    fn say(&self, say: impl FnOnce(u64)) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *guard;
        if last.is_some_and(|last| last.elapsed() < COMPLAINT_EVERY) {
            *left_out += 1;
            return;
        }
        say(std::mem::take(left_out));
        *last = Some(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_http_1_is_as_long_as_it_says() {
        let text = std::str::from_utf8(HTTP1_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }

    #[test]
    fn complaints_are_counted_while_they_are_not_said() {
        let complaints = Complaints::default();
        let mut said = Vec::new();
        complaints.say(|more| said.push(more));
        complaints.say(|more| said.push(more));
        complaints.say(|more| said.push(more));
        assert_eq!(said, [0]);
        assert_eq!(complaints.0.lock().unwrap().1, 2);
    }
}
