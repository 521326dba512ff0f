//! What comes on a connection before its first request: a proxy's word who the client is, and the
//! TLS handshake.

use std::{cell::Cell, future::Future, net::SocketAddr, pin::pin, rc::Rc, task::Poll};

use tokio::net::TcpStream;

use crate::{
    fault::Fault,
    proxy, server,
    stream::{Stream, TlsStream},
    timer::{Elapsed, Millis, millis},
    tls::{self, Failure, Server},
    worker::Worker,
};

/// How long it may take once the gateway drains: few connections are at this point, and those that
/// do nothing should not hold it up.
const DRAINING: Millis = 1_000;

/// How often a refused connection is read from.
const MOST_DROPPED: usize = 8;

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

/// Whether more than requests comes on a connection.
pub(crate) fn is_needed(worker: &Worker, peer: SocketAddr, tls: bool) -> bool {
    tls || worker.shared.addresses.is_some() || speaks_for_others(worker, peer)
}

/// Whether who connected says first for whom.
fn speaks_for_others(worker: &Worker, peer: SocketAddr) -> bool {
    let proxies = &worker.shared.config.proxy_protocol_from;
    proxies.iter().any(|range| range.contains(peer.ip()))
}

/// Answers the requests of a connection that begins with something else.
pub(crate) async fn enter(
    worker: &Rc<Worker>,
    mut socket: TcpStream,
    mut peer: SocketAddr,
    over_tls: bool,
) {
    if speaks_for_others(worker, peer) {
        let limit = millis(worker.shared.config.limits.head_timeout);
        let read = in_time(worker, limit, proxy::read(&mut socket)).await;
        let source = read.unwrap_or(Err(proxy::Failure::Timeout));
        worker.shared.proxies.count(source.map(|_| ()));
        match source {
            Ok(source) => peer = source.unwrap_or(peer),
            Err(failure) => {
                tracing::debug!(proxy = %peer.ip(), ?failure, "a proxy does not say for whom it connects");
                return;
            }
        }
    }
    let held = match &worker.shared.addresses {
        None => None,
        Some(addresses) => match addresses.enter(peer.ip()) {
            None => return refuse(worker, &socket, over_tls),
            held => held,
        },
    };
    serve(worker, socket, peer, over_tls).await;
    drop(held);
}

/// Closes the connection of an address that has too many. What was sent already is dropped, since
/// unread bytes would take the answer away from the client.
fn refuse(worker: &Worker, socket: &TcpStream, over_tls: bool) {
    if over_tls {
        return;
    }
    let mut reply = Vec::new();
    Fault::too_many_of_address().render(false, true, &mut reply, |to| worker.push_date(to));
    // Best effort: a new connection's send buffer is empty, so this never waits.
    let _ = socket.try_write(&reply);
    let mut dropped = [0; 4 << 10];
    for _ in 0..MOST_DROPPED {
        if !matches!(socket.try_read(&mut dropped), Ok(1..)) {
            return;
        }
    }
}

/// Answers the requests of a connection whose client is known.
async fn serve(worker: &Rc<Worker>, socket: TcpStream, peer: SocketAddr, over_tls: bool) {
    if !over_tls {
        return server::serve(worker, Stream::Plain(socket), peer).await;
    }
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
            tracing::debug!(peer = %peer.ip(), ?failure, "a TLS handshake with a client failed");
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
    let limit = millis(tls.config.handshake_timeout);
    // On the heap, or the connection would keep room for it for as long as it lasts.
    let handshake = Box::pin(TlsStream::handshake(socket, session));
    match in_time(worker, limit, handshake).await {
        Ok(outcome) => outcome.map_err(|error| Failure::of(&error)),
        Err(Elapsed) => Err(Failure::Timeout),
    }
}

/// The outcome of `work` if it is there within `limit`, which shrinks when the gateway drains.
async fn in_time<T>(
    worker: &Worker,
    limit: Millis,
    work: impl Future<Output = T>,
) -> Result<T, Elapsed> {
    let mut work = pin!(work);
    let timer = worker.ticker.timer();
    let mut due = timer.now() + limit;
    let mut draining = false;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        if worker.hurries() && !std::mem::replace(&mut draining, true) {
            due = due.min(timer.now() + DRAINING);
        }
        match timer.arm(due, cx) {
            Ok(()) => Poll::Pending,
            Err(elapsed) => Poll::Ready(Err(elapsed)),
        }
    })
    .await
}
