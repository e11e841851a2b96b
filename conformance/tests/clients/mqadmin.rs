//! The reference's own tool, `mqadmin` 5.5.0: what its users need daily, with the columns and fields that they read.

#![allow(clippy::expect_used, reason = "a tool that does not start fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use martlet_conformance::Result;
use martlet_conformance::agent::{Agent, PATIENCE_SECS};
use martlet_conformance::broker::Broker;
use martlet_conformance::checks::unique;
use martlet_conformance::language::{Language, Program, programs};

/// One process for all commands; each prints what it says.
pub(crate) struct Tool {
    nameserver: String,
    child: Child,
    stdin: ChildStdin,
    printed: Receiver<String>,
    _home: tempfile::TempDir,
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command printed.
pub(crate) struct Printed(String);

impl Printed {
    /// The words of the first line that begins with these.
    pub(crate) fn row(&self, start: &[&str]) -> Vec<&str> {
        let words = |line| -> Vec<&str> { str::split_whitespace(line).collect() };
        let row = self.0.lines().map(words).find(|words| words.starts_with(start));
        row.unwrap_or_else(|| panic!("no line begins with {start:?} in:\n{}", self.0))
    }

    /// What stands behind the name of a field, such as `Tags:` or `groupName =`.
    fn field(&self, name: &str) -> &str {
        let value = self.0.lines().find_map(|line| line.trim().strip_prefix(name));
        value.unwrap_or_else(|| panic!("no {name} in:\n{}", self.0)).trim_start_matches([' ', ':', '=']).trim()
    }

    pub(crate) fn has(&self, part: &str) -> &Self {
        assert!(self.0.contains(part), "no {part:?} in:\n{}", self.0);
        self
    }

    pub(crate) fn has_not(&self, part: &str) -> &Self {
        assert!(!self.0.contains(part), "{part:?} in:\n{}", self.0);
        self
    }
}

impl Tool {
    /// Starts it, to sign with these access key and secret.
    pub(crate) fn start(mqadmin: &Program, broker: &Broker, signer: Option<(&str, &str)>) -> Tool {
        let home = tempfile::tempdir().expect("a temporary folder");
        let mut command = mqadmin.command(home.path());
        if let Some((key, secret)) = signer {
            let folder = home.path().join("conf");
            std::fs::create_dir(&folder).expect("a folder");
            let text = format!("accessKey: {key}\nsecretKey: {secret}\n");
            std::fs::write(folder.join("tools.yml"), text).expect("a file");
            command.env("ROCKETMQ_HOME", home.path());
        }
        // Some commands write files where they are run.
        command.current_dir(home.path());
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("java starts");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (tell, printed) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(std::result::Result::ok).try_for_each(|line| tell.send(line))
        });
        Tool { nameserver: broker.nameserver(), child, stdin, printed, _home: home }
    }

    /// A command without its name server's address.
    pub(crate) fn run(&mut self, command: &str) -> Printed {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        arguments.extend(["-n", &self.nameserver]);
        writeln!(self.stdin, "{}", serde_json::json!(arguments)).expect("the tool has ended");
        let printed = self.printed.recv_timeout(Duration::from_secs(PATIENCE_SECS));
        let printed = printed.unwrap_or_else(|_| panic!("{command}: nothing for {PATIENCE_SECS} s"));
        Printed(serde_json::from_str(&printed).expect("a JSON text"))
    }

    /// The same, of one that is refused nothing.
    pub(crate) fn done(&mut self, command: &str) -> Printed {
        let printed = self.run(command);
        printed.has_not("Exception");
        printed
    }
}

/// The tool, a broker, and clients of the TCP protocol; `None` if something is not installed.
fn start() -> Result<Option<(Tool, Broker, Program)>> {
    let Some([mqadmin, client]) = programs([Language::Mqadmin, Language::JavaTcp])? else { return Ok(None) };
    let broker = Broker::start()?;
    let tool = Tool::start(&mqadmin, &broker, None);
    Ok(Some((tool, broker, client)))
}

/// A consumer that is connected over gRPC is described by what the broker knows of it, and asked on its stream.
#[test]
fn a_consumer_over_grpc_shows_its_threads_and_consumes_on_trial() -> Result<()> {
    let Some([mqadmin, java]) = programs([Language::Mqadmin, Language::Java])? else { return Ok(()) };
    let broker = Broker::start()?;
    let mut tool = Tool::start(&mqadmin, &broker, None);
    let (topic, group) = (unique("tried"), unique("members"));
    broker.create_topic(&topic, 1)?;
    broker.send(&topic, "on trial", &[])?;
    let mut consumer = Agent::ready(&java, &broker, &topic, false, &["push", "--group", &group])?;
    let id = consumer.received()?.id;
    let connection = tool.done(&format!("consumerConnection -g {group}"));
    let client_id = connection.0.lines().find(|line| line.contains("JAVA")).and_then(|line| line.split(' ').next());
    let client_id = client_id.expect("a consumer that is connected").to_owned();
    tool.done(&format!("consumerStatus -g {group}")).has(&client_id);
    let status = tool.done(&format!("consumerStatus -g {group} -i {client_id} -s true"));
    status.has("CONSUME_PASSIVELY").has(&topic).has("java.lang.Thread");
    let again = tool.done(&format!("queryMsgByUniqueKey -t {topic} -i {id} -g {group} -d {client_id}"));
    again.has("consumeResult=CR_SUCCESS");
    assert_eq!(consumer.received()?.id, id, "once more, on trial");
    consumer.finish()
}

#[test]
fn topics_groups_and_messages_are_administered_with_the_references_tool() -> Result<()> {
    let Some((mut tool, broker, client)) = start()? else { return Ok(()) };
    let (topic, group) = (unique("invoices"), unique("billing"));
    let made = tool.done(&format!("updateTopic -c DefaultCluster -t {topic} -r 2 -w 2 -a +message.type=NORMAL"));
    made.has("create topic to").has("success.").has("readQueueNums=2");
    tool.done(&format!("updateSubGroup -c DefaultCluster -g {group} -r 3")).has("create subscription group to");
    let config = tool.done(&format!("getConsumerConfig -g {group}"));
    assert_eq!((config.field("groupName"), config.field("retryMaxTimes")), (group.as_str(), "3"));
    let mut ids = Vec::new();
    for (queue, key, tag) in [(0, "k0", "a"), (1, "k1", "b"), (0, "k1", "a")] {
        let sent = tool.done(&format!("sendMessage -t {topic} -p body-{key} -k {key} -c {tag} -b broker-a -i {queue}"));
        let row = sent.row(&["broker-a", &queue.to_string(), "SEND_OK"]);
        ids.push(row[3].to_owned());
    }
    let status = tool.done(&format!("topicStatus -t {topic}"));
    assert_eq!(status.row(&["broker-a", "0"])[2..4], ["0", "2"]);
    tool.done(&format!("topicRoute -t {topic}")).has("\"readQueueNums\":2").has("\"perm\":6");
    tool.done(&format!("topicClusterList -t {topic}")).has("DefaultCluster");
    let list = tool.done("topicList");
    assert_eq!((list.row(&[&topic]).len(), list.row(&[&format!("%RETRY%{group}")]).len()), (1, 1));

    let mut consumer = Agent::ready(&client, &broker, &topic, false, &["push", "--group", &group])?;
    for _ in 0..ids.len() {
        consumer.received()?;
    }
    broker.await_no_backlog(&group, PATIENCE_SECS)?;
    let progress = tool.done(&format!("consumerProgress -g {group}"));
    let row = progress.row(&[&topic, "broker-a", "0"]);
    assert_eq!(row[3..7], ["2", "2", "0", "0"], "broker's and consumer's offset, difference, in flight: {row:?}");
    assert_ne!(row[7], "N/A", "when the last consumed message was stored");
    assert_eq!(progress.field("Consume Diff Total"), "0");
    assert_eq!(tool.done("consumerProgress").row(&[&group])[1..5], ["1", "V5_5_0", "PUSH", "CLUSTERING"]);
    let connection = tool.done(&format!("consumerConnection -g {group}"));
    assert_eq!(connection.field("ConsumeType"), "CONSUME_PASSIVELY");
    assert_eq!(connection.row(&[&topic]), [&topic, "*"]);
    let client_id = connection.0.lines().find(|line| line.contains("JAVA")).and_then(|line| line.split(' ').next());
    let client_id = client_id.expect("a consumer that is connected").to_owned();
    tool.done(&format!("consumerStatus -g {group}")).has(&client_id).has("Rebalance OK");
    let stats = tool.done(&format!("statsAll -t {topic}"));
    // Topic, group, backlog, both rates, both counts of the last day.
    let row = stats.row(&[&topic, &group]);
    assert_eq!((row[2], row[5], row[6]), ("0", "3", "3"));

    let found = tool.done(&format!("queryMsgByUniqueKey -t {topic} -i {}", ids[0]));
    assert_eq!([found.field("Tags"), found.field("Keys"), found.field("Queue ID")], ["[a]", "[k0]", "0"]);
    found.has(&format!("consumerGroup={group}, trackType=CONSUMED"));
    let by_offset = tool.done(&format!("queryMsgByOffset -t {topic} -b broker-a -i 0 -o 1"));
    assert_eq!((by_offset.field("Keys"), by_offset.field("Queue Offset")), ("[k1]", "1"));
    let by_id = tool.done(&format!("queryMsgById -t {topic} -i {}", by_offset.field("OffsetID")));
    assert_eq!(by_id.field("Keys"), "[k1]");
    let again = tool.done(&format!("queryMsgByUniqueKey -t {topic} -i {} -g {group} -d {client_id}", ids[0]));
    again.has("consumeResult=CR_SUCCESS");
    assert_eq!(consumer.received()?.id, ids[0]);
    let by_key = tool.done(&format!("queryMsgByKey -t {topic} -k k1"));
    assert_eq!((by_key.row(&[&ids[1]])[1], by_key.row(&[&ids[2]])[1]), ("1", "0"));
    let all = tool.done(&format!("printMsg -t {topic} -d true"));
    ids.iter().for_each(|id| assert!(all.0.contains(id), "{id} is missing"));
    tool.done(&format!("printMsgByQueue -t {topic} -a broker-a -i 1 -p true -d true")).has(&ids[1]).has("body-k1");
    tool.done(&format!("consumeMessage -t {topic} -b broker-a -i 0 -o 0 -c 1")).has("Consume ok").has(&ids[0]);

    consumer.finish()?;
    let reset = tool.done(&format!("resetOffsetByTime -g {group} -t {topic} -s 0"));
    assert_eq!(reset.row(&["broker-a", "0"])[2], "0");
    let skipped = tool.done(&format!("skipAccumulatedMessage -g {group} -t {topic}"));
    assert_eq!(skipped.row(&["broker-a", "0"])[2], "2");
    tool.done(&format!("deleteSubGroup -c DefaultCluster -g {group}")).has("success");
    tool.done(&format!("deleteTopic -c DefaultCluster -t {topic}")).has("from NameServer success");
    tool.run(&format!("topicRoute -t {topic}")).has("CODE: 17");
    Ok(())
}

#[test]
fn the_broker_and_its_lite_topics_are_described_by_the_references_tool() -> Result<()> {
    let Some((mut tool, broker, client)) = start()? else { return Ok(()) };
    let cluster = tool.done("clusterList");
    let row = cluster.row(&["DefaultCluster", "broker-a", "0"]);
    assert_eq!((row.len(), row.last()), (14, Some(&"true")), "{row:?}");
    let status = tool.done("brokerStatus -c DefaultCluster");
    for name in ["putTps", "getTransferredTps", "sendThreadPoolQueueSize", "commitLogDiskRatio", "runtime"] {
        status.has(name);
    }
    let config = tool.done("getBrokerConfig -c DefaultCluster");
    assert_eq!((config.field("brokerName"), config.field("brokerId")), ("broker-a", "0"));
    let same = config.field("fileReservedTime").to_owned();
    let updated = tool.done(&format!("updateBrokerConfig -c DefaultCluster -k fileReservedTime -v {same}"));
    updated.has("update broker config success");

    let (parent, group, makers) = (unique("parent"), unique("lites"), unique("makers"));
    let attributes = "+message.type=LITE,+lite.topic.expiration=60";
    tool.done(&format!("updateTopic -c DefaultCluster -t {parent} -r 1 -w 1 -a {attributes}"));
    tool.done(&format!("updateSubGroup -c DefaultCluster -g {group} --attributes +lite.bind.topic={parent}"));
    let info = tool.done(&format!("getParentTopicInfo -p {parent}"));
    assert_eq!(info.row(&["broker-a"])[1..], ["60", "0", "0", &format!("[{group}]")]);
    let lite = tool.done(&format!("getLiteTopicInfo -p {parent} -l one"));
    assert_eq!(lite.row(&["broker-a"])[1..3], ["0", "0"]);
    assert_eq!(tool.done(&format!("getLiteGroupInfo -p {parent} -g {group}")).field("Total Lag Count"), "0");
    tool.done(&format!("getLiteClientInfo -p {parent} -g {group} -c nobody")).row(&["broker-a"]);
    tool.done(&format!("triggerLiteDispatch -p {parent} -g {group}")).has("dispatched");
    tool.done("getBrokerLiteInfo -c DefaultCluster").has("#Current LMQ");

    let topic = unique("orders");
    broker.create_topic(&topic, 1)?;
    let mut producer = Agent::ready(&client, &broker, &topic, false, &["produce", "--stdin", "--group", &makers])?;
    producer.send(&martlet_conformance::agent::Draft::body(b"body"))?;
    let connection = tool.done(&format!("producerConnection -g {makers} -t {topic}"));
    assert_eq!(connection.row(&["0001"])[3..], ["JAVA", "V5_5_0"]);
    producer.finish()
}
