//! Pulls of a filled topic, one at a time on each queue, until all was read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::error::{BenchError, Result};
use crate::load::{self, Gate, Tally, Target};
use crate::report::Report;
use crate::tcp::code;
use crate::tcp::link::Slots;
use crate::tcp::pulls::{Pulled, Pulls, Shape};
use crate::tcp::session::{Role, Session};

/// A server may say that a queue ends where its index does, which lags behind what it has acknowledged: so long between looks,
/// and so many of them without a message.
const LAG: Duration = Duration::from_millis(10);
const QUIET_MAX: u32 = 100;

/// How a pull load is shaped.
#[derive(Clone, Debug)]
pub struct Pulling {
    /// Consumer group, fresh: queues are read from their first message on, but a server may pass over what the group has consumed.
    pub group: String,
    /// Messages to pull.
    pub count: u64,
    /// Connections, each a client with its share of the queues.
    pub connections: usize,
    /// Each pull commits what was pulled before.
    pub commits: bool,
}

/// A consumer session with some queues of its topic.
pub struct Consumer {
    /// Its connection.
    pub session: Session,
    /// One for each of its queues.
    pub queues: Vec<Pulls>,
}

impl Consumer {
    /// Connects. Its queues are each `step`th from `nth` on, read from the offset that `from` asks the broker for.
    pub async fn open(
        target: &Target,
        shape: &Shape<'_>,
        (nth, step): (usize, usize),
        from: i32,
        tally: &Tally,
    ) -> Result<Self> {
        let role = Role::Consumer { group: shape.group.to_owned() };
        let mut session = Session::open(&target.endpoint, &target.topic, &role, Arc::clone(&tally.traffic)).await?;
        let mut queues = Vec::new();
        for queue in (0..session.route.read_queues).skip(nth).step_by(step.max(1)) {
            let fields = [("topic", shape.topic), ("queueId", &queue.to_string())];
            let offset = session.link.ask_number(from, &fields, "offset").await?;
            queues.push(Pulls::new(&session, shape, queue, u64::try_from(offset).unwrap_or_default()));
        }
        Ok(Self { session, queues })
    }
}

/// Pulls `count` messages that are in the topic already.
pub fn drain(target: &Target, pulling: &Pulling) -> Result<Report> {
    let tally = Arc::new(Tally::default());
    let shape = Shape { topic: &target.topic, group: &pulling.group, commits: pulling.commits, waits: false };
    let connections = pulling.connections.max(1);
    let worker = async |_, mut gate: Gate| {
        let mut consumers = Vec::new();
        for nth in 0..connections {
            consumers.push(Consumer::open(target, &shape, (nth, connections), code::MIN_OFFSET, &tally).await?);
        }
        gate.pass().await;
        let loops = consumers.into_iter().map(async |consumer| {
            pull_loop(consumer, pulling.count, &tally).await.unwrap_or_else(|error| tally.fail(&error));
        });
        let all = async {
            futures_util::future::join_all(loops).await;
            let done = tally.done.load(Ordering::Relaxed);
            if done < pulling.count {
                tally.fail(&BenchError::Server { what: format!("the topic has no more than {done} messages") });
            }
        };
        tokio::select! {
            () = all => {}
            () = gate.over(Duration::ZERO) => {}
        }
        Ok(())
    };
    let drive = || load::counted("pull", target, &tally, pulling.count, Duration::from_secs(5));
    let ((before, after), _) = load::run(1, &tally, worker, drive)?;
    let commits = if pulling.commits { "" } else { ", without commits" };
    let mut report = Report::new(format!(
        "TCP pull: {} messages, up to 32 at a time, on {connections} connections{commits}",
        pulling.count
    ));
    load::add_figures(&mut report, &before, &after, None);
    report.first_error = tally.first_error();
    Ok(report)
}

/// Pulls each queue to its end, one pull at a time on each, until `wanted` messages were pulled by all.
async fn pull_loop(mut consumer: Consumer, wanted: u64, tally: &Tally) -> Result<()> {
    let mut slots = Slots::new(consumer.queues.len());
    let mut ended: Vec<usize> = (0..consumer.queues.len()).collect();
    let mut quiet = 0;
    loop {
        if slots.busy() == 0 {
            if ended.is_empty() || tally.stopped() || quiet > QUIET_MAX || tally.done.load(Ordering::Relaxed) >= wanted
            {
                return Ok(());
            }
            if quiet > 0 {
                tokio::time::sleep(LAG).await;
            }
            quiet += 1;
            ended.drain(..).for_each(|queue| begin(&mut consumer, &mut slots, queue));
        }
        consumer.session.flush().await?;
        consumer.session.link.read().await?;
        while let Some(answer) = consumer.session.answer()? {
            let queue = slots.answered(&answer, code::PULL)? as usize;
            let at_end = match consumer.queues[queue].take(&answer, |_| {}) {
                Ok(Pulled::Messages { count, at_end }) => {
                    tally.add(count);
                    quiet = if count > 0 { 1 } else { quiet };
                    at_end
                }
                Ok(Pulled::End) => true,
                Err(error) => {
                    tally.fail(&error);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    false
                }
            };
            match at_end || tally.stopped() {
                true => ended.push(queue),
                false => begin(&mut consumer, &mut slots, queue),
            }
        }
    }
}

/// Gathers the next pull of a queue.
pub fn begin(consumer: &mut Consumer, slots: &mut Slots, queue: usize) {
    // There is a slot for each queue.
    if let Some(opaque) = slots.begin(queue as u64) {
        consumer.queues[queue].add(&mut consumer.session.link.out, opaque);
    }
}
