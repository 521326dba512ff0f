use crate::timer::Millis;

/// How long an instance's answers take: an average that follows a rise at once and forgets it over
/// some seconds (the peak EWMA of Finagle and linkerd).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ewma {
    /// Microseconds; 0 when nothing is known.
    micros: f64,
    at: Millis,
}

/// How long it takes until about two thirds are forgotten.
const FORGETS: f64 = 10_000.0;
/// What one that was never heard of is taken for while it has a request: slower than any other.
const UNKNOWN: f64 = 1e12;

impl Ewma {
    /// An answer came after so long.
    #[must_use]
    pub(crate) fn heard(self, micros: u64, now: Millis) -> Self {
        let new = (micros as f64).max(1.0);
        let kept = self.kept(now);
        let micros = if new > self.micros {
            new
        } else {
            self.micros * kept + new * (1.0 - kept)
        };
        Self { micros, at: now }
    }

    /// What one more request is likely to cost, with so many there. One that nothing is known of gets
    /// one request and no more until it has answered.
    pub(crate) fn cost(self, outstanding: u64, now: Millis) -> f64 {
        if self.micros == 0.0 {
            return if outstanding == 0 { 0.0 } else { UNKNOWN };
        }
        // What was heard long ago fades, so that one that was slow once is asked again.
        let estimate = (self.micros * self.kept(now)).max(1.0);
        estimate * (outstanding + 1) as f64
    }

    fn kept(self, now: Millis) -> f64 {
        (-(now.saturating_sub(self.at) as f64) / FORGETS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_a_peak_at_once_and_forgets_it_slowly() {
        let calm = (0..100).fold(Ewma::default(), |ewma, now| ewma.heard(1_000, now));
        assert!((calm.cost(0, 100) - 1_000.0).abs() < 20.0);
        let peak = calm.heard(50_000, 100);
        assert_eq!(peak.cost(0, 100), 50_000.0);
        assert_eq!(peak.cost(3, 100), 200_000.0);
        let soon = peak.heard(1_000, 1_100).cost(0, 1_100);
        assert!((40_000.0..50_000.0).contains(&soon), "{soon}");
        assert!(peak.cost(0, 60_000) < 1_000.0);
    }

    #[test]
    fn one_that_is_unknown_gets_one_request() {
        assert!(Ewma::default().cost(0, 5) < Ewma::default().heard(1, 0).cost(0, 5));
        assert!(Ewma::default().cost(1, 5) > Ewma::default().heard(60_000_000, 0).cost(99, 5));
    }
}
