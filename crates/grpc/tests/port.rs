//! One port for TLS, plaintext and PROXY protocol; and what it does with everything else.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../../net/tests/tls_client/mod.rs"]
mod tls_client;
mod world;

use bytes::Bytes;
use martlet_grpc::TlsOptions;
use martlet_grpc::fuzz::TARGETS;
use martlet_grpc::proto::v2::messaging_service_client::MessagingServiceClient;
use martlet_grpc::proto::v2::{self, Code};
use martlet_net::fuzz;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig};
use world::*;

const SEND: &str = "/apache.rocketmq.v2.MessagingService/SendMessage";
const PROXY_V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 8081\r\n";

fn proxy_v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, 7, 198, 51, 100, 1, 0xc3, 0x50, 0x1f, 0x91]);
    header
}

/// Where the broker thinks the sender of the only message of a topic is.
async fn born_host(world: &World, topic: &str) -> String {
    let mut client = world.client().await;
    let polled = poll(&mut client, from("consumer", receive("billing", topic))).await;
    system(&polled.messages[0]).born_host.clone()
}

#[tokio::test]
async fn tls_and_plaintext_share_the_port() {
    let world = World::new();
    let mut plain = world.client().await;
    let sent = plain.send_message(send(vec![message("orders", "01AA", b"x")])).await.unwrap().into_inner();
    assert_eq!(sent.status.unwrap().code(), Code::Ok);
    let pem = std::fs::read(world.folder.path().join("tls/certificate.pem")).unwrap();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name("localhost");
    let channel = Channel::from_shared(format!("https://{}", world.address())).unwrap().tls_config(tls).unwrap();
    let mut client = MessagingServiceClient::new(channel.connect().await.unwrap());
    let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    assert_eq!(polled.messages.len(), 1);
}

#[tokio::test]
async fn a_certificate_of_the_users_own_is_the_one_that_is_shown() {
    // The other broker's self-signed certificate stands in for one that an authority made.
    let other = World::new();
    let own = |name| other.folder.path().join("tls").join(name);
    let (certificate, key) = (own("certificate.pem"), own("key.pem"));
    let pem = std::fs::read(&certificate).unwrap();
    let world = World::with(|_, grpc| grpc.tls = TlsOptions::Files { certificate, key });
    assert!(!world.folder.path().join("tls").exists(), "none is made where one is given");
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)).domain_name("localhost");
    let channel = Channel::from_shared(format!("https://{}", world.address())).unwrap().tls_config(tls).unwrap();
    let mut client = MessagingServiceClient::new(channel.connect().await.unwrap());
    let sent = client.send_message(send(vec![message("orders", "01AA", b"x")])).await.unwrap().into_inner();
    assert_eq!(sent.status.unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn latencies_and_budgets_of_calls_are_counted() {
    let world = World::new();
    let mut client = world.client().await;
    client.send_message(send(vec![message("orders", "01AA", b"x")])).await.unwrap();
    let denied = client.send_message(send(vec![message("not allowed!", "01AB", b"x")])).await.unwrap().into_inner();
    let polled = poll(&mut client, from("consumer", receive("billing", "orders"))).await;
    assert_eq!(polled.messages.len(), 1);
    // An answer may be read before it is counted.
    let started = std::time::Instant::now();
    let seen = |call: &str, code: &str| {
        let figures = world.server.as_ref().unwrap().figures();
        figures.latencies.iter().any(|one| (one.call, one.code) == (call, code) && one.millis.count() == 1)
    };
    let refusal = denied.status.unwrap().code().as_str_name();
    while !(seen("SendMessage", "OK") && seen("SendMessage", refusal) && seen("ReceiveMessage", "OK")) {
        assert!(started.elapsed() < Duration::from_secs(10), "{:?}", world.server.as_ref().unwrap().figures());
        tokio::task::yield_now().await;
    }
    let figures = world.server.as_ref().unwrap().figures();
    assert!(figures.inbound.1 > figures.inbound.0 && figures.outbound.1 > figures.outbound.0);
}

#[tokio::test]
async fn a_proxy_header_names_the_peer_before_plaintext_and_before_tls() {
    let world = World::new();
    let request = |topic: &str| framed(&v2::SendMessageRequest { messages: vec![message(topic, "01AA", b"x")] });
    for (topic, header, tls) in [
        ("v1-plain", PROXY_V1.to_vec(), false),
        ("v2-plain", proxy_v2(), false),
        ("v1-tls", PROXY_V1.to_vec(), true),
        ("v2-tls", proxy_v2(), true),
    ] {
        let mut tcp = TcpStream::connect(world.address()).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        // Byte by byte: the header does not come in one piece on every network.
        for byte in header {
            tcp.write_all(&[byte]).await.unwrap();
        }
        let mut client = if tls {
            raw(tls_client::connect(tcp, world.folder.path(), &[b"h2"]).await, 65_535).await
        } else {
            raw(tcp, 65_535).await
        };
        let answer = raw_call(&mut client, raw_request(SEND), request(topic)).await;
        assert_eq!(answer.grpc_status(), "0");
        assert_eq!(answer.message::<v2::SendMessageResponse>().status.unwrap().code(), Code::Ok);
        assert_eq!(born_host(&world, topic).await, "192.0.2.7:50000", "{topic}");
    }
}

/// What a client that sends these bytes is told before the connection is closed.
async fn said(world: &World, bytes: &[u8]) -> String {
    let mut answer = Vec::new();
    let mut tcp = TcpStream::connect(world.address()).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await;
    // A reset is a way to close too.
    assert!(read.is_ok(), "the connection stays open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn http_1_gets_an_answer_and_everything_else_is_closed() {
    let world = World::new();
    let mut client = world.client().await;
    let http = said(&world, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(http.starts_with("HTTP/1.1 400 ") && http.contains("gRPC"), "{http}");
    for bytes in [
        &b"SSH-2.0-OpenSSH_9\r\n"[..],
        b"\0\0\0\x64\0\0\0\x50{\"code\":105}",
        b"PROXY TCP4 nonsense\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnot a frame at all, is it",
        b"\x16\x03\x01\0\x05hello",
    ] {
        let answer = said(&world, bytes).await;
        assert!(!answer.starts_with("HTTP/1.1"), "{answer}");
    }
    // Nobody else noticed.
    let sent = client.send_message(send(vec![message("orders", "01AA", b"x")])).await.unwrap().into_inner();
    assert_eq!(sent.status.unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn half_open_connections_are_closed_and_the_number_of_connections_is_limited() {
    let world = World::with(|_, grpc| {
        grpc.limits.open_timeout = Duration::from_millis(200);
        grpc.limits.connections_max = 2;
    });
    let mut silent = TcpStream::connect(world.address()).await.unwrap();
    let mut half = TcpStream::connect(world.address()).await.unwrap();
    half.write_all(b"PRI * HT").await.unwrap();
    until("two connections", || world.server.as_ref().unwrap().connections() == 2).await;
    let mut byte = [0];
    let mut third = TcpStream::connect(world.address()).await.unwrap();
    assert!(matches!(third.read(&mut byte).await, Ok(0) | Err(_)), "a third connection was taken");
    for stream in [&mut silent, &mut half] {
        let closed = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut byte)).await;
        assert!(matches!(closed.unwrap(), Ok(0) | Err(_)));
    }
    until("the end of both connections", || world.server.as_ref().unwrap().connections() == 0).await;
    world.client().await;
}

#[tokio::test]
async fn malformed_calls_get_an_error_of_grpc_s_own() {
    let world = World::new();
    let tcp = TcpStream::connect(world.address()).await.unwrap();
    let mut client = raw(tcp, 65_535).await;
    let good = framed(&v2::SendMessageRequest { messages: vec![message("orders", "01AA", b"x")] });
    let cases: [(&str, Bytes, &str); 9] = [
        ("/apache.rocketmq.v2.MessagingService/Nonsense", good.clone(), "12"),
        ("/no.such.Service/SendMessage", good.clone(), "12"),
        ("/", good.clone(), "12"),
        (SEND, Bytes::new(), "13"),
        (SEND, Bytes::from_static(&[0, 0, 0]), "13"),
        (SEND, Bytes::from_static(&[0, 0, 0, 0, 9, 1]), "13"),
        (SEND, Bytes::from_static(&[1, 0, 0, 0, 1, 1]), "12"),
        (SEND, Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1]), "8"),
        (SEND, Bytes::from_static(&[0, 0, 0, 0, 2, 0xff, 0xff]), "3"),
    ];
    for (path, body, status) in cases {
        let answer = raw_call(&mut client, raw_request(path), body.clone()).await;
        assert_eq!(answer.grpc_status(), status, "{path} {body:?}");
    }
    let twice = Bytes::from([&good[..], &good[..]].concat());
    assert_eq!(raw_call(&mut client, raw_request(SEND), twice).await.grpc_status(), "13");
    let mut request = raw_request(SEND);
    request.headers_mut().insert("grpc-timeout", "soon".parse().unwrap());
    assert_eq!(raw_call(&mut client, request, good.clone()).await.grpc_status(), "3");
    let mut request = raw_request(SEND);
    request.headers_mut().insert("grpc-timeout", "99999999H".parse().unwrap());
    assert_eq!(raw_call(&mut client, request, good.clone()).await.grpc_status(), "0");
    let mut request = raw_request(SEND);
    request.headers_mut().insert("content-type", "text/html".parse().unwrap());
    assert_eq!(raw_call(&mut client, request, good.clone()).await.status, 415);
    let mut request = raw_request(SEND);
    *request.method_mut() = http::Method::GET;
    assert_eq!(raw_call(&mut client, request, good.clone()).await.status, 405);
    // Header lists beyond the limit are HTTP/2's to refuse; the connection lives on.
    let mut request = raw_request(SEND);
    request.headers_mut().insert("x-long", "v".repeat(20_000).parse().unwrap());
    let (response, _) = client.send_request(request, true).unwrap();
    assert!(response.await.map_or(true, |response| response.status() == 431));
    assert_eq!(raw_call(&mut client, raw_request(SEND), good).await.grpc_status(), "0");
}

#[tokio::test]
async fn calls_of_later_versions_say_so() {
    let world = World::new();
    let mut admin = v2::admin_client::AdminClient::new(world.channel().await);
    let answer = admin.query_time_span(from("c", v2::QueryTimeSpanRequest::default())).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert_eq!((status.code(), &status.message[..]), (Code::NotImplemented, "QueryTimeSpan is not supported yet"));
}

#[test]
fn no_bytes_break_a_decoder() {
    use prost::Message;
    let seed = fuzz::seed();
    println!("SEED={seed}");
    let settings = v2::TelemetryCommand {
        status: None,
        command: Some(v2::telemetry_command::Command::Settings(v2::Settings {
            pub_sub: Some(v2::settings::PubSub::Publishing(v2::Publishing {
                topics: resource("orders").into_iter().collect(),
                ..Default::default()
            })),
            ..Default::default()
        })),
    };
    let samples = [
        v2::SendMessageRequest { messages: vec![message("orders", "01AA", b"body")] }.encode_to_vec(),
        settings.encode_to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        PROXY_V1[6..].to_vec(),
        proxy_v2()[12..].to_vec(),
        b"99999999H".to_vec(),
        b"\x01\x02id\x02\x01t\x04\x03\x01kv\x05\x01\x14\x00hello".to_vec(),
        vec![],
    ];
    assert_eq!(fuzz::play(&TARGETS, &samples, 20_000, seed), Ok(()));
}
