//! The front's start and end, and what becomes of each connection.

use crate::GrpcOptions;
use crate::latency::{self, Package, RpcLatency};
use crate::service::Front;
use crate::transport::connection;
use martlet_broker::Broker;
use martlet_net::ServeError;
use martlet_net::listener::{self, Connection, Opener};
use martlet_net::sniff::Opening;
use martlet_net::tls;
use martlet_net::workers::{self, WorkerOptions, Workers};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Said to HTTP/1 clients.
const HTTP1_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 85\r\n\
connection: close\r\n\r\nThis port speaks gRPC (HTTP/2), plaintext or TLS: RocketMQ 5.x clients connect here.\n";

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
    /// The same of calls of v1.
    pub latencies_v1: Vec<RpcLatency>,
}

/// A running front. Dropping it lets it drain without waiting for that.
pub struct GrpcServer {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    workers: Workers,
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
            latencies: latency::figures(Package::V2, &self.front.stats.latencies),
            latencies_v1: latency::figures(Package::V1, &self.front.stats.latencies_v1),
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
        self.workers.join();
    }
}

/// Starts listening. The broker is called from the front's own threads.
pub fn serve(broker: Broker, options: GrpcOptions) -> Result<GrpcServer, ServeError> {
    let tls = TlsAcceptor::from(tls::load(&options.tls, &[b"h2", b"http/1.1"])?);
    let (socket, local_addr) = listener::listen(options.listen)?;
    let (stop, stopped) = watch::channel(false);
    let checks = broker.take_checks();
    let advertise = options.advertise.map(|(host, port)| (host, if port == 0 { local_addr.port() } else { port }));
    let front = Arc::new(Front::new(broker, advertise, options.limits, stopped.clone()));
    let told = Arc::downgrade(&front);
    front.broker.on_lite_notice(move |notice| {
        if let Some(front) = told.upgrade() {
            front.notify_unsubscribe_lite(notice);
        }
    });
    let asked = Arc::downgrade(&front);
    let store_host = local_addr.to_string();
    front.broker.on_inquiry(move |client, inquiry| {
        asked.upgrade().and_then(|front| front.inquire(client, inquiry, &store_host))
    });
    let worker = Worker { front: front.clone(), opener: Arc::new(Opener::new(tls, front.limits.open_timeout)) };
    let checks = checks.map(|checks| {
        let sending = front.clone().send_checks(checks, stopped.clone(), local_addr.to_string());
        Box::pin(sending) as workers::Background
    });
    let limits = &front.limits;
    let options = WorkerOptions {
        name: "grpc",
        count: options.workers,
        connections_max: limits.connections_max,
        drain_timeout: limits.drain_timeout,
    };
    let open = &front.stats.connections;
    let workers = workers::start(vec![socket], &options, &worker, open, &stopped, checks.into_iter().collect())?;
    Ok(GrpcServer { local_addr, stop, workers, front })
}

#[derive(Clone)]
struct Worker {
    front: Arc<Front>,
    opener: Arc<Opener>,
}

impl workers::Service for Worker {
    async fn connection(&self, tcp: TcpStream) {
        let Some(connection) = self.opener.open(tcp).await else { return };
        let (front, peer) = (&self.front, connection.peer);
        match connection.opening {
            Opening::Http2 => {
                let stopped = front.stopped();
                let served = connection::serve(connection, &front.limits, stopped, |peer, request, respond, guard| {
                    front.clone().handle(peer, request, respond, guard)
                });
                if let Err(error) = served.await {
                    tracing::debug!(%peer, %error, "a connection ended");
                }
            }
            Opening::Http1 => say_what_is_spoken(connection).await,
            _ => self.opener.refuse(&connection, "gRPC"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_http_1_is_as_long_as_it_says() {
        let text = std::str::from_utf8(HTTP1_ANSWER).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
