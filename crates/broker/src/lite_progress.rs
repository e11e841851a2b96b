//! How far groups of lite topics are: moving them, and how old what they have not settled is.

use crate::find::read_failed;
use crate::{Broker, Refusal, ResetTo};
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId, UnixMillis};
use martlet_shard::{Command, LiteLook, LiteReset, Output, ResetTarget};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Lite topics that one request of [`LiteWhich::All`] goes through.
pub const LITE_RESET_MAX: usize = 1_000;
/// Of these, so many are moved in one batch: a turn of the shard stays short.
const AT_A_TIME: usize = 64;
/// Most lite topics that are looked at for the oldest message.
const LOOKED_AT_MAX: usize = 256;

/// In which lite topics of its parent a group is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiteWhich<'a> {
    /// In this one, whether the group has been there or not.
    Named(&'a str),
    /// In those where the group has been, behind this queue: [`LITE_RESET_MAX`] of them.
    All(Option<QueueId>),
}

/// A lite topic in which a group was moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetLiteTopic {
    /// Its name.
    pub name: Arc<str>,
    /// Committed offset before.
    pub from: QueueOffset,
    /// And from now on.
    pub to: QueueOffset,
}

/// What a reset in lite topics came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiteMoved {
    /// Where the group was moved: not where a lite topic ended meanwhile, or it stayed.
    pub topics: Vec<ResetLiteTopic>,
    /// Where to go on for the others, if there may be more.
    pub next: Option<QueueId>,
}

/// When the oldest messages of a group's lite topics were stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiteWaits {
    /// The oldest that is not settled, if there is one.
    pub oldest: Option<UnixMillis>,
    /// The oldest that was never handed out, if there is one.
    pub oldest_ready: Option<UnixMillis>,
}

impl Broker {
    /// Moves a group in lite topics of its parent, whether its consumers are connected or not; `only_back`: not where it would go
    /// forward. Each lite topic is moved at a moment of its own, some dozens in one batch. What was moved stays moved if a later one
    /// fails, and if nobody waits for the answer any more the others stay where they are.
    pub async fn reset_lite(
        &self,
        group: &str,
        topic: &str,
        which: LiteWhich<'_>,
        to: ResetTo,
        only_back: bool,
    ) -> Result<LiteMoved, Refusal> {
        let (parent, group_id) = self.lite_consumers(topic, group)?;
        let reader = &self.inner.reader;
        let gone = |name: &str| Refusal::LiteTopicNotFound { topic: topic.to_owned(), lite_topic: name.to_owned() };
        let (looks, next) = match (which, to) {
            (LiteWhich::Named(name), _) => {
                let look = martlet_shard::lite_topic(reader, parent, name).await.map_err(read_failed)?;
                (vec![look.ok_or_else(|| gone(name))?], None)
            }
            (LiteWhich::All(_), ResetTo::Offset(offset)) => {
                let rule = "is a place of one lite topic, which has to be named";
                return Err(Refusal::Setting { field: "offset", value: offset.0.to_string(), rule });
            }
            (LiteWhich::All(behind), _) => {
                let found = martlet_shard::lite_topics_of_group(reader, parent, group_id, behind, LITE_RESET_MAX);
                found.await.map_err(read_failed)?
            }
        };
        let mut topics = Vec::with_capacity(looks.len());
        for some in looks.chunks(AT_A_TIME) {
            let mut targets = Vec::with_capacity(some.len());
            for look in some {
                targets.push((look.queue, self.lite_target(look, to).await?));
            }
            let reset = LiteReset { group: group_id, parent, targets, only_back };
            let moved = match self.ask(|token| Command::ResetLite { reset, token }).await? {
                Output::LiteReset(moved) => moved,
                other => return Err(self.unexpected(other, topic, group)),
            };
            let names: BTreeMap<QueueId, &Arc<str>> = some.iter().map(|look| (look.queue, &look.name)).collect();
            topics.extend(moved.into_iter().filter_map(|(queue, from, to)| {
                Some(ResetLiteTopic { name: Arc::clone(names.get(&queue)?), from, to })
            }));
        }
        match which {
            LiteWhich::Named(name) if topics.is_empty() && !only_back => Err(gone(name)),
            _ => Ok(LiteMoved { topics, next }),
        }
    }

    /// The same in all lite topics of a parent where the group has been, page by page. Gives back the first `named` of those
    /// it was moved in.
    pub async fn reset_all_lite(
        &self,
        group: &str,
        topic: &str,
        to: ResetTo,
        only_back: bool,
        named: usize,
    ) -> Result<Vec<ResetLiteTopic>, Refusal> {
        let (mut topics, mut behind) = (Vec::new(), None);
        loop {
            let moved = self.reset_lite(group, topic, LiteWhich::All(behind), to, only_back).await?;
            topics.extend(moved.topics.into_iter().take(named.saturating_sub(topics.len())));
            behind = moved.next;
            if behind.is_none() {
                return Ok(topics);
            }
        }
    }

    async fn lite_target(&self, look: &LiteLook, to: ResetTo) -> Result<ResetTarget, Refusal> {
        Ok(match to {
            ResetTo::Earliest => ResetTarget::Earliest,
            ResetTo::Latest => ResetTarget::Latest,
            ResetTo::Time(time) => ResetTarget::Near(self.offset_at(look.queue, time).await?),
            ResetTo::Offset(offset) => ResetTarget::Offset(offset),
        })
    }

    /// The parent of lite topics and the group of this name, which consumes them.
    fn lite_consumers(&self, topic: &str, group: &str) -> Result<(TopicId, GroupId), Refusal> {
        let (parent, found) = self.lite_names(topic, Some(group))?;
        Ok((parent, found.ok_or_else(|| Refusal::NotLite { group: group.to_owned() })?))
    }

    /// When the oldest messages in all lite topics of a group were stored. As a rule a look at one or two lite topics; where it takes
    /// more than [`LOOKED_AT_MAX`], what [`martlet_shard::lite_oldest`] says of these.
    pub(crate) async fn lite_waits(&self, group: GroupId, with_ready: bool) -> Result<LiteWaits, Refusal> {
        let found = martlet_shard::lite_oldest(&self.inner.reader, group, with_ready, LOOKED_AT_MAX).await;
        let found = found.map_err(read_failed)?;
        if !found.younger.is_empty() {
            // So that the next look finds others first. If the shard has stopped, there is none.
            let _ = self.inner.shard.submit(Command::CorrectLiteAges { group, found: found.younger });
        }
        Ok(LiteWaits { oldest: found.oldest, oldest_ready: found.oldest_ready })
    }

    /// When the oldest message that a group has not settled in its lite topics was stored, if there is one.
    pub async fn oldest_of_lite(&self, group: &str) -> Result<Option<UnixMillis>, Refusal> {
        let known = self.known_group(group).ok_or_else(|| Refusal::GroupNotFound { group: group.to_owned() })?;
        Ok(self.lite_waits(known.id, false).await?.oldest)
    }
}
