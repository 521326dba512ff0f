//! The version of the stored routes that this node serves, as a file in its data folder: what it
//! starts with when the store is away.

use std::{fs, io::ErrorKind, path::PathBuf};

use serde::{Deserialize, Serialize};
use sinew_coordination::documents::{Document, Version, hash};

use crate::folder::write_private;

/// The file's name.
const FILE: &str = "routes-snapshot.json";

#[derive(Serialize, Deserialize)]
struct Content {
    version: Version,
    /// JSON as text: the hash is that of exactly these bytes.
    content: String,
}

/// The file.
#[derive(Clone, Debug)]
pub(super) struct Snapshot(PathBuf);

impl Snapshot {
    pub(super) fn in_folder(data: &std::path::Path) -> Self {
        Self(data.join(FILE))
    }

    /// What the file holds. One that is damaged is as good as none, and said to be so in the log.
    pub(super) fn read(&self) -> Option<Document> {
        let path = self.0.display();
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!(%path, %error, "the copy of the stored routes cannot be read");
                return None;
            }
        };
        match serde_json::from_slice::<Content>(&bytes) {
            Ok(read) if hash(read.content.as_bytes()) == read.version.hash => Some(Document {
                version: read.version,
                content: read.content.into(),
            }),
            _ => {
                tracing::error!(%path, "the copy of the stored routes is damaged; it is not used");
                None
            }
        }
    }

    /// Replaces the file, whole or not at all. Without it everything works but a start without the
    /// store, so a failure is only logged.
    pub(super) fn write(&self, document: &Document) {
        let content = Content {
            version: document.version.clone(),
            content: String::from_utf8_lossy(&document.content).into_owned(),
        };
        let text = serde_json::to_string(&content).expect("strings and numbers serialise");
        if let Err(error) = write_private(&self.0, &text) {
            tracing::error!(
                path = %self.0.display(),
                %error,
                "the copy of the stored routes cannot be written; a start without the store would not know them"
            );
        }
    }

    pub(super) fn remove(&self) {
        let _ = fs::remove_file(&self.0);
    }
}
