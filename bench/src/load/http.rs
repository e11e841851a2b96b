//! Publishes over the HTTP SDK protocol in a closed loop: on each of so many keep-alive connections, one at a time.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::{BenchError, Result};
use crate::load::{self, Gate, Tally, Target};
use crate::pace::now_ns;
use crate::report::Report;

/// Bytes of an answer; those to publishes have a few hundred.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
const RPC: &str = "publish";

/// How the load is shaped.
#[derive(Clone, Debug)]
pub struct Publishes {
    /// Connections, each with one request at a time.
    pub connections: usize,
    /// Threads of the generator.
    pub threads: usize,
    /// Body size in bytes.
    pub size: usize,
    /// Access key and secret, if requests are signed.
    pub account: Option<(String, String)>,
    /// Not measured.
    pub warm: Duration,
    /// Measured.
    pub measure: Duration,
}

/// Throughput, and latency as a by-product.
pub fn closed(target: &Target, publishes: &Publishes) -> Result<Report> {
    let tally = Arc::new(Tally::default());
    let request = request(target, publishes)?;
    let threads = publishes.threads.clamp(1, publishes.connections.max(1));
    let worker = async |index: usize, mut gate: Gate| {
        let count = publishes.connections / threads + usize::from(index < publishes.connections % threads);
        let mut connections = Vec::new();
        for _ in 0..count {
            connections.push(Connection::open(&target.endpoint).await?);
        }
        gate.pass().await;
        let histogram = Rc::new(RefCell::new(load::histogram()?));
        let loops = connections.into_iter().map(|connection| publish_loop(connection, &request, &tally, &histogram));
        tokio::select! {
            _ = futures_util::future::join_all(loops) => {}
            () = gate.over(Duration::from_secs(10)) => {}
        }
        let histogram = histogram.borrow().clone();
        Ok(histogram)
    };
    let drive = || load::timed(target, &tally, publishes.warm, publishes.measure);
    let ((before, after), histograms) = load::run(threads, &tally, worker, drive)?;
    let signed = if publishes.account.is_some() { ", signed" } else { "" };
    let Publishes { connections, size, .. } = publishes;
    let mut report = Report::new(format!("publish over HTTP: {connections} connections, {size} bytes{signed}"));
    load::add_figures(&mut report, &before, &after, Some(*size));
    let mut sum = load::histogram()?;
    for histogram in histograms {
        // Same bounds: adding cannot fail.
        let _ = sum.add(histogram);
    }
    report.add_latency(&sum);
    report.first_error = tally.first_error();
    Ok(report)
}

async fn publish_loop(
    mut connection: Connection,
    request: &[u8],
    tally: &Tally,
    histogram: &Rc<RefCell<Histogram<u64>>>,
) {
    while !tally.stopped() {
        let begin = now_ns();
        match connection.publish(request).await {
            Ok(()) => {
                tally.add(1);
                if tally.recording() {
                    histogram.borrow_mut().saturating_record(now_ns() - begin);
                }
            }
            Err(error) => {
                tally.fail(&error);
                // What is on its way on this connection is not known any more.
                return;
            }
        }
    }
}

/// The request, the same each time: as the SDKs write it, with a tag and a key.
fn request(target: &Target, publishes: &Publishes) -> Result<Vec<u8>> {
    let body = "abcdefghijklmnopqrstuvwxyz012345".repeat(publishes.size / 32 + 1);
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?><Message xmlns=\"http://mq.aliyuncs.com/doc/v1/\"><MessageBody>{}</MessageBody>\
         <MessageTag>{}</MessageTag><Properties>KEYS:7ABCDEF7|</Properties></Message>",
        &body[..publishes.size],
        target.dress.tag
    );
    let path = format!("/topics/{}/messages", target.topic);
    let (kind, version) = ("text/xml;charset=utf-8", "2015-06-06");
    let date = httpdate::fmt_http_date(SystemTime::now());
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nx-mq-version: {version}\r\nDate: {date}\r\nContent-Length: {}\r\n",
        target.endpoint,
        body.len()
    );
    if let Some((key, secret)) = &publishes.account {
        let refuse = || BenchError::Setting { name: "secret", value: String::new(), limit: "a key of HMAC" };
        let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).map_err(|_| refuse())?;
        mac.update(format!("POST\n\n{kind}\n{date}\nx-mq-version:{version}\n{path}").as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        head.push_str(&format!("Authorization: MQ {key}:{signature}\r\n"));
    }
    Ok([head.as_bytes(), b"\r\n", body.as_bytes()].concat())
}

/// A keep-alive connection.
struct Connection {
    socket: TcpStream,
    /// Of the answer that is read.
    read: Vec<u8>,
}

impl Connection {
    async fn open(endpoint: &str) -> Result<Self> {
        let refused = |source| BenchError::Connect { endpoint: endpoint.to_owned(), source };
        let socket = TcpStream::connect(endpoint).await.map_err(refused)?;
        socket.set_nodelay(true).map_err(refused)?;
        Ok(Self { socket, read: Vec::with_capacity(ANSWER_BYTES_MAX) })
    }

    /// One request and its whole answer, which is to be 201.
    async fn publish(&mut self, request: &[u8]) -> Result<()> {
        let lost = |error: std::io::Error| protocol(error.to_string());
        self.socket.write_all(request).await.map_err(lost)?;
        self.read.clear();
        let whole = loop {
            if let Some(whole) = answer_bytes(&self.read)? {
                break whole;
            }
            if self.read.len() >= ANSWER_BYTES_MAX {
                return Err(protocol(format!("an answer has more than {ANSWER_BYTES_MAX} bytes")));
            }
            if self.socket.read_buf(&mut self.read).await.map_err(lost)? == 0 {
                return Err(protocol("the connection ended within an answer".to_owned()));
            }
        };
        let answer = String::from_utf8_lossy(&self.read[..whole]);
        match answer.starts_with("HTTP/1.1 201 ") {
            true => Ok(()),
            false => Err(protocol(answer.chars().take(400).collect())),
        }
    }
}

/// Length of the answer that has been read, once all of it has.
fn answer_bytes(read: &[u8]) -> Result<Option<usize>> {
    let Some(head) = read.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&read[..head]).map_err(|_| protocol("an answer's head is not text".to_owned()))?;
    let length = text.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
    });
    let length = length.ok_or_else(|| protocol("an answer has no Content-Length".to_owned()))?;
    let whole = head + 4 + length;
    Ok((read.len() >= whole).then_some(whole))
}

fn protocol(what: String) -> BenchError {
    BenchError::Protocol { rpc: RPC, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_all_of_its_body_is_there() {
        let whole = b"HTTP/1.1 201 Created\r\ncontent-length: 3\r\n\r\nabc";
        for end in 0..whole.len() {
            assert_eq!(answer_bytes(&whole[..end]).unwrap(), None, "{end}");
        }
        assert_eq!(answer_bytes(whole).unwrap(), Some(whole.len()));
        assert!(answer_bytes(b"HTTP/1.1 201 Created\r\n\r\n").is_err());
    }
}
