//! Producers that did not hear the answer to a send and send again, in topics that recognise it.

use super::{Pending, Run, WINDOW_MILLIS};
use crate::ground::Ground;
use crate::judge::{Message, MessageNumber, Recall, Sent, Verdict};
use martlet_model::{TopicId, UnixMillis};
use martlet_shard::{Command, HalfPlace, Incoming, Output, Placed, Scheduled};

/// What may be sent again.
#[derive(Clone, Debug)]
pub struct Again {
    pub message: Incoming,
    /// When it was sent first, and in which epoch.
    pub asked: UnixMillis,
    pub epoch: u32,
}

impl<G: Ground> Run<G> {
    /// Sends one of the last messages again, in time.
    pub(super) fn send_again(&mut self) {
        let live: Vec<TopicId> = self.topics.iter().map(|topic| topic.facts.id).collect();
        let (now, epoch) = (self.now, self.epoch());
        let may_be_sent_again = |(number, message): (usize, &Message)| {
            let again = message.again.as_ref()?;
            let in_time = now.since(again.asked) < WINDOW_MILLIS / 3 && live.contains(&message.topic);
            // What is known of an ended transaction and of a recalled message is known in memory only.
            let known = match &message.transaction {
                Some(transaction) => match transaction.place {
                    Some(_) => again.epoch == epoch || !transaction.may_have_ended_at_all(),
                    None => message.sent == Sent::No,
                },
                None => message.recall == Recall::No && matches!(message.sent, Sent::Yes { .. } | Sent::Perhaps),
            };
            (in_time && known).then_some(number)
        };
        let numbered = self.judge.messages.iter().enumerate().rev();
        let recent: Vec<_> = numbered.filter_map(may_be_sent_again).take(30).collect();
        if recent.is_empty() {
            return;
        }
        let number = recent[self.random.below(recent.len() as u64) as usize];
        let message = &self.judge.messages[number];
        let Some(Again { message: incoming, .. }) = message.again.clone() else { return };
        let (topic, due, half) = (message.topic, message.due, message.transaction.is_some());
        let polled = message.transaction.and_then(|transaction| transaction.polled);
        self.ask(Pending::SendAgain(number as u64), |token| match due {
            _ if half => {
                let (record, deadline) = (incoming.record, None);
                let (immunity_millis, polled) = (polled.map(|polled| polled.immunity_millis), polled.is_some());
                Command::SendHalf { topic, record, immunity_millis, polled, deadline, token }
            }
            Some(due) => {
                let messages = vec![Scheduled { message: incoming, due }];
                Command::Schedule { topic, messages, deadline: None, token }
            }
            None => Command::Send { topic, messages: vec![incoming], deadline: None, token },
        });
    }

    /// What that was answered with: the place of the first, if that is known.
    pub(super) fn sent_again(&mut self, number: MessageNumber, output: Output) -> Verdict {
        let message = &mut self.judge.messages[number as usize];
        let known = format!("{message:?}");
        let mut same = true;
        match output {
            Output::Sent(places) => {
                for place in places {
                    same &= *message.place.get_or_insert(place) == place;
                }
            }
            Output::Scheduled(placed) => {
                for placed in placed {
                    match placed {
                        Placed::Now(queue, offset) => {
                            same &= *message.place.get_or_insert((queue, offset)) == (queue, offset);
                        }
                        Placed::Later(at) => {
                            same &= message.place.is_none() && *message.timer.get_or_insert(at) == at;
                        }
                    }
                }
            }
            Output::Half(place, began) => return self.half_sent_again(number, place, began),
            Output::Refused(_) => return Ok(()),
            other => return Err(format!("sending {number} again was answered with {other:?}")),
        }
        if !same {
            return Err(format!("message {number} was sent again and is at two places: {known}, now {message:?}"));
        }
        // It is stored for certain now; in which epoch it first was, nobody knows.
        if message.sent == Sent::Perhaps {
            message.sent = Sent::Yes { at: self.now, epoch: 0 };
        }
        self.report.again += 1;
        Ok(())
    }

    fn half_sent_again(&mut self, number: MessageNumber, place: HalfPlace, began: UnixMillis) -> Verdict {
        let message = &self.judge.messages[number as usize];
        match message.transaction.and_then(|transaction| transaction.place) {
            None => self.half_sent(number, place, began),
            Some(first) if first == place => {}
            Some(_) => {
                return Err(format!("the half message {number} was sent again and is at {place:?} too: {message:?}"));
            }
        }
        self.report.again += 1;
        Ok(())
    }
}
