//! The front office on a real folder: what protocols rely on, across restarts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use martlet_broker::*;
use martlet_model::record::{self, Field, RecordWriter};
use martlet_model::{Filter, MessageType, QueueOffset};
use std::sync::Arc;
use tempfile::TempDir;

fn message(id: &str, tag: &str, body: &[u8]) -> NewMessage {
    let mut writer = RecordWriter::with_capacity(64);
    writer.field(Field::MessageId(id)).field(Field::Tag(tag));
    NewMessage {
        message_type: MessageType::Normal,
        message_id: id.into(),
        keys: vec![],
        deliver_at: None,
        immunity_millis: None,
        polled: false,
        record: writer.finish(body),
    }
}

fn poll(topic: &str, group: &str, filter: &str, poll_millis: i64) -> ReceiveRequest {
    ReceiveRequest {
        client_id: "client-1".into(),
        group: group.into(),
        topic: topic.into(),
        queue: None,
        filter: Arc::new(Filter::tags(filter).unwrap()),
        batch_size: 32,
        invisible_millis: 30_000,
        renew_for_millis: None,
        poll_millis,
        message_group_max: 32,
        attempt_id: None,
    }
}

async fn send(broker: &Broker, topic: &str, messages: Vec<NewMessage>) -> Vec<SentMessage> {
    broker.send(SendRequest { topic: topic.into(), messages, deadline: None }).await.unwrap()
}

fn open(dir: &TempDir) -> Broker {
    Broker::open(BrokerOptions::new(dir.path())).unwrap().0
}

#[tokio::test]
async fn what_is_sent_is_received_acked_and_remembered_across_a_restart() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    send(&broker, "orders", vec![message("1", "a", b"one"), message("2", "b", b"two")]).await;
    let received = broker.receive(poll("orders", "billing", "*", 1000)).await.unwrap().messages;
    let bodies: Vec<_> = received.iter().map(|message| record::body(&message.record).unwrap()).collect();
    assert_eq!(bodies, [&b"one"[..], &b"two"[..]]);
    assert_eq!(received.iter().map(|message| message.attempt).collect::<Vec<_>>(), [1, 1]);
    let acked = broker.ack("billing", "orders", vec![received[0].handle.clone(), "nonsense".into()]).await.unwrap();
    assert_eq!(acked[0], Ok(()));
    assert!(matches!(acked[1], Err(Refusal::HandleForged { .. })));
    broker.close();
    drop(broker);

    let broker = open(&dir);
    assert!(broker.receive(poll("orders", "billing", "*", 50)).await.unwrap().messages.is_empty(), "still invisible");
    broker.undo("billing", vec![received[1].handle.clone()]);
    let again = broker.receive(poll("orders", "billing", "*", 1000)).await.unwrap().messages;
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].offset, again[0].attempt), (received[1].offset, 1));
    let status = broker.group_status("billing").await.unwrap();
    assert_eq!(status.progress.iter().map(ProgressStatus::accumulation).sum::<u64>(), 1);
    broker.close();
}

#[tokio::test]
async fn a_waiting_poll_gets_the_next_message_and_filters_pass_over_the_rest() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    broker.topic("orders").await.unwrap();
    let waiting = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.receive(poll("orders", "billing", "b || c", 10_000)).await.unwrap().messages })
    };
    send(&broker, "orders", (0..100).map(|n| message(&n.to_string(), "a", b"x")).collect()).await;
    send(&broker, "orders", vec![message("hit", "c", b"x")]).await;
    let received = waiting.await.unwrap();
    assert_eq!(received.len(), 1);
    broker.ack("billing", "orders", vec![received[0].handle.clone()]).await.unwrap();
    let status = broker.group_status("billing").await.unwrap();
    assert_eq!(status.progress.iter().map(ProgressStatus::accumulation).sum::<u64>(), 0);
    assert_eq!(broker.topic_status("orders").await.unwrap().queues.len(), 8);
    broker.close();
}

#[tokio::test]
async fn a_reply_holds_four_mebibytes_and_the_rest_stays_for_the_next() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let settings = TopicSettings { queues: Some(1), ..TopicSettings::default() };
    broker.create_topic("large", settings).await.unwrap();
    for n in 0..4 {
        send(&broker, "large", vec![message(&n.to_string(), "a", &vec![7; 3 << 20])]).await;
    }
    let mut offsets = Vec::new();
    while offsets.len() < 4 {
        let received = broker.receive(poll("large", "g", "*", 2000)).await.unwrap();
        assert_eq!(received.messages.len(), 1);
        assert_eq!(received.messages[0].attempt, 1);
        offsets.push(received.messages[0].offset.0);
    }
    offsets.sort_unstable();
    assert_eq!(offsets, [0, 1, 2, 3]);
    broker.close();
}

#[tokio::test]
async fn a_poll_nobody_waits_for_takes_nothing() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    broker.topic("orders").await.unwrap();
    let gone =
        tokio::time::timeout(std::time::Duration::from_millis(50), broker.receive(poll("orders", "g", "*", 10_000)));
    assert!(gone.await.is_err());
    send(&broker, "orders", vec![message("1", "a", b"one")]).await;
    let received = broker.receive(poll("orders", "g", "*", 1000)).await.unwrap().messages;
    assert_eq!(received.iter().map(|message| message.attempt).collect::<Vec<_>>(), [1]);
    broker.delete_topic("orders").await.unwrap();
    broker.create_topic("orders", TopicSettings::default()).await.unwrap();
    let stale = broker.ack("g", "orders", vec![received[0].handle.clone()]).await.unwrap();
    assert!(matches!(stale[0], Err(Refusal::HandleForeign { what: "topic", .. })));
    broker.close();
}

#[tokio::test]
async fn delayed_messages_wait_through_a_restart_and_their_handles_with_them() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let settings = TopicSettings { kind: Some(martlet_model::TopicType::Delay), ..Default::default() };
    broker.create_topic("later", settings).await.unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let delayed = |id: &str, millis: i64| NewMessage {
        message_type: MessageType::Delay,
        deliver_at: Some(martlet_model::UnixMillis(now + millis)),
        ..message(id, "a", id.as_bytes())
    };
    let sent = send(&broker, "later", vec![delayed("soon", 600), delayed("far", 30 * 86_400_000)]).await;
    broker.close();
    drop(broker);

    let broker = open(&dir);
    let received = broker.receive(poll("later", "billing", "*", 5_000)).await.unwrap().messages;
    assert_eq!(record::body(&received[0].record).unwrap(), "soon");
    let handle = |at: usize| sent[at].recall_handle.clone().unwrap();
    assert_eq!(broker.recall("later", &handle(1)).await.unwrap(), "far");
    assert!(matches!(broker.recall("later", &handle(0)).await, Err(Refusal::NotWaiting { .. })));
    broker.close();
}

#[tokio::test]
async fn what_a_connected_member_subscribes_to_is_kept_for_it_and_differences_are_reported() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let settings = TopicSettings { queues: Some(1), ..TopicSettings::default() };
    broker.create_topic("orders", settings).await.unwrap();
    broker.group("billing").await.unwrap();
    let member = |id: &str, tags: &str| ClientInfo {
        client_id: id.into(),
        language: "RUST".into(),
        version: "1".into(),
        remote: "192.0.2.1:1".into(),
        role: ClientRole::Consumer {
            group: "billing".into(),
            push: false,
            subscriptions: vec![("orders".into(), Filter::tags(tags).unwrap())],
        },
    };
    broker.client_seen(member("client-1", "a")).unwrap();
    assert_eq!(broker.disagreement("billing"), None);
    broker.client_seen(member("client-2", "b")).unwrap();
    send(&broker, "orders", vec![message("1", "a", b"one"), message("2", "b", b"two"), message("3", "c", b"x")]).await;
    let received = broker.receive(poll("orders", "billing", "a", 1000)).await.unwrap().messages;
    assert_eq!(received.len(), 1);
    let status = broker.group_status("billing").await.unwrap();
    assert_eq!(status.disagreement.unwrap().to_string(), "members have different filters on orders");
    let filters: Vec<_> = status.subscriptions.iter().map(|found| found.filter.to_string()).collect();
    assert_eq!(filters, ["a", "b"]);
    // client-2 has not polled yet.
    let received = broker.receive(poll("orders", "billing", "b", 1000)).await.unwrap().messages;
    assert_eq!(received.len(), 1);
    broker.close();
}

#[tokio::test]
async fn small_replies_take_small_shares_of_the_budget_and_a_large_surprise_still_arrives() {
    let dir = TempDir::new().unwrap();
    let options = BrokerOptions { reply_bytes: 4 << 20, ..BrokerOptions::new(dir.path()) };
    let broker = Broker::open(options).unwrap().0;
    let small = |n: u32| vec![message(&n.to_string(), "a", b"x")];
    for n in 0..64 {
        send(&broker, "orders", small(n)).await;
    }
    // Each reply is held on to, as one that is being written to a slow client is: all fit the budget of one large one.
    let mut held = Vec::new();
    for _ in 0..64 {
        let request = ReceiveRequest { batch_size: 1, ..poll("orders", "billing", "*", 10_000) };
        let received = tokio::time::timeout(std::time::Duration::from_secs(10), broker.receive(request)).await;
        held.push(received.unwrap().unwrap());
    }
    assert!(held.iter().all(|received| received.messages.len() == 1));
    assert!(broker.figures().reply_bytes.0 <= 64 * 1024, "{:?}", broker.figures().reply_bytes);
    // Nothing in the queue tells that a message of 3 MiB comes, and 2 MiB of the budget's four are taken: its poll waits
    // for its share and holds nothing meanwhile.
    let one_queue = || TopicSettings { queues: Some(1), ..TopicSettings::default() };
    broker.create_topic("other", one_queue()).await.unwrap();
    send(&broker, "third", vec![message("medium", "a", &vec![7; 2 << 20])]).await;
    let medium = broker.receive(poll("third", "billing", "*", 10_000)).await.unwrap();
    assert_eq!(medium.messages.len(), 1);
    send(&broker, "other", vec![message("large", "a", &vec![7; 3 << 20])]).await;
    for n in 0..200 {
        send(&broker, "other", small(n)).await;
    }
    let request = ReceiveRequest { batch_size: 1, ..poll("other", "shipping", "*", 10_000) };
    let mut receiving = Box::pin(broker.receive(request));
    let waits = tokio::time::timeout(std::time::Duration::from_millis(200), &mut receiving).await;
    assert!(waits.is_err(), "there is no room for it yet");
    drop(medium);
    let large = tokio::time::timeout(std::time::Duration::from_secs(10), receiving).await.unwrap().unwrap();
    assert_eq!(large.messages.len(), 1);
    let used = broker.figures().reply_bytes.0;
    assert!(used > 3 << 20 && used <= 4 << 20, "{used}");
    drop((held, large));
    assert_eq!(broker.figures().reply_bytes.0, 0, "all of it is given back");
    broker.close();
}

fn id_of(record: &[u8]) -> String {
    record::text_of(record, 1).unwrap().to_owned()
}

fn queue_member(client_id: &str, connection: u64) -> QueueMember {
    let subscription =
        |topic: &str| MemberSubscription { topic: topic.into(), filter: Arc::new(Filter::ALL), version: 1 };
    QueueMember {
        client_id: client_id.into(),
        connection: Some(connection),
        group: "billing".into(),
        model: MessageModel::Clustering,
        from: ConsumeFrom::Last,
        subscriptions: vec![subscription("orders"), subscription("%RETRY%billing")],
        language: "JAVA".into(),
        version: "5.5.0".into(),
        remote: "127.0.0.1:1".into(),
    }
}

fn queue_pull(topic: &str, queue: u32, offset: u64, wait_millis: i64) -> QueuePull {
    QueuePull {
        group: "billing".into(),
        topic: topic.into(),
        queue,
        offset,
        max_messages: 32,
        max_bytes: 1 << 20,
        filter: Arc::new(Filter::ALL),
        wait_millis,
        commit: None,
        mode: PullMode::Member,
        client_id: "a".into(),
    }
}

#[tokio::test]
async fn queue_based_members_pull_commit_send_back_and_leave_the_rest_to_message_based_ones() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    let mut changes = broker.member_changes();
    assert!(broker.register_member(queue_member("a", 7)).await.unwrap());
    assert!(!broker.register_member(queue_member("a", 7)).await.unwrap(), "nothing new");
    assert_eq!(changes.recv().await.unwrap(), "billing");
    assert_eq!(broker.members("billing").len(), 1);
    assert_eq!(broker.member_subscription("billing", "%RETRY%billing").unwrap().version, 1);

    let sent = send(&broker, "orders", vec![message("1", "a", b"one"), message("2", "b", b"two")]).await;
    let queue = sent[0].queue;
    let offset = broker.queue_offset("billing", "orders", queue, Some("a")).await.unwrap();
    assert_eq!(offset, StoredOffset::NotFound { min: QueueOffset(0), max: QueueOffset(2) });
    let mut tagged = queue_pull("orders", queue, 0, 0);
    tagged.filter = Arc::new(Filter::tags("b").unwrap());
    let pulled = broker.pull_queue(tagged).await.unwrap();
    assert_eq!((pulled.status, pulled.next.0, pulled.messages.len()), (PullStatus::Found, 2, 1));
    let two = pulled.messages[0].clone();
    assert_eq!(record::body(&two.record).unwrap(), &b"two"[..]);
    let physical = two.physical.unwrap();
    assert_eq!(broker.physical_place(physical).await.unwrap().unwrap(), ("orders".into(), queue, QueueOffset(1)));
    assert_eq!(physical.place().unwrap().0, broker.queue_id("orders", queue).await.unwrap());

    let retries = broker.pull_queue(queue_pull("%RETRY%billing", 0, 0, 0)).await.unwrap();
    assert_eq!((retries.status, retries.next.0), (PullStatus::NothingNew, 0));
    let back =
        SendBack { group: "billing".into(), physical, delay: SendBackDelay::Millis(50), max_reconsume_times: Some(16) };
    broker.send_back(back).await.unwrap();
    assert!(broker.commit_queue_offset("billing", "orders", queue, 2, Some("a")).await.unwrap());
    assert!(!broker.commit_queue_offset("billing", "orders", queue, 2, Some("b")).await.unwrap());
    let pulled = broker.pull_queue(queue_pull("%RETRY%billing", 0, 0, 10_000)).await.unwrap();
    let retry = &pulled.messages[0];
    assert_eq!((retry.record.clone(), retry.reconsume_times, retry.origin), (two.record, 1, Some(physical)));
    assert_eq!(retry.retry_topic.as_deref(), Some("orders"));
    assert_eq!((&*retry.topic, retry.offset.0), ("%RETRY%billing", 0));

    // It leaves without having committed the retry.
    let waiting = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.receive(poll("orders", "billing", "*", 10_000)).await.unwrap().messages })
    };
    broker.connection_closed(7);
    let got = waiting.await.unwrap();
    assert_eq!(
        got.iter().map(|message| (id_of(&message.record), message.attempt)).collect::<Vec<_>>(),
        [("2".into(), 2)]
    );
    assert!(broker.members("billing").iter().all(|member| member.kind != MemberKind::QueueBased));
    assert!(matches!(
        broker.receive(poll("%RETRY%billing", "billing", "*", 0)).await,
        Err(Refusal::TopicNotFound { .. })
    ));
    broker.close();
}

#[tokio::test]
async fn who_only_looks_changes_nothing_and_a_full_reply_goes_on_where_it_ended() {
    let dir = TempDir::new().unwrap();
    let broker = open(&dir);
    broker.topic("orders").await.unwrap();
    let sent = send(&broker, "orders", (0..5).map(|n| message(&n.to_string(), "a", &[0; 1000])).collect()).await;
    let queue = sent[0].queue;
    let look = QueuePull { mode: PullMode::Look, group: "nobody".into(), ..queue_pull("orders", queue, 1, 0) };
    let seen = broker.pull_queue(look.clone()).await.unwrap();
    assert_eq!((seen.status, seen.next.0, seen.messages.len()), (PullStatus::Found, 5, 4));
    let beyond = broker.pull_queue(QueuePull { offset: 9, ..look }).await.unwrap();
    assert_eq!((beyond.status, beyond.next.0), (PullStatus::Moved, 5));
    assert!(broker.known_group("nobody").is_none());

    let small = |offset| QueuePull { max_bytes: 2_500, ..queue_pull("orders", queue, offset, 0) };
    let pulled = broker.pull_queue(small(0)).await.unwrap();
    assert_eq!((pulled.next.0, pulled.messages.len()), (2, 2));
    assert!(broker.commit_queue_offset("billing", "orders", queue, 2, Some("a")).await.unwrap());
    let pulled = broker.pull_queue(small(2)).await.unwrap();
    assert_eq!((pulled.next.0, pulled.messages[0].offset.0), (4, 2));
    let locked = broker.lock_queues("billing", "a", &[("orders".into(), queue), ("none".into(), 0)]).await.unwrap();
    assert_eq!(locked, [("orders".to_owned(), queue)]);
    assert!(broker.holds_locks("billing").await.unwrap());
    broker.unlock_queues("billing", "a", &locked).await.unwrap();
    assert!(!broker.holds_locks("billing").await.unwrap());
    broker.close();
}
