//! What misbehaves on the ports of gRPC and of the remoting protocol; and what is nobody's protocol, on all of them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::raw::Raw;
use super::{Kind, Seat};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SEND_V1: &str = "/apache.rocketmq.v1.MessagingService/SendMessage";
/// Types of HTTP/2 frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Streams that are opened and reset at once.
const RESETS: u32 = 2_000;

pub(super) fn kinds() -> Vec<Kind> {
    let kind = |name, gets, may_get, round| Kind { name, gets, may_get, round };
    vec![
        kind("garbage for HTTP", &["closed"], &[], |seat| garbage(seat, seat.at.http)),
        kind("garbage for gRPC", &["closed"], &[], |seat| garbage(seat, seat.at.grpc)),
        kind("garbage for the name server", &["closed"], &[], |seat| garbage(seat, seat.at.nameserver)),
        kind("garbage for the remoting protocol", &["closed"], &[], |seat| garbage(seat, seat.at.remoting)),
        kind("garbage after a TLS record", &["closed"], &[], |seat| {
            let address = if seat.random().is_multiple_of(2) { seat.at.http } else { seat.at.grpc };
            let mut raw = seat.connect(address)?;
            let noise = noise(seat, 1_000);
            raw.write(&[&[0x16, 0x03, 0x01, 0x02, 0x00][..], &noise].concat())?;
            raw.end()
        }),
        kind("v1, garbage for protobuf", &["trailers"], &[], |seat| {
            let mut raw = call(seat)?;
            for stream in 0..10 {
                let garbage = [&[0xff; 11][..], &noise(seat, 200)].concat();
                let stream = 1 + 2 * stream;
                begin(seat, &mut raw, stream)?;
                raw.write(&frame(DATA, END_STREAM, stream, &message(garbage.len(), &garbage)))?;
                verdict(seat, &mut raw)?;
            }
            Ok(())
        }),
        kind("v1, a message too large", &["trailers"], &["RST_STREAM"], |seat| {
            let mut raw = call(seat)?;
            begin(seat, &mut raw, 1)?;
            raw.write(&frame(DATA, 0, 1, &message(200 << 20, &[0; 10_000])))?;
            verdict(seat, &mut raw)?;
            Ok(())
        }),
        kind("v1, stops within a frame", &["left"], &[], |seat| {
            let mut raw = call(seat)?;
            begin(seat, &mut raw, 1)?;
            let whole = frame(DATA, END_STREAM, 1, &message(16_000, &[0; 16_000]));
            let cut = 1 + seat.random() as usize % (whole.len() - 1);
            raw.write(&whole[..cut])?;
            raw.pause(Duration::from_secs(2))?;
            seat.count("left");
            Ok(())
        }),
        kind("HTTP/2, opens and resets streams", &["GOAWAY"], &["closed", "trailers", "RST_STREAM"], |seat| {
            let mut raw = call(seat)?;
            let mut many = Vec::new();
            for stream in (0..RESETS).map(|number| 1 + 2 * number) {
                many.extend(headers(stream));
                many.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
            }
            seat.tally.requests += u64::from(RESETS);
            raw.write(&many)?;
            while verdict(seat, &mut raw)? != GOAWAY {}
            Ok(())
        }),
        kind("remoting, garbage for a header", &["closed"], &["answer"], |seat| {
            let mut raw = seat.connect(seat.at.remoting)?;
            let garbage = noise(seat, 300);
            seat.tally.requests += 1;
            raw.write(&remoting(garbage.len(), &garbage))?;
            remoting_answers(seat, &mut raw)
        }),
        kind("remoting, unknown requests", &["answer"], &[], |seat| {
            let mut raw = seat.connect(seat.at.nameserver)?;
            for opaque in 0..10 {
                let code = 5_000 + seat.random() % 1_000;
                let header =
                    format!("{{\"code\":{code},\"language\":\"JAVA\",\"version\":1,\"opaque\":{opaque},\"flag\":0}}");
                seat.tally.requests += 1;
                raw.write(&remoting(header.len(), header.as_bytes()))?;
                remoting_answer(seat, &mut raw)?;
            }
            Ok(())
        }),
        kind("remoting, a frame too large", &["closed"], &["answer"], |seat| {
            let mut raw = seat.connect(seat.at.remoting)?;
            seat.tally.requests += 1;
            raw.write(&[&(200u32 << 20).to_be_bytes()[..], &100u32.to_be_bytes(), &[b'{'; 5_000]].concat())?;
            remoting_answers(seat, &mut raw)
        }),
    ]
}

fn noise(seat: &mut Seat, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|_| seat.random().to_be_bytes()[0]).collect()
}

fn garbage(seat: &mut Seat, address: SocketAddr) -> io::Result<()> {
    let mut raw = seat.connect(address)?;
    let mut noise = noise(seat, 2_000);
    // What every protocol begins with is below: this is none.
    noise[0] |= 0x80;
    seat.tally.requests += 1;
    raw.write(&noise)?;
    raw.end()
}

/// A connection of HTTP/2, opened.
fn call(seat: &mut Seat) -> io::Result<Raw> {
    let mut raw = seat.connect(seat.at.grpc)?;
    raw.write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())?;
    Ok(raw)
}

fn begin(seat: &mut Seat, raw: &mut Raw, stream: u32) -> io::Result<()> {
    seat.tally.requests += 1;
    raw.write(&headers(stream))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What a gRPC message begins with, and so much of it as is there.
fn message(declared: usize, bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &u32::try_from(declared).unwrap_or(u32::MAX).to_be_bytes(), bytes].concat()
}

/// The head of a call, each field a literal that is not indexed.
fn headers(stream: u32) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", SEND_V1),
        (":authority", "test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // One byte holds lengths up to 126.
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Reads up to what ends a stream or the connection, and says its type.
fn verdict(seat: &mut Seat, raw: &mut Raw) -> io::Result<u8> {
    loop {
        let head = raw.take(9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        raw.take(length as usize)?;
        let (kind, flags) = (head[3], head[4]);
        let outcome = match kind {
            HEADERS if flags & END_STREAM != 0 => "trailers",
            RST_STREAM => "RST_STREAM",
            GOAWAY => "GOAWAY",
            _ => continue,
        };
        seat.count(outcome);
        return Ok(kind);
    }
}

/// A frame of the remoting protocol, with a header in JSON that is declared so long.
fn remoting(declared: usize, header: &[u8]) -> Vec<u8> {
    let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
    [&length(declared + 4)[..], &length(declared), header].concat()
}

fn remoting_answer(seat: &mut Seat, raw: &mut Raw) -> io::Result<()> {
    let length = raw.take(4)?;
    raw.take(u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize)?;
    seat.count("answer");
    Ok(())
}

fn remoting_answers(seat: &mut Seat, raw: &mut Raw) -> io::Result<()> {
    loop {
        remoting_answer(seat, raw)?;
    }
}
