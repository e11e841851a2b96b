//! The decoders on seeded bytes: SEED repeats a run.

use martlet_http::fuzz::TARGETS;
use martlet_net::fuzz;

/// Bytes that reach the insides, for each decoder and its neighbours.
const SAMPLES: [&[u8]; 8] = [
    b"/topics/orders/messages?ns=I&consumer=billing&numOfMessages=16&waitseconds=30&tag=a%7C%7Cb&trans=order",
    b"<?xml version=\"1.0\" encoding=\"utf-8\"?><Message xmlns=\"http://mq.aliyuncs.com/doc/v1/\"><MessageBody>a&amp;b&#65;<![CDATA[<c>]]>\
      </MessageBody><MessageTag>t</MessageTag><Properties>KEYS:a b|k:v|__STARTDELIVERTIME:1800000000500|</Properties></Message>",
    b"<ReceiptHandles><ReceiptHandle>one</ReceiptHandle><ReceiptHandle>two</ReceiptHandle></ReceiptHandles>",
    b"\x02\x02id\x02\x01t\x04\x03\x01kv\x05\x01\x14\x00hello",
    b"\x78\x9c\xcb\x48\xcd\xc9\xc9\x07\x00\x06\x2c\x02\x15",
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00\x00\x00",
    b"Authorization:MQ key:AAAAAAAAAAAAAAAAAAAAAAAAAAA=\nDate:Sun, 06 Nov 1994 08:49:37 GMT\nContent-MD5:AAAA\nx-mq-version:2015-06-06\n/topics",
    b"",
];

#[test]
fn no_bytes_break_a_decoder() {
    let seed = fuzz::seed();
    println!("SEED={seed}");
    assert_eq!(fuzz::play(&TARGETS, &SAMPLES.map(<[u8]>::to_vec), 30_000, seed), Ok(()));
}
