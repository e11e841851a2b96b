use super::*;
use crate::proto::v2::{DeadLetterQueue, ReceiveMessageResponse, receive_message_response::Content};
use martlet_model::QueueOffset;
use martlet_model::record::RecordWriter;

/// Reads the frames back as a client does.
fn read(chunks: Vec<Bytes>) -> Vec<Content> {
    let mut bytes = Bytes::from(chunks.concat());
    let mut contents = Vec::new();
    while !bytes.is_empty() {
        let length = crate::transport::frames::prefix(&bytes, usize::MAX).unwrap().unwrap();
        let frame = bytes.split_to(5 + length).slice(5..);
        contents.push(ReceiveMessageResponse::decode(frame).unwrap().content.unwrap());
    }
    contents
}

fn delivered(record: Bytes) -> DeliveredMessage {
    DeliveredMessage {
        topic: "orders".into(),
        queue: 3,
        offset: QueueOffset(1 << 33),
        store_time: UnixMillis(1_700_000_000_001),
        attempt: 2,
        handle: "handle".into(),
        invisible_millis: 30_000,
        record,
    }
}

fn message(content: &Content) -> &crate::proto::v2::Message {
    match content {
        Content::Message(message) => message,
        other => panic!("{other:?} is not a message"),
    }
}

#[test]
fn a_client_reads_back_every_field() {
    let mut writer = RecordWriter::with_capacity(64);
    for field in [
        Field::MessageId("01AB"),
        Field::Tag("t"),
        Field::Key("k1"),
        Field::Key("k2"),
        Field::Property("colour", "red"),
        Field::Property("empty", ""),
        Field::BornTimestamp(1_600_000_000_999),
        Field::BornHost("born"),
        Field::MessageGroup("g"),
        Field::DeliveryTimestamp(1_650_000_000_000),
        Field::TraceContext("trace"),
        Field::Compressed,
        Field::MessageType(martlet_model::MessageType::Fifo),
        Field::DeadLetterTopic("origin"),
        Field::DeadLetterMessageId("old"),
        Field::LiteTopic("lite"),
        Field::Priority(7),
    ] {
        writer.field(field);
    }
    let mut frames = Frames::with_capacity(0);
    frames.status(Code::Ok, "OK");
    frames.message(&delivered(writer.finish(b"hello")), "store:8081").unwrap();
    frames.delivery_timestamp(UnixMillis(1_700_000_000_002));
    let contents = read(frames.finish());
    assert_eq!(contents[0], Content::Status(Status { code: Code::Ok as i32, message: "OK".into() }));
    assert_eq!(contents[2], Content::DeliveryTimestamp(crate::time::timestamp(UnixMillis(1_700_000_000_002))));
    let message = message(&contents[1]);
    assert_eq!(message.topic.as_ref().unwrap().name, "orders");
    assert_eq!(message.body, "hello");
    let properties: Vec<_> = message.user_properties.iter().map(|(key, value)| (&key[..], &value[..])).collect();
    assert_eq!(properties, [("colour", "red"), ("empty", "")]);
    let time = |millis| Some(crate::time::timestamp(UnixMillis(millis)));
    let expected = crate::proto::v2::SystemProperties {
        tag: Some("t".into()),
        keys: vec!["k1".into(), "k2".into()],
        message_id: "01AB".into(),
        body_digest: Some(crate::proto::v2::Digest {
            r#type: DigestType::Sha1 as i32,
            checksum: "AAF4C61DDCC5E8A2DABEDE0F3B482CD9AEA9434D".into(),
        }),
        body_encoding: Encoding::Gzip as i32,
        message_type: MessageType::Fifo as i32,
        born_timestamp: time(1_600_000_000_999),
        born_host: "born".into(),
        store_timestamp: time(1_700_000_000_001),
        store_host: "store:8081".into(),
        delivery_timestamp: time(1_650_000_000_000),
        receipt_handle: Some("handle".into()),
        queue_id: 3,
        queue_offset: Some(1 << 33),
        invisible_duration: None,
        delivery_attempt: Some(2),
        message_group: Some("g".into()),
        trace_context: Some("trace".into()),
        orphaned_transaction_recovery_duration: None,
        dead_letter_queue: Some(DeadLetterQueue { topic: "origin".into(), message_id: "old".into() }),
        lite_topic: Some("lite".into()),
        priority: Some(7),
    };
    assert_eq!(message.system_properties.as_ref(), Some(&expected));
}

#[test]
fn small_and_large_bodies_alternate_without_losing_a_byte() {
    let bodies = [1, SHARED_BODY_BYTES_MIN, 5, SHARED_BODY_BYTES_MIN - 1, 3 * SHARED_BODY_BYTES_MIN + 1, 0];
    let mut frames = Frames::with_capacity(100);
    frames.status(Code::Ok, "OK");
    for (index, length) in bodies.iter().enumerate() {
        let record = RecordWriter::with_capacity(16).finish(&vec![index as u8; *length]);
        frames.message(&delivered(record), "").unwrap();
    }
    frames.delivery_timestamp(UnixMillis(0));
    let contents = read(frames.finish());
    assert_eq!(contents.len(), bodies.len() + 2);
    for (index, length) in bodies.iter().enumerate() {
        let body = &message(&contents[index + 1]).body;
        assert!(body.len() == *length && body.iter().all(|byte| usize::from(*byte) == index), "body {index}");
    }
}

#[test]
fn a_record_that_cannot_be_read_leaves_the_answer_whole() {
    let mut frames = Frames::with_capacity(0);
    frames.status(Code::Ok, "OK");
    assert!(frames.message(&delivered(Bytes::from_static(&[1, 1, 200])), "").is_err());
    frames.delivery_timestamp(UnixMillis(0));
    assert_eq!(read(frames.finish()).len(), 2);
}
