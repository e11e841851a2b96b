//! The admin port: `/metrics` for Prometheus, `/healthz` and `/readyz` for whoever restarts and routes.
//!
//! - `/healthz`: 200 while the shard works; 503 with the reason once it has stopped, which only a restart can help.
//! - `/readyz`: 200 while clients are served; 503 while starting and while draining.

use crate::metrics::{self, Snapshot};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use martlet_broker::{Broker, GroupStatus};
use martlet_grpc::GrpcServer;
use martlet_http::HttpServer;
use martlet_remoting::RemotingServer;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Progress is looked up for at most this many groups.
const GROUPS_MAX: usize = 2_000;
/// Progress is looked up at most this often: it asks the shard.
const GROUPS_EVERY: Duration = Duration::from_secs(5);

/// Where the process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    Starting = 0,
    Serving = 1,
    Draining = 2,
}

/// What clients connect to.
pub struct Fronts {
    /// The gRPC port.
    pub grpc: GrpcServer,
    /// The ports of TCP clients, unless they are switched off.
    pub remoting: Option<RemotingServer>,
    /// The port of HTTP clients, unless it is switched off.
    pub http: Option<HttpServer>,
}

impl Fronts {
    /// Drains all of them at the same time. Blocks until then.
    pub fn shutdown(self) {
        let Self { grpc, remoting, http } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| remoting.map(RemotingServer::shutdown));
            scope.spawn(|| http.map(HttpServer::shutdown));
            grpc.shutdown();
        });
    }
}

/// What the admin port knows. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    broker: Broker,
    phase: AtomicU8,
    started: Instant,
    groups: Mutex<(Option<Instant>, Vec<GroupStatus>)>,
    fronts: Mutex<Option<Fronts>>,
}

impl Admin {
    /// About this broker, which is starting.
    pub fn new(broker: Broker, started: Instant) -> Self {
        let phase = AtomicU8::new(Phase::Starting as u8);
        Self { inner: Arc::new(Inner { broker, phase, started, groups: Mutex::default(), fronts: Mutex::default() }) }
    }

    /// Clients are served.
    pub fn serving(&self, fronts: Fronts) {
        *self.inner.fronts.lock().unwrap_or_else(PoisonError::into_inner) = Some(fronts);
        self.enter(Phase::Serving);
    }

    /// Gives the clients' ports back, to be shut down.
    pub fn take_fronts(&self) -> Option<Fronts> {
        self.inner.fronts.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The process goes on to another phase.
    pub fn enter(&self, phase: Phase) {
        self.inner.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Serves until `stopped` is over.
    pub async fn serve(
        self,
        listener: tokio::net::TcpListener,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let router = Router::new()
            .route("/", get(overview))
            .route("/metrics", get(metrics_text))
            .route("/healthz", get(health))
            .route("/readyz", get(readiness))
            .with_state(self);
        axum::serve(listener, router).with_graceful_shutdown(stopped).await
    }

    async fn groups(&self) -> Vec<GroupStatus> {
        {
            let cached = self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner);
            if cached.0.is_some_and(|at| at.elapsed() < GROUPS_EVERY) {
                return cached.1.clone();
            }
        }
        let mut groups = Vec::new();
        for config in self.inner.broker.groups().iter().take(GROUPS_MAX) {
            // A group that is deleted meanwhile, or a shard that stops, leaves a gap and not an error.
            if let Ok(status) = self.inner.broker.group_status(&config.name).await {
                groups.push(status);
            }
        }
        *self.inner.groups.lock().unwrap_or_else(PoisonError::into_inner) = (Some(Instant::now()), groups.clone());
        groups
    }
}

async fn overview() -> &'static str {
    "martlet\n\n/metrics  figures for Prometheus\n/healthz  whether the process works\n/readyz   whether it serves\n"
}

async fn metrics_text(State(admin): State<Admin>) -> Response {
    let groups = admin.groups().await;
    let broker = &admin.inner.broker;
    let (grpc, remoting, http) = {
        let fronts = admin.inner.fronts.lock().unwrap_or_else(PoisonError::into_inner);
        let remoting = fronts.as_ref().and_then(|fronts| fronts.remoting.as_ref());
        let http = fronts.as_ref().and_then(|fronts| fronts.http.as_ref()).map(HttpServer::figures);
        (fronts.as_ref().map(|fronts| fronts.grpc.figures()), remoting.map(RemotingServer::figures), http)
    };
    let snapshot = Snapshot {
        cluster: broker.cluster_name().to_owned(),
        broker: broker.broker_name().to_owned(),
        figures: broker.figures(),
        topics: broker.topics().len(),
        group_count: broker.groups().len(),
        groups,
        grpc,
        remoting,
        http,
        uptime_seconds: admin.inner.started.elapsed().as_secs_f64(),
    };
    match metrics::text(snapshot) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write metrics: {error}\n")).into_response(),
    }
}

async fn health(State(admin): State<Admin>) -> (StatusCode, String) {
    match admin.inner.broker.stop_reason() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("the shard has stopped: {reason}\n")),
    }
}

async fn readiness(State(admin): State<Admin>) -> (StatusCode, String) {
    let phase = admin.inner.phase.load(Ordering::Relaxed);
    if phase == Phase::Starting as u8 {
        (StatusCode::SERVICE_UNAVAILABLE, "starting\n".to_owned())
    } else if phase == Phase::Draining as u8 {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n".to_owned())
    } else {
        let (code, text) = health(State(admin)).await;
        (code, if code == StatusCode::OK { "ready\n".to_owned() } else { text })
    }
}
