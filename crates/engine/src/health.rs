use sinew_core::Timestamp;

/// Whether an engine can be reached. Engines behind a network tell it through a `watch` channel;
/// embedded ones are always [`Health::Up`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It has not been reached yet.
    Starting,
    /// It answers.
    Up,
    /// It answered before and does not now, or it never did and the first attempts have failed.
    Away {
        /// When that was noticed.
        since: Timestamp,
        /// Why, for people: never with credentials in it.
        reason: String,
    },
}

impl Health {
    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up)
    }
}
