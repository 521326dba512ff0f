use std::sync::{Arc, Weak};

use sinew_core::Result;
use sinew_engine::kv::Revision;
use tokio::sync::watch;

use super::{Effective, Query, error, resolve, service::Inner};

/// Follows what one instance shall see. It remembers only what it showed last, so a slow reader holds no
/// memory and gets the newest.
pub struct Watcher {
    inner: Weak<Inner>,
    applied: watch::Receiver<Revision>,
    query: Query,
    /// The revisions of the items that could have a say, when they were looked at last; 0 for those that are not.
    seen: Option<Vec<Revision>>,
    /// The version that was shown last.
    version: Option<String>,
}

impl Watcher {
    pub(super) fn new(inner: &Arc<Inner>, query: Query, known: Option<String>) -> Self {
        Self {
            inner: Arc::downgrade(inner),
            applied: inner.applied(),
            query,
            seen: None,
            version: known,
        }
    }

    /// The newest configuration once it is another than the one shown last (or known at the beginning).
    /// Cancel safe. `configs.stopped` (Unavailable) at the end of the config centre.
    pub async fn next(&mut self) -> Result<Effective> {
        loop {
            // Marked as seen before the read, so that a change after the read wakes us.
            self.applied.borrow_and_update();
            let inner = self.inner.upgrade().ok_or_else(error::stopped)?;
            let found = inner.changed(&self.query, &mut self.seen);
            drop(inner);
            if let Some((items, revision)) = found {
                let effective = resolve::merge(&self.query, &items, revision);
                if self.version.as_ref() != Some(&effective.version) {
                    self.version = Some(effective.version.clone());
                    return Ok(effective);
                }
            }
            let changed = self.applied.changed().await;
            changed.map_err(|_| error::stopped())?;
        }
    }

    /// Waits until this node shows at least `revision`, for a client that has seen it elsewhere.
    pub async fn caught_up(&mut self, revision: Revision) -> Result<()> {
        let seen = self.applied.wait_for(|applied| *applied >= revision).await;
        seen.map(drop).map_err(|_| error::stopped())
    }
}
