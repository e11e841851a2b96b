//! Ports for brokers that keep them through kills and restarts.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use crate::{HarnessError, Result, io};

/// Ports of a block: those a broker listens on, and the one two below its remoting port, which it takes too if it can.
const BLOCK: u16 = 8;
const FIRST: u16 = 16_384;

/// Ports on loopback that are this broker's alone for as long as this lives, whether it runs or is just being started again.
///
/// A port that the system chose would not do: it is any outgoing connection's between a broker's end and its next start. These are
/// below those the system chooses, and a locked file keeps other test processes off them.
pub(crate) struct Ports {
    first: u16,
    _lock: File,
}

impl Ports {
    /// A block that nobody has.
    ///
    /// # Errors
    /// When all are taken, or files in the temporary folder cannot be locked.
    pub(crate) fn take() -> Result<Ports> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let folder = std::env::temp_dir().join("martlet-conformance-ports");
        fs::create_dir_all(&folder).map_err(io(format!("creating {}", folder.display())))?;
        let blocks = (end().saturating_sub(FIRST)) / BLOCK;
        // Not always the first free one: clients that outlive their broker for a moment are not to find another in its place.
        let spread = std::process::id().wrapping_mul(97) as u16;
        for _ in 0..blocks {
            let block = spread.wrapping_add(NEXT.fetch_add(1, Relaxed)) % blocks;
            let first = FIRST + block * BLOCK;
            let path = folder.join(first.to_string());
            // One that belongs to another user is as good as locked.
            let Ok(lock) = OpenOptions::new().create(true).append(true).open(path) else { continue };
            if lock.try_lock().is_ok() && (first..first + BLOCK).all(is_free) {
                return Ok(Ports { first, _lock: lock });
            }
        }
        Err(HarnessError::Command {
            what: "looking for free ports".into(),
            output: format!("{blocks} blocks are taken"),
        })
    }

    pub(crate) fn grpc(&self) -> SocketAddr {
        self.at(0)
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.at(1)
    }

    pub(crate) fn nameserver(&self) -> SocketAddr {
        self.at(2)
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.at(3)
    }

    /// Two above one that is free.
    pub(crate) fn remoting(&self) -> SocketAddr {
        self.at(6)
    }

    fn at(&self, offset: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.first + offset).into()
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Where the ports begin that the system gives to outgoing connections.
fn end() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768)
}
