//! Producers and consumers of every temper.

use super::halves::LEASE_MILLIS_MAX;
use super::lite::{self, Said};
use super::{Again, Pending, Run, TAGS};
use crate::ground::Ground;
use crate::halves::Polled;
use crate::judge::{Message, MessageNumber, Recall, Sent, body};
use crate::transactions::Transaction;
use martlet_model::handle::ReceiptHandle;
use martlet_model::record::{Field, RecordWriter};
use martlet_model::{GroupId, TopicId, UnixMillis, limits};
use martlet_shard::{ClientNumber, Command, Incoming, MarkedPlace, PollId, ReceiveCommand, Scheduled};

/// Longest delay, in milliseconds.
pub(super) const DELAY_MILLIS_MAX: u64 = 2 * 86_400_000;

/// A consumer. Even ones have their hand-outs renewed, odd ones do not.
pub(super) struct Client {
    pub number: u64,
    pub group: usize,
    pub polling: Option<(GroupId, TopicId)>,
    /// The poll that waits, and whether it is for what was delivered before.
    pub poll: PollId,
    pub retries_only: bool,
    /// Goes up when it vanishes; what reaches a former life reaches nobody.
    pub life: u32,
    pub held: Vec<(ReceiptHandle, MessageNumber)>,
    /// Handles that are dead or used up, to be shown again.
    pub old: Vec<(ReceiptHandle, MessageNumber)>,
    /// Of its lite subscriptions.
    pub said: Said,
}

impl Client {
    pub fn new(number: u64, group: usize) -> Self {
        Self {
            number,
            group,
            polling: None,
            poll: PollId(0),
            retries_only: false,
            life: 0,
            held: Vec::new(),
            old: Vec::new(),
            said: Said::default(),
        }
    }

    fn retire(&mut self, handle: (ReceiptHandle, MessageNumber)) {
        if self.old.len() < 64 {
            self.old.push(handle);
        }
    }
}

impl<G: Ground> Run<G> {
    pub(super) fn produce(&mut self) {
        let facts = self.topics[self.random.below(self.topics.len() as u64) as usize].facts.clone();
        let (topic, is_lite) = (facts.id, facts.lite.is_some());
        let epoch = self.epoch();
        let transactional = !facts.by_priority && !is_lite && self.random.one_in(6);
        let count = if !transactional && self.random.below(8) == 0 { 1 + self.random.below(12) } else { 1 };
        let delayed = !facts.by_priority && !is_lite && self.random.one_in(4);
        let mut messages = Vec::new();
        let mut dues = Vec::new();
        let mut numbers = Vec::new();
        for _ in 0..count {
            let number = self.judge.messages.len() as u64;
            let tag = self.random.below(TAGS.len() as u64) as usize;
            let length = self.random.below(if self.random.clone().below(20) == 0 { 3_000 } else { 100 }) as usize;
            let sent = Sent::UnderWay { epoch };
            // A few busy message groups, and messages of none.
            let lite_topic = is_lite.then(|| lite::NAMES[self.random.below(lite::NAMES.len() as u64) as usize]);
            let grouped = !delayed && !facts.by_priority && !is_lite && !self.random.one_in(4);
            let message_group = grouped.then(|| format!("key {}", self.random.below(5)));
            let message_key = message_group.as_deref().map(martlet_shard::message_group);
            let key = lite_topic.map(martlet_shard::message_group).or(message_key);
            // Some above the highest level.
            let priority = facts.by_priority.then(|| self.random.below(5) as u32);
            let level = priority.map(|priority| priority.min(facts.write_queues - 1));
            let due = delayed.then(|| self.now.plus(self.random_delay()));
            dues.push(due.unwrap_or_default());
            let (recall, timer) = (Recall::No, None);
            let polled = (transactional && self.random.one_in(3))
                .then(|| Polled::new(1_000 + self.random.below(LEASE_MILLIS_MAX - 1_000) as i64));
            let transaction = transactional.then(|| Transaction::new(self.now, polled));
            self.judge.messages.push(Message {
                topic,
                tag,
                length,
                sent,
                key,
                level,
                again: None,
                place: None,
                queue: None,
                due,
                timer,
                recall,
                transaction,
            });
            let mut writer = RecordWriter::with_capacity(length + 32);
            let id = number.to_string();
            writer.field(Field::MessageId(&id));
            if !TAGS[tag].is_empty() {
                writer.field(Field::Tag(TAGS[tag]));
            }
            if let Some(name) = lite_topic {
                writer.field(Field::LiteTopic(name));
            }
            if let Some(group) = &message_group {
                writer.field(Field::MessageGroup(group));
            }
            if let Some(priority) = priority {
                writer.field(Field::Priority(priority as i32));
            }
            if let Some(due) = due {
                writer.field(Field::DeliveryTimestamp(due.0));
            }
            let terms = vec![martlet_shard::term(topic, b'i', &id)];
            let (record, lite_topic) = (writer.finish(&body(number, length)), lite_topic.map(Into::into));
            let incoming = Incoming { record, terms, message_group: message_key, lite_topic };
            if facts.deduplicate_millis.is_some() {
                let again = Again { message: incoming.clone(), asked: self.now, epoch };
                self.judge.messages[number as usize].again = Some(again);
            }
            messages.push(incoming);
            numbers.push(number);
        }
        let deadline = (self.random.below(50) == 0).then(|| self.now.plus(-1));
        if transactional {
            for (number, message) in numbers.into_iter().zip(messages) {
                let record = message.record;
                let transaction = self.judge.messages[number as usize].transaction;
                let polled = transaction.and_then(|transaction| transaction.polled);
                let (immunity_millis, polled) = (polled.map(|polled| polled.immunity_millis), polled.is_some());
                self.ask(Pending::Half(number), |token| Command::SendHalf {
                    topic,
                    record,
                    immunity_millis,
                    polled,
                    deadline,
                    token,
                });
            }
            return;
        }
        self.ask(Pending::Send(numbers), |token| match delayed {
            true => {
                let messages =
                    messages.into_iter().zip(dues).map(|(message, due)| Scheduled { message, due }).collect();
                Command::Schedule { topic, messages, deadline, token }
            }
            false => Command::Send { topic, messages, deadline, token },
        });
    }

    /// Mostly seconds, now and then hours or days, sometimes the past.
    fn random_delay(&mut self) -> i64 {
        match self.random.below(16) {
            0 => -(self.random.below(5_000) as i64),
            1 => self.random.below(DELAY_MILLIS_MAX) as i64,
            2 | 3 => self.random.below(7_200_000) as i64,
            _ => self.random.below(10_000) as i64,
        }
    }

    /// Recalls one of the last messages that wait, or waited.
    pub(super) fn recall(&mut self) {
        let live: Vec<TopicId> = self.topics.iter().map(|topic| topic.facts.id).collect();
        let numbered = self.judge.messages.iter().enumerate().rev();
        let known = |(number, message): (usize, &Message)| Some((number as u64, message.topic, message.timer?));
        let recent: Vec<_> = numbered.filter_map(known).filter(|(_, topic, _)| live.contains(topic)).take(20).collect();
        if recent.is_empty() {
            return;
        }
        let (number, topic, at) = recent[self.random.below(recent.len() as u64) as usize];
        let recall = &mut self.judge.messages[number as usize].recall;
        *recall = match *recall {
            Recall::No => Recall::UnderWay(1),
            Recall::UnderWay(count) => Recall::UnderWay(count + 1),
            known => known,
        };
        self.ask(Pending::Recall(number), |token| Command::Recall { topic, at, token });
    }

    pub(super) fn epoch(&self) -> u32 {
        self.shard.as_ref().map_or(0, |shard| shard.shard().epoch())
    }

    pub(super) fn act(&mut self, at: usize) {
        if self.clients[at].polling.is_none() && self.random.below(4) > 0 {
            return self.poll(at);
        }
        let held = self.clients[at].held.len() as u64;
        match self.random.below(20) {
            0..=11 if held > 0 => {
                let count = 1 + self.random.below(held.min(16));
                let handles: Vec<_> = (0..count).filter_map(|_| self.take_held(at)).collect();
                handles.iter().for_each(|&handle| self.clients[at].retire(handle));
                self.settle_all(handles);
            }
            12 | 13 if held > 0 => {
                let millis = [0, 1_000, 10_000, 60_000][self.random.below(4) as usize];
                self.change(at, millis);
            }
            14 if held > 0 => {
                let Some((handle, number)) = self.take_held(at) else { return };
                self.loosen(&handle, number, true);
                self.clients[at].retire((handle, number));
                self.inbox.push(Command::Undo { handles: vec![handle] });
            }
            15 if held > 0 && self.random.below(4) == 0 => {
                let Some((handle, number)) = self.take_held(at) else { return };
                self.under_way(&handle, number);
                self.clients[at].retire((handle, number));
                self.ask(Pending::Settle(vec![(handle, number)]), |token| Command::DeadLetter { handle, token });
            }
            // Forgotten: it lapses, or its ack comes late.
            16 if held > 0 => {
                if let Some(handle) = self.take_held(at) {
                    self.clients[at].retire(handle);
                }
            }
            17 | 18 if !self.clients[at].old.is_empty() => {
                let which = self.random.below(self.clients[at].old.len() as u64) as usize;
                let mut again = self.clients[at].old[which];
                // Invented: a delivery that never was.
                if self.random.below(4) == 0 {
                    again.0.delivery = again.0.delivery.plus(1 << 38);
                }
                self.settle_all(vec![again]);
            }
            _ => {}
        }
    }

    fn take_held(&mut self, at: usize) -> Option<(ReceiptHandle, MessageNumber)> {
        let held = &mut self.clients[at].held;
        (!held.is_empty()).then(|| held.swap_remove(self.random.below(held.len() as u64) as usize))
    }

    pub(super) fn poll(&mut self, at: usize) {
        let client = &self.clients[at];
        let group = &self.groups[client.group];
        let (id, topic, filter) =
            (group.facts.id, self.topics[group.topic].facts.id, group.filter_of(client.number).filter.clone());
        let auto_renew = client.number.is_multiple_of(2);
        let invisible_millis = if auto_renew { 60_000 } else { 10_000 + self.random.below(50_000) as i64 };
        // Levels are passed over only where batches are small.
        let retries_only = group.facts.lite.is_none() && self.random.one_in(8);
        let small = self.topics[group.topic].facts.by_priority && self.random.one_in(2);
        let receive = ReceiveCommand {
            poll: PollId(self.next_token),
            client: ClientNumber(client.number),
            group: id,
            topic,
            queue: None,
            filter,
            batch_size: 1 + self.random.below(if small { 2 } else { 32 }) as u32,
            invisible_millis,
            renew_for_millis: auto_renew.then_some(limits::AUTO_RENEW_TOTAL_MILLIS),
            retries_only,
            until: self.now.plus(self.random.below(20_000) as i64),
            message_group_max: if self.random.one_in(4) { 1 } else { 32 },
            attempt_id: None,
            client_id: Some(lite::client_id(client.number)),
        };
        let renewed_for = auto_renew.then_some(client.number);
        self.clients[at].polling = Some((id, topic));
        self.clients[at].poll = receive.poll;
        self.clients[at].retries_only = retries_only;
        let (life, batch) = (self.clients[at].life, receive.batch_size);
        let pending =
            Pending::Receive { client: at, life, group: id, topic, invisible_millis, renewed_for, batch, retries_only };
        self.ask(pending, |token| Command::Receive { receive, token });
    }

    /// Acks these, in one request.
    pub(super) fn settle_all(&mut self, handles: Vec<(ReceiptHandle, MessageNumber)>) {
        for (handle, number) in &handles {
            self.under_way(handle, *number);
        }
        if self.random.one_in(8)
            && let Some((group, topic, places)) = self.marked(&handles)
        {
            self.ask(Pending::Settle(handles), |token| Command::AckMarked { group, topic, places, token });
            return;
        }
        let decoded = handles.iter().map(|handle| handle.0).collect();
        self.ask(Pending::Settle(handles), |token| Command::Ack { handles: decoded, token });
    }

    /// The same hand-outs, named by their places and marks; where they are of one group and topic that has its queues numbered.
    fn marked(&self, handles: &[(ReceiptHandle, MessageNumber)]) -> Option<(GroupId, TopicId, Vec<MarkedPlace>)> {
        let ReceiptHandle { group, topic, .. } = handles.first()?.0;
        let key = self.shard.as_ref()?.shard().handle_key().1;
        let place_of = |(handle, number): &(ReceiptHandle, MessageNumber)| {
            let (index, offset) = self.judge.messages[*number as usize].place?;
            let same = (handle.group, handle.topic) == (group, topic) && !self.is_lite(group);
            same.then(|| MarkedPlace { index, offset, mark: handle.mark(&key) })
        };
        Some((group, topic, handles.iter().map(place_of).collect::<Option<_>>()?))
    }

    fn under_way(&mut self, handle: &ReceiptHandle, number: MessageNumber) {
        if let Some(tracks) = self.judge.tracks.get_mut(&handle.group) {
            tracks.entry(number).or_default().under_way += 1;
        }
    }

    /// From now on the message may be visible.
    fn loosen(&mut self, handle: &ReceiptHandle, number: MessageNumber, undone: bool) {
        let Some(track) = self.judge.tracks.get_mut(&handle.group).and_then(|tracks| tracks.get_mut(&number)) else {
            return;
        };
        track.promised = None;
        if let Some(last) = track.last.as_mut().filter(|last| last.delivery == handle.delivery) {
            last.loosened = true;
            last.undone |= undone;
        }
    }

    fn change(&mut self, at: usize, millis: i64) {
        let Some((handle, number)) = self.take_held(at) else { return };
        let suspend = self.is_lite(handle.group) && self.random.one_in(2);
        match suspend {
            true => self.suspended(&handle, number),
            false => self.loosen(&handle, number, false),
        }
        self.clients[at].retire((handle, number));
        let pending = Pending::Change { handle, number, millis, at: self.now };
        self.ask(pending, |token| Command::ChangeInvisible { handle, invisible_millis: millis, suspend, token });
    }

    pub(super) fn changed(
        &mut self,
        handle: ReceiptHandle,
        number: MessageNumber,
        millis: i64,
        at: UnixMillis,
        answer: Option<ReceiptHandle>,
    ) {
        let Some(new) = answer.filter(|new| new.delivery != handle.delivery) else { return };
        let Some(track) = self.judge.tracks.get_mut(&handle.group).and_then(|tracks| tracks.get_mut(&number)) else {
            return;
        };
        // It may have been handed out again before the answer was durable.
        let Some(last) = track.last.as_mut().filter(|last| last.delivery == handle.delivery && !last.undone) else {
            return;
        };
        last.delivery = new.delivery;
        last.until = at.plus(millis);
        last.visible = self.now.plus(millis);
        last.renewed_for = None;
        last.loosened = millis == 0;
        track.promised = (millis > 0).then_some((last.until, last.attempt));
        let client = match self.is_lite(handle.group) {
            true => lite::FIRST_CLIENT + number % lite::CLIENTS,
            false => number % lite::FIRST_CLIENT,
        };
        if let Some(client) = self.clients.get_mut(client as usize) {
            client.held.push((new, number));
        }
    }

    /// A client is gone with everything it held; its acks may still come, late.
    pub(super) fn vanish(&mut self, at: usize) {
        let number = self.clients[at].number;
        self.clients[at].said.forget();
        self.loosen_all_of(number);
        self.clients[at].life += 1;
        if self.clients[at].polling.take().is_some() {
            self.inbox.push(Command::CancelPoll { poll: self.clients[at].poll });
        }
        let held = std::mem::take(&mut self.clients[at].held);
        held.into_iter().for_each(|handle| self.clients[at].retire(handle));
        let client = ClientNumber(number);
        let leaves = self.random.one_in(3);
        self.inbox.push(if leaves { Command::ClientLeaves { client } } else { Command::ClientGone { client } });
    }

    /// What is renewed for this client may be visible from now on.
    pub(super) fn loosen_all_of(&mut self, client: u64) {
        for tracks in self.judge.tracks.values_mut().flat_map(|tracks| tracks.values_mut()) {
            if let Some(last) = tracks.last.as_mut().filter(|last| last.renewed_for == Some(client)) {
                last.loosened = true;
            }
        }
    }
}
