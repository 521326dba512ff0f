//! The stream of configurations from the node.

use std::{sync::Arc, time::Duration};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use sinew_core::Backoff;

use super::{Kept, Shared};
use crate::{discovery::Events, node::Node};

/// The node sends a sign of life every 5 s.
const SILENCE_LIMIT: Duration = Duration::from_secs(12);

/// One stream after the other, each going on where the last one ended.
pub(super) struct Stream {
    node: Arc<Node>,
    path: String,
    last: Option<String>,
    open: Option<(Incoming, Events)>,
    backoff: Backoff,
}

/// What a stream tells.
enum Told {
    New(Kept),
    /// What was known already is the newest.
    Same,
}

impl Stream {
    pub(super) fn new(node: Arc<Node>, path: String, last: Option<String>) -> Self {
        Self {
            node,
            path,
            last,
            open: None,
            backoff: Backoff::new(Duration::from_millis(50), Duration::from_secs(2)),
        }
    }

    /// The newest configuration; `None` when it is the one that is known.
    pub(super) async fn first(&mut self) -> Option<Kept> {
        match self.next().await {
            Told::New(kept) => Some(kept),
            Told::Same => None,
        }
    }

    /// Follows for ever. `is_good` says whether what was told last is in force.
    pub(super) async fn follow<T>(mut self, shared: Arc<Shared<T>>, mut is_good: bool)
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        loop {
            shared.connected.set(i64::from(self.open.is_some()));
            match self.next().await {
                Told::New(kept) => is_good = shared.take(&kept),
                Told::Same if is_good => *shared.origin.lock() = super::Origin::Node,
                Told::Same => {}
            }
        }
    }

    async fn next(&mut self) -> Told {
        loop {
            let Some((body, events)) = &mut self.open else {
                self.connect().await;
                continue;
            };
            while let Some(event) = events.next() {
                match event.name.as_str() {
                    "config" => match serde_json::from_str::<Kept>(&event.data) {
                        Ok(kept) => {
                            self.last = Some(kept.id());
                            return Told::New(kept);
                        }
                        Err(error) => tracing::warn!(%error, "the node's settings cannot be read"),
                    },
                    "synced" => return Told::Same,
                    _ => {}
                }
            }
            let frame = tokio::time::timeout(SILENCE_LIMIT, body.frame()).await;
            let data = match frame {
                Ok(Some(Ok(frame))) => frame.into_data().ok(),
                _ => {
                    tracing::warn!(
                        "the watch of the settings broke off, going on with the last ones"
                    );
                    self.open = None;
                    continue;
                }
            };
            if data.is_some_and(|data| events.push(&data).is_err()) {
                tracing::warn!("the stream of settings cannot be read");
                self.open = None;
            }
        }
    }

    async fn connect(&mut self) {
        if self.backoff.attempts() > 0 {
            tokio::time::sleep(self.backoff.next_delay()).await;
        }
        match self.node.follow(&self.path, self.last.as_deref()).await {
            Ok(body) => {
                self.backoff.reset();
                self.open = Some((body, Events::default()));
            }
            Err(error) => {
                let error = error.detail();
                match self.backoff.attempts() {
                    0 => tracing::warn!(error, "cannot watch the settings, trying again"),
                    _ => tracing::debug!(error, "cannot watch the settings, trying again"),
                }
                // Counts it, so that the next attempt waits.
                tokio::time::sleep(self.backoff.next_delay()).await;
            }
        }
    }
}
