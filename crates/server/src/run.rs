//! The life of a broker process: open, listen, say so, wait for a signal, drain, stop.

use crate::admin::{Admin, Fronts, Phase};
use crate::config::{Advertise, Config, Durability};
use crate::duration::show_bytes;
use martlet_broker::auth::Accounts;
use martlet_broker::{AccessOptions, Broker, BrokerOptions, BucketPlace, OpenError, OpenReport};
use martlet_grpc::{GrpcOptions, ServeError, TlsOptions};
use martlet_http::{HttpOptions, HttpServer};
use martlet_remoting::{RemotingOptions, RemotingServer};
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Time beyond the draining itself for the last sync and for closing files.
const CLOSING_GRACE: Duration = Duration::from_secs(5);
const MIB: u32 = 1 << 20;

/// Why the process ends with a failure.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Somebody else has the data.
    #[error(
        "data folder {} is in use by another process{}; stop that one, or start this one with a folder of its own \
         (--data DIR)", folder.display(), process.map_or(String::new(), |id| format!(" (pid {id})"))
    )]
    InUse {
        /// The data folder.
        folder: PathBuf,
        /// Its owner, if known.
        process: Option<u32>,
    },
    /// The broker cannot be opened.
    #[error("cannot open the data folder {}: {error}", folder.display())]
    Open {
        /// The data folder.
        folder: PathBuf,
        /// Why.
        error: Box<OpenError>,
    },
    /// The broker cannot be opened in its bucket.
    #[error("cannot open the store {location}: {error}")]
    OpenStore {
        /// Where it is.
        location: String,
        /// Why.
        error: Box<OpenError>,
    },
    /// A port cannot be listened on.
    #[error("cannot listen on {address} ({key}): {error}")]
    Listen {
        /// The address.
        address: String,
        /// The key that sets it.
        key: &'static str,
        /// The system's words.
        error: io::Error,
    },
    /// A front cannot start.
    #[error(transparent)]
    Front(#[from] ServeError),
    /// The front for TCP clients cannot start.
    #[error(transparent)]
    Remoting(#[from] martlet_remoting::ServeError),
    /// The accounts cannot be read.
    #[error("accounts: {0}")]
    Accounts(#[from] martlet_broker::auth::AccountsError),
    /// Policies are wanted, but nobody has to say who he is.
    #[error("authorization true needs accounts: without a file of accounts nobody has to sign")]
    NoAccounts,
    /// The system refused something basic.
    #[error("{what}: {error}")]
    System {
        /// What.
        what: &'static str,
        /// The system's words.
        error: io::Error,
    },
    /// Draining took too long.
    #[error("stopping took longer than {} s; what was acknowledged is safe", limit.as_secs())]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// A second signal came.
    #[error("stopped at once by a second signal; what was acknowledged is safe")]
    Forced,
}

/// Runs a broker until a signal stops it.
pub fn run(config: &Config) -> Result<(), RunError> {
    let started = Instant::now();
    let system = |what| move |error| RunError::System { what, error };
    let folder = std::path::absolute(&config.data).unwrap_or_else(|_| config.data.clone());
    say(&format!("Martlet {}: opening {}\n", env!("CARGO_PKG_VERSION"), place(config, &folder)));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("cannot start a runtime"))?;
    let (broker, report) = open(config, &folder)?;
    let outcome = serve(config, &folder, &broker, &report, &runtime, started);
    match &outcome {
        // These do not wait for anything any more.
        Err(RunError::TooSlow { .. } | RunError::Forced) => {}
        _ => broker.close(),
    }
    outcome
}

/// What messages are kept in, for people.
fn counted((count, what): (u64, &str)) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn place(config: &Config, folder: &Path) -> String {
    config.store.as_ref().map_or_else(|| folder.display().to_string(), ToString::to_string)
}

/// Who may do what; `None`: everybody everything.
fn access(config: &Config) -> Result<Option<AccessOptions>, RunError> {
    let accounts = config.accounts.as_deref().map(Accounts::load).transpose()?;
    match accounts {
        None if config.authorization => Err(RunError::NoAccounts),
        accounts => Ok(accounts.map(|accounts| AccessOptions { accounts, authorization: config.authorization })),
    }
}

fn open(config: &Config, folder: &Path) -> Result<(Broker, OpenReport), RunError> {
    let bucket = config.store.as_ref().map(|location| BucketPlace {
        location: location.clone(),
        flush_interval: Duration::from_millis(config.store_flush_ms.into()),
        cache_bytes: u64::from(config.store_cache_mib) * u64::from(MIB),
        table_bytes: config.store_table_mib as usize * MIB as usize,
        compactions: config.store_compactions as usize,
        garbage_after: Duration::from_secs(60 * u64::from(config.store_garbage_minutes)),
    });
    let options = BrokerOptions {
        broker_name: config.broker_name.clone(),
        cluster_name: config.cluster_name.clone(),
        auto_create_topics: config.auto_create_topics,
        auto_create_groups: config.auto_create_groups,
        durability: match config.durability {
            Durability::Fdatasync => martlet_store::Durability::Fdatasync,
            Durability::PageCache => martlet_store::Durability::PageCacheOnlyLosesDataOnPowerLoss,
        },
        segment_bytes: config.segment_mib.saturating_mul(MIB),
        tail_cache_bytes: config.tail_cache_mib as usize * MIB as usize,
        retention_millis: i64::from(config.retention_hours) * 3_600_000,
        open_slots_max: config.open_slots_max as usize,
        delay_max_millis: i64::from(config.delay_max_hours) * 3_600_000,
        mixed_topics: config.mixed_topics,
        transaction_immunity_millis: i64::from(config.transaction_immunity_seconds) * 1_000,
        transaction_check_interval_millis: i64::from(config.transaction_check_interval_seconds) * 1_000,
        transaction_checks_max: config.transaction_checks_max,
        disk_watermark: f64::from(config.disk_watermark_percent) / 100.0,
        bucket,
        access: access(config)?,
        ..BrokerOptions::new(folder)
    };
    Broker::open(options).map_err(|error| match error {
        OpenError::Store(martlet_store::OpenError::Locked { process, .. }) => {
            RunError::InUse { folder: folder.to_owned(), process }
        }
        error if config.store.is_some() => {
            RunError::OpenStore { location: place(config, folder), error: Box::new(error) }
        }
        error => RunError::Open { folder: folder.to_owned(), error: Box::new(error) },
    })
}

fn serve(
    config: &Config,
    folder: &Path,
    broker: &Broker,
    report: &OpenReport,
    runtime: &tokio::runtime::Runtime,
    started: Instant,
) -> Result<(), RunError> {
    let system = |what| move |error| RunError::System { what, error };
    let admin_listener = runtime
        .block_on(tokio::net::TcpListener::bind(config.admin_listen.0))
        .map_err(|error| RunError::Listen { address: config.admin_listen.to_string(), key: "admin_listen", error })?;
    let admin_address = admin_listener.local_addr().map_err(system("cannot read the admin port's address"))?;
    let (mut terminate, mut interrupt) = runtime
        .block_on(async { Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)) })
        .map_err(system("cannot listen for signals"))?;
    let admin = Admin::new(broker.clone(), started);
    let (stop_admin, admin_stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = admin.clone().serve(admin_listener, async move {
        // Ends when the sender is dropped, too.
        let _ = admin_stopped.await;
    });
    let admin_task = runtime.spawn(serving);
    let front = martlet_grpc::serve(broker.clone(), grpc_options(config, folder))
        .map_err(|error| cannot_listen("grpc_listen", error))?;
    let remoting = serve_remoting(config, folder, broker)?;
    let http = serve_http(config, folder, broker)?;
    let addresses = Listening::of(front.local_addr(), admin_address, remoting.as_ref(), http.as_ref());
    admin.serving(Fronts { grpc: front, remoting, http });
    say(&announcement(config, folder, report, &addresses, started.elapsed()));

    runtime.block_on(async {
        wait(&mut terminate, &mut interrupt).await;
        admin.enter(Phase::Draining);
        say("Stopping: no new requests; those under way are finished (a second signal stops at once)\n");
        let result = drain(config, admin.take_fronts(), broker, &mut terminate, &mut interrupt).await;
        drop(stop_admin);
        // Scrapes are short; one that hangs does not hold up the end.
        let _ = tokio::time::timeout(Duration::from_secs(1), admin_task).await;
        result
    })?;
    say("Stopped\n");
    Ok(())
}

async fn wait(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn drain(
    config: &Config,
    fronts: Option<Fronts>,
    broker: &Broker,
    terminate: &mut Signal,
    interrupt: &mut Signal,
) -> Result<(), RunError> {
    let limit = Duration::from_secs(config.drain_seconds.into()) + CLOSING_GRACE;
    let (done, finished) = tokio::sync::oneshot::channel();
    let broker = broker.clone();
    // A thread of its own, not of the runtime: it may be left behind when the time is over.
    let closing = std::thread::Builder::new().name("martlet-close".into()).spawn(move || {
        if let Some(fronts) = fronts {
            fronts.shutdown();
        }
        broker.close();
        let _ = done.send(());
    });
    closing.map_err(|error| RunError::System { what: "cannot start a thread", error })?;
    tokio::select! {
        _ = finished => Ok(()),
        () = tokio::time::sleep(limit) => Err(RunError::TooSlow { limit }),
        () = wait(terminate, interrupt) => Err(RunError::Forced),
    }
}

/// The front for TCP clients, unless it is switched off.
fn serve_remoting(config: &Config, folder: &Path, broker: &Broker) -> Result<Option<RemotingServer>, RunError> {
    let (nameserver, listen) = (config.nameserver_listen, config.remoting_listen);
    if nameserver.is_none() && listen.is_none() {
        return Ok(None);
    }
    let options = RemotingOptions {
        nameserver_listen: nameserver.map(|listen| listen.0),
        listen: listen.map(|listen| listen.0),
        // Port 0 stands for the one that is listened on.
        advertise: advertised(&config.remoting_advertised(), 0),
        tls: tls_options(config, folder),
        workers: config.workers,
        limits: martlet_remoting::Limits {
            drain_timeout: Duration::from_secs(config.drain_seconds.into()),
            ..Default::default()
        },
    };
    let is_nameserver = |address| nameserver.is_some_and(|nameserver| nameserver.0 == address) && listen != nameserver;
    let front = martlet_remoting::serve(broker.clone(), options).map_err(|error| match error {
        martlet_remoting::ServeError::Net(ServeError::Listen { address, source }) => {
            let key = if is_nameserver(address) { "nameserver_listen" } else { "remoting_listen" };
            cannot_listen(key, ServeError::Listen { address, source })
        }
        error => RunError::Remoting(error),
    })?;
    Ok(Some(front))
}

/// The front for HTTP clients, unless it is switched off.
fn serve_http(config: &Config, folder: &Path, broker: &Broker) -> Result<Option<HttpServer>, RunError> {
    let Some(listen) = config.http_listen else { return Ok(None) };
    let mut options = HttpOptions::new(listen.0, tls_options(config, folder));
    options.workers = config.workers;
    options.limits.drain_timeout = Duration::from_secs(config.drain_seconds.into());
    let front = martlet_http::serve(broker.clone(), options).map_err(|error| cannot_listen("http_listen", error))?;
    Ok(Some(front))
}

/// Why a front could not be started, with the configuration's key if it is its address.
fn cannot_listen(key: &'static str, error: ServeError) -> RunError {
    match error {
        ServeError::Listen { address, source } => RunError::Listen { address: address.to_string(), key, error: source },
        error => RunError::Front(error),
    }
}

/// Host and port that clients are told, with this port if none is set.
fn advertised(advertise: &Advertise, port_listened_on: u16) -> Option<(String, u16)> {
    match advertise {
        Advertise::AsDialled => None,
        Advertise::Host { host, port } => Some((host.clone(), port.unwrap_or(port_listened_on))),
    }
}

fn tls_options(config: &Config, folder: &Path) -> TlsOptions {
    match (&config.tls_cert, &config.tls_key) {
        (Some(certificate), Some(key)) => TlsOptions::Files { certificate: certificate.clone(), key: key.clone() },
        _ => {
            let hosts = [config.grpc_advertised().clone(), config.remoting_advertised()];
            let names = hosts.iter().filter_map(|host| advertised(host, 0)).map(|(host, _)| host).collect();
            TlsOptions::SelfSigned { folder: folder.join("tls"), names }
        }
    }
}

fn grpc_options(config: &Config, folder: &Path) -> GrpcOptions {
    let advertise = advertised(config.grpc_advertised(), config.grpc_listen.0.port());
    let tls = tls_options(config, folder);
    let mut options = GrpcOptions::new(config.grpc_listen.0, tls);
    options.advertise = advertise;
    options.workers = config.workers;
    options.limits.drain_timeout = Duration::from_secs(config.drain_seconds.into());
    options
}

/// Where the process is reached.
struct Listening {
    grpc: SocketAddr,
    admin: SocketAddr,
    nameserver: Option<SocketAddr>,
    remoting: Option<SocketAddr>,
    alias: Option<SocketAddr>,
    http: Option<SocketAddr>,
}

impl Listening {
    fn of(grpc: SocketAddr, admin: SocketAddr, remoting: Option<&RemotingServer>, http: Option<&HttpServer>) -> Self {
        Self {
            grpc,
            admin,
            nameserver: remoting.and_then(RemotingServer::nameserver_addr),
            remoting: remoting.map(RemotingServer::local_addr),
            alias: remoting.and_then(RemotingServer::alias_addr),
            http: http.map(HttpServer::local_addr),
        }
    }
}

/// What people see when the broker is ready.
fn announcement(
    config: &Config,
    folder: &Path,
    report: &OpenReport,
    listening: &Listening,
    elapsed: Duration,
) -> String {
    let (grpc, admin) = (listening.grpc, listening.admin);
    let mut lines = Vec::new();
    let recovery = &report.recovery;
    if let Some(torn) = &recovery.torn {
        lines.push(format!(
            "The last write before the previous stop was torn and has been cut off: {} from byte {} ({}). Nothing in it \
             was ever acknowledged.",
            torn.file,
            torn.position,
            show_bytes(torn.bytes_cut)
        ));
    }
    if let Some(reason) = &recovery.index_rebuilt {
        lines.push(format!("The index was rebuilt from the log: {reason}."));
    }
    let dial = match config.grpc_advertised() {
        Advertise::AsDialled => {
            "clients are told to use the address they came by; --advertise HOST changes that".into()
        }
        Advertise::Host { host, port } => {
            let dialled = Advertise::Host { host: host.clone(), port: Some(port.unwrap_or(grpc.port())) };
            format!("clients are told to dial {dialled}")
        }
    };
    lines.push(String::new());
    lines.push(format!("  clients (gRPC)      {grpc}   TLS and plaintext; {dial}"));
    if let Some(remoting) = listening.remoting {
        let alias = listening.alias.map_or(String::new(), |alias| format!(", {}", alias.port()));
        let nameserver = listening.nameserver.map_or("no name server".into(), |at| format!("name server {at}"));
        lines.push(format!(
            "  clients (TCP)       {nameserver}, broker {remoting}{alias}   4.x and 5.x, TLS and plaintext"
        ));
    }
    if let Some(http) = listening.http {
        lines.push(format!("  clients (HTTP SDK)  {http}   TLS and plaintext"));
    }
    lines.push(format!("  metrics and health  http://{admin}/metrics, /healthz, /readyz"));
    let contents = if recovery.created {
        "new".to_owned()
    } else {
        let piece = if config.store.is_some() { "table" } else { "log segment" };
        let (topics, groups) = (report.topics as u64, report.groups as u64);
        [(topics, "topic"), (groups, "group"), (recovery.segments, piece)].map(counted).join(", ")
    };
    lines.push(format!("  data                {} ({contents})", place(config, folder)));
    lines.push(format!("  names               broker {}, cluster {}", config.broker_name, config.cluster_name));
    lines.push(match (&config.accounts, config.authorization) {
        (None, _) => "  access control      off: signatures are not looked at".to_owned(),
        (Some(_), false) => "  access control      signed requests only; policies are not looked at".to_owned(),
        (Some(_), true) => "  access control      signed requests only; users need policies".to_owned(),
    });
    lines.push(match (config.durability, &config.store) {
        (_, Some(_)) => {
            "  durability          a send is acknowledged when the bucket has it; a second process on it takes it over"
                .to_owned()
        }
        (Durability::Fdatasync, None) => {
            "  durability          a send is acknowledged when this disk has it; there is no replica".to_owned()
        }
        (Durability::PageCache, None) => {
            "  durability          WEAK: a loss of power loses acknowledged messages".to_owned()
        }
    });
    lines.push(format!("  automatic creation  {}", automatic(config)));
    lines.extend(warnings(config, listening));
    lines.push(String::new());
    lines.push(format!("Ready after {} ms. Stop with Ctrl-C.", elapsed.as_millis()));
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// Said when others than this machine can reach a listener without access control.
fn warnings(config: &Config, listening: &Listening) -> Vec<String> {
    let mut dangers = Vec::new();
    let admin = listening.admin;
    let clients = [Some(listening.grpc), listening.nameserver, listening.remoting, listening.alias, listening.http];
    let clients = clients.into_iter().flatten().filter(|at| config.accounts.is_none() && !at.ip().is_loopback());
    let mut open: Vec<String> = clients.map(|at| at.to_string()).collect();
    open.dedup();
    if !open.is_empty() {
        let all = open.join(" or ");
        dangers.push(format!("Whoever can reach {all} can read, send and delete everything."));
    }
    if !admin.ip().is_loopback() {
        dangers.push(format!("Whoever can reach {admin} can see names of topics and groups, and figures."));
    }
    if dangers.is_empty() {
        return Vec::new();
    }
    let mut lines =
        vec![String::new(), warning("WARNING  There is no access control on a port that others can reach.")];
    lines.extend(dangers.iter().map(|danger| warning(&format!("         {danger}"))));
    lines.push(warning("         Keep it inside a trusted network, or listen on this machine only:"));
    lines.push(warning("         --grpc-listen localhost:8081 --admin-listen localhost:8082"));
    lines.push(warning("         --nameserver-listen localhost:9876 --remoting-listen localhost:10911 (or off)"));
    lines.push(warning("         --http-listen localhost:8080 (or off)"));
    lines
}

fn automatic(config: &Config) -> &'static str {
    match (config.auto_create_topics, config.auto_create_groups) {
        (true, true) => {
            "on: topics and consumer groups are created when first used (auto_create_topics, auto_create_groups)"
        }
        (true, false) => "on for topics (auto_create_topics), off for consumer groups",
        (false, true) => "off for topics, on for consumer groups (auto_create_groups)",
        (false, false) => "off: topics and consumer groups are created by command only",
    }
}

/// Red on a terminal.
fn warning(text: &str) -> String {
    if io::stdout().is_terminal() { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
}

/// Prints to standard output. A closed pipe is no reason to stop.
fn say(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
