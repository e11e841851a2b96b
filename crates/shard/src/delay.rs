//! Delayed messages: kept until they are due, then stored in their topic as new messages; recalled in between.
//!
//! Rules
//! - Never early, and late by no more than the turns it takes to read and store what is due at once.
//! - The message leaves its bucket for the topic in one batch with the end of its timer: neither lost nor doubled by a crash.
//! - A recall that is answered OK stops the message for good; what was stored in the topic first is refused.

use crate::answer::*;
use crate::command::*;
use crate::load::Load;
use crate::resident::Purpose;
use crate::shard::{Shard, Work};
use crate::timers::Timer;
use bytes::Bytes;
use martlet_model::record::{self, Field};
use martlet_model::{QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_store::{Op, Room, StoredMessage, Term};
use std::collections::BTreeMap;

/// Messages that are read and stored per turn.
pub(crate) const DUE_MAX: usize = 1024;

/// What a message can be found by: its id and its keys.
pub(crate) fn terms_of(topic: TopicId, record: &[u8]) -> Vec<Term> {
    record::fields(record)
        .map_while(Result::ok)
        .filter_map(|field| match field {
            Field::MessageId(id) => Some(crate::term(topic, b'i', id)),
            Field::Key(key) => Some(crate::term(topic, b'k', key)),
            _ => None,
        })
        // As many as the store takes.
        .take(64)
        .collect()
}

pub(crate) fn message_id(record: &[u8]) -> Option<&str> {
    record::find(record, |field| match field {
        Field::MessageId(id) => Some(id),
        _ => None,
    })
}

impl<T> Shard<T> {
    /// Keeps messages until they are due.
    pub(crate) fn schedule(
        &mut self,
        topic: TopicId,
        messages: Vec<Scheduled>,
        deadline: Option<UnixMillis>,
        token: T,
    ) {
        if let Some(refused) = self.refuses_send(topic, deadline) {
            return self.reply(token, Output::Refused(refused));
        }
        let mut placed = Vec::with_capacity(messages.len());
        for Scheduled { message, due } in messages {
            let id = self.id_to_know(topic, &message.record);
            if let Some(known) = self.known_place(topic, id) {
                self.counters.deduplicated += 1;
                placed.push(known);
                continue;
            }
            if due <= self.now {
                let Some((queue, offset)) = self.append_in_turn(topic, message) else {
                    return self.reply(token, Output::Refused(Refused::NotWritable));
                };
                placed.push(Placed::Now(queue, offset));
                continue;
            }
            placed.push(Placed::Later(self.delay_until(topic, due, message.record)));
        }
        self.reply(token, Output::Scheduled(placed));
    }

    /// Keeps a message until it is due.
    pub(crate) fn delay_until(&mut self, topic: TopicId, due: UnixMillis, record: Bytes) -> TimerAt {
        let (queue, offset, keep_until) = self.take_bucket_place(due);
        let at = TimerAt { due, queue, offset };
        self.note_place(topic, self.id_to_know(topic, &record), Placed::Later(at));
        // Found by what it is called only once it is in its topic.
        self.ops.push(Op::Append { queue, offset, record, terms: Vec::new(), keep_until });
        self.add_timer(at, Timer::Deliver(topic));
        self.count_waiting(topic, |waiting| waiting.delayed += 1);
        self.counters.timers_in += 1;
        at
    }

    /// Why nothing can be sent to a topic.
    pub(crate) fn refuses_send(&self, topic: TopicId, deadline: Option<UnixMillis>) -> Option<Refused> {
        if deadline.is_some_and(|deadline| deadline < self.now) {
            return Some(Refused::DeadlinePassed);
        }
        if let Room::OnlyProgress(shortage) = self.room {
            return Some(shortage.into());
        }
        match self.topics.get(&topic) {
            None => Some(Refused::TopicGone),
            Some(topic) if topic.send_queue().is_none() => Some(Refused::NotWritable),
            Some(_) => None,
        }
    }

    /// Appends to the queue that the message belongs in, which is resident.
    pub(crate) fn append_in_turn(&mut self, topic: TopicId, message: Incoming) -> Option<(u32, QueueOffset)> {
        let entry = self.topics.get_mut(&topic)?;
        let queue = entry.queue_for_message(None, &message.record)?;
        entry.next_send = entry.next_send.wrapping_add(1);
        self.append(queue, message)
    }

    /// The queues that messages of a topic may go to when they are due.
    pub(crate) fn queues_in_turn(&self, topic: TopicId) -> &[QueueId] {
        let queues = self.topics.get(&topic);
        queues.map_or(&[], |topic| &topic.queues[..(topic.facts.write_queues as usize).min(topic.queues.len())])
    }

    /// Delayed messages on their way out.
    fn delivering(&self) -> Vec<(TimerAt, TopicId)> {
        let delivering = self.timers.firing.iter().filter_map(|(&at, timer)| match timer {
            Timer::Deliver(topic) => Some((at, *topic)),
            Timer::Check(_) | Timer::Forget(_) | Timer::Lite(_) => None,
        });
        delivering.collect()
    }

    /// Has the messages read that are due.
    pub(crate) fn read_due(&mut self) {
        let (delivering, gone): (Vec<_>, Vec<_>) =
            self.delivering().into_iter().partition(|(_, topic)| self.topics.contains_key(topic));
        for (at, _) in gone {
            self.counters.timers_dropped += 1;
            self.remove_timer(at);
        }
        if delivering.is_empty() {
            return;
        }
        if self.room != Room::Open {
            return self.timers_again(delivering.into_iter().map(|(at, _)| at));
        }
        let mut places: Vec<_> = delivering.iter().map(|(at, _)| (at.queue, at.offset)).collect();
        places.sort_unstable();
        self.want_after_batch(Load::Due(places), Purpose::Due);
    }

    /// They have been read, or some of them.
    pub(crate) fn due_loaded(&mut self, found: Option<Vec<(QueueId, QueueOffset, Option<Bytes>)>>) {
        let Some(found) = found else {
            return self.timers_again(self.delivering().into_iter().map(|(at, _)| at));
        };
        let mut records: BTreeMap<_, _> =
            found.into_iter().map(|(queue, offset, record)| ((queue, offset), record)).collect();
        let mut by_topic: BTreeMap<TopicId, Vec<(TimerAt, Bytes)>> = BTreeMap::new();
        for (at, topic) in self.delivering() {
            match records.remove(&(at.queue, at.offset)) {
                Some(Some(record)) => by_topic.entry(topic).or_default().push((at, record)),
                // Dropped from the log by repair.
                Some(None) => {
                    self.counters.timers_dropped += 1;
                    self.count_waiting(topic, |waiting| waiting.delayed = waiting.delayed.saturating_sub(1));
                    self.remove_timer(at);
                }
                None => self.timers.put_back(at),
            }
        }
        for (topic, messages) in by_topic {
            self.handle(Work::Fire { topic, messages });
        }
    }

    /// Stores messages that are due in their topic, whose queues are resident.
    pub(crate) fn fire(&mut self, topic: TopicId, messages: Vec<(TimerAt, Bytes)>) {
        if self.room != Room::Open {
            return self.timers_again(messages.into_iter().map(|(at, _)| at));
        }
        for (at, record) in messages {
            // Recalled while it was being read.
            if !self.timers.firing.contains_key(&at) {
                continue;
            }
            let terms = terms_of(topic, &record);
            let kept = self.topics.contains_key(&topic);
            if kept
                && self
                    .append_in_turn(topic, Incoming { record, terms, message_group: None, lite_topic: None })
                    .is_none()
            {
                // The topic has no queue to write to, for now.
                self.timers_again([at]);
                continue;
            }
            match kept {
                true => self.note_fired(at),
                false => self.counters.timers_dropped += 1,
            }
            self.count_waiting(topic, |waiting| waiting.delayed = waiting.delayed.saturating_sub(1));
            self.remove_timer(at);
        }
    }

    fn note_fired(&mut self, at: TimerAt) {
        let late = self.now.since(at.due).max(0);
        let bucket = LATENESS_MILLIS.iter().position(|&bound| late <= bound).unwrap_or(LATENESS_MILLIS.len());
        self.counters.timers_out += 1;
        self.counters.lateness[bucket] += 1;
        self.counters.lateness_sum += late as u64;
    }

    /// Stops a message that waits. Its timer is read even where memory knows it, for the message's id.
    pub(crate) fn recall(&mut self, topic: TopicId, at: TimerAt, token: T) {
        if !self.topics.contains_key(&topic) {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        }
        let waiting = self.recalls.entry(at).or_default();
        waiting.push(token);
        if waiting.len() == 1 {
            self.want_after_batch(Load::Timer(at), Purpose::Recall { topic, at });
        }
    }

    /// It is known whether the message waits.
    pub(crate) fn recall_loaded(
        &mut self,
        topic: TopicId,
        at: TimerAt,
        found: Result<(bool, Option<StoredMessage>), String>,
    ) {
        let tokens = self.recalls.remove(&at).unwrap_or_default();
        let (there, message) = match found {
            Ok(found) => found,
            Err(reason) => {
                for token in tokens {
                    self.reply(token, Output::Refused(Refused::ReadFailed(reason.clone())));
                }
                return;
            }
        };
        let id = message.as_ref().and_then(|message| message_id(&message.record)).unwrap_or_default();
        let mut there = self.timers.knows(at).unwrap_or(there);
        for token in tokens {
            let answer = match there {
                true => {
                    self.remove_timer(at);
                    self.count_waiting(topic, |waiting| waiting.delayed = waiting.delayed.saturating_sub(1));
                    self.counters.recalled += 1;
                    Ok(id.to_owned())
                }
                false if at.due <= self.now => Err(RecallError::Fired { ago_millis: self.now.since(at.due) }),
                false => Err(RecallError::Recalled),
            };
            there = false;
            self.reply(token, Output::Recalled(answer));
        }
    }
}
