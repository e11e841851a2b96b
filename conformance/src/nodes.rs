//! Processes that keep one broker in a bucket, one after the other: each with an empty disk, on ports of its own, and a way of
//! its own to the bucket. Clients see one address.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use martlet_s3_server::{BUCKET, Server};
use tempfile::TempDir;

use crate::broker::{Broker, binary, martlet};
use crate::language::run;
use crate::ports::Ports;
use crate::process::launch;
use crate::relay::Relay;
use crate::{Result, io, tail};

/// The bucket, and whoever serves it.
pub struct Nodes {
    bucket: Server,
    front: Relay,
    folder: TempDir,
    binary: PathBuf,
    started: usize,
}

/// One process.
pub struct Node {
    ports: Ports,
    child: Child,
    to_bucket: Relay,
    log: PathBuf,
}

impl Nodes {
    /// An empty bucket, and nobody who serves it.
    ///
    /// # Errors
    /// When the bucket or the broker's program cannot be had.
    pub fn new() -> Result<Nodes> {
        let folder = TempDir::new().map_err(io("creating a temporary folder"))?;
        let bucket = Server::start().map_err(io("starting a bucket"))?;
        Ok(Nodes { bucket, front: Relay::start(None)?, folder, binary: binary()?, started: 0 })
    }

    /// What clients connect to.
    pub fn broker(&self) -> Broker {
        Broker::at(self.front.address().to_string())
    }

    /// A broker's command against whoever serves.
    ///
    /// # Errors
    /// When it fails.
    pub fn command(&self, arguments: &[&str]) -> Result<()> {
        let endpoint = self.front.address().to_string();
        run(martlet(&self.binary).args(arguments).args(["--endpoint", &endpoint]))
    }

    /// Starts a process with an empty disk; clients are led to it when it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(&mut self) -> Result<Node> {
        self.started += 1;
        let home = self.folder.path().join(format!("node-{}", self.started));
        fs::create_dir(&home).map_err(io("creating a folder"))?;
        let log = home.join("log");
        let to_bucket = Relay::start(Some(self.bucket.address()))?;
        let ports = Ports::take()?;
        let mut command = martlet(&self.binary);
        command.arg("--data").arg(home.join("data")).args(["--store", &format!("s3://{BUCKET}/broker")]);
        command.args(["--grpc-listen", &ports.grpc().to_string()]);
        command.args(["--admin-listen", &ports.admin().to_string()]);
        command.args(["--nameserver-listen", "off", "--remoting-listen", "off", "--http-listen", "off"]);
        command.args(["--grpc-advertise", &self.front.address().to_string()]);
        command.envs(self.bucket.environment()).env("AWS_ENDPOINT", format!("http://{}", to_bucket.address()));
        let node = Node { ports, child: launch(command, &log)?, to_bucket, log };
        self.front.lead_to(Some(node.ports.grpc()));
        Ok(node)
    }

    /// Ends what connections clients still have with this process.
    pub fn leave(&self, node: &Node) {
        self.front.end_those_to(node.ports.grpc());
    }
}

impl Node {
    /// Kills the process without warning.
    ///
    /// # Errors
    /// When that is impossible.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).map_err(io("killing a broker"))
    }

    /// Stops the process where it stands.
    ///
    /// # Errors
    /// When that is impossible.
    pub fn stop(&self) -> Result<()> {
        self.signal("-STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When that is impossible.
    pub fn go_on(&self) -> Result<()> {
        self.signal("-CONT")
    }

    /// Cuts its way to the bucket.
    pub fn cut(&self, nodes: &Nodes) {
        self.to_bucket.lead_to(None);
        self.to_bucket.end_those_to(nodes.bucket.address());
    }

    /// Opens its way to the bucket again.
    pub fn mend(&self, nodes: &Nodes) {
        self.to_bucket.lead_to(Some(nodes.bucket.address()));
    }

    /// The last lines it has said.
    pub fn said(&self) -> String {
        tail(&self.log)
    }

    fn signal(&self, name: &str) -> Result<()> {
        run(Command::new("kill").args([name, &self.child.id().to_string()]))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            crate::say(&format!("a process's log ends with:\n{}", self.said()));
        }
    }
}
