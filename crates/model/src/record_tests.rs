use super::*;
use proptest::prelude::*;

fn read(record: &Bytes) -> (Vec<Field<'_>>, Bytes) {
    (fields(record).collect::<Result<_, _>>().unwrap(), body(record).unwrap())
}

#[test]
fn every_field_round_trips() {
    let all = [
        Field::MessageId("01AB"),
        Field::Tag("t"),
        Field::Key("k1"),
        Field::Key("k2"),
        Field::Property("päd", ""),
        Field::Property("", "v"),
        Field::BornTimestamp(-5),
        Field::BornHost("h"),
        Field::MessageGroup("g"),
        Field::DeliveryTimestamp(i64::MAX),
        Field::TraceContext("c"),
        Field::Compressed,
        Field::MessageType(MessageType::Priority),
        Field::DeadLetterTopic("o"),
        Field::DeadLetterMessageId("i"),
        Field::LiteTopic("l"),
        Field::Priority(i32::MIN),
        Field::Queue(u32::MAX),
        Field::Flag(-1),
        Field::SysFlag(0x301),
        Field::SystemProperty("PGROUP", "p"),
    ];
    let mut writer = RecordWriter::with_capacity(16);
    for field in all {
        writer.field(field);
    }
    let record = writer.finish(b"\0body");
    assert_eq!(read(&record), (all.to_vec(), Bytes::from_static(b"\0body")));
    let more = with_fields(&record, &[Field::DeadLetterTopic("first")]).unwrap();
    assert_eq!(read(&more).0[0], Field::DeadLetterTopic("first"));
    assert_eq!(read(&more).1, &b"\0body"[..]);
}

#[test]
fn a_chosen_queue_counts_in_front_only() {
    let mut writer = RecordWriter::with_capacity(16);
    writer.field(Field::Queue(3)).field(Field::Tag("t"));
    let record = writer.finish(b"body");
    assert_eq!(chosen_queue(&record), Some(3));
    assert_eq!(chosen_queue(&with_fields(&record, &[Field::DeadLetterTopic("o")]).unwrap()), None);
    assert_eq!(chosen_queue(b"\x01\x02\x01t\0"), None);
    assert_eq!(chosen_queue(&[]), None);
}

#[test]
fn these_bytes_stay_readable() {
    let fixture = Bytes::from_static(b"\x01\x01\x02id\x02\x01t\x04\x03\x01kv\x05\x01\x14\x7f\x02??\x00hello");
    let (fields, body) = read(&fixture);
    assert_eq!(fields, [Field::MessageId("id"), Field::Tag("t"), Field::Property("k", "v"), Field::BornTimestamp(10)]);
    assert_eq!(body, &b"hello"[..]);
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    assert_eq!(fields(&[]).next(), Some(Err(RecordError::Format { found: 0 })));
    assert_eq!(fields(&[9]).next(), Some(Err(RecordError::Format { found: 9 })));
    assert!(body(&Bytes::from_static(&[1, 1, 200])).is_err());
    assert!(with_fields(&[], &[]).is_err());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let record = Bytes::from([&[1][..], &bytes[..]].concat());
        for _ in fields(&record) {}
        let _ = body(&record);
    }

    #[test]
    fn varints_round_trip(number: u64) {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, number);
        prop_assert_eq!(bytes.len(), varint_len_u64(number));
        let mut at = 0;
        prop_assert_eq!(take_varint(&bytes, &mut at), Some(number));
    }
}
