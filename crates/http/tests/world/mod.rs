//! A broker with its HTTP front in a temporary folder, and a client that writes what the SDKs write.
#![allow(dead_code, missing_docs, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used)]

#[path = "../../../net/tests/tls_client/mod.rs"]
mod tls_client;

use bytes::Bytes;
use martlet_broker::{Broker, BrokerOptions, DeliveredMessage, NewMessage, ReceiveRequest, SendRequest};
use martlet_http::{HttpOptions, HttpServer, TlsOptions};
use martlet_model::record::{Field, RecordWriter};
use martlet_model::{Filter, MessageType};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub struct World {
    pub broker: Broker,
    pub server: Option<HttpServer>,
    pub folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        Self::with(|_, _| ())
    }

    pub fn with(change: impl FnOnce(&mut BrokerOptions, &mut HttpOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut broker = BrokerOptions::new(folder.path());
        let tls = TlsOptions::SelfSigned { folder: folder.path().join("tls"), names: vec![] };
        let mut http = HttpOptions::new("127.0.0.1:0".parse().unwrap(), tls);
        // Clients of a test live on the thread that shuts the broker down, so they cannot take part in a drain.
        http.limits.drain_timeout = Duration::from_millis(100);
        change(&mut broker, &mut http);
        let (broker, _) = Broker::open(broker).unwrap();
        let server = martlet_http::serve(broker.clone(), http).unwrap();
        Self { broker, server: Some(server), folder }
    }

    pub async fn client(&self) -> Client {
        let stream = TcpStream::connect(self.server.as_ref().unwrap().local_addr()).await.unwrap();
        Client { stream, read: Vec::new() }
    }

    /// One over TLS that trusts the server's own certificate, and offers these protocols.
    pub async fn tls_client(&self, alpn: &[&[u8]]) -> Client<TlsStream<TcpStream>> {
        let stream = tls_client::connect(self.client().await.stream, self.folder.path(), alpn).await;
        Client { stream, read: Vec::new() }
    }

    /// Sends past HTTP.
    pub async fn send(&self, topic: &str, fields: &[Field<'_>], body: &[u8]) {
        self.send_as(topic, MessageType::Normal, fields, body).await;
    }

    async fn send_as(&self, topic: &str, message_type: MessageType, fields: &[Field<'_>], body: &[u8]) {
        let mut writer = RecordWriter::with_capacity(64);
        writer.field(Field::MessageId("sent-past-http"));
        for field in fields {
            writer.field(*field);
        }
        let is_half = message_type == MessageType::Transaction;
        let message = NewMessage {
            message_type,
            message_id: "sent-past-http".into(),
            keys: vec![],
            deliver_at: None,
            immunity_millis: is_half.then_some(1),
            polled: is_half,
            record: writer.finish(body),
        };
        self.broker.send(SendRequest { topic: topic.into(), messages: vec![message], deadline: None }).await.unwrap();
    }

    /// Sends a half message that is due at once, which no client of the protocol can.
    pub async fn send_half_due(&self, topic: &str, body: &[u8]) {
        self.send_as(topic, MessageType::Transaction, &[], body).await;
    }

    /// Receives past HTTP, and settles.
    pub async fn receive(&self, topic: &str, group: &str, poll_millis: i64) -> Vec<DeliveredMessage> {
        let request = ReceiveRequest {
            client_id: "past-http".into(),
            group: group.into(),
            topic: topic.into(),
            filter: Arc::new(Filter::ALL),
            batch_size: 32,
            invisible_millis: 30_000,
            renew_for_millis: None,
            poll_millis,
            message_group_max: 32,
            attempt_id: None,
            queue: None,
        };
        let messages = self.broker.receive(request).await.unwrap().messages;
        let handles = messages.iter().map(|message| message.handle.clone()).collect();
        self.broker.ack(group, topic, handles).await.unwrap();
        messages
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

/// A reply as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    /// Texts of all elements of this name, unescaped.
    pub fn all(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let pieces = self.body.split(&open).skip(1);
        pieces.map(|piece| unescaped(piece.split(&close).next().unwrap())).collect()
    }

    /// The text of the only element of this name.
    pub fn one(&self, name: &str) -> String {
        let mut all = self.all(name);
        assert_eq!(all.len(), 1, "{name} in {self:?}");
        all.remove(0)
    }

    /// Status and code of an error, which has all that every SDK needs.
    pub fn error(&self) -> (u16, String) {
        assert!(self.body.contains("<Error xmlns=\"http://mq.aliyuncs.com/doc/v1\">"), "{self:?}");
        assert!(self.head.contains("\r\ncontent-type: text/xml;charset=UTF-8\r\n"), "{self:?}");
        assert!(self.one("HostId").starts_with("http://"), "{self:?}");
        assert!(!self.one("Message").is_empty());
        assert!(self.head.contains(&format!("\r\nx-mq-request-id: {}\r\n", self.one("RequestId"))), "{self:?}");
        (self.status, self.one("Code"))
    }
}

fn unescaped(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    text.replace("&#13;", "\r").replace("&amp;", "&")
}

pub struct Client<S = TcpStream> {
    pub stream: S,
    read: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Bytes up to and with these; `None`: the connection ended before.
    pub async fn read_to(&mut self, end: &str) -> Option<String> {
        loop {
            let text = String::from_utf8_lossy(&self.read).into_owned();
            if let Some(at) = text.find(end) {
                let taken: Vec<u8> = self.read.drain(..at + end.len()).collect();
                return Some(String::from_utf8(taken).unwrap());
            }
            if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The next reply; `None`: the connection ended.
    pub async fn reply(&mut self) -> Option<Reply> {
        let head = self.read_to("\r\n\r\n").await?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let lower = head.to_lowercase();
        let length = lower
            .split("content-length: ")
            .nth(1)
            .map_or(0, |rest| rest.split("\r\n").next().unwrap().parse::<usize>().unwrap());
        while self.read.len() < length {
            if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
        let body = String::from_utf8(self.read.drain(..length).collect()).unwrap();
        Some(Reply { status, head, body })
    }

    pub async fn ask(&mut self, method: &str, target: &str, body: &str) -> Reply {
        self.ask_with(method, target, "", body).await
    }

    /// With more headers, each with its end of line.
    pub async fn ask_with(&mut self, method: &str, target: &str, headers: &str, body: &str) -> Reply {
        let length = body.len();
        self.write(&format!(
            "{method} {target} HTTP/1.1\r\nHost: test\r\nx-mq-version: 2015-06-06\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        ))
        .await;
        self.reply().await.unwrap()
    }

    pub async fn publish(&mut self, topic: &str, body: &str, tag: &str, properties: &str) -> Reply {
        let target = format!("/topics/{topic}/messages");
        self.ask("POST", &target, &message(body, tag, properties)).await
    }

    pub async fn consume(&mut self, topic: &str, query: &str) -> Reply {
        self.ask("GET", &format!("/topics/{topic}/messages?{query}"), "").await
    }

    pub async fn settle(&mut self, topic: &str, query: &str, handles: &[String]) -> Reply {
        let target = format!("/topics/{topic}/messages?{query}");
        self.ask("DELETE", &target, &receipt_handles(handles)).await
    }
}

pub fn message(body: &str, tag: &str, properties: &str) -> String {
    let element = |name, text: &str| match text {
        "" => String::new(),
        text => format!("<{name}>{text}</{name}>"),
    };
    let (tag, properties) = (element("MessageTag", tag), element("Properties", properties));
    format!(
        "<?xml version=\"1.0\"?><Message xmlns=\"http://mq.aliyuncs.com/doc/v1/\"><MessageBody>{body}</MessageBody>\
         {properties}{tag}</Message>"
    )
}

pub fn receipt_handles(handles: &[String]) -> String {
    let handles: String = handles.iter().map(|handle| format!("<ReceiptHandle>{handle}</ReceiptHandle>")).collect();
    format!("<ReceiptHandles xmlns=\"http://mq.aliyuncs.com/doc/v1\">{handles}</ReceiptHandles>")
}

pub fn body_of(message: &DeliveredMessage) -> Bytes {
    martlet_model::record::body(&message.record).unwrap()
}
