//! The last good settings, as a file.

use std::{fs, io::Write, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A configuration as the node sends it, and as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) revision: u64,
    pub(super) version: String,
    pub(super) document: Value,
}

impl Kept {
    /// Names it for the node.
    pub(super) fn id(&self) -> String {
        format!("{}:{}", self.revision, self.version)
    }

    /// `None` when there is none that can be read.
    pub(super) fn read(file: &Path) -> Option<Self> {
        let text = fs::read(file).ok()?;
        let read = serde_json::from_slice(&text);
        read.inspect_err(|error| {
            tracing::warn!(%error, file = %file.display(), "the kept settings cannot be read");
        })
        .ok()
    }

    /// Keeps it, whole or not at all. A service goes on without.
    pub(super) fn keep(&self, file: &Path) {
        if let Err(error) = self.write(file) {
            tracing::warn!(%error, file = %file.display(), "the settings cannot be kept; without the node the next start has older ones");
        }
    }

    fn write(&self, file: &Path) -> std::io::Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let temporary = file.with_extension("new");
        // Left over from a crash; with its old mode it must not be written into.
        let _ = fs::remove_file(&temporary);
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut open = options.open(&temporary)?;
        open.write_all(&serde_json::to_vec(self)?)?;
        open.sync_all()?;
        fs::rename(&temporary, file)
    }
}
