//! One small GET from one instance.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use sinew_core::{Error, Kind, Result};
use tokio::net::TcpStream;

/// The whole exchange.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The body of `path` at `address`, if the answer is 200 and not longer than `limit`.
/// `node.keys_unavailable` (Unavailable) otherwise.
pub(crate) async fn fetch(
    address: SocketAddr,
    host: &str,
    path: &str,
    limit: usize,
) -> Result<Bytes> {
    let exchange = async {
        let stream = TcpStream::connect(address).await.map_err(failed)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let request = Request::get(path)
            .header(header::HOST, host)
            .header(header::USER_AGENT, "sinew")
            .body(Empty::<Bytes>::new())
            .map_err(failed)?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(failed)?;
            if response.status() != StatusCode::OK {
                return Err(failed(format!("it answered {}", response.status())));
            }
            let body = Limited::new(response.into_body(), limit).collect().await;
            Ok(body.map_err(failed)?.to_bytes())
        };
        // Driven here and not spawned, so that nothing outlives the time limit.
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            biased;
            answer = answer.as_mut() => return answer,
            ended = connection => ended.map_err(failed)?,
        }
        answer.await
    };
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(failed("it did not answer in time")),
    }
}

fn failed(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(
        Kind::Unavailable,
        "node.keys_unavailable",
        "the token keys cannot be fetched from their issuer",
    )
    .with_source(why)
}
