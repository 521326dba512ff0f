//! A layer over any engine that tries again what may be tried again, so that a short outage of an engine
//! behind a network is a delay and not an error.
//!
//! What the contracts call repeatable is repeated: reads, watches (from the last batch that came on), keep-alives, acknowledgements,
//! publishes whose messages all have ids, downloads (from the byte that came on). A change whose fate is unknown is repeated only when it cannot happen twice and the
//! layer can find out what became of the first attempt; otherwise the caller gets the error, as without this layer.
//!
//! Every call has an end ([`Policy::within`]), delays grow with jitter, and all calls of one layer share a budget of
//! repetitions, so that an engine that is overloaded is not asked several times as often as one that is well.

use std::time::Duration;

use sinew_core::{Backoff, Error, Kind, Retry};

use budget::Budget;

/// How long and how often a [`Retrying`] engine tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A call is not tried again when this time has passed since it began.
    pub within: Duration,
    /// About how long the first delay is.
    pub first_delay: Duration,
    /// How long a delay is at most.
    pub longest_delay: Duration,
    /// How many repetitions may be saved up; each call that succeeds saves a fifth of one.
    pub budget: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            within: Duration::from_secs(10),
            first_delay: Duration::from_millis(20),
            longest_delay: Duration::from_secs(1),
            budget: 100,
        }
    }
}

/// An engine that tries again. See the module's text.
#[derive(Debug)]
pub struct Retrying<E> {
    inner: E,
    policy: Policy,
    budget: Budget,
}

impl<E> Retrying<E> {
    /// Puts the layer over an engine.
    pub fn new(inner: E, policy: Policy) -> Self {
        Self {
            inner,
            policy,
            budget: Budget::new(policy.budget),
        }
    }

    fn trial(&self) -> Trial<'_> {
        Trial {
            backoff: Backoff::new(self.policy.first_delay, self.policy.longest_delay),
            until: tokio::time::Instant::now() + self.policy.within,
            budget: &self.budget,
        }
    }
}

/// Repeats a call that may be repeated until it succeeds, fails for good, or its time is up. (A function over
/// async closures would not be `Send` here.)
macro_rules! repeat {
    ($layer:expr, $call:expr) => {
        repeat!($layer, $call, $crate::retry::may_pass)
    };
    ($layer:expr, $call:expr, $may_go_on:path) => {{
        let mut trial = $layer.trial();
        loop {
            match $call.await {
                Ok(value) => {
                    $layer.budget.succeeded();
                    break Ok(value);
                }
                Err(error) => {
                    if !$may_go_on(&error) || !trial.wait(&error).await {
                        break Err(error);
                    }
                }
            }
        }
    }};
}

mod blob;
mod budget;
mod bus;
mod cache;
mod kv;

/// Whether an error may be gone when the same is asked again.
fn may_pass(error: &Error) -> bool {
    is_unknown(error) || error.retry() != Retry::No
}

/// Whether an error says that nothing was done, and may be gone when the same is asked again.
fn is_undone(error: &Error) -> bool {
    !is_unknown(error) && may_pass(error)
}

/// Whether a change that was answered so may have happened.
fn is_unknown(error: &Error) -> bool {
    matches!(error.kind(), Kind::Unavailable | Kind::DeadlineExceeded)
}

/// The attempts of one call.
struct Trial<'a> {
    backoff: Backoff,
    until: tokio::time::Instant,
    budget: &'a Budget,
}

impl Trial<'_> {
    /// Waits before the next attempt; tells whether there shall be one.
    async fn wait(&mut self, error: &Error) -> bool {
        let mut delay = self.backoff.next_delay();
        if let Retry::After(time) = error.retry() {
            delay = delay.max(time);
        }
        let is_late = tokio::time::Instant::now() + delay > self.until;
        if is_late || !self.budget.take() {
            return false;
        }
        tokio::time::sleep(delay).await;
        true
    }
}
