//! Access control over HTTP: users made at run time and their policies. Signatures: `auth_tests.rs`.

#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use martlet_broker::auth::{Accounts, Action, Decision, Entry, PolicyKind, Secret};
use martlet_broker::{AccessOptions, UserChange};
use std::time::SystemTime;
use world::{World, message};

/// Headers that sign a request as the SDKs do.
fn headers((user, secret): (&str, &str), method: &str, target: &str) -> String {
    let date = httpdate::fmt_http_date(SystemTime::now());
    let text = format!("{method}\n\n\n{date}\nx-mq-version:2015-06-06\n{target}");
    let signature = STANDARD.encode(Secret::new(secret).sign([text.as_bytes()]));
    format!("Date: {date}\r\nAuthorization: MQ {user}:{signature}\r\n")
}

#[tokio::test]
async fn users_sign_and_need_policies_for_topic_and_group() {
    let access = AccessOptions { accounts: Accounts::parse("root rootsecret").unwrap(), authorization: true };
    let world = World::with(|broker, _| broker.access = Some(access));
    let ann = ("ann", "annsecret");
    let said = UserChange { secret: Some(Secret::new(ann.1)), ..UserChange::default() };
    world.broker.create_user("ann", &said).await.unwrap();
    let allow = async |resource: &str, action| {
        let (resource, actions) = (resource.parse().unwrap(), vec![action]);
        let entry = Entry { resource, actions, sources: Vec::new(), decision: Decision::Allow };
        world.broker.put_policies("ann", &[(PolicyKind::Custom, entry)]).await.unwrap();
    };
    let mut client = world.client().await;
    let (topic, body) = ("/topics/orders/messages", message("x", "", ""));
    let mut publish = async |user| client.ask_with("POST", topic, &headers(user, "POST", topic), &body).await;
    assert_eq!(publish(("root", "rootsecret")).await.status, 201);
    assert_eq!(publish(("ann", "other")).await.error(), (403, "SignatureDoesNotMatch".into()));
    assert_eq!(publish(("nobody", "x")).await.error(), (403, "InvalidAccessKeyId".into()));
    assert_eq!(publish(ann).await.error(), (403, "AccessDenied".into()));
    allow("Topic:orders", Action::Pub).await;
    assert_eq!(publish(ann).await.status, 201);
    let target = "/topics/orders/messages?consumer=billing&numOfMessages=1";
    let mut consumer = world.client().await;
    let mut consume = async || consumer.ask_with("GET", target, &headers(ann, "GET", target), "").await;
    assert_eq!(consume().await.error(), (403, "AccessDenied".into()));
    allow("Topic:*", Action::Sub).await;
    allow("Topic:orders", Action::Sub).await;
    assert_eq!(consume().await.error(), (403, "AccessDenied".into()));
    allow("Group:billing", Action::Sub).await;
    assert_ne!(consume().await.status, 403);
    assert_eq!(publish(ann).await.error(), (403, "AccessDenied".into()), "the entry was replaced");
}
