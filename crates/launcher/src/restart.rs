use std::time::Duration;

use sinew_core::Backoff;

/// When a service that ended by itself is started again.
#[derive(Clone, Debug)]
pub struct RestartPolicy {
    /// About the first delay. Delays double from here, with jitter.
    pub base: Duration,
    /// The longest delay.
    pub cap: Duration,
    /// A process that ran this long was stable: the next delay is short again.
    pub stable_after: Duration,
    /// After this many ends in a row, none of them stable, it stays down. `None`: never give up.
    pub give_up_after: Option<u32>,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(200),
            cap: Duration::from_secs(10),
            stable_after: Duration::from_secs(10),
            give_up_after: None,
        }
    }
}

/// The policy applied to one instance. No clock, no process: only the decision.
pub(crate) struct Restarts {
    policy: RestartPolicy,
    backoff: Backoff,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Restart { after: Duration, attempt: u32 },
    GiveUp,
}

impl Restarts {
    pub(crate) fn new(policy: RestartPolicy) -> Self {
        let backoff = Backoff::new(policy.base, policy.cap);
        Self { policy, backoff }
    }

    /// What to do with an instance that ended by itself after `ran`.
    pub(crate) fn ended(&mut self, ran: Duration) -> Decision {
        if ran >= self.policy.stable_after {
            self.backoff.reset();
        }
        if self
            .policy
            .give_up_after
            .is_some_and(|limit| self.backoff.attempts() + 1 >= limit)
        {
            return Decision::GiveUp;
        }
        let after = self.backoff.next_delay();
        Decision::Restart {
            after,
            attempt: self.backoff.attempts(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        base: Duration::from_millis(100),
        cap: Duration::from_secs(1),
        stable_after: Duration::from_secs(5),
        give_up_after: Some(4),
    };

    fn attempt(decision: &Decision) -> u32 {
        match decision {
            Decision::Restart { attempt, after } => {
                assert!(*after <= POLICY.cap && *after > Duration::ZERO);
                *attempt
            }
            Decision::GiveUp => panic!("gave up"),
        }
    }

    #[test]
    fn a_crash_loop_ends() {
        let mut restarts = Restarts::new(POLICY);
        for n in 1..=3 {
            assert_eq!(attempt(&restarts.ended(Duration::from_millis(10))), n);
        }
        assert_eq!(restarts.ended(Duration::from_millis(10)), Decision::GiveUp);
    }

    #[test]
    fn a_stable_run_starts_the_count_anew() {
        let mut restarts = Restarts::new(POLICY);
        for _ in 0..20 {
            assert_eq!(attempt(&restarts.ended(Duration::from_secs(6))), 1);
        }
    }

    #[test]
    fn without_a_limit_it_never_gives_up() {
        let mut restarts = Restarts::new(RestartPolicy {
            give_up_after: None,
            ..POLICY
        });
        for n in 1..=1000 {
            assert_eq!(attempt(&restarts.ended(Duration::ZERO)), n);
        }
    }
}
