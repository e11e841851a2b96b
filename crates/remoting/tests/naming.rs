//! The name server's answers, and refusals of what cannot be carried out.

mod world;

use martlet_model::names::RETRY_PREFIX;
use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::header::Format;
use proptest::prelude::*;
use world::{Client, World, denied, json, send_fields};

#[tokio::test]
async fn every_port_tells_routes_with_the_brokers_address() {
    let world = World::new();
    world.client().await.produce("orders", "0", &[], b"body").await;
    let broker = world.server().local_addr();
    for address in [broker, world.server().nameserver_addr().unwrap()] {
        let mut client = Client::to(address).await;
        for topic in ["orders", "TBW102", "%RETRY%new-group"] {
            let answer = client.ask(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", topic)], b"").await;
            assert_eq!(denied(&answer), (response::SUCCESS, ""), "{topic}");
            let route = json(&answer.body);
            assert_eq!(route.items("brokerDatas")[0].get("brokerAddrs").unwrap().text("0"), Some(&*broker.to_string()));
            let queues = &route.items("queueDatas")[0];
            let expected = match topic {
                "orders" => (Some(6), Some(4)),
                "TBW102" => (Some(7), Some(8)),
                _ => (Some(6), Some(1)),
            };
            assert_eq!((queues.int("perm"), queues.int("writeQueueNums")), expected, "{topic}");
        }
        let answer = client.ask(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "unknown")], b"").await;
        assert_eq!(answer.header.code, response::TOPIC_NOT_EXIST);
        // Old clients were made for numbers as keys.
        client.version = 373;
        let answer = client.ask(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "orders")], b"").await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(&format!("\"brokerAddrs\":{{0:\"{broker}\"}}")), "{text}");
        let fields = [("topic", "orders"), ("acceptStandardJsonOnly", "true")];
        let answer = client.ask(request::GET_ROUTEINFO_BY_TOPIC, &fields, b"").await;
        assert!(String::from_utf8_lossy(&answer.body).contains("{\"0\":\""));
    }
    assert!(world.broker.known_group("new-group").is_none(), "asking creates nothing");
}

#[tokio::test]
async fn cluster_and_topics_are_listed() {
    let world = World::new();
    let mut client = world.client().await;
    client.produce("orders", "0", &[], b"body").await;
    world.broker.group("billing").await.unwrap();
    let cluster = json(&client.ask(request::GET_BROKER_CLUSTER_INFO, &[], b"").await.body);
    let data = cluster.get("brokerAddrTable").and_then(|table| table.get("broker-a")).unwrap();
    assert_eq!(data.text("cluster"), Some("DefaultCluster"));
    let listed = json(&client.ask(request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[], b"").await.body);
    let names: Vec<_> = listed.items("topicList").iter().filter_map(|name| name.scalar()).collect();
    for wanted in ["orders", &format!("{RETRY_PREFIX}billing"), "DefaultCluster", "broker-a", "TBW102"] {
        assert!(names.contains(&wanted), "{wanted} is not among {names:?}");
    }
    let answer = client.ask(request::GET_KV_CONFIG, &[("namespace", "n"), ("key", "k")], b"").await;
    assert_eq!(answer.header.code, response::QUERY_NOT_FOUND);
}

#[tokio::test]
async fn an_advertised_host_is_told_by_name_and_carried_by_address() {
    let world = World::with(|_, remoting| remoting.advertise = Some(("localhost".into(), 7777)));
    let mut client = world.client().await;
    let sent = client.produce("orders", "0", &[], b"body").await;
    assert!(world::field(&sent, "msgId").starts_with("7F00000100001E61"), "127.0.0.1:7777");
    let route = json(&client.ask(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", "orders")], b"").await.body);
    let addresses = route.items("brokerDatas")[0].get("brokerAddrs").unwrap().clone();
    assert_eq!(addresses.text("0"), Some("localhost:7777"));
}

#[tokio::test]
async fn unknown_codes_are_refused_also_those_that_a_binary_header_cuts_off() {
    let world = World::new();
    let mut client = world.client().await;
    for format in [Format::Json, Format::Binary] {
        client.format = format;
        for code in [4242, 200_052] {
            let answer = client.ask(code, &[], b"").await;
            let remark = format!("request code {code} is not supported");
            assert_eq!(denied(&answer), (response::REQUEST_CODE_NOT_SUPPORTED, &*remark));
        }
    }
    world::until("four refusals counted, once they are written", || {
        let series = world.server().figures().latencies;
        let mut refusals = series.iter().filter(|one| (one.call, one.code) == ("other", "request_code_not_supported"));
        refusals.any(|one| one.millis.count() == 4)
    })
    .await;
}

#[tokio::test]
async fn what_is_no_frame_ends_the_connection() {
    let world = World::new();
    for bytes in [&[0x01, 0, 0, 1, 0, 0, 0, 1][..], &[0, 0, 0, 8, 9, 0, 0, 0, 1, 2, 3, 4], b"\0\0\0\x08\0\0\0\x04nope"]
    {
        let mut client = world.client().await;
        client.write(bytes).await;
        assert!(client.read().await.is_none(), "{bytes:?}");
    }
    let mut client = world.client().await;
    assert_eq!(client.ask(request::GET_BROKER_CLUSTER_INFO, &[], b"").await.header.code, response::SUCCESS);
}

#[tokio::test]
async fn a_connection_without_anything_to_do_is_closed() {
    let world = World::with(|_, remoting| remoting.limits.idle_timeout = std::time::Duration::from_millis(50));
    let mut client = world.client().await;
    client.ask(request::GET_BROKER_CLUSTER_INFO, &[], b"").await;
    assert!(client.read().await.is_none());
}

type Pairs = Vec<(&'static str, &'static str)>;

/// Codes with fields that are right for them.
fn calls() -> Vec<(i32, Pairs, &'static [u8])> {
    let long = vec![
        ("producerGroup", "p"),
        ("topic", "t"),
        ("defaultTopic", "TBW102"),
        ("defaultTopicQueueNums", "4"),
        ("queueId", "0"),
        ("sysFlag", "0"),
        ("bornTimestamp", "5"),
        ("flag", "0"),
    ];
    let mut short = send_fields("t", "0", "");
    short.pop();
    let end = vec![
        ("producerGroup", "p"),
        ("tranStateTableOffset", "0"),
        ("commitLogOffset", "0"),
        ("commitOrRollback", "8"),
        ("msgId", "m"),
    ];
    vec![
        (request::SEND_MESSAGE, long, b"body"),
        (request::SEND_MESSAGE_V2, short.clone(), b"body"),
        (request::SEND_BATCH_MESSAGE, short, b"\0\0\0\x17\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01a\0\0"),
        (request::END_TRANSACTION, end, b""),
        (request::RECALL_MESSAGE, vec![("topic", "t"), ("recallHandle", "h")], b""),
        (request::GET_ROUTEINFO_BY_TOPIC, vec![("topic", "t")], b""),
        (request::GET_KV_CONFIG, vec![("namespace", "n"), ("key", "k")], b""),
        (request::UNREGISTER_CLIENT, vec![("clientID", "c")], b""),
    ]
}

#[tokio::test]
async fn a_missing_field_is_named_whatever_it_is() {
    let world = World::new();
    let mut client = world.client().await;
    for (code, fields, body) in calls() {
        for left_out in 0..fields.len() {
            let mut rest = fields.clone();
            let (name, _) = rest.remove(left_out);
            let answer = client.ask(code, &rest, body).await;
            let expected = format!("field {name} is missing");
            assert_eq!(denied(&answer), (response::INVALID_PARAMETER, &*expected), "code {code}");
        }
    }
    for body in [&b"{}"[..], b"", b"[]", b"{\"clientID\":\" \"}"] {
        let answer = client.ask(request::HEART_BEAT, &[], body).await;
        assert_eq!(answer.header.code, response::INVALID_PARAMETER, "{body:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Absurd values, extra fields and any bodies are answered, with a code and a remark where that is not success, and the
    /// connection lives on.
    #[test]
    fn absurd_requests_are_answered(
        values in prop::collection::vec(prop_oneof![
            Just("-1".to_owned()),
            Just("99999999999999999999".to_owned()),
            Just(i64::MAX.to_string()),
            Just(i64::MIN.to_string()),
            Just(String::new()),
            "\\PC{0,300}",
        ], 12),
        at in any::<prop::sample::Index>(),
        body in prop::collection::vec(any::<u8>(), 0..80),
        own_body in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let world = World::new();
        runtime.block_on(async {
            let mut client = world.client().await;
            for (code, mut fields, right) in calls() {
                let place = at.index(fields.len());
                fields[place].1 = &values[place];
                fields.push(("extra", &values[0]));
                let answer = client.ask(code, &fields, if own_body { &body } else { right }).await;
                let (code, remark) = denied(&answer);
                assert!(code == response::SUCCESS || !remark.is_empty(), "code {code} without a remark");
            }
            let answer = client.ask(request::HEART_BEAT, &[], &body).await;
            assert!(!denied(&answer).1.is_empty());
        });
    }
}
