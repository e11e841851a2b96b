//! Clients that misbehave, each in its way, for as long as it is let: what they did and what they got is counted.
//!
//! - `raw`: a socket, and answers as they come on the wire.
//! - `http`: on the port of the HTTP SDK protocol. `frames`: on the other ports.

mod frames;
mod http;
mod raw;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::broker::Broker;
use crate::stop::Stop;
use crate::{HarnessError, Result};

pub use raw::{Raw, get};

/// Between two rounds of a client: it is one of a crowd, which does not live by taking all of the machine.
const PAUSE: Duration = Duration::from_millis(50);

/// Where a broker listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For the HTTP SDK protocol.
    pub http: SocketAddr,
    /// For gRPC.
    pub grpc: SocketAddr,
    /// For the remoting protocol: the name server's.
    pub nameserver: SocketAddr,
    /// For the remoting protocol: the broker's.
    pub remoting: SocketAddr,
}

impl Addresses {
    /// Those of a broker of ours.
    ///
    /// # Errors
    /// When one is not an address.
    pub fn of(broker: &Broker) -> Result<Addresses> {
        let address = |text: &str| {
            text.trim_start_matches("http://").parse().map_err(|error| HarnessError::Command {
                what: format!("reading the address {text}"),
                output: format!("{error}"),
            })
        };
        Ok(Addresses {
            http: address(&broker.http())?,
            grpc: address(broker.endpoint())?,
            nameserver: address(&broker.nameserver())?,
            remoting: address(broker.remoting().unwrap_or_default())?,
        })
    }
}

/// A way to misbehave.
pub struct Kind {
    /// What it does.
    pub name: &'static str,
    /// What it must get, each at least once. Outcomes are: of HTTP the status and the code of the document; of HTTP/2 `trailers`,
    /// `RST_STREAM`, `GOAWAY`; of the remoting protocol `answer`; `closed` by the broker; `left`, if it went away by its own plan.
    pub gets: &'static [&'static str],
    /// What it may get besides.
    pub may_get: &'static [&'static str],
    /// Does it once.
    round: fn(&mut Seat) -> io::Result<()>,
}

/// All of them.
pub fn kinds() -> Vec<Kind> {
    [http::kinds(), frames::kinds()].into_iter().flatten().collect()
}

/// What one client did and got.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Connections it opened.
    pub connections: u64,
    /// Requests it began.
    pub requests: u64,
    /// Outcomes, with their numbers.
    pub outcomes: BTreeMap<String, u64>,
}

/// One client's place in the crowd.
struct Seat {
    at: Addresses,
    /// Its own topic, and the name of its group.
    topic: String,
    stop: Arc<Stop>,
    random: u64,
    tally: Tally,
}

impl Seat {
    fn connect(&mut self, address: SocketAddr) -> io::Result<Raw> {
        self.tally.connections += 1;
        Raw::connect(address, self.stop.clone())
    }

    fn count(&mut self, outcome: impl Into<String>) {
        *self.tally.outcomes.entry(outcome.into()).or_default() += 1;
    }

    /// A number that nobody foresees, but for the seed (xorshift).
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn run(mut self, round: fn(&mut Seat) -> io::Result<()>) -> Tally {
        loop {
            if let Err(error) = round(&mut self) {
                match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    kind if raw::is_end(kind) => self.count("closed"),
                    _ => self.count(format!("failed: {error}")),
                }
            }
            if self.stop.wait(PAUSE) {
                return self.tally;
            }
        }
    }
}

/// Clients at work, one of each kind.
pub struct Crowd {
    stop: Arc<Stop>,
    members: Vec<(Kind, JoinHandle<Tally>)>,
}

impl Crowd {
    /// Sends them in. What is random about them follows from `seed`.
    pub fn start(at: Addresses, seed: u64) -> Crowd {
        let stop = Arc::<Stop>::default();
        let member = |(number, kind): (usize, Kind)| {
            let seat = Seat {
                at,
                topic: format!("crowd-{number}"),
                stop: stop.clone(),
                // Never zero, from which nothing would come.
                random: (seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1,
                tally: Tally::default(),
            };
            let round = kind.round;
            (kind, std::thread::spawn(move || seat.run(round)))
        };
        let members = kinds().into_iter().enumerate().map(member).collect();
        Crowd { stop, members }
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Calls them off, and says what each did and got.
    ///
    /// # Errors
    /// When one of them has panicked.
    pub fn finish(mut self) -> Result<Vec<(Kind, Tally)>> {
        self.stop.say();
        let joined = self.members.drain(..).map(|(kind, thread)| match thread.join() {
            Ok(tally) => Ok((kind, tally)),
            Err(_) => {
                Err(HarnessError::Command { what: kind.name.to_owned(), output: "its thread panicked".to_owned() })
            }
        });
        joined.collect()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.say();
    }
}
