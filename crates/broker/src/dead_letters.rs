//! Dead letters of a group: listing them, and putting them back into the topics they came from.

use crate::find::found_message;
use crate::{Broker, FOUND_MAX, FindRequest, Found, FoundMessage, Refusal, ReplyBudget, Wanted};
use martlet_model::record::{self, Field};
use martlet_model::{DeadLetterPolicy, QueueOffset, TopicConfig, limits, names};
use martlet_shard::{Command, DeadLetterPlace, Output, ResendError};
use std::sync::Arc;

/// Dead letters resent at a time for one request.
const AT_A_TIME: usize = 32;

/// Where a dead letter is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetterAt {
    /// Topic of dead letters.
    pub topic: String,
    /// Number of the queue within it.
    pub queue: u32,
    /// The place.
    pub offset: QueueOffset,
}

/// Dead letters that were not resent yet. At most [`FOUND_MAX`] and 4 MiB, but for a single larger one.
#[derive(Debug, Default)]
pub struct DeadLetterList {
    /// The messages, queue by queue, oldest first.
    pub messages: Vec<FoundMessage>,
    /// Where to go on, if there may be more.
    pub next: Option<DeadLetterAt>,
    /// Their share of the byte budget.
    pub budget: ReplyBudget,
}

/// What became of one dead letter that was to be resent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resent {
    /// Where it was.
    pub from: DeadLetterAt,
    /// Topic, queue and place where it is now; or why it was not resent.
    pub outcome: Result<DeadLetterAt, Refusal>,
}

impl Broker {
    /// Topics that dead letters of a group are in: its own one, and the one it names.
    fn dead_letter_topics(&self, group: &str) -> Result<Vec<Arc<TopicConfig>>, Refusal> {
        let config = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        let own = format!("{}{group}", names::DEAD_LETTER_PREFIX);
        let named = match &config.dead_letters {
            DeadLetterPolicy::Topic(topic) => self.known_topic(topic),
            DeadLetterPolicy::GroupTopic | DeadLetterPolicy::Discard => None,
        };
        Ok(self.known_topic(&own).into_iter().chain(named).collect())
    }

    /// A group's dead letters that were not resent, from a place on. A topic that several groups name for their dead
    /// letters shows those of all of them.
    pub async fn dead_letters(
        &self,
        group: &str,
        from: Option<DeadLetterAt>,
        limit: usize,
    ) -> Result<DeadLetterList, Refusal> {
        let limit = limit.clamp(1, FOUND_MAX);
        let mut list =
            DeadLetterList { budget: self.share_of_budget(limits::REPLY_BYTES_MAX).await, ..Default::default() };
        let mut bytes = 0;
        // Until the place is reached, nothing is shown.
        let mut begun = from.is_none();
        'topics: for topic in self.dead_letter_topics(group)? {
            let name: Arc<str> = topic.name.as_str().into();
            for queue in self.queues_of(&topic).await? {
                let mut at = queue.min;
                if let Some(from) = from.as_ref().filter(|_| !begun) {
                    if (from.topic.as_str(), from.queue) != (topic.name.as_str(), queue.index) {
                        continue;
                    }
                    begun = true;
                    at = from.offset;
                }
                loop {
                    let open = self.unresolved(&topic, queue.index, at).await?;
                    let Some(last) = open.last() else { break };
                    at = last.next();
                    for &offset in &open {
                        let Some(stored) = self.read_one(queue.queue, offset).await? else { continue };
                        if !is_dead_letter(&stored.record) {
                            continue;
                        }
                        let with_it = bytes + stored.record.len();
                        let full = list.messages.len() >= limit || with_it > limits::REPLY_BYTES_MAX;
                        if full && !list.messages.is_empty() {
                            list.next = Some(DeadLetterAt { topic: topic.name.clone(), queue: queue.index, offset });
                            break 'topics;
                        }
                        bytes = with_it;
                        list.messages.push(found_message(&name, queue.index, stored));
                    }
                }
            }
        }
        list.budget.shrink(bytes);
        Ok(list)
    }

    async fn unresolved(
        &self,
        topic: &TopicConfig,
        index: u32,
        from: QueueOffset,
    ) -> Result<Vec<QueueOffset>, Refusal> {
        let limit = FOUND_MAX as u32;
        match self.ask(|token| Command::Unresolved { topic: topic.id, index, from, limit, token }).await? {
            Output::Offsets(_, offsets) => Ok(offsets),
            other => Err(self.unexpected(other, &topic.name, "")),
        }
    }

    /// Dead letters of a group with this message id, newest first, resent ones too.
    pub async fn dead_letters_by_id(&self, group: &str, id: &str) -> Result<Found, Refusal> {
        let mut found = Found::default();
        for topic in self.dead_letter_topics(group)? {
            let request = FindRequest {
                topic: Some(topic.name.clone()),
                wanted: Wanted::Id(id.to_owned()),
                since: None,
                until: None,
                limit: FOUND_MAX - found.messages.len().min(FOUND_MAX - 1),
                after: None,
            };
            let more = self.find(request).await?;
            found.messages.extend(more.messages.into_iter().filter(|message| is_dead_letter(&message.record)));
            found.budget = more.budget;
        }
        Ok(found)
    }

    /// Puts dead letters back into the topics they came from, with everything they were sent with; each once. What is
    /// not one of the group's is refused by itself.
    pub async fn resend(&self, group: &str, letters: Vec<DeadLetterAt>) -> Result<Vec<Resent>, Refusal> {
        if letters.len() > FOUND_MAX {
            return Err(Refusal::Busy { what: "number of dead letters in one request", limit: FOUND_MAX as u64 });
        }
        let topics = self.dead_letter_topics(group)?;
        let mut outcomes = Vec::with_capacity(letters.len());
        for some in letters.chunks(AT_A_TIME) {
            // All are handed in before the first is waited for: they share a sync.
            let mut asked = Vec::with_capacity(some.len());
            for from in some {
                let topic = topics.iter().find(|topic| topic.name == from.topic);
                let answer = topic.map(|topic| {
                    let place = DeadLetterPlace { topic: topic.id, index: from.queue, offset: from.offset };
                    self.begin_ask(|token| Command::Resend { place, token })
                });
                asked.push((from.clone(), answer));
            }
            for (from, answer) in asked {
                let outcome = match answer {
                    None => Err(Refusal::TopicNotFound { topic: from.topic.clone() }),
                    Some(Err(refusal)) => Err(refusal),
                    Some(Ok(answer)) => match answer.await.map_err(|_| self.stopped()) {
                        Ok(Output::Resent(Ok((into, queue, offset)))) => {
                            let topic = self.name_of(into).unwrap_or_default();
                            Ok(DeadLetterAt { topic, queue, offset })
                        }
                        Ok(Output::Resent(Err(error))) => Err(resend_refusal(error)),
                        Ok(other) => Err(self.unexpected(other, &from.topic, group)),
                        Err(refusal) => Err(refusal),
                    },
                };
                outcomes.push(Resent { from, outcome });
            }
        }
        Ok(outcomes)
    }
}

fn is_dead_letter(record: &[u8]) -> bool {
    record::find(record, |field| matches!(field, Field::DeadLetterTopic(_)).then_some(())).is_some()
}

fn resend_refusal(error: ResendError) -> Refusal {
    match error {
        ResendError::TopicGone { topic } => Refusal::TopicNotFound { topic: topic.to_string() },
        other => Refusal::NotResent { reason: other.to_string() },
    }
}
