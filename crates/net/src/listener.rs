//! From an accepted socket to a connection whose protocol and peer are known. For every listener of the broker.
//!
//! In: a TCP socket. Out: a [`Connection`] that starts at the first byte of the application protocol, with what that
//! protocol looks like ([`sniff::Opening`]). On the way a PROXY header is taken off (it may be followed by TLS or
//! plaintext), then TLS.
//!
//! Bounds: one time limit for all of it, so half-open connections go away; at most [`sniff::SNIFF_BYTES_MAX`] bytes to
//! tell protocols apart, [`proxy::V2_BYTES_MAX`] bytes for a PROXY header, one PROXY header per connection.

use crate::ServeError;
use crate::complaints::Complaints;
use crate::proxy::{self, ProxyError, ProxyHeader};
use crate::sniff::{self, Opening};
use crate::stream::{Prefixed, Stream};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

/// A connection ready for its protocol.
#[derive(Debug)]
pub struct Connection {
    /// The bytes, from the first one of the application protocol.
    pub stream: Stream,
    /// What they start like. Never TLS or PROXY.
    pub opening: Opening,
    /// Who is at the other end; as the PROXY header says, if there was one.
    pub peer: SocketAddr,
    /// The address that was dialled, as this machine sees it.
    pub local: SocketAddr,
    /// Whether it is encrypted.
    pub tls: bool,
}

/// Why a socket did not become a connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The peer took too long.
    #[error("no complete first message within {} ms", limit.as_millis())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The peer closed, or the handshake failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The PROXY header is wrong.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// A second PROXY header, or TLS inside TLS.
    #[error("{what} inside of a connection that already had it")]
    Nested {
        /// What.
        what: &'static str,
    },
}

impl OpenError {
    /// Whether the peer just went away without sending anything wrong, as port checks do.
    pub fn is_hang_up(&self) -> bool {
        let Self::Io(error) = self else { return false };
        matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
    }
}

/// A socket that listens on `address`, for [`crate::workers::start`], and the address it has: of port 0 the system chooses.
pub fn listen(address: SocketAddr) -> Result<(StdListener, SocketAddr), ServeError> {
    let bind = || {
        let socket = StdListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    bind().map_err(|source| ServeError::Listen { address, source })
}

/// Opens the connections of a front, and says in the log what cannot be served.
pub struct Opener {
    tls: TlsAcceptor,
    limit: Duration,
    /// What else there is to say about peers.
    pub complaints: Complaints,
}

impl Opener {
    /// For connections that have `limit` to send their first message.
    pub fn new(tls: TlsAcceptor, limit: Duration) -> Self {
        Self { tls, limit, complaints: Complaints::default() }
    }

    /// [`open`]; `None` if nothing came of it, which the log says unless the peer just went away.
    pub async fn open(&self, tcp: TcpStream) -> Option<Connection> {
        let remote = tcp.peer_addr();
        let error = match open(tcp, Some(&self.tls), self.limit).await {
            Ok(connection) => return Some(connection),
            Err(error) => error,
        };
        if !error.is_hang_up() {
            let peer = remote.map_or_else(|_| "unknown".to_owned(), |peer| peer.to_string());
            self.complaints.say(|more| tracing::info!(peer, %error, more, "a connection could not be opened"));
        }
        None
    }

    /// Says that a connection speaks something else than `protocol`, and is closed.
    pub fn refuse(&self, connection: &Connection, protocol: &'static str) {
        let (peer, opening) = (connection.peer, connection.opening);
        self.complaints
            .say(|more| tracing::info!(%peer, ?opening, protocol, more, "a connection speaks something else, closed"));
    }
}

/// Takes PROXY header and TLS off a socket and tells what is inside, within `limit`. `tls` is `None` for listeners
/// without a certificate: a TLS handshake is then an opening like any other ([`Opening::Tls`]).
pub async fn open(tcp: TcpStream, tls: Option<&TlsAcceptor>, limit: Duration) -> Result<Connection, OpenError> {
    let (peer, local) = (tcp.peer_addr()?, tcp.local_addr()?);
    tcp.set_nodelay(true)?;
    tokio::time::timeout(limit, negotiate(tcp, tls, peer, local)).await.unwrap_or(Err(OpenError::Timeout { limit }))
}

async fn negotiate(
    mut tcp: TcpStream,
    tls: Option<&TlsAcceptor>,
    mut peer: SocketAddr,
    local: SocketAddr,
) -> Result<Connection, OpenError> {
    let mut seen = Vec::with_capacity(256);
    let mut opening = first_bytes(&mut tcp, &mut seen).await?;
    if matches!(opening, Opening::ProxyV1 | Opening::ProxyV2) {
        let header = proxy_header(&mut tcp, &mut seen, opening).await?;
        seen.drain(..header.bytes);
        peer = header.source.unwrap_or(peer);
        opening = first_bytes(&mut tcp, &mut seen).await?;
        if matches!(opening, Opening::ProxyV1 | Opening::ProxyV2) {
            return Err(OpenError::Nested { what: "a PROXY header" });
        }
    }
    let plain = Prefixed::new(seen, tcp);
    let Some(acceptor) = tls.filter(|_| opening == Opening::Tls) else {
        return Ok(Connection { stream: Stream::Plain(plain), opening, peer, local, tls: false });
    };
    let mut encrypted = acceptor.accept(plain).await?;
    let mut seen = Vec::with_capacity(256);
    let opening = first_bytes(&mut encrypted, &mut seen).await?;
    if opening == Opening::Tls {
        return Err(OpenError::Nested { what: "TLS" });
    }
    let stream = Stream::Tls(Box::new(Prefixed::new(seen, encrypted)));
    Ok(Connection { stream, opening, peer, local, tls: true })
}

/// Reads into `seen` until its bytes can be told apart.
async fn first_bytes(io: &mut (impl AsyncRead + Unpin), seen: &mut Vec<u8>) -> io::Result<Opening> {
    loop {
        if let Some(opening) = sniff::classify(seen) {
            return Ok(opening);
        }
        more(io, seen).await?;
    }
}

async fn proxy_header(
    io: &mut (impl AsyncRead + Unpin),
    seen: &mut Vec<u8>,
    opening: Opening,
) -> Result<ProxyHeader, OpenError> {
    loop {
        let header = if opening == Opening::ProxyV1 { proxy::parse_v1(seen) } else { proxy::parse_v2(seen) };
        if let Some(header) = header? {
            return Ok(header);
        }
        more(io, seen).await?;
    }
}

async fn more(io: &mut (impl AsyncRead + Unpin), seen: &mut Vec<u8>) -> io::Result<()> {
    let mut chunk = [0; 256];
    match io.read(&mut chunk).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            seen.extend_from_slice(&chunk[..read]);
            Ok(())
        }
    }
}
