//! Half messages over HTTP: sent, asked for, ended.

#![allow(clippy::unwrap_used)]

mod world;

use std::time::Duration;
use world::{World, body_of};

#[tokio::test]
async fn a_half_message_is_ended_by_its_sender_and_seen_only_once_it_is_committed() {
    let world = World::new();
    let mut client = world.client().await;
    let mut handles = Vec::new();
    for body in ["commit", "roll back"] {
        let sent = client.publish("payments", body, "t", "__TransCheckT:10|KEYS:k|").await;
        assert_eq!(sent.status, 201, "{sent:?}");
        handles.push(sent.all("ReceiptHandle"));
    }
    let empty = client.consume("payments", "consumer=g&numOfMessages=1").await;
    assert_eq!(empty.error().1, "MessageNotExist");
    let not_due = client.consume("payments", "consumer=GID_p&numOfMessages=16&waitseconds=1&trans=pop").await;
    assert_eq!(not_due.error(), (404, "MessageNotExist".into()));
    // One SDK leaves the group out.
    let ended = client.settle("payments", "consumer=&trans=commit", &handles[0]).await;
    assert_eq!((ended.status, &*ended.body), (204, ""));
    assert_eq!(client.settle("payments", "consumer=GID_p&trans=rollback", &handles[1]).await.status, 204);
    // The reply may have been lost: the same again is as good, the opposite is not.
    assert_eq!(client.settle("payments", "consumer=GID_p&trans=commit", &handles[0]).await.status, 204);
    let other = client.settle("payments", "consumer=GID_p&trans=rollback", &handles[0]).await;
    assert_eq!((other.status, other.one("ErrorCode")), (404, "ReceiptHandleError".into()));
    let got = client.consume("payments", "consumer=g&numOfMessages=16&waitseconds=5").await;
    assert_eq!((got.one("MessageBody"), got.one("MessageTag")), ("commit".into(), "t".into()));
    assert_eq!(got.one("Properties"), "KEYS:k|", "what marks a transaction would confuse one SDK");
}

#[tokio::test]
async fn a_half_message_that_is_due_is_given_to_who_asks_and_to_nobody_else_meanwhile() {
    let world = World::with(|broker, _| broker.transaction_check_interval_millis = 500);
    let mut client = world.client().await;
    // A poll that waits is served when one is due.
    let mut waiting = world.client().await;
    client.consume("payments", "consumer=g&numOfMessages=1").await;
    let poll = tokio::spawn(async move {
        waiting.consume("payments", "consumer=GID_p&numOfMessages=16&waitseconds=30&trans=pop").await
    });
    world.send_half_due("payments", b"asked for").await;
    let got = poll.await.unwrap();
    assert_eq!((got.one("MessageBody"), got.one("ConsumedTimes")), ("asked for".into(), "1".into()));
    let millis = |name| got.one(name).parse::<i64>().unwrap();
    assert_eq!(millis("NextConsumeTime") - millis("FirstConsumeTime"), 10_000);
    let nothing = client.consume("payments", "consumer=GID_p&numOfMessages=16&waitseconds=2&trans=pop").await;
    assert_eq!(nothing.error().1, "MessageNotExist");
    let ended = client.settle("payments", "consumer=GID_p&trans=commit", &got.all("ReceiptHandle")).await;
    assert_eq!(ended.status, 204, "{ended:?}");
    let received = world.receive("payments", "readers", 5_000).await;
    assert_eq!(received.iter().map(body_of).collect::<Vec<_>>(), ["asked for"]);
    // No producer of another protocol is ever asked about it.
    let mut checks = world.broker.take_checks().unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), checks.recv()).await.is_err());
}

#[tokio::test]
async fn handles_that_are_none_and_lists_of_them_are_refused() {
    let world = World::new();
    let mut client = world.client().await;
    client.publish("payments", "x", "", "").await;
    for handle in ["", "nonsense"] {
        let reply = client.settle("payments", "consumer=g&trans=commit", &[handle.to_owned()]).await;
        assert_eq!((reply.status, reply.one("ErrorCode")), (404, "ReceiptHandleError".into()), "{handle:?}");
    }
    let two = client.settle("payments", "consumer=g&trans=rollback", &["a".into(), "b".into()]).await;
    assert_eq!(two.error(), (400, "InvalidArgument".into()));
    let nowhere = client.settle("nowhere", "consumer=g&trans=rollback", &["a".into()]).await;
    assert_eq!(nowhere.error(), (404, "TopicNotExist".into()));
}
