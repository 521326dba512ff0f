use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

/// On one machine or in one data centre a connection is made at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Shorter than servers keep idle connections, so that a request seldom meets one that just closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_PER_INSTANCE: usize = 32;

/// Connections to instances and to the node, kept alive and shared.
#[derive(Clone, Debug)]
pub(crate) struct Transport(Client<HttpConnector, Full<Bytes>>);

impl Transport {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_INSTANCE)
            .http1_max_buf_size(64 * 1024)
            .build(connector);
        Self(client)
    }

    /// Sends and answers as soon as the head has arrived. Has no time limit of its own.
    pub(crate) async fn request(
        &self,
        request: http::Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>, Error> {
        self.0.request(request).await
    }
}
