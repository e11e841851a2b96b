//! Message-based and queue-based members of one group, in a random run with lapses, queues that change hands, late commits,
//! send-backs and crashes. In the end everything was consumed or is a dead letter; on the way, nobody gets what was settled.
//!
//! `MIXED_SEEDS=2000` runs so many seeds; `MIXED_SEED=7` this one only.

use crate::world::queues::{Answer, Puller};
use crate::world::*;
use martlet_model::QueueOffset;
use martlet_model::handle::ReceiptHandle;
use martlet_shard::PullStatus::{Found, Moved};
use martlet_shard::SendBackDelay::{DeadLetter, Millis, Policy};
use martlet_shard::{Command, Output};
use std::collections::{BTreeMap, BTreeSet};

const QUEUES: u32 = 2;
/// Number of the retry queue among those that members pull.
const RETRIES: u32 = QUEUES;

/// Queue number and offset of a message in its topic.
type Place = (u32, u64);

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a queue-based member knows of a queue that it pulls.
#[derive(Clone, Default)]
struct Pulls {
    position: u64,
    /// It has processed everything below.
    commit: u64,
    /// When it pulled last.
    pulled: i64,
    /// What it processed since it last came to have the queue, as far as the test knows.
    tenure: BTreeSet<(u64, Place)>,
}

/// A message that a message-based member holds.
struct Held {
    handle: String,
    place: Place,
    until: i64,
}

struct Run {
    world: World,
    random: Random,
    /// What each queue-based member pulls.
    pulls: [BTreeMap<u32, Pulls>; 2],
    held: Vec<Held>,
    sent: BTreeSet<Place>,
    /// By the body of the message.
    place_of: BTreeMap<String, Place>,
    dead: BTreeSet<Place>,
    consumed: BTreeSet<Place>,
    settled: BTreeSet<Place>,
    /// Sent back, and due again with so many attempts.
    sent_back: BTreeMap<Place, u32>,
    /// Sent back again by a member that had it from before: may come twice.
    twice: BTreeSet<Place>,
    ever_sent_back: BTreeSet<Place>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let world = World::new(seed).topic("orders", QUEUES).group("billing", max_attempts(4));
        Self {
            world,
            random: Random(seed),
            pulls: Default::default(),
            held: Vec::new(),
            sent: BTreeSet::new(),
            place_of: BTreeMap::new(),
            dead: BTreeSet::new(),
            consumed: BTreeSet::new(),
            settled: BTreeSet::new(),
            sent_back: BTreeMap::new(),
            twice: BTreeSet::new(),
            ever_sent_back: BTreeSet::new(),
        }
    }

    fn member(&self, who: usize, queue: u32) -> Puller {
        let client = ["a", "b"][who];
        match queue {
            RETRIES => self.world.retry_puller("billing", client),
            _ => Puller { queue, ..self.world.puller("billing", "orders", client) },
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..=2 => self.send(),
            3 | 4 => self.poll(),
            5 | 6 => self.finish_held(),
            7..=10 => self.pull(),
            11 => self.commit(),
            12 | 13 => self.rebalance(),
            14 => {
                let secs = [1, 5, 20, 45][self.random.below(4) as usize];
                self.world.advance_secs(secs);
            }
            _ if self.random.one_in(3) => self.crash(),
            _ => {}
        }
    }

    fn send(&mut self) {
        let topic = self.world.topic_id("orders");
        let first = self.sent.len();
        let bodies: Vec<String> = (0..=self.random.below(4)).map(|n| (first + n as usize).to_string()).collect();
        let messages = bodies.iter().map(|body| incoming(body, None, None)).collect();
        match self.world.ask(|token| Command::Send { topic, messages, deadline: None, token }) {
            Output::Sent(places) => {
                let places = places.iter().map(|&(queue, offset)| (queue, offset.0));
                self.place_of.extend(bodies.into_iter().zip(places.clone()));
                self.sent.extend(places);
            }
            other => panic!("a send was answered with {other:?}"),
        }
    }

    /// A message reaches a member that has seen it delivered so often before.
    fn deliver(&mut self, place: Place, attempts: u32) {
        if self.sent_back.get(&place).is_some_and(|&due| attempts >= due) {
            self.sent_back.remove(&place);
        }
        assert!(!self.settled.contains(&place), "{place:?} was settled, and is delivered again");
    }

    fn settle(&mut self, place: Place) {
        if !self.sent_back.contains_key(&place) && !self.twice.contains(&place) {
            self.settled.insert(place);
        }
    }

    fn poll(&mut self) {
        // What slow members have not committed of their retries is handed back.
        let now = self.world.now.0;
        let retries = self.pulls.iter_mut().filter_map(|pulls| pulls.get_mut(&RETRIES));
        retries.filter(|pulls| now - pulls.pulled >= 40_000).for_each(|pulls| pulls.tenure.clear());
        let batch = 1 + self.random.below(4) as u32;
        let secs = 10 + self.random.below(30) as i64;
        let got = self.world.receive("billing", invisible_secs(secs).batch(batch));
        for delivery in got.0 {
            let place = (delivery.hand_out.queue_index, delivery.hand_out.offset.0);
            self.deliver(place, delivery.attempt - 1);
            // Whoever had the queue before does not have it any more.
            self.pulls.iter_mut().filter_map(|pulls| pulls.get_mut(&place.0)).for_each(|pulls| pulls.tenure.clear());
            let until = delivery.hand_out.until.0;
            self.held.push(Held { handle: delivery.handle, place, until });
        }
    }

    fn finish_held(&mut self) {
        for _ in 0..self.random.below(4) {
            if self.held.is_empty() {
                return;
            }
            let at = self.random.below(self.held.len() as u64) as usize;
            let held = self.held.swap_remove(at);
            match self.random.below(6) {
                0 => self.world.undo(&held.handle),
                1 => {}
                2 => drop(self.world.forward_to_dead_letters(&held.handle)),
                _ => {
                    self.consumed.insert(held.place);
                    // After its time it may have become somebody else's already.
                    let in_time = self.world.now.0 < held.until;
                    if self.world.ack(&held.handle).is_ok() && in_time {
                        self.settle(held.place);
                    }
                }
            }
        }
    }

    /// Some member that has a queue.
    fn pick(&mut self) -> Option<(usize, u32)> {
        let all: Vec<_> = (0..2).flat_map(|who| self.pulls[who].keys().map(move |&queue| (who, queue))).collect();
        (!all.is_empty()).then(|| all[self.random.below(all.len() as u64) as usize])
    }

    fn pull(&mut self) {
        let Some((who, queue)) = self.pick() else { return };
        let (member, from) = (self.member(who, queue), self.pulls[who][&queue].position);
        let answer = self.world.pull(&member, from);
        self.pulled(who, queue, answer);
    }

    fn pulled(&mut self, who: usize, queue: u32, (status, next, places): Answer) {
        // The other one has lost the queue by this.
        if let Some(other) = self.pulls[1 - who].get_mut(&queue) {
            other.tenure.clear();
        }
        let member = self.member(who, queue);
        for offset in places {
            assert_eq!(status, Found);
            let (place, attempts) = match queue {
                RETRIES => {
                    let (origin, attempts) = self.world.retry_of(&member, offset);
                    (origin, attempts)
                }
                _ => ((queue, offset), 0),
            };
            self.deliver(place, attempts);
            if self.random.one_in(4) {
                let delay = match self.random.below(8) {
                    0 => DeadLetter,
                    1 => Policy,
                    _ => Millis(1_000 + self.random.below(30_000) as i64),
                };
                if self.world.send_back(&member, offset, delay) == Output::Settled(Ok(())) {
                    if self.sent_back.insert(place, attempts + 1).is_some()
                        || self.ever_sent_back.contains(&place) && attempts == 0
                    {
                        self.twice.insert(place);
                    }
                    self.ever_sent_back.insert(place);
                }
            } else {
                self.consumed.insert(place);
                if let Some(pulls) = self.pulls[who].get_mut(&queue) {
                    pulls.tenure.insert((offset, place));
                }
            }
        }
        if let Some(pulls) = self.pulls[who].get_mut(&queue) {
            if self.random.one_in(2) || status == Moved {
                pulls.commit = next;
            } else {
                pulls.commit = pulls.commit.max(pulls.position);
            }
            pulls.position = next;
            pulls.pulled = self.world.now.0;
        }
    }

    fn commit(&mut self) {
        let Some((who, queue)) = self.pick() else { return };
        self.commit_of(who, queue);
    }

    fn commit_of(&mut self, who: usize, queue: u32) {
        let (member, pulls) = (self.member(who, queue), self.pulls[who][&queue].clone());
        let counted = self.world.commit(&member, pulls.commit);
        if counted {
            let done: Vec<_> = pulls.tenure.iter().filter(|(offset, _)| *offset < pulls.commit).copied().collect();
            done.iter().for_each(|&(_, place)| self.settle(place));
            if let Some(pulls) = self.pulls[who].get_mut(&queue) {
                pulls.tenure.retain(|place| !done.contains(place));
            }
        }
    }

    /// A queue goes to a member or away from one; who loses it may not have heard yet.
    fn rebalance(&mut self) {
        let (who, queue) = (self.random.below(2) as usize, self.random.below(u64::from(QUEUES) + 1) as u32);
        if self.pulls[who].contains_key(&queue) {
            if self.random.one_in(2) {
                self.commit_of(who, queue);
            }
            self.pulls[who].remove(&queue);
            if self.random.one_in(8) {
                // It leaves the group altogether.
                let member = self.member(who, queue);
                self.world.member_gone(&member);
                self.pulls[who].values_mut().for_each(|pulls| pulls.tenure.clear());
            }
            return;
        }
        self.begin(who, queue);
        if self.random.one_in(2) {
            // The one that had it commits late, or goes on for a while.
            if self.pulls[1 - who].contains_key(&queue) && self.random.one_in(2) {
                self.commit_of(1 - who, queue);
                self.pulls[1 - who].remove(&queue);
            }
        } else {
            self.pulls[1 - who].remove(&queue);
        }
    }

    fn begin(&mut self, who: usize, queue: u32) {
        let member = self.member(who, queue);
        let position = self.world.stored(&member).unwrap_or(0);
        self.pulls[who].insert(queue, Pulls { position, commit: position, ..Pulls::default() });
        // It may have the queue from now on.
        self.pulls[1 - who].get_mut(&queue).into_iter().for_each(|pulls| pulls.tenure.clear());
    }

    /// Power fails, with or without things under way that are lost.
    fn crash(&mut self) {
        if self.random.one_in(2) {
            self.world.hold_syncs();
            let mut pulls = Vec::new();
            for _ in 0..=self.random.below(5) {
                match self.random.below(3) {
                    0 if !self.held.is_empty() => {
                        let at = self.random.below(self.held.len() as u64) as usize;
                        let handle: ReceiptHandle = self.world.decode(&self.held[at].handle).unwrap();
                        self.world.begin(|token| Command::Ack { handles: vec![handle], token });
                        self.consumed.insert(self.held[at].place);
                    }
                    1 => {
                        let Some((who, queue)) = self.pick() else { continue };
                        let (member, offset) = (self.member(who, queue), self.pulls[who][&queue].commit);
                        let (group, client) = (self.world.group_id("billing"), Some(member.client.clone()));
                        let (topic, index, offset) = (member.topic, member.queue, QueueOffset(offset));
                        self.world.begin(|token| Command::CommitOffset {
                            group,
                            topic,
                            index,
                            offset,
                            client,
                            forward_only: false,
                            promised: true,
                            token,
                        });
                    }
                    _ => {
                        let Some((who, queue)) = self.pick() else { continue };
                        let member = self.member(who, queue);
                        let token = self.world.begin_pull(&member, self.pulls[who][&queue].position, 0);
                        pulls.push((who, queue, token));
                        self.pulls[1 - who].remove(&queue);
                    }
                }
                self.world.settle();
            }
            let mut answered = BTreeMap::new();
            for (who, queue, token) in pulls {
                if let Some(answer) = self.world.pulled(token) {
                    answered.insert((who, queue), answer);
                }
            }
            self.world.crash();
            for ((who, queue), answer) in answered {
                // What it was told it goes by; the shard has forgotten that it has the queue.
                if self.pulls[who].contains_key(&queue) {
                    self.pulled(who, queue, answer);
                }
            }
        } else {
            self.world.crash();
        }
        self.pulls.iter_mut().flat_map(BTreeMap::values_mut).for_each(|pulls| pulls.tenure.clear());
        // Their hand-outs may be lost, and the messages somebody else's.
        self.held.iter_mut().for_each(|held| held.until = 0);
    }

    fn is_done(&mut self) -> bool {
        let figures = self.world.progress_of("billing").0;
        figures.iter().all(|figures| figures.committed == figures.max && figures.in_flight + figures.waiting_retry == 0)
    }

    /// One kind of member leaves, and the other one consumes the rest.
    fn drain(&mut self) {
        for who in 0..2 {
            let member = self.member(who, 0);
            self.world.member_gone(&member);
            self.pulls[who].clear();
        }
        self.held.clear();
        let by_message = self.random.one_in(2);
        if !by_message {
            (0..=QUEUES).for_each(|queue| self.begin(0, queue));
        }
        for _ in 0..200 {
            if by_message {
                for delivery in self.world.receive("billing", invisible_secs(30)).0 {
                    let place = (delivery.hand_out.queue_index, delivery.hand_out.offset.0);
                    self.deliver(place, delivery.attempt - 1);
                    self.consumed.insert(place);
                    self.world.ack(&delivery.handle).unwrap();
                    self.settle(place);
                }
            } else {
                for queue in 0..=QUEUES {
                    let (member, from) = (self.member(0, queue), self.pulls[0][&queue].position);
                    let (_, next, places) = self.world.pull(&member, from);
                    for offset in places {
                        let (place, attempts) = match queue {
                            RETRIES => self.world.retry_of(&member, offset),
                            _ => ((queue, offset), 0),
                        };
                        self.deliver(place, attempts);
                        self.consumed.insert(place);
                    }
                    assert!(self.world.commit(&member, next));
                    self.pulls[0].insert(queue, Pulls { position: next, commit: next, ..Pulls::default() });
                }
            }
            let group = self.world.group_id("billing");
            let dead = self.world.receive("billing", invisible_secs(30).dead_letters_of(group));
            for delivery in &dead.0 {
                self.dead.insert(self.place_of[&delivery.body]);
                self.world.ack(&delivery.handle).unwrap();
            }
            if self.is_done() {
                return;
            }
            self.world.advance_secs(20);
        }
        panic!("what is left is not consumed (by message: {by_message}): {:?}", self.world.progress_of("billing").0);
    }

    fn check(&self) {
        let missing = self.sent.iter().filter(|place| !self.consumed.contains(place) && !self.dead.contains(place));
        let missing: Vec<_> = missing.take(3).collect();
        assert!(missing.is_empty(), "{missing:?} were never consumed, and are no dead letters");
    }
}

#[test]
fn nothing_is_lost_or_delivered_again_once_it_is_settled_whoever_consumes() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("MIXED_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MIXED_SEEDS").unwrap_or(100),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..150 {
                run.step();
            }
            run.drain();
            run.check();
        });
        if let Err(panic) = run {
            eprintln!("MIXED_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
