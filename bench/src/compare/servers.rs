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
    /// From the start of its command until it answered a QueryRoute.
    pub ready_ms: f64,
    endpoint: String,
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
                Some(scripts) => Self::start_reference(scripts, work).map(Some),
                None => Ok(None),
            },
            Kind::Floor => {
                let listen = format!("127.0.0.1:{}", options.port);
                Self::spawn(kind, beside("floor"), vec!["--listen".into(), listen.clone()], listen, work)
            }
            Kind::Martlet => {
                let listen = format!("127.0.0.1:{}", options.port + 1);
                let arguments = vec![
                    "--data".into(),
                    work.join("martlet").display().to_string(),
                    "--grpc-listen".into(),
                    listen.clone(),
                    "--admin-listen".into(),
                    format!("127.0.0.1:{}", options.port + 2),
                    "--nameserver-listen".into(),
                    "off".into(),
                    "--remoting-listen".into(),
                    "off".into(),
                    "--http-listen".into(),
                    "off".into(),
                ];
                Self::spawn(kind, martlet(options), arguments, listen, work)
            }
        }
    }

    fn spawn(
        kind: Kind,
        program: PathBuf,
        arguments: Vec<String>,
        endpoint: String,
        work: &Path,
    ) -> Result<Option<Self>> {
        if !program.is_file() {
            return Ok(None);
        }
        let mut command = vec![program.display().to_string()];
        command.extend(arguments);
        let target = Target {
            endpoint: endpoint.clone(),
            topic: "bench-send".to_owned(),
            spread: Spread::None,
            dress: Dress::default(),
            v1: false,
            pids: Vec::new(),
        };
        let (child, report) = idle::ready(&command, &work.join(format!("{kind}.log")), &target, PATIENCE)?;
        let ready_ms = report.get("ready").unwrap_or_default();
        Ok(Some(Self {
            kind,
            pids: vec![child.id()],
            ready_ms,
            endpoint,
            program,
            child: Some(child),
            reference: None,
        }))
    }

    fn start_reference(scripts: &Path, work: &Path) -> Result<Self> {
        let port = std::env::var("GRPC_PORT").unwrap_or_else(|_| "8081".to_owned());
        let endpoint = format!("127.0.0.1:{port}");
        let mut server = Self {
            kind: Kind::Reference,
            pids: Vec::new(),
            ready_ms: 0.0,
            endpoint,
            program: PathBuf::new(),
            child: None,
            reference: Some(Reference { scripts: scripts.to_owned(), data: work.join("reference") }),
        };
        let begin = Instant::now();
        // From here on dropping the value runs stop.sh, whatever start.sh left behind.
        server.script("start.sh", &[])?;
        idle::until_ready(&server.target("bench-send"), PATIENCE, || false)?;
        server.ready_ms = begin.elapsed().as_secs_f64() * 1e3;
        for name in ["namesrv", "broker", "proxy"] {
            let path = work.join(format!("reference/pids/{name}.pid"));
            // In its local mode there is no proxy of its own.
            if let Ok(text) = std::fs::read_to_string(&path) {
                let pid = text.trim().parse().map_err(|e| BenchError::Server { what: format!("{name}.pid: {e}") })?;
                server.pids.push(pid);
            }
        }
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

    /// Creates a normal topic: with 8 queues on the reference, with one on Martlet.
    pub fn create_topic(&self, topic: &str) -> Result<()> {
        if self.kind == Kind::Martlet {
            let arguments = ["topic", "create", topic, "--queues", "1", "--endpoint", &self.endpoint];
            return self.command(Command::new(&self.program).args(arguments));
        }
        let arguments =
            ["updateTopic", "-c", "DefaultCluster", "-t", topic, "-r", "8", "-w", "8", "-a", "+message.type=NORMAL"];
        self.script("mqadmin.sh", &arguments)
    }

    /// This server and a topic on it.
    pub fn target(&self, topic: &str) -> Target {
        Target {
            endpoint: self.endpoint.clone(),
            topic: topic.to_owned(),
            spread: Spread::None,
            dress: Dress::default(),
            v1: false,
            pids: self.pids.clone(),
        }
    }

    fn signal(&self, signal: Signal) {
        for pid in self.pids.iter().filter_map(|p| Pid::from_raw(*p as i32)) {
            // One that has ended shows as a failing load.
            let _ = kill_process(pid, signal);
        }
    }

    /// Stops its clock hands: no CPU until [`Server::resume`].
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Goes on, and waits until it answers again.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
        // If it does not, the load that follows says so.
        drop(idle::until_ready(&self.target("bench-send"), PATIENCE, || false));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
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
