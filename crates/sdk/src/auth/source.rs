use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use sinew_core::Result;

use crate::Client;

const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A document that another service publishes.
#[derive(Clone, Debug)]
pub(super) struct Source {
    service: String,
    path: String,
    /// Whether the last fetch failed; the first failure and the recovery are logged.
    failing: Arc<AtomicBool>,
}

impl Source {
    pub(super) fn new(service: &str, path: &str) -> Self {
        Self {
            service: service.into(),
            path: path.into(),
            failing: Arc::default(),
        }
    }

    /// The document as it is now; `None`, and a line in the log, when it cannot be had.
    pub(super) async fn fetch<T>(
        &self,
        client: &Client,
        parse: impl FnOnce(&[u8]) -> Result<T>,
    ) -> Option<T> {
        let result = async {
            let request = client.get(&self.service, &self.path);
            let request = request
                .timeout(Duration::from_secs(2))
                .max_response(MAX_BYTES);
            parse(request.send().await?.error_for_status()?.bytes())
        };
        let (service, path) = (&self.service, &self.path);
        match result.await {
            Ok(document) => {
                if self.failing.swap(false, Relaxed) {
                    tracing::info!(service, path, "fetched again");
                }
                Some(document)
            }
            Err(error) => {
                let error = error.detail();
                if self.failing.swap(true, Relaxed) {
                    tracing::debug!(service, path, error, "cannot fetch");
                } else {
                    tracing::warn!(service, path, error, "cannot fetch, keeping what was known");
                }
                None
            }
        }
    }
}
