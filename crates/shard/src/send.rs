//! Storing messages.

use crate::answer::{Output, Placed, Refused};
use crate::command::{Command, Incoming};
use crate::priority::priority_of;
use crate::shard::Shard;
use martlet_model::{QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_store::{Op, Room, Shortage};

impl<T> Shard<T> {
    /// While the store is behind, it may not answer either: messages are refused before anything is read for them.
    pub(crate) fn refuse_while_behind(&mut self, command: Command<T>) -> Option<Command<T>> {
        let Room::OnlyProgress(shortage @ Shortage::Behind { .. }) = self.room else { return Some(command) };
        match command {
            Command::Send { token, .. } | Command::Schedule { token, .. } | Command::SendHalf { token, .. } => {
                self.refuse_now(token, shortage.into());
                None
            }
            other => Some(other),
        }
    }

    /// Appends messages: by priority to its queue, to the queue its sender chose, of a message group to its queue, all others
    /// to one queue, the topic's next in turn.
    pub(crate) fn send(&mut self, topic: TopicId, messages: Vec<Incoming>, deadline: Option<UnixMillis>, token: T) {
        if deadline.is_some_and(|deadline| deadline < self.now) {
            return self.refuse_now(token, Refused::DeadlinePassed);
        }
        if let Room::OnlyProgress(shortage) = self.room {
            return self.refuse_now(token, shortage.into());
        }
        let Some(entry) = self.topics.get_mut(&topic) else {
            return self.reply(token, Output::Refused(Refused::TopicGone));
        };
        if let Some(facts) = entry.facts.lite {
            return self.send_lite(topic, facts, messages, token);
        }
        let Some(queue) = entry.send_queue() else {
            return self.reply(token, Output::Refused(Refused::NotWritable));
        };
        let mut in_turn = false;
        let queues: Vec<QueueId> = messages
            .iter()
            .map(|message| match entry.facts.by_priority {
                true => entry.level(priority_of(&message.record)),
                false => entry.chosen(&message.record).or_else(|| entry.queue_for(message.message_group?)),
            })
            .map(|own| {
                in_turn |= own.is_none();
                own.unwrap_or(queue)
            })
            .collect();
        if in_turn {
            entry.next_send = entry.next_send.wrapping_add(1);
        }
        let appended = queues.into_iter().zip(messages);
        let places = appended.filter_map(|(queue, message)| self.append_once(topic, queue, message)).collect();
        self.reply(token, Output::Sent(places));
    }

    /// Appends one message to a resident queue of the topic, unless it is there already and the topic asks for that.
    fn append_once(&mut self, topic: TopicId, queue: QueueId, message: Incoming) -> Option<(u32, QueueOffset)> {
        let id = self.id_to_know(topic, &message.record);
        if let Some(Placed::Now(queue, offset)) = self.known_place(topic, id) {
            self.counters.deduplicated += 1;
            return Some((queue, offset));
        }
        self.append(queue, message)
    }

    /// Appends one message to a resident queue.
    pub(crate) fn append(&mut self, id: QueueId, message: Incoming) -> Option<(u32, QueueOffset)> {
        let topic = self.queues.get(&id)?.topic;
        let known_by = self.id_to_know(topic, &message.record);
        let retention = self.retention_of(topic);
        let now = self.now;
        let queue = self.queues.get_mut(&id)?;
        let was_empty = queue.min == queue.next;
        let marked = queue.mark(now, retention, message.record.len());
        let offset = queue.next;
        queue.next = offset.next();
        // Decays, so that one large message does not make replies small for ever.
        queue.record_bytes = message.record.len().max(queue.record_bytes - queue.record_bytes / 16);
        let index = queue.index;
        if let Some(group) = message.message_group {
            self.note_message_group(id, offset, group);
        }
        self.counters.messages_in += 1;
        self.counters.bytes_in += message.record.len() as u64;
        self.ops.push(Op::Append {
            queue: id,
            offset,
            record: message.record,
            terms: message.terms,
            keep_until: now.plus(retention),
        });
        if self.is_lite_queue(id) {
            self.lite_appended(id, marked);
        } else {
            if marked {
                self.put_queue(id);
            }
            if marked || was_empty {
                self.reindex_expiry(id);
            }
        }
        self.note_append(id);
        self.note_place(topic, known_by, Placed::Now(index, offset));
        Some((index, offset))
    }
}
