use super::*;
use proptest::prelude::*;

fn encoded(message: &Message<'_>) -> BytesMut {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out
}

fn message<'a>(topic: &'a str, body: &'a [u8], properties: &'a str, hosts: (SocketAddr, SocketAddr)) -> Message<'a> {
    Message {
        queue: 3,
        flag: -7,
        queue_offset: 11,
        physical_offset: i64::MAX,
        sys_flag: 0x301,
        born: 1_700_000_000_000,
        born_host: hosts.0,
        stored: 1_700_000_000_001,
        store_host: hosts.1,
        reconsumed: 2,
        half_offset: 0,
        body,
        topic,
        properties,
    }
}

/// Positions of fields that tools read without decoding: with addresses of four bytes, system flags are at 36, the physical
/// offset at 28, the store time at 56.
#[test]
fn fields_are_where_tools_look_for_them() {
    let hosts = ("10.0.0.1:5000".parse().unwrap(), "[::ffff:10.0.0.2]:10911".parse().unwrap());
    let bytes = encoded(&message("orders", b"123456789", "TAGS\u{1}a\u{2}", hosts));
    assert_eq!(bytes[36..40], 0x301_i32.to_be_bytes());
    assert_eq!(bytes[28..36], i64::MAX.to_be_bytes());
    assert_eq!(bytes[56..64], 1_700_000_000_001_i64.to_be_bytes());
    assert_eq!(bytes[8..12], (0xcbf4_3926_u32 & 0x7fff_ffff).to_be_bytes());
    assert_eq!(bytes[..4], (bytes.len() as u32).to_be_bytes());
}

#[test]
fn long_topics_have_the_other_magic_and_long_properties_lose_whole_ones() {
    let hosts = ("[2001:db8::1]:1".parse().unwrap(), "10.0.0.2:10911".parse().unwrap());
    let topic = format!("%RETRY%{}", "g".repeat(200));
    let properties = "name\u{1}value\u{2}".repeat(4_000);
    let decoded = decode_all(&encoded(&message(&topic, b"", &properties, hosts))).unwrap().remove(0);
    assert_eq!((decoded.topic, decoded.born_host), (topic, hosts.0));
    assert_eq!(decoded.sys_flag, 0x301 | sys::BORN_HOST_V6);
    assert!(decoded.properties.len() > 32_750 && decoded.properties.ends_with("value\u{2}"));
}

#[test]
fn batches_are_taken_apart_and_bounded() {
    let one = |body: &[u8], properties: &str| {
        let mut bytes = BytesMut::new();
        bytes.put_u32((4 * 5 + 2 + body.len() + properties.len()) as u32);
        bytes.put_slice(&[0; 8]);
        bytes.put_i32(9);
        bytes.put_u32(body.len() as u32);
        bytes.put_slice(body);
        bytes.put_u16(properties.len() as u16);
        bytes.put_slice(properties.as_bytes());
        bytes
    };
    let bytes = Bytes::from([one(b"a", "TAGS\u{1}x\u{2}"), one(b"", "")].concat());
    let found = decode_batch(&bytes, 2).unwrap();
    assert_eq!((found.len(), found[0].body, found[0].flag), (2, &b"a"[..], 9));
    assert_eq!((found[0].properties, found[1].properties), ("TAGS\u{1}x\u{2}", ""));
    let text = decode_batch(&bytes, 1).unwrap_err().to_string();
    assert_eq!(text, "number of messages of the batch is 2, the limit is 1");
    for end in 1..bytes.len() {
        let whole = end == one(b"a", "TAGS\u{1}x\u{2}").len();
        assert_eq!(decode_batch(&bytes.slice(..end), 9).is_ok(), whole, "{end}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        topic in "[a-z%]{1,250}",
        body in prop::collection::vec(any::<u8>(), 0..300),
        properties in "[a-z\u{1}\u{2}]{0,100}",
        hosts in any::<(SocketAddr, SocketAddr)>(),
    ) {
        let message = message(&topic, &body, &properties, hosts);
        let bytes = encoded(&message);
        prop_assert!(bytes.len() <= message.encoded_max());
        let decoded = decode_all(&[&bytes[..], &bytes[..]].concat()).unwrap();
        prop_assert_eq!(decoded.len(), 2);
        prop_assert_eq!(&decoded[1].body[..], &body[..]);
        prop_assert_eq!(&decoded[1].topic, &topic);
        prop_assert_eq!(&decoded[1].properties, &properties);
        prop_assert_eq!(decoded[1].physical_offset, i64::MAX);
        prop_assert_eq!(decoded[1].store_host.ip(), hosts.1.ip().to_canonical());
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..120), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let _ = decode_all(&bytes);
        let _ = decode_batch(&Bytes::from(bytes.clone()), 10);
        let hosts = ("10.0.0.1:5000".parse().unwrap(), "10.0.0.2:10911".parse().unwrap());
        let mut good = encoded(&message("orders", b"body", "k\u{1}v\u{2}", hosts)).to_vec();
        let place = at.index(good.len());
        good[place] = byte;
        let _ = decode_all(&good);
    }
}
