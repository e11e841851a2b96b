//! Many clients at once: half of them misbehaving, or ten thousand doing nothing. The others notice nothing.

#![allow(clippy::expect_used)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use martlet_conformance::agent::{Agent, Draft, Event, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::{now_millis, unique};
use martlet_conformance::crowd::{Addresses, Crowd, Kind, Raw, Tally, get};
use martlet_conformance::language::{Language, Program};
use martlet_conformance::process::{await_zero, open_files_max, resident_bytes};
use martlet_conformance::stop::Stop;
use martlet_conformance::{HarnessError, Result, skip};

/// The good half: all four protocols.
const GOOD: [Language; 6] =
    [Language::PythonHttp, Language::NodejsHttp, Language::OnsV1, Language::Go, Language::Python, Language::GoTcp];
/// How long the crowd is let: longer than the 30 s after which the broker closes those who are slow.
const CROWD: Duration = Duration::from_secs(38);
/// Between two messages of a producer: with it, the slowest client keeps up where each of its requests takes as long as a busy machine makes it.
const PAUSE: Duration = Duration::from_millis(500);
/// What a send may take: a bound for what somebody would notice, on a busy machine.
const SEND_MAX: Duration = Duration::from_secs(5);
/// And from there to a consumer, whose client asks for one message after the other.
const DELIVERY_MAX: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

/// Each test has the machine for itself.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the admin listener says at a path, in words of the harness's errors.
fn admin(broker: &Broker, path: &str) -> Result<(String, String)> {
    let (_, address) = broker.process().expect("a broker of ours");
    get(address, path).map_err(|source| HarnessError::Io { what: format!("asking {address}{path}"), source })
}

/// A figure of `/metrics` of which there is one.
fn figure(broker: &Broker, name: &str) -> Result<u64> {
    let (_, metrics) = admin(broker, "/metrics")?;
    let start = format!("{name}{{");
    let value = metrics.lines().find_map(|line| line.strip_prefix(&start)?.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(value.unwrap_or_else(|| panic!("no {name} in the metrics")) as u64)
}

/// Waits until a figure is zero.
fn await_none(broker: &Broker, name: &str) -> Result<()> {
    await_zero(name, PATIENCE_SECS, || figure(broker, name).map(Some))
}

/// A good client that sends.
struct Producer {
    name: &'static str,
    agent: Agent,
    slowest: Duration,
}

/// A good client that consumes, alone in its group.
struct Consumer {
    name: &'static str,
    group: String,
    agent: Agent,
    /// How often each body came.
    came: BTreeMap<String, u32>,
    slowest: Duration,
}

/// When each body was given to its producer, in milliseconds since the Unix epoch.
type Sent = Mutex<BTreeMap<String, u64>>;

/// The good half and what it has sent.
struct Good {
    producers: Vec<Producer>,
    consumers: Vec<Consumer>,
    sent: Sent,
    next: AtomicU64,
}

impl Good {
    fn start(programs: &[Program], broker: &Broker) -> Result<Good> {
        let topic = unique("beside");
        broker.create_topic(&topic, 4)?;
        let (mut producers, mut consumers) = (Vec::new(), Vec::new());
        for program in programs {
            let (name, group) = (program.language.name(), unique("readers"));
            let kind = if program.language.has_push() { "push" } else { program.language.consumer() };
            let agent = Agent::start(program, broker, &topic, false, &[kind, "--group", &group])?;
            consumers.push(Consumer { name, group, agent, came: BTreeMap::new(), slowest: Duration::ZERO });
            let agent = Agent::start(program, broker, &topic, false, &["produce", "--stdin"])?;
            producers.push(Producer { name, agent, slowest: Duration::ZERO });
        }
        for agent in consumers.iter_mut().map(|it| &mut it.agent).chain(producers.iter_mut().map(|it| &mut it.agent)) {
            agent.until_ready()?;
        }
        Ok(Good { producers, consumers, sent: Mutex::default(), next: AtomicU64::new(0) })
    }

    /// Sends and consumes while `during` runs, which is told if a send fails, and at least one message from each producer; all that was
    /// sent has come to all when this returns.
    fn work<T>(&mut self, during: impl FnOnce(&Stop) -> T) -> Result<T> {
        let (enough, over, failed) = (Stop::default(), AtomicBool::new(false), Stop::default());
        let (sent, next) = (&self.sent, &self.next);
        let (enough, over, failed) = (&enough, &over, &failed);
        thread::scope(|scope| {
            let consumers: Vec<_> = self
                .consumers
                .iter_mut()
                .map(|consumer| scope.spawn(move || consumer.work(sent, over, failed)))
                .collect();
            let producers: Vec<_> = self
                .producers
                .iter_mut()
                .map(|producer| {
                    scope.spawn(move || {
                        let worked = producer.work(sent, next, enough);
                        // Then not all comes.
                        worked.inspect_err(|_| failed.say())
                    })
                })
                .collect();
            let done = during(failed);
            enough.say();
            let produced: Vec<_> = producers.into_iter().map(|it| it.join()).collect();
            over.store(true, Relaxed);
            let consumed: Vec<_> = consumers.into_iter().map(|it| it.join()).collect();
            for worked in produced.into_iter().chain(consumed) {
                worked.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked))?;
            }
            Ok(done)
        })
    }

    /// Prints the slowest send and delivery of each, and checks that none was too slow.
    fn assert_in_time(&self) {
        let sends = self.producers.iter().map(|it| (it.name, "send", it.slowest, SEND_MAX));
        let deliveries = self.consumers.iter().map(|it| (it.name, "delivery", it.slowest, DELIVERY_MAX));
        let all: Vec<_> = sends.chain(deliveries).collect();
        for (name, what, slowest, _) in &all {
            println!("{name:12} slowest {what:9} {} ms", slowest.as_millis());
        }
        let late: Vec<_> = all.iter().filter(|(.., slowest, max)| slowest > max).collect();
        assert!(late.is_empty(), "{late:?}");
    }

    /// Ends all, after each group's last acknowledgement, and checks that each message came once to each.
    fn finish(mut self, broker: &Broker) -> Result<u64> {
        let sent = std::mem::take(&mut *self.sent.lock().unwrap_or_else(PoisonError::into_inner));
        for Consumer { name, group, agent, mut came, .. } in self.consumers.drain(..) {
            broker.await_no_backlog(&group, PATIENCE_SECS)?;
            for event in agent.kill() {
                if let Event::Received(received) = event {
                    *came.entry(received.body()).or_default() += 1;
                }
            }
            let twice: Vec<_> = came.iter().filter(|(_, times)| **times > 1).collect();
            assert!(twice.is_empty(), "{name} got {} more than once, as {:?}", twice.len(), twice.first());
            assert!(came.keys().eq(sent.keys()), "{name} got {} of {}", came.len(), sent.len());
        }
        Ok(sent.len() as u64)
    }
}

impl Producer {
    fn work(&mut self, sent: &Sent, next: &AtomicU64, enough: &Stop) -> Result<()> {
        loop {
            let body = format!("{:06} from {}", next.fetch_add(1, Relaxed), self.name);
            sent.lock().unwrap_or_else(PoisonError::into_inner).insert(body.clone(), now_millis());
            let began = Instant::now();
            self.agent.feed(&Draft::full(&body))?;
            let answer = self.agent.wait("a send", PATIENCE_SECS, |event| match event {
                Event::Sent { .. } => Some(Ok(())),
                Event::SendFailed { message, .. } => Some(Err(message.clone())),
                _ => None,
            })?;
            answer.map_err(|output| HarnessError::Command { what: format!("a send by {}", self.name), output })?;
            self.slowest = self.slowest.max(began.elapsed());
            if enough.wait(PAUSE) {
                return Ok(());
            }
        }
    }
}

impl Consumer {
    fn work(&mut self, sent: &Sent, over: &AtomicBool, failed: &Stop) -> Result<()> {
        let mut last = Instant::now();
        let all = || sent.lock().unwrap_or_else(PoisonError::into_inner).len();
        while !(failed.is_said() || over.load(Relaxed) && self.came.len() == all()) {
            match self.agent.next(Duration::from_millis(100))? {
                Some(Event::Received(received)) => {
                    let (body, name) = (received.body(), self.name);
                    assert_eq!(received.attempt, 1, "{name} got {body} again");
                    let at = sent.lock().unwrap_or_else(PoisonError::into_inner).get(&body).copied();
                    let at = at.unwrap_or_else(|| panic!("{name} got {body}, which nobody has sent"));
                    self.slowest = self.slowest.max(Duration::from_millis(received.at_ms().saturating_sub(at)));
                    *self.came.entry(body).or_default() += 1;
                    last = Instant::now();
                }
                Some(Event::ReceiveFailed { message } | Event::AckFailed { message, .. }) => {
                    panic!("{} was refused: {message}", self.name)
                }
                _ => assert!(last.elapsed().as_secs() < PATIENCE_SECS, "nothing comes to {} any more", self.name),
            }
        }
        Ok(())
    }
}

/// Programs whose toolchain is there.
fn programs(languages: &[Language]) -> Result<Vec<Program>> {
    let mut programs = Vec::new();
    for language in languages {
        programs.extend(language.program()?);
    }
    Ok(programs)
}

/// One line for each client that misbehaves.
fn table(tallies: &[(Kind, Tally)]) -> String {
    let mut text = format!("{:34} {:>8} {:>9}  outcomes\n", "the crowd", "sockets", "requests");
    for (kind, tally) in tallies {
        let outcomes: Vec<String> = tally.outcomes.iter().map(|(name, count)| format!("{name}: {count}")).collect();
        let _ =
            writeln!(text, "{:34} {:>8} {:>9}  {}", kind.name, tally.connections, tally.requests, outcomes.join(", "));
    }
    text
}

#[test]
fn half_of_the_clients_misbehave_and_the_others_notice_nothing() -> Result<()> {
    /// What the broker may hold besides, at any time: twice what was measured.
    const GROWTH_MAX: u64 = 224 * MIB;
    /// How often it is looked how much it holds.
    const SAMPLED_EVERY: Duration = Duration::from_millis(500);

    let _alone = alone();
    let programs = programs(&GOOD)?;
    let Some(broker) = Broker::start_own("half of the clients misbehave")? else { return Ok(()) };
    let mut good = Good::start(&programs, &broker)?;
    // Each has sent, and had something of each.
    good.work(|_| ())?;
    let (pid, _) = broker.process().expect("a broker of ours");
    let before = resident_bytes(pid)?;
    good.producers.iter_mut().for_each(|it| it.slowest = Duration::ZERO);
    good.consumers.iter_mut().for_each(|it| it.slowest = Duration::ZERO);

    let seed = std::env::var("MARTLET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now_millis);
    let crowd = Crowd::start(Addresses::of(&broker)?, seed);
    assert!(crowd.len() >= good.producers.len() + good.consumers.len(), "{} are no half", crowd.len());
    let (tallies, most) = good.work(|failed| {
        let (end, mut most) = (Instant::now() + CROWD, before);
        while Instant::now() < end && !failed.wait(SAMPLED_EVERY) {
            most = most.max(resident_bytes(pid)?);
            assert_eq!(admin(&broker, "/healthz")?.0, "200");
        }
        Ok::<_, HarnessError>((crowd.finish()?, most))
    })??;
    println!("MARTLET_SEED={seed}\n{}", table(&tallies));
    good.assert_in_time();
    let count = good.finish(&broker)?;

    for (kind, Tally { outcomes, .. }) in &tallies {
        for wanted in kind.gets {
            assert!(outcomes.contains_key(*wanted), "{} never got {wanted}: {outcomes:?}", kind.name);
        }
        let other = outcomes.keys().find(|it| !kind.gets.contains(&&***it) && !kind.may_get.contains(&&***it));
        assert_eq!(other, None, "{} got it", kind.name);
    }
    // All are gone, and nothing is kept of them.
    for name in ["martlet_http_connections", "martlet_grpc_connections", "martlet_remoting_connections"] {
        await_none(&broker, name)?;
    }
    for budget in ["inbound", "outbound", "http_inbound", "http_outbound", "remoting_inbound"] {
        await_none(&broker, &format!("martlet_{budget}_budget_used_bytes"))?;
    }
    let after = resident_bytes(pid)?;
    let mib = |bytes: u64| bytes / MIB;
    println!("{count} messages; resident {} MiB before, {} at most, {} after", mib(before), mib(most), mib(after));
    assert!(most.max(after) - before < GROWTH_MAX, "grew by {} MiB", mib(most.max(after) - before));
    assert_eq!(admin(&broker, "/healthz")?.0, "200");
    Ok(())
}

#[test]
fn ten_thousand_idle_keep_alive_connections_cost_little() -> Result<()> {
    const IDLE: usize = 10_000;
    const THREADS: usize = 4;
    /// How long others send and consume beside them.
    const BESIDE: Duration = Duration::from_secs(5);
    /// Sockets at both ends are in two processes; each has others besides.
    const FILES_MIN: u64 = IDLE as u64 + 500;
    /// Twice what was measured.
    const BYTES_MAX: u64 = 56 << 10;

    let _alone = alone();
    let what = "ten thousand idle connections";
    let files = open_files_max()?;
    if files < FILES_MIN {
        skip(what, &format!("a process may have {files} files open, {FILES_MIN} are needed: ulimit -n"));
        return Ok(());
    }
    let programs = programs(&[Language::PythonHttp, Language::Go])?;
    let Some(broker) = Broker::start_own(what)? else { return Ok(()) };
    let mut good = Good::start(&programs, &broker)?;
    let (at, (pid, _)) = (Addresses::of(&broker)?.http, broker.process().expect("a broker of ours"));
    // Consumers, which the broker keeps more of than of others.
    let topic = unique("idle");
    broker.create_topic(&topic, 1)?;
    let ask = |connection: &mut Raw| -> std::io::Result<String> {
        let target = format!("/topics/{topic}/messages?consumer=idle&numOfMessages=1");
        connection.write(format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes())?;
        Ok(connection.answer()?.0)
    };
    let open = |count: usize| -> std::io::Result<Vec<Raw>> {
        let one = |_| {
            let mut connection = Raw::connect(at, Arc::default())?;
            assert_eq!(ask(&mut connection)?, "404 MessageNotExist");
            Ok(connection)
        };
        (0..count).map(one).collect()
    };
    let io = |source| HarnessError::Io { what: "an idle connection".into(), source };
    drop(open(100).map_err(io)?);
    let before = resident_bytes(pid)?;
    let began = Instant::now();
    let mut idle: Vec<Raw> = thread::scope(|scope| {
        let opening: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| open(IDLE / THREADS))).collect();
        let opened: std::io::Result<Vec<_>> = opening.into_iter().map(|it| it.join().expect("a thread")).collect();
        opened.map(|them| them.into_iter().flatten().collect())
    })
    .map_err(io)?;
    let each = (resident_bytes(pid)? - before) / IDLE as u64;
    println!("{} connections opened and served in {:?}, {each} bytes each", idle.len(), began.elapsed());
    assert!(figure(&broker, "martlet_http_connections")? >= IDLE as u64);
    assert!(each < BYTES_MAX, "{each} bytes");

    good.work(|failed| failed.wait(BESIDE))?;
    good.assert_in_time();
    good.finish(&broker)?;
    for connection in idle.iter_mut().step_by(100) {
        assert_eq!(ask(connection).map_err(io)?, "404 MessageNotExist");
    }
    drop(idle);
    await_none(&broker, "martlet_http_connections")
}
