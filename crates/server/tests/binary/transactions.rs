//! `martlet transaction`: what nobody ended, and ending it by hand.

use crate::process::Broker;
use martlet_grpc::proto::v2::{self, messaging_service_client::MessagingServiceClient};
use serde_json::Value;

/// Half messages with these ids, sent by a producer that is gone at once; gives back their transaction ids.
fn half_messages(broker: &Broker, topic: &str, ids: &[&str]) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let resource = |name: &str| Some(v2::Resource { resource_namespace: String::new(), name: name.into() });
    runtime.block_on(async {
        let mut client = MessagingServiceClient::connect(format!("http://{}", broker.grpc)).await.unwrap();
        let mut found = Vec::new();
        for id in ids {
            let message = v2::Message {
                topic: resource(topic),
                system_properties: Some(v2::SystemProperties {
                    message_id: (*id).into(),
                    message_type: v2::MessageType::Transaction as i32,
                    ..Default::default()
                }),
                body: id.as_bytes().to_vec().into(),
                ..Default::default()
            };
            let mut request = tonic::Request::new(v2::SendMessageRequest { messages: vec![message] });
            request.metadata_mut().insert("x-mq-client-id", "producer".parse().unwrap());
            let answer = client.send_message(request).await.unwrap().into_inner();
            found.push(answer.entries[0].transaction_id.clone());
        }
        found
    })
}

#[test]
fn transactions_that_nobody_ended_are_listed_and_ended_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let broker = Broker::start(&folder.path().join("data"));
    broker.ok(&["topic", "create", "transfers", "--type", "transaction"]);
    assert_eq!(broker.ok(&["transaction", "list"]), "no transactions wait\n");
    let ids = half_messages(&broker, "transfers", &["a", "b"]);
    // They outlive the broker.
    broker.kill();
    let broker = Broker::start(&folder.path().join("data"));
    let list = broker.ok(&["transaction", "list", "--topic", "transfers", "--json"]);
    let listed: Vec<Value> = list.lines().map(|one| serde_json::from_str(one).unwrap()).collect();
    // Under ids of this run; those that the producer was given hold as well.
    let listed_ids: Vec<_> = listed.iter().map(|one| one["transaction_id"].as_str().unwrap()).collect();
    assert_eq!(listed_ids.len(), ids.len(), "{list}");
    assert!(listed.iter().all(|one| one["given_up"] == Value::Bool(false)), "{list}");
    let table = broker.ok(&["transaction", "list"]);
    assert!(table.contains("transfers") && table.contains(listed_ids[1]) && table.contains("check"), "{table}");
    assert_eq!(broker.ok(&["transaction", "list", "--given-up"]), "no transactions wait\n");

    let said = broker.ok(&["transaction", "commit", &ids[0]]);
    assert_eq!(said, "committed: its message is in transfers\n");
    broker.ok(&["transaction", "rollback", listed_ids[1]]);
    broker.ok(&["transaction", "rollback", &ids[1], "--json"]);
    let error = broker.fails(&["transaction", "rollback", &ids[0]]);
    assert!(error.contains("committed before") && error.contains("PRECONDITION_FAILED"), "{error}");
    let error = broker.fails(&["transaction", "commit", "nonsense"]);
    assert!(error.contains("INVALID_TRANSACTION_ID"), "{error}");
    let received = broker.ok(&["receive", "transfers", "--group", "billing", "--json"]);
    assert_eq!(received.lines().count(), 1, "{received}");
    assert_eq!(broker.ok(&["transaction", "list"]), "no transactions wait\n");
}
