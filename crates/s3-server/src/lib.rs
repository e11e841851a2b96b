//! A server of the S3 protocol on a folder, or of Google's, that can be slow and can be told to fail: for tests,
//! demonstrations and benchmarks. Nobody's data belongs into it.

mod google;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{RwLock, watch};

/// Access key id it takes.
pub const KEY: &str = "a-key-for-tests";
/// The secret that belongs to it.
pub const SECRET: &str = "and its secret";
/// The bucket there is.
pub const BUCKET: &str = "orders";

/// What it speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// S3, with signed requests.
    #[default]
    S3,
    /// The XML protocol of Google Cloud Storage, with whatever token.
    Google,
}

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
    /// Answers that the credentials have expired.
    Expired,
}

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it listens; port 0: one of the system's choice.
    pub listen: SocketAddr,
    /// Where its buckets are, a folder each; [`BUCKET`] is made.
    pub folder: PathBuf,
    /// A PUT is answered so much later.
    pub put_delay: Duration,
}

/// A server in this process; gone with this value.
pub struct Server {
    protocol: Protocol,
    address: SocketAddr,
    folder: PathBuf,
    mood: watch::Sender<Mood>,
    _runtime: tokio::runtime::Runtime,
    /// Removed with the server.
    _own: Option<tempfile::TempDir>,
}

impl Server {
    /// Starts one on an empty folder of its own and a port of the system's choice.
    ///
    /// # Errors
    /// When there is no folder or no port to be had.
    pub fn start() -> io::Result<Self> {
        Self::start_speaking(Protocol::S3)
    }

    /// The same, of this protocol.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_speaking(protocol: Protocol) -> io::Result<Self> {
        let own = tempfile::tempdir()?;
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = own.path().to_owned();
        let server = Self::start_with(Options { protocol, listen, folder, put_delay: Duration::ZERO })?;
        Ok(Self { _own: Some(own), ..server })
    }

    /// Starts one.
    ///
    /// # Errors
    /// When the folder cannot be used, or the address.
    pub fn start_with(options: Options) -> io::Result<Self> {
        let Options { protocol, listen, folder, put_delay } = options;
        std::fs::create_dir_all(folder.join(BUCKET))?;
        let files = s3s_fs::FileSystem::new(&folder).map_err(|error| io::Error::other(format!("{error:?}")))?;
        let mut service = S3ServiceBuilder::new(files);
        if protocol == Protocol::S3 {
            service.set_auth(SimpleAuth::from_single(KEY, SECRET));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(listen))?;
        let address = listener.local_addr()?;
        let mood = watch::Sender::new(Mood::Serving);
        let (service, listing) = (service.build(), Arc::default());
        let serving = Serving { protocol, service, listing, mood: mood.subscribe(), folder: folder.clone(), put_delay };
        runtime.spawn(serving.run(listener));
        Ok(Self { protocol, address, folder, mood, _runtime: runtime, _own: None })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, as clients are told.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where its buckets are, a folder each.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on.
    pub fn is(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// What a process needs in its environment to be its client.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        match self.protocol {
            Protocol::S3 => vec![
                ("AWS_ENDPOINT", self.endpoint()),
                ("AWS_ALLOW_HTTP", "true".to_owned()),
                ("AWS_REGION", "us-east-1".to_owned()),
                ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ],
            Protocol::Google => vec![
                ("GOOGLE_BASE_URL", self.endpoint()),
                ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
                ("GOOGLE_BEARER_TOKEN", SECRET.to_owned()),
            ],
        }
    }
}

#[derive(Clone)]
struct Serving {
    protocol: Protocol,
    service: S3Service,
    /// Held alone by who lists: a listing fails when a file goes between its name and its size.
    listing: Arc<RwLock<()>>,
    mood: watch::Receiver<Mood>,
    folder: PathBuf,
    put_delay: Duration,
}

impl Serving {
    async fn run(self, listener: TcpListener) {
        while let Ok((socket, _)) = listener.accept().await {
            let serving = self.clone();
            // Answers of a hundred bytes must not wait for more.
            let _ = socket.set_nodelay(true);
            tokio::spawn(async move {
                let answer = service_fn(move |request| {
                    let serving = serving.clone();
                    async move { serving.answer(request).await }
                });
                // A client that goes away is no error.
                let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), answer).await;
            });
        }
    }

    async fn answer(mut self, mut request: http::Request<hyper::body::Incoming>) -> io::Result<http::Response<Body>> {
        let mut path = request.uri().path().trim_start_matches('/').splitn(2, '/');
        let (bucket, key) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
        let lists = request.method() == http::Method::GET && key.is_empty();
        let mood = *self.mood.borrow();
        match mood {
            Mood::Serving if !self.folder.join(bucket).is_dir() => refusal(404, "NoSuchBucket"),
            Mood::Serving => {
                let is_googles = self.protocol == Protocol::Google;
                if is_googles {
                    google::into_s3(request.headers_mut());
                }
                let is_put = request.method() == http::Method::PUT;
                let late = if is_put { self.put_delay } else { Duration::ZERO };
                // To its end, also if the client goes meanwhile: half a PUT, an object without its metadata, is nothing that a bucket
                // ever has.
                let whole = tokio::spawn(async move {
                    if lists {
                        let _alone = self.listing.write().await;
                        self.service.call(request.map(Body::from)).await
                    } else {
                        let _among_others = self.listing.read().await;
                        self.service.call(request.map(Body::from)).await
                    }
                });
                let answer = whole.await.map_err(io::Error::other)?;
                if !late.is_zero() {
                    tokio::time::sleep(late).await;
                }
                let mut answer = answer.map_err(io::Error::other)?;
                if is_googles {
                    google::out_of_s3(answer.headers_mut());
                }
                Ok(answer)
            }
            Mood::Unavailable => refusal(503, "SlowDown"),
            Mood::Expired => refusal(400, "ExpiredToken"),
            Mood::Cut => Err(io::Error::other("cut")),
            Mood::Silent => {
                let _ = self.mood.wait_for(|mood| *mood != Mood::Silent).await;
                Err(io::Error::other("cut"))
            }
        }
    }
}

fn refusal(status: u16, code: &str) -> io::Result<http::Response<Body>> {
    let body = Body::from(format!("<Error><Code>{code}</Code></Error>"));
    http::Response::builder().status(status).body(body).map_err(io::Error::other)
}
