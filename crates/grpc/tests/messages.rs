//! Sending, receiving and settling through the socket, against a real broker.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use martlet_grpc::proto::v2::{self, Code, Permission};
use std::time::{Duration, Instant};
use world::*;

#[tokio::test]
async fn a_batch_comes_back_whole_and_acking_it_twice_is_fine() {
    let world = World::new();
    let mut client = world.client().await;
    let mut first = message("orders", "01AA", b"one");
    first.user_properties.insert("colour".into(), "red".into());
    if let Some(system) = &mut first.system_properties {
        system.tag = Some("t".into());
        system.keys = vec!["k1".into(), "k2".into()];
    }
    let sent =
        client.send_message(send(vec![first, message("orders", "01BB", &[7; 40_000])])).await.unwrap().into_inner();
    assert_eq!(sent.status.unwrap().code(), Code::Ok);
    let ids: Vec<_> = sent.entries.iter().map(|entry| &entry.message_id[..]).collect();
    assert_eq!(ids, ["01AA", "01BB"]);
    assert!(sent.entries.iter().all(|entry| entry.status.as_ref().unwrap().code() == Code::Ok));

    let mut got = Vec::new();
    while got.len() < 2 {
        let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
        assert_eq!(polled.code, Code::Ok, "{}", polled.text);
        got.extend(polled.messages);
    }
    got.sort_by_key(|message| system(message).message_id.clone());
    let first = system(&got[0]);
    assert_eq!((first.tag.as_deref(), first.keys.len()), (Some("t"), 2));
    assert_eq!(got[0].user_properties["colour"], "red");
    assert_eq!(first.body_digest.as_ref().unwrap().checksum, "FE05BCDCDC4928012781A5F1A2A77CBB5398E106");
    assert_eq!((first.delivery_attempt, first.body_encoding()), (Some(1), v2::Encoding::Identity));
    assert!(first.born_timestamp.is_some() && first.store_timestamp.is_some() && !first.born_host.is_empty());
    assert_eq!(got[1].body, vec![7; 40_000]);

    let handles: Vec<_> = got.iter().map(handle).collect();
    for _ in 0..2 {
        let answers = ack(&mut client, "billing", "orders", &handles).await;
        assert!(answers.iter().all(|status| status.code() == Code::Ok), "{answers:?}");
    }
}

#[tokio::test]
async fn bad_handles_each_have_their_text_and_all_the_same_code() {
    let world = World::new();
    let mut client = world.client().await;
    client.send_message(send(vec![message("orders", "01AA", b"one")])).await.unwrap();
    let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    let old = handle(&polled.messages[0]);
    let change = v2::ChangeInvisibleDurationRequest {
        group: resource("billing"),
        topic: resource("orders"),
        receipt_handle: old.clone(),
        invisible_duration: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        ..Default::default()
    };
    let changed = client.change_invisible_duration(from("consumer", change.clone())).await.unwrap().into_inner();
    assert_eq!(changed.status.unwrap().code(), Code::Ok);
    let new = changed.receipt_handle;
    assert!(!new.is_empty() && new != old);

    // A change that fails gives back the handle that came with it.
    let too_long = v2::ChangeInvisibleDurationRequest {
        receipt_handle: new.clone(),
        invisible_duration: Some(prost_types::Duration { seconds: 43_201, nanos: 0 }),
        ..change
    };
    let failed = client.change_invisible_duration(from("consumer", too_long)).await.unwrap().into_inner();
    assert_eq!((failed.status.unwrap().code(), failed.receipt_handle), (Code::IllegalInvisibleTime, new.clone()));

    let forged = format!("{}A", &new[..new.len() - 1]);
    let forged = if forged == new { format!("{}B", &new[..new.len() - 1]) } else { forged };
    let answers = ack(&mut client, "billing", "orders", &[old, forged, "nonsense".into(), new.clone()]).await;
    let codes: Vec<_> = answers.iter().map(v2::Status::code).collect();
    assert_eq!(codes, [Code::InvalidReceiptHandle, Code::InvalidReceiptHandle, Code::InvalidReceiptHandle, Code::Ok]);
    let texts: std::collections::BTreeSet<_> = answers.iter().map(|status| &status.message).collect();
    assert_eq!(texts.len(), 4, "{answers:?}");

    poll(&mut client, from("other", v2::ReceiveMessageRequest { batch_size: 1, ..receive("other", "orders") })).await;
    let foreign = ack(&mut client, "other", "orders", &[new]).await;
    assert_eq!(foreign[0].code(), Code::InvalidReceiptHandle);
    assert!(foreign[0].message.contains("consumer group"), "{foreign:?}");
}

#[tokio::test]
async fn an_empty_poll_waits_and_says_so_and_a_send_ends_the_wait() {
    let world = World::new();
    world.broker.create_topic("orders", Default::default()).await.unwrap();
    let mut client = world.client().await;
    let start = Instant::now();
    let mut request = receive("billing", "orders");
    request.long_polling_timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let empty = poll(&mut client, from("consumer", request.clone())).await;
    assert_eq!((empty.code, empty.messages.len()), (Code::MessageNotFound, 0));
    assert!(start.elapsed() >= Duration::from_millis(4_900), "{:?}", start.elapsed());

    request.long_polling_timeout = Some(prost_types::Duration { seconds: 20, nanos: 0 });
    let mut waiting = client.clone();
    let poll = tokio::spawn(async move { poll(&mut waiting, from("consumer", request)).await });
    until("a poll that waits", || world.broker.figures().waiting_polls > 0).await;
    let start = Instant::now();
    client.send_message(send(vec![message("orders", "01AA", b"one")])).await.unwrap();
    let polled = poll.await.unwrap();
    assert_eq!((polled.code, polled.messages.len()), (Code::Ok, 1));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[tokio::test]
async fn what_a_client_did_not_take_goes_back_without_counting_as_a_delivery() {
    let world = World::new();
    let mut client = world.client().await;
    client.send_message(send(vec![message("orders", "01AA", &[1; 300_000])])).await.unwrap();
    // A client with a window of 1 kB that gives up before it has read the answer.
    let tcp = tokio::net::TcpStream::connect(world.address()).await.unwrap();
    let mut stalled = raw(tcp, 1024).await;
    let request = raw_request("/apache.rocketmq.v2.MessagingService/ReceiveMessage");
    let (response, mut stream) = stalled.send_request(request, false).unwrap();
    stream.send_data(framed(&receive("billing", "orders")), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert!(!body.data().await.unwrap().unwrap().is_empty());
    stream.send_reset(h2::Reason::CANCEL);

    let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    assert_eq!((polled.code, polled.messages.len()), (Code::Ok, 1));
    assert_eq!(system(&polled.messages[0]).delivery_attempt, Some(1));
}

#[tokio::test]
async fn a_deadline_too_short_for_a_poll_is_refused_at_once() {
    let world = World::new();
    let mut client = world.client().await;
    let mut request = from("consumer", receive("billing", "orders"));
    request.set_timeout(Duration::from_secs(3));
    let polled = poll(&mut client, request).await;
    assert_eq!(polled.code, Code::IllegalPollingTime, "{}", polled.text);
}

#[tokio::test]
async fn bad_polls_are_refused_with_their_code() {
    let world = World::with(|_, grpc| grpc.limits.polls_per_client_max = 2);
    world.broker.create_topic("orders", Default::default()).await.unwrap();
    let mut client = world.client().await;
    type Change = fn(&mut v2::ReceiveMessageRequest);
    let sql = |request: &mut v2::ReceiveMessageRequest| {
        let expression = "a > 1 and".into();
        request.filter_expression = Some(v2::FilterExpression { r#type: v2::FilterType::Sql as i32, expression });
    };
    let cases: [(Code, Change); 7] = [
        (Code::IllegalConsumerGroup, |request| request.group = None),
        (Code::IllegalTopic, |request| request.message_queue = None),
        (Code::BadRequest, |request| request.batch_size = 0),
        (Code::BadRequest, |request| request.batch_size = -5),
        (Code::IllegalInvisibleTime, |request| request.invisible_duration = None),
        (Code::IllegalInvisibleTime, |request| {
            request.invisible_duration = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        }),
        (Code::IllegalFilterExpression, sql),
    ];
    for (code, change) in cases {
        let mut request = receive("billing", "orders");
        change(&mut request);
        let polled = poll(&mut client, from("consumer", request)).await;
        assert_eq!(polled.code, code, "{}", polled.text);
    }
    let anonymous = poll(&mut client, tonic::Request::new(receive("billing", "orders"))).await;
    assert_eq!(anonymous.code, Code::ClientIdRequired);

    // Two polls of one client wait; the third is too many; another client still has room.
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { poll(&mut client, from("greedy", receive("billing", "orders"))).await })
        })
        .collect();
    until("two polls", || world.server.as_ref().unwrap().polls() == 2).await;
    let third = poll(&mut client, from("greedy", receive("billing", "orders"))).await;
    assert_eq!(third.code, Code::TooManyRequests, "{}", third.text);
    client.send_message(send((0..9).map(|n| message("orders", &n.to_string(), b"x")).collect())).await.unwrap();
    let other = poll(&mut client, from("modest", receive("reports", "orders"))).await;
    assert_eq!(other.code, Code::Ok);
    for poll in waiting {
        poll.abort();
    }
    until("the end of both polls", || world.server.as_ref().unwrap().polls() == 0).await;
}

#[tokio::test]
async fn bad_sends_are_refused_as_a_whole() {
    let world = World::new();
    let mut client = world.client().await;
    world.broker.create_topic("orders", Default::default()).await.unwrap();
    let fifo = martlet_broker::TopicSettings { kind: Some(martlet_model::TopicType::Fifo), ..Default::default() };
    world.broker.create_topic("ordered", fifo).await.unwrap();
    let grouped = |topic: &str| {
        let mut message = message(topic, "01AA", b"x");
        if let Some(system) = &mut message.system_properties {
            system.message_group = Some("g".into());
        }
        message
    };
    let cases = [
        (vec![], Code::MessageCorrupted),
        (vec![message("orders", "1", b"x"), message("other", "2", b"x")], Code::MessageCorrupted),
        (vec![message("orders", "1", b"x"), message("orders", "2", b"")], Code::MessageBodyEmpty),
        (vec![message("a b", "1", b"x")], Code::IllegalTopic),
        (vec![grouped("orders")], Code::MessagePropertyConflictWithType),
        (vec![message("ordered", "1", b"x")], Code::MessagePropertyConflictWithType),
        (vec![grouped("ordered"), message("ordered", "1", b"x")], Code::MessagePropertyConflictWithType),
    ];
    for (messages, code) in cases {
        let response = client.send_message(send(messages)).await.unwrap().into_inner();
        let status = response.status.unwrap();
        assert_eq!((status.code(), response.entries.len()), (code, 0), "{}", status.message);
    }
    let anonymous = v2::SendMessageRequest { messages: vec![message("orders", "1", b"x")] };
    let response = client.send_message(anonymous).await.unwrap().into_inner();
    assert_eq!(response.status.unwrap().code(), Code::ClientIdRequired);
    for topic in ["orders", "ordered"] {
        let status = world.broker.topic_status(topic).await.unwrap();
        assert!(status.queues.iter().all(|queue| queue.max_offset.0 == 0), "something of a refused send was stored");
    }
}

#[tokio::test]
async fn routes_echo_what_was_dialled_and_assignments_name_the_whole_broker() {
    let world = World::with(|broker, _| {
        broker.auto_create_topics = false;
        broker.auto_create_groups = false;
    });
    world.broker.create_topic("ns%orders", Default::default()).await.unwrap();
    world.broker.create_group("billing", Default::default()).await.unwrap();
    let mut client = world.client().await;
    let address = v2::Address { host: "nat.example".into(), port: 30_081 };
    let endpoints = v2::Endpoints { scheme: v2::AddressScheme::DomainName as i32, addresses: vec![address] };
    let topic = Some(v2::Resource { resource_namespace: "ns".into(), name: "orders".into() });
    let request = v2::QueryRouteRequest { topic: topic.clone(), endpoints: Some(endpoints.clone()) };
    let route = client.query_route(from("c", request.clone())).await.unwrap().into_inner();
    assert_eq!(route.status.unwrap().code(), Code::Ok);
    assert_eq!(route.message_queues.len(), 8);
    for (id, queue) in route.message_queues.iter().enumerate() {
        let broker = queue.broker.as_ref().unwrap();
        assert_eq!((queue.id, &queue.topic, broker.id), (id as i32, &topic, 0));
        assert_eq!(broker.endpoints.as_ref(), Some(&endpoints));
        assert_eq!(queue.permission(), Permission::ReadWrite);
        assert_eq!(queue.accept_message_types, [v2::MessageType::Normal as i32]);
    }
    let missing = v2::QueryRouteRequest { topic: resource("missing"), ..request };
    let route = client.query_route(from("c", missing)).await.unwrap().into_inner();
    assert_eq!(route.status.unwrap().code(), Code::TopicNotFound);

    let request = v2::QueryAssignmentRequest { topic, group: resource("billing"), endpoints: Some(endpoints.clone()) };
    let assigned = client.query_assignment(from("c", request.clone())).await.unwrap().into_inner();
    let queues: Vec<_> = assigned.assignments.iter().map(|it| it.message_queue.as_ref().unwrap().id).collect();
    assert_eq!(queues, [-1]);
    let unknown = v2::QueryAssignmentRequest { group: resource("missing"), ..request };
    let assigned = client.query_assignment(from("c", unknown)).await.unwrap().into_inner();
    assert_eq!(assigned.status.unwrap().code(), Code::ConsumerGroupNotFound);
}

#[tokio::test]
async fn dead_letters_can_be_forwarded_and_received() {
    let world = World::new();
    let mut client = world.client().await;
    client.send_message(send(vec![message("orders", "01AA", b"one")])).await.unwrap();
    let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    let request = v2::ForwardMessageToDeadLetterQueueRequest {
        group: resource("billing"),
        topic: resource("orders"),
        receipt_handle: handle(&polled.messages[0]),
        message_id: "01AA".into(),
        ..Default::default()
    };
    let forwarded = client.forward_message_to_dead_letter_queue(from("consumer", request)).await.unwrap().into_inner();
    assert_eq!(forwarded.status.as_ref().unwrap().code(), Code::Ok, "{forwarded:?}");
    let dead = poll(&mut client, from("consumer", receive("undertaker", "%DLQ%billing"))).await;
    assert_eq!(dead.code, Code::Ok, "{}", dead.text);
    let origin = system(&dead.messages[0]).dead_letter_queue.as_ref().unwrap();
    assert_eq!((&origin.topic[..], &origin.message_id[..]), ("orders", "01AA"));
}
