//! What no SDK sends: accounts, limits, hostile and slow clients. A good client beside them notices nothing.

#![allow(clippy::unwrap_used)]

mod world;

use martlet_broker::AccessOptions;
use martlet_broker::auth::Accounts;
use std::time::{Duration, Instant};
use world::{World, message};

#[tokio::test]
async fn with_accounts_only_what_they_sign_is_carried_out() {
    let accounts = Accounts::parse("ak sk").unwrap();
    let world = World::with(|broker, _| broker.access = Some(AccessOptions { accounts, authorization: false }));
    let mut client = world.client().await;
    let body = message("x", "", "");
    let unsigned = client.ask("POST", "/topics/t/messages", &body).await;
    assert_eq!(unsigned.error(), (400, "MissingAuthorizationHeader".into()));
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let old =
        client.ask_with("POST", "/topics/t/messages", &format!("{date}Authorization: MQ ak:AAAA\r\n"), &body).await;
    assert_eq!(old.error(), (408, "TimeExpired".into()));
    assert!(world.broker.known_topic("t").is_none(), "refused before anything else");
    // Signatures of the SDKs: conformance/tests/clients/http.rs.
}

#[tokio::test]
async fn requests_that_cannot_be_understood_are_told_why_and_the_connection_goes_on() {
    let world = World::new();
    let mut client = world.client().await;
    let bomb = "<!DOCTYPE m [<!ENTITY a \"aaaa\">]><Message><MessageBody>&a;</MessageBody></Message>";
    let long = format!("/topics/t/messages?consumer=g&numOfMessages=1&tag={}", "x".repeat(1_000));
    for (method, target, body, status, code) in [
        ("POST", "/", "", 400, "InvalidRequestURL"),
        ("PUT", "/topics/t/messages", "", 400, "InvalidRequestURL"),
        ("GET", &*long, "", 400, "InvalidRequestURL"),
        ("POST", "/topics/a.b/messages", "", 400, "InvalidArgument"),
        ("POST", "/topics/t/messages", "", 400, "MalformedXML"),
        ("POST", "/topics/t/messages", "no XML", 400, "MalformedXML"),
        ("POST", "/topics/t/messages", bomb, 400, "MalformedXML"),
        ("POST", "/topics/t/messages", "<ReceiptHandles/>", 400, "InvalidArgument"),
        ("POST", "/topics/t/messages", "<Message/>", 400, "InvalidArgument"),
        ("POST", "/topics/t/messages?trans=order", "<Message/>", 400, "InvalidArgument"),
        ("GET", "/topics/t/messages?numOfMessages=1", "", 400, "InvalidArgument"),
        ("GET", "/topics/t/messages?consumer=g", "", 400, "InvalidArgument"),
        ("GET", "/topics/t/messages?consumer=g&numOfMessages=undefined", "", 400, "InvalidArgument"),
        ("GET", "/topics/t/messages?consumer=g&numOfMessages=1&waitseconds=31", "", 400, "InvalidArgument"),
        ("GET", "/topics/t/messages?consumer=g&numOfMessages=1&trans=commit", "", 400, "InvalidArgument"),
        (
            "DELETE",
            "/topics/t/messages",
            "<ReceiptHandles><ReceiptHandle>a</ReceiptHandle></ReceiptHandles>",
            400,
            "InvalidArgument",
        ),
        ("DELETE", "/topics/t/messages?consumer=g", "<Message/>", 400, "InvalidArgument"),
    ] {
        let reply = client.ask(method, target, body).await;
        assert_eq!(reply.error(), (status, code.to_owned()), "{method} {target} {body}");
    }
    let wrong = client.ask_with("POST", "/topics/t/messages", "Content-MD5: AAAA\r\n", &message("x", "", "")).await;
    assert_eq!(wrong.error(), (400, "InvalidDigest".into()));
    assert_eq!(client.publish("t", "x", "", "").await.status, 201, "on the same connection");
}

#[tokio::test]
async fn unknown_names_have_their_codes_where_nothing_is_made_automatically() {
    let world = World::with(|broker, _| {
        broker.auto_create_topics = false;
        broker.auto_create_groups = false;
    });
    let mut client = world.client().await;
    assert_eq!(client.publish("t", "x", "", "").await.error(), (404, "TopicNotExist".into()));
    world.broker.create_topic("t", Default::default()).await.unwrap();
    let reply = client.consume("t", "consumer=g&numOfMessages=1").await;
    assert_eq!(reply.error(), (404, "SubscriptionNotExist".into()));
}

#[tokio::test]
async fn clients_that_ask_before_they_send_that_send_ahead_and_in_chunks_are_served() {
    let world = World::new();
    let mut client = world.client().await;
    let body = message("x", "", "");
    let head = format!(
        "POST /topics/t/messages HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.write(&head).await;
    assert_eq!(client.read_to("\r\n\r\n").await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write(&body).await;
    assert_eq!(client.reply().await.unwrap().status, 201);

    let one = format!("POST /topics/t/messages HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    client.write(&one.repeat(5)).await;
    for _ in 0..5 {
        assert_eq!(client.reply().await.unwrap().status, 201);
    }
    let (first, rest) = body.split_at(20);
    let chunks = format!("{:x}\r\n{first}\r\n{:x}\r\n{rest}\r\n0\r\n\r\n", first.len(), rest.len());
    client
        .write(&format!("POST /topics/t/messages HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"))
        .await;
    assert_eq!(client.reply().await.unwrap().status, 201);
}

#[tokio::test]
async fn what_is_too_long_is_refused_before_it_is_kept() {
    let world = World::with(|_, http| http.limits.publish_bytes = 1_000);
    let mut client = world.client().await;
    client.write("POST /topics/t/messages HTTP/1.1\r\nHost: t\r\nContent-Length: 99999999999\r\n\r\n").await;
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.error(), (400, "InvalidArgument".into()));
    assert!(reply.one("Message").contains("the limit is 1000"), "{reply:?}");
    assert!(client.reply().await.is_none(), "closed");
    let mut client = world.client().await;
    let chunk = format!("320\r\n{}\r\n", "x".repeat(800));
    client.write("POST /topics/t/messages HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.write(&chunk.repeat(2)).await;
    assert_eq!(client.reply().await.unwrap().error(), (400, "InvalidArgument".into()));
    let mut client = world.client().await;
    client.write(&format!("GET / HTTP/1.1\r\nHost: t\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000))).await;
    let reply = client.reply().await.unwrap();
    assert_eq!(reply.error(), (431, "InvalidArgument".into()));
    assert!(reply.one("Message").contains("more than 16384 bytes"), "{reply:?}");
    let mut client = world.client().await;
    client.write(&format!("GET / HTTP/1.1\r\nHost: t\r\n{}\r\n", "a: b\r\n".repeat(100))).await;
    assert_eq!(client.reply().await.unwrap().error(), (431, "InvalidArgument".into()));
    assert!(client.reply().await.is_none(), "closed");
    for bad in ["no HTTP at all\r\n\r\n", "GET /\r\n\r\n", "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: x\r\n\r\n"] {
        let mut client = world.client().await;
        client.publish("t", "x", "", "").await;
        client.write(bad).await;
        assert_eq!(client.reply().await.unwrap().error(), (400, "InvalidArgument".into()), "{bad}");
        assert!(client.reply().await.is_none(), "closed");
    }
    let mut client = world.client().await;
    client.write("PUT / HTTP/1.1\r\nHost: t\r\n\r\nno HTTP at all\r\n\r\n").await;
    for code in ["InvalidRequestURL", "InvalidArgument"] {
        assert_eq!(client.reply().await.unwrap().error(), (400, code.into()));
    }
}

#[tokio::test]
async fn slow_and_silent_clients_are_closed_and_the_others_are_served() {
    let world = World::with(|_, http| {
        http.limits.read_timeout = Duration::from_millis(300);
        http.limits.idle_timeout = Duration::from_millis(900);
    });
    let began = Instant::now();
    let (mut head, mut body, mut idle) = (world.client().await, world.client().await, world.client().await);
    head.write("POST /topics/t/messages HTTP/1.1\r\nHo").await;
    body.write("POST /topics/t/messages HTTP/1.1\r\nHost: t\r\nContent-Length: 500\r\n\r\n<Mess").await;
    assert_eq!(idle.publish("t", "x", "", "").await.status, 201);
    assert_eq!(body.reply().await.unwrap().error(), (400, "InvalidArgument".into()));
    assert!(body.reply().await.is_none() && head.reply().await.is_none());
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(idle.publish("t", "x", "", "").await.status, 201, "a connection that is used lives on");
    assert!(idle.reply().await.is_none(), "until it is not");
}

#[tokio::test]
async fn clients_that_never_finish_large_requests_keep_no_small_one_out() {
    const MIB: usize = 1 << 20;
    let world = World::with(|_, http| {
        http.limits.publish_bytes = 2 * MIB;
        http.limits.inbound_bytes = 8 * MIB;
    });
    let mut stalling = Vec::new();
    for _ in 0..6 {
        let mut client = world.client().await;
        stalling.push(tokio::spawn(async move {
            client
                .write(&format!("POST /topics/t/messages HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n", 2 * MIB))
                .await;
            client.write(&" ".repeat(2 * MIB - 1)).await;
            client.reply().await
        }));
    }
    let held = || world.server.as_ref().unwrap().figures().inbound.0;
    while held() < 6 * MIB {
        tokio::task::yield_now().await;
    }
    let mut good = world.client().await;
    for _ in 0..50 {
        let published = tokio::time::timeout(Duration::from_secs(10), good.publish("t", "x", "", "")).await;
        assert_eq!(published.unwrap().status, 201, "{} bytes are held", held());
    }
    stalling.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn polls_end_when_the_front_shuts_down() {
    let mut world = World::with(|_, http| http.limits.drain_timeout = Duration::from_secs(30));
    let mut client = world.client().await;
    client.write("GET /topics/t/messages?consumer=g&numOfMessages=1&waitseconds=30 HTTP/1.1\r\nHost: t\r\n\r\n").await;
    while world.broker.figures().waiting_polls == 0 {
        tokio::task::yield_now().await;
    }
    let (server, began) = (world.server.take().unwrap(), Instant::now());
    let stopping = tokio::task::spawn_blocking(move || server.shutdown());
    assert_eq!(client.reply().await.unwrap().error(), (404, "MessageNotExist".into()));
    stopping.await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
}
