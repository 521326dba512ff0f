use std::time::Duration;

/// Bounds of the documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How many versions are kept of each document, the current one included; at least 2.
    pub versions: usize,
    /// How many bytes of content are kept of each document. The current version and the one before
    /// stay however large they are.
    pub history_bytes: usize,
    /// The largest document, bytes.
    pub document_bytes: usize,
    /// How long the store may take for one request.
    pub store_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            versions: 100,
            history_bytes: 64 << 20,
            document_bytes: 4 << 20,
            store_timeout: Duration::from_secs(5),
        }
    }
}
