use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

/// A place between a client and a server that can be cut, as a network is: nothing passes, nothing is refused, no
/// connection ends. What was under way when it was mended passes then.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_cut: Mutex<bool>,
    changed: Condvar,
    ended: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl State {
    /// Waits until bytes may pass.
    fn pass(&self) {
        let mut is_cut = self.is_cut.lock().unwrap_or_else(PoisonError::into_inner);
        while *is_cut && !self.ended.load(Ordering::Relaxed) {
            is_cut = self
                .changed
                .wait(is_cut)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn set(&self, is_cut: bool) {
        *self.is_cut.lock().unwrap_or_else(PoisonError::into_inner) = is_cut;
        self.changed.notify_all();
    }

    fn end_all(&self) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for connection in connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1 before the server at `target`, which may be away.
    pub fn to(target: impl AsRef<str>) -> Result<Self> {
        let target: SocketAddr = target.as_ref().parse().context("not an address")?;
        let listener = TcpListener::bind(("127.0.0.1", crate::free_port()?))?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&shared);
                thread::spawn(move || forward(client, target, &shared));
            }
        });
        Ok(Self { address, state })
    }

    /// Where clients connect.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The port of [`Proxy::address`].
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lets nothing pass any more.
    pub fn cut(&self) {
        self.state.set(true);
    }

    /// Lets everything pass again.
    pub fn mend(&self) {
        self.state.set(false);
    }

    /// Ends all connections that there are. New ones are accepted.
    pub fn reset(&self) {
        self.state.end_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        self.state.set(false);
        self.state.end_all();
        // Wakes the listener.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
    }
}

fn forward(client: TcpStream, target: SocketAddr, state: &Arc<State>) {
    // A cut network does not answer a connection attempt either; accepting is as close as a proxy comes.
    state.pass();
    let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else {
        return;
    };
    let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    {
        let mut connections = state
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        connections.retain(|connection| connection.peer_addr().is_ok());
        for side in [&client, &server] {
            let _ = side.set_nodelay(true);
            connections.extend(side.try_clone());
        }
    }
    let back = Arc::clone(state);
    thread::spawn(move || copy(from_server, client, &back));
    copy(from_client, server, state);
}

fn copy(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        state.pass();
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
