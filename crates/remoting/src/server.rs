//! The front's start and end.

use crate::RemotingOptions;
use crate::connection;
use crate::front::{Addresses, Front, figures};
use martlet_broker::Broker;
use martlet_net::latency::RpcLatency;
use martlet_net::listener::{self, Opener};
use martlet_net::sniff::Opening;
use martlet_net::tls;
use martlet_net::workers::{self, WorkerOptions, Workers};
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// Below a broker's port by so much, old clients expect another one for the same.
const ALIAS_BELOW: u16 = 2;

/// Why the front could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// As fronts of every protocol.
    #[error(transparent)]
    Net(#[from] martlet_net::ServeError),
    /// Neither a name server's nor a broker's address is given.
    #[error("no address to listen on")]
    Nowhere,
    /// The advertised host has no address, which ids of messages need.
    #[error("advertised host {host}: {source}")]
    Advertise {
        /// As it was given.
        host: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Figures of a running front.
#[derive(Clone, Debug, Default)]
pub struct RemotingFigures {
    /// Connections at this moment.
    pub connections: usize,
    /// Bytes of requests held, and the most that may be.
    pub inbound: (usize, usize),
    /// How long requests took since the start.
    pub latencies: Vec<RpcLatency>,
}

/// A running front. Dropping it lets it drain without waiting for that.
pub struct RemotingServer {
    nameserver: Option<SocketAddr>,
    local_addr: SocketAddr,
    alias: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    workers: Workers,
    front: Arc<Front>,
}

impl RemotingServer {
    /// The broker's address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The name server's address.
    pub fn nameserver_addr(&self) -> Option<SocketAddr> {
        self.nameserver
    }

    /// The address for old clients; `None` if it could not be had.
    pub fn alias_addr(&self) -> Option<SocketAddr> {
        self.alias
    }

    /// What it does at this moment, and what it counted.
    pub fn figures(&self) -> RemotingFigures {
        RemotingFigures {
            connections: self.front.connections.load(Ordering::Relaxed),
            inbound: self.front.inbound.used_and_limit(),
            latencies: figures(&self.front.latencies),
        }
    }

    /// Takes no new connections and requests, lets those under way finish within the drain limit, then closes what is left.
    /// Blocks until then.
    pub fn shutdown(mut self) {
        self.stop.send_replace(true);
        self.workers.join();
    }
}

/// Starts listening. The broker is called from the front's own threads. Blocks for looking up the advertised host.
pub fn serve(broker: Broker, options: RemotingOptions) -> Result<RemotingServer, ServeError> {
    let tls = TlsAcceptor::from(tls::load(&options.tls, &[]).map_err(martlet_net::ServeError::Tls)?);
    let mut sockets = Vec::new();
    let mut listen = |address: SocketAddr| {
        let (socket, local) = listener::listen(address)?;
        sockets.push(socket);
        Ok::<_, martlet_net::ServeError>(local)
    };
    let both = options.listen.is_some() && options.nameserver_listen == options.listen;
    let both = both && options.listen.is_some_and(|address| address.port() != 0);
    let nameserver = match options.nameserver_listen.filter(|_| !both) {
        Some(address) => Some(listen(address)?),
        None => None,
    };
    let local_addr = match options.listen {
        Some(address) => listen(address)?,
        None => nameserver.ok_or(ServeError::Nowhere)?,
    };
    let nameserver = if both { Some(local_addr) } else { nameserver };
    let below = options.listen.and_then(|address| address.port().checked_sub(ALIAS_BELOW)).filter(|port| *port > 0);
    let alias = below.and_then(|port| match listen(SocketAddr::new(local_addr.ip(), port)) {
        Ok(address) => Some(address),
        Err(error) => {
            tracing::warn!(%error, "no second port for old clients that expect one");
            None
        }
    });
    let addresses = Addresses::new(options.advertise.map(resolve).transpose()?, local_addr.port());
    let (stop, stopped) = watch::channel(false);
    let front = Arc::new(Front::new(broker, addresses, options.limits, stopped.clone()));
    front.clone().listen_for_checks();
    let worker = Worker { front: front.clone(), opener: Arc::new(Opener::new(tls, front.limits.open_timeout)) };
    let notices: workers::Background = Box::pin(front.clone().tell_of_members(stopped.clone()));
    let rates: workers::Background = Box::pin(front.clone().keep_rates(stopped.clone()));
    let limits = &front.limits;
    let options = WorkerOptions {
        name: "remoting",
        count: options.workers,
        connections_max: limits.connections_max,
        drain_timeout: limits.drain_timeout,
    };
    let workers = workers::start(sockets, &options, &worker, &front.connections, &stopped, vec![notices, rates])?;
    Ok(RemotingServer { nameserver, local_addr, alias, stop, workers, front })
}

/// The advertised host with an address of its own: ids of messages hold addresses, not names.
fn resolve((host, port): (String, u16)) -> Result<(String, SocketAddr), ServeError> {
    let error = |source| ServeError::Advertise { host: host.clone(), source };
    let found: Vec<SocketAddr> = (host.as_str(), port).to_socket_addrs().map_err(error)?.collect();
    // Old clients read addresses of four bytes only.
    let address = found.iter().find(|address| address.is_ipv4()).or(found.first()).copied();
    let address = address.ok_or_else(|| error(io::ErrorKind::NotFound.into()))?;
    Ok((host, address))
}

#[derive(Clone)]
struct Worker {
    front: Arc<Front>,
    opener: Arc<Opener>,
}

impl workers::Service for Worker {
    async fn connection(&self, tcp: TcpStream) {
        let Some(connection) = self.opener.open(tcp).await else { return };
        if connection.opening != Opening::Remoting {
            self.opener.refuse(&connection, "remoting");
            return;
        }
        let peer = connection.peer;
        if let Err(error) = connection::serve(self.front.clone(), connection).await {
            self.opener.complaints.say(|more| tracing::info!(%peer, %error, more, "a connection was closed"));
        }
    }
}
