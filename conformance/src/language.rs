//! The languages: how each agent is built once, and how it is run.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::Hasher;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{HarnessError, Result, io, say, skip, target};

/// A language with a published RocketMQ client: of the 5.x gRPC protocol, of gRPC v1 (`OnsV1`), of the remoting protocol (`…Tcp`, `Ons`), or
/// of the HTTP SDK protocol (`…Http`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Maven `rocketmq-client-java`.
    Java,
    /// Go module `rocketmq-clients/golang/v5`.
    Go,
    /// PyPI `rocketmq-python-client`.
    Python,
    /// npm `rocketmq-client-nodejs`.
    Nodejs,
    /// Crate `rocketmq`.
    Rust,
    /// Maven `rocketmq-client` 5.5.0, which speaks the remoting protocol.
    JavaTcp,
    /// Maven `rocketmq-client` 4.9.8, which speaks it, too.
    JavaTcp4,
    /// Go module `rocketmq-client-go/v2`, of the same protocol.
    GoTcp,
    /// Maven `ons-client` 1.8.8.8, the product's own for Java, of the same protocol.
    Ons,
    /// Maven `ons-client` 2.0.7, with the same interface, which speaks gRPC v1, always over TLS.
    OnsV1,
    /// PyPI `rocketmq`, which wraps the C++ client of the same protocol.
    PythonTcp,
    /// PyPI `mq_http_sdk`, which speaks the HTTP SDK protocol.
    PythonHttp,
    /// npm `@aliyunmq/mq-http-sdk`, which speaks it, too.
    NodejsHttp,
    /// Maven `com.aliyun.mq:mq-http-sdk`, which speaks it, too.
    JavaHttp,
    /// Maven `rocketmq-tools` 5.5.0: the reference's `mqadmin`, which is no client.
    Mqadmin,
}

/// An agent that is built and can be run.
#[derive(Clone, Debug)]
pub struct Program {
    /// Whose client it drives.
    pub language: Language,
    built: PathBuf,
}

impl Language {
    /// Display name; the agent is built in a folder of this name.
    pub fn name(self) -> &'static str {
        match self {
            Language::Java => "java",
            Language::Go => "go",
            Language::Python => "python",
            Language::Nodejs => "nodejs",
            Language::Rust => "rust",
            Language::JavaTcp => "java-tcp",
            Language::JavaTcp4 => "java-tcp-4",
            Language::GoTcp => "go-tcp",
            Language::PythonTcp => "python-tcp",
            Language::Ons => "ons",
            Language::OnsV1 => "ons-v1",
            Language::PythonHttp => "python-http",
            Language::NodejsHttp => "nodejs-http",
            Language::JavaHttp => "java-http",
            Language::Mqadmin => "mqadmin",
        }
    }

    /// All clients.
    pub const ALL: [Language; 14] = [
        Language::Java,
        Language::Go,
        Language::Python,
        Language::Nodejs,
        Language::Rust,
        Language::JavaTcp,
        Language::JavaTcp4,
        Language::GoTcp,
        Language::PythonTcp,
        Language::Ons,
        Language::OnsV1,
        Language::PythonHttp,
        Language::NodejsHttp,
        Language::JavaHttp,
    ];

    /// Whether its client speaks the remoting protocol.
    pub fn is_tcp(self) -> bool {
        use Language::{GoTcp, JavaTcp, JavaTcp4, Ons, PythonTcp};
        matches!(self, JavaTcp | JavaTcp4 | GoTcp | PythonTcp | Ons)
    }

    /// Whether its client speaks the HTTP SDK protocol.
    pub fn is_http(self) -> bool {
        matches!(self, Language::PythonHttp | Language::NodejsHttp | Language::JavaHttp)
    }

    fn folder(self) -> &'static str {
        match self {
            Language::JavaTcp4 | Language::Ons | Language::OnsV1 => Language::JavaTcp.name(),
            Language::GoTcp => Language::Go.name(),
            Language::PythonTcp | Language::PythonHttp => Language::Python.name(),
            other => other.name(),
        }
    }

    /// Whether the published client has a push consumer.
    pub fn has_push(self) -> bool {
        self != Language::Rust && !self.is_http()
    }

    /// The consumer of the published client that is asked where any will do: `simple`, `push`, or over HTTP `consume`.
    pub fn consumer(self) -> &'static str {
        match self {
            tcp_or_v1 if tcp_or_v1.is_tcp() || self == Language::OnsV1 => "push",
            http if http.is_http() => "consume",
            _ => "simple",
        }
    }

    /// What a consumer is told so that it consumes in order; those of gRPC v2 go by the group's own order.
    pub fn in_order(self) -> &'static [&'static str] {
        if self.is_tcp() || self.is_http() || self == Language::OnsV1 { &["--orderly"] } else { &[] }
    }

    /// Whether the published client sends messages of a message group, or as the vendor's call it, with a sharding key.
    pub fn has_message_groups(self) -> bool {
        !self.is_tcp() || self == Language::Ons
    }

    /// Whether the published client's push consumer keeps the group's back-off after a failure. That of Node.js (1.0.8) does not: it leaves
    /// customised lists unread and then asks for the message at once, and of an exponential back-off it takes the seconds for milliseconds
    /// (`PushSubscriptionSettings.sync`, `ProcessQueue.#nackMessage`).
    pub fn keeps_backoff(self) -> bool {
        self != Language::Nodejs
    }

    /// Whether the published client opens its stream anew soon after the broker was away. Those of Go (5.1.4) and Python (5.1.2) wait for the
    /// next time they send their settings, up to five minutes (`defaultClientSession.startUp`, `ClientTelemetryManager`); that of Rust (5.0.0)
    /// never does (`Session::start`).
    pub fn opens_its_stream_again(self) -> bool {
        matches!(self, Language::Java | Language::Nodejs | Language::OnsV1)
    }

    /// The lowest priority that the published client can send; `None` if it knows none. That of Node.js (1.0.8) takes 0 for no priority, and
    /// then refuses a topic that wants one (`PublishingMessage`).
    pub fn lowest_priority(self) -> Option<i32> {
        match self {
            Language::Rust | Language::PythonHttp | Language::NodejsHttp | Language::JavaHttp => None,
            Language::Nodejs => Some(1),
            _ => Some(0),
        }
    }

    /// Whether the published client can recall a delayed message.
    pub fn has_recall(self) -> bool {
        !matches!(self, Language::Rust | Language::OnsV1)
    }

    /// Whether the published client has a lite push consumer, and its producer lite topics.
    pub fn has_lite(self) -> bool {
        self != Language::Rust
    }

    /// Whether the published client has a lite simple consumer. Those of Java (5.2.0) and Go (5.1.4) know the client type, no more.
    pub fn has_lite_simple(self) -> bool {
        self == Language::Python
    }

    /// Whether one can see that the published client was told of a lite topic that went to another client. That of Go (5.1.4) drops it
    /// from a set that it shows to nobody (`notifyUnsubscribeLite`); those of Python (5.1.2) and Node.js (1.0.8) leave the command unread.
    pub fn shows_what_is_taken_away(self) -> bool {
        self == Language::Java
    }

    /// Whether the published client takes no answer for the answer that its group is new. That of C++ (`PythonTcp`) does, if none comes
    /// for 5 s or the connection ends, and then begins at the end of the queue (`RemoteBrokerOffsetStore::readOffset`): what was sent before
    /// it started may never come.
    pub fn may_begin_at_the_end(self) -> bool {
        self == Language::PythonTcp
    }

    /// Whether the published client can change an invisible duration.
    pub fn has_change_invisible(self) -> bool {
        self != Language::Rust
    }

    fn tools(self) -> &'static [&'static str] {
        match self {
            Language::Java
            | Language::JavaTcp
            | Language::JavaTcp4
            | Language::Ons
            | Language::OnsV1
            | Language::JavaHttp
            | Language::Mqadmin => &["java", "mvn"],
            Language::Go | Language::GoTcp => &["go"],
            Language::Python | Language::PythonTcp | Language::PythonHttp => &["python3"],
            Language::Nodejs | Language::NodejsHttp => &["node", "npm"],
            Language::Rust => &["cargo"],
        }
    }

    fn source(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(self.folder())
    }

    /// The agent, built if its sources have changed; `None`, said aloud, if the toolchain is missing.
    ///
    /// # Errors
    /// When building or installing fails although the toolchain is there.
    ///
    /// # Panics
    /// When the toolchain is missing and the environment says `CI=true`.
    pub fn program(self) -> Result<Option<Program>> {
        for tool in self.tools() {
            let version = if *tool == "go" { "version" } else { "--version" };
            let mut probe = Command::new(tool);
            if probe.arg(version).stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
                skip(self.name(), &format!("`{tool}` is not installed"));
                return Ok(None);
            }
        }
        let built = target().join("conformance").join(self.name());
        fs::create_dir_all(&built).map_err(io(format!("creating {}", built.display())))?;
        let lock_path = built.with_extension("lock");
        let lock = fs::File::create(&lock_path).map_err(io(format!("creating {}", lock_path.display())))?;
        lock.lock().map_err(io(format!("locking {}", lock_path.display())))?;
        let stamp = built.join("stamp");
        let hash = self.hash()?;
        if fs::read_to_string(&stamp).unwrap_or_default() != hash {
            say(&format!("conformance: building the {} agent (once)", self.name()));
            self.build(&built)?;
            fs::write(&stamp, hash).map_err(io(format!("writing {}", stamp.display())))?;
        }
        Ok(Some(Program { language: self, built }))
    }

    fn hash(self) -> Result<String> {
        let mut files = Vec::new();
        collect(&self.source(), &mut files)?;
        files.sort();
        let mut hasher = DefaultHasher::new();
        for file in files {
            hasher.write(file.to_string_lossy().as_bytes());
            hasher.write(&fs::read(&file).map_err(io(format!("reading {}", file.display())))?);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }

    fn build(self, built: &Path) -> Result<()> {
        let source = self.source();
        match self {
            Language::Java
            | Language::JavaTcp
            | Language::JavaTcp4
            | Language::Ons
            | Language::OnsV1
            | Language::JavaHttp
            | Language::Mqadmin => {
                let output = format!("-Dagent.output={}", built.display());
                let mut maven = Command::new("mvn");
                maven.args(["-B", "-q", &output, "package"]).current_dir(source);
                if self == Language::JavaTcp4 {
                    maven.args(["-Drocketmq.version=4.9.8", "-Dagent.excludes=**/TcpPop.java"]);
                }
                if self == Language::OnsV1 {
                    maven.arg("-Dons.version=2.0.7.Final");
                }
                run(&mut maven)
            }
            Language::Go | Language::GoTcp => {
                run(Command::new("go").args(["build", "-o"]).arg(built.join("agent")).arg(".").current_dir(source))
            }
            Language::Python | Language::PythonTcp | Language::PythonHttp => {
                let (packages, files): (_, &[&str]) = match self {
                    Language::PythonTcp => ("requirements-tcp.txt", &["tcp_agent.py", "common.py"]),
                    Language::PythonHttp => ("requirements-http.txt", &["http_agent.py", "common.py"]),
                    _ => ("requirements.txt", &["agent.py", "common.py"]),
                };
                run(Command::new("python3").args(["-m", "venv"]).arg(built.join("venv")))?;
                run(Command::new(built.join("venv/bin/pip"))
                    .args(["install", "-q", "--disable-pip-version-check", "-r", packages])
                    .current_dir(&source))?;
                copy(&source, built, files)
            }
            Language::Nodejs | Language::NodejsHttp => {
                copy(&source, built, &["package.json", "package-lock.json", ".npmrc", "agent.js"])?;
                run(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(built))
            }
            Language::Rust => run(Command::new("cargo")
                .args(["build", "--locked", "--target-dir"])
                .arg(built.join("target"))
                .current_dir(source)),
        }
    }
}

impl Program {
    /// The command that runs the agent, without its arguments. `home` receives what the client logs.
    pub fn command(&self, home: &Path) -> Command {
        let mut command = match self.language {
            Language::Java
            | Language::JavaTcp
            | Language::JavaTcp4
            | Language::Ons
            | Language::OnsV1
            | Language::JavaHttp
            | Language::Mqadmin => {
                let mut java = Command::new("java");
                java.args(["-Xms16m", "-Xmx128m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
                java.arg(format!("-Duser.home={}", home.display()));
                // What these clients log goes to the agent's folder in a way of their own.
                java.arg("-Drocketmq.client.logUseSlf4j=false");
                java.arg("-cp").arg(format!("{0}/agent.jar:{0}/lib/*", self.built.display()));
                java.arg(match self.language {
                    Language::Ons | Language::OnsV1 => "martlet.OnsAgent",
                    Language::JavaHttp => "martlet.HttpAgent",
                    Language::Mqadmin => "martlet.Mqadmin",
                    tcp if tcp.is_tcp() => "martlet.TcpAgent",
                    _ => "martlet.Agent",
                });
                java
            }
            Language::Go => Command::new(self.built.join("agent")),
            Language::GoTcp => {
                let mut go = Command::new(self.built.join("agent"));
                go.arg("tcp");
                go
            }
            Language::Python | Language::PythonTcp | Language::PythonHttp => {
                let mut python = Command::new(self.built.join("venv/bin/python"));
                python.arg(self.built.join(match self.language {
                    Language::PythonTcp => "tcp_agent.py",
                    Language::PythonHttp => "http_agent.py",
                    _ => "agent.py",
                }));
                python
            }
            Language::Nodejs | Language::NodejsHttp => {
                let mut node = Command::new("node");
                node.arg(self.built.join("agent.js"));
                node
            }
            Language::Rust => Command::new(self.built.join("target/debug/martlet-agent")),
        };
        command.env("HOME", home).env("NO_PROXY", "*");
        command
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let what = || format!("reading {}", folder.display());
    for entry in fs::read_dir(folder).map_err(io(what()))? {
        let path = entry.map_err(io(what()))?.path();
        let generated =
            path.file_name().is_some_and(|name| name == "target" || name == "node_modules" || name == "__pycache__");
        if generated {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, names: &[&str]) -> Result<()> {
    for name in names {
        fs::copy(from.join(name), to.join(name)).map_err(io(format!("copying {name}")))?;
    }
    Ok(())
}

/// Runs a command to its end and keeps its output for the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let what = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(io(what.clone()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(HarnessError::Command { what, output: String::from_utf8_lossy(&text).into_owned() })
}

/// The programs of all `languages`, or `None` if one was skipped.
pub fn programs<const N: usize>(languages: [Language; N]) -> Result<Option<[Program; N]>> {
    let mut found = Vec::new();
    for language in languages {
        match language.program()? {
            Some(program) => found.push(program),
            None => return Ok(None),
        }
    }
    Ok(found.try_into().ok())
}
