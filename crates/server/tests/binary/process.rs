//! The real binary, as a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The binary with nothing of our environment that it would take for a key.
pub fn martlet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_martlet"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MARTLET_") {
            command.env_remove(name);
        }
    }
    command
}

/// A running broker on ports of the system's choice. Dropping it kills it.
pub struct Broker {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// All it said until it was ready.
    pub said: String,
    /// HOST:PORT of the gRPC port.
    pub grpc: String,
    /// HOST:PORT of the admin port.
    pub admin: String,
}

impl Broker {
    /// Starts one on this folder, on loopback, and waits until it says that it is ready.
    pub fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    /// The same with more flags.
    pub fn start_with(data: &Path, flags: &[&str]) -> Self {
        Self::start_as(data, flags, |_| {})
    }

    /// The same with what else there is to say to the command, such as its environment.
    pub fn start_as(data: &Path, flags: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let mut command = martlet();
        prepare(&mut command);
        let mut child = command
            .arg("--data")
            .arg(data)
            .args(["--grpc-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--segment-mib", "16"])
            .args(["--nameserver-listen", "127.0.0.1:0", "--remoting-listen", "127.0.0.1:0"])
            .args(["--http-listen", "127.0.0.1:0"])
            .args(flags)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut said = String::new();
        while !said.contains("Ready after") {
            assert!(stdout.read_line(&mut said).unwrap() > 0, "the broker ended: {said}");
        }
        let grpc = word_after(&said, "clients (gRPC)").to_owned();
        let admin = word_after(&said, "metrics and health");
        let admin = admin.trim_start_matches("http://").split('/').next().unwrap().to_owned();
        Self { child, stdout, said, grpc, admin }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// As after a crash.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM, waits for the end, and returns success and what it said last.
    pub fn terminate(self) -> (bool, String) {
        self.signal("TERM");
        self.ended()
    }

    /// Sends a signal, such as TERM.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
    }

    /// Reads on until a line has this.
    pub fn wait_until_it_says(&mut self, part: &str) {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "it ended without {part}");
        }
    }

    /// Waits for the end, and returns success and what it said last.
    pub fn ended(mut self) -> (bool, String) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().success(), rest)
    }

    /// Runs a command against it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_input(arguments, "")
    }

    /// Runs a command that reads this.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = martlet()
            .args(arguments)
            .args(["--endpoint", &self.grpc])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        // A thread, so that neither side waits for the other's full pipe. One that does not read breaks the pipe.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        output
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        succeeded(&self.run(arguments), arguments)
    }

    /// Runs a command that must fail, and returns its error.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Status and body of a page of the admin port.
    pub fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command printed, if it succeeded.
pub fn succeeded(output: &Output, what: &[&str]) -> String {
    assert!(output.status.success(), "{what:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs a broker that must refuse to start, within ten seconds, and returns its error.
pub fn refused_start(command: &mut Command) -> String {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(10) {
            child.kill().unwrap();
            panic!("the broker started");
        }
        std::thread::yield_now();
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let mut error = String::new();
    child.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    assert!(!child.wait().unwrap().success());
    error
}

fn word_after<'a>(text: &'a str, label: &str) -> &'a str {
    text.split_once(label).unwrap().1.split_whitespace().next().unwrap()
}
