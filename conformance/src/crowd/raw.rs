//! A socket that is written and read byte by byte, and answers as they come on the wire.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::stop::Stop;

/// How long a socket blocks before it is looked whether all is over.
const SLICE: Duration = Duration::from_millis(100);
/// Longer than anything that a broker at its defaults gives a client time for.
pub(super) const PATIENCE: Duration = Duration::from_secs(45);

/// A connection.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    unread: Vec<u8>,
    stop: Arc<Stop>,
}

impl Raw {
    /// Opens one. Whoever waits on it ends with `Interrupted` once `stop` is said.
    ///
    /// # Errors
    /// When it is not accepted.
    pub fn connect(address: SocketAddr, stop: Arc<Stop>) -> io::Result<Raw> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SLICE))?;
        stream.set_write_timeout(Some(SLICE))?;
        Ok(Raw { stream, unread: Vec::new(), stop })
    }

    /// Writes all of it, as fast as it is taken.
    ///
    /// # Errors
    /// When the other side has closed, or has taken nothing for 45 s.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut until = Instant::now() + PATIENCE;
        while !bytes.is_empty() {
            let written = self.write_some(bytes)?;
            if written > 0 {
                until = Instant::now() + PATIENCE;
            } else if Instant::now() > until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was taken"));
            }
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Writes what is taken within 100 ms, and says how many bytes that is.
    ///
    /// # Errors
    /// When the other side has closed.
    pub(super) fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.still_on()?;
        match self.stream.write(bytes) {
            Err(error) if is_slice(error.kind()) => Ok(0),
            written => written,
        }
    }

    fn still_on(&self) -> io::Result<()> {
        if self.stop.is_said() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// The socket below.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Reads what is there; waits for it if nothing is.
    fn more(&mut self) -> io::Result<()> {
        let (until, mut chunk) = (Instant::now() + PATIENCE, [0; 16 << 10]);
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.unread.extend_from_slice(&chunk[..read]);
                    return Ok(());
                }
                Err(error) if is_slice(error.kind()) => {}
                Err(error) => return Err(error),
            }
            self.still_on()?;
            if Instant::now() > until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came"));
            }
        }
    }

    /// The next bytes.
    ///
    /// # Errors
    /// When they do not come.
    pub fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < count {
            self.more()?;
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// The next answer of HTTP: its status, and a space and its code if it is a document with one; and the document.
    ///
    /// # Errors
    /// When there is none, of the kinds that [`is_end`] knows if the broker has closed.
    pub fn answer(&mut self) -> io::Result<(String, String)> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more()?;
        };
        let head = String::from_utf8_lossy(&self.take(end)?).to_lowercase();
        let status = head.split(' ').nth(1).unwrap_or("no status").trim_end().to_owned();
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let document = String::from_utf8_lossy(&self.take(length.unwrap_or(0))?).into_owned();
        let code = document.split("<Code>").nth(1).and_then(|rest| rest.split('<').next());
        Ok((code.map_or(status.clone(), |code| format!("{status} {code}")), document))
    }

    /// Waits for the end, whatever comes before it.
    ///
    /// # Errors
    /// Always: of the kinds that [`is_end`] knows if the broker has closed.
    pub fn end(&mut self) -> io::Result<()> {
        loop {
            self.more()?;
            self.unread.clear();
        }
    }

    /// Waits for so long, unless all is over before.
    ///
    /// # Errors
    /// When all is over.
    pub fn pause(&self, time: Duration) -> io::Result<()> {
        self.stop.wait(time);
        self.still_on()
    }
}

/// Whether an error says that the other side has closed.
pub(super) fn is_end(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Whether an error says that a socket has blocked for its time.
pub(super) fn is_slice(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Status and document of one GET over HTTP.
///
/// # Errors
/// When there is no answer.
pub fn get(address: &str, path: &str) -> io::Result<(String, String)> {
    let address = address.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let mut raw = Raw::connect(address, Arc::default())?;
    raw.write(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes())?;
    raw.answer()
}
