//! What comes on a connection before its first request: the TLS handshake.

use std::{cell::Cell, future::Future, net::SocketAddr, rc::Rc, task::Poll};

use tokio::net::TcpStream;

use crate::{
    server,
    stream::{Stream, TlsStream},
    timer::{Elapsed, Millis, millis},
    tls::{self, Failure, Server},
    worker::Worker,
};

/// How long it may take once the gateway drains: few connections are at this point, and those that
/// do nothing should not hold it up.
const DRAINING: Millis = 1_000;

/// Counts a handshake for as long as it lasts.
struct Shaking(Rc<Worker>);

impl Shaking {
    fn new(worker: &Rc<Worker>) -> Self {
        add(&worker.handshakes, 1);
        Self(worker.clone())
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        add(&self.0.handshakes, -1);
    }
}

fn add(count: &Cell<usize>, change: isize) {
    count.set(count.get().saturating_add_signed(change));
}

/// Shakes hands with a client and answers its requests.
pub(crate) async fn enter(worker: &Rc<Worker>, socket: TcpStream, peer: SocketAddr) {
    let shared = worker.shared.clone();
    let Some(tls) = &shared.tls.server else {
        return;
    };
    let shaking = Shaking::new(worker);
    let stream = shake_hands(worker, tls, socket).await;
    drop(shaking);
    match stream.and_then(|stream| identified(worker, stream)) {
        Ok(stream) => {
            tls.handshakes.done(&stream);
            let stream = Stream::Tls(stream);
            let protocol = stream.alpn().map(String::from_utf8_lossy);
            tracing::trace!(peer = %peer.ip(), ?protocol, "a client has shaken hands");
            server::serve(worker, stream, peer).await;
        }
        Err(failure) => {
            tls.handshakes.failed(failure);
            let peer = peer.ip();
            tracing::debug!(%peer, ?failure, "a TLS handshake with a client failed");
        }
    }
}

/// Reads the certificate that the client has shown, if it has.
fn identified(worker: &Worker, mut stream: Box<TlsStream>) -> Result<Box<TlsStream>, Failure> {
    let shown = stream.peer_certificates().and_then(<[_]>::first);
    let lines = shown.map(|der| tls::client_identity(der, worker.clock.now()));
    if let Some(lines) = lines {
        stream.set_identity(lines?);
    }
    Ok(stream)
}

async fn shake_hands(
    worker: &Worker,
    tls: &Server,
    socket: TcpStream,
) -> Result<Box<TlsStream>, Failure> {
    let session = tls.session().map_err(|_| Failure::Other)?;
    let mut handshake = Box::pin(TlsStream::handshake(socket, session));
    let timer = worker.ticker.timer();
    let mut due = timer.now() + millis(tls.config.handshake_timeout);
    let mut draining = false;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = handshake.as_mut().poll(cx) {
            return Poll::Ready(outcome.map_err(|error| Failure::of(&error)));
        }
        if worker.draining() && !std::mem::replace(&mut draining, true) {
            due = due.min(timer.now() + DRAINING);
        }
        match timer.arm(due, cx) {
            Ok(()) => Poll::Pending,
            Err(Elapsed) => Poll::Ready(Err(Failure::Timeout)),
        }
    })
    .await
}
