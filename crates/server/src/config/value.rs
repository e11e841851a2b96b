//! Values that are more than a number or a word.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub SocketAddr);

impl Listen {
    /// All interfaces.
    pub const fn any(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port))
    }

    /// `IP:PORT`, `localhost:PORT`, or `PORT` for all interfaces.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(port) = text.parse() {
            return Some(Self::any(port));
        }
        if let Some(port) = text.strip_prefix("localhost:") {
            return Some(Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.parse().ok()?)));
        }
        text.parse().ok().map(Self)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What clients are told to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// What they have dialled already, which works wherever the first connection does.
    AsDialled,
    /// This host, with this port if it is given and the listener's if not.
    Host {
        /// IP address or name.
        host: String,
        /// 1 to 65535.
        port: Option<u16>,
    },
}

impl Advertise {
    /// `HOST`, `HOST:PORT`, an IPv6 address with or without brackets, or nothing.
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::AsDialled);
        }
        if text.parse::<IpAddr>().is_ok() {
            return Some(Self::Host { host: text.to_owned(), port: None });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let port = (address.port() != 0).then_some(address.port())?;
            return Some(Self::Host { host: address.ip().to_string(), port: Some(port) });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|port| *port != 0)?)),
            None => (text.trim_start_matches('[').trim_end_matches(']'), None),
        };
        let is_ip6 = host.parse::<IpAddr>().is_ok();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_name = !host.is_empty() && host.len() <= 253 && host.bytes().all(legal);
        (is_ip6 || is_name).then(|| Self::Host { host: host.to_owned(), port })
    }
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AsDialled => f.write_str("the address they came by"),
            Self::Host { host, port: None } => f.write_str(host),
            Self::Host { host, port: Some(port) } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host { host, port: Some(port) } => write!(f, "{host}:{port}"),
        }
    }
}

/// When a send is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the disk has it.
    Fdatasync,
    /// When the operating system has it.
    PageCache,
}

impl Durability {
    /// The word for the weaker promise is long on purpose.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "fdatasync" => Some(Self::Fdatasync),
            "page-cache-only-loses-data-on-power-loss" => Some(Self::PageCache),
            _ => None,
        }
    }
}
