//! A broker with its remoting front in a temporary folder, and a client of it.
#![allow(dead_code, missing_docs, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used)]

use bytes::{Bytes, BytesMut};
use martlet_broker::{Broker, BrokerOptions, FindRequest, Found, Wanted};
use martlet_remoting::codec::frame::{self, Frame};
use martlet_remoting::codec::header::{FLAG_ONE_WAY, Format, Header};
use martlet_remoting::codec::json::Json;
use martlet_remoting::codec::properties;
use martlet_remoting::{RemotingOptions, RemotingServer, TlsOptions};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a test waits for what is to come.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    pub broker: Broker,
    pub server: Option<RemotingServer>,
    pub folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_, _| ())
    }

    pub fn with(change: impl FnOnce(&mut BrokerOptions, &mut RemotingOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut broker = BrokerOptions::new(folder.path());
        let tls = TlsOptions::SelfSigned { folder: folder.path().join("tls"), names: vec![] };
        let any = "127.0.0.1:0".parse().unwrap();
        let mut remoting = RemotingOptions::new(any, any, tls);
        // Clients of a test live on the thread that shuts the broker down, so they cannot take part in a drain.
        remoting.limits.drain_timeout = Duration::from_millis(100);
        change(&mut broker, &mut remoting);
        let (broker, _) = Broker::open(broker).unwrap();
        let server = martlet_remoting::serve(broker.clone(), remoting).unwrap();
        Self { broker, server: Some(server), folder }
    }

    pub fn server(&self) -> &RemotingServer {
        self.server.as_ref().unwrap()
    }

    pub async fn client(&self) -> Client {
        Client::to(self.server().local_addr()).await
    }

    /// Messages of a topic with this id.
    pub async fn find(&self, topic: &str, id: &str) -> Found {
        let wanted = Wanted::Id(id.to_owned());
        let topic = Some(topic.to_owned());
        let request = FindRequest { topic, wanted, since: None, until: None, limit: 10, after: None };
        self.broker.find(request).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown();
        }
        self.broker.close();
    }
}

pub struct Client {
    stream: TcpStream,
    buffer: BytesMut,
    next: i32,
    /// What came unasked while an answer was waited for.
    notices: VecDeque<Frame>,
    pub format: Format,
    pub version: i32,
}

impl Client {
    pub async fn to(address: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self {
            stream,
            buffer: BytesMut::new(),
            next: 100,
            notices: VecDeque::new(),
            format: Format::Json,
            version: 513,
        }
    }

    /// Sends a request; its number.
    pub async fn send(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8], flag: i32) -> i32 {
        self.next += 1;
        let fields = fields.iter().copied().collect();
        let (opaque, format, version) = (self.next, self.format, self.version);
        let header = Header { code, opaque, flag, fields, format, version, ..Header::default() };
        let bytes = [&frame::head(&header, body.len())[..], body].concat();
        self.write(&bytes).await;
        opaque
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame; `None`: the connection was closed.
    pub async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(length) = frame::length(&self.buffer).unwrap()
                && self.buffer.len() >= length
            {
                return Some(frame::decode(&self.buffer.split_to(length).freeze()).unwrap());
            }
            if self.stream.read_buf(&mut self.buffer).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Frame {
        let opaque = self.send(code, fields, body, 0).await;
        let answer = self.answer().await;
        assert_eq!(answer.header.opaque, opaque);
        answer
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Frame {
        loop {
            let frame = self.read().await.unwrap();
            if frame.header.is_response() {
                return frame;
            }
            self.notices.push_back(frame);
        }
    }

    /// The next thing that comes unasked.
    pub async fn notice(&mut self) -> Frame {
        if let Some(notice) = self.notices.pop_front() {
            return notice;
        }
        let frame = self.read().await.unwrap();
        assert!(!frame.header.is_response(), "{:?}", frame.header);
        frame
    }

    /// Says something that is not answered.
    pub async fn tell(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) {
        self.send(code, fields, body, FLAG_ONE_WAY).await;
    }

    /// Sends a message with these properties.
    pub async fn produce(&mut self, topic: &str, queue: &str, pairs: &[(&str, &str)], body: &[u8]) -> Frame {
        let text = property_text(pairs);
        self.ask(310, &send_fields(topic, queue, &text), body).await
    }
}

pub fn property_text(pairs: &[(&str, &str)]) -> String {
    let mut text = String::new();
    pairs.iter().for_each(|(name, value)| properties::put(&mut text, name, value));
    text
}

/// Fields of a send with names of one letter.
pub fn send_fields<'a>(topic: &'a str, queue: &'a str, properties: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("a", "producers"),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", queue),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", properties),
    ]
}

/// A field of an answer that has it.
pub fn field<'a>(frame: &'a Frame, name: &str) -> &'a str {
    frame.header.field(name).unwrap_or_else(|| panic!("no {name} in {:?}", frame.header))
}

/// What an answer that says no says.
pub fn denied(frame: &Frame) -> (i32, &str) {
    (frame.header.code, frame.header.remark.as_deref().unwrap_or(""))
}

pub fn json(body: &Bytes) -> Json {
    Json::parse(body, "body").unwrap()
}

/// Waits for what no event tells of, a figure or a clock; fails by name if it does not come.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let polled = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, polled).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
}
