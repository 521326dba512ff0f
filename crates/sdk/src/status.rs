//! Whether the service is up, and the endpoints that say so.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::future::join_all;
use http::{StatusCode, header};
use serde_json::{Map, Value, json};
use sinew_core::Result;

use crate::Metrics;

const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

type CheckFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;
type Check = Box<dyn Fn() -> CheckFuture + Send + Sync>;

#[derive(Default)]
pub(crate) struct Status {
    draining: AtomicBool,
    checks: Vec<(String, Check)>,
}

impl Status {
    pub(crate) fn add_check<F, Fut>(&mut self, name: String, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.checks
            .push((name, Box::new(move || Box::pin(check()))));
    }

    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// The names of the checks that fail, each with the public message of why.
    async fn failing(&self) -> Vec<(&str, String)> {
        let results = self.checks.iter().map(|(name, check)| async move {
            match tokio::time::timeout(CHECK_TIMEOUT, check()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => {
                    tracing::debug!(check = name, error = error.detail(), "not ready");
                    Some((name.as_str(), error.to_string()))
                }
                Err(_) => Some((name.as_str(), "the check takes too long".to_owned())),
            }
        });
        join_all(results).await.into_iter().flatten().collect()
    }

    /// Returns when every check has passed.
    pub(crate) async fn ready(&self) {
        let mut said = false;
        loop {
            let failing = self.failing().await;
            if failing.is_empty() {
                return;
            }
            if !std::mem::replace(&mut said, true) {
                tracing::info!(?failing, "not ready yet, not registering");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn reply(&self) -> Response {
        let failing = self.failing().await;
        let status = match (self.draining.load(Ordering::Relaxed), failing.is_empty()) {
            (true, _) => "draining",
            (false, true) => "up",
            (false, false) => "down",
        };
        let checks: Map<String, Value> = self
            .checks
            .iter()
            .map(|(name, _)| {
                let failure = failing.iter().find(|(failed, _)| failed == name);
                let value = failure.map_or("up", |(_, message)| message);
                (name.clone(), value.into())
            })
            .collect();
        let code = if status == "up" {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        (
            code,
            axum::Json(json!({ "status": status, "checks": checks })),
        )
            .into_response()
    }
}

/// Adds the service's own endpoints to its routes.
pub(crate) fn endpoints(router: Router, status: Arc<Status>, metrics: Metrics) -> Router {
    let live = || async { axum::Json(json!({ "status": "up" })) };
    let ready = move || {
        let status = status.clone();
        async move { status.reply().await }
    };
    let metrics = move || {
        let text = metrics.render();
        async {
            (
                [(
                    header::CONTENT_TYPE,
                    "text/plain; version=0.0.4; charset=utf-8",
                )],
                text,
            )
        }
    };
    router
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
}
