//! The end of a seed: faults stop, everything visible is consumed, and nothing is left.

use super::clients::DELAY_MILLIS_MAX;
use super::{Pending, Run, SAFE_AGE_MILLIS, members};
use crate::ground::Ground;
use crate::judge::{Recall, Sent, SentBack, Verdict};
use bytes::Bytes;
use martlet_model::handle::ReceiptHandle;
use martlet_model::{GroupId, TopicId};
use martlet_shard::{ClientNumber, Command, DeadLetters, PollId, ReceiveCommand};
use martlet_store::Reader;
use std::sync::Arc;

/// Rounds of polling everything; each moves the clock past what may be invisible.
const ROUNDS: u32 = 300;
/// The client that acks whatever it gets.
const DRAINER: usize = usize::MAX;

impl<G: Ground> Run<G> {
    pub(super) fn drain(&mut self) -> Verdict {
        self.heal();
        self.slowness = 1;
        for at in 0..self.clients.len() {
            self.vanish(at);
        }
        self.pump()?;
        self.all_are_offered()?;
        self.end_all()?;
        self.pump()?;
        let by_members = self.random.one_in(2);
        for at in 0..members::MEMBERS {
            self.member_vanishes(at);
        }
        for round in 0..ROUNDS {
            let before = self.report.delivered + self.report.pulled;
            self.subscribe(false);
            for group in 0..self.groups.len() {
                let (id, topic) = (self.groups[group].facts.id, self.topics[self.groups[group].topic].facts.id);
                if self.groups[group].facts.lite.is_some() {
                    self.sync_all(id, u64::MAX);
                }
                if group == members::GROUP && by_members {
                    self.drain_as_member()?;
                } else {
                    for member in self.groups[group].filters.clone() {
                        self.drain_poll(id, topic, member.filter);
                    }
                }
                let dead_letters = TopicId::dead_letters_of(id);
                self.drain_poll(id, dead_letters, Arc::new(martlet_model::Filter::ALL));
            }
            self.pump()?;
            if self.report.delivered + self.report.pulled == before {
                let waiting = self.shard.as_ref().map_or(0, |shard| shard.shard().waiting().count());
                self.look_at_ages()?;
                if round > 3 && waiting == 0 && self.backlog()? == 0 {
                    return self.nothing_is_left();
                }
                // Past invisible durations, later past the waits of hand-outs that were renewed to the end.
                self.monotonic += if round < 30 { 61_000 } else { 3_600_000 };
                self.pump()?;
            }
        }
        let left = self.backlog()?;
        Err(format!("the backlog does not end at zero: {left} messages left"))
    }

    fn drain_poll(&mut self, group: GroupId, topic: TopicId, filter: Arc<martlet_model::Filter>) {
        let receive = ReceiveCommand {
            poll: PollId(self.next_token),
            client: ClientNumber(u64::MAX),
            group,
            topic,
            queue: None,
            filter,
            batch_size: 32,
            invisible_millis: 10_000,
            renew_for_millis: None,
            retries_only: false,
            until: self.now.plus(5_000),
            message_group_max: 32,
            attempt_id: None,
            client_id: Some(super::lite::client_id(u64::MAX)),
        };
        let (client, invisible_millis) = (DRAINER, receive.invisible_millis);
        let (renewed_for, retries_only, batch) = (None, false, receive.batch_size);
        let pending =
            Pending::Receive { client, life: 0, group, topic, invisible_millis, renewed_for, batch, retries_only };
        self.ask(pending, |token| Command::Receive { receive, token });
    }

    fn backlog(&mut self) -> Result<u64, String> {
        let mut left = 0;
        for at in 0..self.groups.len() {
            let group = self.groups[at].facts.id;
            self.ask(Pending::Describe, |token| Command::DescribeGroup { group, token });
            self.pump()?;
            let (of_group, _) = self.described.take().ok_or("a question about a group has no answer")?;
            left += of_group;
        }
        Ok(left)
    }

    pub(super) fn dead_letter(&mut self, group: GroupId, body: &[u8], handle: ReceiptHandle) -> Verdict {
        let number = self.judge.recognise(body, None)?;
        let track = self.judge.track(group, number);
        track.is_delivered();
        if !track.dead_letters.contains(&handle.offset) {
            track.dead_letters.push(handle.offset);
            self.report.dead_letters += 1;
        }
        if track.dead_letters.len() > 1 && !track.loose && !track.recounted {
            return Err(format!("message {number} is a dead letter of {group:?} more than once: {track:?}"));
        }
        self.ask(Pending::Settle(Vec::new()), |token| Command::Ack { handles: vec![handle], token });
        Ok(())
    }

    fn nothing_is_left(&mut self) -> Verdict {
        for group in &self.groups {
            let facts = &group.facts;
            let topic = self.topics[group.topic].facts.id;
            for (number, message) in self.judge.messages.iter().enumerate() {
                let Sent::Yes { at, .. } = message.sent else { continue };
                if message.recall != Recall::No {
                    continue;
                }
                let at = message.due.map_or(at, |due| due.max(at));
                let old = self.now.since(at) > SAFE_AGE_MILLIS;
                if message.topic != topic || !group.wants(message.tag) || old || !self.is_kept(message) {
                    continue;
                }
                let track = self.judge.tracks.get(&facts.id).and_then(|tracks| tracks.get(&(number as u64)));
                let owed = track.is_some_and(|track| track.sent_back == SentBack::Owed);
                let accounted =
                    track.is_some_and(|track| track.settled || track.perhaps_settled || !track.dead_letters.is_empty());
                let discarded = facts.dead_letters == DeadLetters::Discard
                    && self.judge.may_be_exhausted(facts.id, number as u64, facts.max_attempts);
                if !accounted && !discarded || owed {
                    return Err(format!("message {number} never reached {:?}: {message:?}, {track:?}", facts.id));
                }
            }
        }
        for at in 0..self.topics.len() {
            let topic = self.topics[at].facts.id;
            self.ask(Pending::Catalog, |token| Command::DropTopic { topic, token });
        }
        for at in 0..self.groups.len() {
            let group = self.groups[at].facts.id;
            self.ask(Pending::Catalog, |token| Command::DropGroup { group, token });
        }
        self.pump()?;
        // What waits for topics that were deleted goes when it would have been due, its bucket when that hour is over. A client
        // whose clock had jumped ahead of the shard's meant a time that many days later. Outcomes of transactions are forgotten
        // when the retention is over, timers of lite topics go when the last message would have been too old.
        self.monotonic += DELAY_MILLIS_MAX as i64 + 6 * 24 * 3_600_000;
        self.pump()?;
        let Some(reader) = self.reader() else { return Ok(()) };
        let all = Bytes::from_static(&[0])..Bytes::from_static(&[255]);
        let keys = G::read(reader.scan(all, 1_000))?.map_err(|error| error.to_string())?;
        match keys.len() {
            1 => Ok(()),
            _ => Err(format!("deletion leaves keys: {:?}", keys.iter().map(|(key, _)| key).collect::<Vec<_>>())),
        }
    }
}
