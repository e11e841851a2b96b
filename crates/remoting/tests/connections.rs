//! Connections whose clients send much at once, little at a time, or do not read.

mod world;

use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::frame;
use martlet_remoting::codec::header::Header;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use world::{Client, World, denied, property_text, send_fields};

/// The frame of a send.
fn send(opaque: i32, topic: &str, body: &[u8]) -> Vec<u8> {
    let properties = property_text(&[("UNIQ_KEY", &format!("id-{opaque}"))]);
    let fields = send_fields(topic, "-1", &properties).into_iter().collect();
    let header = Header { code: request::SEND_MESSAGE_V2, opaque, fields, version: 513, ..Header::default() };
    [&frame::head(&header, body.len())[..], body].concat()
}

/// Reads so many answers, all of them good, and gives their numbers.
async fn good_answers(client: &mut Client, count: usize) -> BTreeSet<i32> {
    let mut numbers = BTreeSet::new();
    for _ in 0..count {
        let answer = client.answer().await;
        assert_eq!(denied(&answer), (response::SUCCESS, ""));
        numbers.insert(answer.header.opaque);
    }
    numbers
}

#[tokio::test]
async fn whatever_comes_at_once_is_answered_with_few_places_and_little_room() {
    for (places, bytes) in [(1024, 256 << 20), (3, 256 << 20), (1024, 1)] {
        let world = World::with(|_, remoting| {
            remoting.limits.requests_per_connection_max = places;
            remoting.limits.inbound_bytes = bytes;
        });
        let mut client = world.client().await;
        let sizes = [1, 100, 4_000, 70_000, 300_000];
        let frames: Vec<u8> =
            (0..500).flat_map(|n| send(n, "much", &vec![b'x'; sizes[(n % 100) as usize / 20]])).collect();
        // Answers are read once all is sent: the broker stops reading meanwhile, but writes.
        let half = frames.len() / 2 + 7;
        client.write(&frames[..half]).await;
        client.write(&frames[half..]).await;
        assert_eq!(good_answers(&mut client, 500).await, (0..500).collect());
    }
}

#[tokio::test]
async fn a_frame_may_come_byte_by_byte() {
    let world = World::new();
    let mut client = world.client().await;
    let frames = [send(1, "slow", b"a"), send(2, "slow", &[b'b'; 100])].concat();
    for byte in frames {
        client.write(&[byte]).await;
    }
    assert_eq!(good_answers(&mut client, 2).await, [1, 2].into());
}

#[tokio::test]
async fn a_client_that_begins_a_frame_and_goes_silent_is_closed_and_its_room_is_given_back() {
    let world = World::with(|_, remoting| {
        remoting.limits.frame_timeout = Duration::from_millis(300);
        remoting.limits.inbound_bytes = 1;
    });
    let largest = send(1, "room", &vec![b'x'; 4_000_000]);
    let mut silent = world.client().await;
    silent.write(&largest[..largest.len() - 1]).await;
    assert!(silent.read().await.is_none(), "closed");
    let mut client = world.client().await;
    for n in 0..5 {
        client.write(&send(n, "room", &vec![b'x'; 4_000_000])).await;
        assert_eq!(good_answers(&mut client, 1).await, [n].into());
    }
    assert_eq!(world.server().figures().inbound.0, 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_keeps_nobody_waiting() {
    let world = World::with(|_, remoting| remoting.limits.write_timeout = Duration::from_millis(300));
    let mut other = world.client().await;
    let mut deaf = TcpStream::connect(world.server().local_addr()).await.unwrap();
    let ask = |opaque| {
        let header = Header { code: request::GET_ALL_TOPIC_CONFIG, opaque, version: 513, ..Header::default() };
        frame::head(&header, 0)
    };
    for topic in 0..50 {
        other.write(&send(topic, &format!("topic-{topic}"), b"x")).await;
        good_answers(&mut other, 1).await;
    }
    // Until the broker, which reads no more of it after a while, has closed it.
    let mut number = 0;
    let closed = async {
        while deaf.write_all(&ask(number)).await.is_ok() {
            number += 1;
        }
    };
    let served = async {
        for n in 0..200 {
            other.write(&send(n, "topic-1", b"x")).await;
            good_answers(&mut other, 1).await;
        }
    };
    tokio::join!(closed, served);
}

#[tokio::test]
async fn what_is_under_way_is_answered_when_the_broker_stops() {
    let mut world = World::with(|_, remoting| remoting.limits.drain_timeout = Duration::from_secs(30));
    let mut client = world.client().await;
    client.write(&send(1, "last", b"x")).await;
    good_answers(&mut client, 1).await;
    client.write(&(2..100).flat_map(|n| send(n, "last", b"x")).collect::<Vec<u8>>()).await;
    // The first of them is under way.
    let first = client.answer().await.header.opaque;
    let server = world.server.take().unwrap();
    let stopping = tokio::task::spawn_blocking(move || server.shutdown());
    let mut answered = BTreeSet::from([first]);
    while let Some(answer) = client.read().await {
        assert_eq!(denied(&answer), (response::SUCCESS, ""));
        answered.insert(answer.header.opaque);
    }
    stopping.await.unwrap();
    // What is durable was acknowledged, and the other way round.
    for number in 2..100 {
        let found = world.find("last", &format!("id-{number}")).await;
        assert_eq!(!found.messages.is_empty(), answered.contains(&number), "{number}");
    }
}
