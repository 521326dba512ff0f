use std::time::Duration;

/// How many buckets each doubling of the value is cut into: the error is at most 1/32.
const PER_OCTAVE: u32 = 32;
const BITS: u32 = PER_OCTAVE.trailing_zeros();
/// Values up to 2³⁶ µs, 19 hours; longer ones count as that.
const OCTAVES: u32 = 36 - BITS;
const BUCKETS: usize = (PER_OCTAVE * (OCTAVES + 1)) as usize;

/// Durations counted in logarithmic buckets, exact below 32 µs and within 3 % above: the idea of
/// HdrHistogram (Gil Tene), in the small.
#[derive(Clone)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into(),
            count: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros())
            .unwrap_or(u64::MAX)
            .min((1 << 36) - 1);
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
        self.max = self.max.max(micros);
    }

    /// Adds everything that `other` counted.
    pub fn add(&mut self, other: &Self) {
        for (mine, others) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += others;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest, exactly.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }

    /// The duration that the share `q` (0.99) of all did not exceed; zero when nothing was counted.
    pub fn quantile(&self, q: f64) -> Duration {
        let rank = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(upper_end(index).min(self.max));
            }
        }
        Duration::ZERO
    }
}

/// Below `PER_OCTAVE` each value has its own bucket; above, the highest bits choose.
fn bucket(micros: u64) -> usize {
    let octave = (u64::BITS - micros.leading_zeros()).saturating_sub(BITS + 1);
    let within = micros >> octave;
    (u64::from(octave * PER_OCTAVE) + within) as usize
}

/// The largest value that falls into the bucket.
fn upper_end(index: usize) -> u64 {
    let index = index as u64;
    let per_octave = u64::from(PER_OCTAVE);
    let octave = (index / per_octave).saturating_sub(1);
    let within = index - octave * per_octave;
    ((within + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket_within_a_thirtieth() {
        let mut last = 0;
        for exponent in 0..36 {
            for offset in [0, 1, 7, 1234] {
                let value: u64 = ((1 << exponent) + offset).min((1 << 36) - 1);
                let index = bucket(value);
                let end = upper_end(index);
                assert!(
                    end >= value && (end - value) * 30 <= value.max(30),
                    "{value} {end}"
                );
                assert!(index < BUCKETS);
                last = last.max(index);
            }
        }
        assert!((1..BUCKETS).all(|index| bucket(upper_end(index - 1) + 1) == index));
        assert_eq!(bucket((1 << 36) - 1), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.99), Duration::ZERO);
        let mut half = Histogram::default();
        for millis in 1..=1000 {
            let to = if millis % 2 == 0 {
                &mut histogram
            } else {
                &mut half
            };
            to.record(Duration::from_millis(millis));
        }
        histogram.add(&half);
        for (q, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let got = histogram.quantile(q).as_secs_f64() * 1e3;
            assert!((got - expected).abs() <= expected * 0.033, "{q}: {got}");
        }
        assert_eq!(histogram.quantile(1.0), Duration::from_secs(1));
        assert_eq!(
            (histogram.count(), histogram.max()),
            (1000, Duration::from_secs(1))
        );
    }

    #[test]
    fn what_is_out_of_range_counts_as_the_longest() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::MAX);
        histogram.record(Duration::ZERO);
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        assert_eq!(histogram.max(), Duration::from_micros((1 << 36) - 1));
    }
}
