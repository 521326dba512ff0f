use std::time::Duration;

/// Bounds of the keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The longest value, bytes.
    pub value_bytes: usize,
    /// What one answer may hold, keys and values, bytes.
    pub answer_bytes: usize,
    /// How many sessions there may be.
    pub sessions: usize,
    /// The shortest time to live of a session.
    pub shortest_ttl: Duration,
    /// The longest.
    pub longest_ttl: Duration,
    /// The longest delay of a lock.
    pub longest_delay: Duration,
    /// Of how many keys it is remembered when they changed last.
    pub remembered: usize,
    /// How long the store may take for one request.
    pub store_timeout: Duration,
    /// How long a write waits until this node's followers are woken by it.
    pub visible_within: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            value_bytes: 512 << 10,
            answer_bytes: 64 << 20,
            sessions: 50_000,
            shortest_ttl: Duration::from_secs(10),
            longest_ttl: Duration::from_secs(86_400),
            longest_delay: Duration::from_secs(60),
            remembered: 16_384,
            store_timeout: Duration::from_secs(5),
            visible_within: Duration::from_secs(1),
        }
    }
}
