//! What happens when a sync fails.

use std::{
    fmt, io,
    path::Path,
    process,
    sync::{Arc, OnceLock},
};

use sinew_core::{Error, Result};

use super::error;

/// What to do when a sync failed. By default the process is aborted: nobody knows any more which of
/// the written data the disk has, and asking again proves nothing ("Can Applications Recover from
/// fsync Failures?", Rebello et al., 2020). The next start reads what is there and makes it durable
/// before it is used.
#[derive(Clone)]
pub struct FailedSync(Arc<dyn Fn(&str) + Send + Sync>);

impl FailedSync {
    /// Calls `react` with a message for people instead. If it returns, the log stays readable and
    /// answers every append with `log.failed`.
    pub fn call(react: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(react))
    }

    /// Reacts to a failed sync of another file than the log's.
    pub(crate) fn react(&self, message: &str) {
        (self.0)(message);
    }
}

impl Default for FailedSync {
    fn default() -> Self {
        Self::call(|message| {
            // Both: the log of the process may not reach the disk any more.
            tracing::error!("{message}");
            eprintln!("sinew: {message}");
            process::abort();
        })
    }
}

impl fmt::Debug for FailedSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FailedSync")
    }
}

/// Whether the log can still be written, and how it stops.
#[derive(Clone, Debug, Default)]
pub(super) struct Fatal {
    react: FailedSync,
    why: Arc<OnceLock<String>>,
}

impl Fatal {
    pub(super) fn new(react: FailedSync) -> Self {
        Self {
            react,
            why: Arc::default(),
        }
    }

    /// Stops the log because a sync failed.
    pub(super) fn failed_sync(&self, path: &Path, cause: &io::Error) -> Error {
        let message = format!(
            "making {} durable failed ({cause}): the process ends rather than acknowledge what may \
             be lost; check the disk, then start again",
            path.display()
        );
        (self.react.0)(&message);
        self.stop(format!("making it durable failed ({cause})"))
    }

    /// Stops the log for another reason after which its end is not known to be sound.
    pub(super) fn stop(&self, why: String) -> Error {
        error::failed(self.why.get_or_init(|| why))
    }

    pub(super) fn check(&self) -> Result<()> {
        self.why.get().map_or(Ok(()), |why| Err(error::failed(why)))
    }
}
