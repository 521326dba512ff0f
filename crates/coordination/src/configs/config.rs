use std::time::Duration;

/// Bounds of the config centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The largest content, bytes; at most [`Config::MOST_ITEM_BYTES`].
    pub item_bytes: usize,
    /// How many items there may be. Each node counts what it sees, so many at once may overshoot a little.
    pub items: usize,
    /// How many versions are kept of each item, the current one included; at least 2.
    pub versions: usize,
    /// How many bytes of content are kept of each item. The current version, the one in gray release and the
    /// newest before them stay however large they are.
    pub history_bytes: usize,
    /// How long entries of the audit log are kept.
    pub audit_age: Duration,
    /// Whether the services' token may ask for decrypted values.
    pub services_decrypt: bool,
    /// How long the store may take for one request.
    pub store_timeout: Duration,
    /// How long a change waits until this node's readers see it.
    pub visible_within: Duration,
}

impl Config {
    /// Two contents and their descriptions fit into one value of any engine.
    pub const MOST_ITEM_BYTES: usize = 384 << 10;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            item_bytes: 256 << 10,
            items: 100_000,
            versions: 100,
            history_bytes: 8 << 20,
            audit_age: Duration::from_secs(90 * 24 * 3600),
            services_decrypt: true,
            store_timeout: Duration::from_secs(5),
            visible_within: Duration::from_secs(2),
        }
    }
}
