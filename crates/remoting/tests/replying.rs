//! Messages that want a reply, and replies.

#![allow(clippy::unwrap_used)]

mod world;

use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::frame::{self, Frame};
use martlet_remoting::codec::header::{FLAG_RESPONSE, Header};
use world::{Client, World, denied, field, json, property_text, send_fields};

const TOPIC: &str = "DefaultCluster_REPLY_TOPIC";

async fn requester(world: &World) -> Client {
    let mut client = world.client().await;
    let heartbeat =
        br#"{"clientID":"c@1","producerDataSet":[{"groupName":"CLIENT_INNER_PRODUCER"}],"consumerDataSet":[]}"#;
    assert_eq!(client.ask(request::HEART_BEAT, &[], heartbeat).await.header.code, response::SUCCESS);
    client
}

fn properties(to: &str) -> String {
    property_text(&[("CORRELATION_ID", "7"), ("REPLY_TO_CLIENT", to), ("MSG_TYPE", "reply"), ("colour", "red")])
}

async fn answer(client: &mut Client, to: &Frame, code: i32, remark: Option<&str>) {
    let (opaque, remark) = (to.header.opaque, remark.map(str::to_owned));
    let header = Header { code, opaque, remark, flag: FLAG_RESPONSE, ..Header::default() };
    client.write(&frame::head(&header, 0)).await;
}

#[tokio::test]
async fn a_reply_reaches_the_client_that_asked_and_its_sender_hears_when_it_has_it() {
    let world = World::new();
    let (mut asking, mut replying) = (requester(&world).await, world.client().await);
    let route = replying.ask(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", TOPIC)], b"").await;
    assert_eq!(json(&route.body).items("queueDatas").len(), 1);
    for code in [request::SEND_REPLY_MESSAGE_V2, request::SEND_REPLY_MESSAGE] {
        let text = properties("c@1");
        let mut fields = send_fields(TOPIC, "0", &text);
        if code == request::SEND_REPLY_MESSAGE {
            let long = ["producerGroup", "topic", "defaultTopic", "defaultTopicQueueNums", "queueId", "sysFlag"];
            let long = long.into_iter().chain(["bornTimestamp", "flag", "properties"]);
            fields = long.zip(fields).map(|(name, (_, value))| (name, value)).collect();
        }
        let opaque = replying.send(code, &fields, b"pong", 0).await;
        let pushed = asking.notice().await;
        assert_eq!((pushed.header.code, &pushed.body[..]), (request::PUSH_REPLY_MESSAGE_TO_CLIENT, &b"pong"[..]));
        assert!(!pushed.header.is_one_way());
        assert_eq!((field(&pushed, "topic"), field(&pushed, "queueId"), field(&pushed, "sysFlag")), (TOPIC, "0", "0"));
        for part in ["CORRELATION_ID\u{1}7", "colour\u{1}red", "PUSH_REPLY_TIME\u{1}1"] {
            assert!(field(&pushed, "properties").contains(part), "{part:?} is not in {pushed:?}");
        }
        // Its sender has no answer before the requester has said so, and nothing else of its connection waits for that.
        let other = replying.ask(request::GET_BROKER_CLUSTER_INFO, &[], b"").await;
        assert_eq!(other.header.code, response::SUCCESS);
        answer(&mut asking, &pushed, response::SUCCESS, None).await;
        let sent = replying.answer().await;
        assert_eq!((sent.header.opaque, denied(&sent)), (opaque, (response::SUCCESS, "")));
        assert_eq!((field(&sent, "queueId"), field(&sent, "queueOffset")), ("0", "0"));
    }
}

#[tokio::test]
async fn a_reply_that_does_not_arrive_is_refused() {
    let world = World::new();
    let mut replying = world.client().await;
    let code = request::SEND_REPLY_MESSAGE_V2;
    let text = properties("c@1");
    let fields = send_fields(TOPIC, "0", &text);
    let gone = "the reply is for client c@1, which is not connected";
    assert_eq!(denied(&replying.ask(code, &fields, b"pong").await), (response::SYSTEM_ERROR, gone));

    let mut asking = requester(&world).await;
    replying.send(code, &fields, b"pong", 0).await;
    let pushed = asking.notice().await;
    answer(&mut asking, &pushed, response::SYSTEM_ERROR, Some("no")).await;
    let refused = "client c@1 did not take the reply: code 1, no";
    assert_eq!(denied(&replying.answer().await), (response::SYSTEM_ERROR, refused));

    replying.send(code, &fields, b"pong", 0).await;
    asking.notice().await;
    drop(asking);
    let silent = "client c@1 did not say that it has the reply";
    assert_eq!(denied(&replying.answer().await), (response::SYSTEM_ERROR, silent));
}

#[tokio::test]
async fn replies_that_cannot_be_are_refused_by_name() {
    let world = World::new();
    let _asking = requester(&world).await;
    let mut client = world.client().await;
    let code = request::SEND_REPLY_MESSAGE_V2;
    let nobody = property_text(&[("CORRELATION_ID", "7")]);
    let answer = client.ask(code, &send_fields(TOPIC, "0", &nobody), b"pong").await;
    assert_eq!(denied(&answer), (response::SYSTEM_ERROR, "property REPLY_TO_CLIENT is missing"));
    let text = properties("c@1");
    let answer = client.ask(code, &send_fields("Other_REPLY_TOPIC", "0", &text), b"pong").await;
    assert_eq!(answer.header.code, response::TOPIC_NOT_EXIST);
    let answer = client.ask(code, &send_fields(TOPIC, "x", &text), b"pong").await;
    assert_eq!(answer.header.code, response::INVALID_PARAMETER);
    let long = vec![b'x'; 4 * 1024 * 1024 + 1];
    let answer = client.ask(code, &send_fields(TOPIC, "0", &text), &long).await;
    assert_eq!(denied(&answer), (response::MESSAGE_ILLEGAL, "body has 4194305 bytes, the limit is 4194304"));
    let full = format!("{text}k\u{1}{}\u{2}", "v".repeat(32_740 - text.len()));
    let answer = client.ask(code, &send_fields(TOPIC, "0", &full), b"pong").await;
    assert_eq!(answer.header.code, response::MESSAGE_ILLEGAL, "{:?}", answer.header.remark);
}

/// A request is an ordinary message, with what its receiver needs for the reply.
#[tokio::test]
async fn a_request_carries_what_its_reply_needs() {
    let world = World::new();
    let mut client = requester(&world).await;
    let pairs = [("CORRELATION_ID", "7"), ("REPLY_TO_CLIENT", "c@1"), ("TTL", "3000")];
    client.produce("questions", "0", &pairs, b"ping").await;
    let pop = [
        ("consumerGroup", "answering"),
        ("topic", "questions"),
        ("queueId", "-1"),
        ("maxMsgNums", "1"),
        ("invisibleTime", "60000"),
        ("pollTime", "15000"),
        ("bornTime", "0"),
        ("initMode", "0"),
    ];
    let popped = client.ask(request::POP_MESSAGE, &pop, b"").await;
    let message = martlet_remoting::codec::message::decode_all(&popped.body).unwrap().remove(0);
    for (name, value) in pairs.into_iter().chain([("CLUSTER", "DefaultCluster")]) {
        assert!(message.properties.contains(&format!("{name}\u{1}{value}")), "{name}: {:?}", message.properties);
    }
}
