//! A way between two processes that can be led elsewhere and cut.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Passes connections on; for as long as the test runs.
pub struct Relay {
    address: SocketAddr,
    way: Arc<Mutex<Way>>,
}

#[derive(Default)]
struct Way {
    /// New connections go there; `None`: they are closed at once.
    to: Option<SocketAddr>,
    open: Vec<(SocketAddr, TcpStream)>,
}

impl Relay {
    /// One that leads to `to`, or nowhere yet.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub fn start(to: Option<SocketAddr>) -> crate::Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(crate::io("listening for a relay"))?;
        let address = listener.local_addr().map_err(crate::io("listening for a relay"))?;
        let way = Arc::new(Mutex::new(Way { to, ..Way::default() }));
        let shared = way.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(io::Result::ok) {
                // A connection that cannot be passed on is closed: that is all its client is to see.
                let _ = pass_on(client, &shared);
            }
        });
        Ok(Relay { address, way })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections go there; those that are open stay.
    pub fn lead_to(&self, to: Option<SocketAddr>) {
        self.way().to = to;
    }

    /// Ends the connections that lead to `to`.
    pub fn end_those_to(&self, to: SocketAddr) {
        self.way().open.retain(|(target, stream)| {
            let ends = *target == to;
            if ends {
                let _ = stream.shutdown(Shutdown::Both);
            }
            !ends
        });
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        lock(&self.way)
    }
}

fn lock(way: &Mutex<Way>) -> MutexGuard<'_, Way> {
    way.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pass_on(client: TcpStream, way: &Mutex<Way>) -> io::Result<()> {
    let Some(to) = lock(way).to else { return client.shutdown(Shutdown::Both) };
    let server = TcpStream::connect(to)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    {
        let mut way = lock(way);
        way.open.push((to, client.try_clone()?));
        way.open.push((to, server.try_clone()?));
    }
    copy(client.try_clone()?, server.try_clone()?);
    copy(server, client);
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
