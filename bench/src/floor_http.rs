//! The floor for HTTP: the least a hyper server can spend on a publish. It reads the body and answers 201 with a document of the
//! length of a broker's; it keeps and checks nothing. Run as the other floor is: connections dealt in turn to threads.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::deal::deal;

/// As a broker's answer: an id and a digest.
const ANSWER: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<Message xmlns=\"http://mq.aliyuncs.com/doc/v1\">\
<MessageId>0102FC0000000154B10B14E38C00000002</MessageId><MessageBodyMD5>5D41402ABC4B2A76B9719D911017C592</MessageBodyMD5></Message>";

/// Serves until accepting fails. Answers so long after it has read a request, as a server does that waits for a disk.
///
/// # Errors
/// When a thread's runtime cannot be made, or accepting fails.
pub fn serve(listener: TcpListener, threads: usize, after: Duration) -> io::Result<()> {
    deal(listener, threads, move |socket| async move {
        let served = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(socket), service_fn(move |request| answer(request, after)))
            .await;
        // A generator that has seen enough hangs up.
        drop(served);
    })
}

async fn answer(request: http::Request<Incoming>, after: Duration) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = match request.into_body().collect().await {
        Ok(_) => StatusCode::CREATED,
        Err(_) => StatusCode::BAD_REQUEST,
    };
    if !after.is_zero() {
        tokio::time::sleep(after).await;
    }
    let mut response = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
    *response.status_mut() = status;
    Ok(response)
}
