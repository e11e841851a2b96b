//! What is in memory of a shard: what a piece of work touches is loaded before it is carried out, and dropped when it is
//! durable as it is and nobody needs it.

use crate::answer::*;
use crate::codec::{self, QueueImage};
use crate::command::*;
use crate::keys;
use crate::lite::lite_topic_of;
use crate::lite_registry::MemberNo;
use crate::load::{Load, LoadId, Loaded};
use crate::ordered::message_group_of;
use crate::progress::Progress;
use crate::queue::Queue;
use crate::schedule::TimersOf;
use crate::shard::{PAUSED_MILLIS, Shard, Work};
use bytes::Bytes;
use martlet_model::handle::ReceiptHandle;
use martlet_model::{GroupId, QueueId, QueueOffset, TopicId};
use martlet_store::{Op, ReadError};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Something that is loaded and dropped as a whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entity {
    Queue(QueueId),
    Progress(GroupId, QueueId),
    /// A lite topic by parent and name, or that there is none.
    Lite(TopicId, Arc<str>),
    /// The lite subscriptions of a group's clients.
    LiteGroup(GroupId),
}

/// Why something is being loaded.
pub(crate) enum Purpose<T> {
    Entity(Entity),
    DeadLetter {
        group: GroupId,
        queue: QueueId,
        offset: QueueOffset,
        reply: Option<T>,
    },
    Filter {
        group: GroupId,
        queue: QueueId,
        from: QueueOffset,
        until: QueueOffset,
    },
    /// Which filters the visible slots of a range match, that is not known any more.
    Classify {
        group: GroupId,
        queue: QueueId,
        from: QueueOffset,
        until: QueueOffset,
    },
    Sweep(Bytes),
    DescribeGroup {
        group: GroupId,
        token: T,
    },
    /// Message groups of a lent range.
    Keyed {
        group: GroupId,
        queue: QueueId,
        from: QueueOffset,
        until: QueueOffset,
    },
    /// Parked messages of a message group that is free, or of which retention took some.
    Parked {
        group: GroupId,
        queue: QueueId,
        key: u64,
        start: u64,
    },
    Timers(TimersOf),
    Due,
    Recall {
        topic: TopicId,
        at: TimerAt,
    },
    Resend {
        queue: QueueId,
        offset: QueueOffset,
        token: T,
    },
    LiteMembers(GroupId),
    LiteBacklog(GroupId),
    LiteLookup {
        member: MemberNo,
        parent: TopicId,
        names: Vec<Arc<str>>,
    },
    LiteStart {
        sync: LiteSync,
        token: T,
    },
    LiteConsumers {
        at: TimerAt,
        parent: TopicId,
    },
    Half(HalfPlace),
    HandBack(GroupId),
    SendBack {
        back: SendBackCommand,
        token: T,
    },
    StoredOffset {
        place: (GroupId, TopicId, u32),
        client: Option<Arc<str>>,
        token: T,
    },
}

impl<T> Shard<T> {
    /// The first entity a piece of work touches that is not resident. Loads of all that miss are begun at once.
    pub(crate) fn first_missing(&mut self, work: &Work<T>) -> Option<Entity> {
        let mut first = None;
        for entity in self.touched_by(work) {
            if self.is_resident(&entity) || !self.is_known(&entity) {
                continue;
            }
            self.begin_load(&entity);
            first = first.or(Some(entity));
        }
        first
    }

    /// What a piece of work needs to be resident.
    fn touched_by(&self, work: &Work<T>) -> Vec<Entity> {
        let mut touched: Vec<Entity> = Vec::new();
        let of_handle =
            |handle: &ReceiptHandle| [Entity::Queue(handle.queue), Entity::Progress(handle.group, handle.queue)];
        match work {
            Work::Command(Command::Send { topic, messages, .. }) if self.lite_parent(*topic).is_some() => {
                let names = messages.iter().filter_map(|message| message.lite_topic.clone());
                touched.extend(names.map(|name| Entity::Lite(*topic, name)));
            }
            Work::Command(Command::Send { topic, messages, .. }) => {
                if self.topics.get(topic).is_some_and(|topic| topic.facts.by_priority) {
                    touched.extend(self.queues_in_turn(*topic).iter().copied().map(Entity::Queue));
                } else if let Some(topic) = self.topics.get(topic) {
                    let own = messages.iter().filter_map(|message| {
                        topic.chosen(&message.record).or_else(|| topic.queue_for(message.message_group?))
                    });
                    touched.extend(own.map(Entity::Queue));
                    touched.extend(topic.send_queue().map(Entity::Queue));
                }
            }
            Work::Command(Command::Schedule { topic, .. }) | Work::Fire { topic, .. } => {
                touched.extend(self.queues_in_turn(*topic).iter().copied().map(Entity::Queue));
            }
            Work::Command(Command::SyncLite { sync, .. }) => touched.push(Entity::LiteGroup(sync.group)),
            Work::Command(Command::Receive { receive, .. }) if self.lite_poll(receive).is_some() => {
                touched.push(Entity::LiteGroup(receive.group));
            }
            Work::LiteWake { group, queue } => {
                touched.extend([Entity::Queue(*queue), Entity::Progress(*group, *queue)])
            }
            Work::LiteSubscribe { sync, found, .. } => touched.extend(self.touched_by_start(sync, found)),
            Work::LiteExpire { at, groups, .. } => {
                touched.push(Entity::Queue(at.queue));
                touched.extend(groups.iter().map(|&group| Entity::Progress(group, at.queue)));
            }
            Work::Half { found, .. } => touched.extend(self.queues_of_commit(found).into_iter().map(Entity::Queue)),
            Work::Command(Command::Receive { receive, .. }) => {
                touched.extend(self.touched_by_poll(receive.topic, receive.group));
            }
            Work::Command(Command::Ack { handles, .. } | Command::Undo { handles } | Command::Lost { handles }) => {
                touched.extend(handles.iter().flat_map(of_handle));
            }
            Work::Command(Command::ChangeInvisible { handle, .. } | Command::DeadLetter { handle, .. }) => {
                touched.extend(of_handle(handle));
            }
            Work::Command(Command::AckMarked { group, topic, places, .. }) => {
                let queues = places.iter().filter_map(|place| self.queue_at(*topic, place.index));
                touched.extend(queues.flat_map(|queue| [Entity::Queue(queue), Entity::Progress(*group, queue)]));
            }
            Work::Command(Command::ChangeMarked { group, topic, place, .. }) => {
                touched.extend(self.touched_by_pull(*group, *topic, place.index));
            }
            Work::Command(Command::DescribeTopic { topic, .. }) => {
                let queues = self.topics.get(topic).into_iter().flat_map(|topic| topic.queues.iter().copied());
                touched.extend(queues.map(Entity::Queue));
            }
            Work::DescribeGroup { group, queues, .. } => {
                touched
                    .extend(queues.iter().flat_map(|&queue| [Entity::Queue(queue), Entity::Progress(*group, queue)]));
                let dead_letters = self.topics.get(&TopicId::dead_letters_of(*group));
                touched.extend(dead_letters.iter().flat_map(|topic| topic.queues.iter().copied().map(Entity::Queue)));
            }
            Work::DeadLetter { group, queue, record, into, .. } => {
                touched.extend([Entity::Queue(*queue), Entity::Progress(*group, *queue)]);
                let target = self.topics.get(into).and_then(|topic| topic.queue_for_message(None, record));
                touched.extend(target.map(Entity::Queue));
            }
            Work::Command(Command::Unresolved { topic, index, .. } | Command::AwaitOffset { topic, index, .. }) => {
                touched.extend(self.queue_at(*topic, *index).map(Entity::Queue));
            }
            Work::Command(Command::Resend { place, .. }) => {
                touched.extend(self.queue_at(place.topic, place.index).map(Entity::Queue));
            }
            Work::Command(Command::SendBack { back, .. }) => {
                touched.extend([Entity::Queue(back.queue), Entity::Progress(back.group, back.queue)]);
            }
            Work::SendBack { back, retry, .. } => {
                touched.extend([Entity::Queue(back.queue), Entity::Progress(back.group, back.queue)]);
                touched.extend(retry.iter().map(|retry| Entity::Progress(back.group, retry.0)));
            }
            Work::HandBack { group } => touched.extend(self.touched_by_pull(*group, TopicId::retries_of(*group), 0)),
            Work::HandedBack { group, found } => {
                touched.extend(self.touched_by_pull(*group, TopicId::retries_of(*group), 0));
                let originals: BTreeSet<QueueId> = found.iter().filter_map(|found| Some(found.1?.queue)).collect();
                touched.extend(originals.iter().flat_map(|&id| [Entity::Queue(id), Entity::Progress(*group, id)]));
            }
            Work::Command(Command::StoredOffset { topic, index, .. }) => {
                touched.extend(self.queue_at(*topic, *index).map(Entity::Queue));
            }
            Work::Command(Command::Pull { pull, .. }) | Work::PullAgain { pull, .. } => {
                touched.extend(self.touched_by_pull(pull.group, pull.topic, pull.index));
            }
            Work::Command(Command::CommitOffset { group, topic, index, .. })
            | Work::StoredOffset { place: (group, topic, index), .. } => {
                touched.extend(self.touched_by_pull(*group, *topic, *index));
            }
            Work::Command(Command::Reset { group, topic, targets, .. }) => {
                let queues = self.reset_queues(*topic, targets);
                touched.extend(queues.iter().flat_map(|&id| [Entity::Queue(id), Entity::Progress(*group, id)]));
            }
            Work::Command(Command::CorrectLiteAges { group, found }) => {
                let queues = found.iter().map(|found| found.queue);
                touched.extend(queues.flat_map(|id| [Entity::Queue(id), Entity::Progress(*group, id)]));
            }
            Work::Command(Command::ResetLite { reset, .. }) => {
                // Who subscribes is to be told of what waits again.
                touched.push(Entity::LiteGroup(reset.group));
                let queues = reset.targets.iter().map(|target| target.0);
                touched.extend(queues.flat_map(|id| [Entity::Queue(id), Entity::Progress(reset.group, id)]));
            }
            Work::Resend { queue, record, into, .. } => {
                touched.push(Entity::Queue(*queue));
                if self.lite_parent(*into).is_some() {
                    touched.extend(lite_topic_of(record).map(|name| Entity::Lite(*into, name)));
                } else {
                    let group = message_group_of(record);
                    let target = self.topics.get(into).and_then(|topic| topic.queue_for_message(group, record));
                    touched.extend(target.map(Entity::Queue));
                }
            }
            Work::Expire(queue) => touched.push(Entity::Queue(*queue)),
            Work::Command(_) => {}
        }
        touched
    }

    pub(crate) fn queue_at(&self, topic: TopicId, index: u32) -> Option<QueueId> {
        self.topics.get(&topic)?.queues.get(index as usize).copied()
    }

    fn touched_by_pull(&self, group: GroupId, topic: TopicId, index: u32) -> Vec<Entity> {
        let queue = self.queue_at(topic, index);
        queue.map_or_else(Vec::new, |id| vec![Entity::Queue(id), Entity::Progress(group, id)])
    }

    fn touched_by_poll(&self, topic: TopicId, group: GroupId) -> impl Iterator<Item = Entity> {
        let queues = self.topics.get(&topic).map_or(&[][..], |topic| topic.read_queues());
        queues.iter().flat_map(move |&queue| [Entity::Queue(queue), Entity::Progress(group, queue)])
    }

    /// Begins loading an entity unless that is under way.
    fn begin_load(&mut self, entity: &Entity) {
        if let Entry::Vacant(awaiting) = self.awaiting.entry(entity.clone()) {
            awaiting.insert(Vec::new());
            let load = match *entity {
                Entity::Queue(queue) if self.topic_of.contains_key(&queue) => Load::Queue(queue),
                Entity::Queue(queue) => Load::LiteQueue(queue),
                Entity::Progress(group, queue) => {
                    let since = self.groups.get(&group).and_then(|group| group.since);
                    match self.is_ordered(group) {
                        true => Load::OrderedProgress(group, queue, since),
                        false => Load::Progress(group, queue, since),
                    }
                }
                Entity::Lite(parent, ref name) => Load::Lite(parent, name.clone()),
                Entity::LiteGroup(group) => {
                    self.want(Load::LiteMembers(group, None), Purpose::LiteMembers(group));
                    return;
                }
            };
            self.want(load, Purpose::Entity(entity.clone()));
        }
    }

    /// Begins loading what a poll of this group on this topic touches and is not resident: a queue added while it waited.
    pub(crate) fn load_for_poll(&mut self, topic: TopicId, group: GroupId) {
        let queues = self.topics.get(&topic).map(|topic| topic.read_queues().to_vec()).unwrap_or_default();
        for queue in queues {
            for entity in [Entity::Queue(queue), Entity::Progress(group, queue)] {
                if !self.is_resident(&entity) && self.is_known(&entity) {
                    self.begin_load(&entity);
                }
            }
        }
    }

    fn is_resident(&self, entity: &Entity) -> bool {
        match entity {
            Entity::Queue(queue) => self.queues.contains_key(queue),
            Entity::Progress(group, queue) => self.progress.contains_key(&(*group, *queue)),
            Entity::Lite(parent, name) => self.lite.topics.contains_key(&(*parent, name.clone())),
            Entity::LiteGroup(group) => self.lite.groups.contains(group),
        }
    }

    /// Whether it can exist at all: handles of deleted groups and topics name what is gone.
    fn is_known(&self, entity: &Entity) -> bool {
        match entity {
            Entity::Queue(queue) => self.topic_of.contains_key(queue) || self.may_be_lite(*queue),
            // A lite topic's is read once the lite topic is in memory.
            Entity::Progress(group, queue) => self.groups.contains_key(group) && self.topic_of.contains_key(queue),
            Entity::Lite(parent, _) => self.lite_parent(*parent).is_some(),
            Entity::LiteGroup(group) => self.lite_group(*group).is_some(),
        }
    }

    pub(crate) fn want(&mut self, load: Load, purpose: Purpose<T>) -> LoadId {
        let id = LoadId(self.next_load);
        self.next_load += 1;
        self.loads.insert(id, purpose);
        self.wanted.push((id, load));
        id
    }

    pub(crate) fn loaded(&mut self, id: LoadId, result: Result<Loaded, ReadError>) {
        let Some(purpose) = self.loads.remove(&id) else { return };
        match (purpose, result) {
            (Purpose::Entity(entity), result) => {
                let kept = result.map_err(|error| error.to_string()).and_then(|loaded| self.keep(&entity, loaded));
                if let (Ok(()), Entity::Queue(queue) | Entity::Progress(_, queue)) = (&kept, &entity)
                    && let Some(&topic) = self.topic_of.get(queue).filter(|_| !self.is_lite_queue(*queue))
                {
                    self.stir_topic(topic);
                }
                self.go_on(&entity, &kept);
            }
            (Purpose::LiteMembers(group), result) => {
                let kept = match result {
                    Ok(Loaded::LiteMembers(members, next)) => match self.lite_members_loaded(group, members) {
                        Ok(()) if next.is_some() => {
                            self.want(Load::LiteMembers(group, next), Purpose::LiteMembers(group));
                            return;
                        }
                        kept => kept,
                    },
                    Ok(_) => Err("the store answered something else than was asked".into()),
                    Err(error) => Err(error.to_string()),
                };
                if kept.is_ok() && self.lite_group(group).is_some() {
                    self.lite.groups.insert(group);
                    self.begin_backlog(group);
                }
                self.go_on(&Entity::LiteGroup(group), &kept);
            }
            (Purpose::LiteBacklog(group), Ok(Loaded::LiteBacklog(queues, next))) => {
                self.lite_backlog_loaded(group, queues, next);
            }
            (Purpose::LiteBacklog(group), _) => self.lite_backlog_unread(group),
            (Purpose::LiteLookup { member, parent, names }, result) => {
                let found = match result {
                    Ok(Loaded::LiteLookup(found)) => found,
                    _ => None,
                };
                self.lite_looked_up(member, parent, &names, found);
            }
            (Purpose::LiteStart { sync, token }, result) => {
                let found = match result {
                    Ok(Loaded::LiteLookup(found)) => found,
                    _ => None,
                };
                self.lite_start_found(sync, token, found);
            }
            (Purpose::LiteConsumers { at, parent }, result) => {
                let found = match result {
                    Ok(Loaded::Consumers(groups)) => Some(groups),
                    _ => None,
                };
                self.lite_consumers_found(at, parent, found);
            }
            (Purpose::Sweep(prefix), Ok(Loaded::LiteSwept(found))) => self.lite_swept(prefix, &found),
            (Purpose::DeadLetter { group, queue, offset, reply }, Ok(Loaded::Message(message))) => {
                self.dead_letter_loaded(group, queue, offset, message, reply);
            }
            (Purpose::DeadLetter { group, queue, offset, reply }, result) => {
                let reason = result.err().map(|error| error.to_string());
                self.dead_letter_failed(group, queue, offset, reply, reason);
            }
            (Purpose::Filter { group, queue, from, until }, result) => {
                let matches = match result {
                    Ok(Loaded::Matches(matches)) => Some(matches),
                    _ => None,
                };
                self.filtered(group, queue, id, from..until, matches);
            }
            (Purpose::Classify { group, queue, from, until }, result) => {
                let matches = match result {
                    Ok(Loaded::Matches(matches)) => Some(matches),
                    _ => None,
                };
                self.classified(group, queue, id, from..until, matches);
            }
            (Purpose::Keyed { group, queue, from, until }, result) => {
                let found = match result {
                    Ok(Loaded::Keyed(found)) => Some(found),
                    _ => None,
                };
                self.keyed(group, queue, id, from..until, found);
            }
            (Purpose::Parked { group, queue, key, start }, result) => {
                let offsets = match result {
                    Ok(Loaded::Parked(offsets)) => offsets,
                    _ => None,
                };
                self.parked_loaded(group, queue, (key, start), id, offsets.as_deref());
            }
            (Purpose::Sweep(prefix), Ok(Loaded::Keys(keys))) => self.swept(prefix, &keys),
            // What is swept is garbage: it can wait for the next batch.
            (Purpose::Sweep(prefix), _) => self.next_sweeps.push(prefix),
            (Purpose::DescribeGroup { group, token }, Ok(Loaded::Queues(mut queues))) => {
                queues.extend(
                    self.progress.range((group, QueueId(0))..=(group, QueueId(u64::MAX))).map(|(key, _)| key.1),
                );
                queues.sort_unstable();
                queues.dedup();
                self.handle(Work::DescribeGroup { group, queues, token });
            }
            (Purpose::Resend { queue, offset, token }, Ok(Loaded::Message(message))) => {
                self.resend_loaded(queue, offset, token, Ok(message));
            }
            (Purpose::Resend { queue, offset, token }, result) => {
                let error = result.err().unwrap_or(ReadError::Closed);
                self.resend_loaded(queue, offset, token, Err(error));
            }
            (Purpose::DescribeGroup { token, .. }, result) => {
                let reason = result.err().map_or_else(String::new, |error| error.to_string());
                self.reply(token, Output::Refused(Refused::ReadFailed(reason)));
            }
            (Purpose::Timers(of), Ok(Loaded::Timers(found, more))) => self.timers_scanned(of, Some((found, more))),
            (Purpose::Timers(of), _) => self.timers_scanned(of, None),
            (Purpose::Due, Ok(Loaded::Due(found))) => self.due_loaded(Some(found)),
            (Purpose::Due, _) => self.due_loaded(None),
            (Purpose::Half(place), Ok(Loaded::Half(found))) => self.half_loaded(place, found),
            (Purpose::Half(place), result) => {
                let reason = result.err().map_or_else(String::new, |error| error.to_string());
                self.half_unknown(place, &reason);
            }
            (Purpose::HandBack(group), result) => {
                let found = match result {
                    Ok(Loaded::References(found)) => Some(found),
                    _ => None,
                };
                self.hand_back_loaded(group, found);
            }
            (Purpose::SendBack { back, token }, Ok(Loaded::References(found))) => {
                self.send_back_loaded(back, &found, token);
            }
            (Purpose::SendBack { token, .. }, result) => {
                let reason = result.err().map_or_else(String::new, |error| error.to_string());
                self.reply(token, Output::Refused(Refused::ReadFailed(reason)));
            }
            (Purpose::StoredOffset { place, client, token }, Ok(Loaded::HasProgress(found))) => match found {
                true => self.handle(Work::StoredOffset { place, client, token }),
                false => self.stored_offset_found(place, client, false, token),
            },
            (Purpose::StoredOffset { token, .. }, result) => {
                let reason = result.err().map_or_else(String::new, |error| error.to_string());
                self.reply(token, Output::Refused(Refused::ReadFailed(reason)));
            }
            (Purpose::Recall { topic, at }, Ok(Loaded::Timer { there, message })) => {
                self.recall_loaded(topic, at, Ok((there, message)));
            }
            (Purpose::Recall { topic, at }, result) => {
                let reason = result.err().map_or_else(String::new, |error| error.to_string());
                self.recall_loaded(topic, at, Err(reason));
            }
        }
    }

    /// An entity is resident, or cannot be read: what waited for it goes on.
    fn go_on(&mut self, entity: &Entity, kept: &Result<(), String>) {
        for work in self.awaiting.remove(entity).unwrap_or_default() {
            match kept {
                Ok(()) => self.handle(work),
                Err(reason) => self.refuse_work(work, reason),
            }
        }
    }

    fn keep(&mut self, entity: &Entity, loaded: Loaded) -> Result<(), String> {
        if !self.is_known(entity) || self.is_resident(entity) {
            return Ok(());
        }
        match (entity, loaded) {
            (Entity::Lite(_, _), Loaded::Lite(Some(stored))) | (Entity::Queue(_), Loaded::LiteQueue(Some(stored))) => {
                self.lite_loaded(stored)?;
            }
            (Entity::Lite(parent, name), Loaded::Lite(None)) => self.lite_absent(*parent, name.clone()),
            (&Entity::Queue(id), Loaded::LiteQueue(None)) => self.lite_gone(id),
            // Its topic was deleted meanwhile: of what has left it is only known that it may be a lite topic's.
            (Entity::Queue(id), Loaded::Queue { .. }) if !self.topic_of.contains_key(id) => {}
            (&Entity::Queue(id), Loaded::Queue { image, bounds }) => {
                let bytes = image.and_then(|state| state.image).ok_or("the queue has no entry in the store")?;
                let image = QueueImage::decode(&bytes).map_err(|error| error.to_string())?;
                let bounds = bounds.unwrap_or_default();
                self.queues.insert(id, Queue::load(id, image, bounds.start, bounds.end));
                self.reindex_expiry(id);
                self.groups_in(id).into_iter().for_each(|group| self.clamp(group, id));
            }
            (&Entity::Progress(group, queue), Loaded::OrderedProgress { frontier, pages, start, parked }) => {
                self.keep(entity, Loaded::Progress { frontier, pages, start })?;
                let chunks = parked.ok_or("parked messages cannot be read")?;
                if let Some(progress) = self.progress.get_mut(&(group, queue)) {
                    progress.restore_parked(&chunks);
                }
                self.clamp(group, queue);
            }
            (&Entity::Progress(group, queue), Loaded::Progress { frontier, pages, start }) => {
                let is_new = frontier.as_ref().is_none_or(|state| state.image.is_none());
                let progress = match frontier.and_then(|state| state.image) {
                    Some(bytes) => {
                        let next = codec::decode_frontier(&bytes).map_err(|error| error.to_string())?;
                        Progress::load(group, queue, next, &pages).map_err(|error| error.to_string())?
                    }
                    // A new group starts at the first message that is there, unless it says otherwise.
                    None => {
                        let mut progress = Progress::new(group, queue, start);
                        progress.mark_created();
                        self.touched.insert((group, queue));
                        self.ops.push(Op::Put {
                            key: keys::consumer(queue, group),
                            image: Bytes::new(),
                            keep_until: None,
                        });
                        progress
                    }
                };
                self.progress.insert((group, queue), progress);
                if self.is_lite_queue(queue) {
                    self.note_lite_progress(group, queue);
                    match is_new {
                        true => self.note_lite_consumer(group, queue),
                        // What an older broker kept says nothing of times.
                        false => self.backlog_loaded(group, queue),
                    }
                }
                self.reindex.insert((group, queue));
                self.clamp(group, queue);
                // What lapsed while it was not in memory is visible before anybody is served.
                self.lapse(group, queue);
            }
            _ => return Err("the store answered something else than was asked".into()),
        }
        Ok(())
    }

    /// A poll that waits for something to be loaded and that nobody waits for any more.
    pub(crate) fn drop_awaiting_poll(&mut self, poll: PollId) {
        let is_it = |work: &mut Work<T>| match work {
            Work::Command(Command::Receive { receive, .. }) => receive.poll == poll,
            Work::Command(Command::AwaitOffset { poll: waiting, .. }) => *waiting == poll,
            Work::Command(Command::Pull { pull, .. }) | Work::PullAgain { pull, .. } => pull.poll == poll,
            _ => false,
        };
        for works in self.awaiting.values_mut() {
            if works.extract_if(.., is_it).next().is_some() {
                return;
            }
        }
    }

    pub(crate) fn refuse_work(&mut self, work: Work<T>, reason: &str) {
        let token = match work {
            Work::DeadLetter { group, queue, offset, reply, .. } => {
                return self.dead_letter_failed(group, queue, offset, reply, Some(reason.to_owned()));
            }
            Work::Resend { queue, offset, token, .. } => {
                let refused = Output::Refused(Refused::ReadFailed(reason.to_owned()));
                return self.resend_failed(queue, offset, token, refused);
            }
            Work::Expire(queue) => return self.set_expiry(queue, Some(self.now.plus(PAUSED_MILLIS))),
            Work::Fire { messages, .. } => return self.timers_again(messages.into_iter().map(|(at, _)| at)),
            Work::LiteWake { group, queue } => {
                self.lite.waking.remove(&(group, queue));
                return self.wake_later(group, queue);
            }
            Work::LiteExpire { at, parent, .. } => return self.expire_lite_again(at, parent),
            Work::HandBack { group } | Work::HandedBack { group, .. } => return self.hand_back_loaded(group, None),
            Work::LiteSubscribe { token, .. } => Some(token),
            Work::Half { place, .. } => return self.half_unknown(place, reason),
            Work::Command(
                Command::SyncLite { token, .. }
                | Command::Send { token, .. }
                | Command::Schedule { token, .. }
                | Command::Receive { token, .. }
                | Command::Ack { token, .. }
                | Command::AckMarked { token, .. }
                | Command::ChangeInvisible { token, .. }
                | Command::ChangeMarked { token, .. }
                | Command::DeadLetter { token, .. }
                | Command::DescribeTopic { token, .. }
                | Command::DescribeSubscriptions { token, .. }
                | Command::Unresolved { token, .. }
                | Command::Resend { token, .. }
                | Command::AwaitOffset { token, .. }
                | Command::Pull { token, .. }
                | Command::SendBack { token, .. }
                | Command::CommitOffset { token, .. }
                | Command::StoredOffset { token, .. }
                | Command::Reset { token, .. }
                | Command::ResetLite { token, .. },
            )
            | Work::PullAgain { token, .. }
            | Work::SendBack { token, .. }
            | Work::StoredOffset { token, .. }
            | Work::DescribeGroup { token, .. } => Some(token),
            Work::Command(_) => None,
        };
        if let Some(token) = token {
            self.reply(token, Output::Refused(Refused::ReadFailed(reason.to_owned())));
        }
    }

    /// Drops every resident entity that is durable as it is and that no poll waits on.
    pub fn evict_clean(&mut self) {
        let durable = self.durable_batch;
        let is_durable =
            |changed_in: &BTreeMap<Entity, u64>, entity| changed_in.get(&entity).is_none_or(|&batch| batch <= durable);
        // What waits for something else to be loaded must not lose meanwhile what it has, or it would never be whole.
        let mut needed: BTreeSet<Entity> =
            self.polls.keys().flat_map(|&(topic, group)| self.touched_by_poll(topic, group)).collect();
        // Retries of what members have come due by themselves.
        needed.extend(
            self.owners.live(self.now).flat_map(|(group, id)| [Entity::Queue(id), Entity::Progress(group, id)]),
        );
        needed.extend(self.awaiting.values().flatten().flat_map(|work| self.touched_by(work)));
        let (touched, changed_in, reindex) = (&self.touched, &self.changed_in, &self.reindex);
        let evicted: Vec<_> = self
            .progress
            .iter()
            .filter(|(key, progress)| {
                !self.is_lite_queue(key.1)
                    && progress.is_clean()
                    && progress.renewals.is_empty()
                    && !touched.contains(key)
                    && !reindex.contains(key)
                    && !needed.contains(&Entity::Progress(key.0, key.1))
                    && is_durable(changed_in, Entity::Progress(key.0, key.1))
            })
            .map(|(key, _)| *key)
            .collect();
        for key in evicted {
            self.progress.remove(&key);
            self.changed_in.remove(&Entity::Progress(key.0, key.1));
            if let Some(due) = self.due_of.remove(&key) {
                self.due.remove(&(due, key.0, key.1));
            }
        }
        let in_use: BTreeSet<QueueId> =
            self.progress.keys().map(|key| key.1).chain(self.appended.iter().copied()).collect();
        let changed_in = &self.changed_in;
        self.queues.retain(|&id, queue| {
            queue.lite.is_some()
                || in_use.contains(&id)
                || needed.contains(&Entity::Queue(id))
                || queue.durable < queue.next
                || !is_durable(changed_in, Entity::Queue(id))
        });
        self.changed_in.retain(|_, batch| *batch > durable);
        // Lite topics are in use while progress in them is: that goes first.
        (0..2).for_each(|_| self.evict_lite(0, usize::MAX));
    }

    pub(crate) fn note_changed_in(&mut self, entity: Entity) {
        self.changed_in.insert(entity, self.batch);
    }

    pub(crate) fn forget_changed_in(&mut self, entity: &Entity) {
        self.changed_in.remove(entity);
    }

    /// Whether an entity is being read: what comes may be older than what is in memory, and must find that there.
    pub(crate) fn is_loading(&self, entity: &Entity) -> bool {
        self.awaiting.contains_key(entity)
    }

    /// Whether the store has what was changed of an entity, for good.
    pub(crate) fn is_durable(&self, entity: &Entity) -> bool {
        self.changed_in.get(entity).is_none_or(|&batch| batch <= self.durable_batch)
    }

    pub(crate) fn is_appended(&self, queue: QueueId) -> bool {
        self.appended.contains(&queue)
    }

    pub(crate) fn forget_append(&mut self, queue: QueueId) {
        self.appended.remove(&queue);
    }

    /// Whether progress can be dropped as far as the open batch goes.
    pub(crate) fn is_untouched_since_batch(&self, key: (GroupId, QueueId)) -> bool {
        let clean = |progress: &Progress| progress.is_clean() && progress.renewals.is_empty();
        self.progress.get(&key).is_none_or(clean) && !self.touched.contains(&key) && !self.reindex.contains(&key)
    }

    /// What waits for something else to be loaded must not lose meanwhile what it has, or it would never be whole.
    pub(crate) fn needed_by_waiting_work(&self) -> BTreeSet<Entity> {
        self.awaiting.values().flatten().flat_map(|work| self.touched_by(work)).collect()
    }

    pub(crate) fn forget_progress(&mut self, group: GroupId, queue: QueueId) {
        self.progress.remove(&(group, queue));
        self.touched.remove(&(group, queue));
        self.changed_in.remove(&Entity::Progress(group, queue));
        if let Some(due) = self.due_of.remove(&(group, queue)) {
            self.due.remove(&(due, group, queue));
        }
    }
}
