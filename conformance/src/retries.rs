//! Send retries with real clients: the connection breaks when the broker has stored a message and answers.

use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::agent::{Agent, Draft, Event, PATIENCE_SECS, hex};
use crate::broker::Broker;
use crate::checks::unique;
use crate::language::Program;
use crate::{Result, io};

/// What a message says that is stored and whose answer is lost.
const MARKER: &[u8] = b"the answer to this is lost";
/// What an HTTP/2 client begins with.
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;

/// A message whose first answer is lost is stored once in a topic that recognises message ids, and twice, as without any broker's
/// help, in one that does not. The client tries again by itself both times and does not notice.
///
/// # Errors
/// When the broker, a client's start, a send or a delivery fails.
pub fn lost_answers(program: &Program) -> Result<()> {
    let relay = Relay::listen()?;
    let advertised = relay.address.to_string();
    let Some(broker) = Broker::start_own_with("send retries", &["--grpc-advertise", &advertised])? else {
        return Ok(());
    };
    relay.forward_to(broker.endpoint());
    for (deduplicates, copies) in [(true, 1), (false, 2)] {
        let (topic, group) = (unique("retries"), unique("readers"));
        broker.create_topic(&topic, 1)?;
        if deduplicates {
            broker.deduplicate(&topic, "5m")?;
        }
        broker.create_group(&group, 17, "10s")?;
        let mut producer = Agent::ready(program, &broker, &topic, false, &["produce", "--stdin"])?;
        relay.shared.armed.store(true, Ordering::SeqCst);
        let id = sent_at_once(&mut producer, MARKER)?;
        assert!(!relay.shared.armed.load(Ordering::SeqCst), "the send went past the relay");
        sent_at_once(&mut producer, b"last")?;
        // How a client that lost a connection ends is another matter.
        producer.kill();
        let mut reader = Agent::ready(program, &broker, &topic, false, &["simple", "--group", &group])?;
        let mut came = Vec::new();
        loop {
            let received = reader.received()?;
            if received.body_hex == hex(b"last") {
                break;
            }
            came.push((received.id, received.body_hex));
        }
        assert_eq!(came, vec![(id, hex(MARKER)); copies], "with de-duplication: {deduplicates}");
        broker.await_no_backlog(&group, PATIENCE_SECS)?;
        reader.finish()?;
    }
    assert_eq!(relay.shared.lost.load(Ordering::SeqCst), 2, "answers that were lost");
    Ok(())
}

/// Sends one message that the client is to report as sent, not as failed.
fn sent_at_once(producer: &mut Agent, body: &[u8]) -> Result<String> {
    producer.feed(&Draft::body(body))?;
    let outcome = producer.wait("a send", PATIENCE_SECS, |event| match event {
        Event::Sent { id, .. } => Some(Ok(id.clone())),
        Event::SendFailed { message, .. } => Some(Err(message.clone())),
        _ => None,
    })?;
    assert!(outcome.is_ok(), "the client did not try again by itself: {outcome:?}");
    Ok(outcome.unwrap_or_default())
}

/// Passes connections on to the broker. Once it is armed, it cuts the one on which the marked message was sent, in place of the first
/// byte of its answer.
struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    broker: Mutex<String>,
    armed: AtomicBool,
    /// Answers that were cut off.
    lost: AtomicUsize,
    closed: AtomicBool,
}

impl Relay {
    fn listen() -> Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(io("listening for clients"))?;
        let address = listener.local_addr().map_err(io("listening for clients"))?;
        let shared = Arc::<Shared>::default();
        let relay = Relay { address, shared: shared.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::result::Result::ok) {
                if shared.closed.load(Ordering::SeqCst) {
                    return;
                }
                let broker = shared.broker.lock().unwrap_or_else(PoisonError::into_inner).clone();
                // A broker that is not there is a connection that ends at once.
                if let Ok(broker) = TcpStream::connect(broker) {
                    let _ = Connection::pass_on(client, broker, &shared);
                }
            }
        });
        Ok(relay)
    }

    fn forward_to(&self, broker: &str) {
        *self.shared.broker.lock().unwrap_or_else(PoisonError::into_inner) = broker.to_owned();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the thread that listens.
        let _ = TcpStream::connect(self.address);
    }
}

struct Connection {
    client: TcpStream,
    broker: TcpStream,
    /// The HTTP/2 stream of the marked message.
    marked: Mutex<Option<u32>>,
    shared: Arc<Shared>,
}

impl Connection {
    fn pass_on(client: TcpStream, broker: TcpStream, shared: &Arc<Shared>) -> std::io::Result<()> {
        let (from_client, from_broker) = (client.try_clone()?, broker.try_clone()?);
        let connection = Arc::new(Connection { client, broker, marked: Mutex::default(), shared: shared.clone() });
        let other_way = connection.clone();
        std::thread::spawn(move || {
            // How a connection ends is nothing that the test needs to know.
            let _ = connection.requests(BufReader::new(from_client));
            connection.close();
        });
        std::thread::spawn(move || {
            let _ = other_way.answers(BufReader::new(from_broker));
            other_way.close();
        });
        Ok(())
    }

    fn requests(&self, mut client: impl Read) -> std::io::Result<()> {
        let mut preface = [0; PREFACE];
        client.read_exact(&mut preface)?;
        (&self.broker).write_all(&preface)?;
        loop {
            let (stream, frame) = frame(&mut client)?;
            let is_marked = frame.windows(MARKER.len()).any(|bytes| bytes == MARKER);
            if is_marked && self.shared.armed.swap(false, Ordering::SeqCst) {
                *self.marked.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
            }
            (&self.broker).write_all(&frame)?;
        }
    }

    fn answers(&self, mut broker: impl Read) -> std::io::Result<()> {
        loop {
            let (stream, frame) = frame(&mut broker)?;
            let is_answer = matches!(frame.get(3), Some(&(DATA | HEADERS)));
            if is_answer && *self.marked.lock().unwrap_or_else(PoisonError::into_inner) == Some(stream) {
                self.shared.lost.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            (&self.client).write_all(&frame)?;
        }
    }

    fn close(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.broker.shutdown(Shutdown::Both);
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;

/// One HTTP/2 frame, whole: length (3 bytes), type, flags, stream (4 bytes, the first bit means nothing), content.
fn frame(from: &mut impl Read) -> std::io::Result<(u32, Vec<u8>)> {
    let mut head = [0; FRAME_HEAD];
    from.read_exact(&mut head)?;
    let [a, b, c, _, _, stream @ ..] = head;
    let mut frame = head.to_vec();
    frame.resize(FRAME_HEAD + u32::from_be_bytes([0, a, b, c]) as usize, 0);
    from.read_exact(&mut frame[FRAME_HEAD..])?;
    Ok((u32::from_be_bytes(stream) & 0x7fff_ffff, frame))
}
