//! The floor for TCP clients: the least a server can spend on a request. It reads the frame and answers with a fixed answer that
//! has the request's opaque; it keeps and checks nothing. Pulls get 32 messages that nobody sent, and the queue has no end.
//! Route, heartbeat and offsets are answered well enough for a client to work. Connections are dealt in turn to threads.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::deal::deal;
use crate::tcp::pulls::{BATCH, stored};
use crate::tcp::{FRAME_BYTES_MAX, Head, begin_frame, code};

/// What is read at a time.
const READ_BYTES: usize = 64 << 10;
const ONE_WAY: u32 = 2;

/// An answer but for its opaque.
struct Fixed {
    /// The header's parts before and behind the opaque.
    parts: [String; 2],
    body: Vec<u8>,
}

impl Fixed {
    fn new(fields: &str, body: Vec<u8>) -> Self {
        let parts = [
            format!("{{\"code\":0,\"extFields\":{{{fields}}},\"flag\":1,\"language\":\"JAVA\",\"opaque\":"),
            ",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}".to_owned(),
        ];
        Self { parts, body }
    }

    fn add(&self, out: &mut Vec<u8>, opaque: u32) {
        let opaque = opaque.to_string();
        let [before, behind] = &self.parts;
        begin_frame(out, before.len() + opaque.len() + behind.len(), self.body.len());
        for part in [before, &opaque, behind] {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&self.body);
    }
}

struct Floor {
    route: Fixed,
    pulled: Fixed,
    sent: Fixed,
    offset: Fixed,
    done: Fixed,
}

impl Floor {
    fn new(address: &str, body: usize) -> Self {
        let route = format!(
            "{{\"brokerDatas\":[{{\"brokerAddrs\":{{\"0\":\"{address}\"}},\"brokerName\":\"floor\",\"cluster\":\"floor\"}}],\
             \"queueDatas\":[{{\"brokerName\":\"floor\",\"perm\":6,\"readQueueNums\":8,\"topicSysFlag\":0,\"writeQueueNums\":8}}]}}"
        );
        let properties = "KEYS\u{1}0000002A\u{2}UNIQ_KEY\u{1}7F00000000000001000000020000002A\u{2}WAIT\u{1}true\u{2}TAGS\u{1}bench\u{2}";
        let messages = (0..u64::from(BATCH)).flat_map(|offset| stored(offset, "floor", &vec![7; body], properties));
        let pulled = "\"maxOffset\":\"1000000000\",\"minOffset\":\"0\",\"nextBeginOffset\":\"32\",\"suggestWhichBrokerId\":\"0\"";
        let sent = "\"MSG_REGION\":\"DefaultRegion\",\"TRACE_ON\":\"true\",\"msgId\":\"7F00000100002A9F0000000000000000\",\"queueId\":\"0\",\
            \"queueOffset\":\"0\",\"transactionId\":\"7F00000000000001000000020000002A\"";
        Self {
            route: Fixed::new("", route.into_bytes()),
            pulled: Fixed::new(pulled, messages.collect()),
            sent: Fixed::new(sent, Vec::new()),
            offset: Fixed::new("\"offset\":\"0\"", Vec::new()),
            done: Fixed::new("", Vec::new()),
        }
    }

    fn answer(&self, code: i32) -> &Fixed {
        match code {
            code::SEND | code::SEND_BATCH => &self.sent,
            code::PULL => &self.pulled,
            code::ROUTE => &self.route,
            code::MIN_OFFSET | code::MAX_OFFSET => &self.offset,
            _ => &self.done,
        }
    }

    /// Takes the whole frames off `read` and adds their answers; `None` for what is no frame.
    fn take(&self, read: &mut BytesMut, out: &mut Vec<u8>) -> Option<()> {
        while let Some((length, _)) = read.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            if !(4..=FRAME_BYTES_MAX).contains(&length) {
                return None;
            }
            if read.len() < 4 + length {
                read.reserve(4 + length - read.len());
                return Some(());
            }
            read.advance(4);
            let mut frame = read.split_to(length);
            let header = frame.get_u32() as usize;
            let head = Head::read(frame.get(..header)?)?;
            if head.flag & ONE_WAY == 0 {
                self.answer(head.code).add(out, head.opaque);
            }
        }
        Some(())
    }
}

/// Serves until accepting fails; pulls get bodies of `body` bytes. Answers so long after it has read a request, as a server does
/// that waits for a disk.
///
/// # Errors
/// When a thread's runtime cannot be made, or accepting fails.
pub fn serve(listener: TcpListener, threads: usize, body: usize, after: Duration) -> io::Result<()> {
    let floor = Arc::new(Floor::new(&listener.local_addr()?.to_string(), body));
    deal(listener, threads, move |socket| {
        let floor = Arc::clone(&floor);
        // A generator that has seen enough hangs up.
        async move { drop(answer_all(&floor, socket, after).await) }
    })
}

async fn answer_all(floor: &Floor, mut socket: TcpStream, after: Duration) -> io::Result<()> {
    let (mut read, mut out) = (BytesMut::new(), Vec::new());
    let mut waiting = VecDeque::new();
    loop {
        read.reserve(READ_BYTES);
        let due = waiting.front().map(|(due, _)| *due);
        tokio::select! {
            count = socket.read_buf(&mut read) => {
                if count? == 0 || floor.take(&mut read, &mut out).is_none() {
                    return Ok(());
                }
                if !after.is_zero() {
                    waiting.push_back((Instant::now() + after, std::mem::take(&mut out)));
                    continue;
                }
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                out = waiting.pop_front().map(|(_, answers)| answers).unwrap_or_default();
            }
        }
        socket.write_all(&out).await?;
        out.clear();
    }
}
