//! The broker: opening and closing, topics and groups, figures.

use crate::agreement::Told;
use crate::clients::Clients;
use crate::mailbox::while_blocked;
use crate::members::Members;
use crate::messages::{HOUSEKEEPING_EVERY, budget_used, reply_budget};
use crate::options::{BrokerOptions, OpenError, OpenReport};
use crate::places;
use crate::queue_offsets::QueueIds;
use crate::runtime::Token;
use crate::runtime::{Bell, ShardHandle, block_on};
use crate::stats::{Figures, Stats};
use crate::{
    ClientInfo, GroupSettings, GroupStatus, ProgressStatus, QueueStatus, Refusal, SubscriptionStatus, TopicSettings,
    TopicStatus,
};
use martlet_bucket::Class;
use martlet_cluster::{AnyCatalogStore, Catalog, CatalogError, CatalogService, ChangeError};
use martlet_model::group::{DeliveryOrder, StartFrom};
use martlet_model::names::{self, DEAD_LETTER_PREFIX, RETRY_PREFIX};
use martlet_model::{
    DeadLetterPolicy, GroupConfig, GroupId, LiteTopics, Permission, TopicConfig, TopicId, TopicType, limits,
};
use martlet_shard::{
    ClientNumber, Command, Counters, DeadLetters, GroupFacts, LiteGroup, LiteParent, Output, ShardOptions, TopicFacts,
    TransactionCheck,
};
use martlet_store::Store as _;
use martlet_store::any::{AnyReader, AnyStore};
use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{Semaphore, mpsc};

/// The node's front office. Cheap to clone; all clones are one broker.
#[derive(Clone)]
pub struct Broker {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub options: BrokerOptions,
    pub catalog: CatalogService<AnyCatalogStore>,
    pub shard: ShardHandle,
    pub reader: AnyReader,
    pub clients: Clients,
    pub members: Members,
    pub queue_ids: QueueIds,
    pub stats: Stats,
    pub next_poll: AtomicU64,
    pub reply_budget: Arc<Semaphore>,
    pub reply_bytes: usize,
    pub closing: AtomicBool,
    /// Whether the log's last word about the bucket is that it gives trouble.
    pub bucket_trouble_told: AtomicBool,
    /// Checks of transactions, until a protocol takes them.
    pub checks: Mutex<Option<mpsc::Receiver<TransactionCheck>>>,
    /// Who sends checks to producers by their group.
    pub group_checks: Mutex<Option<crate::transactions::CheckListener>>,
    /// Who puts questions to clients.
    pub inquiries: Mutex<Option<crate::inquiry::InquiryListener>>,
    threads: Mutex<Option<Threads>>,
    rest: Arc<Rest>,
}

struct Threads {
    shard: JoinHandle<AnyStore>,
    housekeeping: JoinHandle<()>,
}

/// What the housekeeping thread sleeps on.
#[derive(Default)]
struct Rest {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Broker {
    /// Opens the folder, recovers what is in it, and starts the shard. Blocks; not to be called from an asynchronous task.
    pub fn open(options: BrokerOptions) -> Result<(Self, OpenReport), OpenError> {
        let bell = Bell::new();
        let waker = {
            let bell = bell.clone();
            Arc::new(move || bell.ring())
        };
        let (store, recovery, catalog) = places::open(&options, waker)?;
        let catalog = block_on(CatalogService::open(catalog))?;
        let reader = store.reader();
        let shard_options = ShardOptions {
            shard: shard_number(&options.broker_name),
            new_handle_key: places::random()?,
            retention_millis: options.retention_millis,
            open_slots_max: options.open_slots_max,
            polls_max: options.polls_max,
            transaction_immunity_millis: options.transaction_immunity_millis,
            transaction_check_interval_millis: options.transaction_check_interval_millis,
            transaction_checks_max: options.transaction_checks_max,
            // Who was overtaken must not hand out what the new owner hands out, too.
            hand_outs_wait: options.bucket.is_some(),
            ..ShardOptions::default()
        };
        let (checks, waiting_checks) = mpsc::channel(crate::transactions::CHECKS_WAITING_MAX);
        let (shard, epoch, shard_thread) = ShardHandle::start(store, shard_options, bell, recovery.last_time, checks)?;
        let snapshot = catalog.snapshot();
        let report = OpenReport { recovery, epoch, topics: snapshot.topics().len(), groups: snapshot.groups().len() };
        let (reply_budget, reply_bytes) = reply_budget(options.reply_bytes);
        let rest = Arc::<Rest>::default();
        let broker = Self {
            inner: Arc::new(Inner {
                clients: Clients::new(options.clients_max),
                members: Members::new(options.clients_max),
                queue_ids: QueueIds::default(),
                stats: Stats::default(),
                next_poll: AtomicU64::new(1),
                options,
                catalog,
                shard,
                reader,
                reply_budget,
                reply_bytes,
                closing: AtomicBool::new(false),
                bucket_trouble_told: AtomicBool::new(false),
                checks: Mutex::new(Some(waiting_checks)),
                group_checks: Mutex::default(),
                inquiries: Mutex::default(),
                threads: Mutex::new(None),
                rest: rest.clone(),
            }),
        };
        while_blocked(|| block_on(broker.bring_shard_up_to_date(&snapshot)))
            .map_err(|refusal| OpenError::Stopped { reason: refusal.to_string() })?;
        let weak = Arc::downgrade(&broker.inner);
        let housekeeping = std::thread::Builder::new()
            .name("martlet-housekeeping".into())
            .spawn(move || {
                let mut told = Told::default();
                while !rest.sleep() {
                    let Some(inner) = weak.upgrade() else { return };
                    let broker = Broker { inner };
                    broker.housekeeping();
                    broker.log_disagreements(&mut told);
                }
            })
            .map_err(|error| OpenError::System { what: "starting the housekeeping thread", error })?;
        let threads = Threads { shard: shard_thread, housekeeping };
        *broker.inner.threads.lock().unwrap_or_else(PoisonError::into_inner) = Some(threads);
        Ok((broker, report))
    }

    /// Refuses new requests, finishes what has arrived, and frees the folder. Polls that wait are ended. Blocks for the
    /// last sync.
    pub fn close(&self) {
        self.inner.closing.store(true, Relaxed);
        self.inner.shard.close();
        self.inner.rest.end();
        let threads = self.inner.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(threads) = threads {
            // A panic of a thread has been printed; there is nothing left to wait for.
            if let Ok(store) = threads.shard.join() {
                store.close();
            }
            let _ = threads.housekeeping.join();
        }
    }

    /// A crash between a change of the catalog and the shard's note of it leaves the shard behind: everything is applied
    /// again at opening, which changes nothing where nothing is missing.
    async fn bring_shard_up_to_date(&self, catalog: &Catalog) -> Result<(), Refusal> {
        for topic in catalog.topics() {
            self.apply_topic(topic).await?;
        }
        for group in catalog.groups() {
            self.apply_group(group, catalog).await?;
        }
        let topics = catalog.topics().map(|topic| topic.id).collect();
        let groups = catalog.groups().map(|group| group.id).collect();
        self.ask(|token| Command::KeepOnly { topics, groups, token }).await.map(drop)
    }

    async fn apply_topic(&self, topic: &TopicConfig) -> Result<(), Refusal> {
        let facts = TopicFacts {
            id: topic.id,
            name: topic.name.as_str().into(),
            read_queues: topic.read_queues,
            write_queues: topic.write_queues,
            retention_millis: topic.retention_millis,
            lite: (topic.kind == TopicType::Lite).then(|| LiteParent {
                expire_millis: topic.lite.expire_minutes.map(|minutes| i64::from(minutes) * 60_000),
                expire_unconsumed: topic.lite.expire_unconsumed,
                topics_max: topic.lite.max.unwrap_or(limits::LITE_TOPICS_DEFAULT),
            }),
            by_priority: topic.kind == TopicType::Priority,
            deduplicate_millis: topic.deduplicate_millis,
        };
        self.ask(|token| Command::ApplyTopic { topic: facts, token }).await.map(drop)
    }

    async fn apply_group(&self, group: &GroupConfig, catalog: &Catalog) -> Result<(), Refusal> {
        let own = DeadLetters::Topic(TopicId::dead_letters_of(group.id));
        let dead_letters = match &group.dead_letters {
            DeadLetterPolicy::Discard => DeadLetters::Discard,
            DeadLetterPolicy::GroupTopic => own,
            DeadLetterPolicy::Topic(name) => catalog.topic(name).map_or(own, |topic| DeadLetters::Topic(topic.id)),
        };
        let facts = GroupFacts {
            id: group.id,
            name: group.name.as_str().into(),
            max_attempts: group.retry.max_attempts,
            backoff: group.retry.backoff.clone(),
            dead_letters,
            // Lite topics are in order as they are; for their clients the order means one message of each at a time.
            ordered: group.order == DeliveryOrder::Fifo && group.lite.is_none(),
            lite: group.lite.as_ref().map(|lite| LiteGroup {
                // While the parent does not exist, an id that no topic has.
                parent: catalog.topic(&lite.parent).map_or(TopicId(u32::MAX >> 1), |topic| topic.id),
                exclusive: lite.exclusive,
                wildcard: lite.wildcard,
                subscriptions_max: lite.quota(),
                resets: lite.resets,
            }),
            since: group.start.since().map(martlet_model::UnixMillis),
        };
        self.ask(|token| Command::ApplyGroup { group: facts, token }).await.map(drop)
    }

    /// How this broker was set up.
    pub fn options(&self) -> &BrokerOptions {
        &self.inner.options
    }

    /// What clients know the shard by.
    pub fn broker_name(&self) -> &str {
        &self.inner.options.broker_name
    }

    /// What scripts know the cluster by.
    pub fn cluster_name(&self) -> &str {
        &self.inner.options.cluster_name
    }

    /// A topic by name; made if it is missing and topics are made automatically. `%RETRY%group` is not one of those that
    /// messages are received from or that clients make.
    pub async fn topic(&self, name: &str) -> Result<Arc<TopicConfig>, Refusal> {
        self.topic_or(name, &TopicSettings::default()).await
    }

    /// A topic by name; made for all types of messages if it is missing and topics are made automatically. For protocols whose clients
    /// know no types of topics.
    pub async fn untyped_topic(&self, name: &str) -> Result<Arc<TopicConfig>, Refusal> {
        let settings = TopicSettings { kind: Some(TopicType::Mixed), ..TopicSettings::default() };
        self.topic_or(name, &settings).await
    }

    /// A topic by name; made with these settings if it is missing and topics are made automatically. That of traces is made in any case,
    /// of type normal.
    pub async fn topic_or(&self, name: &str, settings: &TopicSettings) -> Result<Arc<TopicConfig>, Refusal> {
        if name.starts_with(RETRY_PREFIX) {
            return Err(Refusal::TopicNotFound { topic: name.to_owned() });
        }
        if let Some(topic) = self.known_topic(name) {
            return Ok(topic);
        }
        if name == names::TRACE_TOPIC {
            let settings = TopicSettings { kind: Some(TopicType::Normal), ..TopicSettings::default() };
            return self.change_topic(|catalog| catalog.create_topic(name, &settings, crate::wall_clock(), true)).await;
        }
        names::check_topic(name)?;
        if !self.inner.options.auto_create_topics || name.starts_with('%') {
            return Err(Refusal::TopicNotFound { topic: name.to_owned() });
        }
        self.change_topic(|catalog| catalog.create_topic(name, settings, crate::wall_clock(), true)).await
    }

    /// A topic that exists. `%DLQ%group` and `%RETRY%group` exist with their group.
    pub fn known_topic(&self, name: &str) -> Option<Arc<TopicConfig>> {
        let catalog = self.inner.catalog.snapshot();
        if let Some(group) = name.strip_prefix(DEAD_LETTER_PREFIX) {
            let id = |group: &GroupConfig| TopicId::dead_letters_of(group.id);
            return catalog.group(group).map(|group| Arc::new(topic_of_group(id(group), name, group)));
        }
        if let Some(group) = name.strip_prefix(RETRY_PREFIX) {
            let id = |group: &GroupConfig| TopicId::retries_of(group.id);
            let group = catalog.group(group).filter(|group| group.lite.is_none());
            return group.map(|group| Arc::new(topic_of_group(id(group), name, group)));
        }
        catalog.topic(name).cloned()
    }

    /// All topics, by name.
    pub fn topics(&self) -> Vec<Arc<TopicConfig>> {
        self.inner.catalog.snapshot().topics().cloned().collect()
    }

    /// Creates a topic; one that exists and agrees is returned as it is.
    pub async fn create_topic(&self, name: &str, settings: TopicSettings) -> Result<Arc<TopicConfig>, Refusal> {
        self.check_kind(&settings)?;
        self.change_topic(|catalog| catalog.create_topic(name, &settings, crate::wall_clock(), false)).await
    }

    /// Creates a topic for clients that know no types: it takes normal, ordered, delayed and transactional messages. One that
    /// exists and agrees is returned as it is.
    pub async fn create_untyped_topic(&self, name: &str, settings: TopicSettings) -> Result<Arc<TopicConfig>, Refusal> {
        let settings = TopicSettings { kind: Some(TopicType::Mixed), ..settings };
        self.change_topic(|catalog| catalog.create_topic(name, &settings, crate::wall_clock(), false)).await
    }

    /// Changes what the settings say and keeps the rest.
    pub async fn update_topic(&self, name: &str, settings: TopicSettings) -> Result<Arc<TopicConfig>, Refusal> {
        self.change_topic(|catalog| catalog.update_topic(name, &settings)).await
    }

    fn check_kind(&self, settings: &TopicSettings) -> Result<(), Refusal> {
        match settings.kind {
            Some(TopicType::Mixed) if !self.inner.options.mixed_topics => Err(Refusal::Setting {
                field: "topic type",
                value: "MIXED".into(),
                rule: "is only taken with the setting mixed_topics",
            }),
            _ => Ok(()),
        }
    }

    async fn change_topic(
        &self,
        change: impl FnMut(&mut Catalog) -> Result<Arc<TopicConfig>, ChangeError>,
    ) -> Result<Arc<TopicConfig>, Refusal> {
        let (topic, catalog) = self.inner.catalog.change(change).await.map_err(catalog_refusal)?;
        self.apply_topic(&topic).await?;
        // Groups may have named it for their dead letters, or as the parent of their lite topics, before it was there.
        let names_it = |group: &&Arc<GroupConfig>| {
            group.dead_letters == DeadLetterPolicy::Topic(topic.name.clone())
                || group.lite.as_ref().is_some_and(|lite| lite.parent == topic.name)
        };
        for group in catalog.groups().filter(names_it) {
            self.apply_group(group, &catalog).await?;
        }
        Ok(topic)
    }

    /// Deletes a topic with all its messages.
    pub async fn delete_topic(&self, name: &str) -> Result<(), Refusal> {
        let (topic, _) =
            self.inner.catalog.change(|catalog| catalog.delete_topic(name)).await.map_err(catalog_refusal)?;
        self.inner.stats.forget_topic(name);
        self.inner.queue_ids.lock().unwrap_or_else(PoisonError::into_inner).remove(&topic.id);
        self.inner.members.forget_topic(topic.id);
        self.ask(|token| Command::DropTopic { topic: topic.id, token }).await.map(drop)
    }

    /// A topic and its queues' bounds.
    pub async fn topic_status(&self, name: &str) -> Result<TopicStatus, Refusal> {
        let config = self.known_topic(name).ok_or_else(|| Refusal::TopicNotFound { topic: name.to_owned() })?;
        match self.ask(|token| Command::DescribeTopic { topic: config.id, token }).await? {
            Output::Queues(figures) => {
                let queues = figures
                    .iter()
                    .map(|figures| QueueStatus {
                        queue: figures.index,
                        min_offset: figures.min,
                        max_offset: figures.max,
                        last_store_time: figures.last_store_time,
                    })
                    .collect();
                let waiting = self.inner.shard.figures().waiting.iter().find(|(id, _)| *id == config.id).copied();
                let waiting = waiting.map(|(_, waiting)| waiting).unwrap_or_default();
                let lite_topics = self.lite_count(config.id);
                Ok(TopicStatus { config: (*config).clone(), queues, waiting, lite_topics })
            }
            other => Err(self.unexpected(other, name, "")),
        }
    }

    /// A group by name; made if it is missing and groups are made automatically.
    pub async fn group(&self, name: &str) -> Result<Arc<GroupConfig>, Refusal> {
        self.group_or(name, &GroupSettings::default()).await
    }

    /// A group by name; made with these settings if it is missing and groups are made automatically.
    pub async fn group_or(&self, name: &str, settings: &GroupSettings) -> Result<Arc<GroupConfig>, Refusal> {
        if let Some(group) = self.known_group(name) {
            return Ok(group);
        }
        names::check_group(name)?;
        if !self.inner.options.auto_create_groups {
            return Err(Refusal::GroupNotFound { group: name.to_owned() });
        }
        match self.change_group(|catalog| catalog.create_group(name, settings, crate::wall_clock(), true)).await {
            // Somebody else was faster.
            Err(Refusal::Exists { what, name }) => self.known_group(&name).ok_or(Refusal::Exists { what, name }),
            other => other,
        }
    }

    /// A group that exists.
    pub fn known_group(&self, name: &str) -> Option<Arc<GroupConfig>> {
        self.inner.catalog.snapshot().group(name).cloned()
    }

    /// All groups, by name.
    pub fn groups(&self) -> Vec<Arc<GroupConfig>> {
        self.inner.catalog.snapshot().groups().cloned().collect()
    }

    /// Creates a group; one that exists and agrees is returned as it is.
    pub async fn create_group(&self, name: &str, settings: GroupSettings) -> Result<Arc<GroupConfig>, Refusal> {
        let settings = self.with_start(settings);
        self.change_group(|catalog| catalog.create_group(name, &settings, crate::wall_clock(), false)).await
    }

    /// Changes what the settings say and keeps the rest.
    pub async fn update_group(&self, name: &str, settings: GroupSettings) -> Result<Arc<GroupConfig>, Refusal> {
        let settings = self.with_start(settings);
        self.change_group(|catalog| catalog.update_group(name, &settings)).await
    }

    /// The latest message is the latest now, by the clock that messages are stored by.
    fn with_start(&self, settings: GroupSettings) -> GroupSettings {
        let start = settings.start.map(|start| match start {
            StartFrom::Latest(_) => StartFrom::Latest(self.inner.shard.now().0),
            other => other,
        });
        GroupSettings { start, ..settings }
    }

    async fn change_group(
        &self,
        change: impl FnMut(&mut Catalog) -> Result<Arc<GroupConfig>, ChangeError>,
    ) -> Result<Arc<GroupConfig>, Refusal> {
        let (group, catalog) = self.inner.catalog.change(change).await.map_err(catalog_refusal)?;
        self.apply_group(&group, &catalog).await?;
        Ok(group)
    }

    /// Deletes a group, its progress and its dead letters.
    pub async fn delete_group(&self, name: &str) -> Result<(), Refusal> {
        let (group, _) =
            self.inner.catalog.change(|catalog| catalog.delete_group(name)).await.map_err(catalog_refusal)?;
        self.inner.stats.forget_group(name);
        self.ask(|token| Command::DropGroup { group: group.id, token }).await.map(drop)
    }

    /// Name of a topic that exists.
    pub(crate) fn name_of(&self, topic: TopicId) -> Option<String> {
        let catalog = self.inner.catalog.snapshot();
        if let Some(group) = topic.dead_letter_group() {
            let name = &catalog.groups().find(|known| known.id == group)?.name;
            return Some(format!("{DEAD_LETTER_PREFIX}{name}"));
        }
        if let Some(group) = topic.retry_group() {
            let name = &catalog.groups().find(|known| known.id == group)?.name;
            return Some(format!("{RETRY_PREFIX}{name}"));
        }
        catalog.topics().find(|known| known.id == topic).map(|known| known.name.clone())
    }

    /// A group, its progress and its consumers.
    pub async fn group_status(&self, name: &str) -> Result<GroupStatus, Refusal> {
        let config = self.known_group(name).ok_or_else(|| Refusal::GroupNotFound { group: name.to_owned() })?;
        let mut names: BTreeMap<TopicId, String> =
            self.inner.catalog.snapshot().topics().map(|topic| (topic.id, topic.name.clone())).collect();
        names.insert(TopicId::retries_of(config.id), format!("{RETRY_PREFIX}{name}"));
        match self.ask(|token| Command::DescribeGroup { group: config.id, token }).await? {
            Output::Progress(figures, dead_letters) => {
                let mut progress = Vec::with_capacity(figures.len());
                for figures in &figures {
                    let Some(topic) = names.get(&figures.topic) else { continue };
                    let (lag_millis, queueing_millis) = self.ages(config.id, figures).await?;
                    progress.push(ProgressStatus {
                        topic: topic.clone(),
                        queue: figures.index,
                        committed: figures.committed,
                        max_offset: figures.max,
                        in_flight: figures.in_flight,
                        waiting_retry: figures.waiting_retry,
                        ready: figures.ready,
                        lag_millis,
                        queueing_millis,
                    });
                }
                let members = self.members(name);
                let subscriptions = self.subscriptions(config.id, &names).await?;
                let disagreement = self.disagreement(name);
                let config = (*config).clone();
                Ok(GroupStatus { config, progress, dead_letters, members, subscriptions, disagreement })
            }
            other => Err(self.unexpected(other, "", name)),
        }
    }

    async fn subscriptions(
        &self,
        group: GroupId,
        names: &std::collections::BTreeMap<TopicId, String>,
    ) -> Result<Vec<SubscriptionStatus>, Refusal> {
        match self.ask(|token| Command::DescribeSubscriptions { group, token }).await? {
            Output::Subscriptions(found) => Ok(found
                .into_iter()
                .filter_map(|found| {
                    let topic = names.get(&found.topic)?.clone();
                    Some(SubscriptionStatus { topic, filter: found.filter, seen: found.seen })
                })
                .collect()),
            other => Err(self.unexpected(other, "", "")),
        }
    }

    /// A client says who it is.
    pub fn client_seen(&self, info: ClientInfo) -> Result<(), Refusal> {
        let (role, client_id) = (info.role.clone(), info.client_id.clone());
        for group in self.inner.clients.seen(info)? {
            match self.inner.clients.joined(&client_id, &group) {
                Some(_) => self.inner.members.changed(&group),
                None => self.consumer_left(&group, &client_id),
            }
        }
        self.tell_subscriptions(&role);
        Ok(())
    }

    /// Whether the client is known; it lives on.
    pub fn heartbeat(&self, client_id: &str) -> bool {
        let known = self.inner.clients.heartbeat(client_id);
        if let Some(role) = self.inner.clients.to_tell(client_id) {
            self.tell_subscriptions(&role);
        }
        known
    }

    /// A client is gone: what it held under renewal becomes visible.
    pub fn client_gone(&self, client_id: &str) {
        self.forget_client(client_id, |client| Command::ClientGone { client });
    }

    /// A client is about to end, and may still settle what it has: that is not renewed any more.
    pub fn client_leaves(&self, client_id: &str) {
        self.forget_client(client_id, |client| Command::ClientLeaves { client });
    }

    fn forget_client(&self, client_id: &str, command: impl FnOnce(ClientNumber) -> Command<Token>) {
        if let Some((client, group)) = self.inner.clients.gone(client_id) {
            let _ = self.inner.shard.submit(command(client));
            group.iter().for_each(|group| self.consumer_left(group, client_id));
        }
    }

    /// Connected clients.
    pub fn clients(&self) -> Vec<ClientInfo> {
        self.inner.clients.all()
    }

    /// A request was refused; for the metrics.
    pub fn count_refusal(&self, reason: &'static str) {
        self.inner.stats.refused(reason);
    }

    /// Why the shard stopped, if it did. Cheap: asked by whoever watches the process.
    pub fn stop_reason(&self) -> Option<String> {
        self.inner.shard.stopped()
    }

    /// A snapshot for metrics. Copies counters of every topic, group and client.
    pub fn figures(&self) -> Figures {
        let shard = self.inner.shard.figures();
        let catalog = self.inner.catalog.snapshot();
        let names: std::collections::BTreeMap<_, _> =
            catalog.topics().map(|topic| (topic.id, topic.name.clone())).collect();
        let waiting = shard.waiting.iter().filter_map(|(id, waiting)| Some((names.get(id)?.clone(), *waiting)));
        let lite = shard.lite_topics.iter().filter_map(|(id, count)| Some((names.get(id)?.clone(), *count)));
        let lite_topics = lite.collect();
        let used = budget_used(&self.inner.reply_budget, self.inner.reply_bytes);
        Figures {
            topics: self.inner.stats.topic_counts(),
            groups: self.inner.stats.group_counts(),
            refusals: self.inner.stats.refusal_counts(),
            waiting: waiting.collect(),
            lite_topics,
            lite: shard.lite,
            notices: self.inner.stats.notice_counts(),
            dead_letters: self.dead_letters_by_name(&shard.counters),
            counters: shard.counters,
            waiting_polls: shard.polls,
            resident_entities: shard.resident,
            open_slots: shard.open_slots,
            open_slots_most: (shard.open_slots_most, self.inner.options.open_slots_max),
            batch_messages: shard.batches.0,
            batch_replies: shard.batches.1,
            sync_millis: self.inner.reader.sync_millis(),
            usage: shard.usage,
            bucket: self
                .inner
                .reader
                .meter()
                .map_or_else(Vec::new, |meter| Class::ALL.iter().map(|class| (*class, meter.counts(*class))).collect()),
            shortage: shard.shortage,
            reply_bytes: (used, self.inner.reply_bytes),
            producers: self
                .inner
                .clients
                .all()
                .into_iter()
                .filter(|client| matches!(client.role, crate::ClientRole::Producer { .. }))
                .collect(),
            members: self.members_of_groups(),
            stopped: self.stop_reason(),
        }
    }

    fn dead_letters_by_name(&self, counters: &Counters) -> Vec<(String, String, u64)> {
        if counters.dead_letters_of.is_empty() {
            return Vec::new();
        }
        let catalog = self.inner.catalog.snapshot();
        let groups: BTreeMap<_, _> = catalog.groups().map(|group| (group.id, &group.name)).collect();
        let topics: BTreeMap<_, _> = catalog.topics().map(|topic| (topic.id, &topic.name)).collect();
        let named = |(&(group, topic), &count)| Some((groups.get(&group)?, topics.get(&topic)?, count));
        let found = counters.dead_letters_of.iter().filter_map(named);
        found.map(|(group, topic, count)| ((*group).clone(), (*topic).clone(), count)).collect()
    }
}

impl Rest {
    /// Sleeps one round; true when it is over.
    fn sleep(&self) -> bool {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(over, HOUSEKEEPING_EVERY, |over| !*over);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

/// A topic that exists with its group.
fn topic_of_group(id: TopicId, name: &str, group: &GroupConfig) -> TopicConfig {
    TopicConfig {
        id,
        name: name.to_owned(),
        kind: TopicType::Normal,
        read_queues: 1,
        write_queues: 1,
        permission: Permission::ReadWrite,
        retention_millis: None,
        lite: LiteTopics::default(),
        deduplicate_millis: None,
        created_millis: group.created_millis,
        auto_created: true,
    }
}

pub(crate) fn catalog_refusal(error: CatalogError) -> Refusal {
    match error {
        CatalogError::Change(ChangeError::Name(error)) => Refusal::Name(error),
        CatalogError::Change(ChangeError::Exists { what, name }) => Refusal::Exists { what, name },
        CatalogError::Change(ChangeError::TopicNotFound { topic }) => Refusal::TopicNotFound { topic },
        CatalogError::Change(ChangeError::GroupNotFound { group }) => Refusal::GroupNotFound { group },
        CatalogError::Change(ChangeError::UserNotFound { user }) => Refusal::UserNotFound { user },
        CatalogError::Change(ChangeError::PolicyNotFound { user, about }) => Refusal::PolicyNotFound { user, about },
        CatalogError::Change(ChangeError::Setting { field, value, rule }) => Refusal::Setting { field, value, rule },
        CatalogError::Change(ChangeError::Full { what, limit }) => Refusal::Busy { what, limit: limit as u64 },
        other => Refusal::Catalog { reason: other.to_string() },
    }
}

fn shard_number(name: &str) -> u32 {
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(name.as_bytes());
    hasher.finish() as u32
}
