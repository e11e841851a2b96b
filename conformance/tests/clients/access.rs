//! Access control with the published clients and the reference's own tool: who is refused is told so by its client, and goes on as soon as it
//! may.

use martlet_conformance::agent::{Agent, Event, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::language::Language;
use martlet_conformance::{HarnessError, Result};

use crate::mqadmin::Tool;

const ROOT: (&str, &str) = ("root", "rootsecret");

/// A broker with access control, the tool of its super user, and the file of accounts.
fn start(what: &str, flags: &[&str]) -> Result<Option<(Broker, Tool, tempfile::NamedTempFile)>> {
    let Some(mqadmin) = Language::Mqadmin.program()? else { return Ok(None) };
    let io = |source| HarnessError::Io { what: "writing accounts".into(), source };
    let accounts = tempfile::NamedTempFile::new().map_err(io)?;
    std::fs::write(accounts.path(), "root rootsecret\n").map_err(io)?;
    let path = accounts.path().display().to_string();
    let flags = [&["--accounts", &path, "--authorization", "true"][..], flags].concat();
    let Some(broker) = Broker::start_own_with(what, &flags)? else { return Ok(None) };
    let tool = Tool::start(&mqadmin, &broker, Some(ROOT));
    Ok(Some((broker, tool, accounts)))
}

/// Waits until the client says that it was refused.
fn refused(agent: &mut Agent) -> Result<String> {
    agent.wait("a refusal", PATIENCE_SECS, |event| match event {
        Event::StartFailed { message } | Event::SendFailed { message, .. } => Some(message.clone()),
        Event::Sent { .. } => Some(String::new()),
        _ => None,
    })
}

fn with_each(check: impl Fn(Language, &Broker, &mut Tool) -> Result<()>, languages: &[Language]) -> Result<()> {
    let Some((broker, mut tool, _accounts)) = start("access control", &[])? else { return Ok(()) };
    tool.done("createUser -c DefaultCluster -u ann -p annsecret -t Normal").has("create user to");
    languages.iter().try_for_each(|language| check(*language, &broker, &mut tool))
}

/// A wrong secret, a user without a policy, and the same once it has one: sending and consuming.
fn is_refused_until_it_may(language: Language, broker: &Broker, tool: &mut Tool) -> Result<()> {
    let Some(program) = language.program()? else { return Ok(()) };
    let (topic, group) = (unique("guarded"), unique("readers"));
    broker.create_topic(&topic, 2)?;
    let produce = |(key, secret)| {
        let arguments = ["produce", "--count", "1", "--access-key", key, "--secret-key", secret];
        Agent::start(&program, broker, &topic, false, &arguments)
    };
    let mut wrong = produce((ROOT.0, "wrong"))?;
    let message = refused(&mut wrong)?;
    assert_ne!(message, "", "{language:?}: sent with a wrong secret");
    wrong.kill();
    produce(ROOT)?.finish()?;
    let mut allow = |resource: &str, actions: &str| {
        tool.done(&format!("createAcl -c DefaultCluster -s User:ann -r {resource} -a {actions} -d Allow"))
            .has("create acl to");
    };
    let mut ann = produce(("ann", "annsecret"))?;
    let message = refused(&mut ann)?;
    assert_ne!(message, "", "{language:?}: sent without a policy");
    allow(&format!("Topic:{topic}"), "Pub");
    ann.finish()?;
    let arguments = [language.consumer(), "--group", &group, "--access-key", "ann", "--secret-key", "annsecret"];
    let mut consumer = Agent::start(&program, broker, &topic, false, &arguments)?;
    allow(&format!("Topic:{topic}"), "Pub,Sub");
    allow(&format!("Group:{group}"), "Sub");
    for _ in 0..2 {
        consumer.received()?;
    }
    consumer.finish()?;
    Ok(())
}

#[test]
fn grpc_clients_are_refused_until_they_may() -> Result<()> {
    with_each(is_refused_until_it_may, &[Language::Java, Language::Go, Language::Python])
}

#[test]
fn tcp_clients_are_refused_until_they_may() -> Result<()> {
    with_each(is_refused_until_it_may, &[Language::JavaTcp, Language::JavaTcp4, Language::GoTcp])
}

#[test]
fn users_and_policies_are_administered_with_the_references_tool_and_survive_a_crash() -> Result<()> {
    let Some((mut broker, mut tool, _accounts)) = start("users and policies", &[])? else { return Ok(()) };
    tool.done("createUser -c DefaultCluster -u ann -p annsecret -t Normal").has("create user to").has("success.");
    tool.run("createUser -c DefaultCluster -u ann -p other").has("user ann exists already");
    let row = ["ann", "annsecret", "Normal", "enable"];
    assert_eq!(tool.done("getUser -c DefaultCluster -u ann").row(&["ann"]), row);
    tool.done("createUser -c DefaultCluster -u bob -p bobsecret -t Super");
    let listed = tool.done("listUser -c DefaultCluster");
    assert_eq!((listed.row(&["ann"]), listed.row(&["bob"])[2]), (row.to_vec(), "Super"));
    listed.has("#UserName").has_not("root");
    tool.done(
        "createAcl -c DefaultCluster -s User:ann -r Topic:orders,Group:bill* -a Pub,Sub -i 10.0.0.0/8,::1 -d Allow",
    );
    let policies = tool.done("getAcl -c DefaultCluster -s User:ann");
    let row = ["User:ann", "Custom", "Topic:orders", "[Pub,", "Sub]", "[10.0.0.0/8,", "::1]", "Allow"];
    assert_eq!(policies.row(&row[..3]), row);
    policies.row(&["User:ann", "Custom", "Group:bill*"]);
    tool.done("updateAcl -c DefaultCluster -s User:ann -r Topic:orders -a Pub -d Deny");
    let row = ["User:ann", "Custom", "Topic:orders", "[Pub]", "null", "Deny"];
    assert_eq!(tool.done("listAcl -c DefaultCluster -r orders").row(&row[..3]), row);
    tool.done("deleteAcl -c DefaultCluster -s User:ann -r Group:bill*").has("delete acl to");
    tool.run("deleteAcl -c DefaultCluster -s User:ann -r Group:bill*")
        .has("CODE: 3002")
        .has("has no policy about Group:bill*");
    tool.run("updateUser -c DefaultCluster -u nobody -p x").has("CODE: 3001");
    tool.done("deleteUser -c DefaultCluster -u bob").has("delete user to");
    tool.done("updateUser -c DefaultCluster -u ann -s disable").has("update user to");
    broker.kill9()?;
    broker.restart()?;
    let users = tool.done("listUser -c DefaultCluster");
    assert_eq!(users.row(&["ann"]), ["ann", "annsecret", "Normal", "disable"]);
    users.has_not("bob");
    let policies = tool.done("listAcl -c DefaultCluster");
    assert_eq!(policies.row(&["User:ann"]), row);
    policies.has_not("Group:bill*");
    Ok(())
}

#[test]
fn users_and_policies_in_a_bucket_survive_a_crash() -> Result<()> {
    let bucket = tempfile::tempdir().map_err(|source| HarnessError::Io { what: "making a bucket".into(), source })?;
    let store = format!("file://{}", bucket.path().display());
    let Some((mut broker, mut tool, _accounts)) = start("users in a bucket", &["--store", &store])? else {
        return Ok(());
    };
    tool.done("createUser -c DefaultCluster -u ann -p annsecret -t Normal").has("create user to");
    tool.done("createAcl -c DefaultCluster -s User:ann -r Topic:orders -a Pub -d Allow").has("create acl to");
    broker.kill9()?;
    broker.restart()?;
    assert_eq!(tool.done("listUser -c DefaultCluster").row(&["ann"]), ["ann", "annsecret", "Normal", "enable"]);
    let row = ["User:ann", "Custom", "Topic:orders", "[Pub]", "null", "Allow"];
    assert_eq!(tool.done("listAcl -c DefaultCluster").row(&["User:ann"]), row);
    Ok(())
}
