//! A connection: requests gathered and written in one go, answers as they come; and which request an answer is for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answer, FRAME_BYTES_MAX, Head, code, protocol, request};
use crate::error::{BenchError, Result};
use crate::wire::Traffic;

/// What is read at a time.
const READ_BYTES: usize = 64 << 10;
/// How long an answer that a load cannot begin without may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a server.
pub struct Link {
    /// Requests that [`Link::flush`] writes.
    pub out: Vec<u8>,
    socket: TcpStream,
    endpoint: String,
    read: BytesMut,
    read_bytes: usize,
    asked: u32,
    traffic: Arc<Traffic>,
}

impl Link {
    /// Connects. `small`: for a connection that is one of thousands and reads little.
    pub async fn open(endpoint: &str, small: bool, traffic: Arc<Traffic>) -> Result<Self> {
        let refused = |source| BenchError::Connect { endpoint: endpoint.to_owned(), source };
        let socket = TcpStream::connect(endpoint).await.map_err(refused)?;
        socket.set_nodelay(true).map_err(refused)?;
        let read_bytes = if small { 512 } else { READ_BYTES };
        let endpoint = endpoint.to_owned();
        Ok(Self { out: Vec::new(), socket, endpoint, read: BytesMut::new(), read_bytes, asked: 0, traffic })
    }

    fn lost(&self, source: std::io::Error) -> BenchError {
        BenchError::Connect { endpoint: self.endpoint.clone(), source }
    }

    /// Writes what was gathered.
    pub async fn flush(&mut self) -> Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.socket.write_all(&self.out).await.map_err(|source| self.lost(source))?;
        self.traffic.written.fetch_add(self.out.len() as u64, Ordering::Relaxed);
        self.out.clear();
        Ok(())
    }

    /// Waits until something was read. May be given up at any time.
    pub async fn read(&mut self) -> Result<()> {
        self.read.reserve(self.read_bytes);
        let count = self.socket.read_buf(&mut self.read).await.map_err(|source| self.lost(source))?;
        self.traffic.read.fetch_add(count as u64, Ordering::Relaxed);
        match count {
            0 => Err(self.lost(std::io::ErrorKind::UnexpectedEof.into())),
            _ => Ok(()),
        }
    }

    /// The next answer that was read. What the server asks for itself is passed over.
    pub fn answer(&mut self) -> Result<Option<Answer>> {
        loop {
            let Some((length, _)) = self.read.split_first_chunk::<4>() else { return Ok(None) };
            let length = u32::from_be_bytes(*length) as usize;
            if !(4..=FRAME_BYTES_MAX).contains(&length) {
                return Err(protocol(0, format!("a frame of {length} bytes")));
            }
            if self.read.len() < 4 + length {
                // All of it at once, instead of one piece after the other.
                self.read.reserve(4 + length - self.read.len());
                return Ok(None);
            }
            self.read.advance(4);
            let mut frame = self.read.split_to(length).freeze();
            let header = frame.get_u32();
            // The top byte: 0 for JSON. Servers answer in the format of the request.
            if header as usize > frame.len() {
                return Err(protocol(0, format!("a header of {header:#x} bytes, or not of JSON, in {length}")));
            }
            let header = frame.split_to(header as usize);
            let head = Head::read(&header).ok_or_else(|| protocol(0, "a header without code or opaque"))?;
            if head.is_answer() {
                return Ok(Some(Answer { head, header, body: frame }));
            }
        }
    }

    /// Asks, and waits for the answer whatever its code; answers to others are lost meanwhile.
    pub async fn ask(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        self.asked += 1;
        let opaque = self.asked;
        self.out.extend_from_slice(&request(code, opaque, fields, body));
        let answered = async {
            self.flush().await?;
            loop {
                while let Some(answer) = self.answer()? {
                    if answer.head.opaque == opaque {
                        return Ok(answer);
                    }
                }
                self.read().await?;
            }
        };
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(answer) => answer,
            Err(_) => Err(protocol(code, format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }

    /// The same for the number in a field.
    pub async fn ask_number(&mut self, code: i32, fields: &[(&str, &str)], field: &str) -> Result<i64> {
        let answer = self.ask(code, fields, b"").await?.ok(code)?;
        answer.field(field).ok_or_else(|| protocol(code, format!("an answer without {field}")))
    }
}

/// Most requests that are under way on one connection.
pub const SLOTS_MAX: usize = 10_000;
/// Opaques of a load begin here, and have ten digits: templates have room for them, and no [`Link::ask`] has one.
pub const OPAQUE_BASE: u32 = 1_000_000_000;
const ROUNDS: u32 = 100_000;

/// Requests under way. The opaque of one says its slot, and differs from the slot's last ones.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<(u32, Option<u64>)>,
    free: Vec<u32>,
}

impl Slots {
    /// So many, [`SLOTS_MAX`] at most.
    pub fn new(count: usize) -> Self {
        let count = count.min(SLOTS_MAX);
        Self { slots: vec![(0, None); count], free: (0..count as u32).rev().collect() }
    }

    /// How many may be under way.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many are under way.
    pub fn busy(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Begins one: its slot and opaque. `None`: all are under way. `note` is handed back with its answer.
    pub fn begin(&mut self, note: u64) -> Option<u32> {
        let slot = self.free.pop()?;
        let (round, held) = self.slots.get_mut(slot as usize)?;
        *round = (*round + 1) % ROUNDS;
        *held = Some(note);
        Some(OPAQUE_BASE + *round * SLOTS_MAX as u32 + slot)
    }

    /// Ends the one with this opaque; `None`: none has it.
    pub fn end(&mut self, opaque: u32) -> Option<u64> {
        let number = opaque.checked_sub(OPAQUE_BASE)?;
        let slot = number % SLOTS_MAX as u32;
        let (round, held) = self.slots.get_mut(slot as usize)?;
        if *round != number / SLOTS_MAX as u32 {
            return None;
        }
        let note = held.take()?;
        self.free.push(slot);
        Some(note)
    }

    /// The same of an answer to a load's request.
    pub fn answered(&mut self, answer: &Answer, request: i32) -> Result<u64> {
        let foreign =
            || protocol(request, format!("an answer to a request {} that is not under way", answer.head.opaque));
        self.end(answer.head.opaque).ok_or_else(foreign)
    }
}

/// Whether an answer is to a heartbeat of [`super::session::Session::beat`].
pub fn is_beat(answer: &Answer) -> bool {
    answer.head.opaque == BEAT
}

/// Opaque of heartbeats in the course of a load.
pub const BEAT: u32 = OPAQUE_BASE - 1;

/// A heartbeat that nobody waits for.
pub fn beat(body: &[u8]) -> Vec<u8> {
    request(code::HEARTBEAT, BEAT, &[], body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opaque_ends_its_own_request_once() {
        let mut slots = Slots::new(2);
        let (first, second) = (slots.begin(10).unwrap(), slots.begin(20).unwrap());
        assert_eq!((slots.begin(30), slots.busy()), (None, 2));
        assert_eq!(slots.end(first), Some(10));
        assert_eq!(slots.end(first), None);
        let third = slots.begin(30).unwrap();
        assert!(third != first && third.to_string().len() == 10);
        assert_eq!((slots.end(first), slots.end(second), slots.end(third)), (None, Some(20), Some(30)));
        assert_eq!((slots.end(3), slots.end(BEAT), slots.busy()), (None, None, 0));
    }
}
