//! A running agent and what it reports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::broker::Broker;
use crate::language::Program;
use crate::{HarnessError, Result, io, tail};

/// Events that may wait for the test before an agent has to.
const EVENTS_WAITING_MAX: usize = 10_000;
/// How long anything may take that has no time of its own, in seconds: a limit for what never comes, generous to a busy machine.
pub const PATIENCE_SECS: u64 = 180;
/// When an agent gives up by itself, in seconds, later than any test does.
const DEADLINE_SECS: &str = "900";
/// Characters of a line that an error shows.
const LINE_SHOWN_MAX: usize = 300;

/// A message for `produce --stdin`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Draft {
    /// Body as hexadecimal digits.
    pub body_hex: String,
    /// Tag, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Message group, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_group: Option<String>,
    /// When it is to be delivered, in milliseconds since the Unix epoch; whole seconds, which is all that some clients know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_at_ms: Option<u64>,
    /// Whether it is recalled as soon as it was accepted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub recall: bool,
    /// Lite topic, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lite_topic: Option<String>,
    /// Priority, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// What becomes of its transaction once the half message is sent: `commit`, `rollback` or `silent`. What a producer that is
    /// asked says is in the property `outcome`: `commit`, `rollback` or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// Delay level, if any; known to TCP clients alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_level: Option<u32>,
    /// Keys.
    pub keys: BTreeSet<String>,
    /// User properties.
    pub properties: BTreeMap<String, String>,
}

impl Draft {
    /// A message with nothing but a body.
    pub fn body(body: &[u8]) -> Draft {
        Draft { body_hex: hex(body), ..Draft::default() }
    }

    /// One with a tag, two keys and a property, too.
    pub fn full(body: &str) -> Draft {
        let keys = ["4711", "4712"].map(str::to_owned).into();
        let properties = BTreeMap::from([("colour".to_owned(), "grün".to_owned())]);
        Draft { tag: Some("greeting".into()), keys, properties, ..Draft::body(body.as_bytes()) }
    }

    /// In a transaction that its sender ends so (`commit`, `rollback` or `silent`), and whoever is asked for it so.
    pub fn in_transaction(mut self, transaction: &str, outcome: &str) -> Draft {
        self.properties.insert("outcome".into(), outcome.into());
        Draft { transaction: Some(transaction.into()), ..self }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One delivery, as the client shows it.
#[derive(Clone, Debug, Deserialize)]
pub struct Received {
    /// Message id.
    pub id: String,
    /// Body as hexadecimal digits.
    pub body_hex: String,
    /// Keys; their order is not kept by every client.
    #[serde(default, deserialize_with = "or_empty")]
    pub keys: BTreeSet<String>,
    /// Tag, if any.
    pub tag: Option<String>,
    /// Message group, if any.
    pub message_group: Option<String>,
    /// Lite topic, if any; told by agents that know of such.
    #[serde(default)]
    pub lite_topic: Option<String>,
    /// User properties.
    #[serde(default, deserialize_with = "or_empty")]
    pub properties: BTreeMap<String, String>,
    /// Delivery attempt, from 1.
    pub attempt: u32,
    /// When the application had it, in microseconds since the Unix epoch by the agent's clock: reports reach the harness later, on a
    /// busy machine much later. From one consumer's acknowledgement to the next one's message it is less than a millisecond.
    pub at_us: u64,
    /// What a push listener returned: `success` or `failure`.
    pub result: Option<String>,
    /// Its topic; told by TCP clients.
    #[serde(default)]
    pub topic: Option<String>,
    /// Number of its queue; told by TCP clients.
    #[serde(default)]
    pub queue: Option<u32>,
}

impl Received {
    /// Its body as a text.
    pub fn body(&self) -> String {
        let bytes = (0..self.body_hex.len()).step_by(2);
        let bytes = bytes.filter_map(|at| u8::from_str_radix(self.body_hex.get(at..at + 2)?, 16).ok());
        String::from_utf8_lossy(&bytes.collect::<Vec<_>>()).into_owned()
    }

    /// When the application had it, in milliseconds since the Unix epoch.
    pub fn at_ms(&self) -> u64 {
        self.at_us / 1_000
    }
}

/// Some clients say null where others say nothing or an empty collection.
fn or_empty<'de, D, T>(deserializer: D) -> std::result::Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A line of an agent's standard output.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The client has started.
    Ready,
    /// It could not start; the agent tries again.
    StartFailed {
        /// The client's own words.
        message: String,
    },
    /// A message was accepted.
    Sent {
        /// Message id.
        id: String,
        /// Place in the input, from 0.
        index: usize,
        /// Number of its queue; told by TCP clients.
        #[serde(default)]
        queue: Option<u32>,
        /// Its offset message ids, joined by commas; told by TCP clients.
        #[serde(default)]
        offset_id: Option<String>,
    },
    /// A delayed message was recalled.
    Recalled {
        /// Message id, as the broker says.
        id: String,
    },
    /// A recall was refused.
    RecallFailed {
        /// The client's own words.
        message: String,
    },
    /// The end of a transaction had no good answer.
    EndFailed {
        /// The client's own words.
        message: String,
    },
    /// The producer was asked how a transaction ended, and answered.
    Checked {
        /// Message id.
        id: String,
    },
    /// A send failed; the agent tries again.
    SendFailed {
        /// Place in the input, from 0.
        index: usize,
        /// The client's own words.
        message: String,
    },
    /// A message was delivered.
    Received(Received),
    /// A simple consumer's acknowledgement was accepted.
    Acked {
        /// Message id.
        id: String,
    },
    /// A simple consumer's change of the invisible duration was accepted.
    Changed {
        /// Message id.
        id: String,
    },
    /// An acknowledgement or change failed.
    AckFailed {
        /// Message id.
        id: String,
        /// The client's own words.
        message: String,
    },
    /// A receive failed; the agent tries again.
    ReceiveFailed {
        /// The client's own words.
        message: String,
    },
    /// A lite consumer has subscribed to all of its lite topics.
    Subscribed,
    /// A lite consumer was told that a lite topic is not its any more.
    TakenAway {
        /// Its name.
        lite_topic: String,
    },
    /// The published client has no such function.
    Unsupported {
        /// What it does not have.
        message: String,
    },
    /// The agent has closed its client and ends.
    Done,
}

/// A running agent. Dropping it kills it.
pub struct Agent {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    events: Receiver<std::result::Result<Event, String>>,
    /// What it said before it was ready, and was not asked for yet.
    early: VecDeque<Event>,
    home: TempDir,
}

impl Agent {
    /// Starts an agent against `broker`. `arguments` begin with the command; endpoint and topic are added.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(program: &Program, broker: &Broker, topic: &str, tls: bool, arguments: &[&str]) -> Result<Agent> {
        let home = TempDir::new().map_err(io("creating a temporary folder"))?;
        let log = File::create(home.path().join("stderr")).map_err(io("creating an agent's log"))?;
        let mut command = program.command(home.path());
        let endpoint = match program.language {
            language if language.is_tcp() => broker.nameserver(),
            language if language.is_http() => broker.http(),
            _ => broker.endpoint().to_owned(),
        };
        command.args(arguments).args(["--endpoint", &endpoint, "--topic", topic]);
        command.args(["--deadline-secs", DEADLINE_SECS]);
        // The Go client takes this from its environment.
        command.env("rocketmq.client.logRoot", home.path());
        if tls {
            command.arg("--tls");
            if let Some(certificate) = broker.certificate() {
                // Three clients verify the certificate: each stack has its own way to be told of one.
                command.env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", &certificate);
                command.env("NODE_EXTRA_CA_CERTS", &certificate).env("SSL_CERT_FILE", &certificate);
            }
        }
        let name = format!("{} {}", program.language.name(), arguments.join(" "));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(io(format!("starting {command:?}")))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let (events, arriving) = sync_channel(EVENTS_WAITING_MAX);
        std::thread::spawn(move || {
            for line in
                stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(std::result::Result::ok)
            {
                let event = serde_json::from_str(&line).map_err(|error| {
                    let shown: String = line.chars().take(LINE_SHOWN_MAX).collect();
                    format!("{error} in a line of {} bytes: {shown}", line.len())
                });
                if events.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Agent { name, child, stdin, events: arriving, early: VecDeque::new(), home })
    }

    /// Starts an agent and waits until its client is ready.
    ///
    /// # Errors
    /// When the process or its client does not start.
    pub fn ready(program: &Program, broker: &Broker, topic: &str, tls: bool, arguments: &[&str]) -> Result<Agent> {
        let mut agent = Agent::start(program, broker, topic, tls, arguments)?;
        agent.until_ready()?;
        Ok(agent)
    }

    /// Waits until the client is ready. What it says before, as a client may that is served while it starts, is kept for who
    /// asks next.
    ///
    /// # Errors
    /// When the client does not start.
    pub fn until_ready(&mut self) -> Result<()> {
        let mut early = VecDeque::new();
        self.wait("a client's start", PATIENCE_SECS, |event| {
            let ready = matches!(event, Event::Ready);
            if !ready {
                early.push_back(event.clone());
            }
            ready.then_some(())
        })?;
        self.early = early;
        Ok(())
    }

    /// The next event, or `None` if none comes in time.
    ///
    /// # Errors
    /// When the agent has ended, or says something that is not an event.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Event>> {
        if let Some(event) = self.early.pop_front() {
            return Ok(Some(event));
        }
        match self.events.recv_timeout(timeout) {
            Ok(Ok(event)) => Ok(Some(event)),
            Ok(Err(line)) => Err(self.failure(format!("not an event: {line}"))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(self.failure("ended".into())),
        }
    }

    /// Takes events until `pick` finds what is waited for.
    ///
    /// # Errors
    /// When it does not come within `secs` seconds, or the agent ends first.
    pub fn wait<T>(&mut self, what: &str, secs: u64, mut pick: impl FnMut(&Event) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(secs);
        let mut last = String::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(event) = self.next(left)? else {
                let log = format!("last event: {last}\n{}", tail(&self.home.path().join("stderr")));
                return Err(HarnessError::Timeout { what: format!("{}: {what}", self.name), secs, log });
            };
            if let Some(found) = pick(&event) {
                return Ok(found);
            }
            last = format!("{event:?}");
        }
    }

    /// Hands a producer one message; it is sent when `Sent` says so.
    ///
    /// # Errors
    /// When the agent has ended.
    pub fn feed(&mut self, draft: &Draft) -> Result<()> {
        let mut line = serde_json::to_vec(draft).map_err(|error| self.failure(error.to_string()))?;
        line.push(b'\n');
        let written = self.stdin.as_mut().map(|stdin| stdin.write_all(&line).and_then(|()| stdin.flush()));
        match written {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(self.failure(format!("does not read: {error}"))),
            None => Err(self.failure("its input is closed".into())),
        }
    }

    /// Sends one message and waits for its id.
    ///
    /// # Errors
    /// When it is not accepted within [`PATIENCE_SECS`].
    pub fn send(&mut self, draft: &Draft) -> Result<String> {
        self.feed(draft)?;
        self.wait("a send", PATIENCE_SECS, |event| match event {
            Event::Sent { id, .. } => Some(id.clone()),
            _ => None,
        })
    }

    /// The next delivery.
    ///
    /// # Errors
    /// When none comes within [`PATIENCE_SECS`].
    pub fn received(&mut self) -> Result<Received> {
        self.wait("a delivery", PATIENCE_SECS, |event| match event {
            Event::Received(received) => Some(received.clone()),
            _ => None,
        })
    }

    /// Waits until each of these bodies has been delivered, others beside them or not.
    ///
    /// # Errors
    /// When one of them does not come in time.
    pub fn await_bodies(&mut self, mut wanted: BTreeSet<String>) -> Result<()> {
        while !wanted.is_empty() {
            wanted.remove(&self.received()?.body());
        }
        Ok(())
    }

    /// Lets the agent end by itself: its input closes, it closes its client.
    ///
    /// # Errors
    /// When it does not end within [`PATIENCE_SECS`].
    pub fn finish(self) -> Result<()> {
        self.finish_and_tell(|_| ())
    }

    /// The same; `tell` is called with what is delivered until then.
    ///
    /// # Errors
    /// When it does not end within [`PATIENCE_SECS`].
    pub fn finish_and_tell(mut self, mut tell: impl FnMut(&Received)) -> Result<()> {
        self.stdin = None;
        self.wait("its end", PATIENCE_SECS, |event| match event {
            Event::Received(received) => {
                tell(received);
                None
            }
            event => matches!(event, Event::Done).then_some(()),
        })
    }

    /// Kills the process as it stands; gives back what it had said and was not asked for yet.
    pub fn kill(mut self) -> Vec<Event> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let early = std::mem::take(&mut self.early);
        // Ends when the pipe does; the last line may have been cut.
        let late = std::iter::from_fn(|| self.events.recv().ok()).filter_map(std::result::Result::ok);
        early.into_iter().chain(late).collect()
    }

    fn failure(&self, what: String) -> HarnessError {
        HarnessError::Agent { agent: self.name.clone(), what, log: tail(&self.home.path().join("stderr")) }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
