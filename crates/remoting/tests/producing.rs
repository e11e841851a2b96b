//! Sends of every kind, and what becomes of them.

mod world;

use martlet_model::record::{self, Field};
use martlet_model::{PhysicalOffset, QueueOffset, TopicType};
use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::header::Format;
use martlet_remoting::codec::ids::read_offset_id;
use std::time::{SystemTime, UNIX_EPOCH};
use world::{World, denied, field, property_text, send_fields};

fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn batch(messages: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (body, properties) in messages {
        let length = 4 * 5 + body.len() + 2 + properties.len();
        bytes.extend_from_slice(&(length as i32).to_be_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&7_i32.to_be_bytes());
        bytes.extend_from_slice(&(body.len() as i32).to_be_bytes());
        bytes.extend_from_slice(body.as_bytes());
        bytes.extend_from_slice(&(properties.len() as i16).to_be_bytes());
        bytes.extend_from_slice(properties.as_bytes());
    }
    bytes
}

#[tokio::test]
async fn a_send_creates_its_topic_and_its_answer_names_the_place_it_took() {
    let world = World::new();
    let mut client = world.client().await;
    let pairs = [
        ("UNIQ_KEY", "0102"),
        ("TAGS", "t"),
        ("KEYS", "k1 k2"),
        ("WAIT", "true"),
        ("colour", "red"),
        ("TRACE_CONTEXT", "trace"),
    ];
    for format in [Format::Json, Format::Binary] {
        client.format = format;
        let answer = client.produce("orders", "2", &pairs, b"hello").await;
        assert_eq!(denied(&answer), (response::SUCCESS, ""));
        assert_eq!(answer.header.format, format);
        assert_eq!((field(&answer, "queueId"), field(&answer, "transactionId")), ("2", "0102"));
        assert_eq!((field(&answer, "MSG_REGION"), field(&answer, "TRACE_ON")), ("DefaultRegion", "true"));
        let (host, at) = read_offset_id(field(&answer, "msgId")).unwrap();
        assert_eq!(host, world.server().local_addr());
        let (_, offset) = at.place().unwrap();
        assert_eq!(offset.0.to_string(), field(&answer, "queueOffset"));
        let found = world.broker.message_at(at).await.unwrap().unwrap();
        assert_eq!((found.queue, found.offset), (2, offset));
    }
    let topic = world.broker.known_topic("orders").unwrap();
    assert_eq!((topic.kind, topic.write_queues, topic.auto_created), (TopicType::Mixed, 4, true));
    let found = world.find("orders", "0102").await;
    assert_eq!(found.messages.len(), 2);
    let fields: Vec<Field<'_>> = record::fields(&found.messages[0].record).map(Result::unwrap).collect();
    for wanted in [
        Field::Tag("t"),
        Field::Key("k1"),
        Field::Key("k2"),
        Field::Property("colour", "red"),
        Field::SystemProperty("WAIT", "true"),
        Field::TraceContext("trace"),
        Field::BornTimestamp(1_700_000_000_000),
    ] {
        assert!(fields.contains(&wanted), "{wanted:?} is not among {fields:?}");
    }
    assert_eq!(record::body(&found.messages[0].record).unwrap(), "hello");
}

#[tokio::test]
async fn long_names_one_way_sends_and_messages_without_an_id_are_taken() {
    let world = World::new();
    let mut client = world.client().await;
    let fields = [
        ("producerGroup", "p"),
        ("topic", "old"),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", "-1"),
        ("sysFlag", "769"),
        ("bornTimestamp", "5"),
        ("flag", "9"),
        ("properties", ""),
    ];
    client.tell(request::SEND_MESSAGE, &fields, b"one way").await;
    let answer = client.ask(request::SEND_MESSAGE, &fields, b"two ways").await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    let id = field(&answer, "transactionId");
    assert_eq!(id.len(), 32);
    let found = world.find("old", id).await;
    let fields: Vec<Field<'_>> = record::fields(&found.messages[0].record).map(Result::unwrap).collect();
    assert!(fields.contains(&Field::SysFlag(769)) && fields.contains(&Field::Flag(9)), "{fields:?}");
    assert!(fields.contains(&Field::Compressed), "{fields:?}");
    let status = world.broker.topic_status("old").await.unwrap();
    assert_eq!(status.queues.iter().map(|queue| queue.max_offset.0).sum::<u64>(), 2, "both are stored");
}

#[tokio::test]
async fn a_batch_is_stored_whole_in_one_queue() {
    let world = World::new();
    let mut client = world.client().await;
    let ids: Vec<String> = (0..10_000).map(|n| format!("id{n}")).collect();
    let texts: Vec<String> = ids.iter().map(|id| property_text(&[("UNIQ_KEY", id)])).collect();
    let messages: Vec<(&str, &str)> = ids.iter().zip(&texts).map(|(id, text)| (id.as_str(), text.as_str())).collect();
    let mut fields = send_fields("batches", "1", "");
    fields.push(("m", "true"));
    let answer = client.ask(request::SEND_BATCH_MESSAGE, &fields, &batch(&messages)).await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    let places: Vec<PhysicalOffset> =
        field(&answer, "msgId").split(',').map(|id| read_offset_id(id).unwrap().1).collect();
    assert_eq!(places.len(), ids.len());
    for (n, at) in [(0, places[0]), (9_999, places[9_999])] {
        let found = world.broker.message_at(at).await.unwrap().unwrap();
        assert_eq!((found.queue, found.offset), (1, QueueOffset(n)));
        assert_eq!(record::body(&found.record).unwrap(), ids[n as usize].as_bytes());
    }
    let delayed = property_text(&[("DELAY", "3")]);
    let answer = client.ask(request::SEND_BATCH_MESSAGE, &fields, &batch(&[("a", ""), ("b", &delayed)])).await;
    let (code, remark) = denied(&answer);
    assert_eq!(code, response::MESSAGE_ILLEGAL, "{remark}");
    let status = world.broker.topic_status("batches").await.unwrap();
    assert_eq!(status.queues[1].max_offset.0, 10_000, "of a batch that is refused nothing is stored");
}

#[tokio::test]
async fn delayed_messages_wait_and_those_with_a_time_can_be_recalled() {
    let world = World::new();
    let mut client = world.client().await;
    let at = (now_millis() + 60_000).to_string();
    for (pairs, recallable) in [
        (vec![("UNIQ_KEY", "a"), ("DELAY", "5")], false),
        (vec![("UNIQ_KEY", "b"), ("TIMER_DELAY_SEC", "60")], true),
        (vec![("UNIQ_KEY", "c"), ("TIMER_DELAY_MS", "60000")], true),
        (vec![("UNIQ_KEY", "d"), ("TIMER_DELIVER_MS", &*at)], true),
        (vec![("UNIQ_KEY", "e"), ("__STARTDELIVERTIME", &*at)], true),
    ] {
        let answer = client.produce("later", "3", &pairs, b"body").await;
        assert_eq!(denied(&answer), (response::SUCCESS, ""), "{pairs:?}");
        assert_eq!(field(&answer, "queueId"), "3", "{pairs:?}");
        let handle = answer.header.field("recallHandle").map(str::to_owned);
        assert_eq!(handle.is_some(), recallable, "{pairs:?}");
        let Some(handle) = handle else { continue };
        let fields = [("topic", "later"), ("recallHandle", handle.as_str())];
        let answer = client.ask(request::RECALL_MESSAGE, &fields, b"").await;
        assert_eq!((answer.header.code, field(&answer, "msgId")), (response::SUCCESS, pairs[0].1));
        let answer = client.ask(request::RECALL_MESSAGE, &fields, b"").await;
        assert_eq!(answer.header.code, response::ILLEGAL_OPERATION, "it cannot be recalled twice");
    }
    let past = client.produce("later", "0", &[("UNIQ_KEY", "f"), ("TIMER_DELIVER_MS", "1000")], b"body").await;
    assert_eq!((past.header.code, past.header.field("recallHandle")), (response::SUCCESS, None));
    assert_eq!(world.find("later", "f").await.messages.len(), 1, "what is due goes at once");
    let far = client.produce("later", "0", &[("TIMER_DELAY_SEC", "99999999999")], b"body").await;
    let (code, remark) = denied(&far);
    assert_eq!(code, response::MESSAGE_ILLEGAL);
    assert!(remark.contains("TIMER_DELAY_SEC") && remark.contains("limit"), "{remark}");
}

#[tokio::test]
async fn topics_are_made_only_if_that_is_wanted() {
    let world = World::with(|broker, _| broker.auto_create_topics = false);
    let mut client = world.client().await;
    let answer = client.produce("nowhere", "0", &[], b"body").await;
    assert_eq!(denied(&answer), (response::TOPIC_NOT_EXIST, "topic nowhere does not exist"));
    let world = World::new();
    let mut client = world.client().await;
    let mut fields = send_fields("nowhere", "0", "");
    fields[2].1 = "another";
    let answer = client.ask(310, &fields, b"body").await;
    assert_eq!(answer.header.code, response::TOPIC_NOT_EXIST);
    let answer = client.produce("RMQ_SYS_TRANS_HALF_TOPIC", "0", &[], b"body").await;
    assert_eq!(answer.header.code, response::MESSAGE_ILLEGAL);
}
