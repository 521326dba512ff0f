//! Takes connections and hands their requests to the routes.

mod guard;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use sinew_core::{Drain, Error, Kind, Result};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tower::ServiceExt;

pub(crate) use guard::{Guard, Limits};

/// Connections at once; further ones wait in the system's queue.
const MAX_CONNECTIONS: usize = 4096;
/// For the head of a request; it runs while a connection is idle too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Listens. Errors: `sdk.port_taken`, `sdk.listen_failed`.
pub(crate) async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => Error::new(
            Kind::FailedPrecondition,
            "sdk.port_taken",
            format!(
                "port {} is taken by another process; set PORT",
                address.port()
            ),
        ),
        _ => Error::new(Kind::Unavailable, "sdk.listen_failed", "cannot listen")
            .with_context(address.to_string())
            .with_source(error),
    })
}

/// Serves until the drain starts. Each connection is work of the drain: it ends after the request
/// in flight on it has been answered.
pub(crate) async fn serve(listener: TcpListener, router: Router, drain: Drain) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            () = drain.wait() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (router, drain) = (router.clone(), drain.clone());
                let guard = drain.guard();
                tokio::spawn(async move {
                    connection(stream, router, drain).await;
                    drop((guard, place));
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely; they come back as connections end.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, drain: Drain) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        router.clone().oneshot(request.map(Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = drain.wait() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
