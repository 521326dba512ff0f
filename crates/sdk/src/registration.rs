//! Keeps the service's place in the registry.
//!
//! Static stability: a node that is away changes nothing for the service; it goes on and asks again
//! and again, at most half a second apart, so that it is registered soon after the node is back.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::json;
use sinew_core::{Backoff, Drain, Error, InstanceId, Kind, Name};
use tokio::sync::Notify;

use crate::{metrics::Gauge, node::Node};

/// So long the service waits at most between two attempts to reach the node.
const RETRY_CAP: Duration = Duration::from_millis(500);
/// What the node refuses will be refused again: a wrong token, a wrong name.
const REFUSED_WAIT: Duration = Duration::from_secs(5);

pub(crate) struct Registration {
    pub(crate) node: Arc<Node>,
    pub(crate) service: Name,
    pub(crate) instance: InstanceId,
    pub(crate) address: SocketAddr,
    pub(crate) metadata: BTreeMap<String, String>,
    /// Somebody has reason to think that the node forgot us.
    pub(crate) doubt: Arc<Notify>,
    pub(crate) registered: Gauge,
}

impl Registration {
    /// Registers and keeps the lease until the drain starts.
    pub(crate) async fn keep(&self, drain: &Drain) {
        tokio::select! {
            () = self.keep_for_ever() => {}
            () = drain.wait() => {}
        }
    }

    async fn keep_for_ever(&self) {
        let mut ttl = self.register().await;
        let mut backoff = Backoff::new(Duration::from_millis(100), RETRY_CAP);
        loop {
            let wait = if backoff.attempts() == 0 {
                ttl / 3
            } else {
                backoff.next_delay()
            };
            // With the node away, doubt is no news: keep to the backoff.
            let doubt = async {
                match backoff.attempts() {
                    0 => self.doubt.notified().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = doubt => {}
            }
            match self.node.heartbeat(&self.service, &self.instance).await {
                Ok(renewed) => {
                    if backoff.attempts() > 0 {
                        tracing::info!("the node is back, still registered");
                        backoff.reset();
                    }
                    ttl = renewed;
                }
                Err(error) if error.kind() == Kind::NotFound => {
                    tracing::info!("the node does not know this instance, registering again");
                    self.registered.set(0);
                    ttl = self.register().await;
                    backoff.reset();
                }
                Err(error) => {
                    if backoff.attempts() == 0 {
                        tracing::warn!(
                            error = error.detail(),
                            "heartbeat failed; going on and trying again"
                        );
                        let _ = backoff.next_delay();
                    }
                }
            }
        }
    }

    /// Tries until it succeeds; answers the lease's time to live.
    async fn register(&self) -> Duration {
        let body = json!({
            "address": self.address.ip().to_string(),
            "port": self.address.port(),
            "metadata": self.metadata,
        });
        let mut backoff = Backoff::new(Duration::from_millis(50), RETRY_CAP);
        loop {
            match self
                .node
                .register(&self.service, &self.instance, &body)
                .await
            {
                Ok(ttl) => {
                    tracing::info!(
                        service = %self.service, instance = %self.instance, address = %self.address,
                        "registered"
                    );
                    self.registered.set(1);
                    return ttl;
                }
                Err(error) => {
                    let first = backoff.attempts() == 0;
                    let wait = backoff.next_delay();
                    let refused = is_refusal(&error);
                    if first || refused {
                        tracing::warn!(error = error.detail(), "cannot register, trying again");
                    }
                    tokio::time::sleep(if refused { REFUSED_WAIT } else { wait }).await;
                }
            }
        }
    }

    /// Tells everybody to send nothing new. What fails here is made good by the lease's end.
    pub(crate) async fn announce_drain(&self) {
        let result = self
            .node
            .set_status(&self.service, &self.instance, "draining")
            .await;
        log_failure(result, "cannot announce the drain");
    }

    pub(crate) async fn end(&self) {
        let result = self.node.deregister(&self.service, &self.instance).await;
        self.registered.set(0);
        log_failure(result, "cannot deregister, the lease will end by itself");
    }
}

fn log_failure(result: sinew_core::Result<()>, message: &'static str) {
    if let Err(error) = result
        && error.kind() != Kind::NotFound
    {
        tracing::warn!(error = error.detail(), "{message}");
    }
}

fn is_refusal(error: &Error) -> bool {
    matches!(
        error.kind(),
        Kind::InvalidArgument | Kind::Unauthenticated | Kind::PermissionDenied
    )
}
