//! What misbehaves on the port of the HTTP SDK protocol.

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use super::raw::{Raw, is_slice};
use super::{Kind, Seat};

/// Larger than what a publish may have.
const ENDLESS_BYTES: usize = 30 << 20;
/// Between two bytes of a slow writer.
const SLOW: Duration = Duration::from_millis(200);

pub(super) fn kinds() -> Vec<Kind> {
    let kind = |name, gets, may_get, round| Kind { name, gets, may_get, round };
    vec![
        kind("entities in XML", &["400 MalformedXML"], &[], |seat| {
            let entities: String = (1..20).map(|n| format!("<!ENTITY e{n} \"&e{0};&e{0};\">", n - 1)).collect();
            let body = "<Message><MessageBody>&e19;</MessageBody></Message>";
            publish(seat, &format!("<!DOCTYPE m [<!ENTITY e0 \"ha\">{entities}]>{body}"))
        }),
        kind("deep XML", &["400 MalformedXML"], &[], |seat| {
            publish(seat, &format!("<Message>{}", "<a>".repeat(10_000)))
        }),
        kind("XML with 5,000 elements", &["400 MalformedXML"], &[], |seat| {
            publish(seat, &format!("<Message>{}</Message>", "<a/>".repeat(5_000)))
        }),
        kind("wrong Content-MD5", &["400 InvalidDigest"], &[], |seat| {
            publish_with(seat, "Content-MD5: AAAAAAAAAAAAAAAAAAAAAA==\r\n", MESSAGE)
        }),
        kind("more body than declared", &["400 MalformedXML", "400 InvalidArgument", "closed"], &[], |seat| {
            let (half, mut raw) = (MESSAGE.len() / 2, seat.connect(seat.at.http)?);
            raw.write(format!("{}Content-Length: {half}\r\n\r\n{MESSAGE}", post(seat)).as_bytes())?;
            answers_to_the_end(seat, &mut raw)
        }),
        kind("less body than declared", &["400 InvalidArgument", "closed"], &[], |seat| {
            let mut raw = seat.connect(seat.at.http)?;
            raw.write(format!("{}Content-Length: 1000\r\n\r\n{MESSAGE}", post(seat)).as_bytes())?;
            raw.stream().shutdown(Shutdown::Write)?;
            answers_to_the_end(seat, &mut raw)
        }),
        kind("100 GB declared and begun", &["400 InvalidArgument", "closed"], &[], |seat| {
            let mut raw = seat.connect(seat.at.http)?;
            let head = format!("{}Content-Length: 99999999999\r\n\r\n", post(seat));
            raw.write(&[head.as_bytes(), &[b'x'; 20_000]].concat())?;
            answers_to_the_end(seat, &mut raw)
        }),
        kind("long heads", &["431 InvalidArgument", "closed"], &[], |seat| {
            let mut raw = seat.connect(seat.at.http)?;
            let more = match seat.random() % 2 {
                0 => format!("X-Long: {}\r\n", "x".repeat(20_000)),
                _ => "a: b\r\n".repeat(1_000),
            };
            raw.write(format!("{}{more}\r\n", post(seat)).as_bytes())?;
            answers_to_the_end(seat, &mut raw)
        }),
        kind("Expect, and no body", &["100", "400 InvalidArgument", "closed"], &[], |seat| {
            let mut raw = seat.connect(seat.at.http)?;
            raw.write(format!("{}Content-Length: 500\r\nExpect: 100-continue\r\n\r\n", post(seat)).as_bytes())?;
            answers_to_the_end(seat, &mut raw)
        }),
        kind("Expect, and gone", &["100", "left"], &[], |seat| {
            let mut raw = seat.connect(seat.at.http)?;
            raw.write(format!("{}Content-Length: 500\r\nExpect: 100-continue\r\n\r\n", post(seat)).as_bytes())?;
            answer(seat, &mut raw)?;
            seat.count("left");
            Ok(())
        }),
        // How soon its answers are stuck too, so that it is closed 30 s after, depends on the machine.
        kind("pipelines, reads no answer", &["stuck"], &["closed"], |seat| {
            let mut raw = seat.connect(seat.at.http)?;
            pipelined(seat, &mut raw, &"GET /nowhere HTTP/1.1\r\nHost: test\r\n\r\n".repeat(100))
        }),
        kind("asks for 1 MB each, reads nothing", &["201", "stuck", "closed"], &[], large_unread),
        kind("bad chunks", &["400 InvalidArgument", "closed"], &[], |seat| {
            const CHUNKS: [&str; 5] = ["zz\r\nx\r\n", "-1\r\n", "fffffffffffffffff\r\n", "1\r\nxx\r\n", "5;\n\n\nx"];
            let chunk = CHUNKS[seat.random() as usize % CHUNKS.len()];
            let mut raw = seat.connect(seat.at.http)?;
            raw.write(format!("{}Transfer-Encoding: chunked\r\n\r\n{chunk}", post(seat)).as_bytes())?;
            answers_to_the_end(seat, &mut raw)
        }),
        kind("chunks without an end", &["400 InvalidArgument"], &["closed"], endless),
        kind("head, a byte now and then", &["closed"], &[], |seat| {
            let head = post(seat);
            slowly(seat, "", &head.repeat(10))
        }),
        kind("body, a byte now and then", &["400 InvalidArgument", "closed"], &[], |seat| {
            let head = format!("{}Content-Length: 5000\r\n\r\n", post(seat));
            slowly(seat, &head, &MESSAGE.repeat(10))
        }),
        kind("polls, and resets", &["404 MessageNotExist", "left"], &[], reset_in_a_poll),
        kind("takes, never acknowledges", &["201", "200"], &["404 MessageNotExist"], |seat| {
            let mut raw = seat.connect(seat.at.http)?;
            for _ in 0..20 {
                let length = MESSAGE.len();
                raw.write(format!("{}Content-Length: {length}\r\n\r\n{MESSAGE}", post(seat)).as_bytes())?;
                answer(seat, &mut raw)?;
                raw.write(poll(seat, 0).as_bytes())?;
                answer(seat, &mut raw)?;
            }
            Ok(())
        }),
    ]
}

const MESSAGE: &str =
    "<Message xmlns=\"http://mq.aliyuncs.com/doc/v1/\"><MessageBody>from the crowd</MessageBody></Message>";

/// The head of a publish, up to what says how long its body is.
fn post(seat: &mut Seat) -> String {
    seat.tally.requests += 1;
    format!("POST /topics/{}/messages HTTP/1.1\r\nHost: test\r\n", seat.topic)
}

/// A poll that waits for so many seconds.
fn poll(seat: &mut Seat, wait_secs: u32) -> String {
    seat.tally.requests += 1;
    let wait = if wait_secs == 0 { String::new() } else { format!("&waitseconds={wait_secs}") };
    let target = format!("/topics/{0}/messages?consumer={0}&numOfMessages=16{wait}", seat.topic);
    format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
}

fn answer(seat: &mut Seat, raw: &mut Raw) -> io::Result<()> {
    let (outcome, _) = raw.answer()?;
    seat.count(outcome);
    Ok(())
}

fn answers_to_the_end(seat: &mut Seat, raw: &mut Raw) -> io::Result<()> {
    loop {
        answer(seat, raw)?;
    }
}

/// A publish of its own connection.
fn publish(seat: &mut Seat, body: &str) -> io::Result<()> {
    publish_with(seat, "", body)
}

fn publish_with(seat: &mut Seat, headers: &str, body: &str) -> io::Result<()> {
    let mut raw = seat.connect(seat.at.http)?;
    for _ in 0..3 {
        let head = post(seat);
        raw.write(format!("{head}{headers}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        answer(seat, &mut raw)?;
    }
    Ok(())
}

/// Asks again and again, 100 requests at a time, until nothing more goes in, and waits for the broker to have enough of that.
fn pipelined(seat: &mut Seat, raw: &mut Raw, requests: &str) -> io::Result<()> {
    let mut written = 0;
    loop {
        // Where the last one was cut it goes on.
        match raw.write_some(&requests.as_bytes()[written % requests.len()..])? {
            0 => break,
            more => written += more,
        }
    }
    seat.tally.requests += (written * 100 / requests.len()) as u64;
    seat.count("stuck");
    // Without reading, which would make room: only what is written says that the other side is gone.
    loop {
        raw.pause(Duration::from_millis(500))?;
        raw.write_some(b"x")?;
    }
}

/// Each of its polls is of a group of its own, which has not had the message.
fn large_unread(seat: &mut Seat) -> io::Result<()> {
    let mut raw = seat.connect(seat.at.http)?;
    let body = MESSAGE.replace("from the crowd", &"x".repeat(1 << 20));
    let head = post(seat);
    raw.write(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
    answer(seat, &mut raw)?;
    let (topic, round) = (seat.topic.clone(), seat.tally.connections);
    let polls = (0..100).map(|group| {
        let target = format!("/topics/{topic}/messages?consumer={topic}-{round}-{group}&numOfMessages=1");
        format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")
    });
    pipelined(seat, &mut raw, &polls.collect::<String>())
}

fn endless(seat: &mut Seat) -> io::Result<()> {
    let mut raw = seat.connect(seat.at.http)?;
    // An acknowledgement is full earlier than a publish.
    let (head, bytes) = match seat.random() % 16 {
        0 => (post(seat), ENDLESS_BYTES),
        _ => (post(seat).replace("POST", "DELETE"), 1 << 20),
    };
    raw.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
    let chunk = [b"10000\r\n", &[b'x'; 1 << 16][..], b"\r\n"].concat();
    for _ in 0..bytes / chunk.len() {
        // It may be answered by now, and then nobody reads on.
        if raw.write(&chunk).is_err() {
            break;
        }
    }
    answers_to_the_end(seat, &mut raw)
}

fn slowly(seat: &mut Seat, head: &str, rest: &str) -> io::Result<()> {
    let mut raw = seat.connect(seat.at.http)?;
    raw.write(head.as_bytes())?;
    for byte in rest.bytes() {
        raw.pause(SLOW)?;
        if raw.write(&[byte]).is_err() {
            break;
        }
        let mut peeked = [0];
        raw.stream().set_nonblocking(true)?;
        let seen = raw.stream().peek(&mut peeked);
        raw.stream().set_nonblocking(false)?;
        if seen.is_ok() {
            break;
        }
    }
    answers_to_the_end(seat, &mut raw)
}

/// Goes away with an answer unread, which resets the connection, while the poll behind it waits.
fn reset_in_a_poll(seat: &mut Seat) -> io::Result<()> {
    let mut raw = seat.connect(seat.at.http)?;
    raw.write(poll(seat, 0).as_bytes())?;
    answer(seat, &mut raw)?;
    let polls = format!("{}{}", poll(seat, 0), poll(seat, 30));
    raw.write(polls.as_bytes())?;
    while let Err(error) = raw.stream().peek(&mut [0]) {
        if !is_slice(error.kind()) {
            return Err(error);
        }
        raw.pause(Duration::from_millis(1))?;
    }
    seat.count("left");
    Ok(())
}
