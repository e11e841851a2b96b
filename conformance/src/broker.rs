//! A broker process on ports of its own, in a folder of its own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::time::Duration;

use tempfile::TempDir;

use crate::agent::PATIENCE_SECS;
use crate::language::run;
use crate::ports::Ports;
use crate::process::{await_zero, launch};
use crate::{HarnessError, Result, io, skip, tail, target, workspace};

/// Whether brokers keep everything in a bucket.
static IN_BUCKETS: AtomicBool = AtomicBool::new(false);

/// From now on the brokers of this process keep everything in a bucket, a folder, and have an empty disk each time they start.
pub fn keep_in_buckets() {
    IN_BUCKETS.store(true, Relaxed);
}

/// A broker to test against. Dropping it kills the process, if it is ours.
pub struct Broker {
    endpoint: String,
    own: Option<Own>,
}

struct Own {
    binary: PathBuf,
    folder: TempDir,
    ports: Ports,
    /// `host:port` of the admin and the remoting listener.
    admin: String,
    remoting: String,
    /// Settings of its own.
    flags: Vec<String>,
    /// In a bucket: starts so far.
    elsewhere: Option<u32>,
    child: Option<Child>,
}

impl Broker {
    /// The broker that `CONFORMANCE_ENDPOINT` names, or a new process on an empty folder.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start() -> Result<Broker> {
        Broker::start_with(&[])
    }

    fn start_with(flags: &[&str]) -> Result<Broker> {
        if let Ok(endpoint) = std::env::var("CONFORMANCE_ENDPOINT") {
            return Ok(Broker { endpoint, own: None });
        }
        let folder = TempDir::new().map_err(io("creating a temporary folder"))?;
        let ports = Ports::take()?;
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let elsewhere = IN_BUCKETS.load(Relaxed).then_some(0);
        let endpoint = ports.grpc().to_string();
        let (admin, remoting) = (ports.admin().to_string(), ports.remoting().to_string());
        let own = Own { binary: binary()?, folder, ports, admin, remoting, flags, elsewhere, child: None };
        let mut broker = Broker { endpoint, own: Some(own) };
        broker.spawn()?;
        Ok(broker)
    }

    /// A broker that somebody else looks after.
    pub(crate) fn at(endpoint: String) -> Broker {
        Broker { endpoint, own: None }
    }

    /// A broker that can be killed and told of retry schedules; `None`, said aloud, if the one to test against is not ours.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start_own(what: &str) -> Result<Option<Broker>> {
        Broker::start_own_with(what, &[])
    }

    /// The same, with settings of its own: flags of the broker.
    ///
    /// # Errors
    /// When it cannot be built or started.
    pub fn start_own_with(what: &str, flags: &[&str]) -> Result<Option<Broker>> {
        if std::env::var_os("CONFORMANCE_ENDPOINT").is_some() {
            skip(what, "needs a broker of its own, and CONFORMANCE_ENDPOINT names another");
            return Ok(None);
        }
        Broker::start_with(flags).map(Some)
    }

    /// `host:port` of the gRPC listener.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// `host:port` where TCP clients find the name server. `CONFORMANCE_NAMESERVER` says it for a broker that is not ours.
    pub fn nameserver(&self) -> String {
        let other = || std::env::var("CONFORMANCE_NAMESERVER").unwrap_or_else(|_| "127.0.0.1:9876".to_owned());
        self.own.as_ref().map_or_else(other, |own| own.ports.nameserver().to_string())
    }

    /// `host:port` where TCP clients find the broker; `None` for a broker that is not ours.
    pub fn remoting(&self) -> Option<&str> {
        self.own.as_ref().map(|own| own.remoting.as_str())
    }

    /// `http://host:port` where clients of the HTTP SDK protocol connect. `CONFORMANCE_HTTP` says it for a broker that is not ours.
    pub fn http(&self) -> String {
        let other = || std::env::var("CONFORMANCE_HTTP").unwrap_or_else(|_| "http://127.0.0.1:8080".to_owned());
        self.own.as_ref().map_or_else(other, |own| format!("http://{}", own.ports.http()))
    }

    /// Its process, and `host:port` of its admin listener; `None` for a broker that is not ours.
    pub fn process(&self) -> Option<(u32, &str)> {
        let own = self.own.as_ref()?;
        Some((own.child.as_ref()?.id(), &own.admin))
    }

    /// `martlet`'s command line, which signs as the first of the broker's accounts if it has any.
    fn command_line(&self, binary: &Path) -> Command {
        let mut command = martlet(binary);
        let flags = self.own.as_ref().map_or(&[][..], |own| &own.flags);
        let accounts = flags.iter().position(|flag| flag == "--accounts").and_then(|at| flags.get(at + 1));
        let text = accounts.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        if let Some((key, secret)) = text.lines().next().and_then(|line| line.split_once(' ')) {
            command.env("MARTLET_ACCESS_KEY", key).env("MARTLET_SECRET_KEY", secret);
        }
        command
    }

    /// Receives and acknowledges so many messages with the command line, over gRPC.
    ///
    /// # Errors
    /// When they do not come within [`PATIENCE_SECS`], or the broker is not ours.
    pub fn receive(&self, topic: &str, group: &str, count: usize) -> Result<Vec<serde_json::Value>> {
        let binary = match &self.own {
            Some(own) => own.binary.clone(),
            None => binary()?,
        };
        let count_text = count.to_string();
        let mut command = self.command_line(&binary);
        command.args(["receive", topic, "--group", group, "--json", "--follow", "--count", &count_text]);
        command.args(["--endpoint", &self.endpoint]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(io(format!("starting {command:?}")))?;
        let said = child.stdout.take();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            let lines =
                said.into_iter().flat_map(|said| BufReader::new(said).lines()).map_while(std::result::Result::ok);
            for line in lines {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut found: Vec<serde_json::Value> = Vec::new();
        while let Ok(line) = lines.recv_timeout(Duration::from_secs(PATIENCE_SECS)) {
            found.extend(serde_json::from_str::<serde_json::Value>(&line).ok());
        }
        if found.len() != count {
            let _ = child.kill();
        }
        let _ = child.wait();
        match found.len() == count {
            true => Ok(found),
            false => Err(HarnessError::Timeout {
                what: format!("{count} messages of {topic}"),
                secs: PATIENCE_SECS,
                log: format!("{} came", found.len()),
            }),
        }
    }

    /// Sends a message with the command line, over gRPC.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn send(&self, topic: &str, body: &str, flags: &[&str]) -> Result<()> {
        let binary = match &self.own {
            Some(own) => own.binary.clone(),
            None => binary()?,
        };
        run(self.command_line(&binary).args(["send", topic, body, "--endpoint", &self.endpoint]).args(flags))
    }

    /// The certificate the broker made for itself, in PEM.
    pub fn certificate(&self) -> Option<PathBuf> {
        match &self.own {
            Some(own) => find(&own.data(), "certificate.pem"),
            None => std::env::var_os("CONFORMANCE_CERTIFICATE").map(PathBuf::from),
        }
    }

    /// Kills the process without warning.
    ///
    /// # Errors
    /// When there is no process of ours.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(child) = self.own.as_mut().and_then(|own| own.child.as_mut()) {
            child.kill().and_then(|()| child.wait()).map_err(io("killing the broker"))?;
        }
        Ok(())
    }

    /// Starts the process again, on the same ports and folder.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart(&mut self) -> Result<()> {
        self.spawn()
    }

    /// Creates a topic for normal messages.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_topic(&self, name: &str, queues: u32) -> Result<()> {
        self.create_topic_for("normal", name, queues)
    }

    /// Creates a topic for one type of messages, as the command line names them.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_topic_for(&self, kind: &str, name: &str, queues: u32) -> Result<()> {
        let queues = queues.to_string();
        let Some(own) = &self.own else {
            let kind = format!("+message.type={}", kind.to_uppercase());
            return mqadmin(&["updateTopic", "-t", name, "-r", &queues, "-w", &queues, "-a", &kind]);
        };
        let arguments = ["topic", "create", name, "--type", kind, "--queues", &queues, "--endpoint", &self.endpoint];
        run(self.command_line(&own.binary).args(arguments))
    }

    /// Has a topic recognise message ids for so long, such as `5m`; only on a broker of ours.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn deduplicate(&self, topic: &str, window: &str) -> Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        let arguments = ["topic", "update", topic, "--deduplicate", window, "--endpoint", &self.endpoint];
        run(self.command_line(&own.binary).args(arguments))
    }

    /// Transactions of a topic that have not ended. `None` for a broker that is not ours.
    ///
    /// # Errors
    /// When the broker does not say.
    fn transactions(&self, topic: &str) -> Result<Option<u64>> {
        let Some(own) = &self.own else { return Ok(None) };
        let mut command = self.command_line(&own.binary);
        command.args(["transaction", "list", "--topic", topic, "--json", "--endpoint", &self.endpoint]);
        let output = command.stdin(Stdio::null()).output().map_err(io(format!("{command:?}")))?;
        match output.status.success() {
            true => Ok(Some(String::from_utf8_lossy(&output.stdout).matches("\"transaction_id\"").count() as u64)),
            false => Err(HarnessError::Command {
                what: format!("{command:?}"),
                output: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            }),
        }
    }

    /// Creates a consumer group; attempts and back-off (such as `1s,2s`) reach only a broker of ours.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_group(&self, name: &str, attempts_max: u32, backoff: &str) -> Result<()> {
        let attempts = attempts_max.to_string();
        match &self.own {
            Some(own) => run(self
                .command_line(&own.binary)
                .args(["group", "create", name, "--max-attempts", &attempts])
                .args(["--backoff", backoff, "--endpoint", &self.endpoint])),
            None => mqadmin(&["updateSubGroup", "-g", name]),
        }
    }

    /// Creates a topic for messages with a message group, and a group that receives them in order.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_ordered(&self, topic: &str, queues: u32, group: &str, backoff: &str) -> Result<()> {
        self.create_topic_for("fifo", topic, queues)?;
        self.create_ordered_group(group, backoff)
    }

    /// Creates a group that receives in order.
    ///
    /// # Errors
    /// When the broker refuses.
    pub fn create_ordered_group(&self, group: &str, backoff: &str) -> Result<()> {
        let Some(own) = &self.own else {
            return mqadmin(&["updateSubGroup", "-g", group, "-o", "true"]);
        };
        let at = ["--endpoint", &self.endpoint];
        run(self
            .command_line(&own.binary)
            .args(["group", "create", group, "--order", "fifo", "--backoff", backoff])
            .args(at))
    }

    /// Creates a parent of lite topics and a group that consumes them, each one client's at a time if wanted; on a broker of ours only.
    ///
    /// # Errors
    /// When the tool fails.
    pub fn create_lite(&self, topic: &str, group: &str, exclusive: bool) -> Result<()> {
        self.create_topic_for("lite", topic, 1)?;
        let Some(own) = &self.own else { return Ok(()) };
        let exclusive = exclusive.to_string();
        let pattern = ["--pattern", "lite-selective", "--lite-parent", topic, "--lite-exclusive", &exclusive];
        // Without it clients handle several messages of a lite topic at once.
        run(self
            .command_line(&own.binary)
            .args(["group", "create", group, "--order", "fifo"])
            .args(pattern)
            .args(["--endpoint", &self.endpoint]))
    }

    /// Messages that the group has not consumed yet: ready, in flight and waiting for retry. `None` for a broker that is not ours.
    ///
    /// # Errors
    /// When the broker does not say.
    pub fn backlog(&self, group: &str) -> Result<Option<u64>> {
        Ok(self.describe_group(group)?.and_then(|described| described["backlog"].as_u64()))
    }

    /// What `martlet group describe --json` says. `None` for a broker that is not ours.
    ///
    /// # Errors
    /// When the broker does not say.
    pub fn describe_group(&self, group: &str) -> Result<Option<serde_json::Value>> {
        let Some(own) = &self.own else { return Ok(None) };
        let mut command = self.command_line(&own.binary);
        command.args(["group", "describe", group, "--json", "--endpoint", &self.endpoint]);
        let output = command.stdin(Stdio::null()).output().map_err(io(format!("{command:?}")))?;
        match serde_json::from_slice::<serde_json::Value>(&output.stdout) {
            Ok(value) if value["backlog"].is_u64() => Ok(Some(value)),
            _ => Err(HarnessError::Command {
                what: format!("{command:?}"),
                output: String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            }),
        }
    }

    /// Waits until the group has consumed everything; at once for a broker that is not ours.
    ///
    /// # Errors
    /// When it has not within `secs` seconds.
    pub fn await_no_backlog(&self, group: &str, secs: u64) -> Result<()> {
        await_zero(&format!("an end of the backlog of {group}"), secs, || self.backlog(group))
    }

    /// Waits until no transaction of the topic is left; at once for a broker that is not ours.
    ///
    /// # Errors
    /// When some are after `secs` seconds.
    pub fn await_no_transactions(&self, topic: &str, secs: u64) -> Result<()> {
        await_zero(&format!("an end of the transactions of {topic}"), secs, || self.transactions(topic))
    }

    fn spawn(&mut self) -> Result<()> {
        let Some(own) = &mut self.own else { return Ok(()) };
        let mut command = martlet(&own.binary);
        if let Some(starts) = &mut own.elsewhere {
            *starts += 1;
            command.args(["--store", &format!("file://{}", own.folder.path().join("bucket").display())]);
        }
        command.arg("--data").arg(own.data()).args(&own.flags);
        command.args(["--grpc-listen", &self.endpoint, "--admin-listen", &own.admin]);
        command.args(["--nameserver-listen", &own.ports.nameserver().to_string(), "--remoting-listen", &own.remoting]);
        command.args(["--http-listen", &own.ports.http().to_string()]);
        own.child = Some(launch(command, &own.log())?);
        Ok(())
    }
}

impl Own {
    /// What it has on its disk.
    fn data(&self) -> PathBuf {
        match self.elsewhere {
            None => self.folder.path().join("data"),
            Some(starts) => self.folder.path().join(format!("data-{starts}")),
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("broker.log")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let Some(own) = &mut self.own else { return };
        if let Some(child) = &mut own.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            crate::say(&format!("the broker's log ends with:\n{}", tail(&own.log())));
        }
    }
}

/// The broker's program with nothing but what the test gives it: it would read its settings from the environment too.
pub(crate) fn martlet(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.to_string_lossy().starts_with("MARTLET_")) {
        command.env_remove(name);
    }
    command
}

/// The broker's binary: `MARTLET_BIN`, or built once from this workspace.
pub(crate) fn binary() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    if let Some(path) = std::env::var_os("MARTLET_BIN") {
        return Ok(PathBuf::from(path));
    }
    let built = BUILT.get_or_init(|| {
        // As the tests of the whole workspace build it: on its own its dependencies would be built again, with other features.
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "-q", "--workspace", "--no-run", "--test", "binary"]).current_dir(workspace());
        let profile = if cfg!(debug_assertions) {
            "debug"
        } else {
            cargo.arg("--release");
            "release"
        };
        run(&mut cargo).map_err(|error| error.to_string())?;
        Ok(target().join(profile).join("martlet"))
    });
    built.clone().map_err(|output| HarnessError::Command { what: "building the broker".into(), output })
}

/// The reference's own tool, for a broker that is not ours: `CONFORMANCE_MQADMIN` names it. Without it, the broker must create by itself.
fn mqadmin(arguments: &[&str]) -> Result<()> {
    match std::env::var_os("CONFORMANCE_MQADMIN") {
        Some(tool) => run(Command::new(tool).args(arguments).args(["-c", "DefaultCluster"])),
        None => Ok(()),
    }
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    let here = entries.iter().find(|path| path.file_name().is_some_and(|it| it == name)).cloned();
    here.or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|path| find(path, name)))
}
