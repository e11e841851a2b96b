//! The decoders on seeded bytes: SEED repeats a run.

use martlet_net::fuzz;
use martlet_remoting::codec::fields::FieldList;
use martlet_remoting::codec::frame;
use martlet_remoting::codec::header::{Format, Header};
use martlet_remoting::fuzz::TARGETS;

/// Bytes that reach the insides, for each decoder and its neighbours.
fn samples() -> Vec<Vec<u8>> {
    let fields: FieldList = [("topic", "orders"), ("queueId", "1")].into_iter().collect();
    let properties = b"TAGS\x01t\x02KEYS\x01a b\x02UNIQ_KEY\x01ID\x02colour\x01red\x02";
    let rest = [&[0u8; 12][..], &[0, 0, 0, 4], b"body", &[0, properties.len() as u8], properties].concat();
    let mut samples = vec![
        [&[0, 0, 0, rest.len() as u8 + 4][..], &rest].concat(),
        properties.to_vec(),
        b"{\"clientID\":\"c\",\"consumerDataSet\":[{\"groupName\":\"g\"}],1:{\"a\":-1.5e3,\"b\":null}}".to_vec(),
        b"C0000201000027110000000000000007".to_vec(),
        b"7 1800000000000 60000 3 0 broker-a 1 7".to_vec(),
        b"\x02\x02id\x02\x01t\x04\x03\x01kv\x05\x01\x14\x00hello".to_vec(),
        Vec::new(),
    ];
    for format in [Format::Json, Format::Binary] {
        let header = Header { code: 310, opaque: 7, fields: fields.clone(), format, ..Header::default() };
        samples.push(header.encode());
        samples.push([&frame::head(&header, 4)[..], b"body"].concat());
    }
    samples
}

#[test]
fn no_bytes_break_a_decoder() {
    let seed = fuzz::seed();
    println!("SEED={seed}");
    assert_eq!(fuzz::play(&TARGETS, &samples(), 30_000, seed), Ok(()));
}
