//! The decoders on seeded bytes: SEED repeats a run.

use martlet_http::fuzz::TARGETS;
use std::time::{SystemTime, UNIX_EPOCH};

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
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos() as u64);
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock) | 1;
    println!("SEED={seed}");
    let mut state = seed;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..30_000 {
        // Half of the time a sample with a few bytes changed, so that the insides are reached too.
        let mut bytes = SAMPLES[random() as usize % SAMPLES.len()].to_vec();
        if round % 2 == 0 {
            bytes = (0..random() % 64).map(|_| random() as u8).collect();
        }
        for _ in 0..random() % 4 {
            if !bytes.is_empty() {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }
        }
        bytes.truncate(bytes.len() - random() as usize % (bytes.len() + 1) / 4);
        for (name, target) in TARGETS {
            let outcome = std::panic::catch_unwind(|| target(&bytes));
            assert!(outcome.is_ok(), "{name} failed on {bytes:?} (SEED={seed}, round {round})");
        }
    }
}
