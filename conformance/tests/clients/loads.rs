//! The load generator's TCP clients, which are nobody's published ones, get what they ask for from a real broker.

use std::time::Duration;

use martlet_bench::load::Target;
use martlet_bench::load::tcp::idle;
use martlet_bench::load::tcp::latency::{self, Latency};
use martlet_bench::load::tcp::pull::{self, Pulling};
use martlet_bench::load::tcp::send::{self, Sends};
use martlet_bench::report::Report;
use martlet_bench::template::{Dress, Spread};
use martlet_conformance::Result;
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;

fn messages(report: &Report) -> f64 {
    assert_eq!((report.first_error.as_deref(), report.get("failed")), (None, Some(0.0)), "{}", report.load);
    report.get("messages").unwrap_or_default()
}

#[test]
fn loads_of_tcp_clients_run_without_an_error() -> Result<()> {
    let broker = Broker::start()?;
    let target = |topic: String| {
        broker.create_topic(&topic, 8)?;
        let (endpoint, dress) = (broker.nameserver(), Dress::default());
        Ok(Target { endpoint, topic, spread: Spread::None, dress, v1: false, pids: Vec::new() })
    };
    let (warm, measure) = (Duration::from_millis(100), Duration::from_millis(500));
    let (one, filled) = (target(unique("one"))?, target(unique("filled"))?);
    let sends = |batch| Sends { senders: 16, connections: 4, batch, size: 256, warm, measure };
    assert!(messages(&send::closed(&one, &sends(1)).unwrap()) > 16.0);
    // What was filled is there, neither less nor more.
    assert_eq!(messages(&send::fill(&filled, &sends(1), 500).unwrap()), 500.0);
    assert_eq!(messages(&send::fill(&filled, &sends(32), 3_200).unwrap()), 3_200.0);
    for commits in [true, false] {
        let pulling = Pulling { group: unique("readers"), count: 3_700, connections: 3, commits };
        assert_eq!(messages(&pull::drain(&filled, &pulling).unwrap()), 3_700.0);
    }
    let pulling = Pulling { group: unique("readers"), count: 3_701, connections: 3, commits: true };
    let more = pull::drain(&filled, &pulling).unwrap_err().to_string();
    assert_eq!(more, "pull: stalled at 3700 of 3701; last error: the topic has no more than 3700 messages");
    let shape = Latency { group: unique("waiting"), rate: 200, size: 256, warm, measure };
    let received = latency::run(&one, &shape).unwrap();
    assert!((50.0..=150.0).contains(&messages(&received)), "{} of about 100", messages(&received));
    let idle = idle::run(&one, 200, measure).unwrap();
    assert_eq!((idle.first_error.as_deref(), idle.get("still open")), (None, Some(200.0)));
    Ok(())
}
