//! The listener of an HTTP edge: bounded in connections and in how long each may dawdle.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use sinew_core::{Backoff, Drain};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tower::Service;

/// Connections at once. More wait in the operating system's queue.
const CONNECTIONS: usize = 4096;
/// From the beginning of a request to the end of its head, and between requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long written data may stay unacknowledged: ends connections to readers that are gone or
/// have stopped reading.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest request head.
const HEAD_BYTES: usize = 32 * 1024;

/// The other end of the connection, as an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// Serves a router over HTTP/1.1.
pub struct Server {
    listener: TcpListener,
    router: Router,
    drain: Drain,
}

impl Server {
    /// Will serve `router` on `listener` until `drain` starts.
    pub fn new(listener: TcpListener, router: Router, drain: Drain) -> Self {
        Self {
            listener,
            router,
            drain,
        }
    }

    /// Accepts connections until the drain starts. Those that are open then finish the request they
    /// are at, counted as work of the drain.
    pub async fn run(self) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let mut backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(1));
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.drain.wait() => return,
                accepted = self.accept(&permits) => accepted,
            };
            match accepted {
                Ok((stream, peer, permit)) => {
                    backoff.reset();
                    let connection = serve(stream, peer, self.router.clone(), self.drain.clone());
                    tokio::spawn(async move {
                        connection.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: connections that end will free some.
                    tracing::warn!(%error, "the control API cannot accept connections");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }

    async fn accept(
        &self,
        permits: &Arc<Semaphore>,
    ) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
        let permit = permits
            .clone()
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let (stream, peer) = self.listener.accept().await?;
        Ok((stream, peer, permit))
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, router: Router, drain: Drain) {
    let _guard = drain.guard();
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(WRITE_TIMEOUT));
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        let mut router = router.clone();
        async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|e| match e {})) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        biased;
        outcome = connection.as_mut() => outcome,
        () = drain.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, %peer, "a connection of the control API ended early");
    }
}
