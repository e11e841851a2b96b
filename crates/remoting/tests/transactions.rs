//! Half messages, their ends, and checks.

#![allow(clippy::unwrap_used)]

mod world;

use martlet_model::PhysicalOffset;
use martlet_remoting::codec::code::{request, response};
use martlet_remoting::codec::ids::read_offset_id;
use martlet_remoting::codec::message::{decode_all, sys};
use world::{Client, World, denied, field};

async fn half(client: &mut Client, id: &str) -> (String, String) {
    let pairs = [("UNIQ_KEY", id), ("TRAN_MSG", "true"), ("PGROUP", "producers"), ("TAGS", "t")];
    let answer = client.produce("payments", "1", &pairs, b"half").await;
    assert_eq!(denied(&answer), (response::SUCCESS, ""));
    let (_, at) = read_offset_id(field(&answer, "msgId")).unwrap();
    (field(&answer, "queueOffset").to_owned(), at.0.to_string())
}

async fn end(client: &mut Client, id: &str, group: &str, place: &(String, String), how: &str) -> (i32, String) {
    let fields = [
        ("producerGroup", group),
        ("tranStateTableOffset", &place.0),
        ("commitLogOffset", &place.1),
        ("commitOrRollback", how),
        ("fromTransactionCheck", "false"),
        ("msgId", id),
        ("transactionId", id),
    ];
    let answer = client.ask(request::END_TRANSACTION, &fields, b"").await;
    let (code, remark) = denied(&answer);
    (code, remark.to_owned())
}

#[tokio::test]
async fn a_transaction_ends_only_for_who_knows_its_place_its_id_and_its_group() {
    let world = World::new();
    let mut client = world.client().await;
    let place = half(&mut client, "one").await;
    assert!(world.find("payments", "one").await.messages.is_empty(), "nobody sees a half message");
    let beside = (place.0.clone(), PhysicalOffset(place.1.parse::<i64>().unwrap() + 1).0.to_string());
    for (id, group, place) in [("two", "producers", &place), ("one", "others", &place), ("one", "producers", &beside)] {
        let (code, remark) = end(&mut client, id, group, place, "8").await;
        assert_eq!(code, response::SYSTEM_ERROR, "{id} {group} {place:?}: {remark}");
    }
    let (code, remark) = end(&mut client, "one", "producers", &place, "9").await;
    assert_eq!(code, response::INVALID_PARAMETER);
    assert!(remark.contains("commitOrRollback"), "{remark}");
    assert_eq!(end(&mut client, "one", "producers", &place, "0").await.0, response::SUCCESS);
    assert!(world.find("payments", "one").await.messages.is_empty(), "its sender does not know yet");
    assert_eq!(end(&mut client, "one", "producers", &place, "8").await.0, response::SUCCESS);
    let found = world.find("payments", "one").await.messages;
    assert_eq!((found.len(), found[0].queue), (1, 1), "in the queue that its sender chose");
    let place = half(&mut client, "three").await;
    assert_eq!(end(&mut client, "three", "producers", &place, "12").await.0, response::SUCCESS);
    assert!(world.find("payments", "three").await.messages.is_empty());
}

#[tokio::test]
async fn a_producer_of_the_group_is_asked() {
    let world = World::with(|broker, _| {
        broker.transaction_immunity_millis = 1;
        broker.transaction_check_interval_millis = 100;
    });
    let mut client = world.client().await;
    let heartbeat = br#"{"clientID":"c@1","producerDataSet":[{"groupName":"producers"}],"consumerDataSet":[]}"#;
    let answer = client.ask(request::HEART_BEAT, &[], heartbeat).await;
    assert_eq!((answer.header.code, answer.header.version), (response::SUCCESS, 513));
    let place = half(&mut client, "asked").await;
    // The gRPC front does this in the broker's process.
    let mut checks = world.broker.take_checks().unwrap();
    let check = checks.recv().await.unwrap();
    let (message, _) = world.broker.read_check(&check).await.unwrap().unwrap();
    assert!(world.broker.check_by_group(&check, &message));
    let asked = client.notice().await;
    assert_eq!((asked.header.code, asked.header.is_one_way()), (request::CHECK_TRANSACTION_STATE, true));
    assert_eq!(field(&asked, "tranStateTableOffset"), place.0);
    assert_eq!((field(&asked, "commitLogOffset"), field(&asked, "msgId")), (place.1.as_str(), "asked"));
    let shown = &decode_all(&asked.body).unwrap()[0];
    assert_eq!((shown.topic.as_str(), &shown.body[..]), ("payments", &b"half"[..]));
    assert_eq!(shown.sys_flag & 0xc, sys::PREPARED);
    for part in ["PGROUP\u{1}producers", "TAGS\u{1}t", "UNIQ_KEY\u{1}asked", "TRAN_MSG\u{1}true"] {
        assert!(shown.properties.contains(part), "{part:?} is not in {:?}", shown.properties);
    }
    let answer = client.ask(request::UNREGISTER_CLIENT, &[("clientID", "c@1"), ("producerGroup", "producers")], b"");
    assert_eq!(answer.await.header.code, response::SUCCESS);
    assert!(!world.broker.check_by_group(&check, &message), "nobody is left to be asked");
}
