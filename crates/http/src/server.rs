//! The front's start and end.

use crate::connection;
use crate::front::{Front, figures};
use crate::{HttpOptions, RpcLatency};
use martlet_broker::Broker;
use martlet_net::ServeError;
use martlet_net::listener::{self, Opener};
use martlet_net::sniff::Opening;
use martlet_net::tls;
use martlet_net::workers::{self, WorkerOptions, Workers};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Figures of a running front.
#[derive(Clone, Debug, Default)]
pub struct HttpFigures {
    /// Connections at this moment.
    pub connections: usize,
    /// Bytes of requests held, and the most that may be.
    pub inbound: (usize, usize),
    /// Bytes of replies with messages, and the most that may be.
    pub outbound: (usize, usize),
    /// How long requests took since the start.
    pub latencies: Vec<RpcLatency>,
}

/// A running front. Dropping it lets it drain without waiting for that.
pub struct HttpServer {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    workers: Workers,
    front: Arc<Front>,
}

impl HttpServer {
    /// The address it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it does at this moment, and what it counted.
    pub fn figures(&self) -> HttpFigures {
        HttpFigures {
            connections: self.front.connections.load(Ordering::Relaxed),
            inbound: self.front.inbound.used_and_limit(),
            outbound: self.front.outbound.used_and_limit(),
            latencies: figures(&self.front.latencies),
        }
    }

    /// Takes no new connections, answers polls that wait, lets requests under way finish within the drain limit, then closes
    /// what is left. Blocks until then.
    pub fn shutdown(mut self) {
        self.stop.send_replace(true);
        self.workers.join();
    }
}

/// Starts listening. The broker is called from the front's own threads.
pub fn serve(broker: Broker, options: HttpOptions) -> Result<HttpServer, ServeError> {
    let tls = TlsAcceptor::from(tls::load(&options.tls, &[b"http/1.1"])?);
    let (socket, local_addr) = listener::listen(options.listen)?;
    let (stop, stopped) = watch::channel(false);
    let front = Arc::new(Front::new(broker, options.limits, stopped.clone()));
    let worker = Worker { front: front.clone(), opener: Arc::new(Opener::new(tls, front.limits.open_timeout)) };
    let limits = &front.limits;
    let options = WorkerOptions {
        name: "http",
        count: options.workers,
        connections_max: limits.connections_max,
        drain_timeout: limits.drain_timeout,
    };
    let workers = workers::start(vec![socket], &options, &worker, &front.connections, &stopped, vec![])?;
    Ok(HttpServer { local_addr, stop, workers, front })
}

#[derive(Clone)]
struct Worker {
    front: Arc<Front>,
    opener: Arc<Opener>,
}

impl workers::Service for Worker {
    async fn connection(&self, tcp: TcpStream) {
        let Some(connection) = self.opener.open(tcp).await else { return };
        if connection.opening != Opening::Http1 {
            return self.opener.refuse(&connection, "HTTP/1");
        }
        let peer = connection.peer;
        if let Err(error) = connection::serve(self.front.clone(), connection).await {
            tracing::debug!(%peer, %error, "a connection ended");
        }
    }
}
