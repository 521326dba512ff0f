use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use shop::audit;
use sinew_core::{Clock, Error, Kind, Result};
use tempfile::TempDir;

use super::show::Show;

/// The demo's data folder: the node's own files, `shop/` with the services' databases, and `logs/`.
pub(super) struct Folder {
    path: PathBuf,
    temporary: Option<TempDir>,
    /// The temporary folder stays, too.
    keep: bool,
}

impl Folder {
    /// The asked folder, or a temporary one that goes with this value.
    pub(super) fn new(asked: Option<PathBuf>) -> Result<Self> {
        let unwritable = |path: &Path, error: std::io::Error| {
            let text = format!("the data folder {} cannot be made: {error}", path.display());
            Error::new(Kind::FailedPrecondition, "demo.folder_unwritable", text)
        };
        match asked {
            Some(path) => {
                std::fs::create_dir_all(&path).map_err(|error| unwritable(&path, error))?;
                // Services get it in their environment, whatever folder they work in.
                let path = path
                    .canonicalize()
                    .map_err(|error| unwritable(&path, error))?;
                Ok(Self {
                    path,
                    temporary: None,
                    keep: false,
                })
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("sinew-demo-").tempdir();
                let temporary =
                    temporary.map_err(|error| unwritable(&std::env::temp_dir(), error))?;
                Ok(Self {
                    path: temporary.path().to_owned(),
                    temporary: Some(temporary),
                    keep: false,
                })
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn shop(&self) -> PathBuf {
        self.path.join("shop")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Does not remove a temporary folder: something went wrong, and the traces are in it.
    pub(super) fn keep(&mut self) {
        self.keep = true;
        if let Some(temporary) = &mut self.temporary {
            temporary.disable_cleanup(true);
        }
    }

    /// Where the data stay, when they do.
    pub(super) fn kept(&self) -> Option<&Path> {
        (self.keep || self.temporary.is_none()).then_some(self.path.as_path())
    }

    /// The password that the users service gave the shop's admin at its first start.
    pub(super) fn admin_password(&self) -> Result<String> {
        let path = self.shop().join("users-admin-password");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let text = "the password of the shop's admin cannot be read";
            Error::new(Kind::FailedPrecondition, "demo.admin_password", text)
                .with_context(path.display().to_string())
                .with_source(error)
        })?;
        Ok(text.trim().to_owned())
    }

    /// Returns when no order is at work any more, at most after `limit`; the audit then says what
    /// is still open.
    pub(super) async fn settled(&self, clock: &Clock, limit: Duration, show: &Show) {
        let began = clock.monotonic();
        let mut said = false;
        while clock.monotonic().saturating_sub(began) < limit {
            let shop = self.shop();
            let open = tokio::task::spawn_blocking(move || audit::unsettled(&shop)).await;
            match open {
                Ok(Ok(0)) => return,
                Ok(Ok(open)) if !said => {
                    show.say(&format!("{open} orders are still at work"));
                    said = true;
                }
                _ => {}
            }
            clock.sleep(Duration::from_millis(100)).await;
        }
    }
}
