//! A server of the S3 protocol in this process, on a folder, that can be told to fail.
#![allow(dead_code, reason = "not all who use it use all of it")]

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::net::SocketAddr;
use std::path::Path;
use tokio::sync::watch;

/// Access key id it takes.
pub const KEY: &str = "a-key-for-tests";
/// The secret that belongs to it.
pub const SECRET: &str = "and its secret";

/// What it does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Serves them.
    Serving,
    /// Answers 503 to all.
    Unavailable,
    /// Closes the connection without an answer.
    Cut,
    /// Answers nothing, and closes the connection when the mood changes.
    Silent,
}

/// The server, with one bucket named `orders`; gone with this value.
pub struct Server {
    address: SocketAddr,
    folder: tempfile::TempDir,
    mood: watch::Sender<Mood>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    /// Starts one on a port of the system's choice.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("orders")).unwrap();
        let mut service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        let service = service.build();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let mood = watch::Sender::new(Mood::Serving);
        let told = mood.subscribe();
        let buckets = folder.path().to_owned();
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, told, buckets) = (service.clone(), told.clone(), buckets.clone());
                let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (service, mut told) = (service.clone(), told.clone());
                    let bucket = request.uri().path().split('/').nth(1).unwrap_or_default();
                    let missing = !buckets.join(bucket).is_dir();
                    async move {
                        let mood = *told.borrow();
                        match mood {
                            Mood::Serving if missing => Ok(refusal(404, "NoSuchBucket")),
                            Mood::Serving => service.call(request.map(Body::from)).await.map_err(std::io::Error::other),
                            Mood::Unavailable => Ok(refusal(503, "SlowDown")),
                            Mood::Cut => Err(std::io::Error::other("cut")),
                            Mood::Silent => {
                                let _ = told.wait_for(|mood| *mood != Mood::Silent).await;
                                Err(std::io::Error::other("cut"))
                            }
                        }
                    }
                });
                tokio::spawn(async move {
                    // A client that goes away is no error.
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
                });
            }
        });
        Self { address, folder, mood, _runtime: runtime }
    }

    /// Where it listens, as clients are told.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where its buckets are, a folder each.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// From now on.
    pub fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }
}

fn refusal(status: u16, code: &str) -> http::Response<Body> {
    let body = Body::from(format!("<Error><Code>{code}</Code></Error>"));
    http::Response::builder().status(status).body(body).unwrap()
}
