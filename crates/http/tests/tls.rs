//! TLS on the port that plaintext has, too.

#![allow(clippy::unwrap_used)]

mod world;

use tokio::io::AsyncWriteExt;
use world::World;

#[tokio::test]
async fn a_tls_client_is_served_on_the_same_port() {
    let world = World::new();
    let mut plain = world.client().await;
    // As most SDKs do, and as those that name a protocol.
    for (topic, alpn) in [("silent", &[][..]), ("named", &[&b"http/1.1"[..]])] {
        let mut tls = world.tls_client(alpn).await;
        let chosen = tls.stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(chosen.as_deref(), alpn.first().copied());
        // Longer than a record of TLS.
        let long = "long ".repeat(20_000);
        assert_eq!(tls.publish(topic, &long, "tag", "").await.status, 201);
        assert_eq!(plain.publish(topic, "from plaintext", "", "").await.status, 201);
        let mut bodies = Vec::new();
        for query in ["consumer=g&numOfMessages=1&waitseconds=5"; 2] {
            let got = tls.consume(topic, query).await;
            assert_eq!(got.status, 200, "{}", got.head);
            bodies.push(got.one("MessageBody"));
            let settled = plain.settle(topic, "consumer=g", &got.all("ReceiptHandle")).await;
            assert_eq!(settled.status, 204, "{}", settled.body);
        }
        bodies.sort();
        assert!(bodies == ["from plaintext".to_owned(), long], "the bodies are others");
        tls.stream.shutdown().await.unwrap();
        assert!(tls.reply().await.is_none(), "closed in turn");
    }
    assert_eq!(plain.publish("silent", "x", "", "").await.status, 201);
}

#[tokio::test]
async fn http2_is_not_agreed_on_where_it_is_not_spoken() {
    let world = World::new();
    let mut tls = world.tls_client(&[b"h2", b"http/1.1"]).await;
    assert_eq!(tls.stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(tls.publish("t", "x", "", "").await.status, 201);
    tls.write("GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
    assert_eq!(tls.reply().await.unwrap().error(), (400, "InvalidRequestURL".into()));
    assert!(tls.reply().await.is_none(), "closed as asked");
}
