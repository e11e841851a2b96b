//! Looking at messages without consuming them, dead letters and resets, through `martlet.v1.Admin`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use martlet_grpc::proto::v1::admin_client::AdminClient;
use martlet_grpc::proto::v1::{self, find_messages_request as find, peek_messages_request as peek};
use martlet_grpc::proto::v2::{self, Code};
use std::collections::BTreeSet;
use tonic::transport::Channel;
use world::*;

async fn admin(world: &World) -> AdminClient<Channel> {
    let mut admin = AdminClient::new(world.channel().await).max_decoding_message_size(64 << 20);
    let settings = v1::TopicSettings { queues: Some(2), ..Default::default() };
    let request = v1::CreateTopicRequest { name: "orders".into(), settings: Some(settings) };
    let answer = admin.create_topic(from("admin", request)).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    admin
}

async fn send_with_keys(world: &World, id: &str, keys: &[&str], body: &[u8]) {
    let mut message = message("orders", id, body);
    message.system_properties.as_mut().unwrap().keys = keys.iter().map(|&key| key.to_owned()).collect();
    let answer = world.client().await.send_message(send(vec![message])).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
}

fn by_key(key: &str) -> v1::FindMessagesRequest {
    let wanted = Some(find::Wanted::Key(key.into()));
    v1::FindMessagesRequest { topic: "orders".into(), wanted, ..Default::default() }
}

/// All hits, page by page.
async fn find_all(admin: &mut AdminClient<Channel>, mut request: v1::FindMessagesRequest) -> Vec<v2::Message> {
    let mut all = Vec::new();
    loop {
        let answer = admin.find_messages(from("admin", request.clone())).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code(), Code::Ok);
        all.extend(answer.messages);
        match answer.after {
            Some(after) => request.after = Some(after),
            None => return all,
        }
    }
}

#[tokio::test]
async fn every_message_with_a_key_is_found_however_many_there_are() {
    let world = World::new();
    let mut admin = admin(&world).await;
    let mut client = world.client().await;
    for batch in 0..5 {
        let messages = (0..50).map(|n| {
            let mut message = message("orders", &format!("{batch}-{n}"), b"x");
            message.system_properties.as_mut().unwrap().keys = vec!["common".into()];
            message
        });
        client.send_message(send(messages.collect())).await.unwrap();
    }
    for limit in [0, 7, 64, 1000] {
        let found = find_all(&mut admin, v1::FindMessagesRequest { limit, ..by_key("common") }).await;
        let ids: BTreeSet<&str> = found.iter().map(|message| system(message).message_id.as_str()).collect();
        assert_eq!((found.len(), ids.len()), (250, 250), "each once, with pages of {limit}");
    }
    let newest = &find_all(&mut admin, by_key("common")).await[0];
    assert!(system(newest).message_id.starts_with("4-"), "the newest first");
}

#[tokio::test]
async fn a_message_that_has_a_key_twice_is_found_once() {
    let world = World::new();
    let mut admin = admin(&world).await;
    send_with_keys(&world, "01AA", &["twice", "twice", "once"], b"x").await;
    assert_eq!(find_all(&mut admin, by_key("twice")).await.len(), 1);
    assert_eq!(find_all(&mut admin, by_key("once")).await.len(), 1);
    assert_eq!(find_all(&mut admin, by_key("never")).await.len(), 0);
    // A topic and a key that run together as text are not taken for each other.
    assert_eq!(find_all(&mut admin, by_key("orders#once")).await.len(), 0);
}

#[tokio::test]
async fn a_message_is_found_by_id_in_whatever_topic_it_is_and_nothing_is_consumed() {
    let world = World::new();
    let mut admin = admin(&world).await;
    send_with_keys(&world, "01AA", &["k"], b"hello").await;
    let request =
        v1::FindMessagesRequest { wanted: Some(find::Wanted::MessageId("01AA".into())), ..Default::default() };
    let found = find_all(&mut admin, request).await;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].body[..], found[0].topic.as_ref().unwrap().name.as_str()), (&b"hello"[..], "orders"));
    assert_eq!((&system(&found[0]).receipt_handle, system(&found[0]).delivery_attempt), (&None, None));
    let polled = poll(&mut world.client().await, from("consumer", receive("billing", "orders"))).await;
    assert_eq!(system(&polled.messages[0]).delivery_attempt, Some(1));
    // The call of apache.rocketmq.v2 finds the same.
    let mut v2_admin = v2::admin_client::AdminClient::new(world.channel().await);
    let request = v2::ListMessageRequest {
        topic: resource("orders"),
        search_key: Some(v2::list_message_request::SearchKey::MessageKey("k".into())),
        ..Default::default()
    };
    let answer = v2_admin.query_message(from("admin", request)).await.unwrap().into_inner();
    assert_eq!((answer.status.unwrap().code(), answer.messages.len()), (Code::Ok, 1));
}

#[tokio::test]
async fn peeking_shows_what_is_there_by_place_and_by_time_page_by_page() {
    let world = World::new();
    let mut admin = admin(&world).await;
    for n in 0..20 {
        send_with_keys(&world, &format!("id{n:02}"), &[], b"x").await;
    }
    let peek = |queue, from, count| v1::PeekMessagesRequest { topic: "orders".into(), queue, from, count };
    let mut ids = Vec::new();
    let mut start = None;
    loop {
        let answer = admin.peek_messages(from("admin", peek(None, start, 3))).await.unwrap().into_inner();
        ids.extend(answer.messages.iter().map(|message| system(message).message_id.clone()));
        if answer.next.is_empty() {
            break;
        }
        start = Some(peek::From::Places(peek::Places { places: answer.next }));
    }
    let mut sorted = ids.clone();
    sorted.sort();
    sorted.dedup();
    assert_eq!((ids.len(), sorted.len()), (20, 20), "each once");
    let one = admin.peek_messages(from("admin", peek(Some(1), Some(peek::From::Offset(4)), 1))).await.unwrap();
    let one = one.into_inner().messages.remove(0);
    assert_eq!((system(&one).queue_id, system(&one).queue_offset), (1, Some(4)));
    let since = one.system_properties.unwrap().store_timestamp.unwrap();
    let since = since.seconds * 1000 + i64::from(since.nanos / 1_000_000);
    let later = admin.peek_messages(from("admin", peek(None, Some(peek::From::SinceMillis(since)), 100))).await;
    let later = later.unwrap().into_inner().messages;
    let millis = |message: &v2::Message| {
        let stored = system(message).store_timestamp.unwrap();
        stored.seconds * 1000 + i64::from(stored.nanos / 1_000_000)
    };
    assert!(later.len() >= 10 && later.iter().all(|message| millis(message) >= since), "{}", later.len());
    assert!(later.is_sorted_by_key(millis));
    let end = i64::MAX / 2;
    let none = admin.peek_messages(from("admin", peek(None, Some(peek::From::SinceMillis(end)), 100))).await.unwrap();
    assert!(none.into_inner().messages.is_empty());
    for (request, code) in [
        (peek(Some(2), None, 1), Code::BadRequest),
        (peek(None, None, 1001), Code::BadRequest),
        (v1::PeekMessagesRequest { topic: "missing".into(), ..Default::default() }, Code::TopicNotFound),
    ] {
        let answer = admin.peek_messages(from("admin", request)).await.unwrap().into_inner();
        assert_eq!(answer.status.unwrap().code(), code);
    }
}

#[tokio::test]
async fn dead_letters_are_listed_resent_with_all_they_had_and_received_again() {
    let world = World::new();
    let mut admin = admin(&world).await;
    let mut client = world.client().await;
    send_with_keys(&world, "01AA", &["k1", "k2"], b"one").await;
    send_with_keys(&world, "01AB", &[], b"two").await;
    let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    assert_eq!(polled.messages.len(), 2);
    for message in &polled.messages {
        let request = v2::ForwardMessageToDeadLetterQueueRequest {
            group: resource("billing"),
            topic: resource("orders"),
            receipt_handle: handle(message),
            message_id: system(message).message_id.clone(),
            ..Default::default()
        };
        let answer = client.forward_message_to_dead_letter_queue(from("consumer", request)).await.unwrap();
        assert_eq!(answer.into_inner().status.unwrap().code(), Code::Ok);
    }
    let list =
        |id: &str| v1::ListDeadLettersRequest { group: "billing".into(), message_id: id.into(), ..Default::default() };
    let letters = admin.list_dead_letters(from("admin", list(""))).await.unwrap().into_inner().messages;
    assert_eq!(letters.len(), 2);
    let origin = |message: &v2::Message| system(message).dead_letter_queue.clone().unwrap();
    assert!(letters.iter().all(|letter| origin(letter).topic == "orders"));
    let one = admin.list_dead_letters(from("admin", list("01AA"))).await.unwrap().into_inner().messages.remove(0);
    let place = v1::Place {
        topic: one.topic.as_ref().unwrap().name.clone(),
        queue: 0,
        offset: system(&one).queue_offset.unwrap() as u64,
    };
    let resend = v1::ResendDeadLettersRequest { group: "billing".into(), letters: vec![place.clone(), place] };
    let answer = admin.resend_dead_letters(from("admin", resend)).await.unwrap().into_inner();
    let codes: Vec<_> = answer.results.iter().map(|result| result.status.as_ref().unwrap().code()).collect();
    assert_eq!(codes, [Code::Ok, Code::PreconditionFailed], "once");
    assert_eq!(answer.results[0].to.as_ref().unwrap().topic, "orders");
    let again = poll(&mut client, from("consumer", receive("billing", "orders"))).await.messages;
    assert_eq!(again.len(), 1);
    let system = system(&again[0]);
    assert_eq!((&again[0].body[..], system.message_id.as_str()), (&b"one"[..], "01AA"));
    assert_eq!((&system.keys[..], &system.dead_letter_queue), (&["k1".to_owned(), "k2".to_owned()][..], &None));
    assert_eq!(find_all(&mut admin, by_key("k2")).await.len(), 2, "the first copy and the resent one");
    let left = admin.list_dead_letters(from("admin", list(""))).await.unwrap().into_inner().messages;
    assert_eq!(left.len(), 1);
    let request = v1::DescribeGroupRequest { name: "billing".into() };
    assert_eq!(admin.describe_group(from("admin", request)).await.unwrap().into_inner().dead_letters, 1);
}

#[tokio::test]
async fn a_group_is_reset_to_a_time_and_to_an_offset_and_its_age_is_told() {
    let world = World::new();
    let mut admin = admin(&world).await;
    let mut client = world.client().await;
    send_with_keys(&world, "01AA", &[], b"x").await;
    send_with_keys(&world, "01AB", &[], b"x").await;
    let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    let handles: Vec<String> = polled.messages.iter().map(handle).collect();
    ack(&mut client, "billing", "orders", &handles).await;
    let reset = |to| v1::ResetOffsetRequest {
        group: "billing".into(),
        topic: "orders".into(),
        to: Some(to),
        ..Default::default()
    };
    use v1::reset_offset_request::{Latest, To};
    let answer = admin.reset_offset(from("admin", reset(To::TimeMillis(0)))).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    assert_eq!(answer.queues.iter().map(|queue| (queue.from_offset, queue.to_offset)).collect::<Vec<_>>(), [(1, 0); 2]);
    let describe = || from("admin", v1::DescribeGroupRequest { name: "billing".into() });
    // Stored a moment ago: the age grows from call to call.
    let started = std::time::Instant::now();
    let progress = loop {
        let progress = admin.describe_group(describe()).await.unwrap().into_inner().progress;
        if progress.iter().all(|queue| queue.lag_millis > 0) {
            break progress;
        }
        assert!(started.elapsed().as_secs() < 10, "{progress:?}");
    };
    assert!(progress.iter().all(|queue| queue.ready == 1 && queue.queueing_millis == queue.lag_millis));
    assert_eq!(poll(&mut client, from("consumer", receive("billing", "orders"))).await.messages.len(), 2);
    let answer = admin.reset_offset(from("admin", reset(To::Offset(2)))).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert_eq!(status.code(), Code::IllegalOffset);
    assert!(status.message.contains("offset 2 of queue 0 is not from 0 to 1"), "{}", status.message);
    let answer = admin.reset_offset(from("admin", reset(To::Latest(Latest {})))).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    let progress = admin.describe_group(describe()).await.unwrap().into_inner().progress;
    assert!(progress.iter().all(|queue| queue.ready + queue.in_flight == 0 && queue.lag_millis == 0));
    // The call of apache.rocketmq.v2 resets to a time, too.
    let mut v2_admin = v2::admin_client::AdminClient::new(world.channel().await);
    let request = v2::ResetGroupOffsetRequest {
        group: resource("billing"),
        topic: resource("orders"),
        reset_timestamp: Some(Default::default()),
        ..Default::default()
    };
    let answer = v2_admin.reset_group_offset(from("admin", request)).await.unwrap().into_inner();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    assert_eq!(poll(&mut client, from("consumer", receive("billing", "orders"))).await.messages.len(), 2);
}
