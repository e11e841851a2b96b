//! Access control: signatures, users and policies as clients and tools of this protocol use them.

#![allow(clippy::unwrap_used)]

mod world;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use martlet_broker::auth::{Accounts, Secret};
use martlet_broker::{AccessOptions, Broker, BrokerOptions};
use martlet_remoting::codec::frame::Frame;
use martlet_remoting::codec::header::Format;
use martlet_remoting::codec::json::Json;
use std::collections::BTreeMap;
use world::{Client, World};

const SEND_V2: i32 = 310;
const ROUTE: i32 = 105;
const HEART_BEAT: i32 = 34;
const CREATE_USER: i32 = 3001;
const UPDATE_USER: i32 = 3002;
const DELETE_USER: i32 = 3003;
const GET_USER: i32 = 3004;
const LIST_USERS: i32 = 3005;
const CREATE_ACL: i32 = 3006;
const DELETE_ACL: i32 = 3008;
const GET_ACL: i32 = 3009;
const LIST_ACLS: i32 = 3010;
const OK: i32 = 0;
const NO_PERMISSION: i32 = 16;
const USER_NOT_EXIST: i32 = 3001;
const POLICY_NOT_EXIST: i32 = 3002;

fn access(authorization: bool) -> Option<AccessOptions> {
    Some(AccessOptions { accounts: Accounts::parse("root rootsecret").unwrap(), authorization })
}

fn world(authorization: bool) -> World {
    World::with(|broker, _| broker.access = access(authorization))
}

/// Asks as a user, signed as the SDKs do.
async fn ask(
    client: &mut Client,
    (user, secret): (&str, &str),
    code: i32,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Frame {
    let mut fields: BTreeMap<&str, &str> = fields.iter().copied().collect();
    fields.insert("AccessKey", user);
    let parts = fields.values().map(|value| value.as_bytes()).chain([body]);
    let signature = STANDARD.encode(Secret::new(secret).sign(parts));
    fields.insert("Signature", &signature);
    let fields: Vec<(&str, &str)> = fields.into_iter().collect();
    client.ask(code, &fields, body).await
}

const ROOT: (&str, &str) = ("root", "rootsecret");
const ANN: (&str, &str) = ("ann", "annsecret");

fn send_fields(topic: &str) -> Vec<(&str, &str)> {
    vec![
        ("a", "p"),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1"),
        ("h", "0"),
        ("i", ""),
    ]
}

async fn send(client: &mut Client, user: (&str, &str), topic: &str) -> Frame {
    ask(client, user, SEND_V2, &send_fields(topic), b"hello").await
}

fn said(frame: &Frame) -> (i32, &str) {
    (frame.header.code, frame.header.remark.as_deref().unwrap_or(""))
}

async fn make_ann(client: &mut Client) {
    let body = br#"{"password":"annsecret"}"#;
    let made = ask(client, ROOT, CREATE_USER, &[("username", "ann")], body).await;
    assert_eq!(said(&made), (OK, ""));
}

async fn allow(client: &mut Client, resource: &str, actions: &str, decision: &str) -> i32 {
    let body = format!(
        r#"{{"policies":[{{"entries":[{{"resource":"{resource}","actions":[{actions}],"sourceIps":["127.0.0.0/8"],
            "decision":"{decision}"}}]}}]}}"#
    );
    ask(client, ROOT, CREATE_ACL, &[("subject", "User:ann")], body.as_bytes()).await.header.code
}

#[tokio::test]
async fn only_signed_requests_are_carried_out_in_both_formats() {
    let world = world(false);
    let mut client = world.client().await;
    for format in [Format::Json, Format::Binary] {
        client.format = format;
        assert_eq!(said(&send(&mut client, ROOT, "orders").await), (OK, ""));
        let unsigned = client.ask(SEND_V2, &send_fields("orders"), b"hello").await;
        let text =
            "the request is not signed: AccessKey is missing or empty, and this broker takes signed requests only";
        assert_eq!(said(&unsigned), (NO_PERMISSION, text));
        assert_eq!(said(&send(&mut client, ("", "x"), "orders").await), (NO_PERMISSION, text));
        let unknown = send(&mut client, ("nobody", "x"), "orders").await;
        assert_eq!(said(&unknown), (NO_PERMISSION, "user \"nobody\" is not known"));
        let wrong = send(&mut client, ("root", "x"), "orders").await;
        assert_eq!(wrong.header.code, NO_PERMISSION);
        // Routes, too.
        let route = client.ask(ROUTE, &[("topic", "orders")], b"").await;
        assert_eq!(route.header.code, NO_PERMISSION);
        assert_eq!(ask(&mut client, ROOT, ROUTE, &[("topic", "orders")], b"").await.header.code, OK);
    }
    let vendors = [("topic", "orders"), ("OnsChannel", "ALIYUN"), ("Signature", "?"), ("AccessKey", "root")];
    assert_eq!(client.ask(ROUTE, &vendors, b"").await.header.code, OK);
    // A signature is that of its body, too.
    let mut fields: Vec<(&str, &str)> = send_fields("orders");
    fields.push(("AccessKey", "root"));
    fields.sort_unstable();
    let parts = fields.iter().map(|(_, value)| value.as_bytes()).chain([&b"hello"[..]]);
    let signature = STANDARD.encode(Secret::new("rootsecret").sign(parts));
    let sorted_wrong = {
        fields.push(("Signature", &signature));
        client.ask(SEND_V2, &fields, b"hullo").await
    };
    assert_eq!(sorted_wrong.header.code, NO_PERMISSION);
}

#[tokio::test]
async fn users_need_policies_where_policies_are_looked_at() {
    let world = world(true);
    let mut client = world.client().await;
    make_ann(&mut client).await;
    let refused = send(&mut client, ANN, "orders").await;
    let text = "user \"ann\" has no permission to Pub Topic:orders from 127.0.0.1: no policy is about it";
    assert_eq!(said(&refused), (NO_PERMISSION, text));
    assert_eq!(allow(&mut client, "Topic:ord*", r#""Pub""#, "Allow").await, OK);
    assert_eq!(said(&send(&mut client, ANN, "orders").await), (OK, ""));
    assert_eq!(send(&mut client, ANN, "bills").await.header.code, NO_PERMISSION);
    assert_eq!(allow(&mut client, "Topic:orders", r#""All""#, "Deny").await, OK);
    assert!(said(&send(&mut client, ANN, "orders").await).1.ends_with("a policy denies it"));
    // A heartbeat needs group and topic.
    let heartbeat = br#"{"clientID":"c","producerDataSet":[],"consumerDataSet":[{"groupName":"billing","consumeType":
        "CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","subscriptionDataSet":
        [{"topic":"ordinary","subString":"*"}]}]}"#;
    assert_eq!(ask(&mut client, ANN, HEART_BEAT, &[], heartbeat).await.header.code, NO_PERMISSION);
    assert_eq!(allow(&mut client, "Group:billing", r#""Sub""#, "Allow").await, OK);
    let refused = ask(&mut client, ANN, HEART_BEAT, &[], heartbeat).await;
    assert!(said(&refused).1.contains("Sub Topic:ordinary"), "{:?}", said(&refused));
    assert_eq!(allow(&mut client, "Topic:ordinary", r#""Sub""#, "Allow").await, OK);
    assert_eq!(said(&ask(&mut client, ANN, HEART_BEAT, &[], heartbeat).await), (OK, ""));
    // Tools need the broker as a whole.
    assert_eq!(ask(&mut client, ANN, LIST_USERS, &[], b"").await.header.code, NO_PERMISSION);
    assert_eq!(allow(&mut client, "Cluster:DefaultCluster", r#""Get","Update""#, "Allow").await, OK);
    let listed = ask(&mut client, ANN, LIST_USERS, &[], b"").await;
    assert!(!String::from_utf8_lossy(&listed.body).contains("annsecret"));
    // And are not on their way to be super users.
    let raise = ask(&mut client, ANN, UPDATE_USER, &[("username", "ann")], br#"{"userType":"Super"}"#).await;
    assert_eq!(raise.header.code, NO_PERMISSION);
}

#[tokio::test]
async fn without_policies_users_may_send_and_super_users_say_who_is_one() {
    let world = world(false);
    let mut client = world.client().await;
    make_ann(&mut client).await;
    assert_eq!(said(&send(&mut client, ANN, "orders").await), (OK, ""));
    assert_eq!(ask(&mut client, ANN, LIST_USERS, &[], b"").await.header.code, NO_PERMISSION);
    let off = ask(&mut client, ROOT, UPDATE_USER, &[("username", "ann")], br#"{"userStatus":"disable"}"#).await;
    assert_eq!(said(&off), (OK, ""));
    assert_eq!(said(&send(&mut client, ANN, "orders").await), (NO_PERMISSION, "user \"ann\" is disabled"));
}

#[tokio::test]
async fn users_and_policies_are_told_as_tools_expect_and_are_kept() {
    let mut world = world(true);
    let mut client = world.client().await;
    make_ann(&mut client).await;
    let again = ask(&mut client, ROOT, CREATE_USER, &[("username", "ann")], br#"{"password":"x"}"#).await;
    assert_eq!(said(&again).1, "user ann exists already");
    let user = ask(&mut client, ROOT, GET_USER, &[("username", "ann")], b"").await;
    let text = r#"{"password":"annsecret","userStatus":"enable","userType":"Normal","username":"ann"}"#;
    assert_eq!(user.body, text.as_bytes());
    assert!(ask(&mut client, ROOT, GET_USER, &[("username", "bob")], b"").await.body.is_empty());
    let listed = ask(&mut client, ROOT, LIST_USERS, &[("filter", "nn")], b"").await;
    assert_eq!(listed.body, format!("[{text}]").as_bytes());
    assert!(ask(&mut client, ROOT, LIST_USERS, &[("filter", "x")], b"").await.body.is_empty());
    assert_eq!(allow(&mut client, "Topic:orders", r#""Pub","sub""#, "allow").await, OK);
    assert_eq!(allow(&mut client, "Topic:orders", r#""Nothing""#, "Allow").await, 29);
    assert_eq!(allow(&mut client, "Queue:orders", r#""Pub""#, "Allow").await, 29);
    let policies = ask(&mut client, ROOT, GET_ACL, &[("subject", "User:ann")], b"").await;
    let text = concat!(
        r#"{"policies":[{"entries":[{"actions":["Pub","Sub"],"decision":"Allow","resource":"Topic:orders","#,
        r#""sourceIps":["127.0.0.0/8"]}],"policyType":"Custom"}],"subject":"User:ann"}"#
    );
    assert_eq!(policies.body, text.as_bytes());
    assert!(Json::parse(&policies.body, "body").is_ok());
    let filters = [("subjectFilter", "ann"), ("resourceFilter", "order")];
    assert_eq!(ask(&mut client, ROOT, LIST_ACLS, &filters, b"").await.body, format!("[{text}]").as_bytes());
    assert!(ask(&mut client, ROOT, LIST_ACLS, &[("resourceFilter", "bill")], b"").await.body.is_empty());
    for (code, fields, refused) in [
        (GET_ACL, vec![("subject", "User:bob")], USER_NOT_EXIST),
        (GET_ACL, vec![("subject", "ann")], 29),
        (DELETE_ACL, vec![("subject", "User:bob")], USER_NOT_EXIST),
        (DELETE_ACL, vec![("subject", "User:ann"), ("resource", "Topic:bills")], POLICY_NOT_EXIST),
        (UPDATE_USER, vec![("username", "bob")], USER_NOT_EXIST),
        (DELETE_USER, vec![("username", "bob")], OK),
        (UPDATE_USER, vec![("username", "root")], 29),
    ] {
        assert_eq!(ask(&mut client, ROOT, code, &fields, b"{}").await.header.code, refused, "{code} {fields:?}");
    }
    // Another start of the broker knows them.
    drop(client);
    let folder = std::mem::replace(&mut world.folder, tempfile::tempdir().unwrap());
    drop(world);
    let mut options = BrokerOptions::new(folder.path());
    options.access = access(true);
    let (broker, _) = Broker::open(options).unwrap();
    let now = broker.access().unwrap();
    assert_eq!(now.users()["ann"].secret.reveal(), "annsecret");
    assert_eq!(now.policies()["ann"].len(), 1);
    broker.close();
}

#[tokio::test]
async fn nobody_makes_users_while_access_control_is_off() {
    let world = World::new();
    let mut client = world.client().await;
    let made = client.ask(CREATE_USER, &[("username", "ann")], br#"{"password":"x"}"#).await;
    assert_eq!(said(&made), (NO_PERMISSION, "access control is off: the setting accounts switches it on"));
    assert_eq!(client.ask(LIST_USERS, &[], b"").await.header.code, NO_PERMISSION);
    // Credentials are not looked at.
    let mut fields = send_fields("orders");
    fields.extend([("AccessKey", ""), ("Signature", "?")]);
    assert_eq!(client.ask(SEND_V2, &fields, b"hello").await.header.code, OK);
}
