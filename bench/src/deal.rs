//! Dealing accepted connections in turn to threads, each with a current-thread runtime: how the floors without gRPC are run.

use std::future::Future;
use std::io;
use std::net::TcpListener;

use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Serves each connection with `serve` until accepting fails.
///
/// # Errors
/// When a thread's runtime cannot be made, or accepting fails.
pub fn deal<F, Fut>(listener: TcpListener, threads: usize, serve: F) -> io::Result<()>
where
    F: Fn(TcpStream) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let mut hands = Vec::new();
    for _ in 0..threads.max(1) {
        let (hand, given) = mpsc::channel(64);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let serve = serve.clone();
        std::thread::spawn(move || tokio::task::LocalSet::new().block_on(&runtime, accept(given, serve)));
        hands.push(hand);
    }
    for turn in 0.. {
        let (socket, _) = listener.accept()?;
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let gone = |_| io::Error::other("a runtime of the floor ended");
        hands[turn % hands.len()].blocking_send(socket).map_err(gone)?;
    }
    Ok(())
}

async fn accept<F, Fut>(mut given: mpsc::Receiver<std::net::TcpStream>, serve: F)
where
    F: Fn(TcpStream) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    while let Some(socket) = given.recv().await {
        // A socket that cannot be registered is closed, which its client notices.
        let Ok(socket) = TcpStream::from_std(socket) else { continue };
        tokio::task::spawn_local(serve(socket));
    }
}
