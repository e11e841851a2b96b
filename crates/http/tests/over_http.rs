//! Publishing, consuming, acknowledging.

#![allow(clippy::unwrap_used)]

mod world;

use martlet_broker::GroupSettings;
use martlet_model::group::{DeliveryOrder, RetryBackoff};
use martlet_model::record::Field;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use world::{World, body_of};

#[tokio::test]
async fn what_is_published_is_consumed_with_all_it_has_and_acknowledged() {
    let world = World::new();
    let mut client = world.client().await;
    let sent = client.publish("orders", "a &lt;b&gt; &amp;\r\nä", "tag", "KEYS:k1 k2|colour:grün|").await;
    assert_eq!((sent.status, sent.one("MessageBodyMD5").len()), (201, 32));
    assert!(sent.all("ReceiptHandle").is_empty());
    let got = client.consume("orders", "consumer=g&numOfMessages=16&waitseconds=5&tag=tag").await;
    assert_eq!(got.status, 200, "{got:?}");
    assert_eq!(got.one("MessageId"), sent.one("MessageId"));
    assert_eq!(got.one("MessageBody"), "a <b> &\r\nä");
    assert_eq!(got.one("MessageBodyMD5"), sent.one("MessageBodyMD5"));
    assert_eq!((got.one("MessageTag"), got.one("ConsumedTimes")), ("tag".into(), "1".into()));
    assert_eq!(got.one("Properties"), "KEYS:k1 k2|colour:grün|");
    let millis = |name| got.one(name).parse::<i64>().unwrap();
    assert_eq!(millis("NextConsumeTime") - millis("FirstConsumeTime"), 300_000);
    assert!(millis("PublishTime") <= millis("FirstConsumeTime"));
    let settled = client.settle("orders", "consumer=g", &got.all("ReceiptHandle")).await;
    assert_eq!((settled.status, &*settled.body), (204, ""));
    assert!(settled.head.contains("x-mq-request-id: "), "{settled:?}");
    let empty = client.consume("orders", "consumer=g&numOfMessages=1&waitseconds=-1").await;
    assert_eq!(empty.error(), (404, "MessageNotExist".into()));
}

#[tokio::test]
async fn a_long_poll_is_served_by_what_comes_and_ends_in_time() {
    let world = World::new();
    let (mut consumer, mut producer) = (world.client().await, world.client().await);
    let began = Instant::now();
    let empty = consumer.consume("orders", "consumer=g&numOfMessages=1&waitseconds=1").await;
    assert_eq!(empty.error(), (404, "MessageNotExist".into()));
    assert!(began.elapsed() >= Duration::from_secs(1));
    let poll =
        tokio::spawn(async move { consumer.consume("orders", "consumer=g&numOfMessages=1&waitseconds=30").await });
    assert_eq!(producer.publish("orders", "x", "", "").await.status, 201);
    assert_eq!(poll.await.unwrap().one("MessageBody"), "x");
}

#[tokio::test]
async fn tags_choose_and_a_client_that_hangs_up_gives_its_poll_up() {
    let world = World::new();
    let mut client = world.client().await;
    for tag in ["a", "b", "c"] {
        client.publish("orders", tag, tag, "").await;
    }
    let mut found = BTreeSet::new();
    while found.len() < 2 {
        let got = client.consume("orders", "consumer=g&numOfMessages=16&waitseconds=5&tag=a%7C%7Cb").await;
        assert_eq!(got.status, 200, "{got:?}");
        found.extend(got.all("MessageBody"));
        client.settle("orders", "consumer=g", &got.all("ReceiptHandle")).await;
    }
    assert_eq!(found, BTreeSet::from(["a".to_owned(), "b".to_owned()]));

    let mut gone = world.client().await;
    gone.write("GET /topics/other/messages?consumer=g2&numOfMessages=1&waitseconds=30 HTTP/1.1\r\nHost: t\r\n\r\n")
        .await;
    while world.broker.figures().waiting_polls == 0 {
        tokio::task::yield_now().await;
    }
    drop(gone);
    while world.broker.figures().waiting_polls > 0 {
        tokio::task::yield_now().await;
    }
    client.publish("other", "x", "", "").await;
    let got = client.consume("other", "consumer=g2&numOfMessages=1&waitseconds=5").await;
    assert_eq!((got.one("MessageBody"), got.one("ConsumedTimes")), ("x".into(), "1".into()));
}

#[tokio::test]
async fn refused_handles_are_listed_and_the_others_are_settled() {
    let world = World::new();
    let mut client = world.client().await;
    client.publish("orders", "x", "", "").await;
    let got = client.consume("orders", "consumer=g&numOfMessages=1&waitseconds=5").await;
    let good = got.one("ReceiptHandle");
    let forged = format!("{}AAAA", &good[..good.len() - 4]);
    let reply = client.settle("orders", "consumer=g", &[forged.clone(), good, "<![CDATA[]]>".into()]).await;
    assert_eq!(reply.status, 404);
    assert!(reply.body.contains("<Errors xmlns=\"http://mq.aliyuncs.com/doc/v1\"><Error><ErrorCode>"), "{reply:?}");
    assert_eq!(reply.all("ReceiptHandle"), [forged, String::new()]);
    assert_eq!(reply.all("ErrorCode"), ["ReceiptHandleError"; 2]);
    assert_eq!(reply.all("ErrorMessage").len(), 2);
    let (_, backlog) = (world.receive("orders", "g", 0).await, world.broker.group_status("g").await.unwrap());
    assert_eq!(backlog.progress.iter().map(|queue| queue.accumulation()).sum::<u64>(), 0);

    let none = client.settle("orders", "consumer=g", &[]).await;
    assert_eq!(none.error(), (400, "MissingReceiptHandle".into()));
    let many = client.settle("orders", "consumer=g", &vec!["x".to_owned(); 17]).await;
    assert_eq!(many.error(), (400, "InvalidArgument".into()));
    let unknown = client.settle("orders", "consumer=nobody", &["x".into()]).await;
    assert_eq!(unknown.error(), (404, "SubscriptionNotExist".into()));
}

#[tokio::test]
async fn groups_are_made_for_these_clients_and_can_be_changed() {
    let world = World::new();
    let mut client = world.client().await;
    client.consume("orders", "consumer=any&numOfMessages=1").await;
    client.consume("orders", "consumer=ordered&numOfMessages=1&trans=order").await;
    for (name, order, millis) in [("any", DeliveryOrder::Concurrent, 300_000), ("ordered", DeliveryOrder::Fifo, 60_000)]
    {
        let group = world.broker.known_group(name).unwrap();
        assert_eq!((group.order, group.retry.max_attempts, group.auto_created), (order, 289, true), "{name}");
        assert_eq!(group.retry.backoff, RetryBackoff::Customized(vec![millis]), "{name}");
    }
    let reply = client.consume("orders", "consumer=any&numOfMessages=1&trans=order").await;
    assert_eq!(reply.error(), (400, "InvalidArgument".into()));

    let soon = GroupSettings {
        backoff: Some(RetryBackoff::Customized(vec![1_000])),
        max_attempts: Some(2),
        ..GroupSettings::default()
    };
    world.broker.update_group("any", soon).await.unwrap();
    client.publish("orders", "x", "", "").await;
    let first = client.consume("orders", "consumer=any&numOfMessages=1&waitseconds=5").await;
    let again = client.consume("orders", "consumer=any&numOfMessages=1&waitseconds=10").await;
    assert_eq!(again.one("MessageId"), first.one("MessageId"));
    assert_eq!((first.one("ConsumedTimes"), again.one("ConsumedTimes")), ("1".into(), "2".into()));
    assert_ne!(again.one("ReceiptHandle"), first.one("ReceiptHandle"));
    let late = client.settle("orders", "consumer=any", &first.all("ReceiptHandle")).await;
    assert_eq!((late.status, late.one("ErrorCode")), (404, "MessageNotExist".into()));
    let dead = world.receive("%DLQ%any", "undertaker", 10_000).await;
    assert_eq!(dead.len(), 1, "a dead letter after its second delivery");
}

#[tokio::test]
async fn in_order_nothing_overtakes_what_is_not_acknowledged() {
    let world = World::new();
    let mut client = world.client().await;
    for n in 0..6 {
        let sent = client.publish("steps", &format!("{}-{n}", n % 2), "", &format!("__SHARDINGKEY:{}|", n % 2)).await;
        assert_eq!(sent.status, 201);
    }
    let mut seen = [0, 0];
    while seen != [3, 3] {
        let got = client.consume("steps", "consumer=g&numOfMessages=3&waitseconds=10&trans=order").await;
        assert_eq!(got.status, 200, "{got:?}");
        for (body, properties) in got.all("MessageBody").iter().zip(got.all("Properties")) {
            let (key, n) = body.split_once('-').unwrap();
            assert_eq!(properties, format!("__SHARDINGKEY:{key}|"));
            let key: usize = key.parse().unwrap();
            assert_eq!(n.parse::<usize>().unwrap(), 2 * seen[key] + key, "{body}");
            seen[key] += 1;
        }
        let settled = client.settle("steps", "consumer=g", &got.all("ReceiptHandle")).await;
        assert_eq!(settled.status, 204, "{settled:?}");
    }
}

#[tokio::test]
async fn delays_hold_messages_back() {
    let world = World::new();
    let mut client = world.client().await;
    let due = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() + 1_500;
    let sent = client.publish("later", "x", "", &format!("__STARTDELIVERTIME:{due}")).await;
    assert_eq!(sent.status, 201);
    let empty = client.consume("later", "consumer=g&numOfMessages=1").await;
    assert_eq!(empty.error().1, "MessageNotExist");
    let got = client.consume("later", "consumer=g&numOfMessages=1&waitseconds=10").await;
    assert_eq!(got.one("Properties"), format!("__STARTDELIVERTIME:{due}|"));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert!(now >= due);
}

#[tokio::test]
async fn a_namespace_is_part_of_every_name() {
    let world = World::new();
    let mut client = world.client().await;
    let sent = client.ask("POST", "/topics/orders/messages?ns=I", &world::message("x", "", "")).await;
    assert_eq!(sent.status, 201);
    assert!(world.broker.known_topic("I%orders").is_some() && world.broker.known_topic("orders").is_none());
    let got = client.consume("orders", "consumer=g&numOfMessages=1&waitseconds=5&ns=I").await;
    assert_eq!(got.one("MessageBody"), "x");
    assert!(world.broker.known_group("I%g").is_some());
    let settled = client.settle("orders", "consumer=g&ns=I", &got.all("ReceiptHandle")).await;
    assert_eq!(settled.status, 204);
}

#[tokio::test]
async fn what_xml_cannot_carry_becomes_a_dead_letter_and_breaks_no_batch() {
    let world = World::new();
    let mut client = world.client().await;
    client.consume("mixed", "consumer=g&numOfMessages=1").await;
    for body in [&b"a\0b"[..], b"\xff", b"good", b""] {
        world.send("mixed", &[], body).await;
    }
    world.send("mixed", &[Field::Tag("\u{1}")], b"bad tag").await;
    world.send("mixed", &[Field::Property("a:b", "c"), Field::Property("d", "e")], b"odd property").await;
    let (mut bodies, mut properties) = (Vec::new(), Vec::new());
    while bodies.len() < 2 {
        let got = client.consume("mixed", "consumer=g&numOfMessages=16&waitseconds=10").await;
        assert_eq!(got.status, 200, "{got:?}");
        bodies.extend(got.all("MessageBody"));
        properties.extend(got.all("Properties"));
        client.settle("mixed", "consumer=g", &got.all("ReceiptHandle")).await;
    }
    bodies.sort();
    assert_eq!((bodies, properties), (vec!["good".into(), "odd property".into()], vec!["d:e|".into()]));
    let mut dead = Vec::new();
    while dead.len() < 4 {
        dead.extend(world.receive("%DLQ%g", "undertaker", 10_000).await.iter().map(body_of));
    }
    dead.sort();
    assert_eq!(dead, [&b""[..], b"a\0b", b"bad tag", b"\xff"]);
    let empty = client.consume("mixed", "consumer=g&numOfMessages=16&waitseconds=0").await;
    assert_eq!(empty.error(), (404, "MessageNotExist".into()));
}

#[tokio::test]
async fn bodies_that_others_have_compressed_are_read_as_they_were() {
    use std::io::Write;
    let world = World::new();
    let mut client = world.client().await;
    client.consume("packed", "consumer=g&numOfMessages=1").await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all("plain text".as_bytes()).unwrap();
    world.send("packed", &[Field::Compressed], &encoder.finish().unwrap()).await;
    let got = client.consume("packed", "consumer=g&numOfMessages=1&waitseconds=5").await;
    assert_eq!(got.one("MessageBody"), "plain text");
}
