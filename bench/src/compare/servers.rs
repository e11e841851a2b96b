//! Starting, pausing and ending the servers of the comparison.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Options;
use crate::error::{BenchError, Result};
use crate::load::{Target, idle};
use crate::template::{Dress, Spread};

/// How long a server may take to serve.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Apache RocketMQ: name server, broker and proxy.
    Reference,
    /// The bare gRPC server.
    Floor,
    /// Martlet.
    Martlet,
}

impl Kind {
    /// In the order of the columns.
    pub const ALL: [Kind; 3] = [Kind::Reference, Kind::Floor, Kind::Martlet];

    /// What to do to have this column.
    pub fn how_to_have(self, options: &Options) -> String {
        match self {
            Kind::Reference => "REFERENCE_DIR (or --reference) is not set".to_owned(),
            Kind::Floor => format!("no program at {}", beside("floor").display()),
            Kind::Martlet => format!("no program at {}: build it, or set MARTLET_BIN", martlet(options).display()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Reference => "reference",
            Kind::Floor => "floor",
            Kind::Martlet => "Martlet",
        })
    }
}

/// A running server; ends with this value.
pub struct Server {
    /// Which.
    pub kind: Kind,
    /// Its processes.
    pub pids: Vec<u32>,
    /// From the start of its command until it answered a QueryRoute, or a name server's request for a route.
    pub ready_ms: f64,
    endpoint: String,
    /// For loads of TCP clients: the name server.
    name_server: Option<String>,
    /// Processes that have no part in the loads, stopped for good.
    bystanders: Vec<u32>,
    program: PathBuf,
    child: Option<Child>,
    reference: Option<Reference>,
}

struct Reference {
    scripts: PathBuf,
    data: PathBuf,
}

fn beside(program: &str) -> PathBuf {
    // A program that cannot find itself finds its neighbour by the search path.
    std::env::current_exe().ok().and_then(|p| p.parent().map(|d| d.join(program))).unwrap_or_else(|| program.into())
}

fn martlet(options: &Options) -> PathBuf {
    options.martlet.clone().unwrap_or_else(|| beside("martlet"))
}

impl Server {
    /// Starts it and waits until it serves; `None` if it is not there to be started.
    pub fn start(kind: Kind, options: &Options, work: &Path) -> Result<Option<Self>> {
        match kind {
            Kind::Reference => match &options.reference {
                Some(scripts) => Self::start_reference(scripts, options, work).map(Some),
                None => Ok(None),
            },
            Kind::Floor => {
                let listen = format!("127.0.0.1:{}", options.port);
                let mut arguments = vec!["--listen".into(), listen.clone()];
                arguments.extend(options.tcp.then(|| "--tcp".into()));
                let name_server = options.tcp.then(|| listen.clone());
                Self::spawn(kind, beside("floor"), arguments, listen, name_server, work)
            }
            Kind::Martlet => {
                let local = |port: u16| format!("127.0.0.1:{}", options.port + port);
                let listen = local(1);
                // Two ports below the broker's it listens, too.
                let (name_server, broker) = match options.tcp {
                    true => (local(3), local(6)),
                    false => ("off".to_owned(), "off".to_owned()),
                };
                let arguments = vec![
                    "--data".into(),
                    work.join("martlet").display().to_string(),
                    "--grpc-listen".into(),
                    listen.clone(),
                    "--admin-listen".into(),
                    local(2),
                    "--nameserver-listen".into(),
                    name_server.clone(),
                    "--remoting-listen".into(),
                    broker,
                    "--http-listen".into(),
                    "off".into(),
                ];
                let name_server = options.tcp.then_some(name_server);
                Self::spawn(kind, martlet(options), arguments, listen, name_server, work)
            }
        }
    }

    fn spawn(
        kind: Kind,
        program: PathBuf,
        arguments: Vec<String>,
        endpoint: String,
        name_server: Option<String>,
        work: &Path,
    ) -> Result<Option<Self>> {
        if !program.is_file() {
            return Ok(None);
        }
        let mut command = vec![program.display().to_string()];
        command.extend(arguments);
        let mut server = Self {
            kind,
            pids: Vec::new(),
            ready_ms: 0.0,
            endpoint,
            name_server,
            bystanders: Vec::new(),
            program,
            child: None,
            reference: None,
        };
        let (target, log) = (server.target("bench-send"), work.join(format!("{kind}.log")));
        let (child, report) = match server.name_server {
            Some(_) => idle::ready_tcp(&command, &log, &target, PATIENCE)?,
            None => idle::ready(&command, &log, &target, PATIENCE)?,
        };
        server.ready_ms = report.get("ready").unwrap_or_default();
        server.pids.push(child.id());
        server.child = Some(child);
        Ok(Some(server))
    }

    fn start_reference(scripts: &Path, options: &Options, work: &Path) -> Result<Self> {
        let port = std::env::var("GRPC_PORT").unwrap_or_else(|_| "8081".to_owned());
        let endpoint = format!("127.0.0.1:{port}");
        let port = std::env::var("NAMESRV_PORT").unwrap_or_else(|_| "9876".to_owned());
        let name_server = options.tcp.then(|| format!("127.0.0.1:{port}"));
        let mut server = Self {
            kind: Kind::Reference,
            pids: Vec::new(),
            ready_ms: 0.0,
            endpoint,
            name_server,
            bystanders: Vec::new(),
            program: PathBuf::new(),
            child: None,
            reference: Some(Reference { scripts: scripts.to_owned(), data: work.join("reference") }),
        };
        let begin = Instant::now();
        // From here on dropping the value runs stop.sh, whatever start.sh left behind.
        server.script("start.sh", &[])?;
        server.until_ready()?;
        server.ready_ms = begin.elapsed().as_secs_f64() * 1e3;
        for name in ["namesrv", "broker", "proxy"] {
            let path = work.join(format!("reference/pids/{name}.pid"));
            // In its local mode there is no proxy of its own.
            if let Ok(text) = std::fs::read_to_string(&path) {
                let pid = text.trim().parse().map_err(|e| BenchError::Server { what: format!("{name}.pid: {e}") })?;
                match name {
                    "proxy" if options.tcp => server.bystanders.push(pid),
                    _ => server.pids.push(pid),
                }
            }
        }
        signal(&server.bystanders, Signal::STOP);
        Ok(server)
    }

    /// Runs a script of the reference with its data folder.
    fn script(&self, name: &str, arguments: &[&str]) -> Result<()> {
        let Some(reference) = &self.reference else { return Ok(()) };
        let path = reference.scripts.join(name);
        let mut command = Command::new(&path);
        match name {
            "mqadmin.sh" => command.args(arguments).env("REF_DATA", &reference.data),
            _ => command.arg(&reference.data),
        };
        self.command(&mut command)
    }

    /// Runs a command to its end; what it said is in the error if it fails.
    fn command(&self, command: &mut Command) -> Result<()> {
        use std::io::{Read, Seek};
        let name = command.get_program().to_owned();
        // A file, not a pipe: what a script starts keeps it open after the script's end.
        let file = |source| BenchError::File { path: PathBuf::from(&name), source };
        let mut log = tempfile::tempfile().map_err(file)?;
        let (output, errors) = (log.try_clone().map_err(file)?, log.try_clone().map_err(file)?);
        let status = command.stdin(Stdio::null()).stdout(output).stderr(errors).status().map_err(file)?;
        if status.success() {
            return Ok(());
        }
        let mut told = String::new();
        log.rewind().and_then(|()| log.read_to_string(&mut told)).map_err(file)?;
        Err(BenchError::Server { what: format!("{}: {status}: {}", name.display(), told.trim()) })
    }

    /// Creates a normal topic: with 8 queues, or with one on Martlet for the loads of gRPC clients. The floor has all topics.
    pub fn create_topic(&self, topic: &str) -> Result<()> {
        if self.kind == Kind::Floor {
            return Ok(());
        }
        if self.kind == Kind::Martlet {
            let queues = if self.name_server.is_some() { "8" } else { "1" };
            let arguments = ["topic", "create", topic, "--queues", queues, "--endpoint", &self.endpoint];
            return self.command(Command::new(&self.program).args(arguments));
        }
        let arguments =
            ["updateTopic", "-c", "DefaultCluster", "-t", topic, "-r", "8", "-w", "8", "-a", "+message.type=NORMAL"];
        self.script("mqadmin.sh", &arguments)
    }

    /// This server and a topic on it.
    pub fn target(&self, topic: &str) -> Target {
        Target {
            endpoint: self.name_server.as_ref().unwrap_or(&self.endpoint).clone(),
            topic: topic.to_owned(),
            spread: Spread::None,
            dress: Dress::default(),
            v1: false,
            pids: self.pids.clone(),
        }
    }

    fn until_ready(&self) -> Result<()> {
        let target = self.target("bench-send");
        match self.name_server {
            Some(_) => idle::until_ready_tcp(&target, PATIENCE, || false),
            None => idle::until_ready(&target, PATIENCE, || false),
        }
    }

    /// Stops its clock hands: no CPU until [`Server::resume`].
    pub fn pause(&self) {
        signal(&self.pids, Signal::STOP);
    }

    /// Goes on, and waits until it answers again.
    pub fn resume(&self) {
        signal(&self.pids, Signal::CONT);
        // If it does not, the load that follows says so.
        drop(self.until_ready());
    }
}

fn signal(pids: &[u32], signal: Signal) {
    for pid in pids.iter().filter_map(|p| Pid::from_raw(*p as i32)) {
        // One that has ended shows as a failing load.
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        signal(&self.pids, Signal::CONT);
        signal(&self.bystanders, Signal::CONT);
        drop(self.script("stop.sh", &[]));
        let Some(child) = &mut self.child else { return };
        if let Some(pid) = Pid::from_raw(child.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(15) {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(child.kill());
        drop(child.wait());
    }
}
